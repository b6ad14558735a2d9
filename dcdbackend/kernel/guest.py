"""A booted guest whose kernel is under test, as a bench: its header, and a session on it.

Which generation the kernel is, its sysfs says (the agent's survey), or the user where that cannot tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..bench import Value
from ..errors import CannotRun
from ..guest import Guest
from ..history import Header
from ..kconfig import lacking
from ..model.generation import GENERATIONS
from .agent import AgentKernel
from .session import KernelSession

MOST_EVIDENCE = 6
_NOT_SENT = frozenset(("-EPERM", "-ENOTTY", "-ENOENT", "-EACCES", "-EOPNOTSUPP"))
"""What a kernel says that sends no raw commands (no CXL_MEM_RAW_COMMANDS, no /dev/cxl): the device never saw it."""


class KernelHost:
    """The kernel in the guest as a `bench.Host`: nobody tells it how to answer."""

    name = "kernel"

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    async def policy(self, device: str, *, add: Value, release: Value, breaks: str | None = None) -> None:
        raise CannotRun("the host is the kernel under test, which answers as it does; host U answers by a policy")

    async def do(self, op: int, process: str, f: str, value: Value) -> None:
        raise CannotRun(f"the host is the kernel under test, which sends {f} when it has a reason; host U does at will")

    async def reset(self) -> None:
        await self._guest.reset()

    async def judgement(self) -> Value:
        return {}


def survey_of(guest: Guest) -> Value:
    """What the agent found in sysfs when it began. Errors: CannotRun."""
    found = guest.ready.get("survey")
    if not isinstance(found, dict):
        raise CannotRun("the guest's agent has made no survey of its kernel; build the guest's initrd anew")
    return found


def generation_of(survey: Value, asked: str | None = None) -> str:
    """The generation of Linux that this kernel is, by name. `asked`: the user's word, None or "auto" for none.

    Errors: CannotRun: the kernel has no Dynamic Capacity, or does not tell which generation it is.
    """
    told = survey.get("generation")
    found = told.get("found") if isinstance(told, dict) else None
    evidence = told.get("evidence", ()) if isinstance(told, dict) else ()
    if asked not in (None, "auto"):
        return str(asked)
    if isinstance(found, str) and found in GENERATIONS:
        return found
    why = "; ".join(str(one) for one in list(evidence)[:MOST_EVIDENCE])
    if found in ("A/B-rfc", "early"):
        raise CannotRun(f"this kernel's generation is A or B-rfc, sysfs does not tell which ({why}); say --generation")
    raise CannotRun(lacking(survey) or f"this kernel has no Dynamic Capacity that is known here ({why})")


async def settled_survey(guest: Guest) -> None:
    """What only trying tells: the generation, where it takes a region to see it, and whether raw commands are sent.

    The raw command is a 4801h that asks for no extent. Errors: as of the agent.
    """
    told = survey_of(guest).get("generation")
    if not isinstance(told, dict) or told.get("found") == "none":
        return
    kernel, device = AgentKernel(guest), guest.shape.devices[0]
    kernel.learn(survey_of(guest))
    if not told.get("sure", True):
        made = await kernel.make_region(device.name, device.region_size_bytes)
        if not made["error"]:
            guest.ready["survey"] = await kernel.survey()
            await kernel.destroy_region(made["region"])
    said = await kernel.listed(device.name, 0, 0)
    survey_of(guest)["sends_raw"] = said["error"] not in _NOT_SENT


def kernel_header(guest: Guest, scenario: str, seed: int, *, asked: str | None = None) -> Header:
    """The first line of a history on it. Errors: CannotRun."""
    survey = survey_of(guest)
    host: Value = {"generation": generation_of(survey, asked), "kernel": survey.get("kernel")}
    if survey.get("dynamic_debug") is False:
        host["dynamic_debug"] = False
    return Header(
        backend="qemu",
        qemu=guest.machine_told(),
        host=host,
        devices=tuple({"payload_size": 2048, **device, "regions": _regions(device)} for device in guest.devices()),
        seed=seed,
        scenario=scenario,
    )


def _regions(device: Value) -> Sequence[Value]:
    """The device's regions, with what QEMU gives every one of them."""
    return [
        {"decode_length": one["length"], "flags": 0, "dsmad_handle": one["index"], **one} for one in device["regions"]
    ]


def kernel_session(guest: Guest, **plugs: Any) -> KernelSession:
    """A session on it; `plugs`: as `session.Session` has them, without the host."""
    kernel = AgentKernel(guest)
    kernel.learn(survey_of(guest))
    return KernelSession(kernel=kernel, host=KernelHost(guest), **plugs)
