"""The tag policies of generation C: what each driver wants of tags, and what becomes of extents without one.

As the proposal on the series of 2025-04-13 sketches its use cases: sysram, virtio, devdax, "no tag, no service", and
tags that are unique over all hosts. On a simulated host alone; see `policy_lab`.
"""

from __future__ import annotations

from ..session import Session
from . import scenario
from .policy_lab import MIB, REGION, TAG_A, TAG_B, C, bound, devices, shown, wrote

ONE = ["0+64M"]
OTHER = ["256M+64M"]


async def offered(bench: Session, spans: list[str], tag: str | None = None, host_id: int = 0) -> str:
    """What became of an offer: accepted, partial, refused."""
    return (await (await bench.add(spans, tag=tag, via="fm", host_id=host_id)).answer()).outcome


async def asked_back(bench: Session, spans: list[str], tag: str | None = None) -> str:
    """What became of a release request: released, partial, declined."""
    return (await (await bench.release(spans, tag=tag, via="fm")).response()).outcome


@scenario(needs=C)
async def sysram_usecase(bench: Session) -> None:
    """sysram: tagged extents arrive and leave as a group; sets have different tags; the tag is at daxN.M/uuid (C2)."""
    await bound(bench, "sysram", hotplug="online")
    assert await offered(bench, ["0+64M", "128M+64M"], TAG_A) == "accepted"
    assert await offered(bench, OTHER, TAG_A) == "refused", "set(A) and set(B) must have different tags"
    assert await offered(bench, OTHER, TAG_B) == "accepted"
    assert [one["uuid"] for one in await devices(bench)] == [shown(TAG_A), shown(TAG_B)]
    assert await asked_back(bench, ONE, TAG_A) == "released"
    assert await bench.block(128 * MIB) == "free", "the group leaves whole, whatever part was asked"


@scenario(needs=C)
async def sysram_untagged(bench: Session) -> None:
    """sysram, untagged: only where its policy says so; then hotplugged directly and released one by one (C3, C4)."""
    await bound(bench, "sysram")
    assert await offered(bench, ONE) == "refused"
    await bound(bench, "sysram", untagged="1")
    assert await offered(bench, ["0+64M", "128M+64M"]) == "accepted"
    assert await devices(bench) == [], "without going through DAX"
    assert await offered(bench, OTHER, TAG_A) == "refused", "a region is tagged or untagged"
    assert await asked_back(bench, ["0+32M"]) == "declined", "the granularity is the extent"
    assert await asked_back(bench, ONE) == "released"
    assert await bench.block(128 * MIB) == "accepted", "partial release, extent by extent"


@scenario(needs=C)
async def virtio_usecase(bench: Session) -> None:
    """virtio: tags are required and may name a VM; extents come and go singly, none too small, never SysRAM (C6)."""
    await bound(bench, "virtio", min_extent=str(32 * MIB), dax="1")
    assert await offered(bench, ONE) == "refused"
    assert await offered(bench, ["0+64M", "128M+16M", "192M+64M"], TAG_A) == "partial", "one is too small"
    assert await offered(bench, OTHER, TAG_A) == "accepted", "the tag is the VM's: it may come again"
    found = await devices(bench)
    assert [one["size"] for one in found] == [64 * MIB] * 3, "one device per extent"
    await wrote(bench, "use", what="dax", dax=found[0]["name"], driver="kmem", gives="-EOPNOTSUPP")
    assert await asked_back(bench, ONE, TAG_A) == "released"
    assert len(await devices(bench)) == 2
    await bound(bench, "virtio")
    assert await offered(bench, ["0+64M", "128M+16M"], TAG_A) == "accepted"
    assert await devices(bench) == [], "it may do without DAX, and without a smallest size"


@scenario(needs=C)
async def devdax_usecase(bench: Session) -> None:
    """devdax: every set is a new DAX device, its tag at daxN.M/uuid; without a tag it makes no sense of it (C5)."""
    await bound(bench, "devdax")
    assert await offered(bench, ONE) == "refused"
    assert await offered(bench, ["0+64M", "128M+64M"], TAG_A) == "accepted"
    assert await offered(bench, OTHER, TAG_B) == "accepted"
    found = await devices(bench)
    assert [(one["uuid"], one["size"]) for one in found] == [(shown(TAG_A), 128 * MIB), (shown(TAG_B), 64 * MIB)]
    await wrote(bench, "use", what="map", dax=found[0]["name"])
    assert await asked_back(bench, ["0+64M", "128M+64M"], TAG_A) == "declined"
    assert await asked_back(bench, OTHER, TAG_B) == "released"


@scenario(needs=C)
async def no_tag_no_service(bench: Session) -> None:
    """ "No tag - no service", asked of every driver in turn: nothing untagged is taken, all that is tagged is (C7)."""
    for driver in ("dax", "sysram", "virtio", "devdax"):
        await bound(bench, driver, tags_required="1")
        assert await offered(bench, ONE) == "refused", driver
        assert await offered(bench, ONE, TAG_A) == "accepted", driver


@scenario(needs=C)
async def tagged_or_untagged(bench: Session) -> None:
    """A region takes what comes first, tagged or untagged, and never both; when it is empty it may change (C4)."""
    await bound(bench, "dax")
    assert await offered(bench, ONE) == "accepted"
    assert await offered(bench, OTHER, TAG_A) == "refused"
    assert await asked_back(bench, ONE) == "released"
    assert await offered(bench, OTHER, TAG_A) == "accepted"
    assert await offered(bench, ONE) == "refused"


@scenario(needs=C, shape={"hosts": 2})
async def tags_globally_unique(bench: Session) -> None:
    """Several hosts: a tag that lives on one is refused by the other, until it has gone there (C5)."""
    for host_id in range(2):
        await bound(bench, "devdax", f"region{host_id}", f"mem0.{host_id}" if host_id else "mem0")
    assert await offered(bench, ONE, TAG_A) == "accepted"
    assert await offered(bench, OTHER, TAG_A, host_id=1) == "refused"
    assert await offered(bench, OTHER, TAG_B, host_id=1) == "accepted"
    assert await asked_back(bench, ONE, TAG_A) == "released"
    assert await offered(bench, ["128M+64M"], TAG_A, host_id=1) == "accepted"
    assert [one["uuid"] for one in await devices(bench, "region1", "mem0.1")] == [shown(TAG_B), shown(TAG_A)]
    assert await devices(bench, REGION) == []
