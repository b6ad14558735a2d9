"""model.whole: several hosts, what a device may choose, forced release, regions, tags; and a naive map of owners."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from wrong.devices import DEVICES, FULL, TAG

from dcdbackend.checker import check
from dcdbackend.checker.notation import header, parse, spell
from dcdbackend.errors import BadHistory
from dcdbackend.history import Op, op_line
from dcdbackend.model import device as mailbox
from dcdbackend.model import whole as model
from dcdbackend.model.pool import enter, leave, rest_of, whole
from dcdbackend.model.reply import Device, device, reply
from dcdbackend.model.state import Completed, Config, Limits, Next, Region, State, Violation, config_of, key
from dcdbackend.model.witness import standing
from dcdbackend.rules import CLAUSES

BLOCK = 2 << 20
BLOCKS = 10
SIZE = 256 << 20
HISTORIES = Path(__file__).parent / "histories"
NAMES = frozenset(("free", "contiguous", "prescriptive", "enable-shared-access"))
LIMITS = Limits(hosts=(0, 1), selection=NAMES, removal=frozenset(("tag-based", "prescriptive")), references=True)
REGIONS = (Region(0, 0, SIZE, SIZE, BLOCK), Region(1, SIZE, SIZE, SIZE, BLOCK, sharable=True))
CONFIG = Config(REGIONS, limits=LIMITS)
TAGS = [f"{number:032x}" for number in (1, 2)]


def named(host: int, *ranges: tuple[int, int], tag: str | None = None, **more: Any) -> dict[str, Any]:
    extents = [{"dpa": dpa, "length": length, "tag": tag or "00" * 16, "sequence": 0} for dpa, length in ranges]
    return {
        "device": "mem0", "via": "fm", "host_id": host, "policy": "prescriptive", "region": 0, "tag": tag,
        "extents": extents, **more,
    }  # fmt: skip


def chosen(host: int, policy: str, length: int, region: int = 0, tag: str | None = None) -> dict[str, Any]:
    return named(host, tag=tag, policy=policy, length=length, region=region)


def sent(host: int, *ranges: tuple[int, int]) -> dict[str, Any]:
    return {"device": "mem0", "host_id": host, "flags": 0, "ranges": [list(pair) for pair in ranges]}


def cells(span: tuple[int, int]) -> list[int]:
    return [at // BLOCK for at in range(span[0], span[0] + span[1], BLOCK)]


spans = st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, 3)).map(lambda pair: (pair[0] * BLOCK, pair[1] * BLOCK))
hosts = st.integers(0, 1)


class TwoHosts(RuleBasedStateMachine):
    """A device with two hosts that chooses by a seed, against a map of who has which block; judged at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.device: Device = device(CONFIG)
        self.judge: State = model.initial(CONFIG)
        self.has: list[dict[int, str]] = [{}, {}]
        self.read: list[list[int]] = [[], []]

    def do(self, f: str, value: dict[str, Any], *, legal: bool | None = None) -> bool:
        self.device, kind, received = reply(self.device, f, value)
        if legal is not None:
            assert (kind == "ok") == legal, (f, value, received, self.has)
        found = model.step(self.judge, Completed(f, value, kind, received))
        assert isinstance(found, Next), found
        assert all(finding.subject == "host" for finding in found.findings), found.findings
        assert set(found.judged) <= set(CLAUSES)
        self.judge = found.state
        return kind == "ok"

    def part(self, host: int) -> State:
        return enter(whole(self.device.state), host)

    def free(self, span: tuple[int, int]) -> bool:
        return not any(cell in has for cell in cells(span) for has in self.has)

    def offered(self, host: int) -> None:
        """What is pending now and was not before goes into the map: the device chose it."""
        for extent in self.part(host).pending:
            for cell in cells((extent.start, extent.length)):
                assert self.has[host].get(cell, "pending") == "pending"
                self.has[host][cell] = "pending"

    @rule(seed=st.integers(0, 1 << 40))
    def another_seed(self, seed: int) -> None:
        self.device = self.device._replace(seed=seed)

    @rule(host=hosts, span=spans)
    def add(self, host: int, span: tuple[int, int]) -> None:
        unread = [choice for choice in rest_of(whole(self.judge)).choices if choice.length]
        if not unread and self.do("add", named(host, span), legal=self.free(span)):
            self.offered(host)

    @rule(host=hosts, policy=st.sampled_from(["free", "contiguous"]), blocks=st.integers(1, 6))
    def choose(self, host: int, policy: str, blocks: int) -> None:
        before = self.part(host).pending.total_bytes
        if self.do("add", chosen(host, policy, blocks * BLOCK), legal=True):
            self.offered(host)
        assert self.part(host).pending.total_bytes == before + blocks * BLOCK

    @rule(host=hosts, span=spans, sanitize=st.booleans())
    def force(self, host: int, span: tuple[int, int], sanitize: bool) -> None:
        states = {self.has[host].get(cell) for cell in cells(span)}
        if states == {"accepted", "pending"} or any(choice.length for choice in rest_of(whole(self.judge)).choices):
            return  # a range of both kinds, or of what is not told yet: open
        legal = len(states) == 1 and None not in states
        if self.do("force", named(host, span, forced=True, sanitize=sanitize), legal=legal):
            for cell in cells(span):
                del self.has[host][cell]

    @rule(host=hosts)
    def events(self, host: int) -> None:
        self.do("events", {"device": "mem0", "host_id": host, "log": 4}, legal=True)
        self.read[host] = [record.handle for record in self.part(host).log[:15]]

    @rule(host=hosts)
    def clear(self, host: int) -> None:
        if self.read[host]:
            value = {"device": "mem0", "host_id": host, "log": 4, "flags": 0, "handles": self.read[host]}
            self.do("clear", value, legal=True)
            self.read[host] = []

    @rule(host=hosts, data=st.data())
    def answer(self, host: int, data: st.DataObject) -> None:
        chains = self.part(host).chains
        if not chains or enter(whole(self.judge), host).notes.gap or any(chain.gap for chain in chains):
            return  # which offer an answer means is open
        offer = [(extent.start, extent.length) for extent in chains[0].extents]
        some = data.draw(st.lists(st.sampled_from(offer), unique=True))
        mine = enter(whole(self.judge), host).chains
        if some and (not mine or mine[0].choice):
            return  # the host has not read it yet
        self.do("answer", sent(host, *some), legal=True)
        for span in offer:
            for cell in cells(span):
                if span in some:
                    self.has[host][cell] = "accepted"
                else:
                    del self.has[host][cell]

    @rule(host=hosts, span=spans)
    def give_back(self, host: int, span: tuple[int, int]) -> None:
        legal = all(self.has[host].get(cell) == "accepted" for cell in cells(span))
        if self.do("give_back", sent(host, span), legal=legal):
            for cell in cells(span):
                del self.has[host][cell]

    @rule(host=hosts, start=st.integers(0, 3), f=st.sampled_from(["extents", "fm_extents"]))
    def listed(self, host: int, start: int, f: str) -> None:
        legal = start <= len(self.part(host).accepted)
        self.do(f, {"device": "mem0", "host_id": host, "start": start, "count": 20}, legal=legal)

    @rule(host=hosts, at=st.integers(0, BLOCKS), data=st.binary(min_size=8, max_size=12), f=st.sampled_from("slb"))
    def bytes(self, host: int, at: int, data: bytes, f: str) -> None:
        dpa = at * BLOCK
        if f == "s":
            self.do("store", {"device": "mem0", "host_id": host, "dpa": dpa, "data": data.hex(), "side": "host"})
        else:
            name = "load" if f == "l" else "bytes"
            self.do(name, {"device": "mem0", "host_id": host, "dpa": dpa, "length": len(data)})

    @rule(host=hosts)
    def status(self, host: int) -> None:
        self.do("status", {"device": "mem0", "host_id": host}, legal=True)

    @rule(size=st.sampled_from([BLOCK, 2 * BLOCK, BLOCK]), sanitize=st.integers(0, 1))
    def set_region(self, size: int, sanitize: int) -> None:
        value = {"device": "mem0", "region": 1, "block_size": size, "sanitize": sanitize}
        self.do("set_region", value, legal=True)  # nobody has anything of region 1 here

    @invariant()
    def same(self) -> None:
        if self.judge.notes.lost:
            return
        for host in (0, 1):
            ours, theirs = enter(whole(self.judge), host), self.part(host)
            assert ours.accepted == theirs.accepted
            if not any(choice.host_id == host for choice in rest_of(ours).choices):
                assert ours.pending == theirs.pending
            for cell in range(BLOCKS):
                assert standing(theirs, cell * BLOCK) == self.has[host].get(cell, "free")


TestTwoHosts = TwoHosts.TestCase
TestTwoHosts.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


# ---- anything at all, and the device that keeps the rules

_AT = st.integers(0, 7).map(lambda at: (SIZE if at > 3 else 0) + (at % 4) * BLOCK)
_SPANS = st.lists(st.tuples(_AT, st.sampled_from([BLOCK, BLOCK, 2 * BLOCK, 0, 4096])), max_size=2)
_TAG = st.sampled_from([None, *TAGS])
_SIZE = st.sampled_from([BLOCK, 3 * BLOCK, 4096, SIZE])
_PLACE = st.tuples(hosts, st.integers(0, 2))
anything: st.SearchStrategy[tuple[str, dict[str, Any]]] = st.one_of(
    st.builds(lambda host, ranges, tag: ("add", named(host, *ranges, tag=tag)), hosts, _SPANS, _TAG),
    st.builds(
        lambda where, policy, size, tag: ("add", chosen(where[0], policy, size, where[1], tag)),
        _PLACE, st.sampled_from(sorted(NAMES - {"prescriptive"})), _SIZE, _TAG,
    ),
    st.builds(
        lambda f, host, ranges, tag, more: (f, named(host, *ranges, tag=tag, **more)),
        st.sampled_from(["release", "force"]), hosts, _SPANS, _TAG,
        st.fixed_dictionaries({"policy": st.sampled_from(["prescriptive", "tag-based"]), "sanitize": st.booleans()}),
    ),
    st.builds(lambda host: ("events", {"device": "mem0", "host_id": host, "log": 4}), hosts),
    st.builds(lambda host: ("events", {"device": "mem0", "host_id": host, "log": 4}), hosts),
    st.builds(lambda host: ("clear", {"device": "mem0", "host_id": host, "log": 4, "flags": 0, "handles": [0]}), hosts),
    st.builds(lambda host: ("answer", {**sent(host), "all": True}), hosts),
    st.builds(lambda host, ranges: ("answer", sent(host, *ranges)), hosts, _SPANS),
    st.builds(lambda host, ranges: ("give_back", sent(host, *ranges)), hosts, _SPANS),
    st.builds(lambda host: ("give_back", {**sent(host), "all": True}), hosts),
    st.builds(
        lambda f, host, start: (f, {"device": "mem0", "host_id": host, "start": start, "count": 9}),
        st.sampled_from(["extents", "fm_extents", "list_tags"]), hosts, st.integers(0, 2),
    ),
    st.builds(lambda f, tag: (f, {"device": "mem0", "tag": tag}),
              st.sampled_from(["add_reference", "remove_reference"]), st.sampled_from(TAGS)),
    st.builds(
        lambda region, size, flag: (
            "set_region", {"device": "mem0", "region": region, "block_size": size, "sanitize": flag},
        ),
        st.integers(0, 2), st.sampled_from([BLOCK, 2 * BLOCK, 3]), st.integers(0, 1),
    ),
    st.builds(
        lambda host, dpa: ("store", {"device": "mem0", "host_id": host, "dpa": dpa, "data": "0102030405060708"}),
        hosts, _AT,
    ),
    st.builds(
        lambda f, host, dpa: (f, {"device": "mem0", "host_id": host, "dpa": dpa, "length": 8}),
        st.sampled_from(["load", "bytes"]), hosts, _AT,
    ),
    st.builds(
        lambda host, at: ("block", {"device": "mem0", "host_id": host, "region": at // 4, "offset": at % 4 * BLOCK}),
        hosts, st.integers(0, 7),
    ),
    st.builds(lambda host: ("status", {"device": "mem0", "host_id": host}), hosts),
)  # fmt: skip


def filled_in(there: Device, f: str, value: dict[str, Any]) -> dict[str, Any]:
    """What a host can only say when it has looked: all of the offer, all that it holds, all that it has read."""
    part = enter(whole(there.state), value.get("host_id", 0))
    if f == "clear":
        return {**value, "handles": [record.handle for record in part.log if record.handle][:3]}
    if not value.get("all"):
        return value
    found = part.accepted if f == "give_back" else part.chains[0].extents if part.chains else ()
    return {**sent(value["host_id"]), "ranges": [[extent.start, extent.length] for extent in found]}


@given(
    st.lists(anything, min_size=4, max_size=24),
    st.integers(0, 1 << 40),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([None, 3]),
    st.sampled_from([None, 1]),
)
@settings(max_examples=120, deadline=None)
def test_a_device_that_keeps_the_rules_is_never_convicted(
    program: list[tuple[str, dict[str, Any]]], seed: int, first: int | None, extents: int | None, tags: int | None
) -> None:
    """Whatever managers and hosts ask, and whatever it chooses; nor by the guest of its first host."""
    limits = LIMITS._replace(first_sequence=first, supported_extents=extents, supported_tags=tags)
    config = CONFIG._replace(limits=limits)
    there, state = device(config, seed), model.initial(config)
    guest = mailbox.initial(config._replace(view="guest"))
    blind = False  # a guest that has not read of a region's change judges by what the region was
    for f, raw in program:
        value = filled_in(there, f, raw)
        there, kind, received = reply(there, f, value)
        op = Completed(f, value, kind, received)
        found = model.step(state, op)
        assert isinstance(found, Next), (found, program)
        assert all(finding.subject == "host" for finding in found.findings)
        assert {*found.judged, *found.unknown} <= set(CLAUSES)
        state = found.state
        key(state)
        assert isinstance(model.follow(state, op), State)
        blind |= f == "set_region" and kind == "ok"
        if f in ("events", "clear", "answer", "give_back", "extents") and not (value["host_id"] or blind):
            seen = mailbox.step(guest, op)
            assert isinstance(seen, Next), (seen, program)
            guest = seen.state


# ---- what may be reordered

own: st.SearchStrategy[tuple[str, list[int]]] = st.one_of(
    st.lists(st.integers(0, 3), max_size=2, unique=True).map(lambda at: ("answer", at)),
    st.lists(st.integers(0, 3), min_size=1, max_size=2, unique=True).map(lambda at: ("give_back", at)),
    st.just(("events", [])),
    st.just(("extents", [])),
    st.just(("fm_extents", [])),
)


def of_host(host: int, f: str, at: list[int]) -> tuple[str, dict[str, Any]]:
    base = host * 4 * BLOCK
    if f in ("answer", "give_back"):
        return f, sent(host, *[(base + cell * BLOCK, BLOCK) for cell in sorted(at)])
    if f == "events":
        return f, {"device": "mem0", "host_id": host, "log": 4}
    return f, {"device": "mem0", "host_id": host, "start": 0, "count": 20}


@given(st.lists(own, min_size=1, max_size=4), st.lists(own, min_size=1, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_what_two_hosts_do_apart_may_be_reordered(left: Any, right: Any, random: Any) -> None:
    """Each host's operations in its own order, interleaved in two ways: the same ends, the same state."""
    start = device(CONFIG)
    setup = [("add", named(host, *[((4 * host + cell) * BLOCK, BLOCK) for cell in range(4)])) for host in (0, 1)]
    setup.append(("answer", sent(0, (0, BLOCK), (BLOCK, BLOCK))))
    judge = model.initial(CONFIG)
    for f, value in setup:
        start, kind, received = reply(start, f, value)
        judge = good(judge, f, value, kind, received)
    programs = [[of_host(host, f, at) for f, at in program] for host, program in ((0, left), (1, right))]
    results = []
    for _ in range(2):
        order = [0] * len(left) + [1] * len(right)
        random.shuffle(order)
        there, state, queues = start, judge, [list(program) for program in programs]
        ends: list[list[tuple[str, str, str]]] = [[], []]
        for host in order:
            f, value = queues[host].pop(0)
            there, kind, received = reply(there, f, value)
            if f == "events":  # handles are the device's own, and go by the order in which it made them
                received = {
                    **received,
                    "records": [{**one, "handle": 1 + at} for at, one in enumerate(received["records"])],
                }
            ends[host].append((f, kind, json.dumps(received)))
            state = good(state, f, value, kind, received)
        results.append((ends, key(state)))
    assert results[0] == results[1]


def good(state: State, f: str, value: dict[str, Any], kind: str, received: dict[str, Any]) -> State:
    found = model.step(state, Completed(f, value, kind, received))
    assert isinstance(found, Next), found
    return found.state


@given(st.permutations(range(4)))
def test_a_list_in_any_order_is_judged_the_same(order: list[int]) -> None:
    spans_ = [(at * 2 * BLOCK, BLOCK) for at in range(4)]
    there, state = device(CONFIG), model.initial(CONFIG)
    for f, value in (("add", named(0, *spans_)), ("answer", sent(0, *spans_))):
        there, kind, received = reply(there, f, value)
        state = good(state, f, value, kind, received)
    for f in ("extents", "fm_extents"):
        value = {"device": "mem0", "host_id": 0, "start": 0, "count": 20}
        there, kind, received = reply(there, f, value)
        page = [received["extents"][at] for at in order]
        found = model.step(state, Completed(f, value, kind, {**received, "extents": page}))
        assert isinstance(found, Next)
        assert "DEV-10.any-order" in found.judged


# ---- what the device chooses


def run(state: State, there: Device, *steps: tuple[str, dict[str, Any]]) -> tuple[State, Device, Next]:
    found: Next | Violation = Next(state)
    for f, value in steps:
        there, kind, received = reply(there, f, value)
        found = model.step(state, Completed(f, value, kind, received))
        assert isinstance(found, Next), found
        state = found.state
    assert isinstance(found, Next)
    return state, there, found


@given(st.integers(0, 1 << 63), st.sampled_from(["free", "contiguous"]), st.integers(1, 127), st.integers(0, 1))
@settings(max_examples=80, deadline=None)
def test_whatever_a_seed_chooses_is_permitted(seed: int, policy: str, blocks: int, region: int) -> None:
    """Any choice that adds up (free) or is one range (contiguous); a stricter judge would want one of its own."""
    there = device(CONFIG, seed)
    taken = (region * SIZE + 64 * BLOCK, BLOCK)
    fits = blocks <= (127 if policy == "free" else 64)
    state, there, _ = run(model.initial(CONFIG), there, ("add", named(1, taken)))
    value = chosen(0, policy, blocks * BLOCK, region, TAGS[0] if region else None)
    there, kind, received = reply(there, "add", value)
    assert (kind == "ok") == fits
    state = good(state, "add", value, kind, received)
    log = {"device": "mem0", "host_id": 0, "log": 4}
    state, there, found = run(state, there, ("events", log))
    if fits:
        assert f"DEV-13.{policy}" in found.judged
        assert enter(state, 0).pending == enter(there.state, 0).pending
        assert not rest_of(state).choices


def test_the_same_seed_chooses_the_same() -> None:
    value = chosen(0, "free", 8 * BLOCK)
    made = {tuple(reply(device(CONFIG, seed), "add", value)[0].state.pending) for seed in (7, 7, 8, 9, 10)}
    assert 1 < len(made) <= 4
    assert len({tuple(reply(device(CONFIG, 7), "add", value)[0].state.pending) for _ in range(3)}) == 1


@given(st.integers(0, 1 << 40), st.sampled_from(["dpa", "length", "more", "sequence", "tag"]), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_a_choice_that_is_told_wrongly_is_convicted(seed: int, field: str, which: int) -> None:
    there = device(CONFIG, seed)
    state, there, _ = run(model.initial(CONFIG), there, ("add", chosen(0, "free", 8 * BLOCK, 1, TAGS[0])))
    there, kind, received = reply(there, "events", {"device": "mem0", "host_id": 0, "log": 4})
    records = received["records"]
    at = which % len(records)
    lies = {"dpa": 0, "length": 64 * BLOCK, "more": not records[at]["more"], "sequence": 9, "tag": TAGS[1]}
    records[at] = {**records[at], field: lies[field]}
    found = model.step(state, Completed("events", {"device": "mem0", "host_id": 0, "log": 4}, kind, received))
    assert isinstance(found, Violation)


# ---- step by step


def test_another_hosts_part_and_back_is_the_same_state() -> None:
    state, _, _ = run(model.initial(CONFIG), device(CONFIG), ("add", named(1, (0, BLOCK))))
    assert leave(enter(state, 1)) == state
    assert len(enter(state, 1).pending) == 1
    assert not state.pending


def test_a_tag_that_was_given_up_does_not_name_what_came_into_its_place() -> None:
    """DEV-13.shared: shared access by a tag that nobody has any more is refused, whatever lies there now."""
    old, new = TAGS
    place = (SIZE, BLOCK)
    share = chosen(1, "enable-shared-access", BLOCK, region=1, tag=old)
    steps = [("add", named(0, place, tag=old)), ("answer", sent(0, place))]
    state, there, _ = run(model.initial(CONFIG), device(CONFIG), *steps)
    assert reply(there, "add", share)[1] == "ok"
    again = [("give_back", sent(0, place)), ("add", named(0, place, tag=new)), ("answer", sent(0, place))]
    state, there, _ = run(state, there, *again)
    assert reply(there, "add", share)[1] == "fail"
    found = model.step(state, Completed("add", share, "ok", {"rc": 0}))
    assert isinstance(found, Violation), found
    assert found.clause == "DEV-13.shared"


def test_a_plain_device_stays_plain_until_something_needs_more() -> None:
    plain = Config(REGIONS[:1])
    state = model.initial(plain)
    assert state.rest is None
    value = {**named(0), "via": "qmp", "extents": [{"offset": 0, "length": BLOCK}]}
    state = good(state, "add", value, "ok", {})
    assert state.rest is None
    assert good(state, "status", {"device": "mem0"}, "ok", {"status": 16}).rest is not None


def test_an_operation_of_a_host_that_is_not_there_shows_nothing() -> None:
    value = {"device": "mem0", "host_id": 9, "flags": 0, "ranges": []}
    found = model.step(model.initial(CONFIG), Completed("answer", value, "ok", {"rc": 0}))
    assert isinstance(found, Next)
    assert found.judged == ()


def test_what_an_unknown_outcome_may_have_led_to() -> None:
    state, _, _ = run(
        model.initial(CONFIG),
        device(CONFIG),
        ("add", named(0, (0, BLOCK), tag=TAGS[0])),
        ("answer", sent(0, (0, BLOCK))),
    )

    def may(f: str, value: dict[str, Any]) -> tuple[State, ...]:
        return model.possible(state, Completed(f, value, "info", {}))

    (taken,) = may("force", named(0, (0, BLOCK), forced=True))
    assert not taken.accepted
    (open_,) = may("add", chosen(1, "free", BLOCK))
    assert [choice.length for choice in rest_of(open_).choices] == [BLOCK]
    assert may("add", named(1, (0, BLOCK))) == ()
    assert may("force", named(0, (BLOCK, BLOCK), forced=True)) == ()
    (kept,) = may("add_reference", {"device": "mem0", "tag": TAGS[0]})
    assert len(rest_of(kept).references) == 1
    (set_up,) = may("set_region", {"device": "mem0", "region": 1, "block_size": BLOCK, "sanitize": 1})
    assert set_up.notes.lost, "whether the flag can be changed is not known"
    assert may("set_region", {"device": "mem0", "region": 0, "block_size": 2 * BLOCK, "sanitize": 0}) == ()
    (given,) = may("give_back", sent(0, (0, BLOCK)))
    assert not given.accepted


def test_after_a_conviction_there_is_a_state_to_go_on_with() -> None:
    state = model.initial(CONFIG)
    for f, value in (
        ("force", named(0, (0, BLOCK), forced=True)),
        ("add", chosen(0, "free", 2 * SIZE)),
        ("set_region", {"device": "mem0", "region": 0, "block_size": 3, "sanitize": 0}),
    ):
        assert model.follow(state, Completed(f, value, "ok", {})).notes.lost
    after = model.follow(state, Completed("add", named(1, (0, BLOCK), (1, 1)), "ok", {}))
    assert len(enter(after, 1).pending) == 1
    assert model.follow(state, Completed("add", named(7, (0, BLOCK)), "ok", {})) == whole(state)


def test_what_is_lost_for_one_host_is_lost_for_all() -> None:
    state, _, _ = run(model.initial(CONFIG), device(CONFIG), ("add", chosen(1, "free", BLOCK)))
    found = model.step(state, Completed("answer", sent(1, (0, BLOCK)), "ok", {"rc": 0}))
    assert isinstance(found, Next)
    assert found.state.notes.lost
    assert enter(found.state, 1).notes.lost


def test_a_log_that_may_overflow_by_the_devices_own_choice_is_not_guessed() -> None:
    """How many records it makes is its own choice, so nobody knows how many were lost."""
    config = CONFIG._replace(limits=LIMITS._replace(log_records=2))
    found = model.step(model.initial(config), Completed("add", chosen(0, "free", 4 * BLOCK), "ok", {}))
    assert isinstance(found, Next)
    assert found.state.notes.lost
    small = model.step(model.initial(config), Completed("add", chosen(0, "free", 2 * BLOCK), "ok", {}))
    assert isinstance(small, Next)
    assert not small.state.notes.lost


def test_how_full_a_device_is_that_chose_by_itself_is_not_known() -> None:
    """It may have offered one extent or three; with three, one more is too many."""
    config = CONFIG._replace(limits=LIMITS._replace(supported_extents=3))
    state = good(model.initial(config), "add", chosen(0, "free", 3 * BLOCK), "ok", {})
    for value in (named(0, (SIZE, BLOCK)), chosen(0, "contiguous", BLOCK, 1)):
        for kind, received in (("ok", {}), ("fail", {"rc": 0x1D})):
            found = model.step(state, Completed("add", value, kind, received))
            assert isinstance(found, Next), found
            assert kind == "ok" or found.unknown == ("DEV-8.1Dh",)
    there = good(state, "add", named(1, (SIZE, BLOCK)), "ok", {})  # another host's count is its own
    assert isinstance(
        model.step(there, Completed("add", named(1, (SIZE + BLOCK, BLOCK)), "fail", {"rc": 0x1D})), Violation
    )


def test_what_is_cleared_unread_is_not_held_against_the_device() -> None:
    state = good(model.initial(CONFIG), "add", chosen(0, "free", 2 * BLOCK), "ok", {})
    value = {"device": "mem0", "host_id": 0, "log": 4, "flags": 0, "handles": [1, 2]}
    assert good(state, "clear", value, "ok", {"rc": 0}).notes.lost
    assert not good(state, "clear", value, "fail", {"rc": 0x0E}).notes.lost


def test_the_state_tells_of_all_hosts() -> None:
    state, _, _ = run(
        model.initial(CONFIG), device(CONFIG), ("add", named(1, (0, BLOCK))), ("add", chosen(0, "free", BLOCK))
    )
    shown = model.describe(state)
    assert shown["host 1"]["pending"] == ["[0x0+2M]"]
    assert shown["chosen, not told yet"] == ["policy free: 2097152 bytes of region 0 for host 0"]


def test_the_header_says_what_a_whole_device_has() -> None:
    described = {
        "name": "mem0",
        "regions": [{"index": 0, "base": 0, "length": SIZE, "block_size": BLOCK, "sharable": True}],
        "hosts": [3, 5], "supported_tags": 7, "selection_policies": ["free"], "removal_policies": [],
        "sanitize_configurable": 1, "tag_references": False, "first_sequence": 1,
    }  # fmt: skip
    found = config_of(described)
    assert found.regions[0].sharable
    assert found.limits == Limits(2048, None, None, (3, 5), 7, frozenset(("free",)), frozenset(), 1, False, 1)
    state = model.initial(found)
    assert rest_of(state).host == 3
    assert [peer.host_id for peer in rest_of(state).peers] == [5]


def test_refusals_come_with_a_code_or_in_words() -> None:
    """By FM-API a return code, by QMP an error: either ends the same request."""
    state = good(model.initial(CONFIG), "add", named(0, (0, BLOCK)), "ok", {"rc": 0})
    for received in ({"rc": 0x1E}, {"error": "GenericError", "desc": "no"}):
        assert good(state, "add", named(0, (0, BLOCK)), "fail", received)
    found = model.step(state, Completed("add", named(0, (0, BLOCK)), "fail", {"rc": 0x16}))
    assert isinstance(found, Violation)
    assert found.clause == "DEV-8.1Eh-add"


# ---- histories


def test_what_the_notation_writes_is_what_the_schema_describes() -> None:
    """The scripts of all wrong devices, as the right one answers them: a few lines of each operation."""
    schema = json.loads(files("dcdbackend").joinpath("history.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    seen: dict[tuple[str, str], int] = {}
    for wrong in DEVICES:
        head = header(limits=wrong.limits)
        for op in parse(wrong.script, head=head):
            seen[op.f, op.type] = seen.get((op.f, op.type), 0) + 1
            if seen[op.f, op.type] <= 4:
                validator.validate(json.loads(op_line(op)))
    validator.validate(json.loads(header(limits=FULL).line()))
    assert {f for f, _ in seen} >= {"force", "set_region", "add_reference", "remove_reference", "list_tags", "status"}


def test_what_the_schema_refuses_of_the_whole_device() -> None:
    schema = json.loads(files("dcdbackend").joinpath("history.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for f, kind, value in (
        ("fm_extents", "invoke", {"device": "mem0", "start": 0, "count": 5}),
        ("set_region", "invoke", {"device": "mem0", "region": 0, "block_size": 2}),
        ("add_reference", "invoke", {"device": "mem0", "tag": "12"}),
        ("list_tags", "ok", {"rc": 0, "total": 0, "generation": 0, "tags": []}),
        ("status", "ok", {"status": -1}),
        ("add", "fail", {"rc": 0}),
        ("force", "ok", {"rc": 2}),
    ):
        assert not validator.is_valid(json.loads(op_line(Op(1, 1, "p", kind, f, 0, value)))), (f, value)


@pytest.mark.parametrize(
    ("f", "first", "last"),
    [
        ("set_region", {"region": "0", "block_size": 2, "sanitize": 0}, {}),
        ("set_region", {"region": 0}, {}),
        ("add_reference", {"tag": "xyz"}, {}),
        ("fm_extents", {"host_id": 0, "start": 0, "count": 5}, {"rc": 0, "extents": 3}),
        ("list_tags", {"start": 0, "count": 5}, {"rc": 0, "tags": [{}], "validity": 3, "total": 1}),
        ("status", {}, {"status": "full"}),
        ("force", {"via": "fm"}, {}),
    ],
)
def test_a_value_of_another_form_names_its_line(f: str, first: dict[str, Any], last: dict[str, Any]) -> None:
    head = header(limits=FULL)
    ops = [Op(1, 1, "p", "invoke", f, 0, {"device": "mem0", **first}), Op(2, 1, "p", "ok", f, 0, last)]
    with pytest.raises(BadHistory, match=r"^line [23]: "):
        check(ops, head)


def test_operations_of_the_whole_device_are_spelled() -> None:
    assert spell("set_region", {"region": 1, "block_size": BLOCK, "sanitize": 0}, "ok", {"rc": 0}) == (
        "set_region region 1: blocks of 2M -> 00h"
    )
    assert spell("add", chosen(1, "free", BLOCK, 0, TAG), "ok", {}) == (
        f"add region 0: nothing 2M by policy free tag {TAG} host 1 -> ok"
    )
    assert spell("add_reference", {"tag": TAG}, "fail", {"rc": 3}) == f"add_reference {TAG} -> 03h"
