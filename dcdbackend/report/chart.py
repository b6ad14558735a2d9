"""A sequence chart as text: who spoke to whom in a history, one row a message, five lifelines.

Pure: lines of a history in, rows out (`rows`), and rows drawn (`draw`), as wide as asked. The five actors are those of
the Linux series' cover letter of 2024-08-16: orchestrator, fabric manager, device, host kernel, host user. A history
knows the first two as `manager`: what the orchestrator wants goes through the manager to the device, so such a message
is drawn over both. Arrows left of the text say who speaks; a solid one is an operation, a dotted one what a witness
saw or what a kernel's log tells; `x` at its end: refused, `?`: nobody knows.

It is not the story (`story`), which tells every operation: readings that bring nothing and clears that succeed are
counted, not drawn. It judges nothing. A long history is cut in its middle, by a line that says how much is left out.
"""

from __future__ import annotations

import textwrap
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..checker.kernel import Page, notes_of, pages_of
from ..units import format_address, format_size
from .story import Story, Told, words

Value = Mapping[str, Any]

ACTORS = ("orchestrator", "fabric manager", "device", "host kernel", "host user")
ORCHESTRATOR, MANAGER, DEVICE, KERNEL, USER = range(len(ACTORS))
WIDTH = 100
LEAST_WIDTH = 80
MOST_ROWS = 200
LEAST_ROWS = 2
_HEAD = (("orches-", "fabric", "", "host", "host"), ("trator", "manager", "device", "kernel", "user"))
_GAP = 9
_LEFT = 18
"""Columns before the first lifeline: line and time."""
_TEXT_LINES = 3
_RECORD = {0: "offer", 1: "release request", 2: "forced release", 3: "region configuration"}
_ENDINGS = (" -> done", " -> queued for the host", " -> ok", " -> ")
_SUBJECTS = ("the manager ", "the host ", "the backend's side ", "the backend's ", "the ")
_WAYS: Mapping[str, tuple[tuple[int, ...], bool]] = {
    "add": ((ORCHESTRATOR, MANAGER, DEVICE), False),
    "release": ((ORCHESTRATOR, MANAGER, DEVICE), False),
    "force": ((ORCHESTRATOR, MANAGER, DEVICE), False),
    "set_region": ((ORCHESTRATOR, MANAGER, DEVICE), False),
    "add_reference": ((ORCHESTRATOR, MANAGER, DEVICE), False),
    "remove_reference": ((ORCHESTRATOR, MANAGER, DEVICE), False),
    "events": ((DEVICE, KERNEL), False),
    "clear": ((KERNEL, DEVICE), False),
    "answer": ((KERNEL, DEVICE), False),
    "give_back": ((KERNEL, DEVICE), False),
    "extents": ((KERNEL, DEVICE), False),
    "store": ((USER, DEVICE), False),
    "load": ((USER, DEVICE), False),
    "claim": ((USER, KERNEL), False),
    "use": ((USER, KERNEL), False),
    "unuse": ((USER, KERNEL), False),
    "block": ((DEVICE, ORCHESTRATOR), True),
    "bytes": ((DEVICE, ORCHESTRATOR), True),
    "fm_extents": ((DEVICE, MANAGER, ORCHESTRATOR), True),
    "list_tags": ((DEVICE, MANAGER, ORCHESTRATOR), True),
    "status": ((DEVICE, ORCHESTRATOR), True),
    "sysfs": ((KERNEL, ORCHESTRATOR), True),
    "trace": ((KERNEL, ORCHESTRATOR), True),
    "log": ((KERNEL, ORCHESTRATOR), True),
    "reset": ((ORCHESTRATOR, KERNEL), False),
    "gone": ((DEVICE,), False),
}
"""By function of the history: the lifelines that a message passes, and whether it only witnesses."""


class Row(NamedTuple):
    """A message. `line`: where its operation begins in the history, from 1; `way`: lifelines, from whom to whom, one
    alone is an end; `end`: ">" it came, "x" refused, "?" nobody knows."""

    line: int
    t_ns: int
    f: str
    way: tuple[int, ...]
    dotted: bool
    end: str
    text: str


class Chart(NamedTuple):
    """The rows that are shown, in order: `first`, then `cut` rows left out, then `last`. `quiet`: what was not drawn,
    by what it is."""

    first: tuple[Row, ...]
    last: tuple[Row, ...]
    cut: int
    quiet: Mapping[str, int]


def chart(lines: Iterable[Value], *, several: bool = False, witnesses: bool = False, most: int = MOST_ROWS) -> Chart:
    """The chart of a history's lines (dicts, without the header): at most `most` rows (2 or more) are kept.

    `several`: the history has more than one device, so that each row says which. `witnesses`: every question to a
    witness has a row; else those in a row have one together. Memory does not grow with the history.
    """
    quiet: Counter[str] = Counter()
    found = rows(lines, quiet, several=several)
    first: list[Row] = []
    last: deque[Row] = deque(maxlen=most - most // 2)
    count = 0
    for row in found if witnesses else _folded(found):
        count += 1
        if len(first) < most // 2:
            first.append(row)
        else:
            last.append(row)
    return Chart(tuple(first), tuple(last), count - len(first) - len(last), dict(quiet))


def rows(lines: Iterable[Value], quiet: Counter[str], *, several: bool = False) -> Iterator[Row]:
    """Every row: requests as they begin, all else as it ends. `quiet` counts what is not drawn."""
    teller = _Teller(quiet, several)
    story = Story()
    for line in lines:
        if line["type"] == "invoke":
            for told in story.flush() if line["f"] in _REQUESTS else ():
                yield from teller.told(told, None)
            yield from teller.begun(line)
        for told in story.feed(line):
            yield from teller.told(told, line if told.line - 1 == line["op"] else None)
    for told in story.unended():
        yield from teller.told(told, None)


def _folded(found: Iterable[Row]) -> Iterator[Row]:
    """What witnesses said in one go is one row, which counts them; what a kernel's trace and log tell stays."""
    asked: list[Row] = []
    for row in found:
        if row.dotted and row.way[-1] == ORCHESTRATOR:
            asked.append(row)
            continue
        yield from _fold(asked)
        asked = []
        yield row
    yield from _fold(asked)


def _fold(asked: Sequence[Row]) -> Iterator[Row]:
    if len(asked) < 2:
        yield from asked
        return
    counts = Counter([row.f for row in asked])
    said = ", ".join([f"{count} x {f}" if count > 1 else f for f, count in counts.items()])
    way = asked[0].way if len(counts) == 1 else (DEVICE, ORCHESTRATOR)
    yield asked[0]._replace(t_ns=asked[-1].t_ns, way=way, text=f"witnesses: {said}")


class _Teller:
    """Makes rows of what a story tells."""

    def __init__(self, quiet: Counter[str], several: bool) -> None:
        self._quiet = quiet
        self._several = several
        self._began: dict[int, Value] = {}
        self._read: set[tuple[Any, Any, int]] = set()
        self._traced: Counter[tuple[int, int, int]] = Counter()

    def begun(self, line: Value) -> Iterator[Row]:
        """An operation begins; a request is a row already: what it causes comes before it ends."""
        if line["f"] == "block":  # many of those may be told as one
            return
        self._began[line["op"]] = line
        if line["f"] in _REQUESTS:
            sent: Value = line["value"]
            way, dotted = _way(line["f"], line["process"], sent)
            text = _wish(line["f"], sent) if way[0] == USER else _bare(words(line["f"], sent, "ok", {}))
            yield Row(line["op"] + 1, line["t_ns"], line["f"], way, dotted, ">", self._whose(sent) + text)

    def told(self, told: Told, ended: Value | None) -> Iterator[Row]:
        """`ended`: the operation's last line; None where it has none, or several were told as one."""
        began = self._began.pop(told.line - 1, {"process": "witness", "value": {"device": told.device}})
        kind, received = ("", {}) if ended is None else (ended["type"], ended["value"])
        if told.f == "block" and ended is None and not told.text.endswith("no end"):
            kind = "ok"
        sent: Value = began["value"]
        way, dotted = _way(told.f, began["process"], sent)
        row = Row(told.line, told.t_ns, told.f, way, dotted, _END.get(kind, "?"), "")
        for made in _MAKE.get(told.f, _Teller._plain)(self, row, sent, received, told):
            yield made._replace(text=self._whose(sent) + made.text)

    def _whose(self, sent: Value) -> str:
        device = f"{sent['device']}: " if self._several and sent.get("device") else ""
        return device + (f"host {sent['host_id']}: " if sent.get("host_id") else "")

    def _plain(self, row: Row, sent: Value, received: Value, told: Told) -> Iterator[Row]:
        yield row._replace(text=_bare(told.text))

    def _requested(self, row: Row, sent: Value, received: Value, told: Told) -> Iterator[Row]:
        """How a request ended, where it did not just succeed."""
        if row.end != ">":
            error = received.get("error") if row.way[0] == USER else None
            yield row._replace(way=row.way[::-1], text=str(error or told.text.rpartition(" -> ")[2]))

    def _clear(self, row: Row, sent: Value, received: Value, told: Told) -> Iterator[Row]:
        if row.end != ">":
            yield from self._plain(row, sent, received, told)
            return
        self._quiet["clears of the log"] += 1
        host = sent.get("device"), sent.get("host_id")
        gone = {(*host, handle) for handle in sent.get("handles", ())}
        self._read -= gone if gone else {one for one in self._read if one[:2] == host}

    def _events(self, row: Row, sent: Value, received: Value, told: Told) -> Iterator[Row]:
        if row.end != ">":
            yield from self._plain(row, sent, received, told)
        elif not received.get("records"):
            self._quiet["readings of the log that brought nothing"] += 1
        for record in received.get("records", ()):
            name = (sent.get("device"), sent.get("host_id"), record.get("handle", 0))
            if name in self._read:
                self._quiet["records read once more"] += 1
                continue
            self._read.add(name)
            text = "something that is no record" if "raw" in record else _record(record)
            yield row._replace(text=f"{text} (record {name[2]})")

    def _trace(self, row: Row, sent: Value, received: Value, told: Told) -> Iterator[Row]:
        if not received.get("events"):
            self._quiet["looks at the trace that showed nothing"] += 1
        for event in received.get("events", ()):
            kind = event.get("type", event.get("event_type"))
            place = event.get("dpa", event.get("starting_dpa", 0)), event["length"]
            self._traced[(kind if isinstance(kind, int) else -1, *place)] += 1
            told_as = _RECORD.get(kind, "a record") if isinstance(kind, int) else str(kind)
            text = f"{told_as} {_range(*place)}{_tag(event.get('tag'))} (by its trace)"
            yield row._replace(way=(DEVICE, KERNEL), text=text)

    def _log(self, row: Row, sent: Value, received: Value, told: Told) -> Iterator[Row]:
        """What a kernel's log tells of its commands, which no history of it has; records only that no trace showed."""
        pages = pages_of(notes_of(received.get("lines", ())))
        if not pages:
            self._quiet["readings of the kernel's log that tell nothing of it"] += 1
        for page in pages:
            yield from self._page(row, page)

    def _page(self, row: Row, page: Page) -> Iterator[Row]:
        """A reading of the log: each answer behind the records that it is for, each release behind its request."""
        back = row._replace(way=(KERNEL, DEVICE))
        shown = 0
        for kind, start, length in page.told:
            if kind == "answer":
                yield from self._records(row, page.records[shown : start + 1])
                shown = max(shown, start + 1)
                taken = " ".join([_range(*pair) for pair in page.answered(start)])
                yield back._replace(text=f"{'accepts ' + taken if taken else 'refuses'} (by its log)")
            elif kind == "give_back":
                asked = [at for at, one in enumerate(page.records) if at >= shown and one[:2] == ("release", start)]
                yield from self._records(row, page.records[shown : asked[0] + 1] if asked else ())
                shown = asked[0] + 1 if asked else shown
                yield back._replace(text=f"gives back {_range(start, length)} (by its log)")
        yield from self._records(row, page.records[shown:])
        if page.expired:
            yield back._replace(text="refuses, the chain's time is over (by its log)")

    def _records(self, row: Row, records: Iterable[tuple[str, int, int, bool]]) -> Iterator[Row]:
        """Records that no trace showed."""
        for kind, start, length, more in records:
            key = (0 if kind == "add" else 1, start, length)
            if self._traced[key]:
                self._traced[key] -= 1
                continue
            word = f"{_RECORD[key[0]]} {_range(start, length)}{', more follows' if more else ''} (by its log)"
            yield row._replace(way=(DEVICE, KERNEL), text=word)


_END = {"ok": ">", "fail": "x", "info": "?"}
_REQUESTS = frozenset(
    ("add", "release", "force", "set_region", "add_reference", "remove_reference", "claim", "use", "unuse")
)
_MAKE: Mapping[str, Callable[[_Teller, Row, Value, Value, Told], Iterator[Row]]] = {
    "clear": _Teller._clear,
    "events": _Teller._events,
    "trace": _Teller._trace,
    "log": _Teller._log,
    **dict.fromkeys(_REQUESTS, _Teller._requested),
}


def _bare(text: str) -> str:
    """A story's words without what the arrow says."""
    for subject in _SUBJECTS:
        text = text.removeprefix(subject)
    for ending in _ENDINGS:
        text = text.removesuffix(ending)
    return text.replace("QEMU is asked of", "block state of", 1)


def _way(f: str, process: str, sent: Value) -> tuple[tuple[int, ...], bool]:
    """From whom to whom: `extents` may be a look of the orchestrator's, a store the backend's side."""
    if f == "extents" and not process.startswith("host"):
        return (DEVICE, ORCHESTRATOR), True
    if f == "store" and sent.get("side", "host") != "host":
        return (ORCHESTRATOR, DEVICE), False
    return _WAYS.get(f, ((DEVICE, ORCHESTRATOR), True))


_WISHES: Mapping[tuple[str, str], Callable[[Value], str]] = {
    ("claim", "uuid"): lambda sent: f"claims tag {_shown(sent['text'])} with {sent['dax']}",
    ("claim", "size"): lambda sent: f"sets the size of {sent['dax']} to {_number(sent['text'])}",
    ("claim", "create"): lambda sent: f"makes a DAX device in {sent['region']}",
    ("claim", "delete"): lambda sent: f"deletes {_shown(sent['text'])}",
    ("claim", "policy"): lambda sent: f"sets {sent['region']}'s {sent['name']} to {_shown(sent['text'])}",
    ("claim", "hotplug"): lambda sent: f"sets {sent['dax']}'s hotplug to {_shown(sent['text'])}",
    ("claim", "extents"): lambda sent: f"makes {sent['dax']} of the extents at {_shown(sent['text'])}",
    ("use", "region"): lambda sent: f"makes {sent['region']}: {_range(sent['start'], sent['length'])}{_mode(sent)}",
    ("use", "decoders"): lambda sent: f"programs the decoders of {sent['region']}",
    ("use", "map"): lambda sent: f"maps {sent['dax']}: memory is in use",
    ("unuse", "map"): lambda sent: f"unmaps {sent['dax']}: it is not in use any more",
    ("use", "bind"): lambda sent: f"binds {sent['region']}{_to(sent)}",
    ("use", "driver"): lambda sent: "loads the DAX driver",
    ("use", "dax"): lambda sent: f"binds {sent['dax']}{_to(sent)}",
    ("unuse", "region"): lambda sent: f"destroys {sent['region']}",
    ("unuse", "bind"): lambda sent: f"unbinds {sent['region']}",
    ("unuse", "driver"): lambda sent: "unloads the DAX driver",
    ("unuse", "dax"): lambda sent: f"unbinds {sent['dax']}",
}


def _wish(f: str, sent: Value) -> str:
    """What a host's user wants of its kernel."""
    what = str(sent.get("file", sent.get("what", "")))
    try:
        return _WISHES[f, what](sent)
    except KeyError:
        rest = " ".join([f"{key} {_shown(value)}" for key, value in sent.items() if key not in ("device", "host_id")])
        return f"{f} {rest}"


def _mode(sent: Value) -> str:
    return f", mode {sent['mode']}" if sent.get("mode") else ""


def _to(sent: Value) -> str:
    return f" to {sent['driver']}" if sent.get("driver") else ""


def _number(text: Any) -> str:
    try:
        return format_size(int(str(text), 0))
    except ValueError:
        return _shown(text)


def _shown(value: Any) -> str:
    text = str(value).strip()
    return text if len(text) <= 40 else f"{text[:37]}..."


def _record(record: Value) -> str:
    word = _RECORD.get(record["type"], f"record of type {record['type']}")
    more = ", more follows" if record["more"] else ""
    sequence = f", sequence {record['sequence']}" if record.get("sequence") else ""
    return f"{word} {_range(record['dpa'], record['length'])}{_tag(record.get('tag'))}{sequence}{more}"


def _tag(tag: str | None) -> str:
    return f", tag {tag[:4]}.." if tag and tag.strip("0-") else ""


def _range(start: int, length: int) -> str:
    return f"{format_address(start)}+{format_size(length)}"


# ---- drawn ----------------------------------------------------------------------------------------------------------


def draw(found: Chart, width: int = WIDTH) -> Iterator[str]:
    """The chart as lines, none longer than `width` (at least 80 columns)."""
    width = max(width, LEAST_WIDTH)
    for names in _HEAD:
        cells = "".join([name[: _GAP - 1].ljust(_GAP) for name in names])
        yield (" " * (_LEFT - 1) + cells).rstrip()
    for row in found.first:
        yield from _drawn(row, width)
    if found.cut:
        yield f"{'':>{_LEFT}}... {found.cut} row{'s' if found.cut != 1 else ''} left out here; --rows shows more ..."
    for row in found.last:
        yield from _drawn(row, width)
    if not found.first and not found.last:
        yield f"{'':>{_LEFT}}nobody said anything"
    if found.quiet:
        told = ", ".join([f"{what}: {count}" for what, count in sorted(found.quiet.items())])
        yield from textwrap.wrap(f"not drawn: {told}", width)


def _drawn(row: Row, width: int) -> Iterator[str]:
    """One row: what it says stands beside it, on at most three lines."""
    room = width - _LEFT - _GAP * (len(ACTORS) - 1) - 4
    text = textwrap.wrap(row.text, room, break_long_words=True) or [""]
    if len(text) > _TEXT_LINES:
        text = [*text[: _TEXT_LINES - 1], text[_TEXT_LINES - 1][: room - 4] + " ..."]
    left = f"{row.line:>6} {row.t_ns / 1e9:>9.3f}"[:_LEFT].ljust(_LEFT)
    for number, part in enumerate(text):
        yield f"{left if not number else '':{_LEFT}}{_lifelines(row if not number else None)}   {part}".rstrip()


def _lifelines(row: Row | None) -> str:
    cells = list(("|" + " " * (_GAP - 1)) * (len(ACTORS) - 1) + "|")
    if row is None:
        return "".join(cells)
    if len(row.way) == 1:
        cells[row.way[0] * _GAP] = "X"
        return "".join(cells)
    stroke = "." if row.dotted else "-"
    hops = list(zip(row.way, row.way[1:], strict=False))
    for number, (start, end) in enumerate(hops):
        low, high = sorted((start * _GAP, end * _GAP))
        for at in range(low + 1, high):
            if cells[at] == " ":
                cells[at] = stroke
        head = row.end if number == len(hops) - 1 else ">"
        right = start < end
        cells[end * _GAP - 1 if right else end * _GAP + 1] = head if head != ">" or right else "<"
    return "".join(cells)


def as_data(found: Chart) -> dict[str, Any]:
    """The chart as JSON data: rows with actors by name."""
    shown: Sequence[Row] = (*found.first, *found.last)
    return {
        "rows": [{**row._asdict(), "way": [ACTORS[at] for at in row.way]} for row in shown],
        "cut": found.cut,
        "not_drawn": dict(found.quiet),
    }
