"""`dcd compare-policies`: hosts and what-if switches against all scenarios and against traces of tenants."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import AskedWrongly, CannotRun
from . import complete, out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from ..lab.matrix import Column, Found

MAX_JOBS = 64
NONE = "none"
COMPARISON = "comparison.json"


def compare(
    hosts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[HOST[/DRIVER][+SWITCH]...]...",
            help="Columns: v11, v11+release-remembered, C/devdax; without any, all generations and switches.",
            autocompletion=lambda: complete_columns(),
        ),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            "-s",
            metavar="NAME|FILE",
            help="Only these scenarios (patterns, a script); or none.",
            autocompletion=complete.scenarios,
        ),
    ] = None,
    trace: Annotated[
        list[str] | None, typer.Option("--trace", "-t", metavar="NAME", help="Only these traces; or none.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of traces, scenarios and choices that a host is free in.", min=0)] = 1,
    asks: Annotated[
        int, typer.Option(help="In traces: how often a tenant's capacity is asked back at most, every 5 s.")
    ] = 24,
    every: Annotated[bool, typer.Option("--all", help="Show the scenarios, too, in which no column differs.")] = False,
    picture: Annotated[
        Path | None, typer.Option("--svg", help="Draw DPA space over time of every trace and column into this file.")
    ] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Draw it in the terminal, too.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Processes side by side.", min=1, max=MAX_JOBS)] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the runs are kept; a fresh directory by default.")] = None,
    as_json: out.Json = False,
    list_only: Annotated[bool, typer.Option("--list", help="Only list columns, switches and traces.")] = False,
) -> int:
    """Compare policies: what is taken, refused, held, stranded, and what a manager must repeat, by host and switch.

    Everything is simulated, on the emulator or in simulated time: it says nothing of QEMU or of a kernel that runs.
    Exit: 0; 1 where a host without switches breaks a rule, or any host in a trace; 2 wrong usage.
    """
    from ..lab import matrix
    from ..lab.trace import tenants
    from ..rundir import new_run_dir

    if list_only:
        return _list()
    columns = _columns(hosts or matrix.DEFAULT)
    traces = _traces(trace)
    for name in traces:
        tenants(name, seed)
    patterns = None if scenario == [NONE] else tuple(scenario or ())
    if patterns is None and not traces:
        raise AskedWrongly("--scenario none and --trace none leave nothing to compare; leave one of the two out")
    if (picture is not None or draw) and not traces:
        raise AskedWrongly("--trace none and a picture, which is drawn of traces; leave one of the two out")
    _check(asks, patterns, picture)
    directory = new_run_dir("compare", run_dir)
    if jobs is None:  # traces alone are over before another process has begun
        jobs = 1 if patterns is None else min(4, 2 * (os.cpu_count() or 1))
    found = _run(matrix.Work(columns, patterns, traces, seed, asks, directory), jobs)
    return _tell(found, columns, directory, seed, asks, picture, draw, every, as_json)


def complete_columns() -> list[str]:
    """The default columns."""
    from ..lab.matrix import DEFAULT

    return list(DEFAULT)


def _columns(hosts: Sequence[str]) -> tuple[Column, ...]:
    """Errors: AskedWrongly."""
    from ..lab.matrix import column

    return tuple(dict.fromkeys([column(text) for text in hosts]))


def _traces(given: Sequence[str] | None) -> tuple[str, ...]:
    from ..lab.trace import TRACES

    if given == [NONE]:
        return ()
    return tuple(dict.fromkeys(given or TRACES))


def _check(asks: int, patterns: Sequence[str] | None, picture: Path | None) -> None:
    """What would go wrong at the end goes wrong now. Errors: AskedWrongly, CannotRun."""
    from ..asked import whole
    from ..lab.play import MOST_ASKS
    from ..scenario import choose
    from ..scenario.load import named

    whole(asks, "--asks", least=1, most=MOST_ASKS)
    if patterns is not None:
        choose(named(patterns))
    if picture is not None and (picture.is_dir() or not picture.absolute().parent.is_dir()):
        raise CannotRun(f"{picture} cannot be written: it is a directory, or lies in none; give a file, like lab.svg")


def _run(work: object, jobs: int) -> Found:
    """Run it, with a bar on a terminal, and a line a part elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..lab import matrix

    assert isinstance(work, matrix.Work)
    err = Console(stderr=True, highlight=False)
    if not err.is_terminal:
        return matrix.run(work, jobs=jobs, done=lambda at, of, what: err.print(f"{at}/{of} {what}", markup=False))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as shown:
        task = shown.add_task("comparing", total=None)
        return matrix.run(
            work, jobs=jobs, done=lambda at, of, what: shown.update(task, completed=at, total=of, description=what)
        )


def _tell(
    found: Found,
    columns: Sequence[Column],
    directory: Path,
    seed: int,
    asks: int,
    picture: Path | None,
    draw: bool,
    every: bool,
    as_json: bool,
) -> int:
    from ..emulated import WARNING
    from ..lab import picture as pictures
    from ..lab import table as report
    from ..lab.trace import TRACES
    from ..report import table

    data = report.as_data(found, [one.name for one in columns], seed, asks)
    (directory / COMPARISON).write_text(json.dumps(data, indent=1) + "\n")
    panels = {
        f"{row}: {TRACES[row].text}": [pictures.Panel(name, cell.outcome.frames) for name, cell in cells.items()]
        for row, cells in found.traces.items()
    }
    if picture is not None:
        try:
            picture.write_text(pictures.svg(panels))
        except OSError as error:
            raise CannotRun(f"{picture} cannot be written: {error.strerror}; give another file") from error
        out.note(f"drawn: {picture}")
    if as_json:
        out.data(data)
    else:
        console = table.console()
        _show(console, [*report.scenarios(found.scenarios, columns, every=every)])
        _show(console, [*report.traces(found.traces, {name: one.text for name, one in TRACES.items()})])
        for name, some in panels.items() if draw else ():
            console.print(f"\n{name}", style="bold", markup=False)
            for line in pictures.draw(some, console.width):
                console.print(line, markup=False, no_wrap=True, overflow="crop")
        console.print(WARNING, style="bold red", markup=False, soft_wrap=True)
        out.note(f"kept: {directory} (dcd explain --chart {shlex.quote(str(directory))}/HOST/traces/NAME draws a run)")
    return _exit_code(found)


def _show(console: Console, parts: Sequence[Table | str]) -> None:
    from ..lab.table import fitting

    for part in parts:
        if isinstance(part, str):
            console.print(part, markup=False, soft_wrap=True)
            console.print()
            continue
        for table in fitting(part, console.width):
            out.table(table)
            console.print()


def _exit_code(found: Found) -> int:
    """1 where a rule is broken that no scenario means to be: by a host as it is, or in any trace."""
    scenarios = [
        cell.broken
        for cells in found.scenarios.values()
        for name, cell in cells.items()
        if "+" not in name  # what a switch breaks is a result, and shown
    ]
    traces = [cell.broken for cells in found.traces.values() for cell in cells.values()]
    return 1 if any([*scenarios, *traces]) else 0


def _list() -> int:
    from ..lab.matrix import DEFAULT
    from ..lab.side import DRIVERS
    from ..lab.trace import TRACES
    from ..model.generation import WHAT_IFS

    out.line("hosts and switches compared by default: " + " ".join(DEFAULT))
    out.line("policy drivers of host C: " + " ".join(DRIVERS))
    for switch in WHAT_IFS.values():
        out.line(f"switch {switch.name:24} {switch.text}")
    for trace in TRACES.values():
        out.line(f"trace  {trace.name:24} {trace.text}")
    return 0
