"""A history told in words, one line an operation, as it happens.

`Story` takes the lines in order and tells an operation when it ends: a line of a history alone says only half of one.
Block-state questions about adjoining blocks that got the same answer are told as one; everything else is told alone.
It is not the notation (`checker.notation`), which is for writing histories, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ..checker.notation import spell
from ..units import format_address, format_size
from ..wire.cci import ReturnCode

Value = Mapping[str, Any]

_MOST_SHOWN = 8
_RECORD = {0: "offer", 1: "release request", 2: "forced release", 3: "region configuration"}


class Told(NamedTuple):
    """One operation. `line`: that of its begin in the history, from 1. `t_ns`: when it ended (or began, without an
    end), on the history's clock. `times`: more than one where several questions are told as one."""

    line: int
    t_ns: int
    f: str
    device: str | None
    text: str
    times: int = 1


class Story:
    """Feed it lines as dicts; `flush` where none come for a while, `unended` at the end of the history."""

    def __init__(self) -> None:
        self._open: dict[int, Value] = {}
        self._blocks: list[tuple[Value, Value]] = []

    def feed(self, line: Value) -> Iterator[Told]:
        """What this line ends. A header, and the end of what began before the story, tell nothing."""
        if line.get("type") == "invoke":
            self._open[line["op"]] = line
            return
        began = self._open.pop(line.get("op", -1), None)
        if began is None:
            return
        if began["f"] == "block" and line["type"] == "ok":
            if self._blocks and not _adjoins(*self._blocks[-1], began, line):
                yield from self.flush()
            self._blocks.append((began, line))
            return
        yield from self.flush()
        yield _told(began, line)

    def flush(self) -> Iterator[Told]:
        """The questions that wait for one that adjoins them."""
        if not self._blocks:
            return
        began, _ = self._blocks[0]
        last, ended = self._blocks[-1]
        count = len(self._blocks)
        self._blocks = []
        start, end = began["value"]["offset"], last["value"]["offset"] + last["value"].get("length", 0)
        whole = {**began, "value": {**began["value"], "length": end - start}} if count > 1 else began
        yield _told(whole, ended, count)

    def unended(self) -> Iterator[Told]:
        """What began and has no end, in order."""
        yield from self.flush()
        for began in self._open.values():
            if not (began["f"] == "events" and began["process"].startswith("host.")):  # an idle host always reads
                yield _told(began, None)
        self._open.clear()


def _adjoins(last: Value, answer: Value, began: Value, ended: Value) -> bool:
    before, now = last["value"], began["value"]
    return bool(
        before["device"] == now["device"]
        and before["region"] == now["region"]
        and before["offset"] + before.get("length", 0) == now["offset"]
        and answer["value"].get("state") == ended["value"].get("state")
    )


def _told(began: Value, ended: Value | None, count: int = 1) -> Told:
    sent = began["value"]
    text = words(began["f"], sent, ended["type"] if ended else "", ended["value"] if ended else {}, times=count)
    return Told(
        line=began["op"] + 1,
        t_ns=ended["t_ns"] if ended else began["t_ns"],
        f=began["f"],
        device=sent.get("device"),
        text=text,
        times=count,
    )


def words(f: str, sent: Value, kind: str, received: Value, *, times: int = 1) -> str:
    """One operation in words: what was sent, and after the arrow what came of it. `kind` "": it has no end."""
    tell = _SENT.get(f)
    if tell is None or "raw" in sent:
        return spell(f, sent, kind, received)
    said = tell(sent) if times == 1 else f"{tell(sent)}, {times} questions"
    return said if f in ("gone", "reset") and kind else f"{said} -> {_outcome(f, sent, kind, received)}"


def _add(sent: Value) -> str:
    tag = f", tag {sent['tag']}" if sent.get("tag") else ""
    policy = f", policy {sent['policy']}" if sent.get("policy", "prescriptive") != "prescriptive" else ""
    return f"the manager offers {_places(sent)}{tag}{policy}"


def _release(sent: Value) -> str:
    verb = "takes back by force" if sent.get("forced") else "asks back"
    return f"the manager {verb} {_places(sent)}"


def _answer(sent: Value) -> str:
    more = ", and will say more" if sent.get("flags", 0) & 1 else ""
    taken = _ranges(sent["ranges"])
    return f"the host accepts {taken}{more}" if taken else f"the host refuses{more}"


def _give_back(sent: Value) -> str:
    return f"the host gives back {_ranges(sent['ranges']) or 'nothing'}"


def _clear(sent: Value) -> str:
    if sent.get("flags", 0) & 1:
        return "the host clears the whole log"
    handles = sent["handles"]
    shown = ", ".join([str(handle) for handle in handles[:_MOST_SHOWN]])
    return f"the host clears record{'s' if len(handles) != 1 else ''} {shown or 'none'}{_rest(len(handles))}"


def _store(sent: Value) -> str:
    size = len(sent["data"]) // 2
    who = "the host stores" if sent.get("side", "host") == "host" else "the backend's side writes"
    return f"{who} {size} byte{'s' if size != 1 else ''} at {format_address(sent['dpa'])}: {_hex(sent['data'])}"


def _gone(sent: Value) -> str:
    return f"the device is gone: {sent.get('reason', 'no reason is known')}"


_SENT: Mapping[str, Callable[[Value], str]] = {
    "add": _add,
    "release": _release,
    "events": lambda sent: "the host reads the log",
    "clear": _clear,
    "answer": _answer,
    "give_back": _give_back,
    "extents": lambda sent: f"the host reads the extent list from {sent['start']} on",
    "store": _store,
    "load": lambda sent: f"the host loads {_range(sent['dpa'], sent['length'])}",
    "bytes": lambda sent: f"the backend's bytes at {_range(sent['dpa'], sent['length'])}",
    "block": lambda sent: f"QEMU is asked of {_place(sent)} of region {sent['region']}",
    "reset": lambda sent: "the guest is reset",
    "gone": _gone,
}


def _outcome(f: str, sent: Value, kind: str, received: Value) -> str:
    if not kind:
        return "no end"
    if kind == "info":
        return f"nobody knows ({received.get('reason', 'no reason is given')})"
    if "records" in received:
        return _records(received)
    if received.get("rc"):
        return f"the device refuses: {_code(received['rc'])}"
    if kind == "fail":
        return f"refused: {received.get('desc') or received.get('error') or 'no reason is given'}"
    if "extents" in received:
        entries = [_range(entry["dpa"], entry["length"]) for entry in received["extents"][:_MOST_SHOWN]]
        return f"{len(received['extents'])} of {received['total']}: {' '.join(entries) or 'none'}"
    if "state" in received:
        return str(received["state"])
    if "data" in received:
        return _hex(received["data"])
    return "queued for the host" if f in ("add", "release") and not sent.get("forced") else "done"


def _records(received: Value) -> str:
    shown = []
    for record in received["records"][:_MOST_SHOWN]:
        if "raw" in record:
            shown.append("something that is no record")
            continue
        word = _RECORD.get(record["type"], f"type {record['type']}")
        more = ", more follows" if record["more"] else ""
        shown.append(f"{record['handle']}: {word} {_range(record['dpa'], record['length'])}{more}")
    lost = f"; {received['overflow_count']} were lost" if received.get("flags", 0) & 1 else ""
    return ("; ".join(shown) or "nothing in it") + _rest(len(received["records"])) + lost


def _places(sent: Value) -> str:
    extents = sent["extents"]
    shown = [_place(extent) for extent in extents[:_MOST_SHOWN]]
    return f"{' '.join(shown) or 'nothing'}{_rest(len(extents))} of region {sent['region']}"


def _place(extent: Value) -> str:
    if "dpa" in extent:
        return _range(extent["dpa"], extent["length"])
    length = f"+{format_size(extent['length'])}" if "length" in extent else ""
    return f"{format_size(extent['offset'])}{length}"


def _ranges(ranges: Any) -> str:
    return " ".join([_range(start, length) for start, length in ranges[:_MOST_SHOWN]]) + _rest(len(ranges))


def _range(start: int, length: int) -> str:
    return f"{format_address(start)}+{format_size(length)}"


def _rest(count: int) -> str:
    return f" and {count - _MOST_SHOWN} more" if count > _MOST_SHOWN else ""


def _hex(data: str) -> str:
    return data if len(data) <= 32 else f"{data[:32]}..."


def _code(code: int) -> str:
    known = {int(member): member.name.lower().replace("_", " ") for member in ReturnCode}
    return f"{code:02X}h {known.get(code, 'which no table has')}"
