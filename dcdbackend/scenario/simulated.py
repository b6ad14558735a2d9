"""Scenarios on a simulated kernel, by its generation and what-if switches: what `dcd simulate` runs.

It boots nothing and proves nothing of any kernel (`emulated.WARNING`). It is thin: the emulator backend with a host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..emulated import EmulatedSetup
from ..emulator.machine import HOSTS
from ..errors import AskedWrongly
from . import Scenario
from .runner import Result, Runner

SIMULATED_HOSTS = tuple(name for name in HOSTS if name != "U")


def setup(
    host: str, what_if: Iterable[str] = (), *, seed: int = 0, shape: Mapping[str, int | str] | None = None
) -> EmulatedSetup:
    """The emulator with that host. Errors: AskedWrongly, which names the two where one cannot be with the other."""
    if host not in SIMULATED_HOSTS:
        raise AskedWrongly(f"host {host!r} is not simulated; there is {', '.join(SIMULATED_HOSTS)}")
    return EmulatedSetup(host=host, what_if=frozenset(what_if), shape=shape or {}, seed=seed)


async def run(
    host: str,
    what_if: Iterable[str],
    scenarios: Sequence[Scenario],
    *,
    run_dir: Path,
    seed: int = 0,
    shape: Mapping[str, int | str] | None = None,
) -> list[Result]:
    """Each scenario on that host, in this order, judged by the same generation and switches. Errors: AskedWrongly."""
    results: list[Result] = []
    async with Runner(setup(host, what_if, seed=seed, shape=shape), run_dir=run_dir, seed=seed) as runner:
        for scenario in scenarios:
            results.append(await runner.run(scenario))
    return results
