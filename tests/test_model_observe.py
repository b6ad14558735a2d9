"""What is seen of a host: the model's own look is good in every generation, and any change to it is convicted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from host_notation import play

from dcdbackend.linux_rules import CLAUSES
from dcdbackend.model.generation import GENERATIONS
from dcdbackend.model.observe import SeenDax, SeenExtent, SeenMapping, Sight, inferred, judge, look

M = 1 << 20
CLAIMED = "region 0+1G; add 0+4M/a 16M+4M/a 8M+4M; claim dax0.0 a"
SIZED = "region 0+1G; add 0+4M; add 8M+4M; size dax0.0 6M"
Change = Callable[[Sight], Sight]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_own_look_is_good(generation: str) -> None:
    world = play(generation, SIZED if GENERATIONS[generation].claim == "size" else CLAIMED)
    found = judge(world.host, look(world.host, "region0"))
    assert found.findings == () and len(found.judged) >= 5
    assert all(generation in CLAUSES[clause].generations for clause in found.judged)
    assert judge(world.host, Sight("region0")) == ((), ())


def extents(change: Callable[[tuple[SeenExtent, ...]], tuple[SeenExtent, ...]]) -> Change:
    return lambda sight: sight._replace(extents=change(sight.extents or ()), names=None)


def dax(**new: Any) -> Change:
    return lambda sight: sight._replace(devices=(sight.devices[0]._replace(**new), *sight.devices[1:]))


def mappings(change: Callable[[tuple[SeenMapping, ...]], tuple[SeenMapping, ...]]) -> Change:
    return lambda sight: dax(mappings=change(sight.devices[0].mappings or ()))(sight)


CHANGES: list[tuple[str, Change]] = [
    ("B1.mode", lambda sight: sight._replace(mode="dynamic_ram_a")),
    ("B5.surfaced", extents(lambda seen: seen[1:])),
    ("B5.surfaced", extents(lambda seen: (*seen, SeenExtent("extent0.9", 64 * M, 2 * M)))),
    ("B5.surfaced", extents(lambda seen: (seen[0]._replace(offset=2 * M), *seen[1:]))),
    ("B5.surfaced", extents(lambda seen: (seen[0]._replace(length=2 * M), *seen[1:]))),
    ("B5.surfaced", extents(lambda seen: (seen[0]._replace(uuid=None), *seen[1:]))),
    ("B5.surfaced", extents(lambda seen: (seen[0]._replace(uuid="nonsense"), *seen[1:]))),
    ("B5.surfaced", lambda sight: sight._replace(extents=None, names=("extent0.1", "extent0.2"))),
    ("B31.available", lambda sight: sight._replace(available=8 * M)),
    ("B30.one", lambda sight: sight._replace(all_devices=("dax0.0", "dax0.1"))),
    ("B30.one", lambda sight: sight._replace(all_devices=())),
    ("B27.reads", dax(uuid="00000000-0000-0000-0000-000000000000")),
    ("B30.sum", dax(size=4 * M)),
    ("B30.one", mappings(lambda seen: seen[:1])),
    ("B30.one", mappings(lambda seen: (seen[0]._replace(start=seen[0].start + 4096), seen[1]))),
    ("B27.sequence", mappings(lambda seen: seen[::-1])),
    (
        "B27.sequence",
        mappings(lambda seen: (seen[1]._replace(page_offset=0), seen[0]._replace(page_offset=1024))),
    ),
]


@pytest.mark.parametrize(("clause", "change"), CHANGES, ids=[f"{at}-{row[0]}" for at, row in enumerate(CHANGES)])
def test_any_change_is_convicted(clause: str, change: Change) -> None:
    host = play("v11", CLAIMED).host
    found = judge(host, change(look(host, "region0")))
    assert {one.clause for one in found.findings} == {clause}
    assert clause not in found.judged


def test_number_of_an_extent_is_not_judged() -> None:
    """Q11: it may be any."""
    host = play("v11", CLAIMED).host
    sight = look(host, "region0")
    renamed = [extent._replace(name=f"extent0.{at}") for at, extent in enumerate(sight.extents or ())]
    assert judge(host, sight._replace(extents=tuple(renamed))).findings == ()
    assert judge(host, sight._replace(extents=tuple(renamed[::-1]))).findings == ()


def test_what_a_gate_dropped_is_blamed_on_the_gate() -> None:
    world = play("v11", "region 0+1G; add 0+4M/a 64M+4M/a 2G+4M/a; add 8M+4M/a")
    sight = look(world.host, "region0")
    more = sight._replace(extents=(*(sight.extents or ()), SeenExtent("extent0.9", 8 * M, 4 * M)), available=None)
    (found,) = judge(world.host, more._replace(names=None), world.dropped).findings
    assert found.clause == "B6.live"


def test_seed_of_size_zero() -> None:
    """B27.zero: a seed that has a size already."""
    host = play("v11", "region 0+1G").host
    seen = Sight("region0", devices=(SeenDax("dax0.0", size=2 * M),))
    assert [one.clause for one in judge(host, seen).findings] == ["B27.zero"]
    assert judge(host, Sight("region0", devices=(SeenDax("dax9.9", size=2 * M),))).findings == ()


def test_inferred() -> None:
    """New ranges are one answer in their order, gone ones a release each; an answer of none where a chain closed."""
    one, two, three = (0, 4 * M), (8 * M, 4 * M), (64 * M, 4 * M)
    shown = [(command.f, command.ranges) for command in inferred("mem0", [one, two], [two, three], closed=True)]
    assert shown == [("give_back", (one,)), ("answer", (three,))]
    assert [(command.f, command.ranges) for command in inferred("mem0", [one], [one], closed=True)] == [("answer", ())]
    assert inferred("mem0", [one], [one], closed=False) == ()
