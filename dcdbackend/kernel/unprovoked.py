"""Clauses of the host generations that no scenario on QEMU provokes, or no witness there shows, each with the reason.

It is what a report says of a clause that a run on a kernel under test did not judge: skipped, and why. A test holds it
against the scenarios: what they judge is not here, and what they do not judge is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..linux_rules import NOT_JUDGED, of_generation

_SIZES = "QEMU refuses such an extent itself: it offers blocks of 2 MiB inside a region, and nothing else"
_SHARED = "QEMU has no sharable region"
_OVERLAP = "QEMU refuses to offer what overlaps accepted or pending capacity, or itself"
_CONFIG = "QEMU's device is always set up rightly: its command log, interrupts and regions cannot be made wrong"
_LIST = "QEMU's list does not change while it is read, and a page of it is never short"
_TYPES = "QEMU sends records of type 0 and 1, of one UUID alone"
_BREACH = "it is seen where it is broken: what holds shows nothing"
_UNSEEN = "commands are inferred, and no line of the log tells of this one"
_TAIL = "QEMU queues a chain at once: what its log loses never comes later"
_FAULT = "nothing makes the kernel fail there"

UNPROVOKED: Mapping[str, str] = {
    **NOT_JUDGED,
    **dict.fromkeys(("B8.empty", "B8.wrap", "B9.misaligned", "B10.empty", "B10.wrap"), _SIZES),
    **dict.fromkeys(("B1.sharable", "B7.dense", "B11.tag", "B11.missing", "B16.sharable"), _SHARED),
    **dict.fromkeys(("A4.overlap", "B15.overlap", "B15.own-group", "B17.left-out", "B17.released"), _OVERLAP),
    **dict.fromkeys(("B1.commands", "B1.interrupts", "B1.dsmad", "B1.config", "B1.gap"), _CONFIG),
    **dict.fromkeys(("A9.restart", "B25.restart", "B25.tries", "B25.tries-11", "B25.empty-page", "B25.no-seed"), _LIST),
    **dict.fromkeys(("L2.foreign", "L2.kinds", "L5.forced", "L5.unknown"), _TYPES),
    **dict.fromkeys(("L1.only", "A1.first", "B1.first"), _BREACH),
    **dict.fromkeys(("L1.until-empty", "A6.pages", "B5.pages", "B26.answered"), _UNSEEN),
    **dict.fromkeys(("B3.late-tail", "B4.armed"), _TAIL),
    **dict.fromkeys(("A6.failed", "B26.failed"), _FAULT),
    "B13.scan": "the scan of an empty list is over at once: race-add-region may meet it, and cannot make it",
    "B16.hole": "a group with a hole cannot be claimed (B28.gap), so that no mapping shows it",
    "B28.read-only": "static capacity has no DAX device of a dynamic region; its region is another test's",
}


_FORGOTTEN = {"B26.forgotten": "it is told with the answer to what a scan found, which no line tells of"}
OF_ONE: Mapping[str, Mapping[str, str]] = {
    "A": {"L3.start": "two_regions shows it, by what is under each region (A8.one)"},
    "B-rfc": _FORGOTTEN,
    "v10": _FORGOTTEN,
}
"""What only one generation's scenarios leave out."""


def reasons(generation: str) -> dict[str, str]:
    """By clause, why no scenario shows it of a generation."""
    return {**UNPROVOKED, **OF_ONE.get(generation, {})}


def not_judged(generation: str, judged: Iterable[str]) -> dict[str, str]:
    """Of a generation's clauses, those that nothing judged, with the reason; "" where a scenario could have."""
    seen, why = set(judged), reasons(generation)
    return {
        clause.id: why.get(clause.id, "")
        for clause in of_generation(generation)
        if clause.kind == "must" and clause.id not in seen
    }
