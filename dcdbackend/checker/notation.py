"""A tiny notation for histories: `add 0+128M; accept 0+64M; list; release? 64M+2M`, both ways.

`parse` makes a history of it, answered by the device that keeps the rules (`model.reply`) unless the text says what
came back; `spell` writes an operation of any history in it. It is for tests, explanations and people; it is not the
history's format, and it says nothing of times and few of the bytes.

    add 0+2M,4M+2M [@1] [tag=HEX32] [host=1] [via=fm [raw=HEX]]   the manager offers (one chain; offsets in the region)
    add 8M policy=free [@1] [tag=..]                the device chooses (free, contiguous; enable-shared-access: no size)
    release? 0+2M [@1] [forced] [sanitize]          the manager asks back (policy=tag-based tag=..: no ranges)
    force 0+2M [@1] [sanitize]                      the manager takes back
    set @1 4M [sanitize]                            the manager sets up a region: its block size, its flag
    keep HEX32 · drop HEX32 · tags [START [COUNT]]  the manager's references to tags
    fmlist [START [COUNT]] · status                 5603h; the event status register
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
statement gives the process, `host=1` behind one the host that it belongs to. `@1` is the region, else 0; ranges of host
and witness are offsets in it too. A `#` starts a comment that ends with the line.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import AskedWrongly
from ..extents import Extent
from ..history import Header, Op
from ..model.pool import enter
from ..model.reply import Device, device, reply
from ..model.state import Config, config_of
from ..units import GIB, MIB, format_size, parse_size
from .kernel import notes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..model.state import State

NAME = "mem0"
Value = dict[str, Any]
Reply = "Callable[[Device, str, Value], tuple[Device, str, Value]]"

_PROCESS = {
    "add": "manager",
    "release": "manager",
    "force": "manager",
    "set": "manager",
    "keep": "manager",
    "drop": "manager",
    "tags": "manager",
    "fmlist": "manager",
    "status": "witness",
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
    "store", "put", "load", "bytes", "gone", "reset", "raw", "force", "set", "keep", "drop", "tags", "fmlist", "status",
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

    `qemu`: a version, whose known departures then apply. `limits`: more keys of the device (`supported_extents`, ...),
    and `sharable`, `sanitizing`: numbers of the regions that are so.
    """
    more = dict(limits or {})
    sharable, sanitizing = more.pop("sharable", ()), more.pop("sanitizing", ())
    found = [
        {
            "index": number,
            "base": number * size,
            "decode_length": size,
            "length": size,
            "block_size": block_size,
            "flags": int(number in sanitizing),
            "dsmad_handle": number,
            "sharable": number in sharable,
        }
        for number in range(regions)
    ]
    described: Value = {"name": NAME, "serial": 1, "regions": found, **more}
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
        self._seen: dict[int, list[int]] = {}

    def write(self, statement: Statement) -> None:
        """The begin, what happens inside, and the end, of one statement."""
        f, value = self._sent(statement)
        host = value.get("host_id", 0)
        own = f"host.{NAME}.{host}" if host else f"host.{NAME}"
        process = statement.process or _PROCESS.get(statement.words[0].rstrip("?"), own)
        if statement.words[0].startswith("release"):
            process = statement.process or ("manager" if statement.words[0] == "release?" else own)
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
            read = self._seen.setdefault(host, [])
            read += [handle for handle in shown if handle not in read]
        if f == "clear" and kind == "ok":
            read = self._seen.get(host, [])
            self._seen[host] = [handle for handle in read if handle not in value.get("handles", ())]

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
        """The operation and what is sent, with the host that it belongs to where that is named."""
        word, *rest = statement.words
        if word in ("add", "release?", "force"):
            return self._of_manager(word, rest)
        host = next((int(given[5:]) for given in rest if given.startswith("host=")), None)
        f, value = self._of_host(word, [given for given in rest if not given.startswith("host=")], host or 0)
        if host is not None or f == "fm_extents":
            value["host_id"] = host or 0
        return f, value

    def _of_manager(self, word: str, rest: list[str]) -> tuple[str, Value]:
        region = next((int(given[1:]) for given in rest if given.startswith("@")), 0)
        return self._manager(word, [given for given in rest if not given.startswith("@")], region)

    def _state(self, host: int) -> State:
        """The device as it stands towards a host."""
        state = self._device.state
        return enter(state, host) if state.rest is not None and host in self._config.limits.hosts else state

    def _region(self, word: str, rest: list[str], region: int) -> tuple[str, Value]:
        """The manager's commands that are neither add nor release; all but 5603h go by FM-API alone."""
        if word == "set":
            size, *more = rest
            sanitize = int(more == ["sanitize"])
            return "set_region", {
                "device": NAME, "region": region, "block_size": parse_size(size), "sanitize": sanitize, "via": "fm",
            }  # fmt: skip
        if word in ("keep", "drop"):
            f = "add_reference" if word == "keep" else "remove_reference"
            return f, {"device": NAME, "tag": rest[0], "via": "fm"}
        numbers = [int(given) for given in rest]
        start, count = (numbers + [0, 50][len(numbers) :])[:2]
        if word == "tags":
            return "list_tags", {"device": NAME, "start": start, "count": count, "via": "fm"}
        return "fm_extents", {"device": NAME, "count": count, "start": start}

    def _of_host(self, word: str, rest: list[str], host: int) -> tuple[str, Value]:
        region = next((int(given[1:]) for given in rest if given.startswith("@")), 0)
        rest = [given for given in rest if not given.startswith("@")]
        base = self._config.regions[region].base if region < len(self._config.regions) else 0
        if word in ("set", "keep", "drop", "tags", "fmlist"):
            return self._region(word, rest, region)
        if word in ("events", "status"):
            return word, {"device": NAME, "log": 4} if word == "events" else {"device": NAME}
        if word in ("accept", "accept+", "refuse"):
            return "answer", {
                "device": NAME,
                "flags": int(word == "accept+"),
                "ranges": self._offered(host) if word != "refuse" and not rest else _ranges(rest, base),
            }
        if word in ("release", "release+"):
            held = [[extent.start, extent.length] for extent in self._state(host).accepted]
            ranges = _ranges(rest, base) if rest else held
            return "give_back", {"device": NAME, "flags": int(word == "release+"), "ranges": ranges}
        if word == "clear":
            return "clear", self._clear(rest, host)
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
        plain = [given for given in rest if "=" not in given and given not in ("forced", "sanitize")]
        length = parse_size(plain.pop()) if plain and "+" not in plain[-1] else None
        value: Value = {
            "device": NAME,
            "via": options.get("via", "fm" if word == "force" else "qmp"),
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
                 "sequence": at + int(options.get("first", "0")) if options.get("shared") else 0}
                for at, found in enumerate(value["extents"])
            ]  # fmt: skip
        if length is not None:
            value["length"] = length
        if "raw" in options:
            value["raw"] = options["raw"]
        if word == "add":
            return "add", value
        if word == "force":
            return "force", {**value, "forced": True, "sanitize": "sanitize" in rest}
        return "release", {**value, "forced": "forced" in rest, "sanitize": "sanitize" in rest}

    def _offered(self, host: int) -> list[list[int]]:
        chains = self._state(host).chains
        return [[extent.start, extent.length] for extent in chains[0].extents] if chains else []

    def _clear(self, rest: list[str], host: int) -> Value:
        handles = list(self._seen.get(host, ()))
        if rest:
            handles = [] if rest[0] in ("all", "none") else [int(given) for given in rest[0].split(",")]
        return {"device": NAME, "log": 4, "flags": int(rest[:1] == ["all"]), "handles": handles}


def _empty(f: str) -> Value:
    """A success with as little in it as the operation allows."""
    if f in ("add", "release", "force", "store", "gone"):
        return {}
    if f in ("extents", "fm_extents"):
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
    if f in ("add", "release", "force"):
        shown = [_range(found.get("dpa", found.get("offset")), found["length"]) for found in sent["extents"][:8]]
        tag = f" tag {sent['tag']}" if sent.get("tag") else ""
        forced = " forced" if sent.get("forced") else ""
        policy = "" if sent["policy"] == "prescriptive" else f" by policy {sent['policy']}"
        size = f" {format_size(sent['length'])}" if "length" in sent else ""
        host = f" host {sent['host_id']}" if sent["host_id"] else ""
        return f"region {sent['region']}: {' '.join(shown) or 'nothing'}{size}{policy}{tag}{forced}{host}"
    if f in ("add_reference", "remove_reference"):
        return str(sent["tag"])
    if f == "clear":
        return "all" if sent["flags"] & 1 else " ".join([str(handle) for handle in sent["handles"][:16]]) or "nothing"
    if f in ("extents", "fm_extents", "list_tags"):
        return f"from {sent['start']}, at most {sent['count']}"
    if f == "set_region":
        return f"region {sent['region']}: blocks of {format_size(sent['block_size'])}"
    if f == "claim":
        return f"{sent.get('dax', sent.get('region'))}/{sent['file']} {sent['text'][:64]}"
    if f in ("use", "unuse"):
        names = [str(sent[name]) for name in ("region", "dax", "driver") if name in sent]
        place = [_range(sent["start"], sent["length"])] if "start" in sent else []
        return " ".join([str(sent["what"]), *names, *place])
    if f == "sysfs":
        return str(sent.get("region", ""))
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
    if "lines" in received:
        return _spell_log(received)
    if "events" in received:
        shown = [
            f"{one['handle']}:{_KINDS.get(one['type'], one['type'])} {_range(one['dpa'], one['length'])}"
            for one in received["events"][:8]
        ]
        return ", ".join(shown) or "no events"
    if "mode" in received and len(received) == 2:
        return f"mode {received['mode']}"
    if "region" in received:
        return _spell_sight(received)
    if isinstance(received.get("error"), str) and "rc" not in received:
        return str(received["error"])[:80]
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


_KINDS = {0: "add", 1: "release", 2: "forced"}


def _spell_log(received: Mapping[str, Any]) -> str:
    """The lines of a kernel's log that tell of capacity; how many there were."""
    told = []
    for note in notes_of(received["lines"]):
        place = f" {_range(note.start, note.length)}" if note.length else f" {note.number}" if note.number else ""
        if note.kind not in ("reading", "online"):
            told.append(f"{note.kind}{place}")
    more = ", ..." if len(told) > 12 else ""
    return f"{len(received['lines'])} lines" + (f": {', '.join(told[:12])}{more}" if told else "")


def _spell_sight(received: Mapping[str, Any]) -> str:
    extents = [one["name"] for one in received.get("extents") or ()] or received.get("names") or ()
    devices = [one["name"] for one in received.get("devices") or ()] or received.get("all_devices") or ()
    free = f"{received['available']} free, " if received.get("available") is not None else ""
    tools = [f"; {one['tool']} list {one.get('failed', 'too')}" for one in received.get("tools", ())]
    return f"{free}extents {' '.join(extents[:8]) or 'none'}, DAX {' '.join(devices[:8]) or 'none'}{''.join(tools)}"


def _spell_records(received: Mapping[str, Any]) -> str:
    shown: list[str] = []
    for record in received["records"][:8]:
        if "raw" in record:
            shown.append("(not a record)")
            continue
        word = {0: "add", 1: "release", 2: "forced", 3: f"region {record['region']} set up"}.get(
            record["type"], f"type {record['type']}"
        )
        more = " more" if record["more"] else ""
        shown.append(f"{record['handle']}:{word} {_range(record['dpa'], record['length'])}{more}")
    lost = f" ({received['overflow_count']} lost)" if received["flags"] & 1 else ""
    return (", ".join(shown) or "no records") + lost


def _range(start: int | None, length: int) -> str:
    return str(Extent(start or 0, length))[1:-1]
