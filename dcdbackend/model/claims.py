"""DAX devices over extents: creation, size, and (from v10 on) the claim by uuid.

Two ways, by the generation's column `claim`. "size" (A, RFC): a device is resized, and takes space from any extent.
"uuid": a tag is written to the device, which takes the whole allocation; its size cannot be chosen (B27 to B31).
Errors are what the write to the file gives, as the kernel's name with a minus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..extents import NULL_TAG
from .host import Dax, Mapped, Online, create_device
from .permitted import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .host import Claim, Create, Host, Resize

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


def resize(host: Host, cause: Resize) -> Decision:
    """`size` is written: B29, or A14."""
    device = host.device(cause.device)
    by_uuid = host.setup.generation.claim == "uuid"
    if cause.size % host.setup.pmd_bytes:
        return _sized(host, by_uuid, "B29.misaligned", "-EINVAL")
    if not host.region(device.region).probed:
        return Decision(host, error="-ENXIO")
    if device.driver is not None:
        return _sized(host, by_uuid, "B29.bound", "-EBUSY")
    if cause.size == device.size:
        return _sized(host, by_uuid, "B29.same", "")
    if by_uuid and cause.size:
        return _sized(host, by_uuid, "B29.resize", "-EOPNOTSUPP")
    if by_uuid:
        after = host.with_device(device._replace(mapped=()))
        return Decision(after, judged=("B29.drop", "B29.order", "B31.available"))
    return _grow_or_shrink(host, device, cause.size)


def _sized(host: Host, by_uuid: bool, clause: str, error: str) -> Decision:
    return Decision(host, judged=(clause, "B29.order") if by_uuid else (), error=error)


# ---- by size --------------------------------------------------------------------------------------------------------


def _grow_or_shrink(host: Host, device: Dax, size: int) -> Decision:
    """A14: space comes from the oldest extents that have some, and goes from the end."""
    judged = ("A14.any", "A14.available")
    if size < device.size:
        excess = device.size - size
        kept: list[Mapped] = []
        for piece in device.mapped[::-1]:
            cut = min(excess, piece.length)
            excess -= cut
            if piece.length > cut:
                kept.append(piece._replace(length=piece.length - cut))
        return Decision(host.with_device(device._replace(mapped=tuple(kept[::-1]))), judged=judged)
    wanted = size - device.size
    if wanted > host.available(device.region):
        return Decision(host, judged=("A14.available",), error="-ENOSPC")
    pieces = list(device.mapped)
    for extent in host.in_region(device.region):
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
    return Decision(host.with_device(device._replace(mapped=tuple(pieces))), judged=judged)


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
