"""The verbs for a launched guest: arguments, output, hints, JSON, exit codes, errors, completion.

Each verb talks to a real `supervisor.server.Server` whose guest is a table of answers; the requests pass the
supervisor's own check of arguments. So nothing here says anything about QEMU or a guest;
`tests/vm/test_cli_guests_vm.py` does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import termios
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dcdbackend import supervisor
from dcdbackend.agent.policy import ADD, RELEASE
from dcdbackend.checker.notation import header, parse
from dcdbackend.cli import VERBS, complete, hexdump, out, run
from dcdbackend.cli import launch as launching
from dcdbackend.cli import policy as policies
from dcdbackend.errors import AskedWrongly, CannotRun, DcdError, MachineGone, Refused, TimedOut
from dcdbackend.history import op_line
from dcdbackend.supervisor import verbs
from dcdbackend.supervisor.place import Place
from dcdbackend.supervisor.server import Server

MIB = 1 << 20
GIB = 1 << 30
DEVICES = [
    {
        "name": name,
        "serial": 1,
        "regions": [{"index": index, "base": index * GIB, "length": GIB, "block_size": 2 * MIB} for index in range(2)],
    }
    for name in ("mem0", "mem1")
]
FOLLOWED = {"add": {"kind": "accept"}, "release": {"kind": "release"}}
INFO: dict[str, Any] = {
    "name": "vm0",
    "state": "running",
    "death": None,
    "protocol": 1,
    "run_dir": "/nowhere",
    "since": 1.0,
    "seed": 1,
    "topology": "direct",
    "qemu": {"version": "11.1.3", "origin": "private", "accel": "tcg", "pid": 7},
    "kernel": "6.12",
    "devices": DEVICES,
    "policy": {"mem0": FOLLOWED, "mem1": FOLLOWED},
    "clients": 1,
    "operations": 3,
}
ADDED = {
    "outcome": "accepted",
    "device": "mem0",
    "region": 0,
    "extents": [[0, 256 * MIB]],
    "accepted": [[0, 256 * MIB]],
    "refused": [],
    "witnesses": {"host": [[0, 256 * MIB]], "block": [[0, 256 * MIB, "accepted"]]},
}
RELEASED = {
    "outcome": "released",
    "device": "mem0",
    "released": [[0, 64 * MIB]],
    "kept": [],
    "requests": [
        {
            "region": 0,
            "extents": [[0, 64 * MIB]],
            "outcome": "released",
            "released": [[0, 64 * MIB]],
            "kept": [],
            "witnesses": {"host": [[0, 64 * MIB]], "block": [[0, 64 * MIB, "free"]]},
        }
    ],
}
SHOWN = {
    "source": "witness",
    "devices": [
        {
            "device": "mem0",
            "regions": [
                {
                    "region": 0,
                    "base": 0,
                    "length": GIB,
                    "block_size": 2 * MIB,
                    "runs": [
                        {"dpa": 0, "length": 256 * MIB, "state": "accepted", "sampled": False},
                        {"dpa": 256 * MIB, "length": 128 * MIB, "state": "pending", "sampled": False},
                        {"dpa": 384 * MIB, "length": 640 * MIB, "state": "free", "sampled": True},
                    ],
                }
            ],
            "list": [[0, 128 * MIB], [128 * MIB, 128 * MIB]],
            "policy": {"add": {"kind": "never"}, "release": {"kind": "part", "first_bytes": 2 * MIB}},
        }
    ],
}
LINES = [
    {"n": 0, **header()._asdict(), "devices": list(header().devices)},
    *[op._asdict() for op in parse("add 0+2M; events; accept; clear")],
]
ANSWERS: dict[str, Any] = {
    "info": INFO,
    "add": ADDED,
    "release": RELEASED,
    "answer": {**ADDED, "waiting": False},
    "policy": {"device": "mem0", **FOLLOWED},
    "release_policy": {"device": "mem0", **FOLLOWED},
    "show": SHOWN,
    "read": lambda args: {"data": bytes((args["dpa"] + at) & 0xFF for at in range(args["length"])).hex()},
    "write": lambda args: {"written": len(args["data"]) // 2},
    "exec": {"stdout": "out\n", "stderr": "err\n", "exit": 0, "cut": 0, "timed_out": False},
    "reset": {"kernel": "6.12"},
    "stop": {"run_dir": "/nowhere"},
    "events": LINES,
    "console": ["boot", "ed\n"],
}


class Guest:
    """A launched guest that is a table: a place, a server in a thread, what was asked of it."""

    def __init__(self, name: str, run_dir: Path) -> None:
        self.name = name
        self.answers = dict(ANSWERS)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(run_dir)))

    async def call(self, verb: str, args: Mapping[str, object]) -> Any:
        verbs.checked(verb, args)
        self.asked.append((verb, dict(args)))
        answer = self.answers[verb]
        if verb == "stop":
            self._over.set()
        if callable(answer):
            answer = answer(args)
        if isinstance(answer, DcdError):
            raise answer
        return answer

    async def stream(self, verb: str, args: Mapping[str, object]) -> AsyncGenerator[Any, None]:
        for item in await self.call(verb, args):
            yield item
        if args.get("follow"):
            await self._over.wait()

    async def _serve(self, run_dir: Path) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        with Place.claim(self.name) as place:
            async with Server(place.listen(4), self):
                place.note(ready=True, run_dir=str(run_dir), since=time.time(), qemu="11.1.3", pid=os.getpid())
                self._ready.set()
                await self._over.wait()
        self._loop = None

    def __enter__(self) -> Guest:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def given(self, verb: str) -> dict[str, Any]:
        """The arguments of the only request for a verb."""
        (args,) = [args for asked, args in self.asked if asked == verb]
        return args


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCD_GUESTS", str(tmp_path / "guests"))
    monkeypatch.setenv("DCD_RUNS", str(tmp_path / "runs"))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run whose history says: offered, read, accepted, cleared."""
    path = tmp_path / "runs/one"
    path.mkdir(parents=True)
    lines = b"".join(op_line(op) for op in parse("add 0+2M; events; accept; clear; block 0"))
    (path / "history.jsonl").write_bytes(header().line() + lines)
    return path


@pytest.fixture
def guest(run_dir: Path) -> Iterator[Guest]:
    with Guest("vm0", run_dir) as found:
        yield found


@pytest.fixture
def dead(run_dir: Path, tmp_path: Path) -> str:
    """A guest whose supervisor was killed: a directory and a note, and nobody who holds its lock."""
    path = tmp_path / "guests/old"
    path.mkdir(parents=True)
    (path / "guest.json").write_text(json.dumps({"ready": True, "run_dir": str(run_dir), "qemu": "11.1.3", "pid": 1}))
    return "old"


Capture = pytest.CaptureFixture[str]


def typed(capsys: Capture, *argv: str) -> tuple[int, str, str]:
    code = run(argv)
    said = capsys.readouterr()
    return code, said.out, said.err


def wrong(capsys: Capture, *argv: str, code: int = 2) -> str:
    """What a verb says that fails: one line, on stderr, nothing beside it."""
    found, stdout, stderr = typed(capsys, *argv)
    assert (found, stdout) == (code, ""), (found, stdout, stderr)
    assert stderr.count("\n") == 1 and stderr.startswith("dcd: "), stderr
    return stderr.removeprefix("dcd: ").rstrip("\n")


# -- what every verb keeps ---------------------------------------------------------------------------------------------

EACH = [
    ("add", "vm0", "256M"),
    ("release", "vm0", "64M"),
    ("answer", "vm0", "accept"),
    ("policy", "vm0", "refuse"),
    ("policy", "vm0"),
    ("show", "vm0"),
    ("read", "vm0", "0"),
    ("write", "vm0", "0", "c0ffee"),
    ("events", "vm0"),
    ("console", "vm0"),
    ("exec", "vm0", "--", "cat", "/proc/version"),
    ("reset", "vm0"),
    ("check", "vm0"),
    ("list",),
    ("stop", "vm0"),
]


@pytest.mark.parametrize("argv", EACH, ids=" ".join)
def test_a_verb_ends_with_the_next_command_on_stderr(argv: tuple[str, ...], guest: Guest, capsys: Capture) -> None:
    code, stdout, stderr = typed(capsys, *argv)
    assert code == 0
    assert stdout and "next: " not in stdout
    last = stderr.splitlines()[-1]
    assert last.startswith("next: dcd ")
    assert last.split()[2] in VERBS


@pytest.mark.parametrize("argv", EACH, ids=" ".join)
def test_json_is_alone(argv: tuple[str, ...], guest: Guest, capsys: Capture) -> None:
    words = ["exec", "--json", *argv[1:]] if argv[0] == "exec" else [*argv, "--json"]
    code, stdout, stderr = typed(capsys, *words)
    assert (code, stderr) == (0, "")
    streams = argv[0] in ("events", "console")
    found: Any = [json.loads(line) for line in stdout.splitlines()] if streams else json.loads(stdout)
    expected: dict[str, Any] = {
        "add": ADDED,
        "release": RELEASED,
        "answer": {**ADDED, "waiting": False},
        "show": {**{key: INFO[key] for key in ("name", "state", "death", "qemu")}, **SHOWN},
        "read": {"device": "mem0", "dpa": 0, "length": 256, "via": "backend", "data": bytes(range(256)).hex()},
        "write": {"device": "mem0", "dpa": 0, "via": "backend", "written": 3},
        "exec": ANSWERS["exec"],
        "reset": {"kernel": "6.12"},
        "events": LINES,
        "console": ["booted"],
    }
    if argv == ("policy", "vm0"):
        assert found == [{"device": name, **FOLLOWED} for name in ("mem0", "mem1")]
    elif argv[0] == "policy":
        assert found == {"device": "mem0", **FOLLOWED}
    elif argv[0] in ("list", "stop"):
        keys = {"name", "state", "run_dir", "since", "qemu", "pid"} | ({"died"} if argv[0] == "list" else set())
        assert [set(one) for one in found] == [keys]
        assert (found[0]["name"], found[0]["state"]) == ("vm0", "alive")
    elif argv[0] == "check":
        (verdict,) = found.values()
        assert verdict["outcome"] == "pass"
    else:
        assert found == expected[argv[0]]


@pytest.mark.parametrize("verb", ["add", "release", "policy", "show", "read", "write", "exec", "reset", "stop"])
def test_an_unknown_name_lists_who_is_there(verb: str, guest: Guest, capsys: Capture) -> None:
    more = {"add": ["2M"], "release": ["--all"], "read": ["0"], "write": ["0", "00"], "exec": ["ls"]}.get(verb, [])
    said = wrong(capsys, verb, "nosuch", *more)
    assert "no guest 'nosuch'" in said
    assert ("dcd list" if verb == "stop" else "there is vm0") in said


@pytest.mark.parametrize("verb", ["add", "release", "answer", "policy", "read", "write", "exec", "reset"])
def test_a_dead_one_says_how_it_died_and_what_to_do(verb: str, dead: str, capsys: Capture) -> None:
    more = {
        "answer": ["refuse"],
        "add": ["2M"],
        "release": ["--all"],
        "read": ["0"],
        "write": ["0", "00"],
        "exec": ["ls"],
    }.get(verb, [])
    said = wrong(capsys, verb, dead, *more, code=4)
    assert "guest 'old' is dead: its supervisor was killed" in said
    assert "dcd check" in said


def test_one_whose_qemu_died_says_how(guest: Guest, capsys: Capture) -> None:
    guest.answers["add"] = MachineGone("guest 'vm0' has died: QEMU (pid 7) ended by SIGSEGV")
    said = wrong(capsys, "add", "vm0", "2M", code=4)
    assert said == "guest 'vm0' has died: QEMU (pid 7) ended by SIGSEGV; judge what it left: dcd check vm0"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help(verb: str, capsys: Capture) -> None:
    code, stdout, _ = typed(capsys, verb, "--help")
    assert code == 0
    assert f"Usage: dcd {verb} [OPTIONS]" in stdout


def test_the_help_names_every_verb(capsys: Capture) -> None:
    code, stdout, _ = typed(capsys, "--help")
    assert code == 0
    rows = stdout.partition("Commands:\n")[2].splitlines()
    assert [row.split()[0] for row in rows if row[2:3].strip()] == list(VERBS)


# -- capacity ----------------------------------------------------------------------------------------------------------


def test_a_size_is_offered_where_there_is_room(guest: Guest, capsys: Capture) -> None:
    code, stdout, stderr = typed(capsys, "add", "vm0", "256M")
    assert (code, guest.given("add")) == (0, {"size": 256 * MIB})
    assert stdout.splitlines() == [
        "accepted: 0x0+256M (256M, region 0 of mem0)",
        "witnessed: the host named 0x0+256M; QEMU shows 0x0+256M accepted",
    ]
    assert stderr == "next: dcd show vm0\n"


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["1GiB"], {"size": GIB}),
        (["0x10000000", "--at", "512M"], {"size": 256 * MIB, "at": 512 * MIB}),
        (["0+128M", "512M+64M"], {"extents": ["0+128M", "512M+64M"]}),
        (
            ["2M", "-r", "1", "-d", "mem1", "--tag", "ab" * 16, "--timeout", "0.5"],
            {"size": 2 * MIB, "region": 1, "device": "mem1", "tag": "ab" * 16, "timeout_s": 0.5},
        ),
    ],
)
def test_what_is_asked_reaches_the_supervisor(
    words: list[str], given: dict[str, Any], guest: Guest, capsys: Capture
) -> None:
    assert typed(capsys, "add", "vm0", *words)[0] == 0
    assert guest.given("add") == given
    assert typed(capsys, "release", "vm0", *words)[0] == 0
    assert guest.given("release") == given


@pytest.mark.parametrize(
    ("change", "code", "first", "hint"),
    [
        (
            {"outcome": "refused", "accepted": [], "refused": [[0, 2 * MIB]], "witnesses": {"host": [], "block": []}},
            0,
            "refused: 0x0+2M (2M, region 0 of mem0)",
            "show",
        ),
        (
            {"outcome": "partial", "accepted": [[0, 2 * MIB]], "refused": [[2 * MIB, 4 * MIB]]},
            0,
            "accepted: 0x0+2M (2M, region 0 of mem0)",
            "show",
        ),
        (
            {"outcome": "unanswered", "accepted": [], "refused": [], "witnesses": {"host": None, "block": []}},
            4,
            "unanswered: 0+256M of region 0 of mem0 is still offered",
            "answer",
        ),
    ],
)
def test_the_outcome_of_an_offer(
    change: dict[str, Any], code: int, first: str, hint: str, guest: Guest, capsys: Capture
) -> None:
    guest.answers["add"] = {**ADDED, **change}
    found, stdout, stderr = typed(capsys, "add", "vm0", "256M")
    assert (found, stdout.splitlines()[0]) == (code, first)
    assert stderr.splitlines()[-1] == f"next: dcd {hint} vm0{' accept' if code else ''}"
    assert ("oldest first (DEV-6)" in stderr) == (code == 4)
    assert typed(capsys, "add", "vm0", "256M", "--json")[0] == code


def test_an_answer_by_hand(guest: Guest, capsys: Capture) -> None:
    code, stdout, stderr = typed(capsys, "answer", "vm0", "accept", "0+128M", "192M+64M", "-d", "mem1")
    assert (code, stderr) == (0, "next: dcd show vm0\n")
    assert guest.given("answer") == {"choice": "accept", "extents": ["0+128M", "192M+64M"], "device": "mem1"}
    assert stdout.splitlines()[0] == "accepted: 0x0+256M (256M, region 0 of mem0)"
    guest.answers["answer"] = {**ADDED, "outcome": "refused", "accepted": [], "device": "mem1", "waiting": True}
    code, stdout, stderr = typed(capsys, "answer", "vm0", "refuse")
    assert (code, stdout.count("\n")) == (0, 1)
    assert stderr == "another offer still waits for an answer\nnext: dcd answer vm0 accept --device mem1\n"
    guest.answers["answer"] = Refused("mem0 refused the answer (return code 0fh)", reason="0fh")
    assert wrong(capsys, "answer", "vm0", "accept", code=1) == "mem0 refused the answer (return code 0fh)"


@pytest.mark.parametrize(
    ("outcome", "code", "text"),
    [
        ("released", 0, "released: 0x0+64M (64M of mem0)"),
        ("declined", 0, "kept: 0x0+64M (64M of mem0)"),
        ("unanswered", 4, "unanswered: the host has not heeded the request"),
        ("nothing", 0, "nothing of mem0 is accepted there; nothing was asked"),
    ],
)
def test_the_outcome_of_a_request(outcome: str, code: int, text: str, guest: Guest, capsys: Capture) -> None:
    there = [[0, 64 * MIB]]
    guest.answers["release"] = {
        **RELEASED,
        "outcome": outcome,
        "released": there if outcome == "released" else [],
        "kept": there if outcome in ("declined", "unanswered") else [],
        "requests": [] if outcome == "nothing" else RELEASED["requests"],
    }
    found, stdout, _ = typed(capsys, "release", "vm0", "--all")
    assert found == code
    assert text in stdout.splitlines()
    assert guest.given("release") == {"all": True}


def test_the_devices_own_reason_is_said(guest: Guest, capsys: Capture) -> None:
    guest.answers["add"] = Refused("QEMU refused it: not aligned", reason="not aligned")
    assert wrong(capsys, "add", "vm0", "1+1", code=1) == "QEMU refused it: not aligned"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["add", "vm0", "256MB"], "size '256MB' is not understood; write it like 256M, 1GiB or 0x10000000"),
        (["add", "vm0", "0"], "size 0; give at least a block, like 2M"),
        (["add", "vm0", "256M", "0+2M"], "'256M' beside others; give one size"),
        (["add", "vm0", "2M", "4M"], "'2M' beside others; give one size"),
        (["add", "vm0", "0+2M", "--at", "4M"], "--at goes with a size"),
        (["add", "vm0", "2M", "--at", "x"], "--at 'x' is not understood"),
        (["add", "vm0", "2M", "--tag", "x"], "tag 'x'; give 16 bytes"),
        (["add", "vm0", "2M", "--timeout", "-1"], "timeout_s -1.0; give 0 to"),
        (["add", "vm0", "2M", "--region", "256"], "--region"),
        (["add", "vm0"], "SIZE|OFFSET+LENGTH"),
        (["answer", "vm0"], "accept|refuse"),
        (["answer", "vm0", "maybe"], "'maybe'"),
        (["answer", "vm0", "refuse", "0+2M"], "refuse is of the whole offer; extents go with accept"),
        (["answer", "vm0", "accept", "2M"], "extent '2M'"),
        (["release", "vm0"], "say what to release: a size, OFFSET+LENGTH extents, or --all"),
        (["release", "vm0", "2M", "--all"], "say what to release"),
        (["release", "vm0", "--all", "--at", "2M"], "--at goes with a size, not with --all"),
        (["add", "a/b", "2M"], "guest name 'a/b'"),
    ],
)
def test_what_cannot_be_asked(argv: list[str], said: str, guest: Guest, capsys: Capture) -> None:
    assert said in wrong(capsys, *argv)
    assert not [verb for verb, _ in guest.asked]


# -- policies ----------------------------------------------------------------------------------------------------------

SAMPLES = {
    "keep": ("0,2", [0, 2]),
    "first_bytes": ("64M", 64 * MIB),
    "last_bytes": ("2M", 2 * MIB),
    "offset_bytes": ("2M", 2 * MIB),
    "length_bytes": ("4M", 4 * MIB),
    "parts": ("0:0+2M,1:2M+4M", [[0, 0, 2 * MIB], [1, 2 * MIB, 4 * MIB]]),
    "delay_s": ("0.5", 0.5),
    "each": ("2", 2),
}


@pytest.mark.parametrize(
    ("on", "kind"), [("offers", kind) for kind in ADD] + [("requests", kind) for kind in RELEASE], ids="-".join
)
def test_every_policy_of_the_agent_can_be_typed(on: str, kind: str, guest: Guest, capsys: Capture) -> None:
    row = {"offers": ADD, "requests": RELEASE}[on][kind]
    then = {"offers": "refuse", "requests": "decline"}[on]
    samples = {**SAMPLES, "then": (then, {"kind": then})}
    words = [f"{key.removesuffix('_bytes').removesuffix('_s')}={samples[key][0]}" for key in row.parameters]
    params = {key: samples[key][1] for key in row.parameters}
    assert policies.parse([kind, *words]) == (on, kind, params)
    assert policies.spelled({"kind": kind, **params}).split() == [kind, *words]
    assert typed(capsys, "policy", "vm0", kind, *words)[0] == 0
    verb = {"offers": "policy", "requests": "release_policy"}[on]
    assert guest.given(verb) == {"kind": kind, "params": params}
    assert sorted(policies.parameters(kind)) >= sorted(word.partition("=")[0] for word in words)


def test_late_is_for_offers_unless_said() -> None:
    assert policies.parse(["late"]).on == "offers"
    assert policies.parse(["late"], "requests").on == "requests"
    assert policies.parse(["late", "then=release"]).on == "requests"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "for offers there is accept, refuse, subset, late, never, reverse, several; for release"),
        (["accept", "--on", "requests"], "policy 'accept'"),
        (["subset", "frist=2M"], "'frist=2M' is no parameter of subset; it takes keep=INDEX,..., first=SIZE"),
        (["refuse", "now"], "'now' is no parameter of refuse; it takes none"),
        (["subset", "first=x"], "first 'x' is not understood"),
        (["subset", "parts=1+2"], "part '1+2'; write INDEX:OFFSET+LENGTH"),
        (["late", "delay=soon"], "delay_s 'soon'; give seconds"),
        (["late", "delay=1e9"], "give seconds from 0 to 3600"),
        (["late", "then=late"], "policy 'late' in a 'late'"),
        (["late", "then=nothing"], "offers policy {'kind': 'nothing'}; the kinds are accept, refuse"),
    ],
)
def test_a_policy_that_there_is_not(words: list[str], said: str, guest: Guest, capsys: Capture) -> None:
    assert said in wrong(capsys, "policy", "vm0", *words)
    assert not guest.asked


def test_a_rule_is_broken_on_purpose(guest: Guest, capsys: Capture) -> None:
    guest.answers["break_rule"] = {"device": "mem0", **FOLLOWED, "break": "DEV-6.inside"}
    code, stdout, stderr = typed(capsys, "policy", "vm0", "--break", "DEV-6")
    assert (code, stderr) == (0, "next: dcd add vm0 256M\n")
    assert stdout == "mem0: offers: accept; release requests: release; breaks DEV-6.inside\n"
    assert typed(capsys, "policy", "vm0", "refuse", "--break", "none", "-d", "mem1")[0] == 0
    assert guest.asked == [
        ("break_rule", {"clause": "DEV-6.inside"}),
        ("policy", {"kind": "refuse", "params": {}, "device": "mem1"}),
        ("break_rule", {"device": "mem1"}),
    ]
    assert "host U can break DEV-6.inside, DEV-6.oldest" in wrong(capsys, "policy", "vm0", "refuse", "--break", "DEV-9")
    assert len(guest.asked) == 3
    listed = typed(capsys, "policy", "vm0")[1]
    assert "  DEV-8.16h      a payload shorter than its count" in listed.splitlines()


def test_a_guests_policies_from_the_start() -> None:
    options = launching._options(["subset first=64M", "decline"])
    assert options.policy == {"kind": "subset", "first_bytes": 64 * MIB}
    assert options.release_policy == {"kind": "decline"}
    with pytest.raises(AskedWrongly, match="offers have one already"):
        launching._options(["never", "refuse"])


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_the_picture_and_the_extents(guest: Guest, capsys: Capture) -> None:
    code, stdout, stderr = typed(capsys, "show", "vm0", "-d", "mem0")
    assert (code, guest.given("show")) == (0, {"device": "mem0"})
    assert stderr == "next: dcd read vm0 0x0 --via host\n"
    assert [line.rstrip() for line in stdout.splitlines()] == [
        "vm0: running, QEMU 11.1.3 (tcg), topology direct, kernel 6.12",
        "",
        "mem0: offers: never; release requests: part first=2M",
        "region 0 at 0x0: 256M accepted, 128M pending, 640M free of 1G",
        "  ████████████████▒▒▒▒▒▒▒▒········································",
        "  0       128M    256M    384M    512M    640M    768M    896M    1G",
        "  █ accepted  ▒ pending  · free  one mark is 16M",
        "large regions: not every block was asked",
        "DPA         length  region  offset  state",
        "0x0           128M       0  0       accepted",
        "0x8000000     128M       0  128M    accepted",
        "0x10000000    128M       0  256M    pending",
    ]


def test_witnesses_that_disagree_are_told(guest: Guest, capsys: Capture) -> None:
    shown = json.loads(json.dumps(SHOWN))
    shown["devices"][0]["list"] = [[0, 128 * MIB]]
    guest.answers["show"] = shown
    assert "the witnesses disagree: the device's list (4801h) has 0x0+128M" in typed(capsys, "show", "vm0")[1]


def test_a_guest_that_died_is_shown_from_its_history(guest: Guest, capsys: Capture) -> None:
    guest.answers["info"] = {**INFO, "state": "gone", "death": {"kind": "device", "text": "QEMU ended by SIGSEGV"}}
    guest.answers["show"] = {**SHOWN, "source": "history"}
    code, stdout, stderr = typed(capsys, "show", "vm0")
    assert (code, stderr) == (0, "next: dcd check vm0\n")
    assert stdout.splitlines()[0].startswith("vm0: gone, ")
    assert "how it died: QEMU ended by SIGSEGV\nwhat follows is what its history tells" in stdout
    _, stdout, stderr = typed(capsys, "list")
    assert "vm0   gone" in stdout and "vm0 is gone: QEMU ended by SIGSEGV" in stdout
    assert stderr == "next: dcd check vm0\n"
    assert json.loads(typed(capsys, "list", "--json")[1])[0]["died"] == "QEMU ended by SIGSEGV"


def test_a_guest_whose_supervisor_was_killed_is_shown_as_recorded(dead: str, run_dir: Path, capsys: Capture) -> None:
    lines = b"".join(op_line(op) for op in parse("add 0+4M; events; accept 0+2M; clear; add 8M+2M"))
    (run_dir / "history.jsonl").write_bytes(header().line() + lines + b'{"n":11,"op":')
    code, stdout, stderr = typed(capsys, "show", dead)
    assert (code, stderr) == (0, "next: dcd check old\n")
    told = [line.rstrip() for line in stdout.splitlines()]
    assert told[0].startswith("old: dead, QEMU ")
    assert told[1:3] == [
        "how it died: its supervisor was killed",
        "what follows is what its history tells (recorded, to line 10)",
    ]
    assert "region 0 at 0x0: 2M accepted, 2M pending" in stdout
    assert told[-2:] == [
        "0x0           2M       0  0       accepted",
        "0x800000      2M       0  8M      pending",
    ]
    found = json.loads(typed(capsys, "show", dead, "-d", "mem0", "--json")[1])
    assert (found["state"], found["death"]["kind"], found["source"], found["line"]) == (
        "dead",
        "supervisor",
        "history",
        10,
    )
    assert [run["state"] for run in found["devices"][0]["regions"][0]["runs"]] == [
        "accepted",
        "free",
        "pending",
        "free",
    ]
    assert (found["devices"][0]["list"], found["devices"][0]["policy"]) == (None, None)
    assert "no device 'mem9'" in wrong(capsys, "show", dead, "-d", "mem9")
    (run_dir / "history.jsonl").unlink()
    assert "holds no history.jsonl" in wrong(capsys, "show", dead)
    run_dir.rmdir()
    assert "guest 'old' is dead: its supervisor was killed" in wrong(capsys, "show", dead, code=4)


def test_a_list_tells_the_dead_from_the_living(guest: Guest, dead: str, capsys: Capture) -> None:
    code, stdout, stderr = typed(capsys, "list")
    rows = [line.split() for line in stdout.splitlines()[1:]]
    assert code == 0
    assert rows[0][:6] == ["old", "dead:", "its", "supervisor", "was", "killed"]
    assert rows[1][:3] == ["vm0", "alive", "11.1.3"]
    assert "2 devices of 2G in 2 regions, direct" in stdout
    assert stderr == "next: dcd check old\n"


def test_nobody_is_there(capsys: Capture) -> None:
    assert typed(capsys, "list") == (0, "no guest is launched\n", "next: dcd launch vm0\n")
    assert typed(capsys, "stop", "--all") == (0, "no guest is launched\n", "next: dcd list\n")


# -- bytes -------------------------------------------------------------------------------------------------------------


def test_a_dump_at_its_address(guest: Guest, capsys: Capture) -> None:
    code, stdout, stderr = typed(capsys, "read", "vm0", "0x40", "-n", "17", "--via", "host")
    assert (code, guest.given("read")) == (0, {"dpa": 0x40, "length": 17, "via": "host"})
    assert stdout.splitlines() == [
        "00000040  40 41 42 43 44 45 46 47  48 49 4a 4b 4c 4d 4e 4f  |@ABCDEFGHIJKLMNO|",
        f"00000050  50{' ' * 48}|P|",
    ]
    assert stderr == "next: dcd write vm0 0x40 c0ffee --via backend\n"
    assert hexdump.read(stdout) == bytes(range(0x40, 0x51))


@pytest.mark.parametrize("size", [1, 15, 16, 17, 48, 64, 255, 4096])
@pytest.mark.parametrize("base", [0, 0x40000000, 0x1_0000_0000])
def test_a_dump_is_read_back(size: int, base: int) -> None:
    """Also with rows that repeat, which are a `*`."""
    for data in (bytes(size), bytes(at * 7 & 0xFF for at in range(size)), bytes(size - 1) + b"x"):
        rows = list(hexdump.rows(data, base))
        assert hexdump.read("\n".join(rows)) == data
        assert len(rows) <= 4 or len(data.strip(b"\0")) > 1


def test_much_is_read_in_pieces(guest: Guest, capsys: Capture) -> None:
    code, stdout, _ = typed(capsys, "read", "vm0", "0", "-n", "10000", "--json")
    assert code == 0
    assert json.loads(stdout)["data"] == bytes(at & 0xFF for at in range(10000)).hex()
    assert [args["length"] for _, args in guest.asked] == [4096, 4096, 1808]


def test_bytes_as_they_are(guest: Guest, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["read", "vm0", "0x80", "-n", "8", "--binary"]) == 0
    assert capfdbinary.readouterr().out == bytes(range(0x80, 0x88))


@pytest.mark.parametrize(
    ("words", "data"),
    [
        (["c0ffee"], "c0ffee"),
        (["0xc0 0xff,ee"], "c0ffee"),
        (["hi é", "--text"], "686920c3a9"),
        (["--file", "FILE"], "00ff"),
    ],
)
def test_what_is_written(words: list[str], data: str, guest: Guest, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"\x00\xff")
    words = [str(tmp_path / "data") if word == "FILE" else word for word in words]
    code, stdout, stderr = typed(capsys, "write", "vm0", "2M", *words)
    assert (code, guest.given("write")) == (0, {"dpa": 2 * MIB, "data": data, "via": "backend"})
    assert stdout == f"{len(data) // 2} bytes written at 0x200000 of mem0, backend\n"
    assert stderr == "next: dcd read vm0 0x200000 --via host\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["read", "vm0", "x"], "address 'x' is not understood"),
        (["read", "vm0", "0", "-n", "0"], "--length '0'; give 1 to 1M"),
        (["read", "vm0", "0", "-n", "2M"], "--length '2M'; give 1 to 1M"),
        (["read", "vm0", "0", "--via", "ssh"], "'ssh'"),
        (["read", "vm0", "0", "--binary", "--json"], "give one"),
        (["write", "vm0", "0"], "give the DATA to write, or --file"),
        (["write", "vm0", "0", "00", "-f", "x"], "give the DATA to write, or --file"),
        (["write", "vm0", "0", "xyz"], "DATA: 'xyz' is not hex; give hex digits, two for each byte, or add --text"),
        (["write", "vm0", "0", "abc"], "DATA: 'abc' has an odd number of digits"),
        (["write", "vm0", "0", ""], "no bytes to write"),
        (["write", "vm0", "0", "-f", "/nowhere/x"], "cannot read /nowhere/x: No such file or directory"),
    ],
)
def test_bytes_that_cannot_be(argv: list[str], said: str, guest: Guest, capsys: Capture) -> None:
    assert said in wrong(capsys, *argv)
    assert not guest.asked


# -- what happens ------------------------------------------------------------------------------------------------------

TOLD = [
    "the manager offers 0+2M of region 0 -> queued for the host",
    "the host reads the log -> 1: offer 0x0+2M",
    "the host accepts 0x0+2M -> done",
    "the host clears record 1 -> done",
]


def test_events_in_words(guest: Guest, capsys: Capture) -> None:
    code, stdout, stderr = typed(capsys, "events", "vm0")
    assert (code, stderr) == (0, "next: dcd check vm0\n")
    assert [line.split(maxsplit=2)[2] for line in stdout.splitlines()] == TOLD
    assert [int(line.split()[1]) for line in stdout.splitlines()] == [2, 4, 6, 8]
    assert guest.given("events") == {"since": 0, "follow": False}


def test_brief_leaves_the_witnesses_out(run_dir: Path, capsys: Capture) -> None:
    whole, brief = (typed(capsys, "events", str(run_dir), *more)[1].splitlines() for more in ([], ["--brief"]))
    assert [line.split(maxsplit=2)[2] for line in brief] == TOLD
    assert [line for line in whole if line not in brief] == [whole[-1]]
    assert whole[-1].endswith("QEMU is asked of 0 of region 0 -> accepted")


def test_events_of_what_is_dead_or_a_run(dead: str, run_dir: Path, capsys: Capture) -> None:
    for what in (dead, str(run_dir), str(run_dir / "history.jsonl")):
        code, stdout, _ = typed(capsys, "events", what)
        assert code == 0
        assert [line.split(maxsplit=2)[2] for line in stdout.splitlines()][:4] == TOLD
    code, stdout, _ = typed(capsys, "events", dead, "--json", "--since", "3")
    assert [json.loads(line)["n"] for line in stdout.splitlines()] == [*range(3, 11)]
    (run_dir / "two").mkdir()
    (run_dir / "two/history.jsonl").write_bytes((run_dir / "history.jsonl").read_bytes())
    assert "holds 2 histories; give one of them" in wrong(capsys, "events", str(run_dir))


def test_a_follower_is_told_at_once_and_ends_by_ctrl_c(guest: Guest) -> None:
    """Also what waits for an adjoining block: it is told when nothing comes for a while."""
    guest.answers["events"] = [line for line in LINES if line["n"] < 3] + [
        {**line, "n": 3 + at, "op": 3} for at, line in enumerate(op._asdict() for op in parse("block 0"))
    ]
    argv = [sys.executable, "-m", "dcdbackend", "events", "vm0", "--follow"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None and following.stderr is not None
        bound = threading.Timer(30, following.kill)
        bound.start()
        try:
            assert following.stdout.readline().rstrip().endswith(TOLD[0])
            assert following.stdout.readline().rstrip().endswith("QEMU is asked of 0 of region 0 -> free")
            following.send_signal(2)
            assert following.wait(10) == 0
            assert following.stderr.read() == "next: dcd check vm0\n"
        finally:
            bound.cancel()
            following.kill()


def test_several_devices_are_told_apart(guest: Guest, capsys: Capture) -> None:
    guest.answers["events"] = [{**LINES[0], "devices": DEVICES}, *LINES[1:]]
    assert all(" mem0: the " in line for line in typed(capsys, "events", "vm0")[1].splitlines())


def test_the_console_as_it_comes(guest: Guest, capsys: Capture) -> None:
    code, stdout, stderr = typed(capsys, "console", "vm0")
    assert (code, stdout) == (0, "booted\n")
    assert stderr == "next: dcd exec vm0 -- cat /proc/version\n"


def test_the_console_that_a_killed_supervisor_left(dead: str, run_dir: Path, capsys: Capture) -> None:
    assert f"the run of old holds no console.log: {run_dir}" in wrong(capsys, "console", dead)
    (run_dir / "guest").mkdir()
    (run_dir / "guest/console.log").write_bytes(b"boot\x1b[2Jed\r\nhalf a li")
    code, stdout, stderr = typed(capsys, "console", dead, "--follow")
    assert (code, stdout) == (0, "booted\nhalf a li")
    said = "old is dead: its supervisor was killed; this is its recorded console"
    assert stderr.splitlines() == [said, "next: dcd events old"]
    assert typed(capsys, "console", dead, "--json") == (0, '"booted"\n"half a li"\n', "")


# -- on a terminal, and where there is none ----------------------------------------------------------------------------


def on_terminal(columns: int, *argv: str) -> list[str]:
    """The lines on a terminal so wide, styles and trailing spaces off."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "dcdbackend", *argv], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    said = b""
    with process, contextlib.suppress(OSError):  # EIO: the last of its terminal is closed
        while data := os.read(ours, 1 << 16):
            said += data
    os.close(ours)
    assert process.returncode == 0, said
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    return [line.rstrip() for line in text.splitlines()]


def test_a_narrow_terminal_cuts_nothing_of_a_table(guest: Guest, dead: str, run_dir: Path) -> None:
    lines = on_terminal(40, "list")
    assert lines[1].startswith("old   dead: its supervisor was killed  11.1.3") and lines[1].endswith(str(run_dir))
    assert lines[2].startswith("vm0   alive                            11.1.3  2 devices of 2G in 2 regions, direct")
    assert lines[2].endswith(str(run_dir))
    assert "0x10000000    128M       0  256M    pending" in on_terminal(40, "show", "vm0")


def test_what_is_said_next_begins_a_line_of_its_own(guest: Guest) -> None:
    guest.answers["exec"] = {**ANSWERS["exec"], "stdout": "no end", "stderr": ""}
    assert on_terminal(80, "exec", "vm0", "x") == ["no end", "next: dcd events vm0"]
    guest.answers["console"] = ["boot\n", "half a li"]
    assert on_terminal(80, "console", "vm0")[:2] == ["boot", "half a li"]
    guest.answers["exec"] = ANSWERS["exec"]
    assert on_terminal(80, "exec", "vm0", "x") == ["out", "err", "next: dcd events vm0"]


@pytest.mark.parametrize("words", ["events vm0", "console vm0", "exec vm0 x", "read vm0 0 --binary", "list --json"])
def test_closed_standard_streams_are_no_fault(words: str, guest: Guest) -> None:
    script = f'"$0" -m dcdbackend {words} <&- >&-'
    ended = subprocess.run(["sh", "-c", script, sys.executable], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (ended.returncode, "fault" in ended.stderr) == (0, False), ended.stderr


# -- in the guest ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        (["vm0", "--", "ls", "-l"], ["ls", "-l"]),
        (["vm0", "ls", "-l", "--json"], ["ls", "-l", "--json"]),
        (["vm0", "sh", "-c", "exit 3; --"], ["sh", "-c", "exit 3; --"]),
        (["--timeout", "3", "vm0", "--", "--", "x"], ["--", "x"]),
    ],
)
def test_after_the_name_all_is_the_guests(words: list[str], argv: list[str], guest: Guest, capsys: Capture) -> None:
    code, stdout, stderr = typed(capsys, "exec", *words)
    assert (code, stdout, stderr) == (0, "out\n", "err\nnext: dcd events vm0\n")
    assert guest.given("exec")["argv"] == argv


@pytest.mark.parametrize(
    ("change", "code"),
    [({"exit": 7}, 7), ({"exit": -9}, 137), ({"exit": -9, "timed_out": True}, 124), ({"exit": 255}, 255)],
)
def test_the_commands_exit_code(change: dict[str, Any], code: int, guest: Guest, capsys: Capture) -> None:
    guest.answers["exec"] = {**ANSWERS["exec"], **change}
    assert typed(capsys, "exec", "vm0", "x")[0] == code
    assert typed(capsys, "exec", "--json", "vm0", "x")[0] == code


def test_output_that_is_no_text_and_output_that_was_cut(
    guest: Guest, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    raw = b"\xff\x00\xfe"
    guest.answers["exec"] = {**ANSWERS["exec"], "stdout": raw.decode("utf-8", "surrogateescape"), "cut": 5}
    assert run(["exec", "vm0", "x"]) == 0
    said = capfdbinary.readouterr()
    assert said.out == raw
    assert b"dcd: 5 more bytes of output were cut" in said.err


def test_a_command_that_cannot_be_run(guest: Guest, capsys: Capture) -> None:
    guest.answers["exec"] = AskedWrongly("'x' does not start: No such file", sent={"argv": ["x"]})
    assert wrong(capsys, "exec", "vm0", "x") == "'x' does not start: No such file"
    guest.answers["exec"] = TimedOut("the agent did not answer 'exec' within 35.0 s")
    assert wrong(capsys, "exec", "vm0", "x", code=4) == "the agent did not answer 'exec' within 35.0 s"
    assert "give the command" in wrong(capsys, "exec", "vm0", "--")


# -- judged ------------------------------------------------------------------------------------------------------------


def test_a_name_or_a_path_is_judged(guest: Guest, dead: str, run_dir: Path, capsys: Capture) -> None:
    for what in ("vm0", dead, str(run_dir), str(run_dir / "history.jsonl")):
        code, stdout, stderr = typed(capsys, "check", what)
        assert code == 0
        assert "DEV-6.taken" in stdout
        assert stderr == f"next: dcd events {what}\n"
    said = wrong(capsys, "check", "nosuch")
    assert said == "nosuch is no path and no launched guest (there is old, vm0); give a run directory"
    (run_dir / "history.jsonl").unlink()
    assert "holds no history.jsonl" in wrong(capsys, "check", "vm0")


def test_an_outcome_beside_what_is_not_known_says_both(run_dir: Path, capsys: Capture) -> None:
    """An offer that nobody answers is permitted (DEV-6.answered), and yet exit 4: the word alone would mislead."""
    lines = b"".join(op_line(op) for op in parse("add 0+2M; events; clear; block 0 -> pending"))
    (run_dir / "history.jsonl").write_bytes(header().line() + lines)
    code, stdout, _ = typed(capsys, "check", str(run_dir))
    assert code == 4
    first, second = stdout.splitlines()[:2]
    assert first.endswith(": pass, 1 clause unknown")
    assert second == "  not known: host mem0 DEV-6.answered"
    (verdict,) = json.loads(typed(capsys, "check", str(run_dir), "--json")[1]).values()
    assert (verdict["outcome"], verdict["unknown"]) == ("pass", ["host mem0 DEV-6.answered"])


def test_a_broken_rule_is_exit_1(run_dir: Path, dead: str, capsys: Capture) -> None:
    lines = b"".join(op_line(op) for op in parse("add 0+2M; events; accept; clear; block 0 -> free"))
    (run_dir / "history.jsonl").write_bytes(header().line() + lines)
    code, stdout, _ = typed(capsys, "check", dead)
    assert code == 1
    assert "DEV-6.taken broken" in stdout


# -- launch, stop ------------------------------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> dict[str, supervisor.Options]:
    """What `supervisor.launch` was asked; a name with `bad` in it does not start."""
    found: dict[str, supervisor.Options] = {}

    async def launch(
        name: str, options: supervisor.Options, *, progress: Callable[[str], None]
    ) -> supervisor.GuestInfo:
        found[name] = options
        progress("booting")
        await asyncio.sleep(0)
        if "bad" in name:
            raise CannotRun("no QEMU; install one")
        return supervisor.GuestInfo(name=name, state="alive", run_dir=Path("/runs") / name, qemu="11.1.3")

    monkeypatch.setattr(supervisor, "launch", launch)
    return found


def test_several_are_launched_at_once(launched: dict[str, supervisor.Options], capsys: Capture) -> None:
    argv = ["launch", "a", "b", "--topology", "switch", "--devices", "2", "--regions", "4", "--size", "4G"]
    code, stdout, stderr = typed(capsys, *argv, "--accel", "tcg", "--policy", "refuse", "--poll", "spin", "--seed", "5")
    assert code == 0
    assert stdout == "a is ready: QEMU 11.1.3, run /runs/a\nb is ready: QEMU 11.1.3, run /runs/b\n"
    assert stderr == "a: booting\nb: booting\nnext: dcd add a 256M\n"
    assert list(launched) == ["a", "b"]
    options = launched["a"]
    assert (options.topology, options.devices, options.regions, options.size) == ("switch", 2, 4, "4G")
    assert (options.accel, options.policy, options.poll, options.seed) == ("tcg", {"kind": "refuse"}, "spin", 5)
    assert launched["b"] == options


def test_one_of_several_that_does_not_start(launched: dict[str, supervisor.Options], capsys: Capture) -> None:
    code, stdout, stderr = typed(capsys, "launch", "a", "bad")
    assert code == 3
    assert stdout == "a is ready: QEMU 11.1.3, run /runs/a\n"
    assert "dcd: bad: no QEMU; install one\n" in stderr
    code, stdout, stderr = typed(capsys, "launch", "a", "bad", "--json")
    assert (code, [one["name"] for one in json.loads(stdout)]) == (3, ["a", "bad"])
    assert json.loads(stdout)[1] == {"name": "bad", "error": "no QEMU; install one", "exit": 3}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["a", "a"], "a name twice in a, a"),
        ([*map(str, range(17))], "17 guests at once; give at most 16"),
        (["a", "b", "--run-dir", "x"], "--run-dir is for one guest"),
        (["a", "--topology", "ring"], "topology 'ring'; there is direct, switch"),
        (["a", "--policy", "nonsense"], "policy 'nonsense'"),
        (["a", "--policy", ""], "policy ''"),
        (["a", "--poll", "never"], "'never'"),
    ],
)
def test_a_launch_that_cannot_be(
    argv: list[str], said: str, launched: dict[str, supervisor.Options], capsys: Capture
) -> None:
    assert said in wrong(capsys, "launch", *argv)
    assert not launched


def test_the_dead_are_cleared_away(guest: Guest, dead: str, run_dir: Path, capsys: Capture) -> None:
    code, stdout, stderr = typed(capsys, "stop", "--all")
    assert code == 0
    assert stdout.splitlines() == [
        f"old was dead and is forgotten; run {run_dir}",
        f"vm0 is stopped; run {run_dir}",
    ]
    assert stderr == f"next: dcd check {run_dir}\n"
    assert typed(capsys, "list")[1] == "no guest is launched\n"
    assert "give the guests to stop, or --all" in wrong(capsys, "stop")
    assert "give the guests to stop, or --all" in wrong(capsys, "stop", "vm0", "--all")


# -- completion, and what it costs -------------------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    """What bash would offer for the last word."""
    environment = {**os.environ, "_DCD_COMPLETE": "complete_bash", "COMP_CWORD": str(len(words))}
    environment["COMP_WORDS"] = " ".join(["dcd", *words])
    argv = [sys.executable, "-c", "import sys; sys.argv = ['dcd']; from dcdbackend.__main__ import main; main()"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["re"], ["regress", "release", "read", "reset"]),
        (["show", "v"], ["vm0"]),
        (["stop", ""], ["old", "vm0"]),
        (["policy", "vm0", "re"], ["release", "refuse", "reverse"]),
        (["policy", "vm0", "subset", "l"], ["last="]),
        (["add", "vm0", "2M", "--region", ""], ["0", "1"]),
        (["regress", "-s", "five-actors-r"], ["five-actors-release-ignored", "five-actors-readd"]),
    ],
)
def test_what_the_shell_completes(words: list[str], found: list[str], guest: Guest, dead: str) -> None:
    assert completed(*words) == found


def test_completion_never_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DCD_GUESTS", str(tmp_path / "file"))
    monkeypatch.setenv("DCD_RUNS", str(tmp_path / "file"))
    assert complete.guests("") == []
    assert complete.runs("") == []
    assert [name for name, _ in complete.topologies("s")] == ["switch"]


@pytest.mark.parametrize("module", ["launch", "capacity", "policy", "complete", "check", "data", "inside"])
def test_a_verb_does_not_pay_for_the_machine(module: str) -> None:
    """None of the modules that own QEMU, its monitor, or the checker is imported by a verb that only asks."""
    program = f"import dcdbackend.cli.{module}, sys; print([m for m in sys.modules if m.startswith(('dcdb', 'qemu'))])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stdout
    assert f"dcdbackend.cli.{module}" in loaded
    for heavy in ("qemu", "dcdbackend.machine", "dcdbackend.checker", "dcdbackend.image", "dcdbackend.model"):
        assert f"'{heavy}'" not in loaded, heavy


def test_ranges_are_bounded() -> None:
    assert out.ranges([(0, MIB)] * 20).endswith(" and 4 more")
