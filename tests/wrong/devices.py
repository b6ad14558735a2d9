"""Deliberately wrong devices: the one that keeps the rules (`model.reply`), with one thing changed in each.

A row is the clause that must be named, the script that brings it to light, and the device. A device is a function like
`reply`; most are made of it by `alter`, which changes what one operation says, or does something else before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from dcdbackend.extents import Extent
from dcdbackend.model.decide import apply, apply_answer, apply_give_back, manager_extents, queue
from dcdbackend.model.reply import Device, reply
from dcdbackend.model.state import ADD, CONFIGURED, FORCED, Chain, Record, Segment

Value = dict[str, Any]
Said = tuple[Device, str, Value]
Answer = Callable[[Device, str, Value], Said]
TAG = "0123456789abcdef0123456789abcdef"


class Wrong(NamedTuple):
    """`limits`: keys that the header has for this device."""

    clause: str
    script: str
    answer: Answer
    limits: Value | None = None


def alter(f: str, change: Callable[[Device, Value, Said], Said]) -> Answer:
    """The right device, with what it does and says for `f` changed."""

    def answer(device: Device, name: str, sent: Value) -> Said:
        said = reply(device, name, sent)
        return change(device, sent, said) if name == f else said

    return answer


def said(f: str, change: Callable[[Value], Value]) -> Answer:
    """The right device, which says something else for `f` where it succeeds."""
    return alter(f, lambda _device, _sent, right: (right[0], right[1], change(right[2])) if right[1] == "ok" else right)


def rc(f: str, code: int) -> Answer:
    """The right device, which refuses `f` with another code than it must."""
    return alter(f, lambda _device, _sent, right: (right[0], "fail", {"rc": code}) if right[1] == "fail" else right)


def serves(f: str) -> Answer:
    """The right device, which says that it did what it must refuse."""
    served: Value = {} if f in ("add", "release", "force") else {"rc": 0}
    return alter(f, lambda _device, _sent, right: (right[0], "ok", served) if right[1] == "fail" else right)


def refuses(f: str, code: int) -> Answer:
    """The right device, which refuses what it must do."""
    return alter(f, lambda device, _sent, _right: (device, "fail", {"rc": code, "error": "No", "desc": "no"}))


def at_host(number: int, **changed: Any) -> Answer:
    """The right device, with fields of every record set that one of its hosts reads."""

    def change(_device: Device, sent: Value, right: Said) -> Said:
        if sent.get("host_id", 0) != number:
            return right
        return right[0], right[1], {**right[2], "records": [{**one, **changed} for one in right[2]["records"]]}

    return alter("events", change)


def asks(f: str, **changed: Any) -> Answer:
    """The right device, which does `f` as if something else had been asked."""
    return alter(f, lambda device, sent, _right: reply(device, f, {**sent, **changed}))


def records(change: Callable[[list[Value]], list[Value]]) -> Answer:
    """The right device, whose records are changed on their way out."""
    return said("events", lambda received: {**received, "records": change([dict(r) for r in received["records"]])})


def each_record(**changed: Any) -> Answer:
    """The right device, with fields of every record set."""
    return records(lambda found: [{**record, **changed} for record in found])


def of_type(kind: int, change: Callable[[Value], list[Value]]) -> Answer:
    """The right device, with each record of a type replaced by what `change` makes of it."""
    return records(lambda found: [new for one in found for new in (change(one) if one["type"] == kind else [one])])


def last_record(**changed: Any) -> Answer:
    """The right device, with fields of the last record set."""
    return records(lambda found: [*found[:-1], *({**record, **changed} for record in found[-1:])])


def page(change: Callable[[list[Value]], list[Value]]) -> Answer:
    """The right device, whose extent list is changed on its way out."""
    return said("extents", lambda received: {**received, "extents": change([dict(e) for e in received["extents"]])})


def _accepts_at_once(device: Device, sent: Value, right: Said) -> Said:
    state = right[0].state
    whole = [(extent.start, extent.length) for extent in state.chains[-1].extents]
    return right[0]._replace(state=apply_answer(state, 0, whole)), right[1], right[2]


def _takes_all(device: Device, sent: Value, right: Said) -> Said:
    if right[1] != "ok" or not device.state.chains:
        return right
    whole = [(extent.start, extent.length) for extent in device.state.chains[0].extents]
    return right[0]._replace(state=apply_answer(device.state, 0, whole)), "ok", right[2]


def _takes_nothing(device: Device, sent: Value, right: Said) -> Said:
    return right[0]._replace(state=apply_answer(device.state, 0, ())), "ok", right[2]


def _stays_pending(device: Device, sent: Value, right: Said) -> Said:
    return device, right[1], right[2]


def _closes_on_more(device: Device, sent: Value, right: Said) -> Said:
    if right[1] != "ok":
        return right
    return right[0]._replace(state=apply_answer(device.state, 0, sent["ranges"])), "ok", right[2]


def _refuses_the_rest(device: Device, f: str, sent: Value) -> Said:
    """An answer that goes on after More gets 0Fh."""
    if f == "answer" and any(chain.taken for chain in device.state.chains):
        return device, "fail", {"rc": 0x0F}
    return reply(device, f, sent)


def _frees_whole(device: Device, sent: Value, right: Said) -> Said:
    if right[1] != "ok":
        return right
    held = device.state.accepted.intersecting(*sent["ranges"][0])
    whole = [(extent.start, extent.length) for extent in held]
    return right[0]._replace(state=apply_give_back(device.state, whole)), "ok", right[2]


def _drops_the_offer(device: Device, sent: Value, right: Said) -> Said:
    if right[1] != "fail":
        return right
    return device._replace(state=apply_answer(device.state, 0, ())), right[1], right[2]


def _frees_on_failure(device: Device, sent: Value, right: Said) -> Said:
    if right[1] != "fail":
        return right
    return device._replace(state=apply_give_back(device.state, sent["ranges"][:1])), right[1], right[2]


def _takes_on_request(device: Device, sent: Value, right: Said) -> Said:
    if right[1] != "ok":
        return right
    ranges = [(extent.start, extent.length) for extent in manager_extents(device.state, sent)]
    return right[0]._replace(state=apply_give_back(right[0].state, ranges)), "ok", right[2]


def _offers_twice(device: Device, sent: Value, right: Said) -> Said:
    extents = manager_extents(device.state, sent)
    return right[0]._replace(state=queue(right[0].state, ADD, sent, extents)), right[1], right[2]


def _loses_on_clear(device: Device, sent: Value, right: Said) -> Said:
    return right[0]._replace(state=right[0].state._replace(log=())), right[1], right[2]


def _keeps_on_clear(device: Device, sent: Value, right: Said) -> Said:
    return device, right[1], right[2]


def _new_handles(device: Device, sent: Value, right: Said) -> Said:
    log = tuple([record._replace(handle=0) for record in right[0].state.log])
    return right[0]._replace(state=right[0].state._replace(log=log)), right[1], right[2]


def _stores_anyway(device: Device, sent: Value, right: Said) -> Said:
    data = bytes.fromhex(sent["data"])
    content = device.content.discard_range(sent["dpa"], len(data)).add(Segment(sent["dpa"], len(data), data))
    return device._replace(content=content), "ok", {}


def _loses_stores(device: Device, sent: Value, right: Said) -> Said:
    return (device if sent["side"] == "host" else right[0]), "ok", {}


def _reads_backend(device: Device, sent: Value, right: Said) -> Said:
    return device, "ok", reply(device, "bytes", sent)[2]


def _turns_pages(device: Device, sent: Value, right: Said) -> Said:
    """Every page is the first one."""
    if right[1] != "ok":
        return right
    first = reply(device, "extents", {**sent, "start": 0})[2]["extents"]
    return right[0], "ok", {**right[2], "extents": first[: len(right[2]["extents"])]}


def _pending_in_list(device: Device, sent: Value, right: Said) -> Said:
    pending = [_listed(extent) for extent in device.state.pending]
    found = right[2]["extents"] + pending
    return right[0], "ok", {**right[2], "extents": found, "total": len(found)}


def _listed(extent: Extent) -> Value:
    return {"dpa": extent.start, "length": extent.length, "tag": extent.tag.hex(), "sequence": extent.sequence}


def _counts_calls() -> Answer:
    """The generation number goes up with every reading."""
    calls = [0]

    def count(received: Value) -> Value:
        calls[0] += 1
        return {**received, "generation": calls[0]}

    return said("extents", count)


def _merges(device: Device, sent: Value, right: Said) -> Said:
    """Two offers become one chain, so that one answer settles both."""
    chains = right[0].state.chains
    if len(chains) < 2:
        return right
    merged = Chain(tuple([extent for chain in chains for extent in chain.extents]))
    return right[0]._replace(state=right[0].state._replace(chains=(merged,))), right[1], right[2]


def _adds_unseen(device: Device, sent: Value, right: Said) -> Said:
    """An add that fails is offered all the same."""
    if right[1] != "fail":
        return right
    extents = manager_extents(device.state, sent)[:1]
    state = device.state._replace(pending=device.state.pending.add(extents[0]))
    return device._replace(state=state), right[1], right[2]


def _only_tells(device: Device, sent: Value, right: Said) -> Said:
    """A forced release of which the host hears, and that takes nothing."""
    extents = manager_extents(device.state, sent)
    return device._replace(state=queue(device.state, FORCED, sent, extents)), right[1], right[2]


def _tells_unchanged(device: Device, sent: Value, right: Said) -> Said:
    """A record of type 3 though nothing changed."""
    state = right[0].state
    told = Record(0, CONFIGURED, False, 0, 0, 0, "00" * 16, 0, 0, region=sent["region"])
    return right[0]._replace(state=state._replace(log=(*state.log, told))), right[1], right[2]


def _keeps_content(device: Device, sent: Value, right: Said) -> Said:
    """What it must sanitize is there still."""
    return right[0]._replace(content=device.content), right[1], right[2]


def _refuses_sharing(device: Device, sent: Value, right: Said) -> Said:
    if sent["policy"] != "enable-shared-access":
        return right
    return device, "fail", {"rc": 2, "error": "No", "desc": "no"}


def _cuts_chain(found: list[Value]) -> list[Value]:
    return [{**record, "more": False} for record in found]


_ONE = "add 0+2M; events; accept; clear"
_TWO = "add 0+2M,2M+2M; events; accept; clear"

_TAGGED = f"add 0+2M,4M+2M via=fm tag={TAG}; events; accept; clear"
_BY_TAG = f"{_TAGGED}; release? policy=tag-based tag={TAG}"
_SHARED = f"add 0+4M,8M+2M via=fm shared=1 tag={TAG} @1; events; accept; clear"
_SHARE = f"add policy=enable-shared-access tag={TAG} @1 host=1"
_BYTES = "0102030405060708"
_AGAIN = f"store 0 {_BYTES}; release 0+2M; add 0+2M; events; accept; load 0+8"
FULL: Value = {
    "hosts": [0, 1],
    "selection_policies": ["free", "contiguous", "prescriptive", "enable-shared-access"],
    "removal_policies": ["tag-based", "prescriptive"],
    "supported_tags": 4,
    "sanitize_configurable": 3,
    "tag_references": True,
    "sharable": [1],
}
BARE: Value = {**FULL, "selection_policies": ["prescriptive"], "removal_policies": ["prescriptive"]}

WHOLE: tuple[Wrong, ...] = (
    Wrong("DEV-12.taken", f"{_ONE}; force 0+2M; block 0", alter("force", _only_tells)),
    Wrong("DEV-12.taken", f"{_ONE}; force 0+2M; list", alter("force", _only_tells)),
    Wrong("DEV-12.taken", f"{_ONE}; release? 0+2M forced; fmlist", alter("release", _only_tells)),
    Wrong("DEV-12.taken", f"{_ONE}; force 0+2M", refuses("force", 3)),
    Wrong("DEV-12.taken", "add 0+2M; force 0+2M", refuses("force", 0x0F)),
    Wrong("DEV-12.pending", "add 0+2M; force 0+2M; block 0", alter("force", _only_tells)),
    Wrong("DEV-12.told", f"{_ONE}; force 0+2M; events", of_type(2, lambda one: [{**one, "type": 1}])),
    Wrong("DEV-12.told", f"{_ONE}; force 0+2M; events", of_type(2, lambda one: [])),
    Wrong("DEV-8.0Fh-held", f"{_ONE}; force 0+4M", serves("force")),
    Wrong("DEV-8.1Eh-overlap", f"{_ONE}; force 0+2M,0+2M", serves("force")),
    Wrong("DEV-8.02h-policy", "add 8M policy=free via=fm", serves("add"), BARE),
    Wrong("DEV-8.02h-policy", f"{_TAGGED}; force policy=tag-based tag={TAG}", serves("force"), BARE),
    Wrong("DEV-8.02h-region", "add 8M policy=free @9", serves("add"), FULL),
    Wrong("DEV-8.02h-region", "set @9 2M", serves("set_region")),
    Wrong("DEV-8.02h-host", "fmlist host=7", serves("fm_extents"), FULL),
    Wrong("DEV-8.02h-host", "add 0+2M via=fm host=7", rc("add", 0x0F), FULL),
    Wrong("DEV-8.02h-start", f"{_ONE}; fmlist 2", rc("fm_extents", 0x0F)),
    Wrong("DEV-8.1Dh-room", "add 1G policy=free; add 2M policy=free", serves("add"), FULL),
    Wrong("DEV-8.1Dh-room", "add 512M+2M; add 1020M policy=contiguous", rc("add", 2), FULL),
    Wrong("DEV-13.advertised", "add 8M policy=free", refuses("add", 2), FULL),
    Wrong("DEV-13.advertised", "add 8M policy=contiguous", refuses("add", 0x1D), FULL),
    Wrong("DEV-13.free", "add 8M policy=free via=fm; events", asks("add", length=4 << 20), FULL),
    Wrong("DEV-13.free", "add 8M policy=free via=fm; events", asks("add", length=64 << 20), FULL),
    Wrong("DEV-13.free", "add 8M policy=free; events", asks("add", region=1), FULL),
    Wrong("DEV-13.contiguous", "add 8M policy=contiguous; events", asks("add", policy="free"), FULL),
    Wrong("DEV-13.contiguous", "add 8M policy=contiguous; events", asks("add", length=6 << 20), FULL),
    Wrong("DEV-3.accepted", f"{_ONE}; add 2M policy=contiguous; events", each_record(dpa=0), FULL),
    Wrong("DEV-3.pending", "add 0+2M; events; clear; add 2M policy=free; events", each_record(dpa=0), FULL),
    Wrong("DEV-2.aligned", "add 2M policy=free; events", each_record(dpa=4096), FULL),
    Wrong("DEV-4.one-chain", f"add 8M policy=free tag={TAG} via=fm; events", records(_cuts_chain), FULL),
    Wrong("DEV-13.removal", f"{_BY_TAG}; events", of_type(1, lambda one: [{**one, "more": False}]), FULL),
    Wrong("DEV-13.removal", f"{_BY_TAG}; events", of_type(1, lambda one: [{**one, "dpa": 2 << 20}]), FULL),
    Wrong("DEV-13.removal", _BY_TAG, refuses("release", 2), FULL),
    Wrong("DEV-13.removal", f"{_TAGGED}; release? policy=tag-based tag={'ab' * 16}", serves("release"), FULL),
    Wrong("DEV-13.shared", f"{_SHARED}; {_SHARE}", alter("add", _refuses_sharing), FULL),
    Wrong("DEV-13.shared", f"{_TAGGED}; add policy=enable-shared-access tag={TAG} host=1", serves("add"), FULL),
    Wrong("DEV-13.shared", f"add policy=enable-shared-access tag={TAG} host=1 @1", serves("add"), FULL),
    Wrong("DEV-14.cleared", f"{_ONE}; {_AGAIN}", alter("give_back", _keeps_content), {"sanitizing": [0]}),
    Wrong(
        "DEV-14.cleared",
        f"{_ONE}; store 0 {_BYTES}; release? 0+2M sanitize; release 0+2M; add 0+2M; events; accept; bytes 0+8",
        alter("give_back", _keeps_content),
    ),
    Wrong(
        "DEV-14.cleared",
        f"{_ONE}; store 0 {_BYTES}; force 0+2M sanitize; add 0+2M; events; accept 0+2M; load 0+8",
        alter("force", _keeps_content),
    ),
    Wrong("DEV-15.one-tag", f"{_SHARED}; {_SHARE}; events host=1", at_host(1, dpa=(1 << 30) + (64 << 20)), FULL),
    Wrong("DEV-15.one-tag", f"{_SHARED}; {_SHARE}; events host=1", at_host(1, tag="ab" * 16), FULL),
    Wrong("DEV-15.one-tag", f"{_SHARED}; add 64M+2M via=fm tag={TAG} @1 host=1", serves("add"), FULL),
    Wrong("DEV-15.one-tag", f"{_SHARED}; add 0+4M via=fm tag={'ab' * 16} @1 host=1", serves("add"), FULL),
    Wrong("DEV-15.sequence", f"{_SHARED}; {_SHARE}; events host=1", at_host(1, sequence=0), FULL),
    Wrong("DEV-15.sequence", f"add 8M policy=free tag={TAG} @1; events", each_record(sequence=0), FULL),
    Wrong(
        "DEV-15.sequence",
        f"add 8M policy=free tag={TAG} @1; events",
        each_record(sequence=0),
        {**FULL, "first_sequence": 1},
    ),
    Wrong("DEV-15.exclusive", f"{_ONE}; add 0+2M via=fm host=1", serves("add"), FULL),
    Wrong("DEV-15.exclusive", f"{_ONE}; add 2M policy=free host=1; events host=1", at_host(1, dpa=0), FULL),
    Wrong("DEV-16.status", "add 0+2M; status", said("status", lambda _: {"status": 0})),
    Wrong("DEV-16.status", "add 0+2M; events; clear; status", said("status", lambda _: {"status": 16})),
    Wrong(
        "DEV-16.overflow",
        "add 0+2M via=fm host=1; add 2M+2M via=fm host=1; events; events host=1",
        said("events", lambda received: {**received, "flags": 0}),
        {**FULL, "log_records": 1},
    ),
    Wrong(
        "DEV-17.device-reads",
        f"{_SHARED}; store 0 {_BYTES} @1; {_SHARE}; events host=1; accept host=1; release 0+4M @1; load 0+8 @1 host=1",
        said("load", lambda _: {"data": "00" * 8}),
        FULL,
    ),
    Wrong("DEV-17.hidden", f"{_ONE}; store 0 {_BYTES}; load 0+8 host=1", alter("load", _reads_backend), FULL),
    Wrong("DEV-18.empty", "add 0+2M; set 4M", serves("set_region")),
    Wrong("DEV-18.empty", "add 0+2M via=fm host=1; set 4M", serves("set_region"), FULL),
    Wrong("DEV-8.03h-region", "add 0+2M; set 4M", rc("set_region", 0x0F)),
    Wrong("DEV-8.03h-region", "set 2M sanitize", serves("set_region"), {"sanitize_configurable": 2}),
    Wrong("DEV-18.same", "set 2M", refuses("set_region", 3)),
    Wrong("DEV-18.block", "set 3M", serves("set_region")),
    Wrong("DEV-18.told", "set 4M; events", records(lambda found: [])),
    Wrong("DEV-18.told", "set 2M; events", alter("set_region", _tells_unchanged)),
    Wrong("DEV-4.region", "set @1 4M; events", each_record(region=0)),
    Wrong("DEV-2.aligned", "set 4M; add 2M+2M", alter("set_region", lambda device, _, right: (device, *right[1:]))),
    Wrong("DEV-19.tags", f"{_TAGGED}; add 16M+2M via=fm; events", each_record(available_tags=4), FULL),
    Wrong(
        "DEV-19.tags",
        f"add 0+2M via=fm tag={TAG}; add 2M+2M via=fm tag={'ab' * 16}",
        serves("add"),
        {"supported_tags": 1},
    ),
    Wrong("DEV-20.host", "add 0+2M via=fm host=1; events host=1", at_host(1, host_id=0), FULL),
    Wrong("DEV-8.03h-opcode", f"{_TAGGED}; keep {TAG}", serves("add_reference"), {"tag_references": False}),
    Wrong("DEV-8.03h-opcode", "tags", rc("list_tags", 2), {"tag_references": False}),
    Wrong("DEV-21.references", f"keep {TAG}", serves("add_reference"), FULL),
    Wrong("DEV-21.references", f"{_TAGGED}; keep {TAG}", refuses("add_reference", 2), FULL),
    Wrong("DEV-21.references", f"{_TAGGED}; drop {TAG}", serves("remove_reference"), FULL),
    Wrong("DEV-21.kept", f"{_TAGGED}; keep {TAG}; release; add 0+2M via=fm", serves("add"), FULL),
    Wrong("DEV-21.list", f"{_TAGGED}; tags", said("list_tags", lambda got: {**got, "tags": [], "total": 0}), FULL),
    Wrong(
        "DEV-21.list",
        f"{_TAGGED}; tags",
        said("list_tags", lambda got: {**got, "tags": [{**one, "hosts": [1]} for one in got["tags"]]}),
        FULL,
    ),
    Wrong(
        "DEV-10.generation-changes",
        f"fmlist; {_ONE}; fmlist",
        said("fm_extents", lambda received: {**received, "generation": 5}),
    ),
    Wrong("DEV-10.total", f"{_TWO}; fmlist", said("fm_extents", lambda received: {**received, "total": 3})),
)

DEVICES: tuple[Wrong, ...] = (
    *WHOLE,
    Wrong("DEV-2.nonempty", "add 0+0", serves("add")),
    Wrong("DEV-2.aligned", "add 4K+2M", serves("add")),
    Wrong("DEV-2.inside", "add 1022M+4M", serves("add")),
    Wrong("DEV-2.inside", "add 1024M+2M", serves("add")),
    Wrong("DEV-2.inside", "add 0+2M @7", serves("add")),
    Wrong("DEV-2.wrap", "add 4M+0xffffffffffe00000", serves("add")),
    Wrong("DEV-2.wrap", "add 0+2M; events; accept 4M+0xffffffffffe00000", serves("answer")),
    Wrong("DEV-3.accepted", f"{_ONE}; add 0+2M", serves("add")),
    Wrong("DEV-3.pending", "add 0+4M; add 2M+2M", serves("add")),
    Wrong("DEV-3.self", "add 0+4M,2M+4M", serves("add")),
    Wrong("DEV-4.whole", "add 0+2M,2M+2M; events", records(lambda found: found[:-1])),
    Wrong("DEV-4.whole", "add 0+2M,2M+2M,4M+2M; events", records(lambda found: [found[0], found[2]])),
    Wrong("DEV-4.only", "add 0+2M; events", records(lambda found: [*found, {**found[0], "handle": 99}])),
    Wrong("DEV-4.format", "add 0+2M; events", records(lambda found: [{"raw": "00" * 128, "error": "another UUID"}])),
    Wrong("DEV-4.severity", "add 0+2M; events", each_record(severity=3)),
    Wrong("DEV-4.type", f"{_ONE}; release? 0+2M; events", each_record(type=0)),
    Wrong("DEV-4.order", "add 0+2M,2M+2M; events", records(lambda found: found[::-1])),
    Wrong("DEV-4.more", "add 0+2M,2M+2M; events", last_record(more=True)),
    Wrong("DEV-4.more", "add 0+2M,2M+2M; events", each_record(more=False)),
    Wrong("DEV-4.extent", "add 0+2M; events", each_record(length=4 << 20)),
    Wrong("DEV-4.extent", "add 4M+8M; events", each_record(dpa=6 << 20)),
    Wrong("DEV-4.extent", f"{_ONE}; release? 0+2M; events", of_type(1, lambda one: [{**one, "dpa": 2 << 20}])),
    Wrong("DEV-13.prescriptive", "add 0+2M; events", each_record(dpa=2 << 20)),
    Wrong("DEV-13.prescriptive", "add 64M+8M; events", asks("add", extents=[{"offset": 0, "length": 8 << 20}])),
    Wrong("DEV-4.tag", f"add 0+2M tag={TAG}; events", each_record(tag="00" * 16)),
    Wrong("DEV-4.sequence", f"add 0+2M,2M+2M via=fm shared=1 tag={TAG}; events", each_record(sequence=0)),
    Wrong("DEV-4.region", "add 0+2M @1; events", each_record(region=1)),
    Wrong("DEV-5.pending", "add 0+2M; block 0", alter("add", _accepts_at_once)),
    Wrong("DEV-5.list", "add 0+2M; list", alter("extents", _pending_in_list)),
    Wrong("DEV-5.data", "add 0+2M; bytes 0+8; store 0 0102030405060708; bytes 0+8", alter("store", _stores_anyway)),
    Wrong("DEV-5.free", "add 0+2M; block 2M", said("block", lambda _: {"state": "accepted"})),
    Wrong("DEV-6.taken", f"{_ONE}; block 0", alter("answer", _takes_nothing)),
    Wrong("DEV-6.taken", f"{_ONE}; list", alter("answer", _takes_nothing)),
    Wrong("DEV-6.taken", f"{_ONE}; block 0", alter("answer", _stays_pending)),
    Wrong("DEV-6.left", "add 0+4M; events; accept 0+2M; block 2M", alter("answer", _takes_all)),
    Wrong("DEV-6.left", "add 0+4M; events; accept 0+2M; list", alter("answer", _takes_all)),
    Wrong("DEV-6.left", "add 0+4M; events; refuse; block 0", alter("answer", _stays_pending)),
    Wrong("DEV-6.more", "add 0+4M; events; accept+ 0+2M; block 2M", alter("answer", _closes_on_more)),
    Wrong("DEV-6.more", "add 0+4M; events; accept+ 0+2M; accept 2M+2M", _refuses_the_rest),
    Wrong("DEV-7.freed", f"{_ONE}; release 0+2M; block 0", alter("give_back", _stays_pending)),
    Wrong("DEV-7.freed", f"{_ONE}; release 0+2M; list", alter("give_back", _stays_pending)),
    Wrong("DEV-7.rest", "add 0+8M; events; accept; release 2M+2M; block 4M", alter("give_back", _frees_whole)),
    Wrong("DEV-7.rest", "add 0+8M; events; accept; release 2M+2M; list", alter("give_back", _frees_whole)),
    Wrong("DEV-8.16h", f"{_ONE}; raw give_back 0300000000000000", rc("give_back", 2)),
    Wrong("DEV-8.16h", "add 0+2M; events; raw answer 01000000", serves("answer")),
    Wrong("DEV-8.16h", "add 0+2M; events; raw clear 040002000000", rc("clear", 2)),
    Wrong("DEV-8.02h-none", f"{_ONE}; release 2M+2M -> 0Fh; raw give_back 0000000000000000", serves("give_back")),
    Wrong("DEV-8.02h-start", f"{_ONE}; list 2", rc("extents", 0x0F)),
    Wrong(
        "DEV-8.02h-start",
        f"{_ONE}; list 2",
        alter("extents", lambda device, sent, _: reply(device, "extents", {**sent, "start": 0})),
    ),
    Wrong("DEV-8.02h-host", "add 0+2M host=3", serves("add")),
    Wrong("DEV-8.1Eh-block", "add 0+4M; events; accept 4K+2M", serves("answer")),
    Wrong("DEV-8.1Eh-block", "add 0+4M; events; accept; release 0+4K", rc("give_back", 2)),
    Wrong("DEV-8.1Eh-overlap", "add 0+4M; events; accept 0+2M,0+2M", serves("answer")),
    Wrong("DEV-8.1Eh-overlap", "add 0+4M; events; accept; release 0+2M,0+2M", serves("give_back")),
    Wrong("DEV-8.1Eh-add", "add 0+2M via=fm; add 0+2M via=fm", rc("add", 0x0F)),
    Wrong("DEV-8.0Fh-outside", "add 0+4M; events; accept 4G+2M", rc("answer", 0x1E)),
    Wrong("DEV-8.0Fh-chain", "add 0+4M; events; accept 8M+2M", serves("answer")),
    Wrong("DEV-8.0Fh-chain", "add 0+2M; add 2M+2M; events; accept 0+2M,2M+2M", alter("add", _merges)),
    Wrong("DEV-8.0Fh-accepted", f"{_ONE}; add 2M+2M; events; accept 0+2M,2M+2M", serves("answer")),
    Wrong("DEV-8.0Fh-held", f"{_ONE}; release 2M+2M", serves("give_back")),
    Wrong("DEV-8.0Fh-held", f"{_ONE}; release 0+4M", rc("give_back", 0x1E)),
    Wrong("DEV-8.0Fh-held", "release? 0+2M", serves("release")),
    Wrong("DEV-8.0Fh-pending", "add 0+2M; release? 0+2M", serves("release")),
    Wrong("DEV-8.1Dh", "add 0+8M; events; accept 0+2M,4M+2M", serves("answer"), {"supported_extents": 1}),
    Wrong("DEV-8.1Dh", _TWO, serves("add"), {"supported_extents": 1}),
    Wrong("DEV-8.served", "add 0+2M; events; accept", refuses("answer", 0x0F)),
    Wrong("DEV-8.served", "add 0+2M", refuses("add", 0)),
    Wrong("DEV-8.served", f"{_ONE}; release? 0+2M", refuses("release", 0)),
    Wrong("DEV-8.served", "add 0+4M; events; accept; release", refuses("give_back", 0x0F)),
    Wrong("DEV-7.part", "add 0+4M; events; accept; release 0+2M", refuses("give_back", 0x0F)),
    Wrong("DEV-7.span", f"{_TWO}; release 0+4M", refuses("give_back", 0x0F)),
    Wrong("DEV-8.served", "add 0+2M; events; clear", refuses("clear", 0x0E)),
    Wrong("DEV-8.served", "add 0+2M; events", refuses("events", 0x02)),
    Wrong("DEV-8.served", f"{_ONE}; list 1", refuses("extents", 0x02)),
    Wrong("DEV-8.unchanged", "add 0+4M; events; accept 8M+2M; block 0", alter("answer", _drops_the_offer)),
    Wrong("DEV-8.unchanged", f"{_TWO}; release 0+2M,8M+2M; block 0", alter("give_back", _frees_on_failure)),
    Wrong("DEV-8.unchanged", f"{_TWO}; release 0+2M,8M+2M; list", alter("give_back", _frees_on_failure)),
    Wrong("DEV-8.unchanged", "add 0+2M,1022M+4M; block 0", alter("add", _adds_unseen)),
    Wrong("DEV-10.extents", f"{_ONE}; list", page(lambda found: [{**extent, "length": 4 << 20} for extent in found])),
    Wrong("DEV-10.count", f"{_TWO}; list 0 1", said("extents", lambda got: {**got, "extents": got["extents"] * 2})),
    Wrong("DEV-10.count", f"{_TWO}; list 0 1", page(lambda found: [])),
    Wrong("DEV-10.payload", f"{_TWO}; list 0 100", page(lambda found: found * 30)),
    Wrong("DEV-10.payload", "add 0+2M; events", records(lambda found: found * 16)),
    Wrong("DEV-10.total", f"{_TWO}; list", said("extents", lambda received: {**received, "total": 3})),
    Wrong("DEV-10.end", f"{_ONE}; list 1", alter("extents", lambda d, s, r: reply(d, "extents", {**s, "start": 0}))),
    Wrong(
        "DEV-10.tag", f"add 0+2M tag={TAG}; events; accept; list", page(lambda found: [{**found[0], "tag": "00" * 16}])
    ),
    Wrong(
        "DEV-10.sequence",
        f"add 0+2M,2M+2M via=fm shared=1 tag={TAG}; events; accept; list",
        page(lambda found: [{**extent, "sequence": 0} for extent in found]),
    ),
    Wrong(
        "DEV-10.generation-changes",
        f"list; {_ONE}; list",
        said("extents", lambda received: {**received, "generation": 5}),
    ),
    Wrong("DEV-10.generation-stays", f"{_ONE}; list; list", _counts_calls()),
    Wrong("DEV-10.pages", f"{_TWO}; list 0 1; list 1 1", alter("extents", _turns_pages)),
    Wrong("DEV-10.pages", f"{_TWO}; list", page(lambda found: [found[0], found[0]])),
    Wrong("DEV-11.request", f"{_ONE}; release? 0+2M; block 0", alter("release", _takes_on_request)),
    Wrong("DEV-11.request", f"{_ONE}; release? 0+2M; list", alter("release", _takes_on_request)),
    Wrong("DEV-16.nonzero", "add 0+2M; events", each_record(handle=0)),
    Wrong("DEV-16.unique", "add 0+2M,2M+2M; events", each_record(handle=7)),
    Wrong("DEV-16.stable", "add 0+2M; events; events", alter("events", _new_handles)),
    Wrong("DEV-16.oldest", "add 0+2M; add 2M+2M; events", records(lambda found: found[::-1])),
    Wrong("DEV-16.cleared", "add 0+2M; events; clear; events", alter("clear", _keeps_on_clear)),
    Wrong("DEV-4.whole", "add 0+2M; add 2M+2M; events; clear 1; events", alter("clear", _loses_on_clear)),
    Wrong("DEV-16.clear-order", "add 0+2M,2M+2M; events; clear 2", serves("clear")),
    Wrong("DEV-16.clear-order", "add 0+2M,2M+2M; events; clear 2,1", rc("clear", 2)),
    Wrong("DEV-16.clear-unknown", "add 0+2M; events; clear 1,9", serves("clear")),
    Wrong("DEV-16.clear-all", "add 0+2M; events; clear all", serves("clear")),
    Wrong(
        "DEV-16.overflow",
        "add 0+2M; add 2M+2M; events",
        said("events", lambda received: {**received, "flags": 0}),
        {"log_records": 1},
    ),
    Wrong("DEV-16.remain", "add 0+2M; events", said("events", lambda received: {**received, "flags": 2})),
    Wrong("DEV-17.device-reads", f"{_ONE}; store 0 0102; load 0+2", said("load", lambda _: {"data": "0000"})),
    Wrong("DEV-17.device-reads", f"{_ONE}; put 0 0102; load 0+2", said("load", lambda _: {"data": "0201"})),
    Wrong("DEV-17.backend-reads", f"{_ONE}; store 0 0102; bytes 0+2", alter("store", _loses_stores)),
    Wrong("DEV-17.dropped", "bytes 0+8; store 0 0102030405060708; bytes 0+8", alter("store", _stores_anyway)),
    Wrong("DEV-17.dropped", "store 0 0102030405060708; bytes 0+8", alter("store", _stores_anyway)),
    Wrong("DEV-17.hidden", "put 0 0102030405060708; load 0+8", alter("load", _reads_backend)),
    Wrong("DEV-19.extents", f"{_ONE}; add 2M+2M; events", each_record(available_extents=511)),
    Wrong("DEV-20.host", "add 0+2M; events", each_record(host_id=1)),
)

__all__ = ["DEVICES", "Answer", "Wrong", "apply"]
