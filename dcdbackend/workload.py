"""What to do to a device next, chosen by a seed; and how a long sequence that shows something is made short.

    next_operation(seed, number, device) -> Operation        pure: the same three, the same operation
    shrinking(operations)                                    a generator of shorter candidates, told which still fail

`KINDS` is the one table of what is done, legal and illegal, and how often. `device` is the model's (`model.reply`):
an operation that means to overlap something pending has to know what is pending. It draws no conclusions: who runs the
operations (`differential`, tests) compares and judges. There is no clock and no `random` here; `Choices` is SplitMix64,
so that a seed means the same operations on every Python.

An operation's `sent` is the invoke value of the history, without the device's name, but for two things: the handles of
a `clear` may be places in the log ("#0" is the oldest record; past the end, a handle that is not given out yet), so
that they keep their sense when what came before is left out; and `raw` is {"opcode", "payload"}, any bytes at all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from .extents import Extent
from .model.decide import deadly
from .model.reply import Device
from .model.state import Config, Region, State

Value = dict[str, Any]
Ranges = list[list[int]]

U16, U32, U64 = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1
TRIES = 40
MOODS = ("mixed", "mixed", "offers", "fill", "log", "churn")
SHRINK_TRIES = 150


class Operation(NamedTuple):
    """One operation. `kind`: its row in KINDS; `f`: the history's function, or raw, config or reset."""

    kind: str
    f: str
    sent: Value


class Choices:
    """SplitMix64 (Steele, Lea, Flood 2014), seeded by a seed and the number of the operation."""

    def __init__(self, seed: int, number: int = 0) -> None:
        self._state = (seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03) & U64
        self.word()

    def word(self) -> int:
        """The next 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & U64
        mixed = self._state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & U64
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & U64
        return mixed ^ (mixed >> 31)

    def below(self, bound: int) -> int:
        """0 to bound - 1."""
        return self.word() % bound

    def between(self, least: int, most: int) -> int:
        return least + self.below(most - least + 1)

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent

    def pick(self, items: Sequence[Any]) -> Any:
        return items[self.below(len(items))]

    def some(self, items: Sequence[Any], most: int) -> list[Any]:
        """At least one of them, at most `most`, in their order."""
        left = list(range(len(items)))
        while len(left) > max(1, min(most, self.between(1, len(items)))):
            del left[self.below(len(left))]
        return [items[at] for at in left]


Make = Callable[[Choices, Device], "Value | None"]


class Kind(NamedTuple):
    """A row of KINDS: the history's function, how often (in `mixed`), and what makes the value; None: not now."""

    f: str
    weight: int
    make: Make


def next_operation(seed: int, number: int, device: Device, *, avoid: frozenset[str] = frozenset()) -> Operation:
    """The operation with that number of the sequence with that seed, for a device in that state.

    Kinds in `avoid` are not chosen, nor is anything by which the device is known to die (`decide.deadly`). What has
    no weight (`deadly.*`, `reset`) is made by `make` alone.
    """
    choices = Choices(seed, number + 1)
    weights = _weights(mood(seed))
    rows = [(name, weights[name]) for name in KINDS if weights[name] and name not in avoid]
    total = sum(weight for _, weight in rows)
    for _ in range(TRIES):
        operation = make(_weighted(rows, choices.below(total)), choices, device)
        if operation is not None and deadly(device.state, operation.f, as_taken(bind(operation, device))) is None:
            return operation
    return Operation("extents.all", "extents", {"count": 50, "start": 0})


def _weighted(rows: Sequence[tuple[str, int]], at: int) -> str:
    """The name that lies there when each takes its weight of places."""
    for name, weight in rows:
        at -= weight
        if at < 0:
            return name
    raise ValueError("a place behind the last weight")


def as_taken(sent: Value) -> Value:
    """The value as QEMU takes it: it reads a negative number as its two's complement of 64 bits."""
    if "extents" not in sent:
        return sent
    spans = [{"offset": one["offset"] & U64, "length": one["length"] & U64} for one in sent["extents"]]
    return {**sent, "extents": spans}


def make(name: str, choices: Choices, device: Device) -> Operation | None:
    """An operation of that kind; None where the device's state allows none."""
    kind = KINDS[name]
    sent = kind.make(choices, device)
    if sent is not None and kind.f == "release":
        sent = {"forced": False, "sanitize": False, **sent}
    return None if sent is None else Operation(name, kind.f, sent)


def mood(seed: int) -> str:
    """What a sequence leans to: filling the device, letting offers pile up, the log, coming and going, or nothing."""
    return str(Choices(seed).pick(MOODS))


def bind(operation: Operation, device: Device) -> Value:
    """The value to send to a device in that state: places in the log become handles."""
    handles = operation.sent.get("handles")
    if handles is None or operation.f != "clear":
        return operation.sent
    return {**operation.sent, "handles": [_handle(found, device) for found in handles]}


def _handle(found: int | str, device: Device) -> int:
    if isinstance(found, int):
        return found
    place, handle = int(found[1:]), device.next_handle
    for at, record in enumerate(device.state.log):
        if at == place and record.handle:
            return record.handle
        if not record.handle:
            if at == place:
                return handle
            handle = handle % U16 + 1
    return (handle + max(place - len(device.state.log), 0) - 1) % U16 + 1


# ---- where things are


def _region(choices: Choices, config: Config) -> Region:
    found: Region = choices.pick(config.regions)
    return found


def _runs(state: State, region: Region, what: str) -> list[tuple[int, int]]:
    """(DPA, length) of what is free, pending or accepted in a region."""
    held = state.accepted.intersecting(region.base, region.length)
    offered = state.pending.intersecting(region.base, region.length)
    if what == "accepted":
        return [(extent.start, extent.length) for extent in held]
    if what == "pending":
        return [(extent.start, extent.length) for extent in offered]
    free: list[tuple[int, int]] = []
    at = region.base
    for extent in sorted((*held, *offered)):
        if extent.start > at:
            free.append((at, extent.start - at))
        at = max(at, extent.end)
    if at < region.base + region.length:
        free.append((at, region.base + region.length - at))
    return free


def _part(choices: Choices, run: tuple[int, int], block: int, most_blocks: int = 8) -> tuple[int, int]:
    """A range of whole blocks inside a run."""
    blocks = run[1] // block
    if blocks <= 1:
        return run
    first = choices.pick((0, 0, choices.below(blocks), blocks - 1))
    count = choices.between(1, min(blocks - first, most_blocks))
    return run[0] + first * block, count * block


def _free_ranges(choices: Choices, device: Device, region: Region, count: int, most: int = 8) -> list[tuple[int, int]]:
    """Up to `count` ranges that are free and do not overlap each other, in any order."""
    runs = _runs(device.state, region, "free")
    found: list[tuple[int, int]] = []
    for _ in range(count):
        if not runs:
            break
        at = choices.below(len(runs))
        start, length = runs.pop(at)
        begin, size = _part(choices, (start, length), region.block_size, most)
        runs += [run for run in ((start, begin - start), (begin + size, start + length - begin - size)) if run[1]]
        found.append((begin, size))
    return found


def _taken(choices: Choices, device: Device, what: str) -> tuple[Region, tuple[int, int]] | None:
    """A region, and a range in it that is pending or accepted."""
    places = [(region, run) for region in device.state.config.regions for run in _runs(device.state, region, what)]
    if not places:
        return None
    found: tuple[Region, tuple[int, int]] = choices.pick(places)
    return found


# ---- the manager's requests, over QMP


def _request(region: Region | int, ranges: Sequence[Sequence[int]], base: int = 0, **more: Any) -> Value:
    """Ranges are DPAs for a Region, offsets for a number."""
    number, base = (region.id, region.base) if isinstance(region, Region) else (region, base)
    return {
        "via": "qmp",
        "host_id": 0,
        "policy": "prescriptive",
        "region": number,
        "tag": None,
        "extents": [{"offset": start - base, "length": length} for start, length in ranges],
        **more,
    }


def _legal_add(least: int, most: int, blocks: int = 8) -> Make:
    def made(choices: Choices, device: Device) -> Value | None:
        region = _region(choices, device.state.config)
        ranges = _free_ranges(choices, device, region, choices.between(least, most), blocks)
        return _request(region, ranges) if ranges else None

    return made


def _whole_region(choices: Choices, device: Device) -> Value | None:
    region = _region(choices, device.state.config)
    run = choices.pick(_runs(device.state, region, "free") or [(region.base, region.length)])
    return _request(region, [run])


def _over(what: str) -> Make:
    """Overlaps something pending or accepted, exactly or by its edge, alone or behind good extents."""

    def made(choices: Choices, device: Device) -> Value | None:
        found = _taken(choices, device, what)
        if found is None:
            return None
        region, (start, length) = found
        block = region.block_size
        begin = max(region.base, start - block * choices.below(3))
        size = choices.pick((length, block, start + length - begin, length + block))
        ranges = _free_ranges(choices, device, region, choices.below(3), 2)
        ranges.insert(choices.below(len(ranges) + 1), (begin, size))
        return _request(region, ranges)

    return made


def _in_itself(choices: Choices, device: Device) -> Value | None:
    """Two extents of one request overlap each other, or one comes twice."""
    region = _region(choices, device.state.config)
    ranges = _free_ranges(choices, device, region, choices.between(1, 3))
    if not ranges:
        return None
    start, length = choices.pick(ranges)
    block = region.block_size
    ranges.append(choices.pick(((start, length), (start + length - block, 2 * block), (start, block))))
    return _request(region, ranges)


_BAD_SPANS = ("off", "short", "both", "zero", "zero-far", "past", "end", "beyond", "huge", "odd-huge", "top")


def _bad_span(choices: Choices, region: Region, name: str) -> tuple[int, int]:
    """An (offset, length) that no region has: off its blocks, of no length, past its end; none that reaches 2^64."""
    block, length = region.block_size, region.length
    offset = choices.below(length // block) * block
    odd = choices.pick((1, 512, 4096, block // 2, block - 1))
    return {
        "off": (offset + odd, block),
        "short": (offset, odd),
        "both": (offset + odd, block + odd),
        "zero": (offset, 0),
        "zero-far": (choices.pick((length, length + odd, U64, U64 - block + 1)), 0),
        "past": (length - block, 2 * block),
        "end": (length, block),
        "beyond": (length + choices.below(1 << 20) * block, block * choices.between(1, 9)),
        "huge": (offset, (1 << choices.between(40, 63))),
        "odd-huge": (choices.pick((1 << 62, 1 << 63, (1 << 63) + 1)), choices.pick((1, block, 1 << 62))),
        "top": (U64 - block - choices.below(block), choices.pick((1, block - 1))),
    }[name]


def _bad(*names: str) -> Make:
    """One bad extent, alone or among good ones, sometimes with a second fault: which one is told is compared too."""

    def made(choices: Choices, device: Device) -> Value | None:
        region = _region(choices, device.state.config)
        good = [(start - region.base, size) for start, size in _free_ranges(choices, device, region, choices.below(3))]
        good.insert(choices.below(len(good) + 1), _bad_span(choices, region, choices.pick(names)))
        if choices.chance(25):
            good.insert(choices.below(len(good) + 1), _bad_span(choices, region, choices.pick(_BAD_SPANS)))
        if choices.chance(15) and (found := _taken(choices, device, choices.pick(("pending", "accepted")))):
            good.insert(choices.below(len(good) + 1), (found[1][0] - found[0].base, found[1][1]))
        return _request(region.id, good)

    return made


def _changed(make: Make, **fields: Sequence[Any]) -> Make:
    """What `make` makes with other words in it, each chosen from its sequence."""

    def made(choices: Choices, device: Device) -> Value | None:
        sent = make(choices, device)
        return None if sent is None else {**sent, **{name: choices.pick(words) for name, words in fields.items()}}

    return made


def _bad_number(choices: Choices, device: Device) -> Value | None:
    """An offset or a length that no unsigned 64-bit number is."""
    region = _region(choices, device.state.config)
    wrong = choices.pick((-1, -region.block_size, 1 << 64, -(1 << 63), (1 << 64) + region.block_size))
    pair = choices.pick(((wrong, region.block_size), (0, wrong)))
    return _request(region.id, [pair])


def _nothing(choices: Choices, device: Device) -> Value | None:
    return _request(_region(choices, device.state.config), [])


def _wraps(choices: Choices, device: Device) -> Value | None:
    """Offset + length reaches 2^64: this kills a device with QEMU-qmp-wraps."""
    region = _region(choices, device.state.config)
    return _request(region.id, [(U64 + 1 - region.block_size, region.block_size)])


def _held(whole: bool) -> Make:
    """A request for one to four accepted extents, whole or parts of them."""

    def made(choices: Choices, device: Device) -> Value | None:
        found = _taken(choices, device, "accepted")
        if found is None:
            return None
        region = found[0]
        runs = choices.some(_runs(device.state, region, "accepted"), 4)
        return _request(region, runs if whole else [_part(choices, run, region.block_size) for run in runs])

    return made


def _straddling(choices: Choices, device: Device) -> Value | None:
    """Accepted capacity over the border between two extents, or over its end into what is free."""
    found = _taken(choices, device, "accepted")
    if found is None:
        return None
    region, (start, length) = found
    block = region.block_size
    size = block * choices.between(2, 4)
    return _request(region, [(start + length - block, size)])


def _absent(choices: Choices, device: Device) -> Value | None:
    region = _region(choices, device.state.config)
    ranges = _free_ranges(choices, device, region, choices.between(1, 3))
    found = _taken(choices, device, "accepted")
    if found and found[0] == region and choices.chance(50):
        ranges.insert(choices.below(len(ranges) + 1), found[1])
    return _request(region, ranges) if ranges else None


# ---- the host's commands


def _answer(flags: int = 0) -> Callable[[Callable[[Choices, Device, Sequence[Extent]], Ranges | None]], Make]:
    """A 4802h made from the oldest offer; None without one."""

    def with_chain(make: Callable[[Choices, Device, Sequence[Extent]], Ranges | None]) -> Make:
        def made(choices: Choices, device: Device) -> Value | None:
            chains = device.state.chains
            ranges = make(choices, device, chains[0].extents) if chains else None
            return None if ranges is None or len(ranges) > 85 else {"flags": flags, "ranges": ranges}

        return made

    return with_chain


def _pairs(extents: Sequence[Extent]) -> Ranges:
    return [[extent.start, extent.length] for extent in extents]


def _block(device: Device) -> int:
    return device.state.config.regions[0].block_size


def _accept(choices: Choices, device: Device, offered: Sequence[Extent]) -> Ranges:
    return _pairs(offered)[:85]


def _accept_some(choices: Choices, device: Device, offered: Sequence[Extent]) -> Ranges:
    return _pairs(choices.some(offered, 85))


def _accept_parts(choices: Choices, device: Device, offered: Sequence[Extent]) -> Ranges:
    some = choices.some(offered, 20)
    return [list(_part(choices, (extent.start, extent.length), _block(device))) for extent in some]


def _accept_halves(choices: Choices, device: Device, offered: Sequence[Extent]) -> Ranges | None:
    """An extent taken in two pieces."""
    block = _block(device)
    large = [extent for extent in offered if extent.length > block]
    if not large:
        return None
    start, length = choices.pick(large)[:2]
    cut = choices.between(1, length // block - 1) * block
    return [[start, cut], [start + cut, length - cut]]


def _accept_across(choices: Choices, device: Device, offered: Sequence[Extent]) -> Ranges:
    """Past the end of an extent of the offer: into its neighbour, or into what was never offered."""
    start, length = choices.pick(offered)[:2]
    return [[start, length + _block(device) * choices.between(1, 3)]]


def _refuse(choices: Choices, device: Device, offered: Sequence[Extent]) -> Ranges:
    return []


def _backwards(choices: Choices, device: Device, offered: Sequence[Extent]) -> Ranges | None:
    return _pairs(offered)[:85][::-1] if len(offered) > 1 else None


def _twice(choices: Choices, device: Device, offered: Sequence[Extent]) -> Ranges:
    ranges = _pairs(offered)[:40]
    ranges.insert(choices.below(len(ranges) + 1), choices.pick(ranges))
    return ranges


def _spoiled(choices: Choices, device: Device, offered: Sequence[Extent]) -> Ranges:
    """The offer, with a range that is wrong in itself somewhere in it."""
    ranges = _pairs(offered)[:40]
    ranges.insert(choices.below(len(ranges) + 1), _bad_range(choices, device.state.config))
    return ranges


def _with_accepted(choices: Choices, device: Device, offered: Sequence[Extent]) -> Ranges | None:
    found = _taken(choices, device, "accepted")
    if found is None:
        return None
    ranges = _pairs(offered)[:40]
    ranges.insert(choices.below(len(ranges) + 1), list(_part(choices, found[1], found[0].block_size)))
    return ranges


def _later_offer(choices: Choices, device: Device) -> Value | None:
    """Names an offer that is not the oldest."""
    chains = device.state.chains
    if len(chains) < 2:
        return None
    return {"flags": 0, "ranges": _pairs(choices.pick(chains[1:]).extents)[:85]}


def _unoffered(choices: Choices, device: Device) -> Value | None:
    region = _region(choices, device.state.config)
    ranges = _free_ranges(choices, device, region, choices.between(1, 3))
    return {"flags": choices.pick((0, 0, 0, 1, 0xFE)), "ranges": [list(pair) for pair in ranges]} if ranges else None


def _bad_range(choices: Choices, config: Config) -> list[int]:
    """A (DPA, length) that is wrong in itself; none that reaches 2^64."""
    region = _region(choices, config)
    base, end, block = region.base, region.base + region.length, region.block_size
    offset, length = _bad_span(choices, region, choices.pick(("off", "short", "both", "zero", "past", "end", "beyond")))
    first = config.regions[0].base
    others = [
        [base + offset, length],
        [base + offset, length],
        [base + offset, length],
        [end - block, 2 * block],
        [choices.pick((0, max(first - block, 0))), block],
        [choices.pick((1 << 40, 1 << 62, 1 << 63, U64 - block)), choices.pick((0, block))],
        [base, choices.pick((1 << 40, 1 << 62, 1 << 63))],
    ]
    return list(choices.pick(others))


def _bad_ranges(choices: Choices, device: Device) -> Value | None:
    config = device.state.config
    return {"flags": 0, "ranges": [_bad_range(choices, config) for _ in range(choices.between(1, 3))]}


def _range_wraps(choices: Choices, device: Device) -> Value | None:
    """DPA + length passes 2^64, from inside a region."""
    config = device.state.config
    region = _region(choices, config)
    block = region.block_size
    start = region.base + choices.below(region.length // block) * block
    taken = _taken(choices, device, choices.pick(("pending", "accepted")))
    if taken is not None and choices.chance(50):
        start = taken[1][0]
    return {"flags": 0, "ranges": [[start, U64 + 1 - choices.between(1, 8) * block]]}


def _give_back(whole: bool, most: int = 4) -> Make:
    def made(choices: Choices, device: Device) -> Value | None:
        held = [(extent.start, extent.length) for extent in device.state.accepted]
        if not held:
            return None
        some = choices.some(held, most)
        block = _block(device)
        return {"flags": 0, "ranges": [list(run if whole else _part(choices, run, block)) for run in some]}

    return made


def _give_middle(choices: Choices, device: Device) -> Value | None:
    """The middle of an extent: it is split in two."""
    block = _block(device)
    large = [extent for extent in device.state.accepted if extent.length > 2 * block]
    if not large:
        return None
    start, length = choices.pick(large)[:2]
    return {"flags": 0, "ranges": [[start + block, length - 2 * block]]}


def _give_across(choices: Choices, device: Device) -> Value | None:
    """Capacity that several adjoining extents hold together, in one range; or one that has a hole."""
    held = tuple(device.state.accepted)
    pairs = [pair for pair in pairwise(held) if pair[0].end == pair[1].start]
    if not pairs:
        return None
    first, second = choices.pick(pairs)
    block = _block(device)
    start = choices.pick((first.start, first.end - block))
    end = choices.pick((second.end, second.start + block, second.end + block))
    return {"flags": 0, "ranges": [[start, end - start]]}


def _give_spoiled(choices: Choices, device: Device) -> Value | None:
    """Something held, with something wrong beside it: nothing may be taken."""
    sent = _give_back(True)(choices, device)
    if sent is None:
        return None
    ranges: Ranges = sent["ranges"]
    free = _free_ranges(choices, device, _region(choices, device.state.config), 1)
    wrong = [_bad_range(choices, device.state.config), ranges[0], *[list(pair) for pair in free]]
    ranges.insert(choices.below(len(ranges) + 1), choices.pick(wrong))
    return sent


def _give_pending(choices: Choices, device: Device) -> Value | None:
    found = _taken(choices, device, "pending")
    return {"flags": 0, "ranges": [list(found[1])]} if found else None


def _give_free(choices: Choices, device: Device) -> Value | None:
    ranges = _free_ranges(choices, device, _region(choices, device.state.config), choices.between(1, 3))
    return {"flags": choices.pick((0, 0, 0xFF)), "ranges": [list(pair) for pair in ranges]} if ranges else None


def _clear(places: Callable[[Choices, int], Sequence[int | str] | None], flags: int = 0, log: int = 4) -> Make:
    """A 0101h of places in the log, which holds so many records."""

    def made(choices: Choices, device: Device) -> Value | None:
        handles = places(choices, len(device.state.log))
        return None if handles is None else {"log": log, "flags": flags, "handles": list(handles)}

    return made


def _places(count: int) -> list[str]:
    return [f"#{at}" for at in range(count)]


def _list_pages(choices: Choices, device: Device) -> Value | None:
    total = len(device.state.accepted)
    count = choices.pick((0, 1, 2, 7, 49, 50, 51, 255, total, U32))
    return {"count": count, "start": choices.pick((0, total, max(total - 1, 0), choices.below(total + 1)))}


def _list_past(choices: Choices, device: Device) -> Value | None:
    total = len(device.state.accepted) + len(device.state.pending)
    start = choices.pick((len(device.state.accepted) + 1, total + 1, total + choices.between(1, 1000), 1 << 31, U32))
    return {"count": choices.pick((0, 1, 50, U32)), "start": start}


def _config(choices: Choices, device: Device) -> Value | None:
    regions = len(device.state.config.regions)
    count = choices.pick((0, 1, 2, regions, 8, 9, 255))
    return {"count": count, "start": choices.pick((0, 0, 1, regions - 1, regions, regions + 1, 8, 255))}


def _raw_payload(choices: Choices, device: Device) -> Value | None:
    """A command whose payload is too short, too long, or lies about its count."""
    opcode = choices.pick((0x0100, 0x0101, 0x4800, 0x4801, 0x4802, 0x4803))
    size = {0x0100: 1, 0x0101: 6, 0x4800: 2, 0x4801: 8}.get(opcode, 8)
    wrong = choices.pick(("none", "short", "long", "lies"))
    body = {0x0100: b"\x04", 0x0101: b"\x04\0\0\0\0\0", 0x4801: b"\x01" + bytes(7)}.get(opcode, bytes(size))
    if wrong == "none":
        body = b""
    elif wrong == "short":
        body = body[: choices.below(size)]
    elif wrong == "long":
        if opcode in (0x4802, 0x4803):  # nothing may make an empty answer of it
            return None
        body += bytes(choices.between(1, 40))
    elif opcode == 0x0101:
        body = bytes((4, 0, choices.between(1, 255), 0, 0, 0)) + bytes(choices.below(2))
    elif opcode in (0x4802, 0x4803):
        count = choices.pick((1, 2, 85, 86, 1000, 1 << 31, U32))
        body = count.to_bytes(4, "little") + bytes(4) + bytes(choices.below(24))
    else:
        body += bytes(1)
    return {"opcode": opcode, "payload": body.hex()}


def _raw_opcode(choices: Choices, device: Device) -> Value | None:
    opcode = choices.pick((0x4804, 0x48FF, 0x5600, 0x5603, 0x5604, 0x0106, 0x7FFF, 0xFFFF, 0x4900))
    return {"opcode": opcode, "payload": bytes(choices.below(16)).hex()}


def _block_question(choices: Choices, device: Device) -> Value | None:
    region = _region(choices, device.state.config)
    found = _taken(choices, device, choices.pick(("pending", "accepted")))
    block = region.block_size
    if found is not None and choices.chance(60):
        region, (start, length) = found
        offset = start - region.base + choices.pick((-block, 0, length - block, length))
        offset = min(max(offset, 0), region.length - block)
    else:
        offset = choices.below(region.length // block) * block
    return {"region": region.id, "offset": offset, "length": block}


def _reset(choices: Choices, device: Device) -> Value | None:
    return {}


_ONE = _legal_add(1, 1)
_WORDS = ("bogus", "", "Prescriptive", "tag-based", "free", "contiguous", "enable-shared-access")
_HOLD = _held(True)

KINDS: Mapping[str, Kind] = {
    "add.one": Kind("add", 60, _ONE),
    "add.chain": Kind("add", 40, _legal_add(2, 6)),
    "add.long": Kind("add", 8, _legal_add(7, 14)),
    "add.many": Kind("add", 2, _legal_add(30, 120, 1)),
    "add.large": Kind("add", 4, _whole_region),
    "add.over-pending": Kind("add", 14, _over("pending")),
    "add.over-accepted": Kind("add", 14, _over("accepted")),
    "add.in-itself": Kind("add", 10, _in_itself),
    "add.unaligned": Kind("add", 10, _bad("off", "short", "both")),
    "add.zero": Kind("add", 8, _bad("zero", "zero-far")),
    "add.past-end": Kind("add", 10, _bad("past", "end", "beyond")),
    "add.extreme": Kind("add", 8, _bad("huge", "odd-huge", "top")),
    "add.bad-number": Kind("add", 4, _bad_number),
    "add.empty": Kind("add", 4, _nothing),
    "add.region": Kind("add", 5, _changed(_ONE, region=(2, 3, 7, 8, 9, 255))),
    "add.region-wild": Kind("add", 4, _changed(_ONE, region=(256, -1, 1 << 31, 1 << 64))),
    "add.policy": Kind("add", 6, _changed(_ONE, policy=_WORDS)),
    "add.host": Kind("add", 5, _changed(_ONE, host_id=(1, 9, 255, U16))),
    "add.host-wild": Kind("add", 3, _changed(_ONE, host_id=(1 << 16, -1, 1 << 40))),
    "add.tag": Kind("add", 5, _changed(_legal_add(1, 3), tag=("11" * 16, "0f1e2d3c4b5a69788796a5b4c3d2e1f0"))),
    "release.whole": Kind("release", 22, _held(True)),
    "release.part": Kind("release", 22, _held(False)),
    "release.straddling": Kind("release", 10, _straddling),
    "release.absent": Kind("release", 10, _absent),
    "release.pending": Kind("release", 10, _over("pending")),
    "release.in-itself": Kind("release", 8, _in_itself),
    "release.bad": Kind("release", 12, _bad(*_BAD_SPANS)),
    "release.bad-number": Kind("release", 3, _bad_number),
    "release.empty": Kind("release", 3, _nothing),
    "release.region": Kind("release", 4, _changed(_HOLD, region=(2, 7, 8, 255, 256, -1))),
    "release.policy": Kind("release", 5, _changed(_HOLD, policy=_WORDS)),
    "release.forced": Kind("release", 4, _changed(_HOLD, forced=(True,))),
    "release.sanitize": Kind("release", 4, _changed(_HOLD, sanitize=(True,))),
    "release.host": Kind("release", 4, _changed(_HOLD, host_id=(1, 9, U16, 1 << 16, -1))),
    "events.read": Kind("events", 12, lambda choices, device: {"log": 4}),
    "events.other-log": Kind("events", 8, lambda choices, device: {"log": choices.pick((0, 1, 2, 3, 5, 6, 255))}),
    "clear.oldest": Kind("clear", 40, _clear(lambda choices, n: _places(choices.between(1, n)) if n else None)),
    "clear.all": Kind("clear", 40, _clear(lambda choices, n: _places(n) if n else None)),
    "clear.everything": Kind("clear", 6, _clear(lambda choices, n: [], flags=1)),
    "clear.order": Kind("clear", 8, _clear(lambda choices, n: _places(n)[::-1] if n > 1 else None)),
    "clear.newer": Kind("clear", 8, _clear(lambda choices, n: [f"#{choices.between(1, n - 1)}"] if n > 1 else None)),
    "clear.twice": Kind("clear", 8, _clear(lambda choices, n: ["#0", "#0"] if n else None)),
    "clear.beyond": Kind("clear", 8, _clear(lambda choices, n: _places(n + choices.between(1, 9)))),
    "clear.unknown": Kind("clear", 8, _clear(lambda choices, n: [choices.pick((0, 0x7777, U16))])),
    "clear.nothing": Kind("clear", 4, _clear(lambda choices, n: [])),
    "clear.flags": Kind("clear", 4, _clear(lambda choices, n: _places(n) if n else None, flags=1)),
    "clear.other-log": Kind("clear", 3, _clear(lambda choices, n: choices.pick(([], [1])), log=1)),
    "clear.no-log": Kind("clear", 3, _clear(lambda choices, n: ["#0"], log=5)),
    "extents.all": Kind("extents", 6, lambda choices, device: {"count": 50, "start": 0}),
    "extents.page": Kind("extents", 20, _list_pages),
    "extents.past": Kind("extents", 8, _list_past),
    "config": Kind("config", 12, _config),
    "answer.all": Kind("answer", 70, _answer()(_accept)),
    "answer.some": Kind("answer", 25, _answer()(_accept_some)),
    "answer.parts": Kind("answer", 20, _answer()(_accept_parts)),
    "answer.halves": Kind("answer", 8, _answer()(_accept_halves)),
    "answer.none": Kind("answer", 20, _answer()(_refuse)),
    "answer.more": Kind("answer", 8, _answer(flags=1)(_accept_some)),
    "answer.more-none": Kind("answer", 4, _answer(flags=1)(_refuse)),
    "answer.backwards": Kind("answer", 10, _answer()(_backwards)),
    "answer.twice": Kind("answer", 8, _answer()(_twice)),
    "answer.across": Kind("answer", 8, _answer()(_accept_across)),
    "answer.spoiled": Kind("answer", 10, _answer()(_spoiled)),
    "answer.accepted": Kind("answer", 8, _answer()(_with_accepted)),
    "answer.later": Kind("answer", 8, _later_offer),
    "answer.unoffered": Kind("answer", 8, _unoffered),
    "answer.bad": Kind("answer", 10, _bad_ranges),
    "answer.wraps": Kind("answer", 4, _range_wraps),
    "give_back.whole": Kind("give_back", 30, _give_back(True)),
    "give_back.part": Kind("give_back", 25, _give_back(False)),
    "give_back.middle": Kind("give_back", 14, _give_middle),
    "give_back.across": Kind("give_back", 14, _give_across),
    "give_back.many": Kind("give_back", 4, _give_back(True, 85)),
    "give_back.spoiled": Kind("give_back", 10, _give_spoiled),
    "give_back.pending": Kind("give_back", 8, _give_pending),
    "give_back.free": Kind("give_back", 8, _give_free),
    "give_back.none": Kind("give_back", 4, lambda choices, device: {"flags": 0, "ranges": []}),
    "give_back.bad": Kind("give_back", 10, _bad_ranges),
    "give_back.wraps": Kind("give_back", 4, _range_wraps),
    "raw.payload": Kind("raw", 16, _raw_payload),
    "raw.opcode": Kind("raw", 5, _raw_opcode),
    "block": Kind("block", 16, _block_question),
    "reset": Kind("reset", 0, _reset),
    "deadly.qmp-wraps": Kind("add", 0, _wraps),
    "deadly.empty-answer": Kind("answer", 0, lambda choices, device: {"flags": 0, "ranges": []}),
}

_LEAN: Mapping[str, Mapping[str, int]] = {
    "mixed": {},
    "offers": {"add.one": 3, "add.chain": 3, "answer.all": 0, "answer.later": 4, "answer.unoffered": 3},
    "fill": {"add.many": 30, "add.one": 1, "answer.all": 3, "give_back.whole": 0, "give_back.many": 0, "clear.all": 3},
    "log": {"add.long": 4, "clear.all": 0, "clear.oldest": 1, "clear.beyond": 4, "clear.order": 3, "events.read": 3},
    "churn": {"answer.all": 4, "give_back.whole": 3, "give_back.part": 4, "give_back.across": 4, "add.chain": 2},
}
"""By mood, what a kind's weight is multiplied with; 0 leaves a third of it."""


def _weights(mood: str) -> dict[str, int]:
    lean = _LEAN[mood]
    return {
        name: row.weight * 3 if name not in lean else row.weight * lean[name] * 3 or row.weight
        for name, row in KINDS.items()
    }


# ---- making it short


def shrinking(
    operations: Sequence[Operation], tries: int = SHRINK_TRIES
) -> Generator[tuple[Operation, ...], bool, tuple[Operation, ...]]:
    """Shorter and simpler candidates, one after the other; send back whether a candidate still fails.

    Delta debugging (Zeller, Hildebrandt 2002) on the sequence, then on what each operation names. The return value
    (StopIteration) is the shortest that failed; `operations` itself is taken to fail and is not asked again.
    """
    best = tuple(operations)
    asked = 0
    seen: set[str] = {repr(best)}
    progress = True
    while progress and asked < tries:
        progress = False
        size = max(1, len(best) // 2)
        for candidates in (_without, _simpler):
            while size and asked < tries:
                smaller = False
                for candidate in candidates(best, size):
                    if repr(candidate) in seen:
                        continue
                    if asked >= tries:
                        break
                    asked += 1
                    seen.add(repr(candidate))
                    if (yield candidate):
                        best, smaller, progress = candidate, True, True
                        break
                if not smaller:
                    size = 0 if size == 1 or candidates is _simpler else size // 2
            size = 1
    return best


def _without(operations: tuple[Operation, ...], size: int) -> Iterator[tuple[Operation, ...]]:
    """Without `size` operations in a row, the earlier ones first: what fails is mostly at the end."""
    for at in range(0, len(operations), size):
        left = operations[:at] + operations[at + size :]
        if left:
            yield left


_LISTS = ("extents", "ranges", "handles")


def _simpler(operations: tuple[Operation, ...], size: int) -> Iterator[tuple[Operation, ...]]:
    """With one operation that names one thing less (or, of many, half as many)."""
    for at, operation in enumerate(operations):
        for name in _LISTS:
            named = operation.sent.get(name)
            if not named or len(named) < 2:
                continue
            half = len(named) // 2
            cuts = [named[:half], named[half:]] if half > 1 else []
            cuts += [named[:one] + named[one + 1 :] for one in range(min(len(named), 16))]
            for cut in cuts:
                changed = operation._replace(sent={**operation.sent, name: cut})
                yield (*operations[:at], changed, *operations[at + 1 :])
