"""What a host may do, as a set: commands that must come, may come, may not; one of them chosen, or a given one tested.

A set of permitted answers can be huge (any order, any survivors of a clash), so it is never listed. `Expected` tells
what a command must name, what it may and in which order; `choose` makes one such command by a seed, `hold` tests
commands that were seen. Nothing here knows a rule: `sparse_dax` and `tagged` fill it in, with the clause of each part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import AskedWrongly
from ..extents import Extent
from .quirks import QUIRKS
from .state import Violation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .host import Host

Range = tuple[int, int]

MORE = 1
"""Flag of an answer: another one for the same chain follows (CXL r3.1 8.2.9.9.9.3)."""
MASK = (1 << 64) - 1


class Command(NamedTuple):
    """A mailbox command: f is "answer" (4802h), "give_back" (4803h), "events" (0100h), "clear" (0101h) or "extents".

    payload: bytes to send in place of ranges and flags; after_ns: wait so long first; unless: index of an earlier
    command of the same decision: where that one succeeded, this one is not sent. The last three are host U's.
    """

    f: str
    memdev: str = ""
    ranges: tuple[Range, ...] = ()
    flags: int = 0
    handles: tuple[int, ...] = ()
    asked: int = 0
    start: int = 0
    payload: bytes | None = None
    after_ns: int = 0
    unless: int | None = None


class Expected(NamedTuple):
    """A command that must come, as a set. An answer may go out as several with More.

    ranges: what it must name, in this order if `order` names a clause for that. clashing: members of the chain that
    overlap each other, of which a part is named (`clash` tells which parts can be). clause: broken when the command
    does not come or lacks a range. refused: what it may not name, and the clause of each. other: the clause broken by
    a range that nobody offered. pages: by an answer in several that need not be.
    """

    f: str
    memdev: str
    clause: str
    ranges: tuple[Range, ...] = ()
    order: str = ""
    clashing: tuple[Range, ...] = ()
    refused: tuple[tuple[Range, str], ...] = ()
    other: str = "L1.only"
    pages: str = ""
    most: int = 1
    handles: tuple[int, ...] = ()
    asked: int = 0
    start: int = 0


class Dropped(NamedTuple):
    """An extent that a gate refused."""

    memdev: str
    extent: Extent
    clause: str


class Decision(NamedTuple):
    """One way that the rules permit. `after`: the state then, where `plan` has nothing that clashes (else `settle`).

    judged: the clauses that decided it. silent: (f, clause): no such command may come, by that clause, beyond the
    plan. acts: what happens inside, in order: (what, to what). error: what the file or the log says ("-EBUSY"), or "".
    quirks: ids of the departures that made a difference.
    """

    after: Host
    plan: tuple[Expected, ...] = ()
    judged: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    silent: tuple[tuple[str, str], ...] = ()
    acts: tuple[tuple[str, str], ...] = ()
    error: str = ""
    quirks: tuple[str, ...] = ()


Permitted = tuple[Decision, ...]
"""The alternatives, at least one; several only where a timer may or may not have fired."""


def answers(commands: Sequence[Command]) -> tuple[tuple[Range, ...], ...]:
    """The ranges of each answer, one that went out as several put together."""
    found: list[tuple[Range, ...]] = []
    open_ranges: tuple[Range, ...] = ()
    for command in commands:
        if command.f == "answer":
            open_ranges += command.ranges
            if not command.flags & MORE:
                found.append(open_ranges)
                open_ranges = ()
    return tuple(found)


# ---- one of the ways: a simulated host ------------------------------------------------------------------------------


def mix(seed: int, at: int) -> int:
    """A number below 2**64 that depends on both and on nothing else (the finalizer of splitmix64)."""
    value = (seed + (at + 1) * 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & MASK
    return value ^ value >> 31


def choose(permitted: Permitted, seed: int) -> tuple[Decision, tuple[Command, ...]]:
    """One alternative and its commands: the same for the same seed, any for some seed."""
    way = permitted[mix(seed, 0) % len(permitted)]
    commands: list[Command] = []
    for at, expected in enumerate(way.plan):
        commands += _chosen(expected, mix(seed, at + 1))
    return way, tuple(commands)


def _chosen(expected: Expected, seed: int) -> tuple[Command, ...]:
    if expected.f != "answer":
        return (
            Command(
                expected.f,
                expected.memdev,
                expected.ranges,
                handles=expected.handles,
                asked=expected.asked,
                start=expected.start,
            ),
        )
    ranges = list(expected.ranges)
    if not expected.order:
        everyone = [*ranges, *expected.clashing]
        everyone = [pair for _, pair in sorted([(mix(seed, at), pair) for at, pair in enumerate(everyone)])]
        survivors = clash([pair for pair in everyone if pair in expected.clashing])
        ranges = [pair for pair in everyone if pair in survivors or pair not in expected.clashing]
    pages = [tuple(ranges[at : at + expected.most]) for at in range(0, len(ranges), expected.most)] or [()]
    return tuple(
        [
            Command("answer", expected.memdev, page, flags=MORE if at < len(pages) - 1 else 0)
            for at, page in enumerate(pages)
        ]
    )


def clash(ordered: Sequence[Range]) -> tuple[Range, ...]:
    """Which ranges are taken when they come in this order: one inside a taken one is, one partly over it is not."""
    taken: list[Range] = []
    news: list[Range] = []
    for start, length in ordered:
        inside = any([at <= start and start + length <= at + size for at, size in news])
        if inside or not any([at < start + length and start < at + size for at, size in news]):
            taken.append((start, length))
            if not inside:
                news.append((start, length))
    return tuple(taken)


# ---- a given answer tested against them -----------------------------------------------------------------------------

_SEEN = ("answer", "give_back", "clear", "events", "extents")


def hold(
    permitted: Permitted, commands: Sequence[Command], seen: Sequence[str] = _SEEN
) -> tuple[Decision, tuple[Violation, ...]]:
    """The alternative that the commands fit, and the departures it shows; else the nearest, and what is wrong.

    `seen`: which commands the witness sees at all. Findings with outcome "fail" are breaches.
    """
    best: tuple[Decision, tuple[Violation, ...]] | None = None
    for way in permitted:
        wrong = _compare(way, [command for command in commands if command.f in seen], seen)
        if not wrong:
            return way, departures(way)
        if best is None or len(wrong) < len(best[1]):
            best = (way, wrong)
    if best is None:
        raise AskedWrongly("no alternative was given; decide() gives at least one")
    return best


def departures(way: Decision) -> tuple[Violation, ...]:
    """The known departures that this way shows to some witness, as findings."""
    found = []
    for name in way.quirks:
        quirk = QUIRKS[name]
        if not quirk.visible:
            continue
        text = f"{quirk.code}; documented: {quirk.documented}"
        found.append(Violation(quirk.clause, "host", "departure", text, {}, name))
    return tuple(found)


def breach(clause: str, text: str, **evidence: object) -> Violation:
    """A finding: the host broke a rule."""
    return Violation(clause, "host", "fail", text, evidence)


def _compare(way: Decision, commands: Sequence[Command], seen: Sequence[str]) -> tuple[Violation, ...]:
    wrong: list[Violation] = []
    rest = list(commands)
    plan = [expected for expected in way.plan if expected.f in seen]
    for place, expected in enumerate(plan):
        at = _found(rest, expected)
        if at is None:
            wrong.append(breach(expected.clause, f"{_shown(expected)} did not come", expected=_shown(expected)))
            continue
        wrong += _early(expected, rest[:at], [later.f for later in plan[place + 1 :]])
        wrong += _differences(expected, _take(rest, at))
    for command in rest:
        clause = next((clause for f, clause in way.silent if f == command.f), "L1.only")
        wrong.append(breach(clause, f"{show(command)} came, and nothing asked for it", sent=show(command)))
    return tuple(wrong)


def _found(rest: Sequence[Command], expected: Expected) -> int | None:
    """Where the command that is expected is: the first of its kind, a 4803h with its ranges if there is one."""
    places = [at for at, one in enumerate(rest) if one.f == expected.f and one.memdev == expected.memdev]
    exact = [at for at in places if expected.f == "give_back" and rest[at].ranges == expected.ranges]
    return next(iter(exact or places), None)


def _early(expected: Expected, skipped: Sequence[Command], later: Sequence[str]) -> list[Violation]:
    """What came before the command that was due, and is due after it."""
    if expected.f not in ("answer", "give_back"):
        return []
    if any([command.f == "clear" for command in skipped]):
        return [breach("L1.before-clear", "records were cleared before they were answered")]
    first = next((command for command in skipped if command.f in later), None)
    if first is None:
        return []
    return [breach(expected.order or expected.clause, f"{show(first)} came before {_shown(expected)}")]


def _take(rest: list[Command], at: int) -> list[Command]:
    """Take the command at a place, and what belongs to the same answer, out of the rest."""
    group = [rest.pop(at)]
    while group[-1].f == "answer" and group[-1].flags & MORE and at < len(rest) and rest[at].f == "answer":
        group.append(rest.pop(at))
    return group


def _differences(expected: Expected, group: Sequence[Command]) -> list[Violation]:
    """What is wrong with the commands that stand for an expected one."""
    if expected.f == "clear":
        handles = tuple([handle for command in group for handle in command.handles])
        if handles == expected.handles:
            return []
        return [breach("L1.clears", f"cleared {list(handles)}, read {list(expected.handles)}")]
    if expected.f in ("extents", "events"):
        if (group[0].start, group[0].asked) == (expected.start, expected.asked):
            return []
        return [breach(expected.clause, f"{show(group[0])} where {_shown(expected)} was due")]
    named = tuple([pair for command in group for pair in command.ranges])
    wrong = [
        breach(clause, f"{_pair(pair)} was named, which had to be left out", sent=[show(one) for one in group])
        for pair, clause in expected.refused
        if pair in named
    ]
    refused = {pair for pair, _ in expected.refused}
    wrong += [
        breach(expected.clause, f"{_pair(pair)} was not named", sent=[show(one) for one in group])
        for pair in expected.ranges
        if pair not in named
    ]
    permitted = {*expected.ranges, *expected.clashing, *refused}
    wrong += [
        breach(expected.other, f"{_pair(pair)} was named, and nobody offered it", sent=[show(one) for one in group])
        for pair in dict.fromkeys(named)
        if pair not in permitted
    ]
    if wrong:
        return wrong
    if expected.order and named != expected.ranges:
        text = f"named {_pairs(named)}, in the order due {_pairs(expected.ranges)}"
        return [breach(expected.order, text)]
    if expected.clashing and not _clash_holds(expected.clashing, named):
        return [breach(expected.clause, f"of {_pairs(expected.clashing)}, which overlap, {_pairs(named)} were named")]
    if expected.pages and any([len(command.ranges) > expected.most for command in group]):
        return [breach(expected.pages, f"an answer of more than {expected.most} ranges")]
    return []


def _clash_holds(clashing: Sequence[Range], named: Sequence[Range]) -> bool:
    """Whether some order of the ranges that overlap each other takes just those that were named."""
    taken = [pair for pair in clashing if pair in named]
    news = [pair for pair in taken if not any([_inside(pair, other) and pair != other for other in taken])]
    news = list(dict.fromkeys(news))
    for at, pair in enumerate(news):
        if any([_overlap(pair, other) for other in news[at + 1 :]]):
            return False
    return all(
        [
            any([_overlap(pair, new) for new in news]) and not any([_inside(pair, new) for new in news])
            for pair in clashing
            if pair not in taken
        ]
    )


def _inside(one: Range, other: Range) -> bool:
    return other[0] <= one[0] and one[0] + one[1] <= other[0] + other[1]


def _overlap(one: Range, other: Range) -> bool:
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]


def contains(start: int, length: int, inner_start: int, inner_length: int) -> bool:
    """range_contains() as the kernel counts: in 64 bits, ends inclusive, so that it is blind for what wraps."""
    end = (start + length - 1) & MASK
    return start <= inner_start and ((inner_start + inner_length - 1) & MASK) <= end


def overlaps(start: int, length: int, other_start: int, other_length: int) -> bool:
    """range_overlaps() as the kernel counts."""
    end = (start + length - 1) & MASK
    return start <= ((other_start + other_length - 1) & MASK) and other_start <= end


# ---- readable forms -------------------------------------------------------------------------------------------------


def _pair(pair: Range) -> str:
    return str(Extent(pair[0], pair[1]))


def _pairs(pairs: Sequence[Range]) -> str:
    return " ".join([_pair(pair) for pair in pairs]) or "nothing"


def show(command: Command) -> str:
    """A command in a line: `answer mem0 [0x0+128M]`."""
    if command.f == "clear":
        return f"clear {command.memdev} {' '.join([str(handle) for handle in command.handles])}"
    if command.f == "events":
        return f"events {command.memdev}"
    if command.f == "extents":
        return f"extents {command.memdev} from {command.start}, {command.asked}"
    more = " more" if command.flags & MORE else ""
    return f"{command.f} {command.memdev} {_pairs(command.ranges)}{more}"


def _shown(expected: Expected) -> str:
    ranges = (*expected.ranges, *expected.clashing)
    return show(
        Command(
            expected.f,
            expected.memdev,
            ranges,
            handles=expected.handles,
            asked=expected.asked,
            start=expected.start,
        )
    )
