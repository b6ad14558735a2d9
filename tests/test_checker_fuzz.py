"""checker: good histories, damaged: an error that names the line, or a verdict that was earned; never a traceback.

Damage of two kinds: to the bytes of the file (flips, lines lost, exchanged, doubled, the file cut), which the CRC and
the numbering must catch; and to values in lines that are sealed again, which only the checker can catch.
"""

from __future__ import annotations

import copy
import io
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kernel_history
from host_history import BLIND
from host_history import history as hosts
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_record import read

from dcdbackend.checker import Verdict, check
from dcdbackend.checker.notation import header, parse
from dcdbackend.errors import BadHistory
from dcdbackend.history import Header, History, Op, op_line, seal

SCRIPT = """
add 0+4M,8M+2M; events; accept 0+4M,8M+2M; clear; list; block 0; store 0 beef; load 0+2; bytes 0+2; events
release? 8M+2M; events; release 8M+2M; clear; list; block 8M; add 16M+2M via=fm; events; refuse; clear; block 16M
"""


def device_lines() -> list[bytes]:
    """A good history of a device and host U."""
    head = header()
    return [head.line(), *[op_line(op) for op in parse(SCRIPT, head=head)]]


LINUX = {
    "host": ("v11", "region 0+1G; add 0+4M/a 8M+4M/a; claim dax0.0 a; size dax0.0 0; release 0+4M/a"),
    "policy": (
        "C release-remembered",
        "lab sysram; policy region0 hotplug online; lab devdax region1 @mem0.1; add 0+4M/a 8M+4M/a; hold dax0.0; "
        "hotplug dax0.0 offline; release 0+4M/a; add 64M+4M/a @mem0.1; letgo dax0.0; unbind region1",
    ),
    "ways": (
        "A interleave map-to-extents",
        "make region0 0+1G ways; bind region0; pages; add 0+4M; add 0+4M @mem1; choose dax0.0 0; release 0+4M @mem1",
    ),
}
"""Good histories of a Linux host alone: options and script."""


def host_lines(name: str) -> list[bytes]:
    """Its lines."""
    head, ops = hosts(*LINUX[name])
    return [head.line(), *[op_line(op) for op in ops]]


@cache
def good(name: str) -> tuple[bytes, ...]:
    """The lines of a good history: device, one of LINUX, or a recorded kernel with its device."""
    if name == "device":
        return tuple(device_lines())
    if name in LINUX:
        return tuple(host_lines(name))
    with TemporaryDirectory() as place:
        path = Path(place) / "history.jsonl"
        kernel_history.write(read("B2_tagged_chain"), path, "v11")
        return tuple(path.read_bytes().splitlines(keepends=True))


def verdict(lines: bytes, *, blind: bool = False) -> tuple[Verdict, list[str]] | BadHistory:
    """The verdict and the reader's warnings, or the error; anything else gets through, and fails the test."""
    try:
        history = History(io.BytesIO(lines))
        found = check(history, device=BLIND) if blind else check(history)
    except BadHistory as error:
        assert "line" in str(error) and "\n" not in str(error)
        return error
    return found, history.warnings


def test_they_are_good() -> None:
    for name in ("device", "kernel", *LINUX):
        found = verdict(b"".join(good(name)), blind=name in LINUX)
        assert not isinstance(found, BadHistory) and found[0].outcome in ("pass", "departure"), name


NAMES = st.sampled_from(["device", "kernel", *LINUX])


@given(name=NAMES, where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_a_flipped_byte(name: str, where: float, flip: int) -> None:
    """Whatever byte it is, its line is named; but for the last newline, without which a line is whole all the same."""
    data = bytearray(b"".join(good(name)))
    at = int(where * len(data))
    data[at] ^= flip
    found = verdict(bytes(data), blind=name in LINUX)
    if isinstance(found, BadHistory):
        return
    assert at == len(data) - 1 and found[0].warnings, "a byte was changed, and nobody noticed"


@given(
    name=NAMES,
    what=st.sampled_from(["drop", "swap", "double", "cut", "move"]),
    where=st.integers(0, 10_000),
    other=st.integers(0, 10_000),
)
@settings(max_examples=200, deadline=None)
def test_lines_lost_exchanged_doubled(name: str, what: str, where: int, other: int) -> None:
    lines = list(good(name))
    at, to = where % len(lines), other % len(lines)
    if what == "drop":
        del lines[at]
    elif what == "swap":
        lines[at], lines[to] = lines[to], lines[at]
    elif what == "double":
        lines.insert(at, lines[at])
    elif what == "move":
        lines.insert(to, lines.pop(at))
    data = b"".join(lines)
    if what == "cut":
        data = data[: other % len(data)]
    if data == b"".join(good(name)):
        return
    found = verdict(data, blind=name in LINUX)
    if isinstance(found, BadHistory):
        return
    whole = verdict(b"".join(good(name)), blind=name in LINUX)
    assert not isinstance(whole, BadHistory)
    assert b"".join(good(name)).startswith(data), "lines were lost, and nobody noticed"
    assert not found[0].failed, "a history that ends early breaks no rule"
    assert found[0].operations <= whole[0].operations
    if found[0].operations == 0:
        assert found[0].outcome == "unknown"


WEIRD: list[Any] = [None, True, -1, 1.5, 1 << 70, "", "x", "0" * 64, [], [[]], {}, {"x": 1}, [None], "ff" * 9]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a value."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        found += places(inner, (*path, name))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with one place replaced; `...` takes it out."""
    made = copy.deepcopy(value)
    inner = made
    for name in path[:-1]:
        inner = inner[name]
    if new is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return made


def ops_of(lines: tuple[bytes, ...]) -> tuple[Header, list[Op]]:
    history = History(lines)
    return history.header, list(history)


@given(name=NAMES, line=st.integers(0, 10_000), place=st.integers(0, 10_000), new=st.sampled_from([..., *WEIRD]))
@settings(max_examples=500, deadline=None)
def test_a_value_that_is_sealed_again(name: str, line: int, place: int, new: Any) -> None:
    """Any value anywhere: the error names a line, or there is a verdict; nothing else comes out."""
    head, ops = ops_of(good(name))
    at = line % len(ops)
    where = places(ops[at].value)
    if not where:
        return
    path = where[place % len(where)]
    ops[at] = ops[at]._replace(value=changed(ops[at].value, path, new))
    found = verdict(head.line() + b"".join([op_line(op) for op in ops]), blind=name in LINUX)
    if not isinstance(found, BadHistory) and found[0].outcome == "pass":
        assert found[0].operations and not found[0].nothing_judged


@given(name=NAMES, place=st.integers(0, 10_000), new=st.sampled_from([..., *WEIRD]))
@settings(max_examples=200, deadline=None)
def test_a_header_that_is_sealed_again(name: str, place: int, new: Any) -> None:
    head, ops = ops_of(good(name))
    value = {"n": 0, "version": 1, **head._asdict(), "devices": list(head.devices)}
    where = places(value)
    data = seal(changed(value, where[place % len(where)], new)) + b"".join([op_line(op) for op in ops])
    verdict(data, blind=name in LINUX)


@given(name=NAMES, which=st.integers(0, 10_000), kind=st.sampled_from(["ok", "fail", "info"]))
@settings(max_examples=150, deadline=None)
def test_an_end_of_another_type(name: str, which: int, kind: str) -> None:
    """What succeeded is said to have failed, or nobody knows: never a pass with nothing to show for it."""
    head, ops = ops_of(good(name))
    ends = [at for at, op in enumerate(ops) if op.type != "invoke"]
    at = ends[which % len(ends)]
    ops[at] = ops[at]._replace(type=kind)
    verdict(head.line() + b"".join([op_line(op) for op in ops]), blind=name in LINUX)


def test_a_line_of_ten_megabytes_nesting_and_numbers_that_are_none() -> None:
    lines = good("kernel")
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    bodies: list[bytes] = [
        seal({"n": 1, "op": 1, "process": "p", "type": "invoke", "f": "log", "t_ns": 0, "value": {"x": "y" * 10**7}}),
        seal({"n": 1, "op": 1, "process": "p", "type": "invoke", "f": "sysfs", "t_ns": 0, "value": {"deep": deep}}),
        seal({"n": 1, "op": 1, "process": "p", "type": "invoke", "f": "add", "t_ns": float("nan"), "value": {}}),
        seal({"n": 1, "op": 1, "process": "p", "type": "invoke", "f": "add", "t_ns": float("inf"), "value": {}}),
        seal({"n": 1, "op": 1, "process": "p", "type": "invoke", "f": "add", "t_ns": -5, "value": {}}),
        seal({"n": 1, "op": 7, "process": "p", "type": "invoke", "f": "add", "t_ns": 0, "value": {}}),
        seal({"n": 1, "op": 1, "process": "p", "type": "invoke", "f": "nothing", "t_ns": 0, "value": {}}),
    ]  # fmt: skip
    for body in bodies:
        found = verdict(lines[0] + body)
        assert isinstance(found, BadHistory), body[:100]
        assert "line 2" in str(found), found
    for version in (0, 2, "1", None):
        found = verdict(seal({"n": 0, "version": version}) + lines[1])
        assert isinstance(found, BadHistory) and "line 1" in str(found)
