"""The event log judged: 0100h against the records that must be there (DEV-4, DEV-16), and 0101h's effect.

The whole-device view knows every record before it is read. The guest learns records by reading them; it judges what a
record must be in itself (DEV-2, DEV-3) and that it stays the same until it is cleared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..extents import Extent
from .decide import (
    EMPTY_RANGE,
    LOG,
    OFF_BLOCK,
    OUTSIDE,
    WRAPS,
    apply_clear,
    shape,
    supported_extents,
)
from .state import (
    ADD,
    FORCED,
    NULL_HEX,
    RELEASE,
    Chain,
    Completed,
    Next,
    Record,
    State,
    Violation,
    departed,
    fail,
    lose,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEADER_BYTES, _RECORD_BYTES = 32, 128
_MAX_U32 = (1 << 32) - 1
INFORMATIONAL, WARNING = 0, 1
"""Severities in a record's flags (CXL r3.1 8.2.9.2.1, table 8-43: bits 1:0, informational 00b)."""
_FIELDS = (
    ("type", "DEV-4.type", "type"),
    ("dpa", "DEV-4.extent", "start"),
    ("length", "DEV-4.extent", "length"),
    ("more", "DEV-4.more", "More flag"),
    ("tag", "DEV-4.tag", "tag"),
    ("sequence", "DEV-4.sequence", "sequence"),
    ("host_id", "DEV-20.host", "host id"),
)
_BAD_SHAPE = (
    (EMPTY_RANGE, "DEV-2.nonempty", "has no length"),
    (WRAPS, "DEV-2.wrap", "passes 2^64"),
    (OUTSIDE, "DEV-2.inside", "is not inside one region"),
    (OFF_BLOCK, "DEV-2.aligned", "is off its region's blocks"),
)
_SOME, _SEVERAL, _NEW, _AGAIN, _COUNTS, _NO_COUNTS, _CLEARED, _REMAIN, _REFUSED, _GUEST, _SEVERITY = (
    1 << bit for bit in range(11)
)
_CLAUSES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (_SOME, ("DEV-4.format", "DEV-4.type", "DEV-4.region", "DEV-10.payload")),
    (_SEVERAL, ("DEV-16.oldest",)),
    (_NEW, ("DEV-16.nonzero", "DEV-16.unique")),
    (_AGAIN, ("DEV-16.stable",)),
    (_COUNTS, ("DEV-19.extents",)),
    (_NO_COUNTS, ("DEV-4.validity",)),
    (_CLEARED, ("DEV-16.cleared",)),
    (_REMAIN, ("DEV-16.remain",)),
    (_REFUSED, ("DEV-8.unchanged",)),
    (_SEVERITY, ("DEV-4.severity",)),
)
_WHOLE = ("DEV-4.whole", "DEV-4.extent", "DEV-4.more", "DEV-4.tag", "DEV-4.sequence", "DEV-20.host")
_LEARNED = ("DEV-2.nonempty", "DEV-2.wrap", "DEV-2.inside", "DEV-2.aligned")
_memo: dict[int, tuple[str, ...]] = {}


def _judged(bits: int) -> tuple[str, ...]:
    """The clauses that a reply with these features has tested, always the same tuple for the same bits."""
    found = _memo.get(bits)
    if found is None:
        clauses = ["DEV-9.answers", "DEV-4.only", "DEV-16.overflow"]
        for bit, names in _CLAUSES:
            if bits & bit:
                clauses += names
        if bits & _SOME and not bits & _GUEST:
            clauses += _WHOLE
            if bits & _SEVERAL:
                clauses.append("DEV-4.order")
        if bits & _NEW and bits & _GUEST:
            clauses += _LEARNED
        found = _memo[bits] = tuple(clauses)
    return found


def events(state: State, op: Completed) -> Next | Violation:
    """0100h (CXL r3.1 8.2.9.2.2). Other logs than 4 are not judged."""
    if op.sent["log"] != LOG:
        return Next(state, ("DEV-9.answers",))
    received = op.received
    if op.type == "fail":
        return fail("DEV-8.served", f"0100h of log 4 was refused with {received['rc']:02x}h", op)
    if "raw" in received:
        return fail("DEV-4.format", f"the reply to 0100h does not parse: {received.get('error')}", op)
    records = received["records"]
    most = (state.config.limits.payload_bytes - _HEADER_BYTES) // _RECORD_BYTES
    if len(records) > most:
        return fail("DEV-10.payload", f"{len(records)} records cannot fit the payload: {most} can", op)
    findings: list[Violation] = []
    if state.notes.cleared_all:
        state = _cleared_all(state, op, records, findings)
    bits = (_SOME if records else 0) | (_SEVERAL if len(records) > 1 else 0)
    if state.trace.cleared:
        bits |= _CLEARED
    if state.trace.recent and state.trace.recent[-1].state == "log":
        bits |= _REFUSED
    known = _known(state, op, records, findings)
    if isinstance(known, Violation):
        return known._replace(also=tuple(findings))
    state, more = known
    bits |= more
    if state.config.view == "guest":
        bits |= _GUEST
        for record in records[len(state.log) :]:
            learned = _learn(state, op, record)
            if isinstance(learned, Violation):
                return learned._replace(also=tuple(findings))
            state = learned
            bits |= _NEW
    bits |= _severity(state, records, bits, findings)
    end = _end(state, op, records, received["flags"], findings)
    if isinstance(end, Violation):
        return end._replace(also=tuple(findings))
    state, unknown = end
    if not any(found.clause == "DEV-16.remain" for found in findings):
        bits |= _REMAIN
    return Next(state, _judged(bits), tuple(findings), unknown)


def _known(
    state: State, op: Completed, records: Sequence[dict[str, Any]], findings: list[Violation]
) -> tuple[State, int] | Violation:
    """The records returned against those that must be there, in order; handles are learned on the way."""
    log = state.log
    bits = 0
    fresh: list[Record] = []
    for at, found in enumerate(records):
        if "raw" in found:
            return fail("DEV-4.format", f"record {at} does not parse: {found['error']}", op)
        handle = found["handle"]
        if at >= len(log):
            if state.config.view == "guest":
                break
            return _uncaused(state, op, at, handle)
        expected = log[at]
        if found["tag"] != expected.tag or found["host_id"] != expected.host_id:
            state = _forgotten(state, op, at, found, findings)
            log = state.log
            expected = log[at]
        if (
            found["type"], found["more"], found["host_id"], found["dpa"],
            found["length"], found["tag"], found["sequence"],
        ) != expected[1:8]:  # fmt: skip
            return _mismatch(state, op, at, records)
        wrong = _carried(state, found, op)
        if wrong is not None:
            return wrong
        if expected.handle == handle != 0:
            bits |= _AGAIN
        elif expected.handle:
            return fail("DEV-16.stable", f"the record's handle was {expected.handle} and is {handle}", op, record=at)
        else:
            wrong = _handle(state, fresh, handle, op)
            if wrong is not None:
                return wrong
            fresh.append(expected._replace(handle=handle))
            bits |= _NEW
        counted = _counts(state, op, found, expected, findings)
        if isinstance(counted, Violation):
            return counted
        state = counted
        bits |= _COUNTS if found["validity"] & 1 else _NO_COUNTS
    if fresh:
        seen = next(at for at, record in enumerate(log) if not record.handle)
        state = state._replace(log=log[:seen] + tuple(fresh) + log[seen + len(fresh) :])
    return state, bits


def _uncaused(state: State, op: Completed, at: int, handle: int) -> Violation:
    if handle in state.trace.cleared:
        return fail("DEV-16.cleared", f"the record with handle {handle} came again after its clear", op)
    return fail("DEV-4.only", f"record {at} (handle {handle}) was caused by nothing", op)


def _handle(state: State, fresh: Sequence[Record], handle: int, op: Completed) -> Violation | None:
    if not handle:
        return fail("DEV-16.nonzero", "a record has handle 0", op)
    if any(record.handle == handle for record in state.log) or any(record.handle == handle for record in fresh):
        return fail("DEV-16.unique", f"two records held have handle {handle}", op)
    return None


def _carried(state: State, found: dict[str, Any], op: Completed) -> Violation | None:
    """What every record must carry, whatever caused it."""
    if found["region"] and found["type"] != 3:
        return fail("DEV-4.region", f"updated region is {found['region']} in a record of type {found['type']}", op)
    severity = found.get("severity", INFORMATIONAL)
    if severity != INFORMATIONAL and not (severity == WARNING and "QEMU-severity" in state.config.departures):
        return fail("DEV-4.severity", f"severity is {severity}, not {INFORMATIONAL} (informational)", op)
    return None


def _severity(state: State, records: Sequence[dict[str, Any]], bits: int, findings: list[Violation]) -> int:
    """The bit for severities that were shown and right; a departed device's are told when there is a new record."""
    if not bits & _NEW:
        return 0
    severities = [found.get("severity") for found in records]
    if WARNING in severities and "QEMU-severity" in state.config.departures:
        text = f"{severities.count(WARNING)} of {len(records)} records are warnings, not informational"
        evidence = {"received": {"severities": severities}, "expected": INFORMATIONAL}
        findings.append(Violation("DEV-4.severity", "device", "departure", text, evidence, "QEMU-severity"))
        return 0
    return 0 if None in severities else _SEVERITY


def _counts(
    state: State, op: Completed, found: dict[str, Any], expected: Record, findings: list[Violation]
) -> State | Violation:
    """DEV-19: what is available and what is used add up to the same number every time."""
    if not found["validity"] & 1 or expected.used < 0:
        return state
    available = found["available_extents"]
    known = supported_extents(state)
    if known is None:
        if not available:
            return state
        return state._replace(notes=state.notes._replace(supported=available + expected.used))
    right = max(known - expected.used, 0)
    if available != right:
        text = f"{available} extents available; with {expected.used} in use of {known} it must be {right}"
        wrapped = known < expected.used and available == (known - expected.used) & _MAX_U32
        if wrapped and "QEMU-available-wraps" in state.config.departures:
            findings.append(departed("QEMU-available-wraps", "DEV-19.extents", text, op))
            return state
        return fail("DEV-19.extents", text, op)
    return state


def _forgotten(state: State, op: Completed, at: int, found: dict[str, Any], findings: list[Violation]) -> State:
    """The state with record `at` without the tag and the host that the manager gave, where a departed device has
    neither."""
    expected = state.log[at]
    if found["tag"] == NULL_HEX != expected.tag and "QEMU-tag-qmp" in state.config.departures:
        text = f"the manager gave tag {expected.tag}, the record has none"
        findings.append(departed("QEMU-tag-qmp", "DEV-4.tag", text, op))
        expected = expected._replace(tag=NULL_HEX)
    if found["host_id"] == 0 != expected.host_id and "QEMU-host-id" in state.config.departures:
        text = f"the manager addressed host {expected.host_id}, the record says 0"
        findings.append(departed("QEMU-host-id", "DEV-20.host", text, op))
        expected = expected._replace(host_id=0)
    log = state.log
    return state._replace(log=(*log[:at], expected, *log[at + 1 :]))


def _mismatch(state: State, op: Completed, at: int, records: Sequence[dict[str, Any]]) -> Violation:
    """Names what is wrong with record `at`: lost, out of order, come again, or one field of it."""
    found, expected = records[at], state.log[at]
    content = (found["type"], found["dpa"], found["length"])
    evidence = {"record": at, "expected": expected._asdict()}
    if found["handle"] in state.trace.cleared and all(found["handle"] != record.handle for record in state.log):
        return fail("DEV-16.cleared", f"the record with handle {found['handle']} came again", op, **evidence)
    if content != (expected.type, expected.dpa, expected.length):
        later = [record for record in state.log[at + 1 :] if content == (record.type, record.dpa, record.length)]
        here = [
            other for other in records[at + 1 :]
            if (other.get("type"), other.get("dpa"), other.get("length"))
            == (expected.type, expected.dpa, expected.length)
        ]  # fmt: skip
        if later and here:
            between = [record for record in state.log[at : state.log.index(later[0])] if not record.more]
            clause = "DEV-16.oldest" if between else "DEV-4.order"
            return fail(clause, f"record {at} comes before an older one", op, **evidence)
        if later:
            return fail("DEV-4.whole", f"the record that must be at {at} is missing", op, **evidence)
    for name, clause, what in _FIELDS:
        if found[name] != getattr(expected, name):
            text = f"record {at}: {what} is {found[name]}, not {getattr(expected, name)}"
            if name == "dpa" and _elsewhere(found, expected):
                clause = "DEV-13.prescriptive"
            return fail(clause, text, op, **evidence)
    return fail("DEV-4.extent", f"record {at} is not the one that must be there", op, **evidence)


def _elsewhere(found: dict[str, Any], expected: Record) -> bool:
    """Whether a new offer lies beside the place that the manager named: not a field is wrong, another extent came."""
    if expected.type != ADD or expected.handle or expected.policy:
        return False
    return bool(found["dpa"] >= expected.dpa + expected.length or found["dpa"] + found["length"] <= expected.dpa)


def _cleared_all(state: State, op: Completed, records: Sequence[dict[str, Any]], findings: list[Violation]) -> State:
    """The device said that Clear All emptied the log; a departed one may still hold it."""
    notes = state.notes._replace(cleared_all=False)
    if records and state.log and records[0].get("handle") == state.log[0].handle:
        text = "Clear All succeeded, and the records are still there"
        findings.append(departed("QEMU-clear-all", "DEV-16.clear-all", text, op))
        return state._replace(notes=notes)
    return apply_clear(state._replace(notes=notes), 1, ())


def _end(
    state: State, op: Completed, records: Sequence[dict[str, Any]], flags: int, findings: list[Violation]
) -> tuple[State, tuple[str, ...]] | Violation:
    """What the reply says of itself: records lost (flag bit 0), records that remain (bit 1)."""
    held, config = len(state.log), state.config
    if config.view == "guest":
        remains = bool(flags & 2)
        state, unknown = _guest_overflow(state, op, flags, findings)
        if remains and "QEMU-remain" in config.departures and records:
            findings.append(departed("QEMU-remain", "DEV-16.remain", "flags say that records remain", op))
        if len(records) < held and not remains:
            return fail("DEV-16.stable", f"{held - len(records)} records that were not cleared are gone", op)
        return state, unknown
    if len(records) < held and not (flags & 2 and records):
        missing = state.log[len(records)]
        return fail(
            "DEV-4.whole",
            f"{held - len(records)} records that must be in the log did not come",
            op,
            expected=missing._asdict(),
        )
    if flags & 2 and len(records) == held:
        text = "flags bit 1 says that records remain, and all were returned"
        if "QEMU-remain" not in config.departures or not records:
            return fail("DEV-16.remain", text, op)
        findings.append(departed("QEMU-remain", "DEV-16.remain", text, op))
    notes = state.notes
    lost = bool(flags & 1)
    if lost != bool(notes.overflow) or (lost and received_count(op) != notes.overflow):
        if not notes.overflow:
            return fail("DEV-4.whole", f"the log overflowed: {received_count(op)} records were lost", op)
        text = f"overflow is {received_count(op) if lost else 'not set'}; {notes.overflow} records were lost"
        return fail("DEV-16.overflow", text, op)
    if notes.untold:
        if "QEMU-log" in config.departures:
            text = f"{len(notes.untold)} records were lost: the log was full"
            lost_records = [record._asdict() for record in notes.untold[:16]]
            findings.append(departed("QEMU-log", "DEV-4.whole", text, op, lost=lost_records))
        state = state._replace(notes=notes._replace(untold=()))
    return state, ()


def received_count(op: Completed) -> int:
    """The overflow count of a 0100h reply."""
    count: int = op.received.get("overflow_count", 0)
    return count


def _guest_overflow(
    state: State, op: Completed, flags: int, findings: list[Violation]
) -> tuple[State, tuple[str, ...]]:
    """After an overflow the last chain may lack its tail, and whole offers may follow that were never seen."""
    count = received_count(op) if flags & 1 else 0
    notes = state.notes
    if count == notes.overflow:
        return state, ()
    if count < notes.overflow:
        return state._replace(notes=notes._replace(overflow=count)), ()
    state = state._replace(notes=notes._replace(overflow=count, gap=True))
    if "QEMU-log" in state.config.departures:
        text = f"{count} records were lost: the log was full"
        findings.append(departed("QEMU-log", "DEV-4.whole", text, op))
        return state, ()
    return state, ("DEV-4.whole",)


def _learn(state: State, op: Completed, found: dict[str, Any]) -> State | Violation:
    """A record that this view sees for the first time (guest view)."""
    if "raw" in found:
        return fail("DEV-4.format", f"a record does not parse: {found['error']}", op)
    wrong = _carried(state, found, op) or _handle(state, (), found["handle"], op)
    if wrong is not None:
        return wrong
    kind, start, length = found["type"], found["dpa"], found["length"]
    record = Record(
        found["handle"], kind, found["more"], found["host_id"], start, length, found["tag"], found["sequence"], -1
    )
    state = state._replace(log=(*state.log, record))
    if kind > FORCED:
        if kind == 3:
            return lose(state, "the regions were set up anew")
        return fail("DEV-4.type", f"a record of type {kind} reached a host", op)
    bad = shape(state.config, start, length)
    for bit, clause, text in _BAD_SHAPE:
        if bad & bit:
            text = f"the extent 0x{start:x}+0x{length:x} of a record {text}"
            if bit == EMPTY_RANGE and "QEMU-fm-empty" in state.config.departures:
                return departed("QEMU-fm-empty", clause, text, op)
            return fail(clause, text, op)
    open_chain = state.chains[-1] if state.chains and not state.chains[-1].complete else None
    if state.notes.gap:
        open_chain = None
    if kind != ADD and open_chain is not None:
        return fail("DEV-4.more", "another record came before the offer's last one (More clear)", op)
    if kind == ADD:
        return _offered(state, op, record, open_chain)
    notes = state.notes
    if kind == RELEASE:
        asked = notes.asked.discard_range(start, length).add(Extent(start, length))
        return state._replace(notes=notes._replace(asked=asked))
    return state._replace(
        accepted=state.accepted.discard_range(start, length),
        pending=state.pending.discard_range(start, length),
        notes=notes._replace(changed=True),
    )


def _offered(state: State, op: Completed, record: Record, chain: Chain | None) -> State | Violation:
    """An add record (guest view): pending from now on, in the open chain or a new one."""
    start, length = record.dpa, record.length
    if state.accepted.overlaps(start, length):
        return fail("DEV-3.accepted", f"0x{start:x}+0x{length:x} is offered and held already", op)
    if state.pending.overlaps(start, length):
        own = chain is not None and any(
            extent.start < start + length and start < extent.end for extent in chain.extents
        )
        clause = "DEV-3.self" if own else "DEV-3.pending"
        return fail(clause, f"0x{start:x}+0x{length:x} is offered and pending already", op)
    extent = Extent(start, length, bytes.fromhex(record.tag), record.sequence)
    notes = state.notes
    if chain is None:
        chains = (*state.chains, Chain((extent,), (), not record.more, notes.gap))
        notes = notes._replace(gap=False) if notes.gap else notes
    else:
        grown = chain._replace(extents=(*chain.extents, extent), complete=not record.more)
        chains = (*state.chains[:-1], grown)
    return state._replace(pending=state.pending.add(extent), chains=chains, notes=notes)
