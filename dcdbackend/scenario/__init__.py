"""The scenarios: what is done to a device and its host, each under a name.

A scenario is `async def name(bench: Session) -> None` under `@scenario(...)`. It injects, waits for what was witnessed
and asserts what its own script expects; whether device and host kept the rules is the checker's to say, from the
history. The same function runs on any backend that offers what it `needs`. A script's may have parameters of its own,
keyword-only and with defaults (`script.run_script` makes options of them).

The module can be called as its decorator: `dcdbackend.scenario` is both, whichever of the two was imported first.
"""

from __future__ import annotations

import fnmatch
import inspect
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from .. import asked
from ..errors import AskedWrongly
from ..session import Session

TIMEOUT_S = 30.0
Body = Callable[[Session], Awaitable[None]]
_B = TypeVar("_B", bound=Body)
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
    origin: Path | None = None
    """The script that it came from (see `load`); None for those of this package."""

    @property
    def place(self) -> str:
        """Where it is written: `offer.py:12`."""
        code = getattr(self.body, "__code__", None)
        return "somewhere" if code is None else f"{Path(code.co_filename).name}:{code.co_firstlineno}"


SCENARIOS: dict[str, Scenario] = {}
_loading: Path | None = None
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)


def scenario(
    *,
    shape: Mapping[str, int | str] | None = None,
    needs: Iterable[str] = (),
    expect: Mapping[str, Outcome] | None = None,
    timeout_s: float = TIMEOUT_S,
    settle: bool = True,
    name: str | None = None,
) -> Callable[[_B], _B]:
    """Register the function below under its name, `_` written as `-`; its docstring's first line is the summary.

    What it takes is told at `Scenario`. Errors: AskedWrongly, for what is no scenario and for a name that is taken.
    """

    def register(body: _B) -> _B:
        written = inspect.iscoroutinefunction(body)
        if not written:
            raise AskedWrongly(f"@scenario is for `async def name(bench)`; {asked.shown(body)} is none")
        called = name or body.__name__.replace("_", "-")
        if _NAME.fullmatch(called) is None:
            raise AskedWrongly(f"scenario {called!r}: letters, digits, dashes and underscores, at most 64")
        found = Scenario(
            name=called,
            body=body,
            summary=inspect.cleandoc(body.__doc__ or "").split("\n", 1)[0],
            shape=dict(shape or {}),
            needs=frozenset(needs),
            expect=dict(expect or {}),
            timeout_s=timeout_s,
            settle=settle,
            origin=_loading,
        )
        if called in SCENARIOS:
            raise AskedWrongly(
                f"two scenarios are called {called!r} ({SCENARIOS[called].place} and {found.place}); "
                "give one of them another name"
            )
        SCENARIOS[called] = found
        return body

    return register


def is_loading() -> bool:
    """Whether a script is being loaded now, as one of many, and is not the program."""
    return _loading is not None


@contextmanager
def loading(origin: Path) -> Iterator[dict[str, Scenario]]:
    """What is registered inside comes from that script, and is given back at the end; after an error, nothing is."""
    global _loading
    before, outer, found = dict(SCENARIOS), _loading, dict[str, Scenario]()
    _loading = origin
    try:
        yield found
    except BaseException:
        SCENARIOS.clear()
        SCENARIOS.update(before)
        raise
    finally:
        _loading = outer
    found.update((name, one) for name, one in SCENARIOS.items() if name not in before)


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


from . import (  # noqa: E402, F401  (they register themselves)
    beyond,
    capacity,
    data,
    departure,
    fabric,
    five_actors,
    illegal,
    kernel,
    kernel_data,
    kernel_peers,
    kernel_quirk,
    kernel_uses,
    log,
    offer,
    policy_lab,
    policy_lab_switches,
    policy_lab_tags,
    release,
    reset,
)


class _Callable(ModuleType):
    """A module that is also its decorator: importing the package of this name replaces a function of this name."""

    def __call__(self, **given: Any) -> Callable[[_B], _B]:
        return scenario(**given)


sys.modules[__name__].__class__ = _Callable
