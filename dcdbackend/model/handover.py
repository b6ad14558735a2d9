"""Capacity that changes hands, for the device as a whole: which bytes stay known, which must be gone, who is told.

One host's part is `decide`'s; here is what its answer or release means beyond that part. Where another host holds the
same capacity (DEV-15) its bytes stay. Where region or request asks to sanitize, what was known there must be gone
(DEV-14). Nothing is judged here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..extents import Extent, ExtentSet
from .decide import region_of
from .pool import SANITIZE, rest_of
from .state import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .state import Memory, Segment


def after_command(before: State, after: State, f: str, ranges: Sequence[Sequence[int]]) -> State:
    """The state after a host's 4802h or 4803h, which left the rest out, with what it means for the whole."""
    after = after._replace(rest=before.rest)
    if f == "give_back":
        return given_back(before, after, ranges, asked=False)
    if f != "answer":
        return after
    if not ranges and not before.chains and before.notes.gap:
        after = after._replace(notes=after.notes._replace(gap=False))
    rest = rest_of(after)
    if before.chains and before.chains[0].choice and len(after.chains) < len(before.chains):
        number = before.chains[0].choice
        settled = [one._replace(settled=True) if one.number == number else one for one in rest.choices]
        after = after._replace(rest=rest._replace(choices=tuple(settled)))
    return after._replace(memory=_still_known(before, after, ranges))


def given_back(before: State, after: State, ranges: Sequence[Sequence[int]], *, asked: bool) -> State:
    """The state after capacity left its host. `asked`: the request itself says to sanitize it."""
    rest = rest_of(after)
    wiped, wanted = rest.wiped, rest.sanitize
    for start, end in sanitized(before, ranges, asked=asked):
        for part in parts_of(before.memory, start, end):
            wiped = wiped.discard_range(part.start, part.length).add(part)
    for start, length in ranges:
        wanted = wanted.discard_range(start, length)
    return after._replace(memory=_still_known(before, after, ranges), rest=rest._replace(wiped=wiped, sanitize=wanted))


def sanitized(before: State, ranges: Sequence[Sequence[int]], *, asked: bool) -> list[tuple[int, int]]:
    """(start, end) of what must be sanitized when its host lets these ranges go: none that another host still has."""
    rest = rest_of(before)
    found: list[tuple[int, int]] = []
    for start, length in ranges:
        region = region_of(before.config, start, length)
        everything = asked or (region is not None and bool(region.flags & SANITIZE))
        for own in before.accepted.intersecting(start, length):
            first, last = max(own.start, start), min(own.end, start + length)
            left = ExtentSet((Extent(first, last - first),))
            for peer in rest.peers:
                for other in peer.accepted.intersecting(first, last - first):
                    left = left.discard_range(other.start, other.length)
            for piece in left:
                wanted = (piece,) if everything else rest.sanitize.intersecting(piece.start, piece.length)
                found += [(max(one.start, piece.start), min(one.end, piece.end)) for one in wanted]
    return found


def _still_known(before: State, after: State, ranges: Sequence[Sequence[int]]) -> Memory:
    """The bytes known after capacity came or went, with those that another host still holds."""
    memory = after.memory
    if not len(before.memory):
        return memory
    for start, length in ranges:
        for peer in rest_of(before).peers:
            for extent in peer.accepted.intersecting(start, length):
                for part in parts_of(before.memory, max(extent.start, start), min(extent.end, start + length)):
                    memory = memory.discard_range(part.start, part.length).add(part)
    return memory


def parts_of(memory: Memory, start: int, end: int) -> list[Segment]:
    """What is known of [start, end), cut to it."""
    found: list[Segment] = []
    for segment in memory.intersecting(start, end - start) if end > start else ():
        first, last = max(segment.start, start), min(segment.start + segment.length, end)
        found.append(segment.part(first, last - first))
    return found
