"""How a declaration is run: construct says what the bytes are, one `struct.Struct` reads and writes them.

A format is written down once, as a construct declaration. Interpreting it field by field costs the guest
0.4 ms for a page of one event record (this module: 0.06), and construct's own compiler 43 ms per declaration;
so each fixed stretch of a declaration is turned, when it is imported, into one struct format. The variable
part of every structure here is an array with a count before it: the dataclass checks the count against the
bytes, and construct's `Array` in the declaration says the same. A test holds both readings to one result.

This is not a second description of the formats, and it runs only what they need: little-endian integers of 1,
2, 3, 4 and 8 bytes, byte strings, and structures of these.

Reserved bytes are kept, so that what was parsed builds back to the same bytes, whatever a device under test
put there. A structure holds its own in one field `reserved`: all of them in order, or none if all are zero.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Self

import construct

from ..errors import AskedWrongly, MalformedBytes


class Layout:
    """A declaration of fixed size, ready to run. `names` are its fields; an inner structure's are dotted."""

    __slots__ = ("_codes", "_sized", "_struct", "_wide", "names", "size", "structure")

    def __init__(self, structure: str, declaration: construct.Struct) -> None:
        fields = tuple(_flatten(declaration, ""))
        self.structure = structure
        self.names = tuple(name for name, _, _ in fields)
        self._codes = tuple(code for _, code, _ in fields)
        self._struct = struct.Struct("<" + "".join(self._codes))
        self.size = self._struct.size
        self._wide = tuple(at for at, field in enumerate(fields) if field[2])
        self._sized = tuple(
            (at, int(code[:-1])) for at, (_, code, wide) in enumerate(fields) if code[-1] == "s" and not wide
        )

    def unpack(self, data: bytes, offset: int = 0) -> tuple[Any, ...]:
        """The values at `offset`; the caller has checked that the bytes are there."""
        values = self._struct.unpack_from(data, offset)
        if self._wide:
            changed = list(values)
            for at in self._wide:
                changed[at] = int.from_bytes(changed[at], "little")
            return tuple(changed)
        return values

    def each(self, data: bytes, offset: int, count: int) -> Iterator[tuple[Any, ...]]:
        """The values of `count` neighbours from `offset` on (no field of 3 bytes among them)."""
        return self._struct.iter_unpack(data[offset : offset + count * self.size])

    def pack(self, *values: Any) -> bytes:
        """The bytes of these values, one for each name. An empty byte string stands for zeros.

        Errors: AskedWrongly for a value that does not fit its field.
        """
        for at, size in self._sized:
            if len(values[at]) != size and values[at]:
                raise AskedWrongly(f"{self.structure}: {self.names[at]} has {len(values[at])} bytes; give {size}, or 0")
        try:
            if self._wide:
                changed = list(values)
                for at in self._wide:
                    changed[at] = values[at].to_bytes(3, "little")
                return self._struct.pack(*changed)
            return self._struct.pack(*values)
        except (struct.error, OverflowError):
            raise self._misfit(values) from None

    def _misfit(self, values: tuple[Any, ...]) -> AskedWrongly:
        for name, code, value in zip(self.names, self._codes, values, strict=True):
            size = struct.calcsize("<" + code)
            if not isinstance(value, bytes) and not (isinstance(value, int) and 0 <= value < 1 << 8 * size):
                return AskedWrongly(f"{self.structure}: {name} = {value!r}; give 0 to 0x{(1 << 8 * size) - 1:x}")
        return AskedWrongly(f"{self.structure}: {values!r} do not fit")


def _flatten(declaration: construct.Struct, prefix: str) -> Iterator[tuple[str, str, bool]]:
    """(name, struct code, is it a number of 3 bytes) for each field of the declaration, in order."""
    for field in declaration.subcons:
        kind = field.subcon
        if isinstance(kind, construct.FormatField) and kind.fmtstr[0] == "<":
            yield prefix + field.name, kind.fmtstr[1], False
        elif isinstance(kind, construct.Bytes):
            yield prefix + field.name, f"{kind.length}s", False
        elif isinstance(kind, construct.BytesInteger) and kind.length == 3 and kind.swapped:
            yield prefix + field.name, "3s", True
        elif isinstance(kind, construct.Struct):
            yield from _flatten(kind, f"{prefix}{field.name}.")
        else:
            raise TypeError(f"{prefix}{field.name}: a layout cannot run {kind!r}")


class Structure:
    """What every structure on the wire can do.

    `declaration` is its whole format, as construct; `layout` runs its fixed part, which is all of it unless
    the class reads an array after it.
    """

    __slots__ = ()
    declaration: construct.Struct
    layout: Layout

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The structure that these bytes are, all of them; errors: MalformedBytes."""
        layout = cls.layout
        if len(data) != layout.size:
            raise wrong_size(cls.__name__, data, layout.size)
        fields = dict(zip(layout.names, layout.unpack(data), strict=True))
        if "reserved" in fields:
            fields["reserved"] = reserved(fields["reserved"])
        return cls(**fields)

    def to_bytes(self) -> bytes:
        """Its bytes; errors: AskedWrongly for a value that does not fit its field."""
        return self.layout.pack(*[getattr(self, name) for name in self.layout.names])


def wrong_size(structure: str, data: bytes, size: int, why: str = "") -> MalformedBytes:
    """The error for bytes that end too early or too late; `why` names the count that asked for `size`."""
    there = len(data)
    what = "ends early" if there < size else "goes on"
    return MalformedBytes(
        f"{what}: it takes {size} bytes{why}, {there} are there",
        structure=structure,
        data=bytes(data),
        offset_bytes=min(there, size),
    )


def check_count(structure: str, data: bytes, size: int, count: int) -> None:
    """Errors: MalformedBytes unless the bytes are as many as the count inside them asks for."""
    if len(data) != size:
        raise wrong_size(structure, data, size, f" for its count of {count}")


def reserved(*parts: bytes) -> bytes:
    """All reserved bytes of a structure, or none when all are zero."""
    joined = b"".join(parts)
    return joined if joined.strip(b"\0") else b""


def spread(structure: str, kept: bytes, *sizes: int) -> list[bytes]:
    """The inverse of `reserved`; errors: AskedWrongly when they are not as many as the structure has."""
    if not kept:
        return [b""] * len(sizes)
    if len(kept) != sum(sizes):
        raise AskedWrongly(f"{structure}: reserved has {len(kept)} bytes; give {sum(sizes)}, or none for zeros")
    parts = []
    at = 0
    for size in sizes:
        parts.append(kept[at : at + size])
        at += size
    return parts
