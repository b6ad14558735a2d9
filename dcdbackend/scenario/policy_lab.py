"""The workflows of generation C, step by step as the proposal writes them: which files, in which order, what comes.

Each name is that of the message (2026-01-22, "cxl/region.c improvements and DAX/Hotplug plumbing"): the current path by
region/bind, the manual workflows of dax_region and sysram_region, that of a DC region, and what a bad combination does.
No kernel has these drivers: they run on a simulated host (`dcd simulate --host C`), and show what the design does, not
that it works.
"""

from __future__ import annotations

from typing import Any

from ..bench import Value
from ..session import Session
from . import scenario

C = ("simulated", "policy-drivers")
STATIC: dict[str, int | str] = {"static": "256M"}
MIB = 1 << 20
TAG_A, TAG_B = "a" * 32, "b" * 32
REGION = "region0"


def shown(tag: str) -> str:
    """A tag as sysfs shows it."""
    return f"{tag[:8]}-{tag[8:12]}-{tag[12:16]}-{tag[16:20]}-{tag[20:]}"


async def wrote(bench: Session, f: Any, *, gives: str = "", device: str = "mem0", **value: Any) -> None:
    """A user writes a file; it gives this error, or none."""
    error = await bench.kernel_write(f, device=device, **value)
    assert error == gives, f"{f} {value} gave {error or 'success'}, and {gives or 'success'} was expected"


async def created(bench: Session, mode: str, region: str = REGION, device: str = "mem0") -> None:
    """The regions that are there go; then `echo regionN > decoder0.0/create_MODE_region`, and its decoders."""
    await wrote(bench, "unuse", what="region", region=region, device=device)
    partition = bench.devices[device.partition(".")[0]]["regions"][0]
    start, size = (partition["base"], partition["length"]) if mode == "dc" else (0, 256 * MIB)
    place: Value = {"region": region, "start": start, "length": size, "mode": mode}
    await wrote(bench, "use", what="region", device=device, **place)
    await wrote(bench, "use", what="decoders", region=region, device=device)


async def bound(bench: Session, driver: str, region: str = REGION, device: str = "mem0", **policy: str) -> None:
    """A DC region, bound to this driver, with these policies set."""
    await created(bench, "dc", region, device)
    await wrote(bench, "use", what="bind", region=region, driver=driver, device=device)
    for name, text in policy.items():
        await wrote(bench, "claim", file="policy", region=region, name=name, text=text, device=device)


async def devices(bench: Session, region: str = REGION, device: str = "mem0") -> list[Value]:
    """The DAX devices that sysfs shows under a region."""
    found: list[Value] = (await bench.sysfs(region, device=device))["devices"]
    return found


@scenario(needs=C, shape=STATIC)
async def current_region_bind(bench: Session) -> None:
    """CURRENT: region/bind of a ram region makes, probes and onlines its DAX device; nobody is asked (C9).

    As where KMEM is built in; where it is not, the device would be device_dax's.
    """
    await created(bench, "ram")
    await wrote(bench, "use", what="bind", region=REGION, driver="region")
    (dax,) = await devices(bench)
    assert (dax["driver"], dax["hotplug"], dax["size"]) == ("kmem", "online", 256 * MIB), dax


@scenario(needs=C, shape=STATIC)
async def manual_dax_region(bench: Session) -> None:
    """Manual dax_region: its DAX device is left unprobed until somebody binds it to device_dax (C1)."""
    await created(bench, "ram")
    await wrote(bench, "use", what="bind", region=REGION, driver="dax")
    (dax,) = await devices(bench)
    assert dax["driver"] is None, "it is created unprobed"
    await wrote(bench, "use", what="dax", dax=dax["name"], driver="kmem", gives="-ENODEV")
    await wrote(bench, "use", what="dax", dax=dax["name"], driver="device_dax")
    (dax,) = await devices(bench)
    assert dax["driver"] == "device_dax"


@scenario(needs=C, shape=STATIC)
async def manual_sysram_region(bench: Session) -> None:
    """Manual sysram_region: the hotplug policy is written first, then kmem is bound and obeys it (C2)."""
    await created(bench, "ram")
    await wrote(bench, "use", what="bind", region=REGION, driver="sysram")
    (dax,) = await devices(bench)
    assert dax["driver"] is None, "it is created unprobed"
    await wrote(bench, "claim", file="policy", region=REGION, name="hotplug", text="online_movable")
    await wrote(bench, "use", what="dax", dax=dax["name"], driver="kmem")
    (dax,) = await devices(bench)
    assert (dax["driver"], dax["hotplug"]) == ("kmem", "online_movable"), dax
    await wrote(bench, "claim", file="policy", region=REGION, name="hotplug", text="online", gives="-EBUSY")


@scenario(needs=C)
async def manual_dc_region_dax(bench: Session) -> None:
    """Manual dc_region, dax: it is bound with no DAX device; each extent set that arrives has one of its own (C1)."""
    await bound(bench, "dax")
    assert await devices(bench) == [], "a DC region is bound WITHOUT dev_dax"
    for tag, spans in ((TAG_A, ["0+64M", "128M+64M"]), (TAG_B, ["256M+64M"])):
        assert (await (await bench.add(spans, tag=tag, via="fm")).answer()).outcome == "accepted"
    found = await devices(bench)
    assert [(one["driver"], one["uuid"], one["size"]) for one in found] == [
        ("device_dax", shown(TAG_A), 128 * MIB),
        ("device_dax", shown(TAG_B), 64 * MIB),
    ]
    asked = await bench.release(["0+64M", "128M+64M"], tag=TAG_A, via="fm")
    assert (await asked.response()).outcome == "released"
    assert len(await devices(bench)) == 1


@scenario(needs=C)
async def manual_dc_region_sysram(bench: Session) -> None:
    """Manual dc_region, sysram: each set that arrives is a dax_kmem of its own, online as the policy says (C1, C2)."""
    await bound(bench, "sysram", hotplug="online_movable")
    assert await devices(bench) == [], "a DC region is bound WITHOUT dev_dax"
    assert (await (await bench.add(["0+64M", "128M+64M"], tag=TAG_A, via="fm")).answer()).outcome == "accepted"
    (dax,) = await devices(bench)
    assert (dax["driver"], dax["hotplug"], dax["uuid"]) == ("kmem", "online_movable", shown(TAG_A)), dax


@scenario(needs=C, shape=STATIC)
async def create_region_bad_combination(bench: Session) -> None:
    """`cxl create-region -t MODE --driver=DRIVER`: what a mode does not allow fails and is undone (C8, C1)."""
    allowed = {"pmem": ("pmem",), "ram": ("region", "dax", "sysram"), "dc": ("dax", "sysram", "virtio", "devdax")}
    for mode, drivers in allowed.items():
        for wrong in ("pmem", "region", "dax", "sysram", "virtio", "devdax"):
            if wrong in drivers:
                continue
            await created(bench, mode)
            error = await bench.kernel_write("use", what="bind", region=REGION, driver=wrong)
            assert error in ("-EOPNOTSUPP", "-ENOTSUPP"), f"{wrong} of a {mode} region gave {error or 'success'}"
            assert await devices(bench) == [], "nothing is left of it"
            await wrote(bench, "use", what="bind", region=REGION, driver=drivers[0])
    await wrote(bench, "use", what="region", region="region9", start=0, length=MIB, mode="private", gives="-ENOENT")


@scenario(needs=C)
async def bind_before_decoders(bench: Session) -> None:
    """A region whose decoders are not programmed is not bound; one that is bound is not bound again (C1)."""
    await wrote(bench, "unuse", what="region", region=REGION)
    place = bench.devices["mem0"]["regions"][0]
    await wrote(
        bench, "use", what="region", region=REGION, start=place["base"], length=place["length"], mode="dc"
    )  # fmt: skip
    await wrote(bench, "use", what="bind", region=REGION, driver="dax", gives="-ENXIO")
    assert (await (await bench.add(["0+64M"])).answer()).outcome == "refused"
    await wrote(bench, "use", what="decoders", region=REGION)
    await wrote(bench, "use", what="bind", region=REGION, driver="dax")
    await wrote(bench, "use", what="bind", region=REGION, driver="sysram", gives="-EBUSY")
    assert (await (await bench.add(["0+64M"])).answer()).outcome == "accepted"


@scenario(needs=C)
async def sysram_hotplug_is_atomic(bench: Session) -> None:
    """daxN.M/hotplug moves all of a device or nothing of it; who holds its memory keeps it (C2)."""
    await bound(bench, "sysram", hotplug="online")
    assert (await (await bench.add(["0+64M", "128M+64M"], tag=TAG_A, via="fm")).answer()).outcome == "accepted"
    (dax,) = await devices(bench)
    await wrote(bench, "use", what="map", dax=dax["name"])
    await wrote(bench, "claim", file="hotplug", dax=dax["name"], text="offline", gives="-EBUSY")
    asked = await bench.release(["0+64M", "128M+64M"], tag=TAG_A, via="fm")
    assert (await asked.response()).outcome == "declined"
    assert (await devices(bench))[0]["hotplug"] == "online"
    await wrote(bench, "unuse", what="map", dax=dax["name"])
    await wrote(bench, "claim", file="hotplug", dax=dax["name"], text="offline")
    await wrote(bench, "claim", file="hotplug", dax=dax["name"], text="online_movable")
    asked = await bench.release(["0+64M", "128M+64M"], tag=TAG_A, via="fm")
    assert (await asked.response()).outcome == "released"


@scenario(needs=C)
async def region_driver_goes(bench: Session) -> None:
    """A driver that goes gives everything back; the next one begins with nothing (C1)."""
    await bound(bench, "dax")
    assert (await (await bench.add(["0+64M", "128M+64M"], tag=TAG_A, via="fm")).answer()).outcome == "accepted"
    await wrote(bench, "unuse", what="bind", region=REGION)
    assert await bench.extents() == ()
    await wrote(bench, "use", what="bind", region=REGION, driver="sysram")
    assert (await (await bench.add(["0+64M"], tag=TAG_A, via="fm")).answer()).outcome == "accepted"
