"""The scenarios: what is done to a device and its host, each under a name.

A scenario is `async def name(bench: Session) -> None` under `@scenario(...)`. It injects, waits for what was witnessed
and asserts what its own script expects; whether device and host kept the rules is the checker's to say, from the
history. The same function runs on any backend that offers what it `needs`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import AskedWrongly
from ..session import Session

TIMEOUT_S = 30.0
Body = Callable[[Session], Awaitable[None]]
Outcome = Literal["pass", "fail", "unknown", "departure", "skipped"]
DEPARTURE = "departure "
"""What a key of `Scenario.expect` begins with that expects a known departure: its id follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One scenario.

    `expect`: outcomes other than pass that are meant to happen, by `subject clause` (like `host DEV-6.inside`;
    `device *` is all of the device's), or by known departure (`departure QEMU-log`: of the versions that have it).
    `shape`: what its topology must be (`regions`, `devices`, `static`, `size`: see `topology.direct`).
    `needs`: what injector or host must offer (like `tags`).
    """

    name: str
    body: Body
    summary: str
    shape: Mapping[str, int | str] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    expect: Mapping[str, Outcome] = field(default_factory=dict)
    timeout_s: float = TIMEOUT_S
    settle: bool = True
    """Whether everything is released at the end, as part of the history; else outside it, before the next one."""


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    *,
    shape: Mapping[str, int | str] | None = None,
    needs: Iterable[str] = (),
    expect: Mapping[str, Outcome] | None = None,
    timeout_s: float = TIMEOUT_S,
    settle: bool = True,
    name: str | None = None,
) -> Callable[[Body], Body]:
    """Register the function below under its name, `_` written as `-`; its docstring's first line is the summary."""

    def register(body: Body) -> Body:
        called = name or body.__name__.replace("_", "-")
        if called in SCENARIOS:
            raise AskedWrongly(f"two scenarios are called {called!r}; give one of them another name")
        SCENARIOS[called] = Scenario(
            name=called,
            body=body,
            summary=(body.__doc__ or "").strip().split("\n", 1)[0],
            shape=dict(shape or {}),
            needs=frozenset(needs),
            expect=dict(expect or {}),
            timeout_s=timeout_s,
            settle=settle,
        )
        return body

    return register


def choose(patterns: Iterable[str]) -> list[Scenario]:
    """The scenarios meant by names or patterns (`release-*`), in the order of the registry; none means all.

    Errors: AskedWrongly, naming what there is.
    """
    wanted = list(patterns)
    if not wanted:
        return list(SCENARIOS.values())
    chosen: set[str] = set()
    for pattern in wanted:
        found = fnmatch.filter(SCENARIOS, pattern)
        if not found:
            raise AskedWrongly(f"no scenario {pattern!r}; there is {', '.join(SCENARIOS)}")
        chosen.update(found)
    return [found for found in SCENARIOS.values() if found.name in chosen]


def ordered(chosen: Iterable[Scenario]) -> list[Scenario]:
    """So that few guests are booted: those of one shape together, and last those that leave a guest unfit."""
    return sorted(chosen, key=lambda one: (sorted(map(str, one.shape.items())), not one.settle))


from . import capacity, data, departure, five_actors, illegal, log, offer, release, reset  # noqa: E402, F401  (they register themselves)
