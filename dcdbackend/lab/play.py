"""A trace played to a host by a simple orchestrator: what is offered, asked back and asked again, second by second.

The orchestrator knows nothing of the host's generation. It offers a tenant's extents where they fit (lowest DPA
first), in one chain; what was refused it offers again, at most `OFFERS` times, and what it asked back and did not get
it asks again, every `RETRY_S`, at most `ASKS` times. A tenant for whom there is no room waits. Everything of a second
happens in a fixed order, so that a seed means the same run everywhere; the history gets simulated time.

A second is looked at when it is over: each cell of the DPA space is in one state then (`STATES`), and all byte-seconds
are sums over these looks. Offers, answers and requests are counted from the history (`measure`), not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import asked
from ..history import Header
from .side import NAME, Bus, Range, Recorder, Wish, common, describe, minus, side, union
from .trace import CAPACITY_BYTES, MIB, Tenant, User

Value = dict[str, Any]

SECOND = 1_000_000_000
CELL_BYTES = 16 * MIB
CELLS = CAPACITY_BYTES // CELL_BYTES
RETRY_S = 5
OFFERS = 3
ASKS = 24
MOST_ASKS = 1000
PATIENCE_S = 30
"""So long a user waits for memory that its tenant has and it does not get."""
LENGTH_S = 240
"""How long every run is, whatever happens in it: so that byte-seconds compare."""
STATES: Mapping[str, str] = {
    "free": "nobody has it",
    "pending": "offered, not answered",
    "used": "a user has it",
    "idle": "the host holds it for a tenant that is there, and no user has it",
    "stranded": "the host holds it, and all users of its tenant are done",
    "blocked": "the same, and a user of another tenant sits in it",
    "lost": "the device holds it for the host, which does not know it any more",
}
_FREE, _PENDING, _USED, _IDLE, _STRANDED, _BLOCKED, _LOST = (name.encode()[:1] for name in STATES)
LETTERS = {name[:1]: name for name in STATES}
"""The state that a letter of a frame stands for."""


class Outcome(NamedTuple):
    """What came of a trace. `frames`: one a second, a letter (the first of a state's name) for each cell of
    `CELL_BYTES`, in DPA order. `tenants`: by how they ended: returned, held, refused, waiting. `users`: served, not
    served. `waited_s`: seconds that tenants waited for room, all together. `longest_s`: the longest that all of a
    tenant's users were done and not all of its capacity was back. `needed_byte_s`: what users that were served wanted,
    times how long. `taken_away`: users whose memory was given back under them."""

    frames: tuple[bytes, ...]
    tenants: Mapping[str, int]
    users: Mapping[str, int]
    waited_s: int
    longest_s: int
    offers_again: int
    asked_again: int
    needed_byte_s: int
    taken_away: int

    def byte_seconds(self, state: str) -> int:
        """How much was in a state, over all seconds."""
        letter = state.encode()[:1]
        return sum([frame.count(letter) for frame in self.frames]) * CELL_BYTES


@dataclass(kw_only=True, slots=True)
class _User:
    name: str
    who: User
    state: str = "waiting"
    due_s: int = 0


@dataclass(kw_only=True, slots=True)
class _Guest:
    """A tenant as it is now. `state`: waiting, refused, live, returned."""

    tenant: Tenant
    state: str = "waiting"
    offers: int = 0
    next_s: int = 0
    since_s: int = 0
    ranges: list[Range] = field(default_factory=list)
    users: list[_User] = field(default_factory=list)
    grown: bool = False
    asks: int = 0
    done_s: int | None = None
    returned_s: int | None = None


def header(host: str, what_if: Sequence[str], seed: int, trace: str) -> Header:
    """The first line of the history of a trace."""
    generation = host.partition("/")[0]
    told: Value = {"generation": generation, "simulated": True}
    if generation != "U":
        told |= {"what_if": sorted(what_if), "slack_ns": 0}
    return Header(backend="emulator", qemu=None, host=told, devices=(describe(),), seed=seed, scenario=f"trace-{trace}")


class Player:
    """`Player(tenants, host, what_if, seed, record).run()`. `now_ns` is the clock for the record's times.

    Errors of the constructor: AskedWrongly, for a host or a switch that cannot be.
    """

    def __init__(
        self,
        tenants: Sequence[Tenant],
        host: str,
        what_if: Sequence[str],
        seed: int,
        record: Callable[[Callable[[], int]], Recorder],
        *,
        asks: int = ASKS,
    ) -> None:
        self.now_s = 0
        self._asks = asked.whole(asks, "asks", least=1, most=MOST_ASKS)
        kind, _, driver = host.partition("/")
        self._bus = Bus(record(self.now_ns), seed)
        self._side = side(self._bus, kind, driver, what_if, seed)
        self._guests = [_Guest(tenant=tenant, next_s=tenant.arrive_s) for tenant in tenants]
        self._waited_s = 0
        self._offers_again = 0
        self._asked_again = 0

    def now_ns(self) -> int:
        """Simulated time."""
        return self.now_s * SECOND

    def run(self) -> Outcome:
        """Play it to its end: all capacity is back, or nobody asks for it any more."""
        frames: list[bytes] = []
        for second in range(LENGTH_S):
            self.now_s = second
            self._side.turn(self.now_ns())
            self._stop_users()
            self._side.turn(self.now_ns())
            self._note_returned()
            for guest in self._guests:
                self._ask(guest)
            for guest in self._guests:
                self._offer(guest)
            for guest in self._guests:
                self._start_users(guest)
            frames.append(self._look())
        return self._outcome(tuple(frames))

    # -- the orchestrator ----------------------------------------------------------------------------------------

    def _offer(self, guest: _Guest) -> None:
        """A tenant that waits is offered what it wants; one that grows, as much again."""
        tenant = guest.tenant
        if guest.state == "live" and tenant.grow_bytes and not guest.grown and guest.asks == 0:
            if self.now_s >= guest.since_s + tenant.grow_after_s:
                guest.grown = True
                behind = max(end for _, end in guest.ranges)
                self._grow(guest, (behind, behind + tenant.grow_bytes))
            return
        if guest.state != "waiting" or self.now_s < guest.next_s:
            return
        places = self._places(tenant.sizes)
        if places is None:
            self._waited_s += 1
            return
        guest.offers += 1
        self._offers_again += guest.offers > 1
        guest.ranges = self._send(tenant, places)
        if guest.ranges:
            guest.state, guest.since_s = "live", self.now_s
            for number, who in enumerate(tenant.users):
                due_s = self.now_s + who.after_s
                guest.users.append(_User(name=f"{tenant.name}.{number}", who=who, due_s=due_s))
        elif guest.offers >= OFFERS:
            guest.state = "refused"
        else:
            guest.next_s = self.now_s + RETRY_S

    def _grow(self, guest: _Guest, place: Range) -> None:
        taken = [*self._ranges(self._bus.accepted), *self._ranges(self._bus.pending)]
        if place[1] <= CAPACITY_BYTES and not common([place], taken):
            guest.ranges = union(guest.ranges, self._send(guest.tenant, [place]))

    def _send(self, tenant: Tenant, places: Sequence[Range]) -> list[Range]:
        """Offer these places in one chain; what the host took of them."""
        self._bus.do("manager", "add", self._sent(tenant, places))
        self._side.turn(self.now_ns())
        return common(places, self._ranges(self._bus.accepted))

    def _ask(self, guest: _Guest) -> None:
        """Ask back what is due, and again what did not come."""
        if guest.state != "live":
            return
        tenant = guest.tenant
        if guest.done_s is None and all(user.state in ("done", "denied") for user in guest.users):
            guest.done_s = self.now_s
        early = tenant.asked_after_s is not None and self.now_s >= guest.since_s + tenant.asked_after_s
        if (guest.done_s is None and not early) or self.now_s < guest.next_s or guest.asks >= self._asks:
            return
        held = common(guest.ranges, self._ranges(self._bus.accepted))
        if not held:
            return
        if guest.asks == 0 and guest.done_s is None:
            for user in guest.users:
                user.state = "denied" if user.state == "waiting" else user.state
        guest.asks += 1
        self._asked_again += guest.asks > 1
        guest.next_s = self.now_s + RETRY_S
        sent = self._sent(
            tenant, [(one.start, one.end) for one in self._bus.accepted if common([(one[0], one.end)], held)]
        )
        self._bus.do("manager", "release", {**sent, "forced": False, "sanitize": False})
        self._side.turn(self.now_ns())
        self._note_returned()

    @staticmethod
    def _sent(tenant: Tenant, places: Sequence[Range]) -> Value:
        tag = tenant.tag.hex()
        extents = [{"dpa": start, "length": end - start, "tag": tag, "sequence": 0} for start, end in places]
        return {
            "device": NAME, "via": "fm", "host_id": 0, "policy": "prescriptive", "region": 0, "tag": None,
            "extents": extents,
        }  # fmt: skip

    def _places(self, sizes: Sequence[int]) -> list[Range] | None:
        """Where they fit, each at the lowest DPA; None where they do not."""
        taken = [*self._ranges(self._bus.accepted), *self._ranges(self._bus.pending)]
        found: list[Range] = []
        for size in sizes:
            free = minus([(0, CAPACITY_BYTES)], [*taken, *found])
            place = next(((start, start + size) for start, end in free if end - start >= size), None)
            if place is None:
                return None
            found.append(place)
        return found

    @staticmethod
    def _ranges(extents: Any) -> list[Range]:
        return [(one.start, one.end) for one in extents]

    # -- the users -----------------------------------------------------------------------------------------------

    def _start_users(self, guest: _Guest) -> None:
        if guest.state != "live":
            return
        for user in guest.users:
            if user.state != "waiting" or self.now_s < user.due_s:
                continue
            wish = Wish(user.who.need_bytes, guest.tenant.tag, tuple(guest.ranges))
            if self._side.start(user.name, wish):
                user.state, user.due_s = "using", self.now_s + user.who.hold_s
            elif self.now_s >= guest.since_s + user.who.after_s + PATIENCE_S:
                user.state = "denied"

    def _stop_users(self) -> None:
        for guest in self._guests:
            for user in guest.users:
                if user.state == "using" and self.now_s >= user.due_s:
                    self._side.stop(user.name)
                    user.state = "done"

    # -- what is seen --------------------------------------------------------------------------------------------

    def _note_returned(self) -> None:
        accepted = self._ranges(self._bus.accepted)
        for guest in self._guests:
            if guest.state != "live":
                continue
            guest.ranges = common(guest.ranges, accepted)  # what is back may be another tenant's next
            if not guest.ranges:
                guest.state, guest.returned_s = "returned", self.now_s
                guest.done_s = self.now_s if guest.done_s is None else guest.done_s

    def _look(self) -> bytes:
        """The state of every cell at the end of this second."""
        cells = bytearray(_FREE * CELLS)
        accepted = self._ranges(self._bus.accepted)
        live = [guest for guest in self._guests if guest.state == "live"]
        done = [one for guest in live if guest.done_s is not None for one in guest.ranges]
        used = common(self._side.used(), accepted)
        _paint(cells, accepted, _IDLE)
        _paint(cells, self._ranges(self._bus.pending), _PENDING)
        _paint(cells, done, _STRANDED)
        _paint(cells, minus(used, done), _USED)
        _paint(cells, common(used, done), _BLOCKED)
        _paint(cells, minus(accepted, self._side.known()), _LOST)
        return bytes(cells)

    def _outcome(self, frames: tuple[bytes, ...]) -> Outcome:
        ends = [("held" if guest.state == "live" else guest.state) for guest in self._guests]
        users = [user for guest in self._guests for user in guest.users]
        wanted = sum(len(guest.tenant.users) for guest in self._guests)
        served = sum(user.state in ("done", "using") for user in users)
        waits = [
            (self.now_s if guest.returned_s is None else guest.returned_s) - guest.done_s
            for guest in self._guests
            if guest.done_s is not None
        ]
        return Outcome(
            frames=frames,
            tenants={name: ends.count(name) for name in ("returned", "held", "refused", "waiting")},
            users={"served": served, "not served": wanted - served},
            waited_s=self._waited_s,
            longest_s=max(waits, default=0),
            offers_again=self._offers_again,
            asked_again=self._asked_again,
            needed_byte_s=sum(
                user.who.need_bytes * user.who.hold_s for user in users if user.state in ("done", "using")
            ),
            taken_away=self._side.taken_away,
        )


def _paint(cells: bytearray, ranges: Sequence[Range], letter: bytes) -> None:
    for start, end in ranges:
        if start % CELL_BYTES or end % CELL_BYTES:
            raise ValueError(
                f"{start:#x} to {end:#x} is not made of cells of {CELL_BYTES} bytes; a trace has whole ones"
            )
        first, last = start // CELL_BYTES, end // CELL_BYTES
        cells[first:last] = letter * (last - first)


def held_bytes(frame: bytes) -> int:
    """What the device holds for the host in a frame."""
    return sum([frame.count(letter) for letter in (_USED, _IDLE, _STRANDED, _BLOCKED, _LOST)]) * CELL_BYTES
