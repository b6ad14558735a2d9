"""A device that keeps the rules: `reply(device, f, sent) -> (device, type, received)`, pure.

It answers every operation of the history as `decide` and `manager` permit, and where several answers are permitted it
takes the plainest: the first code of the table, list in DPA order, everything at once. What the device may choose by
itself (DEV-13) follows from its seed. With departures in its configuration it does what they say. Histories in tests
are written with it, and an emulator is this plus a socket; it is not the judge: `device.step` and `whole.step` never
look here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..extents import NULL_TAG, Extent
from . import qemu
from .choice import CONTIGUOUS, FREE, PRESCRIPTIVE, choose
from .decide import (
    EMPTY_RANGE,
    HANDLE_ORDER,
    HANDLE_UNKNOWN,
    HOST,
    INVALID_INPUT,
    LOG,
    NO_OVERFLOW,
    POLICY,
    REFUSALS,
    SHORT,
    TAGS,
    TOO_MANY,
    Decision,
    apply,
    apply_clear,
    apply_give_back,
    apply_release,
    decide,
    decision,
    manager_extents,
    read_handles,
    read_ranges,
)
from .handover import after_command, sanitized
from .manager import (
    asked_extents,
    decide_ask,
    decide_list_tags,
    decide_offer,
    decide_reference,
    decide_region,
    do_ask,
    do_named,
    do_reference,
    do_region,
    is_forced,
    is_plain,
    offered,
)
from .pool import begin, enter, holders, host_of, leave, rest_of, tags_in_use, whole
from .record import INFORMATIONAL, WARNING
from .state import NO_MEMORY, NULL_HEX, Config, Memory, Record, Segment, State
from .witness import standing

if TYPE_CHECKING:
    from collections.abc import Sequence

_RECORD_BYTES, _EVENT_HEADER_BYTES = 128, 32
_EXTENT_BYTES, _LIST_HEADER_BYTES = 40, 16
SUPPORTED_EXTENTS = 512
_STATUS_LOG = 1 << 4
LOGS = 5
"""Event logs that a device has; only the last of them ever holds a record here."""
_MAX_U32 = (1 << 32) - 1

Received = dict[str, Any]


class Device(NamedTuple):
    """The state by the rules, and what a device has besides: its next handle, generation number and bytes.

    `order`: the accepted extents in the order of a list that is QEMU's; without departures the list is in DPA order.
    `generation` is that of the first host's list, `generations` (host, number) those of the others. `seed`: what it
    chooses where it may choose.
    """

    state: State
    next_handle: int = 1
    generation: int = 0
    content: Memory = NO_MEMORY
    order: tuple[Extent, ...] = ()
    seed: int = 0
    generations: tuple[tuple[int, int], ...] = ()


def device(config: Config, seed: int = 0) -> Device:
    """A fresh device."""
    return Device(begin(config), seed=seed)


_REQUESTS = frozenset(("add", "release", "force", "set_region", "add_reference", "remove_reference"))


def reply(device: Device, f: str, sent: dict[str, Any]) -> tuple[Device, str, Received]:
    """The device after an operation, the type of its end (ok, fail) and the end's value."""
    state = device.state
    if state.rest is None and f in _REQUESTS and not (f in ("add", "release") and is_plain(sent)):
        state = whole(state)
    if state.rest is None:
        return _answer(device, f, sent)
    host, served = host_of(state, sent), state.config.limits.hosts
    home = served[0]
    if host not in served:
        unchecked = "QEMU-host" if sent.get("via") == "qmp" else "QEMU-fm-host"
        if f in ("add", "release") and unchecked in state.config.departures:
            host = home
        elif f in _REQUESTS:
            return _refuse(device, f, sent, decision(f, HOST))
        else:
            return device, "fail", {"rc": INVALID_INPUT}
    number = device.generation if host == home else dict(device.generations).get(host, 0)
    inner = device._replace(state=enter(state, host), generation=number)
    after, kind, received = _answer(inner, f, sent)
    if host == home:
        return after._replace(state=leave(after.state)), kind, received
    others = tuple(sorted({**dict(device.generations), host: after.generation}.items()))
    outer = after._replace(state=leave(after.state), generation=device.generation, generations=others)
    return outer, kind, received


def _answer(device: Device, f: str, sent: dict[str, Any]) -> tuple[Device, str, Received]:
    """As `reply`, towards the host whose part the state shows."""
    state = device.state
    if f in _REQUESTS:
        return _request(device, f, sent)
    if f in ("answer", "give_back", "clear"):
        return _command(device, f, sent)
    if f == "events":
        return _events(device)
    if f in ("extents", "fm_extents"):
        return _extents(device, f, sent)
    if f == "list_tags":
        return _list_tags(device, sent)
    if f == "status":
        return device, "ok", {"status": _STATUS_LOG if state.log else 0}
    if f == "block":
        dpa = state.config.regions[sent["region"]].base + sent["offset"]
        return device, "ok", {"state": standing(state, dpa), "desc": ""}
    if f == "store":
        return _store(device, sent), "ok", {}
    if f in ("load", "bytes"):
        return device, "ok", {"data": _read(device, f, sent["dpa"], sent["length"]).hex()}
    return device, "ok", {}


def _request(device: Device, f: str, sent: dict[str, Any]) -> tuple[Device, str, Received]:
    """A manager's command."""
    state = device.state
    departures = state.config.departures
    served: Received = {"rc": 0} if f not in ("add", "release", "force") else {}
    if f in ("release", "force") and is_forced(f, sent) and "QEMU-forced" in departures:
        if sent["via"] == "qmp":
            return device, "fail", {"error": "GenericError", "desc": "Forced removal not supported yet"}
        after = apply_release(state, sent, manager_extents(state, sent))
        return _numbered(device._replace(state=after._replace(rest=state.rest))), "ok", served
    found = _decided(state, f, sent)
    unchecked = TAGS if "QEMU-tags-supported" in departures else 0
    if sent.get("via") == "qmp":
        unchecked |= (HOST if "QEMU-host" in departures else 0) | (TOO_MANY if "QEMU-add-full" in departures else 0)
    else:
        unchecked |= HOST if "QEMU-fm-host" in departures else 0
        unread = (EMPTY_RANGE if "QEMU-fm-empty" in departures else 0) | (SHORT if "QEMU-fm-short" in departures else 0)
        if found.faults and not found.faults & ~unread:
            return device, "ok", served
    found = found._replace(faults=found.faults & ~unchecked)
    policy_unknown = found.unsure & POLICY
    if found.faults or policy_unknown or (sent.get("policy") == PRESCRIPTIVE and found.unsure):
        return _refuse(device, f, sent, found)
    return _numbered(_untagged(device, _done(device, f, sent), sent)), "ok", served


def _untagged(before: Device, after: Device, sent: dict[str, Any]) -> Device:
    """The device with what it queued as a departed one has it: a tag given over QMP is in no record."""
    state = after.state
    if sent.get("via") != "qmp" or "QEMU-tag-qmp" not in state.config.departures:
        return after
    old = len(before.state.log)
    new = tuple([record._replace(tag=NULL_HEX) for record in state.log[old:]])
    return after._replace(state=state._replace(log=(*state.log[:old], *new)))


def _decided(state: State, f: str, sent: dict[str, Any]) -> Decision:
    if state.rest is None:
        return decide(state, f, sent)
    if f == "add":
        found = decide_offer(state, sent)
    elif f in ("release", "force"):
        found = decide_ask(state, sent, forced=is_forced(f, sent))
    elif f == "set_region":
        return decide_region(state, sent)
    else:
        return decide_reference(state, f, sent)
    if sent["host_id"] not in state.config.limits.hosts:
        return found._replace(faults=found.faults | HOST)
    return found


def _refuse(device: Device, f: str, sent: dict[str, Any], found: Decision) -> tuple[Device, str, Received]:
    fault = next((fault for bit, fault in REFUSALS[f].items() if found.faults & bit), None)
    error: Received = {"error": "GenericError", "desc": fault.text if fault else "the policy is not served"}
    if sent.get("via", "fm") == "fm":
        error["rc"] = max(fault.codes) if fault else INVALID_INPUT
    return device, "fail", error


def _done(device: Device, f: str, sent: dict[str, Any]) -> Device:
    """The device after a manager's command that it serves."""
    state = device.state
    if state.rest is None:
        return device._replace(state=apply(state, f, sent))
    if f == "add":
        extents = choose(state, sent, device.seed) if sent["policy"] in (FREE, CONTIGUOUS) else offered(state, sent)
        return device._replace(state=do_named(state, sent, extents))
    if f == "set_region":
        return device._replace(state=do_region(state, sent))
    if f in ("add_reference", "remove_reference"):
        return device._replace(state=do_reference(state, f, sent))
    forced = is_forced(f, sent)
    extents = asked_extents(state, sent, forced=forced)
    after = do_ask(state, sent, extents, forced=forced, known=True)
    if not forced:
        return device._replace(state=after)
    ranges = [(extent.start, extent.length) for extent in extents]
    device = _sanitize(device, state, ranges, asked=bool(sent.get("sanitize")))
    changed = after.accepted != state.accepted and "QEMU-generation" not in state.config.departures
    return device._replace(state=after, generation=device.generation + changed)


def _sanitize(device: Device, before: State, ranges: Sequence[Sequence[int]], *, asked: bool) -> Device:
    """The device with what these ranges hold cleared, where region or request asks for it (DEV-14)."""
    content = device.content
    if "QEMU-sanitize" not in before.config.departures:
        for start, end in sanitized(before, ranges, asked=asked):
            content = content.discard_range(start, end - start)
    return device._replace(content=content)


def _numbered(device: Device) -> Device:
    """Every record in the log has its handle from the moment that it is there."""
    log: list[Record] = []
    handle = device.next_handle
    for record in device.state.log:
        if not record.handle:
            record = record._replace(handle=handle)
            handle = handle % 65535 + 1
        log.append(record)
    return device._replace(state=device.state._replace(log=tuple(log)), next_handle=handle)


def _clear(device: Device, sent: dict[str, Any]) -> tuple[Device, str, Received] | None:
    """0101h where a log or a departure has it otherwise than `decide`; None where it has not."""
    state = device.state
    decision = decide(state, "clear", sent)
    departures = state.config.departures
    log, flags, handles, short = read_handles(sent)
    if log >= LOGS and not short:
        return device, "fail", {"rc": INVALID_INPUT}
    if log != LOG:
        return device, "ok", {"rc": 0}
    if "QEMU-clear-all" in departures and not short:
        if flags & 1:
            return _command(device, "clear", {"log": log, "flags": 0, "handles": list(handles)})
        if not handles:
            return device, "ok", {"rc": 0}
    if decision.faults & (HANDLE_ORDER | HANDLE_UNKNOWN) and "QEMU-clear-beyond" in departures:
        held = [record.handle for record in state.log]
        if held == list(handles[: len(held)]):
            return device._replace(state=apply_clear(state, 0, handles)._replace(rest=state.rest)), "ok", {"rc": 0}
    if decision.faults & (HANDLE_ORDER | HANDLE_UNKNOWN) and "QEMU-clear-code" in departures:
        return device, "fail", {"rc": INVALID_INPUT}
    if decision.faults & NO_OVERFLOW:
        return device, "fail", {"rc": INVALID_INPUT}
    return None


def _command(device: Device, f: str, sent: dict[str, Any]) -> tuple[Device, str, Received]:
    """A host's 0101h, 4802h or 4803h."""
    state = device.state
    special = _clear(device, sent) if f == "clear" else None
    if special is not None:
        return special
    decision = decide(state, f, sent)
    departures = state.config.departures
    ranges = read_ranges(sent)[1] if f in ("answer", "give_back") else ()
    if departures and ranges and not decision.faults & SHORT and (told := qemu.code(state, f, ranges)):
        return device, "fail", {"rc": told}
    if decision.faults == EMPTY_RANGE and f == "give_back" and "QEMU-release-nothing" in departures:
        kept = [pair for pair in read_ranges(sent)[1] if pair[1]]
        order = qemu.listed(device.order, f, kept)
        return (
            device._replace(state=apply_give_back(state, kept)._replace(rest=state.rest), order=order),
            "ok",
            {"rc": 0},
        )
    if decision.faults:
        codes = next(fault.codes for bit, fault in REFUSALS[f].items() if decision.faults & bit)
        return device, "fail", {"rc": max(codes)}
    after = apply(state, f, sent)
    if departures and ranges:
        device = device._replace(order=qemu.listed(device.order, f, ranges))
    if state.rest is not None:
        if f == "give_back":
            device = _sanitize(device, state, ranges, asked=False)
        after = after_command(state, after, f, ranges)
    changed = after.accepted != state.accepted
    generation = device.generation
    if changed and "QEMU-generation" not in departures:
        generation += 1
    return device._replace(state=after, generation=generation), "ok", {"rc": 0}


def _events(device: Device) -> tuple[Device, str, Received]:
    device = _numbered(device)
    state = device.state
    most = (state.config.limits.payload_bytes - _EVENT_HEADER_BYTES) // _RECORD_BYTES
    log = state.log
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
    return device, "ok", received


def _record(state: State, record: Record) -> dict[str, Any]:
    supported = state.config.limits.supported_extents or SUPPORTED_EXTENTS
    departures = state.config.departures
    wraps = "QEMU-available-wraps" in departures
    return {
        "handle": record.handle,
        "type": record.type,
        "more": record.more,
        "validity": 1,
        "host_id": 0 if "QEMU-host-id" in departures else record.host_id,
        "region": record.region,
        "dpa": record.dpa,
        "length": record.length,
        "tag": record.tag,
        "sequence": record.sequence,
        "available_extents": (supported - record.used) & _MAX_U32 if wraps else max(supported - record.used, 0),
        "available_tags": max((state.config.limits.supported_tags or 0) - max(record.tags, 0), 0),
        "severity": WARNING if "QEMU-severity" in departures else INFORMATIONAL,
    }


def _extents(device: Device, f: str, sent: dict[str, Any]) -> tuple[Device, str, Received]:
    """4801h, or 5603h: a page of the list."""
    state, start = device.state, sent["start"]
    held = device.order if state.config.departures else tuple(state.accepted)
    if start > len(held):
        return device, "fail", {"rc": INVALID_INPUT}
    payload_bytes = state.config.limits.payload_bytes if f == "extents" else _MAX_U32
    most = (payload_bytes - _LIST_HEADER_BYTES) // _EXTENT_BYTES
    page = held[start : start + min(sent["count"], most)]
    bare = "QEMU-tag" in state.config.departures
    shown = [_extent(extent._replace(tag=NULL_TAG, sequence=0) if bare else _named(state, extent)) for extent in page]
    if f == "extents" and "QEMU-list-pending" in state.config.departures:
        room = min(sent["count"], most) - len(shown)
        shown += [_extent(Extent(0, 0))] * min(room, len(state.pending))
    return device, "ok", {"rc": 0, "total": len(held), "generation": device.generation, "extents": shown}


def _named(state: State, extent: Extent) -> Extent:
    """The extent with its tag and sequence, which a list in QEMU's order does not keep."""
    held = state.accepted.find(extent.start)
    return extent if held is None else extent._replace(tag=held.tag, sequence=held.sequence)


def _list_tags(device: Device, sent: dict[str, Any]) -> tuple[Device, str, Received]:
    """5608h: who has what tag."""
    state = device.state
    found = decide_list_tags(state, sent)
    if found.faults or found.unsure:
        return _refuse(device, "list_tags", sent, found)
    referenced = {kept.tag for kept in rest_of(state).references} if state.rest is not None else frozenset()
    tags = sorted(tags_in_use(whole(state)))
    shown: list[Received] = []
    for tag in tags[sent["start"] : sent["start"] + sent["count"]]:
        have, wait = holders(whole(state), tag)
        flags = int(tag in referenced)
        shown.append({"tag": tag.hex(), "flags": flags, "hosts": list(have), "pending_hosts": list(wait)})
    return device, "ok", {"rc": 0, "total": len(tags), "generation": 0, "validity": 3, "tags": shown}


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
