"""The table of the Linux rules is whole: each clause says for whom it is, who can see it and where it comes from."""

from __future__ import annotations

from dcdbackend import rules
from dcdbackend.linux_rules import CLAUSES, GROUPS, RULES, SPARSE, TAGGED, of_generation
from dcdbackend.model.generation import GENERATIONS

WITNESSES = {"answer", "give_back", "clear", "events", "extents", "block", "sysfs", "log", "claim"}
PERMISSIONS = {
    "A2.driver", "A3.bound", "A4.unchecked", "A5.again", "A7.order", "A14.any", "B3.unbounded", "B4.unbounded",
    "B10.unchecked", "B13.driver", "B13.unloaded", "B15.duplicate", "B18.apart", "B28.adds", "L3.several",
}  # fmt: skip


def test_every_row() -> None:
    assert not set(CLAUSES) & set(rules.CLAUSES)
    for name, clause in CLAUSES.items():
        assert clause.id == name and clause.rule in RULES and clause.subject == "host"
        assert clause.text and clause.source.startswith("Linux DCD series ")
        assert clause.generations and set(clause.generations) <= set(GENERATIONS)
        assert set(clause.witnesses) <= WITNESSES, name
        assert (clause.kind == "may") == (name in PERMISSIONS), name
    assert {clause.rule for clause in CLAUSES.values()} == set(RULES)


def test_generations() -> None:
    assert set(GENERATIONS) == {*SPARSE, *TAGGED}
    for name in GENERATIONS:
        letters = {clause.rule[0] for clause in of_generation(name)}
        assert letters == {"A": {"L", "A"}, "B-rfc": {"L", "A", "B"}}.get(name, {"L", "B"})
    assert of_generation("C") == ()
    assert {clause.id for clause in of_generation("B-rfc") if clause.rule.startswith("A")} == {
        "A14.any",
        "A14.available",
        "A14.create",
        "A14.uuid",
    }
    assert set(GROUPS["L"]) == set(GENERATIONS)


def test_numbers_of_the_rules() -> None:
    """L1 to L5, A1 to A17 but for A12 and A13, B1 to B33 but for B24: the numbers that the rules have."""
    numbers = [*[f"L{n}" for n in range(1, 6)], *[f"A{n}" for n in range(1, 18)], *[f"B{n}" for n in range(1, 34)]]
    assert list(RULES) == [number for number in numbers if number not in ("A12", "A13", "B24")]


def test_a_clause_reads_well() -> None:
    assert str(CLAUSES["B6.live"]) == (
        "B6.live (must, host): a group is dropped when its tag is live on this host [Linux DCD series v11 19/31]"
    )
