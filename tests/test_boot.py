"""What is booted, as a value: who answers, and what that makes of a setup. Boots are in tests/vm."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dcdbackend import machine
from dcdbackend.boot import KERNEL, Setup
from dcdbackend.cli import run
from dcdbackend.cli.regress import _answers
from dcdbackend.errors import AskedWrongly
from dcdbackend.topology import expected_regions

QEMU = machine.Qemu(argv=("q",), version="11.1.3", origin="given", features=frozenset({"dcd", "tcg", "switch-cci"}))
SETUP = Setup(qemu=QEMU, accel="tcg", kernel=Path("/k"), initrd=Path("/i"))


def test_a_kernel_under_test_is_offered_and_not_scripted() -> None:
    under_test = replace(SETUP, host="kernel", kind="switch")
    assert KERNEL in under_test.offers
    assert "fm" in under_test.offers
    assert not under_test.scripted
    assert "kernel under test" in under_test.label
    back = replace(under_test, host="U")
    assert KERNEL not in back.offers
    assert back.scripted


def test_its_devices_are_the_topologys(tmp_path: Path) -> None:
    """Nobody but its drivers asks the device: the header says what QEMU was told to make."""
    setup = replace(SETUP, host="kernel", append="a.b=c", shape={"regions": 2, "size": "1G", "static": "256M"})
    guest = setup.guest(setup.topology(), tmp_path / "guest")
    (device,) = guest.devices()
    assert (device["name"], device["serial"]) == ("mem0", 0x1234)
    spec = setup.topology().device("mem0")
    assert [region["base"] for region in device["regions"]] == [region.base for region in expected_regions(spec)]
    assert device["regions"][0]["base"] == 256 << 20
    words = guest.argv[guest.argv.index("-append") + 1].split()
    assert "DCD_AGENT_KERNEL=1" in words
    assert words[-1] == "a.b=c"


@pytest.mark.parametrize(
    ("host", "kernel", "answers"),
    [
        (None, None, "U"),
        (None, "bzImage", "kernel"),
        ("U", "bzImage", "U"),
        ("U", None, "U"),
        ("kernel", None, "kernel"),
        ("kernel", "bzImage", "kernel"),
    ],
)
def test_a_kernel_that_is_named_is_there_to_be_tested(host: str | None, kernel: str | None, answers: str) -> None:
    assert _answers(host, kernel) == answers


@pytest.mark.parametrize(("host", "told"), [("v11", "say --backend emulator"), ("x", "'x' is not known")])
def test_hosts_that_no_guest_has(host: str, told: str) -> None:
    with pytest.raises(AskedWrongly, match=f"{told}.*in a guest there is U, kernel"):
        _answers(host, None)


def test_modules_are_no_matter_of_the_emulator(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["regress", "--backend", "emulator", "--modules", "/lib/modules/x", "-s", "add"]) == 2
    assert "--modules and --backend emulator, which boots nothing" in capsys.readouterr().err
