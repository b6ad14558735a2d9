"""The whole way on the real thing: a real QEMU, a real kernel, host U answering through the device's mailbox."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from wrong.models import model

import dcdbackend
from dcdbackend import image, machine
from dcdbackend.boot import HISTORY, Setup
from dcdbackend.checker import Verdict, check
from dcdbackend.history import History
from dcdbackend.scenario import SCENARIOS, Scenario, choose, ordered
from dcdbackend.scenario.runner import Runner

pytestmark = pytest.mark.vm

SIX = ("add", "chain", "refuse", "partial-accept", "release-split", "data-oracle")


@pytest.fixture
async def runner(setup: Setup, tmp_path: Path) -> AsyncIterator[Runner]:
    async with Runner(setup, run_dir=tmp_path, seed=11) as running:
        yield running


async def test_every_scenario_ends_as_expected_and_every_line_fits_the_schema(runner: Runner) -> None:
    able = [scenario for scenario in ordered(choose(())) if not scenario.needs - runner.setup.offers]
    results = [await runner.run(scenario) for scenario in able]
    assert {result.scenario.name: result.reason for result in results if result.outcome != "pass"} == {}
    assert set(SIX) <= {result.scenario.name for result in results}
    schema = json.loads((Path(dcdbackend.__file__).parent / "history.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for result in results:
        assert result.directory is not None and result.verdict is not None
        assert result.verdict.counts, result.scenario.name
        for line in (result.directory / HISTORY).read_bytes().splitlines()[:200]:
            validator.validate(json.loads(line))


async def test_the_controller_and_the_guest_judge_the_same_steps(runner: Runner) -> None:
    result = await runner.run(SCENARIOS["release-split"])
    assert result.verdict is not None
    assert result.verdict.of("WITNESS.agree").passed > 3
    for clause in ("DEV-6.inside", "DEV-7.held"):
        assert result.verdict.of(clause, subject="host").passed
        assert result.verdict.of(clause, subject="guest.host").passed


@pytest.mark.parametrize(
    ("clause", "scenario"), [("DEV-6.inside", "add"), ("DEV-7.held", "release-split"), ("DEV-7.pending", "add")]
)
async def test_host_u_told_to_break_a_rule_is_convicted_by_both(
    setup: Setup, tmp_path: Path, clause: str, scenario: str
) -> None:
    """Its policy was obeyed to the letter: only what went through the payload registers convicts it."""
    async with Runner(setup, run_dir=tmp_path, seed=1, breaks=clause) as runner:
        result = await runner.run(SCENARIOS[scenario])
    assert result.outcome == "fail"
    assert result.verdict is not None
    assert {finding.subject for finding in result.verdict.failed} == {"host"}
    assert clause in {finding.clause for finding in result.verdict.failed}
    assert result.verdict.of(clause, subject="host").failed
    assert result.verdict.of(clause, subject="guest.host").failed


def forgets_releases(state: Any, op: Any, found: Any) -> Any:
    """A wrong model: what the host gave back is still accepted in it."""
    return state


async def test_a_wrong_model_turns_a_good_run_red_with_the_clause_named(setup: Setup, tmp_path: Path) -> None:
    wrong: Callable[[History], Verdict] = partial(check, device=model("give_back", forgets_releases))
    async with Runner(setup, run_dir=tmp_path, seed=1, checker=wrong) as runner:
        result = await runner.run(SCENARIOS["release-whole"])
    assert result.outcome == "fail"
    assert result.verdict is not None
    # to a model that forgot the 4803h, the request alone seems to have taken the capacity
    assert {finding.clause for finding in result.verdict.failed} == {"DEV-11.request"}
    with (tmp_path / "release-whole" / HISTORY).open("rb") as file:
        assert check(History(file)).failed == ()


async def test_a_scenario_that_expects_otherwise_fails_by_its_own_words(runner: Runner) -> None:
    async def wants_more(bench: Any) -> None:
        answer = await (await bench.add(["0+2M"])).answer()
        assert answer.outcome == "refused", "wanted a refusal"

    result = await runner.run(Scenario(name="wants-more", body=wants_more, summary=""))
    assert result.outcome == "fail"
    assert "wanted a refusal" in result.reason


def test_sigkill_in_the_middle_leaves_no_qemu_and_a_history_that_reads(parts: image.Parts, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = [sys.executable, "-m", "dcdbackend", "regress", "-s", "fill-device", "--run-dir", str(run)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        history = run / "fill-device" / HISTORY
        wait_for(lambda: history.exists() and history.read_bytes().count(b"\n") > 100)
        children = qemus(running.pid)
        assert children
        running.send_signal(signal.SIGKILL)
        running.wait()
    wait_for(lambda: not any(alive(pid) for pid in children))
    checked = subprocess.run([sys.executable, "-m", "dcdbackend", "check", str(run)], capture_output=True, text=True)
    assert checked.returncode in (0, 4), checked.stdout + checked.stderr
    assert "fill-device" in checked.stdout
    assert "DEV-6.taken" in checked.stdout or "DEV-4.whole" in checked.stdout


def test_the_command_prints_what_it_would_run_and_what_it_ran(parts: image.Parts, tmp_path: Path) -> None:
    printed = dcd("regress", "--print-command", "-s", "add", "-s", "two-devices")
    assert printed.returncode == 0
    assert len(printed.stdout.splitlines()) == 2
    assert all("num-dc-regions=2" in line for line in printed.stdout.splitlines())
    ran = dcd("regress", "-s", "add", "--seed", "5", "--run-dir", str(tmp_path / "run"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "again: dcd regress --seed 5 --scenario add" in ran.stdout
    assert "num-dc-regions=2" in (tmp_path / "run" / "guest" / machine.COMMAND_FILE).read_text()
    red = dcd("regress", "-s", "add", "--break", "DEV-6", "--run-dir", str(tmp_path / "red"))
    assert red.returncode == 1
    assert "DEV-6.inside broken, host mem0" in red.stdout
    assert dcd("check", str(tmp_path / "run")).returncode == 0
    assert dcd("check", str(tmp_path / "red")).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["regress", "-s", "nosuch"], 2, "no scenario 'nosuch'; there is "),
        (["regress", "--qemu", "/nonexistent"], 2, "/nonexistent"),
        (["regress", "--kernel", "/etc/hostname"], 2, "/etc/hostname"),
        (["regress", "--qemu", "/bin/true"], 3, "/bin/true"),
        (["regress", "--regions", "9", "-s", "add"], 2, "1 to 8"),
        (["regress", "--size", "300MB", "-s", "add"], 2, "write it like 256M"),
        (["regress", "-s", "add", "--break", "DEV-99"], 2, "host U can break"),
        (["regress", "--nosuch"], 2, "--nosuch"),
        (["check", "/nonexistent"], 2, "/nonexistent is no path and no launched guest"),
        (["nosuch"], 2, "nosuch"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: list[str], code: int, text: str, parts: image.Parts) -> None:
    ended = dcd(*arguments)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert text in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_a_result_is_data(parts: image.Parts, tmp_path: Path) -> None:
    ended = dcd("regress", "-s", "add", "--json", "--run-dir", str(tmp_path / "run"))
    assert ended.returncode == 0, ended.stderr
    results = json.loads(ended.stdout)["results"]
    assert [(result["scenario"], result["outcome"]) for result in results] == [("add", "pass")]
    assert json.loads((tmp_path / "run" / "verdict.json").read_text())["results"] == results


def test_guests_side_by_side_share_nothing_and_every_turn_has_its_seed(parts: image.Parts, tmp_path: Path) -> None:
    run, junit = tmp_path / "run", tmp_path / "junit.xml"
    ended = dcd(
        *("regress", "-s", "add", "-s", "data-oracle", "--repeat", "2", "--jobs", "2", "--seed", "40"),
        *("--run-dir", str(run), "--junit", str(junit), "--json"),
    )
    assert ended.returncode == 0, ended.stderr
    assert [result["outcome"] for result in json.loads(ended.stdout)["results"]] == ["pass"] * 4
    histories = sorted(run.rglob(HISTORY))
    assert len(histories) == 4
    assert sorted(json.loads(path.read_bytes().splitlines()[0])["seed"] for path in histories) == [40, 40, 41, 41]
    assert len(list(run.glob("guest*"))) == 2
    assert sorted(re.findall(r"^booting guest (\d+) ", ended.stderr, re.MULTILINE)) == ["1", "2"]
    assert junit.read_text().count("<testcase ") == 4


def dcd(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "dcdbackend", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"})


def qemus(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


def wait_for(done: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)
