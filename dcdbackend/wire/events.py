"""The event log as the host's mailbox shows it: 0100h, 0101h, and the Dynamic Capacity event record.

A device under test may put anything into its log. One record that cannot be read must not hide the others,
nor keep the host from clearing it, so in a page it becomes a `RawRecord`: its handle, its bytes, and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

from construct import Array, Bytes, Int8ul, Int16ul, Int24ul, Int32ul, Int64ul, Struct, this

from ..errors import MalformedBytes
from .dcd import EXTENT, WireExtent
from .layout import Layout, Structure, check_count, reserved, spread, wrong_size

DYNAMIC_CAPACITY_UUID = bytes.fromhex("ca95afa7f18340188c2f95268e101a2a")
"""Event Record Identifier of a Dynamic Capacity event record, as its 16 bytes stand in the record (DEV-4)."""

DYNAMIC_CAPACITY_LOG = 4
"""The event log that holds them (CXL r3.1 8.2.9.2.2)."""

RECORD_SIZE = 128
CLEAR_ALL = 1
"""Bit 0 of 0101h's flags: clear every record (DEV-16)."""


class RecordType(IntEnum):
    """Dynamic Capacity Event Type (CXL r3.1 8.2.9.2.1.6, table 8-50)."""

    ADD_CAPACITY = 0
    RELEASE_CAPACITY = 1
    FORCED_RELEASE = 2
    REGION_CONFIGURATION_UPDATED = 3
    ADD_CAPACITY_RESPONSE = 4
    CAPACITY_RELEASED = 5


_TYPES = tuple(RecordType)

_HEADER = Struct(
    "identifier" / Bytes(16),
    "record_length" / Int8ul,
    "record_flags" / Int24ul,
    "handle" / Int16ul,
    "related_handle" / Int16ul,
    "timestamp_ns" / Int64ul,
    "maintenance_operation_class" / Int8ul,
    "maintenance_operation_subclass" / Int8ul,
    "reserved" / Bytes(14),
)
_ANY_RECORD = Struct(*_HEADER.subcons, "data" / Bytes(80))
_RECORD = Struct(
    *_HEADER.subcons,
    "type" / Int8ul,
    "validity_flags" / Int8ul,
    "host_id" / Int16ul,
    "updated_region_index" / Int8ul,
    "flags" / Int8ul,
    "reserved_2" / Bytes(2),
    "extent" / EXTENT,
    "reserved_3" / Bytes(24),
    "available_extents" / Int32ul,
    "available_tags" / Int32ul,
)
_HANDLE_AT = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class DynamicCapacityRecord(Structure):
    """A Dynamic Capacity event record: 128 bytes (CXL r3.1 8.2.9.2.1.6, tables 8-43 and 8-50; DEV-4).

    From the common header: record_flags (24 bits; bits 1:0 severity), handle, related_handle, timestamp_ns
    (since 1970), the maintenance operation's class and subclass. The identifier and the length of 128 are the
    same in every record of this kind; bytes with others are not one, nor with a type that is not listed
    (MalformedBytes).
    validity_flags: bit 0 says that the two available counts hold. updated_region_index: of type 3 only.
    flags: bit 0 More. reserved: 14 bytes of the header, 2 after the flags, 24 after the extent.
    """

    declaration = _RECORD
    layout = Layout("DynamicCapacityRecord", _RECORD)

    handle: int
    type: RecordType
    extent: WireExtent
    flags: int = 0
    host_id: int = 0
    updated_region_index: int = 0
    validity_flags: int = 0
    available_extents: int = 0
    available_tags: int = 0
    record_flags: int = 0
    related_handle: int = 0
    timestamp_ns: int = 0
    maintenance_operation_class: int = 0
    maintenance_operation_subclass: int = 0
    reserved: bytes = b""

    @property
    def more(self) -> bool:
        """Another record of the same chain follows."""
        return bool(self.flags & 1)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        if len(data) != RECORD_SIZE:
            raise wrong_size("DynamicCapacityRecord", data, RECORD_SIZE)
        return cls._at(data, 0)

    @classmethod
    def fields_at(cls, data: bytes, offset: int) -> tuple[Any, ...]:
        """What the layout names, of the record at `offset` of a page, checked like everything that is parsed.

        For the guest, which has no time for an object that it would take apart at once. The caller has checked that
        128 bytes are there. Errors: MalformedBytes.
        """
        found = cls.layout.unpack(data, offset)
        identifier, record_length, kind = found[0], found[1], found[9]
        if identifier != DYNAMIC_CAPACITY_UUID:
            raise _unreadable(f"identifier {identifier.hex()} is of another kind", data, offset, 0)
        if record_length != RECORD_SIZE:
            raise _unreadable(f"record_length is {record_length}, not {RECORD_SIZE}", data, offset, 16)
        if kind >= len(_TYPES):
            raise _unreadable(f"type is {kind}; 0 to {len(_TYPES) - 1} are defined", data, offset, 48)
        return found

    @classmethod
    def _at(cls, data: bytes, offset: int) -> Self:
        (
            _, _, record_flags, handle, related_handle, timestamp_ns,
            operation_class, operation_subclass, blank,
            kind, validity_flags, host_id, updated_region_index, flags, blank_2,
            start, length, tag, sequence, extent_blank, blank_3, available_extents, available_tags,
        ) = cls.fields_at(data, offset)  # fmt: skip
        return cls(
            handle=handle,
            type=_TYPES[kind],
            extent=WireExtent(start=start, length=length, tag=tag, sequence=sequence, reserved=reserved(extent_blank)),
            flags=flags,
            host_id=host_id,
            updated_region_index=updated_region_index,
            validity_flags=validity_flags,
            available_extents=available_extents,
            available_tags=available_tags,
            record_flags=record_flags,
            related_handle=related_handle,
            timestamp_ns=timestamp_ns,
            maintenance_operation_class=operation_class,
            maintenance_operation_subclass=operation_subclass,
            reserved=reserved(blank, blank_2, blank_3),
        )

    def to_bytes(self) -> bytes:
        blank, blank_2, blank_3 = spread("DynamicCapacityRecord", self.reserved, 14, 2, 24)
        extent = self.extent
        return self.layout.pack(
            DYNAMIC_CAPACITY_UUID, RECORD_SIZE, self.record_flags, self.handle, self.related_handle,
            self.timestamp_ns, self.maintenance_operation_class, self.maintenance_operation_subclass, blank,
            self.type, self.validity_flags, self.host_id, self.updated_region_index, self.flags, blank_2,
            extent.start, extent.length, extent.tag, extent.sequence, extent.reserved,
            blank_3, self.available_extents, self.available_tags,
        )  # fmt: skip


def _unreadable(why: str, data: bytes, offset: int, at: int) -> MalformedBytes:
    return MalformedBytes(
        why,
        structure="DynamicCapacityRecord",
        data=bytes(data[offset : offset + RECORD_SIZE]),
        offset_bytes=at,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRecord:
    """A record of a page that is no readable Dynamic Capacity record (CXL r3.1 8.2.9.2.1).

    handle: as the common header has it, so that 0101h can clear it. data: its 128 bytes. error: one line.
    """

    handle: int
    data: bytes
    error: str

    @classmethod
    def of(cls, error: MalformedBytes) -> Self:
        """The record that could not be read."""
        handle = int.from_bytes(error.data[_HANDLE_AT : _HANDLE_AT + 2], "little")
        return cls(handle=handle, data=error.data, error=error.message)

    def to_bytes(self) -> bytes:
        return self.data


_GET_EVENT_RECORDS = Struct("log" / Int8ul)


@dataclass(frozen=True, kw_only=True, slots=True)
class GetEventRecords(Structure):
    """Input of Get Event Records, 0100h: 1 byte (CXL r3.1 8.2.9.2.2, table 8-52)."""

    declaration = _GET_EVENT_RECORDS
    layout = Layout("GetEventRecords", _GET_EVENT_RECORDS)

    log: int = DYNAMIC_CAPACITY_LOG


_PAGE_HEAD = Struct(
    "flags" / Int8ul,
    "reserved" / Bytes(1),
    "overflow_count" / Int16ul,
    "first_overflow_timestamp_ns" / Int64ul,
    "last_overflow_timestamp_ns" / Int64ul,
    "count" / Int16ul,
    "reserved_2" / Bytes(10),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EventRecords(Structure):
    """Output of Get Event Records, 0100h (CXL r3.1 8.2.9.2.2, table 8-53).

    32 bytes, then 128 for each record: 15 fill 1952 of 2048 bytes. flags: bit 0 overflow, with the count and
    the two times (ns since 1970); bit 1 more records remain in the log (DEV-16).
    """

    declaration = Struct(*_PAGE_HEAD.subcons, "records" / Array(this.count, _ANY_RECORD))
    layout = Layout("EventRecords", _PAGE_HEAD)

    records: tuple[DynamicCapacityRecord | RawRecord, ...]
    flags: int = 0
    overflow_count: int = 0
    first_overflow_timestamp_ns: int = 0
    last_overflow_timestamp_ns: int = 0
    reserved: bytes = b""

    @property
    def overflow(self) -> bool:
        return bool(self.flags & 1)

    @property
    def more(self) -> bool:
        """The log holds more records than these."""
        return bool(self.flags & 2)

    @classmethod
    def head_of(cls, data: bytes) -> tuple[Any, ...]:
        """What the page's head names, checked against its size: flags, reserved, overflow count, first and last
        overflow time, record count, reserved. The records follow, from byte 32. Errors: MalformedBytes."""
        head = cls.layout
        if len(data) < head.size:
            raise wrong_size("EventRecords", data, head.size)
        found = head.unpack(data)
        check_count("EventRecords", data, head.size + found[5] * RECORD_SIZE, found[5])
        return found

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head = cls.layout
        flags, blank, overflow_count, first_ns, last_ns, count, blank_2 = cls.head_of(data)
        size = head.size + count * RECORD_SIZE
        records: list[DynamicCapacityRecord | RawRecord] = []
        for at in range(head.size, size, RECORD_SIZE):
            try:
                records.append(DynamicCapacityRecord._at(data, at))
            except MalformedBytes as error:
                records.append(RawRecord.of(error))
        return cls(
            records=tuple(records),
            flags=flags,
            overflow_count=overflow_count,
            first_overflow_timestamp_ns=first_ns,
            last_overflow_timestamp_ns=last_ns,
            reserved=reserved(blank, blank_2),
        )

    def to_bytes(self) -> bytes:
        blank, blank_2 = spread("EventRecords", self.reserved, 1, 10)
        head = self.layout.pack(
            self.flags,
            blank,
            self.overflow_count,
            self.first_overflow_timestamp_ns,
            self.last_overflow_timestamp_ns,
            len(self.records),
            blank_2,
        )
        return b"".join((head, *(record.to_bytes() for record in self.records)))

    @staticmethod
    def most(payload_size_bytes: int) -> int:
        """How many records fit a payload of that size (DEV-10)."""
        return max(0, payload_size_bytes - EventRecords.layout.size) // RECORD_SIZE


_CLEAR_HEAD = Struct("log" / Int8ul, "flags" / Int8ul, "count" / Int8ul, "reserved" / Bytes(3))
_HANDLE = Layout("ClearEventRecords", Struct("handle" / Int16ul))


@dataclass(frozen=True, kw_only=True, slots=True)
class ClearEventRecords(Structure):
    """Input of Clear Event Records, 0101h (CXL r3.1 8.2.9.2.3, table 8-54; DEV-16).

    6 bytes, then 2 for each handle, at most 255. flags: bit 0 clear all.
    """

    declaration = Struct(*_CLEAR_HEAD.subcons, "handles" / Array(this.count, Int16ul))
    layout = Layout("ClearEventRecords", _CLEAR_HEAD)

    handles: tuple[int, ...]
    log: int = DYNAMIC_CAPACITY_LOG
    flags: int = 0
    reserved: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head = cls.layout
        if len(data) < head.size:
            raise wrong_size("ClearEventRecords", data, head.size)
        log, flags, count, blank = head.unpack(data)
        check_count("ClearEventRecords", data, head.size + count * _HANDLE.size, count)
        return cls(
            handles=tuple([handle for (handle,) in _HANDLE.each(data, head.size, count)]),
            log=log,
            flags=flags,
            reserved=reserved(blank),
        )

    def to_bytes(self) -> bytes:
        head = self.layout.pack(self.log, self.flags, len(self.handles), self.reserved)
        return b"".join((head, *[_HANDLE.pack(handle) for handle in self.handles]))
