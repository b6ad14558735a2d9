"""Witnesses held against each other (WITNESS.lists): what is compared, what is a finding, and what is neither."""

from __future__ import annotations

from typing import Any

import pytest

from dcdbackend.checker import Verdict, check
from dcdbackend.checker.explain import tell
from dcdbackend.checker.notation import header
from dcdbackend.history import Op
from dcdbackend.wire.dcd import WireExtent

MIB = 1 << 20
TAG = "11" * 16
NULL = "00" * 16


def entry(dpa: int, length: int = 2 * MIB, tag: str = NULL, sequence: int = 0) -> dict[str, Any]:
    return {"dpa": dpa, "length": length, "tag": tag, "sequence": sequence}


class Told:
    """A history made of what was said, whether a device could say it or not."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    def begin(self, f: str, **sent: Any) -> int:
        n = len(self.ops) + 1
        process = {"fm_extents": "witness", "block": "witness2"}.get(f, f"user.{f}")
        self.ops.append(Op(n, n, process, "invoke", f, n, {"device": "mem0", **sent}))
        return n

    def end(self, op: int, kind: str = "ok", **received: Any) -> None:
        began = self.ops[op - 1]
        n = len(self.ops) + 1
        self.ops.append(Op(n, op, began.process, kind, began.f, n, received))

    def page(self, f: str, *entries: dict[str, Any], start: int = 0, total: int | None = None) -> None:
        host = {"host_id": 0} if f == "fm_extents" else {}
        op = self.begin(f, count=50, start=start, **host)
        self.end(op, rc=0, total=len(entries) if total is None else total, generation=0, extents=list(entries))

    def block(self, dpa: int, state: str) -> None:
        self.end(self.begin("block", region=0, offset=dpa, length=2 * MIB), state=state)

    def verdict(self) -> Verdict:
        return check(self.ops, header())

    @property
    def counts(self) -> tuple[int, int]:
        found = self.verdict().of("WITNESS.lists")
        return found.passed, found.failed


@pytest.fixture
def told() -> Told:
    return Told()


def test_lists_that_agree_agree(told: Told) -> None:
    told.page("extents", entry(0), entry(4 * MIB))
    told.page("fm_extents", entry(4 * MIB), entry(0))
    told.block(4 * MIB, "accepted")
    told.block(8 * MIB, "free")
    assert told.counts == (3, 0)


def test_a_list_that_lacks_an_extent_is_a_finding_that_names_the_witnesses_and_shows_their_bytes(told: Told) -> None:
    told.page("extents", entry(0), entry(4 * MIB, tag=TAG, sequence=3))
    told.page("fm_extents", entry(0))
    verdict = told.verdict()
    (found,) = [one for one in verdict.failed if one.clause == "WITNESS.lists"]
    assert found.subject == "witness" and found.lines == (1, 2, 3, 4)
    assert "4801h, by the host, alone shows [0x400000+2M tag 1111.. seq 3]" in found.text
    assert "5603h, by the fabric manager, alone shows nothing" in found.text
    wire = WireExtent(start=4 * MIB, length=2 * MIB, tag=bytes.fromhex(TAG), sequence=3).to_bytes().hex()
    assert found.evidence["witnesses"]["extents"]["bytes"] == [wire]
    assert found.evidence["witnesses"]["fm_extents"] == {"entries": 1, "bytes": []}
    assert any("fm_extents from 0" in line for line in tell(found))


@pytest.mark.parametrize("change", [{"length": 4 * MIB}, {"tag": TAG}, {"sequence": 1}, {"dpa": 2 * MIB}])
def test_every_field_counts(told: Told, change: dict[str, Any]) -> None:
    told.page("fm_extents", entry(0))
    told.page("extents", {**entry(0), **change})
    assert told.counts == (0, 1)


@pytest.mark.parametrize(("state", "dpa"), [("free", 0), ("pending", 2 * MIB), ("accepted", 4 * MIB)])
@pytest.mark.parametrize("first", ["block", "list"])
def test_a_block_state_that_contradicts_the_list(told: Told, first: str, state: str, dpa: int) -> None:
    if first == "block":
        told.block(dpa, state)
    told.page("fm_extents", entry(0, 4 * MIB))
    if first == "list":
        told.block(dpa, state)
    assert told.counts == (0, 1)
    (found,) = [one for one in told.verdict().failed if one.clause == "WITNESS.lists"]
    assert f"the block state at 0x{dpa:x} is {state}" in found.text
    assert found.evidence["witnesses"]["block"]["received"] == {"state": state}


def test_pages_are_put_together(told: Told) -> None:
    told.page("extents", entry(0), start=0, total=2)
    told.page("extents", entry(4 * MIB), start=1, total=2)
    told.page("fm_extents", entry(0), entry(4 * MIB))
    assert told.counts == (1, 0)


def test_half_a_list_is_not_compared(told: Told) -> None:
    told.page("extents", entry(0), start=0, total=2)
    told.page("fm_extents", entry(0), entry(4 * MIB))
    told.page("extents", entry(4 * MIB), start=2, total=2)
    assert told.counts == (0, 0)


def test_what_a_command_may_have_changed_meanwhile_is_not_compared(told: Told) -> None:
    told.page("extents", entry(0))
    told.end(told.begin("give_back", flags=0, ranges=[[0, 2 * MIB]]), rc=0)
    told.page("fm_extents")
    assert told.counts == (0, 0)
    told.page("extents")
    assert told.counts == (1, 0)


def test_a_command_that_is_open_forbids_comparing(told: Told) -> None:
    told.page("extents", entry(0))
    op = told.begin("give_back", flags=0, ranges=[[0, 2 * MIB]])
    told.page("extents", entry(0))
    told.page("fm_extents")
    assert told.counts == (0, 0)
    told.end(op, "info", reason="no answer")
    told.page("extents", entry(0))
    told.page("fm_extents")
    assert told.counts == (0, 0)


def test_an_entry_of_no_length_is_no_extent(told: Told) -> None:
    told.page("extents", entry(0), entry(0, 0), total=1)
    told.page("fm_extents", entry(0))
    assert told.counts == (1, 0)


def test_another_hosts_list_is_another_list(told: Told) -> None:
    told.page("extents", entry(0))
    op = told.begin("fm_extents", count=50, start=0, host_id=1)
    told.end(op, rc=0, total=0, generation=0, extents=[])
    assert told.counts == (0, 0)
