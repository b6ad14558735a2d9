"""The tree of errors: what its docstring draws is what there is."""

from __future__ import annotations

import re

import pytest

from dcdbackend import errors


def everything(root: type[errors.DcdError]) -> list[type[errors.DcdError]]:
    below = [kind for kind in root.__subclasses__() if kind.__module__ == errors.__name__]
    return [root, *(found for kind in below for found in everything(kind))]


def test_the_docstring_draws_the_tree_with_its_exit_codes() -> None:
    drawn = {found[1]: int(found[2]) for found in re.finditer(r"[├└]── (\w+)\s+(\d+) ", errors.__doc__ or "")}
    assert drawn == {kind.__name__: kind.exit_code for kind in everything(errors.DcdError)[1:]}


def test_an_error_shows_what_was_sent_and_what_came_back_in_one_line() -> None:
    error = errors.Refused("the add was refused", reason="no", sent={"execute": "x"}, received=b"\x01" * 100)
    text = str(error)
    assert text.startswith("the add was refused; sent: {'execute': 'x'}; received: 0101")
    assert text.endswith("... (100 bytes)")
    assert "\n" not in text


def test_malformed_bytes_travel_with_their_place() -> None:
    error = errors.MalformedBytes("too short", structure="DcResponse", data=b"\x01\x02", offset_bytes=1)
    assert (error.data, error.offset_bytes, error.structure) == (b"\x01\x02", 1, "DcResponse")
    assert str(error) == "DcResponse: too short (at byte 1 of 2); received: 0102"


@pytest.mark.parametrize(("line", "start"), [(3, "line 3: torn"), (0, "torn")])
def test_a_bad_history_names_its_line(line: int, start: str) -> None:
    assert str(errors.BadHistory("torn", line=line)) == start
