"""Requests that a manager must not make: the device refuses each, and nothing changes. Rules DEV-2, DEV-3, DEV-8.

Which refusal is the right one is the checker's to say; the script only sees that there was one, and that capacity
around it is as it was.

Offsets outside a region can be said by QMP alone: over FM-API they are DPAs of another region, or of none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..bench import Span
from ..errors import Refused
from ..session import Session
from . import DEPARTURE, scenario

MIB = 1 << 20
TOP = (1 << 64) - 1


async def refused(bench: Session, extents: Sequence[str | Span], *, release: bool = False, **params: Any) -> str:
    """Ask for what must be refused; the device's own words. An acceptance fails the scenario."""
    try:
        await (bench.release if release else bench.add)(extents, **params)
    except Refused as error:
        return error.reason
    shown = ", ".join(str(extent) for extent in extents)
    raise AssertionError(f"the device took {shown} {params or ''}")


@scenario()
async def add_over_accepted(bench: Session) -> None:
    """Capacity that the host holds is offered again, whole and in part: refused."""
    await (await bench.add(["16M+16M"])).answer()
    for extent in ("16M+16M", "24M+16M", "8M+16M", "18M+2M", "0+64M"):
        await refused(bench, [extent])
    assert await bench.extents() == ((bench.dpa(0, 16 * MIB), 16 * MIB),)


@scenario()
async def add_over_pending(bench: Session) -> None:
    """Capacity whose offer was not answered is offered again: refused; the first offer stands and is answered."""
    await bench.policy("late", delay_s=0.5)
    offer = await bench.add(["16M+16M"])
    for extent in ("16M+16M", "24M+16M", "8M+16M", "18M+2M"):
        await refused(bench, [extent])
    assert (await offer.answer()).outcome == "accepted"


@scenario()
async def add_unaligned(bench: Session) -> None:
    """Starts and lengths off the block, by one byte and by half a block: refused."""
    for extent in ("1+2M", "0+1", "1M+2M", "0+3M", "4096+2M", "2M+2097153"):
        await refused(bench, [extent])
    await refused(bench, ["0+2M", "4M+1M"])
    assert await bench.block(0) == "free"


@scenario()
async def add_past_end(bench: Session) -> None:
    """Extents that begin or end outside the region: refused. The last block itself is taken."""
    length = bench.devices["mem0"]["regions"][0]["length"]
    end = length // MIB
    for extent in (f"{end}M+2M", f"{end - 2}M+4M", f"0+{end + 2}M", f"{2 * end}M+2M"):
        await refused(bench, [extent], via="qmp")
    assert (await (await bench.add([f"{end - 2}M+2M"])).answer()).outcome == "accepted"


@scenario()
async def add_zero(bench: Session) -> None:
    """Extents of no length, alone and inside a chain: refused, and nothing of the chain is offered."""
    await refused(bench, ["0+0"], via="qmp")
    await refused(bench, ["0+2M", "4M+0"], via="qmp")
    assert await bench.block(0) == "free"


@scenario()
async def add_extreme(bench: Session) -> None:
    """Numbers at the ends of 64 bits and of 63: refused."""
    block = 2 * MIB
    for span in (
        Span(TOP, TOP),
        Span(TOP, 1),
        Span(0, TOP - block + 1),
        Span(0, 1 << 63),
        Span(1 << 62, 1 << 62),
        Span((1 << 63) - block, block),
    ):
        await refused(bench, [span], via="qmp")
    await refused(bench, [Span((1 << 63) - block, block)], release=True, via="qmp")
    assert await bench.block(0) == "free"


@scenario(settle=False, expect={DEPARTURE + "QEMU-qmp-wraps": "departure"})
async def add_wraps(bench: Session) -> None:
    """Whole blocks whose start + length passes 2^64: refused, and never taken for a small address."""
    block = 2 * MIB
    await refused(bench, [Span(TOP - block + 1, block)], via="qmp")
    await refused(bench, [Span(TOP - block + 1, 2 * block)], via="qmp")
    await refused(bench, [Span(1 << 63, 1 << 63)], via="qmp")
    await refused(bench, [Span(TOP - block + 1, block)], release=True, via="qmp")
    assert await bench.block(0) == "free"


@scenario()
async def add_self_overlap(bench: Session) -> None:
    """The extents of one offer overlap each other: refused."""
    await refused(bench, ["0+4M", "2M+4M"])
    await refused(bench, ["8M+2M", "0+2M", "8M+2M"])
    assert await bench.block(0) == "free"


@scenario()
async def add_region_out_of_range(bench: Session) -> None:
    """Regions that the device does not have: refused."""
    for region in (len(bench.devices["mem0"]["regions"]), 7, 8, 255):
        await refused(bench, ["0+2M"], region=region, via="qmp")


@scenario()
async def release_not_held(bench: Session) -> None:
    """A release is asked of what is free, pending, or held only in part: refused."""
    await refused(bench, ["0+2M"], release=True)
    await (await bench.add(["16M+4M"])).answer()
    for extent in ("14M+4M", "18M+4M", "0+2M", "17M+2M"):
        await refused(bench, [extent], release=True)
    await refused(bench, ["16M+0"], release=True, via="qmp")
    await bench.policy("late", delay_s=0.3)
    offer = await bench.add(["32M+2M"])
    await refused(bench, ["32M+2M"], release=True)
    assert (await offer.answer()).outcome == "accepted"
    assert len(await bench.extents()) == 2


@scenario(
    expect={
        "host DEV-6.inside": "fail",
        "host DEV-7.held": "fail",
        "host DEV-7.some": "fail",
        "host DEV-7.aligned": "fail",
        "host DEV-7.disjoint": "fail",
    }
)
async def host_answers_wrongly(bench: Session) -> None:
    """A host that breaks the rules is convicted; the device refuses it with the right codes, and nothing changes."""
    base = bench.dpa(0, 0)
    assert await bench.answer([(base, 2 * MIB)]) != 0
    assert await bench.give_back([(base, 2 * MIB)]) != 0
    assert await bench.give_back([]) != 0
    assert await bench.give_back([(base + 1, 2 * MIB)]) != 0
    assert await bench.give_back([(TOP - 2 * MIB + 1, 4 * MIB)]) != 0
    await (await bench.add(["0+4M"])).answer()
    assert await bench.give_back([(base, 2 * MIB), (base, 2 * MIB)]) != 0
    assert await bench.give_back([(base, 8 * MIB)]) != 0
    assert await bench.extents() == ((base, 4 * MIB),)
