"""The JUnit report: outcomes where a CI system looks for them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from dcdbackend.checker import check
from dcdbackend.checker.notation import header, parse
from dcdbackend.cli import run
from dcdbackend.errors import CannotRun
from dcdbackend.report.junit import Case, document, writable, write

GOOD = "add 0+4M; events; accept; clear; block 0"
BAD = "add 0+4M; events; accept; clear; block 0 -> free"


def case(name: str, outcome: str, script: str = GOOD, reason: str = "why") -> Case:
    return Case("direct", name, outcome, reason, 0.25, check(parse(script), header()))


def test_each_outcome_is_where_a_ci_system_looks() -> None:
    cases = [
        case("good", "pass"),
        case("bad", "fail", BAD, "device breaks DEV-6.taken"),
        case("silent", "unknown"),
        Case("direct", "tags", "skipped", "needs tags", 0.0, None),
    ]
    suite = document(cases, suite="dcd regress", seed=7).getroot().find("testsuite")
    assert suite is not None
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
    }
    found = {element.get("name"): element for element in suite.findall("testcase")}
    assert [element.tag for element in found["good"]] == ["properties"]
    failure = found["bad"].find("failure")
    assert failure is not None and failure.text is not None
    assert failure.get("message") == "device breaks DEV-6.taken"
    assert "DEV-6.taken broken, device mem0" in failure.text
    assert found["silent"].find("error") is not None
    skipped = found["tags"].find("skipped")
    assert skipped is not None and skipped.get("message") == "needs tags"


def test_a_departure_is_a_pass_with_a_property() -> None:
    script = "add 0+4M; events; accept; clear; list; release; list"
    verdict = check(
        parse(script, departures=frozenset({"QEMU-generation"})), header(), departures=frozenset({"QEMU-generation"})
    )
    assert verdict.departures == {"QEMU-generation"}
    made = document([Case("direct", "list", "pass", "", 0.1, verdict)], suite="s", seed=1)
    element = made.getroot().find("testsuite/testcase")
    assert element is not None
    found = [(one.get("name"), one.get("value")) for one in element.findall("properties/property")]
    assert found == [("seen", "simulated"), ("departure", "QEMU-generation")]
    assert element.find("failure") is None


@pytest.mark.parametrize(
    ("backend", "simulated", "seen"),
    [("qemu", False, "real"), ("recorded", False, "recorded"), ("recorded", True, "simulated"),
     ("emulator", False, "simulated")],
)  # fmt: skip
def test_each_case_says_where_it_was_seen(backend: str, simulated: bool, seen: str) -> None:
    """A green case on the emulator must not pass for one on a kernel, once it is in a CI system."""
    head = header()._replace(backend=backend, host={"simulated": True} if simulated else {})
    made = document([Case("direct", "x", "pass", "", 0.1, check(parse(GOOD), head))], suite="s", seed=1)
    found = made.getroot().findall("testsuite/testcase/properties/property[@name='seen']")
    assert [one.get("value") for one in found] == [seen]
    skipped = document([Case("direct", "x", "skipped", "why", 0.0, None)], suite="s", seed=1)
    assert skipped.getroot().findall("testsuite/testcase/properties") == []


def test_whatever_a_reason_holds_the_file_is_xml(tmp_path: Path) -> None:
    write(tmp_path / "j.xml", [case("x", "fail", BAD, 'a <b> & "c" \x00\x1b[31m')], suite="s", seed=1)
    root = ET.parse(tmp_path / "j.xml").getroot()
    assert root.find("testsuite/testcase/failure") is not None


def test_a_file_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CannotRun, match="give --junit another file"):
        write(tmp_path / "no" / "j.xml", [], suite="s", seed=1)


def test_it_is_told_before_the_run_that_it_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for where in (tmp_path / "no" / "j.xml", tmp_path):
        argv = ["regress", "--backend", "emulator", "-s", "add", "--run-dir", str(tmp_path / "run")]
        assert run([*argv, "--junit", str(where)]) == 3
        told = capsys.readouterr()
        assert told.err.startswith(f"dcd: cannot write {where}: ") and not told.out
        assert not (tmp_path / "run").exists()
    writable(tmp_path / "j.xml")
    writable(None)
