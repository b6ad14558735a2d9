"""QEMU's monitor, as an asyncio client: it injects, and it asks the state of a block.

`Qmp` stands on qemu.qmp's QMPClient and is the only importer of it; nothing of that library leaves this module,
neither its exceptions nor its log records. Every exchange is in `qmp.jsonl` the moment it happens, so the log of
a killed run ends with the message that was last on the way.

Both CXL commands are marked unstable, and their arguments were renamed while they were reviewed. So the client
asks `query-qmp-schema` first and speaks what this QEMU has (`Dialect`); the spellings it knows are in one table.

What a success means: QEMU has queued an event for the host. Whether the host took the capacity is not said here;
`block_state` is the witness that this monitor can be. It is a question with no side effect: QEMU checks the
extents of an add one after the other, the last one given has no length and is always refused, and the refusal
tells what stopped it.

Deliberately not here: any judgement, retry or waiting for the host (`session`, `model`), the process (`machine`),
and checks of what the caller sends: a bench must be able to send what is wrong. Beware that a wrong value can end
QEMU itself (see `add`).

Runs on one event loop. qemu.qmp's own tasks (the reader and the writer) call `_Wire`'s hooks; all else is called
from the user's task.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import logging
import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qemu.qmp import ConnectError, QMPClient, QMPError, Runstate, StateError
from qemu.qmp.message import DeserializationError, Message
from qemu.qmp.qmp_client import BadReplyError, ExecInterruptedError, ExecuteError

from .errors import AnsweredWrongly, AskedWrongly, CannotRun, DcdError, MachineGone, Refused, TimedOut
from .units import format_address

BlockState = Literal["free", "pending", "accepted"]

COMMAND_TIMEOUT_S = 10.0
MAX_EVENTS = 256
_CLOSE_TIMEOUT_S = 2.0
_MAX_LOGGED = 1 << 16
_MAX_PATH = 107

REASONS: dict[str, str] = {
    "zero-length": "extent with 0 length is not allowed",
    "unaligned": "dpa or len is not aligned to region block size",
    "beyond-region": "extent range is beyond the region end",
    "overlapping": "duplicate or overlapped extents are detected",
    "still-pending": "cannot add DPA again while still pending",
    "already-accepted": "cannot add DPA already accessible to the same LD",
    "release-pending": "cannot release extent with pending DPA range",
    "release-absent": "cannot release extent with non-existing DPA range",
    "no-region": "region id is too large",
    "selection-policy": "Selection policy not supported",
    "removal-policy": "Removal policy not supported",
    "forced": "Forced removal not supported yet",
    "no-device": "Unable to resolve CXL type 3 device",
}
"""Why QEMU refuses, by our name: its wording in 10.0.2 and 11.1.3 (hw/mem/cxl_type3.c)."""

_NAME_OF = {wording: name for name, wording in REASONS.items()}

_STATES: dict[str, BlockState] = {
    "zero-length": "free",
    "still-pending": "pending",
    "already-accepted": "accepted",
}

# What an argument may be called, by what it means. Left of a comma: QEMU >= 9.1; the others are from the patches
# that people ran before. A name that is not here is not guessed at: `dpa` for `offset` would be ambiguous, and a
# number for a policy meant different things over time.
_SPELLINGS: dict[str, tuple[str, ...]] = {
    "path": ("path",),
    "host_id": ("host-id", "hid"),
    "selection_policy": ("selection-policy",),
    "removal_policy": ("removal-policy",),
    "forced": ("forced-removal",),
    "sanitize": ("sanitize-on-release",),
    "region": ("region", "region-id"),
    "tag": ("tag",),
    "extents": ("extents",),
    "offset": ("offset",),
    "length": ("len",),
}
_ADD_NEEDS = ("path", "host_id", "selection_policy", "region", "extents")
_RELEASE_NEEDS = ("path", "host_id", "removal_policy", "region", "extents")
_EXTENT_NEEDS = ("offset", "length")


class QmpRefused(Refused):
    """QEMU's error reply. `reason` is its wording (`desc`), `error_class` its class, `name` ours for it."""

    def __init__(self, message: str, *, reason: str, error_class: str, sent: object, received: object) -> None:
        super().__init__(message, reason=reason, sent=sent, received=received)
        self.error_class = error_class

    @property
    def name(self) -> str:
        """The key of REASONS, or the wording itself where the table has none."""
        return _NAME_OF.get(self.reason, self.reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event: `name` (SHUTDOWN, RESET, GUEST_PANICKED, ...), `data`, and the controller's clock."""

    name: str
    data: Mapping[str, object]
    t_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandDialect:
    """How this QEMU spells one command: meaning -> argument name, and the names in one extent."""

    command: str
    names: Mapping[str, str]
    extent_names: Mapping[str, str]
    policies: tuple[str, ...]

    def arguments(self, values: Mapping[str, object], extents: Sequence[tuple[int, int]]) -> dict[str, object]:
        """What to send; a value of None is left out. Errors: CannotRun for what this QEMU has no argument for."""
        given = {meaning: value for meaning, value in values.items() if value is not None}
        missing = sorted(meaning for meaning in given if meaning not in self.names)
        if missing:
            raise CannotRun(f"this QEMU's {self.command} has no argument for {', '.join(missing)}; leave it out")
        offset, length = self.extent_names["offset"], self.extent_names["length"]
        return {
            **{self.names[meaning]: value for meaning, value in given.items()},
            self.names["extents"]: [{offset: start, length: size} for start, size in extents],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """The spellings of this QEMU, from its schema."""

    add: CommandDialect
    release: CommandDialect

    @classmethod
    def from_schema(cls, schema: object) -> Dialect:
        """From the reply of query-qmp-schema. Errors: AnsweredWrongly (no schema), CannotRun (what is missing)."""
        entities = _entities(schema)
        return cls(
            add=_command(entities, "cxl-add-dynamic-capacity", "selection_policy", _ADD_NEEDS),
            release=_command(entities, "cxl-release-dynamic-capacity", "removal_policy", _RELEASE_NEEDS),
        )


class Qmp:
    """One connection. `async with Qmp.connect(machine.take_qmp(), log=run_dir / "qmp.jsonl") as qmp:`

    Errors of every command: QmpRefused (QEMU said no: certainly no effect), TimedOut (no answer in time: the
    effect is unknown), MachineGone (the connection ended: unknown as well, unless it says that nothing was sent),
    AnsweredWrongly (what came is not QMP), CannotRun (`qmp.jsonl` can no longer be written).
    """

    dialect: Dialect
    version: str

    def __init__(self, wire: _Wire, record: _Record, connection: socket.socket) -> None:
        self._wire = wire
        self._record = record
        self._connection = connection
        self._asks = False
        self._closing: asyncio.Task[Exception | None] | None = None

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        target: Path | str | socket.socket,
        *,
        log: Path,
        on_event: Callable[[Event], None] | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> AsyncIterator[Qmp]:
        """Connect, greet, learn the dialect; disconnect at the end (QEMU runs on).

        `target` is a connected socket, which is then owned here, or a socket's path. `log` is appended to.
        `on_event` is called from the event loop, in the order of the events. `clock` gives the log's `t_ns`.
        """
        with _Record(log, clock) as record:
            if not isinstance(target, socket.socket):
                target = await _dialed(os.fspath(target), timeout_s)
            # qemu.qmp closes the socket that it is given; the second handle can still end a peer that is silent.
            with target as connection, connection.dup() as handle:
                connection.setblocking(False)
                qmp = cls(_Wire(record, on_event, clock), record, handle)
                try:
                    await qmp._establish(connection, timeout_s)
                    yield qmp
                finally:
                    await qmp._close()

    @property
    def events(self) -> tuple[Event, ...]:
        """The newest events, at most MAX_EVENTS, oldest first; `events_dropped` counts the others."""
        return tuple(self._wire.kept)

    @property
    def events_dropped(self) -> int:
        return self._wire.dropped

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout_s: float | None = None
    ) -> object:
        """Any command; its `return`. Errors: the class's."""
        limit = _positive(COMMAND_TIMEOUT_S if timeout_s is None else timeout_s, "time-out")
        sent = _request(command, arguments)
        self._record.check()
        try:
            async with asyncio.timeout(limit):
                return await self._wire.execute(command, arguments)
        except TimeoutError:
            raise TimedOut(
                f"QEMU did not answer {command} in {limit:g} s; whether it took effect is not known", sent=sent
            ) from None
        except ExecuteError as error:
            raise QmpRefused(
                f"QEMU refused {command}: {error.error.error.desc}",
                reason=error.error.error.desc,
                error_class=error.error.error.class_,
                sent=sent,
                received=_text(error.received),
            ) from None
        except BadReplyError as error:
            raise AnsweredWrongly(
                f"QEMU's reply to {command} is neither a return nor an error", sent=sent, received=_text(error.msg)
            ) from None
        except StateError:
            raise MachineGone(f"QEMU's monitor is closed; {command} was not sent") from None
        except ExecInterruptedError:
            raise await self._interrupted(command, sent) from None

    async def add(
        self,
        device: str,
        region: int,
        extents: Sequence[tuple[int, int]],
        *,
        host_id: int = 0,
        policy: str = "prescriptive",
        tag: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Offer extents, (offset in the region, length) in bytes, as one chain. Errors: the class's.

        `device` is a name of the topology (mem0) or a QOM path. Success says that the event was queued.
        Nothing is checked first. QEMU (10.0.2, 11.1.3) ends with SIGSEGV when offset + length reaches 2^64.
        """
        arguments = self._offer(device, region, extents, host_id=host_id, policy=policy, tag=tag)
        await self.execute(self.dialect.add.command, arguments, timeout_s=timeout_s)

    async def release(
        self,
        device: str,
        region: int,
        extents: Sequence[tuple[int, int]],
        *,
        host_id: int = 0,
        removal_policy: str = "prescriptive",
        forced: bool | None = None,
        sanitize: bool | None = None,
        tag: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Ask the host to release extents, as `add` gives them. `forced`, `sanitize`: None leaves them out."""
        speech = self.dialect.release
        values = {
            "path": _path(device),
            "host_id": host_id,
            "removal_policy": removal_policy,
            "forced": forced,
            "sanitize": sanitize,
            "region": region,
            "tag": tag,
        }
        await self.execute(speech.command, speech.arguments(values, extents), timeout_s=timeout_s)

    async def block_state(
        self,
        device: str,
        region: int,
        offset: int,
        block_size: int,
        *,
        host_id: int = 0,
        timeout_s: float | None = None,
    ) -> BlockState:
        """The state of one block (towards that host), by the refusal of an add that cannot succeed: nothing changes.

        Ask block by block: of several, QEMU says only that one of them is taken. Errors: the class's; a refusal
        with a reason of its own (no such region, unaligned) is QmpRefused; a wording that is in no table, or a
        success, is AnsweredWrongly with the bytes (after a success the block is pending, and we made it so).
        """
        question = _question(offset, block_size)
        try:
            await self.add(device, region, question, host_id=host_id, timeout_s=timeout_s)
        except QmpRefused as refused:
            if refused.name in _STATES:
                self._asks = True
                return _STATES[refused.name]
            if refused.name in REASONS:
                raise
            raise AnsweredWrongly(
                f"QEMU's answer about block {format_address(offset)} of region {region} is in no table",
                sent=refused.sent,
                received=refused.received,
            ) from None
        raise AnsweredWrongly(
            f"QEMU took the question about block {format_address(offset)} of region {region} as an offer; "
            "this QEMU accepts extents without length, so its block state cannot be asked",
            sent=str(question),
            received="success",
        )

    def foresee_block_state(self, device: str, region: int, offset: int, block_size: int, *, host_id: int = 0) -> None:
        """Send the question of `block_state` without its last byte: asked it is only when that follows.

        QEMU reads its monitor byte by byte (about 3 microseconds each, under TCG), so that most of what a question
        takes can pass while the host is still busy with its answer. The same `block_state` sends the byte. Any other
        command sends it before itself, and the answer is then nobody's: which is why nothing is foreseen before this
        QEMU has once answered such a question without an effect.
        """
        if self._asks:
            extents = _question(offset, block_size)
            self._wire.begin(self.dialect.add.command, self._offer(device, region, extents, host_id=host_id))

    def _offer(
        self,
        device: str,
        region: int,
        extents: Sequence[tuple[int, int]],
        *,
        host_id: int,
        policy: str = "prescriptive",
        tag: str | None = None,
    ) -> dict[str, object]:
        """The arguments of an add, as this QEMU spells them."""
        values = {
            "path": _path(device),
            "host_id": host_id,
            "selection_policy": policy,
            "region": region,
            "tag": tag,
        }
        return self.dialect.add.arguments(values, extents)

    async def quit(self) -> None:
        """End QEMU. That it closes the connection before it answers is an answer as well."""
        try:
            await self.execute("quit", timeout_s=_CLOSE_TIMEOUT_S)
        except MachineGone:
            return

    async def reset(self) -> None:
        """Reset the machine, as its reset button would."""
        await self.execute("system_reset")

    async def status(self) -> str:
        """The run state: running, paused, prelaunch, guest-panicked, internal-error, ..."""
        reply = await self.execute("query-status")
        if not isinstance(reply, dict) or not isinstance(reply.get("status"), str):
            raise AnsweredWrongly("query-status gave no status", received=_text(reply))
        return str(reply["status"])

    async def object_type(self, device: str) -> str | None:
        """The QOM type of a device's name or path ("cxl-type3"); None where there is no such object."""
        try:
            found = await self.execute("qom-get", {"path": _path(device), "property": "type"})
        except QmpRefused as refused:
            if refused.error_class == "DeviceNotFound":
                return None
            raise
        if not isinstance(found, str):
            raise AnsweredWrongly("qom-get gave a type that is no string", received=_text(found))
        return found

    async def _establish(self, connection: socket.socket, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._wire.connect(connection)
        except TimeoutError:
            raise TimedOut(
                f"QEMU's monitor did not greet within {timeout_s:g} s; it serves one client at a time"
            ) from None
        except ConnectError as error:
            raise _explained(error.exc, "while it greeted") from None
        greeting = self._wire.greeting
        self.version = _version(greeting.QMP.version if greeting is not None else None)
        self.dialect = Dialect.from_schema(await self.execute("query-qmp-schema", timeout_s=timeout_s))

    async def _interrupted(self, command: str, sent: str) -> DcdError:
        cause = await self._close()
        return _explained(cause if cause is not None else EOFError(), f"before it answered {command}", sent)

    async def _close(self) -> Exception | None:
        """Disconnect, once, bounded; what had ended qemu.qmp's reader, if anything had."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._disconnect())
        return await asyncio.shield(self._closing)

    async def _disconnect(self) -> Exception | None:
        with suppress(OSError):  # it may be gone; if not, now no flush waits for a peer that does not read
            self._connection.shutdown(socket.SHUT_RDWR)
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._wire.disconnect()
        except Exception as error:
            return error  # qemu.qmp raises here whatever had ended its reader: a value for us
        return None


class _Wire(QMPClient):
    """qemu.qmp's client with its message hooks taken: they record, and keep events in a bound.

    The library's own hooks format every message for a debug log, and keep every event for ever.
    """

    def __init__(self, record: _Record, on_event: Callable[[Event], None] | None, clock: Callable[[], int]) -> None:
        super().__init__()
        # A logger outside the logging tree that lets nothing through: errors are raised, exchanges are recorded.
        self.logger = logging.Logger("dcdbackend.qmp", logging.CRITICAL + 1)
        self.kept: deque[Event] = deque(maxlen=MAX_EVENTS)
        self.dropped = 0
        self._begun: Message | None = None
        self._record = record
        self._on_event = on_event
        self._clock = clock

    def _get_exec_id(self) -> str:
        # QEMU reads its monitor byte by byte, at about 3 microseconds each: the library's own ids are 11 bytes longer.
        self._execute_id += 1
        return str(self._execute_id)

    def begin(self, command: str, arguments: Mapping[str, object]) -> None:
        """Send a message without the brace that ends it, which QEMU waits for. One at a time; not while others wait."""
        if self._begun is not None or self.runstate != Runstate.RUNNING or not self._outgoing.empty():
            return
        begun = self.make_execute_msg(command, arguments)
        begun["id"] = self._get_exec_id()
        self._begun = begun
        self._write(bytes(begun)[:-1])

    async def _execute(self, msg: Message, assign_id: bool = True) -> Message:
        begun = self._begun
        if begun is None or not assign_id or {**msg, "id": begun["id"]} != dict(begun):
            return await super()._execute(msg, assign_id)
        self._begun = None
        self._record.write("sent", begun)
        number = str(begun["id"])
        self._pending[number] = asyncio.Queue(maxsize=1)
        self._write(bytes(begun)[-1:])
        return await self._reply(number)

    def _cb_outbound(self, msg: Message) -> Message:
        if self._begun is not None:  # it is ended here, and its reply is nobody's
            self._record.write("sent", self._begun)
        self._record.write("sent", msg)
        return msg

    def _do_send(self, msg: Message) -> None:
        begun, self._begun = self._begun, None
        self._write((b"" if begun is None else bytes(begun)[-1:]) + bytes(msg))

    def _write(self, data: bytes) -> None:
        assert self._writer is not None, "connected"
        self._writer.write(data)

    def _cb_inbound(self, msg: Message) -> Message:
        self._record.write("received", msg)
        return msg

    async def _on_message(self, msg: Message) -> None:
        if "event" not in msg:
            await super()._on_message(msg)
            return
        data = msg.get("data")
        event = Event(name=str(msg["event"]), data=data if isinstance(data, dict) else {}, t_ns=self._clock())
        self.dropped += len(self.kept) == MAX_EVENTS
        self.kept.append(event)
        if self._on_event is not None:
            # From the loop, not from here: what the callback raises must not end qemu.qmp's reader.
            asyncio.get_running_loop().call_soon(self._on_event, event)


class _Record:
    """qmp.jsonl: one JSON object a line, {"t_ns": ..., "sent" | "received": message}, written at once.

    A message over 64 KiB (the schema) is recorded by size and digest. A line that cannot be written does not
    disturb the exchange that it is about: the next command is refused before it is sent.
    """

    def __init__(self, path: Path, clock: Callable[[], int]) -> None:
        self._path = path
        self._clock = clock
        self._failed: OSError | None = None
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotRun(f"cannot write {path}: {error.strerror}; choose another run directory") from None

    def __enter__(self) -> _Record:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, direction: Literal["sent", "received"], message: Message) -> None:
        text = bytes(message).strip()  # the very bytes, which qemu.qmp keeps
        if len(text) > _MAX_LOGGED:
            digest = hashlib.sha256(text).hexdigest()
            text = _text({"id": message.get("id"), "bytes": len(text), "sha256": digest}).encode()
        line = b'{"t_ns":%d,"%s":%s}\n' % (self._clock(), direction.encode(), text)
        try:
            written = os.write(self._fd, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._failed = error

    def check(self) -> None:
        """Errors: CannotRun once a line could not be written."""
        if self._failed is not None:
            raise CannotRun(f"cannot write {self._path}: {self._failed.strerror}; free some space, run again")


async def _dialed(path: str, timeout_s: float) -> socket.socket:
    if len(os.fsencode(path)) > _MAX_PATH:
        raise AskedWrongly(f"socket path {path!r} is over {_MAX_PATH} bytes; give a connected socket")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(connection, path)
    except (OSError, TimeoutError) as error:
        connection.close()
        raise CannotRun(f"no QEMU monitor at {path}: {error}; is that machine running?") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _explained(cause: Exception, when: str, sent: object = None) -> DcdError:
    """The error to raise for what ended a connection. Bytes that are no QMP are our finding, not an accident."""
    while isinstance(cause, ConnectError) or isinstance(getattr(cause, "exc", None), Exception):
        cause = cause.exc  # type: ignore[attr-defined]
    if isinstance(cause, DeserializationError | UnicodeDecodeError):
        data = cause.raw if isinstance(cause, DeserializationError) else bytes(cause.object)
        if not data.endswith(b"\n"):
            return MachineGone(f"QEMU closed its monitor inside a message, {when}", sent=sent, received=data)
        return AnsweredWrongly(f"QEMU sent what is not JSON {when}", sent=sent, received=data)
    if isinstance(cause, QMPError | ValueError | KeyError | TypeError | AssertionError | RecursionError):
        reason = " ".join(str(cause).split())
        return AnsweredWrongly(f"QEMU broke the QMP protocol {when}", sent=sent, received=reason)
    how = f": {cause.strerror}" if isinstance(cause, OSError) and cause.strerror else ""
    return MachineGone(f"QEMU closed its monitor {when}{how}", sent=sent)


def _entities(schema: object) -> dict[str, Mapping[str, object]]:
    if not isinstance(schema, list):
        raise AnsweredWrongly("query-qmp-schema gave no list", received=_text(schema))
    found: dict[str, Mapping[str, object]] = {}
    for entity in schema:
        if not isinstance(entity, dict) or not isinstance(entity.get("name"), str):
            raise AnsweredWrongly("query-qmp-schema gave an entity without a name", received=_text(entity))
        found[entity["name"]] = entity
    return found


def _members(entities: Mapping[str, Mapping[str, object]], name: object) -> list[Mapping[str, object]]:
    members = entities.get(str(name), {}).get("members")
    if not isinstance(members, list) or not all(isinstance(m, dict) and "name" in m for m in members):
        raise AnsweredWrongly(f"query-qmp-schema describes no object {name!r}")
    return members


def _spelled(what: str, members: Sequence[Mapping[str, object]], needs: Sequence[str]) -> dict[str, str]:
    """Meaning -> argument name. Errors: CannotRun with what is missing, or demanded and not known."""
    spelled: dict[str, str] = {}
    for member in members:
        name = str(member["name"])
        meaning = next((meaning for meaning, names in _SPELLINGS.items() if name in names), None)
        if meaning is not None:
            spelled[meaning] = name
        elif "default" not in member:
            raise CannotRun(f"this QEMU's {what} demands an argument that is not known here: {name}")
    missing = [" or ".join(_SPELLINGS[meaning]) for meaning in needs if meaning not in spelled]
    if missing:
        raise CannotRun(f"this QEMU's {what} lacks {', '.join(missing)}; use QEMU 9.1 or newer")
    return spelled


def _command(
    entities: Mapping[str, Mapping[str, object]], command: str, policy: str, needs: Sequence[str]
) -> CommandDialect:
    if command not in entities:
        raise CannotRun(f"this QEMU has no {command}; use QEMU 9.1 or newer")
    members = _members(entities, entities[command].get("arg-type"))
    names = _spelled(command, members, needs)
    type_of = {str(member["name"]): str(member.get("type")) for member in members}
    element = entities.get(type_of[names["extents"]], {}).get("element-type")
    values = entities.get(type_of[names[policy]], {}).get("values")
    if not isinstance(values, list):
        raise CannotRun(f"this QEMU's {command} takes {names[policy]} as a number; use QEMU 9.1 or newer")
    return CommandDialect(
        command=command,
        names=names,
        extent_names=_spelled(f"{command} (an extent)", _members(entities, element), _EXTENT_NEEDS),
        policies=tuple(str(value) for value in values),
    )


def _version(told: object) -> str:
    """`11.1.3` from the greeting's {"qemu": {"major", "minor", "micro"}, "package"}."""
    numbers = told.get("qemu") if isinstance(told, Mapping) else None
    if not isinstance(numbers, Mapping) or not all(
        isinstance(numbers.get(part), int) for part in ("major", "minor", "micro")
    ):
        raise AnsweredWrongly("QEMU's greeting has no version", received=_text(told))
    return f"{numbers['major']}.{numbers['minor']}.{numbers['micro']}"


def _question(offset: int, block_size: int) -> list[tuple[int, int]]:
    """The extents of an add that asks: the last one, without length, is always refused."""
    return [(offset, block_size), (offset, 0)]


def _path(device: str) -> str:
    return device if device.startswith("/") else f"/machine/peripheral/{device}"


def _request(command: str, arguments: Mapping[str, object] | None) -> str:
    try:
        return json.dumps(
            {"execute": command} if arguments is None else {"execute": command, "arguments": dict(arguments)},
            allow_nan=False,
        )
    except (TypeError, ValueError) as error:
        raise AskedWrongly(f"{command}: the arguments are not JSON ({error}); nothing was sent") from None


def _positive(value: float, what: str) -> float:
    if not value > 0:
        raise AskedWrongly(f"{what} {value!r} is not above 0 seconds")
    return value


def _text(value: object) -> str:
    """JSON in one line, as it is on the wire; a message of qemu.qmp is a mapping."""
    return json.dumps(dict(value) if isinstance(value, Mapping) else value, separators=(",", ":"), default=repr)
