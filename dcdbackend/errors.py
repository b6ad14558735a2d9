"""Every error that dcdbackend raises, in one tree.

    DcdError                      exit  what it says
    ├── AskedWrongly                2   we were given something that cannot be done; nothing was sent
    │   └── BadHistory              2   a history line that is no history (carries the line number)
    ├── CannotRun                   3   this machine or this QEMU cannot do it (carries the ways out)
    │   └── Unserved                3   this bench's host, injector or device has no such thing: a scenario is skipped
    ├── AnsweredWrongly             1   the other side answered, and the answer is not what the format allows
    │   ├── MalformedBytes          1   bytes that do not parse (carries them, the field and the offset)
    │   └── Refused                 1   the device refused a manager's command (carries the reply)
    └── OutcomeUnknown              4   no answer came; whether it took effect is not known
        ├── TimedOut                4   a bounded wait ended first
        ├── LinkLost                4   the connection to the guest's agent ended (link.Overrun: it does not read)
        └── MachineGone             4   QEMU ended while it was needed (carries how)

A mismatch with the reference model is not here: it is a value with an explanation (`model.Violation`).
Anything that is not a DcdError and reaches the top is our own fault: exit code 70.
"""

from __future__ import annotations


class DcdError(Exception):
    """Root of the tree. `message` is one line: what was given, what is allowed, what to do.

    `sent` and `received` carry the exchange that failed, as text or bytes, where there was one.
    """

    exit_code = 70

    def __init__(self, message: str, *, sent: object = None, received: object = None) -> None:
        super().__init__(message)
        self.message = message
        self.sent = sent
        self.received = received

    def __str__(self) -> str:
        parts = [self.message]
        if self.sent is not None:
            parts.append(f"sent: {_shown(self.sent)}")
        if self.received is not None:
            parts.append(f"received: {_shown(self.received)}")
        return "; ".join(parts)


class AskedWrongly(DcdError):
    """The request itself is wrong; nothing was sent."""

    exit_code = 2


class BadHistory(AskedWrongly):
    """A line of a history that cannot be read. `line` counts from 1; 0 means the file as a whole."""

    def __init__(self, message: str, *, line: int) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


class CannotRun(DcdError):
    """The environment lacks what is needed: QEMU, a kernel, apt, rights, space."""

    exit_code = 3


class Unserved(CannotRun):
    """The bench that was chosen has no way to do it; another one has. A scenario that asks for it is skipped."""


class AnsweredWrongly(DcdError):
    """The device, the host or QEMU answered in a way that its format does not allow."""

    exit_code = 1


class MalformedBytes(AnsweredWrongly):
    """Bytes that are not the structure they should be. They travel on as `received`."""

    def __init__(self, message: str, *, structure: str, data: bytes, offset_bytes: int = 0) -> None:
        super().__init__(f"{structure}: {message} (at byte {offset_bytes} of {len(data)})", received=data)
        self.structure = structure
        self.data = data
        self.offset_bytes = offset_bytes


class Refused(AnsweredWrongly):
    """The device refused a command: certainly no effect. `reason` is its own wording; `rc` its return code, if any."""

    rc: int | None = None

    def __init__(self, message: str, *, reason: str, sent: object = None, received: object = None) -> None:
        super().__init__(message, sent=sent, received=received)
        self.reason = reason


class OutcomeUnknown(DcdError):
    """No answer: the effect may or may not have happened."""

    exit_code = 4


class TimedOut(OutcomeUnknown):
    """A bounded wait ended before the answer came."""


class LinkLost(OutcomeUnknown):
    """The agent's link ended."""


class MachineGone(OutcomeUnknown):
    """QEMU ended while it was needed."""


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 64 else f"{value[:64].hex()}... ({len(value)} bytes)"
    text = str(value)
    return text if len(text) <= 400 else f"{text[:400]}..."
