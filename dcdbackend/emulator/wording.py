"""Why a manager's request is refused, in QEMU's words and in the order in which QEMU looks (10.0.2 and 11.1.3).

Whether it is refused at all is the model's to say (`model.reply`); this only chooses the text. QEMU takes the extents
one after the other and stops at the first that is wrong, which is what makes the block-state question possible: the
last extent of it is never right, and the text tells of the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..extents import EMPTY, Extent

if TYPE_CHECKING:
    from ..model.state import State

NO_DEVICE = "Unable to resolve CXL type 3 device"
NO_REGION = "region id is too large"
ZERO_LENGTH = "extent with 0 length is not allowed"
UNALIGNED = "dpa or len is not aligned to region block size"
BEYOND = "extent range is beyond the region end"
OVERLAPPING = "duplicate or overlapped extents are detected"
ACCEPTED = "cannot add DPA already accessible to the same LD"
PENDING = "cannot add DPA again while still pending"
RELEASE_PENDING = "cannot release extent with pending DPA range"
RELEASE_ABSENT = "cannot release extent with non-existing DPA range"
SELECTION_POLICY = "Selection policy not supported"
REMOVAL_POLICY = "Removal policy not supported"
FORCED = "Forced removal not supported yet"


def refusal(state: State, f: str, sent: dict[str, Any]) -> str | None:
    """QEMU's words for the first extent that is wrong, None where QEMU would find nothing wrong with any.

    `sent`: the value of the history's `add` or `release`. Sums do not wrap: where QEMU's do, QEMU ends (`deadly`).
    """
    regions = state.config.regions
    if not 0 <= sent["region"] < len(regions):
        return NO_REGION
    region = regions[sent["region"]]
    named = EMPTY
    for found in sent["extents"]:
        offset, length = found["offset"], found["length"]
        if not length:
            return ZERO_LENGTH
        if (offset | length) & (region.block_size - 1):
            return UNALIGNED
        if offset + length > region.length:
            return BEYOND
        if named.overlaps(offset, length):
            return OVERLAPPING
        named = named.add(Extent(offset, length))
        taken = _taken(state, f, region.base + offset, length)
        if taken is not None:
            return taken
    return None


def _taken(state: State, f: str, start: int, length: int) -> str | None:
    """What the state of the capacity has against the request."""
    if f == "release":
        if state.pending.overlaps(start, length):
            return RELEASE_PENDING
        return None if state.accepted.covers(start, length) else RELEASE_ABSENT
    if state.accepted.overlaps(start, length):
        return ACCEPTED
    return PENDING if state.pending.overlaps(start, length) else None
