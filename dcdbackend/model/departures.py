"""Known differences of real devices from the rules, by id.

A departure is neither allowed in silence nor counted as new: the model goes on with what the device really does, and
what was seen is a finding with outcome "departure". The table holds what was measured (or read in the device's source
and then measured); it does not excuse anything else. A version that was never measured is given what its neighbours
have, upwards only: what is older than all that was measured has no known departures, and shows them as broken rules.
The kernel's departures (Q) do not belong here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

CRASH, BREACH = "crash", "breach"


class Departure(NamedTuple):
    """`first`, `last`: QEMU versions, inclusive, as "10.0"; "" is open. `clause`: the one that it breaks.

    `severity`: "crash" (the device dies: a finding of the highest severity, DEV-9) or "breach". `source`: what it
    was measured on, and how.
    """

    id: str
    clause: str
    text: str
    first: str
    last: str
    source: str
    severity: str = BREACH


_OLDEST = "10.0"
"""The oldest release that was measured (10.0.2, 10.0.13). What it does not have is taken to begin with the next one."""
_BOTH = "measured on QEMU 10.0.2 and 11.1.3"
_NOT_10_0 = "measured on QEMU 11.1.3; 10.0.2 does not have it; versions between them were not measured"
_ONLY_10_0 = "measured on QEMU 10.0.2 and 10.0.13; 11.1.3 does not have it; versions between them were not measured"
_BY_FM = "measured on QEMU 11.1.3 over FM-API, which 10.0.2 does not have: there it cannot be seen"

_ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("QEMU-qmp-wraps", "DEV-9.alive", "an extent over QMP whose offset + length reaches 2^64 kills it", _BOTH),
    ("QEMU-empty-answer", "DEV-9.alive", "an empty 4802h while nothing is pending kills it", _BOTH),
    ("QEMU-fm-nothing", "DEV-9.alive", "a prescriptive 5604h of no extents, or cut before its count, kills it", _BY_FM),
    ("QEMU-fm-wraps", "DEV-9.alive", "a 5604h of an extent that passes 2^64 kills it", _BY_FM),
    ("QEMU-fm-region", "DEV-9.alive", "5602h of a region below 8 that it does not have kills it", _BY_FM),
    ("QEMU-fm-empty", "DEV-2.nonempty", "5604h and 5605h take an extent without length", _BY_FM),
    ("QEMU-fm-short", "DEV-8.16h", "5604h and 5605h read on where their payload ends before its extents", _BY_FM),
    ("QEMU-fm-host", "DEV-8.02h-host", "a host id in a 5604h or 5605h is not checked", _BY_FM),
    ("QEMU-release-nothing", "DEV-2.nonempty", "4803h of a range without length succeeds", _BOTH),
    ("QEMU-add-full", "DEV-8.1Dh", "an add over QMP of more extents than it supports is offered", _BOTH),
    ("QEMU-counts-twice", "DEV-8.served", "4802h counts offered extents twice: the last of 512 get 1Dh", _NOT_10_0),
    ("QEMU-available-wraps", "DEV-19.extents", "with too many in use the available extents wrap below 0", _NOT_10_0),
    ("QEMU-available-pending", "DEV-19.extents", "4800h counts what is pending as available", _ONLY_10_0),
    ("QEMU-list-pending", "DEV-10.extents", "a list page has an empty entry for each pending extent", _NOT_10_0),
    ("QEMU-log", "DEV-4.whole", "the event log holds 8 records: what a longer chain has more is lost", _BOTH),
    ("QEMU-severity", "DEV-4.severity", "a record's severity is 01b (warning), not 00b (informational)", _BOTH),
    ("QEMU-tag", "DEV-10.tag", "tag and sequence are forgotten when the host accepts", _BY_FM),
    ("QEMU-generation", "DEV-10.generation-changes", "the list's generation number stays 0", _BOTH),
    ("QEMU-answer-more", "DEV-6.more", "an answer's own More flag is ignored: it settles the chain", _BOTH),
    ("QEMU-clear-code", "DEV-16.clear-order", "0101h out of order gives 02h, not 0Eh", _BOTH),
    ("QEMU-clear-all", "DEV-16.clear-all", "Clear All succeeds and clears nothing", _BOTH),
    ("QEMU-clear-beyond", "DEV-16.clear-unknown", "0101h ignores handles past the last record", _BOTH),
    ("QEMU-remain", "DEV-16.remain", "0100h says that records remain whenever the log is not empty", _BOTH),
    ("QEMU-tag-qmp", "DEV-4.tag", "a tag given over QMP is not parsed and does not reach the host", _BOTH),
    ("QEMU-host", "DEV-8.02h-host", "a host id given over QMP is not checked", _BOTH),
    ("QEMU-host-id", "DEV-20.host", "a host id given over QMP does not reach the record, which says 0", _NOT_10_0),
    ("QEMU-forced", "DEV-12.taken", "a forced release is refused, or sent as an ordinary request", _BOTH),
    ("QEMU-sanitize", "DEV-14.cleared", "a request to sanitize is accepted and ignored", _BOTH),
    ("QEMU-tags-supported", "DEV-19.tags", "0 tags are supported by report, yet tags are taken", _BY_FM),
)
_CRASHES = frozenset(("QEMU-qmp-wraps", "QEMU-empty-answer", "QEMU-fm-nothing", "QEMU-fm-wraps", "QEMU-fm-region"))

DEPARTURES: dict[str, Departure] = {
    name: Departure(
        id=name,
        clause=clause,
        text=text,
        first=_OLDEST if source in (_BOTH, _ONLY_10_0) else "10.1",
        last=_OLDEST if source is _ONLY_10_0 else "",
        source=source,
        severity=CRASH if name in _CRASHES else BREACH,
    )
    for name, clause, text, source in _ROWS
}


def worst_first(names: Iterable[str]) -> list[str]:
    """The ids in the order to tell them: those that kill the device, then the others, each in the table's order."""
    told = frozenset(names)
    known = [row.id for row in sorted(DEPARTURES.values(), key=lambda row: row.severity != CRASH) if row.id in told]
    return known + sorted(told - frozenset(known))


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
