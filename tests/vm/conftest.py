"""What tests with a VM stand on: parts that boot, made once a session."""

from __future__ import annotations

import os

import pytest

from dcdbackend import image
from dcdbackend.errors import CannotRun

REQUIRED = "DCD_REQUIRE_QEMU"


@pytest.fixture(scope="session")
def parts() -> image.Parts:
    """QEMU, kernel and initrd as `dcd regress` would take them. Skipped where none can be had, unless
    DCD_REQUIRE_QEMU=1 makes that a failure."""
    try:
        return image.parts()
    except CannotRun as error:
        if os.environ.get(REQUIRED, "") not in ("", "0"):
            pytest.fail(f"{REQUIRED} is set, and {error}")
        pytest.skip(str(error))
