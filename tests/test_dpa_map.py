"""The picture of the DPA space: what each mark says, on any width, with and without colour and block marks."""

from __future__ import annotations

import io
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dcdbackend.report.dpa_map import MARKS, DpaMap, Region, Run, mark_bytes, ruler
from dcdbackend.units import GIB, MIB

REGIONS = (Region(0, 0, GIB), Region(1, GIB, GIB))
RUNS = (
    Run(0, 256 * MIB, "accepted"),
    Run(512 * MIB, 128 * MIB, "pending"),
    Run(GIB, 2 * MIB, "accepted"),
)
STATES = {mark.block: state for state, mark in MARKS.items()}


class Ascii(io.StringIO):
    """An output that can show nothing else."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "ascii"


def drawn(picture: DpaMap, width: int, *, colour: bool = False, ascii_only: bool = False) -> str:
    file = Ascii() if ascii_only else io.StringIO()
    system: Literal["standard"] | None = "standard" if colour else None
    console = Console(file=file, width=width, force_terminal=colour, color_system=system, no_color=not colour)
    console.print(picture)
    return file.getvalue()


def bars(text: str, marks: str = "".join(STATES)) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not set(line.strip()) - set(marks)]


def test_a_picture() -> None:
    assert drawn(DpaMap(REGIONS, RUNS), 80).splitlines() == [
        "region 0 at 0x0: 256M accepted, 128M pending, 640M free of 1G",
        "  ████████████████················▒▒▒▒▒▒▒▒························",
        "region 1 at 0x40000000: 2M accepted, 1022M free of 1G",
        "  ▞·······························································",
        "  0       128M    256M    384M    512M    640M    768M    896M    1G",
        "  █ accepted  ▒ pending  · free  ▞ mixed  one mark is 16M",
    ]


@pytest.mark.parametrize("width", range(40, 201, 5))
@pytest.mark.parametrize("ascii_only", [False, True], ids=["blocks", "ascii"])
def test_any_width_holds_it_and_says_the_same(width: int, ascii_only: bool) -> None:
    text = drawn(DpaMap(REGIONS, RUNS), width, ascii_only=ascii_only)
    assert max(map(len, text.splitlines())) <= width
    marks = {state: mark.ascii if ascii_only else mark.block for state, mark in MARKS.items()}
    first, second = bars(text, "".join(marks.values()))
    assert len(first) == len(second)
    assert first.count(marks["accepted"]) * 4 == len(first)
    assert first.count(marks["pending"]) * 8 == len(first)
    assert second.replace(marks["free"], "") == marks["mixed"]
    words = " ".join(text.split())
    assert "256M accepted, 128M pending, 640M free of 1G" in words
    scale = mark_bytes(GIB, width - 8)
    assert f"one mark is {scale // MIB}M" in words
    assert len(first) * scale == GIB
    for mark, word in ((marks[state], state) for state in MARKS):
        assert f"{mark} {word}" in text
    if ascii_only:
        assert text.isascii()


def test_without_colour_nothing_is_lost() -> None:
    plain, coloured = drawn(DpaMap(REGIONS, RUNS), 80), drawn(DpaMap(REGIONS, RUNS), 80, colour=True)
    assert "\x1b" not in plain
    assert "\x1b[32m█" in coloured and "\x1b[33m▒" in coloured
    assert bars(plain) == bars("".join(_uncoloured(coloured)))


def _uncoloured(text: str) -> str:
    found = text.split("\x1b[")
    return found[0] + "".join(part.partition("m")[2] for part in found[1:])


def test_regions_of_different_sizes_have_one_scale() -> None:
    picture = DpaMap((Region(0, 0, GIB), Region(1, GIB, 768 * MIB)), (Run(GIB, 768 * MIB, "accepted"),))
    first, second = bars(drawn(picture, 80))
    assert (len(first), len(second)) == (64, 48)
    assert set(second) == {"█"}


def test_what_lies_in_no_region_is_told() -> None:
    text = drawn(DpaMap(REGIONS, (Run(2 * GIB, 2 * MIB, "accepted"), Run(GIB - MIB, 2 * MIB, "pending"))), 100)
    assert "accepted 0x80000000+2M lies in no region as a whole" in text
    assert "pending 0x3ff00000+2M lies in no region as a whole" in text
    assert "1M pending, 1023M free of 1G" in text


def test_no_regions() -> None:
    assert drawn(DpaMap((), ()), 80) == "no regions\n"


def test_the_scale_has_figures_at_their_marks() -> None:
    line = ruler(GIB, 16 * MIB, 78)
    assert line.index("512M") == 512 // 16
    assert ruler(GIB, 64 * MIB, 14) == "0       512M"


BLOCKS = 96


@given(
    states=st.lists(st.sampled_from(["free", "accepted", "pending"]), min_size=BLOCKS, max_size=BLOCKS),
    width=st.integers(40, 200),
)
def test_each_mark_is_the_state_of_its_bytes(states: list[str], width: int) -> None:
    """Against a naive bitmap of blocks."""
    region = Region(0, 4 * GIB, BLOCKS * 2 * MIB)
    runs = [
        Run(region.base + at * 2 * MIB, 2 * MIB, "accepted" if state == "accepted" else "pending")
        for at, state in enumerate(states)
        if state != "free"
    ]
    picture = DpaMap((region,), runs)
    scale = mark_bytes(region.length, width - 8)
    per_mark = max(1, scale // (2 * MIB))
    found = picture.cells(region, scale)
    for cell, state in enumerate(found):
        there = set(states[cell * scale // (2 * MIB) :][:per_mark])
        assert state == (there.pop() if len(there) == 1 else "mixed")
    amounts = picture.amounts(region)
    assert amounts == {state: states.count(state) * 2 * MIB for state in ("accepted", "pending", "free")}
