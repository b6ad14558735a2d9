"""A QMP server on a Unix socket, for the emulated machine: greeting, negotiation, commands, errors, events.

    async with Server(machine, path) as server:
        await server.quit.wait()

It speaks to any client of QEMU's monitor, several at once (QEMU serves one). Messages have no terminator: a stream of
JSON values is cut into values here. Bounds: a message of 1 MiB, 1000 levels deep, 16 clients, and a client that does
not read loses its connection. When a device dies as QEMU would, every connection ends without a reply.

Events of the machine go to every client that has negotiated. One event loop, no threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from ..errors import CannotRun
from .device import Died
from .machine import Error, Machine

MAX_MESSAGE = 1 << 20
MAX_CLIENTS = 16
MAX_UNREAD = 1 << 22
MAX_DEPTH = 1000
_MAX_PATH = 107
_SPACE = " \t\r\n"

Value = dict[str, Any]


def cut(text: str, at: int = 0) -> int:
    """Where the JSON value that begins at `at` ends (the index after it); -1 when it is not whole yet.

    Only brackets and strings are looked at: what is between them is the parser's. What begins neither an object nor an
    array ends at the next white space.
    """
    if text[at] not in "{[":
        ends = [found for found in (text.find(space, at) for space in _SPACE) if found >= 0]
        return min(ends) if ends else -1
    depth, inside, size = 0, False, len(text)
    while at < size:
        letter = text[at]
        if inside:
            if letter == "\\":
                at += 1
            elif letter == '"':
                inside = False
        elif letter == '"':
            inside = True
        elif letter in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                return at + 1
        elif letter in "}]":
            depth -= 1
            if not depth:
                return at + 1
        at += 1
    return -1


class _TooLong(Exception):
    """A message past the bound; the connection ends. It does not leave this module."""


class _Stream:
    """Bytes in, JSON values (or the text that is none, as a str) out."""

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: bytes) -> Iterator[object]:
        data = self._kept + data
        self._kept = b""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                yield data.decode("utf-8", "replace")
                return
            data, self._kept = data[: error.start], data[error.start :]
            text = data.decode()
        if text[:1] == "{" and text[-1:] in "}\n":  # the usual case: one message, whole
            with contextlib.suppress(ValueError, RecursionError):
                yield json.loads(text, parse_constant=_none)
                return
        at = 0
        while True:
            while at < len(text) and text[at] in _SPACE:
                at += 1
            if at == len(text):
                return
            end = cut(text, at)
            if end < 0:
                if len(text) - at > MAX_MESSAGE:
                    raise _TooLong
                self._kept = text[at:].encode() + self._kept
                return
            part, at = text[at:end], end
            try:
                yield json.loads(part, parse_constant=_none)
            except (ValueError, RecursionError):
                yield part


def _none(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._machine = server.machine
        self._stream = _Stream()
        self._transport: asyncio.Transport | None = None
        self.negotiated = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._server.admit(self):
            self.close()
            return
        self.send({"QMP": {"version": self._machine.greeting, "capabilities": []}})

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.clients.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._stream.feed(data):
                reply = self._answer(message)
                if self._machine.died is not None:
                    return
                self.send(reply)
        except _TooLong:
            self.send(_error(Error(f"JSON parse error, a message of more than {MAX_MESSAGE} bytes")))
            self.close()

    def send(self, message: Value) -> None:
        """Send it; a client that leaves too much unread is cut off."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(json.dumps(message).encode() + b"\r\n")
        if transport.get_write_buffer_size() > MAX_UNREAD:
            transport.abort()

    def close(self) -> None:
        """End it, with what was sent."""
        if self._transport is not None:
            self._transport.close()

    def _answer(self, message: object) -> Value:
        if isinstance(message, str):
            return _error(Error(f"JSON parse error, {message[:80]!r} is no JSON"))
        if not isinstance(message, dict):
            return _error(Error("QMP input must be a JSON object"))
        reply = self._execute(message)
        return {**reply, "id": message["id"]} if "id" in message else reply

    def _execute(self, message: Value) -> Value:
        command, given = message.get("execute"), message.get("arguments", {})
        wrong = _malformed(message)
        if wrong is not None:
            return _error(Error(wrong))
        if command == "qmp_capabilities":
            if self.negotiated:
                text = "Capabilities negotiation is already complete, command ignored"
                return _error(Error(text, "CommandNotFound"))
            if given.get("enable"):
                return _error(Error(f"Parameter 'enable' does not accept value {json.dumps(given['enable'])}"))
            self.negotiated = True
            return {"return": {}}
        if not self.negotiated:
            return _error(Error("Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound"))
        try:
            found = self._machine.execute(str(command), given)
        except Died:
            return {}
        return _error(found) if isinstance(found, Error) else {"return": found}


def _malformed(message: Value) -> str | None:
    """What is wrong with a request as such, in QEMU's words."""
    for name in message:
        if name not in ("execute", "arguments", "id"):
            return f"QMP input member '{name}' is unexpected"
    if "execute" not in message:
        return "QMP input lacks member 'execute'"
    if not isinstance(message["execute"], str):
        return "QMP input member 'execute' must be a string"
    if not isinstance(message.get("arguments", {}), dict):
        return "QMP input member 'arguments' must be an object"
    return None


def _error(error: Error) -> Value:
    return {"error": {"class": error.kind, "desc": error.desc}}


class Server:
    """The monitor of a machine, and the loop that lets its host go on.

    `path`: where to listen (mode 0600, removed at the end), None for sockets that are handed in with `serve`. `quit` is
    set by the command `quit`, and when a device has died. Errors: CannotRun (the path cannot be used).
    """

    def __init__(self, machine: Machine, path: Path | None = None) -> None:
        self.machine = machine
        self.path = path
        self.clients: set[Client] = set()
        self.quit = asyncio.Event()
        self.on_death: Callable[[], None] = lambda: None
        self.fault: Exception | None = None
        self._server: asyncio.Server | None = None
        self._loop = asyncio.get_running_loop()
        self._soon = False
        self._timer: asyncio.TimerHandle | None = None
        machine.on_wanted = self._want
        machine.on_event = self._tell
        machine.on_quit = self._quit

    async def __aenter__(self) -> Self:
        if self.path is not None:
            if len(os.fsencode(self.path)) > _MAX_PATH:
                raise CannotRun(f"socket path {str(self.path)!r} is over {_MAX_PATH} bytes; give a shorter one")
            try:
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                listener.bind(os.fspath(self.path))
                self.path.chmod(0o600)
            except OSError as error:
                listener.close()
                text = f"cannot listen at {self.path}: {error.strerror}; give a path that is not there yet"
                raise CannotRun(text) from error
            self._server = await self._loop.create_unix_server(lambda: Client(self), sock=listener)
        if self.machine.wanted:
            self._want()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.machine.on_wanted = lambda: None
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            self._server.close()
        self._stop()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    async def serve(self, connection: socket.socket) -> None:
        """One client over a connected socket, which is owned here from now on."""
        await self._loop.connect_accepted_socket(lambda: Client(self), connection)

    def admit(self, client: Client) -> bool:
        """Whether there is room for one more client."""
        if len(self.clients) >= MAX_CLIENTS or self.machine.died is not None:
            return False
        self.clients.add(client)
        return True

    def _tell(self, name: str, data: Value) -> None:
        seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
        stamp = {"seconds": seconds, "microseconds": microseconds}
        for client in self.clients:
            if client.negotiated:
                client.send({"timestamp": stamp, "event": name, "data": data})

    def _want(self) -> None:
        """The host has something to do: after the reply to what made it so."""
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._soon = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            due = self.machine.turn()
        except Exception as error:  # ours: told to whoever owns the server, not lost in the loop
            self.fault = error
            self._stop()
            self.on_death()
            return
        if self.machine.died is not None:
            self._stop()
            self.on_death()
        elif self.machine.wanted:
            self._want()
        elif due is not None:
            self._timer = self._loop.call_at(self._loop.time() + max(0.0, due - time.monotonic()), self._turn)

    def _quit(self) -> None:
        """After the reply."""
        self._loop.call_soon(self._stop)

    def _stop(self) -> None:
        """Every connection ends, once what was sent has left."""
        for client in tuple(self.clients):
            client.close()
        self.quit.set()


def run(machine: Machine, path: Path, *, say: Callable[[str], None]) -> int:
    """Serve a machine at `path` until `quit`, an interrupt or its death; the exit code. Errors: CannotRun."""

    async def serve() -> int:
        async with Server(machine, path) as server:
            say(f"EMULATOR, NO QEMU: {', '.join(machine.devices)}; {machine.greeting['package']}")
            say(f"QMP at {path}; end it with the command quit, or Ctrl-C")
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, server.quit.set)
            await server.quit.wait()
            if server.fault is not None:
                raise server.fault
            if machine.died is not None:
                say(machine.died.message)
                return machine.died.exit_code
            return 0

    gc.freeze()  # what is there stays; what comes are small tuples, which a collector finds nothing in
    gc.set_threshold(20_000, 10, 10)
    return asyncio.run(serve())
