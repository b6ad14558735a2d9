"""A simulated kernel in the place of one under test: `model.host` on an emulated device, asked as `bench.Kernel` is.

It has the same files with the same refusals, since both come from the model; what it shows of a region is
`model.observe.look`. It says nothing of any real kernel: it is there so that scenarios, inference and judge are run
without one, and so that a kernel that does wrong can be had at will (`LinuxHost.choose`).

Time is the machine's: who waits for something that only a timer brings moves its clock ahead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from ..bench import Value
from ..emulator.linux import LinuxHost
from ..emulator.machine import Machine
from ..errors import AskedWrongly, Unserved
from ..model import host as kernel
from ..model import observe

WINDOW = 0x4_9000_0000
WINDOW_STEP = 0x10_0000_0000
"""Where the first device's region lies in physical memory, and how far the next device's window is."""
_PAGE = 4096
_TURN_S = 0.005


class SimulatedKernel:
    """See `bench.Kernel`. `machine`: one that is under test."""

    simulated = True
    sends_raw = False

    def __init__(self, machine: Machine) -> None:
        self.name = machine.host_name
        self._machine = machine
        self._used: set[str] = set()
        self._kmem: set[str] = set()
        self._online: set[str] = set()

    @property
    def hosts(self) -> dict[str, LinuxHost]:
        """The kernel's part of each memory device, by the device's name."""
        found = {}
        for name, watched in self._machine.control.watched.items():
            assert isinstance(watched.host, LinuxHost)
            found[name] = watched.host
        return found

    async def survey(self) -> Value:
        row = next(iter(self.hosts.values())).kernel.setup.generation
        return {
            "generation": {"found": row.name, "evidence": ["simulated"]},
            "mode": row.mode,
            "memdevs": [],
            "roots": [],
            "missing": [],
            "kernel": f"simulated {row.name}",
            "error": "",
        }

    async def load(self, names: Sequence[str]) -> Value:
        loaded = [name for name in names if name == kernel.DAX_DRIVER]
        for host in self.hosts.values() if loaded else ():
            host.happens(kernel.LoadDriver())
        return {"loaded": loaded, "builtin": [], "absent": [], "failed": {}, "error": ""}

    async def unload(self, names: Sequence[str]) -> Value:
        if kernel.DAX_DRIVER in names:
            for host in self.hosts.values():
                host.happens(kernel.UnloadDriver())
        return {"unloaded": list(names), "builtin": [], "failed": {}, "error": ""}

    async def revive(self, device: str) -> Value:
        return {"error": ""}

    async def make_region(self, device: str, size: int, mode: str | None = None) -> Value:
        host = self.hosts[device]
        memdev = host.kernel.memdev(device)
        if memdev.partition is None:
            return {"error": "-ENXIO"}
        mine = [region for region in host.kernel.regions if region.memdev == device]
        start = max([region.end for region in mine], default=memdev.partition.start)
        taken = {region.name for one in self.hosts.values() for region in one.kernel.regions}
        name = next(f"region{number}" for number in range(1 << 16) if f"region{number}" not in taken)
        hpa = WINDOW + WINDOW_STEP * list(self.hosts).index(device) + start - memdev.partition.start
        error = host.happens(kernel.MakeRegion(name, device, start, size, hpa))
        error = error or host.happens(kernel.BindRegion(name))
        return {"region": name, "start": start, "length": size, "hpa": hpa, "error": error}

    async def destroy_region(self, region: str) -> Value:
        host = self._of_region(region)
        for device in host.kernel.devices:
            if device.region == region:
                self._used.discard(device.name)
                self._kmem.discard(device.name)
                self._online.discard(device.name)
        error = host.happens(kernel.UnbindRegion(region))
        return {"error": error or host.happens(kernel.DestroyRegion(region))}

    async def sight(self, region: str) -> Value:
        host = self._of_region(region)
        host.turn()
        seen = observe.look(host.kernel, region)
        devices = [
            {**{key: value for key, value in one._asdict().items() if key != "mappings"}, "mappings": _plain(one)}
            for one in seen.devices
        ]
        return {
            "region": region,
            "mode": seen.mode,
            "available": seen.available,
            "extents": [one._asdict() for one in seen.extents or ()],
            "names": list(seen.names or ()),
            "devices": devices,
            "all_devices": list(seen.all_devices or ()),
            "odd": [],
        }

    async def claim(self, dax: str, text: str) -> Value:
        return self._done(dax, kernel.Claim(dax, text))

    async def create(self, region: str) -> Value:
        host = self._of_region(region)
        before = {device.name for device in host.kernel.devices}
        error = host.happens(kernel.Create(region))
        new = [device.name for device in host.kernel.devices if device.name not in before]
        return {"dax": new[0] if new else "", "error": error}

    async def resize(self, dax: str, size: int) -> Value:
        return self._done(dax, kernel.Resize(dax, size))

    async def bind(self, dax: str, driver: str) -> Value:
        done = self._done(dax, kernel.Bind(dax, driver))
        if not done["error"] and driver == "kmem":
            self._kmem.add(dax)
        return done

    async def unbind(self, dax: str) -> Value:
        if dax in self._online:  # memory that is in use does not go
            return {"error": "-EBUSY"}
        self._kmem.discard(dax)
        self._used.discard(dax)
        return self._done(dax, kernel.Unbind(dax))

    async def online(self, dax: str) -> Value:
        if dax not in self._kmem:
            return {"error": "-ENODEV"}
        self._online.add(dax)
        return {"error": ""}

    async def offline(self, dax: str) -> Value:
        self._online.discard(dax)
        return {"error": ""}

    async def map(self, dax: str) -> Value:
        device = self._of_dax(dax).kernel.device(dax)
        if device.driver != "device_dax":
            return {"error": "-ENOENT"}
        self._used.add(dax)
        return {"error": ""}

    async def unmap(self, dax: str) -> Value:
        if dax not in self._used:
            return {"error": "-ENOENT"}
        self._used.discard(dax)
        return {"error": ""}

    async def read(self, dax: str, offset: int, length: int) -> Value:
        found = b""
        for name, dpa, size in self._places(dax, offset, length):
            found += self._machine.devices[name].read(dpa, size)
        return {"data": found.hex(), "error": ""} if len(found) == length else {"error": "-EINVAL"}

    async def write(self, dax: str, offset: int, data: bytes) -> Value:
        places = self._places(dax, offset, len(data))
        if sum(size for _, _, size in places) != len(data):
            return {"error": "-EINVAL"}
        at = 0
        for name, dpa, size in places:
            self._machine.devices[name].write(dpa, data[at : at + size])
            at += size
        return {"error": ""}

    async def trace(self) -> Value:
        self._turn()
        events = [
            {"device": name, **one}
            for name, host in self.hosts.items()
            if host.voice is not None
            for one in host.voice.drain_events()
        ]
        return {"events": events, "lost": 0}

    async def log(self) -> Value:
        self._turn()
        lines = [
            {"device": name, **one}
            for name, host in self.hosts.items()
            if host.voice is not None
            for one in host.voice.drain_lines()
        ]
        return {"lines": sorted(lines, key=_time), "lost": 0}

    async def wait(self, timeout_s: float) -> None:
        """Nothing comes by itself but by a timer: the clock goes to the next one that fires within that time."""
        self._turn()
        dues = [host.due - self._machine.clock() for host in self.hosts.values() if host.due is not None]
        ahead = min(dues, default=timeout_s)
        self._machine.ahead_s += max(0.0, min(ahead, timeout_s))
        self._turn()
        await asyncio.sleep(0)

    async def listed(self, device: str, count: int, start: int) -> Value:
        raise Unserved("a simulated kernel is not asked for 4801h: the manager's 5603h shows the same list")

    def now_s(self) -> float:
        """The kernels' time."""
        return self._machine.clock()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        end = time.monotonic() + _TURN_S
        while (due := self._machine.turn()) is not None and due <= time.monotonic() < end:
            pass

    def _done(self, dax: str, cause: kernel.Cause) -> Value:
        return {"error": self._of_dax(dax).happens(cause)}

    def _of_region(self, region: str) -> LinuxHost:
        for host in self.hosts.values():
            if any(one.name == region for one in host.kernel.regions):
                return host
        raise AskedWrongly(f"the kernel has no region {region!r}")

    def _of_dax(self, dax: str) -> LinuxHost:
        for host in self.hosts.values():
            if any(one.name == dax for one in host.kernel.devices):
                return host
        raise AskedWrongly(f"the kernel has no DAX device {dax!r}")

    def _places(self, dax: str, offset: int, length: int) -> list[tuple[str, int, int]]:
        """Where these bytes of a DAX device lie: memory device, DPA, length."""
        host = self._of_dax(dax).kernel
        found: list[tuple[str, int, int]] = []
        starts = {one.age: (one.memdev, one.start) for one in host.extents}
        at = 0
        for piece in host.device(dax).mapped:
            low, high = max(offset, at), min(offset + length, at + piece.length)
            if low < high:
                memdev, start = starts[piece.age]
                found.append((memdev, start + piece.at + low - at, high - low))
            at += piece.length
        return found


def _plain(one: observe.SeenDax) -> list[list[int]]:
    return [list(mapping) for mapping in one.mappings or ()]


def _time(line: dict[str, Any]) -> int:
    found: int = line["t_ns"]
    return found
