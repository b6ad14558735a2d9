"""The data oracle: what is stored at a DPA is there, on both sides, and nowhere else. Rules DEV-5 and DEV-17."""

from __future__ import annotations

from ..session import Session
from . import scenario

PAGE = 4096
MIB = 1 << 20


@scenario()
async def data_oracle(bench: Session) -> None:
    """Bytes cross both ways at the right DPA, at both ends and inside; outside the extents nothing is kept."""
    await (await bench.add(["32M+16M", "64M+2M"])).answer()
    base = bench.dpa(0, 0)
    inside = [
        base + 32 * MIB,
        base + 40 * MIB,
        base + 48 * MIB - PAGE,
        base + 64 * MIB,
        base + 66 * MIB - PAGE,
    ]
    outside = [base, base + 32 * MIB - PAGE, base + 48 * MIB, base + 64 * MIB - PAGE, base + 66 * MIB]
    for dpa in inside:
        data = bench.random.randbytes(PAGE)
        await bench.store(dpa, data)
        assert await bench.read(dpa, PAGE) == data, f"the backend does not hold what the host stored at 0x{dpa:x}"
        data = bench.random.randbytes(PAGE)
        await bench.write(dpa, data)
        assert await bench.load(dpa, PAGE) == data, f"the host does not load what the backend holds at 0x{dpa:x}"
    for dpa in outside:
        kept = bench.random.randbytes(PAGE)
        await bench.write(dpa, kept)
        assert await bench.load(dpa, PAGE) != kept, f"the host sees the backend's bytes at 0x{dpa:x}, not accepted"
        await bench.store(dpa, bench.random.randbytes(PAGE))
        assert await bench.read(dpa, PAGE) == kept, f"a store to 0x{dpa:x}, not accepted, reached the backend"


@scenario()
async def data_after_release(bench: Session) -> None:
    """Capacity that was given back is no longer reached, while what stays keeps its bytes."""
    await (await bench.add(["0+8M"])).answer()
    base = bench.dpa(0, 0)
    stays, goes = bench.random.randbytes(PAGE), bench.random.randbytes(PAGE)
    await bench.store(base, stays)
    await bench.store(base + 4 * MIB, goes)
    released = await (await bench.release(["4M+4M"])).response()
    assert released.outcome == "released", released
    assert await bench.load(base, PAGE) == stays
    kept = bench.random.randbytes(PAGE)
    await bench.write(base + 4 * MIB, kept)
    assert await bench.load(base + 4 * MIB, PAGE) != kept
    await bench.store(base + 4 * MIB, stays)
    assert await bench.read(base + 4 * MIB, PAGE) == kept
