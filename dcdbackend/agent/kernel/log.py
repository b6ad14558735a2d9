"""The kernel's log by /dev/kmsg: lines as they come, lines that were lost, and alarms among them.

An alarm (`alarms` has the table) is a verdict of its own. Dynamic debug is switched on for the CXL and DAX drivers
where the kernel has it; without it the log says little of what is accepted. What the lines mean is not its business
(`model` and the checker have the texts of the DCD series).
"""

from __future__ import annotations

import os
import re
from typing import Any

from ...alarms import alarm
from .files import Files, KernelRefused
from .survey import CONTROLS

Value = dict[str, Any]

PATH = "/dev/kmsg"
MOST_KEPT = 65536
MOST_TEXT = 500
_RECORD = 8192
_DEBUGGED = ("file drivers/cxl/* +p", "file drivers/dax/* +p")
_HEAD = re.compile(rb"(?P<level>\d+),(?P<number>\d+),(?P<micros>\d+),[^;]*;(?P<text>.*)")


class Log:
    """The log since the start of the machine, as far as its ring still holds it."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._fd: int | None = None
        self._rest = b""
        self._next: int | None = None
        self._lines: list[Value] = []
        self._lost = 0
        self._own: list[str] = []
        self.why = "not started"

    def start(self) -> bool:
        """Open it, if it is not; whether it is."""
        if self._fd is None:
            try:
                self._fd = os.open(self._files.place(PATH), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                self.why = ""
            except OSError as error:
                self.why = f"{PATH} cannot be read: {error.strerror}"
        return self._fd is not None

    def expect(self, text: str) -> None:
        """An alarm with this text is from now on the agent's own doing, and no alarm."""
        self._own.append(text)

    def debug(self) -> bool:
        """Switch dynamic debug on for the drivers that are loaded by now; whether there is such a thing."""
        for path in CONTROLS:
            if self._files.exists(path):
                try:
                    for query in _DEBUGGED:
                        self._files.write(path, query)
                except KernelRefused:
                    continue
                return True
        return False

    def turn(self) -> int:
        """Take what is there; how many lines came."""
        before = len(self._lines)
        while self._fd is not None and len(self._lines) < MOST_KEPT:
            try:
                part = os.read(self._fd, _RECORD)
            except (BlockingIOError, InterruptedError):
                break
            except BrokenPipeError:  # what came next was overwritten; the next record's number says how much
                continue
            except OSError as error:
                self.why = f"{PATH} cannot be read any more: {error.strerror}"
                self.close()
                break
            if not part:
                break
            *lines, self._rest = (self._rest + part).split(b"\n")
            for line in lines:
                self._take(line)
        return len(self._lines) - before

    def _take(self, line: bytes) -> None:
        """A record's line; those that begin with a space are about the one before (device, subsystem)."""
        match = _HEAD.match(line)
        if match is None:
            return
        number = int(match["number"])
        if self._next is not None and number > self._next:
            self._lost += number - self._next
        self._next = number + 1
        text = match["text"].decode("utf-8", "replace").replace("\\x0a", "\n").replace("\\x09", "\t")
        self._lines += [
            {"t_ns": int(match["micros"]) * 1000, "text": one[:MOST_TEXT]} for one in text.split("\n") if one
        ]

    def drain(self, most: int) -> Value:
        """{"lines": [{"t_ns", "text"}], "lost", "alarms": [{"kind", "text", "t_ns"}], "more"}."""
        self.start()
        self.turn()
        lines, self._lines = self._lines[:most], self._lines[most:]
        lost, self._lost = self._lost, 0
        foreign = [line for line in lines if not any(own in line["text"] for own in self._own)]
        alarms = [{"kind": kind, **line} for line in foreign if (kind := alarm(line["text"])) is not None]
        found: Value = {"lines": lines, "lost": lost, "alarms": alarms, "more": bool(self._lines)}
        return found | ({"why": self.why} if self.why else {})

    def close(self) -> None:
        """Let go of it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
