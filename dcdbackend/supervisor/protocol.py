"""What goes over a supervisor's socket: one JSON object a line, both ways; nothing here does I/O.

    request       {"id": 1, "verb": "add", "args": {"size": 268435456}}
    reply         {"id": 1, "ok": true, "value": ...}
    error         {"id": 1, "ok": false, "error": "...", "kind": "Refused", "exit": 1, "reason": "..."}
    of a stream   {"id": 2, "item": ...}, any number of them, and then its reply or its error

`id` is the client's own, a whole number; several requests may be open at once and end in any order. The verb `cancel`
{"id": 2} ends an open request of the same connection. A line is bounded both ways, and what is no request gets an error
with the id null.

An error keeps its class: `kind` is its name in `errors.py`, and `error_of` gives it back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from .. import errors
from ..errors import AnsweredWrongly, AskedWrongly, DcdError

VERSION = 1
MAX_REQUEST_BYTES = 1 << 18
MAX_REPLY_BYTES = 1 << 24
MAX_ID = (1 << 53) - 1
_MAX_SHOWN = 80

Value = dict[str, Any]

_KINDS: Mapping[str, type[DcdError]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, DcdError)
}


class Request(NamedTuple):
    """One request, its form checked; what the verb makes of `args` is the verb's."""

    id: int
    verb: str
    args: Value


def encode(value: Mapping[str, Any]) -> bytes:
    """One line, newline included. Errors: ValueError (a number that JSON has not, like NaN), TypeError."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def decode(line: bytes) -> Value:
    """The object on a line. Errors: AnsweredWrongly."""
    try:
        found = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise AnsweredWrongly(f"the line is no JSON object: {line[:_MAX_SHOWN]!r}")
    return found


def request_of(line: bytes) -> Request:
    """A request's line. Errors: AskedWrongly."""
    try:
        found = decode(line)
    except AnsweredWrongly as error:
        raise AskedWrongly(f'{error.message}; write {{"id": 1, "verb": "info", "args": {{}}}}') from None
    number, verb, args = found.get("id"), found.get("verb"), found.get("args", {})
    if type(number) is not int or not 0 <= number <= MAX_ID:
        raise AskedWrongly(f"id {_shown(number)}; give a whole number from 0 to 2^53 - 1")
    if not isinstance(verb, str):
        raise AskedWrongly(f"verb {_shown(verb)}; give a name, like info")
    if not isinstance(args, dict):
        raise AskedWrongly(f"args {_shown(args)}; give an object")
    if unknown := sorted(set(found) - {"id", "verb", "args"}):
        raise AskedWrongly(f"a request has no {_shown(unknown[0])}; it has id, verb and args")
    return Request(number, verb, args)


def reply(number: int, value: object) -> bytes:
    """The line of a request that succeeded."""
    return encode({"id": number, "ok": True, "value": value})


def item(number: int, value: object) -> bytes:
    """A line of a stream that goes on."""
    return encode({"id": number, "item": value})


def error_line(number: int | None, error: DcdError) -> bytes:
    """The line of a request that failed."""
    return encode({"id": number, "ok": False, **error_data(error)})


def error_data(error: DcdError) -> Value:
    """An error as data: its words (with what was sent and received), its class in `errors.py`, its exit code."""
    kind = next(base.__name__ for base in type(error).__mro__ if base in _KINDS.values())
    data: Value = {"error": str(error), "kind": kind, "exit": error.exit_code}
    if isinstance(error, errors.Refused):
        data["reason"] = error.reason
    return data


def error_of(data: Mapping[str, Any]) -> DcdError:
    """The error that `error_data` described, of the same class; a class that is not known is a DcdError."""
    kind = _KINDS.get(str(data.get("kind")), DcdError)
    error = kind.__new__(kind)
    DcdError.__init__(error, str(data.get("error")))
    if isinstance(error, errors.Refused):
        error.reason = str(data.get("reason"))
    elif isinstance(error, errors.BadHistory):
        error.line = 0
    elif isinstance(error, errors.MalformedBytes):
        error.structure, error.data = "", b""
    return error


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
