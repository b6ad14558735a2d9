"""`dcd`'s verbs as a user types them, each a process, on two real guests: what they say, and the truth of it.

What the verbs say on every kind of answer is `tests/test_cli_guests.py`'s; the supervisor's own behaviour is
`test_supervisor_vm.py`'s.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dcdbackend.boot import Setup
from dcdbackend.cli import hexdump

pytestmark = pytest.mark.vm

MIB = 1 << 20
TIMEOUT_S = 90.0


class Shell:
    """Commands typed with a state directory of their own."""

    def __init__(self, state: Path) -> None:
        self.environment = {**os.environ, "DCD_GUESTS": str(state / "guests"), "DCD_RUNS": str(state / "runs")}

    def begin(self, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dcdbackend", *argv],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def type(self, *argv: str, code: int = 0) -> str:
        """What a command says on stdout, or the error where it says nothing. Its exit code must be this one."""
        with self.begin(*argv) as process:
            out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == code, f"{argv} ended {process.returncode}: {out}{err}"
        return out or err

    def together(self, *commands: tuple[str, ...]) -> list[str]:
        """What commands say that are typed at once; all succeed."""
        with ExitStack() as stack:
            begun = []
            for argv in commands:
                begun.append((argv, stack.enter_context(self.begin(*argv))))
                stack.callback(begun[-1][1].kill)
            said = []
            for argv, process in begun:
                out, err = process.communicate(timeout=TIMEOUT_S)
                assert process.returncode == 0, f"{argv} ended {process.returncode}: {out}{err}"
                said.append(out)
        return said

    def json(self, *argv: str, code: int = 0) -> Any:
        return json.loads(self.type(*argv, "--json", code=code))


@pytest.fixture(scope="module")
def shell(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A shell with two guests launched, `one` and `two`."""
    found = Shell(tmp_path_factory.mktemp("state"))
    try:
        said = found.type("launch", "one", "two", "--regions", "2", "--size", "512M")
        assert [line.split(":")[0] for line in said.splitlines()] == ["one is ready", "two is ready"]
        yield found
    finally:
        found.type("stop", "--all")
        assert found.json("list") == []


def test_a_session_by_hand(shell: Shell) -> None:
    added = shell.json("add", "one", "64M")
    assert (added["outcome"], added["accepted"]) == ("accepted", [[0, 64 * MIB]])
    assert added["witnesses"]["block"] == [[0, 64 * MIB, "accepted"]]
    chain = shell.json("add", "one", "128M+2M", "132M+2M", "-r", "1")
    base = 256 * MIB
    assert chain["accepted"] == [[base + 128 * MIB, 2 * MIB], [base + 132 * MIB, 2 * MIB]]

    shown, *_ = shell.together(
        ("show", "one"),
        ("write", "one", "0x10", "--text", "by the host", "--via", "host"),
        ("write", "one", "2M", "c0ffee"),
        ("policy", "one", "part", "first=2M"),
    )
    assert "region 0 at 0x0: 64M accepted, 192M free of 256M" in shown
    assert "  ████████████████················" in shown
    assert "region 1 at 0x10000000: 4M accepted, 252M free of 256M" in shown
    dump, loaded = shell.together(
        ("read", "one", "0", "-n", "32"), ("read", "one", "2M", "-n", "3", "--via", "host", "--json")
    )
    assert hexdump.read(dump) == bytes(16) + b"by the host" + bytes(5)
    assert json.loads(loaded)["data"] == "c0ffee"

    said = shell.type("exec", "one", "--", "sh", "-c", "cat /proc/version; exit 7", code=7)
    assert said.startswith("Linux version 6.") and said.count("\n") == 1
    assert "'nosuch' does not start" in shell.type("exec", "one", "nosuch", code=2)

    back = shell.json("release", "one", "--all")
    assert (back["outcome"], back["kept"]) == ("partial", [[2 * MIB, 62 * MIB]])
    told, checked, listed = shell.together(
        ("events", "one"), ("check", "one", "--json"), ("show", "one", "--json", "-d", "mem0")
    )
    assert json.loads(listed)["devices"][0]["list"] == [[2 * MIB, 62 * MIB]]
    assert "the manager offers 0+64M of region 0 -> queued for the host" in told
    assert "the host accepts 0x0+64M -> done" in told
    assert "the host stores 11 bytes at 0x10: " in told
    assert "the host gives back 0x0+2M -> done" in told
    (verdict,) = json.loads(checked).values()
    assert verdict["outcome"] in ("pass", "departure")
    assert verdict["operations"] > 50


def test_a_host_that_says_no(shell: Shell) -> None:
    shell.type("policy", "two", "subset", "first=2M")
    partial = shell.json("add", "two", "8M")
    assert (partial["accepted"], partial["refused"]) == ([[0, 2 * MIB]], [[2 * MIB, 6 * MIB]])
    shell.type("policy", "two", "refuse")
    assert shell.type("add", "two", "2M", "--at", "64M").startswith("refused: 0x4000000+2M")
    refused = shell.type("add", "two", "1+1", code=1)
    assert "dpa or len is not aligned to region block size" in refused
    assert refused.count("\n") == 1


def test_two_shells_at_once_and_one_that_follows(shell: Shell) -> None:
    """Each adds to both guests, while a third follows: every command gets its own answer, none is lost."""
    shell.type("policy", "two", "accept")
    places = [(offset, guest) for offset in (2, 4) for guest in ("one", "two")]
    with shell.begin("events", "one", "--follow") as following:
        try:
            adds = [("add", guest, f"{at}M+2M", "-r", "1", "--timeout", "60", "--json") for at, guest in places]
            for (offset, _), said in zip(places, shell.together(*adds), strict=True):
                assert json.loads(said)["accepted"] == [[(256 + offset) * MIB, 2 * MIB]]
            wanted = [
                text
                for offset in (2, 4)
                for text in (
                    f"the manager offers {offset}M+2M of region 1 -> queued",
                    f"the host accepts {(256 + offset) * MIB:#x}+2M -> done",
                )
            ]
            told = _until(following, *wanted)
            assert [told.count(text) for text in wanted] == [1] * 4
            following.send_signal(signal.SIGINT)
            assert following.wait(TIMEOUT_S) == 0
        finally:
            following.kill()


def _until(process: subprocess.Popen[str], *texts: str) -> str:
    """What it says until it has said all of these."""
    assert process.stdout is not None
    end, told = time.monotonic() + TIMEOUT_S, ""
    while not all(text in told for text in texts):
        line = process.stdout.readline()
        assert line and time.monotonic() < end, told[-2000:]
        told += line
    return told


def test_offers_without_an_answer_are_answered_by_hand(shell: Shell) -> None:
    """An offer left unanswered blocks those after it (DEV-6), till it is settled; an answer to nothing is not sent,
    which would end this QEMU (departure QEMU-empty-answer)."""
    nothing = "no offer on mem0 waits for an answer; nothing was sent"
    assert nothing in shell.type("answer", "two", "refuse", code=2)
    shell.type("policy", "two", "never")
    unanswered = shell.json("add", "two", "4M", "--at", "64M", "--timeout", "0.1", code=4)
    assert unanswered["outcome"] == "unanswered"
    assert unanswered["witnesses"] == {"host": None, "block": [[64 * MIB, 4 * MIB, "pending"]]}
    assert shell.json("add", "two", "96M+2M", "--timeout", "0.1", code=4)["outcome"] == "unanswered"
    taken = shell.json("answer", "two", "accept", "66M+2M")
    assert (taken["outcome"], taken["accepted"], taken["refused"], taken["waiting"]) == (
        "partial",
        [[66 * MIB, 2 * MIB]],
        [[64 * MIB, 2 * MIB]],
        True,
    )
    assert shell.type("answer", "two", "refuse").startswith("refused: 0x6000000+2M")
    assert nothing in shell.type("answer", "two", "refuse", code=2)
    shell.type("policy", "two", "accept")
    assert shell.json("add", "two", "96M+2M")["outcome"] == "accepted"


def test_a_guest_without_a_supervisor_is_told_from_its_record(shell: Shell) -> None:
    shell.type("policy", "two", "never")
    shell.type("add", "two", "4M", "--at", "128M", "--timeout", "0.1", code=4)
    pids = {guest["name"]: guest["pid"] for guest in shell.json("list")}
    assert set(pids) == {"one", "two"}
    os.kill(pids["two"], signal.SIGKILL)
    states = {guest["name"]: guest["state"] for guest in shell.json("list")}
    assert states == {"one": "alive", "two": "dead"}
    assert "guest 'two' is dead: its supervisor was killed" in shell.type("add", "two", "2M", code=4)
    told, shown, console, added = shell.together(
        ("events", "two"), ("show", "two"), ("console", "two"), ("add", "one", "2M", "--at", "128M", "--json")
    )
    assert "the manager offers 128M+4M of region 0 -> queued" in told
    assert "two: dead, QEMU " in shown and "how it died: its supervisor was killed" in shown
    assert "6M accepted, 4M pending, 246M free of 256M" in shown
    assert "Linux version 6." in console
    assert json.loads(added)["outcome"] == "accepted"
    checked = shell.type("check", "two", code=4)
    assert ", 1 clause unknown\n  not known: host mem0 DEV-6.answered\n" in checked
