"""`dcd check`: judge what was recorded, with no machine; of a launched guest what is recorded so far, alive or dead."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import AskedWrongly, BadHistory, CannotRun
from . import complete, out

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..checker.verdict import Verdict
    from ..history import History

HISTORY = "history.jsonl"
MAX_HISTORIES = 10_000


def check(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|NAME",
            help="A run directory, a scenario's directory in it, a history file; or a launched guest.",
            autocompletion=complete.runs,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> int:
    """Judge a recorded history again: no QEMU, no guest. Exit 0: as expected; 1: a rule broken; 4: unknown.

    A launched guest's name goes before a path of the same name; ./NAME is the path. JSON: {history: verdict}; its
    "unknown" lists what is not known, which also a "departure" or a "pass" can leave: then exit 4.
    """
    from ..checker import check as check_history  # here: completing a name must not cost the checker
    from ..checker.explain import tell
    from ..emulated import WARNING
    from ..report import table
    from ..scenario import SCENARIOS
    from ..scenario.runner import exit_code

    console = table.console()
    verdicts: dict[str, Verdict] = {}
    results: list[tuple[Mapping[str, str], Verdict]] = []
    code, unreal = 0, False
    for path in histories(place(run)):
        with reading(path) as history:
            verdict = check_history(history)
        verdicts[str(path)] = verdict
        known = SCENARIOS.get(history.header.scenario)
        results.append(({} if known is None else known.expect, verdict))
        qemu = (history.header.qemu or {}).get("version", "")
        header = history.header
        scripted = not header.host.get("simulated") or header.host.get("generation") == "U"
        version = qemu if isinstance(qemu, str) else ""
        code = exit_code(code, header.scenario, verdict, version, scripted=scripted)
        unreal = unreal or header.backend == "emulator"
        if not as_json:
            console.print(f"{path}: {history.header.scenario}: [{_style(verdict)}]{verdict.told}[/]")
            if verdict.told != verdict.outcome:
                console.print(f"  not known: {', '.join(verdict.unknown)}", markup=False, soft_wrap=True)
            for warning in verdict.warnings:
                console.print(f"  warning: {warning}", markup=False)
            for finding in verdict.failed:
                console.print("\n".join(tell(finding)), markup=False, soft_wrap=True)
    if unreal and not as_json:
        console.print(WARNING, style="bold red", markup=False, soft_wrap=True)
    if as_json:
        console.print_json(json.dumps({path: verdict.as_data() for path, verdict in verdicts.items()}))
    else:
        console.print(table.by_clause(verdicts.values(), expected=table.meant(results)))
        out.following("events", run if len(verdicts) == 1 else next(iter(verdicts)))
    return code


def _style(verdict: Verdict) -> str:
    from ..report import table

    return table.STYLE[verdict.outcome if verdict.told == verdict.outcome else "unknown"]


def place(run: str) -> Path:
    """The run of a launched guest of that name, else the path. Errors: AskedWrongly, for what is neither."""
    from ..supervisor.place import find, list_guests

    if not run:
        raise AskedWrongly("the run is an empty word; give a run directory, or . for this one")
    try:
        found = find(run)
    except AskedWrongly:  # no name at all
        found = None
    if found is not None and found.run_dir is not None:
        return found.run_dir
    if not Path(run).exists():
        launched = ", ".join([guest.name for guest in list_guests()]) or "none"
        raise AskedWrongly(f"{run} is no path and no launched guest (there is {launched}); give a run directory")
    return Path(run)


def histories(run: Path) -> list[Path]:
    """The history files meant by a path, at most 10,000. Errors: AskedWrongly."""
    if run.is_file():
        return [run]
    if not run.is_dir():
        what = "neither file nor directory (a pipe cannot be read twice)" if run.exists() else "not there"
        raise AskedWrongly(f"{run} is {what}; give a run directory or a {HISTORY}")
    found = sorted(path for path in run.rglob(HISTORY) if path.is_file())[:MAX_HISTORIES]
    if not found:
        raise AskedWrongly(f"{run} holds no {HISTORY}; give a run directory, as dcd regress prints it")
    return found


@contextmanager
def reading(path: Path) -> Iterator[History]:
    """A history, open; what is wrong with it is said with the name of its file, of which a run has many.

    Errors: AskedWrongly (BadHistory with its file), CannotRun.
    """
    from ..history import History

    try:
        with path.open("rb") as file:
            yield History(file)
    except BadHistory as error:
        raise AskedWrongly(f"{path}: {error.message}") from error
    except OSError as error:
        raise CannotRun(f"cannot read {path}: {error.strerror}; give a history that can be read") from error
