"""How every verb of a launched guest speaks: data on stdout, everything else on stderr.

With `--json` stdout is one JSON value (or, of a stream, one a line) and nothing is said beside it. Else the verb's last
word, on stderr, is the next command to type: so a pipe gets data alone.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from ..units import format_address, format_size

WIDTH = 100
MOST_SHOWN = 16

Json = Annotated[bool, typer.Option("--json", help="Print it as JSON, and nothing else.")]


def console(width: int = WIDTH) -> Console:
    """Where a verb's tables and pictures go: a terminal's own width, `width` columns where there is none."""
    shown = Console(highlight=False)
    return shown if shown.is_terminal else Console(highlight=False, width=width)


def line(text: str) -> None:
    """One line of data."""
    typer.echo(text)


def data(value: Any) -> None:
    """A verb's whole answer as JSON."""
    typer.echo(json.dumps(value, indent=1))


def note(text: str) -> None:
    """What is to be known beside the data."""
    typer.echo(text, err=True)


def following(*argv: str) -> None:
    """The next command to type."""
    note(f"next: {shlex.join(['dcd', *argv])}")


def ranges(pairs: Iterable[Sequence[int]]) -> str:
    """Ranges of DPA as text: `0x0+256M 0x40000000+2M`, the first 16 of them."""
    shown = [f"{format_address(start)}+{format_size(length)}" for start, length in pairs]
    rest = f" and {len(shown) - MOST_SHOWN} more" if len(shown) > MOST_SHOWN else ""
    return " ".join(shown[:MOST_SHOWN]) + rest
