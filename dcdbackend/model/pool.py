"""A device as a pool for several hosts: what there is beyond one host's part, and how to look at it as one of them.

`State` holds the part of one host; the others lie in `State.rest`, with what concerns the device as a whole: capacity
that it chose by itself and has not told yet, shared allocations, references to tags, what must be sanitized. `enter`
puts another host's part in front, so that every rule of one host (`decide`, `device`) works for each of them. The guest
never imports this: it is one host. Nothing is decided here, and nothing judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..extents import EMPTY, NULL_TAG, Extent, ExtentSet
from .state import ADD, NO_MEMORY, Chain, Config, Memory, Notes, Record, State, Trace, initial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .state import Region


SANITIZE = 1
"""Bit 0 of a region's flags (4800h, 5601h, 5602h): what is released from it is sanitized."""


class Peer(NamedTuple):
    """Another host's part of the state."""

    host_id: int
    accepted: ExtentSet
    pending: ExtentSet
    chains: tuple[Chain, ...]
    log: tuple[Record, ...]
    notes: Notes
    trace: Trace


class Choice(NamedTuple):
    """What the device chose by itself, as far as no record has told it yet.

    `kind`: type of its records; `length`: bytes that are still to be offered; `held`: what nobody could be given when
    it was chosen; `shown`: extents that records told; `left`: by tag, the extents still to be named, in any order.
    `settled`: the host has answered without knowing it, so that nothing of it is pending any more.
    """

    number: int
    host_id: int
    kind: int
    policy: str
    region: int
    length: int
    tag: bytes
    held: tuple[ExtentSet, ...] = ()
    shown: tuple[Extent, ...] = ()
    left: tuple[Extent, ...] = ()
    settled: bool = False


class Allocation(NamedTuple):
    """What a tag names: in a sharable region the same for every host; under a reference, kept for nobody."""

    tag: bytes
    extents: tuple[Extent, ...]


class Rest(NamedTuple):
    """What a device has beyond one host's part. `host`: the one whose part the state shows; `made`: choices so far.

    `sanitize`: capacity asked back with the request to sanitize it; `wiped`: bytes that must be gone (DEV-14).
    """

    host: int = 0
    peers: tuple[Peer, ...] = ()
    choices: tuple[Choice, ...] = ()
    made: int = 0
    shared: tuple[Allocation, ...] = ()
    references: tuple[Allocation, ...] = ()
    sanitize: ExtentSet = EMPTY
    wiped: Memory = NO_MEMORY

    def key(self) -> tuple[object, ...]:
        """As `state.key`: all but what is kept to explain."""
        return (tuple([peer[:6] for peer in self.peers]), *self[2:])

    def describe(self, most: int) -> dict[str, Any]:
        """The other hosts, and what else there is, in readable form."""
        found: dict[str, Any] = {}
        for peer in self.peers:
            found[f"host {peer.host_id}"] = {
                "accepted": [str(extent) for extent in list(peer.accepted)[:most]],
                "pending": [str(extent) for extent in list(peer.pending)[:most]],
            }
        if self.choices:
            found["chosen, not told yet"] = [_told(choice) for choice in self.choices[:most]]
        if self.references:
            found["referenced"] = [kept.tag.hex() for kept in self.references[:most]]
        return found


def _told(choice: Choice) -> str:
    if choice.left:
        return f"by tag: {' '.join([str(extent) for extent in choice.left])}"
    return f"policy {choice.policy}: {choice.length} bytes of region {choice.region} for host {choice.host_id}"


def begin(config: Config) -> State:
    """The state of a fresh device, with a part for each host that it serves."""
    state = initial(config)
    hosts = config.limits.hosts
    if hosts == (0,) and not any(region.flags & SANITIZE for region in config.regions):
        return state
    return state._replace(rest=_rest(hosts))


def whole(state: State) -> State:
    """The state with its rest, which a plain device does not have until something needs it."""
    if state.rest is not None:
        return state
    return state._replace(rest=_rest(state.config.limits.hosts))


def _rest(hosts: tuple[int, ...]) -> Rest:
    fresh = [Peer(host_id, EMPTY, EMPTY, (), (), Notes(), Trace()) for host_id in hosts[1:]]
    return Rest(hosts[0] if hosts else 0, tuple(fresh))


def rest_of(state: State) -> Rest:
    """The rest of a state that has one."""
    assert state.rest is not None, "a plain state: pool.whole() first"
    return state.rest


def enter(state: State, host_id: int) -> State:
    """The state as it stands towards `host_id`, one of the hosts that the device serves."""
    rest = rest_of(state)
    if rest.host == host_id:
        return state
    (there,) = [peer for peer in rest.peers if peer.host_id == host_id]
    here = Peer(rest.host, state.accepted, state.pending, state.chains, state.log, state.notes, state.trace)
    peers = tuple(sorted([here, *[peer for peer in rest.peers if peer is not there]], key=lambda peer: peer.host_id))
    return State(
        state.config,
        there.accepted,
        there.pending,
        there.chains,
        there.log,
        state.memory,
        there.notes,
        there.trace,
        rest._replace(host=host_id, peers=peers),
    )


def leave(state: State) -> State:
    """The state as it stands towards the first host; what made one part unknown makes all of them unknown."""
    lost = state.notes.lost
    if lost:
        rest = rest_of(state)
        peers = tuple([peer._replace(notes=peer.notes._replace(lost=lost)) for peer in rest.peers])
        state = state._replace(rest=rest._replace(peers=peers))
    return enter(state, state.config.limits.hosts[0])


def host_of(state: State, sent: dict[str, Any]) -> int:
    """The host that an operation belongs to: the one it names, else the first."""
    hosts = state.config.limits.hosts
    found: int = sent.get("host_id", hosts[0] if hosts else 0)
    return found


# ---- what all hosts hold together


def parts(state: State) -> Iterator[tuple[int, ExtentSet, ExtentSet]]:
    """Host, accepted and pending, of every host; the state's own first."""
    rest = rest_of(state)
    yield rest.host, state.accepted, state.pending
    for peer in rest.peers:
        yield peer.host_id, peer.accepted, peer.pending


def held(state: State) -> tuple[ExtentSet, ...]:
    """Everything that is nobody's to be given, as sets: accepted, pending, and kept by references."""
    sets = [found for _, accepted, pending in parts(state) for found in (accepted, pending)]
    return (*sets, *[ExtentSet(kept.extents) for kept in rest_of(state).references])


def gaps(state: State, region: Region) -> list[tuple[int, int]]:
    """(start, length) of what is free in a region, in order. Capacity chosen and not told yet counts as free."""
    found: list[tuple[int, int]] = []
    for one in held(state):
        found += [(extent.start, extent.end) for extent in one.intersecting(region.base, region.length)]
    free: list[tuple[int, int]] = []
    at = region.base
    for start, end in sorted(found):
        if start > at:
            free.append((at, start - at))
        at = max(at, end)
    if at < region.base + region.length:
        free.append((at, region.base + region.length - at))
    return free


def untold(state: State, region: Region | None = None) -> tuple[Choice, ...]:
    """The offers (in a region) whose extents no record has told whole, and that nobody has answered."""
    waits = [choice for choice in rest_of(state).choices if choice.kind == ADD and not choice.settled]
    return tuple([one for one in waits if region is None or state.config.regions[one.region] == region])


def in_use(state: State, region: Region) -> bool:
    """Whether anybody holds, is offered or keeps anything of the region."""
    if untold(state, region):
        return True
    return any(found.overlaps(region.base, region.length) for found in held(state))


def holders(state: State, tag: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The hosts that have accepted an extent of the tag, and those that have one pending."""
    chosen = [choice.host_id for choice in untold(state) if choice.tag == tag]
    have: list[int] = []
    wait: list[int] = []
    for host_id, accepted, pending in parts(state):
        if any(extent.tag == tag for extent in accepted):
            have.append(host_id)
        if host_id in chosen or any(extent.tag == tag for extent in pending):
            wait.append(host_id)
    return tuple(sorted(have)), tuple(sorted(wait))


def tags_in_use(state: State) -> frozenset[bytes]:
    """Every tag that an accepted or pending extent has, or that is referenced; the null tag is none."""
    found = {extent.tag for _, accepted, pending in parts(state) for one in (accepted, pending) for extent in one}
    found |= {choice.tag for choice in untold(state)}
    found |= {kept.tag for kept in rest_of(state).references}
    return frozenset(found - {NULL_TAG})


def allocation(state: State, tag: bytes) -> Allocation | None:
    """The shared allocation of a tag that some host still has, or that a reference keeps; None if there is none.

    What lies in its place by another tag is none of it: the tag was given up before.
    """
    found = next((one for one in rest_of(state).shared if one.tag == tag), None)
    if found is None:
        return None
    if any(kept.tag == tag for kept in rest_of(state).references):
        return found
    for _, accepted, pending in parts(state):
        for extent in found.extents:
            if _of_tag(accepted, extent) or _of_tag(pending, extent):
                return found
    return None


def complete(state: State, found: Allocation) -> bool:
    """Whether each of its extents is held whole by somebody, so that nothing of it can have gone back to free."""
    if any(kept.tag == found.tag for kept in rest_of(state).references):
        return True
    sets = [one for _, accepted, pending in parts(state) for one in (accepted, pending)]
    return all(any(_of_tag(one, extent) == extent.length for one in sets) for extent in found.extents)


def _of_tag(found: ExtentSet, extent: Extent) -> int:
    """How many bytes of an extent are in the set by the extent's own tag."""
    shared = [one for one in found.intersecting(extent.start, extent.length) if one.tag == extent.tag]
    return sum(min(one.end, extent.end) - max(one.start, extent.start) for one in shared)
