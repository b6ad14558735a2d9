"""Scenarios from files: a user's script, and the scripts of a checkout.

A script is loaded as a module that is not the program (`if __name__ == "__main__"` is not run), once for each file.
What it registers joins the scenarios under its own names; which of them run is `choose`'s to say. Its directory is
searched after all others for what it imports.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from ..errors import AskedWrongly, DcdError
from . import loading

SCRIPTS = "qmp_scripts"
_PACKAGE = Path(__file__).resolve().parents[1]
_loaded: dict[Path, tuple[str, ...]] = {}


def is_script(text: str) -> bool:
    """Whether a `--scenario` means a file rather than a name or a pattern."""
    return text.endswith(".py") or "/" in text


def load(path: Path) -> tuple[str, ...]:
    """The names of the scenarios in a script, which are registered then; at least one. Errors: AskedWrongly."""
    try:
        file = path.expanduser().resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise AskedWrongly(f"script {str(path)!r} cannot be read ({_why(error)}); give a file, like mine.py") from error
    if file not in _loaded:
        with loading(file) as found:
            _execute(path, file)
        if not found:
            raise AskedWrongly(f"{path} has no scenario; put @scenario() over an `async def name(bench)` in it")
        _loaded[file] = tuple(found)
    return _loaded[file]


def scripts() -> tuple[Path, ...]:
    """The scripts of the checkout that this package is in; none where it was installed without one."""
    home = _PACKAGE.parent
    return tuple(sorted((home / SCRIPTS).glob("*.py"))) if (home / "pyproject.toml").is_file() else ()


def named(patterns: Iterable[str]) -> list[str]:
    """The patterns, with the scenarios of each script (or directory of scripts) among them in its place.

    Those of the checkout's scripts are known afterwards, whatever the patterns. Errors: AskedWrongly.
    """
    for script in scripts():
        load(script)
    wanted: list[str] = []
    for pattern in patterns:
        if not is_script(pattern):
            wanted.append(pattern)
            continue
        path = Path(pattern)
        files = sorted(path.glob("*.py")) if path.is_dir() else [path]
        if not files:
            raise AskedWrongly(f"{path} holds no script; give a Python file, or a directory of such")
        for file in files:
            wanted += load(file)
    return wanted


def _execute(path: Path, file: Path) -> None:
    """Run a script as a module of its own. Errors: AskedWrongly, with the line that ended it."""
    name = f"dcd_script_{file.stem}_{sha256(str(file).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise AskedWrongly(f"script {str(path)!r} is no Python file; give one whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SystemExit as error:
        del sys.modules[name]
        raise AskedWrongly(
            f'{where(error, file)} ends the program when it is loaded; put it under `if __name__ == "__main__":`'
        ) from error
    except AskedWrongly as error:
        del sys.modules[name]
        raise AskedWrongly(f"{where(error, file)}: {error.message}") from error
    except Exception as error:
        del sys.modules[name]
        raise AskedWrongly(f"{where(error, file)} cannot be loaded: {told(error)}") from error


def where(error: BaseException, file: Path) -> str:
    """The last line of that file on the way to an error: `mine.py:7`."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    line = frames[-1].lineno if frames else getattr(error, "lineno", None)
    return file.name if line is None else f"{file.name}:{line}"


def told(error: BaseException) -> str:
    """An error's kind and words in one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}".replace("\n", " ") if not isinstance(error, DcdError) else error.message


def _why(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
