"""`dcd policy`: how host U answers offers and release requests from now on.

What there is, and what each takes, is `agent.policy`'s table and nothing here: a row added there can be typed here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import typer

from ..agent.policy import ADD, BREAKS, RELEASE, Row, choose, choose_break
from ..errors import AskedWrongly
from ..units import format_size, parse_size
from . import complete, drive, out

_UNITS = ("_bytes", "_s")
_SHAPE = {"keep": "INDEX,...", "parts": "INDEX:OFFSET+LENGTH,...", "then": "KIND"}
_TABLES: Mapping[str, Mapping[str, Row]] = {"offers": ADD, "requests": RELEASE}
_VERB = {"offers": "policy", "requests": "release_policy"}


class Asked(NamedTuple):
    """A policy that was typed: for `offers` or for release `requests`, its kind, its parameters as the agent has
    them."""

    on: str
    kind: str
    params: dict[str, Any]

    def as_data(self) -> dict[str, Any]:
        """As the agent takes it."""
        return {"kind": self.kind, **self.params}


def policy(
    name: drive.Name,
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]", help="What it does; without it: what there is.", autocompletion=complete.policies
        ),
    ] = None,
    params: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE...]",
            help="Its parameters, like first=64M or delay=2 then=refuse.",
            autocompletion=complete.parameters,
        ),
    ] = None,
    on: Annotated[
        Literal["offers", "requests"] | None,
        typer.Option(help="What it is for, where both have a policy of that name (late): offers by default."),
    ] = None,
    breaks: Annotated[
        str | None,
        typer.Option(
            "--break",
            metavar="CLAUSE",
            help="Break this rule on purpose, like DEV-6.inside, to see it convicted; none ends it.",
            autocompletion=complete.breaks,
        ),
    ] = None,
    device: drive.Device = None,
    as_json: out.Json = False,
) -> int:
    """Set how host U answers offers (accept, refuse, subset, ...) or release requests (release, decline, part, ...).

    The other of the two stays as it is. Without a kind: what is followed now, and all that there is. JSON:
    {"device", "add": {"kind", ...}, "release": {"kind", ...}, "break" where one is set}, without a kind and a clause
    one of them a device.
    """
    if kind is None and breaks is None:
        return _listed(name, as_json)
    broken = choose_break(None if breaks == "none" else breaks)
    asked = None if kind is None else parse([kind, *(params or ())], on)
    found: Mapping[str, Any] = {}
    if asked is not None:
        found = drive.call(name, _VERB[asked.on], kind=asked.kind, params=asked.params, device=device)
    if breaks is not None:
        found = drive.call(name, "break_rule", clause=None if broken is None else broken[0], device=device)
    if as_json:
        out.data(found)
        return 0
    out.line(told(found["device"], found))
    if asked is None or asked.on == "offers":
        out.following("add", name, "256M")
    else:
        out.following("release", name, "--all")
    return 0


def parse(typed: Iterable[str], on: str | None = None) -> Asked:
    """`["subset", "first=64M"]` as a policy. Errors: AskedWrongly, before anything is sent."""
    kind, *pairs = typed
    then = next((pair.partition("=")[2] for pair in pairs if pair.startswith("then=")), None)
    if on is None:
        on = "requests" if kind not in ADD or (then in RELEASE and then not in ADD) else "offers"
    if kind not in _TABLES[on]:
        raise AskedWrongly(
            f"policy {kind!r}; for offers there is {', '.join(ADD)}; for release requests {', '.join(RELEASE)}"
        )
    known = {key: full for full in _TABLES[on][kind].parameters for key in (full, _short(full))}
    params: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise AskedWrongly(f"{pair!r} is no parameter of {kind}; it takes {_takes(_TABLES[on][kind])}")
        params[known[key]] = _value(known[key], value)
    choose(dict(_TABLES[on]), {"kind": kind, **params}, on)
    return Asked(on, kind, params)


def parameters(kind: str) -> dict[str, str]:
    """The parameters of a kind, by the name that is typed, and what to give."""
    rows = [table[kind] for table in _TABLES.values() if kind in table]
    return {_short(key): _shape(key) for row in rows for key in row.parameters}


def told(device: str, followed: Mapping[str, Any]) -> str:
    """What a device's host follows, in one line."""
    breaks = f"; breaks {followed['break']}" if followed.get("break") else ""
    return f"{device}: offers: {spelled(followed['add'])}; release requests: {spelled(followed['release'])}{breaks}"


def spelled(policy: Mapping[str, Any]) -> str:
    """A policy as it is typed."""
    return " ".join([str(policy.get("kind")), *[_pair(key, policy[key]) for key in policy if key != "kind"]])


def _pair(key: str, value: Any) -> str:
    if key == "then":
        return f"then={value['kind']}"
    if key == "parts":
        text = ",".join([f"{index}:{format_size(at)}+{format_size(length)}" for index, at, length in value])
    elif key == "keep":
        text = ",".join([str(index) for index in value])
    else:
        text = format_size(value) if key.endswith("_bytes") else str(value)
    return f"{_short(key)}={text}"


def _listed(name: str, as_json: bool) -> int:
    info = drive.call(name, "info")
    if as_json:
        out.data([{"device": device, **followed} for device, followed in info["policy"].items()])
        return 0
    for device, followed in info["policy"].items():
        out.line(told(device, followed))
    for on, table in _TABLES.items():
        out.line(f"for {'offers' if on == 'offers' else 'release requests'}:")
        for kind, row in table.items():
            out.line(f"  {kind:9} {row.text}" + (f"; takes {_takes(row)}" if row.parameters else ""))
    out.line("rules that it breaks with --break:")
    for clause, how in BREAKS.items():
        out.line(f"  {clause:14} {how.text}")
    out.following("policy", name, "refuse")
    return 0


def _value(key: str, text: str) -> Any:
    if key == "then":
        return {"kind": text}
    if key == "keep":
        return [parse_size(part, what=key) for part in text.split(",") if part]
    if key == "parts":
        return [_part(part) for part in text.split(",") if part]
    if key.endswith("_s"):
        try:
            return float(text)
        except ValueError:
            raise AskedWrongly(f"{key} {text!r}; give seconds, like 1.5") from None
    return parse_size(text, what=_short(key))


def _part(text: str) -> list[int]:
    index, colon, rest = text.partition(":")
    offset, plus, length = rest.partition("+")
    if not colon or not plus:
        raise AskedWrongly(f"part {text!r}; write INDEX:OFFSET+LENGTH, like 0:2M+4M")
    return [parse_size(number, what="part") for number in (index, offset, length)]


def _short(key: str) -> str:
    """A parameter without its unit: the unit is in what is typed."""
    return next((key.removesuffix(unit) for unit in _UNITS if key.endswith(unit)), key)


def _shape(key: str) -> str:
    return _SHAPE.get(key, "SIZE" if key.endswith("_bytes") else "SECONDS" if key.endswith("_s") else "NUMBER")


def _takes(row: Row) -> str:
    return ", ".join([f"{_short(key)}={_shape(key)}" for key in row.parameters]) or "none"
