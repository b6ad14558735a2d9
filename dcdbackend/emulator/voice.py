"""What a simulated kernel shows of its work: log lines in the words of the v11 series, and trace events.

A kernel does not tell which commands it sends. So one under test is judged from what it logs and traces, and one that
is simulated in its place says just that and no more. The words are v11's for every generation: what others print is not
known here, and `checker.kernel` reads these.

It is told what was decided, and decides nothing; a kernel that does wrong tells of what it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..extents import NULL_TAG
from ..model import host as kernel
from ..model.claims import show_uuid
from ..model.permitted import MORE, Command, Decision

Value = dict[str, Any]
MOST = 100_000
_DROPS_GROUP = ("B6.live", "B6.region")


class Voice:
    """Lines and events of one memory device, oldest first; `drain_*` takes them. `place`: its PCI address."""

    def __init__(self, place: str) -> None:
        self.place = place
        self._lines: list[Value] = []
        self._events: list[Value] = []
        self.lost = 0
        self.regions: dict[int, int] = {}
        """By handle, the updated region of the records that are being read, which the kernel's model has no use for."""

    def drain_lines(self) -> list[Value]:
        """The lines since the last time."""
        found, self._lines = self._lines, []
        return found

    def drain_events(self) -> list[Value]:
        """The trace events since the last time."""
        found, self._events = self._events, []
        return found

    def say(self, now_ns: int, text: str) -> None:
        """A line of this device's driver."""
        self._line(now_ns, f"cxl_pci {self.place}: {text}")

    def _line(self, now_ns: int, text: str) -> None:
        if len(self._lines) < MOST:
            self._lines.append({"t_ns": now_ns, "text": text})
        else:
            self.lost += 1

    # -- what was done ---------------------------------------------------------------------------------------------

    def did(self, cause: kernel.Cause, way: Decision, commands: Sequence[Command], now_ns: int) -> None:
        """A cause was handled so, with these commands."""
        if isinstance(cause, kernel.Records):
            self._records(cause, way, commands, now_ns)
            return
        if isinstance(cause, kernel.Page):
            first, count = cause_start(cause), len(cause.extents)
            text = f"Got extent list {first}-{first + count - 1} of {cause.total} generation Num:{cause.generation}"
            self.say(now_ns, text)
            for extent in cause.extents:
                if any((one.start, one.length) == (extent.start, extent.length) for one in way.after.extents):
                    self._added(now_ns, extent.start, extent.length, extent.tag)
        if isinstance(cause, kernel.Tick) and any(command.f == "answer" for command in commands):
            self.say(now_ns, "DC add chain timed out; refusing staged extents")
        for command in commands:
            if command.f == "give_back":
                self._given(now_ns, command)

    def _records(self, cause: kernel.Records, way: Decision, commands: Sequence[Command], now_ns: int) -> None:
        self.say(now_ns, "Reading event logs: 10")
        left = list(commands)
        tags: dict[tuple[int, int], bytes] = {}
        for event in cause.events:
            if not event.known:
                continue
            self._traced(event)
            word = "add" if event.type == kernel.ADD else "release" if event.type == kernel.RELEASE else ""
            if not word:
                continue
            self.say(now_ns, f"DCD event {word} : DPA:0x{event.start:x} LEN:0x{event.length:x}")
            if word == "add":
                tags[event.start, event.length] = event.tag
            if word == "add" and event.more:
                self.say(now_ns, "more bit set; delay the surfacing of extent")
            elif word == "add":
                self._closed(left, way, tags, now_ns)
        for command in left:
            self._tell(command, tags, now_ns)

    def _closed(self, left: list[Command], way: Decision, tags: dict[tuple[int, int], bytes], now_ns: int) -> None:
        """A chain has closed: everything up to the end of its answer."""
        if not any(command.f == "answer" for command in left):
            return
        for one in way.dropped:
            tag = show_uuid(one.extent.tag)
            if one.clause in _DROPS_GROUP:
                self.say(now_ns, f"Tag {tag}: dropping group, tag already committed")
            else:
                where = f"DPA:0x{one.extent.start:x} LEN:0x{one.extent.length:x}"
                self.say(now_ns, f"Tag {tag}: failed to add extent {where}")
        while left:
            command = left.pop(0)
            self._tell(command, tags, now_ns)
            if command.f == "answer" and not command.flags & MORE:
                return

    def _tell(self, command: Command, tags: dict[tuple[int, int], bytes], now_ns: int) -> None:
        if command.f == "give_back":
            self._given(now_ns, command)
        elif command.f == "answer":
            for start, length in command.ranges:
                self._added(now_ns, start, length, tags.get((start, length), NULL_TAG))
            self.say(now_ns, "Sending command: 0x4802")
        elif command.f == "clear":
            for handle in command.handles:
                self.say(now_ns, f"Event log '4': Clearing {handle}")

    def _added(self, now_ns: int, start: int, length: int, tag: bytes) -> None:
        self._line(now_ns, f"cxl decoder2.0: Add extent {_span(start, length)} ({show_uuid(tag)})")

    def _given(self, now_ns: int, command: Command) -> None:
        for start, length in command.ranges:
            self.say(now_ns, f"Release response dpa {_span(start, length)}")

    def _traced(self, event: kernel.Event) -> None:
        if len(self._events) >= MOST:
            self.lost += 1
            return
        self._events.append(
            {
                "handle": event.handle,
                "type": event.type,
                "dpa": event.start,
                "length": event.length,
                "tag": event.tag.hex(),
                "sequence": event.sequence,
                "region": self.regions.get(event.handle, 0xFF),
            }
        )


def cause_start(cause: kernel.Page) -> int:
    """The index of a page's first extent, as far as one page tells: the last page ends the list."""
    return max(0, cause.total - len(cause.extents))


def _span(start: int, length: int) -> str:
    return f"[range 0x{start:016x}-0x{start + length - 1:016x}]"
