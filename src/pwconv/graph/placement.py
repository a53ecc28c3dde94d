"""Placement of intermediates in one arena: those in use at the same step never overlap."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Most pairs of values in use at the same step; the search looks at each pair.
_MOST_PAIRS = 2**18


@dataclass(frozen=True)
class Lifetime:
    """A value in use from step ``first``, which writes it, to step ``last``, which reads it last.

    ``size`` is in bytes.
    """

    first: int
    last: int
    size: int


@dataclass(frozen=True)
class Placement:
    """First byte of each value, and the size of the arena in bytes."""

    offsets: tuple[int, ...]
    size: int


def place(lifetimes: Sequence[Lifetime]) -> Placement:
    """Place values in as little memory as a few simple orders find.

    No placement takes less than what is in use at one step, and one that takes no more than that is
    the best there is. In a chain it is found always: values lie at the bottom and at the top in
    turns.
    """
    by_time = sorted(range(len(lifetimes)), key=lambda i: lifetimes[i].first)
    least, pairs = _in_use(lifetimes, by_time)
    best: Placement | None = None
    for offsets in _attempts(lifetimes, by_time, least, pairs):
        ends = (offset + x.size for offset, x in zip(offsets, lifetimes, strict=True))
        placement = Placement(tuple(offsets), max(ends, default=0))
        if placement.size <= least:
            return placement
        if best is None or placement.size < best.size:
            best = placement
    assert best is not None
    return best


def _in_use(lifetimes: Sequence[Lifetime], by_time: Sequence[int]) -> tuple[int, int]:
    """Return the most bytes in use at one step, and how many pairs of values are at some step."""
    in_use = most = pairs = 0
    ending: list[tuple[int, int]] = []
    for i in by_time:
        value = lifetimes[i]
        while ending and ending[0][0] < value.first:
            in_use -= heapq.heappop(ending)[1]
        pairs += len(ending)
        heapq.heappush(ending, (value.last, value.size))
        in_use += value.size
        most = max(most, in_use)
    return most, pairs


def _attempts(
    lifetimes: Sequence[Lifetime], by_time: Sequence[int], least: int, pairs: int
) -> Iterator[list[int]]:
    yield _placed_by_time(lifetimes, by_time, least)
    if pairs <= _MOST_PAIRS:
        yield _placed_by_size(lifetimes, by_time)
    yield _placed_by_time(lifetimes, by_time)


def _placed_by_time(
    lifetimes: Sequence[Lifetime], by_time: Sequence[int], capacity: int | None = None
) -> list[int]:
    """Place values in the order in which they are written, each as low as it can be.

    With a capacity, a value goes to the top of it where something else is at the bottom.
    """
    offsets = [0] * len(lifetimes)
    gaps = _Gaps()
    ending: list[tuple[int, int]] = []
    for i in by_time:
        value = lifetimes[i]
        while ending and ending[0][0] < value.first:
            _, ended = heapq.heappop(ending)
            gaps.give(offsets[ended], offsets[ended] + lifetimes[ended].size)
        high = None
        if capacity is not None and gaps.begins_above_bottom:
            high = gaps.highest(value.size, capacity)
        offsets[i] = gaps.lowest(value.size) if high is None else high
        gaps.take(offsets[i], offsets[i] + value.size)
        heapq.heappush(ending, (value.last, i))
    return offsets


def _placed_by_size(lifetimes: Sequence[Lifetime], by_time: Sequence[int]) -> list[int]:
    """Place values, the largest first, each as low as it can be."""
    offsets: dict[int, int] = {}
    meeting = _meeting(lifetimes, by_time)
    for i in sorted(range(len(lifetimes)), key=lambda i: -lifetimes[i].size):
        taken = sorted(
            (offsets[j], offsets[j] + lifetimes[j].size) for j in meeting[i] if j in offsets
        )
        end = 0
        for first, after in taken:
            if first - end >= lifetimes[i].size:
                break
            end = max(end, after)
        offsets[i] = end
    return [offsets[i] for i in range(len(lifetimes))]


def _meeting(lifetimes: Sequence[Lifetime], by_time: Sequence[int]) -> list[list[int]]:
    """Return, for each value, those that are in use at one of its steps."""
    found: list[list[int]] = [[] for _ in lifetimes]
    in_use: list[int] = []
    for i in by_time:
        in_use = [j for j in in_use if lifetimes[j].last >= lifetimes[i].first]
        for j in in_use:
            found[j].append(i)
        found[i] += in_use
        in_use.append(i)
    return found


class _Gaps:
    """Free ranges of an arena without an end, in order."""

    def __init__(self) -> None:
        self._firsts: list[int] = [0]
        self._afters: list[float] = [math.inf]

    @property
    def begins_above_bottom(self) -> bool:
        return self._firsts[0] > 0

    def lowest(self, size: int) -> int:
        """Return the first byte of the lowest gap of that size."""
        gaps = zip(self._firsts, self._afters, strict=True)
        return next(first for first, after in gaps if after - first >= size)

    def highest(self, size: int, capacity: int) -> int | None:
        """Return the first byte of a value at the top of the highest such gap below a capacity."""
        after: float = capacity
        for first, end in zip(reversed(self._firsts), reversed(self._afters), strict=True):
            after = min(after, end)
            if after - first >= size:
                return int(after) - size
        return None

    def take(self, first: int, after: int) -> None:
        """Take a range that lies in a gap."""
        k = bisect_right(self._firsts, first) - 1
        rest = [(self._firsts[k], first), (after, self._afters[k])]
        kept = [(begin, end) for begin, end in rest if begin < end]
        self._firsts[k : k + 1] = [begin for begin, _ in kept]
        self._afters[k : k + 1] = [end for _, end in kept]

    def give(self, first: int, after: int) -> None:
        """Give back a range that was taken."""
        k = bisect_right(self._firsts, first)
        # It becomes one with the gaps that it touches.
        begin = k - 1 if k > 0 and self._afters[k - 1] == first else k
        end = k + 1 if self._firsts[k] == after else k
        firsts, afters = [*self._firsts[begin:k], first], [after, *self._afters[k:end]]
        self._firsts[begin:end], self._afters[begin:end] = firsts[:1], afters[-1:]
