"""The bytes of the mailbox: every structure against captured bytes, the specification's tables, and bad bytes."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from typing import Any

import construct
import pytest
from golden import (
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
from hypothesis import given
from hypothesis import strategies as st

from dcdbackend import wire
from dcdbackend.errors import AskedWrongly, MalformedBytes
from dcdbackend.wire import (
    STRUCTURES,
    CapacityResponse,
    ClearEventRecords,
    DcConfig,
    DcRegion,
    DynamicCapacityRecord,
    EventRecords,
    ExtentList,
    GetDcConfig,
    GetEventRecords,
    GetExtentList,
    IdentifyMemoryDevice,
    Opcode,
    RawRecord,
    RecordType,
    ReturnCode,
    Structure,
    WireExtent,
    cci,
    dcd,
    events,
)
from dcdbackend.wire.layout import Layout

MIB = 1 << 20
GIB = 1 << 30
TAG = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")  # of the captured tagged chain
MAILBOX = vectors("device mailbox")


# --- what the captured exchanges say -------------------------------------------------------------------------


def record(handle: int, kind: RecordType, what: WireExtent, *, available: int, flags: int = 0) -> DynamicCapacityRecord:
    """As QEMU 11.1.3 fills one: host 0, counts valid, no clock set, and record_flags 1."""
    return DynamicCapacityRecord(
        handle=handle,
        type=kind,
        extent=what,
        flags=flags,
        host_id=0,
        updated_region_index=0,
        validity_flags=1,
        available_extents=available,
        available_tags=0,
        record_flags=1,
        related_handle=0,
        timestamp_ns=0,
        maintenance_operation_class=0,
        maintenance_operation_subclass=0,
    )


def page(*records: DynamicCapacityRecord) -> EventRecords:
    """As QEMU 11.1.3 fills one: flags bit 1 is set though nothing remains (a departure from DEV-16)."""
    return EventRecords(
        records=records,
        flags=2,
        overflow_count=0,
        first_overflow_timestamp_ns=0,
        last_overflow_timestamp_ns=0,
    )


def region(index: int) -> DcRegion:
    return DcRegion(base=index * GIB, decode_length=4, length=GIB, block_size=2 * MIB, dsmad_handle=index, flags=0)


def config(*regions: DcRegion) -> DcConfig:
    return DcConfig(
        available_regions=2,
        regions=regions,
        supported_extents=512,
        available_extents=512,
        supported_tags=0,
        available_tags=0,
    )


def extent_list(*extents: WireExtent) -> ExtentList:
    return ExtentList(total=len(extents), generation=0, extents=extents)


def ranges(*pairs: tuple[int, int]) -> CapacityResponse:
    return CapacityResponse(ranges=pairs, flags=0)


ADD, RELEASE = RecordType.ADD_CAPACITY, RecordType.RELEASE_CAPACITY
WHOLE_LIST = GetExtentList(count=512, start=0)
LOG_4 = GetEventRecords(log=4)

# Vector name: (request, response). None: that side is no structure (empty, or not a known command).
CAPTURED: dict[str, tuple[Structure | None, Structure | None]] = {
    "identify memory device": (
        None,
        IdentifyMemoryDevice(
            fw_revision=b"BWFW VERSION 00\0",
            total_capacity=0,
            volatile_only_capacity=0,
            persistent_only_capacity=0,
            partition_alignment=0,
            informational_event_log_size=0,
            warning_event_log_size=0,
            failure_event_log_size=0,
            fatal_event_log_size=0,
            lsa_size=0,
            poison_list_maximum_records=256,
            inject_poison_limit=0,
            poison_handling_capabilities=0,
            qos_telemetry_capabilities=0,
            dc_event_log_size=8,
        ),
    ),
    "dc config, all regions": (
        GetDcConfig(region_count=8, start_region=0),
        config(region(0), region(1)),
    ),
    "dc config, second region only": (GetDcConfig(region_count=1, start_region=1), config(region(1))),
    "dc config, start region out of range": (GetDcConfig(region_count=8, start_region=2), None),
    "empty extent list": (WHOLE_LIST, extent_list()),
    "event: one untagged extent": (LOG_4, page(record(1, ADD, extent(0, 2 * MIB), available=511))),
    "event: one untagged extent cleared": (ClearEventRecords(log=4, flags=0, handles=(1,)), None),
    "accept it": (ranges((0, 2 * MIB)), None),
    "extent list, one extent": (WHOLE_LIST, extent_list(extent(0, 2 * MIB))),
    "events: a chain of three, More set on the first two": (
        LOG_4,
        page(
            record(2, ADD, extent(16 * MIB, 4 * MIB, tag=TAG, sequence=0), available=508, flags=1),
            record(3, ADD, extent(8 * MIB, 2 * MIB, tag=TAG, sequence=1), available=508, flags=1),
            record(4, ADD, extent(32 * MIB, 6 * MIB, tag=TAG, sequence=2), available=508, flags=0),
        ),
    ),
    "events: a chain of three, More set on the first two cleared": (
        ClearEventRecords(log=4, flags=0, handles=(2, 3, 4)),
        None,
    ),
    "accept two of three": (ranges((16 * MIB, 4 * MIB), (32 * MIB, 6 * MIB)), None),
    "extent list after a partial accept": (
        WHOLE_LIST,
        extent_list(extent(0, 2 * MIB), extent(16 * MIB, 4 * MIB), extent(32 * MIB, 6 * MIB)),
    ),
    "event: release request": (
        LOG_4,
        page(record(5, RELEASE, extent(32 * MIB, 2 * MIB, tag=TAG, sequence=2), available=509)),
    ),
    "event: release request cleared": (ClearEventRecords(log=4, flags=0, handles=(5,)), None),
    "release that part": (ranges((32 * MIB, 2 * MIB)), None),
    "extent list after a split": (
        WHOLE_LIST,
        extent_list(extent(0, 2 * MIB), extent(16 * MIB, 4 * MIB), extent(34 * MIB, 4 * MIB)),
    ),
    "release the middle of the rest": (ranges((34 * MIB, 2 * MIB)), None),
    "release what is not held": (ranges((100 * MIB, 2 * MIB)), None),
    "release with no extents": (ranges(), None),
    "release, unaligned": (ranges((16 * MIB + 4096, 2 * MIB)), None),
    "release, the same extent twice": (ranges((16 * MIB, 2 * MIB), (16 * MIB, 2 * MIB)), None),
    "unknown opcode": (None, None),
}
SHORT = "release, payload shorter than its count"


def test_every_captured_exchange_is_looked_at() -> None:
    assert set(CAPTURED) | {SHORT} == set(MAILBOX)


@pytest.mark.parametrize("name", CAPTURED)
def test_captured(name: str) -> None:
    """DEV-4, DEV-6, DEV-7, DEV-10, DEV-16, DEV-19: what a device and a host really said, field by field."""
    vector = MAILBOX[name]
    sides = (("request", vector.request), ("response", vector.response))
    for value, (direction, data) in zip(CAPTURED[name], sides, strict=True):
        structure = STRUCTURES.get((vector.opcode, direction))
        if value is None:
            assert data == b""
        else:
            assert structure is type(value)
            assert_golden(structure, data, value, len(data))


def test_captured_lie() -> None:
    """DEV-8.16h: the device refused this payload for its count, and so do we."""
    vector = MAILBOX[SHORT]
    assert vector.return_code == ReturnCode.INVALID_PAYLOAD_LENGTH
    with pytest.raises(MalformedBytes, match=r"takes 80 bytes for its count of 3, 32 are there"):
        CapacityResponse.from_bytes(vector.request)


def test_captured_return_codes_have_their_names() -> None:
    """DEV-8: the codes that QEMU answered with."""
    said = {name: ReturnCode(vector.return_code).name for name, vector in MAILBOX.items() if vector.return_code}
    assert said == {
        "dc config, start region out of range": "INVALID_INPUT",
        "release what is not held": "INVALID_PHYSICAL_ADDRESS",
        "release with no extents": "INVALID_INPUT",
        "release, unaligned": "INVALID_EXTENT_LIST",
        "release, the same extent twice": "INVALID_EXTENT_LIST",
        SHORT: "INVALID_PAYLOAD_LENGTH",
        "unknown opcode": "UNSUPPORTED",
    }


# --- what the specification's tables say: every field another value, at its offset ---------------------------

UUID = (0x00, "ca95afa7 f183 4018 8c2f 95268e101a2a")
EXTENT_AT_0 = (
    (0x00, "0000 2000 0100 0000"),
    (0x08, "0000 4000 0200 0000"),
    (0x10, "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"),
    (0x20, "3412"),
    (0x22, "b0b1b2b3b4b5"),
)
EXTENT_VALUE = WireExtent(
    start=0x1_0020_0000,
    length=0x2_0040_0000,
    tag=bytes(range(0xA0, 0xB0)),
    sequence=0x1234,
    reserved=bytes(range(0xB0, 0xB6)),
)


RECORD_FIELDS = (
    UUID,
    (0x10, "80"),
    (0x11, "c34502"),
    (0x14, "0102"),
    (0x16, "0304"),
    (0x18, "1122334455667708"),
    (0x20, "09"),
    (0x21, "0a"),
    (0x22, "0b0c0d0e0f101112131415161718"),
    (0x30, "03"),
    (0x31, "01"),
    (0x32, "1920"),
    (0x34, "05"),
    (0x35, "01"),
    (0x36, "2122"),
    *moved(EXTENT_AT_0, 0x38),
    (0x60, "303132333435363738393a3b3c3d3e3f4041424344454647"),
    (0x78, "50515253"),
    (0x7C, "54555657"),
)
RECORD_VALUE = DynamicCapacityRecord(
    record_flags=0x0245C3,
    handle=0x0201,
    related_handle=0x0403,
    timestamp_ns=0x0877665544332211,
    maintenance_operation_class=9,
    maintenance_operation_subclass=10,
    type=RecordType.REGION_CONFIGURATION_UPDATED,
    validity_flags=1,
    host_id=0x2019,
    updated_region_index=5,
    flags=1,
    extent=EXTENT_VALUE,
    available_extents=0x53525150,
    available_tags=0x57565554,
    reserved=bytes.fromhex("0b0c0d0e0f101112131415161718 2122 303132333435363738393a3b3c3d3e3f4041424344454647"),
)
REGION_FIELDS = (
    (0x00, "0000 0010 0300 0000"),
    (0x08, "0700000000000000"),
    (0x10, "0000 0020 0100 0000"),
    (0x18, "0000200000000000"),
    (0x20, "efbeadde"),
    (0x24, "01"),
    (0x25, "c1c2c3"),
)
REGION_VALUE = DcRegion(
    base=0x3_1000_0000,
    decode_length=7,
    length=0x1_2000_0000,
    block_size=0x20_0000,
    dsmad_handle=0xDEADBEEF,
    flags=1,
    reserved=bytes.fromhex("c1c2c3"),
)

TABLES: dict[str, tuple[bytes, Structure]] = {
    "8-43, 8-50 event record": (laid_out(128, *RECORD_FIELDS), RECORD_VALUE),
    "8-51 extent": (laid_out(40, *EXTENT_AT_0), EXTENT_VALUE),
    "8-52 get event records": (laid_out(1, (0, "03")), GetEventRecords(log=3)),
    "8-53 event records": (
        laid_out(
            160,
            (0x00, "03"),
            (0x01, "a1"),
            (0x02, "0102"),
            (0x04, "0304050607080910"),
            (0x0C, "1112131415161718"),
            (0x14, "0100"),
            (0x16, "20212223242526272829"),
            *moved(RECORD_FIELDS, 0x20),
        ),
        EventRecords(
            flags=3,
            overflow_count=0x0201,
            first_overflow_timestamp_ns=0x1009080706050403,
            last_overflow_timestamp_ns=0x1817161514131211,
            records=(RECORD_VALUE,),
            reserved=bytes.fromhex("a1 20212223242526272829"),
        ),
    ),
    "8-54 clear event records": (
        laid_out(10, (0, "04"), (1, "01"), (2, "02"), (3, "515253"), (6, "0102"), (8, "ffff")),
        ClearEventRecords(log=4, flags=1, handles=(0x0201, 0xFFFF), reserved=bytes.fromhex("515253")),
    ),
    "8-127 identify": (
        laid_out(
            69,
            (0x00, "4142434445464748494a4b4c4d4e4f50"),
            (0x10, "0100000000000001"),
            (0x18, "0200000000000002"),
            (0x20, "0300000000000003"),
            (0x28, "0400000000000004"),
            (0x30, "0501"),
            (0x32, "0601"),
            (0x34, "0701"),
            (0x36, "0801"),
            (0x38, "09000001"),
            (0x3C, "0a0b0c"),
            (0x3F, "0d01"),
            (0x41, "0e"),
            (0x42, "0f"),
            (0x43, "1001"),
        ),
        IdentifyMemoryDevice(
            fw_revision=b"ABCDEFGHIJKLMNOP",
            total_capacity=0x0100000000000001,
            volatile_only_capacity=0x0200000000000002,
            persistent_only_capacity=0x0300000000000003,
            partition_alignment=0x0400000000000004,
            informational_event_log_size=0x0105,
            warning_event_log_size=0x0106,
            failure_event_log_size=0x0107,
            fatal_event_log_size=0x0108,
            lsa_size=0x01000009,
            poison_list_maximum_records=0x0C0B0A,
            inject_poison_limit=0x010D,
            poison_handling_capabilities=0x0E,
            qos_telemetry_capabilities=0x0F,
            dc_event_log_size=0x0110,
        ),
    ),
    "8-163 get dc config": (laid_out(2, (0, "07"), (1, "03")), GetDcConfig(region_count=7, start_region=3)),
    "8-164 dc config": (
        laid_out(
            64,
            (0x00, "06"),
            (0x01, "01"),
            (0x02, "616263646566"),
            *moved(REGION_FIELDS, 0x08),
            (0x30, "01000010"),
            (0x34, "02000020"),
            (0x38, "03000030"),
            (0x3C, "04000040"),
        ),
        DcConfig(
            available_regions=6,
            regions=(REGION_VALUE,),
            supported_extents=0x10000001,
            available_extents=0x20000002,
            supported_tags=0x30000003,
            available_tags=0x40000004,
            reserved=b"abcdef",
        ),
    ),
    "8-165 region": (laid_out(40, *REGION_FIELDS), REGION_VALUE),
    "8-166 get extent list": (
        laid_out(8, (0, "01020304"), (4, "05060708")),
        GetExtentList(count=0x04030201, start=0x08070605),
    ),
    "8-167 extent list": (
        laid_out(
            56,
            (0x00, "01000000"),
            (0x04, "01020304"),
            (0x08, "05060708"),
            (0x0C, "71727374"),
            *moved(EXTENT_AT_0, 0x10),
        ),
        ExtentList(total=0x04030201, generation=0x08070605, extents=(EXTENT_VALUE,), reserved=b"qrst"),
    ),
    "8-168, 8-169 response": (
        laid_out(
            56,
            (0x00, "02000000"),
            (0x04, "01"),
            (0x05, "818283"),
            (0x08, "0000200000000001"),
            (0x10, "0000400000000002"),
            (0x18, "9192939495969798"),
            (0x20, "0000600000000003"),
            (0x28, "0000800000000004"),
        ),
        CapacityResponse(
            flags=1,
            ranges=(
                (0x0100000000200000, 0x0200000000400000),
                (0x0300000000600000, 0x0400000000800000),
            ),
            reserved=bytes.fromhex("818283 9192939495969798 0000000000000000"),
        ),
    ),
}


@pytest.mark.parametrize("table", TABLES)
def test_table(table: str) -> None:
    data, value = TABLES[table]
    assert_golden(type(value), data, value, len(data))


def test_every_structure_has_a_table() -> None:
    here = {one for module in (cci, dcd, events) for one in vars(module).values() if isinstance(one, type)}
    declared = {one for one in here if issubclass(one, Structure)} - {Structure}
    assert {type(value) for _, value in TABLES.values()} == declared >= set(STRUCTURES.values())


# --- records that cannot be read -----------------------------------------------------------------------------

GOOD = laid_out(128, *RECORD_FIELDS)
UNREADABLE = {
    "another uuid": (laid_out(128, (0, "fbcd0a77c260417f85a9088b1621eba6"), *RECORD_FIELDS[1:]), 0),
    "a length of 127": (GOOD[:16] + b"\x7f" + GOOD[17:], 16),
    "type 6": (GOOD[:48] + b"\x06" + GOOD[49:], 48),
    "type 255": (GOOD[:48] + b"\xff" + GOOD[49:], 48),
    "zeros": (bytes(128), 0),
    "all ones": (b"\xff" * 128, 0),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_unreadable_record_does_not_hide_the_page(what: str) -> None:
    """DEV-4, DEV-16: such a record stays in its place, with its bytes, and can be cleared by its handle."""
    data, offset = UNREADABLE[what]
    with pytest.raises(MalformedBytes) as alone:
        DynamicCapacityRecord.from_bytes(data)
    assert (alone.value.structure, alone.value.offset_bytes) == ("DynamicCapacityRecord", offset)
    assert alone.value.data == data
    head = laid_out(32, (0x14, "0300"))
    got = EventRecords.from_bytes(head + GOOD + data + GOOD)
    handle = data[20] + 256 * data[21]
    assert got.records == (
        RECORD_VALUE,
        RawRecord(handle=handle, data=data, error=alone.value.message),
        RECORD_VALUE,
    )
    assert "\n" not in alone.value.message and "received" not in alone.value.message
    assert got.to_bytes() == head + GOOD + data + GOOD


def test_record_types_are_the_table() -> None:
    """DEV-4: types 0 to 5 in this order, and the captured bytes carry plain numbers."""
    assert [(kind.value, kind.name) for kind in RecordType] == [
        (0, "ADD_CAPACITY"),
        (1, "RELEASE_CAPACITY"),
        (2, "FORCED_RELEASE"),
        (3, "REGION_CONFIGURATION_UPDATED"),
        (4, "ADD_CAPACITY_RESPONSE"),
        (5, "CAPACITY_RELEASED"),
    ]
    for kind in RecordType:
        data = GOOD[:48] + bytes([kind]) + GOOD[49:]
        assert DynamicCapacityRecord.from_bytes(data) == dataclasses.replace(RECORD_VALUE, type=kind)


def test_flag_properties() -> None:
    """DEV-4 (More of a record), DEV-6 (More of an answer), DEV-16 (overflow, more records)."""
    assert [dataclasses.replace(RECORD_VALUE, flags=flags).more for flags in (0, 1, 2, 255)] == [
        False,
        True,
        False,
        True,
    ]
    assert [CapacityResponse(ranges=(), flags=flags).more for flags in (0, 1, 2, 255)] == [False, True, False, True]
    pages = [EventRecords(records=(), flags=flags) for flags in range(4)]
    assert [(one.overflow, one.more) for one in pages] == [(False, False), (True, False), (False, True), (True, True)]
    assert region(0).decode_length_bytes == GIB


# --- lying counts, and any bytes at all ----------------------------------------------------------------------

# structure: (bytes of a good one without entries, offset and size of its count, bytes of one entry, bytes after)
COUNTED: dict[type[Structure], tuple[bytes, int, int, int, int]] = {
    EventRecords: (bytes(32), 0x14, 2, 128, 0),
    ClearEventRecords: (bytes(6), 2, 1, 2, 0),
    DcConfig: (bytes(24), 1, 1, 40, 16),
    ExtentList: (bytes(16), 0, 4, 40, 0),
    CapacityResponse: (bytes(8), 0, 4, 24, 0),
}


@pytest.mark.parametrize("structure", COUNTED, ids=name_of)
def test_lying_count(structure: type[Structure]) -> None:
    assert_counted(structure, COUNTED[structure], {85})


def test_most_that_fit() -> None:
    """DEV-10: at a payload of 2048 bytes 15 records, 50 extents, 85 ranges; one more would not fit."""
    assert (EventRecords.most(2048), ExtentList.most(2048), CapacityResponse.most(2048)) == (15, 50, 85)
    for structure, (empty, _, _, entry, _) in COUNTED.items():
        if hasattr(structure, "most"):
            assert structure.most(0) == 0
            assert structure.most(len(empty) + entry - 1) == 0
            assert structure.most(len(empty) + entry) == 1


ALL = sorted({type(value) for _, value in TABLES.values()}, key=lambda one: one.__name__)
SAMPLES = [data for data, _ in TABLES.values()] + [
    data for vector in MAILBOX.values() for data in (vector.request, vector.response) if data
]


def survives(data: bytes) -> None:
    survivors(ALL, data)


@given(st.binary(max_size=420))
def test_any_bytes(data: bytes) -> None:
    survives(data)


@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_bytes(sample: bytes, data: st.DataObject) -> None:
    for image in damaged(sample, data):
        survives(image)


def test_many_random_bytes() -> None:
    """Thousands of payloads of likely sizes, counts small: the same seed each time."""
    dice = random.Random(4802)
    sizes = sorted({len(sample) for sample in SAMPLES})
    for _ in range(3000):
        data = bytearray(dice.randbytes(dice.choice(sizes)))
        for at in (0, 1, 2, 0x14):
            if at < len(data):
                data[at] = dice.randrange(4)
        if len(data) in (128, 160) and dice.random() < 0.5:
            data[-128:-111] = bytes.fromhex(UUID[1]) + b"\x80"
            data[-80] = dice.randrange(7)
        survives(bytes(data))


# --- the declarations say the same as the code that runs them ------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_declaration_reads_and_writes_the_same(table: str) -> None:
    """construct, which declares the format, finds the same in the golden bytes as the code that runs it."""
    data, value = TABLES[table]
    declaration = type(value).declaration
    parsed = declaration.parse(data)
    assert declaration.build(parsed) == data
    by_construct = {name: one for name, one in flat(parsed).items() if "reserved" not in name}
    by_us: dict[str, Any] = {}
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        held = getattr(value, field.name)
        if field.name == "extent":
            by_us |= {f"extent.{name}": one for name, one in dataclasses.asdict(held).items()}
        elif isinstance(held, tuple):
            for index, one in enumerate(held):
                if isinstance(one, int):
                    by_us[f"{field.name}[{index}]"] = one
                elif isinstance(one, tuple):
                    by_us |= {f"{field.name}[{index}].start": one[0], f"{field.name}[{index}].length": one[1]}
                elif isinstance(one, DynamicCapacityRecord):
                    header = one.declaration.parse(one.to_bytes())
                    by_us |= {f"records[0].{name}": header[name] for name in HEADER_NAMES}
                    by_us["records[0].data"] = one.to_bytes()[48:]
                else:
                    by_us |= {f"{field.name}[{index}].{name}": v for name, v in dataclasses.asdict(one).items()}
        else:
            by_us[field.name] = held
    by_us = {name: one for name, one in by_us.items() if "reserved" not in name}
    only_declared = {name for name in by_construct if name not in by_us}
    assert only_declared <= {"identifier", "record_length", "count", "region_count", "returned"}, "counts, constants"
    assert by_us == {name: one for name, one in by_construct.items() if name not in only_declared}


HEADER_NAMES = (
    "identifier",
    "record_length",
    "record_flags",
    "handle",
    "related_handle",
    "timestamp_ns",
    "maintenance_operation_class",
    "maintenance_operation_subclass",
)


@given(st.sampled_from(ALL), st.data())
def test_layout_is_its_declaration(structure: type[Structure], data: st.DataObject) -> None:
    assert_layout(structure, data)


@pytest.mark.parametrize("table", TABLES)
def test_declaration_ends_where_we_end(table: str) -> None:
    data, value = TABLES[table]
    assert_ends_alike(type(value), data)


def test_layout_refuses_what_it_cannot_run() -> None:
    for kind in (construct.Int16ub, construct.Int24ub, construct.GreedyBytes, construct.Array(2, construct.Int8ul)):
        with pytest.raises(TypeError, match=r"inner\.x: a layout cannot run"):
            Layout("Any", construct.Struct("inner" / construct.Struct("x" / kind)))


# --- building ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (GetEventRecords(log=256), r"GetEventRecords: log = 256; give 0 to 0xff"),
        (GetEventRecords(log=-1), r"log = -1"),
        (GetDcConfig(region_count="8"), r"region_count = '8'"),  # type: ignore[arg-type]
        (GetExtentList(count=1 << 32), r"count = 4294967296; give 0 to 0xffffffff"),
        (ranges((1 << 64, 1)), r"CapacityResponse: start = 18446744073709551616"),
        (ranges((0, -1)), r"length = -1"),
        (ClearEventRecords(handles=(65536,)), r"handle = 65536; give 0 to 0xffff"),
        (ClearEventRecords(handles=(1,) * 256), r"count = 256; give 0 to 0xff"),
        (WireExtent(start=0, length=1, tag=bytes(17)), r"WireExtent: tag has 17 bytes; give 16, or 0"),
        (WireExtent(start=0, length=1, tag=b"short"), r"tag has 5 bytes"),
        (WireExtent(start=0, length=1, reserved=b"x"), r"reserved has 1 bytes; give 6, or 0"),
        (dataclasses.replace(RECORD_VALUE, record_flags=1 << 24), r"record_flags = 16777216; give 0 to 0xffffff"),
        (dataclasses.replace(RECORD_VALUE, record_flags=-1), r"record_flags = -1"),
        (dataclasses.replace(RECORD_VALUE, reserved=bytes(39)), r"reserved has 39 bytes; give 40"),
        (dataclasses.replace(RECORD_VALUE, extent=extent(0, 1, tag=b"x" * 17)), r"extent\.tag has 17 bytes"),
        (CapacityResponse(ranges=((0, 1),), reserved=bytes(8)), r"reserved has 8 bytes; give 11"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_values_that_do_not_fit(value: Structure, says: str) -> None:
    with pytest.raises(AskedWrongly, match=says):
        value.to_bytes()


def test_defaults_are_what_a_host_sends() -> None:
    assert GetEventRecords().to_bytes() == MAILBOX["event: one untagged extent"].request
    assert GetDcConfig().to_bytes() == MAILBOX["dc config, all regions"].request
    assert GetExtentList(count=512).to_bytes() == MAILBOX["empty extent list"].request
    assert CapacityResponse(ranges=()).to_bytes() == MAILBOX["release with no extents"].request
    assert extent(5, 6) == WireExtent(start=5, length=6, tag=b"\0" * 16)


# --- the shape of the room -----------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", [*ALL, RawRecord], ids=name_of)
def test_values_are_frozen_and_cited(structure: type) -> None:
    assert_frozen(structure, "8.2.9.")


def test_no_construct_object_leaves() -> None:
    for data, value in TABLES.values():
        assert is_plain(type(value).from_bytes(data), str, RecordType)


def test_structures_by_opcode() -> None:
    """Each key is a known opcode and a direction; 4802h and 4803h share one format."""
    assert all(Opcode(opcode) and direction in ("request", "response") for opcode, direction in STRUCTURES)
    assert STRUCTURES[0x4802, "request"] is STRUCTURES[0x4803, "request"] is CapacityResponse
    assert {opcode for opcode, _ in STRUCTURES} == set(Opcode)
    assert all(hasattr(wire, name) for name in wire.__all__)


def test_import_stays_light() -> None:
    """The guest imports this under TCG: nothing of asyncio, nothing that does I/O, nothing beyond construct."""
    program = (
        "import sys; before = set(sys.modules); import construct; allowed = set(sys.modules);"
        "import dcdbackend.wire; print(*sorted(set(sys.modules) - allowed))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    brought = {name for name in ran.stdout.split() if not name.startswith("dcdbackend")}
    assert brought == set()


def test_vectors_name_their_source() -> None:
    assert all(isinstance(vector, Vector) for vector in MAILBOX.values())
    assert len(MAILBOX) == 24
