"""`dcd decode`, `dcd encode` and what they stand on: dissection, plain values, hex in all its shapes."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import test_wire
import test_wire_fmapi
import typer
from golden import laid_out, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from dcdbackend.cli import decode as verb
from dcdbackend.cli import hexdump
from dcdbackend.errors import AskedWrongly, DcdError, MalformedBytes
from dcdbackend.wire import CapacityResponse, EventRecords, GetExtentList, RecordType, Structure, WireExtent
from dcdbackend.wire.catalog import CATALOG, COMMANDS, explain, find, meaning
from dcdbackend.wire.dissect import MAX_MESSAGES, Node, dissect, fitting
from dcdbackend.wire.fmapi import CciMessage, InitiateDcAdd, InitiateDcRelease, TunnelRequest, TunnelResponse
from dcdbackend.wire.plain import from_plain, to_plain

MIB = 1 << 20
calm = settings(deadline=None)  # other work on the machine is no fault of the code
TABLES: dict[str, tuple[bytes, Structure]] = test_wire.TABLES | test_wire_fmapi.TABLES
TUNNELED = vectors("switch CCI, tunneled to port 0")
CHAIN = TUNNELED["add three tagged extents in one chain, sequence 0 1 2"].request
ONE = TUNNELED["add one untagged extent, region 0"]


def verdict(structure: type[Structure], data: bytes) -> MalformedBytes | None:
    try:
        structure.from_bytes(data)
    except MalformedBytes as error:
        return error
    return None


def captured() -> Iterator[tuple[str, type[Structure], bytes]]:
    """Every side of every captured exchange that is a structure."""
    for name, vector in vectors("device mailbox").items():
        for way, data in (("request", vector.request), ("response", vector.response)):
            if data and name != test_wire.SHORT:
                yield f"{name}, {way}", COMMANDS[vector.opcode, way], data
    for name, vector in TUNNELED.items():
        yield f"{name}, request", TunnelRequest, vector.request
        yield f"{name}, response", TunnelResponse, vector.response
    for name, vector in test_wire_fmapi.SWITCH.items():
        tunneled = "tunneled" in vector.via
        for way, data in (("request", vector.request), ("response", vector.response)):
            structure = COMMANDS[0x5300 if tunneled else vector.opcode, way] if data else None
            if structure is not None and verdict(structure, data) is None:
                yield f"{name}, {way}", structure, data


SAMPLES: dict[str, tuple[type[Structure], bytes]] = {
    **{name: (type(value), data) for name, (data, value) in TABLES.items()},
    **{name: (structure, data) for name, structure, data in captured()},
    "a page with raw records": (
        EventRecords,
        laid_out(32, (0x14, "0200")) + test_wire.GOOD[:48] + b"\x09" + test_wire.GOOD[49:] + bytes(range(128)),
    ),
    "a failed command": (TunnelResponse, laid_out(18, (0, "0e00"), (4, "01"), (7, "0456"), (9, "02"), (12, "7700"))),
    "no list": (InitiateDcAdd, bytes(28)),
}


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def leaves(root: Node) -> list[Node]:
    """The fields: what is not a structure or a group, and not the note that something is missing."""
    return [node for node in walk(root) if not node.children and node.name != "missing"]


# --- the catalog ---------------------------------------------------------------------------------------------


def test_catalog_holds_every_structure() -> None:
    assert {entry.structure for entry in CATALOG.values()} == {type(value) for _, value in TABLES.values()}
    assert set(COMMANDS.values()) <= {entry.structure for entry in CATALOG.values()}
    assert all(entry.name == name for name, entry in CATALOG.items())


@pytest.mark.parametrize("name", CATALOG)
def test_sections_are_those_of_the_docstrings(name: str) -> None:
    """One source for each structure: what --list says is what its class says."""
    entry = CATALOG[name]
    documented = " ".join((entry.structure.__doc__ or "").split())
    assert entry.section in documented


def test_find() -> None:
    assert find("InitiateDcAdd").structure is InitiateDcAdd
    assert find("initiate-dc-add") == find("initiate_dc_add") == find("5604h") == find("0x5604")
    assert find("5300h", "response").structure is TunnelResponse
    assert find("4803h").structure is CapacityResponse
    assert find("0100h", "request").name == "GetEventRecords"
    for name, direction, says in (
        ("Nonsense", None, r"no structure is called 'Nonsense'; give a name or an opcode \(5604h\)"),
        ("5604", None, r"no structure is called '5604'"),
        ("12345h", None, r"no structure is called '12345h'"),
        ("h", None, r"no structure is called 'h'"),
        ("48ffh", None, r"no structure is known for opcode 48ffh"),
        ("5300h", None, r"5300h has a request and a response; say which"),
        ("5604h", "response", r"the response of 5604h has no payload; only its request has one"),
    ):
        with pytest.raises(AskedWrongly, match=says):
            find(name, direction)


def test_meanings_are_of_fields_that_exist() -> None:
    """A meaning for a field that is spelled otherwise would never be seen."""
    seen: dict[type[Structure], set[str]] = {}
    for structure, data in SAMPLES.values():
        for node in walk(dissect(structure, data).root):
            for child in node.children:
                name = re.sub(r"\[\d+\]", "", child.name)
                owner = CATALOG[node.structure].structure if node.structure else CapacityResponse
                prefix = "" if node.structure else re.sub(r"\[\d+\]", "", node.name) + "."
                seen.setdefault(owner, set()).add(prefix + name)
    for entry in CATALOG.values():
        held = {field.name for field in dataclasses.fields(entry.structure)}  # type: ignore[arg-type]
        for field in _meant(entry.structure):
            assert field in seen[entry.structure] | held, f"{entry.name}.{field}"


def _meant(structure: type[Structure]) -> list[str]:
    from dcdbackend.wire import catalog

    return list(catalog._MEANINGS.get(structure, {}))


def test_meanings_say() -> None:
    """DEV-4, DEV-12, DEV-13, DEV-14: words for the numbers, and a number that has none says so."""
    for structure, field, value, says in (
        (InitiateDcRelease, "flags", 0x31, "prescriptive, forced_removal, sanitize_on_release"),
        (InitiateDcRelease, "flags", 0xC0, "tag_based, bit 6 (reserved), bit 7 (reserved)"),
        (InitiateDcAdd, "selection_policy", 3, "enable_shared_access"),
        (InitiateDcAdd, "selection_policy", 0x14, "4 (not in the table), bit 4 (reserved)"),
        (InitiateDcAdd, "length", 3 << 20, "3M"),
        (CciMessage, "return_code", 0x1E, "invalid_extent_list"),
        (CciMessage, "return_code", 0x77, "119 (not in the table)"),
        (CciMessage, "opcode", 0x5604, "5604h initiate_dc_add"),
        (CciMessage, "opcode", 0x4803, "4803h release_dc"),
        (CciMessage, "opcode", 0x99, "0099h (not known here)"),
        (CciMessage, "length_and_flags", 0x800010, "16 bytes, background"),
        (WireExtent, "start", 1 << 28, "DPA 256M"),
        (find("DcdInfo").structure, "supported_block_sizes", 0x300000, "1M, 2M"),
        (find("DcdInfo").structure, "selection_policies", 4, "prescriptive"),
        (find("DcdInfo").structure, "total_capacity", 8, "2G"),
        (find("DcRegion").structure, "decode_length", 4, "1G"),
        (EventRecords, "first_overflow_timestamp_ns", 0, "none"),
        (EventRecords, "first_overflow_timestamp_ns", 10**9 + 5, "1970-01-01 00:00:01.000000005 UTC"),
        (EventRecords, "last_overflow_timestamp_ns", (1 << 64) - 1, "2554-07-21 23:34:33.709551615 UTC"),
        (find("Identify").structure, "maximum_message_size", 255, "2**255"),
        (find("DcTag").structure, "references", b"\x05" + bytes(31), "0, 2"),
        (WireExtent, "tag", bytes(16), "untagged"),
        (WireExtent, "reserved", b"\0\1", "not zero"),
        (GetExtentList, "count", 7, "7"),
    ):
        assert explain(structure, field, value) == says
    assert meaning(GetExtentList, "count") is None


# --- dissection ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_every_byte_is_in_one_field(name: str) -> None:
    """The fields of good bytes cover them, in order, once; their values are those bytes."""
    structure, data = SAMPLES[name]
    found = dissect(structure, data)
    assert found.error is None
    at = 0
    for leaf in leaves(found.root):
        assert leaf.offset_bytes == at
        there = data[at : at + leaf.size_bytes]
        assert leaf.value == (there if isinstance(leaf.value, bytes) else int.from_bytes(there, "little"))
        at += leaf.size_bytes
    assert at == len(data)
    for node in walk(found.root):
        assert not node.error
        assert bool(node.structure) == bool(node.section)
        if node.children:
            assert node.offset_bytes == node.children[0].offset_bytes
            assert node.size_bytes == sum(child.size_bytes for child in node.children)
    assert (found.root.name, found.root.size_bytes) == (structure.__name__, len(data))


def test_nested_down_to_the_extents() -> None:
    """Tunnel, message, 5604h, extents: names, offsets, sections, and what the numbers mean (DEV-13)."""
    found = dissect(TunnelRequest, CHAIN)
    structures = [(node.name, node.structure, node.offset_bytes) for node in walk(found.root) if node.structure]
    assert structures == [
        ("TunnelRequest", "TunnelRequest", 0),
        ("message", "CciMessage", 4),
        ("payload", "InitiateDcAdd", 16),
        ("extents[0]", "WireExtent", 0x30),
        ("extents[1]", "WireExtent", 0x58),
        ("extents[2]", "WireExtent", 0x80),
    ]
    by_offset = {(node.offset_bytes, node.name): node for node in leaves(found.root)}
    assert by_offset[0x12, "selection_policy"].note == "prescriptive"
    assert by_offset[0x30, "start"].value == 16 * MIB
    assert by_offset[0x30, "start"].note == "DPA 16M"
    assert by_offset[0xA0, "sequence"].value == 2


def test_records_in_a_page() -> None:
    """DEV-4, DEV-16: a record of this kind is opened, another is not; one that cannot be read says why."""
    good = test_wire.GOOD
    odd = good[:48] + b"\x09" + good[49:]
    other = bytes(16) + good[16:]
    data = laid_out(32, (0x14, "0300")) + good + odd + other
    found = dissect(EventRecords, data)
    assert found.error is None
    records = [node for node in found.root.children if node.name.startswith("records")]
    assert [node.structure for node in records] == ["DynamicCapacityRecord", "DynamicCapacityRecord", ""]
    assert [node.note for node in records[:1]] == [""]
    assert "type is 9; 0 to 5 are defined" in records[1].note
    assert [node.name for node in records[2].children][-1] == "data"


def assert_agrees(structure: type[Structure], data: bytes) -> None:
    """The tree shows what is there; its error is from_bytes's, or that of a payload, marked at one field."""
    found = dissect(structure, data)
    error = verdict(structure, data)
    if error is not None:
        assert found.error is not None
        assert (found.error.message, found.error.offset_bytes) == (error.message, error.offset_bytes)
    elif found.error is not None:
        assert "in its payload, " in found.error.message
        assert any(node.structure == "CciMessage" for node in walk(found.root))
    marked = [node for node in walk(found.root) if node.error]
    assert len(marked) == (found.error is not None)
    if found.error is not None:
        fails = found.error.offset_bytes
        assert marked[0].error == found.error.message
        assert marked[0].offset_bytes <= fails <= marked[0].offset_bytes + marked[0].size_bytes
        assert (found.error.structure, found.error.data) == (structure.__name__, data)
    covered = 0
    for leaf in leaves(found.root):
        assert leaf.offset_bytes == covered, "no byte is shown twice, or left out"
        covered += leaf.size_bytes
    assert covered == len(data)


@pytest.mark.parametrize("name", SAMPLES)
def test_cut_at_every_byte(name: str) -> None:
    """Shown as far as they go; the mark is where they end."""
    structure, data = SAMPLES[name]
    for end in range(len(data)):
        assert_agrees(structure, data[:end])
    for more in (b"\0", b"\xff" * 40, data):
        assert_agrees(structure, data + more)


def test_captured_lies() -> None:
    """What devices refused for its lengths is shown as far as it goes, too."""
    lies: list[tuple[type[Structure], bytes]] = [(CapacityResponse, test_wire.MAILBOX[test_wire.SHORT].request)]
    for name, (wrong, _, _) in test_wire_fmapi.ASKED_THROUGH_A_TUNNEL.items():
        if wrong:
            lies.append((TunnelRequest, test_wire_fmapi.SWITCH[name].request))
    assert len(lies) == 5
    for structure, data in lies:
        assert verdict(structure, data) is not None
        assert_agrees(structure, data)


def test_where_a_lie_is_marked() -> None:
    """A tunnel that claims more, a tunnel that claims less, a message, a count, a record's identifier."""

    def mark(structure: type[Structure], data: bytes) -> tuple[str, int, int]:
        (node,) = [node for node in walk(dissect(structure, data).root) if node.error]
        return node.name, node.offset_bytes, node.size_bytes

    good = ONE.request
    assert len(good) == 88
    assert mark(TunnelRequest, good[:2] + b"\x55" + good[3:]) == ("missing", 88, 0)
    assert mark(TunnelRequest, good[:2] + b"\x53" + good[3:]) == ("surplus", 87, 1)
    assert mark(TunnelRequest, good[:9] + b"\x47" + good[10:]) == ("surplus", 87, 1)
    assert mark(TunnelRequest, good[:9] + b"\x49" + good[10:]) == ("missing", 88, 0)
    assert mark(TunnelRequest, good[:0x2C] + b"\x02" + good[0x2D:]) == ("start", 88, 0)
    assert mark(TunnelRequest, good[:0x2C] + b"\x00" + good[0x2D:]) == ("surplus", 0x30, 40)
    assert mark(CATALOG["DynamicCapacityRecord"].structure, b"\0" + test_wire.GOOD[1:]) == ("identifier", 0, 16)


@calm
@given(st.sampled_from(list(SAMPLES.values())), st.data())
def test_damaged_bytes(sample: tuple[type[Structure], bytes], data: st.DataObject) -> None:
    structure, good = sample
    damaged = bytearray(good)
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)), max_size=6)):
        damaged[at] = value
    assert_agrees(structure, bytes(damaged))
    assert_agrees(structure, bytes(damaged[: data.draw(st.integers(0, len(good)))]))


@calm
@given(st.sampled_from([entry.structure for entry in CATALOG.values()]), st.binary(max_size=200))
def test_any_bytes(structure: type[Structure], data: bytes) -> None:
    assert_agrees(structure, data)
    assert set(fitting(data)) <= set(CATALOG)


def tunnels(depth: int) -> TunnelRequest:
    """Tunnels inside each other, the last around a 5600h."""
    message = CciMessage.request(0x5600)
    for _ in range(depth - 1):
        message = CciMessage.request(0x5300, TunnelRequest(message=message))
    return TunnelRequest(message=message)


def test_nesting_is_bounded() -> None:
    """Thousands of tunnels in 64 KiB are no reason to run out of stack; the deepest stay bytes."""
    for depth in (1, 3, MAX_MESSAGES, MAX_MESSAGES + 1, 4000):
        data = tunnels(depth).to_bytes()
        found = dissect(TunnelRequest, data)
        assert found.error is None
        opened = [node for node in walk(found.root) if node.structure == "CciMessage"]
        assert len(opened) == min(depth, MAX_MESSAGES + 1)
        too_deep = [node.note for node in walk(found.root) if "too deep to open" in node.note]
        assert len(too_deep) == (depth > MAX_MESSAGES + 1)
        plain = to_plain(tunnels(depth))
        assert from_plain(TunnelRequest, json.loads(json.dumps(plain))) == tunnels(depth)


# --- plain values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_plain_round_trip(name: str) -> None:
    """Every structure and every captured side: to JSON and back to the same bytes."""
    structure, data = SAMPLES[name]
    value = structure.from_bytes(data)
    plain = json.loads(json.dumps(to_plain(value)))
    assert from_plain(structure, plain) == value
    assert from_plain(structure, plain).to_bytes() == data


@calm
@given(st.sampled_from(list(SAMPLES.values())), st.data())
def test_plain_round_trip_of_damaged_values(sample: tuple[type[Structure], bytes], data: st.DataObject) -> None:
    """Whatever parses has a plain form that builds back to it: odd numbers, reserved bytes, raw records."""
    structure, good = sample
    damaged = bytearray(good)
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)), max_size=4)):
        damaged[at] = byte
    if verdict(structure, bytes(damaged)) is None:
        value = structure.from_bytes(bytes(damaged))
        assert from_plain(structure, json.loads(json.dumps(to_plain(value)))) == value


def test_plain_values_by_hand() -> None:
    """Numbers as text, names, lists of names, payloads as objects; what has a default left out."""
    got = from_plain(
        TunnelRequest,
        {
            "message": {
                "opcode": "initiate_dc_add",
                "tag": "0x5a",
                "payload": {
                    "selection_policy": "prescriptive",
                    "extents": [{"start": "256M", "length": "0x200000", "tag": "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"}],
                },
            }
        },
    )
    tag = bytes.fromhex("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
    asked = InitiateDcAdd(extents=(WireExtent(start=256 * MIB, length=2 * MIB, tag=tag),))
    assert got == TunnelRequest(message=CciMessage.request(0x5604, asked, tag=0x5A))
    release = from_plain(InitiateDcRelease, {"flags": ["Prescriptive", "forced-removal"], "extents": []})
    assert release == InitiateDcRelease(flags=0x11, extents=())
    assert from_plain(InitiateDcAdd, {"selection_policy": "free", "extents": None}).to_bytes() == bytes(28)
    assert from_plain(CapacityResponse, {"ranges": [[0, "2M"], {"start": 1, "length": 2}]}) == CapacityResponse(
        ranges=((0, 2 * MIB), (1, 2))
    )
    raw = from_plain(EventRecords, {"records": [{"data": "00" * 128}]})
    assert raw.to_bytes() == laid_out(32, (0x14, "0100")) + bytes(128)
    record = {"handle": 1, "type": "forced_release", "extent": {"start": 0, "length": 1}}
    page = from_plain(EventRecords, {"records": [record]})
    assert isinstance(page, EventRecords)
    assert getattr(page.records[0], "type", None) is RecordType.FORCED_RELEASE


def test_plain_nesting_is_bounded() -> None:
    """Objects inside objects by the hundred, as JSON can have them: one line, no stack run out."""
    plain: Any = {"opcode": "5600h"}
    for _ in range(300):
        plain = {"opcode": "5300h", "payload": {"message": plain}}
    with pytest.raises(AskedWrongly, match=f"is inside {MAX_MESSAGES} messages; give it as hex"):
        from_plain(CciMessage, plain)


@pytest.mark.parametrize(
    ("structure", "plain", "says"),
    [
        (InitiateDcAdd, [], r"InitiateDcAdd is \[\]; give an object with extents and, if wanted, selection_policy"),
        (InitiateDcAdd, {"extents": [], "hots": 1}, r"has no field 'hots'; it has extents and, if wanted, .*host_id"),
        (InitiateDcAdd, {}, r"InitiateDcAdd lacks extents; it has extents and"),
        (WireExtent, {"tag": ""}, r"WireExtent lacks start, length; it has start, length and, if wanted, tag"),
        (InitiateDcAdd, {"extents": {}}, r"InitiateDcAdd\.extents is \{\}; give a list"),
        (InitiateDcAdd, {"extents": [3]}, r"InitiateDcAdd\.extents\[0\] is 3; give an object"),
        (
            InitiateDcAdd,
            {"extents": [], "selection_policy": "best"},
            r"selection_policy is 'best'; give a number \(12, 0x1c, 256M\), or free, contiguous, prescriptive",
        ),
        (InitiateDcAdd, {"extents": [], "region": True}, r"region is True; give a number"),
        (InitiateDcAdd, {"extents": [], "region": 1.5}, r"region is 1\.5; give a number"),
        (InitiateDcAdd, {"extents": [], "region": None}, r"region is None; give a number"),
        (InitiateDcAdd, {"extents": [], "region": []}, r"region is \[\]; give a number"),
        (InitiateDcAdd, {"extents": [], "tag": "xy"}, r"InitiateDcAdd\.tag is 'xy'; give bytes as hex text"),
        (InitiateDcAdd, {"extents": [], "tag": 7}, r"InitiateDcAdd\.tag is 7; give bytes as hex text"),
        (CapacityResponse, {"ranges": [[1]]}, r"CapacityResponse\.ranges\[0\] is \[1\]; give \[start, length\]"),
        (CapacityResponse, {"ranges": [{"start": 1}]}, r"ranges\[0\] is \{'start': 1\}; give \[start, length\]"),
        (CciMessage, {"opcode": "5600h", "payload": {}}, r"payload: no structure is known for the request 5600h"),
        (CciMessage, {"payload": {}}, r"CciMessage lacks opcode"),
        (TunnelRequest, {"message": {"opcode": "nonsense"}}, r"TunnelRequest\.message\.opcode is 'nonsense'"),
        (TunnelRequest, {"message": {"opcode": 1}, "size": 12}, r"TunnelRequest has no field 'size'; it has message"),
        (
            EventRecords,
            {"records": [{"handle": 1, "type": 9, "extent": {"start": 0, "length": 1}}]},
            r"EventRecords\.records\[0\]\.type is 9; give 0 ADD_CAPACITY, 1 RELEASE_CAPACITY",
        ),
        (EventRecords, {"records": [{"data": "00"}]}, r"records\[0\]\.data has 1 bytes; a record has 128"),
    ],
)
def test_plain_values_that_are_wrong(structure: type[Structure], plain: Any, says: str) -> None:
    with pytest.raises(AskedWrongly, match=says) as wrong:
        from_plain(structure, plain)
    assert "\n" not in str(wrong.value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@calm
@given(st.sampled_from(list(SAMPLES.values())), PLAIN, st.data())
def test_any_plain_value(sample: tuple[type[Structure], bytes], junk: Any, data: st.DataObject) -> None:
    """Whatever stands in a field: bytes, or one line of AskedWrongly."""
    structure, good = sample
    plain = to_plain(structure.from_bytes(good))
    plain[data.draw(st.sampled_from(sorted(plain)))] = junk
    for candidate in (plain, junk):
        try:
            built = from_plain(structure, candidate)
            assert isinstance(built.to_bytes(), bytes)
        except AskedWrongly as wrong:
            assert "\n" not in wrong.message


# --- hex -----------------------------------------------------------------------------------------------------

NASTY = bytes.fromhex("6162207c63647c203132203334203e20202020207c7c5c78") + bytes(64) + b"0123456789abcdef|>"


def xxd(data: bytes, group: int = 2) -> str:
    lines = []
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        groups = [row[i : i + group].hex() for i in range(0, len(row), group)]
        lines.append(f"{at:08x}: {' '.join(groups):<{32 + 16 // group - 1}}  {shown(row)}")
    return "\n".join(lines) + "\n"


def hexdump_c(data: bytes, *, squeeze: bool = True) -> str:
    lines: list[str] = []
    last = b""
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        if squeeze and row == last and len(row) == 16:
            if lines[-1] != "*":
                lines.append("*")
            continue
        last = row
        pairs = [f"{byte:02x}" for byte in row]
        both = " ".join(pairs[:8]) + "  " + " ".join(pairs[8:])
        lines.append(f"{at:08x}  {both:<48}  |{shown(row)}|")
    return "\n".join([*lines, f"{len(data):08x}"]) + "\n"


def shown(row: bytes) -> str:
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)


HEX_FORMS: dict[str, Callable[[bytes], str]] = {
    "bare": lambda data: data.hex(),
    "upper": lambda data: data.hex().upper(),
    "spaced": lambda data: data.hex(" "),
    "words": lambda data: data.hex(" ", 4),
    "lines": lambda data: "\n\n".join(data.hex()[at : at + 30] for at in range(0, 2 * len(data), 30)),
    "0x": lambda data: "0x" + data.hex(),
    "c array": lambda data: "{ " + ", ".join(f"0x{byte:02X}" for byte in data) + " };",
    "python": lambda data: '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"',
    "colons": lambda data: data.hex(":"),
    "dashes": lambda data: data.hex("-"),
    "xxd": xxd,
    "xxd -g1": lambda data: xxd(data, 1),
    "xxd -g4": lambda data: xxd(data, 4),
    "hexdump -C": hexdump_c,
    "hexdump -vC": lambda data: hexdump_c(data, squeeze=False),
    "od -A x -t x1": lambda data: (
        "".join(f"{at:06x} {data[at : at + 16].hex(' ')}\n" for at in range(0, len(data), 16)) + f"{len(data):06x}\n"
    ),
    "od -t x1z": lambda data: (
        "".join(
            f"{at:07o} {data[at : at + 16].hex(' '):<47}  >{shown(data[at : at + 16])}<\n"
            for at in range(0, len(data), 16)
        )
        + f"{len(data):07o}\n"
    ),
    "tcpdump -X": lambda data: "".join(
        f"\t0x{at:04x}:  {data[at : at + 16].hex(' ', -2):<39}  {shown(data[at : at + 16])}\n"
        for at in range(0, len(data), 16)
    ),
    "dissector": lambda data: "".join(
        f"{at:04x}   {data[at : at + 16].hex(' '):<47}   {shown(data[at : at + 16])}\n"
        for at in range(0, len(data), 16)
    ),
    "windows": lambda data: xxd(data).replace("\n", "\r\n"),
}


@pytest.mark.parametrize("form", HEX_FORMS)
@pytest.mark.parametrize("data", [CHAIN, NASTY, bytes(100), b"\x00", bytes(range(256))], ids=lambda data: len(data))
def test_hex_forms(form: str, data: bytes) -> None:
    assert hexdump.read(HEX_FORMS[form](data)) == data


@calm
@given(st.binary(min_size=1, max_size=80), st.sampled_from(sorted(HEX_FORMS)))
def test_hex_forms_of_any_bytes(data: bytes, form: str) -> None:
    assert hexdump.read(HEX_FORMS[form](data)) == data


def test_part_of_a_dump() -> None:
    """Rows from the middle: offsets count from the first."""
    for form in ("xxd", "hexdump -vC", "dissector"):
        rows = HEX_FORMS[form](CHAIN).splitlines()[2:5]
        assert hexdump.read("\n".join(rows)) == CHAIN[32:80]
        assert hexdump.read(rows[0]) == CHAIN[32:48]
    assert hexdump.read("5604 00 01") == bytes.fromhex("56040001"), "no zero, one space: bytes in uneven groups"


def test_hex_by_real_tools(tmp_path: Path) -> None:
    """The same forms as the programs of this machine write them, where it has them."""
    path = tmp_path / "bytes"
    for data in (CHAIN, NASTY, bytes(200)):
        path.write_bytes(data)
        for command in (["xxd"], ["xxd", "-p"], ["hexdump", "-C"], ["hd"], ["od", "-A", "x", "-t", "x1z"]):
            try:
                ran = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=60, check=True)
            except FileNotFoundError:
                continue
            assert hexdump.read(ran.stdout) == data, command


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0g", r"line 1: '0g' is not hex; for bytes as they are, add --binary"),
        ("00\n\n00 1", r"line 3: '1' has an odd number of digits; give two for each byte"),
        ("0x", r"line 1: '0x' is not hex"),
        ("0000000 0054 5a00 0400\n", r"line 1: these are hexdump's 16-bit words.*use `hexdump -C` or xxd"),
        ("00000000: 0011\n00000010: 2233", r"line 2: offset 00000010, and 2 bytes come before it; are lines missing"),
        ("00000000: 0011\nnonsense", r"line 2: 'nonsense' is no row of this dump"),
        ("00000000: 0011  ..\n*\n00000003", r"line 3: '00000003' is no row"),
        ("00000000  00 11  |..|\n*\n00000003", r"line 3: the rows that \* stands for do not reach offset 00000003"),
        ("00000000  00 11  |..|\n*\nfffffff0", r"line 3: the rows that \* stands for do not reach offset fffffff0"),
        ("00000000: 0011  ab", r"line 1: 'ab' beside the bytes is not what they are as text"),
        ("00000000: 00 11 22 33  44 55", r"line 1: '44 55' beside the bytes is not what they are"),
        ("00000000: 0 11", r"line 1: '0' is not hex bytes"),
        ("00000000 54", r"line 1: 00000000 may be an offset or bytes; put two spaces after an offset, or none"),
        ("00000000  00 11  |.a|", r"line 1: '\|\.a\|' beside the bytes is not what they are as text"),
    ],
)
def test_hex_that_is_wrong(text: str, says: str) -> None:
    with pytest.raises(AskedWrongly, match=says):
        hexdump.read(text)


@calm
@given(st.text(alphabet="0123456789abcdefx: \n|>*,\\.", max_size=60))
def test_any_text(text: str) -> None:
    """Bytes or AskedWrongly, nothing else."""
    try:
        assert isinstance(hexdump.read(text), bytes)
    except AskedWrongly as wrong:
        assert wrong.message.startswith("line ")


# --- the verbs -----------------------------------------------------------------------------------------------


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def dcd(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Any:
    """Runs a command line of the two verbs; errors become what the command line makes of them."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command("decode")(verb.decode)
    app.command("encode")(verb.encode)

    def run(*arguments: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        said, code = "", 0
        try:
            result = app(args=list(arguments), standalone_mode=False, prog_name="dcd")
            code = result if isinstance(result, int) else 0
        except DcdError as error:
            said, code = f"{error}", error.exit_code
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Ran(code, out.decode(), err.decode() + said)

    return run


def test_decode_a_tunnel(dcd: Any) -> None:
    """Offsets, sizes, names, raw values, meanings and sections, from the tunnel to the extents."""
    ran = dcd("decode", "--as", "5300h", "--request", ONE.request.hex())
    assert (ran.code, ran.err) == (0, "")
    lines = [re.sub(r"\s{2,}", "  ", line) for line in ran.out.splitlines()]
    assert lines[0] == "0x0000  88  TunnelRequest  TunnelRequest, CXL r3.1 7.6.7.3.1, table 7-37"
    assert "0x0002  2  size  0x0054  84 bytes" in lines
    assert "0x0007  2  opcode  0x5604  5604h initiate_dc_add" in lines
    assert "0x0010  72  payload  InitiateDcAdd, CXL r3.1 7.6.7.6.5, table 7-70" in lines
    assert "0x0012  1  selection_policy  0x02  prescriptive" in lines
    assert "0x0038  8  length  0x0000000000200000  2M" in lines
    assert "0x0040  16  tag  00000000000000000000000000000000  untagged" in lines
    assert not any(line != line.rstrip() for line in ran.out.splitlines())


def test_decode_takes_bytes_from_everywhere(dcd: Any, tmp_path: Path) -> None:
    wanted = dcd("decode", "--as", "TunnelRequest", CHAIN.hex()).out
    for path, content in (
        (tmp_path / "one.bin", CHAIN),
        (tmp_path / "two.hex", CHAIN.hex(" ").encode()),
        (tmp_path / "three.xxd", xxd(CHAIN).encode()),
    ):
        path.write_bytes(content)
        for ran in (
            dcd("decode", "--as", "TunnelRequest", "--file", str(path)),
            dcd("decode", "--as", "TunnelRequest", str(path)),
            dcd("decode", "--as", "TunnelRequest", stdin=content),
        ):
            assert ran == Ran(0, wanted, "")
    words = CHAIN.hex(" ").split()
    assert dcd("decode", "--as", "TunnelRequest", *words) == Ran(0, wanted, "")
    looks_like_hex = dcd("decode", "--as", "GetExtentList", "--binary", stdin=b"00000000")
    assert looks_like_hex.code == 0 and "0x30303030" in looks_like_hex.out


def test_decode_malformed(dcd: Any) -> None:
    """Shown as far as it got, the failing byte marked, one line, exit 1."""
    ran = dcd("decode", "--as", "TunnelRequest", CHAIN[:70].hex())
    assert ran.code == 1
    assert ran.err.startswith("TunnelRequest: ends early: it takes 168 bytes for its message of 164, 70 are there")
    assert "(at byte 70 of 70)" in ran.err and "\n" not in ran.err
    *before, marked = ran.out.splitlines()
    assert before[-1].split()[:4] == ["0x0040", "6", "tag", "0f1e2d3c4b5a"]
    assert before[-1].endswith("6 of 16 bytes")
    assert marked.strip().startswith("^^^^ TunnelRequest: ends early")
    inside = dcd("decode", "--as", "TunnelRequest", CHAIN[:0x2C].hex() + "04" + CHAIN[0x2D:].hex())
    assert inside.code == 1
    assert "in its payload, InitiateDcAdd: ends early: it takes 192 bytes for its count of 4" in inside.err
    assert "(at byte 168 of 168)" in inside.err
    empty = dcd("decode", "--as", "TunnelRequest", stdin=b"")
    assert empty.code == 1 and "it takes 4 bytes, 0 are there" in empty.err


def test_decode_guesses_only_what_is_sure(dcd: Any) -> None:
    ran = dcd("decode", CHAIN.hex())
    assert ran.code == 0 and ran.err == "read as TunnelRequest: nothing else fits\n"
    assert dcd("decode", "--as", "TunnelRequest", CHAIN.hex()).out == ran.out
    several = dcd("decode", "00" * 40)
    assert several.code == 2 and several.out == ""
    assert several.err.startswith("these 40 bytes could be ") and several.err.endswith("say with --as what they are")
    assert {"DcRegion", "HostDcRegion", "WireExtent"} <= set(re.findall(r"\w+", several.err))
    none = dcd("decode", "01" * 37)
    assert none.code == 2 and "these 37 bytes are no structure that is known; say with --as" in none.err


def test_every_guess_is_right_or_not_made() -> None:
    """What a captured side really is, is always among what its bytes could be."""
    sure = 0
    for structure, data in SAMPLES.values():
        fits = fitting(data)
        assert structure.__name__ in fits
        sure += len(fits) == 1
    assert sure > len(SAMPLES) // 3


def test_decode_json(dcd: Any) -> None:
    ran = dcd("decode", "--json", "--as", "TunnelRequest", ONE.request.hex())
    got = json.loads(ran.out)
    assert (ran.code, got["structure"], got["size_bytes"], got["error"]) == (0, "TunnelRequest", 88, None)
    assert got["section"] == "CXL r3.1 7.6.7.3.1, table 7-37"
    assert got["value"]["message"]["opcode"] == "5604h"
    assert got["value"]["message"]["payload"]["extents"][0]["length"] == 2 * MIB
    message = got["tree"]["children"][-1]
    assert (message["name"], message["structure"], message["offset_bytes"]) == ("message", "CciMessage", 4)
    assert message["children"][3] == {
        "name": "opcode",
        "offset_bytes": 7,
        "size_bytes": 2,
        "value": 0x5604,
        "note": "5604h initiate_dc_add",
    }
    bad = dcd("decode", "--json", "--as", "TunnelRequest", ONE.request[:50].hex())
    got = json.loads(bad.out)
    assert bad.code == 1 and got["value"] is None and got["error"]["offset_bytes"] == 50
    assert next(node for node in _nodes(got["tree"]) if "error" in node)["name"] == "start"


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("children", ()):
        yield from _nodes(child)


@pytest.mark.parametrize("name", SAMPLES)
def test_decode_and_encode_are_inverse(dcd: Any, name: str) -> None:
    """Every structure and every captured side, through both command lines."""
    structure, data = SAMPLES[name]
    decoded = dcd("decode", "--json", "--as", structure.__name__, data.hex())
    assert decoded.code == 0
    for given_json in (decoded.out, json.dumps(json.loads(decoded.out)["value"])):
        assert dcd("encode", structure.__name__, stdin=given_json.encode()) == Ran(0, data.hex() + "\n", "")
    assert dcd("decode", "--as", structure.__name__, data.hex()).code == 0


def test_encode_goes_where_it_should(dcd: Any, tmp_path: Path) -> None:
    fields = '{"count": 5}'
    source, target = tmp_path / "in.json", tmp_path / "out.bin"
    source.write_text(fields)
    for ran in (dcd("encode", "GetExtentList", fields), dcd("encode", "4801h", "--request", "-f", str(source))):
        assert ran == Ran(0, "0500000000000000\n", "")
    assert dcd("encode", "GetExtentList", fields, "--binary", "-o", str(target)) == Ran(0, "", "")
    assert target.read_bytes() == GetExtentList(count=5).to_bytes()
    assert dcd("encode", "GetExtentList", fields, "--binary").out == "\x05" + "\0" * 7


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (("encode", "GetExtentList", '{"cuont": 5}'), b"", "GetExtentList has no field 'cuont'; it has count and, if"),
        (("encode", "GetExtentList", "{}"), b"", "GetExtentList lacks count; it has count and, if wanted, start"),
        (("encode", "GetExtentList", '{"count": 4294967296}'), b"", "count = 4294967296; give 0 to 0xffffffff"),
        (("encode", "GetExtentList", '{"count": -1}'), b"", "count = -1; give 0 to 0xffffffff"),
        (("encode", "GetExtentList", "{count: 5}"), b"", "this is not JSON: .* at line 1 column 2"),
        (("encode", "GetExtentList"), b"\xff{}", "this is not JSON: byte 0 is not UTF-8"),
        (("encode", "GetExtentList", '{"count": 1, "count": 2}'), b"", "has 'count' twice in one object"),
        (("encode", "GetExtentList", "[" * 100_000), b"", "this JSON cannot be read"),
        (("encode", "GetExtentList", "1" * 5000), b"", "this JSON cannot be read"),
        (("encode", "Nothing", "{}"), b"", "no structure is called 'Nothing'"),
        (("encode", "5300h", "{}"), b"", "5300h has a request and a response"),
        (("encode", "5300h", "{}", "--request", "--response"), b"", "--request and --response were given; give one"),
        (("encode", "GetExtentList", "{}", "-f", "x"), b"", "both JSON and --file were given; give one"),
        (("encode", "GetExtentList", "-f", "/nowhere/x"), b"", "cannot read /nowhere/x: No such file"),
        (("encode", "GetExtentList", '{"count":1}', "-o", "/nowhere/x"), b"", "cannot write /nowhere/x: No such file"),
        (
            ("encode", "GetExtentList", '{"structure":"DcTags","value":{},"tree":{}}'),
            b"",
            "the JSON is of DcTags, not of GetExtentList",
        ),
        (
            ("encode", "GetExtentList", '{"structure":"GetExtentList","value":null,"tree":{}}'),
            b"",
            "the JSON is of malformed bytes: it has no value",
        ),
        (("decode", "--as", "Nothing", "00"), b"", "no structure is called 'Nothing'"),
        (("decode", "--as", "DcTags", "00", "-f", "x"), b"", "both hex and --file were given; give one"),
        (("decode", "--as", "DcTags", "0g", "00"), b"", "line 1: '0g' is not hex"),
        (("decode", "--as", "DcTags", "nowhere.bin"), b"", "cannot read nowhere.bin: No such file or directory"),
        (("decode", "--as", "DcTags", "x" * 5000), b"", "cannot read x+: File name too long"),
        (("decode", "--as", "DcTags", "x\0y"), b"", "cannot read x.y: embedded null byte"),
        (("decode", "--as", "DcTags", "--binary", "00"), b"", "--binary is for --file and stdin"),
        (("decode", "--as", "DcTags"), b"what is this", "line 1: 'what' is not hex; for bytes as they are"),
    ],
)
def test_wrong_usage_is_one_line(dcd: Any, arguments: tuple[str, ...], stdin: bytes, says: str) -> None:
    ran = dcd(*arguments, stdin=stdin)
    assert (ran.code, ran.out) == (2, "")
    assert re.search(says, ran.err)
    assert "\n" not in ran.err


def test_input_is_bounded(dcd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "MAX_INPUT", 100)
    ran = dcd("decode", "--as", "DcTags", stdin=bytes(101))
    assert ran.code == 2 and "stdin has more than 100 bytes" in ran.err
    assert dcd("decode", "--as", "DcTags", stdin=bytes(100)).code == 1


def test_list(dcd: Any) -> None:
    ran = dcd("decode", "--list")
    assert ran.code == 0
    rows = {line.split()[0]: line for line in ran.out.splitlines()[1:]}
    assert set(rows) == set(CATALOG)
    assert "5604h request" in rows["InitiateDcAdd"] and "CXL r3.1 7.6.7.6.5, table 7-70" in rows["InitiateDcAdd"]
    assert "4802h request, 4803h request" in rows["CapacityResponse"]
    assert "(inside others)" in rows["WireExtent"]


# --- on a terminal -------------------------------------------------------------------------------------------

PROGRAM = """
import sys, typer
from dcdbackend.cli import decode
app = typer.Typer()
app.command("decode")(decode.decode)
app.command("encode")(decode.encode)
app(args=sys.argv[1:], standalone_mode=False)
"""


PATIENCE_S = 60.0


def on_terminal(*arguments: str, **environment: str) -> str:
    """What the verbs print when stdout is a terminal."""
    leader, follower = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=clean | {"TERM": "xterm-256color", "COLUMNS": "200", **environment},
    ) as process:
        os.close(follower)
        said = b""
        while select.select([leader], [], [], PATIENCE_S)[0]:
            try:
                said += os.read(leader, 65536)
            except OSError:  # how a terminal says that the other end is closed
                break
        else:
            process.kill()
            pytest.fail(f"nothing more came in {PATIENCE_S} s after {said!r}")
        process.wait(timeout=60)
    os.close(leader)
    return said.decode()


def test_a_terminal_gets_a_tree() -> None:
    """Colours unless NO_COLOR is set; plain lines on a terminal that can do nothing."""
    arguments = ("decode", "--as", "TunnelRequest", ONE.request.hex())
    coloured = on_terminal(*arguments)
    assert "└──" in coloured and "\x1b[32m" in coloured and "extents[0]" in coloured
    uncoloured = on_terminal(*arguments, NO_COLOR="1")
    assert "└──" in uncoloured and not re.search(r"\x1b\[[0-9;]*3[0-7]m", uncoloured)
    assert "└──" not in on_terminal(*arguments, TERM="dumb")


def test_a_terminal_is_not_waited_for_nor_filled_with_bytes() -> None:
    assert "nothing was given; give hex on the command line" in on_terminal("decode", "--as", "DcTags")
    assert "bytes would go to the terminal" in on_terminal("encode", "GetExtentList", '{"count":1}', "--binary")
