"""Known differences of real devices from the rules, by id.

A departure is neither allowed in silence nor counted as new: the model goes on with what the device really does, and
what was seen is a finding with outcome "departure". The table holds what was measured (or read in the device's source
and then measured); it does not excuse anything else. The kernel's departures (Q) do not belong here.
"""

from __future__ import annotations

from typing import NamedTuple


class Departure(NamedTuple):
    """`first`, `last`: QEMU versions, inclusive, as "9.1"; "" is open. `clause`: the one that it breaks."""

    id: str
    clause: str
    text: str
    first: str
    last: str
    source: str


_MEASURED = "measured on QEMU 10.0.2 and 11.1.3"
_NEWER = "measured on QEMU 11.1.3"

_ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("QEMU-qmp-wraps", "DEV-9.alive", "an extent over QMP whose offset + length reaches 2^64 kills it", _NEWER),
    ("QEMU-empty-answer", "DEV-9.alive", "an empty 4802h while nothing is pending kills it", _NEWER),
    ("QEMU-release-nothing", "DEV-2.nonempty", "4803h of a range without length succeeds", _NEWER),
    ("QEMU-add-full", "DEV-8.1Dh", "an add over QMP of more extents than it supports is offered", _NEWER),
    ("QEMU-counts-twice", "DEV-8.served", "4802h counts offered extents twice: the last of 512 get 1Dh", _NEWER),
    ("QEMU-list-pending", "DEV-10.extents", "a list page has an empty entry for each pending extent", _NEWER),
    ("QEMU-log", "DEV-4.whole", "the event log holds 8 records: what a longer chain has more is lost", _MEASURED),
    ("QEMU-tag", "DEV-10.tag", "tag and sequence are forgotten when the host accepts", _MEASURED),
    ("QEMU-generation", "DEV-10.generation-changes", "the list's generation number stays 0", _MEASURED),
    ("QEMU-answer-more", "DEV-6.more", "an answer's own More flag is ignored: it settles the chain", _MEASURED),
    ("QEMU-clear-code", "DEV-16.clear-order", "0101h out of order gives 02h, not 0Eh", _MEASURED),
    ("QEMU-clear-all", "DEV-16.clear-all", "Clear All succeeds and clears nothing", _MEASURED),
    ("QEMU-clear-beyond", "DEV-16.clear-unknown", "0101h ignores handles past the last record", _MEASURED),
    ("QEMU-remain", "DEV-16.remain", "0100h says that records remain whenever the log is not empty", _NEWER),
    ("QEMU-tag-qmp", "DEV-4.tag", "a tag given over QMP is not parsed and does not reach the host", _MEASURED),
    ("QEMU-host", "DEV-8.02h-host", "a host id given over QMP is not checked", _MEASURED),
    ("QEMU-forced", "DEV-12.taken", "a forced release is refused, or sent as an ordinary request", _MEASURED),
    ("QEMU-sanitize", "DEV-14.cleared", "a request to sanitize is accepted and ignored", _MEASURED),
    ("QEMU-tags-supported", "DEV-19.tags", "0 tags are supported by report, yet tags are taken", _NEWER),
)

_FIRST = {"QEMU-list-pending": "10.1", "QEMU-counts-twice": "10.1"}  # since it counts what is pending
DEPARTURES: dict[str, Departure] = {
    name: Departure(name, clause, text, _FIRST.get(name, "9.1"), "", source) for name, clause, text, source in _ROWS
}


def applicable(version: str) -> frozenset[str]:
    """The ids of the departures that QEMU of `version` ("11.1.3") has; none for a version that is not a number."""
    found = _number(version)
    return frozenset(
        [
            departure.id
            for departure in DEPARTURES.values()
            if found
            and _number(departure.first) <= found
            and (not departure.last or found[: departure.last.count(".") + 1] <= _number(departure.last))
        ]
    )


def _number(version: str) -> tuple[int, ...]:
    """The leading number of a version: (11, 1, 3) of `11.1.3 (Debian 1:11.1.3+ds-1)`."""
    parts: list[int] = []
    for part in version.split(" ")[0].split("."):
        digits = ""
        for letter in part:
            if letter not in "0123456789":
                break
            digits += letter
        if not digits:
            break
        parts.append(int(digits))
        if digits != part:
            break
    return tuple(parts)
