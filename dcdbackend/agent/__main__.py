"""The agent's program: `python3 -m dcdbackend.agent [--port PATH] [--root DIR] [--unbind | --kernel]
[--poll sleep|spin]`, and `python3 -m dcdbackend.agent watch` (see `kernel.watch`), which needs no controller.

It runs as a child of the guest's init, which powers off when it ends: status 0 when the controller asked for that,
2 for a wrong command line, 3 when it cannot work here, 4 when the controller stayed away, 70 for a fault of its own.
What ended it is told twice, to the controller as {"fault": ...} and on standard error (the console).

The port can be given by --port or DCD_AGENT_PORT; else it is the virtio port named dcd.agent. DCD_AGENT_UNBIND=1 is
--unbind: the kernel hands words of its command line that it does not know to init as environment. DCD_AGENT_KERNEL=1
is --kernel: the kernel's own drivers have the devices and answer, and this takes none (see `kernel`).
"""

from __future__ import annotations

import gc
import importlib
import sys
from types import ModuleType
from typing import Any

if __name__ == "__main__":
    # Under TCG the agent's imports are most of the time from /init to ready, so they go without what they do not need.
    # construct's debugging tools bring pdb, readline and traceback (140 ms); pickle and platform, which it wants for a
    # name each, bring 40; inspect, from which dataclasses wants the annotations of a class and, where it has no
    # docstring, its signature, brings 110. What is wanted of a stand-in after all is imported then. Only in the program
    # itself, never when imported.

    class _StandIn(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):  # what an import itself looks for
                raise AttributeError(name)
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
            return getattr(importlib.import_module(self.__name__), name)

    gc.disable()
    _STAND_INS = {
        name: _StandIn(name) for name in ("construct.debug", "pickle", "platform", "inspect") if name not in sys.modules
    }
    sys.modules.update(_STAND_INS)
    vars(sys.modules["platform"]).setdefault("system", lambda: "Linux")
    vars(sys.modules["inspect"]).setdefault("get_annotations", lambda cls: vars(cls).get("__annotations__", {}))

import contextlib
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from .. import crc, link
from ..errors import CannotRun, DcdError
from ..history import encode
from . import device, pci, sysfs, window
from .control import Control
from .port import PORT_NAME, Port, VirtioPort, find_port

if TYPE_CHECKING:
    from .kernel.host import KernelHost

if __name__ == "__main__":
    for _name, _stand_in in _STAND_INS.items():
        if sys.modules.get(_name) is _stand_in:
            del sys.modules[_name]
    gc.enable()

IDLE_S = 0.5
REST_AFTER_S = 2.0
REST_S = 0.02
"""Between two looks at the devices, once nothing happened for so long: a guest that only stands there costs little."""
_SPINS_A_LOOK = 16
_FAULT_PATIENCE_S = 2.0


class Options(NamedTuple):
    """The command line."""

    port: str | None = None
    root: str = ""
    unbind: bool = False
    spin: bool = False
    kernel: bool = False


def parse(arguments: list[str]) -> Options:
    """Errors: SystemExit 2 with one line; 0 for --help."""
    told = os.environ.get
    options = Options(
        told("DCD_AGENT_PORT"), unbind=told("DCD_AGENT_UNBIND") == "1", kernel=told("DCD_AGENT_KERNEL") == "1"
    )
    rest = list(arguments)
    while rest:
        name, given, value = rest.pop(0).partition("=")
        if name in ("-h", "--help"):
            sys.stdout.write(f"{__doc__}\n")
            raise SystemExit(0)
        if name == "--unbind" and not given:
            options = options._replace(unbind=True)
            continue
        if name == "--kernel" and not given:
            options = options._replace(kernel=True)
            continue
        if name not in ("--port", "--root", "--poll"):
            _usage(
                f"{name!r} is not known; there is --port PATH, --root DIR, --unbind, --kernel, --poll sleep|spin, "
                "and the command watch"
            )
        if not given:
            if not rest:
                _usage(f"{name} needs a value")
            value = rest.pop(0)
        if name == "--poll":
            if value not in ("sleep", "spin"):
                _usage(f"--poll {value!r}; there is sleep and spin")
            options = options._replace(spin=value == "spin")
        elif name == "--port":
            options = options._replace(port=value)
        else:
            options = options._replace(root=value)
    if options.kernel and options.unbind:
        _usage("--kernel and --unbind: either the kernel's drivers have the devices, or this agent; give one of them")
    return options


def _usage(text: str) -> None:
    sys.stderr.write(f"dcdbackend.agent: {text}\n")
    raise SystemExit(2)


class Agent:
    """The devices, the port, and the loop over them."""

    def __init__(self, options: Options, port: Port) -> None:
        self._options = options
        self._port = port
        kernel: KernelHost | None = None
        devices: dict[int, device.Device] = {}
        if options.kernel:
            from .kernel.host import KernelHost

            kernel = KernelHost(options.root)
            self._ready = {**about(), "host": "kernel", "window": None, "devices": [], "survey": kernel.start()}
        else:
            self._ready, devices = survey(options)
        self._control = Control(port, devices, options.root, kernel)
        self._control.spin = options.spin
        self._new_controller = False
        port.on_new_controller = self._introduce
        self._introduce()

    def run(self) -> None:
        """Until the controller says poweroff. Errors: LinkLost, and whatever is a fault of our own."""
        port, control = self._port, self._control
        looks = 0
        busy = time.monotonic()
        while not control.done:
            watched = control.watched.values()
            looks = (looks + 1) % _SPINS_A_LOOK
            if not (control.spin and watched) or not looks:
                now = time.monotonic()
                for request in port.receive(pause_s(control, now - busy)):
                    control.handle(request)
                    busy = busy if control.pinged else now
                port.acknowledge()
                control.turn()
                if self._new_controller:
                    self._new_controller = False
                    for each in watched:
                        each.commands.withdraw("the controller is another one")
            if port.up:  # what happens while nobody listens could not be written ahead
                told = port.queued
                for each in watched:
                    each.host.turn()
                if port.queued:
                    busy = busy if told else time.monotonic()
                    port.flush()
        port.flush()

    def _introduce(self) -> None:
        self._new_controller = True
        self._port.put(link.CONTROL, encode({"ready": self._ready}))


def pause_s(control: Control, quiet_s: float) -> float:
    """How long to wait for the controller before the next look at the devices, where nothing happened for `quiet_s`."""
    if not control.watched:
        return IDLE_S
    if control.spin:
        return 0.0
    return control.interval_s if quiet_s < REST_AFTER_S else max(control.interval_s, REST_S)


def survey(options: Options) -> tuple[dict[str, object], dict[int, device.Device]]:
    """Take every memory device that can be taken: the `ready` message and the devices by serial number."""
    root = options.root
    taken: dict[int, device.Device] = {}
    shown: list[dict[str, object]] = []
    first: window.FixedWindow | None = None
    error: str | None = None
    try:
        windows = window.read_cedt(root)
    except DcdError as found:
        windows, error = (), str(found)
    for function in pci.functions(root, pci.CLASS_MEMORY_DEVICE):
        serial: int | None = None
        try:
            seen = device.look(function)
            serial = seen.serial
            if serial in taken:
                raise CannotRun(f"two devices have serial {serial}; give each its own (sn=)")
            one = device.take(root, seen, windows, unbind=options.unbind)
        except DcdError as found:
            shown.append(device.refused(function, serial, found))
            continue
        assert one.serial is not None
        taken[one.serial] = one
        first = first or one.window
        shown.append(one.describe())
    ready: dict[str, object] = {
        **about(),
        "window": {"base": first.base, "size": first.size} if first else None,
        "devices": shown,
    }
    if error is not None:
        ready["error"] = error
    return ready, taken


def about() -> dict[str, object]:
    """What `ready` says of this guest, whoever has the devices."""
    return {
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "crcmod_extension": crc.EXTENSION,
        "uptime_s": float(sysfs.read_text("/proc/uptime").split()[0]),
    }


def main(arguments: list[str]) -> int:
    """The exit status."""
    if arguments[:1] == ["watch"]:
        from .kernel import watch

        return watch.main(arguments[1:])
    options = parse(arguments)
    port: Port | None = None
    try:
        _be_prompt()
        stream = VirtioPort(options.port or find_port(options.root, PORT_NAME))
        port = Port(stream, f"agent-{os.getpid()}-{time.monotonic_ns():x}")
        Agent(options, port).run()
        return 0
    except Exception as error:
        return _fault(error, port)


def _be_prompt() -> None:
    """Sleep as long as asked, not 50 microseconds more; leave alone what will not become garbage."""
    with contextlib.suppress(CannotRun):  # an older kernel: slower, not wrong
        sysfs.write_text("/proc/self/timerslack_ns", "1")
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def _fault(error: Exception, port: Port | None) -> int:
    """Tell what ended the agent on the console and to the controller; the exit status."""
    text = f"{type(error).__name__}: {error}"
    sys.stderr.write(f"dcdbackend.agent: ended by {text}\n")
    if not isinstance(error, DcdError):
        import traceback

        sys.stderr.write("".join(traceback.format_exception(error)))
    sys.stderr.flush()
    if port is not None:
        try:
            port.put(link.CONTROL, encode({"fault": text}))
            port.flush(patience_s=_FAULT_PATIENCE_S)
        except DcdError as again:
            sys.stderr.write(f"dcdbackend.agent: the controller could not be told: {again}\n")
    return error.exit_code if isinstance(error, DcdError) else 70


def command() -> int:
    """`dcd-agent`, where the package is installed: the exit status."""
    return main(sys.argv[1:])


if __name__ == "__main__":
    raise SystemExit(command())
