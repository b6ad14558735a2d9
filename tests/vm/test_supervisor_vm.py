"""Launched guests on the real thing: several at once, driven by several clients, and every way that one ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dcdbackend import supervisor
from dcdbackend.boot import Setup
from dcdbackend.errors import AskedWrongly, MachineGone
from dcdbackend.supervisor import Client, Options

pytestmark = [pytest.mark.vm]

MIB = 1 << 20
LAUNCH = """
import asyncio, sys
from dcdbackend.errors import DcdError
from dcdbackend.supervisor import launch
try:
    print("ready", asyncio.run(launch(sys.argv[1], progress=lambda text: print(text, flush=True))), flush=True)
except DcdError as error:
    print(type(error).__name__, error, flush=True)
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that only nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


async def until(done: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not done():  # noqa: ASYNC110 (other processes tell nobody)
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
async def guests(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A state directory of the test's own, and no process of it left, whatever became of the test."""
    monkeypatch.setenv("DCD_GUESTS", str(tmp_path / "guests"))
    monkeypatch.setenv("DCD_RUNS", str(tmp_path / "runs"))
    yield
    left = []
    for guest in supervisor.list_guests():
        if guest.state != "dead":
            left.append(guest.name)
            with contextlib.suppress(Exception):
                await supervisor.stop(guest.name)
    assert not left, "a test stops what it launched"
    with contextlib.suppress(TimeoutError):
        await until(lambda: not _working_in(tmp_path), 5)
    assert not _working_in(tmp_path), "processes of this test still run"


def _working_in(directory: Path) -> list[Path]:
    """The processes that work in that directory: QEMU and its supervisor work in their run's."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and (process / "cwd").readlink().is_relative_to(directory):
                found.append(process)
    return found


async def drive(name: str, count: int) -> list[dict[str, Any]]:
    """One client's work: capacity added, used and partly given back."""
    done = []
    async with supervisor.connect(name) as client:
        for number in range(count):
            done.append(await client.call("add", size=4 * MIB, region=number % 2))
            dpa = done[-1]["accepted"][0][0]
            await client.call("write", dpa=dpa, data=name.encode().hex(), via="host")
            assert (await client.call("read", dpa=dpa, length=len(name)))["data"] == name.encode().hex()
        first = done[0]["extents"][0]
        back = await client.call("release", extents=[first], region=0)
        assert back["outcome"] == "released"
    return done


async def panicked(client: Client) -> None:
    """The kernel of the guest panics; everything says so, and what was recorded is still told."""
    with pytest.raises(MachineGone, match=r"has died \(panic\): the guest's kernel panicked"):
        await client.call("exec", argv=["sh", "-c", "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger"])
    info = await client.call("info")
    assert (info["state"], info["death"]["kind"]) == ("gone", "panic")
    for verb, args in (("add", {"size": 2 * MIB}), ("exec", {"argv": ["true"]}), ("reset", {})):
        with pytest.raises(MachineGone, match="panic"):
            await client.call(verb, **args)
    assert (await client.call("show"))["source"] == "history"
    lines = [line async for line in client.stream("events")]
    assert lines[-1]["f"] == "gone"
    assert "Kernel panic" in "".join([piece async for piece in client.stream("console")])
    assert (await client.call("check"))["verdict"]["outcome"] != "fail"


async def test_two_guests_two_clients_each_and_one_supervisor_killed() -> None:
    one, two = await asyncio.gather(supervisor.launch("one"), supervisor.launch("two", Options(topology="switch")))
    assert one.run_dir is not None
    assert one.pid is not None
    with pytest.raises(AskedWrongly, match="a guest 'two' is running already"):
        await supervisor.launch("two")
    found = await asyncio.gather(drive("one", 4), drive("one", 4), drive("two", 4), drive("two", 4))
    for mine, others in ((found[0], found[1]), (found[2], found[3])):
        offered = [tuple(added["accepted"][0]) for added in (*mine[1:], *others[1:])]
        assert len(set(offered)) == len(offered), "no two clients were given one place"
    async with supervisor.connect("one") as first, supervisor.connect("two") as second:
        qemus = [(await client.call("info"))["qemu"]["pid"] for client in (first, second)]
        assert [os.getsid(guest.pid or 0) == os.getsid(0) for guest in (one, two)] == [False, False]
        held = (await second.call("show"))["devices"][0]
        assert sum(length for _, length in held["list"]) == 6 * 4 * MIB
        runs = [run for region in held["regions"] for run in region["runs"] if run["state"] == "accepted"]
        assert sum(run["length"] for run in runs) == 6 * 4 * MIB

        os.kill(one.pid, signal.SIGKILL)
        with pytest.raises(MachineGone, match="guest 'one'"):
            await first.call("info")
        await until(lambda: not alive(qemus[0]))
        # the kernel takes a killed process's connections first, its lock up to 4 ms later (measured)
        await until(lambda: [guest.state for guest in supervisor.list_guests()] != ["alive", "alive"], 1)
        assert [(guest.name, guest.state) for guest in supervisor.list_guests()] == [("one", "dead"), ("two", "alive")]
        with pytest.raises(MachineGone, match="guest 'one' is dead"):
            async with supervisor.connect("one"):
                pass
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "dcdbackend", "check", "--json", str(one.run_dir)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        (verdict,) = json.loads(done.stdout).values()
        assert (done.returncode, verdict["outcome"], verdict["operations"] > 50) == (0, "departure", True), done.stderr

        assert alive(qemus[1])
        added = await second.call("add", size=2 * MIB)
        assert added["outcome"] == "accepted"
        said = await second.call("exec", argv=["sh", "-c", "cat /proc/version; echo no >&2; exit 3"])
        assert said["stdout"].startswith("Linux version")
        assert (said["stderr"], said["exit"], said["timed_out"]) == ("no\n", 3, False)
        # a command that floods and does not end is killed, and the mailbox goes on meanwhile
        flood = asyncio.create_task(second.call("exec", argv=["sh", "-c", "while :; do echo y; done"], timeout_s=1))
        assert (await second.call("add", size=2 * MIB))["outcome"] == "accepted"
        said = await flood
        assert (said["exit"], said["timed_out"], len(said["stdout"]) > 1000) == (-9, True, True)
        with pytest.raises(AskedWrongly, match="'nonsense' does not start"):
            await second.call("exec", argv=["nonsense"])
        assert (await second.call("check"))["verdict"]["outcome"] in ("pass", "departure")
        await panicked(second)
    assert (await supervisor.stop("one")).state == "dead"
    assert (await supervisor.stop("two")).state == "alive"
    assert not alive(qemus[1])
    assert supervisor.list_guests() == ()


async def test_one_name_twice_and_a_launcher_that_is_killed(tmp_path: Path) -> None:
    """Of two launches one wins; its launcher is killed while the guest boots, and the guest lives on."""
    launchers = [
        subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", LAUNCH, "vm0"], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        for _ in range(2)
    ]
    try:
        said: list[list[str]] = [[], []]

        async def hear(index: int) -> None:
            """Until it has lost, or its guest is booting."""
            out = launchers[index].stdout
            assert out is not None
            while line := await asyncio.to_thread(out.readline):
                said[index].append(line)
                if line.startswith(("AskedWrongly", "booting")):
                    return

        await asyncio.gather(hear(0), hear(1))
        ends = sorted((lines[-1], index) for index, lines in enumerate(said))
        assert "AskedWrongly a guest 'vm0' is running already; choose another name" in ends[0][0]
        assert ends[1][0].startswith("booting")
        os.killpg(launchers[ends[1][1]].pid, signal.SIGKILL)
    finally:
        for launcher in launchers:
            launcher.kill()
            launcher.communicate(timeout=10)
    found = supervisor.find("vm0")
    assert found is not None
    assert found.state == "starting"
    with pytest.raises(AskedWrongly, match="still starting"):
        async with supervisor.connect("vm0"):
            pass

    def ready() -> bool:
        guest = supervisor.find("vm0")
        assert guest is not None
        return guest.state == "alive"

    await until(ready, 60)
    async with supervisor.connect("vm0") as client, supervisor.connect("vm0") as follower:
        lines: list[dict[str, Any]] = []

        async def follow() -> None:
            async for line in follower.stream("events", follow=True):
                lines.append(line)

        following = asyncio.create_task(follow())
        assert (await client.call("add", size=2 * MIB))["outcome"] == "accepted"
        assert (await client.call("reset"))["kernel"]
        assert (await client.call("show"))["source"] == "witness"
        qemu = (await client.call("info"))["qemu"]["pid"]
        os.kill(qemu, signal.SIGKILL)
        with pytest.raises(MachineGone, match=r"has died \(outside\): QEMU .*SIGKILL"):
            await client.call("add", size=2 * MIB)
        await until(lambda: bool(lines) and lines[-1].get("f") == "gone")
        following.cancel()
    assert found.pid is not None
    os.kill(found.pid, signal.SIGTERM)
    await until(lambda: supervisor.find("vm0") is None)
    await until(lambda: not alive(found.pid or 0))
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert json.loads((run_dir / "verdict.json").read_text())["operations"] > 5
    assert (run_dir / "supervisor.log").read_text() == ""
    assert not list((run_dir / "guest").glob("*.memory"))


async def test_a_launch_that_is_cancelled_takes_its_guest_back(tmp_path: Path) -> None:
    booting = asyncio.Event()
    launching = asyncio.create_task(
        supervisor.launch("vm0", progress=lambda text: booting.set() if text.startswith("booting") else None)
    )
    async with asyncio.timeout(30):
        await booting.wait()
    await until(lambda: any((tmp_path / "runs").glob("*/guest/qmp.sock")))
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    assert supervisor.find("vm0") is None
