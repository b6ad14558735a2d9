"""The agent on a real QEMU: everything that it claims of registers, windows, policies and its own judgement.

One guest serves most tests; each leaves it holding nothing. The controller here is a small one of its own, so that
what is tested is the agent and not the package's controller.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dcdbackend import image, link, machine, topology
from dcdbackend.agent.policy import BREAKS
from dcdbackend.model.departures import applicable
from dcdbackend.qmp import Qmp
from dcdbackend.rules import CLAUSES
from dcdbackend.units import GIB, MIB

pytestmark = [pytest.mark.vm, pytest.mark.asyncio(loop_scope="module")]

BLOCK = topology.BLOCK_SIZE
READY_S = 120.0
ANSWER_S = 10.0


class Controller:
    """The controller's end of the link, asked and answered one request at a time."""

    def __init__(self, vm: machine.Machine, session: str) -> None:
        self.history: list[dict[str, Any]] = []
        self.control: list[dict[str, Any]] = []
        self.bad: list[link.BadFrame] = []
        self.peers: list[str] = []
        self._vm = vm
        self._session = session
        self._number = 0
        self._sender = link.Sender()
        self._receiver = link.Receiver()

    async def connect(self) -> None:
        """Connect (again) and say HELLO."""
        self._socket = await self._vm.connect(machine.LINK_SOCKET)
        self._receiver.reconnect()
        await self.write(link.hello(self._session, self._receiver.received))

    def hang_up(self) -> None:
        self._socket.close()

    async def write(self, data: bytes) -> None:
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(self._socket, data), ANSWER_S)

    async def send(self, body: bytes) -> None:
        await self.write(self._sender.push(link.CONTROL, body, ack=self._receiver.received))

    async def take(self, timeout_s: float) -> None:
        """What arrives within the time, one piece of it; acknowledged."""
        loop = asyncio.get_running_loop()
        try:
            data = await asyncio.wait_for(loop.sock_recv(self._socket, 1 << 16), timeout_s)
        except TimeoutError:
            return
        assert data, "QEMU closed the link"
        for frame in self._receiver.feed(data):
            if isinstance(frame, link.BadFrame):
                self.bad.append(frame)
                await self.write(link.hello(self._session, self._receiver.received))
            elif frame.kind == link.HELLO:
                hello = link.read_hello(frame.body)
                self.peers.append(hello.session)
                for again in self._sender.resend(hello.received):
                    await self.write(again)
            else:
                self._sender.acknowledge(frame.ack)
                if frame.kind != link.ACK:
                    (self.history, self.control)[frame.kind].append(json.loads(frame.body))
        await self.write(link.acknowledgement(self._receiver.received))

    async def until(self, found: Callable[[], Any], timeout_s: float = ANSWER_S) -> Any:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        while not (value := found()):
            left = end - loop.time()
            assert left > 0, f"not within {timeout_s} s; control {self.control[-3:]}; {self._vm.console_tail()[-600:]}"
            assert self._vm.returncode is None, self._vm.console_tail()[-600:]
            await self.take(min(left, 1.0))
        return value

    async def do(self, do: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        await self.send(json.dumps({"id": number, "do": do, **fields}).encode())
        reply: dict[str, Any] = await self.until(
            lambda: next((body for body in self.control if body.get("id") == number), None)
        )
        return reply

    async def ask(self, f: str, device: str = "mem0", **value: Any) -> dict[str, Any]:
        self._number += 1
        op = 100_000 + self._number
        request = {"id": self._number, "do": "ask", "op": op, "process": f"user.{device}", "f": f}
        await self.send(json.dumps({**request, "value": {"device": device, **value}}).encode())
        end: dict[str, Any] = await self.until(lambda: next((line for line in self.history if line["op"] == op), None))
        return end


class Guest:
    """A booted guest: QEMU, its monitor, the agent."""

    def __init__(self, vm: machine.Machine, qmp: Qmp, shape: topology.Topology, run_dir: Path) -> None:
        self.vm = vm
        self.qmp = qmp
        self.shape = shape
        self.run_dir = run_dir
        self.controller = Controller(vm, "test")
        self.ready: dict[str, Any] = {}
        self.departures = sorted(applicable(qmp.version))

    async def begin(self) -> None:
        await self.controller.connect()
        control = self.controller.control
        self.ready = await self.controller.until(
            lambda: next((body["ready"] for body in control if "ready" in body), None), READY_S
        )

    async def name(self) -> None:
        names = {str(device.serial): device.name for device in self.shape.devices}
        reply = await self.controller.do("name", devices=names, departures=self.departures)
        assert reply["ok"], reply

    async def follow(
        self,
        add: dict[str, Any] | None = None,
        release: dict[str, Any] | None = None,
        breaks: str | None = None,
        device: str = "mem0",
    ) -> None:
        add, release = add or {"kind": "accept"}, release or {"kind": "release"}
        reply = await self.controller.do("policy", device=device, add=add, release=release, **{"break": breaks})
        assert reply["ok"], reply

    async def add(self, *ranges: tuple[int, int], region: int = 0, device: str = "mem0") -> list[dict[str, Any]]:
        """Offer (offset, length) each; the lines of the history until the records are cleared."""
        return await self._until_cleared(lambda: self.qmp.add(device, region, ranges), len(ranges), device)

    async def release(self, *ranges: tuple[int, int], region: int = 0, device: str = "mem0") -> list[dict[str, Any]]:
        return await self._until_cleared(lambda: self.qmp.release(device, region, ranges), len(ranges), device)

    async def _until_cleared(self, inject: Callable[[], Any], records: int, device: str) -> list[dict[str, Any]]:
        history = self.controller.history
        start = len(history)
        await inject()

        def cleared() -> bool:
            begun = {line["op"]: line for line in history[start:] if line["type"] == "invoke" and line["f"] == "clear"}
            ended = [line["op"] for line in history[start:] if line["type"] == "ok" and line["f"] == "clear"]
            return sum(len(begun[op]["value"]["handles"]) for op in ended if op in begun) >= records

        await self.controller.until(cleared)
        return [line for line in history[start:] if line["process"] == f"host.{device}"]

    async def states(self, *offsets: int, region: int = 0, device: str = "mem0") -> list[str]:
        return [await self.qmp.block_state(device, region, offset, BLOCK) for offset in offsets]

    async def empty(self) -> None:
        """Bring the device back to holding nothing, and see that it does."""
        for device in self.shape.devices:
            await self.follow(device=device.name)
            for _ in range(16):
                if "pending" not in await self.states(*range(0, 64 * MIB, BLOCK), device=device.name):
                    break
                await self.controller.ask("answer", device.name, flags=0, ranges=[])
            while True:
                page = (await self.controller.ask("extents", device.name, count=50, start=0))["value"]
                if not page["extents"]:
                    break
                ranges = [[extent["dpa"], extent["length"]] for extent in page["extents"]]
                end = await self.controller.ask("give_back", device.name, flags=0, ranges=ranges)
                assert end["type"] == "ok", end

    async def judgement(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.controller.do("judgement"))["judgement"]
        return found

    def backend(self, name: str = "mem0") -> Path:
        """The file behind the dynamic capacity."""
        return self.run_dir / self.shape.device(name).dc_file


@asynccontextmanager
async def booted(parts: image.Parts, run_dir: Path, shape: topology.Topology, *extra: str) -> AsyncIterator[Guest]:
    qemu = await machine.probe_qemu(parts.qemu_argv, origin=parts.qemu_origin)
    accel = await machine.choose_accel(qemu, kernel=parts.kernel, cache_dir=image.cache_dir())
    argv = machine.full_argv(qemu=qemu, topology=shape, kernel=parts.kernel, initrd=parts.initrd, accel=accel)
    async with (
        machine.Machine(qemu=qemu, argv=[*argv, *extra], run_dir=run_dir) as vm,
        Qmp.connect(vm.take_qmp(), log=run_dir / "qmp.jsonl") as qmp,
    ):
        guest = Guest(vm, qmp, shape, run_dir)
        await guest.begin()
        yield guest
        guest.controller.hang_up()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def booted_once(parts: image.Parts, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guest]:
    run_dir = tmp_path_factory.mktemp("agent")
    async with booted(parts, run_dir, topology.direct(regions=2, size=GIB)) as guest:
        await guest.name()
        yield guest
        judgement = await guest.judgement()
        assert not fails(judgement, "device"), [f for f in judgement["findings"] if f["subject"] == "device"]


@pytest_asyncio.fixture(loop_scope="module")
async def guest(booted_once: Guest) -> AsyncIterator[Guest]:
    await booted_once.empty()
    yield booted_once
    await booted_once.empty()


def lines(found: list[dict[str, Any]]) -> list[str]:
    """What happened. The next reading of the log is announced ahead, and given up when something else comes first:
    only a reading's own end says that it happened."""
    told = [f"{line['f']} {line['type']}" for line in found]
    return [line for line in told if line not in ("events invoke", "events info")]


def sent(found: list[dict[str, Any]], f: str) -> list[Any]:
    return [line["value"].get("ranges") for line in found if line["f"] == f and line["type"] == "invoke"]


def fails(judgement: dict[str, Any], subject: str) -> dict[str, int]:
    return {clause: counts["fail"] for clause, counts in judgement[subject].items() if counts["fail"]}


# -- taking the device -----------------------------------------------------------------------------------------------


async def test_what_the_agent_says_when_it_is_ready(guest: Guest) -> None:
    ready = guest.ready
    assert ready["crcmod_extension"] is True
    assert ready["python"].startswith("3.") and ready["kernel"] and 0 < ready["uptime_s"] < READY_S
    (device,) = ready["devices"]
    (described,) = guest.shape.devices
    assert (device["serial"], device["payload_size"], device["error"]) == (described.serial, 2048, None)
    regions = [(r["index"], r["base"], r["length"], r["block_size"]) for r in device["regions"]]
    expected = topology.expected_regions(described)
    assert regions == [(r.index, r.base, r.length, r.block_size) for r in expected]
    assert all(region["decode_length"] >= region["length"] for region in device["regions"])
    assert ready["window"]["base"] == device["window_base"] and ready["window"]["size"] >= described.capacity_bytes
    assert device["supported_extents"] > 0 and device["pci"].count(":") == 2


async def test_an_offer_from_record_to_answer(guest: Guest) -> None:
    found = await guest.add((0, 64 * MIB), (128 * MIB, BLOCK))
    assert lines(found) == ["events ok", "answer invoke", "answer ok", "clear invoke", "clear ok"]
    assert sent(found, "answer") == [[[0, 64 * MIB], [128 * MIB, BLOCK]]]
    assert await guest.states(0, 62 * MIB, 64 * MIB, 128 * MIB, 130 * MIB) == [
        "accepted", "accepted", "free", "accepted", "free",
    ]  # fmt: skip
    (records,) = [line["value"]["records"] for line in found if line["f"] == "events" and line["type"] == "ok"]
    assert [(r["dpa"], r["length"], r["more"]) for r in records] == [(0, 64 * MIB, True), (128 * MIB, BLOCK, False)]
    ids = [line["op"] for line in guest.controller.history if line["process"] == "host.mem0"]
    assert ids == sorted(ids, reverse=True) and Counter(ids).most_common(1)[0][1] == 2


# -- policies --------------------------------------------------------------------------------------------------------

OFFER = ((0, 8 * MIB), (16 * MIB, 8 * MIB))


@pytest.mark.parametrize(
    ("add", "states"),
    [
        ({"kind": "accept"}, "accepted accepted accepted accepted"),
        ({"kind": "refuse"}, "free free free free"),
        ({"kind": "subset", "keep": [1]}, "free free accepted accepted"),
        ({"kind": "subset", "first_bytes": BLOCK}, "accepted free accepted free"),
        ({"kind": "subset", "keep": [0], "last_bytes": 4 * MIB}, "free accepted free free"),
        ({"kind": "subset", "parts": [[1, 4 * MIB, BLOCK]]}, "free free free accepted"),
        ({"kind": "never"}, "pending pending pending pending"),
        ({"kind": "reverse"}, "accepted accepted accepted accepted"),
    ],
)
async def test_policies_for_offers(guest: Guest, add: dict[str, Any], states: str) -> None:
    await guest.follow(add)
    await guest.add(*OFFER)
    assert await guest.states(0, 4 * MIB, 16 * MIB, 20 * MIB) == states.split()


async def test_a_late_answer_leaves_the_offer_pending_and_the_agent_awake(guest: Guest) -> None:
    await guest.follow({"kind": "late", "delay_s": 0.5})
    await guest.qmp.add("mem0", 0, [(0, BLOCK)])
    await asyncio.sleep(0.1)
    assert (await guest.controller.do("ping"))["ok"]
    assert await guest.states(0) == ["pending"]
    await guest.controller.until(lambda: lines(guest.controller.history)[-1:] == ["clear ok"])
    assert await guest.states(0) == ["accepted"]


async def test_several_answers_with_more(guest: Guest) -> None:
    """QEMU settles the chain at the first one, a known departure (DEV-6.more): the second is refused."""
    await guest.follow({"kind": "several", "each": 1})
    found = await guest.add(*OFFER)
    begun = [line["value"] for line in found if line["f"] == "answer" and line["type"] == "invoke"]
    assert [(value["flags"], len(value["ranges"])) for value in begun] == [(1, 1), (0, 1)]
    assert (await guest.states(0))[0] == "accepted"


@pytest.mark.parametrize(
    ("release", "states"),
    [
        ({"kind": "release"}, "free free free"),
        ({"kind": "decline"}, "accepted accepted accepted"),
        ({"kind": "part", "first_bytes": BLOCK}, "free accepted accepted"),
        ({"kind": "part", "offset_bytes": BLOCK, "length_bytes": BLOCK}, "accepted free accepted"),
    ],
)
async def test_policies_for_release_requests(guest: Guest, release: dict[str, Any], states: str) -> None:
    await guest.add((0, 8 * MIB))
    await guest.follow(release=release)
    await guest.release((0, 8 * MIB))
    assert await guest.states(0, BLOCK, 4 * MIB) == states.split()


async def test_a_release_of_the_middle_splits_and_one_may_span_neighbours(guest: Guest) -> None:
    await guest.add((0, 8 * MIB))
    await guest.add((8 * MIB, 8 * MIB))
    assert sent(await guest.release((4 * MIB, 8 * MIB)), "give_back") == [[[4 * MIB, 8 * MIB]]]
    page = (await guest.controller.ask("extents", count=50, start=0))["value"]
    assert sorted((e["dpa"], e["length"]) for e in page["extents"]) == [(0, 4 * MIB), (12 * MIB, 4 * MIB)]


async def test_polling_by_sleep_and_by_spin(guest: Guest) -> None:
    for mode in ("spin", "sleep"):
        assert (await guest.controller.do("poll", mode=mode))["ok"]
        await guest.add((0, BLOCK))
        assert await guest.states(0) == ["accepted"]
        await guest.release((0, BLOCK))
        assert await guest.states(0) == ["free"]


# -- the guest's own judgement ---------------------------------------------------------------------------------------


async def test_a_host_that_keeps_the_rules_is_not_convicted(guest: Guest) -> None:
    before = await guest.judgement()
    await guest.add(*OFFER)
    await guest.release((0, 8 * MIB))
    after = await guest.judgement()
    assert fails(after, "device") == fails(before, "device") and fails(after, "host") == fails(before, "host")
    assert after["host"]["DEV-6.inside"]["pass"] > before["host"].get("DEV-6.inside", {"pass": 0})["pass"]


@pytest.mark.parametrize("clause", sorted(BREAKS))
async def test_a_host_told_to_break_a_rule_is_convicted_in_the_guest_although_it_obeyed(
    guest: Guest, clause: str
) -> None:
    """Above all DEV-6 and DEV-7. The device refuses what it must, keeps its state, and the policy's answer follows."""
    await guest.add((64 * MIB, BLOCK))
    before = await guest.judgement()
    await guest.follow(breaks=clause)
    found = await guest.add(*OFFER)
    if clause == "DEV-6.oldest":
        found += await guest.add((32 * MIB, BLOCK))
    found += await guest.release((64 * MIB, BLOCK))
    after = await guest.judgement()
    assert await guest.states(0, 4 * MIB, 16 * MIB, 20 * MIB, 64 * MIB) == ["accepted"] * 4 + ["free"]
    broken = {name for name, count in fails(after, "host").items() if count > fails(before, "host").get(name, 0)}
    if CLAUSES[clause].subject == "host":
        assert broken == {clause}
        carried = [line["value"]["judged"]["host"] for line in found if line["value"].get("judged", {}).get("host")]
        assert {clause: "fail"} in carried, "the completion of the guilty command carries it"
    else:
        assert broken == set()
        assert after["device"][clause]["pass"] > before["device"].get(clause, {"pass": 0})["pass"]
        raw = next(line["value"] for line in found if "raw" in line["value"])
        assert raw["raw"].startswith("02000000"), "what does not parse is kept as it was in the registers"
    assert fails(after, "device") == {}, [f for f in after["findings"] if f["subject"] == "device"]


# -- loads and stores ------------------------------------------------------------------------------------------------


async def test_what_the_host_stores_is_in_the_backend_and_the_other_way_round(guest: Guest) -> None:
    region = topology.expected_regions(guest.shape.devices[0])[1]
    await guest.add((0, 8 * MIB))
    await guest.add((BLOCK, 4 * MIB), region=1)
    chance = random.Random(4)
    for dpa, length in ((0, 4096), (4093, 7), (BLOCK - 3, 4096), (8 * MIB - 1, 1), (region.base + BLOCK + 5, 1000)):
        data = chance.randbytes(length)
        assert (await guest.controller.ask("store", dpa=dpa, data=data.hex(), side="host"))["type"] == "ok"
        with guest.backend().open("r+b") as file:
            file.seek(dpa)
            assert file.read(length) == data, hex(dpa)
            other = chance.randbytes(length)
            file.seek(dpa)
            file.write(other)
        load = await guest.controller.ask("load", dpa=dpa, length=length)
        assert bytes.fromhex(load["value"]["data"]) == other, hex(dpa)


async def test_capacity_that_was_not_accepted_gives_zeros_and_keeps_nothing(guest: Guest) -> None:
    await guest.follow({"kind": "never"})
    await guest.add((0, BLOCK))
    with guest.backend().open("r+b") as file:
        for dpa in (0, 64 * MIB):  # pending, free
            file.seek(dpa)
            file.write(b"\xa5" * 64)
            file.flush()
            load = await guest.controller.ask("load", dpa=dpa, length=64)
            assert load["value"]["data"] == "00" * 64
            await guest.controller.ask("store", dpa=dpa, data="5a" * 64, side="host")
            file.seek(dpa)
            assert file.read(64) == b"\xa5" * 64


async def test_a_neighbour_of_what_is_accepted_is_not_touched(guest: Guest) -> None:
    await guest.add((4 * MIB, BLOCK))
    with guest.backend().open("r+b") as file:
        file.seek(4 * MIB - 64)
        file.write(bytes(64))
        file.seek(6 * MIB)
        file.write(bytes(64))
        file.flush()
        await guest.controller.ask("store", dpa=4 * MIB - 32, data="77" * 64, side="host")
        await guest.controller.ask("store", dpa=6 * MIB - 32, data="88" * 64, side="host")
        file.seek(4 * MIB - 64)
        assert file.read(96) == bytes(64) + b"\x77" * 32
        file.seek(6 * MIB - 32)
        assert file.read(64) == b"\x88" * 32 + bytes(32)


# -- commands that the controller asks for ---------------------------------------------------------------------------


async def test_the_extent_list_page_by_page(guest: Guest) -> None:
    ranges = [(index * 4 * MIB, BLOCK) for index in range(64)]
    for at in range(0, 64, 8):
        await guest.add(*ranges[at : at + 8])
    found: list[tuple[int, int]] = []
    while True:
        page = (await guest.controller.ask("extents", count=1000, start=len(found)))["value"]
        assert page["total"] == 64 and len(page["extents"]) <= 50
        if not page["extents"]:
            break
        found += [(extent["dpa"], extent["length"]) for extent in page["extents"]]
    assert sorted(found) == ranges
    past = await guest.controller.ask("extents", count=1, start=65)
    assert (past["type"], past["value"]["rc"]) == ("fail", 2)


async def test_giving_back_unasked(guest: Guest) -> None:
    await guest.add((0, 8 * MIB))
    end = await guest.controller.ask("give_back", flags=0, ranges=[[BLOCK, BLOCK]])
    assert (end["type"], end["value"]["rc"]) == ("ok", 0)
    assert await guest.states(0, BLOCK, 4 * MIB) == ["accepted", "free", "accepted"]
    end = await guest.controller.ask("give_back", flags=0, ranges=[[BLOCK, BLOCK]])
    assert (end["type"], end["value"]["rc"]) == ("fail", 0x0F)


async def test_raw_commands_up_to_the_whole_payload(guest: Guest) -> None:
    assert (await guest.controller.do("raw", device="mem0", opcode=0x48FF))["rc"] == 3
    reply = await guest.controller.do("raw", device="mem0", opcode=0x4000)
    assert reply["rc"] == 0 and bytes.fromhex(reply["payload"]).startswith(b"BWFW VERSION")
    payload = (
        bytes([85, 0, 0, 0])
        + bytes(4)
        + b"".join(
            (index * 4 * MIB).to_bytes(8, "little") + BLOCK.to_bytes(8, "little") + bytes(8) for index in range(85)
        )
    )
    end = await guest.controller.ask("answer", flags=0, ranges=[[index * 4 * MIB, BLOCK] for index in range(85)])
    assert len(payload) == 2048 and end["type"] == "fail" and end["value"]["rc"] in (0x0F, 0x1D)
    too_long = await guest.controller.do("raw", device="mem0", opcode=0x4802, payload=(payload + b"\0").hex())
    assert too_long["kind"] == "AskedWrongly" and "2049 bytes" in too_long["error"]


# -- the link --------------------------------------------------------------------------------------------------------


async def test_the_controller_drops_the_connection_and_comes_back(guest: Guest) -> None:
    controller = guest.controller
    for gap_s, offset in ((0.0, 0), (0.3, 16 * MIB), (0.0, 32 * MIB)):
        cleared = lines(controller.history).count("clear ok")
        await guest.qmp.add("mem0", 0, [(offset, BLOCK)])
        controller.hang_up()
        await asyncio.sleep(gap_s)
        await controller.connect()
        assert (await controller.do("ping"))["ok"]
        await controller.until(lambda: lines(controller.history).count("clear ok") > cleared)  # noqa: B023 (awaited here)
        assert await guest.states(offset) == ["accepted"]
    begun = [line["op"] for line in controller.history if line["type"] == "invoke"]
    ended = [line["op"] for line in controller.history if line["type"] != "invoke" and line["op"] < 0]
    assert begun == list(range(-1, -len(begun) - 1, -1)), "none lost, none twice"
    assert sorted(ended, reverse=True) in (begun, begun[:-1]), (
        "none lost, none twice, but the reading that is announced"
    )


async def test_nothing_happens_while_nobody_listens(guest: Guest) -> None:
    """What could not be written ahead is not done: the offer waits for the controller."""
    guest.controller.hang_up()
    await asyncio.sleep(0.2)
    await guest.qmp.add("mem0", 0, [(0, BLOCK)])
    await asyncio.sleep(0.3)
    assert await guest.states(0) == ["pending"]
    await guest.controller.connect()
    await guest.controller.until(lambda: lines(guest.controller.history)[-1:] == ["clear ok"])
    assert await guest.states(0) == ["accepted"]


async def test_garbage_from_the_controllers_side(guest: Guest) -> None:
    chance = random.Random(3)
    controller = guest.controller
    for _ in range(100):
        await controller.write(chance.randbytes(chance.randrange(1, 2000)))
    for body in (b"", b"[]", b"{", b"[" * 30_000, b'{"do":"ask"}', b'{"id":1,"do":[]}', b"\xff\xfe"):
        await controller.send(body)
    await controller.write(bytes(link.MAX_FRAME))  # whatever a false header claimed has arrived
    assert (await controller.do("ping"))["ok"]
    await guest.add((0, BLOCK))
    assert await guest.states(0) == ["accepted"]


async def test_a_flood_of_requests_that_nobody_reads_the_answers_of(guest: Guest) -> None:
    controller = guest.controller
    for index in range(400):
        await controller.send(json.dumps({"id": 50_000 + index, "do": "judgement"}).encode())
    await controller.until(lambda: any(body.get("id") == 50_399 for body in controller.control), 30.0)
    assert (await controller.do("ping"))["ok"]


async def test_a_new_controller_is_introduced(guest: Guest) -> None:
    old = guest.controller
    old.hang_up()
    guest.controller = Controller(guest.vm, "another")
    try:
        ready = guest.ready
        await guest.begin()
        assert guest.ready == ready
        assert guest.controller.peers[-1] != old.peers[-1]
        found = await guest.add((0, BLOCK))
        assert len(lines(found)) == 5 and await guest.states(0) == ["accepted"]
    finally:
        guest.controller.history[:0] = old.history


# -- other machines --------------------------------------------------------------------------------------------------


async def test_registers_are_accessed_by_4_and_8_bytes_only(parts: image.Parts, tmp_path: Path) -> None:
    """CXL r3.1 8.2.8; seen by QEMU itself. Memory may also be accessed by the byte, at a store's ragged ends."""
    trace = tmp_path / "trace.log"
    extra = ("-trace", "memory_region_ops_*", "-D", str(trace))
    async with booted(parts, tmp_path / "run", topology.direct(size=GIB), *extra) as guest:
        await guest.name()
        await guest.add((0, 8 * MIB), (16 * MIB, BLOCK))
        await guest.controller.ask("store", dpa=4093, data="5a" * 100, side="host")
        await guest.controller.ask("load", dpa=4091, length=101)
        await guest.controller.do("raw", device="mem0", opcode=0x48FF, payload="11" * 2048)
    sizes: dict[str, set[int]] = {}
    with trace.open(errors="replace") as file:
        for line in file:
            seen = re.search(r"memory_region_ops_(?:read|write) .* size (\d+) name '([^']*)'", line)
            if seen:
                sizes.setdefault(seen[2], set()).add(int(seen[1]))
    for name in ("mailbox", "device-status", "cap-array"):
        assert sizes[name] <= {4, 8}, (name, sizes[name])
    assert sizes["cxl-fixed-memory-region"] == {1, 8}


async def test_two_devices_with_static_capacity_each_have_their_own_window(parts: image.Parts, tmp_path: Path) -> None:
    shape = topology.direct(devices=2, size=GIB // 2, static=256 * MIB, regions=2)
    async with booted(parts, tmp_path / "run", shape) as guest:
        await guest.name()
        bases = [device["window_base"] for device in guest.ready["devices"]]
        assert len(set(bases)) == 2 and [device["error"] for device in guest.ready["devices"]] == [None, None]
        base = topology.expected_regions(shape.devices[0])[0].base
        assert base == 256 * MIB
        for index, device in enumerate(shape.devices):
            found = await guest.add((0, BLOCK), device=device.name)
            assert {line["process"] for line in found} == {f"host.{device.name}"}
            marks = f"{0xA0 + index:02x}" * 16
            for dpa in (base + 4096, 4096):  # dynamic, static
                await guest.controller.ask("store", device.name, dpa=dpa, data=marks, side="host")
        for index, device in enumerate(shape.devices):
            marks = f"{0xA0 + index:02x}" * 16
            for dpa in (base + 4096, 4096):
                load = await guest.controller.ask("load", device.name, dpa=dpa, length=16)
                assert load["value"]["data"] == marks
            with guest.backend(device.name).open("rb") as file:
                file.seek(4096)
                assert file.read(16).hex() == marks
        judgement = await guest.judgement()
        assert not [f for f in judgement["findings"] if f["outcome"] == "fail"], judgement["findings"]
        assert (await guest.controller.do("poweroff"))["ok"]
        ended = await asyncio.wait_for(asyncio.shield(guest.vm.exited), 20)
        assert ended.how == "normal"
        assert "the agent ended with status 0" in guest.vm.console_tail()
