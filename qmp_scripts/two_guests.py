"""Two guests side by side: what one gets, the other does not see."""

from __future__ import annotations

import asyncio

from dcdbackend import Bench, run_script, scenario


async def grow(bench: Bench, name: str, extents: list[str]) -> bytes:
    """Give a guest its extents, all guests at the same time, and have it write its own mark."""
    answer = await (await bench.add(extents)).answer()
    assert answer.outcome == "accepted", answer
    print(f"{name}: {answer}")
    mark = bench.random.randbytes(4096)
    await bench.store(bench.dpa(0, 0), mark)
    return mark


@scenario(needs={"guests"}, timeout_s=120)
async def two_guests(bench: Bench) -> None:
    """Boot a second guest, add to both at once, and see that each holds its own bytes and its own extents."""
    async with bench.beside() as other:
        marks = await asyncio.gather(grow(bench, "first", ["0+16M"]), grow(other, "second", ["0+8M", "128M+8M"]))
        assert marks[0] != marks[1]
        for guest, mark in zip((bench, other), marks, strict=True):
            assert await guest.read(guest.dpa(0, 0), 4096) == mark, "the bytes of the other guest"
        assert len(await bench.extents()) == 1
        assert len(await other.extents()) == 2

        await (await bench.release(["0+16M"])).response()
        assert await bench.extents() == ()
        assert len(await other.extents()) == 2, "what the first gave back, the second lost"


if __name__ == "__main__":
    run_script(two_guests)
