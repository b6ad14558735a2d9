"""Offers and their answers: rules DEV-2 to DEV-6 and DEV-8."""

from __future__ import annotations

from ..session import Session
from . import scenario


@scenario()
async def add(bench: Session) -> None:
    """One extent is offered and accepted; every block of it, and none beside it, is accepted."""
    offer = await bench.add(["0+256M"])
    answer = await offer.answer()
    assert answer.outcome == "accepted", answer
    assert await bench.extents() == ((bench.dpa(0, 0), 256 << 20),)


@scenario()
async def chain(bench: Session) -> None:
    """Five extents in one chain are answered together, and the list holds all five."""
    spans = ["0+4M", "16M+2M", "64M+32M", "128M+2M", "130M+6M"]
    offer = await bench.add(spans)
    answer = await offer.answer()
    assert answer.outcome == "accepted", answer
    assert len(await bench.extents()) == len(spans)


@scenario()
async def refuse(bench: Session) -> None:
    """The host refuses a chain with an empty answer: nothing is held, and the same capacity can be offered again."""
    await bench.policy("refuse")
    answer = await (await bench.add(["0+64M", "128M+64M"])).answer()
    assert answer.outcome == "refused", answer
    assert await bench.extents() == ()
    await bench.policy("accept")
    again = await (await bench.add(["0+64M", "128M+64M"])).answer()
    assert again.outcome == "accepted", again


@scenario()
async def partial_accept(bench: Session) -> None:
    """The host takes two of three extents, and half of one of them: what it left out is free again."""
    await bench.policy("subset", keep=[0, 2], first_bytes=8 << 20)
    answer = await (await bench.add(["0+16M", "32M+16M", "64M+8M"])).answer()
    assert answer.outcome == "partial", answer
    base = bench.dpa(0, 0)
    assert answer.accepted == ((base, 8 << 20), (base + (64 << 20), 8 << 20)), answer
    await bench.policy("accept")
    rest = await (await bench.add(["8M+8M", "32M+16M"])).answer()
    assert rest.outcome == "accepted", rest


@scenario(shape={"regions": 2})
async def two_regions(bench: Session) -> None:
    """Chains in two regions, answered each for itself; capacity of one region is not the other's."""
    first = await (await bench.add(["0+32M"], region=0)).answer()
    second = await (await bench.add(["0+32M", "64M+2M"], region=1)).answer()
    assert first.outcome == second.outcome == "accepted", (first, second)
    assert await bench.block(64 << 20, region=0) == "free"
    assert await bench.block(64 << 20, region=1) == "accepted"


@scenario()
async def late_answer(bench: Session) -> None:
    """The host answers a second late: the offer is pending until then, and accepted after."""
    await bench.policy("late", delay_s=1.0)
    offer = await bench.add(["0+4M", "8M+4M"])
    assert (await offer.answer(timeout_s=0.1)).outcome == "unanswered"
    assert await bench.extents() == ()
    assert (await offer.answer()).outcome == "accepted"


@scenario(settle=False, expect={"host DEV-6.answered": "unknown"})
async def no_answer(bench: Session) -> None:
    """The host never answers: the offer stays pending, which no rule forbids; whether it ever will is not known."""
    await bench.policy("never")
    offer = await bench.add(["0+4M"])
    assert (await offer.answer(timeout_s=1.0)).outcome == "unanswered"
    assert await bench.block(0) == "pending"


@scenario()
async def many_chains_pending(bench: Session) -> None:
    """Eight chains are offered before the first is answered: answers settle them oldest first."""
    await bench.policy("late", delay_s=0.3)
    offers = [await bench.add([f"{8 * index}M+2M"]) for index in range(8)]
    answers = [await offer.answer() for offer in offers]
    assert [answer.outcome for answer in answers] == ["accepted"] * 8
    assert len(await bench.extents()) == 8


@scenario()
async def refuse_and_retry(bench: Session) -> None:
    """Refused three times, then taken: a refusal leaves nothing behind that stands in the way."""
    await bench.policy("refuse")
    for _ in range(3):
        assert (await (await bench.add(["0+8M", "16M+8M"])).answer()).outcome == "refused"
    await bench.policy("subset", keep=[1])
    assert (await (await bench.add(["0+8M", "16M+8M"])).answer()).outcome == "partial"
    await bench.policy("accept")
    assert (await (await bench.add(["0+8M"])).answer()).outcome == "accepted"
