"""The monitor's client against a scripted QMP server on a socketpair; the real one is in tests/vm/test_qmp_vm.py."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dcdbackend import qmp
from dcdbackend.errors import AnsweredWrongly, AskedWrongly, CannotRun, MachineGone, Refused, TimedOut
from dcdbackend.qmp import Qmp, QmpRefused

MIB = 1 << 20
BLOCK = 2 * MIB
GREETING = {"QMP": {"version": {"qemu": {"major": 11, "minor": 1, "micro": 3}, "package": ""}, "capabilities": ["oob"]}}


def schema(**changes: Any) -> list[dict[str, Any]]:
    """What a QEMU >= 9.1 says of the two commands, type names masked as QEMU masks them."""
    add = [
        {"name": "path", "type": "str"},
        {"name": "host-id", "type": "int"},
        {"name": "selection-policy", "type": "5"},
        {"name": "region", "type": "int"},
        {"name": "tag", "default": None, "type": "str"},
        {"name": "extents", "type": "[7]"},
    ]
    release = [
        {"name": "path", "type": "str"},
        {"name": "host-id", "type": "int"},
        {"name": "removal-policy", "type": "6"},
        {"name": "forced-removal", "default": None, "type": "bool"},
        {"name": "sanitize-on-release", "default": None, "type": "bool"},
        {"name": "region", "type": "int"},
        {"name": "tag", "default": None, "type": "str"},
        {"name": "extents", "type": "[7]"},
    ]
    entities: dict[str, dict[str, Any]] = {
        "cxl-add-dynamic-capacity": {"meta-type": "command", "arg-type": "1", "ret-type": "0"},
        "cxl-release-dynamic-capacity": {"meta-type": "command", "arg-type": "2", "ret-type": "0"},
        "1": {"meta-type": "object", "members": add},
        "2": {"meta-type": "object", "members": release},
        "5": {"meta-type": "enum", "values": ["free", "contiguous", "prescriptive", "enable-shared-access"]},
        "6": {"meta-type": "enum", "values": ["tag-based", "prescriptive"]},
        "[7]": {"meta-type": "array", "element-type": "7"},
        "7": {"meta-type": "object", "members": [{"name": "offset"}, {"name": "len"}]},
    }
    entities.update(changes)
    return [{"name": name, **entity} for name, entity in entities.items() if entity]


def renamed(members: list[dict[str, Any]], **names: str) -> dict[str, Any]:
    """An object with some members called otherwise: host_id="hid"."""
    to = {old.replace("_", "-"): new for old, new in names.items()}
    return {"meta-type": "object", "members": [{**m, "name": to.get(m["name"], m["name"])} for m in members]}


Reply = Callable[["FakeQemu", dict[str, Any]], Any]


class FakeQemu:
    """A QMP server that does what its script says.

    `script[command]` is a list of replies, used one after the other, the last for ever. A reply is the `return`
    value, or a function of (server, request): it may send anything, and its result, unless it is None, is sent.
    """

    def __init__(self, end: socket.socket, script: dict[str, list[Any]], greeting: Any = GREETING) -> None:
        self.end = end
        self.requests: list[dict[str, Any]] = []
        self.script: dict[str, list[Any]] = {"qmp_capabilities": [{}], "query-qmp-schema": [schema()], **script}
        self.greeting = greeting
        self.rest = ""
        self.writer: asyncio.StreamWriter

    async def serve(self) -> None:
        reader, self.writer = await asyncio.open_connection(sock=self.end)
        try:
            if self.greeting is not None:
                self.send(self.greeting)
            while data := await reader.read(65536):
                self.rest = self.take(self.rest + data.decode())
        except ConnectionError:
            pass
        finally:
            self.writer.close()

    def take(self, text: str) -> str:
        """Answer each whole message of a stream that has no separators; return the rest."""
        while text:
            try:
                request, end = json.JSONDecoder().raw_decode(text)
            except ValueError:
                return text
            text = text[end:].lstrip()
            self.answer(request)
        return text

    def answer(self, request: dict[str, Any]) -> None:
        self.requests.append(request)
        replies = self.script.get(request["execute"], [error("CommandNotFound", "no such command")])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if callable(reply):
            reply = reply(self, request)
            if reply is not None:
                self.send(reply)
        else:
            self.send(to(request, {"return": reply}))

    def send(self, message: Any) -> None:
        data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\r\n"
        self.writer.write(data)

    def commands(self, name: str) -> list[dict[str, Any]]:
        return [request["arguments"] for request in self.requests if request["execute"] == name]


def to(request: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    """The message as the reply to a request: with its id, where it has one (the first has none)."""
    return {**message, **{key: request[key] for key in ("id",) if key in request}}


# Replies, by the name of the fault they are.
def error(error_class: str, desc: str) -> Reply:
    return lambda _, request: to(request, {"error": {"class": error_class, "desc": desc}})


def silent(_: FakeQemu, __: dict[str, Any]) -> None:
    return None


def closing(fake: FakeQemu, _: dict[str, Any]) -> None:
    fake.writer.close()


def torn(fake: FakeQemu, request: dict[str, Any]) -> None:
    fake.send(json.dumps({"return": {}, "id": request["id"]}).encode()[:-4])
    fake.writer.close()


def duplicate(fake: FakeQemu, request: dict[str, Any]) -> dict[str, Any]:
    for _ in range(3):
        fake.send({"return": {"status": "running"}, "id": request["id"]})
    return {"return": {"status": "again"}, "id": request["id"]}


def raw(data: bytes) -> Reply:
    return lambda _, __: data


def late(delay_s: float, value: Any) -> Reply:
    def reply(fake: FakeQemu, request: dict[str, Any]) -> None:
        message = {"return": value, "id": request["id"]}
        asyncio.get_running_loop().call_later(delay_s, fake.send, message)

    return reply


@asynccontextmanager
async def connected(tmp_path: Path, greeting: Any = GREETING, **options: Any) -> AsyncIterator[tuple[Qmp, FakeQemu]]:
    ours, theirs = socket.socketpair()
    fake = FakeQemu(theirs, options.pop("script", {}), greeting)
    serving = asyncio.create_task(fake.serve())
    try:
        async with Qmp.connect(ours, log=tmp_path / "qmp.jsonl", **options) as client:
            yield client, fake
    finally:
        async with asyncio.timeout(5):
            await serving


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "qmp.jsonl").read_text().splitlines()]


async def test_an_add_says_what_the_schema_says(tmp_path: Path) -> None:
    async with connected(tmp_path, script={"cxl-add-dynamic-capacity": [{}]}) as (client, fake):
        assert client.version == "11.1.3"
        await client.add("mem0", 1, [(0, BLOCK), (4 * MIB, BLOCK)])
        assert fake.commands("cxl-add-dynamic-capacity") == [
            {
                "path": "/machine/peripheral/mem0",
                "host-id": 0,
                "selection-policy": "prescriptive",
                "region": 1,
                "extents": [{"offset": 0, "len": BLOCK}, {"offset": 4 * MIB, "len": BLOCK}],
            }
        ]


async def test_a_release_sends_what_was_given_and_nothing_else(tmp_path: Path) -> None:
    async with connected(tmp_path, script={"cxl-release-dynamic-capacity": [{}]}) as (client, fake):
        await client.release("/machine/peripheral/mem1", 0, [(0, BLOCK)])
        await client.release("mem1", 0, [], host_id=7, removal_policy="tag-based", forced=True, sanitize=False, tag="x")
        first, second = fake.commands("cxl-release-dynamic-capacity")
        assert set(first) == {"path", "host-id", "removal-policy", "region", "extents"}
        assert first["path"] == "/machine/peripheral/mem1"
        assert second == {
            "path": "/machine/peripheral/mem1",
            "host-id": 7,
            "removal-policy": "tag-based",
            "forced-removal": True,
            "sanitize-on-release": False,
            "region": 0,
            "tag": "x",
            "extents": [],
        }


async def test_an_older_spelling_is_spoken(tmp_path: Path) -> None:
    plain = {entity["name"]: entity for entity in schema()}
    older = schema(
        **{
            "1": renamed(plain["1"]["members"], host_id="hid", region="region-id"),
            "2": renamed(plain["2"]["members"], host_id="hid", region="region-id"),
        }
    )
    script = {"query-qmp-schema": [older], "cxl-add-dynamic-capacity": [{}]}
    async with connected(tmp_path, script=script) as (client, fake):
        await client.add("mem0", 2, [(0, BLOCK)], host_id=5)
        (sent,) = fake.commands("cxl-add-dynamic-capacity")
        assert (sent["hid"], sent["region-id"]) == (5, 2)
        assert "host-id" not in sent


PLAIN = {entity["name"]: entity for entity in schema()}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cxl-add-dynamic-capacity": {}}, "cxl-add-dynamic-capacity"),
        ({"cxl-release-dynamic-capacity": {}}, "cxl-release-dynamic-capacity"),
        ({"1": renamed(PLAIN["1"]["members"], host_id="whom")}, "whom"),
        ({"2": {"meta-type": "object", "members": PLAIN["2"]["members"][1:]}}, "lacks path"),
        ({"1": {"meta-type": "object", "members": PLAIN["1"]["members"][:1]}}, "host-id or hid"),
        ({"7": {"meta-type": "object", "members": [{"name": "dpa"}, {"name": "len"}]}}, "dpa"),
        ({"5": {"meta-type": "builtin", "json-type": "int"}}, "selection-policy as a number"),
    ],
)
async def test_a_dialect_that_is_not_known_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(CannotRun, match=named):
        async with connected(tmp_path, script={"query-qmp-schema": [schema(**changes)]}):
            pass


@pytest.mark.parametrize("broken", [{}, [1], [{"meta-type": "object"}], schema(**{"1": {}})])
async def test_a_schema_that_is_none_is_an_answer_that_is_wrong(tmp_path: Path, broken: Any) -> None:
    with pytest.raises(AnsweredWrongly):
        async with connected(tmp_path, script={"query-qmp-schema": [broken]}):
            pass


async def test_an_argument_that_this_qemu_lacks_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    untagged = {"meta-type": "object", "members": [m for m in PLAIN["1"]["members"] if m["name"] != "tag"]}
    script = {"query-qmp-schema": [schema(**{"1": untagged})], "cxl-add-dynamic-capacity": [{}]}
    async with connected(tmp_path, script=script) as (client, fake):
        with pytest.raises(CannotRun, match="no argument for tag"):
            await client.add("mem0", 0, [(0, BLOCK)], tag="11" * 16)
        await client.add("mem0", 0, [(0, BLOCK)])
        assert len(fake.commands("cxl-add-dynamic-capacity")) == 1


@pytest.mark.parametrize(("name", "wording"), sorted(qmp.REASONS.items()))
async def test_a_refusal_carries_its_reason_and_both_messages(tmp_path: Path, name: str, wording: str) -> None:
    script = {"cxl-add-dynamic-capacity": [error("GenericError", wording)]}
    async with connected(tmp_path, script=script) as (client, _):
        with pytest.raises(QmpRefused) as refused:
            await client.add("mem0", 0, [(0, BLOCK)])
        assert isinstance(refused.value, Refused)
        assert (refused.value.name, refused.value.reason) == (name, wording)
        assert refused.value.error_class == "GenericError"
        assert '"cxl-add-dynamic-capacity"' in str(refused.value.sent)
        assert wording in str(refused.value.received)
        assert "\n" not in str(refused.value)


async def test_a_wording_that_is_not_in_the_table_passes_through(tmp_path: Path) -> None:
    script = {"cxl-add-dynamic-capacity": [error("GenericError", "the moon is full")]}
    async with connected(tmp_path, script=script) as (client, _):
        with pytest.raises(QmpRefused) as refused:
            await client.add("mem0", 0, [(0, BLOCK)])
        assert refused.value.name == refused.value.reason == "the moon is full"


@pytest.mark.parametrize(
    ("wording", "state"),
    [("zero-length", "free"), ("still-pending", "pending"), ("already-accepted", "accepted")],
)
async def test_the_state_of_a_block_is_told_by_the_refusal(tmp_path: Path, wording: str, state: str) -> None:
    script = {"cxl-add-dynamic-capacity": [error("GenericError", qmp.REASONS[wording])]}
    async with connected(tmp_path, script=script) as (client, fake):
        assert await client.block_state("mem0", 0, 4 * MIB, BLOCK) == state
        (sent,) = fake.commands("cxl-add-dynamic-capacity")
        assert sent["extents"] == [{"offset": 4 * MIB, "len": BLOCK}, {"offset": 4 * MIB, "len": 0}]


async def test_a_block_state_that_is_in_no_table_is_not_guessed(tmp_path: Path) -> None:
    replies = [error("GenericError", "maybe"), error("GenericError", qmp.REASONS["unaligned"]), {}]
    async with connected(tmp_path, script={"cxl-add-dynamic-capacity": replies}) as (client, _):
        with pytest.raises(AnsweredWrongly, match="in no table") as unknown:
            await client.block_state("mem0", 0, 0, BLOCK)
        assert "maybe" in str(unknown.value.received)
        with pytest.raises(QmpRefused, match="not aligned"):
            await client.block_state("mem0", 0, 1, BLOCK)
        with pytest.raises(AnsweredWrongly, match="as an offer"):
            await client.block_state("mem0", 0, 0, BLOCK)


FREE = error("GenericError", qmp.REASONS["zero-length"])
ACCEPTED = error("GenericError", qmp.REASONS["already-accepted"])


@asynccontextmanager
async def foreseeing(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[Qmp, FakeQemu]]:
    """A connection on which a block's state was asked once, and the next question (of 4M) is foreseen."""
    script = {"cxl-add-dynamic-capacity": [FREE, ACCEPTED, FREE], "query-status": [{"status": "running"}]}
    async with connected(tmp_path, script=script, **options) as (client, fake):
        assert await client.block_state("mem0", 0, 0, BLOCK) == "free"
        client.foresee_block_state("mem0", 0, 4 * MIB, BLOCK)
        await asyncio.sleep(0.05)
        yield client, fake


def asked_offsets(fake: FakeQemu) -> list[int]:
    return [sent["extents"][0]["offset"] for sent in fake.commands("cxl-add-dynamic-capacity")]


async def test_a_foreseen_question_is_on_the_wire_and_is_not_asked(tmp_path: Path) -> None:
    async with foreseeing(tmp_path) as (client, fake):
        assert json.loads(fake.rest + "}")["arguments"]["extents"][1]["len"] == 0
        assert asked_offsets(fake) == [0]
        recorded = lines(tmp_path)
        assert await client.block_state("mem0", 0, 4 * MIB, BLOCK) == "accepted"
        assert asked_offsets(fake) == [0, 4 * MIB] and not fake.rest
        (sent, received) = lines(tmp_path)[len(recorded) :]
        assert sent["sent"]["id"] == received["received"]["id"], "recorded when it was asked, not before"
        assert await client.block_state("mem0", 0, 6 * MIB, BLOCK) == "free"


async def test_another_command_ends_a_foreseen_question_first(tmp_path: Path) -> None:
    async with foreseeing(tmp_path) as (client, fake):
        assert await client.status() == "running"
        assert [request["execute"] for request in fake.requests[-2:]] == ["cxl-add-dynamic-capacity", "query-status"]
        assert len({request["id"] for request in fake.requests if "id" in request}) == len(fake.requests) - 1
        sent = [line["sent"] for line in lines(tmp_path) if "sent" in line]
        assert sent == fake.requests, "the record has what was on the wire, in its order"
        assert await client.block_state("mem0", 0, 4 * MIB, BLOCK) == "free", "asked anew"
        assert asked_offsets(fake) == [0, 4 * MIB, 4 * MIB]


async def test_another_question_is_not_the_one_that_was_foreseen(tmp_path: Path) -> None:
    async with foreseeing(tmp_path) as (client, fake):
        client.foresee_block_state("mem0", 0, 8 * MIB, BLOCK)  # one at a time: this one is not
        assert await client.block_state("mem0", 0, 8 * MIB, BLOCK) == "free"
        assert asked_offsets(fake) == [0, 4 * MIB, 8 * MIB]


async def test_nothing_is_foreseen_before_this_qemu_answered_such_a_question(tmp_path: Path) -> None:
    script = {"cxl-add-dynamic-capacity": [error("GenericError", "maybe"), FREE]}
    async with connected(tmp_path, script=script) as (client, fake):
        client.foresee_block_state("mem0", 0, 0, BLOCK)
        with pytest.raises(AnsweredWrongly):
            await client.block_state("mem0", 0, 0, BLOCK)
        client.foresee_block_state("mem0", 0, 0, BLOCK)
        await asyncio.sleep(0.05)
        assert not fake.rest


async def test_a_foreseen_question_to_a_qemu_that_is_gone_harms_nobody(tmp_path: Path) -> None:
    async with foreseeing(tmp_path) as (client, fake):
        fake.writer.close()
        with pytest.raises(MachineGone):
            await client.block_state("mem0", 0, 4 * MIB, BLOCK)
        client.foresee_block_state("mem0", 0, 4 * MIB, BLOCK)
        with pytest.raises(MachineGone):
            await client.block_state("mem0", 0, 4 * MIB, BLOCK)


async def test_a_foreseen_question_that_is_given_up_is_answered_to_nobody(tmp_path: Path) -> None:
    async with foreseeing(tmp_path) as (client, fake):
        fake.script["cxl-add-dynamic-capacity"] = [silent, FREE]
        with pytest.raises(TimedOut):
            await client.block_state("mem0", 0, 4 * MIB, BLOCK, timeout_s=0.05)
        fake.send({"error": {"class": "GenericError", "desc": "late"}, "id": fake.requests[-1]["id"]})
        assert await client.block_state("mem0", 0, 4 * MIB, BLOCK) == "free"


async def test_no_answer_is_an_unknown_outcome_and_the_connection_lives_on(tmp_path: Path) -> None:
    script = {"query-status": [late(0.15, {"status": "paused"}), {"status": "running"}]}
    async with connected(tmp_path, script=script) as (client, _):
        with pytest.raises(TimedOut, match="not known") as timed_out:
            await client.execute("query-status", timeout_s=0.02)
        assert "query-status" in str(timed_out.value.sent)
        await asyncio.sleep(0.2)  # the late reply comes now; it belongs to nobody
        assert await client.status() == "running"
    assert any("paused" in json.dumps(line) for line in lines(tmp_path))


async def test_a_reply_given_four_times_is_one_reply(tmp_path: Path) -> None:
    script = {"query-status": [duplicate, {"status": "paused"}]}
    async with connected(tmp_path, script=script) as (client, _):
        assert await client.status() == "running"
        assert await client.status() == "paused"


async def test_a_reply_with_a_foreign_id_answers_nobody(tmp_path: Path) -> None:
    stray = raw(b'{"return": {"status": "stray"}, "id": "someone"}\r\n')
    async with connected(tmp_path, script={"query-status": [stray, {"status": "paused"}]}) as (client, _):
        with pytest.raises(TimedOut):
            await client.execute("query-status", timeout_s=0.05)
        assert await client.status() == "paused"


@pytest.mark.parametrize("ending", [closing, torn])
async def test_a_qemu_that_ends_in_the_middle_is_gone(tmp_path: Path, ending: Reply) -> None:
    async with connected(tmp_path, script={"cxl-add-dynamic-capacity": [ending]}) as (client, _):
        with pytest.raises(MachineGone) as gone:
            await client.add("mem0", 0, [(0, BLOCK)])
        assert (gone.value.received is None) == (ending is closing)
        assert "cxl-add-dynamic-capacity" in str(gone.value.sent)
        with pytest.raises(MachineGone, match="was not sent"):
            await client.status()


async def test_every_waiting_command_learns_that_qemu_is_gone(tmp_path: Path) -> None:
    script = {"query-status": [silent], "query-block": [closing]}
    async with connected(tmp_path, script=script) as (client, _):
        waiting = [asyncio.create_task(client.status()) for _ in range(5)]
        await asyncio.sleep(0.01)
        with pytest.raises(MachineGone):
            await client.execute("query-block")
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in found] == [MachineGone] * 5


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"%!x nonsense\r\n", b"nonsense"),
        (b"[1, 2]\r\n", b"not a JSON object"),
        (b'{"return": "\xff\xfe"}\r\n', b"\xff\xfe"),
        (b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\r\n', b"without an ID"),
        (b"[" * 100_000 + b"\r\n", b""),
    ],
)
async def test_what_is_not_qmp_is_carried_as_received(tmp_path: Path, data: bytes, shown: bytes) -> None:
    async with connected(tmp_path, script={"query-status": [raw(data)]}) as (client, _):
        with pytest.raises(AnsweredWrongly) as wrong:
            await client.status()
        received = wrong.value.received
        assert shown in (received if isinstance(received, bytes) else str(received).encode())
        assert not isinstance(wrong.value, Refused)


@pytest.mark.parametrize(
    "reply", [{}, {"error": 5}, {"error": {"class": 1, "desc": "x"}}, {"error": {"class": "GenericError"}}]
)
async def test_a_reply_without_an_outcome_is_wrong(tmp_path: Path, reply: dict[str, Any]) -> None:
    def answer(_: FakeQemu, request: dict[str, Any]) -> dict[str, Any]:
        return {**reply, "id": request["id"]}

    async with connected(tmp_path, script={"query-status": [answer]}) as (client, _):
        with pytest.raises(AnsweredWrongly) as wrong:
            await client.status()
        assert "query-status" in str(wrong.value.sent)


@pytest.mark.parametrize("value", [{}, [], {"status": 4}, None])
async def test_a_status_that_is_none_is_wrong(tmp_path: Path, value: Any) -> None:
    async with connected(tmp_path, script={"query-status": [value]}) as (client, _):
        with pytest.raises(AnsweredWrongly):
            await client.status()


@pytest.mark.parametrize(
    ("greeting", "kind"),
    [
        ({"QMP": {}}, AnsweredWrongly),
        ({"hello": 1}, AnsweredWrongly),
        ({"QMP": {"version": {"package": ""}, "capabilities": []}}, AnsweredWrongly),
        (b"SSH-2.0-x\r\n", AnsweredWrongly),
        (None, TimedOut),
    ],
)
async def test_a_peer_that_is_no_qmp_server(tmp_path: Path, greeting: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        async with connected(tmp_path, greeting=greeting, timeout_s=0.2):
            pass


async def test_a_server_that_refuses_to_negotiate(tmp_path: Path) -> None:
    with pytest.raises(AnsweredWrongly):
        async with connected(tmp_path, script={"qmp_capabilities": [error("GenericError", "no")]}):
            pass


async def test_a_peer_that_closes_before_it_greets_is_gone(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(MachineGone, match="while it greeted"):
        async with Qmp.connect(ours, log=tmp_path / "qmp.jsonl"):
            pass


async def test_no_socket_and_a_path_too_long_are_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="no QEMU monitor"):
        async with Qmp.connect(tmp_path / "none", log=tmp_path / "qmp.jsonl"):
            pass
    with pytest.raises(AskedWrongly, match="over 107 bytes"):
        async with Qmp.connect(tmp_path / ("x" * 120), log=tmp_path / "qmp.jsonl"):
            pass


async def test_a_path_is_dialed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a short path, whatever tmp_path is

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fake = FakeQemu(theirs, {"query-status": [{"status": "running"}]})
        fake.writer = writer
        fake.send(GREETING)
        while data := await reader.read(65536):
            fake.take(data.decode())
        writer.close()

    theirs, other = socket.socketpair()
    with theirs, other:
        server = await asyncio.start_unix_server(serve, "qmp.sock")
        async with server, Qmp.connect("qmp.sock", log=tmp_path / "qmp.jsonl") as client:
            assert await client.status() == "running"
        await asyncio.sleep(0.05)  # the server's own side ends


async def test_the_record_has_every_message_as_it_happens(tmp_path: Path) -> None:
    ticks = iter(range(1000))
    script = {"query-status": [{"status": "running"}], "cxl-add-dynamic-capacity": [silent]}
    async with connected(tmp_path, script=script, clock=lambda: next(ticks)) as (client, _):
        await client.status()
        with pytest.raises(TimedOut):
            await client.add("mem0", 0, [(0, BLOCK)], timeout_s=0.02)
        found = lines(tmp_path)  # before the end
        assert found[0]["received"] == GREETING
        assert found[1]["sent"]["execute"] == "qmp_capabilities"
        assert found[-3]["sent"]["execute"] == "query-status"
        assert found[-2]["received"] == {"return": {"status": "running"}, "id": found[-3]["sent"]["id"]}
        assert found[-1]["sent"]["execute"] == "cxl-add-dynamic-capacity"
        assert [line["t_ns"] for line in found] == sorted(line["t_ns"] for line in found)


async def test_a_big_message_is_recorded_by_its_size_and_digest(tmp_path: Path) -> None:
    big = schema(filler={"meta-type": "object", "members": [{"name": "x" * 200_000}]})
    async with connected(tmp_path, script={"query-qmp-schema": [big]}):
        pass
    assert (tmp_path / "qmp.jsonl").stat().st_size < 20_000
    (line,) = [line["received"] for line in lines(tmp_path) if "sha256" in line.get("received", {})]
    assert line["bytes"] > 200_000
    assert len(line["sha256"]) == 64


async def test_a_full_disk_stops_the_next_command_before_it_is_sent(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="No space left"):
        async with _recorded_in(Path("/dev/full")):
            pass
    with pytest.raises(CannotRun, match="another run directory"):
        async with _recorded_in(tmp_path / "no" / "qmp.jsonl"):
            pass


@asynccontextmanager
async def _recorded_in(log: Path) -> AsyncIterator[Qmp]:
    ours, theirs = socket.socketpair()
    with ours:
        serving = asyncio.create_task(FakeQemu(theirs, {}).serve())
        try:
            async with Qmp.connect(ours, log=log) as client:
                yield client
        finally:
            ours.close()
            await serving


def event(name: str, **data: Any) -> dict[str, Any]:
    return {"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 0}}


async def test_events_are_kept_in_a_bound_and_called_in_order(tmp_path: Path) -> None:
    def flood(fake: FakeQemu, request: dict[str, Any]) -> dict[str, Any]:
        for number in range(qmp.MAX_EVENTS + 10):
            fake.send(event("RESET", number=number))
        return {"return": {"status": "running"}, "id": request["id"]}

    seen: list[qmp.Event] = []
    options: dict[str, Any] = {"script": {"query-status": [flood]}, "on_event": seen.append}
    async with connected(tmp_path, **options) as (client, _):
        await client.status()
        assert len(client.events) == qmp.MAX_EVENTS
        assert client.events_dropped == 10
        await asyncio.sleep(0)
        assert [one.data["number"] for one in seen] == list(range(qmp.MAX_EVENTS + 10))
        assert client.events[-1] == seen[-1]
        assert seen[0].name == "RESET"


async def test_a_callback_that_raises_does_not_end_the_reader(tmp_path: Path) -> None:
    raised: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))

    def fail(_: qmp.Event) -> None:
        raise RuntimeError("the callback's own fault")

    def reset(fake: FakeQemu, request: dict[str, Any]) -> dict[str, Any]:
        fake.send({"event": "RESET"})
        return {"return": {}, "id": request["id"]}

    script = {"system_reset": [reset], "query-status": [{"status": "running"}]}
    async with connected(tmp_path, script=script, on_event=fail) as (client, _):
        await client.reset()
        assert await client.status() == "running"
        assert dict(client.events[0].data) == {}
    assert len(raised) == 1


async def test_quit_takes_a_closed_connection_for_an_answer(tmp_path: Path) -> None:
    async with connected(tmp_path, script={"quit": [closing]}) as (client, _):
        await client.quit()
    async with connected(tmp_path, script={"quit": [{}]}) as (client, _):
        await client.quit()


async def test_an_object_that_is_not_there_has_no_type(tmp_path: Path) -> None:
    replies = ["cxl-type3", error("DeviceNotFound", "Device 'x' not found"), error("GenericError", "no"), 5]
    async with connected(tmp_path, script={"qom-get": replies}) as (client, fake):
        assert await client.object_type("mem0") == "cxl-type3"
        assert await client.object_type("mem9") is None
        with pytest.raises(QmpRefused):
            await client.object_type("mem0")
        with pytest.raises(AnsweredWrongly):
            await client.object_type("mem0")
        assert fake.commands("qom-get")[0] == {"path": "/machine/peripheral/mem0", "property": "type"}


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), object()])
async def test_arguments_that_are_not_json_are_never_sent(tmp_path: Path, value: Any) -> None:
    async with connected(tmp_path, script={"query-status": [{"status": "running"}]}) as (client, fake):
        before = len(fake.requests)
        with pytest.raises(AskedWrongly, match="nothing was sent"):
            await client.execute("x", {"value": value})
        assert len(fake.requests) == before
        assert await client.status() == "running"


@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
async def test_a_wait_has_a_bound(tmp_path: Path, limit: float) -> None:
    async with connected(tmp_path) as (client, _):
        with pytest.raises(AskedWrongly, match="time-out"):
            await client.execute("query-status", timeout_s=limit)


async def test_a_peer_that_never_reads_does_not_hold_the_end(tmp_path: Path) -> None:
    """The close is bounded although a megabyte waits to be sent."""
    ours, theirs = socket.socketpair()
    script = {"query-status": [{"status": "running"}]}
    fake = FakeQemu(theirs, script)
    serving = asyncio.create_task(fake.serve())
    async with asyncio.timeout(3), Qmp.connect(ours, log=tmp_path / "qmp.jsonl") as client:
        fake.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.raises(TimedOut):
            await client.execute("query-status", {"filler": "x" * (4 * MIB)}, timeout_s=0.05)
    fake.writer.close()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_cancelled_command_leaves_the_connection_usable(tmp_path: Path) -> None:
    script = {"query-status": [silent, {"status": "running"}]}
    async with connected(tmp_path, script=script) as (client, _):
        waiting = asyncio.create_task(client.status())
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await client.status() == "running"


async def test_the_library_logs_nothing_and_leaves_no_task(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))
    with caplog.at_level(logging.INFO, logger="qemu"):
        for ending in (closing, torn, raw(b"{]\r\n")):
            async with connected(tmp_path, script={"query-status": [ending]}) as (client, _):
                with pytest.raises((MachineGone, AnsweredWrongly)):
                    await client.status()
    await asyncio.sleep(0.01)
    assert [record for record in caplog.records if record.name.startswith(("qemu", "dcdbackend"))] == []
    assert capfd.readouterr().err == ""
    assert lost == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
