"""Structures as plain values (what JSON can say), and back.

A structure is an object of its fields' names; bytes are hex; an opcode is "5604h"; a message's payload is the object
of its structure where the opcode tells which, else hex. Reserved bytes are left out when all are zero. `to_plain`
gives what `from_plain` takes, and `from_plain` takes more, for who writes it by hand: fields with a default left
out, numbers as text ("0x10", "256M"), names for numbers that have one ("prescriptive"), a list of names for flags.

No JSON text here, and no bytes: for these there are `json` and the structures themselves.
"""

from __future__ import annotations

import types
from dataclasses import MISSING, fields
from enum import IntEnum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..errors import AskedWrongly, MalformedBytes
from ..units import parse_size
from .catalog import COMMANDS, meaning, read_opcode
from .dissect import MAX_MESSAGES
from .events import RECORD_SIZE, RawRecord
from .fmapi import CciMessage
from .layout import Structure

Plain = dict[str, Any]


def to_plain(structure: Structure | RawRecord) -> Plain:
    """The structure as an object of plain values."""
    return _plain(structure, MAX_MESSAGES)


def _plain(structure: Structure | RawRecord, depth: int) -> Plain:
    shown: Plain = {}
    for one in fields(structure):  # type: ignore[arg-type]  # every structure is a dataclass
        value = getattr(structure, one.name)
        if one.name == "reserved" and not value:
            continue
        if one.name == "opcode":
            shown[one.name] = f"{value:04x}h"
        elif one.name == "payload" and isinstance(structure, CciMessage):
            shown[one.name] = _payload(structure, depth)
        else:
            shown[one.name] = _simple(value, depth)
    return shown


def _simple(value: Any, depth: int) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, int):
        return int(value)
    if isinstance(value, tuple):
        return [_simple(one, depth) for one in value]
    return value if value is None or isinstance(value, str) else _plain(value, depth)


def _payload(message: CciMessage, depth: int) -> Plain | str:
    """Hex, unless it is a structure that builds back to the same bytes."""
    if depth:
        try:
            content = message.content()
        except MalformedBytes:
            content = None
        if content is not None and content.to_bytes() == message.payload:
            return _plain(content, depth - 1)
    return message.payload.hex()


def from_plain(structure: type[Structure], plain: Any) -> Structure:
    """The structure that these plain values say.

    Errors: AskedWrongly, one line that names the field and what it takes. Whether a number fits its field is found
    by `to_bytes`.
    """
    return _build(structure, plain, structure.__name__, MAX_MESSAGES)  # type: ignore[return-value]


def _build(kind: type, plain: Any, where: str, depth: int) -> object:
    if not isinstance(plain, dict):
        raise AskedWrongly(f"{where} is {_shown(plain)}; give an object with {_allowed(kind)}")
    unknown = sorted(set(plain) - {one.name for one in fields(kind)})
    if unknown:
        raise AskedWrongly(f"{where} has no field {unknown[0]!r}; it has {_allowed(kind)}")
    needed = [one.name for one in fields(kind) if one.default is MISSING and one.name not in plain]
    if kind is RawRecord:
        needed = [name for name in needed if name == "data"]
    if needed:
        raise AskedWrongly(f"{where} lacks {', '.join(needed)}; it has {_allowed(kind)}")
    hints = _hints(kind)
    values = {
        name: _value(kind, name, hints[name], value, f"{where}.{name}", depth)
        for name, value in plain.items()
        if not (kind is CciMessage and name == "payload")
    }
    if kind is CciMessage and "payload" in plain:
        values["payload"] = _payload_bytes(values, plain["payload"], f"{where}.payload", depth)
    if kind is RawRecord:
        if len(values["data"]) != RECORD_SIZE:
            raise AskedWrongly(f"{where}.data has {len(values['data'])} bytes; a record has {RECORD_SIZE}")
        values = {"handle": int.from_bytes(values["data"][20:22], "little"), "error": "", **values}
    return kind(**values)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _allowed(kind: type) -> str:
    """The fields, those first that must be given."""
    must = [one.name for one in fields(kind) if one.default is MISSING]
    may = [one.name for one in fields(kind) if one.default is not MISSING]
    return " and, if wanted, ".join(", ".join(names) for names in (must, may) if names)


def _value(kind: type, name: str, hint: Any, plain: Any, where: str, depth: int) -> Any:
    """One field's value, by its type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if plain is None and type(None) in arguments:
            return None
        choices = [one for one in arguments if one is not type(None)]
        raw = RawRecord in choices and isinstance(plain, dict) and "data" in plain
        return _value(kind, name, RawRecord if raw else choices[0], plain, where, depth)
    if origin is tuple:
        return _tuple(kind, name, arguments, plain, where, depth)
    if hint is bytes:
        return _bytes(plain, where)
    if hint is int:
        return _number(kind, name, plain, where)
    if isinstance(hint, type) and issubclass(hint, IntEnum):
        number = _number(kind, name, plain, where)
        if number not in list(hint):
            raise AskedWrongly(f"{where} is {number}; give {', '.join(f'{one.value} {one.name}' for one in hint)}")
        return hint(number)
    if hint is str:
        return str(plain)
    return _build(hint, plain, where, depth)


def _tuple(kind: type, name: str, arguments: tuple[Any, ...], plain: Any, where: str, depth: int) -> tuple[Any, ...]:
    many = arguments[-1] is Ellipsis
    if isinstance(plain, dict) and not many:
        plain = [plain.get("start"), plain.get("length")] if set(plain) == {"start", "length"} else plain
    if not isinstance(plain, list) or (not many and len(plain) != len(arguments)):
        raise AskedWrongly(f"{where} is {_shown(plain)}; give {'a list' if many else '[start, length]'}")
    return tuple(
        _value(kind, name, arguments[0 if many else at], one, f"{where}[{at}]", depth) for at, one in enumerate(plain)
    )


def _number(kind: type, name: str, plain: Any, where: str) -> int:
    if isinstance(plain, int) and not isinstance(plain, bool):
        return plain
    known = meaning(kind, name) if issubclass(kind, Structure) else None
    names = {} if known is None else known.names
    if isinstance(plain, list) and plain:
        total = 0
        for one in plain:
            total |= _number(kind, name, one, where)
        return total
    if isinstance(plain, str):
        word = plain.strip().lower().replace("-", "_").replace(" ", "_")
        if word in names:
            return names[word]
        opcode = read_opcode(plain) if name == "opcode" else None
        if opcode is not None:
            return opcode
        try:
            return parse_size(plain)
        except AskedWrongly:
            pass
    words = f", or {', '.join(names)}" if 0 < len(names) <= 12 else ""
    raise AskedWrongly(f"{where} is {_shown(plain)}; give a number (12, 0x1c, 256M){words}")


def _bytes(plain: Any, where: str) -> bytes:
    if isinstance(plain, str):
        try:
            return bytes.fromhex(plain.replace("-", ""))
        except ValueError:
            pass
    raise AskedWrongly(f"{where} is {_shown(plain)}; give bytes as hex text")


def _payload_bytes(message: Plain, plain: Any, where: str, depth: int) -> bytes:
    """A message's payload: hex as it is, an object as the structure that the message's other fields name."""
    if not isinstance(plain, dict):
        return _bytes(plain, where)
    if "opcode" not in message:
        raise AskedWrongly(f"{where} is an object, and no opcode says of what; give the message's opcode, or hex")
    if not depth:
        raise AskedWrongly(f"{where} is inside {MAX_MESSAGES} messages; give it as hex")
    direction = CciMessage(opcode=message["opcode"], category=message.get("category", 0)).direction
    structure = COMMANDS.get((message["opcode"], direction))
    if structure is None:
        raise AskedWrongly(
            f"{where}: no structure is known for the {direction or 'message'} {message['opcode']:04x}h; "
            "leave it out, or give hex"
        )
    built: Any = _build(structure, plain, where, depth - 1)
    return bytes(built.to_bytes())


def _shown(plain: Any) -> str:
    text = repr(plain)
    return text if len(text) <= 40 else f"{text[:37]}..."
