"""The session against a scripted world: what it witnesses, and the rule of order that makes a history sound.

The world is `model.reply`'s device behind a real `Channel`, with frames that a test delays at will; nothing here says
anything about QEMU or the guest.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dcdbackend import history, link
from dcdbackend.bench import Span, parse_span
from dcdbackend.checker import check
from dcdbackend.errors import AskedWrongly, CannotRun, Refused, Unserved
from dcdbackend.guest import Channel, Intake
from dcdbackend.history import Header, History, Writer
from dcdbackend.model import reply
from dcdbackend.model.state import config_of
from dcdbackend.session import MAX_BLOCKS_ASKED, Session

MIB = 1 << 20
DEVICE = {
    "name": "mem0",
    "serial": 1,
    "regions": [
        {"index": index, "base": index << 30, "decode_length": 1 << 30, "length": 1 << 30, "block_size": 2 * MIB}
        for index in range(2)
    ],
}
HEADER = Header(backend="recorded", qemu=None, host={"generation": "U"}, devices=(DEVICE,), seed=3, scenario="test")


class World:
    """Injector, host, witness, backend and feed in one: a device that keeps the rules and a host that accepts all.

    `held` frames are those that the agent has written and that have not arrived; `answering` is when the host serves
    its log: at once, or only inside the next question of a witness.
    """

    name = "world"
    f = "block"
    serves: frozenset[str] = frozenset()

    def __init__(self, sock: socket.socket) -> None:
        self.device = reply.device(config_of(DEVICE))
        self.sender = link.Sender()
        self.socket = sock
        self.held: list[bytes] = []
        self.answering = "at once"
        self.policy_name = "accept"
        self.ops = 0
        self.channel: Channel

    # -- the agent

    def frame(self, op: int, kind: str, f: str, value: dict[str, Any], process: str = "host.mem0") -> bytes:
        body = {"op": op, "process": process, "type": kind, "f": f, "value": value}
        return self.sender.push(link.HISTORY, history.encode(body))

    def command(self, f: str, sent: dict[str, Any]) -> dict[str, Any]:
        """One mailbox command: its invoke leaves the guest before the doorbell, its end is held back."""
        self.ops -= 1
        self.socket.sendall(self.frame(self.ops, "invoke", f, {"device": "mem0", **sent}))
        self.device, kind, received = reply.reply(self.device, f, sent)
        self.held.append(self.frame(self.ops, kind, f, received))
        return received

    def serve(self) -> None:
        """What the host does of its log: 0100h, one 4802h, 0101h."""
        self.deliver()
        records = self.command("events", {"log": 4})["records"]
        if not records:
            return
        self.deliver()
        ranges = [[record["dpa"], record["length"]] for record in records] if self.policy_name == "accept" else []
        if self.policy_name == "never":
            pass
        elif all(record["type"] == 0 for record in records):
            self.command("answer", {"flags": 0, "ranges": ranges})
        elif ranges:
            self.command("give_back", {"flags": 0, "ranges": ranges})
        held, self.held = self.held, []
        self.ops -= 1
        handles = {"log": 4, "flags": 0, "handles": [record["handle"] for record in records]}
        self.held = held
        self.device, kind, received = reply.reply(self.device, "clear", handles)
        self.held.append(self.frame(self.ops, "invoke", "clear", {"device": "mem0", **handles}))
        self.held.append(self.frame(self.ops, kind, "clear", received))

    def deliver(self) -> None:
        held, self.held = self.held, []
        self.socket.sendall(b"".join(held))

    # -- the plug points

    async def add(self, value: dict[str, Any]) -> None:
        self._managed("add", value)

    async def release(self, value: dict[str, Any]) -> None:
        self._managed("release", value)

    def _managed(self, f: str, value: dict[str, Any]) -> None:
        self.device, kind, received = reply.reply(self.device, f, value)
        if kind == "fail":
            raise Refused("refused", reason=received["desc"])
        if self.answering == "at once":
            self.serve()
            self.deliver()

    async def ask(self, value: dict[str, Any]) -> dict[str, Any]:
        if self.answering == "inside the question":
            self.answering = "no more"
            self.serve()
        self.device, _, received = reply.reply(self.device, "block", value)
        return received

    async def policy(self, device: str, *, add: Any, release: Any, breaks: str | None = None) -> None:
        self.policy_name = add["kind"]

    async def do(self, op: int, process: str, f: str, value: dict[str, Any]) -> None:
        self.device, kind, received = reply.reply(self.device, f, value)
        self.socket.sendall(self.frame(op, kind, f, received, process))

    async def reset(self) -> None:
        raise AssertionError("this world is not reset")

    async def judgement(self) -> dict[str, Any]:
        return {}

    def read(self, device: str, dpa: int, length_bytes: int) -> bytes:
        return bytes.fromhex(reply.reply(self.device, "bytes", {"dpa": dpa, "length": length_bytes})[2]["data"])

    def write(self, device: str, dpa: int, data: bytes) -> None:
        sent = {"dpa": dpa, "data": data.hex(), "side": "backend"}
        self.device = reply.reply(self.device, "store", sent)[0]

    # -- the feed

    def drain(self) -> None:
        self.channel.drain()

    async def until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        for _ in range(20):
            self.channel.drain()
            if done():
                return True
            await asyncio.sleep(0)
        return False


@asynccontextmanager
async def running(tmp_path: Path, kind: type[World] = World) -> AsyncIterator[tuple[Session, World]]:
    ours, theirs = socket.socketpair()
    ticks = iter(range(1 << 30))
    with theirs, Writer(tmp_path / "history.jsonl", HEADER, lambda: next(ticks)) as writer:
        world = kind(theirs)
        strays: list[str] = []
        intake = Intake(strays.append)
        intake.begin(writer)
        world.channel = Channel(
            ours, on_history=intake.take, on_control=lambda _: None, on_bad=strays.append, on_lost=strays.append
        )
        session = Session(
            writer=writer, feed=world, injector=world, host=world, witnesses={"block": world}, backend=world
        )
        try:
            yield session, world
        finally:
            world.channel.close()
        assert strays == []


async def test_an_offer_ends_with_what_was_witnessed(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, _):
        answer = await (await bench.add(["0+4M", "64M+2M"])).answer()
        assert answer.outcome == "accepted"
        assert answer.accepted == ((0, 4 * MIB), (64 * MIB, 2 * MIB))
        assert answer.witnesses["host"] == answer.accepted
        assert (await bench.verdict()).outcome == "pass"


async def test_a_refusal_by_the_host_and_one_by_the_device_are_told_apart(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, _):
        await bench.policy("refuse")
        assert (await (await bench.add(["0+4M"])).answer()).outcome == "refused"
        with pytest.raises(Refused):
            await bench.add(["1+4M"])
        assert (await bench.verdict()).outcome == "pass"


async def test_no_answer_is_unanswered_and_never_a_hang(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, world):
        world.answering = "no more"
        offer = await bench.add(["0+4M"])
        assert (await offer.answer()).outcome == "unanswered"
        world.serve()
        world.deliver()
        assert (await offer.answer()).outcome == "accepted"


async def test_a_release_request_is_over_when_its_record_is_cleared(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, world):
        await (await bench.add(["0+8M"])).answer()
        world.answering = "no more"
        request = await bench.release(["2M+2M"])
        assert (await request.response()).outcome == "unanswered"
        world.serve()
        world.deliver()
        response = await request.response()
        assert (response.outcome, response.released) == ("released", ((2 * MIB, 2 * MIB),))
        assert await bench.extents() == ((0, 2 * MIB), (4 * MIB, 4 * MIB))
        assert (await bench.verdict()).outcome == "pass"


async def test_the_host_reads_and_clears_its_log_when_told_to(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, world):
        world.answering = "no more"
        await bench.add(["0+2M", "4M+2M"])
        first, second = [record["handle"] for record in await bench.records()]
        assert await bench.clear([second]) == 0x0E
        assert await bench.clear([], everything=True) == 0x02
        assert await bench.clear([first, second]) == 0
        assert await bench.records() == ()
        assert not (await bench.verdict()).failed


async def test_settle_gives_everything_back_and_says_so_when_it_cannot(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, world):
        for offset in range(0, 400, 4):
            await (await bench.add([f"{offset}M+2M"])).answer()
        world.answering = "no more"
        await bench.add(["512M+2M"])
        await bench.settle()
        assert len(world.device.state.accepted) == len(world.device.state.pending) == 0

    async with running(new(tmp_path)) as (bench, world):
        await (await bench.add(["0+2M"])).answer()
        before = world.device
        world.do = stubborn(world)  # type: ignore[method-assign]
        with pytest.raises(CannotRun, match="still holds accepted"):
            await bench.settle()
        assert world.device.state.accepted == before.state.accepted


def new(tmp_path: Path) -> Path:
    (tmp_path / "again").mkdir()
    return tmp_path / "again"


def stubborn(world: World) -> Any:
    """A host that says that it gave back, and did not."""
    real = world.do

    async def do(op: int, process: str, f: str, value: dict[str, Any]) -> None:
        kept = world.device
        await real(op, process, f, value)
        world.device = kept if f == "give_back" else world.device

    return do


@pytest.mark.parametrize("drained", [True, False])
async def test_the_link_is_drained_before_a_witness_is_heard(tmp_path: Path, drained: bool) -> None:
    """The answer's invoke left the guest before the doorbell; its end, and all else, is delayed.

    With the link drained first, the witness that sees the block accepted comes after the invoke, and nothing is
    wrong. Without, the very same run would convict a device that did nothing wrong: so the drain is what does it.
    """
    async with running(tmp_path) as (bench, world):
        world.answering = "inside the question"
        await bench.add(["0+2M"])
        if not drained:
            world.drain = lambda: None  # type: ignore[method-assign]
        assert await bench.block(0) == "accepted"
        world.__dict__.pop("drain", None)
        world.deliver()
        world.drain()
        with (tmp_path / "history.jsonl").open("rb") as file:
            verdict = check(History(file))
        with (tmp_path / "history.jsonl").open("rb") as file:
            order = [(op.f, op.type) for op in History(file) if op.f in ("answer", "block")]
    if drained:
        assert order.index(("answer", "invoke")) < order.index(("block", "ok")) < order.index(("answer", "ok"))
        assert verdict.outcome == "pass", verdict.findings
    else:
        assert order.index(("block", "ok")) < order.index(("answer", "invoke"))
        assert [(finding.subject, finding.clause) for finding in verdict.failed] == [("device", "DEV-5.pending")]


@pytest.mark.parametrize("text", ["256M", "0-256M", "0+", "+4M", "0+4MB", "1.5M+2M"])
def test_an_extent_that_is_not_understood_is_one_clear_line(text: str) -> None:
    with pytest.raises(AskedWrongly):
        parse_span(text)


WRONG: dict[str, Callable[[Session], Any]] = {
    "a device that is not there": lambda bench: bench.add(["0+2M"], device="mem7"),
    "a device that is no name": lambda bench: bench.add(["0+2M"], device=7),  # type: ignore[arg-type]
    "extents as a text": lambda bench: bench.add("0+2M"),
    "extents as a span": lambda bench: bench.add(parse_span("0+2M")),  # type: ignore[arg-type]
    "an extent that is a number": lambda bench: bench.add([5]),  # type: ignore[list-item]
    "an extent below zero": lambda bench: bench.add([Span(-1, 5)]),
    "a region that is a text": lambda bench: bench.add(["0+2M"], region="0"),  # type: ignore[arg-type]
    "a region below zero": lambda bench: bench.release(["0+2M"], region=-1),
    "a policy that nobody has": lambda bench: bench.add(["0+2M"], policy="best"),
    "a selection policy for a release": lambda bench: bench.release(["0+2M"], policy="free"),
    "a tag that is none": lambda bench: bench.add(["0+2M"], tag="mine"),
    "a host id of 17 bits": lambda bench: bench.add(["0+2M"], host_id=1 << 16),
    "a block of another region": lambda bench: bench.block(0, region=9),
    "a block of no length": lambda bench: bench.block(0, length=0),
    "nothing to store": lambda bench: bench.store(0, b""),
    "a text to store": lambda bench: bench.store(0, "data"),  # type: ignore[arg-type]
    "a byte past the device": lambda bench: bench.store((2 << 30) - 1, b"ab"),
    "more than a page": lambda bench: bench.load(0, 4097),
    "a DPA that is a text": lambda bench: bench.read("0", 4096),  # type: ignore[arg-type]
    "a backend of another device": lambda bench: bench.write(0, b"a", device="mem7"),
    "ranges that are numbers": lambda bench: bench.give_back([5]),  # type: ignore[list-item]
    "a range below zero": lambda bench: bench.answer([(-1, 5)]),
    "a handle that is a text": lambda bench: bench.clear(["1"]),  # type: ignore[list-item]
    "a page that is a text": lambda bench: bench.extents(page="1"),  # type: ignore[arg-type]
    "records of another device": lambda bench: bench.records(device="mem7"),
    "a policy of another device": lambda bench: bench.policy("accept", device="mem7"),
    "what cannot be sent": lambda bench: bench.policy("late", delay_s=object()),
    "a time that is none": lambda bench: bench.idle(timeout_s=float("nan")),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_is_asked_wrongly_is_one_line_and_nothing_is_written(tmp_path: Path, what: str) -> None:
    async with running(tmp_path) as (bench, _):
        with pytest.raises(AskedWrongly) as wrong:
            await WRONG[what](bench)
        assert "\n" not in str(wrong.value)
        offer = bench._offers["mem0"]
        assert offer == [] and not bench._requests
    with (tmp_path / "history.jsonl").open("rb") as file:
        assert list(History(file)) == []


async def test_a_tag_is_known_in_both_of_its_forms(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, _):
        await bench.add(["0+2M"], tag="0F1E2D3C-4B5A-6978-8796-A5B4C3D2E1F0")
    with (tmp_path / "history.jsonl").open("rb") as file:
        assert next(iter(History(file))).value["tag"] == "0f1e2d3c4b5a69788796a5b4c3d2e1f0"


async def test_answers_and_verdicts_read_well(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, _):
        assert str(await (await bench.add(["0+4M", "64M+2M"])).answer()) == "accepted 0x0+4M 0x4000000+2M"
        assert str(await (await bench.release(["2M+2M"])).response()) == "released 0x200000+2M"
        await bench.policy("refuse")
        assert str(await (await bench.add(["128M+2M"])).answer()) == "not accepted 0x8000000+2M"
        verdict = await bench.verdict()
        (first,) = str(verdict).splitlines()
        assert re.fullmatch(r"pass: \d+ operations, \d+ clauses held in \d+ judgements", first)


async def test_a_bench_of_one_guest_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, _):
        with pytest.raises(Unserved, match="one guest only"):
            bench.beside()


async def test_what_is_over_is_over(tmp_path: Path) -> None:
    async with running(tmp_path) as (bench, _):
        await (await bench.add(["0+4M"])).answer()
        bench.writer.close()
        with pytest.raises(AskedWrongly, match=r"the run of .* is over"):
            await bench.add(["4M+4M"])
        assert (await bench.verdict()).outcome == "pass"


class Preparing(World):
    """A witness that can prepare; the host answers a while after it was asked to."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.answering = "later"
        self.told: list[tuple[str, dict[str, Any]]] = []

    def foresee(self, value: dict[str, Any]) -> None:
        self.told.append(("foresee", value))
        asyncio.get_running_loop().call_later(0.01, self.rings)

    def rings(self) -> None:
        self.told.append(("answers", {}))
        self.serve()
        self.deliver()

    async def ask(self, value: dict[str, Any]) -> dict[str, Any]:
        self.told.append(("ask", value))
        return await super().ask(value)

    async def until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        for _ in range(round(timeout_s / 0.001)):
            if await super().until(done, 0):
                return True
            await asyncio.sleep(0.001)
        return False


async def test_the_first_question_is_foreseen_while_the_host_is_awaited_and_asked_afterwards(tmp_path: Path) -> None:
    async with running(tmp_path, Preparing) as (bench, world):
        assert isinstance(world, Preparing)
        offer = await bench.add(["64M+4M"])
        assert world.told == []
        assert (await offer.answer(timeout_s=2)).outcome == "accepted"
        first = {"device": "mem0", "region": 0, "offset": 64 * MIB, "length": 2 * MIB}
        assert world.told[:3] == [("foresee", first), ("answers", {}), ("ask", first)]
        assert [what for what, _ in world.told[3:]] == ["ask"] * 3, "the other block, and a neighbour on each side"

        world.told.clear()
        request = await bench.release(["64M+2M"])
        assert (await request.response(timeout_s=2)).outcome == "released"
        assert world.told[:3] == [("foresee", first), ("answers", {}), ("ask", first)]

        world.told.clear()
        assert (await offer.answer(timeout_s=2)).outcome == "partial", "the first half is gone by now"
        assert {what for what, _ in world.told} == {"ask"}, "nothing is awaited, so nothing is foreseen"


async def test_what_is_drawn_by_lot_is_not_foreseen(tmp_path: Path) -> None:
    async with running(tmp_path, Preparing) as (bench, world):
        assert isinstance(world, Preparing)
        offer = await bench.add([Span(0, (MAX_BLOCKS_ASKED + 1) * 2 * MIB)])
        asyncio.get_running_loop().call_later(0.01, world.rings)
        assert (await offer.answer(timeout_s=2)).outcome == "accepted"
        assert "foresee" not in {what for what, _ in world.told}


class Stuck(World):
    """A witness and a host that never answer, until they are let go."""

    let_go = False

    async def ask(self, value: dict[str, Any]) -> dict[str, Any]:
        if not self.let_go:
            await asyncio.sleep(60)
        return await super().ask(value)

    async def do(self, op: int, process: str, f: str, value: dict[str, Any]) -> None:
        if not self.let_go:
            await asyncio.sleep(60)
        await super().do(op, process, f, value)


@pytest.mark.parametrize("what", ["block", "extents"])
async def test_what_nobody_waits_for_any_more_ends_unknown(tmp_path: Path, what: str) -> None:
    """A script that cancels a call, and goes on, writes a history that can be judged."""
    async with running(tmp_path, Stuck) as (session, world):

        async def call() -> Any:
            return await (session.block(0) if what == "block" else session.extents())

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await call()
        assert isinstance(world, Stuck)
        world.let_go = True
        assert await call() in ("free", ())
        assert [op.type for op in lines(session) if op.f == what] == ["invoke", "info", "invoke", "ok"]
        await session.verdict()


def lines(session: Session) -> list[history.Op]:
    with session.writer.path.open("rb") as file:
        return list(History(file))
