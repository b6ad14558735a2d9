"""report.table: a row says "as meant" only where every breach of it was meant, by controller and guest alike."""

from __future__ import annotations

import io

import pytest

from dcdbackend.checker.verdict import GUEST, Counts, Verdict
from dcdbackend.report import table

HELD = "DEV-7.held"
MEANT = {f"host {HELD}": "fail", "device *": "unknown"}


def verdict(**counts: Counts) -> Verdict:
    """By `controller` and `guest`, what they counted of the host's clause; by `device`, of one of the device's."""
    names = {
        "controller": ("host", "mem0", HELD),
        "guest": (f"{GUEST}host", "mem0", HELD),
        "device": (f"{GUEST}device", "mem0", "DEV-8.served"),
    }
    return Verdict(counts={names[name]: found for name, found in counts.items()})


BROKEN, KEPT, UNKNOWN = Counts(failed=1), Counts(passed=3), Counts(unknown=1)
BOTH = verdict(controller=BROKEN, guest=BROKEN)


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([(MEANT, BOTH)], {f"host {HELD}", f"guest.host {HELD}"}),
        ([(MEANT, BOTH), ({}, verdict(controller=KEPT, guest=KEPT))], {f"host {HELD}", f"guest.host {HELD}"}),
        ([(MEANT, BOTH), ({}, BOTH)], set()),  # one that nobody meant stands out
        ([(MEANT, verdict(controller=BROKEN, guest=UNKNOWN))], {f"host {HELD}"}),
        ([(MEANT, BOTH), ({}, verdict(controller=KEPT, guest=BROKEN))], {f"host {HELD}"}),
        ([(MEANT, BOTH), ({}, verdict(guest=UNKNOWN))], {f"host {HELD}", f"guest.host {HELD}"}),
        ([(MEANT, BOTH), ({}, verdict(controller=UNKNOWN))], {f"guest.host {HELD}"}),  # which the scenario fails by
        ([(MEANT, verdict(device=UNKNOWN))], set()),  # a guest that does not know says so
        ([(MEANT, verdict(device=BROKEN))], set()),
        ([], set()),
    ],
)
def test_what_is_meant(results: list[tuple[dict[str, str], Verdict]], expected: set[str]) -> None:
    assert table.meant(results) == expected


def shown(results: list[tuple[dict[str, str], Verdict]]) -> str:
    """The row's words: outcome, counts, in the guest."""
    text = io.StringIO()
    rows = table.by_clause([verdict for _, verdict in results], expected=table.meant(results))
    table.console(text).print(rows)
    (row,) = [line for line in text.getvalue().splitlines() if line.startswith(HELD)]
    return " ".join(row.split("  a host gives back")[0].removeprefix(HELD).split())


def test_the_guests_column_says_it_too_and_hides_nothing() -> None:
    assert shown([(MEANT, BOTH)]) == "host as meant 1 as meant"
    assert shown([({}, BOTH)]) == "host fail 1 fail"
    assert shown([(MEANT, BOTH), ({}, BOTH)]) == "host fail 2 fail"
    assert shown([(MEANT, BOTH), ({}, verdict(controller=KEPT, guest=BROKEN))]) == "host as meant 3 1 fail"
    assert shown([({}, verdict(controller=KEPT, guest=UNKNOWN))]) == "host pass 3 unknown"
    assert shown([({}, verdict(controller=KEPT, guest=KEPT))]) == "host pass 3 3"
