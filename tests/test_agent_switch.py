"""The agent's hands on a switch's mailbox: taken by its class whatever has the memory devices, one command a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agent_fakes import config_space, locator

from dcdbackend.agent import switch
from dcdbackend.agent.control import Control
from dcdbackend.agent.registers import Mapped

PAYLOAD_AT = 0x20
MAILBOX = 0x88


class Answering(Mapped):
    """A mailbox over a mapped file that answers each doorbell: return code 2, and the payload backwards."""

    def write4(self, offset: int, value: int, /) -> None:
        if offset != MAILBOX + 4:
            super().write4(offset, value)
            return
        length = self.read8(MAILBOX + 8) >> 16 & 0x1FFFFF
        payload = self.read_block(MAILBOX + PAYLOAD_AT, length) if length else b""
        self.write_block(MAILBOX + PAYLOAD_AT, payload[::-1])
        self.write8(MAILBOX + 0x10, 2 << 32)


class Port:
    """What `Control` says, kept."""

    def __init__(self) -> None:
        self.said: list[bytes] = []

    def put(self, kind: int, body: bytes) -> None:
        self.said.append(body)


def machine(root: Path, address: str = "0000:0d:00.1", *, kind: int = 3, capabilities: bool = True) -> Path:
    """A tree with one switch mailbox, and a memory device that a kernel driver has."""
    devices = root / "sys/bus/pci/devices"
    devices.mkdir(parents=True, exist_ok=True)
    for name, code in ((address, 0x0C0B00), ("0000:0f:00.0", 0x050210)):
        place = root / "sys/devices/pci0000:0c" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "class").write_text(f"0x{code:06x}\n")
        (place / "config").write_bytes(config_space(locator=locator((kind, 0, 0))))
        (place / "enable").write_text("0\n")
        if not (devices / name).exists():
            (devices / name).symlink_to(place)
    block = bytearray(0x1000)
    registers = Mapped(block)
    ids = (1, 2) if capabilities else (1, 0x4000)
    registers.write8(0, 1 << 16 | len(ids) << 32)
    for index, (found, offset) in enumerate(zip(ids, (0x80, MAILBOX), strict=True)):
        registers.write8(0x10 + 0x10 * index, found | 1 << 16 | offset << 32)
    registers.write4(MAILBOX, 11)
    switch_place = root / "sys/devices/pci0000:0c" / address
    (switch_place / "resource0").write_bytes(bytes(block))
    drivers = root / "sys/bus/pci/drivers/cxl_pci"
    drivers.mkdir(parents=True, exist_ok=True)
    memory = root / "sys/devices/pci0000:0c/0000:0f:00.0/driver"
    if not memory.exists():
        memory.symlink_to(drivers)
    return switch_place


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Control:
    monkeypatch.setattr(switch, "Mapped", Answering)
    machine(tmp_path)
    return Control(Port(), {}, str(tmp_path))  # type: ignore[arg-type]  # nothing else of a port is used here


def ask(control: Control, **request: Any) -> dict[str, Any]:
    control.handle(json.dumps({"id": 1, "do": "fm", **request}).encode())
    said: dict[str, Any] = json.loads(control._port.said[-1])  # type: ignore[attr-defined]
    return said


def test_a_command_goes_as_bytes_and_comes_back_as_bytes_while_a_driver_has_the_memory_device(control: Control) -> None:
    assert ask(control)["switches"] == [{"pci": "0000:0d:00.1", "payload_size": 2048}]
    said = ask(control, opcode=0x5300, payload="0102030405")
    assert (said["ok"], said["rc"], said["payload"]) == (True, 2, "0504030201")
    assert ask(control, opcode=0x0001)["payload"] == ""
    assert control.watched == {}


def test_enabling_is_the_only_thing_that_is_written(control: Control, tmp_path: Path) -> None:
    ask(control)
    assert (tmp_path / "sys/devices/pci0000:0c/0000:0d:00.1/enable").read_text().strip() == "1"
    assert (tmp_path / "sys/devices/pci0000:0c/0000:0f:00.0/enable").read_text().strip() == "0"


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"opcode": -1}, "give a number of 16 bits"),
        ({"opcode": 0x10000}, "give a number of 16 bits"),
        ({"opcode": "1"}, "give a number of 16 bits"),
        ({"opcode": 1, "payload": "0g"}, "give hex digits"),
        ({"opcode": 1, "payload": "00" * 2049}, "takes 16 bits and 2048 bytes"),
        ({"opcode": 1, "switch": 1}, "the guest sees 1 switch mailboxes"),
        ({"opcode": 1, "switch": -1}, "the guest sees 1 switch mailboxes"),
        ({"opcode": 1, "switch": True}, "the guest sees 1 switch mailboxes"),
    ],
)
def test_bad_requests_are_answered_and_nothing_is_rung(control: Control, request_: dict[str, Any], told: str) -> None:
    said = ask(control, **request_)
    assert said["ok"] is False and said["kind"] == "AskedWrongly" and told in said["error"]


def test_a_mailbox_that_is_not_there_any_more_is_told(control: Control, tmp_path: Path) -> None:
    ask(control)
    place = tmp_path / "sys/devices/pci0000:0c/0000:0d:00.1"
    with (place / "resource0").open("r+b") as file:
        file.seek(MAILBOX)
        file.write(b"\xff\xff\xff\xff")
    said = ask(control, opcode=1)
    assert said["kind"] == "OutcomeUnknown"
    assert "0000:0d:00.1 is gone: its capabilities read 0xffffffff, and were 0xb" in said["error"]


def test_it_can_be_made_to_vanish(control: Control, tmp_path: Path) -> None:
    place = tmp_path / "sys/devices/pci0000:0c/0000:0d:00.1"
    with (place / "config").open("r+b") as file:
        file.seek(4)
        file.write(b"\x07\x01")
    ask(control)
    control.handle(b'{"id": 2, "do": "provoke", "what": "switch"}')
    assert (place / "config").read_bytes()[4:6] == b"\x05\x01"


def test_no_switch_is_no_error_until_one_is_asked_for(tmp_path: Path) -> None:
    control = Control(Port(), {}, str(tmp_path))  # type: ignore[arg-type]
    assert ask(control)["switches"] == []
    assert "the guest sees 0 switch mailboxes" in ask(control, opcode=1)["error"]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"kind": 1}, "names no device registers"),
        ({"capabilities": False}, "has no mailbox registers"),
        ({"driver": True}, "is driven by vendor_cci; boot without that module"),
    ],
)
def test_a_mailbox_that_cannot_be_taken(tmp_path: Path, fault: dict[str, Any], told: str) -> None:
    driver = fault.pop("driver", False)
    place = machine(tmp_path, **fault)
    if driver:
        (tmp_path / "vendor_cci").mkdir()
        (place / "driver").symlink_to(tmp_path / "vendor_cci")
    said = ask(Control(Port(), {}, str(tmp_path)))  # type: ignore[arg-type]
    assert said["ok"] is False and told in said["error"]
