"""The same operations to QEMU and to the emulator behaving as that QEMU, one by one; what differs, made short.

    Sequence of operations (workload) -> Exchange (what is sent) -> Outcome of either side -> Difference

After every operation both sides are asked the same: how it ended (QMP's words, or return code and payload), the state
of the blocks that it touched, that all of its region which should be free is free, the event log (0100h) and the
extent list (4801h). The first thing that differs ends the sequence: the two no longer hold the same, and what comes
next would only repeat it. A sequence begins on a device that holds nothing, so a part of it can be tried by itself.

It judges nothing: that both sides agree says that the emulator behaves as QEMU does, not that QEMU is right. What is
right is the checker's. It records no history either; `Finding.script` is what shows a difference again.

Both sides are driven alike: monitor commands, and raw mailbox commands through the agent, whose host U is told to
leave the device alone.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .agent.commands import OPERATIONS
from .boot import Setup
from .emulator import arguments
from .emulator.device import Died, EmulatedDevice
from .emulator.machine import Behaviour, Error, Machine
from .emulator.monitor import Server
from .errors import AskedWrongly, CannotRun, DcdError, MachineGone, MalformedBytes, OutcomeUnknown
from .guest import Guest
from .history import encode
from .model.decide import EXHAUSTED
from .model.reply import Device
from .qmp import Dialect, Qmp, QmpRefused
from .topology import Topology
from .wire import DcConfig, Opcode
from .workload import SHRINK_TRIES, Choices, Operation, Value, bind, next_operation, shrinking

SEQUENCE = 200
"""Operations in one sequence."""
CRASH_TRIES = 14
"""Candidates tried where each costs a boot."""
LOOK_EVERY = 25
"""So often every region is asked, and every block that was touched."""
MAX_TOUCHED = 2
MAX_RUNS = 64
MAX_SETTLE = 600
MAX_FINDINGS = 50
SETTLED_RECORDS = 600
_BATCH = 12
_PAGE = 50
_NAME = "mem0"
_SETTLE_RANGES = 85


class Exchange(NamedTuple):
    """What is sent. `way`: qmp (`what` is the command, `given` its arguments), mailbox (`what` is the opcode, `given`
    the payload) or reset."""

    way: str
    what: Any = None
    given: Any = None

    def __str__(self) -> str:
        if self.way == "qmp":
            return json.dumps({"execute": self.what, "arguments": self.given})
        if self.way == "mailbox":
            return f"mailbox {self.what:04x}h {self.given.hex()}".rstrip()
        return "system_reset"


class Outcome(NamedTuple):
    """How an exchange ended. `end`: ok, error, rc or gone; `said`: the error's words, the return code, the payload as
    values, or how it died."""

    end: str
    said: Any = None

    def __str__(self) -> str:
        return self.end if self.said is None else f"{self.end} {json.dumps(self.said)}"


class Difference(NamedTuple):
    """What differs: `what` is outcome, block, log, list or gone; `asked` the exchange that showed it."""

    what: str
    asked: Exchange
    emulator: Outcome
    qemu: Outcome

    def signature(self, operation: Operation) -> str:
        """What makes two findings the same one."""
        if self.what == "gone":
            return f"{operation.f} gone"
        one, two = _shortly(self.emulator, self.qemu), _shortly(self.qemu, self.emulator)
        return f"{operation.f} {self.what}" + (f": emulator {one}, QEMU {two}" if one != two else "")


def _shortly(mine: Outcome, other: Outcome) -> str:
    """An outcome without what is particular to one run of it: of two replies, only that they differ."""
    if mine.end != "rc":
        return str(mine)
    codes = [0 if outcome.end != "rc" else outcome.said["rc"] for outcome in (mine, other)]
    return f"{codes[0]:02x}h" if any(codes) else "another reply"


class Step(NamedTuple):
    """An operation that was done, what was sent for it, and how it ended on either side."""

    operation: Operation
    exchange: Exchange
    emulator: Outcome
    qemu: Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A difference with its reproducer: the shortest sequence found, from an empty device on.

    `found_at`: (seed, number) of the operation that first showed it; `times`: how often it was met.
    """

    signature: str
    operations: tuple[Operation, ...]
    steps: tuple[Step, ...]
    difference: Difference
    found_at: tuple[int, int]
    length_found: int
    times: int = 1

    def script(self) -> str:
        """What to send, line by line, and what each side said."""
        lines = [f"# {self.signature}"]
        for step in self.steps:
            lines += [f"# {step.operation.kind}", str(step.exchange)]
            same = step.emulator == step.qemu
            lines += (
                [f"#   both: {step.qemu}"] if same else [f"#   emulator: {step.emulator}", f"#   QEMU: {step.qemu}"]
            )
        found = self.difference
        if found.what not in ("outcome", "gone"):
            lines += [f"# then {found.what}:", str(found.asked)]
            lines += [f"#   emulator: {found.emulator}", f"#   QEMU: {found.qemu}"]
        return "\n".join(lines) + "\n"

    def replay(self) -> str:
        """The operations as JSON lines: what `dcd fuzz --replay` reads."""
        return "".join(json.dumps(operation._asdict()) + "\n" for operation in self.operations)


def read_replay(text: str) -> tuple[Operation, ...]:
    """The operations of `Finding.replay`. Errors: AskedWrongly, naming the line."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
            kind, f, sent = row["kind"], row["f"], row["sent"]
            if not (isinstance(kind, str) and isinstance(sent, dict) and f in _FUNCTIONS):
                raise ValueError(f"f {f!r} is none of {', '.join(sorted(_FUNCTIONS))}")
            found.append(Operation(kind, f, sent))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise AskedWrongly(f"line {number} is no operation: {error}; give a file that dcd fuzz wrote") from None
    if not found:
        raise AskedWrongly("there is no operation in it; give a file that dcd fuzz wrote")
    return tuple(found)


# ---- what is sent


_FUNCTIONS = frozenset((*OPERATIONS, "add", "release", "block", "config", "raw", "reset"))


def exchange(operation: Operation, sent: Value, dialect: Dialect, path: str) -> Exchange:
    """What an operation is on either side. Errors: AskedWrongly where the value fits no payload."""
    f = operation.f
    if f in ("add", "release"):
        return _managed(f, sent, dialect, path)
    if f == "block":
        return block_question(dialect, path, sent["region"], [(sent["offset"], sent["length"])])
    if f == "reset":
        return Exchange("reset")
    if f == "raw":
        return Exchange("mailbox", sent["opcode"], bytes.fromhex(sent["payload"]))
    if f == "config":
        return Exchange("mailbox", int(Opcode.GET_DC_CONFIG), bytes((sent["count"], sent["start"])))
    return Exchange("mailbox", OPERATIONS[f].opcode, OPERATIONS[f].build(sent))


def _managed(f: str, sent: Value, dialect: Dialect, path: str) -> Exchange:
    speech = dialect.add if f == "add" else dialect.release
    values: Value = {"path": path, "host_id": sent["host_id"], "region": sent["region"], "tag": sent["tag"]}
    if f == "add":
        values["selection_policy"] = sent["policy"]
    else:
        values |= {
            "removal_policy": sent["policy"],
            "forced": sent["forced"] or None,
            "sanitize": sent["sanitize"] or None,
        }
    spans = [(one["offset"], one["length"]) for one in sent["extents"]]
    return Exchange("qmp", speech.command, speech.arguments(values, spans))


Question = tuple[int, list[tuple[int, int]]]
"""A region, and (offset, length) of blocks in it."""


def block_question(dialect: Dialect, path: str, region: int, blocks: Sequence[tuple[int, int]]) -> Exchange:
    """An add that is refused whatever happens: its words tell the state of the blocks (see `qmp.block_state`)."""
    sent = {"host_id": 0, "region": region, "tag": None, "policy": "prescriptive"}
    spans = [{"offset": offset, "length": length} for offset, length in (*blocks, (blocks[0][0], 0))]
    return _managed("add", {**sent, "extents": spans}, dialect, path)


def _mailbox(f: str, **value: Any) -> Exchange:
    return Exchange("mailbox", OPERATIONS[f].opcode, OPERATIONS[f].build(value))


_READ_LOG = _mailbox("events", log=4)
_RECEIVED = {row.opcode: row.received for row in OPERATIONS.values()}


def _said(opcode: int, rc: int, payload: bytes) -> Outcome:
    """A mailbox reply as values; after a refusal nothing is looked at but its code."""
    if rc:
        return Outcome("rc", {"rc": rc})
    try:
        if opcode == Opcode.GET_DC_CONFIG:
            config = DcConfig.from_bytes(payload)
            regions = [
                [one.base, one.decode_length, one.length, one.block_size, one.dsmad_handle, one.flags]
                for one in config.regions
            ]
            rest = {name: getattr(config, name) for name in _CONFIG_COUNTS}
            return Outcome("rc", {"rc": 0, "regions": regions, **rest})
        if opcode in _RECEIVED and payload:
            return Outcome("rc", _RECEIVED[opcode](payload))
    except MalformedBytes as error:
        return Outcome("rc", {"rc": 0, "raw": payload.hex(), "malformed": error.message})
    return Outcome("rc", {"rc": 0, "raw": payload.hex()})


_CONFIG_COUNTS = ("available_regions", "supported_extents", "available_extents", "supported_tags", "available_tags")


# ---- the two sides


class Side(Protocol):
    """One of the two. `do` carries out one exchange; `ask` several that change nothing, and may do them at once."""

    @property
    def dialect(self) -> Dialect: ...

    async def fresh(self) -> int:
        """Bring the device to hold nothing; the handle that its next event record gets. Errors: DcdError."""
        ...

    async def do(self, sent: Exchange) -> Outcome: ...

    async def ask(self, questions: Sequence[Exchange]) -> list[Outcome]: ...


class EmulatorSide:
    """The emulator in-process: the machine's own monitor commands and its agent, without sockets.

    `device` is the model's device, by which the next operation is chosen.
    """

    def __init__(self, shape: Topology, behaves: Behaviour) -> None:
        self._shape = shape
        self._behaves = behaves
        self.dialect = Dialect.from_schema(arguments.schema())
        self._replies: list[Value] = []
        self.machine = self._made()

    async def __aenter__(self) -> EmulatorSide:
        return self

    async def __aexit__(self, *_: object) -> None:
        return

    def _made(self) -> Machine:
        def control(body: bytes) -> None:
            self._replies.append(json.loads(body))

        machine = Machine(self._shape, behaves=self._behaves, on_control=control)
        self.machine = machine
        self._hold()
        return machine

    @property
    def emulated(self) -> EmulatedDevice:
        return self.machine.devices[_NAME]

    @property
    def device(self) -> Device:
        return self.emulated.model

    async def fresh(self) -> int:
        self._made()
        return 1

    def start(self, handle: int) -> None:
        """Give the next event record this handle."""
        self.emulated.model = self.device._replace(next_handle=handle)

    async def do(self, sent: Exchange) -> Outcome:
        try:
            if sent.way == "reset":
                await self._execute("system_reset", {})
                self._hold()
                return Outcome("ok")
            if sent.way == "qmp":
                return await self._execute(sent.what, sent.given)
            return self._mailbox([sent])[0]
        except MachineGone as error:
            return Outcome("gone", error.departure if isinstance(error, Died) else "died")

    async def ask(self, questions: Sequence[Exchange]) -> list[Outcome]:
        return [await self.do(question) for question in questions]

    async def _execute(self, command: str, given: Value) -> Outcome:
        found = self.machine.execute(command, given)
        return Outcome("error", found.desc) if isinstance(found, Error) else Outcome("ok")

    def _mailbox(self, sent: Sequence[Exchange]) -> list[Outcome]:
        request = {"id": 1, "do": "raw", "device": _NAME, "commands": [[one.what, one.given.hex()] for one in sent]}
        return _replies(sent, self._control(request))

    def _hold(self) -> None:
        self._control({"id": 1, "do": "hold", "device": _NAME})

    def _control(self, request: Value) -> Value:
        self._replies.clear()
        self.machine.handle(encode(request))
        body = next((reply for reply in self._replies if reply.get("id") == request["id"]), None)
        if self.machine.died is not None:
            raise self.machine.died
        if body is None or not body["ok"]:
            raise AskedWrongly(f"the emulator's agent refused {request['do']}", received=body)
        return body


class SocketSide(EmulatorSide):
    """The emulator, its monitor driven over its socket by the same client as QEMU's."""

    def __init__(self, shape: Topology, behaves: Behaviour, directory: Path) -> None:
        self._directory = directory
        self._stack = AsyncExitStack()
        self._qmp: Qmp | None = None
        super().__init__(shape, behaves)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def fresh(self) -> int:
        await self._stack.aclose()
        machine = self._made()
        socket = self._directory / "emulator.qmp"
        await self._stack.enter_async_context(Server(machine, socket))
        log = self._directory / "emulator-qmp.jsonl"
        self._qmp = await self._stack.enter_async_context(Qmp.connect(socket, log=log))
        return 1

    async def _execute(self, command: str, given: Value) -> Outcome:
        assert self._qmp is not None
        return await _executed(self._qmp, command, given)


class QemuSide:
    """A real QEMU: a guest with its agent. `boot` makes a fresh one when there is none, or the last one died."""

    def __init__(self, boot: Callable[[], Guest]) -> None:
        self._boot = boot
        self._stack = AsyncExitStack()
        self.guest: Guest | None = None
        self.boots = 0

    async def __aenter__(self) -> QemuSide:
        await self._fit()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def dialect(self) -> Dialect:
        return self._there.qmp.dialect

    @property
    def _there(self) -> Guest:
        if self.guest is None:
            raise MachineGone("no guest is running")
        return self.guest

    async def _fit(self) -> Guest:
        if self.guest is None:
            await self._stack.aclose()
            self.guest = await self._stack.enter_async_context(self._boot())
            self.boots += 1
            await self._hold()
        return self._there

    async def _hold(self) -> None:
        await self._there.control("hold", {"device": _NAME})

    async def give_up(self) -> None:
        """The guest is not fit any more."""
        self.guest = None
        await self._stack.aclose()

    async def fresh(self) -> int:
        for _ in range(3):
            await self._fit()
            try:
                return await self._settled()
            except (DcdError, AssertionError):
                await self.give_up()
        raise CannotRun("no fresh guest was empty; see the run directory")

    async def do(self, sent: Exchange) -> Outcome:
        try:
            if sent.way == "reset":
                await self._there.reset()
                await self._hold()
                return Outcome("ok")
            if sent.way == "qmp":
                return await _executed(self._there.qmp, sent.what, sent.given)
            return (await self._mailbox([sent]))[0]
        except OutcomeUnknown as error:
            return await self._gone(error)

    async def ask(self, questions: Sequence[Exchange]) -> list[Outcome]:
        monitor = [one for one in questions if one.way == "qmp"]
        mailbox = [one for one in questions if one.way == "mailbox"]
        try:
            answers = await asyncio.gather(
                self._mailbox(mailbox), *[_executed(self._there.qmp, one.what, one.given) for one in monitor]
            )
        except OutcomeUnknown as error:
            return [await self._gone(error)] * len(questions)
        rung, asked = iter(answers[0]), iter(answers[1:])
        return [next(asked) if one.way == "qmp" else next(rung) for one in questions]

    async def _gone(self, error: OutcomeUnknown) -> Outcome:
        death = await self._there.diagnose()
        await self.give_up()
        return Outcome("gone", death.text.partition(") ")[2] or death.text if death is not None else error.message)

    async def _mailbox(self, sent: Sequence[Exchange]) -> list[Outcome]:
        found: list[Outcome] = []
        for at in range(0, len(sent), _BATCH):
            some = sent[at : at + _BATCH]
            commands = [[one.what, one.given.hex()] for one in some]
            found += _replies(some, await self._there.control("raw", {"device": _NAME, "commands": commands}))
        return found

    async def _settled(self) -> int:
        """Empty: nothing accepted, nothing pending, no record. What is pending is refused, but only as long as there
        is something: an answer to nothing can kill (QEMU-empty-answer)."""
        guest = self._there
        path = guest.shape.device(_NAME).qom_path
        regions = guest.devices()[0]["regions"]
        whole = [block_question(self.dialect, path, one["index"], [(0, one["length"])]) for one in regions]
        for _ in range(MAX_SETTLE):
            page = (await self._mailbox([_mailbox("extents", count=_PAGE, start=0)]))[0].said
            held = [[one["dpa"], one["length"]] for one in page["extents"] if one["length"]]
            if held:
                given = (await self._mailbox([_mailbox("give_back", flags=0, ranges=held[:_SETTLE_RANGES])]))[0]
                if given.said["rc"] == EXHAUSTED:  # only with offers beside it can it count more than it supports
                    await self._mailbox([_mailbox("answer", flags=0, ranges=[])])
                continue
            states = await self.ask(whole)
            if not any("pending" in str(state.said) for state in states):
                break
            await self._mailbox([_mailbox("answer", flags=0, ranges=[])])
        if await self._mailbox_log():
            raise CannotRun("the event log does not become empty")
        return await self._next_handle(path, regions[0]["block_size"])

    async def _mailbox_log(self) -> int:
        for _ in range(SETTLED_RECORDS):
            records = (await self._mailbox([_READ_LOG]))[0].said["records"]
            if not records:
                return 0
            await self._mailbox([_mailbox("clear", log=4, handles=[one["handle"] for one in records])])
        return len(records)

    async def _next_handle(self, path: str, block: int) -> int:
        """Offer a block, see the handle of its record, and refuse it."""
        spans = [{"offset": 0, "length": block}]
        sent = {"host_id": 0, "region": 0, "tag": None, "policy": "prescriptive", "extents": spans}
        offered = await self.do(_managed("add", sent, self.dialect, path))
        if offered.end != "ok":
            raise CannotRun(f"the device is not empty: an offer gives {offered}")
        refuse = [_READ_LOG, _mailbox("answer", flags=0, ranges=[])]
        handle = int((await self._mailbox(refuse))[0].said["records"][0]["handle"])
        await self._mailbox([_mailbox("clear", log=4, handles=[handle])])
        return handle % 65535 + 1


async def _executed(qmp: Qmp, command: str, given: Value) -> Outcome:
    try:
        await qmp.execute(command, given)
    except QmpRefused as error:
        return Outcome("error", error.reason)
    return Outcome("ok")


def _replies(sent: Sequence[Exchange], body: Value) -> list[Outcome]:
    pairs = zip(sent, body["replies"], strict=True)
    return [_said(one.what, reply["rc"], bytes.fromhex(reply["payload"])) for one, reply in pairs]


@asynccontextmanager
async def qemu_side(setup: Setup, run_dir: Path) -> AsyncIterator[QemuSide]:
    """A real QEMU of that setup; guests' directories are made in `run_dir`."""
    numbers = iter(range(1, 1 << 16))

    def boot() -> Guest:
        return Guest(
            qemu=setup.qemu,
            accel=setup.accel,
            kernel=setup.kernel,
            initrd=setup.initrd,
            shape=setup.topology(),
            run_dir=run_dir / f"guest.{next(numbers)}",
        )

    async with QemuSide(boot) as side:
        yield side


# ---- the comparison


Source = Callable[[int, Device], Operation | None]


class Played(NamedTuple):
    """A sequence that was played: as far as it went, and the difference that ended it."""

    steps: tuple[Step, ...]
    difference: Difference | None

    @property
    def signature(self) -> str | None:
        return None if self.difference is None else self.difference.signature(self.steps[-1].operation)


@dataclass(kw_only=True)
class Tally:
    """What was compared: operations by kind, of them refused; questions; sequences."""

    kinds: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    questions: int = 0
    sequences: int = 0

    @property
    def operations(self) -> int:
        return self.kinds.total()


class Differential:
    """`emulator` chooses and foretells, `qemu` is held against it."""

    def __init__(self, emulator: EmulatorSide, qemu: Side, shape: Topology) -> None:
        self.emulator = emulator
        self.qemu = qemu
        self.tally = Tally()
        self.findings: dict[str, Finding] = {}
        self.avoid: frozenset[str] = frozenset()
        self._path = shape.device(_NAME).qom_path
        self._also: tuple[str, Exchange] | None = None

    async def run(
        self,
        operations: int,
        seed: int,
        *,
        length: int = SEQUENCE,
        shrink: bool = True,
        resets: bool = False,
        on_step: Callable[[Tally], None] = lambda _: None,
    ) -> list[Finding]:
        """That many operations, in sequences of `length`; the findings, each met first made short.

        `resets`: every eighth sequence resets the machine once. Kinds that killed QEMU are avoided from then on.
        """
        sequence = 0
        while self.tally.operations < operations and len(self.findings) < MAX_FINDINGS:
            own = Choices(seed, sequence).word() >> 32
            reset_at = Choices(own).below(length) if resets and sequence % 8 == 7 else -1

            def source(number: int, device: Device, own: int = own, reset_at: int = reset_at) -> Operation | None:
                if number >= min(length, operations):
                    return None
                if number == reset_at:
                    return Operation("reset", "reset", {})
                return next_operation(own, number, device, avoid=self.avoid)

            played = await self.play(source, seed=own, on_step=on_step)
            sequence += 1
            self.tally.sequences += 1
            if played.difference is not None:
                await self._found(played, own, shrink=shrink)
        return list(self.findings.values())

    async def replay(self, operations: Sequence[Operation], *, spare: bool = True) -> Played:
        """These operations, from an empty device on, as far as both sides agree."""
        return await self.play(lambda number, _: operations[number] if number < len(operations) else None, spare=spare)

    async def play(
        self,
        source: Source,
        *,
        seed: int | None = None,
        spare: bool = True,
        on_step: Callable[[Tally], None] | None = None,
    ) -> Played:
        """One sequence; with `spare`, what QEMU is known to die of is not sent, and ends it.

        `seed` chooses what is asked besides what was touched; without one everything is asked after each operation.

        Errors: DcdError where no empty device can be had.
        """
        handle = await self.qemu.fresh()
        await self.emulator.fresh()
        self.emulator.start(handle)
        steps: list[Step] = []
        while (operation := source(len(steps), self.emulator.device)) is not None:
            sent = bind(operation, self.emulator.device)
            touched = self._touched(operation.f, sent)
            ours = exchange(operation, sent, self.emulator.dialect, self._path)
            theirs = exchange(operation, sent, self.qemu.dialect, self._path)
            foretold = await self.emulator.do(ours)
            if spare and foretold.end == "gone":
                break
            step = Step(operation, theirs, foretold, await self.qemu.do(theirs))
            steps.append(step)
            if on_step is not None:
                self._count(step)
                on_step(self.tally)
            choices = None if seed is None else Choices(seed ^ 0x5EED, len(steps))
            difference = self._differs(step) or await self._look(choices, touched, step)
            if difference is not None:
                return Played(tuple(steps), difference)
            if step.qemu.end == "gone":
                break
        return Played(tuple(steps), None)

    def _count(self, step: Step) -> None:
        kind = step.operation.kind
        self.tally.kinds[kind] += 1
        if step.qemu.end == "error" or (step.qemu.end == "rc" and step.qemu.said["rc"]):
            self.tally.refused[kind] += 1

    @staticmethod
    def _differs(step: Step) -> Difference | None:
        if step.emulator == step.qemu or step.emulator.end == step.qemu.end == "gone":
            return None
        what = "gone" if "gone" in (step.emulator.end, step.qemu.end) else "outcome"
        return Difference(what, step.exchange, step.emulator, step.qemu)

    async def _look(self, choices: Choices | None, touched: Sequence[tuple[int, int]], step: Step) -> Difference | None:
        """Ask both what they hold now."""
        if step.qemu.end == "gone":
            return None
        everything = choices is None or not choices.below(LOOK_EVERY)
        blocks = self._taken(touched, MAX_RUNS if everything else MAX_TOUCHED, choices)
        blocks += self._free([region for region, _ in touched], everything=everything)
        listed = [("list", one) for one in self._pages(whole=choices is None or choices.chance(20))]
        log = [("log", _READ_LOG)] if choices is None or choices.chance(60) else []
        asked = [("block", block_question(self.emulator.dialect, self._path, *one)) for one in blocks]
        theirs = [("block", block_question(self.qemu.dialect, self._path, *one)) for one in blocks]
        if self._also is not None and choices is None:
            asked.append(self._also)
            theirs.append(self._also)
        what = [*log, *listed, *asked]
        self.tally.questions += len(what)
        said = await self.emulator.ask([one for _, one in what])
        found = await self.qemu.ask([one for _, one in (*log, *listed, *theirs)])
        for (name, question), one, two in zip(what, said, found, strict=True):
            if one != two:
                return Difference("gone" if two.end == "gone" else name, question, one, two)
        return None

    def _touched(self, f: str, sent: Value) -> list[tuple[int, int]]:
        """(region, offset of a block) of what an operation names and what it may change: both ends of each range."""
        regions = self.emulator.device.state.config.regions
        named: list[tuple[int, int]] = []
        if f in ("add", "release") and 0 <= sent["region"] < len(regions):
            base = regions[sent["region"]].base
            named = [(base + one["offset"], one["length"]) for one in sent["extents"]]
        elif f in ("answer", "give_back"):
            named = [(start, size) for start, size in sent["ranges"]]
            if f == "answer" and self.emulator.device.state.chains:
                named += [one[:2] for one in self.emulator.device.state.chains[0].extents]
        found = []
        for start, size in named:
            for dpa in (start, start + max(size, 1) - 1):
                for region in regions:
                    if region.base <= dpa < region.base + region.length:
                        found.append((region.id, (dpa - region.base) // region.block_size * region.block_size))
        return list(dict.fromkeys(found))

    def _taken(self, touched: Sequence[tuple[int, int]], most: int, choices: Choices | None) -> list[Question]:
        """Blocks asked one by one: some that were touched, and of what is not free one more."""
        step = max(1, len(touched) // most)
        state = self.emulator.device.state
        found = list(touched[::step][:most])
        held = (*state.accepted, *state.pending)
        for extent in [choices.pick(held)] if held and choices is not None else []:
            for region in state.config.regions:
                if region.base <= extent.start < region.base + region.length:
                    found.append((region.id, extent.start - region.base))
        block = state.config.regions[0].block_size
        return [(region, [(offset, block)]) for region, offset in dict.fromkeys(found[-2 * most :])]

    def _free(self, touched: Sequence[int], *, everything: bool) -> list[Question]:
        """All that should be free in a region, in one question: that it is free says that each block of it is."""
        state = self.emulator.device.state
        found: list[Question] = []
        for region in state.config.regions:
            if not (everything or region.id in touched):
                continue
            runs, at = [], 0
            for extent in sorted((*state.accepted, *state.pending)):
                if region.base <= extent.start < region.base + region.length:
                    offset = extent.start - region.base
                    if offset > at:
                        runs.append((at, offset - at))
                    at = offset + extent.length
            if at < region.length:
                runs.append((at, region.length - at))
            found += [(region.id, runs[first : first + MAX_RUNS]) for first in range(0, len(runs), MAX_RUNS)]
        return found

    def _pages(self, *, whole: bool) -> list[Exchange]:
        total = len(self.emulator.device.state.accepted)
        starts = range(0, total + 1, _PAGE) if whole else sorted({0, total // _PAGE * _PAGE})
        return [_mailbox("extents", count=_PAGE, start=start) for start in starts]

    # -- what was found ------------------------------------------------------------------------------------------

    async def _found(self, played: Played, seed: int, *, shrink: bool) -> None:
        signature = played.signature
        assert signature is not None and played.difference is not None
        died = played.difference.what == "gone"
        if died:
            self.avoid |= {played.steps[-1].operation.kind}
        known = self.findings.get(signature)
        if known is not None:
            self.findings[signature] = _again(known)
            return
        length = len(played.steps)
        if shrink:
            played = await self.shortened(played, CRASH_TRIES if died else SHRINK_TRIES)
        found = finding_of(played, found_at=(seed, length - 1), length=length)
        assert found is not None
        self.findings[signature] = found

    async def shortened(self, played: Played, tries: int) -> Played:
        """The shortest sequence found that ends in the same difference, in so many tries."""
        best, wanted = played, played.signature
        difference = played.difference
        if difference is not None and difference.what in ("block", "list"):
            self._also = difference.what, difference.asked  # it may have been asked by chance
        candidates = shrinking([step.operation for step in played.steps], tries)
        try:
            candidate = next(candidates)
            while True:
                found = await self.replay(candidate)
                same = found.signature == wanted
                if same:
                    best = found
                candidate = candidates.send(same)
        except StopIteration:
            return best
        finally:
            self._also = None


def finding_of(
    played: Played, *, found_at: tuple[int, int] = (0, 0), length: int = 0, death: bool = False
) -> Finding | None:
    """What a sequence showed; with `death`, also that both sides ended, as it was foretold."""
    difference = played.difference
    if difference is None:
        last = played.steps[-1] if played.steps else None
        if not death or last is None or last.qemu.end != "gone":
            return None
        difference = Difference("gone", last.exchange, last.emulator, last.qemu)
    return Finding(
        signature=difference.signature(played.steps[-1].operation),
        operations=tuple(step.operation for step in played.steps),
        steps=played.steps,
        difference=difference,
        found_at=found_at,
        length_found=length or len(played.steps),
    )


def _again(known: Finding) -> Finding:
    return replace(known, times=known.times + 1)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings, those that kill first."""
    return sorted(findings, key=lambda one: (one.difference.what != "gone", one.signature))
