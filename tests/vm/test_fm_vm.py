"""The fabric manager's way in on the real thing: what it reads, what it injects, what it witnesses, and its end.

One guest with two devices under a switch serves all tests; host U serves the devices beside it all the while. The last
test takes the switch's mailbox away.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import pytest_asyncio

from dcdbackend.bench import Span
from dcdbackend.boot import BootedGuest, Setup, speaks_fm
from dcdbackend.checker.explain import tell
from dcdbackend.errors import AskedWrongly, CannotRun, Refused
from dcdbackend.fabric import Fabric
from dcdbackend.fm import FmRefused, SwitchGone, TunnelRefused, policy_names
from dcdbackend.history import Op, Writer
from dcdbackend.session import Session
from dcdbackend.supervisor import connect
from dcdbackend.supervisor.held import Held
from dcdbackend.supervisor.place import Place
from dcdbackend.supervisor.server import Server
from dcdbackend.units import MIB
from dcdbackend.wire.dcd import WireExtent
from dcdbackend.wire.fmapi import (
    CciMessage,
    ComponentType,
    FmOpcode,
    InitiateDcAdd,
    PortConfiguration,
    RemovalPolicy,
    SelectionPolicy,
    TunnelRequest,
)

pytestmark = [pytest.mark.vm, pytest.mark.asyncio(loop_scope="module")]

TAG = "5a" * 16
NUMBER = itertools.count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BootedGuest]:
    if not speaks_fm(setup.qemu):
        pytest.skip(f"QEMU {setup.qemu.version} serves no fabric manager")
    switched = replace(setup, kind="switch")
    shape = switched.topology({"devices": 2, "size": "512M"})
    async with switched.guest(shape, tmp_path_factory.mktemp("fm") / "guest") as found:
        yield found


@contextmanager
def session(guest: BootedGuest) -> Iterator[Session]:
    """A history of its own, and a session on it; whoever uses it leaves the devices holding nothing."""
    path = guest.run_dir / f"history-{next(NUMBER)}.jsonl"
    with Writer(path, guest.header("fm", 1), time.monotonic_ns) as writer:
        guest.begin(writer)
        try:
            yield guest.session(writer)
        finally:
            guest.end()


@asynccontextmanager
async def settled(guest: BootedGuest) -> AsyncIterator[Session]:
    with session(guest) as bench:
        yield bench
        await bench.settle()


async def test_the_switch_says_who_it_is_and_who_is_below(guest: BootedGuest) -> None:
    fabric = Fabric(guest)
    manager = await fabric.manager()
    assert manager.payload_bytes == 2048
    assert (await manager.identify()).component_type == ComponentType.SWITCH
    assert (await manager.identify_switch()).physical_port_count == 3
    states = {port.port_id: port.configuration_state & 0xF for port in await manager.ports((0, 1, 2))}
    assert states == {0: PortConfiguration.UPSTREAM, 1: PortConfiguration.DOWNSTREAM, 2: PortConfiguration.DOWNSTREAM}
    found = await manager.find()
    assert {serial: device.port for serial, device in found.items()} == {
        device.serial: number for number, device in enumerate(guest.shape.devices, 1)
    }


async def test_what_the_device_says_by_each_way_in_is_the_same(guest: BootedGuest) -> None:
    fabric = Fabric(guest)
    for described in guest.devices():
        device = await fabric.device(described["name"])
        info = await device.info()
        assert info.region_count == len(described["regions"]) and info.total_capacity_bytes == 512 * MIB
        assert info.selection_policies == 1 << policy_names(SelectionPolicy)["prescriptive"]
        assert info.removal_policies == 1 << policy_names(RemovalPolicy)["prescriptive"]
        assert described["selection_policies"] == described["removal_policies"] == ["prescriptive"]
        for region, shown in zip(await device.regions(), described["regions"], strict=True):
            assert (region.base, region.length, region.block_size, region.decode_length_bytes) == (
                shown["base"],
                shown["length"],
                shown["block_size"],
                shown["decode_length"],
            )
        config = await device.config()
        assert (config.supported_extents, config.supported_tags) == (described["supported_extents"], 0)
        part = await device.config(count=1, start=1)
        assert [region.base for region in part.regions] == [described["regions"][1]["base"]]


async def test_wrong_ports_and_bytes_that_lie_are_typed_errors(guest: BootedGuest) -> None:
    manager = await Fabric(guest).manager()
    for port in (0, 9, 255):
        with pytest.raises(TunnelRefused, match=f"port {port}") as refused:
            await manager.tunnel(port, 0x5600)
        assert refused.value.rc == 2 and refused.value.sent
    with pytest.raises(FmRefused, match="to 5101h"):
        await manager.ports([9])
    with pytest.raises(FmRefused, match=r"to 56ffh, gave Unsupported \(03h\)"):
        await manager.tunnel(1, 0x56FF)
    whole = TunnelRequest(message=CciMessage(opcode=1), port=1).to_bytes()
    codes = {(await manager.raw(0x5300, whole[:size])).rc for size in range(len(whole))}
    assert codes == {0x16}
    assert (await manager.raw(0x5300, whole[:2] + b"\xff\xff" + whole[4:])).rc == 0x16
    assert (await manager.raw(0x5300, whole)).rc == 0
    with pytest.raises(AskedWrongly, match="takes 16 bits and 2048 bytes"):
        await manager.raw(0x0001, bytes(2049))
    assert (await manager.identify()).component_type == ComponentType.SWITCH


async def test_tags_reach_the_host_while_host_u_serves_both_devices(guest: BootedGuest) -> None:
    async with settled(guest) as bench:
        await bench.policy("late", delay_s=1.0, device="mem1")
        offer = await bench.add(["0+2M", "4M+2M"], tag=TAG, device="mem1")
        assert [record["tag"] for record in await bench.records(device="mem1")] == [TAG, TAG]
        beside = await (await bench.add(["0+4M"], via="qmp")).answer()
        assert beside.outcome == "accepted"
        assert (await offer.answer()).outcome == "accepted"
        assert len(await bench.fm_extents(device="mem1")) == 2
        assert [one["length"] for one in await bench.fm_extents()] == [4 * MIB]
        verdict = await bench.verdict()
    assert not verdict.failed
    for clause in ("DEV-4.tag", "DEV-4.sequence", "WITNESS.lists"):
        assert verdict.of(clause, device="mem1").passed, clause


async def test_what_is_not_served_is_told_before_anything_is_sent(guest: BootedGuest) -> None:
    async with settled(guest) as bench:
        with pytest.raises(CannotRun, match="does not serve the policy free by 5600h, but prescriptive"):
            await bench.add(["0+2M"], policy="free", via="fm")
        with pytest.raises(AskedWrongly, match="at most 50 fit"):
            await bench.add([f"{4 * at}M+2M" for at in range(51)], via="fm")
        with pytest.raises(Refused):
            await bench.send("add", InitiateDcAdd(extents=None, selection_policy=0).to_bytes())
        said = [line for line in bench.writer.path.read_text().splitlines()[1:] if '"manager"' in line]
    assert len(said) == 2 and '"fail"' in said[1] and '"rc":2' in said[1]


class Falsified:
    """The real witness, but for one entry that it hides, or moves."""

    name = f = "fm_extents"

    def __init__(self, real: Any, how: str) -> None:
        self._real = real
        self._how = how

    async def ask(self, value: dict[str, Any]) -> dict[str, Any]:
        said = await self._real.ask(value)
        entries = said["extents"]
        if self._how == "hides":
            return {**said, "total": said["total"] - 1, "extents": entries[:-1]} if entries else said
        return {**said, "extents": [{**entry, "dpa": entry["dpa"] + 16 * MIB} for entry in entries]}


@pytest.mark.parametrize("how", ["hides", "moves"])
async def test_a_witness_that_lies_turns_the_verdict_red(guest: BootedGuest, how: str) -> None:
    async with settled(guest) as bench:
        bench.witnesses = {**bench.witnesses, "fm_extents": Falsified(bench.witnesses["fm_extents"], how)}
        assert (await (await bench.add(["0+2M", "8M+2M"])).answer()).outcome == "accepted"
        verdict = await bench.verdict()
    found = [one for one in verdict.failed if one.clause == "WITNESS.lists"]
    assert found and found[0].subject == "witness"
    told = "\n".join(tell(found[0]))
    assert "4801h, by the host, alone shows" in told and "5603h, by the fabric manager, alone shows" in told
    assert found[0].evidence["witnesses"]["extents"]["bytes"]


async def test_every_line_of_it_keeps_the_schema(guest: BootedGuest) -> None:
    schema = json.loads(files("dcdbackend").joinpath("history.schema.json").read_text())
    keeps = jsonschema.validators.validator_for(schema)(schema)
    async with settled(guest) as bench:
        await bench.set_region(1, block_size=2 * MIB)
        with pytest.raises(Refused):
            await bench.set_region(1, block_size=4 * MIB)
        with pytest.raises(Refused):
            await bench._witness("fm_extents", {"device": "mem0", "host_id": 0, "count": 1, "start": 9})
    seen = set()
    for path in guest.run_dir.glob("history-*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            keeps.validate(line)
            seen.add((line.get("f"), line.get("type")))
    assert {("fm_extents", "ok"), ("fm_extents", "fail"), ("set_region", "ok"), ("set_region", "fail")} <= seen


# -- two managers, and one that dies -----------------------------------------------------------------------------------


async def agreed(bench: Session, guest: BootedGuest, offsets: list[int], device: str = "mem0") -> None:
    """What is held of region 0, in blocks of 2 MiB at these offsets, by every witness and by a manager that is new."""
    held = [(bench.dpa(0, offset, device=device), 2 * MIB) for offset in offsets]
    await bench.compare(device=device)
    assert sorted(await bench.extents(device=device)) == held
    assert sorted((one["dpa"], one["length"]) for one in await bench.fm_extents(device=device)) == held
    listed = await (await Fabric(guest).device(device)).extent_list()
    assert sorted((one.start, one.length) for one in listed.extents) == held
    length = bench.devices[device]["regions"][0]["length"]
    states = await bench.states(device, 0, [(bench.dpa(0, 0, device=device), length)])
    assert sorted(run for run, state in states.items() if state == "accepted") == held
    assert "pending" not in states.values()


async def test_two_managers_read_page_by_page_while_a_third_gives(guest: BootedGuest) -> None:
    """Tunnels interleaved in one mailbox, with message tags of their own: nobody gets the answer to another's."""
    one, other = [await Fabric(guest).device("mem0") for _ in range(2)]
    async with settled(guest) as bench:
        offsets = [4 * MIB * number for number in range(8)]

        async def give() -> None:
            for number, offset in enumerate(offsets):
                await bench.add([Span(offset, 2 * MIB)], via=("fm", "qmp")[number % 2])
                await bench.idle()

        first, second, _ = await asyncio.gather(one.extent_list(page=1), other.extent_list(page=2), give())
        base = bench.dpa(0, 0)
        for found in (first, second):
            assert found.total == len(found.extents)
            assert {extent.start - base for extent in found.extents if extent.length} <= set(offsets)
        await agreed(bench, guest, offsets)
        assert not (await bench.verdict()).failed


async def test_the_link_drops_when_a_manager_has_asked(guest: BootedGuest) -> None:
    """It comes back with the answer: one offer, one answer, nothing twice."""
    async with settled(guest) as bench:
        lost = len(guest.strays)

        def see(op: Op) -> None:
            if (op.f, op.type) == ("add", "invoke"):  # the request leaves before the loop comes to the drop
                asyncio.get_running_loop().call_soon(guest.drop_link)

        bench.writer.listen(see)
        offsets = [0, 8 * MIB, 16 * MIB]
        for offset in offsets:
            assert (await (await bench.add([Span(offset, 2 * MIB)], via="fm")).answer()).outcome == "accepted"
        assert len([text for text in guest.strays[lost:] if "the link was lost" in text]) == 3
        verdict = await bench.verdict()
        assert not verdict.failed and not verdict.unknown
        await agreed(bench, guest, offsets)


async def test_a_manager_dies_with_a_command_half_written(guest: BootedGuest) -> None:
    """What stands in the mailbox and was never rung does nothing; the next manager's command is its own."""
    async with settled(guest) as bench:
        assert (await (await bench.add(["4M+2M"], via="fm")).answer()).outcome == "accepted"
        request = InitiateDcAdd(extents=(WireExtent(start=bench.dpa(0, 32 * MIB), length=2 * MIB),))
        message = CciMessage(opcode=FmOpcode.INITIATE_DC_ADD, payload=request.to_bytes(), tag=0x77)
        half = TunnelRequest(message=message, port=1).to_bytes()
        for payload in (half, half[:40]):
            said = await guest.control("fm", {"opcode": 0x5300, "payload": payload.hex(), "ring": False})
            assert "rc" not in said
            await agreed(bench, guest, [4 * MIB])
        await guest.control("fm", {"opcode": 0x5300, "payload": half.hex(), "ring": False})
        await bench.reset()  # and its agent with it: the next one takes the mailbox as it is
        await agreed(bench, guest, [4 * MIB])
        assert (await (await bench.add(["8M+2M"], via="fm")).answer()).outcome == "accepted"
        await agreed(bench, guest, [4 * MIB, 8 * MIB])
        assert not (await bench.verdict()).failed


# -- as it is typed ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def launched(guest: BootedGuest, bench: Session, state: Path) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """The guest as `dcd launch` would hold it, under the name vm0; gives what types a command, a process of its own:
    its JSON, or the line that it ends with."""
    environment = {**os.environ, "DCD_GUESTS": str(state)}

    async def typed(*argv: str, code: int = 0) -> Any:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dcdbackend", *argv, "--json"),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == code, f"{argv} ended {process.returncode}: {out!r} {err!r}"
        return json.loads(out) if out else err.decode()

    held = Held(name="vm0", guest=guest, session=bench, run_dir=guest.run_dir, stop=lambda: None)
    with Place.claim("vm0") as place:
        async with Server(place.listen(4), held):
            place.note(ready=True, run_dir=str(guest.run_dir), qemu="x", pid=os.getpid())
            yield typed
    await held.end()


async def test_by_hand_and_after_reattaching(
    guest: BootedGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCD_GUESTS", str(tmp_path))
    async with settled(guest) as bench, launched(guest, bench, tmp_path) as typed:
        info = await typed("fm", "vm0", "info")
        assert [port["device"] for port in info["ports"]] == [None, "mem0", "mem1"]
        assert [one["selection"] for one in info["devices"]] == [["prescriptive"]] * 2
        regions = (await typed("fm", "vm0", "regions", "-d", "mem1"))["regions"]
        assert [one["base"] for one in regions] == [bench.dpa(number, 0, device="mem1") for number in (0, 1)]
        added = await typed("fm", "vm0", "add", "--dpa", f"{bench.dpa(1, 4 * MIB)}+2M:7", "--tag", TAG)
        assert (added["outcome"], added["region"], added["extents"]) == ("accepted", 1, [[4 * MIB, 2 * MIB]])
        sent = [json.loads(line) for line in bench.writer.path.read_text().splitlines()]
        (offer,) = [line["value"] for line in sent if (line.get("f"), line.get("type")) == ("add", "invoke")]
        assert (offer["via"], offer["extents"][0]["tag"], offer["extents"][0]["sequence"]) == ("fm", TAG, 7)
        nothing = await typed("fm", "vm0", "add", "--raw", "00", code=1)
        assert (nothing["rc"], nothing["by"]) == (2, "device") and nothing["answer"].endswith("02000000")
        assert "to 5602h, gave" in await typed("fm", "vm0", "set-region", "1", "4M", code=1)
        assert "(02h)" in await typed("fm", "vm0", "extents", "--host", "9", code=1)

        await bench.policy("late", delay_s=0.5)
        async with connect("vm0") as dying:  # it goes away when the offer is out and nothing has come back
            task = asyncio.create_task(dying.call("add", size=2 * MIB, via="fm"))
            while not bench._offers["mem0"]:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            (lost,) = bench._offers["mem0"]
            task.cancel()
        assert await guest.until(lambda: lost.answered is not None, 5.0)
        held = [(bench.dpa(0, 0), 2 * MIB), (bench.dpa(1, 4 * MIB), 2 * MIB)]
        listed = (await typed("fm", "vm0", "extents"))["extents"]
        assert sorted((one["dpa"], one["length"]) for one in listed) == held
        shown = (await typed("show", "vm0", "-d", "mem0"))["devices"][0]
        assert sorted(map(tuple, shown["list"])) == sorted(map(tuple, shown["fm_list"])) == held
        runs = [run for region in shown["regions"] for run in region["runs"] if run["state"] != "free"]
        assert [(run["dpa"], run["length"], run["state"]) for run in runs] == [(*one, "accepted") for one in held]
        back = await typed("fm", "vm0", "release", "--dpa", f"{held[1][0]}+2M", "--tag", TAG)
        assert back["outcome"] == "released"


async def test_a_switch_that_goes_away(guest: BootedGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCD_GUESTS", str(tmp_path))
    fabric = Fabric(guest)
    manager = await fabric.manager()
    assert (await manager.identify()).component_type == ComponentType.SWITCH
    await guest.control("provoke", {"what": "switch"})
    with pytest.raises(SwitchGone, match="is gone: its capabilities read 0x0"):
        await manager.identify()
    with pytest.raises(SwitchGone):
        await (await fabric.manager()).tunnel(1, 0x5600)
    with session(guest) as bench:
        async with launched(guest, bench, tmp_path) as typed:
            for verb in (["info"], ["extents"], ["add", "2M"], ["set-region", "0", "2M"]):
                assert "is gone: its capabilities read 0x0" in await typed("fm", "vm0", *verb, code=4)
            shown = (await typed("show", "vm0", "-d", "mem0"))["devices"][0]
            assert shown["list"] == [] and shown["fm_list"] is None and "is gone" in shown["fm_error"]
        bench.witnesses = {name: one for name, one in bench.witnesses.items() if name != "fm_extents"}
        assert (await (await bench.add(["0+2M"])).answer()).outcome == "accepted"  # by QMP, answered by host U
        await bench.settle()
