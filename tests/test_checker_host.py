"""checker: Linux hosts from histories alone: good, wrong in one clause, not known, beside their device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import kernel_history
import pytest
from host_history import BLIND, G, Lines, convicted, header, history, judged, sight, world_of, write
from host_notation import Case, table
from hypothesis import given, settings
from kernel_record import KERNEL, NAMES, parse, read
from test_kernel_record import FALSE, OTHERWISE, SHOWS, changed
from test_model_sparse_dax import CASES as SPARSE_CASES
from test_model_sparse_dax import WRONG as SPARSE_WRONG
from test_model_tagged import CASES as TAGGED_CASES
from test_model_tagged import SHORT, chain, plays
from test_model_tagged import WRONG as TAGGED_WRONG

import dcdbackend
from dcdbackend.checker import Limits, Verdict, check
from dcdbackend.checker.explain import summary
from dcdbackend.errors import BadHistory
from dcdbackend.history import History, Op, op_line
from dcdbackend.linux_rules import BY_OTHERS, CLAUSES, NOT_JUDGED

Value = dict[str, Any]
M = 1 << 20
SECOND = 1_000_000_000
SCHEMA_FILE = Path(dcdbackend.__file__).parent / "history.schema.json"
SCHEMA = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
CASES: list[Case] = [*TAGGED_CASES, *SPARSE_CASES]


class Wrong(NamedTuple):
    """A host that breaks a clause: what it sends in place of what is due, or what a write gives, or sysfs shows."""

    clause: str
    options: str
    script: str
    sent: str | None = None
    error: str | None = None
    change: Value | None = None

    def verdict(self) -> Verdict:
        """The verdict on it."""
        later = SECOND if self.clause in ("B3.expiry", "L1.until-empty", "B4.armed") else 0
        return judged(self.options, self.script, sent=self.sent, error=self.error, change=self.change, later_ns=later)


# clause | options | script | what is sent in the last step
_SENT = """\
L2.foreign | v11 | $R; foreign 0+4M | answer 0+4M; clear; events
L2.foreign | A | $R; foreign 0+4M | answer 0+4M; clear; events
L4.ignored | v11 | $A2; release 0+4M/a ... | clear; events
L4.alone | A | $ONE; release 0+4M ... | clear; events
L5.unknown | v11 | $R; kind9 0+4M | answer none; clear; events
A3.together | A | $R; add 0+4M 8M+4M | answer 0+4M; answer 8M+4M; clear; events
A3.together | A | $R; add 0+4M ...; add 8M+4M | answer 8M+4M; clear; events
A6.pages | A small | $R; add $5 | answer $5; clear; events
A15.destroy | A | $ONE; destroy region0 | -
B2.stage | v11 | $R; add 0+4M ...; add 8M+4M | answer 8M+4M; clear; events
B2.stale | v11 | $R; add 0+4M/a ...; add 64M+4M/b | answer 64M+4M; clear; events
B2.release | v11 | $A2; add 64M+4M ...; release 0+4M/a | clear; events
B2.arm | v11 | $R; add 0+4M ...; wait 19; add 8M+4M ...; tick 2 | answer none
B3.late-tail | v11 | $R; add 0+4M ...; wait 21; add 8M+4M | answer none; answer 0+4M 8M+4M; clear; events
B4.drop | v11 -Q10 | $R; add $100 ...; add 512M+2M ...; add 600M+2M | answer 600M+2M; clear; events
B4.armed | v11 | $R; add $100 ...; add 512M+2M; tick 21 | -
B5.groups | v11 | $R; add 0+4M/a 8M+4M/b 16M+4M/a | answer 0+4M 8M+4M 16M+4M; clear; events
B5.sorted | v11 sharable | $R; add 0+4M/a#1 8M+4M/a#0 | answer 0+4M 8M+4M; clear; events
B5.one | v11 | $R; add 0+4M/a 8M+4M | answer 0+4M; answer 8M+4M; clear; events
B5.realised | v11 | $R; add 0+4M/a 2M+4M | answer 2M+4M; clear; events
B6.region | B-rfc | $A2; add 64M+4M/a | answer 64M+4M; clear; events
B7.dense-1 | v10 sharable | $R; add 0+4M/a#2 | answer 0+4M; clear; events
B8.empty | v11 | $R; add 0+4M/a 8M+0/a | answer 0+4M; clear; events
B8.wrap | v11 | $R; add 0+4M/a 0xfffffffffff00000+2M/a | answer 0+4M; clear; events
B10.empty | v11 | $R; add 0+4M 8M+0 | answer 0+4M 8M+0; clear; events
B10.wrap | v11 | $R; add 0+4M 0xffffffffffe00000+4M | answer 0+4M 0xffffffffffe00000+4M; clear; events
B11.tag | v11 sharable | $R; add 0+4M | answer 0+4M; clear; events
B1.sharable | v11 sharable | $R; add 0+4M/a#1 | answer 0+4M; clear; events
B15.own-group | v11 | $R; add 0+4M/a 2M+4M/a | answer 0+4M; clear; events
B26.forgotten | v11 | held 1M+4M/a; $BOUND; page region0 1 0 1M+4M/a | give 1M+4M
B26.failed | v11 | held 0+4M/a; $BOUND; fault dax; page region0 1 0 0+4M/a | -
B32.each | v11 | $A2; unbind region0 | give 8M+4M 0+4M
B32.claims | v11 | $A2; claim dax0.0 a; unbind region0 | -
"""
_SHORT = {**SHORT, "$100": chain(100), "$5": chain(5), "$ONE": "region 0+1G; add 0+4M"}
SENT = [Wrong(row[0], row[1], row[2], sent=row[3]) for row in table(_SENT, _SHORT)]
SENT += [Wrong(row.clause, row.options, f"{row.given}; {row.step}", sent=row.sent) for row in TAGGED_WRONG]
SENT += [Wrong(row.clause, "A", f"{row.given}; {row.step}", sent=row.sent) for row in SPARSE_WRONG]
SENT = [  # a history's records are read a moment after its time begins, and the timer runs from then on
    row._replace(script=row.script.replace("tick 20", "tick 21")) if row.clause == "B3.expiry" else row for row in SENT
]

# clause | options | script | what the last write gives
_GIVES = """\
A14.create | A | $R; create region0 | ok
A14.available | A | $ONE; size dax0.0 8M | ok
A14.any | A | $ONE; size dax0.0 2M | -ENOSPC
B27.tag | v11 | $A2; claim dax0.0 a | -ENOENT
B27.untagged | v11 | $R; add 0+4M; claim dax0.0 0 | -ENOENT
B28.unparsable | v11 | $A2; claim dax0.0 tag | ok
B28.busy | v11 | $A2; claim dax0.0 a; claim dax0.0 a | ok
B28.none | v11 | $A2; claim dax0.0 b | ok
B28.gap | v11 | $R; add 0+4M/a 2G+4M/a 8M+4M/a; claim dax0.0 a | ok
B16.hole | v11 | $R; add 0+4M/a 2G+4M/a 8M+4M/a; claim dax0.0 a | ok
B28.read-only | v11 | make region0 0+1G static; bind region0; claim dax0.0 0 | ok
B28.order | v11 | $A2; claim dax0.0 a; claim dax0.0 tag | -EBUSY
B29.misaligned | v11 | $A2; size dax0.0 1M | ok
B29.bound | v11 | $A2; claim dax0.0 a; drive dax0.0 device_dax; size dax0.0 0 | ok
B29.same | v11 | $A2; claim dax0.0 a; size dax0.0 8M | -EBUSY
B29.resize | v11 | $A2; claim dax0.0 a; size dax0.0 4M | ok
B29.drop | v11 | $A2; claim dax0.0 a; size dax0.0 0 | -EBUSY
B29.order | v11 | $A2; claim dax0.0 a; drive dax0.0 device_dax; size dax0.0 1M | -EBUSY
B29.create | v11 | $A2; claim dax0.0 a; create region0 | ok
"""
GIVES = [Wrong(row[0], row[1], row[2], error="" if row[3] == "ok" else row[3]) for row in table(_GIVES, _SHORT)]


def seen(options: str, script: str, region: str = "region0") -> Value:
    """What sysfs truly shows at the end of a script."""
    lines = Lines()
    sight(lines, world_of(options, script).host, region)
    return lines.ops[-1].value


def shows(clause: str, options: str, script: str, change: Any) -> Wrong:
    """A host whose sysfs shows something else: `change` makes it of the truth."""
    script = script.replace("$R", "region 0+1G").replace("$A2", SHORT["$A2"])
    return Wrong(clause, options, script, change=change(seen(options, script)))


def dax(**values: Any) -> Any:
    """A change of the first DAX device; a callable gets what there was."""

    def change(value: Value) -> Value:
        first, *rest = value["devices"]
        made = {key: new(first[key]) if callable(new) else new for key, new in values.items()}
        return {"devices": [{**first, **made}, *rest]}

    return change


def turned(mappings: list[list[int]]) -> list[list[int]]:
    """The mappings the other way round, each at the page where it then begins."""
    found, page = [], 0
    for start, end, _ in mappings[::-1]:
        found.append([start, end, page])
        page += (end + 1 - start) // 4096
    return found


SHOWN = [
    shows("A1.mode", "A", "$R", lambda value: {"mode": "dc0"}),
    shows("A8.one", "A", "$R; add 0+4M", lambda value: {"extents": []}),
    shows("A14.available", "A", "$R; add 0+4M", lambda value: {"available": 0}),
    shows("A14.uuid", "A", "$R; add 0+4M", dax(has_uuid=True)),
    shows("A17.scan", "A no-driver", "$R; add 0+4M; load", lambda value: {"available": 0}),
    shows("B1.mode", "v11", "$R", lambda value: {"mode": "dynamic_ram_a"}),
    shows("B5.surfaced", "v11", "$A2", lambda value: {"extents": []}),
    shows("B17.all", "v11", "$A2", lambda value: {"extents": value["extents"][:1], "available": 4 * M}),
    shows("B16.arrival", "v11", "$A2; claim dax0.0 a", dax(mappings=turned)),
    shows("B16.last", "v11", "$R; add 16M+4M/a#1 0+4M/a 8M+4M/a; claim dax0.0 a", dax(mappings=turned)),
    shows(
        "B16.sharable", "v11 sharable", "$R; add 8M+4M/a#1 0+4M/a#0; claim dax0.0 a", dax(mappings=turned)
    ),
    shows("B26.gates", "v11", "held 1M+4M/a; $R", lambda value: {
        "extents": [{"name": "extent0.1", "offset": M, "length": 4 * M, "uuid": None}]}),
    shows("B27.zero", "v11", "$R; add 0+4M", dax(size=4 * M)),
    shows("B27.reads", "v11", "$A2; claim dax0.0 a", dax(uuid="0")),
    shows("B27.sequence", "v11", "$A2; claim dax0.0 a", dax(mappings=turned)),
    shows("B27.oldest", "v11", "$R; add 0+4M; add 8M+4M; claim dax0.0 0",
          dax(mappings=lambda pieces: [[at + 8 * M, end + 8 * M, page] for at, end, page in pieces])),
    shows("B28.unchanged", "v11", "$A2; claim dax0.0 b", dax(size=4 * M)),
    shows("B30.one", "v11", "$A2; claim dax0.0 a", dax(mappings=lambda pieces: pieces[:1])),
    shows("B30.sum", "v11", "$A2; claim dax0.0 a", dax(size=4 * M)),
    shows("B31.available", "v11", "$A2; claim dax0.0 a", lambda value: {"available": 4 * M}),
    shows("L3.start", "v11 -Q5", "$R; region 1G+1G; add 0+4M/a 1G+4M/a", lambda value: {"extents": value["extents"] + [
        {"name": "extent0.9", "offset": G, "length": 4 * M, "uuid": value["extents"][0]["uuid"]}]}),
]  # fmt: skip
WRONG = [*SENT, *GIVES, *SHOWN]


def test_there_are_enough_wrong_hosts() -> None:
    """25 by the order; these are scripts, each with one clause broken."""
    assert len({(row.options, row.script, row.sent, row.error, str(row.change)) for row in WRONG}) >= 100


@pytest.mark.parametrize("wrong", WRONG, ids=lambda row: f"{row.clause}-{row.options}-{row.script[-30:]}")
def test_a_wrong_host_is_convicted_by_its_clause(wrong: Wrong) -> None:
    found = wrong.verdict()
    assert wrong.clause in convicted(found), "\n".join(summary(found))
    right = judged(wrong.options, wrong.script)
    assert not convicted(right), "\n".join(summary(right))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.clause}-{case.options}-{case.hit[:30]}")
def test_a_good_host_is_not_convicted(case: Case) -> None:
    """Both sides of every case of the models: what the model chooses is good in the checker's eyes, nothing unknown."""
    for step in (case.hit, case.miss):
        found = judged(case.options, f"{case.given}; {step}")
        assert not convicted(found), "\n".join(summary(found))
        unknown = [name for name, counts in found.counts.items() if counts.unknown]
        assert not unknown or "@mem1" in f"{case.given}; {step}", unknown


# ---- what a history is convicted of beside its last step


def changed_op(ops: list[Op], at: int, **values: Any) -> list[Op]:
    """The operations with parts of one value replaced; `at` counts those of that kind from the end."""
    found = list(ops)
    found[at] = found[at]._replace(value={**found[at].value, **values})
    return found


def last(ops: list[Op], f: str, kind: str = "invoke") -> int:
    """The index of the last line of that operation."""
    return max(at for at, op in enumerate(ops) if op.f == f and op.type == kind)


@pytest.mark.parametrize(
    ("clause", "options", "script"),
    [
        ("B26.all", "v11", "region 0+1G"),
        ("A9.read", "A", "region 0+1G"),
        ("B25.restart", "v11", f"{SHORT['$BOUND']}; page region0 2 0 0+4M/a; page region0 2 1 0+4M/a; pages"),
        ("A9.restart", "A", f"{SHORT['$BOUND']}; page region0 2 0 0+4M; page region0 2 1 0+4M; pages"),
    ],
)
def test_a_scan_that_reads_elsewhere(clause: str, options: str, script: str) -> None:
    head, ops = history(options, script, look=False)
    assert not convicted(check(ops, head, device=BLIND))
    wrong = changed_op(ops, last(ops, "extents"), start=1)
    assert clause in convicted(check(wrong, head, device=BLIND))


TRIES = "; ".join(f"page region0 2 {at} 0+4M/a" for at in range(24))


@pytest.mark.parametrize(
    ("clause", "options", "script"),
    [
        ("B25.tries", "v11", f"{SHORT['$BOUND']}; {TRIES}"),
        ("B25.tries-11", "v10", f"{SHORT['$BOUND']}; {TRIES}"),
        ("B25.empty-page", "v11", f"{SHORT['$BOUND']}; page region0 2 0 0+4M/a; page region0 2 0"),
    ],
)
def test_a_scan_that_goes_on_after_it_has_failed(clause: str, options: str, script: str) -> None:
    steps = script.split("; ")
    enough = next(
        at for at in range(3, len(steps) + 1) if not world_of(options, "; ".join(steps[:at])).host.regions[0].scan
    )
    head, ops = history(options, "; ".join(steps[:enough]))
    found = check(ops, head, device=BLIND)
    assert not convicted(found) and found.of(clause).passed, "\n".join(summary(found))
    lines = Lines()
    lines.ops, lines.now_ns = list(ops), ops[-1].t_ns
    page = {"rc": 0, "total": 2, "generation": 0, "extents": []}
    lines.both("host.mem0", "extents", {"device": "mem0", "count": 50, "start": 0}, "ok", page)
    assert clause in convicted(check(lines.ops, head, device=BLIND))


def test_a_seed_after_a_scan_that_failed() -> None:
    script = f"{SHORT['$BOUND']}; page region0 2 0 0+4M/a; page region0 2 0"
    found = judged("v11", script, change={"all_devices": ["dax0.0"]})
    assert "B25.no-seed" in convicted(found)
    assert not convicted(judged("v11", script))


@pytest.mark.parametrize(
    ("clause", "device"),
    [
        ("B1.commands", {"commands": [0x4800, 0x4801, 0x4802]}),
        ("B1.interrupts", {"interrupts": False}),
        ("B1.gap", {"static_bytes": G}),
        ("B1.dsmad", {"dsmad_handle": 0x100}),
        ("B1.config", {"block_size": 3 << 20}),
    ],
)
def test_a_host_that_answers_where_it_must_leave_dcd_off(clause: str, device: Value) -> None:
    head, ops = history("v11", "region 0+1G; add 0+4M/a", look=False)
    first = dict(head.devices[0])
    for name, value in device.items():
        if name in ("dsmad_handle", "block_size"):
            first["regions"] = [{**first["regions"][0], name: value}]
        else:
            first[name] = value
    found = check(ops, head._replace(devices=(first, *head.devices[1:])), device=BLIND)
    assert convicted(found) == {clause}, "\n".join(summary(found))


@pytest.mark.parametrize(("clause", "generation"), [("A1.first", "A"), ("B1.first", "v11")])
def test_a_host_that_takes_of_a_second_partition(clause: str, generation: str) -> None:
    head, ops = history(generation, "region 0+1G; add 4G+4M", sent="answer 4G+4M; clear; events")
    regions = [*head.devices[0]["regions"], {**head.devices[0]["regions"][0], "index": 1, "base": 4 * G}]
    head = head._replace(devices=({**head.devices[0], "regions": regions}, *head.devices[1:]))
    assert clause in convicted(check(ops, head, device=BLIND))


def test_a_tag_live_on_another_device_is_not_known_here() -> None:
    """B6 is of the whole host: whether the tag still lives there, the judge of this device cannot tell."""
    script = "region 0+1G @mem1; add 0+4M/a @mem1; region 0+1G; add 64M+4M/"
    found = judged("v11", f"{script}a")
    assert not convicted(found) and found.of("B6.live").unknown == 1
    assert "B5.survivors" in convicted(judged("v11", f"{script}b", sent="answer none; clear; events"))


# ---- the whole table


ELSEWHERE = {
    "B26.all", "A9.read", "B25.restart", "A9.restart", "B25.tries", "B25.tries-11", "B25.empty-page", "B25.no-seed",
    "B1.commands", "B1.interrupts", "B1.gap", "B1.dsmad", "B1.config", "A1.first", "B1.first",
}  # fmt: skip
"""Convicted by name in the tests above."""


def swapped() -> set[str]:
    """Clauses of which a host of another generation is convicted."""
    rows = [
        ("draft", "v11", f"{SHORT['$A2']}; release 0+4M/a ..."),
        ("draft", "v11", f"{SHORT['$A2']}; release 0+4M/a"),
        ("draft", "v11", f"{SHORT['$A2']}; release 512M+4M"),
        ("B-rfc", "v11 sharable", "region 0+1G; add 0+4M/a#1 8M+4M/a#0"),
        ("B-rfc", "v11 sharable", "region 0+1G; add 0+4M/a#0"),
        ("B-rfc", "v11", "region 0+1G; add 0+4M/a 2M+4M/a"),
        ("v10", "v11", "held 0+4M/a; region 0+1G"),
        ("A", "v11", f"{SHORT['$A2']}; release 0+4M/a ..."),
    ]
    found: set[str] = set()
    for judged_as, options, script in rows:
        found |= convicted(judged(options, script, generation=judged_as))
    return found


def test_every_observable_must_is_convicted_once_and_held_once() -> None:
    """The table of L, A and B: each must has a wrong host and a good one; what nobody can see is listed as such.

    Those of C and of the what-if switches are in test_checker_policy.
    """
    convicts = {row.clause for row in WRONG} | ELSEWHERE | swapped()
    passes: set[str] = set()
    for case in CASES:
        for step in (case.hit, case.miss):
            found = judged(case.options, f"{case.given}; {step}")
            passes |= {clause for (_, _, clause), counts in found.counts.items() if counts.passed or counts.departure}
    table_of = {name: one for name, one in CLAUSES.items() if one.rule[:1] in "LAB"}
    musts = {name for name, clause in table_of.items() if clause.kind == "must"} - set(NOT_JUDGED)
    missing = musts - convicts - set(BY_OTHERS)
    assert missing == set()
    blind = {name for name, clause in table_of.items() if clause.kind == "must" and not clause.witnesses}
    assert blind == {"A16.release", "A16.online", "B21.invalidate", "B21.kept", "B21.after", "B33.none"}
    assert blind < set(NOT_JUDGED), "what nobody can see is listed, with the reason"
    assert not set(NOT_JUDGED) & passes, "what nobody can see is never green"
    never = {"L1.only"} | {name for name in musts if name.startswith("B1.") and name not in ("B1.mode", "B1.sharable")}
    only_wrong = {"A1.first", "A6.pages", "B4.drop", "B4.silent", "B4.armed", "B16.sharable", "B16.last",
                  "B25.tries", "B25.tries-11"}  # fmt: skip
    assert musts - passes - never - only_wrong - {"A4.order", "B6.first"} == set()


# ---- what is permitted: a stricter judge would be wrong

# clause | options | script | generation whose rules are stricter there
_STRICTER = """\
L3.several | v11 | make region0 0+1G; bind region0; pages; make region1 1G+1G | -
A2.driver | A no-driver | region 0+1G; add 0+4M | v11
A3.bound | A | region 0+1G; add $150 | v11
A4.unchecked | A | region 0+1G; add 0+1M | v11
A5.again | A | region 0+1G; add 0+4M; add 0+4M | v11
A7.order | A | region 0+1G; add 0+4M 8M+4M 16M+4M 24M+4M | v11
A14.any | A | region 0+1G; add 0+4M; add 8M+4M; size dax0.0 6M | v11
B3.unbounded | B-rfc | region 0+1G; add 0+4M ...; wait 3600; add 8M+4M | v11
B4.unbounded | v10 | region 0+1G; add $150 | v11
B10.unchecked | v10 no-driver | region 0+1G; add 0+4M 8M+0 | v11
B13.driver | v10 no-driver | region 0+1G; add 0+4M | v11
B13.unloaded | v11 | region 0+1G; unload; add 0+4M | -
B15.duplicate | v11 -Q1 | $A2; add 2M+2M | v11
B18.apart | v11 | $A2 | -
B28.adds | v10 | $A2; claim dax0.0 a; add 64M+4M; claim dax0.0 0 | v11
"""
STRICTER = [row for row in table(_STRICTER, {**_SHORT, "$150": chain(150)})]


@pytest.mark.parametrize("row", STRICTER, ids=lambda row: f"{row[0]}-{row[1]}")
def test_what_is_permitted_is_not_convicted_and_a_stricter_judge_would(row: list[str]) -> None:
    """Where a generation forbids what another permits, that one's rules convict the same history."""
    clause, options, script, stricter = row
    assert CLAUSES[clause].kind == "may"
    found = judged(options, script)
    assert not convicted(found), "\n".join(summary(found))
    if clause not in ("L3.several", "B10.unchecked", "B4.unbounded"):
        assert found.of(clause).passed, "\n".join(summary(found))
    if stricter:
        assert convicted(judged(options, script, generation=stricter)), clause


def test_every_may_of_the_hosts_has_its_good_history() -> None:
    mays = {name for name, clause in CLAUSES.items() if clause.kind == "may" and clause.rule[:1] in "LAB"}
    assert {row[0] for row in STRICTER} == mays


# ---- recorded kernels


def recorded(tmp_path: Path, text: str, generation: str, quirks: list[str] | None = None) -> Verdict:
    path = tmp_path / "history.jsonl"
    kernel_history.write(parse(text), path, generation, quirks)
    with path.open("rb") as file:
        return check(History(file))


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_kernel_is_good_under_v11(name: str, tmp_path: Path) -> None:
    """Device and host at once: nothing broken, nothing unknown; departures of QEMU, and just the Q that it shows."""
    found = recorded(tmp_path, (KERNEL / f"{name}.txt").read_text(), "v11")
    assert not found.failed, "\n".join(summary(found))
    assert found.outcome == ("pass" if name == "A0_region_create" else "departure"), "\n".join(summary(found))
    assert {one for one in found.departures if one.startswith("Q") and one[1:2].isdigit()} == set(SHOWS.get(name, ()))
    assert not found.warnings
    hosts = {clause for (subject, _, clause), counts in found.counts.items() if subject == "host" and counts.passed}
    assert len(hosts) >= 5
    if name != "A0_region_create":
        assert found.of("DEV-4.whole").passed and found.of("DEV-10.extents").passed


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_kernel_is_not_another(name: str, tmp_path: Path) -> None:
    text = (KERNEL / f"{name}.txt").read_text()
    v10, sparse = OTHERWISE[name]
    found = recorded(tmp_path, text, "v10")
    assert convicted(found) - {"B28.order"} == v10
    assert {one.subject for one in found.failed} == {"host"}, "the device did nothing wrong"
    other = tmp_path / "sparse"
    other.mkdir()
    found = recorded(other, text, "A")
    assert convicted(found) & sparse, "\n".join(summary(found))
    assert {one.subject for one in found.failed} == {"host"}, "\n".join(summary(found))


@pytest.mark.parametrize("name", SHOWS)
def test_with_no_departure_granted_a_record_is_wrong(name: str, tmp_path: Path) -> None:
    found = recorded(tmp_path, (KERNEL / f"{name}.txt").read_text(), "v11", [])
    assert convicted(found) & {"B23.whole", "B5.surfaced", "B5.order"}


# By the device's own list and the block of the answer, and by the witnesses that disagree: the list is the device's.
BY_LIST = {"an extent less in the list": {"DEV-6.taken", "WITNESS.agree"}, "an extent that nobody took": {"DEV-6.left"}}


@pytest.mark.parametrize("row", FALSE, ids=[row[0] for row in FALSE])
def test_a_false_record_is_convicted_by_the_checker(row: list[str], tmp_path: Path) -> None:
    what, clause, name, verb, *words = row
    false = changed((KERNEL / f"{name}.txt").read_text(), verb, *words)
    found = recorded(tmp_path, false, "v11")
    clauses = {one.clause for one in found.failed}
    assert BY_LIST.get(what, {clause}) <= clauses, "\n".join(summary(found))


def test_an_inferred_answer_is_said_to_be_inferred(tmp_path: Path) -> None:
    row = next(row for row in FALSE if row[0] == "a live tag is taken")
    false = changed((KERNEL / f"{row[2]}.txt").read_text(), row[3], *row[4:])
    found = recorded(tmp_path, false, "v11")
    broken = next(one for one in found.failed if one.clause == "B6.live")
    assert "the kernel's log" in broken.evidence["inferred"] and broken.before["host"]["generation"] == "v11"


def test_lost_lines_are_unknown_not_a_pass(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    kernel_history.write(read("A1_untagged_add"), path, "v11")
    with path.open("rb") as file:
        reader = History(file)
        ops = list(reader)
    for f in ("log", "trace"):
        lossy = [op._replace(value={**op.value, "lost": 3}) if op.f == f and op.type == "ok" else op for op in ops]
        found = check(lossy, reader.header)
        assert found.outcome == "unknown" and not found.failed, "\n".join(summary(found))
        assert any("lost" in warning for warning in found.warnings)


def test_without_dynamic_debug_it_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    kernel_history.write(read("A1_untagged_add"), path, "v11")
    with path.open("rb") as file:
        reader = History(file)
        ops = list(reader)
    quiet = [op._replace(value={"lines": [], "lost": 0}) if op.f == "log" and op.type == "ok" else op for op in ops]
    found = check(quiet, reader.header)
    assert not [one for one in found.failed if one.clause.startswith("B5") or one.subject == "device"]
    assert any("dynamic debug" in warning for warning in found.warnings)


def test_without_dynamic_debug_log_and_trace_are_not_compared(tmp_path: Path) -> None:
    """Of ten records that the trace shows, such a log has one line: that they took too long."""
    path = tmp_path / "history.jsonl"
    kernel_history.write(read("A1_untagged_add"), path, "v11")
    with path.open("rb") as file:
        reader = History(file)
        ops = list(reader)
    line = {"t_ns": 1, "text": "cxl_pci 0000:0d:00.0: DC add chain timed out; refusing staged extents"}
    quiet = [op._replace(value={"lines": [line], "lost": 0}) if op.f == "log" and op.type == "ok" else op for op in ops]
    assert [one.clause for one in check(quiet, reader.header).failed] != []
    mute = reader.header._replace(host={**reader.header.host, "dynamic_debug": False})
    found = check(quiet, mute)
    assert found.failed == () and found.outcome == "unknown"


# ---- orders and unknown outcomes


def race(kind: str = "ok", *, kept: bool = True) -> tuple[Any, list[Op]]:
    """A claim that overlaps the handling of a release: it may have come first (kept) or second."""
    lines = Lines()
    world = world_of("v11", "region 0+1G; add 0+4M/a; release 0+4M/a")
    *before, release = world.told
    for step in before:
        write(lines, step, step.commands)
    claim = {"device": "mem0", "file": "uuid", "dax": "dax0.0", "text": "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"}
    number = lines.begin("user.mem0", "claim", claim)
    commands = tuple([one for one in release.commands if not kept or one.f != "give_back"])
    write(lines, release, commands)
    received = {"ok": {}, "fail": {"error": "-ENOENT"}, "info": {"reason": "the agent is silent"}}[kind]
    if kind != "open":
        lines.end(number, kind, received)
    return header("v11"), lines.ops


def test_a_claim_that_overlaps_a_release_may_be_first_or_second() -> None:
    for kind, kept in (("ok", True), ("fail", False), ("info", True), ("info", False)):
        head, ops = race(kind, kept=kept)
        found = check(ops, head, device=BLIND)
        assert not convicted(found), (kind, kept, *summary(found))
    for kind, kept, clauses in (("fail", True, {"B27.tag", "B23.whole"}), ("ok", False, {"B28.none", "B22.in-use"})):
        head, ops = race(kind, kept=kept)
        assert convicted(check(ops, head, device=BLIND)) & clauses, (kind, kept)


def test_a_claim_between_reading_and_clearing_may_be_first_or_second() -> None:
    """No line overlaps the claim, but the kernel handles records when it likes, until it clears them."""
    for kept, error in ((True, ""), (False, "-ENOENT")):
        lines = Lines()
        world = world_of("v11", "region 0+1G; add 0+4M/a; release 0+4M/a")
        *before, release = world.told
        for step in before:
            write(lines, step, step.commands)
        write(lines, release, ())
        claim = {"device": "mem0", "file": "uuid", "dax": "dax0.0", "text": "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"}
        lines.both("user.mem0", "claim", claim, "fail" if error else "ok", {"error": error} if error else {})
        at = len(lines.ops)
        write(lines, release, tuple([one for one in release.commands if not kept or one.f != "give_back"]))
        del lines.ops[at : at + 2]  # the records were read above
        lines.ops = [op._replace(n=n, op=op.op - 2 if op.op > at else op.op) for n, op in enumerate(lines.ops, 1)]
        found = check(lines.ops, header("v11"), device=BLIND)
        assert not convicted(found), "\n".join(summary(found))
        assert found.of("B22.in-use" if kept else "B23.each").passed


def test_an_answer_of_unknown_outcome_was_sent_all_the_same() -> None:
    for sent, clauses in (("answer 0+4M", set()), ("answer 8M+4M", {"B5.only", "B5.survivors"})):
        head, ops = history("v11", "region 0+1G; add 0+4M/a", sent=f"{sent}; clear; events")
        at = last(ops, "answer", "ok")
        ops[at] = ops[at]._replace(type="info", value={"reason": "no answer came"})
        found = check(ops, head, device=BLIND)
        assert convicted(found) == clauses, "\n".join(summary(found))
        assert found.of("DEV-9.answers").unknown == 1


def test_past_the_bounds_the_host_is_unknown() -> None:
    """Claims of unknown outcome double the states; equal ones are merged, and past the bound nothing is said."""
    lines = Lines()
    world = world_of("v11", "region 0+1G; " + "; ".join(f"add {8 * at}M+4M" for at in range(7)))
    for step in world.told:
        write(lines, step, step.commands)
    for at in range(7):
        lines.both("user.mem0", "claim", {"device": "mem0", "file": "create", "region": "region0", "text": "1"})
        claim = {"device": "mem0", "file": "uuid", "dax": f"dax0.{at}", "text": "0"}
        lines.both(f"user.{at}", "claim", claim, "info", {"reason": "no answer came"})
    value = {"region": "region0", "available": 7 * 4 * M}
    lines.both("witness", "sysfs", {"device": "mem0", "region": "region0"}, "ok", value)
    head = header("v11")
    wide = check(lines.ops, head, device=BLIND)
    assert not wide.failed, "\n".join(summary(wide))
    narrow = check(lines.ops, head, device=BLIND, limits=Limits(branches=2, tries=8, trail=16))
    assert narrow.outcome == "unknown" and any("orders are possible" in warning for warning in narrow.warnings)


def test_a_sight_in_the_middle_of_a_turn_may_be_before_or_after_it() -> None:
    world = world_of("v11", "region 0+1G; add 0+4M/a 8M+4M/a")
    *before, add = world.told
    states: dict[str, tuple[list[Value] | None, int]] = {"before": ([], 0), "after": (None, 8 * M)}
    for extents, available in states.values():
        lines = Lines()
        for step in before:
            write(lines, step, step.commands)
        write(lines, add, ())
        change: Value = {"available": available} if extents is None else {"available": available, "extents": extents}
        sight(lines, world.host, "region0", change)
        found = check(lines.ops, header("v11"), device=BLIND)
        assert not convicted(found), "\n".join(summary(found))


@settings(max_examples=120, deadline=None)
@given(plays)
def test_whatever_a_host_does_by_its_model_the_checker_finds_nothing(played: tuple[str, list[str], int]) -> None:
    """Random scripts: the history that the model makes is never convicted, as the generation that it is."""
    options, script, _ = played
    kept: list[str] = ["region 0+1G", "create region0"]
    for step in script:
        devices = [device.name for device in world_of(options.replace("lazy", ""), "; ".join(kept)).host.devices]
        words = step.split()
        if words[0] in ("claim", "size", "drive", "undrive") and words[1] not in devices:
            continue
        kept.append(step)
    found = judged(options.replace("lazy", "").strip(), "; ".join(kept))
    assert not convicted(found), ("; ".join(kept), *summary(found))


# ---- bad input


@pytest.mark.parametrize(
    ("f", "sent", "kind", "received", "says"),
    [
        ("claim", {"file": "uuids", "dax": "dax0.0", "text": "0"}, "ok", {}, "'file' of claim"),
        ("claim", {"file": "uuid", "dax": 7, "text": "0"}, "ok", {}, "the invoke of claim"),
        ("claim", {"file": "size", "dax": "dax0.0", "text": "many"}, "ok", {}, "the invoke of claim"),
        ("claim", {"file": "uuid", "dax": "dax0.0", "text": "0"}, "fail", {"error": "no"}, "the fail of claim"),
        ("use", {"what": "region", "region": "region0", "start": -1, "length": 0}, "ok", {}, "the invoke of use"),
        ("unuse", {"what": 3}, "ok", {}, "'what' of unuse"),
        ("sysfs", {}, "ok", {"available": 0}, "the ok of sysfs"),
        ("sysfs", {}, "ok", {"region": "region0", "extents": [{"name": "x"}]}, "the ok of sysfs"),
        ("trace", {}, "ok", {"events": [{"handle": 1}]}, "the ok of trace"),
        ("log", {}, "ok", {"lines": [{"t_ns": "1", "text": ""}]}, "the ok of log"),
        ("log", {}, "ok", {"lines": [], "lost": True}, "the ok of log"),
    ],
)
def test_a_value_that_cannot_be_is_named_by_its_line(
    f: str, sent: Value, kind: str, received: Value, says: str
) -> None:
    lines = Lines()
    lines.both("user.mem0", f, {"device": "mem0", **sent}, kind, received)
    with pytest.raises(BadHistory, match=says) as error:
        check(lines.ops, header("v11"), device=BLIND)
    assert "line 2" in str(error.value) or "line 3" in str(error.value)


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ({"generation": "v12"}, "v12"),
        ({"generation": 11}, "11"),
        ({"generation": "v11", "quirks": ["Q99"]}, "Q99"),
        ({"generation": "A", "quirks": ["Q7"]}, "Q7"),
        ({"generation": "v11", "quirks": "Q7"}, "quirks"),
        ({"generation": "v11", "pmd_bytes": -1}, "pmd_bytes"),
        ({"generation": "v11", "what_if": ["interleave"]}, "interleave"),
        ({"generation": "C", "what_if": ["extend-accepted"]}, "extend-accepted"),
        ({"generation": "v11", "regions": [{"device": "mem0"}]}, "host cannot be"),
        ({"generation": "v11", "regions": 5}, "host cannot be"),
    ],
)
def test_a_host_that_cannot_be_is_line_1(host: Value, says: str) -> None:
    head = header("v11")._replace(host=host)
    with pytest.raises(BadHistory, match=says) as error:
        check([], head, device=BLIND)
    assert "line 1" in str(error.value)


def test_regions_that_were_there_before_the_history() -> None:
    """As the second scenario on one guest begins: nothing is made, and extents come all the same."""
    world = world_of("v11", "region 0+1G; add 0+4M/a")
    lines = Lines()
    write(lines, world.told[-1], world.told[-1].commands)
    head = header("v11")
    assert "B12.region" in convicted(check(lines.ops, head, device=BLIND))
    there = {**head.host, "regions": [{"device": "mem0", "region": "region0", "start": 0, "length": G}]}
    found = check(lines.ops, head._replace(host=there), device=BLIND)
    assert not convicted(found) and found.of("B5.survivors").passed


def test_hosts_that_are_not_modelled_are_judged_by_the_offer_alone() -> None:
    for generation in ("U", None):
        head, ops = history("v11", "region 0+1G; add 0+4M/a")
        found = check(ops, head._replace(host={"generation": generation}), device=BLIND)
        assert not {clause for (subject, _, clause) in found.counts if subject == "host"}


# ---- the form of the lines


def test_the_schema_describes_what_a_kernel_host_writes(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    kernel_history.write(read("B1_tagged_add"), path, "v11")
    script = (
        f"{SHORT['$A2']}; claim dax0.0 a; drive dax0.0 kmem; undrive dax0.0; size dax0.0 0; unload; destroy region0"
    )
    head, ops = history("v11", script)
    lines = [*path.read_bytes().splitlines(), head.line(), *[op_line(op) for op in ops]]
    for line in lines:
        assert not list(SCHEMA.iter_errors(json.loads(line))), line
    seen = {json.loads(line).get("f") for line in lines}
    assert {"claim", "use", "unuse", "sysfs", "trace", "log", "fm_extents"} <= seen
    found = next(json.loads(line) for line in lines if b'"f":"claim"' in line)
    for wrong in ({"file": "uuids"}, {"dax": 3}, {"more": 1}):
        assert list(SCHEMA.iter_errors({**found, "value": {**found["value"], **wrong}})), wrong
