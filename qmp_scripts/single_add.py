"""One extent is added, used, and taken away again."""

from __future__ import annotations

from typing import Annotated

from dcdbackend import Bench, run_script, scenario


@scenario()
async def single_add(bench: Bench, *, extent: Annotated[str, "OFFSET+LENGTH in the region"] = "0+256M") -> None:
    """Offer one extent, see the host take it, and ask for it back."""
    offer = await bench.add([extent])
    answer = await offer.answer(timeout_s=5)
    print(f"the host answered: {answer}")
    assert answer.outcome == "accepted", answer

    request = await bench.release([extent])
    release = await request.response(timeout_s=5)
    print(f"asked to give it back: {release}")
    assert release.outcome == "released", release


if __name__ == "__main__":
    run_script(single_add)
