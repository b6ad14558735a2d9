"""The agent's link: frames survive whatever happens to their bytes, and nothing is lost or doubled."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dcdbackend import crc, link
from dcdbackend.errors import AnsweredWrongly, AskedWrongly, LinkLost, MalformedBytes
from dcdbackend.link import (
    ACK,
    CONTROL,
    HELLO,
    HISTORY,
    MAX_BODY,
    MAX_FRAME,
    BadFrame,
    Frame,
    Hello,
    Overrun,
    Receiver,
    Sender,
    acknowledgement,
    encode,
    hello,
    read_hello,
)


def bitwise_crc32c(data: bytes) -> int:
    """The definition, bit by bit: reflected polynomial 82F63B78h, all ones in, all ones out."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def by_hand(kind: int, body: bytes, *, seq: int = 0, ack: int = 0, flags: int = 0, length: int | None = None) -> bytes:
    """A frame from the table in link.py's docstring, without link.py."""
    head = b"\xd1\xdc" + bytes([kind, flags]) + seq.to_bytes(4, "little") + ack.to_bytes(4, "little")
    head += (len(body) if length is None else length).to_bytes(4, "little")
    return head + bitwise_crc32c(head + bytes(4) + body).to_bytes(4, "little") + body


def frames(found: list[Frame | BadFrame]) -> list[Frame]:
    return [one for one in found if isinstance(one, Frame)]


def bad(found: list[Frame | BadFrame]) -> list[BadFrame]:
    return [one for one in found if isinstance(one, BadFrame)]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def fed(receiver: Receiver, parts: list[bytes]) -> list[Frame | BadFrame]:
    """Everything found, with the bound on what is kept checked after each part."""
    found: list[Frame | BadFrame] = []
    for part in parts:
        found += receiver.feed(part)
        assert len(receiver._buffer) < MAX_FRAME
    return found


BODIES = [b"", b"x", b'{"op":-1}', bytes(range(256)), b"\xd1\xdc" * 40, b"\xd1\xdc\x00\x00" + b"\0" * 40]


def numbered(count: int, *, first: int = 1) -> list[bytes]:
    return [by_hand(HISTORY, BODIES[seq % len(BODIES)], seq=seq) for seq in range(first, first + count)]


# --- CRC-32C -------------------------------------------------------------------------------------------------


def test_crc32c() -> None:
    """The check value of CRC-32C, and the test patterns of RFC 3720 (iSCSI), appendix B.4."""
    assert crc.crc32c(b"123456789") == 0xE3069283
    assert crc.crc32c(b"") == 0
    assert crc.crc32c(bytes(32)) == 0x8A9136AA
    assert crc.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc.crc32c(bytes(range(32))) == 0x46DD794E
    assert crc.crc32c(bytes(range(31, -1, -1))) == 0x113FDB5C


@given(st.binary(max_size=300))
def test_crc32c_is_its_definition(data: bytes) -> None:
    assert crc.crc32c(data) == bitwise_crc32c(data)


def test_crcmod_uses_its_extension() -> None:
    """Without it each frame costs twenty times more, silently."""
    assert crc.EXTENSION
    compiled = sys.modules["crcmod._crcfunext"].__file__ or ""
    assert compiled.endswith(tuple(EXTENSION_SUFFIXES)), "C, not Python"
    assert "crcmod._crcfunpy" not in sys.modules


# --- one frame -----------------------------------------------------------------------------------------------


def test_golden_frames() -> None:
    """Bytes worked out from the table with the bitwise CRC above."""
    assert by_hand(ACK, b"", ack=7) == bytes.fromhex("d1dc0200 00000000 07000000 00000000 cb2be689")
    assert acknowledgement(7) == by_hand(ACK, b"", ack=7)
    assert encode(CONTROL, b"{}", seq=0x01020304, ack=5, flags=9) == by_hand(
        CONTROL, b"{}", seq=0x01020304, ack=5, flags=9
    )
    assert hello("s1", 3) == by_hand(HELLO, b'{"session":"s1","received":3}', ack=3)
    assert Sender().push(HISTORY, b"abc", ack=2) == by_hand(HISTORY, b"abc", seq=1, ack=2)
    assert link.HEADER_SIZE == len(by_hand(ACK, b"")) == 20
    assert (HISTORY, CONTROL, ACK, HELLO, MAX_BODY) == (0, 1, 2, 3, 65536)


@pytest.mark.parametrize("body", [*BODIES, bytes(MAX_BODY)], ids=len)
def test_frame_is_found(body: bytes) -> None:
    receiver = Receiver()
    assert receiver.feed(by_hand(CONTROL, body, seq=1, ack=4, flags=6)) == [Frame(CONTROL, 6, 1, 4, body)]
    assert receiver.received == 1


def test_body_over_the_bound() -> None:
    sender = Sender()
    with pytest.raises(AskedWrongly, match=r"body of 65537 bytes; at most 65536 are allowed"):
        sender.push(HISTORY, bytes(MAX_BODY + 1))
    assert (sender.sent, len(sender)) == (0, 0)
    assert sender.push(HISTORY, bytes(MAX_BODY)) == by_hand(HISTORY, bytes(MAX_BODY), seq=1)


def test_header_over_the_bound_is_not_waited_for() -> None:
    """A length of 4 GiB is refused at the header: no byte of it is kept."""
    receiver = Receiver()
    lie = by_hand(HISTORY, b"", seq=1, length=MAX_BODY + 1)
    assert [one.reason for one in bad(receiver.feed(lie))] == ["length"]
    assert receiver.feed(by_hand(HISTORY, b"good", seq=1)) == [Frame(HISTORY, 0, 1, 0, b"good")]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (by_hand(HISTORY, b"x", seq=0), "form"),
        (by_hand(CONTROL, b"x", seq=0), "form"),
        (by_hand(ACK, b"", seq=1), "form"),
        (by_hand(HELLO, b"{}", seq=1), "form"),
        (by_hand(ACK, b"x"), "form"),
        (by_hand(4, b"", seq=1), "garbage"),
        (by_hand(255, b"", seq=1), "garbage"),
        (by_hand(HISTORY, b"x", seq=3), "gap"),
        (by_hand(HISTORY, b"x", seq=0xFFFFFFFF), "gap"),
        (by_hand(HISTORY, b"x", seq=1)[:-1] + b"y", "crc"),
        (by_hand(HISTORY, b"", seq=1, length=0xFFFFFFFF), "length"),
        (b"login: root, please" + b"\n", "garbage"),
    ],
)
def test_bad_frames_are_values(frame: bytes, reason: str) -> None:
    """Each is one BadFrame with its offset and first bytes; what comes after is untouched."""
    receiver = Receiver()
    good = by_hand(HISTORY, b"good", seq=1)
    found = receiver.feed(acknowledgement(1) + frame + good)
    assert [one.reason for one in bad(found)] == [reason]
    assert bad(found)[0].offset == 20
    assert bad(found)[0].data == (frame + good)[:20]
    assert "\n" not in bad(found)[0].text
    assert frames(found) == [Frame(ACK, 0, 0, 1, b""), Frame(HISTORY, 0, 1, 0, b"good")]


# --- streams: cut anywhere, garbage anywhere -----------------------------------------------------------------

TORN = [one for one in numbered(6, first=900) if not one.endswith(b"\xd1\xdc")]
junk = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"\xd1", b"\xd1\xdc", b"\xd1\xdc\x00", b"\xd1\xd1\xdc", b"\n(initramfs) "]),
    st.builds(lambda kind, length: by_hand(kind, b"", seq=1, length=length), st.integers(0, 5), st.integers(1, 400)),
    st.builds(lambda frame, cut: frame[: cut % len(frame)], st.sampled_from(TORN), st.integers(0)),
)


@given(st.lists(junk, max_size=8), st.lists(st.integers(0), max_size=12), st.booleans())
def test_any_split_is_the_same(garbage: list[bytes], cuts: list[int], single: bool) -> None:
    """How the bytes are cut into calls changes neither the frames nor the reports."""
    stream = b"".join(part for pair in zip(garbage, numbered(len(garbage)), strict=True) for part in pair)
    whole = Receiver()
    at_once = whole.feed(stream)
    parted = Receiver()
    parts = [bytes([one]) for one in stream] if single else pieces(stream, cuts)
    assert fed(parted, parts) == at_once
    assert vars(parted) == vars(whole)


def test_every_cut_in_two() -> None:
    """Also between the two bytes of a magic that stands behind garbage."""
    chatter = b"thirty bytes of kernel chatter"
    stream = chatter + numbered(2)[0] + chatter + b"\xd1" + numbered(2)[1] + chatter
    at_once = Receiver().feed(stream)
    assert [one.seq for one in frames(at_once)] == [1, 2]
    for cut in range(len(stream)):
        assert fed(Receiver(), [stream[:cut], stream[cut:]]) == at_once


@given(st.lists(junk, min_size=1, max_size=8), st.lists(st.integers(0), max_size=6))
@example([by_hand(HISTORY, b"", seq=1, length=300)], [])
def test_garbage_never_loses_a_good_frame(garbage: list[bytes], cuts: list[int]) -> None:
    """The promise of link.py: every good frame is handed out, at the latest MAX_FRAME bytes from its first one."""
    good = numbered(len(garbage))
    stream = b"".join(part for pair in zip(garbage, good, strict=True) for part in pair)
    receiver = Receiver()
    found = fed(receiver, [*pieces(stream, cuts), bytes(MAX_FRAME)])
    wanted = [Frame(HISTORY, 0, seq, 0, BODIES[seq % len(BODIES)]) for seq in range(1, len(good) + 1)]
    assert frames(found) == wanted
    assert len(bad(found)) <= len(garbage) + 1, "one report for each run"
    assert receiver.received == len(good)
    assert receiver.skipped_bytes + sum(map(len, good)) + len(receiver._buffer) == len(stream) + MAX_FRAME


def test_a_false_header_costs_time_only() -> None:
    """The longest delay: the frame behind a header that claims MAX_BODY comes with the claimed end, not later."""
    receiver = Receiver()
    false = by_hand(HISTORY, b"", seq=1, length=MAX_BODY)
    good = by_hand(HISTORY, b"good", seq=1)
    assert receiver.feed(false + good) == []
    rest = len(false) + MAX_BODY - len(false) - len(good)
    assert receiver.feed(bytes(rest - 1)) == []
    found = receiver.feed(b"\0")
    assert [one.reason for one in bad(found)] == ["crc", "garbage"], "one before the good frame, one after it"
    assert frames(found) == [Frame(HISTORY, 0, 1, 0, b"good")]


def test_a_torn_frame_that_the_next_one_completes() -> None:
    """The one exception, stated in link.py: the lost end D1 DC is also how every frame begins. A resend mends it."""
    first, second = by_hand(HISTORY, b"any\xd1\xdc", seq=1), by_hand(HISTORY, b"good", seq=2)
    receiver = Receiver()
    found = receiver.feed(first[:-2] + second)
    assert [one.seq for one in frames(found)] == [1]
    assert [one.reason for one in bad(found)] == ["garbage"], "it is not lost in silence"
    assert [one.seq for one in frames(receiver.feed(first + second))] == [2]


def test_one_report_for_a_run_of_garbage() -> None:
    receiver = Receiver()
    chatter = b"[    0.1] kernel says \xd1\xdc something\n" * 50
    found = fed(receiver, [chatter, chatter, chatter])
    assert [(one.reason, one.offset) for one in bad(found)] == [("garbage", 0)]
    found = receiver.feed(numbered(1)[0] + chatter)
    assert [one.reason for one in bad(found)] == ["garbage"], "the next run is another report"
    assert bad(found)[0].offset == 3 * len(chatter) + len(numbered(1)[0])


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_any_byte_damaged(seq: int) -> None:
    """Each bit of a frame in turn: it is never handed out damaged, and a resend mends the stream."""
    good = numbered(4)
    wanted = [Frame(HISTORY, 0, one, 0, BODIES[one % len(BODIES)]) for one in range(1, 5)]
    for at in range(len(good[seq])):
        for bit in (1, 0x80):
            damaged = bytearray(good[seq])
            damaged[at] ^= bit
            receiver = Receiver()
            found = receiver.feed(b"".join([*good[:seq], bytes(damaged), *good[seq + 1 :]]) + bytes(MAX_FRAME))
            assert frames(found) == wanted[:seq]
            assert bad(found)
            assert receiver.received == seq
            assert frames(receiver.feed(b"".join(good[receiver.received :]))) == wanted[seq:]


def random_frame(dice: random.Random, due: int) -> bytes:
    """Something like a frame: a header with any of its fields right or wrong, and some body."""
    body = dice.randbytes(dice.choice((0, 1, 20, 200)))
    length = dice.choice((len(body), len(body), dice.randrange(400), dice.getrandbits(32)))
    seq = dice.choice((0, due, dice.randrange(1, 300), dice.getrandbits(32)))
    if dice.random() < 0.4:
        return encode(dice.randrange(4), body, seq=seq, ack=dice.getrandbits(32), flags=dice.getrandbits(8))
    magic = dice.choice((0xDCD1, 0xDCD1, dice.getrandbits(16)))
    return (
        struct.pack(
            "<HBBIIII", magic, dice.getrandbits(8) & dice.choice((3, 255)), 0, seq, 0, length, dice.getrandbits(32)
        )
        + body
    )


def test_ten_thousand_random_frames() -> None:
    """Never an exception, never more kept than one frame, never out of order."""
    dice = random.Random(0xDCD1)
    receiver = Receiver()
    last = 0
    kinds = set()
    for _ in range(10_000):
        for one in fed(receiver, [random_frame(dice, last + 1)]):
            kinds.add(one.kind if isinstance(one, Frame) else one.reason)
            if isinstance(one, Frame) and one.kind in (HISTORY, CONTROL):
                assert one.seq == last + 1
                last = one.seq
    assert kinds == {HISTORY, CONTROL, ACK, HELLO, "garbage", "length", "crc", "form", "gap"}, "all of it was met"
    assert last == receiver.received > 100


def test_hostile_headers_cost_bounded_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that claims 56 KiB every four bytes: neither the bytes kept nor the bytes checked run away."""
    checked = 0

    def counted(data: bytes) -> int:
        nonlocal checked
        checked += len(data)
        return crc.crc32c(data)

    good = numbered(40)
    dense = b"\xd1\xdc\0\0" * 16384
    stream = b"".join(good[:20]) + dense * 8 + bytes(MAX_FRAME) + b"".join(good[20:])
    monkeypatch.setattr(link, "crc32c", counted)
    receiver = Receiver()
    found = fed(receiver, [stream[at : at + 4096] for at in range(0, len(stream), 4096)])
    assert checked <= link.MAX_WASTE + (link.WASTE_PER_BYTE + 2) * len(stream)
    assert [one.seq for one in frames(found)] == [*range(1, 41)], "and good frames still come through"
    checked = 0
    whole = Receiver()
    assert whole.feed(stream) == found, "the bound does not depend on how the stream is cut"
    assert vars(whole) == vars(receiver)


def test_a_hopeless_frame_is_skipped_whole_wherever_it_is_cut() -> None:
    """Past the bound the claimed bytes go unread, a magic's first byte at their end too, in any split."""
    frame = numbered(1)[0]
    stream = by_hand(HISTORY, b"", seq=1, length=5) + b"abcd" + frame
    ends = set()
    for cut in range(len(stream) + 1):
        receiver = Receiver()
        receiver._waste = 1 << 60
        found = fed(receiver, [stream[:cut], stream[cut:], frame])
        ends.add((*found, receiver.skipped_bytes))
    assert len(ends) == 1
    assert [one.seq for one in frames(found)] == [1]
    assert receiver.skipped_bytes == len(stream)


# --- order, duplicates, gaps ---------------------------------------------------------------------------------


def test_duplicates_are_dropped_without_a_word() -> None:
    receiver = Receiver()
    good = numbered(3)
    assert [one.seq for one in frames(receiver.feed(b"".join(good + good[1:] + good[:1])))] == [1, 2, 3]
    assert receiver.duplicates == 3


def test_gap_is_reported_and_not_delivered() -> None:
    """A frame that comes too early is dropped; the report comes at the 1st, 2nd, 4th, 8th, ... of them."""
    receiver = Receiver()
    good = numbered(40)
    receiver.feed(good[0])
    found = receiver.feed(b"".join(good[2:]))
    assert frames(found) == []
    assert [one.reason for one in bad(found)] == ["gap"] * 6, "at 1, 2, 4, 8, 16 and 32 of 38"
    assert bad(found)[0].text == "frame 3 came where 2 was due; it is dropped, ask for them again"
    assert (receiver.received, receiver.missed) == (1, 38)
    assert [one.seq for one in frames(receiver.feed(b"".join(good[1:])))] == [*range(2, 41)]
    assert [one.reason for one in bad(receiver.feed(by_hand(HISTORY, b"", seq=42)))] == ["gap"]


def test_ack_and_hello_stand_outside_the_order() -> None:
    receiver = Receiver()
    found = receiver.feed(numbered(1)[0] + hello("s", 0) + numbered(3)[2] + acknowledgement(9) + numbered(2)[1])
    assert [one.kind for one in frames(found)] == [HISTORY, HELLO, ACK, HISTORY]


def test_reconnect_forgets_half_a_frame() -> None:
    """Torn at every byte: the old half never swallows the new connection's first frames."""
    good = numbered(2)
    for cut in range(len(good[0])):
        receiver = Receiver()
        assert receiver.feed(good[0][:cut]) == []
        receiver.reconnect()
        assert [one.seq for one in frames(receiver.feed(good[0] + good[1]))] == [1, 2]
        assert receiver.skipped_bytes == cut


# --- the sender ----------------------------------------------------------------------------------------------


def test_sender_keeps_until_acknowledged() -> None:
    sender = Sender()
    sent = [sender.push(HISTORY, bytes([one])) for one in range(5)]
    assert (sender.sent, sender.acknowledged, len(sender)) == (5, 0, 5)
    sender.acknowledge(2)
    sender.acknowledge(1)
    assert (sender.acknowledged, len(sender)) == (2, 3)
    assert sender.resend(2) == sent[2:]
    assert sender.resend(4) == sent[4:]
    assert sender.resend(5) == []
    assert sender.resend(5) == []


def test_sender_refuses_what_was_never_sent() -> None:
    """An acknowledgement of another session must not empty this one's queue."""
    sender = Sender()
    sender.push(HISTORY, b"")
    for seq in (2, 0xFFFFFFFF):
        with pytest.raises(AnsweredWrongly, match=rf"frame {seq} is acknowledged; the last one sent is 1"):
            sender.acknowledge(seq)
        with pytest.raises(AnsweredWrongly):
            sender.resend(seq)
    assert len(sender) == 1
    sender.acknowledge(1)
    with pytest.raises(AnsweredWrongly, match=r"frames after 0 are asked for again; those up to 1 are gone"):
        sender.resend(0)


def test_sender_is_bounded_in_frames() -> None:
    sender = Sender(max_frames=3)
    for _ in range(3):
        sender.push(HISTORY, b"x")
    for _ in range(2):
        with pytest.raises(Overrun, match=r"3 frames of 63 bytes wait .* since 0; at most 3 frames") as full:
            sender.push(HISTORY, b"x")
    assert isinstance(full.value, LinkLost)
    assert (sender.sent, len(sender)) == (3, 3), "nothing was queued, no number was spent"
    sender.acknowledge(1)
    assert sender.push(CONTROL, b"y") == by_hand(CONTROL, b"y", seq=4)


def test_sender_is_bounded_in_bytes() -> None:
    sender = Sender(max_bytes=2 * MAX_FRAME)
    sender.push(HISTORY, bytes(MAX_BODY))
    sender.push(HISTORY, bytes(MAX_BODY))
    with pytest.raises(Overrun):
        sender.push(HISTORY, b"")
    sender.acknowledge(1)
    sender.push(HISTORY, bytes(MAX_BODY))
    with pytest.raises(Overrun):
        sender.push(HISTORY, b"")


def test_numbers_end_before_they_wrap() -> None:
    sender = Sender()
    sender.sent = sender.acknowledged = link.MAX_SEQUENCE - 1
    assert sender.push(HISTORY, b"") == by_hand(HISTORY, b"", seq=link.MAX_SEQUENCE)
    with pytest.raises(Overrun, match="was the last; start a new session"):
        sender.push(HISTORY, b"")


@pytest.mark.parametrize("kind", [ACK, HELLO, 4, -1])
def test_push_numbers_history_and_control_only(kind: int) -> None:
    with pytest.raises(AskedWrongly, match="push takes HISTORY"):
        Sender().push(kind, b"")


# --- HELLO ---------------------------------------------------------------------------------------------------


@given(st.text(min_size=1, max_size=40), st.integers(0, link.MAX_SEQUENCE))
def test_hello_says_what_was_said(session: str, received: int) -> None:
    [frame] = Receiver().feed(hello(session, received))
    assert isinstance(frame, Frame)
    assert (frame.kind, frame.seq, frame.ack) == (HELLO, 0, received)
    assert read_hello(frame.body) == Hello(session, received)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b'"s"',
        b"{}",
        b"[" * 60000,
        b'{"session":"s"}',
        b'{"session":1,"received":0}',
        b'{"session":"","received":0}',
        b'{"session":"' + b"s" * 129 + b'","received":0}',
        b'{"session":"s","received":-1}',
        b'{"session":"s","received":4294967296}',
        b'{"session":"s","received":true}',
        b'{"session":"s","received":1.0}',
        b'{"session":"s","received":NaN}',
    ],
    ids=lambda body: body[:30].decode("latin-1"),
)
def test_bad_hello(body: bytes) -> None:
    with pytest.raises(MalformedBytes) as wrong:
        read_hello(body)
    assert (wrong.value.structure, wrong.value.data) == ("HELLO", body)


@given(st.binary(max_size=80))
def test_any_hello(body: bytes) -> None:
    try:
        read_hello(body)
    except MalformedBytes:
        return
    assert isinstance(json.loads(body), dict)


# --- two ends and a bad wire ---------------------------------------------------------------------------------


class End:
    """One side as the agent and the controller play it: numbers, acknowledges, asks again when it must."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sender = Sender()
        self.receiver = Receiver()
        self.out = bytearray()
        self.taken: list[bytes] = []

    def say(self, body: bytes) -> None:
        self.out += self.sender.push(HISTORY, body, ack=self.receiver.received)

    def connect(self) -> None:
        self.receiver.reconnect()
        self.out = bytearray(hello(self.name, self.receiver.received))

    def hear(self, data: bytes) -> None:
        found = self.receiver.feed(data)
        for one in found:
            if isinstance(one, BadFrame):
                continue
            if one.kind == HELLO:
                for frame in self.sender.resend(read_hello(one.body).received):
                    self.out += frame
                continue
            self.sender.acknowledge(one.ack)
            if one.kind == HISTORY:
                self.taken.append(one.body)
        if bad(found):
            self.out += hello(self.name, self.receiver.received)
        elif any(one.kind == HISTORY for one in frames(found)):
            self.out += acknowledgement(self.receiver.received)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 1), st.integers(0, 5)),
        st.tuples(st.just("move"), st.integers(0, 1), st.integers(0, 400)),
        st.tuples(st.just("cut"), st.integers(0, 1), st.integers(0, 400)),
        st.tuples(st.just("lose"), st.integers(0, 1), st.integers(1, 60)),
        st.tuples(st.just("spoil"), st.integers(0, 1), st.integers(0, 400)),
    ),
    max_size=60,
)


@given(steps)
@example([("say", 0, 1), ("cut", 0, 0), ("say", 0, 2), ("move", 0, 400), ("cut", 1, 10)])
def test_nothing_lost_nothing_doubled(script: list[tuple[str, int, int]]) -> None:
    """Any mixture of torn connections, lost and spoilt bytes, both ways at once: all arrives, in order, once."""
    ends = (End("agent"), End("controller"))
    said: tuple[list[bytes], list[bytes]] = ([], [])

    def move(side: int, count: int) -> None:
        here, there = ends[side], ends[1 - side]
        data = bytes(here.out[:count])
        del here.out[:count]
        there.hear(data)

    for end in ends:
        end.connect()
    for do, side, number in script:
        here = ends[side]
        if do == "say":
            body = b"%d from %d " % (len(said[side]), side) + BODIES[number]
            said[side].append(body)
            here.say(body)
        elif do == "move":
            move(side, number)
        elif do == "cut":
            move(side, number)
            for end in ends:
                end.connect()
        elif do == "lose":
            del here.out[:number]
        elif here.out:
            here.out[number % len(here.out)] ^= 0x10
    for end in ends:
        end.connect()
    for _ in range(20):
        for side in (0, 1):
            move(side, len(ends[side].out))
    assert not ends[0].out and not ends[1].out, "they come to rest"
    assert (ends[1].taken, ends[0].taken) == said
    assert len(ends[0].sender) == len(ends[1].sender) == 0, "and everything is acknowledged"


def test_import_stays_light() -> None:
    """The guest imports this under TCG: crcmod, json and struct, and nothing that does I/O."""
    program = (
        "import sys, json, typing, struct, collections, crcmod.predefined; allowed = set(sys.modules);"
        "import dcdbackend.link; print(*sorted(set(sys.modules) - allowed))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert set(ran.stdout.split()) == {"dcdbackend", "dcdbackend.crc", "dcdbackend.errors", "dcdbackend.link"}
