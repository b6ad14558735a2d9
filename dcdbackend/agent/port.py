"""The agent's end of the link: a virtio port that may hang up and come back, the frames on it, and no more.

Reading never blocks; writing blocks within a bound. Frames are numbered and kept until they are acknowledged
(`link.Sender`), so that what was said while nobody listened is said again: after every (re)connection both sides send
HELLO. The controller speaks first: only its HELLO tells whether it is the one that was there before, and until then
nothing is written, unless it stays silent.

What the controller sends is not trusted either: a frame that is none is counted and answered with HELLO, a body that
is no JSON object is an error reply's affair (`control`), and neither ends the agent.

A port whose other end is not connected is always "readable" to select (POLLHUP), so it is then watched by time
instead. A connection that ends and comes back between two looks is noticed by its HELLO.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Protocol

from .. import link
from ..errors import AnsweredWrongly, CannotRun, LinkLost, MalformedBytes
from . import sysfs

PORT_NAME = "dcd.agent"
PATIENCE_S = 60.0
"""How long a write that must be out before a doorbell waits for a controller that is gone or does not read."""

_READ_BYTES = 65536
_READS_AT_ONCE = 16
_RECONNECT_POLL_S = 0.005
_STALE_S = 1.0
_HELLO_AGAIN_S = 0.25
_SILENCE_S = 1.0
_MOST_OUTGOING = 8192
_MOST_REQUESTS = 8192


def find_port(root: str, name: str = PORT_NAME) -> str:
    """The device node of the virtio port of that name. Errors: CannotRun."""
    ports = f"{root}/sys/class/virtio-ports"
    seen = {}
    for port in sysfs.names(ports):
        try:
            seen[sysfs.read_text(f"{ports}/{port}/name")] = port
        except CannotRun:
            continue  # the console's own port has no name
    if name not in seen:
        raise CannotRun(f"no virtio port {name!r} among {sorted(seen)}; give the machine one, or name one with --port")
    return f"{root}/dev/{seen[name]}"


class Stream(Protocol):
    """A byte stream that may hang up and come back."""

    def fileno(self) -> int: ...

    def read(self) -> bytes | None:
        """What has arrived; b"" when the other end is gone, None when nothing is there."""
        ...

    def write(self, data: bytes) -> int:
        """How many bytes were taken; 0 when none can be now."""
        ...

    def connected(self) -> bool: ...

    def close(self) -> None: ...


class VirtioPort:
    """A virtio port, opened once and kept open. Errors of the constructor: CannotRun."""

    def __init__(self, path: str) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise CannotRun(f"{path} cannot be opened: {error.strerror}; is another agent running?") from None
        self._poll = select.poll()
        self._poll.register(self._fd, 0)  # POLLHUP is always told

    def fileno(self) -> int:
        return self._fd

    def read(self) -> bytes | None:
        try:
            return os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise LinkLost(f"the port cannot be read: {error.strerror}") from None

    def write(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise LinkLost(f"the port cannot be written: {error.strerror}") from None

    def connected(self) -> bool:
        return not any(event & select.POLLHUP for _, event in self._poll.poll(0))

    def close(self) -> None:
        os.close(self._fd)


class Port:
    """Frames out, requests in. `session` names this run of the agent.

    `put` queues a frame, `flush` returns when all that was queued has left the guest, `receive` waits for requests.
    A controller that knows nothing of this session makes the numbering begin anew: `on_new_controller` is called (to
    introduce the agent again), then the history that nobody acknowledged is put again; replies to requests of the
    controller before are not.
    """

    def __init__(
        self,
        stream: Stream,
        session: str,
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._stream = stream
        self._name = session
        self._generation = 0
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep
        self._sender = link.Sender()
        self._receiver = link.Receiver()
        self._peer: str | None = None
        self._outgoing: list[bytes] = []
        self._requests: list[bytes] = []
        self._open = False
        self._greeted = False
        self._silent = False
        self._hello_at = float("-inf")
        self._partial_since: float | None = None
        self._acknowledged_peer = 0
        self.bad_frames = 0
        self.on_new_controller: Callable[[], None] = lambda: None

    @property
    def up(self) -> bool:
        """Whether a controller is there and has said HELLO."""
        return self._greeted

    # -- out -----------------------------------------------------------------------------------------------------

    def put(self, kind: int, body: bytes) -> None:
        """Queue a frame (link.HISTORY or link.CONTROL). When too much is unacknowledged, wait for the controller.

        Errors: LinkLost (it did not acknowledge within the patience), AskedWrongly (too long).
        """
        received = self._acknowledged_peer = self._receiver.received
        try:
            frame = self._sender.push(kind, body, ack=received)
        except link.Overrun:
            frame = self._push_with_patience(kind, body)
        if self._greeted:
            self._outgoing.append(frame)

    def _push_with_patience(self, kind: int, body: bytes) -> bytes:
        end = self._clock() + self._patience_s
        while True:
            self._service(_RECONNECT_POLL_S)
            if self._greeted:
                self._try_write()
            try:
                return self._sender.push(kind, body, ack=self._receiver.received)
            except link.Overrun:
                if self._clock() >= end:
                    raise

    @property
    def queued(self) -> bool:
        """Whether anything waits for a flush."""
        return bool(self._outgoing)

    def flush(self, *, patience_s: float | None = None) -> None:
        """Return when everything that was put has been taken by the port, through hang-ups if need be.

        Errors: LinkLost when that takes longer than the patience.
        """
        if self._greeted and self._try_write():
            return
        patience_s = self._patience_s if patience_s is None else patience_s
        end = self._clock() + patience_s
        while not self._greeted or self._outgoing:
            if self._clock() >= end:
                raise LinkLost(f"no controller took {len(self._sender)} frames within {patience_s} s")
            self._service(_RECONNECT_POLL_S)
            if self._greeted:
                self._try_write()

    def _try_write(self) -> bool:
        """Write what can be written now; whether that was all."""
        data = b"".join(self._outgoing) if len(self._outgoing) > 1 else self._outgoing[0] if self._outgoing else b""
        done = 0
        while done < len(data):
            took = self._stream.write(data[done:] if done else data)
            if not took:
                break
            done += took
        self._outgoing = [data[done:]] if done < len(data) else []
        return not self._outgoing

    # -- in ------------------------------------------------------------------------------------------------------

    def receive(self, timeout_s: float) -> list[bytes]:
        """The CONTROL bodies that have arrived, waiting at most `timeout_s` for the first. Errors: LinkLost."""
        if not self._requests:
            self._service(timeout_s)
        if self._outgoing and self._greeted:
            self._try_write()
        requests, self._requests = self._requests, []
        return requests

    def acknowledge(self) -> None:
        """Tell the controller what has arrived, if no frame has told it since."""
        if self._greeted and self._receiver.received != self._acknowledged_peer:
            self._acknowledged_peer = self._receiver.received
            self._outgoing.append(link.acknowledgement(self._receiver.received))
            self._try_write()

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def _service(self, timeout_s: float) -> None:
        """One look at the stream: connection, arrived bytes, room to write."""
        if not self._open:
            if not self._stream.connected():
                self._sleep(_RECONNECT_POLL_S)
                return
            self._connect()
        fd = self._stream.fileno()
        waiting = [fd] if self._outgoing else []
        readable, _, _ = select.select([fd], waiting, [], timeout_s)
        if readable:
            self._read()
        elif not self._greeted:
            self._break_silence()
        elif self._partial_since is not None and self._clock() - self._partial_since > _STALE_S:
            self._receiver.reconnect()  # the rest of that frame went with an older connection
            self._partial_since = None
            self._hello()

    def _read(self) -> None:
        for _ in range(_READS_AT_ONCE):
            data = self._stream.read()
            if data is None:
                return
            if not data:
                self._hang_up()
                return
            self._take(data)
            if len(data) < _READ_BYTES:
                return

    def _take(self, data: bytes) -> None:
        found = self._receiver.feed(data)
        self._partial_since = None if found else self._partial_since or self._clock()
        damaged = False
        for frame in found:
            if isinstance(frame, link.BadFrame):
                self.bad_frames += 1
                damaged = True
                continue
            try:
                self._frame(frame)
            except AnsweredWrongly:
                self.bad_frames += 1
        if damaged:
            self._hello()

    def _frame(self, frame: link.Frame) -> None:
        """Errors: AnsweredWrongly for an acknowledgement of what was never sent, or a HELLO that is none."""
        if frame.kind == link.HELLO:
            self._greet(link.read_hello(frame.body))
            return
        if frame.ack > self._sender.acknowledged:
            self._sender.acknowledge(frame.ack)
        if frame.kind == link.HISTORY or len(self._requests) >= _MOST_REQUESTS:
            raise MalformedBytes("a frame that the agent does not take", structure="frame", data=frame.body[:64])
        if frame.kind == link.CONTROL:
            self._requests.append(frame.body)

    # -- connections ---------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._open = True
        self._greeted = False
        self._receiver.reconnect()
        self._partial_since = None
        self._outgoing = []
        self._silent = False
        self._hello_at = self._clock() - _HELLO_AGAIN_S  # the controller's HELLO is answered; its silence not yet

    def _break_silence(self) -> None:
        """A controller that says no HELLO is sent one; if it stays silent, it is taken for the one before."""
        if self._clock() - self._hello_at <= _SILENCE_S:
            return
        if not self._silent:
            self._silent = True
            self._hello()
            return
        self._greeted = True
        self._outgoing = self._sender.resend(self._sender.acknowledged)
        self._try_write()

    def _hang_up(self) -> None:
        self._open = False
        self._greeted = False
        self._outgoing = []

    def _hello(self) -> None:
        self._hello_at = self._clock()
        greeting = link.hello(self._session, self._receiver.received)
        if not self._greeted:
            self._stream.write(greeting)  # if it does not fit, the controller's own HELLO brings another one
        elif len(self._outgoing) < _MOST_OUTGOING:
            self._outgoing.append(greeting)
            self._try_write()

    @property
    def _session(self) -> str:
        return f"{self._name}.{self._generation}"

    def _greet(self, hello: link.Hello) -> None:
        """The controller's HELLO: say again what it has not received."""
        if self._peer is not None and hello.session != self._peer:
            self._begin_anew()
        self._peer = hello.session
        try:
            frames = self._sender.resend(hello.received)
        except AnsweredWrongly:
            self._begin_anew()
            frames = self._sender.resend(0)
        self._greeted = True
        if len(self._outgoing) < _MOST_OUTGOING:
            self._outgoing += frames  # behind the rest of a frame that was begun; what comes twice is dropped there
        if self._clock() - self._hello_at >= _HELLO_AGAIN_S:
            self._hello()
        self._try_write()

    def _begin_anew(self) -> None:
        kept = self._sender.resend(self._sender.acknowledged)
        self._generation += 1
        self._sender = link.Sender()
        self._receiver = link.Receiver()
        self._acknowledged_peer = 0
        self._greeted = False
        self._hello_at = float("-inf")
        self.on_new_controller()
        for frame in kept:
            if frame[2] == link.HISTORY:
                self.put(link.HISTORY, frame[link.HEADER_SIZE :])
