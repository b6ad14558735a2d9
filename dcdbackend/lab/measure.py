"""What a history shows of capacity, as numbers: offered, taken, refused, asked back, asked again, kept.

Pure, and from the history alone, so that it counts a scenario's run, a trace's and a guest's alike. Offers and requests
are those that the host read from its log; time is counted in the manager's requests, since the clock of a run that
really took its time means nothing for a design. It is not the checker: who keeps which rule is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..history import Op
from .side import Range, common, minus, total, union

Value = Mapping[str, Any]

ADD, RELEASE, FORCED = 0, 1, 2
_REQUESTS = frozenset(("add", "release", "force"))


class Numbers(NamedTuple):
    """Of a whole history, all devices and hosts together.

    Offers by how they ended: taken whole, in part, refused, never answered (`open_offers`); bytes likewise. `denied`:
    requests of a manager that the device itself refused. `asked`: release requests; `asked_again`: those of which
    something had been asked before and was still held. `kept_bytes`: asked back and held at the end;
    `stranded_byte_requests`: asked back and not given, over the manager's later requests (what the byte-seconds are in
    a trace). `forced_bytes`: taken by force.
    """

    taken: int = 0
    in_part: int = 0
    refused: int = 0
    open_offers: int = 0
    denied: int = 0
    offered_bytes: int = 0
    accepted_bytes: int = 0
    refused_bytes: int = 0
    open_bytes: int = 0
    asked: int = 0
    asked_again: int = 0
    given_bytes: int = 0
    forced_bytes: int = 0
    held_bytes: int = 0
    kept_bytes: int = 0
    stranded_byte_requests: int = 0


class _Host:
    """One host on one device."""

    def __init__(self) -> None:
        self.chains: list[list[Range]] = []
        self.is_open = False
        self.taken: list[Range] = []
        self.held: list[Range] = []
        self.asked: list[Range] = []
        self.again = False
        self.asking = False
        self.read: set[int] = set()


class Measure:
    """`take` every line in order, then `numbers`."""

    def __init__(self) -> None:
        self._began: dict[int, Op] = {}
        self._hosts: dict[tuple[str, int], _Host] = {}
        self._sums: dict[str, int] = dict.fromkeys(Numbers._fields, 0)

    def take(self, op: Op) -> None:
        """One line."""
        if op.type == "invoke":
            self._began[op.op] = op
            return
        began = self._began.pop(op.op, None)
        if began is None or "device" not in began.value:
            return
        if op.f in _REQUESTS:
            self._sums["denied"] += op.type == "fail"
            for host in self._hosts.values() if op.type == "ok" else ():
                self._sums["stranded_byte_requests"] += total(host.asked)
        if op.type != "ok":
            return
        host = self._hosts.setdefault((began.value["device"], began.value.get("host_id", 0)), _Host())
        if op.f == "events":
            self._events(host, op.value.get("records", ()))
        elif op.f == "clear":
            self._clear(host, began.value)
        elif op.f == "answer" and "ranges" in began.value:
            self._answer(host, _ranges(began.value), more=bool(began.value.get("flags", 0) & 1))
        elif op.f == "give_back" and "ranges" in began.value:
            ranges = _ranges(began.value)
            self._sums["given_bytes"] += total(common(ranges, host.held))
            host.held, host.asked = minus(host.held, ranges), minus(host.asked, ranges)

    def numbers(self) -> Numbers:
        """What was counted so far."""
        hosts = self._hosts.values()
        waiting = [chain for host in hosts for chain in host.chains]
        ends = {
            "open_offers": len(waiting),
            "open_bytes": sum(total(chain) for chain in waiting),
            "held_bytes": sum(total(host.held) for host in hosts),
            "kept_bytes": sum(total(host.asked) for host in hosts),
        }
        return Numbers(**{**self._sums, **ends})

    def _events(self, host: _Host, records: Iterable[Value]) -> None:
        for record in records:
            if record.get("handle") in host.read or "type" not in record:
                continue
            host.read.add(record["handle"])
            place = (record["dpa"], record["dpa"] + record["length"])
            if record["type"] == ADD:
                if not host.is_open:
                    host.chains.append([])
                host.chains[-1].append(place)
                host.is_open = record["more"]
                self._sums["offered_bytes"] += record["length"]
            elif record["type"] == RELEASE:
                self._asked(host, place, more=record["more"])
            elif record["type"] == FORCED:
                self._sums["forced_bytes"] += total(common([place], host.held))
                host.held, host.asked = minus(host.held, [place]), minus(host.asked, [place])
                host.chains = [left for chain in host.chains if (left := minus(chain, [place]))]

    def _asked(self, host: _Host, place: Range, *, more: bool) -> None:
        """A request is one chain, however many records it has."""
        if not host.asking:
            self._sums["asked"] += 1
            host.again = False
        if common([place], host.asked) and not host.again:
            host.again = True
            self._sums["asked_again"] += 1
        host.asking = more
        host.asked = union(host.asked, common([place], host.held))

    def _clear(self, host: _Host, sent: Value) -> None:
        if sent.get("flags", 0) & 1:
            host.read.clear()
        host.read.difference_update(sent.get("handles", ()))

    def _answer(self, host: _Host, ranges: list[Range], *, more: bool) -> None:
        """It settles the oldest chain, when no more of it follows."""
        self._sums["accepted_bytes"] += total(ranges)
        host.held = union(host.held, ranges)
        host.taken += ranges
        if more:
            return
        taken, host.taken = host.taken, []
        if not host.chains:
            return
        chain = host.chains.pop(0)
        host.is_open = host.is_open and bool(host.chains)
        left = total(minus(chain, taken))
        self._sums["refused_bytes"] += left
        self._sums["taken" if not left else "in_part" if common(chain, taken) else "refused"] += 1


def _ranges(sent: Value) -> list[Range]:
    return [(start, start + length) for start, length in sent["ranges"] if length]


def measured(ops: Iterable[Op]) -> Numbers:
    """The numbers of a history's lines."""
    measure = Measure()
    for op in ops:
        measure.take(op)
    return measure.numbers()
