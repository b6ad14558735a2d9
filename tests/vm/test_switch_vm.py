"""The switch topology on the real thing: every scenario behind a switch, and devices under one that never mix."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dcdbackend.boot import FM_OFFERS, HISTORY, Setup, speaks_fm
from dcdbackend.history import History
from dcdbackend.scenario import SCENARIOS, Scenario, choose, ordered
from dcdbackend.scenario.runner import Runner
from dcdbackend.session import Session
from dcdbackend.topology import MAX_SWITCHED
from dcdbackend.units import MIB

pytestmark = pytest.mark.vm


@pytest.fixture
def switched(setup: Setup) -> Setup:
    return replace(setup, kind="switch")


def possible(setup: Setup) -> list[Scenario]:
    """What this setup can run, but for departures over FM-API that leave no guest: `test_departures` has them here."""
    able = [scenario for scenario in ordered(choose(())) if not scenario.needs - setup.offers]
    return [scenario for scenario in able if scenario.settle or not scenario.needs & FM_OFFERS]


async def test_every_scenario_ends_as_expected_behind_a_switch(switched: Setup, tmp_path: Path) -> None:
    chosen = possible(switched)
    async with Runner(switched, run_dir=tmp_path, seed=11) as runner:
        results = [await runner.run(scenario) for scenario in chosen]
    assert {result.scenario.name: result.reason for result in results if result.outcome != "pass"} == {}
    assert {result.topology for result in results} == {"switch"}
    everywhere = {name for name, scenario in SCENARIOS.items() if not scenario.needs}
    assert everywhere <= {scenario.name for scenario in chosen}
    assert not speaks_fm(switched.qemu) or "tag-one-chain" in {scenario.name for scenario in chosen}
    for result in results:
        assert result.directory is not None and result.directory.parent == tmp_path / "switch"
        with (result.directory / HISTORY).open("rb") as file:
            header = History(file).header
        assert header.qemu is not None and header.qemu["topology"] == "switch"
    commands = [path.read_text() for path in (tmp_path / "switch").glob("guest*/command.txt")]
    assert commands and all("cxl-upstream" in command and "cxl-downstream" in command for command in commands)


async def apart(bench: Session) -> None:
    """All devices hold the same places; each place of each keeps its own bytes, whichever side writes."""
    places = ((0, 0), (0, 64 * MIB - 4096), (1, 0))
    marks: dict[tuple[str, int], bytes] = {}
    for device in bench.devices:
        for region in (0, 1):
            answer = await (await bench.add(["0+64M"], device=device, region=region)).answer()
            assert answer.outcome == "accepted", answer
    for number, device in enumerate(bench.devices):
        for place, (region, offset) in enumerate(places):
            dpa = bench.dpa(region, offset, device=device)
            marks[device, dpa] = bytes([0x10 * (number + 1) + place]) * 4096
            await bench.store(dpa, marks[device, dpa], device=device)
    for (device, dpa), mark in marks.items():
        assert await bench.load(dpa, 4096, device=device) == mark, (device, dpa)
        assert await bench.read(dpa, 4096, device=device) == mark, (device, dpa)
    first, *others = bench.devices
    for region in (0, 1):
        assert (await (await bench.release(["0+64M"], device=first, region=region)).response()).outcome == "released"
    for (device, dpa), mark in marks.items():
        if device in others:
            assert await bench.load(dpa, 4096, device=device) == mark, (device, dpa)
        else:
            assert await bench.load(dpa, 4096, device=device) == bytes(4096), (device, dpa)


@pytest.mark.parametrize(("devices", "static"), [(2, "256M"), (MAX_SWITCHED, 0)])
async def test_devices_under_one_switch_keep_their_bytes_apart(
    switched: Setup, tmp_path: Path, devices: int, static: str | int
) -> None:
    shape: dict[str, int | str] = {"devices": devices, "size": "512M", "regions": 2, "static": static}
    async with Runner(switched, run_dir=tmp_path, seed=1) as runner:
        result = await runner.run(Scenario(name="apart", body=apart, summary="", shape=shape))
        assert result.outcome == "pass", result.reason
        assert runner.guest is not None
        seen = runner.guest.ready["devices"]
    bases = sorted(device["window_base"] for device in seen)
    each = 512 * MIB + (256 * MIB if static else 0)
    assert [base - bases[0] for base in bases] == [index * each for index in range(devices)]


def test_regress_runs_a_scenario_on_all_topologies(setup: Setup, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ran = dcd("regress", "-s", "add", "--topology", "all", "--seed", "5", "--run-dir", str(run))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "again: dcd regress --seed 5 --topology all --scenario add" in ran.stdout
    assert (run / "add" / HISTORY).exists() and (run / "switch" / "add" / HISTORY).exists()
    rows = [line.split()[:3] for line in ran.stdout.splitlines() if line.startswith("add ")]
    assert rows == [["add", "direct", "pass"], ["add", "switch", "pass"]]
    checked = dcd("check", str(run))
    assert checked.returncode == 0 and checked.stdout.count(f"{HISTORY}: add: ") == 2


def test_the_command_of_each_topology_is_printed(setup: Setup) -> None:
    count = {
        kind: dcd("regress", "--print-command", "-s", "add", "--topology", kind).stdout.count("-device cxl-upstream")
        for kind in ("direct", "switch", "all")
    }
    assert count == {"direct": 0, "switch": 1, "all": 1}
    refused = dcd("regress", "--topology", "ring", "-s", "add")
    assert refused.returncode == 2
    assert "topology 'ring' is not known; there is direct, switch, all" in refused.stderr.splitlines()[-1]


def dcd(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "dcdbackend", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"})
