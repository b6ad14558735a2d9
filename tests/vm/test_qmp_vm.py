"""The monitor of the real QEMU. No guest is needed: with -S nobody answers, so what is offered stays pending.

Wordings and behaviour are those of qemu.md, seen on 10.0.2 and 11.1.3.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dcdbackend import image, machine
from dcdbackend.errors import MachineGone, TimedOut
from dcdbackend.machine import Machine, Qemu
from dcdbackend.qmp import Qmp, QmpRefused
from dcdbackend.topology import direct
from dcdbackend.units import MIB

pytestmark = pytest.mark.vm

BLOCK = 2 * MIB
REGION = 512 * MIB


@pytest.fixture(scope="module")
def qemu(parts: image.Parts) -> Qemu:
    return asyncio.run(machine.probe_qemu(parts.qemu_argv, origin=parts.qemu_origin))


@asynccontextmanager
async def monitor(qemu: Qemu, parts: image.Parts, run_dir: Path) -> AsyncIterator[tuple[Qmp, Machine]]:
    """Two regions of 512 MiB behind 256 MiB of static capacity; paused before the first instruction."""
    argv = machine.full_argv(
        qemu=qemu,
        topology=direct(regions=2, size=2 * REGION, static="256M"),
        kernel=parts.kernel,
        initrd=parts.initrd,
        accel="tcg",
        paused=True,
    )
    async with (
        Machine(qemu=qemu, argv=argv, run_dir=run_dir) as one,
        Qmp.connect(one.take_qmp(), log=run_dir / "qmp.jsonl") as qmp,
    ):
        yield qmp, one


async def test_the_dialect_of_this_qemu(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    async with monitor(qemu, parts, tmp_path) as (qmp, _):
        assert qmp.version == qemu.version
        assert qmp.dialect.add.names == {
            "path": "path",
            "host_id": "host-id",
            "selection_policy": "selection-policy",
            "region": "region",
            "tag": "tag",
            "extents": "extents",
        }
        assert qmp.dialect.add.policies == ("free", "contiguous", "prescriptive", "enable-shared-access")
        assert qmp.dialect.release.policies == ("tag-based", "prescriptive")
        assert {"forced", "sanitize", "removal_policy"} <= set(qmp.dialect.release.names)


async def test_an_offer_makes_its_blocks_pending_and_no_others(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    async with monitor(qemu, parts, tmp_path) as (qmp, _):
        await qmp.add("mem0", 0, [(4 * MIB, 2 * BLOCK), (REGION - BLOCK, BLOCK)])
        await qmp.add("mem0", 1, [(0, BLOCK)], host_id=3, tag="not even a uuid")
        found = [await qmp.block_state("mem0", 0, number * BLOCK, BLOCK) for number in range(6)]
        assert found == ["free", "free", "pending", "pending", "free", "free"]
        assert await qmp.block_state("mem0", 0, REGION - BLOCK, BLOCK) == "pending"
        assert [await qmp.block_state("mem0", 1, at, BLOCK) for at in (0, BLOCK)] == ["pending", "free"]


async def test_asking_for_a_state_changes_nothing(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    """Asked 200 times, everything is as before: the same block can be offered, and only once."""
    async with monitor(qemu, parts, tmp_path) as (qmp, _):
        for _ in range(100):
            assert await qmp.block_state("mem0", 0, 0, BLOCK) == "free"
        await qmp.add("mem0", 0, [(0, BLOCK)])
        for _ in range(100):
            assert await qmp.block_state("mem0", 0, 0, BLOCK) == "pending"
        assert await qmp.block_state("mem0", 0, BLOCK, BLOCK) == "free"
        await qmp.add("mem0", 0, [(BLOCK, BLOCK)])


async def test_a_foreseen_question_has_no_effect_before_its_last_byte_nor_after(
    qemu: Qemu, parts: image.Parts, tmp_path: Path
) -> None:
    """Whether its last byte comes by itself, or with another command: the state is the one of that moment."""
    async with monitor(qemu, parts, tmp_path) as (qmp, _):
        assert await qmp.block_state("mem0", 0, 0, BLOCK) == "free"
        for number in range(20):
            qmp.foresee_block_state("mem0", 0, number * BLOCK, BLOCK)
            await asyncio.sleep(0.005)
            if number % 2:
                assert await qmp.status() == "prelaunch"  # it ends the question, which is answered to nobody
                qmp.foresee_block_state("mem0", 0, number * BLOCK, BLOCK)
            assert await qmp.block_state("mem0", 0, number * BLOCK, BLOCK) == "free"
            await qmp.add("mem0", 0, [(number * BLOCK, BLOCK)])
            qmp.foresee_block_state("mem0", 0, number * BLOCK, BLOCK)
            assert await qmp.block_state("mem0", 0, number * BLOCK, BLOCK) == "pending"
        qmp.foresee_block_state("mem0", 0, 0, BLOCK)


async def test_a_reset_keeps_what_is_pending_and_is_told(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    """What DEV says of a reset is judged elsewhere; here: the command works, and its event arrives."""
    async with monitor(qemu, parts, tmp_path) as (qmp, _):
        await qmp.reset()
        await asyncio.sleep(0.1)
        assert [(event.name, event.data["reason"]) for event in qmp.events] == [("RESET", "host-qmp-system-reset")]


@pytest.mark.parametrize(
    ("extents", "reason"),
    [
        ([(0, 0)], "zero-length"),
        ([(1, BLOCK)], "unaligned"),
        ([(0, MIB)], "unaligned"),
        ([(-1, BLOCK)], "unaligned"),
        ([(REGION - BLOCK, 2 * BLOCK)], "beyond-region"),
        ([(REGION, BLOCK)], "beyond-region"),
        ([(1 << 62, BLOCK)], "beyond-region"),
        ([(0, BLOCK), (0, BLOCK)], "overlapping"),
        ([(0, 2 * BLOCK), (BLOCK, 2 * BLOCK)], "overlapping"),
        ([(8 * MIB, BLOCK)], "still-pending"),
        ([(0, BLOCK), (8 * MIB, BLOCK)], "still-pending"),
    ],
)
async def test_a_wrong_add_is_refused_with_its_reason(
    refusing: Qmp, extents: list[tuple[int, int]], reason: str
) -> None:
    with pytest.raises(QmpRefused) as refused:
        await refusing.add("mem0", 0, extents)
    assert (refused.value.name, refused.value.error_class) == (reason, "GenericError")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"region": 2}, "no-region"),
        ({"policy": "free"}, "selection-policy"),
        ({"policy": "contiguous"}, "selection-policy"),
        ({"policy": "enable-shared-access"}, "selection-policy"),
        ({"policy": "no such"}, "Parameter 'selection-policy' does not accept value 'no such'"),
        ({"device": "mem1"}, "no-device"),
        ({"device": "port0"}, "no-device"),
        ({"region": 256}, "Parameter 'region' expects uint8_t"),
        ({"host_id": 1 << 16}, "Parameter 'host-id' expects uint16_t"),
        ({"extents": [(1 << 64, BLOCK)]}, "Parameter 'extents[0].offset' expects uint64"),
    ],
)
async def test_a_wrong_argument_is_refused_with_its_reason(refusing: Qmp, options: dict[str, Any], reason: str) -> None:
    arguments: dict[str, Any] = {"device": "mem0", "region": 0, "extents": [(0, BLOCK)]}
    with pytest.raises(QmpRefused) as refused:
        await refusing.add(**{**arguments, **options})
    assert refused.value.name == reason
    assert refused.value.reason in str(refused.value.received)


@pytest.mark.parametrize(
    ("extents", "options", "reason"),
    [
        ([(8 * MIB, BLOCK)], {}, "release-pending"),
        ([(0, BLOCK)], {}, "release-absent"),
        ([(0, BLOCK)], {"sanitize": True}, "release-absent"),
        ([(0, BLOCK)], {"removal_policy": "tag-based"}, "removal-policy"),
        ([(0, BLOCK)], {"forced": True}, "forced"),
        ([(0, 0)], {}, "zero-length"),
        ([(1, BLOCK)], {}, "unaligned"),
        ([(REGION, BLOCK)], {}, "beyond-region"),
    ],
)
async def test_a_wrong_release_is_refused_with_its_reason(
    refusing: Qmp, extents: list[tuple[int, int]], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(QmpRefused) as refused:
        await refusing.release("mem0", 0, extents, **options)
    assert refused.value.name == reason


@pytest.fixture
async def refusing(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> AsyncIterator[Qmp]:
    """A monitor where [8 MiB, 10 MiB) of region 0 is pending; what is refused has left no trace at the end."""
    async with monitor(qemu, parts, tmp_path) as (qmp, _):
        await qmp.add("mem0", 0, [(8 * MIB, BLOCK)])
        yield qmp
        found = [await qmp.block_state("mem0", 0, number * BLOCK, BLOCK) for number in range(6)]
        assert found == ["free"] * 4 + ["pending", "free"]


async def test_an_empty_list_succeeds_and_does_nothing(refusing: Qmp) -> None:
    await refusing.add("mem0", 0, [])
    await refusing.release("mem0", 0, [])


async def test_several_blocks_asked_at_once_are_not_told_apart(refusing: Qmp) -> None:
    """Why block_state asks one block: a question over a free and a pending one says pending."""
    assert await refusing.block_state("mem0", 0, 6 * MIB, 2 * BLOCK) == "pending"


async def test_a_qemu_that_is_killed_is_gone_in_one_line(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    async with monitor(qemu, parts, tmp_path) as (qmp, one):
        one.kill()
        with pytest.raises(MachineGone) as gone:
            for _ in range(100):
                await qmp.status()
        assert "\n" not in str(gone.value)


async def test_a_qemu_that_is_stopped_answers_later(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    """A time-out is an unknown outcome: this add does take effect, after we gave up on it."""
    async with monitor(qemu, parts, tmp_path) as (qmp, one):
        os.kill(one.pid, signal.SIGSTOP)
        with pytest.raises(TimedOut, match="not known"):
            await qmp.add("mem0", 0, [(0, BLOCK)], timeout_s=0.1)
        os.kill(one.pid, signal.SIGCONT)
        assert await qmp.block_state("mem0", 0, 0, BLOCK) == "pending"


@pytest.mark.parametrize("verb", ["add", "release"])
async def test_an_extent_that_wraps_ends_qemu(qemu: Qemu, parts: image.Parts, tmp_path: Path, verb: str) -> None:
    """Seen on 10.0.2 and 11.1.3: offset + length = 2^64 passes the range check, and QEMU dies of SIGSEGV.

    When this fails, QEMU has mended it; say so in `Qmp.add`.
    """
    async with monitor(qemu, parts, tmp_path) as (qmp, one):
        with pytest.raises(MachineGone) as gone:
            await getattr(qmp, verb)("mem0", 0, [((1 << 64) - BLOCK, BLOCK)])
        assert str((1 << 64) - BLOCK) in str(gone.value.sent)
        ended = await asyncio.wait_for(asyncio.shield(one.exited), 5)
        assert ended.signal_name == "SIGSEGV"
    last = json.loads((tmp_path / "qmp.jsonl").read_text().splitlines()[-1])
    assert "sent" in last, "the record ends with the command that killed it"


async def test_quit_ends_it_normally(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    async with monitor(qemu, parts, tmp_path) as (qmp, one):
        await qmp.quit()
        assert str(await asyncio.wait_for(asyncio.shield(one.exited), 5)) == "ended normally"


async def test_a_client_that_leaves_makes_room_for_the_next(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    async with monitor(qemu, parts, tmp_path) as (qmp, one):
        with pytest.raises(TimedOut, match="one client at a time"):
            connection = await one.connect(machine.QMP_SOCKET)
            async with Qmp.connect(connection, log=tmp_path / "second.jsonl", timeout_s=0.2):
                pass
        await qmp.add("mem0", 0, [(0, BLOCK)])
    argv = machine.full_argv(
        qemu=qemu, topology=direct(), kernel=parts.kernel, initrd=parts.initrd, accel="tcg", paused=True
    )
    async with Machine(qemu=qemu, argv=argv, run_dir=tmp_path / "two") as one:
        for again in range(3):
            connection = await one.connect(machine.QMP_SOCKET) if again else one.take_qmp()
            async with Qmp.connect(connection, log=tmp_path / "two" / "qmp.jsonl") as qmp:
                assert await qmp.status() == "prelaunch"
