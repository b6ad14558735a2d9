"""What the model knows of one device: its configuration, its state, and what a step gives back.

Everything is a NamedTuple (the guest imports it, and the checker makes one for every line); nothing is ever changed
in place. `State` is what the *rules* say the device holds; what the device says of itself only ever confirms it or
breaks a rule. `Notes` is what was learned from its answers (handles, generation number), `Trace` is kept only to
explain: two states that differ in their trace alone are the same state (`key`).

A `State` is the part of one host. What a device has beyond that (other hosts, capacity that it chose by itself,
references to tags) is `State.rest`, None on a plain device and in the guest; `pool` puts it there and keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..extents import EMPTY, NULL_TAG, Extent, ExtentSet, Intervals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .pool import Rest

ADD, RELEASE, FORCED, CONFIGURED = 0, 1, 2, 3
CHOSEN = -1
"""Type of a place in the log for records that only the device knows yet (`Record.sequence`: the choice's number)."""
NULL_HEX = NULL_TAG.hex()
RECENT = 8
FORMER = 32
MAX_U64 = (1 << 64) - 1


class Region(NamedTuple):
    """A DC region as 4800h reports it; bytes (CXL r3.1 8.2.9.9.9.1). `flags` bit 0: sanitize on release.

    `sharable`: its capacity may be given to several hosts at once (CDAT DSMAS bit 3, 5601h).
    """

    id: int
    base: int
    decode_length: int
    length: int
    block_size: int
    flags: int = 0
    dsmad_handle: int = 0
    sharable: bool = False


class Limits(NamedTuple):
    """What the device is known to hold and to serve. None: not known, so nothing is judged by it.

    `selection`, `removal`: the policies that 5600h advertises, by name; `sanitize_configurable`: bit n says that 5602h
    may change region n's sanitize flag; `references`: whether 5606h to 5608h are in the command log; `first_sequence`:
    the number of a shared allocation's first extent, 0 from CXL r4.0 on, 1 before.
    """

    payload_bytes: int = 2048
    supported_extents: int | None = None
    log_records: int | None = None
    hosts: tuple[int, ...] = (0,)
    supported_tags: int | None = None
    selection: frozenset[str] | None = None
    removal: frozenset[str] | None = None
    sanitize_configurable: int | None = None
    references: bool | None = None
    first_sequence: int | None = None


class Config(NamedTuple):
    """The device as it was set up. `view`: "device" sees managers and hosts, "guest" one host's mailbox only.

    `departures`: ids of `departures.DEPARTURES` that this device is known to have.
    """

    regions: tuple[Region, ...]
    view: str = "device"
    departures: frozenset[str] = frozenset()
    limits: Limits = Limits()


def config_of(device: Mapping[str, Any], *, view: str = "device", departures: frozenset[str] = frozenset()) -> Config:
    """The Config of a device as the history's header (or the agent) describes it: `regions`, and limits if known."""
    regions = tuple(
        [
            Region(
                found["index"],
                found["base"],
                found.get("decode_length", found["length"]),
                found["length"],
                found["block_size"],
                found.get("flags", 0),
                found.get("dsmad_handle", 0),
                found.get("sharable", False),
            )
            for found in device["regions"]
        ]
    )
    limits = Limits(
        device.get("payload_size", 2048),
        device.get("supported_extents"),
        device.get("log_records"),
        tuple(device.get("hosts", (0,))),
        device.get("supported_tags"),
        _names(device.get("selection_policies")),
        _names(device.get("removal_policies")),
        device.get("sanitize_configurable"),
        device.get("tag_references"),
        device.get("first_sequence"),
    )
    return Config(regions, view, departures, limits)


def _names(found: Any) -> frozenset[str] | None:
    return None if found is None else frozenset(found)


class Record(NamedTuple):
    """An event record in log 4. `handle` 0: not seen yet. `used`: extents in use when it was queued, -1 unknown.

    `region`: the one set up anew, in a record of type 3. `tags`: tags in use when it was queued, -1 not judged.
    `policy`: by which the extent was chosen, "" where the manager named it.
    """

    handle: int
    type: int
    more: bool
    host_id: int
    dpa: int
    length: int
    tag: str
    sequence: int
    used: int
    region: int = 0
    tags: int = -1
    policy: str = ""


class Chain(NamedTuple):
    """An offer. `taken`: what answers with More took so far. Guest view: `complete` is False while More is awaited
    or its tail was lost; `gap`: offers that this view never saw may come before it. Device view: `lost` is True when
    the log had no room for all of its records, so that the host cannot know it. `choice`: the number of the choice
    that it waits for, 0 none: records will tell its extents.
    """

    extents: tuple[Extent, ...]
    taken: tuple[Extent, ...] = ()
    complete: bool = True
    gap: bool = False
    lost: bool = False
    choice: int = 0


class Segment(NamedTuple):
    """Bytes known to be at a DPA."""

    start: int
    length: int
    data: bytes

    def part(self, start: int, length: int, /) -> Segment:
        """The piece [start, start + length) of it."""
        at = start - self.start
        return Segment(start, length, self.data[at : at + length])


Memory = Intervals[Segment]
NO_MEMORY: Memory = Intervals()


class Notes(NamedTuple):
    """What was learned. `asked`: capacity with a release request; `changed`: the list did, since `generation`.

    `overflow`: records lost since the last clear; `untold`: those that no finding named yet; `cleared_all`: the
    device said that it did, and may have departed; `gap`: offers may follow that this view never sees; `shadow`: the
    chain that stays open by the rules where a departed device settled it; `lost`: why nothing is known any more.
    """

    asked: ExtentSet = EMPTY
    generation: int | None = None
    changed: bool = False
    supported: int | None = None
    overflow: int = 0
    untold: tuple[Record, ...] = ()
    cleared_all: bool = False
    gap: bool = False
    shadow: Chain | None = None
    lost: str = ""


class Recent(NamedTuple):
    """Something that a later witness of these ranges tells about: the clause, and the state it is about ("": any)."""

    clause: str
    state: str
    ranges: tuple[tuple[int, int], ...]


class Scan(NamedTuple):
    """Pages of one generation of the list, read one after the other."""

    next: int
    seen: ExtentSet


class Trace(NamedTuple):
    """Kept to name the right clause, and to tell that a clause was really tested; no part of the state.

    `dropped`: stores that must have kept nothing; `former`: bytes that may still lie in capacity given back, None
    when there are too many to tell; `cleared`: the last handles cleared.
    """

    recent: tuple[Recent, ...] = ()
    scan: Scan | None = None
    dropped: tuple[Segment, ...] = ()
    former: tuple[Segment, ...] | None = ()
    cleared: tuple[int, ...] = ()


class State(NamedTuple):
    """The device (or what the guest knows of it) at one moment, as it stands towards one host.

    `memory` is the device's, whatever the host. `rest`: see `pool.Rest`; functions of `decide` may leave it out.
    """

    config: Config
    accepted: ExtentSet
    pending: ExtentSet
    chains: tuple[Chain, ...]
    log: tuple[Record, ...]
    memory: Memory
    notes: Notes
    trace: Trace
    rest: Rest | None = None


class Violation(NamedTuple):
    """A rule broken: by the device, which ends its judgement, or (in `Next.findings`) by the host, or as known.

    `outcome`: "fail" or "departure". `evidence`: sent, received, expected and the like, as plain data. `also`: what
    else the same step showed; `judged`: clauses that the same step tested and that held.
    """

    clause: str
    subject: str
    outcome: str
    text: str
    evidence: dict[str, Any]
    departure: str | None = None
    also: tuple[Violation, ...] = ()
    judged: tuple[str, ...] = ()


class Next(NamedTuple):
    """A permitted step. `judged`: clauses really tested, which held; `unknown`: those that this view cannot judge."""

    state: State
    judged: tuple[str, ...] = ()
    findings: tuple[Violation, ...] = ()
    unknown: tuple[str, ...] = ()


def fail(clause: str, text: str, op: Completed, **evidence: Any) -> Violation:
    """The device broke a clause."""
    return Violation(clause, "device", "fail", text, {"sent": op.sent, "received": plain(op.received), **evidence})


def breach(clause: str, text: str, op: Completed, **evidence: Any) -> Violation:
    """The host broke a clause."""
    return Violation(clause, "host", "fail", text, {"sent": op.sent, **evidence})


def departed(name: str, clause: str, text: str, op: Completed, **evidence: Any) -> Violation:
    """The device differs from a clause in a known way."""
    evidence = {"sent": op.sent, "received": plain(op.received), **evidence}
    return Violation(clause, "device", "departure", text, evidence, name)


def plain(received: dict[str, Any]) -> dict[str, Any]:
    """What was received, without the guest's own judgement of it."""
    if "judged" not in received:
        return received
    return {name: value for name, value in received.items() if name != "judged"}


class Completed(NamedTuple):
    """An operation and its end. `sent`: the invoke's value; `type`: ok, fail or info; `received`: the end's value.

    `process` and the two times are filled in where a model of the host judges too; the device's asks for neither.
    """

    f: str
    sent: dict[str, Any]
    type: str
    received: dict[str, Any]
    process: str = ""
    begin_ns: int = 0
    end_ns: int = 0


def initial(config: Config) -> State:
    """The state of a fresh device: nothing offered, nothing accepted, an empty log."""
    return State(config, EMPTY, EMPTY, (), (), NO_MEMORY, Notes(), Trace())


def key(state: State) -> tuple[object, ...]:
    """What makes two states of one device the same, hashable: all but trace, and limits that never change."""
    if state.rest is None:
        return state[1:7]
    return (*state[1:7], state.rest.key(), state.config.regions)


def lose(state: State, why: str) -> State:
    """The state from which nothing is known any more."""
    return state._replace(notes=state.notes._replace(lost=why))


def remember(trace: Trace, *recent: Recent) -> Trace:
    """The trace with what has just happened in it; the oldest is forgotten past `RECENT`."""
    return trace._replace(recent=(trace.recent + recent)[-RECENT:])


def describe(state: State, most: int = 16) -> dict[str, Any]:
    """The state in readable form, for an explanation: at most `most` extents of each kind."""
    accepted: list[str] = []
    for extent in state.accepted:
        if len(accepted) == most:
            accepted.append(f"... {len(state.accepted)} in all")
            break
        accepted.append(str(extent))
    chains = [
        [str(extent) for extent in chain.extents[:most]]
        + ([f"... {len(chain.extents)} in all"] if len(chain.extents) > most else [])
        for chain in state.chains[:most]
    ]
    log = [
        f"{record.handle or '?'}:{_KINDS.get(record.type, record.type)} {_range(record)}" for record in state.log[:most]
    ]
    found: dict[str, Any] = {"accepted": accepted, "offers": chains, "log": log}
    if state.notes.lost:
        found["lost"] = state.notes.lost
    if state.rest is not None:
        found.update(state.rest.describe(most))
    return found


_KINDS = {ADD: "add", RELEASE: "release", FORCED: "forced", CONFIGURED: "configured", CHOSEN: "chosen by the device"}


def _range(record: Record) -> str:
    return str(Extent(record.dpa, record.length, bytes.fromhex(record.tag), record.sequence))
