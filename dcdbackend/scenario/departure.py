"""Known departures of QEMU, each looked for: a scenario that declares one fails when it is not seen any more.

So the table (`model/departures.py`) cannot grow stale: on a QEMU that was repaired the scenario names the row that no
longer holds. A row is expected of the versions that it is for, and of no other. Not here are those that need a fabric
manager's commands (they are in `fabric`) and the one that only bytes can show (a request to sanitize).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from ..errors import Refused
from ..session import Session
from . import DEPARTURE, Body, Outcome, scenario

MIB = 1 << 20
EXTENTS = 512
"""As many as QEMU says that it supports."""
WAIT_S = 0.3
READS = 100


def departs(
    *names: str,
    host_breaks: str | None = None,
    settle: bool = True,
    needs: Iterable[str] = (),
    unknown: bool = False,
) -> Callable[[Body], Body]:
    """Register a scenario that must show these departures; to show them the host may have to break a clause.

    `unknown`: what the device then holds is not known, and what it does is not judged any more.
    """
    expect: dict[str, Outcome] = {DEPARTURE + name: "departure" for name in names}
    if host_breaks is not None:
        expect[f"host {host_breaks}"] = "fail"
    if unknown:
        expect["device *"] = "unknown"
    return scenario(expect=expect, settle=settle, needs=needs)


@departs("QEMU-remain", "QEMU-severity")
async def departs_records(bench: Session) -> None:
    """One record is read: it is no warning, and with all records read none remain (DEV-4.severity, DEV-16.remain)."""
    assert (await (await bench.add(["0+2M"])).answer()).outcome == "accepted"


@departs("QEMU-generation")
async def departs_generation(bench: Session) -> None:
    """The extent list is read, changes, and is read again: its generation number changes (DEV-10)."""
    assert await bench.extents() == ()
    await (await bench.add(["0+2M"])).answer()
    assert len(await bench.extents()) == 1


@departs("QEMU-list-pending")
async def departs_list_pending(bench: Session) -> None:
    """The extent list is read while two extents are pending: they are not in it in any form (DEV-10.extents)."""
    await bench.policy("never")
    await bench.add(["0+2M", "4M+2M"])
    await bench.idle()
    assert await bench.extents() == ()
    await bench.answer([])


@departs("QEMU-answer-more")
async def departs_answer_more(bench: Session) -> None:
    """The host answers for the first of two extents, more to follow: the second stays pending (DEV-6.more)."""
    await bench.policy("never")
    await bench.add(["0+2M", "4M+2M"])
    await bench.idle()
    assert await bench.answer([(bench.dpa(0, 0), 2 * MIB)], more=True) == 0
    if await bench.block(4 * MIB) == "pending":
        await bench.answer([])


@departs("QEMU-release-nothing", host_breaks="DEV-7.aligned")
async def departs_release_nothing(bench: Session) -> None:
    """The host gives back a range of no length: that is an error (DEV-2.nonempty), and changes nothing."""
    await (await bench.add(["0+4M"])).answer()
    await bench.give_back([(bench.dpa(0, 0), 0)])
    assert await bench.extents() == ((bench.dpa(0, 0), 4 * MIB),)


@departs("QEMU-clear-code")
async def departs_clear_code(bench: Session) -> None:
    """The newer of two records is cleared before the older one: that gets 0Eh (DEV-16.clear-order)."""
    await bench.policy("late", delay_s=WAIT_S)
    offer = await bench.add(["0+2M", "4M+2M"])
    handles = [record["handle"] for record in await bench.records()]
    assert len(handles) == 2
    assert await bench.clear(handles[1:]) != 0
    assert (await offer.answer()).outcome == "accepted"


@departs("QEMU-clear-all")
async def departs_clear_all(bench: Session) -> None:
    """All records are cleared at once, and none was lost before: that gets 02h (DEV-16.clear-all)."""
    await bench.policy("late", delay_s=WAIT_S)
    offer = await bench.add(["0+2M"])
    assert len(await bench.records()) == 1
    await bench.clear([], everything=True)
    assert (await offer.answer()).outcome == "accepted"


@departs("QEMU-clear-beyond")
async def departs_clear_beyond(bench: Session) -> None:
    """A record is cleared that is not there: that gets 0Eh (DEV-16.clear-unknown)."""
    await (await bench.add(["0+2M"])).answer()
    await bench.idle()
    assert await bench.records() == ()
    await bench.clear([0x7777])


@departs("QEMU-tag-qmp")
async def departs_tag_qmp(bench: Session) -> None:
    """An extent is offered with a tag: the host's record carries it (DEV-4.tag)."""
    await (await bench.add(["0+2M"], tag="0f1e2d3c4b5a69788796a5b4c3d2e1f0", via="qmp")).answer()


@departs("QEMU-host", "QEMU-host-id")
async def departs_host(bench: Session) -> None:
    """A host that the device does not serve is offered an extent: refused, or the record names it (DEV-8, DEV-20)."""
    with suppress(Refused):
        await (await bench.add(["0+2M"], host_id=9, via="qmp")).answer()


@departs("QEMU-forced")
async def departs_forced(bench: Session) -> None:
    """A release is forced on a host that declines every request: taken at once (DEV-12.taken)."""
    await (await bench.add(["0+2M"])).answer()
    await bench.release_policy("decline")
    with suppress(Refused):
        await bench.release(["0+2M"], forced=True)
        await bench.idle()
        await bench.block(0)


@departs("QEMU-log", "QEMU-add-full", "QEMU-available-wraps", "QEMU-counts-twice", settle=False)
async def departs_full(bench: Session) -> None:
    """As many extents as the device supports, one more, one taken: all told, refused, room (DEV-4, DEV-8, DEV-19).

    By QMP, whoever else injects: QEMU-add-full is QMP's, and one 5604h in the tunnel has room for 50 extents.
    """
    offers = await full(bench)
    region = bench.devices["mem0"]["regions"][-1]
    last = (region["index"], region["length"] - 2 * MIB)
    with suppress(Refused):
        await bench.add([f"{last[1]}+2M"], region=last[0], via="qmp")
        await emptied(bench)
        offers.append(last)
    await bench.answer([(bench.dpa(0, 0), 2 * MIB)])
    for number, offset in offers:
        if await bench.block(offset, region=number) == "pending":
            await bench.answer([])


@departs("QEMU-empty-answer", settle=False)
async def departs_empty_answer(bench: Session) -> None:
    """The host refuses an offer when there is none: the device lives on (DEV-9.alive)."""
    await bench.answer([])
    assert await bench.block(0) == "free"


async def full(bench: Session) -> list[tuple[int, int]]:
    """Offer as many extents as the device supports, and answer none; (region, offset) of each offer's first."""
    await bench.policy("never")
    left = EXTENTS
    offers: list[tuple[int, int]] = []
    for number, region in enumerate(bench.devices["mem0"]["regions"]):
        some = min(left, region["length"] // (2 * MIB) - 1)
        if some > 0:
            await bench.add([f"{2 * index}M+2M" for index in range(some)], region=number, via="qmp")
            await emptied(bench)
            offers.append((number, 0))
        left -= max(some, 0)
    assert not left, f"the device has no room for {left} more extents"
    return offers


async def emptied(bench: Session) -> None:
    """Wait until the host has read and cleared the records that the log holds, be it all of the offer's or not."""
    for _ in range(READS):
        if not await bench.records():
            return
