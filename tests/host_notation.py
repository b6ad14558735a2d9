"""A notation for what happens to a simulated Linux host, and for what it answers: one line reads as one story.

    world = play("v11", "region 0+1G; add 0+4M/a 8M+4M/a")
    world.says  ->  "answer 0+4M 8M+4M"

Extents are `START+LENGTH`, `/a` its tag (one hex digit, all sixteen bytes of it), `#2` its sequence. A chain's records
have More on all but the last; `...` at the end leaves it open. Sizes as in `units`. Options come after the generation:
`sharable`, `lazy` (timers may be late), `-Q6` (that departure off), `no-driver`, `no-tag-no-service` (and every other
what-if), `pmd=512M`. Generation C has a second host, `@mem0.1`; `lab devdax` makes its region of 1G and binds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dcdbackend.extents import NULL_TAG, Extent
from dcdbackend.linux_rules import CLAUSES
from dcdbackend.model import host as model
from dcdbackend.model.generation import SECOND, WHAT_IFS, setup
from dcdbackend.model.host import Event, Host, Memdev, Partition
from dcdbackend.model.permitted import MORE, Command, Decision, Dropped, Permitted
from dcdbackend.model.quirks import applicable
from dcdbackend.units import format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NO_FAULTS: frozenset[str] = frozenset()


class Told(NamedTuple):
    """Something that happened to the host: the cause, when, the host before, what came of it."""

    cause: model.Cause
    now_ns: int
    before: Host
    way: Decision
    commands: tuple[Command, ...]


class World(NamedTuple):
    """A host, the device's list as it would be, the time, what the last step was and gave; `told`: every step."""

    host: Host
    held: tuple[Extent, ...] = ()
    now_ns: int = 0
    handle: int = 1
    faults: frozenset[str] = NO_FAULTS
    before: Host | None = None
    permitted: Permitted = ()
    way: Decision | None = None
    commands: tuple[Command, ...] = ()
    told: tuple[Told, ...] = ()

    @property
    def says(self) -> str:
        """The last answer: its commands but for 0101h, and the error."""
        parts = [spell(command) for command in self.commands if command.f not in ("clear", "events")]
        error = self.way.error if self.way else ""
        return "; ".join([*parts, *([f"! {error[1:]}"] if error else [])])

    @property
    def generation(self) -> str:
        """The name of the host's generation."""
        return self.host.setup.generation.name

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """What gates refused."""
        return self.way.dropped if self.way else ()

    @property
    def judged(self) -> tuple[str, ...]:
        """The clauses of the last decision, those of what it dropped included."""
        return self.way.judged if self.way else ()


def size(number: int) -> str:
    """A size in the notation."""
    return format_size(number)


def extent(text: str) -> Extent:
    """The extent that `0+4M/a#1` means."""
    text, _, sequence = text.partition("#")
    text, _, letter = text.partition("/")
    start, _, length = text.partition("+")
    tag = bytes.fromhex(letter * 32) if letter else NULL_TAG
    return Extent(parse_size(start), parse_size(length), tag, int(sequence or 0))


def spell(command: Command) -> str:
    """A command in the notation."""
    if command.f == "extents":
        return f"read {command.start}"
    ranges = [f"{size(start)}+{size(length)}" for start, length in command.ranges]
    more = ["more"] if command.flags & MORE else []
    return " ".join([{"give_back": "give"}.get(command.f, command.f), *(ranges or ["none"]), *more])


def table(text: str, short: Mapping[str, str]) -> list[list[str]]:
    """The rows of a table of cells between bars: `-` is nothing, an indented line goes on with the row before it."""
    rows = []
    for line in text.replace("|\n    ", "| ").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        for name, meaning in short.items():
            cells = [cell.replace(name, meaning) for cell in cells]
        rows.append(["" if cell == "-" else cell for cell in cells])
    return rows


def told(text: str, world: World) -> list[Command]:
    """Commands as they were seen; `clear` without handles is that of the last page."""
    cleared = next((command.handles for command in world.commands if command.f == "clear"), ())
    found = []
    for part in [part for part in text.split("; ") if part]:
        verb, *words = part.split()
        ranges = tuple([(extent(word).start, extent(word).length) for word in words if "+" in word])
        handles = tuple([int(word) for word in words if word.isdigit()]) or cleared
        name = {"give": "give_back"}.get(verb, verb)
        flags = MORE if words[-1:] == ["more"] else 0
        memdev = next((command.memdev for command in world.commands), "mem0")
        found.append(Command(name, memdev, ranges, flags, handles if name == "clear" else ()))
    return found


class Case(NamedTuple):
    """A clause, both sides of it: after `given`, `hit` makes the host say `says` by the clause; `miss` does not."""

    clause: str
    options: str
    given: str
    hit: str
    says: str
    miss: str
    miss_says: str


def check(case: Case) -> None:
    """Both sides of a case; and no clause of another generation decides anything."""
    start = play(case.options, case.given)
    hit = play(case.options, case.hit, start)
    assert (hit.says, case.clause in hit.judged) == (case.says, True), hit.judged
    miss = play(case.options, case.miss, start)
    assert (miss.says, case.clause in miss.judged) == (case.miss_says, False), miss.judged
    for world in (hit, miss):
        strangers = {clause for clause in world.judged if world.generation not in CLAUSES[clause].generations}
        assert not strangers, "a clause of another generation decided"


def begin(options: str) -> World:
    """A fresh world: `v11 sharable -Q6` and so on. One device, mem0, its partition 4G from 0 on; and mem1."""
    name, *words = options.split()
    off = {word[1:] for word in words if word.startswith("-")}
    pmd = next((parse_size(word[4:]) for word in words if word.startswith("pmd=")), 2 << 20)
    made = setup(
        name,
        quirks=applicable(name) - off,
        what_if=[word for word in words if word in WHAT_IFS],
        pmd_bytes=pmd,
        slack_ns=2_100_000_000 if "lazy" in words else 0,
    )
    partition = Partition(0, 4 << 30, "sharable" in words)
    payload = 8 + 24 * 4 if "small" in words else 2048
    memdevs = tuple([Memdev(memdev, partition, payload) for memdev in ("mem0", "mem0.1" if name == "C" else "mem1")])
    host = Host(made, memdevs)
    return World(host._replace(drivers=frozenset()) if "no-driver" in words else host)


def play(options: str, script: str, world: World | None = None) -> World:
    """What becomes of a world after every step of the script."""
    world = world or begin(options)
    for step in script.split(";"):
        if step.strip():
            world = do(world, step.strip())
    return world


def do(world: World, step: str) -> World:
    """One step."""
    verb, *words = step.split()
    memdev = "mem0"
    if words and words[-1].startswith("@"):
        memdev = words.pop()[1:]
    if verb in ("add", "release", "forced", "kind3", "kind9", "foreign"):
        return _records(world, verb, words, memdev)
    if verb == "held":
        return world._replace(held=tuple([extent(word) for word in words]))
    if verb == "fault":
        return world._replace(faults=frozenset(words))
    if verb == "wait":
        return world._replace(now_ns=world.now_ns + _ns(words[0]))
    if verb == "tick":
        world = world._replace(now_ns=world.now_ns + _ns(words[0]))
        return cause(world, model.Tick(memdev, world.now_ns))
    if verb == "region":
        name = f"region{len(world.host.regions)}"
        for one in (f"make {name} {words[0]} @{memdev}", f"bind {name}"):
            world = do(world, one)
        return scan(world)
    if verb == "lab":
        name = words[1] if len(words) > 1 else "region0"
        for one in (f"make {name} 0+1G dc @{memdev}", f"program {name}", f"bind {name} {words[0]}"):
            world = do(world, one)
        return scan(world)
    if verb == "pages":
        return scan(world)
    return cause(world, _cause(verb, words, memdev, world))


def _ns(text: str) -> int:
    return round(float(text) * SECOND)


def _records(world: World, verb: str, words: list[str], memdev: str) -> World:
    is_open = words[-1:] == ["..."]
    extents = [extent(word) for word in words[: -1 if is_open else None]]
    kind = {"add": 0, "foreign": 0, "release": 1, "forced": 2, "kind3": 3, "kind9": 9}[verb]
    events = tuple(
        [
            Event(
                kind,
                one.start,
                one.length,
                one.tag,
                one.sequence,
                is_open or at < len(extents) - 1,
                world.handle + at,
                verb != "foreign",
            )
            for at, one in enumerate(extents)
        ]
    )
    records = model.Records(memdev, events, world.now_ns, world.faults)
    return cause(world._replace(handle=world.handle + len(events)), records)


def _cause(verb: str, words: list[str], memdev: str, world: World) -> model.Cause:
    if verb == "make":
        place = extent(words[1])
        mode = next((word for word in words[2:] if word not in ("static", "ways")), "")
        ways = ("mem0", "mem1") if "ways" in words else ()
        dynamic = "static" not in words and mode in ("", "dc")
        return model.MakeRegion(words[0], memdev, place.start, place.length, 1 << 40, dynamic, mode, ways)
    if verb == "page":
        return model.Page(
            words[0], int(words[1]), int(words[2]), tuple([extent(word) for word in words[3:]]), world.faults
        )
    if verb == "claim":
        text = words[1]
        if len(text) == 1 and text in "abcdef":
            text = f"{text * 8}-{text * 4}-{text * 4}-{text * 4}-{text * 12}"
        return model.Claim(words[0], text)
    if verb == "choose":
        return model.Choose(words[0], tuple([parse_size(word) for word in words[1:]]))
    if verb == "size":
        return model.Resize(words[0], parse_size(words[1]))
    return _SIMPLE[verb](*words)


_SIMPLE: dict[str, Callable[..., model.Cause]] = {
    "bind": model.BindRegion,
    "unbind": model.UnbindRegion,
    "destroy": model.DestroyRegion,
    "load": model.LoadDriver,
    "unload": model.UnloadDriver,
    "create": model.Create,
    "drive": model.Bind,
    "undrive": model.Unbind,
    "delete": model.Delete,
    "program": model.Program,
    "policy": model.SetPolicy,
    "hotplug": model.Hotplug,
    "hold": model.Hold,
    "letgo": model.LetGo,
    "reset": model.Reset,
}


def cause(world: World, what: model.Cause, seed: int = 0) -> World:
    """The world after a cause, one of the ways that are permitted having been taken."""
    permitted = model.decide(world.host, what)
    way, commands = model.choose(permitted, seed)
    after = model.settle(world.host, what, way, commands)
    return World(
        after,
        _listed(world, commands),
        world.now_ns,
        world.handle,
        NO_FAULTS,
        world.host,
        permitted,
        way,
        commands,
        (*world.told, Told(what, world.now_ns, world.host, way, commands)),
    )


def _listed(world: World, commands: tuple[Command, ...]) -> tuple[Extent, ...]:
    """The device's list after these commands: an answer over what is held is refused whole."""
    held = world.held
    for command in commands:
        if command.f == "answer" and not _meets(held, command):
            held = (*held, *[Extent(start, length) for start, length in command.ranges])
        elif command.f == "give_back":
            held = tuple([one for one in held if (one.start, one.length) not in command.ranges])
    return held


def _meets(held: tuple[Extent, ...], command: Command) -> bool:
    return any([one.start < start + length and start < one.end for one in held for start, length in command.ranges])


def scan(world: World) -> World:
    """The pages that a region asks for, out of the device's list."""
    for _ in range(100):
        region = next((one for one in world.host.regions if one.scan is not None), None)
        if region is None or region.scan is None:
            return world
        start = len(region.scan.found)
        listed = world.held[start : start + world.host.memdev(region.memdev).most_listed]
        world = cause(world, model.Page(region.name, len(world.held), 0, listed, world.faults))
    raise AssertionError("a scan that does not end")
