"""`dcd fm`: arguments, output, hints, JSON, exit codes, errors, completion; and what a raw payload's answer becomes.

As in `test_cli_guests`, a real server answers from a table, and the supervisor's own check sees every request. What a
real switch says is `tests/vm/test_fm_vm.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_cli_guests import ADDED, DEVICES, GIB, MIB, RELEASED, Capture, Guest, completed, typed, wrong
from test_session import running

from dcdbackend.cli import run
from dcdbackend.errors import AskedWrongly, CannotRun, OutcomeUnknown, Refused
from dcdbackend.fm import FmRefused, TunnelRefused
from dcdbackend.guest import Guest as RealGuest
from dcdbackend.history import History
from dcdbackend.supervisor import fm, verbs
from dcdbackend.supervisor.held import Held

TAG = "5a" * 16
INFORMED: dict[str, Any] = {
    "switch": {
        "payload_bytes": 2048,
        "identify": {"vendor_id": 0x19E5, "device_id": 0xA128},
        "device": {"physical_port_count": 2, "vcs_count": 1, "vppb_count": 2, "bound_vppb_count": 2},
    },
    "ports": [
        {"port": 0, "configuration": "upstream", "connected": "none", "link": "x1", "device": None, "state": {}},
        {"port": 1, "configuration": "downstream", "connected": "type_3", "link": "x1", "device": "mem0", "state": {}},
    ],
    "devices": [
        {
            "device": "mem0",
            "port": 1,
            "identify": {"serial_number": 0x1234},
            "info": {"host_count": 1, "region_count": 2},
            "capacity": 2 * GIB,
            "selection": ["prescriptive"],
            "removal": [],
        }
    ],
}
REGIONS: dict[str, Any] = {
    "device": "mem0",
    "host_id": 0,
    "regions": [
        {
            "region": 0,
            "base": 0,
            "length": GIB,
            "decode_length": GIB,
            "block_size": 2 * MIB,
            "attributes": 0,
            "sanitize": True,
        }
    ],
    "supported_extents": 512,
    "available_extents": 510,
    "supported_tags": 0,
    "available_tags": 0,
}
EXTENTS: dict[str, Any] = {
    "device": "mem0",
    "host_id": 0,
    "extents": [
        {"dpa": 2 * MIB, "length": 2 * MIB, "tag": TAG, "sequence": 7},
        {"dpa": 8 * MIB, "length": 4 * MIB, "tag": "0" * 32, "sequence": 0},
    ],
}
RAW: dict[str, Any] = {
    "device": "mem0",
    "opcode": "5604h",
    "sent": "",
    "rc": 0x16,
    "code": "Invalid Payload Length (16h)",
    "by": "device",
    "answer": "011000045600000016000000",
}
SET = {"device": "mem0", "region": 1, "block_size": 2 * MIB, "sanitize": False}
EACH: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("info",), INFORMED),
    (("regions",), REGIONS),
    (("extents",), EXTENTS),
    (("add", "0+2M"), ADDED),
    (("release", "0+2M"), RELEASED),
    (("set-region", "1", "2M"), SET),
]


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCD_GUESTS", str(tmp_path / "guests"))
    monkeypatch.setenv("DCD_RUNS", str(tmp_path / "runs"))


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    run_dir = tmp_path / "runs/one"
    run_dir.mkdir(parents=True)
    (run_dir / "history.jsonl").write_text(json.dumps({"devices": DEVICES}) + "\n")
    with Guest("vm0", run_dir) as found:
        found.answers |= {
            "fm_info": INFORMED,
            "fm_regions": REGIONS,
            "fm_extents": EXTENTS,
            "fm_raw": RAW,
            "set_region": SET,
        }
        yield found


@pytest.mark.parametrize(("argv", "expected"), EACH, ids=lambda one: " ".join(one) if isinstance(one, tuple) else "")
def test_each_says_its_data_and_what_comes_next(
    argv: tuple[str, ...], expected: dict[str, Any], guest: Guest, capsys: Capture
) -> None:
    code, stdout, stderr = typed(capsys, "fm", "vm0", *argv)
    assert code == 0 and stdout
    assert stderr.startswith("next: dcd fm vm0 ") and stderr.count("\n") == 1
    code, stdout, stderr = typed(capsys, "fm", "vm0", *argv, "--json")
    assert (code, stderr, json.loads(stdout)) == (0, "", expected)


def test_info_in_words(guest: Guest, capsys: Capture) -> None:
    lines = [line.rstrip() for line in typed(capsys, "fm", "vm0", "info")[1].splitlines()]
    assert lines == [
        "switch: vendor 19e5h, device a128h; 2 ports, 1 virtual switches, 2 vPPBs, 2 bound; messages up to 2K",
        "port  it is       connected  link  device",
        "0     upstream               x1",
        "1     downstream  type_3     x1    mem0",
        "mem0: port 1, serial 0x1234; 1 host, 2 regions, 2G; selection prescriptive; removal none",
    ]


def test_regions_and_extents_in_words(guest: Guest, capsys: Capture) -> None:
    stdout = typed(capsys, "fm", "vm0", "regions", "-d", "mem1", "--host", "3")[1]
    assert guest.given("fm_regions") == {"device": "mem1", "host_id": 3}
    assert stdout.splitlines()[1].split() == ["0", "0x0", "1G", "1G", "2M", "00h", "on", "release"]
    assert "extents: 510 available of 512" in stdout
    stdout, stderr = typed(capsys, "fm", "vm0", "extents", "--page", "7", "-d", "mem1")[1:]
    assert guest.given("fm_extents") == {"device": "mem1", "page": 7}
    assert [line.split() for line in stdout.splitlines()[1:3]] == [
        ["0x200000", "2M", "7", TAG],
        ["0x800000", "4M", "0"],
    ]
    assert stdout.splitlines()[-1] == "host 0 holds 2 extents, 6M of mem0"
    assert stderr == "next: dcd fm vm0 release --dpa 0x200000+2M --device mem1\n"
    guest.answers["fm_extents"] = {**EXTENTS, "extents": []}
    assert typed(capsys, "fm", "vm0", "extents")[1:] == (
        "host 0 holds 0 extents, 0 of mem0\n",
        "next: dcd fm vm0 add 256M\n",
    )


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["256M"], {"size": 256 * MIB}),
        (["0+2M", "-r", "1", "--host", "2"], {"extents": [[0, 2 * MIB]], "region": 1, "host_id": 2}),
        (["0+2M:3", "4M+2M", "--tag", TAG], {"extents": [[0, 2 * MIB, None, 3], [4 * MIB, 2 * MIB]], "tag": TAG}),
        ([f"0+2M:65535:{TAG}"], {"extents": [[0, 2 * MIB, TAG, 65535]]}),
        (
            ["--dpa", "0x40000000+2M:1", "1026M+2M", "-d", "mem1", "--timeout", "0.5"],
            {
                "extents": [[0, 2 * MIB, None, 1], [2 * MIB, 2 * MIB]],
                "region": 1,
                "device": "mem1",
                "timeout_s": 0.5,
            },
        ),
    ],
)
def test_what_is_asked_reaches_the_supervisor(
    words: list[str], given: dict[str, Any], guest: Guest, capsys: Capture
) -> None:
    assert typed(capsys, "fm", "vm0", "add", *words)[0] == 0
    assert guest.given("add") == {**given, "via": "fm"}
    assert typed(capsys, "fm", "vm0", "release", *words, "--forced")[0] == 0
    assert guest.given("release") == {**given, "via": "fm", "forced": True, "sanitize": False}


def test_an_extents_tag_and_sequence_are_the_supervisors_to_check() -> None:
    found = verbs.checked("add", {"extents": [[0, 2 * MIB, TAG, 7], [4 * MIB, 2 * MIB, None, 0]]})["extents"]
    assert [tuple(span) for span in found] == [(0, 2 * MIB, TAG, 7), (4 * MIB, 2 * MIB, None, 0)]
    for extent, said in (([0, 1, "x", 0], "tag 'x'"), ([0, 1, TAG, 65536], "sequence 65536"), ([0, 1, TAG], "write")):
        with pytest.raises(AskedWrongly, match=said):
            verbs.checked("add", {"extents": [extent]})
    with pytest.raises(AskedWrongly, match="host_id 65536"):
        verbs.checked("fm_extents", {"host_id": 65536})
    assert verbs.checked("fm_raw", {"f": "add", "payload": ""})["payload"] == b""


def test_bytes_as_they_are_and_what_came_back(guest: Guest, capsys: Capture) -> None:
    code, stdout, stderr = typed(capsys, "fm", "vm0", "add", "--raw", "00 01 02", "-d", "mem1")
    assert (code, guest.given("fm_raw")) == (1, {"f": "add", "payload": "000102", "device": "mem1"})
    assert stdout.splitlines() == [
        "5604h to mem0, 3 bytes: the device says Invalid Payload Length (16h)",
        "00000000  01 10 00 04 56 00 00 00  16 00 00 00              |....V.......|",
    ]
    assert stderr == f"next: dcd decode --as CciMessage {RAW['answer']}\n"
    assert run(["decode", "--as", "CciMessage", RAW["answer"]]) == 0
    guest.answers["fm_raw"] = {**RAW, "rc": 0, "code": "Success (00h)"}
    capsys.readouterr()
    code, stdout, _ = typed(capsys, "fm", "vm0", "release", "--raw", "", "--json")
    assert (code, json.loads(stdout)["rc"]) == (0, 0)
    guest.answers["fm_raw"] = {**RAW, "by": "switch", "answer": ""}
    code, stdout, stderr = typed(capsys, "fm", "vm0", "add", "--raw", "")
    assert (code, stderr) == (1, "next: dcd fm vm0 info\n") and "the switch says" in stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add"], "say what to offer: a size, OFFSET+LENGTH extents, or --raw HEX"),
        (["release"], "say what to release"),
        (["add", "0"], "size 0; give at least a block"),
        (["add", "2M", "4M"], "'2M' beside others"),
        (["add", "2M", "--dpa"], "'2M' beside --dpa"),
        (["add", "0+2M:x"], "sequence 'x' in '0+2M:x'"),
        (["add", "0+2M:65536"], "sequence '65536'"),
        (["add", "0+2M:0:x"], "tag 'x'"),
        (["add", "--dpa", "0+2M", "-r", "0"], "--region goes with OFFSET+LENGTH"),
        (
            ["add", "--dpa", "0+2M", "1G+2M"],
            "DPA 0x0 0x40000000 in no one region of mem0 (0: 0x0+1G, 1: 0x40000000+1G)",
        ),
        (["add", "--dpa", "2G+2M"], "DPA 0x80000000 in no one region"),
        (["add", "--dpa", "0+2M", "-d", "mem9"], "no device 'mem9'; there is mem0, mem1"),
        (["add", "0+2M", "--raw", "00"], "--raw is the whole payload; leave extents out"),
        (["release", "--forced", "--raw", "00"], "--raw is the whole payload; leave --forced out"),
        (["add", "--raw", "0"], "--raw: '0' has an odd number of digits"),
        (["add", "--raw", "zz"], "--raw: 'zz' is not hex; give hex digits"),
        (["set-region", "1", "x"], "block size 'x' is not understood"),
        (["set-region", "256", "2M"], "255"),
        (["extents", "--page", "0"], "--page"),
        (["regions", "--host", "65536"], "--host"),
        (["nonsense"], "nonsense"),
        ([], "Missing command"),
    ],
)
def test_what_cannot_be_asked(words: list[str], said: str, guest: Guest, capsys: Capture) -> None:
    assert said in wrong(capsys, "fm", "vm0", *words)
    assert [verb for verb, _ in guest.asked if verb != "info"] == []


@pytest.mark.parametrize("words", [["fm"], ["image"], []])
def test_a_group_alone_shows_its_help_in_lines(words: list[str], capsys: Capture) -> None:
    assert run(words) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("Usage: dcd") and told.err.count("\n") > 5


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CannotRun("guest 'vm0' has no way in"), 3),
        (Refused("5603h gave Invalid Input (02h)", reason="Invalid Input (02h)"), 1),
        (OutcomeUnknown("the switch mailbox is gone"), 4),
    ],
)
def test_exit_codes(error: Any, code: int, guest: Guest, capsys: Capture) -> None:
    for argv, _ in EACH:
        verb = {"add": "add", "release": "release", "set-region": "set_region"}.get(argv[0], f"fm_{argv[0]}")
        guest.answers[verb] = error
        assert wrong(capsys, "fm", "vm0", *argv, code=code) == error.message
    guest.answers["add"] = {**ADDED, "outcome": "unanswered", "accepted": []}
    assert typed(capsys, "fm", "vm0", "add", "2M")[0] == 4
    assert "no guest 'nosuch'; there is vm0" in wrong(capsys, "fm", "nosuch", "info")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["fm", "v"], ["vm0"]),
        (["fm", "vm0", "re"], ["regions", "release"]),
        (["fm", "vm0", "add", "--device", ""], ["mem0", "mem1"]),
        (["fm", "vm0", "add", "--region", ""], ["0", "1"]),
    ],
)
def test_what_the_shell_completes(words: list[str], found: list[str], guest: Guest) -> None:
    assert completed(*words) == found


# -- the supervisor's side ---------------------------------------------------------------------------------------------


async def test_a_guest_without_a_fabric_manager_says_so_at_once(tmp_path: Path) -> None:
    """One clear line for each of the verbs, before anything is recorded."""
    async with running(tmp_path) as (session, _):
        shape = SimpleNamespace(kind="direct")
        guest = cast(RealGuest, SimpleNamespace(run_dir=tmp_path, shape=shape, death=None))
        held = Held(name="vm0", guest=guest, session=session, run_dir=tmp_path, stop=lambda: None)
        for verb, args in (
            ("fm_info", {}),
            ("fm_regions", {}),
            ("fm_extents", {}),
            ("fm_raw", {"f": "add", "payload": "00"}),
            ("set_region", {"region": 0, "block_size": 2 * MIB}),
            ("add", {"size": 2 * MIB, "via": "fm"}),
            ("release", {"size": 2 * MIB, "via": "fm"}),
        ):
            with pytest.raises(CannotRun, match=r"\(topology direct, QEMU .*\); it takes a switch and QEMU 11.1"):
                await held.call(verb, args)
    with (tmp_path / "history.jsonl").open("rb") as file:
        assert list(History(file)) == []


def test_who_refused_raw_bytes_and_in_which_message() -> None:
    by_device = FmRefused("no", rc=2, sent=b"", received=b"\x01\x02")
    assert fm.refused("add", "mem0", b"\0", by_device) == {
        "device": "mem0",
        "opcode": "5604h",
        "sent": "00",
        "rc": 2,
        "code": "Invalid Input (02h)",
        "by": "device",
        "answer": "0102",
    }
    by_switch = TunnelRefused("no", port=9, rc=0x16, sent=b"", received=b"")
    assert fm.refused("release", "mem0", b"", by_switch) | {"code": ""} == {
        **fm.took("release", "mem0", b"", b""),
        "rc": 0x16,
        "code": "",
        "by": "switch",
    }
