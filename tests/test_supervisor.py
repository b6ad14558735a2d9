"""The supervisor of a launched guest without a guest: names and locks, protocol, verbs, hostile clients, commands.

Where a verb is carried out the device is `model.reply`'s (test_session's world); nothing here says anything about QEMU
or a guest. `tests/vm/test_supervisor_vm.py` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_session import DEVICE, MIB, World, running

from dcdbackend import errors, supervisor
from dcdbackend.agent.process import FORGET_S, MOST_RUNNING, Processes
from dcdbackend.boot import BytesWitness
from dcdbackend.errors import AskedWrongly, CannotRun, DcdError, MachineGone, Refused, TimedOut
from dcdbackend.guest import Death, Guest
from dcdbackend.history import History, Op
from dcdbackend.session import Offer, Session
from dcdbackend.supervisor import held as held_module
from dcdbackend.supervisor import launching, place, protocol, server, verbs
from dcdbackend.supervisor.held import Gate, Held
from dcdbackend.supervisor.room import Room, Run
from dcdbackend.supervisor.server import Server

HOLD = """
import sys, time
from dcdbackend.supervisor.place import Place
place = Place.claim(sys.argv[1])
place.note(pid=1, ready=True, run_dir="/nowhere", since=1.5, qemu="11.1.3")
print("held", flush=True)
time.sleep(60)
"""
CLAIM = """
import sys
from dcdbackend.errors import DcdError
from dcdbackend.supervisor.place import Place
print("there", flush=True)
sys.stdin.readline()
try:
    place = Place.claim("vm0")
except DcdError as error:
    print(type(error).__name__, error, flush=True)
else:
    print("won", flush=True)
    sys.stdin.readline()
    place.leave()
"""


@pytest.fixture(autouse=True)
def _guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCD_GUESTS", str(tmp_path / "guests"))
    monkeypatch.setenv("DCD_RUNS", str(tmp_path / "runs"))


# -- names, locks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "..", "a.b", "ä", "a" * 65, "a\n", None, 5])
def test_a_name_is_letters_digits_dashes_and_bounded(name: object) -> None:
    with pytest.raises(AskedWrongly, match="letters, digits"):
        place.checked(name)


def test_where_guests_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert place.guests_dir() == tmp_path / "guests"
    monkeypatch.delenv("DCD_GUESTS")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert place.guests_dir() == tmp_path / "state/dcdbackend/guests"


def test_a_place_is_0700_and_gone_when_left(tmp_path: Path) -> None:
    assert place.list_guests() == ()
    with place.Place.claim("vm0") as mine:
        assert mine.path == tmp_path / "guests/vm0"
        assert mine.path.stat().st_mode & 0o777 == 0o700
        mine.note(pid=7, run_dir="/nowhere", since=2.0)
        found = place.find("vm0")
        assert found == place.GuestInfo(name="vm0", state="starting", run_dir=Path("/nowhere"), since=2.0, pid=7)
        mine.note(pid=7, ready=True, qemu="11.1.3")
        assert [(guest.name, guest.state, guest.qemu) for guest in place.list_guests()] == [("vm0", "alive", "11.1.3")]
    assert place.find("vm0") is None
    assert not mine.path.exists()


def test_only_the_lock_says_who_lives(tmp_path: Path) -> None:
    """A killed holder's directory, with the number of a process that lives (1), is dead all the same."""
    with subprocess.Popen([sys.executable, "-c", HOLD, "vm0"], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            found = place.find("vm0")
            assert found is not None
            assert found.state == "alive"
            with pytest.raises(AskedWrongly, match="running already"):
                place.Place.claim("vm0")
            with pytest.raises(AskedWrongly, match="is alive; end it with: dcd stop vm0"):
                place.forget("vm0")
        finally:
            holder.kill()
    found = place.find("vm0")
    assert found is not None
    assert (found.state, found.run_dir, found.since, found.qemu) == ("dead", Path("/nowhere"), 1.5, "11.1.3")
    (tmp_path / "guests/vm0/left").mkdir()
    with place.Place.claim("vm0") as mine:  # what it left is gone
        assert list(mine.path.iterdir()) == []
    assert place.forget("vm0") is False


def test_a_dead_ones_directory_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "guests/old").mkdir(parents=True)
    (tmp_path / "guests/old/guest.json").write_text("{torn")
    assert [(guest.name, guest.state) for guest in place.list_guests()] == [("old", "dead")]
    assert place.forget("old") is True
    assert place.list_guests() == ()


def test_two_that_look_at_once_do_not_take_each_other_for_the_guest(tmp_path: Path) -> None:
    (tmp_path / "guests/old").mkdir(parents=True)
    descriptor = os.open(tmp_path / "guests/old", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # as the other does
        found = place.find("old")
        assert found is not None
        assert found.state == "dead"
    finally:
        os.close(descriptor)


def test_of_several_that_claim_a_name_at_once_one_wins(tmp_path: Path) -> None:
    """While others look on, who must not make the winner lose."""
    claimers = [
        subprocess.Popen([sys.executable, "-c", CLAIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said: list[str] = []
    try:
        for claimer in claimers:
            assert claimer.stdout is not None
            assert claimer.stdout.readline() == "there\n"
        for claimer in claimers:
            assert claimer.stdin is not None
            claimer.stdin.write("go\n")
            claimer.stdin.flush()
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            place.find("vm0")
        for claimer in claimers:
            assert claimer.stdout is not None
            said.append(claimer.stdout.readline())
        assert sorted(line.split()[0] for line in said) == ["AskedWrongly"] * 2 + ["won"]
        assert all(
            "a guest 'vm0' is running already; choose another name" in line for line in said if "won" not in line
        )
    finally:
        for claimer in claimers:
            claimer.communicate("done\n", timeout=10)
    assert place.find("vm0") is None


def test_a_directory_taken_away_between_look_and_lock_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock on a directory that is not there any more would let two hold one name."""
    path = tmp_path / "guests/vm0"
    path.mkdir(parents=True)
    real = fcntl.flock
    taken: list[Path] = []

    def flock(descriptor: int, how: int) -> None:
        real(descriptor, how)
        if not taken:
            path.rmdir()
            path.mkdir()  # somebody else has the name now
            taken.append(path)

    monkeypatch.setattr(fcntl, "flock", flock)
    with place.Place.claim("vm0") as mine:
        assert os.fstat(mine._descriptor).st_ino == path.stat().st_ino


def test_a_link_in_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "guests").mkdir()
    (tmp_path / "guests/vm0").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotRun, match="set DCD_GUESTS"):
        place.Place.claim("vm0")


def test_what_else_lies_there_is_no_guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guests/a b").mkdir(parents=True)
    (tmp_path / "guests/file").write_text("")
    (tmp_path / "guests/link").symlink_to(tmp_path)
    assert place.list_guests() == ()
    monkeypatch.setenv("DCD_GUESTS", str(tmp_path / "guests/file"))
    for look in (place.list_guests, lambda: place.Place.claim("vm0")):
        with pytest.raises(CannotRun, match="Not a directory; set DCD_GUESTS to another directory"):
            look()


async def test_of_a_dead_ones_run_the_memory_goes_and_the_record_stays(tmp_path: Path) -> None:
    """A supervisor that was killed could not take it away; `stop` does, as of a guest that lives."""
    run_dir = tmp_path / "runs/old"
    (run_dir / "guest").mkdir(parents=True)
    for name in ("history.jsonl", "guest/console.log", "guest/mem0-dc.memory", "guest/qmp.sock"):
        (run_dir / name).touch()
    (tmp_path / "guests/old").mkdir(parents=True)
    (tmp_path / "guests/old/guest.json").write_text(json.dumps({"ready": True, "run_dir": str(run_dir)}))
    assert (await supervisor.stop("old")).state == "dead"
    left = sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file())
    assert left == ["guest/console.log", "history.jsonl"]


async def test_a_path_longer_than_a_socket_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCD_GUESTS", str(tmp_path / ("d" * 100) / ("e" * 100)))
    async with served(Echo()), supervisor.connect("vm0") as client:
        assert await client.call("info") == ["info", {}]


async def test_who_is_not_there_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(AskedWrongly, match="no guest 'vm1'; there is none; start it with: dcd launch vm1"):
        async with supervisor.connect("vm1"):
            pass
    (tmp_path / "guests/vm1").mkdir(parents=True)
    with pytest.raises(MachineGone, match=r"guest 'vm1' is dead.*dcd stop vm1 forgets it"):
        async with supervisor.connect("vm1"):
            pass
    async with served(Echo()):
        with pytest.raises(AskedWrongly, match="there is vm0"):
            async with supervisor.connect("vm2"):
                pass
    with place.Place.claim("vm3") as mine:
        mine.note(pid=1)
        with pytest.raises(AskedWrongly, match="still starting"):
            async with supervisor.connect("vm3"):
                pass
    assert (await supervisor.stop("vm1")).state == "dead"
    assert place.find("vm1") is None
    with pytest.raises(AskedWrongly, match="no guest 'vm1'"):
        await supervisor.stop("vm1")


# -- the protocol ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (b"[1]", "no JSON object"),
        (b"[" * 5000, "no JSON object"),
        (b'{"id": NaN, "verb": "info"}', "no JSON object"),
        (b'{"verb": "info"}', "id None; give a whole number"),
        (b'{"id": true, "verb": "info"}', "id True"),
        (b'{"id": -1, "verb": "info"}', "id -1"),
        (b'{"id": 99999999999999999999, "verb": "info"}', "give a whole number from 0"),
        (b'{"id": 1}', "verb None; give a name"),
        (b'{"id": 1, "verb": "info", "args": []}', "args .*give an object"),
        (b'{"id": 1, "verb": "info", "extra": 1}', "a request has no 'extra'"),
    ],
)
def test_what_is_no_request(line: bytes, said: str) -> None:
    with pytest.raises(AskedWrongly, match=said):
        protocol.request_of(line)


def every_error() -> list[DcdError]:
    return [
        errors.DcdError("a"),
        errors.AskedWrongly("a", sent="x", received=b"\1"),
        errors.BadHistory("a", line=3),
        errors.CannotRun("a"),
        errors.Unserved("a"),
        errors.AnsweredWrongly("a"),
        errors.MalformedBytes("a", structure="s", data=b"\1"),
        errors.Refused("a", reason="no"),
        errors.OutcomeUnknown("a"),
        errors.TimedOut("a"),
        errors.LinkLost("a"),
        errors.MachineGone("a"),
    ]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_errors_keep_their_class(error: DcdError) -> None:
    line = json.loads(protocol.error_line(4, error))
    assert (line["id"], line["ok"], line["exit"]) == (4, False, error.exit_code)
    again = protocol.error_of(line)
    assert type(again) is type(error)
    assert str(again) == str(error)
    if isinstance(error, Refused) and isinstance(again, Refused):
        assert again.reason == error.reason


def test_every_class_of_errors_is_in_that_list() -> None:
    assert {type(error) for error in every_error()} == set(protocol._KINDS.values())


def test_an_error_of_a_class_of_elsewhere_is_its_nearest() -> None:
    class Special(errors.LinkLost):
        """Not in errors.py."""

    assert type(protocol.error_of(protocol.error_data(Special("a")))) is errors.LinkLost
    assert type(protocol.error_of({"error": "x", "kind": "os"})) is DcdError


# -- the verbs' arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "args", "said"),
    [
        ("dance", {}, "verb 'dance'; there is info, add"),
        ("info", {"x": 1}, "info has no 'x'; it takes nothing"),
        ("add", {}, "add takes one of extents or size; given: none"),
        ("add", {"size": 1, "extents": ["0+2M"]}, "given: extents and size"),
        ("add", {"extents": ["0+2M"], "at": 0}, "`at` goes with size"),
        ("add", {"size": "256M"}, "size '256M'; give a whole number from 1"),
        ("add", {"size": 0}, "size 0"),
        ("add", {"size": True}, "size True"),
        ("add", {"extents": "0+2M"}, "give a list of 1 to 512"),
        ("add", {"extents": [["0", 1]]}, "extent offset '0'"),
        ("add", {"extents": [{}]}, "write OFFSET"),
        ("add", {"extents": ["0-2M"]}, "write OFFSET"),
        ("add", {"size": 1, "region": 256}, "region 256; give a whole number from 0 to 255"),
        ("add", {"size": 1, "timeout_s": 601}, "timeout_s 601; give 0 to 600 seconds"),
        ("add", {"size": 1, "timeout_s": -1}, "timeout_s -1; give 0 to 600 seconds"),
        ("add", {"size": 1, "tag": "x"}, "tag 'x'"),
        ("release", {}, "release takes one of extents, size or all"),
        ("release", {"all": 1}, "all 1; give true or false"),
        ("release", {"all": True, "size": 1}, "given: size and all"),
        ("answer", {}, "answer needs choice; it takes choice, extents, device, timeout_s"),
        ("answer", {"choice": "maybe"}, "choice 'maybe'; there is accept, refuse"),
        ("answer", {"choice": "accept", "extents": []}, "give a list of 1 to 512"),
        ("policy", {}, "policy needs kind; it takes kind, device, params"),
        ("policy", {"kind": "late", "params": {"device": 1}}, "the policy's parameters"),
        ("read", {"dpa": 0}, "read needs length"),
        ("read", {"dpa": 0, "length": 65537}, "length 65537; give a whole number from 1 to 65536"),
        ("read", {"dpa": 0, "length": 1, "via": "qmp"}, "via 'qmp'; there is backend, host"),
        ("write", {"dpa": 0, "data": "xy"}, "hex digits"),
        ("write", {"dpa": 0, "data": ""}, "hex digits"),
        ("events", {"since": -1}, "since -1"),
        ("exec", {"argv": "ls"}, "give a list of 1 to 256 words"),
        ("exec", {"argv": ["a\0b"]}, "without a zero byte"),
        ("exec", {"argv": ["x" * 40000]}, "longer than 32768 bytes"),
    ],
)
def test_what_a_verb_does_not_take(verb: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(AskedWrongly, match=said) as caught:
        verbs.checked(verb, args)
    assert "\n" not in str(caught.value)


def test_defaults_are_filled_in() -> None:
    found = verbs.checked("add", {"extents": ["2M+4M", [0, 5]]})
    assert [tuple(span)[:2] for span in found["extents"]] == [(2 * MIB, 4 * MIB), (0, 5)]
    assert (found["device"], found["region"], found["at"], found["timeout_s"]) == ("mem0", 0, None, 5.0)


def test_every_verb_is_carried_out_by_something() -> None:
    for name, verb in verbs.VERBS.items():
        assert hasattr(Held, f"_give_{name}" if verb.streams else f"_do_{name}"), name


# -- the map -----------------------------------------------------------------------------------------------------------


class Lines:
    """Lines of a history for a map, numbered."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.n = 0

    def invoke(self, f: str, **value: Any) -> Op:
        self.n += 1
        op = Op(self.n, self.n, f, "invoke", f, 0, {"device": "mem0", **value})
        self.room.see(op)
        return op

    def end(self, began: Op, kind: str = "ok", **value: Any) -> None:
        self.n += 1
        self.room.see(Op(self.n, began.op, began.process, kind, began.f, 0, value))

    def did(self, f: str, kind: str = "ok", said: Mapping[str, Any] | None = None, **value: Any) -> None:
        self.end(self.invoke(f, **value), kind, **(said or {}))


def extents(*spans: tuple[int, int]) -> list[dict[str, int]]:
    return [{"offset": offset * MIB, "length": length * MIB} for offset, length in spans]


def in_mib(runs: Any) -> list[tuple[int, int, str]]:
    return [(run.start // MIB, run.length // MIB, run.state) for run in runs]


def test_the_map_follows_offers_answers_releases_and_witnesses() -> None:
    room = Room([DEVICE])
    lines = Lines(room)
    assert in_mib(room.runs("mem0", 1)) == [(1024, 1024, "free")]
    lines.did("add", region=1, extents=extents((0, 4), (8, 4)))
    assert in_mib(room.runs("mem0", 1))[:3] == [(1024, 4, "pending"), (1028, 4, "free"), (1032, 4, "pending")]
    assert room.first_fit("mem0", 1, 4 * MIB) == 1028 * MIB
    assert room.first_fit("mem0", 1, 6 * MIB) == 1036 * MIB
    lines.did("answer", ranges=[[1024 * MIB, 2 * MIB]], flags=0)
    assert in_mib(room.runs("mem0", 1)) == [(1024, 2, "accepted"), (1026, 1022, "free")]
    lines.did("block", said={"state": "accepted"}, region=1, offset=2 * MIB, length=2 * MIB)
    assert in_mib(room.runs("mem0", 1))[0] == (1024, 4, "accepted")
    lines.did("block", said={"state": "accepted"}, region=1, offset=4 * MIB, length=8 * MIB)  # of a range: no map
    assert in_mib(room.runs("mem0", 1))[0] == (1024, 4, "accepted")
    lines.did("give_back", ranges=[[1024 * MIB, 2 * MIB]], flags=0)
    assert in_mib(room.runs("mem0", 1))[:2] == [(1024, 2, "free"), (1026, 2, "accepted")]
    lines.did("block", said={"state": "free"}, region=1, offset=0, length=1024 * MIB)
    assert in_mib(room.runs("mem0", 1)) == [(1024, 1024, "free")]
    assert room.first_fit("mem0", 1, 1026 * MIB) is None


def test_an_answer_that_comes_before_the_end_of_its_offer() -> None:
    room = Room([DEVICE])
    lines = Lines(room)
    add = lines.invoke("add", region=0, extents=extents((0, 4)))
    lines.did("answer", ranges=[[0, 2 * MIB]], flags=0)
    lines.end(add)
    assert in_mib(room.runs("mem0", 0))[0] == (0, 2, "accepted")
    assert in_mib(room.runs("mem0", 0))[1] == (2, 1022, "free")


def test_what_the_device_took_not_is_no_offer() -> None:
    room = Room([DEVICE])
    lines = Lines(room)
    lines.did("add", "fail", region=0, extents=extents((0, 4)))
    lines.did("add", region=0, extents=extents((8, 4)))
    lines.did("answer", "fail", ranges=[[8 * MIB, 4 * MIB]], flags=0)
    assert in_mib(room.runs("mem0", 0)) == [(0, 8, "free"), (8, 4, "pending"), (12, 1012, "free")]
    lines.did("answer", ranges=[], flags=0)
    assert in_mib(room.runs("mem0", 0)) == [(0, 1024, "free")]


def test_a_run_is_start_length_state() -> None:
    assert Run(1, 2, "free") == (1, 2, "free")


# -- the verbs on a device that keeps the rules ------------------------------------------------------------------------


class FakeGuest:
    """What `Held` asks of a guest beside its session."""

    def __init__(self, tmp_path: Path, session: Session, world: World) -> None:
        self.run_dir = tmp_path
        self.ready = {"kernel": "6.0"}
        self.shape = SimpleNamespace(kind="direct")
        self.pid = 1
        self.death: Death | None = None
        self.silent = False
        self.ended = False
        self.drain = world.drain

    async def control(self, do: str, fields: Any = None, *, timeout_s: float = 1.0) -> dict[str, Any]:
        if self.silent:
            raise TimedOut("no answer")
        return {}

    async def diagnose(self) -> Death | None:
        if self.silent:
            self.death = Death("silent", "no answer to a ping")
        return self.death

    async def until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        await asyncio.sleep(0.01)
        return done()

    def end(self) -> None:
        self.ended = True


@contextlib.asynccontextmanager
async def holding(tmp_path: Path) -> AsyncIterator[tuple[Held, World, FakeGuest]]:
    async with running(tmp_path) as (session, world):
        real = world.ask

        async def of_a_range(value: dict[str, Any]) -> dict[str, Any]:
            """Free when no block is anything else, as the witness of a real device says."""
            blocks = range(value["offset"], value["offset"] + value["length"], 2 * MIB)
            await asyncio.sleep(0)  # QEMU takes its time, too
            states = {(await real({**value, "offset": at, "length": 2 * MIB}))["state"] for at in blocks}
            return {"state": next((state for state in ("accepted", "pending") if state in states), "free")}

        taken = world.add

        async def in_time(value: dict[str, Any]) -> None:
            for _ in range(5):
                await asyncio.sleep(0)
            await taken(value)

        world.ask = of_a_range  # type: ignore[method-assign]
        world.add = in_time  # type: ignore[method-assign]
        session.witnesses = {**session.witnesses, "bytes": cast(Any, BytesWitness(cast(Any, world)))}
        guest = FakeGuest(tmp_path, session, world)
        held = Held(name="vm0", guest=cast(Guest, guest), session=session, run_dir=tmp_path, stop=lambda: None)
        try:
            yield held, world, guest
        finally:
            await held.end()


async def test_first_fit_and_release_by_size(tmp_path: Path) -> None:
    async with holding(tmp_path) as (held, _, _):
        first = await held.call("add", {"size": 4 * MIB})
        second = await held.call("add", {"size": 6 * MIB})
        placed = await held.call("add", {"size": 2 * MIB, "at": 32 * MIB})
        assert [one["extents"] for one in (first, second, placed)] == [
            [[0, 4 * MIB]],
            [[4 * MIB, 6 * MIB]],
            [[32 * MIB, 2 * MIB]],
        ]
        assert (first["outcome"], first["accepted"], first["refused"]) == ("accepted", [[0, 4 * MIB]], [])
        assert first["witnesses"] == {"host": [[0, 4 * MIB]], "block": [[0, 4 * MIB, "accepted"]]}
        back = await held.call("release", {"size": 6 * MIB})
        assert (back["outcome"], back["released"]) == ("released", [[4 * MIB, 6 * MIB]])
        again = await held.call("add", {"size": 6 * MIB})
        assert again["extents"] == [[4 * MIB, 6 * MIB]]
        with pytest.raises(AskedWrongly, match="no accepted extent of mem0's region 0 has 512M"):
            await held.call("release", {"size": 512 * MIB})
        back = await held.call("release", {"all": True})
        assert back["outcome"] == "released"
        assert sorted(back["released"]) == [[0, 10 * MIB], [32 * MIB, 2 * MIB]]
        assert (await held.call("release", {"all": True}))["outcome"] == "nothing"


def told_answers(tmp_path: Path) -> list[tuple[str, Any]]:
    """Every 4802h of the history, by whom and of what."""
    with (tmp_path / "history.jsonl").open("rb") as file:
        return [(op.process, op.value["ranges"]) for op in History(file) if op.f == "answer" and op.type == "invoke"]


async def test_offers_left_unanswered_are_answered_by_hand_oldest_first(tmp_path: Path) -> None:
    async with holding(tmp_path) as (held, _, _):
        await held.call("policy", {"kind": "never"})
        assert (await held.call("add", {"extents": ["8M+2M", "4M+4M"], "timeout_s": 0}))["outcome"] == "unanswered"
        await held.call("policy", {"kind": "accept"})
        # the host's own answer to the later offer is refused with 0Fh while the older one is pending (DEV-6)
        assert (await held.call("add", {"extents": ["16M+2M"], "timeout_s": 0}))["outcome"] == "unanswered"
        for extents, said in (
            (["10M+2M"], r"10M\+2M lies in no extent of the oldest offer, which is 8M\+2M 4M\+4M; nothing was sent"),
            (["4M+4M", "6M+2M"], "overlap; name each byte once"),
        ):
            with pytest.raises(AskedWrongly, match=said):
                await held.call("answer", {"choice": "accept", "extents": extents})
        found = await held.call("answer", {"choice": "accept", "extents": ["6M+2M", "4M+2M", "8M+2M"]})
        taken = [[8 * MIB, 2 * MIB], [4 * MIB, 2 * MIB], [6 * MIB, 2 * MIB]]  # in the order of the offer (DEV-6.order)
        assert (found["outcome"], found["witnesses"]["host"]) == ("accepted", taken)
        assert (found["extents"], found["waiting"]) == ([[8 * MIB, 2 * MIB], [4 * MIB, 4 * MIB]], True)
        found = await held.call("answer", {"choice": "refuse"})
        assert (found["outcome"], found["refused"]) == ("refused", [[16 * MIB, 2 * MIB]])
        assert (found["extents"], found["waiting"]) == ([[16 * MIB, 2 * MIB]], False)
        assert (await held.call("add", {"size": 2 * MIB}))["outcome"] == "accepted"
        assert (await held.call("check", {}))["verdict"]["unknown"] == []
        assert [one for one in told_answers(tmp_path) if one[0] == "user.mem0"] == [
            ("user.mem0", taken),
            ("user.mem0", []),
        ]


async def test_no_answer_goes_out_where_none_is_waited_for(tmp_path: Path) -> None:
    """An answer to nothing ends QEMU: none before an offer, after one is settled, for a withdrawn one, or by two."""
    async with holding(tmp_path) as (held, world, _):
        real = world.do

        async def slow(op: int, process: str, f: str, value: dict[str, Any]) -> None:
            for _ in range(20):
                await asyncio.sleep(0)
            await real(op, process, f, value)

        world.do = slow  # type: ignore[method-assign]
        for choice in ("accept", "refuse"):
            with pytest.raises(AskedWrongly, match="no offer on mem0 waits for an answer; nothing was sent"):
                await held.call("answer", {"choice": choice})
        await held.call("policy", {"kind": "never"})
        await held.call("add", {"size": 2 * MIB, "timeout_s": 0})
        with pytest.raises(AskedWrongly, match="extents go with accept"):
            await held.call("answer", {"choice": "refuse", "extents": ["0+2M"]})
        with pytest.raises(AskedWrongly, match="no device 'mem9'"):
            await held.call("answer", {"choice": "refuse", "device": "mem9"})
        asked = [held.call("answer", {"choice": "refuse"}) for _ in range(3)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert sorted(type(one).__name__ for one in found) == ["AskedWrongly", "AskedWrongly", "dict"]
        await held.call("add", {"size": 2 * MIB, "timeout_s": 0})
        gone = Offer(session=held.session, device="mem0", region=0, ranges=((64 * MIB, 2 * MIB),))
        held.session._offers["mem0"].insert(0, gone)  # as one that was withdrawn, and nobody read of it
        assert (await held.call("answer", {"choice": "accept"}))["accepted"] == [[0, 2 * MIB]]
        assert told_answers(tmp_path) == [("user.mem0", []), ("user.mem0", [[0, 2 * MIB]])]


async def test_no_answer_goes_out_while_host_u_may_still_answer(tmp_path: Path) -> None:
    async with holding(tmp_path) as (held, world, _):
        world.answering = "later"  # the offer stands in the log, unread
        await held.call("add", {"size": 2 * MIB, "timeout_s": 0})
        with pytest.raises(AskedWrongly, match=r"has not dealt with 1 records in mem0's log.*nothing was sent"):
            await held.call("answer", {"choice": "refuse", "timeout_s": 0})
        assert told_answers(tmp_path) == []
        world.policy_name = "never"
        world.serve()
        world.deliver()
        found = await held.call("break_rule", {"clause": "DEV-6.oldest"})
        assert found == {"device": "mem0", **held_module._first_policy(), "break": "DEV-6.oldest"}
        with pytest.raises(AskedWrongly, match=r"host U breaks DEV-6.oldest on mem0.*end that first"):
            await held.call("answer", {"choice": "refuse"})
        assert await held.call("break_rule", {}) == {"device": "mem0", **held_module._first_policy()}
        assert (await held.call("answer", {"choice": "refuse"}))["outcome"] == "refused"


async def test_several_clients_add_at_once_and_no_two_get_one_place(tmp_path: Path) -> None:
    async with holding(tmp_path) as (held, _, _):
        found = await asyncio.gather(*[held.call("add", {"size": 2 * MIB}) for _ in range(12)])
        assert sorted(one["extents"][0][0] for one in found) == [2 * MIB * index for index in range(12)]
        verdict = (await held.call("check", {}))["verdict"]
        assert verdict["outcome"] in ("pass", "departure")


async def test_room_that_the_map_does_not_know_of_is_found_by_the_witness(tmp_path: Path) -> None:
    """The map says free and the device does not: what is taken is gone around; or taken, and the device free."""
    async with holding(tmp_path) as (held, _, _):
        await held.call("add", {"extents": ["4M+2M"]})
        room = held._room
        room._set("mem0", 0, 1024 * MIB, "free")
        assert (await held.call("add", {"size": 6 * MIB}))["extents"] == [[6 * MIB, 6 * MIB]]
        room._set("mem0", 0, 1024 * MIB, "accepted")
        assert (await held.call("add", {"size": 4 * MIB}))["outcome"] == "accepted"
        with pytest.raises(AskedWrongly, match=r"no room for 1G in region 0 of mem0; its largest free run is \d+M"):
            await held.call("add", {"size": 1024 * MIB})
        with pytest.raises(AskedWrongly, match="give a multiple of its blocks, 2M"):
            await held.call("add", {"size": 3 * MIB})
        with pytest.raises(AskedWrongly, match="has no region 5"):
            await held.call("add", {"size": 2 * MIB, "region": 5})
        with pytest.raises(Refused, match="no injector of this guest sends tags"):
            await held.call("add", {"size": 2 * MIB, "tag": "11" * 16})


async def test_show_says_what_the_witness_says(tmp_path: Path) -> None:
    async with holding(tmp_path) as (held, _, _):
        await held.call("add", {"extents": ["0+4M", "8M+2M"]})
        await held.call("policy", {"kind": "refuse"})
        assert (await held.call("add", {"size": 2 * MIB}))["outcome"] == "refused"
        held._room._set("mem0", 0, 2 * MIB, "free")
        held._room._set("mem0", 16 * MIB, 2 * MIB, "accepted")
        shown = await held.call("show", {})
        device = shown["devices"][0]
        runs = [(run["dpa"] // MIB, run["length"] // MIB, run["state"]) for run in device["regions"][0]["runs"]]
        assert runs == [(0, 4, "accepted"), (4, 4, "free"), (8, 2, "accepted"), (10, 1014, "free")]
        assert device["list"] == [[0, 4 * MIB], [8 * MIB, 2 * MIB]]
        assert device["policy"] == {"add": {"kind": "refuse"}, "release": {"kind": "release"}}
        assert (shown["source"], [region["region"] for region in device["regions"]]) == ("witness", [0, 1])
        with pytest.raises(AskedWrongly, match="no device 'mem9'"):
            await held.call("show", {"device": "mem9"})


async def test_bytes_are_moved_in_pieces(tmp_path: Path) -> None:
    async with holding(tmp_path) as (held, _, _):
        await held.call("add", {"size": 2 * MIB})
        data = bytes(range(256)) * 40
        assert await held.call("write", {"dpa": 100, "data": data.hex()}) == {"written": len(data)}
        assert await held.call("read", {"dpa": 100, "length": len(data)}) == {"data": data.hex()}


async def test_an_operation_is_carried_to_its_end_when_its_client_goes(tmp_path: Path) -> None:
    """Else its line in the history would never end, and the next operation would make the history a bad one."""
    async with holding(tmp_path) as (held, world, _):
        real, reached, go = world.add, asyncio.Event(), asyncio.Event()

        async def slow(value: dict[str, Any]) -> None:
            reached.set()
            await go.wait()
            await real(value)

        world.add = slow  # type: ignore[method-assign]
        asked = asyncio.create_task(held.call("add", {"size": 2 * MIB}))
        await reached.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        go.set()
        assert (await held.call("add", {"size": 2 * MIB}))["extents"] == [[2 * MIB, 2 * MIB]]
        with (tmp_path / "history.jsonl").open("rb") as file:
            assert [op.type for op in History(file) if op.f == "add"] == ["invoke", "ok", "invoke", "ok"]


async def test_the_death_of_the_guest_is_told_by_every_verb_and_the_record_stays(tmp_path: Path) -> None:
    async with holding(tmp_path) as (held, _, guest):
        await held.call("add", {"size": 2 * MIB})
        guest.silent = True
        info = await held.call("info", {})
        assert (info["state"], info["death"]["kind"]) == ("gone", "silent")
        assert guest.ended
        for verb, args in (("add", {"size": 2 * MIB}), ("reset", {}), ("read", {"dpa": 0, "length": 1})):
            with pytest.raises(MachineGone, match=r"guest 'vm0' has died \(silent\): no answer to a ping"):
                await held.call(verb, args)
        shown = await held.call("show", {})
        assert (shown["source"], shown["devices"][0]["list"]) == ("history", None)
        assert shown["devices"][0]["regions"][0]["runs"][0]["state"] == "accepted"
        lines = [line async for line in held.stream("events", {})]
        assert [line["value"] for line in lines if line.get("f") == "gone" and line["type"] == "invoke"] == [
            {"device": "mem0", "kind": "silent", "reason": "no answer to a ping"}
        ]
        assert (await held.call("check", {}))["verdict"]["operations"] > 0


async def test_an_unanswered_offer_of_a_dead_guest_is_its_death(tmp_path: Path) -> None:
    async with holding(tmp_path) as (held, world, guest):
        world.answering = "never"
        assert (await held.call("add", {"size": 2 * MIB, "timeout_s": 0}))["outcome"] == "unanswered"
        guest.silent = True
        with pytest.raises(MachineGone, match="silent"):
            await held.call("add", {"size": 2 * MIB, "timeout_s": 0})


async def test_death_is_noticed_without_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(tmp_path) as (held, _, guest):
        monkeypatch.setattr(held_module, "HEARTBEAT_S", 0.01)
        watching = asyncio.create_task(held.watch())
        await asyncio.sleep(0.05)
        assert not watching.done()
        guest.death = Death("outside", "QEMU was ended by SIGKILL")
        await asyncio.wait_for(watching, 2)
        assert held.death == guest.death


async def test_events_are_followed_as_they_are_written(tmp_path: Path) -> None:
    async with holding(tmp_path) as (held, _, _):
        found: list[int] = []

        async def follow() -> None:
            async for line in held.stream("events", {"since": 2, "follow": True}):
                found.append(line["n"])

        following = asyncio.create_task(follow())
        await held.call("add", {"size": 2 * MIB})
        await asyncio.sleep(0.05)
        following.cancel()
        last = [line async for line in held.stream("events", {})][-1]["n"]
        assert found == list(range(2, last + 1))


async def test_the_console_is_told_in_text_and_without_control_characters(tmp_path: Path) -> None:
    async with holding(tmp_path) as (held, _, _):
        log = tmp_path / "console.log"
        log.write_bytes(b"one\x1b[2Jtwo\r\n\xffthree\x07" + b"x" * 70000 + b"\nend")
        text = "".join([piece async for piece in held.stream("console", {})])
        assert text == "onetwo\n\N{REPLACEMENT CHARACTER}three" + "x" * 70000 + "\nend"
        found: list[str] = []

        async def follow() -> None:
            async for piece in held.stream("console", {"follow": True}):
                found.append(piece)

        following = asyncio.create_task(follow())
        await asyncio.sleep(0.2)
        log.write_bytes(b"cut\n")
        await asyncio.sleep(0.3)
        following.cancel()
        assert found[-1] == "cut\n"


async def test_a_reset_waits_for_the_others_and_they_for_it() -> None:
    gate, order = Gate(), []

    async def others(name: str, go: asyncio.Event) -> None:
        async with gate.shared():
            order.append(f"{name} in")
            await go.wait()
            order.append(f"{name} out")

    async def alone() -> None:
        async with gate.alone(5):
            order.append("alone")

    first, second = asyncio.Event(), asyncio.Event()
    second.set()
    tasks = [asyncio.create_task(others("a", first))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(alone()), asyncio.create_task(others("b", second))]
    await asyncio.sleep(0.01)
    assert order == ["a in"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), gate.alone(0.01):
            raise AssertionError("it is not alone")
    first.set()
    await asyncio.gather(*tasks)
    assert order == ["a in", "a out", "alone", "b in", "b out"]


# -- the socket --------------------------------------------------------------------------------------------------------


class Echo:
    """Serves verbs by saying what was asked. `info` answers at once, `add` when told, `reset` is a fault of our own."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.cancelled = 0

    async def call(self, verb: str, args: Mapping[str, object]) -> Any:
        if verb == "add":
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if verb == "reset":
            raise ZeroDivisionError("a fault")
        if verb == "release":
            raise Refused("the device said no", reason="why")
        return [verb, dict(args)]

    async def stream(self, verb: str, args: Mapping[str, Any]) -> AsyncIterator[Any]:
        try:
            for number in range(args.get("since", 3)):
                yield {"number": number, "fill": "x" * 1000}
        finally:
            self.cancelled += 1


@contextlib.asynccontextmanager
async def served(echo: Echo, *, stall_s: float = 30.0) -> AsyncIterator[Server]:
    with place.Place.claim("vm0") as mine:
        async with Server(mine.listen(server.BACKLOG), echo, stall_s=stall_s) as one:
            mine.note(pid=os.getpid(), ready=True)
            yield one


async def test_requests_of_one_connection_end_in_any_order() -> None:
    echo = Echo()
    async with served(echo), supervisor.connect("vm0") as client:
        slow = asyncio.create_task(client.call("add", size=1))
        assert await client.call("info", a=1) == ["info", {"a": 1}]
        assert not slow.done()
        items = [one["number"] async for one in client.stream("events", since=500)]
        assert items == list(range(500))
        echo.go.set()
        assert await slow == ["add", {"size": 1}]
        with pytest.raises(Refused, match="the device said no") as caught:
            await client.call("release")
        assert caught.value.reason == "why"


async def test_a_fault_of_our_own_is_a_line_for_the_client_and_a_traceback_in_the_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with served(Echo()), supervisor.connect("vm0") as client:
        with pytest.raises(DcdError, match="our own fault: ZeroDivisionError: a fault") as caught:
            await client.call("reset")
        assert caught.value.exit_code == 70
        assert await client.call("info") == ["info", {}]
    assert "Traceback" in capfd.readouterr().err


async def test_a_call_and_a_stream_that_are_left_end_at_the_supervisor() -> None:
    echo = Echo()
    async with served(echo), supervisor.connect("vm0") as client:
        with pytest.raises(TimedOut, match=r"did not answer add within 0\.05 s"):
            await client.call("add", reply_timeout_s=0.05)
        async with contextlib.aclosing(client.stream("events", since=1_000_000)) as items:
            async for _ in items:
                await asyncio.sleep(0.1)  # what comes meanwhile is more than is kept
                break
        async with asyncio.timeout(5):
            while echo.cancelled < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await client.call("info") == ["info", {}]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
async def test_a_number_that_json_has_not_is_told_at_once(number: float) -> None:
    """Sent, it would be no request, whose answer has nobody's id: the caller would wait for ever."""
    async with served(Echo()), supervisor.connect("vm0") as client:
        async with asyncio.timeout(5):
            with pytest.raises(AskedWrongly, match=r"add cannot be sent: .*give finite numbers"):
                await client.call("add", size=1, timeout_s=number)
        assert await client.call("info") == ["info", {}]


def test_callers_without_a_loop() -> None:
    """`call` and `stream` of the module, against a server in a process of its own."""
    code = (
        "import asyncio, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_supervisor as t\n"
        "async def main():\n"
        "    async with t.served(t.Echo()):\n"
        "        print('up', flush=True)\n"
        "        await asyncio.to_thread(sys.stdin.readline)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == b"up\n"
        assert supervisor.call("vm0", "info") == ["info", {}]
        with pytest.raises(Refused):
            supervisor.call("vm0", "release")
        assert [item["number"] for item in supervisor.stream("vm0", "events", since=4)] == [0, 1, 2, 3]
        for item in supervisor.stream("vm0", "events", since=100_000):
            assert item["number"] == 0
            break
        one.communicate(b"\n", timeout=10)


async def raw(data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection without a client's manners."""
    connection = place.dial("vm0")
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    writer.write(data)
    return reader, writer


async def gone(reader: asyncio.StreamReader) -> list[dict[str, Any]]:
    """What came until the supervisor ended the connection."""
    async with asyncio.timeout(10):
        return [json.loads(line) async for line in reader]


async def test_garbage_gets_lines_and_in_the_end_the_door() -> None:
    async with served(Echo()), supervisor.connect("vm0") as client:
        reader, writer = await raw(b"garbage\n" * 1000)
        said = await gone(reader)
        assert 0 < len(said) <= server.MAX_BAD + 1
        assert all(line["id"] is None and line["kind"] == "AskedWrongly" for line in said)
        writer.close()
        reader, writer = await raw(b"x" * (protocol.MAX_REQUEST_BYTES + 10))
        assert "longer than" in (await gone(reader))[-1]["error"]
        writer.close()
        reader, writer = await raw(b'{"id": 1, "verb": "in')  # gone in the middle of a line
        writer.close()
        assert await client.call("info") == ["info", {}]


async def test_a_flood_of_requests_is_answered_and_bounded() -> None:
    echo = Echo()
    async with served(echo), supervisor.connect("vm0") as client:
        flood = b"".join(protocol.encode({"id": number, "verb": "add", "args": {}}) for number in range(60))
        reader, writer = await raw(flood + protocol.encode({"id": 3, "verb": "info"}))
        said = [json.loads(await reader.readline()) for _ in range(60 - server.MAX_OPEN + 1)]
        assert all(line["kind"] == "AskedWrongly" for line in said)
        assert "16 requests of this connection are open" in said[0]["error"]
        assert "request 3 is open already" in said[-1]["error"]
        assert await client.call("info") == ["info", {}]
        writer.close()
        async with asyncio.timeout(5):
            while echo.cancelled < server.MAX_OPEN:  # noqa: ASYNC110 (what it asked for ends with it)
                await asyncio.sleep(0.01)


async def test_who_reads_nothing_is_dropped_and_harms_nobody() -> None:
    echo = Echo()
    async with served(echo, stall_s=0.3) as one, supervisor.connect("vm0") as client:
        connection = place.dial("vm0")
        with connection:
            ask = b"".join(
                protocol.encode({"id": number, "verb": "events", "args": {"since": 1_000_000}}) for number in range(10)
            )
            connection.send(ask)
            began = time.monotonic()
            async with asyncio.timeout(10):
                while one.clients < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                while one.clients > 1:
                    assert await client.call("info") == ["info", {}]
            assert time.monotonic() - began >= 0.3
        assert await client.call("info") == ["info", {}]


async def test_clients_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CLIENTS", 2)
    async with served(Echo()), supervisor.connect("vm0") as one, supervisor.connect("vm0") as two:
        assert await one.call("info") == await two.call("info")
        async with supervisor.connect("vm0") as three:
            with pytest.raises(CannotRun, match="2 clients are connected, which is the most"):
                await three.call("info")
        assert await one.call("info") == ["info", {}]


async def test_a_supervisor_that_ends_is_told_to_those_who_wait() -> None:
    async with contextlib.AsyncExitStack() as stack:
        client: supervisor.Client
        async with served(Echo()):
            client = await stack.enter_async_context(supervisor.connect("vm0"))
            waiting = asyncio.create_task(client.call("add"))
            await asyncio.sleep(0.05)
        with pytest.raises(MachineGone, match="guest 'vm0': its supervisor ended the connection"):
            await waiting
        with pytest.raises(MachineGone):
            await client.call("info")


# -- launching, as far as it goes without QEMU -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"regions": 99}, AskedWrongly, "99 regions; a device has 1 to 8"),
        ({"topology": "ring"}, AskedWrongly, "topology 'ring'; there is direct, switch"),
        ({"qemu": "/nowhere/qemu"}, DcdError, "/nowhere/qemu"),
    ],
)
async def test_a_start_that_fails_says_why_and_leaves_nothing(
    options: dict[str, Any], kind: type[DcdError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=said) as caught:
        await supervisor.launch("vm0", supervisor.Options(**options))
    assert caught.value.exit_code in (2, 3)
    assert place.list_guests() == ()
    assert not list((tmp_path / "guests").iterdir())
    assert not (tmp_path / "runs").exists()


async def test_a_supervisor_that_cannot_even_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(DcdError, match="the supervisor of 'vm0' ended without a word; its output ends") as caught:
        await supervisor.launch("vm0")
    assert caught.value.exit_code == 70


async def test_a_cancelled_start_closes_nothing_under_the_thread_that_starts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the number of its socket would go to something else, which the supervisor would then be given."""
    found: list[bool] = []
    begun = threading.Event()

    def start(theirs: socket.socket, said: object) -> None:
        begun.set()
        time.sleep(0.2)
        found.append(stat.S_ISSOCK(os.fstat(theirs.fileno()).st_mode) if theirs.fileno() >= 0 else False)

    monkeypatch.setattr(launching, "_start", start)
    task = asyncio.ensure_future(supervisor.launch("vm0"))
    assert await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.3)
    assert found == [True]


async def test_a_bad_name_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(AskedWrongly, match=r"guest name '\.\./x'"):
        await supervisor.launch("../x")
    assert not (tmp_path / "guests").exists()


def test_it_is_not_started_by_hand() -> None:
    done = subprocess.run([sys.executable, "-m", "dcdbackend.supervisor"], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "started by dcd launch" in done.stderr


# -- commands in the guest, here on this machine -----------------------------------------------------------------------


def finished(processes: Processes, argv: list[str], timeout_s: float = 20.0) -> tuple[bytes, bytes, int, bool]:
    handle = processes.start({"argv": argv, "timeout_s": timeout_s})
    out, err = b"", b""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        processes.turn()
        said = processes.read(handle)
        out += bytes.fromhex(cast(str, said["stdout"]))
        err += bytes.fromhex(cast(str, said["stderr"]))
        if said["exit"] is not None:
            return out, err, cast(int, said["exit"]), cast(bool, said["timed_out"])
        time.sleep(0.001)
    raise AssertionError("it did not end")


def test_a_commands_output_and_end() -> None:
    processes = Processes()
    assert finished(processes, ["sh", "-c", "echo out; echo err >&2; exit 7"]) == (b"out\n", b"err\n", 7, False)
    assert finished(processes, ["sh", "-c", "kill -TERM $$"])[2] == -signal.SIGTERM
    assert finished(processes, ["cat"]) == (b"", b"", 0, False)  # its standard input is empty
    out = finished(processes, ["sh", "-c", "head -c 300000 /dev/zero"])[0]
    assert len(out) == 300000
    left = finished(processes, ["sh", "-c", "sleep 30 & echo $!"])
    assert left[2] == 0  # what runs in the background holds nobody up
    os.kill(int(left[0]), signal.SIGKILL)


def test_a_command_that_does_not_end_is_killed_at_its_time() -> None:
    began = time.monotonic()
    assert finished(Processes(), ["sh", "-c", "echo begun; sleep 60"], 1.0) == (b"begun\n", b"", -9, True)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"argv": ["/nowhere/x"]}, "'/nowhere/x' does not start: No such file"),
        ({"argv": []}, "give a list of 1 to 256 words"),
        ({"argv": ["a\0"]}, "give a list"),
        ({"argv": "ls"}, "give a list"),
        ({"argv": ["x" * 40000]}, "longer than"),
        ({"argv": ["ls"], "timeout_s": -1}, "timeout_s -1"),
        ({"argv": ["ls"], "timeout_s": float("nan")}, "timeout_s nan"),
    ],
)
def test_a_command_that_cannot_start(request_: dict[str, object], said: str) -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(AskedWrongly, match=said):
        Processes().start(request_)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_what_nobody_reads_waits_and_is_bounded_and_forgotten() -> None:
    now = [0.0]
    processes = Processes(clock=lambda: now[0])
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(MOST_RUNNING):
        processes.start({"argv": ["yes"], "timeout_s": 10})
    with pytest.raises(AskedWrongly, match="commands are running"):
        processes.start({"argv": ["true"]})
    said = processes.read({"handle": 1})
    assert len(cast(str, said["stdout"])) <= 2 * (12 << 10)
    processes.kill({"handle": 2})
    assert processes.kill({"handle": 99}) == {}
    now[0] = 11.0
    end = time.monotonic() + 10
    while time.monotonic() < end and any(one.exit is None for one in processes._running.values()):
        processes.turn()
    processes.turn()
    assert 2 not in processes._running  # nobody will ask for it
    assert 3 in processes._running
    now[0] = 12.0 + FORGET_S
    processes.turn()
    assert processes._running == {}
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    with pytest.raises(AskedWrongly, match="no command 1"):
        processes.read({"handle": 1})


def test_a_command_has_default_signals_and_a_session_of_its_own() -> None:
    out = finished(Processes(), [sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"])[0]
    assert out == b"True\n"
    status = finished(Processes(), ["cat", "/proc/self/status"])[0].decode()
    ignored = int(status.split("SigIgn:")[1].split()[0], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1))  # which Python ignores


def test_sockets_stay_with_the_supervisor() -> None:
    """Nothing that it starts may keep the lock or the socket."""
    with place.Place.claim("vm0") as mine, mine.listen(1) as listening:
        assert isinstance(listening, socket.socket)
        assert not os.get_inheritable(mine._descriptor)
        assert not listening.get_inheritable()
