"""The history's form: what is written is read back, and what is no history is named by its line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcdbackend import history
from dcdbackend.errors import BadHistory, CannotRun
from dcdbackend.history import Header, History, Op, Writer

REGION = {"index": 0, "base": 0, "length": 1 << 30, "block_size": 2 << 20}
HEADER = Header(
    backend="recorded",
    qemu=None,
    host={"generation": "U"},
    devices=({"name": "mem0", "serial": 0x1234, "regions": [REGION]},),
    seed=7,
    scenario="test",
)
CLEAR = {"device": "mem0", "log": 4, "flags": 0, "handles": [1]}


def clock() -> Callable[[], int]:
    ticks: Iterator[int] = iter(range(1000, 1 << 30))
    return lambda: next(ticks)


def written(tmp_path: Path) -> list[bytes]:
    """The lines of a short real file: an add and, inside it, a clear."""
    with Writer(tmp_path / "history.jsonl", HEADER, clock()) as writer:
        add = writer.invoke("manager", "block", {"device": "mem0", "region": 0, "offset": 0})
        clear = writer.invoke("host.mem0", "clear", CLEAR)
        writer.end(add, "ok", {"state": "free"})
        writer.end(clear, "fail", {"rc": 14})
    return (tmp_path / "history.jsonl").read_bytes().splitlines(keepends=True)


def sealed(**changes: Any) -> bytes:
    """A good invoke line, changed and sealed again."""
    line = {
        "n": 1,
        "op": 1,
        "process": "host.mem0",
        "type": "invoke",
        "f": "clear",
        "t_ns": 1,
        "value": CLEAR,
    }
    return history.seal({**line, **changes})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    ops = list(History(written(tmp_path)))
    assert [(op.n, op.op, op.type, op.f) for op in ops] == [
        (1, 1, "invoke", "block"),
        (2, 2, "invoke", "clear"),
        (3, 1, "ok", "block"),
        (4, 2, "fail", "clear"),
    ]
    assert ops[1].value == CLEAR
    assert ops[0].t_ns < ops[3].t_ns
    assert History(written_again(tmp_path)).header == HEADER


def written_again(tmp_path: Path) -> list[bytes]:
    return (tmp_path / "history.jsonl").read_bytes().splitlines(keepends=True)


def test_the_crc_is_the_last_key_and_covers_the_bytes_before_it(tmp_path: Path) -> None:
    for line in written(tmp_path):
        head, crc = line.rstrip(b"\n").rsplit(b',"crc":"', 1)
        assert list(json.loads(line))[-1] == "crc"
        assert int(crc[:8], 16) == castagnoli_bit_by_bit(head)


def castagnoli_bit_by_bit(data: bytes) -> int:
    """CRC-32C from its polynomial (RFC 3720 appendix B.4), with nothing shared with the code under test."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_the_schema_describes_what_is_written_and_refuses_what_is_not(tmp_path: Path) -> None:
    schema = json.loads(files("dcdbackend").joinpath("history.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for line in written(tmp_path):
        validator.validate(json.loads(line))
    for changed in ({"f": "guess"}, {"type": "maybe"}, {"value": {"device": "mem0"}}, {"n": 0}):
        assert not validator.is_valid(json.loads(sealed(**changed))), changed


def test_every_flipped_bit_is_an_error_that_names_its_line(tmp_path: Path) -> None:
    lines = written(tmp_path)
    for number, line in enumerate(lines, 1):
        for at in range(len(line) - 1):
            flipped = bytearray(line)
            flipped[at] ^= 0x04
            changed = [*lines[: number - 1], bytes(flipped), *lines[number:]]
            with pytest.raises(BadHistory) as raised:
                list(History(changed))
            assert raised.value.line == number, (number, at)


def test_a_torn_last_line_is_a_warning_wherever_it_is_cut(tmp_path: Path) -> None:
    lines = written(tmp_path)
    for at in range(1, len(lines[-1]) - 1):
        read = History([*lines[:-1], lines[-1][:at]])
        assert len(list(read)) == 3
        assert read.warnings == ["line 5 is torn and left out: the run ended while it was written"]
    whole = History([*lines[:-1], lines[-1].rstrip(b"\n")])
    assert len(list(whole)) == 4
    assert whole.warnings == []


def test_a_line_torn_in_the_middle_of_the_file_is_an_error(tmp_path: Path) -> None:
    lines = written(tmp_path)
    with pytest.raises(BadHistory, match="line 3"):
        list(History([*lines[:2], lines[2][:40] + b"\n", *lines[3:]]))


@pytest.mark.parametrize(
    ("lines", "line", "text"),
    [
        ([], 0, "empty"),
        ([b'{"version":1'], 1, "torn"),
        ([history.seal({"n": 0, "version": 2})], 1, "version 2; this dcd reads version 1"),
        ([history.seal({"n": 0})], 1, "no header"),
        ([history.seal({"n": 0, "version": 1})], 1, "has no 'backend'"),
        ([HEADER._replace(backend="guess").line()], 1, "allowed: qemu, emulator, recorded"),
        ([HEADER._replace(devices=({"name": "mem0", "serial": 1},)).line()], 1, "has no 'regions'"),
        ([HEADER._replace(devices=(HEADER.devices[0],) * 2).line()], 1, "two devices of one name"),
        ([HEADER._replace(seed="7").line()], 1, "must be int"),  # type: ignore[arg-type]
        ([HEADER.line(), b'{"n":1}\n'], 2, "does not end with its"),
        ([HEADER.line(), history.seal({"n": 1})], 2, "the key 'op' is missing"),
        ([HEADER.line(), sealed(n="1")], 2, "whole numbers"),
        ([HEADER.line(), sealed(n=True)], 2, "whole numbers"),
        ([HEADER.line(), sealed(type="maybe")], 2, "allowed: invoke, ok, fail, info"),
        ([HEADER.line(), sealed(f="guess")], 2, "no operation of version 1"),
        ([HEADER.line(), sealed(n=2, op=2)], 2, "a line is missing or twice"),
        ([HEADER.line(), sealed(op=2)], 2, "an id used twice"),
        ([HEADER.line(), sealed(type="ok")], 2, "never begun, or ended twice"),
        ([HEADER.line(), sealed(), sealed(n=2, op=2)], 3, "one at a time"),
        ([HEADER.line(), sealed(), sealed(n=2, t_ns=0, type="ok")], 3, "time runs backwards"),
        ([HEADER.line(), sealed(), sealed(n=2, type="ok", f="answer")], 3, "began as clear"),
        ([HEADER.line(), sealed(), sealed(n=2, type="ok"), sealed(n=3, type="ok")], 4, "ended twice"),
        ([HEADER.line(), b"x" * (10 << 20)], 2, "longer than 1048576 bytes"),
        ([HEADER.line(), sealed(value={"device": "x" * (1 << 20)})], 2, "longer than 1048576 bytes"),
    ],
)
def test_what_is_no_history_is_named_by_its_line(lines: list[bytes], line: int, text: str) -> None:
    for source in (lines, io.BytesIO(b"".join(lines))):
        with pytest.raises(BadHistory) as raised:
            list(History(source))
        assert raised.value.line == line
        assert text in str(raised.value)


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_no_bytes_at_all_get_past_as_something_else(junk: list[bytes]) -> None:
    for lines in ([HEADER.line(), *[line + b"\n" for line in junk]], [line + b"\n" for line in junk]):
        try:
            found = list(History(lines))
        except BadHistory:
            continue
        assert found == []
        assert junk == []


@pytest.mark.parametrize("body", [b'{"n":1,"op":NaN}', b"[1]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_sealed_but_not_json_is_an_error(body: bytes) -> None:
    head = body[:-1] if body.endswith(b"}") else body
    line = b'%b,"crc":"%08x"}\n' % (head, castagnoli_bit_by_bit(head))
    with pytest.raises(BadHistory, match="line 2"):
        list(History([HEADER.line(), line]))


def test_lines_reach_the_file_as_they_happen(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    writer = Writer(path, HEADER, clock())
    seen: list[Op] = []
    writer.listen(seen.append)
    op = writer.invoke("host.mem0", "clear", CLEAR)
    assert path.read_bytes().count(b"\n") == 2
    assert list(writer.open_operations) == [op]
    writer.end(op, "info", {"reason": "QEMU ended"})
    assert path.read_bytes().count(b"\n") == 3
    assert [line.type for line in seen] == ["invoke", "info"]
    writer.close()
    with pytest.raises(KeyError):
        writer.end(op, "ok", {})


def test_a_history_is_never_written_over(tmp_path: Path) -> None:
    Writer(tmp_path / "history.jsonl", HEADER, clock()).close()
    before = (tmp_path / "history.jsonl").read_bytes()
    with pytest.raises(CannotRun, match="choose another --run-dir"):
        Writer(tmp_path / "history.jsonl", HEADER, clock())
    assert (tmp_path / "history.jsonl").read_bytes() == before


def test_a_full_disk_is_one_clear_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    writer = object.__new__(Writer)
    writer.path = Path("/dev/full")
    writer.__dict__["_fd"] = __import__("os").open("/dev/full", 1)
    with pytest.raises(CannotRun, match="free some space"):
        writer._write(HEADER.line())
    writer.close()
