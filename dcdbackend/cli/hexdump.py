"""Bytes out of hex text, in the shapes that people have it in; and bytes as the dump that `hexdump -C` makes.

Bare hex with any spacing, commas, `0x` or `\\x`; bytes joined by colons or dashes; the dumps of xxd, `hexdump -C`,
`od -A x -t x1`, tcpdump and packet dissectors, with `*` for rows that repeat. Offsets must count the bytes, and a
text column must say the same as they do: so no byte is lost or made up. What could be read in two ways is refused,
not guessed: the plain `hexdump` format shows 16-bit words in the machine's own order, and an odd number of digits is
not bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..errors import AskedWrongly

MAX_BYTES = 4 << 20
"""More than any structure can take: a message's payload has at most 2 MiB."""

_ROW = 16

_COLON = re.compile(r"\s*(?:0x)?([0-9a-fA-F]{4,16}):(?:\s+(.*))?", re.ASCII)
_BARE = re.compile(r"\s*([0-9a-fA-F]{4,16})((\s+)[0-9a-fA-F]{2}(?:\s.*)?)?\s*", re.ASCII)
_PAIRS = re.compile(r"\s*[0-9a-fA-F]{2}(?:\s{1,2}[0-9a-fA-F]{2}(?!\S))*", re.ASCII)
_WORDS = re.compile(r"[0-9a-fA-F]{7}((?:\s+[0-9a-fA-F]{4})+)\s*", re.ASCII)
_APART = re.compile(r"[\s,;{}\[\]()\"']+|\\x", re.ASCII)
_HEX = re.compile(r"[0-9a-fA-F]+", re.ASCII)


def read(text: str) -> bytes:
    """The bytes that the text shows. Errors: AskedWrongly, with the line that is not understood."""
    lines = [(at, line) for at, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        return b""
    first = lines[0][1]
    if _WORDS.fullmatch(first):
        raise AskedWrongly(
            "line 1: these are hexdump's 16-bit words, whose byte order is the machine's; use `hexdump -C` or xxd"
        )
    if _COLON.fullmatch(first):
        return _dump(lines, colon=True)
    bare = _BARE.fullmatch(first)
    if bare and bare[2]:
        zero, gap = int(bare[1], 16) == 0, len(bare[3])
        if gap >= 3 or (gap == 2 and (zero or len(bare[1]) >= 6)) or (zero and len(lines) > 1):
            return _dump(lines, colon=False)
        if zero:
            raise AskedWrongly(f"line 1: {bare[1]} may be an offset or bytes; put two spaces after an offset, or none")
    return _digits(lines)


def rows(data: bytes, base: int = 0) -> Iterator[str]:
    """A dump as of `hexdump -C`, offsets counted from `base`; rows that repeat are a `*`. `read` takes it back."""
    last, starred = b"", False
    for at in range(0, len(data), _ROW):
        row = data[at : at + _ROW]
        if row == last and at + _ROW < len(data):
            if not starred:
                yield "*"
            starred = True
            continue
        last, starred = row, False
        digits = [f"{byte:02x}" for byte in row]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        yield f"{base + at:08x}  {' '.join(digits[:8]):23}  {' '.join(digits[8:]):23}  |{shown}|"


def _digits(lines: list[tuple[int, str]]) -> bytes:
    """Hex without offsets."""
    found = bytearray()
    for at, line in lines:
        for token in filter(None, _APART.split(line)):
            digits = token[2:] if token[:2] in ("0x", "0X") else token
            digits = re.sub(r"[:_-]", "", digits)
            if not _HEX.fullmatch(digits):
                raise AskedWrongly(f"line {at}: {_cut(token)} is not hex; for bytes as they are, add --binary")
            if len(digits) % 2:
                raise AskedWrongly(f"line {at}: {_cut(token)} has an odd number of digits; give two for each byte")
            found += bytes.fromhex(digits)
    return bytes(found)


def _dump(lines: list[tuple[int, str]], *, colon: bool) -> bytes:
    """A dump with an offset before each row. Offsets count from the first row's."""
    found = bytearray()
    base: int | None = None
    row, repeats = b"", False
    for at, line in lines:
        if line.strip() == "*":
            repeats = bool(row)
            continue
        matched = (_COLON if colon else _BARE).fullmatch(line)
        if matched is None:
            raise AskedWrongly(f"line {at}: {_cut(line.strip())} is no row of this dump: no offset and bytes after it")
        offset = int(matched[1], 8 if len(matched[1]) == 7 and not colon else 16)  # od counts in octal, on 7 digits
        base = offset if base is None else base
        if repeats:
            missing = offset - base - len(found)
            if missing < 0 or missing % len(row) or len(found) + missing > MAX_BYTES:
                raise AskedWrongly(f"line {at}: the rows that * stands for do not reach offset {matched[1]}")
            found += row * (missing // len(row))
            repeats = False
        if offset != base + len(found):
            raise AskedWrongly(
                f"line {at}: offset {matched[1]}, and {len(found)} bytes come before it; are lines missing?"
            )
        row = _row(at, matched[2] or "", colon)
        found += row
    return bytes(found)


def _row(at: int, text: str, colon: bool) -> bytes:
    """The bytes of a row, and a check of the text beside them."""
    if colon:
        digits, _, beside = re.sub(r"\s{2,}", "\n", text.strip(), count=1).partition("\n")
    else:
        pairs = _PAIRS.match(text)
        digits = pairs[0] if pairs else ""
        beside = text[len(digits) :]
    groups = digits.split()
    for group in groups:
        if not _HEX.fullmatch(group) or len(group) % 2:
            raise AskedWrongly(f"line {at}: {_cut(group)} is not hex bytes")
    data = bytes.fromhex("".join(groups))
    shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)
    if beside.strip() and beside.strip() not in (shown.strip(), f"|{shown}|", f">{shown}<"):
        raise AskedWrongly(f"line {at}: {_cut(beside.strip())} beside the bytes is not what they are as text")
    return data


def _cut(text: str) -> str:
    return repr(text if len(text) <= 24 else f"{text[:24]}...")
