"""`python -m dcdbackend.emulator --socket PATH`: the emulated device for somebody else's QMP client.

The same as `dcd emulate`, without the command line's libraries.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import DcdError
from ..topology import direct
from .machine import HOSTS, STRICT, Machine, behaviour
from .monitor import run


def main(arguments: Sequence[str]) -> int:
    """Serve until `quit`, or until a device dies as QEMU would; the exit code (design's codes)."""
    parser = argparse.ArgumentParser(prog="python -m dcdbackend.emulator", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="where to listen; a path that is not there yet")
    parser.add_argument("--as", dest="behaves", default=STRICT, help="strict, or qemu-X.Y.Z")
    parser.add_argument("--host", default="U", help=f"who answers: {', '.join(HOSTS)}")
    parser.add_argument("--regions", type=int, default=2, help="DC regions of a device, 1 to 8")
    parser.add_argument("--size", default="2G", help="dynamic capacity of a device")
    parser.add_argument("--devices", type=int, default=1, help="devices, mem0 onwards")
    parser.add_argument("--seed", type=int, default=0, help="which of the permitted answers a kernel gives")
    given = parser.parse_args(arguments)
    try:
        shape = direct(regions=given.regions, size=given.size, devices=given.devices)
        machine = Machine(shape, behaves=behaviour(given.behaves), host=given.host, seed=given.seed)
        return run(machine, given.socket, say=_say)
    except DcdError as error:
        sys.stderr.write(f"dcdbackend.emulator: {error}\n")
        return error.exit_code


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
