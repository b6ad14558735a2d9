"""Debian's own `cxl` and `daxctl` as a witness, in a guest with its stock kernel over static capacity (WITNESS.tools).

They are in no image: here they come from the mirror with what they load, as one more archive after the guest's.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from dcdbackend.boot import Setup
from dcdbackend.checker.tool import CLAUSE, compared
from dcdbackend.errors import CannotRun
from dcdbackend.guest import Guest
from dcdbackend.image import archive, mirror, recipe
from dcdbackend.image.step import silent

pytestmark = pytest.mark.vm

MIB = 1 << 20
TOOLS = ("cxl", "daxctl")
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def loaded(root: Path, program: str) -> set[str]:
    """The libraries that a program of the tree loads, as its own loader finds them there."""
    loader = [str(root / LIBRARIES / "ld-linux-x86-64.so.2"), "--library-path", str(root / LIBRARIES)]
    said = subprocess.run(
        [*loader, "--list", str(root / "usr/bin" / program)], capture_output=True, text=True, check=True
    )
    return {line.split()[0] for line in said.stdout.splitlines() if "=>" in line}


def packed(root: Path, base: Path) -> Iterator[archive.Entry]:
    """The tools, and of their libraries what the guest's tree has not."""
    for name in TOOLS:
        yield archive.file(f"usr/bin/{name}", (root / "usr/bin" / name).read_bytes(), executable=True)
    for name in sorted({one for program in TOOLS for one in loaded(root, program)}):
        if not (base / LIBRARIES / name).exists():
            yield archive.file(f"{LIBRARIES}/{name}", (root / LIBRARIES / name).read_bytes(), executable=True)


@pytest.fixture(scope="module")
def with_tools(
    kernel_setup: Setup, tmp_path_factory: pytest.TempPathFactory, cannot_be_had: Callable[[object], NoReturn]
) -> Setup:
    """The setup with the tools in its initrd."""
    place = tmp_path_factory.mktemp("tools")
    wanted = replace(recipe.load("kernel"), packages=TOOLS)
    try:
        source = mirror.find()
        if why := mirror.silence(source, wanted.suite):
            cannot_be_had(f"no cxl and daxctl: {why}")
        mirror.fetch(source, wanted, place / "root", log=place / "log", keep_open=(), progress=silent)
    except CannotRun as error:
        cannot_be_had(f"no cxl and daxctl: {error}")
    initrd = place / "initrd.cpio"
    with initrd.open("wb") as out:
        out.write(kernel_setup.initrd.read_bytes())
        out.write(archive.padding(out.tell()))
        archive.write(out, packed(place / "root", kernel_setup.kernel.parent / "tree"))
    return replace(kernel_setup, initrd=initrd)


async def in_guest(guest: Guest, command: str) -> None:
    """Run a line of shell to its end."""
    handle = (await guest.control("exec", {"argv": ["sh", "-c", command], "timeout_s": 10}))["handle"]
    for _ in range(500):
        if (said := await guest.control("exec_read", {"handle": handle}))["exit"] is not None:
            assert said["exit"] == 0, bytes.fromhex(said["stderr"])
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"{command} does not end")


async def asked(guest: Guest, what: str, **request: Any) -> dict[str, Any]:
    return await guest.control("kernel", {"what": what, **request})


async def test_the_real_tools_show_what_sysfs_shows(with_tools: Setup, tmp_path: Path) -> None:
    guest = with_tools.guest(with_tools.topology(), tmp_path)
    async with guest:
        assert guest.ready["survey"]["tools"] == {"cxl": "/usr/bin/cxl", "daxctl": "/usr/bin/daxctl"}
        made = await asked(guest, "region", serial=0x1234, size=256 * MIB, mode="ram")
        hpa = made["hpa"]
        cxl, daxctl = (await asked(guest, "sight", region="region0"))["tools"]
        assert cxl["shows"] == {
            "region0": {"size": 256 * MIB, "start": hpa},
            made["decoder"]: {"dpa_start": 0, "dpa_size": 256 * MIB},
        }
        assert (daxctl["shows"]["dax0.0"]["driver"], daxctl["shows"]["dax0.0"]["size"]) == ("kmem", 256 * MIB)
        assert compared([cxl, daxctl]) == ((CLAUSE,), ())
        await asked(guest, "destroy", dax="dax0.0")
        await asked(guest, "resize", dax="dax0.0", size=16 * MIB)
        await asked(guest, "create", region="region0")
        await asked(guest, "resize", dax="dax0.1", size=4 * MIB)
        await asked(guest, "resize", dax="dax0.0", size=32 * MIB)
        await asked(guest, "bind", dax="dax0.0", driver="device_dax")
        cxl, daxctl = (await asked(guest, "sight", region="region0"))["tools"]
        first, second, third = hpa, hpa + 16 * MIB, hpa + 20 * MIB
        mappings = [[first, second - 1, 0], [third, third + 16 * MIB - 1, 16 * MIB // 4096]]
        assert daxctl["shows"] == {
            "dax0.0": {"size": 32 * MIB, "target_node": 0, "driver": "device_dax", "mappings": mappings},
            "dax0.1": {"size": 4 * MIB, "target_node": 0, "driver": None, "mappings": [[second, third - 1, 0]]},
        }
        assert daxctl["sysfs"] == daxctl["shows"] and cxl["sysfs"] == cxl["shows"]
        assert compared([cxl, daxctl]) == ((CLAUSE,), ())
        lie = '#!/bin/sh\n/usr/bin/truth "$@" | sed s/33554432/4096/'
        await in_guest(
            guest,
            "ln /usr/bin/daxctl /usr/bin/truth && rm /usr/bin/daxctl && "
            f"echo '{lie}' > /usr/bin/daxctl && cd /usr/bin && busybox chmod 755 daxctl && rm cxl",
        )
        (daxctl,) = (await asked(guest, "sight", region="region0"))["tools"]
        (found,) = compared([daxctl])[1]
        assert found.text == "daxctl list shows size 4096 of dax0.0, sysfs 0x2000000"
