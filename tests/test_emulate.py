"""`dcd emulate`: a plain QMP client drives it, several hosts and shared regions too; `dcd check` reads the history."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from dcdbackend.checker import check
from dcdbackend.checker.verdict import Verdict
from dcdbackend.cli import run as dcd
from dcdbackend.emulator.arguments import ADD, RELEASE
from dcdbackend.history import History, Op

MIB = 1 << 20
TAG = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"


class Plain:
    """A client of QEMU's monitor that knows no more than JSON."""

    def __init__(self, connection: socket.socket, lines: BinaryIO) -> None:
        self._connection = connection
        self._lines = lines
        self._reply()
        assert self.ask("qmp_capabilities") == {}

    def ask(self, command: str, **arguments: Any) -> Any:
        """What it returns, or the words of its error; None when the other end is gone."""
        self._connection.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        reply = self._reply()
        if reply is None:
            return None
        return reply["error"]["desc"] if "error" in reply else reply["return"]

    def add(self, *extents: tuple[int, int], device: str = "mem0", **more: Any) -> Any:
        return self._manage(ADD, "selection-policy", extents, device, more)

    def release(self, *extents: tuple[int, int], device: str = "mem0", **more: Any) -> Any:
        return self._manage(RELEASE, "removal-policy", extents, device, more)

    def _manage(self, command: str, policy: str, extents: Any, device: str, more: dict[str, Any]) -> Any:
        given = {
            "path": f"/machine/peripheral/{device}", "host-id": 0, "region": 0, policy: "prescriptive",
            "extents": [{"offset": offset, "len": length} for offset, length in extents],
        }  # fmt: skip
        return self.ask(command, **{**given, **{name.replace("_", "-"): value for name, value in more.items()}})

    def _reply(self) -> Any:
        """The next message that is no event."""
        while line := self._lines.readline():
            message = json.loads(line)
            if "event" not in message:
                return message
        return None


@contextmanager
def emulated(tmp_path: Path, *options: str, code: int = 0) -> Iterator[Plain]:
    """`dcd emulate` in a process of its own, and a client of it; it must end with that code."""
    path = tmp_path / "qmp"
    argv = [sys.executable, "-m", "dcdbackend", "emulate", "--socket", str(path), *options]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr is not None
            while "QMP at" not in (line := process.stderr.readline()):
                assert line, "it ended before it served"
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                connection.connect(str(path))
                with connection.makefile("rb") as lines:
                    client = Plain(connection, lines)
                    yield client
                    if not code:
                        assert client.ask("quit") == {}
            assert process.wait(10) == code, process.stderr.read()
        finally:
            process.kill()


def recorded(path: Path) -> tuple[History, list[Op], Verdict]:
    with path.open("rb") as file:
        history = History(file)
        ops = list(history)
    with path.open("rb") as file:
        return history, ops, check(History(file))


def until_taken(client: Plain, offset: int, **more: Any) -> None:
    """Until the block there is accepted, as QEMU's monitor tells it: an add over it is refused in those words."""
    end = time.monotonic() + 10
    while "already accessible" not in str(client.add((offset, 2 * MIB), (0, 0), **more)):
        assert time.monotonic() < end, "nobody answered"
        time.sleep(0.01)


def test_what_a_plain_client_does_is_a_history_that_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "history.jsonl"
    with emulated(tmp_path, "--devices", "2", "--static", "256M", "--history", str(path)) as client:
        assert client.add((0, 4 * MIB), (8 * MIB, 2 * MIB)) == {}
        until_taken(client, 0)
        assert "beyond the region end" in client.add((1 << 40, 2 * MIB), device="mem1")
        assert client.release((0, 2 * MIB)) == {}
        assert client.add((0, 2 * MIB), device="mem1") == {}
        until_taken(client, 0, device="mem1")
        assert client.ask("system_reset") == {}
        assert "Unable to resolve" in client.add((0, 2 * MIB), device="mem7")  # of no device: in no history
    history, ops, verdict = recorded(path)
    assert (history.header.backend, history.header.scenario) == ("emulator", "emulate")
    assert history.header.devices[0]["regions"][0]["base"] == 256 * MIB
    assert verdict.outcome != "fail" and not verdict.warnings
    assert verdict.of("DEV-4.whole").passed and verdict.of("DEV-7.rest").passed + verdict.of("DEV-6.inside").passed
    assert verdict.of("DEV-2.inside").passed
    managed = [op for op in ops if op.process == "manager" and op.type == "invoke"]
    assert {op.value["device"] for op in managed} == {"mem0", "mem1"}
    assert [op.f for op in ops if op.type == "ok" and op.f in ("release", "reset")] == ["release", "reset", "reset"]
    assert dcd(["check", str(path)]) in (0, 4)
    assert "emulate: " in capsys.readouterr().out


def test_several_hosts_share_what_they_are_told_to(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    options = ("--hosts", "2", "--sharable", "1", "--seed", "3", "--history", str(path))
    with emulated(tmp_path, *options) as client:
        assert client.add((0, 4 * MIB), region=1, tag=TAG) == {}
        until_taken(client, 0, region=1)
        shared: dict[str, Any] = {"region": 1, "tag": TAG, "host_id": 1, "selection_policy": "enable-shared-access"}
        assert client.add((0, 4 * MIB), **shared) == {}
        until_taken(client, 0, region=1, host_id=1)
        assert client.add((0, 2 * MIB), host_id=7) != {}
    history, ops, verdict = recorded(path)
    (device,) = history.header.devices
    assert device["hosts"] == [0, 1] and [one.get("sharable") for one in device["regions"]] == [None, True]
    answers = [op.value.get("host_id", 0) for op in ops if op.f == "answer" and op.type == "invoke"]
    assert sorted(answers) == [0, 1]
    assert not verdict.failed
    assert all(verdict.of(clause).passed for clause in ("DEV-13.shared", "DEV-15.one-tag", "DEV-15.sequence"))


def test_a_host_that_breaks_a_rule_is_convicted_from_that_history(tmp_path: Path) -> None:
    """The judge reads it: with one line of it changed, the same history is no longer good."""
    path = tmp_path / "history.jsonl"
    with emulated(tmp_path, "--history", str(path)) as client:
        assert client.add((0, 4 * MIB)) == {}
        until_taken(client, 0)
    history, ops, verdict = recorded(path)
    assert not verdict.failed and verdict.of("DEV-6.inside").passed == 1
    other = {"ranges": [[64 * MIB, 2 * MIB]]}
    answers = {op.n for op in ops if op.f == "answer" and op.type == "invoke"}
    wrong = [op._replace(value={**op.value, **other}) if op.n in answers else op for op in ops]
    assert "DEV-6.inside" in {found.clause for found in check(wrong, history.header).failed}


def test_a_device_that_dies_is_dead_in_the_history_too(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with emulated(tmp_path, "--as", "qemu-11.1.3", "--history", str(path), code=4) as client:
        assert client.add(((1 << 64) - 2 * MIB, 2 * MIB)) is None
    _, ops, verdict = recorded(path)
    ended = [(op.f, op.type) for op in ops if op.f != "events"]
    assert ended == [("add", "invoke"), ("add", "info"), ("gone", "invoke"), ("gone", "ok")]
    assert "QEMU-qmp-wraps" in verdict.departures and not verdict.failed


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--hosts", "9"), 2, "9 hosts; a device serves 1 to 8"),
        (("--sharable", "3"), 2, "3 sharable regions; give 0 to 2"),
        (("--hosts", "2", "--as", "qemu-11.1.3"), 2, "no QEMU has several hosts"),
        (("--hosts", "2", "--host", "v11"), 2, "simulated more than once"),
        (("--history", "/proc/nowhere/history.jsonl"), 3, "cannot write the history"),
    ],
)
def test_what_cannot_be_is_one_line(
    options: tuple[str, ...], code: int, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dcd(["emulate", "--socket", str(tmp_path / "s"), *options]) == code
    told = capsys.readouterr().err
    assert text in told and "Traceback" not in told
    assert not (tmp_path / "s").exists()


def test_sharing_and_removal_by_tag_need_no_extents(tmp_path: Path) -> None:
    """The tag says which: a client that names none besides gets what it asks for, and the judge has nothing to say."""
    path = tmp_path / "history.jsonl"
    shared: dict[str, Any] = {"selection_policy": "enable-shared-access", "region": 1, "tag": TAG}
    by_tag: dict[str, Any] = {"removal_policy": "tag-based", "region": 1, "tag": TAG, "host_id": 1}
    with emulated(tmp_path, "--hosts", "2", "--sharable", "1", "--history", str(path)) as client:
        assert client.add((0, 4 * MIB), region=1, tag=TAG) == {}
        assert client.add(host_id=1, **{**shared, "tag": "ab" * 16}) != {}
        assert client.add(host_id=1, **shared) == {}
        until_taken(client, 0, region=1, host_id=1)
        assert client.release(**{**by_tag, "tag": "ab" * 16}) != {}
        assert client.release(forced_removal=True, **by_tag) == {}
        assert "accessible" not in client.add((0, 2 * MIB), (0, 0), region=1, host_id=1)
        assert client.add(selection_policy="free") != {}
    _, _, verdict = recorded(path)
    assert not verdict.failed, verdict.failed
    assert verdict.of("DEV-13.shared").passed
