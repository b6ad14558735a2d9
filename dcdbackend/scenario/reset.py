"""A reset of the host's machine: what becomes of offers, extents and log is recorded, never judged. Rule DEV-22.

What is judged is all that came before, and that the device lives on: after the reset it answers and can be emptied.
"""

from __future__ import annotations

from ..session import Session
from . import Outcome, scenario

MIB = 1 << 20
UNJUDGED: dict[str, Outcome] = {"device DEV-22.recorded": "unknown", "device *": "unknown", "host *": "unknown"}


@scenario(expect=UNJUDGED)
async def reset_capacity_held(bench: Session) -> None:
    """The host is reset while it holds capacity; the new one reads the list, and everything can be given back."""
    assert (await (await bench.add(["0+16M", "32M+16M"])).answer()).outcome == "accepted"
    mark = bench.random.randbytes(4096)
    await bench.store(bench.dpa(0, 0), mark)
    await bench.reset()
    for offset in (0, 16 * MIB, 32 * MIB):
        await bench.block(offset)
    await bench.extents()
    await bench.read(bench.dpa(0, 0), 4096)


@scenario(expect=UNJUDGED)
async def reset_offer_pending(bench: Session) -> None:
    """The host is reset while an offer is pending; what the new one finds of it is recorded, and it can be settled."""
    await bench.policy("never")
    await bench.add(["0+4M"])
    await bench.idle()
    await bench.reset()
    await bench.block(0)
    await bench.extents()
