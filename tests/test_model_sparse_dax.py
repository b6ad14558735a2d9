"""Host generation A by clause: for each, what triggers it and what happens, and a near miss where it does not.

The notation, and how a row reads, are those of `test_model_tagged`. What A leaves open (the order of an answer, which
of two extents that overlap is taken) is tested over seeds and against brute force.
"""

from __future__ import annotations

from itertools import pairwise, permutations
from typing import NamedTuple

import pytest
from host_notation import Case, check, do, play, spell, table, told
from hypothesis import given, settings
from hypothesis import strategies as st

from dcdbackend.errors import AskedWrongly
from dcdbackend.linux_rules import of_generation
from dcdbackend.model import host as model
from dcdbackend.model import observe, sparse_dax
from dcdbackend.model.host import Claim
from dcdbackend.model.observe import Sight, judge
from dcdbackend.model.permitted import Command, Range, choose, clash, hold

# clause | options | given | hit | says | miss | says then   (`-` is nothing; an indented line goes on with the row)
_TABLE = """\
L1.before-clear | A | $R | add 0+4M | answer 0+4M | add 0+4M ... | -
L1.clears | A | $R | foreign 0+4M | - | tick 1 | -
L1.until-empty | A | $R | foreign 0+4M | - | tick 1 | -
L2.foreign | A | $R | foreign 0+4M | - | add 0+4M | answer 0+4M
L2.kinds | A | $R | kind3 0+4M | ! EINVAL | kind9 0+4M | ! EINVAL
L2.unread | A | $R | add 0+4M | answer 0+4M | tick 1 | -
L3.several | A | make region0 0+1G | make region1 1G+1G | - | make region1 0+1G | ! EBUSY
L4.alone | A | $ONE | release 0+4M ... | give 0+4M | release 0+4M | give 0+4M
L5.forced | A | $ONE | forced 0+4M | - | release 0+4M | give 0+4M
L5.unknown | A | $R | kind9 0+4M | ! EINVAL | kind3 0+4M | ! EINVAL
A2.region | A | - | add 0+4M | answer none | region 0+1G; add 0+4M | answer 0+4M
A2.driver | A no-driver | $R | add 0+4M | answer 0+4M | load; add 0+4M | answer 0+4M
A3.more | A | $R | add 0+4M ... | - | forced 0+4M | -
A3.together | A | $R; add 0+4M ... | add 0+4M | answer 0+4M 0+4M | tick 1 | -
A3.bound | A | $R; add 0+4M ... | tick 3600 | - | add 0+4M | answer 0+4M 0+4M
A4.sequence | A | $R | add 0+4M#1 | answer none | add 0+4M | answer 0+4M
A4.tag | A | $R | add 0+4M/a | answer none | add 0+4M | answer 0+4M
A4.partition | A | $R | add 4G+4M | answer none | add 0+4M | answer 0+4M
A4.partition | A | $R | add 4094M+4M | answer none | add 1020M+4M | answer 1020M+4M
A4.region | A | $R | add 2G+4M | answer none | add 1020M+4M | answer 1020M+4M
A4.decoder | A | $R | add 1022M+4M | answer none | add 1020M+4M | answer 1020M+4M
A4.overlap | A | $ONE | add 2M+4M | answer none | add 4M+4M | answer 4M+4M
A4.order | A | $R | add 4G+4M/a#1 | answer none | add 0+4M | answer 0+4M
A4.unchecked | A | $R | add 0+1M | answer 0+1M | add 0+2M | answer 0+2M
A5.again | A | $ONE | add 0+4M | answer 0+4M | add 4M+4M | answer 4M+4M
A5.again | A | $ONE | add 1M+1M | answer 1M+1M | add 3M+2M | answer none
A5.again | A | $ONE | add 1M+0 | answer 1M+0 | add 8M+0 | give 8M+0; answer none
A6.left-out | A | $R | add 0+4M 4G+4M | answer 0+4M | add 0+4M ... | -
A6.none | A | $R | add 4G+4M | answer none | add 0+4M | answer 0+4M
A6.failed | A | $R; fault dax | add 0+4M | give 0+4M; answer none | fault; add 0+4M | answer 0+4M
A6.failed | A | $R | add 8M+0 | give 8M+0; answer none | add 8M+1M | answer 8M+1M
A7.order | A | $R | add 0+4M | answer 0+4M | tick 1 | -
A8.one | A | $R | add 0+4M | answer 0+4M | add 0+4M/a | answer none
A9.read | A | make region0 0+1G | bind region0 | read 0 | load | -
A9.unanswered | A | held 0+4M; make region0 0+1G; bind region0 | pages | - | page region0 0 0 | -
A9.restart | A | $BOUND; page region0 2 0 0+4M | page region0 2 1 8M+4M | read 0 | page region0 2 0 8M+4M | -
A10.acknowledge | A | - | release 0+4M | give 0+4M; ! ENXIO | region 0+1G; release 0+4M | -
A11.overlap | A | $TWO | release 2M+8M | give 0+4M; give 8M+4M | release 2G+4M | give 2G+4M; ! ENXIO
A11.in-use | A | $TWO; size dax0.0 4M | release 0+12M | give 8M+4M | size dax0.0 0; release 8M+4M | give 8M+4M
A11.whole | A | $ONE | release 1M+1M | give 0+4M | release 0+4M | give 0+4M
A14.any | A | $TWO | size dax0.0 6M | - | size dax0.0 1M | ! EINVAL
A14.any | B-rfc | $TWO | size dax0.0 6M | - | size dax0.0 10M | ! ENOSPC
A14.available | A | $TWO | size dax0.0 10M | ! ENOSPC | size dax0.0 0 | -
A14.create | A | $R | create region0 | ! ENOSPC | add 0+4M; create region0 | -
A15.destroy | A | $TWO; size dax0.0 8M | destroy region0 | give 8M+4M; give 0+4M | reset | -
A15.destroy | A | $TWO | unbind region0 | give 8M+4M; give 0+4M | release 0+4M | give 0+4M
A15.unload | A | $TWO | unload | give 8M+4M; give 0+4M | unbind region0 | give 8M+4M; give 0+4M
A16.release | A | $ONE | release 0+4M | give 0+4M | release 64M+4M | -
A16.online | A | $R | add 0+4M | answer 0+4M | add 0+4M/a | answer none
A17.scan | A no-driver | $R; add 0+4M | load | - | unload | -
"""
SHORT = {
    "$R": "region 0+1G",
    "$ONE": "region 0+1G; add 0+4M",
    "$TWO": "region 0+1G; add 0+4M; add 8M+4M",
    "$BOUND": "make region0 0+1G; bind region0",
}
R, ONE, TWO = SHORT["$R"], SHORT["$ONE"], SHORT["$TWO"]
CASES = [Case(*row) for row in table(_TABLE, SHORT)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.clause}-{case.options}")
def test_clause(case: Case) -> None:
    check(case)


# ---- clauses that a row cannot show ----------------------------------------------------------------------------------


def test_order_of_the_tests() -> None:
    """A4.order: an extent that fails several tests is refused by the first of them; take that away, by the next."""
    world = play("A", ONE)
    extents = ["4095M+4M/a#1", "4095M+4M/a", "4095M+4M", "2G+4M", "1022M+4M", "2M+4M"]
    clauses = []
    for text in extents:
        refused = play("A", f"add {text}", world)
        clauses.append(refused.dropped[-1].clause)
    assert clauses == ["A4.sequence", "A4.tag", "A4.partition", "A4.region", "A4.decoder", "A4.overlap"]


def test_pages() -> None:
    """A6.pages: five ranges where four fit; four in one answer."""
    world = play("A small", f"{R}; add 0+2M 4M+2M 8M+2M 12M+2M 16M+2M")
    assert [command.flags for command in world.commands if command.f == "answer"] == [1, 0]
    assert "A6.pages" in world.judged and world.says.count("+2M") == 5
    assert "A6.pages" not in play("A small", f"{R}; add 0+2M 4M+2M 8M+2M 12M+2M").judged


def test_any_order() -> None:
    """A7.order: every order is chosen by some seed, and every order is permitted."""
    world = play("A", f"{R}; add 0+4M 8M+4M 16M+4M")
    chosen = {choose(world.permitted, seed)[1][0].ranges for seed in range(200)}
    ranges = [(0, 4 << 20), (8 << 20, 4 << 20), (16 << 20, 4 << 20)]
    assert chosen == set(permutations(ranges))
    for order in permutations(ranges):
        assert hold(world.permitted, [Command("answer", "mem0", order)], seen=("answer",))[1] == ()


def test_wrap_passes() -> None:
    """A4.unchecked: the partition test is blind for an extent that wraps to its own start; DAX is not (A6.failed)."""
    text = "add 8M+0xfffffffffffffc00"
    assert play("A", f"{R}; {text}").says.startswith("give 8M+")
    assert "A4.unchecked" in play("A no-driver", f"{R}; {text}").judged


def test_shared_extent() -> None:
    """A14.any: two devices share an extent, one spans two, one shrinks; A14.available counts what is free."""
    world = play("A", f"{TWO}; create region0; size dax0.0 2M; size dax0.1 4M")
    assert [(piece.at, piece.length) for piece in world.host.device("dax0.1").mapped] == [
        (2 << 20, 2 << 20),
        (0, 2 << 20),
    ]
    assert world.host.available("region0") == 2 << 20
    assert play("A", "release 0+4M 8M+4M", world).says == ""
    smaller = play("A", "size dax0.1 2M; release 8M+4M", world)
    assert smaller.says == "give 8M+4M" and smaller.host.available("region0") == 0
    again = play("A", "size dax0.0 0; size dax0.0 2M", smaller)
    assert [(piece.at, piece.length) for piece in again.host.device("dax0.0").mapped] == [(0, 2 << 20)]


def test_no_uuid_file() -> None:
    """A14.uuid: there is none to write, and a sight that has one is wrong."""
    world = play("A", ONE)
    assert model.decide(world.host, Claim("dax0.0", "0"))[0].error == "-ENOENT"


def test_mode() -> None:
    """A1.mode, A1.first: dynamic_ram_a; what lies past the first partition is refused."""
    world = play("A", R)
    assert not judge(world.host, Sight("region0", mode="dynamic_ram_a")).findings
    (found,) = judge(world.host, Sight("region0", mode="dynamic_ram_1")).findings
    assert found.clause == "A1.mode"
    assert play("A", "add 4G+4M", world).dropped[-1].clause == "A4.partition"


def test_region_at_the_start() -> None:
    """L3.start: an extent is in the region at its start, at its offset there."""
    world = play("A", "region 0+1G; region 1G+1G; add 1032M+4M")
    assert [(one.region, one.offset >> 20) for one in world.host.extents] == [("region1", 8)]


def test_inside_order() -> None:
    """A16: caches before a 4803h, and before an extent comes online."""

    def acts(script: str) -> list[str]:
        way = play("A", script).way
        assert way is not None
        return [what for what, _ in way.acts]

    assert acts(ONE) == ["invalidate", "online", "answer"]
    assert acts(f"{ONE}; release 0+4M") == ["test-use", "invalidate", "give_back"]
    assert acts(f"{ONE}; unload") == ["invalidate", "give_back"]


ELSEWHERE = {
    "L1.only": "test_wrong_answer",
    "L3.start": "test_region_at_the_start",
    "A1.first": "test_mode",
    "A1.mode": "test_mode",
    "A6.pages": "test_pages",
    "A14.uuid": "test_no_uuid_file",
}


def test_every_clause_is_shown() -> None:
    assert all(name in globals() for name in ELSEWHERE.values())
    shown = {case.clause for case in CASES} | set(ELSEWHERE)
    assert shown == {clause.id for clause in of_generation("A")}


def test_an_interleaved_extent_is_there_when_each_device_has_brought_its_share() -> None:
    """What-if interleave: two shares of 4M at one place are one extent of 8M, used and kept together."""
    world = play("A interleave", "make region0 0+1G ways; bind region0; pages; add 0+4M")
    assert world.says == "answer 0+4M" and not observe.look(world.host, "region0").extents
    assert play("A interleave", "size dax0.0 4M", world).says == "! ENOSPC"
    world = play("A interleave", "add 0+4M @mem1", world)
    seen = observe.look(world.host, "region0")
    assert [(one.offset, one.length) for one in seen.extents or ()] == [(0, 8 << 20)] and seen.available == 8 << 20
    assert play("A interleave", "size dax0.0 6M", world).says == "! EINVAL"
    world = play("A interleave", "size dax0.0 4M", world)
    (device,) = observe.look(world.host, "region0").devices
    assert device.size == 4 << 20
    assert [(one.start - (1 << 40), one.end - one.start + 1) for one in device.mappings or ()] == [(0, 4 << 20)]
    world = play("A interleave", "size dax0.0 8M; size dax0.0 4M", world)
    assert observe.look(world.host, "region0").available == 4 << 20
    assert play("A interleave", "release 0+4M @mem1", world).says == "", "one device uses both shares"
    world = play("A interleave", "size dax0.0 0; release 0+4M @mem1", world)
    assert world.says == "give 0+4M" and not observe.look(world.host, "region0").extents
    assert [one.memdev for one in world.host.extents] == ["mem0"], "the other share is still the host's"


# ---- extents of one chain that overlap each other --------------------------------------------------------------------


def brute_force(ranges: list[Range]) -> set[tuple[Range, ...]]:
    """What may be taken, over every order in which a kernel could look at them: sorted."""
    return {tuple(sorted(clash(order))) for order in permutations(ranges)}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5)), min_size=2, max_size=5, unique=True))
def test_clashes_are_just_those_of_some_order(places: list[tuple[int, int]]) -> None:
    """The set that `hold` accepts is the set that some order gives; what is chosen is in it, and settles so."""
    ranges = [(at << 20, length << 20) for at, length in places]
    world = play("A", R)
    events = tuple(
        [model.Event(0, start, length, more=at < len(ranges) - 1) for at, (start, length) in enumerate(ranges)]
    )
    records = model.Records("mem0", events)
    permitted = model.decide(world.host, records)
    possible = brute_force(ranges)
    for bits in range(1 << len(ranges)):
        named = tuple([pair for at, pair in enumerate(ranges) if bits >> at & 1])
        found = hold(permitted, [Command("answer", "mem0", named)], seen=("answer",))[1]
        assert (tuple(sorted(named)) in possible) == (found == ()), (named, found)
    for seed in range(5):
        way, commands = choose(permitted, seed)
        after = model.settle(world.host, records, way, commands)
        online = sorted([(one.start, one.end) for one in after.extents])
        assert all(one[1] <= other[0] for one, other in pairwise(online))
        named = commands[0].ranges
        assert tuple(sorted(named)) in possible
        assert all(any(start <= pair[0] and pair[0] + pair[1] <= end for start, end in online) for pair in named)


def test_settle_of_what_is_not_open() -> None:
    world = play("A", R)
    with pytest.raises(AskedWrongly, match="leaves nothing open"):
        sparse_dax.settle(world.host, model.Reset(), ())
    with pytest.raises(AskedWrongly, match="no scan under way"):
        play("A", "page region0 0 0", world)


def test_scan_gives_up() -> None:
    """A9.restart: after its tries the region comes up with what it has."""
    turns = "; ".join(["page region0 9 0 0+4M; page region0 9 1 0+4M"] * 11)
    world = play("A", f"make region0 0+1G; bind region0; {turns}")
    assert world.says == "! EAGAIN" and [one.start for one in world.host.extents] == [0]


# ---- given answers ---------------------------------------------------------------------------------------------------


class Wrong(NamedTuple):
    """What a host sends that it must not, and the clause that convicts it."""

    clause: str
    given: str
    step: str
    sent: str


_WRONG = """\
A3.more | $R | add 0+4M ... | answer 0+4M; clear; events
A3.more | $R; add 0+4M ... | tick 30 | answer none
A4.tag | $R | add 0+4M/a | answer 0+4M; clear; events
A4.sequence | $R | add 0+4M#1 | answer 0+4M; clear; events
A4.partition | $R | add 4G+4M | answer 4G+4M; clear; events
A4.region | $R | add 2G+4M | answer 2G+4M; clear; events
A4.decoder | $R | add 1022M+4M | answer 1022M+4M; clear; events
A4.overlap | $ONE | add 2M+4M | answer 2M+4M; clear; events
A2.region | - | add 0+4M | answer 0+4M; clear; events
A6.left-out | $R | add 0+4M 8M+4M | answer 0+4M; clear; events
A6.left-out | $R | add 0+4M | answer 0+4M 64M+4M; clear; events
A6.left-out | $ONE | add 0+4M | answer none; clear; events
A6.none | $R | add 4G+4M | clear; events
A6.failed | $R; fault dax | add 0+4M | answer none; clear; events
A6.failed | $R; fault dax | add 0+4M | give 0+4M; answer 0+4M; clear; events
A10.acknowledge | - | release 0+4M | clear; events
A11.in-use | $ONE; size dax0.0 2M | release 0+4M | give 0+4M; clear; events
A11.whole | $ONE | release 1M+1M | give 1M+1M; clear; events
A11.whole | $TWO | release 0+16M | give 0+4M; clear; events
A9.unanswered | held 0+4M; $BOUND | page region0 1 0 0+4M | answer 0+4M
A15.unload | $TWO | unload | give 0+4M
L1.before-clear | $R | add 0+4M | clear; answer 0+4M; events
L1.only | $ONE | tick 1 | give 0+4M
L5.forced | $ONE | forced 0+4M | give 0+4M; clear; events
"""
WRONG = [Wrong(*row) for row in table(_WRONG, SHORT)]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong.clause}-{wrong.sent}")
def test_wrong_answer(wrong: Wrong) -> None:
    world = play("A", f"{wrong.given}; {wrong.step}")
    _, found = hold(world.permitted, told(wrong.sent, world))
    assert wrong.clause in [one.clause for one in found], found
    assert hold(world.permitted, world.commands)[1] == ()


# ---- properties ------------------------------------------------------------------------------------------------------

extents = st.builds(
    "{}M+{}M{}".format,
    st.integers(0, 20) | st.sampled_from([1022, 2048, 4095]),
    st.integers(1, 6),
    st.sampled_from(["", "", "", "/a", "#1"]),
)
chains = st.lists(extents, min_size=1, max_size=4).map(" ".join)
steps = st.one_of(
    st.builds("add {}".format, chains),
    st.builds("add {} ...".format, chains),
    st.builds("release {}".format, chains),
    st.builds("size dax0.0 {}M".format, st.integers(0, 8).map(lambda number: 2 * number)),
    st.sampled_from(["create region0", "unload", "load"]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=12), st.integers(0, 1 << 32))
def test_any_play(script: list[str], seed: int) -> None:
    world = play("A", f"{R}; create region0")
    for step in script:
        if step.startswith("size") and not world.host.devices:
            continue
        before = world
        world = do(world, step)
        for way in world.permitted:
            assert {clause for clause in way.judged} <= {clause.id for clause in of_generation("A")}
            for expected in way.plan:
                assert not {pair for pair, _ in expected.refused} & {*expected.ranges, *expected.clashing}
        way, commands = choose(world.permitted, seed)
        assert hold(world.permitted, commands)[1] == (), [spell(command) for command in commands]
        held = {(one.start, one.length) for one in before.host.extents}
        for command in commands:
            if command.f == "give_back" and not {"A10.acknowledge", "A6.failed"} & set(way.judged):
                assert set(command.ranges) <= held, "DEV-7.held"
        online = sorted([(one.start, one.end) for one in world.host.extents])
        assert all(one[1] <= other[0] for one, other in pairwise(online))
        assert world.host.available("region0") >= 0
