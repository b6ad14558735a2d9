"""Where a launched guest is found: a directory by its name, with a lock, a socket and a note of its run directory.

    $XDG_STATE_HOME/dcdbackend/guests/NAME/     DCD_GUESTS in place of .../guests; 0700
        control                                 the supervisor's socket
        guest.json                              what is known of it: run directory, since when, QEMU's version

The lock is on the directory itself, and the supervisor holds it as long as it lives: whoever asks whether a guest is
alive asks the lock, never a process id. A directory that can be locked is of a guest that died; the next launch of the
name, or `forget`, takes it away. The guest's run is elsewhere (`rundir`) and stays.

A directory may be taken away between the look at it and the lock on it. So after every lock the path is looked at
again: a lock on what is no longer there is no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import AskedWrongly, CannotRun

GUESTS = "DCD_GUESTS"
SOCKET = "control"
NOTE = "guest.json"
MAX_NAME = 64
MAX_GUESTS = 1000
_NAME = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_-]{{0,{MAX_NAME - 1}}}", re.ASCII)
_MAX_NOTE_BYTES = 1 << 16
_LOCK_PATIENCE_S = 0.5
_LOOK_S = 0.01

State = Literal["alive", "starting", "dead"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestInfo:
    """A launched guest as its directory tells it.

    `state`: alive (its agent was ready; whether its QEMU still lives is for `info` to say), starting, or dead (its
    supervisor ended without taking its directory away). `since`: seconds since the epoch. `pid`: the supervisor's, to
    be shown, never to be relied on. None: it had not got so far.
    """

    name: str
    state: State
    run_dir: Path | None = None
    since: float | None = None
    qemu: str | None = None
    pid: int | None = None

    def as_data(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "name": self.name,
            "state": self.state,
            "run_dir": None if self.run_dir is None else str(self.run_dir),
            "since": self.since,
            "qemu": self.qemu,
            "pid": self.pid,
        }


def guests_dir() -> Path:
    """The directory that holds the names: DCD_GUESTS, else $XDG_STATE_HOME/dcdbackend/guests."""
    if given := os.environ.get(GUESTS):
        return Path(given).absolute()
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state).absolute() / "dcdbackend" / "guests"


def checked(name: object) -> str:
    """A guest's name. Errors: AskedWrongly."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise AskedWrongly(
            f"guest name {str(name)[:80]!r}; give 1 to {MAX_NAME} letters, digits, - and _, no - in front, like vm0"
        )
    return name


class Place:
    """A name's directory, locked by this process: `with Place.claim(name) as place:`. Leaving takes it away.

    The descriptor is the lock; it is closed on exec, so nothing that this process starts can keep it.
    """

    def __init__(self, name: str, path: Path, descriptor: int) -> None:
        self.name = name
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def claim(cls, name: str) -> Place:
        """The directory, fresh and locked; what a dead guest left there is gone.

        Errors: AskedWrongly (a guest of that name is running or starting), CannotRun (it cannot be made).
        """
        path = guests_dir() / checked(name)
        end = time.monotonic() + _LOCK_PATIENCE_S  # somebody who only looks holds the lock for a moment
        while True:
            descriptor = _locked(path, fcntl.LOCK_EX, make=True)
            if descriptor is not None:
                os.fchmod(descriptor, 0o700)
                place = cls(name, path, descriptor)
                place._empty()
                return place
            if time.monotonic() > end:
                raise AskedWrongly(
                    f"a guest {name!r} is running already; choose another name, or end it with: dcd stop {name}"
                )
            time.sleep(_LOOK_S)

    def note(self, **known: object) -> None:
        """Write down what is known of the guest, whole or not at all. Errors: CannotRun."""
        fresh = self.path / f".{NOTE}"
        try:
            fresh.write_text(json.dumps(known) + "\n")
            fresh.replace(self.path / NOTE)
        except OSError as error:
            raise CannotRun(f"cannot write in {self.path}: {error.strerror}; set {GUESTS} to another place") from None

    def listen(self, backlog: int) -> socket.socket:
        """The control socket, bound and listening: reached by the descriptor, so the path's length does not matter.

        Errors: CannotRun (a file system that has no sockets, or is full).
        """
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(f"/proc/self/fd/{self._descriptor}/{SOCKET}")
            listening.listen(backlog)
        except OSError as error:
            listening.close()
            raise CannotRun(f"no socket in {self.path}: {error.strerror}; set {GUESTS} to another place") from None
        return listening

    def leave(self) -> None:
        """Take the directory away and let the lock go. Idempotent."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._empty()
                self.path.rmdir()
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def _empty(self) -> None:
        for left in self.path.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()


def dial(name: str) -> socket.socket:
    """A non-blocking socket connected to that guest's supervisor. Errors: FileNotFoundError, ConnectionRefusedError,
    BlockingIOError (it has too many waiting), NotADirectoryError."""
    with _opened(guests_dir() / checked(name)) as directory:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(f"/proc/self/fd/{directory}/{SOCKET}")
        except BaseException:
            connection.close()
            raise
    return connection


def list_guests() -> tuple[GuestInfo, ...]:
    """Every launched guest, alive and dead, by name, at most MAX_GUESTS. Errors: CannotRun."""
    try:
        entries = [entry for entry in guests_dir().iterdir() if entry.is_dir() and not entry.is_symlink()]
        names = sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise CannotRun(f"cannot read {guests_dir()}: {error.strerror}; set {GUESTS} to another directory") from None
    return tuple(found for name in names[:MAX_GUESTS] if (found := find(name)) is not None)


def find(name: str) -> GuestInfo | None:
    """What is known of that guest; None where there is none. Errors: AskedWrongly (no name)."""
    path = guests_dir() / checked(name)
    end = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            descriptor = _locked(path, fcntl.LOCK_SH, make=False)
        except FileNotFoundError:
            return None
        known = _noted(path)
        if descriptor is not None:
            os.close(descriptor)
            return _info(name, "dead", known)
        if known:
            return _info(name, "alive" if known.get("ready") is True else "starting", known)
        if time.monotonic() > end:  # locked and nothing noted: neither a start nor a removal takes that long
            return _info(name, "starting", known)
        time.sleep(_LOOK_S)


def forget(name: str) -> bool:
    """Take a dead guest's directory away (its run stays); False where there is none. AskedWrongly: it lives."""
    path = guests_dir() / checked(name)
    end = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            descriptor = _locked(path, fcntl.LOCK_EX, make=False)
        except FileNotFoundError:
            return False
        if descriptor is not None:
            Place(name, path, descriptor).leave()
            return True
        if time.monotonic() > end:
            raise AskedWrongly(f"guest {name!r} is alive; end it with: dcd stop {name}")
        time.sleep(_LOOK_S)


def _locked(path: Path, how: int, *, make: bool) -> int | None:
    """A descriptor of the directory with the lock on it; None while somebody else has it.

    Errors: FileNotFoundError (not with `make`), CannotRun.
    """
    try:
        if make:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        if make:
            return None  # taken away this moment; the caller comes again
        raise
    except OSError as error:
        raise CannotRun(f"cannot use {path}: {error.strerror}; set {GUESTS} to another directory") from None
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        here, there = os.fstat(descriptor), path.stat()
        if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _noted(path: Path) -> dict[str, Any]:
    """The note, or nothing where there is none that can be read."""
    try:
        with (path / NOTE).open("rb") as file:
            found = json.loads(file.read(_MAX_NOTE_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _info(name: str, state: State, known: dict[str, Any]) -> GuestInfo:
    run_dir, since, qemu, pid = (known.get(key) for key in ("run_dir", "since", "qemu", "pid"))
    return GuestInfo(
        name=name,
        state=state,
        run_dir=Path(run_dir) if isinstance(run_dir, str) else None,
        since=float(since) if isinstance(since, int | float) else None,
        qemu=qemu if isinstance(qemu, str) else None,
        pid=pid if isinstance(pid, int) else None,
    )
