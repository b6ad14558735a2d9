"""A bench for CXL Dynamic Capacity, as a library: a guest with a DCD whose memory a script adds and takes away.

    import asyncio
    import dcdbackend as dcd

    async def main() -> None:
        async with dcd.launch(dcd.direct(regions=2)) as bench:
            offer = await bench.add(region=0, extents=["0+256M"])
            answer = await offer.answer(timeout_s=5)      # .accepted .refused .witnesses
            assert answer.accepted == ((bench.dpa(0, 0), 256 * dcd.MIB),)
            print(await bench.verdict())

    asyncio.run(main())

`launch(..., via="fm")` has the fabric manager inject (below `dcd.switch()`), `backend="emulator"` boots nothing, and
`backend="auto"` takes the emulator where no QEMU can be had, and warns.

A scenario is a function of such a bench under `@dcd.scenario()`; `dcd.run_script` makes a program of it, and
`dcd regress --scenario FILE` runs it among the others. What is not in `__all__` may change at any time.

Every name is imported when it is first used, and nothing before: part of this package runs inside the guest, where
each module costs milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agent.policy import ADD as OFFER_POLICIES
    from .agent.policy import BREAKS
    from .agent.policy import RELEASE as RELEASE_POLICIES
    from .bench import HOSTS, INJECTORS, REMOVAL_POLICIES, SELECTION_POLICIES, WITNESSES, Span
    from .boot import launch
    from .checker.verdict import Counts, Finding, Verdict
    from .errors import (
        AnsweredWrongly,
        AskedWrongly,
        BadHistory,
        CannotRun,
        DcdError,
        LinkLost,
        MachineGone,
        MalformedBytes,
        OutcomeUnknown,
        Refused,
        TimedOut,
        Unserved,
    )
    from .scenario import Scenario, scenario
    from .script import run_script
    from .session import Answer, Offer, Release, ReleaseRequest
    from .session import Session as Bench
    from .topology import DeviceSpec, Topology, direct, switch
    from .units import GIB, KIB, MIB, TIB, format_address, format_size, parse_size

__all__ = [
    "BREAKS",
    "GIB",
    "HOSTS",
    "INJECTORS",
    "KIB",
    "MIB",
    "OFFER_POLICIES",
    "RELEASE_POLICIES",
    "REMOVAL_POLICIES",
    "SELECTION_POLICIES",
    "TIB",
    "WITNESSES",
    "Answer",
    "AnsweredWrongly",
    "AskedWrongly",
    "BadHistory",
    "Bench",
    "CannotRun",
    "Counts",
    "DcdError",
    "DeviceSpec",
    "Finding",
    "LinkLost",
    "MachineGone",
    "MalformedBytes",
    "Offer",
    "OutcomeUnknown",
    "Refused",
    "Release",
    "ReleaseRequest",
    "Scenario",
    "Span",
    "TimedOut",
    "Topology",
    "Unserved",
    "Verdict",
    "direct",
    "format_address",
    "format_size",
    "launch",
    "parse_size",
    "run_script",
    "scenario",
    "switch",
]

_PLACES = {
    "agent.policy": ("BREAKS", "ADD OFFER_POLICIES", "RELEASE RELEASE_POLICIES"),
    "bench": ("HOSTS", "INJECTORS", "REMOVAL_POLICIES", "SELECTION_POLICIES", "WITNESSES", "Span"),
    "boot": ("launch",),
    "checker.verdict": ("Counts", "Finding", "Verdict"),
    "errors": (
        *("AnsweredWrongly", "AskedWrongly", "BadHistory", "CannotRun", "DcdError", "LinkLost", "MachineGone"),
        *("MalformedBytes", "OutcomeUnknown", "Refused", "TimedOut", "Unserved"),
    ),
    "scenario": ("Scenario", "scenario"),
    "script": ("run_script",),
    "session": ("Answer", "Offer", "Release", "ReleaseRequest", "Session Bench"),
    "topology": ("DeviceSpec", "Topology", "direct", "switch"),
    "units": ("GIB", "KIB", "MIB", "TIB", "format_address", "format_size", "parse_size"),
}
"""Where each public name is; `A B`: it is called A there and B here."""


def __getattr__(name: str) -> Any:
    """A public name, imported now. Errors: AttributeError."""
    from importlib import import_module

    for place, names in _PLACES.items():
        for entry in names:
            there, _, here = entry.partition(" ")
            if name == (here or there):
                found = getattr(import_module(f"{__name__}.{place}"), there)
                if name != "scenario":  # the package of that name is the decorator as well, and stays in its place
                    globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
