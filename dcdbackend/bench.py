"""The plug points of a run: how capacity is injected, who answers, who witnesses.

A session knows these Protocols and nothing else; adding an injector, a host or a witness is one class that fits one of
them and one row in the registry at the end. All of them speak the values of the history (`history.py`,
`history.schema.json`), so that what is sent and what is recorded cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from .errors import AskedWrongly
from .units import format_size, parse_size

Value = dict[str, Any]

Via = Literal["auto", "qmp", "fm"]
"""Who injects: QMP, the fabric manager, or QMP and FM-API for what has a tag (`auto`)."""


class Span(NamedTuple):
    """Capacity inside a region: both in bytes, the offset from the region's base. Written `0+256M`.

    `tag` (32 hex digits), `sequence`: of this extent alone, which only some injectors can send.
    """

    offset_bytes: int
    length_bytes: int
    tag: str | None = None
    sequence: int = 0

    def __str__(self) -> str:
        tag = f" tag {self.tag}" if self.tag else ""
        sequence = f" sequence {self.sequence}" if self.sequence else ""
        return f"{format_size(self.offset_bytes)}+{format_size(self.length_bytes)}{tag}{sequence}"


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


@runtime_checkable
class Manager(Injector, Protocol):
    """An injector that speaks as a fabric manager: it knows what the device serves, and can send any bytes."""

    async def check(self, f: str, value: Value) -> None:
        """Before `add` or `release`, with `raw` as well: nothing was sent yet. Errors: CannotRun, AskedWrongly."""
        ...

    def said(self, f: str, payload: bytes) -> Value:
        """The invoke value of an `add` or `release` that is these bytes, as far as they say one; they are its `raw`."""
        ...

    async def send(self, f: str, value: Value) -> bytes:
        """Send the bytes in `raw` as they are; those of an answer that says success. Errors: as `add`."""
        ...

    async def set_region(self, value: Value) -> None:
        """Set a region up anew, by the invoke value of the history's `set_region`. Errors: as `add`."""
        ...


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


class Kernel(Protocol):
    """A kernel under test, as the files of sysfs, its trace and its log show it: one method for each request.

    Every method returns a Value. What the kernel itself refused is an answer, not an error: `error` is then what it
    gave ("-EBUSY"), and "" where it took it. Errors: AnsweredWrongly, CannotRun, Unserved, LinkLost, TimedOut,
    MachineGone.
    """

    name: str
    simulated: bool
    sends_raw: bool
    """Whether it sends raw mailbox commands for its user (CXL_MEM_RAW_COMMANDS): only then `listed` is asked."""

    async def survey(self) -> Value:
        """`generation` (`found`, `evidence`), `mode`, `memdevs`, `roots`, `missing`, `kernel` (its release)."""
        ...

    async def load(self, names: Sequence[str]) -> Value:
        """Load modules: `loaded`, `builtin`, `absent`, `failed` (name to errno)."""
        ...

    async def unload(self, names: Sequence[str]) -> Value: ...

    async def revive(self, device: str) -> Value:
        """After a reset of the machine: whatever the memory device needs before its driver takes it again."""
        ...

    async def make_region(self, device: str, size: int, mode: str | None = None) -> Value:
        """A region over dynamic capacity, bound: `region`, `start` (DPA), `length`, `hpa`."""
        ...

    async def destroy_region(self, region: str) -> Value: ...

    async def sight(self, region: str) -> Value:
        """What sysfs shows of a region, as the history's `sysfs` has it; `odd`: what was no one's expectation.

        `tools`: what `cxl list` and `daxctl list` show of it, where the guest has them.
        """
        ...

    async def claim(self, dax: str, text: str) -> Value: ...

    async def create(self, region: str) -> Value: ...

    async def resize(self, dax: str, size: int) -> Value: ...

    async def bind(self, dax: str, driver: str) -> Value: ...

    async def unbind(self, dax: str) -> Value: ...

    async def online(self, dax: str) -> Value: ...

    async def offline(self, dax: str) -> Value: ...

    async def map(self, dax: str) -> Value: ...

    async def unmap(self, dax: str) -> Value: ...

    async def read(self, dax: str, offset: int, length: int) -> Value:
        """`data` (hex), through /dev/daxN.M."""
        ...

    async def write(self, dax: str, offset: int, data: bytes) -> Value: ...

    async def trace(self) -> Value:
        """What is new of `cxl_dynamic_capacity`: `events` (with `device`), `lost`."""
        ...

    async def log(self) -> Value:
        """What is new in the log: `lines` (`t_ns`, `text`, `device` where it is known), `lost`."""
        ...

    async def wait(self, timeout_s: float) -> None:
        """Until there may be something new in trace or log, at most so long."""
        ...

    def now_s(self) -> float:
        """The time by which waiting for it is measured, s."""
        ...

    async def listed(self, device: str, count: int, start: int) -> Value:
        """4801h as a raw command: `total`, `generation`, `extents`; `error` where the kernel allows none."""
        ...


class Witness(Protocol):
    """An independent way to see a state. `f` is its operation in the history; `ask` gives the completion's value."""

    name: str
    f: str

    async def ask(self, value: Value) -> Value: ...


@runtime_checkable
class Foreseeing(Protocol):
    """A witness that can prepare for a question which will be asked soon, so that it is answered sooner."""

    def foresee(self, value: Value) -> None:
        """Like `ask`, without asking: nothing may come of it. One question at a time; it need never be asked."""
        ...


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


SELECTION_POLICIES = ("free", "contiguous", "prescriptive", "enable-shared-access")
"""How a device may be asked to choose what it offers (`add`'s `policy`)."""
REMOVAL_POLICIES = ("tag-based", "prescriptive")
"""How it may be asked to choose what is released (`release`'s `policy`). Source: CXL r3.1 7.6.7.6.5 and 7.6.7.6.6."""

INJECTORS: Mapping[str, Row] = {
    "qmp": Row("cxl-add-dynamic-capacity and cxl-release-dynamic-capacity", "QEMU >= 9.1; untagged extents only"),
    "fm": Row("5604h and 5605h through the switch's mailbox", "topology switch, QEMU >= 11.1; tags and sequences"),
}
HOSTS: Mapping[str, Row] = {
    "U": Row(
        "the agent answers through the device's mailbox by a policy",
        "any kernel that leaves the device alone",
    ),
    "kernel": Row("the kernel's own Dynamic Capacity code, under test", "a kernel that has it (dcd regress --kernel)"),
    "A, B-rfc, v10, v11, C": Row("a simulated kernel of that generation, one of the permitted answers", "the emulator"),
}
WITNESSES: Mapping[str, Row] = {
    "block": Row("the block-state question over QMP", "QEMU >= 9.1"),
    "fm_extents": Row("the device's list through the switch, 5603h", "topology switch, QEMU >= 11.1"),
    "list_tags": Row("the tags that the device knows, 5608h", "the emulator"),
    "bytes": Row("the memory backend's bytes", "a file behind the device"),
    "extents": Row("the device's list through the host, 4801h", "host U, or a kernel that allows raw commands"),
    "sysfs, trace, log": Row("what the kernel shows of its regions, of the records it read and did", "a kernel"),
}
