"""What a kernel's log and trace say of its DCD work: lines to notes, notes to the pages of records that it handled.

The texts are those of the v11 series with dynamic debug on (`log` operations hold the lines as they came, so that a
finding can show them). The kernel does not tell which commands it sends; `both` infers them from these notes and says
so. A line that is not known is left out: the log is full of others.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ..extents import NULL_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_HEX = r"0x(?P<{}>[0-9a-f]{{1,16}})"
_DPA = r"DPA:" + _HEX.format("start") + r" LEN:" + _HEX.format("length")
_SPAN = r"\[range " + _HEX.format("first") + "-" + _HEX.format("last") + r"\]"
_TAG = r"(?P<tag>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
_LOG: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("reading", r"Reading event logs"),
        ("add", r"DCD event add : " + _DPA),
        ("release", r"DCD event release : " + _DPA),
        ("staged", r"more bit set; delay the surfacing"),
        ("dropped", rf"Tag {_TAG}: dropping group, tag already committed"),
        ("failed", rf"Tag {_TAG}: failed to add extent " + _DPA),
        ("added", r"Add extent " + _SPAN + rf" \({_TAG}\)"),
        ("online", r"dc_extent HPA " + _SPAN + rf" \({_TAG}\)"),
        ("given", r"Release response dpa " + _SPAN),
        ("cleared", r"Event log '4': Clearing (?P<number>\d{1,5})"),
        ("scanned", r"Got extent list \d+-+\d+ of (?P<number>\d{1,9}) generation Num:(?P<generation>\d{1,9})"),
        ("timed-out", r"DC add chain timed out"),
        ("sent", r"Sending command: 0x4802"),
    )
)
_WORDS = (
    "Sending",
    "Reading",
    "DCD event",
    "more bit",
    "Tag ",
    "Add extent",
    "dc_extent",
    "Release",
    "Event log",
    "Got",
    "chain",
)


class Note(NamedTuple):
    """A line that is known. `kind` is the key of `_LOG`; `number`: a handle, or how many extents were listed."""

    time_ns: int
    kind: str
    start: int = 0
    length: int = 0
    tag: bytes = NULL_TAG
    number: int = 0
    generation: int = 0


def notes_of(lines: Iterable[Mapping[str, Any]]) -> tuple[Note, ...]:
    """The notes of log lines, each `{"t_ns", "text"}` by the kernel's clock."""
    found: list[Note] = []
    for line in lines:
        text: str = line["text"]
        if not any(word in text for word in _WORDS):
            continue
        for kind, pattern in _LOG:
            match = pattern.search(text)
            if match is not None:
                found.append(_note(line["t_ns"], kind, match.groupdict()))
    return tuple(found)


def _note(time_ns: int, kind: str, values: Mapping[str, str | None]) -> Note:
    start = length = 0
    first, last, size = values.get("first"), values.get("last"), values.get("length")
    if first is not None and last is not None:
        start = int(first, 16)
        length = int(last, 16) - start + 1
    elif size is not None:
        start, length = int(values.get("start") or "0", 16), int(size, 16)
    tag = values.get("tag")
    return Note(
        time_ns,
        kind,
        start,
        length,
        bytes.fromhex(tag.replace("-", "")) if tag else NULL_TAG,
        int(values.get("number") or 0),
        int(values.get("generation") or 0),
    )


class Page(NamedTuple):
    """One reading of the event log: its records in order, and what the kernel noted while it handled them.

    `records` are (kind, start, length, more); `added`: what was added, and for each the record that closed its chain
    (its place among the records); `early`: what appeared while a chain was open; `told`: "give_back", "clear" and
    "answer" (with the place of the record that closed the chain) in the order of the log. `expired`: no reading, but
    the time limit of an open chain. `loose`: no reading either, but releases that nobody asked for.
    """

    records: tuple[tuple[str, int, int, bool], ...]
    added: tuple[tuple[int, int, int], ...]
    early: tuple[tuple[int, int], ...]
    told: tuple[tuple[str, int, int], ...]
    time_ns: int
    expired: bool = False
    loose: bool = False

    def answered(self, at: int) -> tuple[tuple[int, int], ...]:
        """What was added of the chain that the record in that place closed."""
        return tuple([(start, length) for start, length, closed in self.added if closed == at])


def pages_of(notes: Sequence[Note]) -> tuple[Page, ...]:
    """The readings that the notes tell of: from one `reading` to the next, those with anything in them."""
    groups: list[list[Note]] = []
    is_open = False
    for note in notes:
        if note.kind == "reading":
            groups.append([])
            is_open = True
        elif note.kind == "timed-out":
            groups.append([note])
            is_open = False
        elif note.kind == "scanned":
            is_open = False
        elif is_open:
            groups[-1].append(note)
        elif note.kind == "given":
            if not groups or not groups[-1] or groups[-1][0].kind != "given":
                groups.append([])
            groups[-1].append(note)
    return tuple([_page(group) for group in groups if group])


def _page(notes: Sequence[Note]) -> Page:
    records: list[tuple[str, int, int, bool]] = []
    added: list[tuple[int, int, int]] = []
    early: list[tuple[int, int]] = []
    told: list[tuple[str, int, int]] = []
    is_open = False
    closed = -1
    for note in notes:
        pair = (note.start, note.length)
        if note.kind in ("add", "release"):
            records.append((note.kind, *pair, False))
            is_open = False
            if note.kind == "add":
                closed = len(records) - 1
                told.append(("answer", closed, 0))
        elif note.kind == "staged" and records:
            records[-1] = (*records[-1][:3], True)
            is_open = True
            told = [one for one in told if one != ("answer", len(records) - 1, 0)]
        elif note.kind in ("added", "online"):
            if is_open:
                early.append(pair)
            if note.kind == "added":
                added.append((*pair, closed))
        elif note.kind == "given":
            told.append(("give_back", *pair))
        elif note.kind == "sent" and ("answer", closed, 0) in told:
            told.remove(("answer", closed, 0))  # it is here, where the mailbox tells of it
            told.append(("answer", closed, 0))
        elif note.kind == "cleared":
            told.append(("clear", note.number, 0))
    first = notes[0].kind
    return Page(
        tuple(records),
        tuple(added),
        tuple(early),
        tuple(told),
        notes[-1].time_ns,
        first == "timed-out",
        first == "given" and not records,
    )
