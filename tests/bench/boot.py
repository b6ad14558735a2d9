"""How long a guest takes to be ready: `python tests/bench/boot.py [--rounds N] [--json]`.

The measure is a bare boot of the same kernel under the same QEMU arguments, to an /init of 160 bytes that powers
off: from QEMU's start to its end. Ours is from QEMU's start to the agent's `ready` (the run directory has both
moments), and, as a second figure, until `Guest` may be used: monitor's schema read, devices named. One after the
other, in one run, each `--rounds` times. It measures, and exits 1 when the ratio of the medians is above the target.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bare

from dcdbackend import machine, topology
from dcdbackend.boot import Setup
from dcdbackend.guest import Guest

TARGET = 1.6


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="boots of each kind (default 7)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    setup = bare.setup()
    found: dict[str, list[float]] = {"bare": [], "ready": [], "usable": []}
    with tempfile.TemporaryDirectory(prefix="dcd-boot-") as scratch:
        root = Path(scratch)
        power_off = bare.power_off_initrd(root / "off.cpio")
        for number in range(options.rounds):
            found["bare"].append(bare_boot(setup, power_off, root / f"bare{number}"))
            ready, usable = asyncio.run(our_boot(setup, root / f"guest{number}"))
            found["ready"].append(ready)
            found["usable"].append(usable)
    return report(setup, found, as_json=options.json)


def bare_boot(setup: Setup, initrd: Path, run_dir: Path) -> float:
    """Seconds from QEMU's start to its end."""
    run_dir.mkdir()
    argv = machine.full_argv(
        qemu=setup.qemu, topology=topology.direct(), kernel=setup.kernel, initrd=initrd, accel=setup.accel
    )
    start = time.monotonic()
    subprocess.run(argv, cwd=run_dir, stdin=subprocess.DEVNULL, check=True, timeout=120)
    return time.monotonic() - start


async def our_boot(setup: Setup, run_dir: Path) -> tuple[float, float]:
    """Seconds from QEMU's start until its agent was ready, and until the guest could be used."""
    start = time.monotonic()
    async with Guest(
        qemu=setup.qemu,
        accel=setup.accel,
        kernel=setup.kernel,
        initrd=setup.initrd,
        shape=topology.direct(),
        run_dir=run_dir,
    ):
        usable = time.monotonic() - start
    # written right before the start, and when `ready` has come
    began, ready = ((run_dir / name).stat().st_mtime_ns for name in (machine.COMMAND_FILE, "agent.json"))
    return (ready - began) / 1e9, usable


def report(setup: Setup, found: dict[str, list[float]], *, as_json: bool) -> int:
    """Print the medians and their ratio; the exit code."""
    medians = {name: statistics.median(values) for name, values in found.items()}
    ratio = medians["ready"] / medians["bare"]
    data = {
        "qemu": setup.qemu.version,
        "accel": setup.accel,
        "rounds": len(found["bare"]),
        "seconds": {
            name: {"median": round(medians[name], 3), "all": [round(value, 3) for value in values]}
            for name, values in found.items()
        },
        "ratio": round(ratio, 2),
        "target": TARGET,
    }
    if as_json:
        sys.stdout.write(json.dumps(data, indent=1) + "\n")
    else:
        for name, values in found.items():
            sys.stdout.write(f"{name:7} median {medians[name]:.2f} s  ({min(values):.2f} to {max(values):.2f})\n")
        sys.stdout.write(f"ready / bare {ratio:.2f}x (at most {TARGET}), {len(found['bare'])} boots of each kind, ")
        sys.stdout.write(f"QEMU {setup.qemu.version}, {setup.accel}\n")
    return 0 if ratio <= TARGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
