"""The description of the CXL side: its arguments, its limits, and where each DPA's byte is."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcdbackend import topology
from dcdbackend.errors import AskedWrongly
from dcdbackend.topology import DeviceSpec, FileRange, RegionSpec, Topology, direct, expected_regions, switch
from dcdbackend.units import GIB, MIB

UNIT = topology.CAPACITY_UNIT


def options(argv: list[str], name: str) -> list[str]:
    """The values of one option, in order."""
    return [value for option, value in itertools.pairwise(argv) if option == name]


def test_one_device_is_these_arguments() -> None:
    """The shape of qemu.md: pxb-cxl, root port, type 3; the memory is a shared file."""
    assert direct(regions=2, size=2 * GIB).argv("memory") == [
        *("-M", "q35,cxl=on,cxl-fmw.0.targets.0=cxl.0,cxl-fmw.0.size=2G"),
        *("-m", "1G"),
        *("-object", "memory-backend-file,id=mem0-dc,size=2G,mem-path=memory/mem0-dc.memory,share=on"),
        *("-device", "pxb-cxl,bus=pcie.0,bus_nr=12,id=cxl.0"),
        *("-device", "cxl-rp,bus=cxl.0,port=0,id=port0,chassis=0,slot=2"),
        *("-device", "cxl-type3,bus=port0,id=mem0,sn=0x1234,volatile-dc-memdev=mem0-dc,num-dc-regions=2"),
    ]


def test_a_switch_with_two_devices_is_these_arguments() -> None:
    """The shape of qemu.md: one host bridge, root port and window; the switch's mailbox beside its upstream port."""
    assert switch(regions=2, size="1G", devices=2, static="256M", serials=[7, 0x1235]).argv("memory") == [
        *("-M", "q35,cxl=on,cxl-fmw.0.targets.0=cxl.0,cxl-fmw.0.size=2560M"),
        *("-m", "1G"),
        *("-object", "memory-backend-file,id=mem0-static,size=256M,mem-path=memory/mem0-static.memory,share=on"),
        *("-object", "memory-backend-file,id=mem0-dc,size=1G,mem-path=memory/mem0-dc.memory,share=on"),
        *("-object", "memory-backend-file,id=mem1-static,size=256M,mem-path=memory/mem1-static.memory,share=on"),
        *("-object", "memory-backend-file,id=mem1-dc,size=1G,mem-path=memory/mem1-dc.memory,share=on"),
        *("-device", "pxb-cxl,bus=pcie.0,bus_nr=12,id=cxl.0"),
        *("-device", "cxl-rp,bus=cxl.0,port=0,id=rp0,chassis=0,slot=2"),
        *("-device", "cxl-upstream,bus=rp0,id=us0,addr=0.0,multifunction=on"),
        *("-device", "cxl-switch-mailbox-cci,bus=rp0,addr=0.1,target=us0"),
        *("-device", "cxl-downstream,bus=us0,port=1,id=dsp1,chassis=0,slot=5"),
        "-device",
        "cxl-type3,bus=dsp1,id=mem0,sn=0x7,volatile-memdev=mem0-static,volatile-dc-memdev=mem0-dc,num-dc-regions=2",
        *("-device", "cxl-downstream,bus=us0,port=2,id=dsp2,chassis=0,slot=6"),
        "-device",
        "cxl-type3,bus=dsp2,id=mem1,sn=0x1235,volatile-memdev=mem1-static,volatile-dc-memdev=mem1-dc,num-dc-regions=2",
    ]


def test_a_switch_can_do_without_its_mailbox() -> None:
    with_it, without = switch().argv(), switch(cci=False).argv()
    assert [part for part in with_it if part not in without] == ["cxl-switch-mailbox-cci,bus=rp0,addr=0.1,target=us0"]
    assert len(with_it) == len(without) + 2
    assert switch() != direct() and switch().devices == direct().devices


def test_static_capacity_has_a_file_of_its_own_and_room_in_the_window() -> None:
    argv = direct(regions=1, size="1G", static="512M").argv()
    assert "cxl-fmw.0.size=1536M" in options(argv, "-M")[0]
    assert options(argv, "-object")[0] == (
        "memory-backend-file,id=mem0-static,size=512M,mem-path=mem0-static.memory,share=on"
    )
    assert "volatile-memdev=mem0-static,volatile-dc-memdev=mem0-dc" in options(argv, "-device")[-1]


def test_every_device_has_its_own_bridge_window_port_serial_and_file() -> None:
    argv = direct(devices=8, size="256M", regions=1).argv("d")
    machine = options(argv, "-M")[0].split(",")
    assert [part for part in machine if ".targets.0=" in part] == [
        f"cxl-fmw.{index}.targets.0=cxl.{index}" for index in range(8)
    ]
    devices = options(argv, "-device")
    for kind, count in (("pxb-cxl", 8), ("cxl-rp", 8), ("cxl-type3", 8)):
        assert len({one for one in devices if one.startswith(kind)}) == count
    for key in ("bus_nr", "id", "slot", "sn", "volatile-dc-memdev"):
        values = [part for one in devices for part in one.split(",") if part.startswith(f"{key}=")]
        assert len(set(values)) == len(values) >= 8, key
    assert len(set(options(argv, "-object"))) == 8


def test_a_comma_in_the_directory_is_written_twice() -> None:
    assert "mem-path=/a,,b/mem0-dc.memory,share" in options(direct().argv(Path("/a,b")), "-object")[0]


def test_equal_descriptions_give_equal_arguments() -> None:
    assert direct(devices=2) == direct(devices=2, serials=[0x1234, 0x1235])
    assert direct(devices=2).argv("x") == direct(devices=2).argv("x")


def test_the_regions_that_are_expected() -> None:
    """qemu.md: each is size / regions, the bases follow the static capacity, blocks of 2 MiB."""
    (device,) = direct(regions=2, size="1G", static="256M").devices
    assert expected_regions(device) == (
        RegionSpec(index=0, base=256 * MIB, length=512 * MIB, block_size=2 * MIB),
        RegionSpec(index=1, base=768 * MIB, length=512 * MIB, block_size=2 * MIB),
    )


def test_a_device_is_found_by_its_name() -> None:
    shape = direct(devices=2)
    assert shape.device("mem1") is shape.devices[1]
    assert shape.device("mem1").qom_path == "/machine/peripheral/mem1"
    with pytest.raises(AskedWrongly, match="'mem2'; there is mem0, mem1"):
        shape.device("mem2")


def test_a_range_over_the_end_of_the_static_capacity_is_in_two_files() -> None:
    (device,) = direct(regions=1, size="256M", static="256M").devices
    assert device.locate(0, 4) == (FileRange(name="mem0-static.memory", offset=0, length=4),)
    assert device.locate(256 * MIB, 4) == (FileRange(name="mem0-dc.memory", offset=0, length=4),)
    assert device.locate(256 * MIB - 3, 7) == (
        FileRange(name="mem0-static.memory", offset=256 * MIB - 3, length=3),
        FileRange(name="mem0-dc.memory", offset=0, length=4),
    )


@given(
    static=st.integers(0, 3),
    regions=st.integers(1, 8),
    steps=st.integers(1, 3),
    data=st.data(),
)
def test_every_byte_has_one_place(static: int, regions: int, steps: int, data: st.DataObject) -> None:
    """Against the naive rule: static first, then DC, byte by byte."""
    (device,) = direct(regions=regions, size=regions * steps * UNIT, static=static * UNIT).devices
    dpa = data.draw(st.integers(0, device.capacity_bytes - 1))
    length = data.draw(st.integers(1, min(device.capacity_bytes - dpa, 3 * UNIT)))
    found = device.locate(dpa, length)
    assert sum(one.length for one in found) == length
    at = dpa
    for one in found:
        in_static = at < device.static_size_bytes
        assert one.name == (device.static_file if in_static else device.dc_file)
        assert one.offset == (at if in_static else at - device.static_size_bytes)
        size = device.static_size_bytes if in_static else device.dc_size_bytes
        assert 0 < one.length <= size - one.offset
        at += one.length


@pytest.mark.parametrize(("dpa", "length"), [(-1, 4), (0, 0), (0, -4), (2 * GIB, 1), (2 * GIB - 1, 2), (0, 3 * GIB)])
def test_a_range_that_is_not_in_the_device_is_refused(dpa: int, length: int) -> None:
    (device,) = direct(size="2G").devices
    with pytest.raises(AskedWrongly, match="outside the device, which has 2G"):
        device.locate(dpa, length)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"regions": 0}, "0 regions; a device has 1 to 8"),
        ({"regions": 9, "size": 9 * UNIT}, "9 regions; a device has 1 to 8"),
        ({"regions": True}, "not a whole number"),
        ({"regions": 2, "size": UNIT}, "multiple of 512M"),
        ({"regions": 3, "size": 2 * GIB}, "multiple of 768M"),
        ({"size": 0}, "0 of dynamic capacity"),
        ({"size": -UNIT}, "-268435456 of dynamic capacity"),
        ({"size": "2GB"}, "size '2GB' is not understood"),
        ({"size": 2.0 * GIB}, "not a whole number"),
        ({"size": 1 << 64}, "at most 512G"),
        ({"static": MIB}, "1M of static capacity; give 0 or a multiple of 256M"),
        ({"static": -UNIT}, "of static capacity"),
        ({"static": "half"}, "static size 'half' is not understood"),
        ({"devices": 0}, "0 devices; a topology has 1 to 8"),
        ({"devices": 9}, "9 devices"),
        ({"devices": 5, "size": "128G"}, "640G of CXL memory"),
        ({"devices": 2, "serials": [1]}, "1 serial numbers for 2 devices"),
        ({"devices": 2, "serials": [5, 5]}, "same serial"),
        ({"serials": [0]}, "serial 0 is outside"),
        ({"serials": [(1 << 64) - 1]}, "is outside 1..0xfffffffffffffffe"),
        ({"serials": ["1"]}, "not a whole number"),
    ],
)
def test_what_cannot_be_built_is_one_clear_line(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(AskedWrongly) as refused:
        direct(**asked)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"devices": 5}, "5 devices under one switch, whose decoders are 4"),
        ({"devices": 0}, "0 devices; a topology has 1 to 8"),
        ({"devices": 9}, "9 devices; a topology has 1 to 8"),
        ({"devices": 4, "size": "256G"}, "1T of CXL memory"),
        ({"regions": 9, "size": 9 * UNIT}, "9 regions; a device has 1 to 8"),
        ({"regions": 2, "size": UNIT}, "multiple of 512M"),
        ({"size": "1GB"}, "size '1GB' is not understood"),
        ({"static": MIB}, "1M of static capacity; give 0 or a multiple of 256M"),
        ({"devices": 2, "serials": [1]}, "1 serial numbers for 2 devices"),
    ],
)
def test_a_switch_that_cannot_be_built_is_one_clear_line(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(AskedWrongly) as refused:
        switch(**asked)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_description_of_ones_own_is_checked_as_well() -> None:
    def device(name: str = "mem0", serial: int = 1) -> DeviceSpec:
        return DeviceSpec(name=name, serial=serial, regions=1, dc_size_bytes=UNIT)

    for name in ("", "mem 0", "mem,0", "0mem", "mém0", "mem0/x"):
        with pytest.raises(AskedWrongly, match="device name"):
            device(name)
    with pytest.raises(AskedWrongly, match="same name"):
        Topology(devices=(device(), device(serial=2)))
    with pytest.raises(AskedWrongly, match="topology 'ring' is not known; there is direct, switch"):
        Topology(devices=(device(),), kind="ring")  # type: ignore[arg-type]
    for ram in (0, 100 * MIB, 1 * GIB + 1, 65 * GIB):
        with pytest.raises(AskedWrongly, match="of guest RAM"):
            Topology(devices=(device(),), ram_bytes=ram)
