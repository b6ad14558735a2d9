"""A recorded kernel session (`kernel_record`) as a directory tree under which the agent finds what the kernel showed.

What the record's `tree` commands printed becomes files and links, in the order of the record; the files that it wrote
are there to be written. Nothing is typed in here but where the bus directories are. Log and trace lines become what
/dev/kmsg and trace_pipe give.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from kernel_record import KERNEL, Block, Session, Tree, Wrote

CXL = "sys/bus/cxl/devices"
DAX = "sys/bus/dax/devices"
TRACING = "sys/kernel/tracing"
EVENT = "events/cxl/cxl_dynamic_capacity/enable"
_DRIVER_FILES = (
    "sys/bus/cxl/drivers/cxl_region/bind",
    "sys/bus/cxl/drivers/cxl_region/unbind",
    "sys/bus/cxl/drivers/cxl_dax_region/bind",
    "sys/bus/dax/drivers/device_dax/bind",
    "sys/bus/dax/drivers/device_dax/unbind",
    "sys/bus/dax/drivers/kmem/bind",
    "sys/bus/dax/drivers/kmem/unbind",
)
_UNREAD = frozenset(("subsystem", "modalias", "locked", "numa_node", "qos_class", "memmap_on_memory", "target_node"))
"""Left out of the tree, as nobody looks at them: a file costs a test half a millisecond."""


def plant(root: Path) -> None:
    """The directories and files of a kernel that no `tree` shows: drivers, tracefs, /dev, the osrelease."""
    for name in (*_DRIVER_FILES, f"{TRACING}/{EVENT}", f"{TRACING}/instances/dcd/{EVENT}"):
        write(root / name, "")
    write(root / TRACING / "instances/dcd/trace_pipe", "")
    write(root / "dev/kmsg", "")
    write(root / "proc/sys/kernel/osrelease", "7.2.12-recorded\n")
    write(root / "proc/dynamic_debug/control", "")
    for place in (CXL, DAX):
        (root / place).mkdir(parents=True, exist_ok=True)


def write(path: Path, text: str) -> None:
    """A file, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def grow(root: Path, tree: Tree) -> None:
    """What a `tree` showed, as it is now: what it shows again is replaced, extents and DAX devices that are gone go."""
    if any(path.startswith("dax_region0/dax_region/") for path, _ in tree.files):
        stale = [*(root / CXL).glob("dax_region0/extent*"), *(root / DAX).glob("dax*")]
        for place in [*stale, *(root / CXL).glob("dax_region0/dax*.*")]:
            place.unlink() if place.is_symlink() else shutil.rmtree(place)
    for path, value in tree.files:
        if path.rpartition("/")[2] in _UNREAD:
            continue
        bus = DAX if re.match(r"dax\d", path) else CXL
        place = root / bus / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if value.startswith("../"):
            place.unlink(missing_ok=True)
            place.symlink_to(value)
        else:
            place.write_text("" if value == "(write-only)" else value + "\n")
    _link(root)


def _link(root: Path) -> None:
    """A dax region stands under its region, DAX devices under their dax region."""
    region = root / CXL / "dax_region0"
    if not region.is_dir():
        return
    (root / CXL / "region0").mkdir(exist_ok=True)
    if not (root / CXL / "region0/dax_region0").exists():
        (root / CXL / "region0/dax_region0").symlink_to("../dax_region0")
    for device in (root / DAX).iterdir():
        if not (region / device.name).exists():
            (region / device.name).symlink_to(f"../../../dax/devices/{device.name}")


def stages(root: Path, session: Session) -> Iterator[Tree]:
    """Play the record: each `tree` in its turn, yielded when it stands."""
    plant(root)
    for step in session.steps:
        for item in step.items:
            if isinstance(item, Wrote):
                place = root / item.path.lstrip("/")
                if not place.exists():
                    write(place, "")
            elif isinstance(item, Tree):
                grow(root, item)
                yield item


def kmsg(session: Session) -> str:
    """The log of a record as /dev/kmsg gives it."""
    lines = [line for step in session.steps for item in step.items if isinstance(item, Block) for line in item.lines]
    return "".join([f"6,{number},{time_ns // 1000},-;{text}\n" for number, (time_ns, text) in enumerate(lines)])


def trace_lines(name: str) -> list[str]:
    """The trace lines of a record as they stand there."""
    return [line for line in (KERNEL / f"{name}.txt").read_text().splitlines() if "cxl_dynamic_capacity: " in line]


def echoed(name: str) -> list[str]:
    """What a record's `mkregion` wrote, in its order."""
    lines = (KERNEL / f"{name}.txt").read_text().splitlines()
    return [line.removeprefix("+ echo ") for line in lines if line.startswith("+ echo ")]
