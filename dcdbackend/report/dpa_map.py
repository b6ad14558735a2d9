"""A picture of a device's DPA space: one bar a region, one scale for all of them, a legend.

Pure: regions and runs in, a Rich renderable out, as wide as where it is printed. Each mark stands for the same power
of two of bytes, so bars compare. States differ by their mark and not by colour alone; where the output cannot show
the block marks, ASCII ones stand in. A mark that covers several states says so: nothing is rounded away.

It is not a list of extents (their tags, their order), and asks no device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from ..units import format_address, format_size

State = Literal["accepted", "pending"]
INDENT = 2
LEAST_MARKS = 8
_TICK_MARKS = 8
"""Marks between two figures of the scale, at least."""
_END_LABEL = 6
"""Columns kept free for the figure at the scale's end."""
_NARROW = 48


class Region(NamedTuple):
    """A region: its number, its first DPA and its length in bytes."""

    number: int
    base: int
    length: int


class Run(NamedTuple):
    """Capacity in one state: DPA and length in bytes. What is in no run is free."""

    start: int
    length: int
    state: State


class Mark(NamedTuple):
    """How a state looks."""

    block: str
    ascii: str
    style: str


MARKS: dict[str, Mark] = {
    "accepted": Mark("█", "#", "green"),
    "pending": Mark("▒", "?", "yellow"),
    "free": Mark("·", ".", "dim"),
    "mixed": Mark("▞", "+", "cyan"),
}


class DpaMap:
    """`console.print(DpaMap(regions, runs))`. Runs may lie in any order; what of them lies in no region is told."""

    def __init__(self, regions: Sequence[Region], runs: Sequence[Run]) -> None:
        self.regions = tuple(sorted(regions))
        self.runs = tuple(sorted(runs))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.regions:
            yield Text("no regions")
            return
        marks = max(LEAST_MARKS, options.max_width - INDENT - _END_LABEL)
        scale = mark_bytes(max(region.length for region in self.regions), marks)
        seen: set[str] = set()
        for region in self.regions:
            cells = self.cells(region, scale)
            seen.update(cells)
            yield self._heading(region)
            bar = Text(" " * INDENT, no_wrap=True, overflow="crop")
            for state in cells:
                bar.append(_mark(state, options.ascii_only), style=MARKS[state].style)
            yield bar
        longest = max(region.length for region in self.regions)
        yield Text(" " * INDENT + ruler(longest, scale, options.max_width - INDENT), no_wrap=True, overflow="crop")
        yield from _legend(scale, mixed="mixed" in seen, ascii_only=options.ascii_only, width=options.max_width)
        yield from self._astray()

    def cells(self, region: Region, scale: int) -> list[str]:
        """The state of each `scale` bytes of a region: accepted, pending, free, or mixed."""
        count = -(-region.length // scale)
        covered: dict[str, list[int]] = {"accepted": [0] * count, "pending": [0] * count}
        for start, end, state in self._inside(region):
            for cell in range(start // scale, -(-end // scale)):
                covered[state][cell] += min(end, (cell + 1) * scale) - max(start, cell * scale)
        found: list[str] = []
        for cell in range(count):
            size = min(scale, region.length - cell * scale)
            there = {state: sizes[cell] for state, sizes in covered.items() if sizes[cell]}
            if sum(there.values()) < size:
                there["free"] = size
            found.append(next(iter(there)) if len(there) == 1 else "mixed")
        return found

    def amounts(self, region: Region) -> dict[str, int]:
        """Bytes of a region by state; `free` is what no run covers."""
        found = {"accepted": 0, "pending": 0, "free": region.length}
        reached = 0
        for start, end, state in self._inside(region):
            found[state] += end - start
            found["free"] -= max(0, end - max(start, reached))
            reached = max(reached, end)
        return found

    def _inside(self, region: Region) -> Iterator[tuple[int, int, str]]:
        """The runs of a region, cut to it: offsets in it, in order."""
        for run in self.runs:
            start = max(run.start - region.base, 0)
            end = min(run.start + run.length - region.base, region.length)
            if start < end:
                yield start, end, run.state

    def _heading(self, region: Region) -> Text:
        found = self.amounts(region)
        shown = [f"{format_size(size)} {state}" for state, size in found.items() if size]
        text = Text(f"region {region.number}", style="bold")
        text.append(f" at {format_address(region.base)}: ", style="not bold")
        text.append(f"{', '.join(shown) or 'nothing'} of {format_size(region.length)}", style="not bold")
        return text

    def _astray(self) -> Iterator[Text]:
        """Runs that no region holds whole: a device must not have any (DEV-2)."""
        for run in self.runs:
            if not any(at.base <= run.start and run.start + run.length <= at.base + at.length for at in self.regions):
                place = f"{format_address(run.start)}+{format_size(run.length)}"
                yield Text(f"{run.state} {place} lies in no region as a whole", style="bold red")


def mark_bytes(longest: int, marks: int) -> int:
    """The least power of two of bytes for one mark, so that the longest region takes at most so many marks."""
    return 1 << max(0, (-(-longest // marks) - 1).bit_length())


def ruler(length: int, scale: int, width: int) -> str:
    """Offsets in a region under its marks, each figure beginning at its mark."""
    step = scale * _TICK_MARKS
    while length // step > width:  # a bound for absurd widths; each figure needs its place anyway
        step *= 2
    longest = max((len(format_size(at)) for at in range(0, length + 1, step)), default=1)
    while step // scale <= longest:
        step *= 2
    line = ""
    for at in [*range(0, length, step), length]:
        label, column = format_size(at), at // scale
        if (not line or column > len(line)) and column + len(label) <= width:
            line = line.ljust(column) + label
    return line


def _legend(scale: int, *, mixed: bool, ascii_only: bool, width: int) -> Iterator[Text]:
    """One line, or two where it is narrow: a mark and its word stay together."""
    text = Text(" " * INDENT)
    for state in ("accepted", "pending", "free", *(["mixed"] if mixed else [])):
        text.append(_mark(state, ascii_only), style=MARKS[state].style)
        text.append(f" {state} " if width < _NARROW else f" {state}  ")
    text.rstrip()
    one = f"one mark is {format_size(scale)}"
    if text.cell_len + 2 + len(one) <= width:
        yield text.append(f"  {one}")
    else:
        yield text
        yield Text(" " * INDENT + one)


def _mark(state: str, ascii_only: bool) -> str:
    return MARKS[state].ascii if ascii_only else MARKS[state].block
