"""Whether an operation's value has the form that its `f` has in version 1; used when a line made the model stumble.

It is not the schema (`history.schema.json` is): it knows only what the model reads, and is never on the way of a line
that is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..history import Op

    _Test = Callable[[Any], bool]


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
    if not _number(value.get("sequence", 0)):
        return False
    return _number(value.get("offset")) or (_number(value.get("dpa")) and _hex(value.get("tag", "")))


def _record(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    if "raw" in value:
        return _text(value.get("error"))
    numbers = ("handle", "type", "validity", "host_id", "region", "dpa", "length", "sequence", "available_extents")
    return all(_number(value.get(name)) for name in numbers) and _hex(value.get("tag")) and _flag(value.get("more"))


def _listed(value: Any) -> bool:
    if not isinstance(value, dict) or not _hex(value.get("tag")):
        return False
    return all(_number(value.get(name)) for name in ("dpa", "length", "sequence"))


def _maybe(inner: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or inner(value)


def _object(must: Mapping[str, _Test], may: Mapping[str, _Test] | None = None) -> _Test:
    def test(value: Any) -> bool:
        if not isinstance(value, dict) or any(name not in value for name in must):
            return False
        return all(inner(value[name]) for name, inner in {**must, **(may or {})}.items() if name in value)

    return test


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _tag(value: Any) -> bool:
    return _hex(value) and len(value) == 32


def _sized(value: Any) -> bool:
    try:
        return isinstance(value, str) and len(value) <= 32 and int(value, 0) >= 0
    except ValueError:
        return False


def _error(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("-E") and value[2:].isalnum()


def _offsets(value: Any) -> bool:
    return isinstance(value, str) and all(_sized(word) for word in value.split())


_PLACE = {"region": _text, "start": _number, "length": _number}
_CLAIMS = {
    "uuid": _object({"dax": _text, "text": _text}),
    "size": _object({"dax": _text, "text": _sized}),
    "create": _object({"region": _text, "text": _text}),
    "delete": _object({"region": _text, "text": _text}),
    "policy": _object({"region": _text, "name": _text, "text": _text}),
    "hotplug": _object({"dax": _text, "text": _text}),
    "extents": _object({"dax": _text, "text": _offsets}),
}
_USES = {
    "region": _object(_PLACE, {"hpa": _number, "dynamic": _flag, "mode": _text, "ways": _list_of(_text)}),
    "decoders": _object({"region": _text}),
    "bind": _object({"region": _text}, {"driver": _text}),
    "driver": _object({}),
    "dax": _object({"dax": _text, "driver": _text}),
    "map": _object({"dax": _text}),
    "online": _object({"dax": _text}),
    "fault": _object({"faults": _list_of(_text)}),
}
_UNUSES = {
    "region": _object({"region": _text}),
    "bind": _object({"region": _text}),
    "driver": _object({}),
    "dax": _object({"dax": _text}),
    "map": _object({"dax": _text}),
    "online": _object({"dax": _text}),
}
_MAPPINGS = _list_of(lambda found: isinstance(found, list) and len(found) == 3 and all(_number(one) for one in found))
_DAX = _object(
    {"name": _text},
    {
        "size": _maybe(_number),
        "uuid": _maybe(_text),
        "has_uuid": _maybe(_flag),
        "driver": _maybe(_text),
        "has_driver": _maybe(_flag),
        "hotplug": _maybe(_text),
        "mappings": _maybe(_MAPPINGS),
    },
)


def _facts(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _MAPPINGS(one) if isinstance(one, list) else one is None or _text(one) or _number(one) for one in value.values()
    )


_TOOL_FAILED = _object({"tool": _text, "failed": _text})
_TOOL = _object(
    {
        "tool": _text,
        "shows": lambda found: isinstance(found, dict) and all(_facts(one) for one in found.values()),
        "sysfs": lambda found: isinstance(found, dict) and all(one is None or _facts(one) for one in found.values()),
    }
)
_SIGHT = _object(
    {"region": _text},
    {
        "mode": _maybe(_text),
        "available": _maybe(_number),
        "extents": _maybe(
            _list_of(_object({"name": _text, "offset": _number, "length": _number}, {"uuid": _maybe(_text)}))
        ),
        "names": _maybe(_list_of(_text)),
        "all_devices": _maybe(_list_of(_text)),
        "devices": _list_of(_DAX),
        "tools": _list_of(lambda found: _TOOL_FAILED(found) or _TOOL(found)),
    },
)
_TRACED = _object(
    {"handle": _number, "type": _number, "dpa": _number, "length": _number, "tag": _tag, "sequence": _number}
)
_LINE = _object({"t_ns": _number, "text": _text})
HOST_SIDE = frozenset(("claim", "use", "unuse", "sysfs", "trace", "log"))
"""Operations whose values are tested before they are judged: they are few, and a kernel's host writes them."""


_SIZE = 1 << 65
_REGION = {
    "decode_length": _number,
    "flags": _number,
    "dsmad_handle": _number,
    "sharable": _flag,
}
_DEVICE: dict[str, _Test] = {
    "payload_size": lambda value: _number(value) and 16 <= value <= 1 << 20,
    "supported_extents": _maybe(_number),
    "log_records": _maybe(_number),
    "hosts": lambda value: _list_of(_number)(value) and bool(value),
    "supported_tags": _maybe(_number),
    "selection_policies": _maybe(_list_of(_text)),
    "removal_policies": _maybe(_list_of(_text)),
    "sanitize_configurable": _maybe(_number),
    "tag_references": _maybe(_flag),
    "first_sequence": _maybe(_number),
    "static_bytes": _maybe(_number),
    "commands": _maybe(_list_of(_number)),
    "interrupts": _maybe(_flag),
}


def odd_device(device: Mapping[str, Any]) -> str | None:
    """What is wrong with a device of the header, as far as the reader of the file has not looked; None if nothing."""
    for name, test in _DEVICE.items():
        if name in device and not test(device[name]):
            return f"the {name!r} of device {device['name']!r} is {str(device[name])[:80]!r}, which it cannot be"
    for region in device["regions"]:
        for name in ("index", "base", "length", "block_size"):
            if not _number(region[name]) or region[name] >= _SIZE:
                return f"the {name!r} of a region of {device['name']!r} is {str(region[name])[:80]!r}"
        for name, test in _REGION.items():
            if name in region and not test(region[name]):
                return f"the {name!r} of a region of {device['name']!r} is {str(region[name])[:80]!r}"
    return None


def odd(op: Op) -> str | None:
    """What is wrong with the value of an operation of `HOST_SIDE`; None when it has its form."""
    value = op.value
    right = True
    if op.type == "invoke":
        if op.f in ("sysfs", "trace", "log"):
            return None
        name = "file" if op.f == "claim" else "what"
        known = {"claim": _CLAIMS, "use": _USES, "unuse": _UNUSES}[op.f]
        kind = value.get(name)
        test = known.get(kind) if isinstance(kind, str) else None
        if test is None:
            return f"{name!r} of {op.f} is {str(kind)[:80]!r}; there are {', '.join(known)}"
        right = test(value)
    elif op.type == "ok":
        lost = _object({}, {"lost": _number})(value)
        if op.f == "sysfs":
            right = _SIGHT(value)
        elif op.f == "trace":
            right = lost and _object({"events": _list_of(_TRACED)})(value)
        elif op.f == "log":
            right = lost and _object({"lines": _list_of(_LINE)}, {"events": _list_of(_TRACED)})(value)
    elif op.type == "fail":
        right = _error(value.get("error")) if op.f in ("claim", "use", "unuse") else _text(value.get("error"))
    if right:
        return None
    return f"the {op.type} of {op.f} is {str(value)[:120]}, which it cannot be; see history.schema.json"


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
    "force": _MANAGER,
    "set_region": {"region": _number, "block_size": _number, "sanitize": lambda value: value in (0, 1)},
    "add_reference": {"tag": _tag},
    "remove_reference": {"tag": _tag},
    "list_tags": {"start": _number, "count": _number},
    "fm_extents": {"start": _number, "count": _number},
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
    "fm_extents": {"total": _number, "generation": _number, "extents": _list_of(_listed)},
    "list_tags": {
        "total": _number,
        "validity": _number,
        "tags": _list_of(
            _object(
                {"tag": _tag, "flags": _number, "hosts": _list_of(_number), "pending_hosts": _list_of(_number)},
            )
        ),
    },
    "status": {"status": _number},
    "block": {"state": lambda value: value in ("free", "pending", "accepted")},
    "load": {"data": _hex},
    "bytes": {"data": _hex},
}
_CODES = frozenset(("events", "clear", "answer", "give_back", "extents"))


def misshapen(op: Op) -> tuple[Op, str] | None:
    """The operation and what is wrong with its value; None when that has its form."""
    if not isinstance(op.value.get("device", ""), str):
        return op, f"'device' of {op.f} is {str(op.value['device'])[:80]!r}; it is a name of the header"
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
