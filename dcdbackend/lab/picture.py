"""DPA space over time, side by side: the frames of several runs as one SVG, or as text.

Time goes to the right, DPA upwards from the bottom; a colour is a state (`play.STATES`). Each colour is clearly lighter
or darker than every other (`LEAST_CONTRAST`), and the text has a mark for each: neither needs colour to be read. What
does not fit over its panel is wrapped, never cut: a title names what was compared. Pure: frames in, text out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

from ..units import format_size
from .play import CELL_BYTES, CELLS, LETTERS, STATES

SECOND_PX = 1
CELL_PX = 2
_GAP_PX = 24
_HEAD_PX = 18
_ACROSS = 4
"""Panels beside each other."""
_LINE_PX = 16
_LETTER_PX = 7.5
"""At most so wide is a letter, on average, of the fonts that a viewer takes for sans-serif."""
_TEXT_ROWS = 8
_TEXT_SECONDS = 4
_SEVERITY = ("lost", "blocked", "stranded", "idle", "pending", "used", "free")


class Look(NamedTuple):
    """How a state looks."""

    colour: str
    mark: str


LOOKS: Mapping[str, Look] = {
    "free": Look("#f7f7f7", "."),
    "pending": Look("#7db8dc", "?"),
    "used": Look("#1f8a47", "#"),
    "idle": Look("#c5e3b8", "o"),
    "stranded": Look("#e07b00", "!"),
    "blocked": Look("#8c1d04", "x"),
    "lost": Look("#000000", "L"),
}
LEAST_CONTRAST = 1.25
"""Of any two colours, as WCAG counts it: so that they can be told apart by who sees no red and green, and in print."""


class Panel(NamedTuple):
    """One run: what stands over it, and its frames."""

    title: str
    frames: Sequence[bytes]


def svg(groups: Mapping[str, Sequence[Panel]]) -> str:
    """An SVG document: a legend, then for each group (a trace) a heading and its panels, four across."""
    longest = max([len(panel.frames) for panels in groups.values() for panel in panels], default=1)
    wide, high = longest * SECOND_PX, CELLS * CELL_PX
    across = max([min(_ACROSS, len(panels)) for panels in groups.values()], default=1)
    scale = f"to the right: {longest} s; upwards: {format_size(CELLS * CELL_BYTES)} of DPA, 0 at the bottom"
    body = [*_legend(scale)]
    top = _LINE_PX * (len(LOOKS) + 1) + 8
    for name, panels in groups.items():
        top += _HEAD_PX
        body.append(_text(0, top - 4, name, bold=True))
        for first in range(0, len(panels), _ACROSS):
            titled = [(panel, _wrapped(panel.title, int(wide / _LETTER_PX))) for panel in panels[first:][:_ACROSS]]
            head = _LINE_PX * max([len(lines) for _, lines in titled])
            for number, (panel, lines) in enumerate(titled):
                left = number * (wide + _GAP_PX)
                lowest = top + head - 4
                body += [_text(left, lowest - _LINE_PX * at, line) for at, line in enumerate(reversed(lines))]
                body += _panel(panel, left, top + head, wide, high)
            top += head + high + 8
        top += 14
    room = _LETTER_PX * max([len(text) for text in (*groups, *[f"   {name}: {STATES[name]}" for name in LOOKS])])
    page, tall = max(across * (wide + _GAP_PX), int(room)) + 16, top + 8
    head_lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{page}" height="{tall}" viewBox="-8 -4 {page} {tall}" '
        'font-family="sans-serif" font-size="12">',
        "<title>DPA space over time, by policy</title>",
        f'<rect x="-8" y="-4" width="{page}" height="{tall}" fill="#ffffff"/>',
    ]
    return "\n".join([*head_lines, *body, "</svg>", ""])


def _wrapped(title: str, room: int) -> list[str]:
    """A column's name over lines of at most `room` letters, if that can be: it is broken before a switch alone."""
    lines: list[str] = []
    for part in re.findall(r"^[^+]*|\+[^+]*", title):
        if lines and len(lines[-1]) + len(part) <= room:
            lines[-1] += part
        else:
            lines.append(part)
    return lines


def _panel(panel: Panel, left: int, top: int, wide: int, high: int) -> Iterator[str]:
    free = LOOKS["free"].colour
    yield f'<rect x="{left}" y="{top}" width="{wide}" height="{high}" fill="{free}" stroke="#999999"/>'
    for state, boxes in boxes_of(panel.frames).items():
        path = "".join(
            f"M{left + start * SECOND_PX} {top + high - end_cell * CELL_PX}h{(end - start) * SECOND_PX}"
            f"v{(end_cell - cell) * CELL_PX}h{(start - end) * SECOND_PX}z"
            for start, end, cell, end_cell in boxes
        )
        yield f'<path d="{path}" fill="{LOOKS[state].colour}"/>'


Box = tuple[int, int, int, int]
"""From second, to second, from cell, to cell."""


def boxes_of(frames: Sequence[bytes]) -> dict[str, list[Box]]:
    """Boxes that cover just what is in each state but free: runs of seconds, equal ones of adjoining cells joined."""
    found: dict[str, list[Box]] = {}
    growing: dict[tuple[int, int, str], int] = {}
    for cell in range(CELLS + 1):
        runs = set(_runs(frames, cell)) if cell < CELLS else set()
        for run in [run for run in growing if run not in runs]:
            start, end, state = run
            found.setdefault(state, []).append((start, end, growing.pop(run), cell))
        for run in runs:
            growing.setdefault(run, cell)
    return {state: sorted(found[state]) for state in STATES if state in found}


def _runs(frames: Sequence[bytes], cell: int) -> Iterator[tuple[int, int, str]]:
    start = 0
    for second in range(1, len(frames) + 1):
        if second == len(frames) or frames[second][cell] != frames[start][cell]:
            state = LETTERS[chr(frames[start][cell])]
            if state != "free":
                yield start, second, state
            start = second


def _legend(scale: str) -> Iterator[str]:
    for at, (state, look) in enumerate(LOOKS.items()):
        top = at * _LINE_PX
        yield f'<rect x="0" y="{top + 2}" width="12" height="12" fill="{look.colour}" stroke="#999999"/>'
        yield _text(18, top + 12, f"{state}: {STATES[state]}")
    yield _text(0, len(LOOKS) * _LINE_PX + 12, scale)


def _text(left: int, top: int, text: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{left}" y="{top}"{weight}>{escape(text)}</text>'


# ---- as text --------------------------------------------------------------------------------------------------------


def draw(panels: Sequence[Panel], width: int) -> Iterator[str]:
    """The panels as text, as many beside each other as `width` columns hold, each 8 rows high; then a legend.

    A mark stands for the commonest state of its place; of equally common ones for the worst. Nothing is wider, even
    where a single panel has to be cut.
    """
    each = [(panel.title, _marks(panel.frames)) for panel in panels]
    room = max([len(rows[0]) for _, rows in each], default=1)
    across = max(1, (width + 2) // (room + 2))
    for first in range(0, len(each), across):
        some = each[first : first + across]
        titles = [_wrapped(title, min(room, width)) for title, _ in some]
        for line in range(max([len(lines) for lines in titles])):
            names = [lines[line] if line < len(lines) else "" for lines in titles]
            yield "  ".join([name[:room].ljust(room) for name in names]).rstrip()[:width]
        for row in range(_TEXT_ROWS):
            yield "  ".join([rows[row] for _, rows in some])[:width]
    yield ", ".join([f"{look.mark} {state}" for state, look in LOOKS.items()])
    yield f"a mark: {_TEXT_SECONDS} s, {format_size(CELLS // _TEXT_ROWS * CELL_BYTES)}; DPA 0 is at the bottom"


def _marks(frames: Sequence[bytes]) -> list[str]:
    cells = CELLS // _TEXT_ROWS
    rows = []
    for row in reversed(range(_TEXT_ROWS)):
        marks = ""
        for second in range(0, len(frames), _TEXT_SECONDS):
            counts = Counter(
                LETTERS[chr(letter)]
                for frame in frames[second : second + _TEXT_SECONDS]
                for letter in frame[row * cells : (row + 1) * cells]
            )
            marks += LOOKS[max(counts, key=lambda state: (counts[state], -_SEVERITY.index(state)))].mark
        rows.append(marks)
    return rows
