"""The primary mailbox of a CXL device: one command at a time, through its registers (CXL r3.1 8.2.8.4).

A command goes in two steps, so that whoever writes a history can stand between them:

    sent = mailbox.load(opcode, payload)    what the registers hold now, read back; nothing has happened yet
    reply = mailbox.ring()                  the doorbell; waits for it to clear, within a bound

Any payload that fits can be sent, sense or nonsense: judging it is not the mailbox's affair. The switch mailbox of
a fabric manager is the same registers elsewhere. No interrupts, and no background commands: return code 1 is handed
on like any other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from ..errors import AnsweredWrongly, AskedWrongly, TimedOut
from .registers import Registers

TIMEOUT_S = 2.0
"""The primary mailbox must end a command within two seconds (CXL r3.1 8.2.8.4)."""

_CONTROL = 0x04
_COMMAND = 0x08
_STATUS = 0x10
_PAYLOAD = 0x20
_DOORBELL = 1
_SPINS = 64
_PAUSE_S = 0.0002


class Sent(NamedTuple):
    """What the command and payload registers hold before the doorbell."""

    opcode: int
    payload: bytes


class Reply(NamedTuple):
    """What came back: return code (0 is success) and payload."""

    rc: int
    payload: bytes


class Mailbox:
    """`registers` from offset `at` on. `payload_size` in bytes. Errors of the constructor: AnsweredWrongly."""

    def __init__(
        self,
        registers: Registers,
        at: int,
        *,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._registers = registers
        self._control = at + _CONTROL
        self._command = at + _COMMAND
        self._status = at + _STATUS
        self._payload = at + _PAYLOAD
        self._timeout_s = timeout_s
        self._clock = clock
        self._sleep = sleep
        self.loaded: Sent | None = None
        self._rung = True  # whoever had the mailbox before may have left a command running
        self.payload_size = 1 << (registers.read4(at) & 0x1F)
        if at % 8 or not 256 <= self.payload_size <= 1 << 20 or self._payload + self.payload_size > registers.size:
            raise AnsweredWrongly(
                f"a mailbox at 0x{at:x} with a payload of {self.payload_size} bytes; 256 to 1 MiB, "
                f"inside the block of {registers.size} bytes, are allowed"
            )

    def load(self, opcode: int, payload: bytes = b"") -> Sent:
        """Put a command into the registers and read it back.

        Errors: AskedWrongly (it does not fit), TimedOut (an earlier command still runs), AnsweredWrongly (the
        registers do not hold what was written: nothing was rung).
        """
        length = len(payload)
        if length > self.payload_size or not 0 <= opcode <= 0xFFFF:
            raise AskedWrongly(
                f"command {opcode:04x}h with {length} bytes; the mailbox takes 16 bits and {self.payload_size} bytes"
            )
        registers = self._registers
        self.loaded = None
        if self._rung:
            self._wait("an earlier command")
        if length:
            registers.write_block(self._payload, payload)
        registers.write8(self._command, opcode | length << 16)
        command = registers.read8(self._command)
        there = command >> 16 & 0x1FFFFF
        if command & 0xFFFF != opcode or there > self.payload_size:
            raise AnsweredWrongly(
                f"the command register reads 0x{command:x} after {opcode:04x}h with {length} bytes was written",
                sent=payload,
            )
        self.loaded = Sent(opcode, registers.read_block(self._payload, there) if there else b"")
        return self.loaded

    def ring(self) -> Reply:
        """Ring the doorbell for what was loaded and take the answer.

        Errors: TimedOut (outcome unknown), AnsweredWrongly (a reply longer than the payload registers).
        """
        registers = self._registers
        self._rung = True
        self.loaded = None
        registers.write4(self._control, _DOORBELL)
        if registers.read4(self._control) & _DOORBELL:
            self._wait("the command")
        self._rung = False
        rc = registers.read8(self._status) >> 32 & 0xFFFF
        length = registers.read8(self._command) >> 16 & 0x1FFFFF
        if length > self.payload_size:
            raise AnsweredWrongly(
                f"return code {rc:02x}h with a payload of {length} bytes; the registers hold {self.payload_size}"
            )
        return Reply(rc, registers.read_block(self._payload, length) if length else b"")

    def command(self, opcode: int, payload: bytes = b"") -> Reply:
        """Load and ring, for commands that nobody records."""
        self.load(opcode, payload)
        return self.ring()

    def _wait(self, what: str) -> None:
        """Until the doorbell is clear. Errors: TimedOut."""
        registers, control = self._registers, self._control
        for _ in range(_SPINS):
            if not registers.read4(control) & _DOORBELL:
                self._rung = False
                return
        end = self._clock() + self._timeout_s
        while registers.read4(control) & _DOORBELL:
            if self._clock() >= end:
                raise TimedOut(f"the doorbell is still set {self._timeout_s} s after {what}")
            self._sleep(_PAUSE_S)
        self._rung = False
