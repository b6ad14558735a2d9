"""The event log: order, handles and what happens when it is full. Rule DEV-16."""

from __future__ import annotations

from ..session import Session
from . import DEPARTURE, scenario


@scenario(settle=False, expect={DEPARTURE + "QEMU-log": "departure", "host DEV-6.answered": "unknown"})
async def log_overflow(bench: Session) -> None:
    """A chain with more records than the log holds: what is lost is told, and what the device did is known."""
    offer = await bench.add([f"{4 * index}M+2M" for index in range(12)])
    await offer.answer(timeout_s=1.0)
    for index in range(12):
        await bench.block(4 * index << 20)


@scenario()
async def adds_between_reads(bench: Session) -> None:
    """Offers and release requests while the host is busy: it finds them all in the log, in order."""
    await (await bench.add(["0+8M"])).answer()
    await bench.policy("late", delay_s=0.3)
    offers = [await bench.add(["64M+2M"]), await bench.add(["68M+2M", "72M+2M"])]
    request = await bench.release(["0+4M"])
    assert [(await offer.answer()).outcome for offer in offers] == ["accepted", "accepted"]
    assert (await request.response()).outcome == "released"
