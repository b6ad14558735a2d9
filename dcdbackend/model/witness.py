"""What shows the device's state judged: the block-state question and the extent list (DEV-5, DEV-10, DEV-11).

A witness changes nothing. Where it disagrees with the state, the clause named is that of the last thing that happened
to the capacity: an answer that left it out, a release, a request, a command that failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..extents import NULL_TAG, Extent, ExtentSet
from .decide import INVALID_INPUT
from .state import (
    NULL_HEX,
    Completed,
    Next,
    Scan,
    State,
    Violation,
    departed,
    describe,
    fail,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

FREE, IS_PENDING, IS_ACCEPTED = "free", "pending", "accepted"
_DEFAULT = {FREE: "DEV-5.free", IS_PENDING: "DEV-5.pending", IS_ACCEPTED: "DEV-6.taken"}
_HELD: dict[str, tuple[str, ...]] = {
    FREE: ("DEV-5.free",),
    IS_PENDING: ("DEV-5.pending",),
    IS_ACCEPTED: ("DEV-6.taken",),
}
_HEADER_BYTES, _EXTENT_BYTES = 16, 40


def standing(state: State, dpa: int) -> str:
    """free, pending or accepted: what the rules say of the block at `dpa`."""
    if state.accepted.find(dpa) is not None:
        return IS_ACCEPTED
    return FREE if state.pending.find(dpa) is None else IS_PENDING


def reason(state: State, dpa: int, stands: str) -> str:
    """The clause that makes the block at `dpa` stand as it does: that of the newest event there."""
    for recent in reversed(state.trace.recent):
        if recent.state in ("", stands) and any(start <= dpa < start + length for start, length in recent.ranges):
            return recent.clause
    if stands == IS_ACCEPTED and state.notes.asked.find(dpa) is not None:
        return "DEV-11.request"
    return _DEFAULT[stands]


def told(state: State, dpa: int, stands: str) -> tuple[str, ...]:
    """The clauses that a witness of the block at `dpa` confirms when it agrees."""
    found = _HELD[stands]
    asked = state.notes.asked
    if stands == IS_ACCEPTED and asked and asked.find(dpa) is not None:
        found = (*found, "DEV-11.request")
    for clause, about, ranges in state.trace.recent:
        if about in ("", stands) and clause not in found:
            for start, length in ranges:
                if start <= dpa < start + length:
                    found = (*found, clause)
                    break
    return found


def half_answered(state: State, dpa: int) -> bool:
    """Whether an answer with More took it: the rules do not say if it is accepted before the last answer."""
    return any(extent.start <= dpa < extent.end for chain in state.chains[:1] for extent in chain.taken)


def block(state: State, op: Completed) -> Next | Violation:
    """The block-state question at region and offset: free, pending or accepted.

    Asked of more than one block (`length`), it says free when no block of them is anything else, and what one of them
    is otherwise.
    """
    if op.type != "ok" or state.config.view == "guest":  # the guest has not seen every offer
        return Next(state)
    sent, seen = op.sent, op.received["state"]
    if seen not in _HELD:
        raise ValueError(f"{seen!r} is no state of a block")
    regions, number = state.config.regions, sent["region"]
    if not 0 <= number < len(regions):
        return Next(state)
    region = regions[number]
    dpa, length = region.base + sent["offset"], sent.get("length", 0)
    if length > region.block_size:
        return _blocks(state, op, dpa, length)
    stands = standing(state, dpa)
    if stands == seen:
        shadow = state.notes.shadow
        if shadow is not None and seen == FREE and _in(shadow.extents, dpa) and not _in(shadow.taken, dpa):
            text = f"0x{dpa:x} went back to free while the answer's More flag was set"
            return Next(state, (), (departed("QEMU-answer-more", "DEV-6.more", text, op),))
        held = told(state, dpa, stands)
        return Next(state, (*held, "DEV-6.more") if _left_open(state, dpa) else held)
    if seen == FREE and _left_open(state, dpa):
        return _not_so(state, op, dpa, stands, "DEV-6.more")
    if seen == IS_ACCEPTED and stands == IS_PENDING and half_answered(state, dpa):
        return Next(state, (), (), ("DEV-6.more",))
    return _not_so(state, op, dpa, stands)


def _left_open(state: State, dpa: int) -> bool:
    """Whether it is of a chain that an answer with More has not settled, and not taken by that."""
    taken = state.chains[0].taken if state.chains else ()
    return bool(taken) and _in(state.chains[0].extents, dpa) and not _in(taken, dpa)


def _not_so(state: State, op: Completed, dpa: int, stands: str, clause: str = "") -> Violation:
    text = f"the block at 0x{dpa:x} is {op.received['state']}; it must be {stands}"
    return fail(clause or reason(state, dpa, stands), text, op, expected=stands, state=describe(state))


def _blocks(state: State, op: Completed, dpa: int, length: int) -> Next | Violation:
    """The answer for a range of blocks."""
    seen = op.received["state"]
    accepted = state.accepted.intersecting(dpa, length)
    pending = state.pending.intersecting(dpa, length)
    if seen == FREE:
        if not accepted and not pending:
            return Next(state, told(state, dpa, FREE))
        held = max((accepted or pending)[0].start, dpa)
        return _not_so(state, op, held, IS_ACCEPTED if accepted else IS_PENDING)
    if seen == IS_ACCEPTED and not accepted:
        if any(half_answered(state, extent.start) for extent in pending):
            return Next(state, (), (), ("DEV-6.more",))
        return _not_so(state, op, pending[0].start if pending else dpa, IS_PENDING if pending else FREE)
    if seen == IS_PENDING and not pending:
        return _not_so(state, op, accepted[0].start if accepted else dpa, IS_ACCEPTED if accepted else FREE)
    return Next(state, _HELD[seen])


def _in(extents: Iterable[Extent], dpa: int) -> bool:
    return any(extent.start <= dpa < extent.end for extent in extents)


def extents(state: State, op: Completed) -> Next | Violation:
    """4801h (CXL r3.1 8.2.9.9.9.2), and 5603h by the same rules: the list against what is accepted."""
    start = op.sent["start"]
    total = len(state.accepted)
    half = bool(state.chains and state.chains[0].taken)
    if op.type == "fail":
        rc = op.received["rc"]
        if start <= total:
            if half:
                return Next(state, (), (), ("DEV-8.served",))
            return fail("DEV-8.served", f"the list from {start} of {total} was refused with {rc:02x}h", op)
        if rc != INVALID_INPUT:
            return fail("DEV-8.02h-start", f"a start past the end got {rc:02x}h, not 02h", op)
        return Next(state, ("DEV-8.02h-start", "DEV-9.answers"))
    if half:
        return Next(state, ("DEV-9.answers",), (), ("DEV-10.extents",))
    if "raw" in op.received:
        return fail("DEV-10.extents", f"the list does not parse: {op.received.get('error')}", op)
    judged = ["DEV-8.served", "DEV-9.answers", "DEV-10.count", "DEV-10.payload", "DEV-10.total"]
    findings: list[Violation] = []
    op, unknown = _without_empty(state, op, findings)
    if start > total:
        return fail("DEV-8.02h-start", f"a start at {start}, past the {total} extents, was served", op)
    wrong = (
        _page(state, op, total)
        or _entries(state, op, judged, findings)
        or _whole(state, op, total, judged)
        or _total(state, op, total)
    )
    if wrong is not None:
        return wrong._replace(also=tuple(findings))
    found = _generation(state, op, judged, findings)
    if isinstance(found, Violation):
        return found._replace(also=tuple(findings))
    paged = _pages(found, op, total, judged)
    if isinstance(paged, Violation):
        return paged._replace(also=tuple(findings))
    return Next(paged, tuple([clause for clause in judged if clause not in unknown]), tuple(findings), unknown)


def _without_empty(state: State, op: Completed, findings: list[Violation]) -> tuple[Completed, tuple[str, ...]]:
    """The reply without the empty entries that a departed device has at its end, one for each pending extent.

    The guest has not read every offer: that there are more of them than it knows to be pending, it cannot judge.
    """
    page = op.received["extents"]
    if "QEMU-list-pending" not in state.config.departures or not page or page[-1]["length"]:
        return op, ()
    kept = [found for found in page if found["length"]]
    empty, pending = len(page) - len(kept), len(state.pending)
    if kept != page[: len(kept)] or (empty > pending and state.config.view != "guest"):
        return op, ()
    without = op._replace(received={**op.received, "extents": kept})
    if empty > pending:
        return without, ("DEV-10.extents",)
    text = f"the page ends with {empty} empty entries; {pending} extents are pending"
    findings.append(departed("QEMU-list-pending", "DEV-10.extents", text, op))
    return without, ()


def _page(state: State, op: Completed, total: int) -> Violation | None:
    """How many extents the page has."""
    found, start, count = op.received["extents"], op.sent["start"], op.sent["count"]
    most = (state.config.limits.payload_bytes - _HEADER_BYTES) // _EXTENT_BYTES
    if len(found) > count:
        return fail("DEV-10.count", f"{len(found)} extents came where {count} were asked", op)
    if len(found) > most:
        return fail("DEV-10.payload", f"{len(found)} extents cannot fit the payload: {most} can", op)
    if not found and count and start < min(total, op.received["total"]):
        return fail("DEV-10.count", f"the page from {start} is empty; {total} extents are accepted", op)
    return None


def _entries(state: State, op: Completed, judged: list[str], findings: list[Violation]) -> Violation | None:
    """Each extent of the page against those accepted."""
    accepted, forgets = state.accepted, "QEMU-tag" in state.config.departures
    page = op.received["extents"]
    tagged = False
    for found in page:
        start, length = found["dpa"], found["length"]
        held = accepted.find(start)
        if held is None or held.start != start or held.length != length:
            return _stranger(state, op, found)
        if held.tag == NULL_TAG and not held.sequence and found["tag"] == NULL_HEX and not found["sequence"]:
            continue
        tagged = True
        for clause, shown, offered in (
            ("DEV-10.tag", found["tag"], held.tag.hex()),
            ("DEV-10.sequence", found["sequence"], held.sequence),
        ):
            if shown == offered:
                continue
            text = f"{held}: the list shows {shown}, offered was {offered}"
            if not (forgets and shown in (NULL_HEX, 0)):
                return fail(clause, text, op)
            findings.append(departed("QEMU-tag", clause, text, op))
    if page:
        judged.append("DEV-10.extents")
        if tagged and not any(found.clause in ("DEV-10.tag", "DEV-10.sequence") for found in findings):
            judged += ["DEV-10.tag", "DEV-10.sequence"]
    return None


def _stranger(state: State, op: Completed, found: dict[str, Any]) -> Violation:
    """An extent of the list that is not one of those accepted."""
    start, length = found["dpa"], found["length"]
    if not length:
        return fail("DEV-10.extents", "the list has an entry of no length", op, state=describe(state))
    shown = Extent(start, length, bytes.fromhex(found["tag"]), found["sequence"])
    stands = standing(state, start)
    clause = reason(state, start, stands)
    if stands == IS_ACCEPTED:
        held = state.accepted.find(start)
        assert held is not None
        text = f"the list shows {shown} where {held} is accepted"
        clause = _cut(state, shown)
    else:
        text = f"the list shows {shown}, which is {stands}"
        if clause == "DEV-5.pending":
            clause = "DEV-5.list"
    return fail(clause, text, op, state=describe(state))


def _cut(state: State, shown: Extent) -> str:
    """The clause of an extent that starts in accepted capacity, but is not the one accepted."""
    for recent in reversed(state.trace.recent):
        for start, length in recent.ranges:
            if start < shown.end and shown.start < start + length and recent.state != IS_ACCEPTED:
                return recent.clause
    return "DEV-10.extents"


def _whole(state: State, op: Completed, total: int, judged: list[str]) -> Violation | None:
    """A page that claims to be the whole list: every accepted extent must be in it."""
    page = op.received["extents"]
    if op.sent["start"] or len(page) != op.received["total"]:
        return None
    starts = {found["dpa"] for found in page}
    if len(starts) != len(page):
        return fail("DEV-10.pages", "the page names an extent twice", op)
    if len(page) < total:
        missing = next(extent for extent in state.accepted if extent.start not in starts)
        clause = reason(state, missing.start, IS_ACCEPTED)
        return fail(clause, f"{missing} is accepted and not in the list", op, state=describe(state))
    judged.append("DEV-10.any-order")
    if state.pending:
        judged.append("DEV-5.list")
    for recent in state.trace.recent:
        clause, about, ranges = recent
        if ranges and clause not in judged and about in ("", standing(state, ranges[0][0])):
            judged.append(clause)
    if state.notes.asked and "DEV-11.request" not in judged:
        judged.append("DEV-11.request")
    if page:
        judged.append("DEV-6.taken")
    return None


def _total(state: State, op: Completed, total: int) -> Violation | None:
    shown, start, count = op.received["total"], op.sent["start"], len(op.received["extents"])
    if start + count > total:
        clause = "DEV-10.end" if start == total else "DEV-10.total"
        return fail(clause, f"{count} extents from {start}, of {total} in all", op, state=describe(state))
    if shown == total:
        return None
    return fail("DEV-10.total", f"the total is {shown}; {total} extents are accepted", op, state=describe(state))


def _generation(state: State, op: Completed, judged: list[str], findings: list[Violation]) -> State | Violation:
    """The generation number against the one of the last reading."""
    shown, notes = op.received["generation"], state.notes
    if notes.generation is not None and notes.changed:
        if shown == notes.generation:
            text = f"the list changed, the generation number is {shown} as before"
            if "QEMU-generation" not in state.config.departures:
                return fail("DEV-10.generation-changes", text, op)
            findings.append(departed("QEMU-generation", "DEV-10.generation-changes", text, op))
        else:
            judged.append("DEV-10.generation-changes")
    elif notes.generation is not None:
        if shown != notes.generation:
            text = f"the generation number went from {notes.generation} to {shown}, the list is the same"
            return fail("DEV-10.generation-stays", text, op)
        judged.append("DEV-10.generation-stays")
        return state
    return state._replace(notes=notes._replace(generation=shown, changed=False))


def _pages(state: State, op: Completed, total: int, judged: list[str]) -> State | Violation:
    """Pages of one generation, read one after the other, hold no extent twice."""
    start, page, scan = op.sent["start"], op.received["extents"], state.trace.scan
    if start == total:
        judged.append("DEV-10.end")
    if start == 0:
        seen = ExtentSet()
    elif scan is not None and scan.next == start:
        seen = scan.seen
        judged.append("DEV-10.pages")
    else:
        return state
    if len(page) == total or not page:
        return state
    for found in page:
        extent = Extent(found["dpa"], found["length"])
        if seen.overlaps(extent.start, extent.length):
            return fail("DEV-10.pages", f"{extent} is in two pages of one generation", op)
        seen = seen.add(extent)
    return state._replace(trace=state.trace._replace(scan=Scan(start + len(page), seen)))
