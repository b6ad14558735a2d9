"""A simulated Linux host on an emulated device: `model.host` given a mailbox and a clock.

Of the answers that the rules permit it gives one, chosen by a seed. What it sends goes through the agent's recorded
commands, so that the history shows it as it shows a real host's. It has one region over the DC partition, bound, with
the DAX driver loaded; nobody uses what surfaces there. Policies are host U's: this host has none.

Generation C has its region bound to the dax driver, which takes what comes; a scenario that wants another driver makes
a region of its own. The hosts of one device are one `World`, so that a tag can be unique over all of them; what-if
switches are the model's (`model.generation`). `write` is what a user of the machine writes into the files of sysfs.

With a `voice` it stands for a kernel under test: it begins with no region, somebody makes regions and uses DAX devices
(`happens`), and what it did is told by its log and trace alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..agent.commands import Commands, End
from ..agent.device import Device
from ..agent.host import Host
from ..agent.policy import Break, Policy
from ..checker.host import cause_of, name_of
from ..errors import AnsweredWrongly, DcdError, Unserved
from ..extents import Extent
from ..model import host as model
from ..model import observe
from ..model.permitted import Command, Decision, Permitted, mix
from ..wire import CapacityResponse, ClearEventRecords, GetEventRecords, GetExtentList
from .voice import Voice

Value = dict[str, Any]

MOST_CAUSES = 4096
"""So much at most comes of one turn; a host that goes on after that has a fault, and is stuck."""
REGION = "region0"
_READ_LOG = GetEventRecords().to_bytes()


DRIVER = "dax"
"""The region driver that a host of generation C begins with."""


class World:
    """The kernels that know of each other, as one state of the model: by default one alone.

    `ways`: the devices that one region is over (what-if interleave). `parts`: each kernel's part of a device.
    """

    def __init__(self, generation: str, what_if: Iterable[str] = (), ways: Iterable[str] = ()) -> None:
        self.state = model.Host(model.setup(generation, slack_ns=0, what_if=what_if), ())
        self.ways = tuple(ways)
        self.parts: dict[str, LinuxHost] = {}


class LinuxHost(Host):
    """As `agent.host.Host`, with a kernel of `generation` in its place. `world`: what it shares with other hosts."""

    def __init__(
        self,
        device: Device,
        name: str,
        commands: Commands,
        *,
        note: Callable[[str], None],
        generation: str,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
        voice: Voice | None = None,
        sharable: Sequence[int] = (),
        world: World | None = None,
        host_id: int = 0,
    ) -> None:
        super().__init__(device, name, commands, note=note, clock=clock)
        self.voice = voice
        self.choose: Callable[[Permitted, model.Cause, int], tuple[Decision, tuple[Command, ...]]] = _choose
        self.generation = generation
        self.device = name
        self._seed = seed
        self._decisions = 0
        regions = device.describe()["regions"]
        partition = model.partition_of(regions, sharable=sharable)
        self.world = world or World(generation)
        self.host_id = host_id
        self.memdev = name_of(name, host_id)
        self.kernel = self.kernel._replace(
            memdevs=(*self.kernel.memdevs, model.Memdev(self.memdev, partition, device.mailbox.payload_size))
        )
        self.world.parts[self.memdev] = self
        ways = self.world.ways
        self._causes: list[model.Cause] = []
        if partition is not None and voice is None and name in (ways or (name,))[:1]:
            region = f"region{host_id}"
            self._causes = [
                model.MakeRegion(region, self.memdev, partition.start, partition.length, ways=ways),
                model.BindRegion(region),
            ]
            if self._by_policy:
                self._causes[1:] = [model.Program(region), model.BindRegion(region, DRIVER)]

    @property
    def kernel(self) -> model.Host:
        """The state that it is in."""
        return self.world.state

    @kernel.setter
    def kernel(self, state: model.Host) -> None:
        self.world.state = state

    @property
    def _by_policy(self) -> bool:
        return self.kernel.setup.generation.kind == "policy"

    @property
    def due(self) -> float | None:
        """When its timer fires, if one is armed."""
        deadline = self.kernel.memdev(self.memdev).deadline_ns
        return None if deadline is None else deadline / 1e9

    def follow(self, add: Policy, release: Policy, broken: tuple[str, Break] | None) -> None:
        """Errors: Unserved for anything but what it does anyway."""
        if (add.kind, release.kind, broken) != ("accept", "release", None):
            asked = broken[0] if broken is not None else add.kind if add.kind != "accept" else release.kind
            raise Unserved(f"host {self.generation} is a kernel, which cannot be told to {asked!r}; host U can")

    def turn(self) -> None:
        """Do everything that there is to do now. Errors: none; what cannot be done is noted, and it is stuck."""
        if self.stuck is not None:
            return
        try:
            now_ns = int(self._clock() * 1e9)
            deadline = self.kernel.memdev(self.memdev).deadline_ns
            if deadline is not None and now_ns >= deadline:
                self._causes.append(model.Tick(self.memdev, now_ns))
            if self._device.has_events():
                self._read_log()
            self._all()
        except DcdError as error:
            self._give_up(str(error))
            return
        if self._commands.announced is None:
            self._announce()

    def happens(self, cause: model.Cause) -> str:
        """Something is done to it, and all that follows from it; the error ("-EBUSY"), or "". Errors: AskedWrongly.

        What it has to read already comes first: an interrupt does not wait for a user.
        """
        self.turn()
        error = self._happen(cause).error
        try:
            self._all()
        except DcdError as fault:
            self._give_up(str(fault))
        return error

    def write(self, f: str, value: Value) -> str:
        """A user writes a file: claim, use or unuse, as the history has them; the error, or "". Errors: AskedWrongly.

        What has no meaning for its generation (a mapping in A and B) is taken as it is.
        """
        self.turn()
        cause = cause_of(self.memdev, f, value, self.kernel.setup.generation.kind)
        if cause is None:
            return ""
        self._read_log()  # which it had begun: it runs one command at a time, and the cause may bring others
        self._all()
        error = self._happen(cause).error
        self._all()
        self.turn()
        return error

    def sight(self, region: str) -> Value:
        """What sysfs shows of a region, as the history's `sysfs` has it. Errors: AskedWrongly."""
        self.turn()
        self.kernel.region(region)
        seen = observe.look(self.kernel, region)
        devices = [
            {key: value for key, value in one._asdict().items() if key != "hotplug" or value is not None}
            | {"mappings": [list(piece) for piece in one.mappings or ()]}
            for one in seen.devices
        ]
        told: Value = {
            "region": region,
            "mode": seen.mode,
            "extents": [one._asdict() for one in seen.extents or ()],
            "devices": devices,
            "all_devices": list(seen.all_devices or ()),
        }
        return told if seen.available is None else {**told, "available": seen.available}

    def _all(self) -> None:
        """Every cause that waits."""
        for _ in range(MOST_CAUSES):
            if not self._causes:
                return
            self._happen(self._causes.pop(0))
        self._give_up(f"more than {MOST_CAUSES} causes of one turn")

    def _happen(self, cause: model.Cause) -> Decision:
        """One cause: choose what the rules permit, and do it."""
        permitted = model.decide(self.kernel, cause)
        way, commands = self.choose(permitted, cause, mix(self._seed, self._decisions))
        self._decisions += 1
        self.kernel = model.settle(self.kernel, cause, way, commands)
        if self.voice is not None:
            self.voice.did(cause, way, commands, int(self._clock() * 1e9))
        for command in commands:
            if command.f == "events":
                self._read_log()
            elif command.f == "extents":
                self._read_page(command, getattr(cause, "region", REGION))
            else:
                self.world.parts.get(command.memdev, self).send(command, beside=command.memdev != self.memdev)
        return way

    def send(self, command: Command, *, beside: bool) -> None:
        """One command to its own device; `beside`: another part of the host decided it."""
        if beside:
            self._read_log()  # which it had begun
        self._command(command)

    def _read_log(self) -> None:
        end = self._commands.run(self._process, "events", _READ_LOG)
        records = end.value.get("records")
        if end.type != "ok" or records is None:
            raise AnsweredWrongly(f"0100h gave {_told(end)}")
        if records and self.voice is not None:
            self.voice.regions = {one["handle"]: one["region"] for one in records if "region" in one}
        if records:
            events = tuple(model.event_of(record) for record in records)
            self._causes.append(model.Records(self.memdev, events, int(self._clock() * 1e9)))

    def _read_page(self, command: Command, region: str) -> None:
        request = GetExtentList(count=command.asked, start=command.start).to_bytes()
        end = self._commands.run(self._process, "extents", request)
        if end.type != "ok" or "extents" not in end.value:
            raise AnsweredWrongly(f"4801h gave {_told(end)}")
        extents = tuple(
            Extent(one["dpa"], one["length"], bytes.fromhex(one["tag"]), one["sequence"])
            for one in end.value["extents"]
            if one["length"]
        )
        self._causes.append(model.Page(region, end.value["total"], end.value["generation"], extents))

    def _command(self, command: Command) -> None:
        if command.f == "clear":
            payload = ClearEventRecords(handles=command.handles).to_bytes()
        else:
            payload = CapacityResponse(ranges=command.ranges, flags=command.flags).to_bytes()
        self._commands.run(self._process, command.f, payload)


def _choose(permitted: Permitted, cause: model.Cause, seed: int) -> tuple[Decision, tuple[Command, ...]]:
    """What it does of what it may do."""
    return model.choose(permitted, seed)


def standing(host: Host) -> list[Value]:
    """The regions that a simulated kernel has, as a history's header shows them; none of host U."""
    if not isinstance(host, LinuxHost):
        return []
    found = []
    for region in host.kernel.regions:
        if region.memdev != host.memdev:
            continue
        told: Value = {"device": host.device, "region": region.name, "start": region.start, "length": region.length}
        told |= {"driver": region.driver} if region.driver else {}
        told |= {"ways": list(region.ways)} if region.ways else {}
        found.append(told | ({"host_id": host.host_id} if host.host_id else {}))
    return found


def _told(end: End) -> str:
    return f"return code {end.value['rc']:02x}h" if "rc" in end.value else str(end.value)[:200]
