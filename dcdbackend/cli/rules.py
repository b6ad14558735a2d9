"""`dcd rules`: the table of rules and clauses, and of the known departures from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..errors import AskedWrongly
from . import out

if TYPE_CHECKING:
    from ..rules import Clause

GENERATIONS = ("U", "A", "B-rfc", "v10", "v11", "draft", "C")


def _ids(incomplete: str) -> list[str]:
    from ..linux_rules import EVERY

    names = dict.fromkeys([*[clause.rule for clause in EVERY.values()], *EVERY])
    return [name for name in names if name.startswith(incomplete)]


def rules(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="A rule (DEV-8), a clause (DEV-8.16h), a departure.", autocompletion=_ids),
    ] = None,
    generation: Annotated[
        str | None,
        typer.Option(
            "--generation",
            help=f"Only what concerns a host of this generation: {', '.join(GENERATIONS)}.",
            autocompletion=lambda incomplete: [one for one in GENERATIONS if one.startswith(incomplete)],
        ),
    ] = None,
    as_json: out.Json = False,
) -> int:
    """Show the rules that everything is judged by: id, kind, subject, text, source, generations, witnesses.

    must: demanded. may: permitted, a stricter judge would be wrong. No witness: nothing here can see it, and it is
    never green. Not judged: no verdict counts it, for the reason given. Departures: known differences of a device
    (QEMU-...) or a kernel (Q...), with their versions.
    """
    if generation is not None and generation not in GENERATIONS:
        raise AskedWrongly(f"generation {generation!r} is not known; there are {', '.join(GENERATIONS)}")
    clauses = _clauses(name, generation)
    departures = _departures(name, generation, {clause.id for clause in clauses})
    if not clauses and not departures:
        where = f" of generation {generation}" if generation else ""
        raise AskedWrongly(f"{name!r} is no rule, clause or departure{where}; dcd rules shows all")
    if as_json:
        out.data({"clauses": [_as_data(clause) for clause in clauses], "departures": departures})
        return 0
    console = out.console(width=160)
    if clauses:
        console.print(_clause_table(clauses))
    if departures:
        console.print(_departure_table(departures))
    return 0


def _clauses(name: str | None, generation: str | None) -> list[Clause]:
    from ..linux_rules import EVERY

    found = [clause for clause in EVERY.values() if name is None or name in (clause.id, clause.rule)]
    if generation is None:
        return found
    return [clause for clause in found if not clause.generations or generation in clause.generations]


def _title(rule: str) -> str:
    from .. import linux_rules
    from .. import rules as device_rules

    return device_rules.RULES.get(rule) or linux_rules.RULES.get(rule, "")


def _as_data(clause: Clause) -> dict[str, Any]:
    from ..linux_rules import BY_OTHERS

    seen = bool(clause.witnesses) or clause.subject == "witness"
    told = {**clause._asdict(), "title": _title(clause.rule), "observable": seen}
    return {**told, "not_judged": _not_judged(clause), "shown_by": BY_OTHERS.get(clause.id)}


def _not_judged(clause: Clause) -> str | None:
    """Why no verdict ever counts it; None for one that is judged."""
    from .. import linux_rules
    from .. import rules as device_rules

    return device_rules.NOT_JUDGED.get(clause.id) or linux_rules.NOT_JUDGED.get(clause.id)


def _departures(name: str | None, generation: str | None, clauses: set[str]) -> list[dict[str, Any]]:
    """Those of that id, or of the clauses shown; a kernel's only where its generation is meant."""
    from ..model.departures import DEPARTURES
    from ..model.quirks import QUIRKS

    found: list[dict[str, Any]] = []
    for row in DEPARTURES.values():
        versions = f"QEMU {row.first} to {row.last or 'now'}"
        found.append({"id": row.id, "clause": row.clause, "text": row.text, "versions": versions, "source": row.source})
    for quirk in QUIRKS.values():
        if generation is not None and generation not in quirk.generations:
            continue
        shown = f"recorded in {quirk.shown}" if quirk.shown else "read in its code"
        shown += f"; shown by scenario {quirk.scenario}" if quirk.scenario else f"; not on QEMU: {quirk.hidden}"
        text = f"{quirk.code}; documented: {quirk.documented}"
        versions = f"Linux {', '.join(quirk.generations)}"
        found.append({"id": quirk.id, "clause": quirk.clause, "text": text, "versions": versions, "source": shown})
    return [row for row in found if name is None or name == row["id"] or row["clause"] in clauses]


def _clause_table(clauses: list[Clause]) -> Table:
    table = Table(box=None, pad_edge=False, title=None)
    for column in ("id", "kind", "subject"):
        table.add_column(column, no_wrap=True)
    for column in ("text", "source", "generations", "witnesses"):
        table.add_column(column, overflow="fold")
    rule = ""
    for clause in clauses:
        if clause.rule != rule:
            rule = clause.rule
            table.add_row(f"[bold]{rule}[/]", "", "", f"[bold]{_title(rule)}[/]", "", "", "")
        table.add_row(
            clause.id,
            clause.kind,
            clause.subject,
            clause.text,
            clause.source,
            " ".join(clause.generations) or "all",
            _seen_by(clause),
        )
    return table


def _seen_by(clause: Clause) -> str:
    """The witnesses; of what is never judged, why; of what shows under another name, where."""
    from ..linux_rules import BY_OTHERS

    nobody = "whatever the guest judges, too" if clause.subject == "witness" else "none: not observable"
    seen = " ".join(clause.witnesses) or nobody
    if clause.id in BY_OTHERS:
        return f"{seen}; broken, it shows elsewhere: {BY_OTHERS[clause.id]}"
    why = _not_judged(clause)
    return seen if why is None else f"{seen}; not judged: {why}"


def _departure_table(departures: list[dict[str, Any]]) -> Table:
    table = Table(title="Known departures", title_justify="left", box=None, pad_edge=False)
    for column in ("id", "clause", "versions"):
        table.add_column(column, no_wrap=True)
    for column in ("text", "source"):
        table.add_column(column, overflow="fold")
    for row in departures:
        table.add_row(row["id"], row["clause"], row["versions"], row["text"], row["source"])
    return table
