"""`dcd read` and `dcd write`: bytes at a DPA of a launched guest, through the host's window or behind the device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import AskedWrongly
from ..units import format_address, format_size, parse_size
from . import drive, hexdump, out

MAX_BYTES = 1 << 20
_CHUNK = 1 << 12

Via = Annotated[
    Literal["host", "backend"],
    typer.Option(help="host: by the guest's processor; backend: the memory behind the device, from outside."),
]
Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="A DPA, like 0x10000000 or 256M.")]


def read(
    name: drive.Name,
    address: Address,
    length: Annotated[str, typer.Option("--length", "-n", metavar="SIZE", help="How much; at most 1M.")] = "256",
    via: Via = "backend",
    device: drive.Device = None,
    binary: Annotated[bool, typer.Option("--binary", help="The bytes as they are, for a file or a pipe.")] = False,
    as_json: out.Json = False,
) -> int:
    """Show the bytes at a DPA, as a hex dump whose offsets are DPA.

    What the host reads from capacity that is not accepted is nothing to rely on. JSON: {"device", "dpa", "length",
    "via", "data": hex}.
    """
    if binary and as_json:
        raise AskedWrongly("--binary and --json are two shapes of one output; give one")
    dpa, size = parse_size(address, what="address"), parse_size(length, what="--length")
    if not 0 < size <= MAX_BYTES:
        raise AskedWrongly(f"--length {length!r}; give 1 to {format_size(MAX_BYTES)}")
    found = b"".join(
        bytes.fromhex(drive.call(name, "read", dpa=start, length=count, via=via, device=device)["data"])
        for start, count in _chunks(dpa, size)
    )
    if as_json:
        out.data({"device": device or "mem0", "dpa": dpa, "length": size, "via": via, "data": found.hex()})
        return 0
    if binary:
        sys.stdout.buffer.write(found)
        sys.stdout.buffer.flush()
    else:
        for row in hexdump.rows(found, dpa):
            out.line(row)
    out.following("write", name, format_address(dpa), "c0ffee", "--via", "backend" if via == "host" else "host")
    return 0


def write(
    name: drive.Name,
    address: Address,
    text: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Hex, like c0ffee; with --text the text itself.")
    ] = None,
    as_text: Annotated[bool, typer.Option("--text", help="DATA is text: its UTF-8 is written.")] = False,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Write what is in this file instead; at most 1M.")
    ] = None,
    via: Via = "backend",
    device: drive.Device = None,
    as_json: out.Json = False,
) -> int:
    """Write bytes at a DPA. JSON: {"device", "dpa", "via", "written": bytes}."""
    dpa, data = parse_size(address, what="address"), _data(text, as_text, file)
    written = 0
    for start, count in _chunks(0, len(data)):
        part = data[start : start + count].hex()
        written += drive.call(name, "write", dpa=dpa + start, data=part, via=via, device=device)["written"]
    if as_json:
        out.data({"device": device or "mem0", "dpa": dpa, "via": via, "written": written})
        return 0
    amount = f"{written} byte{'s' if written != 1 else ''}"
    out.line(f"{amount} written at {format_address(dpa)} of {device or 'mem0'}, {via}")
    out.following("read", name, format_address(dpa), "--via", "backend" if via == "host" else "host")
    return 0


def _data(text: str | None, as_text: bool, file: Path | None) -> bytes:
    if (text is None) == (file is None):
        raise AskedWrongly("give the DATA to write, or --file")
    if file is not None:
        try:
            with file.open("rb") as source:
                data = source.read(MAX_BYTES + 1)
        except OSError as error:
            raise AskedWrongly(f"cannot read {file}: {error.strerror}") from None
    else:
        assert text is not None
        try:
            data = text.encode("utf-8", "surrogateescape") if as_text else hexdump.read(text)
        except AskedWrongly as error:
            said = error.message.removeprefix("line 1: ").partition(";")[0]
            raise AskedWrongly(f"DATA: {said}; give hex digits, two for each byte, or add --text") from None
    if not 0 < len(data) <= MAX_BYTES:
        raise AskedWrongly(f"{len(data) or 'no'} bytes to write; give 1 to {format_size(MAX_BYTES)}")
    return data


def _chunks(start: int, size: int) -> Iterator[tuple[int, int]]:
    for at in range(start, start + size, _CHUNK):
        yield at, min(_CHUNK, start + size - at)
