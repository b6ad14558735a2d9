"""The supervisor's process: from the launcher's request to the guest's end.

It runs in its main thread, because QEMU dies with the thread that started it. Its terminal is none, its words go to a
log in the run directory, and it ends when it is told to: the verb `stop`, SIGTERM, SIGINT. The death of its guest does
not end it: somebody has yet to be told.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shlex
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from .. import asked, image
from ..boot import HISTORY, MAX_SEED, PARTS, Setup, prepare
from ..errors import DcdError, OutcomeUnknown
from ..history import Writer
from ..image.step import Step
from ..rundir import COMMAND, new_run_dir
from ..topology import Kind, Topology, direct, switch
from .held import Held, judged
from .place import Place
from .protocol import MAX_REQUEST_BYTES, decode, encode, error_data
from .server import BACKLOG, Server

LOG = "supervisor.log"
VERDICT = "verdict.json"
_REQUEST_TIMEOUT_S = 10.0
_TELL_TIMEOUT_S = 5.0
_LARGEST_JUDGED = 16 << 20


class Launcher:
    """The process that waits for the guest, as long as it does; that it goes away harms nobody."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._said: str | None = None

    def request(self) -> dict[str, Any]:
        """{"name", "options"}. Errors: AnsweredWrongly, OSError."""
        self._connection.settimeout(_REQUEST_TIMEOUT_S)
        line = b""
        while not line.endswith(b"\n") and len(line) < MAX_REQUEST_BYTES:
            data = self._connection.recv(4096)
            if not data:
                break
            line += data
        return decode(line)

    def progress(self, text: str) -> None:
        """A step, once; called from any thread."""
        if text != self._said:
            self._said = text
            self._tell({"progress": text})

    def ready(self) -> None:
        """The guest is there: nothing more is to be said."""
        self._tell({"ready": True})
        self.close()

    def failed(self, error: DcdError) -> None:
        self._tell(error_data(error))

    def born(self) -> None:
        """Say who lives here, so that one that hangs can be ended."""
        self._tell({"pid": os.getpid()})

    def wants_stop(self) -> bool:
        """Whether it takes the start back; called when it can be read."""
        try:
            found = self._connection.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            found = b""
        if not found:
            self.close()
        return b"stop" in found

    def fileno(self) -> int:
        return self._connection.fileno()

    def close(self) -> None:
        if self._connection.fileno() >= 0:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._connection.close()

    def _tell(self, body: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._connection.settimeout(_TELL_TIMEOUT_S)
            self._connection.sendall(encode(body))


class Stop:
    """How the process is told to end: before the guest is ready its start is broken off, then it ends in order."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._starting: asyncio.Task[Any] | None = asyncio.current_task()

    def now(self) -> None:
        self.asked.set()
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None

    def started(self) -> None:
        self._starting = None


def main(arguments: list[str]) -> int:
    """The process; its exit code. `arguments`: the descriptor of the launcher's socket.

    After a failure that socket is closed by the process's end alone: for the launcher, nothing is left then.
    """
    launcher = Launcher(socket.socket(fileno=int(arguments[0])))
    try:
        launcher.born()
        request = launcher.request()
        asyncio.run(supervise(str(request.get("name")), dict(request.get("options") or {}), launcher))
    except DcdError as error:
        launcher.failed(error)
        return error.exit_code
    except asyncio.CancelledError:
        stopped = OutcomeUnknown("the start was broken off before the guest was ready")
        launcher.failed(stopped)
        return stopped.exit_code
    except Exception as error:
        traceback.print_exc()
        fault = DcdError(f"our own fault: {type(error).__name__}: {error}")
        launcher.failed(fault)
        return fault.exit_code
    return 0


async def supervise(name: str, options: dict[str, Any], launcher: Launcher) -> None:
    """Launch a guest and hold it until told to end. Errors: those of the start."""
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.now)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    loop.add_reader(launcher.fileno(), lambda: stop.now() if launcher.wants_stop() else None)
    with Place.claim(name) as place:
        known: dict[str, Any] = {"pid": os.getpid(), "since": time.time()}
        place.note(**known)
        kind: Kind = asked.one_of(options["topology"], "topology", get_args(Kind))  # type: ignore[assignment]
        wanted = {key: options[key] for key in ("regions", "size", "devices", "static")}
        (switch if kind == "switch" else direct)(**wanted)  # what cannot be is told before anything is fetched
        seed = secrets.randbits(32) if options["seed"] is None else asked.whole(options["seed"], "seed", most=MAX_SEED)
        parts = await asyncio.to_thread(
            image.parts,
            qemu=options["qemu"],
            kernel=options["kernel"],
            initrd=options["initrd"],
            modules=options["modules"],
            progress=lambda step: launcher.progress(_told(step)),
        )
        setup = await prepare(
            parts,
            accel=options["accel"],
            shape=wanted,
            kind=kind,
            poll=options["poll"],
        )
        shape = setup.topology()
        run_dir = _run_dir(name, options)
        known |= {"run_dir": str(run_dir), "qemu": setup.version}
        place.note(**known)
        (run_dir / PARTS).write_text(json.dumps(parts.manifest, indent=1) + "\n")
        launcher.progress(f"{setup.begins} ({setup.label})")
        await _hold(place, known, setup, shape, run_dir, seed, options, launcher, stop)


async def _hold(
    place: Place,
    known: dict[str, Any],
    setup: Setup,
    shape: Topology,
    run_dir: Path,
    seed: int,
    options: Mapping[str, Any],
    launcher: Launcher,
    stop: Stop,
) -> None:
    """The guest, from its start to its end."""
    async with setup.guest(shape, run_dir / "guest") as guest:
        with Writer(run_dir / HISTORY, guest.header("launch", seed), time.monotonic_ns) as writer:
            guest.begin(writer)
            held = Held(
                name=place.name,
                guest=guest,
                session=guest.session(writer),
                run_dir=run_dir,
                stop=stop.now,
                since=known["since"],
            )
            try:
                await held.follow(options["policy"], options["release_policy"])
                async with Server(place.listen(BACKLOG), held) as server:
                    held.clients = lambda: server.clients
                    watching = asyncio.create_task(held.watch())
                    try:
                        place.note(**known, ready=True)
                        stop.started()
                        launcher.ready()
                        await stop.asked.wait()
                    finally:
                        watching.cancel()
                        await asyncio.wait([watching])
            finally:
                await held.end()
                if held.death is None:
                    guest.end()
        await _judge(run_dir)


async def _judge(run_dir: Path) -> None:
    """Leave the verdict beside the history; of a very long one it is left to `dcd check`."""
    path = run_dir / HISTORY
    if path.stat().st_size <= _LARGEST_JUDGED:
        verdict = await asyncio.to_thread(judged, path)
        (run_dir / VERDICT).write_text(json.dumps(verdict.as_data(), indent=1) + "\n")


def _run_dir(name: str, options: Mapping[str, Any]) -> Path:
    """A fresh run directory, with the launcher's command line in it; what this process says goes into its log."""
    given = options["run_dir"]
    run_dir = new_run_dir(f"launch-{name}", None if given is None else Path(given))
    (run_dir / COMMAND).write_text(shlex.join(["dcd", *[str(word) for word in options["command"][1:]]]) + "\n")
    log = os.open(run_dir / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    sys.stdout.flush()
    sys.stderr.flush()
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)
    os.chdir(run_dir)
    return run_dir


def _told(step: Step) -> str:
    about = f" (about {step.total_bytes / 1e6:.0f} MB)" if step.total_bytes else ""
    return f"{step.what}{about}"
