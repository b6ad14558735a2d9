"""The emulated switch's mailbox: the fabric manager's way to the devices below it, as bytes.

It answers Identify, Identify Switch Device, Get Physical Port State and the tunnel; behind the tunnel each device
answers Identify and 5600h to 5608h by the same model that its host meets. Ports count from 0, one for each device; the
upstream port comes after them. It is there in every topology: the emulator wires nothing up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ..agent.mailbox import Reply
from ..errors import MalformedBytes
from ..model.decide import INVALID_INPUT, INVALID_LENGTH, SUCCESS
from ..wire.dcd import WireExtent
from ..wire.fmapi import (
    FORCED_REMOVAL,
    POLICY_MASK,
    SANITIZE_ON_RELEASE,
    Category,
    CciMessage,
    ComponentType,
    ConnectedDevice,
    DcdInfo,
    DcListTags,
    DcReference,
    DcRegionExtentLists,
    DcTag,
    DcTags,
    FmOpcode,
    GetDcRegionExtentLists,
    GetHostDcRegionConfig,
    GetPhysicalPortState,
    HostDcRegion,
    HostDcRegionConfig,
    Identify,
    IdentifySwitchDevice,
    InitiateDcAdd,
    InitiateDcRelease,
    PhysicalPortState,
    PortConfiguration,
    PortState,
    RemovalPolicy,
    SelectionPolicy,
    SetDcRegionConfig,
    TunnelRequest,
    TunnelResponse,
)
from .device import PAYLOAD_BYTES, UNSUPPORTED, EmulatedDevice

Value = dict[str, Any]

SHARABLE = 1 << 3
"""Attribute of a region in 5601h: its CDAT DSMAS entry says that it can be shared."""
_VENDOR, _SWITCH, _TYPE3 = 0x19E5, 0xA123, 0x0D93
_SWITCH_SERIAL = 0x5117C4
_TUNNEL_HEAD, _COUNT_BYTES = 4, 4
_INVALID_INPUT = Reply(INVALID_INPUT, b"")


_Request = TypeVar("_Request", InitiateDcAdd, InitiateDcRelease)


class Switch:
    """`devices` in the order of their ports."""

    payload_size = PAYLOAD_BYTES

    def __init__(self, devices: Sequence[EmulatedDevice]) -> None:
        self._devices = list(devices)

    def command(self, opcode: int, payload: bytes) -> Reply:
        """A command to the switch's own mailbox. Errors: Died."""
        if opcode == FmOpcode.TUNNEL_MANAGEMENT_COMMAND:
            return self._tunnel(payload)
        if opcode == FmOpcode.GET_PHYSICAL_PORT_STATE:
            return self._ports(payload)
        if opcode not in (FmOpcode.IDENTIFY, FmOpcode.IDENTIFY_SWITCH_DEVICE):
            return Reply(UNSUPPORTED, b"")
        if payload:
            return Reply(INVALID_LENGTH, b"")
        if opcode == FmOpcode.IDENTIFY:
            return Reply(SUCCESS, _identify(_SWITCH, _SWITCH_SERIAL, ComponentType.SWITCH).to_bytes())
        ports = len(self._devices) + 1
        found = IdentifySwitchDevice(
            ingress_port_id=ports - 1,
            physical_port_count=ports,
            vcs_count=1,
            active_ports=((1 << ports) - 1).to_bytes(32, "little"),
            active_vcss=(1).to_bytes(32, "little"),
            vppb_count=ports,
            bound_vppb_count=ports,
            hdm_decoder_count=4,
        )
        return Reply(SUCCESS, found.to_bytes())

    def _ports(self, payload: bytes) -> Reply:
        try:
            asked = GetPhysicalPortState.from_bytes(payload)
        except MalformedBytes:
            return Reply(INVALID_LENGTH, b"")
        upstream = len(self._devices)
        if any(port > upstream for port in asked.ports):
            return _INVALID_INPUT
        found = [
            PortState(port_id=port, configuration_state=PortConfiguration.UPSTREAM)
            if port == upstream
            else PortState(
                port_id=port,
                configuration_state=PortConfiguration.DOWNSTREAM,
                connected_device_mode=2,
                connected_device_type=ConnectedDevice.TYPE_3_SLD,
            )
            for port in asked.ports
        ]
        return Reply(SUCCESS, PhysicalPortState(ports=tuple(found)).to_bytes())

    def _tunnel(self, payload: bytes) -> Reply:
        try:
            asked = TunnelRequest.from_bytes(payload)
        except MalformedBytes:
            return Reply(INVALID_LENGTH, b"")
        if asked.target_type or asked.port >= len(self._devices) or asked.message.category & 0x0F:
            return _INVALID_INPUT
        message = asked.message
        inner = tunneled(self._devices[asked.port], message.opcode, message.payload)
        answer = CciMessage(
            opcode=message.opcode,
            payload=inner.payload,
            category=Category.RESPONSE,
            tag=message.tag,
            return_code=inner.rc,
        )
        return Reply(SUCCESS, TunnelResponse(message=answer).to_bytes())


def tunneled(device: EmulatedDevice, opcode: int, payload: bytes) -> Reply:
    """A fabric manager's command to a device. Errors: Died."""
    run = _COMMANDS.get(opcode)
    if opcode in _OF_REFERENCES and not device.config.limits.references:
        run = None
    if run is None or not device.speaks_fm:
        if opcode == FmOpcode.IDENTIFY and not payload:
            return Reply(SUCCESS, _identify(_TYPE3, device.spec.serial, ComponentType.TYPE_3_DEVICE).to_bytes())
        return Reply(UNSUPPORTED, b"")
    try:
        return run(device, payload)
    except MalformedBytes:
        return Reply(INVALID_LENGTH, b"")


def _identify(kind: int, serial: int, component: ComponentType) -> Identify:
    return Identify(
        vendor_id=_VENDOR if kind == _SWITCH else 0x8086,
        device_id=kind,
        serial_number=serial,
        maximum_message_size=PAYLOAD_BYTES.bit_length() - 1,
        component_type=component,
    )


def _info(device: EmulatedDevice, payload: bytes) -> Reply:
    if payload:
        return Reply(INVALID_LENGTH, b"")
    config = device.config
    regions = config.regions
    blocks = tuple(_block_sizes(device, index) if index < len(regions) else 0 for index in range(8))
    found = DcdInfo(
        host_count=len(config.limits.hosts),
        region_count=len(regions),
        selection_policies=_mask(config.limits.selection or (), SelectionPolicy),
        removal_policies=_mask(config.limits.removal or (), RemovalPolicy),
        total_capacity=sum(region.length for region in regions) // (256 << 20),
        supported_block_sizes=blocks,
        sanitize_configurable=config.limits.sanitize_configurable or 0,
    )
    return Reply(SUCCESS, found.to_bytes())


def _block_sizes(device: EmulatedDevice, index: int) -> int:
    """The powers of two that divide base and length; as QEMU does it, only the one that the region has."""
    region = device.config.regions[index]
    if device.departures:
        return region.block_size
    return sum(1 << n for n in range(6, 29) if not (region.base | region.length) & ((1 << n) - 1))


def _mask(names: Sequence[str] | frozenset[str], kind: type[SelectionPolicy] | type[RemovalPolicy]) -> int:
    return sum(1 << member.value for member in kind if member.name.lower().replace("_", "-") in names)


def _region_config(device: EmulatedDevice, payload: bytes) -> Reply:
    asked = GetHostDcRegionConfig.from_bytes(payload)
    config = device.config
    if asked.host_id not in config.limits.hosts or asked.start_region >= len(config.regions):
        return _INVALID_INPUT
    counts = device.describe_config(host_id=asked.host_id)
    regions = config.regions[asked.start_region : asked.start_region + asked.region_count]
    found = HostDcRegionConfig(
        available_regions=len(config.regions),
        regions=tuple(
            HostDcRegion(
                base=region.base,
                decode_length=region.decode_length // (256 << 20),
                length=region.length,
                block_size=region.block_size,
                attributes=SHARABLE if region.sharable else 0,
                sanitize=region.flags & 1,
            )
            for region in regions
        ),
        supported_extents=counts.supported_extents,
        available_extents=counts.available_extents,
        supported_tags=counts.supported_tags,
        available_tags=counts.available_tags,
        host_id=asked.host_id,
    )
    return Reply(SUCCESS, found.to_bytes())


def _set_region(device: EmulatedDevice, payload: bytes) -> Reply:
    asked = SetDcRegionConfig.from_bytes(payload)
    sent: Value = {"device": device.name, "via": "fm", "region": asked.region}
    sent |= {"block_size": asked.block_size, "sanitize": bool(asked.sanitize)}
    regions = device.config.regions
    size = asked.block_size
    if asked.region < len(regions) and (size & (size - 1) or not size & _block_sizes(device, asked.region)):
        return _INVALID_INPUT
    return Reply(device.order("set_region", sent), b"")


def _extents(device: EmulatedDevice, payload: bytes) -> Reply:
    asked = GetDcRegionExtentLists.from_bytes(payload)
    most = DcRegionExtentLists.most(PAYLOAD_BYTES - CciMessage.layout.size - _TUNNEL_HEAD)
    sent = {"host_id": asked.host_id, "count": min(asked.count, most), "start": asked.start}
    rc, said = device.ask("fm_extents", sent)
    if rc:
        return Reply(rc, b"")
    found = DcRegionExtentLists(
        total=said["total"],
        generation=said["generation"],
        extents=tuple(
            WireExtent(start=one["dpa"], length=one["length"], tag=bytes.fromhex(one["tag"]), sequence=one["sequence"])
            for one in said["extents"]
        ),
        start=asked.start,
        host_id=asked.host_id,
    )
    return Reply(SUCCESS, found.to_bytes())


def _add(device: EmulatedDevice, payload: bytes) -> Reply:
    asked, raw = _read(InitiateDcAdd, payload)
    policy = asked.selection_policy & POLICY_MASK
    names = {member.value: member.name.lower().replace("_", "-") for member in SelectionPolicy}
    sent = {
        **_common(device, asked, names.get(policy, str(policy))),
        "region": asked.region,
        "length": asked.length,
        **raw,
    }
    return Reply(device.order("add", sent), b"")


def _release(device: EmulatedDevice, payload: bytes) -> Reply:
    asked, raw = _read(InitiateDcRelease, payload)
    policy = asked.flags & POLICY_MASK
    names = {member.value: member.name.lower().replace("_", "-") for member in RemovalPolicy}
    sent = {
        **_common(device, asked, names.get(policy, str(policy))),
        "region": 0,
        "forced": bool(asked.flags & FORCED_REMOVAL),
        "sanitize": bool(asked.flags & SANITIZE_ON_RELEASE),
        **raw,
    }
    return Reply(device.order("release", sent), b"")


def _reference(f: str) -> Callable[[EmulatedDevice, bytes], Reply]:
    def run(device: EmulatedDevice, payload: bytes) -> Reply:
        tag = DcReference.from_bytes(payload).tag
        return Reply(device.order(f, {"device": device.name, "via": "fm", "tag": tag.hex()}), b"")

    return run


def _list_tags(device: EmulatedDevice, payload: bytes) -> Reply:
    asked = DcListTags.from_bytes(payload)
    most = DcTags.most(PAYLOAD_BYTES - CciMessage.layout.size - _TUNNEL_HEAD)
    rc, said = device.ask("list_tags", {"via": "fm", "start": asked.start, "count": min(asked.count, most)})
    if rc:
        return Reply(rc, b"")
    tags = tuple(
        DcTag(
            tag=bytes.fromhex(one["tag"]),
            flags=one["flags"],
            references=_bitmap(one["hosts"]),
            pending_references=_bitmap(one["pending_hosts"]),
        )
        for one in said["tags"]
    )
    found = DcTags(generation=said["generation"], total=said["total"], tags=tags, validity_flags=said["validity"])
    return Reply(SUCCESS, found.to_bytes())


def _bitmap(numbers: Sequence[int]) -> bytes:
    return sum(1 << number for number in numbers).to_bytes(32, "little")


def _read(kind: type[_Request], payload: bytes) -> tuple[_Request, Value]:
    """The request, and `raw` with its bytes where they are not whole: then it is what they begin with."""
    try:
        asked = kind.from_bytes(payload)
        return asked, {} if asked.extents else {"raw": payload.hex()}
    except MalformedBytes:
        pass
    size = kind.layout.size
    head, rest = payload[:size].ljust(size, b"\0"), payload[size + _COUNT_BYTES :]
    count = int.from_bytes(payload[size : size + _COUNT_BYTES], "little")
    extent = WireExtent.layout.size
    whole = min(count, len(rest) // extent)
    whole_bytes = head + whole.to_bytes(_COUNT_BYTES, "little") + rest[: whole * extent]
    return kind.from_bytes(whole_bytes), {"raw": payload.hex()}


def _common(device: EmulatedDevice, asked: InitiateDcAdd | InitiateDcRelease, policy: str) -> Value:
    return {
        "device": device.name,
        "via": "fm",
        "host_id": asked.host_id,
        "policy": policy,
        "tag": asked.tag.hex() if any(asked.tag) else None,
        "extents": [
            {"dpa": one.start, "length": one.length, "tag": one.tag.hex(), "sequence": one.sequence}
            for one in asked.extents or ()
        ],
    }


_COMMANDS: Mapping[int, Callable[[EmulatedDevice, bytes], Reply]] = {
    FmOpcode.GET_DCD_INFO: _info,
    FmOpcode.GET_HOST_DC_REGION_CONFIG: _region_config,
    FmOpcode.SET_DC_REGION_CONFIG: _set_region,
    FmOpcode.GET_DC_REGION_EXTENT_LISTS: _extents,
    FmOpcode.INITIATE_DC_ADD: _add,
    FmOpcode.INITIATE_DC_RELEASE: _release,
    FmOpcode.DC_ADD_REFERENCE: _reference("add_reference"),
    FmOpcode.DC_REMOVE_REFERENCE: _reference("remove_reference"),
    FmOpcode.DC_LIST_TAGS: _list_tags,
}
_OF_REFERENCES = frozenset((FmOpcode.DC_ADD_REFERENCE, FmOpcode.DC_REMOVE_REFERENCE, FmOpcode.DC_LIST_TAGS))
"""What a device has only if its command log says so (DEV-21)."""
