"""Fakes for the agent's tests: a configuration space laid out by hand, a device with named faults, a controller.

`FakeDcd` is a Dynamic Capacity Device at the level of its registers: the doorbell runs a command on a small state. It
keeps the rules unless a fault says otherwise; the real thing is in tests/vm.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from golden import vectors

from dcdbackend import link
from dcdbackend.agent import pci, window
from dcdbackend.agent.control import Control
from dcdbackend.agent.device import Device, Found
from dcdbackend.agent.mailbox import Mailbox
from dcdbackend.agent.port import Port
from dcdbackend.agent.registers import Mapped
from dcdbackend.errors import MalformedBytes
from dcdbackend.extents import EMPTY, Extent, ExtentSet
from dcdbackend.wire import (
    CapacityResponse,
    ClearEventRecords,
    DcConfig,
    DynamicCapacityRecord,
    EventRecords,
    ExtentList,
    GetExtentList,
    IdentifyMemoryDevice,
    RawRecord,
    RecordType,
    WireExtent,
)

MIB = 1 << 20
SERIAL = 0x1234
WINDOW_BASE = 0x4D0000000

# CEDT of QEMU 11.1.3 with one pxb-cxl (bus 12) and one window of 4 GiB, as the guest read it
QEMU_CEDT = bytes.fromhex(
    "434544546c00000001dd424f43485320425850432020202001000000425850430100000000002000"
    "0c0000000100000000000000000000c0040000000000010000000000010028000000000000000"
    "0d00400000000000000010000000000000000000000" + "2f0000000c000000"
)  # fmt: skip


def config_space(*capabilities: tuple[int, bytes], serial: int | None = SERIAL, locator: bytes | None = None) -> bytes:
    """4096 bytes with extended capabilities from 100h on: (id, the bytes after the header), each on 64 bytes."""
    chain = list(capabilities)
    if serial is not None:
        chain.append((3, serial.to_bytes(8, "little")))
    if locator is not None:
        chain.append((0x23, locator))
    image = bytearray(4096)
    for index, (kind, body) in enumerate(chain):
        at = 0x100 + 64 * index
        after = at + 64 if index + 1 < len(chain) else 0
        image[at : at + 4] = (kind | 1 << 16 | after << 20).to_bytes(4, "little")
        image[at + 4 : at + 4 + len(body)] = body
    return bytes(image)


def locator(*entries: tuple[int, int, int], length: int | None = None) -> bytes:
    """The Register Locator DVSEC after its header, for (kind, BAR, offset) each (CXL r3.1 8.1.9)."""
    size = 12 + 8 * len(entries) if length is None else length
    body = (0x1E98 | size << 20).to_bytes(4, "little") + (8).to_bytes(2, "little") + bytes(2)
    for kind, bar, offset in entries:
        body += (bar | kind << 8 | offset & 0xFFFF0000).to_bytes(4, "little") + (offset >> 32).to_bytes(4, "little")
    return body


CLOSE: list[Callable[[], None]] = []
"""What was opened; the fixture `closed` runs and empties it."""

STATUS_AT, MAILBOX_AT, PAYLOAD_SIZE = 0x80, 0x88, 2048


class FakeDcd:
    """A device behind registers. `faults`: names from this class's methods' comments; `commands`: (opcode, payload)."""

    def __init__(self, *, faults: frozenset[str] = frozenset(), log_records: int = 8) -> None:
        self.faults = faults
        self.log_records = log_records
        self.commands: list[tuple[int, bytes]] = []
        self.before: Callable[[int], None] = lambda opcode: None
        self.held: ExtentSet = EMPTY
        self.chains: list[list[tuple[int, int]]] = []
        self.log: list[DynamicCapacityRecord | RawRecord] = []
        self._handle = 0
        self.size = 0x1000
        self._memory = bytearray(self.size)
        self._mapped = Mapped(self._memory)
        device = vectors("device mailbox")
        self.identity = device["identify memory device"].response
        self.config = device["dc config, all regions"].response
        capabilities = ((1, 0x80, 8), (2, 0x88, 0x20 + PAYLOAD_SIZE), (0x4000, 0x8A8, 8))
        self._mapped.write8(0, 1 << 16 | len(capabilities) << 32)
        for index, (kind, offset, length) in enumerate(capabilities):
            self._mapped.write8(0x10 + 0x10 * index, kind | 1 << 16 | offset << 32)
            self._mapped.write8(0x18 + 0x10 * index, length)
        self._mapped.write4(MAILBOX_AT, 11)
        self._late = 0

    # -- the manager's side --------------------------------------------------------------------------------------

    def offer(self, *ranges: tuple[int, int]) -> None:
        """A chain of add records."""
        self.chains.append(list(ranges))
        self._records(RecordType.ADD_CAPACITY, ranges)

    def ask_back(self, *ranges: tuple[int, int]) -> None:
        """A chain of release requests."""
        self._records(RecordType.RELEASE_CAPACITY, ranges)

    def log_raw(self, data: bytes) -> None:
        """Any 128 bytes, with the next handle in its place."""
        self._handle += 1
        data = data[:20] + self._handle.to_bytes(2, "little") + data[22:]
        self.log.append(RawRecord(handle=self._handle, data=data, error=""))

    def _records(self, kind: RecordType, ranges: tuple[tuple[int, int], ...]) -> None:
        for index, (start, length) in enumerate(ranges):
            self._handle += 1
            if len(self.log) < self.log_records:
                self.log.append(
                    DynamicCapacityRecord(
                        handle=self._handle,
                        type=kind,
                        extent=WireExtent(start=start, length=length),
                        flags=int(index < len(ranges) - 1),
                        record_flags=0,
                    )
                )

    # -- registers -----------------------------------------------------------------------------------------------

    def read4(self, offset: int, /) -> int:
        if offset == MAILBOX_AT + 4 and self._late:  # fault "late": the doorbell clears after a hundred looks
            self._late -= 1
            return 1
        return self._mapped.read4(offset)

    def read8(self, offset: int, /) -> int:
        if offset == STATUS_AT:
            return 0x10 if self.log or "status-stuck" in self.faults else 0
        value = self._mapped.read8(offset)
        if offset == MAILBOX_AT + 8 and "command-lies" in self.faults:  # the command register reads back otherwise
            return value ^ 0x0100
        return value

    def write4(self, offset: int, value: int, /) -> None:
        self._mapped.write4(offset, value)
        if offset == MAILBOX_AT + 4 and value & 1:
            self._run()

    def write8(self, offset: int, value: int, /) -> None:
        self._mapped.write8(offset, value)

    def read_block(self, offset: int, length: int, /) -> bytes:
        return self._mapped.read_block(offset, length)

    def write_block(self, offset: int, data: bytes, /) -> None:
        if "payload-flips" in self.faults and len(data) > 16:  # a payload register that holds another byte
            data = data[:8] + bytes([data[8] ^ 1]) + data[9:]
        self._mapped.write_block(offset, data)

    def _run(self) -> None:
        command = self._mapped.read8(MAILBOX_AT + 8)
        opcode, length = command & 0xFFFF, command >> 16 & 0x1FFFFF
        payload = self.read_block(MAILBOX_AT + 0x20, length)
        self.before(opcode)
        self.commands.append((opcode, payload))
        if "hang" in self.faults:  # the doorbell stays set for ever
            return
        rc, reply = self._serve(opcode, payload)
        self._mapped.write_block(MAILBOX_AT + 0x20, reply)
        length = 4096 if "long-reply" in self.faults else len(reply)  # claims more than its registers hold
        self._mapped.write8(MAILBOX_AT + 8, opcode | length << 16)
        self._mapped.write8(MAILBOX_AT + 0x10, rc << 32)
        self._mapped.write4(MAILBOX_AT + 4, 0)
        self._late = 100 if "late" in self.faults else 0

    def _serve(self, opcode: int, payload: bytes) -> tuple[int, bytes]:
        serve = {
            0x0100: self._get_events,
            0x0101: self._clear_events,
            0x4000: lambda _: (0, self.identity),
            0x4800: lambda _: (0, self.config),
            0x4801: self._extents,
            0x4802: self._answer,
            0x4803: self._release,
        }.get(opcode)
        return (3, b"") if serve is None else serve(payload)

    def _get_events(self, payload: bytes) -> tuple[int, bytes]:
        if "log-refused" in self.faults:
            return 0x17, b""
        page = EventRecords(records=tuple(self.log[:15])).to_bytes()
        return 0, page[:-1] if "short-page" in self.faults else page  # one byte of the last record is missing

    def _clear_events(self, payload: bytes) -> tuple[int, bytes]:
        handles = list(ClearEventRecords.from_bytes(payload).handles)
        if "clear-refused" in self.faults or handles != [record.handle for record in self.log[: len(handles)]]:
            return 0x0E, b""
        del self.log[: len(handles)]
        return 0, b""

    def _extents(self, payload: bytes) -> tuple[int, bytes]:
        asked = GetExtentList.from_bytes(payload)
        held = list(self.held)
        page = held[asked.start : asked.start + min(asked.count, 50)]
        extents = tuple(WireExtent(start=extent.start, length=extent.length) for extent in page)
        return 0, ExtentList(total=len(held), generation=0, extents=extents).to_bytes()

    def _answer(self, payload: bytes) -> tuple[int, bytes]:
        try:
            request = CapacityResponse.from_bytes(payload)
        except MalformedBytes:
            return 0x16, b""
        offered = self.chains[0] if self.chains else []
        if "serves-anything" not in self.faults:  # an answer that names what was never offered succeeds
            taken = EMPTY
            for start, length in request.ranges:
                if length % (2 * MIB) or start % (2 * MIB) or taken.overlaps(start, length):
                    return 0x1E, b""
                taken = taken.add(Extent(start, length))
                if not any(s <= start and start + length <= s + size for s, size in offered):
                    return 0x0F, b""
        for start, length in request.ranges:
            self.held = self.held.discard_range(start, length).add(Extent(start, length))
        del self.chains[:1]
        return 0, b""

    def _release(self, payload: bytes) -> tuple[int, bytes]:
        try:
            request = CapacityResponse.from_bytes(payload)
        except MalformedBytes:
            return 0x16, b""
        held = self.held
        for start, length in request.ranges:
            if length % (2 * MIB) or start % (2 * MIB):
                return 0x1E, b""
            if not held.covers(start, length):
                return (0x1E if self.held.covers(start, length) else 0x0F), b""
            held = held.discard_range(start, length)
        self.held = held
        return (0, b"") if request.ranges else (0x02, b"")


def end_of(config: DcConfig) -> int:
    """The first DPA after the last region."""
    return config.regions[-1].base + config.regions[-1].length


def device_of(fake: FakeDcd, memory: Path, *, timeout_s: float = 0.05) -> Device:
    """The fake, taken: as `device.take` would, with a file for its window."""
    config = DcConfig.from_bytes(fake.config)
    at_dpa_0 = window.Memory(base=0, size=end_of(config), path=str(memory))
    CLOSE.append(at_dpa_0.close)
    return Device(
        found=Found(pci.Function("0000:0d:00.0", "/nowhere", pci.CLASS_MEMORY_DEVICE), SERIAL, ()),
        status=fake,
        status_at=STATUS_AT,
        mailbox=Mailbox(fake, MAILBOX_AT, timeout_s=timeout_s),
        identity=IdentifyMemoryDevice.from_bytes(fake.identity),
        config=config,
        place=window.FixedWindow(WINDOW_BASE, 4 << 30, (12,), 0x2F),
        memory=at_dpa_0,
    )


class Pipe:
    """The agent's stream over a socket pair; the other end can hang up and come back."""

    def __init__(self) -> None:
        self.room: int | None = None
        self._ours: socket.socket | None = None

    def connect(self) -> socket.socket:
        """A new connection; the controller's end."""
        if self._ours is not None:
            self._ours.close()
        self._ours, theirs = socket.socketpair()
        CLOSE.extend((self._ours.close, theirs.close))
        self._ours.setblocking(False)
        theirs.settimeout(5)
        return theirs

    def fileno(self) -> int:
        assert self._ours is not None
        return self._ours.fileno()

    def read(self) -> bytes | None:
        assert self._ours is not None
        try:
            data = self._ours.recv(65536)
        except BlockingIOError:
            return None
        except ConnectionError:
            data = b""
        if not data:
            self._ours.close()
            self._ours = None
        return data

    def write(self, data: bytes) -> int:
        if self._ours is None or self.room == 0:
            return 0
        if self.room is not None:
            data = data[: self.room]
            self.room -= len(data)
        try:
            return self._ours.send(data)
        except (BlockingIOError, ConnectionError):
            return 0

    def connected(self) -> bool:
        return self._ours is not None

    def close(self) -> None:
        if self._ours is not None:
            self._ours.close()
            self._ours = None


class Controller:
    """The other end of a `Pipe`, without a thread: `step` lets the agent's side run while something is awaited."""

    def __init__(self, pipe: Pipe, step: Callable[[], None], *, session: str = "controller") -> None:
        self.session = session
        self.history: list[dict[str, Any]] = []
        self.control: list[dict[str, Any]] = []
        self.peers: list[str] = []
        self.bad: list[link.BadFrame] = []
        self._pipe = pipe
        self._step = step
        self._numbers = 0
        self.sender = link.Sender()
        self.receiver = link.Receiver()
        self.connect()

    def connect(self) -> None:
        """Connect (again) and say HELLO."""
        self.socket = self._pipe.connect()
        self.receiver.reconnect()
        self.socket.sendall(link.hello(self.session, self.receiver.received))

    def hang_up(self) -> None:
        """Close the connection."""
        self.socket.close()

    def take(self) -> None:
        """Read what has arrived and acknowledge it."""
        self.socket.setblocking(False)
        while True:
            try:
                data = self.socket.recv(1 << 20)
            except BlockingIOError:
                break
            if not data:
                break
            for frame in self.receiver.feed(data):
                if isinstance(frame, link.BadFrame):
                    self.bad.append(frame)
                elif frame.kind == link.HELLO:
                    hello = link.read_hello(frame.body)
                    self.peers.append(hello.session)
                    for again in self.sender.resend(hello.received):
                        self.socket.sendall(again)
                else:
                    self.sender.acknowledge(frame.ack)
                    if frame.kind != link.ACK:
                        (self.history, self.control)[frame.kind].append(json.loads(frame.body))
        self.socket.setblocking(True)

    def acknowledge(self) -> None:
        """Tell the agent what has arrived."""
        self.socket.sendall(link.acknowledgement(self.receiver.received))

    def until(self, found: Callable[[], Any], timeout_s: float = 5.0) -> Any:
        """The first true value of `found`, with both ends running meanwhile."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self._step()
            self.take()
            value = found()
            if value:
                return value
        raise AssertionError(f"not within {timeout_s} s; control {self.control[-3:]}, history {self.history[-3:]}")

    def send(self, body: bytes) -> None:
        """A CONTROL frame with any body."""
        self.socket.sendall(self.sender.push(link.CONTROL, body, ack=self.receiver.received))

    def do(self, do: str, **fields: Any) -> dict[str, Any]:
        """A request and its reply."""
        self._numbers += 1
        number = self._numbers
        self.send(json.dumps({"id": number, "do": do, **fields}).encode())
        reply: dict[str, Any] = self.until(lambda: next((c for c in self.control if c.get("id") == number), None))
        return reply

    def ask(self, f: str, *, op: int = 0, process: str = "user.mem0", **value: Any) -> dict[str, Any]:
        """An operation that the controller began, and its end."""
        self._numbers += 1
        op = op or 1000 + self._numbers
        request = {"id": self._numbers, "do": "ask", "op": op, "process": process, "f": f}
        self.send(json.dumps({**request, "value": {"device": "mem0", **value}}).encode())
        end: dict[str, Any] = self.until(lambda: next((h for h in self.history if h["op"] == op), None))
        return end

    def ends(self, f: str) -> list[dict[str, Any]]:
        """The completions of `f` so far."""
        return [line for line in self.history if line["f"] == f and line["type"] != "invoke"]


class Bench:
    """A whole agent in one process: a fake device, the control, host U, and a controller."""

    def __init__(self, tmp_path: Path, fake: FakeDcd | None = None, *, departures: tuple[str, ...] = ()) -> None:
        self.fake = fake or FakeDcd()
        self.memory = tmp_path / "window"
        with self.memory.open("wb") as file:
            file.truncate(4 << 30)
        self.pipe = Pipe()
        self.port = Port(self.pipe, "agent", patience_s=2.0)
        self.control = Control(self.port, {SERIAL: device_of(self.fake, self.memory)})
        self.controller = Controller(self.pipe, self.step)
        reply = self.controller.do("name", devices={str(SERIAL): "mem0"}, departures=list(departures))
        assert reply["ok"], reply

    def step(self) -> None:
        """One round of the agent's loop."""
        for request in self.port.receive(0.0):
            self.control.handle(request)
        self.port.acknowledge()
        if self.port.up:
            for watched in self.control.watched.values():
                watched.host.turn()
            if self.port.queued:
                self.port.flush()

    def follow(
        self, add: dict[str, Any] | None = None, release: dict[str, Any] | None = None, *, breaks: str | None = None
    ) -> None:
        """Set the policies, and the clause to break."""
        add, release = add or {"kind": "accept"}, release or {"kind": "release"}
        reply = self.controller.do("policy", device="mem0", add=add, release=release, **{"break": breaks})
        assert reply["ok"], reply

    def quiet(self) -> None:
        """Until the log is empty and everything is told."""
        self.controller.until(lambda: not self.fake.log)
        self.controller.do("ping")

    def sent(self, f: str) -> list[list[list[int]]]:
        """The ranges of each `answer` or `give_back` that was begun."""
        return [
            line["value"].get("ranges")
            for line in self.controller.history
            if line["f"] == f and line["type"] == "invoke"
        ]

    def judgement(self) -> dict[str, Any]:
        """The guest's own judgement so far."""
        judgement: dict[str, Any] = self.controller.do("judgement")["judgement"]
        return judgement
