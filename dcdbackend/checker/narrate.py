"""A finding told as a story: who asked what, what each witness said, the states, the rule, how to see it again.

It judges nothing: the finding has clause, states and evidence; the history has who did what. `gather` takes from the
history what the story needs, in one pass; `tell` makes lines of it, `as_data` the same as JSON. `explain` is the short
form that a verdict prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..linux_rules import EVERY
from .explain import known_as
from .notation import spell

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..history import Op
    from .verdict import Finding

WITNESSES = frozenset(
    ("block", "extents", "fm_extents", "bytes", "load", "sysfs", "trace", "log", "status", "list_tags")
)
MOST_AFTER = 512
"""How many lines after a finding are looked at for what a witness said then."""
_WHO = {
    "manager": "the fabric manager",
    "host": "the host",
    "user": "a user in the host",
    "witness": "a witness",
    "look": "a witness in the host",
    "backend": "the memory's backend",
    "device": "the device itself",
}
_WORDS = {"fail": "is broken", "departure": "is departed from in a known way", "unknown": "is not known to be kept"}


class Line(NamedTuple):
    """An operation of the story: where it begins, who did it, what it was and what came back; `role`: asked, seen."""

    n: int
    process: str
    text: str
    role: str


class Story(NamedTuple):
    """A finding and its lines: `asked` as they happened, `seen` by each witness, last before it and first after."""

    finding: Finding
    asked: tuple[Line, ...]
    seen: tuple[Line, ...]
    again: tuple[str, ...] = ()


def gather(finding: Finding, ops: Iterable[Op], again: Sequence[str] = ()) -> Story:
    """The story of a finding, from its history. `again`: commands that show it again."""
    wanted = {n for n, _ in finding.operations} | set(finding.lines)
    target = max(finding.lines, default=0)
    begun: dict[int, Op] = {}
    asked: dict[int, Line] = {}
    before: dict[str, Line] = {}
    after: dict[str, Line] = {}
    for op in ops:
        if op.n > target + MOST_AFTER:
            break
        if op.type == "invoke":
            begun[op.op] = op
            if op.n in wanted and op.value.get("device") == finding.device:
                asked[op.n] = Line(op.n, op.process, spell(op.f, op.value), "asked")
            continue
        first = begun.pop(op.op, None)
        if first is None or first.value.get("device") != finding.device:
            continue
        line = Line(first.n, first.process, spell(first.f, first.value, op.type, op.value), "asked")
        if first.n in asked:
            asked[first.n] = line
        if first.f in WITNESSES:
            seen = line._replace(role="before" if op.n < target else "then" if op.n == target else "after")
            if op.n <= target:
                before[first.f] = seen
            else:
                after.setdefault(first.f, seen)
    shown = tuple(sorted([*before.values(), *after.values()]))
    return Story(finding, tuple([asked[n] for n in sorted(asked)]), shown, tuple(again))


def who(process: str) -> str:
    """Who a process is, in words."""
    kind, _, name = process.partition(".")
    told = _WHO.get(kind, process)
    return f"{told} ({name})" if name and kind in ("host", "user") else told


def tell(story: Story, number: int, count: int) -> list[str]:
    """The story, to read."""
    finding = story.finding
    rule = EVERY[finding.clause]
    head = f"Finding {number} of {count}: {finding.clause} {_WORDS.get(finding.outcome, finding.outcome)}"
    lines = [f"{head}, by {finding.subject} {finding.device}", f"  {finding.text}", "", "What happened"]
    lines += [f"  line {line.n + 1:<6} {who(line.process)}: {line.text}" for line in story.asked] or [
        "  nothing: the header alone shows it" if finding.lines in ((), (0,)) else "  nothing more than is told above"
    ]
    lines += ["", "What each witness said"]
    lines += [f"  line {line.n + 1:<6} {who(line.process)}{_when(line)}: {line.text}" for line in story.seen] or [
        "  no witness was asked"
    ]
    lines += ["", "The state by the rules", *_states(finding)]
    for name, word in (("expected", "due"), ("received", "came"), ("inferred", "inferred from")):
        if finding.evidence.get(name) is not None:
            lines.append(f"  {word}: {_plain(finding.evidence[name])}")
    lines += ["", "The rule", f"  {rule.id} ({rule.kind}, {rule.subject}): {rule.text}", f"  source: {rule.source}"]
    if rule.generations:
        lines.append(f"  generations: {', '.join(rule.generations)}")
    lines.append(f"  witnesses that can see it: {', '.join(rule.witnesses) or 'none'}")
    if finding.departure is not None:
        lines.append(f"  known as {finding.departure}: {known_as(finding.departure)}")
    return [*lines, "", "See it again", *[f"  {command}" for command in story.again]]


def as_data(story: Story, number: int) -> dict[str, Any]:
    """The story as JSON data."""
    rule = EVERY[story.finding.clause]
    return {
        "number": number,
        "finding": story.finding._asdict(),
        "asked": [line._asdict() for line in story.asked],
        "seen": [line._asdict() for line in story.seen],
        "rule": rule._asdict(),
        "departure": known_as(story.finding.departure) if story.finding.departure else None,
        "again": list(story.again),
    }


def _when(line: Line) -> str:
    return {"after": ", afterwards", "then": ""}.get(line.role, ", before")


def _states(finding: Finding) -> list[str]:
    """Before and after; once where nothing changed."""
    if not finding.before and not finding.after:
        return ["  not known"]
    before, after = _state(finding.before), _state(finding.after)
    if before == after:
        return ["  before and after:", *before]
    return ["  before:", *before, "  after:", *after]


def _state(state: Mapping[str, Any]) -> list[str]:
    lines = [
        f"    accepted  {_words(state.get('accepted'))}",
        f"    pending   {' | '.join([_words(chain) for chain in state.get('offers', ())]) or 'nothing'}",
        f"    log       {_words(state.get('log'), 'empty')}",
    ]
    host = state.get("host")
    if isinstance(host, dict):
        lines.append(f"    host      Linux {host['generation']}; regions {_words(host['regions'], 'none')}")
        lines.append(f"              extents {_words(host['extents'])}; DAX {_words(host['dax'])}")
        if host.get("staged"):
            lines.append(f"              staged {_words(host['staged'])}")
    if state.get("lost"):
        lines.append(f"    lost      {state['lost']}")
    return lines


def _words(items: Iterable[str] | None, nothing: str = "nothing") -> str:
    return " ".join(items or ()) or nothing


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        text = ", ".join([f"{name} {one}" for name, one in value.items()])
    elif isinstance(value, list | tuple):
        text = ", ".join([str(one) for one in value])
    else:
        text = str(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
