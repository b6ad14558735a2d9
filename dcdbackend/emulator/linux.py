"""A simulated Linux host on an emulated device: `model.host` given a mailbox and a clock.

Of the answers that the rules permit it gives one, chosen by a seed. What it sends goes through the agent's recorded
commands, so that the history shows it as it shows a real host's. It has one region over the DC partition, bound, with
the DAX driver loaded; nobody uses what surfaces there. Policies are host U's: this host has none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..agent.commands import Commands, End
from ..agent.device import Device
from ..agent.host import Host
from ..agent.policy import Break, Policy
from ..errors import AnsweredWrongly, DcdError, Unserved
from ..extents import Extent
from ..model import host as kernel
from ..model.permitted import Command, mix
from ..wire import CapacityResponse, ClearEventRecords, GetEventRecords, GetExtentList

Value = dict[str, Any]

MOST_CAUSES = 4096
"""So much at most comes of one turn; a host that goes on after that has a fault, and is stuck."""
REGION = "region0"
_READ_LOG = GetEventRecords().to_bytes()


class LinuxHost(Host):
    """As `agent.host.Host`, with a kernel of `generation` in its place."""

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
    ) -> None:
        super().__init__(device, name, commands, note=note, clock=clock)
        self.generation = generation
        self._seed = seed
        self._decisions = 0
        regions = device.describe()["regions"]
        partition = kernel.partition_of(regions)
        memdev = kernel.Memdev(name, partition, device.mailbox.payload_size)
        self.kernel = kernel.Host(kernel.setup(generation, slack_ns=0), (memdev,))
        self._causes: list[kernel.Cause] = []
        if partition is not None:
            self._causes = [
                kernel.MakeRegion(REGION, name, partition.start, partition.length),
                kernel.BindRegion(REGION),
            ]

    @property
    def due(self) -> float | None:
        """When its timer fires, if one is armed."""
        deadline = self.kernel.memdev(self._name).deadline_ns
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
            deadline = self.kernel.memdev(self._name).deadline_ns
            if deadline is not None and now_ns >= deadline:
                self._causes.append(kernel.Tick(self._name, now_ns))
            if self._device.has_events():
                self._read_log()
            for _ in range(MOST_CAUSES):
                if not self._causes:
                    break
                self._happen(self._causes.pop(0))
            else:
                self._give_up(f"more than {MOST_CAUSES} causes of one turn")
        except DcdError as error:
            self._give_up(str(error))
            return
        if self._commands.announced is None:
            self._announce()

    def _happen(self, cause: kernel.Cause) -> None:
        """One cause: choose what the rules permit, and do it."""
        permitted = kernel.decide(self.kernel, cause)
        way, commands = kernel.choose(permitted, mix(self._seed, self._decisions))
        self._decisions += 1
        self.kernel = kernel.settle(self.kernel, cause, way, commands)
        for command in commands:
            if command.f == "events":
                self._read_log()
            elif command.f == "extents":
                self._read_page(command, getattr(cause, "region", REGION))
            else:
                self._command(command)

    def _read_log(self) -> None:
        end = self._commands.run(self._process, "events", _READ_LOG)
        records = end.value.get("records")
        if end.type != "ok" or records is None:
            raise AnsweredWrongly(f"0100h gave {_told(end)}")
        if records:
            events = tuple(kernel.event_of(record) for record in records)
            self._causes.append(kernel.Records(self._name, events, int(self._clock() * 1e9)))

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
        self._causes.append(kernel.Page(region, end.value["total"], end.value["generation"], extents))

    def _command(self, command: Command) -> None:
        if command.f == "clear":
            payload = ClearEventRecords(handles=command.handles).to_bytes()
        else:
            payload = CapacityResponse(ranges=command.ranges, flags=command.flags).to_bytes()
        self._commands.run(self._process, command.f, payload)


def standing(host: Host) -> list[Value]:
    """The regions that a simulated kernel has, as a history's header shows them; none of host U."""
    if not isinstance(host, LinuxHost):
        return []
    return [
        {"device": region.memdev, "region": region.name, "start": region.start, "length": region.length}
        for region in host.kernel.regions
    ]


def _told(end: End) -> str:
    return f"return code {end.value['rc']:02x}h" if "rc" in end.value else str(end.value)[:200]
