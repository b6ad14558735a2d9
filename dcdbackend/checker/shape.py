"""Whether an operation's value has the form that its `f` has in version 1; used when a line made the model stumble.

It is not the schema (`history.schema.json` is): it knows only what the model reads, and is never on the way of a line
that is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..history import Op

_Test = "Callable[[Any], bool]"


def _number(value: Any) -> bool:
    return type(value) is int and value >= 0


def _hex(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return bytes.fromhex(value) is not None
    except ValueError:
        return False


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(inner: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(inner(item) for item in value)


def _range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _number(value[0]) and _number(value[1])


def _offered(value: Any) -> bool:
    if not isinstance(value, dict) or not _number(value.get("length")):
        return False
    return _number(value.get("offset")) or (_number(value.get("dpa")) and _hex(value.get("tag", "")))


def _record(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if "raw" in value:
        return _text(value.get("error"))
    numbers = ("handle", "type", "validity", "host_id", "region", "dpa", "length", "sequence", "available_extents")
    return all(_number(value.get(name)) for name in numbers) and _hex(value.get("tag")) and "more" in value


def _listed(value: Any) -> bool:
    if not isinstance(value, dict) or not _hex(value.get("tag")):
        return False
    return all(_number(value.get(name)) for name in ("dpa", "length", "sequence"))


_MANAGER: dict[str, Callable[[Any], bool]] = {
    "via": lambda value: value in ("qmp", "fm"),
    "host_id": _number,
    "policy": _text,
    "region": _number,
    "extents": _list_of(_offered),
    "tag": lambda value: value is None or _hex(value),
}
_RANGES: dict[str, Callable[[Any], bool]] = {"flags": _number, "ranges": _list_of(_range)}
_SENT: dict[str, dict[str, Callable[[Any], bool]]] = {
    "add": _MANAGER,
    "release": _MANAGER,
    "events": {"log": _number},
    "clear": {"log": _number, "flags": _number, "handles": _list_of(_number)},
    "answer": _RANGES,
    "give_back": _RANGES,
    "extents": {"start": _number, "count": _number},
    "block": {"region": _number, "offset": _number},
    "store": {"dpa": _number, "data": _hex},
    "load": {"dpa": _number, "length": _number},
    "bytes": {"dpa": _number, "length": _number},
}
_RECEIVED: dict[str, dict[str, Callable[[Any], bool]]] = {
    "events": {"flags": _number, "records": _list_of(_record)},
    "extents": {"total": _number, "generation": _number, "extents": _list_of(_listed)},
    "block": {"state": lambda value: value in ("free", "pending", "accepted")},
    "load": {"data": _hex},
    "bytes": {"data": _hex},
}
_CODES = frozenset(("events", "clear", "answer", "give_back", "extents"))


def misshapen(op: Op) -> tuple[Op, str] | None:
    """The operation and what is wrong with its value; None when that has its form."""
    if op.type == "info":
        return None
    if op.type == "invoke":
        tests = {"raw": _hex} if "raw" in op.value else _SENT.get(op.f, {})
    elif op.type == "fail":
        tests = {"rc": _number} if op.f in _CODES else {}
    else:
        tests = _RECEIVED.get(op.f, {})
    for name, test in tests.items():
        if name not in op.value:
            return op, f"the {op.type} of {op.f} has no {name!r}; see history.schema.json"
        if not test(op.value[name]):
            shown = repr(op.value[name])
            return op, f"{name!r} of {op.f} is {shown[:80]}, which it cannot be; see history.schema.json"
    return None
