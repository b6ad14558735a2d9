"""The fabric manager against what a real switch answered (captured), and against one that lies at every place."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dcdbackend.errors import (
    AnsweredWrongly,
    AskedWrongly,
    CannotRun,
    MalformedBytes,
    OutcomeUnknown,
    Refused,
    TimedOut,
)
from dcdbackend.fabric import Fabric, FmExtents, FmInjector
from dcdbackend.fm import (
    FabricManager,
    FmDevice,
    FmRefused,
    Reply,
    StrangeAnswer,
    SwitchGone,
    TunnelRefused,
    UnknownReturnCode,
    code_name,
    policy_names,
    served,
)
from dcdbackend.topology import switch
from dcdbackend.wire.dcd import WireExtent
from dcdbackend.wire.fmapi import (
    Category,
    CciMessage,
    DcdInfo,
    DcRegionExtentLists,
    Identify,
    IdentifySwitchDevice,
    InitiateDcAdd,
    InitiateDcRelease,
    PhysicalPortState,
    PortState,
    RemovalPolicy,
    SelectionPolicy,
    TunnelRequest,
    TunnelResponse,
)

MIB = 1 << 20
CAPTURED = Path(__file__).parent / "vectors" / "qemu-11.1.3-switch.json"
VECTORS = {one["name"]: one for one in json.loads(CAPTURED.read_text())["vectors"]}
TAG = 0x5A
"""The message tag of every captured request."""

Ask = Callable[[FabricManager], Awaitable[Any]]


class Captured:
    """A mailbox that knows one captured exchange, and takes exactly its request."""

    def __init__(self, name: str) -> None:
        self.vector = VECTORS[name]
        self.opcode = 0x5300 if "tunneled" in self.vector["via"] else int(self.vector["opcode"][:-1], 16)
        self.manager = FabricManager(self.carry)
        self.manager._tag = TAG - 1

    async def carry(self, opcode: int, payload: bytes) -> Reply:
        assert (opcode, payload.hex()) == (self.opcode, self.vector["request"])
        return Reply(self.vector["return_code"], bytes.fromhex(self.vector["response"]))


async def test_identify_as_captured() -> None:
    found = await Captured("identify, the switch").manager.identify()
    assert (found.vendor_id, found.device_id, found.component_type) == (0x19E5, 0xA128, 0)
    assert found.maximum_message_size_bytes == 2048


async def test_the_switch_and_its_ports_as_captured() -> None:
    found = await Captured("identify switch device").manager.identify_switch()
    assert (found.physical_port_count, found.vcs_count, found.active_ports[0]) == (3, 1, 0b11)
    ports = await Captured("port state of 0 and 1").manager.ports((0, 1))
    assert [(port.port_id, port.configuration_state) for port in ports] == [(0, 3), (1, 3)]


async def test_a_tunneled_identify_as_captured() -> None:
    found = await FmDevice(Captured("tunneled identify").manager, 0).identify()
    assert (found.serial_number, found.component_type) == (0x1234, 3)


async def test_regions_as_captured() -> None:
    found = await FmDevice(Captured("region config of host 7").manager, 0).config(host_id=7)
    assert [(region.base, region.length) for region in found.regions] == [(0, 1 << 30), (1 << 30, 1 << 30)]
    assert (found.supported_extents, found.supported_tags) == (512, 0)
    none = await FmDevice(Captured("region config of none").manager, 0).config(count=0)
    assert none.regions == () and none.available_regions == 2


async def test_refusals_as_captured() -> None:
    with pytest.raises(FmRefused, match="to 5602h, gave Invalid Input") as refused:
        await FmDevice(Captured("set region config, 1 MiB").manager, 0).set_region(1, block_size=MIB)
    assert refused.value.rc == 2 and isinstance(refused.value.sent, bytes) and isinstance(refused.value, Refused)
    with pytest.raises(FmRefused) as refused:
        await FmDevice(Captured("extents of host 1").manager, 0).extents(count=8, host_id=1)
    assert refused.value.rc == 2 and refused.value.reason == "Invalid Input (02h)"
    with pytest.raises(FmRefused, match="the switch, to 5101h"):
        await Captured("port state of a port that is not there").manager.ports([9])


@pytest.mark.parametrize(("name", "port"), [("tunnel to an empty port", 1), ("tunnel to a port that is not there", 9)])
async def test_a_tunnel_that_leads_nowhere(name: str, port: int) -> None:
    with pytest.raises(TunnelRefused, match=f"did not carry 0001h to port {port}") as refused:
        await FmDevice(Captured(name).manager, port).identify()
    assert (refused.value.port, refused.value.rc) == (port, 2)
    assert isinstance(refused.value.sent, bytes) and refused.value.sent.hex() == VECTORS[name]["request"]


async def test_any_bytes_can_be_sent() -> None:
    answer = await Captured("tunneled unknown opcode").manager.raw_tunnel(0, 0x56FF, b"")
    assert answer.return_code == 3
    lying = VECTORS["tunnel, size too large"]
    reply = await Captured("tunnel, size too large").manager.raw(0x5300, bytes.fromhex(lying["request"]))
    assert reply == Reply(0x16, b"")
    for name in ("release prescriptive, count 0", "add an extent of length 0"):
        sent = TunnelRequest.from_bytes(bytes.fromhex(VECTORS[name]["request"])).message
        assert (await Captured(name).manager.raw_tunnel(0, sent.opcode, sent.payload)).return_code == 0


# -- a switch that lies ----------------------------------------------------------------------------------------


class Switch:
    """A switch with a device at ports 1 and 2, serials 0x1234 and 0x1235, and nothing at 3. `twist` spoils an answer.

    `devices`: by port, opcode to payload or return code.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []
        self.inner: list[tuple[int, int, bytes]] = []
        self.twist: Callable[[CciMessage], bytes] = lambda message: TunnelResponse(message=message).to_bytes()
        self.spoil: Callable[[Reply], Reply] = lambda reply: reply
        self.answers: dict[tuple[int, int], Callable[[bytes], bytes | int]] = {}
        for port, serial in ((1, 0x1234), (2, 0x1235)):
            self.answers[port, 0x0001] = always(_identity(serial, 3))
            self.answers[port, 0x5600] = always(INFO.to_bytes())
        self.manager = FabricManager(self.carry)

    async def carry(self, opcode: int, payload: bytes) -> Reply:
        self.sent.append((opcode, payload))
        return self.spoil(self._answer(opcode, payload))

    def _answer(self, opcode: int, payload: bytes) -> Reply:
        if opcode == 0x0001:
            return Reply(0, _identity(0xFFFF, 0))
        if opcode == 0x5100:
            ports = bytes([0b1111]) + bytes(31)
            return Reply(0, SWITCH.to_bytes()[:4] + ports + SWITCH.to_bytes()[36:])
        if opcode == 0x5101:
            states = [PortState(port_id=port, configuration_state=3 if port else 4) for port in payload[1:]]
            return Reply(0, PhysicalPortState(ports=tuple(states)).to_bytes())
        request = TunnelRequest.from_bytes(payload)
        message = request.message
        self.inner.append((request.port, message.opcode, message.payload))
        if not any(port == request.port for port, _ in self.answers):
            return Reply(2, b"")
        answer = self.answers.get((request.port, message.opcode), always(3))(message.payload)
        code, content = (answer, b"") if isinstance(answer, int) else (0, answer)
        back = CciMessage(
            opcode=message.opcode, tag=message.tag, category=Category.RESPONSE, return_code=code, payload=content
        )
        return Reply(0, self.twist(back))


def always(answer: bytes | int) -> Callable[[bytes], bytes | int]:
    return lambda _: answer


def _identity(serial: int, kind: int) -> bytes:
    found = Identify(vendor_id=1, device_id=2, serial_number=serial, maximum_message_size=9, component_type=kind)
    return found.to_bytes()


INFO = DcdInfo(
    host_count=1,
    region_count=2,
    selection_policies=1 << SelectionPolicy.PRESCRIPTIVE,
    removal_policies=1 << RemovalPolicy.PRESCRIPTIVE,
    total_capacity=8,
    supported_block_sizes=(1 << 21,) * 2 + (0,) * 6,
)
SWITCH = IdentifySwitchDevice(
    ingress_port_id=0,
    physical_port_count=4,
    vcs_count=1,
    active_ports=bytes(32),
    active_vcss=bytes(32),
    vppb_count=4,
    bound_vppb_count=4,
    hdm_decoder_count=4,
)


@pytest.fixture
def lying() -> Switch:
    return Switch()


async def test_devices_are_found_by_serial_number(lying: Switch) -> None:
    found = await lying.manager.find()
    assert {serial: device.port for serial, device in found.items()} == {0x1234: 1, 0x1235: 2}
    assert {port for port, _, _ in lying.inner} == {1, 2, 3}  # not the upstream port


async def test_two_devices_of_one_serial_number(lying: Switch) -> None:
    lying.answers[2, 0x0001] = lying.answers[1, 0x0001]
    with pytest.raises(AnsweredWrongly, match="ports 1 and 2 both say serial 0x1234"):
        await lying.manager.find()


async def test_an_answer_that_is_cut_or_goes_on_is_malformed(lying: Switch) -> None:
    whole = (await lying.carry(*_identify(1))).payload

    def cut(size: int) -> Callable[[Reply], Reply]:
        return lambda reply: reply._replace(payload=reply.payload[:size])

    for size in range(len(whole)):
        lying.spoil = cut(size)
        with pytest.raises(MalformedBytes) as malformed:
            await FmDevice(lying.manager, 1).identify()
        assert len(malformed.value.data) == size
    lying.spoil = lambda reply: reply._replace(payload=reply.payload + b"\0")
    with pytest.raises(MalformedBytes):
        await FmDevice(lying.manager, 1).identify()


def _identify(port: int) -> tuple[int, bytes]:
    return 0x5300, TunnelRequest(message=CciMessage(opcode=1), port=port).to_bytes()


@pytest.mark.parametrize("at", [0, 9], ids=["the tunnel's", "the message's"])
@pytest.mark.parametrize("by", [1, 255])
async def test_a_length_that_lies_is_malformed(lying: Switch, at: int, by: int) -> None:
    def lie(reply: Reply) -> Reply:
        data = bytearray(reply.payload)
        data[at] = (data[at] + by) & 0xFF
        return reply._replace(payload=bytes(data))

    lying.spoil = lie
    with pytest.raises(MalformedBytes) as malformed:
        await FmDevice(lying.manager, 1).identify()
    assert malformed.value.data[at : at + 1]


@pytest.mark.parametrize(
    "change", [{"tag": 0x77}, {"opcode": 0x5601}, {"category": Category.REQUEST}, {"category": 0x0F}]
)
async def test_an_answer_to_something_else_is_strange(lying: Switch, change: dict[str, int]) -> None:
    def twist(message: CciMessage) -> bytes:
        fields: dict[str, Any] = {"opcode": message.opcode, "tag": message.tag, "category": message.category}
        return TunnelResponse(message=CciMessage(payload=message.payload, **{**fields, **change})).to_bytes()

    lying.twist = twist
    with pytest.raises(StrangeAnswer) as strange:
        await FmDevice(lying.manager, 1).info()
    assert isinstance(strange.value.sent, bytes) and isinstance(strange.value.received, bytes)


async def test_a_return_code_in_no_table(lying: Switch) -> None:
    lying.answers[1, 0x5600] = lambda _: 0x77
    with pytest.raises(UnknownReturnCode, match="0077h, which no table has") as unknown:
        await FmDevice(lying.manager, 1).info()
    assert unknown.value.rc == 0x77 and not isinstance(unknown.value, Refused)
    lying.spoil = lambda reply: Reply(0xFFFF, b"")
    with pytest.raises(UnknownReturnCode, match="the switch, to 5300h for port 1, gave return code ffffh"):
        await FmDevice(lying.manager, 1).info()
    with pytest.raises(UnknownReturnCode, match="the switch, to 0001h"):
        await lying.manager.identify()
    assert code_name(0x77) == "a code in no table (77h)"


async def test_what_goes_on_in_the_background_is_not_known(lying: Switch) -> None:
    lying.answers[1, 0x5604] = lambda _: 1
    with pytest.raises(OutcomeUnknown, match="goes on in the background"):
        await FmDevice(lying.manager, 1).add(InitiateDcAdd(extents=()))


async def test_a_switch_that_is_gone() -> None:
    async def gone(opcode: int, payload: bytes) -> Reply:
        raise OutcomeUnknown("the switch mailbox 0000:0d:00.1 is gone")

    async def late(opcode: int, payload: bytes) -> Reply:
        raise TimedOut("the doorbell is still set")

    with pytest.raises(SwitchGone, match="is gone"):
        await FabricManager(gone).identify()
    with pytest.raises(TimedOut):
        await FabricManager(late).identify()


async def test_ports_that_were_not_asked_for(lying: Switch) -> None:
    wrong = PhysicalPortState(ports=(PortState(port_id=2, configuration_state=3),)).to_bytes()
    lying.spoil = lambda reply: Reply(0, wrong)
    with pytest.raises(StrangeAnswer, match=r"was asked of ports \(1,\) and shows \(2,\)"):
        await lying.manager.ports([1])


# -- the list ---------------------------------------------------------------------------------------------------


class Listed:
    """What 5603h answers: pages of a list that `change` may alter before each of them."""

    def __init__(self, lying: Switch, count: int) -> None:
        self.extents = [WireExtent(start=at << 21, length=1 << 21) for at in range(count)]
        self.generation = 0
        self.pages = 0
        self.change: Callable[[Listed], None] = lambda listed: None
        self.twist: Callable[[dict[str, Any]], dict[str, Any]] = lambda fields: fields
        lying.answers[1, 0x5603] = self.page
        self.device = FmDevice(lying.manager, 1)

    def page(self, payload: bytes) -> bytes:
        count, start = (int.from_bytes(payload[at : at + 4], "little") for at in (4, 8))
        self.pages += 1
        self.change(self)
        part = tuple(self.extents[start : start + count])
        fields = {"total": len(self.extents), "generation": self.generation, "extents": part, "start": start}
        return DcRegionExtentLists(**self.twist(fields)).to_bytes()


@pytest.mark.parametrize(("count", "page", "pages"), [(0, 50, 1), (1, 50, 1), (50, 50, 1), (51, 50, 2), (500, 7, 72)])
async def test_a_list_is_read_page_by_page(lying: Switch, count: int, page: int, pages: int) -> None:
    listed = Listed(lying, count)
    found = await listed.device.extent_list(page=page)
    assert found.extents == tuple(listed.extents) and (found.total, found.pages) == (count, pages)
    assert listed.pages == pages


async def test_a_list_that_changes_is_read_again(lying: Switch) -> None:
    listed = Listed(lying, 20)

    def change(listed: Listed) -> None:
        if listed.pages == 3:
            listed.generation += 1
            listed.extents.pop()

    listed.change = change
    found = await listed.device.extent_list(page=5)
    assert len(found.extents) == 19 and found.generation == 1 and listed.pages == 3 + 4


async def test_a_list_that_never_holds_still_is_given_up(lying: Switch) -> None:
    listed = Listed(lying, 20)
    listed.change = lambda listed: setattr(listed, "generation", listed.generation + 1)
    with pytest.raises(AnsweredWrongly, match="changed 10 times"):
        await listed.device.extent_list(page=5)
    assert listed.pages == 20


@pytest.mark.parametrize(
    ("twist", "error"),
    [
        (lambda fields: {**fields, "start": fields["start"] + 1}, StrangeAnswer),
        (lambda fields: {**fields, "extents": fields["extents"] * 2}, StrangeAnswer),
        (lambda fields: {**fields, "total": 99}, AnsweredWrongly),
        (lambda fields: {**fields, "extents": ()}, AnsweredWrongly),
    ],
)
async def test_a_list_that_lies(lying: Switch, twist: Any, error: type[Exception]) -> None:
    listed = Listed(lying, 20)
    listed.twist = twist
    with pytest.raises(error):
        await listed.device.extent_list(page=5)


async def test_a_page_of_nothing_is_not_asked_for(lying: Switch) -> None:
    with pytest.raises(AskedWrongly, match="give 1 to 50"):
        await Listed(lying, 1).device.extent_list(page=0)
    assert lying.sent == []


# -- the plug points --------------------------------------------------------------------------------------------


class Guest:
    """As much of a guest as `Fabric` uses: its agent's replies, and the topology."""

    def __init__(self, lying: Switch) -> None:
        self.shape = switch(devices=2)
        self.lying = lying
        self.switches: Any = [{"pci": "0000:0d:00.1", "payload_size": 2048}]
        self.spoil: Callable[[dict[str, Any]], dict[str, Any]] = lambda said: said

    async def control(self, do: str, fields: dict[str, Any] | None = None) -> dict[str, Any]:
        assert do == "fm"
        if fields is None:
            return {"switches": self.switches}
        reply = await self.lying.carry(fields["opcode"], bytes.fromhex(fields["payload"]))
        return self.spoil({"rc": reply.rc, "payload": reply.payload.hex()})


def value(*extents: dict[str, Any], **more: Any) -> dict[str, Any]:
    common = {"device": "mem1", "via": "fm", "host_id": 0, "policy": "prescriptive", "region": 0, "tag": None}
    return {**common, "extents": list(extents), **more}


def extent(dpa: int, length: int = 2 * MIB, tag: str = "00" * 16, sequence: int = 0) -> dict[str, Any]:
    return {"dpa": dpa, "length": length, "tag": tag, "sequence": sequence}


@pytest.fixture
def guest(lying: Switch) -> Any:
    return Guest(lying)


async def test_an_add_goes_to_its_device_with_tags_and_sequences(lying: Switch, guest: Any) -> None:
    injector = FmInjector(Fabric(guest))
    lying.answers[2, 0x5604] = lambda _: b""
    sent = value(extent(0, tag="ab" * 16, sequence=3), extent(4 * MIB))
    await injector.check("add", sent)
    assert not [one for one in lying.inner if one[1] == 0x5604]
    await injector.add(sent)
    port, opcode, payload = lying.inner[-1]
    assert (port, opcode) == (2, 0x5604)
    request = InitiateDcAdd.from_bytes(payload)
    assert request.extents is not None
    assert [(one.start, one.tag, one.sequence) for one in request.extents] == [
        (0, b"\xab" * 16, 3),
        (4 * MIB, bytes(16), 0),
    ]
    assert request.prescriptive and request.tag == bytes(16) and request.region == 0


async def test_what_the_device_does_not_serve_is_told_before_anything_is_sent(lying: Switch, guest: Any) -> None:
    injector = FmInjector(Fabric(guest))
    for f, policy in (("add", "free"), ("add", "enable-shared-access"), ("release", "tag-based")):
        more = {"forced": False, "sanitize": False} if f == "release" else {}
        with pytest.raises(CannotRun, match=f"does not serve the policy {policy} by 5600h, but prescriptive"):
            await injector.check(f, value(policy=policy, length=2 * MIB, **more))
    with pytest.raises(AskedWrongly, match="51 extents in one request; at most 50"):
        await injector.check("add", value(*[extent(at << 21) for at in range(51)]))
    with pytest.raises(AskedWrongly):
        await injector.check("add", value(extent(1 << 64)))
    with pytest.raises(AskedWrongly, match="policy 'best' is not known"):
        await injector.check("add", value(extent(0), policy="best"))
    with pytest.raises(CannotRun, match="no downstream port leads to 'mem7'; there is mem0 at port 1, mem1 at port 2"):
        await injector.check("add", value(extent(0), device="mem7"))
    assert not [one for one in lying.inner if one[1] in (0x5604, 0x5605)]


async def test_bytes_that_the_mailbox_cannot_take_are_told_before_anything_is_sent(lying: Switch, guest: Any) -> None:
    injector = FmInjector(Fabric(guest))
    most = 2048 - 16
    await injector.check("add", {"device": "mem1", **injector.said("add", bytes(most))})
    with pytest.raises(AskedWrongly, match="2033 bytes of payload; at most 2032 fit"):
        await injector.check("add", {"device": "mem1", **injector.said("add", bytes(most + 1))})
    assert not [one for one in lying.inner if one[1] == 0x5604]


@pytest.mark.parametrize("flag", ["forced", "sanitize"])
async def test_a_releases_flags(lying: Switch, guest: Any, flag: str) -> None:
    lying.answers[2, 0x5605] = lambda _: b""
    flags = {"forced": False, "sanitize": False} | {flag: True}
    await FmInjector(Fabric(guest)).release(value(extent(0), **flags))
    request = InitiateDcRelease.from_bytes(lying.inner[-1][2])
    assert request.prescriptive and (request.forced, request.sanitize) == (flags["forced"], flags["sanitize"])


@pytest.mark.parametrize("f", ["add", "release"])
async def test_bytes_are_told_as_far_as_they_go(lying: Switch, guest: Any, f: str) -> None:
    injector = FmInjector(Fabric(guest))
    extents = tuple(WireExtent(start=at << 21, length=1 << 21, tag=b"\x11" * 16, sequence=at) for at in range(3))
    request = InitiateDcAdd(extents=extents) if f == "add" else InitiateDcRelease(extents=extents, flags=0x11)
    whole = request.to_bytes()
    for size in range(len(whole) + 3):
        said = injector.said(f, whole.ljust(size, b"\xee")[:size])
        assert len(said["extents"]) == min(3, max(0, size - 32) // 40) and len(said["raw"]) == 2 * size
    said = injector.said(f, whole)
    assert said["policy"] == "prescriptive" and said["extents"][2] == extent(4 * MIB, tag="11" * 16, sequence=2)
    assert said.get("forced") == (None if f == "add" else True)
    opcode = {"add": 0x5604, "release": 0x5605}[f]
    lying.answers[2, opcode] = lambda payload: b""
    await injector.send(f, {"device": "mem1", **injector.said(f, whole[:29])})
    assert lying.inner[-1] == (2, opcode, whole[:29])


async def test_the_witness_shows_a_page_or_the_bytes_that_are_none(lying: Switch, guest: Any) -> None:
    Listed(lying, 3)
    witness = FmExtents(Fabric(guest))
    asked = {"device": "mem0", "host_id": 0, "count": 2, "start": 1}
    said = await witness.ask(asked)
    assert (said["total"], said["extents"]) == (3, [extent(2 * MIB), extent(4 * MIB)])
    lying.answers[1, 0x5603] = lambda _: b"\1\2\3"
    assert await witness.ask(asked) == {"rc": 0, "raw": "010203", "error": _anything}
    lying.answers[1, 0x5603] = lambda _: 2
    with pytest.raises(FmRefused):
        await witness.ask(asked)


class _Anything:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and bool(other)

    __hash__ = None  # type: ignore[assignment]


_anything = _Anything()


async def test_a_guest_without_a_switch(guest: Any) -> None:
    guest.switches = []
    with pytest.raises(CannotRun, match="sees no switch mailbox"):
        await Fabric(guest).manager()


@pytest.mark.parametrize("switches", [None, "x", [7], [{}], [{"payload_size": "2048"}], [{"payload_size": 1 << 40}]])
async def test_an_agent_that_talks_nonsense_of_switches(guest: Any, switches: Any) -> None:
    guest.switches = switches
    with pytest.raises(AnsweredWrongly):
        await Fabric(guest).manager()


@pytest.mark.parametrize("said", [{}, {"rc": "0", "payload": ""}, {"rc": 0, "payload": 7}, {"rc": 0, "payload": "xy"}])
async def test_an_agent_that_talks_nonsense_of_a_command(guest: Any, said: dict[str, Any]) -> None:
    manager = await Fabric(guest).manager()
    guest.spoil = lambda _: said
    with pytest.raises(AnsweredWrongly, match="no return code and payload"):
        await manager.identify()


def test_policies_by_name() -> None:
    assert served(0b1001, SelectionPolicy) == ("free", "enable-shared-access")
    assert policy_names(RemovalPolicy) == {"tag-based": 0, "prescriptive": 1}
