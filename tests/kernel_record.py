"""Recorded kernel sessions (tests/kernel): read, step by step, and held against a host model.

A record is what somebody saw at a console: commands, QMP exchanges, kernel log, trace lines, sysfs trees, device lists.
`read` turns one into values in the order in which they stand there, and understands nothing of the rules; what it does
not know (iomem, daxctl) it leaves out. `judge` plays these values: what was done becomes a cause for the model, what
was seen is compared with its state. The kernel's commands were not recorded: they are inferred from the log and the
device's list, and both have to agree.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from dcdbackend.extents import NULL_TAG, Extent
from dcdbackend.linux_rules import CLAUSES
from dcdbackend.model import host as model
from dcdbackend.model import observe
from dcdbackend.model.generation import setup
from dcdbackend.model.host import Event, Host, Memdev, Partition
from dcdbackend.model.permitted import Command, Dropped, Range, breach, departures, hold
from dcdbackend.model.state import Violation

KERNEL = Path(__file__).parent / "kernel"
NAMES = tuple(sorted(path.stem for path in KERNEL.glob("*.txt")))
SEEN = frozenset(("answer", "give_back", "clear", "extents", "fm_extents", "claim", "sysfs", "log"))
"""The witnesses that a record has; the first two are inferred. A clause that none of them sees is never green."""


# ---- what a record holds ---------------------------------------------------------------------------------------------


class Asked(NamedTuple):
    """A manager's request. `region`: extents are offsets in it; None: they are DPA. `error`: refused, and how."""

    f: str
    via: str
    region: int | None
    extents: tuple[Extent, ...]
    error: str = ""


class Made(NamedTuple):
    """A region that was made by sysfs."""

    region: str
    memdev: str
    length: int
    mode: str


class Wrote(NamedTuple):
    """A file that was written. `error`: the kernel's name of it, with a minus, or ""."""

    path: str
    text: str
    error: str = ""


class Read(NamedTuple):
    """A file that was read, or ("ls") a directory."""

    path: str
    value: str


class Noted(NamedTuple):
    """A line of the kernel log: `kind` is the key of `_LOG` that it matched."""

    time_ns: int
    kind: str
    start: int = 0
    length: int = 0
    tag: bytes = NULL_TAG
    number: int = 0


class Traced(NamedTuple):
    """A cxl_dynamic_capacity trace line."""

    memdev: str
    type: int
    start: int
    length: int
    tag: bytes
    sequence: int
    handle: int


class Block(NamedTuple):
    """The log and the trace since the step before. `lines`: the log's, as they stand there, each with its time."""

    notes: tuple[Noted, ...]
    traces: tuple[Traced, ...]
    lines: tuple[tuple[int, str], ...] = ()


class Tree(NamedTuple):
    """Files and what they hold; paths relative to the bus."""

    files: tuple[tuple[str, str], ...]


class Listed(NamedTuple):
    """The device's extent list by 4801h or 5603h."""

    via: str
    rc: int
    total: int
    generation: int
    extents: tuple[Extent, ...]


Item = Asked | Made | Wrote | Read | Block | Tree | Listed


class Step(NamedTuple):
    """What stands under one heading."""

    title: str
    items: tuple[Item, ...]


class Session(NamedTuple):
    """A whole record."""

    title: str
    host: str
    kernel: str
    steps: tuple[Step, ...]


# ---- reading it ------------------------------------------------------------------------------------------------------

_HEX = r"0x(?P<{}>[0-9a-f]+)"
_DPA = r"DPA:" + _HEX.format("start") + r" LEN:" + _HEX.format("length")
_SPAN = r"\[range " + _HEX.format("first") + "-" + _HEX.format("last") + r"\]"
_TAG = r"(?P<tag>[0-9a-f-]{36})"
_LOG: dict[str, re.Pattern[str]] = {
    kind: re.compile(pattern)
    for kind, pattern in {
        "reading": r"Reading event logs",
        "add": r"DCD event add : " + _DPA,
        "release": r"DCD event release : " + _DPA,
        "staged": r"more bit set; delay the surfacing",
        "dropped": rf"Tag {_TAG}: dropping group, tag already committed",
        "failed": rf"Tag {_TAG}: failed to add extent " + _DPA,
        "added": r"Add extent " + _SPAN + rf" \({_TAG}\)",
        "online": r"dc_extent HPA " + _SPAN + rf" \({_TAG}\)",
        "given": r"Release response dpa " + _SPAN,
        "cleared": r"Event log '4': Clearing (?P<number>\d+)",
        "scanned": r"Got extent list \d+-+\d+ of (?P<number>\d+) generation Num:(?P<generation>\d+)",
        "timed-out": r"DC add chain timed out",
        "partition": r"\(DCR:" + _SPAN,
        "window": r"DAX region resource \[mem " + _HEX.format("first") + "-" + _HEX.format("last"),
    }.items()
}
_STAMP = re.compile(r"\[ *(?P<seconds>\d+)\.(?P<micros>\d{6})\] (?P<text>.*)")
_TRACE = re.compile(
    r"cxl_dynamic_capacity: memdev=(?P<memdev>\S+) .* handle=(?P<handle>\d+) .*event_type='(?P<type>[^']*)'.*"
    r" starting_dpa=(?P<start>[0-9a-f]+) length=(?P<length>[0-9a-f]+) tag=(?P<tag>[0-9a-f-]+)"
    r" shared_extent_sequence=(?P<sequence>\d+)"
)
_TYPES = {"Add capacity": 0, "Release capacity": 1, "Forced capacity release": 2}
_ERRORS = {
    "No such file or directory": "-ENOENT",
    "Device or resource busy": "-EBUSY",
    "Invalid argument": "-EINVAL",
    "Operation not supported": "-EOPNOTSUPP",
    "No space left on device": "-ENOSPC",
    "Permission denied": "-EACCES",
}
_ECHO = re.compile(r"echo (\S+) > (/sys/\S+)")
_LISTED = re.compile(r"dpa[= ](?P<start>\S+) len[= ](?P<length>\S+) tag[= ](?P<tag>[0-9a-f]{32}) seq[= ](?P<seq>\d+)")


def tag_of(text: str) -> bytes:
    """The tag of a UUID as the kernel prints it."""
    return bytes.fromhex(text.replace("-", ""))


def read(name: str) -> Session:
    """The record of that name."""
    return parse((KERNEL / f"{name}.txt").read_text())


def parse(text: str) -> Session:
    """A record. What it does not understand it leaves out."""
    lines = text.splitlines()
    kernel = re.search(r"kernel: (.*)", lines[1])
    steps: list[Step] = []
    title, items = "", list[Item]()
    at = 2
    while at < len(lines):
        line = lines[at]
        if line.startswith("=== "):
            if items:
                steps.append(Step(title, tuple(items)))
            title, items = line[4:], []
            at += 1
            continue
        end = at + 1
        while end < len(lines) and lines[end] and not lines[end].startswith(("guest#", "QMP->", "===", "--- dmesg")):
            end += 1
        items += _paragraph(line, lines[at + 1 : end])
        at = end
    steps.append(Step(title, tuple(items)))
    return Session(lines[0][2:], lines[1][2:].split(";")[0], kernel[1] if kernel else "", tuple(steps))


def _paragraph(head: str, body: list[str]) -> list[Item]:
    if head.startswith("--- dmesg"):
        notes = [note for line in body for note in _notes(line)]
        stamps = [stamp for line in body if (stamp := _STAMP.match(line)) is not None]
        lines = tuple([(_time(stamp), stamp["text"]) for stamp in stamps])
        return [Block(tuple(notes), tuple([traced for line in body for traced in _traced(line)]), lines)]
    if head.startswith("QMP->"):
        return [_qmp(json.loads(head[6:]), json.loads(body[0][6:]))]
    if not head.startswith("guest# "):
        return []
    command = head[7:]
    if command.startswith("mkregion"):
        return _mkregion(command, body)
    if command.startswith("tree"):
        return [Tree(tuple([_file(line) for line in body if ": " in line or " -> " in line]))]
    if command == "dclist" or command == "fmcci extents":
        return [_listed(command, body)]
    if command.startswith("fmcci"):
        return [_fmcci(command.split()[1:], body)]
    if command.startswith("ls -1 /sys/bus/cxl/devices/dax_region"):
        return [Read(command.split()[2], " ".join(body))]
    return _shell(command, body)


def _notes(line: str) -> list[Noted]:
    stamp = _STAMP.match(line)
    if stamp is None:
        return []
    time_ns = _time(stamp)
    found = []
    for kind, pattern in _LOG.items():
        match = pattern.search(stamp["text"])
        if match is None:
            continue
        values = match.groupdict()
        start, length = _place(values)
        tag = tag_of(values["tag"]) if values.get("tag") else NULL_TAG
        found.append(Noted(time_ns, kind, start, length, tag, int(values.get("number") or 0)))
    return found


def _time(stamp: re.Match[str]) -> int:
    return int(stamp["seconds"]) * 1_000_000_000 + int(stamp["micros"]) * 1000


def _place(values: dict[str, str]) -> Range:
    if "start" in values:
        return int(values["start"], 16), int(values["length"], 16)
    if "first" in values:
        first = int(values["first"], 16)
        return first, int(values["last"], 16) - first + 1
    return 0, 0


def _traced(line: str) -> list[Traced]:
    match = _TRACE.search(line)
    if match is None:
        return []
    kind = _TYPES[match["type"]]
    place = (int(match["start"], 16), int(match["length"], 16))
    return [Traced(match["memdev"], kind, *place, tag_of(match["tag"]), int(match["sequence"]), int(match["handle"]))]


def _qmp(sent: dict[str, dict[str, object]], reply: dict[str, dict[str, str]]) -> Asked:
    arguments = json.loads(json.dumps(sent["arguments"]))
    tag = tag_of(arguments.get("tag", NULL_TAG.hex()))
    extents = tuple([Extent(one["offset"], one["len"], tag) for one in arguments["extents"]])
    f = "add" if "add" in str(sent["execute"]) else "release"
    return Asked(f, "qmp", int(arguments["region"]), extents, reply.get("error", {}).get("desc", ""))


def _fmcci(words: list[str], body: list[str]) -> Asked:
    f = {"add": "add", "rel": "release"}[words.pop(0)]
    tag = NULL_TAG
    if words[0] == "-t":
        tag, words = tag_of(words[1]), words[2:]
    extents = []
    for word in words:
        start, length, *own = word.split(":")
        extents.append(Extent(int(start, 16), int(length, 16), tag_of(own[0]) if own else tag))
    return Asked(f, "fm", None, tuple(extents), "" if "return code 0x0" in body[0] else body[0])


def _mkregion(command: str, body: list[str]) -> list[Item]:
    name = next(line.split("region=")[1].split()[0] for line in body if "region=" in line)
    modes = [line.removeprefix("+ echo ") for line in body if line.startswith("+ echo dynamic")]
    return [Made(name, command.split()[1], int(command.split()[2], 16), modes[0])]


def _file(line: str) -> tuple[str, str]:
    path, _, value = line.partition(" -> ") if " -> " in line else line.partition(": ")
    for bus in ("/sys/bus/cxl/devices/", "/sys/bus/dax/devices/"):
        path = path.removeprefix(bus)
    path = re.sub(r"^region\d+/(dax_region\d+/)", r"\1", path)
    return re.sub(r"^dax_region\d+/(dax\d)", r"\1", path), value.strip()


def _listed(command: str, body: list[str]) -> Listed:
    extents = []
    for line in body:
        match = _LISTED.search(line)
        if match is not None:
            place = (int(match["start"], 0), int(match["length"], 0))
            extents.append(Extent(*place, bytes.fromhex(match["tag"]), int(match["seq"])))
    head = " ".join(body)
    total = re.search(r"total[= ](\d+) gen\w*[= ](\d+)", head)
    rc = re.search(r"(?:rc=|return code )(\w+)", head)
    via = "4801h" if command == "dclist" else "5603h"
    numbers = (int(total[1]), int(total[2])) if total else (-1, -1)
    return Listed(via, int(rc[1], 0) if rc else -1, *numbers, tuple(extents))


def _shell(command: str, body: list[str]) -> list[Item]:
    """echo, cat and ls of a line, each with what it printed; the error is that of the last echo."""
    found: list[Item] = []
    output = [line for line in body if not line.startswith(("sh: ", "[exit"))]
    failed = next((line.rpartition("error: ")[2] for line in body if "write error" in line), "")
    for part in [part.strip() for part in command.split(";")]:
        echo = _ECHO.match(part)
        if echo is not None:
            found.append(Wrote(echo[2], echo[1]))
        elif part.startswith("cat /sys/") and "|" not in part:
            found.append(Read(part[4:], output.pop(0) if output else ""))
        elif part == "ls /sys/bus/dax/devices/":
            found.append(Read(part[3:], " ".join(output)))
            output = []
    if failed:
        last = max(at for at, item in enumerate(found) if isinstance(item, Wrote))
        wrote = found[last]
        if isinstance(wrote, Wrote):
            found[last] = wrote._replace(error=_ERRORS[failed])
    return found


def tree_values(files: dict[str, str]) -> dict[str, Any] | None:
    """A tree as the value of a sysfs reading; None where it shows nothing of a region."""
    value: dict[str, Any] = {"region": "region0"}
    if "region0/mode" in files:
        value["mode"] = files["region0/mode"]
    if "dax_region0/dax_region/available_size" not in files:
        return value if "mode" in value else None
    names = sorted({path.split("/")[1] for path in files if path.startswith("dax_region0/extent")})
    value["extents"] = [
        {
            "name": name,
            "offset": int(files[f"dax_region0/{name}/offset"], 16),
            "length": int(files[f"dax_region0/{name}/length"], 16),
            "uuid": files.get(f"dax_region0/{name}/uuid"),
        }
        for name in names
    ]
    devices = sorted({path.split("/")[0] for path in files if re.match(r"dax\d+\.", path)})
    seen = [_dax(files, name)._asdict() for name in devices]
    value["devices"] = [{**one, "mappings": [list(piece) for piece in one["mappings"] or ()]} for one in seen]
    value["all_devices"] = devices
    value["available"] = int(files["dax_region0/dax_region/available_size"])
    return value


# ---- holding it against a model --------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """`judged`: clauses that were tested and held. `wrong`: breaches, with the step's title in the evidence."""

    judged: tuple[str, ...]
    wrong: tuple[Violation, ...]
    departures: tuple[Violation, ...]

    @property
    def clauses(self) -> tuple[str, ...]:
        """The clauses of the breaches, each once."""
        return tuple(dict.fromkeys([one.clause for one in self.wrong]))

    @property
    def quirks(self) -> tuple[str, ...]:
        """The departures that showed, each once."""
        return tuple(dict.fromkeys([one.departure or "" for one in self.departures]))


class Judge:
    """One session under one generation."""

    def __init__(self, session: Session, generation: str, quirks: frozenset[str] | None) -> None:
        notes = [
            note for step in session.steps for item in step.items if isinstance(item, Block) for note in item.notes
        ]
        spans = {note.kind: (note.start, note.length) for note in notes if note.kind in ("partition", "window")}
        files = dict(
            [pair for step in session.steps for item in step.items if isinstance(item, Tree) for pair in item.files]
        )
        made = [item.length for step in session.steps for item in step.items if isinstance(item, Made)]
        partition = Partition(*spans.get("partition", (0, made[0])))
        self.window = spans.get("window", (int(files.get("region0/resource", "0"), 16), 0))[0]
        self.host = Host(setup(generation, quirks=quirks), (Memdev("mem0", partition),))
        self.held: tuple[Range, ...] = ()
        self.dropped: tuple[Dropped, ...] = ()
        self.asked: Asked | None = None
        self.title = ""
        self.judged: list[str] = []
        self.wrong: list[Violation] = []
        self.departures: list[Violation] = []
        self._base = partition.length

    def play(self, session: Session) -> Verdict:
        """The verdict of all steps."""
        for step in session.steps:
            self.title = step.title
            for at, item in enumerate(step.items):
                if isinstance(item, Block):
                    later = [one for one in step.items[at + 1 :] if isinstance(one, Listed | Block)]
                    listed = later[0] if later and isinstance(later[0], Listed) else None
                    self._block(item, listed)
                else:
                    self._item(item)
        wrong = {one.clause for one in self.wrong}
        seen = [clause for clause in dict.fromkeys(self.judged) if SEEN & set(CLAUSES[clause].witnesses)]
        judged = tuple([clause for clause in seen if clause not in wrong])
        return Verdict(judged, tuple(self.wrong), tuple(self.departures))

    def _blame(self, *found: Violation) -> None:
        for one in found:
            where = self.departures if one.outcome == "departure" else self.wrong
            where.append(one._replace(evidence={**one.evidence, "step": self.title}))

    def _cause(self, cause: model.Cause) -> model.Decision:
        """Something that leaves one way."""
        (way,) = model.decide(self.host, cause)
        self.host = way.after
        self.judged += way.judged
        self._blame(*departures(way))
        return way

    def _item(self, item: Item) -> None:
        if isinstance(item, Asked):
            self.asked = item
        elif isinstance(item, Made):
            self._cause(model.MakeRegion(item.region, item.memdev, 0, item.length, self.window))
            self._cause(model.BindRegion(item.region))
            self._look(observe.Sight(item.region, mode=item.mode))
        elif isinstance(item, Wrote):
            self._wrote(item)
        elif isinstance(item, Read):
            self._read(item)
        elif isinstance(item, Tree):
            self._tree(dict(item.files))
        elif isinstance(item, Listed):
            self._listed(item)

    def _look(self, sight: observe.Sight) -> None:
        found = observe.judge(self.host, sight, self.dropped)
        self.judged += found.judged
        self._blame(*found.findings)

    def _wrote(self, item: Wrote) -> None:
        parts = item.path.split("/")
        cause: model.Create | model.Claim | model.Resize | model.Bind | model.Unbind
        if item.path.endswith("/uuid"):
            cause = model.Claim(parts[-2], item.text)
        elif item.path.endswith("/size"):
            cause = model.Resize(parts[-2], int(item.text, 0))
        elif item.path.endswith("/create"):
            cause = model.Create(next(part for part in parts if part.startswith("dax_region")).removeprefix("dax_"))
        elif item.path.endswith("/bind"):
            cause = model.Bind(item.text, parts[-2])
        else:
            cause = model.Unbind(item.text)
        there = [one.name for one in self.host.devices]
        if not isinstance(cause, model.Create) and cause.device not in there:
            return self._blame(breach("B29.create", f"{cause.device} is there, by the model it is not"))
        (way,) = model.decide(self.host, cause)
        if way.error == item.error:
            self._cause(cause)
            return None
        clause = way.judged[0] if way.judged else "A14.uuid" if isinstance(cause, model.Claim) else "A14.any"
        return self._blame(
            breach(clause, f"writing {item.text} gave {item.error or 'success'}, due was {way.error or 'success'}")
        )

    def _read(self, item: Read) -> None:
        parts = item.path.rstrip("/").split("/")
        words = item.value.split()
        if parts[-1].startswith("dax_region"):
            names = tuple([word for word in words if word.startswith("extent")])
            devices = tuple([word for word in words if re.fullmatch(r"dax\d+\.\d+", word)])
            self._look(observe.Sight(parts[-1].removeprefix("dax_"), names=names, all_devices=devices))
        elif parts[-1] == "devices":
            self._look(observe.Sight("region0", all_devices=tuple(words)))
        elif parts[-1] == "size":
            self._look(observe.Sight("region0", devices=(observe.SeenDax(parts[-2], size=int(item.value)),)))
        elif parts[-1] == "uuid":
            seen = observe.SeenDax(parts[-2], uuid=item.value, has_uuid=True)
            self._look(observe.Sight("region0", devices=(seen,)))

    def _tree(self, files: dict[str, str]) -> None:
        if not self.host.regions:
            return
        mode = files.get("region0/mode")
        if "dax_region0/dax_region/available_size" not in files:
            return self._look(observe.Sight("region0", mode=mode))
        names = sorted({path.split("/")[1] for path in files if path.startswith("dax_region0/extent")})
        extents = tuple(
            [
                observe.SeenExtent(
                    name,
                    int(files[f"dax_region0/{name}/offset"], 16),
                    int(files[f"dax_region0/{name}/length"], 16),
                    files.get(f"dax_region0/{name}/uuid"),
                )
                for name in names
            ]
        )
        devices = sorted({path.split("/")[0] for path in files if re.match(r"dax\d+\.", path)})
        seen = tuple([_dax(files, name) for name in devices])
        available = int(files["dax_region0/dax_region/available_size"])
        return self._look(observe.Sight("region0", mode, available, extents, None, seen, tuple(devices)))

    def _listed(self, item: Listed) -> None:
        seen = tuple([(one.start, one.length) for one in item.extents])
        if item.rc or item.total != len(seen):
            self._blame(
                breach("DEV-10.total", f"{item.via} gave rc {item.rc}, total {item.total}, {len(seen)} extents")
            )
        for pair in [pair for pair in self.held if pair not in seen]:
            self._blame(breach("B5.survivors", f"{item.via} lacks {Extent(*pair)}, which the host took"))
        for pair in [pair for pair in seen if pair not in self.held]:
            self._blame(breach("B5.only", f"{item.via} has {Extent(*pair)}, which the host did not take"))
        if seen != self.held and sorted(seen) == sorted(self.held):
            self._blame(breach("B5.order", f"{item.via} lists the extents in another order than they were taken"))

    # -- log and trace

    def _block(self, block: Block, listed: Listed | None) -> None:
        for note in [note for note in block.notes if note.kind == "scanned"]:
            scanning = [region for region in self.host.regions if region.scan is not None]
            if not scanning:
                self._blame(breach("B26.all", "the extent list was read, and no scan was due"))
            for region in scanning:
                extents = tuple([Extent(*pair) for pair in self.held])
                self._cause(model.Page(region.name, note.number, 0, extents))
        for region in self.host.regions:
            if region.scan is not None:
                self._blame(breach("B26.all", f"the extent list was not read for {region.name}"))
        pages = _pages(block.notes)
        records = sum([note.kind in ("add", "release") for page in pages for note in page])
        if records != len(block.traces):
            self._blame(breach("WITNESS.agree", f"the log has {records} records, the trace {len(block.traces)}"))
        traces = list(block.traces)
        self._as_asked(traces)
        for page in pages:
            self._page(page, traces, listed)
        self.asked = None

    def _as_asked(self, traces: list[Traced]) -> None:
        """What the manager asked for came as records (DEV-4)."""
        asked = self.asked
        if asked is None:
            return
        base = self._base * asked.region if asked.region is not None else 0
        due = [] if asked.error else [(base + one.start, one.length) for one in asked.extents]
        came = [(traced.start, traced.length) for traced in traces]
        if due != came:
            self._blame(breach("DEV-4.extent", f"asked were {due}, as records came {came}"))

    def _page(self, page: list[Noted], traces: list[Traced], listed: Listed | None) -> None:
        events: list[Event] = []
        added: list[Range] = []
        commands: list[Command] = []
        is_open = False
        for note in page:
            if note.kind in ("add", "release"):
                event = self._event(note, traces)
                events.append(event)
                is_open = False
            elif note.kind == "staged" and events:
                events[-1] = events[-1]._replace(more=True)
                is_open = True
            elif note.kind in ("added", "online"):
                if is_open:
                    clause = "A3.more" if self.host.setup.generation.kind == "sparse" else "B2.close"
                    self._blame(breach(clause, f"{Extent(note.start, note.length)} appeared in an open chain"))
                if note.kind == "added":
                    added.append((note.start, note.length))
            elif note.kind == "given":
                commands.append(Command("give_back", "mem0", ((note.start, note.length),)))
            elif note.kind == "cleared":
                commands.append(Command("clear", "mem0", handles=(note.number,)))
        closed = any([event.type == 0 and not event.more for event in events])
        if closed or added:
            commands = _with_answer(commands, self._named(added, listed))
        self._hold(tuple(events), page[-1].time_ns, commands)

    def _event(self, note: Noted, traces: list[Traced]) -> Event:
        """A record, of a log line and the trace line that tells the rest of it."""
        kind = 0 if note.kind == "add" else 1
        if not traces:
            return Event(kind, note.start, note.length)
        traced = traces.pop(0)
        if (traced.type, traced.start, traced.length) != (kind, note.start, note.length):
            self._blame(breach("WITNESS.agree", f"the log has {note}, the trace {traced}"))
        return Event(kind, note.start, note.length, traced.tag, traced.sequence, handle=traced.handle)

    def _named(self, added: list[Range], listed: Listed | None) -> tuple[Range, ...]:
        """What the answer named: by the log, in the order of the device's list where that holds the same."""
        if listed is None:
            return tuple(added)
        new = [(one.start, one.length) for one in listed.extents if (one.start, one.length) not in self.held]
        return tuple(new) if sorted(new) == sorted(added) else tuple(added)

    def _hold(self, events: tuple[Event, ...], now_ns: int, commands: list[Command]) -> None:
        records = model.Records("mem0", events, now_ns)
        merged = _merged(commands)
        way, found = hold(model.decide(self.host, records), merged, seen=("answer", "give_back", "clear"))
        self._blame(*found)
        if not [one for one in found if one.outcome == "fail"]:
            self.judged += way.judged
        self.dropped = way.dropped or self.dropped
        self.host = model.settle(self.host, records, way, merged)
        for command in merged:
            if command.f == "answer":
                self.held += command.ranges
            elif command.f == "give_back":
                self.held = tuple([pair for pair in self.held if pair not in command.ranges])


def _pages(notes: tuple[Noted, ...]) -> list[list[Noted]]:
    """The notes of each reading of the log: from one `reading` to the next, records in it."""
    pages: list[list[Noted]] = []
    for note in notes:
        if note.kind == "reading":
            pages.append([])
        elif pages and note.kind not in ("partition", "window", "scanned"):
            pages[-1].append(note)
    return [page for page in pages if page]


def _with_answer(commands: list[Command], named: tuple[Range, ...]) -> list[Command]:
    """The commands with the answer in its place: before the first clear, where no log line shows it."""
    at = next((at for at, command in enumerate(commands) if command.f == "clear"), len(commands))
    return [*commands[:at], Command("answer", "mem0", named), *commands[at:]]


def _merged(commands: list[Command]) -> tuple[Command, ...]:
    """Clears that follow one another are one command: the log has a line for each handle."""
    found: list[Command] = []
    for command in commands:
        if command.f == "clear" and found and found[-1].f == "clear":
            found[-1] = found[-1]._replace(handles=found[-1].handles + command.handles)
        else:
            found.append(command)
    return tuple(found)


def _dax(files: dict[str, str], name: str) -> observe.SeenDax:
    mappings = []
    at = 0
    while f"{name}/mapping{at}/start" in files:
        values = [int(files[f"{name}/mapping{at}/{field}"], 16) for field in ("start", "end", "page_offset")]
        mappings.append(observe.SeenMapping(*values))
        at += 1
    uuid = files.get(f"{name}/uuid")
    driver = files.get(f"{name}/driver")
    return observe.SeenDax(
        name, int(files[f"{name}/size"]), uuid, uuid is not None, tuple(mappings), driver, driver is not None
    )


def judge(session: Session, generation: str, quirks: frozenset[str] | None = None) -> Verdict:
    """A session under a generation; `quirks` None: all departures that its code has."""
    return Judge(session, generation, quirks).play(session)
