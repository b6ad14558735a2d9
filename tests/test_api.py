"""The public API: every name is there, explained and typed; importing the package costs nothing; a wheel is whole."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import dcdbackend
from dcdbackend import errors

HERE = Path(__file__).resolve().parents[1]
HEAVY = frozenset({"argparse", "asyncio", "construct", "crcmod", "logging", "qemu", "rich", "subprocess", "typer"})


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=HERE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", dcdbackend.__all__)
def test_every_public_name_is_there_and_explained(name: str) -> None:
    found = getattr(dcdbackend, name)
    if inspect.isclass(found) or inspect.isfunction(found):
        text = inspect.getdoc(found) or ""
        assert len(text) > 10 and not text.startswith(f"{name}("), f"{name} has no docstring of its own"
    elif not name.isupper():
        assert callable(found) and found.__doc__


def test_the_table_of_places_and_the_list_of_names_agree() -> None:
    places = [entry.rpartition(" ")[2] for names in dcdbackend._PLACES.values() for entry in names]
    assert sorted(places) == sorted(dcdbackend.__all__)
    assert set(dcdbackend.__all__) <= set(dir(dcdbackend))


def test_every_error_of_the_tree_is_public() -> None:
    tree = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, errors.DcdError)}
    assert tree <= set(dcdbackend.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'lunch'"):
        dcdbackend.lunch  # noqa: B018
    assert not hasattr(dcdbackend, "Session")


def test_importing_the_package_imports_nothing() -> None:
    """The agent in the guest imports modules of this package, each of which runs its `__init__` first."""
    code = "import sys; before = set(sys.modules); import dcdbackend; print(*sorted(set(sys.modules) - before))"
    found = python(code).split()
    assert [name for name in found if name.startswith("dcdbackend.")] == []
    assert not HEAVY & set(found), found
    assert len(found) <= 12, found


def test_a_name_brings_only_what_it_needs() -> None:
    code = "import sys, dcdbackend; dcdbackend.parse_size; print(*[m for m in sys.modules if m.startswith('dcdb')])"
    assert set(python(code).split()) == {"dcdbackend", "dcdbackend.units", "dcdbackend.errors"}


@pytest.mark.parametrize("first", ["import dcdbackend.scenario.load", "from dcdbackend import scenario", "pass"])
def test_scenario_is_the_decorator_whatever_was_imported_first(first: str) -> None:
    code = f"""
        {first}
        import dcdbackend
        from dcdbackend import scenario
        from dcdbackend.scenario import SCENARIOS
        @scenario(timeout_s=7)
        async def mine(bench: dcdbackend.Bench) -> None: "A line."
        @dcdbackend.scenario(needs={{"tags"}})
        async def yours(bench: dcdbackend.Bench) -> None: "A line."
        print(SCENARIOS["mine"].timeout_s, *SCENARIOS["yours"].needs, SCENARIOS["mine"].body is mine)
    """
    assert python(textwrap.dedent(code)) == "7 tags True\n"


@pytest.mark.slow
def test_a_users_script_sees_real_types(tmp_path: Path) -> None:
    """mypy --strict, as a user would run it: the names are lazy, their types are not."""
    script = tmp_path / "mine.py"
    script.write_text(
        textwrap.dedent(
            """
            import dcdbackend as dcd

            @dcd.scenario(shape={"regions": 1}, needs=["guests"])
            async def mine(bench: dcd.Bench, *, rounds: int = 3) -> None:
                offer = await bench.add(region=0, extents=["0+256M"])
                answer = await offer.answer(timeout_s=5)
                reveal_type(answer.accepted)
                reveal_type(await bench.read(dpa=0, length=4096))
                reveal_type(await bench.verdict())
                async with bench.beside() as other:
                    reveal_type(other)

            async def main() -> None:
                async with dcd.launch(dcd.direct(regions=2)) as bench:
                    reveal_type(bench)
                    await mine(bench, rounds=4)
                    await mine(bench, rounds="4")

            reveal_type(dcd.parse_size("1M"))
            reveal_type(dcd.Refused.exit_code)
            dcd.run_script(mine)
            """
        )
    )
    program = Path(sys.executable).with_name("mypy")
    done = subprocess.run(
        [str(program), "--strict", str(script)], capture_output=True, text=True, timeout=300, cwd=HERE
    )
    told = re.findall(r'(?:Revealed type is "|error: )(.*?)"?(?:  \[.*)?$', done.stdout, re.MULTILINE)
    assert [line.replace("builtins.", "").replace("dcdbackend.", "") for line in told] == [
        "tuple[tuple[int, int], ...]",
        "bytes",
        "checker.verdict.Verdict",
        "session.Session",
        "session.Session",
        'Argument "rounds" to "mine" has incompatible type "str"; expected "int',
        "int",
        "int",
    ], done.stdout + done.stderr


def test_without_a_checkout_nothing_misses_the_scripts(tmp_path: Path) -> None:
    """As `pip install .` leaves it: the package alone."""
    shutil.copytree(HERE / "dcdbackend", tmp_path / "dcdbackend", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import dcdbackend, json\nfrom dcdbackend.scenario.load import named, scripts\n"
        "from dcdbackend.scenario import SCENARIOS\n"
        "print(json.dumps([dcdbackend.__file__, named(['add']), scripts(), 'churn' in SCENARIOS, 'add' in SCENARIOS]))"
    )
    assert json.loads(python(code)) == [str(tmp_path / "dcdbackend" / "__init__.py"), ["add"], [], False, True]


@pytest.mark.slow
@pytest.mark.skipif(
    int(version("setuptools").partition(".")[0]) < 77, reason="pyproject.toml asks for setuptools 77, as in the lock"
)
def test_a_wheel_has_the_types_and_the_recipes_and_not_the_scripts(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HERE / name, source)
    for name in ("dcdbackend", "images", "qmp_scripts"):
        shutil.copytree(HERE / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*pip, "--no-build-isolation", "-w", str(tmp_path), str(source)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"dcdbackend/py.typed", "dcdbackend/history.schema.json", "dcdbackend/script.py"} <= names
    assert [name for name in names if "qmp_scripts" in name] == []
    recipes = {Path(name).name for name in names if "/share/dcdbackend/images/" in name}
    assert recipes == {path.name for path in (HERE / "images").iterdir()}
