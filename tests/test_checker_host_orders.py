"""checker: the search over orders with a Linux host in it, against brute force on short histories.

The host reads a release request, answers and clears, in that order; users claim and look at sysfs at the same time.
Brute force tries every order that the lines permit, one after the other, and knows nothing of branches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from host_history import BLIND, Lines, convicted, header, world_of, write
from hypothesis import given, settings
from hypothesis import strategies as st

from dcdbackend.checker import check
from dcdbackend.checker.both import Both, Pair
from dcdbackend.checker.explain import summary
from dcdbackend.checker.host import watch_of
from dcdbackend.history import Op
from dcdbackend.model.state import Completed, Next, config_of

Value = dict[str, Any]
M = 1 << 20
TAG = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"
HEAD = header("v11")
SCRIPT = "region 0+1G; add 0+4M/a; add 8M+4M; release 0+4M/a"


def prefix() -> Lines:
    """What comes before: two extents are there, nothing overlaps."""
    lines = Lines()
    for step in world_of("v11", SCRIPT).told[:-1]:
        write(lines, step, step.commands)
    return lines


PREFIX = prefix().ops


class Call(NamedTuple):
    """An operation: who, what, when it begins and ends, and what came back."""

    process: str
    f: str
    sent: Value
    begin: int
    end: int
    kind: str
    received: Value


def host_calls(given_back: bool) -> list[tuple[str, Value, Value]]:
    """The host's part: it reads the request, gives back or not, and clears."""
    lines = Lines()
    step = world_of("v11", SCRIPT).told[-1]
    write(lines, step, tuple([one for one in step.commands if given_back or one.f != "give_back"]))
    begins = {op.op: op for op in lines.ops if op.type == "invoke"}
    return [(op.f, begins[op.op].value, op.value) for op in lines.ops if op.type != "invoke"]


@st.composite
def programs(draw: st.DrawFn) -> list[Call]:
    """The host's commands one after the other, and up to three operations of users that overlap them anyhow."""
    calls: list[Call] = []
    at = 0
    for f, sent, received in host_calls(draw(st.booleans())):
        begin = at + 1 + draw(st.integers(0, 1))
        at = begin + 1 + draw(st.integers(0, 1))
        calls.append(Call("host.mem0", f, sent, begin, at, "ok", received))
    for number in range(draw(st.integers(1, 2))):
        begin = draw(st.integers(0, at))
        end = begin + 1 + draw(st.integers(0, 6))
        what = draw(st.sampled_from(["tag", "untagged", "size", "sight"]))
        process = f"user.{number}"
        if what == "sight":
            value: Value = {"region": "region0", "available": draw(st.sampled_from([0, 4 * M, 8 * M]))}
            calls.append(Call(process, "sysfs", {"region": "region0"}, begin, end, "ok", value))
            continue
        claim: Value = {"file": "uuid", "dax": "dax0.0", "text": TAG if what == "tag" else "0"}
        if what == "size":
            claim = {"file": "size", "dax": "dax0.0", "text": "0"}
        error = draw(st.sampled_from(["", "", "-ENOENT", "-EBUSY"]))
        calls.append(
            Call(process, "claim", claim, begin, end, "fail" if error else "ok", {"error": error} if error else {})
        )
    return calls


def history(calls: list[Call]) -> list[Op]:
    """The prefix and the calls, at their times."""
    moments = sorted(
        [(call.begin, 0, n) for n, call in enumerate(calls)] + [(call.end, 1, n) for n, call in enumerate(calls)]
    )
    ops = list(PREFIX)
    numbers: dict[int, int] = {}
    for _, is_end, which in moments:
        call, n = calls[which], len(ops) + 1
        if is_end:
            ops.append(Op(n, numbers[which], call.process, call.kind, call.f, ops[-1].t_ns + 1000, call.received))
        else:
            numbers[which] = n
            sent = {"device": "mem0", **call.sent}
            ops.append(Op(n, n, call.process, "invoke", call.f, ops[-1].t_ns + 1000, sent))
    return ops


def completed(ops: list[Op]) -> list[tuple[Op, Op]]:
    """Begin and end of each operation, in the order of their ends."""
    begins = {op.op: op for op in ops if op.type == "invoke"}
    return [(begins[op.op], op) for op in ops if op.type != "invoke"]


def run(model: Both, state: Pair, pairs: list[tuple[Op, Op]]) -> tuple[Pair, int]:
    """The state after these operations in this order, and how often the host broke a rule."""
    wrong = 0
    for begin, end in pairs:
        done = Completed(end.f, begin.value, end.type, end.value, begin.process, begin.t_ns, end.t_ns)
        found = model.step(state, done)
        assert isinstance(found, Next)
        after: Any = found.state
        state = after
        wrong += len([one for one in found.findings if one.outcome == "fail"])
    return state, wrong


def orders(pairs: list[tuple[Op, Op]]) -> Iterator[list[tuple[Op, Op]]]:
    """Every order in which nothing comes before what had ended when it began."""
    if not pairs:
        yield []
    for at, first in enumerate(pairs):
        rest = [*pairs[:at], *pairs[at + 1 :]]
        if all(first[0].n < other[1].n for other in rest):
            for order in orders(rest):
                yield [first, *order]


def innocent(ops: list[Op]) -> bool:
    """Whether in some order that the lines permit the host breaks nothing."""
    watch = watch_of(HEAD, HEAD.devices[0])
    assert watch is not None
    model = Both(BLIND, "mem0", watch)
    before = completed(ops[: len(PREFIX)])
    state, wrong = run(model, model.initial(config_of(HEAD.devices[0])), before)
    assert not wrong
    own = completed(ops)[len(before) :]
    for order in orders(own):
        after, wrong = run(model, state, list(order))
        if wrong:
            continue
        end = model.finish(after, ops[-1].t_ns, frozenset())
        if not [one for one in end.findings if one.outcome == "fail"]:
            return True
    return False


@given(programs())
@settings(max_examples=150, deadline=None)
def test_the_search_finds_for_hosts_what_brute_force_finds(calls: list[Call]) -> None:
    ops = history(calls)
    found = check(ops, HEAD, device=BLIND)
    assert bool(convicted(found)) == (not innocent(ops)), "\n".join(summary(found))
