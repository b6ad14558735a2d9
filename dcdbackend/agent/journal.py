"""Operations of the history as they happen in the guest: begun, written ahead, ended.

An operation is begun with what is about to be rung, and ended with what came of it. Its own operations get negative
numbers (the controller maps them to lines); those that the controller began keep the controller's number, and their
invoke is not sent again. Times and line numbers are the controller's affair.

The bodies are `history.encode`'s, byte for byte (a test compares them), but made from parts: several are written for
every event, and what goes before the value is the same each time.
"""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable
from typing import Any

from .. import link
from .port import Port

Value = dict[str, Any]

_MOST_HEADS = 256


def _compact() -> Callable[[Value], str]:
    """Compact ASCII JSON. The C encoder is made once, where there is one: `json.dumps` makes it anew for each call."""
    plain = json.JSONEncoder(separators=(",", ":"), check_circular=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return plain.encode
    quick = make(None, plain.default, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True)
    return lambda value: "".join(quick(value, 0))


compact: Callable[[Value], str] = _compact()


class Journal:
    """Writes frames of kind HISTORY to the port."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._last = 0
        self._heads: dict[tuple[str, str, str], str] = {}

    def begin(self, process: str, f: str, value: Value) -> int:
        """Queue the invoke of an operation; its number."""
        self._last -= 1
        self._put(self._last, process, "invoke", f, value)
        return self._last

    def end(self, op: int, process: str, kind: str, f: str, value: Value) -> None:
        """Queue the end (`ok`, `fail`, `info`) of operation `op`."""
        self._put(op, process, kind, f, value)

    def flush(self) -> None:
        """Return when everything queued has left the guest. Errors: LinkLost."""
        self._port.flush()

    def _put(self, op: int, process: str, kind: str, f: str, value: Value) -> None:
        head = self._heads.get((process, kind, f)) or self._head(process, kind, f)
        body = f'{{"op":{op}{head}{compact(value)}}}'.encode("ascii")
        if len(body) > link.MAX_BODY and "judged" in value:
            value = {**value, "judged": {"device": {}, "host": {}, "passed": [], "evidence": [], "cut": len(body)}}
            body = f'{{"op":{op}{head}{compact(value)}}}'.encode("ascii")
        self._port.put(link.HISTORY, body)

    def _head(self, process: str, kind: str, f: str) -> str:
        """What stands between an operation's number and its value."""
        if len(self._heads) >= _MOST_HEADS:
            self._heads.clear()
        middle = compact({"process": process, "type": kind, "f": f})
        head = self._heads[(process, kind, f)] = f',{middle[1:-1]},"value":'
        return head
