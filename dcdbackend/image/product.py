"""From packages to a private QEMU, to the guest (kernel, base, the guest's python to compile with), to a kernel alone.

Deliberately dull: take the wanted files, leave the rest, compile, pack, write the manifest. The same packages and
recipes give the same bytes (`content` is their hash). Which packages, which files and why: `images/`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import CannotRun
from . import archive, cache, mirror, modules
from .recipe import Kind, Recipe, directory, load
from .step import Progress, Step

KERNEL = "vmlinuz"
CONFIG = "config"
BASE = "base.cpio"
TREE = "tree"

_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = f"{_LIBRARIES}/ld-linux-x86-64.so.2"
_MADE = "made"
_RUN_S = 120.0
_DIRECTORIES = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "var")
_LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}
_APPLETS = (
    "cat", "cut", "dd", "dmesg", "echo", "env", "find", "free", "grep", "head", "hexdump", "id", "insmod", "kill", "ln",
    "ls", "lsmod", "mkdir", "mount", "od", "poweroff", "ps", "pwd", "rm", "rmmod", "sed", "sh", "sleep", "sort", "tail",
    "tee", "touch", "tr", "umount", "uname", "uptime", "wc",
)  # fmt: skip
"""What `dcd exec` finds by name; busybox has more behind its own."""


def ensure(kind: Kind, *, refresh: bool, progress: Progress) -> Path:
    """The entry for today's recipe, built if it is not there or a refresh is asked. Errors: CannotRun."""
    return of(load(kind), refresh=refresh, progress=progress)


def of(recipe: Recipe, *, refresh: bool, progress: Progress) -> Path:
    """The entry for a recipe, as `ensure`. Errors: CannotRun."""
    found = cache.entry(recipe.kind, recipe.key)
    if found and not refresh:
        return found
    with cache.told(mirror.need(recipe)), cache.turn(recipe.kind, recipe.key, progress):
        now = cache.entry(recipe.kind, recipe.key)
        if now and (not refresh or now != found):
            return now  # another process has built it while we waited
        _refuse_early(recipe)
        with cache.scratch() as made:
            return _build(recipe, made, progress)


def qemu_argv(entry: Path) -> tuple[str, ...]:
    """How to start the private QEMU on any Debian: through its own loader, with its own libraries and firmware."""
    tree = entry / TREE
    return (
        *_loaded(tree, tree / "usr/bin/qemu-system-x86_64"),
        *("-L", str(tree / "usr/share/qemu"), "-L", str(tree / "usr/share/seabios")),
    )


def compile_python(entry_tree: Path, kind: str, root: Path, *directories: str) -> None:
    """Run images/compile.py with the guest's own interpreter. Errors: CannotRun (it does not run here)."""
    python = entry_tree / "usr/bin" / (entry_tree / "usr/bin/python3").readlink()
    command = (*_loaded(entry_tree, python), "-SsB", str(directory() / "compile.py"), kind, str(root), *directories)
    own = {"PYTHONHOME": str(entry_tree / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    _run(command, env=own)


def _build(recipe: Recipe, made: cache.Scratch, progress: Progress) -> Path:
    """Fetch, make, describe, place."""
    began = time.monotonic()
    source = mirror.find()
    for path, current in cache.entries(recipe.kind):
        if not current and path.name.startswith(recipe.key):
            cache.discard(made, path)  # the one before last: a guest started from the last may still be running
    root = made.path / "root"
    log = cache.directory() / f"{recipe.kind}-build.log"
    packages = mirror.fetch(source, recipe, root, log=log, keep_open=(made.handle,), progress=progress)
    fetched = time.monotonic()
    progress(Step(f"{recipe.kind}: putting it together"))
    out = made.path / _MADE
    out.mkdir()
    _prune(root, recipe)
    content, about = _MAKERS[recipe.kind](root, out)
    manifest = {
        "kind": recipe.kind,
        "recipe": recipe.key,
        "content": content,
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "mirror": source.uri,
        "seconds": {"fetch": round(fetched - began, 1), "build": round(time.monotonic() - fetched, 1)},
        "fetched_bytes": sum(package.size_bytes for package in packages),
        "size_bytes": cache.size_bytes(out),
        **about,
        "packages": {package.name: package.version for package in packages},
    }
    (out / cache.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return cache.place(made, _MADE, recipe.kind, recipe.key, content)


def _make_qemu(root: Path, out: Path) -> tuple[str, dict[str, Any]]:
    """The program with its libraries and firmware; proved by asking its version."""
    root.rename(out / TREE)
    said = _run((*qemu_argv(out), "--version"))
    found = re.search(r"version (\S+)", said)
    content = _tree_digest(out / TREE)
    return content[:12], {"version": found[1] if found else "unknown", "outputs": {TREE: {"sha256": content}}}


def _make_guest(root: Path, out: Path) -> tuple[str, dict[str, Any]]:
    """The kernel with its modules, the base archive, and the tree that it was packed from."""
    release = _take_kernel(root, out)
    tree = root.rename(out / TREE)
    _furnish(tree)
    compile_python(tree, "stdlib", tree, *_python_directories(tree))
    with (out / BASE).open("wb") as file:
        archive.write(file, archive.from_tree(tree))
    content, outputs = _outputs(out, KERNEL, BASE)
    python = (tree / "usr/bin/python3").readlink().name
    return content, {"version": release, "python": python, "outputs": outputs}


def _make_kernel(root: Path, out: Path) -> tuple[str, dict[str, Any]]:
    """A kernel with its modules."""
    release = _take_kernel(root, out)
    content, outputs = _outputs(out, KERNEL)
    return content, {"version": release, "outputs": outputs}


_MAKERS: dict[Kind, Callable[[Path, Path], tuple[str, dict[str, Any]]]] = {
    "qemu": _make_qemu,
    "guest": _make_guest,
    "kernel": _make_kernel,
}


def _take_kernel(root: Path, out: Path) -> str:
    """Move a package's kernel, its configuration and what `modules` wants of its modules out of `root`; its version."""
    kernels = {path.name.removeprefix("vmlinuz-"): path for path in (root / "boot").glob("vmlinuz-*")}
    kernels |= {path.parent.name: path for path in (root / "usr/lib/modules").glob("*/vmlinuz")}
    if len(kernels) != 1:
        raise CannotRun(f"the mirror's kernel packages hold {len(kernels)} kernels, one is needed, {mirror.WAYS_OUT}")
    ((release, kernel),) = kernels.items()
    kernel.rename(out / KERNEL)
    for config in (root / f"boot/config-{release}", root / f"usr/lib/modules/{release}/config"):
        if config.is_file():
            config.rename(out / CONFIG)
    shutil.rmtree(root / "boot", ignore_errors=True)
    for place in (root / "lib/modules", root / "usr/lib/modules"):
        if place.is_dir() and not place.is_symlink():
            modules.prune(place, (*modules.PORT, *modules.DRIVERS))
            place.rename(out / modules.BESIDE)
    return release


def _outputs(out: Path, *files: str) -> tuple[str, dict[str, Any]]:
    """What was made, file by file, and the name of it all: twelve digits of one hash over these."""
    outputs = {name: _described(out / name) for name in files}
    if (out / modules.BESIDE).is_dir():
        outputs[modules.BESIDE] = {"sha256": _tree_digest(out / modules.BESIDE)}
    content = hashlib.sha256("".join(output["sha256"] for output in outputs.values()).encode()).hexdigest()
    return content[:12], outputs


def _furnish(tree: Path) -> None:
    """What no package brings: mount points, merged directories, busybox's names, the mark that this base is ours."""
    for name in _DIRECTORIES:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, target in _LINKS.items():
        (tree / name).symlink_to(target)
    for name in _APPLETS:
        (tree / "usr/bin" / name).symlink_to("busybox")
    (tree / "etc/dcd-base").touch()


def _python_directories(tree: Path) -> list[str]:
    """Relative to the tree: the standard library, the packages."""
    library = (tree / "usr/bin/python3").readlink().name
    return [f"usr/lib/{library}", "usr/lib/python3/dist-packages"]


def _prune(root: Path, recipe: Recipe) -> None:
    """Remove what the recipe does not want, links that then lead nowhere, and empty directories."""
    paths = sorted(root.rglob("*"), reverse=True)
    for path in paths:
        if (path.is_symlink() or not path.is_dir()) and not recipe.wants(path.relative_to(root).as_posix()):
            path.unlink()
    for path in paths:
        if path.is_symlink() and not _target(root, path).exists():
            path.unlink()
        elif path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
            with contextlib.suppress(OSError):
                path.rmdir()


def _target(root: Path, link: Path) -> Path:
    """Where a link leads inside the tree, even if it is absolute."""
    target = link.readlink()
    return root / target.relative_to("/") if target.is_absolute() else link.parent / target


def _tree_digest(root: Path) -> str:
    """SHA-256 over names, modes, contents and links, in one order."""
    sha = hashlib.sha256()
    for entry in archive.from_tree(root):
        sha.update(f"{entry.mode:o} {len(entry.data)} {entry.name}\0".encode() + entry.data)
    return sha.hexdigest()


def _described(path: Path) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size_bytes": path.stat().st_size}


def _loaded(tree: Path, program: Path) -> tuple[str, ...]:
    return (str(tree / _LOADER), "--library-path", str(tree / _LIBRARIES), str(program))


def _run(command: tuple[str, ...], env: dict[str, str] | None = None) -> str:
    """Run a program of the tree; what it printed. Errors: CannotRun with its last words."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_RUN_S, env=env, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise CannotRun(
            f"{Path(command[3]).name} from the mirror does not run here ({said[-1] if said else ''})"
        ) from error
    return done.stdout


def _refuse_early(recipe: Recipe) -> None:
    """What cannot end well is not begun. Errors: CannotRun."""
    if platform.machine() != "x86_64":
        raise CannotRun(
            f"the image is made for x86_64 and this machine is {platform.machine()}; use one, {mirror.WAYS_OUT}"
        )
    home = cache.directory()
    free = shutil.disk_usage(home).free
    if free < recipe.measured.peak_bytes:
        raise CannotRun(f"{free / 1e6:.0f} MB are free in {home}, {mirror.need(recipe)}; {mirror.MORE_ROOM}")
