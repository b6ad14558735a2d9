"""Dynamic Capacity as the host's mailbox shows it: commands 4800h to 4803h, and the extent.

All addresses are DPAs in bytes, all lengths bytes unless it says otherwise. What the numbers may be (aligned,
inside a region, as advertised) is for `rules` and `model` to judge; here bytes are only read and written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from construct import Array, Bytes, Int8ul, Int16ul, Int32ul, Int64ul, Struct, this

from .layout import Layout, Structure, check_count, reserved, spread, wrong_size

REGION_DECODE_UNIT = 256 << 20
"""Bytes that 1 in a region's decode length stands for."""

EXTENT = Struct(
    "start" / Int64ul,
    "length" / Int64ul,
    "tag" / Bytes(16),
    "sequence" / Int16ul,
    "reserved" / Bytes(6),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WireExtent(Structure):
    """A Dynamic Capacity extent: 40 bytes (CXL r3.1 8.2.9.2.1.6, table 8-51).

    start: DPA. tag: 16 bytes, all zero when untagged. sequence: of a shared extent, else 0.
    """

    declaration = EXTENT
    layout = Layout("WireExtent", EXTENT)

    start: int
    length: int
    tag: bytes = bytes(16)
    sequence: int = 0
    reserved: bytes = b""


_GET_DC_CONFIG = Struct("region_count" / Int8ul, "start_region" / Int8ul)


@dataclass(frozen=True, kw_only=True, slots=True)
class GetDcConfig(Structure):
    """Input of Get Dynamic Capacity Configuration, 4800h: 2 bytes (CXL r3.1 8.2.9.9.9.1, table 8-163)."""

    declaration = _GET_DC_CONFIG
    layout = Layout("GetDcConfig", _GET_DC_CONFIG)

    region_count: int = 8
    start_region: int = 0


_REGION = Struct(
    "base" / Int64ul,
    "decode_length" / Int64ul,
    "length" / Int64ul,
    "block_size" / Int64ul,
    "dsmad_handle" / Int32ul,
    "flags" / Int8ul,
    "reserved" / Bytes(3),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DcRegion(Structure):
    """Configuration of one DC region: 40 bytes (CXL r3.1 8.2.9.9.9.1, table 8-165).

    base: DPA. decode_length: in multiples of 256 MiB, as on the wire; `decode_length_bytes` says it in bytes.
    flags: bit 0 sanitize on release.
    """

    declaration = _REGION
    layout = Layout("DcRegion", _REGION)

    base: int
    decode_length: int
    length: int
    block_size: int
    dsmad_handle: int = 0
    flags: int = 0
    reserved: bytes = b""

    @property
    def decode_length_bytes(self) -> int:
        return self.decode_length * REGION_DECODE_UNIT


_DC_CONFIG_HEAD = Struct(
    "available_regions" / Int8ul,
    "region_count" / Int8ul,
    "reserved" / Bytes(6),
)
_DC_CONFIG_TAIL = Struct(
    "supported_extents" / Int32ul,
    "available_extents" / Int32ul,
    "supported_tags" / Int32ul,
    "available_tags" / Int32ul,
)
_TAIL = Layout("DcConfig", _DC_CONFIG_TAIL)


@dataclass(frozen=True, kw_only=True, slots=True)
class DcConfig(Structure):
    """Output of Get Dynamic Capacity Configuration, 4800h (CXL r3.1 8.2.9.9.9.1, table 8-164).

    8 bytes, 40 for each region returned, then the four counts of DEV-19. `available_regions` is how many the
    device has; `regions` those it returned, from the region asked for on.
    """

    declaration = Struct(
        *_DC_CONFIG_HEAD.subcons,
        "regions" / Array(this.region_count, _REGION),
        *_DC_CONFIG_TAIL.subcons,
    )
    layout = Layout("DcConfig", _DC_CONFIG_HEAD)

    available_regions: int
    regions: tuple[DcRegion, ...]
    supported_extents: int
    available_extents: int
    supported_tags: int
    available_tags: int
    reserved: bytes = b""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head, region = cls.layout, DcRegion.layout
        if len(data) < head.size:
            raise wrong_size("DcConfig", data, head.size + _TAIL.size)
        available, count, blank = head.unpack(data)
        tail = head.size + count * region.size
        check_count("DcConfig", data, tail + _TAIL.size, count)
        extents, extents_left, tags, tags_left = _TAIL.unpack(data, tail)
        return cls(
            available_regions=available,
            regions=tuple(
                DcRegion.from_bytes(data[at : at + region.size]) for at in range(head.size, tail, region.size)
            ),
            supported_extents=extents,
            available_extents=extents_left,
            supported_tags=tags,
            available_tags=tags_left,
            reserved=reserved(blank),
        )

    def to_bytes(self) -> bytes:
        head = self.layout.pack(self.available_regions, len(self.regions), self.reserved)
        tail = _TAIL.pack(self.supported_extents, self.available_extents, self.supported_tags, self.available_tags)
        return b"".join((head, *(region.to_bytes() for region in self.regions), tail))


_GET_EXTENT_LIST = Struct("count" / Int32ul, "start" / Int32ul)


@dataclass(frozen=True, kw_only=True, slots=True)
class GetExtentList(Structure):
    """Input of Get Dynamic Capacity Extent List, 4801h: 8 bytes (CXL r3.1 8.2.9.9.9.2, table 8-166).

    count: the most extents wanted. start: index of the first one, 0 to the total.
    """

    declaration = _GET_EXTENT_LIST
    layout = Layout("GetExtentList", _GET_EXTENT_LIST)

    count: int
    start: int = 0


_EXTENT_LIST_HEAD = Struct(
    "returned" / Int32ul,
    "total" / Int32ul,
    "generation" / Int32ul,
    "reserved" / Bytes(4),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtentList(Structure):
    """Output of Get Dynamic Capacity Extent List, 4801h (CXL r3.1 8.2.9.9.9.2, table 8-167).

    16 bytes, then 40 for each extent: 50 extents fill 2016 of 2048 bytes. `returned` is their number, `total`
    how many the device holds, `generation` the number that changes with the list (DEV-10).
    """

    declaration = Struct(*_EXTENT_LIST_HEAD.subcons, "extents" / Array(this.returned, EXTENT))
    layout = Layout("ExtentList", _EXTENT_LIST_HEAD)

    total: int
    generation: int
    extents: tuple[WireExtent, ...]
    reserved: bytes = b""

    @property
    def returned(self) -> int:
        return len(self.extents)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head, extent = cls.layout, WireExtent.layout
        if len(data) < head.size:
            raise wrong_size("ExtentList", data, head.size)
        returned, total, generation, blank = head.unpack(data)
        check_count("ExtentList", data, head.size + returned * extent.size, returned)
        return cls(
            total=total,
            generation=generation,
            extents=tuple(
                WireExtent(start=start, length=length, tag=tag, sequence=sequence, reserved=reserved(rest))
                for start, length, tag, sequence, rest in extent.each(data, head.size, returned)
            ),
            reserved=reserved(blank),
        )

    def to_bytes(self) -> bytes:
        head = self.layout.pack(len(self.extents), self.total, self.generation, self.reserved)
        return b"".join((head, *(extent.to_bytes() for extent in self.extents)))

    @staticmethod
    def most(payload_size_bytes: int) -> int:
        """How many extents fit a payload of that size (DEV-10)."""
        return max(0, payload_size_bytes - ExtentList.layout.size) // WireExtent.layout.size


_RESPONSE_HEAD = Struct("count" / Int32ul, "flags" / Int8ul, "reserved" / Bytes(3))
_RANGE_DECLARATION = Struct("start" / Int64ul, "length" / Int64ul, "reserved" / Bytes(8))
_RANGE = Layout("CapacityResponse", _RANGE_DECLARATION)


@dataclass(frozen=True, kw_only=True, slots=True)
class CapacityResponse(Structure):
    """Input of Add Dynamic Capacity Response, 4802h, and of Release Dynamic Capacity, 4803h: one format.

    CXL r3.1 8.2.9.9.9.3, tables 8-168 and 8-169; 8.2.9.9.9.4, table 8-170. 8 bytes, then 24 for each range:
    85 ranges fill 2048 bytes. flags: bit 0 More (DEV-6). ranges: (start DPA, length) of each updated extent.
    """

    declaration = Struct(*_RESPONSE_HEAD.subcons, "ranges" / Array(this.count, _RANGE_DECLARATION))
    layout = Layout("CapacityResponse", _RESPONSE_HEAD)

    ranges: tuple[tuple[int, int], ...]
    flags: int = 0
    reserved: bytes = b""

    @property
    def more(self) -> bool:
        return bool(self.flags & 1)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        head = cls.layout
        if len(data) < head.size:
            raise wrong_size("CapacityResponse", data, head.size)
        count, flags, blank = head.unpack(data)
        check_count("CapacityResponse", data, head.size + count * _RANGE.size, count)
        found = list(_RANGE.each(data, head.size, count))
        return cls(
            ranges=tuple([(start, length) for start, length, _ in found]),
            flags=flags,
            reserved=reserved(blank, *[rest for _, _, rest in found]),
        )

    def to_bytes(self) -> bytes:
        ranges = self.ranges
        if not self.reserved:
            return self.build(ranges, self.flags)
        blank, *rest = spread("CapacityResponse", self.reserved, 3, *[8] * len(ranges))
        tail = [_RANGE.pack(*pair, last) for pair, last in zip(ranges, rest, strict=True)]
        return b"".join((self.layout.pack(len(ranges), self.flags, blank), *tail))

    @classmethod
    def build(cls, ranges: Iterable[tuple[int, int]], flags: int = 0) -> bytes:
        """The bytes of a response without reserved ones. For the guest, as `flags_and_ranges`: an answer that waits has
        no time for an object that is taken apart at once. Errors: AskedWrongly."""
        tail = [_RANGE.pack(start, length, b"") for start, length in ranges]
        return b"".join((cls.layout.pack(len(tail), flags, b""), *tail))

    @classmethod
    def flags_and_ranges(cls, data: bytes) -> tuple[int, list[tuple[int, int]]]:
        """What `from_bytes` gives without its reserved bytes. Errors: MalformedBytes."""
        head = cls.layout
        if len(data) < head.size:
            raise wrong_size("CapacityResponse", data, head.size)
        count, flags, _ = head.unpack(data)
        check_count("CapacityResponse", data, head.size + count * _RANGE.size, count)
        return flags, [(start, length) for start, length, _ in _RANGE.each(data, head.size, count)]

    @staticmethod
    def most(payload_size_bytes: int) -> int:
        """How many ranges fit a payload of that size (DEV-10)."""
        return max(0, payload_size_bytes - CapacityResponse.layout.size) // _RANGE.size
