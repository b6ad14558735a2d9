"""A scenario as a program of its own: `run_script(name)` at the end of a file makes `python file.py --help` work.

The same function is run that `dcd regress --scenario file.py` runs, by the same runner, on a fresh guest, and judged
the same way. Its keyword-only parameters become options: `rounds: Annotated[int, "how many rounds"] = 8` is `--rounds`.

It is not a second command line: choosing among scenarios, tables and reports are `dcd regress`'s. Standard library
only, so that `--help` is there at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import inspect
import json
import os
import secrets
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from . import asked, image
from .agent.policy import choose_break
from .boot import MAX_SEED, PARTS, Setup, prepare
from .emulated import WARNING, EmulatedSetup
from .errors import AskedWrongly, CannotRun, DcdError
from .rundir import new_run_dir, program
from .scenario import SCENARIOS, Body, Scenario, is_loading
from .scenario.runner import Result, Runner, as_data
from .topology import Kind

OWN_FAULT = 70
INTERRUPTED = 130
EXIT = {"pass": 0, "fail": 1, "unknown": 4, "skipped": 4}
_PARSED = {int: int, float: float, str: str}
_TEXTS = (
    ("--qemu", "Q", "a qemu-system-x86_64, `system` or `private` [env: DCD_QEMU]"),
    ("--kernel", "K", "a bzImage [env: DCD_KERNEL]"),
    ("--initrd", "R", "a root of your own with python3; the agent is appended [env: DCD_INITRD]"),
    ("--accel", "A", "kvm, tcg or auto [env: DCD_ACCEL]"),
    ("--break", "CLAUSE", "have the host break this rule, to see it convicted"),
)
_COMMON = ("topology", "backend", "seed", "qemu", "kernel", "initrd", "accel", "break", "run_dir", "timeout", "json")


def run_script(body: Body, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a scenario by the command line (or by `arguments`), say what came of it, and exit.

    Exit: 0 as expected, known departures included; 1 a rule broken, or the script's own assertion; 2 wrong usage, by
    the command line or by the script; 3 the environment cannot; 4 unknown, or nothing was judged; 70 our own fault.
    """
    if is_loading():
        raise AskedWrongly('run_script is for the program; put it under `if __name__ == "__main__":`')
    sys.exit(_guarded(body, sys.argv[1:] if arguments is None else list(arguments)))


def _guarded(body: Body, arguments: Sequence[str]) -> int:
    """The exit code, whatever happens; what went wrong in one line."""
    try:
        return _main(body, arguments)
    except KeyboardInterrupt:
        return _say("stopped", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except DcdError as error:
        return _say(str(error), error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            if sys.stdout is not None:  # what is still to be flushed would fail again
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            where = error.filename or "what it prints or keeps"
            return _say(f"cannot write {where}: {error.strerror}; free some space", CannotRun.exit_code)
        handle, name = tempfile.mkstemp(prefix="dcd-fault-", suffix=".txt")
        with os.fdopen(handle, "w") as file:
            traceback.print_exception(error, file=file)
        return _say(f"our own fault: {type(error).__name__}: {error}; please report it with {name}", OWN_FAULT)


def _main(body: Body, arguments: Sequence[str]) -> int:
    scenario = _scenario(body)
    parser = _parser(scenario)
    chosen = parser.parse_args(arguments)
    own = {name: getattr(chosen, name) for name in _parameters(body)}
    seed = secrets.randbits(32) if chosen.seed is None else chosen.seed
    choose_break(getattr(chosen, "break"))  # what cannot be is told before anything is booted
    setup, manifest = _setup(chosen, seed)
    directory = new_run_dir(scenario.name, chosen.run_dir)
    (directory / PARTS).write_text(json.dumps(manifest, indent=1) + "\n")
    scenario = replace(scenario, body=partial(body, **own), timeout_s=chosen.timeout)
    with contextlib.redirect_stdout(sys.stderr) if chosen.json else contextlib.nullcontext():
        print(f"run {directory}", flush=True)
        result = asyncio.run(_run(setup, scenario, directory, seed, chosen))
    again = shlex.join(_again(parser, chosen, seed))
    if chosen.json:
        print(json.dumps({"seed": seed, "run": str(directory), "again": again, **as_data(result)}, indent=1))
    else:
        print("\n".join(_told(result, directory, again)))
    return 2 if result.misused else EXIT[result.outcome]


def _setup(chosen: argparse.Namespace, seed: int) -> tuple[Setup | EmulatedSetup, Mapping[str, Any]]:
    """What it runs on, and the manifest of that. Errors: AskedWrongly, CannotRun."""
    if chosen.backend == "qemu":
        parts = image.parts(qemu=chosen.qemu, kernel=chosen.kernel, initrd=chosen.initrd, progress=_Steps())
        return asyncio.run(prepare(parts, accel=chosen.accel, kind=chosen.topology)), parts.manifest
    given = [flag for flag in ("--qemu", "--kernel", "--initrd", "--accel") if getattr(chosen, flag[2:]) is not None]
    if given:
        raise AskedWrongly(f"{', '.join(given)} and --backend emulator, which boots nothing; leave one of the two out")
    _progress(WARNING)
    return EmulatedSetup(kind=chosen.topology, seed=seed), {"backend": "emulator"}


async def _run(
    setup: Setup | EmulatedSetup, scenario: Scenario, directory: Path, seed: int, chosen: argparse.Namespace
) -> Result:
    breaks: str | None = getattr(chosen, "break")
    async with Runner(setup, run_dir=directory, seed=seed, breaks=breaks, on_boot=_progress) as runner:
        return await runner.run(scenario)


def _told(result: Result, directory: Path, again: str) -> Iterator[str]:
    if result.verdict is not None:
        yield str(result.verdict)
    if result.emulated:
        yield WARNING
    yield f"{result.scenario.name}: {result.outcome}{f': {result.reason}' if result.reason else ''}"
    yield f"judge it again, without a machine: dcd check {shlex.quote(str(directory))}"
    yield f"again: {again}"


# -- the command line --------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """One line for what is wrong, as everywhere here."""

    def error(self, message: str) -> NoReturn:
        raise AskedWrongly(f"{message} (see --help)")


def _scenario(body: Body) -> Scenario:
    """What `@scenario` registered for that function. Errors: AskedWrongly."""
    found = next((one for one in SCENARIOS.values() if one.body is body), None)
    if found is None:
        name = getattr(body, "__name__", str(body))
        raise AskedWrongly(f"{name} is no scenario; put @scenario() over `async def {name}(bench)`")
    code = getattr(body, "__code__", None)
    return replace(found, origin=Path(code.co_filename).resolve() if code is not None else Path(sys.argv[0]))


def _parser(scenario: Scenario) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=Path(sys.argv[0]).name,
        description=inspect.cleandoc(scenario.body.__doc__ or ""),
        epilog="Exit: 0 as expected, 1 a rule broken, 2 wrong usage, 3 the environment cannot, 4 unknown.",
        formatter_class=partial(argparse.HelpFormatter, width=110, max_help_position=28),
        allow_abbrev=False,
    )
    own = parser.add_argument_group("the script's own options")
    for name, (kind, default, text) in _parameters(scenario.body).items():
        flag = f"--{name.replace('_', '-')}"
        if kind is bool:
            own.add_argument(flag, dest=name, default=default, action=argparse.BooleanOptionalAction, help=text)
        elif get_origin(kind) is Literal:
            own.add_argument(flag, dest=name, default=default, choices=get_args(kind), help=text)
        else:
            own.add_argument(flag, dest=name, default=default, type=_PARSED[kind], metavar=name.upper(), help=text)
    run = parser.add_argument_group("the run")
    kinds = get_args(Kind)
    run.add_argument(
        "--topology", default=kinds[0], choices=kinds, help="where the devices hang (default: %(default)s)"
    )
    run.add_argument("--backend", default="qemu", choices=("qemu", "emulator"), help="the emulator needs no QEMU")
    run.add_argument("--seed", type=_seed, metavar="N", help="make the same choices again")
    for flag, metavar, text in _TEXTS:
        run.add_argument(flag, metavar=metavar, help=text)
    run.add_argument("--run-dir", type=Path, metavar="DIR", help="where the run is kept; a fresh directory by default")
    limit = scenario.timeout_s
    run.add_argument("--timeout", type=_seconds, default=limit, metavar="S", help="give up then (default: %(default)g)")
    run.add_argument("--json", action="store_true", help="print the result as JSON, all else on stderr")
    return parser


def _parameters(body: Body) -> dict[str, tuple[Any, Any, str]]:
    """The options that a scenario's own parameters make: type, default and help of each. Errors: AskedWrongly."""
    try:
        hints = get_type_hints(body, include_extras=True)
    except NameError as error:
        raise AskedWrongly(f"the annotations of {getattr(body, '__name__', body)} cannot be read: {error}") from error
    found = {}
    for parameter in list(inspect.signature(body).parameters.values())[1:]:
        kind, text = hints.get(parameter.name, str), ""
        if get_origin(kind) is Annotated:
            kind, *notes = get_args(kind)
            text = next((note.replace("%", "%%") for note in notes if isinstance(note, str)), text)
        known = kind in (*_PARSED, bool) or (
            get_origin(kind) is Literal and all(isinstance(word, str) for word in get_args(kind))
        )
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty or not known:
            raise AskedWrongly(
                f"parameter {parameter.name!r} of {getattr(body, '__name__', body)}: write it after a `*`, with a "
                "default, as int, float, str, bool or Literal of words"
            )
        if parameter.name in _COMMON:
            raise AskedWrongly(f"parameter {parameter.name!r}: every script has --{parameter.name}; take another name")
        found[parameter.name] = (kind, parameter.default, f"{text} (default: %(default)s)".strip())
    return found


def _seconds(text: str) -> float:
    try:
        return asked.seconds(float(text))
    except (ValueError, AskedWrongly):
        raise argparse.ArgumentTypeError(f"{text!r}; give 0 to {asked.MAX_TIMEOUT_S:g} seconds") from None


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is no seed; give 0 to {MAX_SEED}")
    return int(text)


def _again(parser: argparse.ArgumentParser, chosen: argparse.Namespace, seed: int) -> list[str]:
    """The command that makes this run once more: what differs from the defaults, and the seed."""
    argv = [*program(), "--seed", str(seed)]
    for name, value in vars(chosen).items():
        if name in ("seed", "run_dir", "json") or value == parser.get_default(name):
            continue
        flag = f"--{name.replace('_', '-')}"
        argv += [flag if value else f"--no-{flag[2:]}"] if isinstance(value, bool) else [flag, str(value)]
    return argv


# -- what is said ------------------------------------------------------------------------------------------------------


def _say(text: str, code: int) -> int:
    print(f"{Path(sys.argv[0]).name}: {text}".replace("\n", " "), file=sys.stderr)
    return code


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Steps:
    """Says each step of a build once."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, step: image.Step) -> None:
        if step.what != self._last:
            self._last = step.what
            _progress(step.what)
