"""The bytes of a CXL mailbox: construct declarations on one side, frozen dataclasses on the other.

Each structure has `from_bytes` (all the bytes, or MalformedBytes) and `to_bytes`, over a declaration in its
module: `cci` (codes, Identify), `events` (the event log), `dcd` (48xxh). `layout` runs the declarations.
Parsing says what the bytes are, never whether they are right: that is for `rules` and `model`. No construct
object leaves this package.

`STRUCTURES` finds the class by opcode and direction; a command that is not in it has an empty payload there,
or is not known here.

What a fabric manager sends and gets is in `fmapi`, with a `STRUCTURES` of its own: nothing here imports it, because
the guest imports this and would pay for every class. Nor does the guest need what is for people: `catalog` (all
structures by name, and what their numbers mean), `dissect` (bytes as a tree), `plain` (values as JSON has them).
"""

from __future__ import annotations

from .cci import IdentifyMemoryDevice, Opcode, ReturnCode
from .dcd import (
    CapacityResponse,
    DcConfig,
    DcRegion,
    ExtentList,
    GetDcConfig,
    GetExtentList,
    WireExtent,
)
from .events import (
    CLEAR_ALL,
    DYNAMIC_CAPACITY_LOG,
    DYNAMIC_CAPACITY_UUID,
    ClearEventRecords,
    DynamicCapacityRecord,
    EventRecords,
    GetEventRecords,
    RawRecord,
    RecordType,
)
from .layout import Structure

STRUCTURES: dict[tuple[int, str], type[Structure]] = {
    (0x0100, "request"): GetEventRecords,
    (0x0100, "response"): EventRecords,
    (0x0101, "request"): ClearEventRecords,
    (0x4000, "response"): IdentifyMemoryDevice,
    (0x4800, "request"): GetDcConfig,
    (0x4800, "response"): DcConfig,
    (0x4801, "request"): GetExtentList,
    (0x4801, "response"): ExtentList,
    (0x4802, "request"): CapacityResponse,
    (0x4803, "request"): CapacityResponse,
}

__all__ = [
    "CLEAR_ALL",
    "DYNAMIC_CAPACITY_LOG",
    "DYNAMIC_CAPACITY_UUID",
    "STRUCTURES",
    "CapacityResponse",
    "ClearEventRecords",
    "DcConfig",
    "DcRegion",
    "DynamicCapacityRecord",
    "EventRecords",
    "ExtentList",
    "GetDcConfig",
    "GetEventRecords",
    "GetExtentList",
    "IdentifyMemoryDevice",
    "Opcode",
    "RawRecord",
    "RecordType",
    "ReturnCode",
    "Structure",
    "WireExtent",
]
