"""From an add to its witnessed answer: `python tests/bench/latency.py [--samples N] [--json]`.

Two guests of one kernel under one set of QEMU arguments, and one of them running at a time, in turns:

    bare    the loops of `bare.py` and `bare_guest.py`: 0100h every 0.5 ms, no validation, no history
    sleep   the bench: Session, Guest and Qmp as `dcd regress` has them, host U, its default poll
    spin    the same with the poll mode `spin`

An add's time ends when the answer is witnessed: the block-state question has said `accepted` (a release's: `free`).
For the bench the host's answer has come over the link by then, and the witness's line is in the history. `whole` is
`Offer.answer()` to its return: the bench then asks for the states of the neighbouring blocks, too, which the reference
never does. `--json` gives all figures. Exit: 1 above a target, 4 when the reference itself was too slow to say
anything (the machine is not fit for measuring now), else 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import bare

from dcdbackend import machine, topology
from dcdbackend.boot import Setup, session_on
from dcdbackend.guest import Guest
from dcdbackend.history import Header, Op, Writer
from dcdbackend.session import Session

TARGETS = {"sleep": 2.0, "spin": 1.5}
VOID_ABOVE_S = 0.0025
TURN = 20
WARM_UP = 40
_SPINS = 100_000

Times = dict[str, list[float]]


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300, help="adds (and releases) of each kind (default 300)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    setup = bare.setup()
    with tempfile.TemporaryDirectory(prefix="dcd-latency-") as scratch:
        found = asyncio.run(measure(setup, Path(scratch), -(-options.samples // TURN)))
    return report(setup, found, as_json=options.json)


async def measure(setup: Setup, root: Path, turns: int) -> dict[str, Times]:
    """Seconds of each add and release, by kind."""
    found = {kind: _none() for kind in ("bare", *TARGETS)}
    async with AsyncExitStack() as stack:
        monitor = await bare_guest(setup, root, stack)
        guest = await stack.enter_async_context(
            Guest(
                qemu=setup.qemu,
                accel=setup.accel,
                kernel=setup.kernel,
                initrd=setup.initrd,
                shape=topology.direct(),
                run_dir=root / "guest",
            )
        )
        header = Header("qemu", {"version": setup.qemu.version}, {"generation": "U"}, guest.devices(), 1, "latency")
        writer = stack.enter_context(Writer(root / "history.jsonl", header, time.monotonic_ns))
        guest.begin(writer)
        stack.callback(guest.end)
        session = session_on(guest, writer)
        witnessed = Witnessed()
        writer.listen(witnessed.see)

        async def bare_turn(times: Times, count: int) -> None:
            monitor.execute({"execute": "cont"})
            bare_cycles(monitor, times, count)
            monitor.execute({"execute": "stop"})

        def our_turn(mode: str) -> Callable[[Times, int], Awaitable[None]]:
            async def turn(times: Times, count: int) -> None:
                await guest.qmp.execute("cont")
                await guest.control("poll", {"mode": mode})
                await our_cycles(session, witnessed, times, count)
                await guest.qmp.execute("stop")

            return turn

        take: dict[str, Callable[[Times, int], Awaitable[None]]] = {"bare": bare_turn}
        take |= {kind: our_turn(kind) for kind in TARGETS}
        await guest.qmp.execute("stop")
        for kind in take:
            await take[kind](_none(), WARM_UP)
        for _ in range(turns):
            for kind in take:
                await take[kind](found[kind], TURN)
        await guest.qmp.execute("cont")
        verdict = await session.verdict()
        if verdict.failed:
            raise SystemExit(f"the bench's own run broke a rule: {verdict.failed[0].text}")
    return found


async def bare_guest(setup: Setup, root: Path, stack: AsyncExitStack) -> bare.Monitor:
    """The reference guest, answering, and stopped; its monitor."""
    run_dir = root / "bare"
    run_dir.mkdir()
    argv = machine.full_argv(
        qemu=setup.qemu,
        topology=topology.direct(),
        kernel=setup.kernel,
        initrd=bare.guest_initrd(setup, root / "bare.cpio"),
        accel=setup.accel,
    )
    running = subprocess.Popen(  # noqa: ASYNC220 (nothing else runs yet)
        argv, cwd=run_dir, stdin=subprocess.DEVNULL
    )
    stack.callback(running.wait, 10)
    stack.callback(running.kill)
    path = run_dir / machine.QMP_SOCKET
    end = time.monotonic() + 60
    while True:
        try:
            monitor = bare.Monitor(path)
            break
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > end or running.poll() is not None:
                raise
            await asyncio.sleep(0.01)
    stack.callback(monitor.close)
    monitor.add(0)
    while monitor.state(0) != "accepted":
        if time.monotonic() > end:
            raise SystemExit(f"the bare guest does not answer: {(run_dir / machine.CONSOLE_LOG).read_text()[-2000:]}")
        await asyncio.sleep(0.05)
    monitor.release(0)
    _spin(monitor, 0, "free")
    monitor.execute({"execute": "stop"})
    return monitor


def bare_cycles(monitor: bare.Monitor, times: Times, count: int) -> None:
    """Add, spin until accepted, release, spin until free."""
    for number in range(count):
        offset = number % 8 * bare.BLOCK
        start = time.perf_counter()
        monitor.add(offset)
        _spin(monitor, offset, "accepted")
        added = time.perf_counter()
        monitor.release(offset)
        _spin(monitor, offset, "free")
        released = time.perf_counter()
        times["add"].append(added - start)
        times["release"].append(released - added)


def _spin(monitor: bare.Monitor, offset: int, wanted: str) -> None:
    for _ in range(_SPINS):
        if monitor.state(offset) == wanted:
            return
    raise SystemExit(f"the bare guest's block never became {wanted}")


class Witnessed:
    """When the witness first said what is waited for, by the history's lines."""

    def __init__(self) -> None:
        self._wanted = ""
        self.at = 0.0

    def wait_for(self, state: str) -> float:
        """From now on; the time now."""
        self._wanted, self.at = state, 0.0
        return time.perf_counter()

    def see(self, op: Op) -> None:
        if op.f == "block" and op.type == "ok" and op.value["state"] == self._wanted and not self.at:
            self.at = time.perf_counter()


async def our_cycles(session: Session, witnessed: Witnessed, times: Times, count: int) -> None:
    """Add, wait for the answer, release, wait for the response: what a scenario does."""
    for number in range(count):
        extent = [f"{number % 8 * 2}M+2M"]
        start = witnessed.wait_for("accepted")
        offer = await session.add(extent)
        answer = await offer.answer()
        times["add whole"].append(time.perf_counter() - start)
        times["add"].append(witnessed.at - start)
        start = witnessed.wait_for("free")
        request = await session.release(extent)
        response = await request.response()
        times["release whole"].append(time.perf_counter() - start)
        times["release"].append(witnessed.at - start)
        if (answer.outcome, response.outcome) != ("accepted", "released"):
            raise SystemExit(f"the bench saw {answer.outcome} and {response.outcome}")


def _none() -> Times:
    return {what: [] for what in ("add", "release", "add whole", "release whole")}


def report(setup: Setup, found: dict[str, Times], *, as_json: bool) -> int:
    """Print the medians and their ratios; the exit code."""
    figures: dict[str, Any] = {}
    for kind, times in found.items():
        figures[kind] = {}
        for what, seconds in times.items():
            if not seconds:
                continue
            cuts = statistics.quantiles(seconds, n=10)
            figures[kind][what] = {
                "median_ms": round(1e3 * statistics.median(seconds), 3),
                "p10_ms": round(1e3 * cuts[0], 3),
                "p90_ms": round(1e3 * cuts[-1], 3),
            }
    reference = statistics.median(found["bare"]["add"])
    ratios = {kind: statistics.median(found[kind]["add"]) / reference for kind in TARGETS}
    void = reference > VOID_ABOVE_S
    data = {
        "qemu": setup.qemu.version,
        "accel": setup.accel,
        "samples": len(found["bare"]["add"]),
        "figures": figures,
        "ratios": {kind: round(ratio, 2) for kind, ratio in ratios.items()},
        "targets": TARGETS,
        "void": void,
    }
    if as_json:
        sys.stdout.write(json.dumps(data, indent=1) + "\n")
    else:
        for kind, whats in figures.items():
            for what, figure in whats.items():
                low, high = figure["p10_ms"], figure["p90_ms"]
                sys.stdout.write(
                    f"{kind:6}{what:8} median {figure['median_ms']:.2f} ms  (p10 {low:.2f}, p90 {high:.2f})\n"
                )
        for kind, ratio in ratios.items():
            sys.stdout.write(f"add to witnessed answer, {kind} / bare: {ratio:.2f}x (at most {TARGETS[kind]})\n")
    if void:
        slow = f"the reference took {1e3 * reference:.2f} ms, above {1e3 * VOID_ABOVE_S} ms"
        sys.stderr.write(f"void: {slow}; measure again when the machine is idle\n")
        return 4
    return 1 if any(ratio > TARGETS[kind] for kind, ratio in ratios.items()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
