"""DAX devices over extents: creation, size, and (from v10 on) the claim by uuid.

Two ways, by the generation's column `claim`. "size" (A, RFC): a device is resized, and takes space from any extent.
"uuid": a tag is written to the device, which takes the whole allocation; its size cannot be chosen (B27 to B31).
Errors are what the write to the file gives, as the kernel's name with a minus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..extents import NULL_TAG
from .host import Dax, Mapped, Online, create_device, give_remembered
from .permitted import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .host import Choose, Claim, Create, Host, Resize

_UUID_LETTERS = 36
_DASHES = (8, 13, 18, 23)
_HEX = frozenset("0123456789abcdefABCDEF")


def create(host: Host, cause: Create) -> Decision:
    """`create`: a further device of size 0, only where space is free (A14, B29)."""
    return create_device(host, cause, "A14.create" if host.setup.generation.claim == "size" else "B29.create")


def parse_uuid(text: str) -> bytes | None:
    """The tag that is meant: "0" is the null tag; None for what is no UUID. What follows a UUID is not looked at."""
    text = text.removesuffix("\n")
    if text == "0":
        return NULL_TAG
    head = text[:_UUID_LETTERS]
    if len(head) < _UUID_LETTERS:
        return None
    for at, letter in enumerate(head):
        if (letter == "-") if at in _DASHES else (letter in _HEX):
            continue
        return None
    return bytes.fromhex(head.replace("-", ""))


def show_uuid(tag: bytes) -> str:
    """A tag as sysfs shows it."""
    text = tag.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def reads(host: Host, device: Dax) -> str | None:
    """What daxN.M/uuid reads; None where there is no such file (B27)."""
    if host.setup.generation.uuid is None:
        return None
    ages = [piece.age for piece in device.mapped]
    for age in ages:
        for extent in host.extents:
            if extent.age == age and extent.tag != NULL_TAG:
                return show_uuid(extent.tag)
    return host.setup.generation.uuid


# ---- by uuid --------------------------------------------------------------------------------------------------------


def claim(host: Host, cause: Claim) -> Decision:
    """`uuid` is written: B27, B28."""
    row = host.setup.generation
    device = host.device(cause.device)
    region = host.region(device.region)
    if row.claim == "size":
        return Decision(host, error="-ENOENT")
    if not region.dynamic:
        return _refused(host, "B28.read-only", "-EACCES")
    tag = parse_uuid(cause.text)
    if tag is None:
        return _refused(host, "B28.unparsable", "-EINVAL")
    if not region.probed:
        return _refused(host, "B28.driver", "-ENXIO")
    if device.size and row.claim_checks:
        return _refused(host, "B28.busy", "-EBUSY")
    found = [one for one in host.in_region(region.name) if one.tag == tag and not host.used(one)]
    judged = ["B27.tag"] if tag != NULL_TAG else ["B27.untagged"]
    if tag == NULL_TAG:
        judged += ["B27.oldest"] if len(found) > 1 else []
        found = found[:1]
    if not found:
        return _refused(host, "B28.none", "-ENOENT")
    if tag != NULL_TAG:
        numbers = [one.number for one in found]  # a group comes online in its order
        if numbers != list(range(row.sequence_base, row.sequence_base + len(found))):
            return _refused(host, "B28.gap", "-EINVAL")
        judged += ["B27.sequence"] if len(found) > 1 else []
    if row.claim_checks and any([one.length % host.setup.pmd_bytes for one in found]):
        return _refused(host, "B28.misaligned", "-EINVAL")
    if device.size:
        judged.append("B28.adds")
    pieces = tuple([Mapped(one.age, 0, one.length) for one in found])
    after = host.with_device(device._replace(mapped=device.mapped + pieces))
    return Decision(after, judged=(*judged, "B30.one", "B30.sum", "B31.available"))


def _refused(host: Host, clause: str, error: str) -> Decision:
    return Decision(host, judged=(clause, "B28.order", "B28.unchanged"), error=error)


def choose(host: Host, cause: Choose) -> Decision:
    """What-if map-to-extents: a DAX device is made of these extents, in this order; else there is no such file."""
    clause = "WHAT-IF.map-to-extents"
    if "map-to-extents" not in host.setup.what_if:
        by_size = host.setup.generation.claim == "size"
        return Decision(host, judged=("A14.any",) if by_size else ("B28.none",), error="-ENOENT")
    device = host.device(cause.device)
    there = {extent.offset: extent for extent in _first_shares(host, device.region)}
    found = [there[offset] for offset in cause.offsets if offset in there]
    wrong = (
        ("-ENXIO", not host.region(device.region).probed),
        ("-EBUSY", bool(device.size) or device.driver is not None),
        ("-EINVAL", not cause.offsets or len(set(cause.offsets)) != len(cause.offsets)),
        ("-ENOENT", len(found) != len(cause.offsets)),
        ("-EBUSY", any([host.used(extent) for extent in found])),
    )
    error = next((error for error, is_so in wrong if is_so), "")
    if error:
        return Decision(host, judged=(clause,), error=error)
    pieces = _on_each_way(host, device.region, [Mapped(extent.age, 0, extent.length) for extent in found])
    return Decision(host.with_device(device._replace(mapped=pieces)), judged=(clause,))


def _first_shares(host: Host, region: str) -> list[Online]:
    """What can be taken of a region's extents; with interleave their first shares, which stand for the others."""
    memdev = host.region(region).memdev
    return [extent for extent in host.surfaced(region) if extent.memdev == memdev]


def _on_each_way(host: Host, region: str, pieces: Sequence[Mapped]) -> tuple[Mapped, ...]:
    """The pieces of first shares, and with interleave the same of the other shares behind each."""
    ways = host.region(region).ways
    if not ways:
        return tuple(pieces)
    by_age = {extent.age: extent for extent in host.extents}
    ages = {(extent.memdev, extent.start, extent.length): extent.age for extent in host.in_region(region)}
    found = []
    for piece in pieces:
        first = by_age[piece.age]
        found += [piece._replace(age=ages[way, first.start, first.length]) for way in ways]
    return tuple(found)


def resize(host: Host, cause: Resize) -> Decision:
    """`size` is written: B29, or A14. What that leaves unused may have been asked for (what-if release-remembered)."""
    decision = _resize(host, cause)
    return give_remembered(decision) if host.remembered and not decision.error else decision


def _resize(host: Host, cause: Resize) -> Decision:
    device = host.device(cause.device)
    by_uuid = host.setup.generation.claim == "uuid"
    if cause.size % (host.setup.pmd_bytes * max(1, len(host.region(device.region).ways))):
        return _sized(host, by_uuid, "B29.misaligned", "-EINVAL")
    if not host.region(device.region).probed:
        return Decision(host, error="-ENXIO")
    if device.driver is not None:
        return _sized(host, by_uuid, "B29.bound", "-EBUSY")
    if cause.size == device.size:
        return _sized(host, by_uuid, "B29.same", "")
    if by_uuid and cause.size and "untagged-partial-claim" in host.setup.what_if:
        ages = {piece.age for piece in device.mapped}
        if not any([extent.tag != NULL_TAG for extent in host.extents if extent.age in ages]):
            return _grow_or_shrink(host, device, cause.size, ("WHAT-IF.untagged-partial-claim",), untagged=True)
    if by_uuid and cause.size:
        return _sized(host, by_uuid, "B29.resize", "-EOPNOTSUPP")
    if by_uuid:
        after = host.with_device(device._replace(mapped=()))
        return Decision(after, judged=("B29.drop", "B29.order", "B31.available"))
    return _grow_or_shrink(host, device, cause.size, ("A14.any", "A14.available"))


def _sized(host: Host, by_uuid: bool, clause: str, error: str) -> Decision:
    return Decision(host, judged=(clause, "B29.order") if by_uuid else (), error=error)


# ---- by size --------------------------------------------------------------------------------------------------------


def _grow_or_shrink(host: Host, device: Dax, size: int, judged: tuple[str, ...], *, untagged: bool = False) -> Decision:
    """A14: space comes from the oldest extents that have some, and goes from the end. `untagged`: only from these."""
    there = [extent for extent in _first_shares(host, device.region) if not untagged or extent.tag == NULL_TAG]
    ways = max(1, len(host.region(device.region).ways))
    firsts = {extent.age for extent in there}
    whole, mine = device, tuple([piece for piece in device.mapped if ways == 1 or piece.age in firsts])
    device, size = device._replace(mapped=mine), size // ways
    if size < device.size:
        excess = device.size - size
        kept: list[Mapped] = []
        for piece in device.mapped[::-1]:
            cut = min(excess, piece.length)
            excess -= cut
            if piece.length > cut:
                kept.append(piece._replace(length=piece.length - cut))
        left = _on_each_way(host, device.region, kept[::-1])
        return Decision(host.with_device(whole._replace(mapped=left)), judged=judged)
    wanted = size - device.size
    if wanted > sum([extent.length - host.used(extent) for extent in there]):
        return Decision(host, judged=judged[-1:], error="-ENOSPC")
    pieces = list(device.mapped)
    for extent in there:
        for at, length in _gaps(host, extent):
            taken = min(wanted, length)
            wanted -= taken
            if not taken:
                continue
            last = pieces[-1] if pieces else None
            if last is not None and last.age == extent.age and last.at + last.length == at:
                pieces[-1] = last._replace(length=last.length + taken)
            else:
                pieces.append(Mapped(extent.age, at, taken))
    taken_now = _on_each_way(host, device.region, pieces)
    return Decision(host.with_device(whole._replace(mapped=taken_now)), judged=judged)


def _gaps(host: Host, extent: Online) -> Sequence[tuple[int, int]]:
    """What is free in an extent: (from its start, length)."""
    used = sorted([piece for device in host.devices for piece in device.mapped if piece.age == extent.age], key=_at)
    found: list[tuple[int, int]] = []
    reached = 0
    for piece in used:
        if piece.at > reached:
            found.append((reached, piece.at - reached))
        reached = piece.at + piece.length
    if reached < extent.length:
        found.append((reached, extent.length - reached))
    return found


def _at(piece: Mapped) -> int:
    return piece.at
