"""Release requests and releases: rules DEV-7, DEV-8, DEV-10 and DEV-11."""

from __future__ import annotations

from ..session import Session
from . import scenario

MIB = 1 << 20


@scenario()
async def release_split(bench: Session) -> None:
    """The middle of an accepted extent is asked for and given back: two pieces stay, the middle is free."""
    await (await bench.add(["0+32M"])).answer()
    released = await (await bench.release(["8M+8M"])).response()
    assert released.outcome == "released", released
    base = bench.dpa(0, 0)
    assert sorted(await bench.extents()) == [(base, 8 << 20), (base + (16 << 20), 16 << 20)]
    again = await (await bench.add(["8M+8M"])).answer()
    assert again.outcome == "accepted", again


@scenario()
async def release_declined(bench: Session) -> None:
    """The host declines: nothing changes. Asked again, it gives the extent back."""
    await (await bench.add(["0+16M"])).answer()
    await bench.release_policy("decline")
    declined = await (await bench.release(["0+16M"])).response()
    assert declined.outcome == "declined", declined
    await bench.release_policy("release")
    released = await (await bench.release(["0+16M"])).response()
    assert released.outcome == "released", released
    assert await bench.extents() == ()


@scenario()
async def release_whole(bench: Session) -> None:
    """An extent is given back as it came, and can be offered again."""
    await (await bench.add(["0+64M"])).answer()
    assert (await (await bench.release(["0+64M"])).response()).outcome == "released"
    assert await bench.extents() == ()
    assert (await (await bench.add(["0+64M"])).answer()).outcome == "accepted"


@scenario()
async def release_part(bench: Session) -> None:
    """The front, then the end of an extent: each time the rest stays as one piece."""
    await (await bench.add(["0+32M"])).answer()
    base = bench.dpa(0, 0)
    assert (await (await bench.release(["0+8M"])).response()).outcome == "released"
    assert await bench.extents() == ((base + 8 * MIB, 24 * MIB),)
    assert (await (await bench.release(["24M+8M"])).response()).outcome == "released"
    assert await bench.extents() == ((base + 8 * MIB, 16 * MIB),)


@scenario()
async def release_straddle(bench: Session) -> None:
    """One range over the end of one extent and the beginning of the next: both are cut."""
    await (await bench.add(["0+16M", "16M+16M"])).answer()
    assert (await (await bench.release(["8M+16M"])).response()).outcome == "released"
    base = bench.dpa(0, 0)
    assert sorted(await bench.extents()) == [(base, 8 * MIB), (base + 24 * MIB, 8 * MIB)]


@scenario()
async def release_in_part(bench: Session) -> None:
    """The host gives back only a part of what is asked: the rest stays held, and can be asked for again."""
    await (await bench.add(["0+16M"])).answer()
    await bench.release_policy("part", first_bytes=4 * MIB)
    assert (await (await bench.release(["0+16M"])).response()).outcome == "partial"
    assert await bench.extents() == ((bench.dpa(0, 4 * MIB), 12 * MIB),)
    await bench.release_policy("release")
    assert (await (await bench.release(["4M+12M"])).response()).outcome == "released"


@scenario()
async def release_chain(bench: Session) -> None:
    """Several extents are asked for in one request: the records chain, and all are given back."""
    await (await bench.add(["0+4M", "8M+4M", "16M+4M"])).answer()
    assert (await (await bench.release(["16M+4M", "0+4M"])).response()).outcome == "released"
    assert await bench.extents() == ((bench.dpa(0, 8 * MIB), 4 * MIB),)


@scenario()
async def release_unasked(bench: Session) -> None:
    """The host gives back what nobody asked for, in one command over several extents: free at once."""
    await (await bench.add(["0+8M", "32M+8M"])).answer()
    base = bench.dpa(0, 0)
    assert await bench.give_back([(base + 4 * MIB, 4 * MIB), (base + 32 * MIB, 8 * MIB)]) == 0
    assert await bench.extents() == ((base, 4 * MIB),)
    assert await bench.block(32 * MIB) == "free"
