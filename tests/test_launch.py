"""`launch` without a guest: the emulator by name, in QEMU's place, and through the fabric manager; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dcdbackend as dcd
from dcdbackend import image
from dcdbackend.boot import HISTORY, PARTS
from dcdbackend.history import History

TAG = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"


def recorded(run: Path) -> tuple[str, set[str]]:
    """The backend of its history, and who injected in it."""
    with (run / HISTORY).open("rb") as file:
        history = History(file)
        ops = list(history)
    return history.header.backend, {op.value["via"] for op in ops if op.f == "add" and op.type == "invoke"}


@pytest.mark.parametrize(
    ("options", "vias", "tags"),
    [
        ({}, {"qmp", "fm"}, True),
        ({"via": "fm"}, {"fm"}, True),
        ({"via": "qmp"}, {"qmp"}, False),
        ({"behaves": "qemu-11.1.3", "via": "fm"}, {"fm"}, False),  # it forgets what it was given (QEMU-tag)
    ],
)
async def test_the_emulator_is_a_bench_like_any_other(
    options: dict[str, Any], vias: set[str], tags: bool, tmp_path: Path
) -> None:
    async with dcd.launch(dcd.switch(regions=2), backend="emulator", run_dir=tmp_path / "run", **options) as bench:
        answer = await (await bench.add(["0+256M"])).answer(timeout_s=5)
        assert answer.accepted == ((bench.dpa(0, 0), 256 * dcd.MIB),)
        mark = bench.random.randbytes(4096)
        await bench.store(bench.dpa(0, 0), mark)
        assert await bench.read(bench.dpa(0, 0), 4096) == mark
        if options.get("via") != "qmp":
            await (await bench.add(["512M+2M"], tag=TAG)).answer()
            listed = await bench.fm_extents()
            assert (TAG in {one["tag"] for one in listed}) == tags
        verdict = await bench.verdict()
        assert not verdict.failed and bool(verdict.departures) == ("behaves" in options)
    assert recorded(tmp_path / "run") == ("emulator", vias)
    assert json.loads((tmp_path / "run" / PARTS).read_text()) == {"backend": "emulator"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"backend": "qmeu"}, "backend 'qmeu'"),
        ({"via": "mail"}, "via 'mail'"),
        ({"backend": "emulator", "kernel": "bzImage"}, 'kernel and backend="emulator", which boots nothing'),
        ({"backend": "emulator", "host": "kernel"}, 'host and backend="emulator", which boots nothing'),
        ({"backend": "emulator", "behaves": "qemu-1.2.3"}, "behaviour 'qemu-1.2.3'"),
        ({"backend": "emulator", "behaves": "qemu-10.0.2", "via": "fm"}, "qemu-10.0.2 has no FM-API"),
        ({"behaves": "strict"}, "behaves='strict' is the emulator's"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_made(
    options: dict[str, Any], text: str, tmp_path: Path
) -> None:
    with pytest.raises(dcd.AskedWrongly, match=text):
        async with dcd.launch(run_dir=tmp_path / "run", **options):
            pytest.fail("launched")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def no_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    def parts(**_: Any) -> image.Parts:
        raise dcd.CannotRun("this machine has no apt")

    monkeypatch.setattr(image, "parts", parts)
    for name in ("DCD_QEMU", "DCD_KERNEL", "DCD_INITRD", "DCD_ACCEL", "DCD_REQUIRE_QEMU"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_qemu")
async def test_auto_takes_the_emulator_where_no_qemu_can_be_had_and_says_so(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="this machine has no apt; BACKEND EMULATOR in its place"):
        async with dcd.launch(backend="auto", run_dir=tmp_path / "run") as bench:
            assert (await (await bench.add(["0+2M"])).answer()).outcome == "accepted"
    assert recorded(tmp_path / "run") == ("emulator", {"qmp"})


@pytest.mark.usefixtures("no_qemu")
@pytest.mark.parametrize(
    ("options", "environment"),
    [
        ({"backend": "qemu"}, {}),
        ({"backend": "auto", "qemu": "system"}, {}),
        ({"backend": "auto"}, {"DCD_KERNEL": "bzImage"}),
        ({"backend": "auto"}, {"DCD_REQUIRE_QEMU": "1"}),
        ({"backend": "auto", "host": "kernel"}, {}),
    ],
)
async def test_who_wants_qemu_or_names_its_parts_gets_an_error(
    options: dict[str, Any], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(dcd.CannotRun, match="no apt"):
        async with dcd.launch(run_dir=tmp_path / "run", **options):
            pytest.fail("launched")
