"""Emulated devices that are wrong in one way each, and what the comparison must say of them: a signature's part, and
how many operations show it at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dcdbackend.differential import EmulatorSide, Source
from dcdbackend.emulator import wording
from dcdbackend.emulator.device import EmulatedDevice
from dcdbackend.emulator.machine import Behaviour, Machine, behaviour
from dcdbackend.model.decide import INVALID_EXTENTS, INVALID_PA
from dcdbackend.topology import direct
from dcdbackend.workload import next_operation

MIB = 1 << 20
VERSION = "11.1.3"
AS_QEMU = behaviour(f"qemu-{VERSION}")
BY_HAND = {"reset", "deadly.qmp-wraps", "deadly.empty-answer"}
"""Kinds that no sequence has by itself."""
Break = Callable[[EmulatedDevice], None]


def _does(after: Callable[[EmulatedDevice, str, Any, int, Any], tuple[int, Any]]) -> Break:
    """A device that does as it should, and then something else."""

    def applied(there: EmulatedDevice) -> None:
        ask = there.ask

        def wrong(f: str, sent: Any) -> tuple[int, Any]:
            rc, said = ask(f, sent)
            return after(there, f, sent, rc, said)

        there.ask = wrong  # type: ignore[method-assign]

    return applied


def _wrong_code(_: EmulatedDevice, f: str, sent: Any, rc: int, said: Any) -> tuple[int, Any]:
    return (INVALID_PA if f == "answer" and rc == INVALID_EXTENTS else rc), said


def _misses_one(_: EmulatedDevice, f: str, sent: Any, rc: int, said: Any) -> tuple[int, Any]:
    if f == "extents" and not rc and len(said["extents"]) > 2:
        said = {**said, "extents": said["extents"][:-1]}
    return rc, said


def _says_pending(there: EmulatedDevice) -> None:
    """The block at 1000 MiB of region 0 seems pending as long as anything is accepted."""
    manage = there.manage

    def wrong(f: str, sent: Any) -> str | None:
        said = manage(f, sent)
        spans = sent["extents"] if sent["region"] == 0 and said == wording.ZERO_LENGTH else ()
        there_it_is = any(one["offset"] <= 1000 * MIB < one["offset"] + one["length"] for one in spans)
        return wording.PENDING if there_it_is and there.model.state.accepted else said

    there.manage = wrong  # type: ignore[method-assign]


def _more_stays_set(_: EmulatedDevice, f: str, sent: Any, rc: int, said: Any) -> tuple[int, Any]:
    if f == "events" and len(said.get("records", ())) > 2:
        last = {**said["records"][-1], "more": not said["records"][-1]["more"]}
        said = {**said, "records": [*said["records"][:-1], last]}
    return rc, said


def _counts_generation(_: EmulatedDevice, f: str, sent: Any, rc: int, said: Any) -> tuple[int, Any]:
    return rc, {**said, "generation": said["total"]} if f == "extents" and not rc else said


def _refuses_split(there: EmulatedDevice, f: str, sent: Any, rc: int, said: Any) -> tuple[int, Any]:
    many = f == "give_back" and len(sent.get("ranges", ())) == 3
    return (INVALID_PA if many and not rc else rc), said


def _other_words(there: EmulatedDevice) -> None:
    manage = there.manage

    def wrong(f: str, sent: Any) -> str | None:
        said = manage(f, sent)
        return wording.ACCEPTED if said == wording.PENDING and len(sent["extents"]) == 3 else said

    there.manage = wrong  # type: ignore[method-assign]


def _takes_unaligned(there: EmulatedDevice) -> None:
    manage = there.manage
    there.manage = lambda f, sent: None if (said := manage(f, sent)) == wording.UNALIGNED else said  # type: ignore[method-assign]


BREAKS: dict[str, tuple[Break, str, int]] = {
    "a wrong refusal code": (_does(_wrong_code), "answer outcome: emulator 0fh, QEMU 1eh", 1),
    "an extent missed in the list": (_does(_misses_one), "list", 4),
    "pending where it is free": (_says_pending, "still pending", 2),
    "More on the last record": (_does(_more_stays_set), "log", 3),
    "a generation number that moves": (_does(_counts_generation), "list", 2),
    "three ranges refused": (_does(_refuses_split), "give_back outcome: emulator 0fh, QEMU 00h", 7),
    "the words of another refusal": (_other_words, "already accessible", 3),
    "an unaligned add taken": (_takes_unaligned, "outcome: emulator ok", 1),
}


def sequence(seed: int, length: int) -> Source:
    return lambda number, there: next_operation(seed, number, there) if number < length else None


class Wrong(EmulatorSide):
    """An emulator that is broken in one way."""

    broken: Break

    def _made(self) -> Machine:
        machine = super()._made()
        self.broken(machine.devices["mem0"])
        return machine


def wrong_side(broken: Break, behaves: Behaviour = AS_QEMU) -> EmulatorSide:
    """Two regions in 2 GiB, as `boot.Setup` has them by default."""
    kind = type("Broken", (Wrong,), {"broken": staticmethod(broken)})
    side: EmulatorSide = kind(direct(regions=2), behaves)
    return side
