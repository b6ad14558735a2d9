"""What a build says while it works: data, so that a terminal, a log and a test each show it their own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Step(NamedTuple):
    """`what` is being done now; `done_bytes` of about `total_bytes` where that is known. The same `what` again is the
    same step, further on."""

    what: str
    done_bytes: int | None = None
    total_bytes: int | None = None


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Nobody is watching."""
