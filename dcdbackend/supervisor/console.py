"""The guest's console as text: its log read piece by piece, of a guest that runs, has died, or whose supervisor died.

Only the file is read; it knows neither guest nor supervisor.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncGenerator
from pathlib import Path

_POLL_S = 0.1
_PIECE = 1 << 15
_CONTROL = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|.)|[^\x20-\x7e\n\t\xa0-\U0010ffff]")


async def pieces(path: Path, *, follow: bool = False) -> AsyncGenerator[str, None]:
    """The log from its begin, control characters out, in whole lines while they come; errors: OSError."""
    at, quiet = 0, False
    rest = b""
    while True:
        data, whence = _read(path, at)
        if whence < at:  # cut to its newer half, which begins with a line that says so
            rest = b""
        at = whence + len(data)
        rest += data
        whole = len(rest) if (not data and quiet) or len(rest) > _PIECE else rest.rfind(b"\n") + 1
        quiet = not data
        if whole:
            yield _CONTROL.sub("", rest[:whole].decode("utf-8", "replace"))
            rest = rest[whole:]
        if not data and not rest:
            if not follow:
                return
            await asyncio.sleep(_POLL_S)
        else:
            await asyncio.sleep(0)


def _read(path: Path, at: int) -> tuple[bytes, int]:
    """What there is from `at` on, or from the begin of a file that is shorter, and where it was read."""
    with path.open("rb") as file:
        at = at if file.seek(0, os.SEEK_END) >= at else 0
        file.seek(at)
        return file.read(_PIECE), at
