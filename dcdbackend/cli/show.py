"""`dcd show`: what a launched guest holds, as the witnesses see it, with a picture of each device's DPA space.

Of a guest whose supervisor was killed nobody can be asked: its history is followed to its end (`supervisor.room`), and
what is shown is marked as recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import AskedWrongly
from ..history import History
from ..report.dpa_map import DpaMap, Region, Run
from ..supervisor.room import Room
from ..units import format_address, format_size
from . import drive, out
from .check import histories
from .policy import told

MOST_ROWS = 64


def show(name: drive.Name, device: drive.Device = None, as_json: out.Json = False) -> int:
    """Regions, what of them is accepted, pending and free, the policies, and a picture of the DPA space.

    Every block is asked of QEMU (of large regions a sample), and the device's list is read through the host (4801h); of
    a guest that died its history tells. JSON: {"name", "state": running|gone|dead (its supervisor was killed: no
    policies, and what is open stays so), "death": null|{"kind", "text"}, "qemu",
    "source": witness|history, "devices": [{"device", "regions": [{"region", "base", "length", "block_size", "runs":
    [{"dpa", "length", "state": free|pending|accepted, "sampled"}]}], "list": [[DPA, length]] by 4801h or null,
    "fm_list": the same by 5603h where a fabric manager has a way in,
    "policy": {"add", "release"}}]}, of a dead one "line", the history's last.
    """
    recorded = drive.left(name)
    if recorded is None:
        info = drive.call(name, "info")
        found = drive.call(name, "show", device=device)
    else:
        info, found = _recorded(name, recorded, device)
    if as_json:
        out.data({**{key: info[key] for key in ("name", "state", "death", "qemu")}, **found})
        return 0
    console = out.console()
    _head(console, name, info, found)
    for one in found["devices"]:
        console.print()
        _device(console, one)
    first = next((pair for one in found["devices"] for pair in _of(one, "accepted")), None)
    if info["state"] != "running":
        out.following("check", name)
    elif first is None:
        out.following("add", name, "256M")
    else:
        out.following("read", name, format_address(first[0]), "--via", "host")
    return 0


def _head(console: Console, name: str, info: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    qemu = info["qemu"]
    known = [f"QEMU {qemu.get('version', 'unknown')} ({qemu.get('accel', 'unknown')})"]
    known += [f"{key} {info[key] or 'unknown'}" for key in ("topology", "kernel") if key in info]
    console.print(f"{name}: {info['state']}, {', '.join(known)}", markup=False)
    if info["death"] is not None:
        console.print(f"how it died: {info['death']['text']}", markup=False, style="bold red", soft_wrap=True)
    if found["source"] == "history":
        last = f" (recorded, to line {found['line']})" if "line" in found else ""
        console.print(f"what follows is what its history tells{last}", markup=False)


def _recorded(name: str, run_dir: Path, only: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the history of a guest says that nobody holds any more, as `info` and `show` have it.

    Errors: AskedWrongly (no such device, no history), BadHistory.
    """
    path = histories(run_dir)[0]
    with path.open("rb") as file:
        history = History(file)
        header = history.header
        names = [device["name"] for device in header.devices]
        if only is not None and only not in names:
            raise AskedWrongly(f"no device {only!r}; there is {', '.join(names)}")
        room, last = Room(header.devices), 0
        for op in history:
            room.see(op)
            last = op.n
    devices = []
    for device in header.devices:
        regions = []
        for region in device["regions"]:
            found = room.runs(device["name"], region["index"])
            runs = [{"dpa": run.start, "length": run.length, "state": run.state, "sampled": False} for run in found]
            place = {key: region[key] for key in ("base", "length", "block_size")}
            regions.append({"region": region["index"], **place, "runs": runs})
        if only in (None, device["name"]):
            devices.append({"device": device["name"], "regions": regions, "list": None, "policy": None})
    death = {"kind": "supervisor", "text": "its supervisor was killed"}
    info = {"name": name, "state": "dead", "death": death, "qemu": header.qemu or {}}
    return info, {"source": "history", "line": last, "devices": devices}


def _device(console: Console, found: Mapping[str, Any]) -> None:
    if found["policy"] is not None:
        console.print(told(found["device"], found["policy"]), markup=False, soft_wrap=True)
    else:
        console.print(f"{found['device']}: what its history's end says", markup=False)
    regions = [Region(one["region"], one["base"], one["length"]) for one in found["regions"]]
    runs = [
        Run(run["dpa"], run["length"], run["state"])
        for one in found["regions"]
        for run in one["runs"]
        if run["state"] != "free"
    ]
    console.print(DpaMap(regions, runs))
    if any(run.get("sampled") for one in found["regions"] for run in one["runs"]):
        console.print("large regions: not every block was asked", markup=False)
    if runs:
        out.table(_extents(found))
    for key, command in (("list", "4801h"), ("fm_list", "5603h")):
        listed = found.get(key)
        if listed is not None and _blocks(listed) != _blocks(_of(found, "accepted")):
            text = f"the witnesses disagree: the device's list ({command}) has {out.ranges(listed) or 'nothing'}"
            console.print(Text(text, style="bold red"), soft_wrap=True)
    if found.get("fm_error"):
        console.print(Text(f"nothing by 5603h: {found['fm_error']}", style="bold red"), soft_wrap=True)


def _extents(found: Mapping[str, Any]) -> Table:
    """What is accepted, extent by extent where the device's list was read, and what is pending."""
    table = Table(box=None, pad_edge=False)
    for name in ("DPA", "length", "region", "offset", "state"):
        table.add_column(name, justify="right" if name in ("length", "region") else "left", no_wrap=True)
    accepted = found["list"] if found["list"] is not None else _of(found, "accepted")
    rows = sorted([(*pair, "accepted") for pair in accepted] + [(*pair, "pending") for pair in _of(found, "pending")])
    for start, length, state in rows[:MOST_ROWS]:
        index, offset = "", ""
        for region in found["regions"]:
            if region["base"] <= start < region["base"] + region["length"]:
                index, offset = str(region["region"]), format_size(start - region["base"])
        table.add_row(format_address(start), format_size(length), index, offset, state)
    if len(rows) > MOST_ROWS:
        table.add_row(f"and {len(rows) - MOST_ROWS} more", "", "", "", "")
    return table


def _of(found: Mapping[str, Any], state: str) -> list[tuple[int, int]]:
    return [(run["dpa"], run["length"]) for one in found["regions"] for run in one["runs"] if run["state"] == state]


def _blocks(ranges: Any) -> list[list[int]]:
    """Ranges in order, adjoining ones as one."""
    joined: list[list[int]] = []
    for start, length in sorted((start, length) for start, length in ranges):
        if joined and joined[-1][0] + joined[-1][1] == start:
            joined[-1][1] += length
        else:
            joined.append([start, length])
    return joined
