"""The figures that README quotes from the policy lab, computed anew: they are in lab_figures.json, row by row.

Each table there has the command that gives it, which is run here as it stands; README's section has the same commands
and rows, and no others. A figure that changes with the models is changed in both, or README would tell yesterday's:
`python tests/test_lab_figures.py` does so; whether what README says beside them still holds, a reader has to see.
"""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dcdbackend.cli import run

HERE = Path(__file__).parent
TABLES: list[dict[str, Any]] = json.loads((HERE / "lab_figures.json").read_text())
README = HERE.parent / "README.md"
HEADING = "## The open questions, run"
GIB = 1 << 30


def _gib_s(state: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda cell: f"{cell['byte_seconds'][state] / GIB:.1f}"


FIGURES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "tenants served": lambda cell: f"{cell['tenants']['returned'] + cell['tenants']['held']}/{_whole(cell['tenants'])}",
    "capacity back": lambda cell: f"{cell['tenants']['returned']}/{_whole(cell['tenants'])}",
    "users served": lambda cell: f"{cell['users']['served']}/{_whole(cell['users'])}",
    "needed": lambda cell: f"{cell['needed_byte_seconds'] / GIB:.1f}",
    "used": _gib_s("used"),
    "idle": _gib_s("idle"),
    "stranded": _gib_s("stranded"),
    "blocked": _gib_s("blocked"),
    "longest": lambda cell: f"{cell['longest_seconds']} s",
    "asked again": lambda cell: str(cell["asked_again"]),
    "taken away": lambda cell: str(cell["taken_away"]),
}
"""What a column of a table is, from a cell of the verb's JSON; `needed` to `blocked` in GiB x seconds."""


def _whole(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def rows_of(table: dict[str, Any], run_dir: Path) -> dict[str, list[str]]:
    """A table's rows by its command, run now. The verb's JSON is read where it is kept."""
    argv = shlex.split(table["command"])
    assert argv[:2] == ["dcd", "compare-policies"] and "--json" not in argv
    assert run([*argv[1:], "--json", "--run-dir", str(run_dir)]) == 0
    found = json.loads((run_dir / "comparison.json").read_text())["traces"][table["trace"]]
    return {host: [FIGURES[name](cell) for name in table["figures"]] for host, cell in found.items()}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: str(table["question"]))
def test_figures_are_of_today(table: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rows_of(table, tmp_path / "run") == table["rows"]
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "run" / "comparison.json").read_text())


def markdown(table: dict[str, Any]) -> list[str]:
    """A table as README has it."""
    lines = [["host", *table["figures"]], ["---", *["---:"] * len(table["figures"])]]
    lines += [[f"`{host}`", *figures] for host, figures in table["rows"].items()]
    return [f"| {' | '.join(line)} |" for line in lines]


def quoted(text: str) -> tuple[list[str], list[str]]:
    """The commands and the lines of tables in README's section."""
    section = text.partition(f"{HEADING}\n")[2]
    section = re.split(r"^## ", section, maxsplit=1, flags=re.MULTILINE)[0]
    lines = section.splitlines()
    commands = [line.strip() for line in lines if line.strip().startswith("dcd compare-policies")]
    return commands, [line for line in lines if line.startswith("|")]


def test_readme_quotes_just_these() -> None:
    text = README.read_text()
    if HEADING not in text:
        assert "compare-policies" not in text, f"README tells of compare-policies without its section {HEADING!r}"
        return
    commands, rows = quoted(text)
    assert [command for command in commands if "-s none" in command] == [table["command"] for table in TABLES]
    assert rows == [line for table in TABLES for line in markdown(table)]


def renew() -> None:
    """Compute all figures, and put them into the data and, where they stand there, into README."""
    text = README.read_text()
    for table in TABLES:
        before = "\n".join(markdown(table))
        with tempfile.TemporaryDirectory() as directory:
            table["rows"] = rows_of(table, Path(directory) / "run")
        text = text.replace(before, "\n".join(markdown(table)))
    (HERE / "lab_figures.json").write_text(json.dumps(TABLES, indent=1) + "\n")
    README.write_text(text)


if __name__ == "__main__":
    renew()
