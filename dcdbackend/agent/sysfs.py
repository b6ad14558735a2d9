"""Small files of the kernel (sysfs, procfs, ACPI tables), read and written within bounds.

Paths are strings under a root given at start ("" is the running system), so that a recorded tree can stand in for
it. Not pathlib: it would cost the guest 30 ms to import for joining strings.
"""

from __future__ import annotations

import os

from ..errors import CannotRun

MAX_BYTES = 1 << 20


def read_bytes(path: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The file's content, at most `max_bytes` of it. Errors: CannotRun."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = bytearray()
            while len(found) < max_bytes and (part := os.read(fd, max_bytes - len(found))):
                found += part
            return bytes(found)
        finally:
            os.close(fd)
    except OSError as error:
        raise CannotRun(f"{path} cannot be read: {error.strerror}") from None


def read_text(path: str) -> str:
    """The file's first 4096 bytes as stripped text. Errors: CannotRun."""
    return read_bytes(path, max_bytes=4096).decode("utf-8", "replace").strip()


def read_number(path: str, *, base: int = 0) -> int:
    """The number in the file, `0x` understood. Errors: CannotRun."""
    text = read_text(path)
    try:
        return int(text, base)
    except ValueError:
        raise CannotRun(f"{path} holds {text[:40]!r} where a number belongs") from None


def write_text(path: str, text: str) -> None:
    """Write `text` in one call. Errors: CannotRun."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode("ascii"))
        finally:
            os.close(fd)
    except OSError as error:
        raise CannotRun(f"{text!r} cannot be written to {path}: {error.strerror}") from None


def names(path: str) -> list[str]:
    """The names in a directory, sorted; [] when there is no such directory. Errors: CannotRun."""
    try:
        with os.scandir(path) as found:
            return sorted([entry.name for entry in found])
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CannotRun(f"{path} cannot be listed: {error.strerror}") from None


def target(path: str) -> str | None:
    """Where a link leads, all links followed; None when there is nothing."""
    try:
        return os.path.realpath(path, strict=True)
    except OSError:
        return None
