"""A host that does not want it yet: the manager offers again."""

from __future__ import annotations

from typing import Annotated

from dcdbackend import Bench, run_script, scenario


@scenario()
async def retry_refused(bench: Bench, *, refusals: Annotated[int, "how often the host refuses"] = 3) -> None:
    """The host refuses some times, then takes a part, then the rest; what it refused is free again each time."""
    await bench.policy("refuse")
    for attempt in range(1, refusals + 1):
        answer = await (await bench.add(["0+32M", "64M+32M"])).answer()
        print(f"attempt {attempt}: {answer.outcome}")
        assert answer.outcome == "refused", answer
        assert await bench.block(0) == "free"

    await bench.policy("subset", keep=[1])
    answer = await (await bench.add(["0+32M", "64M+32M"])).answer()
    print(f"attempt {refusals + 1}: {answer}")
    assert answer.outcome == "partial", answer

    await bench.policy("accept")
    answer = await (await bench.add(["0+32M"])).answer()
    print(f"and the rest: {answer}")
    assert answer.outcome == "accepted", answer


if __name__ == "__main__":
    run_script(retry_refused)
