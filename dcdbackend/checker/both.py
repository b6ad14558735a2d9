"""Device and host as one model, so that the search finds one order of events that both keep, or none.

`Pair` is a state of the device (`model.whole`) and what is known of its Linux host (`host.Watch`). A step is a step of
each. Where a kernel sends no command that a witness sees, its commands are inferred, here: from the records that the
trace shows, from what its log says that it added, released and cleared, and from the device's list; `inferred` in the
evidence says so, and from what. What the device's rules (DEV-6, DEV-7) forbid a host and its generation demands is a
departure of that generation, named by its clause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..alarms import alarms_of
from ..extents import Extent
from ..model import whole as reference
from ..model.permitted import Command, breach
from ..model.state import Completed, Next, State, Violation, lose
from . import host as hosts
from . import tool
from .kernel import Page, notes_of, pages_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model.state import Chain, Config
    from .host import Said, Watch
    from .living import Living
    from .search import Model

INFERRED = "the kernel's log, the trace of the records, and the device's list"
WRITES = frozenset(("claim", "use", "unuse"))
_BY_HOST = ("host.",)
_EXCUSED = ("DEV-6.", "DEV-7.")
_KIND = {"add": 0, "release": 1}
_CONFIGURED = 3


class Traced(NamedTuple):
    """A cxl_dynamic_capacity trace event."""

    handle: int
    type: int
    dpa: int
    length: int
    tag: str
    sequence: int
    region: int = 0


class Unjudged:
    """A device that is judged elsewhere: every step is right, and nothing is known of it."""

    def __init__(self) -> None:
        self.initial, self.key, self.describe = reference.initial, reference.key, reference.describe

    def judge_regions(self, config: Config, /) -> tuple[tuple[str, ...], tuple[Violation, ...]]:
        """Nothing is said of them."""
        return (), ()

    def step(self, state: State, op: Completed, /) -> Next:
        """Nothing changes."""
        return Next(state)

    def follow(self, state: State, op: Completed, /) -> State:
        """Nothing changes."""
        return state

    def possible(self, state: State, op: Completed, /) -> tuple[State, ...]:
        """Nothing may have changed."""
        return ()

    def deadly(self, state: State, f: str, sent: dict[str, Any], /) -> str | None:
        """Whether it died is said elsewhere."""
        return None


class Pair(NamedTuple):
    """`device` and its host. `traces`: events that no log line has told of yet."""

    device: State
    watch: Watch
    traces: tuple[Traced, ...] = ()

    @property
    def chains(self) -> tuple[Chain, ...]:
        """The offers that are pending."""
        return self.device.chains


class Both:
    """A model for the search: a device model, and a Linux host's. `first`: what is known of the host at the start.

    `tags`: by device, what records have brought; all devices of one host share it, and it only grows. `living`: which
    tags certainly live on its other devices; None where nobody watches these.
    """

    effects = WRITES

    def __init__(
        self,
        device: Model,
        name: str,
        first: Watch,
        tags: dict[str, set[bytes]] | None = None,
        living: Living | None = None,
    ) -> None:
        self._device = device
        self._living = living
        self._name = name
        self._first = first
        self._tags = {} if tags is None else tags
        self._tags.setdefault(name, set())

    # ---- the search's questions

    def initial(self, config: Config, /) -> Pair:
        """Device and host at the start."""
        return Pair(self._device.initial(config), self._first)

    def judge_regions(self, config: Config, /) -> tuple[tuple[str, ...], tuple[Violation, ...]]:
        """DEV-1."""
        return self._device.judge_regions(config)

    def key(self, state: Pair, /) -> tuple[object, ...]:
        """What makes two states the same: the device's key, and all of the host but what sysfs may confirm later."""
        return (self._device.key(state.device), state.watch._replace(shown=(), since_ns=0), state.traces)

    def deadly(self, state: Pair, f: str, sent: dict[str, Any], /) -> str | None:
        """The departure by which this command kills the device."""
        return self._device.deadly(state.device, f, sent)

    def describe(self, state: Pair, /) -> dict[str, Any]:
        """Both in readable form."""
        found = reference.describe(state.device)
        watch = state.watch
        shown = watch.host
        found["host"] = {
            "generation": shown.setup.generation.name,
            "regions": [region.name for region in shown.regions],
            "extents": [f"{one.region} {shown_extent(one)}" for one in shown.extents[:16]],
            "dax": [f"{one.name} of {one.size} bytes, {one.driver or 'unbound'}" for one in shown.devices[:16]],
            "staged": [str(one.extent) for memdev in shown.memdevs for one in memdev.staged[:16]],
        }
        if len(watch.ways) > 1:
            found["host"]["ways"] = len(watch.ways)
        if watch.lost:
            found["host"]["lost"] = watch.lost
        return found

    def possible(self, state: Pair, op: Completed, /) -> tuple[Pair, ...]:
        """What an operation of unknown outcome may have led to, if it took effect."""
        if op.f in WRITES:
            said = self._host(state, op._replace(type="ok", received={}))
            return () if said.watch == state.watch else (state._replace(watch=said.watch),)
        return tuple([state._replace(device=one) for one in self._device.possible(state.device, op)])

    def sent(self, state: Pair, op: Completed, /) -> Next:
        """A host's command whose outcome nobody knows: sent it was, so far the host can be judged."""
        if op.f not in ("answer", "give_back", "clear") or not op.process.startswith(_BY_HOST):
            return Next(state)  # type: ignore[arg-type]
        said = self._host(state, op)
        return Next(state._replace(watch=said.watch), said.judged, said.findings, said.unknown)  # type: ignore[arg-type]

    def lost(self, state: Pair, /) -> str:
        """Why the host is not judged any more, or ""."""
        return state.watch.lost

    def finish(self, state: Pair, now_ns: int, still_open: frozenset[str], /) -> Next:
        """The history's end, for the host."""
        if state.watch.lost:
            return Next(state, (), (), ())  # type: ignore[arg-type]
        said = hosts.passed(state.watch, self._name, now_ns, open_write=bool(still_open & WRITES))
        return Next(state._replace(watch=said.watch), said.judged, said.findings, said.unknown)  # type: ignore[arg-type]

    def step(self, state: Pair, op: Completed, /) -> Next | Violation:
        """A step of both."""
        if op.f == "log" and op.type == "ok":
            return self._log(state, op, following=False)
        found = self._device.step(state.device, op)
        said = self._host(state, op)
        if op.f == "sysfs" and op.type == "ok" and op.received.get("tools"):
            held, differ = tool.compared(op.received["tools"])
            said = said._replace(judged=said.judged + held, findings=said.findings + differ)
        if isinstance(found, Violation):
            also = self._excused(state.watch, op, found.also)
            return found._replace(also=(*also, *said.findings), judged=found.judged + said.judged)
        after = Pair(found.state, said.watch, state.traces)
        if op.f == "trace" and op.type == "ok":
            after = after._replace(traces=(*state.traces, *[_traced(one) for one in op.received["events"]]))
        findings = (*self._excused(state.watch, op, found.findings), *said.findings)
        return Next(after, found.judged + said.judged, findings, found.unknown + said.unknown)  # type: ignore[arg-type]

    def follow(self, state: Pair, op: Completed, /) -> Pair:
        """A state to go on with after the device broke a rule."""
        if op.f == "log" and op.type == "ok":
            gone_on = self._log(state, op, following=True)
            assert isinstance(gone_on, Next)
            after: Any = gone_on.state
            return Pair(*after)
        traces = state.traces
        if op.f == "trace" and op.type == "ok":
            traces = (*traces, *[_traced(one) for one in op.received["events"]])
        return Pair(self._device.follow(state.device, op), self._host(state, op).watch, traces)

    # ---- the host's part

    def _host(self, state: Pair, op: Completed) -> Said:
        """What an operation says of the host."""
        watch = self._beside(state.watch, op)
        if watch.lost and op.f != "reset":
            return hosts.Said(watch)
        by_host = op.f in WRITES or op.process.startswith(_BY_HOST)
        if by_host and self._memdev(op) not in [memdev.name for memdev in watch.host.memdevs]:
            return hosts.Said(watch._replace(lost=f"{op.f} is of a host that the header does not name"))
        if op.f in WRITES:
            if op.type == "info":
                return hosts.Said(watch)
            error = "" if op.type == "ok" else op.received["error"]
            return hosts.written(watch, self._memdev(op), op.f, op.sent, error)
        if op.f == "reset":
            return hosts.Said(hosts.reset(watch))
        if op.type == "ok" and op.f == "sysfs":
            unsettled = bool(state.traces) or (watch.by_log and bool(state.device.log))
            return hosts.looked(watch, hosts.sight_of(op.received), unsettled=unsettled)
        if op.type == "ok" and op.f == "trace":
            return self._lost_lines(watch, op, "trace events")
        if op.type == "ok" and op.f in ("extents", "fm_extents") and watch.order is not None:
            return _ordered(watch, op.received, appends=bool(state.device.config.departures))
        if not op.process.startswith(_BY_HOST):
            return hosts.Said(watch)
        if op.f == "events" and op.type == "ok" and op.sent["log"] == 4 and "records" in op.received:
            return hosts.read(watch, self._memdev(op), op.received["records"], op.end_ns)
        if op.f in ("answer", "give_back", "clear"):
            return hosts.command(watch, self._memdev(op), op.f, op.sent, op.end_ns)
        if op.f == "extents" and op.type == "ok":
            return hosts.listed(watch, self._memdev(op), op.sent, op.received)
        return hosts.Said(watch)

    def _memdev(self, op: Completed) -> str:
        """The device as the host has it that the operation is of."""
        return hosts.name_of(op.sent.get("device", self._name), op.sent.get("host_id", 0))

    def _beside(self, watch: Watch, op: Completed) -> Watch:
        """The watch, with the tags that the host's other devices have brought by now."""
        if op.f in ("events", "trace") and op.type == "ok":
            for one in op.received.get("records", op.received.get("events", ())):
                if "tag" in one:
                    self._tags[self._name].add(bytes.fromhex(one["tag"]))
        if len(self._tags) == 1:
            return watch
        others = [found for name, found in self._tags.items() if name != self._name]
        return watch._replace(beside=frozenset().union(*others))

    @staticmethod
    def _lost_lines(watch: Watch, op: Completed, what: str) -> Said:
        lost = op.received.get("lost", 0)
        if not lost:
            return hosts.Said(watch._replace(by_log=True))
        return hosts.Said(watch._replace(lost=watch.lost or f"{lost} {what} were lost", by_log=True))

    def _excused(self, watch: Watch, op: Completed, findings: Sequence[Violation]) -> tuple[Violation, ...]:
        """The host's breaches of the device's rules; those that its generation demands are its departures."""
        if op.f not in ("answer", "give_back") or not findings or watch.lost or "ranges" not in op.sent:
            return tuple(findings)
        named = [(start, length) for start, length in op.sent["ranges"]]
        why = hosts.demanded(watch, self._memdev(op), op.f, named, op.end_ns)
        if why is None:
            return tuple(findings)
        generation = watch.host.setup.generation.name
        excused = []
        for one in findings:
            if one.subject == "host" and one.outcome == "fail" and one.clause.startswith(_EXCUSED):
                text = f"{one.text}; generation {generation} does so by {why}"
                one = one._replace(outcome="departure", text=text, departure=why)
            excused.append(one)
        return tuple(excused)

    # ---- a kernel's log

    def _log(self, state: Pair, op: Completed, *, following: bool) -> Next | Violation:
        """Lines of the kernel's log, in the light of the tags that live on the host's other devices meanwhile."""
        certain = frozenset() if self._living is None else self._living.certain(self._name, op.end_ns)
        if not certain:
            return self._lines(state, op, following=following)
        found = self._lines(state._replace(watch=hosts.with_far(state.watch, certain)), op, following=following)
        if isinstance(found, Violation):
            return found
        after: Any = found.state
        return found._replace(state=after._replace(watch=hosts.without_far(after.watch)))

    def _lines(self, state: Pair, op: Completed, *, following: bool) -> Next | Violation:
        """Lines of the kernel's log: what it did since the last ones, inferred, through both models."""
        notes = notes_of(op.received["lines"])
        if "events" in op.received:
            state = state._replace(traces=(*state.traces, *[_traced(one) for one in op.received["events"]]))
        first = self._lost_lines(state.watch, op, "lines of the kernel's log")
        gathered = _Gathered(state._replace(watch=first.watch._replace(order=None)), op)
        self._alarms(gathered, op)
        if op.received.get("lost"):
            gathered.device(lose(state.device, first.watch.lost))
            return gathered.next()
        if mute := self._first.lost:  # what it does tell of is not the whole, and nothing is inferred from it
            if notes or state.traces:
                gathered.unknown.append("WITNESS.agree")
                gathered.device(lose(state.device, mute))
                gathered.pair = gathered.pair._replace(traces=())
            return gathered.next()
        self._scans(gathered, [note for note in notes if note.kind == "scanned"])
        pages = pages_of(notes)
        told = sum(len(page.records) for page in pages)
        traced = sum(1 for one in state.traces if one.type in _KIND.values())
        if told != traced and (told or pages):
            text = f"the log tells of {told} records, the trace of {traced}"
            gathered.found(_witness(text))
        if not pages and state.traces:
            gathered.unknown.append("WITNESS.agree")
            lost = "records were traced, and the kernel's log tells nothing of them: switch dynamic debug on"
            gathered.watch(gathered.pair.watch._replace(lost=lost))
            gathered.device(lose(gathered.pair.device, lost))
        for page in pages:
            broken = self._expired(gathered, page) if page.expired else self._page(gathered, page, following)
            if broken is not None:
                return gathered.violation(broken)
        return gathered.next()

    @staticmethod
    def _alarms(gathered: _Gathered, op: Completed) -> None:
        """What is wrong whatever the rules: WARN, BUG, Oops, lockdep, KASAN, hung tasks."""
        alarms = alarms_of(op.received["lines"])
        for alarm in alarms:
            evidence = {"kind": alarm.kind, "t_ns": alarm.time_ns}
            gathered.findings.append(breach("KERNEL.alarm", f"{alarm.kind}: {alarm.text[:200]}", **evidence))
        if not alarms:
            gathered.judged.append("KERNEL.alarm")

    def _scans(self, gathered: _Gathered, scanned: Sequence[Any]) -> None:
        """Pages of the extent list that the kernel has read; and those that it should have."""
        if gathered.lost:
            return
        by_kind = gathered.pair.watch.host.setup.generation.kind
        clause = "A9.read" if by_kind == "sparse" else "B26.all"
        for note in scanned:
            watch = gathered.pair.watch
            due = next((one for one in watch.host.regions if one.scan is not None), None)
            if due is None:
                gathered.found(breach(clause, "the extent list was read, and no scan was due"))
                continue
            listed = [
                {"dpa": one.start, "length": one.length, "tag": one.tag.hex(), "sequence": one.sequence}
                for one in gathered.pair.device.accepted
            ]
            gathered.said(hosts.page(watch, due.name, note.number, note.generation, listed[: note.number]))
            self._recovered(gathered)
        for region in gathered.pair.watch.host.regions:
            if region.scan is not None:
                gathered.found(breach(clause, f"the extent list was not read for {region.name}"))
                stopped = region._replace(scan=None, scanned=True)
                ways = tuple([way._replace(host=way.host.with_region(stopped)) for way in gathered.pair.watch.ways])
                gathered.watch(gathered.pair.watch._replace(ways=ways))

    def _recovered(self, gathered: _Gathered) -> None:
        """Some generations answer what a scan found (B26.answered), which no line tells of: taken to have come."""
        ranges = hosts.due_ranges(gathered.pair.watch, "answer")
        gathered.said(hosts.unseen(gathered.pair.watch, "answer"))
        if ranges is None:
            return
        sent = {"device": self._name, "flags": 0, "ranges": [list(pair) for pair in ranges]}
        found, _ = self._ended(gathered.pair.device, Completed("answer", sent, "ok", {"rc": 0}))
        if not isinstance(found, Violation):
            gathered.device(found.state)

    def _expired(self, gathered: _Gathered, page: Page) -> Violation | None:
        """The time limit of an open chain (B3): an empty answer, by the log's word."""
        sent: dict[str, Any] = {"device": self._name, "flags": 0, "ranges": []}
        if not gathered.lost:
            gathered.said(hosts.command(gathered.pair.watch, self._name, "answer", sent, page.time_ns))
        completed = Completed("answer", sent, "ok", {"rc": 0})
        found = self._device.step(gathered.pair.device, completed)
        if isinstance(found, Violation):
            gathered.device(self._device.follow(gathered.pair.device, completed))
            return found
        gathered.device(found.state)
        gathered.judged += [one for one in found.judged if one not in _NOT_TRACED]
        return None

    def _page(self, gathered: _Gathered, page: Page, following: bool) -> Violation | None:
        """One reading of the log by the kernel: records to both, then the commands that it must have sent."""
        clause = "A3.more" if gathered.pair.watch.host.setup.generation.kind == "sparse" else "B2.close"
        for start, length in page.early:
            gathered.found(breach(clause, f"0x{start:x}+0x{length:x} appeared in an open chain"))
        records, open_ends = self._records(gathered, page)
        operations = [] if page.loose else [("events", {"log": 4}, self._reply(gathered.pair.device, records))]
        if not gathered.lost and records:
            gathered.said(hosts.read(gathered.pair.watch, self._name, records, page.time_ns))
        told = [one for one in page.told if one[0] != "answer" or one[1] not in open_ends]
        answers = [page.answered(at) for f, at, _ in told if f == "answer"]
        orders = [hosts.due_order(gathered.pair.watch, pairs) for pairs in answers]
        named = orders[0] if len(orders) == 1 else ()
        commands = _commands(self._name, told, orders)
        for command in commands:
            operations.append(_operation(command))
        excuses = [(f, sent) for f, sent, _ in operations]
        before = gathered.pair.watch
        for (f, sent), received in zip(excuses, [reply for _, _, reply in operations], strict=True):
            completed = Completed(f, {"device": self._name, **sent}, "ok", received)
            found, completed = self._ended(gathered.pair.device, completed)
            if f == "answer" and completed.type == "fail":
                named = ()
            if isinstance(found, Violation):
                also = self._excused(before, completed, found.also)
                if not following:
                    gathered.findings += also
                    gathered.judged += found.judged
                    return found
                gathered.device(self._device.follow(gathered.pair.device, completed))
                continue
            gathered.device(found.state)
            gathered.judged += [one for one in found.judged if one not in _NOT_TRACED]
            for one in self._excused(before, completed, found.findings):
                gathered.found(one)
            gathered.unknown += found.unknown
        self._answered(gathered, page, commands, named)
        return None

    def _ended(self, device: State, completed: Completed) -> tuple[Next | Violation, Completed]:
        """A command that nobody saw, as the device must have ended it: success, or else the code that fits."""
        found = self._device.step(device, completed)
        if not isinstance(found, Violation) or completed.f not in _REFUSALS:
            return found, completed
        for code in _REFUSALS[completed.f]:
            refused = completed._replace(type="fail", received={"rc": code})
            other = self._device.step(device, refused)
            if not isinstance(other, Violation):
                return other, refused
        return found, completed

    def _answered(
        self, gathered: _Gathered, page: Page, commands: Sequence[Command], named: Sequence[tuple[int, int]]
    ) -> None:
        """The commands against what was due; the order of the answer stays open until a list shows it."""
        watch = gathered.pair.watch
        if watch.lost:
            return
        order = hosts.order_clause(watch)
        for command in commands:
            watch = watch._replace(commands=(*watch.commands, command))
        said = hosts.end(watch) if watch.under_way else hosts.unasked(watch, self._name, page.time_ns)
        if len(named) > 1 and order and not [one for one in said.findings if one.outcome == "fail"]:
            said = said._replace(watch=said.watch._replace(order=(order, tuple(named))))
        gathered.said(said)

    def _records(self, gathered: _Gathered, page: Page) -> tuple[list[dict[str, Any]], set[int]]:
        """The records of a page: kind and place by the log, the rest by the trace; More as the device queued it.

        And the places of those that did not end their chain, and with which nothing came: the kernel dropped them.
        """
        traces = list(gathered.pair.traces)
        records = []
        open_ends: set[int] = set()
        queued = list(gathered.pair.device.log)
        for at, (kind, start, length, more) in enumerate(page.records):
            records += self._untold(traces)
            wanted = (_KIND[kind], start, length)
            sent = next((one for one in queued if (one.type, one.dpa, one.length) == wanted), None)
            if sent is not None:
                more = sent.more
                queued = [one for one in queued if one is not sent]
            if more and not page.answered(at):
                open_ends.add(at)
            traced = traces.pop(0) if traces else None
            if traced is not None and (traced.type, traced.dpa, traced.length) != (_KIND[kind], start, length):
                text = f"the log tells of {kind} 0x{start:x}+0x{length:x}, the trace of type {traced.type} "
                gathered.found(_witness(f"{text}0x{traced.dpa:x}+0x{traced.length:x}"))
            shown = Traced(traced.handle, _KIND[kind], start, length, traced.tag, traced.sequence) if traced else None
            records.append(_record(shown or Traced(0, _KIND[kind], start, length, "00" * 16, 0), more=more))
        if not page.loose:
            records += self._untold(traces)
        gathered.pair = gathered.pair._replace(traces=tuple(traces))
        return records, open_ends

    @staticmethod
    def _untold(traces: list[Traced]) -> list[dict[str, Any]]:
        """The records at the head of the trace of which the log has no line: neither an add nor a release."""
        found = []
        while traces and traces[0].type not in _KIND.values():
            found.append(_record(traces.pop(0), more=False))
        return found

    @staticmethod
    def _reply(device: State, records: list[dict[str, Any]]) -> dict[str, Any]:
        """The reply to 0100h that carried these records. Its flags no witness saw: they are as they must be."""
        lost = device.notes.overflow
        flags = (1 if lost else 0) | (2 if len(device.log) > len(records) and records else 0)
        return {"rc": 0, "flags": flags, "overflow_count": lost, "records": records}


_NOT_TRACED = frozenset(
    ("DEV-16.remain", "DEV-16.overflow", "DEV-4.validity", "DEV-4.region", "DEV-20.host", "DEV-9.answers",
     "DEV-8.served", "DEV-10.payload")
)  # fmt: skip
"""Clauses of 0100h, 0101h, 4802h and 4803h that no trace or log line shows."""


_RANGES_REFUSED = (0x0F, 0x1E, 0x1D, 0x02)
_REFUSALS = {"answer": _RANGES_REFUSED, "give_back": _RANGES_REFUSED, "clear": (0x0E, 0x02)}
"""What a device says to a command that it does not take (DEV-8, DEV-16)."""


class Beside(Both):
    """A device whose host is judged elsewhere, with other devices: here its generation excuses its commands."""

    def _host(self, state: Pair, op: Completed) -> Said:
        return hosts.Said(super()._host(state, op).watch._replace(lost=""))

    def finish(self, state: Pair, now_ns: int, still_open: frozenset[str], /) -> Next:
        """Nothing is said of the host."""
        return Next(state)  # type: ignore[arg-type]


class _Gathered:
    """What a log operation has led to so far."""

    def __init__(self, pair: Pair, op: Completed) -> None:
        self.pair = pair
        self.judged: list[str] = []
        self.findings: list[Violation] = []
        self.unknown: list[str] = []
        self._op = op

    def watch(self, watch: Watch) -> None:
        """The host is now so."""
        self.pair = self.pair._replace(watch=watch)

    def device(self, state: State) -> None:
        """The device is now so."""
        self.pair = self.pair._replace(device=state)

    def said(self, said: Said) -> None:
        """Something was said of the host."""
        self.watch(said.watch)
        self.judged += said.judged
        self.unknown += said.unknown
        for one in said.findings:
            self.found(one)

    @property
    def lost(self) -> bool:
        """Whether the host is not judged any more; its commands are inferred all the same, for the device."""
        return bool(self.pair.watch.lost)

    def found(self, violation: Violation) -> None:
        """A finding, with where it comes from."""
        self.findings.append(violation._replace(evidence={**violation.evidence, "inferred": INFERRED}))

    def next(self) -> Next:
        """All of it."""
        broken = {one.clause for one in self.findings if one.outcome == "fail"}
        judged = tuple([clause for clause in self.judged if clause not in broken])
        return Next(self.pair, judged, tuple(self.findings), tuple(self.unknown))  # type: ignore[arg-type]

    def violation(self, first: Violation) -> Violation:
        """The device broke a rule on the way."""
        evidence = {**first.evidence, "inferred": INFERRED}
        return first._replace(evidence=evidence, also=tuple(self.findings), judged=tuple(self.judged))


def shown_extent(one: Any) -> str:
    """An online extent to read."""
    return str(Extent(one.start, one.length, one.tag))


def _witness(text: str) -> Violation:
    return Violation("WITNESS.agree", "witness", "fail", text, {})


def _traced(one: dict[str, Any]) -> Traced:
    region = one.get("region", 0) if one["type"] == _CONFIGURED else 0
    return Traced(one["handle"], one["type"], one["dpa"], one["length"], one["tag"], one["sequence"], region)


def _record(one: Traced, *, more: bool) -> dict[str, Any]:
    """A traced record as a reading of the log has it; what no trace shows is as it must be."""
    return {
        "handle": one.handle,
        "type": one.type,
        "more": more,
        "validity": 0,
        "host_id": 0,
        "region": one.region,
        "dpa": one.dpa,
        "length": one.length,
        "tag": one.tag,
        "sequence": one.sequence,
        "available_extents": 0,
        "available_tags": 0,
    }


def _commands(
    name: str, told: Sequence[tuple[str, int, int]], answers: Sequence[Sequence[tuple[int, int]]]
) -> list[Command]:
    """The commands that a page led to, in order; an answer, which no line shows, where its chain closed."""
    found: list[Command] = []
    left = list(answers)
    for f, start, length in told:
        if f == "answer":
            found.append(Command("answer", name, tuple(left.pop(0))))
        elif f == "give_back":
            found.append(Command("give_back", name, ((start, length),)))
        elif found and found[-1].f == "clear":
            found[-1] = found[-1]._replace(handles=(*found[-1].handles, start))
        else:
            found.append(Command("clear", name, handles=(start,)))
    return found


def _operation(command: Command) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A command as an operation that succeeded."""
    if command.f == "clear":
        return "clear", {"log": 4, "flags": 0, "handles": list(command.handles)}, {"rc": 0}
    return command.f, {"flags": 0, "ranges": [list(pair) for pair in command.ranges]}, {"rc": 0}


def _ordered(watch: Watch, received: dict[str, Any], *, appends: bool) -> Said:
    """The device's list shows what an inferred answer named, and its order where new extents are appended (QEMU)."""
    assert watch.order is not None
    clause, due = watch.order
    seen = [(one["dpa"], one["length"]) for one in received.get("extents", ())]
    came = tuple([pair for pair in seen if pair in due])
    watch = watch._replace(order=None)
    if sorted(came) != sorted(due):
        text = f"by the kernel's log the host took {len(due)} extents, the device's list has {len(came)} of them"
        return hosts.Said(watch, (), (_witness(text),))
    if not appends:
        return hosts.Said(watch)
    if came != due:
        evidence = {"expected": due, "received": came, "inferred": INFERRED}
        return hosts.Said(watch, (), (breach(clause, "the answer named its ranges in another order", **evidence),))
    return hosts.Said(watch, (clause,))
