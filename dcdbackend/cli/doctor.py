"""`dcd doctor`: what is here, what will be fetched, what needs root, what to type next.

Everything it says was looked at when asked; sizes and seconds come from the recipes' recorded builds
(images/README.md). It changes nothing: whatever a real run would do differently is a defect here. The longest look is
at the mirror, and only if something must be fetched from it.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from .. import image, machine
from ..errors import DcdError
from ..image import mirror
from ..image.recipe import Recipe

Found = Literal["ok", "note", "missing"]

PACKAGES = ("mmdebstrap",)
"""System packages that a build needs and `make` installs."""

_PROGRAM = "qemu-system-x86_64"
_ASK_S = 10.0
_STYLE: dict[Found, str] = {"ok": "green", "note": "yellow", "missing": "red"}
_MARK: dict[Found, str] = {"ok": "ok", "note": "-", "missing": "no"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One thing looked at. `missing`: regress cannot run without it; `note`: good to know, not needed."""

    what: str
    found: Found
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetch:
    """What the next run takes from the mirror first."""

    what: tuple[str, ...]
    bytes: int
    disk_bytes: int
    seconds: float
    to: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    rows: tuple[Row, ...]
    fetch: Fetch | None
    needs_root: tuple[str, ...]
    next: str

    @property
    def can_run(self) -> bool:
        return all(row.found != "missing" for row in self.rows)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> int:
    """Look at this machine: can `dcd regress` run here, what will it fetch, what needs root, what is next.

    Exit: 0 it can run; 3 it cannot.
    """
    findings = look()
    console = Console(highlight=False)
    if as_json:
        console.print_json(json.dumps({"can_run": findings.can_run, **asdict(findings)}))
    else:
        _show(console, findings)
    return 0 if findings.can_run else 3


def look() -> Findings:
    """Every row, and what follows from them."""
    wanted = _wanted()
    rows = [_python(), _machine(wanted), *_own_parts()]
    needs_root: tuple[str, ...] = ()
    if wanted:
        needs_root = tuple(f"apt-get install {name}" for name in PACKAGES if shutil.which(name) is None)
        rows += [_apt(wanted), *(_package(name) for name in PACKAGES)]
    rows += [_rights(needs_root), _system_qemu(), *(_cached(kind, wanted) for kind in image.KINDS), _disk(wanted)]
    rows += _accelerator(wanted)
    fetch = _fetch(wanted) if wanted else None
    return Findings(rows=tuple(rows), fetch=fetch, needs_root=needs_root, next=_next(rows, needs_root))


def _wanted() -> tuple[Recipe, ...]:
    """What a run would build first, the environment variables considered."""
    own = {"qemu": os.environ.get(image.QEMU, "private") not in ("", "private")}
    own["guest"] = bool(os.environ.get(image.KERNEL) and os.environ.get(image.INITRD))
    return tuple(recipe for recipe in image.missing() if not own[recipe.kind])


def _python() -> Row:
    return Row(what="python", found="ok", text=platform.python_version())


def _machine(wanted: tuple[Recipe, ...]) -> Row:
    name = platform.machine()
    if name == "x86_64" or not wanted:
        return Row(what="machine", found="ok", text=f"{name}, {os.cpu_count()} processors")
    return Row(what="machine", found="missing", text=f"{name}; the image and its QEMU are made for x86_64")


def _own_parts() -> list[Row]:
    """The environment variables that bring one's own parts, checked as a run would."""
    rows = []
    for name, check in ((image.QEMU, _check_qemu), (image.KERNEL, _check_file), (image.INITRD, _check_file)):
        given = os.environ.get(name)
        if given and given != "private":
            wrong = check(given)
            rows.append(Row(what=name, found="missing" if wrong else "ok", text=wrong or given))
    return rows


def _check_qemu(given: str) -> str | None:
    if given == "system":
        return None if shutil.which(_PROGRAM) else f"{given}: no {_PROGRAM} is installed"
    return None if shutil.which(given) else f"{given} is not a program that can be run"


def _check_file(given: str) -> str | None:
    try:
        with Path(given).expanduser().open("rb"):
            return None
    except OSError as error:
        return f"{given} cannot be read ({error.strerror})"


def _apt(wanted: tuple[Recipe, ...]) -> Row:
    try:
        found = mirror.find()
    except DcdError as error:
        return Row(what="apt", found="missing", text=str(error))
    silent = mirror.silence(found, wanted[0].suite)
    if silent:
        return Row(what="apt", found="missing", text=f"the mirror {found.uri} does not answer: {silent}")
    return Row(what="apt", found="ok", text=f"the mirror {found.uri} answers and has {wanted[0].suite}")


def _package(name: str) -> Row:
    found = shutil.which(name)
    if found is None:
        return Row(what=name, found="missing", text="not installed; `make` installs it")
    return Row(what=name, found="ok", text=_said([name, "--version"]) or found)


def _rights(needs_root: tuple[str, ...]) -> Row:
    who = "root" if os.geteuid() == 0 else f"{_user()}, {'with' if shutil.which('sudo') else 'without'} sudo"
    if not needs_root:
        return Row(what="rights", found="ok", text=f"{who}; nothing needs root")
    can = os.geteuid() == 0 or shutil.which("sudo")
    return Row(
        what="rights", found="ok" if can else "missing", text=f"{who}; root is needed for {'; '.join(needs_root)}"
    )


def _accelerator(wanted: tuple[Recipe, ...]) -> list[Row]:
    """What will run the guest, found out as a run would, and remembered for it: KVM counts only after it has really run
    one. Before there is a kernel to try it with, nothing is claimed."""
    if wanted:
        device = Path("/dev/kvm")
        if os.access(device, os.R_OK | os.W_OK):
            return [
                Row(what="kvm", found="note", text=f"{device} is there; the first run tries whether it runs a guest")
            ]
        return [Row(what="kvm", found="note", text=f"{device} is not here, or not yours to open; guests run on TCG")]
    try:
        parts = image.parts()
        qemu, choice = asyncio.run(_choice(parts))
    except DcdError as error:
        return [Row(what="QEMU", found="missing", text=error.message)]
    known = "found out earlier" if choice.remembered else "found out now"
    return [
        Row(what="QEMU", found="ok", text=f"{qemu.version} ({qemu.origin}), has Dynamic Capacity"),
        Row(
            what="kvm", found="ok" if choice.accel == "kvm" else "note", text=f"{choice.accel}: {choice.why} ({known})"
        ),
    ]


async def _choice(parts: image.Parts) -> tuple[machine.Qemu, machine.AccelChoice]:
    qemu = await machine.probe_qemu(parts.qemu_argv, origin=parts.qemu_origin, timeout_s=_ASK_S)
    return qemu, await machine.decide_accel(qemu, kernel=parts.kernel, cache_dir=image.cache_dir())


def _system_qemu() -> Row:
    found = shutil.which(_PROGRAM)
    if found is None:
        return Row(what="system QEMU", found="note", text="none installed; not needed")
    try:
        qemu = asyncio.run(machine.probe_qemu([found], origin="system", timeout_s=_ASK_S))
    except DcdError as error:
        return Row(what="system QEMU", found="note", text=error.message)
    return Row(what="system QEMU", found="ok", text=f"{found} {qemu.version}; --qemu system takes it")


def _cached(kind: str, wanted: tuple[Recipe, ...]) -> Row:
    what = {"qemu": "private QEMU", "guest": "guest image"}[kind]
    now = [cached for cached in image.list_images() if cached.kind == kind and cached.current]
    if now:
        about = now[0].manifest
        when = str(about["built_at"])[:10]
        return Row(what=what, found="ok", text=f"{about['version']}, made {when}, {_megabytes(now[0].size_bytes)}")
    will = any(recipe.kind == kind for recipe in wanted)
    return Row(what=what, found="note", text="not here yet; the first run makes it" if will else "not here; not needed")


def _disk(wanted: tuple[Recipe, ...]) -> Row:
    place = image.cache_dir()
    free = shutil.disk_usage(place).free
    built = sum(recipe.measured.disk_bytes for recipe in wanted)
    needed = max((recipe.measured.peak_bytes for recipe in wanted), default=0) + built
    text = f"{_megabytes(free)} free in {place}"
    if free < needed:
        return Row(
            what="disk", found="missing", text=f"{text}, about {_megabytes(needed)} needed; or set XDG_CACHE_HOME"
        )
    return Row(what="disk", found="ok", text=text)


def _fetch(wanted: tuple[Recipe, ...]) -> Fetch:
    return Fetch(
        what=tuple(recipe.kind for recipe in wanted),
        bytes=sum(recipe.measured.fetch_bytes for recipe in wanted),
        disk_bytes=sum(recipe.measured.disk_bytes for recipe in wanted),
        seconds=sum(recipe.measured.seconds for recipe in wanted),
        to=str(image.cache_dir()),
    )


def _next(rows: list[Row], needs_root: tuple[str, ...]) -> str:
    """One command that brings one further, or the ways out."""
    missing = [row.what for row in rows if row.found == "missing"]
    if not missing:
        return "dcd regress"
    if needs_root and set(missing) <= set(PACKAGES):
        return f"{'' if os.geteuid() == 0 else 'sudo '}{needs_root[0]}"
    return f"see to: {', '.join(missing)}; {mirror.WAYS_OUT}"


def _show(console: Console, findings: Findings) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in findings.rows:
        table.add_row(row.what, f"[{_STYLE[row.found]}]{_MARK[row.found]}[/]", row.text)
    console.print(table)
    if findings.fetch:
        fetch = findings.fetch
        console.print(
            f"to be fetched first: {' and '.join(fetch.what)}, about {_megabytes(fetch.bytes)}, about "
            f"{fetch.seconds:.0f} s where that was recorded, {_megabytes(fetch.disk_bytes)} in {fetch.to}",
            markup=False,
        )
    console.print(f"next: {findings.next}", markup=False, soft_wrap=True)


def _said(command: list[str]) -> str:
    """The first line that a program prints."""
    ask: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
    try:
        done = ask(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ASK_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
