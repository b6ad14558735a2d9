"""The plug points of a run: how capacity is injected, who answers, who witnesses.

A session knows these Protocols and nothing else; adding an injector, a host or a witness is one class that fits one of
them and one row in the registry at the end. All of them speak the values of the history (`history.py`,
`history.schema.json`), so that what is sent and what is recorded cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from .errors import AskedWrongly
from .units import format_size, parse_size

Value = dict[str, Any]


class Span(NamedTuple):
    """Capacity inside a region: both in bytes, the offset from the region's base. Written `0+256M`."""

    offset_bytes: int
    length_bytes: int

    def __str__(self) -> str:
        return f"{format_size(self.offset_bytes)}+{format_size(self.length_bytes)}"


def parse_span(text: str) -> Span:
    """`64M+256M` as a Span. Errors: AskedWrongly."""
    offset, plus, length = text.partition("+")
    if not plus:
        raise AskedWrongly(f"extent {text!r} is not understood; write OFFSET+LENGTH, like 0+256M")
    return Span(parse_size(offset, what="extent offset"), parse_size(length, what="extent length"))


class Injector(Protocol):
    """A manager's way to the device. Success says only that the event was queued.

    `value` is the invoke value of the history's `add` or `release`. Errors: Refused (certainly no effect),
    OutcomeUnknown.
    """

    name: str
    serves: frozenset[str]

    async def add(self, value: Value) -> None: ...

    async def release(self, value: Value) -> None: ...


class Host(Protocol):
    """Who answers. What it does reaches the history by itself; these are the requests that a scenario makes of it."""

    name: str

    async def policy(self, device: str, *, add: Value, release: Value, breaks: str | None = None) -> None:
        """How it answers from now on. Errors: AskedWrongly for a policy that it does not have."""
        ...

    async def do(self, op: int, process: str, f: str, value: Value) -> None:
        """Have it carry out the operation whose invoke line is `op`; the end comes by the link. Errors: LinkLost."""
        ...

    async def reset(self) -> None:
        """Reset the machine that the host is; back when it answers again. Errors: TimedOut, MachineGone."""
        ...

    async def judgement(self) -> Value:
        """The host's own verdict so far: `device`, `host` (clause to counts) and `findings`."""
        ...


class Witness(Protocol):
    """An independent way to see a state. `f` is its operation in the history; `ask` gives the completion's value."""

    name: str
    f: str

    async def ask(self, value: Value) -> Value: ...


class Feed(Protocol):
    """What the host side writes into the history by itself."""

    def drain(self) -> None:
        """Have everything that has already arrived in the history, now."""
        ...

    async def until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for `done()`; False when the time is over. Errors: MachineGone."""
        ...


class Backend(Protocol):
    """The bytes behind a device, at DPA, seen and written from the host side. Errors: AskedWrongly outside it."""

    def read(self, device: str, dpa: int, length_bytes: int) -> bytes: ...

    def write(self, device: str, dpa: int, data: bytes) -> None: ...


class Row(NamedTuple):
    """A row of the registry: what it is and what it needs."""

    what: str
    needs: str


INJECTORS: Mapping[str, Row] = {
    "qmp": Row("cxl-add-dynamic-capacity and cxl-release-dynamic-capacity", "QEMU >= 9.1; untagged extents only"),
}
HOSTS: Mapping[str, Row] = {
    "U": Row(
        "the agent answers through the device's mailbox by a policy",
        "any kernel that leaves the device alone",
    ),
}
WITNESSES: Mapping[str, Row] = {
    "block": Row("the block-state question over QMP", "QEMU >= 9.1"),
    "bytes": Row("the memory backend's bytes", "a file behind the device"),
    "extents": Row("the device's list through the host, 4801h", "host U"),
}
