"""A launched guest as its supervisor holds it: every verb carried out, for several clients at once.

Each operation on the device runs whole, also when the client that asked for it goes away: an operation broken off in
the middle would leave a line in the history that never ends, and its process could begin no other. What a client only
waits for (an answer, a command in the guest, a stream) ends with the client.

A guest that has died stays here: its history, its console and its map are still told, everything else is MachineGone.
It does not know sockets (`server`), and decides nothing about right and wrong (`checker`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

from ..bench import Span
from ..checker import Verdict, check
from ..checker.explain import tell
from ..errors import AskedWrongly, CannotRun, DcdError, LinkLost, MachineGone, OutcomeUnknown, Refused, TimedOut
from ..fabric import Fabric
from ..guest import SILENCE_S, Death, Guest
from ..history import MAX_LINE_BYTES, History, Op
from ..machine import CONSOLE_LOG
from ..session import MAX_BLOCKS_ASKED, MAX_DATA_BYTES, RANGES_A_COMMAND, Answer, Release, Session
from ..units import format_size
from . import console, fm, verbs
from .protocol import VERSION
from .room import Room, Run, joined

HEARTBEAT_S = 5.0
PING_TIMEOUT_S = 10.0
RESET_PATIENCE_S = 10.0
END_PATIENCE_S = 5.0
MAX_UNDER_WAY = 256
RELEASED_AT_ONCE = 4
"""Extents in one request to release all: QEMU's event log holds 8 records."""
_MAX_FITS = 256
_EXEC_POLL_S = (0.005, 0.1)
_EXEC_GRACE_S = 10.0
_MAX_OUTPUT = 1 << 20
_LINES_A_TURN = 64
_FM = "fm_extents"
"""The witness that only a guest with a fabric manager has."""

T = TypeVar("T")
Value = verbs.Value
Range = tuple[int, int]


class Gate:
    """Many at once, or one alone: a reset waits for the operations under way, and the others wait for the reset."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @contextlib.asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        async with self._turn:
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @contextlib.asynccontextmanager
    async def alone(self, patience_s: float) -> AsyncIterator[None]:
        """Errors: TimeoutError when the others take longer than that."""
        async with self._turn:
            async with asyncio.timeout(patience_s):
                await self._empty.wait()
            yield


class Held:
    """One guest. `call` carries a verb out, `stream` those that give items; `watch` sees it die."""

    def __init__(
        self,
        *,
        name: str,
        guest: Guest,
        session: Session,
        run_dir: Path,
        stop: Callable[[], None],
        since: float = 0.0,
    ) -> None:
        self.name = name
        self.guest = guest
        self.session = session
        self.run_dir = run_dir
        self.death: Death | None = None
        self.since = since
        self.clients: Callable[[], int] = lambda: 0
        self._stop = stop
        self._room = Room(session.devices.values())
        self._policy = {name: _first_policy() for name in session.devices}
        self._gate = Gate()
        self._placing = asyncio.Lock()
        self._answering = asyncio.Lock()
        self._checking = asyncio.Lock()
        self._burying = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()
        self._operations = 0
        self._news = asyncio.Event()
        session.writer.listen(self._see)

    async def call(self, verb: str, args: Mapping[str, object]) -> Any:
        """Carry out a verb. Errors: AskedWrongly, and the verb's own; MachineGone when the guest has died."""
        checked = verbs.checked(verb, args)
        do: Callable[[Value], Awaitable[Any]] = getattr(self, f"_do_{verb}")
        if verbs.VERBS[verb].after_death:
            return await do(checked)
        self._alive()
        try:
            return await do(checked)
        except (TimedOut, LinkLost, MachineGone):
            await self._doubt()
            self._alive()
            raise

    def stream(self, verb: str, args: Mapping[str, object]) -> AsyncIterator[Any]:
        """The items of a streaming verb. Errors: AskedWrongly."""
        checked = verbs.checked(verb, args)
        give: Callable[[Value], AsyncIterator[Any]] = getattr(self, f"_give_{verb}")
        return give(checked)

    async def watch(self) -> None:
        """Until the guest has died, however that is: QEMU's end, a panic, or an agent that does not answer."""
        while self.death is None:
            dead = await self.guest.until(lambda: self.guest.death is not None, HEARTBEAT_S)
            if not dead:
                with contextlib.suppress(DcdError):
                    await self._gated(lambda: self.guest.control("ping", timeout_s=PING_TIMEOUT_S))
                    continue
            await self._doubt()

    async def end(self) -> None:
        """Wait for what is under way, bounded; then it is given up."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=END_PATIENCE_S)
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=END_PATIENCE_S)

    async def follow(self, policy: Value | None, release_policy: Value | None) -> None:
        """What host U does from the start on every device; None leaves it as it is. Errors: AskedWrongly."""
        for verb, asked in (("policy", policy), ("release_policy", release_policy)):
            for device in self.session.devices if asked is not None else ():
                assert asked is not None
                params = {key: value for key, value in asked.items() if key != "kind"}
                await self.call(verb, {"kind": asked.get("kind"), "device": device, "params": params})

    # -- capacity ------------------------------------------------------------------------------------------------

    async def _do_add(self, args: Value) -> Value:
        device, region, tag = args["device"], args["region"], args["tag"]
        self._serving(args["via"], tag)
        self.session.dpa(region, 0, device=device)

        async def offered() -> tuple[Any, list[Span]]:
            async with self._placing:
                spans = args["extents"] or [await self._place(device, region, args["size"], args["at"])]
                whom = {"region": region, "device": device, "host_id": args["host_id"]}
                return await self.session.add(spans, **whom, tag=tag, via=args["via"]), spans

        offer, spans = await self._whole(offered)
        await self.session.feed.until(lambda: offer.answered is not None, args["timeout_s"])
        answer: Answer = await self._whole(lambda: offer.answer(0))
        if answer.outcome == "unanswered":
            await self._doubt()
            self._alive()
        return {**_answered(answer), "device": device, "region": region, "extents": _offsets(spans)}

    async def _do_answer(self, args: Value) -> Value:
        device = args["device"]
        if args["extents"] and args["choice"] == "refuse":
            raise AskedWrongly("refuse is of the whole offer; extents go with accept")
        await self._hands_off(device, args["timeout_s"])

        async def answered() -> Value:
            async with self._answering:
                offer = await self.session.oldest(device=device)
                if offer is None:
                    raise AskedWrongly(f"no offer on {device} waits for an answer; nothing was sent; see: show")
                base = self._region(device, offer.region)["base"]
                taken = _parts(offer.ranges, base, args["extents"]) if args["choice"] == "accept" else []
                for at in range(0, max(1, len(taken)), RANGES_A_COMMAND):
                    more = at + RANGES_A_COMMAND < len(taken)
                    rc = await self.session.answer(taken[at : at + RANGES_A_COMMAND], device=device, more=more)
                    if rc:
                        raise Refused(f"{device} refused the answer (return code {rc:02x}h)", reason=f"{rc:02x}h")
                found = _answered(await offer.answer(0))
                waiting = await self.session.oldest(device=device) is not None
                spans = [[start - base, length] for start, length in offer.ranges]
                return {**found, "device": device, "region": offer.region, "extents": spans, "waiting": waiting}

        return cast(Value, await self._whole(answered))

    async def _hands_off(self, device: str, timeout_s: float) -> None:
        """Wait until host U has nothing more to answer: an answer to nothing, after its own, ends QEMU (DEV-9).

        Errors: AskedWrongly, when it may still answer by itself.
        """
        await self.session.idle(device=device, timeout_s=timeout_s)
        if clause := self._policy[device].get("break"):
            raise AskedWrongly(f"host U breaks {clause} on {device}, which may send an answer later; end that first")
        if records := await self._whole(lambda: self.session.records(device=device)):
            raise AskedWrongly(
                f"host U has not dealt with {len(records)} records in {device}'s log, and may still answer by itself; "
                "nothing was sent: ask again later (a host that gave up goes on when its policy is set)"
            )

    async def _do_release(self, args: Value) -> Value:
        device = args["device"]
        self._serving(args["via"], args["tag"])
        found = []
        for region, spans in await self._asked_back(args):
            found.append(await self._ask_back(device, region, spans, args))
        outcomes = {one["outcome"] for one in found}
        if any(one["outcome"] == "unanswered" for one in found):
            await self._doubt()
            self._alive()
        released = [pair for one in found for pair in one["released"]]
        outcome = outcomes.pop() if len(outcomes) == 1 else "nothing" if not outcomes else "partial"
        return {
            "outcome": outcome,
            "device": device,
            "released": released,
            "kept": [pair for one in found for pair in one["kept"]],
            "requests": found,
        }

    async def _ask_back(self, device: str, region: int, spans: list[Span], args: Value) -> Value:
        how = {key: args[key] for key in ("host_id", "tag", "forced", "sanitize", "via")}
        request = await self._whole(lambda: self.session.release(spans, region=region, device=device, **how))
        await self.session.feed.until(lambda: request.done, args["timeout_s"])
        response: Release = await self._whole(lambda: request.response(0))
        return {
            "region": region,
            "extents": _offsets(spans),
            "outcome": response.outcome,
            "released": _pairs(response.released),
            "kept": _pairs(response.kept),
            "witnesses": _witnesses(response.witnesses),
        }

    async def _asked_back(self, args: Value) -> list[tuple[int, list[Span]]]:
        """What is to be released, by region, in requests of a bounded number of extents."""
        device, region, size = args["device"], args["region"], args["size"]
        if args["extents"]:
            return [(region or 0, args["extents"])]
        if args["at"] is not None:
            return [(region or 0, [Span(args["at"], size)])]
        held = await self._whole(lambda: self.session.extents(device=device))
        placed = [(*self._region_of(device, dpa), length) for dpa, length in held]
        if not args["all"]:
            inside = [(offset, length) for index, offset, length in placed if index == (region or 0)]
            exact = [span for span in inside if span[1] == size]
            larger = [span for span in inside if span[1] > size]
            if not exact and not larger:
                raise AskedWrongly(
                    f"no accepted extent of {device}'s region {region or 0} has {format_size(size)}; see: show"
                )
            return [(region or 0, [Span((exact or larger)[0][0], size)])]
        wanted: dict[int, list[Span]] = {}
        for index, offset, length in placed:
            if region is None or index == region:
                wanted.setdefault(index, []).append(Span(offset, length))
        return [
            (index, spans[at : at + RELEASED_AT_ONCE])
            for index, spans in wanted.items()
            for at in range(0, len(spans), RELEASED_AT_ONCE)
        ]

    async def _place(self, device: str, region: int, size: int, at: int | None) -> Span:
        """Where so much goes: there, or the first place that the block witness calls free. Errors: AskedWrongly."""
        if at is not None:
            return Span(at, size)
        place = self._region(device, region)
        if size % place["block_size"]:
            raise AskedWrongly(
                f"{format_size(size)} in region {region} of {device}; "
                f"give a multiple of its blocks, {format_size(place['block_size'])}"
            )
        for surveyed in (False, True):
            for _ in range(_MAX_FITS):
                dpa = self._room.first_fit(device, region, size)
                if dpa is None:
                    break
                offset = dpa - place["base"]
                if await self.session.block(offset, length=size, region=region, device=device) == "free":
                    return Span(offset, size)
                await self._find_taken(device, region, offset, size)
            if not surveyed:
                await self._look(device, region)
        free = [run.length for run in self._room.runs(device, region) if run.state == "free"]
        raise AskedWrongly(
            f"no room for {format_size(size)} in region {region} of {device}; its largest free run is "
            f"{format_size(max(free, default=0))}: release something, or choose another region"
        )

    async def _find_taken(self, device: str, region: int, offset: int, size: int) -> None:
        """Have the witness name one taken block of a range that is not free; the map hears of it."""
        block_size = self._region(device, region)["block_size"]
        while size > block_size:
            half = size // block_size // 2 * block_size
            if await self.session.block(offset, length=half, region=region, device=device) == "free":
                offset, size = offset + half, size - half
            else:
                size = half
        await self.session.block(offset, region=region, device=device)

    # -- what is there -------------------------------------------------------------------------------------------

    async def _do_show(self, args: Value) -> Value:
        if args["device"] is not None and args["device"] not in self.session.devices:
            raise AskedWrongly(f"no device {args['device']!r}; there is {', '.join(self.session.devices)}")
        if self.death is None:
            try:
                return await self._shown(args["device"], witnessed=True)
            except (TimedOut, LinkLost, MachineGone):
                await self._doubt()
                if self.death is None:
                    raise
        return await self._shown(args["device"], witnessed=False)

    async def _shown(self, only: str | None, *, witnessed: bool) -> Value:
        devices = []
        for name, device in self.session.devices.items():
            if only not in (None, name):
                continue
            regions = []
            for region in device["regions"]:
                runs = await self._runs(name, region["index"], witnessed)
                regions.append(
                    {
                        "region": region["index"],
                        "base": region["base"],
                        "length": region["length"],
                        "block_size": region["block_size"],
                        "runs": runs,
                    }
                )
            listed = await self._listed(name) if witnessed else None
            devices.append(
                {
                    "device": name,
                    "regions": regions,
                    "list": listed,
                    **(await self._listed_by_fm(name) if witnessed and _FM in self.session.witnesses else {}),
                    "policy": self._policy[name],
                }
            )
        return {"source": "witness" if witnessed else "history", "devices": devices}

    async def _runs(self, device: str, region: int, witnessed: bool) -> list[Value]:
        most = self._region(device, region)["block_size"] * MAX_BLOCKS_ASKED
        runs: Iterable[Run] = self._room.runs(device, region)
        sampled: list[Run] = []
        if witnessed:
            runs, sampled = await self._whole(lambda: self._look(device, region))
        return [
            {
                "dpa": run.start,
                "length": run.length,
                "state": run.state,
                "sampled": run.length > most and any(_overlap(run, one) for one in sampled),
            }
            for run in runs
        ]

    async def _listed(self, device: str) -> list[list[int]]:
        return _pairs(await self._whole(lambda: self.session.extents(device=device)))

    async def _listed_by_fm(self, device: str) -> Value:
        """The device's list by 5603h; a switch that is gone takes nothing else away."""
        try:
            found = await self._whole(lambda: self.session.fm_extents(device=device))
        except (TimedOut, LinkLost, MachineGone):
            raise
        except OutcomeUnknown as error:
            return {"fm_list": None, "fm_error": error.message}
        return {"fm_list": [[one["dpa"], one["length"]] for one in found]}

    async def _look(self, device: str, region: int) -> tuple[list[Run], list[Run]]:
        """A region by the block witness, guided by the map: its runs, and those too large to be asked block by block.

        A free run is one question. Of what is taken, every block is asked, as far as `Session.states` does.
        """
        place = self._region(device, region)
        found: list[Run] = []
        sampled: list[Run] = []
        for run in list(self._room.runs(device, region)):
            offset = run.start - place["base"]
            if run.state == "free" and (
                await self.session.block(offset, length=run.length, region=region, device=device) == "free"
            ):
                found.append(run)
                continue
            states = await self.session.states(device, region, [(run.start, run.length)])
            found += [Run(start, length, state) for (start, length), state in sorted(states.items())]
            if run.length > place["block_size"] * MAX_BLOCKS_ASKED:
                sampled.append(run)
        return joined(found), sampled

    async def _do_read(self, args: Value) -> Value:
        read = self.session.load if args["via"] == "host" else self.session.read
        found = b""
        for at in range(0, args["length"], MAX_DATA_BYTES):
            size = min(MAX_DATA_BYTES, args["length"] - at)
            found += await self._whole(lambda: read(args["dpa"] + at, size, device=args["device"]))  # noqa: B023
        return {"data": found.hex()}

    async def _do_write(self, args: Value) -> Value:
        write = self.session.store if args["via"] == "host" else self.session.write
        data = args["data"]
        for at in range(0, len(data), MAX_DATA_BYTES):
            piece = data[at : at + MAX_DATA_BYTES]
            await self._whole(lambda: write(args["dpa"] + at, piece, device=args["device"]))  # noqa: B023
        return {"written": len(data)}

    # -- the host ------------------------------------------------------------------------------------------------

    async def _do_policy(self, args: Value) -> Value:
        await self._whole(lambda: self.session.policy(args["kind"], device=args["device"], **args["params"]))
        return self._followed(args, "add")

    async def _do_release_policy(self, args: Value) -> Value:
        await self._whole(lambda: self.session.release_policy(args["kind"], device=args["device"], **args["params"]))
        return self._followed(args, "release")

    async def _do_break_rule(self, args: Value) -> Value:
        device, clause = args["device"], args["clause"]
        await self._whole(lambda: self.session.break_rule(clause, device=device))
        self._policy[device].pop("break", None)
        if clause is not None:
            self._policy[device]["break"] = clause
        return {"device": device, **self._policy[device]}

    def _followed(self, args: Value, what: str) -> Value:
        policy = self._policy[args["device"]]
        policy[what] = {"kind": args["kind"], **args["params"]}
        return {"device": args["device"], **policy}

    async def _do_reset(self, args: Value) -> Value:
        async def alone() -> None:
            try:
                async with self._gate.alone(RESET_PATIENCE_S):
                    await self.session.reset()
            except TimeoutError:
                raise AskedWrongly(
                    f"operations have been under way for {RESET_PATIENCE_S:g} s; reset when they are over"
                ) from None

        await self._kept(alone())
        self._policy.update({name: _first_policy() for name in self._policy})
        return {"kernel": self.guest.ready.get("kernel")}

    async def _do_exec(self, args: Value) -> Value:
        request = {"argv": args["argv"], "timeout_s": args["timeout_s"]}
        began = await self._whole(lambda: self.guest.control("exec", request))
        handle = {"handle": began["handle"]}
        end = asyncio.get_running_loop().time() + args["timeout_s"] + _EXEC_GRACE_S
        output = {"stdout": bytearray(), "stderr": bytearray()}
        cut, pause_s = 0, _EXEC_POLL_S[0]
        try:
            while True:
                said = await self._whole(lambda: self.guest.control("exec_read", handle))
                moved = False
                for stream, kept in output.items():
                    data = bytes.fromhex(said[stream])
                    room = _MAX_OUTPUT - len(kept)
                    kept += data[:room]
                    cut += len(data[room:])
                    moved = moved or bool(data)
                if said["exit"] is not None:
                    break
                if asyncio.get_running_loop().time() > end:
                    raise TimedOut(f"{args['argv'][0]!r} did not end within {args['timeout_s']:g} s, nor when killed")
                pause_s = _EXEC_POLL_S[0] if moved else min(pause_s * 2, _EXEC_POLL_S[1])
                await asyncio.sleep(pause_s if not moved else 0)
        except BaseException:
            with contextlib.suppress(DcdError):
                await self._kept(self._gated(lambda: self.guest.control("exec_kill", handle)))
            raise
        text = {stream: kept.decode("utf-8", "surrogateescape") for stream, kept in output.items()}
        return {**text, "exit": said["exit"], "cut": cut, "timed_out": said["timed_out"]}

    # -- the fabric manager --------------------------------------------------------------------------------------

    async def _do_fm_info(self, args: Value) -> Value:
        fabric = self._fabric()
        return cast(Value, await self._whole(lambda: fm.info(fabric)))

    async def _do_fm_regions(self, args: Value) -> Value:
        fabric = self._fabric()
        return cast(Value, await self._whole(lambda: fm.regions(fabric, args["device"], args["host_id"])))

    async def _do_fm_extents(self, args: Value) -> Value:
        self._fabric()
        whom = {"device": args["device"], "host_id": args["host_id"]}
        more = {} if args["page"] is None else {"page": args["page"]}
        found = await self._whole(lambda: self.session.fm_extents(**whom, **more))
        return {**whom, "extents": list(found)}

    async def _do_fm_raw(self, args: Value) -> Value:
        self._fabric()
        f, device, payload = args["f"], args["device"], args["payload"]
        try:
            answer = await self._whole(lambda: self.session.send(f, payload, device=device))
        except Refused as error:
            return fm.refused(f, device, payload, error)
        return fm.took(f, device, payload, answer)

    async def _do_set_region(self, args: Value) -> Value:
        self._fabric()
        await self._whole(lambda: self.session.set_region(**args))
        return args

    def _fabric(self) -> Fabric:
        """The switch, seen anew. Errors: CannotRun, in a guest whose fabric manager has no way in."""
        if _FM not in self.session.witnesses:
            version = (self.session.writer.header.qemu or {}).get("version", "unknown")
            raise CannotRun(
                f"guest {self.name!r} has no way in for a fabric manager (topology {self.guest.shape.kind}, QEMU "
                f"{version}); it takes a switch and QEMU 11.1 or newer: dcd launch NAME --topology switch"
            )
        return Fabric(self.guest)

    # -- what is known of it -------------------------------------------------------------------------------------

    async def _do_info(self, args: Value) -> Value:
        if self.death is None:
            try:
                await self._whole(lambda: self.guest.control("ping", timeout_s=SILENCE_S))
            except (TimedOut, LinkLost, MachineGone):
                await self._doubt()
        header = self.session.writer.header
        return {
            "name": self.name,
            "state": "running" if self.death is None else "gone",
            "death": None if self.death is None else self.death._asdict(),
            "protocol": VERSION,
            "run_dir": str(self.run_dir),
            "since": self.since,
            "seed": header.seed,
            "topology": self.guest.shape.kind,
            "qemu": {**(header.qemu or {}), "pid": self.guest.pid},
            "kernel": self.guest.ready.get("kernel"),
            "devices": list(header.devices),
            "policy": self._policy,
            "clients": self.clients(),
            "operations": self._operations,
        }

    async def _do_check(self, args: Value) -> Value:
        if self.death is None:
            self.guest.drain()
        async with self._checking:
            verdict = await asyncio.to_thread(judged, self.session.writer.path)
        lines = [line for finding in verdict.failed for line in tell(finding)]
        return {"history": str(self.session.writer.path), "verdict": verdict.as_data(), "text": lines}

    async def _do_stop(self, args: Value) -> Value:
        self._stop()
        return {"run_dir": str(self.run_dir)}

    async def _give_events(self, args: Value) -> AsyncIterator[Value]:
        with self.session.writer.path.open("rb") as file:
            line, lines = b"", 0
            while True:
                news = self._news
                line += file.readline(MAX_LINE_BYTES)
                if line.endswith(b"\n"):
                    found: Value = json.loads(line)
                    line, lines = b"", lines + 1
                    if found["n"] >= args["since"]:
                        yield found
                    if not lines % _LINES_A_TURN:
                        await asyncio.sleep(0)
                elif not args["follow"]:
                    return
                else:
                    await news.wait()

    async def _give_console(self, args: Value) -> AsyncIterator[str]:
        async for piece in console.pieces(self.guest.run_dir / CONSOLE_LOG, follow=args["follow"]):
            yield piece

    # -- inside --------------------------------------------------------------------------------------------------

    async def _whole(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it to its end, also when whoever waits for it is cancelled; never beside a reset."""
        return await self._kept(self._gated(work))

    async def _gated(self, work: Callable[[], Awaitable[T]]) -> T:
        async with self._gate.shared():
            return await work()

    async def _kept(self, work: Awaitable[T]) -> T:
        if len(self._under_way) >= MAX_UNDER_WAY:
            if asyncio.iscoroutine(work):
                work.close()
            raise AskedWrongly(f"guest {self.name!r} has {MAX_UNDER_WAY} operations under way; wait for some of them")
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._under_way.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    async def _doubt(self) -> None:
        """Ask whether the guest lives; where it does not, that is written down, once."""
        if self.death is not None:
            return
        async with self._burying:
            if self.death is not None:
                return
            death = self.guest.death or await self._gated(self.guest.diagnose)
            if death is None:
                return
            self.death = death
            if self._under_way:  # what they were doing ends in the history before the guest does
                await asyncio.wait(set(self._under_way), timeout=END_PATIENCE_S)
            writer = self.session.writer
            for device in self.session.devices:
                value = {"device": device, "kind": death.kind, "reason": death.text}
                writer.end(writer.invoke("device", "gone", value), "ok", {"reason": death.text})
            self.guest.end()

    def _alive(self) -> None:
        """Errors: MachineGone, with how it died."""
        if self.death is not None:
            raise MachineGone(
                f"guest {self.name!r} has died ({self.death.kind}): {self.death.text}; "
                "check, events, console and show still tell of it, stop ends it"
            )

    def _serving(self, via: str | None, tag: str | None) -> None:
        """Whether there is an injector for it. Errors: CannotRun, Refused."""
        injectors = self.session.injectors
        if via == "fm":
            self._fabric()
        if tag is not None and not any("tags" in one.serves for one in injectors.values()):
            raise Refused(
                f"tag {tag}: no injector of this guest sends tags (there is {', '.join(injectors)}); leave it out",
                reason="no tags",
            )

    def _region(self, device: str, region: int) -> Mapping[str, int]:
        self.session.dpa(region, 0, device=device)
        found: Mapping[str, int] = next(r for r in self.session.devices[device]["regions"] if r["index"] == region)
        return found

    def _region_of(self, device: str, dpa: int) -> tuple[int, int]:
        """The region that a DPA lies in, and the offset in it."""
        for region in self.session.devices[device]["regions"]:
            if region["base"] <= dpa < region["base"] + region["length"]:
                return region["index"], dpa - region["base"]
        raise Refused(f"{device} lists an extent at 0x{dpa:x}, in none of its regions", reason="outside")

    def _see(self, op: Op) -> None:
        self._room.see(op)
        if op.type != "invoke":
            self._operations += 1
        news, self._news = self._news, asyncio.Event()
        news.set()


def judged(path: Path) -> Verdict:
    """The verdict on a history file, as far as it is written."""
    with path.open("rb") as file:
        return check(History(file))


def _first_policy() -> Value:
    return {"add": {"kind": "accept"}, "release": {"kind": "release"}}


def _pairs(ranges: Iterable[tuple[int, int]]) -> list[list[int]]:
    return [[int(a), int(b)] for a, b in ranges]


def _parts(offered: Iterable[Range], base: int, only: list[Span] | None) -> list[Range]:
    """What of an offer is taken, in its order: all, or these parts of its extents. Errors: AskedWrongly."""
    ranges = list(offered)
    if not only:
        return ranges
    found = []
    for span in only:
        start, end = base + span.offset_bytes, base + span.offset_bytes + span.length_bytes
        place = next((at for at, (a, size) in enumerate(ranges) if a <= start < end <= a + size), None)
        if place is None:
            offer = " ".join([str(Span(a - base, size)) for a, size in ranges])
            raise AskedWrongly(f"{span} lies in no extent of the oldest offer, which is {offer}; nothing was sent")
        found.append((place, start, end))
    found.sort()
    if any(later[1] < earlier[2] for earlier, later in pairwise(found) if earlier[0] == later[0]):
        raise AskedWrongly(f"{' '.join(map(str, only))} overlap; name each byte once; nothing was sent")
    return [(start, end - start) for _, start, end in found]


def _answered(answer: Answer) -> Value:
    return {
        "outcome": answer.outcome,
        "accepted": _pairs(answer.accepted),
        "refused": _pairs(answer.refused),
        "witnesses": _witnesses(answer.witnesses),
    }


def _offsets(spans: Iterable[Span]) -> list[list[int]]:
    return [[span.offset_bytes, span.length_bytes] for span in spans]


def _witnesses(said: Mapping[str, Any]) -> Value:
    host = said["host"]
    return {
        "host": None if host is None else _pairs(host),
        "block": [[start, length, state] for (start, length), state in said["block"].items()],
    }


def _overlap(a: Run, b: Run) -> bool:
    return a.start < b.start + b.length and b.start < a.start + a.length
