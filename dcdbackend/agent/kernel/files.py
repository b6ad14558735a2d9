"""Files of the kernel under a root: read, written, listed. A refusal keeps the errno, the path and what was written.

Unlike `agent.sysfs`, whose readers want the content or an error, this one expects attributes to vanish while they are
read (a release removes directories) and tells that apart from a refusal. Paths are as the kernel has them, without the
root; they come back so in what is told.
"""

from __future__ import annotations

import errno
import os

from ...errors import AskedWrongly, CannotRun

MAX_READ = 65536
_GONE = frozenset((errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR))
"""What reading an attribute gives while its device is being removed."""


class KernelRefused(CannotRun):
    """The kernel refused it. `name`: the errno's (`EBUSY`); `wrote`: the text, None where nothing was to be written."""

    def __init__(self, name: str, path: str, wrote: str | None = None) -> None:
        done = f"{wrote!r} cannot be written to {path}" if wrote is not None else f"{path} cannot be used"
        super().__init__(f"{done}: {name}")
        self.name = name
        self.path = path
        self.wrote = wrote


def name_of(number: int) -> str:
    """`EBUSY` of an errno; of two names for one number that which the kernel uses."""
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number, f"E{number}")


def error_name(error: OSError) -> str:
    """`EBUSY` of an OSError."""
    return name_of(error.errno or 0)


def one_name(name: object, what: str) -> str:
    """A name that may stand in a path: one part of it. Errors: AskedWrongly."""
    good = isinstance(name, str) and 0 < len(name) <= 64 and name.isascii() and name[0].isalnum()
    if not good or not all(letter.isalnum() or letter in "._-:" for letter in str(name)):
        raise AskedWrongly(f"{what} {str(name)[:80]!r}; give its name as sysfs shows it")
    return str(name)


class Files:
    """The kernel's files below `root` ("" is the running system)."""

    def __init__(self, root: str = "") -> None:
        self.root = root.rstrip("/")

    def place(self, path: str) -> str:
        """Where a path of the kernel's is found."""
        return self.root + path

    def read(self, path: str) -> str | None:
        """Its text, stripped; None when it is not there, or not any more. Errors: KernelRefused."""
        try:
            fd = os.open(self.place(path), os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = b""
                while len(found) < MAX_READ and (part := os.read(fd, MAX_READ - len(found))):
                    found += part
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise KernelRefused(error_name(error), path) from None
        return found.decode("utf-8", "replace").strip()

    def glance(self, path: str) -> str | None:
        """As `read`, and None also when it may not be read: for what is shown where it can be."""
        try:
            return self.read(path)
        except KernelRefused:
            return None

    def number(self, path: str) -> int | None:
        """The number in it; None when it is not there or holds none."""
        return number_of(self.glance(path))

    def write(self, path: str, text: str) -> None:
        """Write a line in one call, as `echo` does. Errors: KernelRefused."""
        try:
            fd = os.open(self.place(path), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode("utf-8", "replace") + b"\n")
            finally:
                os.close(fd)
        except OSError as error:
            raise KernelRefused(error_name(error), path, text) from None

    def names(self, path: str) -> list[str]:
        """The names in a directory, sorted as numbers count (decoder2.0 before decoder10.0); [] when there is none."""
        try:
            with os.scandir(self.place(path)) as found:
                return sorted([entry.name for entry in found], key=natural)
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory."""
        return os.path.exists(self.place(path))  # noqa: PTH110 (pathlib costs 20 ms to import in the guest)

    def writable(self, path: str) -> bool:
        """Whether its mode lets anyone write it; what root may do anyway is not asked."""
        try:
            return bool(os.stat(self.place(path)).st_mode & 0o222)  # noqa: PTH116
        except OSError:
            return False

    def leads_to(self, path: str) -> str | None:
        """Where a link leads, all links followed, as a path of the kernel's; None when there is nothing."""
        try:
            found = os.path.realpath(self.place(path), strict=True)
        except OSError:
            return None
        root = os.path.realpath(self.root) if self.root else ""
        return found.removeprefix(root)

    def link(self, path: str) -> str | None:
        """The last part of what a link names (a driver), whether that is there or not; None when it is no link."""
        try:
            return os.readlink(self.place(path)).rpartition("/")[2]  # noqa: PTH115
        except OSError:
            return None


def number_of(text: str | None) -> int | None:
    """The number that a text is, `0x` understood; None for any other text."""
    try:
        return int(text, 0) if text else None
    except ValueError:
        return None


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts names as people count: digits as numbers."""
    parts: list[tuple[int, int, str]] = []
    at = 0
    while at < len(name):
        end = at + 1
        is_number = "0" <= name[at] <= "9"
        while end < len(name) and ("0" <= name[end] <= "9") == is_number:
            end += 1
        parts.append((0, int(name[at:end]), "") if is_number else (1, 0, name[at:end]))
        at = end
    return tuple(parts)
