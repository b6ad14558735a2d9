"""`dcd doctor` and `dcd image` on machines that lack one thing each."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from dcdbackend import image, machine
from dcdbackend.cli import run
from dcdbackend.cli.doctor import PACKAGES
from dcdbackend.errors import CannotRun
from dcdbackend.image import mirror
from dcdbackend.image.recipe import load

MIRROR = mirror.Mirror(uri="http://mirror.test/debian/")


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with apt, a mirror that answers, mmdebstrap, and an empty cache."""
    for name in (image.QEMU, image.KERNEL, image.INITRD, "DCD_ACCEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mirror, "find", lambda: MIRROR)
    monkeypatch.setattr(mirror, "silence", lambda found, suite: None)
    has(monkeypatch, *PACKAGES)


def has(monkeypatch: pytest.MonkeyPatch, *programs: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in programs else None)


def told(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], dict[str, dict[str, str]]]:
    """Exit code, the whole, and its rows by name."""
    code = run(["doctor", "--json"])
    whole: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, whole, {row["what"]: row for row in whole["rows"]}


def test_a_machine_that_can(capsys: pytest.CaptureFixture[str]) -> None:
    code, whole, rows = told(capsys)
    assert code == 0
    assert whole["can_run"] is True
    assert whole["next"] == "dcd regress"
    assert whole["needs_root"] == []
    assert rows["apt"]["found"] == "ok"
    assert MIRROR.uri in rows["apt"]["text"]
    assert "first run makes it" in rows["guest image"]["text"]


def test_what_will_be_fetched(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The figures are the recipes' recorded ones, added up; nothing is invented here."""
    _, whole, _ = told(capsys)
    recorded = [load(kind).measured for kind in ("qemu", "guest")]
    assert whole["fetch"] == {
        "what": ["qemu", "guest"],
        "bytes": sum(each.fetch_bytes for each in recorded),
        "disk_bytes": sum(each.disk_bytes for each in recorded),
        "seconds": sum(each.seconds for each in recorded),
        "to": str(tmp_path / "cache/dcdbackend"),
    }
    assert run(["doctor"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"about {sum(each.fetch_bytes for each in recorded) / 1e6:.0f} MB" in text
    assert "next: dcd regress" in text


def test_without_mmdebstrap(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, "sudo")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, whole, rows = told(capsys)
    assert code == 3
    assert whole["needs_root"] == ["apt-get install mmdebstrap"]
    assert whole["next"] == "sudo apt-get install mmdebstrap"
    assert rows["mmdebstrap"]["found"] == "missing"
    assert "root is needed for apt-get install mmdebstrap" in rows["rights"]["text"]
    has(monkeypatch)
    assert told(capsys)[2]["rights"]["found"] == "missing"


def test_without_apt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> mirror.Mirror:
        raise CannotRun("no apt here")

    monkeypatch.setattr(mirror, "find", none)
    code, whole, rows = told(capsys)
    assert code == 3
    assert rows["apt"] == {"what": "apt", "found": "missing", "text": "no apt here"}
    for way in ("--qemu", "--kernel", "--initrd"):
        assert way in whole["next"]


def test_a_mirror_that_does_not_answer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "silence", lambda found, suite: "connection refused")
    code, _, rows = told(capsys)
    assert code == 3
    assert rows["apt"]["text"] == f"the mirror {MIRROR.uri} does not answer: connection refused"


def test_a_full_disk(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000_000))
    code, _, rows = told(capsys)
    assert code == 3
    assert rows["disk"]["found"] == "missing"
    assert "100 MB free" in rows["disk"]["text"]
    assert "XDG_CACHE_HOME" in rows["disk"]["text"]


def test_another_processor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    code, _, rows = told(capsys)
    assert code == 3
    assert "aarch64" in rows["machine"]["text"]


def test_ones_own_parts_need_no_apt(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All three given: neither apt nor a mirror is looked for, and the QEMU is asked what it can."""
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"\x7fELF" + bytes(0x300))
    monkeypatch.setenv(image.QEMU, "mine")
    monkeypatch.setenv(image.KERNEL, str(kernel))
    monkeypatch.setenv(image.INITRD, str(kernel))
    has(monkeypatch, "mine")

    async def asked(argv: tuple[str, ...], **options: Any) -> machine.Qemu:
        assert argv == ("/usr/bin/mine",)
        return machine.Qemu(argv=argv, version="9.9.9", origin=options["origin"], features=frozenset({"dcd", "tcg"}))

    monkeypatch.setattr(machine, "probe_qemu", asked)
    code, whole, rows = told(capsys)
    assert code == 0
    assert "apt" not in rows
    assert whole["fetch"] is None
    assert rows["QEMU"]["text"] == "9.9.9 (given), has Dynamic Capacity"
    assert rows["kvm"]["text"].startswith("tcg: ")


def test_a_qemu_without_dynamic_capacity(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def asked(argv: tuple[str, ...], **options: Any) -> machine.Qemu:
        raise CannotRun("QEMU 7.2.0 has no Dynamic Capacity")

    monkeypatch.setattr(machine, "probe_qemu", asked)
    monkeypatch.setattr(image, "missing", lambda: ())
    monkeypatch.setattr(
        image,
        "parts",
        lambda: image.Parts(
            qemu_argv=("q",), qemu_origin="system", kernel=tmp_path, initrd=tmp_path, manifest={}
        ),
    )  # fmt: skip
    code, _, rows = told(capsys)
    assert code == 3
    assert rows["QEMU"] == {"what": "QEMU", "found": "missing", "text": "QEMU 7.2.0 has no Dynamic Capacity"}


@pytest.mark.parametrize("name", [image.QEMU, image.KERNEL, image.INITRD])
def test_a_part_that_is_not_there(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "/nonexistent/part")
    code, whole, rows = told(capsys)
    assert code == 3
    assert rows[name]["found"] == "missing"
    assert name in whole["next"]


def test_image_list_and_rm_of_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["image", "list"]) == 0
    out = capsys.readouterr().out
    assert "dcd image build" in out
    assert str(tmp_path / "cache/dcdbackend") in out
    assert run(["image", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run(["image", "rm"]) == 0
    assert "removed 0" in capsys.readouterr().out


def test_image_build_that_cannot(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert run(["image", "build"]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith("dcd: ")
