"""A kernel under test is booted for real: with its modules, and with everything that can be wrong with it.

The stock kernel stands in for one with DCD: it is booted the same way. What a boot that fails says is tried on kernels
that really fail; a bound of seconds stands for the minute that a user's has.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dcdbackend import image
from dcdbackend.boot import UNBIND, BootedGuest, Setup, prepare
from dcdbackend.errors import CannotRun, DcdError, MachineGone, TimedOut
from dcdbackend.guest import PATIENCE
from dcdbackend.image import archive, product

pytestmark = pytest.mark.vm

BOUND_S = 6.0
"""For an agent that never comes; a healthy boot takes about 4 s here."""
HANG_S = 2.5
"""For one that is known not to come, with nothing to wait for on the console."""


def guest_of(setup: Setup, place: Path, *, timeout_s: float = BOUND_S, without: str = "") -> BootedGuest:
    """A guest that is not started; `without`: words taken out of our own kernel command line."""
    guest = setup.guest(setup.topology(), place / "guest")
    guest._boot_timeout_s = timeout_s
    if without:
        at = guest._argv.index("-append") + 1
        guest._argv[at] = guest._argv[at].replace(without, "")
    return guest


async def failure(guest: BootedGuest) -> DcdError:
    """How its boot fails, within the bound."""
    began = time.monotonic()
    with pytest.raises(DcdError) as caught:
        async with guest:
            pass
    assert time.monotonic() - began < PATIENCE * BOUND_S + 10
    assert "\n" not in str(caught.value)
    return caught.value


async def test_the_modules_are_in_the_guest_and_its_drivers_have_the_device(
    kernel_setup: Setup, tmp_path: Path
) -> None:
    """With two processors; and the firmware gave it what a device's interrupts need."""
    async with guest_of(kernel_setup, tmp_path, timeout_s=60) as guest:
        assert guest.ready["host"] == "kernel"
        (memdev,) = guest.ready["survey"]["memdevs"]
        assert memdev["serial"] == guest.shape.devices[0].serial
        assert {"cxl_acpi", "cxl_pci", "kmem"} <= set(guest.ready["survey"]["modules"]["loaded"])
        console = (guest.run_dir / "console.log").read_text(errors="replace")
    assert "OS now controls [CXLMemErrorReporting]" in console
    assert "Brought up 1 node, 2 CPUs" in console


async def test_host_u_boots_without_modules(setup: Setup, kernel_setup: Setup, tmp_path: Path) -> None:
    """Its initrd is the first part of the other's, byte for byte."""
    first, both = setup.initrd.read_bytes(), kernel_setup.initrd.read_bytes()
    if setup.kernel != kernel_setup.kernel or first == both:
        pytest.skip("kernel and initrd are the user's own")
    assert both.startswith(first)
    assert b"dcd/modules/cxl_pci.ko\0" in both[len(first) :]
    assert b"dcd/modules/cxl_pci.ko\0" not in first


async def test_host_u_takes_the_devices_from_a_kernel_that_was_given(setup: Setup) -> None:
    """Which may have the drivers built in; ours has them as modules that nobody loads."""
    given = await asyncio.to_thread(image.parts, kernel=str(setup.kernel))
    assert (await prepare(given)).append == UNBIND
    under_test = await asyncio.to_thread(image.parts, kernel=str(setup.kernel), host="kernel")
    assert (await prepare(under_test)).append == ""


async def test_a_kernel_that_does_not_see_a_console_port(kernel_setup: Setup, tmp_path: Path) -> None:
    """As one without CONFIG_VIRTIO_CONSOLE: the agent cannot speak, and the console says why."""
    setup = replace(kernel_setup, append="initcall_blacklist=virtio_console_init,virtio_pci_driver_init")
    error = await failure(guest_of(setup, tmp_path))
    assert isinstance(error, CannotRun)
    assert "CONFIG_VIRTIO_CONSOLE" in str(error)
    assert "console.log" in str(error)


async def test_a_kernel_that_would_hear_of_no_event(kernel_setup: Setup, tmp_path: Path) -> None:
    """As one without CONFIG_PCIEASPM: QEMU would deliver no interrupt, and nothing would say so."""
    error = await failure(guest_of(replace(kernel_setup, append="pcie_aspm=off"), tmp_path, timeout_s=60))
    assert isinstance(error, CannotRun)
    assert "no CXL memory error reporting" in str(error)
    assert "CONFIG_PCIEASPM" in str(error)


async def test_a_kernel_that_panics(kernel_setup: Setup, tmp_path: Path) -> None:
    """In its own words; not the initrd's fault, so no remedy is made up."""
    setup = replace(kernel_setup, append="rdinit=/usr/bin/ls")
    error = await failure(guest_of(setup, tmp_path))
    assert isinstance(error, MachineGone)
    assert "the guest's kernel panicked: Kernel panic - not syncing: Attempted to kill init!" in str(error)


@pytest.mark.parametrize("console", ["console=ttyS0 ", ""])
async def test_a_kernel_that_hangs(console: str, kernel_setup: Setup, tmp_path: Path) -> None:
    """Its /init never ends and never speaks; with a console, and without one."""
    setup = replace(kernel_setup, append="rdinit=/usr/bin/cat")
    without, timeout_s = ("", BOUND_S) if console else ("console=ttyS0 ", HANG_S)
    error = await failure(guest_of(setup, tmp_path, timeout_s=timeout_s, without=without))
    assert isinstance(error, TimedOut)
    assert "the guest's agent was not ready after" in str(error)
    if console:
        assert "Run /usr/bin/cat as init process" in str(error)
    else:
        assert "it wrote nothing on its console" in str(error)


def without_python(place: Path, busybox: Path) -> Path:
    own = place / "own.cpio"
    names = ("sh", "mount", "poweroff", "insmod")
    members = [*map(archive.directory, ("bin", "dev", "proc", "sys"))]
    members += [archive.file("bin/busybox", busybox.read_bytes(), executable=True)]
    members += [archive.link(f"bin/{name}", "busybox") for name in names]
    with own.open("wb") as file:
        archive.write(file, members)
    return own


async def test_an_initrd_that_cannot_do(kernel_setup: Setup, tmp_path: Path) -> None:
    """One's own, with the agent behind it, and nothing there to run it."""
    busybox = kernel_setup.kernel.parent / product.TREE / "usr/bin/busybox"
    if not busybox.is_file():
        pytest.skip("kernel and initrd are the user's own")
    own = str(without_python(tmp_path, busybox))
    parts = await asyncio.to_thread(image.parts, kernel=str(kernel_setup.kernel), initrd=own, host="kernel")
    error = await failure(guest_of(replace(kernel_setup, initrd=parts.initrd), tmp_path))
    assert isinstance(error, CannotRun)
    assert "the initrd has no python3" in str(error)


def test_a_stock_kernel_is_told_what_it_lacks(kernel_setup: Setup, tmp_path: Path) -> None:
    """`dcd regress --kernel` alone means that kernel's own DCD; without any it is exit 3, and host U is named."""
    argv = ["regress", "--kernel", str(kernel_setup.kernel), "--run-dir", str(tmp_path / "run")]
    ended = subprocess.run(
        [sys.executable, "-m", "dcdbackend", *argv],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert ended.returncode == 3, ended.stdout + ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert "has no Dynamic Capacity support" in last
    assert "--host U" in last
    assert "Traceback" not in ended.stderr
