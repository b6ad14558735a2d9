"""A region in pieces: half of it is free, and still no large extent fits."""

from __future__ import annotations

from typing import Annotated

from dcdbackend import MIB, Bench, Refused, Span, run_script, scenario


@scenario()
async def fragmentation(bench: Bench, *, piece: Annotated[int, "MiB of a piece, a divisor of 32"] = 16) -> None:
    """Fill a region with small extents, take every second one away, and ask for more than the largest hole."""
    pieces = [Span(offset * MIB, piece * MIB) for offset in range(0, 256, piece)]
    for span in pieces:
        assert (await (await bench.add([span])).answer()).outcome == "accepted"
    for span in pieces[::2]:
        assert (await (await bench.release([span])).response()).outcome == "released"
    free = sum(span.length_bytes for span in pieces[::2])
    print(f"{free // MIB}M are free, in {len(pieces[::2])} holes of {piece}M")

    large = Span(0, 2 * piece * MIB)
    try:
        await bench.add([large])
    except Refused as error:
        print(f"{large} does not fit: {error.reason}")
    else:
        raise AssertionError(f"the device took {large}, half of which is held")

    answer = await (await bench.add(pieces[:8:2])).answer()
    print(f"the same amount in pieces does: {answer}")
    assert answer.outcome == "accepted", answer


if __name__ == "__main__":
    run_script(fragmentation)
