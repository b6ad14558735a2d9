"""A launched guest: one supervisor process that alone owns its QEMU, and the clients that drive it.

    info = await launch("vm0", Options(regions=2))        # back when the guest's agent is ready
    async with connect("vm0") as client:
        await client.call("add", size=256 << 20)
    await stop("vm0")

`place` says where guests are, `protocol` what goes over the socket, `client` and `launching` are the outside,
`process` with `server`, `verbs` and `held` the inside. Guests run by `dcd regress` are not here: a run holds its guests
in-process.
"""

from __future__ import annotations

from .client import Client, call, connect, stream
from .launching import Options, launch, stop
from .place import GuestInfo, find, forget, list_guests

__all__ = [
    "Client",
    "GuestInfo",
    "Options",
    "call",
    "connect",
    "find",
    "forget",
    "launch",
    "list_guests",
    "stop",
    "stream",
]
