"""The tables of a run: by scenario and by clause, with Rich; plain lines where the output is no terminal."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from fnmatch import fnmatch
from typing import TextIO

from rich.console import Console
from rich.table import Table

from ..checker.verdict import GUEST, OUTCOMES, SEEN, Counts, Verdict
from ..linux_rules import EVERY

WIDTH = 180
STYLE: Mapping[str, str] = {
    "pass": "green",
    "fail": "bold red",
    "unknown": "yellow",
    "departure": "cyan",
    "skipped": "dim",
    "as meant": "green",
}


def totals(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], Counts]:
    """Counts by (subject, clause) over devices and verdicts, in the order of the rules."""
    found: dict[tuple[str, str], list[int]] = {}
    for verdict in verdicts:
        for (subject, _device, clause), counts in verdict.counts.items():
            cell = found.setdefault((subject, clause), [0] * len(OUTCOMES))
            for index, count in enumerate(counts):
                cell[index] += count
    order = {clause: index for index, clause in enumerate(EVERY)}
    return {
        name: Counts(*cell)
        for name, cell in sorted(found.items(), key=lambda item: (item[0][0], order.get(item[0][1], len(order))))
    }


def outcome(counts: Counts) -> str:
    """The one word for a clause's counts: the worst that happened."""
    for word, count in (
        ("fail", counts.failed),
        ("unknown", counts.unknown),
        ("departure", counts.departure),
        ("pass", counts.passed),
    ):
        if count:
            return word
    return "skipped"


def meant(results: Iterable[tuple[Mapping[str, str], Verdict]]) -> set[str]:
    """`subject clause` of what was broken or unknown only where its scenario means it to be.

    `results`: what a scenario expects (`subject clause` or a pattern of it: outcome), and its verdict. What the guest
    judged broken (`guest.host`, `guest.device`) is meant where the same breach by the controller's judgement is; that
    it does not know elsewhere is its usual state, and changes nothing.
    """
    found: set[str] = set()
    others: set[str] = set()
    for expect, verdict in results:
        for (subject, _, clause), counts in verdict.counts.items():
            name = f"{subject} {clause}"
            unknown = 0 if subject.startswith(GUEST) else counts.unknown
            for end, count in (("fail", counts.failed), ("unknown", unknown)):
                if count:
                    wanted = [pattern for pattern, outcome in expect.items() if outcome == end]
                    as_wanted = any(fnmatch(name.removeprefix(GUEST), pattern) for pattern in wanted)
                    (found if as_wanted else others).add(name)
    return found - others


def by_clause(verdicts: Iterable[Verdict], *, expected: Container[str] = ()) -> Table:
    """One row a clause and subject, what the guest judged beside what the controller did.

    `expected`: `subject clause` of what was meant to be broken, or to stay unknown (see `meant`); its row says so.
    """
    table = Table(title="By clause", title_justify="left", box=None, pad_edge=False)
    for name in ("clause", "subject", "outcome", "seen"):
        table.add_column(name, no_wrap=True)
    for name in ("held", "broken", "unknown", "known", "in the guest"):
        table.add_column(name, justify="right")
    table.add_column("what it asks")
    verdicts = list(verdicts)
    found = totals(verdicts)
    seen = _seen(verdicts)
    for (subject, clause), counts in found.items():
        if subject.startswith(GUEST):
            continue
        word = _word(counts, f"{subject} {clause}", expected)
        guest = found.get((GUEST + subject, clause))
        table.add_row(
            clause,
            subject,
            f"[{STYLE[word]}]{word}[/]",
            seen.get((subject, clause), ""),
            *[str(count or "") for count in (counts.passed, counts.failed, counts.unknown, counts.departure)],
            "" if guest is None else _in_guest(_word(guest, f"{GUEST}{subject} {clause}", expected), guest),
            EVERY[clause].text if clause in EVERY else "",
        )
    return table


def _seen(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], str]:
    """By (subject, clause): whether what was judged was real, recorded or simulated; of several, the first of these."""
    found: dict[tuple[str, str], str] = {}
    for word in SEEN[::-1]:
        for verdict in verdicts:
            if verdict.seen == word:
                found |= {(subject, clause): word for subject, _, clause in verdict.counts}
    return found


def console(file: TextIO | None = None) -> Console:
    """Where tables go: at a terminal's own width, or wide enough for one line a row where there is none."""
    shown = Console(file=file, highlight=False)
    return shown if shown.is_terminal else Console(file=file, highlight=False, width=WIDTH)


def _word(counts: Counts, name: str, expected: Container[str]) -> str:
    word = outcome(counts)
    return "as meant" if word in ("fail", "unknown") and name in expected else word


def _in_guest(word: str, counts: Counts) -> str:
    return str(counts.passed) if word == "pass" else f"[{STYLE[word]}]{word}[/]"
