"""A device that keeps the rules: `reply(device, f, sent) -> (device, type, received)`, pure.

It answers every operation of the history as `decide` permits, and where several answers are permitted it takes the
plainest: the first code of the table, list in DPA order, everything at once. With departures in its configuration it
does what they say. Histories in tests are written with it, and an emulator is this plus a socket; it is not the judge:
`device.step` never looks here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..extents import NULL_TAG, Extent
from .decide import (
    EMPTY_RANGE,
    EXHAUSTED,
    HANDLE_ORDER,
    HANDLE_UNKNOWN,
    HOST,
    INVALID_INPUT,
    LOG,
    NO_OVERFLOW,
    REFUSALS,
    TOO_MANY,
    apply,
    apply_clear,
    apply_give_back,
    decide,
    read_handles,
    read_ranges,
    supported_extents,
)
from .record import INFORMATIONAL, WARNING
from .state import NO_MEMORY, NULL_HEX, Config, Memory, Record, Segment, State, initial
from .witness import standing

_RECORD_BYTES, _EVENT_HEADER_BYTES = 128, 32
_EXTENT_BYTES, _LIST_HEADER_BYTES = 40, 16
SUPPORTED_EXTENTS = 512
_MAX_U32 = (1 << 32) - 1

Received = dict[str, Any]


class Device(NamedTuple):
    """The state by the rules, and what a device has besides: its next handle, generation number and bytes."""

    state: State
    next_handle: int = 1
    generation: int = 0
    content: Memory = NO_MEMORY


def device(config: Config) -> Device:
    """A fresh device."""
    return Device(initial(config))


def reply(device: Device, f: str, sent: dict[str, Any]) -> tuple[Device, str, Received]:
    """The device after an operation, the type of its end (ok, fail) and the end's value."""
    if f in ("add", "release"):
        return _manager(device, f, sent)
    if f in ("answer", "give_back", "clear"):
        return _command(device, f, sent)
    if f == "events":
        return _events(device)
    if f == "extents":
        return _extents(device, sent)
    if f == "block":
        state = device.state
        dpa = state.config.regions[sent["region"]].base + sent["offset"]
        return device, "ok", {"state": standing(state, dpa), "desc": ""}
    if f == "store":
        return _store(device, sent), "ok", {}
    if f in ("load", "bytes"):
        return device, "ok", {"data": _read(device, f, sent["dpa"], sent["length"]).hex()}
    return device, "ok", {}


def _manager(device: Device, f: str, sent: dict[str, Any]) -> tuple[Device, str, Received]:
    state = device.state
    decision = decide(state, f, sent)
    departures = state.config.departures
    if sent.get("forced"):
        return device, "fail", {"error": "GenericError", "desc": "forced release is not served"}
    if sent["via"] == "qmp":
        unchecked = (HOST if "QEMU-host" in departures else 0) | (TOO_MANY if "QEMU-add-full" in departures else 0)
        decision = decision._replace(faults=decision.faults & ~unchecked)
    if decision.faults or decision.unsure:
        fault = next((fault for bit, fault in REFUSALS[f].items() if decision.faults & bit), None)
        error: Received = {"error": "GenericError", "desc": fault.text if fault else "the policy is not served"}
        if sent["via"] == "fm":
            error["rc"] = max(fault.codes) if fault else INVALID_INPUT
        return device, "fail", error
    return device._replace(state=apply(state, f, sent)), "ok", {}


def _command(device: Device, f: str, sent: dict[str, Any]) -> tuple[Device, str, Received]:
    state = device.state
    decision = decide(state, f, sent)
    departures = state.config.departures
    if f == "clear":
        log, flags, handles, _short = read_handles(sent)
        if log != LOG:
            return device, "ok", {"rc": 0}
        if flags & 1 and "QEMU-clear-all" in departures:
            return device, "ok", {"rc": 0}
        if decision.faults & HANDLE_UNKNOWN and "QEMU-clear-beyond" in departures:
            held = [record.handle for record in state.log]
            if held == list(handles[: len(held)]):
                return device._replace(state=apply_clear(state, 0, handles)), "ok", {"rc": 0}
        if decision.faults & (HANDLE_ORDER | HANDLE_UNKNOWN) and "QEMU-clear-code" in departures:
            return device, "fail", {"rc": INVALID_INPUT}
        if decision.faults & NO_OVERFLOW:
            return device, "fail", {"rc": INVALID_INPUT}
    if decision.faults == EMPTY_RANGE and f == "give_back" and "QEMU-release-nothing" in departures:
        kept = [pair for pair in read_ranges(sent)[1] if pair[1]]
        return device._replace(state=apply_give_back(state, kept)), "ok", {"rc": 0}
    if decision.faults:
        codes = next(fault.codes for bit, fault in REFUSALS[f].items() if decision.faults & bit)
        return device, "fail", {"rc": max(codes)}
    if f == "answer" and "QEMU-counts-twice" in departures and _counted_twice(state, sent):
        return device, "fail", {"rc": EXHAUSTED}
    after = apply(state, f, sent)
    changed = after.accepted != state.accepted
    generation = device.generation
    if changed and "QEMU-generation" not in departures:
        generation += 1
    return device._replace(state=after, generation=generation), "ok", {"rc": 0}


def _counted_twice(state: State, sent: dict[str, Any]) -> bool:
    supported = supported_extents(state) or SUPPORTED_EXTENTS
    more = len(read_ranges(sent)[1])
    return more > 0 and len(state.accepted) + len(state.pending) + more > supported


def _events(device: Device) -> tuple[Device, str, Received]:
    state = device.state
    most = (state.config.limits.payload_bytes - _EVENT_HEADER_BYTES) // _RECORD_BYTES
    log: list[Record] = []
    handle = device.next_handle
    for record in state.log:
        if not record.handle:
            record = record._replace(handle=handle)
            handle = handle % 65535 + 1
        log.append(record)
    shown = log[:most]
    departures = state.config.departures
    remain = len(shown) < len(log) or bool(shown and "QEMU-remain" in departures)
    lost = state.notes.overflow
    received = {
        "rc": 0,
        "flags": (1 if lost else 0) | (2 if remain else 0),
        "overflow_count": lost,
        "records": [_record(state, record) for record in shown],
    }
    return device._replace(state=state._replace(log=tuple(log)), next_handle=handle), "ok", received


def _record(state: State, record: Record) -> dict[str, Any]:
    tag = record.tag
    supported = state.config.limits.supported_extents or SUPPORTED_EXTENTS
    departures = state.config.departures
    wraps = "QEMU-available-wraps" in departures
    if "QEMU-tag-qmp" in departures:
        offered = state.pending.find(record.dpa) or state.accepted.find(record.dpa)
        tag = offered.tag.hex() if offered is not None else NULL_HEX
    return {
        "handle": record.handle,
        "type": record.type,
        "more": record.more,
        "validity": 1,
        "host_id": 0 if "QEMU-host-id" in departures else record.host_id,
        "region": 0,
        "dpa": record.dpa,
        "length": record.length,
        "tag": tag,
        "sequence": record.sequence,
        "available_extents": (supported - record.used) & _MAX_U32 if wraps else max(supported - record.used, 0),
        "available_tags": 0,
        "severity": WARNING if "QEMU-severity" in departures else INFORMATIONAL,
    }


def _extents(device: Device, sent: dict[str, Any]) -> tuple[Device, str, Received]:
    state, start = device.state, sent["start"]
    held = tuple(state.accepted)
    if start > len(held):
        return device, "fail", {"rc": INVALID_INPUT}
    most = (state.config.limits.payload_bytes - _LIST_HEADER_BYTES) // _EXTENT_BYTES
    page = held[start : start + min(sent["count"], most)]
    bare = "QEMU-tag" in state.config.departures
    shown = [_extent(extent._replace(tag=NULL_TAG, sequence=0) if bare else extent) for extent in page]
    if "QEMU-list-pending" in state.config.departures:
        room = min(sent["count"], most) - len(shown)
        shown += [_extent(Extent(0, 0))] * min(room, len(state.pending))
    return device, "ok", {"rc": 0, "total": len(held), "generation": device.generation, "extents": shown}


def _extent(extent: Extent) -> dict[str, Any]:
    tag = extent.tag.hex() if extent.tag != NULL_TAG else NULL_HEX
    return {"dpa": extent.start, "length": extent.length, "tag": tag, "sequence": extent.sequence}


def _store(device: Device, sent: dict[str, Any]) -> Device:
    dpa, data = sent["dpa"], bytes.fromhex(sent["data"])
    content = device.content
    if sent.get("side") == "backend":
        return device._replace(content=_put(content, dpa, data))
    for extent in device.state.accepted.intersecting(dpa, len(data)):
        first, last = max(extent.start, dpa), min(extent.end, dpa + len(data))
        content = _put(content, first, data[first - dpa : last - dpa])
    return device._replace(content=content)


def _put(content: Memory, dpa: int, data: bytes) -> Memory:
    return content.discard_range(dpa, len(data)).add(Segment(dpa, len(data), data))


def _read(device: Device, f: str, dpa: int, length: int) -> bytes:
    """What the backend holds there; through the device, only what is accepted, else zero."""
    found = bytearray(length)
    for segment in device.content.intersecting(dpa, length):
        first, last = max(segment.start, dpa), min(segment.start + segment.length, dpa + length)
        found[first - dpa : last - dpa] = segment.part(first, last - first).data
    if f == "bytes":
        return bytes(found)
    shown = bytearray(length)
    for extent in device.state.accepted.intersecting(dpa, length):
        first, last = max(extent.start, dpa) - dpa, min(extent.end, dpa + length) - dpa
        shown[first:last] = found[first:last]
    return bytes(shown)
