"""The three flows between orchestrator, fabric manager, device, host kernel and host user that the Linux series draws.

Source: the cover letter of the series of 2024-08-16. Here the scenario is orchestrator and manager, and host U is
kernel and user: it "uses" capacity by storing to it, and declines while it does.
"""

from __future__ import annotations

from ..session import Session
from . import scenario

MIB = 1 << 20


async def use(bench: Session, offset: int) -> bytes:
    """The user stores a page of its own there, and reads it back."""
    dpa, data = bench.dpa(0, offset), bench.random.randbytes(4096)
    await bench.store(dpa, data)
    assert await bench.load(dpa, 4096) == data
    return data


@scenario()
async def five_actors_add(bench: Session) -> None:
    """Add, use, and, when the user is done, remove."""
    assert (await (await bench.add(["0+128M"])).answer()).outcome == "accepted"
    await use(bench, 0)
    assert (await (await bench.release(["0+128M"])).response()).outcome == "released"
    assert await bench.extents() == ()


@scenario()
async def five_actors_release_ignored(bench: Session) -> None:
    """Remove while in use is ignored, and nothing is lost by it; the manager asks again when the user is done."""
    assert (await (await bench.add(["0+128M"])).answer()).outcome == "accepted"
    data = await use(bench, 64 * MIB)
    await bench.release_policy("decline")
    assert (await (await bench.release(["0+128M"])).response()).outcome == "declined"
    assert await bench.load(bench.dpa(0, 64 * MIB), 4096) == data
    await bench.release_policy("release")
    assert (await (await bench.release(["0+128M"])).response()).outcome == "released"


@scenario()
async def five_actors_readd(bench: Session) -> None:
    """Add, use, remove, and add the same capacity again: it is used anew."""
    for _ in range(2):
        assert (await (await bench.add(["0+128M"])).answer()).outcome == "accepted"
        await use(bench, 32 * MIB)
        assert (await (await bench.release(["0+128M"])).response()).outcome == "released"
    assert await bench.extents() == ()
