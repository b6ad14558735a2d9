"""A Linux host as a pure function: given its state and what happens, the set of answers that the rules permit.

    permitted = decide(host, cause)              # every alternative, each with its commands and the clauses behind them
    way, commands = choose(permitted, seed)      # a simulated host: one of them
    way, findings = hold(permitted, commands)    # a judge: the one that was seen, or what is wrong with it
    host = settle(host, cause, way, commands)

A generation is a row of parameters (`generation`), not a module for each version: `sparse_dax` decides for A,
`tagged` for B, `policy_drivers` for C. There is no clock here (causes carry the time, ns), no randomness (a seed is
given) and no device: what the device says to a command does not concern these hosts. It is not the whole kernel
either: only what rules L, A, B and C speak of.

`permitted` holds what such a set is, and `choose` and `hold`.

Addresses and lengths are bytes; extents and ranges are DPA; times are nanoseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import AskedWrongly
from ..extents import NULL_TAG, Extent
from .generation import GENERATIONS, Setup, setup
from .permitted import (
    Command,
    Decision,
    Dropped,
    Expected,
    Permitted,
    answers,
    choose,
    contains,
    departures,
    hold,
)
from .state import ADD, FORCED, RELEASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "ADD",
    "FORCED",
    "GENERATIONS",
    "RELEASE",
    "Command",
    "Decision",
    "Permitted",
    "choose",
    "departures",
    "hold",
    "setup",
]

DAX_DRIVER = "dax_cxl"
_HEADER_BYTES, _RANGE_BYTES = 8, 24
_LIST_HEADER_BYTES, _LIST_EXTENT_BYTES = 16, 40

_FOR_FM = (3, 4, 5)
"""Types of records that are a fabric manager's."""


# ---- state ----------------------------------------------------------------------------------------------------------


class Partition(NamedTuple):
    """The DC partition in use: the first region that 4800h reports, its decode length."""

    start: int
    length: int
    sharable: bool = False


class Event(NamedTuple):
    """A record of log 4. `known`: it has the Dynamic Capacity UUID. Host id and counts are not read (L2)."""

    type: int
    start: int
    length: int
    tag: bytes = NULL_TAG
    sequence: int = 0
    more: bool = False
    handle: int = 0
    known: bool = True

    @property
    def extent(self) -> Extent:
        """The extent that it carries."""
        return Extent(self.start, self.length, self.tag, self.sequence)


def event_of(record: Mapping[str, Any]) -> Event:
    """The Event of a record as a history holds it; one that did not parse is a record of another UUID."""
    if "type" not in record:
        return Event(0, 0, 0, handle=record.get("handle", 0), known=False)
    return Event(
        record["type"],
        record["dpa"],
        record["length"],
        bytes.fromhex(record["tag"]),
        record["sequence"],
        record["more"],
        record["handle"],
    )


class Memdev(NamedTuple):
    """A memory device. `partition`: None when its DCD is off (B1). `staged`: the open chain.

    `deadline_ns`: when its timer fires, None when it is not armed. `excess`: the chain has passed its bound, and what
    follows belongs to it still. `deferred`: closed chains that wait for a scan. `releases`: staged release requests.
    """

    name: str
    partition: Partition | None
    payload_bytes: int = 2048
    staged: tuple[Event, ...] = ()
    deadline_ns: int | None = None
    excess: bool = False
    deferred: tuple[tuple[Event, ...], ...] = ()
    releases: tuple[Event, ...] = ()

    @property
    def most_ranges(self) -> int:
        """How many ranges fit one 4802h or 4803h."""
        return max(1, (self.payload_bytes - _HEADER_BYTES) // _RANGE_BYTES)

    @property
    def most_listed(self) -> int:
        """How many extents fit one page of 4801h."""
        return max(1, (self.payload_bytes - _LIST_HEADER_BYTES) // _LIST_EXTENT_BYTES)


class Scan(NamedTuple):
    """A read of the extent list under way. `total` is None before the first page."""

    tries: int = 1
    total: int | None = None
    generation: int = 0
    found: tuple[Extent, ...] = ()


class Region(NamedTuple):
    """A Linux region over (a part of) the partition: [start, start + length) is its endpoint decoder's DPA.

    `dax_region`: it is bound, so that the dax region exists. `probed`: the DAX driver has it. `scanned`: its first
    scan is done; `failed`: it never will be. `dynamic`: over the DC partition,
    else over static capacity.

    C alone: `mode` (pmem, ram, dc), `programmed` (its decoders are), `driver` (the region driver that has it), `policy`
    (what was written to its files, in that order). `ways`: with interleave, the memory devices that share it.
    """

    name: str
    memdev: str
    start: int
    length: int
    hpa: int = 0
    dynamic: bool = True
    dax_region: bool = False
    probed: bool = False
    scanned: bool = False
    failed: bool = False
    scan: Scan | None = None
    mode: str = ""
    programmed: bool = False
    driver: str = ""
    policy: tuple[tuple[str, str], ...] = ()
    ways: tuple[str, ...] = ()

    @property
    def end(self) -> int:
        """The first DPA after it."""
        return self.start + self.length


class Online(NamedTuple):
    """An extent that is surfaced. `offset` is relative to its own region's start, `region` where it appears.

    `age` orders all extents of the host and names this one. `number`: its place in its group.
    """

    age: int
    region: str
    memdev: str
    start: int
    length: int
    tag: bytes
    number: int
    group: int
    id: int
    offset: int

    @property
    def end(self) -> int:
        """The first DPA after it."""
        return self.start + self.length


class Mapped(NamedTuple):
    """A piece of an extent that a DAX device has: `at` counts from the extent's start."""

    age: int
    at: int
    length: int


class Dax(NamedTuple):
    """A DAX device. `driver`: device_dax or kmem, None when unbound.

    C alone: `held` (somebody maps it, or its pages), `hotplug` (what its file of that name reads; None without one),
    `static_bytes`: it is over static capacity, of so many bytes.
    """

    name: str
    region: str
    mapped: tuple[Mapped, ...] = ()
    driver: str | None = None
    held: bool = False
    hotplug: str | None = None
    static_bytes: int = 0

    @property
    def size(self) -> int:
        """The sum of its pieces."""
        return self.static_bytes + sum([piece.length for piece in self.mapped])


class Host(NamedTuple):
    """The whole host at one moment. `extents` are in the order in which they came online.

    `remembered`: ages of extents whose release was asked for while they were in use (what-if release-remembered).
    """

    setup: Setup
    memdevs: tuple[Memdev, ...]
    regions: tuple[Region, ...] = ()
    extents: tuple[Online, ...] = ()
    devices: tuple[Dax, ...] = ()
    drivers: frozenset[str] = frozenset((DAX_DRIVER,))
    next: int = 1
    remembered: tuple[int, ...] = ()

    def memdev(self, name: str) -> Memdev:
        """The memory device of that name. Errors: AskedWrongly."""
        for memdev in self.memdevs:
            if memdev.name == name:
                return memdev
        raise AskedWrongly(f"the host has no memory device {name!r}; it has {_names(self.memdevs)}")

    def region(self, name: str) -> Region:
        """The region of that name. Errors: AskedWrongly."""
        for region in self.regions:
            if region.name == name:
                return region
        raise AskedWrongly(f"the host has no region {name!r}; it has {_names(self.regions)}")

    def device(self, name: str) -> Dax:
        """The DAX device of that name. Errors: AskedWrongly."""
        for device in self.devices:
            if device.name == name:
                return device
        raise AskedWrongly(f"the host has no DAX device {name!r}; it has {_names(self.devices)}")

    def region_at(self, memdev: str, start: int) -> Region | None:
        """The region of a memory device that holds a DPA (L3)."""
        for region in self.regions:
            if memdev in (region.memdev, *region.ways) and region.dynamic and region.start <= start < region.end:
                return region
        return None

    def in_region(self, region: str) -> tuple[Online, ...]:
        """The extents under a region, oldest first."""
        return tuple([extent for extent in self.extents if extent.region == region])

    def surfaced(self, region: str) -> tuple[Online, ...]:
        """Those that can be seen and used: with interleave, the shares of extents that have a share on each way."""
        found = self.in_region(region)
        ways = self.region(region).ways if region else ()
        if not ways:
            return found
        there = {(extent.memdev, extent.start, extent.length) for extent in found}
        return tuple([one for one in found if all([(way, one.start, one.length) in there for way in ways])])

    def used(self, extent: Online) -> int:
        """How many bytes of an extent DAX devices have."""
        return sum([piece.length for device in self.devices for piece in device.mapped if piece.age == extent.age])

    def available(self, region: str) -> int:
        """available_size of a region (A14, B31)."""
        return sum([extent.length - self.used(extent) for extent in self.surfaced(region)])

    def with_memdev(self, new: Memdev) -> Host:
        """The host with that memory device in place of the one of its name."""
        return self._replace(memdevs=tuple([new if old.name == new.name else old for old in self.memdevs]))

    def with_region(self, new: Region) -> Host:
        """The host with that region in place of the one of its name."""
        return self._replace(regions=tuple([new if old.name == new.name else old for old in self.regions]))

    def with_device(self, new: Dax) -> Host:
        """The host with that DAX device in place of the one of its name."""
        return self._replace(devices=tuple([new if old.name == new.name else old for old in self.devices]))


def _names(items: Iterable[Memdev | Region | Dax]) -> str:
    return ", ".join([item.name for item in items]) or "none"


# ---- what happens to a host -----------------------------------------------------------------------------------------


class Records(NamedTuple):
    """A page of log 4 was read (0100h). `faults`: what goes wrong inside: "invalidate", "online", "dax"."""

    memdev: str
    events: tuple[Event, ...]
    now_ns: int = 0
    faults: frozenset[str] = frozenset()


class Tick(NamedTuple):
    """Time has come to this."""

    memdev: str
    now_ns: int


class Page(NamedTuple):
    """A page of the extent list, which a region's scan asked for."""

    region: str
    total: int
    generation: int
    extents: tuple[Extent, ...]
    faults: frozenset[str] = frozenset()


class MakeRegion(NamedTuple):
    """A region is created and committed, not bound yet. `dynamic`: over the DC partition, else static capacity.

    `mode`: of which file it is made in C (pmem, ram, dc), "" for dc or ram as `dynamic` says. `ways`: the memory
    devices that share it, its own first; without the what-if interleave it is over its own alone.
    """

    region: str
    memdev: str
    start: int
    length: int
    hpa: int = 0
    dynamic: bool = True
    mode: str = ""
    ways: tuple[str, ...] = ()


class Program(NamedTuple):
    """C: a region's decoders are programmed, its targets set."""

    region: str


class BindRegion(NamedTuple):
    """A region is bound: its dax region appears. `driver`: to which region driver, in C."""

    region: str
    driver: str = ""


class UnbindRegion(NamedTuple):
    """A region is unbound."""

    region: str


class DestroyRegion(NamedTuple):
    """A region is destroyed, unbound first if it must be."""

    region: str


class LoadDriver(NamedTuple):
    """dax_cxl is loaded."""


class UnloadDriver(NamedTuple):
    """dax_cxl is unloaded."""


class Create(NamedTuple):
    """1 is written to a dax region's `create`."""

    region: str


class Claim(NamedTuple):
    """Text is written to a DAX device's `uuid`."""

    device: str
    text: str


class Resize(NamedTuple):
    """A number is written to a DAX device's `size`."""

    device: str
    size: int


class Bind(NamedTuple):
    """A DAX device is bound to a driver (device_dax, kmem)."""

    device: str
    driver: str


class Unbind(NamedTuple):
    """A DAX device is unbound from its driver."""

    device: str


class SetPolicy(NamedTuple):
    """C: text is written to a file of a region's driver (`policy_drivers.CONTROLS`)."""

    region: str
    name: str
    text: str


class Hotplug(NamedTuple):
    """C: text is written to a DAX device's `hotplug`."""

    device: str
    text: str


class Hold(NamedTuple):
    """Somebody maps a DAX device, or uses its memory."""

    device: str


class LetGo(NamedTuple):
    """Nobody does any more."""

    device: str


class Choose(NamedTuple):
    """What-if map-to-extents: offsets of extents are written to a DAX device, in the order in which it is to have them.

    There is such a file only with that switch.
    """

    device: str
    offsets: tuple[int, ...]


class Delete(NamedTuple):
    """A DAX device's name is written to its dax region's `delete`."""

    device: str


class Reset(NamedTuple):
    """The host is reset or crashes: all that it knew is gone, and nothing is sent."""


Cause = (
    Records
    | Tick
    | Page
    | MakeRegion
    | BindRegion
    | UnbindRegion
    | DestroyRegion
    | LoadDriver
    | UnloadDriver
    | Create
    | Claim
    | Resize
    | Bind
    | Unbind
    | Delete
    | Program
    | SetPolicy
    | Hotplug
    | Hold
    | LetGo
    | Choose
    | Reset
)


# ---- what it may do -------------------------------------------------------------------------------------------------


class Draft:
    """A Decision while it is being made. It never leaves the function that makes it."""

    __slots__ = ("_quirks", "acts", "dropped", "error", "host", "judged", "plan", "silent")

    def __init__(self, host: Host) -> None:
        self.host = host
        self.plan: list[Expected] = []
        self.judged: list[str] = []
        self.dropped: list[Dropped] = []
        self.silent: list[tuple[str, str]] = []
        self.acts: list[tuple[str, str]] = []
        self.error = ""
        self._quirks: list[str] = []

    def judge(self, *clauses: str) -> None:
        """These clauses have decided something."""
        for clause in clauses:
            if clause not in self.judged:
                self.judged.append(clause)

    def act(self, what: str, to: object = "") -> None:
        """This happens inside, now."""
        self.acts.append((what, str(to)))

    def quirk(self, name: str, differs: bool = True) -> bool:
        """Whether a departure is on; where it also makes a difference, it is noted."""
        on = name in self.host.setup.quirks
        if on and differs and name not in self._quirks:
            self._quirks.append(name)
        return on

    def drop(self, memdev: Memdev, event: Event, clause: str) -> None:
        """A gate has refused this extent."""
        self.judge(clause)
        self.dropped.append(Dropped(memdev.name, event.extent, clause))

    def unheeded(self, event: Event) -> bool:
        """L2, L5: whether a record is neither offer nor request to this host: then nothing is sent because of it."""
        if event.known and event.type in (ADD, RELEASE):
            return False
        if event.known and event.type == FORCED:
            self.judge("L5.forced")
            self.silent.append(("give_back", "L5.forced"))
            return True
        clause = "L2.foreign"
        if event.known:
            self.error = "-EINVAL"
            clause = "L2.kinds" if event.type in _FOR_FM else "L5.unknown"
        self.judge(clause)
        self.silent += [("answer", clause), ("give_back", clause)]
        return True

    def give_back(self, memdev: str, clause: str, start: int, length: int) -> None:
        """One 4803h of one range is expected."""
        self.act("give_back", Extent(start, length))
        self.plan.append(Expected("give_back", memdev, clause, ((start, length),), order=clause))

    def done(self) -> Decision:
        """The Decision."""
        return Decision(
            self.host,
            tuple(self.plan),
            tuple(self.judged),
            tuple(self.dropped),
            tuple(self.silent),
            tuple(self.acts),
            self.error,
            tuple(self._quirks),
        )


def decide(host: Host, cause: Cause) -> Permitted:
    """What the rules permit this host to do now. Errors: AskedWrongly when the cause names what is not there."""
    from . import policy_drivers, sparse_dax, tagged  # they import this module

    kinds = {"sparse": sparse_dax.decide, "tagged": tagged.decide, "policy": policy_drivers.decide}
    return kinds[host.setup.generation.kind](host, cause)


def settle(host: Host, cause: Cause, way: Decision, commands: Sequence[Command]) -> Host:
    """The state after `way` was taken with these commands."""
    if not any([expected.clashing for expected in way.plan]):
        return way.after
    from . import sparse_dax

    return sparse_dax.settle(host, cause, answers(commands))


# ---- what A and B do alike ------------------------------------------------------------------------------------------


def fresh(host: Host) -> Host:
    """The host after a reset: it has its memory devices and drivers, and knows nothing."""
    memdevs = tuple([Memdev(memdev.name, memdev.partition, memdev.payload_bytes) for memdev in host.memdevs])
    return Host(host.setup, memdevs, drivers=host.drivers)


def read_again(draft: Draft, cause: Records) -> None:
    """What was read is cleared, and the log is read again (L1)."""
    handles = tuple([event.handle for event in cause.events])
    draft.judge("L1.clears", "L1.until-empty", "L2.unread")
    draft.plan.append(Expected("clear", cause.memdev, "L1.clears", handles=handles))
    draft.plan.append(Expected("events", cause.memdev, "L1.until-empty"))


def read_on(draft: Draft, region: Region, clause: str) -> None:
    """The next page of the extent list is due for a region's scan; the region is put into the host."""
    memdev = draft.host.memdev(region.memdev)
    start = len(region.scan.found) if region.scan else 0
    draft.host = draft.host.with_region(region)
    draft.plan.append(Expected("extents", memdev.name, clause, asked=memdev.most_listed, start=start))


def forget(draft: Draft, gone: Sequence[Online]) -> None:
    """These extents are under no region any more; DAX devices lose what they had of them."""
    ages = {extent.age for extent in gone}
    host = draft.host
    devices = tuple(
        [
            device._replace(mapped=tuple([piece for piece in device.mapped if piece.age not in ages]))
            for device in host.devices
        ]
    )
    draft.host = host._replace(
        extents=tuple([extent for extent in host.extents if extent.age not in ages]),
        devices=devices,
        remembered=tuple([age for age in host.remembered if age not in ages]),
    )


def remember(draft: Draft, members: Iterable[Online]) -> None:
    """These could not be released now; with the what-if release-remembered they go as soon as nobody uses them."""
    if "release-remembered" in draft.host.setup.what_if:
        ages = dict.fromkeys((*draft.host.remembered, *[extent.age for extent in members]))
        draft.host = draft.host._replace(remembered=tuple(ages))


def give_remembered(decision: Decision) -> Decision:
    """A decision, and what follows from it: what was asked for while it was used goes once nobody uses it."""
    draft = Draft(decision.after)
    clause = "WHAT-IF.release-remembered"
    wanted = [extent for extent in draft.host.extents if extent.age in draft.host.remembered]
    for group in dict.fromkeys([extent.group for extent in wanted]):
        members = sorted([extent for extent in wanted if extent.group == group], key=lambda extent: extent.number)
        if any([draft.host.used(extent) for extent in members]):
            continue
        draft.judge(clause)
        for extent in members:
            draft.act("invalidate", extent.region)
            draft.give_back(extent.memdev, clause, extent.start, extent.length)
        forget(draft, members)
    return decision._replace(
        after=draft.host,
        plan=decision.plan + tuple(draft.plan),
        judged=decision.judged + tuple(draft.judged),
        acts=decision.acts + tuple(draft.acts),
    )


def new_parts(host: Host, region: str, event: Event) -> tuple[Event, ...]:
    """What of an extent is under no region yet; nothing where all of it is (what-if extend-accepted)."""
    parts: list[Event] = []
    reached, end = event.start, event.start + event.length
    for extent in sorted(near(host, region, event), key=lambda one: one.start):
        if extent.start > reached:
            parts.append(event._replace(start=reached, length=extent.start - reached))
        reached = max(reached, extent.end)
    if reached < end:
        parts.append(event._replace(start=reached, length=end - reached))
    return tuple(parts)


def near(host: Host, region: str, event: Event) -> list[Online]:
    """The extents under a region that an event can have to do with: those that it meets; all, where it is odd."""
    start, end = event.start, event.start + event.length
    odd = end == start or end > 1 << 64
    return [
        extent
        for extent in host.extents
        if extent.region == region and (odd or (extent.start < end and start < extent.start + extent.length))
    ]


def next_id(host: Host, region: str) -> int:
    """The number of the next extent under a region: the lowest that is free."""
    taken = {extent.id for extent in host.extents if extent.region == region}
    number = host.setup.generation.first_extent_id
    while number in taken:
        number += 1
    return number


def seed_device(host: Host, region: Region) -> Host:
    """The host with one more DAX device of size 0 in a region: daxN.M, N the region's number."""
    number = "".join([letter for letter in region.name if letter in "0123456789"]) or "0"
    taken = {device.name for device in host.devices}
    at = 0
    while f"dax{number}.{at}" in taken:
        at += 1
    return host._replace(devices=(*host.devices, Dax(f"dax{number}.{at}", region.name)))


def simple(host: Host, cause: Cause) -> Decision | None:
    """What every generation does alike with a cause; None where it is not such a one."""
    alike = _ALIKE.get(type(cause))
    return None if alike is None else alike(host, cause)


def _make_region(host: Host, cause: MakeRegion) -> Decision:
    memdev = host.memdev(cause.memdev)
    partition = memdev.partition
    if cause.dynamic and (
        partition is None or not contains(partition.start, partition.length, cause.start, cause.length)
    ):
        return Decision(host, error="-EINVAL")
    taken = [region for region in host.regions if region.memdev == memdev.name or region.name == cause.region]
    for region in taken:
        if region.name == cause.region or (region.start < cause.start + cause.length and cause.start < region.end):
            return Decision(host, error="-EBUSY")
    ways = cause.ways if "interleave" in host.setup.what_if else ()
    if ways[:1] not in ((), (memdev.name,)):
        return Decision(host, error="-EINVAL")
    made = Region(cause.region, memdev.name, cause.start, cause.length, cause.hpa, cause.dynamic, ways=ways)
    return Decision(host._replace(regions=(*host.regions, made)), judged=("L3.several",) if taken else ())


def _bind(host: Host, cause: Bind) -> Decision:
    device = host.device(cause.device)
    if device.driver is not None:
        return Decision(host, error="-EBUSY")
    if not device.size:
        return Decision(host, error="-ENXIO")
    return Decision(host.with_device(device._replace(driver=cause.driver)))


def _unbind(host: Host, cause: Unbind) -> Decision:
    device = host.device(cause.device)
    if device.driver is None:
        return Decision(host, error="-ENODEV")
    return Decision(host.with_device(device._replace(driver=None)))


def _delete(host: Host, cause: Delete) -> Decision:
    device = host.device(cause.device)
    if device.driver is not None or device.size:
        return Decision(host, error="-EBUSY")
    return Decision(host._replace(devices=tuple([one for one in host.devices if one.name != device.name])))


def _reset(host: Host, cause: Reset) -> Decision:
    return Decision(fresh(host))


_ALIKE: dict[type, Callable[[Host, Any], Decision]] = {
    MakeRegion: _make_region,
    Bind: _bind,
    Unbind: _unbind,
    Delete: _delete,
    Reset: _reset,
}


def create_device(host: Host, cause: Create, clause: str) -> Decision:
    """`create`: one more DAX device, which needs free space (A14, B29)."""
    region = host.region(cause.region)
    if not region.probed:
        return Decision(host, error="-ENXIO")
    if not host.available(region.name):
        return Decision(host, judged=(clause,), error="-ENOSPC")
    return Decision(seed_device(host, region))


def partition_of(regions: Sequence[Mapping[str, Any]], *, sharable: Iterable[int] = ()) -> Partition | None:
    """The partition that Linux uses, of regions as a history's header shows them; None when it turns DCD off (B1).

    `sharable`: DSMAD handles whose CDAT entry says so. The header tells nothing of the command log or interrupts.
    """
    return None if not regions or off(regions) else _first(regions, frozenset(sharable))


def _first(regions: Sequence[Mapping[str, Any]], sharable: frozenset[int]) -> Partition:
    first = regions[0]
    return Partition(first["base"], first.get("decode_length", first["length"]), first["dsmad_handle"] in sharable)


def off(
    regions: Sequence[Mapping[str, Any]],
    *,
    commands: Iterable[int] = (0x4800, 0x4801, 0x4802, 0x4803),
    interrupts: bool = True,
    static_bytes: int | None = None,
) -> str:
    """The clause by which Linux leaves DCD off on such a device, "" when it is on (B1).

    `commands`: opcodes in its command log. `static_bytes`: where its static capacity ends, None where not known.
    """
    if not {0x4800, 0x4801, 0x4802, 0x4803} <= set(commands):
        return "B1.commands"
    if not interrupts:
        return "B1.interrupts"
    reached = 0
    for region in regions:
        if region["dsmad_handle"] & ~0xFF:
            return "B1.dsmad"
        base, block, length = region["base"], region["block_size"], region["length"]
        decode = region.get("decode_length", length)
        if base < reached or block < 64 or block & (block - 1):
            return "B1.config"
        if base % (256 << 20) or base % block or not 0 < length <= decode or length % block:
            return "B1.config"
        reached = base + decode
    if static_bytes is not None and regions and regions[0]["base"] != static_bytes:
        return "B1.gap"
    return ""
