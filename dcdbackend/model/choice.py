"""Capacity that the device chooses by itself (DEV-13): how much and where it may be, and what it turned out to be.

A manager's request by policy free or contiguous, or a release by tag, says what is wanted and not which extents. The
judge must accept any choice that the rule permits, and hears of it only when the host reads the records: until then a
place in the log stands for them (`begin`), and `reveal` holds what was read against the amount and the place. `choose`
is the other side: one choice by a seed, for a device that keeps the rules. There is no randomness here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..extents import NULL_TAG, Extent, ExtentSet
from .decide import EMPTY_RANGE, OFF_BLOCK, OUTSIDE, WRAPS, log_room, shape, supported_extents
from .pool import Allocation, Choice, gaps, held, rest_of
from .state import ADD, CHOSEN, NULL_HEX, Chain, Completed, Record, State, Violation, fail, lose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .pool import Rest
    from .state import Region

FREE, CONTIGUOUS, PRESCRIPTIVE, SHARED = "free", "contiguous", "prescriptive", "enable-shared-access"
TAG_BASED = "tag-based"
_CLAUSE = {FREE: "DEV-13.free", CONTIGUOUS: "DEV-13.contiguous", TAG_BASED: "DEV-13.removal"}
_PIECES = 4
_TRIES = 64


class Shown(NamedTuple):
    """The state after records were held against the choices they tell. `done`: choices that were told whole."""

    state: State
    done: tuple[Choice, ...] = ()


def tag_of(sent: dict[str, Any]) -> bytes:
    """The tag of a request as a whole."""
    return bytes.fromhex(sent["tag"]) if sent.get("tag") else NULL_TAG


def asked_bytes(sent: dict[str, Any]) -> int:
    """How much is asked where the device chooses: `length`, or what the extents add up to (QMP has no length)."""
    found = sent.get("length")
    if found is None:
        found = sum([extent["length"] for extent in sent["extents"]])
    number: int = found
    return number


def begin(state: State, choice: Choice) -> State:
    """The choice made: an offer whose extents are not known yet (ADD), and a place in the log for its records."""
    rest = rest_of(state)
    number = rest.made + 1
    choice = choice._replace(number=number, held=held(state) if choice.kind == ADD else ())
    room = log_room(state.config)
    region = state.config.regions[choice.region] if choice.kind == ADD else None
    most = len(choice.left) if region is None else choice.length // region.block_size
    if room is not None and len(state.log) + most > room:
        return lose(state, "the log is full or nearly so, and how many records the device makes is its own choice")
    record = Record(0, CHOSEN, False, choice.host_id, 0, 0, NULL_HEX, number, -1, policy=choice.policy)
    chains = state.chains
    if choice.kind == ADD:
        chains = (*chains, Chain((), choice=number))
    return state._replace(
        chains=chains,
        log=(*state.log, record),
        rest=rest._replace(choices=(*rest.choices, choice), made=number),
    )


def reveal(state: State, op: Completed) -> Shown | Violation:
    """The state with the places in its log filled by the records of a 0100h reply, as far as the choice may be so."""
    records = op.received["records"]
    done: list[Choice] = []
    at = 0
    while at < len(state.log) and at < len(records):
        if state.log[at].type != CHOSEN:
            at += 1
            continue
        number = state.log[at].sequence
        (choice,) = [one for one in rest_of(state).choices if one.number == number]
        found = _fill(state, choice, at, records, op)
        if isinstance(found, Violation):
            return found
        state, grown = found
        if grown.length or grown.left:
            return Shown(state, tuple(done))
        done.append(grown)
        at += len(grown.shown) - len(choice.shown)
    return Shown(state, tuple(done))


def _fill(
    state: State, choice: Choice, at: int, records: Sequence[dict[str, Any]], op: Completed
) -> tuple[State, Choice] | Violation:
    """The records from `at` on that belong to the choice, put into the log in its place."""
    made: list[Record] = []
    first = choice
    while (choice.length or choice.left) and at + len(made) < len(records):
        found = records[at + len(made)]
        if "raw" in found:
            break
        if found["type"] != choice.kind:
            text = f"record {at + len(made)} is of type {found['type']}; the chain of the device's choice is not whole"
            return fail("DEV-4.whole", text, op, expected={"type": choice.kind, "policy": choice.policy})
        taken = _one(state, choice, found, op)
        if isinstance(taken, Violation):
            return taken
        choice, sequence = taken
        more = bool(choice.length or choice.left)
        if more and not found["more"]:
            return _short(choice, records[at + len(made) + 1 :], op)
        tag = choice.tag.hex() if choice.tag != NULL_TAG else NULL_HEX
        made.append(
            Record(
                0, choice.kind, more, choice.host_id, found["dpa"], found["length"], tag, sequence, -1,
                policy=choice.policy,
            )
        )  # fmt: skip
    return _put(state, first, choice, at, made), choice


def _one(state: State, choice: Choice, found: dict[str, Any], op: Completed) -> tuple[Choice, int] | Violation:
    """The choice with one record of it told, and the sequence number that the record must have."""
    start, length = found["dpa"], found["length"]
    clause = _CLAUSE[choice.policy]
    if choice.kind != ADD:
        named = next((one for one in choice.left if (one.start, one.length) == (start, length)), None)
        if named is None:
            text = f"0x{start:x}+0x{length:x} is asked back by tag {choice.tag.hex()}, and is no extent of it"
            return fail(clause, text, op, expected=[str(one) for one in choice.left[:16]])
        left = tuple([one for one in choice.left if one is not named])
        return choice._replace(left=left, shown=(*choice.shown, named)), named.sequence
    wrong = _misplaced(state, choice, start, length, op)
    if wrong is not None:
        return wrong
    number, sharable = len(choice.shown), state.config.regions[choice.region].sharable
    sequence = 0
    if sharable and choice.tag != NULL_TAG:
        base = state.config.limits.first_sequence
        if base is None:  # by the revision 0 or 1: the first record says which
            base = choice.shown[0].sequence if choice.shown else min(found["sequence"], 1)
        sequence = base + number
        if found["sequence"] != sequence:
            text = f"extent {number} of a shared allocation has sequence {found['sequence']}, not {sequence}"
            return fail("DEV-15.sequence", text, op, expected=sequence)
    told = Extent(start, length, choice.tag, sequence)
    return choice._replace(length=choice.length - length, shown=(*choice.shown, told)), sequence


_SHAPES = (
    (EMPTY_RANGE, "DEV-2.nonempty", "has no length"),
    (WRAPS, "DEV-2.wrap", "passes 2^64"),
    (OUTSIDE, "DEV-2.inside", "is not inside one region"),
    (OFF_BLOCK, "DEV-2.aligned", "is off its region's blocks"),
)


def _misplaced(state: State, choice: Choice, start: int, length: int, op: Completed) -> Violation | None:
    """What is wrong with an extent that the device chose to offer."""
    named = f"0x{start:x}+0x{length:x}"
    bad = shape(state.config, start, length)
    for bit, clause, text in _SHAPES:
        if bad & bit:
            return fail(clause, f"the device chose {named}, which {text}", op)
    clause = _CLAUSE[choice.policy]
    region = state.config.regions[choice.region]
    if not region.base <= start < region.base + region.length:
        return fail(clause, f"the device chose {named}, outside region {choice.region} which was asked", op)
    if any(one.start < start + length and start < one.end for one in choice.shown):
        return fail("DEV-3.self", f"the device chose {named} twice", op)
    accepted, pending, *elsewhere = choice.held
    if accepted.overlaps(start, length):
        return fail("DEV-3.accepted", f"the device chose {named}, which the host holds", op)
    if pending.overlaps(start, length):
        return fail("DEV-3.pending", f"the device chose {named}, which was pending", op)
    if any(one.overlaps(start, length) for one in elsewhere):
        return fail("DEV-15.exclusive", f"the device chose {named}, which another has", op)
    if _offer(state, choice.number) is not None and any(one.overlaps(start, length) for one in held(state)):
        return fail("DEV-3.pending", f"the device chose {named}, which it has offered again meanwhile", op)
    if length > choice.length:
        text = f"the device chose {named} where {choice.length} bytes were left of what was asked"
        return fail(clause, text, op, expected=choice.length)
    if choice.policy == CONTIGUOUS and choice.shown and choice.shown[-1].end != start:
        return fail(clause, f"{named} does not adjoin {choice.shown[-1]}: not one range", op)
    return None


def _short(choice: Choice, later: Sequence[dict[str, Any]], op: Completed) -> Violation:
    """A chain that ends before all of the choice was told."""
    if choice.kind != ADD:
        return fail("DEV-13.removal", f"{choice.left[0]} is of that tag and was not asked back", op)
    again = later and later[0].get("type") == choice.kind and later[0].get("tag") == choice.tag.hex()
    if again and choice.tag != NULL_TAG:
        text = f"the extents of tag {choice.tag.hex()} came in two chains"
        return fail("DEV-4.one-chain", text, op)
    text = f"the offer ends {choice.length} bytes short of what was asked"
    return fail(_CLAUSE[choice.policy], text, op, expected=choice.length)


def _offer(state: State, number: int) -> Chain | None:
    return next((chain for chain in state.chains if chain.choice == number), None)


def _put(state: State, before: Choice, after: Choice, at: int, made: list[Record]) -> State:
    """The log with the records told in it, the offer with its extents, the choice with what is left of it."""
    rest = rest_of(state)
    open_still = bool(after.length or after.left)
    place = (state.log[at],) if open_still else ()
    log = (*state.log[:at], *made, *place, *state.log[at + 1 :])
    others = [one for one in rest.choices if one.number != before.number]
    rest = rest._replace(choices=(*others, after) if open_still else tuple(others))
    chains, pending = state.chains, state.pending
    if after.kind == ADD:
        told = after.shown[len(before.shown) :]
        chain = _offer(state, before.number)
        if chain is not None:
            for extent in told:
                pending = pending.add(extent)
            grown = chain._replace(extents=(*chain.extents, *told), choice=before.number if open_still else 0)
            chains = tuple([grown if one is chain else one for one in chains])
        if not open_still and after.tag != NULL_TAG and state.config.regions[after.region].sharable:
            rest = with_shared(rest, Allocation(after.tag, after.shown))
    return state._replace(log=log, chains=chains, pending=pending, rest=rest)


def with_shared(rest: Rest, found: Allocation) -> Rest:
    """The rest with a shared allocation in it; an older one of its tag is no more."""
    return rest._replace(shared=(*[one for one in rest.shared if one.tag != found.tag], found))


# ---- one choice, by a seed


def mix(seed: int, turn: int) -> int:
    """A number that looks like chance, always the same for the same two (SplitMix64)."""
    found = (seed * 0x9E3779B97F4A7C15 + turn * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    found = ((found ^ (found >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    found = ((found ^ (found >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return found ^ (found >> 31)


def choose(state: State, sent: dict[str, Any], seed: int) -> tuple[Extent, ...]:
    """The extents that a device with this seed offers for a request that it must serve, in the order of the offer."""
    region = state.config.regions[sent["region"]]
    length, tag = asked_bytes(sent), tag_of(sent)
    free = gaps(state, region)
    turn = rest_of(state).made + len(state.log) + len(state.accepted)
    if sent["policy"] == CONTIGUOUS:
        fits = [gap for gap in free if gap[1] >= length]
        start, size = fits[mix(seed, turn) % len(fits)]
        spare = (size - length) // region.block_size + 1
        ranges = [(start + (mix(seed, turn + 1) % spare) * region.block_size, length)]
    else:
        ranges = _scattered(state, region, length, free, seed + turn)
    base = state.config.limits.first_sequence or 0
    numbered = region.sharable and tag != NULL_TAG
    return tuple([Extent(start, size, tag, base + at if numbered else 0) for at, (start, size) in enumerate(ranges)])


def _scattered(
    state: State, region: Region, length: int, free: list[tuple[int, int]], seed: int
) -> list[tuple[int, int]]:
    """Ranges that add up to `length`: a few small ones anywhere, if the device may have so many; else the largest."""
    supported = supported_extents(state)
    room = _PIECES if supported is None else min(supported - len(state.accepted) - len(state.pending), _PIECES)
    taken = ExtentSet()
    order: list[tuple[int, int]] = []
    left = length
    for turn in range(_TRIES):
        if not left or len(order) >= room:
            break
        blocks = left // region.block_size
        size = (mix(seed, 3 * turn) % blocks + 1) * region.block_size if len(order) + 1 < room else left
        start, whole = free[mix(seed, 3 * turn + 1) % len(free)]
        if whole < size:
            continue
        spare = (whole - size) // region.block_size + 1
        start += (mix(seed, 3 * turn + 2) % spare) * region.block_size
        if not taken.overlaps(start, size):
            taken = taken.add(Extent(start, size))
            order.append((start, size))
            left -= size
    if not left:
        return order
    order, left = [], length
    for start, whole in sorted(free, key=lambda gap: -gap[1]):
        size = min(whole, left)
        if size:
            order.append((start, size))
            left -= size
    return order
