"""checker: written histories to verdicts; the judge itself broken on purpose; orders, bounds, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from wrong.devices import DEVICES, Wrong
from wrong.models import MODELS, WrongModel

from dcdbackend.checker import Limits, Verdict, check
from dcdbackend.checker.explain import summary, tell
from dcdbackend.checker.notation import header, parse, spell, statements
from dcdbackend.errors import AskedWrongly, BadHistory
from dcdbackend.history import Header, History, Op, op_line
from dcdbackend.model import device as reference
from dcdbackend.model.decide import manager_extents, queue
from dcdbackend.model.departures import DEPARTURES, applicable
from dcdbackend.model.reply import Device, reply
from dcdbackend.rules import CLAUSES, NOT_JUDGED

HISTORIES = Path(__file__).parent / "histories"
# Clauses that no history of today's witnesses is judged by; they are listed, and never green.


class Written(NamedTuple):
    """A history in the notation, with what its `#!` lines say: qemu, limits, fail SUBJECT CLAUSE, depart ID..."""

    name: str
    text: str
    head: Header
    departures: frozenset[str]
    fails: frozenset[tuple[str, str]]
    departs: frozenset[str]

    def judged(self, departures: frozenset[str] | None = None) -> Verdict:
        return check(parse(self.text, head=self.head, departures=self.departures), self.head, departures=departures)


def written(path: Path) -> Written:
    qemu: str | None = None
    limits: dict[str, Any] | None = None
    fails: list[tuple[str, str]] = []
    departs: list[str] = []
    text = path.read_text()
    for line in text.splitlines():
        if line.startswith("#!"):
            what, *rest = line[2:].split()
            if what == "qemu":
                qemu = rest[0]
            elif what == "limits":
                limits = json.loads(line[2:].split(None, 1)[1])
            elif what == "fail":
                fails.append((rest[0], rest[1]))
            else:
                departs += rest
    head = header(qemu=qemu, limits=limits)
    known = applicable(qemu) if qemu else frozenset()
    return Written(path.name, text, head, known, frozenset(fails), frozenset(departs))


def all_of(kind: str) -> list[Written]:
    return [written(path) for path in sorted((HISTORIES / kind).glob("*.txt"))]


def verdict(text: str, **options: Any) -> Verdict:
    head = header()
    return check(parse(text, head=head), head, **options)


def failed(found: Verdict) -> set[tuple[str, str]]:
    return {(finding.subject, finding.clause) for finding in found.failed}


# ---- histories


@pytest.mark.parametrize("history", all_of("good"), ids=lambda history: history.name)
def test_a_good_history_is_judged_good(history: Written) -> None:
    found = history.judged()
    assert not found.failed, "\n".join(summary(found))
    assert found.outcome == ("departure" if history.departs else "pass"), "\n".join(summary(found))
    assert found.departures == history.departs
    assert not found.nothing_judged


@pytest.mark.parametrize("history", all_of("bad"), ids=lambda history: history.name)
def test_a_bad_history_is_convicted_by_name(history: Written) -> None:
    found = history.judged()
    assert found.outcome == "fail"
    assert failed(found) == history.fails, "\n".join(summary(found))
    assert found.departures >= history.departs


@pytest.mark.parametrize("history", all_of("unknown"), ids=lambda history: history.name)
def test_an_unknown_history_is_neither(history: Written) -> None:
    found = history.judged()
    assert found.outcome == "unknown", "\n".join(summary(found))
    assert not found.failed


@pytest.mark.parametrize("path", sorted(HISTORIES.glob("*/*.jsonl")), ids=lambda path: path.name)
def test_what_was_recorded_on_a_real_qemu_is_judged_as_it_was(path: Path) -> None:
    """Of the device there is nothing but known departures; the host is convicted where it was told to be wrong."""
    with path.open("rb") as file:
        found = check(History(file))
    if path.parent.name == "good":
        assert found.outcome == "departure", "\n".join(summary(found))
    else:
        assert {subject for subject, _ in failed(found)} == {"host"}, "\n".join(summary(found))
    assert found.of("WITNESS.agree").passed


def test_a_departure_that_is_not_known_is_a_failure() -> None:
    """The same history of a real QEMU, judged as if nothing were known of it."""
    history = written(HISTORIES / "good" / "qemu_departures.txt")
    assert failed(history.judged(frozenset())) == {("device", "DEV-4.tag")}


def test_every_departure_is_seen_and_named() -> None:
    written_ = [history for kind in ("good", "bad", "unknown") for history in all_of(kind)]
    seen = frozenset().union(*[history.judged().departures for history in written_])
    in_no_history = {"QEMU-available-pending"}  # 4800h is asked once, before anything is offered
    assert seen == frozenset(DEPARTURES) - in_no_history


# ---- wrong on purpose


@pytest.mark.parametrize("wrong", DEVICES, ids=lambda wrong: f"{wrong.clause}: {wrong.script}")
def test_a_wrong_device_is_convicted_by_its_clause(wrong: Wrong) -> None:
    head = header(limits=wrong.limits)
    found = check(parse(wrong.script, head=head, answer=wrong.answer), head)
    convicted = [finding.clause for finding in found.failed if finding.subject == "device"]
    assert convicted == [wrong.clause], "\n".join(summary(found))
    right = check(parse(wrong.script, head=head), head)
    assert not [finding for finding in right.failed if finding.subject == "device"], "\n".join(summary(right))


@pytest.mark.parametrize("wrong", MODELS, ids=lambda wrong: wrong.clause)
def test_a_wrong_model_turns_the_verdict_red(wrong: WrongModel) -> None:
    head = header()
    ops = parse(wrong.script, head=head)
    assert check(ops, head).outcome == "pass"
    found = check(ops, head, device=wrong.model)
    assert found.outcome == "fail"
    assert wrong.clause in {finding.clause for finding in found.failed}, "\n".join(summary(found))


def test_every_clause_is_judged_both_ways_or_listed_as_not_judged() -> None:
    """A `must` clause has a history that convicts it and one where it was tested and held."""
    convicts = {wrong.clause for wrong in DEVICES} | {
        clause for history in all_of("bad") for _, clause in history.fails
    }
    convicts |= REGIONS_CONVICT | AGREE
    passes: set[str] = set()
    for history in (*all_of("good"), *all_of("bad")):
        passes |= {clause for (_, _, clause), counts in history.judged().counts.items() if counts.passed}
    for wrong in DEVICES:
        head = header(limits=wrong.limits)
        found = check(parse(wrong.script, head=head), head)
        passes |= {clause for (_, _, clause), counts in found.counts.items() if counts.passed}
    passes |= AGREE
    musts = {name for name, clause in CLAUSES.items() if clause.kind == "must"} - set(NOT_JUDGED)
    musts -= {"KERNEL.alarm"}  # convicted and held in test_kernel_scenarios
    assert musts - convicts == set()
    assert musts - passes - {"DEV-9.alive"} == set()  # that the device lives on is never green: it may die next
    mays = {name for name, clause in CLAUSES.items() if clause.kind == "may"} - set(NOT_JUDGED)
    assert mays - passes == set()
    assert not passes & set(NOT_JUDGED)


# ---- orders


def test_the_order_rule_needs_the_answers_begin() -> None:
    """A witness may see the effect of an answer whose begin is written; it may not see one that was not begun."""
    assert verdict("add 0+2M; events; accept { block 0 -> accepted }").outcome == "pass"
    assert failed(verdict("add 0+2M; events; block 0 -> accepted; accept")) == {("device", "DEV-5.pending")}


def test_overlap_passes_only_because_both_orders_are_tried() -> None:
    text = "add 0+2M; events; accept { block 0 -> %s }; block 0"
    for state in ("pending", "accepted"):
        assert verdict(text % state).outcome == "pass"
    assert failed(verdict(text % "free")) == {("device", "DEV-5.pending")}
    one_order = Limits(branches=64, tries=1, trail=256)
    assert verdict(text % "accepted", limits=one_order).outcome == "unknown"


def test_the_operation_that_broke_the_rule_is_named_not_the_one_that_showed_it() -> None:
    """The record belongs to an add that must have been refused, and whose end comes after the record."""

    def answer(there: Device, f: str, sent: dict[str, Any]) -> tuple[Device, str, dict[str, Any]]:
        if f == "add" and len(there.state.pending):
            extents = manager_extents(there.state, sent)
            return there._replace(state=queue(there.state, 0, sent, extents)), "ok", {}
        return reply(there, f, sent)

    head = header()
    found = check(parse("add 0+2M; add 0+4M { events; events }; block 0", head=head, answer=answer), head)
    assert failed(found) == {("device", "DEV-3.pending")}
    assert found.findings[0].lines[:2] == (3, 8)


def test_three_witnesses_may_not_see_an_answer_come_and_go() -> None:
    good = "add 0+2M; events; accept { block 0 -> pending; block 0 -> accepted; block 0 -> accepted }"
    bad = "add 0+2M; events; accept { block 0 -> pending; block 0 -> accepted; block 0 -> pending }"
    assert verdict(good).outcome == "pass"
    assert failed(verdict(bad)) == {("device", "DEV-6.taken")}


def test_what_overlapping_orders_judged_differently_is_not_counted_as_held() -> None:
    """A release request that overlaps the block's witness was seen before it in one order, after it in the other."""
    found = verdict("add 0+2M; events; accept; clear; release? 0+2M { block 0 }; block 0")
    assert found.outcome == "pass"
    assert found.of("DEV-11.request").passed == 1


def test_an_operation_with_unknown_outcome_stays_open() -> None:
    """It may take effect late, or never, for ever: both are permitted, and neither is forgotten."""
    late = "add 0+2M; events; accept -> info; " + "block 0 -> pending; " * 5
    assert verdict(late + "block 0 -> accepted; block 0 -> accepted").outcome == "unknown"
    assert failed(verdict(late + "block 0 -> accepted; block 0 -> pending")) == {("device", "DEV-6.taken")}
    assert not verdict(late + "list 0 0").failed
    found = verdict(late)
    assert found.of("DEV-9.answers").unknown == 1
    assert found.of("DEV-5.pending").passed == 5


def test_an_illegal_operation_of_unknown_outcome_has_no_effect() -> None:
    assert failed(verdict("add 0+0 -> info; block 0 -> pending")) == {("device", "DEV-5.free")}


def test_many_unknown_outcomes_do_not_explode() -> None:
    """Each of five offers may be queued or not; nothing shows which, and what commutes makes no branches."""
    text = "; ".join(f"add {4 * at}M+2M -> info" for at in range(5)) + "; block 100M" * 50
    found = verdict(text)
    assert found.outcome == "unknown"
    assert found.of("DEV-5.free").passed == 50


def test_past_its_bounds_the_verdict_is_unknown_and_says_so() -> None:
    text = "; ".join(f"add {4 * at}M+2M -> info" for at in range(12)) + "; events; block 4M -> free"
    found = verdict(text, limits=Limits(branches=8, tries=200, trail=16))
    assert found.outcome == "unknown"
    assert any("orders are possible" in warning for warning in found.warnings)


def test_an_end_far_away_is_taken_for_unknown() -> None:
    """The look ahead for an end is bounded; past it the operation's outcome counts as unknown."""
    text = "add 0+2M; events; accept {{ block 0 -> accepted; {} block 0 }}; block 0"
    assert verdict(text.format("user: load 8M+2 -> 0000; " * 100)).outcome == "pass"
    found = verdict(text.format("user: load 8M+2 -> 0000; " * 2100))
    assert not found.failed
    assert found.outcome == "unknown"


def test_trails_are_settled_before_they_grow() -> None:
    text = "add 8M+2M -> info; " + "block 8M; " * 300
    found = verdict(text, limits=Limits(trail=8))
    assert not found.failed
    assert found.operations == 301


# ---- device and host apart


def test_after_a_conviction_the_host_is_judged_on_and_the_device_is_not() -> None:
    found = verdict("add 0+2M; events; block 0 -> free; accept 0+2M; release 8M+2M; block 0 -> free; list")
    assert failed(found) == {("device", "DEV-5.pending"), ("host", "DEV-7.held")}
    assert found.of("DEV-6.inside").passed == 1
    assert found.of("DEV-10.total") == found.of("DEV-10.total")._replace(passed=0)
    assert found.of("DEV-6.taken").unknown
    assert any("not judged after line" in warning for warning in found.warnings)


def test_departures_are_still_seen_after_a_conviction() -> None:
    head = header(qemu="11.1.3")
    known = applicable("11.1.3")
    text = "add 0+2M; events; block 0 -> free; clear all"
    found = check(parse(text, head=head, departures=known), head)
    assert ("device", "DEV-5.pending") in failed(found)
    assert "QEMU-clear-all" in found.departures


def test_the_host_is_judged_by_the_offer_whatever_the_device_says() -> None:
    for back in ("ok", "0Fh", "02h", "info", "open"):
        found = verdict(f"add 0+2M; events; accept 8M+2M -> {back}")
        assert ("host", "DEV-6.inside") in failed(found), back


def test_death_is_judged_even_after_a_conviction() -> None:
    found = verdict("add 0+2M; events; block 0 -> free; accept 0+2M -> open; gone")
    assert ("device", "DEV-9.alive") in failed(found)


def test_two_devices_are_judged_apart() -> None:
    head = header()
    other = {**head.devices[0], "name": "mem1"}
    head = head._replace(devices=(head.devices[0], other))
    ops = parse("add 0+2M; block 0 -> accepted", head=head)
    more = [
        op._replace(n=op.n + 4, op=op.op + 4, value={**op.value, "device": "mem1"})
        for op in parse("add 0+2M; block 0 -> pending", head=head)
    ]
    found = check([*ops, *more], head)
    assert {finding.device for finding in found.failed} == {"mem0"}
    assert found.of("DEV-5.pending", device="mem1").passed == 1


# ---- the guest's own judgement

AGREE = frozenset(("WITNESS.agree", "WITNESS.lists", "WITNESS.tools"))  # see test_witnesses.py, test_kernel_tools.py


def judged_by_guest(text: str, said: Any) -> Verdict:
    head = header()
    ops = parse(text, head=head)
    last = ops[-1]
    ops[-1] = last._replace(value={**last.value, "judged": said})
    return check(ops, head)


def test_the_guests_judgement_is_tallied_apart() -> None:
    said: dict[str, Any] = {
        "device": {"DEV-8.served": "unknown"},
        "host": {},
        "passed": ["DEV-6.inside"],
        "evidence": [],
    }
    found = judged_by_guest("add 0+2M; events; accept", said)
    assert found.outcome == "pass"
    assert found.of("DEV-6.inside", subject="guest.host").passed == 1
    assert found.of("DEV-8.served", subject="guest.device").unknown == 1
    assert found.of("DEV-6.inside").passed == 1
    assert found.of("WITNESS.agree").passed == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("add 0+2M; events; accept 8M+2M", {"device": {}, "host": {}, "passed": ["DEV-6.inside"]}),
        ("add 0+2M; events; accept 0+2M", {"device": {}, "host": {"DEV-6.inside": "fail"}, "passed": []}),
        ("add 0+2M; events; accept 0+2M", {"device": {"DEV-8.served": "fail"}, "host": {}, "passed": []}),
    ],
)
def test_two_judges_that_disagree_are_a_finding(text: str, said: dict[str, Any]) -> None:
    found = judged_by_guest(text, said)
    assert ("witness", "WITNESS.agree") in failed(found)


def test_a_guest_that_does_not_know_does_not_disagree() -> None:
    said: dict[str, Any] = {"device": {}, "host": {"DEV-6.inside": "unknown"}, "passed": ["DEV-6.aligned"]}
    assert ("witness", "WITNESS.agree") not in failed(judged_by_guest("add 0+2M; events; accept 8M+2M", said))
    cut: dict[str, Any] = {"device": {}, "host": {}, "passed": ["DEV-6.inside"], "evidence": [], "cut": 70000}
    assert ("witness", "WITNESS.agree") not in failed(judged_by_guest("add 0+2M; events; accept 8M+2M", cut))


def test_the_guests_late_judgement_belongs_to_an_earlier_step() -> None:
    """The answer is judged after the clear that follows it: one completion of the device back."""
    for outcome, agrees in (("pass", True), ("fail", False)):
        late = {"back": 1, "f": "answer", "device": {}, "host": {"DEV-6.inside": outcome}, "passed": []}
        said = {"device": {}, "host": {}, "passed": ["DEV-8.served"], "evidence": [], "earlier": [late]}
        found = judged_by_guest("add 0+2M; events; accept; clear", said)
        assert (("witness", "WITNESS.agree") not in failed(found)) == agrees
        assert sum(found.of("DEV-6.inside", subject="guest.host")) == 1
        far = {**said, "earlier": [{**late, "back": 9}, {**late, "back": "x"}, 7]}
        assert not judged_by_guest("add 0+2M; events; accept; clear", far).failed


def test_what_only_the_guest_knows_is_no_disagreement() -> None:
    """It saw the device before this history began: its generation number, for one."""
    said = {"device": {"DEV-10.generation-changes": "fail"}, "host": {}, "passed": [], "evidence": []}
    found = judged_by_guest("list", said)
    assert not found.failed
    assert found.of("DEV-10.generation-changes", subject="guest.device").failed == 1


def test_a_guests_judgement_in_another_form_is_left_out() -> None:
    forms: tuple[Any, ...] = (
        7,
        [],
        {"device": 3, "host": ["DEV-6.inside", 5, "no"]},
        {"passed": {"x": 1}},
        {"device": {"no": "pass"}},
    )
    for said in forms:
        assert not judged_by_guest("add 0+2M; events; accept", said).failed


# ---- regions

REGIONS_CONVICT = frozenset(
    ("DEV-1.count", "DEV-1.order", "DEV-1.block", "DEV-1.multiple", "DEV-1.base", "DEV-1.decode")
)


@pytest.mark.parametrize(
    ("clause", "change"),
    [
        ("DEV-1.order", {"base": 0}),
        ("DEV-1.block", {"block_size": 3 << 20}),
        ("DEV-1.block", {"block_size": 32}),
        ("DEV-1.multiple", {"length": (1 << 30) - 4096}),
        ("DEV-1.base", {"base": (1 << 30) + (2 << 20)}),
        ("DEV-1.decode", {"decode_length": 1 << 28}),
    ],
)
def test_regions_are_judged_from_the_header(clause: str, change: dict[str, int]) -> None:
    head = header()
    regions = [dict(region) for region in head.devices[0]["regions"]]
    regions[1] |= change
    found = check([], head._replace(devices=({**head.devices[0], "regions": regions},)))
    assert {finding.clause for finding in found.failed} == {clause}
    assert clause in REGIONS_CONVICT


def test_nine_regions_are_too_many() -> None:
    assert {finding.clause for finding in check([], header(regions=9)).failed} == {"DEV-1.count"}


# ---- what it says


def test_a_finding_explains_itself() -> None:
    found = verdict("add 0+4M; events; accept 0+2M; clear; block 2M -> accepted")
    (finding,) = found.findings
    assert finding.clause == "DEV-6.left"
    assert finding.lines[:2] == (9, 10)
    assert finding.evidence["expected"] == "free"
    assert finding.before["accepted"] == ["[0x0+2M]"]
    assert tell(finding) == [
        "DEV-6.left broken, device mem0, line 10: the block at 0x200000 is accepted; it must be free",
        "  the rule: what the answer leaves out goes back to free [CXL r3.1 8.2.9.9.9.3]",
        "  what happened:",
        "    line  2  add region 0: 0x0+4M -> ok",
        "    line  4  events -> 1:add 0x0+4M",
        "    line  6  answer 0x0+2M -> 00h",
        "    line  8  clear 1 -> 00h",
        "    line 10  block region 0 at 2M -> accepted",
        "  the state before, by the rules: accepted [0x0+2M]; pending nothing; log empty",
        "  expected: free",
        "  seen: {'state': 'accepted', 'desc': ''}",
    ]


def test_a_verdict_is_plain_data() -> None:
    found = verdict("add 0+4M; events; accept 0+2M; clear; block 2M -> accepted")
    data = json.loads(json.dumps(found.as_data()))
    assert data["outcome"] == "fail"
    assert data["findings"][0]["clause"] == "DEV-6.left"
    row = next(row for row in data["counts"] if row["clause"] == "DEV-6.left")
    assert row == {
        "subject": "device", "device": "mem0", "clause": "DEV-6.left",
        "pass": 0, "fail": 1, "unknown": 0, "departure": 0, "skipped": 0, "seen": "simulated",
    }  # fmt: skip


def test_findings_that_are_alike_are_counted_and_not_all_kept() -> None:
    head = header()
    known = frozenset(("QEMU-remain",))
    text = "add 0+2M; " + "events; " * 50
    found = check(parse(text, head=head, departures=known), head, departures=known)
    assert found.of("DEV-16.remain").departure == 50
    assert len(found.findings) == 8


def test_the_summary_names_every_clause() -> None:
    lines = summary(verdict("add 0+2M; events; accept; clear; block 0"))
    assert lines[0] == "pass: 5 operations"
    assert any("DEV-6.taken" in line and "1 pass" in line for line in lines)


def test_nothing_judged_is_no_pass() -> None:
    found = check([], header())
    assert found.nothing_judged
    assert found.outcome == "unknown"
    assert any("nothing was judged" in warning for warning in found.warnings)


# ---- files and bad input


def test_a_history_comes_from_its_file(tmp_path: Path) -> None:
    head = header()
    path = tmp_path / "history.jsonl"
    path.write_bytes(head.line() + b"".join(map(op_line, parse("add 0+2M; events; accept; clear; block 0", head=head))))
    with path.open("rb") as file:
        assert check(History(file)).outcome == "pass"
    path.write_bytes(path.read_bytes()[:-20])
    with path.open("rb") as file:
        found = check(History(file))
    assert found.outcome == "unknown" or not found.failed
    assert any("torn" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    ("f", "kind", "value"),
    [
        ("add", "invoke", {"device": "mem0"}),
        (
            "add",
            "invoke",
            {"device": "mem0", "via": "qmp", "host_id": 0, "policy": "prescriptive", "region": 0, "extents": 3},
        ),
        ("answer", "invoke", {"device": "mem0", "flags": 0, "ranges": [[1]]}),
        ("answer", "invoke", {"device": "mem0", "flags": 0, "ranges": "x"}),
        ("clear", "invoke", {"device": "mem0", "log": 4, "flags": 0}),
        ("give_back", "invoke", {"device": "mem0", "raw": "zz", "error": ""}),
        ("load", "invoke", {"device": "mem0", "dpa": "0", "length": 2}),
        ("store", "invoke", {"device": "mem0", "dpa": 0, "data": "x"}),
        ("block", "invoke", {"device": "mem0"}),
        ("block", "ok", {"state": "weird"}),
        ("events", "ok", {"rc": 0, "flags": 0, "records": [{}]}),
        ("events", "ok", {"rc": 0, "records": []}),
        ("extents", "ok", {"rc": 0, "extents": [{"dpa": 0}], "total": 0, "generation": 0}),
        ("extents", "fail", {}),
        ("load", "ok", {}),
        ("bytes", "ok", {"data": 7}),
    ],
)
def test_a_value_of_another_form_names_its_line(f: str, kind: str, value: dict[str, Any]) -> None:
    head = header()
    sent: dict[str, Any] = {
        "events": {"device": "mem0", "log": 4},
        "extents": {"device": "mem0", "start": 9, "count": 1},
        "block": {"device": "mem0", "region": 0, "offset": 0},
        "load": {"device": "mem0", "dpa": 0, "length": 2},
        "bytes": {"device": "mem0", "dpa": 0, "length": 2},
    }.get(f, {})
    received: dict[str, Any] = {"load": {"data": "0000"}, "block": {"state": "free"}}.get(f, {"rc": 0})
    first = value if kind == "invoke" else sent
    last = value if kind != "invoke" else received
    ops = [
        Op(1, 1, "p", "invoke", f, 0, first),
        Op(2, 1, "p", "ok" if kind == "invoke" else kind, f, 0, last),
    ]
    with pytest.raises(BadHistory, match=r"^line [23]: "):
        check(ops, head)


def test_lines_that_belong_to_nothing_are_errors() -> None:
    head = header()
    with pytest.raises(BadHistory, match=r"line 2: .*'mem9'; the header has mem0"):
        check([Op(1, 1, "p", "invoke", "events", 0, {"device": "mem9", "log": 4})], head)
    with pytest.raises(BadHistory, match="line 2: ok of operation 1, which is not open"):
        check([Op(1, 1, "p", "ok", "events", 0, {})], head)


def test_a_fault_of_our_own_is_not_taken_for_a_bad_history() -> None:
    def broken(state: object, op: object) -> Any:
        raise TypeError("ours")

    model = SimpleNamespace(**{name: getattr(reference, name) for name in reference.__all__}, judge=None)
    model.step = broken
    head = header()
    with pytest.raises(TypeError, match="ours"):
        check(parse("add 0+2M", head=head), head, device=model)


# ---- the notation


def test_the_notation_refuses_what_it_does_not_understand() -> None:
    for text in ("jump 0", "add 0-2M", "accept { block 0", "block 0 }", "add 0+2M -> maybe"):
        with pytest.raises(AskedWrongly):
            verdict(text)


def test_the_notation_reads_comments_braces_and_values() -> None:
    found = statements('accept { block 0 -> free; user: list -> {"total": 3} } -> 0Fh  # a comment\nrefuse')
    assert [statement.words[0] for statement in found] == ["accept", "refuse"]
    assert found[0].back == "0Fh"
    assert [inner.back for inner in found[0].inside] == ["free", '{"total": 3}']
    assert found[0].inside[1].process == "user"


def test_an_operation_is_spelled_short() -> None:
    assert spell("answer", {"flags": 1, "ranges": [[0, 2 << 20]]}, "fail", {"rc": 15}) == "answer more 0x0+2M -> 0fh"
    assert spell("give_back", {"flags": 0, "ranges": []}) == "give_back nothing -> no end"
    assert spell("clear", {"flags": 1, "handles": []}, "info", {"reason": "late"}) == "clear all -> unknown (late)"
    assert spell("answer", {"raw": "00", "error": "short"}, "ok", {"rc": 0}) == "answer raw 00 -> 00h"
