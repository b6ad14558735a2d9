"""A mailbox command through the kernel: CXL_MEM_SEND_COMMAND on /dev/cxl/memN (Linux, include/uapi/linux/cxl_mem.h).

A raw opcode (4801h to read the extent list) goes only where the kernel was built with CXL_MEM_RAW_COMMANDS; else the
kernel refuses, and so it is told. Which opcodes are wise is not its business.
"""

from __future__ import annotations

import struct
from typing import Any

from ...errors import AskedWrongly
from .files import Files, KernelRefused, error_name
from .region import find_memdev

Value = dict[str, Any]

WARNS = "at cxl_send_cmd+"
"""What the kernel's WARN says when the first raw command is sent: it wants that known, it is no defect."""
_COMMAND = struct.Struct("<IIHHIIIQIIQ")
_SEND = 0xC030CE02  # _IOWR(0xCE, 2, 48 bytes)
_RAW = 2
_MOST = 1 << 16


def command(files: Files, request: Value) -> Value:
    """{"serial" | "memdev", "opcode", "payload": hex digits}: {"rc", "payload"}.

    Errors: AskedWrongly, KernelRefused.
    """
    device = find_memdev(files, request)
    opcode = request.get("opcode")
    if type(opcode) is not int or not 0 <= opcode <= 0xFFFF:
        raise AskedWrongly(f"opcode {str(opcode)[:40]}; give a number of 16 bits")
    try:
        payload = bytes.fromhex(str(request.get("payload", "")))
    except ValueError:
        raise AskedWrongly(f"payload {str(request.get('payload'))[:40]!r}; give hex digits") from None
    if len(payload) > _MOST:
        raise AskedWrongly(f"a payload of {len(payload)} bytes; at most {_MOST}")
    return _send(files, f"/dev/cxl/{device['name']}", opcode, payload, device["payload_max"] or 2048)


def _send(files: Files, path: str, opcode: int, payload: bytes, room: int) -> Value:
    import ctypes
    import fcntl
    import os

    into = ctypes.create_string_buffer(payload, max(1, len(payload)))
    out = ctypes.create_string_buffer(min(room, _MOST))
    sent = (_RAW, 0, opcode, 0, 0, len(payload), 0, ctypes.addressof(into) if payload else 0)
    message = bytearray(_COMMAND.pack(*sent, len(out), 0, ctypes.addressof(out)))
    try:
        fd = os.open(files.place(path), os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _SEND, message, True)
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelRefused(error_name(error), path, f"{opcode:04x}h") from None
    found = _COMMAND.unpack(message)
    return {"rc": found[4], "payload": out.raw[: found[8]].hex()}
