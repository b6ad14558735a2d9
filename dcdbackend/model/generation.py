"""The generations of the Linux host, as rows of parameters, and what can be switched on beside them.

One row is one kernel series; a rule that flips between two of them is a column, never an `if` on a name. The
documented behaviour against the code's is a switch for each known departure (`quirks`); designs that no kernel has are
switches too (`WHAT_IFS`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import AskedWrongly
from .quirks import QUIRKS, applicable

if TYPE_CHECKING:
    from collections.abc import Iterable

SECOND = 1_000_000_000
TWO_MIB = 2 << 20


class Generation(NamedTuple):
    """What differs between kernels; the rows are below.

    kind: "sparse" (A), "tagged" (B) or "policy" (C, a proposal that no kernel has). sequence: how a shared sequence
    is tested: "refused", "zero-or-dense" (all 0, or exactly 1 to n, whatever the partition), "sharable" (in a
    sharable partition exactly `sequence_base` on). tags: "refused", or unique per "region", "host", or over all
    "hosts". align: None is no test, 0 the PMD size. checks_shape: empty and wrapping extents are told apart. uuid:
    what an unclaimed daxN.M/uuid reads; None where there is no such file. scan_at: existing extents are read at
    "region" creation or at the dax region's "probe"; scan_gate: nothing new is taken before that. failed_group: a
    group that fails to appear is "released" or "left-out". claim: by "size" or "uuid"; claim_checks: a claimed device
    and a misaligned extent are refused. unmatched: a release of no extent is an "error", or "acknowledged".
    release_chains: releases are staged until More is clear, and a group goes only if the chain names all of it.
    invalidates: before "online", and "before" or "after" the in-use test of a release.
    """

    name: str
    kind: str
    mode: str
    sequence: str
    sequence_base: int
    tags: str
    align: int | None
    checks_shape: bool
    uuid: str | None
    timeout_ns: int | None
    most_staged: int | None
    scan_at: str
    scan_tries: int
    scan_gate: bool
    empty_page_fails: bool
    recovered_answered: bool
    failed_group: str
    claim: str
    claim_checks: bool
    unmatched: str
    release_chains: bool
    invalidates: tuple[str, ...]
    first_extent_id: int


NULL_UUID = "00000000-0000-0000-0000-000000000000"

_A = Generation(
    name="A",
    kind="sparse",
    mode="dynamic_ram_a",
    sequence="refused",
    sequence_base=0,
    tags="refused",
    align=None,
    checks_shape=False,
    uuid=None,
    timeout_ns=None,
    most_staged=None,
    scan_at="region",
    scan_tries=11,
    scan_gate=False,
    empty_page_fails=False,
    recovered_answered=False,
    failed_group="released",
    claim="size",
    claim_checks=False,
    unmatched="acknowledged",
    release_chains=False,
    invalidates=("online", "after"),
    first_extent_id=0,
)
_RFC = _A._replace(
    name="B-rfc",
    kind="tagged",
    sequence="zero-or-dense",
    sequence_base=1,
    tags="region",
    align=TWO_MIB,
    recovered_answered=True,
    unmatched="error",
)
_V10 = _RFC._replace(
    name="v10",
    tags="host",
    uuid="0",
    timeout_ns=20 * SECOND,
    claim="uuid",
    invalidates=("after",),
)
_V11 = _V10._replace(
    name="v11",
    mode="dynamic_ram_1",
    sequence="sharable",
    sequence_base=0,
    align=0,
    checks_shape=True,
    uuid=NULL_UUID,
    most_staged=100,
    scan_at="probe",
    scan_tries=10,
    scan_gate=True,
    empty_page_fails=True,
    recovered_answered=False,
    failed_group="left-out",
    claim_checks=True,
    invalidates=("before",),
    first_extent_id=1,
)
_DRAFT = _V11._replace(name="draft", unmatched="acknowledged", release_chains=True)

GENERATIONS: dict[str, Generation] = {row.name: row for row in (_A, _RFC, _V10, _V11, _DRAFT)}
"""Those of which there is a kernel, or a draft of one."""

_C = _V11._replace(
    name="C",
    kind="policy",
    mode="dc",
    sequence="zero-or-dense",
    tags="hosts",
    align=None,
    checks_shape=True,
    timeout_ns=None,
    most_staged=None,
    scan_gate=False,
    claim="none",
    invalidates=("online", "before"),
)
PROPOSED: dict[str, Generation] = {_C.name: _C}
"""Those that are proposed: a driver per policy (`policy_drivers`). Simulated hosts only."""
EVERY: dict[str, Generation] = {**GENERATIONS, **PROPOSED}


class WhatIf(NamedTuple):
    """A switch for a design that no kernel has. `source`: the seed that asks for it.

    generations: which can have it; others: why the others cannot. clashes: switches that contradict it, and why.
    """

    name: str
    text: str
    source: str
    generations: tuple[str, ...]
    others: tuple[tuple[str, str], ...] = ()
    clashes: tuple[tuple[str, str], ...] = ()


_BY_UUID = ("v10", "v11", "draft")
_TAGGED = ("B-rfc", *_BY_UUID)
_LINUX = ("A", *_TAGGED)
_NO_UNTAGGED = "with it there is no untagged extent"
_BY_SETS = "a set is a device there, whole (C2, C5)"
_BY_SIZE = "it claims by size, in part, as it is (A14)"
_PER_DEVICE = "a chain and its groups are of one memory device (B2, B5), so none brings all shares of an extent"
_ONLY_UNTAGGED = "it takes no tagged extent (A4)"
WHAT_IFS: dict[str, WhatIf] = {
    row.name: row
    for row in (
        WhatIf(
            "untagged-partial-claim",
            "an untagged extent may be claimed in part, by writing a size",
            "002",
            _BY_UUID,
            (("A", _BY_SIZE), ("B-rfc", _BY_SIZE), ("C", _BY_SETS)),
        ),
        WhatIf(
            "one-untagged-per-group",
            "each untagged extent is a group of its own",
            "002",
            _TAGGED,
            (("A", "it has no groups (A8)"), ("C", "it tracks untagged extents one by one as it is (C3)")),
        ),
        WhatIf("release-remembered", "a request is remembered until the last close", "003", (*_LINUX, "C")),
        WhatIf(
            "extend-accepted",
            "an offer may extend what was accepted: what is new of it is taken",
            "003",
            _LINUX,
            (("C", "extents share a tag only if they arrive together (C2)"),),
        ),
        WhatIf(
            "map-to-extents",
            "a DAX device may be made of chosen extents",
            "003",
            _LINUX,
            (("C", _BY_SETS),),
        ),
        WhatIf(
            "interleave",
            "one region over several devices: an extent surfaces when each of them has brought its share",
            "003",
            ("A",),
            (*[(name, _PER_DEVICE) for name in _TAGGED], ("C", _BY_SETS)),
        ),
        WhatIf(
            "no-tag-no-service",
            "an untagged extent is refused",
            "000",
            (*_TAGGED, "C"),
            (("A", _ONLY_UNTAGGED),),
            (("untagged-partial-claim", _NO_UNTAGGED), ("one-untagged-per-group", _NO_UNTAGGED)),
        ),
    )
}  # fmt: skip


def switches_of(generation: str) -> tuple[str, ...]:
    """The what-if switches that a generation can have."""
    return tuple([name for name, row in WHAT_IFS.items() if generation in row.generations])


def _switched(generation: str, names: Iterable[str]) -> frozenset[str]:
    """These switches, if the generation can have all of them together. Errors: AskedWrongly, which names the two."""
    on = list(dict.fromkeys(names))
    for name in on:
        switch = WHAT_IFS.get(name)
        if switch is None:
            raise AskedWrongly(f"what-if {name!r} is not known; there are {', '.join(WHAT_IFS)}")
        if generation not in switch.generations:
            why = dict(switch.others).get(generation, "its rules leave no room for it")
            there = [row for row in switch.generations if row != _DRAFT.name]  # which no simulated host is
            raise AskedWrongly(
                f"generation {generation} cannot have what-if {name!r}: {why}; "
                f"take {'one of ' if len(there) > 1 else ''}{', '.join(there)}, or leave the switch out"
            )
    for name in on:
        for other, why in WHAT_IFS[name].clashes:
            if other in on:
                raise AskedWrongly(
                    f"what-if {name!r} and {other!r} contradict each other: {why}; leave one of them out"
                )
    return frozenset(on)


class Setup(NamedTuple):
    """What the host is, for good. `slack_ns`: how late a timer may fire; a simulated host that has 0 is punctual."""

    generation: Generation
    quirks: frozenset[str] = frozenset()
    what_if: frozenset[str] = frozenset()
    pmd_bytes: int = TWO_MIB
    slack_ns: int = 2_100_000_000

    @property
    def align(self) -> int:
        """The alignment that an extent must have; 1 where there is no test."""
        align = self.generation.align
        return 1 if align is None else align or self.pmd_bytes


def setup(
    generation: str,
    *,
    quirks: Iterable[str] | None = None,
    what_if: Iterable[str] = (),
    pmd_bytes: int = TWO_MIB,
    slack_ns: int = 2_100_000_000,
) -> Setup:
    """The Setup of a generation by name. `quirks`: ids of `quirks.QUIRKS`; None: all that its code has.

    Errors: AskedWrongly for a name that is not there, a switch that the generation cannot have, or two that contradict.
    """
    row = EVERY.get(generation)
    if row is None:
        raise AskedWrongly(f"generation {generation!r} is not known; there are {', '.join(EVERY)}")
    has = applicable(generation)
    on = has if quirks is None else frozenset(quirks)
    if not on <= has:
        raise AskedWrongly(
            f"generation {generation} has no {', '.join(sorted(on - has))}; of {', '.join(QUIRKS)} "
            f"it has {', '.join(sorted(has)) or 'none'}"
        )
    return Setup(row, on, _switched(generation, what_if), pmd_bytes, slack_ns)
