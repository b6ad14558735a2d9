"""`python3 -m dcdbackend.agent watch`: follow this machine's kernel and judge it, with no controller.

    watch [--generation auto|v11|v10|A|B-rfc|draft] [--root DIR] [--once | --for SECONDS]

It reads the trace, the log and sysfs of the kernel that it runs on, asks `cxl list` and `daxctl list` where they are
installed, holds what it sees against the model there and then, and prints each finding when it is found, and a verdict
at the end (after --for, or when it is interrupted). It changes nothing but what it needs to see: dynamic debug of the
CXL and DAX drivers on, a trace instance of its own.
What is done to the machine meanwhile (regions, claims, binds) it reads off sysfs. --once looks at what is there now.

Exit status: 0 nothing broken (known departures included); 1 a rule broken, or an alarm in the log; 2 wrong usage; 3
this machine cannot be followed; 4 nothing could be judged, the kernel was lost from sight, or something stayed
unknown; 70 our own fault.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable
from typing import Any, NamedTuple, TextIO

from ...alarms import alarm
from ...errors import CannotRun, DcdError
from ...model.generation import GENERATIONS
from .files import Files
from .follow import Follower, Told, describe
from .host import mount_tracefs
from .log import Log
from .modules import settled
from .region import decoder_of
from .sight import look
from .survey import A_OR_RFC, CXL, EARLY, NONE, named, survey
from .tool import Tools
from .trace import Trace

Value = dict[str, Any]

STEP_S = 0.02
QUIET_LOOKS = 2
BUSY_S = 2.0
"""So long a kernel that never comes to rest is waited for; then it is judged as it is."""
MOST_NOTES = 100
MAX_FOR_S = 7 * 86400.0
_ALL = 1 << 30
_USAGE = "there is --generation auto|NAME, --root DIR, --once, --for SECONDS"
_MARKS = {"fail": "BROKEN", "departure": "known", "unknown": "unknown"}


class Options(NamedTuple):
    """The command line. `seconds`: None until interrupted; 0 looks once."""

    generation: str = "auto"
    root: str = ""
    seconds: float | None = None


def parse(arguments: list[str]) -> Options:
    """Errors: SystemExit 2 with one line; 0 for --help."""
    options = Options()
    rest = list(arguments)
    while rest:
        name, given, value = rest.pop(0).partition("=")
        if name in ("-h", "--help"):
            sys.stdout.write(f"{__doc__}\n")
            raise SystemExit(0)
        if name == "--once" and not given:
            options = options._replace(seconds=0.0)
            continue
        if name not in ("--generation", "--root", "--for"):
            _usage(f"{name!r} is not known; {_USAGE}")
        if not given:
            if not rest:
                _usage(f"{name} needs a value")
            value = rest.pop(0)
        if name == "--for":
            options = options._replace(seconds=_seconds(value))
        elif name == "--root":
            options = options._replace(root=value)
        elif value in ("auto", *GENERATIONS):
            options = options._replace(generation=value)
        else:
            _usage(f"--generation {value[:40]!r}; there is auto, {', '.join(GENERATIONS)}")
    return options


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 < found <= MAX_FOR_S:
        _usage(f"--for {text[:40]!r}; give seconds, more than 0 and at most {MAX_FOR_S:g}")
    return found


def _usage(text: str) -> None:
    sys.stderr.write(f"dcdbackend.agent watch: {text}\n")
    raise SystemExit(2)


class Watcher:
    """The kernel under `root`, followed. Errors of the constructor: CannotRun."""

    def __init__(self, options: Options, out: TextIO) -> None:
        self._out = out
        self.files = Files(options.root)
        self.log = Log(self.files)
        self.trace = Trace(self.files, "dcd-watch")
        self.tools = Tools(self.files)
        self.alarms = 0
        self._failed: set[str] = set()
        mount_tracefs(self.files)
        if not self.files.root and named(self.files, CXL, "mem"):
            settled(self.files)
        found = survey(self.files)
        self.generation = chosen(options.generation, found)
        if not self.log.start():
            raise CannotRun(f"{self.log.why}; watch must run as root")
        if not self.log.debug():
            raise CannotRun(
                "this kernel has no dynamic debug: what it accepts is not told; build it with DYNAMIC_DEBUG"
            )
        if not self.trace.start():
            raise CannotRun(f"{self.trace.why}; the records are known by the trace alone")
        self._memdevs = {one["name"]: one for one in found["memdevs"]}
        mode = GENERATIONS[self.generation].mode
        self.followers = {
            name: Follower(self.generation, described)
            for name, one in self._memdevs.items()
            if (described := describe(one, mode)) is not None
        }
        if not self.followers:
            sizes = (
                ", ".join(f"{name} {one['partitions']}" for name, one in self._memdevs.items()) or "no memory device"
            )
            raise CannotRun(f"there is no DC partition to follow ({mode}): {sizes}")
        self._mode = mode
        self._say(f"kernel {found['kernel']}, generation {self.generation} ({found['generation']['evidence'][0]})")
        for name, one in self._memdevs.items():
            self._say(f"{name}: serial {one['serial']}, partitions {one['partitions']}")

    def begin(self) -> None:
        """Take what is there as it is: log lines of before are only looked through for alarms."""
        self._settle()
        before = self.log.drain(_ALL)
        self.trace.drain(_ALL)
        for one in before["alarms"]:
            self._say(f"note: before the watch the log had {one['kind']}: {one['text'][:160]}")
        for name, (places, sights) in self._sights().items():
            self.followers[name].stands(places, sights)
            for region, place in places.items():
                extents = len(sights[region].get("extents", ()))
                self._say(f"{region} of {name}: {place['length']} bytes, {extents} extents are there already")

    def turn(self, *, always: bool = False) -> None:
        """Let the kernel come to rest, look, and judge what is new. `always`: also where nothing is."""
        self._settle()
        seen = self._sights()
        log, trace = self.log.drain(_ALL), self.trace.drain(_ALL)
        lost = (trace["lost"], log["lost"])
        calm = [line for line in log["lines"] if alarm(line["text"]) is None]
        for one in log["alarms"]:
            self.alarms += 1
            self._say(f"BROKEN  {one['kind']}: {one['text'][:200]}")
        for name, follower in self.followers.items():
            places, sights = seen[name]
            lines = [line for line in calm if self._of(line["text"]) in (None, name)]
            events = [event for event in trace["events"] if event["memdev"] == name]
            if not (always or events or any(lost) or follower.differs(places, sights) or _is_about_us(lines)):
                continue
            for told in follower.saw(places, sights, events, lines, lost, self._by_tools(places)):
                self._tell(name, told)

    def close(self) -> None:
        """Let go of trace and log."""
        self.trace.remove()
        self.log.close()

    def verdict(self) -> int:
        """Print it; the exit status."""
        passes = fails = known = unknown = 0
        for follower in self.followers.values():
            self._say(f"{follower.name}:")
            for clause, counts in sorted(follower.totals.items()):
                self._say(f"  {clause:20} " + ", ".join(f"{count} {how}" for how, count in counts.items()))
                passes += counts.get("pass", 0)
                fails += counts.get("fail", 0)
                known += counts.get("departure", 0)
                unknown += counts.get("unknown", 0)
            if follower.lost:
                self._say(f"{follower.name} was lost from sight: {follower.lost}")
        broken = fails + self.alarms
        open_ends = any(follower.lost or follower.in_doubt for follower in self.followers.values())
        status = 1 if broken else 4 if open_ends or not passes else 0
        words = {0: "as the rules of this generation say", 1: "rules are broken", 4: "not known"}
        self._say(
            f"verdict: {words[status]}: {passes} passed, {fails} broken, {self.alarms} alarms, "
            f"{known} known departures, {unknown} unknown"
        )
        return status

    # ----

    def _settle(self) -> None:
        """Wait until trace and log bring nothing new for two looks, within a bound."""
        ends = time.monotonic() + BUSY_S
        idle = 0
        while idle < QUIET_LOOKS and time.monotonic() < ends:
            idle = 0 if self.trace.turn() + self.log.turn() else idle + 1
            if idle < QUIET_LOOKS:
                time.sleep(STEP_S / 4)

    def _sights(self) -> dict[str, tuple[dict[str, Value], dict[str, Value]]]:
        """By memory device: its regions' places and sights. Read again while the log goes on, within a bound."""
        found: dict[str, tuple[dict[str, Value], dict[str, Value]]] = {}
        for _ in range(5):
            before, found = found, self._read()
            if found == before and not self.trace.turn() + self.log.turn():
                break
        return found

    def _read(self) -> dict[str, tuple[dict[str, Value], dict[str, Value]]]:
        found: dict[str, tuple[dict[str, Value], dict[str, Value]]] = {name: ({}, {}) for name in self.followers}
        for region in named(self.files, CXL, "region"):
            place = self._place(region)
            if place is None:
                continue
            places, sights = found[place.pop("memdev")]
            places[region] = place
            sight, _ = look(self.files, region)
            sights[region] = sight
        return found

    def _by_tools(self, regions: Iterable[str]) -> dict[str, list[Value]]:
        """What the tools show of each region; one that fails is told once."""
        found = {region: self.tools.look(region) for region in regions}
        for one in (one for looks in found.values() for one in looks if "failed" in one):
            text = f"note: {one['tool']} list: {one['failed']}"
            if text not in self._failed and len(self._failed) < MOST_NOTES:
                self._failed.add(text)
                self._say(text)
        return found

    def _place(self, region: str) -> Value | None:
        """A committed DC region: {"memdev", "start", "length", "hpa", "bound"}; None for one that is none (yet)."""
        path = f"{CXL}/{region}"
        if self.files.glance(f"{path}/mode") != self._mode or self.files.glance(f"{path}/commit") != "1":
            return None
        decoder = decoder_of(self.files, region)
        memdev = next((name for name, one in self._memdevs.items() if decoder in one["decoders"]), None)
        length, hpa = self.files.number(f"{path}/size"), self.files.number(f"{path}/resource")
        start = self.files.number(f"{CXL}/{decoder}/dpa_resource")
        if memdev not in self.followers or length is None or start is None or hpa is None:
            return None
        bound = self.files.link(f"{path}/driver") is not None
        return {"memdev": memdev, "start": start, "length": length, "hpa": hpa, "bound": bound}

    def _of(self, text: str) -> str | None:
        """The memory device that a line of the log is about, None where it may be any."""
        if len(self._memdevs) == 1:
            return None
        name: str
        for name, one in self._memdevs.items():
            if f" {name}:" in text or (one["pci"] and one["pci"] in text):
                return name
            if any(f" {decoder}:" in text for decoder in one["decoders"]):
                return name
            for region in self.followers[name].regions if name in self.followers else ():
                number = region.removeprefix("region")
                if any(word in text for word in (f"region{number}:", f"extent{number}.", f" dax{number}.")):
                    return name
        return None

    def _tell(self, name: str, told: Told) -> None:
        about = f" ({told.departure})" if told.departure else ""
        self._say(f"{_MARKS[told.outcome]:7} {name} {told.clause}{about}: {told.text}")

    def _say(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()


def _is_about_us(lines: list[Value]) -> bool:
    """Whether the log tells of DCD work; the other lines change no state."""
    from ...checker.kernel import notes_of

    return any(note.kind not in ("reading",) for note in notes_of(lines))


def chosen(asked: str, found: Value) -> str:
    """The generation to judge by. Errors: CannotRun where sysfs does not tell, and nobody said it."""
    generation = found["generation"]
    if asked != "auto":
        return asked
    name, why = generation["found"], "; ".join(generation["evidence"][-2:])
    if name == NONE:
        raise CannotRun(
            f"this kernel ({found['kernel']}) shows no Dynamic Capacity support ({why}); "
            "boot one with the DCD series and load cxl_acpi, cxl_pci and cxl_mem"
        )
    if name == EARLY:
        raise CannotRun(f"an early DCD series ({why}), which no rules are written for; say --generation A to try")
    if name == A_OR_RFC:
        raise CannotRun(f"sysfs does not tell A, B-rfc and v10 apart here ({why}); say --generation A, B-rfc or v10")
    return str(name)


def main(arguments: list[str], out: TextIO | None = None) -> int:
    """The exit status."""
    options = parse(arguments)
    watcher: Watcher | None = None
    try:
        watcher = Watcher(options, out or sys.stdout)
        _follow(watcher, options.seconds)
        return watcher.verdict()
    except DcdError as error:
        sys.stderr.write(f"dcdbackend.agent watch: {error}\n")
        return error.exit_code
    finally:
        if watcher is not None:
            watcher.close()


def _follow(watcher: Watcher, seconds: float | None) -> None:
    """Until the time is over, or somebody interrupts."""
    interrupted: list[int] = []
    handlers = {one: signal.signal(one, lambda number, _: interrupted.append(number)) for one in _SIGNALS}
    try:
        watcher.begin()
        ends = None if seconds is None else time.monotonic() + seconds
        if seconds == 0.0:
            watcher.turn(always=True)
            return
        while not interrupted and (ends is None or time.monotonic() < ends):
            watcher.turn()
            time.sleep(STEP_S)
        watcher.turn(always=True)
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
