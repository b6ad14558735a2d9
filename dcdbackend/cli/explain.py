"""`dcd explain`: what was found in a recorded history, told as a story."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import AskedWrongly
from . import complete, out

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..checker.verdict import Finding
    from ..history import Header

MOST_ROWS = 100_000
_ORDER = ("fail", "unknown", "departure")


def explain(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|NAME",
            help="A run directory, a scenario's directory in it, a history file; or a launched guest.",
            autocompletion=complete.runs,
        ),
    ],
    finding: Annotated[int | None, typer.Option("--finding", help="Tell this one alone, by its number.")] = None,
    chart: Annotated[
        bool, typer.Option("--chart", help="Draw who spoke to whom instead: a sequence chart of the five actors.")
    ] = False,
    rows: Annotated[
        int | None, typer.Option(help="With --chart: so many rows of a history at most; 200 by default.")
    ] = None,
    witnesses: Annotated[
        bool, typer.Option("--witnesses", help="With --chart: every question to a witness has a row of its own.")
    ] = False,
    as_json: out.Json = False,
) -> int:
    """Tell what a history shows to be wrong: who asked what, what each witness said, the states, the rule, its source.

    Broken rules come first; without any the known departures are told, each once. A finding keeps its number.
    With --chart nothing is judged: the history is drawn as it happened, its middle left out where it is long.
    """
    from ..checker import narrate
    from .check import histories, place, reading

    if chart and finding is not None:
        raise AskedWrongly("--chart draws the whole history and --finding tells one of its findings; leave one out")
    if (rows is not None or witnesses) and not chart:
        raise AskedWrongly(f"{'--witnesses' if rows is None else '--rows'} is for --chart; say --chart, too")
    if chart:
        return _charts(run, rows, witnesses, as_json)
    found = [(path, one) for path in histories(place(run)) for one in _findings(path)]
    found.sort(key=lambda pair: _ORDER.index(pair[1].outcome) if pair[1].outcome in _ORDER else len(_ORDER))
    if finding is not None and not 1 <= finding <= len(found):
        raise AskedWrongly(f"there is no finding {finding} in {run}: it has {len(found)}; give 1 to {len(found)}")
    told = [finding] if finding is not None else _chosen([one for _, one in found])
    stories = []
    for number in told:
        path, one = found[number - 1]
        with reading(path) as history:
            stories.append((number, narrate.gather(one, history, _again(path, history.header))))
    if as_json:
        out.data([narrate.as_data(story, number) for number, story in stories])
        return 0
    for number, story in stories:
        out.line("\n".join(narrate.tell(story, number, len(found))) + "\n")
    if not stories:
        out.note(f"nothing was found in {run}: no rule broken, no departure")
    out.following("check", run)
    return 0


def _charts(run: str, rows: int | None, witnesses: bool, as_json: bool) -> int:
    """The chart of each history of a run. Errors: AskedWrongly, BadHistory."""
    from ..asked import whole
    from ..report import chart
    from .check import histories, place, reading

    most = whole(chart.MOST_ROWS if rows is None else rows, "--rows", least=chart.LEAST_ROWS, most=MOST_ROWS)
    drawn = []
    width = out.console().width
    for path in histories(place(run)):
        with reading(path) as history:
            header = history.header
            several = len(header.devices) > 1
            lines = (op._asdict() for op in history)
            found = chart.chart(lines, several=several, witnesses=witnesses, most=most)
        if as_json:
            drawn.append({"history": str(path), "scenario": header.scenario, **chart.as_data(found)})
            continue
        generation = header.host.get("generation") or "unknown"
        out.line(f"{header.scenario}: host {generation}, backend {header.backend}, {path}")
        for line in chart.draw(found, width):
            out.line(line)
        out.line("")
        for warning in history.warnings:
            out.note(f"warning: {warning}")
    if as_json:
        out.data(drawn)
    else:
        out.following("check", run)
    return 0


def _findings(path: Path) -> tuple[Finding, ...]:
    from ..checker import check
    from .check import reading

    with reading(path) as history:
        return check(history).findings


def _chosen(findings: Sequence[Finding]) -> list[int]:
    """The numbers of all that is broken or not known; of the departures, each once, if there is nothing else."""
    broken = [number for number, one in enumerate(findings, 1) if one.outcome in ("fail", "unknown")]
    if broken:
        return broken
    once: dict[str | None, int] = {}
    for number, one in enumerate(findings, 1):
        once.setdefault(one.departure, number)
    return sorted(once.values())


def _again(path: Path, header: Header) -> list[str]:
    """Commands that show it again: the history judged, and the scenario run."""
    from ..scenario import SCENARIOS

    commands = [["dcd", "check", str(path)]]
    if header.backend != "recorded" and header.scenario in SCENARIOS:
        backend = ["--backend", "emulator"] if header.backend == "emulator" else []
        commands.append(["dcd", "regress", "-s", header.scenario, "--seed", str(header.seed), *backend])
    return [shlex.join(command) for command in commands]
