"""The device's rules (DEV) as a pure function: `step(state, op) -> Next | Violation`.

`op` is an operation with its end. What the device may do with it stands in `decide`; this module compares that with
what it did, and says which clauses were really tested. A `Violation` that is returned is the device's: its judgement
ends there. What the host broke (DEV-6, DEV-7, held against the offer alone) and known departures are `Next.findings`,
and the model goes on. It is not a simulator: nothing is chosen here.

Two views of one model: "device" sees managers and hosts; "guest" sees one host's mailbox only, learns offers from
records, and leaves unjudged what it cannot know. An operation whose outcome nobody knows (`info`) is for the checker
(`possible`): a single state cannot hold it.

It knows one host and requests that name their extents. Several hosts, what a device chooses by itself, forced release
and the rest of a manager's commands are `whole`'s, which the guest does not import; it steps through this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import data, record, witness
from .decide import (
    BREACHES,
    EMPTY_RANGE,
    EXHAUSTED,
    HANDLE_ORDER,
    HANDLE_UNKNOWN,
    HOST,
    IN_SHADOW,
    INVALID_INPUT,
    LATER_CHAIN,
    LOG,
    NO_OVERFLOW,
    PARTLY,
    REFUSALS,
    SHORT,
    TOO_MANY,
    UNSEEN,
    Decision,
    Fault,
    apply,
    apply_add,
    apply_answer,
    apply_clear,
    apply_give_back,
    apply_release,
    deadly,
    decide,
    decide_add,
    decide_answer,
    decide_clear,
    decide_give_back,
    decide_release,
    manager_extents,
    queue,
    read_handles,
    read_ranges,
    supported_extents,
)
from .state import (
    ADD,
    RELEASE,
    Chain,
    Completed,
    Config,
    Next,
    Recent,
    State,
    Violation,
    breach,
    config_of,
    departed,
    describe,
    fail,
    initial,
    key,
    lose,
    remember,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..extents import Extent

    Ranges = Sequence[Sequence[int]]

__all__ = [
    "Completed",
    "Config",
    "Decision",
    "Next",
    "State",
    "Violation",
    "apply",
    "config_of",
    "deadly",
    "decide",
    "describe",
    "follow",
    "initial",
    "judge_regions",
    "key",
    "possible",
    "step",
]

ANSWERED = ("DEV-9.answers",)
SERVED = ("DEV-9.answers", "DEV-8.served")
_HELD_BY_HOST: dict[tuple[str, int, bool], tuple[str, ...]] = {
    ("answer", 0, False): ("DEV-6.none",),
    ("answer", 0, True): ("DEV-6.none",),
    ("answer", 1, False): ("DEV-6.inside", "DEV-6.accepted", "DEV-6.aligned"),
    ("answer", 1, True): ("DEV-6.inside", "DEV-6.accepted", "DEV-6.aligned", "DEV-6.oldest"),
    ("answer", 2, False): ("DEV-6.inside", "DEV-6.accepted", "DEV-6.aligned", "DEV-6.disjoint", "DEV-6.order"),
    ("answer", 2, True): (
        "DEV-6.inside", "DEV-6.accepted", "DEV-6.aligned", "DEV-6.disjoint", "DEV-6.order", "DEV-6.oldest",
    ),
    ("give_back", 0, False): (),
    ("give_back", 0, True): (),
    ("give_back", 1, False): ("DEV-7.held", "DEV-7.aligned", "DEV-7.some"),
    ("give_back", 1, True): ("DEV-7.held", "DEV-7.aligned", "DEV-7.some", "DEV-7.pending"),
    ("give_back", 2, False): ("DEV-7.held", "DEV-7.aligned", "DEV-7.some", "DEV-7.disjoint"),
    ("give_back", 2, True): ("DEV-7.held", "DEV-7.aligned", "DEV-7.some", "DEV-7.disjoint", "DEV-7.pending"),
}  # fmt: skip
_UNKNOWN_CLAUSE = {
    "answer": "DEV-8.0Fh-chain",
    "give_back": "DEV-8.0Fh-held",
    "clear": "DEV-16.clear-order",
    "add": "DEV-13.advertised",
    "release": "DEV-13.advertised",
}


def step(state: State, op: Completed) -> Next | Violation:
    """The state after an operation and its end, with what that showed; or the rule that the device broke.

    Operations that the model does not know change nothing and show nothing.
    """
    judge = _STEPS.get(op.f)
    if judge is None:
        return Next(state)
    if state.notes.lost and op.f not in ALWAYS:
        return Next(state, (), (), UNKNOWN.get(op.f, ()))
    if op.type == "info":
        return _unknown_end(state, op)
    return judge(state, op)


def _unknown_end(state: State, op: Completed) -> Next:
    """The end of an operation whose outcome nobody knows, for a consumer that holds one state only."""
    if op.f in EFFECTS:
        state = lose(state, f"the outcome of {op.f} is not known")
    elif op.f == "store":
        state = data.unknown_store(state, op)
    return Next(state, (), (), ("DEV-9.answers",) if op.f in _COMMANDS else ())


def possible(state: State, op: Completed) -> tuple[State, ...]:
    """The states that `op` may have led to if it took effect, whatever its end would have been; () if none."""
    if op.f == "store":
        return (data.unknown_store(state, op),)
    if op.f not in EFFECTS:
        return ()
    decision = decide(state, op.f, op.sent)
    if decision.faults:
        return ()
    if decision.unsure:
        return (lose(state, f"the outcome of {op.f} is not known"),)
    return (apply(state, op.f, op.sent),)


def follow(state: State, op: Completed) -> State:
    """A state to go on with after the device broke a rule, so that the host can still be judged by its offers.

    It takes the device's word, as far as that makes a state at all.
    """
    if op.type != "ok" or op.f not in EFFECTS:
        return state
    if op.f in ("add", "release"):
        extents = manager_extents(state, op.sent)
        offered: list[Extent] = []
        for extent in extents if op.f == "add" else ():
            if not decide_add(state, op.sent, (extent,)).faults & ~(TOO_MANY | HOST):
                state = state._replace(pending=state.pending.add(extent))
                offered.append(extent)
        if offered:
            state = state._replace(chains=(*state.chains, Chain(tuple(offered))))
        return queue(state, ADD if op.f == "add" else RELEASE, op.sent, extents)
    if op.f == "answer":
        flags, ranges, _short = read_ranges(op.sent)
        good = [pair for pair in ranges if not decide_answer(state, flags, (pair,)).faults]
        whole = not decide_answer(state, flags, good).faults
        return apply_answer(state, flags, good if whole else ())
    if op.f == "give_back":
        ranges = read_ranges(op.sent)[1]
        return apply_give_back(state, [pair for pair in ranges if not decide_give_back(state, (pair,)).faults])
    return apply(state, op.f, op.sent)


# ---- commands


def _answer(state: State, op: Completed) -> Next | Violation:
    """4802h: DEV-6, DEV-8."""
    sent = op.sent
    if "raw" in sent:
        return _raw(state, op)
    flags, ranges = sent["flags"], sent["ranges"]
    decision = decide_answer(state, flags, ranges)
    if op.type == "ok" and not decision.unsure and state.config.view == "guest" and state.chains:
        chain = state.chains[0]
        if not chain.complete and not state.notes.gap and not flags & 1:
            state = lose(state, "an answer came before the offer's last record")
    return _host_command(state, op, decision, ranges, lambda: apply_answer(state, flags, ranges))


def _give_back(state: State, op: Completed) -> Next | Violation:
    """4803h: DEV-7, DEV-8."""
    sent = op.sent
    if "raw" in sent:
        return _raw(state, op)
    ranges = sent["ranges"]
    decision = decide_give_back(state, ranges)
    return _host_command(state, op, decision, ranges, lambda: apply_give_back(state, ranges))


def _raw(state: State, op: Completed) -> Next | Violation:
    """A payload that did not parse as its structure: what follows from the bytes that are there."""
    decision = decide(state, op.f, op.sent)
    return _host_command(state, op, decision, read_ranges(op.sent)[1], lambda: apply(state, op.f, op.sent))


def _host_command(
    state: State, op: Completed, decision: Decision, ranges: Ranges, after: Callable[[], State]
) -> Next | Violation:
    """4802h and 4803h alike: the host against the offer, then the device against what it may do."""
    f = op.f
    others = len(state.chains) > 1 if f == "answer" else bool(state.pending)
    held: tuple[str, ...] = ()
    if ranges or state.chains:
        held = _HELD_BY_HOST[f, min(len(ranges), 2), others]
        if f == "answer" and op.type == "ok" and state.chains:
            held = (*held, "DEV-6.answered")
    findings: tuple[Violation, ...] = ()
    unsure: tuple[str, ...] = ()
    if decision.host:
        held, findings = _breaches(state, op, decision, held)
        if decision.host & UNSEEN:
            unsure = ("DEV-6.oldest",)
    if op.type == "ok":
        if decision.faults == EMPTY_RANGE and f == "give_back" and "QEMU-release-nothing" in state.config.departures:
            text = "a release of a range without length succeeded"
            findings = (*findings, departed("QEMU-release-nothing", "DEV-2.nonempty", text, op))
            return Next(apply_give_back(state, [pair for pair in ranges if pair[1]]), held + ANSWERED, findings)
        if decision.faults:
            return wrongly_served(state, op, decision)._replace(also=findings, judged=held)
        if decision.unsure:
            lost = lose(state, "a command succeeded that concerns what was not seen")
            unsure += tuple([found.clause for found in findings if found.clause == "DEV-6.inside"])
            findings = tuple([found for found in findings if found.clause not in unsure])
            return Next(lost, held + ANSWERED, findings, (_UNKNOWN_CLAUSE[f], *unsure))
        return Next(after(), held + _shown(state, f, ranges), findings)
    if decision.faults & IN_SHADOW and op.received["rc"] in decision.codes:
        text = "an answer that goes on after More was refused: the first one had settled the chain"
        findings = (*findings, departed("QEMU-answer-more", "DEV-6.more", text, op))
        return Next(state, held + ANSWERED, findings)
    if op.received["rc"] == EXHAUSTED and not decision.faults:
        full = _full(state, op, len(ranges))
        if full is not None:
            return full._replace(judged=held + full.judged, findings=findings + full.findings)
    wrong = wrongly_refused(state, op, decision, _shown(state, f, ranges)[-1])
    if wrong is not None:
        return wrong._replace(also=findings, judged=held)
    same = unchanged(state, f, ranges)
    if decision.unsure:
        return Next(same, held + ANSWERED, findings, (_UNKNOWN_CLAUSE[f], *unsure))
    return Next(same, held + refused(f, decision), findings, unsure)


def _full(state: State, op: Completed, more: int) -> Next | None:
    """1Dh where the rules see room: not known how much there is, or counted wrongly in a known way; None if neither."""
    supported = supported_extents(state)
    if supported is None:
        return Next(state, ANSWERED, (), ("DEV-8.1Dh",))
    known = "QEMU-counts-twice" in state.config.departures
    if not known:
        return None
    if len(state.accepted) + len(state.pending) + more <= supported:
        unseen = state.config.view == "guest"  # what else is offered, this view may never have read
        return Next(state, ANSWERED, (), ("DEV-8.served",)) if unseen else None
    text = f"{len(state.accepted)} extents and {more} more are {supported} at most, and it got 1Dh"
    return Next(state, ANSWERED, (departed("QEMU-counts-twice", "DEV-8.served", text, op),))


def _breaches(
    state: State, op: Completed, decision: Decision, held: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[Violation, ...]]:
    """What the host broke, and which clauses it kept."""
    findings: list[Violation] = []
    for bits, clause, text in BREACHES[op.f]:
        if decision.host & bits:
            findings.append(breach(clause, text, op, state=describe(state)))
    broken = {found.clause for found in findings}
    if decision.host & UNSEEN:
        broken |= {"DEV-6.oldest", "DEV-6.inside", "DEV-6.order"}
    if decision.host & LATER_CHAIN:  # offered it was, but to a guest that has not read so far it was not
        broken.add("DEV-6.inside")
    kept = tuple([clause for clause in held if clause not in broken])
    if op.f == "answer" and decision.host & PARTLY and not findings:
        kept = (*kept, "DEV-6.part")
    return kept, tuple(findings)


def _shown(state: State, f: str, ranges: Ranges) -> tuple[str, ...]:
    """What a command shows that is served, the last one what its refusal breaks: an answer that goes on after More, a
    release of a part or over several extents, where it is one.
    """
    if f == "answer":
        return (*SERVED, "DEV-6.more") if state.chains and state.chains[0].taken else SERVED
    part = span = False
    for start, length in ranges:
        extent = state.accepted.find(start)
        if extent is None:
            continue
        end = start + length
        if extent.end < end:
            span = True
        elif extent.start < start or end < extent.end:
            part = True
    if not (part or span):
        return SERVED
    return SERVED + (("DEV-7.part",) if part else ()) + (("DEV-7.span",) if span else ())


def _clear(state: State, op: Completed) -> Next | Violation:
    """0101h: DEV-16. Other logs than 4 are not judged."""
    log, flags, handles, short = read_handles(op.sent)
    if log != LOG:
        return Next(state, ANSWERED)
    decision = decide(state, "clear", op.sent) if short else decide_clear(state, flags, handles)
    known = state.config.departures
    if op.type == "fail":
        late = decision.faults & HANDLE_ORDER and op.received["rc"] == INVALID_INPUT
        if late and INVALID_INPUT not in decision.codes and "QEMU-clear-code" in known:
            text = "handles out of order got 02h, not 0Eh"
            found = departed("QEMU-clear-code", "DEV-16.clear-order", text, op)
            return Next(unchanged(state, "clear", ()), ANSWERED, (found,))
        wrong = wrongly_refused(state, op, decision)
        if wrong is not None:
            return wrong
        after = unchanged(state, "clear", ())
        if decision.unsure:
            return Next(after, ANSWERED, (), (_UNKNOWN_CLAUSE["clear"],))
        return Next(after, refused("clear", decision))
    if decision.faults & NO_OVERFLOW and "QEMU-clear-all" in known:
        text = "Clear All without an overflow succeeded, and must get 02h"
        return Next(state, ANSWERED, (departed("QEMU-clear-all", "DEV-16.clear-all", text, op),))
    if decision.faults & HANDLE_UNKNOWN and "QEMU-clear-beyond" in known:
        held = [entry.handle for entry in state.log]
        if held == list(handles[: len(held)]):
            text = "a handle past the last record was accepted, and must get 0Eh"
            found = departed("QEMU-clear-beyond", "DEV-16.clear-unknown", text, op)
            return Next(apply_clear(state, 0, handles), ANSWERED, (found,))
    if decision.faults:
        return wrongly_served(state, op, decision)
    if flags & 1 and "QEMU-clear-all" in known:
        return Next(state._replace(notes=state.notes._replace(cleared_all=True)), SERVED)
    return Next(apply_clear(state, flags, handles), SERVED)


def _add(state: State, op: Completed) -> Next | Violation:
    """A manager's add: accepted only if legal, and then queued (DEV-2, DEV-3, DEV-8)."""
    extents = manager_extents(state, op.sent)
    decision = decide_add(state, op.sent, extents)
    return _manager(state, op, decision, extents, lambda: apply_add(state, op.sent, extents))


def _release(state: State, op: Completed) -> Next | Violation:
    """A manager's release request: accepted only if legal, and nothing else changes (DEV-8, DEV-11)."""
    extents = manager_extents(state, op.sent)
    again = any(state.notes.asked.overlaps(extent.start, extent.length) for extent in extents)
    decision = decide_release(state, op.sent, extents)
    found = _manager(state, op, decision, extents, lambda: apply_release(state, op.sent, extents))
    if again and op.type == "ok" and isinstance(found, Next):
        return found._replace(judged=(*found.judged, "DEV-11.again"))
    return found


def _manager(
    state: State, op: Completed, decision: Decision, extents: tuple[Extent, ...], after: Callable[[], State]
) -> Next | Violation:
    """Add and release alike."""
    f = op.f
    if op.type == "ok":
        if decision.faults:
            known = served_wrongly(state, op, decision.faults)
            if known and decision.faults & UNREAD:
                return Next(lose(state, "what a departed device made of the request is not known"), ANSWERED, known)
            return Next(after(), ANSWERED, known) if known else wrongly_served(state, op, decision)
        if decision.unsure and extents:
            lost = lose(state, f"policy {op.sent['policy']} was served: what it chose is not known")
            return Next(lost, ANSWERED, (), (_UNKNOWN_CLAUSE[f],))
        return Next(after(), SERVED)
    wrong = wrongly_refused(state, op, decision)
    if wrong is not None:
        return wrong
    ranges = [(extent.start, extent.length) for extent in extents]
    if decision.unsure:
        return Next(unchanged(state, f, ranges), ANSWERED, (), (_UNKNOWN_CLAUSE[f],))
    return Next(unchanged(state, f, ranges), refused(f, decision))


UNREAD = EMPTY_RANGE | SHORT
"""Faults of a request that leave open what a device offers which serves it all the same."""


def served_wrongly(state: State, op: Completed, faults: int) -> tuple[Violation, ...]:
    """The departures that explain why a request was accepted in spite of these faults; () if they do not."""
    if op.sent["via"] == "fm":
        return _served_by_fm(state, op, faults)
    if faults & ~(HOST | TOO_MANY):
        return ()
    found: list[Violation] = []
    if faults & HOST:
        text = f"host {op.sent['host_id']} is not served, and the request was accepted"
        found.append(departed("QEMU-host", "DEV-8.02h-host", text, op))
    if faults & TOO_MANY:
        text = f"more extents than the {supported_extents(state)} supported were accepted for an offer"
        found.append(departed("QEMU-add-full", "DEV-8.1Dh", text, op))
    known = state.config.departures
    return tuple(found) if all(violation.departure in known for violation in found) else ()


def _served_by_fm(state: State, op: Completed, faults: int) -> tuple[Violation, ...]:
    if faults & ~(HOST | UNREAD):
        return ()
    found: list[Violation] = []
    if faults & HOST:
        text = f"host {op.sent['host_id']} is not served, and the request was accepted"
        found.append(departed("QEMU-fm-host", "DEV-8.02h-host", text, op))
    if faults & EMPTY_RANGE:
        text = "a request with an extent without length was accepted"
        found.append(departed("QEMU-fm-empty", "DEV-2.nonempty", text, op))
    if faults & SHORT:
        text = f"{len(op.sent['raw']) // 2} bytes, too few for the extents counted in them, were accepted"
        found.append(departed("QEMU-fm-short", "DEV-8.16h", text, op))
    known = state.config.departures
    return tuple(found) if all(violation.departure in known for violation in found) else ()


# ---- what commands have in common


def _first(f: str, faults: int) -> Fault:
    for bit, fault in REFUSALS[f].items():
        if faults & bit:
            return fault
    raise KeyError(f"no row of REFUSALS[{f!r}] for {faults:#x}")


def wrongly_served(state: State, op: Completed, decision: Decision) -> Violation:
    """A success of what must be refused."""
    fault = _first(op.f, decision.faults)
    return fail(
        fault.clause,
        f"{op.f} succeeded, and must be refused: {fault.text}",
        op,
        expected=_hex(decision.codes),
        state=describe(state),
    )


def wrongly_refused(
    state: State, op: Completed, decision: Decision, demanded: str = "DEV-8.served"
) -> Violation | None:
    """A refusal of what breaks no rule (`demanded` names the one that wants it served), or one with a code that no
    rule gives. QMP's errors have no code.
    """
    rc = op.received.get("rc")
    if rc is None:
        if decision.codes:
            return None
    elif rc in decision.codes:
        return None
    answer = f"got {rc:02x}h" if rc is not None else f"was refused: {op.received.get('desc', '')}"
    if not decision.codes:
        text = f"{op.f} breaks no rule, and {answer}"
        return fail(demanded, text, op, expected=["00h"], state=describe(state))
    clause = demanded
    if decision.faults:
        clause = _first(op.f, decision.faults).code_clause
    text = f"{op.f} {answer}; permitted: {', '.join(_hex(decision.codes))}"
    return fail(clause, text, op, expected=_hex(decision.codes), state=describe(state))


def _hex(codes: frozenset[int]) -> list[str]:
    return [f"{code:02x}h" for code in sorted(codes)]


def refused(f: str, decision: Decision) -> tuple[str, ...]:
    """What a refusal has tested: the one clause that called for it; when several did, that any will do."""
    faults = decision.faults & ~IN_SHADOW
    if not faults:
        return ANSWERED
    if faults & (faults - 1):
        return ("DEV-9.answers", "DEV-8.any")
    fault = REFUSALS[f][faults]
    if fault.code_clause == fault.clause:
        return ("DEV-9.answers", fault.clause)
    return ("DEV-9.answers", fault.clause, fault.code_clause)


def unchanged(state: State, f: str, ranges: Ranges) -> State:
    """The state after a refusal: the same, and later witnesses of these ranges show that (DEV-8.unchanged)."""
    if f == "clear":
        recent = Recent("DEV-8.unchanged", "log", ())
    else:
        named = [(pair[0], pair[1]) for pair in ranges]
        if f == "answer" and state.chains:
            named += [(extent.start, extent.length) for extent in state.chains[0].extents[:16]]
        recent = Recent("DEV-8.unchanged", "", tuple(named[:96]))
    return state._replace(trace=remember(state.trace, recent))


# ---- regions


def judge_regions(config: Config) -> tuple[tuple[str, ...], tuple[Violation, ...]]:
    """DEV-1, from the regions as the device reports them: clauses that hold, and those broken."""
    regions = config.regions
    broken: dict[str, str] = {}
    if not 1 <= len(regions) <= 8:
        broken["DEV-1.count"] = f"{len(regions)} regions; 1 to 8 are allowed"
    reached = -1
    for region in regions:
        name = f"region {region.id} at 0x{region.base:x}"
        block = region.block_size
        if region.base < reached:
            broken.setdefault("DEV-1.order", f"{name} starts before the end of the one before, 0x{reached:x}")
        reached = region.base + region.decode_length
        if block < 64 or block & (block - 1):
            broken.setdefault("DEV-1.block", f"{name}: block size {block} is no power of two from 64 on")
        elif region.base % block or region.length % block:
            broken.setdefault("DEV-1.multiple", f"{name}: base or length is no multiple of its block size {block}")
        if region.base % (256 << 20):
            broken.setdefault("DEV-1.base", f"{name} is not on 256 MiB")
        if region.length > region.decode_length:
            broken.setdefault("DEV-1.decode", f"{name}: length {region.length} is above {region.decode_length}")
    evidence = {"regions": [region._asdict() for region in regions]}
    findings = [Violation(clause, "device", "fail", text, evidence) for clause, text in broken.items()]
    held = [clause for clause in _REGION_CLAUSES if clause not in broken]
    return tuple(held), tuple(findings)


_REGION_CLAUSES = (
    "DEV-1.count", "DEV-1.order", "DEV-1.block", "DEV-1.multiple", "DEV-1.base", "DEV-1.decode",
)  # fmt: skip


def _gone(state: State, op: Completed) -> Next | Violation:
    """The device is no more (DEV-9)."""
    return fail("DEV-9.alive", f"the device is gone: {op.sent.get('reason', 'no reason is known')}", op)


def _reset(state: State, op: Completed) -> Next | Violation:
    """DEV-22: recorded, never judged; what is left afterwards is not known."""
    return Next(lose(state, "the host was reset"), (), (), ("DEV-22.recorded",))


_STEPS: dict[str, Callable[[State, Completed], Next | Violation]] = {
    "add": _add,
    "release": _release,
    "events": record.events,
    "clear": _clear,
    "answer": _answer,
    "give_back": _give_back,
    "extents": witness.extents,
    "block": witness.block,
    "store": data.store,
    "load": data.load,
    "bytes": data.look,
    "gone": _gone,
    "reset": _reset,
}
ALWAYS = frozenset(("gone", "reset"))
EFFECTS = frozenset(("add", "release", "clear", "answer", "give_back"))
_COMMANDS = frozenset(("add", "release", "events", "clear", "answer", "give_back", "extents"))
UNKNOWN: dict[str, tuple[str, ...]] = {
    "add": ("DEV-3.pending",),
    "release": ("DEV-11.request",),
    "events": ("DEV-4.whole",),
    "clear": ("DEV-16.clear-order",),
    "answer": ("DEV-6.inside", "DEV-8.0Fh-chain"),
    "give_back": ("DEV-7.held", "DEV-8.0Fh-held"),
    "extents": ("DEV-10.extents",),
    "block": ("DEV-5.free",),
    "load": ("DEV-17.device-reads",),
    "bytes": ("DEV-17.backend-reads",),
}
