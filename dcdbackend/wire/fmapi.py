"""The fabric manager's side of the wire: the CCI message, the tunnel, and commands 51xxh, 53xxh and 56xxh.

A fabric manager reaches a device behind a switch in three layers, each with a length of its own that can lie: the
payload of Tunnel Management Command 5300h, the CCI message in it, and that message's payload. `from_bytes` of a
tunnel reads the first two; what the payload is, `CciMessage.content` says when it is asked.

The guest's agent does not import this: it carries these payloads as bytes, and each class here would cost it 8 ms
under TCG. So they have a `STRUCTURES` of their own, beside `wire.STRUCTURES`. What a manager may ask, and what a
device should answer, is for `rules` and `model` (DEV-8, DEV-13, DEV-18 to DEV-21); here bytes are only read and
written, those that a device must refuse included.

Section and table numbers are those of CXL r3.1. DPAs and lengths are in bytes unless it says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from construct import (
    Array,
    Bytes,
    FixedSized,
    If,
    IfThenElse,
    Int8ul,
    Int16ul,
    Int24ul,
    Int32ul,
    Int64ul,
    Optional,
    Struct,
    this,
)

from ..errors import AskedWrongly
from . import STRUCTURES as MAILBOX_STRUCTURES
from .cci import ReturnCode
from .dcd import EXTENT, REGION_DECODE_UNIT, WireExtent
from .layout import Layout, Structure, check_count, reserved, spread, wrong_size


class FmOpcode(IntEnum):
    """Opcodes that a fabric manager sends (CXL r3.1 8.2.9, tables 8-37 and 8-215)."""

    IDENTIFY = 0x0001
    IDENTIFY_SWITCH_DEVICE = 0x5100
    GET_PHYSICAL_PORT_STATE = 0x5101
    TUNNEL_MANAGEMENT_COMMAND = 0x5300
    GET_DCD_INFO = 0x5600
    GET_HOST_DC_REGION_CONFIG = 0x5601
    SET_DC_REGION_CONFIG = 0x5602
    GET_DC_REGION_EXTENT_LISTS = 0x5603
    INITIATE_DC_ADD = 0x5604
    INITIATE_DC_RELEASE = 0x5605
    DC_ADD_REFERENCE = 0x5606
    DC_REMOVE_REFERENCE = 0x5607
    DC_LIST_TAGS = 0x5608


class Category(IntEnum):
    """Message Category, bits 3:0 of a CCI message's first byte (CXL r3.1 7.6.3, table 7-14)."""

    REQUEST = 0
    RESPONSE = 1


class TargetType(IntEnum):
    """What a tunnel leads to, bits 3:0 (CXL r3.1 7.6.7.3.1, table 7-37)."""

    PORT_OR_LD = 0
    LD_POOL_CCI = 1


class ComponentType(IntEnum):
    """What answered Identify (CXL r3.1 8.2.9.1.1, table 8-38)."""

    SWITCH = 0
    TYPE_3_DEVICE = 3
    GFD = 4


class SelectionPolicy(IntEnum):
    """How the capacity to add is chosen, bits 3:0 (CXL r3.1 7.6.7.6.5, table 7-70; DEV-13)."""

    FREE = 0
    CONTIGUOUS = 1
    PRESCRIPTIVE = 2
    ENABLE_SHARED_ACCESS = 3


class RemovalPolicy(IntEnum):
    """How the capacity to release is chosen, bits 3:0 (CXL r3.1 7.6.7.6.6, table 7-71; DEV-13)."""

    TAG_BASED = 0
    PRESCRIPTIVE = 1


POLICY_MASK = 0x0F
"""The bits of 5604h's policy byte, and of 5605h's flags, that hold the policy."""

FORCED_REMOVAL = 0x10
"""Bit 4 of 5605h's flags: take it without waiting for the host (DEV-12)."""

SANITIZE_ON_RELEASE = 0x20
"""Bit 5 of 5605h's flags: what is released must read as cleared when it is offered again (DEV-14)."""

SANITIZE_REGION = 0x01
"""Bit 0 of `sanitize` in a region's configuration (5601h, 5602h): sanitize whatever is released from it."""

CAPACITY_UNIT = REGION_DECODE_UNIT
"""Bytes that 1 in 5600h's total capacity stands for."""

TUNNEL_OVERHEAD = 16
"""Bytes that the tunnel and the CCI message put before a payload: take them off a mailbox's payload size."""


def members(bitmap: bytes) -> tuple[int, ...]:
    """The numbers whose bits are set: bit 0 of the first byte is 0."""
    return tuple(8 * at + bit for at, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1)


# --- the message and the tunnel ------------------------------------------------------------------------------

_DIRECTIONS: dict[int, str] = {Category.REQUEST: "request", Category.RESPONSE: "response"}
LENGTH_BITS = 21
_LENGTH_MASK = (1 << LENGTH_BITS) - 1
_MESSAGE_HEAD = Struct(
    "category" / Int8ul,
    "tag" / Int8ul,
    "reserved" / Bytes(1),
    "opcode" / Int16ul,
    "length_and_flags" / Int24ul,
    "return_code" / Int16ul,
    "vendor_status" / Int16ul,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CciMessage(Structure):
    """A request or a response between a manager and a component: 12 bytes and its payload.

    CXL r3.1 7.6.3, table 7-14. category: `Category` in bits 3:0. tag: the requester's number, given back in the
    response. payload: as long as the length field says, at most 2**21 - 1 bytes. length_flags: the three bits above
    the length: 4 the operation goes on in the background, 1 and 2 reserved. return_code: as in the mailbox; a
    number that `ReturnCode` does not list stays a number. Requests have 0 in the last two fields.
    """

    declaration = Struct(
        *_MESSAGE_HEAD.subcons, "payload" / Bytes(lambda context: context.length_and_flags & _LENGTH_MASK)
    )
    layout = Layout("CciMessage", _MESSAGE_HEAD)

    opcode: int
    payload: bytes = b""
    category: int = Category.REQUEST
    tag: int = 0
    return_code: int = 0
    vendor_status: int = 0
    length_flags: int = 0
    reserved: bytes = b""

    @property
    def background(self) -> bool:
        """The command goes on after this response."""
        return bool(self.length_flags & 4)

    @property
    def direction(self) -> str:
        """`request`, `response`, or `` for a category that is neither."""
        return _DIRECTIONS.get(self.category & 0x0F, "")

    @classmethod
    def request(cls, opcode: int, content: Structure | None = None, *, tag: int = 0) -> Self:
        """The request of that command. Errors: AskedWrongly for a value that does not fit its field."""
        return cls(opcode=opcode, payload=b"" if content is None else content.to_bytes(), tag=tag)

    def content_type(self) -> type[Structure] | None:
        """What the payload should be; None where it should be empty, or where the command is not known here.

        A response that says that its command failed, or one without a payload, has none to read.
        """
        if self.direction == "response" and (self.return_code != ReturnCode.SUCCESS or not self.payload):
            return None
        key = (self.opcode, self.direction)
        return STRUCTURES.get(key) or MAILBOX_STRUCTURES.get(key)

    def content(self) -> Structure | None:
        """The payload, read; None as `content_type` has it. Errors: MalformedBytes."""
        structure = self.content_type()
        return None if structure is None else structure.from_bytes(self.payload)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return cls._at("CciMessage", data, 0)

    @classmethod
    def _at(cls, outer: str, data: bytes, at: int) -> Self:
        """The message that fills `data` from `at` on; errors are those of the structure that holds it."""
        inside = " for the message in it" if at else ""
        start = at + cls.layout.size
        if len(data) < start:
            raise wrong_size(outer, data, start, inside)
        category, tag, blank, opcode, length, return_code, vendor_status = cls.layout.unpack(data, at)
        size = length & _LENGTH_MASK
        if len(data) != start + size:
            raise wrong_size(outer, data, start + size, f" for the length of {size} in its message")
        return cls(
            opcode=opcode,
            payload=bytes(data[start:]),
            category=category,
            tag=tag,
            return_code=return_code,
            vendor_status=vendor_status,
            length_flags=length >> LENGTH_BITS,
            reserved=reserved(blank),
        )

    def to_bytes(self) -> bytes:
        size = len(self.payload)
        if size > _LENGTH_MASK:
            raise AskedWrongly(f"CciMessage: payload has {size} bytes; give at most {_LENGTH_MASK}")
        if not 0 <= self.length_flags < 8:
            raise AskedWrongly(f"CciMessage: length_flags = {self.length_flags!r}; give 0 to 0x7")
        head = self.layout.pack(
            self.category,
            self.tag,
            self.reserved,
            self.opcode,
            size | self.length_flags << LENGTH_BITS,
            self.return_code,
            self.vendor_status,
        )
        return head + self.payload


_TUNNEL_REQUEST_HEAD = Struct("port" / Int8ul, "target_type" / Int8ul, "size" / Int16ul)


@dataclass(frozen=True, kw_only=True, slots=True)
class TunnelRequest(Structure):
    """Input of Tunnel Management Command, 5300h: 4 bytes and the message (CXL r3.1 7.6.7.3.1, table 7-37).

    port: the switch's port for it, or the LD of an MLD. target_type: `TargetType` in bits 3:0. The size before the
    message is the message's own.
    """

    declaration = Struct(*_TUNNEL_REQUEST_HEAD.subcons, "message" / FixedSized(this.size, CciMessage.declaration))
    layout = Layout("TunnelRequest", _TUNNEL_REQUEST_HEAD)

    message: CciMessage
    port: int = 0
    target_type: int = TargetType.PORT_OR_LD

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head = cls.layout
        if len(data) < head.size:
            raise wrong_size("TunnelRequest", data, head.size)
        port, target_type, size = head.unpack(data)
        _check_tunnel("TunnelRequest", data, head.size + size, size)
        return cls(message=CciMessage._at("TunnelRequest", data, head.size), port=port, target_type=target_type)

    def to_bytes(self) -> bytes:
        message = self.message.to_bytes()
        return self.layout.pack(self.port, self.target_type, len(message)) + message


_TUNNEL_RESPONSE_HEAD = Struct("size" / Int16ul, "reserved" / Bytes(2))


@dataclass(frozen=True, kw_only=True, slots=True)
class TunnelResponse(Structure):
    """Output of Tunnel Management Command, 5300h: 4 bytes and the message (CXL r3.1 7.6.7.3.1, table 7-38).

    The return code of 5300h itself is the mailbox's: that the tunnel was served. The command's own is in the message.
    """

    declaration = Struct(*_TUNNEL_RESPONSE_HEAD.subcons, "message" / FixedSized(this.size, CciMessage.declaration))
    layout = Layout("TunnelResponse", _TUNNEL_RESPONSE_HEAD)

    message: CciMessage
    reserved: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head = cls.layout
        if len(data) < head.size:
            raise wrong_size("TunnelResponse", data, head.size)
        size, blank = head.unpack(data)
        _check_tunnel("TunnelResponse", data, head.size + size, size)
        return cls(message=CciMessage._at("TunnelResponse", data, head.size), reserved=reserved(blank))

    def to_bytes(self) -> bytes:
        message = self.message.to_bytes()
        return self.layout.pack(len(message), self.reserved) + message


def _check_tunnel(structure: str, data: bytes, end: int, size: int) -> None:
    if len(data) != end:
        raise wrong_size(structure, data, end, f" for its message of {size}")


# --- the switch ----------------------------------------------------------------------------------------------

_IDENTIFY = Struct(
    "vendor_id" / Int16ul,
    "device_id" / Int16ul,
    "subsystem_vendor_id" / Int16ul,
    "subsystem_id" / Int16ul,
    "serial_number" / Int64ul,
    "maximum_message_size" / Int8ul,
    "component_type" / Int8ul,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Identify(Structure):
    """Output of Identify, 0001h: 18 bytes (CXL r3.1 8.2.9.1.1, table 8-38).

    maximum_message_size: n for a payload of 2**n bytes. component_type: a `ComponentType`, or another number.
    """

    declaration = _IDENTIFY
    layout = Layout("Identify", _IDENTIFY)

    vendor_id: int
    device_id: int
    serial_number: int
    maximum_message_size: int
    component_type: int
    subsystem_vendor_id: int = 0
    subsystem_id: int = 0

    @property
    def maximum_message_size_bytes(self) -> int:
        return 1 << self.maximum_message_size


_IDENTIFY_SWITCH = Struct(
    "ingress_port_id" / Int8ul,
    "reserved" / Bytes(1),
    "physical_port_count" / Int8ul,
    "vcs_count" / Int8ul,
    "active_ports" / Bytes(32),
    "active_vcss" / Bytes(32),
    "vppb_count" / Int16ul,
    "bound_vppb_count" / Int16ul,
    "hdm_decoder_count" / Int8ul,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class IdentifySwitchDevice(Structure):
    """Output of Identify Switch Device, 5100h: 73 bytes (CXL r3.1 7.6.7.1.1, table 7-16).

    active_ports, active_vcss: bitmaps of 32 bytes; `members` reads them. hdm_decoder_count: of each upstream port.
    """

    declaration = _IDENTIFY_SWITCH
    layout = Layout("IdentifySwitchDevice", _IDENTIFY_SWITCH)

    ingress_port_id: int
    physical_port_count: int
    vcs_count: int
    active_ports: bytes
    active_vcss: bytes
    vppb_count: int
    bound_vppb_count: int
    hdm_decoder_count: int
    reserved: bytes = b""


_PORT_ID = Layout("GetPhysicalPortState", Struct("port_id" / Int8ul))
_GET_PORT_STATE_HEAD = Struct("count" / Int8ul)


@dataclass(frozen=True, kw_only=True, slots=True)
class GetPhysicalPortState(Structure):
    """Input of Get Physical Port State, 5101h: 1 byte, then 1 for each port (CXL r3.1 7.6.7.1.2, table 7-17)."""

    declaration = Struct(*_GET_PORT_STATE_HEAD.subcons, "ports" / Array(this.count, Int8ul))
    layout = Layout("GetPhysicalPortState", _GET_PORT_STATE_HEAD)

    ports: tuple[int, ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head = cls.layout
        if len(data) < head.size:
            raise wrong_size("GetPhysicalPortState", data, head.size)
        (count,) = head.unpack(data)
        check_count("GetPhysicalPortState", data, head.size + count, count)
        return cls(ports=tuple([port for (port,) in _PORT_ID.each(data, head.size, count)]))

    def to_bytes(self) -> bytes:
        return b"".join((self.layout.pack(len(self.ports)), *[_PORT_ID.pack(port) for port in self.ports]))


class PortConfiguration(IntEnum):
    """Current Port Configuration State, bits 3:0 (CXL r3.1 7.6.7.1.2, table 7-19)."""

    DISABLED = 0
    BIND_IN_PROGRESS = 1
    UNBIND_IN_PROGRESS = 2
    DOWNSTREAM = 3
    UPSTREAM = 4
    FABRIC = 5
    INVALID_PORT_ID = 15


class ConnectedDevice(IntEnum):
    """Connected Device Type (CXL r3.1 7.6.7.1.2, table 7-19)."""

    NONE = 0
    PCIE = 1
    TYPE_1 = 2
    TYPE_2_OR_HBR_SWITCH = 3
    TYPE_3_SLD = 4
    TYPE_3_MLD = 5
    PBR_COMPONENT = 6


_PORT = Struct(
    "port_id" / Int8ul,
    "configuration_state" / Int8ul,
    "connected_device_mode" / Int8ul,
    "reserved" / Bytes(1),
    "connected_device_type" / Int8ul,
    "supported_modes" / Int8ul,
    "maximum_link_width" / Int8ul,
    "negotiated_link_width" / Int8ul,
    "supported_link_speeds" / Int8ul,
    "maximum_link_speed" / Int8ul,
    "current_link_speed" / Int8ul,
    "ltssm_state" / Int8ul,
    "first_negotiated_lane" / Int8ul,
    "link_state_flags" / Int16ul,
    "supported_ld_count" / Int8ul,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PortState(Structure):
    """The state of one port of a switch: 16 bytes (CXL r3.1 7.6.7.1.2, table 7-19).

    configuration_state: `PortConfiguration` in bits 3:0. connected_device_mode: bits 3:0. connected_device_type: a
    `ConnectedDevice`, or another number; both of a downstream port only. Widths and speeds as in PCIe's registers.
    link_state_flags: bit 0 lanes reversed, 1 in reset, 2 present, 3 power off.
    """

    declaration = _PORT
    layout = Layout("PortState", _PORT)

    port_id: int
    configuration_state: int
    connected_device_mode: int = 0
    connected_device_type: int = 0
    supported_modes: int = 0
    maximum_link_width: int = 0
    negotiated_link_width: int = 0
    supported_link_speeds: int = 0
    maximum_link_speed: int = 0
    current_link_speed: int = 0
    ltssm_state: int = 0
    first_negotiated_lane: int = 0
    link_state_flags: int = 0
    supported_ld_count: int = 0
    reserved: bytes = b""


_PORT_STATES_HEAD = Struct("count" / Int8ul, "reserved" / Bytes(3))


@dataclass(frozen=True, kw_only=True, slots=True)
class PhysicalPortState(Structure):
    """Output of Get Physical Port State, 5101h: 4 bytes, then 16 for each port (CXL r3.1 7.6.7.1.2, table 7-18)."""

    declaration = Struct(*_PORT_STATES_HEAD.subcons, "ports" / Array(this.count, _PORT))
    layout = Layout("PhysicalPortState", _PORT_STATES_HEAD)

    ports: tuple[PortState, ...]
    reserved: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head, port = cls.layout, PortState.layout
        if len(data) < head.size:
            raise wrong_size("PhysicalPortState", data, head.size)
        count, blank = head.unpack(data)
        size = head.size + count * port.size
        check_count("PhysicalPortState", data, size, count)
        return cls(
            ports=tuple(PortState.from_bytes(data[at : at + port.size]) for at in range(head.size, size, port.size)),
            reserved=reserved(blank),
        )

    def to_bytes(self) -> bytes:
        head = self.layout.pack(len(self.ports), self.reserved)
        return b"".join((head, *(port.to_bytes() for port in self.ports)))


# --- the device's capacity -----------------------------------------------------------------------------------

REGION_SLOTS = 8
_DCD_INFO_HEAD = Struct(
    "host_count" / Int8ul,
    "region_count" / Int8ul,
    "reserved" / Bytes(2),
    "selection_policies" / Int16ul,
    "reserved_2" / Bytes(2),
    "removal_policies" / Int16ul,
    "sanitize_configurable" / Int8ul,
    "reserved_3" / Bytes(1),
    "total_capacity" / Int64ul,
)
_BLOCK_SIZES = Layout("DcdInfo", Struct("supported_block_sizes" / Int64ul))


@dataclass(frozen=True, kw_only=True, slots=True)
class DcdInfo(Structure):
    """Output of Get DCD Info, 5600h: 84 bytes (CXL r3.1 7.6.7.6.1, table 7-63; DEV-13).

    selection_policies, removal_policies: bit n says that policy n is served. sanitize_configurable: bit n says that
    5602h may change region n's sanitize on release. total_capacity: in multiples of 256 MiB, as on the wire.
    supported_block_sizes: always 8, of which the first `region_count` hold; bit n says that 2**n bytes will do.
    """

    declaration = Struct(*_DCD_INFO_HEAD.subcons, "supported_block_sizes" / Array(REGION_SLOTS, Int64ul))
    layout = Layout("DcdInfo", _DCD_INFO_HEAD)

    host_count: int
    region_count: int
    selection_policies: int
    removal_policies: int
    total_capacity: int
    supported_block_sizes: tuple[int, ...]
    sanitize_configurable: int = 0
    reserved: bytes = b""

    @property
    def total_capacity_bytes(self) -> int:
        return self.total_capacity * CAPACITY_UNIT

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head = cls.layout
        size = head.size + REGION_SLOTS * _BLOCK_SIZES.size
        if len(data) != size:
            raise wrong_size("DcdInfo", data, size)
        hosts, regions, blank, selection, blank_2, removal, sanitize, blank_3, capacity = head.unpack(data)
        return cls(
            host_count=hosts,
            region_count=regions,
            selection_policies=selection,
            removal_policies=removal,
            total_capacity=capacity,
            supported_block_sizes=tuple([mask for (mask,) in _BLOCK_SIZES.each(data, head.size, REGION_SLOTS)]),
            sanitize_configurable=sanitize,
            reserved=reserved(blank, blank_2, blank_3),
        )

    def to_bytes(self) -> bytes:
        masks = self.supported_block_sizes
        if len(masks) != REGION_SLOTS:
            raise AskedWrongly(f"DcdInfo: supported_block_sizes has {len(masks)} entries; give {REGION_SLOTS}")
        blank, blank_2, blank_3 = spread("DcdInfo", self.reserved, 2, 2, 1)
        head = self.layout.pack(
            self.host_count,
            self.region_count,
            blank,
            self.selection_policies,
            blank_2,
            self.removal_policies,
            self.sanitize_configurable,
            blank_3,
            self.total_capacity,
        )
        return b"".join((head, *[_BLOCK_SIZES.pack(mask) for mask in masks]))


_GET_HOST_CONFIG = Struct("host_id" / Int16ul, "region_count" / Int8ul, "start_region" / Int8ul)


@dataclass(frozen=True, kw_only=True, slots=True)
class GetHostDcRegionConfig(Structure):
    """Input of Get Host DC Region Configuration, 5601h: 4 bytes (CXL r3.1 7.6.7.6.2, table 7-64)."""

    declaration = _GET_HOST_CONFIG
    layout = Layout("GetHostDcRegionConfig", _GET_HOST_CONFIG)

    host_id: int = 0
    region_count: int = 8
    start_region: int = 0


_HOST_REGION = Struct(
    "base" / Int64ul,
    "decode_length" / Int64ul,
    "length" / Int64ul,
    "block_size" / Int64ul,
    "attributes" / Int8ul,
    "reserved" / Bytes(3),
    "sanitize" / Int8ul,
    "reserved_2" / Bytes(3),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HostDcRegion(Structure):
    """Configuration of one DC region, as the manager sees it: 40 bytes (CXL r3.1 7.6.7.6.2, table 7-66).

    As `DcRegion`, but for its last 8 bytes: attributes are the region's DSMAS flags (bit 2 non-volatile, 3 sharable,
    4 coherency by hardware, 5 interconnect-specific management, 6 read-only), sanitize has `SANITIZE_REGION`.
    """

    declaration = _HOST_REGION
    layout = Layout("HostDcRegion", _HOST_REGION)

    base: int
    decode_length: int
    length: int
    block_size: int
    attributes: int = 0
    sanitize: int = 0
    reserved: bytes = b""

    @property
    def decode_length_bytes(self) -> int:
        return self.decode_length * REGION_DECODE_UNIT

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        if len(data) != cls.layout.size:
            raise wrong_size("HostDcRegion", data, cls.layout.size)
        base, decode_length, length, block_size, attributes, blank, sanitize, blank_2 = cls.layout.unpack(data)
        return cls(
            base=base,
            decode_length=decode_length,
            length=length,
            block_size=block_size,
            attributes=attributes,
            sanitize=sanitize,
            reserved=reserved(blank, blank_2),
        )

    def to_bytes(self) -> bytes:
        blank, blank_2 = spread("HostDcRegion", self.reserved, 3, 3)
        return self.layout.pack(
            self.base,
            self.decode_length,
            self.length,
            self.block_size,
            self.attributes,
            blank,
            self.sanitize,
            blank_2,
        )


_HOST_CONFIG_HEAD = Struct("host_id" / Int16ul, "available_regions" / Int8ul, "region_count" / Int8ul)
_HOST_CONFIG_TAIL = Struct(
    "supported_extents" / Int32ul,
    "available_extents" / Int32ul,
    "supported_tags" / Int32ul,
    "available_tags" / Int32ul,
)
_TAIL = Layout("HostDcRegionConfig", _HOST_CONFIG_TAIL)


@dataclass(frozen=True, kw_only=True, slots=True)
class HostDcRegionConfig(Structure):
    """Output of Get Host DC Region Configuration, 5601h (CXL r3.1 7.6.7.6.2, table 7-65; DEV-19).

    4 bytes, 40 for each region returned, then the four counts. `available_regions` is how many the device has.
    """

    declaration = Struct(
        *_HOST_CONFIG_HEAD.subcons,
        "regions" / Array(this.region_count, _HOST_REGION),
        *_HOST_CONFIG_TAIL.subcons,
    )
    layout = Layout("HostDcRegionConfig", _HOST_CONFIG_HEAD)

    available_regions: int
    regions: tuple[HostDcRegion, ...]
    supported_extents: int
    available_extents: int
    supported_tags: int
    available_tags: int
    host_id: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head, region = cls.layout, HostDcRegion.layout
        if len(data) < head.size:
            raise wrong_size("HostDcRegionConfig", data, head.size + _TAIL.size)
        host_id, available, count = head.unpack(data)
        tail = head.size + count * region.size
        check_count("HostDcRegionConfig", data, tail + _TAIL.size, count)
        extents, extents_left, tags, tags_left = _TAIL.unpack(data, tail)
        return cls(
            available_regions=available,
            regions=tuple(
                HostDcRegion.from_bytes(data[at : at + region.size]) for at in range(head.size, tail, region.size)
            ),
            supported_extents=extents,
            available_extents=extents_left,
            supported_tags=tags,
            available_tags=tags_left,
            host_id=host_id,
        )

    def to_bytes(self) -> bytes:
        head = self.layout.pack(self.host_id, self.available_regions, len(self.regions))
        tail = _TAIL.pack(self.supported_extents, self.available_extents, self.supported_tags, self.available_tags)
        return b"".join((head, *(region.to_bytes() for region in self.regions), tail))


_SET_CONFIG = Struct(
    "region" / Int8ul,
    "reserved" / Bytes(3),
    "block_size" / Int64ul,
    "sanitize" / Int8ul,
    "reserved_2" / Bytes(3),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SetDcRegionConfig(Structure):
    """Input of Set DC Region Configuration, 5602h, and its output: 16 bytes (CXL r3.1 7.6.7.6.3, table 7-67; DEV-18).

    The table's title names the response too; a device that answers without a payload (QEMU does) is no surprise.
    """

    declaration = _SET_CONFIG
    layout = Layout("SetDcRegionConfig", _SET_CONFIG)

    region: int
    block_size: int
    sanitize: int = 0
    reserved: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        if len(data) != cls.layout.size:
            raise wrong_size("SetDcRegionConfig", data, cls.layout.size)
        region, blank, block_size, sanitize, blank_2 = cls.layout.unpack(data)
        return cls(region=region, block_size=block_size, sanitize=sanitize, reserved=reserved(blank, blank_2))

    def to_bytes(self) -> bytes:
        blank, blank_2 = spread("SetDcRegionConfig", self.reserved, 3, 3)
        return self.layout.pack(self.region, blank, self.block_size, self.sanitize, blank_2)


_GET_LISTS = Struct("host_id" / Int16ul, "reserved" / Bytes(2), "count" / Int32ul, "start" / Int32ul)


@dataclass(frozen=True, kw_only=True, slots=True)
class GetDcRegionExtentLists(Structure):
    """Input of Get DC Region Extent Lists, 5603h: 12 bytes (CXL r3.1 7.6.7.6.4, table 7-68).

    count: the most extents wanted; 0 asks for the total and the generation alone. start: index of the first one.
    """

    declaration = _GET_LISTS
    layout = Layout("GetDcRegionExtentLists", _GET_LISTS)

    count: int
    start: int = 0
    host_id: int = 0
    reserved: bytes = b""


_LISTS_HEAD = Struct(
    "host_id" / Int16ul,
    "reserved" / Bytes(2),
    "start" / Int32ul,
    "returned" / Int32ul,
    "total" / Int32ul,
    "generation" / Int32ul,
    "reserved_2" / Bytes(4),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DcRegionExtentLists(Structure):
    """Output of Get DC Region Extent Lists, 5603h (CXL r3.1 7.6.7.6.4, table 7-69; DEV-10).

    24 bytes, then 40 for each extent: 50 fit a tunnel through a mailbox of 2048 bytes. start: index of the first
    one. total, generation: as in `ExtentList`.
    """

    declaration = Struct(*_LISTS_HEAD.subcons, "extents" / Array(this.returned, EXTENT))
    layout = Layout("DcRegionExtentLists", _LISTS_HEAD)

    total: int
    generation: int
    extents: tuple[WireExtent, ...]
    start: int = 0
    host_id: int = 0
    reserved: bytes = b""

    @property
    def returned(self) -> int:
        return len(self.extents)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head = cls.layout
        if len(data) < head.size:
            raise wrong_size("DcRegionExtentLists", data, head.size)
        host_id, blank, start, returned, total, generation, blank_2 = head.unpack(data)
        check_count("DcRegionExtentLists", data, head.size + returned * WireExtent.layout.size, returned)
        return cls(
            total=total,
            generation=generation,
            extents=_extents(data, head.size, returned),
            start=start,
            host_id=host_id,
            reserved=reserved(blank, blank_2),
        )

    def to_bytes(self) -> bytes:
        blank, blank_2 = spread("DcRegionExtentLists", self.reserved, 2, 4)
        head = self.layout.pack(
            self.host_id, blank, self.start, len(self.extents), self.total, self.generation, blank_2
        )
        return b"".join((head, *(extent.to_bytes() for extent in self.extents)))

    @staticmethod
    def most(payload_size_bytes: int) -> int:
        """How many extents fit a payload of that size: a mailbox's, less TUNNEL_OVERHEAD (DEV-10)."""
        return max(0, payload_size_bytes - DcRegionExtentLists.layout.size) // WireExtent.layout.size


def _extents(data: bytes, at: int, count: int) -> tuple[WireExtent, ...]:
    return tuple(
        WireExtent(start=start, length=length, tag=tag, sequence=sequence, reserved=reserved(rest))
        for start, length, tag, sequence, rest in WireExtent.layout.each(data, at, count)
    )


# --- what the manager asks of it -----------------------------------------------------------------------------

_COUNT = Layout("InitiateDcAdd", Struct("count" / Int32ul))


def _listed(policy: str, prescriptive: int) -> tuple[object, object]:
    """The count and the extents: there when the policy is prescriptive, else only when bytes are."""
    names_its_extents = this[policy] & POLICY_MASK == prescriptive
    return (
        "count" / IfThenElse(names_its_extents, Int32ul, Optional(Int32ul)),
        "extents" / If(lambda context: context.count is not None, Array(this.count, EXTENT)),
    )


def _read_listed(structure: str, data: bytes, at: int, prescriptive: bool) -> tuple[WireExtent, ...] | None:
    """The extents of a request whose fixed part ends at `at`; None when it has no list."""
    if len(data) == at and not prescriptive:
        return None
    start = at + _COUNT.size
    if len(data) < start:
        raise wrong_size(structure, data, start, " with its count of extents")
    (count,) = _COUNT.unpack(data, at)
    check_count(structure, data, start + count * WireExtent.layout.size, count)
    return _extents(data, start, count)


def _write_listed(structure: str, extents: tuple[WireExtent, ...] | None, prescriptive: bool) -> bytes:
    if extents is None:
        if prescriptive:
            raise AskedWrongly(f"{structure}: the prescriptive policy has a list of extents; give it, or () for none")
        return b""
    return b"".join((_COUNT.pack(len(extents)), *(extent.to_bytes() for extent in extents)))


_ADD_HEAD = Struct(
    "host_id" / Int16ul,
    "selection_policy" / Int8ul,
    "region" / Int8ul,
    "length" / Int64ul,
    "tag" / Bytes(16),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class InitiateDcAdd(Structure):
    """Input of Initiate Dynamic Capacity Add, 5604h (CXL r3.1 7.6.7.6.5, table 7-70; DEV-13).

    28 bytes; then, for the prescriptive policy, a count and 40 bytes for each extent: 50 fit a tunnel through a
    mailbox of 2048 bytes. selection_policy: a `SelectionPolicy` in bits 3:0. region, length and tag are reserved
    when the policy is prescriptive: each extent has its own, its start an absolute DPA. extents: None when the
    request has no list; managers send one with the other policies too, and devices let them.
    """

    declaration = Struct(*_ADD_HEAD.subcons, *_listed("selection_policy", SelectionPolicy.PRESCRIPTIVE))
    layout = Layout("InitiateDcAdd", _ADD_HEAD)

    extents: tuple[WireExtent, ...] | None
    selection_policy: int = SelectionPolicy.PRESCRIPTIVE
    host_id: int = 0
    region: int = 0
    length: int = 0
    tag: bytes = bytes(16)

    @property
    def prescriptive(self) -> bool:
        return self.selection_policy & POLICY_MASK == SelectionPolicy.PRESCRIPTIVE

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head = cls.layout
        if len(data) < head.size:
            raise wrong_size("InitiateDcAdd", data, head.size)
        host_id, policy, region, length, tag = head.unpack(data)
        prescriptive = policy & POLICY_MASK == SelectionPolicy.PRESCRIPTIVE
        return cls(
            extents=_read_listed("InitiateDcAdd", data, head.size, prescriptive),
            selection_policy=policy,
            host_id=host_id,
            region=region,
            length=length,
            tag=tag,
        )

    def to_bytes(self) -> bytes:
        head = self.layout.pack(self.host_id, self.selection_policy, self.region, self.length, self.tag)
        return head + _write_listed("InitiateDcAdd", self.extents, self.prescriptive)

    @staticmethod
    def most(payload_size_bytes: int) -> int:
        """How many extents fit a payload of that size: a mailbox's, less TUNNEL_OVERHEAD."""
        return max(0, payload_size_bytes - InitiateDcAdd.layout.size - _COUNT.size) // WireExtent.layout.size


_RELEASE_HEAD = Struct(
    "host_id" / Int16ul,
    "flags" / Int8ul,
    "reserved" / Bytes(1),
    "length" / Int64ul,
    "tag" / Bytes(16),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class InitiateDcRelease(Structure):
    """Input of Initiate Dynamic Capacity Release, 5605h (CXL r3.1 7.6.7.6.6, table 7-71; DEV-11 to DEV-14).

    As `InitiateDcAdd`, but for the flags: a `RemovalPolicy` in bits 3:0, FORCED_REMOVAL, SANITIZE_ON_RELEASE. length
    and tag are reserved when the policy is prescriptive.
    """

    declaration = Struct(*_RELEASE_HEAD.subcons, *_listed("flags", RemovalPolicy.PRESCRIPTIVE))
    layout = Layout("InitiateDcRelease", _RELEASE_HEAD)

    extents: tuple[WireExtent, ...] | None
    flags: int = RemovalPolicy.PRESCRIPTIVE
    host_id: int = 0
    length: int = 0
    tag: bytes = bytes(16)
    reserved: bytes = b""

    @property
    def prescriptive(self) -> bool:
        return self.flags & POLICY_MASK == RemovalPolicy.PRESCRIPTIVE

    @property
    def forced(self) -> bool:
        return bool(self.flags & FORCED_REMOVAL)

    @property
    def sanitize(self) -> bool:
        return bool(self.flags & SANITIZE_ON_RELEASE)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head = cls.layout
        if len(data) < head.size:
            raise wrong_size("InitiateDcRelease", data, head.size)
        host_id, flags, blank, length, tag = head.unpack(data)
        prescriptive = flags & POLICY_MASK == RemovalPolicy.PRESCRIPTIVE
        return cls(
            extents=_read_listed("InitiateDcRelease", data, head.size, prescriptive),
            flags=flags,
            host_id=host_id,
            length=length,
            tag=tag,
            reserved=reserved(blank),
        )

    def to_bytes(self) -> bytes:
        head = self.layout.pack(self.host_id, self.flags, self.reserved, self.length, self.tag)
        return head + _write_listed("InitiateDcRelease", self.extents, self.prescriptive)

    @staticmethod
    def most(payload_size_bytes: int) -> int:
        """How many extents fit a payload of that size: a mailbox's, less TUNNEL_OVERHEAD."""
        return InitiateDcAdd.most(payload_size_bytes)


# --- tags that are kept --------------------------------------------------------------------------------------

_REFERENCE = Struct("tag" / Bytes(16))


@dataclass(frozen=True, kw_only=True, slots=True)
class DcReference(Structure):
    """Input of Dynamic Capacity Add Reference, 5606h, and Remove Reference, 5607h: 16 bytes, one format.

    CXL r3.1 7.6.7.6.7, table 7-72; 7.6.7.6.8, table 7-73 (DEV-21).
    """

    declaration = _REFERENCE
    layout = Layout("DcReference", _REFERENCE)

    tag: bytes


_LIST_TAGS = Struct("start" / Int32ul, "count" / Int32ul)


@dataclass(frozen=True, kw_only=True, slots=True)
class DcListTags(Structure):
    """Input of Dynamic Capacity List Tags, 5608h: 8 bytes (CXL r3.1 7.6.7.6.9, table 7-74; DEV-21).

    start: index of the first tag. count: the most tags wanted. In 4801h and 5603h they stand the other way round.
    """

    declaration = _LIST_TAGS
    layout = Layout("DcListTags", _LIST_TAGS)

    count: int
    start: int = 0


_TAG = Struct(
    "tag" / Bytes(16),
    "flags" / Int8ul,
    "reserved" / Bytes(3),
    "references" / Bytes(32),
    "pending_references" / Bytes(32),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DcTag(Structure):
    """What the device knows of one tag: 84 bytes (CXL r3.1 7.6.7.6.9, table 7-76; DEV-21).

    flags: bit 0 the manager holds a reference. references: bitmap of the LDs that have accepted its capacity;
    pending_references: of those that have been offered it and have not answered. `members` reads them.
    """

    declaration = _TAG
    layout = Layout("DcTag", _TAG)

    tag: bytes
    flags: int = 0
    references: bytes = bytes(32)
    pending_references: bytes = bytes(32)
    reserved: bytes = b""


_TAGS_HEAD = Struct(
    "generation" / Int32ul,
    "total" / Int32ul,
    "returned" / Int32ul,
    "validity_flags" / Int8ul,
    "reserved" / Bytes(3),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DcTags(Structure):
    """Output of Dynamic Capacity List Tags, 5608h: 16 bytes, then 84 for each tag.

    CXL r3.1 7.6.7.6.9, table 7-75 (DEV-21). validity_flags: bit 0 the references hold, bit 1 the pending ones do.
    """

    declaration = Struct(*_TAGS_HEAD.subcons, "tags" / Array(this.returned, _TAG))
    layout = Layout("DcTags", _TAGS_HEAD)

    generation: int
    total: int
    tags: tuple[DcTag, ...]
    validity_flags: int = 3
    reserved: bytes = b""

    @property
    def returned(self) -> int:
        return len(self.tags)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head, tag = cls.layout, DcTag.layout
        if len(data) < head.size:
            raise wrong_size("DcTags", data, head.size)
        generation, total, returned, validity_flags, blank = head.unpack(data)
        size = head.size + returned * tag.size
        check_count("DcTags", data, size, returned)
        return cls(
            generation=generation,
            total=total,
            tags=tuple(DcTag.from_bytes(data[at : at + tag.size]) for at in range(head.size, size, tag.size)),
            validity_flags=validity_flags,
            reserved=reserved(blank),
        )

    def to_bytes(self) -> bytes:
        head = self.layout.pack(self.generation, self.total, len(self.tags), self.validity_flags, self.reserved)
        return b"".join((head, *(tag.to_bytes() for tag in self.tags)))

    @staticmethod
    def most(payload_size_bytes: int) -> int:
        """How many tags fit a payload of that size: a mailbox's, less TUNNEL_OVERHEAD."""
        return max(0, payload_size_bytes - DcTags.layout.size) // DcTag.layout.size


STRUCTURES: dict[tuple[int, str], type[Structure]] = {
    (0x0001, "response"): Identify,
    (0x5100, "response"): IdentifySwitchDevice,
    (0x5101, "request"): GetPhysicalPortState,
    (0x5101, "response"): PhysicalPortState,
    (0x5300, "request"): TunnelRequest,
    (0x5300, "response"): TunnelResponse,
    (0x5600, "response"): DcdInfo,
    (0x5601, "request"): GetHostDcRegionConfig,
    (0x5601, "response"): HostDcRegionConfig,
    (0x5602, "request"): SetDcRegionConfig,
    (0x5602, "response"): SetDcRegionConfig,
    (0x5603, "request"): GetDcRegionExtentLists,
    (0x5603, "response"): DcRegionExtentLists,
    (0x5604, "request"): InitiateDcAdd,
    (0x5605, "request"): InitiateDcRelease,
    (0x5606, "request"): DcReference,
    (0x5607, "request"): DcReference,
    (0x5608, "request"): DcListTags,
    (0x5608, "response"): DcTags,
}
"""The class by opcode and direction, as `wire.STRUCTURES` has it for what a host sends."""
