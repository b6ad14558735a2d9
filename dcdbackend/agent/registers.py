"""Blocks of device registers: accesses of exactly 4 or 8 bytes, and the capabilities found in them.

CXL registers must be accessed in 4 or 8 bytes, aligned (CXL r3.1 8.2.8). Slicing an mmap would copy by whatever
the C library thinks fast: 16- and 32-byte vectors, overlapping tails, single bytes. So blocks go through
`struct.Struct("<nQ").unpack_from`, which reads each quadword by itself, and through one store per element on the
way in; a test on a real QEMU looks at the size of every access.

It is not a driver: a block of registers is anything that fits `Registers`, in tests a device with named faults.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..errors import AnsweredWrongly

if TYPE_CHECKING:
    import mmap

STATUS = 0x0001
PRIMARY_MAILBOX = 0x0002
MEMORY_DEVICE_STATUS = 0x4000
HDM_DECODER = 0x0005

CACHE_MEM = 0x1000
"""Where the CXL.cache and CXL.mem registers begin in a component's 64 KiB (CXL r3.1 8.2.4)."""

_ARRAY = 0
_MAX_CAPABILITIES = 256


class Registers(Protocol):
    """A block of registers. Offsets and lengths in bytes, aligned to the access; `size` in bytes."""

    size: int

    def read4(self, offset: int, /) -> int: ...

    def read8(self, offset: int, /) -> int: ...

    def write4(self, offset: int, value: int, /) -> None: ...

    def write8(self, offset: int, value: int, /) -> None: ...

    def read_block(self, offset: int, length: int, /) -> bytes:
        """`length` bytes from `offset` (a multiple of 8), in accesses of 8 bytes."""
        ...

    def write_block(self, offset: int, data: bytes, /) -> None:
        """`data`, filled up with zeros to a multiple of 8, at `offset` (a multiple of 8), in accesses of 8 bytes."""
        ...


class Mapped:
    """Registers over mapped memory (or a bytearray), from `offset` on."""

    def __init__(self, memory: mmap.mmap | bytearray, *, offset: int = 0, size: int | None = None) -> None:
        """Errors: AnsweredWrongly when the block does not lie in the memory, on 8 bytes."""
        there = len(memory)
        self.size = there - offset if size is None else size
        if offset < 0 or offset % 8 or self.size < 8 or offset + self.size > there:
            raise AnsweredWrongly(
                f"a register block at 0x{offset:x} of {self.size} bytes does not lie in a BAR of {there} bytes"
            )
        view = memoryview(memory)[offset : offset + self.size - self.size % 8]
        self._bytes = view
        self._fours = view.cast("I")
        self._eights = view.cast("Q")

    def read4(self, offset: int, /) -> int:
        return self._fours[offset >> 2]

    def read8(self, offset: int, /) -> int:
        return self._eights[offset >> 3]

    def write4(self, offset: int, value: int, /) -> None:
        self._fours[offset >> 2] = value

    def write8(self, offset: int, value: int, /) -> None:
        self._eights[offset >> 3] = value

    def read_block(self, offset: int, length: int, /) -> bytes:
        codec = _quadwords((length + 7) >> 3)
        return codec.pack(*codec.unpack_from(self._bytes, offset))[:length]

    def write_block(self, offset: int, data: bytes, /) -> None:
        eights = self._eights
        at = offset >> 3
        count = (len(data) + 7) >> 3
        for value in _quadwords(count).unpack(data.ljust(count << 3, b"\0")):
            eights[at] = value
            at += 1

    def close(self) -> None:
        """Let go of the memory, so that its mapping can be closed."""
        for view in (self._eights, self._fours, self._bytes):
            view.release()


_CODECS: dict[int, struct.Struct] = {}


def _quadwords(count: int) -> struct.Struct:
    """The codec of `count` quadwords; few sizes are ever asked for, each bounded by a BAR."""
    codec = _CODECS.get(count)
    if codec is None:
        if len(_CODECS) > 1024:
            _CODECS.clear()
        codec = _CODECS[count] = struct.Struct(f"<{count}Q")
    return codec


class Capability(NamedTuple):
    """A capability of a register block: `offset` in the block, `length` in bytes (0: not said)."""

    id: int
    version: int
    offset: int
    length: int


def device_capabilities(registers: Registers) -> dict[int, Capability]:
    """The CXL Device Capabilities Array, by id (CXL r3.1 8.2.8.1 and 8.2.8.2). Errors: AnsweredWrongly."""
    head = registers.read8(0)
    if head & 0xFFFF != _ARRAY:
        raise AnsweredWrongly(
            f"device registers begin with capability 0x{head & 0xFFFF:x}, not with the capabilities array (0)"
        )
    count = head >> 32 & 0xFFFF
    if not 0 < count <= _MAX_CAPABILITIES or 0x10 + 0x10 * count > registers.size:
        raise AnsweredWrongly(f"{count} device capabilities in a block of {registers.size} bytes")
    found: dict[int, Capability] = {}
    for at in range(0x10, 0x10 + 0x10 * count, 0x10):
        first = registers.read8(at)
        capability = Capability(first & 0xFFFF, first >> 16 & 0xFF, first >> 32, registers.read4(at + 8))
        if capability.offset % 4 or capability.offset + capability.length > registers.size:
            raise AnsweredWrongly(
                f"device capability 0x{capability.id:x} at 0x{capability.offset:x} of {capability.length} bytes "
                f"does not lie in the block of {registers.size} bytes"
            )
        found.setdefault(capability.id, capability)
    return found


def component_capabilities(registers: Registers) -> dict[int, Capability]:
    """The CXL.cache/mem capabilities of a component's registers, by id (CXL r3.1 8.2.4.1). Errors: AnsweredWrongly."""
    if registers.size < CACHE_MEM + 0x1000:
        raise AnsweredWrongly(f"component registers of {registers.size} bytes; at least 0x{CACHE_MEM + 0x1000:x}")
    return {capability.id: capability for capability in _component(registers)}


def _component(registers: Registers) -> Iterator[Capability]:
    head = registers.read4(CACHE_MEM)
    if head & 0xFFFF != 1:
        raise AnsweredWrongly(f"the CXL capability header's id is 0x{head & 0xFFFF:x}, not 1")
    for index in range(1, (head >> 24) + 1):
        entry = registers.read4(CACHE_MEM + 4 * index)
        offset = CACHE_MEM + (entry >> 20)
        if offset % 4 or offset + 4 > registers.size:
            raise AnsweredWrongly(f"component capability 0x{entry & 0xFFFF:x} points to 0x{offset:x}")
        yield Capability(entry & 0xFFFF, entry >> 16 & 0xF, offset, 0)
