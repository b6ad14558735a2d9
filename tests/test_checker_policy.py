"""checker: hosts of generation C, and what-if switches: each must convicted by a wrong host, held by a good one.

The same table as test_checker_host has for L, A and B: what nobody can see is listed as such, and is never green.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from host_history import BLIND, convicted, history, judged
from host_notation import table
from hypothesis import given, settings
from test_checker_host import Wrong, turned
from test_model_policy_drivers import CASES, PLAYS, SHORT, kept
from test_model_tagged import A2, TWO

from dcdbackend.checker import check
from dcdbackend.checker.explain import summary
from dcdbackend.linux_rules import CLAUSES, NOT_JUDGED, WHAT_IF, of_generation
from dcdbackend.model.generation import EVERY, WHAT_IFS

Value = dict[str, Any]

# clause | options | script | what is sent in the last step
_SENT = """\
C1.discovery | C | held 0+4M/a; $MADE; bind region0 dax; pages | answer 0+4M
C1.region | C | make region0 0+1G dc; program region0; add 0+4M/a | answer 0+4M; clear; events
C1.inside | C | $D; add 0+4M 1022M+4M | answer 1022M+4M; clear; events
C1.answer | C | $D; add 0+4M | answer none; clear; events
C1.answer | C | $D; add 0+4M | answer 0+4M 8M+4M; clear; events
C1.order | C | $D; add 0+4M/a 8M+4M/b | answer 8M+4M 0+4M; clear; events
C1.pages | C small | $D; add $5 | answer $5; clear; events
C1.unheld | C | $A; release 0+4M/b | give 0+4M; clear; events
C1.unheld | C | $A; release 64M+4M/a | give 64M+4M; clear; events
C1.unbind | C | $A; unbind region0 | give 8M+4M
C2.whole | C | $S; add 0+4M/a 2G+4M/a | answer 0+4M; clear; events
C2.chain | C | $S; add 0+4M/a ... | answer 0+4M; clear; events
C2.live | C | $A; add 64M+4M/a | answer 64M+4M; clear; events
C2.leave | C | $A; release 0+4M/a | give 0+4M; clear; events
C2.leave | C | $A; release 0+4M/a | clear; events
C2.in-use | C | $A; hold dax0.0; release 0+4M/a | give 0+4M; give 8M+4M; clear; events
C3.asked | C | $S; add 0+4M | answer 0+4M; clear; events
C3.part | C | $U; release 0+4M | give 0+4M; give 8M+4M; clear; events
C3.part | C | $U; release 0+2M | give 0+4M; clear; events
C4.one-kind | C | $A; add 64M+4M | answer 64M+4M; clear; events
C4.one-kind | C | $U; add 64M+4M/a | answer 64M+4M; clear; events
C5.tag | C | $X; add 0+4M | answer 0+4M; clear; events
C5.unique | C | $TWO; add 64M+4M/a @mem0.1 | answer 64M+4M; clear; events
C6.tag | C | $V; add 0+4M | answer 0+4M; clear; events
C6.each | C | $V; add 0+4M/a 8M+4M/a; release 0+4M/a | give 0+4M; give 8M+4M; clear; events
C6.smallest | C | $V; policy region0 min_extent 4194304; add 0+2M/a | answer 0+2M; clear; events
C7.tag | C | $D; policy region0 tags_required 1; add 0+4M | answer 0+4M; clear; events
WHAT-IF.no-tag-no-service | C no-tag-no-service | $D; add 0+4M | answer 0+4M; clear; events
WHAT-IF.no-tag-no-service | v11 no-tag-no-service | $R; add 0+4M | answer 0+4M; clear; events
WHAT-IF.one-untagged-per-group | v11 one-untagged-per-group | $R; add 0+4M 8M+4M; release 0+4M |
    give 0+4M; give 8M+4M; clear; events
WHAT-IF.release-remembered | v11 release-remembered | $B; claim dax0.0 a; release 0+4M/a; size dax0.0 0 | -
WHAT-IF.release-remembered | v11 release-remembered | $B; claim dax0.0 a; release 0+4M/a; size dax0.0 0 | give 0+4M
WHAT-IF.release-remembered | A release-remembered | $R; add 0+4M; size dax0.0 2M; release 0+4M; size dax0.0 0 | -
WHAT-IF.release-remembered | C release-remembered | $A; hold dax0.0; release 0+4M/a; letgo dax0.0 | -
WHAT-IF.extend-accepted | v11 extend-accepted | $B; add 12M+4M/a | answer none; clear; events
WHAT-IF.extend-accepted | A extend-accepted | $R; add 0+4M; add 2M+4M | answer none; clear; events
"""
_SHORT = {
    **SHORT,
    "$5": "0+2M 4M+2M 8M+2M 12M+2M 16M+2M",
    "$B": A2,
    "$R": "region 0+1G",
    "$I": "make region0 0+1G ways; bind region0; pages",
}
SENT = [Wrong(row[0], row[1], row[2], sent=row[3]) for row in table(_SENT, _SHORT)]

# clause | options | script | what the last write gives
_GIVES = """\
C1.create | C | make region0 8G+1G dc | ok
C1.decoders | C | make region0 0+1G dc; bind region0 dax | ok
C1.bound | C | $D; bind region0 sysram | ok
C1.allowed | C | $MADE; bind region0 pmem | -EINVAL
C1.undo | C | $MADE; bind region0 pmem; bind region0 dax | -EBUSY
C8.dc | C | $MADE; bind region0 region | ok
C8.ram | C | $MADE; bind region1 virtio | ok
C8.pmem | C | $MADE; bind region2 sysram | ok
C8.private | C | make region0 0+1G private | ok
C1.selected | C | $MADE; bind region1 dax; drive dax1.0 kmem | ok
C1.probe | C | $MADE; bind region1 dax; drive dax1.0 device_dax | -ENODEV
C1.controls | C | $D; policy region0 hotplug online | ok
C2.policy | C | $ON; policy region0 hotplug offline | ok
C2.policy | C | $S; policy region0 hotplug online_movable | -EINVAL
C2.atomic | C | $ON; hold dax0.0; hotplug dax0.0 offline | ok
C5.tag | C | $X; policy region0 tags_required 0 | ok
C6.smallest | C | $V; policy region0 min_extent many | ok
C6.never-sysram | C | $V; policy region0 dax 1; add 0+4M/a; drive dax0.0 kmem | ok
C7.tag | C | $U; policy region0 tags_required 1 | ok
WHAT-IF.untagged-partial-claim | v11 untagged-partial-claim | $R; add 0+4M; size dax0.0 2M | -EOPNOTSUPP
WHAT-IF.untagged-partial-claim | v11 untagged-partial-claim | $R; add 0+4M; size dax0.0 8M | ok
WHAT-IF.map-to-extents | v11 map-to-extents | $R; add 0+4M; choose dax0.0 0 | -ENOENT
WHAT-IF.map-to-extents | A map-to-extents | $R; add 0+4M; choose dax0.0 8M | ok
"""
GIVES = [Wrong(row[0], row[1], row[2], error="" if row[3] == "ok" else row[3]) for row in table(_GIVES, _SHORT)]


def shown(clause: str, script: str, change: Any, options: str = "C") -> Wrong:
    """A host whose sysfs shows something else: parts of it, or of its first DAX device."""
    for name, meaning in sorted(_SHORT.items(), reverse=True):
        script = script.replace(name, meaning)
    return Wrong(clause, options, script, change=change)


def one(name: str = "dax0.0", **values: Any) -> Value:
    """A DAX device of which only this is shown."""
    return {"devices": [{"name": name, **values}]}


SHOWN = [
    shown("C1.create", "$D", {"mode": "ram"}),
    shown("C1.bare", "$D", {"all_devices": ["dax0.0"]}),
    shown("C1.undo", "make region0 0+1G dc; program region0; bind region0 pmem", {"all_devices": ["dax0.0"]}),
    shown("C1.unprobed", "$MADE; bind region1 dax", one("dax1.0", driver="device_dax", has_driver=True)),
    shown("C1.probe", "$MADE; bind region1 dax; drive dax1.0 device_dax", one("dax1.0", driver=None, has_driver=False)),
    shown("C9.auto", "$MADE; bind region1 region", one("dax1.0", driver=None, has_driver=False)),
    shown("C9.auto", "$MADE; bind region1 region", one("dax1.0", hotplug="offline")),
    shown("C1.surfaced", "$A", {"extents": []}),
    shown("C2.device", "$ON", {"all_devices": []}),
    shown("C2.device", "$ON", one(size=4 << 20)),
    shown("C2.uuid", "$ON", one(uuid="00000000-0000-0000-0000-000000000000")),
    shown("C2.online", "$ON", one(hotplug="offline")),
    shown("C3.direct", "$U", {"all_devices": ["dax0.0"]}),
    shown("C5.device", "lab devdax; add 0+4M/a 8M+4M/a", {"all_devices": ["dax0.0", "dax0.1"]}),
    shown("C5.uuid", "lab devdax; add 0+4M/a 8M+4M/a", one(uuid="bbbbbbbb-bbbb-bbbb-bbbb-bbbbbbbbbbbb")),
    shown("C6.device", "lab virtio; policy region0 dax 1; add 0+4M/a 8M+4M/a", {"all_devices": ["dax0.0"]}),
    shown(
        "WHAT-IF.interleave", "$I; add 0+4M",
        {"extents": [{"name": "extent0.0", "offset": 0, "length": 8 << 20, "uuid": None}]}, "A interleave",
    ),
    shown("WHAT-IF.interleave", "$I; add 0+4M; add 0+4M @mem1", {"extents": []}, "A interleave"),
    shown(
        "WHAT-IF.map-to-extents", "$R; add 0+4M; add 8M+4M; choose dax0.0 8M 0",
        one(mappings=turned([[(1 << 40) + (8 << 20), (1 << 40) + (12 << 20) - 1, 0],
                             [1 << 40, (1 << 40) + (4 << 20) - 1, 1024]])),
        "v11 map-to-extents",
    ),
]  # fmt: skip
WRONG = [*SENT, *GIVES, *SHOWN]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda row: f"{row.clause}-{row.options}-{row.script[-30:]}")
def test_a_wrong_host_is_convicted_by_its_clause(wrong: Wrong) -> None:
    found = wrong.verdict()
    assert wrong.clause in convicted(found), "\n".join(summary(found))
    right = judged(wrong.options, wrong.script)
    assert not convicted(right), "\n".join(summary(right))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.clause}-{case.hit[:30]}")
def test_a_good_host_is_not_convicted(case: Any) -> None:
    for step in (case.hit, case.miss):
        found = judged(case.options, f"{case.given}; {step}".removeprefix("; "))
        assert not convicted(found), "\n".join(summary(found))
        assert not [name for name, counts in found.counts.items() if counts.unknown]


@settings(max_examples=100, deadline=None)
@given(PLAYS)
def test_whatever_a_host_does_by_its_model_the_checker_finds_nothing(played: tuple[str, str, list[str]]) -> None:
    script = kept(*played)
    found = judged(played[0], script)
    assert not convicted(found), (script, *summary(found))


def test_every_observable_must_of_c_and_of_the_switches_is_convicted_once_and_held_once() -> None:
    wanted = [clause for clause in of_generation("C") if clause.rule.startswith("C")]
    wanted += [clause for clause in CLAUSES.values() if clause.rule == WHAT_IF]
    passes: set[str] = set()
    for options, script in [
        (case.options, f"{case.given}; {step}") for case in CASES for step in (case.hit, case.miss)
    ]:
        found = judged(options, script.removeprefix("; "))
        passes |= {clause for (_, _, clause), counts in found.counts.items() if counts.passed}
    for switch in SWITCHED:
        found = judged(f"{switch.options} {switch.name}", switch.script)
        passes |= {clause for (_, _, clause), counts in found.counts.items() if counts.passed}
    musts = {clause.id for clause in wanted if clause.kind == "must" and clause.witnesses}
    assert musts - {row.clause for row in WRONG} == set()
    assert musts - passes == set()
    assert {clause.id for clause in wanted if not clause.witnesses} == {"C6.vm"} < set(NOT_JUDGED)
    assert not set(NOT_JUDGED) & passes, "what nobody can see is never green"


def test_what_c_permits_is_not_convicted() -> None:
    """C3.optional: to take untagged extents as memory, and not to, are both right, as its own file says."""
    for script in ("lab sysram; add 0+4M", "lab sysram; policy region0 untagged 1; add 0+4M"):
        assert not convicted(judged("C", script))
    assert judged("C", "lab sysram; policy region0 untagged 1; add 0+4M").of("C3.optional").passed


# ---- the switches: what changes by the switch alone


class Switched(NamedTuple):
    """What a switch changes: the same script on the same host, with it and without."""

    name: str
    options: str
    script: str


SWITCHED = [
    Switched("untagged-partial-claim", "v11", "region 0+1G; add 0+4M; size dax0.0 2M"),
    Switched("untagged-partial-claim", "v10", "region 0+1G; add 0+4M 8M+4M; size dax0.0 6M"),
    Switched("one-untagged-per-group", "v11", f"{TWO}; release 0+4M"),
    Switched("release-remembered", "v11", f"{A2}; claim dax0.0 a; release 0+4M/a; size dax0.0 0"),
    Switched("release-remembered", "A", "region 0+1G; add 0+4M; size dax0.0 2M; release 0+4M; size dax0.0 0"),
    Switched("release-remembered", "C", "lab devdax; add 0+4M/a 8M+4M/a; hold dax0.0; release 0+4M/a; letgo dax0.0"),
    Switched("extend-accepted", "v11", f"{A2}; add 12M+4M/a"),
    Switched("extend-accepted", "v11", "region 0+1G; add 0+4M; add 2M+4M"),
    Switched("extend-accepted", "A", "region 0+1G; add 4M+4M; add 0+12M"),
    Switched("map-to-extents", "v11", f"{TWO}; choose dax0.0 8M 0"),
    Switched("map-to-extents", "A", "region 0+1G; add 0+4M; add 8M+4M; choose dax0.0 8M"),
    Switched("interleave", "A", "make region0 0+1G ways; bind region0; pages; add 0+4M; add 0+4M @mem1"),
    Switched("no-tag-no-service", "v11", "region 0+1G; add 0+4M 8M+4M/a"),
    Switched("no-tag-no-service", "C", "lab dax; add 0+4M"),
]


@pytest.mark.parametrize("row", SWITCHED, ids=lambda row: f"{row.name}-{row.options}-{row.script[-20:]}")
def test_the_verdict_changes_by_the_switch_alone(row: Switched) -> None:
    """What a host with it does is wrong by a judge without it, and the other way round; each is right by its own."""
    for made, other in (((row.name,), ()), ((), (row.name,))):
        head, ops = history(" ".join([row.options, *made]), row.script)
        own = check(ops, head, device=BLIND)
        assert not convicted(own), "\n".join(summary(own))
        assert (f"{WHAT_IF}.{row.name}" in {name for (_, _, name), counts in own.counts.items() if counts.passed}) == (
            made == (row.name,)
        )
        head = head._replace(host={**head.host, "what_if": list(other)})
        found = check(ops, head, device=BLIND)
        assert convicted(found), "\n".join(summary(found))


def test_switches_combine() -> None:
    """Three at once, on one host: each does its own."""
    options = "v11 release-remembered map-to-extents one-untagged-per-group"
    script = f"{TWO}; choose dax0.0 8M; release 8M+4M; release 0+4M; size dax0.0 0; add 0+4M; choose dax0.0 0"
    found = judged(options, script)
    assert not convicted(found)
    passed = {name for (_, _, name), counts in found.counts.items() if counts.passed and name.startswith(WHAT_IF)}
    assert passed == {f"{WHAT_IF}.{name}" for name in options.split()[1:]}


def test_every_switch_is_shown_on_every_kind_that_can_have_it() -> None:
    kinds = {(row.name, EVERY[row.options].kind) for row in SWITCHED}
    assert kinds == {(name, EVERY[one].kind) for name, row in WHAT_IFS.items() for one in row.generations}
