"""What a fabric manager may have a device do, beyond an add and a release that name their extents: decided and done.

It is `decide` for the whole device: offers by every selection policy, to any of its hosts (DEV-13, DEV-15), release by
tag, forced release (DEV-12), region configuration (DEV-18), references to tags (DEV-21). As there, `decide_*` finds
every reason to refuse and `do_*` gives the state of a command that succeeded; nothing here looks at an answer. All of
them take a state with its rest, as it stands towards the host addressed (`pool.enter`). What the specification leaves
open is a code too many in a decision, never a fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..extents import NULL_TAG, Extent, ExtentSet
from .choice import CONTIGUOUS, FREE, PRESCRIPTIVE, SHARED, TAG_BASED, asked_bytes, begin, tag_of, with_shared
from .decide import (
    ACCEPTED,
    BAD_BLOCK,
    ELSEWHERE,
    EMPTY_RANGE,
    FIXED,
    IN_USE,
    INVALID_INPUT,
    KEPT,
    LEGAL,
    NO_PLACE,
    NO_ROOM,
    NO_TAG,
    NOT_HELD,
    NOT_SHARABLE,
    OFF_BLOCK,
    ONE_TAG,
    OPCODE,
    OVERLAP,
    PENDING,
    POLICY,
    REGION,
    START,
    TAGS,
    TOO_MANY,
    UNSUPPORTED,
    Decision,
    apply_add,
    ask,
    decide_add,
    decide_release,
    decision,
    list_changed,
    manager_extents,
    overlapping,
    push,
    queue,
    region_of,
    shape,
    supported_extents,
    vacate,
)
from .pool import (
    SANITIZE,
    Allocation,
    Choice,
    allocation,
    complete,
    enter,
    gaps,
    in_use,
    parts,
    rest_of,
    tags_in_use,
    untold,
)
from .state import ADD, CONFIGURED, FORCED, NULL_HEX, RELEASE, Recent, Record, State, remember

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .state import Region


def region_asked(state: State, sent: dict[str, Any]) -> Region | None:
    """The region that a request names by its number, None if there is none."""
    number, regions = sent["region"], state.config.regions
    return regions[number] if 0 <= number < len(regions) else None


# ---- offers


def decide_offer(state: State, sent: dict[str, Any]) -> Decision:
    """5604h by any policy (CXL r3.1 7.6.7.6.5): DEV-2, DEV-3, DEV-8, DEV-13, DEV-15, DEV-19, DEV-21."""
    policy = sent["policy"]
    served = state.config.limits.selection
    if served is not None and policy not in served:
        return decision("add", POLICY)
    unsure = POLICY if served is None and policy != PRESCRIPTIVE else 0
    if policy == SHARED:
        return _with(decide_shared(state, sent), 0, unsure)
    if policy in (FREE, CONTIGUOUS):
        return _with(_decide_choice(state, sent), 0, unsure)
    return _decide_named(state, sent)


def _with(found: Decision, faults: int, unsure: int, f: str = "add") -> Decision:
    """The decision with more in it."""
    if not faults | unsure:
        return found
    return decision(f, found.faults | faults, found.unsure | unsure, found.codes)


def _decide_named(state: State, sent: dict[str, Any]) -> Decision:
    """Policy prescriptive: what one host's part says, and what the others, tags and references add to it."""
    extents = manager_extents(state, sent)
    faults = unsure = 0
    for extent in extents:
        more, perhaps = _claimed(state, extent)
        faults |= more
        unsure |= perhaps
    if extents:
        unsure |= _uncounted(state)
    return _with(
        decide_add(state, sent, extents), faults | _tags(state, {one.tag for one in extents}), unsure & ~faults
    )


def _claimed(state: State, extent: Extent) -> tuple[int, int]:
    """Reasons that others have against an extent, certain and not: other hosts, shared tags, references, choices."""
    start, length, tag, _sequence = extent
    region = region_of(state.config, start, length)
    if region is None or length <= 0:
        return 0, 0
    faults = unsure = 0
    known = allocation(state, tag) if region.sharable and tag != NULL_TAG else None
    same = known is not None and any((one.start, one.length) == (start, length) for one in known.extents)
    if known is not None and not same:
        faults |= ONE_TAG
    for host_id, accepted, pending in parts(state):
        if host_id == rest_of(state).host or not (accepted.overlaps(start, length) or pending.overlaps(start, length)):
            continue
        if same:  # the allocation again by its extents and not by the policy for it: no rule says
            unsure |= ELSEWHERE
        else:
            faults |= ONE_TAG if region.sharable else ELSEWHERE
    for kept in rest_of(state).references:
        if any(one.start < start + length and start < one.end for one in kept.extents):
            if kept.tag == tag:
                unsure |= KEPT
            else:
                faults |= KEPT
    for choice in untold(state, region):
        unsure |= PENDING if choice.host_id == rest_of(state).host else ELSEWHERE
    return faults, unsure


def _uncounted(state: State) -> int:
    """TOO_MANY where the device may have chosen more extents than are known of, so that it may be full."""
    if supported_extents(state) is None:
        return 0
    return TOO_MANY if any(choice.host_id == rest_of(state).host for choice in untold(state)) else 0


def _tags(state: State, tags: set[bytes]) -> int:
    """TAGS where a request would have the device track more than it says it can."""
    supported = state.config.limits.supported_tags
    tags -= {NULL_TAG}
    if supported is None or not tags:
        return 0
    used = tags_in_use(state)
    return TAGS if tags - used and len(used | tags) > supported else 0


def _decide_choice(state: State, sent: dict[str, Any]) -> Decision:
    """Policies free and contiguous: whether the region has so much, in one piece or in several."""
    region = region_asked(state, sent)
    if region is None:
        return decision("add", REGION)
    length, tag = asked_bytes(sent), tag_of(sent)
    if length <= 0 or length % region.block_size:
        return decision("add", EMPTY_RANGE if length <= 0 else OFF_BLOCK, 0, frozenset((INVALID_INPUT,)))
    faults = unsure = 0
    free = sorted([size for _, size in gaps(state, region)], reverse=True)
    open_choices = untold(state, region)
    room = sum(free) - sum([choice.length for choice in open_choices])
    if length > room or (sent["policy"] == CONTIGUOUS and length > free[0]):
        faults |= NO_ROOM
    elif sent["policy"] == CONTIGUOUS and open_choices:
        unsure |= NO_ROOM
    supported = supported_extents(state)
    if supported is not None and not faults:
        used = len(state.accepted) + len(state.pending)
        least = 1 if sent["policy"] == CONTIGUOUS else _fewest(free, length)
        if used + least > supported:
            faults |= TOO_MANY
        elif used + length // region.block_size > supported:
            unsure |= TOO_MANY
    unsure |= _uncounted(state)
    named = allocation(state, tag) is not None or any(one.tag == tag for one in open_choices)
    if region.sharable and tag != NULL_TAG and named:
        faults |= ONE_TAG
    return decision("add", faults | _tags(state, {tag}), unsure & ~faults)


def _fewest(sizes: list[int], length: int) -> int:
    """With how few of the gaps, largest first, the length can be had."""
    count = 0
    for size in sizes:
        if length <= 0:
            break
        length -= size
        count += 1
    return count


def decide_shared(state: State, sent: dict[str, Any]) -> Decision:
    """Policy enable shared access: another host's allocation of the tag, in a sharable region."""
    region = region_asked(state, sent)
    if region is None:
        return decision("add", REGION)
    if not region.sharable:
        return decision("add", NOT_SHARABLE)
    tag = tag_of(sent)
    found = allocation(state, tag)
    if found is None:
        waits = any(one.tag == tag for one in untold(state, region))
        return decision("add", 0, NO_TAG | ACCEPTED | PENDING | TOO_MANY) if waits else decision("add", NO_TAG)
    faults = 0
    for extent in found.extents:
        if region_of(state.config, extent.start, extent.length) is not region:
            faults |= NO_TAG
        if state.accepted.overlaps(extent.start, extent.length):
            faults |= ACCEPTED
        if state.pending.overlaps(extent.start, extent.length):
            faults |= PENDING
    supported = supported_extents(state)
    if supported is not None and len(state.accepted) + len(state.pending) + len(found.extents) > supported:
        faults |= TOO_MANY
    more = frozenset((INVALID_INPUT,)) if faults else frozenset()
    unsure = _uncounted(state) | (0 if complete(state, found) else NO_TAG)
    return decision("add", faults, 0 if faults else unsure, more)


def do_offer(state: State, sent: dict[str, Any]) -> State:
    """The offer of a request whose extents are the device's own choice: open until records tell them."""
    region = region_asked(state, sent)
    assert region is not None
    tag = tag_of(sent)
    choice = Choice(
        0, rest_of(state).host, ADD, sent["policy"], state.config.regions.index(region), asked_bytes(sent), tag
    )
    return begin(state, choice)


def offered(state: State, sent: dict[str, Any]) -> tuple[Extent, ...]:
    """The extents that a request offers, where they are known beforehand."""
    if sent["policy"] != SHARED:
        return manager_extents(state, sent)
    found = allocation(state, tag_of(sent))
    assert found is not None
    return tuple(sorted(found.extents, key=lambda extent: extent.sequence))


def do_named(state: State, sent: dict[str, Any], extents: Sequence[Extent]) -> State:
    """The offer of these extents queued; a tag in a sharable region names them from now on."""
    if not extents:
        return state
    rest, before = rest_of(state), len(state.log)
    gap = state.notes.gap
    state = apply_add(state, sent, extents)
    if gap:
        last = state.chains[-1]._replace(gap=True)
        state = state._replace(notes=state.notes._replace(gap=False), chains=(*state.chains[:-1], last))
    if sent["policy"] != SHARED:
        for tag in dict.fromkeys([one.tag for one in extents if one.tag != NULL_TAG]):
            own = tuple([one for one in extents if one.tag == tag])
            region = region_of(state.config, own[0].start, own[0].length)
            if region is not None and region.sharable and allocation(state._replace(rest=rest), tag) is None:
                rest = with_shared(rest, Allocation(tag, own))
    state = state._replace(rest=rest)
    policy = "" if sent["policy"] == PRESCRIPTIVE else sent["policy"]
    tags = -1 if state.config.limits.supported_tags is None else len(tags_in_use(state))
    if policy or tags >= 0:
        made = tuple([record._replace(policy=policy, tags=tags) for record in state.log[before:]])
        state = state._replace(log=(*state.log[:before], *made))
    return _counted(state, before)


def _counted(state: State, before: int) -> State:
    """The state, in which the records from `before` on say nothing of extents in use where that is not known."""
    host_id = rest_of(state).host
    if not any(choice.host_id == host_id for choice in untold(state)):
        return state
    made = tuple([record._replace(used=-1) for record in state.log[before:]])
    return state._replace(log=(*state.log[:before], *made))


# ---- release requests


def is_plain(sent: dict[str, Any]) -> bool:
    """Whether an add or release is one that one host's part decides alone: over QMP, by name, nothing asked besides."""
    return sent["via"] == "qmp" and sent["policy"] == PRESCRIPTIVE and not (sent.get("forced") or sent.get("sanitize"))


def is_forced(f: str, sent: dict[str, Any]) -> bool:
    """Whether a request takes what it names at once: `force`, or a `release` with that flag."""
    return f == "force" or bool(sent.get("forced"))


def by_tag(sent: dict[str, Any]) -> bool:
    """Whether a release names a tag and no extents."""
    return bool(sent["policy"] == TAG_BASED)


def decide_ask(state: State, sent: dict[str, Any], *, forced: bool) -> Decision:
    """5605h by any policy, forced or not (CXL r3.1 7.6.7.6.6): DEV-8, DEV-11, DEV-12, DEV-13."""
    f = "force" if forced else "release"
    served = state.config.limits.removal
    if served is not None and sent["policy"] not in served:
        return decision(f, POLICY)
    unsure = POLICY if served is None and sent["policy"] != PRESCRIPTIVE else 0
    if by_tag(sent):
        if tag_of(sent) == NULL_TAG:  # whether that names all that has no tag, no rule says
            return decision(f, 0, unsure | NO_TAG)
        own = [choice for choice in untold(state) if choice.host_id == rest_of(state).host]
        if forced and any(choice.tag == tag_of(sent) for choice in own):  # what of it there is, only the device knows
            return decision(f, 0, unsure | NO_TAG)
        found = asked_extents(state, sent, forced=forced)
        return decision(f, 0 if found else NO_TAG, unsure)
    extents = manager_extents(state, sent)
    if not forced:
        return _with(decide_release(state, sent, extents), 0, unsure, f)
    return _with(_decide_force(state, sent, extents), 0, unsure, f)


def _decide_force(state: State, sent: dict[str, Any], extents: Sequence[Extent]) -> Decision:
    """As for a request, but pending capacity may be named too."""
    found = decide_release(state, sent, extents)
    faults, unsure = found.faults & ~(PENDING | NOT_HELD), found.unsure & ~POLICY
    for start, length, _tag, _sequence in extents:
        if shape(state.config, start, length) & NO_PLACE or state.accepted.covers(start, length):
            continue
        if state.pending.covers(start, length):
            continue
        region = region_of(state.config, start, length)
        own = [choice for choice in untold(state, region) if choice.host_id == rest_of(state).host]
        both = state.accepted
        for extent in state.pending.intersecting(start, length):
            both = both.add(extent)
        if own or both.covers(start, length):  # a range of both kinds: no rule says
            unsure |= NOT_HELD
        else:
            faults |= NOT_HELD
    if len(extents) > 1 and overlapping([(one.start, one.length) for one in extents]):
        faults |= OVERLAP
    more = frozenset((INVALID_INPUT,)) if not extents else frozenset()
    return decision("force", faults, unsure & ~faults, more)


def asked_extents(state: State, sent: dict[str, Any], *, forced: bool) -> tuple[Extent, ...]:
    """The extents that a release means: those named, or all of the tag that the host holds (forced: or is offered)."""
    if not by_tag(sent):
        return manager_extents(state, sent)
    tag = tag_of(sent)
    found = [extent for extent in state.accepted if extent.tag == tag]
    if forced:
        found += [extent for extent in state.pending if extent.tag == tag]
    return tuple(found)


def do_ask(state: State, sent: dict[str, Any], extents: Sequence[Extent], *, forced: bool, known: bool) -> State:
    """The request queued; forced, what it names is gone at once. `known`: the order of the records is the request's.

    Else they may come in any order, each extent once.
    """
    rest = rest_of(state)
    if sent.get("sanitize"):
        asked = rest.sanitize
        for extent in extents:
            asked = asked.discard_range(extent.start, extent.length).add(extent)
        rest = rest._replace(sanitize=asked)
    if not extents:
        return state._replace(rest=rest)
    taken = take(state, extents) if forced else ask(state, extents)
    kind = FORCED if forced else RELEASE
    if known:
        return _counted(queue(taken, kind, sent, extents)._replace(rest=rest), len(state.log))
    choice = Choice(0, rest.host, kind, TAG_BASED, 0, 0, tag_of(sent), left=tuple(extents))
    return begin(taken._replace(rest=rest), choice)


def take(state: State, extents: Sequence[Extent]) -> State:
    """Capacity taken from its host, accepted or pending (DEV-12). An offer of which nothing is left is no offer.

    The host may answer that one all the same, and no rule says what its answer then settles: `Chain.gap`.
    """
    ranges = [(extent.start, extent.length) for extent in extents]
    gone = ExtentSet()
    for start, length in ranges:
        gone = gone.add(Extent(start, length))
    had = [pair for pair in ranges if state.accepted.overlaps(*pair)]
    waited = [pair for pair in ranges if state.pending.overlaps(*pair)]
    after = vacate(state, had)
    pending, chains, gap = state.pending, [], state.notes.gap
    for start, length in waited:
        pending = pending.discard_range(start, length)
    for chain in state.chains:
        left = chain._replace(extents=_without(chain.extents, gone), taken=_without(chain.taken, gone), gap=gap)
        if left.extents or chain.choice:
            chains.append(left._replace(gap=gap or chain.gap))
            gap = False
        else:
            gap = True
    notes = after.notes._replace(gap=gap)
    if after.accepted != state.accepted:
        notes = list_changed(notes)
    news = [Recent("DEV-12.pending", "free", tuple(waited))] if waited else []
    news += [Recent("DEV-12.taken", "free", tuple(had))] if had else []
    trace = remember(after.trace._replace(scan=None), *news)
    return after._replace(pending=pending, chains=tuple(chains), notes=notes, trace=trace, rest=state.rest)


def _without(extents: Sequence[Extent], gone: ExtentSet) -> tuple[Extent, ...]:
    """The extents, in their order, without what is gone."""
    kept: list[Extent] = []
    for extent in extents:
        left = ExtentSet((extent,))
        for hole in gone.intersecting(extent.start, extent.length):
            left = left.discard_range(hole.start, hole.length)
        kept += left
    return tuple(kept)


# ---- regions


def decide_region(state: State, sent: dict[str, Any]) -> Decision:
    """5602h (CXL r3.1 7.6.7.6.3): DEV-18. Which block sizes it can have, only the device knows."""
    region = region_asked(state, sent)
    if region is None:
        return decision("set_region", REGION)
    resized = sent["block_size"] != region.block_size
    flagged = bool(int(sent["sanitize"]) & SANITIZE) != bool(region.flags & SANITIZE)
    if not resized and not flagged:  # nothing to change; in use it may be refused all the same
        return Decision(0, frozenset((UNSUPPORTED,))) if in_use(state, region) else LEGAL
    faults = 0
    if resized and not _can_have(region, sent["block_size"]):
        faults |= BAD_BLOCK
    if in_use(state, region):
        faults |= IN_USE
    can = state.config.limits.sanitize_configurable
    if flagged and can is not None and not can >> sent["region"] & 1:
        faults |= FIXED
    unsure = FIXED if flagged and can is None else 0
    return decision("set_region", faults, (unsure | (BAD_BLOCK if resized else 0)) & ~faults)


def _can_have(region: Region, block_size: int) -> bool:
    """DEV-1: a power of two from 64 on, of which base and length are multiples."""
    if block_size < 64 or block_size & (block_size - 1):
        return False
    return not (region.base | region.length) & (block_size - 1)


def do_region(state: State, sent: dict[str, Any]) -> State:
    """The region set up; on a change every host is told (type 3). The state stands towards the first host after it."""
    region = region_asked(state, sent)
    assert region is not None
    flags = (region.flags & ~SANITIZE) | (int(sent["sanitize"]) & SANITIZE)
    made = region._replace(block_size=sent["block_size"], flags=flags)
    if made == region:
        return state
    number = sent["region"]
    regions = (*state.config.regions[:number], made, *state.config.regions[number + 1 :])
    state = state._replace(config=state.config._replace(regions=regions))
    for host_id in state.config.limits.hosts:
        state = enter(state, host_id)
        used = len(state.accepted) + len(state.pending)
        told = Record(0, CONFIGURED, False, host_id, 0, 0, NULL_HEX, 0, -1 if untold(state) else used, region=number)
        state = push(state, CONFIGURED, [told])._replace(rest=state.rest)
    return enter(state, state.config.limits.hosts[0])


# ---- references


def decide_reference(state: State, f: str, sent: dict[str, Any]) -> Decision:
    """5606h and 5607h (CXL r3.1 7.6.7.6.7, 7.6.7.6.8): DEV-21."""
    known = state.config.limits.references
    if known is False:
        return decision(f, OPCODE)
    tag = bytes.fromhex(sent["tag"])
    referenced = any(kept.tag == tag for kept in rest_of(state).references)
    faults = 0
    if not (referenced if f == "remove_reference" else tag in tags_in_use(state)):
        faults = NO_TAG
    more = frozenset((INVALID_INPUT,)) if f == "add_reference" and referenced else frozenset()
    return decision(f, faults, OPCODE if known is None else 0, more)


def do_reference(state: State, f: str, sent: dict[str, Any]) -> State:
    """The reference taken or let go. What is kept: the extents of the tag that anybody has at that time."""
    rest = rest_of(state)
    tag = bytes.fromhex(sent["tag"])
    others = tuple([kept for kept in rest.references if kept.tag != tag])
    if f == "remove_reference":
        return state._replace(rest=rest._replace(references=others))
    if len(others) < len(rest.references):
        return state
    found: dict[int, Extent] = {}
    for _, accepted, pending in parts(state):
        for extent in (*accepted, *pending):
            if extent.tag == tag:
                found.setdefault(extent.start, extent)
    return state._replace(rest=rest._replace(references=(*others, Allocation(tag, tuple(found.values())))))


def decide_list_tags(state: State, sent: dict[str, Any]) -> Decision:
    """5608h (CXL r3.1 7.6.7.6.9): DEV-8, DEV-21."""
    known = state.config.limits.references
    if known is False:
        return decision("list_tags", OPCODE)
    fault = START if sent["start"] > len(tags_in_use(state)) else 0
    return decision("list_tags", fault, OPCODE if known is None else 0)
