"""Kernel images and modules of a few bytes, for tests: laid out by their formats' descriptions, with nothing to run.

A bzImage by Documentation/arch/x86/boot.rst, IKCONFIG by kernel/configs.c, a module's .modinfo in an ELF64 of two
sections.
"""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Sequence
from pathlib import Path

VERSION = "6.99.1-test"


def bz_image(payload: bytes = b"", version: str = VERSION, *, protocol: int = 0x20F) -> bytes:
    """Setup (two sectors, the version's words in the second) and a payload 64 bytes into the rest."""
    setup = bytearray(2 * 512)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, protocol)
    struct.pack_into("<II", setup, 0x248, 64, len(payload))
    text = f"{version} (somebody@somewhere) #1 SMP".encode() + b"\0"
    setup[0x300 : 0x300 + len(text)] = text
    struct.pack_into("<H", setup, 0x20E, 0x100)  # counted from 0x200
    return bytes(setup) + bytes(64) + payload


def with_config(config: str) -> bytes:
    """What a kernel with CONFIG_IKCONFIG holds, unpacked."""
    return b"text" * 100 + b"IKCFG_ST" + gzip.compress(config.encode()) + b"IKCFG_ED" + b"data" * 100


def module(*info: str) -> bytes:
    """A module whose .modinfo holds these `key=value` strings."""
    strings = b"".join(line.encode() + b"\0" for line in info)
    names = b"\0.modinfo\0.shstrtab\0"
    start = 64
    headers = start + len(strings) + len(names)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, headers, 0, 64, 0, 0, 64, 3, 2)
    rows = [
        struct.pack("<II4QII2Q", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        struct.pack("<II4QII2Q", 1, 1, 0, 0, start, len(strings), 0, 0, 1, 0),
        struct.pack("<II4QII2Q", 10, 3, 0, 0, start + len(strings), len(names), 0, 0, 1, 0),
    ]
    return head + strings + names + b"".join(rows)


def a_module(name: str, *, depends: Sequence[str] = (), version: str = VERSION, more: Sequence[str] = ()) -> bytes:
    """A module called so, for that kernel, which needs those."""
    told = [f"name={name}", f"depends={','.join(depends)}", f"vermagic={version} SMP preempt mod_unload "]
    return module("license=GPL", *told, *more)


def modules_directory(place: Path, version: str = VERSION) -> Path:
    """/lib/modules as Debian's packages have it: no modules.dep; drivers by three compressions, some built in."""
    home = place / version / "kernel"
    files = {
        "drivers/cxl/cxl_acpi.ko.xz": lzma.compress(a_module("cxl_acpi", depends=["cxl_core"], version=version)),
        "drivers/cxl/cxl_pci.ko.gz": gzip.compress(
            a_module("cxl_pci", depends=["cxl-bus"], version=version, more=["softdep=pre: cxl_port post: never"])
        ),
        "drivers/cxl/cxl-bus.ko": a_module("cxl_bus", depends=["firmware_helper"], version=version),
        "drivers/cxl/cxl_port.ko": a_module("cxl_port", version=version),
        "lib/firmware-helper.ko": a_module("firmware_helper", version=version),
        "drivers/net/other.ko": a_module("other", version=version),
        "drivers/never/never.ko": a_module("never", version=version),
    }
    for name, data in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (place / version / "modules.builtin").write_text("kernel/drivers/cxl/core/cxl_core.ko\nkernel/drivers/dax/dax.ko\n")
    (place / version / "modules.order").write_text("")
    return place / version
