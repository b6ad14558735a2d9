"""From nothing to a bench: what is booted (`Setup`), and a guest of it with a history and a session (`launch`).

`launch` is the public way in: one guest, one history, one `Session` on it, in a run directory of their own. `dcd
regress` runs many scenarios on one guest and therefore takes the parts by themselves (`prepare`, `session_on`).

It does not decide what is done to the device (scenarios, verbs and users' scripts do) and judges nothing.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import image, machine
from .bench import Value, Witness
from .errors import AskedWrongly
from .guest import AgentHost, BlockWitness, FileBackend, Guest, QmpInjector
from .history import Header, Writer
from .image.step import silent
from .rundir import new_run_dir
from .session import Session
from .topology import Kind, Topology, direct, switch

HISTORY = "history.jsonl"
PARTS = "parts.json"
MAX_SEED = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What is booted: a QEMU that was probed, an accelerator that was chosen, a kernel, an initrd.

    `kind`: which topology. `shape`: what the user asked of it, under what a scenario needs (see `topology.direct`).
    `offers`: what the injectors and hosts of this setup can do that not every one can (like `tags`).
    """

    qemu: machine.Qemu
    accel: machine.Accel
    kernel: Path
    initrd: Path
    shape: Mapping[str, int | str] = field(default_factory=dict)
    offers: frozenset[str] = frozenset()
    kind: Kind = "direct"

    def topology(self, needs: Mapping[str, int | str] | None = None) -> Topology:
        """The topology, with what a scenario needs of it over what the user asked. Errors: AskedWrongly."""
        chosen: dict[str, Any] = {**self.shape, **(needs or {})}
        if self.kind == "switch":
            return switch(**chosen, cci="switch-cci" in self.qemu.features)
        return direct(**chosen)


async def prepare(
    parts: image.Parts,
    *,
    accel: str | None = None,
    shape: Mapping[str, int | str] | None = None,
    kind: Kind = "direct",
) -> Setup:
    """Ask QEMU what it can and choose the accelerator. Errors: CannotRun, AskedWrongly."""
    qemu = await machine.probe_qemu(parts.qemu_argv, origin=parts.qemu_origin)
    chosen = await machine.choose_accel(qemu, kernel=parts.kernel, cache_dir=image.cache_dir(), asked=accel)
    return Setup(qemu=qemu, accel=chosen, kernel=parts.kernel, initrd=parts.initrd, shape=dict(shape or {}), kind=kind)


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


def session_on(guest: Guest, writer: Writer) -> Session:
    """A session of that guest which writes there: QMP injects, host U answers, block state and bytes are asked."""
    backend = FileBackend(guest.shape, guest.run_dir)
    witnesses: Iterable[Witness] = (BlockWitness(guest), BytesWitness(backend))
    return Session(
        writer=writer,
        feed=guest,
        injector=QmpInjector(guest.qmp),
        host=AgentHost(guest),
        witnesses={witness.name: witness for witness in witnesses},
        backend=backend,
    )


@asynccontextmanager
async def launch(
    topology: Topology | None = None,
    *,
    qemu: str | None = None,
    kernel: str | None = None,
    initrd: str | None = None,
    accel: str | None = None,
    run_dir: Path | None = None,
    seed: int | None = None,
    name: str = "launch",
    progress: image.Progress = silent,
) -> AsyncIterator[Session]:
    """One guest with its DCDs, booted, its agent ready, as a session: `async with launch(direct(regions=2)) as bench:`.

    `qemu`, `kernel`, `initrd`, `accel`: as the options of `dcd regress` (None: environment, then what the cache
    holds, built first where it is not there). `run_dir`: None for a fresh one; `name` is the scenario's name in the
    history. The guest ends with the block, however that ends; the run directory stays.
    Errors: AskedWrongly, CannotRun, TimedOut, MachineGone.
    """
    seed = secrets.randbits(32) if seed is None else seed
    if not 0 <= seed <= MAX_SEED:
        raise AskedWrongly(f"seed {seed}; give 0 to {MAX_SEED}")
    parts = await asyncio.to_thread(image.parts, qemu=qemu, kernel=kernel, initrd=initrd, progress=progress)
    setup = await prepare(parts, accel=accel)
    directory = new_run_dir(name, run_dir)
    (directory / PARTS).write_text(json.dumps(parts.manifest, indent=1) + "\n")
    async with Guest(
        qemu=setup.qemu,
        accel=setup.accel,
        kernel=setup.kernel,
        initrd=setup.initrd,
        shape=topology or direct(),
        run_dir=directory / "guest",
    ) as guest:
        with Writer(directory / HISTORY, header_of(guest, name, seed), time.monotonic_ns) as writer:
            guest.begin(writer)
            try:
                yield session_on(guest, writer)
            finally:
                guest.end()


class BytesWitness:
    """The bytes in the memory backend. See `bench.Witness`."""

    name = "bytes"
    f = "bytes"

    def __init__(self, backend: FileBackend) -> None:
        self._backend = backend

    async def ask(self, value: Value) -> Value:
        return {"data": self._backend.read(value["device"], value["dpa"], value["length"]).hex()}
