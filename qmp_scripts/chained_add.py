"""Several extents in one offer: the host answers them together."""

from __future__ import annotations

from typing import Annotated

from dcdbackend import MIB, Bench, Span, run_script, scenario


@scenario()
async def chained_add(bench: Bench, *, extents: Annotated[int, "how many, 1 to 8"] = 5) -> None:
    """Offer a chain of extents, the first 2M long, the second 4M, ..., and see all of them taken in one answer."""
    chain = [Span(32 * index * MIB, 2 * (index + 1) * MIB) for index in range(extents)]
    print("offering", *chain)
    answer = await (await bench.add(chain)).answer()
    print(f"the host answered: {answer}")
    assert answer.outcome == "accepted", answer
    assert answer.witnesses["host"] == answer.accepted, "the host named them in its answer, in the order offered"

    held = await bench.extents()
    assert sorted(held) == [(bench.dpa(0, span.offset_bytes), span.length_bytes) for span in chain], held


if __name__ == "__main__":
    run_script(chained_add)
