"""The bytes judged (DEV-17): what is stored to accepted capacity is there; what is stored elsewhere is not.

Content is known from stores to accepted capacity, from stores on the backend's side, and from a look at the backend
where no host can write. It is forgotten when capacity changes hands: what is offered again may hold anything (DEV-14),
and that is not judged here. Capacity outside the dynamic regions (static, or none) is not judged either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .state import Completed, Next, Segment, State, Violation, fail

if TYPE_CHECKING:
    from collections.abc import Callable

    from .state import Memory

_DROPPED = 8
TELLING = 8  # fewer bytes may be equal by chance


def store(state: State, op: Completed) -> Next | Violation:
    """Bytes written at a DPA, by the host (through the device) or to the backend's file."""
    return _each(state, op, len(op.sent["data"]) // 2, _store)


def load(state: State, op: Completed) -> Next | Violation:
    """Bytes read by the host."""
    return _each(state, op, op.sent["length"], _load)


def look(state: State, op: Completed) -> Next | Violation:
    """Bytes of the backend, seen from the host's side of the device (`bytes`)."""
    return _each(state, op, op.sent["length"], _look)


def _each(
    state: State, op: Completed, length: int, judge: Callable[[State, Completed, int, bytes], Next | Violation]
) -> Next | Violation:
    """`judge` for every part of the range that lies in a dynamic region."""
    if op.type != "ok":
        return Next(state)
    start = op.sent["dpa"]
    data = bytes.fromhex((op.sent if op.f == "store" else op.received)["data"])
    if len(data) != length:  # an answer to another question: it shows nothing
        return Next(state, (), (), ("DEV-17.backend-reads" if op.f == "bytes" else "DEV-17.device-reads",))
    parts: list[Next] = []
    for region in state.config.regions:
        first, last = max(start, region.base), min(start + length, region.base + region.length)
        if first >= last:
            continue
        found = judge(state, op, first, data[first - start : last - start])
        if isinstance(found, Violation):
            return found
        state = found.state
        parts.append(found)
    if len(parts) == 1:
        return parts[0]
    judged = tuple(dict.fromkeys([clause for part in parts for clause in part.judged]))
    return Next(state, judged, (), tuple([clause for part in parts for clause in part.unknown]))


def _store(state: State, op: Completed, dpa: int, data: bytes) -> Next | Violation:
    memory = state.memory
    trace = state.trace
    if op.sent.get("side") == "backend":
        kept_drops = tuple([drop for drop in trace.dropped if not _clip(drop, dpa, dpa + len(data))])
        return Next(state._replace(memory=_write(memory, dpa, data), trace=trace._replace(dropped=kept_drops)))
    end = dpa + len(data)
    kept = 0
    for extent in state.accepted.intersecting(dpa, len(data)):
        first, last = max(extent.start, dpa), min(extent.end, end)
        memory = _write(memory, first, data[first - dpa : last - dpa])
        kept += last - first
    if kept == len(data):
        return Next(state._replace(memory=memory))
    dropped = (*trace.dropped, Segment(dpa, len(data), data))[-_DROPPED:]
    return Next(state._replace(memory=memory, trace=trace._replace(dropped=dropped)))


def unknown_store(state: State, op: Completed) -> State:
    """The state in which a store may or may not have taken effect: nothing is known of these bytes."""
    return state._replace(memory=state.memory.discard_range(op.sent["dpa"], len(op.sent["data"]) // 2))


def _load(state: State, op: Completed, dpa: int, data: bytes) -> Next | Violation:
    judged: list[str] = []
    for known in state.memory.intersecting(dpa, len(data)):
        for part in _accepted(state, known, dpa, dpa + len(data)):
            found = data[part.start - dpa : part.start - dpa + part.length]
            if found != part.data:
                if state.config.view == "guest":  # it cannot know who else wrote, and knows these bytes no more
                    unknown = state._replace(memory=state.memory.discard_range(dpa, len(data)))
                    return Next(unknown, (), (), ("DEV-17.device-reads",))
                return _differs("DEV-17.device-reads", "read back", part, found, op)
            judged.append("DEV-17.device-reads")
        for part in _unaccepted(state, known, dpa, dpa + len(data)):
            found = data[part.start - dpa : part.start - dpa + part.length]
            if not _telling(part.data):
                continue
            if found == part.data:
                text = f"0x{part.start:x}+{part.length} is not accepted, and the host reads the backend's bytes"
                return fail("DEV-17.hidden", text, op)
            judged.append("DEV-17.hidden")
    if not state.accepted.covers(dpa, len(data)):
        judged.append("DEV-17.any-value")
    return Next(state, tuple(dict.fromkeys(judged)))


def _look(state: State, op: Completed, dpa: int, data: bytes) -> Next | Violation:
    end = dpa + len(data)
    judged: list[str] = []
    unknown: list[str] = []
    for known in state.memory.intersecting(dpa, len(data)):
        for part in _accepted(state, known, dpa, end):
            found = data[part.start - dpa : part.start - dpa + part.length]
            if found != part.data:
                return _differs("DEV-17.backend-reads", "in the backend", part, found, op)
            judged.append("DEV-17.backend-reads")
        for part in _unaccepted(state, known, dpa, end):
            found = data[part.start - dpa : part.start - dpa + part.length]
            if found != part.data:
                return _differs(_dropped_clause(state, part.start), "in the backend", part, found, op)
            judged.append(_dropped_clause(state, part.start))
    for drop in state.trace.dropped:
        for part in _unaccepted(state, drop, dpa, end):
            clause = _dropped_clause(state, part.start)
            if data[part.start - dpa : part.start - dpa + part.length] != part.data:
                judged.append(clause)
            elif _telling(part.data) and not _was_there(state, part):
                text = f"0x{part.start:x}+{part.length} was not accepted, and the backend kept what was stored"
                return fail(clause, text, op)
            else:
                unknown.append(clause)
    memory = state.memory
    for part in _unaccepted(state, Segment(dpa, len(data), data), dpa, end):
        memory = _write(memory, part.start, part.data)
    held = tuple(dict.fromkeys(judged))
    return Next(state._replace(memory=memory), held, (), tuple([name for name in unknown if name not in held]))


def _was_there(state: State, part: Segment) -> bool:
    """Whether the bytes may have been there before the store that must not keep them."""
    former, end = state.trace.former, part.start + part.length
    if former is None or any(_clip(segment, part.start, end) for segment in former):
        return True
    return bool(state.memory.intersecting(part.start, part.length))


def _dropped_clause(state: State, dpa: int) -> str:
    return "DEV-17.dropped" if state.pending.find(dpa) is None else "DEV-5.data"


def _telling(data: bytes) -> bool:
    """Whether equal bytes cannot be chance: enough of them, and not all the same."""
    return len(data) >= TELLING and len(set(data)) > 1


def _write(memory: Memory, dpa: int, data: bytes) -> Memory:
    return memory.discard_range(dpa, len(data)).add(Segment(dpa, len(data), data))


def _clip(part: Segment, start: int, end: int) -> Segment | None:
    first, last = max(part.start, start), min(part.start + part.length, end)
    return part.part(first, last - first) if first < last else None


def _accepted(state: State, known: Segment, start: int, end: int) -> list[Segment]:
    """The pieces of `known` inside [start, end) that lie in accepted capacity."""
    piece = _clip(known, start, end)
    if piece is None:
        return []
    held = state.accepted.intersecting(piece.start, piece.length)
    clipped = [_clip(piece, extent.start, extent.end) for extent in held]
    return [found for found in clipped if found is not None]


def _unaccepted(state: State, known: Segment, start: int, end: int) -> list[Segment]:
    """The pieces of `known` inside [start, end) that lie in no accepted capacity."""
    piece = _clip(known, start, end)
    if piece is None:
        return []
    found: list[Segment] = []
    at, last = piece.start, piece.start + piece.length
    for extent in state.accepted.intersecting(piece.start, piece.length):
        if extent.start > at:
            found.append(piece.part(at, extent.start - at))
        at = max(at, extent.end)
    if at < last:
        found.append(piece.part(at, last - at))
    return found


def _differs(clause: str, where: str, part: Segment, found: bytes, op: Completed) -> Violation:
    at = next((at for at, pair in enumerate(zip(part.data, found, strict=False)) if pair[0] != pair[1]), 0)
    text = f"0x{part.start + at:x} holds {found[at : at + 8].hex()} {where}; {part.data[at : at + 8].hex()} is right"
    return fail(clause, text, op, expected=part.data.hex()[:128])
