"""Scenarios from files and as programs: loading, options, exit codes, what is said. The runs here are the emulator's;
those on QEMU are in vm/test_scripts_vm.py."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

import dcdbackend
from dcdbackend import Bench, run_script, scenario
from dcdbackend.cli import run
from dcdbackend.scenario import SCENARIOS, load

HERE = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((HERE / "qmp_scripts").glob("*.py"))
NAMES = [path.stem.replace("_", "-") for path in SCRIPTS]
HEAD = "from dcdbackend import Bench, run_script, scenario\n"
Script = Callable[[str], Path]


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scenarios without any script's, and afterwards as they were: other tests load scripts, and run all there are."""
    before = dict(SCENARIOS)
    for name in [name for names in load._loaded.values() for name in names]:
        SCENARIOS.pop(name, None)
    monkeypatch.setattr(load, "_loaded", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    SCENARIOS.clear()
    SCENARIOS.update(before)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Writes a script; its path."""

    def write(text: str, name: str = "mine.py") -> Path:
        path = tmp_path / name
        path.write_text(HEAD + textwrap.dedent(text))
        return path

    return write


def dcd(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = run(arguments)
    out, err = capsys.readouterr()
    return code, out, err


# -- files -------------------------------------------------------------------------------------------------------------

GOOD = """
@scenario()
async def mine(bench: Bench) -> None:
    "Mine."
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nosuchmodule", "mine.py:2 cannot be loaded: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("def (", "mine.py:2 cannot be loaded: SyntaxError: "),
        ("1 / 0", "mine.py:2 cannot be loaded: ZeroDivisionError"),
        ("x = 5", "has no scenario; put @scenario() over"),
        (GOOD + GOOD, "two scenarios are called 'mine' (mine.py:3 and mine.py:7)"),
        (GOOD.replace("mine", "add"), "two scenarios are called 'add' (offer.py:"),
        (GOOD + "\nrun_script(mine)", "mine.py:7: run_script is for the program; put it under"),
        ("import sys\nsys.exit(3)", "mine.py:3 ends the program when it is loaded"),
        (GOOD.replace("async def", "def"), ": @scenario is for `async def name(bench)`"),
        ('@scenario(name="a/b")\nasync def mine(bench: Bench) -> None: "M."', "scenario 'a/b': letters, digits"),
        ("@scenario(tomorrow=1)\nasync def mine(bench: Bench) -> None: ...", "TypeError"),
    ],
)
def test_a_script_that_cannot_be_loaded_is_one_clear_line(
    script: Script, text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(SCENARIOS)
    code, out, err = dcd("regress", "--list", "-s", str(script(text)), capsys=capsys)
    assert (code, out) == (2, ""), err
    assert told in err and len(err.splitlines()) == 1
    assert {name: one for name, one in SCENARIOS.items() if name not in NAMES} == before, "a half-loaded script stays"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nosuch.py", "cannot be read (No such file or directory)"),
        ("./", "holds no script"),
        ("./notes.txt", "is no Python file"),
    ],
)
def test_a_script_that_is_none_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no script")
    code, out, err = dcd("regress", "--list", "-s", name, capsys=capsys)
    assert (code, out) == (2, ""), err
    assert told in err and len(err.splitlines()) == 1


def test_a_script_is_loaded_once_and_finds_what_lies_beside_it(script: Script, tmp_path: Path) -> None:
    (tmp_path / "beside_mine.py").write_text("EXTENTS = ['0+2M']\n")
    path = script("from beside_mine import EXTENTS" + GOOD)
    assert load.named([str(path), "add", str(path)]) == ["mine", "add", "mine"]
    assert SCENARIOS["mine"].origin == path.resolve()
    assert SCENARIOS["mine"].summary == "Mine."
    assert SCENARIOS["add"].origin is None


def test_a_checkout_brings_its_scripts_and_a_directory_means_all_in_it() -> None:
    assert load.named([]) == []
    assert set(NAMES) <= set(SCENARIOS)
    assert load.named([f"{HERE}/qmp_scripts"]) == NAMES


# -- programs ----------------------------------------------------------------------------------------------------------


def main(body: Any, *arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        run_script(body, list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def emulated(body: Any, tmp_path: Path, *arguments: str) -> int:
    return main(body, "--backend", "emulator", "--run-dir", str(tmp_path / "run"), "--seed", "7", *arguments)


def test_a_scripts_own_parameters_are_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []

    @scenario()
    async def with_options(
        bench: Bench,
        *,
        rounds: Annotated[int, "how many % rounds"] = 3,
        pause: float = 0.5,
        how: Literal["slow", "fast"] = "slow",
        loud: bool = False,
    ) -> None:
        """Looks at its options."""
        seen.append((rounds, pause, how, loud))
        await bench.block(0)

    assert emulated(with_options, tmp_path, "--rounds", "4", "--pause", "1.5", "--how", "fast", "--loud") == 0
    assert seen == [(4, 1.5, "fast", True)]
    out = capsys.readouterr().out
    again = next(line for line in out.splitlines() if line.startswith("again: "))
    assert again.endswith("--seed 7 --rounds 4 --pause 1.5 --how fast --loud --backend emulator")
    assert main(with_options, "--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Looks at its options." in told
    assert "--rounds ROUNDS how many % rounds (default: 3)" in told
    for wrong in (["--rounds", "x"], ["--how", "other"], ["--seed", "-1"], ["--nosuch"], ["--timeout", "nan"], ["x"]):
        assert main(with_options, *wrong) == 2
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and "(see --help)" in err
    assert main(with_options, "--backend", "emulator", "--kernel", "bzImage") == 2
    assert main(with_options, "--qemu", "/nonexistent") == 2
    assert main(with_options, "--qemu", "/bin/true") == 3
    refusals = [line for line in capsys.readouterr().err.splitlines() if line.startswith("__main__.py: ")]
    assert len(refusals) == 3, "beside what a build says of its steps where the cache is empty"
    assert seen == [(4, 1.5, "fast", True)]


async def positional(bench: Bench, rounds: int = 3) -> None: ...
async def without_default(bench: Bench, *, rounds: int) -> None: ...
async def of_another_type(bench: Bench, *, rounds: list[int] | None = None) -> None: ...
async def called_seed(bench: Bench, *, seed: int = 3) -> None: ...


@pytest.mark.parametrize("body", [positional, without_default, of_another_type, called_seed])
def test_a_parameter_that_can_be_no_option_is_one_clear_line(body: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(scenario()(body), "--help") == 2
    err = capsys.readouterr().err
    assert "parameter '" in err and len(err.splitlines()) == 1


def test_only_a_scenario_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    async def mine(bench: Bench) -> None: ...

    assert main(mine) == 2
    assert "mine is no scenario; put @scenario() over `async def mine(bench)`" in capsys.readouterr().err


async def good(bench: Bench) -> None:
    answer = await (await bench.add(["0+4M"])).answer()
    assert answer.outcome == "accepted"
    print("it took", answer.accepted)  # noqa: T201 (a script's)


async def disappointed(bench: Bench) -> None:
    answer = await (await bench.add(["0+4M"])).answer()
    assert answer.outcome == "refused", f"wanted a refusal, got {answer}"


async def asks_wrongly(bench: Bench) -> None:
    await bench.add(["0+4M"], device="mem7")


async def has_a_bug(bench: Bench) -> None:
    await bench.add(["0+4M"])
    raise KeyError("nothing")


async def several_at_once(bench: Bench) -> None:
    import asyncio

    async with asyncio.TaskGroup() as group:
        group.create_task(disappointed(bench))


async def never_ends(bench: Bench) -> None:
    import asyncio

    await asyncio.sleep(60)


async def does_nothing(bench: Bench) -> None: ...


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        (good, 0, "good: pass"),
        (disappointed, 1, "disappointed: fail: the scenario expected otherwise: wanted a refusal, got accepted 0x0+4M"),
        (several_at_once, 1, "the scenario expected otherwise: wanted a refusal"),
        (asks_wrongly, 2, "the script's own mistake (test_script.py:"),
        (has_a_bug, 4, "KeyError: 'nothing'"),
        (never_ends, 4, "not over after 0.3 s"),
    ],
)
def test_how_a_script_ends(body: Any, code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert emulated(scenario(timeout_s=0.3)(body), tmp_path) == code
    out, err = capsys.readouterr()
    assert told in out and "Traceback" not in out + err
    directory = tmp_path / "run" / body.__name__.replace("_", "-")
    assert json.loads((directory / "verdict.json").read_text())["outcome"] == {0: "pass", 1: "fail"}.get(
        code, "unknown"
    )
    assert (directory / "traceback.txt").exists() == (body in (asks_wrongly, has_a_bug))
    assert run(["check", str(tmp_path / "run")]) in (0, 4)


def test_a_rule_that_is_broken_is_exit_1_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert emulated(scenario()(good), tmp_path, "--break", "DEV-6") == 1
    out = capsys.readouterr().out
    assert "broken: host mem0 DEV-6.inside: each range of an answer lies inside one offered extent" in out
    assert "DEV-6.inside broken, host mem0, line " in out
    assert emulated(scenario(name="again")(good), tmp_path / "2", "--break", "DEV-99") == 2
    said = capsys.readouterr().err
    assert "break 'DEV-99'; host U can break DEV-6.inside, " in said and said.count("\n") == 1
    assert not (tmp_path / "2").exists(), "told before anything is begun"


@pytest.mark.parametrize(
    ("where", "code", "said"),
    [(">/dev/full", 3, "cannot write what it prints or keeps: No space left on device"), ("<&- >&-", 0, "EMULATOR")],
)
def test_an_output_that_takes_nothing_is_no_fault(where: str, code: int, said: str, tmp_path: Path) -> None:
    words = f'"$0" {HERE / "qmp_scripts/single_add.py"} --backend emulator --run-dir "$1" {where}'
    argv = ["sh", "-c", words, sys.executable, str(tmp_path / "run")]
    ended = subprocess.run(argv, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (ended.returncode, "fault" in ended.stderr) == (code, False), ended.stderr
    assert said in ended.stderr.splitlines()[-1]


def test_json_is_all_that_is_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert emulated(scenario()(good), tmp_path, "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["scenario"], found["outcome"], found["seed"]) == ("good", "pass", 7)
    assert found["run"] == str(tmp_path / "run") and found["verdict"]["counts"]
    assert "it took" in err


def test_a_run_directory_that_is_in_use_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    assert emulated(scenario()(good), tmp_path) == 3
    assert "is not empty; a run needs a directory of its own" in capsys.readouterr().err.splitlines()[-1]


def test_what_scripts_print_in_a_regress_goes_to_their_directories(script: Script, tmp_path: Path) -> None:
    path = script(
        """
        @scenario()
        async def loud(bench: Bench) -> None:
            print("I am loud")
            await bench.block(0)

        @scenario()
        async def quiet(bench: Bench) -> None:
            await bench.block(0)

        @scenario()
        async def broken(bench: Bench) -> None:
            raise KeyError("mine")
        """
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "dcdbackend", "regress", "--backend", "emulator", "-s", str(path), "--jobs", "3"),
            *("--json", "--run-dir", str(tmp_path / "run")),
        ],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(HERE)},
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    results = {one["scenario"]: one for one in json.loads(done.stdout)["results"]}
    assert {name: one["outcome"] for name, one in results.items()} == {
        "loud": "pass", "quiet": "pass", "broken": "unknown",
    }  # fmt: skip
    assert "the script's own mistake (mine.py:14): KeyError: 'mine'" in results["broken"]["reason"]
    assert (tmp_path / "run" / "loud" / "printed.txt").read_text() == "I am loud\n"
    assert not (tmp_path / "run" / "quiet" / "printed.txt").exists()
    assert "I am loud" not in done.stderr


# -- those of the checkout ---------------------------------------------------------------------------------------------


def test_there_are_enough_of_them() -> None:
    assert len(SCRIPTS) >= 8


@pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)
def test_each_is_one_screen_on_the_public_api_and_has_help(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 50
    imported: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported += [name.name.partition(".")[0] for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            imported.append(node.module or "")
            if node.module == "dcdbackend":
                assert {name.name for name in node.names} <= set(dcdbackend.__all__)
    assert set(imported) <= sys.stdlib_module_names | {"__future__", "dcdbackend"}
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    spec = importlib.util.spec_from_file_location("__main__", path)
    assert spec is not None and spec.loader is not None
    with pytest.raises(SystemExit) as ended:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: {path.name} ") and "--seed" in told and "--topology" in told


@pytest.mark.parametrize("name", [name for name in NAMES if name != "two-guests"])
def test_each_runs_as_a_scenario_on_the_emulator(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which says that the script is right, not that QEMU is."""
    code, out, err = dcd(
        *("regress", "--backend", "emulator", "-s", name, "--run-dir", str(tmp_path / "run"), "--json"), capsys=capsys
    )
    assert code == 0, err
    assert [one["outcome"] for one in json.loads(out)["results"]] == ["pass"]


def test_the_same_seed_walks_the_same_walk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    walks = []
    for number, seed in enumerate(("3", "3", "4")):
        run_dir = tmp_path / str(number)
        arguments = ("--backend", "emulator", "-s", "random-walk", "--run-dir", str(run_dir), "--seed", seed)
        assert dcd("regress", *arguments, capsys=capsys)[0] == 0
        walks.append((run_dir / "random-walk" / "printed.txt").read_text())
    assert walks[0] == walks[1] != walks[2]


def test_the_line_that_runs_it_again_repeats_what_was_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = dcd(
        *("regress", "--backend", "emulator", "-s", "single-add", "--regions", "3", "--size", "3G", "--repeat", "2"),
        *("--seed", "5", "--run-dir", str(tmp_path / "run")),
        capsys=capsys,
    )
    assert code == 0
    again = next(line for line in out.splitlines() if line.startswith("again: "))
    for part in ("--seed 5", "--regions 3", "--size 3G", "--repeat 2", "--scenario single-add", "--backend emulator"):
        assert part in again


def test_a_rule_that_cannot_be_broken_is_told_before_anything_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    words = ("regress", "--backend", "emulator", "-s", "add", "--break", "nosuch", "--run-dir", str(run_dir))
    code, _, err = dcd(*words, capsys=capsys)
    assert code == 2 and err.startswith("dcd: break 'nosuch'; host U can break DEV-6.inside") and err.count("\n") == 1
    assert not run_dir.exists()


def test_a_poll_that_is_none_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = dcd("regress", "--backend", "emulator", "--poll", "spin", "-s", "add", capsys=capsys)
    assert code == 2 and "--poll" in err
