"""The client of a launched guest's supervisor: what `dcd`'s verbs and scripts use.

    async with connect("vm0") as client:
        print(await client.call("add", size=256 << 20))
        async for line in client.stream("events", follow=True):
            print(line)

`call` and `stream` of this module are the same for callers without an event loop, one connection each.

A connection carries many requests at once. One that is not awaited any more (a task cancelled, a stream left) is
cancelled at the supervisor: what already reached the device ends there by itself. The verbs, their arguments and what
they give are `verbs.VERBS`'s. Errors come back as the classes of `errors.py` that the supervisor met.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from ..errors import AnsweredWrongly, AskedWrongly, CannotRun, DcdError, MachineGone, TimedOut
from . import place
from .protocol import MAX_REPLY_BYTES, MAX_REQUEST_BYTES, decode, encode, error_of

CALL_TIMEOUT_S = 660.0
"""Longer than any verb's own bound."""
_DIAL_TIMEOUT_S = 2.0
_DIAL_S = 0.02
_ITEMS = 256

Value = Any


class Client:
    """One connection, made by `connect`. Errors of every verb: as the supervisor met them, and MachineGone where the
    supervisor itself is gone."""

    def __init__(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.name = name
        self._reader = reader
        self._writer = writer
        self._next = 0
        self._open: dict[int, asyncio.Queue[dict[str, Any] | None]] = {}
        self._gone: str | None = None
        self._told: DcdError | None = None
        self._task = asyncio.get_running_loop().create_task(self._read())

    async def call(self, verb: str, /, *, reply_timeout_s: float = CALL_TIMEOUT_S, **args: Any) -> Value:
        """One verb and what it gives, JSON data. Errors: the class's; TimedOut after `reply_timeout_s`."""
        number, lines = await self._send(verb, args)
        try:
            async with asyncio.timeout(reply_timeout_s):
                body = await lines.get()
        except TimeoutError:
            raise TimedOut(f"guest {self.name!r} did not answer {verb} within {reply_timeout_s:g} s") from None
        finally:
            self._forget(number)
        return self._ended(body)

    async def stream(self, verb: str, /, **args: Any) -> AsyncGenerator[Value, None]:
        """The items of a streaming verb, until it ends or the caller leaves (`aclosing` leaves at once).

        Whoever does not take the items holds up this connection, and nobody else's.
        """
        number, lines = await self._send(verb, args)
        try:
            while True:
                body = await lines.get()
                if body is None or "item" not in body:
                    self._ended(body)
                    return
                yield body["item"]
        finally:
            self._forget(number)

    async def close(self) -> None:
        """End the connection. Idempotent."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._lose("the connection was closed here")
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _send(self, verb: str, args: dict[str, Any]) -> tuple[int, asyncio.Queue[dict[str, Any] | None]]:
        self._next += 1
        number = self._next
        try:
            line = encode({"id": number, "verb": verb, "args": args})
        except (TypeError, ValueError) as error:
            raise AskedWrongly(
                f"{verb} cannot be sent: {error}; give finite numbers, text, lists and mappings"
            ) from None
        if len(line) > MAX_REQUEST_BYTES:
            raise AskedWrongly(f"a request of {len(line)} bytes; at most {MAX_REQUEST_BYTES}: ask in smaller pieces")
        if self._gone is not None:
            raise self._lost()
        lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_ITEMS)
        self._open[number] = lines
        try:
            self._writer.write(line)
            await self._writer.drain()
        except BaseException as error:
            self._open.pop(number, None)
            if isinstance(error, OSError):
                raise self._lost() from None
            raise
        return number, lines

    def _forget(self, number: int) -> None:
        """Nobody waits for that request any more; the supervisor is told where it does not know."""
        lines = self._open.pop(number, None)
        if lines is None or self._gone is not None:
            return
        while not lines.empty():  # `_read` may wait for room in it
            lines.get_nowait()
        self._next += 1
        with contextlib.suppress(OSError):
            self._writer.write(encode({"id": self._next, "verb": "cancel", "args": {"id": number}}))

    def _ended(self, body: dict[str, Any] | None) -> Value:
        if body is None:
            raise self._lost()
        if body.get("ok") is not True:
            raise error_of(body)
        return body.get("value")

    async def _read(self) -> None:
        """Hand every line to whoever waits for it."""
        why = "its supervisor ended the connection"
        try:
            while line := await self._reader.readline():
                body = decode(line)
                number = body.get("id")
                lines = self._open.get(number) if type(number) is int else None
                if lines is None:
                    if number is None and "error" in body:  # of the connection: it ends now
                        self._told = error_of(body)
                    continue  # else of a request that was cancelled here
                if "item" not in body:
                    assert type(number) is int
                    del self._open[number]
                await lines.put(body)
        except (OSError, ValueError, AnsweredWrongly) as error:
            why = f"the connection to its supervisor broke: {error}"
        self._lose(why)

    def _lose(self, why: str) -> None:
        self._gone = self._gone or why
        for lines in self._open.values():
            while lines.full():
                lines.get_nowait()
            lines.put_nowait(None)
        self._open.clear()

    def _lost(self) -> DcdError:
        if self._told is not None:
            return self._told
        return MachineGone(f"guest {self.name!r}: {self._gone}; see: dcd list")


@asynccontextmanager
async def connect(name: str) -> AsyncIterator[Client]:
    """A connection to a launched guest. Errors: AskedWrongly (there is no such guest, or it is still starting),
    MachineGone (it is dead), CannotRun (it takes no more clients)."""
    connection = await _dialled(name)
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_REPLY_BYTES)
    client = Client(name, reader, writer)
    try:
        yield client
    finally:
        await client.close()


def call(name: str, verb: str, /, **args: Any) -> Value:
    """One verb of one guest, for a caller without an event loop. Errors: `connect`'s and the verb's."""

    async def once() -> Value:
        async with connect(name) as client:
            return await client.call(verb, **args)

    return asyncio.run(once())


def stream(name: str, verb: str, /, **args: Any) -> Iterator[Value]:
    """The items of a streaming verb, for a caller without an event loop. Ctrl-C ends it as KeyboardInterrupt."""

    async def items() -> AsyncGenerator[Value, None]:
        async with connect(name) as client, aclosing(client.stream(verb, **args)) as found:
            async for item in found:
                yield item

    with asyncio.Runner() as runner:
        found = items()

        async def following() -> tuple[Value, ...]:
            async for item in found:
                return (item,)
            return ()

        try:
            while got := runner.run(following()):
                yield got[0]
        finally:
            runner.run(found.aclose())


async def _dialled(name: str) -> Any:
    """A connected socket; waits a moment for a supervisor that is just being born or busy."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _DIAL_TIMEOUT_S
    while True:
        try:
            return place.dial(name)
        except BlockingIOError:
            refused = CannotRun(f"guest {name!r} has too many clients waiting; end some of them")
        except OSError:
            found = await asyncio.to_thread(place.find, name)
            if found is None or found.state != "alive":
                raise _not_there(name, found) from None
            refused = CannotRun(f"guest {name!r} is alive and cannot be reached; see: dcd list")
        if loop.time() > end:
            raise refused
        await asyncio.sleep(_DIAL_S)


def _not_there(name: str, found: place.GuestInfo | None) -> AskedWrongly | MachineGone:
    if found is not None and found.state == "dead":
        return MachineGone(
            f"guest {name!r} is dead: its supervisor was killed; its run stays (dcd check {found.run_dir}), "
            f"and dcd stop {name} forgets it"
        )
    if found is not None:
        return AskedWrongly(f"guest {name!r} is still starting; ask again when dcd launch has come back")
    others = ", ".join(guest.name for guest in place.list_guests() if guest.state == "alive")
    return AskedWrongly(f"no guest {name!r}; there is {others or 'none'}; start it with: dcd launch {name}")
