"""A walk at random that the same seed walks again: `--seed` is in the last line of every run."""

from __future__ import annotations

from typing import Annotated

from dcdbackend import MIB, Bench, Span, run_script, scenario

BLOCK = 2 * MIB
BLOCKS = 64


@scenario(timeout_s=300)
async def random_walk(bench: Bench, *, steps: Annotated[int, "adds and releases in all"] = 40) -> None:
    """Add, refuse and release stretches chosen by the seed, beside a set of blocks that must be the device's list."""
    held: set[int] = set()
    for step in range(1, steps + 1):
        first = bench.random.randrange(BLOCKS)
        blocks = set(range(first, min(BLOCKS, first + bench.random.randint(1, 8))))
        span = Span(first * BLOCK, len(blocks) * BLOCK)
        if blocks <= held:
            release = await (await bench.release([span])).response()
            print(f"step {step:3}: {release}")
            held -= blocks
        elif not blocks & held:
            wanted = bench.random.random() < 0.8
            await bench.policy("accept" if wanted else "refuse")
            answer = await (await bench.add([span])).answer()
            print(f"step {step:3}: {answer}")
            held |= blocks if wanted else set()
        else:  # over what is held in part: nobody may ask for that
            continue
        extents = await bench.extents()
        found = [start // BLOCK + block for start, length in extents for block in range(length // BLOCK)]
        assert sorted(found) == sorted(held), f"after step {step}"


if __name__ == "__main__":
    run_script(random_walk)
