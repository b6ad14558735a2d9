"""Host generation C: a region driver for each policy, as proposed on the mailing list; no kernel has it.

A region is made (`create_dc_region`), its decoders are programmed, and it is bound to one of several drivers, each of
which keeps one policy: dax and devdax make a DAX device of each set of extents, sysram hotplugs it as memory, virtio
hands extents on one by one, pmem is for persistent capacity. Which drivers a region may have is its mode's to say
(C8); a wrong one fails and leaves the region as it was (C1). A set is what one chain delivers under one tag: it comes
whole, has a device of its own, and goes whole (C2).

Where the proposal leaves something open, the least is taken: what no region holds is not given back, alignment and
sharing are not tested. Several hosts are one `Host` whose memory devices are named with the host's id behind a dot
(`mem0.1`), so that a tag can be unique over all of them (C5).

Sources: the messages of 2026-01-22 (`001`) and on the series of 2025-04-13 (`000`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import AskedWrongly
from ..extents import NULL_TAG
from .host import (
    ADD,
    Bind,
    BindRegion,
    Cause,
    Choose,
    Claim,
    Create,
    Dax,
    Delete,
    DestroyRegion,
    Draft,
    Event,
    Hold,
    Hotplug,
    LetGo,
    LoadDriver,
    MakeRegion,
    Mapped,
    Memdev,
    Online,
    Page,
    Program,
    Records,
    Region,
    Reset,
    Resize,
    Scan,
    SetPolicy,
    Tick,
    Unbind,
    UnbindRegion,
    UnloadDriver,
    forget,
    fresh,
    near,
    next_id,
    read_again,
    read_on,
    remember,
)
from .permitted import Decision, Expected, contains

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .host import Host
    from .permitted import Permitted

AUTO = "region"
"""The driver whose bind is the auto-decoder and compat interface: what it does today, for ram regions alone."""
ALLOWED: dict[str, tuple[str, ...]] = {
    "pmem": ("pmem",),
    "ram": (AUTO, "dax", "sysram"),
    "dc": ("dax", "sysram", "virtio", "devdax"),
}
"""Which region drivers a region of a mode may have (C8, C9)."""
DRIVERS = tuple(dict.fromkeys([driver for drivers in ALLOWED.values() for driver in drivers]))
SELECTED = {AUTO: "kmem", "dax": "device_dax", "devdax": "device_dax", "sysram": "kmem"}
"""Which DAX driver a region driver selects for its devices."""
ONLINE = ("offline", "online", "online_kernel", "online_movable")
SYSTEM_POLICY = "online"
"""What the compat interface does with memory; the rules leave it to the system."""
_YES_NO = ("0", "1")
CONTROLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "hotplug": (("sysram",), ONLINE),
    "untagged": (("sysram",), _YES_NO),
    "tags_required": (("dax", "sysram", "virtio", "devdax"), _YES_NO),
    "min_extent": (("virtio",), ()),
    "dax": (("virtio",), _YES_NO),
}
"""The files of a region's driver: which drivers have one, and what may be written (none named: a number of bytes)."""
_TAG_CLAUSES = {"devdax": "C5.tag", "virtio": "C6.tag"}
_REFUSALS = ("-EOPNOTSUPP", "-ENOTSUPP")
_SCAN_TRIES = 10


def decide(host: Host, cause: Cause) -> Permitted:
    """What a kernel of generation C may do now; two ways where the proposal leaves the error open (C1.allowed)."""
    if isinstance(cause, Records):
        return (_records(host, cause),)
    if isinstance(cause, Tick):
        staged = host.memdev(cause.memdev).staged
        return (Decision(host, judged=("C2.chain",) if staged else (), silent=(("answer", "C2.chain"),)),)
    if isinstance(cause, BindRegion):
        return _bind_region(host, cause)
    return (_CAUSES[type(cause)](host, cause),)


def of_host(memdev: str) -> str:
    """Which host a memory device belongs to: what is behind the dot, "" for the first."""
    return memdev.partition(".")[2]


def control(host: Host, region: Region, name: str) -> str:
    """What a file of a region's driver holds, as it was written or at first."""
    if name == "tags_required" and (region.driver in _TAG_CLAUSES or "no-tag-no-service" in host.setup.what_if):
        return "1"
    return dict(region.policy).get(name, {"hotplug": "offline"}.get(name, "0"))


# ---- records and chains ---------------------------------------------------------------------------------------------


def _records(host: Host, cause: Records) -> Decision:
    draft = Draft(host)
    memdev = host.memdev(cause.memdev)
    if memdev.partition is None or not cause.events:
        return draft.done()
    for event in cause.events:
        if draft.unheeded(event):
            continue
        if event.type == ADD:
            _stage(draft, cause.memdev, event)
        else:
            _release(draft, memdev, event)
    if draft.plan:
        draft.judge("L1.before-clear")
    read_again(draft, cause)
    return draft.done()


def _stage(draft: Draft, name: str, event: Event) -> None:
    """C2: nothing happens before the chain is whole."""
    memdev = draft.host.memdev(name)
    staged = (*memdev.staged, event)
    if event.more:
        draft.judge("C2.chain")
        draft.silent.append(("answer", "C2.chain"))
        draft.host = draft.host.with_memdev(memdev._replace(staged=staged))
        return
    if len(staged) > 1:
        draft.judge("C2.chain")
    draft.host = draft.host.with_memdev(memdev._replace(staged=()))
    _close(draft, memdev, staged)


def _close(draft: Draft, memdev: Memdev, staged: Sequence[Event], existing: bool = False) -> None:
    """Set by set, then one answer. `existing`: found in the device's list (C1.discovery), which nobody answers."""
    taken: set[int] = set()
    for tag in dict.fromkeys([event.tag for event in staged]):
        rows = [(at, event) for at, event in enumerate(staged) if event.tag == tag]
        taken.update(_tagged(draft, memdev, tag, rows) if tag != NULL_TAG else _untagged(draft, memdev, rows))
    if existing:
        draft.judge("C1.discovery")
        draft.silent.append(("answer", "C1.discovery"))
        return
    ranges = tuple([(event.start, event.length) for at, event in enumerate(staged) if at in taken])
    why = {(one.extent.start, one.extent.length): one.clause for one in draft.dropped}
    pairs = dict.fromkeys([(event.start, event.length) for event in staged])
    refused = tuple([(pair, why[pair]) for pair in pairs if pair in why and pair not in ranges])
    draft.judge("C1.answer", *(("C1.order",) if len(ranges) > 1 else ()))
    draft.judge(*(("C1.pages",) if len(ranges) > memdev.most_ranges else ()))
    draft.silent.append(("answer", "C1.answer"))
    draft.act("answer", f"{len(ranges)} of {len(staged)}")
    draft.plan.append(
        Expected(
            "answer",
            memdev.name,
            "C1.answer",
            ranges,
            "C1.order",
            refused=refused,
            other="C1.answer",
            pages="C1.pages",
            most=memdev.most_ranges,
        )
    )


Row = tuple[int, Event]
"""A member of a set: its place in the offer, and what it is."""


def _place(host: Host, memdev: Memdev, event: Event) -> Region | None:
    """The region that an extent belongs to, by its start (L3), if a driver for dynamic capacity has it."""
    region = host.region_at(memdev.name, event.start)
    return region if region is not None and region.driver else None


def _drop(draft: Draft, memdev: Memdev, rows: Sequence[Row], clause: str) -> list[int]:
    for _, event in rows:
        draft.drop(memdev, event, clause)
    return []


def _cannot(host: Host, region: Region, event: Event, others: Sequence[Event]) -> bool:
    """C1.inside: whether an extent by itself cannot be taken."""
    end = event.start + event.length
    if not event.length or end > 1 << 64 or not contains(region.start, region.length, event.start, event.length):
        return True
    if near(host, region.name, event):
        return True
    return any([one is not event and one.start < end and event.start < one.start + one.length for one in others])


def _untagged(draft: Draft, memdev: Memdev, rows: Sequence[Row]) -> list[int]:
    """What is taken of the untagged extents of a chain: places in the offer."""
    taken: list[int] = []
    sets: dict[str, list[Row]] = {}
    for row in rows:
        region = _place(draft.host, memdev, row[1])
        clause = "C1.region" if region is None else _untagged_gate(draft.host, region)
        if clause or region is None:
            _drop(draft, memdev, [row], clause)
        elif region.driver == "sysram":
            draft.judge("C3.asked", "C3.optional", "C3.direct")
            taken += _alone(draft, memdev, region, row, [event for _, event in rows])
        else:
            sets.setdefault(region.name, []).append(row)
    for name, members in sets.items():
        taken += _whole(draft, memdev, draft.host.region(name), members)
    return taken


def _untagged_gate(host: Host, region: Region) -> str:
    """The clause by which a region takes no untagged extent, or ""."""
    if region.driver in _TAG_CLAUSES:
        return _TAG_CLAUSES[region.driver]
    if "no-tag-no-service" in host.setup.what_if:
        return "WHAT-IF.no-tag-no-service"
    if control(host, region, "tags_required") == "1":
        return "C7.tag"
    if region.driver == "sysram" and control(host, region, "untagged") != "1":
        return "C3.asked"
    if any([extent.tag != NULL_TAG for extent in host.in_region(region.name)]):
        return "C4.one-kind"
    return ""


def _tagged(draft: Draft, memdev: Memdev, tag: bytes, rows: Sequence[Row]) -> list[int]:
    """What is taken of the extents of a chain that have one tag: places in the offer."""
    region = _place(draft.host, memdev, rows[0][1])
    if region is None:
        return _drop(draft, memdev, rows, "C1.region")
    if any([extent.tag == NULL_TAG for extent in draft.host.in_region(region.name)]):
        return _drop(draft, memdev, rows, "C4.one-kind")
    if region.driver == "virtio":
        taken: list[int] = []
        draft.judge("C6.tag")
        for row in rows:
            where = _place(draft.host, memdev, row[1])
            if where is None:
                _drop(draft, memdev, [row], "C1.region")
            elif row[1].length < int(control(draft.host, where, "min_extent")):
                _drop(draft, memdev, [row], "C6.smallest")
            else:
                draft.judge("C6.each")
                taken += _alone(draft, memdev, where, row, [event for _, event in rows])
        return taken
    if clause := _live(draft.host, memdev, tag, rows):
        return _drop(draft, memdev, rows, clause)
    if region.driver == "devdax":
        draft.judge("C5.tag")
    return _whole(draft, memdev, region, rows)


def _live(host: Host, memdev: Memdev, tag: bytes, rows: Sequence[Row]) -> str:
    """C2.live, C5.unique: whether a set of that tag lives, here or on another host. A shared allocation is the same."""
    lives = [extent for extent in host.extents if extent.tag == tag]
    mine = of_host(memdev.name)
    if any([of_host(extent.memdev) == mine for extent in lives]):
        return "C2.live"
    ranges = {(event.start, event.length) for _, event in rows}
    sharable = memdev.partition is not None and memdev.partition.sharable
    if not lives or (sharable and {(extent.start, extent.length) for extent in lives} == ranges):
        return ""
    return "C5.unique"


def _alone(draft: Draft, memdev: Memdev, region: Region, row: Row, chain: Sequence[Event]) -> list[int]:
    """An extent that stands by itself (C3, C6)."""
    at, event = row
    if _cannot(draft.host, region, event, chain):
        return _drop(draft, memdev, [row], "C1.inside")
    online = _online(draft, memdev, region, [row])
    if region.driver == "virtio" and control(draft.host, region, "dax") == "1":
        draft.judge("C6.device")
        _device(draft, region, online)
    return [at]


def _whole(draft: Draft, memdev: Memdev, region: Region, rows: Sequence[Row]) -> list[int]:
    """C2: a set comes whole, with a device of its own, or not at all."""
    events = [event for _, event in rows]
    bad = [row for row in rows if _cannot(draft.host, region, row[1], events)]
    if bad:
        _drop(draft, memdev, bad, "C1.inside")
        good = [row for row in rows if row not in bad]
        return _drop(draft, memdev, good, "C2.whole")
    ordered = sorted(rows, key=lambda row: row[1].sequence)
    online = _online(draft, memdev, region, ordered)
    draft.judge(*(("C2.whole",) if len(rows) > 1 else ()))
    draft.judge(*(("C2.device", "C2.uuid", "C2.online") if region.driver == "sysram" else ("C5.device", "C5.uuid")))
    _device(draft, region, online)
    return [at for at, _ in rows]


def _online(draft: Draft, memdev: Memdev, region: Region, rows: Sequence[Row]) -> list[Online]:
    """These extents surface under their region, as one set."""
    draft.act("invalidate", region.name)
    draft.judge("C1.surfaced")
    group = draft.host.next
    found: list[Online] = []
    for number, (_, event) in enumerate(rows):
        host = draft.host
        extent = Online(
            host.next,
            region.name,
            memdev.name,
            event.start,
            event.length,
            event.tag,
            number,
            group,
            next_id(host, region.name),
            event.start - region.start,
        )
        draft.act("online", region.name)
        draft.host = host._replace(extents=(*host.extents, extent), next=host.next + 1)
        found.append(extent)
    return found


def _device(draft: Draft, region: Region, extents: Sequence[Online], static_bytes: int = 0, bare: bool = False) -> None:
    """A new DAX device of these extents. `bare`: it is left unprobed, whatever driver is selected for it."""
    selected = None if bare else SELECTED.get(region.driver)
    state = None
    if SELECTED.get(region.driver) == "kmem":
        state = SYSTEM_POLICY if region.driver == AUTO else control(draft.host, region, "hotplug")
    mapped = tuple([Mapped(one.age, 0, one.length) for one in extents])
    made = Dax(_free_name(draft.host, region), region.name, mapped, selected, False, state, static_bytes)
    if bare and state is not None:
        made = made._replace(hotplug="offline")
    draft.host = draft.host._replace(devices=(*draft.host.devices, made))


def _free_name(host: Host, region: Region) -> str:
    """daxN.M: N is the region's number, M the lowest that is free."""
    number = "".join([letter for letter in region.name if letter in "0123456789"]) or "0"
    taken = {device.name for device in host.devices}
    return next(name for at in range(len(taken) + 1) if (name := f"dax{number}.{at}") not in taken)


# ---- release requests -----------------------------------------------------------------------------------------------


def _release(draft: Draft, memdev: Memdev, event: Event) -> None:
    """C2, C3, C6: a set goes whole, what stands alone goes alone. More is not looked at: a set is gone at once."""
    host = draft.host
    region = _place(host, memdev, event)
    end = event.start + event.length
    met = [
        extent
        for extent in (near(host, region.name, event) if region is not None else ())
        if extent.tag == event.tag and extent.start < end and event.start < extent.end
    ]
    if region is None or not met:
        draft.judge("C1.unheld")
        draft.silent.append(("give_back", "C1.unheld"))
        return
    if region.driver == "virtio" or (region.driver == "sysram" and event.tag == NULL_TAG):
        clause = "C6.each" if region.driver == "virtio" else "C3.part"
        draft.judge(clause)
        inside = [extent for extent in met if contains(event.start, event.length, extent.start, extent.length)]
        draft.silent.append(("give_back", clause))
        for extent in inside:
            _go(draft, [extent], clause)
        return
    for group in dict.fromkeys([extent.group for extent in met]):
        _go(draft, [extent for extent in host.extents if extent.group == group], "C2.leave")


def _go(draft: Draft, members: Sequence[Online], clause: str) -> None:
    """These extents are given back, if nobody holds what was made of them."""
    ages = {extent.age for extent in members}
    draft.act("invalidate", members[0].region)
    draft.act("test-use", members[0].region)
    if _held(draft.host, ages):
        draft.judge("C2.in-use")
        draft.silent.append(("give_back", "C2.in-use"))
        remember(draft, members)
        return
    draft.judge(clause)
    _give_up(draft, members, clause)


def _held(host: Host, ages: set[int]) -> bool:
    return any([device.held and any([piece.age in ages for piece in device.mapped]) for device in host.devices])


def _give_up(draft: Draft, members: Sequence[Online], clause: str) -> None:
    """One 4803h per extent, in the order given; the devices that are left with nothing go."""
    for extent in members:
        draft.act("give_back", extent.region)
        pair = (extent.start, extent.length)
        draft.plan.append(Expected("give_back", extent.memdev, clause, (pair,), clause, other=clause))
    had = {device.name for device in draft.host.devices if device.mapped}
    forget(draft, members)
    left = [one for one in draft.host.devices if one.name not in had or one.mapped]
    draft.host = draft.host._replace(devices=tuple(left))


def _remembered(draft: Draft) -> None:
    """What-if release-remembered: what was asked for while it was held goes now that nobody holds it."""
    wanted = [extent for extent in draft.host.extents if extent.age in draft.host.remembered]
    for group in dict.fromkeys([extent.group for extent in wanted]):
        members = [extent for extent in wanted if extent.group == group]
        if not _held(draft.host, {extent.age for extent in members}):
            draft.judge("WHAT-IF.release-remembered")
            _give_up(draft, members, "WHAT-IF.release-remembered")


# ---- regions --------------------------------------------------------------------------------------------------------


def _refused(host: Host, error: str, *judged: str) -> Decision:
    return Decision(host, judged=judged, error=error)


def _make_region(host: Host, cause: MakeRegion) -> Decision:
    """C1, C8: create_dc_region and its like."""
    mode = cause.mode or ("dc" if cause.dynamic else "ram")
    memdev = host.memdev(cause.memdev)
    if mode not in ALLOWED:
        return _refused(host, "-ENOENT", "C8.private")
    partition = memdev.partition
    where = cause.start, cause.length
    inside = partition is not None and contains(partition.start, partition.length, *where)
    if mode == "dc" and not inside:
        return _refused(host, "-EINVAL", "C1.create")
    for region in host.regions:
        meets = region.start < cause.start + cause.length and cause.start < region.end
        if region.name == cause.region or (meets and region.memdev == memdev.name and region.dynamic == (mode == "dc")):
            return _refused(host, "-EBUSY", "C1.create")
    made = Region(cause.region, memdev.name, cause.start, cause.length, cause.hpa, mode == "dc", mode=mode)
    return Decision(host._replace(regions=(*host.regions, made)), judged=("C1.create",))


def _program(host: Host, cause: Program) -> Decision:
    region = host.region(cause.region)
    if region.driver:
        return _refused(host, "-EBUSY", "C1.decoders")
    return Decision(host.with_region(region._replace(programmed=True)))


def _bind_region(host: Host, cause: BindRegion) -> Permitted:
    """C1, C8, C9: a region is bound to a driver, or is left as it was."""
    region = host.region(cause.region)
    driver = cause.driver or AUTO
    if driver not in DRIVERS:
        return (_refused(host, "-ENOENT", "C8.private"),)
    if region.driver:
        return (_refused(host, "-EBUSY", "C1.bound"),)
    if not region.programmed:
        return (_refused(host, "-ENXIO", "C1.decoders"),)
    if driver not in ALLOWED[region.mode]:
        clauses = (f"C8.{region.mode}", "C1.allowed", "C1.undo")
        return tuple([_refused(host, error, *clauses) for error in _REFUSALS])
    draft = Draft(host)
    draft.judge(f"C8.{region.mode}")
    region = region._replace(driver=driver, dax_region=driver != "pmem", probed=True)
    draft.host = host.with_region(region)
    if region.mode == "dc":
        draft.judge("C1.bare")
        read_on(draft, region._replace(scan=Scan()), "C1.discovery")
    elif driver == AUTO:
        draft.judge("C9.auto")
        _device(draft, region, (), region.length)
    elif region.mode == "ram":
        draft.judge("C1.unprobed")
        _device(draft, region, (), region.length, bare=True)
    return (draft.done(),)


def _page(host: Host, cause: Page) -> Decision:
    """C1.discovery: what the device holds already is found set by set; a change of the list begins again."""
    draft = Draft(host)
    region = host.region(cause.region)
    scan = region.scan
    if scan is None:
        raise AskedWrongly(f"region {region.name} has no scan under way; a page comes after its read of the list")
    if scan.total is None:
        scan = scan._replace(total=cause.total, generation=cause.generation)
    total = scan.total or 0
    if (scan.generation, total) != (cause.generation, cause.total):
        if scan.tries < _SCAN_TRIES:
            read_on(draft, region._replace(scan=Scan(scan.tries + 1)), "C1.discovery")
        else:
            draft.host = host.with_region(region._replace(scan=None))
        return draft.done()
    scan = scan._replace(found=scan.found + cause.extents)
    if cause.extents and len(scan.found) < total:
        read_on(draft, region._replace(scan=scan), "C1.discovery")
        return draft.done()
    draft.host = host.with_region(region._replace(scan=None, scanned=True))
    mine = [one for one in scan.found if region.start <= one.start < region.end]
    if mine:
        events = [Event(ADD, one.start, one.length, one.tag, one.sequence) for one in mine]
        _close(draft, draft.host.memdev(region.memdev), events, existing=True)
    return draft.done()


def _unbind_region(host: Host, cause: UnbindRegion) -> Decision:
    region = host.region(cause.region)
    if not region.driver:
        return _refused(host, "-ENODEV", "C1.bound")
    draft = Draft(host)
    _give_up_all(draft, region)
    bare = region._replace(driver="", dax_region=False, probed=False, scanned=False, scan=None, policy=())
    draft.host = draft.host.with_region(bare)
    return draft.done()


def _destroy_region(host: Host, cause: DestroyRegion) -> Decision:
    draft = Draft(host)
    _give_up_all(draft, host.region(cause.region))
    left = tuple([one for one in draft.host.regions if one.name != cause.region])
    draft.host = draft.host._replace(regions=left)
    return draft.done()


def _give_up_all(draft: Draft, region: Region) -> None:
    """C1.unbind: a driver that goes gives everything back, newest first, and its devices go."""
    extents = draft.host.in_region(region.name)[::-1]
    if extents:
        draft.judge("C1.unbind")
        _give_up(draft, extents, "C1.unbind")
    devices = tuple([device for device in draft.host.devices if device.region != region.name])
    draft.host = draft.host._replace(devices=devices)


def _set_policy(host: Host, cause: SetPolicy) -> Decision:
    """C1.controls: the files of a region's driver, written before it has anything."""
    region = host.region(cause.region)
    drivers, words = CONTROLS.get(cause.name, ((), ()))
    text = cause.text.strip()
    clause = {"hotplug": "C2.policy", "tags_required": "C7.tag", "min_extent": "C6.smallest"}.get(
        cause.name, "C1.controls"
    )
    if region.driver not in drivers:
        return _refused(host, "-ENOENT", "C1.controls")
    if (text not in words) if words else not (text.isascii() and text.isdigit() and len(text) < 20):
        return _refused(host, "-EINVAL", clause)
    bound = [one for one in host.devices if one.region == region.name and one.driver is not None]
    if bound or host.in_region(region.name):
        return _refused(host, "-EBUSY", clause)
    fixed = region.driver in _TAG_CLAUSES or "no-tag-no-service" in host.setup.what_if
    if cause.name == "tags_required" and text == "0" and fixed:
        return _refused(host, "-EOPNOTSUPP", _TAG_CLAUSES.get(region.driver, "WHAT-IF.no-tag-no-service"))
    kept = tuple([(name, value) for name, value in region.policy if name != cause.name])
    after = host.with_region(region._replace(policy=(*kept, (cause.name, text))))
    return Decision(after, judged=(clause,))


# ---- DAX devices ----------------------------------------------------------------------------------------------------


def _bind(host: Host, cause: Bind) -> Decision:
    """C1.probe, C6: a DAX device is bound to the driver that its region's selects."""
    device = host.device(cause.device)
    region = host.region(device.region)
    if device.driver is not None:
        return _refused(host, "-EBUSY", "C1.probe")
    if region.driver == "virtio" and cause.driver == "kmem":
        return _refused(host, "-EOPNOTSUPP", "C6.never-sysram")
    if cause.driver != SELECTED.get(region.driver):
        return _refused(host, "-ENODEV", "C1.selected")
    state = control(host, region, "hotplug") if cause.driver == "kmem" else device.hotplug
    judged = ("C1.probe", *(("C2.online",) if cause.driver == "kmem" else ()))
    return Decision(host.with_device(device._replace(driver=cause.driver, hotplug=state)), judged=judged)


def _unbind(host: Host, cause: Unbind) -> Decision:
    device = host.device(cause.device)
    if device.driver is None:
        return _refused(host, "-ENODEV", "C1.probe")
    if device.held:
        return _refused(host, "-EBUSY", "C1.probe")
    state = "offline" if device.hotplug is not None else None
    return Decision(host.with_device(device._replace(driver=None, hotplug=state)))


def _hotplug(host: Host, cause: Hotplug) -> Decision:
    """C2.atomic: all of a device goes online or offline, or nothing of it."""
    device = host.device(cause.device)
    text = cause.text.strip()
    if device.hotplug is None:
        return _refused(host, "-ENOENT", "C2.atomic")
    if text not in ONLINE:
        return _refused(host, "-EINVAL", "C2.atomic")
    if device.driver is None:
        return _refused(host, "-ENXIO", "C2.atomic")
    if text == device.hotplug:
        return Decision(host, judged=("C2.atomic",))
    if device.held or "offline" not in (text, device.hotplug):
        return _refused(host, "-EBUSY", "C2.atomic")
    return Decision(host.with_device(device._replace(hotplug=text)), judged=("C2.atomic",))


def _hold(host: Host, cause: Hold) -> Decision:
    device = host.device(cause.device)
    if device.driver is None or device.hotplug == "offline":
        return _refused(host, "-ENXIO")
    return Decision(host.with_device(device._replace(held=True)))


def _let_go(host: Host, cause: LetGo) -> Decision:
    device = host.device(cause.device)
    if not device.held:
        return _refused(host, "-EINVAL")
    draft = Draft(host.with_device(device._replace(held=False)))
    _remembered(draft)
    return draft.done()


def _no_such_file(host: Host, cause: Any) -> Decision:
    """What generations A and B have and C has not: devices are not claimed, sized or made by hand."""
    return Decision(host, error="-ENOENT")


def _nothing(host: Host, cause: Any) -> Decision:
    return Decision(host)


def _reset(host: Host, cause: Reset) -> Decision:
    return Decision(fresh(host))


_CAUSES: dict[type, Callable[[Host, Any], Decision]] = {
    MakeRegion: _make_region,
    Program: _program,
    Page: _page,
    UnbindRegion: _unbind_region,
    DestroyRegion: _destroy_region,
    SetPolicy: _set_policy,
    Bind: _bind,
    Unbind: _unbind,
    Hotplug: _hotplug,
    Hold: _hold,
    LetGo: _let_go,
    Claim: _no_such_file,
    Resize: _no_such_file,
    Create: _no_such_file,
    Delete: _no_such_file,
    Choose: _no_such_file,
    LoadDriver: _nothing,
    UnloadDriver: _nothing,
    Reset: _reset,
}
