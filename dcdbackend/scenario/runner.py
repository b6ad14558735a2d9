"""Running scenarios on real guests, one after the other: boot, run, settle, check.

One guest serves all scenarios of a topology; between two of them everything is released and a witness confirms it, and
only where that fails (or the guest died) a fresh guest is booted. Every scenario has a directory and a history of its
own, written as it happens, and its verdict comes from that history alone. A guest that dies while it boots costs the
scenario that it was for, where one booted before: the first that does not boot stops everything.
"""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from ..boot import BESIDE, HISTORY, KERNEL, BootedGuest, Setup
from ..checker import Verdict, check
from ..checker.verdict import GUEST
from ..emulated import EmulatedGuest, EmulatedSetup
from ..errors import AnsweredWrongly, AskedWrongly, CannotRun, DcdError, OutcomeUnknown, Unserved
from ..guest import Death, Guest
from ..history import History, Writer
from ..kernel.session import KernelSession
from ..model import quirks
from ..model.departures import DEPARTURES, applicable
from ..session import Session
from ..topology import Kind, Topology
from . import DEPARTURE, SCENARIOS, Scenario
from .load import told, where
from .printed import into

SETTLE_TIMEOUT_S = 20.0
MAX_DIRECTORIES = 10_000
LAST_WORDS_BYTES = 16_384
MAX_LOST_BOOTS = 3
"""After so many guests in a row that died while they booted, no more is tried."""
MAX_SAID = 160
"""So much of why a guest did not boot is told; its console has the rest."""
_MUTE = "the kernel has no dynamic debug (CONFIG_DYNAMIC_DEBUG), so that its log does not tell what it answered"
SIMULATED = "simulated"
"""What a scenario needs that is written for a simulated kernel: what it expects of it counts."""
VERDICT = "verdict.json"
TRACEBACK = "traceback.txt"

Outcome = Literal["pass", "fail", "unknown", "skipped"]
_WEIGHT: Mapping[Outcome, int] = {"skipped": 0, "pass": 1, "unknown": 2, "fail": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """How one scenario ended. `reason` says why it is not a pass; `verdict` is None where it was skipped, or no guest
    booted for it.

    `misused`: the script itself asked for what cannot be asked (AskedWrongly); the device was never at fault.
    """

    scenario: Scenario
    outcome: Outcome
    reason: str
    verdict: Verdict | None
    seconds: float
    directory: Path | None
    topology: Kind = "direct"
    emulated: bool = False
    misused: bool = False
    generation: str = ""
    """Of the kernel under test, where there was one."""

    @property
    def place(self) -> str:
        """The scenario's name; behind the topology and a slash where that is not `direct`."""
        return _place(self.topology, self.scenario.name)


def fitting(scenario: Scenario, setup: Setup | EmulatedSetup) -> bool:
    """Whether a scenario is for such a host at all, be it skipped or not: a kernel under test, or host U."""
    if isinstance(setup, Setup) and setup.host == KERNEL:
        return KERNEL in scenario.needs
    return KERNEL not in scenario.needs or KERNEL in setup.offers


def judge(
    scenario: Scenario, verdict: Verdict, qemu: str = "", generation: str = "", *, mute: bool = False
) -> tuple[Outcome, str]:
    """What a verdict means for a scenario that expects some outcomes: pass, or the first thing that is otherwise.

    `qemu`: its version, by which known departures are expected; `generation`: of the kernel under test, likewise.
    `mute`: that kernel has no dynamic debug. What it answered is then not known, and nothing is expected of it.
    """
    if mute:
        broken = _convicted(scenario, verdict)
        return ("unknown", _MUTE) if broken is None else ("fail", broken)
    gone = "".join([f"; {text}" for text in _no_longer_seen(scenario, verdict, qemu, generation)])
    convicted = _convicted(scenario, verdict)
    if convicted is not None:
        return "fail", f"{convicted}{gone}"
    if gone:
        return "fail", gone.removeprefix("; ")
    own = {
        f"{subject} {clause}": counts
        for (subject, _, clause), counts in verdict.counts.items()
        if not subject.startswith(GUEST)
    }
    spared = _spared(scenario, qemu, generation)
    for expected, outcome in scenario.expect.items():
        if expected.startswith(DEPARTURE) or (spared and outcome == "unknown"):
            continue
        field_name = {"fail": "failed", "pass": "passed"}.get(outcome, outcome)
        if not any(getattr(counts, field_name) for found, counts in own.items() if fnmatch(found, expected)):
            return "fail", f"{expected} was expected to end {outcome} and did not"
    if verdict.nothing_judged:
        return "unknown", "nothing was judged"
    for found, counts in own.items():
        meant = any(fnmatch(found, expected) and end == "unknown" for expected, end in scenario.expect.items())
        if counts.unknown and not meant:
            return "unknown", f"{found} is not known"
    return "pass", ""


def _convicted(scenario: Scenario, verdict: Verdict) -> str | None:
    """The first breach that the scenario does not mean to happen, told."""
    for finding in verdict.failed:
        if scenario.expect.get(f"{finding.subject} {finding.clause}") != "fail":
            return f"{finding.subject} breaks {finding.clause}: {finding.text}"
    return None


def _unscripted(
    scenario: Scenario, verdict: Verdict, script: tuple[Outcome, str], judged: tuple[Outcome, str]
) -> tuple[Outcome, str, Outcome, str]:
    """What a script that the host could not follow comes to: who broke a rule is convicted; all else is skipped.

    `script`: how its body ended, and why; `judged`: what its expectations say. The same for the whole afterwards.
    """
    convicted = _convicted(scenario, verdict)
    if convicted is not None:
        return *script, "fail", convicted
    for outcome, reason in (script, judged):
        if outcome in ("fail", "skipped"):
            return "skipped", reason if outcome == "skipped" else f"written for host U: {reason}", "skipped", ""
    return *script, *judged


def _spared(scenario: Scenario, qemu: str, generation: str = "") -> bool:
    """Whether it looks for departures of which this version has none: then nothing needs to stay unknown either."""
    wanted = [name.removeprefix(DEPARTURE) for name in scenario.expect if name.startswith(DEPARTURE)]
    return bool(wanted) and not (applicable(qemu) | quirks.applicable(generation)).intersection(wanted)


def _no_longer_seen(scenario: Scenario, verdict: Verdict, qemu: str, generation: str = "") -> list[str]:
    """What to say of the departures that the scenario looks for, and that this version has, but did not show."""
    wanted = [name.removeprefix(DEPARTURE) for name in scenario.expect if name.startswith(DEPARTURE)]
    known = applicable(qemu) - verdict.departures
    by_kernel = quirks.applicable(generation) - verdict.departures
    return [
        *[
            f"departure {name} is no longer seen (QEMU {qemu}): {DEPARTURES[name].text}"
            for name in wanted
            if name in known
        ],
        *[
            f"departure {name} is no longer seen (kernel {generation}): {quirks.QUIRKS[name].code}"
            for name in wanted
            if name in by_kernel
        ],
    ]


def exit_code(so_far: int, scenario: str, verdict: Verdict, qemu: str = "", *, scripted: bool = True) -> int:
    """The exit code after one more verdict, `qemu`'s version known or "": 1 (a rule broken) over 4 (unknown) over 0.

    `scripted`: whether its host did what the scenario asked of it (U); what a simulated kernel did not do is no fault.
    """
    known = SCENARIOS.get(scenario)
    if known is None:
        known = Scenario(name=scenario, body=_nothing, summary="")
    if not scripted:
        return worse(so_far, "pass" if _convicted(known, verdict) is None else "fail")
    return worse(so_far, judge(known, verdict, qemu)[0])


def worse(so_far: int, outcome: Outcome) -> int:
    """The exit code after one more outcome."""
    code = {"fail": 1, "unknown": 4}.get(outcome, 0)
    return code if so_far == 0 or code == 1 else so_far


async def _nothing(_: Session) -> None:
    """A recorded scenario that this version does not have has no body to run."""


class Runner:
    """`async with Runner(setup, run_dir=...) as runner:` then `run` each scenario; the guest is booted when needed."""

    def __init__(
        self,
        setup: Setup | EmulatedSetup,
        *,
        run_dir: Path,
        seed: int,
        breaks: str | None = None,
        on_boot: Callable[[str], None] = lambda _: None,
        checker: Callable[[History], Verdict] = check,
    ) -> None:
        self.setup = setup
        self.run_dir = run_dir / _place(setup.kind, "")
        self.seed = seed
        self.boots = 0
        self._booted, self._lost_boots = False, 0
        self._breaks = breaks
        self._on_boot = on_boot
        self._check = checker
        self._guest: BootedGuest | EmulatedGuest | None = None
        self._misused = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Runner:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._shut()

    @property
    def guest(self) -> Guest | None:
        """The guest that is running now; None on the emulator, which boots none."""
        return self._guest if isinstance(self._guest, Guest) else None

    def fits(self, scenario: Scenario) -> bool:
        """Whether the guest that is running is of the shape that the scenario needs."""
        return self._guest is not None and self._guest.shape == self.setup.topology(scenario.shape)

    async def run(self, scenario: Scenario, *, seed: int | None = None) -> Result:
        """One scenario, whole; `seed` in place of the runner's own.

        Errors: what stops a guest from booting, be it by the environment or the first of all; all else is in the
        Result.
        """
        missing = sorted(scenario.needs - self.setup.offers)
        on_kernel = KERNEL in scenario.needs
        unfit = f"needs {', '.join(missing)}" if missing else ""
        if isinstance(self.setup, Setup) and self.setup.host == KERNEL and not on_kernel:
            unfit = "written for host U; the kernel under test has the device to itself"
        if unfit:
            return self._not_run(scenario, "skipped", unfit)
        start = time.monotonic()
        try:
            guest = await self._fit(self.setup.topology(scenario.shape), on_kernel)
        except OutcomeUnknown as error:
            if not self._booted:
                raise
            self._lost_boots += 1
            said = error.message if len(error.message) <= MAX_SAID else f"{error.message[:MAX_SAID]}..."
            return self._not_run(scenario, "unknown", f"no guest: {said}", time.monotonic() - start)
        if guest is None:
            return self._not_run(scenario, "unknown", f"no guest: the last {MAX_LOST_BOOTS} died while they booted")
        start = time.monotonic()
        directory = new_directory(self.run_dir, scenario.name)
        header = guest.header(scenario.name, self.seed if seed is None else seed)
        with Writer(directory / HISTORY, header, time.monotonic_ns) as writer:
            guest.begin(writer)
            try:
                reason, outcome = await self._body(scenario, guest.session(writer))
            finally:
                guest.end()
        verdict = self._judged(directory)
        known = next((found.departure for found in verdict.findings if found.clause == "DEV-9.alive"), None)
        if outcome == "unknown" and known is not None:
            reason, outcome = f"the guest died of {known}, which is known", "pass"
        mute = header.host.get("dynamic_debug") is False
        generation = header.host["generation"] if on_kernel else ""
        judged, why = judge(scenario, verdict, self.setup.version, generation, mute=mute)
        if outcome == "skipped" or not (self.setup.scripted or on_kernel or SIMULATED in scenario.needs):
            outcome, reason, judged, why = _unscripted(scenario, verdict, (outcome, reason), (judged, why))
        if _WEIGHT[judged] > _WEIGHT[outcome]:
            reason, outcome = why, judged
        result = Result(
            scenario=scenario,
            outcome=outcome,
            reason=reason,
            verdict=verdict,
            seconds=time.monotonic() - start,
            directory=directory,
            topology=self.setup.kind,
            emulated=isinstance(self.setup, EmulatedSetup),
            misused=self._misused,
            generation=str(header.host["generation"]) if on_kernel else "",
        )
        (directory / VERDICT).write_text(json.dumps(as_data(result), indent=1) + "\n")
        return result

    def _not_run(self, scenario: Scenario, outcome: Outcome, reason: str, seconds: float = 0.0) -> Result:
        """The result of a scenario that was not begun."""
        return Result(
            scenario=scenario,
            outcome=outcome,
            reason=reason,
            verdict=None,
            seconds=seconds,
            directory=None,
            topology=self.setup.kind,
            emulated=isinstance(self.setup, EmulatedSetup),
        )

    async def _body(self, scenario: Scenario, session: Session) -> tuple[str, Outcome]:
        """Run and settle; what the script itself had to say (the checker speaks later)."""
        reason = ""
        outcome: Outcome = "pass"
        begun = self._misused = False
        try:
            async with asyncio.timeout(scenario.timeout_s):
                if self._breaks is not None:
                    for device in session.devices:
                        await session.break_rule(self._breaks, device=device)
                begun = True
                if isinstance(session, KernelSession):
                    await session.begin()
                with into(session.writer.path.parent):
                    await _alone(scenario.body(session))
        except AssertionError as error:
            reason, outcome = f"the scenario expected otherwise: {_assertion(error)}", "fail"
        except TimeoutError:
            reason, outcome = f"not over after {scenario.timeout_s} s", "unknown"
        except OutcomeUnknown as error:
            reason, outcome = str(error), "unknown"
        except Unserved as error:
            reason, outcome = error.message, "skipped"
        except AnsweredWrongly as error:
            reason, outcome = str(error), "fail"
        except Exception as error:
            if not begun or scenario.origin is None or isinstance(error, CannotRun):
                await self._shut()
                raise
            self._misused = isinstance(error, AskedWrongly)
            reason, outcome = _mistake(error, scenario.origin, session.writer.path.parent), "unknown"
        death = await self._settle(session, scenario.settle, doubtful=outcome != "pass")
        if death is not None and death.kind in ("panic", "silent", "outside"):
            reason, outcome = f"{death.kind}: {death.text}", "unknown"
        return reason, outcome

    def _judged(self, directory: Path) -> Verdict:
        """The verdict of the scenario's history, and of those of the guests that it had beside the first."""
        with (directory / HISTORY).open("rb") as file:
            verdict = self._check(History(file))
        for path in sorted(directory.glob(f"{BESIDE}*/{HISTORY}")):
            with path.open("rb") as file:
                verdict = verdict.joined(path.parent.name, self._check(History(file)))
        return verdict

    async def _settle(self, session: Session, wanted: bool, *, doubtful: bool) -> Death | None:
        """Make the guest fit for the next scenario, or give it up. One that died leaves a `gone` line a device."""
        guest = self._guest
        assert guest is not None
        death = await guest.diagnose() if doubtful else guest.death
        try:
            if death is None and wanted and (not self.setup.fresh or isinstance(session, KernelSession)):
                async with asyncio.timeout(SETTLE_TIMEOUT_S):
                    await session.settle()
                if self.setup.fresh:
                    await self._shut()
                return None
        except (DcdError, TimeoutError):
            death = await guest.diagnose()
        if death is not None and isinstance(session, KernelSession):
            console = guest.console_end(LAST_WORDS_BYTES) if isinstance(guest, Guest) else ""
            session.died(death.text if death.kind == "panic" else "", console)
        if death is not None:
            for device in session.devices:
                value = {"device": device, "kind": death.kind, "reason": death.text}
                session.writer.end(session.writer.invoke("device", "gone", value), "ok", {"reason": death.text})
        await self._shut()
        return death

    async def _fit(self, shape: Topology, on_kernel: bool = False) -> BootedGuest | EmulatedGuest | None:
        """The guest that is there if it is of this shape, else a fresh one; None when too many in a row have died."""
        if self._guest is not None and self._guest.shape == shape:
            return self._guest
        await self._shut()
        if self._lost_boots == MAX_LOST_BOOTS:
            return None
        directory = new_directory(self.run_dir, "guest")
        number = directory.suffix.removeprefix(".") or "1"  # of those of this run, also side by side
        self._on_boot(f"{self.setup.begins} {number} ({self.setup.label})")
        setup = self.setup
        if isinstance(setup, EmulatedSetup) and on_kernel:
            setup = replace(setup, under_test=True)
        guest = setup.guest(shape, directory)
        self.boots += 1
        await self._stack.enter_async_context(guest)
        self._booted, self._lost_boots = True, 0
        self._guest = guest
        return guest

    async def _shut(self) -> None:
        self._guest = None
        await self._stack.aclose()


def new_directory(parent: Path, name: str) -> Path:
    """A directory of this name that was not there before: `name`, or `name.2`, `name.3` ... Errors: CannotRun."""
    for number in range(1, MAX_DIRECTORIES):
        path = parent / (name if number == 1 else f"{name}.{number}")
        try:
            path.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise CannotRun(f"cannot make {path}: {error.strerror}; choose another --run-dir") from error
        return path
    raise CannotRun(f"{parent} holds {MAX_DIRECTORIES} directories called {name}; choose another --run-dir")


def _assertion(error: AssertionError) -> str:
    """The assertion's own words, or the line that failed."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = str(error) or frame.line or "an assertion"
    return f"{said} ({Path(frame.filename).name}:{frame.lineno})"


async def _alone(body: Awaitable[None]) -> None:
    """Await it; of several errors of its tasks, the first."""
    try:
        await body
    except ExceptionGroup as several:
        first: Exception = several
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from None


def _mistake(error: Exception, script: Path, directory: Path) -> str:
    """What a script did wrong, in a line; the whole is kept in the directory."""
    with (directory / TRACEBACK).open("w") as file:
        traceback.print_exception(error, file=file)
    return f"the script's own mistake ({where(error, script)}): {told(error)}"


def _place(kind: Kind, name: str) -> str:
    """Where in the run directory something is kept: `direct` has no directory of its own."""
    return name if kind == "direct" else f"{kind}/{name}"


def as_data(result: Result) -> dict[str, Any]:
    """A result as JSON data."""
    return {
        "scenario": result.scenario.name,
        "topology": result.topology,
        "outcome": result.outcome,
        "reason": result.reason,
        "seen": "" if result.verdict is None else result.verdict.seen,
        "seconds": round(result.seconds, 3),
        "directory": None if result.directory is None else _place(result.topology, result.directory.name),
        "verdict": None if result.verdict is None else result.verdict.as_data(),
    }
