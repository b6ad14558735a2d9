"""The command line: verbs, one module each; what they print and how they end.

Exit codes: 0 everything as expected, known departures included; 1 a rule broken, or a departure no longer seen; 2 wrong
usage; 3 the environment cannot; 4 an unexpected unknown, or nothing was judged; 70 our own fault. Whatever goes wrong
ends in one line on stderr: no traceback reaches a user unless DCD_TRACEBACK is set.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import CannotRun, DcdError


class Stopped(Exception):
    """Ctrl-C, on its way out of a verb."""


UsageProblem = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""Whatever is wrong with a command line; Typer's newer versions carry a Click of their own."""
OWN_FAULT = 70
INTERRUPTED = 130

VERBS: Mapping[str, str] = {
    "regress": "regress.regress",
    "emulate": "emulate.emulate",
    "simulate": "simulate.simulate",
    "fuzz": "fuzz.fuzz",
    "check": "check.check",
    "explain": "explain.explain",
    "compare-policies": "compare.compare",
    "rules": "rules.rules",
    "doctor": "doctor.doctor",
    "launch": "launch.launch",
    "list": "launch.listed",
    "stop": "launch.stop",
    "add": "capacity.add",
    "release": "capacity.release",
    "answer": "capacity.answer",
    "policy": "policy.policy",
    "show": "show.show",
    "read": "data.read",
    "write": "data.write",
    "fm": "fm.app",
    "events": "events.events",
    "console": "events.console",
    "exec": "inside.execute",
    "reset": "inside.reset",
    "decode": "decode.decode",
    "encode": "decode.encode",
    "image": "image.app",
    "kernel": "kernel.app",
}
"""Every verb and where it is: a function or a group (`typer.Typer`) of a module in this package. A module is imported
when its verb is typed, so none pays for the others."""


SETTINGS: Mapping[str, dict[str, Any]] = {"exec": {"allow_interspersed_args": False}}
"""Verbs whose command line is not read as all others are: after NAME everything is the guest's."""


class Verbs(TyperGroup):
    """The verbs of the table, each made when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands and cmd_name in VERBS:
            module, _, attribute = VERBS[cmd_name].partition(".")
            found = getattr(import_module(f"{__name__}.{module}"), attribute)
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            if isinstance(found, typer.Typer):
                alone.add_typer(found, name=cmd_name)
            else:
                alone.command(cmd_name, context_settings=SETTINGS.get(cmd_name))(found)
            self.commands[cmd_name] = typer.main.get_group(alone).commands[cmd_name]
        return self.commands.get(cmd_name)

    def invoke(self, ctx: Any) -> Any:
        """As ever; but Ctrl-C leaves as itself, and not as Typer's exit code, which a verb may have of its own."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped from None

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """The verbs' names from the table: completing one imports none."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        item = import_module(f"{UsageProblem.__module__.rpartition('.')[0]}.shell_completion").CompletionItem
        return [item(name) for name in VERBS if name.startswith(incomplete)]


app = typer.Typer(
    name="dcd",
    cls=Verbs,
    help="A bench for CXL Dynamic Capacity: boots a guest with a DCD, injects extents, judges every answer by rule.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def dcd() -> None:
    """A group even while none of its verbs is made."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code. Nothing but a code comes out of here."""
    _standard()
    try:
        result = app(args=list(arguments), standalone_mode=False, prog_name="dcd")
        return result if isinstance(result, int) else 0
    except typer.Exit as error:
        return error.exit_code
    except typer.Abort:
        return _say("dcd: stopped", INTERRUPTED)
    except (KeyboardInterrupt, Stopped):
        return _say("dcd: stopped", INTERRUPTED)
    except DcdError as error:
        if "DCD_TRACEBACK" in os.environ:
            traceback.print_exc()
        return _say(f"dcd: {error}", error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _full(error)
        if isinstance(error, UsageProblem):
            problem: Any = error
            if type(error).__name__ == "NoArgsIsHelpError":  # help, in as many lines as it has
                print(problem.format_message(), file=sys.stderr)  # noqa: T201 (the command line's own output)
                return 2
            usage = getattr(error, "ctx", None)
            where = f" (see {usage.command_path} --help)" if usage is not None else ""
            return _say(f"dcd: {problem.format_message()}{where}", 2)
        return _say(f"dcd: our own fault: {type(error).__name__}: {error}; {_kept(error)}", OWN_FAULT)


def _standard() -> None:
    """A standard stream that is closed leads nowhere; else what is opened next would take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 (as long as the process lives)


def _say(text: str, code: int) -> int:
    print(text.replace("\n", " "), file=sys.stderr)  # noqa: T201 (the command line's own output)
    return code


def _full(error: OSError) -> int:
    """Somewhere there is no room: in a file, or where the standard output goes."""
    where = error.filename or "what it prints or keeps"
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed would fail again
    return _say(f"dcd: cannot write {where}: {error.strerror}; free some space", CannotRun.exit_code)


def _kept(error: Exception) -> str:
    """Where the traceback went: a user gets a line to report, and a developer the whole."""
    if "DCD_TRACEBACK" in os.environ:
        traceback.print_exc()
        return "the traceback is above"
    handle, name = tempfile.mkstemp(prefix="dcd-fault-", suffix=".txt")
    with os.fdopen(handle, "w") as file:
        traceback.print_exception(error, file=file)
    return f"please report it with {Path(name)}"
