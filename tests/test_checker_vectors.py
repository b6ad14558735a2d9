"""checker: the exchanges captured from QEMU 11.1.3, made a history by hand, are judged: departures, and nothing else.

The bytes are taken apart here with `struct`, at the specification's offsets, not by our own codecs.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from dcdbackend.checker import Verdict, check
from dcdbackend.checker.explain import summary
from dcdbackend.checker.notation import header
from dcdbackend.history import Op

VECTORS = Path(__file__).parent / "vectors" / "qemu-11.1.3.json"
TUNNEL_BYTES = 16


def extent(data: bytes) -> dict[str, Any]:
    start, length, tag, sequence = struct.unpack("<QQ16sH6x", data)
    return {"dpa": start, "length": length, "tag": tag.hex(), "sequence": sequence}


def records(data: bytes) -> dict[str, Any]:
    flags, lost, _first, _last, count = struct.unpack_from("<BxHQQH", data)
    found: list[dict[str, Any]] = []
    for at in range(32, 32 + 128 * count, 128):
        (handle,) = struct.unpack_from("<H", data, at + 20)
        kind, validity, host, region, more = struct.unpack_from("<BBHBB", data, at + 48)
        extents, tags = struct.unpack_from("<II", data, at + 120)
        found.append(
            {
                **extent(data[at + 56 : at + 96]), "handle": handle, "type": kind, "more": bool(more & 1),
                "validity": validity, "host_id": host, "region": region, "available_extents": extents,
                "available_tags": tags, "severity": data[at + 17] & 3,
            }
        )  # fmt: skip
    return {"rc": 0, "flags": flags, "overflow_count": lost, "records": found}


def ranges(data: bytes) -> dict[str, Any]:
    count, flags = struct.unpack_from("<IB", data)
    if len(data) != 8 + 24 * count:
        return {"device": "mem0", "raw": data.hex(), "error": "shorter than its count"}
    pairs = [list(struct.unpack_from("<QQ", data, at)) for at in range(8, len(data), 24)]
    return {"device": "mem0", "flags": flags, "ranges": pairs}


def listed(data: bytes) -> dict[str, Any]:
    count, total, generation = struct.unpack_from("<III", data)
    extents = [extent(data[at : at + 40]) for at in range(16, 16 + 40 * count, 40)]
    return {"rc": 0, "total": total, "generation": generation, "extents": extents}


def manager(f: str, data: bytes) -> dict[str, Any]:
    host, policy, _length, _tag, count = struct.unpack_from("<HBxQ16sI", data)
    extents = [extent(data[at : at + 40]) for at in range(32, 32 + 40 * count, 40)]
    names = {"add": ("free", "contiguous", "prescriptive"), "release": ("tag", "prescriptive")}
    value = {
        "device": "mem0", "via": "fm", "host_id": host, "policy": names[f][policy & 15], "region": 0, "tag": None,
        "extents": extents,
    }  # fmt: skip
    return value if f == "add" else {**value, "forced": bool(policy & 16), "sanitize": bool(policy & 32)}


def operation(vector: dict[str, Any]) -> tuple[str, str, dict[str, Any], dict[str, Any]] | None:
    """f, type, sent and received of a captured exchange; None for what the history has no operation for."""
    asked, told, code = bytes.fromhex(vector["request"]), bytes.fromhex(vector["response"]), vector["return_code"]
    opcode = vector["opcode"]
    if opcode in ("5604h", "5605h"):
        inner = struct.unpack_from("<H", told, 12)[0]
        f = "add" if opcode == "5604h" else "release"
        received = {"error": "CCI", "desc": f"{inner:02x}h", "rc": inner} if inner else {}
        return f, "fail" if inner else "ok", manager(f, asked[TUNNEL_BYTES:]), received
    kind = "fail" if code else "ok"
    if opcode == "0100h":
        return "events", kind, {"device": "mem0", "log": asked[0]}, records(told)
    if opcode == "0101h":
        handles = list(struct.unpack_from(f"<{asked[2]}H", asked, 6))
        return "clear", kind, {"device": "mem0", "log": asked[0], "flags": asked[1], "handles": handles}, {"rc": code}
    if opcode in ("4802h", "4803h"):
        return "answer" if opcode == "4802h" else "give_back", kind, ranges(asked), {"rc": code}
    if opcode == "4801h":
        count, start = struct.unpack("<II", asked)
        return "extents", kind, {"device": "mem0", "count": count, "start": start}, listed(told)
    return None


def captured() -> list[Op]:
    ops: list[Op] = []
    for vector in json.loads(VECTORS.read_text())["vectors"]:
        found = operation(vector)
        if found is not None:
            f, kind, sent, received = found
            n = len(ops) + 1
            ops += [Op(n, n, "all", "invoke", f, n, sent), Op(n + 1, n, "all", kind, f, n + 1, received)]
    return ops


def judged(qemu: str | None) -> Verdict:
    head = header(qemu=qemu, limits={"supported_extents": 512})
    return check(captured(), head)


def test_what_qemu_said_is_judged_with_its_known_departures() -> None:
    found = judged("11.1.3")
    failed = {(finding.subject, finding.clause) for finding in found.failed}
    # whoever captured them sent what no host may send; the device refused it as it must
    assert failed == {("host", f"DEV-7.{name}") for name in ("held", "some", "aligned", "disjoint")}, "\n".join(
        summary(found)
    )
    assert found.departures == {"QEMU-remain", "QEMU-severity", "QEMU-generation", "QEMU-tag"}
    for clause in ("DEV-19.extents", "DEV-4.more", "DEV-7.part", "DEV-8.16h", "DEV-8.1Eh-overlap", "DEV-8.0Fh-held"):
        assert found.of(clause).passed, clause


def test_without_them_the_same_bytes_convict_it() -> None:
    found = judged(None)
    assert [finding.clause for finding in found.failed if finding.subject == "device"] == ["DEV-4.severity"]
