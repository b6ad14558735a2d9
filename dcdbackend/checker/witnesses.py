"""Whether the witnesses of one device say the same: its list by 5603h against that by 4801h, and the block states.

The device's model judges each of them against the rules; this holds them against each other, so that it also speaks
where the model has nothing left to say (a device that was convicted, an outcome that nobody knows). Which of them is
wrong is not decided here: a finding names them, and shows what each one said.

What was said is compared only where nothing can have changed what is accepted from the first question to the last
answer: no command that changes it was open meanwhile. It is for host U, all of whose commands are in the history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..extents import Extent
from ..rules import CLAUSES
from ..wire.dcd import WireExtent
from .notation import spell
from .verdict import WITNESS, Finding, Tally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..history import Op

CLAUSE = "WITNESS.lists"
NAMES = {"extents": "4801h, by the host", "fm_extents": "5603h, by the fabric manager", "block": "the block state"}
_SHOWN = 8
_CHANGES = frozenset(("answer", "give_back", "force", "set_region", "reset", "gone"))
_ASKS = frozenset(NAMES)
RELEVANT = _CHANGES | _ASKS | {"release"}

Entry = tuple[int, int, str, int]
"""DPA, length, tag, sequence."""


class _List(NamedTuple):
    """A list as read so far: entries by DPA, the operations that read it, where the next page begins."""

    epoch: int
    entries: dict[int, Entry]
    ops: tuple[tuple[Op, Op], ...]
    next: int
    whole: bool = False


class Witnesses:
    """What was last said of one device, as the header describes it; findings and counts go into `tally`."""

    def __init__(self, described: Mapping[str, Any], tally: Tally) -> None:
        self._tally = tally
        self._regions = {region["index"]: region for region in described["regions"]}
        self._host = next(iter(described.get("hosts", ())), 0)
        self._epoch = 0
        self._changing: set[int] = set()
        self._lists: dict[tuple[str, int], _List] = {}
        self._blocks: dict[tuple[int, int], tuple[int, str, Op, Op]] = {}
        self._asked: dict[int, int] = {}

    def begin(self, op: Op) -> None:
        """An operation's first line."""
        if op.f in _ASKS:
            if not self._changing:
                self._asked[op.op] = self._epoch
        elif op.f in _CHANGES or op.value.get("forced"):
            self._epoch += 1
            self._changing.add(op.op)

    def end(self, begin: Op, op: Op) -> None:
        """An operation's last line."""
        if op.op in self._changing:
            self._epoch += 1
            if op.type != "info":  # else it may take effect at any time, and nothing can be compared any more
                self._changing.remove(op.op)
            return
        if self._asked.pop(op.op, -1) != self._epoch or op.type != "ok":
            return
        if op.f == "block":
            self._block(begin, op)
        elif "extents" in op.value:
            self._page(begin, op)

    # -- what was said -------------------------------------------------------------------------------------------

    def _page(self, begin: Op, op: Op) -> None:
        sent, said = begin.value, op.value
        name = (op.f, sent.get("host_id", self._host))
        known = self._lists.get(name)
        if sent["start"] == 0:
            known = _List(self._epoch, {}, (), 0)
        elif known is None or known.epoch != self._epoch or known.next != sent["start"] or known.whole:
            return
        entries = dict(known.entries)
        page = [found for found in said["extents"] if found["length"]]
        for found in page:
            entries[found["dpa"]] = (found["dpa"], found["length"], found["tag"], found["sequence"])
        after = known.next + len(page)
        if after < said["total"] and not page:  # a page that shows nothing leads nowhere
            return
        whole = after >= said["total"]
        read = self._lists[name] = _List(self._epoch, entries, (*known.ops, (begin, op)), after, whole)
        if not whole:
            return
        other = self._lists.get(("fm_extents" if op.f == "extents" else "extents", name[1]))
        if other is not None and other.epoch == self._epoch and other.whole:
            self._same_lists({op.f: read, other.ops[0][0].f: other})
        if op.f == "fm_extents":
            for (host, dpa), (epoch, state, asked, told) in self._blocks.items():
                if host == name[1] and epoch == self._epoch:
                    self._same_block(read, dpa, state, asked, told)

    def _block(self, begin: Op, op: Op) -> None:
        sent = begin.value
        region = self._regions.get(sent["region"])
        if region is None or sent.get("length", 0) > region["block_size"]:
            return
        host, dpa, state = sent.get("host_id", self._host), region["base"] + sent["offset"], op.value["state"]
        if self._blocks and next(iter(self._blocks.values()))[0] != self._epoch:
            self._blocks.clear()
        self._blocks[host, dpa] = (self._epoch, state, begin, op)
        read = self._lists.get(("fm_extents", host))
        if read is not None and read.whole and read.epoch == self._epoch:
            self._same_block(read, dpa, state, begin, op)

    # -- whether it is the same ----------------------------------------------------------------------------------

    def _same_lists(self, lists: dict[str, _List]) -> None:
        host, manager = lists["extents"], lists["fm_extents"]
        if host.entries == manager.entries:
            self._tally.count(WITNESS, CLAUSE, "pass")
            return
        alone = {
            name: [entry for entry in mine.entries.values() if other.entries.get(entry[0]) != entry]
            for name, mine, other in (("extents", host, manager), ("fm_extents", manager, host))
        }
        text = "; ".join(f"{NAMES[name]}, alone shows {_told(entries)}" for name, entries in alone.items())
        said = {name: {"entries": len(lists[name].entries), **_bytes(entries)} for name, entries in alone.items()}
        self._differ(text, said, (*host.ops, *manager.ops))

    def _same_block(self, read: _List, dpa: int, state: str, begin: Op, op: Op) -> None:
        held = [entry for entry in read.entries.values() if entry[0] <= dpa < entry[0] + entry[1]]
        if bool(held) == (state == "accepted"):
            self._tally.count(WITNESS, CLAUSE, "pass")
            return
        shows = f"shows {_told(held)}" if held else f"does not list it ({len(read.entries)} entries)"
        text = f"{NAMES['block']} at 0x{dpa:x} is {state}; {NAMES['fm_extents']}, {shows}"
        said = {"block": {"sent": begin.value, "received": op.value}, "fm_extents": _bytes(held)}
        self._differ(text, said, (*read.ops, (begin, op)))

    def _differ(self, text: str, said: dict[str, Any], ops: tuple[tuple[Op, Op], ...]) -> None:
        self._tally.count(WITNESS, CLAUSE, "fail")
        if not self._tally.expected(CLAUSE, "fail", None):
            return
        shown = sorted(ops[-_SHOWN:], key=lambda pair: pair[1].n)
        lines = tuple(n for begin, end in shown for n in (begin.n, end.n))
        told = tuple((begin.n, spell(begin.f, begin.value, end.type, end.value)) for begin, end in shown)
        clause = CLAUSES[CLAUSE]
        evidence = {"witnesses": said}
        device = self._tally.device
        self._tally.findings.append(
            Finding(WITNESS, device, CLAUSE, "fail", text, clause.source, lines, told, {}, {}, evidence)
        )


def _told(entries: list[Entry]) -> str:
    shown = [str(Extent(start, length, bytes.fromhex(tag), sequence)) for start, length, tag, sequence in entries]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return (" ".join(shown[:_SHOWN]) or "nothing") + more


def _bytes(entries: list[Entry]) -> dict[str, Any]:
    """The entries as they are on the wire, 40 bytes each (CXL r3.1 table 8-51)."""
    shown = [
        WireExtent(start=start, length=length, tag=bytes.fromhex(tag), sequence=sequence).to_bytes().hex()
        for start, length, tag, sequence in entries[:_SHOWN]
    ]
    return {"bytes": shown}
