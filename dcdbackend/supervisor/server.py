"""The supervisor's socket: clients that come, ask, do not read, send garbage and go, none to the harm of another.

Bounds: clients, requests of one client at once, a line's length, lines that are no request. Nothing is queued for a
client beyond its socket and one line of each of its requests: a stream goes at the pace of who reads it, and who reads
nothing for a while is dropped. What a client asked for ends with it, as far as it can (`held`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import traceback
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol, Self

from ..errors import AskedWrongly, CannotRun, DcdError
from .protocol import MAX_REPLY_BYTES, MAX_REQUEST_BYTES, Request, error_line, item, reply, request_of
from .verbs import VERBS

MAX_CLIENTS = 32
MAX_OPEN = 16
MAX_BAD = 100
STALL_S = 30.0
BACKLOG = 16
_MAX_FAULTS = 100
_ACCEPT_PAUSE_S = 0.1
_GOODBYE_S = 5.0
_CANCEL = "cancel"


class Serves(Protocol):
    """What is served: `held.Held`, or a stand-in for it in a test of this module."""

    async def call(self, verb: str, args: Mapping[str, object]) -> Any: ...

    def stream(self, verb: str, args: Mapping[str, object]) -> Any: ...


class Server:
    """`async with Server(listening, held):` serves the clients of a listening socket, which it then owns."""

    def __init__(self, listening: socket.socket, held: Serves, *, stall_s: float = STALL_S) -> None:
        self._listening = listening
        self._held = held
        self._stall_s = stall_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._faults = 0

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._tasks)

    async def __aenter__(self) -> Self:
        self._listening.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Clients get what was already on its way to them, within a bound."""
        assert self._accepting is not None
        self._accepting.cancel()
        await asyncio.wait([self._accepting])
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GOODBYE_S)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listening)
            except OSError:  # too many files: somebody will go
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            if len(self._tasks) >= MAX_CLIENTS:
                error = CannotRun(f"{MAX_CLIENTS} clients are connected, which is the most; end some of them")
                with connection, contextlib.suppress(OSError):
                    connection.send(error_line(None, error))
                continue
            task = asyncio.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_REQUEST_BYTES)
        client = _Client(self._held, writer, self._stall_s, self.fault)
        try:
            await client.run(reader)
        except OSError:
            pass  # it is gone
        finally:
            await client.leave()

    def fault(self, error: Exception) -> DcdError:
        """An error of our own: the whole of it into the log, a line for the client."""
        self._faults += 1
        if self._faults <= _MAX_FAULTS:
            traceback.print_exception(error, file=sys.stderr)
            sys.stderr.flush()
        return DcdError(f"our own fault: {type(error).__name__}: {error}; the supervisor's log has the whole of it")


class _Client:
    """One connection and the requests that are open on it."""

    def __init__(self, held: Serves, writer: asyncio.StreamWriter, stall_s: float, fault: Any) -> None:
        self._held = held
        self._writer = writer
        self._stall_s = stall_s
        self._fault = fault
        self._sending = asyncio.Lock()
        self._open: dict[int, asyncio.Task[None]] = {}
        self._bad = 0

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Until it goes, or is sent away. Errors: OSError."""
        while self._bad < MAX_BAD:
            try:
                line = await reader.readline()
            except ValueError:
                error = AskedWrongly(f"a line longer than {MAX_REQUEST_BYTES} bytes; ask in smaller pieces")
                await self._send(error_line(None, error))
                return
            if not line.endswith(b"\n"):
                return
            try:
                request = request_of(line)
                self._begin(request)
            except AskedWrongly as error:
                self._bad += 1
                await self._send(error_line(_id_of(error), error))
        await self._send(error_line(None, AskedWrongly(f"{MAX_BAD} requests that were none; look at the first answer")))

    async def leave(self) -> None:
        """End what is open and the connection."""
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_GOODBYE_S)
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await self._writer.wait_closed()

    def _begin(self, request: Request) -> None:
        """Errors: _Wrong, for what cannot begin."""
        if request.verb == _CANCEL:
            open_task = self._open.get(request.args.get("id", -1)) if type(request.args.get("id")) is int else None
            if open_task is not None:
                open_task.cancel()
            return
        if request.id in self._open:
            raise _Wrong(request.id, f"request {request.id} is open already; give each an id of its own")
        if len(self._open) >= MAX_OPEN:
            raise _Wrong(request.id, f"{MAX_OPEN} requests of this connection are open; wait for some of them")
        task = asyncio.create_task(self._carry_out(request))
        self._open[request.id] = task
        task.add_done_callback(lambda _: self._open.pop(request.id, None))

    async def _carry_out(self, request: Request) -> None:
        try:
            try:
                line = reply(request.id, await self._done(request))
                if len(line) > MAX_REPLY_BYTES:
                    raise AskedWrongly(
                        f"the reply has {len(line)} bytes, at most {MAX_REPLY_BYTES} are sent; ask for less"
                    )
            except DcdError as error:
                line = error_line(request.id, error)
            except OSError:
                raise
            except Exception as error:
                line = error_line(request.id, self._fault(error))
            await self._send(line)
        except OSError:
            pass  # it is gone, or about to be: `run` sees that

    async def _done(self, request: Request) -> Any:
        verb = VERBS.get(request.verb)
        if verb is None or not verb.streams:
            return await self._held.call(request.verb, request.args)
        items: AsyncGenerator[Any, None] = self._held.stream(request.verb, request.args)
        async with contextlib.aclosing(items):
            async for one in items:
                await self._send(item(request.id, one))
        return None

    async def _send(self, line: bytes) -> None:
        """Errors: OSError, also for a client that takes nothing for too long, which is then dropped."""
        async with self._sending:
            self._writer.write(line)
            try:
                async with asyncio.timeout(self._stall_s):
                    await self._writer.drain()
            except TimeoutError:
                self._writer.transport.abort()
                raise ConnectionAbortedError("the client takes nothing") from None


class _Wrong(AskedWrongly):
    """A request whose form is right and that cannot begin."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


def _id_of(error: AskedWrongly) -> int | None:
    return error.number if isinstance(error, _Wrong) else None
