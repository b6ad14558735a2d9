"""Lines of a kernel's log that are wrong whatever the rules: WARN, BUG, Oops, lockdep, KASAN, stalls, panics.

One table, for the agent that reads the log in the guest and for the judge that reads it in a history. What the other
lines mean is not its business, and neither is whose fault an alarm is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_ALARMS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("KASAN", r"\bBUG: K[A-Z]{1,3}SAN\b"),
        (
            "lockdep",
            r"WARNING: (possible|inconsistent|suspicious|bad unlock|lock held|nested lock)|"
            r"possible (circular|recursive) locking|inconsistent lock state|suspicious RCU usage|held lock freed|"
            r"WARNING: (HARDIRQ|SOFTIRQ)|turning off the locking correctness",
        ),
        ("panic", r"Kernel panic\b"),
        ("hung-task", r"INFO: task .{1,80} blocked for more than"),
        ("RCU-stall", r"\brcu\S*:? .{0,40}(self-detected stall|detected stalls|detected expedited stalls|stall on)"),
        ("Oops", r"\bOops\b|general protection fault|unable to handle (kernel|page)|stack segment: "),
        ("BUG", r"kernel BUG at|\bBUG: |\bUBSAN: |watchdog: BUG"),
        ("WARN", r"WARNING: (CPU: \d+|\S+:\d+ |at \S)|kmemleak: \d+ new suspected|\brefcount_t: "),
    )
)
"""The first that fits is the kind: what is narrower comes first."""

_BY_US = "raw command path used"


class Alarm(NamedTuple):
    """A line that is wrong whatever the rules; `kind` is WARN, BUG, Oops, lockdep, KASAN, hung-task, RCU-stall, panic.

    `time_ns` is the guest's clock, as the log line carries it.
    """

    time_ns: int
    kind: str
    text: str


def alarm(text: str) -> str | None:
    """Which kind of alarm a line is; None for a line that is none."""
    return next((kind for kind, pattern in _ALARMS if pattern.search(text)), None)


def alarms_of(lines: Iterable[Mapping[str, Any]]) -> tuple[Alarm, ...]:
    """The alarms among log lines, each `{"t_ns", "text"}`; one a line.

    The one that a kernel gives because somebody sends a raw command is ours: it says so in the line before.
    """
    found: list[Alarm] = []
    before = ""
    for line in lines:
        text: str = line["text"]
        kind = alarm(text)
        if kind is not None and _BY_US not in before:
            found.append(Alarm(line["t_ns"], kind, text))
        before = text
    return tuple(found)
