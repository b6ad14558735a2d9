"""The agent's kernel host on recorded trees: what real v11 kernels showed, read back, written to, and spoiled.

The trees come from tests/kernel by `kernel_tree`; what they say is compared with what `kernel_record`'s own parser
makes of them. What a living kernel does is in vm/test_agent_kernel_vm.py.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import jsonschema
import kernel_record as record
import pytest
from kernel_tree import CXL, DAX, TRACING, echoed, grow, kmsg, plant, stages, trace_lines, write

from dcdbackend import link
from dcdbackend.agent import __main__ as program
from dcdbackend.agent import device
from dcdbackend.agent.control import Control
from dcdbackend.agent.kernel import data, dax, modules, region, sight
from dcdbackend.agent.kernel import host as requests
from dcdbackend.agent.kernel.files import Files, error_name, natural
from dcdbackend.agent.kernel.host import MOST_EVENTS, MOST_LINES, MOST_REPLY, KernelHost
from dcdbackend.agent.kernel.trace import parse
from dcdbackend.alarms import alarm, alarms_of
from dcdbackend.errors import AskedWrongly, CannotRun, DcdError

MIB = 1 << 20
DAX_FIELDS = ("name", "size", "uuid", "has_uuid", "mappings", "driver", "has_driver")
TAGGED = "B2_tagged_chain"


def stand(root: Path, name: str = "A0_region_create") -> KernelHost:
    """A record played to its end, and the kernel host on it."""
    for _ in stages(root, record.read(name)):
        pass
    return KernelHost(str(root))


@pytest.fixture
def host(tmp_path: Path) -> KernelHost:
    """The tree after a region was made: one device, one region, a DAX device of size 0."""
    return stand(tmp_path)


# -- sight -------------------------------------------------------------------------------------------------------------


WITH_TREES = ("A0_region_create", "A1_untagged_add", "A2_untagged_chain", "B1_tagged_add", "B2_tagged_chain")


@pytest.mark.parametrize("name", WITH_TREES)
def test_the_sight_of_every_recorded_tree_is_what_the_records_own_parser_says(name: str, tmp_path: Path) -> None:
    seen = 0
    host = KernelHost(str(tmp_path))
    for tree in stages(tmp_path, record.read(name)):
        expected = record.tree_values(dict(tree.files))
        if expected is None or "available" not in expected:
            continue
        said = host.handle({"what": "sight", "region": "region0"})
        expected["devices"] = [{key: one[key] for key in DAX_FIELDS} for one in expected["devices"]]
        for one in expected["devices"]:  # the record has the whole link, a sight the driver that it names
            one["driver"] = one["driver"] and one["driver"].rpartition("/")[2]
        shown = {key: said["sight"][key] for key in expected if key != "mode"}
        assert shown == {key: value for key, value in expected.items() if key != "mode"}
        assert said["sight"]["names"] == [one["name"] for one in expected["extents"]]
        assert sight.seen(said["sight"])._replace(mode=None, names=None) == sight.seen(expected)._replace(mode=None)
        seen += 1
    assert seen == {"A0": 2, "A1": 4}.get(name[:2], seen) and seen


def test_a_sight_is_what_a_history_takes(tmp_path: Path) -> None:
    definitions = json.loads(resources("dcdbackend").joinpath("history.schema.json").read_text())
    said = stand(tmp_path, TAGGED).handle({"what": "sight", "region": "region0"})
    schema = {"$defs": definitions["$defs"], "$ref": "#/$defs/sight"}
    jsonschema.Draft202012Validator(schema).validate(said["sight"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate({**said["sight"], "available": None})


def test_extents_are_sorted_by_number_whatever_they_begin_with(host: KernelHost, tmp_path: Path) -> None:
    for number in (10, 0, 2):  # Q11: from 0 or from 1
        place = tmp_path / CXL / f"dax_region0/extent0.{number}"
        write(place / "offset", f"0x{number << 21:x}\n")
        write(place / "length", "0x200000\n")
    shown = host.handle({"what": "sight", "region": "region0"})["sight"]
    assert shown["names"] == ["extent0.0", "extent0.2", "extent0.10"]
    assert [one["offset"] for one in shown["extents"]] == [0, 4 * MIB, 20 * MIB]


def test_an_extent_that_goes_while_it_is_read_is_read_again(
    host: KernelHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / CXL / "dax_region0/extent0.1"
    write(place / "offset", "0x0\n")
    read = Files.read

    def vanishing(files: Files, path: str) -> str | None:
        if path.endswith("extent0.1/offset") and place.exists():
            (place / "offset").unlink()
            place.rmdir()
        return read(files, path)

    monkeypatch.setattr(Files, "read", vanishing)
    said = host.handle({"what": "sight", "region": "region0"})
    assert (said["sight"]["extents"], said["odd"]) == ([], [])


def test_an_extent_whose_attribute_stays_away_is_told_within_a_bound(
    host: KernelHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / CXL / "dax_region0/extent0.1/offset", "0x0\n")
    tries: list[str] = []
    once = sight._read

    def counted(reading: sight._Reading, name: str) -> dict[str, Any]:
        tries.append(name)
        return once(reading, name)

    monkeypatch.setattr(sight, "_read", counted)
    said = host.handle({"what": "sight", "region": "region0"})
    assert (said["sight"]["extents"], said["sight"]["names"]) == ([], ["extent0.1"])
    assert said["odd"] == ["/sys/bus/cxl/devices/dax_region0/extent0.1/length is not there (any more)"]
    assert len(tries) == sight.TRIES


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (f"{CXL}/dax_region0/dax_region/available_size", "banana"),
        (f"{CXL}/dax_region0/dax_region/available_size", "-4096"),
        (f"{CXL}/dax_region0/dax_region/available_size", "0x1ffffffffffffffff"),
        (f"{CXL}/dax_region0/dax_region/available_size", ""),
        (f"{DAX}/dax0.0/size", "1\x002"),
        (f"{DAX}/dax0.0/size", "\xff" * 5000),
    ],
)
def test_what_holds_no_number_is_odd_and_not_guessed(host: KernelHost, tmp_path: Path, path: str, text: str) -> None:
    (tmp_path / path).write_text(text)
    said = host.handle({"what": "sight", "region": "region0"})
    assert len(said["odd"]) == 1 and f"/{path} holds" in said["odd"][0] and len(said["odd"][0]) < 400
    assert "available" not in said["sight"] if "available" in path else "size" not in said["sight"]["devices"][0]


def test_a_file_that_may_not_be_read_is_odd(host: KernelHost, tmp_path: Path) -> None:
    (tmp_path / DAX / "dax0.0/size").unlink()
    (tmp_path / DAX / "dax0.0/size").mkdir()
    said = host.handle({"what": "sight", "region": "region0"})
    assert said["odd"] == ["/sys/bus/dax/devices/dax0.0/size cannot be read: EISDIR"]


def test_a_region_that_is_not_there_is_a_sight_of_nothing(host: KernelHost) -> None:
    said = host.handle({"what": "sight", "region": "region7"})
    assert said["sight"] == {"region": "region7"}
    assert said["odd"] == ["/sys/bus/cxl/devices/region7 is not there (any more)"]


def test_a_long_reply_comes_in_pieces(host: KernelHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MOST_REPLY", 2000)
    for number in range(1, 61):
        place = tmp_path / CXL / f"dax_region0/extent0.{number}"
        write(place / "offset", f"0x{number << 21:x}\n")
        write(place / "length", "0x200000\n")
    said = host.handle({"what": "sight", "region": "region0"})
    pieces = [said["long"]["piece"]]
    token, length = said["long"]["token"], said["long"]["length"]
    while sum(map(len, pieces)) < length:
        said = host.handle({"what": "rest", "token": token, "offset": sum(map(len, pieces))})
        assert len(json.dumps(said)) <= 2000 + 200
        pieces.append(said["long"]["piece"])
    whole = json.loads("".join(pieces))
    assert len(pieces) > 2 and len(whole["sight"]["extents"]) == 60
    with pytest.raises(AskedWrongly, match="only the last is kept"):
        host.handle({"what": "rest", "token": token + 1, "offset": 0})


def test_the_longest_reply_fits_a_frame() -> None:
    piece = '"' * (MOST_REPLY // 2)  # every letter of it is escaped
    assert len(json.dumps({"id": 1 << 31, "ok": True, "long": {"piece": piece}})) < link.MAX_BODY - 1000


# -- survey ------------------------------------------------------------------------------------------------------------


def test_the_survey_of_the_recorded_kernel(host: KernelHost) -> None:
    said = host.handle({"what": "survey"})
    assert said["generation"]["found"] == "v11" and said["generation"]["sure"] is True
    assert "decoder0.0/create_dynamic_ram_1_region" in said["generation"]["evidence"]
    assert said["mode"] == "dynamic_ram_1"
    (memdev,) = said["memdevs"]
    assert (memdev["name"], memdev["serial"], memdev["payload_max"]) == ("mem0", 0x1234, 2048)
    assert memdev["partitions"] == {"dynamic_ram_1": 1 << 30, "pmem": 0, "ram": 0}
    assert (memdev["decoders"], memdev["driver"], memdev["root"]) == (["decoder2.0"], "cxl_mem", "decoder0.0")
    (root,) = said["roots"]
    assert (root["size"], root["start"]) == (0x100000000, 0x490000000)
    assert root["caps"] == ["dynamic_ram_1", "pmem", "ram", "type2", "type3"]
    assert root["creates"] == ["create_dynamic_ram_1_region", "create_pmem_region", "create_ram_region"]
    assert (said["regions"], said["dax_drivers"], said["trace"]) == (["region0"], ["device_dax", "kmem"], True)
    assert said["tools"] == {"cxl": None, "daxctl": None}
    assert [one["what"] for one in said["missing"]] == ["memory failure handling (MEMORY_FAILURE)"]


def rename(root: Path, old: str, new: str) -> None:
    """One generation's names for another's, all over a tree."""
    for path in sorted((root / CXL).rglob(f"*{old}*"), key=lambda one: -len(one.parts)):
        path.rename(path.with_name(path.name.replace(old, new)))
    for path in (root / CXL).rglob("mode"):
        path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("uuid", "found", "sure"),
    [
        ("writable", "v10", True),
        ("read-only", "A/B-rfc", True),
        ("none", "A/B-rfc", True),
        ("no device", "A/B-rfc", False),
    ],
)
def test_dynamic_ram_a_is_told_apart_by_uuid(
    host: KernelHost, tmp_path: Path, uuid: str, found: str, sure: bool
) -> None:
    rename(tmp_path, "dynamic_ram_1", "dynamic_ram_a")
    path = tmp_path / DAX / "dax0.0/uuid"
    if uuid == "read-only":
        path.chmod(0o444)
    elif uuid == "none":
        path.unlink()
    elif uuid == "no device":
        (tmp_path / CXL / "dax_region0/dax0.0").unlink()
    said = host.handle({"what": "survey"})
    assert (said["generation"]["found"], said["generation"]["sure"]) == (found, sure)
    assert said["mode"] == "dynamic_ram_a"


def test_an_early_kernel_and_one_without(host: KernelHost, tmp_path: Path) -> None:
    rename(tmp_path, "create_dynamic_ram_1_region", "create_dc_region")
    rename(tmp_path, "cap_dynamic_ram_1", "cap_other")
    rename(tmp_path, "dynamic_ram_1", "dc0")
    said = host.handle({"what": "survey"})
    assert (said["generation"]["found"], said["mode"]) == ("early", "dc0")
    rename(tmp_path, "create_dc_region", "create_x")
    rename(tmp_path, "dc0", "elsewhere")
    said = host.handle({"what": "survey"})
    assert (said["generation"]["found"], said["generation"]["sure"], said["mode"]) == ("none", True, None)
    (told,) = [one for one in said["missing"] if one["what"] == "Dynamic Capacity support"]
    assert "boot a kernel with the DCD series" in told["cost"]


def test_a_machine_without_cxl_says_what_is_missing(tmp_path: Path) -> None:
    said = KernelHost(str(tmp_path)).handle({"what": "survey"})
    assert said["generation"] == {
        "found": "none", "sure": False,
        "evidence": ["no attribute that creates a DC region, no DC partition, no DC decoder mode"],
    }  # fmt: skip
    assert said["missing"][0]["what"] == "the CXL bus (CXL_BUS)"
    assert all(one["cost"] for one in said["missing"]) and len(said["missing"]) >= 6
    assert "no event" in said["trace_why"]


def test_two_devices_each_have_their_decoders_and_their_window(host: KernelHost, tmp_path: Path) -> None:
    """With the links of a real sysfs: endpoint -> memory device, port -> host bridge, window -> target."""
    devices = tmp_path / "sys/devices"
    for number, (memory, bridge, port) in enumerate((("mem0", "pci0000:0c", "1"), ("mem1", "pci0000:1c", "2"))):
        endpoint = number + 3
        place = devices / bridge / f"0000:{number}d:00.0" / memory
        write(place / "serial", f"0x{0x1234 + number:x}\n")
        port_place = devices / f"platform/root0/port{port}"
        write(port_place / f"endpoint{endpoint}/decoder{endpoint}.0/devtype", "cxl_decoder_endpoint\n")
        (port_place / f"endpoint{endpoint}/uport").symlink_to(place)
        (port_place / "uport").symlink_to(devices / bridge)
        (devices / f"platform/root0/dport{12 + number}").symlink_to(devices / bridge)
        write(devices / f"platform/root0/decoder0.{number}/devtype", "cxl_decoder_root\n")
        write(devices / f"platform/root0/decoder0.{number}/target_list", f"{12 + number}\n")
        bus = tmp_path / CXL
        for name, target in (
            (memory, place),
            (f"endpoint{endpoint}", port_place / f"endpoint{endpoint}"),
            (f"decoder{endpoint}.0", port_place / f"endpoint{endpoint}/decoder{endpoint}.0"),
            (f"decoder0.{number}", devices / f"platform/root0/decoder0.{number}"),
        ):
            if (bus / name).exists():
                (bus / name).rename(bus / f"was_{name}")
            (bus / name).symlink_to(target)
    found = {one["name"]: one for one in host.handle({"what": "survey"})["memdevs"]}
    assert [(one["serial"], one["pci"], one["decoders"], one["root"]) for one in found.values()] == [
        (0x1234, "0000:0d:00.0", ["decoder3.0"], "decoder0.0"),
        (0x1235, "0000:1d:00.0", ["decoder4.0"], "decoder0.1"),
    ]


# -- region ------------------------------------------------------------------------------------------------------------


def unmade(root: Path) -> KernelHost:
    """The recorded tree as it was before the region was made, with the files that the kernel then shows."""
    host = stand(root)
    session = record.read("A0_region_create")
    first = session.steps[0]
    for item in first.items:
        if isinstance(item, record.Tree):
            grow(root, item)
    (root / CXL / "region0/driver").unlink()
    return host


@pytest.mark.parametrize("by", [{"serial": 0x1234}, {"memdev": "mem0"}])
def test_a_region_is_made_by_the_recorded_writes_in_their_order(tmp_path: Path, by: dict[str, Any]) -> None:
    host = unmade(tmp_path)
    said = host.handle({"what": "region", **by, "size": 1 << 30, "mode": None})
    assert [value for _, value in said["steps"]] == echoed("A0_region_create")
    cxl = "/sys/bus/cxl/devices"
    assert [path for path, _ in said["steps"]] == [
        f"{cxl}/decoder0.0/create_dynamic_ram_1_region",
        f"{cxl}/region0/interleave_granularity",
        f"{cxl}/region0/interleave_ways",
        f"{cxl}/decoder2.0/mode",
        f"{cxl}/decoder2.0/dpa_size",
        f"{cxl}/region0/size",
        f"{cxl}/region0/target0",
        f"{cxl}/region0/commit",
        "/sys/bus/cxl/drivers/cxl_region/bind",
    ]
    for path, value in said["steps"]:
        assert (tmp_path / path.lstrip("/")).read_text() == f"{value}\n"
    assert {key: said[key] for key in ("region", "dax_region", "decoder", "hpa", "length", "mode", "dax")} == {
        "region": "region0", "dax_region": "dax_region0", "decoder": "decoder2.0", "hpa": 0x490000000,
        "length": 1 << 30, "mode": "dynamic_ram_1", "dax": ["dax0.0"],
    }  # fmt: skip


def test_the_size_of_the_partition_is_taken_where_none_is_given(tmp_path: Path) -> None:
    said = unmade(tmp_path).handle({"what": "region", "memdev": "mem0"})
    assert ["/sys/bus/cxl/devices/region0/size", "0x40000000"] in said["steps"]


def test_a_refusal_is_told_as_it_was_and_what_was_begun_is_taken_back(tmp_path: Path) -> None:
    host = unmade(tmp_path)
    (tmp_path / CXL / "region0/target0").unlink()
    (tmp_path / CXL / "region0/target0").mkdir()
    said = host.handle({"what": "region", "serial": 0x1234, "size": 1 << 30})
    path = "/sys/bus/cxl/devices/region0/target0"
    assert said["refused"] == {"errno": "EISDIR", "path": path, "wrote": "decoder2.0"}
    assert said["steps"][-1] == [path, "decoder2.0"]
    assert (tmp_path / CXL / "decoder0.0/delete_region").read_text() == "region0\n"
    assert (tmp_path / CXL / "decoder2.0/dpa_size").read_text() == "0\n"
    assert (tmp_path / CXL / "region0/commit").read_text() == "0\n"


def test_a_region_is_destroyed(host: KernelHost, tmp_path: Path) -> None:
    said = host.handle({"what": "region_destroy", "region": "region0"})
    cxl = "/sys/bus/cxl/devices"
    assert said["steps"] == [
        ["/sys/bus/cxl/drivers/cxl_region/unbind", "region0"],
        [f"{cxl}/region0/commit", "0"],
        [f"{cxl}/decoder0.0/delete_region", "region0"],
        [f"{cxl}/decoder2.0/dpa_size", "0"],
    ]


def test_a_region_is_unbound_and_bound_again(host: KernelHost, tmp_path: Path) -> None:
    assert host.handle({"what": "region_unbind", "region": "region0"})["steps"] == [
        [f"{region.DRIVER}/unbind", "region0"]
    ]
    (tmp_path / CXL / "region0/driver").unlink()
    said = host.handle({"what": "region_bind", "region": "region0"})
    assert said["steps"] == [[f"{region.DRIVER}/bind", "region0"]] and said["dax"] == ["dax0.0"]


# -- DAX devices -------------------------------------------------------------------------------------------------------

TAG = "5be13bceae344a77b6c316df975fcf1a"


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (TAG, "5be13bce-ae34-4a77-b6c3-16df975fcf1a"),
        (TAG.upper(), "5be13bce-ae34-4a77-b6c3-16df975fcf1a"),
        ("0", "0"),
        ("garbage", "garbage"),
    ],
)
def test_a_claim_writes_the_uuid(host: KernelHost, tmp_path: Path, given: str, written: str) -> None:
    said = host.handle({"what": "claim", "dax": "dax0.0", "tag": given})
    assert (tmp_path / DAX / "dax0.0/uuid").read_text() == f"{written}\n"
    assert (said["uuid"], said["size"]) == (written, 0)


def test_what_the_kernel_refuses_is_no_error_of_the_request(host: KernelHost, tmp_path: Path) -> None:
    (tmp_path / DAX / "dax0.0/uuid").unlink()
    said = host.handle({"what": "claim", "dax": "dax0.0", "tag": "0"})
    assert said["refused"] == {"errno": "ENOENT", "path": "/sys/bus/dax/devices/dax0.0/uuid", "wrote": "0"}
    said = host.handle({"what": "unbind", "dax": "dax0.0"})
    assert said["refused"]["errno"] == "ENODEV"


def test_bind_unbind_resize_and_destroy(host: KernelHost, tmp_path: Path) -> None:
    drivers = tmp_path / "sys/bus/dax/drivers"
    assert host.handle({"what": "bind", "dax": "dax0.0"})["steps"] == [
        ["/sys/bus/dax/drivers/device_dax/bind", "dax0.0"]
    ]
    (tmp_path / DAX / "dax0.0/driver").symlink_to(drivers / "device_dax")
    said = host.handle({"what": "resize", "dax": "dax0.0", "size": 4 * MIB})
    assert said["size"] == 4 * MIB
    said = host.handle({"what": "destroy", "dax": "dax0.0"})
    assert [path for path, _ in said["steps"]] == [
        "/sys/bus/dax/drivers/device_dax/unbind",
        "/sys/bus/dax/drivers/device_dax/remove_id",
        "/sys/bus/dax/devices/dax0.0/size",
    ]
    assert said["size"] == 0 and (drivers / "device_dax/unbind").read_text() == "dax0.0\n"


def test_create_tells_which_device_is_new(host: KernelHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert host.handle({"what": "create", "region": "region0"})["dax"] is None  # nothing happened on a dead tree
    monkeypatch.setattr(dax, "dax_devices", lambda files, name, _seen=[["dax0.0"], ["dax0.0", "dax0.1"]]: _seen.pop(0))
    said = host.handle({"what": "create", "region": "region0"})
    assert said["dax"] == "dax0.1"
    assert (tmp_path / CXL / "dax_region0/dax_region/create").read_text() == "1\n"


def test_memory_blocks_wholly_inside_the_mappings_are_onlined(tmp_path: Path) -> None:
    host = stand(tmp_path, TAGGED)
    place = tmp_path / DAX / "dax0.0"
    for number, (start, end) in enumerate(((0x490000000, 0x497FFFFFF), (0x498100000, 0x4A80FFFFF))):
        write(place / f"mapping{number}/start", f"0x{start:x}\n")
        write(place / f"mapping{number}/end", f"0x{end:x}\n")
    (place / "driver").unlink(missing_ok=True)
    with pytest.raises(AskedWrongly, match="not bound to kmem"):
        host.handle({"what": "online", "dax": "dax0.0"})
    (place / "driver").symlink_to("../kmem")
    memory = tmp_path / "sys/devices/system/memory"
    write(memory / "block_size_bytes", "8000000\n")  # hex without 0x, as the kernel prints it
    for number in range(0x490000000 >> 27, (0x4A8000000 >> 27) + 1):
        write(memory / f"memory{number}/state", "offline\n")
    said = host.handle({"what": "online", "dax": "dax0.0", "how": "online_movable"})
    whole = [0x490000000 >> 27, (0x498100000 >> 27) + 1]
    assert [path for path, _ in said["steps"]] == [f"/sys/devices/system/memory/memory{at}/state" for at in whole]
    assert (said["blocks"], said["changed"]) == (2, 2)


# -- bytes -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mapped(host: KernelHost, tmp_path: Path) -> KernelHost:
    """A DAX device of 1 MiB whose bytes are a file."""
    (tmp_path / DAX / "dax0.0/size").write_text(f"{MIB}\n")
    (tmp_path / "dev/dax0.0").write_bytes(bytes(MIB))
    return host


def test_patterns_lie_where_they_were_written_and_nowhere_else(mapped: KernelHost, tmp_path: Path) -> None:
    where = {"dax": "dax0.0", "offset": 64 << 10, "length": 128 << 10, "seed": 7}
    assert mapped.handle({"what": "fill", **where}) == {"pages": 32}
    content = (tmp_path / "dev/dax0.0").read_bytes()
    assert content[64 << 10 : 192 << 10] == b"".join(data.page(7, at) for at in range(16, 48))
    assert not any(content[: 64 << 10]) and not any(content[192 << 10 :])
    assert mapped.handle({"what": "check", **where}) == {"bad": 0, "first": None, "pages": 32}
    assert mapped.handle({"what": "check", **where, "seed": 8}) == {"bad": 32, "first": 64 << 10, "pages": 32}
    mapped.handle({"what": "write", "dax": "dax0.0", "offset": (80 << 10) + 5, "data": "ff00"})
    assert mapped.handle({"what": "check", **where}) == {"bad": 1, "first": 80 << 10, "pages": 32}
    assert mapped.handle({"what": "read", "dax": "dax0.0", "offset": (80 << 10) + 4, "length": 3})["data"][2:] == "ff00"


def test_pages_of_one_pattern_differ_and_seeds_do() -> None:
    pages = {data.page(seed, number) for seed in range(8) for number in range(64)}
    assert len(pages) == 512 and all(len(page) == 4096 for page in pages)


def test_a_mapping_is_kept_until_it_is_let_go(mapped: KernelHost) -> None:
    assert mapped.handle({"what": "map", "dax": "dax0.0"}) == {"length": MIB}
    with pytest.raises(AskedWrongly, match="mapped already"):
        mapped.handle({"what": "map", "dax": "dax0.0"})
    mapped.handle({"what": "fill", "dax": "dax0.0", "offset": 0, "length": 4096, "seed": 1})
    assert mapped.handle({"what": "unmap", "dax": "dax0.0"}) == {}
    with pytest.raises(AskedWrongly, match="not mapped"):
        mapped.handle({"what": "unmap", "dax": "dax0.0"})


def test_capacity_that_is_taken_from_under_a_mapping_ends_the_child_and_not_the_agent(
    mapped: KernelHost, tmp_path: Path
) -> None:
    mapped.handle({"what": "map", "dax": "dax0.0"})
    os.truncate(tmp_path / "dev/dax0.0", 4096)
    said = mapped.handle({"what": "read", "dax": "dax0.0", "offset": 8192, "length": 1})
    assert said["refused"] == {"errno": "SIGBUS", "path": "/dev/dax0.0", "wrote": None}
    mapped.handle({"what": "unmap", "dax": "dax0.0"})


def test_a_device_of_no_size_and_one_without_a_node_are_refused(host: KernelHost, tmp_path: Path) -> None:
    assert host.handle({"what": "map", "dax": "dax0.0"})["refused"]["errno"] == "ENOENT"
    (tmp_path / "dev/dax0.0").write_bytes(b"")
    assert host.handle({"what": "map", "dax": "dax0.0"})["refused"]["errno"] == "EINVAL"


# -- trace and log -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", record.NAMES)
def test_trace_lines_say_what_the_records_own_parser_reads(name: str, tmp_path: Path) -> None:
    session = record.read(name)
    blocks = [item for step in session.steps for item in step.items if isinstance(item, record.Block)]
    expected = [one for block in blocks for one in block.traces]
    host = stand(tmp_path, name)
    lines = trace_lines(name)
    (tmp_path / TRACING / "instances/dcd/trace_pipe").write_text("".join(f"{line}\n" for line in lines))
    events: list[dict[str, Any]] = []
    while True:
        said = host.handle({"what": "trace"})
        events += said["events"]
        if not said["more"]:
            break
    assert said["lost"] == 0 and "why" not in said
    shown = [
        record.Traced(
            one["memdev"], one["type"], one["starting_dpa"], one["length"], bytes.fromhex(one["tag"]),
            one["shared_extent_sequence"], one["handle"],
        )
        for one in events
    ]  # fmt: skip
    assert shown == expected
    assert [one["text"] for one in events] == [line.strip() for line in lines]
    assert all(one["serial"] == 0x1234 and one["host_id"] == 0 for one in events)
    assert (tmp_path / TRACING / "instances/dcd/events/cxl/cxl_dynamic_capacity/enable").read_text() == "1\n"


def test_handles_are_hex_as_the_kernel_prints_them() -> None:
    line = trace_lines("A1_untagged_add")[0].replace("handle=1 ", "handle=1f ")
    found = parse(line)
    assert found is not None and found["handle"] == 0x1F


def test_lost_events_are_told_once(host: KernelHost, tmp_path: Path) -> None:
    pipe = tmp_path / TRACING / "instances/dcd/trace_pipe"
    pipe.write_text(
        "CPU:1 [LOST 3 EVENTS]\n" + trace_lines("A1_untagged_add")[0] + "\nCPU:0 [LOST 4 EVENTS]\nnonsense\n"
    )
    said = host.handle({"what": "trace"})
    assert (len(said["events"]), said["lost"]) == (1, 7)
    assert host.handle({"what": "trace"}) == {"events": [], "lost": 0, "more": False}


def test_a_line_cut_by_the_pipe_is_put_together(host: KernelHost, tmp_path: Path) -> None:
    pipe = tmp_path / TRACING / "instances/dcd/trace_pipe"
    line = trace_lines("B1_tagged_add")[2]
    pipe.write_text(line[:300])
    assert host.handle({"what": "trace"})["events"] == []
    with pipe.open("a") as file:
        file.write(line[300:] + "\n")
    (event,) = host.handle({"what": "trace"})["events"]
    assert event["tag"] == TAG and event["length"] == 0x8000000


@pytest.mark.parametrize("line", ["", "cxl_dynamic_capacity: x", "  1.000000: cxl_general_media: memdev=mem0 handle=1"])
def test_other_lines_are_no_events(line: str) -> None:
    assert parse(line) is None


def test_an_event_whose_fields_are_odd_stays_text() -> None:
    found = parse(
        " x-1 [000] ..... 1.500000: cxl_dynamic_capacity: memdev=mem0 starting_dpa=zz event_type='New kind' tag="
    )
    assert found is not None
    assert (found["starting_dpa"], found["type"], found["handle"], found["tag"]) == ("zz", None, None, None)
    assert (found["event_type"], found["t_ns"]) == ("New kind", 1_500_000_000)


@pytest.mark.parametrize("name", record.NAMES)
def test_log_lines_come_as_they_stand(name: str, tmp_path: Path) -> None:
    session = record.read(name)
    host = stand(tmp_path, name)
    (tmp_path / "dev/kmsg").write_text(kmsg(session))
    lines: list[dict[str, Any]] = []
    while True:
        said = host.handle({"what": "log"})
        lines += said["lines"]
        assert said["alarms"] == [] and said["lost"] == 0
        if not said["more"]:
            break
    blocks = [item for step in session.steps for item in step.items if isinstance(item, record.Block)]
    assert [(one["t_ns"], one["text"]) for one in lines] == [pair for block in blocks for pair in block.lines]


def test_lost_lines_continuations_and_escapes(host: KernelHost, tmp_path: Path) -> None:
    text = "6,10,100,-;first\\x0a\\x09second\n SUBSYSTEM=cxl\n DEVICE=+cxl:mem0\nrubbish\n6,15,200,-,caller=T1;third\n"
    (tmp_path / "dev/kmsg").write_text(text)
    said = host.handle({"what": "log"})
    assert [one["text"] for one in said["lines"]] == ["first", "\tsecond", "third"]
    assert said["lost"] == 4


ALARMS = {
    "WARNING: CPU: 0 PID: 57 at drivers/cxl/core/mbox.c:454 cxl_send_cmd+0x153/0x4f8": "WARN",
    "WARNING: drivers/cxl/core/mbox.c:454 at cxl_send_cmd+0x153/0x4f8, CPU#1: python3/57": "WARN",
    "BUG: kernel NULL pointer dereference, address: 0000000000000008": "BUG",
    "kernel BUG at drivers/dax/bus.c:120!": "BUG",
    "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [kworker/0:1:10]": "BUG",
    "Oops: Oops: 0000 [#1] SMP NOPTI": "Oops",
    "Oops: general protection fault, probably for non-canonical address": "Oops",
    "WARNING: possible circular locking dependency detected": "lockdep",
    "WARNING: possible recursive locking detected": "lockdep",
    "WARNING: suspicious RCU usage": "lockdep",
    "BUG: KASAN: slab-use-after-free in cxl_dax_region_rm+0x1/0x2": "KASAN",
    "INFO: task kworker/1:2:33 blocked for more than 20 seconds.": "hung-task",
    "rcu: INFO: rcu_preempt self-detected stall on CPU": "RCU-stall",
    "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:": "RCU-stall",
    "Kernel panic - not syncing: Fatal exception": "panic",
}


@pytest.mark.parametrize(("text", "kind"), ALARMS.items())
def test_alarms_are_told_apart(text: str, kind: str) -> None:
    """By the one table that the judge has too."""
    assert alarm(text) == kind
    assert [one.kind for one in alarms_of([{"t_ns": 1, "text": text}])] == [kind]


def test_alarms_are_verdicts_of_their_own(host: KernelHost, tmp_path: Path) -> None:
    (tmp_path / "dev/kmsg").write_text(
        "".join(f"4,{at},1500,-;{text}\n6,{at},1500,-;x\n" for at, text in enumerate(ALARMS))
    )
    said = host.handle({"what": "log"})
    assert said["alarms"] == [{"kind": kind, "t_ns": 1_500_000, "text": text} for text, kind in ALARMS.items()]
    assert len(said["lines"]) == 2 * len(ALARMS)


@pytest.mark.parametrize(
    "text",
    [
        "Booting paravirtualized kernel",
        "rcu: Hierarchical RCU implementation.",
        "Warning: unable to open an initial console",
        "cxl_pci 0000:0d:00.0: DCD event add : DPA:0x0 LEN:0x8000000",
        "debug: bugs worked around",
    ],
)
def test_ordinary_lines_are_no_alarms(text: str) -> None:
    assert alarm(text) is None


def test_the_warning_of_a_raw_command_is_the_agents_own(host: KernelHost, tmp_path: Path) -> None:
    line = "4,7,1500,-;WARNING: drivers/cxl/core/mbox.c:454 at cxl_send_cmd+0x153/0x4f8, CPU#1: python3/57\n"
    (tmp_path / "dev/kmsg").write_text(line)
    write(tmp_path / "dev/cxl/mem0", "")
    said = host.handle({"what": "cxl", "serial": 0x1234, "opcode": 0x4801, "payload": "00" * 8})
    assert said["refused"] == {"errno": "ENOTTY", "path": "/dev/cxl/mem0", "wrote": "4801h"}
    said = host.handle({"what": "log"})
    assert len(said["lines"]) == 1 and said["alarms"] == []


def test_quiet_ends_when_two_looks_brought_nothing(host: KernelHost, tmp_path: Path) -> None:
    (tmp_path / "dev/kmsg").write_text(kmsg(record.read("A0_region_create")))
    said = host.handle({"what": "quiet", "timeout_s": 5})
    assert said["quiet"] is True and said["waited_s"] < 1
    assert len(host.handle({"what": "log"})["lines"]) == 3  # nothing was eaten


def test_quiet_gives_up_at_its_time_out(host: KernelHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.log, "turn", lambda: 1)
    said = host.handle({"what": "quiet", "timeout_s": 0.1})
    assert said["quiet"] is False and 0.1 <= said["waited_s"] < 1


def test_no_log_and_no_trace_are_told(tmp_path: Path) -> None:
    host = KernelHost(str(tmp_path))
    assert "cannot be read" in host.handle({"what": "log"})["why"]
    assert "no event" in host.handle({"what": "trace"})["why"]


# -- modules -----------------------------------------------------------------------------------------------------------


def test_drivers_that_are_there_are_built_in_and_others_are_absent(host: KernelHost, tmp_path: Path) -> None:
    write(tmp_path / "sys/module/cxl_pci/initstate", "live\n")
    said = host.handle({"what": "modules"})
    assert said["loaded"] == ["cxl_pci"] and said["builtin"] == ["dax_cxl", "device_dax", "kmem"]
    assert said["absent"] == ["cxl_acpi", "cxl_mem", "cxl_port"] and said["failed"] == {}


def test_modules_are_found_with_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path)
    home = tmp_path / "lib/modules/7.2.12-recorded"
    for name in ("a/first.ko", "b/cxl-second.ko", "third.ko.xz"):
        write(home / name, "")
    (home / "b/cxl-second.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=first,third\0name=x\0")
    inserted: list[str] = []

    def insert(self: modules.Modules, path: str) -> str | None:
        inserted.append(path.rpartition("/")[2])
        return "ENOEXEC" if "third" in path else None

    monkeypatch.setattr(modules.Modules, "_insert", insert)
    said = modules.Modules(Files(str(tmp_path))).load({"names": ["cxl-second"]})
    assert inserted == ["first.ko", "third.ko.xz", "cxl-second.ko"]
    assert said["loaded"] == ["first", "cxl_second"] and said["failed"] == {"third": "ENOEXEC"}
    write(home / "modules.dep", "b/cxl-second.ko: third.ko.xz a/first.ko\na/first.ko:\nthird.ko.xz:\n")
    inserted.clear()
    modules.Modules(Files(str(tmp_path))).load({"names": ["cxl_second"]})
    assert inserted == ["first.ko", "third.ko.xz", "cxl-second.ko"]


def test_unload_tells_what_is_not_there(host: KernelHost) -> None:
    assert host.handle({"what": "unload", "names": ["kmem"]}) == {"unloaded": [], "absent": ["kmem"], "failed": {}}


# -- requests ----------------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "what 'None' is not known; there is survey"),
    ({"what": ["survey"]}, "is not known"),
    ({"what": "nonsense"}, "is not known"),
    ({"what": "sight"}, "give its name as sysfs shows it"),
    ({"what": "sight", "region": "../../etc"}, "give its name"),
    ({"what": "sight", "region": "region0/x"}, "give its name"),
    ({"what": "sight", "region": ".."}, "give its name"),
    ({"what": "region", "serial": 1, "size": 1}, "the kernel has mem0 (4660)"),
    ({"what": "region", "serial": True, "size": 1}, "the kernel has mem0 (4660)"),
    ({"what": "region", "memdev": "mem9"}, "the kernel has mem0"),
    ({"what": "region", "serial": 0x1234, "size": -1}, "give bytes"),
    ({"what": "region", "serial": 0x1234, "size": "1G"}, "give bytes"),
    ({"what": "region", "serial": 0x1234, "size": 1 << 63}, "give bytes"),
    ({"what": "region", "serial": 0x1234, "mode": "ram"}, "give bytes"),
    ({"what": "region", "serial": 0x1234, "mode": "../x", "size": 1}, "give its name"),
    ({"what": "region", "serial": 0x1234, "size": 1 << 28}, "no endpoint decoder that is free"),
    ({"what": "region_destroy", "region": "region5"}, "there is region0"),
    ({"what": "create", "region": "region5"}, "has no dax region"),
    ({"what": "claim", "dax": "dax9.9", "tag": "0"}, "there is dax0.0"),
    ({"what": "claim", "dax": "dax0.0", "tag": None}, "give 32 hex digits"),
    ({"what": "claim", "dax": "dax0.0", "tag": "x" * 257}, "give 32 hex digits"),
    ({"what": "claim", "dax": "dax0.0", "tag": "a\0"}, "give 32 hex digits"),
    ({"what": "resize", "dax": "dax0.0", "size": -1}, "give bytes"),
    ({"what": "resize", "dax": "dax0.0", "size": 1.5}, "give bytes"),
    ({"what": "bind", "dax": "dax0.0", "driver": "../x"}, "there is device_dax, kmem"),
    ({"what": "online", "dax": "dax0.0", "how": "now"}, "there is online"),
    ({"what": "read", "dax": "dax0.0", "offset": -1, "length": 1}, "give 0 and more"),
    ({"what": "read", "dax": "dax0.0", "offset": 0, "length": 1 << 20}, "1 to 12288 bytes"),
    ({"what": "write", "dax": "dax0.0", "offset": 0, "data": "zz"}, "1 to 12288 bytes"),
    ({"what": "fill", "dax": "dax0.0", "offset": 1, "length": 4096, "seed": 0}, "whole pages"),
    ({"what": "fill", "dax": "dax0.0", "offset": 0, "length": 4096, "seed": -1}, "whole pages"),
    ({"what": "modules", "names": "cxl_pci"}, "give a list"),
    ({"what": "modules", "names": ["../../x"]}, "give its name"),
    ({"what": "modules", "names": ["x"] * 65}, "1 to 64"),
    ({"what": "unload"}, "give a list"),
    ({"what": "quiet", "timeout_s": 31}, "0 to 30"),
    ({"what": "quiet", "timeout_s": True}, "0 to 30"),
    ({"what": "cxl", "serial": 0x1234, "opcode": 1 << 16}, "16 bits"),
    ({"what": "cxl", "serial": 0x1234, "opcode": 1, "payload": "0"}, "hex digits"),
    ({"what": "revive", "serial": 5}, "the kernel has mem0"),
]


def content(root: Path) -> dict[str, bytes]:
    """Every file of a tree."""
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file() and not path.is_symlink()}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """One tree for all, as nothing is to be written."""
    root = tmp_path_factory.mktemp("kept")
    stand(root)
    return root, content(root)


@pytest.mark.parametrize(("request_", "told"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_asked_wrongly_is_told_and_nothing_is_written(
    kept: tuple[Path, dict[str, bytes]], request_: dict[str, Any], told: str
) -> None:
    root, before = kept
    with pytest.raises(AskedWrongly) as error:
        KernelHost(str(root)).handle(request_)
    assert told in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500
    assert content(root) == before


def test_no_two_windows_are_guessed_between(tmp_path: Path) -> None:
    host = unmade(tmp_path)
    write(tmp_path / CXL / "decoder0.1/devtype", "cxl_decoder_root\n")
    with pytest.raises(AskedWrongly, match='name one as "root"'):
        host.handle({"what": "region", "serial": 0x1234})
    said = host.handle({"what": "region", "serial": 0x1234, "root": "decoder0.0"})
    assert said["region"] == "region0"


def test_names_sort_as_people_count() -> None:
    assert sorted(["a10", "a9", "b1", "a", "a10.2", "a10.10"], key=natural) == [
        "a",
        "a9",
        "a10",
        "a10.2",
        "a10.10",
        "b1",
    ]


class Port:
    """What `Control` says, kept."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def put(self, kind: int, body: bytes) -> None:
        self.said.append(json.loads(body))


def test_requests_come_over_the_link(host: KernelHost) -> None:
    port = Port()
    control = Control(port, {}, "", host)  # type: ignore[arg-type]  # nothing else of a port is used here
    control.handle(b'{"id": 4, "do": "kernel", "what": "sight", "region": "region0"}')
    control.handle(b'{"id": 5, "do": "kernel", "what": "map", "dax": "dax0.0"}')
    control.handle(b'{"id": 6, "do": "kernel", "what": "map"}')
    assert [(one["id"], one["ok"]) for one in port.said] == [(4, True), (5, True), (6, False)]
    assert port.said[0]["sight"]["region"] == "region0" and port.said[1]["refused"]["errno"] == "ENOENT"
    assert port.said[2]["kind"] == "AskedWrongly"


def test_host_u_has_no_kernel_to_ask() -> None:
    port = Port()
    Control(port, {}).handle(b'{"id": 1, "do": "kernel", "what": "survey"}')  # type: ignore[arg-type]
    assert port.said[0]["ok"] is False and "boot with --kernel" in port.said[0]["error"]


def test_the_kernel_host_is_chosen_at_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.parse(["--kernel"]).kernel is True and program.parse([]).kernel is False
    monkeypatch.setenv("DCD_AGENT_KERNEL", "1")
    assert program.parse([]).kernel is True
    with pytest.raises(SystemExit) as error:
        program.parse(["--unbind"])
    assert error.value.code == 2 and "give one of them" in capsys.readouterr().err


def test_ready_of_a_kernel_host_holds_the_survey_and_takes_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand(tmp_path)

    def taken(*_: object, **__: object) -> None:
        raise AssertionError("a device was taken")

    monkeypatch.setattr(device, "take", taken)
    port = Port()
    program.Agent(program.parse(["--kernel", "--root", str(tmp_path)]), port)  # type: ignore[arg-type]
    ready = port.said[0]["ready"]
    assert (ready["host"], ready["devices"], ready["window"]) == ("kernel", [], None)
    assert ready["survey"]["generation"]["found"] == "v11" and "modules" in ready["survey"]
    assert (tmp_path / "proc/dynamic_debug/control").read_text() == "file drivers/dax/* +p\n"


def test_host_u_does_not_import_the_kernel_host() -> None:
    code = "import sys; from dcdbackend.agent import __main__; print([m for m in sys.modules if 'agent.kernel' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_revive_needs_the_dvsec(host: KernelHost) -> None:
    assert host.handle({"what": "revive"})["revived"] == []  # no PCI function in a recorded tree
    with pytest.raises(DcdError):
        host.handle({"what": "revive", "memdev": "mem7"})
    assert issubclass(CannotRun, DcdError)


def test_the_kernels_own_name_is_given_where_an_errno_has_two() -> None:
    assert error_name(OSError(errno.EOPNOTSUPP, "")) == "EOPNOTSUPP"
    assert error_name(OSError(errno.EBUSY, "")) == "EBUSY" and error_name(OSError(9999, "")) == "E9999"


def test_a_region_that_has_its_driver_is_not_bound_again(host: KernelHost) -> None:
    assert host.handle({"what": "region_bind", "region": "region0"})["steps"] == []


def test_drains_are_bounded_and_say_so(host: KernelHost, tmp_path: Path) -> None:
    line = trace_lines("A1_untagged_add")[0]
    (tmp_path / TRACING / "instances/dcd/trace_pipe").write_text(f"{line}\n" * 90)
    (tmp_path / "dev/kmsg").write_text("".join(f"6,{number},1,-;line\n" for number in range(450)))
    sizes = []
    for what, key in (("trace", "events"), ("log", "lines")):
        while True:
            said = host.handle({"what": what})
            sizes.append(len(said[key]))
            if not said["more"]:
                break
    assert sizes == [MOST_EVENTS, MOST_EVENTS, 90 - 2 * MOST_EVENTS, MOST_LINES, MOST_LINES, 450 - 2 * MOST_LINES]


@pytest.mark.parametrize("what", ["read", "check"])
def test_nothing_past_the_end_of_a_device_is_touched(mapped: KernelHost, what: str) -> None:
    with pytest.raises(AskedWrongly, match="has 1048576 bytes; asked was up to 1052672"):
        mapped.handle({"what": what, "dax": "dax0.0", "offset": MIB, "length": 4096, "seed": 0})
