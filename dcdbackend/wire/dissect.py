"""Bytes taken apart for people: every field with its place, its value and what that means, as far as they go.

`from_bytes` answers whether bytes are a structure, and keeps nothing of those that are not. This answers what is in
them, also when they end too early or lie about a length: it walks the same construct declarations field by field
and stops where they stop. Whether they are the structure is still for `from_bytes` alone; its verdict is marked at
the field it names. Payloads of CCI messages are opened by their opcode, so one tree goes from the tunnel down to
the extents.

Slower by far than reading the structure, and not for the guest. What the tree looks like is for the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import construct

from ..errors import MalformedBytes
from .catalog import CATALOG, explain
from .events import DYNAMIC_CAPACITY_UUID, RECORD_SIZE, DynamicCapacityRecord, EventRecords
from .fmapi import CciMessage
from .layout import Structure

MAX_MESSAGES = 8
"""How deep messages are opened inside each other. A multi-headed device may refuse more than 3 layers (CXL r3.1
7.6.7.3.1); bytes could claim thousands."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One field, or one structure with its fields in `children`.

    offset_bytes counts from the first byte of all. size_bytes: those that are there. value: the number, or the bytes;
    None of a structure, and of a number whose bytes are not all there. note: what it means. structure, section: of
    a field that is one. error: why the bytes fail, at the one field where they do.
    """

    name: str
    offset_bytes: int
    size_bytes: int
    value: int | bytes | None = None
    note: str = ""
    structure: str = ""
    section: str = ""
    error: str = ""
    children: tuple[Node, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Dissection:
    """The tree of some bytes, and why they are not the structure, if they are not."""

    root: Node
    error: MalformedBytes | None


def dissect(structure: type[Structure], data: bytes) -> Dissection:
    """What is in the bytes, read as that structure. Never raises."""
    walk = _Walk(bytes(data), structure)
    root = walk.structure(structure, structure.__name__, 0, len(data))
    if walk.error is not None and not walk.marked:
        missing = Node(name="missing", offset_bytes=len(data), size_bytes=0, error=walk.error.message)
        root = replace(root, children=(*root.children, missing))
    return Dissection(root=root, error=walk.error)


def fitting(data: bytes) -> tuple[str, ...]:
    """The names of all structures that these bytes are, payloads of messages in them included."""
    return tuple(name for name, entry in CATALOG.items() if dissect(entry.structure, data).error is None)


_BY_DECLARATION: Mapping[int, type[Structure]] = MappingProxyType(
    {id(entry.structure.declaration): entry.structure for entry in CATALOG.values()}
)


@dataclass(slots=True)
class _Scope:
    """Where the walk is: in which structure, under which name in it, up to which byte; the values read so far."""

    structure: type[Structure]
    end: int
    prefix: str = ""
    values: Any = field(default_factory=construct.Container)


class _Walk:
    """One walk over the bytes. `error` is the first reason why they fail; `marked` says that a node carries it."""

    def __init__(self, data: bytes, outermost: type[Structure]) -> None:
        self.data = data
        self.outermost = outermost.__name__
        self.error: MalformedBytes | None = None
        self.early = False
        self.marked = False
        self.messages = 0

    def structure(self, structure: type[Structure], name: str, at: int, end: int) -> Node:
        """The structure that should fill these bytes."""
        self._judge(structure, at, end)
        scope = _Scope(structure, end)
        children, reached, _ = self._fields(structure.declaration, scope, at)
        if reached < end:
            children.append(self._leaf("surplus", scope, reached, end - reached, self.data[reached:end]))
        return _group(structure, name, at, end, children)

    def _judge(self, structure: type[Structure], at: int, end: int) -> None:
        """What `from_bytes` says of them; the first error is the one that counts."""
        if self.error is not None:
            return
        try:
            structure.from_bytes(self.data[at:end])
        except MalformedBytes as error:
            self.error = error
            self.early = error.offset_bytes == end - at
            if at:
                self.error = MalformedBytes(
                    f"in its payload, {error.message}",
                    structure=self.outermost,
                    data=self.data,
                    offset_bytes=at + error.offset_bytes,
                )

    def _fields(self, declaration: construct.Struct, scope: _Scope, at: int) -> tuple[list[Node], int, bool]:
        """The fields from `at` on, where they end, and whether all of them are there."""
        nodes: list[Node] = []
        for declared in declaration.subcons:
            found, at, whole = self._field(declared.subcon, declared.name, scope, at)
            nodes += found
            if not whole:
                return nodes, at, False
        return nodes, at, True

    def _field(self, kind: Any, name: str, scope: _Scope, at: int) -> tuple[list[Node], int, bool]:
        if isinstance(kind, construct.IfThenElse):
            chosen = kind.thensubcon if kind.condfunc(scope.values) else kind.elsesubcon
            return self._field(chosen, name, scope, at)
        if isinstance(kind, construct.Select):  # Optional: there when bytes are
            scope.values[name] = None
            return ([], at, True) if at == scope.end else self._field(kind.subcons[0], name, scope, at)
        if kind is construct.Pass:
            return [], at, True
        if isinstance(kind, construct.Array):
            return self._array(kind, name, scope, at)
        if isinstance(kind, construct.FixedSized):
            return self._fixed(kind, name, scope, at)
        if isinstance(kind, construct.Struct):
            return self._struct(kind, name, scope, at)
        return self._number_or_bytes(kind, name, scope, at)

    def _array(self, kind: construct.Array, name: str, scope: _Scope, at: int) -> tuple[list[Node], int, bool]:
        nodes: list[Node] = []
        for index in range(_size(kind.count, scope)):
            found, at, whole = self._field(kind.subcon, f"{name}[{index}]", scope, at)
            nodes += found
            if not whole:
                return nodes, at, False
        return nodes, at, True

    def _fixed(self, kind: construct.FixedSized, name: str, scope: _Scope, at: int) -> tuple[list[Node], int, bool]:
        """What should fill so many bytes."""
        claimed = at + _size(kind.length, scope)
        end = min(claimed, scope.end)
        inner = _Scope(scope.structure, end)
        found, reached, whole = self._field(kind.subcon, name, inner, at)
        if whole and reached < end:
            found.append(self._leaf("surplus", inner, reached, end - reached, self.data[reached:end]))
        return found, end, claimed <= scope.end

    def _struct(self, kind: construct.Struct, name: str, scope: _Scope, at: int) -> tuple[list[Node], int, bool]:
        """A structure inside another: one of the catalog, or fields that have a name only there."""
        structure = _BY_DECLARATION.get(id(kind))
        note = ""
        if scope.structure is EventRecords:
            record = self.data[at : min(at + RECORD_SIZE, scope.end)]
            if record.startswith(DYNAMIC_CAPACITY_UUID):
                structure, note = DynamicCapacityRecord, _unreadable(record)
        if structure is None:
            inner = _Scope(scope.structure, scope.end, f"{name.partition('[')[0]}.")
            children, end, whole = self._fields(kind, inner, at)
            return [Node(name=name, offset_bytes=at, size_bytes=end - at, children=tuple(children))], end, whole
        children, end, whole = self._fields(structure.declaration, _Scope(structure, scope.end), at)
        return [_group(structure, name, at, end, children, note)], end, whole

    def _number_or_bytes(self, kind: Any, name: str, scope: _Scope, at: int) -> tuple[list[Node], int, bool]:
        size = _size(kind.length, scope)
        there = self.data[at : min(at + size, scope.end)]
        whole = len(there) == size
        value: int | bytes | None = there
        if not isinstance(kind, construct.Bytes):
            value = int.from_bytes(there, "little") if whole else None
        scope.values[name] = value
        if scope.structure is CciMessage and name == "payload" and there:
            return [self._payload(scope, at, size, there)], at + len(there), whole
        return [self._leaf(name, scope, at, size, value)], at + len(there), whole

    def _payload(self, scope: _Scope, at: int, size: int, there: bytes) -> Node:
        """A message's payload, opened if its command is known."""
        values = scope.values
        message = CciMessage(
            opcode=values.opcode, payload=there, category=values.category, return_code=values.return_code
        )
        structure = message.content_type()
        if structure is None:
            return self._leaf("payload", scope, at, size, there)
        if self.messages == MAX_MESSAGES:
            leaf = self._leaf("payload", scope, at, size, there)
            return replace(leaf, note=f"{structure.__name__}, inside {MAX_MESSAGES} messages: too deep to open")
        self.messages += 1
        opened = self.structure(structure, "payload", at, at + len(there))
        self.messages -= 1
        return opened

    def _leaf(self, name: str, scope: _Scope, at: int, size: int, value: int | bytes | None) -> Node:
        there = max(0, min(size, scope.end - at))
        whole = there == size
        note = f"{there} of {size} bytes"
        if whole:
            note = "" if value is None else explain(scope.structure, scope.prefix + name.partition("[")[0], value)
        return Node(
            name=name,
            offset_bytes=at,
            size_bytes=there,
            value=value,
            note=note,
            error=self._mark(at, there, whole),
        )

    def _mark(self, at: int, there: int, whole: bool) -> str:
        """The error, if it is in this field: at one of its bytes, or at the first one that it lacks."""
        if self.error is None:
            return ""
        fails = self.error.offset_bytes
        if not (at <= fails < at + there or (self.early and not whole and fails == at + there)):
            return ""
        self.marked = True
        return self.error.message


def _size(length: Any, scope: _Scope) -> int:
    """A length or a count of a declaration: a number, or one that fields before it say."""
    return int(length(scope.values) if callable(length) else length)


def _group(structure: type[Structure], name: str, at: int, end: int, children: list[Node], note: str = "") -> Node:
    return Node(
        name=name,
        offset_bytes=at,
        size_bytes=end - at,
        note=note,
        structure=structure.__name__,
        section=CATALOG[structure.__name__].section,
        children=tuple(children),
    )


def _unreadable(record: bytes) -> str:
    """Why a whole event record stays raw bytes, though the page that holds it is good."""
    if len(record) == RECORD_SIZE:
        try:
            DynamicCapacityRecord.from_bytes(record)
        except MalformedBytes as error:
            return error.message
    return ""
