"""What the outside sees of a Linux host, held against the model: sysfs as a value, and answers inferred from lists.

A kernel does not tell which commands it sends. What it did is inferred: from the device's list before and after, from
log lines, from the files under the dax region. `judge` compares such a sight with the state that the model is in and
names the clause that a difference breaks. Extents are numbered by the kernel as it likes (Q11): the number is not
judged. How the files are read is not its business: the agent, a recorded session and a simulated host all bring a
`Sight`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..extents import NULL_TAG, Extent
from .claims import parse_uuid, reads, show_uuid
from .host import Dax, Host, Online
from .permitted import Command, Dropped, Range, breach

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .state import Violation

PAGE_BYTES = 4096


class SeenExtent(NamedTuple):
    """An extentX.Y directory: offset in its region, length, and its uuid file, None where there is none."""

    name: str
    offset: int
    length: int
    uuid: str | None = None


class SeenMapping(NamedTuple):
    """A mappingN directory of a DAX device: physical addresses, the end inclusive; page_offset in pages."""

    start: int
    end: int
    page_offset: int


class SeenDax(NamedTuple):
    """A DAX device's directory. None: not looked at. `has_uuid`: there is a uuid file; `hotplug`: what that file reads
    (generation C)."""

    name: str
    size: int | None = None
    uuid: str | None = None
    has_uuid: bool | None = None
    mappings: tuple[SeenMapping, ...] | None = None
    driver: str | None = None
    has_driver: bool | None = None
    hotplug: str | None = None


class Sight(NamedTuple):
    """What was seen of one region at one moment. None: not looked at. `names`: extents of which only the name is known.

    `devices`: those that were looked at; `all_devices`: the names of all that there are.
    """

    region: str
    mode: str | None = None
    available: int | None = None
    extents: tuple[SeenExtent, ...] | None = None
    names: tuple[str, ...] | None = None
    devices: tuple[SeenDax, ...] = ()
    all_devices: tuple[str, ...] | None = None


class Look(NamedTuple):
    """What a sight says: clauses that it tested and that held, and what it breaks."""

    judged: tuple[str, ...]
    findings: tuple[Violation, ...]


def _by_size(host: Host) -> bool:
    return host.setup.generation.claim == "size"


def _clause(host: Host, sparse: str, tagged: str, policy: str) -> str:
    return {"sparse": sparse, "tagged": tagged, "policy": policy}[host.setup.generation.kind]


def _by_policy(host: Host) -> bool:
    return host.setup.generation.kind == "policy"


def _devices_clause(host: Host, region: str) -> str:
    """The clause by which a region has the DAX devices that it has."""
    if not _by_policy(host):
        return "A14.any" if _by_size(host) else "B30.one"
    found = host.region(region)
    if not found.driver:
        return "C1.undo"
    if found.mode != "dc":
        return "C9.auto" if found.driver == "region" else "C1.unprobed"
    extents = host.in_region(region)
    if not extents:
        return "C1.bare"
    if found.driver == "sysram":
        return "C2.device" if extents[0].tag != NULL_TAG else "C3.direct"
    return "C6.device" if found.driver == "virtio" else "C5.device"


def show_extent(extent: Online) -> SeenExtent:
    """An extent as sysfs shows it; the null tag has no uuid file."""
    number = "".join([letter for letter in extent.region if letter in "0123456789"]) or "0"
    uuid = None if extent.tag == NULL_TAG else show_uuid(extent.tag)
    return SeenExtent(f"extent{number}.{extent.id}", extent.offset, extent.length, uuid)


def show_extents(host: Host, region: str) -> tuple[SeenExtent, ...]:
    """The extents under a region as sysfs shows them; with interleave each stands for the shares of all ways."""
    found = host.region(region)
    ways = max(1, len(found.ways))
    shown = [show_extent(extent) for extent in host.surfaced(region) if extent.memdev == found.memdev]
    return tuple([one._replace(offset=one.offset * ways, length=one.length * ways) for one in shown])


def show_dax(host: Host, device: Dax) -> SeenDax:
    """A DAX device as sysfs shows it."""
    region = host.region(device.region)
    hpa, ways = region.hpa, max(1, len(region.ways))
    places = {extent.age: extent.offset for extent in host.extents}
    mappings = []
    page = 0
    for piece in device.mapped[::ways]:  # the shares of an extent come one after the other
        start = hpa + (places[piece.age] + piece.at) * ways
        mappings.append(SeenMapping(start, start + piece.length * ways - 1, page))
        page += piece.length * ways // PAGE_BYTES
    uuid = reads(host, device)
    return SeenDax(
        device.name,
        device.size,
        uuid,
        uuid is not None,
        tuple(mappings),
        device.driver,
        device.driver is not None,
        device.hotplug,
    )


def _mode(host: Host, region: str) -> str:
    return host.region(region).mode if _by_policy(host) else host.setup.generation.mode


def look(host: Host, region: str) -> Sight:
    """What the model's state looks like from outside."""
    devices = tuple([device for device in host.devices if device.region == region])
    extents = show_extents(host, region)
    return Sight(
        region,
        _mode(host, region),
        None if _by_policy(host) else host.available(region),
        extents,
        tuple([extent.name for extent in extents]),
        tuple([show_dax(host, device) for device in devices]),
        tuple([device.name for device in devices]),
    )


def judge(host: Host, sight: Sight, dropped: Sequence[Dropped] = ()) -> Look:
    """A sight against the state. `dropped`: what gates have refused lately, to name the gate that let it pass."""
    judged: list[str] = []
    findings: list[Violation] = []
    if sight.mode is not None:
        clause = _clause(host, "A1.mode", "B1.mode", "C1.create")
        judged.append(clause)
        expected = _mode(host, sight.region)
        if sight.mode != expected:
            findings.append(breach(clause, f"the mode is {sight.mode}, of this generation it is {expected}"))
    if sight.extents is not None or sight.names is not None:
        clause = _clause(host, "A8.one", "B5.surfaced", "C1.surfaced")
        clause = "WHAT-IF.interleave" if host.region(sight.region).ways else clause
        judged.append(clause)
        findings += _extents(host, sight, clause, dropped)
    if sight.available is not None and not _by_policy(host):
        clause = "A14.available" if _by_size(host) else "B31.available"
        judged.append(clause)
        expected_size = host.available(sight.region)
        if sight.available != expected_size:
            findings.append(breach(clause, f"available_size is {sight.available}, unclaimed are {expected_size}"))
    if sight.all_devices is not None:
        there = sorted([device.name for device in host.devices if device.region == sight.region])
        clause = _devices_clause(host, sight.region)
        judged.append(clause)
        if sorted(sight.all_devices) != there:
            findings.append(breach(clause, f"DAX devices {sorted(sight.all_devices)}, there should be {there}"))
    for seen in sight.devices:
        device = next((one for one in host.devices if one.name == seen.name), None)
        if device is not None:
            findings += (_of_policy if _by_policy(host) else _dax)(host, device, seen, judged)
    wrong = {finding.clause for finding in findings}
    return Look(tuple([clause for clause in dict.fromkeys(judged) if clause not in wrong]), tuple(findings))


def _key(extent: SeenExtent) -> tuple[int, int, bytes]:
    tag = parse_uuid(extent.uuid) if extent.uuid else NULL_TAG
    return (extent.offset, extent.length, b"?" if tag is None else tag)


def _extents(host: Host, sight: Sight, clause: str, dropped: Sequence[Dropped]) -> list[Violation]:
    there = show_extents(host, sight.region)
    if sight.extents is None:
        names = sight.names or ()
        if len(set(names)) == len(there):
            return []
        return [breach(clause, f"{len(set(names))} extents are shown, there should be {len(there)}", seen=list(names))]
    expected = {_key(extent): extent for extent in there}
    seen = {_key(extent): extent for extent in sight.extents}
    missing = [extent for key, extent in expected.items() if key not in seen]
    extra = [extent for key, extent in seen.items() if key not in expected]
    found = []
    for one in missing:
        text = f"{_spelt(host, sight.region, one)} is not shown under {sight.region}"
        found.append(breach(clause, text, seen=[str(extent) for extent in sight.extents]))
    start = host.region(sight.region).start
    for other in extra:
        refused = [
            one.clause
            for one in dropped
            if (one.extent.start, one.extent.length) == (start + other.offset, other.length)
        ]
        blamed = refused[-1] if refused and not missing else clause
        found.append(
            breach(blamed, f"{other.name} at offset 0x{other.offset:x}+0x{other.length:x} should not be there")
        )
    return found


def _spelt(host: Host, region: str, extent: SeenExtent) -> str:
    tag = parse_uuid(extent.uuid) if extent.uuid else NULL_TAG
    return str(Extent(host.region(region).start + extent.offset, extent.length, tag or NULL_TAG))


def _dax(host: Host, device: Dax, seen: SeenDax, judged: list[str]) -> list[Violation]:
    """A DAX device: its size, what its uuid reads, its mappings."""
    expected = show_dax(host, device)
    by_size = _by_size(host)
    found: list[Violation] = []
    if seen.has_uuid is not None and by_size:
        judged.append("A14.uuid")
        if seen.has_uuid:
            found.append(breach("A14.uuid", f"{seen.name} has a uuid file"))
    elif seen.uuid is not None:
        judged.append("B27.reads")
        if seen.uuid != expected.uuid:
            found.append(breach("B27.reads", f"{seen.name}/uuid reads {seen.uuid}, due is {expected.uuid}"))
    if seen.size is not None:
        clause = "A14.any" if by_size else "B30.sum" if expected.size else "B27.zero"
        judged.append(clause)
        if seen.size != expected.size:
            found.append(breach(clause, f"{seen.name}/size is {seen.size}, due is {expected.size}"))
    if seen.mappings is not None and not by_size:
        judged += ["B27.sequence", "B30.one"]
        if seen.mappings != expected.mappings:
            same = sorted(seen.mappings) == sorted(expected.mappings or ())
            places = {(one.start, one.end) for one in seen.mappings}
            reordered = places == {(one.start, one.end) for one in expected.mappings or ()}
            clause = "B27.sequence" if reordered or same else "B30.one"
            found.append(breach(clause, f"{seen.name} maps {_maps(seen)}, due is {_maps(expected)}"))
    return found


def _of_policy(host: Host, device: Dax, seen: SeenDax, judged: list[str]) -> list[Violation]:
    """A DAX device of generation C: what it is made of, its tag, its driver, whether its memory is online."""
    expected = show_dax(host, device)
    region = host.region(device.region)
    clause = _devices_clause(host, device.region)
    uuid = "C2.uuid" if region.driver == "sysram" else "C6.device" if region.driver == "virtio" else "C5.uuid"
    probed = "C1.probe" if clause == "C1.unprobed" and device.driver is not None else clause
    parts = [
        (clause, "size", seen.size, expected.size),
        (clause, "mappings", seen.mappings, expected.mappings),
        (uuid, "uuid", seen.uuid, expected.uuid),
        ("C9.auto" if clause == "C9.auto" else "C2.online", "hotplug", seen.hotplug, expected.hotplug),
    ]
    if seen.has_driver is not None:
        parts.append((probed, "driver", seen.driver or "none", expected.driver or "none"))
    found: list[Violation] = []
    for broken, what, saw, due in parts:
        if saw is None or due is None:
            continue
        judged.append(broken)
        if saw != due:
            found.append(breach(broken, f"{seen.name}/{what} is {saw}, due is {due}"))
    return found


def _maps(device: SeenDax) -> str:
    return ", ".join([f"0x{one.start:x}-0x{one.end:x}" for one in device.mappings or ()]) or "nothing"


def inferred(memdev: str, before: Sequence[Range], after: Sequence[Range], closed: bool) -> tuple[Command, ...]:
    """The commands that took a device's list from one state to the next.

    What is new was named by one answer, in the order of the list (QEMU appends); what is gone was given back, one range
    a command. `closed`: a chain was closed, so that an answer came in any case.
    """
    gone = [pair for pair in before if pair not in after]
    new = [pair for pair in after if pair not in before]
    commands = [Command("give_back", memdev, (pair,)) for pair in gone]
    if closed or new:
        commands.append(Command("answer", memdev, tuple(new)))
    return tuple(commands)
