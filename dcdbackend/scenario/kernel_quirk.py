"""The known departures of the tagged kernels (Q), each by the scenario that shows it; a repaired one names its row.

Q6 and Q7 are in `kernel`, Q12 is `multiple_extent_remove`, Q11 is in every name of an extent. What no scenario can show
on QEMU has its reason in the table (`model/quirks.py`).
"""

from __future__ import annotations

from ..bench import Span
from ..errors import Unserved
from ..kernel.session import KernelSession
from ..units import MIB
from . import DEPARTURE
from .kernel import T1, T2, T3, TAGS, offered, on_kernel, taken
from .kernel_uses import left_open

STAGED = 100
"""So many records at most wait for the end of a chain (B4)."""


def tagged_only(bench: KernelSession) -> None:
    """Errors: Unserved, for a kernel without tags: these departures are of the tagged series."""
    if bench.generation.kind != "tagged":
        raise Unserved(f"generation {bench.generation.name} has no groups: the departure is of the tagged kernels")


@on_kernel(needs={TAGS})
async def sequence_unshared(bench: KernelSession) -> None:
    """Of one tag's extents one carries a sequence where nothing is shared: sorted last, and refused by its rule."""
    made = await bench.region()
    answer = await (await bench.add([Span(0, 64 * MIB, T1, 1), Span(128 * MIB, 32 * MIB, T1)])).answer()
    due = "partial" if bench.generation.sequence == "sharable" else "refused"
    assert answer.outcome == due, f"the kernel {answer} of the group"
    if due == "partial":
        assert await bench.claim(made.seed, T1) == "", "the shorter allocation is not claimed"
    for tag, second in ((T2, 3), (T3, 2)):  # with a gap, and dense from 1 on
        spans = [Span(256 * MIB, 64 * MIB, tag, 1), Span(384 * MIB, 32 * MIB, tag, second)]
        assert (await (await bench.add(spans)).answer()).outcome == "refused", "a sequence was taken, unshared"


@on_kernel(needs={TAGS}, expect={DEPARTURE + "Q2": "departure"})
async def quirk_member(bench: KernelSession) -> None:
    """Of one tag's extents one lies outside the region: it alone is dropped, the rest is a shorter allocation (Q2)."""
    tagged_only(bench)
    half = bench.partition() // 2
    made = await bench.region(half)
    spans = [Span(0, 64 * MIB, T1), Span(half + 64 * MIB, 32 * MIB, T1)]
    answer = await (await bench.add(spans)).answer()
    assert answer.outcome == "partial", f"the kernel {answer} of the group"
    if bench.by_uuid:
        assert await bench.claim(made.seed, T1) == "", "the shorter allocation is not claimed"


@on_kernel(expect={DEPARTURE + "Q4": "departure"})
async def quirk_release_each(bench: KernelSession) -> None:
    """A group is asked back extent by extent, in one request: the first record frees all, the others fail (Q4)."""
    await bench.region()
    await taken(bench, "0+64M", "128M+64M")
    await (await bench.release(["0+64M", "128M+64M"])).response()
    assert await bench.block(128 * MIB) == "free"


@on_kernel(expect={DEPARTURE + "Q5": "departure"})
async def quirk_two_regions(bench: KernelSession) -> None:
    """One chain brings an extent to each of two regions: both join the first (Q5)."""
    tagged_only(bench)
    half = bench.partition() // 2
    await bench.region(half)
    second = await bench.try_region(half)
    if isinstance(second, str):
        raise Unserved(f"this platform has no second region over one device ({second})")
    await offered(bench, Span(64 * MIB, 32 * MIB), Span(half + 128 * MIB, 32 * MIB))


@on_kernel(settle=False, expect={DEPARTURE + "Q8": "departure", "host DEV-6.*": "unknown"})
async def quirk_scan_swallows(bench: KernelSession) -> None:
    """A chain is open when a region is made: the region's scan takes what is staged, and never answers (Q8)."""
    tagged_only(bench)
    if bench.generation.recovered_answered:
        raise Unserved("this generation answers what a scan finds, and with it, too early, what was staged")
    await left_open(bench)
    await bench.region()


@on_kernel(settle=False, expect={DEPARTURE + "Q10": "departure", "host DEV-6.*": "unknown"}, timeout_s=90.0)
async def quirk_bound(bench: KernelSession) -> None:
    """A chain passes the bound of 100 staged records and then ends: its tail is taken as a chain of its own (Q10)."""
    tagged_only(bench)
    if bench.generation.most_staged is None:
        raise Unserved(f"generation {bench.generation.name} has no bound")
    await bench.region()
    await left_open(bench)
    for turn in range(1, STAGED // 8 + 1):
        await bench.add([f"{32 * turn + 2 * at}M+2M" for at in range(10)])
        await bench.heard()
    await (await bench.add([f"{32 * (STAGED // 8 + 2)}M+2M"])).answer(timeout_s=1.0)
