"""The table of the Linux rules is whole: each clause says for whom it is, who can see it and where it comes from."""

from __future__ import annotations

from dcdbackend import rules
from dcdbackend.linux_rules import CLAUSES, GROUPS, POLICY, RULES, SPARSE, TAGGED, WHAT_IF, of_generation
from dcdbackend.model.generation import EVERY, GENERATIONS, PROPOSED, WHAT_IFS

WITNESSES = {"answer", "give_back", "clear", "events", "extents", "block", "sysfs", "log", "claim"}
PERMISSIONS = {
    "A2.driver", "A3.bound", "A4.unchecked", "A5.again", "A7.order", "A14.any", "B3.unbounded", "B4.unbounded",
    "B10.unchecked", "B13.driver", "B13.unloaded", "B15.duplicate", "B18.apart", "B28.adds", "C3.optional", "C6.vm",
    "L3.several",
}  # fmt: skip


def test_every_row() -> None:
    assert not set(CLAUSES) & set(rules.CLAUSES)
    for name, clause in CLAUSES.items():
        assert clause.id == name and clause.rule in RULES and clause.subject == "host"
        assert clause.text and clause.source.startswith("Linux DCD series")
        assert clause.generations and set(clause.generations) <= set(EVERY)
        assert set(clause.witnesses) <= WITNESSES, name
        assert (clause.kind == "may") == (name in PERMISSIONS), name
    assert {clause.rule for clause in CLAUSES.values()} == set(RULES)


def test_generations() -> None:
    assert set(GENERATIONS) == {*SPARSE, *TAGGED} and set(PROPOSED) == {*POLICY}
    for name in EVERY:
        letters = {clause.rule[0] for clause in of_generation(name)}
        assert letters == {"A": {"L", "A"}, "B-rfc": {"L", "A", "B"}, "C": {"L", "C"}}.get(name, {"L", "B"})
    assert of_generation("U") == ()
    assert {clause.id for clause in of_generation("B-rfc") if clause.rule.startswith("A")} == {
        "A14.any",
        "A14.available",
        "A14.create",
        "A14.uuid",
    }
    assert set(GROUPS["L"]) == set(EVERY)


def test_each_what_if_is_a_clause_of_the_generations_that_can_have_it() -> None:
    clauses = {clause.id: clause for clause in CLAUSES.values() if clause.rule == WHAT_IF}
    assert set(clauses) == {f"{WHAT_IF}.{name}" for name in WHAT_IFS}
    for name, row in WHAT_IFS.items():
        assert clauses[f"{WHAT_IF}.{name}"].generations == row.generations, name
        assert {generation for generation, _ in row.others} == set(EVERY) - set(row.generations), name


def test_numbers_of_the_rules() -> None:
    """L1 to L5, A1 to A17 but for A12 and A13, B1 to B33 but for B24, C1 to C9: the numbers that the rules have."""
    numbers = [*[f"L{n}" for n in range(1, 6)], *[f"A{n}" for n in range(1, 18)], *[f"B{n}" for n in range(1, 34)]]
    numbers += [f"C{n}" for n in range(1, 10)]
    assert list(RULES) == [*[number for number in numbers if number not in ("A12", "A13", "B24")], WHAT_IF]


def test_a_clause_reads_well() -> None:
    assert str(CLAUSES["B6.live"]) == (
        "B6.live (must, host): a group is dropped when its tag is live on this host [Linux DCD series v11 19/31]"
    )
