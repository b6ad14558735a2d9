"""Tags that certainly live on one device of a host while another's log is judged (B6 is of the whole host).

Each device is judged by itself and does not know the others' extents. But where sysfs has shown an extent of a tag on
one device, and nothing that could end it was begun there since, the tag lives on the host, whatever order of events
explains the rest. Of anything else nothing is said: the judge then knows only that the tag was there once.

Only for a kernel that tells of itself by its log: what it did, it did after the first offer that was made since its log
was last read, and before this reading ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..model.claims import parse_uuid
from .kernel import notes_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..history import Op

_ENDS = frozenset(("release", "force", "claim", "use", "unuse", "reset", "gone"))
"""After any of these an extent may go: asked for, given up, or with its region."""
RELEVANT = _ENDS | {"add", "sysfs", "log"}
MOST_READINGS = 256
"""So many are remembered: a reading is judged late where things happened at the same time, and more than once."""
Key = tuple[str, int]
"""A device, and when its log was read, ns."""


class Living:
    """What is known of the devices of one host. Lines come in their order, `end` before the line is judged."""

    def __init__(self, devices: Iterable[str]) -> None:
        self._since: dict[str, dict[bytes, int]] = {name: {} for name in devices}
        self._offered: dict[str, int | None] = dict.fromkeys(self._since)
        self._looks: set[int] = set()
        self._certain: dict[Key, frozenset[bytes]] = {}

    def begin(self, op: Op) -> None:
        """An operation's first line."""
        name = op.value["device"]
        if op.f in _ENDS:
            for tags in self._since.values() if op.f == "reset" else (self._since[name],):
                tags.clear()
            self._looks.clear()  # what such a look will show may be from before
        elif op.f == "add" and self._offered[name] is None:
            self._offered[name] = op.t_ns
        elif op.f == "sysfs":
            self._looks.add(op.op)

    def end(self, begin: Op, op: Op) -> None:
        """An operation's last line."""
        name = begin.value["device"]
        if op.f == "log":
            self._read(name, op)
        elif op.f == "sysfs" and op.op in self._looks:
            self._looks.remove(op.op)
            if op.type == "ok":
                self._looked(name, op)

    def certain(self, name: str, read_ns: int) -> frozenset[bytes]:
        """Tags that lived on the other devices all the while that this one's log, read then, tells of."""
        return self._certain.get((name, read_ns), frozenset())

    def _looked(self, name: str, op: Op) -> None:
        shown = [parse_uuid(one["uuid"]) for one in op.value.get("extents") or () if one.get("uuid")]
        since = self._since[name]
        self._since[name] = {tag: since.get(tag, op.t_ns) for tag in shown if tag}

    def _read(self, name: str, op: Op) -> None:
        if op.type != "ok" or op.value.get("lost") or any(note.kind == "given" for note in notes_of(op.value["lines"])):
            self._since[name].clear()  # what it gave back, or what nobody heard of, it may have had for the last time
        offered, self._offered[name] = self._offered[name], None
        if op.type != "ok" or offered is None:
            return
        others = [tags for other, tags in self._since.items() if other != name]
        lived = frozenset([tag for tags in others for tag, since in tags.items() if since < offered])
        if lived:
            self._certain[name, op.t_ns] = lived
            if len(self._certain) > MOST_READINGS:
                del self._certain[next(iter(self._certain))]
