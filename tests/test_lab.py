"""The policy lab: traces, hosts that play them, what is counted, what is drawn, and the verb that compares."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table

from dcdbackend.checker import check
from dcdbackend.checker.notation import parse as notation
from dcdbackend.cli import out, run
from dcdbackend.errors import AskedWrongly, BadHistory, CannotRun
from dcdbackend.history import History, Op, Writer
from dcdbackend.lab import matrix, picture, play, side
from dcdbackend.lab import table as report
from dcdbackend.lab.measure import Measure, Numbers, measured
from dcdbackend.lab.trace import CAPACITY_BYTES, TRACES, tenants
from dcdbackend.model import host as kernel

MIB, GIB = 1 << 20, 1 << 30
COLUMNS = [matrix.column(text) for text in matrix.DEFAULT]
Value = dict[str, Any]


class Lines:
    """A record in memory; `seconds` tells the numbers of the history so far, at the last line of each second."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.ops: list[Op] = []
        self.seconds: dict[int, Numbers] = {}
        self._now_ns = now_ns
        self._measure = Measure()

    def invoke(self, process: str, f: str, value: Value) -> int:
        number = len(self.ops) + 1
        self._add(Op(number, number, process, "invoke", f, self._now_ns(), value))
        return number

    def end(self, op: int, kind: str, value: Value) -> None:
        began = self.ops[op - 1]
        self._add(Op(len(self.ops) + 1, op, began.process, kind, began.f, self._now_ns(), value))

    def _add(self, op: Op) -> None:
        self.ops.append(op)
        self._measure.take(op)
        self.seconds[op.t_ns // play.SECOND] = self._measure.numbers()


def played(
    name: str, column: str, seed: int = 1, asks: int = play.ASKS, trace: Any = None
) -> tuple[play.Outcome, Lines]:
    """A trace in a column, and its history."""
    one = matrix.column(column)
    records: list[Lines] = []

    def record(now_ns: Callable[[], int]) -> Lines:
        records.append(Lines(now_ns))
        return records[0]

    host = f"{one.host}/{one.driver}" if one.driver else one.host
    player = play.Player(trace or tenants(name, seed), host, one.what_if, seed, record, asks=asks)
    return player.run(), records[0]


# ---- traces and players ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRACES)
def test_a_seed_is_a_trace(name: str) -> None:
    assert tenants(name, 7) == tenants(name, 7) != tenants(name, 8)
    for tenant in tenants(name, 7):
        sizes = [*tenant.sizes, tenant.grow_bytes, *[user.need_bytes for user in tenant.users]]
        assert not [size for size in sizes if size % play.CELL_BYTES]
        assert all(user.need_bytes <= tenant.bytes for user in tenant.users)
        assert sum(tenant.sizes) <= CAPACITY_BYTES


@pytest.mark.parametrize("column", ["U", "A", "v11", "v11+extend-accepted", "C/sysram-untagged", "C/devdax"])
@pytest.mark.parametrize("name", TRACES)
def test_frames_and_history_tell_the_same(name: str, column: str) -> None:
    """Two counts of their own: cells painted from the models' states, ranges summed from the history's lines."""
    outcome, lines = played(name, column)
    assert len(outcome.frames) == play.LENGTH_S
    held = 0
    for second, frame in enumerate(outcome.frames):
        held = lines.seconds[second].held_bytes if second in lines.seconds else held
        assert play.held_bytes(frame) == held, second
        assert len(frame) == play.CELLS and set(map(chr, frame)) <= set(play.LETTERS)
    found = measured(lines.ops)
    assert found.offered_bytes == found.accepted_bytes + found.refused_bytes + found.open_bytes
    assert found.accepted_bytes == found.given_bytes + found.held_bytes
    assert found.asked_again == outcome.asked_again
    assert sum(outcome.tenants.values()) == len(tenants(name, 1))
    assert sum(outcome.users.values()) == sum(len(one.users) for one in tenants(name, 1))


def test_a_seed_is_a_run() -> None:
    for column in ("U", "A", "v11+release-remembered", "C/devdax"):
        (first, lines), (second, again) = played("parts", column, 3), played("parts", column, 3)
        assert first == second and lines.ops == again.ops
    assert played("parts", "A", 3)[0] != played("parts", "A", 4)[0]


def test_host_u_serves_everybody_and_wastes_nothing() -> None:
    """The measure of the others: no user of it waits, and what it holds nobody else sits in."""
    for name in TRACES:
        outcome, _ = played(name, "U")
        assert outcome.users["not served"] == outcome.tenants["refused"] == outcome.taken_away == 0
        assert outcome.byte_seconds("used") == outcome.needed_byte_s
        assert outcome.byte_seconds("blocked") == outcome.byte_seconds("lost") == 0


@pytest.mark.parametrize("column", [one.name for one in COLUMNS])
def test_every_trace_keeps_the_rules(column: str, tmp_path: Path) -> None:
    """The checker, which knows nothing of tenants, judges device and host by the history."""
    for name in TRACES if column == "v11" else ("parts", "grow"):
        cell = matrix.trace_cell(matrix.column(column), name, 1, play.ASKS, tmp_path / name)
        assert (cell.broken, cell.verdict) in (((), "pass"), ((), "departure")), cell.broken


def test_a_host_that_breaks_a_rule_is_convicted(tmp_path: Path) -> None:
    """A v11 that gives back what is in use: B22. The judge of traces can say no."""

    class Wrong(side.Kernel):
        def turn(self, now_ns: int) -> None:
            super().turn(now_ns)
            for start, end in self.used()[:1] if now_ns == 10 * play.SECOND else ():
                sent = {"device": side.NAME, "flags": 0, "ranges": [[start, end - start]]}
                self._bus.do(f"host.{side.NAME}", "give_back", sent)

    path = tmp_path / "history.jsonl"
    writers: list[Writer] = []

    def record(now_ns: Callable[[], int]) -> Writer:
        writers.append(Writer(path, play.header("v11", (), 1, "mixed"), now_ns))
        return writers[0]

    player = play.Player(tenants("mixed", 1), "v11", (), 1, record)
    wrong = player._side
    wrong.__class__ = Wrong
    player.run()
    writers[0].close()
    with path.open("rb") as file:
        verdict = check(History(file))
    assert {finding.subject for finding in verdict.failed} == {"host"}, verdict


# ---- what switches change -------------------------------------------------------------------------------------------


def test_a_group_of_untagged_extents_goes_whole_or_one_by_one() -> None:
    """B23 and Q6 against one-untagged-per-group: the same trace, less capacity that nobody can have back."""
    whole, alone = played("parts", "v11")[0], played("parts", "v11+one-untagged-per-group")[0]
    assert alone.byte_seconds("blocked") < whole.byte_seconds("blocked") / 2
    assert alone == played("parts", "A")[0]._replace(taken_away=alone.taken_away)


def test_who_asks_once_gets_nothing_back_unless_it_is_remembered() -> None:
    once, remembered = (
        played("asked-early", "v11", asks=1)[0],
        played("asked-early", "v11+release-remembered", asks=1)[0],
    )
    assert once.tenants["held"] > 0 and once.tenants["returned"] == 0
    assert remembered.tenants == {"returned": 28, "held": 0, "refused": 0, "waiting": 0}
    assert remembered.asked_again == 0 == remembered.byte_seconds("stranded")


def test_without_a_tag_there_is_no_service() -> None:
    assert played("pool", "v11+no-tag-no-service")[1].ops != played("pool", "v11")[1].ops
    for column in ("v11+no-tag-no-service", "C/devdax", "C/virtio", "C/sysram"):
        outcome, lines = played("pool", column)
        assert outcome.tenants["refused"] == len(tenants("pool", 1))
        assert measured(lines.ops).accepted_bytes == 0


def test_generation_a_serves_nobody_with_a_tag() -> None:
    outcome, _ = played("mixed", "A")
    assert outcome.tenants["refused"] == sum(any(one.tag) for one in tenants("mixed", 1))


# ---- what is counted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("add 0+4M; events; accept", {"taken": 1, "offered_bytes": 4 * MIB, "held_bytes": 4 * MIB}),
        ("add 0+4M; events; accept 0+2M", {"in_part": 1, "refused_bytes": 2 * MIB, "accepted_bytes": 2 * MIB}),
        ("add 0+4M; events; refuse", {"refused": 1, "refused_bytes": 4 * MIB, "held_bytes": 0}),
        ("add 0+4M; events; events", {"open_offers": 1, "open_bytes": 4 * MIB, "offered_bytes": 4 * MIB}),
        ("add 0+2M,4M+2M; events; accept+ 0+2M; accept 4M+2M", {"taken": 1, "accepted_bytes": 4 * MIB}),
        ("add 1+1", {"denied": 1, "offered_bytes": 0}),
        ("add 0+4M; events; accept; clear; release? 0+4M; events; release 0+4M", {"asked": 1, "given_bytes": 4 * MIB}),
        (  # a request that is read when all is given back already keeps nothing
            "add 0+4M; events; accept; clear; release? 0+4M; release 0+4M; events",
            {"asked": 1, "kept_bytes": 0, "given_bytes": 4 * MIB, "asked_again": 0},
        ),
        (
            "add 0+4M; events; accept; clear; release? 0+4M; events; clear; release? 0+2M; events",
            {"asked": 2, "asked_again": 1, "kept_bytes": 4 * MIB, "stranded_byte_requests": 4 * MIB},
        ),
    ],
)  # fmt: skip
def test_a_history_is_counted(text: str, numbers: dict[str, int]) -> None:
    found = measured(notation(text))._asdict()
    assert {key: found[key] for key in numbers} == numbers


# ---- what is drawn --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from("fpuisbl"), min_size=play.CELLS, max_size=play.CELLS), min_size=1, max_size=6))
def test_boxes_cover_just_what_is_there(rows: list[list[str]]) -> None:
    frames = ["".join(row).encode() for row in rows]
    painted = [bytearray(b"f" * play.CELLS) for _ in frames]
    for state, boxes in picture.boxes_of(frames).items():
        for start, end, cell, end_cell in boxes:
            for second in range(start, end):
                assert painted[second][cell:end_cell] == b"f" * (end_cell - cell)  # no place twice
                painted[second][cell:end_cell] = state.encode()[:1] * (end_cell - cell)
    assert [bytes(frame) for frame in painted] == frames


def test_the_picture_is_svg_and_text() -> None:
    panels = [picture.Panel(name, played("parts", name)[0].frames) for name in ("U", "v11")]
    root = ElementTree.fromstring(picture.svg({"parts <x>": panels}))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"parts <x>", "U", "v11", f"lost: {play.STATES['lost']}"} <= set(texts)
    fills = {element.get("fill") for element in root.iter("{http://www.w3.org/2000/svg}path")}
    assert picture.LOOKS["blocked"].colour in fills and picture.LOOKS["lost"].colour not in fills
    for width in (40, 80, 200):
        drawn = list(picture.draw(panels, width))
        assert max(len(line) for line in drawn[:-2]) <= width
        assert any("x" in line for line in drawn[:-2]) and any("#" in line for line in drawn[:-2])


def test_two_states_are_never_of_one_lightness() -> None:
    """By WCAG's relative luminance: who sees no red and green, or prints it in grey, reads the same picture."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    levels = sorted(luminance(look.colour) + 0.05 for look in picture.LOOKS.values())
    assert all(light / dark >= picture.LEAST_CONTRAST for dark, light in itertools.pairwise(levels)), levels
    assert len({look.mark for look in picture.LOOKS.values()}) == len(picture.LOOKS) == len(play.STATES)


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_no_text_of_the_picture_is_cut_or_written_over(count: int) -> None:
    """As wide as letters may be, a title ends before the next panel begins, and nothing leaves the page."""
    name = "v11+one-untagged-per-group+release-remembered+map-to-extents"
    frames = [b"f" * play.CELLS] * play.LENGTH_S
    panels = [picture.Panel(name, frames)] * count
    heading = "parts: untagged chains of four extents, a user for each, asked back while some use theirs"
    root = ElementTree.fromstring(picture.svg({heading: panels, "another": panels}))
    left, _, wide, tall = [float(number) for number in root.attrib["viewBox"].split()]
    assert (float(root.attrib["width"]), float(root.attrib["height"])) == (wide, tall)
    svg = "{http://www.w3.org/2000/svg}"
    boxes = []
    for text in root.iter(f"{svg}text"):
        assert text.text is not None
        x, y = float(text.attrib["x"]), float(text.attrib["y"])
        boxes.append((x, y - 12, x + 7 * len(text.text), y + 3))
        assert left <= x and boxes[-1][2] <= left + wide and y <= tall
    areas = [[float(rect.attrib[key]) for key in ("x", "y", "width", "height")] for rect in root.iter(f"{svg}rect")][1:]
    boxes += [(x, y, x + width, y + height) for x, y, width, height in areas]
    for one, other in itertools.combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)
    drawn = "".join("".join(picture.draw(panels, 80)).split())
    assert drawn.count("+map-to-extents") == count


@pytest.mark.parametrize(("width", "count"), [(40, 10), (80, 2), (300, 1)])
def test_a_narrow_terminal_shows_every_figure_whole(
    width: int, count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Columns go below each other, each part under the same hosts, and no cell is cut."""
    hosts = ("v11", "v11+one-untagged-per-group")
    cells = {name: matrix.trace_cell(matrix.column(name), "parts", 1, 24, tmp_path / name) for name in hosts}
    (whole,) = [one for one in report.traces({"parts": cells}, {"parts": "a text"}) if isinstance(one, Table)]
    parts = list(report.fitting(whole, width))
    for part in parts:
        out.table(part)
    told = capsys.readouterr().out
    assert len(parts) == count and "…" not in told and told.count(hosts[1]) == count
    figures = [str(cell) for column in whole.columns[1:] for cell in column.cells if cell]
    assert sorted(figures) == sorted(word for word in re.split(r" {2,}|\n", told) if word.strip() in figures)
    assert max(map(len, told.splitlines())) <= max(width, len(hosts[1]) + 12)


# ---- the verb -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v12", "host 'v12' in 'v12' is not simulated; there is U, A, B-rfc, v10, v11, C"),
        ("v11/devdax", "only host C has policy drivers"),
        ("C/pmem", "one of sysram, sysram-untagged, devdax, virtio"),
        ("U+release-remembered", "host U and what-if 'release-remembered'"),
        ("v11+nonsense", "what-if 'nonsense' is not known"),
        ("A+one-untagged-per-group", "generation A cannot have what-if 'one-untagged-per-group'"),
        ("v11+no-tag-no-service+untagged-partial-claim", "contradict each other"),
    ],
)
def test_a_column_that_cannot_be_is_refused(text: str, said: str) -> None:
    with pytest.raises(AskedWrongly, match=None) as caught:
        matrix.column(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["v12"], "is not simulated"),
        (["-t", "nonsense"], "trace 'nonsense' is not known; there is mixed"),
        (["-s", "nonsense-*"], "no scenario 'nonsense-*'"),
        (["-s", "none", "-t", "none"], "leave nothing to compare"),
        (["-t", "none", "--draw"], "--trace none and a picture"),
        (["-s", "none", "--asks", "0"], "--asks 0; give a whole number from 1 to 1000"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert run(["compare-policies", "--run-dir", str(tmp_path / "run"), *options]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1) and said in error
    assert not (tmp_path / "run").exists()


def compared(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, *options: str) -> Any:
    assert run(["compare-policies", "--json", "--run-dir", str(tmp_path / name), *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_same_comes_out_however_many_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scenarios and traces, in one process and in two: the same JSON; and a switch changes what it must."""
    what = ["v11", "v11+one-untagged-per-group", "U", "-s", "release-chain", "-s", "add", "-t", "parts"]
    one = compared(tmp_path, capsys, "one", *what, "--jobs", "1")
    assert one == compared(tmp_path, capsys, "two", *what, "--jobs", "2")
    cells = one["scenarios"]["release-chain"]
    assert not cells["v11"]["followed"] and cells["v11+one-untagged-per-group"]["followed"] and cells["U"]["followed"]
    assert list(one["scenarios"]) == ["add", "release-chain"]
    blocked = {name: cell["byte_seconds"]["blocked"] for name, cell in one["traces"]["parts"].items()}
    assert blocked["U"] == 0 < blocked["v11+one-untagged-per-group"] < blocked["v11"]


def test_the_tables_and_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg = tmp_path / "lab.svg"
    options = ["v11", "v11+one-untagged-per-group", "-s", "add", "-s", "release-chain", "-t", "parts"]
    assert (
        run(
            ["compare-policies", *options, "--jobs", "1", "--svg", str(svg), "--draw", "--run-dir", str(tmp_path / "r")]
        )
        == 0
    )
    out, error = capsys.readouterr()
    assert "v11+one-untagged-per-group changes 1 of 2 scenarios" in out and "+1 r1 * -> +1 r1: release-chain" in out
    assert "2 of 2 scenarios show the same on every host" in out
    assert "Trace parts" in out and "BACKEND EMULATOR" in out and "a mark: 4 s, 128M" in out
    assert "4/4" in error and ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert run(["explain", "--chart", "--rows", "20", str(tmp_path / "r" / "v11" / "traces")]) == 0
    assert "trace-parts: host v11, backend emulator" in capsys.readouterr().out


def test_what_there_is_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare-policies", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*TRACES, *side.DRIVERS, "release-remembered"))
    assert kernel.setup("v11").generation.name == "v11" and "v11+release-remembered" in out


def test_an_error_of_another_process_arrives_as_a_line() -> None:
    for raised, told in ((BadHistory("torn", line=3), AskedWrongly), (CannotRun("no room"), CannotRun)):

        def task(*_: Any, error: Exception = raised) -> matrix.Cells:
            raise error

        with pytest.raises(told) as caught:
            matrix._elsewhere((task, ()))
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value) == str(raised)


def children(pid: int) -> list[int]:
    """Processes that a process has begun and that run; of one that is gone, none."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("number", "code", "to_all"), [(signal.SIGINT, 130, True), (signal.SIGKILL, -9, False)])
def test_no_process_outlives_the_verb(number: int, code: int, to_all: bool, tmp_path: Path) -> None:
    """Stopped by Ctrl-C, which reaches every process of the terminal, or killed alone: within seconds none is left."""
    words = ["compare-policies", "U", "A", "v10", "v11", "-t", "none", "--jobs", "2", "--run-dir", str(tmp_path / "r")]
    argv = [sys.executable, "-m", "dcdbackend", *words]
    one = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        assert one.stderr is not None
        assert "/" in one.stderr.readline(), "a part is done, others are under way"
        begun = children(one.pid)
        assert len(begun) >= 2 and one.poll() is None
        (os.killpg if to_all else os.kill)(one.pid, number)
        assert one.wait(10) == code
        while any(map(running, begun)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in begun if running(pid)]
        assert not to_all or one.stderr.read().splitlines()[-1] == "dcd: stopped"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)
        one.wait()
        assert one.stderr is not None
        one.stderr.close()


def test_a_breach_counts_unless_a_switch_makes_it() -> None:
    from dcdbackend.cli.compare import _exit_code

    def found(column: str) -> matrix.Found:
        cell = matrix.ScenarioCell("fail", "", True, Numbers(), ("host B5.one",))
        return matrix.Found({"add": {column: cell}}, {})

    assert _exit_code(found("v11")) == 1
    assert _exit_code(found("v11+release-remembered")) == 0
    outcome, lines = played("parts", "v11")
    for broken, code in ((("host B5.one",), 1), ((), 0)):
        cell = matrix.TraceCell(outcome, measured(lines.ops), "pass", broken)
        assert _exit_code(matrix.Found({}, {"parts": {"v11+release-remembered": cell}})) == code


@pytest.mark.parametrize("driver", side.DRIVERS)
def test_a_user_of_a_policy_driver_gets_all_or_nothing(driver: str) -> None:
    """Nothing is there yet; then half of what is wanted; then all of it, once."""
    bus = side.Bus(Lines(lambda: 0), 0)
    host = side.Drivers(bus, driver)
    place = (0, 128 * MIB)
    tag = bytes(16) if driver.endswith("untagged") else b"\x11" * 16
    assert not host.start("a", side.Wish(64 * MIB, tag, (place,)))
    extents = [{"dpa": 0, "length": 128 * MIB, "tag": tag.hex(), "sequence": 0}]
    sent = {"device": "mem0", "via": "fm", "host_id": 0, "policy": "prescriptive", "region": 0, "tag": None}
    assert bus.do("manager", "add", {**sent, "extents": extents})[0] == "ok"
    host.turn(0)
    assert host.known() == [place] and not host.used()
    assert not host.start("a", side.Wish(256 * MIB, tag, (place,))) and not host.used()
    assert host.start("a", side.Wish(128 * MIB, tag, (place,))) and host.used() == [place]
    assert not host.start("b", side.Wish(64 * MIB, tag, (place,)))
    host.stop("a")
    assert not host.used() and host.taken_away == 0
