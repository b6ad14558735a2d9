"""How a build's steps are shown: a moving bar on a terminal, one line a step anywhere else (a log, a CI)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich import progress as bars
from rich.console import Console

from ..image import Progress, Step


@contextlib.contextmanager
def progress(console: Console) -> Iterator[Progress]:
    """A function that takes an image.Step. What it showed on a terminal is gone afterwards."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[amount]}"),
        bars.TimeElapsedColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True) as shown:
        yield _Bar(shown)


class _Lines:
    """Says each step once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._what: str | None = None

    def __call__(self, step: Step) -> None:
        if step.what != self._what:
            self._what = step.what
            about = f" (about {step.total_bytes / 1e6:.0f} MB)" if step.total_bytes else ""
            self._console.print(f"{step.what}{about}", markup=False)


class _Bar:
    """One bar; a new step begins it again."""

    def __init__(self, shown: bars.Progress) -> None:
        self._shown = shown
        self._what: str | None = None
        self._task: bars.TaskID | None = None

    def __call__(self, step: Step) -> None:
        if step.what != self._what:
            if self._task is not None:
                self._shown.remove_task(self._task)
            self._what = step.what
            self._task = self._shown.add_task(step.what, total=step.total_bytes, amount="")
        if self._task is not None and step.done_bytes is not None and step.total_bytes is not None:
            amount = f"{step.done_bytes / 1e6:.0f} of about {step.total_bytes / 1e6:.0f} MB"
            self._shown.update(self._task, completed=step.done_bytes, amount=amount)
