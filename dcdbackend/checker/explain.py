"""A finding as a few lines to read. It judges nothing: everything that it says is in the finding.

Lines are counted as an editor does, from 1 (the header); a finding's own numbers are the history's `n`, from 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..model.departures import DEPARTURES
from ..rules import CLAUSES
from .verdict import OUTCOMES

if TYPE_CHECKING:
    from .verdict import Finding, Verdict

_WORDS = {"fail": "broken", "departure": "a known departure", "unknown": "not known"}


def tell(finding: Finding) -> list[str]:
    """What was broken, what happened, what must be; newest operation last."""
    where = f"line {finding.lines[0] + 1}" if finding.lines else "no line"
    who = f"{finding.subject} {finding.device}"
    lines = [f"{finding.clause} {_WORDS.get(finding.outcome, finding.outcome)}, {who}, {where}: {finding.text}"]
    lines.append(f"  the rule: {CLAUSES[finding.clause].text} [{finding.source}]")
    if finding.departure is not None:
        known = DEPARTURES[finding.departure]
        versions = f"QEMU {known.first} to {known.last or 'now'}" if known.first else "all versions"
        lines.append(f"  known as {known.id}: {known.text} ({versions}; {known.source})")
    if finding.operations:
        lines.append("  what happened:")
        width = len(str(finding.operations[-1][0] + 1))
        lines += [f"    line {n + 1:>{width}}  {told}" for n, told in finding.operations]
    if finding.before:
        lines.append("  the state before, by the rules: " + _state(finding.before))
    expected = finding.evidence.get("expected")
    if expected is not None:
        lines.append(f"  expected: {_plain(expected)}")
        if "received" in finding.evidence:
            lines.append(f"  seen: {_plain(finding.evidence['received'])}")
    return lines


def summary(verdict: Verdict) -> list[str]:
    """The table by clause, one line each, then findings and warnings in full."""
    lines = [f"{verdict.outcome}: {verdict.operations} operations"]
    for (subject, device, clause), counts in verdict.counts.items():
        shown = [f"{count} {name}" for name, count in zip(OUTCOMES, counts, strict=True) if count]
        lines.append(f"  {subject:<13} {device} {clause:<24} {', '.join(shown)}")
    for finding in verdict.findings:
        lines += tell(finding)
    lines += [f"warning: {warning}" for warning in verdict.warnings]
    return lines


def _state(state: dict[str, Any]) -> str:
    accepted = " ".join(state.get("accepted", ())) or "nothing"
    offers = " | ".join(" ".join(chain) for chain in state.get("offers", ())) or "nothing"
    log = " ".join(state.get("log", ())) or "empty"
    lost = f"; lost: {state['lost']}" if state.get("lost") else ""
    return f"accepted {accepted}; pending {offers}; log {log}{lost}"


def _plain(value: Any) -> str:
    text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
