"""The controller's end of the link, against a scripted peer: what arrives, in which order, and what is refused.

The peer is a fake with named faults; nothing here says anything about QEMU or the guest.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dcdbackend import history, link
from dcdbackend.errors import LinkLost
from dcdbackend.guest import Channel, Intake
from dcdbackend.history import Header, History, Writer

HEADER = Header(
    backend="recorded",
    qemu=None,
    host={"generation": "U"},
    devices=({"name": "mem0", "serial": 1, "regions": []},),
    seed=0,
    scenario="test",
)
CLEAR = {"device": "mem0", "log": 4, "flags": 0, "handles": [1]}


@dataclass
class Peer:
    """The agent's end: frames go out through a real `link.Sender`, and bytes may be anything."""

    channel: Channel
    socket: socket.socket
    sender: link.Sender = field(default_factory=link.Sender)
    histories: list[dict[str, Any]] = field(default_factory=list)
    controls: list[dict[str, Any]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def frame(self, body: dict[str, Any], kind: int = link.HISTORY) -> bytes:
        return self.sender.push(kind, history.encode(body))

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(frames))

    def received(self) -> list[link.Frame | link.BadFrame]:
        self.socket.setblocking(False)
        data = b""
        while True:
            try:
                data += self.socket.recv(1 << 16)
            except BlockingIOError:
                return link.Receiver().feed(data)


@pytest.fixture
async def peer() -> Any:
    ours, theirs = socket.socketpair()
    holder: list[Peer] = []
    channel = Channel(
        ours,
        on_history=lambda body: holder[0].histories.append(body),
        on_control=lambda body: holder[0].controls.append(body),
        on_bad=lambda text: holder[0].bad.append(text),
        on_lost=lambda why: holder[0].lost.append(why),
    )
    holder.append(Peer(channel, theirs))
    yield holder[0]
    channel.close()
    holder[0].socket.close()


async def test_drain_takes_what_has_arrived_without_waiting_for_the_loop(peer: Peer) -> None:
    peer.send(peer.frame({"a": 1}), peer.frame({"b": 2}, link.CONTROL))
    assert peer.histories == []
    peer.channel.drain()
    assert (peer.histories, peer.controls) == ([{"a": 1}], [{"b": 2}])
    assert [frame.ack for frame in peer.received() if isinstance(frame, link.Frame)] == [0]
    await asyncio.sleep(0.05)  # an acknowledgement interrupts the guest: it comes a while later, for many
    assert [frame.ack for frame in peer.received() if isinstance(frame, link.Frame)] == [2]


async def test_a_flood_is_acknowledged_before_the_agent_must_wait(peer: Peer) -> None:
    peer.send(*(peer.frame({"n": number}) for number in range(200)))
    peer.channel.drain()
    assert [frame.ack for frame in peer.received() if isinstance(frame, link.Frame)][-1] == 200


async def test_the_loop_reads_even_if_nobody_drains(peer: Peer) -> None:
    for _ in range(50):
        peer.send(peer.frame({"x": "y" * 20_000}))
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert len(peer.histories) == 50


async def test_a_damaged_frame_is_asked_for_again_and_comes_once(peer: Peer) -> None:
    first, second, third = (peer.frame({"n": n}) for n in range(3))
    damaged = bytearray(second)
    damaged[-1] ^= 1
    peer.send(first, bytes(damaged), third)
    peer.channel.drain()
    assert peer.histories == [{"n": 0}]
    hellos = [f for f in peer.received() if isinstance(f, link.Frame) and f.kind == link.HELLO]
    assert link.read_hello(hellos[-1].body).received == 1
    peer.send(*peer.sender.resend(1))
    peer.channel.drain()
    assert peer.histories == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_what_the_agent_asks_for_again_is_sent_again(peer: Peer) -> None:
    peer.channel.control({"id": 1, "do": "ping"})
    peer.received()
    peer.send(link.hello("agent", 0))
    peer.channel.drain()
    again = [f for f in peer.received() if isinstance(f, link.Frame) and f.kind == link.CONTROL]
    assert [json.loads(frame.body)["id"] for frame in again] == [1]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (link.encode(link.CONTROL, b"not json", seq=1), "holds no JSON object"),
        (link.encode(link.HISTORY, b'{"value":NaN}', seq=1), "holds no JSON object"),
        (link.encode(link.HISTORY, b"[" * 60_000, seq=1), "holds no JSON object"),
        (link.encode(link.HELLO, b"{}"), "HELLO"),
        (link.acknowledgement(77), "frame 77 is acknowledged"),
        (b"\xd1\xdc" + b"\xff" * 40, "bytes that begin no frame"),
        (b"\xd1\xdc\x00" + b"\xff" * 40, "claims more than"),
        (link.encode(link.HISTORY, b"{}", seq=9), "frame 9 came where 1 was due"),
    ],
)
async def test_hostile_bytes_are_one_line_each_and_the_link_goes_on(peer: Peer, data: bytes, text: str) -> None:
    peer.send(data, bytes(link.MAX_FRAME))
    peer.channel.drain()
    assert any(text in line for line in peer.bad), peer.bad
    peer.channel._receiver.received = 0
    peer.send(peer.frame({"still": "here"}), bytes(link.MAX_FRAME))
    peer.channel.drain()
    assert {"still": "here"} in peer.histories
    assert peer.lost == []


async def test_an_agent_that_reads_nothing_ends_in_link_lost_not_in_memory(peer: Peer) -> None:
    with pytest.raises(LinkLost):
        for number in range(100_000):
            peer.channel.control({"id": number, "text": "x" * 1000})
    assert len(peer.channel._unsent) <= 1 << 20


async def test_a_lost_link_is_told_once_and_what_is_asked_meanwhile_is_kept(peer: Peer) -> None:
    peer.send(peer.frame({"last": "words"}))
    peer.socket.close()
    await asyncio.sleep(0.01)
    assert peer.histories == [{"last": "words"}]
    assert len(peer.lost) == 1
    peer.channel.control({"id": 1, "do": "ping"})
    ours, theirs = socket.socketpair()
    peer.socket = theirs
    peer.channel.attach(ours)
    peer.send(link.hello("agent", 0), *peer.sender.resend(0), peer.frame({"more": "words"}))
    peer.channel.drain()
    assert peer.histories == [{"last": "words"}, {"more": "words"}]
    asked = [frame for frame in peer.received() if isinstance(frame, link.Frame) and frame.kind == link.CONTROL]
    assert [json.loads(frame.body)["id"] for frame in asked] == [1]
    peer.channel.close()
    with pytest.raises(LinkLost, match="the agent's link is gone"):
        peer.channel.control({"do": "ping"})


@pytest.mark.parametrize("seed", range(20))
async def test_a_link_that_drops_at_any_byte_loses_and_doubles_nothing(peer: Peer, seed: int) -> None:
    rng = random.Random(seed)
    peer.send(link.hello("agent", 0))
    sent = 0
    for _ in range(10):
        frames = b"".join(peer.frame({"n": sent + index}) for index in range(5))
        sent += 5
        peer.socket.send(frames[: rng.randrange(len(frames) + 1)])
        peer.channel.drain()
        peer.socket.close()
        peer.channel.drain()
        ours, peer.socket = socket.socketpair()
        peer.channel.attach(ours)
        hello = next(frame for frame in peer.received() if isinstance(frame, link.Frame) and frame.kind == link.HELLO)
        peer.send(link.hello("agent", 0), *peer.sender.resend(link.read_hello(hello.body).received))
        peer.channel.drain()
    assert [body["n"] for body in peer.histories] == list(range(sent))


async def test_another_agent_counts_anew(peer: Peer) -> None:
    peer.send(link.hello("first", 0), peer.frame({"old": 1}))
    peer.channel.drain()
    peer.sender = link.Sender()
    new = peer.frame({"new": 1})
    peer.send(link.hello("second", 0), new)
    peer.channel.drain()
    peer.send(*peer.sender.resend(0))
    peer.channel.drain()
    assert peer.histories == [{"old": 1}, {"new": 1}]


@pytest.fixture
def intake(tmp_path: Path) -> Iterator[tuple[Intake, list[str], Writer]]:
    strays: list[str] = []
    taker = Intake(strays.append)
    ticks = iter(range(1 << 30))
    with Writer(tmp_path / "history.jsonl", HEADER, lambda: next(ticks)) as writer:
        taker.begin(writer)
        yield taker, strays, writer


def frame(op: int, kind: str, f: str = "clear", process: str = "host.mem0", value: Any = CLEAR) -> dict[str, Any]:
    return {"op": op, "process": process, "type": kind, "f": f, "value": value}


def lines(writer: Writer) -> list[tuple[int, int, str, str]]:
    with writer.path.open("rb") as file:
        return [(op.n, op.op, op.type, op.process) for op in History(file)]


def test_the_agents_own_numbers_become_the_historys(intake: tuple[Intake, list[str], Writer]) -> None:
    taker, strays, writer = intake
    asked = writer.invoke("user.mem0", "extents", {"device": "mem0", "count": 1, "start": 0})
    taker.take(frame(-1, "invoke"))
    taker.take(frame(asked, "ok", "extents", "user.mem0", {"rc": 0}))
    taker.take(frame(-1, "ok", value={"rc": 0}))
    taker.take(frame(-1, "invoke"))
    assert strays == []
    assert lines(writer) == [
        (1, 1, "invoke", "user.mem0"),
        (2, 2, "invoke", "host.mem0"),
        (3, 1, "ok", "user.mem0"),
        (4, 2, "ok", "host.mem0"),
        (5, 5, "invoke", "host.mem0"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        {},
        frame(1, "ok"),
        frame(-9, "ok"),
        frame(5, "invoke"),
        frame(-2, "invoke"),
        frame(-2, "invoke", process="manager"),
        frame(-2, "invoke", process="witness"),
        frame(-1, "ok", process="host.mem1"),
        frame(-1, "ok", f="answer"),
        frame(-2, "invoke", f="add", process="host.mem1"),
        frame(-2, "invoke", f="block", process="host.mem1"),
        frame(-2, "maybe"),
        frame(True, "invoke"),
        frame(-2, "invoke", value=[]),
        {**frame(-2, "invoke"), "f": ["clear"]},
        {**frame(-2, "invoke"), "type": {}},
    ],
)
def test_what_does_not_fit_is_a_stray_and_no_line(body: Any, intake: tuple[Intake, list[str], Writer]) -> None:
    taker, strays, writer = intake
    taker.take(frame(-1, "invoke"))
    before = lines(writer)
    taker.take(body)
    assert len(strays) == 1
    assert lines(writer) == before


def test_a_reading_that_is_open_when_a_history_begins_begins_in_it(tmp_path: Path) -> None:
    """An idle agent has begun its next 0100h; what it reads belongs to the history that is written by then."""
    strays: list[str] = []
    taker = Intake(strays.append)
    log = {"device": "mem0", "log": 4}
    nothing = {"rc": 0, "flags": 0, "overflow_count": 0, "records": []}
    taker.take(frame(-1, "invoke", "events", value=log))
    with Writer(tmp_path / "one", HEADER, lambda: 0) as one, Writer(tmp_path / "two", HEADER, lambda: 0) as two:
        taker.begin(one)
        taker.begin(None)
        taker.begin(two)
        taker.take(frame(-1, "ok", "events", value=nothing))
        taker.take(frame(-2, "invoke", "events", value=log))
        taker.restart()  # another agent counts anew
        taker.begin(None)
        taker.take(frame(-1, "ok", "events", value=nothing))
    assert lines(one) == [(1, 1, "invoke", "host.mem0")]
    assert lines(two) == [(n, op, kind, "host.mem0") for n, op, kind in ((1, 1, "invoke"), (2, 1, "ok"))] + [
        (3, 3, "invoke", "host.mem0"), (4, 3, "info", "host.mem0"),
    ]  # fmt: skip
    assert len(strays) == 1 and "between two histories" in strays[0]


def test_ten_thousand_random_frames_leave_a_history_that_reads(intake: tuple[Intake, list[str], Writer]) -> None:
    taker, strays, writer = intake
    rng = random.Random(20261121)
    values: list[Any] = [CLEAR, {}, {"rc": 0}, {"x": "\ud800"}, [], None, 1 << 70]
    for _ in range(10_000):
        taker.take(
            {
                "op": rng.choice([-2, -1, -1, -1, 0, 1, 1 << 80, True, "1", None]),
                "process": rng.choice(["host.mem0", "host.mem0", "host.mem1", "user.mem0", "manager", 7]),
                "type": rng.choice(["invoke", "ok", "fail", "info", "maybe", [], None]),
                "f": rng.choice(["clear", "clear", "clear", "answer", "block", 3, {}]),
                "value": rng.choice(values),
            }
        )
    assert len(lines(writer)) > 50
    assert len(strays) > 1000
