"""The tables of a run: by scenario and by clause, with Rich; plain lines where the output is no terminal."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import TextIO

from rich.console import Console
from rich.table import Table

from ..checker.verdict import GUEST, OUTCOMES, Counts, Verdict
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


def by_clause(verdicts: Iterable[Verdict], *, expected: Container[str] = ()) -> Table:
    """One row a clause and subject, what the guest judged beside what the controller did.

    `expected`: `subject clause` of what was meant to be broken, or to stay unknown; its row says so.
    """
    table = Table(title="By clause", title_justify="left", box=None, pad_edge=False)
    for name in ("clause", "subject", "outcome"):
        table.add_column(name, no_wrap=True)
    for name in ("held", "broken", "unknown", "known", "in the guest"):
        table.add_column(name, justify="right")
    table.add_column("what it asks")
    found = totals(verdicts)
    for (subject, clause), counts in found.items():
        if subject.startswith(GUEST):
            continue
        word = outcome(counts)
        if word in ("fail", "unknown") and f"{subject} {clause}" in expected:
            word = "as meant"
        guest = found.get((GUEST + subject, clause))
        table.add_row(
            clause,
            subject,
            f"[{STYLE[word]}]{word}[/]",
            *[str(count or "") for count in (counts.passed, counts.failed, counts.unknown, counts.departure)],
            "" if guest is None else _in_guest(guest),
            EVERY[clause].text if clause in EVERY else "",
        )
    return table


def console(file: TextIO | None = None) -> Console:
    """Where tables go: at a terminal's own width, or wide enough for one line a row where there is none."""
    shown = Console(file=file, highlight=False)
    return shown if shown.is_terminal else Console(file=file, highlight=False, width=WIDTH)


def _in_guest(counts: Counts) -> str:
    word = outcome(counts)
    return str(counts.passed) if word == "pass" else f"[{STYLE[word]}]{word}[/]"
