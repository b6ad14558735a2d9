"""Why a guest did not come up: consoles as real boots left them (QEMU 11.1.3, Linux 6.12), shortened."""

from __future__ import annotations

import pytest

from dcdbackend import bootlog

HEAD = """\
[    0.082000] Unknown kernel command line parameters "DCD_AGENT_KERNEL=1", will be passed to user space.
[    1.272714] Trying to unpack rootfs image as initramfs...
"""
CONSOLES = {
    "the initrd has no python3": """\
[    1.648802] Run /init as init process
/init: line 28: python3: not found
dcd: the agent ended with status 127; powering off
""",
    "the agent has no port to speak through": """\
dcdbackend.agent: ended by CannotRun: no virtio port 'dcd.agent' among []; give the machine one, or name one with --port
dcd: the agent ended with status 3; powering off
""",
    "the kernel does not take its module /dcd/modules/virtio_console.ko": """\
insmod: can't insert '/dcd/modules/virtio_console.ko': invalid module format
dcd: /dcd/modules/virtio_console.ko was not loaded
dcdbackend.agent: ended by CannotRun: no virtio port 'dcd.agent' among []; give the machine one, or name one with --port
dcd: the agent ended with status 3; powering off
""",
    "could not unpack the initrd (invalid magic at start of compressed archive)": """\
[    1.145989] Initramfs unpacking failed: invalid magic at start of compressed archive
[    1.563207] VFS: Cannot open root device "" or unknown-block(0,0): error -6
[    1.564086] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
""",
    "could not start /init (error -2)": """\
[    2.368946] Failed to execute /init (error -2)
[    2.369791] Kernel panic - not syncing: No working init found.  Try passing init= option to kernel. See Linux
""",
    "found no root file system in the initrd": """\
[    1.564086] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)
""",
    "the initrd's python has no construct": """\
Traceback (most recent call last):
  File "/dcd/dcdbackend/wire/cci.py", line 12, in <module>
ModuleNotFoundError: No module named 'construct'
dcd: the agent ended with status 1; powering off
""",
    "the initrd holds no agent": """\
/usr/bin/python3: Error while finding module specification for 'dcdbackend.agent' (ModuleNotFoundError: No module named 'dcdbackend')
dcd: the agent ended with status 1; powering off
""",  # noqa: E501
    "the agent ended: KeyError: 'x'": """\
dcdbackend.agent: ended by KeyError: 'x'
dcd: the agent ended with status 70; powering off
""",
    "the agent ended with status 139": "dcd: the agent ended with status 139; powering off\n",
}


@pytest.mark.parametrize("cause", CONSOLES)
def test_the_cause_and_what_to_do(cause: str) -> None:
    told = bootlog.why(HEAD + CONSOLES[cause])
    assert told is not None
    assert cause in told
    assert "; " in told.partition(cause)[2], "what to do"
    assert "\n" not in told


def test_every_sign_is_seen_here() -> None:
    seen = set()
    for console in CONSOLES.values():
        seen.add(next(sign.pattern.pattern for sign in bootlog.SIGNS if sign.pattern.search(console)))
    hidden = {sign.pattern.pattern for sign in bootlog.SIGNS} - seen
    assert hidden <= {"No working init found"}, "only behind a nearer sign"
    assert "could start" in (bootlog.why("Kernel panic - not syncing: No working init found.") or "")


def test_a_healthy_boot_has_no_sign() -> None:
    assert bootlog.why(HEAD + "[    1.648802] Run /init as init process\n") is None
    assert bootlog.why("") is None


OSC = """\
[    0.794494] acpi ACPI0016:00: _OSC: OS supports [ExtendedConfig ASPM ClockPM Segments MSI HPX-Type3]
[    0.795881] acpi ACPI0016:00: _OSC: platform does not support [LTR]
[    0.802348] acpi ACPI0016:00: _OSC: OS now controls [PCIeHotplug PME AER PCIeCapability]
[    0.802637] acpi ACPI0016:00: _OSC: OS now controls [CXLMemErrorReporting]
"""
NO_OSC = """\
[    1.145530] acpi PNP0A08:00: _OSC: not requesting OS control; OS requires [ExtendedConfig ASPM ClockPM MSI]
[    1.187090] acpi ACPI0016:00: _OSC: OS supports [ExtendedConfig Segments MSI HPX-Type3]
[    1.187246] acpi ACPI0016:00: _OSC: not requesting OS control; OS requires [ExtendedConfig ASPM ClockPM MSI]
[    1.188902] acpi ACPI0016:00: _OSC: OS requested [CXLMemErrorReporting]
[    1.188902] acpi ACPI0016:00: _OSC: platform willing to grant [CXLMemErrorReporting]
[    1.188902] acpi ACPI0016:00: _OSC: platform retains control of PCIe features (AE_SUPPORT)
"""


def test_a_kernel_that_hears_of_no_event() -> None:
    """What two real boots printed: as it should be, and with pcie_aspm=off."""
    assert bootlog.mute(OSC) is None
    assert bootlog.mute("") is None
    assert bootlog.mute("[    1.1] acpi PNP0A08:00: _OSC: OS now controls [PME AER PCIeCapability]\n") is None
    told = bootlog.mute(NO_OSC)
    assert told is not None
    assert "OS requires [ExtendedConfig ASPM ClockPM MSI]" in told
    assert "CONFIG_PCIEASPM" in told
    assert "lost in silence" in told


def test_what_a_console_says_is_data() -> None:
    """Braces and length of what a guest prints do not matter."""
    told = bootlog.why("dcdbackend.agent: ended by {0} {said} " + "x" * 100_000 + "\n")
    assert told is not None
    assert len(told) < 400
