"""The guest image and the private QEMU: `parts` gives what a boot needs, built if it is not there.

What comes from where: flags, then DCD_QEMU, DCD_KERNEL, DCD_INITRD and DCD_MODULES, then the cache. The cache is filled
from the mirror that this machine's apt knows (`mirror`), by the recipes in images/ (`recipe`, `product`), whole or not
at all (`cache`); the agent's archive follows its sources (`initrd`), the modules' the kernel and who is to answer
(`modules`). Everything here blocks: in asyncio, call it in a thread.

It does not start anything (`machine` does), does not ask a QEMU what it can (`machine.probe_qemu`), and installs
nothing on the system (`make` does, and says so).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from .. import asked, bzimage
from ..errors import AskedWrongly, CannotRun
from . import cache as _cache
from . import initrd as _initrd
from . import modules as _modules
from . import product as _product
from .recipe import Kind, Recipe, load
from .recipe import kernel as kernel_recipe
from .step import Progress, Step, silent

__all__ = [
    "Cached",
    "Host",
    "Parts",
    "Progress",
    "Step",
    "build",
    "build_kernel",
    "cache_dir",
    "ensure",
    "list_images",
    "missing",
    "parts",
    "remove",
]

QEMU = "DCD_QEMU"
KERNEL = "DCD_KERNEL"
INITRD = "DCD_INITRD"
MODULES = "DCD_MODULES"
KINDS: tuple[Kind, ...] = ("qemu", "guest")
"""What every user needs; the cache may hold kernels besides."""

Host = Literal["U", "kernel"]
"""Who is to answer in the guest: our own host U, or the kernel's drivers."""

_PROGRAM = "qemu-system-x86_64"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a boot needs. `qemu_argv` is a prefix (program, or loader and program, and -L options); paths are absolute.

    `manifest`: {"qemu": an entry's manifest or {"given": path}, "guest": likewise, "initrd": {"key"}}; ready for JSON.
    """

    qemu_argv: tuple[str, ...]
    qemu_origin: Literal["private", "system", "given"]
    kernel: Path
    initrd: Path
    manifest: Mapping[str, Any]
    host: Host = "U"
    """Who answers: `kernel` has its modules in the initrd."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cached:
    """One thing in the cache. `current`: what the next boot would use."""

    kind: Literal["qemu", "guest", "kernel", "initrd"]
    path: Path
    size_bytes: int
    current: bool
    manifest: Mapping[str, Any]


def parts(
    *,
    qemu: str | None = None,
    kernel: str | None = None,
    initrd: str | None = None,
    modules: str | None = None,
    host: Host = "U",
    progress: Progress = silent,
) -> Parts:
    """What the flags say, else the environment variables, else the cache (built where it is missing).

    `qemu`: a program, "system" (the one installed) or "private". `modules`: a /lib/modules/VERSION or what holds it;
    without it those that lie beside a kernel of the cache. `host`: for `kernel` its drivers go along, for U (unless
    `modules` says so) only the virtio console, where that is a module. Nothing is fetched that is not needed.
    Errors: AskedWrongly (a file given that cannot be used, modules of another version), CannotRun (no apt, mirror,
    space or rights; with the ways out).
    """
    asked.one_of(host, "host", get_args(Host))
    qemu = qemu or os.environ.get(QEMU) or "private"
    kernel = kernel or os.environ.get(KERNEL) or None
    initrd = initrd or os.environ.get(INITRD) or None
    modules = modules or os.environ.get(MODULES) or None
    own_kernel = _kernel(kernel) if kernel else None
    own_initrd = _readable(initrd, "initrd", "a cpio archive, compressed or not") if initrd else None
    argv, origin, about_qemu = _qemu(qemu, progress)
    guest = None if own_kernel and own_initrd else _product.ensure("guest", refresh=False, progress=progress)
    known = guest or _cache.entry("guest", load("guest").key)
    tree = known / _product.TREE if known else None
    about_guest: dict[str, Any] = _cache.manifest(guest) if guest else {}
    given = {"kernel": own_kernel, "initrd": own_initrd}
    about_guest |= {f"given_{name}": _described(path) for name, path in given.items() if path}
    if own_kernel is None:
        assert guest is not None
        own_kernel = guest / _product.KERNEL
    chosen = _chosen(modules, own_kernel, host)
    third = _initrd.Third(host == "kernel", chosen)
    if chosen is not None:
        about_guest["modules"] = {"path": str(chosen.directory), "names": sorted(chosen.needs)}
    if own_initrd is None:
        assert guest is not None
        packed = _initrd.ours(guest, progress, third)
    else:
        packed = _initrd.appended(own_initrd, tree, progress, third)
    return Parts(
        qemu_argv=argv,
        qemu_origin=origin,
        kernel=own_kernel,
        initrd=packed,
        manifest={"qemu": about_qemu, "guest": about_guest, "initrd": {"key": packed.stem}},
        host=host,
    )


def ensure(progress: Progress = silent) -> Parts:
    """Everything from the cache, whatever the environment variables say. Errors: CannotRun."""
    build(progress)
    entries = {kind: _entry(kind) for kind in KINDS}
    packed = _initrd.ours(entries["guest"], progress)
    return Parts(
        qemu_argv=_product.qemu_argv(entries["qemu"]),
        qemu_origin="private",
        kernel=entries["guest"] / _product.KERNEL,
        initrd=packed,
        manifest={**{kind: _cache.manifest(path) for kind, path in entries.items()}, "initrd": {"key": packed.stem}},
    )


def build(progress: Progress = silent, *, refresh: bool = False) -> tuple[Cached, ...]:
    """Fill the cache; `refresh` asks the mirror again even if it is full. Errors: CannotRun."""
    for kind in KINDS:
        _product.ensure(kind, refresh=refresh, progress=progress)
    _initrd.ours(_entry("guest"), progress)
    return tuple(cached for cached in list_images() if cached.current)


def build_kernel(package: str, progress: Progress = silent, *, refresh: bool = False) -> Cached:
    """A Debian kernel package's kernel and modules, in the cache. Errors: AskedWrongly (no such name), CannotRun."""
    path = _product.of(kernel_recipe(package), refresh=refresh, progress=progress)
    about = _cache.manifest(path)
    return Cached(kind="kernel", path=path, size_bytes=_cache.size_bytes(path), current=True, manifest=about)


def missing() -> tuple[Recipe, ...]:
    """The recipes that the next boot from the cache would have to build first."""
    recipes = (load(kind) for kind in KINDS)
    return tuple(recipe for recipe in recipes if _cache.entry(recipe.kind, recipe.key) is None)


def list_images() -> tuple[Cached, ...]:
    """What is in the cache: what every boot needs, then kernels, then initrds; each the newest first."""
    found = []
    for kind in KINDS:
        now = _cache.entry(kind, load(kind).key)
        for path, _ in _cache.entries(kind):
            about = _cache.manifest(path)
            found.append(
                Cached(kind=kind, path=path, size_bytes=_cache.size_bytes(path), current=path == now, manifest=about)
            )
    for path, current in _cache.entries("kernel"):
        about, size_bytes = _cache.manifest(path), _cache.size_bytes(path)
        found.append(Cached(kind="kernel", path=path, size_bytes=size_bytes, current=current, manifest=about))
    packed = sorted((_cache.directory() / "initrd").glob("*.cpio"), key=lambda path: -path.stat().st_mtime)
    for number, path in enumerate(packed):
        size_bytes = path.stat().st_size
        found.append(
            Cached(kind="initrd", path=path, size_bytes=size_bytes, current=not number, manifest={"key": path.stem})
        )
    return tuple(found)


def remove(*, old_only: bool = False) -> tuple[Cached, ...]:
    """Empty the cache, or take out only what the next boot would not use; what was removed. A guest that is running
    goes on: it has its files open."""
    gone = tuple(cached for cached in list_images() if not (old_only and cached.current))
    with _cache.scratch() as made:
        for cached in gone:
            _cache.discard(made, cached.path)
        for kind in get_args(Kind):
            _cache.forget(kind)
    return gone


def cache_dir() -> Path:
    """$XDG_CACHE_HOME/dcdbackend or ~/.cache/dcdbackend, created. Errors: CannotRun."""
    return _cache.directory()


def _entry(kind: Kind) -> Path:
    found = _cache.entry(kind, load(kind).key)
    if found is None:
        raise CannotRun(f"the {kind} image was removed while it was needed; type the command again")
    return found


def _qemu(
    given: str, progress: Progress
) -> tuple[tuple[str, ...], Literal["private", "system", "given"], dict[str, Any]]:
    if given == "private":
        entry = _product.ensure("qemu", refresh=False, progress=progress)
        return _product.qemu_argv(entry), "private", _cache.manifest(entry)
    if given == "system":
        found = shutil.which(_PROGRAM)
        if found is None:
            raise CannotRun(
                f"--qemu system: no {_PROGRAM} is installed; leave --qemu away and one is made, or give a path"
            )
        return (found,), "system", {"given": found}
    found = shutil.which(given)
    if found is None:
        raise AskedWrongly(
            f"qemu {given!r} is not a program that can be run; give the path of a {_PROGRAM}, or system, or private"
        )
    path = str(Path(found).absolute())
    return (path,), "given", {"given": path}


def _kernel(given: str) -> Path:
    path = _readable(given, "kernel", "a bzImage or vmlinux for x86_64")
    with path.open("rb") as file:
        head = file.read(0x210)
    if not bzimage.is_kernel(head):
        raise AskedWrongly(
            f"kernel {given!r} is no kernel image; give a bzImage (arch/x86/boot/bzImage) or vmlinux for x86_64"
        )
    return path


def _chosen(given: str | None, kernel: Path, host: Host) -> _modules.Chosen | None:
    """The modules that go along."""
    place = Path(given).expanduser().absolute() if given else _modules.beside(kernel)
    drivers = _modules.DRIVERS if given or host == "kernel" else ()
    wanted = (*_modules.PORT, *drivers)
    return None if place is None else _modules.choose(place, kernel, wanted)


def _readable(given: str, what: str, allowed: str) -> Path:
    path = Path(given).expanduser().absolute()
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise AskedWrongly(f"{what} {given!r} cannot be read ({error.strerror}); give {allowed}") from error
    return path


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"path": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
