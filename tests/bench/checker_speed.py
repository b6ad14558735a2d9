"""How fast the checker is: `python tests/bench/checker_speed.py [LINES [LIVE]]` prints lines a second.

A synthetic history: LIVE extents are accepted and stay; then offers, answers, witnesses, requests and releases
go round, one after the other. Time goes from the file's bytes to the verdict, and for the checker alone on
operations in memory. Seconds are of CPU. It measures and asserts nothing: a machine that is shared says little twice.
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from dcdbackend.checker import check
from dcdbackend.checker.notation import header
from dcdbackend.history import History, Op, op_line
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
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    live = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000
    size = (count + 1) * 2 * BLOCK
    head = header(regions=1, size=-(-size // (256 * MIB)) * 256 * MIB)
    with tempfile.TemporaryFile() as file:
        file.write(head.line())
        file.writelines(map(op_line, lines(count, live)))
        file.seek(0)
        start = time.process_time()
        verdict = check(History(file))
        report("file to verdict", count, live, time.process_time() - start, verdict.outcome)
    ops = list(lines(count, live))
    start = time.process_time()
    verdict = check(ops, head)
    report("checker alone", count, live, time.process_time() - start, verdict.outcome)


def report(what: str, count: int, live: int, seconds: float, outcome: str) -> None:
    """One line of the result."""
    rate = f"{count / seconds:,.0f} lines/s"
    sys.stdout.write(f"{what}: {rate} ({count:,} lines, {live:,} live, {seconds:.2f} s, {outcome})\n")


if __name__ == "__main__":
    main()
