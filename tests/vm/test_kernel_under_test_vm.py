"""The scenarios on a real DCD kernel, where there is one: DCD_TEST_KERNEL names its bzImage.

No distribution ships such a kernel, so nothing here runs by itself; what is run on every machine is the simulated one
(`test_kernel_scenarios`) and the stock kernel with static capacity. This is the record's set, on the topology that can
offer tags: a v11 kernel passes it whole, and inside the time that the kernel's users are promised.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dcdbackend import boot, image
from dcdbackend.scenario import SCENARIOS, ordered
from dcdbackend.scenario.runner import Runner

pytestmark = pytest.mark.vm
RECORDED = ["region-create", "untagged-add", "untagged-chain", "no-region"]
RECORDED += ["tagged-add", "tagged-chain", "reused-tag", "mixed-chain"]
BUDGET_S = 90.0


@pytest.mark.skipif("DCD_TEST_KERNEL" not in os.environ, reason="DCD_TEST_KERNEL names no kernel with DCD support")
async def test_the_recorded_sessions_again(tmp_path: Path) -> None:
    began = time.monotonic()
    parts = await asyncio.to_thread(image.parts, kernel=os.environ["DCD_TEST_KERNEL"], host="kernel")
    setup = replace(await boot.prepare(parts, shape={"regions": 2, "size": "2G"}), kind="switch")
    async with Runner(setup, run_dir=tmp_path, seed=1) as runner:
        results = [await runner.run(one) for one in ordered(SCENARIOS[name] for name in RECORDED)]
    assert [(one.place, one.reason) for one in results if one.outcome != "pass"] == []
    assert {one.verdict.seen for one in results if one.verdict is not None} == {"real"}
    assert time.monotonic() - began < BUDGET_S
