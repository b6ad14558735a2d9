"""Host U, our own userspace host: it decides what is answered, by a policy that the script chose; the agent executes.

    user, commands = turn(user, event)       # a record of log 4 in, the commands to send out, in order
    user = ended(user, command, succeeded)   # for each that was sent (one whose `unless` succeeded is not sent)
    user = settled(user)                     # the commands are through

It takes every offer as the policy says and obeys the DEV rules unless told to break one. A *break* puts a command that
breaks its clause before the policy's own; where the device refuses that one, as it should, the others follow, so the
run goes on. It sees the offer and what it holds, and nothing of the device. It sends nothing, waits for nothing and
reads no log: a delay is a number in the command.

Ranges are (DPA, length) in bytes. Adding a policy or a break is one function and one row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import AskedWrongly
from ..extents import EMPTY, Extent, ExtentSet
from .permitted import MORE, Command, Range
from .state import ADD, FORCED, RELEASE

if TYPE_CHECKING:
    from .host import Event

Ranges = tuple[Range, ...]
Parameters = dict[str, Any]

MAX_DELAY_S = 3600.0
MAX_ITEMS = 512
_SECOND = 1_000_000_000


class Blocks(NamedTuple):
    """A DC region as far as U cares: where it is, and its block size."""

    base: int
    length: int
    block_size: int


class Policy(NamedTuple):
    """A row of `ADDS` or `RELEASES` with its parameters, checked."""

    kind: str
    parameters: Parameters = {}  # noqa: RUF012  nobody changes it


class User(NamedTuple):
    """Host U on one device. `most`: ranges that fit one command. `open`: the chain whose answer is being sent.

    `held` and `offered` are by its own account. `aside`: commands that a break holds back.
    """

    memdev: str
    blocks: tuple[Blocks, ...]
    most: int = 85
    add: Policy = Policy("accept")
    release: Policy = Policy("release")
    breaks: str = ""
    held: ExtentSet = EMPTY
    offered: ExtentSet = EMPTY
    staged: Ranges = ()
    requested: Ranges = ()
    open: Ranges = ()
    aside: tuple[Command, ...] = ()

    def parts_held(self, start: int, length: int) -> Ranges:
        """What of a range is held: the range itself where all of it is, else the pieces."""
        if self.held.covers(start, length):
            return ((start, length),)
        end = start + length
        return tuple(
            [
                (max(start, extent.start), min(end, extent.end) - max(start, extent.start))
                for extent in self.held.intersecting(start, length)
            ]
        )

    def free_block(self) -> Range | None:
        """A block that is neither held nor offered, the last one there is; None when there is none."""
        for region in reversed(self.blocks):
            size = region.block_size
            for start in range(region.base + region.length - size, region.base - 1, -size):
                if not self.held.overlaps(start, size) and not self.offered.overlaps(start, size):
                    return (start, size)
        return None

    def block_size(self, address: int) -> int:
        """The block size of the region at an address; that of the first region outside all of them."""
        for region in self.blocks:
            if region.base <= address < region.base + region.length:
                return region.block_size
        return self.blocks[0].block_size


def follow(user: User, add: object, release: object, breaks: object) -> User:
    """The host with these policies from the next chain on. Errors: AskedWrongly."""
    name = check_break(breaks)
    return user._replace(
        add=check_policy(ADDS, add, "add"),
        release=check_policy(RELEASES, release, "release"),
        breaks=name,
        aside=user.aside if name else (),
    )


# ---- what comes in --------------------------------------------------------------------------------------------------


def turn(user: User, event: Event) -> tuple[User, tuple[Command, ...]]:
    """One record: staged until its chain closes, then answered. Types 2 and up are never answered (L5)."""
    pair = (event.start, event.length)
    if not event.known or event.type not in (ADD, RELEASE, FORCED):
        return user, ()
    if event.type == FORCED:
        return _without(user, (pair,)), ()
    if event.type == RELEASE:
        requested = (*user.requested, pair)
        if event.more:
            return user._replace(requested=requested), ()
        user = user._replace(requested=())
        steps = RELEASES[user.release.kind].decide(user, requested, user.release.parameters)
        return _broken(user, RELEASE, steps, requested)
    staged = (*user.staged, pair)
    if event.more:
        return user._replace(staged=staged), ()
    user = _offer(user._replace(staged=(), open=staged), staged)
    return _broken(user, ADD, ADDS[user.add.kind].decide(user, staged, user.add.parameters), staged)


def ended(user: User, command: Command, succeeded: bool) -> User:
    """The account after a command came back, whoever asked for it."""
    if not succeeded:
        return user
    if command.f == "give_back":
        return _without(user, command.ranges)
    if command.f != "answer":
        return user
    held, offered = user.held, user.offered
    for start, length in command.ranges:
        if length > 0:
            held = held.discard_range(start, length).add(Extent(start, length))
            offered = offered.discard_range(start, length)
    return user._replace(held=held, offered=offered)


def settled(user: User) -> User:
    """The account when all commands of a turn are through: what was offered and not taken is nobody's."""
    offered = user.offered
    for start, length in user.open:
        offered = offered.discard_range(start, length)
    return user._replace(offered=offered, open=())


def _offer(user: User, ranges: Ranges) -> User:
    offered = user.offered
    for start, length in ranges:
        if length > 0:
            offered = offered.discard_range(start, length).add(Extent(start, length))
    return user._replace(offered=offered)


def _without(user: User, ranges: Ranges) -> User:
    held = user.held
    for start, length in ranges:
        held = held.discard_range(start, length)
    return user._replace(held=held)


# ---- parameters -----------------------------------------------------------------------------------------------------


def _whole(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 64


def _positive(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 64


def _seconds(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_DELAY_S


def _indices(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MAX_ITEMS and all([_whole(one) for one in value])


def _parts(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_ITEMS
        and all([isinstance(part, list) and len(part) == 3 and all([_whole(one) for one in part]) for part in value])
    )


def _policy(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("kind"), str)


Check = Callable[[object], bool]
_SHAPES: dict[Check, str] = {
    _whole: "a whole number",
    _positive: "a whole number above 0",
    _seconds: f"seconds from 0 to {MAX_DELAY_S:g}",
    _indices: "a list of indices",
    _parts: "a list of [index, offset_bytes, length_bytes]",
    _policy: "a policy: an object with its kind",
}


# ---- offers ---------------------------------------------------------------------------------------------------------


def _answer(user: User, ranges: Ranges, most: int = 0) -> tuple[Command, ...]:
    """One answer, or as many as the payload asks for, with More on all but the last."""
    most = min(user.most, most or user.most)
    pages = [ranges[at : at + most] for at in range(0, len(ranges), most)] or [()]
    last = len(pages) - 1
    return tuple(
        [Command("answer", user.memdev, page, flags=0 if at == last else MORE) for at, page in enumerate(pages)]
    )


def _accept(user: User, offer: Ranges, parameters: Parameters) -> tuple[Command, ...]:
    return _answer(user, offer)


def _refuse(user: User, offer: Ranges, parameters: Parameters) -> tuple[Command, ...]:
    return _answer(user, ())


def _subset(user: User, offer: Ranges, parameters: Parameters) -> tuple[Command, ...]:
    if "parts" in parameters:
        parts = [part for part in parameters["parts"] if part[0] < len(offer)]
        return _answer(user, tuple([(offer[index][0] + at, length) for index, at, length in parts]))
    kept = [offer[index] for index in parameters.get("keep", range(len(offer))) if index < len(offer)]
    if "first_bytes" in parameters:
        kept = [(start, min(length, parameters["first_bytes"])) for start, length in kept]
    if "last_bytes" in parameters:
        most = parameters["last_bytes"]
        kept = [(start + length - min(length, most), min(length, most)) for start, length in kept]
    return _answer(user, tuple(kept))


def _never(user: User, offer: Ranges, parameters: Parameters) -> tuple[Command, ...]:
    return ()


def _reverse(user: User, offer: Ranges, parameters: Parameters) -> tuple[Command, ...]:
    return _answer(user, offer[::-1])


def _several(user: User, offer: Ranges, parameters: Parameters) -> tuple[Command, ...]:
    return _answer(user, offer, parameters.get("each", 1))


def _stray(user: User, offer: Ranges, parameters: Parameters) -> tuple[Command, ...]:
    free = user.free_block()
    return _answer(user, offer if free is None else (*offer, free))


def _return(user: User, offer: Ranges, parameters: Parameters) -> tuple[Command, ...]:
    return (*_answer(user, offer), *_give_back(user, offer))


def _late_answer(user: User, offer: Ranges, parameters: Parameters) -> tuple[Command, ...]:
    return _delayed(ADDS, user, offer, parameters, "accept")


# ---- release requests -----------------------------------------------------------------------------------------------


def _give_back(user: User, ranges: Ranges) -> tuple[Command, ...]:
    """As many releases as the payload asks for; none for no ranges (4803h without ranges is an error)."""
    return tuple(
        [Command("give_back", user.memdev, ranges[at : at + user.most]) for at in range(0, len(ranges), user.most)]
    )


def _release(user: User, asked: Ranges, parameters: Parameters) -> tuple[Command, ...]:
    return _give_back(user, tuple([part for start, length in asked for part in user.parts_held(start, length)]))


def _decline(user: User, asked: Ranges, parameters: Parameters) -> tuple[Command, ...]:
    return ()


def _part(user: User, asked: Ranges, parameters: Parameters) -> tuple[Command, ...]:
    offset = parameters.get("offset_bytes", 0)
    length = parameters.get("length_bytes", parameters.get("first_bytes"))
    ranges: list[Range] = []
    for start, size in asked:
        end = size if length is None else min(size, offset + length)
        if end > offset:
            ranges += user.parts_held(start + offset, end - offset)
    return _give_back(user, tuple(ranges))


def _late_release(user: User, asked: Ranges, parameters: Parameters) -> tuple[Command, ...]:
    return _delayed(RELEASES, user, asked, parameters, "release")


# ---- the tables -----------------------------------------------------------------------------------------------------

Decide = Callable[[User, Ranges, Parameters], tuple[Command, ...]]


class Row(NamedTuple):
    """A policy: what it does, which parameters it takes, and the function."""

    text: str
    parameters: dict[str, Check]
    decide: Decide


ADDS: dict[str, Row] = {
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
    "stray": Row("take all, and a block never offered (this breaks DEV-6.inside)", {}, _stray),
    "return": Row("take all, and release it at once, unasked", {}, _return),
}
"""What host U may do with an offer. The ranges are the chain's, in its order."""

RELEASES: dict[str, Row] = {
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


def check_policy(table: dict[str, Row], asked: object, what: str) -> Policy:
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
        check_policy(table, parameters["then"], what)
    return Policy(str(kind), parameters)


def _delayed(
    table: dict[str, Row], user: User, ranges: Ranges, parameters: Parameters, then: str
) -> tuple[Command, ...]:
    policy = check_policy(table, parameters.get("then", {"kind": then}), "later")
    commands = table[policy.kind].decide(user, ranges, policy.parameters)
    delay_ns = round(parameters.get("delay_s", 1.0) * _SECOND)
    return (commands[0]._replace(after_ns=delay_ns), *commands[1:]) if commands else ()


# ---- breaks ---------------------------------------------------------------------------------------------------------

Apply = Callable[[User, tuple[Command, ...], Ranges], tuple[Command, ...] | None]


class Break(NamedTuple):
    """How to break a clause: `add` on an offer, `release` on a request; None from either: it cannot be broken now."""

    text: str
    add: Apply | None = None
    release: Apply | None = None


def _broken(user: User, kind: int, commands: tuple[Command, ...], ranges: Ranges) -> tuple[User, tuple[Command, ...]]:
    """The commands with the break that is on; the policy's own where it cannot be broken now."""
    if not user.breaks:
        return user, commands
    if user.breaks == "DEV-6.oldest":
        return _later_chain(user, kind, commands)
    found = BREAKS[user.breaks]
    apply = found.add if kind == ADD else found.release
    bad = apply(user, commands, ranges) if apply is not None else None
    return user, commands if bad is None else bad


def can_break(user: User, event: Event) -> bool:
    """Whether the break that is on has a hand in this record's answer, as things stand."""
    after, commands = turn(user, event)
    _, plain = turn(user._replace(breaks=""), event)
    return commands != plain or after.aside != user.aside


def _first(bad: Command, commands: tuple[Command, ...]) -> tuple[Command, ...]:
    """The bad command, then what the policy says if the device refused it."""
    return (bad, *[command._replace(unless=0) for command in commands])


def _named(commands: tuple[Command, ...]) -> Ranges:
    return tuple([pair for command in commands for pair in command.ranges])


def _never_offered(user: User, commands: tuple[Command, ...], offer: Ranges) -> tuple[Command, ...] | None:
    free = user.free_block()
    if free is None:
        return None
    return _first(Command("answer", user.memdev, (*_named(commands), free)[-user.most :]), commands)


def _later_chain(user: User, kind: int, commands: tuple[Command, ...]) -> tuple[User, tuple[Command, ...]]:
    if kind != ADD:
        return user, commands
    if not user.aside:
        return user._replace(aside=commands), ()
    again = [command._replace(unless=0) for command in commands]
    return user._replace(aside=()), (*commands, *user.aside, *again)


def _out_of_order(user: User, commands: tuple[Command, ...], offer: Ranges) -> tuple[Command, ...] | None:
    ranges = _named(commands)
    if len(ranges) == 1:
        (start, length), block = ranges[0], user.block_size(ranges[0][0])
        ranges = ((start, block), (start + block, length - block)) if length > block else ()
    if len(ranges) < 2:
        return None
    return _first(Command("answer", user.memdev, ranges[::-1][: user.most]), commands)


def _held_already(user: User, commands: tuple[Command, ...], offer: Ranges) -> tuple[Command, ...] | None:
    held = next(iter(user.held), None)
    if held is None:
        return None
    block = (held.start, user.block_size(held.start))
    return _first(Command("answer", user.memdev, (*_named(commands), block)[-user.most :]), commands)


def _twice(f: str) -> Apply:
    def apply(user: User, commands: tuple[Command, ...], ranges: Ranges) -> tuple[Command, ...] | None:
        pairs = _named(commands) or ranges
        return _first(Command(f, user.memdev, (pairs[0], pairs[0])), commands) if pairs else None

    return apply


def _half_a_block(f: str) -> Apply:
    def apply(user: User, commands: tuple[Command, ...], ranges: Ranges) -> tuple[Command, ...] | None:
        pairs = _named(commands) or ranges
        if not pairs:
            return None
        start = pairs[0][0]
        return _first(Command(f, user.memdev, ((start, user.block_size(start) // 2),)), commands)

    return apply


def _not_held(user: User, commands: tuple[Command, ...], ranges: Ranges) -> tuple[Command, ...] | None:
    free = user.free_block()
    return None if free is None else (Command("give_back", user.memdev, (free,)), *commands)


def _not_held_after(user: User, commands: tuple[Command, ...], ranges: Ranges) -> tuple[Command, ...] | None:
    free = user.free_block()
    return None if free is None else (*commands, Command("give_back", user.memdev, (free,)))


def _while_pending(user: User, commands: tuple[Command, ...], offer: Ranges) -> tuple[Command, ...] | None:
    return (Command("give_back", user.memdev, offer[:1]), *commands) if offer else None


def _of_nothing(user: User, commands: tuple[Command, ...], ranges: Ranges) -> tuple[Command, ...] | None:
    return (Command("give_back", user.memdev), *commands)


def _short(f: str) -> Apply:
    def apply(user: User, commands: tuple[Command, ...], ranges: Ranges) -> tuple[Command, ...] | None:
        start, length = ((_named(commands) or ranges)[:1] or [(0, 0)])[0]
        payload = (2).to_bytes(4, "little") + bytes(4) + (start & (1 << 64) - 1).to_bytes(8, "little")
        payload += (length & (1 << 64) - 1).to_bytes(8, "little") + bytes(8)
        return (Command(f, user.memdev, payload=payload), *commands)

    return apply


def _no_apply(user: User, commands: tuple[Command, ...], ranges: Ranges) -> tuple[Command, ...] | None:
    return None


BREAKS: dict[str, Break] = {
    "DEV-6.inside": Break("an answer that names a block never offered", add=_never_offered),
    "DEV-6.oldest": Break("the second chain is answered before the first", add=_no_apply),
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


def check_break(asked: object) -> str:
    """The clause to break (a rule's first clause for a rule), "" for None. Errors: AskedWrongly."""
    if asked is None:
        return ""
    clause = _RULES.get(asked, asked) if isinstance(asked, str) else ""
    if clause not in BREAKS:
        raise AskedWrongly(f"break {asked!r}; host U can break {', '.join(BREAKS)}")
    return clause
