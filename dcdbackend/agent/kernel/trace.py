"""The cxl_dynamic_capacity trace events: switched on, read, parsed; events that the ring lost are told.

In an instance of its own where tracefs allows one, so that a user's tracing and this one leave each other alone; else
in the buffer of all. `parse` takes a line as trace_pipe prints it and knows no field by its place: a field that a later
series adds comes along in `fields`. Numbers as the kernel prints them: handle, DPA and length in hex without 0x.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any

from ...errors import DcdError
from .files import Files
from .survey import EVENT, TRACING

Value = dict[str, Any]

NAME = "cxl_dynamic_capacity"
MOST_KEPT = 65536
MOST_TEXT = 1000
_READ = 65536
_LINE = re.compile(r"\s(?P<seconds>\d+)\.(?P<micros>\d{6}): " + NAME + r": (?P<rest>.*)")
_FIELD = re.compile(r"(\w+)=('[^']*'|\S+)")
_LOST = re.compile(r"LOST (\d+) EVENTS")
TYPES = {
    "Add capacity": 0,
    "Release capacity": 1,
    "Forced capacity release": 2,
    "Region Configuration Updated": 3,
    "Add Capacity Response": 4,
    "Capacity Released": 5,
}
_HEX = ("starting_dpa", "length", "handle", "related_handle")
_DECIMAL = ("serial", "host_id", "updated_region_index", "shared_extent_sequence")


def parse(line: str) -> Value | None:
    """An event; None for another line. Raises nothing: what a field holds that is no number stays text.

    {"t_ns", "memdev", "host", "serial", "event_type" (text), "type" (number, None when not known), "handle", "host_id",
    "updated_region_index", "starting_dpa", "length", "tag" (32 hex digits), "shared_extent_sequence", "text"}.
    """
    match = _LINE.search(line)
    if match is None:
        return None
    fields: dict[str, str] = {}
    for name, text in _FIELD.findall(match["rest"]):
        fields.setdefault(name, text.strip("'"))  # `host` before `host_id`, `uuid` of the record before others
    event: Value = {"t_ns": int(match["seconds"]) * 1_000_000_000 + int(match["micros"]) * 1000}
    for name in ("memdev", "host", "event_type"):
        event[name] = fields.pop(name, None)
    for names, base in ((_HEX, 16), (_DECIMAL, 10)):
        for name in names:
            event[name] = _number(fields.pop(name, None), base)
    event["type"] = _kind(event["event_type"])
    event["tag"] = fields.pop("tag", "").replace("-", "") or None
    event["text"] = line.strip()[:MOST_TEXT]
    return event


def _number(text: str | None, base: int) -> int | str | None:
    if text is None:
        return None
    try:
        return int(text, base)
    except ValueError:
        return text[:80]


def _kind(text: str | None) -> int | None:
    return next((number for name, number in TYPES.items() if text and name.lower() == text.lower()), None)


class Trace:
    """The events, from when `start` could switch them on. Errors: none; what cannot be had is told by `why`."""

    def __init__(self, files: Files, instance: str = "dcd") -> None:
        self._files = files
        self._instance = f"{TRACING}/instances/{instance}"
        self._fd: int | None = None
        self._rest = b""
        self._events: list[Value] = []
        self._lost = 0
        self.why = "not started"

    def start(self) -> bool:
        """Switch them on, if they are not; whether they are. The event is there only when cxl_core is loaded."""
        if self._fd is not None:
            return True
        if not self._files.exists(f"{TRACING}/{EVENT}"):
            self.why = f"there is no event {EVENT} in tracefs: no DCD support, its module not loaded, or no tracefs"
            return False
        place = self._home()
        enable = f"{place}/{EVENT}/enable"
        try:
            self._files.write(enable, "1")
            if place == TRACING:
                self._files.write(f"{place}/tracing_on", "1")
            pipe = self._files.place(f"{place}/trace_pipe")
            self._fd = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (DcdError, OSError) as error:
            self.why = f"the trace cannot be read: {error}"
            return False
        self.why = ""
        return True

    def _home(self) -> str:
        """The instance, made when it is not there; the buffer of all where none can be made."""
        if not self._files.exists(self._instance):
            try:
                os.mkdir(self._files.place(self._instance))  # noqa: PTH102 (pathlib costs 20 ms to import in the guest)
            except OSError:
                return TRACING
        return self._instance if self._files.exists(f"{self._instance}/trace_pipe") else TRACING

    def turn(self) -> int:
        """Take what is there; how many events came."""
        before = len(self._events)
        while self._fd is not None and len(self._events) < MOST_KEPT:
            try:
                part = os.read(self._fd, _READ)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self.why = f"the trace cannot be read any more: {error.strerror}"
                self.close()
                break
            if not part:
                break
            *lines, self._rest = (self._rest + part).split(b"\n")
            for line in lines:
                self._take(line.decode("utf-8", "replace"))
        return len(self._events) - before

    def _take(self, line: str) -> None:
        lost = _LOST.search(line)
        if lost is not None:
            self._lost += int(lost[1])
        event = parse(line)
        if event is not None:
            self._events.append(event)

    def drain(self, most: int) -> Value:
        """{"events", "lost", "more": whether there are more than `most` now}."""
        self.start()
        self.turn()
        events, self._events = self._events[:most], self._events[most:]
        lost, self._lost = self._lost, 0
        found: Value = {"events": events, "lost": lost, "more": bool(self._events)}
        return found | ({"why": self.why} if self.why else {})

    def close(self) -> None:
        """Let go of it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def remove(self) -> None:
        """Let go of it, and of its instance, which stops the events."""
        self.close()
        with contextlib.suppress(OSError):  # a recorded tree's, or in use by another
            os.rmdir(self._files.place(self._instance))  # noqa: PTH106
