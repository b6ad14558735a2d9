"""The agent's link: bytes in, frames out, and back; no I/O, no clock.

Frame: a header of 20 bytes, little-endian, then the body.

    offset  size  field
    0       2     magic     DCD1h: the bytes D1 DC
    2       1     kind      0 HISTORY, 1 CONTROL, 2 ACK, 3 HELLO
    3       1     flags     0; kept, no meaning yet
    4       4     sequence  1, 2, 3, ... for HISTORY and CONTROL; 0 for ACK and HELLO
    8       4     ack       the last sequence number that the sender of this frame has received in order
    12      4     length    of the body, at most 65536
    16      4     crc       CRC-32C of the header with this field 0, then the body

`Sender` numbers what goes out and keeps it until it is acknowledged. `Receiver` finds frames in whatever
arrives. The rules between them:

- In order, once: a HISTORY or CONTROL frame is handed out only when its number is the next one. A lower one
  is a duplicate and dropped without a word; a higher one means that a frame was lost: it is dropped, and
  reported as a gap. ACK and HELLO stand outside the order.
- After a (re)connection both sides call `Receiver.reconnect`, send HELLO, and answer the other's HELLO with
  `Sender.resend(received)`. The same HELLO asks for a repeat in mid-connection: send one for each `feed`
  that returned a BadFrame. Together with the order above, nothing is lost and nothing comes twice.
- Resynchronisation: bytes that are no frame are skipped up to the next magic, and each run of them is
  reported once, at its first byte. A good frame behind them is always found: a header that turns out to be
  false costs its own two bytes only, never the bytes that its length claimed. What it can cost is time,
  because the false frame's end must arrive first: a good frame is handed out at the latest when MAX_FRAME
  bytes have arrived from its first one on. Bytes whose CRC fits are a frame, though nobody sent them so (1 in
  2**32; or a torn frame whose lost end happens to stand at the start of the next): that next one is lost
  then, and is asked for again as any other.

Bounds: a Receiver keeps less than MAX_FRAME bytes between calls; a Sender keeps what its constructor says.
Work is bounded too, for the guest is not trusted: false headers may make the Receiver check 4 MiB, and 8 bytes
for each byte that came before them; further ones are skipped with all that they claim.
This is not a transport, and it knows no JSON but HELLO's: what a body means is for `history` and the agent.
"""

from __future__ import annotations

import json
import struct
from collections import deque
from typing import NamedTuple

from .crc import crc32c
from .errors import AnsweredWrongly, AskedWrongly, LinkLost, MalformedBytes

HISTORY = 0
CONTROL = 1
ACK = 2
HELLO = 3

MAGIC = 0xDCD1
HEADER_SIZE = 20
MAX_BODY = 65536
MAX_FRAME = HEADER_SIZE + MAX_BODY
MAX_SEQUENCE = (1 << 32) - 1
MAX_SESSION = 128  # characters of a session's name
MAX_WASTE = 4 << 20  # bytes checked in vain that are always allowed
WASTE_PER_BYTE = 8

_HEADER = struct.Struct("<HBBIIII")
_CRC = struct.Struct("<I")
_CRC_AT = 16
_NO_CRC = bytes(4)
_MAGIC_BYTES = struct.pack("<H", MAGIC)


class Overrun(LinkLost):
    """Too much is unacknowledged: the other side does not read. Nothing was queued."""


class Frame(NamedTuple):
    """One good frame. `kind` is HISTORY, CONTROL, ACK or HELLO."""

    kind: int
    flags: int
    seq: int
    ack: int
    body: bytes


class BadFrame(NamedTuple):
    """Something on the link that is no frame to act on; a value, because a bad peer is expected.

    reason: "garbage" (no header here), "length" (a header that claims more than MAX_BODY), "crc", "form" (a
        whole frame that the format forbids), "gap" (a frame is missing before this one).
    offset: of its first byte in the stream, counted since the last (re)connection.
    text: one line for a log. data: the first 20 bytes.
    """

    reason: str
    offset: int
    text: str
    data: bytes


class Hello(NamedTuple):
    """HELLO's body: who speaks, and the last sequence number that it has received in order."""

    session: str
    received: int


def encode(kind: int, body: bytes, *, seq: int = 0, ack: int = 0, flags: int = 0) -> bytes:
    """One frame. Only `Sender.push` gives sequence numbers; errors: AskedWrongly for a body over MAX_BODY."""
    if len(body) > MAX_BODY:
        raise AskedWrongly(f"a frame's body of {len(body)} bytes; at most {MAX_BODY} are allowed; split it")
    unsealed = _HEADER.pack(MAGIC, kind, flags, seq, ack, len(body), 0)
    return b"".join((unsealed[:_CRC_AT], _CRC.pack(crc32c(unsealed + body)), body))


def acknowledgement(received: int) -> bytes:
    """An ACK frame: everything up to `received` has arrived."""
    return encode(ACK, b"", ack=received)


def hello(session: str, received: int) -> bytes:
    """A HELLO frame. `session` names this run of this side: under another name its numbers began anew."""
    body = json.dumps({"session": session, "received": received}, separators=(",", ":"))
    return encode(HELLO, body.encode("ascii"), ack=received)


def read_hello(body: bytes) -> Hello:
    """What a HELLO's body says; errors: MalformedBytes."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise MalformedBytes("is not a JSON object", structure="HELLO", data=body)
    session, received = value.get("session"), value.get("received")
    if not isinstance(session, str) or not 0 < len(session) <= MAX_SESSION:
        raise MalformedBytes(f'"session" is not a name of 1 to {MAX_SESSION} characters', structure="HELLO", data=body)
    if type(received) is not int or not 0 <= received <= MAX_SEQUENCE:
        raise MalformedBytes('"received" is not a sequence number', structure="HELLO", data=body)
    return Hello(session, received)


class Sender:
    """Numbers frames from 1 and keeps each until the other side has acknowledged it.

    `sent` is the last number given, `acknowledged` the last one that need not be kept.
    """

    def __init__(self, *, max_frames: int = 4096, max_bytes: int = 4 << 20) -> None:
        self.sent = 0
        self.acknowledged = 0
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._max_frames = max_frames
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        """How many frames are kept."""
        return len(self._kept)

    def push(self, kind: int, body: bytes, *, ack: int = 0) -> bytes:
        """The next frame, ready to write; it is kept. `ack`: the receiver's `received`, so ACKs can be rare.

        Errors: Overrun when the bounds are reached (nothing is queued then: wait for an ACK, or give the link
        up), AskedWrongly for another kind than HISTORY and CONTROL, or a body over MAX_BODY.
        """
        if kind != HISTORY and kind != CONTROL:
            raise AskedWrongly(f"kind {kind} has no sequence number; push takes HISTORY (0) and CONTROL (1)")
        size = HEADER_SIZE + len(body)
        if len(self._kept) >= self._max_frames or self._kept_bytes + size > self._max_bytes:
            raise Overrun(
                f"{len(self._kept)} frames of {self._kept_bytes} bytes wait for an acknowledgement since "
                f"{self.acknowledged}; at most {self._max_frames} frames and {self._max_bytes} bytes may; "
                "the other side does not read"
            )
        if self.sent == MAX_SEQUENCE:
            raise Overrun(f"sequence number {MAX_SEQUENCE} was the last; start a new session")
        frame = encode(kind, body, seq=self.sent + 1, ack=ack)
        self.sent += 1
        self._kept.append(frame)
        self._kept_bytes += size
        return frame

    def acknowledge(self, seq: int) -> None:
        """Forget what has arrived, up to `seq`. An old acknowledgement changes nothing.

        Errors: AnsweredWrongly when the number was never sent: the other side speaks of another session.
        """
        if seq > self.sent:
            raise AnsweredWrongly(f"frame {seq} is acknowledged; the last one sent is {self.sent}")
        for _ in range(seq - self.acknowledged):
            self._kept_bytes -= len(self._kept.popleft())
            self.acknowledged += 1

    def resend(self, after_seq: int) -> list[bytes]:
        """Every frame after `after_seq` (a HELLO's `received`), in order; it acknowledges the others.

        Errors: AnsweredWrongly when `after_seq` was never sent, or when frames after it were acknowledged
        before and are gone: one side has lost its state, and only a new session can help.
        """
        self.acknowledge(after_seq)
        if after_seq < self.acknowledged:
            raise AnsweredWrongly(
                f"frames after {after_seq} are asked for again; those up to {self.acknowledged} are gone"
            )
        return list(self._kept)


class Receiver:
    """Frames out of a stream of bytes that may be cut, doubled or damaged anywhere. Never raises.

    `received` is the last number taken in order; `duplicates`, `missed` and `skipped_bytes` count drops.
    """

    def __init__(self) -> None:
        self.received = 0
        self.duplicates = 0
        self.missed = 0
        self.skipped_bytes = 0
        self._buffer = bytearray()
        self._need = HEADER_SIZE  # look again when so many bytes are there
        self._offset = 0  # of the buffer's first byte in the stream
        self._in_garbage = False
        self._gap = 0  # frames dropped since the last one in order
        self._waste = 0  # bytes checked in vain

    def reconnect(self) -> None:
        """A new connection: its first byte begins a frame, so half a frame of the old one is dropped."""
        self.skipped_bytes += len(self._buffer)
        self._buffer.clear()
        self._need = HEADER_SIZE
        self._offset = 0
        self._in_garbage = False
        self._gap = 0
        self._waste = 0

    def feed(self, data: bytes) -> list[Frame | BadFrame]:
        """What these bytes complete, in order. How the stream is cut into calls changes nothing."""
        buffer = self._buffer
        buffer += data
        end = len(buffer)
        if end < self._need:
            return []
        found: list[Frame | BadFrame] = []
        at = 0
        need = HEADER_SIZE
        while end - at >= HEADER_SIZE:
            magic, kind, flags, seq, ack, length, crc = _HEADER.unpack_from(buffer, at)
            if magic != MAGIC or kind > HELLO:
                at = self._skip(found, at, at + 1, "garbage")
                continue
            if length > MAX_BODY:
                at = self._skip(found, at, at + 1, "length")
                continue
            stop = at + HEADER_SIZE + length
            if stop > end:
                need = stop - at
                break
            body = bytes(buffer[at + HEADER_SIZE : stop])
            if crc32c(bytes(buffer[at : at + _CRC_AT]) + _NO_CRC + body) != crc:
                self._waste += length
                spent = self._waste > MAX_WASTE + WASTE_PER_BYTE * (self._offset + at)
                at = self._skip(found, at, stop if spent else at + 1, "crc")
                continue
            self._in_garbage = False
            self._take(found, Frame(kind, flags, seq, ack, body), at)
            at = stop
        del buffer[:at]
        self._offset += at
        self._need = need
        return found

    def _skip(self, found: list[Frame | BadFrame], at: int, least: int, reason: str) -> int:
        """Where the next frame may begin, `least` or later. A run's first byte is reported, all are counted."""
        if not self._in_garbage:
            self._in_garbage = True
            found.append(self._bad(reason, at, _TEXT[reason]))
        buffer = self._buffer
        after = buffer.find(_MAGIC_BYTES, least)
        if after < 0:
            after = max(least, len(buffer) - (buffer[-1] == _MAGIC_BYTES[0]))
        self.skipped_bytes += after - at
        return after

    def _take(self, found: list[Frame | BadFrame], frame: Frame, at: int) -> None:
        """Hands out a whole frame if it has its place in the order."""
        kind, _flags, seq, _ack, body = frame
        if kind in (ACK, HELLO):
            if seq or (body and kind == ACK):
                found.append(self._bad("form", at, "an ACK or HELLO with a sequence number, or an ACK with a body"))
            else:
                found.append(frame)
        elif seq == self.received + 1:
            self.received = seq
            self._gap = 0
            found.append(frame)
        elif not seq:
            found.append(self._bad("form", at, "a HISTORY or CONTROL frame without a sequence number"))
        elif seq <= self.received:
            self.duplicates += 1
        else:
            self.missed += 1
            self._gap += 1
            if not self._gap & (self._gap - 1):  # the 1st, 2nd, 4th, 8th ...: a lost HELLO is asked for again
                text = f"frame {seq} came where {self.received + 1} was due; it is dropped, ask for them again"
                found.append(self._bad("gap", at, text))

    def _bad(self, reason: str, at: int, text: str) -> BadFrame:
        return BadFrame(reason, self._offset + at, text, bytes(self._buffer[at : at + HEADER_SIZE]))


_TEXT = {
    "garbage": "bytes that begin no frame",
    "length": f"a frame's header that claims more than {MAX_BODY} bytes",
    "crc": "a frame whose CRC-32C does not fit its bytes",
}
