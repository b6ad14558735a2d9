"""Debian's mirror, as this machine's own apt knows it, and packages taken from it without installing them.

No mirror is written down in this project: its address, proxies and time-outs come from apt's configuration. mmdebstrap
extracts the packages in its chrootless mode, which needs no rights and is harmless here: `--variant=extract` runs none
of their scripts. Not a package manager: what to take is `recipe`'s, what becomes of it `product`'s.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import CannotRun
from .recipe import Recipe
from .step import Progress, Step

WAYS_OUT = (
    "or bring your own: --qemu --kernel --initrd (or DCD_QEMU, DCD_KERNEL, DCD_INITRD); "
    "--qemu system takes the one installed"
)
MORE_ROOM = "free some, or set XDG_CACHE_HOME to a directory that has room and is yours"
TIMEOUT_S = 1800.0
"""For one recipe's packages, about 100 MB at most: at 60 kB/s a user had better bring their own."""

_LABEL = "Debian"
_KEYRINGS = ("debian-archive-keyring.pgp", "debian-archive-keyring.gpg")
_TARGETS = ("apt-get", "indextargets", "--format", "$(LABEL)|$(COMPONENT)|$(SUITE)|$(REPO_URI)")
_TAKEN_OVER = re.compile(r"Acquire::(?:https?|ftp|tor|Retries|ForceIPv[46]|Check-Valid-Until|Proxy)\b.*", re.IGNORECASE)
_PACKAGE = re.compile(r"(?P<name>[^_]+)_(?P<version>[^_]+)_[^_]+\.deb")
_POLL_S = 0.2
_STOP_S = 15.0
_NO_SUITE = "(?:does not have|is not)"
_LATE = "not finished in time"
_LATE_CODES = (124, 137)  # timeout(1): TERM was enough, KILL was needed
_ASK_S = 20.0
_APT_HELPER = "/usr/lib/apt/apt-helper"
_BRIEFLY = ('Acquire::Retries "0"', 'Acquire::http::Timeout "10"', 'Acquire::https::Timeout "10"')


class Package(NamedTuple):
    name: str
    version: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirror:
    """Where packages come from. `options` are apt.conf lines; `keyring` is None where apt's own trust decides."""

    uri: str
    keyring: Path | None = None
    options: tuple[str, ...] = ()

    def source(self, suite: str) -> str:
        """A line of sources.list."""
        trust = f" [signed-by={self.keyring}]" if self.keyring else ""
        return f"deb{trust} {self.uri} {suite} main"


def find() -> Mirror:
    """The mirror that this machine uses. Errors: CannotRun (no apt, no Debian mirror in its sources)."""
    if shutil.which("apt-get") is None:
        raise CannotRun(
            f"the guest image is made from Debian packages and this machine has no apt; use a Debian, {WAYS_OUT}"
        )
    uri = first_mirror(_said(_TARGETS)) or first_source(_said(("apt-get", "update", "--print-uris")))
    if uri is None:
        raise CannotRun(
            "apt's sources on this machine name no Debian mirror; add one (deb MIRROR trixie main) and run apt-get "
            f"update, {WAYS_OUT}"
        )
    trusted = (Path("/usr/share/keyrings") / name for name in _KEYRINGS)
    return Mirror(
        uri=uri,
        keyring=next((path for path in trusted if path.is_file()), None),
        options=taken_over(_said(("apt-config", "dump"))),
    )


def silence(mirror: Mirror, suite: str) -> str | None:
    """Why the mirror does not answer, None if it does. Asks for one small file, the way that apt itself would."""
    with tempfile.TemporaryDirectory(prefix="dcd-mirror-") as place:
        options = [word for option in (*_BRIEFLY, *mirror.options) for word in ("-o", option.replace(' "', '="'))]
        url = f"{mirror.uri.rstrip('/')}/dists/{suite}/InRelease"
        command = [_APT_HELPER, *options, "download-file", url, str(Path(place) / "InRelease")]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ASK_S, env=_environment()
            )
        except subprocess.TimeoutExpired:
            return f"no answer for {_ASK_S:.0f} s"
        except OSError:
            return None  # this apt has no such helper: the build will tell
    errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
    return _short(errors[0][2:]) or "no reason given" if done.returncode and errors else None


def first_mirror(targets: str) -> str | None:
    """The address in `apt-get indextargets`' answer (our format) whose archive calls itself Debian; a release before
    its updates, because a mirror of updates alone would not do."""
    found: list[tuple[bool, int, str]] = []
    for line in targets.splitlines():
        label, component, suite, uri = (*line.split("|", 3), "", "", "", "")[:4]
        if label == _LABEL and component == "main" and not uri.startswith("cdrom:"):
            found.append(("-" in suite, len(found), uri))
    return min(found)[2] if found else None


def first_source(uris: str) -> str | None:
    """The address in `apt-get update --print-uris`' answer, for a machine whose package lists were never fetched or
    thrown away: nothing there says whose archive it is, so it is taken by its name and proved by Debian's keyring."""
    found: list[tuple[bool, bool, int, str]] = []
    for line in uris.splitlines():
        fields = re.match(r"'(?P<base>[^']+)/dists/(?P<suite>[^']+)/(?:In)?Release' ", line)
        if fields and "security" not in line:
            base = urllib.parse.urlsplit(fields["base"]).path.rstrip("/")
            found.append((not base.endswith("/debian"), "-" in fields["suite"], len(found), fields["base"] + "/"))
    return min(found)[3] if found else None


def taken_over(configuration: str) -> tuple[str, ...]:
    """The lines of `apt-config dump` that say how to reach a mirror: proxies, certificates, time-outs."""
    lines = (line.removesuffix(";") for line in configuration.splitlines())
    return tuple(line for line in lines if _TAKEN_OVER.fullmatch(line) and not line.endswith(' ""'))


def fetch(
    mirror: Mirror, recipe: Recipe, root: Path, *, log: Path, keep_open: Sequence[int], progress: Progress
) -> tuple[Package, ...]:
    """Extract the recipe's packages and their dependencies into `root` (created); what the mirror gave.

    `keep_open`: descriptors whose locks must last as long as anything writes there. Errors: CannotRun.
    """
    if shutil.which("mmdebstrap") is None:
        raise CannotRun(
            f"mmdebstrap is not installed; `make` installs it, so does `apt-get install mmdebstrap`, {WAYS_OUT}"
        )
    newer = recipe.newer
    while True:
        said = _extract(_command(mirror, recipe, root, newer), root, recipe, log, keep_open, progress)
        if said is None:
            break
        shutil.rmtree(root, ignore_errors=True)
        if newer is None or recipe.kind == "kernel" or not re.search(rf" {newer} Release' {_NO_SUITE}", said):
            raise CannotRun(_why(said, mirror, recipe, root.parent, log))
        newer = None
    archives = sorted((root / "var/cache/apt/archives").glob("*.deb"))
    return tuple(_package(path) for path in archives)


def _command(mirror: Mirror, recipe: Recipe, root: Path, newer: str | None) -> list[str]:
    """mmdebstrap's command line, which takes everything from `newer` where that has it.

    It ends when we do: setpriv tells timeout, and timeout its whole process group (mmdebstrap itself would go on).
    """
    suites = [recipe.suite] + ([newer] if newer else [])
    preferences = root.with_name("preferences")
    preferences.write_text(f"Package: *\nPin: release n={newer}\nPin-Priority: 990\n" if newer else "")
    options = [
        f'Dir::Etc::Preferences "{preferences}"',
        'Acquire::http::Timeout "20"',
        'Acquire::https::Timeout "20"',
        'Acquire::Languages "none"',
        *mirror.options,
    ]
    return [
        *("setpriv", "--pdeathsig", "TERM", "timeout", "--kill-after=5", f"{TIMEOUT_S:.0f}"),
        *("mmdebstrap", "--variant=extract", "--mode=chrootless", "--format=directory", "--architectures=amd64"),
        *("--skip=cleanup/apt/cache", f"--include={','.join(recipe.packages)}"),
        *(f"--aptopt={option}" for option in options),
        recipe.suite,
        str(root),
        *(mirror.source(suite) for suite in suites),
    ]


def _extract(
    command: list[str], root: Path, recipe: Recipe, log: Path, keep_open: Sequence[int], progress: Progress
) -> str | None:
    """Run it; None when it went well, else what it said (kept in `log` either way)."""
    what = f"{recipe.kind}: packages from the mirror"
    archives = root / "var/cache/apt/archives"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=keep_open,
            start_new_session=True,
            env=_environment(root),
        )
        try:
            while process.returncode is None:  # bounded: timeout(1) is in the command
                progress(Step(what, min(_size_of(archives), recipe.measured.fetch_bytes), recipe.measured.fetch_bytes))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_S)
        finally:
            _end(process)
    if process.returncode == 0:
        return None
    late = f"\nE: {_LATE}" if process.returncode in _LATE_CODES else ""
    return log.read_text(errors="replace") + late


def _end(process: subprocess.Popen[bytes]) -> None:
    """No process of ours outlives this: first politely, so that mmdebstrap ends its own."""
    for stop in (process.terminate, process.kill):
        if process.poll() is not None:
            return
        stop()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            continue


def _why(said: str, mirror: Mirror, recipe: Recipe, place: Path, log: Path) -> str:
    """One line from what apt and mmdebstrap said."""
    where = f"the Debian mirror {mirror.uri}"
    errors = [line[2:].strip() for line in said.splitlines() if line.startswith("E:")]
    reason = _short(next((line for line in errors if "mmdebstrap" not in line and "apt-get" not in line), "no reason"))
    if "No space left on device" in said:
        return f"the disk filled up in {place}, {need(recipe)}; {MORE_ROOM}"
    if _LATE in said:
        return f"{where} did not deliver the packages within {TIMEOUT_S:.0f} s; try again, {WAYS_OUT}"
    if re.search(r"NO_PUBKEY|Missing key|is not signed|public key is not available", said):
        return (
            f"{where} is signed by a key that this machine does not know; apt-get install debian-archive-keyring, "
            f"{WAYS_OUT}"
        )
    for suite in filter(None, (recipe.newer, recipe.suite)):
        if re.search(rf" {suite} Release' {_NO_SUITE}", said):
            return f"{where} has no {suite}; name one that has in apt's sources, {WAYS_OUT}"
    if recipe.kind == "kernel" and re.search(r"Unable to locate package|has no installation candidate", said):
        return f"{where} has no package {recipe.packages[0]} in {recipe.newer or recipe.suite}; name another"
    if re.search(r"resolv|[Cc]ould not connect|onnection|nreachable|timed out|Failed to fetch", said):
        return f"{where} does not answer ({reason}); look at the network and apt's proxy settings, {WAYS_OUT}"
    return f"the packages could not be taken from {where} ({reason}; all of it in {log}), {WAYS_OUT}"


def need(recipe: Recipe) -> str:
    """How much room a build takes, for messages about a full disk."""
    return f"about {recipe.measured.peak_bytes / 1e6:.0f} MB are needed to build {recipe.kind}"


def _short(reason: str) -> str:
    """apt's reason without the address (said already) and without its own advice."""
    return re.sub(r"(?:\d+ )?Failed to fetch \S+\s+|https?://\S+\s*", "", reason).strip()[:160]


def _package(path: Path) -> Package:
    """apt's file names escape the colon of an epoch."""
    fields = _PACKAGE.fullmatch(path.name)
    name, version = (fields["name"], fields["version"]) if fields else (path.stem, "")
    return Package(name, urllib.parse.unquote(version), path.stat().st_size)


def _size_of(directory: Path) -> int:
    """Bytes of the files in `directory` and the one below it (apt's `partial`), which come and go meanwhile."""
    size = 0
    for path in (*directory.glob("*.deb"), *directory.glob("partial/*")):
        try:
            size += path.stat().st_size
        except FileNotFoundError:
            continue
    return size


def _environment(root: Path | None = None) -> dict[str, str]:
    """Messages in English, because they are read here; temporary files where the result goes."""
    path = os.environ.get("PATH", os.defpath)
    own = {"LC_ALL": "C.UTF-8", "PATH": f"{path}:/usr/sbin:/usr/bin:/sbin:/bin"}
    return {**os.environ, **own, **({"TMPDIR": str(root.parent)} if root else {})}


def _said(command: Sequence[str]) -> str:
    """The standard output of a question to apt; empty when it cannot answer."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            env=_environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
