"""checker: the search over orders against brute force on short histories with overlapping and unknown operations."""

from __future__ import annotations

from itertools import permutations
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from dcdbackend.checker import check
from dcdbackend.checker.notation import header
from dcdbackend.history import Op
from dcdbackend.model import device as model
from dcdbackend.model.reply import device, reply
from dcdbackend.model.state import Completed, State, Violation, config_of

BLOCK = 2 << 20
HEAD = header(regions=1)
CONFIG = config_of(HEAD.devices[0])


class Call(NamedTuple):
    """An operation of the program: when it begins, takes effect and ends, as places in one line of time."""

    f: str
    sent: dict[str, Any]
    begin: int
    effect: int
    end: int
    unknown: bool


def manager(at: int, f: str = "add") -> dict[str, Any]:
    return {
        "device": "mem0", "via": "qmp", "host_id": 0, "policy": "prescriptive", "region": 0, "tag": None,
        "extents": [{"offset": at * BLOCK, "length": BLOCK}], **({"forced": False} if f == "release" else {}),
    }  # fmt: skip


def ranges(*at: int) -> dict[str, Any]:
    return {"device": "mem0", "flags": 0, "ranges": [[cell * BLOCK, BLOCK] for cell in at]}


cell = st.integers(0, 1)
operation = st.one_of(
    cell.map(lambda at: ("add", manager(at))),
    cell.map(lambda at: ("release", manager(at, "release"))),
    st.lists(cell, max_size=2).map(lambda at: ("answer", ranges(*at))),
    cell.map(lambda at: ("give_back", ranges(at))),
    cell.map(lambda at: ("block", {"device": "mem0", "region": 0, "offset": at * BLOCK})),
    st.just(("extents", {"device": "mem0", "start": 0, "count": 8})),
    st.just(("events", {"device": "mem0", "log": 4})),
)


@st.composite
def programs(draw: st.DrawFn) -> list[Call]:
    """Up to six operations, each with three places in time of which the middle one is its effect."""
    found = draw(st.lists(operation, min_size=2, max_size=6))
    calls: list[Call] = []
    for number, (f, sent) in enumerate(found):
        begin = number * 4 - draw(st.integers(0, 7))
        effect = begin + 1 + draw(st.integers(0, 6))
        unknown = draw(st.integers(0, 5)) == 0 and f in ("add", "answer", "give_back")
        calls.append(Call(f, sent, begin, effect, effect + 1 + draw(st.integers(0, 4)), unknown))
    return calls


def history(calls: list[Call]) -> list[Op]:
    """The lines of the program, run on the right device at the places where effects are."""
    there = device(CONFIG)
    ends: dict[int, tuple[str, dict[str, Any]]] = {}
    for number, call in sorted(enumerate(calls), key=lambda pair: (pair[1].effect, pair[0])):
        there, kind, received = reply(there, call.f, call.sent)
        ends[number] = ("info", {"reason": "late"}) if call.unknown else (kind, received)
    moments = [(call.begin, number, 0) for number, call in enumerate(calls)]
    moments += [(call.end, number, 1) for number, call in enumerate(calls)]
    ops: list[Op] = []
    begun: dict[int, int] = {}
    for _, number, last in sorted(moments):
        n = len(ops) + 1
        f, sent = calls[number].f, calls[number].sent
        if not last:
            begun[number] = n
            ops.append(Op(n, n, f"p{number}", "invoke", f, n, sent))
        else:
            kind, received = ends[number]
            ops.append(Op(n, begun[number], f"p{number}", kind, f, n, received))
    return ops


def possible(ops: list[Op]) -> bool:
    """Whether some order of the operations, within their lines, is permitted by the model: all of them are tried."""
    begins = {op.op: op for op in ops if op.type == "invoke"}
    ends = {op.op: op for op in ops if op.type != "invoke"}
    known = [op for op in begins if ends[op].type != "info"]
    unknown = [op for op in begins if ends[op].type == "info"]
    for count in range(len(unknown) + 1):
        for chosen in permutations(unknown, count):
            for order in permutations([*known, *chosen]):
                same = [op for op in order if op in chosen] == list(chosen)
                if same and _in_time(order, begins, ends) and _permitted(order, begins, ends):
                    return True
    return False


def _in_time(order: tuple[int, ...], begins: dict[int, Op], ends: dict[int, Op]) -> bool:
    for at, op in enumerate(order):
        for later in order[at + 1 :]:
            if ends[later].type != "info" and ends[later].n < begins[op].n:
                return False
    return True


def _permitted(order: tuple[int, ...], begins: dict[int, Op], ends: dict[int, Op]) -> bool:
    states: list[State] = [model.initial(CONFIG)]
    for op in order:
        end = ends[op]
        done = Completed(end.f, begins[op].value, end.type, end.value)
        after: list[State] = []
        for state in states:
            if end.type == "info":
                after += model.possible(state, done)
                continue
            found = model.step(state, done)
            if not isinstance(found, Violation):
                after.append(found.state)
        states = after
    return bool(states)


def convicted(ops: list[Op]) -> bool:
    return any(finding.subject == "device" for finding in check(ops, HEAD).failed)


@given(programs())
@settings(max_examples=300, deadline=None)
def test_what_a_right_device_did_is_permitted(calls: list[Call]) -> None:
    assert not convicted(history(calls))


@given(programs(), st.integers(0, 5), st.sampled_from(["free", "pending", "accepted", 0, 2, 15, 30]))
@settings(max_examples=400, deadline=None)
def test_the_search_finds_what_brute_force_finds(calls: list[Call], which: int, lie: Any) -> None:
    """One end is replaced by a lie; both must agree on whether some order explains the whole."""
    ops = history(calls)
    ends = [op for op in ops if op.type in ("ok", "fail")]
    if ends:
        end = ends[which % len(ends)]
        if end.f == "block" and isinstance(lie, str):
            ops[end.n - 1] = end._replace(value={"state": lie})
        elif end.f in ("answer", "give_back") and isinstance(lie, int):
            ops[end.n - 1] = end._replace(type="fail" if lie else "ok", value={"rc": lie})
        elif end.f in ("add", "release"):
            flipped = "fail" if end.type == "ok" else "ok"
            value = {"error": "E", "desc": "no"} if flipped == "fail" else {}
            ops[end.n - 1] = end._replace(type=flipped, value=value)
    assert convicted(ops) == (not possible(ops))
