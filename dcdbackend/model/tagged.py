"""Host generation B: tagged allocations (the RFC of 2026-04, v10, v11, and a draft after it).

A chain of records is staged until More is clear; then its extents are grouped by tag, each group passes the group
gates and its members the extent gates, what is left appears whole or not at all, and one answer names it (B2 to B18).
A release takes a whole group or nothing (B19 to B23). Extents that the device holds when a region comes up are read
from its list (B25, B26). What differs between the series is in the row `generation`; DAX devices are in `claims`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import AskedWrongly
from ..extents import NULL_TAG
from . import claims
from .host import (
    ADD,
    DAX_DRIVER,
    BindRegion,
    Cause,
    Choose,
    Claim,
    Create,
    DestroyRegion,
    Draft,
    Event,
    LoadDriver,
    Memdev,
    Online,
    Page,
    Records,
    Region,
    Resize,
    Scan,
    Tick,
    UnbindRegion,
    UnloadDriver,
    forget,
    near,
    new_parts,
    next_id,
    read_again,
    read_on,
    remember,
    seed_device,
    simple,
)
from .permitted import Decision, Expected, Range, contains, overlaps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .host import Host
    from .permitted import Permitted

NO_FAULTS: frozenset[str] = frozenset()


def decide(host: Host, cause: Cause) -> Permitted:
    """What a kernel of generation B may do now; two ways where its timer may have fired or not (B3)."""
    if isinstance(cause, Records | Tick):
        due = host.memdev(cause.memdev).deadline_ns
        if due is None or cause.now_ns < due:
            return (_at(host, cause, False),)
        if cause.now_ns >= due + host.setup.slack_ns:
            return (_at(host, cause, True),)
        return (_at(host, cause, True), _at(host, cause, False))
    decision = simple(host, cause)
    return (decision or _CAUSES[type(cause)](host, cause),)


def _at(host: Host, cause: Records | Tick, fired: bool) -> Decision:
    draft = Draft(host)
    if fired:
        _expire(draft, cause.memdev)
    if isinstance(cause, Records):
        _records(draft, cause, fired)
    after = draft.host.memdev(cause.memdev)
    limited = after.deadline_ns is not None
    if after.staged:
        draft.judge("B2.close", "B3.early" if limited else "B3.unbounded")
        draft.silent.append(("answer", "B3.early" if limited and isinstance(cause, Tick) else "B2.close"))
    elif limited:
        draft.silent.append(("answer", "B3.early"))
    return draft.done()


# ---- records and chains ---------------------------------------------------------------------------------------------


def _expire(draft: Draft, name: str) -> None:
    """B3: the chain that was not closed in time is refused, and forgotten."""
    memdev = draft.host.memdev(name)
    draft.judge("B3.expiry", *(() if memdev.staged else ("B4.armed",)))
    for event in memdev.staged:
        draft.drop(memdev, event, "B3.expiry")
    _answer(draft, memdev, (), "B3.expiry" if memdev.staged else "B4.armed", memdev.staged)
    draft.host = draft.host.with_memdev(memdev._replace(staged=(), deadline_ns=None, excess=False))


def _answer(draft: Draft, memdev: Memdev, ranges: tuple[Range, ...], clause: str, offered: Sequence[Event]) -> None:
    """One 4802h that names these of what was offered."""
    why = {(one.extent.start, one.extent.length): one.clause for one in draft.dropped}
    pairs = [(event.start, event.length) for event in offered]
    refused = tuple([(pair, why.get(pair, clause)) for pair in dict.fromkeys(pairs) if pair not in ranges])
    if len(ranges) > memdev.most_ranges:
        draft.judge("B5.pages")
    draft.act("answer", f"{len(ranges)} of {len(offered)}")
    draft.plan.append(
        Expected(
            "answer",
            memdev.name,
            clause,
            ranges,
            "B5.order",
            refused=refused,
            other="B5.only",
            pages="B5.pages",
            most=memdev.most_ranges,
        )
    )


def _records(draft: Draft, cause: Records, fired: bool) -> None:
    memdev = draft.host.memdev(cause.memdev)
    if memdev.partition is None or not cause.events:
        return  # DCD is off, so that log 4 is not read; or the log is empty
    stale = bool(memdev.staged)
    gone: set[int] = set()
    for event in cause.events:
        if draft.unheeded(event):
            continue
        if event.type == ADD:
            if stale or fired:
                draft.judge("B2.stale" if stale else "B3.late-tail")
            _stage(draft, cause, event)
        else:
            _release(draft, cause, event, gone)
    if any([expected.f != "clear" for expected in draft.plan]):
        draft.judge("L1.before-clear")
    read_again(draft, cause)


def _stage(draft: Draft, cause: Records, event: Event) -> None:
    """B2, B4: the record joins the open chain, which it closes when its More is clear."""
    row = draft.host.setup.generation
    memdev = draft.host.memdev(cause.memdev)
    if memdev.excess and not draft.quirk("Q10"):
        draft.drop(memdev, event, "B4.drop")
        if not event.more:
            draft.host = draft.host.with_memdev(memdev._replace(excess=False, deadline_ns=None))
            _answer(draft, memdev, (), "B4.drop", (event,))
        return
    if row.most_staged is not None and len(memdev.staged) >= row.most_staged:
        for lost in (*memdev.staged, event):
            draft.drop(memdev, lost, "B4.drop")
        draft.judge("B4.silent")
        draft.silent.append(("answer", "B4.silent"))
        draft.error = "-ENOSPC"
        draft.host = draft.host.with_memdev(memdev._replace(staged=(), excess=event.more))
        return
    if row.most_staged is None and len(memdev.staged) >= 100:
        draft.judge("B4.unbounded")
    memdev = memdev._replace(staged=(*memdev.staged, event))
    if event.more:
        draft.judge("B2.stage")
        if row.timeout_ns is not None:
            draft.judge("B2.arm")
            memdev = memdev._replace(deadline_ns=cause.now_ns + row.timeout_ns)
        draft.host = draft.host.with_memdev(memdev)
        return
    staged = memdev.staged
    memdev = memdev._replace(staged=(), deadline_ns=None, excess=False)
    if _waits(draft, memdev, staged):
        memdev = memdev._replace(deferred=(*memdev.deferred, staged))
        draft.judge("B13.scan")
        draft.silent.append(("answer", "B13.scan"))
        draft.host = draft.host.with_memdev(memdev)
        return
    draft.host = draft.host.with_memdev(memdev)
    _close(draft, memdev, staged, cause.faults)


def _waits(draft: Draft, memdev: Memdev, staged: Sequence[Event]) -> bool:
    """Whether a chain has to wait for a scan, as documented (Q3 off)."""
    if not draft.host.setup.generation.scan_gate or "Q3" in draft.host.setup.quirks:
        return False
    regions = [draft.host.region_at(memdev.name, event.start) for event in staged]
    return any([region is not None and region.dax_region and not region.scanned for region in regions])


# ---- the close of a chain -------------------------------------------------------------------------------------------

Row = tuple[int, Event]
"""A member of a group: its place in the offer, and what it is."""


class Named(NamedTuple):
    """A range that the answer names, and its place in the offer."""

    at: int
    range: Range


def _close(
    draft: Draft, memdev: Memdev, staged: Sequence[Event], faults: frozenset[str], existing: bool = False
) -> None:
    """B5: group by group, then one answer. `existing`: recovered from the list (B26)."""
    named: list[Named] = []
    groups = _groups(draft, staged)
    draft.judge("B5.groups", "B5.one")
    if len(groups) > 1:
        draft.judge("B5.realised")
    for tag, rows in groups:
        named += _group(draft, memdev, tag, rows, faults, existing)
    if existing and not draft.host.setup.generation.recovered_answered:
        draft.judge("B26.unanswered")
        draft.silent.append(("answer", "B26.unanswered"))
        return
    by_tag = tuple([one.range for one in named])
    by_offer = tuple([one.range for one in sorted(named)])
    ranges = by_tag if draft.quirk("Q7", by_tag != by_offer) else by_offer
    clause = "B26.answered" if existing else "B5.survivors" if ranges else "B5.none"
    draft.judge(clause, "B5.only", "B5.order")
    draft.silent.append(("answer", "B5.one"))
    _answer(draft, memdev, ranges, clause, staged)


def _groups(draft: Draft, staged: Sequence[Event]) -> list[tuple[bytes, list[Row]]]:
    """The records by tag, in order of first appearance, each group sorted by sequence (B5).

    As documented (Q6 off) each untagged extent is a group of its own.
    """
    setup = draft.host.setup
    alone = "Q6" not in setup.quirks or "one-untagged-per-group" in setup.what_if
    found: dict[tuple[bytes, int], list[Row]] = {}
    for at, event in enumerate(staged):
        key = (event.tag, at if alone and event.tag == NULL_TAG else -1)
        found.setdefault(key, []).append((at, event))
    groups = []
    for (tag, _), rows in found.items():
        ordered = sorted(rows, key=lambda row: row[1].sequence)
        if ordered != rows:
            draft.judge("B5.sorted")
        groups.append((tag, ordered))
    return groups


def _group(
    draft: Draft, memdev: Memdev, tag: bytes, rows: list[Row], faults: frozenset[str], existing: bool
) -> list[Named]:
    """What the answer names of one group, in the group's order."""
    rows, joins = _extending(draft, memdev, tag, rows)
    clause = _group_gate(draft, memdev, tag, rows, joins)
    if clause:
        draft.judge("B6.first")
        return _left_out(draft, memdev, rows, clause)
    members, clause = _members(draft, memdev, rows, existing)
    if clause and tag != NULL_TAG:
        survive = [member for member in members if not member.clause]
        if not draft.quirk("Q2", bool(survive)):
            return _left_out(draft, memdev, [member.row for member in survive], clause)
    new = [member for member in members if not member.clause and not member.again]
    again = [member.row for member in members if member.again]
    if not new:
        if again and not draft.quirk("Q1"):
            return [Named(at, (event.start, event.length)) for at, event in again]
        return _left_out(draft, memdev, again, "B15.duplicate")
    fresh = _placed(draft, memdev, tag, new)
    if joins:
        draft.judge("WHAT-IF.extend-accepted")
        last = joins[-1]
        fresh = [one._replace(group=last.group, number=last.number + 1 + at) for at, one in enumerate(fresh)]
    if _fails(draft, fresh, faults):
        return _failed(draft, memdev, fresh, [member.row for member in members if not member.clause], existing)
    _appear(draft, memdev, members, fresh)
    return [Named(member.row[0], member.range) for member in members if not member.clause]


def _left_out(draft: Draft, memdev: Memdev, rows: Sequence[Row], clause: str) -> list[Named]:
    for _, event in rows:
        draft.drop(memdev, event, clause)
    return []


def _extending(draft: Draft, memdev: Memdev, tag: bytes, rows: list[Row]) -> tuple[list[Row], list[Online]]:
    """What-if extend-accepted: what is new of a group that adjoins or overlaps what was accepted under its tag.

    The rows with what overlaps cut off, and the members of the allocation that a tagged group joins, in order; none
    where it joins none. A claimed allocation is not extended: its device would have another size.
    """
    host = draft.host
    partition = memdev.partition
    if "extend-accepted" not in host.setup.what_if or partition is None or partition.sharable:
        return rows, []
    found: list[Row] = []
    touched: set[int] = set()
    for at, event in rows:
        region = host.region_at(memdev.name, event.start)
        end = event.start + event.length
        mine = [one for one in host.in_region(region.name if region else "") if one.tag == tag]
        touched.update([one.group for one in mine if one.start <= end and event.start <= one.end])
        clause, _, _ = _extent_gate(host, memdev, event, False)
        if clause == "B15.overlap" and region is not None and _overlaps_only(host, region, event, tag):
            found += [(at, part) for part in new_parts(host, region.name, event)]
        else:
            found.append((at, event))
    if tag == NULL_TAG:
        if found != rows:
            draft.judge("WHAT-IF.extend-accepted")
        return found, []
    live = sorted([one for one in host.extents if one.tag == tag], key=lambda one: one.number)
    if {one.group for one in live} != touched or len(touched) != 1 or any([host.used(one) for one in live]):
        return rows, []
    return found, live


def _overlaps_only(host: Host, region: Region, event: Event, tag: bytes) -> bool:
    """Whether what an extent overlaps is all of its own tag."""
    return all([one.tag == tag for one in near(host, region.name, event)])


def _group_gate(draft: Draft, memdev: Memdev, tag: bytes, rows: Sequence[Row], joins: Sequence[Online]) -> str:
    """B6 to B9, in order: the clause by which the whole group is dropped, or ""."""
    host = draft.host
    if tag == NULL_TAG and "no-tag-no-service" in host.setup.what_if:
        return "WHAT-IF.no-tag-no-service"
    if tag != NULL_TAG and not joins and (clause := _live(host, memdev, tag, rows[0][1])):
        return clause
    if clause := _sequence(host, memdev, rows):
        return clause
    if tag != NULL_TAG:
        for _, event in rows:
            if shape := _shape(host, memdev, event):
                return f"B8.{shape}"
    align = host.setup.align
    if any([event.start % align or event.length % align for _, event in rows]):
        return "B9.misaligned"
    return ""


def _live(host: Host, memdev: Memdev, tag: bytes, first: Event) -> str:
    """B6: whether a tag is in use, on this host, or (RFC) in the region of the group's first extent."""
    if host.setup.generation.tags == "host":
        return "B6.live" if any([extent.tag == tag for extent in host.extents]) else ""
    region = host.region_at(memdev.name, first.start)
    if region is None:
        return ""
    return "B6.region" if any([extent.tag == tag for extent in host.in_region(region.name)]) else ""


def _sequence(host: Host, memdev: Memdev, rows: Sequence[Row]) -> str:
    """B7: the shared sequence of a group, sorted."""
    row = host.setup.generation
    sequences = [event.sequence for _, event in rows]
    dense = list(range(row.sequence_base, row.sequence_base + len(rows)))
    if row.sequence == "sharable":
        first = rows[0][1]
        sharable = memdev.partition is not None and memdev.partition.sharable
        return "B7.dense" if sharable and not _shape(host, memdev, first) and sequences != dense else ""
    if sequences[0] == 0:
        return "B7.mixed" if any(sequences) else ""
    return "" if sequences == dense else "B7.dense-1"


def _shape(host: Host, memdev: Memdev, event: Event) -> str:
    """What is wrong with an extent by itself: "empty", "wrap", "partition" or ""."""
    partition = memdev.partition
    if host.setup.generation.checks_shape:
        if not event.length:
            return "empty"
        if event.start + event.length > 1 << 64:
            return "wrap"
    if partition is None or not contains(partition.start, partition.length, event.start, event.length):
        return "partition"
    return ""


class Member(NamedTuple):
    """A member of a group that passed the group gates. `clause`: the gate that it failed; `again`: a duplicate."""

    row: Row
    number: int
    region: Region | None
    clause: str
    again: bool

    @property
    def range(self) -> Range:
        """Its range."""
        return (self.row[1].start, self.row[1].length)


def _members(draft: Draft, memdev: Memdev, rows: Sequence[Row], existing: bool) -> tuple[list[Member], str]:
    """B10 to B16: each member with its number in the group; the first clause that one failed, or ""."""
    row = draft.host.setup.generation
    sharable = memdev.partition is not None and memdev.partition.sharable
    found: list[Member] = []
    failed = ""
    for place, (at, event) in enumerate(rows):
        number = place + row.sequence_base  # a sequence that passed B7 is just that
        clause, region, again = _extent_gate(draft.host, memdev, event, existing)
        if clause:
            draft.drop(memdev, event, clause)
            failed = failed or clause
        elif again:
            draft.judge("B15.duplicate")
        found.append(Member((at, event), number, region, clause, again))
    if len(rows) > 1:
        draft.judge("B16.sharable" if sharable else "B16.arrival")
    passed = [member for member in found if not member.clause]
    for member in found:
        if member.clause and any([member.number < other.number for other in passed]):
            draft.judge("B16.hole")
        elif member.clause == "B11.sequence" and passed:
            draft.judge("B16.last")
    return found, failed


def _extent_gate(host: Host, memdev: Memdev, event: Event, existing: bool) -> tuple[str, Region | None, bool]:
    """B10 to B15, in order: the clause that drops the extent, or "" with its region, and whether it is there."""
    row = host.setup.generation
    if shape := _shape(host, memdev, event):
        return f"B10.{shape}", None, False
    if clause := _sharing(host, memdev, event):
        return clause, None, False
    region = host.region_at(memdev.name, event.start)
    if region is None or not region.dax_region:
        return "B12.region", None, False
    if row.scan_gate and not existing and not region.scanned:
        return "B13.scan", region, False
    if not contains(region.start, region.length, event.start, event.length):
        return "B14.decoder", region, False
    for extent in near(host, region.name, event):
        if contains(extent.start, extent.length, event.start, event.length):
            return "", region, True
        if overlaps(extent.start, extent.length, event.start, event.length):
            return "B15.overlap", region, False
    return "", region, False


def _sharing(host: Host, memdev: Memdev, event: Event) -> str:
    """B11: tag and sequence where they must be, and a sequence nowhere else."""
    if memdev.partition is None or not memdev.partition.sharable:
        return "B11.sequence" if event.sequence else ""
    if event.tag == NULL_TAG:
        return "B11.tag"
    if host.setup.generation.sequence != "sharable" and not event.sequence:
        return "B11.missing"
    return ""


def _placed(draft: Draft, memdev: Memdev, tag: bytes, new: Sequence[Member]) -> list[Online]:
    """The extents of a group as they are to appear. A group over two regions joins the first (Q5)."""
    host = draft.host
    first = new[0].region
    over_two = any([member.region != first for member in new])
    joins = draft.quirk("Q5", over_two)
    if over_two and not joins:
        draft.judge("L3.start")
    fresh: list[Online] = []
    for member in new:
        own = member.region
        if own is None or first is None:  # a member that passed has a region
            continue
        start, length = member.range
        where = first if joins else own
        fresh.append(
            Online(
                host.next + len(fresh),
                where.name,
                memdev.name,
                start,
                length,
                tag,
                member.number,
                host.next,
                0,
                start - own.start,
            )
        )
    return fresh


def _fails(draft: Draft, fresh: Sequence[Online], faults: frozenset[str]) -> bool:
    """B17: whether a group cannot appear, because its members overlap each other in DAX, or something went wrong."""
    if faults & {"online", "dax"}:
        return True
    for at, extent in enumerate(fresh):
        region = draft.host.region(extent.region)
        if not region.probed and (region.scan is None or draft.host.setup.generation.scan_at != "probe"):
            continue
        if not extent.length or extent.end > 1 << 64:
            return True
        places = [(one.region, one.offset, one.length) for one in fresh[:at]]
        if any([one.offset != one.start - draft.host.region(one.region).start for one in fresh]) or _joined(draft.host):
            places += [(one.region, one.offset, one.length) for one in draft.host.extents]
        for name, offset, length in places:
            if name == extent.region and offset < extent.offset + extent.length and extent.offset < offset + length:
                return True
    return False


def _joined(host: Host) -> bool:
    """Whether any extent is under another region than its own (Q5): only then can its place there be taken."""
    if "Q5" not in host.setup.quirks or len(host.regions) < 2:
        return False
    starts = {region.name: region.start for region in host.regions}
    return any([extent.offset != extent.start - starts[extent.region] for extent in host.extents])


def _failed(draft: Draft, memdev: Memdev, fresh: Sequence[Online], rows: Sequence[Row], existing: bool) -> list[Named]:
    """B17, B26: a group that did not appear: left out, or given back extent by extent."""
    release = existing or draft.host.setup.generation.failed_group == "released"
    clause = "B26.failed" if existing else "B17.released" if release else "B17.left-out"
    if any([one.start < other.end and other.start < one.end for one in fresh for other in fresh if one is not other]):
        draft.judge("B15.own-group")
    if release:
        for extent in sorted(fresh, key=lambda one: one.number):
            draft.give_back(memdev.name, clause, extent.start, extent.length)
    else:
        draft.silent.append(("give_back", clause))
    return _left_out(draft, memdev, rows, clause)


def _appear(draft: Draft, memdev: Memdev, members: Sequence[Member], fresh: Sequence[Online]) -> None:
    """The group comes online: its extents are under their region, in the group's order (B5, B16 to B18)."""
    row = draft.host.setup.generation
    if "online" in row.invalidates or not draft.quirk("Q13"):
        draft.act("invalidate", fresh[0].region)
    for extent in fresh:
        extent = extent._replace(id=next_id(draft.host, extent.region))
        draft.act("online", extent.region)
        host = draft.host
        draft.host = host._replace(extents=(*host.extents, extent), next=extent.age + 1)
    draft.judge("B5.surfaced")
    if memdev.partition is not None and memdev.partition.sharable:
        draft.judge("B1.sharable")
    if len(fresh) > 1:
        draft.judge("B18.apart")
        if row.failed_group == "left-out":
            draft.judge("B17.all")
    where = draft.host.region(fresh[0].region)
    if not where.probed and where.scan is None:
        draft.judge("B13.unloaded" if row.scan_gate else "B13.driver")


# ---- release requests -----------------------------------------------------------------------------------------------


def _release(draft: Draft, cause: Records, event: Event, gone: set[int]) -> None:
    """B19 to B23: one record by itself, or (draft) the chain when it closes. `gone`: starts released by this page."""
    memdev = draft.host.memdev(cause.memdev)
    if not draft.host.setup.generation.release_chains:
        draft.judge(*(("L4.ignored",) if event.more else ()), *(("B2.release",) if memdev.staged else ()))
        _release_one(draft, memdev, event, gone, cause.faults)
        return
    draft.judge("L4.chain")
    staged = (*memdev.releases, event)
    if event.more:
        draft.silent.append(("give_back", "L4.chain"))
        draft.host = draft.host.with_memdev(memdev._replace(releases=staged))
        return
    draft.host = draft.host.with_memdev(memdev._replace(releases=()))
    matches = [(one, _match(draft.host, memdev, one)) for one in staged]
    named = {extent.age for _, extent in matches if extent is not None}
    for one, extent in matches:
        if extent is None:
            _release_one(draft, memdev, one, gone, cause.faults)
            continue
        group = _members_of(draft.host, extent.group)
        if not {member.age for member in group} <= named:
            draft.judge("B20.chain")
            draft.silent.append(("give_back", "B20.chain"))
        elif extent in group:
            _release_group(draft, memdev, group, one, cause.faults)


def _match(host: Host, memdev: Memdev, event: Event, tagged: bool = True) -> Online | None:
    """B20: the extent of the same decoder that a release lies inside, by its tag too unless told otherwise."""
    region = host.region_at(memdev.name, event.start)
    if region is None:
        return None
    for extent in near(host, region.name, event):
        if tagged and extent.tag != event.tag:
            continue
        if contains(extent.start, extent.length, event.start, event.length):
            return extent
    return None


def _members_of(host: Host, group: int) -> list[Online]:
    """The extents of a group, in its order."""
    return sorted([extent for extent in host.extents if extent.group == group], key=lambda extent: extent.number)


def _release_one(draft: Draft, memdev: Memdev, event: Event, gone: set[int], faults: frozenset[str]) -> None:
    row = draft.host.setup.generation
    region = draft.host.region_at(memdev.name, event.start)
    if region is None or not region.dax_region:
        draft.judge("B19.acknowledge")
        draft.error = "-ENXIO"
        draft.give_back(memdev.name, "B19.acknowledge", event.start, event.length)
        return
    extent = _match(draft.host, memdev, event)
    if extent is not None:
        members = _members_of(draft.host, extent.group)
        if _release_group(draft, memdev, members, event, faults):
            gone.update([member.start for member in members])
        return
    if row.unmatched == "acknowledged":
        draft.judge("B20.unmatched")
        draft.give_back(memdev.name, "B20.unmatched", event.start, event.length)
        return
    clause = "B20.inside" if _match(draft.host, memdev, event, tagged=False) is None else "B20.tag"
    draft.silent.append(("give_back", clause))
    draft.judge(clause)
    if not draft.quirk("Q4", event.start in gone) and event.start in gone:
        return
    draft.error = "-EINVAL"


def _release_group(
    draft: Draft, memdev: Memdev, members: Sequence[Online], event: Event, faults: frozenset[str]
) -> bool:
    """B21 to B23: the whole group goes, or stays. Whether it went."""
    row = draft.host.setup.generation
    if "before" in row.invalidates:
        draft.act("invalidate", members[0].region)
        draft.judge("B21.invalidate")
        if "invalidate" in faults:
            draft.judge("B21.kept")
            draft.silent.append(("give_back", "B21.kept"))
            draft.error = "-ENXIO"
            return False
    draft.act("test-use", members[0].region)
    if any([draft.host.used(member) for member in members]):
        draft.judge("B22.in-use")
        draft.silent.append(("give_back", "B22.in-use"))
        remember(draft, members)
        return False
    if "after" in row.invalidates:
        draft.act("invalidate", members[0].region)
        draft.judge("B21.after")
    named = (event.start, event.length)
    draft.judge("B23.each", *(("B23.whole",) if [(one.start, one.length) for one in members] != [named] else ()))
    if len(members) > 1 and members[0].tag == NULL_TAG:
        draft.quirk("Q6")
    if members[0].tag == NULL_TAG and "one-untagged-per-group" in draft.host.setup.what_if:
        draft.judge("WHAT-IF.one-untagged-per-group")
        draft.silent.append(("give_back", "WHAT-IF.one-untagged-per-group"))
    for member in members:
        draft.act("give_back", member.region)
        pair = (member.start, member.length)
        draft.plan.append(Expected("give_back", memdev.name, "B23.whole", (pair,), "B23.each", other="B23.each"))
    forget(draft, members)
    return True


# ---- regions, the DAX driver, recovery ------------------------------------------------------------------------------


def _bind_region(host: Host, cause: BindRegion) -> Decision:
    draft = Draft(host)
    region = host.region(cause.region)
    if region.dax_region:
        draft.error = "-EBUSY"
        return draft.done()
    region = region._replace(dax_region=True)
    if not region.dynamic:
        draft.host = seed_device(host.with_region(region._replace(probed=True)), region)
    elif host.setup.generation.scan_at == "region":
        read_on(draft, region._replace(scan=Scan()), "B26.all")
    else:
        draft.host = host.with_region(region)
        _probe(draft, region)
    return draft.done()


def _probe(draft: Draft, region: Region) -> None:
    """The DAX driver takes a dax region: it scans first (v11), then there is a seed device of size 0 (B27)."""
    if DAX_DRIVER not in draft.host.drivers or region.probed or not region.dax_region:
        return
    if draft.host.setup.generation.scan_at == "probe" and region.dynamic:
        read_on(draft, region._replace(scan=Scan(), failed=False), "B26.all")
        return
    _seed(draft, region)


def _seed(draft: Draft, region: Region) -> None:
    draft.judge("B27.zero")
    draft.host = seed_device(draft.host.with_region(region._replace(probed=True, scan=None)), region)


def _load_driver(host: Host, cause: LoadDriver) -> Decision:
    if DAX_DRIVER in host.drivers:
        return Decision(host)
    draft = Draft(host._replace(drivers=host.drivers | {DAX_DRIVER}))
    for region in host.regions:
        if region.scan is None:
            _probe(draft, region)
    return draft.done()


def _unload_driver(host: Host, cause: UnloadDriver) -> Decision:
    draft = Draft(host._replace(drivers=host.drivers - {DAX_DRIVER}))
    for region in host.regions:
        if region.probed or region.failed:
            _give_up_all(draft, region._replace(probed=False, failed=False, scan=None))
    return draft.done()


def _unbind_region(host: Host, cause: UnbindRegion) -> Decision:
    draft = Draft(host)
    region = host.region(cause.region)
    if not region.dax_region:
        draft.error = "-ENODEV"
        return draft.done()
    bare = Region(region.name, region.memdev, region.start, region.length, region.hpa, region.dynamic)
    _give_up_all(draft, bare)
    return draft.done()


def _destroy_region(host: Host, cause: DestroyRegion) -> Decision:
    draft = Draft(host)
    region = host.region(cause.region)
    if region.dax_region:
        _give_up_all(draft, region)
    left = tuple([one for one in draft.host.regions if one.name != region.name])
    draft.host = draft.host._replace(regions=left)
    return draft.done()


def _give_up_all(draft: Draft, region: Region) -> None:
    """B32, B33: every extent of a region is released, newest first; its DAX devices go."""
    extents = draft.host.in_region(region.name)[::-1]
    if extents:
        draft.judge("B32.all", "B32.newest", "B32.each", "B32.claims")
    for extent in extents:
        if draft.quirk("Q13"):
            draft.judge("B33.none")
        else:
            draft.act("invalidate", region.name)
        draft.act("give_back", region.name)
        pair = (extent.start, extent.length)
        draft.plan.append(Expected("give_back", extent.memdev, "B32.all", (pair,), "B32.newest", other="B32.each"))
    forget(draft, extents)
    devices = tuple([device for device in draft.host.devices if device.region != region.name])
    draft.host = draft.host.with_region(region)._replace(devices=devices)


def _page(host: Host, cause: Page) -> Decision:
    """B25: a page of the list, and what follows from it: the next one, another try, the end, or failure."""
    draft = Draft(host)
    row = host.setup.generation
    region = host.region(cause.region)
    scan = region.scan
    if scan is None:
        raise AskedWrongly(f"region {region.name} has no scan under way; a page comes after its read of the list")
    if scan.total is None:
        scan = scan._replace(total=cause.total, generation=cause.generation)
    total = scan.total or 0
    if (scan.generation, total) != (cause.generation, cause.total):
        draft.judge("B25.restart")
        if scan.tries == row.scan_tries:
            _scan_failed(draft, region, "-EAGAIN", "B25.tries" if row.scan_tries == 10 else "B25.tries-11")
        else:
            read_on(draft, region._replace(scan=Scan(scan.tries + 1)), "B25.restart")
        return draft.done()
    if not cause.extents and total > len(scan.found) and row.empty_page_fails:
        _scan_failed(draft, region, "-EIO", "B25.empty-page")
        return draft.done()
    scan = scan._replace(found=scan.found + cause.extents)
    if len(scan.found) < total:
        read_on(draft, region._replace(scan=scan), "B26.all")
        return draft.done()
    _recover(draft, region._replace(scan=scan), cause.faults)
    return draft.done()


def _scan_failed(draft: Draft, region: Region, error: str, clause: str) -> None:
    draft.judge(clause)
    draft.silent.append(("extents", clause))
    draft.error = error
    memdev = draft.host.memdev(region.memdev)
    if memdev.staged and draft.quirk("Q8"):
        draft.host = draft.host.with_memdev(memdev._replace(staged=()))
    if draft.host.setup.generation.scan_gate:
        draft.judge("B25.no-seed")
        draft.host = draft.host.with_region(region._replace(scan=None, failed=True))
        return
    region = region._replace(scan=None, scanned=True)
    draft.host = draft.host.with_region(region)
    if DAX_DRIVER in draft.host.drivers:
        _seed(draft, region)


def _recover(draft: Draft, region: Region, faults: frozenset[str]) -> None:
    """B26: what the list holds goes through the gates; then the region is there, and what waited for it is answered."""
    scan = region.scan or Scan()
    memdev = draft.host.memdev(region.memdev)
    events = [Event(ADD, found.start, found.length, found.tag, found.sequence) for found in scan.found]
    draft.host = draft.host.with_region(region)
    if memdev.staged and draft.quirk("Q8"):
        events = [*memdev.staged, *events]
        memdev = memdev._replace(staged=())
        draft.host = draft.host.with_memdev(memdev)
    if events:
        draft.judge("B26.gates", "B26.all")
        _close(draft, memdev, events, faults, existing=True)
        if any([one.clause != "B26.failed" for one in draft.dropped]):
            draft.judge("B26.forgotten")
            draft.silent.append(("give_back", "B26.forgotten"))
    region = draft.host.region(region.name)._replace(scan=None, scanned=True)
    draft.host = draft.host.with_region(region)
    if DAX_DRIVER in draft.host.drivers:
        _seed(draft, region)
    for staged in memdev.deferred:
        _close(draft, memdev, staged, NO_FAULTS)
    draft.host = draft.host.with_memdev(draft.host.memdev(memdev.name)._replace(deferred=()))


_CAUSES: dict[type, Callable[[Host, Any], Decision]] = {
    BindRegion: _bind_region,
    UnbindRegion: _unbind_region,
    DestroyRegion: _destroy_region,
    LoadDriver: _load_driver,
    UnloadDriver: _unload_driver,
    Page: _page,
    Create: claims.create,
    Claim: claims.claim,
    Resize: claims.resize,
    Choose: claims.choose,
}
