"""Tenants that come and go, as data: what they ask for, when, and who uses it for how long. Seeded, no clock.

A tenant is one allocation: extents that are offered together, with a tag or without, and users of the host that take
memory out of it, one after the other or at once. When the last user is done the tenant says so and its capacity is
asked back; some are asked earlier, while somebody still uses it. A trace says nothing of how a host takes it: that is
what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..errors import AskedWrongly
from ..extents import NULL_TAG
from ..workload import Choices

MIB = 1 << 20
CAPACITY_BYTES = 1 << 30
"""Of the one region that all tenants share."""


class User(NamedTuple):
    """Someone who uses memory: `after_s` after the tenant's capacity was accepted, `need_bytes`, for `hold_s`."""

    after_s: int
    need_bytes: int
    hold_s: int


class Tenant(NamedTuple):
    """An allocation. `sizes`: bytes of each extent of its chain; `tag`: of all of them, null for none.

    `asked_after_s`: so long after it was accepted it is asked back, in use or not; None: when its users are done.
    `grow_bytes`: that much more is offered, right behind, with the same tag, `grow_after_s` after it was accepted.
    """

    name: str
    arrive_s: int
    sizes: tuple[int, ...]
    tag: bytes
    users: tuple[User, ...]
    asked_after_s: int | None = None
    grow_bytes: int = 0
    grow_after_s: int = 0

    @property
    def bytes(self) -> int:
        """What it asks for at first."""
        return sum(self.sizes)


class Trace(NamedTuple):
    """A kind of trace. `last_s`: no tenant arrives later."""

    name: str
    text: str
    make: Callable[[Choices, int], tuple[Tenant, ...]]
    last_s: int = 120


def tenants(name: str, seed: int) -> tuple[Tenant, ...]:
    """The tenants of a trace, in order of arrival: the same for the same seed. Errors: AskedWrongly."""
    trace = TRACES.get(name)
    if trace is None:
        raise AskedWrongly(f"trace {name!r} is not known; there is {', '.join(TRACES)}")
    return trace.make(Choices(seed, 1 + list(TRACES).index(name)), trace.last_s)


def _arrivals(choices: Choices, last_s: int, least_s: int, most_s: int) -> list[int]:
    found = [0]
    while found[-1] + most_s <= last_s:
        found.append(found[-1] + choices.between(least_s, most_s))
    return found


def _tag(choices: Choices) -> bytes:
    return choices.word().to_bytes(8, "big") + choices.word().to_bytes(8, "big")


def _mixed(choices: Choices, last_s: int) -> tuple[Tenant, ...]:
    """Of four tenants three have a tag; one to three extents; one user for the whole."""
    found = []
    for number, arrive_s in enumerate(_arrivals(choices, last_s, 2, 6)):
        sizes = tuple(32 * MIB * choices.between(1, 4) for _ in range(choices.between(1, 3)))
        tag = _tag(choices) if number % 4 else NULL_TAG
        user = User(choices.between(0, 2), sum(sizes), choices.between(10, 40))
        found.append(Tenant(f"t{number}", arrive_s, sizes, tag, (user,)))
    return tuple(found)


def _asked_early(choices: Choices, last_s: int) -> tuple[Tenant, ...]:
    """Every tenant is asked while it uses what it has; only tags, one extent each."""
    found = []
    for number, arrive_s in enumerate(_arrivals(choices, last_s, 3, 6)):
        size = 64 * MIB * choices.between(1, 3)
        user = User(0, size, choices.between(12, 30))
        early_s = choices.between(2, user.hold_s - 2)
        found.append(Tenant(f"t{number}", arrive_s, (size,), _tag(choices), (user,), asked_after_s=early_s))
    return tuple(found)


def _pool(choices: Choices, last_s: int) -> tuple[Tenant, ...]:
    """No tags: one extent of 256M each, of which four users take 64M, one after the other."""
    found = []
    for number, arrive_s in enumerate(_arrivals(choices, last_s, 12, 20)):
        users = tuple(User(4 * at + choices.between(0, 3), 64 * MIB, choices.between(8, 24)) for at in range(4))
        found.append(Tenant(f"p{number}", arrive_s, (256 * MIB,), NULL_TAG, users))
    return tuple(found)


def _parts(choices: Choices, last_s: int) -> tuple[Tenant, ...]:
    """No tags: four extents of 64M in one chain, each with a user of its own, who leave at different times."""
    found = []
    for number, arrive_s in enumerate(_arrivals(choices, last_s, 10, 16)):
        users = tuple(User(0, 64 * MIB, choices.between(6, 40)) for _ in range(4))
        early_s = choices.between(8, 16)
        found.append(Tenant(f"c{number}", arrive_s, (64 * MIB,) * 4, NULL_TAG, users, asked_after_s=early_s))
    return tuple(found)


def _grow(choices: Choices, last_s: int) -> tuple[Tenant, ...]:
    """Half of the tenants have a tag; every one asks for as much again, right behind what it has."""
    found = []
    for number, arrive_s in enumerate(_arrivals(choices, last_s, 8, 14)):
        size = 64 * MIB * choices.between(1, 2)
        tag = _tag(choices) if number % 2 else NULL_TAG
        first = User(0 if number // 2 % 2 else 8, size, choices.between(20, 40))
        users = (first, User(first.after_s + choices.between(8, 12), size, choices.between(8, 20)))
        found.append(Tenant(f"g{number}", arrive_s, (size,), tag, users, grow_bytes=size, grow_after_s=6))
    return tuple(found)


TRACES: Mapping[str, Trace] = {
    trace.name: trace
    for trace in (
        Trace("mixed", "tagged and untagged tenants, each with one user of all that it has", _mixed),
        Trace("asked-early", "tagged tenants, asked back while they use it", _asked_early),
        Trace("pool", "untagged extents of 256M, of which users take 64M each", _pool),
        Trace("parts", "untagged chains of four extents, a user for each, asked back while some use theirs", _parts),
        Trace("grow", "tenants that ask for more, with the same tag, right behind what they have", _grow),
    )
}
"""Every trace by name; adding one is one row."""
