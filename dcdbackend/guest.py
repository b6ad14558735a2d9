"""One launched guest: the sole owner of its QEMU, its QMP connection, its agent link and the history being written.

The link's other end is not trusted: frames are bounded and checked by `link`, and what a frame says is data until it
was found to fit the history. The controller always reads the link, because an agent whose port nobody reads blocks.

It is not a supervisor process and serves no verbs: a run holds it in-process.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from . import bench, bootlog, history, link, machine, topology
from .errors import AnsweredWrongly, AskedWrongly, CannotRun, DcdError, LinkLost, MachineGone, OutcomeUnknown, TimedOut
from .model import departures
from .qmp import Event, Qmp

BOOT_TIMEOUT_S = 60.0
PATIENCE = 4
"""How many such times a kernel under test gets at most, while its console goes on."""
_CONSOLE_READ_BYTES = 1 << 20
CONTROL_TIMEOUT_S = 10.0
_READ_BYTES = 1 << 16
_READS_AT_ONCE = 64
_SEND_BOUND_BYTES = 1 << 20
_STRAYS = 1000
_ACK_FRAMES = 64
_ACK_DELAY_S = 0.02
_MOST_READINGS = 64
SILENCE_S = 2.0
EXIT_TIMEOUT_S = 1.0
REJOIN_TRIES = 40
_OUTSIDE = frozenset(("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"))
"""Signals that a crash never is."""
_HEADER_KEYS = ("serial", "regions", "payload_size", "supported_extents", "supported_tags")
_GUEST_FUNCTIONS = frozenset(history.HOST)
_ENDS = frozenset(("ok", "fail", "info"))
_ERRORS = {kind.__name__: kind for kind in (AskedWrongly, CannotRun, AnsweredWrongly, OutcomeUnknown, TimedOut)}


Poll = Literal["sleep", "spin"]
"""How the agent watches its devices: it sleeps 0.5 ms between two looks, or it does not sleep (faster, and hot)."""


class Death(NamedTuple):
    """How a guest died. `kind`: `device` (QEMU crashed, or ended by itself), `outside` (somebody killed QEMU),
    `panic` (the guest's kernel), `silent` (its agent does not answer)."""

    kind: Literal["device", "outside", "panic", "silent"]
    text: str


class Channel:
    """The controller's end of the agent link: a non-blocking socket, read at once whenever there is anything.

    `on_history` gets the body of each HISTORY frame, `on_control` of each CONTROL frame, `on_bad` one line for what
    was no frame or no JSON object. `drain` reads what has already arrived, now: what the agent wrote before it rang
    a doorbell is in the socket before any witness can see the doorbell's effect.

    Frames are acknowledged a while later, many at once: each acknowledgement interrupts the guest, which may be on its
    way to an answer, and the agent keeps what is not acknowledged without waiting for it.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_history: Callable[[dict[str, Any]], None],
        on_control: Callable[[dict[str, Any]], None],
        on_bad: Callable[[str], None],
        on_lost: Callable[[str], None],
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._socket = sock
        self._on_history = on_history
        self._on_control = on_control
        self._on_bad = on_bad
        self._on_lost = on_lost
        self._on_restart = on_restart
        self._peer: str | None = None
        self._sender = link.Sender()
        self._receiver = link.Receiver()
        self._session = secrets.token_hex(8)
        self._unsent = bytearray()
        self._lost: str | None = None
        self._closed = False
        self._acknowledged = 0
        self._ack_later: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock, self.drain)
        self._write(link.hello(self._session, 0))

    def control(self, body: Mapping[str, Any]) -> None:
        """Send a CONTROL frame; one sent while the link is down is kept. Errors: LinkLost (Overrun: nobody reads)."""
        if self._closed:
            raise LinkLost(f"the agent's link is gone: {self._lost}", sent=body)
        self._acknowledged = self._receiver.received
        self._write(self._sender.push(link.CONTROL, history.encode(body), ack=self._acknowledged))

    def drain(self) -> None:
        """Take everything that has arrived. Bounded: what a flooding guest sends meanwhile waits for the next call."""
        if self._lost is not None:
            return
        for _ in range(_READS_AT_ONCE):
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                self._end(error.strerror or str(error))
                return
            if not data:
                self._end("QEMU closed it")
                return
            self._take(data)
        if self._receiver.received - self._acknowledged >= _ACK_FRAMES:
            self._acknowledge()
        elif self._receiver.received != self._acknowledged and self._ack_later is None and self._lost is None:
            self._ack_later = self._loop.call_later(_ACK_DELAY_S, self._acknowledge)

    def attach(self, sock: socket.socket) -> None:
        """Go on with the same agent over a new connection: what either side had not seen comes again, once."""
        sock.setblocking(False)
        self._socket = sock
        self._lost = None
        self._unsent.clear()
        self._receiver.reconnect()
        self._acknowledged = self._receiver.received  # as the HELLO says
        self._loop.add_reader(sock, self.drain)
        self._write(link.hello(self._session, self._receiver.received))

    def drop(self) -> None:
        """Lose the connection, as a fault would."""
        if self._lost is None:
            self._end("dropped on purpose")

    def close(self, why: str = "closed") -> None:
        """Stop for good: no new connection is taken."""
        self._closed = True
        if self._lost is None:
            self._lost = why
            self._forget()

    def _acknowledge(self) -> None:
        if self._ack_later is not None:
            self._ack_later.cancel()
            self._ack_later = None
        if self._receiver.received != self._acknowledged:
            self._acknowledged = self._receiver.received
            self._write(link.acknowledgement(self._acknowledged))

    def _take(self, data: bytes) -> None:
        damaged = False
        for frame in self._receiver.feed(data):
            if isinstance(frame, link.BadFrame):
                self._on_bad(f"{frame.reason}: {frame.text}")
                damaged = True
                continue
            try:
                self._sender.acknowledge(frame.ack)
                self._frame(frame)
            except AnsweredWrongly as error:
                self._on_bad(str(error))
        if damaged:  # a HELLO has the agent send again what is missing
            self._write(link.hello(self._session, self._receiver.received))

    def _frame(self, frame: link.Frame) -> None:
        if frame.kind == link.ACK:
            return
        if frame.kind == link.HELLO:
            hello = link.read_hello(frame.body)
            if self._peer is not None and hello.session != self._peer:
                self._restart()
            else:
                for again in self._sender.resend(hello.received):
                    self._write(again)
            self._peer = hello.session
            return
        try:
            body = json.loads(frame.body, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            self._on_bad(f"frame {frame.seq} holds no JSON object: {frame.body[:80]!r}")
        elif frame.kind == link.HISTORY:
            self._on_history(body)
        else:
            self._on_control(body)

    def _restart(self) -> None:
        """Another agent speaks: both sides count anew, and what the old one was asked is not asked of this one."""
        self._receiver = link.Receiver()
        self._sender = link.Sender()
        self._acknowledged = 0
        self._unsent.clear()
        self._on_restart()
        self._write(link.hello(self._session, 0))

    def _write(self, data: bytes) -> None:
        if self._lost is not None:
            return
        if len(self._unsent) + len(data) > _SEND_BOUND_BYTES:
            self._end(f"the agent leaves {len(self._unsent)} bytes unread")
            return
        waiting = bool(self._unsent)
        self._unsent += data
        if not waiting:
            self._flush()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._end(error.strerror or str(error))
            return
        del self._unsent[:sent]
        if self._unsent:
            self._loop.add_writer(self._socket, self._flush)
        else:
            self._loop.remove_writer(self._socket)

    def _end(self, why: str) -> None:
        self._lost = why
        self._forget()
        self._on_lost(why)

    def _forget(self) -> None:
        if self._ack_later is not None:
            self._ack_later.cancel()
            self._ack_later = None
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()


class Intake:
    """Where the agent's HISTORY frames become lines of the history, or strays.

    The agent numbers its own operations -1, -2, ...; they get the history's numbers here. What does not fit (an end of
    what never began, a process that is not the agent's, anything between two histories) is handed to `stray`.

    An idle agent has begun its next reading of the log (0100h) already. Such a reading belongs to whatever history is
    being written when it ends, so the ones that are open begin in each new history as well.
    """

    def __init__(self, stray: Callable[[str], None]) -> None:
        self.writer: history.Writer | None = None
        self._stray = stray
        self._numbers: dict[int, int] = {}
        self._readings: dict[str, tuple[int, dict[str, Any]]] = {}

    def begin(self, writer: history.Writer | None) -> None:
        """Write to `writer` from now on; operations of an earlier history are forgotten, but for open readings."""
        self.writer = writer
        self._numbers.clear()
        if writer is not None:
            for process, (op, value) in self._readings.items():
                self._numbers[op] = writer.invoke(process, "events", value)

    def restart(self) -> None:
        """A new agent counts anew: whether what the old one had begun took effect is not known."""
        if self.writer is not None:
            for number in self._numbers.values():
                if number in self.writer.open_operations:
                    self.writer.end(number, "info", {"reason": "the agent ended in the middle of it"})
        self._numbers.clear()
        self._readings.clear()

    def take(self, body: dict[str, Any]) -> None:
        """One frame's body."""
        op, process, kind, f, value = (body.get(key) for key in ("op", "process", "type", "f", "value"))
        f, kind = str(f), str(kind)
        if type(op) is not int or type(value) is not dict or f not in _GUEST_FUNCTIONS or not isinstance(process, str):
            self._stray(f"a frame that is no history line: {str(body)[:200]}")
            return
        reading = f == "events" and process.startswith("host.") and self._follow(op, process, kind, value)
        if self.writer is None:
            if not reading:
                self._stray(f"{kind} of {f} between two histories: {str(value)[:200]}")
        elif kind == "invoke":
            if op >= 0 or op in self._numbers or not process.startswith("host.") or self._runs(self.writer, process):
                self._stray(f"an invoke of {f} by {process!r} as {op}, which is not the agent's to begin now")
                return
            self._numbers[op] = self.writer.invoke(process, f, value)
        elif kind in _ENDS:
            number = self._numbers.get(op) if process.startswith("host.") else op
            began = self.writer.open_operations.get(number) if number is not None else None
            if began is None or (began.process, began.f) != (process, f):
                self._stray(f"the end of {f} as {op}, which {process!r} did not begin here")
                return
            self._numbers.pop(op, None)
            self.writer.end(began.op, kind, value)
        else:
            self._stray(f"a frame of type {kind[:80]!r}")

    def _follow(self, op: int, process: str, kind: str, value: dict[str, Any]) -> bool:
        """Keep account of the readings that are open; whether this line opens one."""
        if kind != "invoke":
            if self._readings.get(process, (0, value))[0] == op:
                del self._readings[process]
            return False
        if op >= 0 or process in self._readings or len(self._readings) >= _MOST_READINGS:
            return False
        self._readings[process] = (op, value)
        return True

    @staticmethod
    def _runs(writer: history.Writer, process: str) -> bool:
        return any(op.process == process for op in writer.open_operations.values())


class Guest:
    """`async with Guest(...) as guest:` is a booted guest with its agent ready and its devices named.

    `run_dir` (made 0700) receives everything as it happens: the command, console, QEMU's stderr, the QMP log and
    what the agent said of itself. `begin` opens the history that follows. Errors: CannotRun, TimedOut (it did not
    boot; the console's end is shown), MachineGone, AnsweredWrongly.
    """

    def __init__(
        self,
        *,
        qemu: machine.Qemu,
        accel: machine.Accel,
        kernel: Path,
        initrd: Path,
        shape: topology.Topology,
        run_dir: Path,
        append: str = "",
        boot_timeout_s: float = BOOT_TIMEOUT_S,
        poll: Poll = "sleep",
        host: machine.HostKind = "U",
    ) -> None:
        self.shape = shape
        self.host = host
        self.run_dir = run_dir
        self.ready: dict[str, Any] = {}
        self.strays: list[str] = []
        self._boot_timeout_s = boot_timeout_s
        self._poll = poll
        self._argv = machine.full_argv(
            qemu=qemu, topology=shape, kernel=kernel, initrd=initrd, accel=accel, append=append, host=host
        )
        self.qemu = qemu
        self.accel = accel
        self._stack = AsyncExitStack()
        self._intake = Intake(self._stray)
        self._console_before = 0
        self._controls: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._next_control = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self.death: Death | None = None
        self._resetting = False
        self._leaving = False
        self._rejoining: asyncio.Task[None] | None = None

    @property
    def argv(self) -> list[str]:
        """The whole command line of its QEMU."""
        return list(self._argv)

    async def __aenter__(self) -> Self:
        self.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            stack.callback(self._forget_memory)
            self._machine = await stack.enter_async_context(
                machine.Machine(qemu=self.qemu, argv=self._argv, run_dir=self.run_dir)
            )
            self._machine.exited.add_done_callback(self._on_exit)
            ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
            self._controls[0] = ready
            self._channel = Channel(
                await self._machine.connect(machine.LINK_SOCKET),
                on_history=self._on_history,
                on_control=self._on_control,
                on_bad=self._stray,
                on_lost=self._on_lost,
                on_restart=self._intake.restart,
            )
            stack.callback(self._channel.close)
            self.qmp = await stack.enter_async_context(
                Qmp.connect(self._machine.take_qmp(), log=self.run_dir / "qmp.jsonl", on_event=self._on_event)
            )
            self.ready = (await self._boot(ready))["ready"]
            self._hears()
            (self.run_dir / "agent.json").write_text(json.dumps(self.ready, indent=1) + "\n")
            await self._name_devices()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._intake.begin(None)
        self._leaving = True
        try:
            if self._rejoining is not None:
                self._rejoining.cancel()
                await asyncio.wait([self._rejoining])
            with suppress(DcdError):
                await self.qmp.quit()
        finally:  # cancelled here, the polite way is over; QEMU ends all the same
            await self._stack.aclose()

    def _forget_memory(self) -> None:
        """The files behind the devices: as large as the devices, and of no use without their QEMU."""
        for device in self.shape.devices:
            for name in (device.dc_file, device.static_file):
                if name is not None:
                    (self.run_dir / name).unlink(missing_ok=True)

    # -- the history ---------------------------------------------------------------------------------------------

    def begin(self, writer: history.Writer) -> None:
        """From now on what happens goes to `writer`; operations of an earlier history are forgotten."""
        self._channel.drain()
        self._intake.begin(writer)
        self._console_before = self._machine.console_size

    def end(self) -> None:
        """Stop writing; what the agent still says is a stray."""
        self._channel.drain()
        self._intake.begin(None)

    def machine_told(self) -> dict[str, Any]:
        """The header's `qemu`: `version`, `origin`, `accel`, `topology`."""
        return {
            "version": self.qemu.version,
            "origin": self.qemu.origin,
            "accel": self.accel,
            "topology": self.shape.kind,
        }

    def devices(self) -> tuple[dict[str, Any], ...]:
        """The header's devices: names from the topology, regions as the device reported them; under a kernel that has
        the devices to itself, as the topology has QEMU make them."""
        if self.host == "kernel":
            return tuple(_described(device) for device in self.shape.devices)
        found = {device["serial"]: device for device in self.ready["devices"]}
        return tuple(
            {"name": device.name}
            | {key: found[device.serial][key] for key in _HEADER_KEYS if key in found[device.serial]}
            for device in self.shape.devices
        )

    def drain(self) -> None:
        """Everything that the agent wrote so far is in the history when this returns."""
        self._channel.drain()

    def alive(self) -> None:
        """Errors: MachineGone, with how it died."""
        if self.death is not None:
            raise MachineGone(self.death.text)

    async def diagnose(self) -> Death | None:
        """Why nothing comes any more: waits for what is on its way, and asks the agent for a sign of life."""
        with suppress(DcdError):
            await self.control("ping", timeout_s=SILENCE_S)
            return self.death
        with suppress(MachineGone):  # QEMU's end may be a moment behind that of its sockets
            await self.until(lambda: False, EXIT_TIMEOUT_S)
        if self.death is None:
            self.death = Death("silent", f"no answer to a ping within {SILENCE_S} s")
        return self.death

    async def reset(self) -> None:
        """Reset the guest and wait for its new agent. Devices keep what QEMU keeps. Errors: TimedOut, MachineGone."""
        ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._controls[0] = ready
        self._resetting = True  # the firmware, too, resets once on its way
        try:
            await self.qmp.reset()
            self.ready = (await self._boot(ready))["ready"]
        finally:
            self._resetting = False
        await self._name_devices()

    def console_end(self, max_bytes: int) -> str:
        """The end of what the guest wrote to its console since the history began."""
        since = self._machine.console_size - self._console_before
        return self._machine.console_tail(max_bytes=min(max_bytes, since)) if since > 0 else ""

    def drop_link(self) -> None:
        """Lose the connection to the agent, as a fault would; it comes back by itself."""
        self._channel.drop()

    def provoke(self, what: str) -> None:
        """Have the guest die (`panic`: its kernel, `stop`: its agent), to see that told. Errors: LinkLost."""
        self._channel.control({"id": -1, "do": "provoke", "what": what})

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._machine.pid

    async def until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `done()`, looking again whenever anything arrives; False when the time is over.

        Errors: MachineGone.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout_s
        timer = loop.call_at(end, self._wake)
        news: asyncio.Future[None] | None = None
        self._channel.drain()
        try:
            while not done():
                self.alive()
                if loop.time() >= end:
                    return False
                news = loop.create_future()
                self._waiting.add(news)
                await news
        finally:
            timer.cancel()
            if news is not None:
                self._waiting.discard(news)
        return True

    # -- requests to the agent -----------------------------------------------------------------------------------

    async def control(
        self, do: str, fields: Mapping[str, Any] | None = None, *, timeout_s: float = CONTROL_TIMEOUT_S
    ) -> dict[str, Any]:
        """One request and its reply. Errors: as the agent says, LinkLost, TimedOut, MachineGone."""
        self._next_control += 1
        request = {"id": self._next_control, "do": do, **(fields or {})}
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._controls[self._next_control] = reply
        try:
            self._channel.control(request)
            if not await self.until(reply.done, timeout_s):
                raise TimedOut(f"the agent did not answer {do!r} within {timeout_s} s", sent=request)
        finally:
            self._controls.pop(request["id"], None)
        body = reply.result()
        if body.get("ok") is not True:
            kind = _ERRORS.get(str(body.get("kind")), AnsweredWrongly)
            raise kind(str(body.get("error")), sent=request)
        return body

    def ask(self, op: int, process: str, f: str, value: Mapping[str, Any]) -> None:
        """Have the agent carry out the operation whose invoke line is `op`. Errors: LinkLost."""
        self._next_control += 1
        request = {
            "id": self._next_control,
            "do": "ask",
            "op": op,
            "process": process,
            "f": f,
            "value": value,
        }
        self._channel.control(request)

    # -- what arrives --------------------------------------------------------------------------------------------

    def _on_history(self, body: dict[str, Any]) -> None:
        self._intake.take(body)
        self._wake()

    def _on_control(self, body: dict[str, Any]) -> None:
        number = 0 if "ready" in body else body.get("id")
        if "fault" in body:
            self._stray(f"the agent's own fault: {str(body['fault'])[:2000]}")
        reply = self._controls.get(number) if type(number) is int else None
        if reply is not None and not reply.done():
            reply.set_result(body)
        elif body.get("ok") is False:
            self._stray(f"the agent refused a request: {str(body)[:500]}")
        self._wake()

    def _on_event(self, event: Event) -> None:
        panicked = event.name == "GUEST_PANICKED" or (
            event.name == "RESET" and event.data.get("guest") is True and not self._resetting
        )
        if panicked and self.death is None:
            line = self._machine.panic() or f"no line on the console, but QEMU tells {event.name}"
            self.death = Death("panic", f"the guest's kernel panicked: {line}")
            self._wake()

    def _on_exit(self, exited: asyncio.Future[machine.Exit]) -> None:
        if not exited.cancelled():
            ended = exited.result()
            kind: Literal["device", "outside"] = "outside" if ended.signal_name in _OUTSIDE else "device"
            self.death = Death(kind, f"QEMU (pid {self._machine.pid}) {ended}")
            self._wake()

    def _on_lost(self, why: str) -> None:
        self._stray(f"the link was lost: {why}")
        self._wake()
        if not self._leaving and (self._rejoining is None or self._rejoining.done()):
            self._rejoining = asyncio.get_running_loop().create_task(self._rejoin(why))

    async def _rejoin(self, why: str) -> None:
        """Connect to the port again as long as QEMU lives, a bounded number of times."""
        for _ in range(REJOIN_TRIES):
            if self._machine.exited.done():
                break
            try:
                self._channel.attach(await self._machine.connect(machine.LINK_SOCKET))
            except (DcdError, OSError):  # QEMU, or the whole run, is ending
                await asyncio.sleep(0.05)
                continue
            self._wake()
            return
        self._channel.close(why)
        self._wake()

    def _stray(self, text: str) -> None:
        """What arrived and is no part of a history: kept in the run directory, the first thousand of them."""
        if len(self.strays) < _STRAYS:
            self.strays.append(text)
            with (self.run_dir / "strays.log").open("a") as file:
                file.write(f"{time.monotonic_ns()} {text}\n")

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for news in waiting:
            if not news.done():
                news.set_result(None)

    # -- start ---------------------------------------------------------------------------------------------------

    async def _boot(self, ready: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
        """Wait for the agent. A kernel under test may be built for debugging, and slow: as long as its console goes on,
        it gets the same time again, a bounded number of times. Errors: CannotRun (its console says what it lacks),
        TimedOut, MachineGone."""
        said, began = 0, asyncio.get_running_loop().time()
        try:
            for _ in range(PATIENCE if self.host == "kernel" else 1):
                if await self.until(ready.done, self._boot_timeout_s):
                    return ready.result()
                before, said = said, self._machine.console_size
                if said == before:
                    break
        except MachineGone as error:
            self._explain()
            raise MachineGone(f"{error.message}, before its agent was ready; {self._console_ends()}") from None
        self._explain()
        took_s = asyncio.get_running_loop().time() - began
        panic = self._machine.panic()
        what = "the guest's agent was not ready" if panic is None else f"the guest's kernel panicked ({panic})"
        raise TimedOut(f"{what} after {took_s:.0f} s; {self._console_ends()}")

    def _hears(self) -> None:
        """Errors: CannotRun, where a kernel under test will hear of no event."""
        console = self._machine.console_tail(max_bytes=_CONSOLE_READ_BYTES) if self.host == "kernel" else ""
        if (cause := bootlog.mute(console)) is not None:
            raise CannotRun(f"{cause} (its console: {self.run_dir / machine.CONSOLE_LOG})")

    def _explain(self) -> None:
        """Errors: CannotRun, where the console says why no agent spoke."""
        cause = bootlog.why(self._machine.console_tail(max_bytes=_CONSOLE_READ_BYTES))
        if cause is not None:
            raise CannotRun(f"the guest did not come up: {cause} (its console: {self.run_dir / machine.CONSOLE_LOG})")

    def _console_ends(self) -> str:
        """The console's last words."""
        ends = self._machine.console_tail(max_bytes=600)
        if not ends:
            return (
                "it wrote nothing on its console: it hung at once, or has no ttyS0 (CONFIG_SERIAL_8250_CONSOLE, "
                "console=ttyS0), or is no kernel for this machine"
            )
        return f"its console ends: {ends!r} (all of it: {self.run_dir / machine.CONSOLE_LOG})"

    async def _name_devices(self) -> None:
        if self.host == "kernel":  # whose drivers have the devices; what they make of them is the survey's
            return
        found = {device.get("serial"): device for device in self.ready.get("devices", ())}
        for device in self.shape.devices:
            seen = found.get(device.serial)
            if seen is None:
                raise AnsweredWrongly(
                    f"the guest does not see {device.name} (serial 0x{device.serial:x}); it sees {list(found)}"
                )
            if seen.get("error"):
                raise AnsweredWrongly(f"{device.name} cannot be used in the guest: {seen['error']}")
        names = {str(device.serial): device.name for device in self.shape.devices}
        known = sorted(departures.applicable(self.qemu.version))
        await self.control("name", {"devices": names, "departures": known})
        if self._poll != "sleep":  # which is what an agent begins with
            await self.control("poll", {"mode": self._poll})


class QmpInjector:
    """Add and release by QEMU's monitor commands: untagged, offsets in a region. See `bench.Injector`."""

    name = "qmp"
    serves: frozenset[str] = frozenset()

    def __init__(self, qmp: Qmp) -> None:
        self._qmp = qmp

    async def add(self, value: bench.Value) -> None:
        await self._qmp.add(
            value["device"],
            value["region"],
            _offsets(value),
            host_id=value["host_id"],
            policy=value["policy"],
            tag=value["tag"],
        )

    async def release(self, value: bench.Value) -> None:
        await self._qmp.release(
            value["device"],
            value["region"],
            _offsets(value),
            host_id=value["host_id"],
            removal_policy=value["policy"],
            forced=value["forced"] or None,
            sanitize=value["sanitize"] or None,
            tag=value["tag"],
        )


class BlockWitness:
    """The block-state question over QMP, one block at a time, or of a range, which says whether all of it is free.

    See `bench.Witness`.
    """

    name = "block"
    f = "block"

    def __init__(self, guest: Guest) -> None:
        self._qmp = guest.qmp
        self._block_size = {
            (device["name"], region["index"]): region["block_size"]
            for device in guest.devices()
            for region in device["regions"]
        }

    async def ask(self, value: bench.Value) -> bench.Value:
        return {"state": await self._qmp.block_state(*self._asked(value))}

    def foresee(self, value: bench.Value) -> None:
        """See `bench.Foreseeing`."""
        self._qmp.foresee_block_state(*self._asked(value))

    def _asked(self, value: bench.Value) -> tuple[str, int, int, int]:
        device, region = value["device"], value["region"]
        block_size = self._block_size.get((device, region), topology.BLOCK_SIZE)
        return device, region, value["offset"], value.get("length", block_size)


class AgentHost:
    """Host U: the agent in the guest. See `bench.Host`."""

    name = "U"

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    async def policy(self, device: str, *, add: bench.Value, release: bench.Value, breaks: str | None = None) -> None:
        await self._guest.control("policy", {"device": device, "add": add, "release": release, "break": breaks})

    async def do(self, op: int, process: str, f: str, value: bench.Value) -> None:
        self._guest.ask(op, process, f, value)

    async def reset(self) -> None:
        await self._guest.reset()

    async def judgement(self) -> bench.Value:
        judgement: bench.Value = (await self._guest.control("judgement"))["judgement"]
        return judgement


class FileBackend:
    """The files behind the devices. See `bench.Backend`; QEMU maps them shared, so both sides see one content."""

    def __init__(self, shape: topology.Topology, directory: Path) -> None:
        self._shape = shape
        self._directory = directory

    def read(self, device: str, dpa: int, length_bytes: int) -> bytes:
        found = b""
        for part in self._shape.device(device).locate(dpa, length_bytes):
            with (self._directory / part.name).open("rb") as file:
                found += os.pread(file.fileno(), part.length, part.offset)
        return found

    def write(self, device: str, dpa: int, data: bytes) -> None:
        done = 0
        for part in self._shape.device(device).locate(dpa, len(data)):
            with (self._directory / part.name).open("r+b") as file:
                done += os.pwrite(file.fileno(), data[done : done + part.length], part.offset)


def _described(device: topology.DeviceSpec) -> dict[str, Any]:
    """A header's device, from the topology alone."""
    regions = [
        {"index": one.index, "base": one.base, "length": one.length, "block_size": one.block_size}
        for one in topology.expected_regions(device)
    ]
    return {"name": device.name, "serial": device.serial, "regions": regions}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _offsets(value: bench.Value) -> list[tuple[int, int]]:
    return [(extent["offset"], extent["length"]) for extent in value["extents"]]
