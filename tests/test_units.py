"""Sizes in and out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcdbackend.errors import AskedWrongly
from dcdbackend.units import format_address, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4K", 4096),
        ("256M", 0x10000000),
        ("0x10000000", 0x10000000),
        ("0X10", 16),
        ("1GiB", 1 << 30),
        ("2TiB", 2 << 40),
        (" 8M ", 8 << 20),
        ("0xffffffffffffffff", (1 << 64) - 1),
    ],
)
def test_what_is_understood(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", "M", "-1", "+1", "1.5G", "256MB", "1GB", "256m", "0x10M", "1_000", "1 M", "٣", "0x", "1P", "16777216T", "1e3"],
)
def test_anything_else_is_one_clear_line(text: str) -> None:
    with pytest.raises(AskedWrongly) as raised:
        parse_size(text, what="size")
    assert repr(text) in str(raised.value)
    assert "256M" in str(raised.value) or "0xffffffffffffffff" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


@given(st.integers(0, (1 << 64) - 1))
def test_out_and_in_again(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes
    assert parse_size(format_address(size_bytes)) == size_bytes


def test_out_is_short_and_exact() -> None:
    assert [format_size(n) for n in (0, 3, 4096, 2 << 20, 3 << 19, 1 << 30, 1 << 40)] == [
        "0", "3", "4K", "2M", "1536K", "1G", "1T",
    ]  # fmt: skip
    assert format_address(0x4D0000000) == "0x4d0000000"
