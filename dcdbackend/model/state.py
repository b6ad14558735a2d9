"""What the model knows of one device: its configuration, its state, and what a step gives back.

Everything is a NamedTuple (the guest imports it, and the checker makes one for every line); nothing is ever changed
in place. `State` is what the *rules* say the device holds; what the device says of itself only ever confirms it or
breaks a rule. `Notes` is what was learned from its answers (handles, generation number), `Trace` is kept only to
explain: two states that differ in their trace alone are the same state (`key`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..extents import EMPTY, NULL_TAG, Extent, ExtentSet, Intervals

if TYPE_CHECKING:
    from collections.abc import Mapping

ADD, RELEASE, FORCED = 0, 1, 2
NULL_HEX = NULL_TAG.hex()
RECENT = 8
FORMER = 32
MAX_U64 = (1 << 64) - 1


class Region(NamedTuple):
    """A DC region as 4800h reports it; bytes (CXL r3.1 8.2.9.9.9.1)."""

    id: int
    base: int
    decode_length: int
    length: int
    block_size: int
    flags: int = 0
    dsmad_handle: int = 0


class Limits(NamedTuple):
    """What the device is known to hold. None: not known, so nothing is judged by it."""

    payload_bytes: int = 2048
    supported_extents: int | None = None
    log_records: int | None = None
    hosts: tuple[int, ...] = (0,)


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
            )
            for found in device["regions"]
        ]
    )
    limits = Limits(
        device.get("payload_size", 2048),
        device.get("supported_extents"),
        device.get("log_records"),
        tuple(device.get("hosts", (0,))),
    )
    return Config(regions, view, departures, limits)


class Record(NamedTuple):
    """An event record in log 4. `handle` 0: not seen yet. `used`: extents in use when it was queued, -1 unknown."""

    handle: int
    type: int
    more: bool
    host_id: int
    dpa: int
    length: int
    tag: str
    sequence: int
    used: int


class Chain(NamedTuple):
    """An offer. `taken`: what answers with More took so far. Guest view: `complete` is False while More is awaited
    or its tail was lost; `gap`: offers that this view never saw may come before it. Device view: `lost` is True when
    the log had no room for all of its records, so that the host cannot know it.
    """

    extents: tuple[Extent, ...]
    taken: tuple[Extent, ...] = ()
    complete: bool = True
    gap: bool = False
    lost: bool = False


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
    """The whole device (or what the guest knows of it) at one moment."""

    config: Config
    accepted: ExtentSet
    pending: ExtentSet
    chains: tuple[Chain, ...]
    log: tuple[Record, ...]
    memory: Memory
    notes: Notes
    trace: Trace


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
    """An operation and its end. `sent`: the invoke's value; `type`: ok, fail or info; `received`: the end's value."""

    f: str
    sent: dict[str, Any]
    type: str
    received: dict[str, Any]


def initial(config: Config) -> State:
    """The state of a fresh device: nothing offered, nothing accepted, an empty log."""
    return State(config, EMPTY, EMPTY, (), (), NO_MEMORY, Notes(), Trace())


def key(state: State) -> tuple[object, ...]:
    """What makes two states of one device the same, hashable: all but configuration and trace."""
    return state[1:7]


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
    return found


_KINDS = {ADD: "add", RELEASE: "release", FORCED: "forced"}


def _range(record: Record) -> str:
    return str(Extent(record.dpa, record.length, bytes.fromhex(record.tag), record.sequence))
