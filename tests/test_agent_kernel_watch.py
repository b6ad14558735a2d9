"""`watch` on recorded sessions: trace, log and trees of a real v11 kernel, fed as they came, judged there and then."""

from __future__ import annotations

import importlib
import io
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import kernel_record as record
import pytest
from kernel_tree import CXL, DAX, TRACING, grow, plant, trace_lines, write

from dcdbackend.agent.kernel import watch
from dcdbackend.agent.kernel.watch import Options, Watcher, chosen
from dcdbackend.errors import CannotRun

BASE = "A0_region_create"
Spoil = Callable[[str], str]


class Play:
    """A record played under a watcher: a step's log and trace, then its trees, then a turn."""

    def __init__(self, root: Path, name: str, *, spoil: Spoil = str, until: str = "-", planted: bool = False) -> None:
        self.root = root
        self.out = io.StringIO()
        self._steps = iter(record.read(name).steps)
        self._spoil = spoil
        self._traces = [spoil(line) for line in trace_lines(name)]
        self._number = 0
        self._until, self._is_made = until, False
        if not planted:
            plant(root)
        made = record.read(BASE)
        trees = [item for step in made.steps for item in step.items if isinstance(item, record.Tree)]
        for tree in trees[:2]:
            grow(root, tree)
        self._made = trees[2:]
        self.watcher = Watcher(Options("auto", str(root), 0.0), self.out)
        self.watcher.begin()

    def all(self) -> int:
        """The steps, to the one that begins with `until`; a second call goes on from there. The exit status.

        Where a record shows no tree, what was written with success stands there.
        """
        for step in self._steps:
            looked = not self._is_made
            for item in step.items:
                if isinstance(item, record.Block):
                    self.block(item)
                elif isinstance(item, record.Tree):
                    grow(self.root, item)
                    looked = looked or "available" in (record.tree_values(dict(item.files)) or {})
                elif isinstance(item, record.Made):
                    for tree in self._made:
                        grow(self.root, tree)
                    self._is_made = looked = True
                elif isinstance(item, record.Wrote) and not item.error:
                    self.wrote(item)
                elif isinstance(item, record.Read) and item.path.endswith("/dax_region0/"):
                    looked = self.listed(item)
            if looked:
                self.watcher.turn()
            if step.title.startswith(self._until):
                break
        return self.watcher.verdict()

    def listed(self, item: record.Read) -> bool:
        """Extents that a listing lacks are gone; whether all that it has are known."""
        names = {word for word in item.value.split() if word.startswith("extent")}
        there = {place.name for place in (self.root / CXL).glob("dax_region0/extent*")}
        for name in there - names:
            shutil.rmtree(self.root / CXL / "dax_region0" / name)
        return names <= there

    def wrote(self, item: record.Wrote) -> None:
        """A device of size 0 has no mapping, an unbound one no driver; what is free then the record does not show."""
        if item.path.endswith("/size") and item.text == "0":
            device = self.root / item.path.lstrip("/").removesuffix("/size")
            (device / "size").write_text("0\n")
            (device / "uuid").write_text("00000000-0000-0000-0000-000000000000\n")
            for mapping in device.glob("mapping*"):
                shutil.rmtree(mapping)
            (self.root / CXL / "dax_region0/dax_region/available_size").unlink(missing_ok=True)
        elif item.path.endswith("/unbind"):
            (self.root / DAX / item.text / "driver").unlink(missing_ok=True)

    def block(self, block: record.Block) -> None:
        """The log and the trace of a block are there now."""
        with (self.root / "dev/kmsg").open("a") as file:
            for time_ns, text in block.lines:
                file.write(f"6,{self._number},{time_ns // 1000},-;{self._spoil(text)}\n")
                self._number += 1
        lines, self._traces = self._traces[: len(block.traces)], self._traces[len(block.traces) :]
        with (self.root / TRACING / "instances/dcd-watch/trace_pipe").open("a") as file:
            file.writelines(f"{line}\n" for line in lines if line)

    @property
    def text(self) -> str:
        """What was printed."""
        return self.out.getvalue()


@pytest.fixture(autouse=True)
def own_instance(tmp_path: Path) -> None:
    write(tmp_path / TRACING / "instances/dcd-watch/trace_pipe", "")
    write(tmp_path / TRACING / "instances/dcd-watch/events/cxl/cxl_dynamic_capacity/enable", "")


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("A0_region_create", {"B1.mode", "B27.zero", "B31.available"}),
        ("A1_untagged_add", {"B5.surfaced", "B27.untagged", "B30.sum", "B23.each", "B31.available", "L1.clears"}),
        ("A2_untagged_chain", {"B2.stage", "B5.surfaced", "B22.in-use", "B23.each", "B27.sequence", "B27.oldest"}),
        ("A3_no_region", {"B12.region", "B5.none"}),
        ("B1_tagged_add", {"B5.surfaced", "B27.tag", "B30.sum", "B23.each", "DEV-16.cleared"}),
        ("B2_tagged_chain", {"B2.stage", "B5.surfaced", "B22.in-use", "B23.whole", "B27.sequence", "B30.sum"}),
    ],
)
def test_a_recorded_kernel_is_as_its_generation_says(name: str, held: set[str], tmp_path: Path) -> None:
    play = Play(tmp_path, name)
    assert play.all() == 0, play.text
    assert "BROKEN" not in play.text and "generation v11 (" in play.text
    (follower,) = play.watcher.followers.values()
    assert held <= {clause for clause, counts in follower.totals.items() if counts.get("pass")}, play.text


def without(what: str) -> Spoil:
    return lambda text: "" if what in text else text


def instead(pattern: str, text: str) -> Spoil:
    return lambda line: re.sub(pattern, text, line)


ADDED = "Add extent [range 0x0000000000000000-0x0000000007ffffff] (00000000-0000-0000-0000-000000000000)"


@pytest.mark.parametrize(
    ("name", "spoil", "clause"),
    [
        ("A1_untagged_add", without("Release response"), "B23.whole"),
        ("A1_untagged_add", without("Add extent"), "B5.survivors"),
        ("A2_untagged_chain", without("more bit set"), "DEV-6.inside"),
        ("A1_untagged_add", instead("Clearing 1$", "Clearing 7"), "L1.clears"),
        ("B1_tagged_add", instead("(starting_dpa)=0 length=8000000", r"\1=0 length=4000000"), "WITNESS.agree"),
        ("B1_tagged_add", without("Release response"), "B23.whole"),
        ("A1_untagged_add", without("Got extent list"), "B26.all"),
        ("A3_no_region", instead("Event log '4': Clearing 1", ADDED), "B12.region"),
    ],
)
def test_a_kernel_that_does_otherwise_is_convicted(name: str, spoil: Spoil, clause: str, tmp_path: Path) -> None:
    play = Play(tmp_path, name, spoil=spoil)
    assert play.all() == 1, play.text
    broken = set(re.findall(r"^BROKEN +mem0 (\S+?):", play.text, re.M))
    assert clause in broken, play.text


@pytest.mark.parametrize(
    ("path", "text", "clause"),
    [
        (f"{CXL}/dax_region0/dax_region/available_size", "4096\n", "B31.available"),
        (f"{CXL}/dax_region0/extent0.1/offset", "0x200000\n", "B5.surfaced"),
        (f"{DAX}/dax0.0/uuid", "5be13bce-ae34-4a77-b6c3-16df975fcf1a\n", "B27.reads"),
        (f"{DAX}/dax0.0/mapping0/start", "0x4a0000000\n", "B30.one"),
    ],
)
def test_sysfs_that_shows_something_else_is_convicted(path: str, text: str, clause: str, tmp_path: Path) -> None:
    play = Play(tmp_path, "A1_untagged_add", until="claim")
    assert play.all() == 0, play.text
    (tmp_path / path).write_text(text)
    play.watcher.turn()
    assert play.watcher.verdict() == 1
    assert f"BROKEN  mem0 {clause}" in play.text


def test_an_alarm_in_the_log_is_a_verdict_of_its_own(tmp_path: Path) -> None:
    play = Play(tmp_path, "A1_untagged_add", until="claim")
    play.all()
    with (tmp_path / "dev/kmsg").open("a") as file:
        file.write("4,900,9000000,-;BUG: kernel NULL pointer dereference, address: 0000000000000008\n")
    play.watcher.turn()
    assert play.watcher.verdict() == 1 and "BROKEN  BUG: BUG: kernel NULL pointer" in play.text


def test_an_alarm_of_before_is_only_noted(tmp_path: Path) -> None:
    plant(tmp_path)
    (tmp_path / "dev/kmsg").write_text("4,1,1,-;WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2\n")
    play = Play(tmp_path, "A0_region_create", planted=True)
    assert "note: before the watch the log had WARN" in play.text
    assert play.all() == 0


@pytest.mark.parametrize("where", ["trace", "log"])
def test_what_was_lost_leaves_the_verdict_open(where: str, tmp_path: Path) -> None:
    play = Play(tmp_path, "A1_untagged_add", until="claim")
    assert play.all() == 0
    if where == "trace":
        with (tmp_path / TRACING / "instances/dcd-watch/trace_pipe").open("a") as file:
            file.write("CPU:0 [LOST 3 EVENTS]\n")
    else:
        with (tmp_path / "dev/kmsg").open("a") as file:
            file.write("6,9000,9000000,-;x\n")
    play.watcher.turn()
    assert play.watcher.verdict() == 4 and "lost from sight" in play.text


def test_a_watch_that_begins_late_takes_what_is_there(tmp_path: Path) -> None:
    """A region, an extent and a claim of before: adopted, and what follows is judged against them."""
    early = Play(tmp_path, "A1_untagged_add", until="claim")
    early.all()
    out = io.StringIO()
    late = Watcher(Options("auto", str(tmp_path), 0.0), out)
    late.begin()
    late.turn(always=True)
    assert late.verdict() == 0, out.getvalue()
    assert "region0 of mem0: 1073741824 bytes, 1 extents are there already" in out.getvalue()
    (follower,) = late.followers.values()
    assert follower.totals["B31.available"] == {"pass": 1} and follower.totals["B30.sum"] == {"pass": 1}
    early.watcher = late
    assert early.all() == 0, out.getvalue()  # destroyed and released, as if it had been seen from the start
    assert follower.totals["B23.each"] == {"pass": 1} and follower.totals["DEV-7.held"] == {"pass": 1}
    (tmp_path / DAX / "dax0.0/size").write_text(f"{64 << 20}\n")
    late.turn()
    assert late.verdict() == 1


def test_which_untagged_extents_came_together_before_the_watch_is_not_guessed(tmp_path: Path) -> None:
    """Two extents of before are released one by one: had they been one chain, both would have gone (Q6)."""
    Play(tmp_path, "A2_untagged_chain", until="claim twice").all()
    out = io.StringIO()
    late = Watcher(Options("auto", str(tmp_path), 0.0), out)
    late.begin()
    for place in (tmp_path / DAX).iterdir():
        (place / "size").write_text("0\n")
        (place / "driver").unlink(missing_ok=True)
        for mapping in place.glob("mapping*"):
            shutil.rmtree(mapping)
    shutil.rmtree(tmp_path / CXL / "dax_region0/extent0.2")
    (tmp_path / CXL / "dax_region0/dax_region/available_size").write_text(f"{128 << 20}\n")
    last = record.read("A2_untagged_chain").steps[-1]
    (block,) = [item for item in last.items if isinstance(item, record.Block)]
    lines = [(at, text) for at, text in block.lines if "0x0000000000000000" not in text]
    with (tmp_path / "dev/kmsg").open("r+") as file:
        for number, (time_ns, text) in enumerate(lines, len(file.readlines())):
            file.write(f"6,{number},{time_ns // 1000},-;{text}\n")
    with (tmp_path / TRACING / "instances/dcd-watch/trace_pipe").open("a") as file:
        file.write(trace_lines("A2_untagged_chain")[-1] + "\n")
    late.turn()
    assert re.search("unknown mem0 B2[0-3]", out.getvalue()) and "BROKEN" not in out.getvalue()
    late.turn(always=True)
    assert late.verdict() == 4 and "BROKEN" not in out.getvalue(), out.getvalue()  # it was taken anew
    (follower,) = late.followers.values()
    assert follower.totals["B5.surfaced"].get("pass") == 1


# -- the program -------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dcdbackend.agent", "watch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def standing(root: Path) -> Path:
    Play(root, "A1_untagged_add", until="claim").all()
    return root


def test_once_looks_and_says_what_it_is(tmp_path: Path) -> None:
    done = run("--once", "--root", str(standing(tmp_path)))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == "kernel 7.2.12-recorded, generation v11 (decoder0.0/cap_dynamic_ram_1)"
    assert lines[-1].startswith("verdict: as the rules of this generation say: ") and "0 broken" in lines[-1]


def test_it_follows_for_a_time_and_can_be_interrupted(tmp_path: Path) -> None:
    standing(tmp_path)
    assert run("--for", "0.3", "--root", str(tmp_path)).returncode == 0
    command = [sys.executable, "-m", "dcdbackend.agent", "watch", "--root", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0 and "already" in first[2] and "verdict" in rest


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--generation", "v12"], "there is auto, A, B-rfc, v10, v11"),
        (["--for", "-1"], "give seconds"),
        (["--for", "nan"], "give seconds"),
        (["--for"], "needs a value"),
        (["--nonsense"], "is not known"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        watch.main(arguments)
    captured = capsys.readouterr()
    assert error.value.code == 2 and told in captured.err and captured.err.count("\n") == 1


def test_a_kernel_without_dcd_says_what_to_do_and_ends_3(tmp_path: Path) -> None:
    done = run("--root", str(tmp_path))
    assert done.returncode == 3 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "shows no Dynamic Capacity support" in done.stderr and "boot one with the DCD series" in done.stderr


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("dev/kmsg", "cannot be read"),
        ("proc/dynamic_debug/control", "build it with DYNAMIC_DEBUG"),
        (f"{TRACING}/events/cxl/cxl_dynamic_capacity", "no event"),
    ],
)
def test_a_kernel_that_cannot_be_followed_ends_3(
    tmp_path: Path, gone: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    standing(tmp_path)
    place = tmp_path / gone
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert watch.main(["--once", "--root", str(tmp_path)]) == 3
    assert told in capsys.readouterr().err


def test_the_installed_command_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["dcd-agent"].partition(":")
    for root, status in ((standing(tmp_path), 0), (tmp_path / "nothing", 3)):
        monkeypatch.setattr(sys, "argv", ["dcd-agent", "watch", "--once", "--root", str(root)])
        assert getattr(importlib.import_module(module), name)() == status


def test_generations_that_look_alike_are_for_the_user_to_tell() -> None:
    found = {"kernel": "x", "generation": {"found": "A/B-rfc", "sure": False, "evidence": ["a", "b"]}}
    with pytest.raises(CannotRun, match="say --generation A, B-rfc or v10"):
        chosen("auto", found)
    assert chosen("A", found) == "A"
    with pytest.raises(CannotRun, match="early DCD series"):
        chosen("auto", {"kernel": "x", "generation": {"found": "early", "evidence": ["dc0"]}})


def test_a_generation_without_its_partition_cannot_be_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch.main(["--generation", "A", "--once", "--root", str(standing(tmp_path))]) == 3
    assert "no DC partition to follow (dynamic_ram_a): mem0" in capsys.readouterr().err
