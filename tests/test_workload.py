"""The workload and the comparison, without QEMU: two emulators, one of them wrong on purpose."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from wrong_device import AS_QEMU, BREAKS, BY_HAND, VERSION, sequence, wrong_side

from dcdbackend.differential import Differential, EmulatorSide, Finding, SocketSide, finding_of, read_replay
from dcdbackend.errors import AskedWrongly
from dcdbackend.model.decide import deadly
from dcdbackend.model.departures import applicable
from dcdbackend.model.reply import Device, device, reply
from dcdbackend.model.state import config_of
from dcdbackend.topology import direct
from dcdbackend.workload import (
    KINDS,
    Choices,
    Operation,
    as_taken,
    bind,
    make,
    next_operation,
    shrinking,
)

MIB = 1 << 20
GIB = 1 << 30
UNMODELLED = {"raw", "config", "reset"}


def fresh(departures: frozenset[str] = applicable(VERSION)) -> Device:
    regions = [{"index": at, "base": at * GIB, "length": GIB, "block_size": 2 * MIB} for at in range(2)]
    return device(config_of({"regions": regions, "supported_extents": 512}, departures=departures))


def walked(seed: int, length: int, avoid: frozenset[str] = frozenset()) -> list[tuple[Operation, str]]:
    """A sequence on the model alone: each operation, and how it ended."""
    found: list[tuple[Operation, str]] = []
    there = fresh()
    for number in range(length):
        operation = next_operation(seed, number, there, avoid=avoid)
        sent = bind(operation, there)
        assert deadly(there.state, operation.f, as_taken(sent)) is None
        end = ""
        if operation.f not in UNMODELLED:
            there, end, _ = reply(there, operation.f, as_taken(sent))
        found.append((operation, end))
    return found


def test_the_choices_are_splitmix64() -> None:
    choices = Choices(0)
    choices._state = 0
    assert [choices.word() for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_a_seed_is_a_sequence() -> None:
    assert walked(7, 150) == walked(7, 150)
    assert walked(7, 150) != walked(8, 150)


def test_a_seed_is_the_same_sequence_in_every_process() -> None:
    program = (
        "import hashlib; from test_workload import walked; "
        "print(hashlib.sha256(repr(walked(5, 100)).encode()).hexdigest())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert told == {hashlib.sha256(repr(walked(5, 100)).encode()).hexdigest() + "\n"}


def test_every_kind_comes_and_both_ends() -> None:
    kinds: Counter[str] = Counter()
    ends: Counter[tuple[str, str]] = Counter()
    for seed in range(24):
        for operation, end in walked(seed, 120):
            kinds[operation.kind] += 1
            ends[operation.f, end] += 1
    assert set(KINDS) - set(kinds) == BY_HAND
    for f in ("add", "release", "answer", "give_back", "clear", "extents"):
        legal, illegal = ends[f, "ok"], ends[f, "fail"]
        assert min(legal, illegal) > 25, (f, legal, illegal)


def test_what_is_avoided_does_not_come() -> None:
    kinds = {operation.kind for seed in range(4) for operation, _ in walked(seed, 150, frozenset(("add.one",)))}
    assert "add.one" not in kinds
    assert "add.chain" in kinds


def test_what_kills_is_made_by_name_alone() -> None:
    there = fresh()
    for kind in ("deadly.qmp-wraps", "deadly.empty-answer"):
        operation = make(kind, Choices(1), there)
        assert operation is not None
        assert deadly(there.state, operation.f, operation.sent) is not None
    negative = {"via": "qmp", "region": 0, "extents": [{"offset": -2 * MIB, "length": 2 * MIB}]}
    assert deadly(there.state, "add", as_taken(negative)) == "QEMU-qmp-wraps"


def test_places_in_the_log_become_handles() -> None:
    there = fresh()._replace(next_handle=65534)
    sent = {"via": "qmp", "host_id": 0, "policy": "prescriptive", "region": 0, "tag": None}
    spans = [{"offset": at * 4 * MIB, "length": 2 * MIB} for at in range(3)]
    there, _, _ = reply(there, "add", {**sent, "extents": spans})
    clear = Operation("clear.all", "clear", {"log": 4, "flags": 0, "handles": ["#0", "#2", "#3", "#5", 0]})
    assert bind(clear, there)["handles"] == [65534, 1, 2, 4, 0]


# ---- making it short


def shortest(operations: Sequence[Operation], fails: Callable[[Sequence[Operation]], bool], tries: int = 1000) -> Any:
    candidates = shrinking(operations, tries)
    asked = 0
    try:
        candidate = next(candidates)
        while True:
            asked += 1
            candidate = candidates.send(fails(candidate))
    except StopIteration as stop:
        return stop.value, asked


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_shortest_sequence_is_found(seed: int) -> None:
    """Planted: an add of two extents somewhere before an answer, with anything around and between."""
    operations = [operation for operation, _ in walked(seed, 120)]
    pair = [{"offset": 0, "length": 2 * MIB}, {"offset": 4 * MIB, "length": 2 * MIB}, {"offset": 0, "length": 1}]
    add = Operation("add.chain", "add", {"extents": pair})
    answer = Operation("answer.all", "answer", {"flags": 0, "ranges": [[0, 1], [2, 3], [4, 5]]})
    operations[20 + seed], operations[90 + seed] = add, answer

    def fails(some: Sequence[Operation]) -> bool:
        at = [
            n
            for n, one in enumerate(some)
            if one.f == "add" and len(one.sent["extents"]) >= 2 and not one.sent.get("via")
        ]
        return bool(at) and any(one.f == "answer" and [2, 3] in one.sent["ranges"] for one in some[at[0] :])

    found, asked = shortest(operations, fails)
    assert [one.f for one in found] == ["add", "answer"]
    assert len(found[0].sent["extents"]) == 2
    assert found[1].sent["ranges"] == [[2, 3]]
    assert asked < 300


def test_making_it_short_is_bounded() -> None:
    operations = [operation for operation, _ in walked(1, 100)]
    found, asked = shortest(operations, lambda some: len(some) > 70, tries=7)
    assert asked == 7
    assert 70 < len(found) < 100
    assert shortest(operations, lambda _: False, tries=500)[0] == tuple(operations)


# ---- the comparison has teeth


def compared(emulator: EmulatorSide, qemu: EmulatorSide, ops: int, seed: int = 3, **more: Any) -> Differential:
    both = Differential(emulator, qemu, direct(regions=2))
    asyncio.run(both.run(ops, seed, **more))
    return both


def right_side() -> EmulatorSide:
    return EmulatorSide(direct(regions=2), AS_QEMU)


@pytest.mark.parametrize("name", BREAKS)
def test_a_wrong_device_is_found_and_the_sequence_is_short(name: str) -> None:
    broken, told, most = BREAKS[name]
    both = Differential(wrong_side(broken), right_side(), direct(regions=2))

    async def run() -> Finding:
        for seed in range(60):
            played = await both.play(sequence(seed, 60), seed=seed)
            if played.signature is not None and told in played.signature:
                found = finding_of(await both.shortened(played, 150))
                assert found is not None
                return found
        raise AssertionError(f"{name} was not found")

    found = asyncio.run(run())
    assert len(found.operations) <= most, found.script()
    again = asyncio.run(both.replay(read_replay(found.replay())))
    assert again.signature == found.signature
    healthy = Differential(right_side(), right_side(), direct(regions=2))
    assert asyncio.run(healthy.replay(found.operations)).difference is None
    assert _tells(found)


def _tells(found: Finding) -> bool:
    """The script shows every operation as it is sent, and what both sides said of the last one."""
    script = found.script()
    return all(str(step.exchange) in script for step in found.steps) and "#   QEMU: " in script


def test_two_alike_do_not_differ() -> None:
    both = compared(right_side(), right_side(), 400, length=50, resets=True)
    assert not both.findings
    assert both.tally.operations >= 400
    assert both.tally.questions > both.tally.operations
    assert 100 < both.tally.refused.total() < 300


def test_a_death_that_was_not_foretold_is_found_and_avoided() -> None:
    """QEMU's offset + length reaches 2^64: an emulator that does not know of it sends it."""
    unaware = AS_QEMU._replace(departures=AS_QEMU.departures - {"QEMU-qmp-wraps"})
    both = Differential(EmulatorSide(direct(regions=2), unaware), right_side(), direct(regions=2))

    def source(number: int, there: Device) -> Operation | None:
        return next_operation(1, number, there) if number < 20 else make("deadly.qmp-wraps", Choices(1), there)

    async def run() -> None:
        await both._found(await both.play(source, seed=1), 1, shrink=True)
        await both.run(60, 2, length=30)

    asyncio.run(run())
    death = both.findings["add gone"]
    assert (death.length_found, len(death.operations)) == (21, 1)
    assert death.difference.qemu == ("gone", "QEMU-qmp-wraps")
    assert both.avoid == {"deadly.qmp-wraps"}
    assert both.tally.operations >= 60


def test_the_socket_changes_nothing(tmp_path: Path) -> None:
    async def run() -> Differential:
        async with SocketSide(direct(regions=2), AS_QEMU, tmp_path) as side:
            both = Differential(side, right_side(), direct(regions=2))
            await both.run(150, 4, length=75)
            return both

    both = asyncio.run(run())
    assert not both.findings
    assert (tmp_path / "emulator-qmp.jsonl").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no operation"),
        ("{", "line 1"),
        ('{"kind": "x", "f": "fly", "sent": {}}', "fly"),
        ('{"kind": "block", "f": "block", "sent": {}}\n[]', "line 2"),
        ("[" * 100_000, "line 1"),
    ],
)
def test_what_is_no_reproducer_is_told(text: str, said: str) -> None:
    with pytest.raises(AskedWrongly, match=said):
        read_replay(text)
