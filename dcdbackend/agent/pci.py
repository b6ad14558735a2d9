"""PCI functions as sysfs shows them: which there are, their configuration space, drivers and host bridges.

Only what taking a CXL device needs. Nothing is written but `enable` and, when asked, a driver's `unbind`; BARs are
mapped, never assigned. Sources: PCIe base 6.0 7.5.3.6 (port number, in Link Capabilities), 7.6.3 (extended
capabilities), 7.9.3 (serial number); CXL r3.1 8.1.9 (Register Locator DVSEC); ACPI `_UID` of the host bridge
(ACPI0016) through `firmware_node`.
"""

from __future__ import annotations

import mmap
import os
from typing import NamedTuple

from ..errors import AnsweredWrongly, CannotRun
from . import sysfs

CLASS_MEMORY_DEVICE = 0x050210
CLASS_BRIDGE = 0x060400
CONFIG_SPACE = 4096

_COMMAND, _MEMORY_SPACE = 0x04, 2
_CAPABILITIES_POINTER = 0x34
_FIRST_CAPABILITY = 0x40
_PCI_EXPRESS = 0x10
_LINK_CAPABILITIES = 0x0C
_DEVICE_SERIAL_NUMBER = 0x0003
_DESIGNATED_VENDOR_SPECIFIC = 0x0023
_CXL_VENDOR = 0x1E98
_REGISTER_LOCATOR = 8
_FIRST_EXTENDED = 0x100
_MAX_CAPABILITIES = (CONFIG_SPACE - _FIRST_EXTENDED) // 8

COMPONENT_REGISTERS = 1
DEVICE_REGISTERS = 3


class Function(NamedTuple):
    """One PCI function. `path` is its own directory in sysfs, links followed."""

    address: str
    path: str
    class_code: int


class Capability(NamedTuple):
    """An extended capability: where it begins in configuration space."""

    id: int
    version: int
    offset: int


class Located(NamedTuple):
    """A block of registers: `kind` COMPONENT_REGISTERS, DEVICE_REGISTERS, ..., in which BAR, at which offset."""

    kind: int
    bar: int
    offset: int


class HostBridge(NamedTuple):
    """A CXL host bridge: ACPI `_UID` (as in CEDT), its sysfs directory, the root ports under it."""

    uid: int
    path: str
    root_ports: tuple[str, ...]


def functions(root: str, class_code: int) -> list[Function]:
    """Every function of that class, by address. A function that vanishes meanwhile is left out."""
    found = []
    devices = f"{root}/sys/bus/pci/devices"
    for address in sysfs.names(devices):
        path = sysfs.target(f"{devices}/{address}")
        if path is None:
            continue
        seen = sysfs.read_number(f"{path}/class")
        if seen == class_code:
            found.append(Function(address, path, seen))
    return found


def config_space(function: Function) -> bytes:
    """The 4096 bytes of configuration space. Errors: CannotRun when the extended part cannot be read."""
    data = sysfs.read_bytes(f"{function.path}/config", max_bytes=CONFIG_SPACE)
    if len(data) < CONFIG_SPACE:
        raise CannotRun(
            f"{function.address}: {len(data)} of {CONFIG_SPACE} bytes of configuration space can be read; "
            "the agent must run as root, on a bus with extended configuration space"
        )
    return data


def extended_capabilities(config: bytes) -> tuple[Capability, ...]:
    """The chain from 100h on. Errors: AnsweredWrongly for a chain that leaves the space or runs in a circle."""
    found: list[Capability] = []
    offset = _FIRST_EXTENDED
    while offset and len(found) <= _MAX_CAPABILITIES:
        if offset < _FIRST_EXTENDED or offset % 4 or offset > len(config) - 4:
            raise AnsweredWrongly(f"an extended capability points to 0x{offset:x}, outside 0x100..0xffc")
        header = int.from_bytes(config[offset : offset + 4], "little")
        if header in (0, 0xFFFFFFFF):
            break
        found.append(Capability(header & 0xFFFF, header >> 16 & 0xF, offset))
        offset = header >> 20
    if len(found) > _MAX_CAPABILITIES:
        raise AnsweredWrongly(f"more than {_MAX_CAPABILITIES} extended capabilities: their chain is a circle")
    return tuple(found)


def serial_number(config: bytes) -> int | None:
    """The Device Serial Number, 64 bits; None when the function has no such capability (or it is cut)."""
    for capability in extended_capabilities(config):
        if capability.id == _DEVICE_SERIAL_NUMBER and capability.offset + 12 <= len(config):
            return int.from_bytes(config[capability.offset + 4 : capability.offset + 12], "little")
    return None


def port_number(config: bytes) -> int:
    """The number of a port, which a switch's decoders name as their target.

    Errors: AnsweredWrongly for a function without a PCI Express capability, or a chain in a circle.
    """
    offset = config[_CAPABILITIES_POINTER] & 0xFC
    for _ in range((_FIRST_EXTENDED - _FIRST_CAPABILITY) // 4):
        if not _FIRST_CAPABILITY <= offset <= _FIRST_EXTENDED - _LINK_CAPABILITIES - 4:
            break
        if config[offset] == _PCI_EXPRESS:
            return config[offset + _LINK_CAPABILITIES + 3]
        offset = config[offset + 1] & 0xFC
    raise AnsweredWrongly("a port without a PCI Express capability has no number; no decoder can name it")


def located_registers(config: bytes) -> tuple[Located, ...]:
    """The blocks that the Register Locator DVSEC names. Errors: AnsweredWrongly when its length is no whole number
    of entries, or leaves the space."""
    found: list[Located] = []
    for capability in extended_capabilities(config):
        at = capability.offset
        if capability.id != _DESIGNATED_VENDOR_SPECIFIC or at + 12 > len(config):
            continue
        vendor = int.from_bytes(config[at + 4 : at + 6], "little")
        length = int.from_bytes(config[at + 4 : at + 8], "little") >> 20
        kind = int.from_bytes(config[at + 8 : at + 10], "little")
        if (vendor, kind) != (_CXL_VENDOR, _REGISTER_LOCATOR):
            continue
        if length < 12 or (length - 12) % 8 or at + length > len(config):
            raise AnsweredWrongly(
                f"the Register Locator at 0x{at:x} has a length of {length} bytes; 12 + 8 for each block"
            )
        for entry in range(at + 12, at + length, 8):
            low, high = (int.from_bytes(config[x : x + 4], "little") for x in (entry, entry + 4))
            if low >> 8 & 0xFF:
                found.append(Located(low >> 8 & 0xFF, low & 7, high << 32 | low & 0xFFFF0000))
    return tuple(found)


def bound_driver(function: Function) -> str | None:
    """The name of the kernel driver that has the function, or None."""
    path = sysfs.target(f"{function.path}/driver")
    return path.rpartition("/")[2] if path is not None else None


def unbind(function: Function) -> None:
    """Take the function from its driver. Errors: CannotRun."""
    sysfs.write_text(f"{function.path}/driver/unbind", function.address)


def enable(function: Function) -> None:
    """Switch memory decoding on. Errors: CannotRun."""
    sysfs.write_text(f"{function.path}/enable", "1")


def hide(function: Function) -> None:
    """Switch memory decoding off, which `enable` does not undo: what its BARs held is gone. Errors: CannotRun."""
    path = f"{function.path}/config"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            command = int.from_bytes(os.pread(fd, 2, _COMMAND), "little")
            os.pwrite(fd, (command & ~_MEMORY_SPACE).to_bytes(2, "little"), _COMMAND)
        finally:
            os.close(fd)
    except OSError as error:
        raise CannotRun(f"{path} cannot be written: {error.strerror}; the agent must run as root") from None


def map_bar(function: Function, bar: int) -> mmap.mmap:
    """The whole BAR, mapped shared, read and write. The caller owns the mapping. Errors: CannotRun."""
    path = f"{function.path}/resource{bar}"
    try:
        fd = os.open(path, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
        try:
            return mmap.mmap(fd, os.fstat(fd).st_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        raise CannotRun(
            f"{path} cannot be mapped: {error}; the agent must run as root, with the kernel parameter iomem=relaxed"
        ) from None


def host_bridge(function: Function) -> HostBridge:
    """The host bridge above the function. Errors: CannotRun when sysfs does not show which it is."""
    at = function.path.find("/pci")
    name, _, below = function.path[at + 1 :].partition("/")
    if at < 0 or not below:
        raise CannotRun(f"{function.address}: its place {function.path} shows no host bridge above it")
    path = function.path[: at + 1] + name
    uid = sysfs.read_number(f"{path}/firmware_node/uid")
    ports = [
        entry
        for entry in sysfs.names(path)
        if entry.count(":") == 2 and sysfs.read_number(f"{path}/{entry}/class") == CLASS_BRIDGE
    ]
    return HostBridge(uid, path, tuple(ports))


def path_below(bridge: HostBridge, function: Function) -> tuple[str, ...]:
    """The addresses from the root port down to the function itself."""
    return tuple(function.path[len(bridge.path) + 1 :].split("/"))


def parent(function: Function) -> Function:
    """The port right above the function. Errors: CannotRun when there is none."""
    path = function.path.rpartition("/")[0]
    return Function(path.rpartition("/")[2], path, sysfs.read_number(f"{path}/class"))
