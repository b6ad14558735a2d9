"""What the device may do with a command: the permitted return codes, and the state after it.

This is the one place that holds the device's behaviour. The judge (`device.step`) compares an answer with it; an
emulator asks it and then does what it says. `decide_*` finds every reason to refuse (a bit each; the tables give
clause and return codes), `apply_*` gives the state of a command that succeeded. Nothing here looks at an answer.

Ranges are pairs (start DPA, length), bytes. Return codes are CXL r3.1 table 8-34 numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..extents import NULL_TAG, Extent, ExtentSet
from .state import (
    ADD,
    FORMER,
    MAX_U64,
    NULL_HEX,
    RELEASE,
    Chain,
    Config,
    Recent,
    Record,
    State,
    remember,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .state import Memory, Notes, Region, Trace

SUCCESS, INVALID_INPUT, UNSUPPORTED, INVALID_HANDLE, INVALID_PA = 0x00, 0x02, 0x03, 0x0E, 0x0F
INVALID_LENGTH, EXHAUSTED, INVALID_EXTENTS = 0x16, 0x1D, 0x1E
QEMU_LOG_RECORDS = 8
_MAX_REGIONS = 8
_REQUEST_HEAD, _REQUEST_COUNT, _REQUEST_EXTENT = 28, 4, 40
"""Bytes of 5604h and 5605h: before the count of extents, the count, one extent (CXL r3.1 tables 7-70 and 7-71)."""
LOG = 4

# Reasons to refuse; the last five are none, but tell more about an answer.
EMPTY_RANGE, WRAPS, OUTSIDE, OFF_BLOCK, OVERLAP = 1, 2, 4, 8, 16
NOT_OFFERED, ACCEPTED, NOT_HELD, PENDING, NONE = 32, 64, 128, 256, 512
TOO_MANY, HOST, POLICY, SHORT = 1024, 2048, 4096, 8192
HANDLE_ORDER, HANDLE_UNKNOWN, NO_OVERFLOW, START = 1 << 14, 1 << 15, 1 << 16, 1 << 17
LATER_CHAIN, DISORDER, PARTLY, IN_SHADOW, UNSEEN = 1 << 20, 1 << 21, 1 << 22, 1 << 23, 1 << 24
# Reasons that only a whole device has (`manager`): several hosts, tags, policies, regions, commands it may lack.
ELSEWHERE, ONE_TAG, KEPT, TAGS, NO_ROOM = 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29
NOT_SHARABLE, NO_TAG, REGION, IN_USE, BAD_BLOCK, FIXED, OPCODE = [1 << bit for bit in range(30, 37)]
NO_PLACE = EMPTY_RANGE | WRAPS | OUTSIDE


class Fault(NamedTuple):
    """A reason to refuse: the clause broken by serving it, the codes permitted, the clause of a wrong code."""

    clause: str
    codes: frozenset[int]
    text: str
    code_clause: str = ""


def _fault(clause: str, text: str, *codes: int, code_clause: str = "") -> Fault:
    return Fault(clause, frozenset(codes), text, code_clause or clause)


_SHAPE = {
    EMPTY_RANGE: _fault("DEV-2.nonempty", "a range has no length", INVALID_EXTENTS, INVALID_PA, INVALID_INPUT),
    WRAPS: _fault("DEV-2.wrap", "a range reaches 2^64", INVALID_PA, INVALID_EXTENTS),
}
_SHORT = {SHORT: _fault("DEV-8.16h", "the payload is shorter than its count", INVALID_LENGTH)}
_PLACE = {
    OUTSIDE: _fault("DEV-8.0Fh-outside", "a range is not inside one region", INVALID_PA),
    OFF_BLOCK: _fault("DEV-8.1Eh-block", "a range is off the region's blocks", INVALID_EXTENTS),
    OVERLAP: _fault("DEV-8.1Eh-overlap", "two ranges overlap each other", INVALID_EXTENTS),
}
_COUNT = {TOO_MANY: _fault("DEV-8.1Dh", "more extents than the device can track", EXHAUSTED)}
_FM = {
    HOST: _fault("DEV-8.02h-host", "the device does not serve that host", INVALID_INPUT),
    POLICY: _fault("DEV-8.02h-policy", "the policy is not advertised", INVALID_INPUT),
    OUTSIDE: _fault("DEV-2.inside", "an extent is not inside one region", INVALID_PA),
    OFF_BLOCK: _fault("DEV-2.aligned", "an extent is off the region's blocks", INVALID_EXTENTS),
}
_ANY = (INVALID_INPUT, INVALID_PA, EXHAUSTED, INVALID_EXTENTS)  # which of them, no rule says
_REGION = {REGION: _fault("DEV-8.02h-region", "there is no such region", INVALID_INPUT, INVALID_PA)}
_OPCODE = {OPCODE: _fault("DEV-8.03h-opcode", "the command log does not have it", UNSUPPORTED)}
_REFERENCE = {
    **_OPCODE,
    NO_TAG: _fault("DEV-21.references", "there is nothing of that tag to hold or to let go", INVALID_INPUT),
}
REFUSALS: dict[str, dict[int, Fault]] = {
    "answer": {
        **_SHORT,
        **_SHAPE,
        **_PLACE,
        ACCEPTED: _fault("DEV-8.0Fh-accepted", "a range is accepted already", INVALID_PA),
        NOT_OFFERED: _fault("DEV-8.0Fh-chain", "a range is not inside the oldest offer", INVALID_PA),
        **_COUNT,
    },
    "give_back": {
        **_SHORT,
        NONE: _fault("DEV-8.02h-none", "it names no range", INVALID_INPUT),
        **_SHAPE,
        **_PLACE,
        NOT_HELD: _fault("DEV-8.0Fh-held", "a range is not wholly accepted", INVALID_PA),
        **_COUNT,
    },
    "add": {
        **_SHORT,
        **_FM,
        **_SHAPE,
        OVERLAP: _fault("DEV-3.self", "two extents overlap each other", INVALID_EXTENTS),
        ACCEPTED: _fault("DEV-3.accepted", "an extent is accepted", INVALID_EXTENTS, code_clause="DEV-8.1Eh-add"),
        PENDING: _fault("DEV-3.pending", "an extent is pending", INVALID_EXTENTS, code_clause="DEV-8.1Eh-add"),
        **_COUNT,
        **_REGION,
        NOT_SHARABLE: _fault("DEV-13.shared", "the region is not sharable", INVALID_INPUT),
        NO_TAG: _fault("DEV-13.shared", "no other host has an allocation of that tag", INVALID_INPUT),
        ELSEWHERE: _fault("DEV-15.exclusive", "another host has an extent of it", *_ANY),
        ONE_TAG: _fault("DEV-15.one-tag", "the tag names another allocation, or the capacity has another tag", *_ANY),
        KEPT: _fault("DEV-21.kept", "a referenced tag keeps that capacity", *_ANY),
        TAGS: _fault("DEV-19.tags", "more tags than the device can track", EXHAUSTED),
        NO_ROOM: _fault("DEV-8.1Dh-room", "the region has not that much free", EXHAUSTED),
    },
    "release": {
        **_SHORT,
        **_FM,
        **_SHAPE,
        OVERLAP: _fault("DEV-8.1Eh-overlap", "two extents overlap each other", INVALID_EXTENTS),
        PENDING: _fault("DEV-8.0Fh-pending", "an extent is pending", INVALID_PA),
        NOT_HELD: _fault("DEV-8.0Fh-held", "an extent is not wholly accepted", INVALID_PA),
        NO_TAG: _fault("DEV-13.removal", "the host holds nothing of that tag", INVALID_INPUT, INVALID_PA),
    },
    "force": {
        **_SHORT,
        **_FM,
        **_SHAPE,
        OVERLAP: _fault("DEV-8.1Eh-overlap", "two extents overlap each other", INVALID_EXTENTS),
        NOT_HELD: _fault("DEV-8.0Fh-held", "an extent is neither wholly accepted nor wholly pending", INVALID_PA),
        NO_TAG: _fault("DEV-13.removal", "the host has nothing of that tag", INVALID_INPUT, INVALID_PA),
    },
    "set_region": {
        **_REGION,
        BAD_BLOCK: _fault("DEV-18.block", "no region can have that block size", INVALID_INPUT, UNSUPPORTED),
        IN_USE: _fault("DEV-18.empty", "the region is in use", UNSUPPORTED, code_clause="DEV-8.03h-region"),
        FIXED: _fault("DEV-8.03h-region", "its sanitize flag cannot be changed", UNSUPPORTED),
    },
    "add_reference": _REFERENCE,
    "remove_reference": _REFERENCE,
    "list_tags": {
        **_OPCODE,
        START: _fault("DEV-8.02h-start", "the start index is past the end", INVALID_INPUT),
    },
    "fm_extents": {
        HOST: _fault("DEV-8.02h-host", "the device does not serve that host", INVALID_INPUT),
        START: _fault("DEV-8.02h-start", "the start index is past the end", INVALID_INPUT),
    },
    "clear": {
        **_SHORT,
        NO_OVERFLOW: _fault("DEV-16.clear-all", "Clear All without an overflow", INVALID_INPUT),
        HANDLE_ORDER: _fault("DEV-16.clear-order", "the handles are not the oldest in order", INVALID_HANDLE),
        HANDLE_UNKNOWN: _fault("DEV-16.clear-unknown", "a handle names no record", INVALID_HANDLE, INVALID_INPUT),
    },
    "extents": {
        START: _fault("DEV-8.02h-start", "the start index is past the end", INVALID_INPUT),
    },
}
# What a host breaks by sending it: DEV-6 for an answer, DEV-7 for a release. It says nothing of what the device does.
BREACHES: dict[str, tuple[tuple[int, str, str], ...]] = {
    "answer": (
        (EMPTY_RANGE | OFF_BLOCK, "DEV-6.aligned", "a range of the answer is not whole blocks"),
        (OUTSIDE | WRAPS | NOT_OFFERED, "DEV-6.inside", "the answer names what was not offered"),
        (LATER_CHAIN, "DEV-6.oldest", "the answer names a later offer than the oldest pending one"),
        (ACCEPTED, "DEV-6.accepted", "the answer names what the host holds already"),
        (OVERLAP, "DEV-6.disjoint", "two ranges of the answer overlap each other"),
        (DISORDER, "DEV-6.order", "the ranges of the answer are not in the order offered"),
    ),
    "give_back": (
        (NONE, "DEV-7.some", "the release names no range"),
        (EMPTY_RANGE | OFF_BLOCK, "DEV-7.aligned", "a range of the release is not whole blocks"),
        (PENDING, "DEV-7.pending", "the release names pending capacity"),
        (OUTSIDE | WRAPS | NOT_HELD, "DEV-7.held", "the release names what the host does not hold"),
        (OVERLAP, "DEV-7.disjoint", "two ranges of the release overlap each other"),
    ),
}


class Decision(NamedTuple):
    """`faults`: reasons to refuse (success is permitted when there is none); `codes`: refusals that are permitted.

    `unsure`: reasons that this view cannot tell; `host`: everything that the command breaks, for BREACHES.
    """

    faults: int
    codes: frozenset[int]
    unsure: int = 0
    host: int = 0


_NO_CODES: frozenset[int] = frozenset()
_ANY_SHAPE = frozenset((INVALID_INPUT, INVALID_PA, INVALID_EXTENTS))
LEGAL = Decision(0, _NO_CODES)


def decision(f: str, faults: int, unsure: int = 0, more: frozenset[int] = _NO_CODES) -> Decision:
    """The decision of all the bits found."""
    if not (faults | unsure) and not more:
        return LEGAL
    codes = more
    for bit, fault in REFUSALS[f].items():
        if (faults | unsure) & bit:
            codes |= fault.codes
    return Decision(faults, codes, unsure, faults)


def region_of(config: Config, start: int, length: int) -> Region | None:
    """The one region that holds all of the range, or None."""
    end = start + length
    for region in config.regions:
        if region.base <= start and end <= region.base + region.length:
            return region
    return None


def shape(config: Config, start: int, length: int) -> int:
    """What is wrong with a range in itself (DEV-2): EMPTY_RANGE, WRAPS, OUTSIDE and OFF_BLOCK bits."""
    end = start + length
    for region in config.regions:
        base = region.base
        if base <= start < base + region.length:
            block = region.block_size - 1
            found = OFF_BLOCK if (start | length) & block else 0
            if end > base + region.length:
                found |= WRAPS if end > MAX_U64 else OUTSIDE
            return found if length > 0 else EMPTY_RANGE
    if length <= 0:
        return EMPTY_RANGE
    return WRAPS if end > MAX_U64 else OUTSIDE


def overlapping(ranges: Iterable[Sequence[int]]) -> bool:
    """Whether two of the ranges that have a length overlap each other."""
    reached = -1
    ordered = True
    for start, length in ranges:
        if start < reached and length > 0:
            ordered = False
            break
        if length > 0:
            reached = start + length
    if ordered:
        return False
    reached = -1
    for start, length in sorted([(pair[0], pair[1]) for pair in ranges if pair[1] > 0]):
        if start < reached:
            return True
        reached = start + length
    return False


def decide_answer(state: State, flags: int, ranges: Sequence[Sequence[int]]) -> Decision:
    """4802h (CXL r3.1 8.2.9.9.9.3): DEV-6, DEV-8."""
    chain = state.chains[0] if state.chains else None
    guest = state.config.view == "guest"
    if not ranges:
        if guest and (chain is None or chain.gap):
            return decision("answer", 0, NOT_OFFERED)
        return LEGAL if chain else Decision(0, _ANY_SHAPE)
    faults, host = _answered(state, chain, ranges)
    if len(ranges) > 1 and overlapping(ranges):
        faults |= OVERLAP
        host = (host | OVERLAP) & ~DISORDER
    faults |= _too_many(state, len(state.accepted) + len(ranges))
    unsure = 0
    if guest and faults & NOT_OFFERED and (chain is None or chain.gap or not chain.complete):
        unsure = NOT_OFFERED
    more = _ANY_SHAPE if host & DISORDER or (chain is not None and chain.gap) else _NO_CODES
    if not (faults or host or more):
        return LEGAL
    return decision("answer", faults & ~unsure, unsure, more)._replace(host=host)


def _answered(state: State, chain: Chain | None, ranges: Sequence[Sequence[int]]) -> tuple[int, int]:
    """What is wrong with the ranges of an answer, one by one: for the device, and for the host.

    They differ where a departed device has settled a chain that the rules (and so the host) still call open.
    """
    config, accepted, pending, shadow = state.config, state.accepted, state.pending, state.notes.shadow
    places = {extent.start: at for at, extent in enumerate(chain.extents)} if chain else {}
    faults = host = 0
    last, reached = -1, 0
    for start, length in ranges:
        wrong = shape(config, start, length)
        excused = 0
        if wrong & NO_PLACE:
            pass
        elif accepted.overlaps(start, length) or (chain and chain.taken and _meets(chain.taken, start, length)):
            wrong |= ACCEPTED
        else:
            offered = pending.find(start)
            if offered is None or offered.end < start + length:
                wrong |= NOT_OFFERED
                if shadow is not None and _inside(shadow.extents, start, length):
                    excused = NOT_OFFERED
                    faults |= IN_SHADOW
            elif (at := places.get(offered.start)) is None:
                wrong |= NOT_OFFERED
                excused = NOT_OFFERED
                host |= UNSEEN if chain is not None and chain.lost else LATER_CHAIN
            else:
                if at < last or (at == last and start < reached):
                    host |= DISORDER
                if length < offered.length:
                    host |= PARTLY
                last, reached = at, start + length
        faults |= wrong
        host |= wrong & ~excused
    return faults, host


def _meets(extents: Sequence[Extent], start: int, length: int) -> bool:
    return any(extent.start < start + length and start < extent.end for extent in extents)


def _inside(extents: Sequence[Extent], start: int, length: int) -> bool:
    return any(extent.start <= start and start + length <= extent.end for extent in extents)


def supported_extents(state: State) -> int | None:
    """How many extents the device can track, from its configuration or from what its records said; None: not known."""
    known = state.config.limits.supported_extents
    return state.notes.supported if known is None else known


def _too_many(state: State, extents: int) -> int:
    supported = supported_extents(state)
    return TOO_MANY if supported is not None and extents > supported else 0


def decide_give_back(state: State, ranges: Sequence[Sequence[int]]) -> Decision:
    """4803h (CXL r3.1 8.2.9.9.9.4): DEV-7, DEV-8."""
    if not ranges:
        return decision("give_back", NONE)
    config, accepted, pending = state.config, state.accepted, state.pending
    faults = 0
    splits = 0
    for start, length in ranges:
        wrong = shape(config, start, length)
        if not wrong & NO_PLACE:
            held = accepted.find(start)
            if held is None or held.end < start + length:
                if not accepted.covers(start, length):
                    wrong |= NOT_HELD
                    if pending.overlaps(start, length):
                        wrong |= PENDING
            elif start > held.start and start + length < held.end:
                splits += 1
        faults |= wrong
    if len(ranges) > 1 and overlapping(ranges):
        faults |= OVERLAP
    unsure = _too_many(state, len(accepted) + splits) if splits else 0
    if not (faults or unsure):
        return LEGAL
    found = decision("give_back", faults & ~PENDING, unsure)
    return found._replace(host=faults & ~NOT_HELD if faults & PENDING else faults)


def decide_add(state: State, sent: dict[str, Any], extents: Sequence[Extent]) -> Decision:
    """5604h, or its QMP form (CXL r3.1 7.6.7.6.5): DEV-2, DEV-3, DEV-8."""
    config, accepted, pending = state.config, state.accepted, state.pending
    faults = 0
    for start, length, _tag, _sequence in extents:
        wrong = shape(config, start, length)
        if not wrong & NO_PLACE:
            if accepted.overlaps(start, length):
                wrong |= ACCEPTED
            if pending.overlaps(start, length):
                wrong |= PENDING
        faults |= wrong
    if len(extents) > 1 and overlapping([(extent.start, extent.length) for extent in extents]):
        faults |= OVERLAP
    return _manager_decision(state, "add", sent, extents, faults)


def decide_release(state: State, sent: dict[str, Any], extents: Sequence[Extent]) -> Decision:
    """5605h unforced, or its QMP form (CXL r3.1 7.6.7.6.6): DEV-8, DEV-11."""
    config, accepted, pending = state.config, state.accepted, state.pending
    faults = 0
    for start, length, _tag, _sequence in extents:
        wrong = shape(config, start, length)
        if not wrong & NO_PLACE and not accepted.covers(start, length):
            wrong |= PENDING if pending.overlaps(start, length) else NOT_HELD
        faults |= wrong
    if len(extents) > 1 and overlapping([(extent.start, extent.length) for extent in extents]):
        faults |= OVERLAP
    return _manager_decision(state, "release", sent, extents, faults)


def _manager_decision(state: State, f: str, sent: dict[str, Any], extents: Sequence[Extent], faults: int) -> Decision:
    """The faults with those of the request as a whole: region, host, policy, count."""
    config = state.config
    faults |= short_request(sent)
    if sent["host_id"] not in config.limits.hosts:
        faults |= HOST
    if sent["via"] == "qmp":
        number = sent["region"]
        region = config.regions[number] if 0 <= number < len(config.regions) else None
        if region is None:
            faults = (faults & ~OFF_BLOCK) | OUTSIDE
        else:
            end = region.base + region.length
            for extent in extents:
                if extent.start >= end or end < extent.end <= MAX_U64:
                    faults |= OUTSIDE
    if f == "add":
        faults |= _too_many(state, len(state.accepted) + len(state.pending) + len(extents))
    unsure = 0 if extents else NONE
    more = frozenset((INVALID_INPUT,)) if not extents else _NO_CODES
    if sent["policy"] != "prescriptive":
        unsure |= POLICY
    return decision(f, faults, unsure, more)


def short_request(sent: dict[str, Any]) -> int:
    """SHORT where a fabric manager's own bytes (`raw`) end before their extents do; else 0."""
    if "raw" not in sent:
        return 0
    data = bytes.fromhex(sent["raw"])
    end = _REQUEST_HEAD + _REQUEST_COUNT
    if len(data) == _REQUEST_HEAD and sent["policy"] != "prescriptive":
        return 0
    if len(data) < end:
        return SHORT
    return SHORT if len(data) < end + _REQUEST_EXTENT * int.from_bytes(data[_REQUEST_HEAD:end], "little") else 0


def manager_extents(state: State, sent: dict[str, Any]) -> tuple[Extent, ...]:
    """The extents of an add or release as the device takes them, absolute: QMP gives offsets in a region."""
    tag = bytes.fromhex(sent["tag"]) if sent.get("tag") else None
    if sent["via"] == "qmp":
        if tag is not None and "QEMU-tag-qmp" in state.config.departures:
            tag = None
        number, regions = sent["region"], state.config.regions
        base = regions[number].base if 0 <= number < len(regions) else 0
        if tag is None:
            return tuple([Extent(base + found["offset"], found["length"]) for found in sent["extents"]])
        return tuple([Extent(base + found["offset"], found["length"], tag, 0) for found in sent["extents"]])
    made: list[Extent] = []
    for found in sent["extents"]:
        own = found.get("tag")
        named = bytes.fromhex(own) if own else tag
        sequence = found.get("sequence", 0)
        made.append(Extent(found["dpa"], found["length"], named or NULL_TAG, sequence))
    return tuple(made)


def decide_clear(state: State, flags: int, handles: Sequence[int]) -> Decision:
    """0101h (CXL r3.1 8.2.9.2.3): DEV-16. A record that nobody has read yet may have any handle."""
    log = state.log
    guest = state.config.view == "guest"
    if flags & 1:
        if state.notes.overflow:
            return LEGAL
        return decision("clear", *((0, NO_OVERFLOW) if guest else (NO_OVERFLOW, 0)))
    if not handles:
        return Decision(0, frozenset((INVALID_INPUT,)))
    known = [record.handle for record in log]
    if known[: len(handles)] == handles:
        return LEGAL
    fault = unsure = 0
    for at, handle in enumerate(handles):
        if at < len(known) and known[at] == handle:
            continue
        if handle and (known[at] == 0 if at < len(known) else guest):
            unsure = HANDLE_ORDER | HANDLE_UNKNOWN
            continue
        fault = HANDLE_ORDER if handle and handle in known else HANDLE_UNKNOWN
        break
    return decision("clear", fault, unsure)


def deadly(state: State, f: str, sent: dict[str, Any]) -> str | None:
    """The id of the known departure by which this command kills the device, or None."""
    known, regions = state.config.departures, state.config.regions
    if f == "answer" and "QEMU-empty-answer" in known:
        _flags, ranges, short = read_ranges(sent)
        return "QEMU-empty-answer" if not (ranges or short or state.chains) else None
    if sent.get("via") == "fm":
        found = _deadly_by_fm(state, f, sent)
        return found if found in known else None
    if f not in ("add", "release") or "QEMU-qmp-wraps" not in known or sent["via"] != "qmp":
        return None
    number = sent["region"]
    if not 0 <= number < len(regions):
        return None
    region = regions[number]
    for found in sent["extents"]:
        offset, length = found["offset"], found["length"]
        if not length or (offset | length) & (region.block_size - 1):
            return None
        if offset + length > MAX_U64:
            return "QEMU-qmp-wraps" if (offset + length) & MAX_U64 <= region.length else None
    return None


def _deadly_by_fm(state: State, f: str, sent: dict[str, Any]) -> str | None:
    """`deadly` for a fabric manager's command, known or not."""
    if f == "set_region":
        return "QEMU-fm-region" if len(state.config.regions) <= sent["region"] < _MAX_REGIONS else None
    if f != "add" or sent["policy"] != "prescriptive":
        return None
    if any(found["dpa"] + found["length"] > MAX_U64 + 1 for found in sent["extents"]):
        return "QEMU-fm-wraps"
    counted = bytes.fromhex(sent["raw"])[_REQUEST_HEAD : _REQUEST_HEAD + _REQUEST_COUNT] if "raw" in sent else b""
    return "QEMU-fm-nothing" if not (sent["extents"] or any(counted)) else None


def decide_extents(state: State, start: int) -> Decision:
    """4801h (CXL r3.1 8.2.9.9.9.2): DEV-8, DEV-10."""
    if start <= len(state.accepted):
        return LEGAL
    return decision("extents", START)


# ---- what a command that succeeds does


def apply_add(state: State, sent: dict[str, Any], extents: Sequence[Extent]) -> State:
    """The offer queued: pending, and a chain of records in the log (DEV-4, DEV-5)."""
    if not extents:
        return state
    pending = state.pending
    for extent in extents:
        pending = pending.add(extent)
    state = State(
        state.config,
        state.accepted,
        pending,
        (*state.chains, Chain(tuple(extents))),
        state.log,
        state.memory,
        state.notes,
        state.trace,
    )
    return queue(state, ADD, sent, extents)


def apply_release(state: State, sent: dict[str, Any], extents: Sequence[Extent]) -> State:
    """The request queued, nothing else (DEV-11)."""
    if not extents:
        return state
    return queue(ask(state, extents), RELEASE, sent, extents)


def ask(state: State, extents: Sequence[Extent]) -> State:
    """The extents asked back, before any record tells the host."""
    asked = state.notes.asked
    for extent in extents:
        asked = asked.discard_range(extent.start, extent.length).add(extent)
    requested = Recent("DEV-11.request", "accepted", tuple([(extent.start, extent.length) for extent in extents]))
    return state._replace(notes=state.notes._replace(asked=asked), trace=remember(state.trace, requested))


def queue(state: State, kind: int, sent: dict[str, Any], extents: Sequence[Extent]) -> State:
    """The records of a request at the log's end; past the log's room they are lost, and the loss is counted."""
    host_id = sent["host_id"]
    used = len(state.accepted) + len(state.pending)
    last = len(extents) - 1
    given = sent["tag"] if sent["via"] == "qmp" else None  # what the record must carry, even if the device forgets it
    records: list[Record] = []
    for at, (start, length, tag, sequence) in enumerate(extents):
        text = given or (NULL_HEX if tag is NULL_TAG else tag.hex())
        records.append(Record(0, kind, at < last, host_id, start, length, text, sequence, used))
    return push(state, kind, records)


def log_room(config: Config) -> int | None:
    """How many records the log is known to hold; None: not known."""
    room = config.limits.log_records
    return QEMU_LOG_RECORDS if room is None and "QEMU-log" in config.departures else room


def push(state: State, kind: int, records: list[Record]) -> State:
    """Records at the log's end, as far as it has room; the rest is lost, and of an offer the host then knows a part."""
    config, log = state.config, state.log
    room = log_room(config)
    notes, chains = state.notes, state.chains
    if room is not None and len(log) + len(records) > room:
        kept = max(room - len(log), 0)
        lost = tuple(records[kept:])
        notes = notes._replace(overflow=notes.overflow + len(lost), untold=notes.untold + lost)
        del records[kept:]
        if kind == ADD and chains:
            chains = (*chains[:-1], chains[-1]._replace(lost=True))
    return State(
        config,
        state.accepted,
        state.pending,
        chains,
        log + tuple(records),
        state.memory,
        notes,
        state.trace,
    )


def apply_answer(state: State, flags: int, ranges: Sequence[Sequence[int]]) -> State:
    """The oldest chain settled: what the ranges name is accepted, the rest is free (DEV-6)."""
    if not state.chains:
        return state
    chain = state.chains[0]
    pending = state.pending
    named: list[Extent] = list(chain.taken)
    for start, length in ranges:
        offered = pending.find(start)
        if offered is not None:
            named.append(offered if offered.length == length else Extent(start, length, offered[2], offered[3]))
    stays_open = flags & 1
    shadow = None
    if stays_open:
        kept = chain._replace(taken=tuple(named))
        if "QEMU-answer-more" not in state.config.departures:
            return state._replace(chains=(kept, *state.chains[1:]))
        shadow = kept
    accepted, memory, trace, size = state.accepted, state.memory, state.trace, 0
    for extent in named:
        accepted = accepted.add(extent)
        if len(memory):  # what lies in capacity that changes hands is not judged (DEV-14)
            trace = _leave(trace, memory, extent.start, extent.length)
            memory = memory.discard_range(extent.start, extent.length)
        size += extent.length
    offered_bytes = 0
    for extent in chain.extents:
        pending = pending.discard_range(extent.start, extent.length)
        offered_bytes += extent.length
    notes = state.notes
    if named:
        notes = list_changed(notes)
        if trace.scan is not None or trace.dropped:
            trace = trace._replace(scan=None, dropped=())
    if size != offered_bytes:
        left = ExtentSet(chain.extents)
        for extent in named:
            left = left.discard_range(extent.start, extent.length)
        trace = remember(trace, Recent("DEV-6.left", "free", _ranges(left)))
    if shadow is not None or notes.shadow is not None:
        notes = notes._replace(shadow=shadow)
    return State(state.config, accepted, pending, state.chains[1:], state.log, memory, notes, trace)


def apply_give_back(state: State, ranges: Sequence[Sequence[int]]) -> State:
    """What the ranges name is free; an extent that they cut is split (DEV-7)."""
    after = vacate(state, ranges)
    freed = Recent("DEV-7.freed", "free", tuple([(pair[0], pair[1]) for pair in ranges]))
    trace = remember(after.trace, freed)
    if trace.scan is not None:
        trace = trace._replace(scan=None)
    return State(
        state.config,
        after.accepted,
        state.pending,
        state.chains,
        state.log,
        after.memory,
        list_changed(after.notes),
        trace,
    )


def vacate(state: State, ranges: Sequence[Sequence[int]]) -> State:
    """The state without what the ranges name of the accepted extents; whoever took it knows why."""
    accepted, memory, notes, trace = state.accepted, state.memory, state.notes, state.trace
    asked = notes.asked
    rest: list[tuple[int, int]] = []
    for start, length in ranges:
        end = start + length
        for held in accepted.intersecting(start, length):
            if held.start < start:
                rest.append((held.start, start - held.start))
            if held.end > end:
                rest.append((end, held.end - end))
        accepted = accepted.discard_range(start, length)
        if asked:
            asked = asked.discard_range(start, length)
        if len(memory):
            trace = _leave(trace, memory, start, length)
            memory = memory.discard_range(start, length)
    if asked is not notes.asked:
        notes = notes._replace(asked=asked)
    if rest:
        trace = remember(trace, Recent("DEV-7.rest", "accepted", tuple(rest)))
    return State(state.config, accepted, state.pending, state.chains, state.log, memory, notes, trace)


def apply_clear(state: State, flags: int, handles: Sequence[int]) -> State:
    """The oldest records gone: as many as handles, or all (DEV-16)."""
    gone = len(state.log) if flags & 1 else len(handles)
    notes = state.notes
    if notes.overflow:
        notes = notes._replace(overflow=0)
    cleared = tuple([record.handle for record in state.log[:gone][-16:]])
    trace = state.trace._replace(cleared=(state.trace.cleared + cleared)[-16:])
    return State(
        state.config,
        state.accepted,
        state.pending,
        state.chains,
        state.log[gone:],
        state.memory,
        notes,
        trace,
    )


def list_changed(notes: Notes) -> Notes:
    """The notes after a change of the list of accepted extents."""
    return notes if notes.changed else notes._replace(changed=True)


def _leave(trace: Trace, memory: Memory, start: int, length: int) -> Trace:
    """The trace with the bytes that lie in capacity that changes hands: the backend may hold them still."""
    if trace.former is None:
        return trace
    former = trace.former + memory.intersecting(start, length)
    return trace._replace(former=former if len(former) <= FORMER else None)


def _ranges(extents: ExtentSet) -> tuple[tuple[int, int], ...]:
    return tuple([(extent.start, extent.length) for extent in extents])


# ---- the whole, by operation: for an emulator, and for a judge of operations whose outcome nobody knows


def read_ranges(sent: dict[str, Any]) -> tuple[int, Sequence[Sequence[int]], int]:
    """Flags, ranges and SHORT (or 0) of a 4802h or 4803h; also of a payload that did not parse (`raw`)."""
    if "raw" not in sent:
        return sent["flags"], sent["ranges"], 0
    data = bytes.fromhex(sent["raw"])
    if len(data) < 8:
        return 0, (), SHORT
    count, flags = int.from_bytes(data[:4], "little"), data[4]
    if len(data) < 8 + 24 * count:
        return flags, (), SHORT
    ranges: list[Sequence[int]] = []
    for at in range(8, 8 + 24 * count, 24):
        start, length = data[at : at + 8], data[at + 8 : at + 16]
        ranges.append((int.from_bytes(start, "little"), int.from_bytes(length, "little")))
    return flags, ranges, 0


def read_handles(sent: dict[str, Any]) -> tuple[int, int, Sequence[int], int]:
    """Log, flags, handles and SHORT (or 0) of a 0101h; also of a payload that did not parse (`raw`)."""
    if "raw" not in sent:
        return sent["log"], sent["flags"], sent["handles"], 0
    data = bytes.fromhex(sent["raw"])
    if len(data) < 6 or len(data) < 6 + 2 * data[2]:
        return data[0] if data else LOG, 0, [], SHORT
    handles = [int.from_bytes(data[at : at + 2], "little") for at in range(6, 6 + 2 * data[2], 2)]
    return data[0], data[1], handles, 0


def decide(state: State, f: str, sent: dict[str, Any]) -> Decision:
    """What the device may answer to a command (`f` and `sent` as the history has them). Errors: KeyError."""
    if f in ("answer", "give_back"):
        flags, ranges, short = read_ranges(sent)
        if short:
            return decision(f, short)
        found = decide_answer(state, flags, ranges) if f == "answer" else decide_give_back(state, ranges)
    elif f == "clear":
        log, flags, handles, short = read_handles(sent)
        if short:
            return decision(f, short)
        found = decide_clear(state, flags, handles) if log == LOG else LEGAL
    elif f == "extents":
        return decide_extents(state, sent["start"])
    elif f in ("add", "release"):
        extents = manager_extents(state, sent)
        found = decide_add(state, sent, extents) if f == "add" else decide_release(state, sent, extents)
    else:
        return LEGAL
    if "raw" in sent:  # it parsed here, so something follows what its count says
        return found._replace(codes=found.codes | {INVALID_LENGTH})
    return found


def apply(state: State, f: str, sent: dict[str, Any]) -> State:
    """The state after a command that succeeded; commands without an effect leave it as it is."""
    if f == "answer":
        flags, ranges, _short = read_ranges(sent)
        return apply_answer(state, flags, ranges)
    if f == "give_back":
        return apply_give_back(state, read_ranges(sent)[1])
    if f == "clear":
        log, flags, handles, _short = read_handles(sent)
        return apply_clear(state, flags, handles) if log == LOG else state
    if f in ("add", "release"):
        extents = manager_extents(state, sent)
        return apply_add(state, sent, extents) if f == "add" else apply_release(state, sent, extents)
    return state
