"""The matrix of policies as tables, and as JSON: scenarios and traces down, hosts and switches across.

It shows what `lab.matrix` found and runs nothing. Rows in which every column that ran says the same are folded into
one line unless all are asked for; a cell says in a few marks what became of offers and requests (`MARKS`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ..units import format_size

if TYPE_CHECKING:
    from .matrix import Column, Found, ScenarioCell, TraceCell
    from .play import Outcome

GIB = 1 << 30
_BETWEEN = 2
"""Blanks between two columns."""
MARKS = (
    "+ taken whole, ~ in part, - refused, ? not answered; r asked back, a of those asked again, k capacity asked back "
    "and kept; * the script wants host U and was not followed, x it ended otherwise than the scenario expects, u it is "
    "not known how; ! a rule is broken; .. did not run"
)
_TRACE_COLUMNS = (
    "tenants back", "refused", "waiting", "kept", "users served", "offered", "refused ", "needed", "used", "idle",
    "stranded", "blocked", "longest", "asked again", "offered again", "taken away", "rules",
)  # fmt: skip
LEGEND = (
    "offered, refused in GiB; needed to blocked in GiB x seconds (simulated): needed by users that were served; used "
    "by users; idle: held for a tenant that is there, nobody uses it; stranded: held, its tenant done, nobody uses it; "
    "blocked: the same, another tenant's user sits in it; longest: seconds from done to back. taken away: users whose "
    "memory was given back under them, where no rule of the policy looks at its use"
)


def cell_text(cell: ScenarioCell | None) -> str:
    """A scenario's cell: what became of its offers and requests."""
    if cell is None or cell.numbers is None:
        return ".."
    found = cell.numbers
    counts = (
        ("+", found.taken), ("~", found.in_part), ("-", found.refused), ("?", found.open_offers), ("r", found.asked),
        ("a", found.asked_again),
    )  # fmt: skip
    said = [f"{mark}{count}" for mark, count in counts if count]
    said += [f"k{format_size(found.kept_bytes)}"] if found.kept_bytes else []
    mark = "!" if cell.broken else {"fail": "x", "skipped": "*", "unknown": "u"}.get(cell.outcome, "")
    return " ".join([*said, *([mark] if mark else [])]) or "ok"


Rows = Mapping[str, Mapping[str, "ScenarioCell"]]


def scenarios(rows: Rows, columns: Sequence[Column], *, every: bool) -> Iterator[Table | str]:
    """What scenarios show: hosts beside each other, then what each switch changes against its host, and the marks."""
    if not rows:
        return
    there = {one.name: one for one in columns}
    bases = {one.name: one.plain.name for one in columns if one.what_if and one.plain.name in there}
    hosts = {one.emulated.name: one.name for one in reversed(columns) if one.name not in bases}
    hosts = dict(reversed(hosts.items()))
    table = Table(title="Scenarios, ON THE EMULATOR", title_justify="left", box=None, pad_edge=False)
    table.add_column("scenario", no_wrap=True)
    for title in hosts:
        table.add_column(_stacked(title), no_wrap=True)
    texts = {row: [cell_text(cells.get(name)) for name in hosts.values()] for row, cells in rows.items()}
    shown = {row: said for row, said in texts.items() if every or len({one for one in said if one != ".."}) > 1}
    for row, said in shown.items():
        table.add_row(row, *said)
    if shown:
        yield table
    if len(shown) < len(rows):
        yield f"{len(rows) - len(shown)} of {len(rows)} scenarios show the same on every host that runs them (--all)"
    for name, base in bases.items():
        yield changes(rows, name, base)
    yield MARKS


def changes(rows: Rows, name: str, base: str) -> str:
    """Which scenarios a switch changes, and from what into what; those that change alike together."""
    found: dict[tuple[str, str], list[str]] = {}
    for row, cells in rows.items():
        before, after = cell_text(cells.get(base)), cell_text(cells.get(name))
        if before != after:
            found.setdefault((before, after), []).append(row)
    count = sum([len(names) for names in found.values()])
    lines = [f"{name} changes {count} of {len(rows)} scenarios" + (", from what they are on " + base if count else "")]
    lines += [f"  {before} -> {after}: {', '.join(names)}" for (before, after), names in found.items()]
    return "\n".join(lines)


def _stacked(name: str) -> str:
    """A column's name over several lines: switches under their host, words of a switch under each other."""
    host, *switches = name.split("+")
    return "\n".join([host, *["+" + switch.replace("-", "\n-") for switch in switches]])


def traces(rows: Mapping[str, Mapping[str, TraceCell]], texts: Mapping[str, str]) -> Iterator[Table | str]:
    """A table for each trace, a host a row."""
    for row, cells in rows.items():
        table = Table(title=f"Trace {row}: {texts[row]}", title_justify="left", box=None, pad_edge=False)
        table.add_column("host", no_wrap=True)
        lines = {name: _trace_row(cell) for name, cell in cells.items()}
        said = [at for at, _ in enumerate(_TRACE_COLUMNS) if any(line[at] for line in lines.values())]
        for at in said:  # what is nothing everywhere takes no room
            table.add_column(_TRACE_COLUMNS[at].replace(" ", "\n", 1), justify="right", no_wrap=True)
        for name, line in lines.items():
            table.add_row(name, *[line[at] for at in said])
        yield table
    if rows:
        yield LEGEND


def _trace_row(cell: TraceCell) -> list[str]:
    found, numbers = cell.outcome, cell.numbers
    whole = sum(found.tenants.values())
    seconds = [_gib(found.needed_byte_s), *[_gib(found.byte_seconds(state)) for state in _SHOWN]]
    return [
        f"{found.tenants['returned']}/{whole}", _count(found.tenants["refused"]), _count(found.tenants["waiting"]),
        _count(found.tenants["held"]), f"{found.users['served']}/{sum(found.users.values())}",
        _gib(numbers.offered_bytes), _gib(numbers.refused_bytes), *seconds,
        f"{found.longest_s} s" if found.longest_s else "", _count(found.asked_again), _count(found.offers_again),
        _count(found.taken_away), _rules(cell),
    ]  # fmt: skip


def _rules(cell: TraceCell) -> str:
    if not cell.broken:
        return cell.verdict
    return cell.broken[0] + (f" +{len(cell.broken) - 1}" if len(cell.broken) > 1 else "")


_SHOWN = ("used", "idle", "stranded", "blocked")


def _count(number: int) -> str:
    return str(number) if number else ""


def _gib(amount: int) -> str:
    return f"{amount / GIB:.1f}" if amount else ""


def fitting(table: Table, width: int) -> Iterator[Table]:
    """The same in tables that are no wider than `width`, if that can be: each has the first column, and some others.

    A figure that is cut is another figure, so columns go below each other and none is made narrower.
    """
    first, *others = [
        max([len(line) for cell in (column.header, *column.cells) for line in str(cell).split("\n")])
        for column in table.columns
    ]
    some: list[int] = []
    parts = [some]
    for number, needed in enumerate(others, 1):
        if some and first + sum([others[at - 1] + _BETWEEN for at in some]) + needed + _BETWEEN > width:
            some = []
            parts.append(some)
        some.append(number)
    if len(parts) == 1:
        yield table
        return
    for index, chosen in enumerate(parts):
        part = Table(title=None if index else table.title, title_justify="left", box=None, pad_edge=False)
        columns = [table.columns[at] for at in (0, *chosen)]
        for column in columns:
            part.add_column(column.header, justify=column.justify, no_wrap=True)
        for row in zip(*[column.cells for column in columns], strict=True):
            part.add_row(*row)
        yield part


# ---- as data --------------------------------------------------------------------------------------------------------


def as_data(found: Found, columns: Sequence[str], seed: int, asks: int) -> dict[str, Any]:
    """Everything as JSON data: the same for the same seed, wherever and whenever it ran."""
    return {
        "seed": seed,
        "asks": asks,
        "columns": list(columns),
        "scenarios": {
            row: {
                name: {
                    "outcome": cell.outcome,
                    "followed": cell.followed,
                    "broken": list(cell.broken),
                    "numbers": None if cell.numbers is None else cell.numbers._asdict(),
                }
                for name, cell in cells.items()
            }
            for row, cells in found.scenarios.items()
        },
        "traces": {
            row: {name: trace_data(cell) for name, cell in cells.items()} for row, cells in found.traces.items()
        },
    }


def trace_data(cell: TraceCell) -> dict[str, Any]:
    """A trace's cell as JSON data; byte-seconds by state, without the frames."""
    found: Outcome = cell.outcome
    states = ("pending", "used", "idle", "stranded", "blocked", "lost")
    return {
        "tenants": dict(found.tenants),
        "users": dict(found.users),
        "byte_seconds": {state: found.byte_seconds(state) for state in states},
        "needed_byte_seconds": found.needed_byte_s,
        "waited_seconds": found.waited_s,
        "longest_seconds": found.longest_s,
        "offered_again": found.offers_again,
        "asked_again": found.asked_again,
        "taken_away": found.taken_away,
        "numbers": cell.numbers._asdict(),
        "verdict": cell.verdict,
        "broken": list(cell.broken),
    }
