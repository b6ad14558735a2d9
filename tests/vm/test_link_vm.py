"""The link on the real thing: it drops in the middle of traffic and comes back, and the history is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from dcdbackend.boot import HISTORY, Setup
from dcdbackend.history import History
from dcdbackend.scenario import Scenario
from dcdbackend.scenario.runner import Runner
from dcdbackend.session import Session

pytestmark = pytest.mark.vm

ROUNDS = 40


async def test_a_link_that_drops_loses_and_doubles_nothing(setup: Setup, tmp_path: Path) -> None:
    async with Runner(setup, run_dir=tmp_path, seed=1) as runner:

        async def dropping(bench: Session) -> None:
            assert runner.guest is not None
            for index in range(ROUNDS):
                offer = await bench.add([f"{4 * index}M+2M"])
                runner.guest.drop_link()
                assert (await offer.answer()).outcome == "accepted"
            assert len(await bench.extents()) == ROUNDS

        result = await runner.run(Scenario(name="dropping", body=dropping, summary=""))
        assert result.outcome == "pass", result.reason
        assert runner.guest is not None
        assert sum("dropped on purpose" in line for line in runner.guest.strays) == ROUNDS
    with (tmp_path / "dropping" / HISTORY).open("rb") as file:
        answers = [op for op in History(file) if op.f == "answer"]
    assert len([op for op in answers if op.type == "invoke"]) == ROUNDS
    assert len([op for op in answers if op.type == "ok"]) == ROUNDS
