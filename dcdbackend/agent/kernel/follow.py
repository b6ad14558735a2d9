"""What was seen of a kernel held against the models, as it is seen: no history file, no controller.

Log, trace and sysfs become the operations that a history of a kernel host has (`checker.both`), and one state is
stepped with each. Nobody tells what users did to regions and DAX devices: that is read off two sights of sysfs, as the
writes that lead from one to the other. Nor is there anyone who knows what a manager asked: the device is judged in the
guest's view, by its records alone.

What stood there before the first look is taken as a scan would have found it; which untagged extents came in one chain
nobody can say then: what depends on it is unknown, never a finding, and what stands there then is taken anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ...checker import host as hosts
from ...checker.both import Both, Pair
from ...extents import Extent, ExtentSet
from ...history import Header
from ...linux_rules import CLAUSES as HOST_CLAUSES
from ...model import whole as reference
from ...model.claims import parse_uuid
from ...model.state import Completed, Violation, config_of
from ...rules import CLAUSES

Value = dict[str, Any]
Seen = tuple[str, Value, Value]
"""An operation that succeeded: what, sent, received."""

BLOCK = 64
"""The block size is not in sysfs: the smallest there is convicts nobody."""
BEYOND = 1 << 40
"""What other DC regions there are is not in sysfs either: a region after the one in use stands for them."""
_NULL = "00000000-0000-0000-0000-000000000000"
_OF_GROUPS = ("B20.", "B22.", "B23.")


class Told(NamedTuple):
    """Something that is to be told: a clause that did not hold, with what it was about."""

    clause: str
    subject: str
    outcome: str
    text: str
    departure: str | None = None


class Follower:
    """One memory device of a kernel of a generation, followed. `described`: as a history's header has it."""

    def __init__(self, generation: str, described: Value) -> None:
        self.name: str = described["name"]
        self.totals: dict[str, dict[str, int]] = {}
        self.told: list[Told] = []
        self.lost = ""
        self._described = described
        self._header = Header("recorded", None, {"generation": generation}, (described,), 0, "watch")
        self._both, self._pair = self._fresh()
        self._by_size = self._pair.watch.host.setup.generation.claim == "size"
        self._sights: dict[str, Value] = {}
        self._places: dict[str, Value] = {}
        self._adopted = False

    def _fresh(self) -> tuple[Both, Pair]:
        """The models of a machine on which nothing has happened."""
        watch = hosts.watch_of(self._header, self._described)
        assert watch is not None, "a generation by name gives a watch"
        both = Both(reference, self.name, watch)
        return both, both.initial(config_of(self._described, view="guest"))

    # ---- what is seen

    def stands(self, places: Mapping[str, Value], sights: Mapping[str, Value]) -> None:
        """What is there at the first look: regions, extents and claims, taken as a scan would have found them."""
        held: list[Extent] = []
        for name, place in places.items():
            held += _extents(place, sights[name])
        device = self._pair.device
        self._pair = self._pair._replace(device=device._replace(accepted=ExtentSet(held)))
        for name, place in places.items():
            extents = _extents(place, sights[name])
            self._adopted = self._adopted or bool(extents)
            for f, sent in _made(name, place):
                self._quietly(f, sent)
            listed = [_listed(extent) for extent in extents]
            said = hosts.page(self._pair.watch, name, len(listed), 0, listed)
            self._pair = self._pair._replace(watch=hosts.unseen(said.watch, "answer").watch)
            self._pair = self._pair._replace(watch=hosts.end(self._pair.watch).watch)
            before = {**sights[name], "devices": [], "all_devices": _seeds(sights[name])}
            for f, sent in self._writes(before, sights[name]):
                self._quietly(f, sent)
        self._places, self._sights = dict(places), dict(sights)

    def saw(
        self,
        places: Mapping[str, Value],
        sights: Mapping[str, Value],
        events: list[Value],
        lines: list[Value],
        lost: tuple[int, int] = (0, 0),
        tools: Mapping[str, list[Value]] | None = None,
    ) -> list[Told]:
        """What came since the last look: regions with their places and sights, trace events and log lines, complete.

        `lost`: events and lines that were lost. `tools`: by region, what tools showed of it (see `tool`). What was done
        to DAX devices may have come before or after the records; the order that fits is taken. What is to be told is
        given back, and added to `told`.
        """
        made, gone, writes = self._changes(places, sights)
        seen: list[Seen] = [
            ("trace", {}, {"events": [_traced(one) for one in events], "lost": lost[0]}),
            ("log", {}, {"lines": lines, "lost": lost[1]}),
        ]
        looks: list[Seen] = [
            ("sysfs", {"region": name}, {**sights[name], "tools": (tools or {}).get(name, [])}) for name in places
        ]
        done: list[Seen] = [(f, sent, {}) for f, sent in writes]
        came = seen if events or lines or any(lost) else []
        # a region that is unbound gives its extents back (the log tells), and can be destroyed then
        first: list[Seen] = [(f, sent, {}) for f, sent in made]
        unbound: list[Seen] = [(f, sent, {}) for f, sent in gone if sent["what"] == "bind"]
        destroyed: list[Seen] = [(f, sent, {}) for f, sent in gone if sent["what"] != "bind"]
        orders = [[*first, *unbound, *came, *done, *destroyed, *looks]]
        if done and came:
            orders.append([*first, *done, *unbound, *came, *destroyed, *looks])
        best: tuple[int, Pair, list[Told], dict[str, dict[str, int]]] | None = None
        for order in orders:
            tried = self._tried(order)
            if best is None or tried[0] < best[0]:
                best = tried
            if not best[0]:
                break
        assert best is not None
        _, self._pair, told, totals = best
        if any(one.outcome == "unknown" for one in told):
            told, totals = [one._replace(outcome="unknown") for one in told], _doubtful(totals)
            self._both, self._pair = self._fresh()
            self.stands(places, sights)
        for clause, counts in totals.items():
            into = self.totals.setdefault(clause, {})
            for outcome, count in counts.items():
                into[outcome] = into.get(outcome, 0) + count
        self._places, self._sights = dict(places), dict(sights)
        self.told += told
        self.lost = self.lost or self._both.lost(self._pair)
        return told

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that were there at the last look."""
        return tuple(self._places)

    def differs(self, places: Mapping[str, Value], sights: Mapping[str, Value]) -> bool:
        """Whether a look shows something else than the last one."""
        return (places, sights) != (self._places, self._sights)

    @property
    def in_doubt(self) -> bool:
        """Whether something may have been wrong, and nobody can say."""
        return any(one.outcome == "unknown" for one in self.told)

    # ---- stepping

    def _quietly(self, f: str, sent: Value) -> None:
        """Step with something that is not judged: how it came about nobody saw."""
        self._pair = self._step(self._pair, f, sent, {})[0]

    def _tried(self, order: list[Seen]) -> tuple[int, Pair, list[Told], dict[str, dict[str, int]]]:
        """A copy of the state, stepped in that order: how much of it does not fit, the state, what is told, totals."""
        pair = self._pair
        told: list[Told] = []
        totals: dict[str, dict[str, int]] = {}
        for f, sent, received in order:
            pair, judged, findings, unknown = self._step(pair, f, sent, received)
            broken = [self._tell(finding, f) for finding in findings]
            outcomes = [(one.clause, one.outcome) for one in broken]
            outcomes += [(clause, "pass") for clause in judged if clause not in {one.clause for one in broken}]
            outcomes += [(clause, "unknown") for clause in unknown if _is_hosts(clause)]
            for clause, outcome in outcomes:
                counts = totals.setdefault(clause, {})
                counts[outcome] = counts.get(outcome, 0) + 1
            told += broken
        return len([one for one in told if one.outcome != "departure"]), pair, told, totals

    def _step(
        self, pair: Pair, f: str, sent: Value, received: Value
    ) -> tuple[Pair, tuple[str, ...], tuple[Violation, ...], tuple[str, ...]]:
        process = f"user.{self.name}" if f in ("use", "unuse", "claim") else "witness"
        op = Completed(f, {"device": self.name, **sent}, "ok", received, process)
        after = self._both.step(pair, op)
        if isinstance(after, Violation):
            findings = (after._replace(also=(), judged=()), *after.also)
            return self._both.follow(pair, op), after.judged, findings, ()
        state: Any = after.state
        return state, after.judged, after.findings, after.unknown

    def _tell(self, finding: Violation, f: str) -> Told:
        """A finding as it is told; one that turns on what nobody saw is unknown."""
        outcome = finding.outcome
        if outcome == "fail" and self._adopted and finding.clause.startswith(_OF_GROUPS):
            outcome = "unknown"
        return Told(finding.clause, finding.subject, outcome, finding.text, finding.departure)

    # ---- what was done, by two sights

    def _changes(
        self, places: Mapping[str, Value], sights: Mapping[str, Value]
    ) -> tuple[list[tuple[str, Value]], list[tuple[str, Value]], list[tuple[str, Value]]]:
        """Regions made and bound; regions unbound and destroyed; what was done to DAX devices."""
        made: list[tuple[str, Value]] = []
        gone: list[tuple[str, Value]] = []
        writes: list[tuple[str, Value]] = []
        for name, place in self._places.items():
            there = places.get(name)
            if there is not None and there["bound"] == place["bound"]:
                continue
            if place["bound"]:
                gone.append(("unuse", {"what": "bind", "region": name}))
            if there is None:
                gone.append(("unuse", {"what": "region", "region": name}))
        for name, place in places.items():
            before = self._places.get(name)
            if before is None:
                made += _made(name, place)
            elif place["bound"] and not before["bound"]:
                made.append(("use", {"what": "bind", "region": name}))
            was_bound = before is not None and before["bound"] and place["bound"]
            old = self._sights.get(name, {}) if was_bound else {"devices": [], "all_devices": _seeds(sights[name])}
            writes += self._writes(old, sights[name])
        return made, gone, writes

    def _writes(self, before: Value, after: Value) -> Iterator[tuple[str, Value]]:
        """The writes that lead from one sight of a region to the other: what ends first, then what begins."""
        was = {one["name"]: one for one in before.get("devices", ())}
        now = {one["name"]: one for one in after.get("devices", ())}
        known = before.get("all_devices", ())
        blank: Value = {"size": 0, "driver": None}
        for name in (one for one in known if one in was or one in now):
            old, new = was.get(name, blank), now.get(name, blank)
            if old.get("driver") and old.get("driver") != new.get("driver"):
                yield "unuse", {"what": "dax", "dax": name}
            if old.get("size") and (not new.get("size") or (not self._by_size and old["size"] != new["size"])):
                yield "claim", {"file": "size", "dax": name, "text": "0"}
            if name not in after.get("all_devices", ()):
                yield "claim", {"file": "delete", "region": after["region"], "text": name}
        for _ in [name for name in now if name not in known]:  # while there is the most space for one
            yield "claim", {"file": "create", "region": after["region"], "text": "1"}
        for name, new in now.items():
            old = was.get(name, blank)
            size = new.get("size") or 0
            if size and size != old.get("size"):
                if self._by_size:
                    yield "claim", {"file": "size", "dax": name, "text": str(size)}
                else:
                    uuid = new.get("uuid")
                    text = uuid if uuid and uuid not in ("0", _NULL) else "0"
                    yield "claim", {"file": "uuid", "dax": name, "text": text}
            if new.get("driver") and new.get("driver") != old.get("driver"):
                yield "use", {"what": "dax", "dax": name, "driver": new["driver"]}


def _doubtful(totals: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Totals of a step that began from a wrong guess: what held has held, what did not is unknown."""
    found: dict[str, dict[str, int]] = {}
    for clause, counts in totals.items():
        into = found.setdefault(clause, {})
        for outcome, count in counts.items():
            kept = outcome if outcome == "pass" else "unknown"
            into[kept] = into.get(kept, 0) + count
    return found


def describe(memdev: Value, mode: str) -> Value | None:
    """A memory device as a history's header has it, of what sysfs shows; None where it has no DC partition."""
    sizes = memdev["partitions"]
    length = sizes.get(mode)
    if not length:
        return None
    start = sum(size for name, size in sizes.items() if name in ("ram", "pmem"))
    end = -(-(start + length) // (256 << 20)) * (256 << 20)
    spans = ((start, length), (end, BEYOND))
    regions = [
        {"index": at, "base": base, "decode_length": size, "length": size, "block_size": BLOCK, "dsmad_handle": at}
        for at, (base, size) in enumerate(spans)
    ]
    return {
        "name": memdev["name"],
        "serial": memdev["serial"],
        "regions": regions,
        "payload_size": memdev["payload_max"] or 2048,
    }


def _made(name: str, place: Value) -> list[tuple[str, Value]]:
    where = {key: place[key] for key in ("start", "length", "hpa")}
    made: list[tuple[str, Value]] = [("use", {"what": "region", "region": name, **where})]
    return [*made, ("use", {"what": "bind", "region": name})] if place["bound"] else made


def _seeds(sight: Value) -> list[str]:
    """The DAX device that a region has from its start."""
    return list(sight.get("all_devices", ()))[:1]


def _extents(place: Value, sight: Value) -> list[Extent]:
    found = []
    for one in sight.get("extents", ()):
        tag = parse_uuid(one["uuid"]) if one.get("uuid") else None
        found.append(Extent(place["start"] + one["offset"], one["length"], tag or bytes(16), 0))
    return found


def _listed(extent: Extent) -> Value:
    return {"dpa": extent.start, "length": extent.length, "tag": extent.tag.hex(), "sequence": extent.sequence}


def _traced(event: Value) -> Value:
    """A trace event as a history has it; what is no number is none."""

    def number(name: str) -> int:
        found = event.get(name)
        return found if isinstance(found, int) else 0

    kind = event.get("type")
    return {
        "handle": number("handle"),
        "type": kind if isinstance(kind, int) else 255,
        "dpa": number("starting_dpa"),
        "length": number("length"),
        "tag": event.get("tag") or "00" * 16,
        "sequence": number("shared_extent_sequence"),
    }


def _is_hosts(clause: str) -> bool:
    """Whether a clause is one of the host's: what a guest cannot know of the device is no news."""
    row = CLAUSES.get(clause)
    return clause in HOST_CLAUSES or (row is not None and row.subject == "host")
