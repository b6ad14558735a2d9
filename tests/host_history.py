"""Histories of simulated Linux hosts, written from the notation of `host_notation`: what the checker is to judge.

    head, ops = history("v11", "region 0+1G; add 0+4M/a")                          # what the model chooses
    head, ops = history("v11", "region 0+1G; add 0+4M/a", sent="clear; events")    # a wrong host, in the last step

The device is `BLIND`, a model that judges nothing: these histories offer what no right device would, because a host has
to keep its rules all the same. Histories with both are in test_checker_host.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from host_notation import Told, World, begin, play, told

from dcdbackend.checker import Verdict, check
from dcdbackend.history import Header, Op
from dcdbackend.model import device as reference
from dcdbackend.model import host as model
from dcdbackend.model import observe
from dcdbackend.model.permitted import Command
from dcdbackend.model.state import Completed, Next, State

Value = dict[str, Any]
G = 1 << 30


def _nothing(state: State, op: Completed) -> Next:
    return Next(state)


BLIND: Any = SimpleNamespace(**{name: getattr(reference, name) for name in reference.__all__})
BLIND.step = _nothing
BLIND.follow = lambda state, op: state
BLIND.possible = lambda state, op: ()
BLIND.deadly = lambda state, f, sent: None


def header(options: str, generation: str | None = None) -> Header:
    """The header of the world that `host_notation.begin` makes."""
    words = options.split()
    host = begin(options).host
    setup = host.setup
    region = {"index": 0, "base": 0, "length": 4 * G, "block_size": 1 << 20, "dsmad_handle": 0}
    region["sharable"] = "sharable" in words
    devices: tuple[Value, ...] = tuple(
        [
            {"name": memdev.name, "serial": at, "regions": [region], "payload_size": memdev.payload_bytes}
            for at, memdev in enumerate(host.memdevs)
            if "." not in memdev.name
        ]
    )
    if len(devices) < len(host.memdevs):
        devices[0]["hosts"] = [0, 1]
    said: Value = {
        "generation": generation or setup.generation.name,
        "what_if": sorted(setup.what_if),
        "pmd_bytes": setup.pmd_bytes,
        "slack_ns": setup.slack_ns,
    }
    if generation is None:
        said["quirks"] = sorted(setup.quirks)
    return Header(backend="emulator", qemu=None, host=said, devices=devices, seed=0, scenario="hosts")


class Lines:
    """Lines of a history being made; a millisecond passes with each."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.now_ns = 0

    def begin(self, process: str, f: str, value: Value) -> int:
        """An operation's first line; its number."""
        n = len(self.ops) + 1
        self.now_ns += 1_000
        self.ops.append(Op(n, n, process, "invoke", f, self.now_ns, value))
        return n

    def end(self, number: int, kind: str, value: Value) -> None:
        """Its last line."""
        first = self.ops[number - 1]
        self.now_ns += 1_000
        self.ops.append(Op(len(self.ops) + 1, number, first.process, kind, first.f, self.now_ns, value))

    def both(self, process: str, f: str, sent: Value, kind: str = "ok", received: Value | None = None) -> None:
        """Both lines."""
        self.end(self.begin(process, f, sent), kind, {} if received is None else received)

    def at(self, now_ns: int) -> None:
        """It is then, if it is not later already."""
        self.now_ns = max(self.now_ns, now_ns)


def record(event: model.Event) -> Value:
    """A record as a history holds it."""
    if not event.known:
        return {"raw": "00", "error": "another UUID", "handle": event.handle}
    return {
        "handle": event.handle, "type": event.type, "more": event.more, "validity": 0, "host_id": 0, "region": 0,
        "dpa": event.start, "length": event.length, "tag": event.tag.hex(), "sequence": event.sequence,
        "available_extents": 0, "available_tags": 0,
    }  # fmt: skip


def of_device(memdev: str) -> Value:
    """The device, and the host where it is not the first: `mem0.1`."""
    name, _, host_id = memdev.partition(".")
    return {"device": name, "host_id": int(host_id)} if host_id else {"device": name}


def command(lines: Lines, one: Command) -> None:
    """A command of the host; 4801h is written with the page that it brings."""
    process, device = f"host.{one.memdev}", of_device(one.memdev)
    if one.f in ("answer", "give_back"):
        ranges = [list(pair) for pair in one.ranges]
        lines.both(process, one.f, {**device, "flags": one.flags, "ranges": ranges}, "ok", {"rc": 0})
    elif one.f == "clear":
        sent = {**device, "log": 4, "flags": 0, "handles": list(one.handles)}
        lines.both(process, "clear", sent, "ok", {"rc": 0})
    elif one.f == "events":
        reply = {"rc": 0, "flags": 0, "overflow_count": 0, "records": []}
        lines.both(process, "events", {**device, "log": 4}, "ok", reply)


def _memdev(step: Told) -> str:
    cause: Any = step.cause
    if hasattr(cause, "memdev"):
        return str(cause.memdev)
    name = getattr(cause, "region", None)
    if name is None and hasattr(cause, "device"):
        name = next((one.region for one in step.before.devices if one.name == cause.device), None)
    return next((one.memdev for one in step.before.regions if one.name == name), "mem0")


def written(cause: model.Cause) -> tuple[str, Value] | None:
    """The write that a cause is, as f and value."""
    found: dict[type, Any] = {
        model.MakeRegion: lambda c: (
            "use",
            {"what": "region", "region": c.region, "start": c.start, "length": c.length, "hpa": c.hpa,
             "dynamic": c.dynamic, **({"mode": c.mode} if c.mode else {}),
             **({"ways": list(c.ways)} if c.ways else {})},
        ),
        model.BindRegion: lambda c: (
            "use", {"what": "bind", "region": c.region, **({"driver": c.driver} if c.driver else {})}
        ),
        model.Program: lambda c: ("use", {"what": "decoders", "region": c.region}),
        model.SetPolicy: lambda c: ("claim", {"file": "policy", "region": c.region, "name": c.name, "text": c.text}),
        model.Hotplug: lambda c: ("claim", {"file": "hotplug", "dax": c.device, "text": c.text}),
        model.Hold: lambda c: ("use", {"what": "map", "dax": c.device}),
        model.LetGo: lambda c: ("unuse", {"what": "map", "dax": c.device}),
        model.Choose: lambda c: (
            "claim", {"file": "extents", "dax": c.device, "text": " ".join([hex(offset) for offset in c.offsets])}
        ),
        model.UnbindRegion: lambda c: ("unuse", {"what": "bind", "region": c.region}),
        model.DestroyRegion: lambda c: ("unuse", {"what": "region", "region": c.region}),
        model.LoadDriver: lambda c: ("use", {"what": "driver"}),
        model.UnloadDriver: lambda c: ("unuse", {"what": "driver"}),
        model.Create: lambda c: ("claim", {"file": "create", "region": c.region, "text": "1"}),
        model.Claim: lambda c: ("claim", {"file": "uuid", "dax": c.device, "text": c.text}),
        model.Resize: lambda c: ("claim", {"file": "size", "dax": c.device, "text": str(c.size)}),
        model.Bind: lambda c: ("use", {"what": "dax", "dax": c.device, "driver": c.driver}),
        model.Unbind: lambda c: ("unuse", {"what": "dax", "dax": c.device}),
        model.Delete: lambda c: ("claim", {"file": "delete", "region": "region0", "text": c.device}),
    }  # fmt: skip
    made = found.get(type(cause))
    return None if made is None else made(cause)


def write(lines: Lines, step: Told, commands: tuple[Command, ...], error: str | None = None) -> None:
    """One step: what happened, and what the host sent. `error`: what a write gives in place of what is due."""
    cause, memdev = step.cause, _memdev(step)
    lines.at(step.now_ns)
    if isinstance(cause, model.Records):
        if cause.faults:
            lines.both(f"user.{memdev}", "use", {"device": memdev, "what": "fault", "faults": sorted(cause.faults)})
        reply = {"rc": 0, "flags": 0, "overflow_count": 0, "records": [record(one) for one in cause.events]}
        lines.both(f"host.{memdev}", "events", {**of_device(memdev), "log": 4}, "ok", reply)
    elif isinstance(cause, model.Page):
        region = step.before.region(cause.region)
        start = len(region.scan.found) if region.scan else 0
        listed = [
            {"dpa": one.start, "length": one.length, "tag": one.tag.hex(), "sequence": one.sequence}
            for one in cause.extents
        ]
        if cause.faults:
            lines.both(f"user.{memdev}", "use", {"device": memdev, "what": "fault", "faults": sorted(cause.faults)})
        sent = {**of_device(memdev), "count": step.before.memdev(memdev).most_listed, "start": start}
        page = {"rc": 0, "total": cause.total, "generation": cause.generation, "extents": listed}
        lines.both(f"host.{memdev}", "extents", sent, "ok", page)
    elif isinstance(cause, model.Reset):
        lines.both("device", "reset", {"device": memdev, "reason": "reset"})
    told_ = written(cause)
    if told_ is None:
        for one in commands:
            command(lines, one)
        return
    f, value = told_
    gives = step.way.error if error is None else error
    number = lines.begin(f"user.{memdev}", f, {**of_device(memdev), **value})
    for one in commands:  # inside: the kernel gives back before the write returns
        command(lines, one)
    lines.end(number, "fail" if gives else "ok", {"error": gives} if gives else {})


def sight(lines: Lines, host: model.Host, region: str, change: Value | None = None) -> None:
    """What sysfs shows of a region; `change` replaces parts of it."""
    seen = observe.look(host, region)
    value: Value = {
        "region": region,
        "mode": seen.mode,
        "available": seen.available,
        "extents": [one._asdict() for one in seen.extents or ()],
        "devices": [
            {**one._asdict(), "mappings": [list(piece) for piece in one.mappings or ()]} for one in seen.devices
        ],
        "all_devices": list(seen.all_devices or ()),
    }
    value.update(change or {})
    memdev = host.region(region).memdev
    value = {key: told for key, told in value.items() if told is not None}
    lines.both("witness", "sysfs", {"device": memdev.partition(".")[0], "region": region}, "ok", value)


def history(
    options: str,
    script: str,
    *,
    sent: str | None = None,
    error: str | None = None,
    look: bool = True,
    change: Value | None = None,
    generation: str | None = None,
    later_ns: int = 0,
) -> tuple[Header, list[Op]]:
    """The history of a script. `sent`, `error`: what the host sends, what the write gives, in the last step instead.

    `look`: at the end sysfs is looked at, as it truly is but for `change`. `generation`: as which it is to be judged.
    `later_ns`: so long nothing happens before the end.
    """
    lines = Lines()
    world = play(options, script)
    if "no-driver" in options.split():
        lines.both("user.mem0", "unuse", {"device": "mem0", "what": "driver"})
    for at, step in enumerate(world.told):
        last = at == len(world.told) - 1
        commands = tuple(told(sent, world)) if sent is not None and last else step.commands
        write(lines, step, commands, error if last else None)
    lines.at(max(world.now_ns, lines.now_ns) + later_ns)
    lines.both("witness", "block", {"device": "mem0", "region": 0, "offset": 0}, "ok", {"state": "free"})
    if look and sent is None and error is None:
        for region in world.host.regions:
            if region.dax_region or region.mode:
                sight(lines, world.host, region.name, change)
    return header(options, generation), lines.ops


def judged(options: str, script: str, **more: Any) -> Verdict:
    """The verdict on the host alone."""
    head, ops = history(options, script, **more)
    return check(ops, head, device=BLIND)


def convicted(verdict: Verdict) -> set[str]:
    """The clauses that the host broke."""
    return {finding.clause for finding in verdict.failed if finding.subject == "host"}


def world_of(options: str, script: str) -> World:
    """The world at the end of a script."""
    return play(options, script)
