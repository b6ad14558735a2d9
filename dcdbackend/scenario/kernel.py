"""On a kernel under test: regions, extents, DAX devices; the shortest ways through each, as the records have them.

What a generation does otherwise is in its row (`bench.generation`), never in a version. A scenario asserts what its own
script relies on; the rules are the checker's. These are the record's set: A0 to A3 untagged over QMP, B1 to B4 tagged
over the fabric manager.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import cast

from ..bench import Span, parse_span
from ..kernel.session import KernelSession, Made
from ..session import Answer
from ..units import MIB
from . import DEPARTURE, Body, Outcome, scenario

KERNEL, TAGS = "kernel", "tags"
TIMEOUT_S = 60.0
KernelBody = Callable[[KernelSession], Awaitable[None]]
T1, T2, T3 = "5be13bceae344a77b6c316df975fcf1a", "aaaaaaaabbbb4ccc8dddeeeeeeeeeeee", "0f1e2d3c4b5a49788796a5b4c3d2e1f0"


def on_kernel(
    *,
    needs: Iterable[str] = (),
    name: str | None = None,
    expect: Mapping[str, Outcome] | None = None,
    shape: Mapping[str, int | str] | None = None,
    timeout_s: float = TIMEOUT_S,
    settle: bool = True,
    as_written: bool = False,
) -> Callable[[KernelBody], KernelBody]:
    """As `scenario`, for a function that takes a `KernelSession`. `as_written`: its name keeps its underscores."""

    def registered(body: KernelBody) -> KernelBody:
        called = body.__name__ if as_written else name
        register = scenario(
            needs={KERNEL, *needs}, name=called, expect=expect, shape=shape, timeout_s=timeout_s, settle=settle
        )
        register(cast(Body, body))
        return body

    return registered


async def offered(
    bench: KernelSession, *extents: str | Span, tag: str | None = None, device: str = "mem0", region: int = 0
) -> Answer:
    """Offer a chain and wait for what becomes of it."""
    return await (await bench.add(extents, tag=tag, device=device, region=region)).answer()


async def taken(bench: KernelSession, *extents: str | Span, tag: str | None = None, device: str = "mem0") -> Answer:
    """As `offered`; all of it must be accepted, for the scenario to go on."""
    answer = await offered(bench, *extents, tag=tag, device=device)
    assert answer.outcome == "accepted", f"the kernel {answer} of what was offered"
    return answer


async def released(bench: KernelSession, *extents: str, tag: str | None = None, device: str = "mem0") -> str:
    """Ask for extents back: what came of it. A host that remembers may have given them back by now: then `released`."""
    if bench.remembers and all([await gone(bench, one, device) for one in extents]):
        return "released"
    return (await (await bench.release(extents, tag=tag, device=device)).response()).outcome


async def gone(bench: KernelSession, extent: str, device: str) -> bool:
    """Whether the host has nothing of this extent of the first partition any more, by its block states."""
    span = parse_span(extent)
    return await bench.block(span.offset_bytes, length=span.length_bytes, device=device) == "free"


async def used(bench: KernelSession, made: Made, size: int, *, tag: str = "0") -> str:
    """The region's seed takes capacity and is bound to device_dax; its name."""
    error = await bench.take(made, size, tag=tag)
    assert not error, f"{made.seed} takes no {size} bytes: {error}"
    error = await bench.bind(made.seed)
    assert not error, f"{made.seed} is not bound: {error}"
    return made.seed


@on_kernel()
async def region_create(bench: KernelSession) -> None:
    """A region over dynamic capacity is made and destroyed: a seed of size 0, nothing available (A0)."""
    made = await bench.region()
    seen = await bench.sight(made)
    assert not seen.get("extents") and seen.get("available") == 0, f"a fresh region shows {seen}"
    assert await bench.destroy(made) == ""


@on_kernel()
async def untagged_add(bench: KernelSession) -> None:
    """One untagged extent: taken, claimed, mapped, released while in use and again when free (A1)."""
    made = await bench.region()
    await taken(bench, "0+128M")
    dax = await used(bench, made, 128 * MIB)
    await bench.map(dax)
    assert await released(bench, "0+128M") == "declined", "capacity in use was given back"
    await bench.drop(dax)
    assert await released(bench, "0+128M") == "released", "free capacity was kept"


@on_kernel(expect={DEPARTURE + "Q6": "departure"})
async def untagged_chain(bench: KernelSession) -> None:
    """Two untagged extents in one chain: two devices claim them; releasing one in use, and then free (A2)."""
    made = await bench.region()
    await taken(bench, "0+128M", "512M+64M")
    dax = await used(bench, made, 128 * MIB)
    await bench.map(dax)
    other = await bench.create(made)
    assert other.startswith("dax"), f"no second device: {other}"
    assert await bench.take(made, 64 * MIB, dax=other) == ""
    assert await released(bench, "512M+64M") == "declined", "capacity that is claimed was given back"
    await bench.resize(other, 0)
    if bench.by_uuid:  # both are one group (Q6): the other member is in use
        await released(bench, "512M+64M")
    await bench.drop(dax)
    if bench.remembers and await gone(bench, "0+128M", "mem0"):  # with its last user: it was no group of two (Q6)
        await taken(bench, "0+128M", "512M+64M")
    await released(bench, "512M+64M")


@on_kernel()
async def no_region(bench: KernelSession) -> None:
    """Offers with no region are refused; with one they are taken; the second partition never is (A3)."""
    assert (await offered(bench, "0+128M")).outcome == "refused", "an extent was taken with no region"
    await bench.region()
    await taken(bench, "0+128M")
    if len(bench.devices["mem0"]["regions"]) > 1:
        second = await offered(bench, "0+128M", region=1)
        assert second.outcome == "refused", "an extent of the second partition was taken"


@on_kernel(needs={TAGS})
async def tagged_add(bench: KernelSession) -> None:
    """One tagged extent: no match, the wrong tag, its own, once more; released in use and free (B1)."""
    made = await bench.region()
    answer = await offered(bench, "0+128M", tag=T1)
    if bench.generation.tags == "refused":
        assert answer.outcome == "refused", "a tagged extent was taken"
        return
    assert answer.outcome == "accepted", f"the kernel {answer} of a tagged extent"
    if bench.by_uuid:
        assert await bench.claim(made.seed, T2) == "-ENOENT"
        assert await bench.claim(made.seed, "0") == "-ENOENT"
    dax = await used(bench, made, 128 * MIB, tag=T1)
    if bench.generation.claim_checks:
        assert await bench.claim(dax, T1) == "-EBUSY"
    assert await released(bench, "0+128M", tag=T1) == "declined"
    await bench.drop(dax)
    assert await released(bench, "0+128M", tag=T1) == "released"


@on_kernel(needs={TAGS})
async def tagged_chain(bench: KernelSession) -> None:
    """Three extents of one tag, not in order of address: one device, mappings in order of arrival; all go (B2)."""
    made = await bench.region()
    answer = await offered(bench, "512M+128M", "0+64M", "256M+32M", tag=T1)
    if bench.generation.tags == "refused":
        assert answer.outcome == "refused"
        return
    assert answer.outcome == "accepted", f"the kernel {answer} of a tagged chain"
    dax = await used(bench, made, 224 * MIB, tag=T1)
    await bench.map(dax)
    assert await released(bench, "0+64M", tag=T1) == "declined"
    await bench.drop(dax)
    await released(bench, "0+64M", tag=T1)
    assert await bench.block(512 * MIB) == "free", "a member of the group stays when another is released"


@on_kernel(needs={TAGS})
async def reused_tag(bench: KernelSession) -> None:
    """A tag that is live comes again in another chain: that one is dropped; gone, it may come again (B3)."""
    await bench.region()
    if (await offered(bench, "0+128M", tag=T1)).outcome == "refused":
        assert bench.generation.tags == "refused"
        return
    again = await offered(bench, "256M+128M", tag=T1)
    assert again.outcome == "refused", "a live tag was taken again"
    assert await released(bench, "0+128M", tag=T1) == "released"
    assert (await offered(bench, "256M+128M", tag=T1)).outcome == "accepted"


@on_kernel(needs={TAGS}, expect={DEPARTURE + "Q7": "departure"})
async def mixed_chain(bench: KernelSession) -> None:
    """Two tags and an untagged extent mixed in one chain: each a group of its own (B4)."""
    made = await bench.region()
    chain = [
        Span(0, 64 * MIB, T1),
        Span(128 * MIB, 64 * MIB, T2),
        Span(256 * MIB, 64 * MIB),
        Span(384 * MIB, 32 * MIB, T1),
    ]
    answer = await (await bench.add(chain)).answer()
    if bench.generation.tags == "refused":
        assert answer.outcome == "partial", "of a mixed chain the untagged extent alone is taken"
        return
    assert answer.outcome == "accepted", f"the kernel {answer} of a mixed chain"
    if bench.by_uuid:
        for tag in (T1, T2, "0"):
            dax = made.seed if tag == T1 else await bench.create(made)
            assert await bench.claim(dax, tag) == "", f"{dax} does not claim {tag}"
