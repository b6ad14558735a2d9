"""What a kernel image says of itself: its version, and the configuration that it may carry.

A bzImage is read by the x86 boot protocol (Documentation/arch/x86/boot.rst): the version stands in its setup header,
the compressed kernel is its payload. A configuration is inside only with CONFIG_IKCONFIG (kernel/configs.c); looking
for it unpacks the payload. A vmlinux (ELF) is searched as it lies there.

`unpacked` also serves kernel modules, which are compressed by the same programs. gzip, xz, lzma and bzip2 are Python's
own; zstd and lz4 are taken from Python where it has them, else from the program of that name.

It starts no kernel and judges no configuration (`kconfig` does).
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .errors import AskedWrongly, CannotRun

MAX_IMAGE_BYTES = 1 << 30
"""A vmlinux with debug information has some hundred MB; nothing larger is read."""

_HEADER = 0x202
_MAGIC = b"HdrS"
_VERSION_AT = 0x20E
_SECTORS_AT = 0x1F1
_PAYLOAD_AT = 0x248
_SINCE_PAYLOAD = 0x208
_ELF = b"\x7fELF"
_BANNER = re.compile(rb"Linux version ([0-9][!-~]{2,63}) ")
_FIRST = b"IKCFG_ST"
_LAST = b"IKCFG_ED"
_UNPACK_S = 60.0


class Packing(NamedTuple):
    """A compression: how it begins, what it is called, Python's way if any, the program that unpacks stdin."""

    magic: bytes
    name: str
    ours: Callable[[bytes], bytes] | None
    program: tuple[str, ...]


def is_kernel(head: bytes) -> bool:
    """Whether the first 0x210 bytes are those of a bzImage or an ELF file."""
    return head[_HEADER:].startswith(_MAGIC) or head.startswith(_ELF)


def version(path: Path) -> str | None:
    """`6.12.107+deb13-cloud-amd64`: what `uname -r` will say; None where the image does not tell.

    Errors: AskedWrongly (it cannot be read).
    """
    data = _read(path, 1 << 16)
    if data[_HEADER:].startswith(_MAGIC):
        at = int.from_bytes(data[_VERSION_AT : _VERSION_AT + 2], "little")
        words = data[at + 0x200 : at + 0x200 + 256].split(b"\0")[0].split() if at else []
        return words[0].decode("ascii", "replace") if words else None
    if data.startswith(_ELF):
        found = _BANNER.search(_read(path, MAX_IMAGE_BYTES))
        return found[1].decode("ascii", "replace") if found else None
    return None


def config(path: Path) -> str | None:
    """The configuration that the image carries; None where it carries none (CONFIG_IKCONFIG is not set).

    Errors: AskedWrongly (no kernel image, a damaged one), CannotRun (nothing here unpacks it).
    """
    data = _read(path, MAX_IMAGE_BYTES)
    if not is_kernel(data[:0x210]):
        raise AskedWrongly(
            f"{str(path)!r} is no kernel image; give a bzImage or vmlinux for x86_64, or a configuration"
        )
    body = data if data.startswith(_ELF) else unpacked(_payload(data, path), str(path))
    first = body.find(_FIRST)
    last = body.find(_LAST, first)
    if first < 0 or last < 0:
        return None
    return unpacked(body[first + len(_FIRST) : last], str(path)).decode("utf-8", "replace")


def unpacked(data: bytes, name: str) -> bytes:
    """The content; `data` itself where it is not compressed. What follows the first stream is not looked at.

    Errors: AskedWrongly (damaged), CannotRun (nothing here unpacks this compression).
    """
    packing = next((one for one in PACKINGS if data.startswith(one.magic)), None)
    if packing is None:
        return data
    ours = packing.ours or _library(packing.name)
    try:
        if ours is not None:
            return ours(data)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError) as error:
        raise AskedWrongly(f"{name!r} is damaged: its {packing.name} data cannot be unpacked ({error})") from None
    return _by_program(packing, data, name)


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise AskedWrongly(f"{str(path)!r} cannot be read ({error.strerror}); give a bzImage or vmlinux") from None


def _payload(data: bytes, path: Path) -> bytes:
    """The compressed kernel inside a bzImage."""
    protocol = int.from_bytes(data[0x206:0x208], "little")
    if protocol < _SINCE_PAYLOAD or len(data) < _PAYLOAD_AT + 8:
        raise AskedWrongly(f"{str(path)!r} has boot protocol {protocol:x}, which names no payload; give its .config")
    offset, length = struct.unpack_from("<II", data, _PAYLOAD_AT)
    start = ((data[_SECTORS_AT] or 4) + 1) * 512 + offset
    payload = data[start : start + length]
    if len(payload) != length or not length:
        raise AskedWrongly(f"{str(path)!r} is cut short: {len(data)} bytes, its payload ends at {start + length}")
    return payload


def _gunzip(data: bytes) -> bytes:
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    found = stream.decompress(data) + stream.flush()
    if not stream.eof:
        raise EOFError("it ends too early")
    return found


def _xz(data: bytes) -> bytes:
    return _whole(lzma.LZMADecompressor(), data)


def _bunzip2(data: bytes) -> bytes:
    return _whole(bz2.BZ2Decompressor(), data)


def _whole(stream: lzma.LZMADecompressor | bz2.BZ2Decompressor, data: bytes) -> bytes:
    found = stream.decompress(data)
    if not stream.eof:
        raise EOFError("it ends too early")
    return found


PACKINGS = (
    Packing(b"\x1f\x8b\x08", "gzip", _gunzip, ()),
    Packing(b"\xfd7zXZ\0", "xz", _xz, ()),
    Packing(b"]\0\0", "lzma", _xz, ()),
    Packing(b"BZh", "bzip2", _bunzip2, ()),
    Packing(b"\x28\xb5\x2f\xfd", "zstd", None, ("zstd", "-dcq")),
    Packing(b"\x02\x21\x4c\x18", "lz4", None, ("lz4", "-dcq")),
    Packing(b"\x04\x22\x4d\x18", "lz4", None, ("lz4", "-dcq")),
    Packing(b"\x89LZO\0", "lzo", None, ("lzop", "-dcq")),
)
"""What kernels and modules are compressed with (lib/decompress.c), by their first bytes."""

_LIBRARIES = {"zstd": ("compression.zstd", "backports.zstd", "pyzstd")}
"""Modules with a `decompress(bytes)`; the first that is there."""


def _library(name: str) -> Callable[[bytes], bytes] | None:
    """Python's way, where it is of the kind that stops at the end of the stream."""
    for module in _LIBRARIES.get(name, ()):
        try:
            found = importlib.import_module(module)
        except ImportError:
            continue
        kind = getattr(found, "ZstdDecompressor", None)
        if kind is not None:
            return _stopping(kind)
    return None


def _stopping(kind: Callable[[], Any]) -> Callable[[bytes], bytes]:
    def unpack(data: bytes) -> bytes:
        return bytes(kind().decompress(data))

    return unpack


def _by_program(packing: Packing, data: bytes, name: str) -> bytes:
    """Unpack by a program. A kernel's payload has four bytes more behind it (its size), which they complain of after
    they have written all: what counts is what came out."""
    found = shutil.which(packing.program[0])
    if found is None:
        raise CannotRun(
            f"{name!r} is compressed with {packing.name}, which neither this Python nor a program here unpacks; "
            f"apt-get install {packing.program[0] if packing.name != 'lzo' else 'lzop'}, or give the .config itself"
        )
    try:
        done = subprocess.run([found, *packing.program[1:]], input=data, capture_output=True, timeout=_UNPACK_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotRun(f"{found} does not unpack {name!r} ({error}); give the .config itself") from None
    if not done.stdout:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise AskedWrongly(f"{name!r} is damaged: its {packing.name} data cannot be unpacked ({' '.join(said[-1:])})")
    return done.stdout
