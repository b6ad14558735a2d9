"""What scripts print while many run: each into a file of its own, so that those side by side do not mix.

A scenario's prints belong to the task that runs it, and to the tasks that it starts: a context variable follows them.
Outside `routed`, a script prints where programs print.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

FILE = "printed.txt"
_place: ContextVar[_Place | None] = ContextVar("place", default=None)


class _Place:
    """A file that is made when something is printed."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._stack = stack
        self._file: TextIO | None = None

    def write(self, text: str) -> int:
        if self._file is None:
            self._file = self._stack.enter_context(self._path.open("w", buffering=1))
        return self._file.write(text)


class _Router(io.TextIOBase):
    """Standard output: to the place of whoever prints; from nobody's, to standard error."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        place = _place.get()
        return sys.stderr.write(text) if place is None else place.write(text)


@contextmanager
def routed() -> Iterator[None]:
    """Standard output is each scenario's own inside."""
    with redirect_stdout(_Router()):
        yield


@contextmanager
def into(directory: Path) -> Iterator[None]:
    """What this task prints goes into a file of that directory, where output is routed."""
    with ExitStack() as stack:
        stack.callback(_place.reset, _place.set(_Place(directory / FILE, stack)))
        yield
