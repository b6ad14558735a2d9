"""What the rules say of a history, as data: counts by clause, and findings that explain themselves.

Nothing here judges, and nothing here prints: `search` fills it, `explain` renders it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..linux_rules import EVERY

OUTCOMES = ("pass", "fail", "unknown", "departure", "skipped")
DEVICE, HOST, MANAGER, WITNESS = "device", "host", "manager", "witness"
GUEST = "guest."
MAX_ALIKE = 8
SEEN = ("real", "recorded", "simulated")
"""Where a judgement comes from: a QEMU and what ran in its guest, somebody's record of such, or no more than models."""


class Counts(NamedTuple):
    """How often a clause ended in each way."""

    passed: int = 0
    failed: int = 0
    unknown: int = 0
    departure: int = 0
    skipped: int = 0


class Finding(NamedTuple):
    """One thing found, with all that is needed to tell it.

    `lines`: n of the lines that show it, begin and end of the operation first; `operations`: what happened, newest
    last, each with its n; `before`, `after`: the state around it, readable; `evidence`: sent, received, expected.
    """

    subject: str
    device: str
    clause: str
    outcome: str
    text: str
    source: str
    lines: tuple[int, ...]
    operations: tuple[tuple[int, str], ...]
    before: dict[str, Any]
    after: dict[str, Any]
    evidence: dict[str, Any]
    departure: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """`counts`: by (subject, device, clause); a guest's own judgement stands apart, as `guest.device`, `guest.host`.

    `findings`: every failure, and the first few of each departure (the counts have them all). `operations`: how many
    ended. `warnings`: what was noticed and is no finding. `seen`: where the history comes from, see `SEEN`.
    """

    counts: dict[tuple[str, str, str], Counts] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()
    operations: int = 0
    seen: str = ""

    @property
    def nothing_judged(self) -> bool:
        """Whether no clause was tested by the controller's own judgement: such a verdict is never a pass."""
        return not any(
            counts.passed or counts.failed or counts.departure
            for (subject, _device, clause), counts in self.counts.items()
            if not subject.startswith(GUEST) and not clause.startswith("DEV-1.")
        )

    @property
    def outcome(self) -> str:
        """`fail` if a rule was broken, else `unknown` (also if nothing was judged), `departure`, `pass`.

        What is only permitted (kind may) can stay unknown without making the whole so.
        """
        if self.failed:
            return "fail"
        own = [counts for (subject, _, _), counts in self.counts.items() if not subject.startswith(GUEST)]
        demanded = [
            counts
            for (subject, _, clause), counts in self.counts.items()
            if not subject.startswith(GUEST) and (clause not in EVERY or EVERY[clause].kind == "must")
        ]
        if self.nothing_judged or any(counts.unknown for counts in demanded):
            return "unknown"
        return "departure" if any(counts.departure for counts in own) else "pass"

    @property
    def unknown(self) -> tuple[str, ...]:
        """`subject device clause` of what the controller's own judgement left unknown, be it demanded or permitted."""
        return tuple(
            [
                f"{subject} {device} {clause}"
                for (subject, device, clause), counts in self.counts.items()
                if counts.unknown and not subject.startswith(GUEST)
            ]
        )

    @property
    def told(self) -> str:
        """The outcome as a line begins with it: one that unknowns do not change (permitted clauses) says so."""
        left = self.unknown if self.outcome in ("pass", "departure") else ()
        return f"{self.outcome}, {len(left)} clause{'s' if len(left) > 1 else ''} unknown" if left else self.outcome

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The findings that are failures."""
        return tuple([finding for finding in self.findings if finding.outcome == "fail"])

    @property
    def departures(self) -> frozenset[str]:
        """The ids of the departures seen."""
        return frozenset([finding.departure for finding in self.findings if finding.departure is not None])

    def __str__(self) -> str:
        """What a person wants to read: the outcome and how much it stands on, then what is not a pass."""
        from .explain import story

        return "\n".join(story(self))

    def joined(self, name: str, other: Verdict) -> Verdict:
        """This verdict and that of another history of the same run, whose devices are called `name/device` in it."""
        counts = {
            (subject, f"{name}/{device}", clause): found for (subject, device, clause), found in other.counts.items()
        }
        return Verdict(
            counts={**self.counts, **counts},
            findings=(*self.findings, *[found._replace(device=f"{name}/{found.device}") for found in other.findings]),
            warnings=(*self.warnings, *[f"{name}: {warning}" for warning in other.warnings]),
            operations=self.operations + other.operations,
            seen=self.seen,
        )

    def as_data(self) -> dict[str, Any]:
        """The verdict as JSON data."""
        counts = [
            {
                "subject": subject,
                "device": device,
                "clause": clause,
                **dict(zip(OUTCOMES, found, strict=True)),
                "seen": self.seen,
            }
            for (subject, device, clause), found in self.counts.items()
        ]
        return {
            "outcome": self.outcome,
            "seen": self.seen,
            "unknown": list(self.unknown),
            "nothing_judged": self.nothing_judged,
            "operations": self.operations,
            "counts": counts,
            "findings": [finding._asdict() for finding in self.findings],
            "warnings": list(self.warnings),
        }

    def of(self, clause: str, *, subject: str | None = None, device: str | None = None) -> Counts:
        """The counts of a clause, summed over devices and over the controller's own subjects, or only those named."""
        total = Counts()
        for (who, name, found), counts in self.counts.items():
            if found != clause or (device is not None and name != device):
                continue
            if (subject is None and who.startswith(GUEST)) or (subject is not None and who != subject):
                continue
            total = Counts(*[left + right for left, right in zip(total, counts, strict=True)])
        return total


class Tally:
    """Counts and findings being gathered for one device. Passes come as tuples that repeat, and are counted whole."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.passes: dict[tuple[str, ...], int] = {}
        self.findings: list[Finding] = []
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._alike: dict[tuple[str, str, str | None], int] = {}

    def count(self, subject: str, clause: str, outcome: str, times: int = 1) -> None:
        """Add to one cell of the table."""
        cell = self._counts.get((subject, clause))
        if cell is None:
            cell = self._counts[subject, clause] = [0] * len(OUTCOMES)
        cell[OUTCOMES.index(outcome)] += times

    def found(self, finding: Finding) -> None:
        """Add a finding and its count; of those that are alike only the first few are kept whole."""
        self.count(finding.subject, finding.clause, finding.outcome)
        if self.expected(finding.clause, finding.outcome, finding.departure):
            self.findings.append(finding)

    def expected(self, clause: str, outcome: str, departure: str | None) -> bool:
        """Whether one more finding of this kind is still to be kept whole; counts it."""
        name = (clause, outcome, departure)
        seen = self._alike.get(name, 0) + 1
        self._alike[name] = seen
        return seen <= MAX_ALIKE

    def close(self, subject_of: dict[str, str]) -> dict[tuple[str, str, str], Counts]:
        """The table, by (subject, device, clause)."""
        for clauses, times in self.passes.items():
            for clause in clauses:
                self.count(subject_of[clause], clause, "pass", times)
        self.passes.clear()
        table = {(who, self.device, clause): Counts(*cell) for (who, clause), cell in self._counts.items()}
        return dict(sorted(table.items()))
