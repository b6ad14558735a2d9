"""The host side of a trace: a simulated kernel, or host U, on the reference device, each with a user side.

Both read the log, answer, give back, and write what they do into a record as any host does, so that the history of a
trace is judged like every other. `start` and `stop` are what a user does: on a kernel by writes to sysfs, in the way
of its generation (by size, by tag); on host U by taking bytes of what is held. Pure: the time is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from .. import asked
from ..checker.host import cause_of
from ..errors import AnsweredWrongly, AskedWrongly
from ..extents import NULL_TAG, Extent, ExtentSet
from ..model import host as kernel
from ..model import reply
from ..model.claims import show_uuid
from ..model.permitted import Command, mix
from ..model.state import Config, Limits, Region
from .trace import CAPACITY_BYTES

Value = dict[str, Any]
Range = tuple[int, int]
"""Start and end, DPA."""

NAME = "mem0"
REGION = "region0"
BLOCK_BYTES = 2 << 20
MOST_CAUSES = 4096
MOST_DEVICES = 16
_LOG = {"device": NAME, "log": 4}


class Recorder(Protocol):
    """Where the history goes: a `history.Writer`, or a list in a test."""

    def invoke(self, process: str, f: str, value: Value) -> int: ...

    def end(self, op: int, kind: str, value: Value) -> object: ...


def describe() -> Value:
    """The device, as a history's header shows it."""
    region = {
        "index": 0, "base": 0, "decode_length": CAPACITY_BYTES, "length": CAPACITY_BYTES,
        "block_size": BLOCK_BYTES, "flags": 0, "dsmad_handle": 0,
    }  # fmt: skip
    limits = {"payload_size": 2048, "supported_extents": 512, "supported_tags": 512, "log_records": 1024}
    policies = {"selection_policies": ["prescriptive"], "removal_policies": ["prescriptive"]}
    return {"name": NAME, "serial": 1, "regions": [region], **limits, **policies}


class Bus:
    """The device, and the record of all that is said to it."""

    def __init__(self, record: Recorder, seed: int) -> None:
        region = Region(0, 0, CAPACITY_BYTES, CAPACITY_BYTES, BLOCK_BYTES)
        limits = Limits(
            supported_extents=512, log_records=1024, supported_tags=512,
            selection=frozenset(("prescriptive",)), removal=frozenset(("prescriptive",)),
        )  # fmt: skip
        self.device = reply.device(Config((region,), "device", frozenset(), limits), seed)
        self.record = record

    def do(self, process: str, f: str, sent: Value) -> tuple[str, Value]:
        """One operation, from its begin to its end; the type of the end, and what came back."""
        number = self.record.invoke(process, f, sent)
        self.device, kind, received = reply.reply(self.device, f, sent)
        self.record.end(number, kind, received)
        return kind, received

    @property
    def accepted(self) -> ExtentSet:
        """What the device holds for the host."""
        return self.device.state.accepted

    @property
    def pending(self) -> ExtentSet:
        """What is offered and not answered."""
        return self.device.state.pending


class Wish(NamedTuple):
    """What a user wants: bytes of a tenant's allocation, which was accepted as these ranges with this tag."""

    need_bytes: int
    tag: bytes
    ranges: tuple[Range, ...]


class Side(Protocol):
    """A host. `taken_away`: users whose memory was given back under them."""

    taken_away: int

    def turn(self, now_ns: int) -> None:
        """Read the log until it is empty, and do what it is for; timers that are due fire first."""
        ...

    def start(self, user: str, wish: Wish) -> bool:
        """A user takes memory, all that it wants or none; whether it got it."""
        ...

    def stop(self, user: str) -> None:
        """A user that got memory is done with it."""
        ...

    def used(self) -> list[Range]:
        """What users have."""
        ...

    def known(self) -> list[Range]:
        """What the host knows that it holds."""
        ...


class Userspace:
    """Host U: it takes every offer, and gives back whatever of a request nobody uses, to the byte."""

    def __init__(self, bus: Bus) -> None:
        self.taken_away = 0
        self._bus = bus
        self._held: list[Range] = []
        self._users: dict[str, list[Range]] = {}
        self._staged: dict[int, list[Range]] = {0: [], 1: []}

    def turn(self, now_ns: int) -> None:
        for records in _readings(self._bus):
            for record in records:
                staged = self._staged[record["type"]]
                staged.append((record["dpa"], record["dpa"] + record["length"]))
                if record["more"]:
                    continue
                ranges = list(staged)
                staged.clear()
                if record["type"] == 0:
                    self._send("answer", ranges)
                    self._held = union(self._held, ranges)
                else:
                    self._give(minus(common(ranges, self._held), self.used()))
            _clear(self._bus, [record["handle"] for record in records])

    def _give(self, ranges: list[Range]) -> None:
        if ranges:
            self._send("give_back", ranges)
            self._held = minus(self._held, ranges)

    def _send(self, f: str, ranges: Iterable[Range]) -> None:
        pairs = [[start, end - start] for start, end in ranges]
        self._bus.do(f"host.{NAME}", f, {"device": NAME, "flags": 0, "ranges": pairs})

    def start(self, user: str, wish: Wish) -> bool:
        taken = _first(minus(common(list(wish.ranges), self._held), self.used()), wish.need_bytes)
        if total(taken) < wish.need_bytes:
            return False
        self._users[user] = taken
        self._bus.do(f"host.{NAME}", "store", {"device": NAME, "dpa": taken[0][0], "data": "a5" * 16, "side": "host"})
        return True

    def stop(self, user: str) -> None:
        del self._users[user]

    def used(self) -> list[Range]:
        return union([], [one for ranges in self._users.values() for one in ranges])

    def known(self) -> list[Range]:
        return self._held


class Kernel:
    """A simulated kernel of a generation, with switches. Errors of the constructor: AskedWrongly."""

    def __init__(self, bus: Bus, generation: str, what_if: Iterable[str] = (), seed: int = 0) -> None:
        setup = kernel.setup(generation, what_if=what_if, slack_ns=0)
        partition = kernel.partition_of(describe()["regions"])
        self.taken_away = 0
        self._bus = bus
        self._seed = seed
        self._decisions = 0
        self._causes: list[kernel.Cause] = []
        self._users: dict[str, list[str]] = {}
        self._now_ns = 0
        self.host = kernel.Host(setup, (kernel.Memdev(NAME, partition),))
        self.prepare()

    def prepare(self) -> None:
        """Make the region that all tenants share."""
        self.must("use", {"what": "region", "region": REGION, "start": 0, "length": CAPACITY_BYTES})
        self.must("use", {"what": "bind", "region": REGION})

    def turn(self, now_ns: int) -> None:
        self._now_ns = now_ns
        deadline = self.host.memdev(NAME).deadline_ns
        if deadline is not None and now_ns >= deadline:
            self._happens(kernel.Tick(NAME, now_ns))
        if self._bus.device.state.log:
            self._read()
        self._all()

    def write(self, f: str, value: Value) -> str:
        """A write to sysfs by a user: the error ("-EBUSY"), or ""."""
        value = {"device": NAME, **value}
        number = self._bus.record.invoke(f"user.{NAME}", f, value)
        cause = cause_of(NAME, f, value, self.host.setup.generation.kind)
        error = "" if cause is None else self._happens(cause)
        self._all()
        self._bus.record.end(number, "fail" if error else "ok", {"error": error} if error else {})
        return error

    def must(self, f: str, value: Value) -> None:
        """A write that cannot fail here. Errors: AnsweredWrongly."""
        error = self.write(f, value)
        if error:
            raise AnsweredWrongly(f"{f} {value} gave {error}")

    # -- what it does --------------------------------------------------------------------------------------------

    def _all(self) -> None:
        for _ in range(MOST_CAUSES):
            if not self._causes:
                return
            self._happens(self._causes.pop(0))
        raise AnsweredWrongly(f"more than {MOST_CAUSES} causes of one turn")

    def _happens(self, cause: kernel.Cause) -> str:
        permitted = kernel.decide(self.host, cause)
        way, commands = kernel.choose(permitted, mix(self._seed, self._decisions))
        self._decisions += 1
        self.host = kernel.settle(self.host, cause, way, commands)
        for command in commands:
            if command.f == "events":
                self._read()
            elif command.f == "extents":
                self._page(command, getattr(cause, "region", REGION))
            elif command.f == "clear":
                _clear(self._bus, list(command.handles))
            else:
                pairs = [list(pair) for pair in command.ranges]
                self._bus.do(f"host.{NAME}", command.f, {"device": NAME, "flags": command.flags, "ranges": pairs})
        return way.error

    def _read(self) -> None:
        _, received = self._bus.do(f"host.{NAME}", "events", dict(_LOG))
        if received["records"]:
            events = tuple([kernel.event_of(record) for record in received["records"]])
            self._causes.append(kernel.Records(NAME, events, self._now_ns))

    def _page(self, command: Command, region: str) -> None:
        sent = {"device": NAME, "count": command.asked, "start": command.start}
        _, received = self._bus.do(f"host.{NAME}", "extents", sent)
        found = tuple(
            [
                Extent(one["dpa"], one["length"], bytes.fromhex(one["tag"]), one["sequence"])
                for one in received["extents"]
            ]
        )
        self._causes.append(kernel.Page(region, received["total"], received["generation"], found))

    # -- its users -----------------------------------------------------------------------------------------------

    def start(self, user: str, wish: Wish) -> bool:
        setup = self.host.setup
        if wish.tag == NULL_TAG and "map-to-extents" in setup.what_if:
            taken = self._by_extents(wish)
        elif setup.generation.claim == "size" or (wish.tag == NULL_TAG and "untagged-partial-claim" in setup.what_if):
            taken = self._by_size(wish)
        else:
            taken = self._by_tag(wish)
        if taken:
            self._users[user] = taken
        return bool(taken)

    def stop(self, user: str) -> None:
        for name in self._users.pop(user):
            self.must("unuse", {"what": "dax", "dax": name})
            self.must("claim", {"file": "size", "dax": name, "text": "0"})

    def _by_size(self, wish: Wish) -> list[str]:
        """A14: space comes from any extent; whose it is nobody can say."""
        name = self._spare()
        if name is None or self.write("claim", {"file": "size", "dax": name, "text": str(wish.need_bytes)}):
            return []
        self.must("use", {"what": "dax", "dax": name, "driver": "device_dax"})
        return [name]

    def _by_extents(self, wish: Wish) -> list[str]:
        """What-if map-to-extents: whole extents of the tenant's own, as many as are needed."""
        chosen: list[Extent] = []
        for one in self.host.extents:
            mine = common([(one.start, one.end)], wish.ranges) and not self.host.used(one)
            if mine and sum([extent.length for extent in chosen]) < wish.need_bytes:
                chosen.append(Extent(one.start, one.length))
        name = self._spare()
        if name is None or sum([extent.length for extent in chosen]) < wish.need_bytes:
            return []
        text = " ".join([f"{extent.start:#x}" for extent in chosen])
        if self.write("claim", {"file": "extents", "dax": name, "text": text}):
            return []
        self.must("use", {"what": "dax", "dax": name, "driver": "device_dax"})
        return [name]

    def _by_tag(self, wish: Wish) -> list[str]:
        """B27: a tag brings all of it; without one a device is one whole extent, so that several may be needed."""
        taken: list[str] = []
        got = 0
        while got < wish.need_bytes and len(taken) < MOST_DEVICES:
            name = self._spare()
            text = show_uuid(wish.tag) if wish.tag != NULL_TAG else "0"
            if name is None or self.write("claim", {"file": "uuid", "dax": name, "text": text}):
                break
            taken.append(name)
            got += self.host.device(name).size
        if got < wish.need_bytes:
            for name in taken:
                self.must("claim", {"file": "size", "dax": name, "text": "0"})
            return []
        for name in taken:
            self.must("use", {"what": "dax", "dax": name, "driver": "device_dax"})
        return taken

    def _spare(self) -> str | None:
        """A DAX device of size 0: one that is there, or a new one."""
        found = self._empty()
        if found is None and not self.write("claim", {"file": "create", "region": REGION, "text": "1"}):
            found = self._empty()
        return found

    def _empty(self) -> str | None:
        return next((one.name for one in self.host.devices if not one.size and one.driver is None), None)

    def used(self) -> list[Range]:
        starts = {extent.age: extent.start for extent in self.host.extents}
        pieces = [piece for device in self.host.devices for piece in device.mapped]
        return union([], [(starts[one.age] + one.at, starts[one.age] + one.at + one.length) for one in pieces])

    def known(self) -> list[Range]:
        return union([], [(extent.start, extent.end) for extent in self.host.extents])


DRIVERS = ("sysram", "sysram-untagged", "devdax", "virtio")
"""Policy drivers of generation C, as the lab has them; -untagged: it takes untagged extents, which C3 leaves open."""


class Drivers(Kernel):
    """Generation C: a region driver makes the devices, and a user maps one.

    devdax: a device is one user's. sysram: pages of a set are anyone's, so that several users of a tenant share its
    devices; untagged extents there, and all of virtio's, have no device that somebody could hold, and a release of
    them is granted (C3, C6): `taken_away` counts whom that hits.
    """

    def __init__(self, bus: Bus, driver: str, what_if: Iterable[str] = (), seed: int = 0) -> None:
        self._driver, _, self._untagged = driver.partition("-")
        self._pages: dict[str, list[Range]] = {}
        super().__init__(bus, "C", what_if, seed)

    def prepare(self) -> None:
        place = {"region": REGION, "start": 0, "length": CAPACITY_BYTES}
        self.must("use", {"what": "region", **place, "mode": "dc"})
        self.must("use", {"what": "decoders", "region": REGION})
        self.must("use", {"what": "bind", "region": REGION, "driver": self._driver})
        policies = [("hotplug", "online_movable")] if self._driver == "sysram" else []
        for name, text in [*policies, *([("untagged", "1")] if self._untagged else [])]:
            self.must("claim", {"file": "policy", "region": REGION, "name": name, "text": text})

    def turn(self, now_ns: int) -> None:
        super().turn(now_ns)
        known = self.known()
        gone = [user for user, pages in self._pages.items() if minus(pages, known)]
        for user in gone:
            self.taken_away += 1
            self._pages[user] = []

    def start(self, user: str, wish: Wish) -> bool:
        return self._start_devices(user, wish) if self._driver == "devdax" else self._start_pages(user, wish)

    def _start_devices(self, user: str, wish: Wish) -> bool:
        """Devices of the tenant that nobody has, as many as are needed."""
        taken: list[str] = []
        got = 0
        for name, ranges in self._devices(wish.ranges):
            if got < wish.need_bytes and not self.host.device(name).held:
                taken.append(name)
                got += total(ranges)
        if got < wish.need_bytes:
            return False
        for name in taken:
            self.must("use", {"what": "map", "dax": name})
        self._users[user] = taken
        return True

    def _start_pages(self, user: str, wish: Wish) -> bool:
        pages = _first(minus(common(list(wish.ranges), self.known()), self.used()), wish.need_bytes)
        if total(pages) < wish.need_bytes:
            return False
        for name, ranges in self._devices(wish.ranges):
            if common(ranges, pages) and not self.host.device(name).held:
                self.must("use", {"what": "map", "dax": name})
        self._pages[user] = pages
        return True

    def stop(self, user: str) -> None:
        if user in self._users:
            for name in self._users.pop(user):
                self.must("unuse", {"what": "map", "dax": name})
            return
        pages = self._pages.pop(user)
        left = [one for ranges in self._pages.values() for one in ranges]
        for name, ranges in self._devices(pages):
            if not common(ranges, left) and self.host.device(name).held:
                self.must("unuse", {"what": "map", "dax": name})

    def _devices(self, ranges: Sequence[Range]) -> list[tuple[str, list[Range]]]:
        """The DAX devices that lie in these ranges, and where."""
        extents = {extent.age: (extent.start, extent.end) for extent in self.host.extents}
        found = []
        for device in self.host.devices:
            places = [extents[piece.age] for piece in device.mapped]
            if common(places, ranges):
                found.append((device.name, places))
        return found

    def used(self) -> list[Range]:
        names = {name for names in self._users.values() for name in names}
        extents = {extent.age: (extent.start, extent.end) for extent in self.host.extents}
        held = [extents[piece.age] for one in self.host.devices if one.name in names for piece in one.mapped]
        return union(held, [one for ranges in self._pages.values() for one in ranges])


def side(bus: Bus, host: str, driver: str, what_if: Iterable[str], seed: int) -> Side:
    """The host of that name, of C with that driver. Errors: AskedWrongly, for what cannot be."""
    if host == "C":
        return Drivers(bus, asked.one_of(driver or DRIVERS[0], "policy driver", DRIVERS), what_if, seed)
    if driver:
        raise AskedWrongly(f"host {host} and policy driver {driver!r}: only generation C has one; write C/{driver}")
    if host != "U":
        return Kernel(bus, host, what_if, seed)
    if what_if:
        raise AskedWrongly(f"host U and what-if {', '.join(what_if)}: U has no rules to switch; name a generation")
    return Userspace(bus)


def _readings(bus: Bus) -> Iterable[list[Value]]:
    """The log's records, reading by reading, until it is empty; whoever takes them clears them."""
    while bus.device.state.log:
        _, received = bus.do(f"host.{NAME}", "events", dict(_LOG))
        yield received["records"]


def _clear(bus: Bus, handles: list[int]) -> None:
    bus.do(f"host.{NAME}", "clear", {**_LOG, "flags": 0, "handles": handles})


# ---- ranges ---------------------------------------------------------------------------------------------------------


def union(some: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """All of both, in order, what adjoins joined."""
    found: list[Range] = []
    for start, end in sorted([*some, *others]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif start < end:
            found.append((start, end))
    return found


def common(some: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """What is in both."""
    return union(
        [],
        [
            (max(start, first), min(end, last))
            for start, end in some
            for first, last in others
            if max(start, first) < min(end, last)
        ],
    )


def minus(some: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """What is in the first alone."""
    found: list[Range] = []
    cuts = union([], others)
    for start, end in union([], some):
        for first, last in cuts:
            if last <= start or first >= end:
                continue
            if first > start:
                found.append((start, first))
            start = max(start, last)
        if start < end:
            found.append((start, end))
    return found


def _first(ranges: Iterable[Range], need_bytes: int) -> list[Range]:
    """As many bytes of them as are needed, from the first on; fewer, where there are not so many."""
    found: list[Range] = []
    for start, end in ranges:
        length = min(need_bytes, end - start)
        if length:
            found.append((start, start + length))
            need_bytes -= length
    return found


def total(ranges: Iterable[Range]) -> int:
    """Their bytes."""
    return sum([end - start for start, end in ranges])
