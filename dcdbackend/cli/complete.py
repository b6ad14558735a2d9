"""What the shell completes: guests, devices and regions that are there, policies, scenarios.

Quick and quiet: nothing is asked of a guest (its history's first line says what devices it has), nothing that knows
QEMU is imported, and what goes wrong completes nothing. Every function takes the word typed so far.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import typer

Found = list[tuple[str, str]]

_MOST_BYTES = 1 << 16


def guests(incomplete: str) -> Found:
    """Launched guests, and what state they are in."""
    from ..supervisor.place import list_guests

    with suppress(Exception):
        return [(found.name, found.state) for found in list_guests() if found.name.startswith(incomplete)]
    return []


def runs(incomplete: str) -> Found:
    """Launched guests, and the runs that are kept."""
    from ..rundir import runs_dir

    found = guests(incomplete)
    with suppress(OSError):
        kept = sorted((path for path in runs_dir().iterdir() if path.is_dir()), reverse=True)
        found += [(str(path), "run") for path in kept[:20] if str(path).startswith(incomplete)]
    return found


def devices(ctx: typer.Context, incomplete: str) -> Found:
    """The devices of the guest that was named."""
    named = [(str(found["name"]), f"{len(found['regions'])} regions") for found in _devices(ctx)]
    return [found for found in named if found[0].startswith(incomplete)]


def regions(ctx: typer.Context, incomplete: str) -> Found:
    """The regions of its device."""
    from ..units import format_address, format_size

    wanted = ctx.params.get("device") or "mem0"
    return [
        (str(region["index"]), f"{format_size(region['length'])} at {format_address(region['base'])}")
        for device in _devices(ctx)
        if device["name"] == wanted
        for region in device["regions"]
        if str(region["index"]).startswith(incomplete)
    ]


def policies(incomplete: str) -> Found:
    """What host U can do with offers and with release requests."""
    from ..agent.policy import ADD, RELEASE

    return [(kind, row.text) for kind, row in {**RELEASE, **ADD}.items() if kind.startswith(incomplete)]


def breaks(incomplete: str) -> Found:
    """The rules that host U can break."""
    from ..agent.policy import BREAKS

    return [(clause, how.text) for clause, how in BREAKS.items() if clause.startswith(incomplete)]


def parameters(ctx: typer.Context, incomplete: str) -> Found:
    """The parameters of the policy that was named."""
    from .policy import parameters as known

    kind = ctx.params.get("kind")
    return [(f"{key}=", text) for key, text in known(str(kind)).items() if f"{key}=".startswith(incomplete)]


def scenarios(incomplete: str) -> Found:
    """The scenarios of `dcd regress`."""
    from ..scenario import SCENARIOS

    return [(one.name, one.summary) for one in SCENARIOS.values() if one.name.startswith(incomplete)]


def topologies(incomplete: str) -> Found:
    """How devices can hang on the machine."""
    kinds = (("direct", "each device has a host bridge of its own"), ("switch", "all devices are under one switch"))
    return [found for found in kinds if found[0].startswith(incomplete)]


def _devices(ctx: typer.Context) -> list[dict[str, Any]]:
    """The devices of the guest on the command line, from its history's first line.

    An option without its value, which is being typed, leaves the words before it unread, in `ctx.args`.
    """
    from ..supervisor.place import find

    with suppress(Exception):
        outer = ctx.parent.params.get("name") if ctx.parent is not None else None
        found = find(str(ctx.params.get("name") or outer or ctx.args[0]))
        if found is not None and found.run_dir is not None:
            with (found.run_dir / "history.jsonl").open("rb") as file:
                return list(json.loads(file.readline(_MOST_BYTES))["devices"])
    return []
