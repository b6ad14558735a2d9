"""The data oracle through the kernel, broken on purpose: what each of its scenarios is there to catch, it catches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_kernel_scenarios import run

from dcdbackend.kernel.session import places
from dcdbackend.kernel.simulated import SimulatedKernel
from dcdbackend.scenario import SCENARIOS, kernel_data
from dcdbackend.units import MIB

DATA = ("data-through-dax", "data-in-order", "data-returned")
BLOCK = 2 * MIB
OUTSIDE = "it is outside of dax0.0, and was touched"


async def failed(directory: Path, name: str) -> str:
    """Why the scenario fails on the simulated kernel."""
    (result,) = await run(directory, "v11", [SCENARIOS[name]])
    assert result.outcome == "fail"
    assert result.reason is not None
    return str(result.reason)


@pytest.mark.parametrize("name", DATA)
async def test_a_wrong_dpa_in_the_scenario_fails(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        kernel_data, "places", lambda extents: [(at, dpa + BLOCK, size) for at, dpa, size in places(extents)]
    )
    due = "stored is not there when it is given up" if name == "data-returned" else "reads something else than what the"
    assert due in await failed(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "at", "dpa", "told"),
    [
        ("data-through-dax", 0, 192 * MIB - 1, OUTSIDE),  # the last byte before the extent
        ("data-through-dax", 64 * MIB - 64, 256 * MIB + 4095, OUTSIDE),  # the page after it
        ("data-through-dax", 32 * MIB - 64, 190 * MIB + 1, OUTSIDE),  # another extent
        ("data-in-order", 64 * MIB, 256 * MIB - 4096, OUTSIDE),  # the page before the third extent
        (
            "data-in-order",
            64 * MIB,
            512 * MIB + 3,
            "what dax0.0 stored is not there",
        ),  # an extent of its own, which it stored to before
    ],
)
async def test_a_store_that_touches_what_is_outside_fails(
    name: str, at: int, dpa: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = SimulatedKernel.write

    async def write(self: SimulatedKernel, dax: str, offset: int, data: bytes) -> dict[str, Any]:
        said = await right(self, dax, offset, data)
        if offset == at:
            memory = self._machine.devices["mem0"]
            memory.write(dpa, bytes([memory.read(dpa, 1)[0] ^ 0xFF]))
        return said

    monkeypatch.setattr(SimulatedKernel, "write", write)
    assert told in await failed(tmp_path, name)


async def test_a_kernel_that_shows_what_was_there_before_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that nobody invalidates: what was stored once through a DAX device is read from it for ever."""
    right, cache = SimulatedKernel.write, dict[tuple[str, int], bytes]()
    read_right = SimulatedKernel.read

    async def write(self: SimulatedKernel, dax: str, offset: int, data: bytes) -> dict[str, Any]:
        cache[dax, offset] = data
        return await right(self, dax, offset, data)

    async def read(self: SimulatedKernel, dax: str, offset: int, length: int) -> dict[str, Any]:
        stale = cache.get((dax, offset))
        said = await read_right(self, dax, offset, length)
        return said if stale is None or offset < 30 * MIB else {**said, "data": stale.hex()}

    monkeypatch.setattr(SimulatedKernel, "write", write)
    monkeypatch.setattr(SimulatedKernel, "read", read)
    assert "it reads what was there before the capacity left" in await failed(tmp_path, "data-returned")


async def test_a_store_that_stays_in_a_cache_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored at the end of the device is read back, and never reaches the memory."""
    right, kept = SimulatedKernel.write, dict[int, bytes]()
    read_right = SimulatedKernel.read

    async def write(self: SimulatedKernel, dax: str, offset: int, data: bytes) -> dict[str, Any]:
        if offset < 31 * MIB:
            return await right(self, dax, offset, data)
        kept[offset] = data
        return {"error": ""}

    async def read(self: SimulatedKernel, dax: str, offset: int, length: int) -> dict[str, Any]:
        said = await read_right(self, dax, offset, length)
        return {**said, "data": kept[offset].hex()} if offset in kept else said

    monkeypatch.setattr(SimulatedKernel, "write", write)
    monkeypatch.setattr(SimulatedKernel, "read", read)
    assert "is not there when it is given up" in await failed(tmp_path, "data-returned")
