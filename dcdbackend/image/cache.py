"""The cache directory: entries appear whole or not at all, whoever is killed and however many build at once.

Everything is made in a scratch directory beside its place, synced, then renamed. A scratch directory is locked by
whoever writes there (flock on the directory itself, inherited by the processes it starts); one that nobody locks was
left by a killed build and is swept. A lock belongs to open files, so no process id is ever trusted. Two that want the
same entry take turns (`turn`).

    KIND/KEY -> KIND/KEY-CONTENT      a link, replaced in one step; what it points to never changes
    initrd/KEY.cpio                   base and agent together, made again in under a second
    scratch-*                         being made, or left behind

Not a package cache: nothing here is needed to build again, and `dcd image rm` may remove all of it at any time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CannotRun
from .step import Progress, Step

MANIFEST = "manifest.json"
WAIT_S = 2400.0
"""For another process's build of the same entry; longer than any build may take."""

_POLL_S = 0.2
_TRIES = 5


class Scratch(NamedTuple):
    """A directory of our own; `handle` holds its lock."""

    path: Path
    handle: int


def directory() -> Path:
    """$XDG_CACHE_HOME/dcdbackend or ~/.cache/dcdbackend, created, for us alone. Errors: CannotRun."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(given) if given.startswith("/") else Path.home() / ".cache"
        found = base / "dcdbackend"
        found.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise CannotRun(f"the cache directory cannot be made ({error}); set XDG_CACHE_HOME to one that can") from error
    return found


def entry(kind: str, key: str) -> Path | None:
    """The current entry for `key`, or None."""
    try:
        found = (directory() / kind / key).resolve(strict=True)
    except OSError:
        return None
    return found if (found / MANIFEST).is_file() else None


def manifest(place: Path) -> dict[str, Any]:
    """An entry's manifest."""
    values: dict[str, Any] = json.loads((place / MANIFEST).read_text())
    return values


def entries(kind: str) -> list[tuple[Path, bool]]:
    """All entries of a kind and whether a link names them; the newest first."""
    place = directory() / kind
    links = {path.resolve() for path in place.iterdir() if path.is_symlink()} if place.is_dir() else set()
    found = [path for path in place.glob("*-*") if path.is_dir() and not path.is_symlink()]
    return [(path, path in links) for path in sorted(found, key=lambda path: -path.stat().st_mtime)]


@contextlib.contextmanager
def told(need: str = "") -> Iterator[None]:
    """What the file system refuses is said in one line. `need`: how much room the work takes. Errors: CannotRun."""
    try:
        yield
    except OSError as error:
        home = directory()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            said = f"the disk filled up in {home}{need and f', {need}'}; free some"
        else:
            said = f"the cache {home} cannot be used ({error.strerror}: {error.filename})"
        raise CannotRun(f"{said}, or set XDG_CACHE_HOME to a directory that has room and is yours") from error


@contextlib.contextmanager
def turn(kind: str, key: str, progress: Progress) -> Iterator[None]:
    """Only one process at a time builds `key`. Errors: CannotRun (the other one takes too long)."""
    with (directory() / f"{kind}-{key}.lock").open("w") as lock:
        deadline = time.monotonic() + WAIT_S
        while not _lock(lock.fileno()):
            if time.monotonic() > deadline:
                raise CannotRun(f"another build of {kind} has not ended after {WAIT_S:.0f} s; end it and try again")
            progress(Step(f"{kind}: another process is building it, waiting"))
            time.sleep(_POLL_S)
        yield


@contextlib.contextmanager
def scratch() -> Iterator[Scratch]:
    """A locked directory of our own in the cache; gone afterwards, whatever happens. Sweeps what others left."""
    sweep()
    made = _scratch()
    try:
        yield made
    finally:
        shutil.rmtree(made.path, ignore_errors=True)
        os.close(made.handle)


def sweep() -> list[Path]:
    """Remove the scratch directories that nobody locks; what was removed."""
    swept = []
    for path in directory().glob("scratch-*"):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            if _lock(handle):
                shutil.rmtree(path, ignore_errors=True)
                swept.append(path)
        finally:
            os.close(handle)
    return swept


def place(made: Scratch, name: str, kind: str, key: str, content: str) -> Path:
    """Move the finished directory `name` from our scratch to its place and let `key` mean it; the entry's path.

    The same content again (a refresh that found nothing new) leaves the entry that is there.
    """
    home = directory() / kind
    home.mkdir(exist_ok=True)
    final = home / f"{key}-{content}"
    sync(made.path / name)
    if final.exists() and not (final / MANIFEST).is_file():
        discard(made, final)
    try:
        (made.path / name).rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    link = made.path / "link"
    link.symlink_to(final.name)
    link.replace(home / key)
    _sync_directory(home)
    return final


def discard(made: Scratch, gone: Path) -> None:
    """Remove an entry: first out of its place in one step, into our scratch, which goes at the end."""
    with contextlib.suppress(FileNotFoundError):
        gone.rename(Path(tempfile.mkdtemp(dir=made.path)) / gone.name)


def forget(kind: str) -> None:
    """Remove the links whose entry is gone."""
    for path in (directory() / kind).glob("*"):
        if path.is_symlink() and not path.exists():
            path.unlink(missing_ok=True)


def place_file(made: Path, final: Path) -> Path:
    """Move a finished file to its place in one step."""
    final.parent.mkdir(exist_ok=True)
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.replace(final)
    _sync_directory(final.parent)
    return final


def sync(root: Path) -> None:
    """Every file and directory below `root` to the disk."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        _sync_directory(Path(folder))


def size_bytes(path: Path) -> int:
    """Bytes of the files in or at `path`; links count nothing."""
    if not path.is_dir():
        return path.lstat().st_size
    files = (Path(folder, name).lstat() for folder, _, names in os.walk(path) for name in names)
    return sum(status.st_size for status in files)


def _scratch() -> Scratch:
    """Between making and locking, a sweep may take it: then once more."""
    for _ in range(_TRIES):
        path = Path(tempfile.mkdtemp(prefix="scratch-", dir=directory()))
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        if _lock(handle) and path.exists():
            return Scratch(path, handle)
        os.close(handle)
    raise CannotRun(f"no directory of our own could be made in {directory()}; something there removes it at once")


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
