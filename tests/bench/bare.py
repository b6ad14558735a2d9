"""What the measurements compare with: a guest that holds nothing of this package, and a monitor client that is a loop.

It is written the way somebody without this package would write it in an afternoon, and no slower: registers through
`mmap` and `struct`, JSON over a plain socket. It validates nothing, records nothing and survives no surprise. Its one
duty is to be a fair measure, so nothing here may lean on `dcdbackend`'s agent, link, monitor client or session.
"""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import socket
import struct
from pathlib import Path
from typing import Any

from dcdbackend import image, machine
from dcdbackend.boot import Setup
from dcdbackend.image import archive

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
BLOCK = 2 * MIB
_TIMEOUT_S = 60.0
_STATES = {"0 length": "free", "still pending": "pending", "already accessible": "accepted"}

INIT = b"""#!/bin/sh
[ -c /dev/null ] || mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
export PYTHONHASHSEED=0
python3 -Ss /bare_guest.py
poweroff -f
"""


def setup() -> Setup:
    """The parts that `dcd regress` would boot, probed."""

    async def probed(parts: image.Parts) -> Setup:
        qemu = await machine.probe_qemu(parts.qemu_argv, origin=parts.qemu_origin)
        accel = await machine.choose_accel(qemu, kernel=parts.kernel, cache_dir=image.cache_dir())
        return Setup(qemu=qemu, accel=accel, kernel=parts.kernel, initrd=parts.initrd)

    return asyncio.run(probed(image.parts()))


def guest_initrd(setup: Setup, path: Path) -> Path:
    """The guest image's base archive, and after it an /init that runs `bare_guest.py`."""
    with path.open("wb") as out:
        with setup.kernel.with_name("base.cpio").open("rb") as base:
            shutil.copyfileobj(base, out)
        out.write(archive.padding(out.tell()))
        script = (HERE / "bare_guest.py").read_bytes()
        archive.write(out, [archive.file("init", INIT, executable=True), archive.file("bare_guest.py", script)])
    return path


def power_off_initrd(path: Path) -> Path:
    """An /init of 160 bytes that powers off, and nothing else: the shortest boot that there is."""
    made = io.BytesIO()
    archive.write(made, [archive.file("init", _power_off(), executable=True)])
    path.write_bytes(made.getvalue())
    return path


def _power_off() -> bytes:
    """A static 64-bit ELF: reboot(magic, magic, POWER_OFF), for ever."""
    code = b"".join(
        [
            *(b"\xbf", struct.pack("<I", 0xFEE1DEAD)),  # mov edi, reboot(2)'s first magic number
            *(b"\xbe", struct.pack("<I", 0x28121969)),  # mov esi, the second
            *(b"\xba", struct.pack("<I", 0x4321FEDC)),  # mov edx, power off
            *(b"\xb8", struct.pack("<I", 169), b"\x0f\x05"),  # mov eax, reboot; syscall
            b"\xeb\xfe",  # jmp here
        ]
    )
    base, headers = 0x400000, 64 + 56
    size = headers + len(code)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return b"\x7fELF\x02\x01\x01" + bytes(9) + header + segment + code


class Monitor:
    """QMP by hand, over one blocking socket: send a line, read until an object is whole."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_TIMEOUT_S)
        self._socket.connect(str(path))
        self._rest = b""
        self._read()
        self.execute({"execute": "qmp_capabilities"})

    def execute(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply, whatever it is; events before it are dropped."""
        self._socket.sendall(json.dumps(request).encode())
        while "event" in (reply := self._read()):
            pass
        return reply

    def add(self, offset: int, *more: tuple[int, int]) -> dict[str, Any]:
        """Offer one block, in region 0; `more` extents after it."""
        return self.execute(
            {
                "execute": "cxl-add-dynamic-capacity",
                "arguments": {
                    "path": "/machine/peripheral/mem0",
                    "host-id": 0,
                    "selection-policy": "prescriptive",
                    "region": 0,
                    "extents": [{"offset": start, "len": length} for start, length in ((offset, BLOCK), *more)],
                },
            }
        )

    def release(self, offset: int) -> dict[str, Any]:
        """Ask for one block of region 0 back."""
        return self.execute(
            {
                "execute": "cxl-release-dynamic-capacity",
                "arguments": {
                    "path": "/machine/peripheral/mem0",
                    "host-id": 0,
                    "removal-policy": "prescriptive",
                    "region": 0,
                    "extents": [{"offset": offset, "len": BLOCK}],
                },
            }
        )

    def state(self, offset: int) -> str:
        """Of one block: free, pending or accepted."""
        said = self.add(offset, (0, 0))["error"]["desc"]
        return next(state for words, state in _STATES.items() if words in said)

    def close(self) -> None:
        self._socket.close()

    def _read(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            data = self._socket.recv(65536)
            if not data:
                raise EOFError("the bare guest's QEMU closed its monitor")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found
