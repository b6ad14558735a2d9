"""How every verb of a launched guest speaks: data on stdout, everything else on stderr.

With `--json` stdout is one JSON value (or, of a stream, one a line) and nothing is said beside it. Else the verb's last
word, on stderr, is the next command to type: so a pipe gets data alone.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..units import format_address, format_size

WIDTH = 100
MOST_SHOWN = 16
_ANY_WIDTH = 10_000

Json = Annotated[bool, typer.Option("--json", help="Print it as JSON, and nothing else.")]


def console(width: int = WIDTH) -> Console:
    """Where a verb's tables and pictures go: a terminal's own width, `width` columns where there is none."""
    shown = Console(highlight=False)
    return shown if shown.is_terminal else Console(highlight=False, width=width)


def table(shown: Table, here: Console | None = None) -> None:
    """A table with nothing of it cut: where a terminal is narrower, its lines go on below."""
    here = console() if here is None else here
    needed = Console(width=_ANY_WIDTH).measure(shown).maximum
    if needed > here.width:
        here = Console(highlight=False, width=needed)
    here.print(shown)


def line(text: str) -> None:
    """One line of data."""
    typer.echo(text)


def data(value: Any) -> None:
    """A verb's whole answer as JSON."""
    typer.echo(json.dumps(value, indent=1))


def note(text: str) -> None:
    """What is to be known beside the data."""
    typer.echo(text, err=True)


def fresh(said: str) -> None:
    """Begin a new line on a terminal, where the output before ended within one; a file or a pipe gets nothing."""
    if said and not said.endswith("\n") and sys.stdout.isatty() and sys.stderr.isatty():
        typer.echo(err=True)


def following(*argv: str) -> None:
    """The next command to type."""
    note(f"next: {shlex.join(['dcd', *argv])}")


def ranges(pairs: Iterable[Sequence[int]]) -> str:
    """Ranges of DPA as text: `0x0+256M 0x40000000+2M`, the first 16 of them."""
    shown = [f"{format_address(start)}+{format_size(length)}" for start, length in pairs]
    rest = f" and {len(shown) - MOST_SHOWN} more" if len(shown) > MOST_SHOWN else ""
    return " ".join(shown[:MOST_SHOWN]) + rest
