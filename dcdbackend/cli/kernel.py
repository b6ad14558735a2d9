"""`dcd kernel check`: what a kernel lacks for a guest with a DCD, and what that will cost, before it is booted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .. import bzimage, kconfig
from ..errors import AskedWrongly, DcdError
from . import out

WIDTH = 160
MAX_CONFIG_BYTES = 16 << 20

app = typer.Typer(help="A kernel under test, before it is booted: check.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """A group even while it has one verb."""


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="A bzImage or vmlinux, a .config, or /proc/config.gz.")],
    every: Annotated[bool, typer.Option("--all", help="Also what is there.")] = False,
    as_json: out.Json = False,
) -> int:
    """Tell which options a DCD guest needs that this kernel lacks, and what each lack costs.

    A kernel image is asked for the configuration inside it (CONFIG_IKCONFIG), else for the one beside it (config,
    config-VERSION, .config). No option says that the DCD patches are in: that is seen when it is booted.
    JSON: {"file", "from", "version", "ok", "options": [{"name", "level", "state", "served", "why", "cost"}]}.
    Exit: 0 nothing needed is missing; 1 something is; 2 no kernel and no configuration; 3 nothing here unpacks it.
    """
    text, source = read(file)
    found = kconfig.look(_parsed(text, source))
    ok = all(one.served or one.option.level != "needed" for one in found)
    version = _version(file)
    if as_json:
        out.data({"file": str(file), "from": str(source), "version": version, "ok": ok, "options": _rows(found)})
        return 0 if ok else 1
    _show(found, every)
    lacks = [sum(not one.served and one.option.level == level for one in found) for level in ("needed", "wanted")]
    of = f"{version or file.name} (by {source})"
    out.line(f"{of}: {lacks[0]} needed and {lacks[1]} wanted options are not there, of {len(found)}")
    if not ok:
        out.line("set them: scripts/kconfig/merge_config.sh -m .config images/dcd.config && make olddefconfig")
    else:
        out.following("regress", "--kernel", str(file) if version else "BZIMAGE")
    return 0 if ok else 1


def lacks(file: Path) -> list[str]:
    """What a kernel needs for DCD and has not, a line each; none where no configuration is found."""
    try:
        text, source = read(file)
        found = kconfig.look(_parsed(text, source))
    except DcdError:
        return []
    return [
        f"this kernel lacks CONFIG_{one.option.name}: {one.option.cost}"
        for one in found
        if not one.served and one.option.level == "needed"
    ]


def read(file: Path) -> tuple[str, Path]:
    """A configuration's text, and where it was: in the file, or beside it. Errors: AskedWrongly, CannotRun."""
    try:
        with file.open("rb") as opened:
            head = opened.read(0x210)
            data = b"" if bzimage.is_kernel(head) else head + opened.read(MAX_CONFIG_BYTES)
    except OSError as error:
        raise AskedWrongly(
            f"{str(file)!r} cannot be read ({error.strerror}); give a bzImage, a .config, or /proc/config.gz"
        ) from None
    if data or not head:
        return bzimage.unpacked(data, str(file)).decode("utf-8", "replace"), file
    inside = bzimage.config(file)
    if inside is not None:
        return inside, file
    for beside in _beside(file):
        if beside.is_file():
            return read(beside)
    raise AskedWrongly(
        f"{str(file)!r} carries no configuration (CONFIG_IKCONFIG is not set), and none lies beside it; "
        "give its .config, or /proc/config.gz of a machine that runs it"
    )


def _beside(file: Path) -> list[Path]:
    """Where a kernel's configuration is found: installed, in our cache, in a build tree (arch/x86/boot/bzImage)."""
    places = [file.with_name("config"), file.with_name(".config")]
    version = bzimage.version(file)
    if version:
        places.insert(0, file.with_name(f"config-{version}"))
    if file.name == "bzImage" and len(file.absolute().parents) > 3:
        places.append(file.absolute().parents[3] / ".config")
    return places


def _parsed(text: str, source: Path) -> dict[str, str]:
    try:
        return kconfig.parse(text)
    except AskedWrongly as error:
        raise AskedWrongly(f"{str(source)!r} is no kernel and no configuration: {error.message}") from None


def _version(file: Path) -> str | None:
    return bzimage.version(file)


def _rows(found: tuple[kconfig.Found, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": one.option.name,
            "level": one.option.level,
            "state": one.state,
            "served": one.served,
            "why": one.option.why,
            "cost": one.option.cost,
        }
        for one in found
    ]


def _show(found: tuple[kconfig.Found, ...], every: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("option", "", "state", "for"):
        table.add_column(column, no_wrap=True)
    table.add_column("without it", overflow="fold")
    for one in found:
        if every or not one.served:
            state = one.state if one.served or one.state == "missing" else f"{one.state}, built in is needed"
            cost = "" if one.served else one.option.cost
            table.add_row(f"CONFIG_{one.option.name}", one.option.level, state, one.option.why, cost)
    if table.row_count:
        out.console(WIDTH).print(table)
