"""Whether the tools (`cxl list`, `daxctl list`) and sysfs said the same, at a look that asked both (WITNESS.tools).

Only what both show is compared: a tool that is older than dynamic capacity is not convicted for what it leaves out. A
thing that a tool shows and sysfs has not is a difference. A tool that failed says nothing, for or against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..model.state import Violation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLAUSE = "WITNESS.tools"
_SHOWN = 8


def compared(tools: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], tuple[Violation, ...]]:
    """Of a look's `tools`: the clause if anything was compared and the same, and what differs."""
    differs: list[str] = []
    said: dict[str, dict[str, Any]] = {}
    asked = 0
    for one in tools:
        mine: dict[str, Any] = {}
        for name, shows in one.get("shows", {}).items():
            sysfs = one["sysfs"].get(name)
            if sysfs is None:
                mine[name] = {"shows": shows, "sysfs": None}
                differs.append(f"{one['tool']} list shows {name}, sysfs has none")
                continue
            both = [fact for fact in shows if fact in sysfs]
            asked += len(both)
            for fact in [fact for fact in both if shows[fact] != sysfs[fact]]:
                mine[name] = {"shows": shows, "sysfs": sysfs}
                differs.append(
                    f"{one['tool']} list shows {fact} {_told(shows[fact])} of {name}, sysfs {_told(sysfs[fact])}"
                )
        if mine:
            said[f"{one['tool']} list"] = mine
    if differs:
        more = f"; and {len(differs) - _SHOWN} more" if len(differs) > _SHOWN else ""
        text = "; ".join(differs[:_SHOWN]) + more
        return (), (Violation(CLAUSE, "witness", "fail", text, {"witnesses": said}),)
    return ((CLAUSE,) if asked else ()), ()


def _told(fact: Any) -> str:
    if isinstance(fact, list):
        return ", ".join([f"0x{start:x}-0x{end:x} at page {page}" for start, end, page in fact]) or "nothing"
    return "none" if fact is None else f"0x{fact:x}" if isinstance(fact, int) and fact >= 1 << 16 else str(fact)
