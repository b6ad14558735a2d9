"""The commands of the emulated monitor: what each takes, checked and told as QEMU does, and the schema of it.

One table serves both: `read` holds a request's arguments against it, with QEMU's wordings (measured on 11.1.3), and
`schema` is what query-qmp-schema returns. The table is a small part of QEMU's, in QEMU's shape: types have numbers for
names, all integers are "int", what is optional has a default of null.

What a command then does is `machine`'s. A value that QEMU would take and the device refuses passes here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Value = dict[str, Any]

_U64 = (1 << 64) - 1
SELECTION = ("free", "contiguous", "prescriptive", "enable-shared-access")
REMOVAL = ("tag-based", "prescriptive")


class Whole(NamedTuple):
    """An unsigned integer of so many bits; `name` is how QEMU calls it when one is too large."""

    bits: int

    @property
    def name(self) -> str:
        return f"uint{self.bits}_t"


class Text(NamedTuple):
    """A string; one of `values` where there are any."""

    values: tuple[str, ...] = ()


class Truth(NamedTuple):
    """A boolean."""


class Record(NamedTuple):
    """An object."""

    members: tuple[Member, ...]


class Several(NamedTuple):
    """An array of objects."""

    of: Record


Type = Whole | Text | Truth | Record | Several


class Member(NamedTuple):
    """A member of an object."""

    name: str
    type: Type
    optional: bool = False


class Command(NamedTuple):
    """A command: its arguments, what it returns (None: nothing; an array where `many`), whether it is unstable."""

    members: tuple[Member, ...] = ()
    returns: Record | Text | None = None
    many: bool = False
    unstable: bool = False


_TEXT, _U8, _U16, _INT = Text(), Whole(8), Whole(16), Whole(64)
_EXTENT = Record((Member("offset", _INT), Member("len", _INT)))
_VERSION = Record(
    (
        Member("qemu", Record((Member("major", _INT), Member("minor", _INT), Member("micro", _INT)))),
        Member("package", _TEXT),
    )
)
_PLACE = (Member("region", _U8), Member("tag", _TEXT, True), Member("extents", Several(_EXTENT)))
ADD, RELEASE = "cxl-add-dynamic-capacity", "cxl-release-dynamic-capacity"

COMMANDS: dict[str, Command] = {
    "qmp_capabilities": Command((Member("enable", Several(Record(())), True),)),
    "query-version": Command(returns=_VERSION),
    "query-commands": Command(returns=Record((Member("name", _TEXT),)), many=True),
    "query-qmp-schema": Command(returns=Record((Member("name", _TEXT), Member("meta-type", _TEXT))), many=True),
    "query-status": Command(returns=Record((Member("status", _TEXT), Member("running", Truth())))),
    "query-name": Command(returns=Record((Member("name", _TEXT, True),))),
    "qom-list": Command(
        (Member("path", _TEXT),), returns=Record((Member("name", _TEXT), Member("type", _TEXT))), many=True
    ),
    "qom-get": Command((Member("path", _TEXT), Member("property", _TEXT)), returns=_TEXT),
    "system_reset": Command(),
    "quit": Command(),
    ADD: Command(
        (Member("path", _TEXT), Member("host-id", _U16), Member("selection-policy", Text(SELECTION)), *_PLACE),
        unstable=True,
    ),
    RELEASE: Command(
        (
            Member("path", _TEXT),
            Member("host-id", _U16),
            Member("removal-policy", Text(REMOVAL)),
            Member("forced-removal", Truth(), True),
            Member("sanitize-on-release", Truth(), True),
            *_PLACE,
        ),
        unstable=True,
    ),
}
EVENTS: dict[str, Record] = {
    name: Record((Member("guest", Truth()), Member("reason", _TEXT))) for name in ("RESET", "SHUTDOWN")
}


# ---- arguments


def read(command: str, given: Mapping[str, object]) -> Value | str:
    """The arguments as the command takes them, or QEMU's words for what is wrong with them."""
    return _read_members(COMMANDS[command].members, given, "")


def _read_members(members: tuple[Member, ...], given: Mapping[str, object], where: str) -> Value | str:
    """In QEMU's order: member by member, then what is left over."""
    found: Value = {}
    for member in members:
        if member.name in given:
            value = _read(member.type, given[member.name], member.name, where + member.name)
            if isinstance(value, _Wrong):
                return value.text
            found[member.name] = value
        elif not member.optional:
            return f"Parameter '{where}{member.name}' is missing"
    known = {member.name for member in members}
    for name in given:
        if name not in known:
            return f"Parameter '{where}{name}' is unexpected"
    return found


class _Wrong(NamedTuple):
    text: str


def _read(kind: Type, value: object, name: str, full: str) -> object:
    if isinstance(kind, Whole):
        return _read_whole(kind, value, name, full)
    if isinstance(kind, Text):
        if not isinstance(value, str):
            return _expected(full, "string")
        if kind.values and value not in kind.values:
            return _Wrong(f"Parameter '{full}' does not accept value '{value}'")
        return value
    if isinstance(kind, Truth):
        return value if isinstance(value, bool) else _expected(full, "boolean")
    if isinstance(kind, Record):
        return _read_record(kind, value, full)
    if not isinstance(value, list):
        return _expected(full, "array")
    items: list[object] = []
    for at, item in enumerate(value):
        found = _read_record(kind.of, item, f"{full}[{at}]")
        if isinstance(found, _Wrong):
            return found
        items.append(found)
    return items


def _read_record(kind: Record, value: object, full: str) -> Value | _Wrong:
    if not isinstance(value, dict):
        return _expected(full, "object")
    found = _read_members(kind.members, value, full + ".")
    return _Wrong(found) if isinstance(found, str) else found


def _read_whole(kind: Whole, value: object, name: str, full: str) -> int | _Wrong:
    """An integer; a negative one is its two's complement in 64 bits, as in QEMU."""
    if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value <= _U64:
        return _Wrong(f"Parameter '{full}' expects uint64")
    value &= _U64
    if value >> kind.bits:
        return _Wrong(f"Parameter '{name}' expects {kind.name}")
    return value


def _expected(full: str, what: str) -> _Wrong:
    return _Wrong(f"Invalid parameter type for '{full}', expected: {what}")


# ---- the schema


def schema() -> list[Value]:
    """What query-qmp-schema returns: every command and event, and every type that they name."""
    return _Schema().entities


class _Schema:
    """Entities while they are collected; equal types have one number."""

    def __init__(self) -> None:
        self.entities: list[Value] = []
        self._names: dict[Type, str] = {}
        self._builtin: set[str] = set()
        nothing = self._name(Record(()))
        for name, command in COMMANDS.items():
            returned = nothing if command.returns is None else self._name(command.returns)
            if command.many:
                returned = self._array(returned)
            entity: Value = {
                "name": name,
                "meta-type": "command",
                "arg-type": self._name(Record(command.members)),
                "ret-type": returned,
            }
            if command.unstable:
                entity["features"] = ["unstable"]
            self.entities.append(entity)
        for name, data in EVENTS.items():
            self.entities.append({"name": name, "meta-type": "event", "arg-type": self._name(data)})

    def _name(self, kind: Type) -> str:
        if isinstance(kind, Whole):
            return self._plain("int", "int")
        if isinstance(kind, Truth):
            return self._plain("bool", "boolean")
        if kind == _TEXT:
            return self._plain("str", "string")
        if isinstance(kind, Several):
            return self._array(self._name(kind.of))
        if kind in self._names:
            return self._names[kind]
        name = self._names[kind] = str(len(self._names))
        if isinstance(kind, Text):
            values = list(kind.values)
            self.entities.append(
                {"name": name, "meta-type": "enum", "values": values, "members": [{"name": one} for one in values]}
            )
            return name
        members = []
        for member in kind.members:
            told: Value = {"name": member.name, "type": self._name(member.type)}
            members.append({**told, "default": None} if member.optional else told)
        self.entities.append({"name": name, "meta-type": "object", "members": members})
        return name

    def _plain(self, name: str, json_type: str) -> str:
        if name not in self._builtin:
            self._builtin.add(name)
            self.entities.append({"name": name, "meta-type": "builtin", "json-type": json_type})
        return name

    def _array(self, of: str) -> str:
        name = f"[{of}]"
        if name not in self._builtin:
            self._builtin.add(name)
            self.entities.append({"name": name, "meta-type": "array", "element-type": of})
        return name
