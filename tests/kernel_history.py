"""A recorded kernel session (`kernel_record`) as a history: backend "recorded", written with `history.Writer`.

Each thing that stands in the record becomes the operation that a kernel host writes, in the order of the record:
requests, writes to sysfs, sysfs readings, trace, log lines as they are, lists. Nothing is inferred here; the checker
does that. The records have no clock of a controller: lines are a millisecond apart.

It is in tests/ because its input is: consoles that somebody kept, with helper commands that only they have. What a user
has is a history; the reading of log lines, which a kernel host needs, is `dcdbackend.checker.kernel`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kernel_record import Asked, Block, Listed, Made, Read, Session, Tree, Wrote, tree_values

from dcdbackend.extents import NULL_TAG
from dcdbackend.history import Header, Writer

Value = dict[str, Any]
NAME = "mem0"


def header(session: Session, generation: str, quirks: list[str] | None = None) -> Header:
    """The header of a record. Regions are as long as the partition that the log tells of, and as many as were named."""
    items = [item for step in session.steps for item in step.items]
    spans = [note for item in items if isinstance(item, Block) for note in item.notes if note.kind == "partition"]
    made = [item.length for item in items if isinstance(item, Made)]
    length = spans[0].length if spans else made[0]
    count = 1 + max([item.region or 0 for item in items if isinstance(item, Asked)], default=0)
    version = re.search(r"Debian \d+:([0-9.]+)", session.host)
    regions = [
        {
            "index": at, "base": at * length, "decode_length": length, "length": length, "block_size": 2 << 20,
            "flags": 0, "dsmad_handle": at,
        }
        for at in range(count)
    ]  # fmt: skip
    host: Value = {"generation": generation, "kernel": session.kernel}
    if quirks is not None:
        host["quirks"] = quirks
    return Header(
        backend="recorded",
        qemu={"version": version[1] if version else "", "accel": "tcg"},
        host=host,
        devices=({"name": NAME, "serial": 0x1234, "regions": regions},),
        seed=0,
        scenario=session.title,
    )


def write(session: Session, path: Path, generation: str, quirks: list[str] | None = None) -> None:
    """The record as a history in a file."""
    ticks = iter(range(0, 1 << 60, 1_000_000))
    files = dict([pair for step in session.steps for one in step.items if isinstance(one, Tree) for pair in one.files])
    notes = [note for step in session.steps for one in step.items if isinstance(one, Block) for note in one.notes]
    window = next((note.start for note in notes if note.kind == "window"), 0)
    hpa = window or int(files.get("region0/resource", "0"), 16)
    with Writer(path, header(session, generation, quirks), lambda: next(ticks)) as writer:
        for step in session.steps:
            for item in step.items:
                for process, f, sent, kind, received in _operations(item, hpa):
                    number = writer.invoke(process, f, {"device": NAME, **sent})
                    writer.end(number, kind, received)


Operation = tuple[str, str, Value, str, Value]


def _operations(item: object, hpa: int) -> list[Operation]:
    if isinstance(item, Asked):
        return [_asked(item)]
    if isinstance(item, Made):
        place = {"what": "region", "region": item.region, "start": 0, "length": item.length, "hpa": hpa}
        return [
            (f"user.{NAME}", "use", place, "ok", {}),
            (f"user.{NAME}", "use", {"what": "bind", "region": item.region}, "ok", {}),
            ("witness", "sysfs", {"region": item.region}, "ok", {"region": item.region, "mode": item.mode}),
        ]
    if isinstance(item, Wrote):
        return [_wrote(item)]
    if isinstance(item, Read):
        return _read(item)
    if isinstance(item, Tree):
        value = tree_values(dict(item.files))
        return [] if value is None else [("witness", "sysfs", {"region": value["region"]}, "ok", value)]
    if isinstance(item, Listed):
        return [_listed(item)]
    if isinstance(item, Block):
        traces = [
            {"handle": one.handle, "type": one.type, "dpa": one.start, "length": one.length, "tag": one.tag.hex(),
             "sequence": one.sequence}
            for one in item.traces
        ]  # fmt: skip
        lines = [{"t_ns": time_ns, "text": text} for time_ns, text in item.lines]
        return [
            ("witness", "trace", {}, "ok", {"events": traces, "lost": 0}),
            ("witness", "log", {}, "ok", {"lines": lines, "lost": 0}),
        ]
    raise TypeError(type(item).__name__)


def _asked(item: Asked) -> Operation:
    tags = [one.tag.hex() for one in item.extents if one.tag != NULL_TAG]
    if item.region is not None:
        extents: list[Value] = [{"offset": one.start, "length": one.length} for one in item.extents]
    else:
        extents = [
            {"dpa": one.start, "length": one.length, "tag": one.tag.hex(), "sequence": one.sequence}
            for one in item.extents
        ]
    sent: Value = {
        "via": item.via, "host_id": 0, "policy": "prescriptive", "region": item.region or 0,
        "tag": tags[0] if item.region is not None and tags else None, "extents": extents,
    }  # fmt: skip
    if item.f == "release":
        sent |= {"forced": False, "sanitize": False}
    if item.error:
        return "manager", item.f, sent, "fail", {"error": "GenericError", "desc": item.error}
    return "manager", item.f, sent, "ok", {}


def _wrote(item: Wrote) -> Operation:
    parts = item.path.split("/")
    if item.path.endswith(("/uuid", "/size")):
        f = "claim"
        sent: Value = {"file": parts[-1], "dax": parts[-2], "text": item.text}
    elif item.path.endswith("/create"):
        region = next(part for part in parts if part.startswith("dax_region")).removeprefix("dax_")
        f, sent = "claim", {"file": "create", "region": region, "text": item.text}
    elif item.path.endswith("/bind"):
        f, sent = "use", {"what": "dax", "dax": item.text, "driver": parts[-2]}
    else:
        f, sent = "unuse", {"what": "dax", "dax": item.text}
    kind, received = ("fail", {"error": item.error}) if item.error else ("ok", {})
    return f"user.{NAME}", f, sent, kind, received


def _read(item: Read) -> list[Operation]:
    parts = item.path.rstrip("/").split("/")
    words = item.value.split()
    value: Value = {"region": "region0"}
    if parts[-1].startswith("dax_region"):
        value["region"] = parts[-1].removeprefix("dax_")
        value["names"] = [word for word in words if word.startswith("extent")]
        value["all_devices"] = [word for word in words if re.fullmatch(r"dax\d+\.\d+", word)]
    elif parts[-1] == "devices":
        value["all_devices"] = words
    elif parts[-1] == "size":
        value["devices"] = [{"name": parts[-2], "size": int(item.value)}]
    elif parts[-1] == "uuid":
        value["devices"] = [{"name": parts[-2], "uuid": item.value, "has_uuid": True}]
    else:
        return []
    return [("witness", "sysfs", {"region": value["region"]}, "ok", value)]


def _listed(item: Listed) -> Operation:
    extents = [
        {"dpa": one.start, "length": one.length, "tag": one.tag.hex(), "sequence": one.sequence} for one in item.extents
    ]
    page = {"total": item.total, "generation": item.generation, "extents": extents}
    if item.via == "4801h":
        kind, received = ("ok", {"rc": 0, **page}) if not item.rc else ("fail", {"rc": item.rc})
        return "look", "extents", {"count": 50, "start": 0}, kind, received
    kind, received = ("ok", {"rc": 0, **page}) if not item.rc else ("fail", {"rc": item.rc})
    return "manager", "fm_extents", {"host_id": 0, "count": 50, "start": 0}, kind, received
