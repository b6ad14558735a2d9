"""The search over orders: one device's operations through the model, whatever order the overlapping ones took.

An operation takes effect somewhere between its two lines. As long as none overlap there is one state and nothing to
search: `step`, and on. When an operation ends while others are open, each order that puts some of those before it is
tried (just-in-time linearisation): a `Branch` is a state, and which open operations have had their effect in it.
Branches that are equal are one; a branch that another one can still become is dropped. An operation that never ends, or
whose outcome nobody knows, may take effect at any later time or not at all. Past `Limits` the device's verdict is
unknown from there on, and says so.

When no order is permitted, the device broke a rule: that of the order in which the operations ended. It is not judged
any further; its host is.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from ..errors import BadHistory
from ..linux_rules import EVERY
from ..model.state import Completed, Next, Violation
from .notation import spell
from .verdict import DEVICE, GUEST, HOST, WITNESS, Finding, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..history import Op
    from ..model.state import Config

_T = TypeVar("_T")
SUBJECT_OF = {name: clause.subject for name, clause in EVERY.items()}
_MANAGED = frozenset(("add", "release", "force", "set_region", "add_reference", "remove_reference"))
_COMMANDS = _MANAGED | {"events", "clear", "answer", "give_back", "extents", "list_tags", "fm_extents"}
_GONE = {
    "panic": "the guest's kernel is gone",
    "silent": "the guest's agent is silent",
    "outside": "QEMU was killed from outside",
}
_HOST_COMMANDS = frozenset(("answer", "give_back"))
_CONTEXT = 5
_REMEMBERED = 128
_GUEST_PROCESSES = ("host.", "user.")


class Model(Protocol):
    """The part of `model.whole` that the checker uses; a wrong one, or one with a host, can stand in its place.

    What a state is only the model knows; the search reads the `chains` of one.
    """

    def initial(self, config: Config, /) -> Any: ...
    def step(self, state: Any, op: Completed, /) -> Next | Violation: ...
    def possible(self, state: Any, op: Completed, /) -> tuple[Any, ...]: ...
    def follow(self, state: Any, op: Completed, /) -> Any: ...
    def judge_regions(self, config: Config, /) -> tuple[tuple[str, ...], tuple[Violation, ...]]: ...
    def key(self, state: Any, /) -> tuple[object, ...]: ...
    def deadly(self, state: Any, f: str, sent: dict[str, Any], /) -> str | None: ...
    def describe(self, state: Any, /) -> dict[str, Any]: ...


class Hosted(Protocol):
    """What a model has besides where it judges a Linux host too (`both.Both`).

    `effects`: further operations that change a state. `sent`: what a host's command shows, whatever the device made of
    it. `finish`: the end of the history, and which operations are open then. `lost`: why the host is not judged any
    more, or "".
    """

    effects: frozenset[str]

    def sent(self, state: Any, op: Completed, /) -> Next: ...
    def lost(self, state: Any, /) -> str: ...
    def finish(self, state: Any, now_ns: int, still_open: frozenset[str], /) -> Next: ...


class Limits(NamedTuple):
    """`branches`: states held at once; `tries`: steps for one line; `trail`: lines judged but not settled yet."""

    branches: int = 64
    tries: int = 4096
    trail: int = 256


class Entry(NamedTuple):
    """A judged operation: its lines, what was judged, and the states around it."""

    begin: Op
    end: Op
    judged: tuple[str, ...]
    findings: tuple[Violation, ...]
    unknown: tuple[str, ...]
    before: Any
    after: Any


class Branch(NamedTuple):
    """One order so far. `done`: open operations that have taken effect; `trail`: what it judged, not settled yet.

    `wrong`: how often a Linux host broke a rule in this order: where it did not in another one, that one is believed.
    """

    state: Any
    done: frozenset[int] = frozenset()
    trail: tuple[Entry, ...] = ()
    wrong: int = 0


class Judge:
    """The judge of one device and its host. `end_of(op)`: the end line of an open operation, None if none is near."""

    def __init__(
        self,
        name: str,
        config: Config,
        model: Model,
        end_of: Callable[[int], Op | None],
        limits: Limits,
        hosted: Hosted | None = None,
    ) -> None:
        self.tally = Tally(name)
        self.warnings: list[str] = []
        self.convicted = ""
        self.unknown_from = ""
        self._name = name
        self._model = model
        self._step = model.step
        self._end_of = end_of
        self._limits = limits
        self._hosted = hosted
        self._effects = _EFFECTS | hosted.effects if hosted else _EFFECTS
        self._now_ns = 0
        self._state: Any = model.initial(config)
        self._branches: list[Branch] = []  # empty while there is one state and nothing open has taken effect
        self._open: dict[int, Op] = {}
        self._late: set[int] = set()
        self._ended: set[int] = set()  # open for ever: the outcome is unknown, and counted as such
        self._is_gone = False
        self._silent: deque[Op] = deque(maxlen=16)  # commands that ended without an answer
        self._past: frozenset[int] = frozenset()  # had their effect before a conviction, and end after it
        self._context: list[tuple[Op, Op | None]] = []
        self._answered: deque[int] = deque(maxlen=_REMEMBERED)  # ends of the guest's operations, by n
        self._outcomes: dict[int, tuple[tuple[str, ...], tuple[Violation, ...]]] = {}
        self._tries = 0
        held, broken = model.judge_regions(config)
        for clause in held:
            self.tally.count(DEVICE, clause, "pass")
        for violation in broken:
            self.tally.found(self._explained(violation, (), {}, {}))

    # ---- lines

    def begin(self, op: Op) -> None:
        """An operation's first line."""
        if op.f == "gone":
            if not self._is_gone:
                self._gone(op)
            return
        self._open[op.op] = op

    def end(self, op: Op) -> None:
        """An operation's last line."""
        begin = self._open.pop(op.op, None)
        if begin is None:
            return
        if op.process.startswith(_GUEST_PROCESSES):
            self._answered.append(op.n)
        if self._open or self._branches or op.type == "info" or self.convicted or self.unknown_from:
            self._now_ns = op.t_ns
            self._end_slowly(begin, op)
        elif self._hosted is not None:
            self._now_ns = op.t_ns
            self._settle_one(begin, op, self._step(self._state, self._completed(begin, op)))
        else:
            found = self._step(self._state, Completed(op.f, begin.value, op.type, op.value))
            if type(found) is Next and not found[2] and not found[3] and "judged" not in op.value:
                self._state = found[0]
                passes = self.tally.passes
                passes[found[1]] = passes.get(found[1], 0) + 1
                if op.process.startswith(_GUEST_PROCESSES):
                    self._remember(op.n, found[1], ())
            else:
                self._settle_one(begin, op, found)
        context = self._context
        if op.f in _CONTEXT_F:
            context.append((begin, op))
            if len(context) > 4 * _CONTEXT:
                del context[:-_CONTEXT]

    def finish(self) -> None:
        """The history's end: what is open stays open."""
        for begin in self._open.values():
            if begin.op in self._ended or begin.f == "events":  # the next reading of the log is announced ahead
                continue
            self.warnings.append(f"the history ends while operation {begin.op} ({begin.f}) is open")
            self._unanswered(begin)
        self._settle(everything=True)
        if self._hosted is not None and not self.unknown_from:
            self._finish_host(self._hosted)
        if not (self.convicted or self.unknown_from or self._is_gone):
            states = [branch.state for branch in self._branches] or [self._state]
            for _ in range(min(len(state.chains) for state in states)):
                self.tally.count(HOST, "DEV-6.answered", "unknown")
        if self.convicted:
            self.warnings.append(f"{self._name} is not judged after line {self.convicted}")
        if self.unknown_from:
            self.warnings.append(f"{self._name}: {self.unknown_from}; it is not judged from there on")

    def _finish_host(self, hosted: Hosted) -> None:
        """What the end of the history shows of a Linux host: what every state agrees on is broken."""
        states = [branch.state for branch in self._branches] or [self._state]
        still_open = frozenset([begin.f for begin in self._open.values()])
        ends = [hosted.finish(state, self._now_ns, still_open) for state in states]
        best = min(ends, key=lambda end: len(_broken(end.findings)))
        for clause in best.judged:
            self.tally.count(SUBJECT_OF[clause], clause, "pass")
        for clause in best.unknown:
            self.tally.count(SUBJECT_OF[clause], clause, "unknown")
        shown = self._model.describe(best.state)
        for finding in best.findings:
            if self.tally.expected(finding.clause, finding.outcome, finding.departure):
                self.tally.findings.append(self._explained(finding, (), shown, shown))
            self.tally.count(finding.subject, finding.clause, finding.outcome)
        reason = hosted.lost(best.state)
        if reason:
            self.warnings.append(f"{self._name}: the host is not judged to the end: {reason}")
            self.tally.count(HOST, "L1.only", "unknown")

    def _completed(self, begin: Op, end: Op) -> Completed:
        """An operation and its end, as the model takes it."""
        if self._hosted is None:
            return Completed(end.f, begin.value, end.type, end.value)
        return Completed(end.f, begin.value, end.type, end.value, begin.process, begin.t_ns, end.t_ns)

    # ---- one state

    def _settle_one(self, begin: Op, op: Op, found: Next | Violation) -> None:
        if isinstance(found, Violation):
            self._convict(begin, op, found, self._state)
            return
        self._record(Entry(begin, op, found.judged, found.findings, found.unknown, self._state, found.state))
        self._state = found.state

    def _remember(self, n: int, judged: tuple[str, ...], findings: tuple[Violation, ...]) -> None:
        """What was judged of an operation of the guest, for its own judgement of it may come later."""
        self._outcomes[n] = (judged, findings)
        if len(self._outcomes) > 4 * _REMEMBERED:
            first = self._answered[0]
            self._outcomes = {end: own for end, own in self._outcomes.items() if end >= first}

    def _record(self, entry: Entry) -> None:
        """An operation's judgement into the table."""
        if entry.end.process.startswith(_GUEST_PROCESSES):
            self._remember(entry.end.n, entry.judged, entry.findings)
        broken = {finding.clause for finding in entry.findings}
        for clause in entry.judged:
            if clause not in broken:
                self.tally.count(SUBJECT_OF[clause], clause, "pass")
        for clause in entry.unknown:
            self.tally.count(SUBJECT_OF[clause], clause, "unknown")
        for finding in entry.findings:
            self._found(finding, entry.begin, entry.end, entry.before, entry.after)
        if "judged" in entry.end.value:
            self._compare(entry.begin, entry.end, entry.judged, entry.findings)

    def _found(self, violation: Violation, begin: Op, end: Op | None, before: Any, after: Any) -> None:
        name = (violation.clause, violation.outcome, violation.departure)
        if self.tally.expected(*name):
            lines = (begin.n, end.n) if end is not None else (begin.n,)
            told = (self._model.describe(before), self._model.describe(after))
            finding = self._explained(violation, ((begin, end),), *told, lines)
            self.tally.findings.append(finding)
        self.tally.count(violation.subject, violation.clause, violation.outcome)

    def _explained(
        self,
        violation: Violation,
        latest: tuple[tuple[Op, Op | None], ...],
        before: dict[str, Any],
        after: dict[str, Any],
        lines: tuple[int, ...] = (),
    ) -> Finding:
        begun = {begin.op for begin, _ in latest}
        told = [*[pair for pair in self._context[-_CONTEXT:] if pair[0].op not in begun], *latest]
        operations = tuple(
            [
                (begin.n, spell(begin.f, begin.value, end.type if end else "", end.value if end else None))
                for begin, end in told
            ]
        )
        around = [n for begin, end in told[: -len(latest) or None] for n in ((begin.n, end.n) if end else (begin.n,))]
        clause = EVERY[violation.clause]
        return Finding(
            violation.subject,
            self._name,
            violation.clause,
            violation.outcome,
            violation.text,
            clause.source,
            (*lines, *around) if latest else (0,),
            operations,
            before,
            after,
            violation.evidence,
            violation.departure,
        )

    def _convict(self, begin: Op, end: Op, violation: Violation, before: Any) -> None:
        """The device broke a rule: its judgement ends, its host's goes on."""
        completed = self._completed(begin, end)
        after = self._model.follow(before, completed)
        self._found(violation, begin, end, before, after)
        for also in violation.also:
            self._found(also, begin, end, before, after)
        for clause in violation.judged:
            self.tally.count(SUBJECT_OF[clause], clause, "pass")
        if "judged" in end.value:
            self._compare(begin, end, violation.judged, (violation, *violation.also))
        self.convicted = f"{end.n + 1} ({violation.clause})"
        self._branches = []
        self._state = after

    def _end_convicted(self, begin: Op, end: Op) -> None:
        """After a conviction: the host's part of each step, and what is known of the device (departures)."""
        before = self._state
        completed = self._completed(begin, end)
        found = self._step(before, completed)
        unknown: tuple[str, ...]
        if isinstance(found, Violation):
            judged, findings, unknown = found.judged, found.also, (found.clause,)
            self._state = self._model.follow(before, completed)
        else:
            judged, findings, unknown = found.judged, found.findings, found.unknown
            self._state = found.state
        own = tuple([clause for clause in judged if SUBJECT_OF[clause] != DEVICE])
        doubtful = [clause for clause in judged if SUBJECT_OF[clause] == DEVICE]
        kept: list[Violation] = []
        for finding in findings:
            by_offers = finding.subject == HOST and finding.clause.startswith("DEV-")
            if by_offers and end.type == "ok":  # the device took it: its offers are not ours any more
                doubtful.append(finding.clause)
            elif finding.subject != DEVICE or finding.departure:
                kept.append(finding)
        self._record(Entry(begin, end, own, tuple(kept), (*unknown, *doubtful), before, self._state))

    def _gone(self, op: Op) -> None:
        """DEV-9: whatever was open when the device went is the first suspect.

        `kind` says what is gone: the `device` (as when it says nothing), or, without anybody knowing that a device
        had a part in it, the guest's kernel (`panic`), its agent (`silent`), or QEMU killed from `outside`.
        """
        self._is_gone = True
        self._settle(everything=True)
        unanswered = {begin.op: begin for begin in (*self._silent, *self._open.values())}
        suspects = [unanswered[number] for number in sorted(unanswered)]
        state = self._branches[0].state if self._branches else self._state
        evidence: dict[str, Any] = {
            "reason": op.value.get("reason", ""),
            "open": [spell(begin.f, begin.value) for begin in suspects],
        }
        what = _GONE.get(op.value.get("kind", ""), "the device is gone")
        text = f"{what}: {op.value.get('reason') or 'no reason is known'}"
        if suspects:
            text += f"; it never answered {suspects[-1].f} (line {suspects[-1].n + 1})"
        latest: tuple[tuple[Op, Op | None], ...] = tuple([(begin, None) for begin in [*suspects, op]])
        lines = tuple([begin.n for begin in [*suspects, op]])
        known = next((name for begin in suspects if (name := self._deadly(state, begin))), None)
        outcome = "unknown" if op.value.get("kind") in _GONE else "departure" if known else "fail"
        known = None if outcome == "unknown" else known
        violation = Violation("DEV-9.alive", DEVICE, outcome, text, evidence, known)
        self.tally.count(DEVICE, violation.clause, outcome)
        shown = self._model.describe(state)
        self.tally.findings.append(self._explained(violation, latest, shown, shown, lines))
        for begin in suspects:
            if begin.f in _COMMANDS:
                text, sent = f"{begin.f} never got an answer", {"sent": begin.value}
                self._found(Violation("DEV-9.answers", DEVICE, outcome, text, sent, known), begin, None, state, state)
            if begin in self._silent:  # so far it was not known why no answer came
                self.tally.count(DEVICE, "DEV-9.answers", "unknown", -1)
            else:
                self._host_alone(begin)
            self._open.pop(begin.op, None)
        self._branches = []
        self.convicted = self.convicted or f"{op.n + 1} (DEV-9.alive)"

    def _deadly(self, state: Any, begin: Op) -> str | None:
        return self._model.deadly(state, begin.f, begin.value)

    def _host_alone(self, begin: Op) -> None:
        """A host's command without an end: the host is judged by what it sent, if every order agrees."""
        if begin.f not in _HOST_COMMANDS:
            return
        states = [branch.state for branch in self._branches if begin.op not in branch.done]
        if not states:
            if self._branches:  # it has taken effect, so it was permitted
                return
            states = [self._state]
        seen: list[tuple[tuple[str, ...], tuple[Violation, ...]]] = []
        for state in states:
            found = self._step(state, self._completed(begin, begin._replace(type="fail", value={"rc": -1})))
            also = found.also if isinstance(found, Violation) else found.findings
            judged = tuple([clause for clause in found.judged if SUBJECT_OF[clause] == HOST])
            seen.append((judged, tuple([finding for finding in also if finding.subject == HOST])))
        for finding in seen[0][1]:
            if all(any(other.clause == finding.clause for other in findings) for _, findings in seen):
                self._found(finding, begin, None, states[0], states[0])
        for clause in seen[0][0]:
            if all(clause in judged for judged, _ in seen):
                self.tally.count(HOST, clause, "pass")

    def _unanswered(self, begin: Op) -> None:
        """A command whose end nobody saw, on a device that (as far as is known) lives."""
        if begin.f in _COMMANDS:
            self.tally.count(DEVICE, "DEV-9.answers", "unknown")
            self._silent.append(begin)
        self._host_alone(begin)

    # ---- several orders

    def _end_slowly(self, begin: Op, end: Op) -> None:
        """The end of an operation that overlaps others, or whose outcome is not known, or after a conviction."""
        if self.unknown_from:
            self._record(Entry(begin, end, (), (), ("DEV-9.answers",), self._state, self._state))
            return
        if end.type == "info":
            self._unanswered(begin)
            self._certainly_sent(begin, end)
            self._forever(begin)
            return
        if self.convicted:
            if begin.op not in self._past:
                self._end_convicted(begin, end)
            return
        if begin.op in self._late:
            self._unanswered(begin)
            self._certainly_sent(begin, end)
            self._forever(begin)
            return
        branches = self._branches or [Branch(self._state)]
        self._tries = 0
        grown, failure = self._orders(branches, begin, end)
        if grown is None:
            self._give_up(f"more than {self._limits.branches} orders are possible at line {end.n + 1}")
        elif grown:
            self._keep(grown)
        else:
            assert failure is not None
            self._branches = branches
            self._settle(everything=True)
            self._past = failure[1].done
            culprit = self._culprit(failure[1], begin, end)
            if culprit is None:
                self._convict(begin, end, failure[0], failure[1].state)
                return
            first, violation = culprit
            self._past |= {first.begin.op}
            self._convict(first.begin, first.end, violation, first.before)
            self._end_convicted(begin, end)

    def _culprit(self, branch: Branch, begin: Op, end: Op) -> tuple[Entry, Violation] | None:
        """An open operation by which the device broke a rule, and but for which this one would be permitted."""
        done = self._completed(begin, end)
        for other in self._open.values():
            told = self._end_of(other.op) if other.op not in branch.done and other.op not in self._late else None
            if told is None or told.type == "info":
                continue
            first = self._completed(other, told)
            found = self._step(branch.state, first)
            if not isinstance(found, Violation):
                continue
            after = self._model.follow(branch.state, first)
            if not isinstance(self._step(after, done), Violation):
                return Entry(other, told, (), (), (), branch.state, after), found
        return None

    def _certainly_sent(self, begin: Op, end: Op) -> None:
        """A host's command whose outcome nobody knows: a Linux host is judged by it in every branch."""
        if self._hosted is None or begin.f not in _HOST_COMMANDS | {"clear"}:
            return
        completed = self._completed(begin, end)
        branches = []
        for branch in self._branches or [Branch(self._state)]:
            found = self._hosted.sent(branch.state, completed)
            entry = Entry(begin, end, found.judged, found.findings, found.unknown, branch.state, found.state)
            wrong = branch.wrong + len(_broken(found.findings))
            branches.append(Branch(found.state, branch.done, (*branch.trail, entry), wrong))
        if self.convicted:
            self._state = branches[0].state
        elif self._branches:
            self._branches = branches
        else:
            self._record(branches[0].trail[0])
            self._state = branches[0].state

    def _forever(self, begin: Op) -> None:
        """An operation that may take effect at any time from now on, or never: it stays open."""
        if self.convicted or begin.f not in self._effects:
            return
        self._open[begin.op] = begin
        self._late.add(begin.op)
        self._ended.add(begin.op)

    def _orders(
        self, branches: Iterable[Branch], begin: Op, end: Op
    ) -> tuple[list[Branch] | None, tuple[Violation, Branch] | None]:
        """Every branch in which `begin` has taken effect by now; None past the limits.

        The second: the rule broken when it follows what ended before it, and the branch in which it does.
        """
        grown: dict[object, Branch] = {}
        failure: tuple[Violation, Branch] | None = None
        for branch in branches:
            if begin.op in branch.done:
                moved = branch._replace(done=branch.done - {begin.op})
                self._merge(grown, moved)
                continue
            seen: set[object] = set()
            todo = [branch]
            while todo:
                current = todo.pop()
                name = (self._model.key(current.state), current.done)
                if name in seen:
                    continue
                seen.add(name)
                after, violation = self._take(current, begin, end)
                if violation is not None and failure is None:
                    failure = (violation, current)
                for moved in after:
                    self._merge(grown, moved)
                looked = after and begin.f not in self._effects and after[0].wrong == current.wrong
                if looked and self._model.key(after[0].state) == name[0]:
                    continue  # it only looked, so whatever else takes effect may as well come after it
                for other in self._open.values():
                    if other.op != begin.op and other.op not in current.done:
                        todo += self._early(current, other)
                if self._tries > self._limits.tries or len(grown) > self._limits.branches:
                    return None, failure
        return self._pruned(list(grown.values())), failure

    def _take(self, branch: Branch, begin: Op, end: Op) -> tuple[list[Branch], Violation | None]:
        """The branch after the operation with its known end."""
        self._tries += 1
        found = self._step(branch.state, self._completed(begin, end))
        if isinstance(found, Violation):
            return [], found
        entry = Entry(begin, end, found.judged, found.findings, found.unknown, branch.state, found.state)
        wrong = branch.wrong + len(_broken(found.findings)) if found.findings else branch.wrong
        return [Branch(found.state, branch.done, (*branch.trail, entry), wrong)], None

    def _early(self, branch: Branch, other: Op) -> list[Branch]:
        """The branches in which the open operation `other` takes effect now."""
        end = None if other.op in self._late else self._end_of(other.op)
        if end is None and other.op not in self._late:
            self._late.add(other.op)
        if end is None or end.type == "info":
            if other.f not in self._effects:
                return []
            self._tries += 1
            states = self._model.possible(branch.state, self._completed(other, other._replace(type="info", value={})))
            return [branch._replace(state=state, done=branch.done | {other.op}) for state in states]
        after, _violation = self._take(branch, other, end)
        return [moved._replace(done=moved.done | {other.op}) for moved in after]

    def _merge(self, grown: dict[object, Branch], branch: Branch) -> None:
        """Put a branch among those found; equal ones become one, with what both judged alike."""
        name = (self._model.key(branch.state), branch.done)
        known = grown.get(name)
        if known is None or branch.wrong < known.wrong:
            grown[name] = branch
        elif branch.wrong == known.wrong and known.trail != branch.trail:
            grown[name] = known._replace(trail=_common([known.trail, branch.trail]))

    def _pruned(self, branches: list[Branch]) -> list[Branch]:
        """Without the branches that another one becomes by letting open operations take effect."""
        fewest = min([branch.wrong for branch in branches], default=0)
        branches = [branch for branch in branches if branch.wrong == fewest]
        if len(branches) == 1:
            return branches
        dropped: set[int] = set()
        for at, branch in enumerate(branches):
            for other_at, other in enumerate(branches):
                if at == other_at or other_at in dropped or not other.done < branch.done:
                    continue
                if self._becomes(other, branch):
                    dropped.add(at)
                    break
        return [branch for at, branch in enumerate(branches) if at not in dropped]

    def _becomes(self, branch: Branch, target: Branch) -> bool:
        """Whether letting the missing open operations take effect, in the order they began, leads to `target`."""
        todo = [branch]
        for missing in sorted(target.done - branch.done):
            todo = [moved for current in todo for moved in self._early(current, self._open[missing])]
        wanted = self._model.key(target.state)
        return any(moved.wrong <= target.wrong and self._model.key(moved.state) == wanted for moved in todo)

    def _keep(self, branches: list[Branch]) -> None:
        everywhere = frozenset.intersection(*[branch.done for branch in branches]) & self._ended
        if everywhere:  # it has taken effect, whatever the order
            for op in everywhere:
                del self._open[op]
            branches = [branch._replace(done=branch.done - everywhere) for branch in branches]
        self._branches = branches
        self._settle(everything=len(branches) == 1)
        if len(branches) == 1 and not self._branches[0].done:
            self._state = self._branches[0].state
            self._branches = []

    def _settle(self, *, everything: bool) -> None:
        """Put what the branches judged into the table: all of it, or only when it grew too long."""
        branches = self._branches
        if not branches or (not everything and len(branches[0].trail) < self._limits.trail):
            return
        common = _common([branch.trail for branch in branches])
        for entry in common:
            self._record(entry)
        settled = {entry.end.n for entry in common}
        self._branches = [
            branch._replace(trail=tuple([entry for entry in branch.trail if entry.end.n not in settled]))
            for branch in branches
        ]
        self._state = branches[0].state

    def _give_up(self, why: str) -> None:
        self._settle(everything=True)
        self.unknown_from = why
        self._branches = []
        self.tally.count(DEVICE, "DEV-9.answers", "unknown")

    # ---- the guest's own judgement

    def _compare(self, begin: Op, end: Op, judged: tuple[str, ...], findings: tuple[Violation, ...]) -> None:
        """What the guest judged of this step, and of earlier ones whose judgement came later."""
        said = end.value["judged"]
        self._agree(begin, end, said, (judged, findings))
        for late in _listed(said.get("earlier") if isinstance(said, dict) else None, dict):
            back = late.get("back")
            at = self._answered.index(end.n) if end.n in self._answered else -1
            number = at - back if type(back) is int and at >= 0 else -1
            own = self._outcomes.get(self._answered[number]) if 0 <= number < at else None
            self._agree(begin, end, late, own)

    def _agree(self, begin: Op, end: Op, said: Any, own: tuple[tuple[str, ...], tuple[Violation, ...]] | None) -> None:
        """Tally what the guest said of a step; where one judge convicts and the other does not, that is a finding.

        What only one of them judged is no disagreement: the guest may know more (it saw the device before this
        history began) or less (it sees no manager).
        """
        guest = guest_outcomes(said)
        for (subject, clause), outcome in guest.items():
            self.tally.count(GUEST + subject, clause, outcome)
        if own is None or self.convicted or self.unknown_from or not isinstance(said, dict) or "cut" in said:
            return
        judged, findings = own
        ours = {clause: "pass" for clause in judged}
        ours.update({finding.clause: finding.outcome for finding in findings})
        differs = [
            f"{clause}: the guest says {outcome}, the controller {ours[clause]}"
            for (_subject, clause), outcome in guest.items()
            if clause in ours and {ours[clause], outcome} == {"pass", "fail"}
        ]
        if not differs:
            if any(clause in ours for _subject, clause in guest):
                self.tally.count(WITNESS, "WITNESS.agree", "pass")
            return
        evidence = {"guest": {clause: outcome for (_, clause), outcome in guest.items()}, "controller": ours}
        violation = Violation("WITNESS.agree", WITNESS, "fail", "; ".join(differs), evidence)
        self._found(violation, begin, end, self._state, self._state)


def guest_outcomes(said: Any) -> dict[tuple[str, str], str]:
    """(subject, clause) to outcome, of the `judged` of an end. What is not in that form is left out."""
    found: dict[tuple[str, str], str] = {}
    if not isinstance(said, dict):
        return found
    for clause in _listed(said.get("passed"), str):
        subject = SUBJECT_OF.get(clause)
        if subject is not None:
            found[subject, clause] = "pass"
    for subject in (DEVICE, HOST):
        part = said.get(subject)
        if isinstance(part, dict):
            for clause, outcome in part.items():
                if clause in SUBJECT_OF and outcome in ("pass", "fail", "unknown", "departure"):
                    found[subject, clause] = outcome
        for clause in _listed(part, str):
            if clause in SUBJECT_OF:
                found[subject, clause] = "pass"
    return found


def _listed(value: Any, kind: type[_T]) -> list[_T]:
    return [item for item in value if isinstance(item, kind)] if isinstance(value, list) else []


def _common(trails: list[tuple[Entry, ...]]) -> tuple[Entry, ...]:
    """What several orders judged alike; what only some of them found is unknown."""
    first, *rest = trails
    if not rest or all(trail == first for trail in rest):
        return first
    others = [{entry.end.n: entry for entry in trail} for trail in rest]
    common: list[Entry] = []
    for entry in first:
        same = [other[entry.end.n] for other in others if entry.end.n in other]
        if len(same) < len(others):
            continue
        found = entry
        for other in same:
            found = _alike(found, other)
        common.append(found)
    return tuple(common)


def _alike(left: Entry, right: Entry) -> Entry:
    if left.judged == right.judged and left.findings == right.findings and left.unknown == right.unknown:
        return left
    judged = tuple([clause for clause in left.judged if clause in right.judged])
    names = {(finding.clause, finding.outcome) for finding in right.findings}
    findings = tuple([finding for finding in left.findings if (finding.clause, finding.outcome) in names])
    said = {finding.clause for finding in (*left.findings, *right.findings)}
    doubtful = said - {finding.clause for finding in findings}
    unknown = tuple(dict.fromkeys((*left.unknown, *right.unknown, *sorted(doubtful))))
    return left._replace(judged=judged, findings=findings, unknown=unknown)


def _broken(findings: Iterable[Violation]) -> list[Violation]:
    """The rules of a Linux generation that were broken; those of the device's host (DEV) are judged as ever."""
    return [one for one in findings if one.subject == HOST and one.outcome == "fail" and one.clause[:4] != "DEV-"]


_EFFECTS = _MANAGED | {"clear", "answer", "give_back", "store"}
_CONTEXT_F = _EFFECTS | {"events", "reset", "claim", "use", "unuse", "log", "sysfs"}

__all__ = ["SUBJECT_OF", "BadHistory", "Branch", "Judge", "Limits", "Model", "guest_outcomes"]
