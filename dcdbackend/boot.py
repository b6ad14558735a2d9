"""From nothing to a bench: what is booted (`Setup`), and a guest of it with a history and a session (`launch`).

`launch` is the public way in: one guest, one history, one `Session` on it, in a run directory of their own. `dcd
regress` runs many scenarios on one guest and therefore takes the parts by themselves (`prepare`, `session_on`).

It does not decide what is done to the device (scenarios, verbs and users' scripts do) and judges nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import time
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from . import asked, image, machine
from .bench import Injector, Value, Via, Witness
from .errors import AskedWrongly, CannotRun, DcdError
from .fabric import Fabric, FmExtents, FmInjector
from .fm import served
from .guest import AgentHost, BlockWitness, FileBackend, Guest, Poll, QmpInjector
from .history import Header, Writer
from .image.step import silent
from .kernel.guest import kernel_header, kernel_session, settled_survey
from .rundir import new_run_dir
from .session import Beside, Session
from .topology import Kind, Topology, direct, switch
from .wire.fmapi import RemovalPolicy, SelectionPolicy

if TYPE_CHECKING:
    from .emulated import EmulatedSetup

HISTORY = "history.jsonl"
PARTS = "parts.json"
BESIDE = "beside-"
"""What the directory of a further guest of a run begins with; its number follows."""
MAX_SEED = (1 << 32) - 1
REQUIRE_QEMU = "DCD_REQUIRE_QEMU"
"""Set to 1, nothing falls back to the emulator."""
UNBIND = "DCD_AGENT_UNBIND=1"
"""The kernel parameter by which the agent takes the devices from the kernel's drivers, where these are built in."""
KERNEL = "kernel"
"""What a setup offers, and a scenario needs, where the kernel's own drivers answer."""
FM_OFFERS = frozenset(("fm", "tags", "fixed-regions"))
FM_SINCE = (11, 1)
"""The oldest QEMU whose 56xxh was measured; 10.0 answers them with 03h."""

Backend = Literal["qemu", "emulator", "auto"]
"""What stands under a bench; see `launch`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What is booted: a QEMU that was probed, an accelerator that was chosen, a kernel, an initrd.

    `kind`: which topology. `shape`: what the user asked of it, under what a scenario needs (see `topology.direct`).
    `offers`: what this setup can do that not every one can (`guests`: further ones beside the first; `tags`).
    `poll`: how the agent watches its devices.
    `via`: who injects: `qmp`, `fm` (both by name, whatever is asked), or `auto`: QMP, and FM-API for what has a tag.
    What a fabric manager offers (`fm`, `tags`) is in `offers` where QEMU and topology have one. Errors: AskedWrongly.
    `host`: who answers: our own U, or the drivers of the kernel under test, whose modules the initrd then has
    (`image.parts(host="kernel")`); it adds `kernel` to `offers`. `append`: kernel parameters, after our own.
    `generation`: of the kernel under test, by the user's word; None where its sysfs says it.
    """

    qemu: machine.Qemu
    accel: machine.Accel
    kernel: Path
    initrd: Path
    shape: Mapping[str, int | str] = field(default_factory=dict)
    offers: frozenset[str] = frozenset({"guests"})
    kind: Kind = "direct"
    poll: Poll = "sleep"
    via: Via = "auto"
    host: image.Host = "U"
    append: str = ""
    generation: str | None = None

    def __post_init__(self) -> None:
        there = self.kind == "switch" and speaks_fm(self.qemu)
        if self.via == "fm" and not there:
            raise AskedWrongly(
                f"--via fm on QEMU {self.qemu.version}, topology {self.kind}; "
                "give --topology switch, and QEMU 11.1 or newer"
            )
        offers = self.offers - FM_OFFERS | (FM_OFFERS if there and self.via != "qmp" else frozenset())
        offers = offers - {KERNEL} | (frozenset({KERNEL, "reset"}) if self.host == "kernel" else frozenset())
        object.__setattr__(self, "offers", offers)

    def topology(self, needs: Mapping[str, int | str] | None = None) -> Topology:
        """The topology, with what a scenario needs of it over what the user asked. Errors: AskedWrongly."""
        chosen: dict[str, Any] = {**self.shape, **(needs or {})}
        if self.kind == "switch":
            return switch(**chosen, cci="switch-cci" in self.qemu.features)
        return direct(**chosen)

    @property
    def version(self) -> str:
        """QEMU's version, by which departures are known."""
        return self.qemu.version

    @property
    def begins(self) -> str:
        """What happens when a guest is wanted."""
        return "booting guest"

    @property
    def scripted(self) -> bool:
        """Whether the host does what scenarios ask of it, as host U does; a kernel has rules of its own."""
        return self.host == "U"

    @property
    def fresh(self) -> bool:
        """Whether every scenario gets a guest of its own: a boot takes longer than to have everything released."""
        return False

    @property
    def label(self) -> str:
        """What is booted, in a few words."""
        under_test = ", kernel under test" if self.host == "kernel" else ""
        return f"QEMU {self.qemu.version}, {self.accel}{under_test}"

    def guest(self, shape: Topology, run_dir: Path) -> BootedGuest:
        """A guest of that shape, to be entered."""
        guest = BootedGuest(
            qemu=self.qemu,
            accel=self.accel,
            kernel=self.kernel,
            initrd=self.initrd,
            shape=shape,
            run_dir=run_dir,
            poll=self.poll,
            host=self.host,
            append=self.append,
        )
        guest.setup = self
        return guest


class BootedGuest(Guest):
    """A guest that makes its own headers and sessions. `setup`: what it was booted from, for others beside it.

    Below a switch that serves a fabric manager, each device is asked for its policies (5600h) once, for the header.
    """

    setup: Setup | None = None
    policies: Mapping[str, Value] = {}

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        if self.host == "kernel":
            try:
                await settled_survey(self)
            except DcdError as error:
                self._stray(f"the survey was not made again: {error}")
        if has_fabric(self):
            try:
                self.policies = await self._policies()
            except DcdError as error:  # who asks the fabric manager for something will hear of it again
                self._stray(f"5600h was not answered: {error}")
            except BaseException as error:
                await self.__aexit__(type(error), error, error.__traceback__)
                raise
        return self

    def devices(self) -> tuple[dict[str, Any], ...]:
        return tuple({**device, **self.policies.get(device["name"], {})} for device in super().devices())

    async def _policies(self) -> dict[str, Value]:
        fabric = Fabric(self)
        infos = {name: await fabric.info(name) for name in await fabric.found()}
        return {
            name: {
                "selection_policies": list(served(info.selection_policies, SelectionPolicy)),
                "removal_policies": list(served(info.removal_policies, RemovalPolicy)),
            }
            for name, info in infos.items()
        }

    def header(self, scenario: str, seed: int) -> Header:
        if self.host == "kernel":
            return kernel_header(self, scenario, seed, asked=None if self.setup is None else self.setup.generation)
        return header_of(self, scenario, seed)

    def session(self, writer: Writer) -> Session:
        if self.setup is None:
            return session_on(self, writer)
        return session_on(self, writer, beside=_beside(self.setup, self.shape, writer), via=self.setup.via)


async def prepare(
    parts: image.Parts,
    *,
    accel: str | None = None,
    shape: Mapping[str, int | str] | None = None,
    kind: Kind = "direct",
    poll: Poll = "sleep",
    via: Via = "auto",
) -> Setup:
    """Ask QEMU what it can and choose the accelerator. Errors: CannotRun, AskedWrongly."""
    asked.one_of(poll, "poll", get_args(Poll))
    asked.one_of(via, "via", get_args(Via))
    qemu = await machine.probe_qemu(parts.qemu_argv, origin=parts.qemu_origin)
    chosen = await machine.choose_accel(qemu, kernel=parts.kernel, cache_dir=image.cache_dir(), asked=accel)
    return Setup(
        qemu=qemu,
        accel=chosen,
        kernel=parts.kernel,
        initrd=parts.initrd,
        shape=dict(shape or {}),
        kind=kind,
        poll=poll,
        via=via,
        host=parts.host,
        append=UNBIND if parts.host == "U" and "given_kernel" in parts.manifest.get("guest", {}) else "",
    )


def speaks_fm(qemu: machine.Qemu) -> bool:
    """Whether this QEMU has a switch's mailbox, and devices that answer a fabric manager through it."""
    return "switch-cci" in qemu.features and qemu.version_info >= FM_SINCE


def has_fabric(guest: Guest) -> bool:
    """Whether a fabric manager has a way in: a switch with a mailbox, on a QEMU that serves it."""
    return guest.shape.kind == "switch" and guest.shape.switch_cci and speaks_fm(guest.qemu)


def header_of(guest: Guest, scenario: str, seed: int) -> Header:
    """The first line of a history on that guest."""
    return Header(
        backend="qemu",
        qemu=guest.machine_told(),
        host={"generation": "U", "kernel": guest.ready.get("kernel")},
        devices=guest.devices(),
        seed=seed,
        scenario=scenario,
    )


def session_on(guest: Guest, writer: Writer, *, beside: Beside | None = None, via: Via = "auto") -> Session:
    """A session of that guest which writes there: QMP injects, host U answers, block state and bytes are asked.

    Below a switch that has a mailbox, and on a QEMU that serves it, the fabric manager injects (see `Setup.via`) and
    is asked, too.
    """
    backend = FileBackend(guest.shape, guest.run_dir)
    witnesses: list[Witness] = [BlockWitness(guest), BytesWitness(backend)]
    injectors: list[Injector] = [QmpInjector(guest.qmp)]
    if has_fabric(guest):
        fabric = Fabric(guest)
        witnesses.append(FmExtents(fabric))
        if via != "qmp":
            injectors.insert(0 if via == "fm" else 1, FmInjector(fabric))
    plugs: dict[str, Any] = {
        "writer": writer,
        "feed": guest,
        "injector": injectors[0],
        "injectors": injectors,
        "witnesses": {witness.name: witness for witness in witnesses},
        "backend": backend,
        "beside": beside,
    }
    if guest.host == "kernel":
        return kernel_session(guest, **plugs)
    return Session(host=AgentHost(guest), **plugs)


@asynccontextmanager
async def launch(
    topology: Topology | None = None,
    *,
    qemu: str | None = None,
    kernel: str | None = None,
    initrd: str | None = None,
    modules: str | None = None,
    host: image.Host = "U",
    accel: str | None = None,
    poll: Poll = "sleep",
    backend: Backend = "qemu",
    via: Via = "auto",
    behaves: str | None = None,
    run_dir: Path | str | None = None,
    seed: int | None = None,
    name: str = "launch",
    progress: image.Progress = silent,
) -> AsyncIterator[Session]:
    """One guest with its DCDs, booted, its agent ready, as a session: `async with launch(direct(regions=2)) as bench:`.

    `qemu`, `kernel`, `initrd`, `modules`, `accel`, `poll`: as the options of `dcd regress` (None: environment, then
    what the cache holds, built first where it is not there). `host`: our own host U, or the kernel's drivers.
    `via`: who injects, QMP, the fabric manager (`fm`: below a switch, QEMU 11.1 or newer), or QMP and FM-API for what
    has a tag. `backend`: a real QEMU; the `emulator`, which boots nothing, needs no root, and says nothing of QEMU;
    `auto`: the emulator where no QEMU can be had, with a RuntimeWarning, unless parts are named or DCD_REQUIRE_QEMU=1.
    `behaves`, of the emulator alone: `strict`, its default, or as `qemu-11.1.3` does.
    `run_dir`: None for a fresh one; `name` is the scenario's name in the history. The guest ends with the block,
    however that ends; the run directory stays.
    Errors: AskedWrongly, CannotRun, TimedOut, MachineGone.
    """
    if topology is not None and not isinstance(topology, Topology):
        raise AskedWrongly(f"topology {asked.shown(topology)}; give direct(...) or switch(...)")
    asked.one_of(backend, "backend", get_args(Backend))
    asked.one_of(via, "via", get_args(Via))
    shape = topology or direct()
    seed = secrets.randbits(32) if seed is None else asked.whole(seed, "seed", most=MAX_SEED)
    wanted = {"qemu": qemu, "kernel": kernel, "initrd": initrd, "modules": modules}
    setup: Setup | EmulatedSetup
    if backend == "emulator":
        given = [name for name, value in {**wanted, "accel": accel}.items() if value is not None]
        setup, manifest = _emulated(shape, via, behaves, given, host), _NOTHING_BOOTED
    elif behaves is not None:
        raise AskedWrongly(f'behaves={behaves!r} is the emulator\'s; say backend="emulator", too')
    else:
        try:
            parts = await asyncio.to_thread(image.parts, **wanted, host=host, progress=progress)
            setup = await prepare(parts, accel=accel, poll=poll, kind=shape.kind, via=via)
            manifest = parts.manifest
        except CannotRun as error:
            if backend == "qemu" or host != "U" or _insisted({**wanted, "accel": accel}):
                raise
            setup, manifest = _emulated(shape, via, None, (), host), _NOTHING_BOOTED
            told = f"{error.message}; BACKEND EMULATOR in its place, which says nothing of QEMU"
            warnings.warn(told, RuntimeWarning, stacklevel=4)
    directory = new_run_dir(name, None if run_dir is None else Path(run_dir))
    (directory / PARTS).write_text(json.dumps(manifest, indent=1) + "\n")
    async with _running(setup, shape, directory, name, seed) as session:
        yield session


_NOTHING_BOOTED: Mapping[str, Any] = {"backend": "emulator"}


def _emulated(shape: Topology, via: Via, behaves: str | None, given: Sequence[str], host: str) -> EmulatedSetup:
    """The emulator in place of a guest. Errors: AskedWrongly."""
    from .emulated import EmulatedSetup  # here: who boots a guest needs none of it
    from .emulator.machine import STRICT, behaviour

    if given or host != "U":
        named = ", ".join(given or ("host",))
        raise AskedWrongly(f'{named} and backend="emulator", which boots nothing; leave one of the two out')
    return EmulatedSetup(behaves=behaviour(behaves or STRICT), kind=shape.kind, via=via)


def _insisted(parts: Mapping[str, str | None]) -> bool:
    """Whether the user named parts, by argument or environment, or wants QEMU or nothing."""
    named = any(parts.values()) or any(os.environ.get(f"DCD_{name.upper()}") for name in parts)
    return named or os.environ.get(REQUIRE_QEMU, "") not in ("", "0")


@asynccontextmanager
async def _running(
    setup: Setup | EmulatedSetup, shape: Topology, directory: Path, name: str, seed: int
) -> AsyncIterator[Session]:
    """A guest of that shape with a history and a session, in that directory."""
    async with setup.guest(shape, directory / "guest") as guest:
        with Writer(directory / HISTORY, guest.header(name, seed), time.monotonic_ns) as writer:
            guest.begin(writer)
            try:
                yield guest.session(writer)
            finally:
                guest.end()


def _beside(setup: Setup, shape: Topology, writer: Writer) -> Beside:
    """Further guests of the same parts, each in a directory of its own beside that history: `beside-2`, ..."""
    numbers = itertools.count(2)

    @asynccontextmanager
    async def launched(topology: Topology | None) -> AsyncIterator[Session]:
        number = next(numbers)
        directory = writer.path.parent / f"{BESIDE}{number}"
        directory.mkdir(mode=0o700)
        seed = (writer.header.seed + number - 1) & MAX_SEED
        async with _running(setup, topology or shape, directory, writer.header.scenario, seed) as session:
            yield session

    return launched


class BytesWitness:
    """The bytes in the memory backend. See `bench.Witness`."""

    name = "bytes"
    f = "bytes"

    def __init__(self, backend: FileBackend) -> None:
        self._backend = backend

    async def ask(self, value: Value) -> Value:
        return {"data": self._backend.read(value["device"], value["dpa"], value["length"]).hex()}
