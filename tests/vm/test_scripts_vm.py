"""The scripts of the checkout on the real thing: all of them as scenarios of one run, some as the programs they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dcdbackend import image
from dcdbackend.boot import HISTORY

pytestmark = pytest.mark.vm

HERE = Path(__file__).resolve().parents[2]
SCRIPTS = HERE / "qmp_scripts"
NAMES = sorted(path.stem.replace("_", "-") for path in SCRIPTS.glob("*.py"))


def test_all_of_them_run_as_scenarios(parts: image.Parts, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = python("-m", "dcdbackend", "regress", "-s", str(SCRIPTS), "--seed", "11", "--json", "--run-dir", str(run))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = {one["scenario"]: one for one in json.loads(ended.stdout)["results"]}
    assert {name: one["outcome"] for name, one in results.items()} == dict.fromkeys(NAMES, "pass")
    assert all((run / name / "printed.txt").read_text() for name in NAMES)
    assert (run / "two-guests" / "beside-2" / HISTORY).is_file(), "the second guest was real"
    devices = {count["device"] for count in results["two-guests"]["verdict"]["counts"]}
    assert devices == {"mem0", "beside-2/mem0"}, "and judged"


PROGRAMS = {
    "single_add": ((), 0, "the host answered: accepted 0x0+256M"),
    "two_guests": ((), 0, "second: accepted 0x0+8M 0x8000000+8M"),
    "chained_add": (("--break", "DEV-6", "--topology", "switch"), 1, "broken: host mem0 DEV-6.inside"),
}


def test_some_of_them_run_as_programs_side_by_side(parts: image.Parts, tmp_path: Path) -> None:
    """Two processes at a time, each with its own guest; those of a checkout are run from anywhere."""

    def program(name: str) -> subprocess.CompletedProcess[str]:
        arguments = PROGRAMS[name][0]
        return python(str(SCRIPTS / f"{name}.py"), "--seed", "3", "--run-dir", str(tmp_path / name), *arguments)

    with ThreadPoolExecutor(2) as pool:
        for name, ended in zip(PROGRAMS, pool.map(program, PROGRAMS), strict=True):
            _, code, told = PROGRAMS[name]
            assert ended.returncode == code, ended.stdout + ended.stderr
            assert told in ended.stdout
            assert f"again: python {SCRIPTS}/{name}.py --seed 3" in ended.stdout
            assert "Traceback" not in ended.stdout + ended.stderr
            assert not list(tmp_path.glob(f"{name}/**/*.memory")), "the devices' memory is gone with them"
    checked = python("-m", "dcdbackend", "check", str(tmp_path / "two_guests"))
    assert checked.returncode == 0
    assert checked.stdout.count(": two-guests: ") == 2, "both histories can be judged again"


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=180, env={**os.environ, "COLUMNS": "200"}
    )
