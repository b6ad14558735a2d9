"""`dcd image`: what the cache holds, fill it, empty it. `dcd regress` fills it itself; this is for before and after."""

from __future__ import annotations

import json
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
    as_json: Annotated[bool, _JSON] = False,
) -> int:
    """Fetch and build what is missing. Nothing is installed; it all goes to the cache directory.

    Exit: 0 it is there; 3 the environment cannot (no apt, mirror, space), with the ways out.
    """
    with progress(Console(stderr=True, highlight=False)) as step:
        built = image.build(step, refresh=refresh)
    _show(built, as_json)
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
