"""The fabric manager: typed requests to a switch and to the devices below it, and what they answered.

Three layers carry a request, and each can refuse it or lie: the switch's mailbox, the tunnel (5300h), the message in
it. Each has an error of its own, and every error carries the bytes:

    SwitchGone          the mailbox does not answer any more (OutcomeUnknown)
    TunnelRefused       the switch did not carry the message: no such port, nothing behind it
    FmRefused           the switch or the device answered with a return code other than success
    UnknownReturnCode   ... with one that no table has
    StrangeAnswer       the answer is none to this request (another tag, opcode or direction)
    MalformedBytes      bytes that are not the structure that they should be, lengths that lie (from `wire`)

It is no fabric-manager product: it keeps no state of the fabric, and repeats nothing. `raw` and `raw_tunnel` send
whatever bytes a bench wants to see refused. How the bytes get to the mailbox is `carry`'s affair (the agent in the
guest rings the doorbell), and whether an answer keeps the rules is the checker's.

Sources: CXL r3.1 7.6.7 (FM-API), 8.2.9.1.1 (Identify). DPAs and lengths in bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, TypeVar

from .errors import AnsweredWrongly, AskedWrongly, OutcomeUnknown, Refused
from .wire.cci import ReturnCode
from .wire.dcd import WireExtent
from .wire.fmapi import (
    TUNNEL_OVERHEAD,
    Category,
    CciMessage,
    DcdInfo,
    DcRegionExtentLists,
    FmOpcode,
    GetDcRegionExtentLists,
    GetHostDcRegionConfig,
    GetPhysicalPortState,
    HostDcRegion,
    HostDcRegionConfig,
    Identify,
    IdentifySwitchDevice,
    InitiateDcAdd,
    InitiateDcRelease,
    PhysicalPortState,
    PortConfiguration,
    PortState,
    SetDcRegionConfig,
    TunnelRequest,
    TunnelResponse,
    members,
)
from .wire.layout import Structure

PAYLOAD_BYTES = 2048
MAX_PAGES = 4096
MAX_RESTARTS = 10
"""A list that changes while it is read is read again so often."""
_T = TypeVar("_T", bound=Structure)
_CONFIGURATION_MASK = 0x0F


class Reply(NamedTuple):
    """What a mailbox gave back: its return code, and the payload."""

    rc: int
    payload: bytes


Carry = Callable[[int, bytes], Awaitable[Reply]]
"""Opcode and payload to the switch's mailbox. Errors: OutcomeUnknown."""


class FmRefused(Refused):
    """The switch or the device refused a command: certainly no effect. `rc` is its return code."""

    def __init__(self, message: str, *, rc: int, sent: bytes, received: bytes) -> None:
        super().__init__(message, reason=code_name(rc), sent=sent, received=received)
        self.rc = rc


class TunnelRefused(FmRefused):
    """The switch did not carry a message to `port`."""

    def __init__(self, message: str, *, port: int, rc: int, sent: bytes, received: bytes) -> None:
        super().__init__(message, rc=rc, sent=sent, received=received)
        self.port = port


class UnknownReturnCode(AnsweredWrongly):
    """A return code that CXL r3.1's table 8-34 does not have: what became of the command is not known."""

    def __init__(self, message: str, *, rc: int, sent: bytes, received: bytes) -> None:
        super().__init__(message, sent=sent, received=received)
        self.rc = rc


class StrangeAnswer(AnsweredWrongly):
    """A message that is well formed, and no answer to what was sent."""


class SwitchGone(OutcomeUnknown):
    """The switch's mailbox does not answer any more."""


def code_name(rc: int) -> str:
    """`Invalid Input (02h)`."""
    try:
        name = ReturnCode(rc).name.replace("_", " ").title()
    except ValueError:
        name = "a code in no table"
    return f"{name} ({rc:02x}h)"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtentPages:
    """An extent list read page by page (5603h), all of one generation and total."""

    generation: int
    total: int
    extents: tuple[WireExtent, ...]
    pages: int


class FabricManager:
    """A switch, by its mailbox. `payload_bytes`: of the mailbox.

    Errors of every request: those of the module, and what `carry` raises (TimedOut, LinkLost, MachineGone).
    """

    def __init__(self, carry: Carry, *, payload_bytes: int = PAYLOAD_BYTES) -> None:
        self.payload_bytes = payload_bytes
        self._carry = carry
        self._tag = 0

    # -- bytes ---------------------------------------------------------------------------------------------------

    async def raw(self, opcode: int, payload: bytes) -> Reply:
        """Whatever bytes to the switch's mailbox, sense or nonsense; its return code and payload, unread."""
        try:
            return await self._carry(opcode, payload)
        except OutcomeUnknown as error:
            if type(error) is OutcomeUnknown:  # the agent saw no mailbox
                raise SwitchGone(error.message, sent=payload) from None
            raise

    async def raw_tunnel(self, port: int, opcode: int, payload: bytes) -> CciMessage:
        """Whatever bytes as a command of the device behind `port`, in a message and a tunnel that are right.

        The answer's return code is the caller's to read: any is given back.
        """
        self._tag = (self._tag + 1) & 0xFF
        message = CciMessage(opcode=opcode, payload=payload, tag=self._tag)
        sent = TunnelRequest(message=message, port=port).to_bytes()
        reply = await self.raw(FmOpcode.TUNNEL_MANAGEMENT_COMMAND, sent)
        if reply.rc:
            _check_code(reply.rc, f"the switch, to 5300h for port {port},", sent, reply.payload)
            raise TunnelRefused(
                f"the switch did not carry {opcode:04x}h to port {port}: {code_name(reply.rc)}; "
                "is a device behind that port?",
                port=port,
                rc=reply.rc,
                sent=sent,
                received=reply.payload,
            )
        answer = TunnelResponse.from_bytes(reply.payload).message
        found = (answer.category & 0x0F, answer.tag, answer.opcode)
        if found != (Category.RESPONSE, message.tag, opcode):
            raise StrangeAnswer(
                f"port {port} answered {opcode:04x}h (tag {message.tag:02x}h) with a message of category {found[0]}, "
                f"tag {found[1]:02x}h and opcode {found[2]:04x}h",
                sent=sent,
                received=reply.payload,
            )
        return answer

    # -- structures ----------------------------------------------------------------------------------------------

    async def command(self, opcode: int, content: Structure | None, answer: type[_T]) -> _T:
        """A command of the switch itself."""
        sent = b"" if content is None else content.to_bytes()
        reply = await self.raw(opcode, sent)
        _check_success(reply.rc, f"the switch, to {opcode:04x}h,", sent, reply.payload)
        return answer.from_bytes(reply.payload)

    async def tunnel(self, port: int, opcode: int, sent: bytes = b"") -> bytes:
        """A command of the device behind `port`; the payload of an answer that says success."""
        return (await self.exchange(port, opcode, sent)).payload

    async def exchange(self, port: int, opcode: int, sent: bytes = b"") -> CciMessage:
        """As `tunnel`, and the whole answer."""
        answer = await self.raw_tunnel(port, opcode, sent)
        who = f"the device behind port {port}, to {opcode:04x}h,"
        _check_success(answer.return_code, who, sent, answer.to_bytes())
        return answer

    async def identify(self) -> Identify:
        """Identify, 0001h: the switch."""
        return await self.command(FmOpcode.IDENTIFY, None, Identify)

    async def identify_switch(self) -> IdentifySwitchDevice:
        """Identify Switch Device, 5100h."""
        return await self.command(FmOpcode.IDENTIFY_SWITCH_DEVICE, None, IdentifySwitchDevice)

    async def ports(self, numbers: Iterable[int]) -> tuple[PortState, ...]:
        """Get Physical Port State, 5101h. A port that is not there refuses the whole command."""
        asked = GetPhysicalPortState(ports=tuple(numbers))
        found = await self.command(FmOpcode.GET_PHYSICAL_PORT_STATE, asked, PhysicalPortState)
        shown = tuple(port.port_id for port in found.ports)
        if shown != asked.ports:
            raise StrangeAnswer(
                f"5101h was asked of ports {asked.ports} and shows {shown}",
                sent=asked.to_bytes(),
                received=found.to_bytes(),
            )
        return found.ports

    async def find(self) -> dict[int, FmDevice]:
        """Which device is behind which downstream port: by serial number, as each says in a tunneled Identify.

        Ports with nothing behind them are left out.
        """
        switch = await self.identify_switch()
        found: dict[int, FmDevice] = {}
        for port in await self.ports(members(switch.active_ports)):
            if port.configuration_state & _CONFIGURATION_MASK != PortConfiguration.DOWNSTREAM:
                continue
            device = FmDevice(self, port.port_id)
            try:
                serial = (await device.identify()).serial_number
            except TunnelRefused:
                continue
            if serial in found:
                raise AnsweredWrongly(f"ports {found[serial].port} and {port.port_id} both say serial 0x{serial:x}")
            found[serial] = device
        return found


class FmDevice:
    """The device behind a downstream port, as the fabric manager reaches it."""

    def __init__(self, manager: FabricManager, port: int) -> None:
        self.manager = manager
        self.port = port
        room = manager.payload_bytes - TUNNEL_OVERHEAD
        self.most_listed = DcRegionExtentLists.most(room)
        self.most_asked = InitiateDcAdd.most(room)

    async def identify(self) -> Identify:
        """Identify, 0001h."""
        return Identify.from_bytes(await self.manager.tunnel(self.port, FmOpcode.IDENTIFY))

    async def info(self) -> DcdInfo:
        """Get DCD Info, 5600h: policies, capacity, block sizes."""
        return DcdInfo.from_bytes(await self.manager.tunnel(self.port, FmOpcode.GET_DCD_INFO))

    async def config(self, *, host_id: int = 0, count: int = 8, start: int = 0) -> HostDcRegionConfig:
        """Get Host DC Region Configuration, 5601h, as one answer gives it."""
        asked = GetHostDcRegionConfig(host_id=host_id, region_count=count, start_region=start)
        return HostDcRegionConfig.from_bytes(
            await self.manager.tunnel(self.port, FmOpcode.GET_HOST_DC_REGION_CONFIG, asked.to_bytes())
        )

    async def regions(self, *, host_id: int = 0) -> tuple[HostDcRegion, ...]:
        """All regions (5601h), in as many answers as it takes."""
        found: list[HostDcRegion] = []
        for _ in range(8):
            part = await self.config(host_id=host_id, start=len(found))
            found += part.regions
            if len(found) >= part.available_regions or not part.regions:
                break
        if len(found) != part.available_regions:
            raise AnsweredWrongly(f"5601h shows {len(found)} regions of {part.available_regions}")
        return tuple(found)

    async def set_region(self, region: int, *, block_size: int, sanitize: bool = False) -> None:
        """Set DC Region Configuration, 5602h."""
        asked = SetDcRegionConfig(region=region, block_size=block_size, sanitize=int(sanitize))
        await self.manager.tunnel(self.port, FmOpcode.SET_DC_REGION_CONFIG, asked.to_bytes())

    async def extents(self, *, count: int, start: int = 0, host_id: int = 0) -> DcRegionExtentLists:
        """One page of Get DC Region Extent Lists, 5603h."""
        asked = GetDcRegionExtentLists(count=count, start=start, host_id=host_id)
        return DcRegionExtentLists.from_bytes(
            await self.manager.tunnel(self.port, FmOpcode.GET_DC_REGION_EXTENT_LISTS, asked.to_bytes())
        )

    async def extent_list(self, *, host_id: int = 0, page: int | None = None) -> ExtentPages:
        """The whole list (5603h). One that changes between two pages is read again, a bounded number of times."""
        size = self.most_listed if page is None else page
        if size < 1:
            raise AskedWrongly(f"a page of {size} extents; give 1 to {self.most_listed}")
        for _ in range(MAX_RESTARTS):
            found = await self._pages(host_id, size)
            if found is not None:
                return found
        raise AnsweredWrongly(f"the list behind port {self.port} changed {MAX_RESTARTS} times while it was read")

    async def _pages(self, host_id: int, size: int) -> ExtentPages | None:
        """The list, None when it changed meanwhile."""
        part = first = await self.extents(count=size, host_id=host_id)
        found: list[WireExtent] = []
        for number in range(MAX_PAGES):
            if number:
                part = await self.extents(count=size, start=len(found), host_id=host_id)
            if (part.generation, part.total) != (first.generation, first.total):
                return None
            if part.start != len(found) or part.returned > size:
                raise StrangeAnswer(
                    f"5603h was asked for {size} extents from {len(found)} on and shows {part.returned} "
                    f"from {part.start} on",
                    received=part.to_bytes(),
                )
            found += part.extents
            if len(found) >= first.total:
                return ExtentPages(
                    generation=first.generation, total=first.total, extents=tuple(found), pages=number + 1
                )
            if not part.extents:
                break
        raise AnsweredWrongly(f"5603h says {first.total} extents in all and shows {len(found)}")

    async def add(self, request: InitiateDcAdd) -> None:
        """Initiate Dynamic Capacity Add, 5604h. Success says only that the offer was queued."""
        await self.manager.tunnel(self.port, FmOpcode.INITIATE_DC_ADD, request.to_bytes())

    async def release(self, request: InitiateDcRelease) -> None:
        """Initiate Dynamic Capacity Release, 5605h. Success says only that the request was queued."""
        await self.manager.tunnel(self.port, FmOpcode.INITIATE_DC_RELEASE, request.to_bytes())


def policy_names(kind: type[IntEnum]) -> dict[str, int]:
    """Name in the history (`enable-shared-access`) to number, of `SelectionPolicy` or `RemovalPolicy` (DEV-13)."""
    return {one.name.lower().replace("_", "-"): int(one) for one in kind}


def served(mask: int, kind: type[IntEnum]) -> tuple[str, ...]:
    """The policies that a mask of 5600h names."""
    return tuple(name for name, number in policy_names(kind).items() if mask >> number & 1)


def _check_code(rc: int, who: str, sent: bytes, received: bytes) -> None:
    if rc not in ReturnCode.__members__.values():
        raise UnknownReturnCode(
            f"{who} gave return code {rc:04x}h, which no table has", rc=rc, sent=sent, received=received
        )


def _check_success(rc: int, who: str, sent: bytes, received: bytes) -> None:
    if rc == ReturnCode.SUCCESS:
        return
    _check_code(rc, who, sent, received)
    if rc == ReturnCode.BACKGROUND_COMMAND_STARTED:
        raise OutcomeUnknown(f"{who} says that it goes on in the background, which nothing here waits for", sent=sent)
    raise FmRefused(f"{who} gave {code_name(rc)}", rc=rc, sent=sent, received=received)
