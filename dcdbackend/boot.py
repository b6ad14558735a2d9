"""From nothing to a bench: what is booted (`Setup`), and a guest of it with a history and a session (`launch`).

`launch` is the public way in: one guest, one history, one `Session` on it, in a run directory of their own. `dcd
regress` runs many scenarios on one guest and therefore takes the parts by themselves (`prepare`, `session_on`).

It does not decide what is done to the device (scenarios, verbs and users' scripts do) and judges nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from . import asked, image, machine
from .bench import Injector, Value, Witness
from .errors import AskedWrongly, DcdError
from .fabric import Fabric, FmExtents, FmInjector
from .fm import served
from .guest import AgentHost, BlockWitness, FileBackend, Guest, Poll, QmpInjector
from .history import Header, Writer
from .image.step import silent
from .rundir import new_run_dir
from .session import Beside, Session
from .topology import Kind, Topology, direct, switch
from .wire.fmapi import RemovalPolicy, SelectionPolicy

HISTORY = "history.jsonl"
PARTS = "parts.json"
BESIDE = "beside-"
"""What the directory of a further guest of a run begins with; its number follows."""
MAX_SEED = (1 << 32) - 1
FM_OFFERS = frozenset(("fm", "tags", "fixed-regions"))
FM_SINCE = (11, 1)
"""The oldest QEMU whose 56xxh was measured; 10.0 answers them with 03h."""

Via = Literal["auto", "qmp", "fm"]
"""Who injects; see `Setup`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What is booted: a QEMU that was probed, an accelerator that was chosen, a kernel, an initrd.

    `kind`: which topology. `shape`: what the user asked of it, under what a scenario needs (see `topology.direct`).
    `offers`: what this setup can do that not every one can (`guests`: further ones beside the first; `tags`).
    `poll`: how the agent watches its devices.
    `via`: who injects: `qmp`, `fm` (both by name, whatever is asked), or `auto`: QMP, and FM-API for what has a tag.
    What a fabric manager offers (`fm`, `tags`) is in `offers` where QEMU and topology have one. Errors: AskedWrongly.
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

    def __post_init__(self) -> None:
        there = self.kind == "switch" and speaks_fm(self.qemu)
        if self.via == "fm" and not there:
            raise AskedWrongly(
                f"--via fm on QEMU {self.qemu.version}, topology {self.kind}; "
                "give --topology switch, and QEMU 11.1 or newer"
            )
        offers = self.offers - FM_OFFERS | (FM_OFFERS if there and self.via != "qmp" else frozenset())
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
        return True

    @property
    def fresh(self) -> bool:
        """Whether every scenario gets a guest of its own: a boot takes longer than to have everything released."""
        return False

    @property
    def label(self) -> str:
        """What is booted, in a few words."""
        return f"QEMU {self.qemu.version}, {self.accel}"

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
    )


def speaks_fm(qemu: machine.Qemu) -> bool:
    """Whether this QEMU has a switch's mailbox, and devices that answer a fabric manager through it."""
    return "switch-cci" in qemu.features and qemu.version_info >= FM_SINCE


def has_fabric(guest: Guest) -> bool:
    """Whether a fabric manager has a way in: a switch with a mailbox, on a QEMU that serves it."""
    return guest.shape.kind == "switch" and guest.shape.switch_cci and speaks_fm(guest.qemu)


def header_of(guest: Guest, scenario: str, seed: int) -> Header:
    """The first line of a history on that guest."""
    qemu = guest.qemu
    return Header(
        backend="qemu",
        qemu={
            "version": qemu.version,
            "origin": qemu.origin,
            "accel": guest.accel,
            "topology": guest.shape.kind,
        },
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
    return Session(
        writer=writer,
        feed=guest,
        injector=injectors[0],
        injectors=injectors,
        host=AgentHost(guest),
        witnesses={witness.name: witness for witness in witnesses},
        backend=backend,
        beside=beside,
    )


@asynccontextmanager
async def launch(
    topology: Topology | None = None,
    *,
    qemu: str | None = None,
    kernel: str | None = None,
    initrd: str | None = None,
    accel: str | None = None,
    poll: Poll = "sleep",
    run_dir: Path | str | None = None,
    seed: int | None = None,
    name: str = "launch",
    progress: image.Progress = silent,
) -> AsyncIterator[Session]:
    """One guest with its DCDs, booted, its agent ready, as a session: `async with launch(direct(regions=2)) as bench:`.

    `qemu`, `kernel`, `initrd`, `accel`, `poll`: as the options of `dcd regress` (None: environment, then what the cache
    holds, built first where it is not there). `run_dir`: None for a fresh one; `name` is the scenario's name in the
    history. The guest ends with the block, however that ends; the run directory stays.
    Errors: AskedWrongly, CannotRun, TimedOut, MachineGone.
    """
    if topology is not None and not isinstance(topology, Topology):
        raise AskedWrongly(f"topology {asked.shown(topology)}; give direct(...) or switch(...)")
    seed = secrets.randbits(32) if seed is None else asked.whole(seed, "seed", most=MAX_SEED)
    parts = await asyncio.to_thread(image.parts, qemu=qemu, kernel=kernel, initrd=initrd, progress=progress)
    setup = await prepare(parts, accel=accel, poll=poll)
    directory = new_run_dir(name, None if run_dir is None else Path(run_dir))
    (directory / PARTS).write_text(json.dumps(parts.manifest, indent=1) + "\n")
    async with _running(setup, topology or direct(), directory, name, seed) as session:
        yield session


@asynccontextmanager
async def _running(setup: Setup, shape: Topology, directory: Path, name: str, seed: int) -> AsyncIterator[Session]:
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
