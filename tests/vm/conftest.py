"""What tests with a VM stand on: parts that boot, made once a session."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import NoReturn

import pytest

from dcdbackend import boot, image, machine
from dcdbackend.boot import Setup
from dcdbackend.errors import CannotRun

REQUIRED = "DCD_REQUIRE_QEMU"


@pytest.fixture(scope="session")
def cannot_be_had() -> Callable[[object], NoReturn]:
    """Called where something real is not there: a skip, unless DCD_REQUIRE_QEMU=1 makes that a failure."""

    def end(why: object) -> NoReturn:
        if os.environ.get(REQUIRED, "") not in ("", "0"):
            pytest.fail(f"{REQUIRED} is set, and {why}")
        pytest.skip(str(why))

    return end


@pytest.fixture(scope="session")
def parts(cannot_be_had: Callable[[object], NoReturn]) -> image.Parts:
    """QEMU, kernel and initrd as `dcd regress` would take them."""
    try:
        return image.parts()
    except CannotRun as error:
        cannot_be_had(error)


@pytest.fixture(scope="session")
def setup(parts: image.Parts) -> Setup:
    """The parts, probed: what a `Runner` takes."""

    async def probed() -> Setup:
        qemu = await machine.probe_qemu(parts.qemu_argv, origin=parts.qemu_origin)
        accel = await machine.choose_accel(qemu, kernel=parts.kernel, cache_dir=image.cache_dir())
        return Setup(qemu=qemu, accel=accel, kernel=parts.kernel, initrd=parts.initrd)

    return asyncio.run(probed())


@pytest.fixture(scope="session")
def kernel_setup(parts: image.Parts) -> Setup:
    """The same with the kernel's own drivers as the host, their modules along; each device has static capacity, which
    every Linux uses, before its dynamic one."""
    under_test = image.parts(host="kernel")
    return asyncio.run(boot.prepare(under_test, shape={"regions": 1, "size": "256M", "static": "512M"}))
