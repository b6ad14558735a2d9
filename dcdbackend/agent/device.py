"""One CXL memory device, taken: its registers mapped, its mailbox found, its capacity in the guest's addresses.

Taking goes step by step, and the first step that fails says what is in the way; nothing is half taken. A device
that a kernel driver has is refused: two owners of one mailbox would read each other's answers.
"""

from __future__ import annotations

import mmap
from typing import Any, NamedTuple

from ..errors import AnsweredWrongly, CannotRun, DcdError
from ..wire.cci import IdentifyMemoryDevice, Opcode
from ..wire.dcd import DcConfig, DcRegion, ExtentList, GetDcConfig, GetExtentList, WireExtent
from . import pci, window
from .mailbox import Mailbox
from .registers import (
    HDM_DECODER,
    PRIMARY_MAILBOX,
    STATUS,
    Mapped,
    Registers,
    component_capabilities,
    device_capabilities,
)

CAPACITY_UNIT = 256 << 20
"""Identify's capacities are multiples of this (CXL r3.1 8.2.9.9.1.1)."""
_MAX_PAGES = 4096
_DIRECT, _SWITCHED = 2, 4
"""Functions from the root port down to the device; a switch adds an upstream and a downstream port."""
DYNAMIC_CAPACITY_EVENT = 1 << 4
"""Event Status: log 4 holds records (CXL r3.1 8.2.8.3.1)."""


class Found(NamedTuple):
    """A memory device on the bus. `serial` is None when it has no Device Serial Number."""

    function: pci.Function
    serial: int | None
    located: tuple[pci.Located, ...]


def look(function: pci.Function) -> Found:
    """What the function's configuration space says. Errors: CannotRun, AnsweredWrongly."""
    config = pci.config_space(function)
    return Found(function, pci.serial_number(config), pci.located_registers(config))


class Device:
    """A device that was taken. `name` is the controller's, None until it gave one."""

    def __init__(
        self,
        *,
        found: Found,
        status: Registers,
        status_at: int,
        mailbox: Mailbox,
        identity: IdentifyMemoryDevice,
        config: DcConfig,
        place: window.FixedWindow,
        memory: window.Memory,
        mappings: tuple[mmap.mmap, ...] = (),
    ) -> None:
        self.name: str | None = None
        self.serial = found.serial
        self.address = found.function.address
        self.mailbox = mailbox
        self.identity = identity
        self.config = config
        self.window = place
        self.memory = memory
        self._status = status
        self._status_at = status_at
        self._mappings = mappings

    def has_events(self) -> bool:
        """Whether event log 4 holds records, as the Event Status register says: one access of 8 bytes."""
        return bool(self._status.read8(self._status_at) & DYNAMIC_CAPACITY_EVENT)

    def describe(self) -> dict[str, Any]:
        """The device as the `ready` message shows it."""
        identity, config = self.identity, self.config
        return {
            "serial": self.serial,
            "pci": self.address,
            "payload_size": self.mailbox.payload_size,
            "identify": {
                "fw_revision": identity.fw_revision.rstrip(b"\0").decode("ascii", "replace"),
                "total_capacity": identity.total_capacity * CAPACITY_UNIT,
                "volatile_only_capacity": identity.volatile_only_capacity * CAPACITY_UNIT,
                "persistent_only_capacity": identity.persistent_only_capacity * CAPACITY_UNIT,
                "dc_event_log_size": identity.dc_event_log_size,
            },
            "regions": [describe_region(index, region) for index, region in enumerate(config.regions)],
            "supported_extents": config.supported_extents,
            "available_extents": config.available_extents,
            "supported_tags": config.supported_tags,
            "available_tags": config.available_tags,
            "window_base": self.window.base,
            "error": None,
        }


def describe_region(index: int, region: DcRegion) -> dict[str, Any]:
    """A region as the history's header shows it: all sizes in bytes."""
    return {
        "index": index,
        "base": region.base,
        "decode_length": region.decode_length_bytes,
        "length": region.length,
        "block_size": region.block_size,
        "flags": region.flags,
        "dsmad_handle": region.dsmad_handle,
    }


def refused(function: pci.Function, serial: int | None, error: DcdError) -> dict[str, Any]:
    """A device that could not be taken, as the `ready` message shows it."""
    return {"serial": serial, "pci": function.address, "error": str(error)}


def take(root: str, found: Found, windows: tuple[window.FixedWindow, ...], *, unbind: bool = False) -> Device:
    """The device, ready for use. `unbind` takes it from a kernel driver first.

    Errors: CannotRun (a driver has it; its place in the machine is not supported; no window), AnsweredWrongly
    (its registers are not what they should be), TimedOut (its mailbox does not answer).
    """
    function = found.function
    if found.serial is None:
        raise CannotRun(f"{function.address} has no serial number; give the device one (sn=)")
    driver = pci.bound_driver(function)
    if driver is not None:
        if not unbind:
            raise CannotRun(
                f"{function.address} is driven by {driver}; boot without that module, or start the agent with --unbind"
            )
        pci.unbind(function)
    place, switch = _place(function)
    pci.enable(function)
    mappings: dict[int, mmap.mmap] = {}
    component = _registers(found, pci.COMPONENT_REGISTERS, "component", mappings)
    registers = _registers(found, pci.DEVICE_REGISTERS, "device", mappings)
    capabilities = device_capabilities(registers)
    if STATUS not in capabilities or PRIMARY_MAILBOX not in capabilities:
        raise AnsweredWrongly(f"{function.address} has no status or no mailbox registers, only {sorted(capabilities)}")
    mailbox = Mailbox(registers, capabilities[PRIMARY_MAILBOX].offset)
    identity = IdentifyMemoryDevice.from_bytes(_ask(mailbox, Opcode.IDENTIFY_MEMORY_DEVICE, b""))
    config = read_config(mailbox)
    size = span(identity, config)
    if switch is None:
        chosen = window.choose_window(windows, place.uid, size)
    else:
        chosen = _route(switch, window.shared_window(windows, place.uid, size), size)
    window.program_decoder(component, _decoders(component, function), base=chosen.base, size=size)
    return Device(
        found=found,
        status=registers,
        status_at=capabilities[STATUS].offset,
        mailbox=mailbox,
        identity=identity,
        config=config,
        place=chosen,
        memory=window.Memory(base=chosen.base, size=size, path=f"{root}/dev/mem"),
        mappings=tuple(mappings.values()),
    )


def span(identity: IdentifyMemoryDevice, config: DcConfig) -> int:
    """Bytes from DPA 0 to the end of the last region, rounded up to what a decoder can map."""
    ends = [region.base + region.decode_length_bytes for region in config.regions]
    size = max([identity.total_capacity * CAPACITY_UNIT, *ends])
    return -(-size // window.DECODER_UNIT) * window.DECODER_UNIT


def read_config(mailbox: Mailbox) -> DcConfig:
    """All regions and counts (4800h), in as many commands as it takes. Errors: AnsweredWrongly, TimedOut."""
    regions: list[DcRegion] = []
    while True:
        asked = GetDcConfig(region_count=8, start_region=len(regions)).to_bytes()
        part = DcConfig.from_bytes(_ask(mailbox, Opcode.GET_DC_CONFIG, asked))
        regions += part.regions
        if len(regions) >= part.available_regions or not part.regions:
            break
    if len(regions) != part.available_regions or not 0 < len(regions) <= 8:
        raise AnsweredWrongly(f"4800h shows {len(regions)} regions of {part.available_regions}; 1 to 8 are allowed")
    return DcConfig(
        available_regions=part.available_regions,
        regions=tuple(regions),
        supported_extents=part.supported_extents,
        available_extents=part.available_extents,
        supported_tags=part.supported_tags,
        available_tags=part.available_tags,
    )


def read_extents(mailbox: Mailbox) -> tuple[WireExtent, ...]:
    """What the device holds as accepted (4801h), page by page. Errors: AnsweredWrongly, TimedOut."""
    found: list[WireExtent] = []
    page = ExtentList.most(mailbox.payload_size)
    for _ in range(_MAX_PAGES):
        asked = GetExtentList(count=page, start=len(found)).to_bytes()
        part = ExtentList.from_bytes(_ask(mailbox, Opcode.GET_DC_EXTENT_LIST, asked))
        found += part.extents
        if len(found) >= part.total or not part.extents:
            return tuple(found)
    raise AnsweredWrongly(f"4801h has no end: {len(found)} extents after {_MAX_PAGES} pages")


class Switch(NamedTuple):
    """What lies between root port and device: the upstream port, and the number of the downstream port."""

    upstream: pci.Function
    port: int


def _place(function: pci.Function) -> tuple[pci.HostBridge, Switch | None]:
    """The host bridge above it, and the switch between. Errors: CannotRun for a place with more decoders than these."""
    bridge = pci.host_bridge(function)
    if len(bridge.root_ports) > 1:
        raise CannotRun(
            f"host bridge {bridge.uid} has {len(bridge.root_ports)} root ports; one for each host bridge is supported"
        )
    below = pci.path_below(bridge, function)
    if len(below) == _DIRECT:
        return bridge, None
    if len(below) != _SWITCHED:
        raise CannotRun(
            f"{function.address} lies behind {' '.join(below[:-1])}; "
            "a root port, or a root port and one level of switches, is supported"
        )
    downstream = pci.parent(function)
    return bridge, Switch(pci.parent(downstream), pci.port_number(pci.config_space(downstream)))


def _route(switch: Switch, whole: window.FixedWindow, size: int) -> window.FixedWindow:
    """The device's slice of the window, with the upstream port's decoder leading there.

    The port's own driver (pcieport) stays, and keeps it enabled: it has no business with these registers.
    Errors: as `take`.
    """
    if pci.bound_driver(switch.upstream) is None:
        pci.enable(switch.upstream)
    mappings: dict[int, mmap.mmap] = {}
    component = _registers(look(switch.upstream), pci.COMPONENT_REGISTERS, "component", mappings)
    try:
        at = _decoders(component, switch.upstream)
        route = window.program_route(component, at, window=whole, size=size, port=switch.port)
    finally:
        component.close()
        for mapping in mappings.values():
            mapping.close()
    return whole._replace(base=route.base, size=route.size)


def _decoders(component: Registers, function: pci.Function) -> int:
    """Where the HDM decoder capability is. Errors: AnsweredWrongly."""
    found = component_capabilities(component).get(HDM_DECODER)
    if found is None:
        raise AnsweredWrongly(f"{function.address} has no HDM decoders; nothing can be mapped")
    return found.offset


def _registers(found: Found, kind: int, what: str, mappings: dict[int, mmap.mmap]) -> Mapped:
    """The block of that kind, its BAR mapped once. Errors: CannotRun, AnsweredWrongly."""
    for located in found.located:
        if located.kind == kind:
            if located.bar not in mappings:
                mappings[located.bar] = pci.map_bar(found.function, located.bar)
            return Mapped(mappings[located.bar], offset=located.offset)
    raise AnsweredWrongly(f"{found.function.address}: its Register Locator names no {what} registers")


def _ask(mailbox: Mailbox, opcode: int, payload: bytes) -> bytes:
    """The reply to a command that must succeed. Errors: AnsweredWrongly, TimedOut."""
    reply = mailbox.command(opcode, payload)
    if reply.rc:
        raise AnsweredWrongly(f"{opcode:04x}h gave return code {reply.rc:02x}h", sent=payload)
    return reply.payload
