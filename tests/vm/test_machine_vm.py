"""The real QEMU as a process: it is asked, started, ended, and never left behind. Most of it needs no guest (-S)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dcdbackend import image, machine, topology
from dcdbackend.errors import CannotRun
from dcdbackend.machine import Machine, Qemu
from dcdbackend.qmp import Event, Qmp, QmpRefused
from dcdbackend.topology import Topology, direct, expected_regions

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def qemu(parts: image.Parts) -> Qemu:
    return asyncio.run(machine.probe_qemu(parts.qemu_argv, origin=parts.qemu_origin))


def command_line(qemu: Qemu, parts: image.Parts, shape: Topology | None = None, **options: Any) -> list[str]:
    """A QEMU that is paused before its first instruction, unless the options say otherwise."""
    arguments: dict[str, Any] = {
        "qemu": qemu,
        "topology": shape or direct(),
        "kernel": parts.kernel,
        "initrd": parts.initrd,
        "accel": "tcg",
        "paused": True,
    }
    return machine.full_argv(**{**arguments, **options})


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def running(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


async def test_this_qemu_was_asked(qemu: Qemu) -> None:
    assert qemu.has_dcd
    assert qemu.version_info >= (9, 1)
    assert "tcg" in qemu.features
    if qemu.origin == "private":
        assert qemu.version_info >= (11, 1)
        assert {"switch-cci", "pvpanic-pci"} <= qemu.features


async def test_it_starts_serves_and_ends(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    started = time.monotonic()
    async with Machine(qemu=qemu, argv=command_line(qemu, parts), run_dir=tmp_path) as one:
        assert time.monotonic() - started < 5
        async with Qmp.connect(one.take_qmp(), log=tmp_path / "qmp.jsonl") as qmp:
            assert await qmp.status() == "prelaunch"
            assert qmp.version == qemu.version
            (await one.connect(machine.LINK_SOCKET)).close()
    assert str(one.exited.result()) == "ended normally, as asked"
    assert one.stderr_tail().count("\n") <= 1, one.stderr_tail()
    assert "warning" not in one.stderr_tail()


async def test_the_files_behind_the_memory_are_where_the_topology_says(
    qemu: Qemu, parts: image.Parts, tmp_path: Path
) -> None:
    shape = direct(devices=2, regions=1, size="256M", static="256M")
    (tmp_path / "memory").mkdir()
    argv = command_line(qemu, parts, shape, memory_dir="memory")
    async with Machine(qemu=qemu, argv=argv, run_dir=tmp_path):
        for device in shape.devices:
            for name, size in ((device.dc_file, device.dc_size_bytes), (device.static_file, 256 << 20)):
                assert name is not None
                found = (tmp_path / "memory" / name).stat()
                assert found.st_size == size
                assert found.st_blocks * 512 < 1 << 20, "a file that nobody wrote to takes no space"


@pytest.mark.parametrize(
    "shape",
    [
        direct(),
        direct(regions=8, size="2G", static="256M"),
        direct(devices=3, regions=1, size="256M"),
        direct(devices=topology.MAX_DEVICES, regions=2, size="1G", static="512M"),
        direct(regions=1, size="512G"),
    ],
    ids=lambda shape: f"{len(shape.devices)}x{shape.devices[0].regions}",
)
async def test_the_devices_are_as_the_description_says(
    qemu: Qemu, parts: image.Parts, tmp_path: Path, shape: Topology
) -> None:
    """Asked without a guest: which blocks exist, by the block-state question."""
    argv = command_line(qemu, parts, shape)
    async with (
        Machine(qemu=qemu, argv=argv, run_dir=tmp_path) as one,
        Qmp.connect(one.take_qmp(), log=tmp_path / "qmp.jsonl") as qmp,
    ):
        for device in shape.devices:
            assert await qmp.object_type(device.name) == "cxl-type3"
            for region in expected_regions(device):
                last = region.length - region.block_size
                assert await qmp.block_state(device.name, region.index, last, region.block_size) == "free"
                with pytest.raises(QmpRefused) as beyond:
                    await qmp.block_state(device.name, region.index, region.length, region.block_size)
                assert beyond.value.name == "beyond-region"
            with pytest.raises(QmpRefused) as absent:
                await qmp.block_state(device.name, device.regions, 0, topology.BLOCK_SIZE)
            assert absent.value.name == "no-region"
        assert await qmp.object_type(f"mem{len(shape.devices)}") is None


async def test_a_wrong_argument_is_told_in_qemus_words(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    argv = [*command_line(qemu, parts), "-device", "nonsense"]
    with pytest.raises(CannotRun, match="'nonsense' is not a valid device model name"):
        await Machine(qemu=qemu, argv=argv, run_dir=tmp_path).__aenter__()


async def test_an_unreadable_kernel_is_told_in_qemus_words(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    argv = command_line(qemu, parts, kernel=tmp_path / "none")
    with pytest.raises(CannotRun, match="could not open kernel file"):
        await Machine(qemu=qemu, argv=argv, run_dir=tmp_path / "run").__aenter__()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
async def test_the_signal_that_ended_it_is_named(
    qemu: Qemu, parts: image.Parts, tmp_path: Path, number: signal.Signals
) -> None:
    async with Machine(qemu=qemu, argv=command_line(qemu, parts), run_dir=tmp_path) as one:
        os.kill(one.pid, number)
        found = await asyncio.wait_for(asyncio.shield(one.exited), 10)
        assert (found.signal_name, found.asked) == (number.name, False)


async def test_one_that_is_stopped_is_ended_all_the_same(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    argv = command_line(qemu, parts)
    async with Machine(qemu=qemu, argv=argv, run_dir=tmp_path, stop_timeout_s=0.2) as one:
        os.kill(one.pid, signal.SIGSTOP)
    assert one.exited.result().signal_name == "SIGKILL"


async def test_two_side_by_side_share_nothing(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    async def run(name: str) -> int:
        run_dir = tmp_path / name
        async with (
            Machine(qemu=qemu, argv=command_line(qemu, parts), run_dir=run_dir) as one,
            Qmp.connect(one.take_qmp(), log=run_dir / "qmp.jsonl") as qmp,
        ):
            await qmp.add("mem0", 0, [(0, topology.BLOCK_SIZE)])
            await asyncio.sleep(0.1)
            assert await qmp.block_state("mem0", 0, 0, topology.BLOCK_SIZE) == "pending"
            return one.pid

    pids = await asyncio.gather(run("a"), run("b"), run("c"))
    assert len(set(pids)) == 3
    assert not any(alive(pid) for pid in pids)


async def test_the_command_runs_by_hand(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    async with Machine(qemu=qemu, argv=command_line(qemu, parts), run_dir=tmp_path):
        pass
    (tmp_path / "qmp.sock").unlink(missing_ok=True)
    by_hand = subprocess.Popen(["sh", "-c", f"exec {(tmp_path / 'command.txt').read_text()}"], cwd=tmp_path)  # noqa: ASYNC220
    try:
        async with asyncio.timeout(10):
            while not (tmp_path / "qmp.sock").exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        by_hand.terminate()
        assert by_hand.wait(10) in (0, -signal.SIGTERM)  # it may be too young for a handler


PARENT = """
import asyncio, json, sys
from pathlib import Path
from dcdbackend.machine import Machine, Qemu
async def main(run_dir, argv):
    qemu = Qemu(argv=(), version="0", origin="given", features=frozenset())
    async with Machine(qemu=qemu, argv=argv, run_dir=Path(run_dir)) as one:
        print(one.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""


async def test_it_dies_with_a_parent_that_is_killed(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    """SIGKILL to the controller: no handler of ours runs, the kernel ends QEMU."""
    argv = command_line(qemu, parts)
    parent = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", PARENT, str(tmp_path / "run"), json.dumps(argv)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        assert "qemu-system" in running(pid)
        parent.kill()
        parent.wait(5)
        async with asyncio.timeout(5):
            while alive(pid):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_the_probes_guest_really_speaks(qemu: Qemu, parts: image.Parts) -> None:
    """The word of the probe is printed by guest code: shown where every QEMU can run some, under TCG."""
    found = await machine.boots(qemu, parts.kernel, "tcg", timeout_s=60)
    assert not isinstance(found, str), found


async def test_the_accelerator_is_found_out_once_and_fast(
    qemu: Qemu, parts: image.Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is here: decided within the probe's bound, remembered, and KVM only if a guest ran."""
    monkeypatch.delenv("DCD_ACCEL", raising=False)
    started = time.monotonic()
    first = await machine.decide_accel(qemu, kernel=parts.kernel, cache_dir=tmp_path)
    assert time.monotonic() - started < machine.KVM_PROBE_TIMEOUT_S + 2
    started = time.monotonic()
    again = await machine.decide_accel(qemu, kernel=parts.kernel, cache_dir=tmp_path)
    assert time.monotonic() - started < 0.5
    assert (again.accel, again.why) == (first.accel, first.why)
    assert not first.remembered
    assert first.accel == "tcg" or "booted" in first.why


async def test_a_panic_is_seen_by_qmp_and_on_the_console(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    """Without pvpanic's driver: an initrd that is none makes the kernel panic, and panic=-1 resets the guest."""
    (tmp_path / "empty").write_bytes(bytes(512))
    seen: list[Event] = []
    argv = command_line(qemu, parts, initrd=tmp_path / "empty", paused=False)
    async with (
        Machine(qemu=qemu, argv=argv, run_dir=tmp_path / "run") as one,
        Qmp.connect(one.take_qmp(), log=tmp_path / "qmp.jsonl", on_event=seen.append),
        asyncio.timeout(60),
    ):
        while not seen:
            assert not one.exited.done()
            await asyncio.sleep(0.05)
        assert (seen[0].name, seen[0].data.get("reason")) == ("RESET", "guest-reset")
        assert str(one.panic()).startswith("Kernel panic - not syncing:")


async def test_a_console_that_floods_is_bounded(qemu: Qemu, parts: image.Parts, tmp_path: Path) -> None:
    """The kernel's own log is 30 KB and more; kept to 8, its end is there, and what is missing is said."""
    bound = 8192
    argv = command_line(qemu, parts, paused=False)
    console = tmp_path / machine.CONSOLE_LOG
    async with (
        Machine(qemu=qemu, argv=argv, run_dir=tmp_path, max_log_bytes=bound) as one,
        asyncio.timeout(60),
    ):
        most = 0
        while "Run /init" not in one.console_tail(max_bytes=bound):
            assert not one.exited.done(), one.console_tail()
            most = max(most, console.stat().st_size)
            await asyncio.sleep(0.02)
        await asyncio.sleep(1.2)
        text = console.read_text(errors="replace")
    assert len(text) <= bound and most > bound  # it was over, and was cut
    assert re.match(r"\[\d+ bytes were here; a log is kept to 8192\]\n", text)
    assert "Run /init" in text
