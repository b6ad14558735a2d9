"""One QEMU process: probe it, start it, watch it, stop it.

`probe_qemu` asks a QEMU what it is, `choose_accel` finds out by doing whether KVM can be used here, `full_argv`
writes the whole command line, and `Machine` owns the running process:

    async with Machine(qemu=qemu, argv=argv, run_dir=run_dir) as machine:
        async with Qmp.connect(machine.take_qmp(), log=run_dir / "qmp.jsonl") as qmp:
            link = await machine.connect(LINK_SOCKET)

QEMU runs in the run directory (0700, locked) and all its names are relative to it, so two machines share no
name, no path and no port; nothing listens on a network. Whatever ends the block ends the process, and if we are
killed the kernel ends it: the parent-death signal is set in the child. That signal follows the *thread* that
forked, so a machine is only ever started from the main thread.

How a guest's death is seen. A panic is reported by the pvpanic device if the guest's kernel has its driver
loaded (Debian's is a module); without it the kernel's panic=-1 makes the guest reset at once, which QMP tells
(RESET, guest true), and `panic` finds the kernel's own line on the console. After a reported panic QEMU stays
and is paused, so it can still be asked about its device; a guest's own reset is carried out.

Deliberately not here: QMP (`qmp`), the agent's frames (`link`, `guest`), what the bytes of the guest mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import platform
import re
import secrets
import shlex
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, get_args

from .errors import AskedWrongly, CannotRun, MachineGone, TimedOut
from .topology import Topology

QMP_SOCKET = "qmp.sock"
LINK_SOCKET = "link.sock"
CONSOLE_LOG = "console.log"
STDERR_LOG = "qemu.stderr.log"
COMMAND_FILE = "command.txt"
LINK_PORT = "dcd.agent"

Accel = Literal["kvm", "tcg"]
HostKind = Literal["U", "kernel"]
"""Who answers in the guest: our own host U, or the kernel's drivers."""
Origin = Literal["private", "system", "given"]

KVM_DEVICE = Path("/dev/kvm")
KVM_PROBE_TIMEOUT_S = 3.0
"""Under TCG the same boot takes about this long: a KVM that needs more has nothing to give."""

# What the kernel is always told. iomem=relaxed lets host U map the device's BARs and the window. Without
# no_timer_check a guest on a busy machine sometimes panics ("IO-APIC + timer doesn't work": 1 boot in 24, six at
# once on two processors). The last two skip self-tests of cryptography: a fifth of the kernel's boot. Without
# tsc=reliable the kernel of such a guest soon distrusts its clock (its watchdog came late) and reads the ACPI timer
# from then on: 5.8 microseconds a look instead of 0.6, each in a lock that the monitor needs, too.
_KERNEL_COMMAND_LINE = (
    *("console=ttyS0", "iomem=relaxed", "panic=-1", "no_timer_check", "tsc=reliable"),
    *("cryptomgr.notests", "initcall_blacklist=jent_mod_init"),
)

# Measured: max under TCG costs a fifth of the boot (rep movsb and more text to patch); without RDRAND the guest
# waits for its random numbers.
_CPU: dict[Accel, str] = {"tcg": "qemu64,+rdrand,+rdseed", "kvm": "host"}

# A kernel under test must think that it runs on a real machine: seeing a hypervisor, it does not trust itself to flush
# the processor's caches, and no CXL region can be committed ("Failed to synchronize CPU cache state"). Under TCG max is
# not needed for that (regions of static and of dynamic capacity were made without it).
_BARE = ",hypervisor=off"

_SPEAK = ("cxl_core", "cxl_acpi", "cxl_pci", "cxl_mem", "cxl_port", "dax", "dax_cxl", "device_dax", "kmem")

# What a kernel under test is told besides. DCD_AGENT_KERNEL=1 reaches the agent, which then takes no device. Memory
# stays offline until a scenario onlines it; what hangs is told while the run still lasts; the log holds a whole
# scenario with dynamic debug on, which speaks from the start where the drivers are built in.
_KERNEL_UNDER_TEST = (
    *("DCD_AGENT_KERNEL=1", "memhp_default_state=offline", "log_buf_len=4M", "printk.devkmsg=on"),
    *("sysctl.kernel.hung_task_timeout_secs=20", f'dyndbg="{"; ".join(f"module {name} +p" for name in _SPEAK)}"'),
)

# By default a guest's write to the link is only noted, for QEMU's main loop to do later: a doorbell rung after it may
# be served before it, and a QEMU that dies of that doorbell takes along what was written ahead. With ioeventfd off the
# guest's own write puts the bytes into our socket before it goes on (0.13 ms, instead of 0.3 and often 2).
_LINK_BUS = "virtio-serial-pci,bus=pcie.0,ioeventfd=off"

_MAX_ASKED_OUTPUT = 1 << 20
_MAX_REMEMBERED = 32
_MEMORY_FILE = "accel.json"
_POLL_S = 0.002
MAX_LOG_BYTES = 64 << 20
_LOG_LOOK_S = 0.5
_KILL_TIMEOUT_S = 5.0
_CONSOLE_SCAN = 1 << 20
_READY_QUESTION = b'{"execute": "qmp_capabilities"} {"execute": "query-status", "id": "ready"}'
_READY_ANSWER = b'"id": "ready"'
_PR_SET_PDEATHSIG = 1
_VERSION = re.compile(rb"QEMU emulator version (\d+(?:\.\d+)+)")
_PANIC = re.compile(rb"Kernel panic - not syncing: [^\r\n]*")
_FEATURES = {
    "switch-cci": b'name "cxl-switch-mailbox-cci"',
    "pvpanic-pci": b'name "pvpanic-pci"',
}
_NEED = ("num-dc-regions", "volatile-dc-memdev")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Qemu:
    """A QEMU that was asked: `argv` starts it, the rest is what it said of itself.

    `features` are of "dcd", "switch-cci", "pvpanic-pci", "kvm", "tcg" (the last two: it is built in, no more).
    """

    argv: tuple[str, ...]
    version: str
    origin: Origin
    features: frozenset[str]

    @property
    def version_info(self) -> tuple[int, ...]:
        """(11, 1, 3)."""
        return tuple(int(part) for part in self.version.split("."))

    @property
    def has_dcd(self) -> bool:
        return "dcd" in self.features


@dataclass(frozen=True, kw_only=True, slots=True)
class Exit:
    """How QEMU ended. `returncode` is as subprocess gives it: a signal is negative.

    `asked`: `Machine.stop` or `Machine.kill` came before it (a `quit` over QMP does not count as that).
    """

    returncode: int
    asked: bool

    @property
    def how(self) -> Literal["normal", "code", "signal"]:
        if self.returncode < 0:
            return "signal"
        return "code" if self.returncode else "normal"

    @property
    def signal_name(self) -> str | None:
        """`SIGKILL`; None unless a signal ended it."""
        if self.returncode >= 0:
            return None
        try:
            return signal.Signals(-self.returncode).name
        except ValueError:
            return f"signal {-self.returncode}"

    def __str__(self) -> str:
        how = {
            "normal": "normally",
            "code": f"with exit code {self.returncode}",
            "signal": f"by {self.signal_name}",
        }[self.how]
        return f"ended {how}{', as asked' if self.asked else ''}"


@dataclass(frozen=True, kw_only=True, slots=True)
class AccelChoice:
    """The accelerator, why it was chosen (one line), and whether an earlier probe said so."""

    accel: Accel
    why: str
    remembered: bool = False


# -- asking a QEMU ----------------------------------------------------------------------------------------------


async def probe_qemu(argv: Sequence[str], *, origin: Origin = "given", timeout_s: float = 10.0) -> Qemu:
    """Ask a QEMU what it is and has; it starts no machine. Takes about 0.1 s.

    Errors: CannotRun (not there, not executable, no QEMU, not for this machine type, no DCD, no answer in time).
    """
    if not argv:
        raise AskedWrongly("no QEMU was given; name its binary")
    name = next((part for part in argv if "qemu-system" in part), argv[0])
    try:
        async with asyncio.timeout(timeout_s):
            told = await _asked(argv, "--version")
            found = _VERSION.search(told)
            if found is None:
                said = _printable(told).strip().splitlines()
                raise CannotRun(f"{name} is no QEMU system emulator; asked its version it said {said[:1]}")
            version = found[1].decode()
            machines, devices, device, accels = await asyncio.gather(
                _asked(argv, "-M", "help"),
                _asked(argv, "-device", "help"),
                _asked(argv, "-device", "cxl-type3,help"),
                _asked(argv, "-accel", "help"),
            )
    except TimeoutError:
        raise CannotRun(f"{name} did not say what it is within {timeout_s:g} s; is it QEMU?") from None
    if b"\nq35 " not in machines:
        raise CannotRun(f"{name} (QEMU {version}) has no q35 machine; give a qemu-system-x86_64")
    missing = [option for option in _NEED if f"  {option}=".encode() not in device]
    if missing:
        raise CannotRun(
            f"{name} (QEMU {version}) has no Dynamic Capacity: its cxl-type3 lacks {', '.join(missing)}; "
            "use QEMU 9.1 or newer, or the private one (dcd image build)"
        )
    features = {"dcd"} | {feature for feature, sign in _FEATURES.items() if sign in devices}
    features |= {accel for accel in get_args(Accel) if accel in accels.decode(errors="replace").split()}
    return Qemu(argv=tuple(argv), version=version, origin=origin, features=frozenset(features))


async def _asked(argv: Sequence[str], *question: str) -> bytes:
    """What the program writes, at most 1 MiB, whatever its exit code. Errors: CannotRun if it does not start."""
    async with _piped([*argv, *question]) as output:
        told = b""
        while len(told) < _MAX_ASKED_OUTPUT and (data := await output.read(65536)):
            told += data
        return told


# -- the command line -------------------------------------------------------------------------------------------


_DECODERS = ("-global", "pxb-cxl.hdm_for_passthrough=on")
"""Decoders in a host bridge with one root port, too: without them it passes everything through, to one region."""


def full_argv(
    *,
    qemu: Qemu,
    topology: Topology,
    kernel: Path,
    initrd: Path,
    accel: Accel,
    append: str = "",
    memory_dir: Path | str = ".",
    paused: bool = False,
    host: HostKind = "U",
) -> list[str]:
    """The whole command line, `qemu.argv` first; sockets and logs are relative to the run directory.

    `host`: for a kernel under test two processors (its races need them) that show no hypervisor, and words of its own.
    `append` goes after our own kernel parameters, so it can override them. `memory_dir` is `Topology.argv`'s.
    `paused` starts QEMU with -S: its device and monitor can be used, and no guest runs.
    """
    panic = ["-device", "pvpanic-pci,bus=pcie.0"] if "pvpanic-pci" in qemu.features else []
    return [
        *qemu.argv,
        *_platform(accel, host),
        *(_DECODERS if host == "kernel" else ()),
        *topology.argv(memory_dir),
        *("-qmp", f"unix:{QMP_SOCKET},server=on,wait=off"),
        *("-chardev", f"file,id=console,path={CONSOLE_LOG},append=on", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=link,path={LINK_SOCKET},server=on,wait=off"),
        *("-device", _LINK_BUS, "-device", f"virtserialport,chardev=link,name={LINK_PORT}"),
        *panic,
        *("-action", "panic=pause,reboot=reset,shutdown=poweroff"),
        *_boot(kernel, initrd, " ".join([*(_KERNEL_UNDER_TEST if host == "kernel" else ()), append])),
        *(["-S"] if paused else []),
    ]


def _platform(accel: Accel, host: HostKind = "U") -> list[str]:
    """Nothing that was not asked for, and only what a guest without a screen needs."""
    bare, processors = (_BARE, ["-smp", "2"]) if host == "kernel" else ("", [])
    return [
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-accel", accel, "-cpu", _CPU[accel] + bare, *processors, "-M", "hpet=off,dump-guest-core=off"),
    ]


def _boot(kernel: Path, initrd: Path, append: str) -> list[str]:
    command_line = " ".join([*_KERNEL_COMMAND_LINE, append]).strip()
    return ["-kernel", str(kernel.absolute()), "-initrd", str(initrd.absolute()), "-append", command_line]


# -- the accelerator --------------------------------------------------------------------------------------------


async def choose_accel(
    qemu: Qemu, *, kernel: Path, cache_dir: Path, asked: str | None = None, fresh: bool = False
) -> Accel:
    """As `decide_accel`, without the reason."""
    choice = await decide_accel(qemu, kernel=kernel, cache_dir=cache_dir, asked=asked, fresh=fresh)
    return choice.accel


async def decide_accel(
    qemu: Qemu, *, kernel: Path, cache_dir: Path, asked: str | None = None, fresh: bool = False
) -> AccelChoice:
    """kvm or tcg. `asked` (None: the variable DCD_ACCEL) is kvm, tcg or auto.

    auto means: KVM if it really ran guest code here. That /dev/kvm can be opened says nothing, and neither does
    KVM_CREATE_VM: under a hypervisor that nests badly both succeed and the guest then stops at the first
    instruction that has no emulation, which may be thousands of instructions into the kernel (so a payload of a
    few real-mode instructions proves too little as well). What is booted is therefore the guest's own kernel,
    with an /init of 200 bytes that prints a word made up for this probe, within KVM_PROBE_TIMEOUT_S.

    The result is remembered in `cache_dir` for this machine, processor, host kernel, QEMU and guest kernel;
    `fresh` asks again. Errors: AskedWrongly (`asked` is none of these), CannotRun (this QEMU lacks it).
    """
    wanted = (asked if asked is not None else os.environ.get("DCD_ACCEL")) or "auto"
    if wanted not in ("auto", *get_args(Accel)):
        raise AskedWrongly(f"accelerator {wanted!r} is not known; say auto, kvm or tcg")
    for accel in get_args(Accel):
        if wanted == accel:
            if accel not in qemu.features:
                raise CannotRun(f"QEMU {qemu.version} has no {accel} built in; say auto")
            return AccelChoice(accel=accel, why="it was asked for")
    if "kvm" not in qemu.features:
        return AccelChoice(accel="tcg", why=f"QEMU {qemu.version} has no KVM built in")
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return AccelChoice(accel="tcg", why=f"{KVM_DEVICE} is not here, or not for this user")
    memory = _AccelMemory(cache_dir / _MEMORY_FILE, _machine_key(qemu, kernel))
    remembered = None if fresh else memory.recall()
    if remembered is not None:
        return remembered
    proof = await boots(qemu, kernel, "kvm", timeout_s=KVM_PROBE_TIMEOUT_S)
    if isinstance(proof, str):
        proof = AccelChoice(accel="tcg", why=f"KVM is here but ran no guest: {proof}")
    memory.keep(proof)
    return proof


async def boots(qemu: Qemu, kernel: Path, accel: Accel, *, timeout_s: float) -> AccelChoice | str:
    """Boot the kernel with the printing /init under `accel`: the choice it proves, or why it proves none."""
    token = secrets.token_hex(8).encode()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dcd-probe-") as directory:
        initrd = Path(directory) / "probe.cpio"
        initrd.write_bytes(_probe_initrd(token))
        argv = [
            *(*qemu.argv, *_platform(accel), "-M", "q35", "-m", "256M", "-no-reboot"),
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
            *_boot(kernel, initrd, "quiet"),
        ]
        told, ended = await _watched(argv, token, timeout_s)
    if token in told:
        return AccelChoice(accel=accel, why=f"a kernel booted with it in {time.monotonic() - started:.1f} s")
    what = "QEMU ended" if ended else f"no sign from the guest in {timeout_s:g} s"
    trouble = re.search(rb"(?mi)^[^\r\n]*kvm[^\r\n]*", told)
    return f"{what} ({_printable(trouble[0]).strip()[:100]})" if trouble else what


async def _watched(argv: Sequence[str], token: bytes, timeout_s: float) -> tuple[bytes, bool]:
    """What the program wrote until the token, its end (True) or the time-out; the program is ended."""
    told = b""
    try:
        async with _piped(argv) as output, asyncio.timeout(timeout_s):
            while token not in told and b"KVM internal error" not in told:
                data = await output.read(65536)
                if not data or len(told) > _MAX_ASKED_OUTPUT:
                    return told, True
                told += data
    except TimeoutError:
        pass
    return told, False


def _probe_initrd(token: bytes) -> bytes:
    """A cpio (newc) with a console and an /init that is our own 64-bit ELF: write(1, token), power off."""

    def entry(number: int, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + path
        return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    return b"".join(
        [
            entry(1, "dev", 0o040755),
            entry(2, "dev/console", 0o020600, device=(5, 1)),
            entry(3, "init", 0o100755, _probe_program(b"\n" + token + b"\n")),
            entry(0, "TRAILER!!!", 0),
        ]
    )


def _probe_program(text: bytes) -> bytes:
    base, headers = 0x400000, 64 + 56

    def code(address: int) -> bytes:
        return b"".join(
            [
                *(b"\xbf", struct.pack("<I", 1)),  # mov edi, 1 (the console)
                *(b"\x48\xbe", struct.pack("<Q", address)),  # mov rsi, text
                *(b"\xba", struct.pack("<I", len(text))),  # mov edx, its length
                *(b"\xb8", struct.pack("<I", 1), b"\x0f\x05"),  # mov eax, write; syscall
                *(b"\xbf", struct.pack("<I", 0xFEE1DEAD)),  # reboot(2)'s two magic numbers
                *(b"\xbe", struct.pack("<I", 0x28121969)),
                *(b"\xba", struct.pack("<I", 0x4321FEDC)),  # power off
                *(b"\xb8", struct.pack("<I", 169), b"\x0f\x05"),  # mov eax, reboot; syscall
                b"\xeb\xfe",  # jmp here
            ]
        )

    program = code(base + headers + len(code(0))) + text
    size = headers + len(program)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return ident + header + segment + program


def _machine_key(qemu: Qemu, kernel: Path) -> str:
    """Names what the probe's result depends on; another machine, kernel or QEMU has another key."""
    try:
        status = kernel.stat()
        image = [status.st_size, status.st_mtime_ns]
    except OSError as error:
        raise CannotRun(f"kernel {kernel} cannot be read: {error.strerror}; give another") from None
    first = _read_text(Path("/proc/cpuinfo")).split("\n\n")[0]
    cpu = [line for line in first.splitlines() if line.startswith(("vendor_id", "cpu family", "model", "stepping"))]
    parts = [
        _read_text(Path("/etc/machine-id")).strip(),
        cpu,
        platform.release(),
        [*qemu.argv, qemu.version],
        [str(kernel.absolute()), *image],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class _AccelMemory:
    """One entry of accel.json. A file that cannot be read or written only costs the next run a probe."""

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key

    def recall(self) -> AccelChoice | None:
        entry = self._entries().get(self._key)
        if not isinstance(entry, dict) or entry.get("accel") not in get_args(Accel):
            return None
        return AccelChoice(accel=entry["accel"], why=str(entry.get("why", "")), remembered=True)

    def keep(self, choice: AccelChoice) -> None:
        entries = {key: value for key, value in self._entries().items() if key != self._key}
        kept = dict(list(entries.items())[-(_MAX_REMEMBERED - 1) :])
        kept[self._key] = {"accel": choice.accel, "why": choice.why}
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{_MEMORY_FILE}.")
            try:
                with os.fdopen(descriptor, "w") as file:
                    json.dump({"version": 1, "machines": kept}, file, indent=1)
                Path(name).replace(self._path)
            except OSError:
                Path(name).unlink(missing_ok=True)
                raise

    def _entries(self) -> Mapping[str, object]:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        entries = found.get("machines") if isinstance(found, dict) and found.get("version") == 1 else None
        return entries if isinstance(entries, dict) else {}


# -- the process ------------------------------------------------------------------------------------------------


class Machine:
    """A running QEMU, from the start of the block to its end.

    Entering: the process is started and has answered a command (every device is there). Errors: AskedWrongly
    (not the main thread, the run directory is in use), CannotRun (it does not start; with its own words),
    TimedOut. Leaving: SIGTERM, then SIGKILL; cancelled at any point, nothing is left.

    `exited` is done when the process has ended, for whatever reason. A console (or QEMU's own words) over
    `max_log_bytes` loses its older half, and says so: a guest that floods it must not fill the disk.
    """

    exited: asyncio.Future[Exit]

    def __init__(
        self,
        *,
        qemu: Qemu,
        argv: Sequence[str],
        run_dir: Path,
        start_timeout_s: float = 20.0,
        stop_timeout_s: float = 5.0,
        max_log_bytes: int = MAX_LOG_BYTES,
    ) -> None:
        self.qemu = qemu
        self.argv = list(argv)
        self.run_dir = run_dir
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._max_log_bytes = max_log_bytes
        self._asked = False
        self._qmp: socket.socket | None = None
        self._stack = contextlib.AsyncExitStack()
        self._child: _Child | None = None
        self._directory: int

    async def __aenter__(self) -> Machine:
        async with contextlib.AsyncExitStack() as stack:
            self._directory = stack.enter_context(_locked_directory(self.run_dir))
            for name in (QMP_SOCKET, LINK_SOCKET, CONSOLE_LOG):
                (self.run_dir / name).unlink(missing_ok=True)
            command = shlex.join(self.argv) + "\n"
            stderr = stack.enter_context(_written(self.run_dir, command))
            self.exited = asyncio.get_running_loop().create_future()
            stack.callback(self._settle)
            self._child = await stack.enter_async_context(_child(self.argv, output=stderr, cwd=self.run_dir))
            self._child.ended.add_done_callback(self._settle)
            stack.push_async_callback(self._end)
            bound = asyncio.get_running_loop().create_task(self._bound_logs())
            stack.callback(bound.cancel)
            self._qmp = await self._answered()
            stack.callback(self._drop_qmp)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def pid(self) -> int:
        """Errors: AskedWrongly before the block is entered."""
        if self._child is None:
            raise AskedWrongly("this machine was not started; enter it with `async with`")
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """As subprocess gives it; None while it runs."""
        return self._child.returncode if self._child is not None else None

    def take_qmp(self) -> socket.socket:
        """The connection to QEMU's monitor, its greeting not read yet; give it to `qmp.Qmp.connect`. Once."""
        if self._qmp is None:
            raise AskedWrongly(f"the monitor's connection was taken already; connect to {QMP_SOCKET} again")
        taken, self._qmp = self._qmp, None
        return taken

    async def connect(self, name: str, *, timeout_s: float = 5.0) -> socket.socket:
        """A non-blocking stream socket connected to `name` in the run directory; it is the caller's.

        Reached by the directory's descriptor, so the path's length does not matter. Errors: AskedWrongly (a name
        with a slash), MachineGone (QEMU has ended), TimedOut.
        """
        if not name or "/" in name:
            raise AskedWrongly(f"{name!r} is no name in the run directory; say {LINK_SOCKET} or {QMP_SOCKET}")
        deadline = time.monotonic() + timeout_s
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(False)
            try:
                connection.connect(f"/proc/self/fd/{self._directory}/{name}")
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                connection.close()
            except BaseException:
                connection.close()
                raise
            else:
                return connection
            if self.exited.done():
                raise MachineGone(f"QEMU {self.exited.result()} before {name} could be connected")
            if time.monotonic() > deadline:
                raise TimedOut(f"{name} could not be connected within {timeout_s:g} s")
            await asyncio.sleep(_POLL_S)

    async def stop(self, *, timeout_s: float | None = None) -> Exit:
        """SIGTERM, and after `timeout_s` SIGKILL. Idempotent. Errors: TimedOut (it survives even that)."""
        if not self.exited.done():
            self._asked = True
            self._signal(signal.SIGTERM)
            await asyncio.wait({self.exited}, timeout=self._stop_timeout_s if timeout_s is None else timeout_s)
        if not self.exited.done():
            self._signal(signal.SIGKILL)
            await asyncio.wait({self.exited}, timeout=_KILL_TIMEOUT_S)
        if not self.exited.done():
            raise TimedOut(f"QEMU (pid {self.pid}) did not end within {_KILL_TIMEOUT_S:g} s of SIGKILL")
        return self.exited.result()

    def kill(self) -> None:
        """SIGKILL, now. Nothing happens if it has ended."""
        if not self.exited.done():
            self._asked = True
            self._signal(signal.SIGKILL)

    def console_tail(self, *, max_bytes: int = 4096) -> str:
        """The end of the guest's console, printable (the guest is not trusted with the terminal)."""
        return _printable(_tail(self.run_dir / CONSOLE_LOG, max_bytes))

    @property
    def console_size(self) -> int:
        """Bytes that the guest's console has now."""
        try:
            return (self.run_dir / CONSOLE_LOG).stat().st_size
        except OSError:
            return 0

    def stderr_tail(self, *, max_bytes: int = 4096) -> str:
        """The end of what QEMU itself wrote, printable."""
        return _printable(_tail(self.run_dir / STDERR_LOG, max_bytes))

    def panic(self) -> str | None:
        """The kernel's own line about its panic, if one is in the console's last MiB."""
        found = _PANIC.search(_tail(self.run_dir / CONSOLE_LOG, _CONSOLE_SCAN))
        return _printable(found[0]).strip() if found else None

    async def _bound_logs(self) -> None:
        """Look at the sizes as long as the process lives."""
        while not self.exited.done():
            await asyncio.sleep(_LOG_LOOK_S)
            for name in (CONSOLE_LOG, STDERR_LOG):
                with contextlib.suppress(OSError):
                    _shorten(self.run_dir / name, self._max_log_bytes)

    def _settle(self, _: object = None) -> None:
        """Say how it ended, once it has."""
        if self._child is not None and self._child.returncode is not None and not self.exited.done():
            self.exited.set_result(Exit(returncode=self._child.returncode, asked=self._asked))

    async def _answered(self) -> socket.socket:
        """Wait until QEMU has answered one command, and give a fresh connection to its monitor.

        Its socket and its greeting prove nothing: the monitor has a thread of its own, and speaks while the
        devices are still being made. A command is answered by the main loop, when all of them are there.
        """
        deadline = time.monotonic() + self._start_timeout_s
        try:
            with await self.connect(QMP_SOCKET, timeout_s=self._start_timeout_s) as connection:
                told = b""
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(max(deadline - time.monotonic(), 0)):
                    await loop.sock_sendall(connection, _READY_QUESTION)
                    while _READY_ANSWER not in told and len(told) < _MAX_ASKED_OUTPUT:
                        data = await loop.sock_recv(connection, 65536)
                        if not data:
                            raise ConnectionResetError
                        told += data
            return await self.connect(QMP_SOCKET, timeout_s=self._start_timeout_s)
        except TimeoutError:
            raise TimedOut(f"QEMU's monitor did not answer within {self._start_timeout_s:g} s of its start") from None
        except (ConnectionError, MachineGone):
            await asyncio.wait({self.exited}, timeout=_KILL_TIMEOUT_S)
            raise self._not_started() from None

    def _not_started(self) -> CannotRun:
        said = self.stderr_tail().strip().splitlines()
        words = f": {said[-1]}" if said else " and said nothing"
        how = str(self.exited.result()) if self.exited.done() else "closed its monitor"
        return CannotRun(
            f"QEMU {self.qemu.version} {how} before it was ready{words}; see {self.run_dir / COMMAND_FILE}"
        )

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            self._child.signal(number)

    def _drop_qmp(self) -> None:
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None

    async def _end(self) -> None:
        try:
            await self.stop()
        finally:
            self.kill()  # where stop was cancelled; _child then waits for the end


# -- processes --------------------------------------------------------------------------------------------------


class _Child:
    """A process whose end is a future.

    Not asyncio's subprocess: its watcher and its `send_signal` both wait for the process, and whoever comes
    second is told 255. Here one object waits, on a pidfd, and there is no thread.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._descriptor = os.pidfd_open(process.pid)
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._descriptor, self._on_end)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def signal(self, number: signal.Signals) -> None:
        """To its whole group: a wrapper script may stand between us and QEMU."""
        if self._process.returncode is None:  # not waited for, so the number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _on_end(self) -> None:
        self.signal(signal.SIGKILL)  # whatever it has left behind
        code = self._process.poll()
        if code is not None:
            self._loop.remove_reader(self._descriptor)
            if not self.ended.done():
                self.ended.set_result(code)


@contextlib.asynccontextmanager
async def _child(argv: Sequence[str], *, output: BinaryIO, cwd: Path | None = None) -> AsyncIterator[_Child]:
    """A process in a session of its own that can outlive neither the block nor this process.

    stdout and stderr go to `output`. Errors: CannotRun if it does not start, AskedWrongly outside the main thread
    (see the module).
    """
    process = _started(argv, output, cwd)
    try:
        child = _Child(process)
    except OSError as error:
        process.kill()
        process.wait(_KILL_TIMEOUT_S)
        raise CannotRun(f"this kernel has no pidfd ({error.strerror}); Linux 5.3 or newer is needed") from None
    try:
        yield child
    finally:
        try:
            await _reaped(child)
        finally:
            child.close()


def _started(argv: Sequence[str], output: BinaryIO, cwd: Path | None) -> subprocess.Popen[bytes]:
    if threading.current_thread() is not threading.main_thread():
        raise AskedWrongly("a machine is started from the main thread only: it is killed when its thread ends")
    try:
        with warnings.catch_warnings():
            # Python >= 3.12 warns of a fork beside threads. Our child takes no lock before it execs.
            warnings.simplefilter("ignore", DeprecationWarning)
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_tied_to(os.getpid()),
            )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CannotRun(f"{argv[0]} does not start: {reason}; give a QEMU that runs here") from None


def _tied_to(parent: int) -> Callable[[], None]:
    """Runs in the child before exec: die with the parent, and at once if it has died already."""

    def tie() -> None:
        if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:
            os._exit(1)

    return tie


async def _reaped(child: _Child) -> None:
    """Kill what still runs and wait for its end, bounded; a cancellation waits until that is done."""
    cancelled: asyncio.CancelledError | None = None
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while not child.ended.done() and time.monotonic() < deadline:
        child.signal(signal.SIGKILL)
        try:
            await asyncio.wait({child.ended}, timeout=deadline - time.monotonic())
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


@contextlib.asynccontextmanager
async def _piped(argv: Sequence[str]) -> AsyncIterator[asyncio.StreamReader]:
    """What a process writes, as it comes. Errors: `_child`'s."""
    read_end, write_end = os.pipe()
    async with contextlib.AsyncExitStack() as stack:
        source = stack.enter_context(os.fdopen(read_end, "rb", 0))
        with os.fdopen(write_end, "wb", 0) as sink:
            await stack.enter_async_context(_child(argv, output=sink))
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), source
        )
        stack.callback(transport.close)
        yield reader


@contextlib.contextmanager
def _locked_directory(path: Path) -> Iterator[int]:
    """The directory, made 0700 and locked against a second machine; its descriptor."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CannotRun(f"run directory {path}: {error.strerror}; choose another") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AskedWrongly(f"run directory {path} is in use by another machine; choose another") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _written(run_dir: Path, command: str) -> Iterator[BinaryIO]:
    """The command is on disk before it runs; the log for its stderr."""
    try:
        (run_dir / COMMAND_FILE).write_text(command)
        (run_dir / STDERR_LOG).unlink(missing_ok=True)
        log = (run_dir / STDERR_LOG).open("ab")
    except OSError as error:
        raise CannotRun(f"cannot write to {run_dir}: {error.strerror}; choose another run directory") from None
    with log:
        yield log


def _shorten(path: Path, max_bytes: int) -> None:
    """Cut a log that is over the bound to its newer half. Whoever writes it appends, and goes on behind what is kept;
    what it writes in the moment of the cut may be lost. Errors: OSError."""
    size = path.stat().st_size
    if size <= max_bytes:
        return
    kept = _tail(path, max_bytes // 2)
    with path.open("ab") as file:
        file.truncate(0)
        file.write(b"[%d bytes were here; a log is kept to %d]\n%b" % (size - len(kept), max_bytes, kept))


def _tail(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - max_bytes))
            return file.read(max_bytes)
    except OSError:
        return b""


def _printable(data: bytes) -> str:
    """Text without control characters other than newline and tab, and without escape sequences."""
    text = re.sub(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|.)", "", data.decode(errors="replace").replace("\r", ""))
    return "".join(one if one.isprintable() or one in "\n\t" else "." for one in text)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
