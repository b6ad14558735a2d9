"""Extents, and sets of them: persistent, sorted, disjoint intervals.

`Intervals` holds its items in a tuple of chunks of at most 512. An update copies one chunk and the short
outer tuple, never the whole: so a state that holds 100,000 extents can be kept, branched from and compared as
cheaply as a small one, and nothing that somebody holds ever changes under him. It is not an interval tree
(items never overlap), and not a mutable container: `add` and the rest return the new set.

`ExtentSet` holds extents; the model keeps stored bytes in the same structure with another payload.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol, Self

    class Interval(Protocol):
        """What `Intervals` can hold: a tuple that begins with start and length (> 0) and can be cut."""

        @property
        def start(self) -> int: ...
        @property
        def length(self) -> int: ...
        def part(self, start: int, length: int, /) -> Self: ...


NULL_TAG = bytes(16)
CHUNK = 512
_SMALL = 64


class Extent(NamedTuple):
    """A range of DPA, its tag (16 bytes, all zero = untagged) and shared sequence (CXL r3.1 8.2.9.2.1.6)."""

    start: int
    length: int
    tag: bytes = NULL_TAG
    sequence: int = 0

    @property
    def end(self) -> int:
        """The first address after it. It may exceed 2**64: whoever takes it from a wire checks."""
        return self.start + self.length

    def part(self, start: int, length: int, /) -> Extent:
        """The piece [start, start + length) of it, tag and sequence kept."""
        return Extent(start, length, self.tag, self.sequence)

    def __str__(self) -> str:
        from .units import format_address, format_size  # here: the guest rarely prints, and imports cost it

        tag = f" tag {self.tag[:2].hex()}.." if self.tag != NULL_TAG else ""
        sequence = f" seq {self.sequence}" if self.sequence or tag else ""
        return f"[{format_address(self.start)}+{format_size(self.length)}{tag}{sequence}]"


T = TypeVar("T", bound="Interval")
_start: Callable[[Any], int] = itemgetter(0)


class Intervals(Generic[T]):
    """A persistent set of disjoint intervals, ordered by start. Equality and hash are by content."""

    __slots__ = ("_chunks", "_count", "_firsts", "_hash", "_total")

    _chunks: tuple[tuple[T, ...], ...]
    _firsts: tuple[int, ...]
    _count: int
    _total: int
    _hash: int

    def __init__(self, items: Iterable[T] = ()) -> None:
        """The set of `items`, in any order. Errors: ValueError when two overlap or one is empty."""
        ordered = sorted(items, key=_start)
        end = 0
        total = mixed = 0
        for item in ordered:
            start, length = item.start, item.length
            if length <= 0 or start < end:
                raise ValueError(f"{item} is empty or overlaps the one before it")
            end = start + length
            total += length
            mixed ^= hash(item)
        chunks = tuple(tuple(ordered[at : at + CHUNK // 2]) for at in range(0, len(ordered), CHUNK // 2))
        self._chunks = chunks
        self._firsts = tuple([chunk[0].start for chunk in chunks])
        self._count = len(ordered)
        self._total = total
        self._hash = mixed

    def _with(
        self, chunks: tuple[tuple[T, ...], ...], firsts: tuple[int, ...], count: int, total: int, mixed: int
    ) -> Self:
        new = object.__new__(self.__class__)
        new._chunks = chunks
        new._firsts = firsts
        new._count = count
        new._total = total
        new._hash = mixed
        return new

    def add(self, item: T) -> Self:
        """The set with `item` in it. Errors: ValueError when it is empty or overlaps one that is there."""
        start, length = item.start, item.length
        firsts, chunks = self._firsts, self._chunks
        if length <= 0:
            raise ValueError(f"{item} is empty")
        if not chunks:
            return self._with(((item,),), (start,), 1, length, hash(item))
        at = bisect_right(firsts, start) - 1
        if at < 0:
            at = position = 0
        else:
            position = bisect_right(chunks[at], start, key=_start)
        chunk = chunks[at]
        if position:
            before = chunk[position - 1]
            if before.start + before.length > start:
                raise ValueError(f"{item} overlaps {before}")
        end = start + length
        if position < len(chunk):
            if chunk[position].start < end:
                raise ValueError(f"{item} overlaps {chunk[position]}")
        elif at + 1 < len(firsts) and firsts[at + 1] < end:
            raise ValueError(f"{item} overlaps {chunks[at + 1][0]}")
        chunk = (*chunk[:position], item, *chunk[position:])
        if len(chunk) > CHUNK:
            half = len(chunk) // 2
            pieces: tuple[tuple[T, ...], ...] = (chunk[:half], chunk[half:])
            firsts = (*firsts[:at], chunk[0].start, chunk[half].start, *firsts[at + 1 :])
        else:
            pieces = (chunk,)
            if not position:
                firsts = (*firsts[:at], start, *firsts[at + 1 :])
        chunks = chunks[:at] + pieces + chunks[at + 1 :]
        return self._with(chunks, firsts, self._count + 1, self._total + length, self._hash ^ hash(item))

    def remove_range(self, start: int, length: int) -> Self:
        """The set without [start, start + length), which must be wholly covered; what it cuts is split.

        Errors: ValueError when a byte of it is not in the set, or it is empty.
        """
        if not self.covers(start, length):
            raise ValueError(f"0x{start:x}+0x{length:x} is not wholly in the set")
        return self.discard_range(start, length)

    def discard_range(self, start: int, length: int) -> Self:
        """The set without whatever of [start, start + length) is in it; what it cuts is split."""
        chunks, firsts = self._chunks, self._firsts
        end = start + length
        first_at, first, last_at, last = self._touched(start, end)
        if (first_at, first) == (last_at, last):
            return self
        if first_at == last_at:
            gone: tuple[T, ...] = chunks[first_at][first:last]
        else:
            inner = [item for chunk in chunks[first_at + 1 : last_at] for item in chunk]
            gone = (*chunks[first_at][first:], *inner, *chunks[last_at][:last])
        kept: list[T] = []
        head, tail = gone[0], gone[-1]
        tail_end = tail.start + tail.length
        if head.start < start:
            kept.append(head.part(head.start, start - head.start))
        if tail_end > end:
            kept.append(tail.part(end, tail_end - end))
        total, mixed = self._total, self._hash
        for item in gone:
            total -= item.length
            mixed ^= hash(item)
        for item in kept:
            total += item.length
            mixed ^= hash(item)
        middle = chunks[first_at][:first] + tuple(kept) + chunks[last_at][last:]
        after = last_at + 1
        if len(middle) < _SMALL:  # many removals must not leave a chunk for each item
            if after < len(chunks) and len(middle) + len(chunks[after]) <= CHUNK // 2:
                middle += chunks[after]
                after += 1
            elif first_at and len(middle) + len(chunks[first_at - 1]) <= CHUNK // 2:
                first_at -= 1
                middle = chunks[first_at] + middle
        if len(middle) > CHUNK:
            half = len(middle) // 2
            pieces: tuple[tuple[T, ...], ...] = (middle[:half], middle[half:])
        else:
            pieces = (middle,) if middle else ()
        starts: tuple[int, ...] = tuple([piece[0].start for piece in pieces])
        return self._with(
            chunks[:first_at] + pieces + chunks[after:],
            firsts[:first_at] + starts + firsts[after:],
            self._count - len(gone) + len(kept),
            total,
            mixed,
        )

    def find(self, address: int) -> T | None:
        """The item that holds `address`, or None."""
        at = bisect_right(self._firsts, address) - 1
        if at < 0:
            return None
        chunk = self._chunks[at]
        item = chunk[bisect_right(chunk, address, key=_start) - 1]
        return item if item.start + item.length > address else None

    def overlaps(self, start: int, length: int) -> bool:
        """Whether any byte of [start, start + length) is in the set. An empty range overlaps nothing."""
        firsts = self._firsts
        if not firsts or length <= 0:
            return False
        end = start + length
        at = bisect_left(firsts, end) - 1
        if at < 0:
            return False
        chunk = self._chunks[at]
        item = chunk[bisect_left(chunk, end, key=_start) - 1]
        return item.start + item.length > start

    def covers(self, start: int, length: int) -> bool:
        """Whether all of [start, start + length) is in the set; adjoining items may cover it together."""
        if length <= 0:
            return False
        item = self.find(start)
        if item is None:
            return False
        end = start + length
        reached = item.start + item.length
        if reached >= end:
            return True
        for item in self.intersecting(reached, end - reached):
            if item.start != reached:
                return False
            reached += item.length
        return reached >= end

    def intersecting(self, start: int, length: int) -> tuple[T, ...]:
        """The items that hold any byte of [start, start + length), whole, in order."""
        first_at, first, last_at, last = self._touched(start, start + length)
        chunks = self._chunks
        if first_at == last_at:
            return chunks[first_at][first:last] if chunks else ()
        inner = [item for chunk in chunks[first_at + 1 : last_at] for item in chunk]
        return (*chunks[first_at][first:], *inner, *chunks[last_at][:last])

    def _touched(self, start: int, end: int) -> tuple[int, int, int, int]:
        """Chunk and position of the first item that ends after `start`, and of the first from `end` on.

        The second position may be the length of its chunk; both are equal where nothing is touched.
        """
        firsts, chunks = self._firsts, self._chunks
        if not firsts or end <= start:
            return 0, 0, 0, 0
        last_at = bisect_left(firsts, end) - 1
        if last_at < 0:
            return 0, 0, 0, 0
        last = bisect_left(chunks[last_at], end, key=_start)
        first_at = bisect_right(firsts, start) - 1
        if first_at < 0:
            return 0, 0, last_at, last
        chunk = chunks[first_at]
        first = bisect_right(chunk, start, key=_start) - 1
        if chunk[first].start + chunk[first].length <= start:
            first += 1
            if first == len(chunk) and first_at < last_at:
                first_at, first = first_at + 1, 0
        return first_at, first, last_at, last

    @property
    def total_bytes(self) -> int:
        """The sum of all lengths."""
        return self._total

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        for chunk in self._chunks:
            yield from chunk

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or not item:
            return False
        found: object = self.find(item[0])
        return found == item

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Intervals):
            return NotImplemented
        if self._hash != other._hash or self._count != other._count or self._total != other._total:
            return False
        return self._chunks == other._chunks or tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return "{" + ", ".join(str(item) for item in self) + "}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


class ExtentSet(Intervals[Extent]):
    """A persistent set of disjoint extents."""

    __slots__ = ()


EMPTY = ExtentSet()
