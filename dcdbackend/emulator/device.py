"""One emulated device: `model.reply` behind the bytes of a mailbox, a memory window and a manager's requests.

What it does is the model's; here bytes become the values of the history and back, and what the model does not know is
added: static capacity, Identify, return codes of commands that it has not. With a QEMU version's departures it departs
as that version does, up to its death (`Died`).

The agent's code sees it as registers (`taken`): it loads and rings this mailbox as it does a real one. A device that
serves several hosts has registers, event log and window of its own for each; `host_id` says whose, None the first's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..agent import device as agent
from ..agent import pci, window
from ..agent.mailbox import Mailbox, Reply
from ..agent.registers import Mapped
from ..errors import AskedWrongly, MachineGone, MalformedBytes
from ..model import reply as model
from ..model.decide import INVALID_INPUT, INVALID_LENGTH, QEMU_LOG_RECORDS, SUCCESS, deadly
from ..model.departures import DEPARTURES
from ..model.pool import enter, tags_in_use, whole
from ..model.state import Config, Limits, Region, State
from ..topology import DeviceSpec, expected_regions
from ..wire import (
    CapacityResponse,
    ClearEventRecords,
    DcConfig,
    DcRegion,
    DynamicCapacityRecord,
    EventRecords,
    ExtentList,
    GetDcConfig,
    GetEventRecords,
    GetExtentList,
    IdentifyMemoryDevice,
    Opcode,
    RecordType,
    WireExtent,
)
from . import wording
from .arguments import REMOVAL, SELECTION

Value = dict[str, Any]

UNSUPPORTED = 0x03
PAYLOAD_BYTES = 2048
SUPPORTED_EXTENTS = 512
LOG_RECORDS = 1024
"""What the log holds where no departure says otherwise."""
_DECODE_UNIT = 256 << 20
_PAGE = 4096
_MAX_U32 = (1 << 32) - 1


class Died(MachineGone):
    """The device ended, as the QEMU that it behaves like does. `departure` is the id of why."""

    def __init__(self, departure: str) -> None:
        super().__init__(f"the emulator ends here as QEMU does ({departure}): {DEPARTURES[departure].text}")
        self.departure = departure


class EmulatedDevice:
    """A device of the topology, fresh. `departures`: ids of those that it has; none makes it keep every rule.

    `on_change` is called after whatever may have given the host something to read.
    """

    def __init__(self, spec: DeviceSpec, *, departures: Iterable[str] = ()) -> None:
        self.spec = spec
        self.name = spec.name
        known = frozenset(departures)
        regions = tuple(
            Region(
                found.index,
                found.base,
                found.length,
                found.length,
                found.block_size,
                0,
                found.index,
                sharable=found.index >= spec.regions - spec.sharable,
            )
            for found in expected_regions(spec)
        )
        self.log_records = QEMU_LOG_RECORDS if "QEMU-log" in known else LOG_RECORDS
        if known and (spec.hosts > 1 or spec.sharable):
            raise AskedWrongly(f"{spec.name}: no QEMU has several hosts or sharable regions; let it behave strict")
        limits = _limits(known, len(regions))._replace(hosts=tuple(range(spec.hosts)))
        self.model = model.device(Config(regions, "device", known, limits))
        self.on_change: Callable[[], None] = lambda: None
        self.died: str | None = None
        self._static: dict[int, bytearray] = {}

    def towards(self, host_id: int | None = None) -> State:
        """The state as it stands towards a host that it serves."""
        state = self.model.state
        return state if host_id is None or state.rest is None else enter(state, host_id)

    @property
    def config(self) -> Config:
        """How it is set up now."""
        return self.model.state.config

    @property
    def departures(self) -> frozenset[str]:
        """The ids of the departures that it has."""
        return self.config.departures

    # -- the manager ---------------------------------------------------------------------------------------------

    def manage(self, f: str, sent: Value) -> str | None:
        """An `add` or `release` by a manager: None when it was taken, else why not, in QEMU's words. Errors: Died."""
        self._live(f, sent)
        if sent["via"] == "qmp" and not sent["extents"] and 0 <= sent["region"] < len(self.config.regions):
            if sent["policy"] == "prescriptive":
                return None
            if self.departures:
                return self._refusal(f, sent, "")
        state = self.model.state
        after, kind, received = model.reply(self.model, f, sent)
        if kind != "ok":
            return self._refusal(f, sent, str(received.get("desc", "")))
        self.model = after
        if after.state is not state:
            self.on_change()
        return None

    def _refusal(self, f: str, sent: Value, desc: str) -> str:
        """In the order in which QEMU looks; what QEMU would take is told in the model's words."""
        if sent.get("forced") and "QEMU-forced" in self.departures:
            return wording.FORCED
        policy = wording.SELECTION_POLICY if f == "add" else wording.REMOVAL_POLICY
        if sent["policy"] != "prescriptive" and (self.departures or "policy" in desc or not desc):
            return policy
        hosts = self.config.limits.hosts
        return wording.refusal(self.towards(sent["host_id"] if sent["host_id"] in hosts else None), f, sent) or desc

    @property
    def speaks_fm(self) -> bool:
        """Whether it serves 56xxh: QEMU 10.0 does not (known by a departure that only its successors have)."""
        return not self.departures or "QEMU-tag" in self.departures

    def order(self, f: str, sent: Value) -> int:
        """An `add`, `release` or `set_region` over FM-API; the return code. Errors: Died."""
        state = self.model.state
        rc, _ = self.ask(f, sent)
        if self.model.state is not state:
            self.on_change()
        return rc

    def ask(self, f: str, sent: Value) -> tuple[int, Value]:
        """What the model says to it: the return code and the rest. Errors: Died."""
        self._live(f, sent)
        self.model, kind, received = model.reply(self.model, f, sent)
        return int(received.get("rc", SUCCESS if kind == "ok" else INVALID_INPUT)), received

    # -- the host ------------------------------------------------------------------------------------------------

    def has_events(self, host_id: int | None = None) -> bool:
        """Event Status bit 4: log 4 holds records."""
        return bool(self.towards(host_id).log)

    def command(self, opcode: int, payload: bytes, host_id: int | None = None) -> Reply:
        """A mailbox command of a host. Errors: Died."""
        run = _COMMANDS.get(opcode)
        if run is None:
            return Reply(UNSUPPORTED, b"")
        return run(self, payload, host_id)

    def _live(self, f: str, sent: Value) -> None:
        departure = self.died or deadly(self.model.state, f, sent)
        if departure is not None:
            self.died = departure
            self.on_change()
            raise Died(departure)

    def _events(self, payload: bytes, host_id: int | None) -> Reply:
        if len(payload) != 1:
            return Reply(INVALID_LENGTH, b"")
        if payload[0] != GetEventRecords().log:
            return Reply(SUCCESS if payload[0] < 4 else INVALID_INPUT, _NO_RECORDS if payload[0] < 4 else b"")
        rc, said = self.ask("events", _of(host_id, {"log": payload[0]}))
        if rc:
            return Reply(rc, b"")
        counts = self.speaks_fm  # QEMU 10.0 fills in neither the counts nor the bit that says so
        records = tuple(_record(found, counts=counts) for found in said["records"])
        page = EventRecords(records=records, flags=said["flags"], overflow_count=said["overflow_count"])
        return Reply(rc, page.to_bytes())

    def _clear(self, payload: bytes, host_id: int | None) -> Reply:
        try:
            asked = ClearEventRecords.from_bytes(payload)
            sent: Value = {"log": asked.log, "flags": asked.flags, "handles": list(asked.handles)}
        except MalformedBytes:
            sent = {"raw": payload.hex()}
        return Reply(self.ask("clear", _of(host_id, sent))[0], b"")

    def _ranges(self, f: str, payload: bytes, host_id: int | None) -> Reply:
        try:
            asked = CapacityResponse.from_bytes(payload)
            sent: Value = {"flags": asked.flags, "ranges": [list(pair) for pair in asked.ranges]}
        except MalformedBytes:
            sent = {"raw": payload.hex()}
        return Reply(self.ask(f, _of(host_id, sent))[0], b"")

    def _extents(self, payload: bytes, host_id: int | None) -> Reply:
        if len(payload) != GetExtentList.layout.size:
            return Reply(INVALID_LENGTH, b"")
        asked = GetExtentList.from_bytes(payload)
        rc, said = self.ask("extents", _of(host_id, {"count": asked.count, "start": asked.start}))
        if rc:
            return Reply(rc, b"")
        extents = tuple(
            WireExtent(start=one["dpa"], length=one["length"], tag=bytes.fromhex(one["tag"]), sequence=one["sequence"])
            for one in said["extents"]
        )
        return Reply(rc, ExtentList(total=said["total"], generation=said["generation"], extents=extents).to_bytes())

    def _config(self, payload: bytes, host_id: int | None) -> Reply:
        if len(payload) != GetDcConfig.layout.size:
            return Reply(INVALID_LENGTH, b"")
        asked = GetDcConfig.from_bytes(payload)
        if asked.start_region >= len(self.config.regions):
            return Reply(INVALID_INPUT, b"")
        return Reply(SUCCESS, self.describe_config(asked.start_region, asked.region_count, host_id).to_bytes())

    def _identify(self, payload: bytes, _: int | None) -> Reply:
        if payload:
            return Reply(INVALID_LENGTH, b"")
        return Reply(SUCCESS, self.identity().to_bytes())

    def identity(self) -> IdentifyMemoryDevice:
        """What Identify (4000h) says of it."""
        static = self.spec.static_size_bytes // agent.CAPACITY_UNIT
        return IdentifyMemoryDevice(
            fw_revision=b"dcd emulator".ljust(16, b"\0"),
            total_capacity=static,
            volatile_only_capacity=static,
            persistent_only_capacity=0,
            partition_alignment=0,
            informational_event_log_size=0,
            warning_event_log_size=0,
            failure_event_log_size=0,
            fatal_event_log_size=0,
            lsa_size=0,
            poison_list_maximum_records=0,
            inject_poison_limit=0,
            poison_handling_capabilities=0,
            qos_telemetry_capabilities=0,
            dc_event_log_size=self.log_records,
        )

    def describe_config(self, first: int = 0, most: int = 8, host_id: int | None = None) -> DcConfig:
        """What 4800h says of it (DEV-19: pending counts as used; a tag that any host has counts once)."""
        state = self.towards(host_id)
        pending = 0 if "QEMU-available-pending" in self.departures else len(state.pending)
        used = len(state.accepted) + pending
        tags = tags_in_use(whole(state))
        supported_tags = self.config.limits.supported_tags or 0
        wraps = "QEMU-available-wraps" in self.departures
        return DcConfig(
            available_regions=len(self.config.regions),
            regions=tuple(
                DcRegion(
                    base=region.base,
                    decode_length=region.decode_length // _DECODE_UNIT,
                    length=region.length,
                    block_size=region.block_size,
                    dsmad_handle=region.dsmad_handle,
                    flags=region.flags,
                )
                for region in self.config.regions[first : first + most]
            ),
            supported_extents=SUPPORTED_EXTENTS,
            available_extents=(SUPPORTED_EXTENTS - used) & _MAX_U32 if wraps else max(0, SUPPORTED_EXTENTS - used),
            supported_tags=supported_tags,
            available_tags=max(0, supported_tags - len(tags)),
        )

    # -- the bytes -----------------------------------------------------------------------------------------------

    def load(self, dpa: int, length: int, host_id: int | None = None) -> bytes:
        """What the host loads there: the bytes of static and of accepted capacity, else zeros."""
        return self._read("load", dpa, length, host_id)

    def read(self, dpa: int, length: int) -> bytes:
        """What the memory behind the device holds there. Errors: AskedWrongly outside it."""
        self.spec.locate(dpa, length)
        return self._read("bytes", dpa, length)

    def store(self, dpa: int, data: bytes, host_id: int | None = None) -> None:
        """The host stores there; what is neither static nor accepted keeps nothing."""
        self._write("host", dpa, data, host_id)

    def write(self, dpa: int, data: bytes) -> None:
        """Write into the memory behind the device. Errors: AskedWrongly outside it."""
        self.spec.locate(dpa, len(data))
        self._write("backend", dpa, data)

    def _read(self, f: str, dpa: int, length: int, host_id: int | None = None) -> bytes:
        static = max(0, min(length, self.spec.static_size_bytes - dpa))
        found = bytearray()
        for at in range(dpa, dpa + static):
            page = self._static.get(at // _PAGE)
            found.append(page[at % _PAGE] if page is not None else 0)
        if static == length:
            return bytes(found)
        _, _, said = model.reply(self.model, f, _of(host_id, {"dpa": dpa + static, "length": length - static}))
        return bytes(found) + bytes.fromhex(said["data"])

    def _write(self, side: str, dpa: int, data: bytes, host_id: int | None = None) -> None:
        static = max(0, min(len(data), self.spec.static_size_bytes - dpa))
        for at in range(static):
            page = self._static.setdefault((dpa + at) // _PAGE, bytearray(_PAGE))
            page[(dpa + at) % _PAGE] = data[at]
        if static < len(data):
            sent = {"dpa": dpa + static, "data": data[static:].hex(), "side": side}
            self.model, _, _ = model.reply(self.model, "store", _of(host_id, sent))


def _of(host_id: int | None, sent: Value) -> Value:
    """An operation's value, with the host that it belongs to where that is not the first."""
    return sent if host_id is None else {**sent, "host_id": host_id}


def _limits(departures: frozenset[str], regions: int) -> Limits:
    """What a device can; one that behaves as QEMU does can less, and does not say how long its log is."""
    if departures:
        return Limits(
            payload_bytes=PAYLOAD_BYTES,
            supported_extents=SUPPORTED_EXTENTS,
            log_records=None if "QEMU-log" in departures else LOG_RECORDS,
            supported_tags=0,
            selection=frozenset(("prescriptive",)),
            removal=frozenset(("prescriptive",)),
            sanitize_configurable=0,
            references=False,
        )
    return Limits(
        payload_bytes=PAYLOAD_BYTES,
        supported_extents=SUPPORTED_EXTENTS,
        log_records=LOG_RECORDS,
        supported_tags=SUPPORTED_EXTENTS,
        selection=frozenset(SELECTION),
        removal=frozenset(REMOVAL),
        sanitize_configurable=(1 << regions) - 1,
        references=True,
        first_sequence=0,
    )


_NO_RECORDS = EventRecords(records=()).to_bytes()
_COMMANDS: dict[int, Callable[[EmulatedDevice, bytes, int | None], Reply]] = {
    Opcode.GET_EVENT_RECORDS: EmulatedDevice._events,
    Opcode.CLEAR_EVENT_RECORDS: EmulatedDevice._clear,
    Opcode.IDENTIFY_MEMORY_DEVICE: EmulatedDevice._identify,
    Opcode.GET_DC_CONFIG: EmulatedDevice._config,
    Opcode.GET_DC_EXTENT_LIST: EmulatedDevice._extents,
    Opcode.ADD_DC_RESPONSE: lambda device, payload, host_id: device._ranges("answer", payload, host_id),
    Opcode.RELEASE_DC: lambda device, payload, host_id: device._ranges("give_back", payload, host_id),
}


def _record(found: Value, *, counts: bool = True) -> DynamicCapacityRecord:
    """A record as the model gives it, as the wire has it; without the counts, and valid so, if not asked for."""
    return DynamicCapacityRecord(
        handle=found["handle"],
        type=RecordType(found["type"]),
        extent=WireExtent(
            start=found["dpa"],
            length=found["length"],
            tag=bytes.fromhex(found["tag"]),
            sequence=found["sequence"],
        ),
        flags=int(found["more"]),
        host_id=found["host_id"],
        updated_region_index=found["region"],
        validity_flags=found["validity"] if counts else 0,
        available_extents=found["available_extents"] if counts else 0,
        available_tags=found["available_tags"] if counts else 0,
        record_flags=found["severity"],
    )


# -- as the agent sees it


class Halted(BaseException):
    """The machine ended in the middle of what the host did. It never leaves `machine`, and nobody may catch it."""


_MAILBOX, _STATUS = 0, 0x20 + PAYLOAD_BYTES
_CONTROL, _COMMAND, _RETURN, _PAYLOAD = 0x04, 0x08, 0x10, 0x20
_DOORBELL = 1


class DeviceRegisters(Mapped):
    """The mailbox's registers and Event Status; the doorbell is answered before the write of it returns.

    Errors of a write: Halted when the device dies of it: the host that rang dies with it, and tells nothing.
    """

    def __init__(self, device: EmulatedDevice, host_id: int | None = None) -> None:
        super().__init__(bytearray(_STATUS + 8))
        super().write4(_MAILBOX, PAYLOAD_BYTES.bit_length() - 1)
        self._device = device
        self._host_id = host_id

    def read8(self, offset: int, /) -> int:
        if offset == _STATUS:
            return agent.DYNAMIC_CAPACITY_EVENT if self._device.has_events(self._host_id) else 0
        return super().read8(offset)

    def write4(self, offset: int, value: int, /) -> None:
        if offset != _CONTROL or not value & _DOORBELL:
            super().write4(offset, value)
            return
        command = self.read8(_COMMAND)
        payload = self.read_block(_PAYLOAD, command >> 16 & 0x1FFFFF)
        try:
            reply = self._device.command(command & 0xFFFF, payload, self._host_id)
        except Died:
            raise Halted from None
        self.write_block(_PAYLOAD, reply.payload)
        self.write8(_RETURN, reply.rc << 32)
        self.write8(_COMMAND, command & 0xFFFF | len(reply.payload) << 16)


class Window(window.Memory):
    """The host's loads and stores."""

    def __init__(self, device: EmulatedDevice, host_id: int | None = None) -> None:
        super().__init__(base=0, size=device.spec.capacity_bytes)
        self._device = device
        self._host_id = host_id

    def load(self, dpa: int, length: int) -> bytes:
        self._check(dpa, length)
        return self._device.load(dpa, length, self._host_id)

    def store(self, dpa: int, data: bytes) -> None:
        self._check(dpa, len(data))
        self._device.store(dpa, data, self._host_id)


def taken(device: EmulatedDevice, host_id: int | None = None) -> agent.Device:
    """The device as the agent has one that it took, for host U's code on that host."""
    function = pci.Function(f"emulated:{device.name}", "", pci.CLASS_MEMORY_DEVICE)
    registers = DeviceRegisters(device, host_id)
    return agent.Device(
        found=agent.Found(function, device.spec.serial, ()),
        status=registers,
        status_at=_STATUS,
        mailbox=Mailbox(registers, _MAILBOX),
        identity=device.identity(),
        config=device.describe_config(host_id=host_id),
        place=window.FixedWindow(0, device.spec.capacity_bytes, (), 0),
        memory=Window(device, host_id),
    )
