"""The house rules, as tests: `pytest` alone says whether a change may go in."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcdbackend import crc

HERE = Path(__file__).resolve().parents[1]
TIMEOUT_S = 300.0

APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of the licence's text, as the Apache Software Foundation and Debian's base-files give it."""

NAMES_A_HOST = re.compile(r"(?:https?|ftp)://", re.IGNORECASE)
A_MIRROR = re.compile(
    # Pieced together, so that this file does not name what it looks for.
    "|".join(
        f"{host}{re.escape('.')}{domain}"
        for host, domain in (
            ("deb", "debian"),
            ("ftp", "debian"),
            ("snapshot", "debian"),
            ("security", "debian"),
            ("pypi", "org"),
            ("files.pythonhosted", "org"),
            ("registry.npmjs", "org"),
            ("github", "com/[^ ]*/releases"),
        )
    ),
    re.IGNORECASE,
)
AN_OWN_PATH = re.compile(r"(?<![\w./$}~*])/(?:work|root|home/[a-z]|tmp/[a-z]+/[a-z]|Users)/")
"""A path of one machine. Paths of every Debian (/usr, /etc, /proc ...) are not meant."""

TEXT = frozenset({".py", ".toml", ".md", ".lock", ".cfg", ".json", ".jsonl", ".sh", ".yml", ".yaml", ".txt", ""})
NO_PROSE = frozenset({"LICENSE"})
MADE = frozenset(
    {
        ".git",
        ".venv",
        "__pycache__",
        ".hypothesis",
        ".import_linter_cache",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
    }
)


def run(*command: str) -> None:
    """A tool of the virtual environment, in the checkout; its whole output if it is not content."""
    program = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [str(program), *command[1:]],
        cwd=HERE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def own_files() -> Iterator[Path]:
    """What git tracks or would (so that a new file is looked at before it goes in); everything, in a bare copy."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(
            command, cwd=HERE, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
        paths = [HERE / name for name in listed.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        paths = [path for path in HERE.rglob("*") if not MADE & set(path.relative_to(HERE).parts)]
    yield from (path for path in sorted(paths) if path.is_file() and path.suffix in TEXT)


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    """`file:line: text` of every line of ours that the pattern is found in."""
    return [
        f"{path.relative_to(HERE)}:{number}: {line.strip()[:120]}"
        for path in own_files()
        if path.name not in NO_PROSE
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def project() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    return table


def test_lint() -> None:
    run("ruff", "check", ".")


def test_format() -> None:
    run("ruff", "format", "--check", ".")


@pytest.mark.slow
def test_types() -> None:
    run("mypy")


@pytest.mark.slow
def test_layers() -> None:
    run("lint-imports", "--no-cache")


def test_crc_is_computed_in_c() -> None:
    """Twenty times slower without, and silently so."""
    assert crc.EXTENSION
    assert crc.crc32c(b"123456789") == 0xE3069283


def test_lock_names_no_host() -> None:
    lock = (HERE / "requirements.lock").read_text()
    assert not NAMES_A_HOST.search(lock)
    assert not re.search(
        r"^\s*(?:-i|--index-url|--extra-index-url|-f|--find-links|--trusted-host)\b", lock, re.MULTILINE
    )


def test_lock_has_a_hash_for_everything() -> None:
    """`pip --require-hashes` would refuse it, but late."""
    entries = re.split(r"^(?=[A-Za-z0-9])", (HERE / "requirements.lock").read_text(), flags=re.MULTILINE)[1:]
    assert entries
    assert [entry.partition("==")[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_lock_holds_what_the_project_asks_for() -> None:
    table = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    asked = [*table["dependencies"], *table["optional-dependencies"]["dev"]]
    names = {_normal(re.split(r"[^A-Za-z0-9._-]", requirement)[0]) for requirement in asked}
    locked = {
        _normal(name)
        for name in re.findall(r"^([A-Za-z0-9._-]+)==", (HERE / "requirements.lock").read_text(), re.MULTILINE)
    }
    assert names - locked == set(), "run `make lock`"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_file_names_a_mirror_or_registry() -> None:
    assert lines_with(A_MIRROR) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    assert lines_with(AN_OWN_PATH) == []


def test_licence() -> None:
    assert hashlib.sha256((HERE / "LICENSE").read_bytes()).hexdigest() == APACHE_2
    assert project()["license"] == "Apache-2.0"


def test_nothing_binary_is_kept() -> None:
    images = [path for path in (HERE / "images").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert images
    for path in images:
        assert b"\0" not in path.read_bytes(), path


@pytest.mark.parametrize("name", [".ci/run", ".ci/system", "images/init"])
def test_scripts_can_be_run(name: str) -> None:
    path = HERE / name
    assert path.stat().st_mode & 0o111
    shell = path.read_text().splitlines()[0].rpartition("/")[2].replace("env ", "")
    subprocess.run([shell, "-n", str(path)], check=True, timeout=TIMEOUT_S)


def test_makefile_needs_no_set_up_first() -> None:
    """Each target that uses the virtual environment makes it."""
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "regress", "test", "test-fast", "image"],
        cwd=HERE, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    steps = done.stdout
    for earlier, later in (
        (".ci/system", "-m venv"), ("-m venv", "--require-hashes"), ("--require-hashes", "--editable"),
        ("--editable", "dcd doctor"), ("dcd doctor", "dcd regress"), ("--editable", "pytest"),
    ):  # fmt: skip
        assert -1 < steps.find(earlier) < steps.rfind(later), (earlier, later, steps)
