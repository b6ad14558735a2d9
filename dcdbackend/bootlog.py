"""Why a guest did not come up, or will hear of no event, from what its console says: a table of signs.

A guest that ends or goes silent before its agent speaks leaves only its console. `why` reads it and names the cause and
what to do about it, where there is one to name; it is asked only after a boot that failed, so that what a healthy boot
prints as well is no sign. `mute` is asked of a kernel under test that did come up. Nothing is read from a file here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_SHOWN = 200


class Sign(NamedTuple):
    """`pattern` on the console means `cause`, and `remedy` helps; {said} in `cause` is the pattern's first group."""

    pattern: re.Pattern[str]
    cause: str
    remedy: str


def _sign(pattern: str, cause: str, remedy: str) -> Sign:
    return Sign(re.compile(pattern), cause, remedy)


_PORT = (
    "the kernel needs CONFIG_VIRTIO_PCI and CONFIG_VIRTIO_CONSOLE, built in or by --modules (dcd kernel check tells)"
)
_ROOT = "give a cpio archive, compressed by what the kernel can unpack, and a kernel with CONFIG_BLK_DEV_INITRD"
_START = (
    "the initrd needs sh, mount, poweroff and python3, and the kernel CONFIG_BINFMT_ELF and CONFIG_BINFMT_SCRIPT; "
    "without --initrd ours is taken"
)

SIGNS: tuple[Sign, ...] = (
    _sign(r"(/dcd/modules/\S+) was not loaded", "the kernel does not take its module {said}", _PORT),
    _sign(r"no virtio port '[^'\n]*' among", "the agent has no port to speak through", _PORT),
    _sign(r"python3: not found", "the initrd has no python3", _START),
    _sign(r"No module named '?(construct|crcmod)", "the initrd's python has no {said}", "install it there"),
    _sign(r"dcdbackend\.agent: ended by ([^\n]*)", "the agent ended: {said}", "see the console"),
    _sign(r"No module named '?dcdbackend", "the initrd holds no agent", "give --initrd, which has it appended"),
    _sign(r"dcd: the agent ended with (status \d+)", "the agent ended with {said}", "see the console"),
    _sign(r"Initramfs unpacking failed: ([^\n]*)", "the kernel could not unpack the initrd ({said})", _ROOT),
    _sign(r"Failed to execute /init \((error -\d+)\)", "the kernel could not start /init ({said})", _START),
    _sign(r"No working init found", "the kernel found no /init that it could start", _START),
    _sign(r"Unable to mount root fs", "the kernel found no root file system in the initrd", _ROOT),
)
"""The first that is found counts: what is nearest to the cause comes first."""


_ASKED = re.compile(r"ACPI0016:[^\n]*_OSC: ([^\n]*)")
_GRANTED = re.compile(r"ACPI0016:[^\n]*_OSC: OS now controls \[[^\n\]]*CXLMemErrorReporting")


def mute(console: str) -> str | None:
    """Why no DCD event will reach this kernel, although it runs; None where it was given what it takes, or where the
    console shows nothing of it. ACPI0016 is a CXL host bridge (drivers/acpi/pci_root.c prints what _OSC came to)."""
    said = _ASKED.findall(console)
    if not said or _GRANTED.search(console):
        return None
    refused = next((line for line in said if "not requesting" in line), said[-1]).strip()[:_SHOWN]
    return (
        f"the kernel was given no CXL memory error reporting (_OSC: {refused}), so it gets no DCD interrupt from QEMU, "
        "and events would be lost in silence; it needs CONFIG_MEMORY_FAILURE, CONFIG_X86_MCE, CONFIG_PCIEASPM and "
        "CONFIG_PCI_MSI (dcd kernel check tells), and no pcie_aspm=off"
    )


def why(console: str) -> str | None:
    """What kept the guest from coming up, and what to do; None where the console has no sign of it."""
    for sign in SIGNS:
        found = sign.pattern.search(console)
        if found is not None:
            said = found[1].strip()[:_SHOWN] if found.groups() else ""
            return f"{sign.cause.replace('{said}', said)}; {sign.remedy}"
    return None
