"""What only a fabric manager can do: tags and sequence numbers, region configuration, a second list of what is held.

All of them need a switch with a mailbox and a device that answers 56xxh (`needs`: `tags`, or `fm` alone). What the
host's records must carry, and what the lists must show, is the checker's to say (DEV-4, DEV-10, DEV-15, DEV-18); the
scripts look at what they injected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from ..bench import Span, Value
from ..errors import Refused, Unserved
from ..session import ANSWER_TIMEOUT_S, Range, Session
from ..wire.dcd import WireExtent
from ..wire.fmapi import InitiateDcAdd
from . import scenario
from .departure import departs
from .illegal import refused

MIB = 1 << 20
TOP = 1 << 64
BLOCK = 2 * MIB
A, B, C = "aa" * 16, "0b1e2d3c4b5a69788796a5b4c3d2e1f0", "cc" * 16
LOG_RECORDS = 8
"""As many records as QEMU's log holds: a longer chain loses its end (QEMU-log)."""
MANY = 500
LOOK_S = 0.02
MAX_LOOKS = 250
WAIT_S = 0.6
"""How late the host answers where its records are read before, or more is done meanwhile."""


def spans(*named: tuple[int, str, int]) -> list[Span]:
    """One block for each (block number, tag, sequence)."""
    return [Span(number * BLOCK, BLOCK, tag, sequence) for number, tag, sequence in named]


def shown(records: tuple[Value, ...]) -> list[tuple[int, str, int]]:
    return [(record["dpa"], record["tag"], record["sequence"]) for record in records]


@scenario(needs={"tags"})
async def tag_one_chain(bench: Session) -> None:
    """Three extents of one tag in one chain: the host reads tag and sequence as they were sent, and takes them."""
    await bench.policy("late", delay_s=WAIT_S)
    offer = await bench.add(spans((0, A, 0), (4, A, 1), (2, A, 2)))
    base = bench.dpa(0, 0)
    assert shown(await bench.records()) == [(base, A, 0), (base + 4 * BLOCK, A, 1), (base + 2 * BLOCK, A, 2)]
    assert (await offer.answer()).outcome == "accepted"
    assert (await (await bench.release(["0+2M", "4M+2M", "8M+2M"], tag=A)).response()).outcome == "released"


@scenario(needs={"tags"})
async def tag_over_chains(bench: Session) -> None:
    """Chains of different tags pend at once, and untagged ones between them: answered in order, each with its own."""
    await bench.policy("late", delay_s=WAIT_S)
    offers = [
        await bench.add(spans((0, A, 0), (1, A, 1))),
        await bench.add(["8M+4M"], via="fm"),
        await bench.add(spans((8, B, 0))),
    ]
    assert [tag for _, tag, _ in shown(await bench.records())] == [A, A, "00" * 16, B]
    assert [(await offer.answer()).outcome for offer in offers] == ["accepted"] * 3


@scenario(needs={"tags"})
async def tag_again(bench: Session) -> None:
    """A tag whose capacity was given back is used again, for other capacity: taken as if it were new."""
    assert (await (await bench.add(spans((0, A, 0), (1, A, 1)))).answer()).outcome == "accepted"
    assert (await (await bench.release(["0+4M"], tag=A)).response()).outcome == "released"
    assert (await (await bench.add(spans((8, A, 0)))).answer()).outcome == "accepted"
    assert await bench.extents() == ((bench.dpa(0, 8 * BLOCK), BLOCK),)


@scenario(needs={"tags"})
async def tags_interleaved(bench: Session) -> None:
    """Three tags, interleaved in one chain: the records come as sent, and the host answers for all of them at once."""
    await bench.policy("late", delay_s=WAIT_S)
    named = [(0, A, 0), (1, B, 0), (2, A, 1), (3, C, 0), (4, B, 1), (5, A, 2)]
    offer = await bench.add(spans(*named))
    assert [(tag, sequence) for _, tag, sequence in shown(await bench.records())] == [one[1:] for one in named]
    assert (await offer.answer()).outcome == "accepted"
    assert len(await bench.fm_extents()) == len(await bench.extents()) == 6


@scenario(needs={"tags"})
async def sequence_orders(bench: Session) -> None:
    """Sequence numbers with gaps, backwards, twice the same and at the top of 16 bits: they reach the host as sent."""
    await bench.policy("late", delay_s=WAIT_S)
    for first, numbers in ((0, (3, 1, 7)), (8, (2, 1, 0)), (16, (5, 5)), (24, (0xFFFF, 0))):
        tag = f"{first + 1:02x}" * 16
        named = [(first + at, tag, number) for at, number in enumerate(numbers)]
        offer = await bench.add(spans(*named))
        assert [sequence for _, _, sequence in shown(await bench.records())] == list(numbers)
        assert (await offer.answer()).outcome == "accepted"


@scenario(needs={"tags"})
async def fm_beside_qmp(bench: Session) -> None:
    """Two managers: an offer by QMP is pending when one by FM-API comes, and another by QMP. Each settles in turn."""
    await bench.policy("late", delay_s=WAIT_S)
    first = await bench.add(["0+4M"], via="qmp")
    second = await bench.add(spans((8, A, 0), (9, A, 1)))
    third = await bench.add(["64M+2M"], via="qmp")
    for extent, via in (("0+4M", "fm"), ("16M+2M", "qmp"), ("64M+2M", "fm")):
        await refused(bench, [extent], via=via)
    assert [(await offer.answer()).outcome for offer in (first, second, third)] == ["accepted"] * 3
    for extent, via in (("0+4M", "fm"), ("16M+4M", "qmp"), ("64M+2M", "fm")):
        assert (await (await bench.release([extent], via=via)).response()).outcome == "released"
    assert await bench.fm_extents() == ()


@scenario(needs={"fm"})
async def fm_release_pending(bench: Session) -> None:
    """The fabric manager asks back what is still pending, whole and in part: refused, and the offer is answered."""
    await bench.policy("late", delay_s=WAIT_S)
    offer = await bench.add(["0+8M"], via="fm")
    for extent in ("0+8M", "2M+2M", "0+16M"):
        await refused(bench, [extent], release=True, via="fm")
    assert await bench.fm_extents() == ()
    assert (await offer.answer()).outcome == "accepted"
    await refused(bench, ["4M+8M"], release=True, via="fm")
    assert (await (await bench.release(["0+8M"], via="fm")).response()).outcome == "released"


@scenario(needs={"fm"})
async def managers_cross(bench: Session) -> None:
    """Two managers at once: each gives while the other takes back what the first gave; both see all by 5603h."""
    first = await bench.add(["0+4M"], via="qmp")
    second = await bench.add(["8M+4M"], via="fm")
    assert [(await offer.answer()).outcome for offer in (first, second)] == ["accepted"] * 2
    base = bench.dpa(0, 0)
    assert [one["dpa"] - base for one in await bench.fm_extents()] == [0, 8 * MIB]
    for gives, takes, given, taken in (("fm", "qmp", "16M+4M", "8M+4M"), ("qmp", "fm", "24M+4M", "0+4M")):
        offer, request = await asyncio.gather(bench.add([given], via=gives), bench.release([taken], via=takes))
        responded, answered = await asyncio.gather(request.response(), offer.answer())
        assert (responded.outcome, answered.outcome) == ("released", "accepted")
    assert [one["dpa"] - base for one in await bench.fm_extents()] == [16 * MIB, 24 * MIB]
    assert await bench.extents() == ((base + 16 * MIB, 4 * MIB), (base + 24 * MIB, 4 * MIB))


@scenario(needs={"fm"})
async def managers_ask_the_same(bench: Session) -> None:
    """Two managers ask back the same, before the host has heeded either: it gives it back once, to both."""
    assert (await (await bench.add(["0+4M", "8M+4M"], via="fm")).answer()).outcome == "accepted"
    await bench.release_policy("late", delay_s=WAIT_S)
    asked = [await bench.release(["8M+4M"], via=via) for via in ("fm", "qmp")]
    assert [(await request.response()).outcome for request in asked] == ["released"] * 2
    for via in ("qmp", "fm"):  # of what is gone there is nothing to ask for
        await refused(bench, ["8M+4M"], release=True, via=via)
    assert [(one["dpa"], one["length"]) for one in await bench.fm_extents()] == [(bench.dpa(0, 0), 4 * MIB)]


@scenario(needs={"fm"}, expect={"device DEV-9.answers": "unknown"})
async def manager_dies_asking(bench: Session) -> None:
    """A manager dies when its 5604h, later its 5605h, was sent and not answered: the next one finds it in force."""
    await bench.add(["0+2M"], via="fm")
    await bench.idle()
    await broken_off(bench, "add", bench.add(["4M+4M"], via="fm"))
    held = await found_again(bench, 4 * MIB, "accepted")
    assert held == ((bench.dpa(0, 0), 2 * MIB), (bench.dpa(0, 4 * MIB), 4 * MIB))
    await refused(bench, ["4M+4M"], via="fm")  # a next manager that repeats it is told so
    await broken_off(bench, "release", bench.release(["4M+4M"], via="fm"))
    assert await found_again(bench, 4 * MIB, "free") == ((bench.dpa(0, 0), 2 * MIB),)


async def broken_off(bench: Session, f: str, asking: Coroutine[Any, Any, object]) -> None:
    """A manager's request of which nobody awaits the answer any more, from the moment that it was sent.

    Errors: Unserved, where there is no such moment (the emulator is in this process).
    """
    sent = asyncio.Event()
    bench.writer.listen(lambda op: sent.set() if (op.f, op.type) == (f, "invoke") else None)
    task = asyncio.create_task(asking)
    await asyncio.wait_for(sent.wait(), ANSWER_TIMEOUT_S)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
        raise Unserved(f"this bench answers a manager at once: no {f} is ever on its way")


async def found_again(bench: Session, offset: int, state: str) -> tuple[Range, ...]:
    """What is held, from the witnesses alone, once a block is in that state: by both lists, which must be one."""
    for _ in range(MAX_LOOKS):
        if await bench.block(offset) == state:
            break
        await asyncio.sleep(LOOK_S)
    assert await bench.block(offset) == state, f"the block at {offset} is not {state}"
    await bench.compare()
    held = await bench.extents()
    assert sorted(held) == sorted((one["dpa"], one["length"]) for one in await bench.fm_extents())
    return held


@scenario(needs={"fm", "fixed-regions"})
async def region_setup(bench: Session) -> None:
    """A region is set up with the block size that it has, and with others: what it offers afterwards is as before."""
    size = bench.devices["mem0"]["regions"][0]["block_size"]
    await bench.set_region(1, block_size=size)
    for block_size, sanitize in ((size // 2, False), (2 * size, False), (size, True), (0, False), (96, False)):
        with suppress(Refused):
            await bench.set_region(1, block_size=block_size, sanitize=sanitize)
            raise AssertionError(f"a block size of {block_size} (sanitize {sanitize}) was taken")
    answer = await (await bench.add(["0+2M", "8M+4M"], region=1)).answer()
    assert answer.outcome == "accepted", answer
    assert await bench.block(2 * MIB, region=1) == "free"


@scenario(needs={"fm"}, timeout_s=60.0)
async def list_paged_while_it_changes(bench: Session) -> None:
    """500 extents are held; their list is read by both witnesses in pages of seven, while the host gives some back."""
    blocks = bench.devices["mem0"]["regions"][0]["length"] // (2 * BLOCK)
    held = [(number // blocks, number % blocks * 2 * BLOCK) for number in range(MANY)]
    chains = [held[at : at + LOG_RECORDS] for at in range(0, MANY, LOG_RECORDS)]
    for chain in chains:
        for region in sorted({region for region, _ in chain}):
            await bench.add([Span(offset, BLOCK) for at, offset in chain if at == region], region=region)
            await bench.idle()
    await bench.compare()
    leaving = bench.random.sample(held, 40)

    async def leave() -> None:
        for region, offset in leaving:
            await bench.release([Span(offset, BLOCK)], region=region)
            await bench.idle()

    await asyncio.gather(leave(), bench.fm_extents(page=7), bench.extents(page=7))
    assert len(await bench.fm_extents()) == len(await bench.extents()) == MANY - len(leaving)


@scenario(needs={"tags"}, shape={"devices": 3, "size": "512M"})
async def fm_several_devices(bench: Session) -> None:
    """One switch, three devices: what is offered to one, with a tag, is in its list and in no other's."""
    tags = dict(zip(bench.devices, (A, B, C), strict=True))
    for number, (device, tag) in enumerate(tags.items()):
        answer = await (await bench.add(spans((number, tag, 0)), device=device)).answer()
        assert answer.outcome == "accepted", answer
    for number, device in enumerate(tags):
        listed = await bench.fm_extents(device=device)
        assert [one["dpa"] for one in listed] == [bench.dpa(0, number * BLOCK, device=device)]
    first, *others = tags
    assert (await (await bench.release(["0+2M"], device=first, via="fm")).response()).outcome == "released"
    assert await bench.fm_extents(device=first) == ()
    assert all([await bench.fm_extents(device=other) for other in others])


# -- known departures, each looked for (see `departure`) -----------------------------------------------------------


@departs("QEMU-tag", "QEMU-tags-supported", needs={"tags"})
async def departs_tag(bench: Session) -> None:
    """A tagged extent is offered and accepted: counted as a tag, and listed as it was offered (DEV-10, DEV-19)."""
    with suppress(Refused):
        await (await bench.add(spans((0, B, 3)))).answer()


@departs("QEMU-forced", needs={"fm"})
async def departs_forced_fm(bench: Session) -> None:
    """A release is forced by the fabric manager on a host that declines every request: taken at once (DEV-12.taken)."""
    await (await bench.add(["0+2M"], via="fm")).answer()
    await bench.release_policy("decline")
    with suppress(Refused):
        await (await bench.release(["0+2M"], forced=True, via="fm")).response()


@departs("QEMU-fm-host", needs={"fm"})
async def departs_fm_host(bench: Session) -> None:
    """The fabric manager offers to a host that the device does not serve: refused (DEV-8.02h-host)."""
    with suppress(Refused):
        await (await bench.add(["0+2M"], host_id=9, via="fm")).answer()


@departs("QEMU-fm-empty", needs={"fm"}, settle=False, unknown=True)
async def departs_fm_empty(bench: Session) -> None:
    """The fabric manager offers an extent of no length: refused, and nothing pends (DEV-2.nonempty)."""
    await bench.policy("never")
    with suppress(Refused):
        await bench.add([Span(4 * MIB, 0)], via="fm")
    await bench.block(4 * MIB)


@departs("QEMU-fm-short", needs={"fm"}, settle=False, unknown=True)
async def departs_fm_short(bench: Session) -> None:
    """A 5604h that is cut eight bytes before the end of its only extent gets 16h (DEV-8.16h)."""
    await bench.policy("never")
    extent = WireExtent(start=bench.dpa(0, 0), length=BLOCK)
    with suppress(Refused):
        await bench.send("add", InitiateDcAdd(extents=(extent,)).to_bytes()[:-8])
    await bench.block(0)


@departs("QEMU-fm-nothing", needs={"fm"}, settle=False)
async def departs_fm_nothing(bench: Session) -> None:
    """The fabric manager offers a list of no extents: the device lives on (DEV-9.alive)."""
    with suppress(Refused):
        await bench.send("add", InitiateDcAdd(extents=()).to_bytes())
    assert await bench.block(0) == "free"


@departs("QEMU-fm-wraps", needs={"fm"}, settle=False)
async def departs_fm_wraps(bench: Session) -> None:
    """The fabric manager offers an extent that passes 2^64: the device lives on (DEV-9.alive)."""
    with suppress(Refused):
        await bench.send("add", InitiateDcAdd(extents=(WireExtent(start=TOP - BLOCK, length=2 * BLOCK),)).to_bytes())
    assert await bench.block(0) == "free"


@departs("QEMU-fm-region", needs={"fm"}, settle=False)
async def departs_fm_region(bench: Session) -> None:
    """A region is set up that the device could have, and has not: the device lives on (DEV-9.alive)."""
    with suppress(Refused):
        await bench.set_region(len(bench.devices["mem0"]["regions"]), block_size=BLOCK)
    assert await bench.block(0) == "free"
