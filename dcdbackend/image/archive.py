"""cpio archives as the kernel unpacks them ("newc", Documentation/driver-api/early-userspace/buffer-format.rst).

Same entries, same bytes: sorted by path, owned by root, time 0, modes 0755 or 0644, inode numbers counted up.
Uncompressed: unpacking zstd under TCG costs more than reading the larger file (figures in images/README.md). Not a
general cpio: no hard links, no device nodes (the kernel's own archive has /dev/console, devtmpfs the rest).
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_MAGIC = b"070701"
_BLOCK_BYTES = 512
"""Archives that follow one another must start at a multiple of four, even after a compressed one; 512 is cpio's own."""


class Entry(NamedTuple):
    """One member. `name` is relative, without `./`; `data`: the content, a link's target, nothing for a directory."""

    name: str
    mode: int
    data: bytes = b""


def directory(name: str) -> Entry:
    return Entry(name, stat.S_IFDIR | 0o755)


def link(name: str, target: str) -> Entry:
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def file(name: str, data: bytes, *, executable: bool = False) -> Entry:
    return Entry(name, stat.S_IFREG | (0o755 if executable else 0o644), data)


def from_tree(root: Path) -> Iterator[Entry]:
    """Everything below `root`, symbolic links not followed; other kinds of file are left out."""
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).parts):
        name = path.relative_to(root).as_posix()
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            yield link(name, path.readlink().as_posix())
        elif stat.S_ISDIR(mode):
            yield directory(name)
        elif stat.S_ISREG(mode):
            yield file(name, path.read_bytes(), executable=bool(mode & 0o111))


def write(out: BinaryIO, entries: Iterable[Entry]) -> int:
    """The archive of `entries`, in the order given (a directory before what is in it); returns its size in bytes."""
    size = 0
    for inode, entry in enumerate((*entries, Entry("TRAILER!!!", 0))):
        size += out.write(_member(inode, entry))
    return size + out.write(padding(size))


def padding(size_bytes: int) -> bytes:
    """The zeros after an archive of that size, so that another may follow."""
    return bytes(-size_bytes % _BLOCK_BYTES)


def _member(inode: int, entry: Entry) -> bytes:
    """Header (eight hexadecimal digits a field), name and data, each padded to four bytes."""
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return head + bytes(-len(head) % 4) + entry.data + bytes(-len(entry.data) % 4)
