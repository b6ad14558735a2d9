"""Mailbox commands of one device as operations of the history.

For each function of the history that goes through the mailbox: its opcode, how a value becomes a payload, and how
payloads become values. `Commands.run` is the one place where a doorbell is rung for the record:

    load -> read back -> begin with what was read back -> flush -> ring -> end, judged

The value that begins an operation is parsed from the registers, never taken from the intent. What does not parse
travels as raw bytes. Nothing here decides what to send.

Every invoke leaves the guest before its doorbell, that of a reading (0100h) too: else a reading that rang before an
offer was made could seem, to a controller that knows of no invoke yet, to have begun after it, and to have missed it.
Written when the records are there it would keep them waiting, so an idle host *announces* its next reading: it is
loaded, read back and begun, and only the doorbell is left to do. Where another command had the registers meanwhile it
is loaded again; what was announced and is not what they hold then is ended unrung.

An answer is not kept waiting for the judge: an operation run with `later` (the reading of the log, the answer to it)
ends without a judgement, and the next completion of the device carries it together with its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import AskedWrongly, DcdError, MalformedBytes
from ..wire.cci import Opcode
from ..wire.dcd import CapacityResponse, ExtentList, GetExtentList
from ..wire.events import (
    RECORD_SIZE,
    ClearEventRecords,
    DynamicCapacityRecord,
    EventRecords,
    GetEventRecords,
    RawRecord,
)
from .device import Device
from .journal import Journal
from .judge import Judge, merge
from .mailbox import Sent

Value = dict[str, Any]

MOST_LATER = 16

_MAX_U64 = (1 << 64) - 1


class Operation(NamedTuple):
    """How a function of the history goes through the mailbox.

    changes: it can change the device's state. build: from a value to a payload (errors: AskedWrongly). sent,
    received: from payloads to the fields of a value (errors: MalformedBytes).
    """

    opcode: int
    changes: bool
    build: Callable[[Value], bytes]
    sent: Callable[[bytes], Value]
    received: Callable[[bytes], Value]


class End(NamedTuple):
    """How an operation ended: `type` ok, fail or info, and the value of its completion."""

    type: str
    value: Value


def _build_events(value: Value) -> bytes:
    return GetEventRecords(log=_number(value, "log", 0xFF)).to_bytes()


def _sent_events(payload: bytes) -> Value:
    log = _LOGS.get(payload)
    return {"log": GetEventRecords.from_bytes(payload).log if log is None else log}


_LOGS = {GetEventRecords(log=log).to_bytes(): log for log in range(5)}  # what is sent many times a second


def _received_events(payload: bytes) -> Value:
    head = EventRecords.head_of(payload)
    records = [_record_at(payload, at) for at in range(EventRecords.layout.size, len(payload), RECORD_SIZE)]
    return {"rc": 0, "flags": head[0], "overflow_count": head[2], "records": records}


def _record_at(payload: bytes, at: int) -> Value:
    """The event record there as the history shows it, made at once from its fields: every offer waits for this."""
    try:
        (
            _, _, record_flags, handle, _, _, _, _, _, kind, validity, host_id, region, flags, _,
            start, length, tag, sequence, _, _, available_extents, available_tags,
        ) = DynamicCapacityRecord.fields_at(payload, at)  # fmt: skip
    except MalformedBytes as error:
        raw = RawRecord.of(error)
        return {"raw": raw.data.hex(), "error": raw.error, "handle": raw.handle}
    return {
        "handle": handle,
        "type": kind,
        "more": bool(flags & 1),
        "validity": validity,
        "host_id": host_id,
        "region": region,
        "dpa": start,
        "length": length,
        "tag": tag.hex(),
        "sequence": sequence,
        "available_extents": available_extents,
        "available_tags": available_tags,
        "severity": record_flags & 3,
    }


def _build_clear(value: Value) -> bytes:
    handles = value.get("handles")
    if not isinstance(handles, list) or len(handles) > 255 or not all(_is_number(h, 0xFFFF) for h in handles):
        raise AskedWrongly(f"handles {handles!r}; give a list of at most 255 numbers of 16 bits")
    return ClearEventRecords(
        handles=tuple(handles), log=_number(value, "log", 0xFF), flags=_number(value, "flags", 0xFF)
    ).to_bytes()


def _sent_clear(payload: bytes) -> Value:
    request = ClearEventRecords.from_bytes(payload)
    return {"log": request.log, "flags": request.flags, "handles": list(request.handles)}


def _build_ranges(value: Value) -> bytes:
    ranges = value.get("ranges")
    if not isinstance(ranges, list) or not all(_is_range(pair) for pair in ranges):
        raise AskedWrongly(f"ranges {str(ranges)[:80]}; give a list of [dpa, length], numbers of 64 bits")
    return CapacityResponse.build([(start, length) for start, length in ranges], _number(value, "flags", 0xFF))


def _sent_ranges(payload: bytes) -> Value:
    flags, ranges = CapacityResponse.flags_and_ranges(payload)
    return {"flags": flags, "ranges": [[start, length] for start, length in ranges]}


def _build_extents(value: Value) -> bytes:
    return GetExtentList(
        count=_number(value, "count", 0xFFFFFFFF), start=_number(value, "start", 0xFFFFFFFF)
    ).to_bytes()


def _sent_extents(payload: bytes) -> Value:
    request = GetExtentList.from_bytes(payload)
    return {"count": request.count, "start": request.start}


def _received_extents(payload: bytes) -> Value:
    page = ExtentList.from_bytes(payload)
    return {
        "rc": 0,
        "total": page.total,
        "generation": page.generation,
        "extents": [
            {"dpa": extent.start, "length": extent.length, "tag": extent.tag.hex(), "sequence": extent.sequence}
            for extent in page.extents
        ],
    }


def _received_nothing(payload: bytes) -> Value:
    return {"rc": 0}


OPERATIONS: dict[str, Operation] = {
    "events": Operation(int(Opcode.GET_EVENT_RECORDS), False, _build_events, _sent_events, _received_events),
    "clear": Operation(int(Opcode.CLEAR_EVENT_RECORDS), True, _build_clear, _sent_clear, _received_nothing),
    "answer": Operation(int(Opcode.ADD_DC_RESPONSE), True, _build_ranges, _sent_ranges, _received_nothing),
    "give_back": Operation(int(Opcode.RELEASE_DC), True, _build_ranges, _sent_ranges, _received_nothing),
    "extents": Operation(int(Opcode.GET_DC_EXTENT_LIST), False, _build_extents, _sent_extents, _received_extents),
}
"""By function of the history; adding one is one row."""


class Announced(NamedTuple):
    """An operation that has begun, and is loaded and not rung yet: `sent` is what the registers held then."""

    op: int
    process: str
    f: str
    value: Value
    sent: Sent


class Commands:
    """The recorded mailbox of one device. `on_end` sees every operation that ended, with what was sent."""

    def __init__(self, device: Device, name: str, journal: Journal, judge: Judge) -> None:
        self._mailbox = device.mailbox
        self._name = name
        self._journal = journal
        self._judge = judge
        self._later: list[tuple[str, Value, End]] = []
        self._carried: Value | None = None
        self.announced: Announced | None = None
        self.on_end: Callable[[str, Value, End], None] = lambda f, sent, end: None

    def announce(self, process: str, f: str, payload: bytes) -> None:
        """Load and begin now the operation that `run` will ring next for that process and `f`, so that nothing but
        the doorbell is left to do then; nothing if one has begun. Errors: as of `run`.
        """
        if self.announced is None:
            sent, value = self._load(OPERATIONS[f], payload)
            self.announced = Announced(self._journal.begin(process, f, value), process, f, value, sent)

    def withdraw(self, reason: str) -> None:
        """End what was announced, unrung."""
        if self.announced is not None:
            op, process, f, _, _ = self.announced
            self.announced = None
            self._journal.end(op, process, "info", f, {"reason": f"not rung: {reason}"})

    def run(self, process: str, f: str, payload: bytes, op: int | None = None, *, later: bool = False) -> End:
        """Send `payload` as the command of `f`; how it ended, after it was recorded.

        `op` is the number of an operation that the controller has begun; without it the operation begins here. What
        the controller wrote down must be what is rung: where the registers hold something else, nothing is.
        Errors: TimedOut (an earlier command still runs: nothing was begun), AskedWrongly (too long), LinkLost.
        """
        operation = OPERATIONS[f]
        ready = self.announced
        if ready is not None and op is None and self._holds(ready, process, f, payload):
            self.announced = None
            return self._finish(ready.op, process, f, ready.value, later)
        sent, value = self._load(operation, payload)
        journal = self._journal
        if op is None:
            op = self._begin(process, f, value)
        elif sent.payload != payload:
            end = End("info", {"reason": f"not rung: the payload registers hold {sent.payload.hex()[:80]}"})
            journal.end(op, process, end.type, f, end.value)
            return end
        return self._finish(op, process, f, value, later)

    def _holds(self, ready: Announced, process: str, f: str, payload: bytes) -> bool:
        """Whether the registers have held just this since it was announced."""
        return (
            self._mailbox.loaded is ready.sent
            and ready.sent.payload == payload
            and ready.f == f
            and ready.process == process
        )

    def _load(self, operation: Operation, payload: bytes) -> tuple[Sent, Value]:
        """Put it into the registers; what they hold then, and the value that says it."""
        sent = self._mailbox.load(operation.opcode, payload)
        value: Value = {"device": self._name}
        try:
            value.update(operation.sent(sent.payload))
        except MalformedBytes as error:
            value["raw"] = sent.payload.hex()
            value["error"] = error.message
        return sent, value

    def _finish(self, op: int, process: str, f: str, value: Value, later: bool) -> End:
        """Ring what is loaded and begun."""
        self._journal.flush()
        end = self._ring(OPERATIONS[f])
        self.ended(op, process, f, value, end, later=later)
        self.on_end(f, value, end)
        return end

    def tell(self) -> None:
        """Let the controller know now what has ended: somebody waits for it. Errors: LinkLost."""
        self._journal.flush()

    def ended(self, op: int, process: str, f: str, sent: Value, end: End, *, later: bool = False) -> None:
        """Record the end of an operation and judge it, at once or later."""
        if later:
            self._later.append((f, sent, end))
            self._journal.end(op, process, end.type, f, end.value)
            if len(self._later) >= MOST_LATER:
                self.judge_later()
            return
        self.judge_later()
        judged = self._judge.step(f, sent, end.type, end.value)
        if f not in OPERATIONS:  # loads and stores carry no judgement; the totals hold it
            self._journal.end(op, process, end.type, f, end.value)
            return
        judged = merge(self._carried, judged)
        self._carried = None
        self._journal.end(op, process, end.type, f, {**end.value, "judged": judged} if judged else end.value)

    def judge_later(self) -> None:
        """Judge what was put off, in its order; it goes out with the next completion."""
        for f, sent, end in self._later:
            self._carried = merge(self._carried, self._judge.step(f, sent, end.type, end.value))
        self._later.clear()

    def _begin(self, process: str, f: str, value: Value) -> int:
        """The number of the operation that rings now: the one announced, if it is this one."""
        announced = self.announced
        if announced is not None and (announced.process, announced.f) == (process, f):
            if announced.value == value:
                self.announced = None
                return announced.op
            self.withdraw("the payload registers hold something else")
        return self._journal.begin(process, f, value)

    def _ring(self, operation: Operation) -> End:
        try:
            reply = self._mailbox.ring()
        except DcdError as error:  # no answer within the bound, or registers that make no sense: nobody knows
            return End("info", {"reason": str(error)})
        if reply.rc:
            return End("fail", {"rc": reply.rc})
        try:
            return End("ok", operation.received(reply.payload))
        except MalformedBytes as error:
            return End("ok", {"rc": 0, "raw": reply.payload.hex(), "error": error.message})


def _is_number(value: object, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _is_range(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(_is_number(part, _MAX_U64) for part in pair)


def _number(value: Value, key: str, most: int) -> int:
    found = value.get(key, 0)
    if not _is_number(found, most):
        raise AskedWrongly(f"{key} {found!r}; give a number from 0 to {most}")
    return int(found)
