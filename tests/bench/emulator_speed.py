"""The emulator's speed over its socket: `python tests/bench/emulator_speed.py [--operations N] [--json]`.

A client of the standard library drives two servers in turns, each in a process of its own, over a Unix socket, one
exchange after the other:

    echo    a bare QMP server: it parses each request and returns nothing; what the socket and the two processes cost
    block   the emulator: the block-state question
    cycle   the emulator, host U: an add that is taken and a release that is given back, each followed by the
            block-state question until the host has done it (which is in the count of operations: all are exchanges)

An operation is a request and its reply. `--json` gives all figures. Exit: 1 below the target, 0 else.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TARGET = 2000
"""Operations a second over the emulator's socket (issue 5)."""
TURNS = 5
BLOCK = 2 << 20
_START_S = 20.0

ECHO = """
import asyncio, json, sys
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        transport.write(b'{"QMP": {"version": {}, "capabilities": []}}\\r\\n')
    def data_received(self, data):
        json.loads(data)
        self.transport.write(json.dumps({"return": {}}).encode() + b"\\r\\n")
async def main():
    server = await asyncio.get_running_loop().create_unix_server(Echo, sys.argv[1])
    await server.serve_forever()
asyncio.run(main())
"""


class Client:
    """A blocking QMP client that reads a line for each request."""

    def __init__(self, path: Path) -> None:
        end = time.monotonic() + _START_S
        while True:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                self._socket.close()
                if time.monotonic() >= end:
                    raise
                time.sleep(0.02)
        self._lines = self._socket.makefile("rb")
        self.exchanges = 0
        self._lines.readline()

    def ask(self, command: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        """One exchange."""
        request: dict[str, Any] = {"execute": command}
        if arguments is not None:
            request["arguments"] = arguments
        self._socket.sendall(json.dumps(request).encode())
        self.exchanges += 1
        reply: dict[str, Any] = json.loads(self._lines.readline())
        return reply

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


def arguments(policy: str, *extents: tuple[int, int]) -> dict[str, Any]:
    return {
        "path": "/machine/peripheral/mem0",
        "host-id": 0,
        policy: "prescriptive",
        "region": 0,
        "extents": [{"offset": offset, "len": length} for offset, length in extents],
    }


def block(client: Client, at: int) -> str:
    """The block-state question."""
    desc: str = client.ask("cxl-add-dynamic-capacity", arguments("selection-policy", (at, BLOCK), (at, 0)))["error"][
        "desc"
    ]
    return desc


def ask_echo(client: Client, operations: int) -> None:
    request = arguments("selection-policy", (0, BLOCK), (0, 0))
    while client.exchanges < operations:
        client.ask("cxl-add-dynamic-capacity", request)


def ask_block(client: Client, operations: int) -> None:
    while client.exchanges < operations:
        if "0 length" not in block(client, 0):
            raise AssertionError("the block is not free")


def ask_cycle(client: Client, operations: int) -> None:
    at = 0
    while client.exchanges < operations:
        at = (at + BLOCK) % (512 * BLOCK)
        added = client.ask("cxl-add-dynamic-capacity", arguments("selection-policy", (at, BLOCK)))
        if "return" not in added:
            raise AssertionError(f"the add was refused: {added}")
        while "accessible" not in block(client, at):
            pass
        released = client.ask("cxl-release-dynamic-capacity", arguments("removal-policy", (at, BLOCK)))
        if "return" not in released:
            raise AssertionError(f"the release was refused: {released}")
        while "0 length" not in block(client, at):
            pass


@contextmanager
def server(argv: list[str], path: Path) -> Iterator[None]:
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)
        path.unlink(missing_ok=True)


def rate(path: Path, work: Callable[[Client, int], None], operations: int) -> float:
    """Operations a second of one turn on a connection of its own."""
    client = Client(path)
    try:
        client.ask("qmp_capabilities")
        client.exchanges = 0
        start = time.perf_counter()
        work(client, operations)
        return client.exchanges / (time.perf_counter() - start)
    finally:
        client.close()


def measure(operations: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"echo": [], "block": [], "cycle": []}
    with tempfile.TemporaryDirectory(prefix="dcd-speed-") as scratch:
        echo, emulator = Path(scratch) / "echo", Path(scratch) / "emulator"
        serve = [sys.executable, "-m", "dcdbackend.emulator", "--socket", str(emulator)]
        with server([sys.executable, "-c", ECHO, str(echo)], echo), server(serve, emulator):
            for _ in range(TURNS):
                found["echo"].append(rate(echo, ask_echo, operations))
                found["block"].append(rate(emulator, ask_block, operations))
                found["cycle"].append(rate(emulator, ask_cycle, operations))
    return found


def main() -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=2000, help="of each kind and turn (default 2000)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    found = measure(options.operations)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    if options.json:
        sys.stdout.write(json.dumps({"target": TARGET, "medians": medians, "rates": found}) + "\n")
    else:
        for name, median in medians.items():
            share = "" if name == "echo" else f"  {median / medians['echo']:.0%} of the echo's"
            sys.stdout.write(f"{name:6} {median:8.0f} operations a second{share}\n")
        sys.stdout.write(f"target {TARGET:8} (block and cycle)\n")
    return 0 if min(medians["block"], medians["cycle"]) >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
