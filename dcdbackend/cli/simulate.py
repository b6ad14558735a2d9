"""`dcd simulate`: scenarios on a simulated kernel of a generation, with what-if switches; nothing is booted.

It is `dcd regress --backend emulator` for designs that no kernel has: a switch changes the simulated host and the judge
at once, so that what changes its verdict, or its answer, changes by the switch alone.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..asked import one_of
from ..boot import MAX_SEED
from ..errors import AskedWrongly
from ..model.generation import WHAT_IFS, switches_of
from ..report import table
from ..rundir import new_run_dir
from ..scenario import choose
from ..scenario.load import named
from ..scenario.printed import routed
from ..scenario.simulated import SIMULATED_HOSTS, run, setup
from . import complete
from .results import VERDICT, exit_code, show, warn, write


def _switches(incomplete: str) -> list[tuple[str, str]]:
    return [(name, row.text) for name, row in WHAT_IFS.items() if name.startswith(incomplete)]


def simulate(
    scenario: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SCENARIO|FILE]...",
            help="Names, patterns, scripts; none means all.",
            autocompletion=complete.scenarios,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help=f"The generation: {', '.join(SIMULATED_HOSTS)}.")] = "v11",
    switches: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="SWITCH",
            help="A what-if switch, as often as wanted (see --list).",
            autocompletion=_switches,
        ),
    ] = None,
    regions: Annotated[int, typer.Option(help="DC regions of the device, 1 to 8.")] = 2,
    size: Annotated[str, typer.Option(help="Its dynamic capacity, a multiple of 256M for each region.")] = "2G",
    seed: Annotated[int | None, typer.Option(help="Run the same choices again.", min=0, max=MAX_SEED)] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run is kept; a fresh directory by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    list_only: Annotated[bool, typer.Option("--list", help="Only list the switches, and who can have them.")] = False,
) -> int:
    """Run scenarios on a simulated kernel, what-if switches on, and judge it by the same generation and switches.

    Exit: 0 everything as expected; 1 a rule broken; 2 wrong usage, or a host and switches that cannot be together; 4
    unknown, or nothing was judged.
    """
    one_of(host, "--host", SIMULATED_HOSTS)
    if list_only:
        table.console().print(_listed())
        return 0
    on = list(dict.fromkeys(switches or ()))
    seed = secrets.randbits(32) if seed is None else seed
    shape: dict[str, int | str] = {"regions": regions, "size": size}
    made = setup(host, on, seed=seed, shape=shape)
    chosen = choose(named(scenario or ()))
    if not scenario:
        chosen = [one for one in chosen if one.needs <= made.offers]
    unfit = [one for one in chosen if not one.needs <= made.offers]
    if scenario and len(unfit) == len(chosen):
        first = unfit[0]
        raise AskedWrongly(
            f"host {host} and scenario {first.name!r}: it needs {', '.join(sorted(first.needs - made.offers))}; "
            "take another host or another scenario"
        )
    directory = new_run_dir("simulate", run_dir)
    with routed():
        results = asyncio.run(run(host, on, chosen, run_dir=directory, seed=seed, shape=shape))
    out = table.console()
    data = write(results, seed, directory, None, True)
    data = {"host": host, "with": on, **data}
    (directory / VERDICT).write_text(json.dumps(data, indent=1) + "\n")
    if as_json:
        out.print_json(json.dumps(data))
        return exit_code(results)
    err = Console(stderr=True, highlight=False)
    err.print(f"run {directory}", markup=False, soft_wrap=True)
    show(out, results, directory)
    warn(out, True)
    again = ["dcd", "simulate", "--host", host, "--seed", str(seed)]
    for name in on:
        again += ["--with", name]
    again += ["--regions", str(regions)] if regions != 2 else []
    again += ["--size", size] if size != "2G" else []
    out.print(f"again: {shlex.join([*again, *(scenario or ())])}", markup=False, soft_wrap=True)
    return exit_code(results)


def _listed() -> Table:
    """The switches: what each means, who asks for it, who can have it, and why the others cannot."""
    shown = Table(title="What-if switches", title_justify="left", box=None, pad_edge=False)
    for name in ("switch", "hosts", "seed"):
        shown.add_column(name, no_wrap=True)
    shown.add_column("what it means, and who cannot have it", overflow="fold")
    for name, row in WHAT_IFS.items():
        hosts = [one for one in SIMULATED_HOSTS if name in switches_of(one)]
        why = [f"not {generation}: {text}" for generation, text in row.others if generation in SIMULATED_HOSTS]
        why += [f"not with {other}: {text}" for other, text in row.clashes]
        shown.add_row(name, ", ".join(hosts), row.source, "; ".join([row.text, *why]))
    return shown
