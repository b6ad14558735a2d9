"""The whole device judged: `device` for one host and named extents, and all that a manager and several hosts add.

It has the same `step`, `possible` and `follow`, and is what the checker takes; the guest, which sees one host's mailbox
only, takes `device` and never imports this. A plain device (one host, extents by name) costs one look more here. Each
operation is judged as its host stands (`pool.enter`), by `device` where that knows the command and by `manager`'s
decisions where it does not. What the device may choose by itself is held against what its records tell (`choice`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..extents import NULL_TAG
from . import device, witness
from .choice import CONTIGUOUS, FREE, PRESCRIPTIVE, SHARED, TAG_BASED, reveal
from .data import TELLING
from .decide import (
    ELSEWHERE,
    HOST,
    KEPT,
    LEGAL,
    LOG,
    NO_ROOM,
    NO_TAG,
    NOT_HELD,
    PENDING,
    POLICY,
    TAGS,
    TOO_MANY,
    Decision,
    apply_release,
    decision,
    manager_extents,
    read_handles,
    read_ranges,
)
from .device import (
    ANSWERED,
    SERVED,
    UNREAD,
    deadly,
    describe,
    judge_regions,
    key,
    refused,
    served_wrongly,
    unchanged,
    wrongly_refused,
    wrongly_served,
)
from .handover import after_command, given_back, parts_of
from .manager import (
    asked_extents,
    by_tag,
    decide_ask,
    decide_list_tags,
    decide_offer,
    decide_reference,
    decide_region,
    do_ask,
    do_named,
    do_offer,
    do_reference,
    do_region,
    is_forced,
    is_plain,
    offered,
    region_asked,
)
from .pool import begin as initial
from .pool import enter, holders, host_of, leave, rest_of, tags_in_use, untold, whole
from .state import (
    ADD,
    CHOSEN,
    CONFIGURED,
    FORCED,
    Completed,
    Next,
    State,
    Violation,
    departed,
    fail,
    lose,
)
from .witness import IS_PENDING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["deadly", "describe", "follow", "initial", "judge_regions", "key", "possible", "step"]

_MANAGER = frozenset(("add", "release"))
_LOOKS = frozenset(("load", "bytes"))
_SIMPLE = frozenset(("events", "clear", "answer", "give_back", "extents", "block", "store"))
_EFFECTS = frozenset(("add", "release", "force", "set_region", "add_reference", "remove_reference"))
_UNKNOWN: dict[str, tuple[str, ...]] = {
    "force": ("DEV-12.taken",),
    "set_region": ("DEV-18.empty",),
    "add_reference": ("DEV-21.references",),
    "remove_reference": ("DEV-21.references",),
    "list_tags": ("DEV-21.list",),
    "fm_extents": ("DEV-10.extents",),
    "status": ("DEV-16.status",),
}
_STATUS_LOG = 1 << 4
_MANY = 1 << 20


def step(state: State, op: Completed) -> Next | Violation:
    """The state after an operation and its end, with what that showed; or the rule that the device broke."""
    f = op.f
    if state.rest is None and f in _SIMPLE:
        return device.step(state, op)
    if state.rest is None and f not in _JUDGES and (f not in _MANAGER or is_plain(op.sent)):
        if f in _LOOKS and state.trace.former and op.type == "ok":
            return _kept(state, op, device.step(state, op))
        return device.step(state, op)
    if state.notes.lost and f not in device.ALWAYS:
        return Next(state, (), (), _UNKNOWN.get(f) or device.UNKNOWN.get(f, ()))
    if op.type == "info" and (f in _JUDGES or f in _MANAGER):
        lost = lose(state, f"the outcome of {f} is not known") if f in _EFFECTS else state
        return Next(lost, (), (), ANSWERED)
    state = whole(state)
    host = host_of(state, op.sent)
    if host not in state.config.limits.hosts:
        return _of_nobody(state, op)
    found = _judge(enter(state, host), op)
    return found if isinstance(found, Violation) else found._replace(state=leave(found.state))


def _of_nobody(state: State, op: Completed) -> Next | Violation:
    """An operation for a host that the device does not serve."""
    if op.f in _MANAGER and (op.sent["via"] == "qmp" or "QEMU-fm-host" in state.config.departures):
        return _judge(state, op)
    if op.f not in (*_MANAGER, "force", "fm_extents"):
        return Next(state)
    refusing = decision(op.f, HOST)
    if op.type == "ok":
        return wrongly_served(state, op, refusing)
    return wrongly_refused(state, op, refusing) or Next(state, refused(op.f, refusing))


def _judge(state: State, op: Completed) -> Next | Violation:
    judge = _JUDGES.get(op.f)
    if judge is not None:
        return judge(state, op)
    if op.f == "add":
        return _offer(state, op)
    if op.f == "release":
        return _ask(state, op)
    if op.f == "events":
        return _events(state, op)
    if op.f in ("answer", "give_back"):
        return _command(state, op)
    if op.f == "clear" and _clears_unread(state, op.sent):
        after = lose(state, "records were cleared that nobody had read") if op.type == "ok" else state
        return Next(after, ANSWERED, (), device.UNKNOWN["clear"])
    found = _block(state, op) if op.f == "block" else device.step(state, op)
    if isinstance(found, Violation):
        return found
    found = found._replace(state=found.state._replace(rest=state.rest))
    if op.type == "ok" and op.f == "store":
        return _stored(found, op)
    return _look(state, op, found) if op.type == "ok" and op.f in _LOOKS else found


def possible(state: State, op: Completed) -> tuple[State, ...]:
    """The states that `op` may have led to if it took effect, whatever its end would have been; () if none."""
    f = op.f
    if state.rest is None and f not in _JUDGES and (f not in _MANAGER or is_plain(op.sent)):
        return device.possible(state, op)
    state = whole(state)
    host = host_of(state, op.sent)
    if host not in state.config.limits.hosts:
        return ()
    inner = enter(state, host)
    if f not in _EFFECTS:
        ranges = read_ranges(op.sent)[1] if f in ("answer", "give_back") else ()
        if ranges and inner.chains and inner.chains[0].choice and f == "answer":
            return (leave(lose(inner, "an answer to what no record has told yet")),)
        return tuple([leave(after_command(inner, found, f, ranges)) for found in device.possible(inner, op)])
    decided = _decide(inner, op)
    if decided.faults:
        return ()
    if decided.unsure & ~(PENDING | TOO_MANY | NO_ROOM) or (f == "add" and op.sent["policy"] not in _POLICIES):
        return (leave(lose(inner, f"the outcome of {f} is not known")),)
    return (leave(_do(inner, op)),)


def follow(state: State, op: Completed) -> State:
    """A state to go on with after the device broke a rule: see `device.follow`."""
    f = op.f
    if state.rest is None and f not in _JUDGES and (f not in _MANAGER or is_plain(op.sent)):
        return device.follow(state, op)
    if op.type != "ok" or state.notes.lost:
        return state
    state = whole(state)
    host = host_of(state, op.sent)
    if host not in state.config.limits.hosts:
        return state
    inner = enter(state, host)
    named = f in _MANAGER and op.sent["policy"] == PRESCRIPTIVE and not op.sent.get("forced")
    if f in _EFFECTS and not named:
        return leave(lose(inner, f"{f} broke a rule, and what it did is not known"))
    return leave(device.follow(inner, op)._replace(rest=inner.rest))


# ---- a manager's commands

_POLICIES = (FREE, CONTIGUOUS, PRESCRIPTIVE, SHARED)


def _decide(state: State, op: Completed) -> Decision:
    f, sent = op.f, op.sent
    if f == "add":
        return decide_offer(state, sent)
    if f in ("release", "force"):
        return decide_ask(state, sent, forced=is_forced(f, sent))
    if f == "set_region":
        return decide_region(state, sent)
    return decide_reference(state, f, sent)


def _do(state: State, op: Completed) -> State:
    """The state after a command that took effect."""
    f, sent = op.f, op.sent
    if f == "add":
        if sent["policy"] in (FREE, CONTIGUOUS):
            return do_offer(state, sent)
        return do_named(state, sent, offered(state, sent))
    if f in ("release", "force"):
        forced = is_forced(f, sent)
        extents = asked_extents(state, sent, forced=forced)
        after = do_ask(state, sent, extents, forced=forced, known=not by_tag(sent))
        ranges = [(one.start, one.length) for one in extents]
        return given_back(state, after, ranges, asked=bool(sent.get("sanitize"))) if forced else after
    if f == "set_region":
        return do_region(state, sent)
    return do_reference(state, f, sent)


def _offer(state: State, op: Completed) -> Next | Violation:
    """An add by any policy (DEV-13)."""
    sent = op.sent
    decided = _decide(state, op)
    if op.sent["host_id"] not in state.config.limits.hosts:
        decided = decision("add", decided.faults | HOST, decided.unsure, decided.codes)
    policy, served = sent["policy"], state.config.limits.selection
    if op.type != "ok":
        demanded = "DEV-8.served"
        if served is not None and policy != PRESCRIPTIVE:
            demanded = "DEV-13.advertised" if policy != SHARED else "DEV-13.shared"
        return _not_done(state, op, decided, demanded, _named(state, op))
    findings: tuple[Violation, ...] = ()
    if decided.faults:
        findings = _excused(state, op, decided.faults)
        if not findings:
            return wrongly_served(state, op, decided)
        if decided.faults & UNREAD:
            return Next(lose(state, "what a departed device made of the request is not known"), ANSWERED, findings)
    if policy not in _POLICIES or decided.unsure & NO_TAG:
        lost = lose(state, f"policy {policy} was served: what it chose is not known")
        return Next(lost, ANSWERED, findings, ("DEV-13.advertised",))
    if findings and policy in (FREE, CONTIGUOUS):
        return Next(lose(state, "a departed device chose"), ANSWERED, findings)
    after = _do(state, op)
    judged = ANSWERED if findings else (*SERVED, *_open(decided))
    if served is not None:
        return Next(after, judged if findings else (*judged, "DEV-13.advertised"), findings)
    return Next(after, judged, findings, () if policy == PRESCRIPTIVE else ("DEV-13.advertised",))


def _excused(state: State, op: Completed, faults: int) -> tuple[Violation, ...]:
    """The departures that explain why an add was accepted in spite of these faults; () if they do not."""
    found: tuple[Violation, ...] = ()
    if faults & TAGS and "QEMU-tags-supported" in state.config.departures:
        supported = state.config.limits.supported_tags
        text = f"{supported} tags are supported by report, and a tagged extent was accepted for an offer"
        found = (departed("QEMU-tags-supported", "DEV-19.tags", text, op),)
        faults &= ~TAGS
    return (*served_wrongly(state, op, faults), *found) if faults else found


def _ask(state: State, op: Completed) -> Next | Violation:
    """A release request by any policy; forced, it takes effect at once (DEV-11, DEV-12)."""
    sent = op.sent
    forced = is_forced(op.f, sent)
    if forced and "QEMU-forced" in state.config.departures:
        return _not_forced(state, op)
    decided = _decide(state, op)
    if op.sent["host_id"] not in state.config.limits.hosts:
        decided = decision(op.f, decided.faults | HOST, decided.unsure, decided.codes)
    extents = asked_extents(state, sent, forced=forced)
    if op.type != "ok":
        demanded = "DEV-12.taken" if forced else "DEV-13.removal" if by_tag(sent) else "DEV-8.served"
        return _not_done(state, op, decided, demanded, [(one.start, one.length) for one in extents])
    findings: tuple[Violation, ...] = ()
    if decided.faults:
        findings = _excused(state, op, decided.faults)
        if not findings:
            return wrongly_served(state, op, decided)
        if decided.faults & UNREAD:
            return Next(lose(state, "what a departed device made of the request is not known"), ANSWERED, findings)
    if decided.unsure & (NO_TAG | NOT_HELD) or sent["policy"] not in (PRESCRIPTIVE, TAG_BASED):
        lost = lose(state, "a release was served, and what of is not known")
        return Next(lost, ANSWERED, findings, ("DEV-12.taken" if forced else "DEV-13.removal",))
    judged: tuple[str, ...] = SERVED
    if not forced and any(state.notes.asked.overlaps(one.start, one.length) for one in extents):
        judged = (*judged, "DEV-11.again")
    return Next(_do(state, op), ANSWERED if findings else judged, findings)


def _not_forced(state: State, op: Completed) -> Next:
    """A forced release, by a device that is known not to have it."""
    text = "refused" if op.type == "fail" else "sent as an ordinary request, and nothing was taken"
    found = departed("QEMU-forced", "DEV-12.taken", f"a forced release was {text}", op)
    after = state
    if op.type == "ok":
        after = apply_release(state, op.sent, manager_extents(state, op.sent))._replace(rest=state.rest)
    return Next(after, ANSWERED, (found,))


def _open(decided: Decision) -> tuple[str, ...]:
    """What no rule decides, and was met here."""
    found = [name for bit, name in ((ELSEWHERE, "DEV-15.again"), (KEPT, "DEV-21.again")) if decided.unsure & bit]
    return tuple(found)


_TELLS = (
    (POLICY, "DEV-13.advertised"),
    (NO_ROOM, "DEV-8.1Dh-room"),
    (TOO_MANY, "DEV-8.1Dh"),
    (PENDING, "DEV-3.pending"),
)


def _not_done(
    state: State, op: Completed, decided: Decision, demanded: str, ranges: Sequence[Sequence[int]]
) -> Next | Violation:
    """A command that was refused: whether it may be, and by that code."""
    wrong = wrongly_refused(state, op, decided, demanded)
    if wrong is not None:
        return wrong
    same = unchanged(state, op.f, ranges)
    if decided.faults or not decided.unsure:
        return Next(same, refused(op.f, decided))
    unknown = tuple([clause for bit, clause in _TELLS if decided.unsure & bit])
    return Next(same, (*ANSWERED, *_open(decided)), (), unknown)


def _named(state: State, op: Completed) -> list[tuple[int, int]]:
    if op.sent["policy"] != PRESCRIPTIVE:
        return []
    return [(extent.start, extent.length) for extent in manager_extents(state, op.sent)]


def _region(state: State, op: Completed) -> Next | Violation:
    """5602h (DEV-18)."""
    decided = decide_region(state, op.sent)
    used = not (decided.faults or decided.unsure) and bool(decided.codes)
    if op.type != "ok":
        if used and op.received.get("rc") in (None, *decided.codes):
            return Next(unchanged(state, op.f, []), (*ANSWERED, "DEV-18.used"))
        return _not_done(state, op, decided, "DEV-18.same" if decided is LEGAL else "DEV-8.served", [])
    if decided.faults:
        return wrongly_served(state, op, decided)
    if used:
        return Next(state, (*ANSWERED, "DEV-18.used"))
    return Next(do_region(state, op.sent), (*SERVED, "DEV-18.same") if decided is LEGAL else SERVED)


def _reference(state: State, op: Completed) -> Next | Violation:
    """5606h and 5607h (DEV-21)."""
    decided = decide_reference(state, op.f, op.sent)
    if op.type != "ok":
        return _not_done(state, op, decided, "DEV-21.references", [])
    if decided.faults:
        return wrongly_served(state, op, decided)
    again = ("DEV-21.again",) if decided.codes and not decided.unsure else ()
    return Next(do_reference(state, op.f, op.sent), (*SERVED, "DEV-21.references", *again))


def _list_tags(state: State, op: Completed) -> Next | Violation:
    """5608h (DEV-21): every tag in use or referenced, with who has it."""
    decided = decide_list_tags(state, op.sent)
    if op.type != "ok":
        return _not_done(state, op, decided, "DEV-21.list", [])
    if decided.faults:
        return wrongly_served(state, op, decided)
    known, received = tags_in_use(state), op.received
    referenced = {kept.tag for kept in rest_of(state).references}
    seen: set[bytes] = set()
    for found in received["tags"]:
        tag = bytes.fromhex(found["tag"])
        text = ""
        if tag in seen:
            text = "is in the list twice"
        elif tag not in known:
            if tag == NULL_TAG:  # no rule says that it is none
                continue
            text = "is in the list, and nobody uses it"
        elif bool(found["flags"] & 1) != (tag in referenced):
            text = f"is {'' if tag in referenced else 'not '}referenced, and the list says otherwise"
        else:
            have, wait = holders(state, tag)
            for bit, name, right in ((1, "hosts", have), (2, "pending_hosts", wait)):
                if received["validity"] & bit and tuple(sorted(found[name])) != right:
                    text = f"{name} are {found[name]}, not {list(right)}"
        if text:
            return fail("DEV-21.list", f"tag {found['tag']} {text}", op, state=describe(state))
        seen.add(tag)
    if not op.sent["start"] and len(received["tags"]) == received["total"] and seen != known:
        (missing, *_) = sorted(known - seen)
        return fail("DEV-21.list", f"tag {missing.hex()} is in use and not in the list", op, state=describe(state))
    return Next(state, (*SERVED, "DEV-21.list"))


# ---- the host's side


def _events(state: State, op: Completed) -> Next | Violation:
    """0100h: the records of what the device chose are learned first, then all are judged as ever."""
    if op.type != "ok" or op.sent["log"] != LOG or "records" not in op.received:
        found = device.step(state, op)
        return found if isinstance(found, Violation) else found._replace(state=found.state._replace(rest=state.rest))
    records = op.received["records"]
    state = _configured(state, records)
    shown = reveal(state, op)
    if isinstance(shown, Violation):
        return shown
    before = shown.state
    found = device.step(before, op)
    if isinstance(found, Violation):
        return _renamed(before, op, found)
    judged = list(found.judged)
    for record, told in zip(before.log, records, strict=False):
        if record.handle:
            continue
        wrong = _new_record(before, op, record, told, judged)
        if wrong is not None:
            return wrong._replace(also=found.findings)
    for choice in shown.done:
        judged.append({FREE: "DEV-13.free", CONTIGUOUS: "DEV-13.contiguous"}.get(choice.policy, "DEV-13.removal"))
        if choice.tag != NULL_TAG and len(choice.shown) > 1:
            judged.append("DEV-4.one-chain")
        if choice.kind == ADD and choice.tag != NULL_TAG and state.config.regions[choice.region].sharable:
            judged.append("DEV-15.sequence")
    after = found.state._replace(rest=before.rest)
    return found._replace(state=after, judged=tuple(dict.fromkeys(judged)))


def _configured(state: State, records: Sequence[dict[str, Any]]) -> State:
    """The log with what a record of type 3 has in its extent taken for right: no rule says what that holds."""
    log = list(state.log)
    for at, told in enumerate(records[: len(log)]):
        if log[at].type == CONFIGURED and not log[at].handle and told.get("type") == CONFIGURED:
            log[at] = log[at]._replace(
                dpa=told["dpa"], length=told["length"], tag=told["tag"], sequence=told["sequence"]
            )
    return state._replace(log=tuple(log))


def _new_record(state: State, op: Completed, record: Any, told: dict[str, Any], judged: list[str]) -> Violation | None:
    """What a record that came for the first time shows beyond its fields."""
    if record.type == CONFIGURED:
        if told["region"] != record.region:
            text = f"updated region is {told['region']}, set up anew was {record.region}"
            return fail("DEV-4.region", text, op, expected=record.region)
        judged.append("DEV-18.told")
    elif record.type == FORCED:
        judged.append("DEV-12.told")
    elif record.type == ADD and not record.policy:
        judged.append("DEV-13.prescriptive")
    elif record.policy == SHARED:
        judged += ["DEV-13.shared", "DEV-15.one-tag", "DEV-15.sequence"]
    supported = state.config.limits.supported_tags
    if record.tags < 0 or supported is None or not told["validity"] & 1:
        return None
    right = max(supported - record.tags, 0)
    if told["available_tags"] != right:
        text = f"{told['available_tags']} tags available; with {record.tags} in use of {supported} it must be {right}"
        return fail("DEV-19.tags", text, op, expected=right)
    judged.append("DEV-19.tags")
    return None


_SHARED_CLAUSE = {
    "DEV-4.extent": "DEV-15.one-tag",
    "DEV-4.whole": "DEV-15.one-tag",
    "DEV-4.tag": "DEV-15.one-tag",
    "DEV-4.order": "DEV-15.sequence",
    "DEV-4.sequence": "DEV-15.sequence",
}


def _renamed(state: State, op: Completed, found: Violation) -> Violation:
    """The violation by the clause of what caused the record, where that has one of its own."""
    expected = found.evidence.get("expected")
    clause = found.clause
    if isinstance(expected, dict):
        if expected.get("type") == FORCED and clause in ("DEV-4.type", "DEV-4.whole"):
            clause = "DEV-12.told"
        elif expected.get("type") == CONFIGURED and clause in ("DEV-4.type", "DEV-4.whole"):
            clause = "DEV-18.told"
        elif expected.get("policy") == SHARED:
            clause = _SHARED_CLAUSE.get(clause, clause)
    elif clause == "DEV-4.only" and op.received["records"][len(state.log)].get("type") == CONFIGURED:
        clause = "DEV-18.told"
    return found._replace(clause=clause)


def _command(state: State, op: Completed) -> Next | Violation:
    """4802h and 4803h, for one of several hosts, and of what the device chose."""
    ranges = read_ranges(op.sent)[1]
    first = state.chains[0] if op.f == "answer" and state.chains else None
    if first is not None and first.choice and ranges:
        if op.type == "ok":
            state = lose(state, "an answer to what no record has told yet")
        return Next(state, ANSWERED, (), device.UNKNOWN["answer"])
    found = device.step(state, op)
    if isinstance(found, Violation):
        return found._replace(also=_fair(state, found.also, ranges))
    found = found._replace(findings=_fair(state, found.findings, ranges))
    after = found.state._replace(rest=state.rest)
    if first is not None and first.gap and ranges:
        found = found._replace(judged=(*found.judged, "DEV-12.answered"))
    if op.type != "ok":
        return found._replace(state=after)
    if first is not None and first.gap and not ranges:
        after = lose(after, "whether that refused the offer or one that a forced release had withdrawn is not known")
        return found._replace(state=after, judged=ANSWERED, unknown=("DEV-6.left",))
    return found._replace(state=after_command(state, after, op.f, ranges))


def _clears_unread(state: State, sent: dict[str, Any]) -> bool:
    """Whether a 0101h reaches records of the device's own choice that no reading has told, so that it cannot be held
    against them."""
    log, flags, handles, short = read_handles(sent)
    places = [at for at, record in enumerate(state.log) if record.type == CHOSEN]
    if log != LOG or short or not places:
        return False
    return bool(flags & 1) or len(handles) > places[0]


_BLIND = frozenset(("DEV-6.inside", "DEV-6.oldest", "DEV-6.order", "DEV-7.held", "DEV-7.pending"))


def _fair(state: State, findings: tuple[Violation, ...], ranges: Sequence[Sequence[int]]) -> tuple[Violation, ...]:
    """What the host broke, without what a forced release made of it that no record has told the host (DEV-12)."""
    if not findings:
        return findings
    taken = [(one.dpa, one.dpa + one.length) for one in state.log if one.type == FORCED and not one.handle]
    for start, length in ranges:
        if any(first < start + length and start < end for first, end in taken):
            return tuple([finding for finding in findings if finding.clause not in _BLIND])
    return findings


# ---- data: sanitized or not (DEV-14)


def _stored(found: Next, op: Completed) -> Next:
    """Bytes written: what must be gone there is gone by that."""
    rest = rest_of(found.state)
    if not len(rest.wiped):
        return found
    wiped = rest.wiped.discard_range(op.sent["dpa"], len(op.sent["data"]) // 2)
    return found._replace(state=found.state._replace(rest=rest._replace(wiped=wiped)))


def _look(state: State, op: Completed, found: Next) -> Next | Violation:
    """Bytes seen in capacity that was offered again: nothing of what had to be sanitized may be there."""
    rest = rest_of(state)
    start, length = op.sent["dpa"], op.sent["length"]
    data = bytes.fromhex(op.received["data"])
    if len(data) != length:
        return found
    tested = False
    for extent in state.accepted.intersecting(start, length) if len(rest.wiped) else ():
        for part in parts_of(rest.wiped, max(extent.start, start), min(extent.end, start + length)):
            seen = data[part.start - start : part.start - start + part.length]
            if len(part.data) < TELLING or len(set(part.data)) < 2:
                continue
            tested = True
            if seen != part.data:
                continue
            text = f"0x{part.start:x}+{part.length} was to be sanitized, and reads as before its release"
            if "QEMU-sanitize" not in state.config.departures:
                return fail("DEV-14.cleared", text, op, state=describe(state))
            told = departed("QEMU-sanitize", "DEV-14.cleared", text, op)
            wiped = rest.wiped.discard_range(part.start, part.length)
            after = found.state._replace(rest=rest._replace(wiped=wiped))
            return found._replace(state=after, findings=(*found.findings, told))
    if tested:
        return found._replace(judged=(*found.judged, "DEV-14.cleared"))
    result = _kept(state, op, found)
    assert isinstance(result, Next)
    return result


def _kept(state: State, op: Completed, found: Next | Violation) -> Next | Violation:
    """What lay in capacity before it was released unsanitized and offered again: it may be there still, or not."""
    if isinstance(found, Violation):
        return found
    start, length = op.sent["dpa"], op.sent["length"]
    for former in state.trace.former or ():
        first, last = max(former.start, start), min(former.start + former.length, start + length)
        there = first < last and state.accepted.covers(first, last - first)
        if there and not state.memory.intersecting(first, last - first):
            return found._replace(judged=(*found.judged, "DEV-14.kept"))
    return found


# ---- witnesses


def _block(state: State, op: Completed) -> Next | Violation:
    """The block-state question; what is free by all that is known may be part of an offer that the device chose."""
    found = device.step(state, op)
    if isinstance(found, Violation) and op.received["state"] == IS_PENDING:
        region = region_asked(state, op.sent)
        if any(choice.host_id == rest_of(state).host for choice in untold(state, region)):
            return Next(state, (), (), ("DEV-5.free",))
    return found


def _fm_extents(state: State, op: Completed) -> Next | Violation:
    """5603h: the list of one host as its manager sees it, by the rules of 4801h (DEV-10)."""
    config = state.config
    roomy = config._replace(limits=config.limits._replace(payload_bytes=_MANY))
    if op.type == "fail" and "rc" not in op.received:
        return wrongly_refused(state, op, LEGAL) or Next(state)
    found = witness.extents(state._replace(config=roomy), op)
    if isinstance(found, Violation):
        return found
    judged = tuple([clause for clause in found.judged if clause != "DEV-10.payload"])
    return found._replace(state=found.state._replace(config=config), judged=judged)


def _status(state: State, op: Completed) -> Next | Violation:
    """The Event Status register (CXL r3.1 8.2.8.3.1): bit 4 is set while log 4 holds a record."""
    if op.type != "ok":
        return Next(state)
    shown = bool(op.received["status"] & _STATUS_LOG)
    if shown == bool(state.log):
        return Next(state, ("DEV-16.status",))
    text = f"event status is {op.received['status']:#x}; log 4 holds {len(state.log)} records"
    return fail("DEV-16.status", text, op, state=describe(state))


_JUDGES: dict[str, Callable[[State, Completed], Next | Violation]] = {
    "force": _ask,
    "set_region": _region,
    "add_reference": _reference,
    "remove_reference": _reference,
    "list_tags": _list_tags,
    "fm_extents": _fm_extents,
    "status": _status,
}
