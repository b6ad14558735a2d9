"""Every structure of this package by name: its command, its section, and what the numbers in it mean.

For those who show bytes to people (`dissect`) or take values from them (`plain`); what reads and writes the bytes
needs none of it, and the guest does not import it. A meaning here explains a number; it never judges one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

from ..errors import AskedWrongly
from ..units import format_size
from . import STRUCTURES as MAILBOX_STRUCTURES
from . import fmapi
from .cci import IdentifyMemoryDevice, Opcode, ReturnCode
from .dcd import CapacityResponse, DcConfig, DcRegion, ExtentList, GetDcConfig, GetExtentList, WireExtent
from .events import (
    DYNAMIC_CAPACITY_UUID,
    ClearEventRecords,
    DynamicCapacityRecord,
    EventRecords,
    GetEventRecords,
    RecordType,
)
from .fmapi import (
    CciMessage,
    DcdInfo,
    DcListTags,
    DcReference,
    DcRegionExtentLists,
    DcTag,
    DcTags,
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
    PortState,
    SetDcRegionConfig,
    TunnelRequest,
    TunnelResponse,
)
from .layout import Structure

Command = tuple[int, str]
"""Opcode and direction: (0x5604, "request")."""

COMMANDS: Mapping[Command, type[Structure]] = MappingProxyType(MAILBOX_STRUCTURES | fmapi.STRUCTURES)
"""Every command's structures, the host's and the manager's."""


class Entry(NamedTuple):
    """A structure: its class, and where CXL r3.1 describes it."""

    structure: type[Structure]
    section: str

    @property
    def name(self) -> str:
        return self.structure.__name__

    @property
    def commands(self) -> tuple[Command, ...]:
        """The commands whose payload it is; none for a part of one."""
        return tuple(sorted(command for command, structure in COMMANDS.items() if structure is self.structure))


CATALOG: Mapping[str, Entry] = MappingProxyType(
    {
        structure.__name__: Entry(structure, f"CXL r3.1 {section}")
        for structure, section in (
            (GetEventRecords, "8.2.9.2.2, table 8-52"),
            (EventRecords, "8.2.9.2.2, table 8-53"),
            (DynamicCapacityRecord, "8.2.9.2.1.6, tables 8-43 and 8-50"),
            (ClearEventRecords, "8.2.9.2.3, table 8-54"),
            (IdentifyMemoryDevice, "8.2.9.9.1.1, table 8-127"),
            (GetDcConfig, "8.2.9.9.9.1, table 8-163"),
            (DcConfig, "8.2.9.9.9.1, table 8-164"),
            (DcRegion, "8.2.9.9.9.1, table 8-165"),
            (GetExtentList, "8.2.9.9.9.2, table 8-166"),
            (ExtentList, "8.2.9.9.9.2, table 8-167"),
            (WireExtent, "8.2.9.2.1.6, table 8-51"),
            (CapacityResponse, "8.2.9.9.9.3, tables 8-168 and 8-169"),
            (Identify, "8.2.9.1.1, table 8-38"),
            (CciMessage, "7.6.3, table 7-14"),
            (TunnelRequest, "7.6.7.3.1, table 7-37"),
            (TunnelResponse, "7.6.7.3.1, table 7-38"),
            (IdentifySwitchDevice, "7.6.7.1.1, table 7-16"),
            (GetPhysicalPortState, "7.6.7.1.2, table 7-17"),
            (PhysicalPortState, "7.6.7.1.2, table 7-18"),
            (PortState, "7.6.7.1.2, table 7-19"),
            (DcdInfo, "7.6.7.6.1, table 7-63"),
            (GetHostDcRegionConfig, "7.6.7.6.2, table 7-64"),
            (HostDcRegionConfig, "7.6.7.6.2, table 7-65"),
            (HostDcRegion, "7.6.7.6.2, table 7-66"),
            (SetDcRegionConfig, "7.6.7.6.3, table 7-67"),
            (GetDcRegionExtentLists, "7.6.7.6.4, table 7-68"),
            (DcRegionExtentLists, "7.6.7.6.4, table 7-69"),
            (InitiateDcAdd, "7.6.7.6.5, table 7-70"),
            (InitiateDcRelease, "7.6.7.6.6, table 7-71"),
            (DcReference, "7.6.7.6.7, table 7-72"),
            (DcListTags, "7.6.7.6.9, table 7-74"),
            (DcTags, "7.6.7.6.9, table 7-75"),
            (DcTag, "7.6.7.6.9, table 7-76"),
        )
    }
)
"""Every structure, by its class's name."""


def find(name: str, direction: str | None = None) -> Entry:
    """The structure of that name (case, dashes and underscores do not matter), or of that opcode and direction.

    An opcode is written 5604h or 0x5604; its direction may be left out where the command has only one.
    Errors: AskedWrongly.
    """
    wanted = name.replace("-", "").replace("_", "").lower()
    for entry in CATALOG.values():
        if entry.name.lower() == wanted:
            return entry
    opcode = read_opcode(name)
    if opcode is None:
        raise AskedWrongly(
            f"no structure is called {name!r}; give a name or an opcode (5604h) that `dcd decode --list` shows"
        )
    known = {way: structure for (code, way), structure in COMMANDS.items() if code == opcode}
    if not known:
        raise AskedWrongly(f"no structure is known for opcode {opcode:04x}h; `dcd decode --list` shows them")
    if direction is None and len(known) > 1:
        raise AskedWrongly(f"{opcode:04x}h has a request and a response; say which of the two it is")
    if direction is not None and direction not in known:
        raise AskedWrongly(f"the {direction} of {opcode:04x}h has no payload; only its {' and '.join(known)} has one")
    return CATALOG[known[direction or next(iter(known))].__name__]


def read_opcode(text: str) -> int | None:
    """The opcode that is written 5604h or 0x5604; None when the text is neither."""
    digits = text.lower().strip()
    if digits.startswith("0x"):
        digits = digits[2:]
    elif digits.endswith("h"):
        digits = digits[:-1]
    else:
        return None
    return int(digits, 16) if 0 < len(digits) <= 4 and set(digits) <= set("0123456789abcdef") else None


# --- what a number means -------------------------------------------------------------------------------------


class Meaning(NamedTuple):
    """Explains a field's value. `names` are words for numbers that it knows, for who writes a value by hand."""

    says: Callable[[int], str]
    names: Mapping[str, int] = MappingProxyType({})


def _flags(bits: Mapping[int, str], values: Mapping[int, str] | None = None, mask: int = 0) -> Meaning:
    """Bits with names around an enumeration in the bits of `mask`."""

    def says(value: int) -> str:
        parts = [] if values is None else [_named(values, value & mask)]
        for bit in range(value.bit_length()):
            if value >> bit & 1 and not mask >> bit & 1:
                parts.append(bits.get(bit, f"bit {bit} (reserved)"))
        return ", ".join(parts) or "none"

    names = {name: number for number, name in (values or {}).items()}
    return Meaning(says, names | {name: 1 << bit for bit, name in bits.items()})


def _one_of(values: Mapping[int, str], mask: int = (1 << 64) - 1) -> Meaning:
    return _flags({}, values, mask)


def _named(values: Mapping[int, str], value: int) -> str:
    return values.get(value, f"{value} (not in the table)")


def _members(kind: type[IntEnum]) -> dict[int, str]:
    return {member.value: member.name.lower() for member in kind}


def _words(text: str) -> dict[int, str]:
    return dict(enumerate(text.split()))


def _scaled(unit: int, what: str = "") -> Meaning:
    """So many units of so many bytes."""
    return Meaning(lambda value: f"{what} {format_size(value * unit)}".lstrip())


def _time(value: int) -> str:
    if not value:
        return "none"
    seconds, rest = divmod(value, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:09d} UTC"


def _length_and_flags(value: int) -> str:
    flags = value >> fmapi.LENGTH_BITS
    size = value & (1 << fmapi.LENGTH_BITS) - 1
    return f"{size} bytes" + (f", {_LENGTH_FLAGS.says(flags)}" if flags else "")


def _block_sizes(value: int) -> str:
    return ", ".join(format_size(1 << bit) for bit in range(64) if value >> bit & 1) or "none"


def _power(value: int) -> str:
    return format_size(1 << value) if value < 64 else f"2**{value}"


_OPCODES = _members(Opcode) | _members(fmapi.FmOpcode)
_OPCODE = Meaning(
    lambda value: f"{value:04x}h {_OPCODES.get(value, '(not known here)')}",
    {name: number for number, name in _OPCODES.items()},
)
_SIZE = _scaled(1)
_UNITS = _scaled(fmapi.CAPACITY_UNIT)
_DPA = _scaled(1, "DPA")
_INDEX = Meaning(lambda value: f"index {value}")
_BYTES = Meaning(lambda value: f"{value} bytes")
_WIDTH = Meaning(lambda value: f"x{value}")
_TIME = Meaning(_time)
_MORE = _flags({0: "more"})
_SANITIZE = _flags({0: "sanitize_on_release"})
_LENGTH_FLAGS = _flags({2: "background"})
_SEVERITIES = _words("informational warning failure fatal")
_LOG = _one_of(_SEVERITIES | {4: "dynamic_capacity"})

_ANYWHERE: Mapping[str, Meaning] = {
    "opcode": _OPCODE,
    "return_code": _one_of(_members(ReturnCode)),
    "length": _SIZE,
    "block_size": _SIZE,
    "base": _DPA,
    "decode_length": _UNITS,
}
"""Meanings of fields that are the same in whatever structure they stand."""

_MEANINGS: Mapping[type[Structure], Mapping[str, Meaning]] = {
    GetEventRecords: {"log": _LOG},
    EventRecords: {
        "flags": _flags({0: "overflow", 1: "more_records"}),
        "first_overflow_timestamp_ns": _TIME,
        "last_overflow_timestamp_ns": _TIME,
    },
    DynamicCapacityRecord: {
        "record_length": _BYTES,
        "record_flags": _flags(
            {
                2: "permanent",
                3: "maintenance_needed",
                4: "performance_degraded",
                5: "replacement_needed",
                6: "subclass_valid",
            },
            _SEVERITIES,
            3,
        ),
        "timestamp_ns": _TIME,
        "type": _one_of(_members(RecordType)),
        "validity_flags": _flags({0: "counts_valid"}),
        "flags": _MORE,
    },
    ClearEventRecords: {"log": _LOG, "flags": _flags({0: "clear_all"})},
    IdentifyMemoryDevice: {
        "total_capacity": _UNITS,
        "volatile_only_capacity": _UNITS,
        "persistent_only_capacity": _UNITS,
        "partition_alignment": _UNITS,
        "lsa_size": _SIZE,
    },
    DcRegion: {"flags": _SANITIZE},
    GetExtentList: {"start": _INDEX},
    WireExtent: {"start": _DPA},
    CapacityResponse: {"flags": _MORE, "ranges.start": _DPA, "ranges.length": _SIZE},
    Identify: {
        "maximum_message_size": Meaning(_power),
        "component_type": _one_of(_members(fmapi.ComponentType)),
    },
    CciMessage: {
        "category": _one_of(_members(fmapi.Category), 0x0F),
        "length_and_flags": Meaning(_length_and_flags),
        "length_flags": _LENGTH_FLAGS,
    },
    TunnelRequest: {"target_type": _one_of(_members(fmapi.TargetType), 0x0F), "size": _BYTES},
    TunnelResponse: {"size": _BYTES},
    PortState: {
        "configuration_state": _flags({4: "gae_support"}, _members(fmapi.PortConfiguration), 0x0F),
        "connected_device_mode": _one_of(
            _words("not_cxl rcd 68b_flit 256b_flit latency_optimized_256b_flit pbr"), 0x0F
        ),
        "connected_device_type": _one_of(_members(fmapi.ConnectedDevice)),
        "supported_modes": _flags(_words("rcd 68b_flit 256b_flit latency_optimized_256b_flit pbr")),
        "maximum_link_width": _WIDTH,
        "negotiated_link_width": _WIDTH,
        "ltssm_state": _one_of(
            _words("detect polling configuration recovery l0 l0s l1 l2 disabled loopback hot_reset")
        ),
        "link_state_flags": _flags(_words("lanes_reversed in_reset present power_off")),
    },
    DcdInfo: {
        "selection_policies": _flags(_members(fmapi.SelectionPolicy)),
        "removal_policies": _flags(_members(fmapi.RemovalPolicy)),
        "sanitize_configurable": _flags({region: f"region_{region}" for region in range(8)}),
        "total_capacity": _UNITS,
        "supported_block_sizes": Meaning(_block_sizes),
    },
    HostDcRegion: {
        "attributes": _flags(
            {2: "non_volatile", 3: "sharable", 4: "hardware_coherency", 5: "interconnect_specific", 6: "read_only"}
        ),
        "sanitize": _SANITIZE,
    },
    SetDcRegionConfig: {"sanitize": _SANITIZE},
    GetDcRegionExtentLists: {"start": _INDEX},
    DcRegionExtentLists: {"start": _INDEX},
    InitiateDcAdd: {"selection_policy": _one_of(_members(fmapi.SelectionPolicy), fmapi.POLICY_MASK)},
    InitiateDcRelease: {
        "flags": _flags(
            {4: "forced_removal", 5: "sanitize_on_release"}, _members(fmapi.RemovalPolicy), fmapi.POLICY_MASK
        ),
    },
    DcListTags: {"start": _INDEX},
    DcTags: {"validity_flags": _flags({0: "references_valid", 1: "pending_references_valid"})},
    DcTag: {"flags": _flags({0: "manager_holds_reference"})},
}
_BITMAPS = frozenset({"active_ports", "active_vcss", "references", "pending_references"})
_TAG_SIZE = 16


def meaning(structure: type[Structure], field: str) -> Meaning | None:
    """What that field's numbers mean; None when there is nothing to add to the number."""
    return _MEANINGS.get(structure, {}).get(field) or _ANYWHERE.get(field)


def explain(structure: type[Structure], field: str, value: int | bytes) -> str:
    """One field's value in words; empty when there is nothing to add."""
    name = field.rpartition(".")[2]
    if isinstance(value, int):
        known = meaning(structure, field)
        return known.says(value) if known is not None else str(value)
    if name.startswith("reserved"):
        return "not zero" if value.strip(b"\0") else ""
    if name in _BITMAPS:
        return ", ".join(map(str, fmapi.members(value))) or "none"
    if name == "tag" and len(value) == _TAG_SIZE:
        return "" if value.strip(b"\0") else "untagged"
    if name == "identifier":
        return "dynamic capacity" if value == DYNAMIC_CAPACITY_UUID else "of another kind"
    if name == "fw_revision":
        return "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in value.rstrip(b"\0"))
    return ""
