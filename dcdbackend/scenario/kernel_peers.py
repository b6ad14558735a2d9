"""The 22 cases of the kernel series' own test (ndctl's cxl-dcd.sh, on a mock), by their names, on a real device.

What a device cannot show is skipped and says why: QEMU's tags need a fabric manager, it has no sharable region and no
block below 2 MiB, and it refuses an overlap by itself. Where generations differ, the row of the generation says so.
"""

from __future__ import annotations

from functools import partial

from ..bench import Span
from ..errors import AskedWrongly, Refused, Unserved
from ..kernel.session import KernelSession, Made
from ..units import KIB, MIB
from .kernel import T1, T2, T3, TAGS, offered, on_kernel, released, taken, used

peer = partial(on_kernel, as_written=True)
_SHARED = {"regions": 1, "sharable": 1}


async def free_of_extents(bench: KernelSession, made: Made) -> None:
    """The region shows none, and nothing is available."""
    seen = await bench.sight(made)
    assert not seen.get("extents"), f"{made.name} shows {seen.get('extents')}"
    assert seen.get("available") == 0, f"{made.name} has {seen.get('available')} bytes available"


def claims_only(bench: KernelSession) -> None:
    """Errors: Unserved, where this generation has no claim by uuid."""
    if not bench.by_uuid:
        raise Unserved(f"generation {bench.generation.name} has no claim by uuid: DAX devices take any size")


@peer(needs={"reset"}, settle=False, timeout_s=90.0, expect={"device *": "unknown"})
async def pre_existing_extents(bench: KernelSession) -> None:
    """Extents that the device holds when a region is made are read, surfaced, and not answered."""
    await bench.region()
    await taken(bench, "0+128M")
    await bench.reset()
    if await bench.block(0) != "accepted":
        raise Unserved("this device keeps no extents over a reset of the machine")
    seen = await bench.sight(await bench.region())
    there = [(one["offset"], one["length"]) for one in seen.get("extents", ())]
    assert there == [(0, 128 * MIB)], f"the region shows {there}, the device holds 128M at 0"


@peer()
async def remove_extent_under_dax_device(bench: KernelSession) -> None:
    """An extent under a DAX device is kept when it is asked back; without the device it goes."""
    made = await bench.region()
    await taken(bench, "0+128M")
    dax = await used(bench, made, 128 * MIB)
    assert await released(bench, "0+128M") == "declined", "an extent in use was given back"
    await bench.drop(dax)
    assert await released(bench, "0+128M") == "released"
    await free_of_extents(bench, made)


@peer()
async def create_dax_dev_spanning_two_extents(bench: KernelSession) -> None:
    """One DAX device over two extents: of one tag where devices claim by tag, by size elsewhere."""
    if bench.by_uuid and not bench.has_tags:
        raise Unserved("two extents of one device need a tag here, and nobody offers tags: --topology switch")
    made = await bench.region()
    await taken(bench, "0+64M", "256M+64M", tag=T1 if bench.by_uuid else None)
    dax = await used(bench, made, 128 * MIB, tag=T1)
    (seen,) = [one for one in (await bench.sight(made))["devices"] if one["name"] == dax]
    assert seen["size"] == 128 * MIB and len(seen["mappings"]) == 2, f"{dax} is {seen}"
    await bench.drop(dax)


@peer(needs={TAGS})
async def inject_tag_support(bench: KernelSession) -> None:
    """A tagged extent: generation A refuses it, generation B takes it."""
    await bench.region()
    due = "refused" if bench.generation.tags == "refused" else "accepted"
    found = (await offered(bench, "0+64M", tag=T1)).outcome
    assert found == due, f"a tagged extent was {found}, of this generation it is {due}"


@peer()
async def partial_extent_remove(bench: KernelSession) -> None:
    """A part of an extent is asked back: in use it is ignored, free the whole extent goes."""
    made = await bench.region()
    await taken(bench, "0+128M")
    dax = await used(bench, made, 128 * MIB)
    assert await released(bench, "32M+32M") == "declined", "a part of an extent in use was given back"
    await bench.drop(dax)
    await released(bench, "32M+32M")
    await free_of_extents(bench, made)
    assert await bench.block(96 * MIB) == "free", "the rest of the extent stays with the host"


@peer()
async def multiple_extent_remove(bench: KernelSession) -> None:
    """A range over two adjoining extents is asked back: A releases both, B calls it an error (Q12)."""
    made = await bench.region()
    await taken(bench, "0+64M")
    await taken(bench, "64M+64M")
    found = await released(bench, "32M+64M")
    if bench.generation.kind == "sparse":
        assert found == "released", f"a straddling range was {found}"
        await free_of_extents(bench, made)
    else:
        assert found == "declined", f"a straddling range was {found}"


@peer()
async def destroy_region_without_extent_removal(bench: KernelSession) -> None:
    """A region is destroyed with extents in it: they are released, and the next region has none."""
    made = await bench.region()
    await taken(bench, "0+64M")
    await taken(bench, "128M+64M")
    assert await bench.destroy(made) == ""
    assert await bench.block(0) == "free" and await bench.block(128 * MIB) == "free", "the host kept what it held"
    await free_of_extents(bench, await bench.region())


@peer()
async def destroy_with_extent_and_dax(bench: KernelSession) -> None:
    """A region is destroyed under a DAX device that holds its extent: the new one has neither."""
    made = await bench.region()
    await taken(bench, "0+128M")
    await used(bench, made, 128 * MIB)
    assert await bench.destroy(made) == ""
    assert await bench.block(0) == "free", "the host kept what it held"
    await free_of_extents(bench, await bench.region())


@peer()
async def dax_device_ops(bench: KernelSession) -> None:
    """DAX devices are created, sized, bound and emptied, each with the errors that it has."""
    made = await bench.region()
    assert await bench.create(made) == "-ENOSPC", "a device was created with nothing available"
    await taken(bench, "0+128M")
    if bench.by_uuid:
        assert await bench.resize(made.seed, MIB) == "-EINVAL"
        assert await bench.resize(made.seed, 0) == ""
        assert await bench.resize(made.seed, 64 * MIB) == "-EOPNOTSUPP"
    dax = await used(bench, made, 128 * MIB)
    assert await bench.resize(dax, 0) == "-EBUSY", "a bound device was resized"
    assert await bench.create(made) == "-ENOSPC"
    await bench.unbind(dax)
    assert await bench.resize(dax, 128 * MIB) == "", "the size that it has is no change"
    if not bench.by_uuid:
        assert await bench.resize(dax, 64 * MIB) == ""
    assert await bench.resize(dax, 0) == ""
    other = await bench.create(made)
    assert other.startswith("dax"), f"no second device: {other}"
    assert await bench.take(made, 128 * MIB, dax=other) == ""
    await bench.drop(other)


@peer()
async def reject_overlapping(bench: KernelSession) -> None:
    """What overlaps an accepted extent is not offered at all: the device refuses it (DEV-3), no kernel sees it."""
    await bench.region()
    await taken(bench, "0+128M")
    for overlapping in ("64M+128M", "0+128M", "32M+32M"):
        try:
            await bench.add([overlapping])
        except Refused:
            continue
        raise AssertionError(f"the device offered {overlapping} over an accepted extent")


@peer()
async def two_regions(bench: KernelSession) -> None:
    """Two regions over one partition: each extent appears in the one at its start."""
    half = bench.partition() // 2
    first = await bench.region(half)
    second = await bench.try_region(half)
    if isinstance(second, str):
        raise Unserved(
            f"this platform has no second region over one device ({second}): its decoders are passed through"
        )
    await taken(bench, "64M+64M")
    await taken(bench, Span(half + 64 * MIB, 32 * MIB))
    for made, length in ((first, 64), (second, 32)):
        seen = [(one["offset"], one["length"]) for one in (await bench.sight(made))["extents"]]
        assert seen == [(64 * MIB, length * MIB)], f"{made.name} shows {seen}"


@peer()
async def more_bit(bench: KernelSession) -> None:
    """Nothing of a chain surfaces until More is clear, then all of it at once."""
    made = await bench.region()
    if bench.cuts and bench.generation.timeout_ns is not None:  # the device loses the end of a long chain
        assert (await offered(bench, *[f"{2 * at}M+2M" for at in range(10)])).outcome == "unanswered"
        await free_of_extents(bench, made)
        assert await bench.block(0) == "pending", "an open chain was settled"
        assert await bench.limit(), "the chain was never given up"
        assert await bench.block(0) == "free", "the chain was given up, and is pending"
    await taken(bench, "128M+2M", "132M+2M", "136M+2M")
    assert len((await bench.sight(made))["extents"]) == 3


@peer()
async def driver_reload(bench: KernelSession) -> None:
    """dax_cxl is unloaded and loaded again: what it had is released, the region has a fresh seed."""
    made = await bench.region()
    await taken(bench, "0+64M")
    await bench.reload()
    await free_of_extents(bench, made)
    await taken(bench, "128M+64M")
    dax = await used(bench, made, 64 * MIB)
    await bench.drop(dax)


@peer()
async def event_reporting(bench: KernelSession) -> None:
    """An add and a release are two `cxl_dynamic_capacity` trace events, with what was sent in them."""
    await bench.region()
    await taken(bench, "0+64M")
    assert await released(bench, "0+64M") == "released"
    seen = [(one["type"], one["dpa"] - bench.dpa(0, 0), one["length"]) for one in bench.traced]
    assert seen == [(0, 0, 64 * MIB), (1, 0, 64 * MIB)], f"the trace shows {seen}"


@peer()
async def uuid_no_match(bench: KernelSession) -> None:
    """A claim by a tag that nobody offered finds nothing."""
    claims_only(bench)
    made = await bench.region()
    await taken(bench, "0+64M")
    assert await bench.claim(made.seed, T3) == "-ENOENT"


@peer()
async def uuid_no_match_seed_intact(bench: KernelSession) -> None:
    """After a claim that found nothing, or was nonsense, the seed is as it was, and takes what is there."""
    claims_only(bench)
    made = await bench.region()
    await taken(bench, "0+64M")
    assert await bench.claim(made.seed, T3) == "-ENOENT"
    assert await bench.claim(made.seed, "not-a-uuid") == "-EINVAL"
    (seed,) = (await bench.sight(made))["devices"]
    assert seed["size"] == 0 and not seed["mappings"], f"the seed is {seed}"
    assert await bench.claim(made.seed, "0") == ""


@peer(needs={TAGS})
async def uuid_aggregation(bench: KernelSession) -> None:
    """A device that claims a tag is as large as all of its extents together."""
    claims_only(bench)
    made = await bench.region()
    await taken(bench, "0+64M", "128M+32M", "256M+16M", tag=T1)
    assert await bench.claim(made.seed, T1) == ""
    (seed,) = (await bench.sight(made))["devices"]
    assert seed["size"] == 112 * MIB, f"the device has {seed['size']} bytes"


@peer()
async def uuid_show(bench: KernelSession) -> None:
    """`uuid` reads the tag that was claimed; before a claim, and for an untagged one, what its generation says."""
    claims_only(bench)
    made = await bench.region()
    nothing = bench.generation.uuid
    (seed,) = (await bench.sight(made))["devices"]
    assert seed["uuid"] == nothing, f"an empty device reads {seed['uuid']}"
    if bench.has_tags:
        await taken(bench, "0+64M", tag=T2)
        assert await bench.claim(made.seed, T2) == ""
        (seed,) = (await bench.sight(made))["devices"]
        assert seed["uuid"].replace("-", "") == T2, f"a device that claimed {T2} reads {seed['uuid']}"
        await bench.resize(made.seed, 0)
    await taken(bench, "256M+64M")
    assert await bench.claim(made.seed, "0") == ""
    assert (await bench.sight(made))["devices"][0]["uuid"] == nothing


async def shared(bench: KernelSession, *parts: tuple[int, int]) -> str:
    """Offer 16M pieces of one tag, (offset in MiB, sequence), in a sharable region: what became of it."""
    spans = [Span(offset * MIB, 16 * MIB, T1, sequence) for offset, sequence in parts]
    try:
        return (await (await bench.add(spans)).answer()).outcome
    except Refused as error:
        raise Unserved(f"this device does not offer such a sequence: {error.reason}") from None


@peer(needs={TAGS, "sharable"}, shape=_SHARED)
async def shared_extent_inject(bench: KernelSession) -> None:
    """A sharable partition: a tagged set with its sequence numbers is taken, and claimed in their order."""
    made = await bench.region()
    if bench.generation.kind == "sparse":
        assert await shared(bench, (0, 0), (64, 1)) == "refused"
        return
    base = bench.generation.sequence_base
    found = await shared(bench, (64, base + 1), (0, base), (128, base + 2))
    assert found == "accepted", f"a dense shared set was {found}"
    if bench.by_uuid:
        assert await bench.claim(made.seed, T1) == ""


@peer(needs={TAGS, "sharable"}, shape=_SHARED)
async def seq_integrity_gap(bench: KernelSession) -> None:
    """A sharable partition: a set whose sequence has a gap is dropped whole."""
    await bench.region()
    base = bench.generation.sequence_base
    found = await shared(bench, (0, base), (64, base + 2))
    assert found == "refused", f"a set with a gap in its sequence was {found}"


@peer(needs={TAGS})
async def cross_more_uniqueness(bench: KernelSession) -> None:
    """A tag that one chain has brought does not come in another: the second is dropped whole."""
    await bench.region()
    if bench.generation.tags == "refused":
        assert (await offered(bench, "0+32M", "64M+32M", tag=T1)).outcome == "refused"
        return
    await taken(bench, "0+32M", "64M+32M", tag=T1)
    try:
        found = (await offered(bench, "128M+32M", tag=T1)).outcome
    except Refused as error:
        raise Unserved(f"this device offers no tag twice: {error.reason}") from None
    assert found == "refused", f"a second chain of a live tag was {found}"


@peer(needs={"regions"})
async def alignment_rejection(bench: KernelSession) -> None:
    """An extent off the kernel's alignment: B drops it, A has no such test. Needs a device with smaller blocks."""
    try:
        await bench.set_region(0, block_size=64 * KIB)
    except (Refused, AskedWrongly) as error:
        raise Unserved(f"this device has no smaller blocks: {error.message}") from None
    await bench.region()
    due = "accepted" if bench.generation.align is None else "refused"
    found = (await offered(bench, "64K+2M")).outcome
    assert found == due, f"a misaligned extent was {found}, of this generation it is {due}"
