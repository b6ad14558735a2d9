"""What the machine's CXL side looks like: a frozen description, and the QEMU arguments that build it.

A topology is a value: two equal ones give the same arguments, and nothing here starts a process, opens a
file or knows a guest. It also answers "which byte of which file is this DPA?", because whoever says how a
device's capacity is backed must say where its bytes are.

`direct` gives each device a host bridge (`pxb-cxl`) and a window (`cxl-fmw.N`) of its own; programming the device's
own HDM decoder is then enough for the guest. `switch` puts all devices under one switch, one level, behind one host
bridge and in one window large enough for all: the guest programs the upstream port's decoders too. In both every
host bridge has one root port and so passes everything through.

Deliberately not here: the machine's other parts (serial port, agent link, accelerator, kernel), which are
`machine.full_argv`'s.

Sizes are in bytes. Limits: CXL r3.1 8.2.9.9.9.1 (1 to 8 regions), and what QEMU's cxl-type3 asks of its
backends (multiples of 256 MiB, blocks of 2 MiB).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import AskedWrongly
from .units import GIB, MIB, TIB, format_address, format_size, parse_size

CAPACITY_UNIT = 256 * MIB
"""Static capacity, each DC region and each window are multiples of this."""
BLOCK_SIZE = 2 * MIB
"""The only DC block size that QEMU's device has."""
MAX_REGIONS = 8
MAX_DEVICES = 8
MAX_HOSTS = 8
MAX_SWITCHED = 4
"""Devices under one switch: each takes a decoder of the upstream port, and QEMU's has four."""
MAX_TOTAL = TIB // 2
"""All windows together: the guest has 40 bits of physical address, and RAM and PCI need some of them."""
FIRST_SERIAL = 0x1234
GUEST_RAM = 1 * GIB

_FIRST_BUS = 12
_BUSES_PER_BRIDGE = 16
_NO_SERIAL = (1 << 64) - 1
_FIRST_DOWNSTREAM = 1

Kind = Literal["direct", "switch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionSpec:
    """One DC region as the device must report it: DPA base, length and block size in bytes."""

    index: int
    base: int
    length: int
    block_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRange:
    """Bytes of a backend file: `name` relative to the memory directory, offset and length in bytes."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceSpec:
    """One Dynamic Capacity Device. DPA 0 starts the static capacity; the DC regions follow it, equal in size.

    `hosts`: how many it serves, by ids from 0 on; `sharable`: how many of its regions, the last ones, hosts may share.
    QEMU has one host and no sharable region: such a device is the emulator's. Errors: AskedWrongly, from the
    constructor.
    """

    name: str
    serial: int
    regions: int
    dc_size_bytes: int
    static_size_bytes: int = 0
    hosts: int = 1
    sharable: int = 0

    def __post_init__(self) -> None:
        if not (self.name.isascii() and self.name.isalnum() and self.name[0].isalpha()):
            raise AskedWrongly(f"device name {self.name!r}: letters and digits, a letter first, like mem0")
        if not 0 < _whole(self.serial, "serial") < _NO_SERIAL:
            raise AskedWrongly(f"{self.name}: serial {self.serial} is outside 1..0x{_NO_SERIAL - 1:x}")
        if not 1 <= _whole(self.regions, "regions") <= MAX_REGIONS:
            raise AskedWrongly(f"{self.name}: {self.regions} regions; a device has 1 to {MAX_REGIONS}")
        step = self.regions * CAPACITY_UNIT
        if _whole(self.dc_size_bytes, "size") <= 0 or self.dc_size_bytes % step:
            raise AskedWrongly(
                f"{self.name}: {_shown(self.dc_size_bytes)} of dynamic capacity in {self.regions} regions; "
                f"give a multiple of {format_size(step)} ({format_size(CAPACITY_UNIT)} for each region)"
            )
        if not 1 <= _whole(self.hosts, "hosts") <= MAX_HOSTS:
            raise AskedWrongly(f"{self.name}: {self.hosts} hosts; a device serves 1 to {MAX_HOSTS}")
        if not 0 <= _whole(self.sharable, "sharable") <= self.regions:
            raise AskedWrongly(f"{self.name}: {self.sharable} sharable regions; give 0 to {self.regions}")
        if _whole(self.static_size_bytes, "static size") < 0 or self.static_size_bytes % CAPACITY_UNIT:
            raise AskedWrongly(
                f"{self.name}: {_shown(self.static_size_bytes)} of static capacity; "
                f"give 0 or a multiple of {format_size(CAPACITY_UNIT)}"
            )

    @property
    def region_size_bytes(self) -> int:
        return self.dc_size_bytes // self.regions

    @property
    def capacity_bytes(self) -> int:
        """Static and dynamic together: DPA goes from 0 to here."""
        return self.static_size_bytes + self.dc_size_bytes

    @property
    def qom_path(self) -> str:
        """The path that QMP's CXL commands take."""
        return f"/machine/peripheral/{self.name}"

    @property
    def dc_file(self) -> str:
        """Name of the file behind the dynamic capacity; its byte 0 is the first DC region's first byte."""
        return f"{self.name}-dc.memory"

    @property
    def static_file(self) -> str | None:
        """Name of the file behind the static capacity (its byte 0 is DPA 0); None where there is none."""
        return f"{self.name}-static.memory" if self.static_size_bytes else None

    def locate(self, dpa: int, length: int) -> tuple[FileRange, ...]:
        """Where the bytes of [dpa, dpa + length) are: one range, or two across the static capacity's end.

        Errors: AskedWrongly for a range that is not wholly inside the device or is empty.
        """
        if dpa < 0 or length <= 0 or dpa + length > self.capacity_bytes:
            raise AskedWrongly(
                f"{self.name}: DPA {format_address(dpa) if dpa >= 0 else dpa} + {length} bytes is outside "
                f"the device, which has {format_size(self.capacity_bytes)}"
            )
        static = self.static_size_bytes
        found = []
        if self.static_file is not None and dpa < static:
            found.append(FileRange(name=self.static_file, offset=dpa, length=min(length, static - dpa)))
        if dpa + length > static:
            start = max(dpa, static)
            found.append(FileRange(name=self.dc_file, offset=start - static, length=dpa + length - start))
        return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """Devices and how they hang on the machine. Errors: AskedWrongly, from the constructor."""

    devices: tuple[DeviceSpec, ...]
    kind: Kind = "direct"
    ram_bytes: int = GUEST_RAM
    switch_cci: bool = True
    """Whether a switch has its mailbox (`cxl-switch-mailbox-cci`), the fabric manager's way in."""

    def __post_init__(self) -> None:
        if self.kind not in _ATTACH:
            raise AskedWrongly(f"topology {self.kind!r} is not known; there is {', '.join(_ATTACH)}")
        if not 1 <= len(self.devices) <= MAX_DEVICES:
            raise AskedWrongly(f"{len(self.devices)} devices; a topology has 1 to {MAX_DEVICES}")
        if self.kind == "switch" and len(self.devices) > MAX_SWITCHED:
            raise AskedWrongly(
                f"{len(self.devices)} devices under one switch, whose decoders are {MAX_SWITCHED}; "
                f"give at most {MAX_SWITCHED} devices, or take the topology direct"
            )
        for what in ("name", "serial"):
            values = [getattr(device, what) for device in self.devices]
            if len(set(values)) != len(values):
                raise AskedWrongly(f"two devices with the same {what} in {values}; each needs its own")
        total = sum(device.capacity_bytes for device in self.devices)
        if total > MAX_TOTAL:
            raise AskedWrongly(
                f"{_shown(total)} of CXL memory; at most {format_size(MAX_TOTAL)} fits the guest's addresses"
            )
        if self.ram_bytes % MIB or not 256 * MIB <= self.ram_bytes <= 64 * GIB:
            raise AskedWrongly(f"{_shown(self.ram_bytes)} of guest RAM; give whole MiB from 256M to 64G")

    def device(self, name: str) -> DeviceSpec:
        """The device called `name`. Errors: AskedWrongly."""
        for device in self.devices:
            if device.name == name:
                return device
        raise AskedWrongly(f"no device {name!r}; there is {', '.join(device.name for device in self.devices)}")

    def argv(self, memory_dir: Path | str = ".") -> list[str]:
        """QEMU arguments of the CXL side: -M, -m, -object, -device.

        `memory_dir` holds the backend files, which QEMU makes; a relative one is relative to QEMU's own
        working directory, the run directory. Errors: AskedWrongly, for what no QEMU has.
        """
        for device in self.devices:
            if device.hosts > 1 or device.sharable:
                raise AskedWrongly(
                    f"{device.name}: {device.hosts} hosts, {device.sharable} sharable regions; QEMU has one host and "
                    "shares nothing: take the emulator, or leave both out"
                )
        machine = ["q35", "cxl=on"]
        arguments: list[str] = []
        below = [self.devices] if self.kind == "switch" else [(device,) for device in self.devices]
        for index, devices in enumerate(below):
            bridge = f"cxl.{index}"
            machine += [
                f"cxl-fmw.{index}.targets.0={bridge}",
                f"cxl-fmw.{index}.size={format_size(sum(device.capacity_bytes for device in devices))}",
            ]
            for device in devices:
                arguments += _backends(device, memory_dir)
            bus_nr = _FIRST_BUS + _BUSES_PER_BRIDGE * index
            arguments += ["-device", f"pxb-cxl,bus=pcie.0,bus_nr={bus_nr},id={bridge}"]
            arguments += _ATTACH[self.kind](self, devices, index, bridge)
        return ["-M", ",".join(machine), "-m", format_size(self.ram_bytes), *arguments]


def expected_regions(device: DeviceSpec) -> tuple[RegionSpec, ...]:
    """The regions that QEMU makes of the description, lowest DPA first (the bench compares with 4800h)."""
    size = device.region_size_bytes
    return tuple(
        RegionSpec(
            index=index,
            base=device.static_size_bytes + index * size,
            length=size,
            block_size=BLOCK_SIZE,
        )
        for index in range(device.regions)
    )


def direct(
    *,
    regions: int = 2,
    size: int | str = 2 * GIB,
    devices: int = 1,
    static: int | str = 0,
    serials: Sequence[int] | None = None,
    hosts: int = 1,
    sharable: int = 0,
) -> Topology:
    """`devices` equal devices, mem0 onwards, each right under a root port of its own host bridge.

    `size` is each device's dynamic capacity and `static` its static volatile capacity, in bytes or as text
    (`256M`). `serials` gives each device's serial number; without it they count from 0x1234.
    `hosts`, `sharable`: of each device, for the emulator (see `DeviceSpec`).
    Errors: AskedWrongly.
    """
    return Topology(devices=_equal(regions, size, devices, static, serials, hosts, sharable))


def switch(
    *,
    regions: int = 2,
    size: int | str = 2 * GIB,
    devices: int = 1,
    static: int | str = 0,
    serials: Sequence[int] | None = None,
    cci: bool = True,
    hosts: int = 1,
    sharable: int = 0,
) -> Topology:
    """`devices` equal devices, each under a downstream port (port number 1 onwards) of one switch.

    The upstream port is number 0 in QEMU: a downstream port with that number would hide it (5101h).

    As `direct`, with at most 4 devices. `cci`: the switch has its mailbox, which QEMU has had longer than DCD; give
    False for a QEMU built without it (`"switch-cci" in Qemu.features`). Errors: AskedWrongly.
    """
    made = _equal(regions, size, devices, static, serials, hosts, sharable)
    return Topology(devices=made, kind="switch", switch_cci=cci)


def escape(value: str) -> str:
    """A value inside QEMU's comma-separated options: a comma is written twice."""
    return value.replace(",", ",,")


def _equal(
    regions: int,
    size: int | str,
    devices: int,
    static: int | str,
    serials: Sequence[int] | None,
    hosts: int,
    sharable: int,
) -> tuple[DeviceSpec, ...]:
    """Devices that differ in name and serial only. Errors: AskedWrongly."""
    if not 1 <= _whole(devices, "devices") <= MAX_DEVICES:
        raise AskedWrongly(f"{devices} devices; a topology has 1 to {MAX_DEVICES}")
    numbers = list(serials) if serials is not None else [FIRST_SERIAL + index for index in range(devices)]
    if len(numbers) != devices:
        raise AskedWrongly(f"{len(numbers)} serial numbers for {devices} devices; give one for each")
    return tuple(
        DeviceSpec(
            name=f"mem{index}",
            serial=numbers[index],
            regions=regions,
            dc_size_bytes=_bytes(size, "size"),
            static_size_bytes=_bytes(static, "static size"),
            hosts=hosts,
            sharable=sharable,
        )
        for index in range(devices)
    )


def _attach_direct(_: Topology, devices: Sequence[DeviceSpec], index: int, bridge: str) -> list[str]:
    (device,) = devices
    port = f"port{index}"
    return [
        *("-device", f"cxl-rp,bus={bridge},port=0,id={port},chassis=0,slot={2 + index}"),
        *("-device", _type3(device, port)),
    ]


def _attach_switch(topology: Topology, devices: Sequence[DeviceSpec], index: int, bridge: str) -> list[str]:
    root, upstream = f"rp{index}", f"us{index}"
    arguments = ["-device", f"cxl-rp,bus={bridge},port=0,id={root},chassis=0,slot=2"]
    arguments += ["-device", f"cxl-upstream,bus={root},id={upstream},addr=0.0,multifunction=on"]
    if topology.switch_cci:
        arguments += ["-device", f"cxl-switch-mailbox-cci,bus={root},addr=0.1,target={upstream}"]
    for number, device in enumerate(devices, _FIRST_DOWNSTREAM):
        port = f"dsp{number}"
        arguments += ["-device", f"cxl-downstream,bus={upstream},port={number},id={port},chassis=0,slot={4 + number}"]
        arguments += ["-device", _type3(device, port)]
    return arguments


_ATTACH: dict[str, Callable[[Topology, Sequence[DeviceSpec], int, str], list[str]]] = {
    "direct": _attach_direct,
    "switch": _attach_switch,
}


def _type3(device: DeviceSpec, bus: str) -> str:
    parts = ["cxl-type3", f"bus={bus}", f"id={device.name}", f"sn=0x{device.serial:x}"]
    if device.static_size_bytes:
        parts.append(f"volatile-memdev={device.name}-static")
    parts += [f"volatile-dc-memdev={device.name}-dc", f"num-dc-regions={device.regions}"]
    return ",".join(parts)


def _backends(device: DeviceSpec, memory_dir: Path | str) -> list[str]:
    arguments: list[str] = []
    for name, file, size in (
        (f"{device.name}-static", device.static_file, device.static_size_bytes),
        (f"{device.name}-dc", device.dc_file, device.dc_size_bytes),
    ):
        if file is not None:
            path = escape(str(Path(memory_dir) / file))
            option = f"memory-backend-file,id={name},size={format_size(size)},mem-path={path},share=on"
            arguments += ["-object", option]
    return arguments


def _whole(value: object, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise AskedWrongly(f"{what} {value!r} is not a whole number")
    return value


def _bytes(value: int | str, what: str) -> int:
    return parse_size(value, what=what) if isinstance(value, str) else _whole(value, what)


def _shown(size: int) -> str:
    return format_size(size) if size >= 0 else str(size)
