"""The process that is QEMU's: probing, choosing, starting, ending. QEMU is played by small programs here; the real
one is in tests/vm/test_machine_vm.py."""

from __future__ import annotations

import asyncio
import json
import os
import select
import shlex
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcdbackend import machine, topology
from dcdbackend.errors import AskedWrongly, CannotRun, DcdError, MachineGone, TimedOut
from dcdbackend.machine import AccelChoice, Exit, Machine, Qemu

QEMU = Qemu(argv=("qemu",), version="11.1.3", origin="given", features=frozenset({"dcd", "kvm", "tcg"}))
GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'

ANSWER = b'{"return": {}}\r\n{"return": {"status": "running"}, "id": "ready"}\r\n'

SERVING = f"""
import os, signal, socket, sys, time
def listen(name):
    server = socket.socket(socket.AF_UNIX); server.bind(name); server.listen(); return server
signal.alarm(60)  # whatever the test does
qmp, link = listen("qmp.sock"), listen("link.sock")
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "mute" in sys.argv:
    time.sleep(60)
while True:
    client, _ = qmp.accept()
    client.sendall({GREETING!r})
    if "failing" in sys.argv:
        time.sleep(0.05); sys.stderr.write("qemu: no such device\\n"); sys.exit(1)
    if client.recv(4096):
        client.sendall({ANSWER!r})
        client, _ = qmp.accept()
        client.sendall({GREETING!r})
    if "coded" in sys.argv:
        time.sleep(0.1); sys.exit(7)
    if "faulty" in sys.argv:
        time.sleep(0.1); os.kill(os.getpid(), signal.SIGSEGV)
    try:
        client.recv(4096)
    except ConnectionError:
        pass
"""


def playing(*manner: str) -> list[str]:
    """A program that does of QEMU what a machine sees; `manner`: deaf, mute, failing, coded, faulty."""
    return [sys.executable, "-I", "-S", "-c", SERVING, *manner]


def a_machine(run_dir: Path, *manner: str, **options: Any) -> Machine:
    return Machine(qemu=QEMU, argv=playing(*manner), run_dir=run_dir, **options)


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(true: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110 (what is waited for is another process's doing)
            await asyncio.sleep(0.005)


def script(path: Path, text: str) -> tuple[str, ...]:
    """An executable shell script."""
    path.write_text("#!/bin/sh\n" + textwrap.dedent(text))
    path.chmod(0o755)
    return (str(path),)


# -- a running machine ------------------------------------------------------------------------------------------


async def test_it_starts_greets_and_ends(tmp_path: Path) -> None:
    before = descriptors()
    run_dir = tmp_path / "run"
    async with a_machine(run_dir) as one:
        assert alive(one.pid)
        assert one.returncode is None
        assert os.getsid(one.pid) == one.pid, "a Ctrl-C at our terminal is not its business"
        assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
        connection = one.take_qmp()
        with connection:
            await until(lambda: select.select([connection], [], [], 0)[0])
            assert connection.recv(4096) == GREETING
        with pytest.raises(AskedWrongly, match="taken already"):
            one.take_qmp()
        assert not one.exited.done()
    assert not alive(one.pid)
    assert one.exited.result() == Exit(returncode=-signal.SIGTERM, asked=True)
    assert one.returncode == -signal.SIGTERM
    assert descriptors() == before
    assert shlex.split((run_dir / "command.txt").read_text()) == one.argv


async def test_a_path_over_a_sockets_length_is_no_matter(tmp_path: Path) -> None:
    run_dir = tmp_path / ("long" * 40)
    async with a_machine(run_dir) as one:
        with await one.connect(machine.LINK_SOCKET) as link:
            assert link.getblocking() is False
        for name in ("", "../qmp.sock", "/tmp/x"):
            with pytest.raises(AskedWrongly, match="no name in the run directory"):
                await one.connect(name)
        with pytest.raises(TimedOut, match="nothing"):
            await one.connect("nothing", timeout_s=0.05)


@pytest.mark.parametrize(
    ("manner", "code", "told"),
    [
        ("coded", 7, "ended with exit code 7"),
        ("faulty", -signal.SIGSEGV, "ended by SIGSEGV"),
    ],
)
async def test_how_it_ended_is_told(tmp_path: Path, manner: str, code: int, told: str) -> None:
    async with a_machine(tmp_path, manner) as one:
        assert await asyncio.wait_for(asyncio.shield(one.exited), 5) == Exit(returncode=code, asked=False)
        assert str(one.exited.result()) == told
        assert await one.stop() == one.exited.result()
        one.kill()
        (tmp_path / "link.sock").unlink()
        with pytest.raises(MachineGone, match=told):
            await one.connect(machine.LINK_SOCKET)
    assert one.exited.result().asked is False


def test_an_exit_has_a_name() -> None:
    assert (Exit(returncode=0, asked=False).how, str(Exit(returncode=0, asked=True))) == (
        "normal",
        "ended normally, as asked",
    )
    assert Exit(returncode=1, asked=False).how == "code"
    killed = Exit(returncode=-9, asked=False)
    assert (killed.how, killed.signal_name) == ("signal", "SIGKILL")
    assert Exit(returncode=-64 - 9, asked=False).signal_name == "signal 73"
    assert Exit(returncode=3, asked=False).signal_name is None


async def test_one_that_is_deaf_to_sigterm_is_killed_in_time(tmp_path: Path) -> None:
    async with a_machine(tmp_path, "deaf") as one:
        started = time.monotonic()
        assert (await one.stop(timeout_s=0.1)).signal_name == "SIGKILL"
        assert 0.1 <= time.monotonic() - started < 2


async def test_one_that_is_stopped_is_killed_in_time(tmp_path: Path) -> None:
    async with a_machine(tmp_path, "deaf", stop_timeout_s=0.1) as one:
        os.kill(one.pid, signal.SIGSTOP)
    assert one.exited.result().signal_name == "SIGKILL"


async def test_an_error_in_the_block_ends_it_and_comes_out(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with a_machine(tmp_path) as one:
            raise ZeroDivisionError
    assert not alive(one.pid)


async def test_what_a_wrapper_script_started_ends_with_it(tmp_path: Path) -> None:
    """A `--qemu` that is a script which does not exec: QEMU is then our grandchild."""
    wrapper = script(tmp_path / "qemu", f"{shlex.join(playing('deaf'))} & echo $! > pid; wait")
    run_dir = tmp_path / "run"
    for ending in ("stopped", "ended by itself"):
        async with Machine(qemu=QEMU, argv=wrapper, run_dir=run_dir, stop_timeout_s=0.1) as one:
            inner = int((run_dir / "pid").read_text())
            assert alive(inner)
            if ending != "stopped":
                os.kill(one.pid, signal.SIGKILL)
                await asyncio.wait({one.exited}, timeout=5)
        await until(lambda inner=inner: not alive(inner))  # type: ignore[misc]


async def test_kill_is_at_once(tmp_path: Path) -> None:
    async with a_machine(tmp_path) as one:
        one.kill()
        await asyncio.wait({one.exited}, timeout=5)
        assert one.exited.result() == Exit(returncode=-signal.SIGKILL, asked=True)


async def test_a_task_that_is_cancelled_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    before = descriptors()
    one = a_machine(tmp_path)
    entered = asyncio.Event()

    async def run() -> None:
        async with one:
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(run())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(one.pid)
    assert one.exited.done()
    assert descriptors() == before
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_task_that_is_cancelled_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    before = descriptors()
    one = a_machine(tmp_path, "mute")
    task = asyncio.create_task(one.__aenter__())
    await until(lambda: (tmp_path / "qmp.sock").exists())
    pid = one.pid
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not alive(pid)
    assert descriptors() == before
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_task_that_is_cancelled_again_and_again_leaves_nothing(tmp_path: Path) -> None:
    """Even while it waits for one that ignores SIGTERM."""
    one = a_machine(tmp_path, "deaf", stop_timeout_s=30)
    entered = asyncio.Event()

    async def run() -> None:
        async with one:
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(run())
    await entered.wait()
    for _ in range(12):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert not alive(one.pid)
    assert one.exited.result().signal_name == "SIGKILL"


async def test_one_that_greets_and_then_fails_was_never_ready(tmp_path: Path) -> None:
    """QEMU's monitor greets while the devices are being made."""
    with pytest.raises(CannotRun, match="ended with exit code 1 before it was ready: qemu: no such device"):
        await a_machine(tmp_path, "failing").__aenter__()


async def test_one_that_never_answers_is_timed_out(tmp_path: Path) -> None:
    one = a_machine(tmp_path, "mute", start_timeout_s=0.3)
    with pytest.raises(TimedOut, match=r"did not answer within 0\.3 s"):
        await one.__aenter__()
    assert not alive(one.pid)


async def test_one_that_ends_at_once_says_why(tmp_path: Path) -> None:
    argv = script(tmp_path / "qemu", "echo warning first >&2; echo 'qemu: no such machine \033[31m' >&2; exit 3")
    with pytest.raises(CannotRun) as error:
        await Machine(qemu=QEMU, argv=argv, run_dir=tmp_path / "run").__aenter__()
    assert "QEMU 11.1.3 ended with exit code 3 before it was ready: qemu: no such machine" in str(error.value)
    assert "\x1b" not in str(error.value)
    assert "command.txt" in str(error.value)


@pytest.mark.parametrize("name", ["missing", "directory", "plain", "wrong-format"])
async def test_what_cannot_be_executed_is_one_clear_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "plain").write_text("not executable")
    (tmp_path / "wrong-format").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "wrong-format").chmod(0o755)
    before = descriptors()
    with pytest.raises(CannotRun, match="does not start") as error:
        await Machine(qemu=QEMU, argv=[str(tmp_path / name)], run_dir=tmp_path / "run").__aenter__()
    assert "\n" not in str(error.value)
    assert descriptors() == before


async def test_a_run_directory_serves_one_machine(tmp_path: Path) -> None:
    async with a_machine(tmp_path / "a"):
        with pytest.raises(AskedWrongly, match="in use by another machine"):
            await a_machine(tmp_path / "a").__aenter__()
        async with a_machine(tmp_path / "b") as other:
            assert alive(other.pid)
    async with a_machine(tmp_path / "a") as again:  # stale sockets and all
        assert alive(again.pid)


async def test_a_run_directory_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotRun, match="run directory"):
        await a_machine(tmp_path / "file").__aenter__()


async def test_a_machine_that_was_not_entered_has_no_pid(tmp_path: Path) -> None:
    with pytest.raises(AskedWrongly, match="not started"):
        _ = a_machine(tmp_path).pid
    assert a_machine(tmp_path).returncode is None


def test_only_the_main_thread_starts_a_machine(tmp_path: Path) -> None:
    """PR_SET_PDEATHSIG follows the forking thread: in another one QEMU would die with it, or be orphaned."""
    raised: list[BaseException] = []

    async def start() -> None:
        await a_machine(tmp_path).__aenter__()

    def run() -> None:
        try:
            asyncio.run(start())
        except AskedWrongly as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


KILLED = """
import asyncio, sys
from pathlib import Path
from dcdbackend.machine import Machine, Qemu
async def main():
    qemu = Qemu(argv=(), version="0", origin="given", features=frozenset())
    async with Machine(qemu=qemu, argv=sys.argv[2:], run_dir=Path(sys.argv[1])) as one:
        print(one.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def test_it_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(  # noqa: ASYNC220 (a parent of another process group, which asyncio would not wait for)
        [sys.executable, "-c", KILLED, str(tmp_path / "run"), *playing("deaf")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
        parent.wait(5)
        await until(lambda: not alive(pid))


def test_a_child_whose_parent_is_gone_before_it_is_tied_ends_at_once() -> None:
    """The parent may die between the fork and the prctl; then getppid is another's."""
    tied = subprocess.run(["true"], preexec_fn=machine._tied_to(os.getpid()), check=False)
    orphan = subprocess.run(["true"], preexec_fn=machine._tied_to(1), check=False)
    assert (tied.returncode, orphan.returncode) == (0, 1)


async def test_the_console_is_shown_without_what_a_terminal_would_obey(tmp_path: Path) -> None:
    async with a_machine(tmp_path) as one:
        assert one.console_tail() == ""
        assert one.panic() is None
        (tmp_path / "console.log").write_bytes(
            b"x" * 5000 + b"\x1b[2J\x1b]0;title\x07booting\r\n\xff\x00[    2.1] Kernel panic - not syncing: why\r\n"
        )
        assert one.panic() == "Kernel panic - not syncing: why"
        shown = one.console_tail(max_bytes=100)
        assert len(shown) <= 100
        assert not any(ord(letter) < 32 and letter not in "\n\t" for letter in shown)
        assert "booting\n" in shown


# -- the command line -------------------------------------------------------------------------------------------


def command_line(**changes: Any) -> list[str]:
    options: dict[str, Any] = {
        "qemu": QEMU,
        "topology": topology.direct(),
        "kernel": Path("/k/vmlinuz"),
        "initrd": Path("/k/initrd"),
        "accel": "tcg",
    }
    return machine.full_argv(**{**options, **changes})


def test_a_kernel_under_test_is_told_so_and_sees_no_hypervisor() -> None:
    """Two processors for its races; and host U's command line has nothing of it."""
    plain, under_test = command_line(append="last=1"), command_line(append="last=1", host="kernel")
    assert under_test[under_test.index("-smp") + 1] == "2"
    assert under_test[under_test.index("-cpu") + 1] == f"{plain[plain.index('-cpu') + 1]},hypervisor=off"
    told = under_test[under_test.index("-append") + 1]
    assert "DCD_AGENT_KERNEL=1" in told.split()
    assert "module cxl_core +p" in told
    assert told.endswith(" last=1")
    assert len(told) < 1500, "Linux cuts its command line at 2048"
    assert not any("DCD_AGENT_KERNEL" in word or "hypervisor" in word or word == "-smp" for word in plain)
    given = command_line(accel="kvm", host="kernel")
    assert given[given.index("-cpu") + 1] == "host,hypervisor=off"


def test_the_command_line_is_whole() -> None:
    argv = command_line(
        append="dcd.x=1", qemu=Qemu(argv=("ld.so", "qemu"), version="1", origin="given", features=frozenset())
    )
    assert argv[:2] == ["ld.so", "qemu"]
    assert argv[argv.index("-append") + 1].endswith("jent_mod_init dcd.x=1")
    assert argv[argv.index("-kernel") + 1] == "/k/vmlinuz"
    text = " ".join(argv)
    for part in (
        "-nodefaults",
        "-no-user-config",
        "-display none",
        "-accel tcg",
        "unix:qmp.sock,server=on,wait=off",
        "path=console.log",
        "virtio-serial-pci,bus=pcie.0,ioeventfd=off",
        "virtserialport,chardev=link,name=dcd.agent",
        "panic=pause,reboot=reset",
        "console=ttyS0 iomem=relaxed panic=-1",
    ):
        assert part in text, part
    assert "-S" not in argv
    assert "pvpanic" not in text
    for part in ("-nic", "-netdev", "tcp:", "hostfwd", "vnc"):
        assert part not in text, part


def test_what_is_optional_is_there_when_asked_for() -> None:
    able = Qemu(argv=("qemu",), version="1", origin="given", features=frozenset({"pvpanic-pci"}))
    assert "pvpanic-pci,bus=pcie.0" in command_line(qemu=able)
    assert command_line(paused=True)[-1] == "-S"
    assert command_line(accel="kvm")[command_line().index("-accel") + 1] == "kvm"
    assert Path(command_line(kernel=Path("here"))[command_line().index("-kernel") + 1]).is_absolute()


# -- asking a QEMU ----------------------------------------------------------------------------------------------

ANSWERS = {
    "--version": "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1)",
    "-M help": "Supported machines are:\nq35                  Standard PC\n",
    "-device help": 'name "cxl-switch-mailbox-cci", bus PCI\nname "pvpanic-pci", bus PCI\n',
    "-device cxl-type3,help": "  num-dc-regions=<uint8>\n  volatile-dc-memdev=<link>\n",
    "-accel help": "Accelerators supported in QEMU binary:\ntcg\nkvm\n",
}


def answering(path: Path, **changes: str) -> tuple[str, ...]:
    """A program that answers the questions, some of them otherwise (by their last word)."""
    cases = []
    for question, answer in ANSWERS.items():
        key = question.split()[-1].split(",")[0].strip("-") + question.split()[0].strip("-")
        cases.append(f"{shlex.quote(question)}) printf '%s\\n' {shlex.quote(changes.get(key, answer))};;")
    return script(path, 'case "$*" in\n' + "\n".join(cases) + "\nesac\n")


async def test_a_qemu_says_what_it_is(tmp_path: Path) -> None:
    argv = answering(tmp_path / "qemu-system-x86_64")
    found = await machine.probe_qemu(argv, origin="private")
    assert found == Qemu(
        argv=argv,
        version="11.1.3",
        origin="private",
        features=frozenset({"dcd", "switch-cci", "pvpanic-pci", "kvm", "tcg"}),
    )
    assert found.version_info == (11, 1, 3)
    assert found.has_dcd


async def test_a_qemu_without_dcd_is_told_what_it_lacks(tmp_path: Path) -> None:
    """Debian 12's own, 7.2, has a cxl-type3 but nothing dynamic in it."""
    old = {"versionversion": "QEMU emulator version 7.2.22 (Debian)", "cxl-type3device": "  volatile-memdev=<link>"}
    argv = answering(tmp_path / "qemu-system-x86_64", **old)
    with pytest.raises(CannotRun) as error:
        await machine.probe_qemu(argv)
    assert "QEMU 7.2.22" in str(error.value)
    assert "num-dc-regions, volatile-dc-memdev" in str(error.value)
    assert "9.1 or newer" in str(error.value)


async def test_a_qemu_for_another_machine_is_refused(tmp_path: Path) -> None:
    argv = answering(tmp_path / "qemu-system-aarch64", helpM="virt    ARM virtual machine")
    with pytest.raises(CannotRun, match="no q35 machine"):
        await machine.probe_qemu(argv)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("echo ls 9.1", "no QEMU system emulator; asked its version it said ['ls 9.1']"),
        ("exit 1", "no QEMU system emulator"),
        ("exec yes", "no QEMU system emulator"),
        ("exec sleep 60", "did not say what it is within 0.3 s"),
        ("trap '' TERM; sleep 60 & wait", "did not say what it is within 0.3 s"),
    ],
)
async def test_what_is_no_qemu_is_found_out_in_time(tmp_path: Path, body: str, said: str) -> None:
    before = descriptors()
    started = time.monotonic()
    with pytest.raises(CannotRun) as error:
        await machine.probe_qemu(script(tmp_path / "thing", body), timeout_s=0.3)
    assert said in str(error.value)
    assert time.monotonic() - started < 5
    assert descriptors() == before


async def test_a_qemu_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="does not start: No such file"):
        await machine.probe_qemu([str(tmp_path / "none")])
    with pytest.raises(AskedWrongly, match="no QEMU was given"):
        await machine.probe_qemu([])


# -- the accelerator --------------------------------------------------------------------------------------------

BOOTED = """
while [ "$1" != -initrd ]; do shift; done
tr -d '\\000' < "$2" | grep -aoE '^[0-9a-f]{16}$'
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a /dev/kvm and a kernel, as files; a probe that does not wait long."""
    for name in ("kvm", "kernel"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(machine, "KVM_DEVICE", tmp_path / "kvm")
    monkeypatch.setattr(machine, "KVM_PROBE_TIMEOUT_S", 0.4)
    monkeypatch.delenv("DCD_ACCEL", raising=False)
    return tmp_path


async def chosen(here: Path, body: str, **options: Any) -> AccelChoice:
    argv = script(here / "qemu", f"echo >> {shlex.quote(str(here / 'probes'))}\n{body}")
    qemu = Qemu(argv=argv, version="1.0", origin="given", features=options.pop("features", QEMU.features))
    return await machine.decide_accel(qemu, kernel=here / "kernel", cache_dir=here / "cache", **options)


def probes(here: Path) -> int:
    return (here / "probes").read_text().count("\n") if (here / "probes").exists() else 0


async def test_kvm_is_chosen_only_if_the_guest_spoke(here: Path) -> None:
    """The program finds this probe's word in the initrd, which a guest would have had to run to print it."""
    found = await chosen(here, BOOTED)
    assert (found.accel, found.remembered) == ("kvm", False)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("sleep 60", "no sign from the guest in 0.4 s"),
        ("exit 1", "QEMU ended"),
        ("echo 'KVM internal error. Suberror: 1'; sleep 60", "KVM internal error. Suberror: 1"),
        ("echo 'qemu: failed to initialize kvm: Permission denied'; exit 1", "failed to initialize kvm"),
        ("echo 0123456789abcdef; sleep 60", "no sign from the guest"),
        ("exec yes booting", ""),
    ],
)
async def test_everything_else_is_tcg(here: Path, body: str, why: str) -> None:
    started = time.monotonic()
    found = await chosen(here, body)
    assert found.accel == "tcg"
    assert why in found.why
    assert "\n" not in found.why
    assert time.monotonic() - started < 3


async def test_a_kvm_that_gave_up_is_not_waited_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU stays after this error, its guest stopped."""
    monkeypatch.setattr(machine, "KVM_PROBE_TIMEOUT_S", 30)
    async with asyncio.timeout(10):
        assert (await chosen(here, "echo 'KVM internal error. Suberror: 1'; exec sleep 60")).accel == "tcg"


async def test_the_choice_is_remembered_for_this_machine_and_kernel(here: Path) -> None:
    first = await chosen(here, BOOTED)
    again = await chosen(here, BOOTED)
    assert (again.accel, again.why, again.remembered) == (first.accel, first.why, True)
    assert probes(here) == 1
    assert not (await chosen(here, BOOTED, fresh=True)).remembered
    (here / "kernel").write_text("another kernel")
    assert not (await chosen(here, BOOTED)).remembered
    assert probes(here) == 3
    assert [path.name for path in (here / "cache").iterdir()] == ["accel.json"]


async def test_the_memory_is_bounded_and_may_be_broken(here: Path) -> None:
    cache = here / "cache" / "accel.json"
    cache.parent.mkdir()
    for text in ("", "{", "[]", '{"version": 1, "machines": 5}', '{"version": 9, "machines": {}}', "\udcff"):
        cache.write_bytes(text.encode(errors="surrogateescape"))
        assert (await chosen(here, BOOTED)).accel == "kvm"
    many = {str(number): {"accel": "kvm", "why": ""} for number in range(100)}
    cache.write_text(json.dumps({"version": 1, "machines": many}))
    await chosen(here, BOOTED)
    assert len(json.loads(cache.read_text())["machines"]) == machine._MAX_REMEMBERED


async def test_an_entry_that_names_no_accelerator_is_not_believed(here: Path) -> None:
    await chosen(here, BOOTED)
    cache = here / "cache" / "accel.json"
    cache.write_text(cache.read_text().replace('"kvm"', '"xen"'))
    assert not (await chosen(here, BOOTED)).remembered


async def test_a_cache_that_cannot_be_written_costs_a_probe_only(here: Path) -> None:
    (here / "cache").write_text("a file")
    assert (await chosen(here, BOOTED)).accel == "kvm"
    assert (await chosen(here, BOOTED)).accel == "kvm"
    assert probes(here) == 2


async def test_what_is_asked_for_is_not_probed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await chosen(here, "exit 1", asked="kvm")).accel == "kvm"
    monkeypatch.setenv("DCD_ACCEL", "tcg")
    assert (await chosen(here, BOOTED)).accel == "tcg"
    assert (await chosen(here, BOOTED, asked="kvm")).accel == "kvm"
    assert probes(here) == 0
    assert (await chosen(here, BOOTED, asked="auto")).accel == "kvm"
    assert probes(here) == 1
    with pytest.raises(AskedWrongly, match="'xen' is not known; say auto, kvm or tcg"):
        await chosen(here, BOOTED, asked="xen")
    with pytest.raises(CannotRun, match="no kvm built in"):
        await chosen(here, BOOTED, asked="kvm", features=frozenset({"tcg"}))


async def test_without_kvm_there_is_nothing_to_probe(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await chosen(here, BOOTED, features=frozenset({"tcg"}))).accel == "tcg"
    monkeypatch.setattr(machine, "KVM_DEVICE", here / "none")
    assert "not here" in (await chosen(here, BOOTED)).why
    assert probes(here) == 0


async def test_a_kernel_that_cannot_be_read_is_said(here: Path) -> None:
    (here / "kernel").unlink()
    with pytest.raises(CannotRun, match="cannot be read: No such file"):
        await chosen(here, BOOTED)


def test_the_probes_initrd_is_a_cpio_with_a_program(tmp_path: Path) -> None:
    token = b"0123456789abcdef"
    data = machine._probe_initrd(token)
    assert data.startswith(b"070701")
    assert data.count(b"070701") == 4
    assert len(data) < 1024
    program = data[data.index(b"\x7fELF") :]
    entry = int.from_bytes(program[24:32], "little")
    assert entry == 0x400000 + 64 + 56
    assert token in program


async def test_asking_leaves_no_task(tmp_path: Path) -> None:
    with pytest.raises(DcdError):
        await machine.probe_qemu(script(tmp_path / "x", "exit 0"))
    assert asyncio.all_tasks() == {asyncio.current_task()}
