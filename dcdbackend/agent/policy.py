"""How host U answers: tables of policies for offers and for release requests, and of rules to break on purpose.

A policy turns what arrived into steps: the mailbox commands to send, in order. It sees the offer (or the request)
and what the host holds, and nothing of the device. A *break* takes the steps of the policy and adds a command that
breaks the clause it is named after; where the device refuses that command, as it should, the policy's own steps
follow, so the run goes on. The judge knows of neither.

Adding a policy or a break is one function and one row. Parameters come from the controller and are checked here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import AskedWrongly
from ..extents import EMPTY, Extent, ExtentSet
from ..wire.dcd import CapacityResponse

Range = tuple[int, int]
Ranges = tuple[Range, ...]
Parameters = dict[str, Any]

MORE = 1
"""Flag of an answer: another one for the same chain follows (CXL r3.1 8.2.9.9.9.3)."""
MAX_DELAY_S = 3600.0
_MOST_NEWS = 256


class Step(NamedTuple):
    """One command to send: `f` is "answer" or "give_back"; ranges are (DPA, length) in bytes.

    payload: bytes to send in place of ranges and flags. after_s: wait so long first. unless: index of an earlier
    step; where that one succeeded, this one is not sent.
    """

    f: str
    ranges: Ranges = ()
    flags: int = 0
    payload: bytes | None = None
    after_s: float = 0.0
    unless: int | None = None

    def to_bytes(self) -> bytes:
        """The payload of its command. Errors: AskedWrongly."""
        if self.payload is not None:
            return self.payload
        return CapacityResponse.build(self.ranges, self.flags)


class Region(NamedTuple):
    """Where blocks are: bytes."""

    base: int
    length: int
    block_size: int


class Hands:
    """What the host holds, by its own account, and what it was offered and has not answered.

    `most`: ranges that fit one command. `aside`: steps that a break holds back. The account is written down as things
    happen and made up when somebody looks: an answer does not wait for it.
    """

    def __init__(self, regions: tuple[Region, ...], most: int) -> None:
        self.regions = regions
        self.most = most
        self.aside: tuple[Step, ...] = ()
        self._held: ExtentSet = EMPTY
        self._offered: ExtentSet = EMPTY
        self._news: list[tuple[bool | None, bool | None, Ranges]] = []

    def offer(self, ranges: Ranges) -> None:
        """These are offered now."""
        self._heard(None, True, ranges)

    def settled(self, ranges: Ranges) -> None:
        """The offer of these was answered, one way or another."""
        self._heard(None, False, ranges)

    def took(self, ranges: Ranges) -> None:
        """An answer named these and succeeded."""
        self._heard(True, False, ranges)

    def gave(self, ranges: Ranges) -> None:
        """These were given back, or taken."""
        self._heard(False, None, ranges)

    @property
    def held(self) -> ExtentSet:
        """What is accepted."""
        self._make_up()
        return self._held

    @property
    def offered(self) -> ExtentSet:
        """What is offered and not answered."""
        self._make_up()
        return self._offered

    def _heard(self, held: bool | None, offered: bool | None, ranges: Ranges) -> None:
        self._news.append((held, offered, ranges))
        if len(self._news) >= _MOST_NEWS:
            self._make_up()

    def _make_up(self) -> None:
        for held, offered, ranges in self._news:
            for start, length in ranges:
                if held is not None:
                    self._held = _with(self._held, held, start, length)
                if offered is not None:
                    self._offered = _with(self._offered, offered, start, length)
        self._news.clear()

    def parts_held(self, start: int, length: int) -> Ranges:
        """What of a range is held: the range itself where all of it is, else the pieces."""
        if self.held.covers(start, length):
            return ((start, length),)
        return tuple(
            (max(start, extent.start), min(start + length, extent.end) - max(start, extent.start))
            for extent in self.held.intersecting(start, length)
        )

    def free_block(self) -> Range | None:
        """A block that is neither held nor offered, the last one there is; None when there is none."""
        for region in reversed(self.regions):
            start = region.base + region.length
            while start > region.base:
                start -= region.block_size
                if not self.held.overlaps(start, region.block_size) and not self.offered.overlaps(
                    start, region.block_size
                ):
                    return (start, region.block_size)
        return None

    def block_size(self, address: int) -> int:
        """The block size of the region at an address; that of the first region outside all of them."""
        for region in self.regions:
            if region.base <= address < region.base + region.length:
                return region.block_size
        return self.regions[0].block_size


def _with(extents: ExtentSet, there: bool, start: int, length: int) -> ExtentSet:
    """The set with a range in it, or without it; a range of no length changes nothing."""
    if length <= 0:
        return extents
    without = extents.discard_range(start, length)
    return without.add(Extent(start, length)) if there else without


# -- parameters --------------------------------------------------------------------------------------------------------

Check = Callable[[object], bool]


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 64


def _positive(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 64


def _seconds(value: object) -> bool:
    return type(value) in (int, float) and 0 <= float(value) <= MAX_DELAY_S  # type: ignore[arg-type]


def _indices(value: object) -> bool:
    return isinstance(value, list) and len(value) <= 512 and all(map(_whole, value))


def _parts(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 512
        and all(isinstance(part, list) and len(part) == 3 and all(map(_whole, part)) for part in value)
    )


def _policy(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("kind"), str)


_SHAPES: dict[Check, str] = {
    _whole: "a whole number",
    _positive: "a whole number above 0",
    _seconds: f"seconds from 0 to {MAX_DELAY_S:g}",
    _indices: "a list of indices",
    _parts: "a list of [index, offset_bytes, length_bytes]",
    _policy: "a policy: an object with its kind",
}


# -- offers ------------------------------------------------------------------------------------------------------------


def _answer(ranges: Ranges, most: int) -> tuple[Step, ...]:
    """One answer, or as many as the payload asks for, with More on all but the last."""
    if len(ranges) <= most:
        return (Step("answer", ranges),)
    pages = [ranges[at : at + most] for at in range(0, len(ranges), most)]
    return tuple(Step("answer", page, MORE if page is not pages[-1] else 0) for page in pages)


def _accept(offer: Ranges, hands: Hands, parameters: Parameters) -> tuple[Step, ...]:
    return _answer(offer, hands.most)


def _refuse(offer: Ranges, hands: Hands, parameters: Parameters) -> tuple[Step, ...]:
    return (Step("answer"),)


def _subset(offer: Ranges, hands: Hands, parameters: Parameters) -> tuple[Step, ...]:
    if "parts" in parameters:
        parts = [part for part in parameters["parts"] if part[0] < len(offer)]
        return _answer(tuple((offer[index][0] + at, length) for index, at, length in parts), hands.most)
    kept = [offer[index] for index in parameters.get("keep", range(len(offer))) if index < len(offer)]
    if "first_bytes" in parameters:
        kept = [(start, min(length, parameters["first_bytes"])) for start, length in kept]
    if "last_bytes" in parameters:
        kept = [
            (start + length - min(length, parameters["last_bytes"]), min(length, parameters["last_bytes"]))
            for start, length in kept
        ]
    return _answer(tuple(kept), hands.most)


def _never(offer: Ranges, hands: Hands, parameters: Parameters) -> tuple[Step, ...]:
    return ()


def _reverse(offer: Ranges, hands: Hands, parameters: Parameters) -> tuple[Step, ...]:
    return _answer(offer[::-1], hands.most)


def _several(offer: Ranges, hands: Hands, parameters: Parameters) -> tuple[Step, ...]:
    return _answer(offer, min(hands.most, parameters.get("each", 1))) if offer else _refuse(offer, hands, {})


def _late_answer(offer: Ranges, hands: Hands, parameters: Parameters) -> tuple[Step, ...]:
    return _delayed(ADD, offer, hands, parameters, {"kind": "accept"})


# -- release requests --------------------------------------------------------------------------------------------------


def _give_back(ranges: Ranges, hands: Hands) -> tuple[Step, ...]:
    """As many releases as the payload asks for; none for no ranges (4803h without ranges is an error)."""
    return tuple(Step("give_back", ranges[at : at + hands.most]) for at in range(0, len(ranges), hands.most))


def _release(asked: Ranges, hands: Hands, parameters: Parameters) -> tuple[Step, ...]:
    return _give_back(tuple(part for start, length in asked for part in hands.parts_held(start, length)), hands)


def _decline(asked: Ranges, hands: Hands, parameters: Parameters) -> tuple[Step, ...]:
    return ()


def _part(asked: Ranges, hands: Hands, parameters: Parameters) -> tuple[Step, ...]:
    offset = parameters.get("offset_bytes", 0)
    length = parameters.get("length_bytes", parameters.get("first_bytes"))
    ranges: list[Range] = []
    for start, size in asked:
        end = size if length is None else min(size, offset + length)
        if end > offset:
            ranges += hands.parts_held(start + offset, end - offset)
    return _give_back(tuple(ranges), hands)


def _late_release(asked: Ranges, hands: Hands, parameters: Parameters) -> tuple[Step, ...]:
    return _delayed(RELEASE, asked, hands, parameters, {"kind": "release"})


# -- the tables --------------------------------------------------------------------------------------------------------

Decide = Callable[[Ranges, Hands, Parameters], tuple[Step, ...]]


class Row(NamedTuple):
    """A policy: what it does, which parameters it takes, and the function."""

    text: str
    parameters: dict[str, Check]
    decide: Decide


ADD: dict[str, Row] = {
    "accept": Row("take all that is offered", {}, _accept),
    "refuse": Row("an answer of no ranges", {}, _refuse),
    "subset": Row(
        "take some extents (keep), of each its first or last bytes, or the parts listed",
        {"keep": _indices, "first_bytes": _positive, "last_bytes": _positive, "parts": _parts},
        _subset,
    ),
    "late": Row("as the policy in `then`, after a delay", {"delay_s": _seconds, "then": _policy}, _late_answer),
    "never": Row("no answer at all", {}, _never),
    "reverse": Row("take all, ranges in reverse order (this breaks DEV-6.order)", {}, _reverse),
    "several": Row("take all in answers of `each` ranges, More on all but the last", {"each": _positive}, _several),
}
"""What host U may do with an offer. The ranges are the chain's, in its order."""

RELEASE: dict[str, Row] = {
    "release": Row("give back what is asked, as far as it is held", {}, _release),
    "decline": Row("leave the request unheeded", {}, _decline),
    "part": Row(
        "give back a part of each range asked: from offset_bytes on, length_bytes (or first_bytes) long",
        {"first_bytes": _positive, "offset_bytes": _whole, "length_bytes": _positive},
        _part,
    ),
    "late": Row("as the policy in `then`, after a delay", {"delay_s": _seconds, "then": _policy}, _late_release),
}
"""What host U may do with a release request. The ranges are those of the request's records."""


class Policy(NamedTuple):
    """A row with its parameters, checked."""

    kind: str
    parameters: Parameters
    decide: Decide

    def steps(self, ranges: Ranges, hands: Hands) -> tuple[Step, ...]:
        """What to send for these ranges."""
        return self.decide(ranges, hands, self.parameters)


def choose(table: dict[str, Row], asked: object, what: str) -> Policy:
    """The policy that `asked` names, {"kind": ..., parameters}. Errors: AskedWrongly."""
    kind = asked.get("kind") if isinstance(asked, dict) else None
    row = table.get(kind) if isinstance(kind, str) else None
    if row is None or not isinstance(asked, dict):
        raise AskedWrongly(f"{what} policy {str(asked)[:80]}; the kinds are {', '.join(table)}")
    parameters = {key: value for key, value in asked.items() if key != "kind"}
    for key, value in parameters.items():
        check = row.parameters.get(key)
        if check is None:
            raise AskedWrongly(f"policy {kind!r} has no {key!r}; it takes {', '.join(row.parameters) or 'nothing'}")
        if not check(value):
            raise AskedWrongly(f"policy {kind!r}: {key} is {str(value)[:80]}; give {_SHAPES[check]}")
    if "then" in parameters:
        if parameters["then"]["kind"] == "late":
            raise AskedWrongly("policy 'late' in a 'late'; add the delays")
        choose(table, parameters["then"], what)
    return Policy(str(kind), parameters, row.decide)


def _delayed(
    table: dict[str, Row], ranges: Ranges, hands: Hands, parameters: Parameters, then: Parameters
) -> tuple[Step, ...]:
    policy = choose(table, parameters.get("then", then), "later")
    first, *rest = policy.steps(ranges, hands) or (None,)
    return () if first is None else (first._replace(after_s=float(parameters.get("delay_s", 1.0))), *rest)


# -- breaks ------------------------------------------------------------------------------------------------------------

Apply = Callable[[tuple[Step, ...], Ranges, Hands], tuple[Step, ...] | None]


class Break(NamedTuple):
    """How to break a clause: `add` on an offer, `release` on a request; None from either: it cannot be broken now."""

    text: str
    add: Apply | None = None
    release: Apply | None = None


def _first(bad: Step, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The bad command, then what the policy says if the device refused it."""
    return (bad, *[step._replace(unless=0) for step in steps])


def _before(bad: Step, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    return (bad, *steps)


def _named(steps: tuple[Step, ...]) -> Ranges:
    return tuple(pair for step in steps for pair in step.ranges)


def _never_offered(steps: tuple[Step, ...], offer: Ranges, hands: Hands) -> tuple[Step, ...] | None:
    free = hands.free_block()
    return None if free is None else _first(Step("answer", (*_named(steps), free)[-hands.most :]), steps)


def _later_chain(steps: tuple[Step, ...], offer: Ranges, hands: Hands) -> tuple[Step, ...] | None:
    if not hands.aside:
        hands.aside = steps
        return ()
    older, hands.aside = hands.aside, ()
    return (*steps, *older, *[step._replace(unless=0) for step in steps])


def _out_of_order(steps: tuple[Step, ...], offer: Ranges, hands: Hands) -> tuple[Step, ...] | None:
    ranges = _named(steps)
    if len(ranges) == 1:
        (start, length), block = ranges[0], hands.block_size(ranges[0][0])
        ranges = ((start, block), (start + block, length - block)) if length > block else ()
    return None if len(ranges) < 2 else _first(Step("answer", ranges[::-1]), steps)


def _held_already(steps: tuple[Step, ...], offer: Ranges, hands: Hands) -> tuple[Step, ...] | None:
    held = next(iter(hands.held), None)
    if held is None:
        return None
    block = (held.start, hands.block_size(held.start))
    return _first(Step("answer", (*_named(steps), block)[-hands.most :]), steps)


def _twice(f: str) -> Apply:
    def apply(steps: tuple[Step, ...], offer: Ranges, hands: Hands) -> tuple[Step, ...] | None:
        ranges = _named(steps) or offer
        return None if not ranges else _first(Step(f, (ranges[0], ranges[0])), steps)

    return apply


def _half_a_block(f: str) -> Apply:
    def apply(steps: tuple[Step, ...], offer: Ranges, hands: Hands) -> tuple[Step, ...] | None:
        ranges = _named(steps) or offer
        if not ranges:
            return None
        start = ranges[0][0]
        return _first(Step(f, ((start, hands.block_size(start) // 2),)), steps)

    return apply


def _not_held(steps: tuple[Step, ...], ranges: Ranges, hands: Hands) -> tuple[Step, ...] | None:
    free = hands.free_block()
    return None if free is None else _before(Step("give_back", (free,)), steps)


def _not_held_after(steps: tuple[Step, ...], ranges: Ranges, hands: Hands) -> tuple[Step, ...] | None:
    free = hands.free_block()
    return None if free is None else (*steps, Step("give_back", (free,)))


def _while_pending(steps: tuple[Step, ...], offer: Ranges, hands: Hands) -> tuple[Step, ...] | None:
    return None if not offer else _before(Step("give_back", offer[:1]), steps)


def _of_nothing(steps: tuple[Step, ...], ranges: Ranges, hands: Hands) -> tuple[Step, ...] | None:
    return _before(Step("give_back"), steps)


def _short(f: str) -> Apply:
    def apply(steps: tuple[Step, ...], ranges: Ranges, hands: Hands) -> tuple[Step, ...] | None:
        whole = CapacityResponse(ranges=(_named(steps) or ranges)[:1]).to_bytes()
        return _before(Step(f, payload=(2).to_bytes(4, "little") + whole[4:]), steps)

    return apply


BREAKS: dict[str, Break] = {
    "DEV-6.inside": Break("an answer that names a block never offered", add=_never_offered),
    "DEV-6.oldest": Break("the second chain is answered before the first", add=_later_chain),
    "DEV-6.order": Break("an answer with its ranges in reverse order", add=_out_of_order),
    "DEV-6.accepted": Break("an answer that names a block held already", add=_held_already),
    "DEV-6.disjoint": Break("an answer that names a range twice", add=_twice("answer")),
    "DEV-6.aligned": Break("an answer that names half a block", add=_half_a_block("answer")),
    "DEV-7.held": Break("a release of a block never held", add=_not_held_after, release=_not_held),
    "DEV-7.pending": Break("a release of what is still offered", add=_while_pending),
    "DEV-7.disjoint": Break("a release that names a range twice", release=_twice("give_back")),
    "DEV-7.aligned": Break("a release of half a block", release=_half_a_block("give_back")),
    "DEV-7.some": Break("a release of no ranges", add=_of_nothing, release=_of_nothing),
    "DEV-8.16h": Break("a payload shorter than its count", add=_short("answer"), release=_short("give_back")),
}
"""Rules that host U breaks when told to, by clause."""

_RULES = {"DEV-6": "DEV-6.inside", "DEV-7": "DEV-7.held", "DEV-8": "DEV-8.16h"}


def choose_break(asked: object) -> tuple[str, Break] | None:
    """The break of that clause (or of the rule's first clause); None for None. Errors: AskedWrongly."""
    if asked is None:
        return None
    clause = _RULES.get(asked, asked) if isinstance(asked, str) else ""
    found = BREAKS.get(clause)
    if found is None:
        raise AskedWrongly(f"break {asked!r}; host U can break {', '.join(BREAKS)}")
    return clause, found
