"""`dcd emulate`: the emulated device behind a QMP socket, for somebody else's client or script.

Nothing is judged here and no history is written: `dcd regress --backend emulator` does that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..emulated import WARNING
from ..emulator.machine import HOSTS, STRICT, Machine, behaviour
from ..emulator.monitor import run
from ..topology import direct


def emulate(
    socket: Annotated[Path, typer.Option(help="Where to listen: a path that is not there yet.")],
    as_: Annotated[str, typer.Option("--as", help="strict, or behave as qemu-X.Y.Z does.")] = STRICT,
    host: Annotated[str, typer.Option(help=f"Who answers: {', '.join(HOSTS)}.")] = "U",
    regions: Annotated[int, typer.Option(help="DC regions of a device, 1 to 8.")] = 2,
    size: Annotated[str, typer.Option(help="Dynamic capacity of a device.")] = "2G",
    devices: Annotated[int, typer.Option(help="Devices, mem0 onwards.")] = 1,
    seed: Annotated[int, typer.Option(help="Which of the permitted answers a simulated kernel gives.", min=0)] = 0,
) -> int:
    """Serve QMP over an emulated DCD with a simulated host: any client of QEMU's monitor can drive it.

    Exit: 0 after `quit`; 2 wrong usage; 3 the socket cannot be used; 4 the device died, as that QEMU would.
    """
    err = Console(stderr=True, highlight=False)
    shape = direct(regions=regions, size=size, devices=devices)
    machine = Machine(shape, behaves=behaviour(as_), host=host, seed=seed)
    err.print(WARNING, style="bold red", markup=False, soft_wrap=True)
    return run(machine, socket, say=lambda text: err.print(text, markup=False, soft_wrap=True))
