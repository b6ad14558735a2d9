"""Every known departure of QEMU, shown on the real one, and seen to be gone where it is.

Which rows are expected goes by the version of the QEMU at hand. Three proofs for each row: QEMU shows it; who does not
know of it calls the same history a broken rule; a device without it, asked the same, is reported as repaired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from dcdbackend.boot import FM_OFFERS, HISTORY, Setup
from dcdbackend.checker import check
from dcdbackend.checker.notation import header, parse
from dcdbackend.differential import Differential, EmulatorSide, qemu_side
from dcdbackend.emulator.machine import behaviour
from dcdbackend.history import Header, History, Op
from dcdbackend.model.departures import DEPARTURES, applicable
from dcdbackend.model.reply import device, reply
from dcdbackend.model.state import config_of
from dcdbackend.scenario import DEPARTURE, SCENARIOS, Scenario, ordered
from dcdbackend.scenario.runner import Result, Runner, judge
from dcdbackend.session import Session
from dcdbackend.topology import Kind
from dcdbackend.workload import Operation

MIB = 1 << 20
PAGE = 4096

PENDING: dict[str, str] = {}
"""Rows that nothing which this bench can send today shows, and why."""

UNCAUSED = "DEV-4.only"
"""So a record is called that comes before the end of the add which caused it, when no order explains it."""

NO_MODEL = {"QEMU-forced": "the model of the device has no forced release that takes effect"}
"""Rows of which no repaired device can be made yet."""


def expected_of(scenario: Scenario) -> list[str]:
    """Those of QEMU; a kernel's (Q...) have tests of their own."""
    wanted = [name.removeprefix(DEPARTURE) for name in scenario.expect if name.startswith(DEPARTURE)]
    return [name for name in wanted if name in DEPARTURES]


def directed() -> dict[str, Scenario]:
    """By departure, the scenario with the fewest others that looks for it.

    What shows by QMP and by FM-API alike has a second one in BY_FM_TOO.
    """
    found: dict[str, Scenario] = {}
    for scenario in sorted(SCENARIOS.values(), key=lambda one: (len(expected_of(one)), len(one.needs))):
        for name in expected_of(scenario):
            found.setdefault(name, scenario)
    return found


DIRECTED = directed()
BY_FM_TOO = {"QEMU-forced": SCENARIOS["departs-forced-fm"]}
"""Rows that have a half which only a fabric manager shows."""


async def is_not_sanitized(bench: Session) -> bool:
    """Whether capacity that was asked back with sanitize is offered again with its old content (DEV-14.cleared)."""
    base, mark = bench.dpa(0, 0), bench.random.randbytes(PAGE)
    await (await bench.add(["0+2M"])).answer()
    await bench.store(base, mark)
    assert (await (await bench.release(["0+2M"], sanitize=True)).response()).outcome == "released"
    assert (await (await bench.add(["0+2M"])).answer()).outcome == "accepted"
    return await bench.load(base, PAGE) == mark


BY_BYTES = {"QEMU-sanitize": is_not_sanitized}
"""Rows that no clause of today's judge sees: what shows them is looked at here."""

BY_CONFIG = "QEMU-available-pending"
"""Shown by 4800h asked while something is pending. No history has that: 4800h is asked once, as the agent starts."""


@pytest.fixture(scope="module")
def results(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    """By name, every scenario that looks for a departure, run on the real QEMU."""

    wanted = {scenario.name: scenario for scenario in (*DIRECTED.values(), *BY_FM_TOO.values())}
    by_fm = [scenario for scenario in wanted.values() if scenario.needs & FM_OFFERS]

    async def run() -> dict[str, Result]:
        found: dict[str, Result] = {}
        directory = tmp_path_factory.mktemp("departures")
        for kind in get_args(Kind):
            chosen = [one for one in wanted.values() if (one in by_fm) == (kind == "switch")]
            async with Runner(replace(setup, kind=kind), run_dir=directory, seed=7) as runner:
                found |= {scenario.name: await runner.run(scenario) for scenario in ordered(chosen)}
        return found

    return asyncio.run(run())


def recorded(result: Result) -> tuple[Header, list[Op]]:
    assert result.directory is not None
    with (result.directory / HISTORY).open("rb") as file:
        history = History(file)
        return history.header, list(history)


def repaired(head: Header, ops: Sequence[Op], departures: frozenset[str]) -> list[Op]:
    """The same commands in the same order, answered by a device of the model that has only these departures.

    A manager's request has its effect as it begins: what the host did next was already due to it.
    """
    first = next((op.value["records"][0]["handle"] for op in ops if op.value.get("records")), 1)
    there = device(config_of(head.devices[0], departures=departures))._replace(next_handle=first)
    written: list[Op] = []
    begun: dict[int, tuple[int, Op]] = {}
    told: dict[int, tuple[str, dict[str, Any]]] = {}

    def take(begin: Op) -> tuple[str, dict[str, Any]]:
        nonlocal there
        there, kind, received = reply(there, begin.f, begin.value)
        return kind, received

    def end(number: int, begin: Op) -> None:
        kind, received = told.pop(number) if number in told else take(begin)
        written.append(Op(len(written) + 1, number, begin.process, kind, begin.f, len(written) + 1, received))

    for op in ops:
        if op.f == "gone":
            continue
        if op.type == "invoke":
            number = len(written) + 1
            begun[op.op] = (number, op)
            written.append(op._replace(n=number, op=number))
            if op.process == "manager":
                told[number] = take(op)
        else:
            end(*begun.pop(op.op))
    for number, begin in begun.values():
        end(number, begin)
    return written


def known_here(name: str, setup: Setup) -> frozenset[str]:
    """The departures of the QEMU at hand; skips what it is not known to have, or cannot be asked."""
    known = applicable(setup.qemu.version)
    if DIRECTED[name].needs - replace(setup, kind="switch").offers:
        pytest.skip(f"{name} needs a fabric manager, and QEMU {setup.qemu.version} has no way in for one")
    if name not in known:
        pytest.skip(f"{name} is not known of QEMU {setup.qemu.version}")
    return known


def test_every_row_has_a_directed_test_or_says_why_not() -> None:
    ways: list[dict[str, Any]] = [DIRECTED, BY_BYTES, {BY_CONFIG: ""}, PENDING]
    assert sorted(name for way in ways for name in way) == sorted(DEPARTURES)
    assert set(NO_MODEL) <= set(DIRECTED)


def test_a_scenario_fails_by_the_departure_that_it_does_not_see() -> None:
    head, known = header(qemu="11.1.3"), applicable("11.1.3")
    text = "add 0+2M; events; accept; clear; block 0"
    as_known = check(parse(text, head=head, departures=known), head)
    assert judge(DIRECTED["QEMU-remain"], as_known, "11.1.3") == ("pass", "")
    mended = check(parse(text, head=head, departures=known - {"QEMU-remain"}), head)
    assert judge(DIRECTED["QEMU-remain"], mended, "11.1.3") == (
        "fail",
        f"departure QEMU-remain is no longer seen (QEMU 11.1.3): {DEPARTURES['QEMU-remain'].text}",
    )
    assert judge(DIRECTED["QEMU-remain"], mended, "9.1.0") == judge(DIRECTED["QEMU-remain"], mended) == ("pass", "")


@pytest.mark.vm
@pytest.mark.parametrize("name", DIRECTED)
def test_qemu_shows_it_where_it_is_known_to(name: str, results: dict[str, Result], setup: Setup) -> None:
    known_here(name, setup)
    result = results[DIRECTED[name].name]
    assert result.verdict is not None
    assert (result.outcome, result.reason) in (("pass", ""), ("pass", f"the guest died of {name}, which is known"))
    assert (name in result.verdict.departures) == (name in applicable(setup.qemu.version))
    finding = next((found for found in result.verdict.findings if found.departure == name), None)
    assert finding is None or finding.clause == DEPARTURES[name].clause


@pytest.mark.vm
@pytest.mark.parametrize("name", BY_FM_TOO)
def test_the_fabric_manager_shows_it_too(name: str, results: dict[str, Result], setup: Setup) -> None:
    scenario = BY_FM_TOO[name]
    if scenario.needs - replace(setup, kind="switch").offers:
        pytest.skip(f"QEMU {setup.qemu.version} has no way in for a fabric manager")
    result = results[scenario.name]
    assert result.verdict is not None and (result.outcome, result.reason) == ("pass", "")
    assert name in result.verdict.departures
    head, ops = recorded(result)
    assert [op.value["via"] for op in ops if op.f == "release" and op.type == "invoke"] == ["fm"]
    known = applicable(setup.qemu.version) - {name}
    failed = {found.clause for found in check(ops, head, departures=known).failed}
    assert failed & {DEPARTURES[name].clause, "DEV-12.told", UNCAUSED}  # the record comes first, and is of type 1


@pytest.mark.vm
@pytest.mark.parametrize("name", DIRECTED)
def test_it_is_a_broken_rule_to_who_does_not_know_it(name: str, results: dict[str, Result], setup: Setup) -> None:
    known = known_here(name, setup) - {name}
    head, ops = recorded(results[DIRECTED[name].name])
    failed = {found.clause for found in check(ops, head, departures=known).failed}
    assert failed & {DEPARTURES[name].clause, UNCAUSED}


@pytest.mark.vm
@pytest.mark.parametrize("name", [name for name in DIRECTED if name not in NO_MODEL])
def test_a_device_without_it_is_reported(name: str, results: dict[str, Result], setup: Setup) -> None:
    known = known_here(name, setup)
    head, ops = recorded(results[DIRECTED[name].name])
    version = setup.qemu.version
    gone = f"departure {name} is no longer seen (QEMU {version}): {DEPARTURES[name].text}"
    if DEPARTURES[name].severity != "crash":  # the model's device does not die
        departed = check(repaired(head, ops, known), head)
        assert gone not in judge(DIRECTED[name], departed, version)[1]
        assert not departed.failed or {found.subject for found in departed.failed} == {"host"}
    verdict = check(repaired(head, ops, known - {name}), head)
    assert name not in verdict.departures
    outcome, reason = judge(DIRECTED[name], verdict, version)
    assert outcome == "fail"
    assert gone in reason
    assert "no longer seen" not in judge(DIRECTED[name], verdict, "8.2.0")[1]


@pytest.mark.vm
@pytest.mark.parametrize("name", BY_BYTES)
async def test_bytes_show_it(name: str, setup: Setup, tmp_path: Path) -> None:
    seen: list[bool] = []

    async def body(bench: Session) -> None:
        seen.append(await BY_BYTES[name](bench))

    async with Runner(setup, run_dir=tmp_path, seed=7) as runner:
        result = await runner.run(Scenario(name="bytes", body=body, summary=""))
    assert result.outcome == "pass", result.reason
    assert seen == [name in applicable(setup.qemu.version)]


@pytest.mark.vm
async def test_4800h_shows_what_it_counts_as_available(setup: Setup, tmp_path: Path) -> None:
    """DEV-19.extents, by 4800h: with two extents pending and one accepted, 509 of 512 are available."""
    version = setup.qemu.version.split()[0]
    spans = [{"offset": at << 22, "length": 2 * MIB} for at in range(3)]
    one = {"via": "qmp", "host_id": 0, "policy": "prescriptive", "region": 0, "tag": None}
    operations = [
        Operation("add.one", "add", {**one, "extents": spans[:1]}),
        Operation("answer.some", "answer", {"flags": 0, "ranges": [[0, 2 * MIB]]}),
        Operation("add.chain", "add", {**one, "extents": spans[1:]}),
        Operation("config", "config", {"count": 2, "start": 0}),
    ]
    shape = setup.topology()
    async with qemu_side(setup, tmp_path) as qemu:
        both = Differential(EmulatorSide(shape, behaviour(f"qemu-{version}")), qemu, shape)
        played = await both.replay(operations)
    said = played.steps[-1].qemu.said
    assert (len(played.steps), said["supported_extents"]) == (len(operations), 512)
    assert said["available_extents"] == (511 if BY_CONFIG in applicable(version) else 509)
    assert played.difference is None  # and the model of this version says the same


@pytest.mark.vm
async def test_what_kills_qemu_as_an_add_kills_it_as_a_release(setup: Setup, tmp_path: Path) -> None:
    async def body(bench: Session) -> None:
        await (await bench.add(["0+2M"])).answer()
        await bench.release([f"{(1 << 64) - 2 * MIB}+2M"])

    expect: Any = {DEPARTURE + "QEMU-qmp-wraps": "departure"}
    async with Runner(setup, run_dir=tmp_path, seed=7) as runner:
        result = await runner.run(Scenario(name="wraps", body=body, summary="", expect=expect, settle=False))
    assert result.verdict is not None
    assert ("QEMU-qmp-wraps" in result.verdict.departures) == ("QEMU-qmp-wraps" in applicable(setup.qemu.version))


@pytest.mark.vm
async def test_what_cannot_be_shown_yet_is_reported_by_the_device_as_far_as_it_goes(
    setup: Setup, results: dict[str, Result]
) -> None:
    head, _ = recorded(next(iter(results.values())))
    assert head.devices[0]["supported_tags"] == 0
    assert head.devices[0]["supported_extents"] == 512
