"""`dcd add`, `dcd release`, `dcd answer`: capacity offered to a launched guest and asked back, and the answer as
witnessed; by the guest's policy, or by hand where that gave none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

from ..bench import parse_span
from ..errors import AskedWrongly, TimedOut
from ..units import format_size, parse_size
from . import complete, drive, out

UNANSWERED = TimedOut.exit_code

Region = Annotated[
    int | None,
    typer.Option("--region", "-r", help="The DC region, 0 onwards.", min=0, max=255, autocompletion=complete.regions),
]
At = Annotated[str | None, typer.Option("--at", metavar="OFFSET", help="Where a SIZE begins in the region, like 512M.")]
Tag = Annotated[str | None, typer.Option(help="A tag: 32 hex digits, or a UUID.")]
Timeout = Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="How long to wait; 5 by default.")]


def add(
    name: drive.Name,
    what: Annotated[
        list[str],
        typer.Argument(metavar="SIZE|OFFSET+LENGTH...", help="256M: where there is room; 0+128M 512M+64M: one chain."),
    ],
    region: Region = None,
    device: drive.Device = None,
    at: At = None,
    tag: Tag = None,
    timeout: Timeout = None,
    as_json: out.Json = False,
) -> int:
    """Offer capacity to the guest, as one chain of extents, and wait for the host's answer.

    Exit: 0 it was answered, with refuse as well; 1 the device refused the offer; 4 no answer in time: the offer stays.
    JSON: {"outcome": accepted|partial|refused|unanswered, "device", "region", "extents": [[offset, length]],
    "accepted": [[DPA, length]], "refused", "witnesses": {"host": ranges of its 4802h or null, "block": [[DPA, length,
    state]]}}.
    """
    wanted = _wanted(what, at)
    found = drive.call(name, "add", **wanted, region=region, device=device, tag=tag, timeout_s=timeout)
    code = UNANSWERED if found["outcome"] == "unanswered" else 0
    if as_json:
        out.data(found)
        return code
    tell_offer(found)
    if code:
        out.note("offers are settled oldest first (DEV-6): until this one is, a device takes no answer to a later one")
    _following(name, found["device"], waiting=bool(code))
    return code


def answer(
    name: drive.Name,
    choice: Annotated[Literal["accept", "refuse"], typer.Argument(metavar="accept|refuse", help="What it answers.")],
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OFFSET+LENGTH...]", help="Accept only these parts of the offer: 0+128M 512M+64M."),
    ] = None,
    device: drive.Device = None,
    timeout: Timeout = None,
    as_json: out.Json = False,
) -> int:
    """Answer the oldest offer by hand: one that the host's policy left unanswered, and that blocks all later ones.

    Nothing is sent where no offer waits, or while host U may still answer by itself (exit 2). Exit: 0 it is settled;
    1 the device refused the answer. JSON: as `dcd add`, and "waiting": whether another offer still waits.
    """
    extents = [str(parse_span(text)) for text in what or ()] or None
    if extents and choice == "refuse":
        raise AskedWrongly("refuse is of the whole offer; extents go with accept")
    found = drive.call(name, "answer", choice=choice, extents=extents, device=device, timeout_s=timeout)
    code = UNANSWERED if found["outcome"] == "unanswered" else 0
    if as_json:
        out.data(found)
        return code
    tell_offer(found)
    if found["waiting"]:
        out.note("another offer still waits for an answer")
    _following(name, found["device"], waiting=found["waiting"])
    return code


def tell_offer(found: Mapping[str, Any]) -> None:
    """What became of an offer, in lines."""
    place = f"region {found['region']} of {found['device']}"
    for outcome in ("accepted", "refused"):
        if found[outcome]:
            out.line(f"{outcome}: {out.ranges(found[outcome])} ({_total(found[outcome])}, {place})")
    if found["outcome"] == "unanswered":
        offered = " ".join([f"{format_size(start)}+{format_size(length)}" for start, length in found["extents"]])
        out.line(f"unanswered: {offered} of {place} is still offered")
    out.line(f"witnessed: {_witnessed(found['witnesses'])}")


def _following(name: str, device: str, *, waiting: bool) -> None:
    """What to type next: an answer, while an offer waits for one."""
    if waiting:
        out.following("answer", name, "accept", *(() if device == "mem0" else ("--device", device)))
    else:
        out.following("show", name)


def release(
    name: drive.Name,
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SIZE|OFFSET+LENGTH...]", help="256M: of what is accepted; 0+128M 512M+64M: these."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All that is accepted, of --region or of the device.")] = False,
    region: Region = None,
    device: drive.Device = None,
    at: At = None,
    tag: Tag = None,
    timeout: Timeout = None,
    as_json: out.Json = False,
) -> int:
    """Ask the host to give capacity back, and wait for what it does.

    Exit: 0 it responded, be it with nothing; 1 the device refused the request; 4 no response in time. JSON:
    {"outcome": released|partial|declined|unanswered|nothing, "device", "released": [[DPA, length]], "kept",
    "requests": [{"region", "extents", "outcome", "released", "kept", "witnesses"}]}.
    """
    if every == bool(what):
        raise AskedWrongly("say what to release: a size, OFFSET+LENGTH extents, or --all")
    wanted = {"all": True} if every else _wanted(what or [], at)
    if every and at is not None:
        raise AskedWrongly("--at goes with a size, not with --all")
    found = drive.call(name, "release", **wanted, region=region, device=device, tag=tag, timeout_s=timeout)
    code = UNANSWERED if found["outcome"] == "unanswered" else 0
    if as_json:
        out.data(found)
        return code
    tell_release(found)
    out.following("events" if code else "show", name)
    return code


def tell_release(found: Mapping[str, Any]) -> None:
    """What became of a request to release, in lines."""
    if found["outcome"] == "nothing":
        out.line(f"nothing of {found['device']} is accepted there; nothing was asked")
    for outcome in ("released", "kept"):
        if found[outcome]:
            out.line(f"{outcome}: {out.ranges(found[outcome])} ({_total(found[outcome])} of {found['device']})")
    if found["outcome"] == "unanswered":
        out.line("unanswered: the host has not heeded the request")
    for request in found["requests"]:
        out.line(f"witnessed: {_witnessed(request['witnesses'])}")


def _wanted(what: Sequence[str], at: str | None) -> dict[str, Any]:
    """A size, or extents. Errors: AskedWrongly."""
    sizes = [text for text in what if "+" not in text]
    if sizes and len(what) > 1:
        raise AskedWrongly(f"{sizes[0]!r} beside others; give one size, or OFFSET+LENGTH extents, like 0+128M 512M+64M")
    if sizes:
        size = parse_size(sizes[0])
        if not size:
            raise AskedWrongly("size 0; give at least a block, like 2M")
        return {"size": size, **({} if at is None else {"at": parse_size(at, what="--at")})}
    if at is not None:
        raise AskedWrongly("--at goes with a size; OFFSET+LENGTH extents have their own offsets")
    return {"extents": [str(parse_span(text)) for text in what]}


def _total(ranges: Sequence[Sequence[int]]) -> str:
    return format_size(sum(length for _, length in ranges))


def _witnessed(witnesses: Mapping[str, Any]) -> str:
    """What each witness said: the host's command, and QEMU's block states."""
    host = witnesses.get("host")
    said = "the host sent no answer" if host is None else f"the host named {out.ranges(host) or 'nothing'}"
    states: dict[str, list[Sequence[int]]] = {}
    for start, length, state in witnesses.get("block") or ():
        states.setdefault(state, []).append((start, length))
    blocks = ", ".join([f"{out.ranges(ranges)} {state}" for state, ranges in states.items()])
    return f"{said}; QEMU shows {blocks or 'nothing'}"
