"""Which capacity is taken, as far as the history tells: to find room by, and to answer from when the guest is gone.

It follows the lines of the history as they are written. It is a hint and no witness: before anything is offered, the
block witness is asked. It judges nothing, and what it does not understand it leaves alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from ..extents import EMPTY, Extent, ExtentSet
from ..history import Op

State = Literal["free", "pending", "accepted"]
Range = tuple[int, int]
MAX_OPEN = 4096


class Run(NamedTuple):
    """Adjoining capacity in one state: DPA and length in bytes."""

    start: int
    length: int
    state: State


class Room:
    """The map of every device. `see` takes each line of the history."""

    def __init__(self, devices: Iterable[Mapping[str, Any]]) -> None:
        self._regions = {
            (device["name"], region["index"]): region for device in devices for region in device["regions"]
        }
        names = {name for name, _ in self._regions}
        self._held: dict[str, dict[str, ExtentSet]] = {name: {"pending": EMPTY, "accepted": EMPTY} for name in names}
        self._offers: dict[str, dict[int, list[Range]]] = {name: {} for name in names}
        self._begun: dict[int, Op] = {}

    def see(self, op: Op) -> None:
        """One line of the history."""
        if op.type == "invoke":
            if op.f not in ("add", "answer", "give_back", "block") or op.value.get("device") not in self._held:
                return
            if len(self._begun) < MAX_OPEN:
                self._begun[op.op] = op
                if op.f == "add":  # its answer may come before its end
                    self._offering(op)
            return
        began = self._begun.pop(op.op, None)
        if began is None:
            return
        device = began.value["device"]
        if op.f == "add":
            self._offered(device, op)
        elif op.type != "ok":
            return
        elif op.f == "answer":
            self._answered(device, began.value)
        elif op.f == "give_back":
            for start, length in began.value.get("ranges", ()):
                self._set(device, start, length, "free")
        else:
            self._asked(device, began.value, op.value.get("state"))

    def runs(self, device: str, region: int) -> Iterator[Run]:
        """The runs that cover a region, in order."""
        place = self._regions[device, region]
        at, end = place["base"], place["base"] + place["length"]
        found = sorted(
            Run(max(extent.start, at), min(extent.end, end) - max(extent.start, at), state)
            for state in ("pending", "accepted")
            for extent in self._held[device][state].intersecting(at, end - at)
        )
        for run in joined(found):
            if run.start > at:
                yield Run(at, run.start - at, "free")
            yield run
            at = run.start + run.length
        if at < end:
            yield Run(at, end - at, "free")

    def first_fit(self, device: str, region: int, size: int) -> int | None:
        """The DPA of the first free run that is large enough; None where there is none."""
        fits = (run.start for run in self.runs(device, region) if run.state == "free" and run.length >= size)
        return next(fits, None)

    def _offering(self, op: Op) -> None:
        """Extents are named by their offset in the region, or (by a fabric manager) by their DPA."""
        place = self._regions.get((op.value["device"], op.value.get("region")))
        offers = self._offers[op.value["device"]]
        if place is not None and len(offers) < MAX_OPEN:
            offers[op.op] = [
                (extent["dpa"] if "dpa" in extent else place["base"] + extent["offset"], extent["length"])
                for extent in op.value.get("extents", ())
            ]

    def _offered(self, device: str, op: Op) -> None:
        """The end of an add: what is not answered yet is pending; where the device took nothing, there is no offer."""
        if op.type == "fail":
            self._offers[device].pop(op.op, None)
        for start, length in self._offers[device].get(op.op, ()):
            self._set(device, start, length, "pending")

    def _answered(self, device: str, value: Mapping[str, Any]) -> None:
        """An answer settles the oldest offer: what it names is accepted, the rest of the offer is free."""
        if not value.get("flags", 0) & 1 and self._offers[device]:
            offers = self._offers[device]
            for start, length in offers.pop(next(iter(offers))):
                for extent in self._held[device]["pending"].intersecting(start, length):
                    self._set(device, extent.start, extent.length, "free")
        for start, length in value.get("ranges", ()):
            self._set(device, start, length, "accepted")

    def _asked(self, device: str, value: Mapping[str, Any], state: Any) -> None:
        """What a witness said of one block; of a range only that all of it is free means anything."""
        place = self._regions.get((device, value.get("region")))
        if place is not None and (state == "free" or value["length"] == place["block_size"]):
            self._set(device, place["base"] + value["offset"], value["length"], state)

    def _set(self, device: str, start: int, length: int, state: State) -> None:
        if length <= 0:
            return
        held = self._held[device]
        for name in ("pending", "accepted"):
            held[name] = held[name].discard_range(start, length)
        if state != "free":
            held[state] = held[state].add(Extent(start, length))


def joined(runs: list[Run]) -> list[Run]:
    """Adjoining runs of one state as one."""
    found: list[Run] = []
    for run in runs:
        if found and found[-1].state == run.state and found[-1].start + found[-1].length == run.start:
            found[-1] = Run(found[-1].start, found[-1].length + run.length, run.state)
        else:
            found.append(run)
    return found
