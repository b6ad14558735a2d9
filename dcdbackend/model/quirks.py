"""Known departures of the tagged kernels (Q): where the code does something else than its own documentation says.

A host model has a set of these switched on. Where one is on, the model goes on as the code does, and says so where it
made a difference; where it is off, it demands what the documentation promises. A row without a switch has nothing to
turn: the text says why. The device's departures are in `departures.py`.
"""

from __future__ import annotations

from typing import NamedTuple


class Quirk(NamedTuple):
    """`clause`: the rule it bends. `documented`: what the documentation promises; `code`: what the code does.

    `generations`: where the code was read. `shown`: the record in tests/kernel that shows it, or "". `visible`: some
    witness can see it. `scenario`: the one that shows it on a kernel under test, or "": then `hidden` says why QEMU
    cannot.
    """

    id: str
    clause: str
    documented: str
    code: str
    generations: tuple[str, ...]
    shown: str = ""
    switch: bool = True
    visible: bool = True
    scenario: str = ""
    hidden: str = ""


_ALL = ("B-rfc", "v10", "v11", "draft")
_V11 = ("v11", "draft")
_ROWS = (
    Quirk(
        "Q1",
        "B15.duplicate",
        "an exact duplicate is tolerated, so a group of them is named in the answer",
        "a group that holds duplicates only is left out of the answer",
        _ALL,
        hidden="QEMU refuses to offer what overlaps an accepted extent (DEV-3), so no duplicate ever comes",
    ),
    Quirk(
        "Q2",
        "B17.all",
        "a group that fails any gate is dropped whole",
        "what fails gates B11 to B15 is dropped alone: the rest becomes a shorter allocation",
        _ALL,
        scenario="quirk-member",
    ),
    Quirk(
        "Q3",
        "B13.scan",
        "new extents are deferred until the first scan is done",
        "they are refused",
        _V11,
        hidden="QEMU cannot hold a scan of an empty list open: race-add-region may meet the moment, and cannot name it",
    ),
    Quirk(
        "Q4",
        "B20.inside",
        "a release of a group's extents one by one succeeds",
        "the first frees all; the others match nothing and are errors",
        ("B-rfc", "v10", "v11"),
        scenario="quirk-release-each",
    ),
    Quirk(
        "Q5",
        "L3.start",
        "an extent belongs to the region at its start",
        "a group over two regions joins the region of its first extent",
        _ALL,
        scenario="quirk-two-regions",
    ),
    Quirk(
        "Q6",
        "B23.whole",
        "each untagged extent is an allocation of its own",
        "the untagged extents of one chain are one group: releasing one releases all",
        _ALL,
        shown="A2_untagged_chain",
        scenario="untagged-chain",
    ),
    Quirk(
        "Q7",
        "B5.order",
        "the answer's ranges come in the order offered (CXL r3.1 8.2.9.9.9.3)",
        "they come by tag, and within a tag by sequence",
        _ALL,
        shown="B4_mixed_chain",
        scenario="mixed-chain",
    ),
    Quirk(
        "Q8",
        "B26.gates",
        "a scan recovers what the device lists",
        "it takes the staged records of a chain in flight with it: they are never answered (before v11, too early)",
        _ALL,
        scenario="quirk-scan-swallows",
    ),
    Quirk(
        "Q10",
        "B4.drop",
        "a chain that exceeds the bound is refused",
        "what follows the record that exceeded it is taken as a chain of its own",
        _V11,
        scenario="quirk-bound",
    ),
    Quirk(
        "Q11",
        "B5.surfaced",
        "extents are numbered from 0",
        "from 1 on since v11: nobody may rely on the number",
        _V11,
        shown="A1_untagged_add",
        scenario="untagged-add",
        switch=False,
    ),
    Quirk(
        "Q12",
        "B20.inside",
        "a release must lie inside one extent (the sparse series released all that it overlapped)",
        "as documented",
        ("B-rfc", "v10", "v11"),
        scenario="multiple_extent_remove",
        switch=False,
    ),
    Quirk(
        "Q13",
        "B33.none",
        "caches are invalidated before an extent comes online and before every release",
        "not before coming online, nor before the releases of an unbind",
        ("v10", "v11", "draft"),
        visible=False,
        hidden="no cache of the guest is QEMU's: an invalidation that is left out changes no byte, and no line tells",
    ),
)
QUIRKS: dict[str, Quirk] = {row.id: row for row in _ROWS}


def applicable(generation: str) -> frozenset[str]:
    """The ids that a generation's code has."""
    return frozenset([row.id for row in _ROWS if generation in row.generations])
