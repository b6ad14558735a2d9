"""`dcd explain` and `dcd rules`: stories of findings from recorded histories, and the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import kernel_history
import pytest
from kernel_record import KERNEL, parse
from test_kernel_record import FALSE, changed

from dcdbackend.checker import check, narrate
from dcdbackend.checker.notation import header
from dcdbackend.checker.notation import parse as notation
from dcdbackend.cli import run
from dcdbackend.history import op_line
from dcdbackend.linux_rules import BY_OTHERS, EVERY
from dcdbackend.linux_rules import NOT_JUDGED as NOT_JUDGED_OF_HOSTS
from dcdbackend.model.departures import DEPARTURES
from dcdbackend.model.quirks import QUIRKS
from dcdbackend.rules import NOT_JUDGED


def written(path: Path, text: str) -> Path:
    """A history in the notation, as a file."""
    head = header()
    path.write_bytes(head.line() + b"".join([op_line(op) for op in notation(text, head=head)]))
    return path


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A recorded kernel that took a tag which was live."""
    _, _, name, verb, *words = next(row for row in FALSE if row[0] == "a live tag is taken")
    path = tmp_path / "history.jsonl"
    kernel_history.write(parse(changed((KERNEL / f"{name}.txt").read_text(), verb, *words)), path, "v11")
    return path


def test_a_finding_is_told_with_all_that_is_known(kernel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(kernel), "--finding", "1"]) == 0
    text, note = capsys.readouterr()
    for part in (
        "B6.live is broken, by host mem0",
        "the fabric manager: add region 0: 0x10000000+128M -> ok",  # what was asked, and by whom
        "a witness: log -> 5 lines: add 0x10000000+128M, added 0x10000000+128M",  # what the witnesses said
        "a witness in the host, afterwards: extents from 0",
        "  before:\n    accepted  [0x0+128M tag 5be1..",  # the states
        "  after:\n    accepted  [0x0+128M tag 5be1.. seq 0] [0x10000000+128M tag 5be1..",
        "host      Linux v11; regions region0",
        "inferred from: the kernel's log",
        "B6.live (must, host): a group is dropped when its tag is live on this host",  # the rule and its source
        "source: Linux DCD series v11 19/31",
        f"dcd check {kernel}",  # how to see it again
    ):
        assert part in text, text
    assert "next: dcd check" in note


def test_who_asked_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "history.jsonl", "add 0+2M; events; accept; block 0 -> free")
    assert run(["explain", str(path)]) == 0
    text = capsys.readouterr().out
    for part in ("DEV-6.taken is broken, by device mem0", "the fabric manager: add", "the host (mem0): answer 0x0+2M",
                 "a witness: block region 0 at 0 -> free", "CXL r3.1 8.2.9.9.9.3"):  # fmt: skip
        assert part in text, text


def test_a_finding_keeps_its_number_and_json_has_the_same(kernel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(kernel), "--json"]) == 0
    every = json.loads(capsys.readouterr().out)
    with kernel.open("rb") as file:
        from dcdbackend.history import History

        failed = check(History(file)).failed
    assert [one["finding"]["clause"] for one in every] == [one.clause for one in failed]
    assert run(["explain", str(kernel), "--finding", "2", "--json"]) == 0
    (second,) = json.loads(capsys.readouterr().out)
    assert second == every[1] and second["number"] == 2
    assert second["rule"]["id"] == second["finding"]["clause"]


def test_without_a_broken_rule_departures_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "history.jsonl"
    kernel_history.write(parse((KERNEL / "B4_mixed_chain.txt").read_text()), path, "v11")
    assert run(["explain", str(path)]) == 0
    text = capsys.readouterr().out
    assert text.count("known as Q7: they come by tag") == 1
    assert text.count("known as QEMU-tag:") == 1


@pytest.mark.parametrize(("number", "says"), [("0", "no finding 0"), ("99", "no finding 99")])
def test_a_finding_that_is_not_there(kernel: Path, number: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explain", str(kernel), "--finding", number]) == 2
    assert says in capsys.readouterr().err


def test_nothing_found_and_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "history.jsonl", "add 0+2M; events; accept; block 0")
    assert run(["explain", str(path)]) == 0
    assert "nothing was found" in capsys.readouterr().err
    assert run(["explain", str(tmp_path / "nowhere")]) == 2
    path.write_bytes(b"{}\n")
    assert run(["explain", str(path)]) == 2
    assert f"{path}: line 1: " in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["check", "explain"])
def test_what_is_no_history_is_one_line_that_names_it(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of several histories the one that is wrong is named; what cannot be read at all is no fault of ours."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written(tmp_path / name / "history.jsonl", "add 0+2M; events; accept; block 0")
    broken = tmp_path / "b" / "history.jsonl"
    broken.write_bytes(broken.read_bytes().replace(b"events", b"eventz", 1))
    (tmp_path / "c" / "history.jsonl").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    for what, code, says in (
        (tmp_path, 2, f"{broken}: line 4: its crc says "),
        (tmp_path / "c", 2, "holds no history.jsonl"),
        (tmp_path / "pipe", 2, "is neither file nor directory"),
        ("/dev/zero", 2, "is neither file nor directory"),
        ("", 2, "the run is an empty word"),
        ("/proc/self/mem", 3, "cannot read /proc/self/mem"),
    ):
        assert run([verb, str(what)]) == code
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dcd: ")]
        assert says in line


def test_a_story_of_the_header_alone() -> None:
    head = header()
    regions = [{**head.devices[0]["regions"][0], "base": 1 << 20}]
    head = head._replace(devices=({**head.devices[0], "regions": regions},))
    finding, *_ = check([], head).failed
    lines = narrate.tell(narrate.gather(finding, []), 1, 1)
    assert any("the header alone shows it" in line for line in lines)


# ---- rules


def test_every_clause_and_departure_is_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rules", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {row["id"] for row in data["clauses"]} == set(EVERY)
    assert {row["id"] for row in data["departures"]} == {*DEPARTURES, *QUIRKS}
    assert all(row["text"] and row["source"] and row["kind"] in ("must", "may") for row in data["clauses"])
    assert all(row["versions"] for row in data["departures"])
    blind = {row["id"] for row in data["clauses"] if not row["observable"]}
    assert {"A16.release", "B33.none"} <= blind
    reasons = {**NOT_JUDGED, **NOT_JUDGED_OF_HOSTS}
    assert {row["id"]: row["not_judged"] for row in data["clauses"] if row["not_judged"]} == reasons
    assert blind <= set(reasons), "what nothing here can see says why"
    assert {row["id"]: row["shown_by"] for row in data["clauses"] if row["shown_by"]} == BY_OTHERS


@pytest.mark.parametrize(
    ("arguments", "there", "absent"),
    [
        (["DEV-8"], ("DEV-8.16h", "Return codes"), ("DEV-7.held",)),
        (["B5.order"], ("B5.order", "Q7", "v11"), ("B5.one",)),
        (["QEMU-tag"], ("QEMU-tag", "10.1"), ("DEV-10.count",)),
        (["Q6"], ("Q6", "A2_untagged_chain"), ("Q7",)),
        (["B3", "--generation", "B-rfc"], ("B3.unbounded",), ("B3.expiry",)),
        (["--generation", "A"], ("A4.tag", "DEV-8.16h", "L1.clears"), ("B5.order", "Q7")),
        (["--generation", "U"], ("DEV-8.16h",), ("A4.tag", "L1.clears")),
        (["A16.release"], ("not observable", "not judged: ", "caches"), ()),
        (["B28.driver"], ("not judged: ", "sysfs"), ()),
        (["L2.unread"], ("shows elsewhere", "B5.survivors"), ("not judged",)),
        (["WITNESS.agree"], ("the guest judges",), ("not observable", "not judged")),
        (["DEV-11.ignored"], ("not judged: ",), ()),
        (["DEV-16.interrupt"], ("not judged: ", "polls"), ()),
        (["DEV-22"], ("not judged: ", "reset"), ()),
    ],
)
def test_what_is_asked_for_is_shown(
    arguments: list[str], there: tuple[str, ...], absent: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["rules", *arguments]) == 0
    words = capsys.readouterr().out
    assert all(one in words for one in there), words
    assert not [one for one in absent if one in words], words


@pytest.mark.parametrize("arguments", [["DEV-99"], ["B5", "--generation", "A"], ["--generation", "v12"]])
def test_what_is_not_there_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["rules", *arguments]) == 2
    found = capsys.readouterr().err.strip()
    assert "\n" not in found and found.startswith("dcd: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_no_room_for_what_is_printed_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "dcdbackend", "rules", "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert ended.returncode == 3
    assert ended.stderr == "dcd: cannot write what it prints or keeps: No space left on device; free some space\n"
