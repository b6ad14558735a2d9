"""Commands in the guest: started, read and ended in small steps, so that the mailbox never waits for one.

The controller starts one, reads its output piece by piece, and is told how it ended. What it does not read stays in
the pipes, and the command waits: nothing here grows with what a command says. At its time-out the command and its group
are killed, also when nobody asks.

Not `subprocess`, whose import costs the guest a fifth of a second: posix_spawn gives a new session, the pipes and the
default signals as well.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from ..errors import AskedWrongly

MOST_RUNNING = 8
MAX_TIMEOUT_S = 600.0
MAX_WORDS = 256
MAX_BYTES = 1 << 15
FORGET_S = 30.0
"""How long the end of one that nobody reads is kept."""
PIECE = 12 << 10
"""Bytes of a stream in one reply: two pieces as hex digits fit a frame."""
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


class Process:
    """One command that was started. Errors of the constructor: AskedWrongly (it does not start)."""

    def __init__(self, argv: list[str], timeout_s: float, clock: Callable[[], float]) -> None:
        self.timed_out = False
        self.unread = False
        self.exit: int | None = None
        self.ends_at = clock() + timeout_s
        self._pipes: dict[str, int] = {}
        ends = [os.pipe(), os.pipe()]
        try:
            self._pid = os.posix_spawnp(
                argv[0],
                argv,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, ends[0][1], 1),
                    (os.POSIX_SPAWN_DUP2, ends[1][1], 2),
                ],
                setsid=True,
                setsigdef=_DEFAULT_SIGNALS,
            )
        except OSError as error:
            for read_end, _ in ends:
                os.close(read_end)
            raise AskedWrongly(f"{argv[0][:200]!r} does not start: {error.strerror}") from None
        finally:
            for _, write_end in ends:
                os.close(write_end)
        for name, (read_end, _) in zip(("stdout", "stderr"), ends, strict=True):
            os.set_blocking(read_end, False)
            self._pipes[name] = read_end

    def turn(self, now: float) -> None:
        """See whether it has ended; end it when its time is over."""
        if self.exit is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.exit = os.waitstatus_to_exitcode(status)
                self.ends_at = now
            elif now >= self.ends_at and not self.timed_out:
                self.timed_out = True
                self.kill()

    def read(self, name: str) -> bytes:
        """What it has written meanwhile, at most PIECE bytes; nothing when nothing is there."""
        if name not in self._pipes:
            return b""
        try:
            data = os.read(self._pipes[name], PIECE)
        except BlockingIOError:
            return b""
        if not data:
            os.close(self._pipes.pop(name))
        return data

    def kill(self) -> None:
        """End it and what it has started in its group; one that was waited for has no number any more."""
        if self.exit is None:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the pipes: nobody reads any more."""
        while self._pipes:
            os.close(self._pipes.popitem()[1])


class Processes:
    """Those that were started and not read to their end, by handle."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = 0
        self._running: dict[int, Process] = {}

    def start(self, request: dict[str, object]) -> dict[str, object]:
        """{"argv", "timeout_s"}: its handle. Errors: AskedWrongly."""
        argv, timeout_s = request.get("argv"), request.get("timeout_s", 30.0)
        if not isinstance(argv, list) or not 0 < len(argv) <= MAX_WORDS or not all(map(_is_word, argv)) or not argv[0]:
            raise AskedWrongly(f"argv {str(argv)[:80]}; give a list of 1 to {MAX_WORDS} words")
        if sum(len(os.fsencode(word)) for word in argv) > MAX_BYTES:
            raise AskedWrongly(f"argv is longer than {MAX_BYTES} bytes")
        if type(timeout_s) not in (int, float) or not 0 <= timeout_s <= MAX_TIMEOUT_S:  # type: ignore[operator]
            raise AskedWrongly(f"timeout_s {str(timeout_s)[:40]}; give 0 to {MAX_TIMEOUT_S:g} seconds")
        if len(self._running) >= MOST_RUNNING:
            raise AskedWrongly(f"{MOST_RUNNING} commands are running or were not read to their end; wait for some")
        command = Process(argv, timeout_s, self._clock)  # type: ignore[arg-type]
        self._next += 1
        self._running[self._next] = command
        return {"handle": self._next}

    def read(self, request: dict[str, object]) -> dict[str, object]:
        """{"handle"}: its next output as hex digits, and once all of it was read, how it ended.

        What it left running in the background may hold the pipes open: its own end is the end. Errors: AskedWrongly.
        """
        handle = request.get("handle")
        command = self._running.get(handle) if type(handle) is int else None
        if command is None:
            raise AskedWrongly(f"no command {str(handle)[:40]}; it ended and was read, or never began")
        command.turn(self._clock())
        ended = command.exit  # looked at before the output: what it wrote is in the pipes by then
        out, err = command.read("stdout"), command.read("stderr")
        if ended is not None and not out and not err:
            command.close()
            del self._running[handle]  # type: ignore[arg-type]
        else:
            ended = None
        return {"stdout": out.hex(), "stderr": err.hex(), "exit": ended, "timed_out": command.timed_out}

    def kill(self, request: dict[str, object]) -> dict[str, object]:
        """{"handle"}: end it, nobody will read it; one that is not there is no error."""
        handle = request.get("handle")
        command = self._running.get(handle) if type(handle) is int else None
        if command is not None:
            command.close()
            command.kill()
            command.unread = True
        return {}

    def turn(self) -> None:
        """Let time go on: time-outs, and ends that nobody came for."""
        now = self._clock()
        for handle, command in list(self._running.items()):
            command.turn(now)
            if command.exit is not None and (command.unread or now > command.ends_at + FORGET_S):
                command.close()
                del self._running[handle]


def _is_word(word: object) -> bool:
    return isinstance(word, str) and "\0" not in word
