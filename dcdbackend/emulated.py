"""The emulator as a bench: in place of a booted guest, an emulated device and a simulated host in this process.

`EmulatedSetup` and `EmulatedGuest` stand where `boot.Setup` and `boot.BootedGuest` do; a session on them is the same.
The manager goes through the emulator's QMP socket, with the same client as to QEMU; host, memory and history go
directly, since there is no link. No QEMU, no kernel and no root is needed.

What comes of it says nothing of QEMU, nor of the model, which the emulator shares with the judge: whoever shows a
result says so (`WARNING`).
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from .bench import Injector, Value, Via, Witness
from .emulator.device import Died
from .emulator.linux import LinuxHost, standing
from .emulator.machine import HOSTS, Behaviour, Machine, behaviour
from .emulator.monitor import Server
from .errors import AnsweredWrongly, AskedWrongly, CannotRun, DcdError, MachineGone, Unserved
from .fabric import Fabric, FmExtents, FmInjector, FmTags
from .guest import Death, Guest, Intake, QmpInjector
from .history import Header, Writer, encode
from .kernel.session import KernelSession
from .kernel.simulated import SimulatedKernel
from .model import generation
from .model.generation import EVERY, GENERATIONS, PROPOSED
from .qmp import Qmp
from .session import Session
from .topology import BLOCK_SIZE, Kind, Topology, direct, switch

WARNING = (
    "BACKEND EMULATOR: no QEMU and no kernel ran. What is green here says that the emulator and the judge agree, "
    "which share one model; it says nothing about QEMU, about any kernel, or about that model."
)
_STRAYS = 1000
_Written = TypeVar("_Written")
_ERRORS = {"AskedWrongly": AskedWrongly, "CannotRun": CannotRun, "Unserved": Unserved}
_BY_KERNEL = frozenset(("events", "extents", "load", "store"))
"""What a kernel does not mind somebody else to do beside it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmulatedSetup:
    """What is emulated. `host`: a name of `emulator.machine.HOSTS`; `shape`: as in `boot.Setup`.

    `seed`: which of the permitted answers a simulated kernel gives. `via`: as in `boot.Setup`. Errors: AskedWrongly,
    from the constructor.
    `under_test`: the kernel stands for one under test, as scenarios that need a kernel have it (`kernel.simulated`).
    """

    behaves: Behaviour = field(default_factory=behaviour)
    host: str = "U"
    shape: Mapping[str, int | str] = field(default_factory=dict)
    kind: Kind = "direct"
    seed: int = 0
    via: Via = "auto"
    under_test: bool = False
    what_if: frozenset[str] = frozenset()
    """Switches of `model.generation` that a simulated kernel has on."""

    def __post_init__(self) -> None:
        if self.host not in HOSTS:
            raise AskedWrongly(f"host {self.host!r} is not simulated here; there is {', '.join(HOSTS)}")
        if self.host == "U" and self.what_if:
            raise AskedWrongly(f"host U has no what-if {min(self.what_if)!r}; switches are of a simulated kernel")
        if self.host != "U":
            generation.setup(self.host, what_if=sorted(self.what_if))
        if self.via == "fm" and "fm" not in self.offers:
            raise AskedWrongly(f"--via fm, and {self.behaves.name} has no FM-API; take strict, or qemu-11.1.3")

    @property
    def version(self) -> str:
        """The version of QEMU that it behaves like; "" where it is strict."""
        return self.behaves.version

    @property
    def begins(self) -> str:
        """What happens when a guest is wanted."""
        return "EMULATOR, no guest is booted: device"

    @property
    def scripted(self) -> bool:
        """Whether the host does what scenarios ask of it; a kernel has rules of its own."""
        return self.host == "U"

    @property
    def fresh(self) -> bool:
        """A kernel is not told to release everything; a fresh one costs nothing here."""
        return self.host != "U"

    @property
    def label(self) -> str:
        """What is emulated, in a few words."""
        switches = f" with {', '.join(sorted(self.what_if))}" if self.what_if else ""
        return f"behaves {self.behaves.name}, host {self.host}{switches}"

    @property
    def offers(self) -> frozenset[str]:
        """What scenarios may need of it: see `scenario.Scenario.needs`."""
        found: set[str] = set()
        if not self.behaves.departures:
            found |= {"forced", "policies", "references", "regions"} | ({"sharing"} if self.scripted else set())
        if self.via == "qmp":
            found -= {"references", "regions", "sharing"}  # which only a fabric manager asks for
        elif not self.behaves.departures or "QEMU-tag" in self.behaves.departures:
            found |= {"fm", "tags"}
        if self.behaves.departures and "fm" in found:
            found.add("fixed-regions")
        if self.host in GENERATIONS:
            found |= {"kernel", "reset"} | (set() if self.behaves.departures else {"sharable"})
        if self.host != "U":
            found |= {"simulated", *({"claims"} if EVERY[self.host].claim == "uuid" else ())}
            found |= {"sizes"} if EVERY[self.host].claim == "size" else set()
            found |= {"policy-drivers"} if self.host in PROPOSED else set()
        return frozenset(found)

    def topology(self, needs: Mapping[str, int | str] | None = None) -> Topology:
        """As `boot.Setup.topology`. Errors: AskedWrongly."""
        chosen: dict[str, Any] = {**self.shape, **(needs or {})}
        return switch(**chosen) if self.kind == "switch" else direct(**chosen)

    def guest(self, shape: Topology, run_dir: Path) -> EmulatedGuest:
        """What stands for a guest of that shape, to be entered."""
        return EmulatedGuest(self, shape, run_dir)


class EmulatedGuest:
    """As `guest.Guest`, where a session and a runner look at it. Errors of entering: CannotRun."""

    def __init__(self, setup: EmulatedSetup, shape: Topology, run_dir: Path) -> None:
        self.setup = setup
        self.shape = shape
        self.run_dir = run_dir
        self.strays: list[str] = []
        self._intake = Intake(self._stray)
        self._replies: dict[int, Value] = {}
        self._next_control = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.machine = self._made()
        async with AsyncExitStack() as stack:
            sockets = Path(tempfile.mkdtemp(prefix="dcd-emu-"))  # a run directory's path may be too long for a socket
            stack.callback(shutil.rmtree, sockets, ignore_errors=True)
            self._server = await stack.enter_async_context(Server(self.machine, sockets / "qmp"))
            self._server.on_death = self._on_death
            self.qmp = await stack.enter_async_context(Qmp.connect(sockets / "qmp", log=self.run_dir / "qmp.jsonl"))
            self._stack = stack.pop_all()
        return self

    def _made(self) -> Machine:
        return Machine(
            self.shape,
            behaves=self.setup.behaves,
            host=self.setup.host,
            seed=self.setup.seed,
            under_test=self.setup.under_test,
            what_if=self.setup.what_if,
            on_history=self._on_history,
            on_control=self._on_control,
        )

    async def __aexit__(self, *_: object) -> None:
        self._intake.begin(None)
        await self._stack.aclose()

    @property
    def death(self) -> Death | None:
        """How a device died, as the QEMU that it behaves like does."""
        died = self.machine.died
        return None if died is None else Death("device", died.message)

    # -- the history ---------------------------------------------------------------------------------------------

    def begin(self, writer: Writer) -> None:
        """From now on what happens goes to `writer`."""
        self._intake.begin(writer)

    def end(self) -> None:
        """Stop writing."""
        self._intake.begin(None)

    def devices(self) -> tuple[dict[str, Any], ...]:
        """The header's devices."""
        found = []
        for device in self.machine.devices.values():
            described = self.machine.control.watched[device.name].device.describe()
            keys = ("serial", "regions", "payload_size", "supported_extents", "supported_tags")
            limits = device.config.limits
            told: dict[str, Any] = {"name": device.name, **{key: described[key] for key in keys}}
            for region, known in zip(told["regions"], device.config.regions, strict=True):
                if known.sharable:
                    region["sharable"] = True
            if len(limits.hosts) > 1:
                told["hosts"] = list(limits.hosts)
            if not self.setup.behaves.departures:
                told["log_records"] = limits.log_records
                told["selection_policies"] = sorted(limits.selection or ())
                told["removal_policies"] = sorted(limits.removal or ())
                told["sanitize_configurable"] = limits.sanitize_configurable
                told["tag_references"] = limits.references
                told["first_sequence"] = limits.first_sequence
            found.append(told)
        return tuple(found)

    def header(self, scenario: str, seed: int) -> Header:
        """The first line of a history on it: backend `emulator`; `qemu` is the version that it imitates, if any."""
        version = self.setup.version
        imitated = {"version": version, "origin": "emulator", "accel": "none", "topology": self.shape.kind}
        return Header(
            backend="emulator",
            qemu=imitated if version else None,
            host=self._host(),
            devices=self.devices(),
            seed=seed,
            scenario=scenario,
        )

    def _host(self) -> dict[str, Any]:
        told: dict[str, Any] = {"generation": self.setup.host, "simulated": True}
        if self.setup.what_if:
            told["what_if"] = sorted(self.setup.what_if)
        if self.setup.under_test:
            return told
        everyone = [watched for control in self.machine.controls for watched in control.watched.values()]
        regions = [place for watched in everyone for place in standing(watched.host)]
        return {**told, "regions": regions, "slack_ns": 100_000_000} if self.setup.host != "U" else told

    def session(self, writer: Writer) -> Session:
        """A session on it that writes there."""
        host = EmulatedHost(self)
        witnesses: list[Witness] = [EmulatedBlocks(self), EmulatedBytes(self.machine)]
        if not self.setup.scripted:
            witnesses.append(EmulatedSysfs(host))
        injectors: list[Injector] = [QmpInjector(self.qmp)]
        if "fm" in self.setup.offers:
            fabric = Fabric(cast("Guest", _Carrier(self)))
            witnesses += [FmExtents(fabric), FmTags(fabric)]
            injectors.insert(0 if self.setup.via == "fm" else 1, FmInjector(fabric))
        plugs: dict[str, Any] = {
            "writer": writer,
            "feed": self,
            "injector": injectors[0],
            "injectors": injectors,
            "host": host,
            "witnesses": {witness.name: witness for witness in witnesses},
            "backend": EmulatedBackend(self.machine),
        }
        if self.setup.under_test:
            return KernelSession(kernel=SimulatedKernel(self.machine), **plugs)
        return Session(**plugs)

    def drain(self) -> None:
        """Nothing is ever on its way: what the host does is in the history when it has done it."""

    async def until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """As `guest.Guest.until`. Errors: MachineGone."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        timer = loop.call_at(end, self._wake)
        news: asyncio.Future[None] | None = None
        try:
            while not done():
                if self._server.fault is not None:
                    raise self._server.fault
                if self.death is not None:
                    raise MachineGone(self.death.text)
                if loop.time() >= end:
                    return False
                news = loop.create_future()
                self._waiting.add(news)
                await news
        finally:
            timer.cancel()
            if news is not None:
                self._waiting.discard(news)
        return True

    async def diagnose(self) -> Death | None:
        """Why nothing comes any more: it is known at once."""
        return self.death

    # -- the host ------------------------------------------------------------------------------------------------

    def control(self, do: str, fields: Mapping[str, Any], host_id: int = 0) -> Value:
        """One request to a host, and its reply. Errors: as it says, MachineGone."""
        if self.death is not None:
            raise MachineGone(self.death.text)
        self._next_control += 1
        request = {"id": self._next_control, "do": do, **fields}
        self.machine.handle(encode(request), host_id)
        if do == "ask" or self.machine.died is not None:
            return {}
        reply = self._replies.pop(self._next_control)
        if reply.get("ok") is not True:
            raise _ERRORS.get(str(reply.get("kind")), AnsweredWrongly)(str(reply.get("error")), sent=request)
        return reply

    def reboot(self) -> None:
        """A new host, which finds the devices as they are."""
        self._intake.restart()
        self.machine.reboot()

    # -- what arrives --------------------------------------------------------------------------------------------

    def _on_history(self, body: bytes) -> None:
        line = json.loads(body)
        if self.setup.under_test and line["op"] < 0:  # what a kernel sends by itself nobody sees
            return
        self._intake.take(line)
        self._wake()

    def _on_control(self, body: bytes) -> None:
        reply = json.loads(body)
        if "note" in reply:
            self._stray(str(reply["note"]))
        elif reply.get("id"):
            self._replies[reply["id"]] = reply
        self._wake()

    def _on_death(self) -> None:
        self._wake()  # also after a fault of our own: whoever waits, gets it

    def _stray(self, text: str) -> None:
        if len(self.strays) < _STRAYS:
            self.strays.append(text)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for news in waiting:
            if not news.done():
                news.set_result(None)


class _Carrier:
    """What the fabric manager asks of a guest: its devices, and bytes carried to the switch's mailbox."""

    def __init__(self, guest: EmulatedGuest) -> None:
        self.shape = guest.shape
        self._switch = guest.machine.switch

    async def control(self, do: str, fields: Mapping[str, Any] | None = None) -> Value:
        """As `guest.Guest.control`, of `fm` alone. Errors: MachineGone."""
        if do != "fm":
            raise AskedWrongly(f"the emulated switch is asked {do!r}; there is fm")
        if not fields:
            return {"switches": [{"pci": "emulated", "payload_size": self._switch.payload_size}]}
        try:
            reply = self._switch.command(fields["opcode"], bytes.fromhex(fields["payload"]))
        except Died as died:
            raise MachineGone(died.message) from None
        return {"rc": reply.rc, "payload": reply.payload.hex()}


class Recording(EmulatedGuest):
    """The emulated device for somebody else's client: whoever owns it serves `machine` (`emulator.monitor`).

    With `begin`, what the client asks and what the host does goes to a history, as a session would write it. Nothing is
    asked beside: without a session there are no witnesses. `fault`: why the history could not be written.
    """

    def __init__(self, setup: EmulatedSetup, shape: Topology) -> None:
        super().__init__(setup, shape, Path())
        self.fault: DcdError | None = None
        self._writer: Writer | None = None
        self.machine = self._made()

    def begin(self, writer: Writer) -> None:
        super().begin(writer)
        self._writer = writer
        self.machine.on_command = self._command

    def end(self) -> None:
        """Stop writing; what a dead device left open, and that it is dead, is told first."""
        writer, death = self._writer, self.death
        super().end()
        self._writer = None
        self.machine.on_command = lambda f, sent: lambda refused: None
        if writer is None or death is None or self.fault is not None:
            return
        for number in tuple(writer.open_operations):
            writer.end(number, "info", {"reason": death.text})
        for name in self.machine.devices:
            value = {"device": name, "kind": death.kind, "reason": death.text}
            writer.end(writer.invoke("device", "gone", value), "ok", {"reason": death.text})

    def _command(self, f: str, sent: Value) -> Callable[[str | None], None]:
        process = f"reset.{sent['device']}" if f == "reset" else "manager"
        number = self._written(lambda writer: writer.invoke(process, f, sent))
        if f == "reset":
            self._written(lambda _: self._intake.restart())

        def ended(refused: str | None) -> None:
            how = ("ok", {}) if refused is None else ("fail", {"error": "Refused", "desc": refused})
            if number is not None:
                self._written(lambda writer: writer.end(number, *how))

        return ended

    def _on_history(self, body: bytes) -> None:
        self._written(lambda _: super(Recording, self)._on_history(body))

    def _written(self, write: Callable[[Writer], _Written]) -> _Written | None:
        """Write, or keep why it could not be, and end it all."""
        if self._writer is None or self.fault is not None:
            return None
        try:
            return write(self._writer)
        except DcdError as error:
            self.fault = error
            self.machine.on_quit()
            return None


class EmulatedHost:
    """The simulated host. See `bench.Host`."""

    def __init__(self, guest: EmulatedGuest) -> None:
        self.name = guest.setup.host
        self._guest = guest

    async def policy(self, device: str, *, add: Value, release: Value, breaks: str | None = None) -> None:
        name, _, host_id = device.partition(".")
        told = {"device": name, "add": add, "release": release, "break": breaks}
        self._guest.control("policy", told, int(host_id or 0))

    def may_send(self, f: str) -> None:
        """Before an operation of it is written down: a kernel is not made to send. Errors: Unserved."""
        if self.name != "U" and f not in _BY_KERNEL:
            raise Unserved(
                f"host {self.name} is a kernel and sends {f} when it has a reason; host U sends what is asked"
            )

    async def do(self, op: int, process: str, f: str, value: Value) -> None:
        self.may_send(f)
        asked = {"op": op, "process": process, "f": f, "value": value}
        self._guest.control("ask", asked, value.get("host_id", 0))

    async def reset(self) -> None:
        if self.name != "U" and not self._guest.setup.under_test:
            raise Unserved(f"host {self.name} is not reset: that its region is made again is in no history yet")
        self._guest.reboot()

    async def write(self, f: str, value: Value) -> str:
        """What writing a file gives, of a simulated kernel. Errors: Unserved, AskedWrongly."""
        return self._linux(value).write(f, value)

    async def sight(self, value: Value) -> Value:
        """What sysfs shows of a region. Errors: Unserved, AskedWrongly."""
        return self._linux(value).sight(value["region"])

    def _linux(self, value: Value) -> LinuxHost:
        machine = self._guest.machine
        watched = machine.controls[value.get("host_id", 0)].watched.get(value["device"])
        if watched is None or not isinstance(watched.host, LinuxHost):
            raise Unserved(f"host {self.name} has no files to write; a simulated kernel has (dcd simulate --host v11)")
        return watched.host

    async def judgement(self) -> Value:
        found: Value = self._guest.control("judgement", {})["judgement"]
        return found


class EmulatedBackend:
    """The memory behind the devices. See `bench.Backend`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def read(self, device: str, dpa: int, length_bytes: int) -> bytes:
        return self._machine.devices[device].read(dpa, length_bytes)

    def write(self, device: str, dpa: int, data: bytes) -> None:
        self._machine.devices[device].write(dpa, data)


class EmulatedBytes:
    """The bytes in that memory. See `bench.Witness`."""

    name = "bytes"
    f = "bytes"

    def __init__(self, machine: Machine) -> None:
        self._backend = EmulatedBackend(machine)

    async def ask(self, value: Value) -> Value:
        return {"data": self._backend.read(value["device"], value["dpa"], value["length"]).hex()}


class EmulatedSysfs:
    """What a simulated kernel shows of a region. See `bench.Witness`."""

    name = "sysfs"
    f = "sysfs"

    def __init__(self, host: EmulatedHost) -> None:
        self._host = host

    async def ask(self, value: Value) -> Value:
        return await self._host.sight(value)


class EmulatedBlocks:
    """The block-state question over the emulator's QMP. See `bench.Witness`."""

    name = "block"
    f = "block"

    def __init__(self, guest: EmulatedGuest) -> None:
        self._qmp = guest.qmp

    async def ask(self, value: Value) -> Value:
        length = value.get("length", BLOCK_SIZE)
        place = value["device"], value["region"], value["offset"], length
        return {"state": await self._qmp.block_state(*place, host_id=value.get("host_id", 0))}
