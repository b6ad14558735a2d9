"""Host U: reads the event log, answers offers and release requests by policy, clears the records.

One turn after another, per device: when Event Status says that log 4 holds anything, the log is read until it is
empty. Records are staged per type until More is clear; then the policy (and the break, if one is set) gives the
steps, and these are sent *before* 0101h clears the records. Only a chain that goes on past a page is cleared
unanswered, to make room for its rest. What is no Dynamic Capacity record is cleared unheeded; forced releases and
types 3 to 5 are read and cleared, nothing more.

A turn may wait (a late answer): then it is taken up again when the time has come, and the log is not read meanwhile,
as by a driver that is busy. Waiting, not sleeping: the other devices and the controller are served.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import AnsweredWrongly, AskedWrongly, TimedOut
from ..wire.events import DYNAMIC_CAPACITY_LOG, ClearEventRecords, GetEventRecords
from . import policy
from .commands import Commands, End
from .device import Device
from .policy import Break, Hands, Policy, Range, Ranges, Step

READS_A_TURN = 64
CLEAR_TRIES = 3
_RETRY_S = 0.1

_ADD, _RELEASE, _FORCED = 0, 1, 2
_READ_LOG = GetEventRecords(log=DYNAMIC_CAPACITY_LOG).to_bytes()

Value = dict[str, Any]


class Host:
    """Host U on one device. `turn` does what there is to do now; `note` gets one line for what cannot be done."""

    def __init__(
        self,
        device: Device,
        name: str,
        commands: Commands,
        *,
        note: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hands = Hands(
            tuple(policy.Region(region.base, region.length, region.block_size) for region in device.config.regions),
            max(1, (device.mailbox.payload_size - 8) // 24),
        )
        self.stuck: str | None = None
        self._device = device
        self._name = name
        self._process = f"host.{name}"
        self._commands = commands
        self._note = note
        self._clock = clock
        self._add: Policy = policy.choose(policy.ADD, {"kind": "accept"}, "add")
        self._release: Policy = policy.choose(policy.RELEASE, {"kind": "release"}, "release")
        self._break: tuple[str, Break] | None = None
        self._staged: dict[int, list[Range]] = {_ADD: [], _RELEASE: []}
        self._handled: set[int] = set()
        self._job: Iterator[float] | None = None
        self._wake = 0.0
        commands.on_end = self._ended

    def follow(self, add: Policy, release: Policy, broken: tuple[str, Break] | None) -> None:
        """From the next chain on, answer so. A host that had given up on its device tries again."""
        self._add, self._release, self._break = add, release, broken
        self.hands.aside = () if broken is None else self.hands.aside
        self.stuck = None

    @property
    def due(self) -> float | None:
        """When there is something to go on with, by its clock; None while it waits for events alone."""
        return None if self._job is None else self._wake

    def turn(self) -> None:
        """Go on with what waits, or look whether there is anything new. Errors: LinkLost."""
        try:
            job = self._job
            if job is None:
                if self.stuck is not None:
                    return
                if not self._device.has_events():
                    if self._commands.announced is None:
                        self._announce()
                    return
                job = self._job = self._serve()
            elif self._clock() < self._wake:
                return
            self._wake = next(job)
            self._commands.judge_later()
        except StopIteration:
            self._job = None
            if self.stuck is None:
                self._announce_or_stop()
        except (AnsweredWrongly, AskedWrongly, TimedOut) as error:
            self._job = None
            self._give_up(str(error))

    def _announce_or_stop(self) -> None:
        try:
            self._announce()
        except (AnsweredWrongly, AskedWrongly, TimedOut) as error:
            self._give_up(str(error))

    def _announce(self) -> None:
        """Begin the next reading of the log, before there is anything to read (see `commands`)."""
        self._commands.announce(self._process, "events", _READ_LOG)

    def _serve(self) -> Iterator[float]:
        """One reading of the log until it is empty; yields the time before which there is nothing to do."""
        refused = 0
        for _ in range(READS_A_TURN):
            end = self._commands.run(self._process, "events", _READ_LOG, later=True)
            records = end.value.get("records")
            if end.type != "ok" or not records:
                if end.type != "ok" or records is None:
                    self._give_up(f"0100h gave {_shown(end)}")
                return
            handles = []
            for record in records:
                handles.append(record["handle"])
                if record["handle"] not in self._handled:
                    self._handled.add(record["handle"])
                    steps, offered = self._decide(record)
                    if len(steps) == 1 and not steps[0].after_s:  # no generator for what is not to wait
                        self._send(steps[0])
                    elif steps:
                        yield from self._send_all(steps)
                    if offered:
                        self.hands.settled(offered)
            request = ClearEventRecords(handles=tuple(handles)).to_bytes()
            end = self._commands.run(self._process, "clear", request)
            if end.type == "ok":
                refused = 0
            else:
                refused += 1
                if refused == CLEAR_TRIES:
                    self._give_up(f"0101h of {handles} gave {_shown(end)} {CLEAR_TRIES} times")
                    return
                yield self._clock() + _RETRY_S
            if not self._device.has_events():
                return

    def _decide(self, record: Value) -> tuple[tuple[Step, ...], Ranges]:
        """What to send when this record is there, and what is answered for when it was sent, where a rule is broken."""
        kind = record.get("type")
        staged = self._staged.get(kind) if isinstance(kind, int) else None
        if staged is None or not isinstance(kind, int):
            if kind == _FORCED:
                self.hands.gave(((record["dpa"], record["length"]),))
            return (), ()
        staged.append((record["dpa"], record["length"]))
        if record["more"]:
            return (), ()
        ranges = tuple(staged)
        staged.clear()
        steps = (self._add if kind == _ADD else self._release).steps(ranges, self.hands)
        if kind == _ADD and (not steps or self._break is not None):
            self.hands.offer(ranges)  # it stays offered for a while, and who looks for a free block must know
        if self._break is None:
            return steps, ()
        steps = self._broken(self._break, kind, steps, ranges)
        return steps, ranges if kind == _ADD and steps else ()

    def _broken(
        self, broken: tuple[str, Break], kind: int, steps: tuple[Step, ...], ranges: Ranges
    ) -> tuple[Step, ...]:
        clause, how = broken
        apply = how.add if kind == _ADD else how.release
        if apply is None:
            return steps
        bad = apply(steps, ranges, self.hands)
        if bad is None:
            self._note(f"{self._name}: {clause} cannot be broken now; the policy was followed")
            return steps
        return bad

    def _send_all(self, steps: tuple[Step, ...]) -> Iterator[float]:
        succeeded = [False] * len(steps)
        for index, step in enumerate(steps):
            if step.unless is not None and succeeded[step.unless]:
                continue
            if step.after_s:
                yield self._clock() + step.after_s
            succeeded[index] = self._send(step).type == "ok"

    def _send(self, step: Step) -> End:
        end = self._commands.run(self._process, step.f, step.to_bytes(), later=True)
        self._commands.tell()
        if step.f == "answer":  # now, while the witnesses are asked: judging leaves the device's registers alone
            self._commands.judge_later()
        return end

    def _ended(self, f: str, sent: Value, end: End) -> None:
        """Keep account of what is held and which records are gone, whoever asked for the command."""
        if end.type != "ok":
            return
        if f == "clear":
            self._handled.difference_update(sent.get("handles", ()))
        elif f == "answer":
            self.hands.took(_ranges(sent))
        elif f == "give_back":
            self.hands.gave(_ranges(sent))

    def _give_up(self, why: str) -> None:
        """Stop reading this device's log until a policy is set again, and say so."""
        self.stuck = why
        self._note(f"{self._name}: {why}; its log is not read any more until a policy is set")


def _ranges(sent: Value) -> Ranges:
    return tuple([(start, length) for start, length in sent.get("ranges", ())])


def _shown(end: End) -> str:
    if end.type == "fail":
        return f"return code {end.value['rc']:02x}h"
    return str(end.value.get("error") or end.value.get("reason") or end.value)[:200]
