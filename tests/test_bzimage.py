"""A kernel image says its version and its configuration, by whatever it is compressed with."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest
from kernel_files import VERSION, bz_image, with_config

from dcdbackend import bzimage
from dcdbackend.errors import AskedWrongly, CannotRun

CONFIG = "#\n# Linux\n#\nCONFIG_CXL_BUS=y\n"
BODY = with_config(CONFIG)
SIZE = len(BODY).to_bytes(4, "little")
"""A kernel's payload ends with the size of what was packed (scripts/Makefile.lib, size_append)."""


def zstd(data: bytes) -> bytes:
    """A frame of one raw block, by RFC 8878: single segment, four bytes of content size."""
    return b"\x28\xb5\x2f\xfd\xa0" + len(data).to_bytes(4, "little") + (len(data) << 3 | 1).to_bytes(3, "little") + data


def lz4_legacy(data: bytes) -> bytes:
    """The legacy frame that kernels are made with: one block of literals alone."""
    rest = len(data) - 15
    block = b"\xf0" + b"\xff" * (rest // 255) + bytes([rest % 255]) + data
    return b"\x02\x21\x4c\x18" + len(block).to_bytes(4, "little") + block


PACKED = {
    "gzip": gzip.compress(BODY),
    "xz": lzma.compress(BODY, check=lzma.CHECK_CRC32),
    "lzma": lzma.compress(BODY, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress(BODY),
    "zstd": zstd(BODY),
    "lz4": lz4_legacy(BODY),
}


@pytest.mark.parametrize("packing", PACKED)
def test_the_configuration_inside(packing: str, tmp_path: Path) -> None:
    if packing in ("zstd", "lz4") and shutil.which(packing) is None:
        pytest.skip(f"no program {packing} is here")
    image = tmp_path / "bzImage"
    image.write_bytes(bz_image(PACKED[packing] + SIZE))
    assert bzimage.version(image) == VERSION
    assert bzimage.config(image) == CONFIG


def test_an_image_without_one(tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(bz_image(gzip.compress(b"no configuration here") + SIZE))
    assert bzimage.config(image) is None


def test_a_vmlinux_is_searched_as_it_is(tmp_path: Path) -> None:
    image = tmp_path / "vmlinux"
    image.write_bytes(b"\x7fELF" + bytes(0x300) + b"Linux version 7.2.12-own (a@b) " + BODY)
    assert bzimage.version(image) == "7.2.12-own"
    assert bzimage.config(image) == CONFIG


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is no kernel image"),
        (b"x" * 4096, "is no kernel image"),
        (bz_image(gzip.compress(BODY))[:-1], "is cut short"),
        (bz_image(), "is cut short"),
        (bz_image(gzip.compress(BODY), protocol=0x207), "boot protocol 207"),
        (bz_image(gzip.compress(BODY)[:-20]), "is damaged: its gzip data"),
        (bz_image(PACKED["xz"][:-30]), "is damaged: its xz data"),
        (bz_image(PACKED["xz"][:9] + b"\xff" * 99), "is damaged: its xz data"),
        (bz_image(PACKED["bzip2"][:-5]), "is damaged: its bzip2 data"),
    ],
)
def test_what_is_none_or_damaged_is_one_line(data: bytes, told: str, tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(data)
    with pytest.raises(AskedWrongly, match=told) as caught:
        bzimage.config(image)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("at", [0, 0x1F0, 0x202, 0x210, 0x24F, 0x300, 1023, 1024])
def test_a_head_alone_is_never_a_fault(at: int, tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(bz_image(PACKED["gzip"])[:at])
    bzimage.version(image)
    with pytest.raises(AskedWrongly):
        bzimage.config(image)


def test_a_file_that_is_not_there() -> None:
    for ask in (bzimage.version, bzimage.config):
        with pytest.raises(AskedWrongly, match="'/nonexistent/k' cannot be read"):
            ask(Path("/nonexistent/k"))


@pytest.mark.parametrize(("packing", "program"), [("zstd", "zstd"), ("lz4", "lz4")])
def test_what_nothing_here_unpacks(packing: str, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(bzimage, "_LIBRARIES", {})
    with pytest.raises(CannotRun, match=f"compressed with {packing}.*apt-get install {program}"):
        bzimage.unpacked(PACKED[packing], "a kernel")


def test_a_program_that_gives_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "zstd"
    program.write_text("#!/bin/sh\necho damaged >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(bzimage, "_LIBRARIES", {})
    with pytest.raises(AskedWrongly, match=r"its zstd data cannot be unpacked \(damaged\)"):
        bzimage.unpacked(PACKED["zstd"], "a kernel")


def test_what_is_not_compressed_is_itself() -> None:
    assert bzimage.unpacked(b"CONFIG_X=y\n", "a file") == b"CONFIG_X=y\n"


@pytest.mark.skipif(shutil.which("zstd") is None, reason="no program zstd is here")
def test_our_frame_is_zstds(tmp_path: Path) -> None:
    """The hand-made frame above against the program: its own packing unpacks, and so does ours."""
    packed = subprocess.run(["zstd", "-qc"], input=BODY, capture_output=True, timeout=20, check=True).stdout
    assert bzimage.unpacked(packed, "its") == bzimage.unpacked(zstd(BODY), "ours") == BODY
