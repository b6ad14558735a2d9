"""The verbs' way to a launched guest's supervisor: what is asked of every guest alike, and how a dead one is told."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import supervisor
from ..errors import MachineGone
from ..supervisor.place import find
from . import complete

Value = dict[str, Any]

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A launched guest (dcd list).", autocompletion=complete.guests)
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", "-d", metavar="NAME", help="The device; mem0 by default.", autocompletion=complete.devices
    ),
]


def call(name: str, verb: str, /, **args: Any) -> Value:
    """One verb of one guest; arguments that are None are left out. Errors: `supervisor.call`'s."""
    with dying(name):
        found: Value = supervisor.call(name, verb, **given(args))
        return found


def given(args: Value) -> Value:
    """The arguments that were given."""
    return {key: value for key, value in args.items() if value is not None}


def left(name: str) -> Path | None:
    """The run directory of a guest whose supervisor was killed, as far as it is known and there; else None."""
    found = find(name)
    if found is None or found.state != "dead" or found.run_dir is None or not found.run_dir.is_dir():
        return None
    return found.run_dir


@contextmanager
def dying(name: str) -> Iterator[None]:
    """Where the guest is gone, the line says how it died and what judges what it left."""
    try:
        yield
    except MachineGone as error:
        check = shlex.join(["dcd", "check", name])
        if "dcd check" not in error.message:
            error.message = f"{error.message}; judge what it left: {check}"
        raise
