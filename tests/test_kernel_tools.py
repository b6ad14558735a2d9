"""`cxl list` and `daxctl list` as one more witness: run within bounds, read, and held against sysfs (WITNESS.tools).

The tools here are scripts that print what the real ones (version 81) printed in a guest, and what none should; the real
ones run in vm/test_kernel_tools_vm.py.
"""

from __future__ import annotations

import copy
import json
import os
import re
import time
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import jsonschema
import kernel_record as record
import pytest
from kernel_tree import CXL, DAX, stages, write
from test_agent_kernel_watch import Play, own_instance
from test_kernel_scenarios import run as run_scenarios

from dcdbackend.agent.kernel import tool
from dcdbackend.agent.kernel.files import Files
from dcdbackend.agent.kernel.host import KernelHost
from dcdbackend.agent.kernel.tool import LISTS, Tools
from dcdbackend.checker import shape
from dcdbackend.checker.tool import CLAUSE, compared
from dcdbackend.errors import AnsweredWrongly
from dcdbackend.history import Op
from dcdbackend.kernel import agent
from dcdbackend.kernel.simulated import SimulatedKernel
from dcdbackend.scenario import SCENARIOS

__all__ = ["own_instance"]

HPA, MIB = 0x490000000, 1 << 20
CXL_81 = """[
  {"memdevs":[{"memdev":"mem0","serial":4660,"host":"0000:0d:00.0"}]},
  {"root decoders":[{"decoder":"decoder0.0","resource":19595788288,"size":4294967296,"nr_targets":1,
    "regions:decoder0.0":[{"region":"region0","resource":19595788288,"size":1073741824,"type":"ram",
      "interleave_ways":1,"interleave_granularity":256,"decode_state":"commit","qos_class_mismatch":true}]}]},
  {"port decoders":[{"decoder":"decoder1.0","resource":19595788288,"size":1073741824,"region":"region0"}]},
  {"endpoint decoders":[{"decoder":"decoder2.0","resource":19595788288,"size":1073741824,"interleave_ways":1,
    "region":"region0","dpa_resource":0,"dpa_size":1073741824,"mode":"mixed"}]}
]"""
DAXCTL_81 = """[
  {"chardev":"dax0.0","size":234881024,"target_node":1,"align":2097152,"mode":"devdax","mappings":[
    {"page_offset":49152,"start":19864223744,"end":19897778175,"size":33554432},
    {"page_offset":32768,"start":19595788288,"end":19662897151,"size":67108864},
    {"page_offset":0,"start":20132659200,"end":20266876927,"size":134217728}]},
  {"chardev":"dax7.0","size":4096,"target_node":1,"mode":"devdax"}
]"""


def script(root: Path, name: str, text: str) -> str:
    """A tool that is a script."""
    path = root / "tools" / name
    write(path, f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def printing(root: Path, name: str, shown: str) -> str:
    """A tool that prints this, where it is asked as it should be."""
    write(root / "tools" / f"{name}.json", shown)
    return script(root, name, f'[ "$*" = "{" ".join(LISTS[name])}" ] || exit 129\nexec cat {root}/tools/{name}.json')


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three extents of one tag, one DAX device over them that device_dax has; target nodes are in no record's tree."""
    for _ in stages(tmp_path, record.read("A0_region_create")):
        pass
    for _ in stages(tmp_path, record.read("B2_tagged_chain")):
        if (tmp_path / DAX / "dax0.0/mapping2").exists():
            break
    write(tmp_path / DAX / "dax0.0/target_node", "1\n")
    (tmp_path / DAX / "dax0.0/driver").unlink(missing_ok=True)
    (tmp_path / DAX / "dax0.0/driver").symlink_to("../../drivers/device_dax")
    write(tmp_path / CXL / "region0/target0", "decoder2.0\n")
    return tmp_path


def asked(root: Path, **shown: str) -> list[dict[str, Any]]:
    """What a look at region0 brings of tools that print this."""
    paths = {name: printing(root, name, text) for name, text in shown.items()}
    return Tools(Files(str(root)), paths).look("region0")


def text_of(tools: list[dict[str, Any]]) -> str:
    """The one finding of a comparison."""
    held, (found,) = compared(tools)
    assert held == () and (found.clause, found.subject, found.outcome) == (CLAUSE, "witness", "fail")
    return found.text


# -- what is shown, and compared ---------------------------------------------------------------------------------------


def test_both_show_what_sysfs_shows(tree: Path) -> None:
    cxl, daxctl = asked(tree, cxl=CXL_81, daxctl=DAXCTL_81)
    assert cxl["shows"] == {
        "region0": {"size": 1 << 30, "start": HPA},
        "decoder2.0": {"dpa_start": 0, "dpa_size": 1 << 30},
    }
    assert cxl["sysfs"] == cxl["shows"]
    mappings = [
        [HPA, HPA + 64 * MIB - 1, 32768],
        [HPA + 256 * MIB, HPA + 288 * MIB - 1, 49152],
        [HPA + 512 * MIB, HPA + 640 * MIB - 1, 0],
    ]
    assert daxctl["shows"] == {
        "dax0.0": {"size": 224 * MIB, "target_node": 1, "driver": "device_dax", "mappings": mappings}
    }
    assert daxctl["sysfs"] == daxctl["shows"]
    assert compared([cxl, daxctl]) == ((CLAUSE,), ())


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("cxl", '"size":1073741824,"type"', '"size":536870912,"type"',
         "cxl list shows size 0x20000000 of region0, sysfs 0x40000000"),
        ("cxl", '"region":"region0","resource":19595788288', '"region":"region0","resource":19595788289',
         "cxl list shows start 0x490000001 of region0, sysfs 0x490000000"),
        ("cxl", '"dpa_resource":0', '"dpa_resource":2097152',
         "cxl list shows dpa_start 0x200000 of decoder2.0, sysfs 0"),
        ("daxctl", "234881024", "4096", "daxctl list shows size 4096 of dax0.0, sysfs 0xe000000"),
        ("daxctl", '"target_node":1,"align"', '"target_node":2,"align"',
         "daxctl list shows target_node 2 of dax0.0, sysfs 1"),
        ("daxctl", '"mode":"devdax","mappings"', '"mode":"system-ram","mappings"',
         "daxctl list shows driver kmem of dax0.0, sysfs device_dax"),
        ("daxctl", '"mode":"devdax","mappings"', '"mode":"devdax","state":"disabled","mappings"',
         "daxctl list shows driver none of dax0.0, sysfs device_dax"),
        ("daxctl", '"page_offset":49152', '"page_offset":0',
         "daxctl list shows mappings 0x490000000-0x493ffffff at page 32768, 0x4a0000000-0x4a1ffffff at page 0, 0x4b"),
        ("daxctl", "dax7.0", "dax0.3", "daxctl list shows dax0.3, sysfs has none"),
    ],
)  # fmt: skip
def test_what_differs_is_told_by_the_witnesses_names(tree: Path, name: str, old: str, new: str, told: str) -> None:
    right = {"cxl": CXL_81, "daxctl": DAXCTL_81}
    assert old in right[name]
    text = text_of(asked(tree, **{name: right[name].replace(old, new)}))
    assert text.startswith(told), text


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "[]",
        "{}",
        "null",
        '[{"chardev":"dax0.0"}]',
        '[{"chardev":"dax0.0","mode":"famfs","size":"many","mappings":[{"start":1}],"target_node":-1}]',
        '[{"chardev":17,"size":1},{"chardev":"dax01.0","size":1},{"region":"region0","size":1}]',
    ],
)
def test_a_tool_is_not_convicted_of_what_it_does_not_show(tree: Path, shown: str) -> None:
    tools = asked(tree, daxctl=shown)
    assert compared(tools) == ((), ()) and "failed" not in tools[0], tools


def test_what_changes_while_a_tool_runs_is_left_out(tree: Path) -> None:
    path = printing(tree, "daxctl", DAXCTL_81.replace("234881024", "0"))
    write(Path(path), f"{Path(path).read_text().replace('exec ', '')}\necho 0 > {tree}/{DAX}/dax0.0/size\n")
    (found,) = Tools(Files(str(tree)), {"daxctl": path}).look("region0")
    assert "size" not in found["sysfs"]["dax0.0"] and found["sysfs"]["dax0.0"]["driver"] == "device_dax"
    assert compared([found]) == ((CLAUSE,), ())


def test_no_tool_is_no_witness(tree: Path) -> None:
    assert "tools" not in KernelHost(str(tree)).handle({"what": "sight", "region": "region0"})
    assert Tools(Files(str(tree)), {}).look("region0") == [] and compared([]) == ((), ())


def test_nothing_of_another_root_is_run(tree: Path) -> None:
    write(tree / "usr/bin/daxctl", "#!/bin/sh\necho '[]'\n")
    (tree / "usr/bin/daxctl").chmod(0o755)
    assert KernelHost(str(tree)).handle({"what": "survey"})["tools"]["daxctl"] == "/usr/bin/daxctl"
    assert Tools(Files(str(tree))).look("region0") == []


# -- tools that do what none should ------------------------------------------------------------------------------------


def test_a_tool_that_hangs_is_killed_and_not_asked_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "PATIENCE_S", 0.2)
    monkeypatch.setattr(tool.run, "__defaults__", (0.2,))
    path = script(tree, "cxl", f"echo $$ > {tree}/pid\nsleep 60 &\nwait")
    tools = Tools(Files(str(tree)), {"cxl": path, "daxctl": printing(tree, "daxctl", DAXCTL_81)})
    began = time.monotonic()
    first, second = tools.look("region0"), tools.look("region0")
    assert time.monotonic() - began < 2.0
    assert first[0] == {"tool": "cxl", "failed": "it did not end within 0.2 s, and was killed; it is not asked again"}
    assert [one["tool"] for one in first] == ["cxl", "daxctl"] and [one["tool"] for one in second] == ["daxctl"]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tree / "pid").read_text()), 0)


def test_a_tool_that_floods_is_killed(tree: Path) -> None:
    path = script(tree, "cxl", 'exec yes \'[{"region":"region0"},\'')
    (found,) = Tools(Files(str(tree)), {"cxl": path}).look("region0")
    assert found == {"tool": "cxl", "failed": "it printed more than 1048576 bytes"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("echo 'no dax devices' >&2; exit 1", "exit 1: 'no dax devices'"),
        ("echo '[]'; kill -SEGV $$", "signal 11: ''"),
        ("echo Usage: cxl list", "it printed no JSON: 'Usage: cxl list"),
        ("head -c 300000 /dev/zero | tr '\\0' '['", "it printed no JSON: '[[[[["),
        ("head -c 100 /dev/urandom", "it printed no JSON: "),
    ],
)
def test_a_tool_that_fails_is_told_and_convicts_nobody(tree: Path, text: str, told: str) -> None:
    (found,) = Tools(Files(str(tree)), {"cxl": script(tree, "cxl", text)}).look("region0")
    assert found["tool"] == "cxl" and found["failed"].startswith(told) and len(found["failed"]) < 400
    assert compared([found]) == ((), ())


def test_a_tool_that_cannot_be_started_is_told(tree: Path) -> None:
    write(tree / "tools/cxl", "")
    (found,) = Tools(Files(str(tree)), {"cxl": f"{tree}/tools/cxl"}).look("region0")
    assert found["failed"].endswith("does not start: Permission denied")


# -- on the way to a verdict -------------------------------------------------------------------------------------------


def test_what_the_agent_says_is_what_a_history_takes(tree: Path) -> None:
    host = KernelHost(str(tree))
    paths = {"cxl": script(tree, "cxl", "exit 3"), "daxctl": printing(tree, "daxctl", DAXCTL_81)}
    host.tools = Tools(host.files, paths)
    said = host.handle({"what": "sight", "region": "region0"})["tools"]
    tools = [agent._tool(one) for one in json.loads(json.dumps(said))]
    assert tools == said
    definitions = json.loads(resources("dcdbackend").joinpath("history.schema.json").read_text())
    schema = jsonschema.Draft202012Validator({"$defs": definitions["$defs"], "$ref": "#/$defs/sight"})
    schema.validate({"region": "region0", "tools": tools})
    for spoilt in ({"tool": "cxl"}, {"tool": "lsmem", "failed": ""}, {**tools[1], "sysfs": {"dax0.0": {"size": 1.5}}}):
        with pytest.raises(jsonschema.ValidationError):
            schema.validate({"region": "region0", "tools": [spoilt]})


@pytest.mark.parametrize(
    "spoilt",
    [
        {"tool": "cxl", "shows": {}},
        {"tool": "cxl", "shows": [], "sysfs": {}},
        {"tool": "cxl", "shows": {"region0": 3}, "sysfs": {}},
        {"tool": "cxl", "shows": {"region0": {"size": -1}}, "sysfs": {}},
        {"tool": "cxl", "shows": {"dax0.0": {"mappings": [[1, 2]]}}, "sysfs": {}},
    ],
)
def test_a_guest_that_says_something_else_is_told(spoilt: dict[str, Any]) -> None:
    with pytest.raises(AnsweredWrongly):
        agent._tool(spoilt)
    op = Op(2, 1, "witness", "ok", "sysfs", 0, {"region": "region0", "tools": [spoilt]})
    assert "which it cannot be" in str(shape.odd(op))


def agreeing(root: Path, monkeypatch: pytest.MonkeyPatch, **changed: int) -> None:
    """A simulated kernel whose sights have a daxctl that shows the same, but for what is changed."""
    right = SimulatedKernel.sight

    async def sight(self: SimulatedKernel, region: str) -> dict[str, Any]:
        said = await right(self, region)
        sysfs = {one["name"]: {"size": one["size"], "mappings": one["mappings"]} for one in said["devices"]}
        shows = copy.deepcopy(sysfs)
        for one in shows.values():
            if one["size"]:
                one |= changed
        failed = {"tool": "cxl", "failed": "exit 1: ''"}
        return {**said, "tools": [failed, {"tool": "daxctl", "shows": shows, "sysfs": sysfs}]}

    monkeypatch.setattr(SimulatedKernel, "sight", sight)


async def test_the_verdict_says_that_they_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agreeing(tmp_path, monkeypatch)
    (result,) = await run_scenarios(tmp_path, "v11", [SCENARIOS["data-through-dax"]])
    assert result.outcome == "pass" and result.verdict is not None and result.verdict.of(CLAUSE).passed >= 3


async def test_the_verdict_names_who_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agreeing(tmp_path, monkeypatch, size=7 * MIB)
    (result,) = await run_scenarios(tmp_path, "v11", [SCENARIOS["data-through-dax"]])
    assert result.outcome == "fail" and result.verdict is not None
    (found, *_) = result.verdict.failed
    assert (found.clause, found.subject) == (CLAUSE, "witness")
    assert "daxctl list shows size 0x700000 of dax0.0, sysfs 0x4000000" in found.text
    assert {one.clause for one in result.verdict.failed} == {CLAUSE}


@pytest.mark.parametrize(("size", "status"), [(128 * MIB, 0), (64 * MIB, 1)])
def test_watch_asks_the_tools(tmp_path: Path, size: int, status: int) -> None:
    play = Play(tmp_path, "A1_untagged_add", until="claim")
    shown = json.dumps([{"chardev": "dax0.0", "size": size}])
    paths = {"cxl": script(tmp_path, "cxl", "exit 3"), "daxctl": printing(tmp_path, "daxctl", shown)}
    play.all()
    play.watcher.tools = Tools(play.watcher.files, paths)
    for _ in range(2):
        play.watcher.turn(always=True)
    assert play.watcher.verdict() == status, play.text
    assert play.text.count("note: cxl list: exit 3") == 1
    if status:
        assert re.search(
            r"BROKEN +mem0 WITNESS.tools: daxctl list shows size 0x4000000 of dax0.0, sysfs 0x8", play.text
        )
    else:
        assert re.search(r"WITNESS.tools +2 pass", play.text)
