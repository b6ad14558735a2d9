"""How much: to a region's last block, to a device's last extent, over regions and devices. Rules DEV-1, 8, 10, 19."""

from __future__ import annotations

from contextlib import suppress

from ..errors import Refused
from ..session import Session
from . import scenario
from .illegal import refused

MIB = 1 << 20
EXTENTS = 512
CHAIN = 4
"""Records in a chain: the next one still fits the event log (8 records in QEMU) before this one is cleared."""


@scenario()
async def fill_region(bench: Session) -> None:
    """A region is filled to its last block, in chains; after that nothing more fits, and one block given back does."""
    blocks = bench.devices["mem0"]["regions"][0]["length"] // (64 * MIB)
    for first in range(0, blocks, CHAIN):
        spans = [f"{64 * index}M+64M" for index in range(first, min(first + CHAIN, blocks))]
        assert (await (await bench.add(spans)).answer()).outcome == "accepted"
    await refused(bench, ["0+2M"])
    end = 64 * blocks
    assert (await (await bench.release([f"{end - 2}M+2M"])).response()).outcome == "released"
    assert (await (await bench.add([f"{end - 2}M+2M"])).answer()).outcome == "accepted"


@scenario(timeout_s=60.0)
async def fill_device(bench: Session) -> None:
    """Extents up to the 512 that the device says it supports, and one more: the list holds all that were taken."""
    for first in range(0, EXTENTS, CHAIN):
        spans = [f"{4 * (index % 256)}M+2M" for index in range(first, first + CHAIN)]
        await bench.add(spans, region=first // 256)
        await bench.idle()
    held = await bench.extents()
    assert len(held) == len(set(held)) <= EXTENTS
    if len(held) == EXTENTS:
        with suppress(Refused):
            await bench.add(["1022M+2M"])
            await bench.idle()
        assert len(await bench.extents()) == EXTENTS


@scenario(shape={"regions": 8, "size": "4G"})
async def eight_regions(bench: Session) -> None:
    """Eight regions, each offered its first and its last block: every one holds its own and nothing else."""
    regions = bench.devices["mem0"]["regions"]
    assert len(regions) == 8
    for region in regions:
        last = region["length"] // MIB - 2
        answer = await (await bench.add(["0+2M", f"{last}M+2M"], region=region["index"])).answer()
        assert answer.outcome == "accepted", answer
    assert len(await bench.extents()) == 16
    for region in regions:
        assert await bench.block(4 * MIB, region=region["index"]) == "free"


@scenario(shape={"static": "512M"})
async def static_beside(bench: Session) -> None:
    """Static capacity lies below the regions: they begin behind it, and it stays reachable whatever comes and goes."""
    region = bench.devices["mem0"]["regions"][0]
    assert region["base"] >= 512 * MIB
    mark = bench.random.randbytes(4096)
    await bench.store(0, mark)
    await (await bench.add(["0+4M"])).answer()
    assert await bench.load(0, 4096) == mark
    data = bench.random.randbytes(4096)
    await bench.store(region["base"], data)
    assert await bench.read(region["base"], 4096) == data
    assert await bench.read(0, 4096) == mark
    assert (await (await bench.release(["0+4M"])).response()).outcome == "released"
    assert await bench.load(0, 4096) == mark


@scenario(shape={"devices": 2})
async def two_devices(bench: Session) -> None:
    """Two devices, on host bridges of their own or under one switch: the same place in both, and no byte crosses."""
    for device in ("mem0", "mem1"):
        answer = await (await bench.add(["0+8M"], device=device)).answer()
        assert answer.outcome == "accepted", answer
    marks = {device: bench.random.randbytes(4096) for device in ("mem0", "mem1")}
    for device, mark in marks.items():
        await bench.store(bench.dpa(0, 0, device=device), mark, device=device)
    for device, mark in marks.items():
        assert await bench.read(bench.dpa(0, 0, device=device), 4096, device=device) == mark
    assert (await (await bench.release(["0+8M"], device="mem1")).response()).outcome == "released"
    assert await bench.extents(device="mem0") == ((bench.dpa(0, 0), 8 * MIB),)
    assert await bench.load(bench.dpa(0, 0), 4096) == marks["mem0"]
