"""What a caller gave, looked at before anything is sent or written: numbers, times, ranges, bytes.

It is not the place of what only the device may refuse (an extent off the block, a region that is not there): a bench
must be able to ask for those. Each function gives the value back, or raises AskedWrongly with what was given and what
is allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from .errors import AskedWrongly

MAX_TIMEOUT_S = 3600.0
_TOP = (1 << 64) - 1
_SHOWN = 60
_TAG = re.compile("[0-9a-f]{32}", re.ASCII)


def whole(value: object, what: str, *, least: int = 0, most: int = _TOP) -> int:
    """A whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise AskedWrongly(f"{what} {shown(value)}; give a whole number from {least} to {_limit(most)}")
    return value


def seconds(value: object, what: str = "timeout_s", *, most: float = MAX_TIMEOUT_S) -> float:
    """How long to wait: 0 to an hour, or to `most`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        raise AskedWrongly(f"{what} {shown(value)}; give 0 to {most:g} seconds")
    return float(value)


def one_of(value: object, what: str, allowed: Iterable[str]) -> str:
    """One of these words."""
    words = tuple(allowed)
    if not isinstance(value, str) or value not in words:
        raise AskedWrongly(f"{what} {shown(value)}; there is {', '.join(words)}")
    return value


def tag(value: object) -> str | None:
    """A tag, 16 bytes as a UUID or as 32 hex digits: as the history has it, 32 hex digits; None for none."""
    if value is None:
        return None
    found = value.replace("-", "").lower() if isinstance(value, str) else ""
    if _TAG.fullmatch(found) is None:
        raise AskedWrongly(f"tag {shown(value)}; give 16 bytes as 32 hex digits, dashes allowed as in a UUID, or None")
    return found


def ranges(value: object, what: str = "ranges") -> list[list[int]]:
    """Pairs of DPA and length in bytes, as the history has them. No pair at all is allowed."""
    pairs = list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes) else None
    if pairs is None or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise AskedWrongly(f"{what} {shown(value)}; give pairs of DPA and length in bytes, like [(0x0, 0x200000)]")
    return [[whole(start, f"{what}: DPA"), whole(length, f"{what}: length")] for start, length in pairs]


def octets(value: object, what: str = "data") -> bytes:
    """Bytes, at least one."""
    if not isinstance(value, bytes | bytearray | memoryview) or not len(value):
        raise AskedWrongly(f"{what} {shown(value)}; give bytes, like b'\\xa5' * 4096")
    return bytes(value)


def plain(value: Mapping[str, object], what: str) -> dict[str, object]:
    """Parameters that can be sent: numbers, words, lists and mappings of these."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise AskedWrongly(f"{what} {shown(value)} cannot be sent ({error}); give numbers, words, lists") from None
    return dict(value)


def shown(value: object) -> str:
    """What was given, short enough for one line."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _limit(most: int) -> str:
    return f"0x{most:x}" if most > 1 << 32 else str(most)
