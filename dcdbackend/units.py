"""Sizes and addresses, in and out.

In: `256M`, `1GiB`, `4K`, `0x10000000`, `268435456`. Letters are binary (1K = 1024), as QEMU and the kernel read
them; `KB`, `MB` (which some read as 1000) are refused rather than guessed. Out: the same forms, never rounded.
"""

from __future__ import annotations

import re

from .errors import AskedWrongly

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SIZE = re.compile(r"(?P<number>0[xX][0-9a-fA-F]+|[0-9]+)(?P<unit>(?:[KMGT](?:iB)?)?)", re.ASCII)
_UNIT = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_MAX = (1 << 64) - 1


def parse_size(text: str, *, what: str = "size") -> int:
    """Bytes meant by `text`; errors: AskedWrongly. Accepts decimal or 0x numbers with K, M, G, T (or KiB ...)."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or (found["unit"] and found["number"].lower().startswith("0x")):
        raise AskedWrongly(f"{what} {text!r} is not understood; write it like 256M, 1GiB or 0x10000000")
    value = int(found["number"], 0 if found["number"].lower().startswith("0x") else 10) * _UNIT[found["unit"][:1]]
    if value > _MAX:
        raise AskedWrongly(f"{what} {text!r} does not fit in 64 bits; the largest is 0x{_MAX:x}")
    return value


def format_size(size_bytes: int) -> str:
    """The shortest exact form: `256M`, `2M`, `4096` stays `4K`, 3 stays `3`."""
    for letter, unit in (("T", TIB), ("G", GIB), ("M", MIB), ("K", KIB)):
        if size_bytes and size_bytes % unit == 0:
            return f"{size_bytes // unit}{letter}"
    return str(size_bytes)


def format_address(address: int) -> str:
    """An address as the kernel prints it: 0x10000000."""
    return f"0x{address:x}"
