"""What holds of every structure: its golden bytes, any other bytes, its declaration, the shape of its values.

Golden bytes come from a device (`vectors/`, each file with its source line) or are laid out by hand at the
offsets of the specification's tables (`laid_out`); never from our own encoder.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import construct
import pytest
from hypothesis import strategies as st

from dcdbackend.errors import MalformedBytes
from dcdbackend.wire import WireExtent
from dcdbackend.wire.layout import Structure

VECTORS = Path(__file__).parent / "vectors" / "qemu-11.1.3.json"


class Codec(Protocol):
    """A class whose values go to bytes and come back."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self: ...
    def to_bytes(self) -> bytes: ...


class Vector(NamedTuple):
    """One captured exchange: as the file has it, with numbers and bytes as such."""

    name: str
    via: str
    opcode: int
    request: bytes
    return_code: int
    response: bytes


def vectors(via: str) -> dict[str, Vector]:
    """The captured exchanges that went that way ("device mailbox" or the switch CCI), by name."""
    found = {}
    for one in json.loads(VECTORS.read_text())["vectors"]:
        if one["via"] == via:
            assert one["name"] not in found, "names are the keys"
            found[one["name"]] = Vector(
                name=one["name"],
                via=one["via"],
                opcode=int(one["opcode"].removesuffix("h"), 16),
                request=bytes.fromhex(one["request"]),
                return_code=one["return_code"],
                response=bytes.fromhex(one["response"]),
            )
    return found


def laid_out(size: int, *fields: tuple[int, str]) -> bytes:
    """`size` bytes, zero but for these: (offset, hex as it stands in memory). Fields must not touch each other."""
    image = bytearray(size)
    taken: set[int] = set()
    for offset, text in fields:
        data = bytes.fromhex(text)
        places = set(range(offset, offset + len(data)))
        assert not places & taken and offset + len(data) <= size, f"offset 0x{offset:x} is taken or outside"
        taken |= places
        image[offset : offset + len(data)] = data
    return bytes(image)


def assert_golden(structure: type[Codec], data: bytes, value: Any, size: int) -> None:
    """These bytes are that value, both ways, and nothing shorter or longer is."""
    assert len(data) == size
    parsed = structure.from_bytes(data)
    assert parsed == value
    assert type(parsed) is structure
    assert value.to_bytes() == data
    for end in range(size):
        with pytest.raises(MalformedBytes) as short:
            structure.from_bytes(data[:end])
        assert short.value.structure == structure.__name__
        assert short.value.data == data[:end]
        assert short.value.offset_bytes == end, "the bytes are good as far as they go"
    for surplus in (b"\0", b"\xff", data, bytes(range(1, 129))):
        if surplus:
            with pytest.raises(MalformedBytes) as long:
                structure.from_bytes(data + surplus)
            assert long.value.structure == structure.__name__
            assert long.value.data == data + surplus
            assert long.value.offset_bytes == size, "the first byte too many"


def name_of(value: Any) -> str:
    """A test's id: a text, or a structure's name."""
    return value if isinstance(value, str) else value.__name__


def extent(start: int, length: int, *, tag: bytes = bytes(16), sequence: int = 0) -> WireExtent:
    return WireExtent(start=start, length=length, tag=tag, sequence=sequence)


def moved(fields: tuple[tuple[int, str], ...], by: int) -> tuple[tuple[int, str], ...]:
    """Fields of `laid_out`, so much further on."""
    return tuple((offset + by, text) for offset, text in fields)


def assert_counted(structure: type[Structure], layout: tuple[bytes, int, int, int, int], likely: set[int]) -> None:
    """DEV-8.16h: a count must be as many entries as there are, whatever it claims, and quickly.

    `layout`: the bytes without an entry; the count's place and size; the size of an entry, and of what comes after.
    """
    empty, at, size, entry, tail = layout
    head = len(empty) - tail
    largest = (1 << 8 * size) - 1
    for there in (0, 1, 2):
        for count in {0, 1, 2, 3, largest - 1, largest} | likely:
            counted = empty[:at] + count.to_bytes(size, "little") + empty[at + size : head]
            data = counted + bytes(there * entry) + bytes(tail)
            if count == there:
                assert structure.from_bytes(data).to_bytes() == data
                continue
            with pytest.raises(MalformedBytes, match=f"for its count of {count}, {len(data)} are there") as lie:
                structure.from_bytes(data)
            assert lie.value.structure == structure.__name__
            assert lie.value.data == data
            assert lie.value.offset_bytes == min(len(data), head + count * entry + tail)


def survivors(structures: Iterable[type[Structure]], data: bytes) -> list[Structure]:
    """Any bytes are a value that builds them again, reserved bytes and all, or one typed error; the values."""
    found = []
    for structure in structures:
        try:
            value = structure.from_bytes(data)
        except MalformedBytes as error:
            assert error.structure == structure.__name__
            assert error.data == data
            assert 0 <= error.offset_bytes <= len(data)
            assert "\n" not in error.message
        else:
            assert value.to_bytes() == data, "reserved bytes and all"
            hash(value)
            found.append(value)
    return found


def damaged(sample: bytes, data: st.DataObject) -> tuple[bytes, ...]:
    """Bytes that are nearly right: some overwritten, then cut or prolonged."""
    image = bytearray(sample)
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(sample) - 1), st.integers(0, 255)), max_size=8)):
        image[at] = value
    cut = data.draw(st.integers(0, len(image)))
    return bytes(image), bytes(image[:cut]), bytes(image) + data.draw(st.binary(max_size=130))


def flat(container: Any, prefix: str = "") -> dict[str, Any]:
    """A construct container as names and values; lists by index; what is absent left out."""
    found: dict[str, Any] = {}
    for name, value in container.items():
        if isinstance(value, construct.Container):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, construct.ListContainer):
            for index, one in enumerate(value):
                inner = f"{prefix}{name}[{index}]"
                found |= flat(one, f"{inner}.") if isinstance(one, construct.Container) else {inner: one}
        elif name != "_io" and value is not None:
            found[prefix + name] = value
    return found


def assert_ends_alike(structure: type[Structure], data: bytes) -> None:
    """construct needs every byte that we need: it refuses each shorter payload too."""
    for end in range(len(data)):
        with pytest.raises(construct.ConstructError):
            structure.declaration.parse(data[:end])


def assert_layout(structure: type[Structure], data: st.DataObject) -> None:
    """The struct format made from a declaration reads and writes what construct itself does, on any bytes."""
    layout = structure.layout
    image = data.draw(st.binary(min_size=layout.size, max_size=layout.size))
    fields = structure.declaration.subcons
    heads = (construct.Struct(*fields[:count]) for count in range(1, len(fields) + 1))
    head = next(one for one in heads if one.sizeof() == layout.size)
    by_construct = flat(head.parse(image))
    assert dict(zip(layout.names, layout.unpack(image), strict=True)) == by_construct
    assert layout.pack(*by_construct.values()) == image


def assert_frozen(structure: type, *sections: str) -> None:
    """style.md 5 and 7: frozen, keyword-only, with slots; the docstring names one of these sections."""
    assert structure.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert not any("__dict__" in vars(one) for one in structure.__mro__), "instances have no dictionary"
    assert all(field.kw_only for field in dataclasses.fields(structure))
    assert any(f"CXL r3.1 {section}" in (structure.__doc__ or "") for section in sections)


def is_plain(value: Any, *types: type) -> bool:
    """Rule 5 of the house: of plain types only, all the way down; no object of construct's leaves the room."""
    if dataclasses.is_dataclass(value):
        return all(is_plain(getattr(value, field.name), *types) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        return all(is_plain(one, *types) for one in value)
    return type(value) in (int, bytes, *types)
