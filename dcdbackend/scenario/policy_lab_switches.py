"""What the seeds leave open, as something that happens: each name is that of a what-if switch.

A scenario here does the same with the switch on and off and demands neither outcome: what comes of it is the host's to
show, and the judge's to hold against the rules with the same switches on (`dcd simulate --host v11 --with SWITCH`).
On a simulated host alone.
"""

from __future__ import annotations

from typing import Literal

from ..errors import Refused
from ..session import Session
from . import scenario
from .policy_lab import MIB, REGION, TAG_A, TAG_B, shown

SEED = "dax0.0"
Write = tuple[Literal["claim", "use", "unuse"], dict[str, str]]
_SIZED: tuple[Write, Write] = (
    ("claim", {"file": "size", "dax": SEED, "text": str(64 * MIB)}),
    ("claim", {"file": "size", "dax": SEED, "text": "0"}),
)
USES: dict[str, tuple[Write, Write]] = {
    "A": _SIZED,
    "B-rfc": _SIZED,
    "v11": (("claim", {"file": "uuid", "dax": SEED, "text": shown(TAG_A)}), _SIZED[1]),
    "C": (("use", {"what": "map", "dax": SEED}), ("unuse", {"what": "map", "dax": SEED})),
}
"""By host: how a user takes the first extent, and lets it go."""


async def offer(bench: Session, spans: list[str], tag: str | None = None) -> str:
    """What became of an offer; `withheld` where the device does not even pass it on."""
    try:
        return (await (await bench.add(spans, tag=tag, via="fm")).answer()).outcome
    except Refused:
        return "withheld"


async def wanted(bench: Session, spans: list[str], tag: str | None = None, device: str = "mem0") -> str:
    """What became of a release request; `gone` where the host holds nothing of it any more."""
    try:
        return (await (await bench.release(spans, tag=tag, device=device, via="fm")).response()).outcome
    except Refused:
        return "gone"


@scenario(needs={"simulated", "claims"})
async def what_if_untagged_partial_claim(bench: Session) -> None:
    """Half of an untagged extent is asked for by size; the other half by a second device."""
    await offer(bench, ["0+128M"])
    await bench.kernel_write("claim", file="size", dax=SEED, text=str(64 * MIB))
    await bench.kernel_write("claim", file="create", region=REGION, text="1")
    await bench.sysfs()
    await wanted(bench, ["0+128M"])
    await bench.sysfs()


@scenario(needs={"simulated"})
async def what_if_one_untagged_per_group(bench: Session) -> None:
    """Three untagged extents come in one chain; one of them is asked back."""
    await offer(bench, ["0+64M", "128M+64M", "256M+64M"])
    await wanted(bench, ["128M+64M"])
    await bench.sysfs()
    await bench.extents()


@scenario(needs={"simulated"})
async def what_if_release_remembered(bench: Session) -> None:
    """What is in use is asked back, then its last user goes; nobody asks again."""
    tag = None if bench.host.name == "A" else TAG_A
    await offer(bench, ["0+64M"], tag)
    uses, lets_go = USES.get(bench.host.name, USES["v11"])
    await bench.kernel_write(uses[0], **uses[1])
    await wanted(bench, ["0+64M"], tag)
    await bench.kernel_write(lets_go[0], **lets_go[1])
    await bench.sysfs()
    await bench.extents()


@scenario(needs={"simulated"})
async def what_if_extend_accepted(bench: Session) -> None:
    """An allocation is there; more of the same tag comes, adjoining it."""
    await offer(bench, ["0+64M"], TAG_A)
    await offer(bench, ["64M+64M"], TAG_A)
    await bench.sysfs()
    await bench.extents()


@scenario(needs={"simulated"})
async def what_if_map_to_extents(bench: Session) -> None:
    """Three extents are there; a device of the third and the first is asked for, by their offsets."""
    for spans in (["0+64M"], ["128M+64M"], ["256M+64M"]):
        await offer(bench, spans)
    await bench.kernel_write("claim", file="extents", dax=SEED, text=f"{256 * MIB:#x} 0x0")
    await bench.sysfs()
    await wanted(bench, ["128M+64M"])
    await wanted(bench, ["0+64M"])
    await bench.sysfs()


@scenario(needs={"simulated"}, shape={"devices": 2})
async def what_if_interleave(bench: Session) -> None:
    """Two devices bring shares of the same length at the same place, one after the other; one is asked back."""
    for device in ("mem0", "mem1"):
        await (await bench.add(["0+64M"], device=device)).answer()
        await bench.sysfs()
    await bench.kernel_write("claim", file="size", dax=SEED, text=str(64 * MIB))
    await bench.sysfs()
    await wanted(bench, ["0+64M"], device="mem1")
    await bench.kernel_write("claim", file="size", dax=SEED, text="0")
    await wanted(bench, ["0+64M"], device="mem1")
    await bench.sysfs()


@scenario(needs={"simulated"})
async def what_if_no_tag_no_service(bench: Session) -> None:
    """An extent without a tag comes, then one with a tag."""
    await offer(bench, ["0+64M"])
    await offer(bench, ["128M+64M"], TAG_B)
    await bench.sysfs()
    await bench.extents()
