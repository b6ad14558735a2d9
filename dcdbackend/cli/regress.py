"""`dcd regress`: boot a guest with a DCD, run the scenarios, judge every answer.

It finds the parts, chooses what runs, and shows what came of it; running is `scenario.runner`'s, judging `checker`'s.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shlex
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

from .. import image, machine
from ..boot import MAX_SEED, Setup, prepare
from ..checker.explain import tell
from ..errors import AskedWrongly
from ..model.departures import CRASH, DEPARTURES, worst_first
from ..report import table
from ..report.junit import Case
from ..report.junit import write as write_junit
from ..rundir import new_run_dir
from ..scenario import SCENARIOS, Scenario, choose, ordered
from ..scenario.runner import Result, Runner, as_data, worse
from ..topology import Kind
from .progress import progress

MAX_JOBS = 64
VERDICT = "verdict.json"
REPORT = "report.txt"


def regress(
    scenario: Annotated[
        list[str] | None, typer.Option("--scenario", "-s", metavar="NAME", help="Only these (patterns allowed).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Run the same choices again.", min=0, max=MAX_SEED)] = None,
    regions: Annotated[int, typer.Option(help="DC regions of the device, 1 to 8.")] = 2,
    size: Annotated[str, typer.Option(help="Its dynamic capacity, a multiple of 256M for each region.")] = "2G",
    topology: Annotated[str, typer.Option(help="Where the devices hang: direct, switch, or all of these.")] = "direct",
    qemu: Annotated[
        str | None, typer.Option(help="A qemu-system-x86_64, `system`, or `private`. [env: DCD_QEMU]")
    ] = None,
    kernel: Annotated[str | None, typer.Option(help="A bzImage. [env: DCD_KERNEL]")] = None,
    initrd: Annotated[
        str | None, typer.Option(help="A root of your own with python3; the agent is appended. [env: DCD_INITRD]")
    ] = None,
    accel: Annotated[str | None, typer.Option(help="kvm, tcg or auto. [env: DCD_ACCEL]")] = None,
    breaks: Annotated[
        str | None,
        typer.Option("--break", metavar="CLAUSE", help="Have host U break this rule, to see it convicted."),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit report into this file.")] = None,
    repeat: Annotated[int, typer.Option(help="Run everything so often, each time with the next seed.", min=1)] = 1,
    jobs: Annotated[
        int | None, typer.Option(help="Guests side by side; 2 by default, where there are as many processors.", min=1)
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run is kept; a fresh directory by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    list_only: Annotated[bool, typer.Option("--list", help="Only list the scenarios.")] = False,
    print_command: Annotated[bool, typer.Option(help="Only print the QEMU command line of each topology.")] = False,
) -> int:
    """Run the scenarios on a real QEMU and a real kernel, and judge device and host by rule.

    Exit: 0 everything as expected, known departures included; 1 a rule broken; 2 wrong usage; 3 the environment
    cannot; 4 unknown, or nothing was judged.
    """
    chosen, kinds = ordered(choose(scenario or ())), _kinds(topology)
    if list_only:
        for one in SCENARIOS.values():
            print(f"{one.name:24} {one.summary}")  # noqa: T201 (this verb's output)
        return 0
    seed = secrets.randbits(32) if seed is None else seed
    jobs = min(2, os.cpu_count() or 1) if jobs is None else min(jobs, MAX_JOBS)
    err = Console(stderr=True, highlight=False)
    with progress(err) as step:
        parts = image.parts(qemu=qemu, kernel=kernel, initrd=initrd, progress=step)
    setup = asyncio.run(prepare(parts, accel=accel, shape={"regions": regions, "size": size}))
    if print_command:
        for line in dict.fromkeys(_command(replace(setup, kind=kind), one) for kind in kinds for one in chosen):
            print(line)  # noqa: T201 (this verb's output)
        return 0
    directory = new_run_dir("regress", run_dir)
    (directory / "parts.json").write_text(json.dumps(parts.manifest, indent=1) + "\n")
    out = table.console()
    if not as_json:
        out.print(f"run {directory}", markup=False, soft_wrap=True)
    work = [(one, (seed + turn) & MAX_SEED) for turn in range(repeat) for one in chosen]
    results: list[Result] = []
    for kind in kinds:
        results += asyncio.run(_run(replace(setup, kind=kind), work, jobs, directory, breaks, err))
    data = {"seed": seed, "results": [as_data(result) for result in results]}
    (directory / VERDICT).write_text(json.dumps(data, indent=1) + "\n")
    with (directory / REPORT).open("w") as file:
        _show(table.console(file), results, directory)
    if junit is not None:
        write_junit(junit, [_case(result) for result in results], suite="dcd regress", seed=seed)
    if as_json:
        out.print_json(json.dumps(data))
    else:
        _show(out, results, directory)
        again = _again(scenario, seed, breaks, topology)
        out.print(f"again: {again}", markup=False, soft_wrap=True)
    code = 0
    for result in results:
        code = worse(code, result.outcome)
    if not any(result.verdict is not None for result in results):
        return 4
    return code


def _kinds(asked: str) -> tuple[Kind, ...]:
    """The topologies that are meant. Errors: AskedWrongly."""
    there: tuple[Kind, ...] = get_args(Kind)
    found = there if asked == "all" else tuple(kind for kind in there if kind == asked)
    if not found:
        raise AskedWrongly(f"topology {asked!r} is not known; there is {', '.join(there)}, all")
    return found


async def _run(
    setup: Setup,
    work: Sequence[tuple[Scenario, int]],
    jobs: int,
    directory: Path,
    breaks: str | None,
    err: Console,
) -> list[Result]:
    """Everything, `jobs` guests side by side, each with directories, sockets and memory of its own."""
    left = deque(enumerate(work))
    results: dict[int, Result] = {}
    with err.status("starting") if err.is_terminal else _quiet() as status:

        def say(text: str) -> None:
            if status is not None:
                status.update(text)
            else:
                err.print(text, markup=False)

        async def worker() -> None:
            async with Runner(setup, run_dir=directory, seed=0, breaks=breaks, on_boot=say) as runner:
                while left:
                    index, (one, seed) = _next(left, runner)
                    if status is not None:
                        say(f"{len(results) + 1}/{len(work)} {one.name}")
                    results[index] = result = await runner.run(one, seed=seed)
                    if status is None:
                        say(f"{len(results)}/{len(work)} {result.place}: {result.outcome} ({result.seconds:.1f} s)")

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(jobs, len(work))):
                    group.create_task(worker())
        except BaseExceptionGroup as several:  # the first says why; the others were only stopped by it
            raise several.exceptions[0] from None
    return [results[index] for index in sorted(results)]


def _next(left: deque[tuple[int, tuple[Scenario, int]]], runner: Runner) -> tuple[int, tuple[Scenario, int]]:
    """What a worker does next: something that its guest fits, if there is any."""
    for at, (_, (one, _seed)) in enumerate(left):
        if runner.fits(one):
            found = left[at]
            del left[at]
            return found
    return left.popleft()


def _case(result: Result) -> Case:
    classname = "dcd" if result.topology == "direct" else f"dcd.{result.topology}"
    return Case(classname, result.scenario.name, result.outcome, result.reason, result.seconds, result.verdict)


class _quiet:
    """No status line where there is no terminal."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def _command(setup: Setup, scenario: Scenario) -> str:
    argv = machine.full_argv(
        qemu=setup.qemu,
        topology=setup.topology(scenario.shape),
        kernel=setup.kernel,
        initrd=setup.initrd,
        accel=setup.accel,
    )
    return shlex.join(argv)


def _again(patterns: list[str] | None, seed: int, breaks: str | None, topology: str) -> str:
    argv = ["dcd", "regress", "--seed", str(seed)]
    if topology != "direct":
        argv += ["--topology", topology]
    for pattern in patterns or ():
        argv += ["--scenario", pattern]
    if breaks is not None:
        argv += ["--break", breaks]
    return shlex.join(argv)


def _show(console: Console, results: Sequence[Result], directory: Path) -> None:
    verdicts = [result.verdict for result in results if result.verdict is not None]
    console.print(_by_scenario(results))
    console.print()
    console.print(table.by_clause(verdicts, expected=_meant(results)))
    for result in results:
        if result.verdict is None:
            continue
        for finding in result.verdict.failed:
            if result.scenario.expect.get(f"{finding.subject} {finding.clause}") == "fail":
                continue
            console.print()
            console.print(f"{result.place}:", style="bold")
            console.print("\n".join(tell(finding)), markup=False, soft_wrap=True)
    counts: dict[str, Any] = {}
    for result in results:
        counts[result.outcome] = counts.get(result.outcome, 0) + 1
    departures = worst_first(name for verdict in verdicts for name in verdict.departures)
    crashes = [name for name in departures if DEPARTURES[name].severity == CRASH]
    console.print()
    console.print(", ".join(f"{count} {word}" for word, count in sorted(counts.items())), style="bold")
    if departures:
        console.print(f"known departures seen: {', '.join(departures)}", markup=False, soft_wrap=True)
    for name in crashes:
        console.print(f"this one ends QEMU: {name}: {DEPARTURES[name].text}", style="bold", soft_wrap=True)
    console.print(f"judge it again, without a machine: dcd check {shlex.quote(str(directory))}", soft_wrap=True)


def _meant(results: Sequence[Result]) -> set[str]:
    """`subject clause` of what was broken or unknown only where its scenario means it to be."""
    meant: set[str] = set()
    others: set[str] = set()
    for result in results:
        for (subject, _, clause), counts in result.verdict.counts.items() if result.verdict is not None else ():
            name = f"{subject} {clause}"
            ends = {"fail": counts.failed, "unknown": counts.unknown}
            for end in (end for end, count in ends.items() if count):
                wanted = [pattern for pattern, outcome in result.scenario.expect.items() if outcome == end]
                (meant if any(fnmatch(name, pattern) for pattern in wanted) else others).add(name)
    return meant - others


def _by_scenario(results: Sequence[Result]) -> Table:
    shown = Table(title="By scenario", title_justify="left", box=None, pad_edge=False)
    several = len({result.topology for result in results}) > 1
    for name in ("scenario", *(["topology"] if several else []), "outcome"):
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
            "" if verdict is None else str(verdict.operations),
            str(held or ""),
            f"{result.seconds:.2f}" if verdict is not None else "",
            result.reason,
        )
    return shown
