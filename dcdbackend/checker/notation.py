"""A tiny notation for histories: `add 0+128M; accept 0+64M; list; release? 64M+2M`, both ways.

`parse` makes a history of it, answered by the device that keeps the rules (`model.reply`) unless the text says what
came back; `spell` writes an operation of any history in it. It is for tests, explanations and people; it is not the
history's format, and it says nothing of times and few of the bytes.

    add 0+2M,4M+2M [@1] [tag=HEX32] [host=1] [policy=free]   the manager offers (one chain; offsets in the region)
    release? 0+2M [@1] [forced]                     the manager asks back
    events                                          the host reads log 4
    accept [0+2M,..] · accept+ .. · refuse          4802h (with its More flag; without ranges: all of the oldest offer)
    release [0+2M,..] · release+                    4803h (without ranges: everything held)
    clear [1,2] · clear all · clear none            0101h (without handles: all that the host has read)
    list [START [COUNT]]                            4801h
    block 0                                         the block-state question
    store 0 beef · put 0 beef · load 0+2 · bytes 0+2    by the host, on the backend's side, by the host, at the backend
    gone [reason] · reset                           the device is no more, the host was reset
    raw answer|give_back|clear HEX                  a payload that does not parse

After `->` stands what came back: `ok`, `info`, `open` (no end at all), a return code such as `0Fh`, `error`, a state
(`block 0 -> free`), bytes (`load 0+2 -> beef`), `{JSON}` merged into the device's answer. `{ a; b }` after a statement
happens between its begin and its end, when it has had its effect (`{ a; b } -> late`: before it has). `user:` before a
statement gives the process. `@1` is the region, else 0; ranges of host and witness are offsets in it too. A `#` starts
a comment that ends with the line.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import AskedWrongly
from ..extents import Extent
from ..history import Header, Op
from ..model.reply import Device, device, reply
from ..model.state import Config, config_of
from ..units import GIB, MIB, format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

NAME = "mem0"
Value = dict[str, Any]
Reply = "Callable[[Device, str, Value], tuple[Device, str, Value]]"

_PROCESS = {
    "add": "manager",
    "release": "manager",
    "block": "witness",
    "bytes": "witness",
    "store": "user.mem0",
    "load": "user.mem0",
    "put": "backend",
    "gone": "device",
    "reset": "device",
}
_WORDS = (
    "add", "release?", "release", "release+", "events", "accept", "accept+", "refuse", "clear", "list", "block",
    "store", "put", "load", "bytes", "gone", "reset", "raw",
)  # fmt: skip


def header(
    *,
    regions: int = 2,
    size: int = GIB,
    block_size: int = 2 * MIB,
    qemu: str | None = None,
    limits: Mapping[str, Any] | None = None,
) -> Header:
    """The header of a device `mem0` with `regions` regions of `size` bytes from DPA 0 on.

    `qemu`: a version, whose known departures then apply. `limits`: more keys of the device (`supported_extents`, ...).
    """
    found = [
        {
            "index": number,
            "base": number * size,
            "decode_length": size,
            "length": size,
            "block_size": block_size,
            "flags": 0,
            "dsmad_handle": number,
        }
        for number in range(regions)
    ]
    described: Value = {"name": NAME, "serial": 1, "regions": found, **(limits or {})}
    return Header(
        backend="qemu" if qemu else "emulator",
        qemu={"version": qemu, "accel": "tcg"} if qemu else None,
        host={"generation": "U"},
        devices=(described,),
        seed=0,
        scenario="notation",
    )


class Statement(NamedTuple):
    """One statement: its words, what came back (or ""), the statements inside it, its process (or "")."""

    words: tuple[str, ...]
    back: str
    inside: tuple[Statement, ...]
    process: str


def parse(
    text: str,
    *,
    head: Header | None = None,
    departures: frozenset[str] = frozenset(),
    answer: Callable[[Device, str, Value], tuple[Device, str, Value]] = reply,
) -> list[Op]:
    """The operations that `text` says, from n = 1. `answer`: the device; a wrong one goes here.

    Errors: AskedWrongly, naming the statement.
    """
    found = head or header()
    config = config_of(found.devices[0], departures=departures)
    writer = _Writer(device(config), config, answer)
    for statement in statements(text):
        writer.write(statement)
    return writer.ops


def statements(text: str) -> tuple[Statement, ...]:
    """The statements of `text`. Errors: AskedWrongly."""
    bare = "\n".join([line.partition("#")[0] for line in text.splitlines()])
    found, rest = _statements(bare, 0)
    if rest != len(bare):
        raise AskedWrongly(f"a }} without its {{ before {bare[rest:][:20]!r}")
    return found


def _statements(text: str, at: int) -> tuple[tuple[Statement, ...], int]:
    """Statements from `at` to the closing brace or the end, and where that is."""
    found: list[Statement] = []
    words = ""
    while at <= len(text):
        letter = text[at] if at < len(text) else ""
        json_value = letter == "{" and words.rstrip().endswith("->")
        if json_value:
            _value, end = json.JSONDecoder().raw_decode(text, at)
            words += text[at:end]
            at = end
        elif letter == "{":
            inside, at = _statements(text, at + 1)
            if at >= len(text) or text[at] != "}":
                raise AskedWrongly(f"the brace after {words.strip()!r} is not closed; close it with }}")
            tail = at + 1
            while tail < len(text) and text[tail] not in ";}\n":
                tail += 1
            found.append(_statement(words + text[at + 1 : tail], inside))
            words, at = "", tail
        elif letter in (";", "\n", "", "}"):
            if words.strip():
                found.append(_statement(words, ()))
            words = ""
            if letter in ("", "}"):
                return tuple(found), at
            at += 1
        else:
            words += letter
            at += 1
    return tuple(found), len(text)


def _statement(text: str, inside: tuple[Statement, ...]) -> Statement:
    what, _arrow, back = text.partition("->")
    words = what.split()
    process = ""
    if words and words[0].endswith(":"):
        process = words.pop(0)[:-1]
    if not words or words[0] not in _WORDS:
        raise AskedWrongly(f"{text.strip()!r} is no statement; one starts with {', '.join(_WORDS)}")
    return Statement(tuple(words), back.strip(), inside, process)


class _Writer:
    """Makes the lines: it holds the device, and what the host has read and not cleared."""

    def __init__(
        self,
        made: Device,
        config: Config,
        answer: Callable[[Device, str, Value], tuple[Device, str, Value]],
    ) -> None:
        self.ops: list[Op] = []
        self._device = made
        self._config = config
        self._answer = answer
        self._read: list[int] = []

    def write(self, statement: Statement) -> None:
        """The begin, what happens inside, and the end, of one statement."""
        f, value = self._sent(statement)
        process = statement.process or _PROCESS.get(statement.words[0].rstrip("?"), f"host.{NAME}")
        if statement.words[0].startswith("release"):
            process = statement.process or ("manager" if statement.words[0] == "release?" else f"host.{NAME}")
        n = len(self.ops) + 1
        self.ops.append(Op(n, n, process, "invoke", f, n * 1000, value))
        late = statement.back == "late"
        kind, received = ("", {}) if late else self._received(f, value, statement.back)
        for inner in statement.inside:
            self.write(inner)
        if late:
            kind, received = self._received(f, value, "")
        if kind != "open":
            end = len(self.ops) + 1
            self.ops.append(Op(end, n, process, kind, f, end * 1000, received))
        if f == "events" and kind == "ok":
            shown = [record["handle"] for record in received["records"] if "handle" in record]
            self._read += [handle for handle in shown if handle not in self._read]
        if f == "clear" and kind == "ok":
            self._read = [handle for handle in self._read if handle not in value.get("handles", ())]

    def _received(self, f: str, sent: Value, back: str) -> tuple[str, Value]:
        """What comes back: what the device says, or what the text says it said."""
        before = self._device
        self._device, kind, received = self._answer(before, f, sent)
        if not back or back == "ok":
            if back and kind == "fail":
                return "ok", _empty(f)
            return kind, received
        if back in ("info", "open"):
            return back, {"reason": "no answer came"}
        if back.startswith("{"):
            return kind, {**received, **json.loads(back)}
        if f == "block":
            return "ok", {"state": back, "desc": ""}
        if f in ("load", "bytes"):
            return "ok", {"data": back}
        if kind == "ok":
            self._device = before
        if back == "error":
            return "fail", {"error": "GenericError", "desc": "refused"}
        if not back.endswith("h"):
            raise AskedWrongly(f"{back!r} after -> is not understood; see dcdbackend.checker.notation")
        return "fail", {"rc": int(back[:-1], 16)}

    def _sent(self, statement: Statement) -> tuple[str, Value]:
        word, *rest = statement.words
        region = next((int(given[1:]) for given in rest if given.startswith("@")), 0)
        rest = [given for given in rest if not given.startswith("@")]
        base = self._config.regions[region].base if region < len(self._config.regions) else 0
        if word in ("add", "release?"):
            return self._manager(word, rest, region)
        if word == "events":
            return "events", {"device": NAME, "log": 4}
        if word in ("accept", "accept+", "refuse"):
            return "answer", {
                "device": NAME,
                "flags": int(word == "accept+"),
                "ranges": self._offered() if word != "refuse" and not rest else _ranges(rest, base),
            }
        if word in ("release", "release+"):
            held = [[extent.start, extent.length] for extent in self._device.state.accepted]
            ranges = _ranges(rest, base) if rest else held
            return "give_back", {"device": NAME, "flags": int(word == "release+"), "ranges": ranges}
        if word == "clear":
            return "clear", self._clear(rest)
        if word == "list":
            start = int(rest[0]) if rest else 0
            return "extents", {"device": NAME, "count": int(rest[1]) if len(rest) > 1 else 50, "start": start}
        if word == "raw":
            return rest[0], {"device": NAME, "raw": rest[1], "error": "does not parse"}
        if word in ("gone", "reset"):
            return word, {"device": NAME, "reason": " ".join(rest) or "killed"}
        return self._bytes(word, rest, region, base)

    def _bytes(self, word: str, rest: list[str], region: int, base: int) -> tuple[str, Value]:
        if word == "block":
            return "block", {"device": NAME, "region": region, "offset": parse_size(rest[0])}
        if word in ("store", "put"):
            side = "backend" if word == "put" else "host"
            return "store", {"device": NAME, "dpa": base + parse_size(rest[0]), "data": rest[1], "side": side}
        (dpa, length), *_ = _ranges(rest, base)
        return word, {"device": NAME, "dpa": dpa, "length": length}

    def _manager(self, word: str, rest: list[str], region: int) -> tuple[str, Value]:
        options = dict(given.split("=", 1) for given in rest if "=" in given)
        plain = [given for given in rest if "=" not in given and given != "forced"]
        value: Value = {
            "device": NAME,
            "via": options.get("via", "qmp"),
            "host_id": int(options.get("host", "0")),
            "policy": options.get("policy", "prescriptive"),
            "region": region,
            "tag": options.get("tag"),
            "extents": [{"offset": offset, "length": length} for offset, length in _ranges(plain, 0)],
        }
        if value["via"] == "fm":
            base = self._config.regions[region].base
            value["extents"] = [
                {"dpa": base + found["offset"], "length": found["length"], "tag": value["tag"] or "00" * 16,
                 "sequence": at if options.get("shared") else 0}
                for at, found in enumerate(value["extents"])
            ]  # fmt: skip
        if word == "add":
            return "add", value
        return "release", {**value, "forced": "forced" in rest, "sanitize": "sanitize" in options}

    def _offered(self) -> list[list[int]]:
        chains = self._device.state.chains
        return [[extent.start, extent.length] for extent in chains[0].extents] if chains else []

    def _clear(self, rest: list[str]) -> Value:
        handles = list(self._read)
        if rest:
            handles = [] if rest[0] in ("all", "none") else [int(given) for given in rest[0].split(",")]
        return {"device": NAME, "log": 4, "flags": int(rest[:1] == ["all"]), "handles": handles}


def _empty(f: str) -> Value:
    """A success with as little in it as the operation allows."""
    if f in ("add", "release", "store", "gone"):
        return {}
    if f == "extents":
        return {"rc": 0, "total": 0, "generation": 0, "extents": []}
    if f == "events":
        return {"rc": 0, "flags": 0, "overflow_count": 0, "records": []}
    return {"rc": 0}


def _ranges(words: Iterable[str], base: int) -> list[list[int]]:
    found: list[list[int]] = []
    for word in words:
        for part in word.split(","):
            if not part:
                continue
            offset, plus, length = part.partition("+")
            if not plus:
                raise AskedWrongly(f"range {part!r} is not understood; write OFFSET+LENGTH, like 0+64M")
            found.append([base + parse_size(offset), parse_size(length)])
    return found


# ---- the other way


def spell(f: str, sent: Mapping[str, Any], kind: str = "", received: Mapping[str, Any] | None = None) -> str:
    """One operation as a line to read, addresses as DPA: `answer 0x0+64M -> 0Fh`. `kind` "": it has no end."""
    text = f"{f} {_spell_sent(f, sent)}".rstrip()
    return text if f in ("gone", "reset") else f"{text} -> {_spell_back(kind, received or {})}"


def _spell_sent(f: str, sent: Mapping[str, Any]) -> str:
    if "raw" in sent:
        return f"raw {sent['raw'][:64]}"
    if "ranges" in sent:
        more = "more " if sent.get("flags", 0) & 1 else ""
        return more + (" ".join([_range(start, length) for start, length in sent["ranges"][:8]]) or "nothing")
    if f in ("add", "release"):
        shown = [_range(found.get("dpa", found.get("offset")), found["length"]) for found in sent["extents"][:8]]
        tag = f" tag {sent['tag']}" if sent.get("tag") else ""
        forced = " forced" if sent.get("forced") else ""
        return f"region {sent['region']}: {' '.join(shown) or 'nothing'}{tag}{forced}"
    if f == "clear":
        return "all" if sent["flags"] & 1 else " ".join([str(handle) for handle in sent["handles"][:16]]) or "nothing"
    if f == "extents":
        return f"from {sent['start']}, at most {sent['count']}"
    if f == "block":
        return f"region {sent['region']} at {format_size(sent['offset'])}"
    if f == "store":
        return f"0x{sent['dpa']:x} {sent['data'][:32]} by the {sent.get('side', 'host')}"
    if f in ("load", "bytes"):
        return _range(sent["dpa"], sent["length"])
    return str(sent.get("reason", ""))


def _spell_back(kind: str, received: Mapping[str, Any]) -> str:
    if kind in ("", "info"):
        return "no end" if not kind else f"unknown ({received.get('reason', 'no reason')})"
    if "desc" in received and "error" in received:
        return f"error: {received['desc']}"
    if "state" in received:
        return str(received["state"])
    if "records" in received:
        return _spell_records(received)
    if "extents" in received:
        shown = [_range(found["dpa"], found["length"]) for found in received["extents"][:8]]
        page = f"{len(received['extents'])} of {received['total']}, generation {received['generation']}"
        return f"{page}: {' '.join(shown)}".rstrip(": ")
    if "data" in received:
        return str(received["data"])[:32]
    return f"{received['rc']:02x}h" if "rc" in received else kind


def _spell_records(received: Mapping[str, Any]) -> str:
    shown: list[str] = []
    for record in received["records"][:8]:
        if "raw" in record:
            shown.append("(not a record)")
            continue
        word = {0: "add", 1: "release", 2: "forced"}.get(record["type"], f"type {record['type']}")
        more = " more" if record["more"] else ""
        shown.append(f"{record['handle']}:{word} {_range(record['dpa'], record['length'])}{more}")
    lost = f" ({received['overflow_count']} lost)" if received["flags"] & 1 else ""
    return (", ".join(shown) or "no records") + lost


def _range(start: int | None, length: int) -> str:
    return str(Extent(start or 0, length))[1:-1]
