"""Runs in the reference guest: a bare host of a DCD, plain Python and struct, as short as it can be.

Polls 0100h with sleeps of 0.5 ms; clears what it read (0101h), then answers: offers by 4802h, release requests by
4803h. It trusts every byte that it reads. The registers are QEMU's: mailbox at 88h of BAR 2.
"""

import mmap
import struct
import time
from pathlib import Path

DEVICES = Path("/sys/bus/pci/devices")
MAILBOX = 0x88
POLL_S = 0.0005


def main() -> None:
    """For ever."""
    path = next(path for path in DEVICES.iterdir() if (path / "class").read_text().strip() == "0x050210")
    (path / "enable").write_text("1")
    with (path / "resource2").open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0x1000)
    view = memoryview(memory)
    fours, eights = view.cast("I"), view.cast("Q")
    control, command, payload = (MAILBOX + 4) // 4, (MAILBOX + 8) // 8, MAILBOX + 0x20

    def run(opcode: int, request: bytes) -> bytes:
        request += bytes(-len(request) % 8)
        for at, value in enumerate(struct.unpack(f"<{len(request) // 8}Q", request), payload // 8):
            eights[at] = value
        eights[command] = opcode | sizes[opcode] << 16
        fours[control] = 1
        while fours[control] & 1:
            pass
        length = eights[command] >> 16 & 0x1FFFFF
        return struct.pack(f"<{length // 8}Q", *struct.unpack_from(f"<{length // 8}Q", view, payload))

    sizes = {0x0100: 1}
    while True:
        reply = run(0x0100, b"\x04")
        count = struct.unpack_from("<H", reply, 20)[0]
        if not count:
            time.sleep(POLL_S)
            continue
        handles, answers = [], []
        for at in range(32, 32 + 128 * count, 128):
            handles.append(struct.unpack_from("<H", reply, at + 20)[0])
            answers.append((0x4803 if reply[at + 48] == 1 else 0x4802, reply[at + 56 : at + 72]))
        sizes[0x0101] = 6 + 2 * count
        run(0x0101, struct.pack(f"<BBB3x{count}H", 4, 0, count, *handles))
        for opcode, extent in answers:
            sizes[opcode] = 32
            run(opcode, struct.pack("<IB3x", 1, 0) + extent + bytes(8))


if __name__ == "__main__":
    main()
