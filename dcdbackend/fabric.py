"""The fabric manager on a launched guest: an injector and a witness by the FM-API, through the switch's mailbox.

The agent carries bytes to the mailbox; everything is built and read here, by `fm`. So it works beside host U and while
the guest's kernel owns the memory devices. Which downstream port leads to which device is found once, by serial number.

Values are the history's: DPAs, each extent with its own tag and sequence. What the device does not serve by its own
word (5600h), or what fits no field, is refused by `check` before anything is written or sent; who wants to see the
device refuse it sends the bytes (`send`), as many as the mailbox takes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from . import bench
from .errors import AnsweredWrongly, AskedWrongly, CannotRun, MalformedBytes
from .fm import FabricManager, FmDevice, Reply, policy_names, served
from .guest import Guest
from .wire.dcd import WireExtent
from .wire.fmapi import (
    FORCED_REMOVAL,
    POLICY_MASK,
    SANITIZE_ON_RELEASE,
    TUNNEL_OVERHEAD,
    DcdInfo,
    DcListTags,
    DcRegionExtentLists,
    DcTags,
    FmOpcode,
    GetDcRegionExtentLists,
    InitiateDcAdd,
    InitiateDcRelease,
    RemovalPolicy,
    SelectionPolicy,
    members,
)

_OPCODES = {
    "add": FmOpcode.INITIATE_DC_ADD,
    "release": FmOpcode.INITIATE_DC_RELEASE,
    "add_reference": FmOpcode.DC_ADD_REFERENCE,
    "remove_reference": FmOpcode.DC_REMOVE_REFERENCE,
}
_POLICIES: dict[str, type[IntEnum]] = {"add": SelectionPolicy, "release": RemovalPolicy}
_TAG_BYTES, _COUNT_BYTES = 16, 4
_HEAD_BYTES, _FLAGS_AT = InitiateDcAdd.layout.size, 2


class Fabric:
    """The switch of a guest, and the devices below it by their names. Asked when first needed."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._manager: FabricManager | None = None
        self._devices: dict[str, FmDevice] = {}
        self._infos: dict[str, DcdInfo] = {}

    async def manager(self) -> FabricManager:
        """The switch. Errors: CannotRun when the guest sees none."""
        if self._manager is None:
            found = (await self._guest.control("fm")).get("switches")
            if not isinstance(found, list):
                raise AnsweredWrongly(f"the agent shows no list of switches: {str(found)[:80]}")
            if not found:
                raise CannotRun("the guest sees no switch mailbox; take the topology switch, and a QEMU that has one")
            size = found[0].get("payload_size") if isinstance(found[0], dict) else None
            if type(size) is not int or not 256 <= size <= 1 << 20:
                raise AnsweredWrongly(f"the agent shows a switch mailbox of {str(size)[:40]} bytes")
            self._manager = FabricManager(self._carry, payload_bytes=size)
        return self._manager

    async def device(self, name: str) -> FmDevice:
        """The device of that name in the topology. Errors: CannotRun when it is behind no port of the switch."""
        found = await self.found()
        try:
            return found[name]
        except KeyError:
            there = ", ".join(f"{one} at port {device.port}" for one, device in found.items()) or "none"
            raise CannotRun(f"no downstream port leads to {name!r}; there is {there}") from None

    async def found(self) -> dict[str, FmDevice]:
        """Every device below the switch that the topology knows, by its name."""
        if not self._devices:
            found = await (await self.manager()).find()
            serials = {device.serial: device.name for device in self._guest.shape.devices}
            self._devices = {serials[serial]: one for serial, one in found.items() if serial in serials}
        return self._devices

    async def info(self, name: str) -> DcdInfo:
        """What the device says that it serves (5600h), asked once."""
        if name not in self._infos:
            self._infos[name] = await (await self.device(name)).info()
        return self._infos[name]

    async def _carry(self, opcode: int, payload: bytes) -> Reply:
        said = await self._guest.control("fm", {"opcode": int(opcode), "payload": payload.hex()})
        rc, data = said.get("rc"), said.get("payload")
        try:
            if type(rc) is int and isinstance(data, str):
                return Reply(rc, bytes.fromhex(data))
        except ValueError:
            pass
        raise AnsweredWrongly(f"the agent's reply is no return code and payload: {str(said)[:200]}", sent=payload)


class FmInjector:
    """Add and release by 5604h and 5605h: tags, sequences, forced removal. See `bench.Injector`, `bench.Manager`."""

    name = "fm"
    serves: frozenset[str] = frozenset(("tags",))

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric

    async def check(self, f: str, value: bench.Value) -> None:
        """Whether the device serves it, by 5600h. Errors: CannotRun (it does not), AskedWrongly (it fits no field).

        Of bytes that are sent as they are (`raw`) only whether they fit the mailbox, which can take no more.
        """
        if "raw" in value:
            manager = (await self._fabric.device(value["device"])).manager
            size, most = len(value["raw"]) // 2, manager.payload_bytes - TUNNEL_OVERHEAD
            if size > most:
                raise AskedWrongly(f"{size} bytes of payload; at most {most} fit the switch's mailbox, tunneled")
            return
        names = policy_names(_POLICIES[f])
        policy = value["policy"]
        if policy not in names:
            raise AskedWrongly(f"policy {policy!r} is not known; there is {', '.join(names)}")
        device = await self._fabric.device(value["device"])
        request = _request(f, value).to_bytes()
        if len(value["extents"]) > device.most_asked:
            raise AskedWrongly(
                f"{len(value['extents'])} extents in one request; at most {device.most_asked} fit the switch's mailbox"
            )
        info = await self._fabric.info(value["device"])
        there = served(info.selection_policies if f == "add" else info.removal_policies, _POLICIES[f])
        if policy not in there:
            raise CannotRun(
                f"{value['device']} does not serve the policy {policy} by 5600h, but {', '.join(there) or 'none'}; "
                f"nothing was sent ({request[:28].hex()})"
            )

    async def add(self, value: bench.Value) -> None:
        device = await self._fabric.device(value["device"])
        await self._send(device, "add", _request("add", value).to_bytes())

    async def release(self, value: bench.Value) -> None:
        device = await self._fabric.device(value["device"])
        await self._send(device, "release", _request("release", value).to_bytes())

    def said(self, f: str, payload: bytes) -> bench.Value:
        """The invoke value that these bytes are, as a device may read them: fields that are cut off are zero, and the
        extents are those that are there whole, as many as the count says. `raw` has them all."""
        head = payload[:_HEAD_BYTES].ljust(_HEAD_BYTES, b"\0")
        policies = {number: name for name, number in policy_names(_POLICIES[f]).items()}
        flags = head[_FLAGS_AT]
        there = max(0, len(payload) - _HEAD_BYTES - _COUNT_BYTES) // WireExtent.layout.size
        count = int.from_bytes(payload[_HEAD_BYTES : _HEAD_BYTES + _COUNT_BYTES], "little")
        found = [
            WireExtent(start=start, length=length, tag=tag, sequence=sequence)
            for start, length, tag, sequence, _ in WireExtent.layout.each(
                payload, _HEAD_BYTES + _COUNT_BYTES, min(count, there)
            )
        ]
        tag = head[-_TAG_BYTES:]
        value: bench.Value = {
            "via": self.name,
            "host_id": int.from_bytes(head[:2], "little"),
            "policy": policies.get(flags & POLICY_MASK, str(flags & POLICY_MASK)),
            "region": head[_FLAGS_AT + 1] if f == "add" else 0,
            "tag": tag.hex() if any(tag) else None,
            "extents": [_told(one) for one in found],
            "raw": payload.hex(),
        }
        if f == "release":
            value |= {"forced": bool(flags & FORCED_REMOVAL), "sanitize": bool(flags & SANITIZE_ON_RELEASE)}
        return value

    async def send(self, f: str, value: bench.Value) -> bytes:
        """The bytes of `value["raw"]` as the payload of 5604h (`add`) or 5605h (`release`), whatever they are.

        The message that came back, which says success.
        """
        return await self._send(await self._fabric.device(value["device"]), f, bytes.fromhex(value["raw"]))

    async def set_region(self, value: bench.Value) -> None:
        """5602h. Errors: FmRefused."""
        device = await self._fabric.device(value["device"])
        await device.set_region(value["region"], block_size=value["block_size"], sanitize=value["sanitize"])

    @staticmethod
    async def _send(device: FmDevice, f: str, payload: bytes) -> bytes:
        return (await device.manager.exchange(device.port, _OPCODES[f], payload)).to_bytes()


class FmExtents:
    """The device's list of accepted extents without asking the host: 5603h, one page a question.

    See `bench.Witness`; the value and the reply are those of 4801h, and the host's id.
    """

    name = "fm_extents"
    f = "fm_extents"

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric

    async def ask(self, value: bench.Value) -> bench.Value:
        device = await self._fabric.device(value["device"])
        asked = GetDcRegionExtentLists(count=value["count"], start=value["start"], host_id=value["host_id"])
        payload = await device.manager.tunnel(device.port, FmOpcode.GET_DC_REGION_EXTENT_LISTS, asked.to_bytes())
        try:
            page = DcRegionExtentLists.from_bytes(payload)
        except MalformedBytes as error:
            return {"rc": 0, "raw": payload.hex(), "error": error.message}
        return {
            "rc": 0,
            "total": page.total,
            "generation": page.generation,
            "extents": [_told(one) for one in page.extents],
        }


class FmTags:
    """The tags that the device knows, and which hosts have them: 5608h, one page a question. See `bench.Witness`."""

    name = "list_tags"
    f = "list_tags"

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric

    async def ask(self, value: bench.Value) -> bench.Value:
        device = await self._fabric.device(value["device"])
        asked = DcListTags(count=value["count"], start=value["start"])
        payload = await device.manager.tunnel(device.port, FmOpcode.DC_LIST_TAGS, asked.to_bytes())
        page = DcTags.from_bytes(payload)
        return {
            "rc": 0,
            "total": page.total,
            "generation": page.generation,
            "validity": page.validity_flags,
            "tags": [
                {
                    "tag": one.tag.hex(),
                    "flags": one.flags,
                    "hosts": list(members(one.references)),
                    "pending_hosts": list(members(one.pending_references)),
                }
                for one in page.tags
            ],
        }


def _request(f: str, value: bench.Value) -> InitiateDcAdd | InitiateDcRelease:
    """The request that a value of the history says.

    With the prescriptive policy each extent says its own tag, and the request's region, length and tag are reserved.
    Errors: AskedWrongly.
    """
    policy = policy_names(_POLICIES[f])[value["policy"]]
    named = policy == (SelectionPolicy.PRESCRIPTIVE if f == "add" else RemovalPolicy.PRESCRIPTIVE)
    common: dict[str, Any] = {
        "extents": tuple(_extent(one) for one in value["extents"]) if named else None,
        "host_id": value["host_id"],
    }
    if not named:
        common["length"] = value["length"]
        common["tag"] = _tag(value["tag"])
    if f == "add":
        return InitiateDcAdd(selection_policy=policy, region=0 if named else value["region"], **common)
    flags = policy | (FORCED_REMOVAL if value["forced"] else 0) | (SANITIZE_ON_RELEASE if value["sanitize"] else 0)
    return InitiateDcRelease(flags=flags, **common)


def _told(extent: WireExtent) -> bench.Value:
    """An extent as the history has it."""
    return {"dpa": extent.start, "length": extent.length, "tag": extent.tag.hex(), "sequence": extent.sequence}


def _extent(found: bench.Value) -> WireExtent:
    return WireExtent(
        start=found["dpa"],
        length=found["length"],
        tag=_tag(found.get("tag")),
        sequence=found.get("sequence", 0),
    )


def _tag(text: str | None) -> bytes:
    return bytes.fromhex(text) if text else bytes(_TAG_BYTES)
