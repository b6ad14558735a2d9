"""`dcd launch`, `dcd list`, `dcd stop`: guests that live by themselves, until they are told to end.

A guest belongs to its supervisor (`supervisor`); here names are given, starts are watched, and what is running is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich import progress as bars
from rich.console import Console
from rich.table import Table

from .. import supervisor
from ..errors import AskedWrongly, DcdError
from ..units import format_size
from . import complete, drive, out

MAX_AT_ONCE = 16
_INFO_TIMEOUT_S = 4.0

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="What to call them: letters, digits, - and _.")]


def launch(
    names: Names,
    topology: Annotated[
        str, typer.Option(help="Where the devices hang: direct or switch.", autocompletion=complete.topologies)
    ] = "direct",
    devices: Annotated[int, typer.Option(help="Devices, mem0 onwards: 1 to 8, 4 under a switch.")] = 1,
    regions: Annotated[int, typer.Option(help="DC regions of each, 1 to 8.")] = 2,
    size: Annotated[str, typer.Option(help="Its dynamic capacity, a multiple of 256M for each region.")] = "2G",
    static: Annotated[str, typer.Option(help="Its static capacity, a multiple of 256M.")] = "0",
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="What host U does from the start, like refuse or 'subset first=64M'; once more for release requests.",
            autocompletion=complete.policies,
        ),
    ] = None,
    qemu: Annotated[
        str | None, typer.Option(help="A qemu-system-x86_64, `system`, or `private`. [env: DCD_QEMU]")
    ] = None,
    kernel: Annotated[str | None, typer.Option(help="A bzImage. [env: DCD_KERNEL]")] = None,
    initrd: Annotated[
        str | None, typer.Option(help="A root of your own with python3; the agent is appended. [env: DCD_INITRD]")
    ] = None,
    modules: Annotated[
        str | None, typer.Option(help="Its modules: a /lib/modules/VERSION, or what holds it. [env: DCD_MODULES]")
    ] = None,
    accel: Annotated[str | None, typer.Option(help="kvm, tcg or auto. [env: DCD_ACCEL]")] = None,
    poll: Annotated[
        Literal["sleep", "spin"], typer.Option(help="How host U watches its devices; spin costs a processor.")
    ] = "sleep",
    seed: Annotated[int | None, typer.Option(help="For what is chosen by chance.", min=0)] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where the run is kept, for one guest; a fresh directory by default.")
    ] = None,
    as_json: out.Json = False,
) -> int:
    """Boot guests with Dynamic Capacity Devices; back when each one's agent is ready.

    They go on until `dcd stop`, whatever becomes of this terminal. Where one of several does not start the others stay,
    and the exit code is the failed one's. JSON: a list of {"name", "state", "run_dir", "since", "qemu", "pid"}, or
    {"name", "error", "exit"} for one that failed.
    """
    _checked(names, run_dir)
    options = _options(policy or [])
    options = replace(
        options,
        topology=_kind(topology),
        devices=devices,
        regions=regions,
        size=size,
        static=static,
        qemu=qemu,
        kernel=kernel,
        initrd=initrd,
        modules=modules,
        accel=accel,
        poll=poll,
        seed=seed,
        run_dir=None if run_dir is None else str(run_dir),
    )
    with _watched(names) as show:
        ended = asyncio.run(_launched(names, options, show))
    if as_json:
        out.data([_failed(name, one) if isinstance(one, DcdError) else one.as_data() for name, one in ended])
    code, ready = 0, []
    for name, one in ended:
        if isinstance(one, DcdError):
            code = code or one.exit_code
            out.note(f"dcd: {name}: {one}" if len(ended) > 1 else f"dcd: {one}")
        else:
            ready.append(name)
            if not as_json:
                out.line(f"{name} is ready: QEMU {one.qemu}, run {one.run_dir}")
    if ready and not as_json:
        out.following("add", ready[0], "256M")
    return code


def listed(as_json: out.Json = False) -> int:
    """What is launched: alive, starting, or dead; and whether its QEMU still lives.

    JSON: a list of {"name", "state", "run_dir", "since", "qemu", "pid", "died"}: `state` is alive, starting or dead
    (its supervisor was killed); `died` is how an alive one's QEMU or guest died, else null.
    """
    found = supervisor.list_guests()
    infos = asyncio.run(_infos([guest.name for guest in found if guest.state == "alive"]))
    deaths = {name: (info.get("death") or {}).get("text") for name, info in infos.items()}
    if as_json:
        out.data([{**guest.as_data(), "died": deaths.get(guest.name)} for guest in found])
        return 0
    if not found:
        out.line("no guest is launched")
        out.following("launch", "vm0")
        return 0
    table = Table(box=None, pad_edge=False)
    for column in ("name", "state", "QEMU", "devices", "up", "run"):
        table.add_column(column, no_wrap=True)
    for guest in found:
        state = _state(guest, deaths.get(guest.name))
        up = "" if guest.since is None or guest.state == "dead" else _duration(time.time() - guest.since)
        shape = _devices(infos.get(guest.name))
        table.add_row(guest.name, state, guest.qemu or "", shape, up, str(guest.run_dir or ""))
    out.table(table)
    for name, died in deaths.items():
        if died:
            out.line(f"{name} is gone: {died}")
    _next(found, deaths)
    return 0


def stop(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Which ones.", autocompletion=complete.guests)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All that are launched.")] = False,
    as_json: out.Json = False,
) -> int:
    """End guests in order, and forget dead ones; their runs stay. JSON: a list of {"name", "state", "run_dir", ...}:
    what each one was."""
    if bool(names) == every:
        raise AskedWrongly("give the guests to stop, or --all")
    wanted = list(dict.fromkeys(names or [guest.name for guest in supervisor.list_guests()]))
    if not wanted and not as_json:
        out.line("no guest is launched")
    ended = asyncio.run(_stopped(wanted))
    if as_json:
        out.data([_failed(name, one) if isinstance(one, DcdError) else one.as_data() for name, one in ended])
    code = 0
    for name, one in ended:
        if isinstance(one, DcdError):
            code = code or one.exit_code
            out.note(f"dcd: {name}: {one}" if len(ended) > 1 else f"dcd: {one}")
        elif not as_json:
            out.line(
                f"{name} {'was dead and is forgotten' if one.state == 'dead' else 'is stopped'}; run {one.run_dir}"
            )
    gone = [one.run_dir for _, one in ended if not isinstance(one, DcdError) and one.run_dir is not None]
    if not as_json and not code:
        out.following("check", str(gone[-1])) if gone else out.following("list")
    return code


# -- starting ----------------------------------------------------------------------------------------------------------


def _checked(names: Sequence[str], run_dir: Path | None) -> None:
    if len(set(names)) != len(names):
        raise AskedWrongly(f"a name twice in {', '.join(names)}; each guest needs its own")
    if len(names) > MAX_AT_ONCE:
        raise AskedWrongly(f"{len(names)} guests at once; give at most {MAX_AT_ONCE}")
    if run_dir is not None and len(names) > 1:
        raise AskedWrongly("--run-dir is for one guest; each needs a directory of its own")


def _kind(text: str) -> Any:
    if text not in ("direct", "switch"):
        raise AskedWrongly(f"topology {text!r}; there is direct, switch")
    return text


def _options(policies: Sequence[str]) -> supervisor.Options:
    """The policies from the start. Errors: AskedWrongly."""
    from .policy import parse  # the agent's table, which few launches need

    found: dict[str, Any] = {}
    for text in policies:
        asked = parse(text.split() or [""])
        if asked.on in found:
            raise AskedWrongly(f"--policy {text!r}: {asked.on} have one already")
        found[asked.on] = asked.as_data()
    return supervisor.Options(policy=found.get("offers"), release_policy=found.get("requests"))


Ended = list[tuple[str, supervisor.GuestInfo | DcdError]]


async def _launched(names: Sequence[str], options: supervisor.Options, show: _Show) -> Ended:
    async def one(name: str) -> supervisor.GuestInfo | DcdError:
        try:
            found = await supervisor.launch(name, options, progress=lambda text: show(name, text))
        except DcdError as error:
            show.over(name, "failed")
            return error
        show.over(name, "ready")
        return found

    return list(zip(names, await asyncio.gather(*map(one, names)), strict=True))


async def _stopped(names: Sequence[str]) -> Ended:
    async def one(name: str) -> supervisor.GuestInfo | DcdError:
        try:
            return await supervisor.stop(name)
        except DcdError as error:
            return error

    return list(zip(names, await asyncio.gather(*map(one, names)), strict=True))


def _failed(name: str, error: DcdError) -> dict[str, Any]:
    return {"name": name, "error": str(error), "exit": error.exit_code}


class _Show:
    """What each start is at: one line a step where there is no terminal. How it ended is not this one's to say."""

    def __call__(self, name: str, text: str) -> None:
        out.note(f"{name}: {text}")

    def over(self, name: str, text: str) -> None:
        """That start has ended, while others go on."""


class _Bars(_Show):
    """On a terminal: one moving line a guest."""

    def __init__(self, shown: bars.Progress, names: Sequence[str]) -> None:
        self._shown = shown
        self._tasks = {name: shown.add_task("starting", total=1, guest=name) for name in names}

    def __call__(self, name: str, text: str) -> None:
        self._shown.update(self._tasks[name], description=text)

    def over(self, name: str, text: str) -> None:
        self._shown.update(self._tasks[name], completed=1, description=text)


@contextmanager
def _watched(names: Sequence[str]) -> Iterator[_Show]:
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _Show()
        return
    columns = (
        bars.SpinnerColumn(finished_text=" "),
        bars.TextColumn("{task.fields[guest]}", style="bold", markup=False),
        bars.TextColumn("{task.description}", markup=False),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True) as shown:
        yield _Bars(shown, names)


# -- listing -----------------------------------------------------------------------------------------------------------


async def _infos(names: Sequence[str]) -> dict[str, drive.Value]:
    """What the living say of themselves; one that says nothing in time is left out."""

    async def one(name: str) -> drive.Value | None:
        try:
            async with asyncio.timeout(_INFO_TIMEOUT_S), supervisor.connect(name) as client:
                found: drive.Value = await client.call("info")
                return found
        except (DcdError, TimeoutError):
            return None

    found = zip(names, await asyncio.gather(*map(one, names)), strict=True)
    return {name: info for name, info in found if info is not None}


def _devices(info: drive.Value | None) -> str:
    if info is None:
        return ""
    sizes = [format_size(sum(region["length"] for region in device["regions"])) for device in info["devices"]]
    shapes = {(size, len(device["regions"])) for size, device in zip(sizes, info["devices"], strict=True)}
    each = ", ".join([f"{size} in {regions} region{'s' if regions != 1 else ''}" for size, regions in sorted(shapes)])
    devices = f"{len(sizes)} device{'s' if len(sizes) != 1 else ''}"
    return f"{devices} of {each}, {info['topology']}"


def _state(guest: supervisor.GuestInfo, died: str | None) -> str:
    if guest.state == "dead":
        return "dead: its supervisor was killed"
    return "gone" if died else guest.state


def _duration(seconds: float) -> str:
    whole = int(max(0, seconds))
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _next(found: Sequence[supervisor.GuestInfo], deaths: dict[str, str | None]) -> None:
    gone = [guest.name for guest in found if guest.state == "dead" or deaths.get(guest.name)]
    alive = [guest.name for guest in found if guest.state == "alive" and guest.name not in gone]
    if gone:
        out.following("check", gone[0])
    elif alive:
        out.following("show", alive[0])
    else:
        out.following("list")
