"""The image room without a mirror: a pretended apt and mmdebstrap give "packages" of a few bytes, the rest is real.

The real mirror, kernel and python are in tests/vm/test_image.py.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypedDict

import pytest
from kernel_files import a_module, bz_image, modules_directory

from dcdbackend import image
from dcdbackend.errors import AskedWrongly, CannotRun
from dcdbackend.image import archive, cache, initrd, mirror, product
from dcdbackend.image.recipe import digest, load
from dcdbackend.image.step import Step, silent

BOUND_S = 20.0
PROGRAM = "qemu-system-x86_64"

# What a machine's apt says, in the form that we ask for; hosts are pretended.
TARGETS = """\
Debian-Security|main|oldstable-security|http://mirror.test/debian-security/
Debian|main|oldstable-updates|http://updates.test/debian/
Debian|contrib|oldstable|http://contrib.test/debian/
Debian|main|oldstable|cdrom:[Debian GNU/Linux 12.0.0 _Bookworm_]/
Debian|main|oldstable|http://mirror.test/debian/
cloud-sdk-bookworm|main|cloud-sdk-bookworm|http://packages.test/apt/
.|main|stable|http://other.test/repo/
"""
URIS = """\
'http://packages.test/apt/dists/cloud-sdk/InRelease' packages.test_apt_dists_cloud-sdk_InRelease 0 
'http://mirror.test/debian/dists/bookworm-updates/InRelease' mirror.test_debian_dists_bookworm-updates_InRelease 0 
'http://mirror.test/debian/dists/bookworm/InRelease' mirror.test_debian_dists_bookworm_InRelease 0 
'http://mirror.test/debian-security/dists/bookworm-security/InRelease' mirror.test_x 0 
'http://mirror.test/debian/dists/bookworm/main/binary-amd64/Packages.xz' mirror.test_y 0 
"""  # noqa: W291 (apt's own trailing blanks)
CONFIGURATION = """\
APT::Architecture "amd64";
Acquire "";
Acquire::cdrom::mount "/media/cdrom/";
Acquire::Languages:: "en";
Acquire::http "";
Acquire::http::Proxy "http://proxy.test:3142";
Acquire::http::Proxy::mirror.test "DIRECT";
Acquire::https::CaInfo "/etc/ssl/own.pem";
Acquire::Retries "5";
Acquire::Check-Valid-Until "false";
Acquire::Changelogs::URI::Origin::Debian "http://changelogs.test/@CHANGEPATH@";
"""

MMDEBSTRAP = """
import os, pathlib, sys, time
root = pathlib.Path(next(word for word in sys.argv[1:] if word.endswith("/root")))
plan = pathlib.Path(os.environ["PRETENDED"])
with (plan / "calls").open("a") as calls:
    calls.write(repr(sys.argv[1:]) + "\\n")
fails = plan / "fails"
if fails.exists():
    newer = "trixie-backports main" in sys.argv[-1]
    if newer or not (plan / "only-newer").exists():
        sys.stderr.write(fails.read_text())
        raise SystemExit(25)
(root / "var/cache/apt/archives").mkdir(parents=True)
for number in range(int(os.environ.get("PIECES", "1"))):
    (root / f"half-{number}").write_bytes(bytes(1000))
    time.sleep(float(os.environ.get("PAUSE_S", "0")))
for name, size in (("fake_1%3a2.5-1_amd64.deb", 700), ("other_3_all.deb", 300)):
    (root / "var/cache/apt/archives" / name).write_bytes(bytes(size))
def put(name, text, mode=0o644):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
version = (plan / "version").read_text()
put("usr/share/doc/fake/changelog", "not wanted")
put("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", (plan / "loader").read_text(), 0o755)
put("usr/bin/qemu-system-x86_64", version, 0o755)
put("usr/share/qemu/bios", "firmware")
put("usr/share/seabios/bios", "firmware")
if not (plan / "no-kernel").exists():
    put("boot/vmlinuz-6.12-fake", "kernel " + version)
    put("boot/config-6.12-fake", "CONFIG_X=y")
put("usr/lib/modules/6.12-fake/modules.builtin", "kernel/drivers/char/virtio_console.ko")
put("usr/lib/modules/6.12-fake/kernel/drivers/other/other.ko", "not wanted")
for path in plan.glob("modules/*"):
    copied = root / "usr/lib/modules/6.12-fake/kernel/drivers/cxl" / path.name
    copied.parent.mkdir(parents=True, exist_ok=True)
    copied.write_bytes(path.read_bytes())
put("usr/bin/python3.13", "", 0o755)
(root / "usr/bin/python3").symlink_to("python3.13")
put("usr/bin/busybox", "", 0o755)
put("usr/lib/python3.13/one.py", '"a docstring"\\nassert False\\n')
put("usr/lib/python3.13/test/two.py", "")
put("usr/lib/python3/dist-packages/construct.py", "x = 1\\n")
"""

LOADER = """\
#!/bin/sh
# Stands for the loader, and for the program that it is given.
shift 2
case $1 in
*qemu*) echo "QEMU emulator version $(cat "$1") (Debian)" ;;
*) shift; unset PYTHONHOME; exec {python} "$@" ;;
esac
"""


class Pretended:
    """The directory that steers the pretended mmdebstrap."""

    def __init__(self, place: Path, home: Path) -> None:
        self.place = place
        self.home = home

    @property
    def calls(self) -> list[str]:
        path = self.place / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def gives(self, version: str) -> None:
        (self.place / "version").write_text(version)

    def fails(self, said: str, *, only_newer: bool = False) -> None:
        (self.place / "fails").write_text(said)
        if only_newer:
            (self.place / "only-newer").touch()


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the user's, no cache but our own."""
    for name in (image.QEMU, image.KERNEL, image.INITRD, image.MODULES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    """apt-get, apt-config and mmdebstrap that need no mirror, first in PATH."""
    place = tmp_path / "pretended"
    place.mkdir()
    program(place / "apt-get", f"import sys\nif sys.argv[1] == 'indextargets': sys.stdout.write({TARGETS!r})\n")
    program(place / "apt-config", f"import sys\nsys.stdout.write({CONFIGURATION!r})\n")
    program(place / "mmdebstrap", MMDEBSTRAP)
    (place / "loader").write_text(LOADER.format(python=sys.executable))
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("PRETENDED", str(place))
    monkeypatch.setattr(initrd, "sources", lambda: {"__init__.py": b"", "agent.py": b"x = 1\n"})
    monkeypatch.setattr(initrd, "further", lambda: {"agent/kernel.py": b"y = 1\n"})
    made = Pretended(place, tmp_path / "cache/dcdbackend")
    made.gives("9.9.1")
    return made


def program(path: Path, text: str) -> None:
    path.write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
    path.chmod(0o755)


def in_the_cache(home: Path) -> list[str]:
    """What is there besides locks and logs."""
    return sorted(path.name for path in home.iterdir() if path.suffix not in (".lock", ".log"))


# -- archives -----------------------------------------------------------------------------------------------------


def members(data: bytes) -> Iterator[dict[str, Any]]:
    """A strict reader, from the format's description: 6 bytes of magic, 13 fields of 8 hexadecimal digits."""
    at = 0
    names = (
        "inode",
        "mode",
        "uid",
        "gid",
        "links",
        "mtime",
        "size",
        "major",
        "minor",
        "rmajor",
        "rminor",
        "named",
        "sum",
    )
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701", at
        values = dict(zip(names, (int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)), strict=True))
        name = data[at + 110 : at + 110 + values["named"] - 1].decode()
        assert data[at + 110 + values["named"] - 1] == 0
        at += 110 + values["named"]
        at += -at % 4
        content = data[at : at + values["size"]]
        at += values["size"]
        at += -at % 4
        if name == "TRAILER!!!":
            assert not data[at:].strip(b"\0")
            return
        yield {**values, "name": name, "data": content}


def a_tree(root: Path) -> Path:
    (root / "b").mkdir(parents=True)
    (root / "b/script").write_text("#!/bin/sh\n")
    (root / "b/script").chmod(0o700)
    (root / "a.txt").write_text("odd")
    (root / "b/link").symlink_to("../a.txt")
    (root / "b.txt").write_text("")
    return root


def packed(root: Path) -> bytes:
    out = root.with_suffix(".cpio")
    with out.open("wb") as file:
        size = archive.write(file, archive.from_tree(root))
    assert size == out.stat().st_size
    return out.read_bytes()


def test_archive_holds_the_tree(tmp_path: Path) -> None:
    found = {member["name"]: member for member in members(packed(a_tree(tmp_path / "tree")))}
    assert list(found) == ["a.txt", "b", "b/link", "b/script", "b.txt"]  # a directory before what is in it
    assert [found[name]["mode"] for name in ("a.txt", "b", "b/link", "b/script")] == [
        0o100644,
        0o40755,
        0o120777,
        0o100755,
    ]
    assert found["b/link"]["data"] == b"../a.txt"
    assert found["a.txt"]["data"] == b"odd"
    assert all(not member[name] for member in found.values() for name in ("uid", "gid", "mtime", "major", "minor"))
    assert len({member["inode"] for member in found.values()}) == len(found)


def test_same_tree_same_bytes(tmp_path: Path) -> None:
    """Times, the umask and the order of creation do not show."""
    first = packed(a_tree(tmp_path / "first"))
    second = tmp_path / "second"
    (second / "b").mkdir(parents=True, mode=0o700)
    for name, text, mode in (("b.txt", "", 0o600), ("b/script", "#!/bin/sh\n", 0o777), ("a.txt", "odd", 0o640)):
        (second / name).write_text(text)
        (second / name).chmod(mode)
        os.utime(second / name, (1, 1))
    (second / "b/link").symlink_to("../a.txt")
    assert packed(second) == first


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513])
def test_padding_lets_another_follow(size: int) -> None:
    assert (size + len(archive.padding(size))) % 512 == 0
    assert len(archive.padding(size)) < 512


# -- the mirror ---------------------------------------------------------------------------------------------------


def test_the_mirror_is_the_machines_own() -> None:
    assert mirror.first_mirror(TARGETS) == "http://mirror.test/debian/"
    assert (
        mirror.first_mirror(TARGETS.replace("Debian|main|oldstable|http", "X|main|x|http"))
        == "http://updates.test/debian/"
    )
    assert mirror.first_mirror("Ubuntu|main|noble|http://ubuntu.test/ubuntu/\n") is None
    assert mirror.first_mirror("nonsense\n") is None


def test_the_mirror_of_a_machine_without_package_lists() -> None:
    assert mirror.first_source(URIS) == "http://mirror.test/debian/"
    assert mirror.first_source("") is None


def test_proxies_and_certificates_are_passed_on() -> None:
    assert mirror.taken_over(CONFIGURATION) == (
        'Acquire::http::Proxy "http://proxy.test:3142"',
        'Acquire::http::Proxy::mirror.test "DIRECT"',
        'Acquire::https::CaInfo "/etc/ssl/own.pem"',
        'Acquire::Retries "5"',
        'Acquire::Check-Valid-Until "false"',
    )


def test_they_reach_mmdebstrap(pretended: Pretended) -> None:
    product.ensure("qemu", refresh=False, progress=silent)
    (call,) = pretended.calls
    assert '--aptopt=Acquire::http::Proxy "http://proxy.test:3142"' in call
    assert "http://mirror.test/debian/ trixie main" in call
    assert "http://mirror.test/debian/ trixie-backports main" in call


def test_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotRun, match="no apt") as caught:
        image.ensure()
    one_line_with_the_ways_out(caught.value)


def test_without_mmdebstrap(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    (pretended.place / "mmdebstrap").unlink()
    monkeypatch.setenv("PATH", str(pretended.place))
    with pytest.raises(CannotRun, match="mmdebstrap is not installed") as caught:
        image.ensure()
    one_line_with_the_ways_out(caught.value)


def test_on_another_distribution(pretended: Pretended) -> None:
    program(pretended.place / "apt-get", "print('Ubuntu|main|noble|http://ubuntu.test/ubuntu/')\n")
    with pytest.raises(CannotRun, match="name no Debian mirror") as caught:
        image.ensure()
    one_line_with_the_ways_out(caught.value)


def test_on_another_processor(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(CannotRun, match="aarch64") as caught:
        image.ensure()
    one_line_with_the_ways_out(caught.value)
    assert not pretended.calls


def one_line_with_the_ways_out(error: Exception) -> None:
    text = str(error)
    assert "\n" not in text
    for way in ("--qemu", "--kernel", "--initrd", image.QEMU, image.KERNEL, image.INITRD, "--qemu system"):
        assert way in text, text


# What apt and mmdebstrap really say (1.3.5, apt 2.6), the host replaced.
SAID = {
    "does not answer (Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused))": """\
Err:1 http://mirror.test/debian trixie InRelease
  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)
E: Failed to fetch http://mirror.test/debian/dists/trixie/InRelease  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)
E: Some index files failed to download. They have been ignored, or old ones used instead.
E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> -oDpkg::Use-Pty=false failed
E: mmdebstrap failed to run
""",  # noqa: E501
    "does not answer (Temporary failure resolving 'mirror.test')": """\
E: Failed to fetch http://mirror.test/debian/dists/trixie/InRelease  Temporary failure resolving 'mirror.test'
E: mmdebstrap failed to run
""",
    "signed by a key that this machine does not know": """\
E: The repository 'http://mirror.test/debian trixie InRelease' is not signed.
E: mmdebstrap failed to run
""",
    "has no trixie": """\
E: The repository 'http://mirror.test/debian trixie Release' does not have a Release file.
E: mmdebstrap failed to run
""",
    "the disk filled up": """\
E: Write error - write (28: No space left on device)
E: mmdebstrap failed to run
""",
    "could not be taken from the Debian mirror http://mirror.test/debian/ (Unable to locate package qemu": """\
E: Unable to locate package qemu-system-x86
E: mmdebstrap failed to run
""",
}


@pytest.mark.parametrize("expected", SAID)
def test_what_went_wrong_is_one_line(expected: str, pretended: Pretended) -> None:
    pretended.fails(SAID[expected])
    with pytest.raises(CannotRun) as caught:
        image.ensure()
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert in_the_cache(pretended.home) == []


def test_a_mirror_without_backports_gives_the_release(pretended: Pretended) -> None:
    """The newest that the mirror gives, never a version demanded."""
    said = "E: The repository 'http://mirror.test/debian trixie-backports Release' does not have a Release file.\n"
    pretended.fails(said, only_newer=True)
    product.ensure("qemu", refresh=False, progress=silent)
    first, second = pretended.calls
    assert "trixie-backports main" in first
    assert "trixie-backports main" not in second


def test_a_mirror_that_never_ends(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "TIMEOUT_S", 1)
    monkeypatch.setenv("PIECES", "1000")
    monkeypatch.setenv("PAUSE_S", "0.1")
    with pytest.raises(CannotRun, match="did not deliver"):
        image.ensure()
    assert in_the_cache(pretended.home) == []


def test_no_room_is_said_before_anything_is_fetched(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(pretended.place)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5_000_000))
    with pytest.raises(CannotRun, match=r"5 MB are free in .*, about \d+ MB are needed .* XDG_CACHE_HOME"):
        image.ensure()
    assert not pretended.calls


def test_a_disk_that_fills_up_on_the_way(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(root: Path) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device", str(root))

    monkeypatch.setattr(cache, "sync", full)
    with pytest.raises(CannotRun, match=r"the disk filled up .* XDG_CACHE_HOME"):
        image.ensure()
    assert in_the_cache(pretended.home) == ["qemu"]
    assert list((pretended.home / "qemu").iterdir()) == []


def test_a_disk_that_fills_up_at_the_initrd(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object, entries: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    image.ensure()
    monkeypatch.setattr(initrd, "sources", lambda: {"agent.py": b"x = 3\n"})
    monkeypatch.setattr(archive, "write", full)
    with pytest.raises(CannotRun, match=r"the disk filled up .* XDG_CACHE_HOME"):
        image.ensure()


def test_a_cache_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    with pytest.raises(CannotRun, match="XDG_CACHE_HOME"):
        image.cache_dir()


# -- entries: whole or not at all ---------------------------------------------------------------------------------


def test_build(pretended: Pretended) -> None:
    steps: list[Step] = []
    built = {cached.kind: cached for cached in image.build(steps.append)}
    assert set(built) == {"qemu", "guest", "initrd"}
    assert in_the_cache(pretended.home) == ["guest", "initrd", "qemu"]
    about = built["qemu"].manifest
    assert about["version"] == "9.9.1"
    assert about["packages"] == {"fake": "1:2.5-1", "other": "3"}
    assert about["fetched_bytes"] == 1000
    assert about["mirror"] == "http://mirror.test/debian/"
    assert about["recipe"] == load("qemu").key
    guest = built["guest"]
    for name in ("vmlinuz", "base.cpio"):
        data = (guest.path / name).read_bytes()
        assert guest.manifest["outputs"][name] == {"sha256": sha256(data), "size_bytes": len(data)}
    assert [step.what for step in steps if "packages" in step.what]
    assert image.build() == image.build()
    assert len(pretended.calls) == 2


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_only_what_the_recipe_wants(pretended: Pretended) -> None:
    entry = product.ensure("guest", refresh=False, progress=silent)
    names = {member["name"]: member for member in members((entry / "base.cpio").read_bytes())}
    assert "usr/lib/python3.13/one.pyc" in names
    assert not {"usr/lib/python3.13/one.py", "usr/lib/python3.13/test", "usr/share", "boot", "var/cache"} & set(names)
    assert names["lib64"]["data"] == b"usr/lib64"
    assert names["usr/bin/sh"]["data"] == b"busybox"
    assert b"a docstring" not in names["usr/lib/python3.13/one.pyc"]["data"]
    flags = int.from_bytes(names["usr/lib/python3.13/one.pyc"]["data"][4:8], "little")
    assert flags == 1  # by hash, not checked: PEP 552
    tree = product.ensure("qemu", refresh=False, progress=silent) / "tree"
    assert not (tree / "usr/share/doc").exists()
    assert (tree / "usr/share/qemu/bios").is_file()


def test_same_packages_same_bytes(pretended: Pretended, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = image.ensure()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    two = image.ensure()
    assert one.initrd != two.initrd
    for part in ("kernel", "initrd"):
        assert getattr(one, part).read_bytes() == getattr(two, part).read_bytes()
    for kind in ("qemu", "guest"):
        assert one.manifest[kind]["content"] == two.manifest[kind]["content"]


def test_refresh_replaces_in_one_step_and_keeps_the_last(pretended: Pretended) -> None:
    first = product.ensure("qemu", refresh=False, progress=silent)
    assert product.ensure("qemu", refresh=True, progress=silent) == first  # nothing new at the mirror
    pretended.gives("9.9.2")
    second = product.ensure("qemu", refresh=True, progress=silent)
    assert second != first
    assert first.is_dir()  # a guest started from it may still be running
    assert product.ensure("qemu", refresh=False, progress=silent) == second
    pretended.gives("9.9.3")
    third = product.ensure("qemu", refresh=True, progress=silent)
    assert not first.exists()
    assert second.is_dir()
    shown = [(cached.manifest["version"], cached.current) for cached in image.list_images()]
    assert shown == [("9.9.3", True), ("9.9.2", False)]
    assert [cached.path for cached in image.remove(old_only=True)] == [second]
    assert product.ensure("qemu", refresh=False, progress=silent) == third


def test_a_failed_refresh_leaves_what_was_there(pretended: Pretended) -> None:
    first = product.ensure("qemu", refresh=False, progress=silent)
    pretended.fails("E: Unable to locate package qemu-system-x86\n")
    with pytest.raises(CannotRun):
        product.ensure("qemu", refresh=True, progress=silent)
    assert product.ensure("qemu", refresh=False, progress=silent) == first


def test_remove(pretended: Pretended) -> None:
    image.ensure()
    gone = image.remove()
    assert {cached.kind for cached in gone} == {"qemu", "guest", "initrd"}
    assert image.list_images() == ()
    assert all(list((pretended.home / kind).iterdir()) == [] for kind in ("qemu", "guest", "initrd"))
    assert in_the_cache(pretended.home) == ["guest", "initrd", "qemu"]
    image.ensure()


def test_an_entry_without_its_manifest_is_made_again(pretended: Pretended) -> None:
    entry = product.ensure("qemu", refresh=False, progress=silent)
    (entry / cache.MANIFEST).unlink()
    assert image.missing()
    assert product.ensure("qemu", refresh=False, progress=silent) == entry
    assert (entry / cache.MANIFEST).is_file()


def test_another_recipe_is_another_entry() -> None:
    keys = {load("qemu").key, load("guest").key, digest(b"ab", b"c"), digest(b"a", b"bc")}
    assert len(keys) == 4


BUILDER = "from dcdbackend.image import product\nproduct.ensure('qemu', refresh=False, progress=lambda step: None)\n"


@contextlib.contextmanager
def builder(**variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that builds the pretended QEMU."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUILDER], stdin=subprocess.DEVNULL, env={**os.environ, **variables}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(BOUND_S)


def until(true: Callable[[], object], what: str) -> None:
    """Wait, bounded."""
    deadline = time.monotonic() + BOUND_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def at_work(pretended: Pretended) -> list[str]:
    """Command lines of processes that still belong to a build of ours."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(pretended.home) in words and "mmdebstrap" in words:
                found.append(words)
    return found


@pytest.mark.parametrize("pieces", [1, 8, 16])
def test_a_killed_build_leaves_nothing_half(pretended: Pretended, pieces: int) -> None:
    """SIGKILL in the middle: no entry, no process; what it had made is swept by the next, which succeeds."""
    with builder(PIECES="1000", PAUSE_S="0.02") as killed:
        until(lambda: len(list(pretended.home.glob("scratch-*/root/half-*"))) >= pieces, "the build began")
        killed.send_signal(signal.SIGKILL)
        killed.wait(BOUND_S)
    until(lambda: not at_work(pretended), "mmdebstrap ends with its builder")
    assert image.list_images() == ()
    assert [name.partition("-")[0] for name in in_the_cache(pretended.home)] == ["scratch"]
    entry = product.ensure("qemu", refresh=False, progress=silent)
    assert in_the_cache(pretended.home) == ["qemu"]
    assert json.loads((entry / cache.MANIFEST).read_text())["version"] == "9.9.1"


def test_killed_at_the_end(pretended: Pretended) -> None:
    """Between the last piece and the manifest, over and over: an entry is whole or it is not there."""
    for delay_s in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3):
        with builder():
            until(lambda: pretended.calls, "mmdebstrap was called")
            time.sleep(delay_s)
        until(lambda: not at_work(pretended), "mmdebstrap ends with its builder")
        for cached in image.list_images():
            assert (cached.path / "tree/usr/bin" / PROGRAM).read_text() == "9.9.1"
        image.remove()
        (pretended.place / "calls").unlink()
        assert in_the_cache(pretended.home) in ([], ["qemu"])


def test_two_builds_side_by_side_are_one(pretended: Pretended) -> None:
    with builder(PIECES="20", PAUSE_S="0.02") as first, builder(PIECES="20", PAUSE_S="0.02") as second:
        assert first.wait(BOUND_S) == second.wait(BOUND_S) == 0
    assert len(pretended.calls) == 1
    assert len(image.list_images()) == 1


def test_a_scratch_directory_in_use_is_not_swept(pretended: Pretended) -> None:
    with builder(PIECES="1000", PAUSE_S="0.02"):
        until(lambda: list(pretended.home.glob("scratch-*/root/half-*")), "the build began")
        assert cache.sweep() == []
        with cache.scratch() as own:
            assert cache.sweep() == []
        assert not own.path.exists()


# -- the initrd ---------------------------------------------------------------------------------------------------


def test_the_agent_goes_along_with_what_it_imports_and_nothing_else() -> None:
    names = set(initrd.sources())
    assert {"__init__.py", "agent/__init__.py", "agent/__main__.py", "crc.py", "link.py", "model/__init__.py"} <= names
    for room in ("cli", "image", "checker", "machine.py", "qmp.py", "guest.py", "session.py", "scenario"):
        assert not [name for name in names if name.startswith(room)]
    assert b"import" not in initrd.sources()["__init__.py"]  # the package's own serves the controller


def test_what_a_kernel_under_test_needs_of_the_agent_goes_into_the_third_archive() -> None:
    """Host U's initrd has none of it; together they are whole, whatever imports what."""
    plain, further = initrd.sources(), initrd.further()
    assert not [name for name in plain if name.startswith("agent/kernel")]
    assert {"agent/kernel/__init__.py", "agent/kernel/host.py"} <= set(further)
    assert not set(plain) & set(further)
    for room in ("cli", "image", "machine.py", "qmp.py", "guest.py", "session.py", "scenario"):
        assert not [name for name in further if name.startswith(room)]


def test_names_of_modules_in_all_forms_of_import() -> None:
    text = b"from . import a\nfrom .b import c\nfrom .. import d\nimport dcdbackend.e.f\n"
    text += b"from dcdbackend import g\nimport json\n"
    text += b"def late():\n    from ..h.i import j\n    from json import k\n"
    assert sorted(initrd._imports("agent", text)) == ["agent.a", "agent.b.c", "d", "e.f", "g", "h.i.j"]


def test_the_agent_follows_its_sources(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    one = image.ensure()
    assert image.ensure().initrd == one.initrd
    assert image.ensure().initrd.stat().st_mtime >= one.initrd.stat().st_mtime
    monkeypatch.setattr(initrd, "sources", lambda: {"__init__.py": b"", "agent.py": b"x = 2\n"})
    two = image.ensure()
    assert two.initrd != one.initrd
    assert two.manifest["guest"] == one.manifest["guest"]
    base = (two.kernel.parent / "base.cpio").read_bytes()
    data = two.initrd.read_bytes()
    assert data.startswith(base)
    names = {member["name"]: member for member in members(data[len(base) :])}
    assert names["init"]["mode"] == 0o100755
    assert names["dcd/dcdbackend/agent.py"]["data"] == b"x = 2\n"
    assert [name for name in names if name.startswith("dcd/dcdbackend/__pycache__/agent.")]


def test_old_initrds_go(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(initrd.KEPT + 3):
        monkeypatch.setattr(initrd, "sources", lambda number=number: {"agent.py": b"x = %d\n" % number})
        last = image.ensure().initrd
        os.utime(last, (number, number))
    kept = sorted((pretended.home / "initrd").iterdir(), key=lambda path: path.stat().st_mtime)
    assert len(kept) == initrd.KEPT
    assert kept[-1] == last


def test_a_users_own_initrd_gets_the_agent_appended(tmp_path: Path) -> None:
    own = tmp_path / "own.cpio.gz"
    own.write_bytes(gzip.compress(packed(a_tree(tmp_path / "tree"))) + b"odd")
    packed_path = initrd.appended(own, None, silent)
    data = packed_path.read_bytes()
    start = own.stat().st_size + len(archive.padding(own.stat().st_size))
    assert data.startswith(own.read_bytes())
    names = [member["name"] for member in members(data[start:])]
    assert "init" in names
    assert "dcd/dcdbackend/agent/__main__.py" in names
    assert initrd.appended(own, None, silent) == packed_path


# -- one's own parts ----------------------------------------------------------------------------------------------


class Own(TypedDict):
    qemu: str
    kernel: str
    initrd: str


def with_part(own: Own, part: str, value: str) -> image.Parts:
    given = {**own, part: value}
    return image.parts(qemu=str(given["qemu"]), kernel=str(given["kernel"]), initrd=str(given["initrd"]))


@pytest.fixture
def own(tmp_path: Path) -> Own:
    """A program, a file that looks like a bzImage, an archive."""
    program(tmp_path / PROGRAM, "")
    kernel = bytearray(0x300)
    kernel[0x202:0x206] = b"HdrS"
    (tmp_path / "bzImage").write_bytes(kernel)
    (tmp_path / "root.cpio").write_bytes(b"070701")
    return Own(qemu=str(tmp_path / PROGRAM), kernel=str(tmp_path / "bzImage"), initrd=str(tmp_path / "root.cpio"))


def test_all_ones_own_needs_neither_apt_nor_mirror(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    parts = image.parts(**own)
    assert parts.qemu_argv == (own["qemu"],)
    assert parts.qemu_origin == "given"
    assert str(parts.kernel) == own["kernel"]
    assert parts.initrd.read_bytes().startswith(b"070701")
    assert parts.manifest["guest"]["given_kernel"]["path"] == own["kernel"]
    json.dumps(dict(parts.manifest))


def test_flags_come_before_variables(own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "vmlinux"
    other.write_bytes(b"\x7fELF" + bytes(0x300))
    monkeypatch.setenv(image.QEMU, own["qemu"])
    monkeypatch.setenv(image.KERNEL, own["kernel"])
    monkeypatch.setenv(image.INITRD, own["initrd"])
    assert image.parts().kernel == Path(own["kernel"])
    assert image.parts(kernel=str(other)).kernel == other


def test_own_kernel_alone_boots_our_base(pretended: Pretended, own: Own) -> None:
    parts = image.parts(kernel=own["kernel"])
    assert parts.qemu_origin == "private"
    base = product.ensure("guest", refresh=False, progress=silent) / "base.cpio"
    assert parts.initrd.read_bytes().startswith(base.read_bytes())


def test_own_qemu_alone_fetches_no_other(pretended: Pretended, own: Own) -> None:
    image.parts(qemu=own["qemu"])
    assert len(pretended.calls) == 1
    assert "linux-image" in pretended.calls[0]


def test_the_system_qemu(own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    parts = with_part(own, "qemu", "system")
    assert parts.qemu_argv == (own["qemu"],)
    assert parts.qemu_origin == "system"
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CannotRun, match="no qemu-system-x86_64 is installed"):
        with_part(own, "qemu", "system")


@pytest.mark.parametrize("part", ["qemu", "kernel", "initrd"])
def test_a_part_that_is_not_there(part: str, own: Own) -> None:
    with pytest.raises(AskedWrongly, match=f"^{part} '/nonexistent/x' ") as caught:
        with_part(own, part, "/nonexistent/x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["kernel", "initrd"])
def test_a_part_that_is_a_directory(part: str, own: Own, tmp_path: Path) -> None:
    with pytest.raises(AskedWrongly, match="cannot be read"):
        with_part(own, part, str(tmp_path))


def test_a_kernel_that_is_none(own: Own) -> None:
    with pytest.raises(AskedWrongly, match="is no kernel image; give a bzImage"):
        with_part(own, "kernel", own["initrd"])


# -- kernels and their modules ------------------------------------------------------------------------------------


def with_modules(pretended: Pretended) -> None:
    """From now on the packages hold two drivers."""
    place = pretended.place / "modules"
    place.mkdir()
    (place / "cxl_acpi.ko").write_bytes(a_module("cxl_acpi", version="6.12-fake"))
    (place / "kmem.ko").write_bytes(a_module("kmem", version="6.12-fake"))


def names_in(initrd_path: Path, after: int = 0) -> set[str]:
    """The members of the archives in an initrd of ours, one after the other."""
    data, found = initrd_path.read_bytes(), set()
    while after < len(data):
        end = -(-data.index(b"TRAILER!!!", after) // 512) * 512
        found |= {member["name"] for member in members(data[after:end])}
        after = end
    return found


def test_the_guests_kernel_has_its_modules_beside_it(pretended: Pretended) -> None:
    """The drivers go along where the kernel is the host, and only there; base and agent are the same bytes."""
    with_modules(pretended)
    plain, under_test = image.parts(), image.parts(host="kernel")
    assert (plain.host, under_test.host) == ("U", "kernel")
    assert plain.kernel == under_test.kernel
    assert under_test.initrd.read_bytes().startswith(plain.initrd.read_bytes())
    extra = names_in(under_test.initrd) - names_in(plain.initrd)
    assert {"dcd/modules/cxl_acpi.ko", "dcd/modules/kmem.ko", "dcd/modules/modules.dep"} <= extra
    assert "dcd/dcdbackend/agent/kernel.py" in extra
    assert not any("other" in name for name in extra)
    assert under_test.manifest["guest"]["modules"]["names"] == ["cxl_acpi", "kmem"]
    assert "modules" not in plain.manifest["guest"]
    entry = product.ensure("guest", refresh=False, progress=silent)
    assert not list((entry / "tree").rglob("*.ko"))


def test_a_kernel_package(pretended: Pretended, own: Own) -> None:
    """In the cache beside the others, with its configuration; given by its path, it finds its modules."""
    with_modules(pretended)
    built = image.build_kernel("linux-image-amd64/trixie-backports")
    assert "--include=linux-image-amd64,tiny-initramfs" in pretended.calls[-1]
    assert "trixie-backports main" in pretended.calls[-1]
    assert {path.name for path in built.path.iterdir()} == {"vmlinuz", "config", "modules", "manifest.json"}
    assert built.manifest["version"] == "6.12-fake"
    assert {path.name for path in built.path.rglob("*.ko")} == {"cxl_acpi.ko", "kmem.ko"}
    (built.path / "vmlinuz").write_bytes(bz_image(version="6.12-fake"))
    found = image.parts(kernel=str(built.path / "vmlinuz"), host="kernel")
    assert found.manifest["guest"]["modules"]["names"] == ["cxl_acpi", "kmem"]
    assert "dcd/modules/cxl_acpi.ko" in names_in(found.initrd)
    calls = len(pretended.calls)
    assert image.build_kernel("linux-image-amd64/trixie-backports").path == built.path
    assert len(pretended.calls) == calls, "it is there"
    assert image.build_kernel("linux-image-cloud-amd64").path != built.path
    assert [one.kind for one in image.list_images()].count("kernel") == 2
    image.remove()
    assert [one.kind for one in image.list_images()] == []
    assert list((pretended.home / "kernel").iterdir()) == []


@pytest.mark.parametrize("name", ["", "Linux", "-x", "a b", "linux-image;rm", "linux/../x", "linux-image/", "l" * 99])
def test_a_name_that_no_package_has(name: str, pretended: Pretended) -> None:
    with pytest.raises(AskedWrongly, match="give a Debian package, like linux-image-amd64"):
        image.build_kernel(name)
    assert not pretended.calls


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("E: Unable to locate package linux-image-q\n", "has no package linux-image-q in bookworm; name another"),
        (
            "E: The repository 'http://m.test/debian bookworm Release' does not have a Release file.\n",
            "has no bookworm",
        ),
    ],
)
def test_a_package_or_a_suite_that_is_not_there(said: str, told: str, pretended: Pretended) -> None:
    """A suite that was named is not replaced by another."""
    pretended.fails(said)
    with pytest.raises(CannotRun, match=told):
        image.build_kernel("linux-image-q/bookworm")
    assert len(pretended.calls) == 1


def test_a_package_that_is_no_kernel(pretended: Pretended) -> None:
    (pretended.place / "no-kernel").touch()
    with pytest.raises(CannotRun, match="hold 0 kernels"):
        image.build_kernel("busybox")
    assert in_the_cache(pretended.home) == []


def test_ones_own_modules(own: Own, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By flag or variable; with host U they go along, too, but only where they were given."""
    monkeypatch.setattr(initrd, "sources", lambda: {"agent.py": b"x = 1\n"})
    monkeypatch.setattr(initrd, "further", lambda: {"agent/kernel.py": b"y = 1\n"})
    Path(own["kernel"]).write_bytes(bz_image())
    installed = str(modules_directory(tmp_path / "lib/modules"))
    for host in ("kernel", "U"):
        parts = image.parts(**own, modules=installed, host=host)
        assert b"dcd/modules/cxl_pci.ko\0" in parts.initrd.read_bytes()
    assert b"dcd/modules/cxl_pci.ko\0" not in image.parts(**own, host="kernel").initrd.read_bytes()
    monkeypatch.setenv(image.MODULES, installed)
    assert b"dcd/modules/cxl_pci.ko\0" in image.parts(**own, host="kernel").initrd.read_bytes()
    with pytest.raises(AskedWrongly, match=r"modules '/nonexistent/x' is no directory"):
        image.parts(**own, modules="/nonexistent/x")
    with pytest.raises(AskedWrongly, match="host 'v11'; there is U, kernel"):
        image.parts(**own, host="v11")  # type: ignore[arg-type]
