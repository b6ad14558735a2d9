"""The emulated machine: its devices, the host on them, and what the monitor's commands do.

The host is host U (the agent's own code: policies, breaks, recorded commands, its judge) or a simulated kernel
(`linux`); devices that serve several hosts have a host U for each, every one a machine of its own. What they do comes
out as the agent's frames do: `on_history` gets each history object, in order, as it happens. `turn` lets them go on;
whoever owns the machine calls it when `wanted` is set, and again at the time that it returns. There is no clock of its
own and no thread.

Time is the caller's as well: the machine never sleeps.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from .. import link
from ..agent.control import Control
from ..agent.port import Port
from ..errors import AskedWrongly
from ..history import encode
from ..model.departures import DEPARTURES, applicable
from ..model.generation import GENERATIONS, PROPOSED, setup
from ..topology import Topology
from . import arguments, wording
from .device import Died, EmulatedDevice, Halted, taken
from .linux import LinuxHost, World
from .switch import Switch
from .voice import Voice

Value = dict[str, Any]
HostName = Literal["U", "A", "B-rfc", "v10", "v11", "C"]
HOSTS: tuple[str, ...] = ("U", *[name for name in GENERATIONS if name != "draft"], *PROPOSED)
STRICT = "strict"
_AS = "qemu-"
_TURNS_AT_ONCE = 256
_PERIPHERAL = "/machine/peripheral"


class Behaviour(NamedTuple):
    """How the devices behave: "strict", or as a version of QEMU. `version` is "" for strict."""

    name: str
    version: str
    departures: frozenset[str]


def behaviour(text: str = STRICT) -> Behaviour:
    """`strict` or `qemu-11.1.3`. Errors: AskedWrongly; a version without any known departure was never measured."""
    if text == STRICT:
        return Behaviour(STRICT, "", frozenset())
    version = text.removeprefix(_AS)
    numbers = version.split(".")
    found = applicable(version) if len(numbers) == 3 and all(n.isascii() and n.isdigit() for n in numbers) else None
    if not text.startswith(_AS) or not found:
        oldest = min(DEPARTURES.values(), key=lambda row: row.first).first
        raise AskedWrongly(f"behaviour {text!r}; give strict, or qemu-X.Y.Z from {oldest} on, like qemu-11.1.3")
    return Behaviour(text, version, found)


class Error(NamedTuple):
    """An error reply of the monitor."""

    desc: str
    kind: str = "GenericError"


class _Direct(Port):
    """The agent's end of the link, without a link: what it puts is handed over at once.

    An agent knows of no other host. Where there are several (`among`), its own operations get numbers and processes
    that no other's have, and say whose they are: `host.mem0.1`, `host_id`. The first one's are as they ever were.
    """

    def __init__(self, take: Callable[[int, bytes], None], host_id: int, among: int) -> None:
        self._hand_over = take
        self._host_id = host_id
        self._among = among

    def put(self, kind: int, body: bytes) -> None:
        if kind == link.HISTORY and self._among > 1:
            body = encode(self._owned(json.loads(body)))
        self._hand_over(kind, body)

    def _owned(self, line: Value) -> Value:
        if line["op"] >= 0:  # of whoever asked for it, who said whose it is
            return line
        line["op"] = line["op"] * self._among - self._host_id
        if self._host_id:
            line["process"] = f"{line['process']}.{self._host_id}"
            if line["type"] == "invoke":
                line["value"]["host_id"] = self._host_id
        return line

    def flush(self, *, patience_s: float | None = None) -> None:
        return


class Machine:
    """`host`: one of HOSTS; `seed`: which of the permitted answers a simulated kernel gives. Errors: AskedWrongly.

    `what_if`: switches of `model.generation` that its kernel has on.

    `under_test`: the kernel begins with no region, and tells of itself by log and trace (`emulator.voice`); its clock
    is ahead of the time by `ahead_s`, which whoever waits for it may move.

    `on_history`, `on_control`: get the bodies of the host's frames. `on_event`: (name, data) of a monitor event.
    `on_command`: gets each `add`, `release` and `reset` of the monitor with its value as the history has it, and gives
    what to call when it has ended: with why it was refused, None when it was not.
    `died` is set once a device has ended as QEMU would; nothing is answered any more then.
    """

    def __init__(
        self,
        shape: Topology,
        *,
        behaves: Behaviour,
        host: str = "U",
        seed: int = 0,
        on_history: Callable[[bytes], None] = lambda _: None,
        on_control: Callable[[bytes], None] = lambda _: None,
        under_test: bool = False,
        what_if: Iterable[str] = (),
    ) -> None:
        if host not in HOSTS:
            raise AskedWrongly(f"host {host!r} is not simulated here; there is {', '.join(HOSTS)}")
        self.shape = shape
        self.behaves = behaves
        self.host_name = host
        self.devices = {spec.name: EmulatedDevice(spec, departures=behaves.departures) for spec in shape.devices}
        self.switch = Switch(tuple(self.devices.values()))
        self.died: Died | None = None
        self.wanted = True
        self.on_wanted: Callable[[], None] = lambda: None
        self.on_event: Callable[[str, Value], None] = lambda name, data: None
        self.on_quit: Callable[[], None] = lambda: None
        self.on_command: Callable[[str, Value], Callable[[str | None], None]] = lambda f, sent: lambda refused: None
        self.under_test = under_test
        self.ahead_s = 0.0
        self._seed = seed
        self._on_history = on_history
        self._on_control = on_control
        for device in self.devices.values():
            device.on_change = self._changed
        self.hosts = max(spec.hosts for spec in shape.devices)
        if self.hosts > 1 and host not in ("U", *PROPOSED):
            raise AskedWrongly(
                f"{self.hosts} hosts, and host {host}; only host U and host C are simulated more than once"
            )
        self.what_if = frozenset(what_if)
        if host != "U":
            setup(host, what_if=self.what_if)
        elif self.what_if:
            raise AskedWrongly(f"host U has no what-if {min(self.what_if)!r}; switches are of a simulated kernel")
        self._worlds: dict[str, World] = {}
        self._boot()

    # -- the host ------------------------------------------------------------------------------------------------

    def _boot(self) -> None:
        """Fresh hosts on the devices as they are. `control`: of the first."""
        if "interleave" in self.what_if and len(self.devices) > 1:
            self._worlds = dict.fromkeys(self.devices, World(self.host_name, self.what_if, self.devices))
        elif self.host_name != "U":
            self._worlds = {name: World(self.host_name, self.what_if) for name in self.devices}
        self.controls = tuple(self._booted(host_id) for host_id in range(self.hosts))
        self.control = self.controls[0]

    def _booted(self, host_id: int) -> Control:
        """A fresh host on those of the devices that serve it."""
        mine = {name: device for name, device in self.devices.items() if host_id in device.config.limits.hosts}
        takes = {device.spec.serial: taken(device, host_id or None) for device in mine.values()}
        control = Control(_Direct(self._frame, host_id, self.hosts), takes)
        names = {str(device.spec.serial): name for name, device in mine.items()}
        request = {"id": 0, "do": "name", "devices": names, "departures": sorted(self.behaves.departures)}
        control.handle(encode(request))
        if self.host_name != "U":
            for at, (name, watched) in enumerate(control.watched.items()):
                watched.host = LinuxHost(
                    watched.device, name, watched.commands, note=control.note,
                    generation=self.host_name, seed=self._seed + at, clock=self.clock,
                    sharable=[one.dsmad_handle for one in mine[name].config.regions if one.sharable],
                    voice=Voice(f"0000:{13 + at:02x}:00.0") if self.under_test else None,
                    world=self._worlds[name], host_id=host_id,
                )  # fmt: skip
        return control

    def _frame(self, kind: int, body: bytes) -> None:
        (self._on_history if kind == link.HISTORY else self._on_control)(body)

    def clock(self) -> float:
        """The time that its kernels have, s."""
        return time.monotonic() + self.ahead_s

    def reboot(self) -> None:
        """Every host is reset: a new one finds the devices as QEMU leaves them, which keep everything (DEV-22)."""
        self._boot()
        self._changed()

    def handle(self, request: bytes, host_id: int = 0) -> None:
        """One request to a host, as `agent.control` has them; its reply goes to `on_control`."""
        with contextlib.suppress(Halted):
            self.controls[host_id].handle(request)
        self._changed()

    def turn(self) -> float | None:
        """Let the host do what there is to do; the time (monotonic, s) at which there will be more, None when idle."""
        self.wanted = False
        dues: list[float] = []
        for watched in [found for control in self.controls for found in control.watched.values()]:
            host = watched.host
            for _ in range(_TURNS_AT_ONCE):
                if self.died is not None:
                    return None
                try:
                    host.turn()
                except Halted:
                    return None
                due = host.due
                if due is None:
                    if not watched.device.has_events() or host.stuck is not None:
                        break
                elif due > self.clock():
                    dues.append(due - self.ahead_s)
                    break
            else:
                self.wanted = True
                dues.append(0.0)
        return min(dues, default=None)

    def _changed(self) -> None:
        for device in self.devices.values():
            if device.died is not None and self.died is None:
                self.died = Died(device.died)
        self.wanted = True
        self.on_wanted()

    # -- the monitor ---------------------------------------------------------------------------------------------

    @property
    def greeting(self) -> Value:
        """What a client is greeted with: a version of numbers, and loudly what this is."""
        numbers = [int(part) for part in (self.behaves.version or "0.0.0").split(".")]
        major, minor, micro = numbers[:3]
        return {
            "qemu": {"micro": micro, "minor": minor, "major": major},
            "package": f"THIS IS NO QEMU: dcdbackend's emulator, {self.behaves.name}, host {self.host_name}",
        }

    def execute(self, command: str, given: Mapping[str, object]) -> object | Error:
        """What a monitor command returns. Errors: Died (no reply comes any more)."""
        run = _RUN.get(command)
        if run is None:
            return Error(f"The command {command} has not been found", "CommandNotFound")
        values = arguments.read(command, given)
        if isinstance(values, str):
            return Error(values)
        return run(self, values)

    def _add(self, values: Value) -> object | Error:
        return self._manage("add", values, {"policy": values["selection-policy"]})

    def _release(self, values: Value) -> object | Error:
        forced, sanitize = values.get("forced-removal", False), values.get("sanitize-on-release", False)
        return self._manage(
            "release", values, {"policy": values["removal-policy"], "forced": forced, "sanitize": sanitize}
        )

    def _manage(self, f: str, values: Value, more: Value) -> object | Error:
        device = self._device(values["path"])
        policy = more["policy"]
        if self.behaves.departures and (more.get("forced") or policy != "prescriptive"):
            device = device or next(iter(self.devices.values()))  # QEMU looks at these first
        if device is None:
            return Error(wording.NO_DEVICE)
        tag = self._tag(values.get("tag"))
        if isinstance(tag, Error):
            return tag
        sent: Value = {
            "device": device.name,
            "via": "qmp",
            "host_id": values["host-id"],
            "region": values["region"],
            "tag": tag,
            "extents": [{"offset": one["offset"], "length": one["len"]} for one in values["extents"]],
            **more,
        }
        ended = self.on_command(f, sent)
        refused = device.manage(f, sent)
        ended(refused)
        return {} if refused is None else Error(refused)

    def _tag(self, given: str | None) -> str | Error | None:
        """A tag as the history writes it. QEMU does not look at it at all (QEMU-tag-qmp)."""
        if given is None or "QEMU-tag-qmp" in self.behaves.departures:
            return None
        digits = given.replace("-", "").lower()
        if len(digits) != 32 or any(letter not in "0123456789abcdef" for letter in digits):
            return Error("Parameter 'tag' expects a UUID")
        return digits

    def _device(self, path: str) -> EmulatedDevice | None:
        """The device of a QOM path, whole or in part."""
        return self.devices.get(path.removeprefix(_PERIPHERAL + "/"))

    def _status(self, _: Value) -> object:
        return {"status": "running", "running": True}

    def _qom_list(self, values: Value) -> object | Error:
        path = values["path"]
        children = {
            "/": ["machine", "container"],
            "/machine": ["peripheral", "container"],
            _PERIPHERAL: [part for name in self.devices for part in (name, "cxl-type3")],
        }.get(path)
        listed = [{"name": "type", "type": "string"}]
        if children is not None:
            pairs = zip(children[::2], children[1::2], strict=True)
            return [*listed, *[{"name": name, "type": f"child<{kind}>"} for name, kind in pairs]]
        device = self._device(path)
        if device is None:
            return Error(f"Device '{path}' not found", "DeviceNotFound")
        kinds = {str: "str", bool: "bool", int: "uint64"}
        shown = self._properties(device).items()
        return [*listed, *[{"name": name, "type": kinds[type(value)]} for name, value in shown if name != "type"]]

    def _qom_get(self, values: Value) -> object | Error:
        path, name = values["path"], values["property"]
        device = self._device(path)
        if device is not None:
            found = self._properties(device)
            return found[name] if name in found else Error(f"Property 'cxl-type3.{name}' not found")
        kind = {"/": "container", "/machine": "dcd-emulator-machine", _PERIPHERAL: "container"}.get(path)
        if kind is None:
            return Error(f"Device '{path}' not found", "DeviceNotFound")
        return kind if name == "type" else Error(f"Property '{kind}.{name}' not found")

    @staticmethod
    def _properties(device: EmulatedDevice) -> Value:
        return {
            "type": "cxl-type3",
            "realized": True,
            "num-dc-regions": len(device.config.regions),
            "sn": device.spec.serial,
        }

    def _system_reset(self, _: Value) -> object:
        self.on_event("RESET", {"guest": False, "reason": "host-qmp-system-reset"})
        ended = [self.on_command("reset", {"device": name}) for name in self.devices]
        self.reboot()
        for end in ended:
            end(None)
        return {}

    def _quit(self, _: Value) -> object:
        self.on_event("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        self.on_quit()
        return {}


_RUN: dict[str, Callable[[Machine, Value], object | Error]] = {
    "query-version": lambda machine, _: machine.greeting,
    "query-commands": lambda machine, _: [{"name": name} for name in arguments.COMMANDS],
    "query-qmp-schema": lambda machine, _: arguments.schema(),
    "query-status": Machine._status,
    "query-name": lambda machine, _: {},
    "qom-list": Machine._qom_list,
    "qom-get": Machine._qom_get,
    "system_reset": Machine._system_reset,
    "quit": Machine._quit,
    arguments.ADD: Machine._add,
    arguments.RELEASE: Machine._release,
}
