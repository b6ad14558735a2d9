"""The agent on fakes: registers, mailbox, window, port, host U, its judge. What QEMU does is in vm/test_agent_vm.py."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import construct
import crcmod
import jsonschema
import pytest
from agent_fakes import (
    CLOSE,
    MIB,
    PAYLOAD_SIZE,
    QEMU_CEDT,
    SERIAL,
    Bench,
    Controller,
    FakeDcd,
    Pipe,
    config_space,
    device_of,
    locator,
)
from golden import vectors
from hypothesis import given, settings
from hypothesis import strategies as st

import dcdbackend
from dcdbackend import history, link
from dcdbackend.agent import __main__ as program
from dcdbackend.agent import commands, device, pci, policy, registers, sysfs, window
from dcdbackend.agent.journal import Journal, compact
from dcdbackend.agent.judge import merge
from dcdbackend.agent.mailbox import Mailbox
from dcdbackend.agent.policy import ADD, BREAKS, RELEASE, Hands, Region, Step
from dcdbackend.agent.port import Port, VirtioPort, find_port
from dcdbackend.agent.registers import Mapped
from dcdbackend.agent.window import Decoder, FixedWindow
from dcdbackend.errors import AnsweredWrongly, AskedWrongly, CannotRun, LinkLost, TimedOut
from dcdbackend.rules import CLAUSES

pytestmark = pytest.mark.usefixtures("closed")

BLOCK = 2 * MIB
GIB = 1 << 30


@pytest.fixture
def closed() -> Iterator[None]:
    """Closes what the fakes have opened."""
    yield
    while CLOSE:
        CLOSE.pop()()


# -- configuration space ---------------------------------------------------------------------------------------------


def test_serial_number_is_found_behind_other_capabilities() -> None:
    space = config_space((1, bytes(8)), (0x23, bytes(16)), serial=0x1122334455667788)
    assert pci.serial_number(space) == 0x1122334455667788
    assert [c.id for c in pci.extended_capabilities(space)] == [1, 0x23, 3]


@pytest.mark.parametrize("space", [config_space(serial=None), bytes(4096), b"\xff" * 4096])
def test_no_serial_number(space: bytes) -> None:
    assert pci.serial_number(space) is None


def test_a_capability_chain_in_a_circle_ends() -> None:
    space = bytearray(config_space((1, bytes(8)), serial=None))
    space[0x100:0x104] = (1 | 1 << 16 | 0x100 << 20).to_bytes(4, "little")
    with pytest.raises(AnsweredWrongly, match="circle"):
        pci.extended_capabilities(bytes(space))


@pytest.mark.parametrize("after", [0x40, 0x102, 0xFFE])
def test_a_capability_that_points_outside(after: int) -> None:
    space = bytearray(config_space((1, bytes(8)), serial=None))
    space[0x100:0x104] = (1 | 1 << 16 | after << 20).to_bytes(4, "little")
    with pytest.raises(AnsweredWrongly, match="outside"):
        pci.extended_capabilities(bytes(space))


def test_register_locator() -> None:
    space = config_space(locator=locator((1, 0, 0), (3, 2, 0x10000), (0, 0, 0)))
    assert pci.located_registers(space) == (pci.Located(1, 0, 0), pci.Located(3, 2, 0x10000))


@pytest.mark.parametrize("length", [4, 13, 4000])
def test_register_locator_with_a_lying_length(length: int) -> None:
    with pytest.raises(AnsweredWrongly, match="Register Locator"):
        pci.located_registers(config_space(locator=locator((1, 0, 0), length=length)))


# -- a recorded machine ----------------------------------------------------------------------------------------------


def port_space(number: int, *, locator: bytes | None = None) -> bytes:
    """The configuration space of a port with that number: power management at 40h, PCI Express at 50h."""
    space = bytearray(config_space(serial=None, locator=locator))
    space[0x34] = 0x40
    space[0x40:0x42] = bytes((1, 0x50))
    space[0x50:0x52] = bytes((0x10, 0))
    space[0x5C:0x60] = (number << 24 | 0x123456).to_bytes(4, "little")
    return bytes(space)


def ports_block() -> bytearray:
    """The component registers of an upstream port with four decoders."""
    memory = bytearray(0x10000)
    for at, value in ((0x1000, 1 | 1 << 16 | 1 << 20 | 1 << 24), (0x1004, 5 | 1 << 16 | 0x200 << 20), (0x1200, 2)):
        memory[at : at + 4] = value.to_bytes(4, "little")
    return memory


def test_the_number_of_a_port() -> None:
    assert pci.port_number(port_space(0)) == 0 and pci.port_number(port_space(255)) == 255


@pytest.mark.parametrize(("at", "value"), [(0x34, 0), (0x41, 0), (0x41, 0x40), (0x41, 0x3C), (0x41, 0xFC)])
def test_a_port_without_a_number(at: int, value: int) -> None:
    """No capabilities; none of PCI Express; a circle; a pointer into the header; one cut by the end."""
    space = bytearray(port_space(3))
    space[at] = value
    space[0xFC] = 0x10
    with pytest.raises(AnsweredWrongly, match="has no number"):
        pci.port_number(bytes(space))


def machine(
    root: Path,
    *,
    driver: str | None = None,
    serial: int | None = SERIAL,
    ports: int = 1,
    switch: bool = False,
    deeper: bool = False,
) -> Path:
    """A tree like sysfs on the `direct` topology, as far as taking a device looks before it maps anything."""
    bridge = root / "sys/devices/pci0000:0c"
    place = bridge / "0000:0c:00.0" / ("0000:0d:00.0/0000:0e:00.0/0000:0f:00.0" if switch else "0000:0d:00.0")
    place = place / "0000:10:00.0" if deeper else place
    place.mkdir(parents=True)
    if switch:  # the upstream port, whose driver has enabled it, and the downstream port, of number 5
        upstream, downstream = bridge / "0000:0c:00.0/0000:0d:00.0", bridge / "0000:0c:00.0/0000:0d:00.0/0000:0e:00.0"
        for port in (upstream, downstream):
            (port / "class").write_text("0x060400\n")
            (port / "config").write_bytes(port_space(5, locator=locator((1, 0, 0))))
        (root / "sys/bus/pci/drivers/pcieport").mkdir(parents=True)
        (upstream / "driver").symlink_to(root / "sys/bus/pci/drivers/pcieport")
        (upstream / "enable").write_text("by its driver\n")
        (upstream / "resource0").write_bytes(bytes(ports_block()))
    (root / "sys/devices/acpi").mkdir()
    (root / "sys/devices/acpi/uid").write_text("12\n")
    (bridge / "firmware_node").symlink_to("../acpi")
    for index in range(ports):
        port = bridge / f"0000:0c:0{index}.0"
        port.mkdir(exist_ok=True)
        (port / "class").write_text("0x060400\n")
    (place / "class").write_text("0x050210\n")
    (place / "config").write_bytes(config_space(serial=serial, locator=locator((1, 0, 0), (3, 2, 0))))
    (place / "enable").write_text("0\n")
    devices = root / "sys/bus/pci/devices"
    devices.mkdir(parents=True)
    (devices / place.name).symlink_to(place)
    if driver:
        drivers = root / "sys/bus/pci/drivers" / driver
        drivers.mkdir(parents=True)
        (drivers / "unbind").write_text("")
        (place / "driver").symlink_to(drivers)
    tables = root / "sys/firmware/acpi/tables"
    tables.mkdir(parents=True)
    (tables / "CEDT").write_bytes(QEMU_CEDT)
    return place


def refusal(root: Path, **how: Any) -> str:
    (function,) = pci.functions(str(root), pci.CLASS_MEMORY_DEVICE)
    with pytest.raises(CannotRun) as error:
        device.take(str(root), device.look(function), window.read_cedt(str(root)), **how)
    return str(error.value)


def test_a_device_that_a_driver_has_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    machine(tmp_path, driver="cxl_pci")
    assert "driven by cxl_pci" in refusal(tmp_path) and "--unbind" in refusal(tmp_path)


def test_a_driver_is_unbound_only_when_told(tmp_path: Path) -> None:
    place = machine(tmp_path, driver="cxl_pci")
    refusal(tmp_path)
    assert (place / "driver/unbind").read_text() == ""
    refusal(tmp_path, unbind=True)  # it gets as far as the BARs, which this tree lacks
    assert (place / "driver/unbind").read_text() == place.name
    assert (place / "enable").read_text().startswith("1")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"serial": None}, "serial number"),
        ({"ports": 2}, "2 root ports"),
        ({"deeper": True}, "0000:0c:00.0 0000:0d:00.0; a root port, or a root port and one level of switches"),
        ({"switch": True, "deeper": True}, "one level of switches, is supported"),
    ],
)
def test_places_that_are_not_supported(tmp_path: Path, how: dict[str, Any], says: str) -> None:
    machine(tmp_path, **how)
    message = refusal(tmp_path)
    assert says in message and "\n" not in message


def test_a_bar_that_cannot_be_mapped(tmp_path: Path) -> None:
    machine(tmp_path)
    assert "iomem=relaxed" in refusal(tmp_path)


def test_the_host_bridge_above_a_device(tmp_path: Path) -> None:
    machine(tmp_path)
    (function,) = pci.functions(str(tmp_path), pci.CLASS_MEMORY_DEVICE)
    bridge = pci.host_bridge(function)
    assert (bridge.uid, bridge.root_ports) == (12, ("0000:0c:00.0",))
    assert pci.path_below(bridge, function) == ("0000:0c:00.0", "0000:0d:00.0")


def test_the_ports_between_a_host_bridge_and_a_device_behind_a_switch(tmp_path: Path) -> None:
    machine(tmp_path, switch=True)
    (function,) = pci.functions(str(tmp_path), pci.CLASS_MEMORY_DEVICE)
    bridge, switch = device._place(function)
    assert bridge.uid == 12 and switch is not None
    assert (switch.upstream.address, switch.upstream.class_code, switch.port) == ("0000:0d:00.0", 0x060400, 5)
    window_ = FixedWindow(0x4D0000000, 4 * GIB, (12,), 0x2F)
    with pytest.raises(TimedOut, match="decoder 0 of the upstream port does not commit"):
        device._route(switch, window_, GIB)  # registers in a file never commit
    block = Mapped(bytearray((Path(switch.upstream.path) / "resource0").read_bytes()))
    assert [block.read4(at) for at in (0x1210, 0x1214, 0x1218, 0x1224)] == [0xD0000000, 4, 0x40000000, 5]
    assert (Path(switch.upstream.path) / "enable").read_text() == "by its driver\n"
    block.write4(0x1220, 1 << 9 | 1 << 10 | 1 << 12)
    (Path(switch.upstream.path) / "resource0").write_bytes(block.read_block(0, 0x10000))
    assert device._route(switch, window_, GIB) == FixedWindow(0x4D0000000, GIB, (12,), 0x2F)


def test_survey_reports_what_cannot_be_taken_and_goes_on(tmp_path: Path) -> None:
    machine(tmp_path, driver="cxl_pci")
    ready, taken = program.survey(program.Options(root=str(tmp_path)))
    assert taken == {} and ready["window"] is None
    assert isinstance(ready["devices"], list)
    shown = ready["devices"][0]
    assert (shown["serial"], shown["pci"]) == (SERIAL, "0000:0d:00.0") and "cxl_pci" in shown["error"]


def test_survey_reports_a_device_whose_configuration_space_lies(tmp_path: Path) -> None:
    place = machine(tmp_path)
    space = bytearray(config_space((1, bytes(8))))
    space[0x100:0x104] = (1 | 1 << 16 | 0x100 << 20).to_bytes(4, "little")
    (place / "config").write_bytes(space)
    ready, taken = program.survey(program.Options(root=str(tmp_path)))
    assert taken == {} and isinstance(ready["devices"], list)
    assert ready["devices"][0]["pci"] == place.name and "circle" in ready["devices"][0]["error"]
    (place / "config").write_bytes(bytes(256))
    ready, _ = program.survey(program.Options(root=str(tmp_path)))
    assert isinstance(ready["devices"], list) and "256 of 4096 bytes" in ready["devices"][0]["error"]


def test_a_machine_without_cxl(tmp_path: Path) -> None:
    ready, taken = program.survey(program.Options(root=str(tmp_path)))
    assert (ready["devices"], taken) == ([], {}) and "CEDT" in str(ready["error"])


def test_small_files(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0x10\n")
    assert sysfs.read_number(f"{tmp_path}/number") == 16
    (tmp_path / "word").write_text("abc\n")
    with pytest.raises(CannotRun, match="'abc' where a number belongs"):
        sysfs.read_number(f"{tmp_path}/word")
    with pytest.raises(CannotRun, match="No such file"):
        sysfs.read_text(f"{tmp_path}/none")
    with pytest.raises(CannotRun, match="cannot be written"):
        sysfs.write_text(f"{tmp_path}/none/none", "1")
    assert sysfs.names(f"{tmp_path}/none") == [] and sysfs.target(f"{tmp_path}/none") is None
    with pytest.raises(CannotRun, match="cannot be listed"):
        sysfs.names(f"{tmp_path}/word")


# -- registers -------------------------------------------------------------------------------------------------------


def test_mapped_registers() -> None:
    memory = bytearray(range(64))
    block = Mapped(memory, offset=8, size=48)
    assert block.read4(4) == int.from_bytes(memory[12:16], "little")
    assert block.read8(8) == int.from_bytes(memory[16:24], "little")
    block.write4(0, 0x11223344)
    block.write8(8, 0x1122334455667788)
    assert memory[8:12] == bytes.fromhex("44332211") and memory[16:24] == bytes.fromhex("8877665544332211")
    assert block.read_block(8, 11) == bytes(memory[16:27])
    block.write_block(24, b"abcdefghij")
    assert memory[32:48] == b"abcdefghij" + bytes(6)


@pytest.mark.parametrize(("offset", "size"), [(4, 16), (0, 72), (64, None), (-8, 16)])
def test_a_block_outside_its_memory(offset: int, size: int | None) -> None:
    with pytest.raises(AnsweredWrongly, match="does not lie"):
        Mapped(bytearray(64), offset=offset, size=size)


def test_device_capabilities() -> None:
    found = registers.device_capabilities(FakeDcd())
    assert {kind: (c.offset, c.length) for kind, c in found.items()} == {
        1: (0x80, 8),
        2: (0x88, 0x20 + PAYLOAD_SIZE),
        0x4000: (0x8A8, 8),
    }


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, 5 | 3 << 32, "not with the capabilities array"),
        (0, 0, "0 device capabilities"),
        (0, 1 << 16 | 300 << 32, "300 device capabilities"),
        (0x10, 1 | 0x2000 << 32, "does not lie"),
        (0x18, 0xFFFFFFFF, "does not lie"),
    ],
)
def test_device_capabilities_that_lie(at: int, value: int, says: str) -> None:
    fake = FakeDcd()
    fake.write8(at, value)
    with pytest.raises(AnsweredWrongly, match=says):
        registers.device_capabilities(fake)


def component(decoders: int = 1, *, head: int = 1) -> Mapped:
    """Component registers with an HDM decoder capability at 1200h."""
    block = Mapped(bytearray(0x10000))
    block.write4(0x1000, head | 1 << 16 | 1 << 20 | 2 << 24)
    block.write4(0x1004, 2 | 1 << 16 | 0x100 << 20)
    block.write4(0x1008, 5 | 1 << 16 | 0x200 << 20)
    block.write4(0x1200, {1: 0, 2: 1, 4: 2}[decoders])
    return block


def test_component_capabilities() -> None:
    found = registers.component_capabilities(component())
    assert found[registers.HDM_DECODER].offset == 0x1200 and set(found) == {2, 5}
    with pytest.raises(AnsweredWrongly, match="not 1"):
        registers.component_capabilities(component(head=7))
    with pytest.raises(AnsweredWrongly, match="component registers of 64 bytes"):
        registers.component_capabilities(Mapped(bytearray(64)))


# -- mailbox ---------------------------------------------------------------------------------------------------------


def mailbox(*faults: str) -> tuple[FakeDcd, Mailbox]:
    fake = FakeDcd(faults=frozenset(faults))
    return fake, Mailbox(fake, 0x88, timeout_s=0.05)


def test_a_command_and_its_reply() -> None:
    fake, box = mailbox()
    assert box.payload_size == PAYLOAD_SIZE
    captured = vectors("device mailbox")["identify memory device"]
    assert box.command(0x4000) == (0, captured.response)
    assert box.command(0x48FF) == (3, b"")
    assert fake.commands == [(0x4000, b""), (0x48FF, b"")]


@given(payload=st.binary(max_size=PAYLOAD_SIZE))
@settings(max_examples=50, deadline=None)
def test_what_is_loaded_is_read_back_and_nothing_has_happened_yet(payload: bytes) -> None:
    fake, box = mailbox()
    assert box.load(0x1234, payload) == (0x1234, payload)
    assert fake.commands == []
    box.ring()
    assert fake.commands == [(0x1234, payload)]


def test_what_is_read_back_is_what_the_registers_hold_not_what_was_meant() -> None:
    _, box = mailbox("payload-flips")
    sent = box.load(0x4802, bytes(32))
    assert sent.payload == bytes(8) + b"\x01" + bytes(23)


def test_a_command_that_does_not_fit_is_never_written() -> None:
    _, box = mailbox()
    with pytest.raises(AskedWrongly, match="2049 bytes"):
        box.load(0x4802, bytes(PAYLOAD_SIZE + 1))
    with pytest.raises(AskedWrongly, match="16 bits"):
        box.load(0x10000)


def test_a_command_register_that_reads_back_otherwise_is_not_rung() -> None:
    fake, box = mailbox("command-lies")
    with pytest.raises(AnsweredWrongly, match="command register reads"):
        box.load(0x4802, bytes(32))
    assert fake.commands == []


def test_a_device_that_hangs() -> None:
    fake, box = mailbox("hang")
    with pytest.raises(TimedOut, match=r"still set 0\.05 s after the command"):
        box.command(0x4000)
    with pytest.raises(TimedOut, match="an earlier command"):
        box.load(0x4000)
    assert len(fake.commands) == 1


def test_a_device_that_takes_its_time() -> None:
    _, box = mailbox("late")
    assert box.command(0x4000).rc == 0


def test_a_reply_longer_than_its_registers() -> None:
    _, box = mailbox("long-reply")
    with pytest.raises(AnsweredWrongly, match="4096 bytes"):
        box.command(0x4000)


@pytest.mark.parametrize("size", [7, 12, 21])
def test_a_mailbox_of_an_impossible_size(size: int) -> None:
    fake = FakeDcd()
    fake.write4(0x88, size)
    with pytest.raises(AnsweredWrongly, match="a mailbox at 0x88"):
        Mailbox(fake, 0x88)


# -- window ----------------------------------------------------------------------------------------------------------


def test_the_cedt_of_a_real_machine() -> None:
    assert window.parse_cedt(QEMU_CEDT) == (FixedWindow(0x4D0000000, 4 * GIB, (12,), 0x2F),)
    assert window.parse_cedt(QEMU_CEDT + bytes(100)) == window.parse_cedt(QEMU_CEDT)


def test_the_cedt_cut_at_every_byte() -> None:
    for end in range(len(QEMU_CEDT)):
        with pytest.raises(AnsweredWrongly):
            window.parse_cedt(QEMU_CEDT[:end])


def sealed(table: bytes) -> bytes:
    return table[:9] + bytes([(table[9] - sum(table)) & 0xFF]) + table[10:]


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (20, 1, "checksum"),
        (38, 0, "claims 0 bytes"),
        (70, 200, "claims 200 bytes"),
        (92, 3, "interleave targets"),
        (92, 7, "interleave"),
    ],
)
def test_a_cedt_that_lies(at: int, value: int, says: str) -> None:
    table = QEMU_CEDT[:at] + bytes([QEMU_CEDT[at] ^ value if says == "checksum" else value]) + QEMU_CEDT[at + 1 :]
    with pytest.raises(AnsweredWrongly, match=says):
        window.parse_cedt(table if says == "checksum" else sealed(table))


def test_each_host_bridge_has_its_own_window() -> None:
    windows = (
        FixedWindow(0x1_0000_0000, GIB, (12, 28), 0x2F),
        FixedWindow(0x2_0000_0000, 4 * GIB, (12,), 0x2F),
        FixedWindow(0x3_0000_0000, 2 * GIB, (12,), 0x2F),
        FixedWindow(0x4_0000_0000, GIB, (12,), 0x29),
        FixedWindow(0x5_0000_0000, 2 * GIB, (28,), 0x2F),
    )
    assert window.choose_window(windows, 12, GIB).base == 0x3_0000_0000
    assert window.choose_window(windows, 28, 2 * GIB).base == 0x5_0000_0000
    with pytest.raises(CannotRun, match="host bridge 28 alone; the CEDT has 0x100000000"):
        window.choose_window(windows, 28, 3 * GIB)
    with pytest.raises(CannotRun, match="the CEDT has none"):
        window.choose_window((), 12, GIB)


class Decoders:
    """Component registers whose decoders commit, unless a fault says otherwise."""

    def __init__(self, fault: str = "", count: int = 1) -> None:
        self._block = component(count)
        self.size = self._block.size
        self.fault = fault
        self.writes: list[int] = []
        self.read8, self.write8 = self._block.read8, self._block.write8
        self.read_block, self.write_block = self._block.read_block, self._block.write_block

    def read4(self, offset: int, /) -> int:
        return self._block.read4(offset)

    def write4(self, offset: int, value: int, /) -> None:
        self.writes.append(offset)
        if offset == 0x1204 and self.fault == "no-enable":
            return
        if offset == 0x1220:
            committed = value & 1 << 9
            if self.fault == "never":
                committed = 0
            if self.fault == "error":
                committed, value = 0, value | 1 << 11
            if self.fault == "stays" and self._block.read4(offset) & 1 << 10:
                committed = 1
            if self.fault == "other-base":
                self._block.write4(0x1210, 0x10000000)
            value = value & ~(1 << 10) | (1 << 10 if committed else 0)
        self._block.write4(offset, value)

    def commit(self, index: int, base: int, size: int, control: int = 0) -> None:
        at = 0x1210 + 0x20 * index
        for offset, value in ((0, base), (8, size)):
            self._block.write4(at + offset, value & 0xFFFFFFFF)
            self._block.write4(at + offset + 4, value >> 32)
        self._block.write4(at + 0x10, 1 << 10 | 1 << 9 | control)


def program_it(decoders: Decoders, *, base: int = 0x4D0000000, size: int = 2 * GIB) -> Decoder:
    clock = iter(range(10_000))
    return window.program_decoder(decoders, 0x1200, base=base, size=size, clock=lambda: next(clock) / 1000)


def test_a_decoder_is_programmed_and_read_back() -> None:
    decoders = Decoders(count=4)
    assert program_it(decoders) == Decoder(0, 0x4D0000000, 2 * GIB, 0, True, False)
    assert decoders.read4(0x1204) & 2
    assert (decoders.read4(0x1214), decoders.read4(0x1210)) == (0x4, 0xD0000000)
    assert (decoders.read4(0x121C), decoders.read4(0x1218)) == (0, 0x80000000)


def test_a_decoder_that_maps_just_that_is_left_alone() -> None:
    decoders = Decoders()
    decoders.commit(0, 0x4D0000000, 2 * GIB, control=1 << 8)
    assert program_it(decoders).locked
    assert decoders.writes == [0x1204]


def test_a_committed_decoder_elsewhere_is_taken_back_first() -> None:
    decoders = Decoders()
    decoders.commit(0, 0x990000000, GIB)
    assert program_it(decoders).base == 0x4D0000000


@pytest.mark.parametrize(
    ("prepare", "fault", "kind", "says"),
    [
        (None, "never", TimedOut, "does not commit"),
        (None, "error", AnsweredWrongly, "error, not committed"),
        (None, "no-enable", AnsweredWrongly, "global enable"),
        (None, "other-base", AnsweredWrongly, "reads back"),
        ((0, 0x990000000, GIB, 0), "stays", TimedOut, "stays committed"),
        ((0, 0x990000000, GIB, 1 << 8), "", CannotRun, "locked"),
        ((1, 0x990000000, GIB, 0), "", CannotRun, "decoder 1 is committed already"),
    ],
)
def test_decoders_that_cannot_be_had(
    prepare: tuple[int, int, int, int] | None, fault: str, kind: type[Exception], says: str
) -> None:
    decoders = Decoders(fault, count=2)
    if prepare:
        decoders.commit(*prepare)
    with pytest.raises(kind, match=says):
        program_it(decoders)


class UpstreamDecoders(Decoders):
    """The decoders of an upstream port: each commits, and a fault befalls each."""

    def __init__(self, fault: str = "", count: int = 4) -> None:
        super().__init__(fault, count)
        self.fault = ""
        self.upstream_fault = fault

    def write4(self, offset: int, value: int, /) -> None:
        index, register = divmod(offset - 0x1210, 0x20)
        if 0 <= index < 4 and register == 0x10:
            committed = value & 1 << 9
            if self.upstream_fault == "never":  # it never says committed
                committed = 0
            if self.upstream_fault == "error":  # it says error, not committed
                committed, value = 0, value | 1 << 11
            if self.upstream_fault == "stays" and self.read4(offset) & 1 << 10:  # it cannot be taken back
                committed = 1
            if self.upstream_fault == "other-port":  # the target list holds another port than written
                self._block.write4(offset + 4, 9)
            if self.upstream_fault == "interleaves":  # it reads back two ways
                value |= 1 << 4
            value = value & ~(1 << 10) | (1 << 10 if committed else 0)
        if self.upstream_fault == "no-enable" and offset == 0x1204:
            return
        self.writes.append(offset)
        self._block.write4(offset, value)

    def lead(self, index: int, base: int, size: int, port: int, control: int = 0) -> None:
        self.commit(index, base, size, control)
        self._block.write4(0x1224 + 0x20 * index, port)


WINDOW = FixedWindow(0x4D0000000, 4 * GIB, (12,), 0x2F)


def route(decoders: Decoders, port: int, size: int = GIB, within: FixedWindow = WINDOW) -> window.Route:
    clock = iter(range(10_000))
    return window.program_route(decoders, 0x1200, window=within, size=size, port=port, clock=lambda: next(clock) / 1000)


def test_each_device_behind_a_switch_gets_a_decoder_and_a_slice_of_its_own() -> None:
    decoders = UpstreamDecoders()
    sizes = {3: GIB, 0: 256 * MIB, 1: 2 * GIB, 255: 768 * MIB}
    found = [route(decoders, port, size) for port, size in sizes.items()]
    assert [(one.number, one.base, one.size, one.port) for one in found] == [
        (0, 0x4D0000000, 0x40000000, 3),
        (1, 0x510000000, 0x10000000, 0),
        (2, 0x520000000, 0x80000000, 1),
        (3, 0x5A0000000, 0x30000000, 255),
    ]
    # by hand: base low and high, size low and high, control (committed, commit, host-only), target list
    assert [decoders.read4(at) for at in range(0x1250, 0x1268, 4)] == [0x20000000, 5, 0x80000000, 0, 0x1600, 1]
    assert decoders.read4(0x1268) == 0 and decoders.read4(0x1204) & 2
    with pytest.raises(CannotRun, match="all 4 decoders of the upstream port are taken"):
        route(decoders, 7, 256 * MIB)


def test_an_agent_that_starts_again_leaves_the_routes_alone() -> None:
    decoders = UpstreamDecoders()
    first = [route(decoders, port) for port in (0, 1, 2)]
    decoders.writes.clear()
    assert [route(decoders, port) for port in (2, 0, 1)] == [first[2], first[0], first[1]]
    assert decoders.writes == [0x1204] * 3


def test_a_locked_route_that_fits_is_used() -> None:
    decoders = UpstreamDecoders()
    decoders.lead(0, 0x4D0000000, GIB, 2, control=1 << 8)
    assert route(decoders, 2).locked and decoders.writes == [0x1204]


def test_the_last_route_is_taken_back_when_its_size_is_another() -> None:
    decoders = UpstreamDecoders()
    decoders.lead(0, 0x4D0000000, GIB, 0)
    decoders.lead(1, 0x510000000, GIB, 1)
    assert route(decoders, 1, 2 * GIB) == window.Route(1, 0x510000000, 2 * GIB, 1, 0, True, False)
    with pytest.raises(CannotRun, match="to port 0, not 0x80000000, and is locked or not the last"):
        route(decoders, 0, 2 * GIB)


@pytest.mark.parametrize(
    ("leads", "fault", "kind", "says"),
    [
        ((), "never", TimedOut, "decoder 0 of the upstream port does not commit"),
        ((), "error", AnsweredWrongly, "error, not committed"),
        ((), "no-enable", AnsweredWrongly, "global enable"),
        ((), "other-port", AnsweredWrongly, "reads back"),
        ((), "interleaves", AnsweredWrongly, "reads back"),
        (((0, 0x4D0000000, 2 * GIB, 1, 0),), "stays", TimedOut, "stays committed"),
        (((0, 0x4D0000000, 2 * GIB, 1, 1 << 8),), "", CannotRun, "is locked"),
        (((0, 0x4D0000000, GIB, 1, 1 << 4),), "", CannotRun, "decoder 0 of the upstream port is committed already"),
        (((0, 0x990000000, GIB, 1, 0),), "", CannotRun, "0x990000000"),
        (((0, 0x4D0000000, 5 * GIB, 1, 0),), "", CannotRun, "committed already"),
        (((1, 0x4D0000000, GIB, 1, 0),), "", CannotRun, "decoder 1 of the upstream port is committed already"),
        (((0, 0x4D0000000, GIB, 4, 0), (1, 0x510000000, GIB, 4, 0)), "", CannotRun, "decoder 1 .* to port 4"),
        (((0, 0x4D0000000, GIB, 4, 0), (1, 0x4D0000000, GIB, 1, 0)), "", CannotRun, "decoder 1 .* to port 1"),
        (((0, 0x4D0000000, 0xD0000000, 4, 0), (1, 0x5A0000000, 0x10000000, 5, 0)), "", CannotRun, "has no room"),
    ],
)
def test_routes_that_cannot_be_had(
    leads: tuple[tuple[int, int, int, int, int], ...], fault: str, kind: type[Exception], says: str
) -> None:
    decoders = UpstreamDecoders(fault)
    for lead in leads:
        decoders.lead(*lead)
    with pytest.raises(kind, match=says) as refused:
        route(decoders, 1)
    assert "\n" not in str(refused.value)


def test_routes_off_256_mib() -> None:
    for size, base in ((GIB + MIB, WINDOW.base), (0, WINDOW.base), (GIB, WINDOW.base + MIB)):
        with pytest.raises(AskedWrongly, match="256 MiB"):
            route(UpstreamDecoders(), 0, size, WINDOW._replace(base=base))


def test_devices_behind_a_switch_share_the_largest_window() -> None:
    windows = (
        FixedWindow(0x1_0000_0000, 8 * GIB, (12, 28), 0x2F),
        FixedWindow(0x2_0000_0000, 2 * GIB, (12,), 0x2F),
        FixedWindow(0x3_0000_0000, 4 * GIB, (12,), 0x2F),
        FixedWindow(0x4_0000_0000, 8 * GIB, (12,), 0x29),
    )
    assert window.shared_window(windows, 12, GIB).base == 0x3_0000_0000
    with pytest.raises(CannotRun, match="host bridge 28 alone"):
        window.shared_window(windows, 28, GIB)


def test_a_decoder_off_256_mib() -> None:
    with pytest.raises(AskedWrongly, match="256 MiB"):
        program_it(Decoders(), base=0x4D0001000)
    with pytest.raises(AskedWrongly, match="256 MiB"):
        program_it(Decoders(), size=0)


def test_the_count_of_decoders() -> None:
    block = component()
    for code, count in enumerate((1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32)):
        block.write4(0x1200, code)
        assert window.decoder_count(block, 0x1200) == count
    block.write4(0x1200, 13)
    with pytest.raises(AnsweredWrongly, match="count is 13"):
        window.decoder_count(block, 0x1200)


def test_span_covers_static_and_dynamic_capacity() -> None:
    fake = FakeDcd()
    seen = device_of(fake, Path("/nowhere"))
    assert device.span(seen.identity, seen.config) == 2 * GIB


@given(dpa=st.integers(0, 8 * MIB), data=st.binary(min_size=1, max_size=64))
@settings(max_examples=60, deadline=None)
def test_loads_and_stores_at_any_alignment(tmp_path_factory: pytest.TempPathFactory, dpa: int, data: bytes) -> None:
    path = tmp_path_factory.mktemp("mem") / "mem"
    base = 3 * 4096
    with path.open("wb") as file:
        file.truncate(base + 8 * MIB + 4096)
    dpa = min(dpa, 8 * MIB - len(data))
    memory = window.Memory(base=base, size=8 * MIB, path=str(path))
    memory.store(dpa, data)
    assert memory.load(dpa, len(data)) == data
    around = memory.load(max(0, dpa - 9), min(len(data) + 18, 8 * MIB - max(0, dpa - 9)))
    memory.close()
    assert around.strip(b"\0") == data.strip(b"\0")
    with path.open("rb") as file:
        file.seek(base + dpa)
        assert file.read(len(data)) == data


def test_loads_and_stores_are_bounded(tmp_path: Path) -> None:
    memory = window.Memory(base=0, size=MIB, path=str(tmp_path / "none"))
    for dpa, length in ((0, 0), (0, 4097), (MIB - 1, 2), (-1, 1), (1 << 64, 1)):
        with pytest.raises(AskedWrongly):
            memory.load(dpa, length)
    with pytest.raises(CannotRun, match="cannot be mapped"):
        memory.load(0, 1)


def test_few_pieces_of_the_window_stay_mapped(tmp_path: Path) -> None:
    path = tmp_path / "mem"
    with path.open("wb") as file:
        file.truncate(256 * MIB)
    memory = window.Memory(base=0, size=256 * MIB, path=str(path))
    for index in range(100):
        memory.store(index * BLOCK, bytes([index]))
    assert len(memory._chunks) == window._MAX_CHUNKS
    assert [memory.load(index * BLOCK, 1)[0] for index in range(100)] == list(range(100))
    memory.close()


# -- port ------------------------------------------------------------------------------------------------------------


class Ends:
    """A Port and a Controller, joined."""

    def __init__(self, **how: Any) -> None:
        self.pipe = Pipe()
        self.port = Port(self.pipe, "agent", patience_s=0.5, **how)
        self.requests: list[bytes] = []
        self.controller = Controller(self.pipe, self.step)

    def step(self) -> None:
        self.requests += self.port.receive(0.001)
        self.port.acknowledge()

    def greet(self) -> None:
        self.controller.until(lambda: self.controller.peers)


def history_of(ends: Ends) -> list[int]:
    return [line["n"] for line in ends.controller.history]


def put(port: Port, n: int, size: int = 0) -> None:
    port.put(link.HISTORY, json.dumps({"n": n, "pad": "x" * size}).encode())


def test_frames_wait_for_the_controller_and_come_in_order() -> None:
    ends = Ends()
    for n in range(3):
        put(ends.port, n)
    ends.controller.until(lambda: history_of(ends) == [0, 1, 2])
    put(ends.port, 3)
    ends.port.flush()
    ends.controller.take()
    assert history_of(ends) == [0, 1, 2, 3]
    ends.controller.send(b'{"do":"ping"}')
    ends.controller.until(lambda: ends.requests == [b'{"do":"ping"}'])


def test_nothing_is_lost_or_doubled_when_the_controller_comes_back() -> None:
    ends = Ends()
    ends.greet()
    for n in range(200):
        put(ends.port, n)
        ends.step()
        if n % 7 == 0:
            ends.controller.take()
            ends.controller.acknowledge()
        if n % 11 == 0:
            ends.controller.hang_up()
            if n % 2:
                ends.step()
            ends.controller.connect()
    ends.controller.until(lambda: len(ends.controller.history) == 200)
    assert history_of(ends) == list(range(200))
    ends.controller.send(b"1")
    ends.controller.until(lambda: ends.requests == [b"1"])


def test_a_flush_waits_for_a_controller_that_is_away_and_then_gives_up() -> None:
    ends = Ends()
    ends.greet()
    ends.controller.hang_up()
    put(ends.port, 0)
    with pytest.raises(LinkLost, match="no controller took"):
        for _ in range(3):
            ends.port.flush()
            put(ends.port, 1)
    assert not ends.port.up
    ends.controller.connect()
    ends.controller.until(lambda: history_of(ends)[:1] == [0])


def test_a_controller_that_does_not_read_blocks_within_a_bound() -> None:
    ends = Ends()
    ends.greet()
    ends.pipe.room = 1000
    put(ends.port, 0, 5000)
    with pytest.raises(LinkLost):
        ends.port.flush()
    ends.pipe.room = None
    ends.port.flush()
    ends.controller.take()
    assert history_of(ends) == [0]


def test_too_much_unacknowledged_waits_then_gives_up() -> None:
    ends = Ends()
    ends.greet()
    with pytest.raises(link.Overrun):
        for n in range(6000):
            put(ends.port, n)
            if n % 500 == 0:
                ends.controller.take()
    ends.controller.take()
    ends.controller.acknowledge()
    put(ends.port, 6000)
    ends.port.flush()


def test_a_new_controller_gets_an_introduction_and_the_history_that_nobody_acknowledged() -> None:
    ends = Ends()
    ends.greet()
    ends.port.on_new_controller = lambda: ends.port.put(link.CONTROL, b'{"ready":1}')
    put(ends.port, 0)
    ends.port.flush()
    ends.controller.take()
    ends.controller.acknowledge()
    ends.step()
    put(ends.port, 1)
    ends.port.put(link.CONTROL, b'{"id":7}')
    ends.port.flush()
    ends.controller.hang_up()
    other = Controller(ends.pipe, ends.step, session="another")
    other.until(lambda: other.control and other.history)
    assert other.control == [{"ready": 1}] and [line["n"] for line in other.history] == [1]
    assert other.peers[-1] == "agent.1" and not other.bad
    other.send(b"2")
    other.until(lambda: ends.requests == [b"2"])


def test_half_a_frame_of_an_older_connection_does_not_hold_up_the_next() -> None:
    now = [0.0]
    ends = Ends(clock=lambda: now[0])
    ends.greet()
    frame = ends.controller.sender.push(link.CONTROL, b"x" * 3000)
    ends.controller.socket.sendall(frame[:1000])
    ends.step()
    now[0] += 2.0
    ends.step()
    ends.controller.until(lambda: ends.requests == [b"x" * 3000])


def test_a_controller_that_never_says_hello_is_talked_to_all_the_same() -> None:
    now = [0.0]
    pipe = Pipe()
    port = Port(pipe, "agent", clock=lambda: now[0])
    theirs = pipe.connect()
    put(port, 5)
    for _ in range(4):
        port.receive(0.0)
        now[0] += 1.5
    seen = link.Receiver().feed(theirs.recv(65536))
    assert [frame.kind for frame in seen if isinstance(frame, link.Frame)] == [link.HELLO, link.HISTORY]


def test_garbage_is_counted_and_the_link_lives() -> None:
    chance = random.Random(2)
    ends = Ends()
    ends.greet()
    for _ in range(300):
        ends.controller.socket.sendall(chance.randbytes(chance.randrange(1, 400)))
        ends.step()
    ends.controller.socket.sendall(ends.controller.sender.push(link.HISTORY, b"{}"))
    ends.controller.socket.sendall(link.encode(link.ACK, b"", ack=99))
    ends.controller.socket.sendall(link.encode(link.HELLO, b"nonsense"))
    ends.controller.socket.sendall(bytes(link.MAX_FRAME))  # whatever a false header claimed has now arrived
    ends.controller.send(b"alive")
    ends.controller.until(lambda: b"alive" in ends.requests)
    assert ends.port.bad_frames > 0


def test_the_port_is_found_by_its_name(tmp_path: Path) -> None:
    for port, name in (("vport0p1", "org.other"), ("vport0p2", "dcd.agent")):
        (tmp_path / f"sys/class/virtio-ports/{port}").mkdir(parents=True)
        (tmp_path / f"sys/class/virtio-ports/{port}/name").write_text(name + "\n")
    (tmp_path / "sys/class/virtio-ports/vport0p0").mkdir()
    assert find_port(str(tmp_path)) == f"{tmp_path}/dev/vport0p2"
    with pytest.raises(CannotRun, match="no virtio port 'none'"):
        find_port(str(tmp_path), "none")
    with pytest.raises(CannotRun, match="cannot be opened"):
        VirtioPort(f"{tmp_path}/dev/vport0p2")


# -- journal and commands --------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 64), 1 << 64) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(value=st.dictionaries(st.text(max_size=6), VALUES, max_size=4))
def test_the_journal_writes_what_history_encodes(value: dict[str, Any]) -> None:
    assert compact(value).encode() == history.encode(value)


@given(process=st.text(max_size=12), value=st.dictionaries(st.text(max_size=6), VALUES, max_size=3))
def test_a_frame_is_one_history_object_byte_for_byte(process: str, value: dict[str, Any]) -> None:
    class Kept:
        def __init__(self) -> None:
            self.bodies: list[bytes] = []

        def put(self, kind: int, body: bytes) -> None:
            assert kind == link.HISTORY
            self.bodies.append(body)

    kept = Kept()
    journal = Journal(kept)  # type: ignore[arg-type]
    op = journal.begin(process, "answer", value)
    journal.end(op, process, "ok", "answer", value)
    for body, kind in zip(kept.bodies[-2:], ("invoke", "ok"), strict=True):
        line = {"op": -1, "process": process, "type": kind, "f": "answer", "value": value}
        assert body == history.encode(line)


def test_captured_bytes_become_values() -> None:
    captured = vectors("device mailbox")
    events = commands.OPERATIONS["events"].received(
        captured["events: a chain of three, More set on the first two"].response
    )
    assert [(r["handle"], r["dpa"], r["length"], r["more"], r["sequence"]) for r in events["records"]] == [
        (2, 16 * MIB, 4 * MIB, True, 0),
        (3, 8 * MIB, 2 * MIB, True, 1),
        (4, 32 * MIB, 6 * MIB, False, 2),
    ]
    assert {r["tag"][:4] for r in events["records"]} == {"0f1e"} and events["records"][0]["severity"] == 1
    answer = commands.OPERATIONS["answer"].sent(captured["accept two of three"].request)
    assert answer["flags"] == 0 and len(answer["ranges"]) == 2 and answer["ranges"][0] == [16 * MIB, 4 * MIB]
    extents = commands.OPERATIONS["extents"].received(captured["extent list after a partial accept"].response)
    assert extents["total"] == 3 and [len(e) for e in extents["extents"]] == [4, 4, 4]
    cleared = commands.OPERATIONS["clear"].sent(
        captured["events: a chain of three, More set on the first two cleared"].request
    )
    assert cleared == {"log": 4, "flags": 0, "handles": [2, 3, 4]}


@pytest.mark.parametrize("f", sorted(commands.OPERATIONS))
def test_a_value_goes_to_bytes_and_comes_back(f: str) -> None:
    value = {
        "events": {"log": 4},
        "clear": {"log": 4, "flags": 1, "handles": [1, 2, 65535]},
        "answer": {"flags": 1, "ranges": [[0, BLOCK], [(1 << 64) - 1, 0]]},
        "give_back": {"flags": 0, "ranges": []},
        "extents": {"count": 50, "start": 7},
    }[f]
    operation = commands.OPERATIONS[f]
    assert operation.sent(operation.build(value)) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("f", "value"),
    [
        ("events", {"log": 256}),
        ("events", {"log": "4"}),
        ("clear", {"handles": [65536]}),
        ("clear", {"handles": list(range(256))}),
        ("clear", {}),
        ("answer", {"ranges": [[1]]}),
        ("answer", {"ranges": [[-1, 2]]}),
        ("answer", {"ranges": [[1 << 64, 2]]}),
        ("answer", {"ranges": [[True, 2]]}),
        ("answer", {"ranges": "x"}),
        ("give_back", {"ranges": [], "flags": 999}),
        ("extents", {"count": -1}),
    ],
)
def test_values_that_are_no_command(f: str, value: dict[str, Any]) -> None:
    with pytest.raises(AskedWrongly, match="give a"):
        commands.OPERATIONS[f].build(value)


# -- host U, on a fake device ----------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_an_offer_is_answered_before_its_records_are_cleared(bench: Bench) -> None:
    bench.fake.offer((0, 4 * MIB), (16 * MIB, BLOCK))
    bench.quiet()
    assert [opcode for opcode, _ in bench.fake.commands if opcode != 0x4801] == [0x0100, 0x4802, 0x0101]
    assert bench.sent("answer") == [[[0, 4 * MIB], [16 * MIB, BLOCK]]]
    assert [str(extent) for extent in bench.fake.held] == ["[0x0+4M]", "[0x1000000+2M]"]
    lines = [(line["op"], line["type"], line["f"]) for line in bench.controller.history]
    assert lines == [
        (-1, "invoke", "events"), (-1, "ok", "events"), (-2, "invoke", "answer"), (-2, "ok", "answer"),
        (-3, "invoke", "clear"), (-3, "ok", "clear"), (-4, "invoke", "events"),
    ]  # fmt: skip


def test_a_reading_has_begun_before_an_offer_that_it_misses_was_made(bench: Bench) -> None:
    """The controller drains before it writes that its add is done. A reading rung before that add and told after it
    would seem to have begun later, and to have missed the record: so its invoke is out before its doorbell."""
    known: list[int] = []

    def drain(opcode: int) -> None:
        if opcode == 0x0100:
            bench.controller.take()
            begun = [
                line["op"] for line in bench.controller.history if (line["f"], line["type"]) == ("events", "invoke")
            ]
            known.append(len(begun))

    bench.fake.before = drain
    bench.fake.offer((0, BLOCK))  # before the host was ever idle
    bench.quiet()
    bench.fake.offer((16 * MIB, BLOCK))  # while it is
    bench.quiet()
    bench.fake.offer(*((BLOCK * 2 * number, BLOCK) for number in range(20, 28)))
    bench.fake.offer((64 * BLOCK, BLOCK))  # and a log that takes two readings in one turn
    bench.quiet()
    assert known == list(range(1, len(known) + 1)) and len(known) >= 3


def test_an_announced_reading_that_is_not_what_would_ring_is_ended_unrung(bench: Bench) -> None:
    bench.quiet()
    commands_ = bench.control.watched["mem0"].commands
    begun = bench.controller.until(lambda: commands_.announced)
    commands_.run("host.mem0", "events", b"\x03")
    bench.controller.do("ping")
    lines = [(line["op"], line["type"]) for line in bench.controller.history if line["f"] == "events"]
    assert lines[:4] == [(begun.op, "invoke"), (begun.op, "info"), (begun.op - 1, "invoke"), (begun.op - 1, "ok")]
    assert bench.controller.ends("events")[0]["value"]["reason"].startswith("not rung")
    commands_.withdraw("the controller is another one")
    assert commands_.announced is None
    bench.controller.until(lambda: commands_.announced)  # the idle host announces anew


def test_an_announced_reading_is_loaded_already_unless_another_command_came_between(bench: Bench) -> None:
    """Only the doorbell is left when an event is there; and what is rung is never another command's leftover."""
    bench.quiet()
    commands_ = bench.control.watched["mem0"].commands
    ready = bench.controller.until(lambda: commands_.announced)
    mailbox = bench.control.watched["mem0"].device.mailbox
    assert mailbox.loaded is ready.sent
    bench.fake.offer((0, BLOCK))
    bench.quiet()
    first = [line for line in bench.controller.history if line["op"] == ready.op]
    assert [line["type"] for line in first] == ["invoke", "ok"] and len(first[1]["value"]["records"]) == 1

    ready = bench.controller.until(lambda: commands_.announced)
    commands_.run("user.mem0", "extents", bytes.fromhex("0400000000000000"))
    assert mailbox.loaded is None
    bench.fake.offer((BLOCK, BLOCK))
    bench.quiet()
    second = [line for line in bench.controller.history if line["op"] == ready.op]
    assert [line["type"] for line in second] == ["invoke", "ok"] and len(second[1]["value"]["records"]) == 1
    assert bench.fake.held.covers(0, 2 * BLOCK)


def test_the_guilty_command_is_out_before_the_doorbell(bench: Bench) -> None:
    """A QEMU that dies in the doorbell leaves the invoke of every 0101h, 4802h and 4803h behind."""
    seen: list[tuple[int, str]] = []

    def look(opcode: int) -> None:
        bench.controller.take()
        if opcode == 0x0100:
            return
        seen.append((opcode, bench.controller.history[-1]["f"] + " " + bench.controller.history[-1]["type"]))

    bench.fake.offer((0, BLOCK))
    bench.fake.before = look
    bench.quiet()
    bench.fake.ask_back((0, BLOCK))
    bench.quiet()
    expected = {(0x4802, "answer invoke"), (0x0101, "clear invoke"), (0x4803, "give_back invoke")}
    assert set(seen) == expected


def test_the_history_says_what_the_registers_hold(tmp_path: Path) -> None:
    """The intent was [0, 2 MiB]; a payload register flipped a bit of the flags, and that is what is written down."""
    bench = Bench(tmp_path, FakeDcd(faults=frozenset({"payload-flips"})))
    bench.fake.offer((0, BLOCK))
    bench.controller.until(lambda: bench.controller.ends("answer"))
    assert bench.sent("answer") == [[[1, BLOCK]]]
    assert bench.controller.ends("answer")[0]["type"] == "fail"


def test_what_the_controller_wrote_down_is_rung_or_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, FakeDcd(faults=frozenset({"payload-flips"})))
    end = bench.controller.ask("give_back", flags=0, ranges=[[0, BLOCK]])
    assert end["type"] == "info" and "not rung" in end["value"]["reason"]
    assert 0x4803 not in [opcode for opcode, _ in bench.fake.commands]


@pytest.mark.parametrize(
    ("add", "answers", "held"),
    [
        ({"kind": "accept"}, [[[0, 8 * MIB], [16 * MIB, 8 * MIB]]], 16 * MIB),
        ({"kind": "refuse"}, [[]], 0),
        ({"kind": "subset", "keep": [1]}, [[[16 * MIB, 8 * MIB]]], 8 * MIB),
        ({"kind": "subset", "keep": [1, 9]}, [[[16 * MIB, 8 * MIB]]], 8 * MIB),
        ({"kind": "subset", "keep": [1], "first_bytes": BLOCK}, [[[16 * MIB, BLOCK]]], BLOCK),
        ({"kind": "subset", "last_bytes": BLOCK}, [[[6 * MIB, BLOCK], [22 * MIB, BLOCK]]], 4 * MIB),
        ({"kind": "subset", "parts": [[0, BLOCK, BLOCK], [7, 0, 1]]}, [[[BLOCK, BLOCK]]], BLOCK),
        ({"kind": "late", "delay_s": 0.05}, [[[0, 8 * MIB], [16 * MIB, 8 * MIB]]], 16 * MIB),
        ({"kind": "late", "delay_s": 0, "then": {"kind": "refuse"}}, [[]], 0),
        ({"kind": "never"}, [], 0),
        ({"kind": "reverse"}, [[[16 * MIB, 8 * MIB], [0, 8 * MIB]]], 16 * MIB),
        ({"kind": "several"}, [[[0, 8 * MIB]], [[16 * MIB, 8 * MIB]]], 8 * MIB),
    ],
)
def test_policies_for_offers(bench: Bench, add: dict[str, Any], answers: list[Any], held: int) -> None:
    bench.follow(add)
    bench.fake.offer((0, 8 * MIB), (16 * MIB, 8 * MIB))
    bench.quiet()
    assert bench.sent("answer") == answers
    assert bench.fake.held.total_bytes == held


@pytest.mark.parametrize(
    ("release", "given"),
    [
        ({"kind": "release"}, [[[BLOCK, 4 * MIB]]]),
        ({"kind": "decline"}, []),
        ({"kind": "part", "first_bytes": BLOCK}, [[[BLOCK, BLOCK]]]),
        ({"kind": "part", "offset_bytes": BLOCK}, [[[4 * MIB, BLOCK]]]),
        ({"kind": "part", "offset_bytes": BLOCK, "length_bytes": BLOCK}, [[[4 * MIB, BLOCK]]]),
        ({"kind": "part", "offset_bytes": 64 * MIB}, []),
        ({"kind": "late", "delay_s": 0.01}, [[[BLOCK, 4 * MIB]]]),
        ({"kind": "late", "delay_s": 0.01, "then": {"kind": "decline"}}, []),
    ],
)
def test_policies_for_release_requests(bench: Bench, release: dict[str, Any], given: list[Any]) -> None:
    bench.fake.offer((0, 8 * MIB))
    bench.quiet()
    bench.follow(release=release)
    bench.fake.ask_back((BLOCK, 4 * MIB))
    bench.quiet()
    assert bench.sent("give_back") == given


def test_what_is_not_held_is_not_given_back(bench: Bench) -> None:
    bench.fake.offer((0, 4 * MIB), (4 * MIB, BLOCK))
    bench.quiet()
    bench.fake.ask_back((BLOCK, 8 * MIB), (64 * MIB, BLOCK))
    bench.fake.ask_back((0, 6 * MIB))
    bench.quiet()
    assert bench.sent("give_back") == [[[BLOCK, BLOCK], [4 * MIB, BLOCK]], [[0, BLOCK]]]


def test_one_release_may_span_extents_that_adjoin(bench: Bench) -> None:
    bench.fake.offer((0, 4 * MIB), (4 * MIB, BLOCK))
    bench.quiet()
    bench.fake.ask_back((BLOCK, 4 * MIB))
    bench.quiet()
    assert bench.sent("give_back") == [[[BLOCK, 4 * MIB]]]


def test_a_chain_longer_than_a_page(tmp_path: Path) -> None:
    """Records that came with More are cleared to make room; the answer waits for the last one."""
    bench = Bench(tmp_path, FakeDcd(log_records=40))
    ranges = tuple((index * 4 * MIB, BLOCK) for index in range(35))
    bench.fake.offer(*ranges)
    bench.quiet()
    assert bench.sent("answer") == [[list(pair) for pair in ranges]]
    assert [opcode for opcode, _ in bench.fake.commands if opcode == 0x0101] == [0x0101] * 3


def test_more_ranges_than_an_answer_holds_go_out_with_more(tmp_path: Path) -> None:
    bench = Bench(tmp_path, FakeDcd(log_records=200, faults=frozenset({"serves-anything"})))
    bench.fake.offer(*[(index * 4 * MIB, BLOCK) for index in range(100)])
    bench.quiet()
    begun = [line["value"] for line in bench.controller.history if line["f"] == "answer" and line["type"] == "invoke"]
    assert [(value["flags"], len(value["ranges"])) for value in begun] == [(1, 85), (0, 15)]


def test_a_cut_chain_stays_open_and_is_joined_by_what_comes_next(tmp_path: Path) -> None:
    bench = Bench(tmp_path, FakeDcd(log_records=2))
    bench.fake.offer((0, BLOCK), (4 * MIB, BLOCK), (8 * MIB, BLOCK))
    bench.quiet()
    assert bench.sent("answer") == []


def test_records_that_are_none_are_cleared_unheeded(bench: Bench) -> None:
    bench.fake.log_raw(bytes(128))
    bench.fake.offer((0, BLOCK))
    bench.fake.log_raw(b"\xff" * 128)
    bench.quiet()
    assert bench.sent("answer") == [[[0, BLOCK]]]
    records = bench.controller.ends("events")[0]["value"]["records"]
    assert "raw" in records[0] and "error" in records[0] and records[1]["handle"] == 2


def test_several_offers_and_requests_in_one_page(bench: Bench) -> None:
    bench.fake.offer((0, BLOCK))
    bench.fake.offer((4 * MIB, BLOCK), (8 * MIB, BLOCK))
    bench.fake.ask_back((0, BLOCK))
    bench.quiet()
    assert bench.sent("answer") == [[[0, BLOCK]], [[4 * MIB, BLOCK], [8 * MIB, BLOCK]]]
    assert bench.sent("give_back") == [[[0, BLOCK]]]
    assert [opcode for opcode, _ in bench.fake.commands].count(0x0101) == 1


def test_what_was_held_before_is_known(tmp_path: Path) -> None:
    fake = FakeDcd()
    fake.offer((0, 8 * MIB))
    fake._answer(bytes.fromhex("0100000000000000" + "0000000000000000" + "0000800000000000" + "0000000000000000"))
    fake.log.clear()
    bench = Bench(tmp_path, fake)
    fake.ask_back((BLOCK, BLOCK))
    bench.quiet()
    assert bench.sent("give_back") == [[[BLOCK, BLOCK]]]
    assert bench.judgement()["findings"] == []


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("clear-refused", "0101h of [1] gave return code 0eh"),
        ("log-refused", "return code 17h"),
        ("short-page", "EventRecords"),
    ],
)
def test_a_log_that_cannot_be_read_or_cleared_is_told_and_left_alone(tmp_path: Path, fault: str, says: str) -> None:
    bench = Bench(tmp_path, FakeDcd(faults=frozenset({fault})))
    bench.fake.offer((0, BLOCK))
    notes = bench.controller.until(lambda: [c["note"] for c in bench.controller.control if "note" in c])
    assert says in notes[0]
    before = len(bench.fake.commands)
    for _ in range(50):
        bench.step()
    assert len(bench.fake.commands) == before and len(bench.sent("answer")) <= 1
    bench.fake.faults = frozenset()
    bench.follow()
    bench.quiet()
    assert bench.sent("answer") == [[[0, BLOCK]]]  # answered once, however often it was read


def test_a_device_that_hangs_leaves_an_operation_of_unknown_outcome(bench: Bench) -> None:
    bench.fake.offer((0, BLOCK))
    bench.fake.before = lambda opcode: setattr(bench.fake, "faults", frozenset({"hang"} if opcode == 0x4802 else ()))
    end = bench.controller.until(lambda: bench.controller.ends("answer"))[0]
    assert end["type"] == "info" and "doorbell is still set" in end["value"]["reason"]
    notes = bench.controller.until(lambda: [c["note"] for c in bench.controller.control if "note" in c])
    assert "not read any more" in notes[0]
    assert bench.controller.do("ping")["ok"]


def test_a_status_that_lies_costs_one_reading_a_turn(tmp_path: Path) -> None:
    bench = Bench(tmp_path, FakeDcd(faults=frozenset({"status-stuck"})))
    before = len(bench.fake.commands)
    bench.step()
    assert len(bench.fake.commands) == before + 1


# -- breaking rules on purpose ---------------------------------------------------------------------------------------


def test_breaks_are_named_after_clauses_that_they_break() -> None:
    assert set(BREAKS) <= set(CLAUSES)
    assert {clause for clause in BREAKS if CLAUSES[clause].subject == "host"} == {
        clause.id for clause in CLAUSES.values()
        if clause.subject == "host" and clause.kind == "must" and clause.rule in ("DEV-6", "DEV-7")
    }  # fmt: skip


@pytest.mark.parametrize("clause", sorted(BREAKS))
def test_a_host_that_obeys_its_orders_is_convicted_all_the_same(bench: Bench, clause: str) -> None:
    """The judge knows neither policy nor break: what was sent against what was offered is enough."""
    bench.fake.offer((64 * MIB, BLOCK))
    bench.quiet()
    assert not bench.judgement()["findings"]
    bench.follow(breaks=clause)
    bench.fake.offer((0, 8 * MIB), (16 * MIB, 8 * MIB))
    bench.quiet()
    bench.fake.offer((32 * MIB, BLOCK))
    bench.quiet()
    bench.fake.ask_back((64 * MIB, BLOCK))
    bench.quiet()
    judgement = bench.judgement()
    if CLAUSES[clause].subject == "host":
        assert judgement["host"][clause]["fail"] >= 1
        assert {finding["clause"] for finding in judgement["findings"] if finding["subject"] == "host"} == {clause}
    else:
        assert judgement["device"][clause]["pass"] >= 1
    assert all(counts["fail"] == 0 for counts in judgement["device"].values()), judgement["findings"]
    assert bench.fake.held.covers(0, 8 * MIB) and bench.fake.held.covers(16 * MIB, 8 * MIB), "the run went on"


def test_a_host_that_keeps_the_rules_is_not_convicted(bench: Bench) -> None:
    for add in ({"kind": "accept"}, {"kind": "refuse"}, {"kind": "subset", "keep": [0]}):
        bench.follow(add)
        bench.fake.offer((0, 8 * MIB), (16 * MIB, 8 * MIB))
        bench.quiet()
        bench.fake.ask_back(*[(extent.start, extent.length) for extent in bench.fake.held])
        bench.quiet()
    judgement = bench.judgement()
    assert judgement["findings"] == [] and judgement["host"]["DEV-6.inside"]["pass"] == 2


def test_a_device_that_serves_what_it_must_refuse_is_convicted_beside_the_host(tmp_path: Path) -> None:
    bench = Bench(tmp_path, FakeDcd(faults=frozenset({"serves-anything"})))
    bench.follow(breaks="DEV-6.inside")
    bench.fake.offer((0, 8 * MIB))
    bench.quiet()
    judgement = bench.judgement()
    assert judgement["host"]["DEV-6.inside"]["fail"] == 1
    assert any(counts["fail"] for counts in judgement["device"].values())


def test_a_break_that_cannot_be_made_is_told(bench: Bench) -> None:
    bench.follow(breaks="DEV-6.accepted")
    bench.fake.offer((0, BLOCK))
    bench.quiet()
    notes = [c["note"] for c in bench.controller.control if "note" in c]
    assert notes == ["mem0: DEV-6.accepted cannot be broken now; the policy was followed"]
    assert bench.sent("answer") == [[[0, BLOCK]]]


def test_a_payload_shorter_than_its_count_travels_as_raw_bytes(bench: Bench) -> None:
    bench.follow(breaks="DEV-8.16h")
    bench.fake.offer((0, BLOCK))
    bench.quiet()
    value = next(line["value"] for line in bench.controller.history if line["f"] == "answer")
    assert value["raw"].startswith("02000000") and "count of 2" in value["error"]
    assert bench.controller.ends("answer")[0]["value"]["rc"] == 0x16


def test_the_completion_of_the_clear_carries_the_judgement_of_records_and_answers(bench: Bench) -> None:
    """Nothing is judged between the records and the doorbells of the answer and the clear."""
    bench.follow(breaks="DEV-7.held")
    bench.fake.offer((0, BLOCK))
    bench.quiet()
    ends = {f: bench.controller.ends(f)[0]["value"].get("judged") for f in ("events", "answer", "give_back", "clear")}
    assert ends["events"] is ends["answer"] is ends["give_back"] is None
    assert {"DEV-4.format", "DEV-6.inside", "DEV-9.answers"} <= set(ends["clear"]["passed"])
    assert ends["clear"]["host"] == {"DEV-7.held": "fail"}
    assert [one["clause"] for one in ends["clear"]["evidence"]] == ["DEV-7.held"]


def test_judgements_merge() -> None:
    one = {"device": {"DEV-4.more": "fail"}, "host": {}, "passed": ("DEV-4.type",), "evidence": [1]}
    two = {"device": {}, "host": {"DEV-6.order": "fail"}, "passed": ("DEV-9.answers",), "evidence": [2]}
    assert merge(one, two) == {
        "device": {"DEV-4.more": "fail"},
        "host": {"DEV-6.order": "fail"},
        "passed": ("DEV-4.type", "DEV-9.answers"),
        "evidence": [1, 2],
    }
    unknown = {"device": {"DEV-4.more": "unknown"}, "host": {}, "passed": (), "evidence": []}
    assert merge(one, unknown)["device"] == merge(unknown, one)["device"] == {"DEV-4.more": "fail"}  # type: ignore[index]
    assert merge(None, one) is one and merge(one, None) is one and merge(None, None) is None


# -- policies by themselves ------------------------------------------------------------------------------------------


def hands(held: tuple[tuple[int, int], ...] = ()) -> Hands:
    one = Hands((Region(0, 64 * MIB, BLOCK), Region(GIB, 64 * MIB, BLOCK)), 85)
    one.took(held)
    return one


def test_a_free_block_is_neither_held_nor_offered() -> None:
    some = hands(((GIB, 64 * MIB),))
    some.offer(((62 * MIB, BLOCK),))
    assert some.free_block() == (60 * MIB, BLOCK)
    some.settled(((62 * MIB, BLOCK),))
    assert some.free_block() == (62 * MIB, BLOCK)
    assert hands(((0, 64 * MIB), (GIB, 64 * MIB))).free_block() is None


@given(changes=st.lists(st.tuples(st.booleans(), st.integers(0, 31), st.integers(0, 4)), max_size=40))
def test_hands_against_a_set_of_blocks(changes: list[tuple[bool, int, int]]) -> None:
    some, naive = hands(), set[int]()
    for took, block, count in changes:
        ranges = ((block * BLOCK, count * BLOCK),)
        if took:
            some.took(ranges)
            naive |= set(range(block, block + count))
        else:
            some.gave(ranges)
            naive -= set(range(block, block + count))
    for block in range(36):
        assert some.held.overlaps(block * BLOCK, BLOCK) == (block in naive)


@pytest.mark.parametrize(
    ("table", "asked", "says"),
    [
        (ADD, {"kind": "nonsense"}, "the kinds are accept"),
        (ADD, "accept", "the kinds are"),
        (ADD, None, "the kinds are"),
        (ADD, {"kind": ["accept"]}, "the kinds are"),
        (ADD, {"kind": "accept", "keep": [1]}, "has no 'keep'; it takes nothing"),
        (ADD, {"kind": "subset", "keep": [-1]}, "list of indices"),
        (ADD, {"kind": "subset", "first_bytes": 0}, "above 0"),
        (ADD, {"kind": "subset", "parts": [[1, 2]]}, "index, offset_bytes"),
        (ADD, {"kind": "late", "delay_s": -1}, "seconds from 0"),
        (ADD, {"kind": "late", "delay_s": True}, "seconds from 0"),
        (ADD, {"kind": "late", "delay_s": 1e9}, "seconds from 0"),
        (ADD, {"kind": "late", "then": {"kind": "late"}}, "add the delays"),
        (ADD, {"kind": "late", "then": {"kind": "none"}}, "the kinds are"),
        (ADD, {"kind": "late", "then": 5}, "an object with its kind"),
        (RELEASE, {"kind": "part", "offset_bytes": "2"}, "whole number"),
    ],
)
def test_policies_that_do_not_exist(table: dict[str, policy.Row], asked: object, says: str) -> None:
    with pytest.raises(AskedWrongly) as error:
        policy.choose(table, asked, "add")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_breaks_by_name() -> None:
    assert policy.choose_break(None) is None
    for asked, clause in (("DEV-6", "DEV-6.inside"), ("DEV-7", "DEV-7.held"), ("DEV-6.order", "DEV-6.order")):
        found = policy.choose_break(asked)
        assert found is not None and found[0] == clause
    wrongs: tuple[object, ...] = ("DEV-10.total", 5, [], "")
    for wrong in wrongs:
        with pytest.raises(AskedWrongly, match="host U can break DEV-6"):
            policy.choose_break(wrong)


def test_the_policys_own_steps_follow_a_refused_break() -> None:
    steps = (Step("answer", ((0, BLOCK),)),)
    add = BREAKS["DEV-6.inside"].add
    assert add is not None
    bad = add(steps, ((0, BLOCK),), hands())
    assert bad is not None and bad[1] == steps[0]._replace(unless=0)
    assert bad[0].ranges == ((0, BLOCK), (GIB + 62 * MIB, BLOCK))


# -- control ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"do": "nonsense"}, "there is ask, name"),
        ({}, "there is ask"),
        ({"do": "policy", "device": "mem9"}, "no device 'mem9'"),
        ({"do": "policy", "device": "mem0", "add": {"kind": "x"}}, "the kinds are"),
        ({"do": "policy", "device": "mem0", "break": "x"}, "host U can break"),
        ({"do": "poll", "mode": "wait"}, "there is sleep, spin"),
        ({"do": "poll", "interval_s": 0}, "give 5e-05 to 10 seconds"),
        ({"do": "poll", "interval_s": "1"}, "seconds"),
        ({"do": "raw", "device": "mem0", "opcode": -1}, "16 bits"),
        ({"do": "raw", "device": "mem0", "opcode": 1, "payload": "zz"}, "hex digits"),
        ({"do": "raw", "device": "mem0", "opcode": 1, "payload": "00" * 2049}, "2049 bytes"),
        ({"do": "name", "devices": {"9": "mem1"}}, "no device with serial 9"),
        ({"do": "name", "devices": {"x": "mem1"}}, "no device with serial x"),
        ({"do": "name", "devices": {}}, "give an object"),
        ({"do": "name", "devices": {"4660": "a b"}}, "letters and digits"),
        ({"do": "name", "devices": {"4660": "mem1"}}, "another partner"),
        ({"do": "name", "devices": {"4660": "mem0"}, "departures": ["x"]}, "give a list of QEMU"),
        ({"do": "ask"}, "an ask needs"),
        ({"do": "ask", "op": 1, "process": "p", "f": "add", "value": {}}, "there is load, store"),
    ],
)
def test_requests_that_cannot_be_carried_out(bench: Bench, request_: dict[str, Any], says: str) -> None:
    bench.controller.send(json.dumps({"id": 77, **request_}).encode())
    reply = bench.controller.until(lambda: next((c for c in bench.controller.control if c.get("id") == 77), None))
    assert reply["ok"] is False and reply["kind"] == "AskedWrongly"
    assert says in reply["error"] and "\n" not in reply["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 50_000, b'"x"'])
def test_bodies_that_are_no_request(bench: Bench, body: bytes) -> None:
    bench.controller.send(body)
    assert bench.controller.do("ping")["ok"]
    assert any(c.get("ok") is False and "no JSON object" in c["error"] for c in bench.controller.control)


def test_operations_that_the_controller_began(bench: Bench) -> None:
    bench.fake.offer((0, 8 * MIB))
    bench.quiet()
    controller = bench.controller
    assert controller.ask("extents", count=50, start=0)["value"]["extents"] == [
        {"dpa": 0, "length": 8 * MIB, "tag": "00" * 16, "sequence": 0}
    ]
    assert controller.ask("store", dpa=4097, data="a1b2c3", side="host")["type"] == "ok"
    load = controller.ask("load", dpa=4096, length=8)
    assert load["value"]["data"] == "00a1b2c300000000" and load["op"] == 1000 + controller._numbers
    with bench.memory.open("rb") as file:
        file.seek(4097)
        assert file.read(3).hex() == "a1b2c3"
    assert controller.ask("give_back", flags=0, ranges=[[0, BLOCK]])["value"]["rc"] == 0
    assert controller.ask("give_back", flags=0, ranges=[[0, BLOCK]])["type"] == "fail"
    assert controller.ask("answer", flags=0, ranges=[])["type"] == "ok"
    assert controller.ask("events", log=4)["value"]["records"] == []
    assert controller.ask("clear", log=4, flags=0, handles=[9])["value"]["rc"] == 0x0E
    asked = [line for line in controller.history if line["op"] > 0]
    assert all(line["type"] != "invoke" for line in asked), "the controller wrote the invoke"


@pytest.mark.parametrize(
    ("f", "value", "kind"),
    [
        ("load", {"dpa": -1, "length": 8}, "fail"),
        ("load", {"dpa": 0, "length": 5000}, "fail"),
        ("load", {"dpa": 0}, "fail"),
        ("store", {"dpa": 2 * GIB, "data": "00"}, "fail"),
        ("store", {"dpa": 0, "data": "0"}, "fail"),
        ("store", {"dpa": "0", "data": "00"}, "fail"),
        ("answer", {"ranges": [[1, 2, 3]]}, "info"),
        ("answer", {"ranges": [[0, BLOCK]] * 90}, "info"),
        ("extents", {"device": "mem7"}, "info"),
    ],
)
def test_operations_that_cannot_be_carried_out_end_all_the_same(
    bench: Bench, f: str, value: dict[str, Any], kind: str
) -> None:
    end = bench.controller.ask(f, **value)
    assert end["type"] == kind
    text = end["value"].get("error" if kind == "fail" else "reason")
    assert text and "\n" not in text


def test_a_raw_command_and_what_it_does_to_the_judge(bench: Bench) -> None:
    assert bench.controller.do("raw", device="mem0", opcode=0x48FF)["rc"] == 3
    reply = bench.controller.do("raw", device="mem0", opcode=0x4000)
    assert bytes.fromhex(reply["payload"]) == bench.fake.identity
    bench.fake.offer((0, BLOCK))
    bench.quiet()
    before = bench.judgement()
    assert bench.controller.do("raw", device="mem0", opcode=0x4803, payload="00" * 8)["rc"] == 2
    bench.controller.ask("extents", count=50, start=0)
    assert bench.judgement()["findings"] == before["findings"] == []


def test_how_to_poll(bench: Bench) -> None:
    assert (bench.control.spin, bench.control.interval_s) == (False, 0.0005)
    assert bench.controller.do("poll", mode="spin", interval_s=0.001)["ok"]
    assert (bench.control.spin, bench.control.interval_s) == (True, 0.001)


def test_poweroff(bench: Bench) -> None:
    assert not bench.control.done
    assert bench.controller.do("poweroff")["ok"]
    assert bench.control.done


def test_a_judgement_larger_than_a_frame_is_cut(bench: Bench) -> None:
    findings = bench.control.watched["mem0"].judge.findings
    findings += [{"clause": "DEV-6.order", "evidence": "x" * 1000, "number": number} for number in range(500)]
    judgement = bench.judgement()
    assert judgement["cut"] == 500 and 10 < len(judgement["findings"]) < 65


def test_every_line_of_the_agent_fits_the_schema(bench: Bench) -> None:
    schema = json.loads((Path(history.__file__).parent / "history.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    bench.fake.log_raw(bytes(128))
    for clause in (None, "DEV-6.inside", "DEV-8.16h", "DEV-7.some"):
        bench.follow(breaks=clause)
        bench.fake.offer((0, 8 * MIB))
        bench.fake.ask_back((0, 8 * MIB))
        bench.quiet()
    bench.controller.ask("load", dpa=0, length=8)
    bench.controller.ask("load", dpa=-1, length=8)
    bench.controller.ask("store", dpa=0, data="00", side="host")
    bench.controller.ask("extents", count=5, start=0)
    bench.controller.ask("extents", count=5, start=99)
    bench.controller.ask("answer", ranges=[[1]])
    bench.fake.before = lambda opcode: setattr(bench.fake, "faults", frozenset({"short-page"}))
    bench.fake.offer((0, 8 * MIB))
    bench.controller.until(lambda: any("raw" in end["value"] for end in bench.controller.ends("events")))
    for line in bench.controller.history:
        whole = {"n": 2, **line, "op": abs(line["op"]), "t_ns": 0, "crc": "00000000"}
        validator.validate({key: whole[key] for key in ("n", "op", "process", "type", "f", "t_ns", "value", "crc")})


def test_findings_alike_are_counted_and_a_few_kept(bench: Bench) -> None:
    bench.follow(breaks="DEV-7.some")
    for _ in range(80):
        bench.fake.offer((0, BLOCK))
        bench.fake.ask_back((0, BLOCK))
        bench.quiet()
    judgement = bench.judgement()
    assert judgement["host"]["DEV-7.some"]["fail"] == 160
    assert [finding["clause"] for finding in judgement["findings"]] == ["DEV-7.some"] * 8


# -- the program -----------------------------------------------------------------------------------------------------


def test_options() -> None:
    assert program.parse([]) == program.Options()
    assert program.parse(["--port", "/dev/x", "--root=/r", "--unbind", "--poll", "spin"]) == program.Options(
        "/dev/x", "/r", True, True
    )


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--port"], ["--poll", "wait"], ["--unbind=1"], ["x"]])
def test_a_wrong_command_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        program.parse(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_port_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCD_AGENT_PORT", "/dev/y")
    monkeypatch.setenv("DCD_AGENT_UNBIND", "1")
    assert program.parse([]) == program.Options(port="/dev/y", unbind=True)


def test_no_port_is_told_on_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--root", str(tmp_path)]) == 3
    told = capsys.readouterr().err
    assert "no virtio port 'dcd.agent'" in told and told.count("\n") == 1


def test_a_fault_of_our_own_is_told_to_the_controller_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = Pipe()
    controller = Controller(pipe, lambda: None)
    monkeypatch.setattr(program, "VirtioPort", lambda path: pipe)

    def explode(self: object) -> None:
        raise ZeroDivisionError("by test")

    monkeypatch.setattr(program.Agent, "run", explode)
    assert program.main(["--port", "x", "--root", str(tmp_path)]) == 70
    controller.take()
    assert [c["fault"] for c in controller.control if "fault" in c] == ["ZeroDivisionError: by test"]
    assert "ZeroDivisionError: by test" in capsys.readouterr().err


def test_a_guest_where_nothing_happens_looks_less_often(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ping is no happening, and its reply none; a request is one, and so is what the host does by itself."""
    now, waited = [100.0], []
    script = {3.0: b'{"id":901,"do":"ping"}', 3.5: b'{"id":902,"do":"judgement"}', 9.0: b'{"id":903,"do":"poweroff"}'}
    receive = bench.port.receive

    def waiting(timeout_s: float) -> list[bytes]:
        waited.append((now[0] - 100.0, timeout_s))
        now[0] += max(timeout_s, 0.01)
        at = now[0] - 100.0
        if 6.0 <= at < 6.02 and not bench.fake.log:
            bench.fake.offer((0, 2 * MIB))
        due = [script.pop(when) for when in sorted(script) if when <= at]
        return [*receive(0.0), *due]

    monkeypatch.setattr(bench.port, "receive", waiting)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    agent = object.__new__(program.Agent)
    agent._port, agent._control, agent._new_controller = bench.port, bench.control, False
    agent.run()
    resting = [at for at, timeout in waited if timeout == program.REST_S]
    assert {timeout for _, timeout in waited} == {0.0005, program.REST_S}
    assert [
        (low, high) for low, high in ((0, 1.9), (3.6, 5.4), (6.1, 7.9)) if any(low < at < high for at in resting)
    ] == []
    for low, high in ((2.1, 3.4), (5.6, 5.9), (8.1, 8.9)):
        assert [timeout for at, timeout in waited if low < at < high and timeout != program.REST_S] == []
        assert any(low < at < high for at in resting)


ALLOWED = frozenset(sys.stdlib_module_names) | {"construct", "crcmod", "dcdbackend"}
HEAVY = frozenset(
    {"asyncio", "argparse", "logging", "pathlib", "pdb", "socket", "ssl", "subprocess", "threading", "urllib"}
)


def test_the_modules_that_the_agent_imports_are_bounded() -> None:
    """Each costs the guest milliseconds before it is ready; the list is short on purpose."""
    code = (
        "import sys, runpy\n"
        "sys.argv = ['agent', '--nonsense']\n"
        "try:\n    runpy.run_module('dcdbackend.agent', run_name='__main__', alter_sys=True)\n"
        "except SystemExit:\n    pass\n"
        "print(' '.join(sorted(sys.modules)))"
    )
    places = {str(Path(str(module.__file__)).parents[1]) for module in (construct, crcmod, dcdbackend)}
    code = f"import sys\nsys.path[:0] = {sorted(places)}\n" + code
    done = subprocess.run([sys.executable, "-S", "-E", "-c", code], capture_output=True, text=True, check=True)
    found = done.stdout.split()
    top = {name.partition(".")[0] for name in found}
    assert top - ALLOWED - {"_crcmod", "__main__"} <= {name for name in top if name.startswith("_")}
    assert not HEAVY & top, "heavy modules came in"
    ours = {name for name in found if name.startswith("dcdbackend.")}
    foundation = (
        "agent crc errors extents history link rules units wire wire.cci wire.dcd wire.events wire.layout model "
        "model.data model.decide model.departures model.device model.record model.state model.witness"
    )
    allowed = {f"dcdbackend.{name}" for name in foundation.split(" ")}
    assert {name for name in ours if not name.startswith("dcdbackend.agent.")} <= allowed
    assert len(found) < 170, len(found)


_STARTED = """
import runpy, sys
sys.argv = ["agent", "--help"]
try:
    runpy.run_module("dcdbackend.agent", run_name="__main__")
except SystemExit:
    pass
print([name for name in ("inspect", "pdb", "pickle", "platform", "ast") if name in sys.modules])
import dataclasses
@dataclasses.dataclass
class Undocumented:
    x: int
print(Undocumented.__doc__, "inspect" in sys.modules)
"""


def test_the_program_starts_without_what_it_does_not_need_and_it_is_there_when_wanted() -> None:
    """Which is why the guest is ready sooner; a module that is imported anew by somebody is seen here."""
    paths = os.pathsep.join(path for path in sys.path if path)
    ran = subprocess.run(
        [sys.executable, "-Ss", "-c", _STARTED], env={"PYTHONPATH": paths}, capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-2:] == ["[]", "Undocumented(x: int) True"]
