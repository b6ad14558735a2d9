"""The recipes in `images/`: which packages, which of their files.

A recipe's `key` is the hash of everything of ours that decides the result; the cache finds its entries by it. What
the mirror gives is not in it: an entry stays until `dcd image build --refresh`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import tomllib
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from ..errors import AskedWrongly, CannotRun

Kind = Literal["qemu", "guest", "kernel"]

_PACKAGE = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]{1,80})(?:/(?P<suite>[a-z][a-z0-9-]{1,40}))?", re.ASCII)

_ONE = "guest.toml"

FORMAT = 1
"""Counted up when the code that builds changes its result."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What the last recorded build took (images/README.md); only ever used to tell the user what is coming."""

    fetch_bytes: int
    disk_bytes: int
    peak_bytes: int
    """Disk space while it is built."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    kind: Kind
    suite: str
    newer: str | None
    packages: tuple[str, ...]
    measured: Measured
    key: str
    _keep: re.Pattern[str]
    _drop: re.Pattern[str]

    def wants(self, name: str) -> bool:
        """Whether the file `name` (relative to the packages' root) is kept."""
        return self._keep.fullmatch(name) is not None and self._drop.fullmatch(name) is None


def directory() -> Path:
    """`images/`: beside the package in a checkout, else where its installation put it. Errors: CannotRun."""
    beside = Path(__file__).resolve().parents[2] / "images"
    if (beside / _ONE).is_file():
        return beside
    from importlib import metadata

    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files("dcdbackend") or ():
            if file.match(f"images/{_ONE}") and (found := Path(file.locate()).resolve()).is_file():
                return found.parent
    raise CannotRun(f"the recipes are not in {beside}, and not in an installation; install dcdbackend again, by pip")


def kernel(package: str) -> Recipe:
    """The recipe of a Debian kernel package, `NAME` or `NAME/SUITE` (linux-image-amd64/trixie-backports).

    Errors: AskedWrongly (no such name can be).
    """
    fields = _PACKAGE.fullmatch(package)
    if fields is None:
        raise AskedWrongly(
            f"kernel package {package[:80]!r}; give a Debian package, like linux-image-amd64, "
            "or one of a suite, like linux-image-amd64/trixie-backports"
        )
    recipe = load("kernel")
    return replace(
        recipe,
        newer=fields["suite"],
        packages=(fields["name"], *recipe.packages),
        key=digest(recipe.key.encode(), package.encode()),
    )


@cache
def load(kind: Kind) -> Recipe:
    """The recipe `images/KIND.toml`."""
    values = tomllib.loads((directory() / f"{kind}.toml").read_text())
    measured = values.pop("measured")
    companions = ("compile.py",) if kind == "guest" else ()
    return Recipe(
        kind=kind,
        suite=values["suite"],
        newer=values.get("newer"),
        packages=tuple(values["packages"]),
        measured=Measured(
            fetch_bytes=measured["fetch_MB"] * 1_000_000,
            disk_bytes=measured["disk_MB"] * 1_000_000,
            peak_bytes=measured["peak_MB"] * 1_000_000,
            seconds=measured["seconds"],
        ),
        key=digest(
            b"%d" % FORMAT,
            json.dumps(values, sort_keys=True).encode(),
            *((directory() / name).read_bytes() for name in companions),
        ),
        _keep=_any_of(values["keep"]),
        _drop=_any_of(values["drop"]),
    )


def digest(*pieces: bytes) -> str:
    """Twelve hexadecimal digits of SHA-256 over the pieces, each with its length: enough to name a cache entry."""
    sha = hashlib.sha256()
    for piece in pieces:
        sha.update(b"%d:" % len(piece) + piece)
    return sha.hexdigest()[:12]


def _any_of(globs: list[str]) -> re.Pattern[str]:
    """One pattern for all; `*` also matches `/`."""
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs))
