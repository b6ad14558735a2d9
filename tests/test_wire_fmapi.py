"""The fabric manager's bytes: captured tunnels, the specification's tables, and bytes that lie."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from typing import Any

import pytest
from golden import (
    VECTORS,
    Vector,
    assert_counted,
    assert_ends_alike,
    assert_frozen,
    assert_golden,
    assert_layout,
    damaged,
    extent,
    flat,
    is_plain,
    laid_out,
    moved,
    name_of,
    survivors,
    vectors,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from dcdbackend import wire
from dcdbackend.errors import AskedWrongly, MalformedBytes
from dcdbackend.wire import ReturnCode, Structure, WireExtent, fmapi
from dcdbackend.wire.fmapi import (
    FORCED_REMOVAL,
    SANITIZE_ON_RELEASE,
    STRUCTURES,
    TUNNEL_OVERHEAD,
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
    TargetType,
    TunnelRequest,
    TunnelResponse,
    members,
)

MIB = 1 << 20
calm = settings(deadline=None)  # other work on the machine is no fault of the code
GIB = 1 << 30
TAG = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")  # of the captured tagged chain
REFUSED_TAG = bytes.fromhex("deadbeefcafe4bad8f00d00dfeedface")  # of the captured requests that are refused
TUNNELED = vectors("switch CCI, tunneled to port 0")


# --- what the captured exchanges say -------------------------------------------------------------------------


def add(*extents: WireExtent, length: int, tag: bytes = bytes(16), policy: int = 2) -> InitiateDcAdd:
    """As the capturing manager sent it: the length of all, and the tag, also where they are reserved."""
    return InitiateDcAdd(host_id=0, selection_policy=policy, region=0, length=length, tag=tag, extents=extents)


def region(index: int) -> HostDcRegion:
    return HostDcRegion(base=index * GIB, decode_length=4, length=GIB, block_size=2 * MIB, attributes=0, sanitize=0)


def page(*extents: WireExtent, start: int = 0) -> DcRegionExtentLists:
    return DcRegionExtentLists(host_id=0, start=start, total=3, generation=0, extents=extents)


ACCEPTED = (extent(0, 2 * MIB), extent(16 * MIB, 4 * MIB), extent(32 * MIB, 6 * MIB))

# Vector name: (content of the request, return code, content of the response). None: the message has no payload.
CAPTURED: dict[str, tuple[Structure | None, int, Structure | None]] = {
    "get dcd info": (
        None,
        0,
        DcdInfo(
            host_count=1,
            region_count=2,
            selection_policies=1 << SelectionPolicy.PRESCRIPTIVE,
            removal_policies=1 << RemovalPolicy.PRESCRIPTIVE,
            sanitize_configurable=0,
            total_capacity=8,
            supported_block_sizes=(2 * MIB, 2 * MIB, 0, 0, 0, 0, 0, 0),
        ),
    ),
    "get host dc region config": (
        GetHostDcRegionConfig(host_id=0, region_count=8, start_region=0),
        0,
        HostDcRegionConfig(
            host_id=0,
            available_regions=2,
            regions=(region(0), region(1)),
            supported_extents=512,
            available_extents=512,
            supported_tags=0,
            available_tags=0,
        ),
    ),
    "add one untagged extent, region 0": (add(extent(0, 2 * MIB), length=2 * MIB), 0, None),
    "add three tagged extents in one chain, sequence 0 1 2": (
        add(
            extent(16 * MIB, 4 * MIB, tag=TAG, sequence=0),
            extent(8 * MIB, 2 * MIB, tag=TAG, sequence=1),
            extent(32 * MIB, 6 * MIB, tag=TAG, sequence=2),
            length=12 * MIB,
            tag=TAG,
        ),
        0,
        None,
    ),
    "extent list as the fabric manager sees it": (
        GetDcRegionExtentLists(host_id=0, count=512, start=0),
        0,
        page(*ACCEPTED),
    ),
    "extent list, second page": (
        GetDcRegionExtentLists(host_id=0, count=1, start=2),
        0,
        page(ACCEPTED[2], start=2),
    ),
    "add overlapping an accepted extent": (
        add(extent(16 * MIB, 2 * MIB, tag=REFUSED_TAG), length=2 * MIB, tag=REFUSED_TAG),
        ReturnCode.INVALID_EXTENT_LIST,
        None,
    ),
    "add, unaligned start": (
        add(extent(MIB, 2 * MIB, tag=REFUSED_TAG), length=2 * MIB, tag=REFUSED_TAG),
        ReturnCode.INVALID_EXTENT_LIST,
        None,
    ),
    "add, outside every region": (
        add(extent(4 * GIB, 2 * MIB, tag=REFUSED_TAG), length=2 * MIB, tag=REFUSED_TAG),
        ReturnCode.INVALID_PHYSICAL_ADDRESS,
        None,
    ),
    "add, policy free": (
        add(
            extent(64 * MIB, 2 * MIB, tag=REFUSED_TAG),
            length=2 * MIB,
            tag=REFUSED_TAG,
            policy=SelectionPolicy.FREE,
        ),
        ReturnCode.INVALID_INPUT,
        None,
    ),
    "ask for a release, part of an extent": (
        InitiateDcRelease(
            host_id=0,
            flags=RemovalPolicy.PRESCRIPTIVE,
            length=2 * MIB,
            tag=TAG,
            extents=(extent(32 * MIB, 2 * MIB, tag=TAG, sequence=2),),
        ),
        0,
        None,
    ),
    "set region config, same block size": (SetDcRegionConfig(region=1, block_size=2 * MIB, sanitize=0), 0, None),
    "set region config, unsupported block size": (
        SetDcRegionConfig(region=1, block_size=3 * MIB, sanitize=0),
        ReturnCode.INVALID_INPUT,
        None,
    ),
}


def test_every_captured_tunnel_is_looked_at() -> None:
    assert set(CAPTURED) == set(TUNNELED)
    assert all(isinstance(vector, Vector) for vector in TUNNELED.values())
    assert len(TUNNELED) == 13


@pytest.mark.parametrize("name", CAPTURED)
def test_captured(name: str) -> None:
    """DEV-8, DEV-10, DEV-13, DEV-18, DEV-19: a manager and a device, field by field, through all three layers."""
    vector = TUNNELED[name]
    asked, return_code, answered = CAPTURED[name]
    assert vector.return_code == ReturnCode.SUCCESS, "the tunnel's own"

    request = CciMessage.request(vector.opcode, asked, tag=0x5A)
    assert_golden(
        TunnelRequest,
        vector.request,
        TunnelRequest(port=0, target_type=TargetType.PORT_OR_LD, message=request),
        len(vector.request),
    )
    assert_golden(CciMessage, vector.request[4:], request, len(vector.request) - 4)
    assert (request.direction, request.category) == ("request", Category.REQUEST)

    response = CciMessage(
        opcode=vector.opcode,
        payload=b"" if answered is None else answered.to_bytes(),
        category=Category.RESPONSE,
        tag=0x5A,
        return_code=return_code,
    )
    assert_golden(TunnelResponse, vector.response, TunnelResponse(message=response), len(vector.response))
    assert_golden(CciMessage, vector.response[4:], response, len(vector.response) - 4)
    assert (response.direction, response.background) == ("response", False)

    for content, message, way, data in (
        (asked, request, "request", vector.request),
        (answered, response, "response", vector.response),
    ):
        assert message.content() == content
        if content is None:
            continue
        assert type(content) is STRUCTURES[vector.opcode, way]
        assert content.to_bytes() == data[TUNNEL_OVERHEAD:]
        if getattr(content, "prescriptive", True):  # without that policy the list may be missing, and 28 bytes will do
            assert_golden(type(content), data[TUNNEL_OVERHEAD:], content, len(data) - TUNNEL_OVERHEAD)


def test_offsets_of_a_captured_add_by_hand() -> None:
    """DEV-4, DEV-13: the three layers end where the bytes say, read without our own parser."""
    data = TUNNELED["add three tagged extents in one chain, sequence 0 1 2"].request
    assert int.from_bytes(data[2:4], "little") == len(data) - 4
    assert int.from_bytes(data[9:12], "little") == len(data) - 16
    assert int.from_bytes(data[0x2C:0x30], "little") == 3
    tunnel = TunnelRequest.from_bytes(data)
    content = tunnel.message.content()
    assert isinstance(content, InitiateDcAdd) and content.extents is not None
    assert [one.sequence for one in content.extents] == [0, 1, 2]
    assert [one.to_bytes() for one in content.extents] == [data[at : at + 40] for at in (0x30, 0x58, 0x80)]


# --- what the switch says, and what it refuses ---------------------------------------------------------------

SWITCH = {
    one["name"]: Vector(
        name=one["name"],
        via=one["via"],
        opcode=int(one["opcode"].removesuffix("h"), 16),
        request=bytes.fromhex(one["request"]),
        return_code=one["return_code"],
        response=bytes.fromhex(one["response"]),
    )
    for one in json.loads((VECTORS.parent / "qemu-11.1.3-switch.json").read_text())["vectors"]
}


def port(port_id: int, *, device: int, mode: int, width: int, speed: int) -> PortState:
    """As QEMU 11.1.3 fills one: every port is in reset and in L2, whatever it is (departures)."""
    return PortState(
        port_id=port_id,
        configuration_state=PortConfiguration.DOWNSTREAM,
        connected_device_mode=mode,
        connected_device_type=device,
        supported_modes=6,
        maximum_link_width=16,
        negotiated_link_width=width,
        supported_link_speeds=0x3F,
        maximum_link_speed=6,
        current_link_speed=speed,
        ltssm_state=7,
        first_negotiated_lane=0,
        link_state_flags=2,
        supported_ld_count=3,
    )


PORT_0 = port(0, device=ConnectedDevice.TYPE_3_MLD, mode=2, width=16, speed=5)
PORT_1 = port(1, device=ConnectedDevice.NONE, mode=0, width=16, speed=6)

# Vector name: (request, response) of the switch itself.
ASKED_OF_THE_SWITCH: dict[str, tuple[Structure | None, Structure | None]] = {
    "identify, the switch": (
        None,
        Identify(
            vendor_id=0x19E5,
            device_id=0xA128,
            subsystem_vendor_id=0,
            subsystem_id=0,
            serial_number=0xFFFFFFFFFFFFFFFF,
            maximum_message_size=11,
            component_type=ComponentType.SWITCH,
        ),
    ),
    "identify switch device": (
        None,
        IdentifySwitchDevice(
            ingress_port_id=0,
            physical_port_count=3,
            vcs_count=1,
            active_ports=b"\x03" + bytes(31),
            active_vcss=b"\x01" + bytes(31),
            vppb_count=3,
            bound_vppb_count=3,
            hdm_decoder_count=4,
        ),
    ),
    "port state of 0 and 1": (GetPhysicalPortState(ports=(0, 1)), PhysicalPortState(ports=(PORT_0, PORT_1))),
    "port state of the port number that two ports have": (
        GetPhysicalPortState(ports=(0,)),
        PhysicalPortState(ports=(PORT_0,)),
    ),
    "port state of no port": (GetPhysicalPortState(ports=()), PhysicalPortState(ports=())),
    "port state of a port that is not there": (GetPhysicalPortState(ports=(9,)), None),
}

# Vector name: (what our own parser says of the request, or nothing; the tunnel's code; the message's, if it came).
ASKED_THROUGH_A_TUNNEL: dict[str, tuple[str, int, int | None]] = {
    "tunneled identify": ("", 0, 0),
    "tunneled identify memory device": ("", 0, ReturnCode.UNSUPPORTED),
    "tunnel to an empty port": ("", ReturnCode.INVALID_INPUT, None),
    "tunnel to a port that is not there": ("", ReturnCode.INVALID_INPUT, None),
    "tunnel, target type 1": ("", ReturnCode.INVALID_INPUT, None),
    "tunnel, size too large": ("takes 17 bytes for its message of 13", ReturnCode.INVALID_PAYLOAD_LENGTH, None),
    "tunnel, size too small": ("takes 15 bytes for its message of 11", ReturnCode.INVALID_PAYLOAD_LENGTH, None),
    "tunnel of a response": ("", ReturnCode.INVALID_INPUT, None),
    "tunnel, short": ("takes 8 bytes for its message of 4", ReturnCode.INVALID_PAYLOAD_LENGTH, None),
    "tunnel, message length larger": ("for the length of 5 in its message", 0, ReturnCode.INVALID_PAYLOAD_LENGTH),
    "tunnel, message length with background bit": ("", 0, ReturnCode.INVALID_PAYLOAD_LENGTH),
    "tunneled unknown opcode": ("", 0, ReturnCode.UNSUPPORTED),
    "tunneled 5606h": ("", 0, ReturnCode.UNSUPPORTED),
    "tunneled 5608h": ("", 0, ReturnCode.UNSUPPORTED),
    "region config of none": ("", 0, 0),
    "region config of host 7": ("", 0, 0),
    "set region config, 1 MiB": ("", 0, ReturnCode.INVALID_INPUT),
    "add free, without a list": ("", 0, ReturnCode.INVALID_INPUT),
    "extents of host 1": ("", 0, ReturnCode.INVALID_INPUT),
    "release prescriptive, count 0": ("", 0, 0),
    "add an extent of length 0": ("", 0, 0),
}
REFUSED_PORT_STATES = {"port state, empty payload": 22, "port state, count larger than the list": 2}


def test_every_exchange_with_the_switch_is_looked_at() -> None:
    assert set(SWITCH) == set(ASKED_OF_THE_SWITCH) | set(ASKED_THROUGH_A_TUNNEL) | set(REFUSED_PORT_STATES)


@pytest.mark.parametrize("name", ASKED_OF_THE_SWITCH)
def test_the_switch(name: str) -> None:
    """0001h, 5100h and 5101h as a switch really answers them, field by field."""
    vector = SWITCH[name]
    sides = (("request", vector.request), ("response", vector.response))
    for value, (way, data) in zip(ASKED_OF_THE_SWITCH[name], sides, strict=True):
        if value is None:
            assert data == b""
        else:
            assert STRUCTURES[vector.opcode, way] is type(value)
            assert_golden(type(value), data, value, len(data))
    assert vector.return_code == (ReturnCode.INVALID_INPUT if "not there" in name else ReturnCode.SUCCESS)


@pytest.mark.parametrize("name", ASKED_THROUGH_A_TUNNEL)
def test_through_the_tunnel(name: str) -> None:
    """DEV-8, DEV-9: the lies that the switch refuses we refuse too, the rest builds back to the same bytes."""
    wrong, tunnel_code, inner_code = ASKED_THROUGH_A_TUNNEL[name]
    vector = SWITCH[name]
    assert vector.return_code == tunnel_code
    if wrong:
        with pytest.raises(MalformedBytes, match=wrong):
            TunnelRequest.from_bytes(vector.request)
    else:
        request = TunnelRequest.from_bytes(vector.request)
        assert request.to_bytes() == vector.request
        assert request.message.opcode == vector.opcode
    if inner_code is None:
        assert vector.response == b""
        return
    response = TunnelResponse.from_bytes(vector.response)
    assert response.to_bytes() == vector.response
    assert (response.message.opcode, response.message.return_code) == (vector.opcode, inner_code)


@pytest.mark.parametrize("name", REFUSED_PORT_STATES)
def test_port_state_that_lies(name: str) -> None:
    assert SWITCH[name].return_code == REFUSED_PORT_STATES[name]
    with pytest.raises(MalformedBytes):
        GetPhysicalPortState.from_bytes(SWITCH[name].request)


def test_contents_from_the_tunnel() -> None:
    """What came out of it, field by field."""

    def content(name: str) -> Structure | None:
        return TunnelResponse.from_bytes(SWITCH[name].response).message.content()

    assert content("tunneled identify") == Identify(
        vendor_id=0x8086,
        device_id=0x0D93,
        subsystem_vendor_id=0x1AF4,
        subsystem_id=0x1100,
        serial_number=0x1234,
        maximum_message_size=9,
        component_type=ComponentType.TYPE_3_DEVICE,
    )
    empty = content("region config of none")
    assert isinstance(empty, HostDcRegionConfig) and (empty.available_regions, empty.regions) == (2, ())
    asked = TunnelRequest.from_bytes(SWITCH["region config of host 7"].request).message.content()
    assert asked == GetHostDcRegionConfig(host_id=7)
    answered = content("region config of host 7")
    assert isinstance(answered, HostDcRegionConfig) and answered.host_id == 0, "a departure: no such host"
    free = TunnelRequest.from_bytes(SWITCH["add free, without a list"].request).message.content()
    assert free == InitiateDcAdd(selection_policy=SelectionPolicy.FREE, length=2 * MIB, extents=None)
    background = TunnelRequest.from_bytes(SWITCH["tunnel, message length with background bit"].request).message
    assert background.background and background.payload == b""


# --- what the specification's tables say: every field another value, at its offset ---------------------------

EXTENT_FIELDS = (
    (0x00, "0000 2000 0100 0000"),
    (0x08, "0000 4000 0200 0000"),
    (0x10, "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"),
    (0x20, "3412"),
    (0x22, "b0b1b2b3b4b5"),
)
EXTENT = WireExtent(
    start=0x1_0020_0000,
    length=0x2_0040_0000,
    tag=bytes(range(0xA0, 0xB0)),
    sequence=0x1234,
    reserved=bytes(range(0xB0, 0xB6)),
)


MESSAGE_FIELDS = (
    (0x00, "f1"),
    (0x01, "02"),
    (0x02, "c3"),
    (0x03, "0504"),
    (0x05, "0300e0"),
    (0x08, "0706"),
    (0x0A, "0908"),
    (0x0C, "0a0b0c"),
)
MESSAGE = CciMessage(
    category=0xF1,
    tag=2,
    opcode=0x0405,
    length_flags=7,
    return_code=0x0607,
    vendor_status=0x0809,
    payload=bytes.fromhex("0a0b0c"),
    reserved=b"\xc3",
)
PORT_FIELDS = (
    (0x00, "01"),
    (0x01, "13"),
    (0x02, "03"),
    (0x03, "d1"),
    (0x04, "05"),
    (0x05, "06"),
    (0x06, "10"),
    (0x07, "08"),
    (0x08, "1f"),
    (0x09, "05"),
    (0x0A, "04"),
    (0x0B, "07"),
    (0x0C, "0c"),
    (0x0D, "0e0d"),
    (0x0F, "0f"),
)
PORT = PortState(
    port_id=1,
    configuration_state=0x13,
    connected_device_mode=3,
    connected_device_type=ConnectedDevice.TYPE_3_MLD,
    supported_modes=6,
    maximum_link_width=16,
    negotiated_link_width=8,
    supported_link_speeds=0x1F,
    maximum_link_speed=5,
    current_link_speed=4,
    ltssm_state=7,
    first_negotiated_lane=12,
    link_state_flags=0x0D0E,
    supported_ld_count=15,
    reserved=b"\xd1",
)
REGION_FIELDS = (
    (0x00, "0000 0010 0300 0000"),
    (0x08, "0700000000000000"),
    (0x10, "0000 0020 0100 0000"),
    (0x18, "0000200000000000"),
    (0x20, "7c"),
    (0x21, "c1c2c3"),
    (0x24, "01"),
    (0x25, "c4c5c6"),
)
REGION = HostDcRegion(
    base=0x3_1000_0000,
    decode_length=7,
    length=0x1_2000_0000,
    block_size=0x20_0000,
    attributes=0x7C,
    sanitize=1,
    reserved=bytes.fromhex("c1c2c3c4c5c6"),
)
TAG_FIELDS = (
    (0x00, "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"),
    (0x10, "01"),
    (0x11, "e1e2e3"),
    (0x14, "01" + 30 * "00" + "80"),
    (0x34, "02" + 30 * "00" + "40"),
)
TAGGED = DcTag(
    tag=bytes(range(0xA0, 0xB0)),
    flags=1,
    references=b"\x01" + bytes(30) + b"\x80",
    pending_references=b"\x02" + bytes(30) + b"\x40",
    reserved=bytes.fromhex("e1e2e3"),
)

TABLES: dict[str, tuple[bytes, Structure]] = {
    "7-14 cci message": (laid_out(15, *MESSAGE_FIELDS), MESSAGE),
    "7-37 tunnel request": (
        laid_out(19, (0, "02"), (1, "f1"), (2, "0f00"), *moved(MESSAGE_FIELDS, 4)),
        TunnelRequest(port=2, target_type=0xF1, message=MESSAGE),
    ),
    "7-38 tunnel response": (
        laid_out(19, (0, "0f00"), (2, "d2d3"), *moved(MESSAGE_FIELDS, 4)),
        TunnelResponse(message=MESSAGE, reserved=b"\xd2\xd3"),
    ),
    "8-38 identify": (
        laid_out(
            18,
            (0x00, "0102"),
            (0x02, "0304"),
            (0x04, "0506"),
            (0x06, "0708"),
            (0x08, "1112131415161718"),
            (0x10, "0a"),
            (0x11, "03"),
        ),
        Identify(
            vendor_id=0x0201,
            device_id=0x0403,
            subsystem_vendor_id=0x0605,
            subsystem_id=0x0807,
            serial_number=0x1817161514131211,
            maximum_message_size=10,
            component_type=ComponentType.TYPE_3_DEVICE,
        ),
    ),
    "7-16 identify switch": (
        laid_out(
            73,
            (0x00, "01"),
            (0x01, "f1"),
            (0x02, "05"),
            (0x03, "02"),
            (0x04, "0f" + 30 * "00" + "01"),
            (0x24, "03" + 30 * "00" + "02"),
            (0x44, "0601"),
            (0x46, "0701"),
            (0x48, "04"),
        ),
        IdentifySwitchDevice(
            ingress_port_id=1,
            physical_port_count=5,
            vcs_count=2,
            active_ports=b"\x0f" + bytes(30) + b"\x01",
            active_vcss=b"\x03" + bytes(30) + b"\x02",
            vppb_count=0x0106,
            bound_vppb_count=0x0107,
            hdm_decoder_count=4,
            reserved=b"\xf1",
        ),
    ),
    "7-17 get port state": (laid_out(4, (0, "03"), (1, "0005ff")), GetPhysicalPortState(ports=(0, 5, 255))),
    "7-18 port states": (
        laid_out(36, (0, "02"), (1, "e1e2e3"), *moved(PORT_FIELDS, 4), (0x14, "09"), (0x15, "0f")),
        PhysicalPortState(
            ports=(PORT, PortState(port_id=9, configuration_state=PortConfiguration.INVALID_PORT_ID)),
            reserved=bytes.fromhex("e1e2e3"),
        ),
    ),
    "7-19 port state": (laid_out(16, *PORT_FIELDS), PORT),
    "7-63 dcd info": (
        laid_out(
            84,
            (0x00, "03"),
            (0x01, "08"),
            (0x02, "d1d2"),
            (0x04, "0f00"),
            (0x06, "d3d4"),
            (0x08, "0300"),
            (0x0A, "81"),
            (0x0B, "d5"),
            (0x0C, "0100000000000002"),
            *((0x14 + 8 * index, f"{index + 1:02x}0000000000000f") for index in range(8)),
        ),
        DcdInfo(
            host_count=3,
            region_count=8,
            selection_policies=0x0F,
            removal_policies=3,
            sanitize_configurable=0x81,
            total_capacity=0x0200000000000001,
            supported_block_sizes=tuple(0x0F00000000000001 + index for index in range(8)),
            reserved=bytes.fromhex("d1d2d3d4d5"),
        ),
    ),
    "7-64 get host config": (
        laid_out(4, (0, "0102"), (2, "07"), (3, "03")),
        GetHostDcRegionConfig(host_id=0x0201, region_count=7, start_region=3),
    ),
    "7-65 host config": (
        laid_out(
            60,
            (0x00, "0102"),
            (0x02, "06"),
            (0x03, "01"),
            *moved(REGION_FIELDS, 4),
            (0x2C, "01000010"),
            (0x30, "02000020"),
            (0x34, "03000030"),
            (0x38, "04000040"),
        ),
        HostDcRegionConfig(
            host_id=0x0201,
            available_regions=6,
            regions=(REGION,),
            supported_extents=0x10000001,
            available_extents=0x20000002,
            supported_tags=0x30000003,
            available_tags=0x40000004,
        ),
    ),
    "7-66 region": (laid_out(40, *REGION_FIELDS), REGION),
    "7-67 set region": (
        laid_out(16, (0, "07"), (1, "e1e2e3"), (4, "0000200000000000"), (0x0C, "01"), (0x0D, "e4e5e6")),
        SetDcRegionConfig(region=7, block_size=2 * MIB, sanitize=1, reserved=bytes.fromhex("e1e2e3e4e5e6")),
    ),
    "7-68 get lists": (
        laid_out(12, (0, "0102"), (2, "e1e2"), (4, "01020304"), (8, "05060708")),
        GetDcRegionExtentLists(host_id=0x0201, count=0x04030201, start=0x08070605, reserved=b"\xe1\xe2"),
    ),
    "7-69 lists": (
        laid_out(
            64,
            (0x00, "0102"),
            (0x02, "e1e2"),
            (0x04, "01020304"),
            (0x08, "01000000"),
            (0x0C, "05060708"),
            (0x10, "090a0b0c"),
            (0x14, "e3e4e5e6"),
            *moved(EXTENT_FIELDS, 0x18),
        ),
        DcRegionExtentLists(
            host_id=0x0201,
            start=0x04030201,
            total=0x08070605,
            generation=0x0C0B0A09,
            extents=(EXTENT,),
            reserved=bytes.fromhex("e1e2e3e4e5e6"),
        ),
    ),
    "7-70 add": (
        laid_out(
            72,
            (0x00, "0102"),
            (0x02, "f2"),
            (0x03, "05"),
            (0x04, "0000600000000001"),
            (0x0C, "c0c1c2c3c4c5c6c7c8c9cacbcccdcecf"),
            (0x1C, "01000000"),
            *moved(EXTENT_FIELDS, 0x20),
        ),
        InitiateDcAdd(
            host_id=0x0201,
            selection_policy=0xF2,
            region=5,
            length=0x0100000000600000,
            tag=bytes(range(0xC0, 0xD0)),
            extents=(EXTENT,),
        ),
    ),
    "7-71 release": (
        laid_out(
            72,
            (0x00, "0102"),
            (0x02, "f1"),
            (0x03, "e1"),
            (0x04, "0000600000000001"),
            (0x0C, "c0c1c2c3c4c5c6c7c8c9cacbcccdcecf"),
            (0x1C, "01000000"),
            *moved(EXTENT_FIELDS, 0x20),
        ),
        InitiateDcRelease(
            host_id=0x0201,
            flags=0xF1,
            length=0x0100000000600000,
            tag=bytes(range(0xC0, 0xD0)),
            extents=(EXTENT,),
            reserved=b"\xe1",
        ),
    ),
    "7-72, 7-73 reference": (
        laid_out(16, (0, "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf")),
        DcReference(tag=bytes(range(0xA0, 0xB0))),
    ),
    "7-74 list tags": (
        laid_out(8, (0, "01020304"), (4, "05060708")),
        DcListTags(start=0x04030201, count=0x08070605),
    ),
    "7-75 tags": (
        laid_out(
            100,
            (0x00, "01020304"),
            (0x04, "05060708"),
            (0x08, "01000000"),
            (0x0C, "01"),
            (0x0D, "e1e2e3"),
            *moved(TAG_FIELDS, 0x10),
        ),
        DcTags(
            generation=0x04030201,
            total=0x08070605,
            tags=(TAGGED,),
            validity_flags=1,
            reserved=bytes.fromhex("e1e2e3"),
        ),
    ),
    "7-76 tag": (laid_out(84, *TAG_FIELDS), TAGGED),
}
ALL = sorted({type(value) for _, value in TABLES.values()}, key=lambda one: one.__name__)


@pytest.mark.parametrize("table", TABLES)
def test_table(table: str) -> None:
    data, value = TABLES[table]
    assert_golden(type(value), data, value, len(data))


def test_every_structure_has_a_table() -> None:
    here = {one for one in vars(fmapi).values() if isinstance(one, type) and one.__module__ == fmapi.__name__}
    declared = {one for one in here if issubclass(one, Structure)}
    assert set(ALL) == declared >= set(STRUCTURES.values())
    assert declared - set(STRUCTURES.values()) == {CciMessage, PortState, HostDcRegion, DcTag}, "parts of others"


def test_structures_by_opcode() -> None:
    """Each key is a known opcode and a direction, and none is also a host's."""
    assert all(FmOpcode(opcode) and direction in ("request", "response") for opcode, direction in STRUCTURES)
    assert {opcode for opcode, _ in STRUCTURES} == set(FmOpcode)
    assert not set(STRUCTURES) & set(wire.STRUCTURES)


def test_policies_are_the_tables() -> None:
    """DEV-13: selection 0 to 3, removal 0 and 1."""
    assert [policy.name for policy in SelectionPolicy] == ["FREE", "CONTIGUOUS", "PRESCRIPTIVE", "ENABLE_SHARED_ACCESS"]
    assert list(SelectionPolicy) == [0, 1, 2, 3]
    assert [policy.name for policy in RemovalPolicy] == ["TAG_BASED", "PRESCRIPTIVE"]
    assert list(RemovalPolicy) == [0, 1]


def test_properties() -> None:
    """DEV-12 (forced, bit 4), DEV-14 (sanitize, bit 5), and units."""
    for flags in (0, 1, 0x10, 0x20, 0x31, 0xFF):
        release = InitiateDcRelease(flags=flags, extents=())
        assert release.forced is bool(flags & 0x10 == FORCED_REMOVAL)
        assert release.sanitize is bool(flags & 0x20 == SANITIZE_ON_RELEASE)
        assert release.prescriptive is (flags & 15 == RemovalPolicy.PRESCRIPTIVE)
    assert region(0).decode_length_bytes == GIB
    info = TunnelResponse.from_bytes(TUNNELED["get dcd info"].response).message.content()
    assert isinstance(info, DcdInfo) and info.total_capacity_bytes == 2 * GIB
    assert members(b"\x0f" + bytes(30) + b"\x81") == (0, 1, 2, 3, 248, 255)
    assert members(b"") == ()
    identify = TABLES["8-38 identify"][1]
    assert isinstance(identify, Identify) and identify.maximum_message_size_bytes == 1024
    assert page(*ACCEPTED).returned == 3
    assert DcTags(generation=0, total=9, tags=(TAGGED,)).returned == 1


def test_most_that_fit() -> None:
    """DEV-10: 50 extents through a tunnel and a mailbox of 2048 bytes, both ways; one more would not fit."""
    inside = 2048 - TUNNEL_OVERHEAD
    counted = ((InitiateDcAdd, 32, 40), (InitiateDcRelease, 32, 40), (DcRegionExtentLists, 24, 40), (DcTags, 16, 84))
    for structure, head, entry in counted:
        assert structure.most(head - 1) == structure.most(0) == 0
        assert structure.most(head + entry - 1) == 0
        assert structure.most(head + entry) == 1
        assert structure.most(inside) == (inside - head) // entry
    assert InitiateDcAdd.most(inside) == InitiateDcRelease.most(inside) == DcRegionExtentLists.most(inside) == 50
    full = CciMessage.request(0x5604, add(*[extent(0, 1)] * 50, length=50))
    assert len(TunnelRequest(message=full).to_bytes()) <= 2048


# --- lists that are there, and lists that are not ------------------------------------------------------------


@pytest.mark.parametrize("structure", [InitiateDcAdd, InitiateDcRelease], ids=name_of)
def test_the_list_may_be_missing_unless_prescriptive(structure: type[Structure]) -> None:
    """DEV-13: the count and the extents belong to the prescriptive policy; with another, both forms are read."""
    prescriptive = 2 if structure is InitiateDcAdd else 1
    for policy in range(256):
        head = bytes(2) + bytes([policy]) + bytes(25)
        listed = head + bytes(4)
        assert structure.from_bytes(listed).to_bytes() == listed
        assert structure.from_bytes(listed).extents == ()  # type: ignore[attr-defined]
        if policy & 15 == prescriptive:
            with pytest.raises(MalformedBytes, match="takes 32 bytes with its count of extents, 28 are there"):
                structure.from_bytes(head)
            with pytest.raises(AskedWrongly, match=r"prescriptive policy has a list of extents; give it, or \(\)"):
                dataclasses.replace(structure.from_bytes(listed), extents=None).to_bytes()  # type: ignore[type-var]
        else:
            assert structure.from_bytes(head).to_bytes() == head
            assert structure.from_bytes(head).extents is None  # type: ignore[attr-defined]
        for end in (29, 30, 31):
            with pytest.raises(MalformedBytes):
                structure.from_bytes(listed[:end])


# --- lengths and counts that lie -----------------------------------------------------------------------------

# structure: (bytes of a good one without entries, offset and size of its count, bytes of one entry, bytes after)
COUNTED: dict[type[Structure], tuple[bytes, int, int, int, int]] = {
    GetPhysicalPortState: (bytes(1), 0, 1, 1, 0),
    PhysicalPortState: (bytes(4), 0, 1, 16, 0),
    HostDcRegionConfig: (bytes(20), 3, 1, 40, 16),
    DcRegionExtentLists: (bytes(24), 8, 4, 40, 0),
    InitiateDcAdd: (b"\0\0\x02" + bytes(29), 28, 4, 40, 0),
    InitiateDcRelease: (b"\0\0\x01" + bytes(29), 28, 4, 40, 0),
    DcTags: (bytes(16), 8, 4, 84, 0),
}


@pytest.mark.parametrize("structure", COUNTED, ids=name_of)
def test_lying_count(structure: type[Structure]) -> None:
    assert_counted(structure, COUNTED[structure], {50})


@pytest.mark.parametrize("way", ["request", "response"])
def test_lying_tunnel(way: str) -> None:
    """The tunnel's size, and the message's length, must both be what is there."""
    structure, at = (TunnelRequest, 2) if way == "request" else (TunnelResponse, 0)
    vector = TUNNELED["get host dc region config"]
    good = vector.request if way == "request" else vector.response
    size = len(good) - 4
    for lie in {0, 1, 11, 12, size - 1, size + 1, 0xFFFF} - {size}:
        data = good[:at] + lie.to_bytes(2, "little") + good[at + 2 :]
        with pytest.raises(MalformedBytes, match=f"for its message of {lie}, {len(data)} are there") as caught:
            structure.from_bytes(data)
        assert (caught.value.structure, caught.value.data) == (structure.__name__, data)
        assert caught.value.offset_bytes == min(len(data), 4 + lie)
    length = size - 12
    for lie in {0, 1, length - 1, length + 1, 0x1FFFFF} - {length}:
        data = good[:9] + lie.to_bytes(3, "little") + good[12:]
        with pytest.raises(MalformedBytes, match=f"for the length of {lie} in its message") as caught:
            structure.from_bytes(data)
        assert (caught.value.structure, caught.value.data) == (structure.__name__, data)
        assert caught.value.offset_bytes == min(len(data), 16 + lie), "counted from the tunnel's first byte"
        with pytest.raises(MalformedBytes, match=f"for the length of {lie} in its message") as alone:
            CciMessage.from_bytes(data[4:])
        assert (alone.value.structure, alone.value.offset_bytes) == ("CciMessage", min(len(data) - 4, 12 + lie))


def test_tunnel_that_holds_no_message() -> None:
    """A tunnel whose own size is right, around too few bytes for a message."""
    for size in range(12):
        data = bytes([0, 0, size, 0]) + bytes(size)
        with pytest.raises(MalformedBytes, match=f"takes 16 bytes for the message in it, {4 + size} are there"):
            TunnelRequest.from_bytes(data)


def test_flags_above_the_length_are_no_length() -> None:
    """Table 7-14: bits 20:0 are the length, bit 23 says background; what a device sets there stays."""
    good = TUNNELED["get dcd info"].response[4:]
    for flags in range(8):
        data = good[:7] + bytes([flags << 5]) + good[8:]
        message = CciMessage.from_bytes(data)
        assert (message.length_flags, message.background, len(message.payload)) == (flags, flags >= 4, 84)
        assert message.to_bytes() == data


def test_return_codes_outside_the_table_stay_numbers() -> None:
    good = TUNNELED["get dcd info"].response
    for code in (0x21, 0x7F, 0x8000, 0xFFFF):
        data = good[:12] + code.to_bytes(2, "little") + good[14:]
        message = TunnelResponse.from_bytes(data).message
        assert (message.return_code, type(message.return_code)) == (code, int)
        assert message.content() is None, "a command that failed has nothing to read"
        assert TunnelResponse(message=message).to_bytes() == data


def test_content() -> None:
    """What a payload is, by opcode and category; the host's commands too, for they may be tunneled."""
    assert CciMessage(opcode=0x4801, payload=bytes(8)).content() == wire.GetExtentList(count=0)
    assert CciMessage(opcode=0x5600).content_type() is None, "5600h asks without a payload"
    assert CciMessage(opcode=0x56FF, payload=b"x").content() is None
    assert CciMessage(opcode=0x5604, payload=b"x", category=2).direction == ""
    assert CciMessage(opcode=0x5604, payload=b"x", category=2).content() is None
    assert CciMessage(opcode=0x5602, category=Category.RESPONSE).content() is None, "as QEMU answers"
    echoed = CciMessage(opcode=0x5602, category=Category.RESPONSE, payload=bytes(16)).content()
    assert echoed == SetDcRegionConfig(region=0, block_size=0)
    with pytest.raises(MalformedBytes, match="GetHostDcRegionConfig: ends early"):
        CciMessage(opcode=0x5601).content()
    inner = TunnelRequest(message=CciMessage.request(0x5600), port=3)
    outer = TunnelRequest(message=CciMessage.request(0x5300, inner), port=1)
    assert TunnelRequest.from_bytes(outer.to_bytes()).message.content() == inner, "an LD behind a switch's port"


# --- any bytes at all ----------------------------------------------------------------------------------------

SAMPLES = [data for data, _ in TABLES.values()] + [
    data for vector in (*TUNNELED.values(), *SWITCH.values()) for data in (vector.request, vector.response) if data
]


def survives(data: bytes) -> None:
    for value in survivors(ALL, data):
        if isinstance(value, CciMessage):
            with_content(value)


def with_content(message: CciMessage) -> None:
    try:
        content = message.content()
    except MalformedBytes as error:
        assert error.data == message.payload
    else:
        assert content is None or content.to_bytes() == message.payload


@calm
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    survives(data)


@calm
@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_bytes(sample: bytes, data: st.DataObject) -> None:
    for image in damaged(sample, data):
        survives(image)


def test_many_random_bytes() -> None:
    """Thousands of payloads of likely sizes, their lengths and counts small or right: the same seed each time."""
    dice = random.Random(5604)
    sizes = sorted({len(sample) for sample in SAMPLES})
    for _ in range(3000):
        data = bytearray(dice.randbytes(dice.choice(sizes)))
        for at in (0, 1, 2, 3, 8, 28, 29, 30, 31):
            if at < len(data) and dice.random() < 0.7:
                data[at] = dice.randrange(4)
        if len(data) >= 16 and dice.random() < 0.5:
            data[2:4] = (len(data) - 4).to_bytes(2, "little")
            data[9:12] = (len(data) - 16).to_bytes(3, "little")
        survives(bytes(data))


@calm
@given(st.sampled_from([value for _, value in TABLES.values()]), st.integers(0, 255), st.integers(0, 7))
def test_tunnel_round_trip(content: Structure, tag: int, flags: int) -> None:
    """Whatever is put into a message and a tunnel comes out again."""
    message = CciMessage(opcode=0x5604, payload=content.to_bytes(), tag=tag, length_flags=flags, return_code=tag)
    assert CciMessage.from_bytes(message.to_bytes()) == message
    for tunnel in (TunnelRequest(message=message, port=tag), TunnelResponse(message=message)):
        assert type(tunnel).from_bytes(tunnel.to_bytes()) == tunnel


# --- the declarations say the same as the code that runs them ------------------------------------------------


def ours(value: Any, prefix: str = "") -> dict[str, Any]:
    """A structure in the same form."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        held = getattr(value, field.name)
        if isinstance(held, tuple):
            for index, one in enumerate(held):
                inner = f"{prefix}{field.name}[{index}]"
                found |= ours(one, f"{inner}.") if dataclasses.is_dataclass(one) else {inner: one}
        elif dataclasses.is_dataclass(held):
            found |= ours(held, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = held
    return found


@pytest.mark.parametrize("table", TABLES)
def test_declaration_reads_and_writes_the_same(table: str) -> None:
    """construct, which declares the format, finds the same in the golden bytes as the code that runs it."""
    data, value = TABLES[table]
    declaration = type(value).declaration
    parsed = declaration.parse(data)
    assert declaration.build(parsed) == data
    by_construct = {name: one for name, one in flat(parsed).items() if "reserved" not in name}
    by_us = {name: one for name, one in ours(value).items() if "reserved" not in name}
    only_declared = {name for name in by_construct if name not in by_us}
    counts = {"count", "region_count", "returned", "size", "length_and_flags", "message.length_and_flags"}
    assert only_declared <= counts, "counts and lengths"
    only_held = {name for name in by_us if name not in by_construct}
    assert only_held <= {"length_flags", "message.length_flags"}, "the upper bits of a length"
    assert {name: one for name, one in by_us.items() if name in by_construct} == {
        name: one for name, one in by_construct.items() if name in by_us
    }


@pytest.mark.parametrize("table", TABLES)
def test_declaration_ends_where_we_end(table: str) -> None:
    data, value = TABLES[table]
    assert_ends_alike(type(value), data)


@calm
@given(st.sampled_from(ALL), st.data())
def test_layout_is_its_declaration(structure: type[Structure], data: st.DataObject) -> None:
    assert_layout(structure, data)


def test_a_list_without_a_policy_for_it() -> None:
    """construct reads both forms of a request that is not prescriptive, as we do."""
    free = InitiateDcAdd(selection_policy=SelectionPolicy.FREE, length=2 * MIB, extents=None)
    for request in (free, dataclasses.replace(free, extents=()), dataclasses.replace(free, extents=(EXTENT,))):
        data = request.to_bytes()
        assert InitiateDcAdd.from_bytes(data) == request
        parsed = InitiateDcAdd.declaration.parse(data)
        assert (parsed.count is None) == (request.extents is None)
        assert InitiateDcAdd.declaration.build(parsed) == data


# --- building ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (CciMessage(opcode=1 << 16), r"CciMessage: opcode = 65536; give 0 to 0xffff"),
        (CciMessage(opcode=0, length_flags=8), r"CciMessage: length_flags = 8; give 0 to 0x7"),
        (CciMessage(opcode=0, payload=bytes(1 << 21)), r"payload has 2097152 bytes; give at most 2097151"),
        (CciMessage(opcode=0, reserved=b"12"), r"reserved has 2 bytes; give 1, or 0"),
        (TunnelRequest(message=CciMessage(opcode=0, payload=bytes(65524))), r"TunnelRequest: size = 65536"),
        (TunnelRequest(message=CciMessage(opcode=0), port=256), r"TunnelRequest: port = 256; give 0 to 0xff"),
        (TunnelResponse(message=CciMessage(opcode=0, payload=bytes(65524))), r"TunnelResponse: size = 65536"),
        (GetPhysicalPortState(ports=(256,)), r"GetPhysicalPortState: port_id = 256"),
        (GetPhysicalPortState(ports=(0,) * 256), r"GetPhysicalPortState: count = 256; give 0 to 0xff"),
        (
            DcdInfo(
                host_count=1,
                region_count=1,
                selection_policies=4,
                removal_policies=2,
                total_capacity=1,
                supported_block_sizes=(1,),
            ),
            r"DcdInfo: supported_block_sizes has 1 entries; give 8",
        ),
        (DcReference(tag=b"short"), r"DcReference: tag has 5 bytes; give 16"),
        (InitiateDcAdd(extents=(), region=-1), r"InitiateDcAdd: region = -1; give 0 to 0xff"),
        (InitiateDcAdd(extents=None), r"InitiateDcAdd: the prescriptive policy has a list of extents"),
        (InitiateDcRelease(extents=None), r"InitiateDcRelease: the prescriptive policy has a list of extents"),
        (dataclasses.replace(REGION, reserved=bytes(5)), r"HostDcRegion: reserved has 5 bytes; give 6"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_values_that_do_not_fit(value: Structure, says: str) -> None:
    with pytest.raises(AskedWrongly, match=says):
        value.to_bytes()


def test_defaults_are_what_a_manager_sends() -> None:
    assert GetHostDcRegionConfig().to_bytes() == TUNNELED["get host dc region config"].request[16:]
    assert (
        GetDcRegionExtentLists(count=512).to_bytes()
        == TUNNELED["extent list as the fabric manager sees it"].request[16:]
    )
    asked = TunnelRequest(message=CciMessage.request(FmOpcode.GET_DCD_INFO, tag=0x5A))
    assert asked.to_bytes() == TUNNELED["get dcd info"].request
    assert InitiateDcAdd(extents=(EXTENT,)).prescriptive and InitiateDcRelease(extents=()).prescriptive


# --- the shape of the room -----------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", ALL, ids=name_of)
def test_values_are_frozen_and_cited(structure: type) -> None:
    assert_frozen(structure, "7.6.", "8.2.9.1.1")


def test_no_construct_object_leaves() -> None:
    for data, value in TABLES.values():
        assert is_plain(type(value).from_bytes(data))


def test_the_guest_does_not_load_it() -> None:
    """8 ms a class under TCG: neither the wire's own import nor the agent's brings the manager's side along."""
    program = (
        "import sys, dcdbackend.wire, dcdbackend.agent.control, dcdbackend.agent.host, dcdbackend.agent.commands;"
        "print(*[name for name in sys.modules if name.startswith('dcdbackend.wire.')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert set(ran.stdout.split()) == {f"dcdbackend.wire.{name}" for name in ("cci", "dcd", "events", "layout")}
