"""On a kernel under test: the bytes. What lies at a DPA is at the place of /dev/dax that tag, order and mapping give.

Patterns go both ways, at both ends of every block: the device hands capacity out in blocks, so that a byte in a wrong
place is in a wrong block. All are stored before any is read, so that one that went elsewhere covers another. Whole
pages directly beside each extent, and other extents there, are watched: nothing outside is touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..bench import Span
from ..errors import Unserved
from ..kernel.session import MAX_PEEK, KernelSession, places
from ..session import Range
from ..units import MIB
from .kernel import T1, on_kernel, taken, used

PIECE = 64
"""Bytes at each end of a block: a cache line."""


class Place(NamedTuple):
    """An offset in a DAX device, the DPA where that byte is due, and how many bytes from there."""

    offset: int
    dpa: int
    length: int


Stored = dict[int, bytes]
"""What was stored last, by DPA."""


def edges(bench: KernelSession, extents: Iterable[Range]) -> list[Place]:
    """Both ends of every block of a DAX device that has these extents (offset in the region, bytes) in this order.

    Blocks that adjoin have theirs together.
    """
    step: int = bench.devices["mem0"]["regions"][0]["block_size"]
    found = []
    for at, start, length in places(extents):
        for inside in range(0, length + step, step):
            first, last = max(0, inside - PIECE), min(length, inside + PIECE)
            found.append(Place(at + first, bench.dpa(0, start + first), last - first))
    return found


def beside(bench: KernelSession, extents: Iterable[Range]) -> list[Place]:
    """The pages directly before and after each extent, of those that lie in the partition; no DAX device has them."""
    found = {place for start, length in extents for place in (start - MAX_PEEK, start + length)}
    return [Place(0, bench.dpa(0, one), MAX_PEEK) for one in sorted(found) if 0 <= one < bench.partition()]


async def stored(bench: KernelSession, where: Iterable[Place]) -> Stored:
    """Other bytes at each place, from the host side."""
    found = {one.dpa: bench.random.randbytes(one.length) for one in where}
    for dpa, data in found.items():
        await bench.write(dpa, data)
    return found


async def poked(bench: KernelSession, dax: str, where: Iterable[Place]) -> Stored:
    """Other bytes at each place, through the DAX device."""
    found: Stored = {}
    for one in where:
        found[one.dpa] = bench.random.randbytes(one.length)
        await bench.poke(dax, one.offset, one.dpa, found[one.dpa])
    return found


async def same(bench: KernelSession, due: Stored, text: str) -> None:
    """The backend holds these bytes."""
    for dpa, data in due.items():
        assert await bench.read(dpa, len(data)) == data, f"DPA 0x{dpa:x}: {text}"


async def shown(bench: KernelSession, dax: str, where: Iterable[Place], due: Stored, text: str) -> None:
    """The DAX device reads these bytes."""
    for one in where:
        read = await bench.peek(dax, one.offset, one.dpa, one.length)
        assert read == due[one.dpa], f"{dax} at 0x{one.offset:x}, which is DPA 0x{one.dpa:x}: {text}"


async def carried(bench: KernelSession, dax: str, extents: list[Range], others: Iterable[Range] = ()) -> None:
    """Bytes from the memory to the DAX device and back, at both ends of each block; none outside changes.

    `others`: extents that are not this device's.
    """
    where, pages = edges(bench, extents), beside(bench, extents)
    outside = [
        one
        for other in others
        for one in edges(bench, [other])
        if not any(page.dpa < one.dpa + one.length and one.dpa < page.dpa + page.length for page in pages)
    ]
    guards = await stored(bench, [*pages, *outside])
    await bench.map(dax)
    by_host = await stored(bench, where)
    await shown(bench, dax, where, by_host, "it reads something else than what the memory holds")
    by_dax = await poked(bench, dax, where)
    await same(bench, by_dax, f"what {dax} stored is not there")
    await shown(bench, dax, where, by_dax, "it does not read what it has stored")
    await same(bench, guards, f"it is outside of {dax}, and was touched")


@on_kernel()
async def data_through_dax(bench: KernelSession) -> None:
    """One extent between two of nobody: every byte is where its mapping puts it, none outside is touched."""
    made = await bench.region()
    await taken(bench, "192M+64M")
    dax = await used(bench, made, 64 * MIB)
    others = [(188 * MIB, 4 * MIB), (256 * MIB, 4 * MIB)]
    for start, length in others:
        await taken(bench, Span(start, length))
    await carried(bench, dax, [(192 * MIB, 64 * MIB)], others)
    await bench.drop(dax)


@on_kernel(timeout_s=120.0)
async def data_in_order(bench: KernelSession) -> None:
    """Three extents of one device, not in order of address: each byte is where the allocation's order puts it."""
    if bench.by_uuid and not bench.has_tags:
        raise Unserved("several extents of one device need a tag here, and nobody offers tags: --topology switch")
    made = await bench.region()
    extents = [(512 * MIB, 64 * MIB), (0, 32 * MIB), (256 * MIB, 16 * MIB)]
    if bench.by_uuid:
        await taken(bench, *[Span(start, length) for start, length in extents], tag=T1)
    else:
        for start, length in extents:
            await taken(bench, Span(start, length))
    dax = await used(bench, made, 112 * MIB, tag=T1)
    others = [(32 * MIB, 2 * MIB)]
    await taken(bench, *[Span(start, length) for start, length in others])
    await carried(bench, dax, extents, others)
    await bench.drop(dax)


@on_kernel(timeout_s=120.0)
async def data_returned(bench: KernelSession) -> None:
    """Capacity leaves, holding what was stored through the DAX device, and comes again: nothing stale is read.

    Away the first time, somebody else stores there: it reads as that. The second time it is to be sanitized, where the
    device can: what it then reads is judged (DEV-14).
    """
    made = await bench.region()
    extent = (64 * MIB, 32 * MIB)
    where = edges(bench, [extent])
    left: Stored = {}
    for sanitize in (False, True, None):
        await taken(bench, Span(*extent))
        dax = await used(bench, made, 32 * MIB)
        await bench.map(dax)
        if sanitize is None:
            for one in where:
                await bench.peek(dax, one.offset, one.dpa, one.length)
        await shown(bench, dax, where if left else [], left, "it reads what was there before the capacity left")
        mine = await poked(bench, dax, where)
        await shown(bench, dax, where, mine, "it does not read what it has stored")
        await bench.drop(dax)
        if sanitize is None:
            return
        await same(bench, mine, f"what {dax} stored is not there when it is given up")
        request = await bench.release([Span(*extent)], sanitize=sanitize)
        assert (await request.response()).outcome == "released"
        left = {} if sanitize else await stored(bench, where)
