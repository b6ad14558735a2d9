"""One run of one scenario: inject, wait for the answer, ask the witnesses, append everything to the history.

A session knows the plug points of `bench` and nothing of QEMU, sockets or the guest. It decides nothing about right
and wrong: that is the checker's, from the history alone. What it returns to a scenario is what was witnessed.

A success of the injector is only the start: an `Offer` ends when its answer is witnessed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .bench import Backend, Feed, Host, Injector, Span, Value, Witness, parse_span
from .checker import Verdict, check
from .errors import AskedWrongly, CannotRun, OutcomeUnknown, Refused, TimedOut
from .history import History, Op, Writer
from .units import format_address, format_size

ANSWER_TIMEOUT_S = 5.0
DO_TIMEOUT_S = 5.0
MAX_BLOCKS_ASKED = 256
"""A range with more blocks is asked at both ends and at so many places between, chosen by the seed."""
MAX_DATA_BYTES = 4096
EVENT_LOG = 4
"""The log of Dynamic Capacity events."""
_LIST_PAGE = 50
_RANGES_A_COMMAND = 85
_NULL_TAG = "0" * 32

State = Literal["free", "pending", "accepted"]
Range = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What was witnessed of a host's answer to an offer. Ranges are (DPA, length in bytes).

    `outcome`: accepted, partial, refused, or unanswered (still pending when the time was over).
    `witnesses`: what each of them said: `host` the ranges of its 4802h (None without one), `block` the states.
    """

    outcome: Literal["accepted", "partial", "refused", "unanswered"]
    accepted: tuple[Range, ...]
    refused: tuple[Range, ...]
    witnesses: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What was witnessed of a host's response to a release request. Ranges are (DPA, length in bytes).

    `outcome`: released, partial, declined (it cleared the request and kept all), or unanswered.
    """

    outcome: Literal["released", "partial", "declined", "unanswered"]
    released: tuple[Range, ...]
    kept: tuple[Range, ...]
    witnesses: Mapping[str, Any]


@dataclass(kw_only=True, slots=True, eq=False)
class Offer:
    """A chain that the device took from the manager. `answer` waits for its end."""

    session: Session
    device: str
    region: int
    ranges: tuple[Range, ...]
    answered: tuple[Range, ...] | None = None

    async def answer(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """The host's answer, as the witnesses see it; outcome `unanswered` when none came in time."""
        await self.session.feed.until(lambda: self.answered is not None, timeout_s)
        states = await self.session.states(self.device, self.region, self.ranges)
        accepted, others = _split(states, "accepted")
        pending, refused = _split({range_: s for range_, s in states.items() if s != "accepted"}, "pending")
        if pending:
            outcome: Any = "unanswered"
        else:
            outcome = "refused" if not accepted else "partial" if others else "accepted"
        return Answer(
            outcome=outcome,
            accepted=accepted,
            refused=refused,
            witnesses={"host": self.answered, "block": states},
        )


@dataclass(kw_only=True, slots=True, eq=False)
class ReleaseRequest:
    """A release request that the device took from the manager. `response` waits for what the host does of it."""

    session: Session
    device: str
    region: int
    ranges: tuple[Range, ...]
    unseen: list[Range] = field(default_factory=list)
    handles: set[int] = field(default_factory=set)
    given_back: list[Range] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """The host has read and cleared every record of the request."""
        return not self.unseen and not self.handles

    async def response(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Release:
        """The host's response, as the witnesses see it; `unanswered` when it cleared nothing in time."""
        answered = await self.session.feed.until(lambda: self.done, timeout_s)
        states = await self.session.states(self.device, self.region, self.ranges)
        kept, released = _split(states, "accepted")
        if not kept:
            outcome: Any = "released"
        elif not answered:
            outcome = "unanswered"
        else:
            outcome = "partial" if released else "declined"
        return Release(
            outcome=outcome,
            released=released,
            kept=kept,
            witnesses={"host": tuple(self.given_back), "block": states},
        )


class Session:
    """What a scenario gets as `bench`. Sizes and addresses in bytes; extents are written `OFFSET+LENGTH`."""

    def __init__(
        self,
        *,
        writer: Writer,
        feed: Feed,
        injector: Injector,
        host: Host,
        witnesses: Mapping[str, Witness],
        backend: Backend,
    ) -> None:
        self.writer = writer
        self.feed = feed
        self.injector = injector
        self.host = host
        self.witnesses = witnesses
        self.backend = backend
        self.devices = {device["name"]: device for device in writer.header.devices}
        self.seed = writer.header.seed
        self.random = random.Random(self.seed)
        """For a scenario's own choices: the same seed, the same run."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._offers: dict[str, list[Offer]] = {name: [] for name in self.devices}
        self._requests: list[ReleaseRequest] = []
        self._unread: dict[str, int] = dict.fromkeys(self.devices, 0)
        self._ended: dict[int, Op] = {}
        self._awaited: set[int] = set()
        self._invoked: dict[int, Op] = {}
        self._policy: dict[str, tuple[Value, Value, str | None]] = {
            name: ({"kind": "accept"}, {"kind": "release"}, None) for name in self.devices
        }
        writer.listen(self._see)

    # -- the manager ---------------------------------------------------------------------------------------------

    async def add(
        self,
        extents: Sequence[str | Span],
        *,
        region: int = 0,
        device: str = "mem0",
        host_id: int = 0,
        policy: str = "prescriptive",
        tag: str | None = None,
    ) -> Offer:
        """Offer a chain of extents. Errors: Refused (the device took nothing), OutcomeUnknown, AskedWrongly."""
        spans = _spans(extents)
        offer = Offer(session=self, device=device, region=region, ranges=self._ranges(device, region, spans))
        value = self._managed(device, region, spans, host_id, policy, tag)
        self._offers[device].append(offer)
        try:
            await self._manage("add", value)
        except Refused:
            self._offers[device].remove(offer)
            raise
        return offer

    async def release(
        self,
        extents: Sequence[str | Span],
        *,
        region: int = 0,
        device: str = "mem0",
        host_id: int = 0,
        policy: str = "prescriptive",
        tag: str | None = None,
        forced: bool = False,
        sanitize: bool = False,
    ) -> ReleaseRequest:
        """Ask the host to give extents back. Errors: Refused (nothing was asked), OutcomeUnknown, AskedWrongly."""
        spans = _spans(extents)
        ranges = self._ranges(device, region, spans)
        request = ReleaseRequest(session=self, device=device, region=region, ranges=ranges, unseen=list(ranges))
        value = self._managed(device, region, spans, host_id, policy, tag)
        self._requests.append(request)
        try:
            await self._manage("release", {**value, "forced": forced, "sanitize": sanitize})
        except Refused:
            self._requests.remove(request)
            raise
        return request

    # -- the host ------------------------------------------------------------------------------------------------

    async def policy(self, kind: str, *, device: str = "mem0", **params: Any) -> None:
        """How host U answers offers from now on: accept, refuse, subset, late, never, ... (see `agent/policy`)."""
        _, release, breaks = self._followed(device)
        await self._set_policy(device, {"kind": kind, **params}, release, breaks)

    async def release_policy(self, kind: str, *, device: str = "mem0", **params: Any) -> None:
        """How host U responds to release requests from now on: release, decline, part."""
        add, _, breaks = self._followed(device)
        await self._set_policy(device, add, {"kind": kind, **params}, breaks)

    async def break_rule(self, clause: str | None, *, device: str = "mem0") -> None:
        """Have host U break a rule on purpose, to see it convicted; None ends it."""
        add, release, _ = self._followed(device)
        await self._set_policy(device, add, release, clause)

    async def give_back(self, ranges: Iterable[Range], *, device: str = "mem0") -> int:
        """Have the host release accepted ranges unasked (4803h); the device's return code."""
        value = {"device": device, "flags": 0, "ranges": [list(r) for r in ranges]}
        return int((await self._do("give_back", value)).value["rc"])

    async def answer(self, ranges: Iterable[Range], *, device: str = "mem0", more: bool = False) -> int:
        """Have the host send this answer (4802h), whatever its policy; the device's return code."""
        value = {"device": device, "flags": int(more), "ranges": [list(r) for r in ranges]}
        return int((await self._do("answer", value)).value["rc"])

    async def reset(self) -> None:
        """Reset the host's machine: what becomes of offers, extents and log is recorded, never judged (DEV-22).

        Policies begin anew: the host accepts and releases.
        """
        ops = [self.writer.invoke(f"reset.{name}", "reset", {"device": name}) for name in self.devices]
        await self.host.reset()
        self.feed.drain()
        for op in ops:
            self.writer.end(op, "ok", {})
        for name in self.devices:
            self._policy[name] = ({"kind": "accept"}, {"kind": "release"}, None)

    async def records(self, *, device: str = "mem0") -> tuple[Value, ...]:
        """The records of event log 4 that the host reads now (0100h); its policy treats them as ever."""
        end = await self._do("events", {"device": device, "log": EVENT_LOG})
        if end.type != "ok" or "records" not in end.value:
            raise OutcomeUnknown(f"0100h of {device} gave {end.value}; the log is not known")
        return tuple(end.value["records"])

    async def clear(self, handles: Iterable[int], *, everything: bool = False, device: str = "mem0") -> int:
        """Have the host clear records (0101h), or with `everything` set Clear All; the device's return code."""
        value = {"device": device, "log": EVENT_LOG, "flags": int(everything), "handles": list(handles)}
        return int((await self._do("clear", value)).value["rc"])

    async def idle(self, *, device: str = "mem0", timeout_s: float = ANSWER_TIMEOUT_S) -> bool:
        """Wait until the host has read and cleared every record of what was injected; False if it did not in time."""
        self._known(device)
        return await self.feed.until(lambda: not self._unread[device], timeout_s)

    async def extents(self, *, device: str = "mem0", page: int = _LIST_PAGE) -> tuple[Range, ...]:
        """The device's extent list as the host reads it (4801h), page by page, in the device's order.

        An entry of no length is no extent and is left out; whether it may be there is the checker's to say.
        """
        found: list[Range] = []
        while True:
            end = await self._do("extents", {"device": device, "count": page, "start": len(found)})
            if end.type != "ok" or "extents" not in end.value:
                raise OutcomeUnknown(f"4801h of {device} gave {end.value}; the list is not known")
            entries = end.value["extents"]
            found += [(entry["dpa"], entry["length"]) for entry in entries if entry["length"]]
            if not entries or len(found) >= end.value["total"]:
                return tuple(found)

    async def store(self, dpa: int, data: bytes, *, device: str = "mem0") -> None:
        """Have the host store `data` (at most 4096 bytes) at a DPA through its window."""
        self._bounded(len(data))
        await self._do("store", {"device": device, "dpa": dpa, "data": data.hex(), "side": "host"})

    async def load(self, dpa: int, length: int, *, device: str = "mem0") -> bytes:
        """What the host loads (at most 4096 bytes) at a DPA through its window."""
        self._bounded(length)
        end = await self._do("load", {"device": device, "dpa": dpa, "length": length})
        if end.type != "ok":
            raise OutcomeUnknown(f"the load at {format_address(dpa)} gave {end.value}")
        return bytes.fromhex(end.value["data"])

    # -- the witnesses -------------------------------------------------------------------------------------------

    async def block(self, offset: int, *, length: int | None = None, region: int = 0, device: str = "mem0") -> State:
        """The state of one block, or (with `length`) `free` when no block of the range is anything else."""
        block_size = self._region(device, region)["block_size"]
        value = {"device": device, "region": region, "offset": offset, "length": length or block_size}
        state: State = (await self._witness("block", value))["state"]
        return state

    async def states(self, device: str, region: int, ranges: Iterable[Range]) -> dict[Range, State]:
        """The state of every block of the ranges, and of their neighbours, asked one by one and run together.

        Neighbours are asked, so that a device that takes too much is caught, but are not in the result. They come
        last: what the answer was is witnessed by then.
        """
        place = self._region(device, region)
        base, block_size, length = place["base"], place["block_size"], place["length"]
        found: dict[Range, State] = {}
        for start, size in ranges:
            for dpa, run in self._asked(start, size, block_size):
                found[(dpa, run)] = await self.block(dpa - base, region=region, device=device)
            for outside in (start - block_size, start + size):
                if base <= outside < base + length:
                    await self.block(outside - base, region=region, device=device)
        return _coalesce(found)

    async def read(self, dpa: int, length: int, *, device: str = "mem0") -> bytes:
        """The bytes behind a DPA (at most 4096), read from the memory backend on the host side."""
        self._bounded(length)
        value = {"device": device, "dpa": dpa, "length": length}
        return bytes.fromhex((await self._witness("bytes", value))["data"])

    async def write(self, dpa: int, data: bytes, *, device: str = "mem0") -> None:
        """Write bytes (at most 4096) behind a DPA, into the memory backend on the host side."""
        self._bounded(len(data))
        async with self._lock("backend"):
            value = {"device": device, "dpa": dpa, "data": data.hex(), "side": "backend"}
            op = self.writer.invoke("backend", "store", value)
            self.backend.write(device, dpa, data)
            self.feed.drain()
            self.writer.end(op, "ok", {})

    # -- the end -------------------------------------------------------------------------------------------------

    async def verdict(self) -> Verdict:
        """What the checker says of the history so far."""
        self.feed.drain()
        with self.writer.path.open("rb") as file:
            return check(History(file))

    async def settle(self) -> None:
        """Bring every device back to holding nothing, and have a witness confirm it.

        Errors: CannotRun when something stays accepted or pending (the guest is then not fit for another scenario).
        """
        for name, device in self.devices.items():
            await self._set_policy(name, {"kind": "accept"}, {"kind": "release"}, None)
            await self._settle_pending(name)
            held = await self.extents(device=name)
            for first in range(0, len(held), _RANGES_A_COMMAND):
                await self.give_back(held[first : first + _RANGES_A_COMMAND], device=name)
            for region in device["regions"]:
                state = await self.block(0, length=region["length"], region=region["index"], device=name)
                if state != "free":
                    raise CannotRun(f"region {region['index']} of {name} still holds {state} capacity")

    async def _settle_pending(self, device: str) -> None:
        await self.feed.until(lambda: not self._offers[device], ANSWER_TIMEOUT_S / 5)
        for offer in list(self._offers[device]):
            base = self._region(device, offer.region)["base"]
            if await self.block(offer.ranges[0][0] - base, region=offer.region, device=device) == "pending":
                await self.answer([], device=device)
        self._offers[device].clear()

    # -- inside --------------------------------------------------------------------------------------------------

    def dpa(self, region: int, offset: int, *, device: str = "mem0") -> int:
        """The DPA of an offset in a region."""
        base: int = self._region(device, region)["base"]
        return base + offset

    def _known(self, device: str) -> str:
        if device not in self.devices:
            raise AskedWrongly(f"no device {device!r}; there is {', '.join(self.devices)}")
        return device

    def _followed(self, device: str) -> tuple[Value, Value, str | None]:
        """What the host follows on a device: for offers, for release requests, the rule that it breaks."""
        return self._policy[self._known(device)]

    def _region(self, device: str, region: int) -> Mapping[str, int]:
        self._known(device)
        regions: list[Mapping[str, int]] = self.devices[device]["regions"]
        for found in regions:
            if found["index"] == region:
                return found
        raise AskedWrongly(f"{device} has no region {region}; it has 0 to {len(regions) - 1}")

    def _ranges(self, device: str, region: int, spans: Sequence[Span]) -> tuple[Range, ...]:
        """Where the spans lie; nothing for a region that is not there, which is the device's to refuse."""
        self._known(device)
        try:
            base = self._region(device, region)["base"]
        except AskedWrongly:
            return ()
        return tuple((base + span.offset_bytes, span.length_bytes) for span in spans)

    @staticmethod
    def _managed(device: str, region: int, spans: Sequence[Span], host_id: int, policy: str, tag: str | None) -> Value:
        return {
            "device": device,
            "via": "qmp",
            "host_id": host_id,
            "policy": policy,
            "region": region,
            "tag": tag,
            "extents": [{"offset": span.offset_bytes, "length": span.length_bytes} for span in spans],
        }

    async def _manage(self, f: str, value: Value) -> None:
        async with self._lock("manager"):
            op = self.writer.invoke("manager", f, value)
            try:
                await (self.injector.add(value) if f == "add" else self.injector.release(value))
            except Refused as error:
                self.feed.drain()
                self.writer.end(op, "fail", {"error": type(error).__name__, "desc": error.reason})
                raise
            except OutcomeUnknown as error:
                self.feed.drain()
                self.writer.end(op, "info", {"reason": error.message})
                raise
            self.feed.drain()
            self.writer.end(op, "ok", {})

    async def _witness(self, name: str, value: Value) -> Value:
        witness = self.witnesses.get(name)
        if witness is None:
            raise CannotRun(f"this bench has no witness {name!r}; it has {', '.join(self.witnesses)}")
        async with self._lock("witness"):
            op = self.writer.invoke("witness", witness.f, value)
            try:
                said = await witness.ask(value)
            except OutcomeUnknown as error:
                self.feed.drain()
                self.writer.end(op, "info", {"reason": error.message})
                raise
            self.feed.drain()
            self.writer.end(op, "ok", said)
            return said

    async def _do(self, f: str, value: Value) -> Op:
        """Have the host carry out one operation and wait for its end. Errors: TimedOut, LinkLost, MachineGone."""
        process = f"user.{value['device']}"
        async with self._lock(process):
            op = self.writer.invoke(process, f, value)
            self._awaited.add(op)
            try:
                await self.host.do(op, process, f, value)
                if not await self.feed.until(lambda: op in self._ended, DO_TIMEOUT_S):
                    self.writer.end(op, "info", {"reason": f"no end within {DO_TIMEOUT_S} s"})
                    raise TimedOut(f"the host did not end {f} within {DO_TIMEOUT_S} s", sent=value)
                return self._ended.pop(op)
            finally:
                self._awaited.discard(op)

    async def _set_policy(self, device: str, add: Value, release: Value, breaks: str | None) -> None:
        await self.host.policy(device, add=add, release=release, breaks=breaks)
        self._policy[device] = (add, release, breaks)

    def _see(self, op: Op) -> None:
        """Every line of the history as it is written: what it means for offers and requests that wait."""
        if op.type == "invoke":
            if op.f in ("answer", "give_back", "clear", "add", "release"):
                self._invoked[op.op] = op
            return
        if op.op in self._awaited:
            self._ended[op.op] = op
        began = self._invoked.pop(op.op, None)
        if op.type == "ok" and op.f == "events":
            self._see_records(op.value)
        elif began is not None and op.type == "ok":
            device, ranges = began.value["device"], [tuple(r) for r in began.value.get("ranges", ())]
            if op.f == "answer" and self._offers.get(device) and not began.value.get("flags", 0) & 1:
                self._offers[device].pop(0).answered = tuple(ranges)
            elif op.f == "give_back":
                for request in self._requests:
                    request.given_back += [r for r in ranges if any(_overlap(r, asked) for asked in request.ranges)]
            elif op.f in ("add", "release"):
                self._unread[device] += len(began.value["extents"])
            elif op.f == "clear":
                self._unread[device] -= len(began.value.get("handles", ()))
                for request in self._requests:
                    request.handles -= set(began.value.get("handles", ()))
                self._requests = [request for request in self._requests if not request.done]

    def _see_records(self, value: Mapping[str, Any]) -> None:
        for record in value.get("records", ()):
            if record.get("type") != 1:
                continue
            asked = (record["dpa"], record["length"])
            for request in self._requests:
                if asked in request.unseen:
                    request.unseen.remove(asked)
                    request.handles.add(record["handle"])
                    break

    def _asked(self, start: int, size: int, block_size: int) -> list[Range]:
        blocks = max(1, -(-size // block_size))
        if blocks <= MAX_BLOCKS_ASKED:
            return [(start + index * block_size, block_size) for index in range(blocks)]
        inner = self.random.sample(range(1, blocks - 1), MAX_BLOCKS_ASKED - 2)
        chosen = [0, *sorted(inner), blocks - 1]
        ends = [*chosen[1:], blocks]
        return [(start + a * block_size, (b - a) * block_size) for a, b in zip(chosen, ends, strict=True)]

    def _lock(self, process: str) -> asyncio.Lock:
        return self._locks.setdefault(process, asyncio.Lock())

    @staticmethod
    def _bounded(length: int) -> None:
        if not 0 < length <= MAX_DATA_BYTES:
            raise AskedWrongly(f"{length} bytes at once; give 1 to {format_size(MAX_DATA_BYTES)}")


def _spans(extents: Sequence[str | Span]) -> list[Span]:
    if isinstance(extents, str):
        raise AskedWrongly(f"extents is a list; write [{extents!r}]")
    return [parse_span(extent) if isinstance(extent, str) else extent for extent in extents]


def _coalesce(found: Mapping[Range, State]) -> dict[Range, State]:
    """Adjoining ranges of one state as one, in the order given."""
    runs: list[tuple[int, int, State]] = []
    for (start, length), state in found.items():
        if runs and runs[-1][0] + runs[-1][1] == start and runs[-1][2] == state:
            runs[-1] = (runs[-1][0], runs[-1][1] + length, state)
        else:
            runs.append((start, length, state))
    return {(start, length): state for start, length, state in runs}


def _split(states: Mapping[Range, State], state: State) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """The ranges in that state, and the others."""
    chosen = tuple(range_ for range_, found in states.items() if found == state)
    return chosen, tuple(range_ for range_ in states if range_ not in chosen)


def _overlap(a: Range, b: Sequence[int]) -> bool:
    return a[0] < b[0] + b[1] and b[0] < a[0] + a[1]
