"""The sequence chart: who speaks to whom, what is folded, cut or only counted, on histories of every kind."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import kernel_history
import pytest
from kernel_record import KERNEL, parse

from dcdbackend.checker.notation import header
from dcdbackend.checker.notation import parse as notation
from dcdbackend.cli import run
from dcdbackend.history import FUNCTIONS, History, op_line
from dcdbackend.report import chart

HISTORIES = Path(__file__).parent / "histories"
RECORDED = sorted(HISTORIES.rglob("*.jsonl"))
WRITTEN = sorted([path for path in HISTORIES.rglob("*.txt") if path.stem != "torn"])


def lines(text: str) -> list[dict[str, Any]]:
    return [op._asdict() for op in notation(text)]


def drawn(text: str, width: int = 100, **options: Any) -> list[str]:
    """The rows alone, without what stands left of the first lifeline."""
    found = [line[18:] for line in chart.draw(chart.chart(lines(text), **options), width)]
    return found[2:]


def recorded(tmp_path: Path, name: str) -> list[dict[str, Any]]:
    """A kernel session that somebody recorded, as lines of a history."""
    path = tmp_path / f"{name}.jsonl"
    kernel_history.write(parse((KERNEL / f"{name}.txt").read_text()), path, "v11")
    with path.open("rb") as file:
        return [op._asdict() for op in History(file)]


def test_the_flow_of_an_extent_is_drawn() -> None:
    text = "add 0+2M; events; accept; clear; block 0 -> accepted; release? 0+2M; events; release; clear"
    assert drawn(text) == [
        "|------->|------->|        |        |   offers 0+2M of region 0",
        "|        |        |------->|        |   offer 0x0+2M (record 1)",
        "|        |        |<-------|        |   accepts 0x0+2M",
        "|<.......|........|        |        |   block state of 0 of region 0 -> accepted",
        "|------->|------->|        |        |   asks back 0+2M of region 0",
        "|        |        |------->|        |   release request 0x0+2M (record 2)",
        "|        |        |<-------|        |   gives back 0x0+2M",
        "of the log: 2",  # cut off by `drawn`
    ]


def test_a_request_comes_before_what_it_causes() -> None:
    """QMP's reply may come after the host's answer; what the manager asked still stands first."""
    found = lines("add 0+2M; events; accept")
    first, end, *rest = found
    found = [first, *rest, end]
    shown = chart.chart(found)
    assert [row.f for row in shown.first] == ["add", "events", "answer"]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("add 1+1", "|x-------|<-------|        |        |   refused:"),
        ("add 0+2M -> info", "|?-------|<-------|        |        |   nobody knows"),
        ("accept 0+2M", "|        |        |x-------|        |   accepts 0x0+2M -> the device refuses:"),
        ("gone killed by SIGKILL", "|        |        X        |        |   device is gone: killed by SIGKILL"),
        ("add 0+2M; accept; store 0 beef", "|        |        |<-------|--------|   stores 2 bytes at 0x0: beef"),
        ("put 0 be", "|--------|------->|        |        |   writes 1 byte at 0x0: be"),
    ],
)
def test_how_it_ended_is_at_the_arrow(text: str, row: str) -> None:
    """A request that was not served has a row back, from the device over the manager."""
    found = drawn(text)
    assert any(line.startswith(row) for line in found), found


def test_every_operation_has_its_actors() -> None:
    assert set(chart._WAYS) == FUNCTIONS


def test_witnesses_are_one_row_and_all_of_them_on_demand() -> None:
    text = "add 0+2M; accept; block 0 -> accepted; list; fm_list"
    folded = chart.chart(lines("add 0+2M; accept; block 0 -> accepted; block 4M -> free; block 0 -> accepted"))
    assert [row.text for row in folded.first][-1] == "witnesses: 3 x block"
    every = chart.chart(
        lines("add 0+2M; accept; block 0 -> accepted; block 4M -> free; block 0 -> accepted"), witnesses=True
    )
    assert len(every.first) == len(folded.first) + 2, text


def test_nothing_is_left_out_silently() -> None:
    """Rows and what is only counted are together what was told, and a cut says how much it takes."""
    text = "; ".join(f"add {4 * at}M+2M; events; accept; clear; events" for at in range(40))
    whole = chart.chart(lines(text), most=10_000)
    assert whole.quiet == {"clears of the log": 40, "readings of the log that brought nothing": 40}
    assert (len(whole.first), whole.cut) == (120, 0)
    short = chart.chart(lines(text), most=11)
    assert (len(short.first), len(short.last), short.cut) == (5, 6, 109)
    assert short.first == whole.first[:5] and short.last == whole.first[-6:]
    assert sum("109 rows left out" in line for line in chart.draw(short)) == 1


def test_a_record_that_is_read_twice_is_drawn_once() -> None:
    found = chart.chart(lines("add 0+2M; events; events; accept; clear; add 4M+2M; events; accept; clear"))
    assert Counter(row.f for row in found.first) == {"add": 2, "events": 2, "answer": 2}
    assert found.quiet["records read once more"] == 1


def test_no_line_is_wider_than_asked(tmp_path: Path) -> None:
    """All the histories of the repository, those of kernels too: drawn within any width, and none is empty."""
    texts = [lines(path.read_text()) for path in WRITTEN if path.parent.name != "bad"]
    for path in RECORDED:
        with path.open("rb") as file:
            texts.append([op._asdict() for op in History(file)])
    texts += [recorded(tmp_path, path.stem) for path in sorted(KERNEL.glob("*.txt")) if path.stem[:2] != "A3"]
    assert len(texts) > 40
    for found in texts:
        for width in (80, 100, 133):
            shown = list(chart.draw(chart.chart(found, witnesses=True, several=True), width))
            assert max(len(line) for line in shown) <= width
            assert len(shown) > 2


def test_a_kernel_is_drawn_by_its_trace_and_log(tmp_path: Path) -> None:
    found = chart.chart(recorded(tmp_path, "B1_tagged_add"))
    texts = [(row.way, row.dotted, row.text) for row in found.first]
    offer = ((chart.DEVICE, chart.KERNEL), True, "offer 0x30000000+16M (by its trace)")
    answer = ((chart.KERNEL, chart.DEVICE), True, "accepts 0x30000000+16M (by its log)")
    assert texts.index(offer) < texts.index(answer)
    assert ((chart.KERNEL, chart.DEVICE), True, "gives back 0x30000000+16M (by its log)") in texts
    claims = [row for row in found.first if row.f == "claim"]
    assert claims[0].way == (chart.USER, chart.KERNEL) and claims[0].text == "claims tag 0 with dax0.0"
    assert (claims[1].way, claims[1].end, claims[1].text) == ((chart.KERNEL, chart.USER), "x", "-ENOENT")


def test_a_kernel_that_only_logs_is_drawn_as_well(tmp_path: Path) -> None:
    """Without a trace the records are told by the log, each once."""
    found = recorded(tmp_path, "B1_tagged_add")
    for line in found:
        if line["f"] == "trace" and line["type"] == "ok":
            line["value"] = {"events": [], "lost": 0}
    texts = [row.text for row in chart.chart(found).first]
    assert texts.count("offer 0x30000000+16M (by its log)") == 1
    with_trace = [row.text for row in chart.chart(recorded(tmp_path / "..", "B2_tagged_chain")).first]
    assert not [text for text in with_trace if text.startswith("offer") and "by its log" in text]


@pytest.mark.parametrize(
    ("f", "value", "text"),
    [
        (
            "use",
            {"what": "region", "region": "region0", "start": 0, "length": 1 << 30, "mode": "dc"},
            "makes region0: 0x0+1G, mode dc",
        ),
        ("use", {"what": "bind", "region": "region0", "driver": "devdax"}, "binds region0 to devdax"),
        ("use", {"what": "map", "dax": "dax0.1"}, "maps dax0.1: memory is in use"),
        ("claim", {"file": "size", "dax": "dax0.1", "text": "67108864"}, "sets the size of dax0.1 to 64M"),
        ("claim", {"file": "size", "dax": "dax0.1", "text": "much"}, "sets the size of dax0.1 to much"),
        (
            "claim",
            {"file": "policy", "region": "region0", "name": "hotplug", "text": "online"},
            "sets region0's hotplug to online",
        ),
        ("unuse", {"what": "pmem", "dax": "dax0.1"}, "unuse what pmem dax dax0.1"),
        ("use", {"raw": "ff"}, "use raw ff"),
    ],
)
def test_what_a_user_does_is_told(f: str, value: dict[str, Any], text: str) -> None:
    assert chart._wish(f, {"device": "mem0", **value}) == text


def written(path: Path, text: str) -> Path:
    head = header()
    path.write_bytes(head.line() + b"".join([op_line(op) for op in notation(text, head=head)]))
    return path


def test_the_verb_draws_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "history.jsonl", "add 0+2M; events; accept; clear")
    assert run(["explain", "--chart", str(path)]) == 0
    text, note = capsys.readouterr()
    assert "|------->|------->|        |        |   offers 0+2M of region 0" in text and "next: dcd check" in note
    assert run(["explain", "--chart", "--json", str(tmp_path)]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert [row["way"] for row in found["rows"]][1] == ["device", "host kernel"]
    assert found["not_drawn"] == {"clears of the log": 1}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--chart", "--finding", "1"], "--chart draws the whole history and --finding tells one"),
        (["--rows", "10"], "--rows is for --chart"),
        (["--witnesses"], "--witnesses is for --chart"),
        (["--chart", "--rows", "1"], "--rows 1; give a whole number from 2 to 100000"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    path = written(tmp_path / "history.jsonl", "add 0+2M")
    assert run(["explain", str(path), *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
