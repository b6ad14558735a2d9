"""What the fabric manager reads of a launched guest's switch and of the devices below it, as data.

Nothing of it is recorded: it changes nothing, and no rule speaks of it. What is injected, and the extent lists that
witness it, go through the session instead. Each call looks anew, so it also finds again what a manager left behind
that died. Sizes and addresses in bytes. Errors: those of `dcdbackend.fm`.
"""

from __future__ import annotations

from typing import Any

from ..errors import Refused
from ..fabric import Fabric
from ..fm import TunnelRefused, code_name, served
from ..wire.catalog import explain
from ..wire.fmapi import FmOpcode, PortState, RemovalPolicy, SelectionPolicy, members
from ..wire.plain import to_plain

Value = dict[str, Any]

_OPCODES = {"add": FmOpcode.INITIATE_DC_ADD, "release": FmOpcode.INITIATE_DC_RELEASE}


async def info(fabric: Fabric) -> Value:
    """The switch (0001h, 5100h), its ports (5101h), and the devices behind them (0001h, 5600h)."""
    manager = await fabric.manager()
    switch = await manager.identify_switch()
    states = await manager.ports(members(switch.active_ports))
    found = await fabric.found()
    behind = {device.port: name for name, device in found.items()}
    devices = []
    for name, device in found.items():
        says = await device.info()
        devices.append(
            {
                "device": name,
                "port": device.port,
                "identify": to_plain(await device.identify()),
                "info": to_plain(says),
                "capacity": says.total_capacity_bytes,
                "selection": list(served(says.selection_policies, SelectionPolicy)),
                "removal": list(served(says.removal_policies, RemovalPolicy)),
            }
        )
    return {
        "switch": {
            "payload_bytes": manager.payload_bytes,
            "identify": to_plain(await manager.identify()),
            "device": to_plain(switch),
        },
        "ports": [_port(state, behind.get(state.port_id)) for state in states],
        "devices": devices,
    }


async def regions(fabric: Fabric, name: str, host_id: int) -> Value:
    """The regions of a device as a host is told of them (5601h)."""
    device = await fabric.device(name)
    found = await device.regions(host_id=host_id)
    whole = await device.config(host_id=host_id, count=0)
    return {
        "device": name,
        "host_id": host_id,
        "regions": [
            {
                "region": number,
                "base": one.base,
                "length": one.length,
                "decode_length": one.decode_length_bytes,
                "block_size": one.block_size,
                "attributes": one.attributes,
                "sanitize": bool(one.sanitize & 1),
            }
            for number, one in enumerate(found)
        ],
        "supported_extents": whole.supported_extents,
        "available_extents": whole.available_extents,
        "supported_tags": whole.supported_tags,
        "available_tags": whole.available_tags,
    }


def took(f: str, device: str, payload: bytes, answer: bytes) -> Value:
    """Bytes that the device took, and the message that says so."""
    return _sent(f, device, payload) | {"rc": 0, "code": code_name(0), "by": "device", "answer": answer.hex()}


def refused(f: str, device: str, payload: bytes, error: Refused) -> Value:
    """Bytes that were refused: by whom, with which code, in which message."""
    received = error.received if isinstance(error.received, bytes) else b""
    by = "switch" if isinstance(error, TunnelRefused) else "device"
    return _sent(f, device, payload) | {"rc": error.rc, "code": error.reason, "by": by, "answer": received.hex()}


def _sent(f: str, device: str, payload: bytes) -> Value:
    return {"device": device, "opcode": f"{_OPCODES[f]:04x}h", "sent": payload.hex()}


def _port(state: PortState, device: str | None) -> Value:
    """A port, in words and in numbers."""
    return {
        "port": state.port_id,
        "configuration": explain(PortState, "configuration_state", state.configuration_state),
        "connected": explain(PortState, "connected_device_type", state.connected_device_type),
        "link": f"x{state.negotiated_link_width >> 4 or state.negotiated_link_width}",
        "device": device,
        "state": to_plain(state),
    }
