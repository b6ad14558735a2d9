"""The image room for real: what the mirror gives, the kernel that unpacks it, the python that runs in it."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dcdbackend import image
from dcdbackend.image import archive, cache, initrd, product
from dcdbackend.image.recipe import load
from dcdbackend.image.step import silent

pytestmark = pytest.mark.vm

BOOT_S = 120.0
BUILD_S = 300.0


@pytest.fixture
def guest(parts: image.Parts) -> Path:
    """The guest's entry in the cache; skipped where the user brought all parts."""
    found = cache.entry("guest", load("guest").key)
    if found is None:
        pytest.skip("kernel and initrd are the user's own")
    return found


@pytest.fixture
def agent_root(guest: Path, tmp_path: Path) -> Path:
    """The agent's archive, unpacked, as the guest has it."""
    entries = list(initrd.agent_archive(tmp_path, guest / product.TREE))
    assert {entry.name for entry in entries} >= {"init", "dcd/dcdbackend/agent/__main__.py"}
    return tmp_path / "agent/dcd"


def in_guest_python(guest: Path, code: str, *paths: Path) -> str:
    """Run code in the guest's own interpreter, here: its library, its packages, nothing of this machine's."""
    tree = guest / product.TREE
    library = tree / "usr/lib/x86_64-linux-gnu"
    found = (str(path) for path in (*paths, tree / "usr/lib/python3/dist-packages"))
    return subprocess.run(
        [
            str(library / "ld-linux-x86-64.so.2"),
            "--library-path",
            str(library),
            str(tree / "usr/bin/python3"),
            "-PSsBc",  # nothing of the directory that the tests run in
            code,
        ],
        env={"PYTHONHOME": str(tree / "usr"), "PYTHONPATH": ":".join(found), "PYTHONHASHSEED": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOOT_S,
        check=True,
    ).stdout


def test_the_archives_are_read_by_another_reader(guest: Path, parts: image.Parts) -> None:
    """busybox's cpio lists what ours wrote; the kernel is the third reader (test_boot)."""
    with (guest / product.BASE).open("rb") as base:
        listed = subprocess.run(
            [str(guest / product.TREE / "usr/bin/busybox"), "cpio", "-tv"],
            stdin=base,
            env={"TZ": "UTC"},
            capture_output=True,
            text=True,
            timeout=BOOT_S,
            check=True,
        ).stdout.splitlines()
    names = {line.split(" -> ")[0].split()[-1]: line for line in listed}
    expected = {entry.name for entry in archive.from_tree(guest / product.TREE)}
    assert set(names) == expected
    assert all(line.split()[1] == "0/0" and " 1970-01-01 00:00:00 " in line for line in listed)
    assert names["usr/bin/busybox"].startswith("-rwxr-xr-x")


def test_the_base_is_the_same_again(guest: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.cpio"
    with again.open("wb") as file:
        archive.write(file, archive.from_tree(guest / product.TREE))
    assert again.read_bytes() == (guest / product.BASE).read_bytes()


def test_the_agent_imports_in_the_guests_python(guest: Path, agent_root: Path) -> None:
    """With what goes along and nothing else; crcmod's C extension in use (twenty times slower without)."""
    said = in_guest_python(
        guest,
        "import dcdbackend.agent.__main__, sys\n"
        "from dcdbackend import crc\n"
        "assert crc.EXTENSION\n"
        "assert not {'asyncio', 'socket', 'subprocess'} & set(sys.modules), sorted(sys.modules)\n"
        "print(*sorted(n for n in sys.modules if n.startswith('dcdbackend')))\n",
        agent_root,
    )
    assert "dcdbackend.agent.mailbox" in said
    assert "dcdbackend.machine" not in said


def test_its_bytecode_is_the_guests(guest: Path, agent_root: Path) -> None:
    """Made by that interpreter, by hash and unchecked: never compiled again at a boot, and the same each time."""
    magic = bytes.fromhex(in_guest_python(guest, "import importlib.util as u; print(u.MAGIC_NUMBER.hex())"))
    assert magic != importlib.util.MAGIC_NUMBER or sys.version_info[:2] == (3, 13)
    sources = [path for path in agent_root.rglob("*.py")]
    compiled = [path for path in agent_root.rglob("__pycache__/*.pyc")]
    assert len(sources) == len(compiled)
    library = guest / product.TREE / "usr/lib"
    compiled += [library / "python3.13/struct.pyc", library / "python3/dist-packages/construct/core.pyc"]
    for path in compiled:
        head = path.read_bytes()[:8]
        assert head == magic + b"\1\0\0\0", path
    assert not list(library.glob("python3*/**/*.py"))


def test_the_agent_is_packed_in_under_a_second(guest: Path, tmp_path: Path) -> None:
    """Of processor time, so that a busy machine does not count; twice, the same bytes."""

    def spent_s() -> float:
        both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in both)

    packed = []
    for name in ("one", "two"):
        began = spent_s()
        with (tmp_path / name).open("wb") as file:
            archive.write(file, initrd.agent_archive(tmp_path / f"{name}.d", guest / product.TREE))
        assert spent_s() - began < 1.0
        packed.append((tmp_path / name).read_bytes())
    assert packed[0] == packed[1]


def test_boot(parts: image.Parts) -> None:
    """The kernel unpacks both archives, /init starts the agent, outlives it, says how it ended and powers off. The
    agent ends at once here: it has no port to speak through."""
    done = subprocess.run(
        [
            *parts.qemu_argv,
            *("-M", "q35", "-m", "512M", "-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot"),
            *("-serial", "stdio", "-kernel", str(parts.kernel), "-initrd", str(parts.initrd)),
            *("-append", "console=ttyS0 quiet panic=-1"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOOT_S,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"no virtio port", done.stdout), done.stdout
    assert re.search(r"dcd: the agent ended with status \d+; powering off", done.stdout), done.stdout
    assert "Kernel panic" not in done.stdout


@pytest.mark.slow
def test_two_real_builds_give_the_same_bytes(
    guest: Path, parts: image.Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the mirror gives the same packages."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    before = os.umask(0o077)
    try:
        again = image.ensure()
    finally:
        os.umask(before)
    for kind in ("qemu", "guest"):
        if parts.manifest[kind].get("packages") != again.manifest[kind]["packages"]:
            pytest.skip("the mirror has newer packages than the cache; refresh it: dcd image build --refresh")
        assert parts.manifest[kind]["content"] == again.manifest[kind]["content"]
    entry = cache.entry("guest", load("guest").key)
    assert entry not in (None, guest)
    assert entry is not None
    agents = [list(initrd.agent_archive(tmp_path / place.name, place / product.TREE)) for place in (guest, entry)]
    assert agents[0] == agents[1]


@pytest.mark.slow
@pytest.mark.parametrize("at", ["var/lib/apt/lists/*Packages*", "var/cache/apt/archives/*.deb", "usr/bin/*"])
def test_a_real_build_killed_in_the_middle(
    at: str, parts: image.Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL while it fetches lists, fetches packages, extracts: nothing half, nobody at work; the sweep takes it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    home = image.cache_dir()
    code = "from dcdbackend.image import product, step; product.ensure('qemu', refresh=False, progress=step.silent)"
    killed = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + BUILD_S
    while killed.poll() is None and not list(home.glob(f"scratch-*/root/{at}")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(BOOT_S) == -signal.SIGKILL
    assert image.list_images() == ()
    left = list(home.glob("scratch-*"))
    assert len(left) == 1
    while cache.sweep() != left:  # its lock goes with the last of its processes
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not [path for path in home.iterdir() if path.suffix not in (".lock", ".log")]


@pytest.mark.slow
def test_the_private_qemu_was_asked_its_version(parts: image.Parts) -> None:
    if parts.qemu_origin != "private":
        pytest.skip("QEMU is the user's own")
    version = parts.manifest["qemu"]["version"]
    assert tuple(int(number) for number in version.split(".")[:2]) >= (9, 1)
    assert product.ensure("qemu", refresh=False, progress=silent).joinpath("tree").is_dir()
