"""One run of one scenario: inject, wait for the answer, ask the witnesses, append everything to the history.

A session knows the plug points of `bench` and nothing of QEMU, sockets or the guest. It decides nothing about right
and wrong: that is the checker's, from the history alone. What it returns to a scenario is what was witnessed.

A success of the injector is only the start: an `Offer` ends when its answer is witnessed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

from . import asked
from .bench import (
    REMOVAL_POLICIES,
    SELECTION_POLICIES,
    Backend,
    Feed,
    Foreseeing,
    Host,
    Injector,
    Manager,
    Span,
    Value,
    Witness,
    parse_span,
)
from .checker import Verdict, check
from .errors import (
    AnsweredWrongly,
    AskedWrongly,
    CannotRun,
    LinkLost,
    MachineGone,
    OutcomeUnknown,
    Refused,
    TimedOut,
    Unserved,
)
from .history import History, Op, Writer
from .topology import Topology
from .units import format_address, format_size

ANSWER_TIMEOUT_S = 5.0
DO_TIMEOUT_S = 5.0
MAX_BLOCKS_ASKED = 256
"""A range with more blocks is asked at both ends and at so many places between, chosen by the seed."""
MAX_DATA_BYTES = 4096
EVENT_LOG = 4
"""The log of Dynamic Capacity events."""
_LIST_PAGE = 50
_MAX_PAGES = 4096
_FM, _QMP, _BLOCK = "fm", "qmp", "block"
RANGES_A_COMMAND = 85
_RELEASE, _FORCED = 1, 2
_NULL_TAG = "0" * 32
_REFERENCES = ("add_reference", "remove_reference")
_OF_NO_HOST = frozenset(("set_region", "bytes", "list_tags", *_REFERENCES))
"""Operations of a device, whatever host: their values have no host_id."""

Beside = Callable[["Topology | None"], AbstractAsyncContextManager["Session"]]
"""Starts a further guest of a topology (None: that of the first)."""
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

    def __str__(self) -> str:
        return _told(self.outcome, ("accepted", self.accepted), ("not accepted", self.refused))


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """What was witnessed of a host's response to a release request. Ranges are (DPA, length in bytes).

    `outcome`: released, partial, declined (it cleared the request and kept all), or unanswered.
    """

    outcome: Literal["released", "partial", "declined", "unanswered"]
    released: tuple[Range, ...]
    kept: tuple[Range, ...]
    witnesses: Mapping[str, Any]

    def __str__(self) -> str:
        return _told(self.outcome, ("released", self.released), ("kept", self.kept))


@dataclass(kw_only=True, slots=True, eq=False)
class Offer:
    """A chain that the device took from the manager. `answer` waits for its end."""

    session: Session
    device: str
    region: int
    ranges: tuple[Range, ...]
    answered: tuple[Range, ...] | None = None

    async def answer(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """The host's answer, as the witnesses see it; outcome `unanswered` when none came in time.

        Errors: AskedWrongly (a time that is none), MachineGone, TimedOut.
        """
        asked.seconds(timeout_s)
        if self.answered is None:
            self.session.foresee(self.device, self.region, self.ranges)
            await self.session.feed.until(lambda: self.answered is not None, timeout_s)
        states = await self.session.states(self.device, self.region, self.ranges)
        await self.session.compare(device=self.device)
        accepted, others = split(states, "accepted")
        pending, refused = split({range_: s for range_, s in states.items() if s != "accepted"}, "pending")
        if pending:
            outcome: Any = "unanswered"
        else:
            outcome = "refused" if not accepted else "partial" if others else "accepted"
        return Answer(
            outcome=outcome,
            accepted=accepted,
            refused=refused,
            witnesses={"host": self.answered, _BLOCK: states},
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
        """The host's response, as the witnesses see it; `unanswered` when it cleared nothing in time.

        Errors: AskedWrongly (a time that is none), MachineGone, TimedOut.
        """
        asked.seconds(timeout_s)
        if not self.done:
            self.session.foresee(self.device, self.region, self.ranges)
        answered = await self.session.feed.until(lambda: self.done, timeout_s)
        states = await self.session.states(self.device, self.region, self.ranges)
        await self.session.compare(device=self.device)
        kept, released = split(states, "accepted")
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
            witnesses={"host": tuple(self.given_back), _BLOCK: states},
        )


class Session:
    """What a scenario gets as `bench`. Sizes and addresses in bytes; extents are written `OFFSET+LENGTH`.

    `device` is a name of the topology (mem0), as its first host has it; as a further host has it, `mem0.1` (its id).
    What is given wrongly (a device that is not there, a text where a number belongs) is AskedWrongly, and nothing was
    sent. What only the device may refuse is sent, so that its refusal can be seen.
    """

    def __init__(
        self,
        *,
        writer: Writer,
        feed: Feed,
        injector: Injector,
        injectors: Iterable[Injector] = (),
        host: Host,
        witnesses: Mapping[str, Witness],
        backend: Backend,
        beside: Beside | None = None,
    ) -> None:
        self.writer = writer
        self.feed = feed
        self.injector = injector
        """Who injects where nothing else is asked for; `injectors` has all, by name."""
        self.injectors = {one.name: one for one in (injector, *injectors)}
        self.host = host
        self.witnesses = witnesses
        self.backend = backend
        self._beside = beside
        self.devices = {device["name"]: device for device in writer.header.devices}
        self._sides = {
            f"{name}.{host_id}" if at else name: device
            for name, device in self.devices.items()
            for at, host_id in enumerate(device.get("hosts", (0,)))
        }
        self._block_sizes: dict[tuple[str, int], int] = {}
        self.seed = writer.header.seed
        self.random = random.Random(self.seed)
        """For a scenario's own choices: the same seed, the same run."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._offers: dict[str, list[Offer]] = {name: [] for name in self._sides}
        self._requests: list[ReleaseRequest] = []
        self._unread: dict[str, int] = dict.fromkeys(self._sides, 0)
        self._ended: dict[int, Op] = {}
        self._awaited: set[int] = set()
        self._invoked: dict[int, Op] = {}
        self._policy: dict[str, tuple[Value, Value, str | None]] = {
            name: ({"kind": "accept"}, {"kind": "release"}, None) for name in self._sides
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
        via: str | None = None,
    ) -> Offer:
        """Offer a chain of extents.

        `tag`: of all of them; a `Span` can have its own, and a sequence number. `via`: the injector; None for the
        usual one, or where tags are asked for one that can send them. `host_id`: as a device `mem0.1` says it, too.
        Errors: Refused (the device took nothing), OutcomeUnknown, AskedWrongly, CannotRun (it is not served).
        """
        asked.one_of(policy, "policy", SELECTION_POLICIES)
        spans = _spans(extents)
        injector = self._via(via, spans, tag)
        device = self._facing(device, host_id)
        value = self._managed(injector, device, region, spans, host_id, policy, tag)
        offer = Offer(session=self, device=device, region=region, ranges=self._ranges(device, region, spans))
        self._offers[device].append(offer)
        try:
            await self._manage("add", value, injector)
        except (Refused, AskedWrongly, CannotRun):
            self._offers[device].remove(offer)
            raise
        if not value["extents"]:  # which are the device's to name: as many records as were thought of, at best
            self._unread[device] += len(spans)
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
        via: str | None = None,
    ) -> ReleaseRequest:
        """Ask the host to give extents back. `tag`, `via`: as `add` has them.

        Errors: Refused (nothing was asked), OutcomeUnknown, AskedWrongly, CannotRun (it is not served).
        """
        asked.one_of(policy, "policy", REMOVAL_POLICIES)
        spans = _spans(extents)
        injector = self._via(via, spans, tag)
        device = self._facing(device, host_id)
        value = self._managed(injector, device, region, spans, host_id, policy, tag)
        ranges = self._ranges(device, region, spans)
        request = ReleaseRequest(session=self, device=device, region=region, ranges=ranges, unseen=list(ranges))
        self._requests.append(request)
        try:
            await self._manage("release", {**value, "forced": bool(forced), "sanitize": bool(sanitize)}, injector)
        except (Refused, AskedWrongly, CannotRun):
            self._requests.remove(request)
            raise
        return request

    async def reference(self, tag: str, *, keep: bool = True, device: str = "mem0") -> None:
        """Take a reference to a tag (5606h), or let it go (5607h). Errors: as `set_region`."""
        value = {"device": self._known(device), "via": _FM, "tag": asked.tag(tag)}
        await self._manage(_REFERENCES[not keep], value, self._fabric())

    # -- the user of a simulated kernel --------------------------------------------------------------------------

    async def kernel_write(self, f: Literal["claim", "use", "unuse"], *, device: str = "mem0", **value: Any) -> str:
        """Have the user of a simulated kernel write a file, or map a DAX device: what it gave ("-EBUSY"), "" for none.

        `f` and `value` are those of the history (`claim_invoke`, `use_invoke` of its schema). Errors: Unserved where
        the host is no simulated kernel (`needs={"simulated"}` says so), AskedWrongly.
        """
        asked.one_of(f, "f", ("claim", "use", "unuse"))
        write = getattr(self.host, "write", None)
        if write is None:
            raise Unserved(f"host {self.host.name} is no simulated kernel; dcd simulate has one")
        process = f"user.{self._known(device)}"
        told = self._owned(f, {"device": device, **asked.plain(value, f)})
        async with self._lock(process):
            op = self.writer.invoke(process, f, told)
            try:
                error = str(await write(f, told))
            except (AskedWrongly, Unserved) as problem:
                self.writer.end(op, "info", {"reason": problem.message})
                raise
            self.feed.drain()
            self.writer.end(op, "fail" if error else "ok", {"error": error} if error else {})
            return error

    async def sysfs(self, region: str = "region0", *, device: str = "mem0") -> Value:
        """What a simulated kernel shows of a region, as the history's `sysfs`. Errors: CannotRun, AskedWrongly."""
        return await self._witness("sysfs", {"device": self._known(device), "region": region})

    # -- the manager, on ----------------------------------------------------------------------------------------

    async def set_region(self, region: int, *, block_size: int, sanitize: bool = False, device: str = "mem0") -> None:
        """Set a region up anew (5602h). Errors: Refused, OutcomeUnknown, CannotRun (there is no fabric manager)."""
        value = {
            "device": self._known(device),
            "via": _FM,
            "region": asked.whole(region, "region", most=0xFF),
            "block_size": asked.whole(block_size, "block_size"),
            "sanitize": bool(sanitize),
        }
        await self._manage("set_region", value, self._fabric())
        self._block_sizes[device, region] = block_size

    async def send(self, f: Literal["add", "release"], payload: bytes, *, device: str = "mem0") -> bytes:
        """Send these bytes as the payload of 5604h (`add`) or 5605h (`release`), sense or nonsense.

        The message that came back, which says success. What they offer or ask, if the device takes it, is not
        awaited. Errors: as `set_region`; a Refused has the message that came back in `received`.
        """
        fabric = self._fabric()
        asked.one_of(f, "f", ("add", "release"))
        said = fabric.said(f, bytes(payload))
        return await self._manage(f, {"device": self._known(device), **said}, fabric)

    # -- the host ------------------------------------------------------------------------------------------------

    async def policy(self, kind: str, *, device: str = "mem0", **params: Any) -> None:
        """How host U answers offers from now on: accept, refuse, subset, late, never, ... (see `agent/policy`)."""
        _, release, breaks = self._followed(device)
        await self._set_policy(device, {"kind": kind, **asked.plain(params, f"policy {kind!r}:")}, release, breaks)

    async def release_policy(self, kind: str, *, device: str = "mem0", **params: Any) -> None:
        """How host U responds to release requests from now on: release, decline, part."""
        add, _, breaks = self._followed(device)
        await self._set_policy(device, add, {"kind": kind, **asked.plain(params, f"policy {kind!r}:")}, breaks)

    async def break_rule(self, clause: str | None, *, device: str = "mem0") -> None:
        """Have host U break a rule on purpose, to see it convicted; None ends it."""
        add, release, _ = self._followed(device)
        await self._set_policy(device, add, release, clause)

    async def give_back(self, ranges: Iterable[Range], *, device: str = "mem0") -> int:
        """Have the host release accepted ranges unasked (4803h); the device's return code."""
        value = {"device": self._known(device), "flags": 0, "ranges": asked.ranges(ranges)}
        rc = int((await self._do("give_back", value)).value["rc"])
        await self.compare(device=device)
        return rc

    async def answer(self, ranges: Iterable[Range], *, device: str = "mem0", more: bool = False) -> int:
        """Have the host send this answer (4802h), whatever its policy; the device's return code."""
        value = {"device": self._known(device), "flags": int(bool(more)), "ranges": asked.ranges(ranges)}
        rc = int((await self._do("answer", value)).value["rc"])
        if not more:  # until the chain closes, no rule says whether what it named is in the list
            await self.compare(device=device)
        return rc

    async def oldest(self, *, device: str = "mem0") -> Offer | None:
        """The oldest offer that waits for an answer, as far as a witness calls it pending; None without one.

        It is the one that the next answer settles (DEV-6). An offer of which nothing is pending any more, and that was
        not seen answered, was withdrawn: it is forgotten.
        """
        offers = self._offers[self._known(device)]
        for offer in list(offers):
            base = self._region(device, offer.region)["base"]
            for start, length in offer.ranges:
                state = await self.block(start - base, length=length, region=offer.region, device=device)
                if state == "pending":
                    return offer
            if offer in offers:
                offers.remove(offer)
        return None

    async def reset(self) -> None:
        """Reset the host's machine: what becomes of offers, extents and log is recorded, never judged (DEV-22).

        Policies begin anew: the host accepts and releases.
        """
        ops = [self.writer.invoke(f"reset.{name}", "reset", {"device": name}) for name in self.devices]
        await self.host.reset()
        self.feed.drain()
        for op in ops:
            self.writer.end(op, "ok", {})
        for name in self._sides:
            self._policy[name] = ({"kind": "accept"}, {"kind": "release"}, None)

    async def records(self, *, device: str = "mem0") -> tuple[Value, ...]:
        """The records of event log 4 that the host reads now (0100h); its policy treats them as ever."""
        end = await self._do("events", {"device": self._known(device), "log": EVENT_LOG})
        if end.type != "ok" or "records" not in end.value:
            raise OutcomeUnknown(f"0100h of {device} gave {end.value}; the log is not known")
        return tuple(end.value["records"])

    async def clear(self, handles: Iterable[int], *, everything: bool = False, device: str = "mem0") -> int:
        """Have the host clear records (0101h), or with `everything` set Clear All; the device's return code."""
        named = [asked.whole(handle, "handle", most=0xFFFF) for handle in handles]
        value = {
            "device": self._known(device),
            "log": EVENT_LOG,
            "flags": int(bool(everything)),
            "handles": named,
        }
        return int((await self._do("clear", value)).value["rc"])

    async def idle(self, *, device: str = "mem0", timeout_s: float = ANSWER_TIMEOUT_S) -> bool:
        """Wait until the host has read and cleared every record of what was injected; False if it did not in time."""
        self._known(device)
        return await self.feed.until(lambda: not self._unread[device], asked.seconds(timeout_s))

    async def extents(self, *, device: str = "mem0", page: int = _LIST_PAGE) -> tuple[Range, ...]:
        """The device's extent list as the host reads it (4801h), page by page, in the device's order.

        An entry of no length is no extent and is left out; whether it may be there is the checker's to say.
        """
        self._known(device)
        asked.whole(page, "page", most=0xFFFF)
        found: list[Range] = []
        while True:
            end = await self._do("extents", {"device": device, "count": page, "start": len(found)})
            if end.type != "ok" or "extents" not in end.value:
                raise OutcomeUnknown(f"4801h of {device} gave {end.value}; the list is not known")
            entries = end.value["extents"]
            found += [(entry["dpa"], entry["length"]) for entry in entries if entry["length"]]
            if not entries or len(found) >= end.value["total"]:
                return tuple(found)

    async def fm_extents(self, *, device: str = "mem0", host_id: int = 0, page: int = _LIST_PAGE) -> tuple[Value, ...]:
        """The device's extent list as the fabric manager reads it (5603h), page by page; the host is not asked.

        Each with dpa, length, tag and sequence. Entries of no length are left out, as by `extents`.
        """
        self._known(device)
        asked.whole(page, "page", most=0xFFFF)
        found: list[Value] = []
        for _ in range(_MAX_PAGES):
            value = {"device": device, "host_id": host_id, "count": page, "start": len(found)}
            said = await self._witness("fm_extents", value)
            if "extents" not in said:
                raise OutcomeUnknown(f"5603h of {device} gave {said}; the list is not known")
            entries = said["extents"]
            found += [entry for entry in entries if entry["length"]]
            if not entries or len(found) >= said["total"]:
                return tuple(found)
        raise OutcomeUnknown(f"5603h of {device} has no end: {len(found)} extents after {_MAX_PAGES} pages")

    async def tags(self, *, device: str = "mem0", page: int = _LIST_PAGE) -> dict[str, Value]:
        """The tags that the device knows, as the fabric manager reads them (5608h), page by page: by tag, `hosts` (who
        has it), `pending_hosts`, and `flags` (bit 0: a reference keeps it).
        """
        self._known(device)
        asked.whole(page, "page", most=0xFFFF, least=1)
        found: dict[str, Value] = {}
        for _ in range(_MAX_PAGES):
            said = await self._witness("list_tags", {"device": device, "start": len(found), "count": page})
            found |= {one["tag"]: one for one in said["tags"]}
            if not said["tags"] or len(found) >= said["total"]:
                return found
        raise OutcomeUnknown(f"5608h of {device} has no end: {len(found)} tags after {_MAX_PAGES} pages")

    async def compare(self, *, device: str = "mem0") -> None:
        """Have both lists of what is accepted read, the host's (4801h) and the fabric manager's (5603h).

        That they say the same, and what the block states say, is the checker's to see (WITNESS.lists). Nothing is
        done where there is no such witness.
        """
        if "fm_extents" in self.witnesses:
            await self.extents(device=device)
            await self.fm_extents(device=device)

    async def store(self, dpa: int, data: bytes, *, device: str = "mem0") -> None:
        """Have the host store `data` (at most 4096 bytes) at a DPA through its window."""
        value = {**self._place(device, dpa, len(asked.octets(data))), "data": bytes(data).hex(), "side": "host"}
        end = await self._do("store", value)
        if end.type != "ok":
            raise OutcomeUnknown(f"the store at {format_address(dpa)} gave {end.value}")

    async def load(self, dpa: int, length: int, *, device: str = "mem0") -> bytes:
        """What the host loads (at most 4096 bytes) at a DPA through its window."""
        value = {**self._place(device, dpa, length), "length": length}
        end = await self._do("load", value)
        if end.type != "ok":
            raise OutcomeUnknown(f"the load at {format_address(dpa)} gave {end.value}")
        return bytes.fromhex(end.value["data"])

    # -- the witnesses -------------------------------------------------------------------------------------------

    async def block(self, offset: int, *, length: int | None = None, region: int = 0, device: str = "mem0") -> State:
        """The state of one block, or (with `length`) `free` when no block of the range is anything else."""
        state: State = (await self._witness(_BLOCK, self._block(device, region, offset, length)))["state"]
        return state

    def foresee(self, device: str, region: int, ranges: Sequence[Range]) -> None:
        """Have a witness that can prepare for the first question of `states`, which is about to be asked."""
        witness = self.witnesses.get(_BLOCK)
        if not ranges or not isinstance(witness, Foreseeing):
            return
        place = self._region(device, region)
        if ranges[0][1] > MAX_BLOCKS_ASKED * place["block_size"]:
            return  # what is asked of a longer range is drawn by lot, when it is asked
        value = self._block(device, region, ranges[0][0] - place["base"], None)
        witness.foresee(self._owned(witness.f, value))

    def _block(self, device: str, region: int, offset: int, length: int | None) -> Value:
        block_size = self._region(device, region)["block_size"]
        return {
            "device": device,
            "region": region,
            "offset": asked.whole(offset, "offset"),
            "length": block_size if length is None else asked.whole(length, "length", least=1),
        }

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
        value = {**self._place(device, dpa, length), "length": length}
        return bytes.fromhex((await self._witness("bytes", value))["data"])

    async def write(self, dpa: int, data: bytes, *, device: str = "mem0") -> None:
        """Write bytes (at most 4096) behind a DPA, into the memory backend on the host side."""
        value = {**self._place(device, dpa, len(asked.octets(data))), "data": bytes(data).hex(), "side": "backend"}
        value = self._owned("store", value)
        async with self._lock("backend"):
            op = self.writer.invoke("backend", "store", value)
            try:
                self.backend.write(value["device"], dpa, data)
            except AskedWrongly as error:
                self.writer.end(op, "fail", {"error": error.message})
                raise
            self.feed.drain()
            self.writer.end(op, "ok", {})

    # -- other guests --------------------------------------------------------------------------------------------

    def beside(self, topology: Topology | None = None) -> AbstractAsyncContextManager[Session]:
        """Another guest side by side with this one, as a bench of its own: `async with bench.beside() as other:`.

        Of the same QEMU and kernel, and of the same topology where none is given. It has a history of its own, which
        is judged with this run's. Errors: Unserved where a bench has only one host (`needs={"guests"}` says so).
        """
        if self._beside is None:
            raise Unserved('this bench has one guest only; a scenario that wants more says @scenario(needs={"guests"})')
        return self._beside(topology)

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
        for name, device in self._sides.items():
            await self._set_policy(name, {"kind": "accept"}, {"kind": "release"}, None)
            await self._settle_pending(name)
            held = await self.extents(device=name)
            for first in range(0, len(held), RANGES_A_COMMAND):
                await self.give_back(held[first : first + RANGES_A_COMMAND], device=name)
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
        return base + asked.whole(offset, "offset")

    def _known(self, device: str) -> str:
        if not isinstance(device, str) or device not in self._sides:
            raise AskedWrongly(f"no device {device!r}; there is {', '.join(self._sides)}")
        return device

    def _facing(self, device: str, host_id: int) -> str:
        """The device as that host has it; as it is named where it serves no such host."""
        side = f"{device}.{host_id}"
        return side if side in self._sides else device

    def _side(self, value: Mapping[str, Any]) -> str:
        """The device that a value of the history is about, as the host that it belongs to has it."""
        return self._facing(str(value["device"]), value.get("host_id", 0))

    def _owned(self, f: str, value: Value) -> Value:
        """The value with the name of the topology, and with the host that it belongs to where that is not the first."""
        name, dot, host_id = value["device"].partition(".")
        if not dot:
            return value
        told = {**value, "device": name}
        return told if f in _OF_NO_HOST else {**told, "host_id": int(host_id)}

    def _place(self, device: str, dpa: int, length: int) -> Value:
        """The device and the address of bytes in it, at most 4096. Errors: AskedWrongly, for what is not in it."""
        regions = self._sides[self._known(device)]["regions"]
        end = max(region["base"] + region["length"] for region in regions)
        if not 0 < asked.whole(length, "length") <= MAX_DATA_BYTES:
            raise AskedWrongly(f"{length} bytes at once; give 1 to {format_size(MAX_DATA_BYTES)}")
        if asked.whole(dpa, "dpa") + length > end:
            raise AskedWrongly(
                f"{device}: DPA {format_address(dpa)} + {length} bytes; the device ends at {format_address(end)}"
            )
        return {"device": device, "dpa": dpa}

    def _followed(self, device: str) -> tuple[Value, Value, str | None]:
        """What the host follows on a device: for offers, for release requests, the rule that it breaks."""
        return self._policy[self._known(device)]

    def _region(self, device: str, region: int) -> Mapping[str, int]:
        self._known(device)
        regions: list[Mapping[str, int]] = self._sides[device]["regions"]
        for found in regions:
            if found["index"] == region:
                block_size = self._block_sizes.get((device, region))
                return found if block_size is None else {**found, "block_size": block_size}
        raise AskedWrongly(f"{device} has no region {region}; it has 0 to {len(regions) - 1}")

    def _ranges(self, device: str, region: int, spans: Sequence[Span]) -> tuple[Range, ...]:
        """Where the spans lie; nothing for a region that is not there, which is the device's to refuse."""
        self._known(device)
        try:
            base = self._region(device, region)["base"]
        except AskedWrongly:
            return ()
        return tuple((base + span.offset_bytes, span.length_bytes) for span in spans)

    def _via(self, via: str | None, spans: Sequence[Span], tag: str | None) -> Injector:
        """Who injects: the one named; else the usual one, unless tags are asked that another one can send."""
        if via is not None:
            return self._injector(via)
        usual = self.injector
        if "tags" not in usual.serves and (tag is not None or any(span.tag or span.sequence for span in spans)):
            return next((one for one in self.injectors.values() if "tags" in one.serves), usual)
        return usual

    def _injector(self, name: str) -> Injector:
        found = self.injectors.get(name)
        if found is None:
            raise CannotRun(f"this bench does not inject by {asked.shown(name)}; it has {', '.join(self.injectors)}")
        return found

    def _fabric(self) -> Manager:
        """The injector that is a fabric manager. Errors: CannotRun."""
        found = self._injector(_FM)
        if not isinstance(found, Manager):
            raise CannotRun(f"the injector {_FM} of this bench is no fabric manager")
        return found

    def _managed(
        self,
        injector: Injector,
        device: str,
        region: int,
        spans: Sequence[Span],
        host_id: int,
        policy: str,
        tag: str | None,
    ) -> Value:
        value: Value = {
            "device": self._known(device),
            "via": _FM if injector.name == _FM else _QMP,
            "host_id": asked.whole(host_id, "host_id", most=0xFFFF),
            "policy": policy,
            "region": asked.whole(region, "region", most=0xFF),
            "tag": asked.tag(tag),
        }
        if value["via"] == _FM:
            return {**value, **self._absolute(device, region, spans, policy, value["tag"])}
        if any(span.tag or span.sequence for span in spans):
            raise CannotRun(f"a tag or sequence of one extent cannot be sent by {injector.name}; say via='{_FM}'")
        return {**value, "extents": [{"offset": one.offset_bytes, "length": one.length_bytes} for one in spans]}

    def _absolute(self, device: str, region: int, spans: Sequence[Span], policy: str, tag: str | None) -> Value:
        """The extents as a fabric manager names them: DPAs, each with tag and sequence; or only how much."""
        if policy != "prescriptive":
            return {"extents": [], "length": sum(span.length_bytes for span in spans)}
        base = self._region(device, region)["base"]
        return {
            "extents": [
                {
                    "dpa": asked.whole(base + span.offset_bytes, "DPA"),
                    "length": span.length_bytes,
                    "tag": span.tag or tag or _NULL_TAG,
                    "sequence": span.sequence,
                }
                for span in spans
            ]
        }

    async def _manage(self, f: str, value: Value, by: Injector) -> bytes:
        """Invoke it and end it; of bytes that were sent as they are, the answer's."""
        answer = b""
        value = self._owned(f, value)
        if isinstance(by, Manager) and f in ("add", "release"):
            await by.check(f, value)
        async with self._lock("manager"):
            op = self.writer.invoke("manager", f, value)
            try:
                if isinstance(by, Manager) and f == "set_region":
                    await by.set_region(value)
                elif isinstance(by, Manager) and f in _REFERENCES:
                    await by.send(f, {**value, "raw": value["tag"]})  # which is all that the payload is
                elif isinstance(by, Manager) and "raw" in value:
                    answer = await by.send(f, value)
                else:
                    await (by.add(value) if f == "add" else by.release(value))
            except Refused as error:
                self.feed.drain()
                told = {"error": type(error).__name__} if error.rc is None else {"rc": error.rc}
                self.writer.end(op, "fail", {**told, "desc": error.reason})
                raise
            except (AskedWrongly, AnsweredWrongly, OutcomeUnknown) as error:
                # nothing was sent, which is no refusal by the device; or what came back tells nobody what became of it
                self.feed.drain()
                self.writer.end(op, "info", {"reason": error.message})
                raise
            except asyncio.CancelledError:
                self._given_up(op)
                raise
            self.feed.drain()
            self.writer.end(op, "ok", {"rc": 0} if value["via"] == _FM else {})
            return answer

    async def _witness(self, name: str, value: Value) -> Value:
        witness = self.witnesses.get(name)
        if witness is None:
            raise CannotRun(f"this bench has no witness {name!r}; it has {', '.join(self.witnesses)}")
        value = self._owned(witness.f, value)
        async with self._lock("witness"):
            op = self.writer.invoke("witness", witness.f, value)
            try:
                said = await witness.ask(value)
            except (Refused, AskedWrongly) as error:  # the question was not understood: nobody knows more than before
                self.feed.drain()
                rc = error.rc if isinstance(error, Refused) else None
                self.writer.end(op, "fail", {"error": error.message} if rc is None else {"rc": rc})
                raise
            except (AnsweredWrongly, OutcomeUnknown) as error:
                self.feed.drain()
                self.writer.end(op, "info", {"reason": error.message})
                raise
            except asyncio.CancelledError:
                self._given_up(op)
                raise
            self.feed.drain()
            self.writer.end(op, "ok", said)
            return said

    async def _do(self, f: str, value: Value) -> Op:
        """Have the host carry out one operation and wait for its end. Errors: TimedOut, LinkLost, MachineGone."""
        if (may_send := getattr(self.host, "may_send", None)) is not None:
            may_send(f)  # what it certainly does not send is not in the history
        process = f"user.{value['device']}"
        value = self._owned(f, value)
        async with self._lock(process):
            op = self.writer.invoke(process, f, value)
            self._awaited.add(op)
            try:
                await self.host.do(op, process, f, value)
                if not await self.feed.until(lambda: op in self._ended, DO_TIMEOUT_S):
                    self.writer.end(op, "info", {"reason": f"no end within {DO_TIMEOUT_S} s"})
                    raise TimedOut(f"the host did not end {f} within {DO_TIMEOUT_S} s", sent=value)
                return self._ended.pop(op)
            except (asyncio.CancelledError, LinkLost, MachineGone) as error:
                self._given_up(op, str(error))
                raise
            finally:
                self._awaited.discard(op)

    def _given_up(self, op: int, reason: str = "") -> None:
        """Nobody waits for its end any more. A process runs one operation at a time, so this one ends here, unknown."""
        self.feed.drain()
        if op in self.writer.open_operations:
            self.writer.end(op, "info", {"reason": reason or "nobody waited for its end"})

    async def _set_policy(self, device: str, add: Value, release: Value, breaks: str | None) -> None:
        await self.host.policy(device, add=add, release=release, breaks=breaks)
        self._policy[device] = (add, release, breaks)

    def _see(self, op: Op) -> None:
        """Every line of the history as it is written: what it means for offers and requests that wait."""
        if op.type == "invoke":
            if op.f in ("answer", "give_back", "clear", "add", "release", "events"):
                self._invoked[op.op] = op
            return
        if op.op in self._awaited:
            self._ended[op.op] = op
        began = self._invoked.pop(op.op, None)
        if op.type == "ok" and op.f == "events":
            self._see_records(op.value, "" if began is None else self._side(began.value))
        elif began is not None and op.type == "ok":
            device, ranges = self._side(began.value), [tuple(r) for r in began.value.get("ranges", ())]
            if op.f == "answer" and self._offers.get(device) and not began.value.get("flags", 0) & 1:
                self._offers[device].pop(0).answered = tuple(ranges)
            elif op.f == "give_back":
                for request in self._requests_of(device):
                    request.given_back += [r for r in ranges if any(_overlap(r, asked) for asked in request.ranges)]
            elif op.f in ("add", "release"):
                self._unread[device] += len(began.value["extents"])
            elif op.f == "clear":
                self._unread[device] -= len(began.value.get("handles", ()))
                for request in self._requests_of(device):
                    request.handles -= set(began.value.get("handles", ()))
                self._requests = [request for request in self._requests if not request.done]

    def _requests_of(self, device: str) -> list[ReleaseRequest]:
        return [request for request in self._requests if request.device == device]

    def _see_records(self, value: Mapping[str, Any], device: str) -> None:
        for record in value.get("records", ()):
            if record.get("type") not in (_RELEASE, _FORCED):
                continue
            asked = (record["dpa"], record["length"])
            if record["type"] == _FORCED:  # an offer that it withdrew whole has no answer to wait for
                offers = self._offers.get(device, [])
                offers[:] = [one for one in offers if not all(_inside(found, asked) for found in one.ranges)]
            for request in self._requests:
                if asked in request.unseen and device in ("", request.device):
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


def _spans(extents: Sequence[str | Span]) -> list[Span]:
    """The extents that were given, as text or as Span. Errors: AskedWrongly."""
    if isinstance(extents, str | Span):
        raise AskedWrongly(f"extents is a list; write [{str(extents)!r}]")
    if not isinstance(extents, Sequence):
        raise AskedWrongly(f"extents {asked.shown(extents)}; give a list, like ['0+256M']")
    return [_span(extent) for extent in extents]


def _span(extent: object) -> Span:
    if isinstance(extent, str):
        return parse_span(extent)
    if isinstance(extent, Span):
        return Span(
            asked.whole(extent.offset_bytes, "extent offset"),
            asked.whole(extent.length_bytes, "extent length"),
            asked.tag(extent.tag),
            asked.whole(extent.sequence, "extent sequence", most=0xFFFF),
        )
    if not isinstance(extent, tuple) or len(extent) != 2:
        raise AskedWrongly(f"extent {asked.shown(extent)}; write OFFSET+LENGTH, like '0+256M', or Span(0, 256 * MIB)")
    return Span(asked.whole(extent[0], "extent offset"), asked.whole(extent[1], "extent length"))


def _told(outcome: str, *parts: tuple[str, tuple[Range, ...]]) -> str:
    """An outcome and its ranges, in one line for a log."""
    said = [
        f"{what} {' '.join(f'{format_address(a)}+{format_size(b)}' for a, b in ranges)}"
        for what, ranges in parts
        if ranges
    ]
    return f"{outcome} ({'; '.join(said)})" if len(said) > 1 else said[0] if said else outcome


def _coalesce(found: Mapping[Range, State]) -> dict[Range, State]:
    """Adjoining ranges of one state as one, in the order given."""
    runs: list[tuple[int, int, State]] = []
    for (start, length), state in found.items():
        if runs and runs[-1][0] + runs[-1][1] == start and runs[-1][2] == state:
            runs[-1] = (runs[-1][0], runs[-1][1] + length, state)
        else:
            runs.append((start, length, state))
    return {(start, length): state for start, length, state in runs}


def split(states: Mapping[Range, State], state: State) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    """The ranges in that state, and the others."""
    chosen = tuple(range_ for range_, found in states.items() if found == state)
    return chosen, tuple(range_ for range_ in states if range_ not in chosen)


def _inside(inner: Range, outer: Range) -> bool:
    return outer[0] <= inner[0] and inner[0] + inner[1] <= outer[0] + outer[1]


def _overlap(a: Range, b: Sequence[int]) -> bool:
    return a[0] < b[0] + b[1] and b[0] < a[0] + a[1]
