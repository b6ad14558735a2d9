"""A tag that certainly lives on one device of a kernel's host, and comes on another (B6.live): held, broken, not known.

The lines are those of a v11 kernel on two devices, as far as the judge reads them.
"""

from __future__ import annotations

from typing import Any

import pytest

from dcdbackend.checker import Verdict, check
from dcdbackend.checker.living import MOST_READINGS, Living
from dcdbackend.history import Header, Op

SIZE, GIB = 64 << 20, 1 << 30
TAG, OTHER = "5be13bceae344a77b6c316df975fcf1a", "aaaaaaaabbbb4ccc8dddeeeeeeeeeeee"
CLEARED = ["Sending command: 0x4802", "Event log '4': Clearing 1"]


def uuid(tag: str) -> str:
    return f"{tag[:8]}-{tag[8:12]}-{tag[12:16]}-{tag[16:20]}-{tag[20:]}"


class Story:
    """A history of two devices of one host, told line by line; every operation ends before the next one begins."""

    def __init__(self) -> None:
        region = {"index": 0, "base": 0, "decode_length": GIB, "length": GIB, "block_size": 2 << 20, "dsmad_handle": 0}
        devices = tuple(
            [{"name": f"mem{at}", "serial": at, "regions": [region], "payload_size": 2048} for at in (0, 1)]
        )
        self.head = Header("recorded", None, {"generation": "v11"}, devices, 0, "living")
        self.ops: list[Op] = []
        for at in (0, 1):
            place = {"what": "region", "region": f"region{at}", "start": 0, "length": GIB, "hpa": (4 + at) * GIB}
            self.done(f"user.mem{at}", "use", at, place)
            self.done(f"user.mem{at}", "use", at, {"what": "bind", "region": f"region{at}"})
            self.log(at, [], ["Got extent list 0--1 of 0 generation Num:0"])

    def begin(self, process: str, f: str, at: int, sent: dict[str, Any]) -> int:
        n = len(self.ops) + 1
        self.ops.append(Op(n, n, process, "invoke", f, n * 1_000_000, {"device": f"mem{at}", **sent}))
        return n

    def end(self, number: int, said: dict[str, Any]) -> None:
        begin = self.ops[number - 1]
        n = len(self.ops) + 1
        self.ops.append(Op(n, number, begin.process, "ok", begin.f, n * 1_000_000, said))

    def done(self, process: str, f: str, at: int, sent: dict[str, Any], said: dict[str, Any] | None = None) -> None:
        self.end(self.begin(process, f, at, sent), said or {})

    def log(self, at: int, events: list[dict[str, Any]], lines: list[str]) -> None:
        self.done("kernel", "trace", at, {}, {"events": events, "lost": 0})
        told = [{"t_ns": len(self.ops) * 1_000_000 + row, "text": text} for row, text in enumerate(lines)]
        self.done("kernel", "log", at, {}, {"lines": told, "lost": 0})

    def ask(self, f: str, at: int, tag: str) -> None:
        extent = {"dpa": 0, "length": SIZE, "tag": tag, "sequence": 0}
        sent = {"via": "fm", "host_id": 0, "policy": "prescriptive", "region": 0, "tag": tag, "extents": [extent]}
        self.done("manager", f, at, sent, {"rc": 0})

    def read(self, at: int, tag: str, lines: list[str], *, kind: int = 0, handle: int = 1) -> None:
        """The kernel reads one record and says what it did."""
        word = "release" if kind else "add"
        event = {"handle": handle, "type": kind, "dpa": 0, "length": SIZE, "tag": tag, "sequence": 0, "region": 255}
        self.log(at, [event], ["Reading event logs: 10", f"DCD event {word} : DPA:0x0 LEN:0x{SIZE:x}", *lines])

    def takes(self, at: int, tag: str) -> None:
        span = f"[range 0x{0:016x}-0x{SIZE - 1:016x}] ({uuid(tag)})"
        self.read(at, tag, [f"Add extent {span}", f"dc_extent HPA {span}", *CLEARED])

    def drops(self, at: int, tag: str) -> None:
        self.read(at, tag, [f"Tag {uuid(tag)}: dropping group, tag already committed", *CLEARED])

    def look(self, at: int, *tags: str) -> None:
        extents = [{"name": "extent0.1", "offset": 0, "length": SIZE, "uuid": uuid(tag)} for tag in tags]
        region = f"region{at}"
        self.done("witness", "sysfs", at, {"region": region}, {"region": region, "extents": extents})

    def given(self, at: int) -> list[str]:
        return [f"Release response dpa [range 0x{0:016x}-0x{SIZE - 1:016x}]"]

    def verdict(self) -> Verdict:
        return check(self.ops, self.head)


def lives() -> Story:
    """The tag lives on mem0, and sysfs has shown it."""
    story = Story()
    story.ask("add", 0, TAG)
    story.takes(0, TAG)
    story.look(0, TAG)
    return story


def broken(found: Verdict) -> set[tuple[str, str]]:
    return {(one.device, one.clause) for one in found.failed}


def test_a_group_whose_tag_lives_on_another_device_is_dropped() -> None:
    story = lives()
    story.ask("add", 1, TAG)
    story.drops(1, TAG)
    story.look(1)
    found = story.verdict()
    assert not found.failed and (found.of("B6.live").passed, found.of("B6.live").unknown) == (1, 0)
    assert found.of("B5.surfaced").passed == 2, "what lives elsewhere is not looked for here"


def test_when_it_is_gone_there_it_may_come_here() -> None:
    story = lives()
    story.ask("add", 1, TAG)
    story.drops(1, TAG)
    released(story)
    story.look(0)
    story.ask("add", 1, TAG)
    story.takes(1, TAG)
    story.look(1, TAG)
    found = story.verdict()
    assert not found.failed and (found.of("B6.live").passed, found.of("B6.live").unknown) == (1, 0)


def test_one_that_is_taken_all_the_same_is_convicted() -> None:
    story = lives()
    story.ask("add", 1, TAG)
    story.takes(1, TAG)
    story.look(1, TAG)
    found = story.verdict()
    assert ("mem1", "B6.live") in broken(found) and found.of("B6.live").unknown == 0


def test_another_tag_is_none_of_its_business() -> None:
    story = lives()
    story.ask("add", 1, OTHER)
    story.takes(1, OTHER)
    story.look(1, OTHER)
    found = story.verdict()
    assert not found.failed and found.of("B5.survivors").passed == 2
    story = lives()
    story.ask("add", 1, OTHER)
    story.drops(1, OTHER)
    assert ("mem1", "B5.survivors") in broken(story.verdict())


def not_looked(story: Story) -> None:
    story.ops = story.ops[:-2]


def released(story: Story) -> None:
    story.ask("release", 0, TAG)
    story.read(0, TAG, [*story.given(0), "Event log '4': Clearing 2"], kind=1, handle=2)


def asked_back(story: Story) -> None:
    story.ask("release", 0, TAG)


def unbound(story: Story) -> None:
    story.done("user.mem0", "unuse", 0, {"what": "region", "region": "region0"})
    story.log(0, [], story.given(0))


def looked_too_early(story: Story) -> None:
    """The look was begun before the release, and ended after it."""
    not_looked(story)
    number = story.begin("witness", "sysfs", 0, {"region": "region0"})
    asked_back(story)
    extent = {"name": "extent0.1", "offset": 0, "length": SIZE, "uuid": uuid(TAG)}
    story.end(number, {"region": "region0", "extents": [extent]})


def offered_before(story: Story) -> None:
    """The offer to the other device came before the look."""
    not_looked(story)
    story.ask("add", 1, TAG)
    story.look(0, TAG)


@pytest.mark.parametrize("what", [not_looked, released, asked_back, unbound, looked_too_early, offered_before])
def test_what_may_have_gone_is_not_known(what: Any) -> None:
    for kernel in (Story.drops, Story.takes):
        story = lives()
        what(story)
        if what is not offered_before:
            story.ask("add", 1, TAG)
        kernel(story, 1, TAG)
        found = story.verdict()
        assert not [one for one in found.failed if one.device == "mem1"], f"{kernel}: {broken(found)}"
        assert found.of("B6.live").unknown == (1 if kernel is Story.drops else 0)


def test_what_was_given_back_unasked_is_not_known_to_live() -> None:
    story = lives()
    story.log(0, [], story.given(0))
    story.ask("add", 1, TAG)
    story.takes(1, TAG)
    found = story.verdict()
    assert {device for device, _ in broken(found)} == {"mem0"}


def test_a_reset_ends_everything_and_the_memory_is_bounded() -> None:
    story = lives()
    living = Living(["mem0", "mem1"])

    def read(ops: list[Op]) -> None:
        begun: dict[int, Op] = {}
        for op in ops:
            if op.type == "invoke":
                begun[op.op] = op
                living.begin(op)
            else:
                living.end(begun[op.op], op)

    read(story.ops)
    for at in range(2 * MOST_READINGS):
        first = len(story.ops)
        story.ask("add", 1, OTHER)
        story.log(1, [], [])
        read(story.ops[first:])
        assert living.certain("mem1", story.ops[-1].t_ns) == {bytes.fromhex(TAG)}, at
    assert living.certain("mem0", story.ops[-1].t_ns) == frozenset()
    assert len(living._certain) == MOST_READINGS
    first = len(story.ops)
    story.done("manager", "reset", 1, {})
    story.ask("add", 1, OTHER)
    story.log(1, [], [])
    read(story.ops[first:])
    assert living.certain("mem1", story.ops[-1].t_ns) == frozenset()
