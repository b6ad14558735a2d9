"""The Linux host of a history: which states it may be in, and whether what it sent and showed fits one of them.

`model.host` says what a kernel may do when something happens to it (a *cause*: records read, a file written). The
history says what it did. `Watch` holds every state that fits so far: a kernel handles records at some moment between
reading and clearing them, so a claim that comes between may have been first or second, and both are kept until
something tells. What came is held against what was due when a turn ends: at the latest when the next one begins.

Nothing here looks at the device (`both` does), and nothing reads a kernel's log (`kernel` does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import AskedWrongly, BadHistory
from ..extents import NULL_TAG, Extent
from ..linux_rules import CLAUSES
from ..model import host as model
from ..model import observe
from ..model.decide import read_handles, read_ranges
from ..model.generation import EVERY, setup
from ..model.host import Host, Memdev
from ..model.permitted import Command, Decision, Dropped, breach, departures, hold
from ..model.state import Violation
from . import blame

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..history import Header
    from ..model.host import Cause

MOST_WAYS = 32
EARLY_NS = 100_000_000
"""How much later than a kernel's own clock a line of the history may be written: by so much no answer is too early."""
_MUTE = "dynamic debug is off: of what the kernel does its log tells nothing"
_SEEN = ("answer", "give_back", "clear")
_SHOWN = frozenset(("answer", "give_back", "clear", "extents", "fm_extents", "events", "claim", "block"))
_LATER = frozenset(
    ("B27.oldest", "B28.unchanged", "B16.hole", "L3.start", "B26.gates", "C1.undo", "C1.probe",
     "WHAT-IF.map-to-extents")
)  # fmt: skip
_MAPPED = frozenset(
    ("B16.sharable", "B16.arrival", "B16.last", "B16.hole", "B27.sequence", "B18.interleave", "WHAT-IF.map-to-extents")
)


class Way(NamedTuple):
    """A state that the host may be in.

    `cause`: records that it has read and not handled yet. `due`: what it decided, whose commands are not all seen;
    `begun`: the host before that decision, and `handled` its cause.
    """

    host: Host
    cause: Cause | None = None
    due: Decision | None = None
    begun: Host | None = None
    handled: Cause | None = None
    dropped: tuple[Dropped, ...] = ()


class Watch(NamedTuple):
    """All that is known of the host. `commands`: what it sent in this turn; `under_way`: a turn is not ended.

    `reread`: it has to read its log again, `since_ns` then; `quiet`: what it may not send now, and by which clause;
    `unused`: partitions but the first; `off`: the clause by which its DCD is off; `beside`: tags that its other devices
    have brought so far; `shown`: clauses that the next look at sysfs confirms; `order`: the ranges of an inferred
    answer, the clause of their order, to be confirmed by the device's list; `faults`: what goes wrong inside, as the
    history says; `lost`: why it is not judged any more; `by_log`: its commands are inferred.
    """

    ways: tuple[Way, ...]
    commands: tuple[Command, ...] = ()
    under_way: bool = False
    reread: bool = False
    since_ns: int = 0
    quiet: tuple[tuple[str, str], ...] = ()
    beside: frozenset[bytes] = frozenset()
    unused: tuple[tuple[int, int], ...] = ()
    off: str = ""
    shown: tuple[str, ...] = ()
    order: tuple[str, tuple[tuple[int, int], ...]] | None = None
    faults: frozenset[str] = frozenset()
    lost: str = ""
    by_log: bool = False

    @property
    def host(self) -> Host:
        """The host by the first way, to show."""
        return self.ways[0].host


class Said(NamedTuple):
    """The watch after something, clauses that held, what was broken (or is a departure), what is not known."""

    watch: Watch
    judged: tuple[str, ...] = ()
    findings: tuple[Violation, ...] = ()
    unknown: tuple[str, ...] = ()

    def then(self, later: Said) -> Said:
        """This and what came after it."""
        return Said(
            later.watch, self.judged + later.judged, self.findings + later.findings, self.unknown + later.unknown
        )


def generation_of(header: Header) -> str | None:
    """The generation of Linux that a header names, None where its host is another one (U, nothing said).

    Errors: BadHistory.
    """
    name = header.host.get("generation")
    if name is None or name == "U":
        return None
    if not isinstance(name, str) or name not in EVERY:
        allowed = ", ".join(["U", *EVERY])
        raise BadHistory(f"host generation {name!r} is not known; there are {allowed}", line=1)
    return name


def together(header: Header) -> bool:
    """Whether the devices of a header's host are judged as one: with interleave a region is over several of them."""
    on, places = header.host.get("what_if"), header.host.get("regions")
    if generation_of(header) is None or not isinstance(on, list) or "interleave" not in on or len(header.devices) < 2:
        return False
    return not isinstance(places, list) or not places or any(_ways(place) for place in places)


def _ways(place: Any) -> list[str]:
    """The devices that a region of the header is over; [] for one alone, and for what is no region."""
    ways = place.get("ways") if isinstance(place, dict) else None
    return [str(name) for name in ways] if isinstance(ways, list) else []


def apart(header: Header) -> Header:
    """The header as each device of an interleaved host sees it alone: with a region of its own."""
    said = header.host.get("regions")
    if not isinstance(said, list) or not all(isinstance(place, dict) for place in said):
        return header  # what is wrong with it, `watch_of` says
    places = [
        {**{key: value for key, value in place.items() if key != "ways"}, "device": name}
        for place in said
        for name in _ways(place) or (place.get("device"),)
    ]
    return header._replace(host={**header.host, "regions": places})


def watch_of(header: Header, *devices: Mapping[str, Any]) -> Watch | None:
    """The watch of a header's Linux host over these devices; None where the host is not of a modelled generation.

    `header.host` may say `quirks` (ids; by default all that the generation's code has), `what_if`, `pmd_bytes`,
    `slack_ns` and `regions` (made and bound before the history began: device, region, start, length, hpa, of C
    `driver` and `host_id`, with interleave `ways`); a device's region `sharable`, a device `payload_size`.
    Errors: BadHistory.
    """
    name = generation_of(header)
    if name is None:
        return None
    said = header.host
    options = {key: said[key] for key in ("quirks", "what_if", "pmd_bytes", "slack_ns") if said.get(key) is not None}
    for key, value in options.items():
        is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not (is_list if key in ("quirks", "what_if") else type(value) is int and value >= 0):
            raise BadHistory(f"the host's {key!r} is {str(value)[:80]!r}, which it cannot be", line=1)
    try:
        host = Host(setup(name, **options), ())
        for device in devices:
            host = host._replace(memdevs=host.memdevs + _memdevs(device))
        for place in said.get("regions", ()):
            if place["device"] in [device["name"] for device in devices]:
                host = _stands(host, place)
    except (AskedWrongly, KeyError, TypeError, AttributeError) as error:
        why = error.message if isinstance(error, AskedWrongly) else repr(error)
        raise BadHistory(f"its host cannot be: {why}"[:300], line=1) from error
    regions = devices[0]["regions"]
    unused = tuple([(region["base"], region["length"]) for region in regions[1:]])
    lost = _MUTE if said.get("dynamic_debug") is False else ""
    return Watch((Way(host),), unused=unused, off=_off(_handled_regions(devices[0]), devices[0]), lost=lost)


def _handled_regions(device: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"dsmad_handle": 0, **region} for region in device["regions"]]


def _memdevs(device: Mapping[str, Any]) -> tuple[Memdev, ...]:
    """A device as each of its hosts has it."""
    regions = _handled_regions(device)
    sharable = [region["dsmad_handle"] for region in regions if region.get("sharable")]
    partition = model.partition_of(regions, sharable=sharable)
    if device.get("commands") is not None or device.get("interrupts") is False or "static_bytes" in device:
        partition = None if _off(regions, device) else partition
    sides = [name_of(device["name"], host_id) for host_id in device.get("hosts", (0,))]
    return tuple([Memdev(side, partition, device.get("payload_size", 2048)) for side in sides])


def name_of(device: str, host_id: int) -> str:
    """A memory device as one of its hosts has it: `mem0`, `mem0.1`. All hosts together are one `model.host.Host`."""
    return f"{device}.{host_id}" if host_id else device


def _off(regions: Sequence[Mapping[str, Any]], device: Mapping[str, Any]) -> str:
    """The clause of B1 by which the host leaves DCD off, as far as the header tells."""
    return model.off(
        regions,
        commands=device.get("commands", (0x4800, 0x4801, 0x4802, 0x4803)),
        interrupts=device.get("interrupts", True),
        static_bytes=device.get("static_bytes"),
    )


def _stands(host: Host, place: Mapping[str, Any]) -> Host:
    """The host with a region that was there, bound and scanned, before the history began. Errors: AskedWrongly."""
    name: str = place["region"]
    memdev = name_of(place["device"], place.get("host_id", 0))
    ways = tuple(place.get("ways", ()))
    made = model.MakeRegion(name, memdev, place["start"], place["length"], place.get("hpa", 0), ways=ways)
    causes: list[Cause] = [made, model.BindRegion(name, place.get("driver", ""))]
    if host.setup.generation.kind == "policy":
        causes.insert(1, model.Program(name))
    for cause in causes:
        decision = model.decide(host, cause)[0]
        if decision.error:
            raise AskedWrongly(f"region {name!r} of the header gives {decision.error}")
        host = decision.after
    if host.region(name).scan is not None:
        (decision,) = model.decide(host, model.Page(name, 0, 0, ()))
        host = decision.after
    return host


# ---- turns -----------------------------------------------------------------------------------------------------------


def _handled(way: Way, cause: Cause) -> list[Way]:
    """The ways after a cause was handled. What overlapping members leave open is settled when the turn is over."""
    found = []
    for decision in model.decide(way.host, cause):
        found.append(Way(decision.after, None, decision, way.host, cause, decision.dropped or way.dropped))
    return found


def _options(way: Way) -> list[Way]:
    """The ways that a way may have come to by now."""
    return [way] if way.cause is None else _handled(way, way.cause)


def _settled(way: Way, commands: Sequence[Command]) -> Way:
    """The way when its turn is over."""
    host = way.host
    if _open(way) and way.due is not None and way.begun is not None and way.handled is not None:
        host = model.settle(way.begun, way.handled, way.due, commands)
    return Way(host, dropped=way.dropped)


def _distinct(ways: Iterable[Way]) -> tuple[Way, ...]:
    return tuple(dict.fromkeys(ways))


def begin(watch: Watch, cause: Cause, *, at_once: bool = False) -> Said:
    """Something happens to the host: what was due before is over. `at_once`: it is handled now, not later."""
    ended = end(watch) if watch.under_way else Said(watch)
    watch = ended.watch
    if at_once:
        ways = [after for way in watch.ways for after in _handled(way, cause)]
    else:
        ways = [way._replace(cause=cause) for way in watch.ways]
    watch = watch._replace(ways=_distinct(ways), commands=(), under_way=True)
    return ended.then(_fit(watch, last=False))


def sent(watch: Watch, command: Command) -> Said:
    """The host sent a command."""
    commands = watch.commands
    if command.f == "clear" and commands and commands[-1].f == "clear":
        commands = (*commands[:-1], commands[-1]._replace(handles=commands[-1].handles + command.handles))
    else:
        commands = (*commands, command)
    return _fit(watch._replace(commands=commands), last=False)


def end(watch: Watch) -> Said:
    """The turn ends here, whatever is missing."""
    return _fit(watch, last=True) if watch.under_way else Said(watch)


def _fit(watch: Watch, *, last: bool) -> Said:
    """The ways that what came fits; where none does: more may come, or (`last`) a rule was broken."""
    options = [option for way in watch.ways for option in _options(way) if option.due is not None]
    if not options:
        return Said(watch._replace(commands=(), under_way=False))
    tried: list[tuple[int, Way, tuple[Violation, ...]]] = []
    for option in options:
        assert option.due is not None
        _, findings = hold((option.due,), watch.commands, seen=_SEEN)
        tried.append((len([one for one in findings if one.outcome == "fail"]), option, findings))
    fewest = min([wrong for wrong, _, _ in tried])
    if fewest and not last:
        return Said(watch)
    fits = [(option, findings) for wrong, option, findings in tried if wrong == fewest]
    if fewest and watch.beside and (elsewhere := _elsewhere(watch, options)) is not None:
        return elsewhere
    if fewest:
        fits = fits[:1]
    ways = _distinct([_settled(option, watch.commands) for option, _ in fits])
    if len(ways) > MOST_WAYS:
        lost = f"more than {MOST_WAYS} states of the host are possible"
        return Said(watch._replace(ways=ways[:1], commands=(), under_way=False, lost=lost))
    decisions = [option.due for option, _ in fits if option.due is not None]
    judged = [clause for clause in decisions[0].judged if all(clause in one.judged for one in decisions)]
    first, findings = fits[0]
    if fewest and first.due is not None and first.begun is not None:
        findings = blame.of_turn(first.begun, first.due, watch.commands, findings)
        also = blame.of_partition(findings, watch.unused, watch.commands)
        findings += tuple([breach(clause, findings[0].text) for clause in also])
    broken = {one.clause for one in findings if one.outcome == "fail"}
    if broken:
        judged = []
    reread = any(expected.f == "events" for expected in decisions[0].plan) and not watch.by_log
    told, later = _visible(watch, judged)
    shown = tuple(dict.fromkeys((*watch.shown, *later)))[-64:]
    quiet = tuple([pair for pair in decisions[0].silent if all(pair in one.silent for one in decisions)])
    after = watch._replace(
        ways=ways, commands=(), under_way=False, reread=watch.reread or reread, quiet=quiet, shown=shown
    )
    return Said(after, told, findings)


_ELSEWHERE = "elsewhere"
_LIVES = {"host": "B6.live", "hosts": "C2.live"}
"""By how far a tag is unique: the clause by which one that lives on the host is refused."""


def _elsewhere(watch: Watch, options: Sequence[Way]) -> Said | None:
    """What came, if a tag of the chain is live on another device (B6): brought it was, the rest is not known here."""
    for option in options:
        cause, before = option.handled, option.begun
        if not isinstance(cause, model.Records) or before is None or before.setup.generation.tags not in _LIVES:
            continue
        staged = [event for memdev in before.memdevs for event in memdev.staged]
        tags = dict.fromkeys([event.tag for event in (*staged, *cause.events) if event.tag != NULL_TAG])
        for tag in [tag for tag in tags if tag in watch.beside]:
            for way in _handled(Way(_with_far(before, [tag])), cause):
                assert way.due is not None
                if [one for one in hold((way.due,), watch.commands, seen=_SEEN)[1] if one.outcome == "fail"]:
                    continue
                host = _without_far(_settled(way, watch.commands).host)
                after = watch._replace(ways=(Way(host, dropped=way.dropped),), commands=(), under_way=False)
                return Said(after._replace(reread=not watch.by_log), (), (), (_LIVES[before.setup.generation.tags],))
    return None


def _with_far(host: Host, tags: Iterable[bytes]) -> Host:
    """The host with an extent of each tag on a device that nobody looks at here."""
    far = [model.Online(-at, _ELSEWHERE, _ELSEWHERE, 0, 0, tag, 0, -at, 0, 0) for at, tag in enumerate(sorted(tags), 1)]
    return host._replace(extents=(*host.extents, *far))


def _without_far(host: Host) -> Host:
    """The host without these."""
    return host._replace(extents=tuple([one for one in host.extents if one.memdev != _ELSEWHERE]))


def with_far(watch: Watch, tags: frozenset[bytes]) -> Watch:
    """The watch while these tags are known to live on the host's other devices."""
    return watch._replace(ways=tuple([way._replace(host=_with_far(way.host, tags)) for way in watch.ways]))


def without_far(watch: Watch) -> Watch:
    """The watch when that is not known any more."""
    ways = []
    for way in watch.ways:
        begun = None if way.begun is None else _without_far(way.begun)
        ways.append(way._replace(host=_without_far(way.host), begun=begun))
    return watch._replace(ways=_distinct(ways))


def _visible(watch: Watch, judged: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Clauses that commands, errors or (of a kernel) log lines show, and those that only sysfs can."""
    seen = _SHOWN | {"log"} if watch.by_log else _SHOWN
    told: list[str] = []
    later: list[str] = []
    for clause in judged:
        row = CLAUSES.get(clause)
        if row is None or clause == "L1.until-empty":
            continue
        if seen & set(row.witnesses) and clause not in _LATER:
            told.append(clause)
        elif "sysfs" in row.witnesses:
            later.append(clause)
    return tuple(told), tuple(later)


# ---- what the host does by itself ------------------------------------------------------------------------------------


def read(watch: Watch, memdev: str, records: Sequence[Mapping[str, Any]], now_ns: int) -> Said:
    """0100h of log 4 brought these records."""
    said = end(watch)
    if said.watch.reread:
        said = said._replace(judged=(*said.judged, "L1.until-empty"), watch=said.watch._replace(reread=False))
    if not records:
        return said
    events = tuple([model.event_of(record) for record in records])
    cause = model.Records(memdev, events, now_ns, said.watch.faults)
    watch = said.watch._replace(faults=frozenset())
    return said._replace(watch=watch).then(begin(watch, cause))


def command(watch: Watch, memdev: str, f: str, value: Mapping[str, Any], now_ns: int) -> Said:
    """4802h, 4803h or 0101h by the host, whatever the device said to it."""
    if "raw" in value and value.get("error"):
        text = f"{f} with a payload that does not parse"
        return Said(watch, (), (breach("L1.only", text, sent=value["raw"]),))
    watch = watch._replace(since_ns=now_ns)
    said = Said(watch)
    if f == "clear":
        log, _flags, handles, _short = read_handles(dict(value))
        if log != 4:
            return said
        told = Command("clear", memdev, handles=tuple(handles))
    else:
        flags, ranges, _short = read_ranges(dict(value))
        told = Command(f, memdev, tuple([(pair[0], pair[1]) for pair in ranges]), flags)
    if not watch.under_way:
        if watch.reread and f != "clear":
            text = f"{f} was sent before the log was read again"
            broken = (breach("L1.until-empty", text),) if not _may_tick(watch, memdev, now_ns) else ()
            said = Said(watch._replace(reread=False), (), broken)
        began = begin(said.watch, model.Tick(memdev, now_ns + EARLY_NS), at_once=True)
        ticked = began.watch._replace(under_way=True, ways=_ticked(watch, memdev, now_ns))
        came = sent(ticked, told)
        came = came.then(end(came.watch))
        why = [clause for kind, clause in watch.quiet if kind == f]
        idle = not any(one.staged for way in watch.ways for one in way.host.memdevs)
        findings = tuple(
            [
                one._replace(clause=watch.off)
                if watch.off and _unasked(one)
                else one._replace(clause=why[0])
                if why and (one.clause == "L1.only" or (idle and one.clause in _OPEN)) and _unasked(one)
                else one
                for one in came.findings
            ]
        )
        return said.then(came._replace(findings=findings))
    return said.then(sent(said.watch, told))


_OPEN = ("A3.more", "C2.chain")
"""Clauses by which an open chain is not answered."""


def _unasked(one: Violation) -> bool:
    return one.outcome == "fail" and "nothing asked" in one.text


def _ticked(watch: Watch, memdev: str, now_ns: int) -> tuple[Way, ...]:
    tick = model.Tick(memdev, now_ns + EARLY_NS)
    return _distinct([after for way in watch.ways for after in _handled(way, tick)])


def _may_tick(watch: Watch, memdev: str, now_ns: int) -> bool:
    """Whether a timer may have fired by now."""
    return any(
        expected.f == "answer"
        for way in _ticked(watch, memdev, now_ns)
        if way.due is not None
        for expected in way.due.plan
    )


def listed(watch: Watch, memdev: str, value: Mapping[str, Any], received: Mapping[str, Any]) -> Said:
    """4801h by the host: a page of a region's scan where one is due, else only a look."""
    due = next((region for way in watch.ways for region in way.host.regions if region.scan is not None), None)
    if "extents" not in received:
        return Said(watch)
    if due is None:
        stopped = [clause for f, clause in watch.quiet if f == "extents"]
        text = "the extent list is read again after its scan has failed"
        return Said(watch, (), tuple([breach(clause, text, sent=dict(value)) for clause in stopped[:1]]))
    scan, most = due.scan, watch.host.memdev(memdev).most_listed
    said = Said(watch)
    if scan is not None and (value["start"], value["count"]) != (len(scan.found), most):
        first, again = _SCANS[watch.host.setup.generation.kind]
        clause = again if scan.tries > 1 else first
        text = f"the scan reads {value['count']} extents from {value['start']}, due were {most} from {len(scan.found)}"
        said = Said(watch, (), (breach(clause, text, sent=dict(value)),))
    return said.then(page(watch, due.name, received["total"], received["generation"], received["extents"]))


_SCANS = {
    "sparse": ("A9.read", "A9.restart"),
    "tagged": ("B26.all", "B25.restart"),
    "policy": ("C1.discovery", "C1.discovery"),
}
"""By kind of generation: the clause of a scan's first reading, and of one that begins again."""


def page(watch: Watch, region: str, total: int, generation: int, extents: Sequence[Mapping[str, Any]]) -> Said:
    """A page that a scan has read."""
    found = tuple([Extent(one["dpa"], one["length"], bytes.fromhex(one["tag"]), one["sequence"]) for one in extents])
    cause = model.Page(region, total, generation, found, watch.faults)
    ways = [way for way in watch.ways if _scans(way.host, region)]
    if not ways:
        return Said(watch)
    return begin(watch._replace(ways=tuple(ways), faults=frozenset()), cause, at_once=True)


def _missing(one: Violation) -> bool:
    return "did not come" in one.text


def _scans(host: Host, region: str) -> bool:
    return any(one.name == region and one.scan is not None for one in host.regions)


def passed(watch: Watch, memdev: str, now_ns: int, *, open_write: bool) -> Said:
    """The history is over: what a timer owed by then, and what is due still.

    Records may be answered later, and a write that has not ended (`open_write`) too; what a write caused that has
    ended is there by then.
    """
    said = Said(watch)
    patience = max(EARLY_NS, watch.host.setup.slack_ns)
    if watch.under_way:
        late = open_write or any(isinstance(way.cause or way.handled, model.Records) for way in watch.ways)
        ended = end(watch)
        wanting = [one.clause for one in ended.findings if late and one.outcome == "fail" and _missing(one)]
        worse = tuple([one for one in ended.findings if one.clause not in wanting])
        said = Said(ended.watch, ended.judged, worse, tuple(wanting))
    elif watch.reread and now_ns - watch.since_ns > patience:
        said = Said(watch, (), (breach("L1.until-empty", "the log was not read again after its records were cleared"),))
    if said.watch.by_log:  # its timer runs by the kernel's clock, of which the history's says nothing
        return said
    ticked = begin(said.watch, model.Tick(memdev, now_ns), at_once=True)
    return said.then(ticked).then(end(ticked.watch))


# ---- what is done to the host ----------------------------------------------------------------------------------------

_DAX_FILES = ("uuid", "size")


def cause_of(memdev: str, f: str, value: Mapping[str, Any], kind: str = "tagged") -> Cause | None:
    """The cause that a claim, a use or an unuse is; None where it is none for the model (mapping, onlining).

    `kind`: of the host's generation: what is held counts in C alone.
    """
    if f == "claim":
        return _claimed(value)
    what = value["what"]
    if f == "use" and what == "region":
        return model.MakeRegion(
            value["region"],
            memdev,
            value["start"],
            value["length"],
            value.get("hpa", 0),
            value.get("dynamic", True),
            value.get("mode", ""),
            tuple(value.get("ways", ())),
        )
    if what == "online" or (what == "map" and kind != "policy"):
        return None
    made: dict[tuple[str, str], Any] = {
        ("use", "decoders"): lambda: model.Program(value["region"]),
        ("use", "bind"): lambda: model.BindRegion(value["region"], value.get("driver", "")),
        ("use", "driver"): model.LoadDriver,
        ("use", "dax"): lambda: model.Bind(value["dax"], value["driver"]),
        ("use", "map"): lambda: model.Hold(value["dax"]),
        ("unuse", "region"): lambda: model.DestroyRegion(value["region"]),
        ("unuse", "bind"): lambda: model.UnbindRegion(value["region"]),
        ("unuse", "driver"): model.UnloadDriver,
        ("unuse", "dax"): lambda: model.Unbind(value["dax"]),
        ("unuse", "map"): lambda: model.LetGo(value["dax"]),
    }
    cause: Cause = made[f, what]()
    return cause


def _claimed(value: Mapping[str, Any]) -> Cause:
    """The cause that writing a file is."""
    made: dict[str, Any] = {
        "uuid": lambda: model.Claim(value["dax"], value["text"]),
        "size": lambda: model.Resize(value["dax"], int(value["text"], 0)),
        "create": lambda: model.Create(value["region"]),
        "delete": lambda: model.Delete(value["text"]),
        "policy": lambda: model.SetPolicy(value["region"], value["name"], value["text"]),
        "hotplug": lambda: model.Hotplug(value["dax"], value["text"]),
        "extents": lambda: model.Choose(value["dax"], tuple([int(word, 0) for word in value["text"].split()])),
    }
    cause: Cause = made[value["file"]]()
    return cause


def written(watch: Watch, memdev: str, f: str, value: Mapping[str, Any], error: str) -> Said:
    """A claim, use or unuse that ended with `error` ("" where it succeeded)."""
    if f == "use" and value.get("what") == "fault":
        return Said(watch._replace(faults=frozenset(value["faults"])))
    cause = cause_of(memdev, f, value, watch.host.setup.generation.kind)
    if cause is None:
        return Said(watch)
    fits: list[tuple[Way, Decision]] = []
    misses: list[tuple[Way, Decision]] = []
    absent = ""
    for way in _either(watch):
        try:
            decisions = model.decide(way.host, cause)
        except AskedWrongly as problem:
            absent = str(problem)
            continue
        for decision in decisions:
            (fits if decision.error == error else misses).append((way, decision))
    if not fits:
        return _unfit(watch, f, value, error, misses, absent)
    told, later = _visible(
        watch, [clause for clause in fits[0][1].judged if all(clause in one.judged for _, one in fits)]
    )
    watch = watch._replace(shown=tuple(dict.fromkeys((*watch.shown, *later)))[-64:])
    if any(decision.plan for _, decision in fits):
        return _due(watch, cause, [(way, decision) for way, decision in fits if decision.plan])
    ways = _distinct([way._replace(host=decision.after) for way, decision in fits])
    found = departures(fits[0][1])
    if len(ways) > MOST_WAYS:
        lost = f"more than {MOST_WAYS} states of the host are possible"
        return Said(watch._replace(ways=ways[:1], lost=lost), told, found)
    return Said(watch._replace(ways=ways), told, found)


def _due(watch: Watch, cause: Cause, fits: Sequence[tuple[Way, Decision]]) -> Said:
    """A write after which commands are due; what was due before is over, and where it lacks something, not known."""
    ended = end(watch)
    doubtful = tuple([one.clause for one in ended.findings if one.outcome == "fail"])
    ways = [
        Way(decision.after, None, decision, way.host, cause, decision.dropped or way.dropped) for way, decision in fits
    ]
    after = ended.watch._replace(ways=_distinct(ways), commands=(), under_way=True)
    return Said(after, ended.judged, (), doubtful).then(_fit(after, last=False))


def _either(watch: Watch) -> list[Way]:
    """The ways in which the records that were read are not handled yet, and those in which they are."""
    found: list[Way] = []
    for way in watch.ways:
        found.append(way)
        if way.cause is not None:
            found += [one for one in _handled(way, way.cause) if not _open(one)]
    return found


def _open(way: Way) -> bool:
    """Whether it depends on the answer what the host holds."""
    return way.due is not None and any(expected.clashing for expected in way.due.plan)


_WRITES = {"uuid": "A14.uuid", "size": "A14.any", "create": "A14.create", "delete": "A14.any"}


def _unfit(
    watch: Watch,
    f: str,
    value: Mapping[str, Any],
    error: str,
    misses: Sequence[tuple[Way, Decision]],
    absent: str,
) -> Said:
    """A write that ended as no way permits."""
    by_size = watch.host.setup.generation.claim == "size"
    if not misses:
        if error:
            return Said(watch)
        clause = watch.off or ("A14.create" if by_size else "B29.create")
        return Said(watch, (), (breach(clause, f"{f} succeeded, and by the model {absent}"),))
    _, decision = misses[0]
    known = [clause for clause in decision.judged if clause in CLAUSES and "claim" in CLAUSES[clause].witnesses]
    fallback = _WRITES.get(str(value.get("file"))) if f == "claim" and by_size else None
    if f == "claim" and by_size:
        known = known or list(decision.judged)
    clause = known[0] if known else fallback or ""
    if not clause:
        if error:
            return Said(watch)
        if watch.off:
            return Said(watch, (), (breach(watch.off, f"{_spelt(value)} succeeded, and DCD must be off"),))
        return Said(watch._replace(lost=f"{f} succeeded, where {decision.error} was due"))
    text = f"{_spelt(value)} gave {error or 'success'}, due was {decision.error or 'success'}"
    clauses = [clause, *blame.of_write(clause, decision.error, error, watch.shown)]
    evidence = {"sent": dict(value), "expected": decision.error or "success"}
    return Said(watch, (), tuple([breach(one, text, **evidence) for one in clauses]))


def _spelt(value: Mapping[str, Any]) -> str:
    if "file" in value:
        return (
            f"writing {str(value.get('text', ''))[:64]} to {value.get('dax', value.get('region', ''))}/{value['file']}"
        )
    return f"{value.get('what')} {value.get('region', value.get('dax', ''))}"


def reset(watch: Watch) -> Watch:
    """The host was reset: it knows nothing any more."""
    ways = _distinct([Way(model.decide(way.host, model.Reset())[0].after) for way in watch.ways])
    return Watch(ways, beside=watch.beside, unused=watch.unused, off=watch.off, by_log=watch.by_log)


# ---- what sysfs shows ------------------------------------------------------------------------------------------------


def sight_of(value: Mapping[str, Any]) -> observe.Sight:
    """The Sight that a sysfs reading is."""
    extents = value.get("extents")
    names = value.get("names")
    every = value.get("all_devices")
    return observe.Sight(
        value["region"],
        value.get("mode"),
        value.get("available"),
        None
        if extents is None
        else tuple([observe.SeenExtent(one["name"], one["offset"], one["length"], one.get("uuid")) for one in extents]),
        None if names is None else tuple(names),
        tuple([_seen_dax(one) for one in value.get("devices", ())]),
        None if every is None else tuple(every),
    )


def _seen_dax(one: Mapping[str, Any]) -> observe.SeenDax:
    mappings = one.get("mappings")
    return observe.SeenDax(
        one["name"],
        one.get("size"),
        one.get("uuid"),
        one.get("has_uuid"),
        None if mappings is None else tuple([observe.SeenMapping(*pieces) for pieces in mappings]),
        one.get("driver"),
        one.get("has_driver"),
        one.get("hotplug"),
    )


def looked(watch: Watch, sight: observe.Sight, *, unsettled: bool) -> Said:
    """A sight against every state. `unsettled`: there are records that the host has not read, as far as is known."""
    looks: list[tuple[Way, observe.Look]] = []
    known = False
    for way in _either(watch):
        if any(region.name == sight.region for region in way.host.regions):
            known = True
            looks.append((way, observe.judge(way.host, sight, way.dropped)))
    if not known:
        return Said(watch)
    good = [(way, look) for way, look in looks if not look.findings]
    if not good:
        worst = min([look for _, look in looks], key=lambda look: len(look.findings))
        if watch.under_way or unsettled:
            return Said(watch, (), (), tuple(dict.fromkeys([one.clause for one in worst.findings])))
        blamed = next(way for way, look in looks if look is worst)
        return Said(watch, worst.judged, blame.of_sight(blamed.host, watch.shown, sight, worst.findings))
    judged = good[0][1].judged
    if not watch.under_way:
        watch = watch._replace(ways=_distinct([way for way, _ in good]))
    if sight.extents is None and not sight.devices:
        return Said(watch, judged)
    mapped = any(device.mappings for device in sight.devices)
    confirmed = [clause for clause in watch.shown if (clause in _MAPPED) <= mapped and clause not in judged]
    watch = watch._replace(shown=tuple([clause for clause in watch.shown if clause not in (*confirmed, *judged)]))
    return Said(watch, (*judged, *confirmed))


# ---- what is due, for an answer that is inferred ---------------------------------------------------------------------


def _due_now(watch: Watch, memdev: str, now_ns: int) -> list[Decision]:
    ways = [option for way in watch.ways for option in _options(way)]
    found = [way.due for way in ways if way.due is not None]
    if not found and not watch.under_way:
        found = [way.due for way in _ticked(watch, memdev, now_ns) if way.due is not None]
    return found


def demanded(watch: Watch, memdev: str, f: str, ranges: Sequence[tuple[int, int]], now_ns: int) -> str | None:
    """The clause by which a host must send this command, if it is due in some way; None if it is in none."""
    for decision in _due_now(watch, memdev, now_ns):
        for expected in decision.plan:
            allowed = {*expected.ranges, *expected.clashing}
            if expected.f != f or not set(ranges) <= allowed:
                continue
            if f == "give_back" or set(expected.ranges) <= set(ranges) or len(ranges) == expected.most:
                special = [clause for clause in decision.judged if clause in _SPECIAL]
                special += ["Q7"] if "Q7" in decision.quirks else []
                return (*special, expected.order or expected.clause)[0]
    return None


_SPECIAL = frozenset(
    ("A5.again", "A6.failed", "A7.order", "A10.acknowledge", "B2.stale", "B15.duplicate", "B17.released",
     "B19.acknowledge", "B20.unmatched", "B26.answered", "B26.failed")
)  # fmt: skip
"""Clauses by which a generation sends what the device's rules do not permit its host."""


def due_order(watch: Watch, ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """These ranges in the order in which an answer is due that names just them; as they are where none is."""
    for way in watch.ways:
        for option in _options(way):
            for expected in () if option.due is None else option.due.plan:
                if expected.f == "answer" and sorted(expected.ranges) == sorted(ranges):
                    return expected.ranges
    return tuple(ranges)


def order_clause(watch: Watch) -> str:
    """The clause of the order of the answer that is due, "" where any order will do."""
    for way in watch.ways:
        for option in _options(way):
            for expected in () if option.due is None else option.due.plan:
                if expected.f == "answer":
                    return expected.order
    return ""


def due_ranges(watch: Watch, f: str) -> tuple[tuple[int, int], ...] | None:
    """The ranges of a command that is due now; None where none is."""
    due = [expected for way in watch.ways if way.due is not None for expected in way.due.plan if expected.f == f]
    return due[0].ranges if watch.under_way and due else None


def unseen(watch: Watch, f: str) -> Said:
    """A command that is due and that no line of a log would tell of is taken to have come (B26.answered)."""
    ranges = due_ranges(watch, f)
    if ranges is None:
        return Said(watch)
    return sent(watch, Command(f, watch.host.memdevs[0].name, ranges))._replace(judged=())


def unasked(watch: Watch, memdev: str, now_ns: int) -> Said:
    """Commands that came while nothing was due but what a timer owes."""
    if not watch.commands:
        return Said(watch)
    ticked = watch._replace(under_way=True, ways=_ticked(watch, memdev, now_ns))
    return end(ticked)
