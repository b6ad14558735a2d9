"""extents: the persistent set against a naive block bitmap, and its edges."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dcdbackend import extents
from dcdbackend.extents import EMPTY, NULL_TAG, Extent, ExtentSet

BLOCKS = 96
TAGS = (NULL_TAG, b"\x11" * 16, b"\x22" * 16)

places = st.integers(0, BLOCKS - 1)
lengths = st.integers(1, 24)


class AgainstBitmap(RuleBasedStateMachine):
    """Every operation on the set and on a list that holds, for each block, the tag of the extent on it or None."""

    def __init__(self) -> None:
        super().__init__()
        self.set = EMPTY
        self.map: list[bytes | None] = [None] * BLOCKS
        self.kept: list[tuple[ExtentSet, list[Extent]]] = []

    @initialize(small=st.booleans())
    def size(self, small: bool) -> None:
        """Small chunks reach the seams between chunks with few extents."""
        self.chunk, self.small = extents.CHUNK, extents._SMALL
        if small:
            extents.CHUNK, extents._SMALL = 4, 2

    def teardown(self) -> None:
        extents.CHUNK, extents._SMALL = self.chunk, self.small
        for old, content in self.kept:
            assert list(old) == content, "a set that somebody held has changed"

    @rule(start=places, length=lengths, tag=st.sampled_from(TAGS))
    def add(self, start: int, length: int, tag: bytes) -> None:
        length = min(length, BLOCKS - start)
        extent = Extent(start, length, tag, 1)
        if any(self.map[start : start + length][at] is not None for at in range(length)):
            with pytest.raises(ValueError, match="overlaps"):
                self.set.add(extent)
            return
        self.set = self.set.add(extent)
        self.map[start : start + length] = [tag] * length

    @rule(start=places, length=lengths)
    def remove(self, start: int, length: int) -> None:
        length = min(length, BLOCKS - start)
        if None in self.map[start : start + length]:
            with pytest.raises(ValueError, match="not wholly"):
                self.set.remove_range(start, length)
            return
        self.set = self.set.remove_range(start, length)
        self.map[start : start + length] = [None] * length

    @rule(start=places, length=lengths)
    def discard(self, start: int, length: int) -> None:
        self.set = self.set.discard_range(start, length)
        for at in range(start, min(start + length, BLOCKS)):
            self.map[at] = None

    @rule()
    def keep(self) -> None:
        self.kept.append((self.set, list(self.set)))

    @rule(start=places, length=lengths)
    def ask(self, start: int, length: int) -> None:
        cells = self.map[start : start + length]
        found = self.set.find(start)
        assert (found is not None) == (cells[0] is not None)
        if found is not None:
            assert found.start <= start < found.end
            assert found.tag == cells[0]
        assert self.set.overlaps(start, length) == any(cell is not None for cell in cells)
        whole = None not in cells and len(cells) == length
        assert self.set.covers(start, length) == whole
        hit = [extent for extent in self.set if extent.start < start + length and start < extent.end]
        assert list(self.set.intersecting(start, length)) == hit

    @invariant()
    def same(self) -> None:
        found = list(self.set)
        cells: list[bytes | None] = [None] * BLOCKS
        for extent in found:
            assert extent.length > 0
            cells[extent.start : extent.end] = [extent.tag] * extent.length
        assert cells == self.map
        assert all(left.end <= right.start for left, right in pairwise(found))
        assert len(self.set) == len(found)
        assert self.set.total_bytes == sum(extent.length for extent in found)
        rebuilt = ExtentSet(found)
        assert rebuilt == self.set
        assert hash(rebuilt) == hash(self.set)
        assert all(0 < len(chunk) <= extents.CHUNK for chunk in self.set._chunks)
        assert self.set._firsts == tuple(chunk[0].start for chunk in self.set._chunks)


TestAgainstBitmap = AgainstBitmap.TestCase
TestAgainstBitmap.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_split_keeps_tag_and_sequence() -> None:
    tag = b"\x33" * 16
    held = EMPTY.add(Extent(0, 100, tag, 7)).remove_range(40, 20)
    assert list(held) == [Extent(0, 40, tag, 7), Extent(60, 40, tag, 7)]


def test_adjoining_extents_cover_together_and_stay_two() -> None:
    held = EMPTY.add(Extent(0, 10)).add(Extent(10, 10))
    assert held.covers(5, 10)
    assert len(held) == 2
    assert held.find(9) == Extent(0, 10)
    assert list(held.remove_range(5, 10)) == [Extent(0, 5), Extent(15, 5)]


def test_empty_ranges_are_nowhere() -> None:
    held = EMPTY.add(Extent(0, 10))
    assert not held.covers(5, 0)
    assert not held.overlaps(5, 0)
    assert held.intersecting(5, 0) == ()
    assert held.discard_range(5, 0) is held
    with pytest.raises(ValueError, match="empty"):
        held.add(Extent(20, 0))
    with pytest.raises(ValueError, match="empty or overlaps"):
        ExtentSet([Extent(0, 4), Extent(2, 4)])


def test_equality_is_by_content_whatever_the_chunks() -> None:
    ordered = ExtentSet([Extent(at * 2, 1) for at in range(2000)])
    grown = EMPTY
    for at in reversed(range(2000)):
        grown = grown.add(Extent(at * 2, 1))
    assert grown == ordered
    assert hash(grown) == hash(ordered)
    assert grown._chunks != ordered._chunks
    assert grown != grown.add(Extent(1, 1))
    assert Extent(0, 1) in grown
    assert Extent(0, 2) not in grown
    assert "x" not in grown


def test_many_removals_do_not_leave_a_chunk_for_each() -> None:
    held = ExtentSet([Extent(at * 2, 1) for at in range(20_000)])
    for at in range(20_000):
        if at % 100:
            held = held.discard_range(at * 2, 1)
    assert len(held) == 200
    assert len(held._chunks) < 20


def test_an_update_shares_what_it_does_not_touch() -> None:
    held = ExtentSet([Extent(at * 4, 2) for at in range(10_000)])
    after = held.add(Extent(2, 1))
    assert after._chunks[1:] == held._chunks[1:]
    assert all(left is right for left, right in zip(after._chunks[1:], held._chunks[1:], strict=True))


def test_an_extent_reads_well_in_a_log() -> None:
    assert str(Extent(0x10000000, 128 << 20, b"\x11" * 16, 0)) == "[0x10000000+128M tag 1111.. seq 0]"
    assert str(Extent(0x10000000, 128 << 20)) == "[0x10000000+128M]"
    assert str(EMPTY.add(Extent(0, 4096))) == "{[0x0+4K]}"
