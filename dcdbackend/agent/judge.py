"""The guest's own judgement: each completed operation goes through the reference model, in the guest's view.

Two judgements, never mixed: of the *device* (its records, handles, return codes, lists) and of the *host* (its
answers against the offers). The judge is given what was read back from the registers and what came back, nothing
else: it does not know which policy the host follows, so a host that was told to break a rule is convicted all the
same. What the guest cannot know (what a manager asked for) the model calls unknown.

The clauses are the controller's too: this is the same `model.device`, not a copy.
"""

from __future__ import annotations

from typing import Any

from ..extents import EMPTY, ExtentSet
from ..model import device as model
from ..model.state import Completed, Config, Violation, lose
from ..rules import CLAUSES

MAX_ALIKE = 8
"""So many findings of one clause and outcome are kept; the totals count them all."""
MAX_EVIDENCE = 32

Value = dict[str, Any]
Totals = dict[str, dict[str, dict[str, int]]]


class Judge:
    """The judgement of one device and its host. `held`: what the device held before anybody looked."""

    def __init__(self, config: Config, held: ExtentSet = EMPTY) -> None:
        self.findings: list[Value] = []
        self._passes: dict[tuple[str, ...], int] = {}
        self._others: dict[tuple[str, str, str], int] = {}
        self._state = model.initial(config)._replace(accepted=held)

    def step(self, f: str, sent: Value, kind: str, received: Value) -> Value | None:
        """Judge one completed operation; the `judged` of its completion, None when nothing was judged.

        {"device": {clause: outcome}, "host": {...}, "passed": [clause, ...], "evidence": [finding, ...]}: clauses
        that held are in `passed` only.
        """
        after = model.step(self._state, Completed(f, sent, kind, received))
        unknown: tuple[str, ...] = ()
        if isinstance(after, Violation):
            passed = after.judged
            findings = (after._replace(also=(), judged=()), *after.also)
            self._state = lose(self._state, f"the device broke {after.clause}")
        else:
            passed, findings, unknown = after.judged, after.findings, after.unknown
            self._state = after.state
        if not (passed or findings or unknown):
            return None
        judged: Value = {"device": {}, "host": {}, "passed": passed, "evidence": []}
        self._passes[passed] = self._passes.get(passed, 0) + 1
        for clause in unknown:
            judged[self._count(CLAUSES[clause].subject, clause, "unknown")][clause] = "unknown"
        for finding in findings:
            judged[self._count(finding.subject, finding.clause, finding.outcome)][finding.clause] = finding.outcome
            shown = describe(finding)
            judged["evidence"].append(shown)
            if self._others[_subject(finding.subject), finding.clause, finding.outcome] <= MAX_ALIKE:
                self.findings.append({"f": f, "sent": sent, **shown})
        return judged

    def lose(self, why: str) -> None:
        """From now on the device's state is not known (something was sent that nobody recorded)."""
        self._state = lose(self._state, why)

    def totals(self) -> Totals:
        """How often each clause ended how: subject, clause, outcome."""
        found: Totals = {"device": {}, "host": {}}
        counts = [((_subject(CLAUSES[c].subject), c, "pass"), n) for some, n in self._passes.items() for c in some]
        for (subject, clause, outcome), count in (*counts, *self._others.items()):
            outcomes = found[subject].setdefault(clause, {"pass": 0, "fail": 0, "unknown": 0, "departure": 0})
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        return found

    def _count(self, subject: str, clause: str, outcome: str) -> str:
        """Count it; the subject under which it is reported."""
        subject = _subject(subject)
        name = (subject, clause, outcome)
        self._others[name] = self._others.get(name, 0) + 1
        return subject


def _subject(subject: str) -> str:
    """What is neither the device's nor the host's is told with the device's."""
    return "host" if subject == "host" else "device"


def merge(one: Value | None, two: Value | None) -> Value | None:
    """Two judgements of one device as one: what did not hold in either stands, the worst of it."""
    if one is None or two is None:
        return one or two
    return {
        "device": _worst(one["device"], two["device"]),
        "host": _worst(one["host"], two["host"]),
        "passed": (*one["passed"], *two["passed"]),
        "evidence": (one["evidence"] + two["evidence"])[-MAX_EVIDENCE:],
    }


def _worst(one: dict[str, str], two: dict[str, str]) -> dict[str, str]:
    if not one or not two:
        return one or two
    kept = {clause: how for clause, how in one.items() if _WORSE.index(how) > _WORSE.index(two.get(clause, "unknown"))}
    return {**one, **two, **kept}


_WORSE = ("unknown", "departure", "fail")


def describe(finding: Violation) -> Value:
    """A finding as plain data."""
    shown: Value = {
        "clause": finding.clause,
        "subject": finding.subject,
        "outcome": finding.outcome,
        "text": finding.text,
        "evidence": finding.evidence,
    }
    if finding.departure is not None:
        shown["departure"] = finding.departure
    return shown
