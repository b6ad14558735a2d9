"""History to verdict: `check(History(file)) -> Verdict`, the history alone, no VM.

`search` tries the orders that overlapping operations may have taken and steps the model; `verdict` holds what comes of
it; `explain` renders a finding to read; `notation` writes and reads small histories. What the rules are is `model/`'s
business, how a file is read `history`'s.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from ..errors import BadHistory
from ..model import departures as known_departures
from ..model import whole as reference
from ..model.state import config_of
from . import host as hosts
from .both import Beside, Both, Unjudged
from .living import RELEVANT as LIVING
from .living import Living
from .search import SUBJECT_OF, Judge, Limits, Model
from .shape import HOST_SIDE, misshapen, odd, odd_device
from .verdict import Counts, Finding, Verdict
from .witnesses import RELEVANT, Witnesses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..history import Header, History, Op

__all__ = ["Counts", "Finding", "Limits", "Verdict", "check"]

LOOK_AHEAD = 4096
JOINT = "+"
"""Between the names of devices whose host is judged as one."""


def check(
    lines: History | Iterable[Op],
    header: Header | None = None,
    *,
    device: Model = reference,
    departures: frozenset[str] | None = None,
    limits: Limits | None = None,
) -> Verdict:
    """What the rules say of a history. `lines`: a `History` (its header is taken), or operations and their header.

    `device`: the reference model. `departures`: those that the devices are known to have; by default those of the
    QEMU version in the header, none where it names none. Errors: BadHistory, naming the line.
    """
    head: Header = header if header is not None else lines.header  # type: ignore[union-attr]
    if departures is None:
        version = (head.qemu or {}).get("version")
        departures = known_departures.applicable(version) if isinstance(version, str) else frozenset()
    reader = _Reader(iter(lines))
    bounds = limits or Limits()
    judges: dict[str, Judge] = {}
    tags: dict[str, set[bytes]] = {}
    joined = hosts.together(head) and bool(head.devices)
    living = _living(head)
    for described in head.devices:
        wrong_device = odd_device(described)
        if wrong_device is not None:
            raise BadHistory(wrong_device, line=1)
        config = config_of(described, departures=departures)
        name: str = described["name"]
        watch = hosts.watch_of(hosts.apart(head) if joined else head, described)
        if watch is None:
            judges[name] = Judge(name, config, device, reader.end_of, bounds)
        else:
            both = (Beside if joined else Both)(device, name, watch, tags, living)
            judges[name] = Judge(name, config, both, reader.end_of, bounds, both)
    watchers = {
        described["name"]: Witnesses(described, judges[described["name"]].tally)
        for described in head.devices
        if head.host.get("generation", "U") == "U"
    }
    joint: Judge | None = None
    first = hosts.watch_of(head, *head.devices) if joined else None
    if first is not None:
        both = Both(Unjudged(), head.devices[0]["name"], first)
        config = config_of(head.devices[0], departures=departures)
        joint = Judge(JOINT.join(judges), config, both, reader.end_of, bounds, both)
    operations = _feed(reader, judges, watchers, joint, living)
    warnings = [*getattr(lines, "warnings", ())]
    counts: dict[tuple[str, str, str], Counts] = {}
    findings: list[Finding] = []
    for judge in (*judges.values(), *([joint] if joint is not None else ())):
        judge.finish()
        counts.update(judge.tally.close(SUBJECT_OF))
        findings += judge.tally.findings
        warnings += judge.warnings
    verdict = Verdict(
        counts=counts,
        findings=tuple(findings),
        warnings=tuple(warnings),
        operations=operations,
        seen=seen_of(head),
    )
    if verdict.nothing_judged:
        return Verdict(
            counts=counts,
            findings=verdict.findings,
            warnings=(*warnings, "nothing was judged: no operation in the history tests a rule"),
            operations=operations,
            seen=verdict.seen,
        )
    return verdict


def seen_of(header: Header) -> str:
    """Whether what is judged was seen on the real thing: `real`, `recorded` or `simulated`."""
    if header.backend == "emulator" or header.host.get("simulated"):
        return "simulated"
    return "recorded" if header.backend == "recorded" else "real"


def _living(head: Header) -> Living | None:
    """What the devices of one Linux host know of each other's tags; None where there is but one, or several hosts."""
    served = [one["hosts"] for one in head.devices if isinstance(one.get("hosts"), list)]
    if hosts.generation_of(head) is None or len(head.devices) < 2 or any(len(ids) > 1 for ids in served):
        return None
    return Living([one["name"] for one in head.devices])


def _feed(
    reader: _Reader,
    judges: dict[str, Judge],
    watchers: dict[str, Witnesses],
    joint: Judge | None = None,
    living: Living | None = None,
) -> int:
    """Every line to the judge of its device, and to the `joint` one; how many operations ended. Errors: BadHistory."""
    begun: dict[int, Judge] = {}
    alive: dict[int, Op] = {}
    watched: dict[int, tuple[Witnesses, Op]] = {}
    operations = 0
    for op in reader:
        try:
            if op.f in HOST_SIDE and (wrong_form := odd(op)) is not None:
                raise BadHistory(wrong_form, line=op.n + 1)
            if op.type == "invoke":
                judge = judges.get(op.value.get("device", ""))
                if judge is None:
                    raise _unknown_device(op, judges)
                begun[op.op] = judge
                if living is not None and op.f in LIVING:
                    alive[op.op] = op
                    living.begin(op)
                judge.begin(op)
                if joint is not None:
                    joint.begin(op)
                if op.f in RELEVANT and op.value["device"] in watchers:
                    watched[op.op] = (watchers[op.value["device"]], op)
                    watched[op.op][0].begin(op)
            else:
                ended = begun.pop(op.op, None)
                if ended is None:
                    raise BadHistory(f"{op.type} of operation {op.op}, which is not open", line=op.n + 1)
                operations += 1
                if living is not None and op.op in alive:
                    living.end(alive.pop(op.op), op)
                ended.end(op)
                if joint is not None:  # the guest's own judgement is of its device
                    joint.end(op._replace(value={key: one for key, one in op.value.items() if key != "judged"}))
                if op.op in watched:
                    watcher, begin = watched.pop(op.op)
                    watcher.end(begin, op)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            wrong = misshapen(op) or reader.misshapen()
            if wrong is None:
                raise
            raise BadHistory(wrong[1], line=wrong[0].n + 1) from error
    return operations


def _unknown_device(op: Op, judges: dict[str, Judge]) -> BadHistory:
    named: Any = op.value.get("device")
    return BadHistory(f"{op.f} is of device {named!r}; the header has {', '.join(judges) or 'none'}", line=op.n + 1)


class _Reader:
    """The lines in order, with a look ahead for the end of an operation that is open: bounded, so memory is."""

    def __init__(self, lines: Iterator[Op]) -> None:
        self._lines = lines
        self._ahead: deque[Op] = deque()
        self._ends: dict[int, Op] = {}
        self._recent: deque[Op] = deque(maxlen=64)

    def __iter__(self) -> Iterator[Op]:
        ahead, ends, recent = self._ahead, self._ends, self._recent
        while True:
            if ahead:
                op = ahead.popleft()
                ends.pop(op.op, None) if op.type != "invoke" else None
            else:
                found = next(self._lines, None)
                if found is None:
                    return
                op = found
            recent.append(op)
            yield op

    def end_of(self, number: int) -> Op | None:
        """The end line of operation `number`, None when it has none, or none within LOOK_AHEAD lines."""
        while number not in self._ends and len(self._ahead) < LOOK_AHEAD:
            op = next(self._lines, None)
            if op is None:
                break
            self._ahead.append(op)
            if op.type != "invoke":
                self._ends[op.op] = op
        return self._ends.get(number)

    def misshapen(self) -> tuple[Op, str] | None:
        """The first of the lines just read, or read ahead, whose value is not what its operation has."""
        for op in (*self._recent, *self._ahead):
            wrong = misshapen(op)
            text = odd(op) if wrong is None and op.f in HOST_SIDE else None
            if wrong is not None or text is not None:
                return wrong or (op, str(text))
        return None
