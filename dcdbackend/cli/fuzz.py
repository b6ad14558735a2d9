"""`dcd fuzz`: many operations, legal and illegal, to a real QEMU and to the emulator behaving as that QEMU.

It chooses parts, shows progress and findings, and keeps them; the operations are `workload`'s, comparing and making
short `differential`'s. What QEMU is known to die of is left out, and shown at the end by itself with `--deadly`.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .. import image
from ..boot import MAX_SEED, Setup, prepare
from ..differential import (
    SEQUENCE,
    Differential,
    EmulatorSide,
    Finding,
    Played,
    SocketSide,
    Tally,
    finding_of,
    qemu_side,
    read_replay,
    worst_first,
)
from ..emulator.machine import Behaviour, behaviour
from ..errors import AskedWrongly
from ..rundir import new_run_dir
from ..workload import Choices, Operation, make
from . import out
from .progress import progress

VERDICT = "findings.json"
MAX_OPS = 10_000_000
DEADLY = ("deadly.empty-answer", "deadly.qmp-wraps")
_SAY_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the command line asks for."""

    ops: int
    seed: int
    length: int
    shrink: bool
    resets: bool
    socket: bool
    deadly: bool
    replay: tuple[Operation, ...] | None


def fuzz(
    ops: Annotated[int, typer.Option("--ops", "-n", help="How many operations.", min=1, max=MAX_OPS)] = 2000,
    seed: Annotated[int | None, typer.Option(help="Run the same operations again.", min=0, max=MAX_SEED)] = None,
    length: Annotated[int, typer.Option(help="Operations from one empty device on.", min=1, max=10_000)] = SEQUENCE,
    qemu: Annotated[
        str | None, typer.Option(help="A qemu-system-x86_64, `system`, or `private`. [env: DCD_QEMU]")
    ] = None,
    behaves: Annotated[
        str | None, typer.Option("--as", help="What to hold it against: strict, or qemu-X.Y.Z; its own by default.")
    ] = None,
    regions: Annotated[int, typer.Option(help="DC regions of the device, 1 to 8.")] = 2,
    size: Annotated[str, typer.Option(help="Its dynamic capacity, a multiple of 256M for each region.")] = "2G",
    kernel: Annotated[str | None, typer.Option(help="A bzImage. [env: DCD_KERNEL]")] = None,
    initrd: Annotated[str | None, typer.Option(help="A root of your own with python3. [env: DCD_INITRD]")] = None,
    accel: Annotated[str | None, typer.Option(help="kvm, tcg or auto. [env: DCD_ACCEL]")] = None,
    shrink: Annotated[bool, typer.Option(help="Make what differs as short as it can be made.")] = True,
    resets: Annotated[bool, typer.Option(help="Reset the machine now and then.")] = False,
    deadly: Annotated[
        bool, typer.Option(help="Then send what QEMU is known to die of, each on a fresh guest.")
    ] = False,
    socket: Annotated[bool, typer.Option(help="Drive the emulator over its socket, too.")] = False,
    replay: Annotated[
        Path | None, typer.Option(help="Only the operations of this file, as a finding keeps them.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where the run is kept; a fresh directory by default.")] = None,
    as_json: out.Json = False,
) -> int:
    """Compare a QEMU's device with the reference model, operation by operation, and shorten what differs.

    Exit: 0 nothing differs; 1 something does, or QEMU died of what is not known to kill it; 2 wrong usage; 3 the
    environment cannot.
    """
    operations = None if replay is None else _read(replay)
    asked = Asked(
        ops=ops,
        seed=secrets.randbits(32) if seed is None else seed,
        length=length,
        shrink=shrink,
        resets=resets,
        socket=socket,
        deadly=deadly,
        replay=operations,
    )
    err = Console(stderr=True, highlight=False)
    with progress(err) as step:
        parts = image.parts(qemu=qemu, kernel=kernel, initrd=initrd, progress=step)
    setup = asyncio.run(prepare(parts, accel=accel, shape={"regions": regions, "size": size}))
    own = behaviour(behaves or f"qemu-{setup.qemu.version.split()[0]}")
    directory = new_run_dir("fuzz", run_dir)
    began = time.monotonic()
    tally, findings = asyncio.run(_run(setup, own, asked, directory, err))
    _keep(directory, findings)
    report = _report(setup, own, asked, tally, findings, time.monotonic() - began)
    (directory / VERDICT).write_text(json.dumps(report, indent=1) + "\n")
    if as_json:
        out.data(report)
    else:
        _show(report, findings, directory, _again(asked, replay, qemu))
    return 1 if any(not _is_known(one) for one in findings) else 0


def _read(path: Path) -> tuple[Operation, ...]:
    try:
        return read_replay(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise AskedWrongly(f"{path} cannot be read ({error}); give a file that dcd fuzz wrote") from None


async def _run(
    setup: Setup, own: Behaviour, asked: Asked, directory: Path, err: Console
) -> tuple[Tally, list[Finding]]:
    shape = setup.topology()
    err.print(f"booting QEMU {setup.qemu.version} ({setup.accel}); held against {own.name}", markup=False)
    async with qemu_side(setup, directory) as qemu:
        emulator = SocketSide(shape, own, directory) if asked.socket else EmulatorSide(shape, own)
        async with emulator:
            compared = Differential(emulator, qemu, shape)
            if asked.replay is not None:
                return compared.tally, _of(await compared.replay(asked.replay, spare=False))
            await compared.run(
                asked.ops,
                asked.seed,
                length=asked.length,
                shrink=asked.shrink,
                resets=asked.resets,
                on_step=_Teller(err, asked.ops, compared),
            )
            findings = worst_first(compared.findings.values())
            for kind in DEADLY if asked.deadly else ():
                operation = make(kind, Choices(asked.seed), emulator.device)
                if operation is not None:
                    findings += _of(await compared.replay([operation], spare=False), death=True)
            return compared.tally, findings


def _of(played: Played, *, death: bool = False) -> list[Finding]:
    """What a replay found: a difference, or a death that both sides told."""
    found = finding_of(played, death=death)
    return [] if found is None else [found]


class _Teller:
    """One line now and then, on stderr."""

    def __init__(self, err: Console, ops: int, compared: Differential) -> None:
        self._err, self._ops, self._compared = err, ops, compared
        self._began = self._said = time.monotonic()

    def __call__(self, tally: Tally) -> None:
        now = time.monotonic()
        if now - self._said >= _SAY_S:
            self._said = now
            rate = tally.operations / (now - self._began)
            found = len(self._compared.findings)
            self._err.print(f"{tally.operations}/{self._ops} operations, {rate:.0f} a second, {found} findings")


def _is_known(finding: Finding) -> bool:
    """A death that the emulator foretold by a departure's name."""
    return finding.difference.emulator.end == finding.difference.qemu.end == "gone"


def _keep(directory: Path, findings: list[Finding]) -> None:
    for number, finding in enumerate(findings, 1):
        (directory / f"finding-{number}.txt").write_text(finding.script())
        (directory / f"finding-{number}.jsonl").write_text(finding.replay())


def _report(
    setup: Setup, own: Behaviour, asked: Asked, tally: Tally, findings: list[Finding], seconds: float
) -> dict[str, Any]:
    return {
        "qemu": setup.qemu.version,
        "held_against": own.name,
        "seed": asked.seed,
        "operations": tally.operations,
        "refused": tally.refused.total(),
        "sequences": tally.sequences,
        "questions": tally.questions,
        "seconds": round(seconds, 1),
        "kinds": {kind: [count, tally.refused[kind]] for kind, count in sorted(tally.kinds.items())},
        "findings": [
            {
                "signature": one.signature,
                "known": _is_known(one),
                "times": one.times,
                "operations": len(one.operations),
                "found_in": one.length_found,
                "found_at": list(one.found_at),
            }
            for one in findings
        ],
    }


def _show(report: dict[str, Any], findings: list[Finding], directory: Path, again: str) -> None:
    rate = report["operations"] / max(report["seconds"], 0.1)
    out.line(
        f"QEMU {report['qemu']} against {report['held_against']}: {report['operations']} operations "
        f"({report['refused']} refused) in {report['sequences']} sequences, {report['questions']} questions, "
        f"{report['seconds']} s, {rate:.0f} operations a second"
    )
    for number, finding in enumerate(findings, 1):
        known = "known to kill" if _is_known(finding) else f"{finding.times} times"
        out.line("")
        out.line(
            f"finding {number} ({known}), {len(finding.operations)} of {finding.length_found} operations: "
            f"{directory / f'finding-{number}.txt'}"
        )
        out.line(finding.script().rstrip())
    out.line("")
    out.line(f"{sum(not _is_known(one) for one in findings)} differences")
    out.note(f"run {directory}")
    out.note(f"again: {again}")
    if findings:
        out.following("fuzz", "--replay", str(directory / "finding-1.jsonl"))


def _again(asked: Asked, replay: Path | None, qemu: str | None) -> str:
    argv = ["dcd", "fuzz"]
    argv += ["--replay", str(replay)] if replay is not None else ["--ops", str(asked.ops), "--seed", str(asked.seed)]
    if asked.length != SEQUENCE:
        argv += ["--length", str(asked.length)]
    argv += ["--resets"] if asked.resets else []
    argv += ["--deadly"] if asked.deadly else []
    return shlex.join([*argv, *(["--qemu", qemu] if qemu is not None else [])])
