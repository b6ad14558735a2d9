"""Which further clauses a breach breaks: one deed of a host can break several, and each is to be named.

`model.permitted` names the clause of the command that lacks or has too much. That the missing range had been staged by
an earlier record (B2), that it lay in a partition which no kernel uses (B1), that the order is that of the groups (B5):
this is seen only beside what decided the turn. What is named here is always beside a breach, never instead of none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.permitted import Range, breach

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..model import observe
    from ..model.host import Host
    from ..model.permitted import Command, Decision
    from ..model.state import Violation

_ANSWERS = frozenset(("B5.survivors", "B5.none", "A6.left-out", "A6.none"))
_GIVES = frozenset(("B23.whole", "B23.each", "A11.whole", "A11.overlap"))
_SHARED = frozenset(("B7.dense", "B7.dense-1", "B11.tag", "B11.missing"))
_ORDERS = ("B16.last", "B16.sharable", "B16.arrival", "B5.sorted")
_PARTITION = frozenset(("B10.partition", "B8.partition", "A4.partition"))
_CHOSEN = frozenset(("B27.sequence", "B30.one", "B30.sum", "B27.zero", "A14.any"))
_REFUSED = ("-EOPNOTSUPP", "-ENOTSUPP")
_CLAIMED = frozenset(("B27.zero", "B27.reads", "B30.sum", "B30.one", "B31.available"))


def of_turn(
    before: Host, decision: Decision, commands: Sequence[Command], found: Sequence[Violation]
) -> tuple[Violation, ...]:
    """The breaches of a turn, and what they break besides."""
    broken = {one.clause for one in found if one.outcome == "fail"}
    if not broken:
        return tuple(found)
    named = _ranges(commands, "answer")
    due = [pair for expected in decision.plan if expected.f == "answer" for pair in expected.ranges]
    lacking = [pair for pair in due if pair not in named]
    decided = set(decision.judged)
    more: list[str] = []
    staged = {(one.start, one.length) for memdev in before.memdevs for one in memdev.staged}
    if broken & _ANSWERS and staged & set(lacking):
        sparse = before.setup.generation.kind == "sparse"
        more += ["A3.together"] if sparse else ["B2.stage", *(decided & {"B2.stale"})]
    if "B3.late-tail" in decided and staged & set(named):
        more.append("B3.late-tail")
    if "B5.order" in broken:
        more += ["B5.groups"] if "Q7" in decision.quirks else []
        more += ["B5.sorted"] if "B5.sorted" in decided else []
    if {"B15.overlap", "B5.survivors"} <= broken and "B5.realised" in decided:
        more.append("B5.realised")
    if broken & {"B17.left-out", "B17.released"} and "B15.own-group" in decided:
        more.append("B15.own-group")
    if broken & _GIVES:
        more += sorted(decided & {"L4.ignored", "L4.alone"})
        more += ["B2.release"] if staged and "B2.release" in decided else []
    if broken & _ANSWERS and lacking and "WHAT-IF.extend-accepted" in decided:
        more.append("WHAT-IF.extend-accepted")
    if "B3.early" in broken and len(staged) > 1:
        more.append("B2.arm")
    if broken & _SHARED and any(memdev.partition and memdev.partition.sharable for memdev in before.memdevs):
        more.append("B1.sharable")
    if "B32.all" in broken and _used(before, lacking_gives(decision, commands)):
        more.append("B32.claims")
    return (*found, *_besides(found, more))


def lacking_gives(decision: Decision, commands: Sequence[Command]) -> list[Range]:
    """Ranges that had to be given back and were not."""
    given = _ranges(commands, "give_back")
    return [pair for one in decision.plan if one.f == "give_back" for pair in one.ranges if pair not in given]


def _ranges(commands: Iterable[Command], f: str) -> list[Range]:
    return [pair for command in commands if command.f == f for pair in command.ranges]


def _used(host: Host, ranges: Sequence[Range]) -> bool:
    return any(host.used(one) for one in host.extents if (one.start, one.length) in ranges)


def _besides(found: Sequence[Violation], more: Sequence[str]) -> tuple[Violation, ...]:
    first = next(one for one in found if one.outcome == "fail")
    names = {one.clause for one in found}
    return tuple(
        [breach(clause, first.text, **first.evidence) for clause in dict.fromkeys(more) if clause not in names]
    )


def of_partition(found: Sequence[Violation], unused: Sequence[Range], commands: Sequence[Command]) -> list[str]:
    """B1.first, A1.first: what was named lies in a partition that is not the first."""
    broken = {one.clause for one in found if one.outcome == "fail"} & _PARTITION
    named = _ranges(commands, "answer")
    if not any(at <= start < at + length for start, _ in named for at, length in unused):
        return []
    return ["A1.first" if "A4.partition" in broken else "B1.first"] if broken else []


def of_sight(
    host: Host, shown: Sequence[str], sight: observe.Sight, found: Sequence[Violation]
) -> tuple[Violation, ...]:
    """The breaches of a sight, and what they break besides. `shown`: clauses that waited for this sight."""
    broken = {one.clause for one in found if one.outcome == "fail"}
    if not broken:
        return tuple(found)
    more: list[str] = []
    if broken & _CHOSEN and "WHAT-IF.map-to-extents" in shown:
        more.append("WHAT-IF.map-to-extents")
    if "B27.sequence" in broken:
        more += [clause for clause in _ORDERS if clause in shown][:1]
    if "B30.one" in broken and "B27.oldest" in shown:
        more.append("B27.oldest")
    if broken & _CLAIMED and "B28.unchanged" in shown:
        more.append("B28.unchanged")
    if "B5.surfaced" in broken:
        some = bool(sight.extents or sight.names)
        more += [clause for clause in ("B17.all", "L3.start") if clause in shown and some]
    if "B26.gates" in shown and any(one.text.endswith("should not be there") for one in found):
        more.append("B26.gates")
    if "A14.available" in broken and "A17.scan" in shown:
        more.append("A17.scan")
    if any(region.name == sight.region and region.failed for region in host.regions) and "B30.one" in broken:
        more.append("B25.no-seed")
    return (*found, *_besides(found, more))


def of_write(clause: str, due: str, gave: str, shown: Sequence[str]) -> list[str]:
    """What a write that ended otherwise breaks besides: the order of the tests, a hole that is none."""
    more = []
    if due and gave in ("-EINVAL", "-ENXIO", "-EBUSY", "-ENOENT", "-EACCES", "-EOPNOTSUPP"):
        more += [f"{clause[:3]}.order"] if clause[:4] in ("B28.", "B29.") else []
    if due in _REFUSED and clause.startswith("C8."):
        more.append("C1.allowed")
    if not due and clause.startswith("C8.") and "C1.undo" in shown:
        more.append("C1.undo")
    if clause == "B28.gap" and "B16.hole" in shown:
        more.append("B16.hole")
    return more
