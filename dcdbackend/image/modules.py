"""Kernel modules for the guest: found by what they say they need, checked against the kernel, packed unpacked.

A third archive, behind base and agent, and only where something in it is needed: `DRIVERS` for a kernel under test,
`PORT` for a kernel whose virtio console is a module. What each module depends on stands in the module itself (its
.modinfo section), so a directory without modules.dep, as Debian's packages have it, is as good as an installed one.

In the guest: /dcd/modules/NAME.ko (never compressed), modules.dep in kmod's format beside them, modules.builtin as it
was, and `boot`, the paths that /init loads before the agent starts, in order. Not /lib/modules: a user's own archive
may have one, whole.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import bzimage
from ..errors import AskedWrongly
from . import archive

PORT = ("virtio_pci", "virtio_console")
"""What the agent speaks through."""
DRIVERS = (
    *("cxl_core", "cxl_port", "cxl_acpi", "cxl_pci", "cxl_mem"),
    *("dax", "dax_cxl", "device_dax", "kmem", "dax_hmem"),
)
"""What a kernel with DCD does its work with, where these are modules; what they depend on goes along. Nothing that
persistent memory needs: libnvdimm alone is twice as large as all of these."""
HOME = "dcd/modules"
"""Where they are in the guest."""
BESIDE = "modules"
"""Where they are in the cache, beside their kernel."""

_SUFFIXES = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")
_BUILTIN = "modules.builtin"
_SHF = struct.Struct("<II4QII2Q")
"""A section header of ELF64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Modules that go along: `needs` maps each one's name to what it depends on, the first to load first.

    `paths`: where each is; `boot`: those that /init loads; `builtin`: the directory's modules.builtin, as it is.
    """

    directory: Path
    version: str
    paths: dict[str, Path]
    needs: dict[str, tuple[str, ...]]
    boot: tuple[str, ...]
    builtin: bytes = field(default=b"", repr=False)

    def entries(self) -> Iterator[archive.Entry]:
        """The archive's members. Errors: AskedWrongly, CannotRun (a module cannot be unpacked)."""
        yield archive.directory("dcd")
        yield archive.directory(HOME)
        for name, path in self.paths.items():
            yield archive.file(f"{HOME}/{name}.ko", _content(path))
        lines = (
            f"{name}.ko:{''.join(f' {one}.ko' for one in reversed(needs))}\n" for name, needs in self.needs.items()
        )
        yield archive.file(f"{HOME}/modules.dep", "".join(lines).encode())
        yield archive.file(f"{HOME}/{_BUILTIN}", self.builtin)
        yield archive.file(f"{HOME}/boot", "".join(f"/{HOME}/{name}.ko\n" for name in self.boot).encode())


def choose(directory: Path, kernel: Path, wanted: Sequence[str]) -> Chosen | None:
    """Those of `wanted` that are modules there, with all that they depend on; None where none of them is one.

    `directory`: /lib/modules/VERSION, or what holds it. Errors: AskedWrongly (no modules there, modules for another
    kernel, a damaged one), CannotRun (nothing here unpacks them).
    """
    version = bzimage.version(kernel)
    place = _place(directory, version)
    there = _there(place)
    if not there and not (place / _BUILTIN).is_file():
        raise AskedWrongly(
            f"modules {str(directory)!r}: no kernel module is in it; give a /lib/modules/VERSION, or what holds it"
        )
    needs: dict[str, tuple[str, ...]] = {}
    found = ""
    for name in wanted:
        if name in there:
            found = _follow(name, there, needs)
    if version and found and found != version:
        raise AskedWrongly(
            f"modules {str(directory)!r} are for Linux {found}, the kernel {str(kernel)!r} is {version}; "
            f"give the {version} that was installed with it"
        )
    if not needs:
        return None
    boot = [one for name in PORT if name in needs for one in (*needs[name], name)]
    builtin = place / _BUILTIN
    return Chosen(
        directory=place,
        version=found,
        paths={name: there[name] for name in sorted(needs)},
        needs=dict(sorted(needs.items())),
        boot=tuple(dict.fromkeys(boot)),
        builtin=builtin.read_bytes() if builtin.is_file() else b"",
    )


def beside(kernel: Path) -> Path | None:
    """The modules that lie beside a kernel of the cache."""
    place = kernel.parent / BESIDE
    return place if place.is_dir() else None


def prune(directory: Path, wanted: Iterable[str]) -> None:
    """Leave of an unpacked kernel package's modules what `choose` may want; take out all else."""
    there = _there(directory)
    needs: dict[str, tuple[str, ...]] = {}
    for name in wanted:
        if name in there:
            _follow(name, there, needs)
    kept = {there[name] for name in needs}
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_symlink() or path.is_file():
            if path not in kept and path.name != _BUILTIN:
                path.unlink()
        elif not any(path.iterdir()):
            path.rmdir()


def _place(directory: Path, version: str | None) -> Path:
    """The directory of one version: itself, or one below it, that of the kernel where there are several."""
    if not directory.is_dir():
        raise AskedWrongly(f"modules {str(directory)!r} is no directory; give a /lib/modules/VERSION, or what holds it")
    for place in (directory, directory / "lib/modules", directory / "usr/lib/modules"):
        if version and (place / version).is_dir():
            return place / version
        if (place / _BUILTIN).is_file() or (place / "kernel").is_dir():
            return place
        below = [path for path in sorted(place.glob("*")) if (path / _BUILTIN).is_file() or (path / "kernel").is_dir()]
        if below:
            return below[-1]
    return directory


def _there(place: Path) -> dict[str, Path]:
    """Every module below: name (with underscores, as the kernel has it) to path. `updates` come before the kernel's."""
    found: dict[str, Path] = {}
    for folder, folders, files in os.walk(place):
        folders[:] = sorted(set(folders) - {"build", "source"}, key=lambda name: (name == "kernel", name))
        for file in sorted(files):
            stem, dot, ending = file.partition(".")
            if f"{dot}{ending}" in _SUFFIXES:
                found.setdefault(stem.replace("-", "_"), Path(folder, file))
    return found


def _follow(name: str, there: dict[str, Path], needs: dict[str, tuple[str, ...]]) -> str:
    """Add a module and what it depends on to `needs`; the kernel that it is for. A module that is not there is built
    in, or its lack is told when the guest loads what needs it."""
    told = _modinfo(there[name])
    soft = [word for line in told.get("softdep", ()) for word in _before(line)]
    below: list[str] = []
    direct = [one for line in told.get("depends", ()) for one in line.split(",") if one]
    needs[name] = ()
    for one in (each.replace("-", "_") for each in (*direct, *soft)):
        if one in there and one != name:
            if one not in needs:
                _follow(one, there, needs)
            below += [*needs[one], one]
    needs[name] = tuple(dict.fromkeys(below))
    return next(iter(told.get("vermagic", ())), "").split(" ")[0]


def _before(softdep: str) -> list[str]:
    """The names after `pre:` in a softdep line."""
    found, take = [], False
    for word in softdep.split():
        if word.endswith(":"):
            take = word == "pre:"
        elif take:
            found.append(word)
    return found


def _modinfo(path: Path) -> dict[str, list[str]]:
    """The `key=value` strings of a module's .modinfo. Errors: AskedWrongly (it is no module)."""
    data = _content(path)
    try:
        offset, count, names_at = _sections(data)
        headers = [_SHF.unpack_from(data, offset + 64 * index) for index in range(count)]
        names = headers[names_at][4]
        for header in headers:
            start = names + header[0]
            if data[start : data.index(b"\0", start)] == b".modinfo":
                strings = data[header[4] : header[4] + header[5]].split(b"\0")
                break
        else:
            raise ValueError("no .modinfo")
    except (struct.error, ValueError, IndexError) as error:
        raise AskedWrongly(
            f"{str(path)!r} is no kernel module for x86_64 ({error}); install the modules anew"
        ) from None
    found: dict[str, list[str]] = {}
    for string in strings:
        key, equals, value = string.decode("utf-8", "replace").partition("=")
        if equals:
            found.setdefault(key, []).append(value)
    return found


def _sections(data: bytes) -> tuple[int, int, int]:
    """Where an ELF64's section headers are, how many, and which one has their names."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not ELF64")
    (offset,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<3H", data, 0x3A)
    if size != _SHF.size or names >= count:
        raise ValueError("its section headers are odd")
    return offset, count, names


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AskedWrongly(
            f"module {str(path)!r} cannot be read ({error.strerror}); install the modules anew"
        ) from None
    return bzimage.unpacked(data, str(path))
