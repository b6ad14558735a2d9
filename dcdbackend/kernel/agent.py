"""The kernel of a guest, asked through the agent: each request of `bench.Kernel` as one request on the link.

What comes back is data from a guest that is not trusted: it is brought into the form that the history has, and what
cannot be is `AnsweredWrongly`. Nothing is retried here and nothing judged.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..bench import Value
from ..errors import AnsweredWrongly, MalformedBytes
from ..guest import Guest

MAKE_TIMEOUT_S = 20.0
WAIT_S = 0.02
MOST_LINES = 100_000
MOST_PARTS = 256
MOST_TEXT = 400
_NAME = re.compile(r"[a-z_]+[0-9]+(\.[0-9]+)?", re.ASCII)
_HEX = re.compile(r"[0-9a-f]+", re.ASCII)
_ERRNO = re.compile(r"E[A-Z0-9]{1,20}", re.ASCII)


class AgentKernel:
    """See `bench.Kernel`. Devices are named as the topology has them; the agent knows them by serial number."""

    name = "kernel"
    simulated = False
    sends_raw = True

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._serials = {spec.name: spec.serial for spec in guest.shape.devices}
        self._memdevs: dict[str, str] = {}
        self._places: dict[str, str] = {}

    async def survey(self) -> Value:
        return self.learn(await self._ask("survey"))

    def learn(self, survey: Value) -> Value:
        """Which memdev and which PCI place is which device, from a survey. Errors: AnsweredWrongly."""
        self.sends_raw = survey.get("sends_raw", self.sends_raw) is True
        names = {serial: name for name, serial in self._serials.items()}
        for memdev in _list(survey, "memdevs"):
            name = names.get(_number(memdev, "serial"))
            if name is not None:
                self._memdevs[str(memdev.get("name"))] = name
                self._places[str(memdev.get("pci"))] = name
        return survey

    async def load(self, names: Sequence[str]) -> Value:
        return await self._ask("modules", names=list(names), timeout_s=MAKE_TIMEOUT_S)

    async def unload(self, names: Sequence[str]) -> Value:
        return await self._ask("unload", names=list(names), timeout_s=MAKE_TIMEOUT_S)

    async def revive(self, device: str) -> Value:
        return await self._ask("revive", serial=self._serials[device], timeout_s=MAKE_TIMEOUT_S)

    async def make_region(self, device: str, size: int, mode: str | None = None) -> Value:
        said = await self._ask("region", serial=self._serials[device], size=size, mode=mode, timeout_s=MAKE_TIMEOUT_S)
        if said["error"]:
            return said
        made: Value = {key: _number(said, key) for key in ("start", "length", "hpa")}
        return {**made, "region": _name(said, "region"), "error": ""}

    async def destroy_region(self, region: str) -> Value:
        return await self._ask("region_destroy", region=region, timeout_s=MAKE_TIMEOUT_S)

    async def sight(self, region: str) -> Value:
        said = await self._ask("sight", region=region)
        sight = said.get("sight")
        if not isinstance(sight, dict):
            raise AnsweredWrongly(f"the agent's sight of {region} is {str(sight)[:80]!r}")
        found = {**_sight(region, sight), "odd": [str(one) for one in said.get("odd", ())]}
        return {**found, "tools": [_tool(one) for one in _list(said, "tools")]} if "tools" in said else found

    async def claim(self, dax: str, text: str) -> Value:
        digits = text.replace("-", "")
        return await self._ask("claim", dax=dax, tag=digits if len(digits) == 32 and _HEX.fullmatch(digits) else text)

    async def create(self, region: str) -> Value:
        return await self._ask("create", region=region)

    async def resize(self, dax: str, size: int) -> Value:
        return await self._ask("resize", dax=dax, size=size)

    async def bind(self, dax: str, driver: str) -> Value:
        return await self._ask("bind", dax=dax, driver=driver, timeout_s=MAKE_TIMEOUT_S)

    async def unbind(self, dax: str) -> Value:
        return await self._ask("unbind", dax=dax, timeout_s=MAKE_TIMEOUT_S)

    async def online(self, dax: str) -> Value:
        return await self._ask("online", dax=dax, how="online_movable", timeout_s=MAKE_TIMEOUT_S)

    async def offline(self, dax: str) -> Value:
        return await self._ask("online", dax=dax, how="offline", timeout_s=MAKE_TIMEOUT_S)

    async def map(self, dax: str) -> Value:
        return await self._ask("map", dax=dax)

    async def unmap(self, dax: str) -> Value:
        return await self._ask("unmap", dax=dax)

    async def read(self, dax: str, offset: int, length: int) -> Value:
        said = await self._ask("read", dax=dax, offset=offset, length=length)
        if not said["error"]:
            said["data"] = bytes.fromhex(str(said.get("data", ""))).hex()
        return said

    async def write(self, dax: str, offset: int, data: bytes) -> Value:
        return await self._ask("write", dax=dax, offset=offset, data=data.hex())

    async def trace(self) -> Value:
        said = await self._drained("trace", "events")
        return {"events": [self._event(one) for one in _list(said, "events")], "lost": _number(said, "lost")}

    async def log(self) -> Value:
        said = await self._drained("log", "lines")
        lines = [
            {"t_ns": _number(one, "t_ns"), "text": str(one.get("text", "")), "device": self._place(one)}
            for one in _list(said, "lines")[:MOST_LINES]
        ]
        return {"lines": lines, "lost": _number(said, "lost")}

    async def wait(self, timeout_s: float) -> None:
        await self._guest.until(lambda: False, min(timeout_s, WAIT_S))

    def now_s(self) -> float:
        return time.monotonic()

    async def listed(self, device: str, count: int, start: int) -> Value:
        payload = count.to_bytes(4, "little") + start.to_bytes(4, "little")
        said = await self._ask("cxl", serial=self._serials[device], opcode=0x4801, payload=payload.hex())
        return said if said["error"] else _extent_list(said)

    async def _drained(self, what: str, name: str) -> Value:
        """All that there is of trace or log, which comes in bounded parts."""
        found: list[dict[str, Any]] = []
        lost = 0
        for _ in range(MOST_PARTS):
            said = await self._ask(what)
            found += _list(said, name)
            lost += _number(said, "lost")
            if not said.get("more"):
                break
        return {name: found, "lost": lost}

    async def _ask(self, what: str, *, timeout_s: float = 10.0, **fields: Any) -> Value:
        reply = await self._guest.control("kernel", {"what": what, **fields}, timeout_s=timeout_s)
        if isinstance(reply.get("long"), dict):
            reply = await self._whole(reply["long"])
        refused = reply.get("refused")
        if refused is None:
            return {**reply, "error": ""}
        errno = str(refused.get("errno") if isinstance(refused, dict) else refused)
        if _ERRNO.fullmatch(errno) is None:
            raise AnsweredWrongly(f"the agent says that {what} was refused with {errno[:80]!r}, which is no errno")
        return {"error": f"-{errno}", "refused": refused}

    async def _whole(self, first: Mapping[str, Any]) -> Value:
        """A reply that was too long for one frame, from its parts. Errors: AnsweredWrongly."""
        text, length = str(first.get("piece", "")), _number(first, "length")
        for _ in range(MOST_PARTS):
            if len(text) >= length:
                break
            fields = {"what": "rest", "token": first.get("token"), "offset": len(text)}
            reply = await self._guest.control("kernel", fields)
            piece = reply.get("long", reply).get("piece", "")
            if not piece:
                break
            text += str(piece)
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise AnsweredWrongly(f"the agent's long reply has {len(text)} of {length} characters, and is no object")
        return found

    def _event(self, one: Mapping[str, Any]) -> Value:
        kind = one.get("type")
        return {
            "device": self._memdevs.get(str(one.get("memdev")), ""),
            "handle": _number(one, "handle"),
            "type": kind if isinstance(kind, int) and not isinstance(kind, bool) else 0xFF,
            "dpa": _number(one, "starting_dpa"),
            "length": _number(one, "length"),
            "tag": _tag(one.get("tag")),
            "sequence": _number(one, "shared_extent_sequence"),
            "region": _number(one, "updated_region_index"),
        }

    def _place(self, one: Mapping[str, Any]) -> str:
        """The device that a line of the log names by its PCI place, or ""."""
        text = str(one.get("text", ""))
        return next((name for place, name in self._places.items() if f" {place}:" in f" {text}"), "")


def _list(said: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = said.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise AnsweredWrongly(f"the agent's {name!r} is {str(found)[:80]!r}; due is a list of objects")
    return found


def _number(said: Mapping[str, Any], name: str) -> int:
    found = said.get(name, 0)
    if type(found) is not int or not 0 <= found < 1 << 64:
        raise AnsweredWrongly(f"the agent's {name!r} is {str(found)[:80]!r}; due is a number below 2^64")
    return found


def _name(said: Mapping[str, Any], name: str) -> str:
    found = str(said.get(name))
    if _NAME.fullmatch(found) is None:
        raise AnsweredWrongly(f"the agent's {name!r} is {found[:80]!r}; due is a name like region0")
    return found


def _tag(found: object) -> str:
    text = str(found).replace("-", "").lower()
    try:
        if len(bytes.fromhex(text)) == 16:
            return text
    except ValueError:
        pass
    raise AnsweredWrongly(f"the agent's tag is {str(found)[:80]!r}; due are 32 hex digits")


_SEEN: Mapping[str, Callable[[Any], bool]] = {
    "mode": lambda found: isinstance(found, str),
    "available": lambda found: type(found) is int and found >= 0,
    "names": lambda found: isinstance(found, list | tuple),
    "all_devices": lambda found: isinstance(found, list | tuple),
}


def _sight(region: str, said: Mapping[str, Any]) -> Value:
    """A sight as the history has it: what was not looked at is left out."""
    value: Value = {"region": region}
    for name, right in _SEEN.items():
        if said.get(name) is None:
            continue
        if not right(said[name]):
            raise AnsweredWrongly(f"the agent's {name!r} of {region} is {str(said[name])[:80]!r}")
        value[name] = said[name]
    if said.get("extents") is not None:
        value["extents"] = [_extent(one) for one in _list(said, "extents")]
    value["devices"] = [_dax(one) for one in _list({"devices": said.get("devices") or []}, "devices")]
    return value


def _extent(one: Mapping[str, Any]) -> Value:
    uuid = one.get("uuid")
    return {
        "name": str(one.get("name")),
        "offset": _number(one, "offset"),
        "length": _number(one, "length"),
        "uuid": None if uuid is None else str(uuid),
    }


def _dax(one: Mapping[str, Any]) -> Value:
    found: Value = {"name": str(one.get("name"))}
    if one.get("size") is not None:
        found["size"] = _number(one, "size")
    for name in ("uuid", "driver"):
        if name in one:
            found[name] = None if one[name] is None else str(one[name])
    for name in ("has_uuid", "has_driver"):
        if one.get(name) is not None:
            found[name] = bool(one[name])
    if one.get("mappings") is not None:
        found["mappings"] = [_mapping(piece) for piece in one["mappings"]]
    return found


def _mapping(piece: object) -> list[int]:
    values = list(piece.values()) if isinstance(piece, dict) else piece
    if isinstance(values, list | tuple) and len(values) == 3 and all(type(one) is int and one >= 0 for one in values):
        return list(values)
    raise AnsweredWrongly(f"the agent's mapping is {str(piece)[:80]!r}; due are start, end and page offset")


def _tool(one: Mapping[str, Any]) -> Value:
    """What a tool and sysfs showed, as the history has it. Errors: AnsweredWrongly."""
    found: Value = {"tool": str(one.get("tool"))[:MOST_TEXT]}
    if one.get("failed") is not None:
        return {**found, "failed": str(one["failed"])[:MOST_TEXT]}
    for side in ("shows", "sysfs"):
        said = one.get(side)
        if not isinstance(said, dict):
            raise AnsweredWrongly(f"the agent's {side!r} of {found['tool']!r} is {str(said)[:80]!r}; due is an object")
        found[side] = {name: None if facts is None else _facts(facts) for name, facts in said.items()}
    return found


def _facts(facts: object) -> Value:
    """Numbers, names, mappings. Errors: AnsweredWrongly."""
    if not isinstance(facts, dict):
        raise AnsweredWrongly(f"the agent's facts are {str(facts)[:80]!r}; due is an object")
    found: Value = {}
    for name, fact in facts.items():
        if isinstance(fact, list):
            found[name] = [_mapping(piece) for piece in fact]
        else:
            found[name] = fact[:MOST_TEXT] if isinstance(fact, str) else None if fact is None else _number(facts, name)
    return found


def _extent_list(said: Mapping[str, Any]) -> Value:
    """The payload of 4801h: its page. Errors: AnsweredWrongly."""
    from ..wire import ExtentList

    if said.get("rc"):
        return {"error": "", "rc": _number(said, "rc")}
    try:
        page = ExtentList.from_bytes(bytes.fromhex(str(said.get("payload", ""))))
    except (ValueError, MalformedBytes) as error:
        raise AnsweredWrongly(f"4801h by the kernel: {error}") from None
    extents = [
        {"dpa": one.start, "length": one.length, "tag": one.tag.hex(), "sequence": one.sequence} for one in page.extents
    ]
    return {"error": "", "rc": 0, "total": page.total, "generation": page.generation, "extents": extents}
