"""What the controller may ask of the agent: one table of requests, each checked before anything is done.

A request is a JSON object {"id", "do", ...}; the reply {"id", "ok": true, ...} or {"id", "ok": false, "error", "kind"}.
An operation of the history that the controller began (`ask`) is ended by a HISTORY frame instead, whatever becomes
of it. The controller is trusted to want what it asks, not to write it well: nothing it sends ends the agent.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .. import link
from ..errors import AnsweredWrongly, AskedWrongly, DcdError, LinkLost, TimedOut
from ..extents import Extent, ExtentSet
from ..history import encode
from ..model.departures import DEPARTURES
from ..model.state import config_of
from . import policy
from .commands import OPERATIONS, Commands, End
from .device import Device, read_extents
from .host import Host
from .journal import Journal
from .judge import Judge
from .port import Port
from .switch import Switch, switches

if TYPE_CHECKING:
    from .kernel.host import KernelHost
    from .process import Processes

Value = dict[str, Any]

POLL_MODES = ("sleep", "spin")
MIN_INTERVAL_S = 0.00005
MAX_INTERVAL_S = 10.0
_CHANGES_STATE = frozenset(operation.opcode for operation in OPERATIONS.values() if operation.changes)
_REPLY_ROOM = 2048
MOST_RAW = 12
"""Raw commands in one request: so many replies of the longest mailbox there is (2 KiB, as hex) fit one frame."""


class Watched:
    """A device with a name: its recorded commands, its judge, and host U on it.

    What it holds already (the guest was reset, or the agent is not the first one) is taken as it is: who accepted it
    cannot be known here. An entry of no length is no extent (QEMU-list-pending). Errors: AnsweredWrongly, TimedOut.
    """

    def __init__(
        self, device: Device, name: str, journal: Journal, departures: frozenset[str], note: Callable[[str], None]
    ) -> None:
        self.name = name
        self.device = device
        described = device.describe()
        described["log_records"] = None
        extents = read_extents(device.mailbox)
        try:
            held = ExtentSet([Extent(e.start, e.length, e.tag, e.sequence) for e in extents if e.length])
        except ValueError as error:
            raise AnsweredWrongly(f"{name}: its extent list at the start makes no sense: {error}") from None
        self.judge = Judge(config_of(described, view="guest", departures=departures), held)
        self.commands = Commands(device, name, journal, self.judge)
        self.host = Host(device, name, self.commands, note=note)
        self.host.hands.took(tuple((extent.start, extent.length) for extent in held))


class Control:
    """The requests, and the state that they set: names, policies, how to poll, whether to end.

    `devices`: those that were taken, by serial number. `root`: of the file systems (see `sysfs`). `kernel`: where the
    kernel is the host, what uses it.
    """

    def __init__(
        self, port: Port, devices: dict[int, Device], root: str = "", kernel: KernelHost | None = None
    ) -> None:
        self.watched: dict[str, Watched] = {}
        self.spin = False
        self.interval_s = 0.0005
        self.pinged = False
        """The last request was a ping: somebody is there, and nothing was asked."""
        self.done = False
        self._port = port
        self._devices = devices
        self._root = root
        self._kernel = kernel
        self._switches: list[Switch] | None = None
        self._journal = Journal(port)
        self._started: Processes | None = None
        self._do: dict[str, Callable[[Value], Value]] = {
            "name": self._name,
            "policy": self._policy,
            "poll": self._poll,
            "raw": self._raw,
            "hold": self._hold,
            "fm": self._fm,
            "kernel": self._ask_kernel,
            "judgement": self._judgement,
            "exec": lambda request: self._processes.start(request),
            "exec_read": lambda request: self._processes.read(request),
            "exec_kill": lambda request: self._processes.kill(request),
            "provoke": self._provoke,
            "ping": lambda request: {},
            "poweroff": self._poweroff,
        }

    def turn(self) -> None:
        """Let time go on for the commands that run in the guest."""
        if self._started is not None:
            self._started.turn()

    @property
    def _processes(self) -> Processes:
        """Commands in the guest; their module is imported when the first one is asked for."""
        if self._started is None:
            from .process import Processes

            self._started = Processes()
        return self._started

    def note(self, text: str) -> None:
        """Tell the controller something that belongs to no request."""
        self._put({"note": text})

    def handle(self, request: bytes) -> None:
        """Carry out one request and queue its reply. Errors: LinkLost."""
        try:
            body = json.loads(request)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            self._put({"id": None, "ok": False, "error": "the request is no JSON object", "kind": "AskedWrongly"})
            return
        number = body.get("id")
        self.pinged = body.get("do") == "ping"
        try:
            if body.get("do") == "ask":
                self._ask(body)
                return
            do = self._do.get(str(body.get("do")))
            if do is None:
                raise AskedWrongly(f"do {body.get('do')!r} is not known; there is ask, {', '.join(self._do)}")
            self._put({"id": number, "ok": True, **do(body)})
        except LinkLost:
            raise
        except DcdError as error:
            self._put({"id": number, "ok": False, "error": str(error), "kind": type(error).__name__})

    # -- requests ------------------------------------------------------------------------------------------------

    def _name(self, request: Value) -> Value:
        """{"devices": {serial: name}, "departures": [id, ...]}: watch these from now on, host U on each."""
        names = request.get("devices")
        if not isinstance(names, dict) or not names:
            raise AskedWrongly(f"devices {str(names)[:80]!r}; give an object of serial numbers and names")
        known = request.get("departures", [])
        if not isinstance(known, list) or not all(isinstance(d, str) and d in DEPARTURES for d in known):
            raise AskedWrongly(f"departures {str(known)[:80]}; give a list of {', '.join(DEPARTURES)}")
        chosen = {}
        for serial, name in names.items():
            device = self._devices.get(int(serial)) if serial.isascii() and serial.isdigit() else None
            if device is None:
                raise AskedWrongly(f"no device with serial {serial}; there is {', '.join(map(str, self._devices))}")
            if not (isinstance(name, str) and name.isascii() and name.isalnum() and len(name) <= 64):
                raise AskedWrongly(f"device name {str(name)[:80]!r}; letters and digits, like mem0")
            if device.name not in (None, name) or name in chosen or self._other(name, device):
                raise AskedWrongly(f"{name!r} for serial {serial}: device or name has another partner already")
            chosen[name] = device
        for name, device in chosen.items():
            if device.name is None:
                self.watched[name] = Watched(device, name, self._journal, frozenset(known), self.note)
                device.name = name
        return {"watched": list(self.watched)}

    def _policy(self, request: Value) -> Value:
        """{"device", "add", "release", "break"}: answer so from the next chain on."""
        watched = self._watched(request)
        add = policy.choose(policy.ADD, request.get("add", {"kind": "accept"}), "add")
        release = policy.choose(policy.RELEASE, request.get("release", {"kind": "release"}), "release")
        watched.host.follow(add, release, policy.choose_break(request.get("break")))
        return {}

    def _poll(self, request: Value) -> Value:
        """{"mode": "sleep" | "spin", "interval_s"}: how to watch the devices."""
        mode, interval = request.get("mode", "sleep"), request.get("interval_s", self.interval_s)
        if mode not in POLL_MODES:
            raise AskedWrongly(f"poll mode {mode!r}; there is {', '.join(POLL_MODES)}")
        if type(interval) not in (int, float) or not MIN_INTERVAL_S <= interval <= MAX_INTERVAL_S:
            raise AskedWrongly(f"interval_s {interval!r}; give {MIN_INTERVAL_S} to {MAX_INTERVAL_S:g} seconds")
        self.spin, self.interval_s = mode == "spin", float(interval)
        return {}

    def _raw(self, request: Value) -> Value:
        """{"device", "opcode", "payload"}: one mailbox command, unrecorded; its return code and payload.

        Or {"device", "commands": [[opcode, payload], ...]}, at most 12: one after the other, and their "replies".
        """
        watched = self._watched(request)
        if "commands" not in request:
            return self._rung(watched, request.get("opcode"), request.get("payload", ""))
        commands = request["commands"]
        if not isinstance(commands, list) or len(commands) > MOST_RAW or not all(map(_is_pair, commands)):
            raise AskedWrongly(f"commands {str(commands)[:80]}; give at most {MOST_RAW} of [opcode, payload]")
        return {"replies": [self._rung(watched, *command) for command in commands]}

    def _rung(self, watched: Watched, opcode: object, payload: object) -> Value:
        if type(opcode) is not int or not 0 <= opcode <= 0xFFFF:
            raise AskedWrongly(f"opcode {opcode!r}; give a number of 16 bits")
        if opcode in _CHANGES_STATE:
            watched.commands.judge_later()
            watched.judge.lose(f"{opcode:04x}h was sent raw, which no history shows")
        reply = watched.device.mailbox.command(opcode, _bytes(payload, "payload"))
        return {"rc": reply.rc, "payload": reply.payload.hex()}

    def _hold(self, request: Value) -> Value:
        """{"device"}: host U leaves the device alone, its log too, until a policy is set."""
        watched = self._watched(request)
        watched.commands.withdraw("the host was told to leave the device alone")
        watched.host.stuck = "told to leave it alone"
        return {}

    def _fm(self, request: Value) -> Value:
        """{"opcode", "payload", "switch": 0}: one command to a switch's mailbox; its return code and payload.

        Without an opcode: the switches that there are. Their mailboxes are taken when first asked for. With "ring":
        false the command is written and not rung, as by a manager that dies there; nothing comes back.
        """
        if self._switches is None:
            self._switches = switches(self._root)
        if "opcode" not in request:
            return {"switches": [{"pci": one.address, "payload_size": one.payload_size} for one in self._switches]}
        number, opcode = request.get("switch", 0), request["opcode"]
        if type(number) is not int or not 0 <= number < len(self._switches):
            raise AskedWrongly(f"switch {number!r}; the guest sees {len(self._switches)} switch mailboxes")
        if type(opcode) is not int or not 0 <= opcode <= 0xFFFF:
            raise AskedWrongly(f"opcode {opcode!r}; give a number of 16 bits")
        payload = _bytes(request.get("payload", ""), "payload")
        if request.get("ring", True) is False:
            self._switches[number].half(opcode, payload)
            return {}
        reply = self._switches[number].command(opcode, payload)
        return {"rc": reply.rc, "payload": reply.payload.hex()}

    def _ask_kernel(self, request: Value) -> Value:
        """{"what", ...}: use the kernel host, or look at it (see `kernel.host`)."""
        if self._kernel is None:
            raise AskedWrongly("this agent has the devices itself (host U); boot with --kernel (DCD_AGENT_KERNEL=1)")
        return self._kernel.handle(request)

    def _judgement(self, request: Value) -> Value:
        """The totals of all devices' judges, and their findings, as many as one frame takes."""
        totals: dict[str, dict[str, dict[str, int]]] = {"device": {}, "host": {}}
        findings: list[Value] = []
        for name, watched in self.watched.items():
            watched.commands.judge_later()
            for subject, clauses in watched.judge.totals().items():
                for clause, counts in clauses.items():
                    sums = totals[subject].setdefault(clause, dict.fromkeys(counts, 0))
                    for outcome, count in counts.items():
                        sums[outcome] = sums.get(outcome, 0) + count
            findings += [{"device": name, **finding} for finding in watched.judge.findings]
        judgement: Value = {**totals, "findings": findings}
        while len(encode(judgement)) > link.MAX_BODY - _REPLY_ROOM and judgement["findings"]:
            judgement["cut"] = len(findings)
            judgement["findings"] = judgement["findings"][: len(judgement["findings"]) // 2]
        return {"judgement": judgement}

    def _provoke(self, request: Value) -> Value:
        """{"what": "panic" | "stop" | "switch"}: die, in a named way, so that a test can see how that is told.

        Of a switch only its mailbox is gone; of the others no reply comes.
        """
        what = request.get("what")
        if what == "panic":
            with open("/proc/sys/kernel/sysrq", "w") as allowed:  # noqa: PTH123 (pathlib costs 20 ms to import here)
                allowed.write("1")
            with open("/proc/sysrq-trigger", "w") as trigger:  # noqa: PTH123
                trigger.write("c")
        elif what == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif what == "switch" and self._switches:
            for one in self._switches:
                one.vanish()
            return {}
        raise AskedWrongly(f"provoke {str(what)[:40]!r}; there is panic, stop, and switch when one was asked")

    def _poweroff(self, request: Value) -> Value:
        self.done = True
        return {}

    # -- operations that the controller began --------------------------------------------------------------------

    def _ask(self, request: Value) -> None:
        """{"op", "process", "f", "value"}: carry it out and end it. Errors: AskedWrongly when it cannot be ended."""
        op, process, f, value = (request.get(key) for key in ("op", "process", "f", "value"))
        if type(op) is not int or not isinstance(process, str) or not isinstance(value, dict):
            raise AskedWrongly("an ask needs op (a number), process and f (names) and value (an object)")
        if f not in OPERATIONS and f not in ("load", "store"):
            raise AskedWrongly(f"ask for {str(f)[:40]!r}; there is load, store, {', '.join(OPERATIONS)}")
        assert isinstance(f, str)
        try:
            watched = self._watched(value)
            if f in OPERATIONS:
                watched.commands.run(process, f, OPERATIONS[f].build(value), op)
            else:
                self._move(watched, op, process, f, value)
        except (AskedWrongly, TimedOut) as error:
            # a command that was never rung has certainly no effect, but a `fail` of the mailbox needs a return code
            kind, end = ("fail", {"error": str(error)}) if f in ("load", "store") else ("info", {"reason": str(error)})
            self._journal.end(op, process, kind, f, end)

    def _move(self, watched: Watched, op: int, process: str, f: str, value: Value) -> None:
        """A load or a store through the window."""
        dpa = value.get("dpa")
        if type(dpa) is not int:
            raise AskedWrongly(f"dpa {dpa!r}; give a number")
        end: Value = {}
        if f == "store":
            watched.device.memory.store(dpa, _bytes(value.get("data"), "data"))
        else:
            length = value.get("length")
            if type(length) is not int:
                raise AskedWrongly(f"length {length!r}; give a number of bytes")
            end["data"] = watched.device.memory.load(dpa, length).hex()
        watched.commands.ended(op, process, f, value, End("ok", end))

    # -- small things --------------------------------------------------------------------------------------------

    def _watched(self, request: Value) -> Watched:
        name = request.get("device")
        found = self.watched.get(name) if isinstance(name, str) else None
        if found is None:
            raise AskedWrongly(f"no device {str(name)[:80]!r} is named; there is {', '.join(self.watched) or 'none'}")
        return found

    def _other(self, name: str, device: Device) -> bool:
        known = self.watched.get(name)
        return known is not None and known.device is not device

    def _put(self, body: Value) -> None:
        self._port.put(link.CONTROL, encode(body))


def _is_pair(found: object) -> bool:
    return isinstance(found, list) and len(found) == 2


def _bytes(text: object, what: str) -> bytes:
    """The bytes that hex digits stand for. Errors: AskedWrongly."""
    try:
        if isinstance(text, str):
            return bytes.fromhex(text)
    except ValueError:
        pass
    raise AskedWrongly(f"{what} {str(text)[:40]!r}; give hex digits")
