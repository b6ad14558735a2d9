"""A switch's mailbox (its CCI), taken: the fabric manager's way to the devices below it.

It is a PCI function of its own (class 0C0B00h, CXL r3.1 7.2.9) with the registers of a primary mailbox in its BAR. No
Linux driver claims it, so it serves whoever owns the memory devices: the agent, or the kernel. One command at a time,
as bytes: what they mean is the controller's affair, and the 5300h in them is a command like any other.
"""

from __future__ import annotations

from ..errors import AnsweredWrongly, CannotRun, OutcomeUnknown
from . import pci
from .mailbox import Mailbox, Reply
from .registers import PRIMARY_MAILBOX, Mapped, device_capabilities

CLASS_SWITCH_MAILBOX = 0x0C0B00


class Switch:
    """The mailbox of one switch. `payload_size` in bytes."""

    def __init__(self, function: pci.Function, registers: Mapped, at: int) -> None:
        self.address = function.address
        self._function = function
        self._registers = registers
        self._at = at
        self._capabilities = registers.read4(at)
        self._mailbox = Mailbox(registers, at)
        self.payload_size = self._mailbox.payload_size

    def command(self, opcode: int, payload: bytes) -> Reply:
        """Send it and take the answer.

        Errors: as `Mailbox.command`; OutcomeUnknown when the registers are not there any more. Then they read as all
        ones on a real bus and as zero on QEMU's, and what can never change has changed.
        """
        there = self._registers.read4(self._at)
        if there != self._capabilities:
            raise OutcomeUnknown(
                f"the switch mailbox {self.address} is gone: its capabilities read 0x{there:x}, "
                f"and were 0x{self._capabilities:x}"
            )
        return self._mailbox.command(opcode, payload)

    def half(self, opcode: int, payload: bytes) -> None:
        """Write it into the registers and ring nothing, as a manager that dies there. Errors: as `Mailbox.load`."""
        self._mailbox.load(opcode, payload)

    def vanish(self) -> None:
        """Switch its memory decoding off, so that it is gone for us; a test wants to see that told."""
        pci.hide(self._function)


def switches(root: str) -> list[Switch]:
    """Every switch mailbox that the guest sees, by address. Errors: CannotRun (a driver has it; it cannot be mapped),
    AnsweredWrongly (its registers are not what they should be)."""
    return [_take(function) for function in pci.functions(root, CLASS_SWITCH_MAILBOX)]


def _take(function: pci.Function) -> Switch:
    driver = pci.bound_driver(function)
    if driver is not None:
        raise CannotRun(f"the switch mailbox {function.address} is driven by {driver}; boot without that module")
    for located in pci.located_registers(pci.config_space(function)):
        if located.kind == pci.DEVICE_REGISTERS:
            break
    else:
        raise AnsweredWrongly(f"{function.address}: its Register Locator names no device registers")
    pci.enable(function)
    registers = Mapped(pci.map_bar(function, located.bar), offset=located.offset)
    found = device_capabilities(registers).get(PRIMARY_MAILBOX)
    if found is None:
        raise AnsweredWrongly(f"{function.address} has no mailbox registers")
    return Switch(function, registers, found.offset)
