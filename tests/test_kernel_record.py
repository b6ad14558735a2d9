"""The eight recorded sessions of a v11 kernel: read without loss, good under v11, and not under what it is not.

A judge that calls everything good would pass the first half; so each kind of observation is falsified once, in a copy
of a record, and has to be convicted by the name of a clause.
"""

from __future__ import annotations

import re

import pytest
from host_notation import table
from kernel_record import (
    KERNEL,
    NAMES,
    SEEN,
    Asked,
    Block,
    Listed,
    Made,
    Noted,
    Read,
    Session,
    Traced,
    Tree,
    Wrote,
    judge,
    parse,
    read,
)

from dcdbackend.extents import NULL_TAG, Extent
from dcdbackend.linux_rules import CLAUSES
from dcdbackend.model.quirks import QUIRKS

T1 = bytes.fromhex("5be13bceae344a77b6c316df975fcf1a")
M = 1 << 20


# ---- reading ---------------------------------------------------------------------------------------------------------


def items(session: Session) -> list[object]:
    return [item for step in session.steps for item in step.items]


def count(text: str, pattern: str) -> int:
    return len(re.findall(pattern, text, re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost(name: str) -> None:
    """Every exchange, trace line, list, tree and known log line of the text is in what was read."""
    text = (KERNEL / f"{name}.txt").read_text()
    session = read(name)
    found = items(session)
    blocks = [item for item in found if isinstance(item, Block)]
    notes = [note.kind for block in blocks for note in block.notes]
    assert count(text, r"^QMP-> ") == len([one for one in found if isinstance(one, Asked) and one.via == "qmp"])
    assert count(text, r"^guest# fmcci (add|rel)") == len(
        [one for one in found if isinstance(one, Asked) and one.via == "fm"]
    )
    assert count(text, r"cxl_dynamic_capacity:") == sum(len(block.traces) for block in blocks)
    assert count(text, r"^--- dmesg") == len(blocks)
    assert count(text, r"^guest# (dclist|fmcci extents)") == len([one for one in found if isinstance(one, Listed)])
    assert count(text, r"^guest# tree") == len([one for one in found if isinstance(one, Tree)])
    assert count(text, r"^guest# mkregion") == len([one for one in found if isinstance(one, Made)])
    assert count(text, r"^guest# .*echo \S+ > /sys") <= len([one for one in found if isinstance(one, Wrote)])
    for kind, pattern in (
        ("added", r"Add extent "),
        ("given", r"Release response"),
        ("cleared", r"Event log '4': Clearing"),
        ("staged", r"more bit set"),
        ("add", r"DCD event add"),
        ("release", r"DCD event release"),
        ("dropped", r"dropping group"),
        ("failed", r"failed to add extent"),
        ("online", r"dc_extent HPA"),
        ("reading", r"Reading event logs"),
        ("scanned", r"Got extent list"),
    ):
        assert notes.count(kind) == count(text, pattern), kind


def test_what_is_read() -> None:
    """One record in full, by hand."""
    session = read("B2_tagged_chain")
    assert session.title.startswith("Three extents, one tag")
    assert session.host == "host: Debian 1:11.1.3+ds-1~bpo13+1, -accel tcg"
    assert session.kernel.startswith("Linux dcdguest 7.2.12-dcdv11")
    first, claim, in_use, gone = session.steps
    assert first.items[0] == Made("region0", "mem0", 1 << 30, "dynamic_ram_1")
    extents = (Extent(512 * M, 128 * M, T1), Extent(0, 64 * M, T1), Extent(256 * M, 32 * M, T1))
    assert first.items[2] == Asked("add", "fm", None, extents)
    block = first.items[3]
    assert isinstance(block, Block)
    assert block.traces[1] == Traced("mem0", 0, 0, 64 * M, T1, 0, 2)
    assert [note.number for note in block.notes if note.kind == "cleared"] == [1, 2, 3]
    assert Noted(2_535_419_000, "added", 512 * M, 128 * M, T1) in block.notes
    listed = [item for item in first.items if isinstance(item, Listed)]
    assert [(one.via, one.rc, one.total, len(one.extents)) for one in listed] == [
        ("4801h", 0, 3, 3),
        ("5603h", 0, 3, 3),
    ]
    assert claim.items[:3] == (
        Wrote("/sys/bus/dax/devices/dax0.0/uuid", "5be13bce-ae34-4a77-b6c3-16df975fcf1a"),
        Read("/sys/bus/dax/devices/dax0.0/size", "234881024"),
        Wrote("/sys/bus/dax/drivers/device_dax/bind", "dax0.0"),
    )
    tree = next(item for item in claim.items if isinstance(item, Tree))
    assert dict(tree.files)["dax0.0/mapping1/start"] == "0x490000000"
    assert dict(tree.files)["dax_region0/extent0.3/uuid"] == "5be13bce-ae34-4a77-b6c3-16df975fcf1a"
    assert in_use.items[0] == gone.items[3] == Asked("release", "fm", None, (Extent(0, 64 * M, T1),))


def test_errors_and_offsets_are_read() -> None:
    claims = [item for item in items(read("B1_tagged_add")) if isinstance(item, Wrote) and item.path.endswith("uuid")]
    assert [one.error for one in claims] == ["-ENOENT", "-ENOENT", "", "-EBUSY"]
    asked = [item for item in items(read("A3_no_region")) if isinstance(item, Asked)]
    assert asked[2].error == "cannot release extent with non-existing DPA range"
    assert asked[4] == Asked("add", "qmp", 1, (Extent(0, 128 * M, NULL_TAG),))


# ---- good under what it is -------------------------------------------------------------------------------------------

SHOWS = {"A2_untagged_chain": ("Q6",), "B4_mixed_chain": ("Q7",)}


@pytest.mark.parametrize("name", NAMES)
def test_good_under_v11(name: str) -> None:
    verdict = judge(read(name), "v11")
    assert verdict.wrong == ()
    assert verdict.quirks == SHOWS.get(name, ())
    assert len(verdict.judged) >= 6 and all(SEEN & set(CLAUSES[clause].witnesses) for clause in verdict.judged)


def test_departures_say_where_they_are_recorded() -> None:
    """A departure's row names the record that shows it, and that record does (Q11 is a number that nobody judges)."""
    named = {row.shown: row.id for row in QUIRKS.values() if row.shown and row.switch}
    assert named == {name: quirk for name, (quirk,) in SHOWS.items()}
    numbers = [word for item in items(read("A1_untagged_add")) if isinstance(item, Read) for word in item.value.split()]
    assert "extent0.1" in numbers and "extent0.0" not in numbers


@pytest.mark.parametrize(
    ("name", "clauses"),
    [("A2_untagged_chain", {"B23.whole", "B5.surfaced"}), ("B4_mixed_chain", {"B5.order"})],
)
def test_as_documented(name: str, clauses: set[str]) -> None:
    """With no departure granted, just those two records are wrong, by the clause that the documentation promises."""
    assert set(judge(read(name), "v11", frozenset()).clauses) >= clauses
    for other in set(NAMES) - set(SHOWS):
        assert judge(read(other), "v11", frozenset()).wrong == ()


# What the rules of another generation say of the same record. Empty would mean that it cannot be told from v11.
OTHERWISE = {
    "A0_region_create": ({"B1.mode", "B27.reads"}, {"A1.mode", "A14.uuid"}),
    "A1_untagged_add": ({"B1.mode", "B27.reads"}, {"A1.mode", "A14.uuid", "A14.any", "A14.available"}),
    "A2_untagged_chain": ({"B1.mode", "B27.reads"}, {"A1.mode", "A14.uuid", "A11.whole", "A8.one"}),
    "A3_no_region": ({"B1.mode"}, {"A1.mode"}),
    "B1_tagged_add": ({"B1.mode", "B27.reads", "B28.none"}, {"A1.mode", "A14.uuid", "A4.tag", "A8.one"}),
    "B2_tagged_chain": ({"B1.mode", "B27.reads"}, {"A1.mode", "A14.uuid", "A4.tag", "A8.one"}),
    "B3_reused_tag": ({"B1.mode"}, {"A1.mode", "A4.tag", "A8.one", "A11.overlap"}),
    "B4_mixed_chain": ({"B1.mode", "B27.reads"}, {"A1.mode", "A14.uuid", "A4.tag", "A8.one"}),
}


@pytest.mark.parametrize("name", NAMES)
def test_not_good_under_another(name: str) -> None:
    v10, sparse = OTHERWISE[name]
    assert set(judge(read(name), "v10").clauses) == v10
    assert set(judge(read(name), "A").clauses) >= sparse


# ---- a judge that is blind is no judge -------------------------------------------------------------------------------


def moved(text: str, line: str, before: str) -> str:
    """The text with the first line that holds `line` moved before the first that holds `before`."""
    lines = text.splitlines(keepends=True)
    at = next(at for at, one in enumerate(lines) if line in one)
    taken = lines.pop(at)
    place = next(at for at, one in enumerate(lines) if before in one)
    return "".join([*lines[:place], taken, *lines[place:]])


def without(text: str, line: str) -> str:
    """The text without the first line that holds `line`."""
    lines = text.splitlines(keepends=True)
    lines.pop(next(at for at, one in enumerate(lines) if line in one))
    return "".join(lines)


def doubled(text: str, line: str, old: str, new: str) -> str:
    """The text with a changed copy of the first such line after it."""
    lines = text.splitlines(keepends=True)
    at = next(at for at, one in enumerate(lines) if line in one)
    return "".join([*lines[: at + 1], lines[at].replace(old, new), *lines[at + 1 :]])


# what | clause | record | change | its words   (`replace` the first, `all` of them; an indented line goes on)
_FALSE = """\
an offset | B5.surfaced | A1_untagged_add | replace | extent0.1/offset: 0x0 | extent0.1/offset: 0x200000
a length | B5.surfaced | B2_tagged_chain | replace | extent0.3/length: 0x2000000 | extent0.3/length: 0x4000000
a tag | B5.surfaced | B2_tagged_chain | replace | extent0.2/uuid: 5be1 | extent0.2/uuid: 5be2
an extent is missing | B5.surfaced | B2_tagged_chain | replace | extent0.1 extent0.2 extent0.3 | extent0.1 extent0.2
an extent stays | B5.surfaced | A1_untagged_add | all | dax0.0 dax_region \\n | dax0.0 dax_region extent0.1 \\n
available_size | B31.available | A1_untagged_add | replace | available_size: 134217728 | available_size: 0
available_size when claimed | B31.available | B2_tagged_chain | replace | available_size: 0 | available_size: 2097152
what uuid reads | B27.reads | B1_tagged_add | replace | dax0.0/uuid: 5be13bce | dax0.0/uuid: 00000000
a size | B30.sum | B2_tagged_chain | replace | dax0.0/size: 234881024 | dax0.0/size: 134217728
a size that was printed | B30.sum | B2_tagged_chain | replace | \\n234881024\\n | \\n134217728\\n
the seed's size | B27.zero | A1_untagged_add | replace | dax0.0/size: 0 | dax0.0/size: 2097152
the order of mappings | B27.sequence | B2_tagged_chain | exchange | mapping1 | mapping2
a mapping | B30.one | A1_untagged_add | replace | mapping0/start: 0x490000000 | mapping0/start: 0x491000000
a device | B30.one | A2_untagged_chain | replace | dax0.1 dax0.2 dax_region | dax0.1 dax_region
the mode | B1.mode | A0_region_create | replace | + echo dynamic_ram_1 | + echo dynamic_ram_2
an extent in an open chain | B2.close | A2_untagged_chain | moved | Add extent [range 0x0000000000000000 |
    DCD event add : DPA:0x20000000
an extent less in the answer | B5.survivors | B2_tagged_chain | without | Add extent [range 0x0000000010000000
an extent less in the list | B5.survivors | B2_tagged_chain | replace |
    returned=3 total=3 generation=0\\n  dpa=0x20000000 len=0x8000000 tag=00000000000000000000000000000000 seq=0 |
    returned=2 total=2 generation=0
an extent that nobody took | B5.only | A3_no_region | replace | 4801h rc=0 returned=0 total=0 generation=0 |
    4801h rc=0 returned=1 total=1 generation=0\\n  dpa=0 len=0x8000000 tag=00000000000000000000000000000000 seq=0
a live tag is taken | B6.live | B3_reused_tag | replace |
    Tag 5be13bce-ae34-4a77-b6c3-16df975fcf1a: dropping group, tag already committed |
    Add extent [range 0x0000000010000000-0x0000000017ffffff] (5be13bce-ae34-4a77-b6c3-16df975fcf1a)
taken with no region | B12.region | A3_no_region | doubled | DCD event add | DCD event add : DPA:0x0 LEN:0x8000000 |
    Add extent [range 0x0000000000000000-0x0000000007ffffff] (00000000-0000-0000-0000-000000000000)
the second partition | B10.partition | A3_no_region | doubled | DCD event add : DPA:0x40000000 |
    DCD event add : DPA:0x40000000 LEN:0x8000000 |
    Add extent [range 0x0000000040000000-0x0000000047ffffff] (00000000-0000-0000-0000-000000000000)
a member stays | B23.whole | B2_tagged_chain | without | Release response dpa [range 0x0000000010000000
members in another order | B23.each | B2_tagged_chain | moved | Release response dpa [range 0x0000000010000000 |
    Release response dpa [range 0x0000000020000000
a release while in use | B22.in-use | B2_tagged_chain | doubled | DCD event release |
    DCD event release : DPA:0x0 LEN:0x4000000 |
    Release response dpa [range 0x0000000000000000-0x0000000003ffffff]
cleared before the release | L1.before-clear | A1_untagged_add | moved | Clearing 2 | Release response
a record that is not cleared | L1.clears | A1_untagged_add | without | Clearing 1
a claim that should be busy | B28.busy | B1_tagged_add | replace |
    sh: write error: Device or resource busy\\n[exit status 1]\\n | -
a claim of nothing | B28.none | B1_tagged_add | replace |
    sh: write error: No such file or directory\\n[exit status 1]\\n | -
a claim that should succeed | B27.untagged | A2_untagged_chain | replace | dax0.0/size\\n134217728 |
    dax0.0/size\\nsh: write error: Device or resource busy\\n134217728
the trace of a record | WITNESS.agree | A1_untagged_add | replace | starting_dpa=0 | starting_dpa=200000
a trace line | WITNESS.agree | B4_mixed_chain | without | handle=3 related
a record nobody asked for | DEV-4.extent | A1_untagged_add | replace | "len": 134217728 | "len": 67108864
the first scan | B26.all | A1_untagged_add | without | Got extent list
the order of the answer | B5.order | B4_mixed_chain | moved | dpa=0x8000000 len=0x4000000 |
    dpa=0x18000000 len=0x2000000
"""
FALSE = table(_FALSE, {"\\n": "\n"})


def changed(text: str, verb: str, *words: str) -> str:
    """The text with one thing changed."""
    if verb in ("replace", "all"):
        return text.replace(words[0], words[1], 1 if verb == "replace" else -1)
    if verb == "exchange":
        return text.replace(words[0], "\0").replace(words[1], words[0]).replace("\0", words[1])
    if verb == "moved":
        return moved(text, *words)
    return without(text, *words) if verb == "without" else doubled(text, *words)


@pytest.mark.parametrize("row", FALSE, ids=[row[0] for row in FALSE])
def test_a_false_record_is_convicted(row: list[str]) -> None:
    _, clause, name, verb, *words = row
    text = (KERNEL / f"{name}.txt").read_text()
    false = changed(text, verb, *words)
    assert false != text, "nothing was changed"
    assert clause in judge(parse(false), "v11").clauses
