"""The history: everything that happened in a run, in order, one JSON object a line. Version 1.

Line 1 is the header; every other line is the start (`invoke`) or the end (`ok`, `fail`, `info`) of one operation.
The last key of a line is `crc`: CRC-32C, 8 hex digits, of the bytes before `,"crc"`; so the file is plain JSON
lines for any reader, and a flipped byte is told from a rule broken. `history.schema.json` describes the lines.

- `invoke`: it began. `ok`: it took effect. `fail`: answered, and certainly without effect. `info`: nobody knows;
  it may take effect at any time until the end.
- An operation takes effect between its two lines; those that overlap may have happened in either order.
- A process runs one operation at a time; `op` is the line number of the operation's own `invoke`.
- A device may serve several hosts: a value's `host_id` says whose an operation is, the device's first one where it
  is not there.

The module knows nothing of what the operations mean (that is `model/`), and judges nothing (that is `checker/`).
It is not a log: a line is never rewritten, and what is not in it did not happen as far as a verdict goes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from .crc import crc32c
from .errors import AskedWrongly, BadHistory, CannotRun

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1
MAX_LINE_BYTES = 1 << 20
TYPES = ("invoke", "ok", "fail", "info")
MANAGER = ("add", "release", "force", "set_region", "add_reference", "remove_reference")
HOST = ("events", "clear", "answer", "give_back", "extents", "store", "load", "claim", "use", "unuse")
WITNESS = ("block", "fm_extents", "list_tags", "status", "bytes", "sysfs", "trace", "log")
DEVICE = ("reset", "gone")
FUNCTIONS = frozenset(MANAGER + HOST + WITNESS + DEVICE)
BACKENDS = ("qemu", "emulator", "recorded")

_CRC_KEY = b',"crc":"'
_CRC_TAIL = len(_CRC_KEY) + 8 + len(b'"}')
_TYPES = frozenset(TYPES)


class Op(NamedTuple):
    """One line. `n`: line index (the header is 0); `op`: n of the invoke line; `t_ns`: the controller's clock."""

    n: int
    op: int
    process: str
    type: str
    f: str
    t_ns: int
    value: dict[str, Any]


class Header(NamedTuple):
    """Line 1. `devices`: one mapping each, with `name`, `serial` and `regions` as the device reported them (4800h)."""

    backend: str
    qemu: dict[str, Any] | None
    host: dict[str, Any]
    devices: tuple[dict[str, Any], ...]
    seed: int
    scenario: str

    def line(self) -> bytes:
        """The header as it stands in the file, newline included."""
        return seal({"n": 0, "version": VERSION, **self._asdict(), "devices": list(self.devices)})


def seal(line: Mapping[str, Any]) -> bytes:
    """One object as a line of the file: compact ASCII JSON, its CRC as last key, newline."""
    head = encode(line)[:-1]
    return b'%b%b%08x"}\n' % (head, _CRC_KEY, crc32c(head))


def encode(value: Mapping[str, Any]) -> bytes:
    """Compact ASCII JSON: the one encoding, also of a frame's body on the agent link."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def op_line(op: Op) -> bytes:
    """An operation's line, newline included."""
    return seal(op._asdict())


def unseal(line: bytes, number: int) -> dict[str, Any]:
    """The object on a line without its newline, its CRC verified; errors: BadHistory naming line `number`."""
    head = line[:-_CRC_TAIL]
    tail = line[-_CRC_TAIL:]
    if len(line) <= _CRC_TAIL or not tail.startswith(_CRC_KEY) or not tail.endswith(b'"}'):
        raise BadHistory('it does not end with its "crc"; a history line is written whole by dcd', line=number)
    if tail[8:16] != b"%08x" % crc32c(head):
        raise BadHistory(
            f"its crc says {tail[8:16].decode('ascii', 'replace')}, its bytes give {crc32c(head):08x}: "
            "a byte was changed; take the file as the run wrote it",
            line=number,
        )
    try:
        text = (head + b"}").decode()
        found, end = _DECODER.raw_decode(text)
        if end != len(text):
            raise ValueError(f"something follows at byte {end}")
    except (ValueError, RecursionError) as error:
        raise BadHistory(f"not JSON: {error}", line=number) from None
    if not isinstance(found, dict):
        raise BadHistory("not a JSON object", line=number)
    return found


class History:
    """A history being read: `header` at once, then operations by iteration, each checked as it comes.

    `source`: binary file, or any iterable of lines with their newline. `warnings` holds what was noticed and is no
    error (a torn last line: the run was killed). Errors: BadHistory, naming the line. Memory does not grow with the
    file: only operations still open are kept.
    """

    def __init__(self, source: BinaryIO | Iterable[bytes]) -> None:
        self.warnings: list[str] = []
        self._lines = _lines(source)
        self._open: dict[int, tuple[str, str]] = {}
        self._busy: dict[str, int] = {}
        first = next(self._lines, None)
        if first is None:
            raise BadHistory("the history is empty; line 1 must be its header", line=0)
        if not first.endswith(b"\n"):
            raise BadHistory("the header is torn: the run was killed before anything happened", line=1)
        self.header = _header(unseal(first[:-1], 1))

    def __iter__(self) -> Iterator[Op]:
        number, last_t = 1, 0
        for line in self._lines:
            number += 1
            if line.endswith(b"\n"):
                line = line[:-1]
            elif not _whole(line):
                self.warnings.append(f"line {number} is torn and left out: the run ended while it was written")
                return
            found = unseal(line, number)
            op = _op(found, number)
            if op.n != number - 1:
                raise BadHistory(f"n is {op.n} where {number - 1} must follow: a line is missing or twice", line=number)
            if op.t_ns < last_t:
                raise BadHistory(f"time runs backwards: t_ns {op.t_ns} after {last_t}", line=number)
            last_t = op.t_ns
            self._follow(op, number)
            yield op

    @property
    def open_operations(self) -> tuple[int, ...]:
        """The `op` numbers begun and not ended so far."""
        return tuple(self._open)

    def _follow(self, op: Op, number: int) -> None:
        if op.type == "invoke":
            if op.op != op.n:
                raise BadHistory(f"an invoke's op is its own n {op.n}, not {op.op}: an id used twice?", line=number)
            busy = self._busy.get(op.process)
            if busy is not None:
                raise BadHistory(
                    f"process {op.process!r} begins {op.f} while its operation {busy} is open; one at a time",
                    line=number,
                )
            self._busy[op.process] = op.op
            self._open[op.op] = (op.process, op.f)
            return
        began = self._open.pop(op.op, None)
        if began is None:
            raise BadHistory(
                f"{op.type} of operation {op.op}, which is not open: never begun, or ended twice", line=number
            )
        if began != (op.process, op.f):
            raise BadHistory(
                f"operation {op.op} began as {began[1]} of {began[0]!r} and ends as {op.f} of {op.process!r}",
                line=number,
            )
        del self._busy[op.process]


class Writer:
    """A history being written: each line reaches the file in one write, as it happens, and is never touched again.

    `clock_ns` is the controller's monotonic clock; a run killed at any moment leaves whole lines and at most one torn
    one. `listen` adds a callable that sees every line as an `Op`. Errors: CannotRun when the file cannot be written;
    AskedWrongly after its end.
    """

    def __init__(self, path: Path, header: Header, clock_ns: Callable[[], int]) -> None:
        self.path = path
        self.header = header
        self._clock_ns = clock_ns
        self._next = 1
        self._open: dict[int, Op] = {}
        self._listeners: list[Callable[[Op], None]] = []
        self._start_ns = clock_ns()
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotRun(f"cannot write the history {path}: {error.strerror}; choose another --run-dir") from error
        self._write(header.line())

    def invoke(self, process: str, f: str, value: dict[str, Any]) -> int:
        """Append the start of an operation; its number, to `end` it with."""
        op = Op(self._next, self._next, process, "invoke", f, self._now(), value)
        self._open[op.op] = op
        self._append(op)
        return op.op

    def end(self, op: int, kind: str, value: dict[str, Any]) -> Op:
        """Append the end (`ok`, `fail`, `info`) of the operation `op`. Ending what is not open is a KeyError."""
        began = self._open.pop(op)
        line = Op(self._next, op, began.process, kind, began.f, self._now(), value)
        self._append(line)
        return line

    def listen(self, listener: Callable[[Op], None]) -> None:
        """Have `listener` called with every line from now on."""
        self._listeners.append(listener)

    @property
    def open_operations(self) -> Mapping[int, Op]:
        """Operations begun and not ended, by number."""
        return self._open

    def close(self) -> None:
        """End the file; what is open stays open in it, as it is in truth."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _now(self) -> int:
        return self._clock_ns() - self._start_ns

    def _append(self, op: Op) -> None:
        self._next += 1
        self._write(op_line(op))
        for listener in self._listeners:
            listener(op)

    def _write(self, line: bytes) -> None:
        if self._fd < 0:
            raise AskedWrongly(f"the run of {self.path} is over; ask while its guest is there")
        try:
            written = os.write(self._fd, line)
        except OSError as error:
            raise CannotRun(f"cannot write the history {self.path}: {error.strerror}; free some space") from error
        if written != len(line):
            raise CannotRun(f"cannot write the history {self.path}: the disk is full; free some space")


def _lines(source: BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their newline, each at most MAX_LINE_BYTES; errors: BadHistory."""
    if hasattr(source, "readline"):
        number = 0
        while line := source.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise BadHistory(f"longer than {MAX_LINE_BYTES} bytes, which no operation needs", line=number)
            yield line
        return
    for number, line in enumerate(source, 1):
        if len(line) > MAX_LINE_BYTES:
            raise BadHistory(f"longer than {MAX_LINE_BYTES} bytes, which no operation needs", line=number)
        yield line


def _whole(line: bytes) -> bool:
    """Whether a last line without newline is complete all the same."""
    try:
        unseal(line, 0)
    except BadHistory:
        return False
    return True


def _header(found: dict[str, Any]) -> Header:
    if "version" not in found:
        raise BadHistory("no header: line 1 must hold version, backend, devices", line=1)
    if found["version"] != VERSION:
        raise BadHistory(f"version {found['version']!r}; this dcd reads version {VERSION}", line=1)
    header = _HEADER_SHAPE.take(found, 1)
    if header["n"] != 0:
        raise BadHistory(f"the header's n is {header['n']!r}, not 0", line=1)
    if header["backend"] not in BACKENDS:
        raise BadHistory(f"backend {header['backend']!r}; allowed: {', '.join(BACKENDS)}", line=1)
    for device in header["devices"]:
        if not isinstance(device, dict) or not isinstance(device.get("name"), str):
            raise BadHistory("a device has no name", line=1)
        _DEVICE_SHAPE.take(device, 1)
        for region in device["regions"]:
            if not isinstance(region, dict):
                raise BadHistory("a region is no object", line=1)
            _REGION_SHAPE.take(region, 1)
    names = [device["name"] for device in header["devices"]]
    if len(set(names)) != len(names):
        raise BadHistory(f"two devices of one name: {', '.join(names)}", line=1)
    return Header(
        backend=header["backend"],
        qemu=header["qemu"],
        host=header["host"],
        devices=tuple(header["devices"]),
        seed=header["seed"],
        scenario=header["scenario"],
    )


def _op(found: dict[str, Any], number: int) -> Op:
    try:
        n, op, process, kind, f, t_ns, value = (
            found["n"], found["op"], found["process"], found["type"], found["f"], found["t_ns"], found["value"],
        )  # fmt: skip
    except KeyError as error:
        raise BadHistory(f"the key {error} is missing", line=number) from None
    if not (type(n) is type(op) is type(t_ns) is int and type(process) is str and type(value) is dict):
        raise BadHistory("n, op and t_ns are whole numbers, process a string, value an object", line=number)
    if kind not in _TYPES:
        raise BadHistory(f"type {kind!r}; allowed: {', '.join(TYPES)}", line=number)
    if f not in FUNCTIONS:
        raise BadHistory(f"f {f!r} is no operation of version {VERSION}", line=number)
    return Op(n, op, process, kind, f, t_ns, value)


class _Shape(NamedTuple):
    """Which keys an object of the header must have, and of which types."""

    what: str
    keys: dict[str, tuple[type, ...]]

    def take(self, found: dict[str, Any], number: int) -> dict[str, Any]:
        for key, types in self.keys.items():
            if key not in found:
                raise BadHistory(f"the {self.what} has no {key!r}", line=number)
            if type(found[key]) not in types:
                allowed = " or ".join("null" if t is type(None) else t.__name__ for t in types)
                raise BadHistory(f"the {self.what}'s {key!r} is {found[key]!r}; it must be {allowed}", line=number)
        return found


_HEADER_SHAPE = _Shape(
    "header",
    {
        "n": (int,), "backend": (str,), "qemu": (dict, type(None)), "host": (dict,), "devices": (list,),
        "seed": (int,), "scenario": (str,),
    },
)  # fmt: skip
_DEVICE_SHAPE = _Shape("device", {"name": (str,), "serial": (int,), "regions": (list,)})
_REGION_SHAPE = _Shape("region", {"index": (int,), "base": (int,), "length": (int,), "block_size": (int,)})


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)
"""One for all lines: json.loads() with an option makes a decoder each time."""
