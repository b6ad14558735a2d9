"""Host U decides: every policy, every break, and its own account of what it holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcdbackend.errors import AskedWrongly
from dcdbackend.model.host import Event
from dcdbackend.model.permitted import MORE, Command, Range
from dcdbackend.model.userspace import (
    ADDS,
    BREAKS,
    RELEASES,
    Blocks,
    User,
    can_break,
    ended,
    follow,
    settled,
    turn,
)
from dcdbackend.rules import CLAUSES
from dcdbackend.wire.dcd import CapacityResponse

M = 1 << 20
OFFER: tuple[Range, ...] = ((0, 8 * M), (16 * M, 4 * M), (32 * M, 4 * M))
FREE: Range = (1022 * M, 2 * M)


def fresh(most: int = 85) -> User:
    return User("mem0", (Blocks(0, 1024 * M, 2 * M),), most)


def records(kind: int, ranges: tuple[Range, ...], open_: bool = False) -> list[Event]:
    last = len(ranges) - 1
    return [Event(kind, *pair, more=open_ or at < last) for at, pair in enumerate(ranges)]


def take(user: User, kind: int, ranges: tuple[Range, ...]) -> tuple[User, list[Command]]:
    """A chain in; its commands, all sent; those that the device would refuse are not told apart here."""
    sent: list[Command] = []
    for event in records(kind, ranges):
        user, commands = turn(user, event)
        sent += commands
    return user, sent


def run(user: User, kind: int, ranges: tuple[Range, ...]) -> User:
    user, commands = take(user, kind, ranges)
    for command in commands:
        user = ended(user, command, True)
    return settled(user)


def named(commands: list[Command]) -> list[tuple[str, tuple[Range, ...]]]:
    return [(command.f, command.ranges) for command in commands]


@pytest.mark.parametrize(
    ("policy", "answers"),
    [
        ({"kind": "accept"}, [OFFER]),
        ({"kind": "refuse"}, [()]),
        ({"kind": "never"}, []),
        ({"kind": "reverse"}, [OFFER[::-1]]),
        ({"kind": "several"}, [OFFER[:1], OFFER[1:2], OFFER[2:]]),
        ({"kind": "several", "each": 2}, [OFFER[:2], OFFER[2:]]),
        ({"kind": "stray"}, [(*OFFER, FREE)]),
        ({"kind": "subset", "keep": [0, 2, 9]}, [(OFFER[0], OFFER[2])]),
        ({"kind": "subset", "keep": [0], "first_bytes": 2 * M}, [((0, 2 * M),)]),
        ({"kind": "subset", "last_bytes": 2 * M, "keep": [0]}, [((6 * M, 2 * M),)]),
        ({"kind": "subset", "parts": [[1, 2 * M, 2 * M], [7, 0, 1]]}, [((18 * M, 2 * M),)]),
        ({"kind": "late", "delay_s": 3, "then": {"kind": "refuse"}}, [()]),
        ({"kind": "late"}, [OFFER]),
    ],
    ids=lambda value: str(value)[:60],
)
def test_offers(policy: dict[str, object], answers: list[tuple[Range, ...]]) -> None:
    user = follow(fresh(), policy, {"kind": "release"}, None)
    _, commands = take(user, 0, OFFER)
    assert named(commands) == [("answer", ranges) for ranges in answers]
    assert [command.flags for command in commands] == [MORE] * (len(answers) - 1) + [0] * bool(answers)
    delay = {"late": 1_000_000_000 * int(policy.get("delay_s", 1))} if policy["kind"] == "late" else {}  # type: ignore[call-overload]
    assert [command.after_ns for command in commands] == [delay.get(str(policy["kind"]), 0)] * len(answers)


def test_return() -> None:
    """Unasked: what was taken is released at once."""
    user = follow(fresh(), {"kind": "return"}, {"kind": "decline"}, None)
    assert named(take(user, 0, OFFER)[1]) == [("answer", OFFER), ("give_back", OFFER)]
    assert run(user, 0, OFFER).held.total_bytes == 0


def test_payload() -> None:
    """What does not fit goes out as several."""
    user = follow(fresh(most=2), {"kind": "accept"}, {"kind": "release"}, None)
    user, commands = take(user, 0, OFFER)
    assert [(len(command.ranges), command.flags) for command in commands] == [(2, MORE), (1, 0)]
    for command in commands:
        user = ended(user, command, True)
    assert [len(command.ranges) for command in take(settled(user), 1, OFFER)[1]] == [2, 1]


@pytest.mark.parametrize(
    ("policy", "asked", "given_back"),
    [
        ({"kind": "release"}, OFFER[:1], [OFFER[:1]]),
        ({"kind": "release"}, ((0, 64 * M),), [OFFER]),
        ({"kind": "release"}, ((512 * M, 2 * M),), []),
        ({"kind": "decline"}, OFFER, []),
        ({"kind": "part", "first_bytes": 2 * M}, OFFER[:2], [((0, 2 * M), (16 * M, 2 * M))]),
        ({"kind": "part", "offset_bytes": 4 * M}, OFFER[:2], [((4 * M, 4 * M),)]),
        ({"kind": "part", "offset_bytes": 2 * M, "length_bytes": 2 * M}, OFFER[:1], [((2 * M, 2 * M),)]),
        ({"kind": "late", "then": {"kind": "decline"}}, OFFER, []),
        ({"kind": "late", "delay_s": 0.5}, OFFER[1:2], [OFFER[1:2]]),
    ],
    ids=lambda value: str(value)[:60],
)
def test_requests(policy: dict[str, object], asked: tuple[Range, ...], given_back: list[tuple[Range, ...]]) -> None:
    user = run(follow(fresh(), {"kind": "accept"}, policy, None), 0, OFFER)
    _, commands = take(user, 1, asked)
    assert named(commands) == [("give_back", ranges) for ranges in given_back]


def test_what_is_not_answered() -> None:
    """Records of another UUID, of types that never reach a host, and open chains; a forced release takes effect."""
    user = run(fresh(), 0, OFFER)
    for event in (Event(0, 64 * M, 2 * M, known=False), Event(4, 0, 2 * M), Event(0, 64 * M, 2 * M, more=True)):
        assert turn(user, event)[1] == ()
    after, commands = turn(user, Event(2, *OFFER[0]))
    assert commands == () and not after.held.overlaps(*OFFER[0])


def test_account() -> None:
    """A refused answer takes nothing; what was left out is nobody's; a chain is staged until More is clear."""
    user, commands = take(fresh(), 0, OFFER)
    assert user.offered.covers(*OFFER[0]) and not user.held
    assert not settled(ended(user, commands[0], False)).offered
    assert settled(ended(user, commands[0], True)).held.covers(*OFFER[2])
    half = follow(fresh(), {"kind": "subset", "keep": [1]}, {"kind": "release"}, None)
    assert [(one.start, one.length) for one in run(half, 0, OFFER).held] == [OFFER[1]]


BROKEN = {
    "DEV-6.inside": (0, ("answer", (*OFFER, FREE))),
    "DEV-6.order": (0, ("answer", OFFER[::-1])),
    "DEV-6.disjoint": (0, ("answer", (OFFER[0], OFFER[0]))),
    "DEV-6.aligned": (0, ("answer", ((0, M),))),
    "DEV-7.pending": (0, ("give_back", OFFER[:1])),
    "DEV-7.some": (0, ("give_back", ())),
    "DEV-7.held": (1, ("give_back", (FREE,))),
    "DEV-7.disjoint": (1, ("give_back", (OFFER[0], OFFER[0]))),
    "DEV-7.aligned": (1, ("give_back", ((0, M),))),
}


@pytest.mark.parametrize("clause", BROKEN)
def test_breaks(clause: str) -> None:
    """The bad command comes first; what the policy says follows where the device refused it."""
    kind, bad = BROKEN[clause]
    user = run(fresh(), 0, OFFER) if kind else fresh()
    user = follow(user, {"kind": "accept"}, {"kind": "release"}, clause)
    _, commands = take(user, kind, OFFER)
    assert named(commands)[0] == bad
    assert named(commands[1:]) == [("answer" if kind == 0 else "give_back", OFFER)]
    stands_for = bad[0] == commands[1].f and clause != "DEV-7.held"
    assert commands[1].unless == (0 if stands_for else None)
    assert clause in CLAUSES


def test_breaks_that_need_a_past() -> None:
    """DEV-6.accepted needs something held; DEV-6.oldest a second chain; DEV-6.order two ranges, or a long one."""
    user = follow(fresh(), {"kind": "accept"}, {"kind": "release"}, "DEV-6.accepted")
    assert not can_break(user, records(0, OFFER[:1])[0])
    user = run(user, 0, OFFER[:1])
    assert named(take(user, 0, OFFER[1:])[1])[0] == ("answer", (*OFFER[1:], (0, 2 * M)))
    user = follow(fresh(), {"kind": "accept"}, {"kind": "release"}, "DEV-6.oldest")
    user, none = take(user, 0, OFFER[:1])
    assert none == [] and user.aside
    _, commands = take(user, 0, OFFER[1:2])
    assert named(commands) == [("answer", OFFER[1:2]), ("answer", OFFER[:1]), ("answer", OFFER[1:2])]
    assert [command.unless for command in commands] == [None, None, 0]
    assert follow(user, {"kind": "accept"}, {"kind": "release"}, None).aside == ()
    user = follow(fresh(), {"kind": "accept"}, {"kind": "release"}, "DEV-6.order")
    assert named(take(user, 0, OFFER[:1])[1])[0] == ("answer", ((2 * M, 6 * M), (0, 2 * M)))
    assert can_break(user, Event(0, *OFFER[0])) and not can_break(user, Event(0, 0, 2 * M))


def test_short_payload() -> None:
    """DEV-8.16h: a count of 2 over one range; the rest as the wire has it."""
    user = follow(fresh(), {"kind": "accept"}, {"kind": "release"}, "DEV-8")
    _, commands = take(user, 0, OFFER)
    payload = commands[0].payload
    assert payload is not None
    assert payload == (2).to_bytes(4, "little") + CapacityResponse(ranges=OFFER[:1], flags=0).to_bytes()[4:]


def test_every_break_is_shown() -> None:
    assert set(BREAKS) == {*BROKEN, "DEV-6.accepted", "DEV-6.oldest", "DEV-8.16h"}


@pytest.mark.parametrize(
    ("add", "release", "breaks", "text"),
    [
        ({"kind": "maybe"}, {"kind": "release"}, None, "the kinds are accept"),
        ("accept", {"kind": "release"}, None, "the kinds are accept"),
        ({"kind": "accept", "keep": [1]}, {"kind": "release"}, None, "has no 'keep'"),
        ({"kind": "subset", "keep": [-1]}, {"kind": "release"}, None, "a list of indices"),
        ({"kind": "late", "delay_s": True}, {"kind": "release"}, None, "seconds from 0"),
        ({"kind": "late", "then": {"kind": "late"}}, {"kind": "release"}, None, "add the delays"),
        ({"kind": "accept"}, {"kind": "accept"}, None, "the kinds are release"),
        ({"kind": "accept"}, {"kind": "release"}, "DEV-1", "host U can break DEV-6.inside"),
        ({"kind": "accept"}, {"kind": "release"}, 7, "host U can break"),
    ],
)
def test_asked_wrongly(add: object, release: object, breaks: object, text: str) -> None:
    with pytest.raises(AskedWrongly, match=text):
        follow(fresh(), add, release, breaks)


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.integers(0, 20), st.integers(1, 4)), max_size=12),
    st.sampled_from([{"kind": kind} for kind in ADDS]),
    st.sampled_from([{"kind": kind} for kind in RELEASES]),
    st.sampled_from([None, *BREAKS]),
)
def test_any_run(happens: list[tuple[int, int, int]], add: object, release: object, breaks: str | None) -> None:
    """Unbroken, what it sends keeps DEV-6 and DEV-7 by its own account, but for the policies that say otherwise."""
    user = follow(fresh(), add, release, breaks)
    for kind, at, length in happens:
        event = Event(kind, at * 2 * M, length * 2 * M)
        before = user
        user, commands = turn(user, event)
        for command in commands:
            if breaks is None and command.f == "give_back" and before.add.kind != "return":
                assert all(before.held.covers(*pair) for pair in command.ranges), "DEV-7.held"
            if breaks is None and command.f == "answer" and before.add.kind != "stray":
                assert all(pair == (event.start, event.length) for pair in command.ranges), "DEV-6.inside"
            user = ended(user, command, command.payload is None)
        user = settled(user)
        assert not user.offered and not user.open
