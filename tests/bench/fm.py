"""The fabric manager's way in, measured: `python tests/bench/fm.py [--samples N] [--json]`.

One guest under a switch, host U answering, every operation in a history:

    fm      a tunneled 5604h, the host's answer, and 5603h showing the extent as accepted
    qmp     the same by QEMU's monitor: the add, the host's answer, and the block state saying accepted
    list    500 extents read by 5603h and parsed, against one question for one of them (a round trip)

`fm` and `qmp` in turns, medians of each; between two samples everything is released. Exit: 1 above a target (`fm` at
most 2 x `qmp`; the list in under 50 round trips' time), else 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import bare

from dcdbackend.bench import Span
from dcdbackend.boot import Setup
from dcdbackend.fabric import Fabric
from dcdbackend.history import Writer
from dcdbackend.session import Session

MOST_RATIO = 2.0
MOST_ROUND_TRIPS = 50
ENTRIES = 500
LOG_RECORDS = 8
TURN = 10
WARM_UP = 20
BLOCK = 2 << 20
WAIT_S = 5.0


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200, help="adds of each kind (default 200)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    setup = replace(bare.setup(), kind="switch")
    with tempfile.TemporaryDirectory(prefix="dcd-fm-") as scratch:
        found = asyncio.run(measure(setup, Path(scratch), -(-options.samples // TURN)))
    ratio, trips = found["fm_s"] / found["qmp_s"], found["list_s"] / found["round_trip_s"]
    if options.json:
        sys.stdout.write(json.dumps({**found, "ratio": ratio, "round_trips": trips}) + "\n")
    else:
        sys.stdout.write(
            f"add, answer, witness by QMP {1e3 * found['qmp_s']:.2f} ms, by FM-API {1e3 * found['fm_s']:.2f} ms: "
            f"{ratio:.2f}x (at most {MOST_RATIO})\n"
            f"{ENTRIES} extents by 5603h {1e3 * found['list_s']:.2f} ms, a round trip "
            f"{1e3 * found['round_trip_s']:.2f} ms: {trips:.1f} round trips (at most {MOST_ROUND_TRIPS})\n"
        )
    return 1 if ratio > MOST_RATIO or trips > MOST_ROUND_TRIPS else 0


async def measure(setup: Setup, root: Path, turns: int) -> dict[str, float]:
    """Medians in seconds: `fm_s`, `qmp_s`, `list_s`, `round_trip_s`."""
    times: dict[str, list[float]] = {"qmp": [], "fm": [], "list": [], "trip": []}
    async with setup.guest(setup.topology(), root / "guest") as guest:
        with Writer(root / "history.jsonl", guest.header("fm-bench", 1), time.monotonic_ns) as writer:
            guest.begin(writer)
            bench = guest.session(writer)
            for via in ("qmp", "fm"):
                await cycles(bench, via, [], WARM_UP)
            for _ in range(turns):
                for via in ("qmp", "fm"):
                    await cycles(bench, via, times[via], TURN)
            await fill(bench)
            device = await Fabric(guest).device("mem0")
            for _ in range(20):
                start = time.perf_counter()
                one = await device.extents(count=1)
                between = time.perf_counter()
                whole = await device.extent_list()
                end = time.perf_counter()
                if one.returned != 1 or len(whole.extents) != ENTRIES:
                    raise SystemExit(f"5603h showed {one.returned} and {len(whole.extents)} extents")
                times["trip"].append(between - start)
                times["list"].append(end - between)
            verdict = await bench.verdict()
            guest.end()
    if verdict.failed:
        raise SystemExit(f"the bench's own run broke a rule: {verdict.failed[0].text}")
    medians = {name: statistics.median(found) for name, found in times.items()}
    return {
        "fm_s": medians["fm"],
        "qmp_s": medians["qmp"],
        "list_s": medians["list"],
        "round_trip_s": medians["trip"],
    }


async def cycles(bench: Session, via: str, times: list[float], count: int) -> None:
    """Add one block, wait for the answer, ask the witness that goes with the way in; then release it."""
    for number in range(count):
        span = Span(number % 8 * BLOCK, BLOCK)
        start = time.perf_counter()
        offer = await bench.add([span], via=via)
        if not await bench.feed.until(lambda offer=offer: offer.answered is not None, WAIT_S):  # type: ignore[misc]
            raise SystemExit(f"no answer to an add by {via} within {WAIT_S} s")
        if via == "fm":
            seen = [one["dpa"] for one in await bench.fm_extents()] == [bench.dpa(0, span.offset_bytes)]
        else:
            seen = await bench.block(span.offset_bytes) == "accepted"
        times.append(time.perf_counter() - start)
        if not seen:
            raise SystemExit(f"an add by {via} was answered, and its witness does not see it")
        await bench.release([span], via=via)
        await bench.idle()


async def fill(bench: Session) -> None:
    """ENTRIES extents held, none beside another; chains as long as QEMU's log."""
    for first in range(0, ENTRIES, LOG_RECORDS):
        for region in (0, 1):
            places = [at for at in range(first, min(first + LOG_RECORDS, ENTRIES)) if at % 2 == region]
            await bench.add([Span(at // 2 * 2 * BLOCK, BLOCK) for at in places], region=region)
            await bench.idle()


if __name__ == "__main__":
    raise SystemExit(main())
