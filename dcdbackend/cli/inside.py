"""`dcd exec` and `dcd reset`: a command in a launched guest, and the guest begun anew."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..errors import AskedWrongly
from . import drive, out

TIMED_OUT = 124
"""As timeout(1) has it."""
_SIGNAL = 128


def execute(
    name: drive.Name,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its words.")],
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="Kill it after so long; 30 by default.")
    ] = None,
    as_json: out.Json = False,
) -> int:
    """Run a command in the guest, as root, through the agent: no network, no ssh. Options come before NAME.

    There is busybox and python3; for pipes: -- sh -c '...'. Exit: the command's own; 128 + n where signal n ended it;
    124 where it was killed after --timeout; 2, 3 or 4 and a line that begins with `dcd:` where it was not run. JSON:
    {"exit", "stdout", "stderr", "cut": bytes of output that were too many, "timed_out"}.
    """
    argv = command[1:] if command[:1] == ["--"] else command
    if not argv:
        raise AskedWrongly(f"give the command: dcd exec {name} -- cat /proc/version")
    try:
        found = drive.call(name, "exec", argv=argv, timeout_s=timeout)
    except AskedWrongly as error:
        error.message = error.message.partition("; sent: ")[0]  # the words are on the user's own line
        raise
    code = TIMED_OUT if found["timed_out"] else found["exit"] if found["exit"] >= 0 else _SIGNAL - found["exit"]
    if as_json:
        out.data(found)
        return int(code)
    for stream, text in ((sys.stdout, found["stdout"]), (sys.stderr, found["stderr"])):
        stream.flush()
        stream.buffer.write(text.encode("utf-8", "surrogateescape"))
        stream.buffer.flush()
    out.fresh(found["stderr"] or found["stdout"])
    if found["cut"]:
        out.note(f"dcd: {found['cut']} more bytes of output were cut; write them to a file in the guest")
    if found["timed_out"]:
        out.note("dcd: it was killed after its time was over; give more with --timeout")
    out.following("events", name)
    return int(code)


def reset(name: drive.Name, as_json: out.Json = False) -> int:
    """Reset the guest; back when its new agent is ready. Its policies begin anew: accept and release.

    What becomes of offers and extents is the device's to say, and recorded. JSON: {"kernel"}.
    """
    found = drive.call(name, "reset")
    if as_json:
        out.data(found)
        return 0
    out.line(f"{name} was reset; kernel {found['kernel']}")
    out.following("show", name)
    return 0
