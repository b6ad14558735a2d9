"""`dcd check`: judge what was recorded, with no machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..boot import HISTORY
from ..checker import check as check_history
from ..checker.explain import tell
from ..checker.verdict import Verdict
from ..errors import AskedWrongly
from ..history import History
from ..report import table
from ..scenario.runner import exit_code

MAX_HISTORIES = 10_000


def check(
    run: Annotated[Path, typer.Argument(help="A run directory, a scenario's directory in it, or a history file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> int:
    """Judge a recorded history again: no QEMU, no guest. Exit 0: as expected; 1: a rule broken; 4: unknown."""
    console = table.console()
    verdicts: dict[str, Verdict] = {}
    code = 0
    for path in histories(run):
        with path.open("rb") as file:
            history = History(file)
            verdict = check_history(history)
        verdicts[str(path)] = verdict
        qemu = (history.header.qemu or {}).get("version", "")
        code = exit_code(code, history.header.scenario, verdict, qemu if isinstance(qemu, str) else "")
        if not as_json:
            console.print(f"{path}: {history.header.scenario}: [{table.STYLE[verdict.outcome]}]{verdict.outcome}[/]")
            for warning in verdict.warnings:
                console.print(f"  warning: {warning}", markup=False)
            for finding in verdict.failed:
                console.print("\n".join(tell(finding)), markup=False, soft_wrap=True)
    if as_json:
        console.print_json(json.dumps({path: verdict.as_data() for path, verdict in verdicts.items()}))
    else:
        console.print(table.by_clause(verdicts.values()))
    return code


def histories(run: Path) -> list[Path]:
    """The history files meant by a path, at most 10,000. Errors: AskedWrongly."""
    if run.is_file():
        return [run]
    if not run.is_dir():
        raise AskedWrongly(f"{run} is not there; give a run directory or a {HISTORY}")
    found = sorted(run.rglob(HISTORY))[:MAX_HISTORIES]
    if not found:
        raise AskedWrongly(f"{run} holds no {HISTORY}; give a run directory, as dcd regress prints it")
    return found
