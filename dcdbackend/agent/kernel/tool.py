"""`cxl list` and `daxctl list` where they are installed: what they show beside what sysfs shows of the same.

One more witness, and never a need: they read sysfs as well, but by a library that kernel developers trust more than
they trust this. A tool may know nothing of dynamic capacity: only what both show is told, and nothing is compared here
(`checker.tool` does, for a history and for `watch` alike). sysfs is read before and after the tool; what changed
meanwhile is left out.

A tool is not trusted to end, to be brief or to print JSON: time and output are bounded, the child is killed, and what
it did is told in words (`failed`). One that hung is not asked again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...errors import AskedWrongly
from ..process import Process
from .files import Files
from .sight import mappings_of
from .survey import CXL, DAX, dax_devices, named, tool

Value = dict[str, Any]
Facts = dict[str, Any]

LISTS: dict[str, tuple[str, ...]] = {
    "cxl": ("list", "--memdevs", "--decoders", "--regions"),
    "daxctl": ("list", "--devices", "--mappings", "--idle"),
}
"""What each is asked for: JSON of decoders and regions; of DAX devices with their mappings, also of size 0."""
PATIENCE_S = 3.0
"""For one tool; both together end well before whoever asked gives up."""
REAP_S = 1.0
MOST_OUTPUT = 1 << 20
MOST_NODES = 20_000
_STEP_S = 0.002
_DRIVERS = {"devdax": "device_dax", "system-ram": "kmem"}


class Tools:
    """The tools of this machine. `paths`: where they are, by name; found in the usual places if not given.

    Under another root nothing is run unless it is named: a program from there would read this machine's sysfs.
    """

    def __init__(self, files: Files, paths: Mapping[str, str] | None = None) -> None:
        self._files = files
        self._paths = None if paths is None else dict(paths)
        self._hung: set[str] = set()

    def look(self, region: str) -> list[Value]:
        """What each tool that is there shows of a region, its decoders and its DAX devices, beside what sysfs does.

        [{"tool", "shows": {name: facts}, "sysfs": {name: facts, or None where it has no such thing}}], or {"tool",
        "failed": why}. Facts are bytes and physical addresses: `size`, `start`; `dpa_start`, `dpa_size`;
        `target_node`, `driver` (None: unbound), `mappings` ([start, end, page_offset], sorted).
        """
        return [found for name in LISTS if (path := self._path(name)) and (found := self._one(name, path, region))]

    def _path(self, name: str) -> str | None:
        if name in self._hung:
            return None
        if self._paths is not None:
            return self._paths.get(name)
        return None if self._files.root else tool(self._files, name)

    def _one(self, name: str, path: str, region: str) -> Value | None:
        before = _by_sysfs(self._files, region)
        text, failed = run([path, *LISTS[name]])
        if failed is not None:
            if failed.startswith(_HUNG):
                self._hung.add(name)
            return {"tool": name, "failed": failed}
        try:
            shown = json.loads(text or "[]")
        except (ValueError, RecursionError):
            return {"tool": name, "failed": f"it printed no JSON: {text[:80]!r}"}
        shows = _READERS[name](shown, region)
        after = _by_sysfs(self._files, region)
        sysfs: dict[str, Facts | None] = {}
        for one in shows:
            was, now = before.get(one), after.get(one)
            if was is not None and now is not None:
                sysfs[one] = {key: value for key, value in now.items() if key in was and was[key] == value}
            elif was is now:
                sysfs[one] = None
        return {"tool": name, "shows": {one: shows[one] for one in sysfs}, "sysfs": sysfs}


_HUNG = "it did not end"


def run(argv: list[str], patience_s: float = PATIENCE_S) -> tuple[str, str | None]:
    """What a command printed, and None; or what it printed so far, and what is wrong with how it ended."""
    try:
        command = Process(argv, patience_s, time.monotonic)
    except AskedWrongly as error:
        return "", error.message
    out, err = b"", b""
    try:
        give_up = time.monotonic() + patience_s + REAP_S
        while time.monotonic() < give_up:
            command.turn(time.monotonic())
            ended = command.exit
            said, grumbled = command.read("stdout"), command.read("stderr")
            out, err = out + said, (err + grumbled)[-MOST_OUTPUT:]
            if len(out) > MOST_OUTPUT:
                return "", f"it printed more than {MOST_OUTPUT} bytes"
            if ended is not None and not said and not grumbled:
                break
            if not said and not grumbled:
                time.sleep(_STEP_S)
    finally:
        if command.exit is None:
            _end(command)
        command.close()
    text = out.decode("utf-8", "replace")
    if command.exit is None or command.timed_out:
        return text, f"{_HUNG} within {patience_s:g} s, and was killed; it is not asked again"
    if command.exit:
        how = f"exit {command.exit}" if command.exit > 0 else f"signal {-command.exit}"
        return text, f"{how}: {err.decode('utf-8', 'replace').strip()[:120]!r}"
    return text, None


def _end(command: Process) -> None:
    """Kill it, and wait for its end within a bound."""
    command.kill()
    until = time.monotonic() + REAP_S
    while command.exit is None and time.monotonic() < until:
        command.turn(time.monotonic())
        time.sleep(_STEP_S)


# ---- what the tools show ---------------------------------------------------------------------------------------------


def _objects(shown: object) -> Iterator[Mapping[str, Any]]:
    """Every object in a JSON value, whatever it is wrapped in: each version wraps them otherwise."""
    todo = [shown]
    for _ in range(MOST_NODES):
        if not todo:
            break
        one = todo.pop()
        if isinstance(one, dict):
            yield one
            todo += one.values()
        elif isinstance(one, list):
            todo += one


def _by_cxl(shown: object, region: str) -> dict[str, Facts]:
    """Of `cxl list`: the region, and the endpoint decoders that serve it."""
    found: dict[str, Facts] = {}
    for one in _objects(shown):
        if one.get("region") != region:
            continue
        decoder = one.get("decoder")
        if isinstance(decoder, str) and "dpa_size" in one:
            found[decoder] = _numbers(one, dpa_start="dpa_resource", dpa_size="dpa_size")
        elif decoder is None and ("size" in one or "resource" in one):
            found[region] = _numbers(one, size="size", start="resource")
    return found


def _by_daxctl(shown: object, region: str) -> dict[str, Facts]:
    """Of `daxctl list`: the DAX devices of the region, which have its number."""
    found: dict[str, Facts] = {}
    family = f"dax{region.removeprefix('region')}."
    for one in _objects(shown):
        name = one.get("chardev")
        if not isinstance(name, str) or not name.startswith(family):
            continue
        facts = _numbers(one, size="size", target_node="target_node")
        if one.get("state") == "disabled":
            facts["driver"] = None
        elif one.get("mode") in _DRIVERS and "state" not in one:
            facts["driver"] = _DRIVERS[one["mode"]]
        shown_mappings = one.get("mappings")
        if isinstance(shown_mappings, list):
            pieces = [
                _numbers(piece, start="start", end="end", page="page_offset") for piece in _objects(shown_mappings)
            ]
            if pieces and all(len(piece) == 3 for piece in pieces):
                facts["mappings"] = sorted([list(piece.values()) for piece in pieces])
        found[name] = facts
    return found


_READERS: dict[str, Callable[[object, str], dict[str, Facts]]] = {"cxl": _by_cxl, "daxctl": _by_daxctl}


def _numbers(one: Mapping[str, Any], **names: str) -> Facts:
    """The numbers of an object by our names; what is none is not shown."""
    return {mine: one[its] for mine, its in names.items() if type(one.get(its)) is int and 0 <= one[its] < 1 << 64}


# ---- what sysfs shows of the same ------------------------------------------------------------------------------------


def _by_sysfs(files: Files, region: str) -> dict[str, Facts]:
    """The same facts of sysfs; what cannot be read is left out."""
    if not files.exists(f"{CXL}/{region}"):
        return {}
    read: dict[str, dict[str, int | None]] = {
        region: {
            name: files.number(f"{CXL}/{region}/{file}") for name, file in (("size", "size"), ("start", "resource"))
        }
    }
    for decoder in named(files, CXL, "decoder"):
        place = f"{CXL}/{decoder}"
        if files.exists(f"{place}/dpa_size"):
            numbers = {
                "dpa_start": files.number(f"{place}/dpa_resource"),
                "dpa_size": files.number(f"{place}/dpa_size"),
            }
            read[decoder] = numbers
    found: dict[str, Facts] = {
        name: {key: number for key, number in facts.items() if number is not None} for name, facts in read.items()
    }
    for name in dax_devices(files, region):
        place = f"{DAX}/{name}"
        numbers = {key: files.number(f"{place}/{key}") for key in ("size", "target_node")}
        found[name] = {key: number for key, number in numbers.items() if number is not None}
        found[name]["driver"] = files.link(f"{place}/driver")
        mappings = mappings_of(files, name)
        if mappings is not None:
            found[name]["mappings"] = sorted(mappings)
    return found
