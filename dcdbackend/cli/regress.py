"""`dcd regress`: boot a guest with a DCD, run the scenarios, judge every answer.

It finds the parts, chooses what runs, and shows what came of it; running is `scenario.runner`'s, judging `checker`'s.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shlex
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console

from .. import asked, image, machine
from ..agent.policy import choose_break
from ..bench import Via
from ..boot import MAX_SEED, REQUIRE_QEMU, Setup, prepare
from ..emulated import EmulatedSetup
from ..emulator.machine import HOSTS, STRICT, behaviour
from ..errors import AskedWrongly, CannotRun
from ..guest import Poll
from ..model.generation import GENERATIONS
from ..report import table
from ..report.junit import writable
from ..rundir import new_run_dir
from ..scenario import SCENARIOS, Scenario, choose, ordered
from ..scenario.load import named
from ..scenario.printed import routed
from ..scenario.runner import Result, Runner, fitting
from ..topology import Kind
from . import complete
from .kernel import lacks
from .progress import progress
from .results import exit_code, show, warn, write

MAX_JOBS = 64


_Scenario = Annotated[
    list[str] | None,
    typer.Option(
        "--scenario",
        "-s",
        metavar="NAME|FILE",
        help="Only these (patterns, a script, a directory).",
        autocompletion=complete.scenarios,
    ),
]
_Qemu = Annotated[str | None, typer.Option(help="A qemu-system-x86_64, `system`, or `private`. [env: DCD_QEMU]")]
_Initrd = Annotated[
    str | None, typer.Option(help="A root of your own with python3; the agent is appended. [env: DCD_INITRD]")
]
_Kernel = Annotated[
    str | None,
    typer.Option(
        help="A bzImage; here it is the kernel under test unless --host says U. [env: DCD_KERNEL, for host U]"
    ),
]
_Modules = Annotated[
    str | None, typer.Option(help="Its modules: a /lib/modules/VERSION, or what holds it. [env: DCD_MODULES]")
]
_Host = Annotated[
    str | None,
    typer.Option(help=f"Who answers: U, or kernel (its own drivers); on the emulator {', '.join(HOSTS)}."),
]
_Generation = Annotated[
    str | None,
    typer.Option(help="Of the kernel under test, where its sysfs does not tell: auto, A, B-rfc, v10, v11."),
]
_Poll = Annotated[
    str | None, typer.Option(help="How the agent watches its devices: sleep (0.5 ms between looks), or spin.")
]
_Via = Annotated[
    str | None,
    typer.Option(help="Who injects: qmp, fm (topology switch, QEMU >= 11.1), or auto: QMP, and FM-API for tags."),
]
_Backend = Annotated[
    str, typer.Option(help="qemu; emulator (no QEMU, no root); auto: the emulator where QEMU cannot be had.")
]
_As = Annotated[str | None, typer.Option("--as", help="On the emulator: strict, or behave as qemu-X.Y.Z does.")]
_Breaks = Annotated[
    str | None,
    typer.Option("--break", metavar="CLAUSE", help="Have host U break this rule, to see it convicted."),
]
_Jobs = Annotated[
    int | None, typer.Option(help="Guests side by side; 2 by default, where there are as many processors.", min=1)
]


def regress(
    scenario: _Scenario = None,
    seed: Annotated[int | None, typer.Option(help="Run the same choices again.", min=0, max=MAX_SEED)] = None,
    regions: Annotated[int, typer.Option(help="DC regions of the device, 1 to 8.")] = 2,
    size: Annotated[str, typer.Option(help="Its dynamic capacity, a multiple of 256M for each region.")] = "2G",
    topology: Annotated[str, typer.Option(help="Where the devices hang: direct, switch, or all of these.")] = "direct",
    qemu: _Qemu = None,
    kernel: _Kernel = None,
    initrd: _Initrd = None,
    modules: _Modules = None,
    accel: Annotated[str | None, typer.Option(help="kvm, tcg or auto. [env: DCD_ACCEL]")] = None,
    poll: _Poll = None,
    via: _Via = None,
    backend: _Backend = "qemu",
    host: _Host = None,
    generation: _Generation = None,
    as_: _As = None,
    breaks: _Breaks = None,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit report into this file.")] = None,
    repeat: Annotated[int, typer.Option(help="Run everything so often, each time with the next seed.", min=1)] = 1,
    jobs: _Jobs = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run is kept; a fresh directory by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    list_only: Annotated[bool, typer.Option("--list", help="Only list the scenarios.")] = False,
    print_command: Annotated[bool, typer.Option(help="Only print the QEMU command line of each topology.")] = False,
) -> int:
    """Run the scenarios on a real QEMU and a real kernel (or on the emulator), and judge device and host by rule.

    Exit: 0 everything as expected, known departures included; 1 a rule broken; 2 wrong usage; 3 the environment
    cannot; 4 unknown, or nothing was judged.
    """
    chosen, kinds = ordered(choose(named(scenario or ()))), _kinds(topology)
    if list_only:
        for one in SCENARIOS.values():
            print(f"{one.name:24} {one.summary}")  # noqa: T201 (this verb's output)
        return 0
    choose_break(breaks)  # what cannot be is told before anything is booted
    writable(junit)
    seed = secrets.randbits(32) if seed is None else seed
    jobs = min(2, os.cpu_count() or 1) if jobs is None else min(jobs, MAX_JOBS)
    err = Console(stderr=True, highlight=False)
    shape: dict[str, int | str] = {"regions": regions, "size": size}
    booted = {"qemu": qemu, "kernel": kernel, "initrd": initrd, "modules": modules}
    parts = {**booted, "accel": accel, "poll": poll, "via": via}
    emulated = _emulated(backend, host, as_, parts, shape, seed)
    setup, manifest = (
        _real(backend, parts, _answers(host, kernel), shape, seed, err) if emulated is None else (emulated, {})
    )
    if isinstance(setup, Setup) and generation is not None:
        setup = replace(setup, generation=asked.one_of(generation, "--generation", ("auto", *GENERATIONS)))
    if not scenario:
        chosen = [one for one in chosen if fitting(one, setup)]
    if print_command:
        if not isinstance(setup, Setup):
            raise AskedWrongly("--print-command: the emulator has no QEMU command line; leave one of the two out")
        return _print_commands([replace(setup, kind=kind) for kind in kinds], chosen)
    directory = new_run_dir("regress", run_dir)
    (directory / "parts.json").write_text(json.dumps(manifest, indent=1) + "\n")
    out = table.console()
    unreal = isinstance(setup, EmulatedSetup)
    if not as_json:
        warn(out, unreal)
        out.print(f"run {directory}", markup=False, soft_wrap=True)
    work = [(one, (seed + turn) & MAX_SEED) for turn in range(repeat) for one in chosen]
    results: list[Result] = []
    for kind in kinds:
        with routed():
            results += asyncio.run(_run(_on(setup, kind, via), work, jobs, directory, breaks, err))
    data = write(results, seed, directory, junit, unreal)
    if as_json:
        out.print_json(json.dumps(data))
    else:
        show(out, results, directory)
        warn(out, unreal)
        changed = {"regions": (regions, 2), "size": (size, "2G"), "repeat": (repeat, 1)}
        given = {
            **parts,
            "host": None if unreal else host,
            "generation": generation,
            **{name: value for name, (value, default) in changed.items() if value != default},
        }
        again = _again(scenario, seed, breaks, topology, setup, given)
        out.print(f"again: {again}", markup=False, soft_wrap=True)
    return exit_code(results)


def _print_commands(setups: Sequence[Setup], chosen: Sequence[Scenario]) -> int:
    """QEMU's command lines, each once; what only the emulator has (`sharing`) has none."""
    lines = [_command(setup, one) for setup in setups for one in chosen if "sharing" not in one.needs]
    for line in dict.fromkeys(lines):
        print(line)  # noqa: T201 (this verb's output)
    return 0


def _on(setup: Setup | EmulatedSetup, kind: Kind, via: str | None) -> Setup | EmulatedSetup:
    """The setup on that topology, with that injector. Errors: AskedWrongly."""
    if via is not None:
        asked.one_of(via, "--via", get_args(Via))
        return replace(setup, kind=kind, via=cast(Via, via))
    return replace(setup, kind=kind)


BACKENDS = ("qemu", "emulator", "auto")


def _emulated(
    backend: str,
    host: str | None,
    as_: str | None,
    parts: Mapping[str, str | None],
    shape: Mapping[str, int | str],
    seed: int,
) -> EmulatedSetup | None:
    """The emulator that is asked for, None where it is not. Errors: AskedWrongly."""
    if backend not in BACKENDS:
        raise AskedWrongly(f"backend {backend!r} is not known; there is {', '.join(BACKENDS)}")
    if backend != "emulator":
        if as_ is not None:
            raise AskedWrongly("--as is the emulator's; say --backend emulator, too")
        return None
    given = [f"--{name}" for name, value in parts.items() if value is not None and name != "via"]
    if given:
        raise AskedWrongly(f"{', '.join(given)} and --backend emulator, which boots nothing; leave one of the two out")
    return EmulatedSetup(behaves=behaviour(as_ or STRICT), host=host or "U", shape=shape, seed=seed)


def _answers(host: str | None, kernel: str | None) -> image.Host:
    """Who answers in a guest: a kernel that the command line names is there to be tested. Errors: AskedWrongly."""
    there: tuple[image.Host, ...] = get_args(image.Host)
    if host is None:
        return "U" if kernel is None else "kernel"
    found = next((one for one in there if one == host), None)
    if found is None:
        other = f"{host} is the emulator's; say --backend emulator, too" if host in HOSTS else f"{host!r} is not known"
        raise AskedWrongly(f"--host: {other}; in a guest there is {', '.join(there)}")
    return found


def _real(
    backend: str,
    parts: Mapping[str, str | None],
    host: image.Host,
    shape: Mapping[str, int | str],
    seed: int,
    err: Console,
) -> tuple[Setup | EmulatedSetup, Mapping[str, Any]]:
    """A QEMU and what it boots, with their manifest; with `auto`, the emulator where they cannot be had.

    Who names the parts, or sets DCD_REQUIRE_QEMU=1, gets them or an error. Errors: CannotRun, AskedWrongly.
    """
    wanted = {name: parts[name] for name in ("qemu", "kernel", "initrd", "modules")}
    poll = cast(Poll, parts["poll"] or "sleep")
    try:
        with progress(err) as step:
            found = image.parts(**wanted, host=host, progress=step)
        for line in lacks(found.kernel) if host == "kernel" else ():
            err.print(f"dcd: {line}", markup=False, soft_wrap=True)
        return asyncio.run(prepare(found, accel=parts["accel"], shape=shape, poll=poll)), found.manifest
    except CannotRun as error:
        named = any(parts.values()) or any(os.environ.get(f"DCD_{name.upper()}") for name in parts)
        if backend != "auto" or named or host == "kernel" or os.environ.get(REQUIRE_QEMU) == "1":
            raise
        err.print(f"QEMU CANNOT BE HAD HERE: {error.message}", style="bold red", markup=False, soft_wrap=True)
        err.print(f"FALLING BACK TO THE EMULATOR ({REQUIRE_QEMU}=1 makes this fail).", style="bold red")
        return EmulatedSetup(shape=shape, seed=seed), {}


def _kinds(asked: str) -> tuple[Kind, ...]:
    """The topologies that are meant. Errors: AskedWrongly."""
    there: tuple[Kind, ...] = get_args(Kind)
    found = there if asked == "all" else tuple(kind for kind in there if kind == asked)
    if not found:
        raise AskedWrongly(f"topology {asked!r} is not known; there is {', '.join(there)}, all")
    return found


async def _run(
    setup: Setup | EmulatedSetup,
    work: Sequence[tuple[Scenario, int]],
    jobs: int,
    directory: Path,
    breaks: str | None,
    err: Console,
) -> list[Result]:
    """Everything, `jobs` guests side by side, each with directories, sockets and memory of its own."""
    left = deque(enumerate(work))
    results: dict[int, Result] = {}
    with err.status("starting") if err.is_terminal else _quiet() as status:

        def say(text: str) -> None:
            if status is not None:
                status.update(text)
            else:
                err.print(text, markup=False)

        async def worker() -> None:
            async with Runner(setup, run_dir=directory, seed=0, breaks=breaks, on_boot=say) as runner:
                while left:
                    index, (one, seed) = _next(left, runner)
                    if status is not None:
                        say(f"{len(results) + 1}/{len(work)} {one.name}")
                    results[index] = result = await runner.run(one, seed=seed)
                    if status is None:
                        say(f"{len(results)}/{len(work)} {result.place}: {result.outcome} ({result.seconds:.1f} s)")

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(jobs, len(work))):
                    group.create_task(worker())
        except BaseExceptionGroup as several:  # the first says why; the others were only stopped by it
            raise several.exceptions[0] from None
    return [results[index] for index in sorted(results)]


def _next(left: deque[tuple[int, tuple[Scenario, int]]], runner: Runner) -> tuple[int, tuple[Scenario, int]]:
    """What a worker does next: something that its guest fits, if there is any."""
    for at, (_, (one, _seed)) in enumerate(left):
        if runner.fits(one):
            found = left[at]
            del left[at]
            return found
    return left.popleft()


class _quiet:
    """No status line where there is no terminal."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def _command(setup: Setup, scenario: Scenario) -> str:
    argv = machine.full_argv(
        qemu=setup.qemu,
        topology=setup.topology(scenario.shape),
        kernel=setup.kernel,
        initrd=setup.initrd,
        accel=setup.accel,
        host=setup.host,
        append=setup.append,
    )
    return shlex.join(argv)


def _again(
    patterns: list[str] | None,
    seed: int,
    breaks: str | None,
    topology: str,
    setup: Setup | EmulatedSetup,
    given: Mapping[str, object],
) -> str:
    """The command that runs it once more. `given`: options by name; None was not given."""
    argv = ["dcd", "regress", "--seed", str(seed)]
    if isinstance(setup, EmulatedSetup):
        argv += ["--backend", "emulator", "--host", setup.host, "--as", setup.behaves.name]
    if topology != "direct":
        argv += ["--topology", topology]
    for name, value in given.items():
        argv += [f"--{name}", str(value)] if value is not None else []
    for pattern in patterns or ():
        argv += ["--scenario", pattern]
    if breaks is not None:
        argv += ["--break", breaks]
    return shlex.join(argv)
