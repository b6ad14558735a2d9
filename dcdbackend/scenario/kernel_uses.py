"""On a kernel under test: chains, limits, releases in every kind of use, several devices, races.

A race is a bounded loop in which two things are asked at the same time; any order that the rules permit will do, and
which one it was the witnesses say.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from ..bench import Span
from ..errors import Refused, Unserved
from ..kernel.session import MAX_PEEK, KernelSession
from ..units import MIB
from .kernel import T1, T2, TAGS, offered, on_kernel, released, taken, used

ROUNDS = 4
CHAIN = 8
"""As many records as QEMU's event log holds."""
MOST_EXTENTS = 512
LONG = [f"{2 * at}M+2M" for at in range(10)]


async def left_open(bench: KernelSession) -> None:
    """Leave a chain open: the device's event log loses its end. Errors: Unserved, where it loses nothing."""
    if not bench.cuts:
        raise Unserved("this device loses no record of a chain, so that none stays open (QEMU's log of 8 records does)")
    assert (await offered(bench, *LONG)).outcome == "unanswered", "a chain without its end was answered"


@on_kernel()
async def chain_limit(bench: KernelSession) -> None:
    """A chain that nobody closes: nothing is answered for 20 s, then it is refused, and the next one is taken."""
    await bench.region()
    await left_open(bench)
    assert await bench.block(0) == "pending"
    if bench.generation.timeout_ns is None:
        raise Unserved(f"generation {bench.generation.name} has no limit: the chain stays open")
    assert await bench.limit(), "the kernel did not give the chain up"
    assert await bench.block(0) == "free", "the chain was given up, and its capacity is pending"
    await taken(bench, "128M+2M")


@on_kernel(settle=False, expect={"host DEV-6.*": "unknown"})
async def stale_chain(bench: KernelSession) -> None:
    """What is offered while a chain is open joins it: one answer names two offers, and the device refuses it."""
    await bench.region()
    await left_open(bench)
    await (await bench.add(["128M+2M"])).answer(timeout_s=1.0)
    assert await bench.block(128 * MIB) == "pending", "an answer that names two offers was taken"


@on_kernel()
async def release_while_claimed(bench: KernelSession) -> None:
    """A claim alone, with no driver, keeps the extent."""
    made = await bench.region()
    await taken(bench, "0+128M")
    assert await bench.take(made, 128 * MIB) == ""
    assert await released(bench, "0+128M") == "declined", "a claimed extent was given back"
    assert await bench.resize(made.seed, 0) == ""
    assert await released(bench, "0+128M") == "released"


@on_kernel()
async def release_while_mapped(bench: KernelSession) -> None:
    """A mapping keeps the extent, and what was stored through it."""
    made = await bench.region()
    await taken(bench, "0+128M")
    dax = await used(bench, made, 128 * MIB)
    await bench.map(dax)
    data = bench.random.randbytes(MAX_PEEK)
    await bench.poke(dax, 0, bench.dpa(0, 0), data)
    assert await released(bench, "0+128M") == "declined", "a mapped extent was given back"
    assert await bench.peek(dax, 0, bench.dpa(0, 0)) == data
    await bench.drop(dax)
    assert await released(bench, "0+128M") == "released"


@on_kernel()
async def release_while_online(bench: KernelSession) -> None:
    """Memory that is online keeps the extent; offline and unbound it goes."""
    made = await bench.region()
    await taken(bench, "0+256M")
    assert await bench.take(made, 256 * MIB) == ""
    error = await bench.bind(made.seed, "kmem")
    if error:
        raise Unserved(f"this kernel does not bind {made.seed} to kmem ({error})")
    error = await bench.online(made.seed)
    assert not error, f"{made.seed} does not come online: {error}"
    assert await released(bench, "0+256M") == "declined", "memory that is online was given back"
    assert await bench.offline(made.seed) == ""
    assert await bench.unbind(made.seed) == ""
    assert await bench.resize(made.seed, 0) == ""
    assert await released(bench, "0+256M") == "released"


@on_kernel(needs={TAGS})
async def release_by_another_tag(bench: KernelSession) -> None:
    """A release that carries another tag than the extent is an error, and nothing is given back."""
    await bench.region()
    if bench.generation.tags == "refused":
        raise Unserved("generation A takes no tagged extent")
    await taken(bench, "0+64M", tag=T1)
    with suppress(Refused):  # a device may compare the tags by itself
        assert await released(bench, "0+64M", tag=T2) == "declined", "a release by another tag was obeyed"
    await released(bench, "0+64M", tag=T1)


@on_kernel(settle=False, expect={"host DEV-6.*": "unknown"})
async def release_in_open_chain(bench: KernelSession) -> None:
    """A release that comes while a chain of adds is open is handled at once."""
    await bench.region()
    await taken(bench, "128M+32M")
    await left_open(bench)
    assert await released(bench, "128M+32M") == "released", "a release waits for the end of a chain"
    assert await bench.block(0) == "pending", "a release ended the chain"


@on_kernel(needs={TAGS})
async def hole_in_group(bench: KernelSession) -> None:
    """Of three extents of one tag the middle one lies outside the region: it leaves a hole, and no claim succeeds."""
    half = bench.partition() // 2
    made = await bench.region(half)
    spans = [Span(0, 32 * MIB, T1), Span(half + 32 * MIB, 32 * MIB, T1), Span(64 * MIB, 32 * MIB, T1)]
    found = (await (await bench.add(spans)).answer()).outcome
    if bench.generation.tags == "refused":
        assert found == "refused"
        return
    assert found == "partial", f"a group with a member outside the region was {found}"
    if bench.by_uuid:
        assert await bench.claim(made.seed, T1) == "-EINVAL", "a group with a hole was claimed"


@on_kernel(needs={TAGS})
async def tagged_second_partition(bench: KernelSession) -> None:
    """A tagged extent of the second partition is refused."""
    await bench.region()
    if len(bench.devices["mem0"]["regions"]) < 2:
        raise Unserved("this device has one partition: --regions 2")
    found = (await offered(bench, "0+32M", tag=T1, region=1)).outcome
    assert found == "refused", f"a tagged extent of the second partition was {found}"


@on_kernel(needs={"reset"}, settle=False, timeout_s=90.0, expect={"device *": "unknown"})
async def recovered_outside(bench: KernelSession) -> None:
    """After a reset the region is smaller: what the device holds beside it is not shown, and not given back."""
    half = bench.partition() // 2
    await bench.region()
    await taken(bench, "0+64M")
    await taken(bench, Span(half + 64 * MIB, 64 * MIB))
    await bench.reset()
    if await bench.block(0) != "accepted":
        raise Unserved("this device keeps no extents over a reset of the machine")
    seen = await bench.sight(await bench.region(half))
    assert [one["offset"] for one in seen["extents"]] == [0], f"the region shows {seen['extents']}"
    assert await bench.block(half + 64 * MIB) == "accepted", "the kernel gave back what it has no region for"


@on_kernel(needs={"reset"}, settle=False, timeout_s=90.0, expect={"device *": "unknown", "host DEV-7.held": "unknown"})
async def release_with_no_region(bench: KernelSession) -> None:
    """What the device holds from before a reset is asked back while there is no region: acknowledged as asked."""
    await bench.region()
    await taken(bench, "0+128M")
    await bench.reset()
    if await bench.block(0) != "accepted":
        raise Unserved("this device keeps no extents over a reset of the machine")
    await released(bench, "0+128M")
    assert await bench.block(0) == "free", "the kernel kept what it has no region for"


@on_kernel()
async def outside_the_region(bench: KernelSession) -> None:
    """Offers beside a region are refused, and so is one that reaches over its end, which is never clipped."""
    half = bench.partition() // 2
    made = await bench.region(half)
    for span in (Span(half + 64 * MIB, 64 * MIB), Span(half - 32 * MIB, 64 * MIB)):
        assert (await offered(bench, span)).outcome == "refused", f"{span} was taken, the region ends at {half}"
    await taken(bench, Span(half - 32 * MIB, 32 * MIB))
    assert len((await bench.sight(made))["extents"]) == 1


@on_kernel(shape={"devices": 2})
async def two_kernel_devices(bench: KernelSession) -> None:
    """Two devices, a region over each: what one is offered appears under its own region alone."""
    one, other = await bench.region(), await bench.region(device="mem1")
    await taken(bench, "0+64M")
    await taken(bench, "128M+32M", device="mem1")
    for made, found in ((one, (0, 64 * MIB)), (other, (128 * MIB, 32 * MIB))):
        seen = [(extent["offset"], extent["length"]) for extent in (await bench.sight(made))["extents"]]
        assert seen == [found], f"{made.name} of {made.device} shows {seen}"
    assert await released(bench, "0+64M") == "released"
    assert await bench.block(128 * MIB, device="mem1") == "accepted", "a release went to another device"


@on_kernel(shape={"devices": 2}, needs={TAGS})
async def tag_on_two_devices(bench: KernelSession) -> None:
    """A tag that is live on one device comes on another of the same host: it is dropped there (B6)."""
    if bench.generation.tags == "region":
        raise Unserved("this generation's tags are unique in a region, not on the host")
    if bench.kernel.simulated:
        raise Unserved("a simulated kernel is one for each device, and does not know the other's tags")
    await bench.region()
    await bench.region(device="mem1")
    if (await offered(bench, "0+64M", tag=T1)).outcome == "refused":
        raise Unserved("generation A takes no tagged extent")
    found = (await offered(bench, "0+64M", tag=T1, device="mem1")).outcome
    assert found == "refused", f"a tag that is live on another device was {found}"


@on_kernel(timeout_s=240.0, settle=False)
async def many_small_extents(bench: KernelSession) -> None:
    """As many extents of one block as the device supports, in short chains: all are shown, all are released."""
    made = await bench.region()
    most = min(MOST_EXTENTS, bench.partition() // (4 * MIB))
    for first in range(0, most, CHAIN):
        await bench.add([f"{4 * at}M+2M" for at in range(first, min(first + CHAIN, most))])
        await bench.heard()
    seen = (await bench.sight(made)).get("extents", ())
    assert len(seen) == most, f"{len(seen)} extents are shown, {most} were offered"
    assert await bench.destroy(made) == ""
    assert await bench.block(0, length=4 * MIB * most) == "free", "the region is gone, and something was kept"


# ---- races -----------------------------------------------------------------------------------------------------------


@on_kernel(timeout_s=90.0)
async def race_add_region(bench: KernelSession) -> None:
    """An extent is offered while the region is being made: it is refused or taken, and shown accordingly."""
    for _ in range(ROUNDS):
        async with bench.together():
            _, made = await asyncio.gather(bench.add(["0+64M"]), bench.region())
        shown = [(one["offset"], one["length"]) for one in (await bench.sight(made)).get("extents", ())]
        state = await bench.block(0)
        assert shown == ([(0, 64 * MIB)] if state == "accepted" else []), f"the block is {state}, shown are {shown}"
        assert await bench.destroy(made) == ""


@on_kernel(timeout_s=90.0)
async def race_release_claim(bench: KernelSession) -> None:
    """A release is asked while a device claims the extent: one of the two gets it, never both."""
    made = await bench.region()
    for _ in range(ROUNDS):
        await taken(bench, "0+64M")
        async with bench.together():
            error, _ = await asyncio.gather(bench.take(made, 64 * MIB), bench.release(["0+64M"]))
        state = await bench.block(0)
        assert state == ("free" if error else "accepted"), f"the claim gave {error or 'success'}, the block is {state}"
        if not error:
            await bench.resize(made.seed, 0)
            assert await released(bench, "0+64M") == "released"


@on_kernel(timeout_s=90.0)
async def race_unbind_add(bench: KernelSession) -> None:
    """The region is unbound while an extent comes: afterwards the host holds nothing."""
    for _ in range(ROUNDS):
        made = await bench.region()
        await taken(bench, "256M+64M")
        async with bench.together():
            await asyncio.gather(bench.add(["0+64M"]), bench.destroy(made))
        for offset in (0, 256 * MIB):
            assert await bench.block(offset) == "free", "the region is gone, and the host holds capacity"
