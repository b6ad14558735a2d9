"""A finding as a few lines to read. It judges nothing: everything that it says is in the finding.

Lines are counted as an editor does, from 1 (the header); a finding's own numbers are the history's `n`, from 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..linux_rules import EVERY
from ..model.departures import DEPARTURES
from ..model.quirks import QUIRKS
from .verdict import GUEST, OUTCOMES

if TYPE_CHECKING:
    from .verdict import Finding, Verdict

_WORDS = {"fail": "broken", "departure": "a known departure", "unknown": "not known"}


def tell(finding: Finding) -> list[str]:
    """What was broken, what happened, what must be; newest operation last."""
    where = f"line {finding.lines[0] + 1}" if finding.lines else "no line"
    who = f"{finding.subject} {finding.device}"
    lines = [f"{finding.clause} {_WORDS.get(finding.outcome, finding.outcome)}, {who}, {where}: {finding.text}"]
    lines.append(f"  the rule: {EVERY[finding.clause].text} [{finding.source}]")
    if finding.departure is not None:
        lines.append(f"  known as {finding.departure}: {known_as(finding.departure)}")
    if finding.operations:
        lines.append("  what happened:")
        width = len(str(finding.operations[-1][0] + 1))
        lines += [f"    line {n + 1:>{width}}  {told}" for n, told in finding.operations]
    if finding.before:
        lines.append("  the state before, by the rules: " + _state(finding.before))
    if "inferred" in finding.evidence:
        lines.append(f"  nobody saw the commands themselves: they are inferred from {finding.evidence['inferred']}")
    expected = finding.evidence.get("expected")
    if expected is not None:
        lines.append(f"  expected: {_plain(expected)}")
        if "received" in finding.evidence:
            lines.append(f"  seen: {_plain(finding.evidence['received'])}")
    return lines


def known_as(name: str) -> str:
    """What a departure is, with its versions and where it was seen: of a device, of a kernel (Q), or the clause by
    which a generation of Linux does what the device's rules do not permit its host."""
    if name in DEPARTURES:
        known = DEPARTURES[name]
        versions = f"QEMU {known.first} to {known.last or 'now'}" if known.first else "all versions"
        return f"{known.text} ({versions}; {known.source})"
    if name in QUIRKS:
        quirk = QUIRKS[name]
        return f"{quirk.code}; documented: {quirk.documented} (Linux {', '.join(quirk.generations)})"
    clause = EVERY.get(name)
    return f"{clause.text} [{clause.source}]" if clause else "not in any table"


def summary(verdict: Verdict) -> list[str]:
    """The table by clause, one line each, then findings and warnings in full."""
    lines = [f"{verdict.told}: {verdict.operations} operations"]
    for (subject, device, clause), counts in verdict.counts.items():
        shown = [f"{count} {name}" for name, count in zip(OUTCOMES, counts, strict=True) if count]
        lines.append(f"  {subject:<13} {device} {clause:<24} {', '.join(shown)}")
    for finding in verdict.findings:
        lines += tell(finding)
    lines += [f"warning: {warning}" for warning in verdict.warnings]
    return lines


def story(verdict: Verdict) -> list[str]:
    """The outcome in a line, each clause that did not simply hold in one more, then the first failure of each clause
    in full, and the warnings."""
    own = [(name, counts) for name, counts in verdict.counts.items() if not name[0].startswith(GUEST)]
    held = sum(1 for _, counts in own if counts.passed)
    judged = sum(counts.passed for _, counts in own)
    lines = [f"{verdict.told}: {verdict.operations} operations, {held} clauses held in {judged} judgements"]
    told: set[str] = set()
    for (subject, device, clause), counts in own:
        for word, count in (("broken", counts.failed), ("not known", counts.unknown)):
            if count:
                times = f" ({count} times)" if count > 1 else ""
                text = f": {EVERY[clause].text}" if clause in EVERY else ""
                lines.append(f"  {word}{times}: {subject} {device} {clause}{text}")
    for finding in verdict.findings:
        if finding.departure is not None and finding.departure not in told:
            told.add(finding.departure)
            lines.append(f"  known departure: {finding.departure}: {known_as(finding.departure)}")
    for finding in verdict.failed:
        alike = f"{finding.subject} {finding.device} {finding.clause}"
        if alike not in told:
            told.add(alike)
            lines += tell(finding)
    return [*lines, *[f"warning: {warning}" for warning in verdict.warnings]]


def _state(state: dict[str, Any]) -> str:
    accepted = " ".join(state.get("accepted", ())) or "nothing"
    offers = " | ".join(" ".join(chain) for chain in state.get("offers", ())) or "nothing"
    log = " ".join(state.get("log", ())) or "empty"
    lost = f"; lost: {state['lost']}" if state.get("lost") else ""
    return f"accepted {accepted}; pending {offers}; log {log}{lost}"


def _plain(value: Any) -> str:
    text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
