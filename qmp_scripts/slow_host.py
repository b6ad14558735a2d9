"""A host that takes its time: an offer is pending until it is answered, however long that is."""

from __future__ import annotations

from typing import Annotated

from dcdbackend import Bench, run_script, scenario


@scenario()
async def slow_host(bench: Bench, *, delay: Annotated[float, "seconds until the host answers"] = 1.0) -> None:
    """Look at an offer while it is pending, and again when the answer came."""
    await bench.policy("late", delay_s=delay)
    offer = await bench.add(["0+4M"])
    early = await offer.answer(timeout_s=delay / 5)
    print(f"after {delay / 5:g} s: {early.outcome}, the block is {await bench.block(0)}")
    assert early.outcome == "unanswered", early

    answer = await offer.answer(timeout_s=delay + 5)
    print(f"later: {answer}, the block is {await bench.block(0)}")
    assert answer.outcome == "accepted", answer


if __name__ == "__main__":
    run_script(slow_host)
