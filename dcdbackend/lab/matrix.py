"""Columns (a host and what is switched on) against scenarios and traces: each cell run, counted, judged.

A scenario is run on the emulator by the runner that `dcd regress` has; a trace is played in simulated time. Both
leave a history in the run's directory, and every number of a cell comes from it, but for what only the players know
(who waits, who uses what). Cells are independent of each other and run in processes side by side; what comes out does
not depend on how many. It prints nothing.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from ..boot import HISTORY
from ..checker import Verdict, check
from ..emulated import EmulatedSetup
from ..emulator.machine import HOSTS
from ..errors import AnsweredWrongly, AskedWrongly, CannotRun, DcdError
from ..history import History, Writer
from ..model.generation import setup
from ..scenario import Scenario, choose, ordered
from ..scenario.load import named
from ..scenario.printed import routed
from ..scenario.runner import Runner
from . import play
from .measure import Measure, Numbers
from .side import DRIVERS
from .trace import tenants

PART = 25
"""Scenarios that one process runs in one go."""
SHAPE: dict[str, int | str] = {"regions": 2, "size": "2G"}
DEFAULT = (
    "U",
    "A",
    "B-rfc",
    "v10",
    "v11",
    "v11+untagged-partial-claim",
    "v11+one-untagged-per-group",
    "v11+release-remembered",
    "v11+extend-accepted",
    "v11+map-to-extents",
    "v11+no-tag-no-service",
    "A+interleave",
    "C/sysram",
    "C/sysram-untagged",
    "C/devdax",
    "C/virtio",
)
"""What is compared when nobody says what."""


class Column(NamedTuple):
    """A host of `HOSTS`, of C with a policy driver ("": as a scenario makes it), and switches that are on."""

    host: str
    driver: str = ""
    what_if: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As `column` reads it."""
        return "+".join([f"{self.host}/{self.driver}" if self.driver else self.host, *self.what_if])

    @property
    def plain(self) -> Column:
        """The same host without any switch."""
        return self._replace(what_if=())

    @property
    def emulated(self) -> Column:
        """The column of scenarios that it stands in: there a script, if any, says which driver."""
        return self._replace(driver="")


def column(text: str) -> Column:
    """`v11`, `v11+release-remembered`, `C/devdax+no-tag-no-service`. Errors: AskedWrongly."""
    place, *what_if = text.split("+")
    host, slash, driver = place.partition("/")
    if host not in HOSTS:
        raise AskedWrongly(f"host {host!r} in {text!r} is not simulated; there is {', '.join(HOSTS)}")
    if slash and (host != "C" or driver not in DRIVERS):
        raise AskedWrongly(f"{place!r}: only host C has policy drivers, one of {', '.join(DRIVERS)}; write C/devdax")
    if host == "U" and what_if:
        raise AskedWrongly(f"host U and what-if {what_if[0]!r}: U has no rules to switch; name a generation, like v11")
    if host != "U":
        setup(host, what_if=what_if)
    return Column(host, driver, tuple(sorted(set(what_if))))


class ScenarioCell(NamedTuple):
    """How a scenario ended in a column. `followed`: its script could be, to the end; `numbers`: None where it did not
    run at all; `broken`: clauses that were, and that it does not mean to be."""

    outcome: str
    reason: str
    followed: bool
    numbers: Numbers | None
    broken: tuple[str, ...] = ()


class TraceCell(NamedTuple):
    """What came of a trace in a column. `verdict`: the checker's word on its history; `broken`: clauses."""

    outcome: play.Outcome
    numbers: Numbers
    verdict: str
    broken: tuple[str, ...]


class Work(NamedTuple):
    """What is to be done. `patterns`: scenarios, as `dcd regress -s` takes them; None: no scenarios."""

    columns: tuple[Column, ...]
    patterns: tuple[str, ...] | None
    traces: tuple[str, ...]
    seed: int
    asks: int
    run_dir: Path


class Found(NamedTuple):
    """Every cell that was run, by row and column's name."""

    scenarios: dict[str, dict[str, ScenarioCell]]
    traces: dict[str, dict[str, TraceCell]]


Cells = list[tuple[str, str, str, "ScenarioCell | TraceCell"]]
"""Kind of row, row, column, cell."""
Task = tuple[Callable[..., Cells], tuple[Any, ...]]


def run(work: Work, *, jobs: int, done: Callable[[int, int, str], None]) -> Found:
    """Every cell. `done` is told so many of so many parts, and which. Errors: AskedWrongly, CannotRun."""
    tasks = list(_tasks(work))
    found = Found({}, {})
    with closing(_results(tasks, jobs)) as results:
        for number, (task, cells) in enumerate(results, 1):
            for kind, row, name, cell in cells:
                getattr(found, kind).setdefault(row, {})[name] = cell
            rows = ", ".join(dict.fromkeys([row for _, row, _, _ in cells]))
            done(number, len(tasks), f"{task[1][0].name}: {rows[:60]}")
    return _in_order(work, found)


def _in_order(work: Work, found: Found) -> Found:
    """Rows and columns in the order asked for, whichever was ready first. A column of C has C's scenarios."""
    rows = [one.name for one in choose(named(work.patterns))] if work.patterns is not None else []
    scenarios = {
        row: {one.name: found.scenarios[row][one.emulated.name] for one in work.columns}
        for row in rows
        if row in found.scenarios
    }
    return Found(
        scenarios, {row: {one.name: found.traces[row][one.name] for one in work.columns} for row in work.traces}
    )


def _tasks(work: Work) -> Iterator[Task]:
    if work.patterns is not None:
        chosen = [one.name for one in ordered(choose(named(work.patterns)))]
        for one in dict.fromkeys([one.emulated for one in work.columns]):
            for first in range(0, len(chosen), PART):
                part = tuple(chosen[first : first + PART])
                yield _scenarios, (one, work.patterns, part, work.seed, work.run_dir)
    for one in work.columns:
        yield _traces, (one, work.traces, work.seed, work.asks, work.run_dir)


def _results(tasks: Sequence[Task], jobs: int) -> Generator[tuple[Task, Cells], None, None]:
    """Each task with what came of it, as they end; in this process where there is one job."""
    if jobs == 1 or len(tasks) < 2:
        for task in tasks:
            yield task, task[0](*task[1])
        return
    context = multiprocessing.get_context("spawn")
    leash, held = context.Pipe(duplex=False)
    with leash, held, ProcessPoolExecutor(jobs, mp_context=context, initializer=_leashed, initargs=(leash,)) as pool:
        try:
            waiting: dict[Future[Cells], Task] = {pool.submit(_elsewhere, task): task for task in tasks}
            while waiting:
                ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ready:
                    yield waiting.pop(future), future.result()
        except BaseException:
            held.close()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leashed(leash: Connection) -> None:
    """A process of the pool ends when the other end is let go: at once when that is stopped, and when it is killed.

    By itself it would finish what it does, take the next, or wait for ever. Ctrl-C is for who holds the leash.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(leash,), daemon=True).start()


def _end_with(leash: Connection) -> None:
    with suppress(EOFError, OSError):
        leash.recv_bytes()
    os._exit(1)


def _elsewhere(task: Task) -> Cells:
    """A task in a process of its own. Errors: the task's, as a kind that can be handed to another process."""
    try:
        return task[0](*task[1])
    except DcdError as error:
        kind = next((one for one in (AskedWrongly, CannotRun) if isinstance(error, one)), AnsweredWrongly)
        raise kind(str(error)) from None


def place(run_dir: Path, one: Column, kind: str) -> Path:
    """Where the runs of a column are kept."""
    return run_dir / one.name.replace("/", "-") / kind


def _scenarios(one: Column, patterns: Sequence[str], names: Sequence[str], seed: int, run_dir: Path) -> Cells:
    chosen = {found.name: found for found in choose(named(patterns))}
    switched: dict[str, Any] = {"what_if": frozenset(one.what_if)} if one.what_if else {}
    emulated = EmulatedSetup(host=one.host, shape=SHAPE, seed=seed, **switched)
    with routed():
        cells = asyncio.run(_run(emulated, [chosen[name] for name in names], seed, place(run_dir, one, "scenarios")))
    return [("scenarios", name, one.name, cell) for name, cell in cells]


async def _run(
    emulated: EmulatedSetup, chosen: Sequence[Scenario], seed: int, directory: Path
) -> list[tuple[str, ScenarioCell]]:
    found = []
    async with Runner(emulated, run_dir=directory, seed=seed) as runner:
        for scenario in chosen:
            result = await runner.run(scenario)
            path = None if result.directory is None else result.directory / HISTORY
            numbers = None if path is None else numbers_of(path)
            broken = () if result.verdict is None else _broken(result.verdict, scenario.expect)
            cell = ScenarioCell(result.outcome, result.reason, result.outcome != "skipped", numbers, broken)
            found.append((scenario.name, cell))
    return found


def numbers_of(path: Path) -> Numbers:
    """The numbers of a history in a file. Errors: BadHistory."""
    measure = Measure()
    with path.open("rb") as file:
        for op in History(file):
            measure.take(op)
    return measure.numbers()


def _traces(one: Column, names: Sequence[str], seed: int, asks: int, run_dir: Path) -> Cells:
    directory = place(run_dir, one, "traces")
    return [("traces", name, one.name, trace_cell(one, name, seed, asks, directory / name)) for name in names]


def trace_cell(one: Column, name: str, seed: int, asks: int, directory: Path) -> TraceCell:
    """One trace played in one column; its history is left in the directory, and judged. Errors: AskedWrongly."""
    directory.mkdir(mode=0o700, parents=True)
    path = directory / HISTORY
    host = f"{one.host}/{one.driver}" if one.driver else one.host
    head = play.header(one.host, one.what_if, seed, name)
    writers: list[Writer] = []

    def record(now_ns: Callable[[], int]) -> Writer:
        writers.append(Writer(path, head, now_ns))
        return writers[0]

    try:
        outcome = play.Player(tenants(name, seed), host, one.what_if, seed, record, asks=asks).run()
    finally:
        for writer in writers:
            writer.close()
    with path.open("rb") as file:
        verdict = check(History(file))
    return TraceCell(outcome, numbers_of(path), verdict.outcome, _broken(verdict, {}))


def _broken(verdict: Verdict, meant: Mapping[str, str]) -> tuple[str, ...]:
    """The clauses that were broken and were not meant to be, by subject."""
    names = dict.fromkeys([f"{found.subject} {found.clause}" for found in verdict.failed])
    return tuple([name for name in names if meant.get(name) != "fail"])
