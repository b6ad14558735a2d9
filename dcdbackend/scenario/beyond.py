"""What the specification has and no QEMU serves: forced release, the device's choice, regions set up anew, sharing.

So far only the emulator offers it (`needs`). DEV-12 to DEV-15, DEV-18, DEV-21.
"""

from __future__ import annotations

from contextlib import suppress

from ..bench import Span
from ..errors import Refused
from ..session import Offer, Session
from . import scenario
from .illegal import refused

MIB = 1 << 20
PAGE = 4096


@scenario(needs={"forced"})
async def forced_release(bench: Session) -> None:
    """A release is forced on a host that declines every request: taken at once, and the host is told."""
    await (await bench.add(["0+16M"])).answer()
    await bench.release_policy("decline")
    await bench.release(["4M+4M"], forced=True)
    assert await bench.block(4 * MIB) == "free"
    await bench.idle()
    base = bench.dpa(0, 0)
    assert sorted(await bench.extents()) == [(base, 4 * MIB), (base + 8 * MIB, 8 * MIB)]
    await bench.store(base + 4 * MIB, b"\xa5" * PAGE)
    assert await bench.load(base + 4 * MIB, PAGE) != b"\xa5" * PAGE


@scenario(needs={"forced"})
async def forced_release_pending(bench: Session) -> None:
    """A release is forced over an offer that nobody has answered: the offer is withdrawn, and can be made again."""
    await bench.policy("never")
    await bench.add(["0+8M"])
    await bench.idle()
    await bench.release(["0+8M"], forced=True)
    assert await bench.block(0) == "free"
    await bench.idle()
    await bench.policy("accept")
    assert (await (await bench.add(["0+8M"])).answer()).outcome == "accepted"


@scenario(needs={"policies"})
async def device_chooses(bench: Session) -> None:
    """The device is asked for an amount, in pieces or in one: it offers as much, wherever it has it."""
    await (await bench.add(["8M+8M", "32M+64M"])).answer()
    held = 72 * MIB
    for policy, amount in (("free", 24 * MIB), ("contiguous", 48 * MIB), ("free", 2 * MIB)):
        before = len(await bench.extents())
        await bench.add([Span(0, amount)], policy=policy)
        await bench.idle()
        held += amount
        extents = await bench.extents()
        assert sum(length for _, length in extents) == held, (policy, extents)
        assert policy == "free" or len(extents) == before + 1, extents


@scenario(needs={"policies"})
async def device_has_no_room(bench: Session) -> None:
    """More is asked for than there is, or than there is in one piece: refused, and nothing is offered."""
    size = bench.devices["mem0"]["regions"][0]["length"]
    await (await bench.add([f"{size // 2}+2M"])).answer()
    await refused(bench, [Span(0, size // 2 + 2 * MIB)], policy="contiguous")
    await refused(bench, [Span(0, size)], policy="free")
    assert len(await bench.extents()) == 1
    assert await bench.block(0) == "free"


@scenario(needs={"regions"})
async def region_reconfigured(bench: Session) -> None:
    """A region is set up with blocks of twice the size while it is empty; what it holds then fits them, and stays."""
    size = bench.devices["mem0"]["regions"][1]["block_size"]
    await bench.set_region(1, block_size=2 * size)
    await refused(bench, [Span(size, 2 * size)], region=1)
    answer = await (await bench.add([Span(2 * size, 2 * size)], region=1)).answer()
    assert answer.outcome == "accepted", answer
    assert (await (await bench.release([Span(2 * size, 2 * size)], region=1)).response()).outcome == "released"
    await bench.set_region(1, block_size=size)


@scenario(needs={"forced"})
async def sanitized(bench: Session) -> None:
    """Capacity is asked back with the request to clear it: offered again, it reads as zeros."""
    dpa = bench.dpa(0, 0)
    await (await bench.add(["0+4M"])).answer()
    await bench.store(dpa, b"\x5a" * PAGE)
    assert (await (await bench.release(["0+4M"], sanitize=True)).response()).outcome == "released"
    assert (await (await bench.add(["0+4M"])).answer()).outcome == "accepted"
    assert await bench.load(dpa, PAGE) == bytes(PAGE)


# -- several hosts on one device (DEV-15): region 1 can be shared, region 0 cannot ---------------------------------

POOL: dict[str, int | str] = {"regions": 2, "hosts": 2, "sharable": 1}
SECOND = "mem0.1"
"""The device as host 1 has it."""
A, B = "aa" * 16, "0b1e2d3c4b5a69788796a5b4c3d2e1f0"
SHARED = "enable-shared-access"
WAIT_S = 0.3
"""How late a host answers whose records are looked at before."""
ALLOCATION = [Span(0, 4 * MIB, A, 0), Span(8 * MIB, 2 * MIB, A, 1)]


async def allocated(bench: Session) -> list[tuple[int, int]]:
    """The allocation of tag A, which the first host takes: its ranges."""
    assert (await (await bench.add(ALLOCATION, region=1)).answer()).outcome == "accepted"
    return [(bench.dpa(1, span.offset_bytes), span.length_bytes) for span in ALLOCATION]


async def shared(bench: Session, tag: str = A) -> Offer:
    """The allocation of a tag offered to the second host, too."""
    return await bench.add(ALLOCATION, region=1, tag=tag, policy=SHARED, host_id=1, via="fm")


@scenario(needs={"sharing"}, shape=POOL)
async def shared_by_two(bench: Session) -> None:
    """One tag is offered to both hosts: each reads the same extents in the same order, takes them, sees one memory."""
    ranges = await allocated(bench)
    await bench.policy("late", device=SECOND, delay_s=WAIT_S)
    offer = await shared(bench)
    read = [(one["dpa"], one["length"], one["tag"], one["sequence"]) for one in await bench.records(device=SECOND)]
    assert read == [(*found, A, at) for at, found in enumerate(ranges)], read
    assert (await offer.answer()).outcome == "accepted"
    assert sorted(await bench.extents()) == sorted(await bench.extents(device=SECOND)) == sorted(ranges)
    start = ranges[1][0]
    await bench.store(start, b"\x5a\xa5" * (PAGE // 2))
    assert await bench.load(start, PAGE, device=SECOND) == b"\x5a\xa5" * (PAGE // 2)


@scenario(needs={"sharing"}, shape=POOL)
async def shared_refused(bench: Session) -> None:
    """The second host refuses what the first one has: the first keeps it, and it can be offered to the second again."""
    ranges = await allocated(bench)
    await bench.policy("refuse", device=SECOND)
    assert (await (await shared(bench)).answer()).outcome == "refused"
    assert sorted(await bench.extents()) == sorted(ranges)
    assert await bench.extents(device=SECOND) == ()
    await bench.policy("accept", device=SECOND)
    assert (await (await shared(bench)).answer()).outcome == "accepted"
    assert (await (await bench.release(["0+4M"], region=1, device=SECOND)).response()).outcome == "released"
    assert sorted(await bench.extents()) == sorted(ranges)


@scenario(needs={"sharing"}, shape=POOL)
async def hosts_apart(bench: Session) -> None:
    """Each host has capacity of its own: neither lists, reads, gives back nor hears of what the other one has."""
    assert (await (await bench.add(["0+4M"], tag=A, via="fm")).answer()).outcome == "accepted"
    assert (await (await bench.add(["16M+2M"], tag=B, host_id=1, via="fm")).answer()).outcome == "accepted"
    first, second = bench.dpa(0, 0), bench.dpa(0, 16 * MIB)
    assert (await bench.extents(), await bench.extents(device=SECOND)) == (
        ((first, 4 * MIB),),
        ((second, 2 * MIB),),
    )
    listed = [await bench.fm_extents(host_id=host_id) for host_id in (0, 1)]
    assert [[one["dpa"] for one in found] for found in listed] == [[first], [second]]
    await bench.policy("late", delay_s=WAIT_S)
    offer = await bench.add(["32M+2M"])
    assert [len(await bench.records()), len(await bench.records(device=SECOND))] == [1, 0]
    assert await bench.block(32 * MIB) == "pending"
    assert await bench.block(32 * MIB, device=SECOND) == "free"
    assert (await offer.answer()).outcome == "accepted"
    await bench.store(first, b"\x11\x22" * (PAGE // 2))
    assert await bench.load(first, PAGE, device=SECOND) != b"\x11\x22" * (PAGE // 2)
    assert await bench.block(0, device=SECOND) == "free"


@scenario(needs={"sharing"}, shape=POOL)
async def shared_forced(bench: Session) -> None:
    """A release is forced on the second host, which declines every request: the first one keeps all, with its bytes."""
    ranges = await allocated(bench)
    assert (await (await shared(bench)).answer()).outcome == "accepted"
    start = ranges[0][0]
    await bench.store(start, b"\x77\x88" * (PAGE // 2))
    await bench.release_policy("decline", device=SECOND)
    await bench.release(["0+4M", "8M+2M"], region=1, host_id=1, forced=True)
    assert await bench.extents(device=SECOND) == ()
    assert sorted(await bench.extents()) == sorted(ranges)
    await bench.idle(device=SECOND)
    assert await bench.load(start, PAGE) == b"\x77\x88" * (PAGE // 2)
    assert await bench.load(start, PAGE, device=SECOND) != b"\x77\x88" * (PAGE // 2)
    assert (await (await shared(bench)).answer()).outcome == "accepted"


@scenario(needs={"sharing"}, shape=POOL)
async def exclusive_refused(bench: Session) -> None:
    """What one host has or is offered is offered to no other: not in such a region, nor by another tag in any."""
    assert (await (await bench.add(["0+4M"])).answer()).outcome == "accepted"
    await bench.policy("never")
    await bench.add(["8M+4M"])
    for extent in ("0+4M", "2M+4M", "8M+2M"):
        await refused(bench, [extent], host_id=1)
    await refused(bench, [Span(0, 4 * MIB)], tag=A, policy=SHARED, host_id=1, via="fm")
    await bench.policy("accept", device=SECOND)
    assert (await (await bench.add(["4M+4M"], host_id=1)).answer()).outcome == "accepted"
    await bench.answer([])
    await bench.policy("accept")
    await allocated(bench)
    await refused(bench, [Span(0, 2 * MIB, B, 0)], region=1, host_id=1)
    await refused(bench, [Span(0, 2 * MIB)], region=1, tag=B, policy=SHARED, host_id=1, via="fm")
    await refused(bench, [Span(32 * MIB, 2 * MIB, A, 2)], region=1)


@scenario(needs={"references", "sharing"}, shape=POOL)
async def tag_referenced(bench: Session) -> None:
    """A reference is taken to a tag: while no host has it any more its capacity is kept, and goes to no other tag."""
    await allocated(bench)
    with suppress(Refused):
        await bench.reference(B)
        raise AssertionError("a tag that nobody uses was referenced")
    await bench.reference(A)
    found = await bench.tags()
    assert {tag: (one["hosts"], one["flags"]) for tag, one in found.items()} == {A: ([0], 1)}, found
    assert (await (await bench.release(["0+4M", "8M+2M"], region=1)).response()).outcome == "released"
    assert [one["hosts"] for one in (await bench.tags()).values()] == [[]]
    await refused(bench, [Span(0, 2 * MIB, B, 0)], region=1)
    assert (await (await shared(bench)).answer()).outcome == "accepted"
    assert [one["hosts"] for one in (await bench.tags()).values()] == [[1]]
    assert (await (await bench.release(["0+4M", "8M+2M"], region=1, host_id=1)).response()).outcome == "released"
    await bench.reference(A, keep=False)
    assert await bench.tags() == {}
    assert (await (await bench.add([Span(0, 2 * MIB, B, 0)], region=1)).answer()).outcome == "accepted"
