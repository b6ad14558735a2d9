"""`dcd events` and `dcd console`: what happens on a launched guest, in words, and what its kernel says, as it comes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Coroutine, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import supervisor
from ..errors import AskedWrongly
from ..history import WITNESS, History
from ..report.story import Story, Told
from ..supervisor.console import pieces
from ..supervisor.place import find
from . import complete, drive, out
from .check import histories, place

IDLE_S = 0.3
"""After so long without a line, what waits for a line that adjoins it is told."""

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on as more comes, until Ctrl-C.")]


def events(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME|RUN", help="A launched guest, or a recorded run.", autocompletion=complete.runs),
    ],
    follow: Follow = False,
    since: Annotated[int, typer.Option(metavar="N", help="From line N of the history on.", min=0)] = 0,
    brief: Annotated[bool, typer.Option("--brief", "-b", help="Without what witnesses were asked.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The lines of the history themselves, one a line (history.schema.json).")
    ] = False,
) -> int:
    """Tell what happened, one line an operation: seconds, line of the history, what was done and what came of it.

    Questions about adjoining blocks that got the same answer are told as one. --brief leaves the witnesses out of what
    is told in words.
    """
    recorded = _recorded(name)
    with drive.dying(name):
        if recorded is None:
            _until_interrupted(_events(name, follow=follow, since=since, brief=brief, as_json=as_json))
        else:
            _until_interrupted(_tell(_lines(recorded, since), brief=brief, as_json=as_json))
    if not as_json:
        out.following("check", name)
    return 0


def console(
    name: drive.Name,
    follow: Follow = False,
    as_json: Annotated[bool, typer.Option("--json", help="Its lines as JSON strings, one a line.")] = False,
) -> int:
    """Show the guest's console from its begin; of a guest whose supervisor was killed, what is recorded."""
    from ..machine import CONSOLE_LOG  # here: what asks a guest does not need it

    recorded = drive.left(name)
    shown = _Lines() if as_json else _Pieces()
    if recorded is None:
        with drive.dying(name):
            _until_interrupted(_console(_asked(name, follow=follow), shown))
        if not as_json:
            out.fresh(shown.last)
            out.following("exec", name, "--", "cat", "/proc/version")
        return 0
    logs = sorted(recorded.glob(f"*/{CONSOLE_LOG}"))
    if not logs:
        raise AskedWrongly(f"the run of {name} holds no {CONSOLE_LOG}: {recorded}; see: dcd events {name}")
    _until_interrupted(_console(pieces(logs[0]), shown))
    if not as_json:
        out.fresh(shown.last)
        out.note(f"{name} is dead: its supervisor was killed; this is its recorded console")
        out.following("events", name)
    return 0


def _until_interrupted(work: Coroutine[Any, Any, None]) -> None:
    """Ctrl-C is how a user ends what goes on for ever."""
    try:
        asyncio.run(work)
    except KeyboardInterrupt:
        sys.stdout.flush()


def _recorded(run: str) -> Path | None:
    """The history of a guest that is dead, or of a run; None for a guest that can be asked. Errors: AskedWrongly."""
    try:
        found = find(run)
    except AskedWrongly:  # no name at all
        found = None
    if (found is not None and found.state != "dead") or (found is None and not Path(run).exists()):
        return None
    there = histories(place(run))
    if len(there) > 1:
        raise AskedWrongly(f"{run} holds {len(there)} histories; give one of them, like {there[0]}")
    return there[0]


async def _lines(path: Path, since: int) -> AsyncGenerator[Any, None]:
    with path.open("rb") as file:
        history = History(file)
        if not since:
            yield {"n": 0, **history.header._asdict()}
        for op in history:
            if op.n >= since:
                yield op._asdict()


async def _events(name: str, *, follow: bool, since: int, brief: bool, as_json: bool) -> None:
    async with supervisor.connect(name) as client, aclosing(client.stream("events", since=since, follow=follow)) as got:
        await _tell(got, brief=brief, as_json=as_json)


async def _tell(lines: AsyncGenerator[Any, None], *, brief: bool, as_json: bool) -> None:
    """Every line, in words or as it is."""
    story, teller = Story(), _Teller(WITNESS if brief else ())
    async for line in _paced(lines):
        if line is None:
            teller.tell(story.flush())
        elif as_json:
            typer.echo(json.dumps(line, separators=(",", ":")))
        else:
            teller.see(line)
            teller.tell(story.feed(line))
    teller.tell(story.unended())


async def _console(found: AsyncGenerator[str, None], shown: _Pieces) -> None:
    async with aclosing(found):
        async for piece in found:
            shown.show(piece)
            sys.stdout.flush()
    shown.end()


class _Pieces:
    """The console as it comes. `last`: what was shown last."""

    def __init__(self) -> None:
        self.last = ""

    def show(self, piece: str) -> None:
        """A piece of text; the line that it ends in may go on in the next."""
        self.last = piece
        typer.echo(piece, nl=False)

    def end(self) -> None:
        """There is no more."""


class _Lines(_Pieces):
    """The console as JSON, each line a string. `last`: what of a line has come so far."""

    def show(self, piece: str) -> None:
        *lines, self.last = (self.last + piece).split("\n")
        for line in lines:
            typer.echo(json.dumps(line))

    def end(self) -> None:
        if self.last:
            typer.echo(json.dumps(self.last))


async def _asked(name: str, *, follow: bool) -> AsyncGenerator[str, None]:
    async with supervisor.connect(name) as client, aclosing(client.stream("console", follow=follow)) as found:
        async for piece in found:
            yield piece


async def _paced(lines: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The lines, and a None where none came for a while."""
    coming = asyncio.ensure_future(anext(lines, _END))
    try:
        while True:
            done, _ = await asyncio.wait({coming}, timeout=IDLE_S)
            if not done:
                yield None
                await asyncio.wait({coming})
            if (line := coming.result()) is _END:
                return
            coming = asyncio.ensure_future(anext(lines, _END))
            yield line
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


_END: Any = object()


class _Teller:
    """Prints what a story tells: seconds since the first line, and the device where there are several."""

    def __init__(self, hidden: Collection[str]) -> None:
        self._hidden = hidden
        self._first_ns: int | None = None
        self._several = False

    def see(self, line: dict[str, Any]) -> None:
        """Take from a line what all others are told by."""
        if "devices" in line:
            self._several = len(line["devices"]) > 1
        elif self._first_ns is None:
            self._first_ns = line["t_ns"]

    def tell(self, told: Iterable[Told]) -> None:
        for one in told:
            if one.f in self._hidden:
                continue
            device = f"{one.device}: " if self._several and one.device else ""
            out.line(f"{(one.t_ns - (self._first_ns or 0)) / 1e9:9.3f} {one.line:>5}  {device}{one.text}")
        sys.stdout.flush()
