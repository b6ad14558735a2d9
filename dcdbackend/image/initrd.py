"""The initrd of a boot: a base archive, then the agent's, then what a kernel under test needs besides, in one file.

The agent's archive is this package as far as the guest needs it, its bytecode by the guest's own interpreter, and
`/init`. It is made again whenever one of its sources changes, in under a second; nothing of it is in the base. The
kernel unpacks both into one directory, the second over the first, so it also goes after a user's own archive.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import AskedWrongly
from . import archive, cache, product
from .modules import Chosen
from .recipe import digest, directory
from .step import Progress, Step

KEPT = 8
"""Files of about 20 MB; the oldest go."""

_FORMAT = 1
_PACKAGE = Path(__file__).resolve().parents[1]
_HOME = "dcd"
_START = ("agent", "agent.__main__")
_UNDER_TEST = "agent.kernel"
_INIT = '"""The part of dcdbackend that runs in the guest."""\n'


class Third(NamedTuple):
    """What goes into the third archive: the agent's part for a kernel under test, kernel modules."""

    under_test: bool = False
    modules: Chosen | None = None


NO_THIRD = Third()


def ours(entry: Path, progress: Progress, third: Third = NO_THIRD) -> Path:
    """The initrd for a guest of the cache."""
    return _joined(entry / product.BASE, digest(entry.name.encode()), entry / product.TREE, progress, third)


def appended(base: Path, tree: Path | None, progress: Progress, third: Third = NO_THIRD) -> Path:
    """A user's own archive and the agent's after it. Compiled where the guest of the cache is there to do it (python of
    another version passes such bytecode over). Errors: AskedWrongly."""
    try:
        with base.open("rb") as file:
            identity = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AskedWrongly(
            f"initrd {str(base)!r} cannot be read ({error.strerror}); give a cpio archive, compressed or not"
        ) from error
    return _joined(base, identity, tree, progress, third)


def sources() -> dict[str, bytes]:
    """Path (relative to the package) and content of every file that goes along: whatever the agent imports, and what
    that imports, wherever the import stands. The package's own `__init__` stays: it serves the controller.

    Without the agent's room for a kernel under test, and what only that imports: see `further`."""
    return _closure(_START, without=_UNDER_TEST)


def further() -> dict[str, bytes]:
    """As `sources`: what the agent imports besides where the kernel's own drivers are the host."""
    plain = sources()
    return {name: data for name, data in _closure((*_START, _UNDER_TEST)).items() if name not in plain}


def _closure(start: Sequence[str], without: str = "") -> dict[str, bytes]:
    """The modules of that name and what they import, by path; `without`: a room that nobody enters."""
    found = {"__init__.py": _INIT.encode()}
    todo = list(start)
    while todo:
        name = todo.pop()
        path = _path(name)
        relative = path.relative_to(_PACKAGE).as_posix() if path else ""
        if path is None or relative in found or (without and f"{name}.".startswith(f"{without}.")):
            continue
        data = path.read_bytes()
        found[relative] = data
        for imported in _imports(name if path.name == "__init__.py" else name.rpartition(".")[0], data):
            parts = imported.split(".")
            todo += (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return dict(sorted(found.items()))


def _path(name: str) -> Path | None:
    """The file of a module of this package; None if there is no such module (a name imported from one, say)."""
    place = _PACKAGE.joinpath(*name.split("."))
    paths = (place / "__init__.py", place.with_suffix(".py"))
    return next((path for path in paths if name and path.is_file()), None)


@functools.lru_cache(maxsize=512)
def _imports(package: str, data: bytes) -> tuple[str, ...]:
    """What might be modules of this package, as names in it, among the imports of a module in `package`."""
    return tuple(_names(package, data))


def _names(package: str, data: bytes) -> Iterator[str]:
    own = _PACKAGE.name
    for node in ast.walk(ast.parse(data)):
        if isinstance(node, ast.Import):
            yield from (name.name.removeprefix(f"{own}.") for name in node.names if name.name.startswith(f"{own}."))
        elif isinstance(node, ast.ImportFrom):
            full = f"{own}.{package}".rstrip(".").split(".")
            base = full[: len(full) - node.level + 1] if node.level else []
            whole = ".".join([*base, node.module or ""]).rstrip(".")
            if whole == own or whole.startswith(f"{own}."):
                inside = whole.removeprefix(own).lstrip(".")
                yield from (f"{inside}.{name.name}".lstrip(".") for name in node.names)


def agent_archive(made: Path, tree: Path | None) -> Iterator[archive.Entry]:
    """The entries of the agent's archive; `made` is a directory to work in."""
    yield archive.file("init", (directory() / "init").read_bytes(), executable=True)
    yield from _compiled(made / "agent", sources(), tree)


def third_archive(made: Path, tree: Path | None, third: Third) -> Iterator[archive.Entry]:
    """The entries of the third archive, none where nothing is needed. Errors: AskedWrongly, CannotRun."""
    if third.under_test:
        yield from _compiled(made / "third", further(), tree)
    if third.modules is not None:
        yield from third.modules.entries()


def _compiled(root: Path, files: Mapping[str, bytes], tree: Path | None) -> Iterator[archive.Entry]:
    """The package's files as the guest has them, with their bytecode."""
    for name, data in files.items():
        path = root / _HOME / _PACKAGE.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if tree is not None:
        product.compile_python(tree, "agent", root, _HOME)
    yield from archive.from_tree(root)


def _joined(base: Path, identity: str, tree: Path | None, progress: Progress, third: Third) -> Path:
    """From the cache, if nothing has changed since; else made."""
    inputs = [(directory() / name).read_bytes() for name in ("init", "compile.py")]
    inputs += [piece for name, data in sources().items() for piece in (name.encode(), data)]
    if third.under_test:
        inputs += [b"third", *(piece for name, data in further().items() for piece in (name.encode(), data))]
    if third.modules is not None:
        inputs += [b"modules", *(piece for one in third.modules.entries() for piece in (one.name.encode(), one.data))]
    key = digest(b"%d" % _FORMAT, identity.encode(), str(tree and tree.parent.name).encode(), *inputs)
    home = cache.directory() / "initrd"
    final = home / f"{key}.cpio"
    if final.is_file():
        os.utime(final)
        return final
    progress(Step("initrd: packing the agent"))
    with cache.told(), cache.scratch() as made:
        out = made.path / final.name
        with out.open("wb") as file:
            with base.open("rb") as given:
                shutil.copyfileobj(given, file)
            file.write(archive.padding(file.tell()))
            archive.write(file, agent_archive(made.path, tree))
            if third != NO_THIRD:
                archive.write(file, third_archive(made.path, tree, third))
        cache.place_file(out, final)
        for path in sorted(home.glob("*.cpio"), key=_used)[:-KEPT]:
            path.unlink(missing_ok=True)
    return final


def _used(path: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime
    return 0.0
