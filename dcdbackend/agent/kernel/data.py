"""Bytes through a mapping of /dev/daxN.M: read, write, and patterns that are made and checked where they lie.

A page of a pattern is one word, made of seed and page number, 512 times: `page(seed, number)` says the same here and
on the host side, so that gigabytes are compared without moving them over the link. Pages count from the start of the
DAX device.

Every access runs in a child process. A kernel that takes away what is mapped (which is what some scenarios look for)
then ends the child by a signal, and that is told as what the kernel did; the agent lives.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import struct
from collections.abc import Callable
from typing import Any

from ...errors import AskedWrongly, TimedOut
from . import dax
from .files import Files, KernelRefused, error_name
from .survey import DAX

Value = dict[str, Any]

PAGE = 4096
MOST_BYTES = 12 << 10
"""Of one read or write: as hex digits they fit a frame."""
PATIENCE_S = 120.0
_MASK = (1 << 64) - 1


def word(seed: int, number: int) -> int:
    """The word of a page: depends on both, on nothing else (the finalizer of splitmix64)."""
    value = (seed * 0x9E3779B97F4A7C15 + (number + 1) * 0xD1B54A32D192ED03) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31


def page(seed: int, number: int) -> bytes:
    """The 4096 bytes of a page of a pattern; `number` counts pages from the start of the DAX device."""
    return struct.pack("<Q", word(seed, number)) * (PAGE // 8)


class Mappings:
    """The DAX devices that are kept mapped, and what goes through a mapping."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._kept: dict[str, mmap.mmap] = {}

    def map(self, request: Value) -> Value:
        """{"dax"}: open it, map all of it, keep it: {"length"}. Errors: AskedWrongly, KernelRefused."""
        name = dax.one(self._files, request)
        if name in self._kept:
            raise AskedWrongly(f"{name} is mapped already; unmap it first")
        self._kept[name] = found = self._open(name)
        return {"length": len(found)}

    def unmap(self, request: Value) -> Value:
        """{"dax"}. Errors: AskedWrongly."""
        name = str(request.get("dax"))
        if name not in self._kept:
            raise AskedWrongly(f"{name[:64]} is not mapped; mapped are {', '.join(self._kept) or 'none'}")
        self._kept.pop(name).close()
        return {}

    def close(self) -> None:
        """Let go of all."""
        while self._kept:
            self._kept.popitem()[1].close()

    def read(self, request: Value) -> Value:
        """{"dax", "offset", "length"}: {"data"} as hex digits. Errors: AskedWrongly, KernelRefused, TimedOut."""
        offset, length = _place(request, MOST_BYTES)
        return {"data": self._through(request, lambda memory: memory[offset : offset + length], offset + length).hex()}

    def write(self, request: Value) -> Value:
        """{"dax", "offset", "data": hex digits}. Errors: AskedWrongly, KernelRefused, TimedOut."""
        try:
            data = bytes.fromhex(str(request.get("data")))
        except ValueError:
            data = b""
        offset, length = _place({**request, "length": len(data)}, MOST_BYTES)

        def store(memory: mmap.mmap) -> bytes:
            memory[offset : offset + length] = data
            return b""

        self._through(request, store, offset + length)
        return {}

    def fill(self, request: Value) -> Value:
        """{"dax", "offset", "length", "seed"}: {"pages"}; whole pages. Errors: as `read`."""
        offset, length, seed = _pages(request)

        def store(memory: mmap.mmap) -> bytes:
            for at in range(offset, offset + length, PAGE):
                memory[at : at + PAGE] = page(seed, at // PAGE)
            return b""

        self._through(request, store, offset + length)
        return {"pages": length // PAGE}

    def check(self, request: Value) -> Value:
        """{"dax", "offset", "length", "seed"}: {"bad": pages, "first": offset or None, "pages"}. Errors: as `read`."""
        offset, length, seed = _pages(request)

        def compare(memory: mmap.mmap) -> bytes:
            bad, first = 0, -1
            for at in range(offset, offset + length, PAGE):
                if memory[at : at + PAGE] != page(seed, at // PAGE):
                    bad += 1
                    first = at if first < 0 else first
            return struct.pack("<qq", bad, first)

        bad, first = struct.unpack("<qq", self._through(request, compare, offset + length))
        return {"bad": bad, "first": None if first < 0 else first, "pages": length // PAGE}

    # ----

    def _open(self, name: str) -> mmap.mmap:
        """The whole device, mapped shared. Errors: KernelRefused (EINVAL for one of no size)."""
        path = f"/dev/{name}"
        size = self._files.number(f"{DAX}/{name}/size") or 0
        try:
            fd = os.open(self._files.place(path), os.O_RDWR | os.O_CLOEXEC)
            try:
                return mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            finally:
                os.close(fd)
        except OSError as error:
            raise KernelRefused(error_name(error), path) from None
        except (ValueError, OverflowError):  # of no size, or of one that no mapping has
            raise KernelRefused("EINVAL", path) from None

    def _through(self, request: Value, work: Callable[[mmap.mmap], bytes], end: int) -> bytes:
        """What `work` gives, done on the kept mapping, or on one made for it."""
        name = dax.one(self._files, request)
        kept = self._kept.get(name)
        memory = self._open(name) if kept is None else kept
        try:
            if end > len(memory):
                raise AskedWrongly(f"{name} has {len(memory)} bytes; asked was up to {end}")
            return _apart(work, memory, f"/dev/{name}")
        finally:
            if kept is None:
                memory.close()


def _apart(work: Callable[[mmap.mmap], bytes], memory: mmap.mmap, path: str) -> bytes:
    """Do it in a child. Errors: KernelRefused with a signal's name when the access ended it, TimedOut."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(out)
            for fatal in (signal.SIGBUS, signal.SIGSEGV):  # end quietly, whoever wanted to hear of it in the parent
                signal.signal(fatal, signal.SIG_DFL)
            found = memoryview(work(memory))
            while found:
                found = found[os.write(into, found) :]
            status = 0
        finally:
            os._exit(status)
    os.close(into)
    parts = []
    try:
        while select.select([out], [], [], PATIENCE_S)[0]:
            part = os.read(out, 65536)
            if not part:
                break
            parts.append(part)
        else:
            os.kill(child, signal.SIGKILL)
            raise TimedOut(f"an access to {path} did not end within {PATIENCE_S:g} s")
    finally:
        os.close(out)
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise KernelRefused(signal.Signals(os.WTERMSIG(status)).name, path)
    if os.waitstatus_to_exitcode(status):
        raise KernelRefused("EIO", path)
    return b"".join(parts)


def _place(request: Value, most: int) -> tuple[int, int]:
    offset, length = request.get("offset", 0), request.get("length")
    if type(offset) is not int or offset < 0 or type(length) is not int or not 0 < length <= most:
        raise AskedWrongly(
            f"offset {str(offset)[:30]}, length {str(length)[:30]}; give 0 and more, and 1 to {most} bytes"
        )
    return offset, length


def _pages(request: Value) -> tuple[int, int, int]:
    offset, length = _place(request, 1 << 48)
    seed = request.get("seed", 0)
    if offset % PAGE or length % PAGE or type(seed) is not int or not 0 <= seed < 1 << 64:
        raise AskedWrongly(f"offset {offset}, length {length}, seed {str(seed)[:30]}; whole pages, a seed of 64 bits")
    return offset, length, seed
