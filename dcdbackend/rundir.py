"""Where runs are kept: a directory of its own for each, never shared, never a fixed name.

`--run-dir` says where; else DCD_RUNS, else the XDG state directory. Directories are 0700: sockets live in them.
"""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import time
from pathlib import Path

from .errors import CannotRun

COMMAND = "dcd.txt"


def runs_dir() -> Path:
    """The directory that holds the runs: DCD_RUNS, else $XDG_STATE_HOME/dcdbackend/runs."""
    given = os.environ.get("DCD_RUNS")
    if given:
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state) / "dcdbackend" / "runs"


def program() -> list[str]:
    """How this program is started, without its arguments: `dcd`, or `python mine.py` for a script."""
    name = Path(sys.argv[0]).name
    return ["python", sys.argv[0]] if name.endswith(".py") and name != "__main__.py" else ["dcd"]


def new_run_dir(verb: str, given: Path | None = None) -> Path:
    """A fresh directory for one run, with the command line that began it. Errors: CannotRun."""
    if given is not None:
        path = given
    else:
        path = runs_dir() / f"{time.strftime('%Y%m%d-%H%M%S')}-{verb}-{secrets.token_hex(3)}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=given is not None)
        if any(path.iterdir()):
            raise CannotRun(f"{path} is not empty; a run needs a directory of its own")
        path.chmod(0o700)
        (path / COMMAND).write_text(shlex.join([*program(), *sys.argv[1:]]) + "\n")
    except OSError as error:
        raise CannotRun(
            f"cannot use {path} for the run: {error.strerror}; choose another --run-dir, or set DCD_RUNS"
        ) from error
    return path.absolute()
