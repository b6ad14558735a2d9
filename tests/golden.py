"""One assertion for every structure with golden bytes: parse, build, size, truncation at every byte, trailing bytes.

Golden bytes come from a device (`vectors/`, each file with its source line) or are laid out by hand at the
offsets of the specification's tables (`laid_out`); never from our own encoder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import pytest

from dcdbackend.errors import MalformedBytes

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
