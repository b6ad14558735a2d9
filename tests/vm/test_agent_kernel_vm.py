"""The agent's kernel host on a living kernel: Debian's stock one, which has no DCD, over static volatile capacity.

Regions, decoders, DAX devices, mappings, bytes, memory online, refusals, drivers out and in: the same code that a DCD
kernel is driven with, for real in every run. One guest serves all; each test leaves no region behind.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dcdbackend.agent.kernel import data
from dcdbackend.boot import Setup
from dcdbackend.errors import AskedWrongly
from dcdbackend.guest import Guest

pytestmark = [pytest.mark.vm]

MIB = 1 << 20
STATIC = 512 * MIB
SERIAL = 0x1234


class Kernel:
    """The guest's kernel, asked."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    async def __call__(self, what: str, **request: Any) -> dict[str, Any]:
        return await self.guest.control("kernel", {"what": what, **request})

    def backend(self, offset: int, length: int) -> bytes:
        """Bytes of the file behind the static capacity, whose first byte is DPA 0."""
        with (self.guest.run_dir / "mem0-static.memory").open("rb") as file:
            file.seek(offset)
            return file.read(length)

    async def agrees(self, dax: str, offset: int, length: int, seed: int, *, dpa: int) -> bool:
        """Whether a pattern reads back in the guest, and lies in the file; the DAX device's first byte is at `dpa`."""
        said = await self("check", dax=dax, offset=offset, length=length, seed=seed)
        first, count = offset // data.PAGE, length // data.PAGE
        pages = b"".join([data.page(seed, at) for at in range(first, first + count)])
        return said["bad"] == 0 and said["pages"] == count and self.backend(dpa + offset, length) == pages


async def a_day_of_a_kernel(kernel: Kernel) -> None:
    """Everything, in an order that a user might take."""
    await surveyed(kernel)
    await made_mapped_and_compared(kernel)
    await online_and_offline(kernel)
    await refused(kernel)
    await unloaded_and_loaded(kernel)
    await not_followed(kernel)


async def surveyed(kernel: Kernel) -> None:
    said = kernel.guest.ready["survey"]
    assert kernel.guest.ready["host"] == "kernel" and kernel.guest.ready["devices"] == []
    assert (said["generation"]["found"], said["generation"]["sure"], said["mode"]) == ("none", True, None)
    (memdev,) = said["memdevs"]
    assert (memdev["serial"], memdev["partitions"]["ram"], memdev["driver"]) == (SERIAL, STATIC, "cxl_mem")
    assert memdev["pci"] and memdev["root"] == "decoder0.0" and len(memdev["decoders"]) >= 1
    assert "create_ram_region" in said["roots"][0]["creates"]
    missing = [one["what"] for one in said["missing"]]
    assert "Dynamic Capacity support" in missing and not any("DEV_DAX" in what for what in missing)
    assert said["modules"]["failed"] == {} and said["modules"]["settled"] is True
    with pytest.raises(AskedWrongly, match="makes no DC region"):
        await kernel("region", serial=SERIAL, size=256 * MIB, mode=None)


async def made_mapped_and_compared(kernel: Kernel) -> None:
    """A region, two DAX devices, bytes there and back; nothing outside is touched."""
    made = await kernel("region", serial=SERIAL, size=256 * MIB, mode="ram")
    assert (made["region"], made["start"], made["length"], made["dax"]) == ("region0", 0, 256 * MIB, ["dax0.0"])
    await kernel("destroy", dax="dax0.0")  # kmem takes it at once
    await kernel("resize", dax="dax0.0", size=16 * MIB)
    assert (await kernel("create", region="region0"))["dax"] == "dax0.1"
    await kernel("resize", dax="dax0.1", size=4 * MIB)
    said = await kernel("sight", region="region0")
    hpa = made["hpa"]
    assert [(one["name"], one["size"], one["mappings"]) for one in said["sight"]["devices"]] == [
        ("dax0.0", 16 * MIB, [[hpa, hpa + 16 * MIB - 1, 0]]),
        ("dax0.1", 4 * MIB, [[hpa + 16 * MIB, hpa + 20 * MIB - 1, 0]]),
    ]
    assert (said["sight"]["available"], said["sight"]["extents"], said["odd"]) == (236 * MIB, [], [])
    for name in ("dax0.0", "dax0.1"):
        assert (await kernel("bind", dax=name, driver="device_dax"))["driver"] == "device_dax"
    assert (await kernel("map", dax="dax0.0"))["length"] == 16 * MIB
    await kernel("fill", dax="dax0.0", offset=2 * MIB, length=4 * MIB, seed=99)
    await kernel("fill", dax="dax0.1", offset=0, length=MIB, seed=3)
    assert await kernel.agrees("dax0.0", 2 * MIB, 4 * MIB, 99, dpa=0)
    assert await kernel.agrees("dax0.1", 0, MIB, 3, dpa=16 * MIB)
    assert not any(kernel.backend(6 * MIB, 10 * MIB)) and not any(kernel.backend(17 * MIB, 8 * MIB))
    await kernel("write", dax="dax0.0", offset=3 * MIB + 7, data="c0ffee")
    assert kernel.backend(3 * MIB + 7, 3).hex() == "c0ffee"
    assert (await kernel("check", dax="dax0.0", offset=2 * MIB, length=4 * MIB, seed=99))["bad"] == 1
    with (kernel.guest.run_dir / "mem0-static.memory").open("r+b") as file:
        file.seek(16 * MIB + 123)
        file.write(b"from the host")
    said = await kernel("read", dax="dax0.1", offset=123, length=13)
    assert bytes.fromhex(said["data"]) == b"from the host"
    await kernel("unbind", dax="dax0.0")
    said = await kernel("read", dax="dax0.0", offset=0, length=1)
    assert said["refused"]["errno"] == "SIGBUS"  # taken from under the mapping, and the agent lives
    await kernel("unmap", dax="dax0.0")
    await kernel("destroy", dax="dax0.0")
    assert (await kernel("destroy", dax="dax0.1", delete=True))["steps"][-1][1] == "dax0.1"
    assert (await kernel("region_destroy", region="region0"))["gone"] is True


async def online_and_offline(kernel: Kernel) -> None:
    """Memory of a region as the kernel's own, and back."""
    await kernel("region", serial=SERIAL, size=256 * MIB, mode="ram")
    assert (await kernel("sight", region="region0"))["sight"]["devices"][0]["driver"] == "kmem"
    said = await kernel("online", dax="dax0.0", how="online_movable")
    assert said["blocks"] == 2 and said["states"] == ["online"]
    assert (await kernel("resize", dax="dax0.0", size=0))["refused"]["errno"] == "EBUSY"
    said = await kernel("destroy", dax="dax0.0")
    assert said["size"] == 0 and "offline" in [value for _, value in said["steps"]]
    await kernel("region_destroy", region="region0")


async def refused(kernel: Kernel) -> None:
    """What the kernel refuses comes as its errno, and what was begun is taken back."""
    said = await kernel("region", serial=SERIAL, size=2 * STATIC, mode="ram")
    assert said["refused"]["errno"] == "ENOSPC" and said["refused"]["path"].endswith("/dpa_size")
    said = await kernel("region", serial=SERIAL, size=STATIC + 1, mode="ram")
    assert said["refused"]["errno"] == "EINVAL"
    made = await kernel("region", serial=SERIAL, size=STATIC, mode="ram")
    assert made["region"] == "region0"  # nothing of the two is left
    said = await kernel("claim", dax="dax0.0", tag="0")
    assert said["refused"] == {"errno": "ENOENT", "path": "/sys/bus/dax/devices/dax0.0/uuid", "wrote": "0"}
    assert (await kernel("bind", dax="dax0.0", driver="device_dax"))["refused"]["errno"] in ("EBUSY", "ENODEV")
    await kernel("destroy", dax="dax0.0")
    assert (await kernel("resize", dax="dax0.0", size=12345))["refused"]["errno"] == "EINVAL"
    assert (await kernel("resize", dax="dax0.0", size=2 * STATIC))["refused"]["errno"] == "ENOSPC"
    assert (await kernel("bind", dax="dax0.0", driver="device_dax"))["refused"]["errno"] == "ENXIO"
    assert (await kernel("cxl", serial=SERIAL, opcode=0x4801, payload="00" * 8))["refused"]["errno"] == "EPERM"
    await kernel("region_unbind", region="region0")
    assert "available" not in (await kernel("sight", region="region0"))["sight"]
    assert (await kernel("region_bind", region="region0"))["dax"] == ["dax0.0"]
    await kernel("region_destroy", region="region0")


async def unloaded_and_loaded(kernel: Kernel) -> None:
    """The drivers go and come; log and quiet work; a healthy kernel raises no alarm."""
    names = ["kmem", "device_dax", "dax_cxl", "cxl_mem", "cxl_pci", "cxl_acpi"]
    said = await kernel("unload", names=names)
    assert (said["unloaded"], said["failed"]) == (names, {})
    assert (await kernel("survey"))["memdevs"] == []
    said = await kernel("modules")
    assert said["failed"] == {} and said["settled"] is True
    assert [one["serial"] for one in (await kernel("survey"))["memdevs"]] == [SERIAL]
    assert (await kernel("quiet", timeout_s=5))["quiet"] is True
    lines, lost = 0, 0
    alarms: list[Any] = []
    while True:
        said = await kernel("log")
        lines, lost, alarms = lines + len(said["lines"]), lost + said["lost"], alarms + said["alarms"]
        if not said["more"]:
            break
    assert lines > 300 and lost == 0 and alarms == []
    assert "no event" in (await kernel("trace"))["why"]


async def not_followed(kernel: Kernel) -> None:
    """`watch` on a kernel without DCD says what is missing and what to do, and ends with 3."""
    argv = ["python3", "-Ss", "-m", "dcdbackend.agent", "watch", "--once"]
    handle = (await kernel.guest.control("exec", {"argv": argv, "timeout_s": 30}))["handle"]
    told, status = b"", None
    for _ in range(600):
        said = await kernel.guest.control("exec_read", {"handle": handle})
        told, status = told + bytes.fromhex(said["stdout"] + said["stderr"]), said["exit"]
        if status is not None:
            break
        await asyncio.sleep(0.02)
    assert status == 3 and told.count(b"\n") == 1
    assert b"shows no Dynamic Capacity support" in told and b"boot one with the DCD series" in told


async def test_the_stock_kernel_over_static_capacity(kernel_setup: Setup, tmp_path: Path) -> None:
    guest = kernel_setup.guest(kernel_setup.topology(), tmp_path)
    async with guest:
        await a_day_of_a_kernel(Kernel(guest))
