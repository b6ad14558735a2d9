"""model.device: against a naive map of blocks; the guest's view against the device's; what each function says."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dcdbackend.extents import Extent
from dcdbackend.model import device as model
from dcdbackend.model.reply import Device, device, reply
from dcdbackend.model.state import Completed, Config, Limits, Next, Region, State, Violation, config_of, key
from dcdbackend.model.witness import standing
from dcdbackend.rules import CLAUSES

BLOCK = 2 << 20
BLOCKS = 12
SIZE = 256 << 20
REGIONS = (Region(0, 0, SIZE, SIZE, BLOCK), Region(1, SIZE, SIZE, SIZE, BLOCK))
CONFIG = Config(REGIONS)
GUEST = Config(REGIONS, "guest")
REPLY = {"rc": 0, "flags": 0, "overflow_count": 0}


def add(*ranges: tuple[int, int], region: int = 0, **more: Any) -> dict[str, Any]:
    extents = [{"offset": offset, "length": length} for offset, length in ranges]
    return {
        "device": "mem0", "via": "qmp", "host_id": 0, "policy": "prescriptive", "region": region, "tag": None,
        "extents": extents, **more,
    }  # fmt: skip


def sent(*ranges: tuple[int, int], flags: int = 0) -> dict[str, Any]:
    return {"device": "mem0", "flags": flags, "ranges": [list(pair) for pair in ranges]}


def after(state: State, f: str, value: dict[str, Any], kind: str = "ok", received: Any = None) -> Next:
    found = model.step(state, Completed(f, value, kind, {"rc": 0} if received is None else received))
    assert isinstance(found, Next), found
    return found


def broken(state: State, f: str, value: dict[str, Any], kind: str = "ok", received: Any = None) -> Violation:
    found = model.step(state, Completed(f, value, kind, {"rc": 0} if received is None else received))
    assert isinstance(found, Violation), found
    return found


def record(handle: int, dpa: int, length: int, *, kind: int = 0, more: bool = False) -> dict[str, Any]:
    return {
        "handle": handle, "type": kind, "more": more, "validity": 0, "host_id": 0, "region": 0, "dpa": dpa,
        "length": length, "tag": "00" * 16, "sequence": 0, "available_extents": 0, "available_tags": 0,
    }  # fmt: skip


# ---- a naive map of blocks

ranges = st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, 5)).map(lambda pair: (pair[0] * BLOCK, pair[1] * BLOCK))
some = st.lists(ranges, min_size=1, max_size=3)
odd = st.sampled_from([(0, 0), (4096, BLOCK), (SIZE - BLOCK, 2 * BLOCK), (2 * SIZE, BLOCK), (BLOCK, 2**64 - BLOCK + 1)])


def cells(span: tuple[int, int]) -> list[int]:
    return [at // BLOCK for at in range(span[0], span[0] + span[1], BLOCK)]


class AgainstBlocks(RuleBasedStateMachine):
    """The device that keeps the rules, against a list of block states and a list of chains; and both judges of it."""

    def __init__(self) -> None:
        super().__init__()
        self.device: Device = device(CONFIG)
        self.judge: State = model.initial(CONFIG)
        self.guest: State = model.initial(GUEST)
        self.map = ["free"] * (2 * BLOCKS)
        self.chains: list[list[tuple[int, int]]] = []
        self.read: list[int] = []

    def do(self, f: str, value: dict[str, Any], *, legal: bool | None) -> bool:
        """One operation, answered by the right device, and judged; whether it succeeded is what is `legal`."""
        self.device, kind, received = reply(self.device, f, value)
        if legal is not None:
            assert (kind == "ok") == legal, (f, value, received, self.map, self.chains)
        op = Completed(f, value, kind, received)
        found = model.step(self.judge, op)
        assert isinstance(found, Next), found
        assert all(finding.subject == "host" for finding in found.findings), found.findings
        assert set(found.unknown) <= {"DEV-17.dropped", "DEV-5.data"}  # equal bytes may have been there before
        self.judge = found.state
        if f not in ("add", "release"):
            seen = model.step(self.guest, op)
            assert isinstance(seen, Next), seen
            if not seen.state.notes.lost:
                ours = {finding.clause for finding in found.findings}
                theirs = {finding.clause for finding in seen.findings}
                # the guest has not seen every offer yet: for it a later one is none at all
                assert theirs <= ours | {"DEV-6.inside", "DEV-7.held"}, (ours, theirs)
            self.guest = seen.state
        return kind == "ok"

    @rule(spans=some)
    def add(self, spans: list[tuple[int, int]]) -> None:
        touched = [cell for span in spans for cell in cells(span)]
        legal = len(set(touched)) == len(touched) and all(self.map[cell] == "free" for cell in touched)
        if self.do("add", add(*spans), legal=legal):
            self.chains.append(spans)
            for cell in touched:
                self.map[cell] = "pending"

    @rule(span=odd)
    def add_odd(self, span: tuple[int, int]) -> None:
        self.do("add", add(span), legal=False)

    @rule(spans=some)
    def ask_back(self, spans: list[tuple[int, int]]) -> None:
        touched = [cell for span in spans for cell in cells(span)]
        legal = len(set(touched)) == len(touched) and all(self.map[cell] == "accepted" for cell in touched)
        self.do("release", add(*spans, forced=False, sanitize=False), legal=legal)

    @rule()
    def look(self) -> None:
        self.do("events", {"device": "mem0", "log": 4}, legal=True)
        self.read = [entry.handle for entry in self.judge.log if entry.handle]

    @rule(count=st.integers(1, 4), skip=st.booleans())
    def clear(self, count: int, skip: bool) -> None:
        handles = self.read[1 if skip else 0 :][:count]
        if handles:
            legal = not skip
            if self.do("clear", {"device": "mem0", "log": 4, "flags": 0, "handles": handles}, legal=legal):
                self.read = self.read[len(handles) :]

    @rule(data=st.data(), whole=st.booleans())
    def answer(self, data: st.DataObject, whole: bool) -> None:
        chain = self.chains[0] if self.chains else []
        if whole:
            chosen = data.draw(st.lists(st.sampled_from(chain), unique=True)) if chain else []
        else:
            chosen = data.draw(some)
        touched = [cell for span in chosen for cell in cells(span)]
        inside = all(any(set(cells(span)) <= set(cells(offer)) for offer in chain) for span in chosen)
        legal = inside and len(set(touched)) == len(touched)
        if self.do("answer", sent(*chosen), legal=legal if chosen or chain else None) and chain:
            self.chains.pop(0)
            for offer in chain:
                for cell in cells(offer):
                    self.map[cell] = "accepted" if cell in touched else "free"

    @rule(spans=some)
    def give_back(self, spans: list[tuple[int, int]]) -> None:
        touched = [cell for span in spans for cell in cells(span)]
        legal = len(set(touched)) == len(touched) and all(self.map[cell] == "accepted" for cell in touched)
        if self.do("give_back", sent(*spans), legal=legal):
            for cell in touched:
                self.map[cell] = "free"

    @rule(span=odd, f=st.sampled_from(["answer", "give_back"]))
    def odd_command(self, span: tuple[int, int], f: str) -> None:
        self.do(f, sent(span), legal=False)

    @rule(start=st.integers(0, 6), count=st.integers(0, 4))
    def list_extents(self, start: int, count: int) -> None:
        value = {"device": "mem0", "start": start, "count": count}
        self.do("extents", value, legal=start <= len(self.device.state.accepted))

    @rule(at=st.integers(0, 2 * BLOCKS - 1))
    def block(self, at: int) -> None:
        self.do("block", {"device": "mem0", "region": 0, "offset": at * BLOCK}, legal=True)

    @rule(at=st.integers(0, 2 * BLOCKS - 1), data=st.binary(min_size=1, max_size=12), kind=st.integers(0, 3))
    def bytes(self, at: int, data: bytes, kind: int) -> None:
        dpa = at * BLOCK - (len(data) // 2 if at else 0)
        if kind < 2:
            side = ("host", "backend")[kind]
            self.do("store", {"device": "mem0", "dpa": dpa, "data": data.hex(), "side": side}, legal=True)
        else:
            self.do(("load", "bytes")[kind - 2], {"device": "mem0", "dpa": dpa, "length": len(data)}, legal=True)

    @invariant()
    def same(self) -> None:
        for at, state in enumerate(self.map):
            assert standing(self.judge, at * BLOCK) == state
        assert key(self.judge)[:3] == key(self.device.state)[:3]
        if not self.guest.notes.lost:
            assert self.guest.accepted == self.judge.accepted


TestAgainstBlocks = AgainstBlocks.TestCase
TestAgainstBlocks.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


# ---- the guest's view


def test_the_guest_learns_offers_from_records() -> None:
    state = model.initial(GUEST)
    reply_ = {**REPLY, "records": [record(1, 0, BLOCK, more=True), record(2, BLOCK * 2, BLOCK)]}
    found = after(state, "events", {"log": 4}, received=reply_)
    assert "DEV-16.unique" in found.judged
    assert "DEV-4.whole" not in found.judged, "the guest cannot know what was asked"
    assert [len(chain.extents) for chain in found.state.chains] == [2]
    found = after(found.state, "answer", sent((0, BLOCK)))
    assert list(found.state.accepted) == [Extent(0, BLOCK)]
    assert not found.state.pending
    assert not found.findings


@pytest.mark.parametrize(
    ("clause", "entries"),
    [
        ("DEV-2.nonempty", [record(1, 0, 0)]),
        ("DEV-2.aligned", [record(1, 4096, BLOCK)]),
        ("DEV-2.inside", [record(1, SIZE - BLOCK, 2 * BLOCK)]),
        ("DEV-2.wrap", [record(1, BLOCK, 2**64 - BLOCK + 1)]),
        ("DEV-3.pending", [record(1, 0, BLOCK), record(2, 0, BLOCK)]),
        ("DEV-3.self", [record(1, 0, BLOCK, more=True), record(2, 0, BLOCK)]),
        ("DEV-4.more", [record(1, 0, BLOCK, more=True), record(2, BLOCK, BLOCK, kind=1)]),
        ("DEV-4.type", [record(1, 0, BLOCK, kind=5)]),
        ("DEV-4.format", [{"raw": "00", "error": "short"}]),
        ("DEV-16.nonzero", [record(0, 0, BLOCK)]),
        ("DEV-16.unique", [record(1, 0, BLOCK), record(1, BLOCK, BLOCK)]),
    ],
)
def test_the_guest_convicts_a_device_by_its_records(clause: str, entries: list[dict[str, Any]]) -> None:
    found = broken(model.initial(GUEST), "events", {"log": 4}, received={**REPLY, "records": entries})
    assert found.clause == clause


def test_the_guest_convicts_an_offer_of_what_it_holds() -> None:
    state = held_by_guest()
    found = broken(state, "events", {"log": 4}, received={**REPLY, "records": [record(2, 0, BLOCK)]})
    assert found.clause == "DEV-3.accepted"


def held_by_guest() -> State:
    state = model.initial(GUEST)
    state = after(state, "events", {"log": 4}, received={**REPLY, "records": [record(1, 0, BLOCK)]}).state
    state = after(state, "answer", sent((0, BLOCK))).state
    return after(state, "clear", {"log": 4, "flags": 0, "handles": [1]}).state


def test_the_guest_judges_its_host_by_the_offers_that_it_has_seen() -> None:
    found = after(held_by_guest(), "answer", sent((BLOCK * 8, BLOCK)), "fail", {"rc": 0x0F})
    assert [finding.clause for finding in found.findings] == ["DEV-6.inside"]
    assert found.unknown == ("DEV-8.0Fh-chain",), "the device may have an offer that was not read yet"


def test_the_guest_is_lost_when_what_it_never_saw_succeeds() -> None:
    found = after(held_by_guest(), "answer", sent((BLOCK * 8, BLOCK)))
    assert not found.findings, "the device had offered it: the host answered before it read"
    assert "DEV-6.inside" in found.unknown
    assert found.state.notes.lost
    again = after(found.state, "answer", sent((0, BLOCK)))
    assert again.judged == ()
    assert "DEV-6.inside" in again.unknown


def test_the_guest_after_an_overflow_knows_a_part() -> None:
    """The tail of a chain was lost, and offers may follow that it never sees."""
    state = model.initial(GUEST)
    lossy = {**REPLY, "flags": 1, "overflow_count": 3, "records": [record(1, 0, BLOCK, more=True)]}
    found = after(state, "events", {"log": 4}, received=lossy)
    assert found.unknown == ("DEV-4.whole",)
    cleared = after(found.state, "clear", {"log": 4, "flags": 0, "handles": [1]}).state
    assert len(cleared.chains) == 1
    assert not cleared.chains[0].complete
    later = {**REPLY, "records": [record(2, BLOCK * 4, BLOCK)]}
    state = after(cleared, "events", {"log": 4}, received=later).state
    assert state.chains[1].gap, "whole offers may have been lost before it"
    settled = after(state, "answer", sent((0, BLOCK)))
    assert not settled.findings
    refused = after(settled.state, "answer", sent((BLOCK * 4, BLOCK)), "fail", {"rc": 0x0F})
    assert not refused.findings, "an offer that was never seen may be older"
    tail = after(state, "answer", sent((BLOCK, BLOCK)), "fail", {"rc": 0x0F})
    assert tail.unknown


def test_the_guest_sees_a_known_departure_of_the_log() -> None:
    config = GUEST._replace(departures=frozenset(("QEMU-log", "QEMU-remain")))
    lossy = {**REPLY, "flags": 3, "overflow_count": 1, "records": [record(1, 0, BLOCK, more=True)]}
    found = after(model.initial(config), "events", {"log": 4}, received=lossy)
    assert {finding.departure for finding in found.findings} == {"QEMU-log", "QEMU-remain"}


def test_a_forced_release_is_learned_by_the_guest() -> None:
    forced = {**REPLY, "records": [record(3, 0, BLOCK, kind=2)]}
    state = after(held_by_guest(), "events", {"log": 4}, received=forced).state
    assert not state.accepted


def test_an_answer_before_the_last_record_loses_the_guest() -> None:
    state = model.initial(GUEST)
    opened = {**REPLY, "records": [record(1, 0, BLOCK, more=True)]}
    state = after(state, "events", {"log": 4}, received=opened).state
    assert after(state, "answer", sent((0, BLOCK))).state.notes.lost


# ---- step by step


def test_several_refusals_apply_and_any_will_do() -> None:
    """Off the block and outside the offer: 1Eh and 0Fh are both right, nothing else is (DEV-8.any)."""
    state = after(model.initial(CONFIG), "add", add((0, BLOCK * 2)), received={}).state
    bad = sent((BLOCK * 8 + 4096, BLOCK))
    for rc in (0x0F, 0x1E):
        assert "DEV-8.any" in after(state, "answer", bad, "fail", {"rc": rc}).judged
    assert broken(state, "answer", bad, "fail", {"rc": 0x02}).clause == "DEV-8.1Eh-block"


def test_a_refusal_tests_the_one_clause_that_called_for_it() -> None:
    state = model.initial(CONFIG)
    found = after(state, "add", add((0, BLOCK * 2), (BLOCK, BLOCK)), "fail", {"error": "E", "desc": "overlap"})
    assert found.judged == ("DEV-9.answers", "DEV-3.self")


def test_host_and_device_are_both_wrong_in_one_step() -> None:
    state = after(model.initial(CONFIG), "add", add((0, BLOCK)), received={}).state
    found = broken(state, "answer", sent((BLOCK * 8, BLOCK)))
    assert found.clause == "DEV-8.0Fh-chain"
    assert [(other.subject, other.clause) for other in found.also] == [("host", "DEV-6.inside")]


def test_empty_requests_of_a_manager_do_nothing() -> None:
    """An empty list of extents succeeds on QEMU and is refused elsewhere; no rule says which."""
    state = model.initial(CONFIG)
    assert key(after(state, "add", add(), received={}).state) == key(state)
    assert not after(state, "add", add(), "fail", {"error": "E", "desc": "empty"}).findings


def test_other_logs_and_unknown_operations_are_not_judged() -> None:
    state = model.initial(CONFIG)
    assert after(state, "events", {"log": 0}, received={"rc": 0}).judged == ("DEV-9.answers",)
    assert after(state, "clear", {"log": 1, "flags": 0, "handles": [5]}).judged == ("DEV-9.answers",)
    assert after(state, "claim", {}).judged == ()


def test_what_may_have_happened() -> None:
    state = model.initial(CONFIG)
    offered = model.possible(state, Completed("add", add((0, BLOCK)), "info", {}))
    assert [len(found.pending) for found in offered] == [1]
    assert model.possible(state, Completed("add", add((0, 0)), "info", {})) == ()
    assert model.possible(state, Completed("block", {}, "info", {})) == ()
    stored = Completed("store", {"dpa": 0, "data": "0102"}, "info", {})
    assert len(model.possible(state, stored)) == 1


def test_a_single_state_is_lost_by_an_unknown_outcome() -> None:
    found = after(model.initial(CONFIG), "add", add((0, BLOCK)), "info", {"reason": "late"})
    assert found.state.notes.lost
    assert found.unknown == ("DEV-9.answers",)


def test_going_on_after_a_conviction_makes_a_state_of_anything() -> None:
    state = after(model.initial(CONFIG), "add", add((0, BLOCK * 2)), received={}).state
    wild = sent((0, BLOCK), (0, BLOCK), (BLOCK * 8, BLOCK), (5, 0))
    for f in ("answer", "give_back"):
        found = model.follow(state, Completed(f, wild, "ok", {"rc": 0}))
        assert standing(found, BLOCK * 8) == "free"
    twice = model.follow(state, Completed("add", add((0, BLOCK), (BLOCK * 4, BLOCK), (3, 3)), "ok", {}))
    assert standing(twice, BLOCK * 4) == "pending"


def test_a_payload_that_does_not_parse_is_judged_by_its_bytes() -> None:
    """Bytes past the count: the ranges that count says, and 16h is permitted too."""
    state = after(model.initial(CONFIG), "add", add((0, BLOCK)), received={}).state
    body = (1).to_bytes(4, "little") + bytes(4) + bytes(8) + BLOCK.to_bytes(8, "little") + bytes(8)
    value = {"device": "mem0", "raw": (body + b"\x00").hex(), "error": "trailing bytes"}
    assert list(after(state, "answer", value).state.accepted) == [Extent(0, BLOCK)]
    assert not after(state, "answer", value, "fail", {"rc": 0x16}).findings
    cut = {**value, "raw": body[:-1].hex()}
    assert "DEV-8.16h" in after(state, "answer", cut, "fail", {"rc": 0x16}).judged
    empty = {**value, "raw": ""}
    assert "DEV-8.16h" in after(state, "clear", empty, "fail", {"rc": 0x16}).judged


def test_the_store_of_nothing_and_the_load_across_an_edge() -> None:
    state = after(model.initial(CONFIG), "add", add((0, BLOCK)), received={}).state
    state = after(state, "answer", sent((0, BLOCK))).state
    assert key(after(state, "store", {"dpa": 0, "data": "", "side": "host"}, received={}).state) == key(state)
    edge = {"dpa": BLOCK - 2, "data": "01020304", "side": "host"}
    stored = after(state, "store", edge, received={}).state
    assert (
        "DEV-17.device-reads"
        in after(stored, "load", {"dpa": BLOCK - 2, "length": 4}, received={"data": "01020000"}).judged
    )
    assert broken(stored, "load", {"dpa": BLOCK - 2, "length": 4}, received={"data": "01ff0000"}).clause == (
        "DEV-17.device-reads"
    )


def test_what_the_backend_may_hold_from_before_is_not_judged() -> None:
    """The same bytes were stored while the block was held; given back, they may still lie there (DEV-14)."""
    state = after(model.initial(CONFIG), "add", add((0, BLOCK)), received={}).state
    state = after(state, "answer", sent((0, BLOCK))).state
    data = {"dpa": 0, "data": "0102030405060708", "side": "host"}
    state = after(state, "store", data, received={}).state
    state = after(state, "give_back", sent((0, BLOCK))).state
    state = after(state, "store", data, received={}).state
    found = after(state, "bytes", {"dpa": 0, "length": 8}, received={"data": data["data"]})
    assert found.unknown == ("DEV-17.dropped",)


def test_many_pages_fit_together() -> None:
    spans = [(at * 2 * BLOCK, BLOCK) for at in range(60)]
    there = device(CONFIG)
    state = model.initial(CONFIG)
    for f, value in (
        ("add", add(*spans)),
        ("answer", sent(*spans)),
        ("extents", {"start": 0, "count": 255}),
        ("extents", {"start": 50, "count": 255}),
    ):
        there, kind, received = reply(there, f, value)
        found = after(state, f, value, kind, received)
        state = found.state
    assert len(received["extents"]) == 10
    assert "DEV-10.pages" in found.judged


def test_a_chain_longer_than_a_payload_is_read_in_parts() -> None:
    spans = [(at * 2 * BLOCK, BLOCK) for at in range(20)]
    there = device(CONFIG)
    state = model.initial(CONFIG)
    there, kind, received = reply(there, "add", add(*spans))
    state = after(state, "add", add(*spans), kind, received).state
    handles: list[int] = []
    for expected in (15, 5):
        there, kind, received = reply(there, "events", {"log": 4})
        found = after(state, "events", {"log": 4}, kind, received)
        assert len(received["records"]) == expected
        assert "DEV-16.remain" in found.judged
        handles = [entry["handle"] for entry in received["records"]]
        there, kind, received = reply(there, "clear", {"log": 4, "flags": 0, "handles": handles})
        state = after(found.state, "clear", {"log": 4, "flags": 0, "handles": handles}, kind, received).state
    assert not state.log


def test_the_header_gives_regions_and_limits() -> None:
    found = config_of(
        {
            "name": "mem0",
            "regions": [{"index": 0, "base": 0, "length": SIZE, "block_size": BLOCK}],
            "supported_extents": 512,
            "payload_size": 4096,
        }
    )
    assert found.regions[0].decode_length == SIZE
    assert found.limits == Limits(4096, 512)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_no_range_breaks_the_arithmetic(start: int, length: int) -> None:
    """Every pair of 64-bit numbers is answered, by every command (DEV-2.wrap)."""
    there = device(CONFIG)
    for f in ("answer", "give_back"):
        _, kind, received = reply(there, f, sent((start, length)))
        assert kind == "fail"
        assert after(model.initial(CONFIG), f, sent((start, length)), kind, received)
    there, kind, received = reply(there, "add", add((start, length)))
    assert after(model.initial(CONFIG), "add", add((start, length)), kind, received)


def test_what_a_step_says_is_in_the_table() -> None:
    state = after(model.initial(CONFIG), "add", add((0, BLOCK)), received={}).state
    for clause in after(state, "answer", sent((0, BLOCK))).judged:
        assert clause in CLAUSES


def test_the_model_is_light_to_import() -> None:
    """The guest imports it under TCG, where each module and each dataclass costs: only what it needs."""
    code = (
        "import sys; before = set(sys.modules)\n"
        "import dcdbackend.model.device\n"
        "print(*sorted(name for name in set(sys.modules) - before if not name.startswith('_')))"
    )
    out = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT)
    loaded = set(out.stdout.split())
    assert not loaded & {"re", "json", "dataclasses", "enum", "inspect", "construct", "asyncio", "pathlib"} - _TYPING
    assert len([name for name in loaded if name.startswith("dcdbackend")]) <= 10


_ROOT = str(__import__("pathlib").Path(__file__).parent.parent)
_TYPING = {"re", "enum"}  # what `typing` itself brings on this Python


# ---- what the guest cannot know of a device with known departures


EMPTY_ENTRY = {"dpa": 0, "length": 0, "tag": "00" * 16, "sequence": 0}


def listed(view: str, empty: int, *known: str) -> Next | Violation:
    """A list with that many empty entries at its end, and nothing that this view knows to be pending."""
    config = CONFIG._replace(view=view, departures=frozenset(known))
    page = {"rc": 0, "total": 0, "generation": 0, "extents": [EMPTY_ENTRY] * empty}
    op = Completed("extents", {"device": "mem0", "count": 50, "start": 0}, "ok", page)
    return model.step(model.initial(config), op)


def test_empty_entries_for_offers_that_the_guest_never_read_are_not_known() -> None:
    """DEV-10.extents by QEMU-list-pending: an offer may be pending that the guest has not read, or whose record the
    full log lost. Who sees every offer convicts, and so does a guest on a device that has no such departure."""
    seen = listed("guest", 2, "QEMU-list-pending")
    assert isinstance(seen, Next)
    assert (seen.unknown, seen.findings) == (("DEV-10.extents",), ())
    assert "DEV-10.extents" not in seen.judged
    for found in (listed("device", 2, "QEMU-list-pending"), listed("guest", 2)):
        assert isinstance(found, Violation) and found.clause == "DEV-10.extents"


def test_a_refusal_for_want_of_room_may_count_offers_that_the_guest_never_read() -> None:
    """DEV-8.served by QEMU-counts-twice: what else is pending the guest cannot count."""

    def refused(view: str, *known: str) -> Next | Violation:
        limits = Limits(supported_extents=4)
        state = model.initial(CONFIG._replace(view=view, limits=limits, departures=frozenset(known)))
        if view == "device":
            state = after(state, "add", add((0, BLOCK))).state
        state = after(
            state, "events", {"device": "mem0", "log": 4}, "ok", REPLY | {"records": [record(1, 0, BLOCK)]}
        ).state
        return model.step(state, Completed("answer", sent((0, BLOCK)), "fail", {"rc": 0x1D}))

    seen = refused("guest", "QEMU-counts-twice")
    assert isinstance(seen, Next)
    assert (seen.unknown, seen.findings) == (("DEV-8.served",), ())
    for found in (refused("device", "QEMU-counts-twice"), refused("guest")):
        assert isinstance(found, Violation) and found.clause == "DEV-8.served"


def test_an_offer_without_length_is_a_known_departure_in_the_guest_too() -> None:
    """DEV-2.nonempty by QEMU-fm-empty: what such a device then takes to be pending, nobody knows any more."""

    def read(*known: str) -> Next | Violation:
        state = model.initial(GUEST._replace(departures=frozenset(known)))
        told = REPLY | {"records": [record(1, 0, 0)]}
        return model.step(state, Completed("events", {"device": "mem0", "log": 4}, "ok", told))

    for known, outcome in ((("QEMU-fm-empty",), "departure"), ((), "fail")):
        found = read(*known)
        assert isinstance(found, Violation)
        assert (found.clause, found.outcome) == ("DEV-2.nonempty", outcome)
