"""The command interface: opcodes, return codes, and Identify Memory Device.

Only the commands that dcdbackend sends or judges are named here; a code that is not listed is still a number
that everything else carries. The mailbox's registers are the agent's affair, not this module's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from construct import Bytes, Int8ul, Int16ul, Int24ul, Int32ul, Int64ul, Struct

from .layout import Layout, Structure


class Opcode(IntEnum):
    """Command opcodes (CXL r3.1 8.2.9, tables 8-36 and 8-126)."""

    GET_EVENT_RECORDS = 0x0100
    CLEAR_EVENT_RECORDS = 0x0101
    IDENTIFY_MEMORY_DEVICE = 0x4000
    GET_DC_CONFIG = 0x4800
    GET_DC_EXTENT_LIST = 0x4801
    ADD_DC_RESPONSE = 0x4802
    RELEASE_DC = 0x4803


class ReturnCode(IntEnum):
    """Command return codes (CXL r3.1 8.2.8.4.5.1, table 8-34)."""

    SUCCESS = 0x00
    BACKGROUND_COMMAND_STARTED = 0x01
    INVALID_INPUT = 0x02
    UNSUPPORTED = 0x03
    INTERNAL_ERROR = 0x04
    RETRY_REQUIRED = 0x05
    BUSY = 0x06
    MEDIA_DISABLED = 0x07
    FW_TRANSFER_IN_PROGRESS = 0x08
    FW_TRANSFER_OUT_OF_ORDER = 0x09
    FW_VERIFICATION_FAILED = 0x0A
    INVALID_SLOT = 0x0B
    ACTIVATION_FAILED_FW_ROLLED_BACK = 0x0C
    ACTIVATION_FAILED_COLD_RESET_REQUIRED = 0x0D
    INVALID_HANDLE = 0x0E
    INVALID_PHYSICAL_ADDRESS = 0x0F
    INJECT_POISON_LIMIT_REACHED = 0x10
    PERMANENT_MEDIA_FAILURE = 0x11
    ABORTED = 0x12
    INVALID_SECURITY_STATE = 0x13
    INCORRECT_PASSPHRASE = 0x14
    UNSUPPORTED_MAILBOX_OR_CCI = 0x15
    INVALID_PAYLOAD_LENGTH = 0x16
    INVALID_LOG = 0x17
    INTERRUPTED = 0x18
    UNSUPPORTED_FEATURE_VERSION = 0x19
    UNSUPPORTED_FEATURE_SELECTION_VALUE = 0x1A
    FEATURE_TRANSFER_IN_PROGRESS = 0x1B
    FEATURE_TRANSFER_OUT_OF_ORDER = 0x1C
    RESOURCES_EXHAUSTED = 0x1D
    INVALID_EXTENT_LIST = 0x1E
    TRANSFER_OUT_OF_ORDER = 0x1F
    REQUEST_ABORT_NOT_SUPPORTED = 0x20


_IDENTIFY = Struct(
    "fw_revision" / Bytes(16),
    "total_capacity" / Int64ul,
    "volatile_only_capacity" / Int64ul,
    "persistent_only_capacity" / Int64ul,
    "partition_alignment" / Int64ul,
    "informational_event_log_size" / Int16ul,
    "warning_event_log_size" / Int16ul,
    "failure_event_log_size" / Int16ul,
    "fatal_event_log_size" / Int16ul,
    "lsa_size" / Int32ul,
    "poison_list_maximum_records" / Int24ul,
    "inject_poison_limit" / Int16ul,
    "poison_handling_capabilities" / Int8ul,
    "qos_telemetry_capabilities" / Int8ul,
    "dc_event_log_size" / Int16ul,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class IdentifyMemoryDevice(Structure):
    """Output of Identify Memory Device, 4000h: 69 bytes (CXL r3.1 8.2.9.9.1.1, table 8-127).

    The three capacities are of the static part, in multiples of 256 MiB, as is the partition alignment; event
    log sizes are in records; the size of the label storage area is in bytes; `fw_revision` is 16 bytes of
    ASCII, padded with zeros.
    """

    declaration = _IDENTIFY
    layout = Layout("IdentifyMemoryDevice", _IDENTIFY)

    fw_revision: bytes
    total_capacity: int
    volatile_only_capacity: int
    persistent_only_capacity: int
    partition_alignment: int
    informational_event_log_size: int
    warning_event_log_size: int
    failure_event_log_size: int
    fatal_event_log_size: int
    lsa_size: int
    poison_list_maximum_records: int
    inject_poison_limit: int
    poison_handling_capabilities: int
    qos_telemetry_capabilities: int
    dc_event_log_size: int
