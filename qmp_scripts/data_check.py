"""Are the bytes where the extents say? Looked at from both sides, the host's and the memory behind the device."""

from __future__ import annotations

from typing import Annotated

from dcdbackend import MIB, Bench, run_script, scenario

PAGE = 4096


@scenario()
async def data_check(bench: Bench, *, pages: Annotated[int, "pages looked at, each way"] = 16) -> None:
    """Store through the host and read behind the device, then the other way; then release, and see it unreachable."""
    answer = await (await bench.add(["0+16M", "64M+16M"])).answer()
    assert answer.outcome == "accepted", answer
    places = [
        start + PAGE * bench.random.randrange(16 * MIB // PAGE) for start, _ in answer.accepted for _ in range(pages)
    ]
    for dpa in places:
        data = bench.random.randbytes(PAGE)
        await bench.store(dpa, data)
        assert await bench.read(dpa, PAGE) == data, f"stored at 0x{dpa:x}, and not there"
        data = bench.random.randbytes(PAGE)
        await bench.write(dpa, data)
        assert await bench.load(dpa, PAGE) == data, f"written behind 0x{dpa:x}, and not loaded"
    print(f"{len(places)} pages agree, both ways")

    await (await bench.release(["64M+16M"])).response()
    gone, secret = answer.accepted[1][0], bench.random.randbytes(PAGE)
    await bench.write(gone, secret)
    assert await bench.load(gone, PAGE) != secret, "the host still reaches what it gave back"
    print("and what was given back is out of reach")


if __name__ == "__main__":
    run_script(data_check)
