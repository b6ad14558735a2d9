"""The scenarios for a kernel under test, on a simulated one: every generation runs green, and what does wrong is told.

The simulated kernel tells of itself by log and trace alone, as a real one does, so these also run the inference of its
commands. A kernel that breaks one clause must be convicted of that clause, by the scenario that is there for it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import dcdbackend
from dcdbackend.checker import check, seen_of
from dcdbackend.checker.verdict import Finding
from dcdbackend.emulated import EmulatedSetup
from dcdbackend.emulator import linux
from dcdbackend.emulator.machine import behaviour
from dcdbackend.emulator.voice import Voice
from dcdbackend.history import Header, History, Writer
from dcdbackend.kernel.agent import AgentKernel
from dcdbackend.kernel.guest import settled_survey
from dcdbackend.kernel.session import KernelSession, bounded, parts, places
from dcdbackend.kernel.simulated import SimulatedKernel
from dcdbackend.kernel.unprovoked import not_judged, reasons
from dcdbackend.model import host as kernel
from dcdbackend.model.permitted import Command, Decision, Permitted
from dcdbackend.model.quirks import QUIRKS
from dcdbackend.scenario import DEPARTURE, SCENARIOS, Scenario
from dcdbackend.scenario.runner import Result, Runner, fitting, judge

SCHEMA = jsonschema.Draft202012Validator(
    json.loads((Path(dcdbackend.__file__).parent / "history.schema.json").read_text())
)
QEMU = "qemu-11.1.3"
ON_KERNEL = [one for one in SCENARIOS.values() if "kernel" in one.needs]
PEERS = [
    "pre_existing_extents", "remove_extent_under_dax_device", "create_dax_dev_spanning_two_extents",
    "inject_tag_support", "partial_extent_remove", "multiple_extent_remove", "destroy_region_without_extent_removal",
    "destroy_with_extent_and_dax", "dax_device_ops", "reject_overlapping", "two_regions", "more_bit", "driver_reload",
    "event_reporting", "uuid_no_match", "uuid_no_match_seed_intact", "uuid_aggregation", "uuid_show",
    "shared_extent_inject", "seq_integrity_gap", "cross_more_uniqueness", "alignment_rejection",
]  # fmt: skip
RECORDED = ["region-create", "untagged-add", "untagged-chain", "no-region"]
RECORDED += ["tagged-add", "tagged-chain", "reused-tag", "mixed-chain"]
SKIPPED = {
    ("v11", "strict"): 6,
    ("v11", QEMU): 4,
    ("v10", QEMU): 7,
    ("A", QEMU): 15,
    ("B-rfc", QEMU): 12,
}
"""How many are skipped at most: what such a generation, or such a device, cannot show."""


async def run(directory: Path, host: str, names: list[Scenario], behaves: str = "strict") -> list[Result]:
    setup = EmulatedSetup(host=host, behaves=behaviour(behaves), seed=7)
    async with Runner(setup, run_dir=directory, seed=7) as runner:
        return [await runner.run(one) for one in names]


def test_the_peers_are_there_by_name() -> None:
    assert len(PEERS) == 22
    assert set(PEERS) | set(RECORDED) <= {one.name for one in ON_KERNEL}


@pytest.mark.parametrize(("host", "behaves"), SKIPPED)
async def test_green(tmp_path: Path, host: str, behaves: str) -> None:
    results = await run(tmp_path, host, ON_KERNEL, behaves)
    assert [(one.place, one.outcome, one.reason) for one in results if one.outcome not in ("pass", "skipped")] == []
    skipped = [one for one in results if one.outcome == "skipped"]
    assert len(skipped) <= SKIPPED[host, behaves] and all(one.reason for one in skipped)
    assert {one.verdict.seen for one in results if one.verdict is not None} == {"simulated"}
    for one in results:
        assert one.verdict is None or one.outcome == "skipped" or len(one.verdict.counts) > 15
    if behaves == QEMU:
        judged_or_reasoned(host, results)


def judged_or_reasoned(host: str, results: list[Result]) -> None:
    """Every clause is judged or has its reason; and no reason outlives its clause: what is judged has none."""
    judged = {
        clause
        for one in results
        if one.verdict is not None
        for (_, _, clause), counts in one.verdict.counts.items()
        if counts.passed or counts.departure
    }
    assert [name for name, why in not_judged(host, judged).items() if not why] == []
    assert judged & set(reasons(host)) == set()


async def test_the_history_is_that_of_a_kernel_host(tmp_path: Path) -> None:
    """No command of the host is in it; trace and log are; and it keeps the schema."""
    (result,) = await run(tmp_path, "v11", [SCENARIOS["untagged-chain"]], QEMU)
    assert result.directory is not None
    seen = set()
    with (result.directory / "history.jsonl").open("rb") as file:
        for line in file.read().splitlines():
            found = json.loads(line)
            if found.get("f") in ("use", "unuse", "claim", "sysfs", "trace", "log"):
                assert not list(SCHEMA.iter_errors(found)), line
        file.seek(0)
        history = History(file)
        assert history.header.host == {"generation": "v11", "simulated": True}
        for op in history:
            assert not op.process.startswith("host.")
            seen.add(op.f)
    assert {"use", "unuse", "claim", "sysfs", "trace", "log", "add", "release", "block"} <= seen


# ---- a kernel that does wrong ----------------------------------------------------------------------------------------

Chooser = Callable[[Permitted, kernel.Cause, int], tuple[Decision, tuple[Command, ...]]]
_right: Chooser = linux._choose


def commanding(change: Callable[[kernel.Cause, Decision, list[Command]], list[Command]]) -> Chooser:
    """A kernel that sends other commands than are due."""

    def chosen(permitted: Permitted, cause: kernel.Cause, seed: int) -> tuple[Decision, tuple[Command, ...]]:
        way, commands = _right(permitted, cause, seed)
        return way, tuple(change(cause, way, list(commands)))

    return chosen


def without_last(f: str, of: type) -> Chooser:
    def change(cause: kernel.Cause, way: Decision, commands: list[Command]) -> list[Command]:
        at = [place for place, one in enumerate(commands) if one.f == f]
        return (
            [one for place, one in enumerate(commands) if place != at[-1]] if at and isinstance(cause, of) else commands
        )

    return commanding(change)


def oldest_first(cause: kernel.Cause, way: Decision, commands: list[Command]) -> list[Command]:
    return commands[::-1] if isinstance(cause, kernel.UnbindRegion) else commands


def clears_first(cause: kernel.Cause, way: Decision, commands: list[Command]) -> list[Command]:
    return sorted(commands, key=lambda one: one.f != "clear")


def takes_everything(cause: kernel.Cause, way: Decision, commands: list[Command]) -> list[Command]:
    """Whatever gate refused it, the answer names it."""
    if not isinstance(cause, kernel.Records):
        return commands
    offered = tuple((event.start, event.length) for event in cause.events if event.type == kernel.ADD)
    return [one._replace(ranges=offered) if one.f == "answer" else one for one in commands]


def gives_what_was_asked(cause: kernel.Cause, way: Decision, commands: list[Command]) -> list[Command]:
    if not isinstance(cause, kernel.Records) or not any(one.f == "give_back" for one in commands):
        return commands
    asked = [Command("give_back", cause.memdev, ((one.start, one.length),)) for one in cause.events]
    return [*asked, *[one for one in commands if one.f != "give_back"]]


def gives_back_in_use(cause: kernel.Cause, way: Decision, commands: list[Command]) -> list[Command]:
    if not isinstance(cause, kernel.Records) or any(one.f == "give_back" for one in commands):
        return commands
    asked = [Command("give_back", cause.memdev, ((one.start, one.length),)) for one in cause.events if one.type == 1]
    return [*asked, *commands]


def backwards(cause: kernel.Cause, way: Decision, commands: list[Command]) -> list[Command]:
    return [one._replace(ranges=one.ranges[::-1]) if one.f == "answer" else one for one in commands]


KEEPS_ONE = without_last("give_back", kernel.UnbindRegion)
CHOOSERS: list[tuple[str, str, str, str, Chooser]] = [
    # host, behaves, scenario, clause, the kernel
    ("v11", "strict", "destroy_region_without_extent_removal", "B32.all", KEEPS_ONE),
    ("A", "strict", "destroy_region_without_extent_removal", "A15.destroy", KEEPS_ONE),
    ("v11", "strict", "destroy_region_without_extent_removal", "B32.newest", commanding(oldest_first)),
    ("v11", "strict", "untagged-add", "L1.before-clear", commanding(clears_first)),
    ("v11", "strict", "no-region", "B12.region", commanding(takes_everything)),
    ("A", "strict", "no-region", "A2.region", commanding(takes_everything)),
    ("v11", "strict", "reused-tag", "B6.live", commanding(takes_everything)),
    ("A", "strict", "inject_tag_support", "A4.tag", commanding(takes_everything)),
    ("v11", "strict", "seq_integrity_gap", "B7.dense", commanding(takes_everything)),
    ("v11", "strict", "partial_extent_remove", "B23.each", commanding(gives_what_was_asked)),
    ("v11", "strict", "remove_extent_under_dax_device", "B22.in-use", commanding(gives_back_in_use)),
    ("A", "strict", "remove_extent_under_dax_device", "A11.in-use", commanding(gives_back_in_use)),
    ("v11", QEMU, "tagged-chain", "B5.order", commanding(backwards)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("host", "behaves", "name", "clause", "chooser"), CHOOSERS, ids=[f"{row[3]}-{row[0]}" for row in CHOOSERS]
)
async def test_a_wrong_command_is_convicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, behaves: str, name: str, clause: str, chooser: Chooser
) -> None:
    monkeypatch.setattr(linux, "_choose", chooser)
    (result,) = await run(tmp_path, host, [SCENARIOS[name]], behaves)
    assert result.outcome == "fail" and result.verdict is not None
    assert clause in {one.clause for one in result.verdict.failed}


def showing(change: Callable[[dict[str, Any]], None]) -> Callable[..., Any]:
    """A kernel whose sysfs shows something else."""
    right = SimulatedKernel.sight

    async def sight(self: SimulatedKernel, region: str) -> dict[str, Any]:
        seen = await right(self, region)
        change(seen)
        return seen

    return sight


def swapped(seen: dict[str, Any]) -> None:
    for device in seen["devices"]:
        device["mappings"] = device["mappings"][::-1]


def available(seen: dict[str, Any]) -> None:
    seen["available"] += 2 << 20


def another_uuid(seen: dict[str, Any]) -> None:
    for device in seen["devices"]:
        if device["size"]:
            device["uuid"] = "11111111-2222-3333-4444-555555555555"


def one_less(seen: dict[str, Any]) -> None:
    seen["extents"], seen["names"] = seen["extents"][1:], seen["names"][1:]


def another_mode(seen: dict[str, Any]) -> None:
    seen["mode"] = "ram"


@pytest.mark.parametrize(
    ("name", "clause", "change"),
    [
        ("tagged-chain", "B27.sequence", swapped),
        ("untagged-add", "B31.available", available),
        ("uuid_show", "B27.reads", another_uuid),
        ("two_regions", "B5.surfaced", one_less),
        ("region-create", "B1.mode", another_mode),
    ],
)
async def test_a_wrong_sight_is_convicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, clause: str, change: Callable[[dict[str, Any]], None]
) -> None:
    monkeypatch.setattr(SimulatedKernel, "sight", showing(change))
    (result,) = await run(tmp_path, "v11", [SCENARIOS[name]])
    assert result.outcome == "fail" and result.verdict is not None
    assert clause in {one.clause for one in result.verdict.failed}


async def test_a_record_that_is_not_cleared_is_convicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Voice.say

    def say(self: Voice, now_ns: int, text: str) -> None:
        if not text.endswith("Clearing 1"):
            right(self, now_ns, text)

    monkeypatch.setattr(Voice, "say", say)
    (result,) = await run(tmp_path, "v11", [SCENARIOS["tagged-chain"]])
    assert result.verdict is not None and "L1.clears" in {one.clause for one in result.verdict.failed}


async def test_a_wrong_error_is_convicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = SimulatedKernel.claim

    async def claim(self: SimulatedKernel, dax: str, text: str) -> dict[str, Any]:
        said = await right(self, dax, text)
        return {**said, "error": "-EINVAL"} if said["error"] == "-ENOENT" else said

    monkeypatch.setattr(SimulatedKernel, "claim", claim)
    (result,) = await run(tmp_path, "v11", [SCENARIOS["uuid_no_match"]])
    assert result.verdict is not None and "B28.none" in {one.clause for one in result.verdict.failed}


async def test_bytes_from_elsewhere_are_convicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that maps two extents of a tag the other way round, and shows the right order."""
    right = SimulatedKernel._places

    def elsewhere(self: SimulatedKernel, dax: str, offset: int, length: int) -> list[tuple[str, int, int]]:
        return [(name, dpa ^ (32 << 20), size) for name, dpa, size in right(self, dax, offset, length)]

    monkeypatch.setattr(SimulatedKernel, "_places", elsewhere)
    (result,) = await run(tmp_path, "v11", [SCENARIOS["data-in-order"]])
    assert result.outcome == "fail" and result.verdict is not None
    assert "DEV-17.device-reads" in {one.clause for one in result.verdict.failed}


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CPU: 0 PID: 55 at drivers/cxl/core/extent.c:7 cxl_add+0x1/0x2",
        "BUG: kernel NULL pointer dereference, address: 0000000000000038",
        "BUG: KASAN: slab-use-after-free in online_tag_group+0x1/0x2",
        "WARNING: possible circular locking dependency detected",
        "INFO: task irq/27-0000:0d:45 blocked for more than 20 seconds.",
        "Oops: Oops: 0000 [#1] SMP",
        "kernel BUG at drivers/dax/bus.c:12!",
        "Kernel panic - not syncing: Fatal exception",
    ],
)
async def test_an_alarm_in_the_log_is_convicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    right = SimulatedKernel.create

    async def create(self: SimulatedKernel, region: str) -> dict[str, Any]:
        for host in self.hosts.values():
            assert host.voice is not None
            host.voice._line(1, line)
        return await right(self, region)

    monkeypatch.setattr(SimulatedKernel, "create", create)
    (result,) = await run(tmp_path, "v11", [SCENARIOS["dax_device_ops"]])
    assert result.outcome == "fail" and result.verdict is not None
    assert {one.clause for one in result.verdict.failed} == {"KERNEL.alarm"}


class Asked:
    """As much of a guest as the survey asks: it answers a raw command in one way."""

    def __init__(self, answer: dict[str, Any], generation: dict[str, Any]) -> None:
        self.shape = EmulatedSetup().topology()
        self.ready = {"survey": {"generation": generation, "memdevs": []}}
        self.answer = answer
        self.opcodes: list[int] = []

    async def control(self, do: str, fields: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        assert (do, fields["what"], fields["payload"]) == ("kernel", "cxl", "00" * 8)
        self.opcodes.append(fields["opcode"])
        return self.answer


@pytest.mark.parametrize(
    ("answer", "sends"),
    [
        ({"rc": 0, "payload": "00" * 16}, True),
        ({"rc": 0x15, "payload": ""}, True),
        ({"refused": {"errno": "EPERM"}}, False),
        ({"refused": {"errno": "ENOTTY"}}, False),
        ({"refused": {"errno": "ETIMEDOUT"}}, True),
    ],
)
async def test_whether_a_kernel_sends_raw_commands_is_tried_before_any_history(
    answer: dict[str, Any], sends: bool
) -> None:
    """Else the first look of every scenario would be a command whose end nobody knows, and its verdict unknown."""
    guest: Any = Asked(answer, {"found": "v11", "sure": True})
    await settled_survey(guest)
    assert (guest.opcodes, guest.ready["survey"]["sends_raw"]) == ([0x4801], sends)
    asker = AgentKernel(guest)
    asker.learn(guest.ready["survey"])
    assert asker.sends_raw is sends
    none: Any = Asked(answer, {"found": "none"})
    await settled_survey(none)
    assert none.opcodes == [], "a kernel without DCD is asked for nothing"


@asynccontextmanager
async def under_test(tmp_path: Path) -> AsyncIterator[KernelSession]:
    """A session on a simulated v11 kernel; its history is in history.jsonl."""
    setup = EmulatedSetup(host="v11", seed=7, under_test=True)
    async with setup.guest(setup.topology(), tmp_path / "guest") as guest:
        with Writer(tmp_path / "history.jsonl", guest.header("x", 7), lambda: 1) as writer:
            guest.begin(writer)
            session = guest.session(writer)
            assert isinstance(session, KernelSession)
            await session.begin()
            yield session
            guest.end()


@pytest.mark.parametrize("sends", [True, False])
async def test_a_kernel_that_sends_no_raw_commands_is_asked_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sends: bool
) -> None:
    """Where no fabric manager shows the list either, there is one witness less. (The simulated one serves no 4801h.)"""
    monkeypatch.setattr(SimulatedKernel, "sends_raw", sends)
    async with under_test(tmp_path) as session:
        session.witnesses = {name: one for name, one in session.witnesses.items() if name != "fm_extents"}
        await session.lists("mem0")
    with (tmp_path / "history.jsonl").open("rb") as file:
        looks = [(op.f, op.type) for op in History(file) if op.process == "look"]
    assert looks == ([("extents", "invoke"), ("extents", "info")] if sends else [])


OOPS = """[    5.1] cxl region0: nothing wrong
[    5.2] WARNING: possible circular locking dependency detected
[    5.3] BUG: kernel NULL pointer dereference, address: 0000000000000038
[    5.4] RIP: 0010:__release_region+0x1/0x2
[    5.5] note: python3[58] exited with irqs disabled
"""


@pytest.mark.parametrize(
    ("panic", "console", "told"),
    [
        ("", OOPS, ["BUG: kernel NULL pointer"]),
        ("Kernel panic - not syncing: Fatal exception", OOPS, ["BUG: kernel NULL pointer"]),
        ("Kernel panic - not syncing: Fatal exception", "", ["Kernel panic"]),
        ("", "[    5.1] cxl region0: nothing wrong", []),
    ],
)
async def test_last_words_on_the_console_convict(tmp_path: Path, panic: str, console: str, told: list[str]) -> None:
    """An Oops that takes the agent along shows as silence: only the console tells. What the log has told is told."""
    async with under_test(tmp_path) as session:
        session._alarms.add("WARNING: possible circular locking dependency detected")
        session.died(panic, console)
    with (tmp_path / "history.jsonl").open("rb") as file:
        failed = check(History(file)).failed
    assert {one.clause for one in failed} == ({"KERNEL.alarm"} if told else set())
    assert len(failed) == len(told) and all(text in one.text for text, one in zip(told, failed, strict=True)), failed


async def test_no_alarm_is_made_of_what_we_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = SimulatedKernel.create

    async def create(self: SimulatedKernel, region: str) -> dict[str, Any]:
        for host in self.hosts.values():
            assert host.voice is not None
            host.voice.say(1, "raw command path used")
            host.voice._line(1, "WARNING: drivers/cxl/core/mbox.c:454 at cxl_send_cmd+0x153/0x4f8, CPU#0: python3/55")
        return await right(self, region)

    monkeypatch.setattr(SimulatedKernel, "create", create)
    (result,) = await run(tmp_path, "v11", [SCENARIOS["dax_device_ops"]])
    assert result.outcome == "pass"


async def test_a_chain_that_is_never_given_up_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linux, "_choose", without_last("answer", kernel.Tick))
    (result,) = await run(tmp_path, "v11", [SCENARIOS["chain-limit"]], QEMU)
    assert result.outcome == "fail" and "did not give the chain up" in result.reason


# ---- departures ------------------------------------------------------------------------------------------------------


def test_every_departure_has_its_scenario_or_a_reason() -> None:
    for row in QUIRKS.values():
        assert bool(row.scenario) != bool(row.hidden), row.id
        assert not row.scenario or row.scenario in SCENARIOS
        if row.scenario and row.switch:
            assert DEPARTURE + row.id in SCENARIOS[row.scenario].expect, row.id


async def test_a_departure_that_is_gone_is_told(tmp_path: Path) -> None:
    """A run that did not show what its scenario is there for names the row that no longer holds."""
    (result,) = await run(tmp_path, "v11", [SCENARIOS["event_reporting"]])
    assert result.verdict is not None
    outcome, reason = judge(SCENARIOS["quirk-release-each"], result.verdict, generation="v11")
    assert outcome == "fail" and "departure Q4 is no longer seen (kernel v11)" in reason
    assert judge(SCENARIOS["quirk-release-each"], result.verdict, generation="A") == ("pass", "")


async def test_of_a_kernel_without_dynamic_debug_nothing_is_expected(tmp_path: Path) -> None:
    """What it answered is not known: that is unknown, and no departure is gone. Who is convicted all the same, is."""
    (result,) = await run(tmp_path, "v11", [SCENARIOS["event_reporting"]])
    assert result.verdict is not None
    outcome, reason = judge(SCENARIOS["quirk-release-each"], result.verdict, generation="v11", mute=True)
    assert outcome == "unknown" and "CONFIG_DYNAMIC_DEBUG" in reason
    alarm = Finding("host", "mem0", "KERNEL.alarm", "fail", "WARN: ...", "", (1,), (), {}, {}, {})
    guilty = replace(result.verdict, findings=(alarm,))
    assert judge(SCENARIOS["event_reporting"], guilty, mute=True) == ("fail", "host breaks KERNEL.alarm: WARN: ...")


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_fitting() -> None:
    """Host U is not shown fifty scenarios that it cannot run; a simulated kernel is shown both kinds."""
    mine, other = SCENARIOS["untagged-add"], SCENARIOS["add"]
    assert not fitting(mine, EmulatedSetup()) and fitting(other, EmulatedSetup())
    assert fitting(mine, EmulatedSetup(host="v11")) and fitting(other, EmulatedSetup(host="v11"))


def test_places() -> None:
    assert places([(512, 128), (0, 64)]) == [(0, 512, 128), (128, 0, 64)]


def line(text: str) -> dict[str, Any]:
    return {"t_ns": 0, "text": text}


def test_a_flood_is_bounded() -> None:
    """What tells nothing is left out, and what tells something is counted where it does not fit."""
    noise, telling = [line("x" * 900)] * 400, [line("cxl_pci 0000:0d:00.0: Event log '4': Clearing 1")]
    assert bounded(noise[:10]) == (noise[:10], 0)
    assert bounded([*noise, *telling]) == (telling, 0)
    kept, lost = bounded(telling * 10_000)
    assert lost and len(kept) + lost == 10_000


def test_what_happens_together_is_cut_where_something_begins() -> None:
    given = line("cxl_pci 0000:0d:00.0: Release response dpa [range 0x0000000000000000-0x0000000003ffffff]")
    reading = line("cxl_pci 0000:0d:00.0: Reading event logs: 10")
    add = line("cxl_pci 0000:0d:00.0: DCD event add : DPA:0x0 LEN:0x4000000")
    cleared = line("cxl_pci 0000:0d:00.0: Event log '4': Clearing 1")
    event = {"handle": 1}
    assert parts([event], [given, reading, add, cleared], 2) == [([], [given]), ([event], [reading, add, cleared])]
    assert parts([event], [reading, add, cleared, given], 2) == [([event], [reading, add, cleared]), ([], [given])]
    assert parts([], [line("x")], 2) == [([], [line("x")]), ([], [])]


@pytest.mark.parametrize(
    ("backend", "host", "seen"),
    [
        ("qemu", {"generation": "v11"}, "real"),
        ("qemu", {"generation": "U"}, "real"),
        ("recorded", {"generation": "v11"}, "recorded"),
        ("emulator", {"generation": "v11", "simulated": True}, "simulated"),
    ],
)
def test_where_a_judgement_comes_from(backend: str, host: dict[str, Any], seen: str) -> None:
    assert seen_of(Header(backend, None, host, (), 0, "x")) == seen


# ---- what a write brings by itself -----------------------------------------------------------------------------------

USED_AND_RELEASED = [
    "untagged-add", "untagged-chain", "tagged-add", "tagged-chain", "remove_extent_under_dax_device",
    "partial_extent_remove", "release-while-claimed", "release-while-mapped", "release-while-online",
    "race-release-claim",
]  # fmt: skip


@pytest.mark.parametrize(("host", "behaves"), [("v11", "strict"), ("v11", QEMU), ("v10", QEMU), ("A", QEMU)])
async def test_a_release_that_is_remembered_is_told_before_anybody_looks(
    tmp_path: Path, host: str, behaves: str
) -> None:
    """The 4803h comes inside a user's write: the log that tells of it is before the next witness, and no one errs."""
    setup = EmulatedSetup(host=host, behaves=behaviour(behaves), seed=7, what_if=frozenset({"release-remembered"}))
    async with Runner(setup, run_dir=tmp_path, seed=7) as runner:
        results = [await runner.run(SCENARIOS[name]) for name in USED_AND_RELEASED]
    assert [(one.place, one.outcome, one.reason) for one in results if one.outcome not in ("pass", "skipped")] == []
    told = [one for one in results if one.verdict is not None and one.outcome == "pass"]
    judged = [name for one in told if one.verdict is not None for (_, _, name) in one.verdict.counts]
    assert judged.count("WHAT-IF.release-remembered") >= (8 if host in ("v11", "v10") else 5)
