"""rules: the table is whole, and everything that the model can say is in it."""

from __future__ import annotations

import re
from pathlib import Path

import dcdbackend.model
from dcdbackend.history import FUNCTIONS
from dcdbackend.model.decide import BREACHES, REFUSALS
from dcdbackend.model.departures import DEPARTURES, applicable, worst_first
from dcdbackend.rules import CLAUSES, RULES, of_rule

MODEL = Path(dcdbackend.model.__file__).parent
_ID = re.compile(r'"((?:DEV-[0-9]+|WITNESS)\.[A-Za-z0-9-]+)"')


def test_every_device_rule_has_clauses() -> None:
    for number in range(1, 23):
        assert of_rule(f"DEV-{number}"), f"DEV-{number} has no clause"
    assert set(RULES) == {clause.rule for clause in CLAUSES.values()}


def test_every_clause_is_well_formed() -> None:
    for name, clause in CLAUSES.items():
        assert name == clause.id
        assert clause.rule in RULES
        assert name.startswith(f"{clause.rule}.")
        assert clause.kind in ("must", "may")
        assert clause.subject in ("device", "host", "manager", "witness")
        assert clause.text
        assert not clause.text.endswith(".")
        assert clause.source
        assert set(clause.witnesses) <= FUNCTIONS | {"header"}, name
    assert len({clause.text for clause in CLAUSES.values()}) == len(CLAUSES)


def test_a_clause_reads_well() -> None:
    assert str(CLAUSES["DEV-6.inside"]) == (
        "DEV-6.inside (must, host): each range of an answer lies inside one offered extent [CXL r3.1 8.2.9.9.9.3]"
    )
    assert [clause.id for clause in of_rule("DEV-8.16h")] == ["DEV-8.16h"]
    assert of_rule("DEV-99") == ()


def test_the_model_says_only_what_the_table_has() -> None:
    said = {name for path in MODEL.glob("*.py") for name in _ID.findall(path.read_text())}
    assert said <= set(CLAUSES), sorted(said - set(CLAUSES))


def test_refusals_are_the_devices_and_breaches_the_hosts() -> None:
    for faults in REFUSALS.values():
        for fault in faults.values():
            assert CLAUSES[fault.clause].subject == CLAUSES[fault.code_clause].subject == "device"
            assert fault.codes
    for rows in BREACHES.values():
        assert all(CLAUSES[clause].subject == "host" for _, clause, _ in rows)


def test_departures_break_clauses_of_the_table() -> None:
    for departure in DEPARTURES.values():
        assert departure.clause in CLAUSES
        assert CLAUSES[departure.clause].kind == "must"
        assert departure.severity == ("crash" if departure.clause == "DEV-9.alive" else "breach")


def test_departures_that_kill_the_device_are_told_first() -> None:
    told = worst_first(reversed(DEPARTURES))
    assert [DEPARTURES[name].severity for name in told] == ["crash"] * 5 + ["breach"] * (len(DEPARTURES) - 5)
    assert worst_first(["QEMU-log", "other", "QEMU-empty-answer"]) == ["QEMU-empty-answer", "QEMU-log", "other"]


def test_departures_go_by_version() -> None:
    gone = {"QEMU-available-pending"}  # 10.0 alone
    assert applicable("11.1.3 (Debian 1:11.1.3+ds-1)") == frozenset(DEPARTURES) - gone
    assert applicable("10.0") == applicable("10.0.2") == applicable("10.0.13") > gone
    assert applicable("10.0.2") - gone < applicable("10.1") == frozenset(DEPARTURES) - gone
    assert applicable("9.2.4") == applicable("8") == frozenset()  # never measured: whatever it shows is a finding
    assert applicable("unknown") == applicable("") == frozenset()
    assert applicable("11.2.0-rc1") == frozenset(DEPARTURES) - gone
