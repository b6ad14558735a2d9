"""The fabric manager while the kernel owns the memory device: 5600h to 5605h through the switch's mailbox, for real.

The stock kernel's cxl_pci and cxl_mem are bound to the device, and use its static capacity; it has no Dynamic Capacity,
so nobody answers what is offered, and an offer stays pending. No driver claims the switch's mailbox.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcdbackend.boot import Setup, speaks_fm
from dcdbackend.checker import check
from dcdbackend.fabric import Fabric, FmExtents, FmInjector
from dcdbackend.fm import FmRefused
from dcdbackend.guest import BlockWitness, Guest
from dcdbackend.history import Header, History, Writer
from dcdbackend.units import MIB

pytestmark = pytest.mark.vm

TAG = "5a" * 16
NAME = "mem0"
STATIC = 512 * MIB
MAPPED = 4 * MIB
INVALID_PA = 0x0F


async def driver_of(guest: Guest) -> str:
    """The driver that the kernel has bound to the memory device."""
    survey = await guest.control("kernel", {"what": "survey"})
    (memdev,) = survey["memdevs"]
    return str(memdev["driver"])


async def test_the_fabric_manager_works_while_the_kernel_owns_the_device(kernel_setup: Setup, tmp_path: Path) -> None:
    if not speaks_fm(kernel_setup.qemu):
        pytest.skip(f"QEMU {kernel_setup.qemu.version} serves no fabric manager")
    setup = replace(kernel_setup, kind="switch")
    async with setup.guest(setup.topology({"size": "512M"}), tmp_path / "guest") as guest:
        assert guest.ready["host"] == "kernel" and guest.ready["devices"] == [], "the agent has taken no device"
        assert await driver_of(guest) == "cxl_mem"
        assert guest.devices()[0]["selection_policies"] == ["prescriptive"]  # asked by 5600h as it was booted
        made = await guest.control("kernel", {"what": "region", "serial": 0x1234, "size": 256 * MIB, "mode": "ram"})
        assert (made["region"], made["length"]) == ("region0", 256 * MIB), "the kernel uses it"
        path = tmp_path / "history.jsonl"
        with Writer(path, head(guest), time.monotonic_ns) as writer:
            await by_the_manager(guest, writer)
        for what, more in (("destroy", {}), ("resize", {"size": MAPPED}), ("bind", {"driver": "device_dax"})):
            said = await guest.control("kernel", {"what": what, "dax": "dax0.0", **more})
            assert "refused" not in said, said
        whole = {"dax": "dax0.0", "offset": 0, "length": MAPPED, "seed": 7}
        await guest.control("kernel", {"what": "fill", **whole})
        said = await guest.control("kernel", {"what": "check", **whole})
        assert said["bad"] == 0, "its memory is its own as before"
        assert await driver_of(guest) == "cxl_mem"
    with path.open("rb") as file:
        verdict = check(History(file))
    assert not verdict.failed
    assert verdict.of("DEV-5.pending").passed and verdict.of("DEV-8.0Fh-pending").passed
    assert verdict.of("DEV-8.1Eh-add").passed and verdict.of("DEV-5.list").passed + verdict.of("DEV-5.free").passed


async def by_the_manager(guest: Guest, writer: Writer) -> None:
    """Everything a fabric manager asks, with the device's state as two others tell it: 5603h, and QMP's question."""
    fabric = Fabric(guest)
    manager = FmInjector(fabric)
    device = await fabric.device(NAME)
    (region,) = await device.regions()  # 5601h
    assert (region.base, region.length) == (STATIC, 512 * MIB)
    assert (await fabric.info(NAME)).region_count == 1  # 5600h
    await device.set_region(0, block_size=2 * MIB, sanitize=False)  # 5602h, with what it has
    base = region.base
    offer = {"device": NAME, "via": "fm", "host_id": 0, "policy": "prescriptive", "region": 0, "tag": None}
    extents = [{"dpa": base + at * MIB, "length": 2 * MIB, "tag": TAG, "sequence": at // 4} for at in (0, 4)]
    op = writer.invoke("manager", "add", {**offer, "extents": extents})
    await manager.add({**offer, "extents": extents})  # 5604h
    writer.end(op, "ok", {"rc": 0})
    await witnessed(guest, fabric, writer, pending=(0, 4 * MIB), free=2 * MIB)
    asked: dict[str, Any] = {**offer, "extents": extents[:1], "forced": False, "sanitize": False}
    op = writer.invoke("manager", "release", asked)
    with pytest.raises(FmRefused) as refused:  # 5605h of what nobody has answered
        await manager.release(asked)
    assert refused.value.rc == INVALID_PA
    writer.end(op, "fail", {"rc": INVALID_PA, "desc": refused.value.reason})
    await witnessed(guest, fabric, writer, pending=(0, 4 * MIB), free=2 * MIB)
    op = writer.invoke("manager", "add", {**offer, "extents": extents[:1]})
    with pytest.raises(FmRefused) as refused:  # 5604h of what is pending already
        await manager.add({**offer, "extents": extents[:1]})
    writer.end(op, "fail", {"rc": refused.value.rc, "desc": refused.value.reason})


async def witnessed(guest: Guest, fabric: Fabric, writer: Writer, *, pending: tuple[int, ...], free: int) -> None:
    """5603h lists nothing, and the blocks are what they are."""
    value = {"device": NAME, "count": 50, "start": 0, "host_id": 0}
    op = writer.invoke("witness", "fm_extents", value)
    page = await FmExtents(fabric).ask(value)
    assert (page["rc"], page["total"]) == (0, 0) and not any(one["length"] for one in page["extents"])
    writer.end(op, "ok", page)
    for offset in (*pending, free):
        value = {"device": NAME, "region": 0, "offset": offset, "length": 2 * MIB}
        op = writer.invoke("witness", "block", value)
        state = await BlockWitness(guest).ask(value)
        assert state["state"] == ("free" if offset == free else "pending")
        writer.end(op, "ok", state)


def head(guest: Guest) -> Header:
    """A header that names no generation: the kernel has no Dynamic Capacity, nobody judges it as a host."""
    device = guest.devices()[0]
    more = {"decode_length": 512 * MIB, "flags": 0, "dsmad_handle": 0}
    regions = [{**more, **one} for one in device["regions"]]
    described = {"payload_size": 2048, "supported_extents": 512, "supported_tags": 0, **device, "regions": regions}
    return Header(
        backend="qemu",
        qemu={"version": guest.qemu.version, "origin": guest.qemu.origin, "accel": guest.accel, "topology": "switch"},
        host={"generation": "U", "kernel": guest.ready["survey"].get("kernel")},
        devices=(described,),
        seed=1,
        scenario="fm-beside-kernel",
    )
