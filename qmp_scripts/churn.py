"""Capacity comes and goes, as under a tenant whose load goes up and down."""

from __future__ import annotations

from typing import Annotated

from dcdbackend import MIB, Bench, Span, run_script, scenario


@scenario(timeout_s=120)
async def churn(bench: Bench, *, rounds: Annotated[int, "how often all is added and taken away"] = 4) -> None:
    """In each round four tenants get capacity and lose it in another order; nothing stays behind."""
    for turn in range(1, rounds + 1):
        tenants = [Span(64 * index * MIB, 2 * bench.random.randint(1, 8) * MIB) for index in range(4)]
        for span in tenants:
            answer = await (await bench.add([span])).answer()
            assert answer.outcome == "accepted", answer
        bench.random.shuffle(tenants)
        for span in tenants:
            release = await (await bench.release([span])).response()
            assert release.outcome == "released", release
        assert await bench.extents() == (), "a round leaves something behind"
        print(f"round {turn} of {rounds}: came and went:", *tenants)


if __name__ == "__main__":
    run_script(churn)
