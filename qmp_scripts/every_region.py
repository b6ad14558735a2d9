"""A device with eight regions: each gets its own, at the same offset."""

from __future__ import annotations

from typing import Annotated

from dcdbackend import Bench, format_address, run_script, scenario


@scenario(shape={"regions": 8, "size": "4G"})
async def every_region(bench: Bench, *, extent: Annotated[str, "OFFSET+LENGTH in each"] = "16M+32M") -> None:
    """Add the same extent in every region of the device, and take it away from every second one."""
    regions = [region["index"] for region in bench.devices["mem0"]["regions"]]
    for region in regions:
        answer = await (await bench.add(region=region, extents=[extent])).answer()
        assert answer.outcome == "accepted", answer
        print(f"region {region}, from {format_address(bench.dpa(region, 0))}: {answer}")
    for region in regions[::2]:
        release = await (await bench.release(region=region, extents=[extent])).response()
        assert release.outcome == "released", release
    print(f"given back in {', '.join(map(str, regions[::2]))}")
    assert len(await bench.extents()) == len(regions[1::2])


if __name__ == "__main__":
    run_script(every_region)
