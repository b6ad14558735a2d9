"""CRC-32C (Castagnoli), the one checksum of this package.

It stands here, at the lowest layer, because two formats carry it and must never disagree: a history line
ends with it (`history`), and so does the header of a frame on the agent's link (`link`). It is not a CRC
library: one polynomial, crcmod's predefined "crc-32c" (check value E3069283h for the bytes "123456789").

crcmod runs about twenty times slower without its C extension, silently. `EXTENSION` says which one is in use:
a test asserts it for the controller, and the agent reports it from the guest (`crcmod_extension` when ready).
"""

from __future__ import annotations

from typing import Protocol

import crcmod.predefined
from crcmod.crcmod import _usingExtension  # the attribute `crcmod.crcmod` is the package itself in crcmod 1.7


class _Crc32c(Protocol):
    def __call__(self, data: bytes, /) -> int: ...


crc32c: _Crc32c = crcmod.predefined.mkCrcFun("crc-32c")
"""`crc32c(data: bytes) -> int`: the CRC-32C of the bytes, 0 to 2**32-1. It is crcmod's own function, so that
nothing is added to its call: the guest makes it for every frame."""

EXTENSION: bool = _usingExtension
"""True when crcmod's C extension computes it."""
