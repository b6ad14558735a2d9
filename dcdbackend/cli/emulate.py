"""`dcd emulate`: the emulated device behind a QMP socket, for somebody else's client or script.

Nothing is judged here: `--history` writes what happens as `dcd check` reads it, without the witnesses of a session.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..boot import MAX_SEED
from ..emulated import WARNING, EmulatedSetup, Recording
from ..emulator.machine import HOSTS, STRICT, behaviour
from ..emulator.monitor import run
from ..history import Writer
from ..topology import MAX_HOSTS, direct
from . import out


def emulate(
    socket: Annotated[Path, typer.Option(help="Where to listen: a path that is not there yet.")],
    as_: Annotated[str, typer.Option("--as", help="strict, or behave as qemu-X.Y.Z does.")] = STRICT,
    host: Annotated[str, typer.Option(help=f"Who answers: {', '.join(HOSTS)}.")] = "U",
    regions: Annotated[int, typer.Option(help="DC regions of a device, 1 to 8.")] = 2,
    size: Annotated[str, typer.Option(help="Dynamic capacity of a device.")] = "2G",
    static: Annotated[str, typer.Option(help="Static volatile capacity of a device, below the regions.")] = "0",
    devices: Annotated[int, typer.Option(help="Devices, mem0 onwards.")] = 1,
    hosts: Annotated[int, typer.Option(help=f"Hosts that a device serves, by ids from 0, 1 to {MAX_HOSTS}.")] = 1,
    sharable: Annotated[int, typer.Option(help="Regions that hosts may share, the last ones of a device.")] = 0,
    seed: Annotated[
        int, typer.Option(help="Which of the permitted answers a simulated kernel gives.", min=0, max=MAX_SEED)
    ] = 0,
    history: Annotated[
        Path | None, typer.Option(help="Write what happens to this file, for dcd check; one that is not there yet.")
    ] = None,
) -> int:
    """Serve QMP over an emulated DCD with a simulated host: any client of QEMU's monitor can drive it.

    Exit: 0 after `quit`; 2 wrong usage; 3 the socket or the history cannot be used; 4 the device died, as that QEMU
    would.
    """
    err = Console(stderr=True, highlight=False)
    shape = direct(regions=regions, size=size, static=static, devices=devices, hosts=hosts, sharable=sharable)
    recording = Recording(EmulatedSetup(behaves=behaviour(as_), host=host, seed=seed), shape)
    err.print(WARNING, style="bold red", markup=False, soft_wrap=True)
    with _written(recording, history, seed):
        code = run(recording.machine, socket, say=_saying(err))
    if recording.fault is not None:
        raise recording.fault
    if history is not None:
        out.following("check", str(history))
    return code


@contextlib.contextmanager
def _written(recording: Recording, path: Path | None, seed: int) -> Iterator[None]:
    """What happens meanwhile goes to that file, if there is one."""
    if path is None:
        yield
        return
    with Writer(path, recording.header("emulate", seed), time.monotonic_ns) as writer:
        recording.begin(writer)
        try:
            yield
        finally:
            recording.end()


def _saying(err: Console) -> Callable[[str], None]:
    return lambda text: err.print(text, markup=False, soft_wrap=True)
