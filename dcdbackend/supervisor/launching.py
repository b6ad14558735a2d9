"""Starting and ending a launched guest from outside: `launch`, `stop`.

`launch` starts a supervisor process in a session of its own, hears of its progress over a socket that only the two of
them have, and comes back when the guest's agent is ready. From then on (and if this process is killed even before) the
guest lives by itself. A launch that is cancelled takes the guest that it was starting back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import AskedWrongly, DcdError, MachineGone, TimedOut
from ..topology import Kind
from . import place
from .client import connect
from .place import GuestInfo
from .protocol import MAX_REPLY_BYTES, decode, encode, error_of

LAUNCH_TIMEOUT_S = 1800.0
"""The longest that a start can take: QEMU and the guest image may have to be fetched and built first."""
STOP_TIMEOUT_S = 30.0
_CANCEL_TIMEOUT_S = 15.0
_LOOK_S = 0.02
_WORDS = 2000
_MOST_WORDS = 100

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What `launch` starts. Sizes in bytes or as text (`2G`).

    `topology`, `regions`, `size`, `devices`, `static`: as `topology.direct` and `topology.switch`. `qemu`, `kernel`,
    `initrd`, `modules`, `accel`: as `dcd regress` (None: the environment, then the cache). `policy`, `release_policy`:
    what host U does from the start, {"kind": ..., parameters}; None for accept and release. `poll`: how it watches its
    devices. `run_dir`: None for a fresh one. `seed`: None for any.
    """

    topology: Kind = "direct"
    regions: int = 2
    size: int | str = "2G"
    devices: int = 1
    static: int | str = 0
    qemu: str | None = None
    kernel: str | None = None
    initrd: str | None = None
    modules: str | None = None
    accel: str | None = None
    policy: Mapping[str, Any] | None = None
    release_policy: Mapping[str, Any] | None = None
    poll: str = "sleep"
    run_dir: str | None = None
    seed: int | None = None
    command: list[str] = field(default_factory=lambda: list(sys.argv))
    """The command line that is noted in the run directory."""

    def as_data(self) -> dict[str, Any]:
        """JSON data, paths absolute: the supervisor works elsewhere."""
        data = asdict(self)
        data["command"] = [word[:_WORDS] for word in self.command[:_MOST_WORDS]]
        for key in ("kernel", "initrd", "modules", "run_dir"):
            if data[key] is not None:
                data[key] = str(Path(data[key]).absolute())
        if self.qemu is not None and "/" in self.qemu:
            data["qemu"] = str(Path(self.qemu).absolute())
        return data


async def launch(name: str, options: Options | None = None, *, progress: Progress = lambda text: None) -> GuestInfo:
    """Start a guest of that name; back when its agent is ready. `progress` is called with a line at each step.

    Errors: AskedWrongly (a bad name or option, the name is taken), and whatever the supervisor met: CannotRun,
    TimedOut, MachineGone, AnsweredWrongly. After an error, or a cancellation, no guest is left; what its run directory
    holds stays, where it got so far.
    """
    place.checked(name)
    options = options or Options()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, tempfile.TemporaryFile() as said:
        with theirs:
            await _ended(asyncio.to_thread(_start, theirs, said))
        ours.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=ours.dup(), limit=MAX_REPLY_BYTES)
        try:
            writer.write(encode({"name": name, "options": options.as_data()}))
            async with asyncio.timeout(LAUNCH_TIMEOUT_S):
                return await _heard(name, reader, said, progress)
        except TimeoutError:
            await _take_back(name, reader, writer)
            raise TimedOut(f"guest {name!r} was not ready after {LAUNCH_TIMEOUT_S:g} s and was ended") from None
        except BaseException:
            await _take_back(name, reader, writer)
            raise
        finally:
            writer.close()


async def stop(name: str) -> GuestInfo:
    """End a guest in order, or forget a dead one; what it was. Errors: AskedWrongly (there is none), TimedOut."""
    found = place.find(name)
    if found is None:
        raise AskedWrongly(f"no guest {name!r}; see: dcd list")
    if found.state == "dead" and place.forget(name):
        _swept(found)
        return found
    if found.state == "starting":
        _terminate(found)
    else:
        with contextlib.suppress(MachineGone):  # somebody else ended it, or it died, meanwhile
            async with connect(name) as client:
                await client.call("stop", reply_timeout_s=STOP_TIMEOUT_S)
    end = asyncio.get_running_loop().time() + STOP_TIMEOUT_S
    while (now := await asyncio.to_thread(place.find, name)) is not None and now.pid == found.pid:
        if now.state == "dead":
            place.forget(name)
            _swept(now)
            break
        if asyncio.get_running_loop().time() > end:
            raise TimedOut(
                f"guest {name!r} was told to stop and is still there after {STOP_TIMEOUT_S:g} s; "
                f"its supervisor is process {found.pid}"
            )
        await asyncio.sleep(_LOOK_S)
    return found


def _swept(dead: GuestInfo) -> None:
    """Take away what a killed supervisor could not: its devices' memory, which may be gigabytes, and its sockets.
    What the run tells stays."""
    for path in sorted(dead.run_dir.glob("*/*")) if dead.run_dir is not None else ():
        if path.suffix in (".memory", ".sock"):
            with contextlib.suppress(OSError):
                path.unlink()


def _terminate(found: GuestInfo) -> None:
    """SIGTERM to a supervisor that serves no socket yet. The lock is looked at again when the process is at hand, so
    that a number that has become another's is never signalled."""
    if found.pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(found.pid)
        try:
            now = place.find(found.name)
            if now is not None and now.state != "dead" and now.pid == found.pid:
                signal.pidfd_send_signal(process, signal.SIGTERM)
        finally:
            os.close(process)


async def _ended(work: Coroutine[Any, Any, None]) -> None:
    """Do it to its end, also when cancelled: a thread goes on, and uses descriptors that would be closed under it."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _start(theirs: socket.socket, said: BinaryIO) -> None:
    """Start the supervisor's process; it goes on as a process of nobody's, so its first shape ends at once."""
    argv = [sys.executable, "-m", __package__, str(theirs.fileno())]
    started = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=subprocess.STDOUT,
        pass_fds=(theirs.fileno(),),
        start_new_session=True,
    )
    with started:
        started.wait(STOP_TIMEOUT_S)


async def _heard(name: str, reader: asyncio.StreamReader, said: BinaryIO, progress: Progress) -> GuestInfo:
    """Follow the start to its end. Errors: the supervisor's, DcdError where it ended without a word."""
    while line := await _line(reader):
        body = decode(line)
        if "progress" in body:
            progress(str(body["progress"]))
        elif "error" in body:
            raise error_of(body)
        elif "ready" in body:
            found = await asyncio.to_thread(place.find, name)
            if found is None or found.state != "alive":
                raise MachineGone(f"guest {name!r} was ready and has ended since; see: dcd list")
            return found
    said.seek(0)
    words = said.read().decode("utf-8", "replace").strip()[-_WORDS:]
    raise DcdError(f"the supervisor of {name!r} ended without a word; its output ends: {words!r}")


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line; nothing when the supervisor has ended, however that is."""
    try:
        return await reader.readline()
    except ConnectionError:
        return b""


async def _take_back(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Have a supervisor that is starting end, and wait until it has; one that does not hear is killed."""
    pid: int | None = None
    with contextlib.suppress(OSError, TimeoutError, ValueError, DcdError):
        writer.write(encode({"stop": True}))
        async with asyncio.timeout(_CANCEL_TIMEOUT_S):
            while line := await _line(reader):
                pid = decode(line).get("pid", pid)
            return
    if isinstance(pid, int):  # the connection is open, so the process is there and the number its own
        with contextlib.suppress(ProcessLookupError, DcdError):
            os.kill(pid, signal.SIGKILL)
            place.forget(name)
