"""A history in words: what each operation is told as, what is told as one, what is never told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dcdbackend.checker.notation import parse
from dcdbackend.history import FUNCTIONS
from dcdbackend.report.story import Story, words


def lines(text: str) -> list[dict[str, Any]]:
    """The lines of a text; a block is asked for with its length, as a session does (the notation leaves it out)."""
    found = [op._asdict() for op in parse(text)]
    for line in found:
        if (line["f"], line["type"]) == ("block", "invoke"):
            line["value"]["length"] = 2 << 20
    return found


def told(text: str) -> list[str]:
    story = Story()
    found = [one for line in lines(text) for one in story.feed(line)]
    return [one.text for one in [*found, *story.unended()]]


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("add 0+2M,4M+2M @1", "the manager offers 0+2M 4M+2M of region 1 -> queued for the host"),
        (
            f"add 0+2M tag={'1f' * 16} -> ok",
            f"the manager offers 0+2M of region 0, tag {'1f' * 16} -> queued for the host",
        ),
        ("add 1+1", "the manager offers 1+1 of region 0 -> refused: "),
        ("add 0+2M -> info", "the manager offers 0+2M of region 0 -> nobody knows (no answer came)"),
        ("add 0+2M; events", "the host reads the log -> 1: offer 0x0+2M"),
        ("add 0+2M,4M+2M; events", "the host reads the log -> 1: offer 0x0+2M, more follows; 2: offer 0x400000+2M"),
        ("events", "the host reads the log -> nothing in it"),
        ("add 0+2M; events; accept", "the host accepts 0x0+2M -> done"),
        ("add 0+2M; events; accept+ 0+2M", "the host accepts 0x0+2M, and will say more -> done"),
        ("add 0+2M; events; refuse", "the host refuses -> done"),
        ("accept 0+2M", "the host accepts 0x0+2M -> the device refuses: 0Fh invalid physical address"),
        ("add 0+2M; events; accept; clear", "the host clears record 1 -> done"),
        ("clear all", "the host clears the whole log -> "),
        ("add 0+2M; accept; release? 0+2M", "the manager asks back 0+2M of region 0 -> queued for the host"),
        ("add 0+2M; accept; release", "the host gives back 0x0+2M -> done"),
        ("add 0+2M; accept; list", "the host reads the extent list from 0 on -> 1 of 1: 0x0+2M"),
        ("list", "the host reads the extent list from 0 on -> 0 of 0: none"),
        ("block 2M", "QEMU is asked of 2M+2M of region 0 -> free"),
        ("add 0+2M; accept; store 0 beef", "the host stores 2 bytes at 0x0: beef -> done"),
        ("put 0 be", "the backend's side writes 1 byte at 0x0: be -> done"),
        ("add 0+2M; accept; store 0 beef; load 0+2", "the host loads 0x0+2 -> beef"),
        ("put 0 beef; bytes 0+2", "the backend's bytes at 0x0+2 -> beef"),
        ("gone killed by SIGKILL", "the device is gone: killed by SIGKILL"),
        ("reset", "the guest is reset"),
        ("raw answer ff", "answer raw ff -> "),
    ],
)
def test_an_operation(text: str, last: str) -> None:
    found = told(text)[-1]
    assert found.startswith(last) if last.endswith((": ", "> ", "reset")) else found == last


def test_questions_about_adjoining_blocks_are_told_as_one() -> None:
    asked = told("add 0+4M; accept; block 0; block 2M; block 4M; block 6M; block 10M; block 12M @1; events")[2:]
    assert asked == [
        "QEMU is asked of 0+4M of region 0, 2 questions -> accepted",
        "QEMU is asked of 4M+4M of region 0, 2 questions -> free",
        "QEMU is asked of 10M+2M of region 0 -> free",
        "QEMU is asked of 12M+2M of region 1 -> free",
        "the host reads the log -> 1: offer 0x0+4M",
    ]


def test_what_waits_is_told_when_nothing_comes() -> None:
    story = Story()
    for line in lines("block 0; block 2M"):
        assert not list(story.feed(line))
    (one,) = story.flush()
    assert (one.line, one.times) == (2, 2)
    assert not list(story.flush())


def test_the_ends_of_what_was_not_seen_to_begin_are_not_told() -> None:
    story = Story()
    assert [one.f for line in lines("add 0+2M; events; accept")[1:] for one in story.feed(line)] == ["events", "answer"]


def test_what_has_no_end() -> None:
    assert told("add 0+2M -> open") == ["the manager offers 0+2M of region 0 -> no end"]
    assert told("add 0+2M; events -> open")[1:] == []  # an idle host always waits for the next record
    assert told("list -> open") == ["the host reads the extent list from 0 on -> no end"]


def test_records_that_were_lost_and_many_ranges() -> None:
    record: dict[str, Any] = {"handle": 7, "type": 9, "dpa": 0, "length": 2 << 20, "more": False}
    said = {"rc": 0, "flags": 1, "overflow_count": 3, "records": [record] * 9 + [{"raw": "00"}]}
    text = words("events", {"device": "mem0", "log": 4}, "ok", said)
    assert text.count("7: type 9 0x0+2M") == 8
    assert text.endswith(" and 2 more; 3 were lost")
    text = words("answer", {"device": "mem0", "flags": 0, "ranges": [[0, 2 << 20]] * 20}, "ok", {"rc": 0})
    assert text.endswith(" and 12 more -> done") and text.count("0x0+2M") == 8
    assert words("clear", {"flags": 0, "handles": []}, "fail", {"rc": 0xEE}).endswith("EEh which no table has")


@pytest.mark.parametrize("f", sorted(FUNCTIONS))
def test_every_function_is_told_in_one_line(f: str) -> None:
    sent = {
        "device": "mem0", "region": 0, "offset": 0, "length": 2, "dpa": 0, "start": 0, "count": 1, "flags": 0, "log": 4,
        "data": "beef", "ranges": [], "handles": [], "extents": [], "reason": "killed",
    }  # fmt: skip
    for kind, received in (("ok", {}), ("fail", {"rc": 3}), ("info", {"reason": "lost"}), ("", {})):
        text = words(f, json.loads(json.dumps(sent)), kind, received)
        assert text and "\n" not in text and "{" not in text
