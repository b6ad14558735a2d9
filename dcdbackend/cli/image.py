"""`dcd image`: what the cache holds, fill it, empty it. `dcd regress` fills it itself; this is for before and after."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .. import image
from .progress import progress

app = typer.Typer(help="The guest image and the private QEMU: build, list, rm.", no_args_is_help=True)

_JSON = typer.Option("--json", help="Print it as JSON.")


@app.command("build")
def build(
    refresh: Annotated[bool, typer.Option(help="Ask the mirror again for newer packages.")] = False,
    kernel_package: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[/SUITE]",
            help="Instead, a Debian kernel and its modules: linux-image-amd64, or linux-image-amd64/trixie-backports.",
        ),
    ] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> int:
    """Fetch and build what is missing. Nothing is installed; it all goes to the cache directory.

    Exit: 0 it is there; 2 no package can have that name; 3 the environment cannot (no apt, mirror, package, space).
    """
    with progress(Console(stderr=True, highlight=False)) as step:
        if kernel_package is None:
            built = image.build(step, refresh=refresh)
        else:
            built = (image.build_kernel(kernel_package, step, refresh=refresh),)
    _show(built, as_json)
    if kernel_package is not None and not as_json:
        _following(built[0].path)
    return 0


@app.command("list")
def list_(as_json: Annotated[bool, _JSON] = False) -> int:
    """What the cache holds: sizes, versions, when it was made, and whether the next boot uses it."""
    _show(image.list_images(), as_json)
    return 0


@app.command("rm")
def rm(
    old: Annotated[bool, typer.Option("--old", help="Only what the next boot would not use.")] = False,
) -> int:
    """Remove the images; the next boot builds again. Guests that are running go on."""
    gone = image.remove(old_only=old)
    console = Console(highlight=False)
    freed = sum(cached.size_bytes for cached in gone)
    console.print(f"removed {len(gone)} from {image.cache_dir()}, {_megabytes(freed)} freed", soft_wrap=True)
    return 0


def _following(entry: Path) -> None:
    """What to do with a kernel; its modules lie beside it and are found there."""
    kernel = shlex.quote(str(entry / "vmlinuz"))
    console = Console(highlight=False)
    console.print(f"what it lacks: dcd kernel check {kernel}", markup=False, soft_wrap=True)
    console.print(f"boot it:       dcd regress --kernel {kernel}", markup=False, soft_wrap=True)


def _show(images: tuple[image.Cached, ...], as_json: bool) -> None:
    console = Console(highlight=False)
    if as_json:
        console.print_json(json.dumps([_as_data(cached) for cached in images]))
        return
    if not images:
        console.print(f"{image.cache_dir()} holds no image; make one with: dcd image build", soft_wrap=True)
        return
    table = Table("what", "version", "size", "made", "", box=None, pad_edge=False)
    for cached in images:
        about = cached.manifest
        version = str(about.get("version", about.get("key", "")))
        made = str(about.get("built_at", ""))
        table.add_row(
            cached.kind,
            version,
            _megabytes(cached.size_bytes),
            made[:16].replace("T", " "),
            "" if cached.current else "old",
        )
    console.print(table)
    total = sum(cached.size_bytes for cached in images)
    console.print(f"in {image.cache_dir()}, {_megabytes(total)} together", soft_wrap=True)


def _as_data(cached: image.Cached) -> dict[str, object]:
    return {
        "kind": cached.kind,
        "path": str(cached.path),
        "size_bytes": cached.size_bytes,
        "current": cached.current,
        "manifest": dict(cached.manifest),
    }


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
