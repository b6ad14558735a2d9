"""What came of scenarios that were run: their files in the run's directory, the tables, the exit code.

For `dcd regress` and `dcd simulate`, which differ in what they run and not in how it is shown.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..boot import KERNEL
from ..checker.explain import tell
from ..emulated import WARNING
from ..kernel.unprovoked import not_judged
from ..model.departures import CRASH, DEPARTURES, worst_first
from ..report import table
from ..report.junit import Case
from ..report.junit import write as write_junit
from ..scenario import SCENARIOS
from ..scenario.runner import Result, as_data, worse

VERDICT = "verdict.json"
REPORT = "report.txt"


def exit_code(results: Sequence[Result]) -> int:
    """That of all outcomes together; 4 where nothing was judged."""
    code = 0
    for result in results:
        code = worse(code, result.outcome)
    if not any(result.verdict is not None for result in results):
        return 4
    return code


def write(results: Sequence[Result], seed: int, directory: Path, junit: Path | None, unreal: bool) -> dict[str, Any]:
    """Verdict and report into the run's directory, JUnit where it is wanted; the verdict's data."""
    data: dict[str, Any] = {"seed": seed, "results": [as_data(result) for result in results]}
    left = _left_out(results)
    if left:
        data["not_judged"] = left
    if unreal:
        data = {"backend": "emulator", "warning": WARNING, **data}
    (directory / VERDICT).write_text(json.dumps(data, indent=1) + "\n")
    with (directory / REPORT).open("w") as file:
        warn(table.console(file), unreal)
        show(table.console(file), results, directory)
    if junit is not None:
        write_junit(
            junit,
            [_case(result) for result in results],
            suite="dcd regress" + (" (EMULATOR)" if unreal else ""),
            seed=seed,
        )
    return data


def warn(console: Console, unreal: bool) -> None:
    """What a result of the emulator is worth, loudly."""
    if unreal:
        console.print(WARNING, style="bold red", markup=False, soft_wrap=True)


def show(console: Console, results: Sequence[Result], directory: Path) -> None:
    verdicts = [result.verdict for result in results if result.verdict is not None]
    console.print(_by_scenario(results))
    console.print()
    meant = table.meant((one.scenario.expect, one.verdict) for one in results if one.verdict is not None)
    console.print(table.by_clause(verdicts, expected=meant))
    for result in results:
        if result.verdict is None:
            continue
        for finding in result.verdict.failed:
            if result.scenario.expect.get(f"{finding.subject} {finding.clause}") == "fail":
                continue
            console.print()
            console.print(f"{result.place}:", style="bold")
            console.print("\n".join(tell(finding)), markup=False, soft_wrap=True)
    left = _left_out(results)
    if left:
        console.print()
        console.print(_not_judged(left))
    counts: dict[str, Any] = {}
    for result in results:
        counts[result.outcome] = counts.get(result.outcome, 0) + 1
    departures = worst_first(name for verdict in verdicts for name in verdict.departures)
    crashes = [name for name in departures if name in DEPARTURES and DEPARTURES[name].severity == CRASH]
    console.print()
    where = " on the EMULATOR" if any(result.emulated for result in results) else ""
    console.print(", ".join(f"{count} {word}" for word, count in sorted(counts.items())) + where, style="bold")
    if departures:
        console.print(f"known departures seen: {', '.join(departures)}", markup=False, soft_wrap=True)
    for name in crashes:
        console.print(f"this one ends QEMU: {name}: {DEPARTURES[name].text}", style="bold", soft_wrap=True)
    console.print(f"judge it again, without a machine: dcd check {shlex.quote(str(directory))}", soft_wrap=True)


def _left_out(results: Sequence[Result]) -> list[dict[str, str]]:
    """Of a kernel under test, the clauses of its generation that a whole run did not judge, each with the reason."""
    if not {one.name for one in SCENARIOS.values() if KERNEL in one.needs} <= {one.scenario.name for one in results}:
        return []
    ran = [one for one in results if one.generation and one.verdict is not None]
    judged = {
        clause
        for one in ran
        if one.verdict is not None
        for (_, _, clause), counts in one.verdict.counts.items()
        if counts.passed or counts.failed or counts.departure
    }
    return [
        {"generation": name, "clause": clause, "reason": reason or "no scenario of this run did"}
        for name in dict.fromkeys(one.generation for one in ran)
        for clause, reason in not_judged(name, judged).items()
    ]


def _not_judged(left: Sequence[Mapping[str, str]]) -> Table:
    shown = Table(title="Not judged", title_justify="left", box=None, pad_edge=False)
    for name in ("clause", "of", "outcome", "why"):
        shown.add_column(name, no_wrap=name != "why")
    for one in left:
        shown.add_row(one["clause"], one["generation"], "[dim]skipped[/]", one["reason"])
    return shown


def _by_scenario(results: Sequence[Result]) -> Table:
    unreal = any(result.emulated for result in results)
    title = "By scenario, ON THE EMULATOR" if unreal else "By scenario"
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    several = len({result.topology for result in results}) > 1
    for name in ("scenario", *(["topology"] if several else []), "outcome", "seen"):
        shown.add_column(name, no_wrap=True)
    for name in ("operations", "clauses", "seconds"):
        shown.add_column(name, justify="right")
    shown.add_column("why")
    for result in results:
        verdict = result.verdict
        held = 0 if verdict is None else sum(1 for counts in table.totals([verdict]).values() if counts.passed)
        shown.add_row(
            result.scenario.name,
            *([result.topology] if several else []),
            f"[{table.STYLE[result.outcome]}]{result.outcome}[/]",
            "" if verdict is None else verdict.seen,
            "" if verdict is None else str(verdict.operations),
            str(held or ""),
            f"{result.seconds:.2f}" if verdict is not None else "",
            result.reason,
        )
    return shown


def _case(result: Result) -> Case:
    classname = "dcd" if result.topology == "direct" else f"dcd.{result.topology}"
    return Case(classname, result.scenario.name, result.outcome, result.reason, result.seconds, result.verdict)
