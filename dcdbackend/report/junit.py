"""JUnit XML of a run, one test case a scenario, as CI systems read it.

fail = failure; unexpected unknown = error; skipped = skipped; a known departure is a pass with a property. `seen` says
what was judged: real, recorded or simulated. The text of a failure is what `dcd check` tells, so that the report can be
read without the run directory.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..checker.explain import tell
from ..checker.verdict import Verdict
from ..errors import CannotRun


class Case(NamedTuple):
    """What a test case is made of. `classname` groups cases; `outcome` is pass, fail, unknown or skipped."""

    classname: str
    name: str
    outcome: str
    reason: str
    seconds: float
    verdict: Verdict | None


def document(cases: Iterable[Case], *, suite: str, seed: int) -> ET.ElementTree[ET.Element]:
    """The whole report as an element tree."""
    listed = list(cases)
    root = ET.Element("testsuites")
    found = ET.SubElement(
        root,
        "testsuite",
        name=suite,
        tests=str(len(listed)),
        failures=_count(listed, "fail"),
        errors=_count(listed, "unknown"),
        skipped=_count(listed, "skipped"),
        time=f"{sum(case.seconds for case in listed):.3f}",
    )
    properties = ET.SubElement(found, "properties")
    ET.SubElement(properties, "property", name="seed", value=str(seed))
    for case in listed:
        _case(found, case)
    ET.indent(root)
    return ET.ElementTree(root)


def writable(path: Path | None) -> None:
    """Told before a run, not after it, where its report cannot go. Errors: CannotRun."""
    if path is None or (not path.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)):
        return
    why = "it is a directory" if path.is_dir() else "no file can be written there"
    raise CannotRun(f"cannot write {path}: {why}; give --junit another file")


def write(path: Path, cases: Iterable[Case], *, suite: str, seed: int) -> None:
    """The report into a file. Errors: CannotRun."""
    try:
        document(cases, suite=suite, seed=seed).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise CannotRun(f"cannot write {path}: {error.strerror}; give --junit another file") from error


def _count(cases: list[Case], outcome: str) -> str:
    return str(sum(1 for case in cases if case.outcome == outcome))


def _case(suite: ET.Element, case: Case) -> None:
    element = ET.SubElement(suite, "testcase", classname=case.classname, name=case.name, time=f"{case.seconds:.3f}")
    if case.verdict is not None:
        properties = ET.SubElement(element, "properties")
        ET.SubElement(properties, "property", name="seen", value=case.verdict.seen)
        for departure in sorted(case.verdict.departures):
            ET.SubElement(properties, "property", name="departure", value=departure)
    tag = {"fail": "failure", "unknown": "error", "skipped": "skipped"}.get(case.outcome)
    if tag is None:
        return
    told = ET.SubElement(element, tag, message=_printable(case.reason))
    if case.verdict is not None:
        told.text = _printable("\n".join(line for finding in case.verdict.failed for line in tell(finding)))


def _printable(text: str) -> str:
    """XML 1.0 has no control characters but tab and newline."""
    return "".join(letter if letter in "\t\n" or letter >= " " else "�" for letter in text)
