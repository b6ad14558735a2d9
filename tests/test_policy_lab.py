"""scenario/policy_lab*, cli/simulate: the proposal's workflows and the what-if switches, run on simulated hosts.

Nothing here says anything of a kernel: device, host and judge share one model (`emulated.WARNING`). What is shown is
that each does what the rules say, that the judge sees a host which does not, and what changes by a switch alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import dcdbackend
from dcdbackend.boot import HISTORY
from dcdbackend.checker import check
from dcdbackend.cli import run as cli
from dcdbackend.emulated import EmulatedSetup
from dcdbackend.emulator import linux
from dcdbackend.emulator.machine import HOSTS, Machine, behaviour
from dcdbackend.errors import AskedWrongly
from dcdbackend.history import History
from dcdbackend.linux_rules import WHAT_IF
from dcdbackend.model import host as model
from dcdbackend.model.generation import WHAT_IFS, switches_of
from dcdbackend.model.permitted import Command, Decision, Permitted
from dcdbackend.scenario import SCENARIOS, Scenario
from dcdbackend.scenario.runner import Result
from dcdbackend.scenario.simulated import SIMULATED_HOSTS, run
from dcdbackend.topology import direct

Value = dict[str, Any]
WORKFLOWS = [one for one in SCENARIOS.values() if "policy-drivers" in one.needs]
OPEN = [one for one in SCENARIOS.values() if one.name.startswith("what-if-")]
SCHEMA = Path(dcdbackend.__file__).parent / "history.schema.json"


def lines(result: Result) -> list[Value]:
    """The history's lines."""
    assert result.directory is not None
    return [json.loads(line) for line in (result.directory / HISTORY).read_bytes().splitlines()]


def done(result: Result) -> list[tuple[str, str, str]]:
    """What the host did and what writes gave, without places and times: what a switch may change."""
    return [
        (line["f"], line["type"], str(line["value"].get("ranges", line["value"].get("error", ""))))
        for line in lines(result)[1:]
        if line["f"] in ("answer", "give_back", "claim", "use", "unuse")
    ]


# ---- the workflows and the tag policies


def test_the_workflows_have_the_names_of_the_message() -> None:
    assert {
        "current-region-bind", "manual-dax-region", "manual-sysram-region", "manual-dc-region-dax",
        "manual-dc-region-sysram", "create-region-bad-combination",
        "sysram-usecase", "virtio-usecase", "devdax-usecase", "no-tag-no-service", "tags-globally-unique",
    } <= {one.name for one in WORKFLOWS}  # fmt: skip


async def test_the_workflows_are_green_on_c_and_are_judged_by_every_clause_of_it(tmp_path: Path) -> None:
    found = await run("C", (), WORKFLOWS, run_dir=tmp_path, seed=1)
    assert {one.scenario.name: one.reason for one in found if one.outcome != "pass"} == {}
    passed = {
        clause
        for one in found
        if one.verdict is not None
        for (_, _, clause), counts in one.verdict.counts.items()
        if counts.passed
    }
    missing = {name for name in own_clauses() if name not in passed}
    assert missing == {"C1.pages", "C1.discovery", "C1.inside"}, "by histories in test_checker_policy"
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    for result in found:
        for line in [one for one in lines(result) if one.get("f") in (None, "claim", "use", "unuse", "sysfs")]:
            assert not list(validator.iter_errors(line)), line


def own_clauses() -> set[str]:
    """Those of C that somebody can see."""
    from dcdbackend.linux_rules import of_generation

    return {clause.id for clause in of_generation("C") if clause.rule.startswith("C") and clause.witnesses}


async def test_other_hosts_skip_them_and_say_why(tmp_path: Path) -> None:
    for host in ("A", "v11"):
        found = await run(host, (), WORKFLOWS[:2], run_dir=tmp_path / host)
        assert {(one.outcome, one.reason) for one in found} == {("skipped", "needs policy-drivers")}


async def test_a_driver_that_comes_finds_what_the_device_holds(tmp_path: Path) -> None:
    """C1.discovery on the emulator: after a reset a fresh host reads the list, and answers nothing."""
    machine = Machine(direct(), behaves=behaviour(), host="C")
    machine.turn()
    device = machine.devices["mem0"]
    extent = {"offset": 0, "length": 64 << 20}
    sent = {"device": "mem0", "via": "qmp", "host_id": 0, "region": 0, "tag": None, "extents": [extent],
            "policy": "prescriptive"}  # fmt: skip
    assert device.manage("add", sent) is None
    machine.turn()
    host = machine.control.watched["mem0"].host
    assert isinstance(host, linux.LinuxHost) and len(host.kernel.extents) == 1
    machine.reboot()
    machine.turn()
    fresh = machine.control.watched["mem0"].host
    assert isinstance(fresh, linux.LinuxHost) and fresh is not host
    assert [(one.start, one.length) for one in fresh.kernel.extents] == [(host.kernel.extents[0].start, 64 << 20)]
    assert [device.driver for device in fresh.kernel.devices] == ["device_dax"]


# ---- hosts that do otherwise


def taking_a_part(permitted: Permitted, cause: model.Cause, seed: int) -> tuple[Decision, tuple[Command, ...]]:
    """A host that answers with the first extent of what it took."""
    way, commands = model.choose(permitted, seed)
    return way, tuple(one._replace(ranges=one.ranges[:1]) if one.f == "answer" else one for one in commands)


def giving_back_in_use(permitted: Permitted, cause: model.Cause, seed: int) -> tuple[Decision, tuple[Command, ...]]:
    """A host that gives back what was asked, whoever holds it."""
    way, commands = model.choose(permitted, seed)
    if "C2.in-use" in way.judged and isinstance(cause, model.Records):
        asked = tuple([(event.start, event.length) for event in cause.events])
        return way, (Command("give_back", cause.memdev, asked), *commands)
    return way, commands


def keeping_all(permitted: Permitted, cause: model.Cause, seed: int) -> tuple[Decision, tuple[Command, ...]]:
    """A host that gives nothing back."""
    way, commands = model.choose(permitted, seed)
    return way, tuple([one for one in commands if one.f != "give_back"])


@pytest.mark.parametrize(
    ("wrong", "scenario", "clause"),
    [
        (taking_a_part, "manual-dc-region-dax", "C1.answer"),
        (giving_back_in_use, "devdax-usecase", "C2.in-use"),
        (keeping_all, "sysram-usecase", "C2.leave"),
        (keeping_all, "virtio-usecase", "C6.each"),
        (keeping_all, "sysram-untagged", "C3.part"),
        (keeping_all, "region-driver-goes", "C1.unbind"),
    ],
)
async def test_a_host_that_does_otherwise_is_convicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any, scenario: str, clause: str
) -> None:
    monkeypatch.setattr(linux, "_choose", wrong)
    (found,) = await run("C", (), [SCENARIOS[scenario]], run_dir=tmp_path)
    assert found.outcome == "fail" and found.verdict is not None
    assert clause in {one.clause for one in found.verdict.failed}, found.reason


# ---- the switches, on a device that keeps the rules


@pytest.mark.parametrize("name", WHAT_IFS)
async def test_a_switch_changes_what_happens_and_the_verdict_on_it(tmp_path: Path, name: str) -> None:
    """The scenario of its name, with and without, on every host that can have it: another answer, and each wrong to the
    other's judge. Where the device's own rules leave no room for a difference, that is said here.
    """
    scenario = SCENARIOS[f"what-if-{name}"]
    hosts = [host for host in WHAT_IFS[name].generations if host in SIMULATED_HOSTS]
    same = set()
    for host in hosts:
        (off,) = await run(host, (), [scenario], run_dir=tmp_path / f"{host}-off", seed=1)
        (on,) = await run(host, (name,), [scenario], run_dir=tmp_path / f"{host}-on", seed=1)
        assert {off.outcome, on.outcome} == {"pass"}, (host, off.reason, on.reason)
        if done(off) == done(on):
            same.add(host)
            continue
        assert on.verdict is not None and on.verdict.of(f"{WHAT_IF}.{name}").passed, host
        assert judged_as(on, ()), host
        assert judged_as(off, (name,)) or name == "interleave", "regions over one device each are not interleaved"
    assert same == {"extend-accepted": {"A"}}.get(name, set()), "untagged extents that adjoin are taken as it is"


def judged_as(result: Result, what_if: tuple[str, ...]) -> set[str]:
    """The clauses that a host broke, by a judge with these switches."""
    assert result.directory is not None
    with (result.directory / HISTORY).open("rb") as file:
        history = History(file)
        head = history.header._replace(host={**history.header.host, "what_if": list(what_if)})
        verdict = check(list(history), head)
    return {one.clause for one in verdict.failed if one.subject == "host"}


async def test_all_that_go_together_at_once(tmp_path: Path) -> None:
    for host in SIMULATED_HOSTS:
        on = [name for name in switches_of(host) if name != "no-tag-no-service"]
        found = await run(host, on, OPEN, run_dir=tmp_path / host, seed=1)
        assert {one.outcome for one in found} <= {"pass", "skipped"}, [(one.scenario.name, one.reason) for one in found]
        head = lines(next(one for one in found if one.directory is not None))[0]
        assert head["host"]["what_if"] == sorted(on) and head["host"]["generation"] == host


# ---- dcd simulate


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--seed", "3", "--run-dir", str(tmp_path / "run")]
    code = cli(["simulate", "--host", "v11", "--with", "release-remembered", "what-if-release-remembered", *given])
    told = capsys.readouterr()
    assert code == 0 and "WHAT-IF.release-remembered" in told.out
    assert "BACKEND EMULATOR" in told.out and "Traceback" not in told.err
    assert "again: dcd simulate --host v11 --seed 3 --with release-remembered what-if-release-remembered" in told.out
    data = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert (data["host"], data["with"], data["backend"]) == ("v11", ["release-remembered"], "emulator")


def test_a_script_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "mine_lab.py"
    script.write_text(
        "from dcdbackend import scenario\n\n\n"
        '@scenario(needs={"simulated"}, name="mine-lab")\n'
        "async def mine(bench):\n"
        '    """Two writes."""\n'
        '    await (await bench.add(["0+64M"])).answer()\n'
        '    assert await bench.kernel_write("claim", file="uuid", dax="dax0.0", text="0") == ""\n'
    )
    assert cli(["simulate", str(script), "--run-dir", str(tmp_path / "a"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["outcome"] == "pass"
    code = cli(["simulate", str(script), "--with", "no-tag-no-service", "--run-dir", str(tmp_path / "b"), "--json"])
    assert code == 1, "what it expects of a simulated kernel counts"
    assert "the scenario expected otherwise" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--host", "v12"], ["'v12'", "there is A, B-rfc, v10, v11, C"]),
        (["--host", "U"], ["'U'", "there is A"]),
        (["--with", "magic"], ["what-if 'magic' is not known", "release-remembered"]),
        (["--host", "C", "--with", "extend-accepted"], ["generation C cannot have what-if 'extend-accepted'", "C2"]),
        (["--host", "v10", "--with", "interleave"], ["generation v10 cannot have what-if 'interleave'", "B2"]),
        (
            ["--with", "no-tag-no-service", "--with", "one-untagged-per-group"],
            ["'no-tag-no-service' and 'one-untagged-per-group' contradict each other"],
        ),
        (["--host", "v11", "virtio-usecase"], ["host v11 and scenario 'virtio-usecase'", "policy-drivers"]),
        (["nothing-like-it"], ["no scenario 'nothing-like-it'"]),
        (["--size", "3"], ["3"]),
    ],
)
def test_bad_input_is_one_line_that_names_the_two(
    argv: list[str], says: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["simulate", *argv]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and told.err.startswith("dcd: ")
    assert all(text in told.err for text in says), told.err
    assert "draft" not in told.err, "of which there is no simulated host"


def test_the_list_of_switches(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["simulate", "--list"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in WHAT_IFS) and "draft" not in told


def test_setups_that_cannot_be() -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: EmulatedSetup(host="U", what_if=frozenset({"interleave"})), "host U has no what-if 'interleave'"),
        (lambda: EmulatedSetup(host="C", what_if=frozenset({"map-to-extents"})), "generation C cannot have"),
        (lambda: Machine(direct(), behaves=behaviour(), what_if=["interleave"]), "host U has no what-if"),
        (lambda: Machine(direct(hosts=2), behaves=behaviour(), host="v11"), "2 hosts, and host v11"),
    ]
    for make, text in cases:
        with pytest.raises(AskedWrongly, match=text):
            make()
    assert HOSTS[1:] == SIMULATED_HOSTS


async def test_host_u_has_no_files(tmp_path: Path) -> None:
    """A scenario that writes files skips where nobody has any."""
    from dcdbackend.scenario.runner import Runner

    async def body(bench: Any) -> None:
        await bench.kernel_write("claim", file="uuid", dax="dax0.0", text="0")

    async with Runner(EmulatedSetup(), run_dir=tmp_path, seed=0) as runner:
        result = await runner.run(Scenario(name="writes", body=body, summary=""))
    assert result.outcome == "skipped" and "simulated kernel" in result.reason
