"""The same seeded operations to a real QEMU and to the emulator behaving as that QEMU: they may not differ.

DCD_FUZZ_OPS says how many; with 10000 it is the long run. A device that is wrong on purpose is found against the real
one, and the sequence that shows it is short.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from wrong_device import BREAKS, BY_HAND, sequence, wrong_side

from dcdbackend.boot import Setup
from dcdbackend.cli import run as dcd
from dcdbackend.differential import Differential, EmulatorSide, SocketSide, finding_of, qemu_side
from dcdbackend.emulator.machine import behaviour
from dcdbackend.workload import KINDS, Operation

pytestmark = pytest.mark.vm

OPS = int(os.environ.get("DCD_FUZZ_OPS", "600"))
SEED = 11
AGAINST_QEMU = ("a wrong refusal code", "an extent missed in the list", "the words of another refusal")


def own(setup: Setup) -> str:
    return f"qemu-{setup.qemu.version.split()[0]}"


async def test_qemu_and_the_emulator_do_the_same(setup: Setup, tmp_path: Path) -> None:
    shape = setup.topology()
    async with qemu_side(setup, tmp_path) as qemu:
        both = Differential(EmulatorSide(shape, behaviour(own(setup))), qemu, shape)
        findings = await both.run(OPS, SEED)
        assert not findings, "\n".join(finding.script() for finding in findings)
        tally = both.tally
        assert tally.operations >= OPS
        assert tally.questions > 3 * OPS
        assert len(set(KINDS) - BY_HAND - set(tally.kinds)) < 12
        by_f: Counter[tuple[str, str]] = Counter()
        for kind, count in tally.kinds.items():
            by_f[KINDS[kind].f, "all"] += count
            by_f[KINDS[kind].f, "refused"] += tally.refused[kind]
        for f in ("add", "release", "answer", "give_back", "clear", "extents"):
            assert 0 < by_f[f, "refused"] < by_f[f, "all"], (f, by_f)
        await over_the_socket(both, setup, tmp_path)
        for name in AGAINST_QEMU:
            await found_and_short(name, both, setup)


async def over_the_socket(both: Differential, setup: Setup, directory: Path) -> None:
    """The emulator's monitor as any client sees it, against the same guest."""
    shape = setup.topology()
    async with SocketSide(shape, behaviour(own(setup)), directory) as side:
        other = Differential(side, both.qemu, shape)
        assert not await other.run(60, SEED, length=30)


async def found_and_short(name: str, both: Differential, setup: Setup) -> None:
    """A wrong emulator against the real QEMU: found, made short, and gone where the emulator is right."""
    broken, told, most = BREAKS[name]
    wrong = Differential(wrong_side(broken, behaviour(own(setup))), both.qemu, setup.topology())
    for seed in range(40):
        played = await wrong.play(sequence(seed, 60), seed=seed)
        if played.signature is not None and told in played.signature:
            break
    assert played.signature is not None and told in played.signature, f"{name} was not found"
    found = finding_of(await wrong.shortened(played, 60))
    assert found is not None
    assert len(found.operations) <= most + 1, found.script()
    assert (await both.replay(found.operations)).difference is None


async def test_a_reset_changes_nothing_that_was_not_foretold(setup: Setup, tmp_path: Path) -> None:
    """What is offered, held and logged before a system reset is what both tell after it."""
    shape = setup.topology()
    one = {"via": "qmp", "host_id": 0, "policy": "prescriptive", "region": 0, "tag": None}
    spans = [{"offset": at << 22, "length": 2 << 20} for at in range(3)]
    operations = [
        Operation("add.chain", "add", {**one, "extents": spans}),
        Operation("answer.some", "answer", {"flags": 0, "ranges": [[0, 2 << 20]]}),
        Operation("add.one", "add", {**one, "region": 1, "extents": spans[:2]}),
        Operation("reset", "reset", {}),
        Operation("block", "block", {"region": 0, "offset": 0, "length": 2 << 20}),
        Operation("extents.all", "extents", {"count": 50, "start": 0}),
        Operation("clear.all", "clear", {"log": 4, "flags": 0, "handles": ["#0", "#1", "#2", "#3"]}),
        Operation("answer.none", "answer", {"flags": 0, "ranges": []}),
    ]
    async with qemu_side(setup, tmp_path) as qemu:
        both = Differential(EmulatorSide(shape, behaviour(own(setup))), qemu, shape)
        played = await both.replay(operations)
        found = finding_of(played)
        assert found is None, found.script()
        assert len(played.steps) == len(operations)


def test_the_verb_tells_what_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert dcd(["fuzz", "--ops", "40", "--seed", "1", "--deadly", "--run-dir", str(run)]) == 0
    told = capsys.readouterr().out
    assert "0 differences" in told
    assert told.count("known to kill") == 2
    assert "QEMU-empty-answer" in told and "SIG" in told
    assert (run / "finding-1.jsonl").read_text().startswith('{"kind": "deadly.')
    assert dcd(["fuzz", "--replay", str(tmp_path / "none.jsonl")]) == 2
