"""`dcd decode` and `dcd encode`: bytes of the wire shown as a tree, and built from JSON. No guest, no QEMU.

What is in the bytes is found by `wire.dissect`, what a value is by `wire.plain`; here it is only taken in and laid
out. Bytes that are not the structure are shown as far as they go, with the place where they fail.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from ..errors import AskedWrongly
from ..wire.catalog import CATALOG, Entry, find
from ..wire.dissect import Dissection, Node, dissect, fitting
from ..wire.plain import from_plain, to_plain
from . import hexdump

MAX_INPUT = 4 * hexdump.MAX_BYTES
"""The most that is read of a file or of stdin: the largest message, as hex with spaces."""

_SHOWN_BYTES = 16
_TEXT = frozenset(b"\t\n\r\f\v") | frozenset(range(0x20, 0x7F))


def decode(
    text: Annotated[
        list[str] | None,
        typer.Argument(metavar="HEX", help="The bytes, as hex. Else they are read from --file or stdin."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="What they are: a name, or an opcode like 5604h.")
    ] = None,
    request: Annotated[bool, typer.Option("--request", help="With an opcode: what is sent.")] = False,
    response: Annotated[bool, typer.Option("--response", help="With an opcode: what comes back.")] = False,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read them from this file.")] = None,
    binary: Annotated[
        bool, typer.Option("--binary", help="Input is bytes as they are, even if they look like hex.")
    ] = (False),
    as_json: Annotated[bool, typer.Option("--json", help="Print the value and the tree as JSON.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="Show what is known, and stop.")] = False,
) -> int:
    """Take bytes of a mailbox or of the fabric manager's tunnel apart, field by field.

    Hex may have spaces, 0x, or be a dump of xxd or hexdump -C; anything that is not text is taken as bytes. Without
    --as, what fits is used if it is one thing only. Exit: 0; 1 the bytes are malformed; 2 they are not understood.
    """
    console = Console(highlight=False)
    if listing:
        _list(console)
        return 0
    direction = _direction(request, response)
    data = _bytes(text or [], file, binary)
    entry = _guess(data) if name is None else find(name, direction)
    found = dissect(entry.structure, data)
    if as_json:
        console.out(json.dumps(_as_data(entry, data, found), indent=2), highlight=False)
    elif console.is_terminal and not console.is_dumb_terminal:
        console.print(_tree(found.root))
    else:
        console.out("\n".join(_lines(found.root)), highlight=False)
    if found.error is not None:
        raise found.error
    return 0


def encode(
    name: Annotated[str, typer.Argument(help="What to build: a name, or an opcode like 5604h.")],
    text: Annotated[
        str | None, typer.Argument(metavar="JSON", help="Its fields. Else they are read from --file or stdin.")
    ] = None,
    request: Annotated[bool, typer.Option("--request", help="With an opcode: what is sent.")] = False,
    response: Annotated[bool, typer.Option("--response", help="With an opcode: what comes back.")] = False,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the JSON from this file.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write there, not to stdout.")] = None,
    binary: Annotated[bool, typer.Option("--binary", help="Write the bytes as they are, not as hex.")] = False,
) -> int:
    """Build the bytes of a structure from JSON: an object of its fields, or what `dcd decode --json` printed.

    Bytes are hex; numbers may be text (0x1c, 256M) or the names that decode shows; fields with a default may be left
    out. Exit: 0; 2 the JSON does not say such a structure.
    """
    entry = find(name, _direction(request, response))
    data = from_plain(entry.structure, _value(entry, _json(_text(text, file)))).to_bytes()
    written = data if binary else data.hex().encode() + b"\n"
    if output is not None:
        try:
            output.write_bytes(written)
        except OSError as error:
            raise AskedWrongly(f"cannot write {output}: {error.strerror}; give another --output") from error
    elif binary and sys.stdout.isatty():
        raise AskedWrongly("bytes would go to the terminal; add --output FILE, or leave --binary out for hex")
    else:
        sys.stdout.buffer.write(written)
        sys.stdout.buffer.flush()
    return 0


# --- what comes in -------------------------------------------------------------------------------------------


def _direction(request: bool, response: bool) -> str | None:
    if request and response:
        raise AskedWrongly("--request and --response were given; give one")
    return "request" if request else "response" if response else None


def _bytes(words: list[str], file: Path | None, binary: bool) -> bytes:
    if words and file is not None:
        raise AskedWrongly("both hex and --file were given; give one")
    if len(words) == 1 and file is None and not _is_hex(words[0]):
        words, file = [], Path(words[0])  # what is not hex can only be a file's name
    if words:
        if binary:
            raise AskedWrongly("--binary is for --file and stdin; what is on the command line is hex")
        return hexdump.read(" ".join(words))
    given = _read(file, "hex on the command line, --file, or bytes on stdin")
    return given if binary or not _TEXT.issuperset(given) else hexdump.read(given.decode("ascii"))


def _is_hex(word: str) -> bool:
    try:
        hexdump.read(word)
    except AskedWrongly:
        return False
    return True


def _read(file: Path | None, what: str) -> bytes:
    """All of a file or of stdin, at most MAX_INPUT bytes."""
    if file is None and sys.stdin.isatty():
        raise AskedWrongly(f"nothing was given; give {what}")
    try:
        if file is None:
            data = sys.stdin.buffer.read(MAX_INPUT + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(MAX_INPUT + 1)
    except (OSError, ValueError) as error:  # a ValueError for a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise AskedWrongly(f"cannot read {str(file or 'stdin')[:80]}: {why}; give {what}") from error
    if len(data) > MAX_INPUT:
        raise AskedWrongly(f"{file or 'stdin'} has more than {MAX_INPUT} bytes; no structure is so long")
    return data


def _text(text: str | None, file: Path | None) -> str:
    if text is not None and file is not None:
        raise AskedWrongly("both JSON and --file were given; give one")
    if text is not None:
        return text
    try:
        return _read(file, "JSON on the command line, --file, or on stdin").decode()
    except UnicodeDecodeError as error:
        raise AskedWrongly(f"this is not JSON: byte {error.start} is not UTF-8") from error


def _json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise AskedWrongly(f"this is not JSON: {error.msg} at line {error.lineno} column {error.colno}") from error
    except (RecursionError, ValueError) as error:
        raise AskedWrongly(f"this JSON cannot be read: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise AskedWrongly(f"the JSON has {key!r} twice in one object; give it once")
        found[key] = value
    return found


def _value(entry: Entry, plain: Any) -> Any:
    """The fields, also of what decode printed."""
    if not isinstance(plain, dict) or not {"structure", "value", "tree"} <= set(plain):
        return plain
    if plain["structure"] != entry.name:
        raise AskedWrongly(f"the JSON is of {plain['structure']}, not of {entry.name}; name what it is")
    if plain["value"] is None:
        raise AskedWrongly(f"the JSON is of malformed bytes: it has no value of {entry.name} to build")
    return plain["value"]


def _guess(data: bytes) -> Entry:
    """The one thing that the bytes can be. Errors: AskedWrongly when they can be several, or none."""
    fits = fitting(data)
    if not fits:
        raise AskedWrongly(
            f"these {len(data)} bytes are no structure that is known; say with --as what they should be (see --list)"
        )
    if len(fits) > 1:
        raise AskedWrongly(f"these {len(data)} bytes could be {', '.join(fits)}; say with --as what they are")
    Console(stderr=True, highlight=False).print(f"read as {fits[0]}: nothing else fits", soft_wrap=True, markup=False)
    return CATALOG[fits[0]]


# --- what goes out -------------------------------------------------------------------------------------------


def _list(console: Console) -> None:
    rows = [("name", "command", "where")]
    for entry in CATALOG.values():
        commands = ", ".join(f"{opcode:04x}h {direction}" for opcode, direction in entry.commands)
        rows.append((entry.name, commands or "(inside others)", entry.section))
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    console.out("\n".join(f"{name:<{first}}  {command:<{second}}  {where}" for name, command, where in rows))


def _raw(node: Node) -> str:
    """The field's own value, short enough for a line."""
    if isinstance(node.value, bytes):
        more = f".. ({len(node.value)} bytes)" if len(node.value) > _SHOWN_BYTES else ""
        return node.value[:_SHOWN_BYTES].hex() + more
    return "" if node.value is None else f"0x{node.value:0{2 * node.size_bytes}x}"


def _walk(node: Node, depth: int = 0) -> Iterator[tuple[int, Node]]:
    yield depth, node
    for child in node.children:
        yield from _walk(child, depth + 1)


def _lines(root: Node) -> list[str]:
    """One line a field: offset, size, name, value, meaning. The failing byte has an arrow and a line of its own."""
    nodes = list(_walk(root))
    width = max(2 * depth + len(node.name) for depth, node in nodes)
    values = max(len(_raw(node)) for _, node in nodes)
    lines = []
    for depth, node in nodes:
        what = f"{node.structure}, {node.section}" if node.structure else ""
        if what and node.note:
            what += f"; {node.note}"
        name = f"{'  ' * depth}{node.name}"
        line = f"0x{node.offset_bytes:04x} {node.size_bytes:5}  {name:<{width}}  {_raw(node):<{values}}"
        lines.append(f"{line}  {what or node.note}".rstrip())
        if node.error:
            lines.append(f"  ^^^^ {node.error}")
    return lines


def _tree(root: Node) -> Tree:
    """The same on a terminal."""
    tree = Tree(_label(root), guide_style="dim")
    branches = [(tree, root)]
    while branches:
        branch, node = branches.pop()
        for child in node.children:
            branches.append((branch.add(_label(child)), child))
    return tree


def _label(node: Node) -> str:
    parts = [f"[dim]0x{node.offset_bytes:04x}[/dim]"]
    if node.structure:
        parts.append(f"[bold]{escape(node.name)}[/bold]")
        if node.name != node.structure:
            parts.append(f"[cyan]{node.structure}[/cyan]")
        parts.append(f"[dim]{node.size_bytes} bytes, {node.section}[/dim]")
    else:
        parts += [escape(node.name), f"[yellow]{_raw(node)}[/yellow]"]
    if node.note:
        parts.append(f"[green]{escape(node.note)}[/green]")
    if node.error:
        parts.append(f"[bold red]<- {escape(node.error)}[/bold red]")
    return " ".join(part for part in parts if part)


def _as_data(entry: Entry, data: bytes, found: Dissection) -> dict[str, Any]:
    """What --json prints: `value` is what encode takes, `tree` what decode shows."""
    error = found.error
    return {
        "structure": entry.name,
        "section": entry.section,
        "size_bytes": len(data),
        "error": None if error is None else {"message": error.message, "offset_bytes": error.offset_bytes},
        "value": to_plain(entry.structure.from_bytes(data)) if error is None else None,
        "tree": _node(found.root),
    }


def _node(node: Node) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": node.name,
        "offset_bytes": node.offset_bytes,
        "size_bytes": node.size_bytes,
        "value": node.value.hex() if isinstance(node.value, bytes) else node.value,
    }
    for key in ("note", "structure", "section", "error"):
        if getattr(node, key):
            shown[key] = getattr(node, key)
    if node.children:
        shown["children"] = [_node(child) for child in node.children]
    return shown
