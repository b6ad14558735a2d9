"""How fast the checker is: `python tests/bench/checker_speed.py [LINES [LIVE]]` prints lines a second.

A synthetic history: LIVE extents are accepted and stay; then offers, answers, witnesses, requests and releases
go round, one after the other. Time goes from the file's bytes to the verdict, for the checker alone on operations in
memory, and for the model's step alone. Two ratios, each within one run: a step with 100,000 live extents against one
with 1,000, peak memory of 1,000,000 lines against 100,000. Seconds are of CPU. It measures and asserts nothing: a
machine that is shared says little twice.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dcdbackend.checker import check
from dcdbackend.checker.notation import header
from dcdbackend.history import Header, History, Op, op_line
from dcdbackend.model import device as reference
from dcdbackend.model.state import Completed, Next, config_of
from dcdbackend.units import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 2 * MIB


def operations(live: int) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Process, f, what is sent and what comes back, without end."""
    handle = 0

    def told(kind: int, dpa: int, used: int) -> dict[str, Any]:
        return {
            "handle": handle, "type": kind, "more": False, "validity": 1, "host_id": 0, "region": 0, "dpa": dpa,
            "length": BLOCK, "tag": "00" * 16, "sequence": 0, "available_extents": 1_000_000 - used,
            "available_tags": 0,
        }  # fmt: skip

    at = 0
    while True:
        dpa = at * 2 * BLOCK
        held = min(at, live)
        manager = {
            "device": "mem0", "via": "qmp", "host_id": 0, "policy": "prescriptive", "region": 0, "tag": None,
            "extents": [{"offset": dpa, "length": BLOCK}],
        }  # fmt: skip
        ranges = {"device": "mem0", "flags": 0, "ranges": [[dpa, BLOCK]]}
        log = {"device": "mem0", "log": 4}
        reply = {"rc": 0, "flags": 0, "overflow_count": 0}
        handle = handle % 65535 + 1
        yield "manager", "add", manager, {}
        yield "host.mem0", "events", log, {**reply, "records": [told(0, dpa, held + 1)]}
        yield "host.mem0", "answer", ranges, {"rc": 0}
        yield "host.mem0", "clear", {**log, "flags": 0, "handles": [handle]}, {"rc": 0}
        if at >= live:
            yield "witness", "block", {"device": "mem0", "region": 0, "offset": dpa}, {"state": "accepted"}
            handle = handle % 65535 + 1
            yield "manager", "release", {**manager, "forced": False, "sanitize": False}, {}
            yield "host.mem0", "events", log, {**reply, "records": [told(1, dpa, held + 1)]}
            yield "host.mem0", "give_back", ranges, {"rc": 0}
            yield "host.mem0", "clear", {**log, "flags": 0, "handles": [handle]}, {"rc": 0}
            yield "witness", "block", {"device": "mem0", "region": 0, "offset": dpa}, {"state": "free"}
        at += 1


def lines(count: int, live: int) -> Iterator[Op]:
    """`count` lines of the history."""
    for at, (process, f, sent, received) in enumerate(islice(operations(live), count // 2)):
        n = 2 * at + 1
        yield Op(n, n, process, "invoke", f, n * 1000, sent)
        yield Op(n + 1, n, process, "ok", f, n * 1000 + 500, received)


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--peak"]:
        return peak(int(sys.argv[2]), int(sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", metavar="LINES", nargs="?", type=int, default=100_000, help="default 100000")
    parser.add_argument("live", metavar="LIVE", nargs="?", type=int, default=1_000, help="default 1000")
    options = parser.parse_args()
    count, live = options.count, options.live
    head = header(regions=1, size=sized(count))
    with tempfile.TemporaryFile() as file:
        write(file, head, count, live)
        start = time.process_time()
        verdict = check(History(file))
        report("file to verdict", count, live, time.process_time() - start, verdict.outcome)
    ops = list(lines(min(count, 200_000), live))
    start = time.process_time()
    verdict = check(ops, head)
    report("checker alone", len(ops), live, time.process_time() - start, verdict.outcome)
    steps_alone(head, min(count, 200_000) // 2, live)
    by_live()
    by_length()
    return None


def sized(count: int) -> int:
    """The size of a region that is large enough for so many lines."""
    return -(-(count + 1) * 2 * BLOCK // (256 * MIB)) * 256 * MIB


def write(file: BinaryIO, head: Header, count: int, live: int) -> None:
    """The history into a file, which is then at its beginning."""
    file.write(head.line())
    file.writelines(map(op_line, lines(count, live)))
    file.seek(0)


def steps_alone(head: Header, count: int, live: int) -> None:
    """The model's step and nothing else, over operations that were made before."""
    made = operations(live)
    state = reference.initial(config_of(head.devices[0]))
    step = reference.step
    seconds = 0.0
    for _ in range(count // 10_000):  # few at a time: a heap of dictionaries is the collector's cost, not the step's
        ops = [Completed(f, sent, "ok", received) for _, f, sent, received in islice(made, 10_000)]
        start = time.process_time()
        for one in ops:
            found = step(state, one)
            assert isinstance(found, Next)
            state = found.state
        seconds += time.process_time() - start
    sys.stdout.write(f"step alone: {count / seconds:,.0f} steps/s ({count:,} steps, {live:,} live)\n")


def by_live() -> None:
    """The time of a step with 100,000 live extents against one with 1,000, in one run; best of three."""
    costs = {}
    for live in (1_000, 100_000):
        state = reference.initial(config_of(header(regions=1, size=sized(2 * live + 80_000)).devices[0]))
        made = operations(live)
        for _, f, sent, received in islice(made, 4 * live):
            found = reference.step(state, Completed(f, sent, "ok", received))
            assert isinstance(found, Next)
            state = found.state
        best = float("inf")
        for _ in range(3):
            ops = [Completed(f, sent, "ok", received) for _, f, sent, received in islice(made, 10_000)]
            start = time.process_time()
            for one in ops:
                found = reference.step(state, one)
                assert isinstance(found, Next)
                state = found.state
            best = min(best, time.process_time() - start)
        costs[live] = best / 10_000
    ratio = costs[100_000] / costs[1_000]
    shown = ", ".join([f"{cost * 1e6:.1f} us at {live:,} live" for live, cost in costs.items()])
    sys.stdout.write(f"step by live extents: {ratio:.2f}x ({shown}; at most 3x)\n")


def by_length() -> None:
    """Peak memory of a check of 100,000 lines against 1,000,000, the same extents live; each in its own process."""
    peaks = {}
    for count in (100_000, 1_000_000):
        argv = [sys.executable, __file__, "--peak", str(count), "10000"]
        peaks[count] = int(subprocess.run(argv, check=True, capture_output=True, timeout=600).stdout)
    shown = ", ".join([f"{peak / 1024:.0f} MiB for {count:,} lines" for count, peak in peaks.items()])
    sys.stdout.write(f"peak memory, 10,000 live: {peaks[1_000_000] / peaks[100_000]:.2f}x ({shown})\n")


def peak(count: int, live: int) -> None:
    """Check such a history in this process; prints its peak resident size, KiB."""
    with tempfile.TemporaryFile() as file:
        write(file, header(regions=1, size=sized(count)), count, live)
        check(History(file))
    status = Path("/proc/self/status").read_text()  # getrusage() keeps what the parent had before the exec
    sys.stdout.write(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def report(what: str, count: int, live: int, seconds: float, outcome: str) -> None:
    """One line of the result."""
    rate = f"{count / seconds:,.0f} lines/s"
    sys.stdout.write(f"{what}: {rate} ({count:,} lines, {live:,} live, {seconds:.2f} s, {outcome})\n")


if __name__ == "__main__":
    main()
