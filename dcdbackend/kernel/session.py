"""A run of one scenario on a kernel under test: make regions, use DAX devices, inject, and write down what it shows.

The kernel does not tell which commands it sends. So a step is over when its witnesses agree: the trace has every record
that was injected, the log tells of each that it was handled and cleared, and both have nothing new; then trace, log,
block states, sysfs and the device's list go into the history, in this order, and the checker infers the rest.
Where something may happen at the same time (`together`), trace and log are open all the while, so that any order fits.

Like `Session` it decides nothing of right and wrong. Errors that the kernel gives are results: "-EBUSY", "" for none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from .. import asked
from ..alarms import alarms_of
from ..bench import Kernel, Span, Value
from ..checker.kernel import notes_of
from ..errors import AnsweredWrongly, CannotRun, DcdError, Refused, Unserved
from ..model.claims import show_uuid
from ..model.departures import applicable
from ..model.generation import GENERATIONS, Generation
from ..model.observe import Sight
from ..session import ANSWER_TIMEOUT_S, Answer, Offer, Range, Release, ReleaseRequest, Session, split
from ..units import format_size

QEMU_LOG_RECORDS = 8
LIMIT_S = 20.0
"""After so long a chain that nobody closes is refused (B3)."""
LIMIT_SLACK_S = 2.1
LOOK_S = 0.02
QUIET_LOOKS = 2
MOST_LOOKS = 20_000
MAX_PEEK = 4096
MAX_LOG_BYTES = 256 << 10
_LINE_BYTES = 64
MOST_LAST_WORDS = 20
SECTIONS = 2
"""Into so many parts trace and log are cut at most, where things happen at the same time: each doubles the orders."""
_LIST_PAGE = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A region that was made: where it lies in the device (DPA) and in the host's physical memory (HPA), in bytes."""

    name: str
    device: str
    start: int
    length: int
    hpa: int

    @property
    def seed(self) -> str:
        """The DAX device that comes with it."""
        return f"dax{self.name.removeprefix('region')}.0"


@dataclass(slots=True)
class _Heard:
    """What was heard of one device: records injected, traced, told by the log, cleared; what is not written down."""

    due: int = 0
    traced: int = 0
    told: int = 0
    cleared: int = 0

    @property
    def whole(self) -> bool:
        """Every record that is due was traced, and the log (where it tells anything) has told and cleared each."""
        by_log = not self.told or self.told == self.traced == self.cleared
        return self.traced >= self.due and by_log


@dataclass(kw_only=True, slots=True, eq=False)
class KernelOffer(Offer):
    """As `session.Offer`. `whole`: the event log could hold all of its records, so that the kernel sees its end."""

    bench: KernelSession
    whole: bool

    async def answer(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer:
        """As of `session.Offer`, from the block states when the kernel has gone quiet; a chain that was cut by the
        event log is `unanswered` at once."""
        end = self.bench.kernel.now_s() + asked.seconds(timeout_s)
        while True:
            await self.bench.heard(max(0.0, end - self.bench.kernel.now_s()))
            states = await self.bench.states(self.device, self.region, self.ranges)
            if "pending" not in states.values() or not self.whole or self.bench.kernel.now_s() >= end:
                break
            await self.bench.kernel.wait(LOOK_S)
        await self.bench.look(self.device)
        accepted, others = split(states, "accepted")
        pending, refused = split({range_: s for range_, s in states.items() if s != "accepted"}, "pending")
        outcome: Any = "refused" if not accepted else "partial" if others else "accepted"
        return Answer(
            outcome="unanswered" if pending else outcome,
            accepted=accepted,
            refused=refused,
            witnesses={"host": None, "block": states},
        )


@dataclass(kw_only=True, slots=True, eq=False)
class KernelRequest(ReleaseRequest):
    """As `session.ReleaseRequest`."""

    bench: KernelSession

    async def response(self, timeout_s: float = ANSWER_TIMEOUT_S) -> Release:
        """As of `session.ReleaseRequest`, from the block states when the kernel has gone quiet."""
        whole = await self.bench.heard(asked.seconds(timeout_s))
        states = await self.bench.states(self.device, self.region, self.ranges)
        await self.bench.look(self.device)
        kept, released = split(states, "accepted")
        outcome: Any = "released" if not kept else "partial" if released else "declined" if whole else "unanswered"
        return Release(outcome=outcome, released=released, kept=kept, witnesses={"host": (), "block": states})


class KernelSession(Session):
    """What a scenario that needs a kernel gets as `bench`: `Session`, and the kernel's regions and DAX devices."""

    def __init__(self, *, kernel: Kernel, **plugs: Any) -> None:
        super().__init__(**plugs)
        self.kernel = kernel
        self.made: dict[str, Made] = {}
        self._bound: dict[str, str] = {}
        self._mapped: set[str] = set()
        self._online: set[str] = set()
        self._heard = {name: _Heard() for name in self.devices}
        self._events: dict[str, list[Value]] = {name: [] for name in self.devices}
        self._lines: dict[str, list[Value]] = {name: [] for name in self.devices}
        self._lost = {"trace": 0, "log": 0}
        self._last = next(iter(self.devices))
        self._together: dict[str, list[int]] | None = None
        self._raw_list = kernel.sends_raw
        self._alarms: set[str] = set()
        self.traced: list[Value] = []
        """Every record that the trace has shown since the beginning: the history's values, and `device`."""
        version = (self.writer.header.qemu or {}).get("version", "")
        self._log_records = QEMU_LOG_RECORDS if "QEMU-log" in applicable(str(version)) else 1 << 16

    @property
    def generation(self) -> Generation:
        """The row of the kernel's generation, by which a scenario's expectations differ."""
        return GENERATIONS[str(self.writer.header.host["generation"])]

    @property
    def by_uuid(self) -> bool:
        """Whether DAX devices claim by tag (from v10 on); else they are resized."""
        return self.generation.claim == "uuid"

    @property
    def cuts(self) -> bool:
        """Whether the device's event log loses the end of a long chain (QEMU-log), so that a chain can stay open."""
        return self._log_records == QEMU_LOG_RECORDS

    @property
    def has_tags(self) -> bool:
        """Whether somebody can offer tags here."""
        return any("tags" in one.serves for one in self.injectors.values())

    @property
    def remembers(self) -> bool:
        """Whether what was asked back while in use goes by itself when its last user does (a what-if switch)."""
        return "release-remembered" in (self.writer.header.host.get("what_if") or ())

    def partition(self, device: str = "mem0") -> int:
        """The bytes of the one partition that Linux uses."""
        length: int = self.devices[self._known(device)]["regions"][0]["length"]
        return length

    # -- beginning and end -----------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """What the kernel said before is not this run's, but for what is wrong in itself."""
        await self._collect()
        for name in self.devices:
            alarms = {one.text for one in alarms_of(self._lines[name])}
            self._lines[name] = [line for line in self._lines[name] if line["text"] in alarms]
            self._events[name].clear()
            self._heard[name] = _Heard()
        self._lost = {"trace": 0, "log": 0}
        self.traced.clear()
        if any(self._lines.values()):
            self._write_down()

    async def settle(self) -> None:
        """Take everything down, users first: mappings, drivers, claims, regions (which releases what they hold), and
        then what the device still has.

        Errors: CannotRun when something stays; the guest is then not fit for another scenario.
        """
        await self.heard()
        for dax in sorted(self._mapped):
            await self.unmap(dax)
        for dax in sorted(self._online):
            await self.offline(dax)
        for dax in sorted(self._bound):
            await self.unbind(dax)
        if self._bound:
            raise CannotRun(f"{', '.join(self._bound)} stays bound")
        for made in list(self.made.values()):
            for one in (await self.sight(made)).get("devices", ()):
                if one.get("size"):
                    await self.resize(one["name"], 0)
        for name in list(self.made)[::-1]:
            if error := await self.destroy(name):
                raise CannotRun(f"{name} cannot be destroyed: {error}")
        for name, device in self.devices.items():
            for region in device["regions"]:
                await self._emptied(name, region)

    def died(self, panic: str, console: str = "") -> None:
        """Nothing tells any more by trace or log: the alarms among the kernel's last words, from the console's end.

        `panic`: what it panicked of, which is told where the console has no alarm; "" where it did not.
        """
        lines = [{"t_ns": 0, "text": line.strip()} for line in console.splitlines()]
        alarms = {one.text for one in alarms_of(lines) if not one.text.endswith(tuple(self._alarms))}
        first = next((line for line in lines if alarms and " RIP: " in f" {line['text']}"), None)
        said = [line for line in lines if line["text"] in alarms or line is first]
        if not said and panic:
            said = [{"t_ns": 0, "text": panic}]
        if said:
            self._lines[next(iter(self.devices))] += said[:MOST_LAST_WORDS]
            self._write_down()

    async def _emptied(self, device: str, region: Mapping[str, int]) -> None:
        number, base, length = region["index"], region["base"], region["length"]
        if await self.block(0, length=length, region=number, device=device) == "free":
            return
        states = await self.states(device, number, [(base, length)])
        if "pending" in states.values():
            raise CannotRun(f"region {number} of {device} still holds pending capacity")
        for (start, size), state in states.items():
            if state == "accepted":
                try:
                    await (await self.release([Span(start - base, size)], region=number, device=device)).response()
                except Refused as error:
                    raise CannotRun(f"{format_size(size)} of {device} cannot be asked back: {error.message}") from error
        if await self.block(0, length=length, region=number, device=device) != "free":
            raise CannotRun(f"region {number} of {device} still holds capacity")

    # -- the manager -------------------------------------------------------------------------------------------------

    async def add(self, extents: Sequence[str | Span], **given: Any) -> KernelOffer:
        """As of `Session`; its `answer` waits until the kernel has gone quiet."""
        offer = await super().add(extents, **given)
        self._offers[offer.device].clear()
        heard = self._heard[offer.device]
        heard.due += min(len(offer.ranges), self._log_records)
        return KernelOffer(
            session=self,
            bench=self,
            device=offer.device,
            region=offer.region,
            ranges=offer.ranges,
            whole=len(offer.ranges) <= self._log_records,
        )

    async def release(self, extents: Sequence[str | Span], **given: Any) -> KernelRequest:
        """As of `Session`; its `response` waits until the kernel has gone quiet."""
        request = await super().release(extents, **given)
        self._requests.clear()
        self._heard[request.device].due += min(len(request.ranges), self._log_records)
        return KernelRequest(
            session=self, bench=self, device=request.device, region=request.region, ranges=request.ranges
        )

    async def compare(self, *, device: str = "mem0") -> None:
        """The device's list, by whoever may ask for it: the fabric manager (5603h), the kernel by a raw command."""
        await self.lists(device)

    # -- regions -----------------------------------------------------------------------------------------------------

    async def region(self, size: int | None = None, *, device: str = "mem0") -> Made:
        """Make a region of that size (bytes; None: the whole partition) over a device's dynamic capacity, and bind it.

        Errors: AnsweredWrongly, where the kernel refuses it: no scenario goes on without.
        """
        made = await self.try_region(size, device=device)
        if isinstance(made, str):
            told = "all" if size is None else format_size(size)
            raise AnsweredWrongly(f"the kernel makes no region over {told} of {device}: {made}")
        return made

    async def try_region(self, size: int | None = None, *, device: str = "mem0") -> Made | str:
        """As `region`; what the kernel gives ("-EINVAL") where it refuses."""
        self._known(device)
        size = self.partition(device) if size is None else asked.whole(size, "size", least=1)
        said = await self.kernel.make_region(device, size)
        if said["error"]:
            base = self.devices[device]["regions"][0]["base"]
            value = {"what": "region", "region": "region", "start": base, "length": size}
            self._told(device, "use", value, said["error"])
            return str(said["error"])
        made = Made(name=said["region"], device=device, start=said["start"], length=said["length"], hpa=said["hpa"])
        place = {"region": made.name, "start": made.start, "length": made.length, "hpa": made.hpa}
        self._told(device, "use", {"what": "region", **place})
        self._told(device, "use", {"what": "bind", "region": made.name})
        self.made[made.name] = made
        if self._together is None:
            await self.heard()
            await self.look(device)
        return made

    async def destroy(self, region: str | Made) -> str:
        """Unbind and delete a region; its extents are released. What the kernel gives, "" for success."""
        made = region if isinstance(region, Made) else self.made[region]
        error = await self._does(made.device, "unuse", {"what": "region", "region": made.name},
                                 self.kernel.destroy_region(made.name))  # fmt: skip
        if not error:
            del self.made[made.name]
            self._forget(made)
        if self._together is None:
            await self.heard()
            await self.look(made.device)
        return error

    async def reload(self, *names: str) -> None:
        """Unload modules and load them again (dax_cxl where none is named). Errors: Unserved, where one is built in."""
        names = names or ("dax_cxl",)
        ops = [self.writer.invoke(f"user.{name}", "unuse", {"device": name, "what": "driver"}) for name in self.devices]
        said = await self.kernel.unload(names)
        absent = [*said.get("builtin", ()), *said.get("absent", ())]
        failed = {**said.get("failed", {}), **{name: "it is no module of it, or built in" for name in absent}}
        for op in ops:
            self.writer.end(op, "fail" if failed else "ok", {"error": "-EBUSY"} if failed else {})
        if failed or said.get("error"):
            why = ", ".join(f"{name}: {text}" for name, text in failed.items()) or str(said.get("error"))
            raise Unserved(f"this kernel does not let modules go ({why})")
        await self.heard()
        for name in self.devices:
            await self.look(name)
        ops = [self.writer.invoke(f"user.{name}", "use", {"device": name, "what": "driver"}) for name in self.devices]
        await self.kernel.load(names[::-1])
        for op in ops:
            self.writer.end(op, "ok", {})
        await self.heard()
        for name in self.devices:
            await self.look(name)

    async def reset(self) -> None:
        """Reset the machine: the kernel knows nothing any more, the device keeps what it keeps (DEV-22)."""
        await super().reset()
        self.made.clear()
        self._bound.clear()
        self._mapped.clear()
        self._online.clear()
        for name in self.devices:
            await self.kernel.revive(name)
        await self.begin()

    # -- DAX devices -------------------------------------------------------------------------------------------------

    async def claim(self, dax: str, tag: str = "0") -> str:
        """Write a tag (32 hex digits; anything else as it is) to a DAX device's `uuid`; what the kernel gives."""
        text = _spelt(tag)
        return await self._claims(dax, {"file": "uuid", "dax": dax, "text": text}, self.kernel.claim(dax, text))

    async def resize(self, dax: str, size: int) -> str:
        """Write a size (bytes) to a DAX device; what the kernel gives."""
        value = {"file": "size", "dax": dax, "text": str(size)}
        return await self._claims(dax, value, self.kernel.resize(dax, size))

    async def create(self, region: Made) -> str:
        """One more DAX device of a region: its name, or what the kernel gives."""
        value = {"file": "create", "region": region.name, "text": "1"}
        op = self.writer.invoke(f"user.{region.device}", "claim", {"device": region.device, **value})
        said = await self._done(op, self.kernel.create(region.name))
        self._ended_by(op, said["error"])
        await self._caught_up()
        await self.look(region.device)
        return str(said["error"] or said["dax"])

    async def take(self, region: Made, size: int, *, tag: str = "0", dax: str | None = None) -> str:
        """Have a DAX device (the seed) hold capacity: by tag, where this generation claims so, else by size."""
        name = region.seed if dax is None else dax
        return await (self.claim(name, tag) if self.by_uuid else self.resize(name, size))

    async def bind(self, dax: str, driver: str = "device_dax") -> str:
        """Bind a DAX device to device_dax or kmem; what the kernel gives."""
        value = {"what": "dax", "dax": dax, "driver": driver}
        error = await self._does(self._device_of(dax), "use", value, self.kernel.bind(dax, driver))
        if not error:
            self._bound[dax] = driver
        return error

    async def unbind(self, dax: str) -> str:
        """Unbind a DAX device; what the kernel gives."""
        value = {"what": "dax", "dax": dax}
        error = await self._does(self._device_of(dax), "unuse", value, self.kernel.unbind(dax))
        if not error:
            self._bound.pop(dax, None)
        return error

    async def map(self, dax: str) -> str:
        """Map a DAX device, and keep it so."""
        value = {"what": "map", "dax": dax}
        error = await self._does(self._device_of(dax), "use", value, self.kernel.map(dax))
        if not error:
            self._mapped.add(dax)
        return error

    async def unmap(self, dax: str) -> str:
        """Give the mapping up."""
        value = {"what": "map", "dax": dax}
        error = await self._does(self._device_of(dax), "unuse", value, self.kernel.unmap(dax))
        self._mapped.discard(dax)
        return error

    async def offline(self, dax: str) -> str:
        """Take memory that is online back, so that the DAX device can be unbound; what the kernel gives."""
        error = await self._does(
            self._device_of(dax), "unuse", {"what": "online", "dax": dax}, self.kernel.offline(dax)
        )
        if not error:
            self._online.discard(dax)
        return error

    async def online(self, dax: str) -> str:
        """Bring a DAX device that kmem has online as memory."""
        value = {"what": "online", "dax": dax}
        error = await self._does(self._device_of(dax), "use", value, self.kernel.online(dax))
        if not error:
            self._online.add(dax)
        return error

    async def drop(self, dax: str) -> str:
        """Unmap, unbind, and give the claim up (size 0)."""
        if dax in self._mapped:
            await self.unmap(dax)
        if dax in self._bound and (error := await self.unbind(dax)):
            return error
        return await self.resize(dax, 0)

    async def peek(self, dax: str, offset: int, dpa: int, length: int = MAX_PEEK) -> bytes:
        """What the kernel's DAX device reads at an offset, which should be that DPA. Errors: AnsweredWrongly."""
        device = self._device_of(dax)
        op = self.writer.invoke(f"user.{device}", "load", {**self._place(device, dpa, length), "length": length})
        said = await self._done(op, self.kernel.read(dax, offset, length))
        if said["error"]:
            self.writer.end(op, "fail", {"error": said["error"]})
            raise AnsweredWrongly(f"{dax} cannot be read at {format_size(offset)}: {_hinted(said['error'])}")
        self.writer.end(op, "ok", {"data": said["data"]})
        return bytes.fromhex(said["data"])

    async def poke(self, dax: str, offset: int, dpa: int, data: bytes) -> None:
        """Have the kernel's DAX device store bytes at an offset, which should be that DPA. Errors: AnsweredWrongly."""
        device = self._device_of(dax)
        value = {**self._place(device, dpa, len(data)), "data": data.hex(), "side": "host"}
        op = self.writer.invoke(f"user.{device}", "store", value)
        said = await self._done(op, self.kernel.write(dax, offset, data))
        if said["error"]:
            self.writer.end(op, "fail", {"error": said["error"]})
            raise AnsweredWrongly(f"{dax} cannot be written at {format_size(offset)}: {_hinted(said['error'])}")
        self.writer.end(op, "ok", {})

    # -- the witnesses -----------------------------------------------------------------------------------------------

    async def heard(self, timeout_s: float = ANSWER_TIMEOUT_S) -> bool:
        """Wait until the kernel has handled what was injected and is quiet, and write down what it said.

        Whether it handled everything in time; what it said is in the history in any case.
        """
        end = self.kernel.now_s() + timeout_s
        quiet = 0
        for _ in range(MOST_LOOKS):
            news = await self._collect()
            quiet = 0 if news else quiet + 1
            whole = all(heard.whole for heard in self._heard.values())
            if (whole and quiet >= QUIET_LOOKS) or self.kernel.now_s() >= end:
                break
            await self.kernel.wait(0.0 if whole and self.kernel.simulated else LOOK_S)
        whole = all(heard.whole for heard in self._heard.values())
        for heard in self._heard.values():
            heard.due = heard.traced = heard.told = heard.cleared = 0
        if self._together is None:
            self._write_down()
        return whole

    async def limit(self, timeout_s: float = LIMIT_S + LIMIT_SLACK_S + 3.0) -> bool:
        """Wait for the time limit of an open chain: whether the kernel told of it in time; it is in the history."""
        end = self.kernel.now_s() + timeout_s
        for _ in range(MOST_LOOKS):
            await self._collect()
            if any(note.kind == "timed-out" for lines in self._lines.values() for note in notes_of(lines)):
                await self.heard()
                return True
            if self.kernel.now_s() >= end:
                break
            await self.kernel.wait(end - self.kernel.now_s())
        await self.heard()
        return False

    async def look(self, device: str | None = None) -> dict[str, Sight | Value]:
        """What sysfs shows of every region (of a device), and the device's list: by region."""
        found: dict[str, Any] = {}
        for made in list(self.made.values()):
            if device in (None, made.device):
                found[made.name] = await self.sight(made)
        for name in self.devices:
            if device in (None, name):
                await self.lists(name)
        return found

    async def sight(self, region: Made) -> Value:
        """What sysfs shows of a region, as the history has it."""
        op = self.writer.invoke("witness", "sysfs", {"device": region.device, "region": region.name})
        try:
            said = await self.kernel.sight(region.name)
        except AnsweredWrongly as error:
            self.writer.end(op, "fail", {"error": error.message})
            raise
        except BaseException as error:
            self._given_up(op, str(error))
            raise
        value = {name: one for name, one in said.items() if name not in ("odd", "error") and one is not None}
        self.writer.end(op, "ok", value)
        return value

    async def lists(self, device: str) -> None:
        """The device's list of what is accepted: by 5603h, else by the kernel's raw 4801h where it allows any."""
        if "fm_extents" in self.witnesses:
            await self.fm_extents(device=device)
            return
        start = 0
        while self._raw_list:
            value = {"device": device, "count": _LIST_PAGE, "start": start}
            op = self.writer.invoke("look", "extents", value)
            try:
                said = await self.kernel.listed(device, _LIST_PAGE, start)
            except DcdError as error:
                self.writer.end(op, "info", {"reason": error.message})
                self._raw_list = False
                return
            if said["error"]:
                self._raw_list = False
                self.writer.end(op, "info", {"reason": said["error"]})
                return
            if said.get("rc"):
                self.writer.end(op, "fail", {"rc": said["rc"]})
                return
            self.writer.end(op, "ok", {name: one for name, one in said.items() if name != "error"})
            start += len(said["extents"])
            if not said["extents"] or start >= said["total"]:
                return

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """What is done inside happens at the same time, as far as the judge is concerned: any order may explain it."""
        await self.heard()
        self._together = {name: [self._opened(name, at) for at in range(SECTIONS)] for name in self.devices}
        try:
            yield
            await self.heard()
        finally:
            self._write_down()
        await self.look()

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _collect(self) -> bool:
        """What is new of trace and log, kept for the history; whether there was anything."""
        traced, told = await self.kernel.trace(), await self.kernel.log()
        self._lost["trace"] += traced["lost"]
        self._lost["log"] += told["lost"]
        for event in traced["events"]:
            name = event.get("device") or self._last
            self.traced.append({**event, "device": name})
            self._events[name].append({key: one for key, one in event.items() if key != "device"})
            self._heard[name].traced += 1
        self._alarms |= {one.text for one in alarms_of(told["lines"])}
        for line in told["lines"]:
            self._last = line.get("device") or self._last
            self._lines[self._last].append({"t_ns": line["t_ns"], "text": line["text"]})
            for note in notes_of([line]):
                self._heard[self._last].told += note.kind in ("add", "release")
                self._heard[self._last].cleared += note.kind == "cleared"
        return bool(traced["events"] or traced["lost"] or told["lines"] or told["lost"])

    def _opened(self, name: str, at: int) -> int:
        """The log of a device, begun, to be ended with a part of what comes of it and of the trace."""
        return self.writer.invoke(f"log.{name}.{at}", "log", {"device": name})

    def _write_down(self) -> None:
        """Trace, then log, of each device that has any, into the history; what was open, in as many parts."""
        lost, self._lost = self._lost, {"trace": 0, "log": 0}
        began, self._together = self._together, None
        for name in self.devices:
            events, lines = self._events[name], self._lines[name]
            self._events[name], self._lines[name] = [], []
            lines, left_out = bounded(lines)
            lost["log"] += left_out
            if began is None:
                if events or lines or lost["trace"] or lost["log"]:
                    trace = self.writer.invoke("kernel", "trace", {"device": name})
                    self.writer.end(trace, "ok", {"events": events, "lost": lost["trace"]})
                    log = self.writer.invoke("kernel", "log", {"device": name})
                    self.writer.end(log, "ok", {"lines": lines, "lost": lost["log"]})
                continue
            for at, (traced, told) in enumerate(parts(events, lines, len(began[name]))):
                gone = 0 if at else lost["trace"] + lost["log"]
                self.writer.end(began[name][at], "ok", {"lines": told, "events": traced, "lost": gone})

    def _told(self, device: str, f: str, value: Value, error: str = "") -> None:
        """An operation whose place is only known when it is over: where it matters, trace and log were open."""
        op = self.writer.invoke(f"user.{device}", f, {"device": device, **value})
        self._ended_by(op, error)

    def _forget(self, made: Made) -> None:
        gone = f"dax{made.name.removeprefix('region')}."
        self._bound = {dax: driver for dax, driver in self._bound.items() if not dax.startswith(gone)}
        self._mapped = {dax for dax in self._mapped if not dax.startswith(gone)}
        self._online = {dax for dax in self._online if not dax.startswith(gone)}

    def _device_of(self, dax: str) -> str:
        number = dax.removeprefix("dax").partition(".")[0]
        made = self.made.get(f"region{number}")
        return next(iter(self.devices)) if made is None else made.device

    async def _claims(self, dax: str, value: Value, request: Any) -> str:
        device = self._device_of(dax)
        error = await self._does(device, "claim", value, request)
        if self._together is None:
            await self.look(device)
        return error

    async def _does(self, device: str, f: str, value: Value, request: Any) -> str:
        """One thing that is asked of the kernel, as an operation of its user; what the kernel gives."""
        op = self.writer.invoke(f"user.{device}", f, {"device": device, **value})
        said = await self._done(op, request)
        self._ended_by(op, said["error"])
        await self._caught_up()
        return str(said["error"])

    async def _caught_up(self) -> None:
        """What the kernel told while it handled a user's write goes into the history before anybody looks again.

        A write may send commands (a claim that is given up, a release that waited for it), whose lines are there when
        the write returns; a witness that came first would show the device what nobody had told of.
        """
        if self._together is not None:
            return
        await self._collect()
        if not any(self._events.values()) and not any(notes_of(lines) for lines in self._lines.values()):
            return
        if all(heard.whole for heard in self._heard.values()):
            self._write_down()
        else:
            await self.heard()

    async def _done(self, op: int, request: Any) -> Value:
        """A request while its operation is open: whatever goes wrong, it ends."""
        try:
            said: Value = await request
        except BaseException as error:
            self._given_up(op, str(error) or type(error).__name__)
            raise
        return said

    def _ended_by(self, op: int, error: str) -> None:
        self.writer.end(op, "fail" if error else "ok", {"error": error} if error else {})


def _hinted(error: str) -> str:
    """What the kernel gave to who maps a DAX device, and what it may lack."""
    return f"{error}; a kernel without CONFIG_FS_DAX maps none" if error == "-EINVAL" else error


def _spelt(tag: str) -> str:
    """A tag as it is written to `uuid`; what is no tag stays as it is."""
    digits = tag.replace("-", "").lower()
    if len(digits) == 32 and all(letter in "0123456789abcdef" for letter in digits):
        return show_uuid(bytes.fromhex(digits))
    return tag


def places(extents: Iterable[Range]) -> list[tuple[int, int, int]]:
    """Where extents lie in a DAX device that takes them in this order: (offset, DPA, length)."""
    found, at = [], 0
    for start, length in extents:
        found.append((at, start, length))
        at += length
    return found


def bounded(lines: list[Value]) -> tuple[list[Value], int]:
    """Lines that fit one line of the history: all, or those alone that tell something; and how many of these did not.

    A log that is flooded says the same over and over; what the judge reads of it is what `notes_of` knows.
    """
    if sum(len(line["text"]) + _LINE_BYTES for line in lines) <= MAX_LOG_BYTES:
        return lines, 0
    alarms = {one.text for one in alarms_of(lines)}
    telling = [line for line in lines if line["text"] in alarms or notes_of([line])]
    kept, size = [], 0
    for line in telling:
        size += len(line["text"]) + _LINE_BYTES
        if size > MAX_LOG_BYTES:
            break
        kept.append(line)
    return kept, len(telling) - len(kept)


def parts(events: Sequence[Value], lines: Sequence[Value], count: int) -> list[tuple[list[Value], list[Value]]]:
    """Trace and log in just so many parts, cut where the kernel began something new; the last one has the rest."""
    cut: list[list[Value]] = [[]]
    before = "cleared"
    for line in lines:
        for note in notes_of([line]):
            begins = note.kind in ("reading", "scanned", "timed-out") or (note.kind == "given" and before == "cleared")
            before = note.kind if note.kind != "sent" else before
            if begins and len(cut) < count and any(notes_of(cut[-1])):
                cut.append([])
        cut[-1].append(line)
    left = list(events)
    found: list[tuple[list[Value], list[Value]]] = []
    for at, some in enumerate([*cut, *[[]] * (count - len(cut))]):
        told = sum(note.kind in ("add", "release") for note in notes_of(some))
        taken = left if at == len(cut) - 1 else left[:told]
        left = left[len(taken) :]
        found.append((taken, some))
    return found
