"""model/policy_drivers: generation C, both sides of every clause of it, and what happens beside them."""

from __future__ import annotations

import pytest
from host_notation import Case, check, play, table
from hypothesis import given, settings
from hypothesis import strategies as st

from dcdbackend.errors import AskedWrongly
from dcdbackend.linux_rules import CLAUSES, of_generation
from dcdbackend.model import host as model
from dcdbackend.model import observe, policy_drivers
from dcdbackend.model.generation import setup

MADE = "make region0 0+1G dc; program region0; make region1 2G+1G ram; program region1; make region2 3G+1G pmem; " \
    "program region2"  # fmt: skip
SHORT = {
    "$MADE": MADE,
    "$D": "lab dax",
    "$S": "lab sysram",
    "$X": "lab devdax",
    "$V": "lab virtio",
    "$A": "lab dax; add 0+4M/a 8M+4M/a",
    "$U": "lab sysram; policy region0 untagged 1; add 0+4M 8M+4M",
    "$ON": "lab sysram; policy region0 hotplug online; add 0+4M/a 8M+4M/a",
    "$TWO": "lab devdax; lab devdax region1 @mem0.1; add 0+4M/a",
    "$BOTH": "answer 0+4M 8M+4M",
}
# clause | options | given | hit | says | miss | says
_CASES = """\
C1.create | C | - | make region0 8G+1G dc | ! EINVAL | make region0 0+1G private | ! ENOENT
C1.create | C | $MADE | make region3 512M+1G dc | ! EBUSY | program region0 | -
C1.decoders | C | make region0 0+1G dc | bind region0 dax | ! ENXIO | program region0; bind region0 dax | read 0
C1.decoders | C | $D | program region0 | ! EBUSY | policy region0 tags_required 1 | -
C1.bound | C | $D | bind region0 sysram | ! EBUSY | policy region0 tags_required 1 | -
C1.bound | C | $MADE | unbind region0 | ! ENODEV | bind region0 dax | read 0
C1.allowed | C | $MADE | bind region0 pmem | ! ENOTSUPP | bind region0 dax | read 0
C1.undo | C | $MADE | bind region1 virtio | ! ENOTSUPP | bind region1 dax | -
C8.dc | C | $MADE | bind region0 region | ! ENOTSUPP | bind region1 dax | -
C8.ram | C | $MADE | bind region1 devdax | ! ENOTSUPP | bind region2 pmem | -
C8.pmem | C | $MADE | bind region2 sysram | ! ENOTSUPP | bind region1 sysram | -
C8.private | C | $MADE | make region3 1G+512M private | ! ENOENT | make region3 1G+512M dc | -
C8.private | C | $MADE | bind region0 private | ! ENOENT | bind region0 dax | read 0
C1.bare | C | $MADE | bind region0 dax | read 0 | bind region1 dax | -
C1.unprobed | C | $MADE | bind region1 sysram | - | bind region1 region | -
C9.auto | C | $MADE | bind region1 region | - | bind region1 dax | -
C1.selected | C | $MADE; bind region1 dax | drive dax1.0 kmem | ! ENODEV | drive dax1.0 device_dax | -
C1.probe | C | $MADE; bind region1 dax | drive dax1.0 device_dax | - | drive dax1.0 kmem | ! ENODEV
C1.controls | C | $D | policy region0 hotplug online | ! ENOENT | policy region0 tags_required 1 | -
C1.discovery | C | held 0+4M/a; $MADE; bind region0 dax | pages | - | page region0 0 0 | -
C1.region | C | make region0 0+1G dc; program region0 | add 0+4M/a | answer none |
    bind region0 dax; pages; add 0+4M/a | answer 0+4M
C1.inside | C | $D | add 0+4M 2M+4M | answer none | add 0+4M 8M+4M | $BOTH
C1.inside | C | $D | add 1022M+4M/a | answer none | add 1020M+4M/a | answer 1020M+4M
C1.answer | C | $D | add 0+4M | answer 0+4M | add 0+4M ... | -
C1.order | C | $D | add 0+4M/a 8M+4M/b 16M+4M/a | answer 0+4M 8M+4M 16M+4M | add 0+4M/a | answer 0+4M
C1.pages | C small | $D | add 0+2M 4M+2M 8M+2M 12M+2M 16M+2M | answer 0+2M 4M+2M 8M+2M 12M+2M more; answer 16M+2M |
    add 0+2M | answer 0+2M
C1.surfaced | C | $D | add 0+4M/a | answer 0+4M | add 2G+4M/a | answer none
C1.unheld | C | $A | release 0+4M/b | - | release 0+4M/a | give 0+4M; give 8M+4M
C1.unheld | C | $A | release 2G+4M/a | - | release 8M+4M/a | give 0+4M; give 8M+4M
C1.unbind | C | $A | unbind region0 | give 8M+4M; give 0+4M | reset | -
C2.whole | C | $S | add 0+4M/a 2G+4M/a | answer none | add 0+4M/a | answer 0+4M
C2.chain | C | $S | add 0+4M/a ... | - | add 0+4M/a | answer 0+4M
C2.live | C | $A | add 64M+4M/a | answer none | add 64M+4M/b | answer 64M+4M
C2.leave | C | $A | release 2M+2M/a | give 0+4M; give 8M+4M | release 0+4M/b | -
C2.in-use | C | $A; hold dax0.0 | release 0+4M/a | - | letgo dax0.0; release 0+4M/a | give 0+4M; give 8M+4M
C2.device | C | $S | add 0+4M/a | answer 0+4M | add 2G+4M/a | answer none
C2.uuid | C | $S | add 0+4M/a | answer 0+4M | add 2G+4M/a | answer none
C2.online | C | $S | add 0+4M/a | answer 0+4M | add 0+4M | answer none
C2.policy | C | $S | policy region0 hotplug online_movable | - | policy region0 untagged 1 | -
C2.policy | C | $ON | policy region0 hotplug offline | ! EBUSY | policy region0 untagged 1 | ! EBUSY
C2.atomic | C | $ON | hotplug dax0.0 offline | - | hold dax0.0 | -
C2.atomic | C | $ON; hold dax0.0 | hotplug dax0.0 offline | ! EBUSY | letgo dax0.0 | -
C3.optional | C | $S; policy region0 untagged 1 | add 0+4M | answer 0+4M | add 0+4M/a | answer 0+4M
C3.asked | C | $S | add 0+4M | answer none | add 0+4M/a | answer 0+4M
C3.direct | C | $S; policy region0 untagged 1 | add 0+4M | answer 0+4M | add 0+4M/a | answer 0+4M
C3.part | C | $U | release 0+4M | give 0+4M | release 64M+4M | -
C3.part | C | $U | release 0+2M | - | release 0+4M/a | -
C4.one-kind | C | $A | add 64M+4M | answer none | add 64M+4M/b | answer 64M+4M
C4.one-kind | C | $U | add 64M+4M/a | answer none | add 64M+4M | answer 64M+4M
C5.tag | C | $X | add 0+4M | answer none | add 0+4M ... | -
C5.tag | C | $X | policy region0 tags_required 0 | ! EOPNOTSUPP | policy region0 tags_required 1 | -
C5.unique | C | $TWO | add 64M+4M/a @mem0.1 | answer none | add 64M+4M/b @mem0.1 | answer 64M+4M
C5.unique | C | $TWO | add 64M+4M/a @mem0.1 | answer none | release 0+4M/a; add 64M+4M/a @mem0.1 | answer 64M+4M
C5.device | C | $X | add 0+4M/a | answer 0+4M | add 0+4M | answer none
C5.uuid | C | $X | add 0+4M/a | answer 0+4M | add 0+4M | answer none
C6.tag | C | $V | add 0+4M | answer none | release 0+4M | -
C6.each | C | $V | add 0+4M/a 2G+4M/a | answer 0+4M | add 0+4M | answer none
C6.each | C | $V; add 0+4M/a 8M+4M/a | release 8M+4M/a | give 8M+4M | release 64M+4M/a | -
C6.device | C | $V; policy region0 dax 1 | add 0+4M/a | answer 0+4M | add 2G+4M/a | answer none
C6.smallest | C | $V; policy region0 min_extent 4194304 | add 0+2M/a | answer none | add 0+4M/a | answer 0+4M
C6.never-sysram | C | $V; policy region0 dax 1; add 0+4M/a | drive dax0.0 kmem | ! EOPNOTSUPP |
    drive dax0.0 device_dax | ! ENODEV
C7.tag | C | $D; policy region0 tags_required 1 | add 0+4M | answer none | add 0+4M/a | answer 0+4M
C7.tag | C | $U | policy region0 tags_required 1 | ! EBUSY | policy region0 untagged 0 | ! EBUSY
"""
CASES = [Case(*row) for row in table(_CASES, SHORT)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.clause}-{case.hit[:30]}")
def test_both_sides_of_a_clause(case: Case) -> None:
    check(case)


def test_every_clause_of_it_is_shown() -> None:
    own = {clause.id for clause in of_generation("C") if clause.rule.startswith("C")}
    assert {case.clause for case in CASES} == own - {"C6.vm"}, "a tag that names a VM looks like any other"


def test_a_bad_bind_may_end_either_way_and_leaves_nothing() -> None:
    before = play("C", MADE).host
    permitted = model.decide(before, model.BindRegion("region0", "pmem"))
    assert {way.error for way in permitted} == {"-EOPNOTSUPP", "-ENOTSUPP"}
    assert all(way.after == before for way in permitted)


def test_what_a_mode_allows_is_said_once() -> None:
    for mode, drivers in policy_drivers.ALLOWED.items():
        region = {"dc": "region0", "ram": "region1", "pmem": "region2"}[mode]
        for driver in policy_drivers.DRIVERS:
            says = play("C", f"{MADE}; bind {region} {driver}").says
            assert (says in ("", "read 0")) == (driver in drivers), (mode, driver, says)


def test_what_sysfs_shows_of_each_policy() -> None:
    shown = {
        "dax": ("device_dax", None, 1),
        "devdax": ("device_dax", None, 1),
        "sysram": ("kmem", "offline", 1),
        "virtio": (None, None, 0),
    }
    for driver, (dax_driver, hotplug, count) in shown.items():
        world = play("C", f"lab {driver}; add 0+4M/a 8M+4M/a")
        seen = observe.look(world.host, "region0")
        assert len(seen.devices) == count and seen.mode == "dc" and len(seen.extents or ()) == 2
        for device in seen.devices:
            assert (device.driver, device.hotplug, device.size) == (dax_driver, hotplug, 8 << 20)
            assert device.uuid == "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"
        assert observe.judge(world.host, seen).findings == ()


def test_memory_comes_as_the_policy_says_and_goes_with_its_set() -> None:
    world = play("C", "lab sysram; policy region0 hotplug online_movable; add 0+4M/a; add 64M+4M/b")
    assert [device.hotplug for device in world.host.devices] == ["online_movable"] * 2
    world = play("C", "release 0+4M/a", world)
    assert [device.name for device in world.host.devices] == ["dax0.1"]
    for step, says in (
        ("hotplug dax0.1 online", "! EBUSY"),
        ("hotplug dax0.1 sideways", "! EINVAL"),
        ("hotplug dax0.1 offline; hotplug dax0.1 online", ""),
        ("hotplug dax0.1 offline; hold dax0.1", "! ENXIO"),
        ("hold dax0.1; undrive dax0.1", "! EBUSY"),
        ("undrive dax0.1; hotplug dax0.1 online", "! ENXIO"),
        ("undrive dax0.1; undrive dax0.1", "! ENODEV"),
        ("letgo dax0.1", "! EINVAL"),
        ("policy region0 hotplug sideways", "! EINVAL"),
        ("claim dax0.1 a", "! ENOENT"),
        ("size dax0.1 0", "! ENOENT"),
        ("create region0", "! ENOENT"),
    ):
        assert play("C", step, world).says == says, step


def test_a_region_changes_its_kind_when_it_is_empty() -> None:
    world = play("C", "lab dax; add 0+4M; release 0+4M")
    assert play("C", "add 64M+4M/a", world).says == "answer 64M+4M"


def test_a_shared_allocation_is_the_same_on_both_hosts() -> None:
    """Sharable: the same extents under the same tag are no second allocation."""
    world = play("C sharable", "lab devdax; lab devdax region1 @mem0.1; add 0+4M/a")
    assert play("C sharable", "add 0+4M/a @mem0.1", world).says == "answer 0+4M"
    assert play("C sharable", "add 64M+4M/a @mem0.1", world).says == "answer none"


def test_discovery_takes_whole_sets_and_begins_again_when_the_list_changes() -> None:
    world = play("C", f"held 0+4M/a 8M+4M/a 2G+4M/b; {MADE}; bind region0 devdax; pages")
    assert [device.size for device in world.host.devices if device.region == "region0"] == [8 << 20]
    world = play("C", f"{MADE}; bind region0 devdax; page region0 2 0 0+4M/a")
    assert world.says == "read 1"
    world = play("C", "page region0 2 1 8M+4M/a", world)
    assert world.says == "read 0"
    for _ in range(20):
        if world.host.region("region0").scan is None:
            break
        world = play("C", "page region0 2 2 0+4M/a; page region0 2 3", world)
    assert world.host.region("region0").scan is None, "it ends"


def test_it_sends_nothing_for_what_it_does_not_know() -> None:
    world = play("C", "lab dax; add 0+4M/a")
    for step in ("forced 0+4M/a", "kind3 0+4M", "kind9 0+4M", "foreign 0+4M"):
        assert play("C", step, world).says in ("", "! EINVAL"), step


def test_no_tag_no_service_is_every_drivers() -> None:
    """C7 as a file, or as a switch: the same refusal, by another clause."""
    for driver in ("dax", "sysram"):
        world = play("C no-tag-no-service", f"lab {driver}; add 0+4M")
        assert world.says == "answer none" and "WHAT-IF.no-tag-no-service" in world.judged
    assert play("C no-tag-no-service", "lab dax; policy region0 tags_required 0").says == "! EOPNOTSUPP"


NAMES = ("a", "b", "")
SPANS = ("0+4M", "2M+4M", "8M+4M", "1022M+4M", "2G+4M")
steps = st.one_of(
    st.builds(
        lambda spans, tag, tail: "add " + " ".join([f"{span}/{tag}" if tag else span for span in spans]) + tail,
        st.lists(st.sampled_from(SPANS), min_size=1, max_size=3, unique=True),
        st.sampled_from(NAMES),
        st.sampled_from(("", "", " ...")),
    ),
    st.builds(
        lambda span, tag: f"release {span}/{tag}" if tag else f"release {span}",
        st.sampled_from(SPANS),
        st.sampled_from(NAMES),
    ),
    st.sampled_from(
        ("hold dax0.0", "letgo dax0.0", "undrive dax0.0", "drive dax0.0 kmem", "hotplug dax0.0 offline",
         "hotplug dax0.0 online", "unbind region0", "bind region0 sysram; pages", "bind region0 devdax; pages",
         "policy region0 untagged 1", "policy region0 hotplug online", "forced 0+4M", "kind9 0+4M")
    ),
)  # fmt: skip
PLAYS = st.tuples(
    st.sampled_from(("C", "C release-remembered", "C no-tag-no-service", "C sharable small")),
    st.sampled_from(("dax", "sysram", "virtio", "devdax")),
    st.lists(steps, max_size=8),
)


def kept(options: str, driver: str, script: list[str]) -> str:
    """The steps that name only what is there."""
    done = f"lab {driver}"
    for step in script:
        names = {device.name for device in play(options, done).host.devices}
        if "dax0.0" not in step or "dax0.0" in names:
            done = f"{done}; {step}"
    return done


@settings(max_examples=150, deadline=None)
@given(PLAYS)
def test_whatever_happens_a_set_is_whole(played: tuple[str, str, list[str]]) -> None:
    """Every device has whole extents; a region is of one kind; no tag lives twice; what the device holds is known."""
    world = play(played[0], kept(*played))
    host = world.host
    sets: dict[tuple[str, bytes], set[int]] = {}
    for extent in host.extents:
        sets.setdefault((extent.memdev, extent.tag), set()).add(extent.group)
    if host.regions and host.regions[0].driver != "virtio":
        assert all(len(groups) == 1 for (_, tag), groups in sets.items() if any(tag))
    for device in host.devices:
        pieces = {piece.age: piece.length for piece in device.mapped}
        assert all(one.length == pieces[one.age] for one in host.extents if one.age in pieces)
    assert len({any(extent.tag) for extent in host.extents}) <= 1
    known = sorted([(one.start, one.length) for one in host.extents])
    assert known == sorted([(one.start, one.length) for one in world.held])
    assert set(world.judged) <= set(CLAUSES)


def test_what_a_proposal_cannot_have() -> None:
    for name in ("extend-accepted", "map-to-extents", "untagged-partial-claim", "one-untagged-per-group", "interleave"):
        with pytest.raises(AskedWrongly, match=f"generation C cannot have what-if '{name}'"):
            setup("C", what_if=[name])
    assert all(clause.generations for clause in CLAUSES.values())
