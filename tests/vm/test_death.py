"""Three kinds of death, provoked for real and told apart; each ends in a verdict, and the run goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dcdbackend.boot import Setup
from dcdbackend.checker.explain import tell
from dcdbackend.scenario import SCENARIOS, Scenario
from dcdbackend.scenario.runner import Runner
from dcdbackend.session import Session

pytestmark = pytest.mark.vm

Kill = Callable[[Runner], None]


def by_signal(number: int) -> Kill:
    def kill(runner: Runner) -> None:
        assert runner.guest is not None
        os.kill(runner.guest.pid, number)

    return kill


def provoke(what: str) -> Kill:
    def kill(runner: Runner) -> None:
        assert runner.guest is not None
        runner.guest.provoke(what)

    return kill


def dying(runner: Runner, kill: Kill) -> Callable[[Session], Awaitable[None]]:
    async def body(bench: Session) -> None:
        await (await bench.add(["0+4M"])).answer()
        kill(runner)
        for _ in range(100):
            await (await bench.add(["8M+4M"])).answer(timeout_s=1.0)
            await bench.extents()
            await (await bench.release(["8M+4M"])).response(timeout_s=1.0)

    return body


@pytest.mark.parametrize(
    ("kill", "kind", "told", "outcome"),
    [
        (by_signal(signal.SIGSEGV), "the device is gone", "SIGSEGV", "fail"),
        (by_signal(signal.SIGKILL), "QEMU was killed from outside", "SIGKILL", "unknown"),
        (provoke("panic"), "the guest's kernel is gone", "sysrq triggered crash", "unknown"),
        (provoke("stop"), "the guest's agent is silent", "no answer to a ping", "unknown"),
    ],
    ids=["qemu-crashes", "qemu-killed", "guest-panics", "agent-stops"],
)
async def test_each_death_is_named_shown_and_survived(
    setup: Setup, tmp_path: Path, kill: Kill, kind: str, told: str, outcome: str
) -> None:
    async with Runner(setup, run_dir=tmp_path, seed=1) as runner:
        result = await runner.run(Scenario(name="dying", body=dying(runner, kill), summary=""))
        assert result.verdict is not None
        assert (result.outcome, told in result.reason) == (outcome, True), result.reason
        found = next(finding for finding in result.verdict.findings if finding.clause == "DEV-9.alive")
        assert found.text.startswith(kind)
        assert told in found.text
        assert any("add region 0: " in line for line in tell(found)), tell(found)
        again = await runner.run(SCENARIOS["add"])
        assert again.outcome == "pass", again.reason
        assert runner.boots == 2
