"""The public API on the real thing: what a bench gives, and that no guest outlives whoever launched it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import dcdbackend as dcd
from dcdbackend import image
from dcdbackend.boot import HISTORY, Setup, speaks_fm
from dcdbackend.guest import Guest
from dcdbackend.history import History
from dcdbackend.machine import CONSOLE_LOG

pytestmark = pytest.mark.vm

SLOW_HOST = Path(__file__).resolve().parents[2] / "qmp_scripts" / "slow_host.py"


def qemus(directory: Path) -> list[int]:
    """The QEMUs that live and work in that directory or below."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(directory) and b"cxl-type3" in (
                process / "cmdline"
            ).read_bytes():
                found.append(int(process.name))
        except OSError:  # it has ended
            continue
    return found


def nothing_is_left(directory: Path) -> None:
    assert qemus(directory) == []
    assert list(directory.rglob("*.memory")) == []


async def soon(done: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, "not in time"
        await asyncio.sleep(0.005)


async def test_what_a_bench_gives(parts: image.Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []
    control = Guest.control

    async def recorded(guest: Guest, do: str, fields: Any = None, **options: Any) -> dict[str, Any]:
        reply = await control(guest, do, fields, **options)
        asked.append((do, fields))
        return reply

    monkeypatch.setattr(Guest, "control", recorded)
    async with dcd.launch(dcd.direct(regions=2), run_dir=tmp_path / "run", seed=5, poll="spin") as bench:
        offer = await bench.add(region=0, extents=["0+256M"])
        answer = await offer.answer(timeout_s=5)
        assert (answer.accepted, answer.refused) == (((0, 256 * dcd.MIB),), ())
        assert answer.witnesses == {"host": answer.accepted, "block": {(0, 256 * dcd.MIB): "accepted"}}
        assert str(answer) == "accepted 0x0+256M"
        await bench.write(dpa=0, data=b"\xa5" * 4096)
        assert await bench.read(dpa=0, length=4096) == b"\xa5" * 4096 == await bench.load(0, 4096)
        release = await (await bench.release(["0+128M"])).response(timeout_s=5)
        assert str(release) == "released 0x0+128M"
        with pytest.raises(dcd.AskedWrongly, match="the kinds are accept, refuse"):
            await bench.policy("nosuch")
        with pytest.raises(dcd.AskedWrongly, match="host U can break DEV-6"):
            await bench.break_rule("DEV-99")
        with pytest.raises(dcd.Refused):
            await bench.block(1)
        assert not (await bench.verdict()).failed, "what is asked wrongly convicts nobody"
        verdict = await bench.verdict()
        told = str(verdict).splitlines()
        assert told[0].startswith(f"{verdict.outcome}: {verdict.operations} operations, ")
        assert verdict.outcome in ("pass", "departure"), told
        await bench.reset()
        assert [fields for do, fields in asked if do == "poll"] == [{"mode": "spin"}] * 2, "a new agent is told again"
        verdict = await bench.verdict()
    nothing_is_left(tmp_path)
    with pytest.raises(dcd.AskedWrongly, match=r"the run of .* is over; ask while its guest is there"):
        await bench.add(["512M+2M"])
    assert str(await bench.verdict()) == str(verdict), "what was recorded can be asked for ever"


async def test_the_fabric_manager_injects_where_it_is_asked_to(setup: Setup, tmp_path: Path) -> None:
    """via="fm" on the real QEMU, and backend="auto", which takes it where it can be had."""
    if not speaks_fm(setup.qemu):
        pytest.skip(f"QEMU {setup.qemu.version} has no way in for a fabric manager")
    with pytest.raises(dcd.AskedWrongly, match="give --topology switch"):
        async with dcd.launch(dcd.direct(), via="fm", run_dir=tmp_path / "direct"):
            pytest.fail("launched")
    tag = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    async with dcd.launch(dcd.switch(regions=1), backend="auto", via="fm", run_dir=tmp_path / "run") as bench:
        answer = await (await bench.add(["0+256M"])).answer()
        assert answer.accepted == ((bench.dpa(0, 0), 256 * dcd.MIB),)
        assert (await (await bench.add(["512M+2M"], tag=tag)).answer()).outcome == "accepted"
        assert [one["length"] for one in await bench.fm_extents()] == [256 * dcd.MIB, 2 * dcd.MIB]
        assert not (await bench.verdict()).failed
    with (tmp_path / "run" / HISTORY).open("rb") as file:
        history = History(file)
        ops = list(history)
    assert history.header.backend == "qemu"
    assert [op.value["via"] for op in ops if op.f == "add" and op.type == "invoke"] == ["fm", "fm"]
    records = [found for op in ops if op.f == "events" and op.type == "ok" for found in op.value["records"]]
    assert {found["tag"] for found in records} == {"00" * 16, tag}, "the tag reached the host"
    nothing_is_left(tmp_path)


async def test_two_in_one_process_and_an_error_ends_only_its_own(parts: image.Parts, tmp_path: Path) -> None:
    together = asyncio.Barrier(2)

    async def one(name: str) -> None:
        async with dcd.launch(run_dir=tmp_path / name) as bench:
            await together.wait()
            assert (await (await bench.add(["0+8M"])).answer()).outcome == "accepted"
            await bench.store(0, name.encode() * 100)
            if name == "falls":
                assert qemus(tmp_path / "falls")
                raise ValueError("a script's own")
            await soon(lambda: not qemus(tmp_path / "falls"))
            assert await bench.read(0, 5) == b"stays"
            assert len(await bench.extents()) == 1

    stays, falls = await asyncio.gather(one("stays"), one("falls"), return_exceptions=True)
    assert stays is None and isinstance(falls, ValueError)
    nothing_is_left(tmp_path)


async def test_cancelled_at_any_moment_no_guest_is_left(parts: image.Parts, tmp_path: Path) -> None:
    async def launched(directory: Path, inside: Callable[[dcd.Bench], Awaitable[None]]) -> None:
        async with dcd.launch(run_dir=directory) as bench:
            await inside(bench)

    async def until_the_end(bench: dcd.Bench) -> None:
        raise AssertionError("it was to be cancelled before")

    moments: dict[str, Callable[[Path], bool]] = {
        "before anything": lambda directory: True,
        "with its directory": lambda directory: directory.exists(),
        "with a process": lambda directory: bool(qemus(directory)),
        "booting": lambda directory: b"Linux" in read(directory / "guest" / CONSOLE_LOG),
    }
    for number, moment in enumerate(moments.values()):
        directory = tmp_path / str(number)
        task = asyncio.create_task(launched(directory, until_the_end))
        await asyncio.sleep(0)
        await soon(lambda moment=moment, directory=directory: moment(directory))  # type: ignore[misc]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        nothing_is_left(tmp_path)

    directory, waiting = tmp_path / "ready", asyncio.Event()

    async def waits(bench: dcd.Bench) -> None:
        await bench.policy("never")
        offer = await bench.add(["0+2M"])
        waiting.set()
        await offer.answer(timeout_s=60)

    task = asyncio.create_task(launched(directory, waits))
    await waiting.wait()
    await asyncio.sleep(0.05)
    assert qemus(directory)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # once more, while the guest is being ended
    with pytest.raises(asyncio.CancelledError):
        await task
    nothing_is_left(tmp_path)


LAUNCHES = """
import asyncio, sys
import dcdbackend as dcd
async def main():
    async with dcd.launch(run_dir=sys.argv[1]) as bench:
        print("ready", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


def test_neither_ctrl_c_nor_sigkill_leaves_a_guest(parts: image.Parts, tmp_path: Path) -> None:
    """Two processes side by side: what happens to one is nothing to the other."""
    stopped, killed = tmp_path / "stopped", tmp_path / "killed"
    script = [sys.executable, str(SLOW_HOST), "--delay", "60", "--timeout", "100", "--run-dir", str(stopped)]
    plain = [sys.executable, "-c", LAUNCHES, str(killed)]
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(script, **quiet) as first, subprocess.Popen(plain, **quiet) as second:  # type: ignore[call-overload]
        try:
            assert second.stdout.readline() == "ready\n"
            history = stopped / "slow-host" / "history.jsonl"
            wait(lambda: b'"f":"add"' in read(history))
            assert len(qemus(stopped)) == len(qemus(killed)) == 1
            os.kill(first.pid, signal.SIGINT)
            _, err = first.communicate(timeout=30)
            assert first.returncode == 130, err
            assert err.splitlines()[-1] == "slow_host.py: stopped"
            nothing_is_left(stopped)
            assert len(qemus(killed)) == 1, "the other process's guest"
            os.kill(second.pid, signal.SIGKILL)
            second.communicate(timeout=30)
            wait(lambda: not qemus(killed), 5)
        finally:
            first.kill()
            second.kill()
    checked = [sys.executable, "-m", "dcdbackend", "check", str(tmp_path)]
    assert subprocess.run(checked, capture_output=True, timeout=60).returncode in (0, 4), "both histories read"


def read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def wait(done: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)
