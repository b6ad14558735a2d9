"""Host generation A: sparse DAX (v1 to v9; the modes as of v9).

Records are staged until More is clear; then each extent is tested by itself, and one answer names those that passed.
Tags and sequences are refused, alignment is not looked at, and DAX devices take space from any extent. The kernel keeps
the staged extents in no order: what follows from that (the answer's order, and which of two that overlap each other is
taken) is left open here.
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
from .permitted import Decision, Expected, Range, clash, contains, overlaps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .host import Host
    from .permitted import Permitted

_MANY = 100


def decide(host: Host, cause: Cause) -> Permitted:
    """What a kernel of generation A may do now: one way, in which order and clashes may be left open."""
    if isinstance(cause, Records):
        return (_records(host, cause, ()),)
    if isinstance(cause, Tick):
        judged = ("A3.more", "A3.bound") if host.memdev(cause.memdev).staged else ()
        return (Decision(host, judged=judged, silent=(("answer", "A3.more"),)),)
    decision = simple(host, cause)
    return (decision or _CAUSES[type(cause)](host, cause),)


def settle(host: Host, cause: Cause, answers: Sequence[tuple[Range, ...]]) -> Host:
    """The state after these answers, where it was open which of the extents that clash are taken."""
    if not isinstance(cause, Records):
        raise AskedWrongly(f"{type(cause).__name__} leaves nothing open; only records of a chain do")
    return _records(host, cause, answers).after


# ---- records --------------------------------------------------------------------------------------------------------


def _records(host: Host, cause: Records, answers: Sequence[tuple[Range, ...]]) -> Decision:
    """`answers`: the ranges of each answer that was given, where known; else clashes go by order of arrival."""
    draft = Draft(host)
    memdev = host.memdev(cause.memdev)
    if memdev.partition is None or not cause.events:
        return draft.done()
    given = list(answers)
    for event in cause.events:
        if draft.unheeded(event):
            continue
        if event.type == ADD:
            _stage(draft, cause, event, given)
        else:
            draft.judge(*(("L4.alone",) if event.more else ()))
            _release(draft, memdev, event)
    if draft.plan:
        draft.judge("L1.before-clear")
    read_again(draft, cause)
    return draft.done()


def _stage(draft: Draft, cause: Records, event: Event, given: list[tuple[Range, ...]]) -> None:
    """A3: nothing happens before More is clear."""
    memdev = draft.host.memdev(cause.memdev)
    staged = (*memdev.staged, event)
    draft.judge("A3.together" if len(staged) > 1 else "A3.more", *(("A3.bound",) if len(staged) > _MANY else ()))
    if event.more:
        draft.judge("A3.more")
        draft.silent.append(("answer", "A3.more"))
        draft.host = draft.host.with_memdev(memdev._replace(staged=staged))
        return
    draft.host = draft.host.with_memdev(memdev._replace(staged=()))
    _close(draft, memdev, staged, cause.faults, given.pop(0) if given else None)


class Tested(NamedTuple):
    """An extent of a chain that passed the tests that do not depend on the rest of it. `again`: A5."""

    event: Event
    region: Region
    again: bool

    @property
    def range(self) -> Range:
        """Its range."""
        return (self.event.start, self.event.length)


def _close(
    draft: Draft, memdev: Memdev, staged: Sequence[Event], faults: frozenset[str], given: tuple[Range, ...] | None
) -> None:
    """A4 to A7: each extent tested by itself, then one answer."""
    host = draft.host
    tested: list[Tested] = []
    for event in _extended(draft, memdev, staged):
        clause, region, again = _test(host, memdev, event)
        if clause or region is None:
            draft.judge("A4.order")
            draft.drop(memdev, event, clause)
        else:
            draft.judge(*(("A5.again",) if again else ()), *(("A4.unchecked",) if _odd(host, event) else ()))
            tested.append(Tested(event, region, again))
    news = [one for one in tested if not one.again]
    clashing = tuple([one.range for one in news if _clashes(one, news)])
    taken = clash(clashing) if given is None else tuple([pair for pair in clashing if pair in given])
    for one in news:
        if one.range in clashing and one.range not in taken:
            draft.drop(memdev, one.event, "A4.overlap")
    surfaced = [one for one in news if one.range not in clashing or one.range in taken]
    surfaced.sort(key=lambda one: -one.event.length if one.range in clashing else 0)
    failed = _surface(draft, memdev, surfaced, faults)
    named = [one.range for one in tested if one.range not in clashing and one.range not in failed]
    why = {(one.extent.start, one.extent.length): one.clause for one in draft.dropped}
    pairs = dict.fromkeys([(event.start, event.length) for event in staged])
    refused = tuple([(pair, why[pair]) for pair in pairs if pair in why and pair not in named and pair not in clashing])
    draft.judge("A6.left-out", "A7.order", *(() if named or clashing else ("A6.none",)))
    if len(named) > memdev.most_ranges:
        draft.judge("A6.pages")
    draft.silent.insert(0, ("answer", "A3.together"))
    draft.act("answer", f"{len(named)} of {len(staged)}")
    draft.plan.append(
        Expected(
            "answer",
            memdev.name,
            "A6.left-out" if named or clashing else "A6.none",
            tuple(named),
            clashing=clashing,
            refused=refused,
            other="A6.left-out",
            pages="A6.pages",
            most=memdev.most_ranges,
        )
    )


def _test(host: Host, memdev: Memdev, event: Event) -> tuple[str, Region | None, bool]:
    """A4, A5, in order: the clause that refuses an extent, or "" with its region, and whether it is there already."""
    partition = memdev.partition
    if event.sequence:
        return "A4.sequence", None, False
    if event.tag != NULL_TAG:
        return "A4.tag", None, False
    if partition is None or not contains(partition.start, partition.length, event.start, event.length):
        return "A4.partition", None, False
    region = host.region_at(memdev.name, event.start)
    if region is None or not region.dax_region:
        return "A4.region" if host.regions else "A2.region", None, False
    if not contains(region.start, region.length, event.start, event.length):
        return "A4.decoder", None, False
    there = [extent for extent in near(host, region.name, event) if extent.memdev == memdev.name]
    for extent in there:
        if contains(extent.start, extent.length, event.start, event.length):
            return "", region, True
    for extent in there:
        if overlaps(extent.start, extent.length, event.start, event.length):
            return "A4.overlap", None, False
    return "", region, False


def _extended(draft: Draft, memdev: Memdev, staged: Sequence[Event]) -> list[Event]:
    """The chain; with the what-if extend-accepted, of an extent that overlaps accepted ones what is new of it."""
    host = draft.host
    if "extend-accepted" not in host.setup.what_if:
        return list(staged)
    found: list[Event] = []
    for event in staged:
        region = host.region_at(memdev.name, event.start)
        clause, _, _ = _test(host, memdev, event)
        if clause == "A4.overlap" and region is not None:
            draft.judge("WHAT-IF.extend-accepted")
            found += new_parts(host, region.name, event)
        else:
            found.append(event)
    return found


def _odd(host: Host, event: Event) -> bool:
    """Whether an extent passed that another kernel's shape or alignment gate would have dropped."""
    align = host.setup.pmd_bytes
    return bool(event.start % align or event.length % align or not event.length or event.start + event.length > 1 << 64)


def _clashes(one: Tested, others: Sequence[Tested]) -> bool:
    """Whether an extent overlaps another one of its chain."""
    return any([other is not one and overlaps(*other.range, *one.range) for other in others])


def _surface(draft: Draft, memdev: Memdev, news: Sequence[Tested], faults: frozenset[str]) -> set[Range]:
    """The new extents come online (A8, A16); what fails in DAX is given back at once (A6). Those that failed."""
    failed: set[Range] = set()
    online: list[Range] = []
    for one in news:
        start, length = one.range
        if any([contains(*pair, start, length) for pair in online]):
            continue  # inside one of its own chain: named, and nothing new
        draft.act("invalidate", one.region.name)
        draft.act("online", one.region.name)
        draft.judge("A16.online")
        if "dax" in faults or (one.region.probed and (not length or start + length > 1 << 64)):
            draft.judge("A6.failed")
            draft.drop(memdev, one.event, "A6.failed")
            draft.give_back(memdev.name, "A6.failed", start, length)
            failed.add(one.range)
            continue
        host = draft.host
        number = next_id(host, one.region.name)
        extent = Online(
            host.next,
            one.region.name,
            memdev.name,
            start,
            length,
            NULL_TAG,
            0,
            host.next,
            number,
            start - one.region.start,
        )
        draft.host = host._replace(extents=(*host.extents, extent), next=host.next + 1)
        draft.judge("WHAT-IF.interleave" if one.region.ways else "A8.one")
        draft.judge(*(() if one.region.probed else ("A2.driver",)))
        online.append(one.range)
    return failed


def _release(draft: Draft, memdev: Memdev, event: Event) -> None:
    """A10, A11: every region extent that the range overlaps, each by itself."""
    region = draft.host.region_at(memdev.name, event.start)
    if region is None or not region.dax_region:
        draft.judge("A10.acknowledge")
        draft.error = "-ENXIO"
        draft.give_back(memdev.name, "A10.acknowledge", event.start, event.length)
        return
    touched = [
        extent
        for extent in near(draft.host, region.name, event)
        if extent.memdev == memdev.name and overlaps(extent.start, extent.length, event.start, event.length)
    ]
    draft.judge("A11.overlap")
    for extent in touched:
        draft.act("test-use", extent.region)
        if draft.host.used(extent):
            draft.judge("A11.in-use")
            draft.silent.append(("give_back", "A11.in-use"))
            remember(draft, [extent])
            continue
        _give_up(draft, extent, "A11.whole")
        if (extent.start, extent.length) != (event.start, event.length):
            draft.judge("A11.whole")
    if not touched:
        draft.silent.append(("give_back", "A11.overlap"))


def _give_up(draft: Draft, extent: Online, clause: str) -> None:
    """One extent is released: caches first (A16)."""
    draft.judge("A16.release")
    draft.act("invalidate", extent.region)
    draft.act("give_back", extent.region)
    draft.plan.append(Expected("give_back", extent.memdev, clause, ((extent.start, extent.length),), other=clause))
    forget(draft, [extent])


# ---- regions and the DAX driver -------------------------------------------------------------------------------------


def _bind_region(host: Host, cause: BindRegion) -> Decision:
    """A9: what the device holds is read when the region is created."""
    draft = Draft(host)
    region = host.region(cause.region)
    if region.dax_region:
        draft.error = "-EBUSY"
    elif region.dynamic:
        draft.judge("A9.read")
        read_on(draft, region._replace(dax_region=True, scan=Scan()), "A9.read")
    else:
        draft.host = seed_device(host.with_region(region._replace(dax_region=True, probed=True)), region)
    return draft.done()


def _page(host: Host, cause: Page) -> Decision:
    """A9: each page is surfaced as it is read, unanswered; a change of the list begins again."""
    draft = Draft(host)
    region = host.region(cause.region)
    scan = region.scan
    if scan is None:
        raise AskedWrongly(f"region {region.name} has no scan under way; a page comes after its read of the list")
    if scan.total is None:
        scan = scan._replace(total=cause.total, generation=cause.generation)
    total = scan.total or 0
    if (scan.generation, total) != (cause.generation, cause.total):
        draft.judge("A9.restart")
        if scan.tries < host.setup.generation.scan_tries:
            read_on(draft, region._replace(scan=Scan(scan.tries + 1)), "A9.restart")
            return draft.done()
        draft.error = "-EAGAIN"
        _scanned(draft, region)
        return draft.done()
    memdev = host.memdev(region.memdev)
    if cause.extents:
        draft.judge("A9.unanswered")
        draft.silent.append(("answer", "A9.unanswered"))
    for found in cause.extents:
        event = Event(ADD, found.start, found.length, found.tag, found.sequence)
        clause, where, again = _test(draft.host, memdev, event)
        if clause or where is None:
            draft.drop(memdev, event, clause)
        elif not again:
            _surface(draft, memdev, [Tested(event, where, False)], cause.faults)
    scan = scan._replace(found=scan.found + cause.extents)
    if len(scan.found) < total:
        read_on(draft, region._replace(scan=scan), "A9.read")
    else:
        _scanned(draft, region)
    return draft.done()


def _scanned(draft: Draft, region: Region) -> None:
    draft.host = draft.host.with_region(region._replace(scan=None, scanned=True))
    if DAX_DRIVER in draft.host.drivers:
        _probe(draft, draft.host.region(region.name))


def _probe(draft: Draft, region: Region) -> None:
    """A17: the DAX driver finds what surfaced before it came."""
    if draft.host.in_region(region.name):
        draft.judge("A17.scan")
    draft.host = seed_device(draft.host.with_region(region._replace(probed=True)), region)


def _load_driver(host: Host, cause: LoadDriver) -> Decision:
    if DAX_DRIVER in host.drivers:
        return Decision(host)
    draft = Draft(host._replace(drivers=host.drivers | {DAX_DRIVER}))
    for region in host.regions:
        if region.dax_region and not region.probed and region.scan is None:
            _probe(draft, region)
    return draft.done()


def _unload_driver(host: Host, cause: UnloadDriver) -> Decision:
    draft = Draft(host._replace(drivers=host.drivers - {DAX_DRIVER}))
    for region in host.regions:
        if region.probed:
            _give_up_all(draft, region._replace(probed=False), "A15.unload")
    return draft.done()


def _unbind_region(host: Host, cause: UnbindRegion) -> Decision:
    draft = Draft(host)
    region = host.region(cause.region)
    if not region.dax_region:
        draft.error = "-ENODEV"
        return draft.done()
    bare = Region(region.name, region.memdev, region.start, region.length, region.hpa, region.dynamic)
    _give_up_all(draft, bare, "A15.destroy")
    return draft.done()


def _destroy_region(host: Host, cause: DestroyRegion) -> Decision:
    draft = Draft(host)
    region = host.region(cause.region)
    if region.dax_region:
        _give_up_all(draft, region, "A15.destroy")
    left = tuple([one for one in draft.host.regions if one.name != region.name])
    draft.host = draft.host._replace(regions=left)
    return draft.done()


def _give_up_all(draft: Draft, region: Region, clause: str) -> None:
    """A15: all extents of a region go, and its DAX devices."""
    extents = draft.host.in_region(region.name)[::-1]
    if extents:
        draft.judge(clause)
    for extent in extents:
        _give_up(draft, extent, clause)
    devices = tuple([device for device in draft.host.devices if device.region != region.name])
    draft.host = draft.host.with_region(region)._replace(devices=devices)


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
