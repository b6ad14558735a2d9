"""From DPA to the guest's physical addresses: the window (CEDT), the HDM decoder, loads and stores.

Each device gets the window whose only target is its host bridge, and its decoder 0 maps the whole device, static
and dynamic capacity, from DPA 0 on: the guest's address of a DPA is the window's base plus the DPA. That asks for a
host bridge with one root port (it then passes everything through, and has no decoder of its own to program).

Devices behind one switch share the window: each has a slice of it, which a decoder of the upstream port passes to
the downstream port above the device (`program_route`), and its own decoder 0 maps that slice.

No interleaving, and one level of switches: more is refused by name. Sources: CXL r3.1 9.18.1 (CEDT), 8.2.4.20 (HDM
decoder capability).
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from ..errors import AnsweredWrongly, AskedWrongly, CannotRun, TimedOut
from . import sysfs
from .registers import Mapped, Registers

MAX_ACCESS = 4096
"""The most bytes that one load or store moves."""
DECODER_UNIT = 256 << 20
"""Decoder bases and sizes are multiples of this."""

_TABLE_HEADER = 36
_WINDOW = 1
_VOLATILE = 0b110
_WAYS = {0: 1, 1: 2, 2: 4, 3: 8, 4: 16, 8: 3, 9: 6, 10: 12}


class FixedWindow(NamedTuple):
    """A CXL Fixed Memory Window (CFMWS): physical base and size in bytes, the host bridges it goes to by `_UID`.

    restrictions: bit 1 host-only coherent memory, bit 2 volatile memory may lie in it.
    """

    base: int
    size: int
    targets: tuple[int, ...]
    restrictions: int


def parse_cedt(table: bytes) -> tuple[FixedWindow, ...]:
    """The fixed memory windows of a CEDT, in its order. Errors: AnsweredWrongly for a table that is not one."""
    length = int.from_bytes(table[4:8], "little")
    if table[:4] != b"CEDT" or not _TABLE_HEADER <= length <= len(table):
        raise AnsweredWrongly(f"no CEDT: {len(table)} bytes that begin {table[:8].hex()}")
    if sum(table[:length]) & 0xFF:
        raise AnsweredWrongly(f"the CEDT's checksum does not fit its {length} bytes")
    found = []
    at = _TABLE_HEADER
    while at < length:
        size = int.from_bytes(table[at + 2 : at + 4], "little")
        if size < 4 or at + size > length:
            raise AnsweredWrongly(f"the CEDT's structure at byte {at} claims {size} bytes; the table has {length}")
        if table[at] == _WINDOW:
            found.append(_fixed_window(table[at : at + size], at))
        at += size
    return tuple(found)


def _fixed_window(structure: bytes, at: int) -> FixedWindow:
    size = len(structure)
    ways = _WAYS.get(structure[24]) if size >= 36 else None
    if ways is None or size < 36 + 4 * ways:
        raise AnsweredWrongly(f"the CEDT's window at byte {at} of {size} bytes does not hold its interleave targets")
    return FixedWindow(
        base=int.from_bytes(structure[8:16], "little"),
        size=int.from_bytes(structure[16:24], "little"),
        targets=tuple(int.from_bytes(structure[x : x + 4], "little") for x in range(36, 36 + 4 * ways, 4)),
        restrictions=int.from_bytes(structure[32:34], "little"),
    )


def read_cedt(root: str) -> tuple[FixedWindow, ...]:
    """The windows of the running machine. Errors: CannotRun (no CEDT: the machine has no CXL), AnsweredWrongly."""
    return parse_cedt(sysfs.read_bytes(f"{root}/sys/firmware/acpi/tables/CEDT"))


def choose_window(windows: tuple[FixedWindow, ...], uid: int, size: int) -> FixedWindow:
    """The smallest window for volatile memory to host bridge `uid` alone that holds `size` bytes. Errors: CannotRun."""
    own = [w for w in windows if w.targets == (uid,) and w.restrictions & _VOLATILE == _VOLATILE]
    fitting = [window for window in own if window.size >= size]
    if not fitting:
        seen = ", ".join(f"0x{w.base:x}+0x{w.size:x} to {list(w.targets)}" for w in windows) or "none"
        raise CannotRun(
            f"no window of 0x{size:x} bytes for volatile memory to host bridge {uid} alone; the CEDT has {seen}; "
            "give the machine one (cxl-fmw) of at least that size for each device"
        )
    return min(fitting, key=lambda window: window.size)


def shared_window(windows: tuple[FixedWindow, ...], uid: int, size: int) -> FixedWindow:
    """The largest window for volatile memory to host bridge `uid` alone: devices share it. Errors: CannotRun."""
    smallest = choose_window(windows, uid, size)
    own = [w for w in windows if w.targets == smallest.targets and w.restrictions & _VOLATILE == _VOLATILE]
    return max(own, key=lambda window: window.size)


class Decoder(NamedTuple):
    """A decoder as its registers show it: physical base, size and skip in bytes."""

    number: int
    base: int
    size: int
    skip: int
    committed: bool
    locked: bool


_GLOBAL_CONTROL = 0x04
_GLOBAL_ENABLE = 1 << 1
_DECODERS = 0x10
_DECODER_STEP = 0x20
_BASE_LOW, _BASE_HIGH, _SIZE_LOW, _SIZE_HIGH, _CONTROL, _SKIP_LOW, _SKIP_HIGH = range(0, 0x1C, 4)
_LOCK = 1 << 8
_COMMIT = 1 << 9
_COMMITTED = 1 << 10
_NOT_COMMITTED = 1 << 11
_HOST_ONLY = 1 << 12
_COMMIT_TIMEOUT_S = 0.1


_DECODER_COUNTS = (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32)


def decoder_count(registers: Registers, at: int) -> int:
    """How many decoders the capability at `at` has (CXL r3.1 8.2.4.20.1). Errors: AnsweredWrongly."""
    code = registers.read4(at) & 0xF
    if code >= len(_DECODER_COUNTS):
        raise AnsweredWrongly(
            f"the HDM decoder capability's count is {code}; 0 to {len(_DECODER_COUNTS) - 1} are defined"
        )
    return _DECODER_COUNTS[code]


def read_decoder(registers: Registers, at: int, index: int) -> Decoder:
    """Decoder `index` as it is."""
    here = at + _DECODERS + _DECODER_STEP * index
    control = registers.read4(here + _CONTROL)
    return Decoder(
        number=index,
        base=registers.read4(here + _BASE_HIGH) << 32 | registers.read4(here + _BASE_LOW) & 0xF0000000,
        size=registers.read4(here + _SIZE_HIGH) << 32 | registers.read4(here + _SIZE_LOW) & 0xF0000000,
        skip=registers.read4(here + _SKIP_HIGH) << 32 | registers.read4(here + _SKIP_LOW) & 0xF0000000,
        committed=bool(control & _COMMITTED),
        locked=bool(control & _LOCK),
    )


def program_decoder(
    registers: Registers,
    at: int,
    *,
    base: int,
    size: int,
    clock: Callable[[], float] = time.monotonic,
) -> Decoder:
    """Have decoder 0 of the capability at `at` map [base, base + size) to DPA 0 on; the decoder, read back committed.

    One that maps just that already is left alone; another one that is committed and not locked is taken back first.
    Errors: CannotRun (a later decoder is committed, or decoder 0 is locked: somebody else maps the device),
    AskedWrongly (off 256 MiB), TimedOut, AnsweredWrongly (it would not commit, or reads back otherwise).
    """
    if base % DECODER_UNIT or size % DECODER_UNIT or size <= 0:
        raise AskedWrongly(f"a decoder over 0x{base:x}+0x{size:x}; both must be multiples of 256 MiB")
    for index in range(1, decoder_count(registers, at)):
        other = read_decoder(registers, at, index)
        if other.committed:
            raise CannotRun(
                f"decoder {index} is committed already (0x{other.base:x}+0x{other.size:x}); "
                "boot without whatever mapped it: firmware, or a CXL driver with a region"
            )
    here = at + _DECODERS
    found = read_decoder(registers, at, 0)
    wanted = Decoder(0, base, size, 0, True, found.locked)
    if found.committed and found != wanted:
        if found.locked:
            raise CannotRun(f"decoder 0 is locked at 0x{found.base:x}+0x{found.size:x}; only a reset frees it")
        registers.write4(here + _CONTROL, registers.read4(here + _CONTROL) & ~_COMMIT)
        _until(registers, here + _CONTROL, 0, "decoder 0 stays committed", clock)
        found = read_decoder(registers, at, 0)
    registers.write4(at + _GLOBAL_CONTROL, registers.read4(at + _GLOBAL_CONTROL) | _GLOBAL_ENABLE)
    if found != wanted:
        _commit(registers, here, base, size, 0, "decoder 0", clock)
        found = read_decoder(registers, at, 0)
        if found != wanted:
            raise AnsweredWrongly(f"decoder 0 reads back {found}; written was {wanted}")
    if not registers.read4(at + _GLOBAL_CONTROL) & _GLOBAL_ENABLE:
        raise AnsweredWrongly("the HDM decoders' global enable does not stay set")
    return found


class Route(NamedTuple):
    """A decoder of an upstream port: physical base and size in bytes, and the number of the port it leads to.

    `ways`: the encoded interleave ways; 0 is one target, which is `port`.
    """

    number: int
    base: int
    size: int
    port: int
    ways: int
    committed: bool
    locked: bool

    @property
    def end(self) -> int:
        return self.base + self.size


def read_route(registers: Registers, at: int, index: int) -> Route:
    """Decoder `index` of an upstream port as it is (CXL r3.1 8.2.4.20.9: its target list lies where skip does)."""
    found = read_decoder(registers, at, index)
    here = at + _DECODERS + _DECODER_STEP * index
    return Route(
        number=index,
        base=found.base,
        size=found.size,
        port=registers.read4(here + _SKIP_LOW) & 0xFF,
        ways=registers.read4(here + _CONTROL) >> 4 & 0xF,
        committed=found.committed,
        locked=found.locked,
    )


def program_route(
    registers: Registers,
    at: int,
    *,
    window: FixedWindow,
    size: int,
    port: int,
    clock: Callable[[], float] = time.monotonic,
) -> Route:
    """Have an upstream port pass `size` bytes of the window to its downstream port `port`; the decoder, read back.

    Decoders are committed, and lie, in increasing order (CXL r3.1 8.2.4.20.12), so the first free one takes the slice
    right behind the last. One that leads to that port with that size is left alone; one of another size is taken
    back first, if it is the last. Errors: CannotRun (what is committed is not ours, no decoder or no room is left),
    AskedWrongly (off 256 MiB), TimedOut, AnsweredWrongly (it would not commit, or reads back otherwise).
    """
    if window.base % DECODER_UNIT or size % DECODER_UNIT or size <= 0:
        raise AskedWrongly(
            f"a decoder over 0x{size:x} bytes from 0x{window.base:x} on; both must be multiples of 256 MiB"
        )
    routes = [read_route(registers, at, index) for index in range(decoder_count(registers, at))]
    used = _orderly(routes, window)
    found = next((route for route in used if route.port == port), None)
    if found is None:
        if len(used) == len(routes):
            raise CannotRun(f"all {len(routes)} decoders of the upstream port are taken; put fewer devices below it")
        found = routes[len(used)]
    elif found.size != size:
        if found.locked or found is not used[-1]:
            raise CannotRun(
                f"decoder {found.number} of the upstream port leads 0x{found.size:x} bytes to port {port}, not "
                f"0x{size:x}, and is locked or not the last; only a reset frees it"
            )
        used.pop()
    here = at + _DECODERS + _DECODER_STEP * found.number
    what = f"decoder {found.number} of the upstream port"
    if found not in used:
        base = used[-1].end if used else window.base
        if base + size > window.base + window.size:
            raise CannotRun(
                f"the window 0x{window.base:x}+0x{window.size:x} has no room for 0x{size:x} bytes behind 0x{base:x}; "
                "give the machine one (cxl-fmw) that holds all devices of the switch"
            )
        if found.committed:
            registers.write4(here + _CONTROL, registers.read4(here + _CONTROL) & ~_COMMIT)
            _until(registers, here + _CONTROL, 0, f"{what} stays committed", clock)
        _commit(registers, here, base, size, port, what, clock)
        wanted = Route(found.number, base, size, port, 0, True, found.locked)
        found = read_route(registers, at, wanted.number)
        if found != wanted:
            raise AnsweredWrongly(f"{what} reads back {found}; written was {wanted}")
    registers.write4(at + _GLOBAL_CONTROL, registers.read4(at + _GLOBAL_CONTROL) | _GLOBAL_ENABLE)
    if not registers.read4(at + _GLOBAL_CONTROL) & _GLOBAL_ENABLE:
        raise AnsweredWrongly("the global enable of the upstream port's HDM decoders does not stay set")
    return found


def _orderly(routes: list[Route], window: FixedWindow) -> list[Route]:
    """Those committed: slices of the window without a gap, each to a port of its own. Errors: CannotRun."""
    used: list[Route] = []
    end = window.base
    for route in routes:
        if not route.committed:
            continue
        ours = (
            route.number == len(used)
            and not route.ways
            and route.base == end
            and 0 < route.size <= window.base + window.size - end
            and route.port not in [other.port for other in used]
        )
        if not ours:
            raise CannotRun(
                f"decoder {route.number} of the upstream port is committed already (0x{route.base:x}+0x{route.size:x} "
                f"to port {route.port}); boot without whatever mapped it: firmware, or a CXL driver with a region"
            )
        used.append(route)
        end = route.end
    return used


def _commit(
    registers: Registers, here: int, base: int, size: int, third: int, what: str, clock: Callable[[], float]
) -> None:
    """Write and commit the decoder whose registers begin at `here`; `third` is skip or target list."""
    for offset, value in ((_BASE_LOW, base), (_SIZE_LOW, size), (_SKIP_LOW, third)):
        registers.write4(here + offset, value & 0xFFFFFFFF)
        registers.write4(here + offset + 4, value >> 32)
    registers.write4(here + _CONTROL, _COMMIT | _HOST_ONLY)
    _until(registers, here + _CONTROL, _COMMITTED, f"{what} does not commit", clock)


def _until(registers: Registers, control: int, committed: int, what: str, clock: Callable[[], float]) -> None:
    """Until the committed bit is as wanted. Errors: AnsweredWrongly (refused), TimedOut."""
    end = clock() + _COMMIT_TIMEOUT_S
    while True:
        now = registers.read4(control)
        if now & _COMMITTED == committed:
            return
        if committed and now & _NOT_COMMITTED:
            raise AnsweredWrongly(f"{what}: it says error, not committed (control 0x{now:x})")
        if clock() >= end:
            raise TimedOut(f"{what} within {_COMMIT_TIMEOUT_S} s (control 0x{now:x})")


_CHUNK = 2 << 20
_MAX_CHUNKS = 32


class Memory:
    """Loads and stores at DPAs of one device, through /dev/mem.

    `base`: the guest's physical address of DPA 0. `size`: of the device in bytes. Pieces of the window are mapped
    when first touched, and a few of them kept. Accesses are of 8 bytes, single bytes at ragged ends of a store.
    What the device does with an address is its affair: capacity not accepted can be addressed too (DEV-17).
    """

    def __init__(self, *, base: int, size: int, path: str = "/dev/mem") -> None:
        self.base = base
        self.size = size
        self._path = path
        self._fd = -1
        self._chunks: dict[int, tuple[mmap.mmap, Mapped]] = {}

    def load(self, dpa: int, length: int) -> bytes:
        """The `length` bytes at `dpa`. Errors: AskedWrongly (outside the device, or too many), CannotRun."""
        self._check(dpa, length)
        return b"".join([self._chunk(index).load(at, size) for index, at, size in _pieces(dpa, length)])

    def store(self, dpa: int, data: bytes) -> None:
        """Put `data` at `dpa`. Errors: AskedWrongly, CannotRun."""
        self._check(dpa, len(data))
        done = 0
        for index, at, size in _pieces(dpa, len(data)):
            self._chunk(index).store(at, data[done : done + size])
            done += size

    def close(self) -> None:
        """Unmap everything and close the file."""
        while self._chunks:
            self._drop(next(iter(self._chunks)))
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check(self, dpa: int, length: int) -> None:
        if not 0 < length <= MAX_ACCESS:
            raise AskedWrongly(f"{length} bytes at once; 1 to {MAX_ACCESS} are allowed")
        if not 0 <= dpa <= self.size - length:
            raise AskedWrongly(f"{length} bytes at DPA {dpa:#x}; the device ends at 0x{self.size:x}")

    def _chunk(self, index: int) -> _Chunk:
        found = self._chunks.pop(index, None)
        if found is None:
            if len(self._chunks) >= _MAX_CHUNKS:
                self._drop(next(iter(self._chunks)))
            found = self._map(index)
        self._chunks[index] = found  # the last one used goes last
        return _Chunk(*found)

    def _map(self, index: int) -> tuple[mmap.mmap, Mapped]:
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
            length = min(_CHUNK, self.size - index * _CHUNK)
            memory = mmap.mmap(
                self._fd,
                length,
                mmap.MAP_SHARED,
                mmap.PROT_READ | mmap.PROT_WRITE,
                offset=self.base + index * _CHUNK,
            )
        except (OSError, ValueError) as error:
            raise CannotRun(
                f"0x{self.base + index * _CHUNK:x} of {self._path} cannot be mapped: {error}; "
                "the agent must run as root, with the kernel parameter iomem=relaxed"
            ) from None
        return memory, Mapped(memory)

    def _drop(self, index: int) -> None:
        memory, mapped = self._chunks.pop(index)
        mapped.close()
        memory.close()


class _Chunk(NamedTuple):
    memory: mmap.mmap
    mapped: Mapped

    def load(self, at: int, length: int) -> bytes:
        start = at & ~7
        return self.mapped.read_block(start, at + length - start)[at - start :]

    def store(self, at: int, data: bytes) -> None:
        end = at + len(data)
        head, tail = min((at + 7) & ~7, end), max(end & ~7, min((at + 7) & ~7, end))
        for index in (*range(at, head), *range(tail, end)):
            self.memory[index] = data[index - at]
        if tail > head:
            self.mapped.write_block(head, data[head - at : tail - at])


def _pieces(dpa: int, length: int) -> list[tuple[int, int, int]]:
    """(chunk, offset in it, length) for each piece of a range."""
    found = []
    while length:
        index, at = divmod(dpa, _CHUNK)
        size = min(length, _CHUNK - at)
        found.append((index, at, size))
        dpa += size
        length -= size
    return found
