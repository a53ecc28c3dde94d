"""Which step must wait for those before it: only one that depends on them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import NamedTuple


class Range(NamedTuple):
    """Bytes of a piece of memory, which its ``space`` names."""

    space: int
    first: int
    after: int


class Hazards:
    """What was read and written since the last barrier."""

    def __init__(self) -> None:
        self._reads = _Union()
        self._writes = _Union()

    def add(self, reads: Iterable[Range], writes: Iterable[Range]) -> bool:
        """Add a step's; return whether there must be a barrier before it, which then there is.

        There must where it reads what was written, or writes what was read or written.
        """
        reads, writes = list(reads), list(writes)
        waits = any(map(self._writes.meets, [*reads, *writes])) or any(
            map(self._reads.meets, writes)
        )
        if waits:
            self._reads, self._writes = _Union(), _Union()
        for one in reads:
            self._reads.add(one)
        for one in writes:
            self._writes.add(one)
        return waits


class _Union:
    """The bytes that are in any of some ranges: by space, ranges that do not touch, in order."""

    def __init__(self) -> None:
        self._spaces: dict[int, tuple[list[int], list[int]]] = {}

    def meets(self, one: Range) -> bool:
        """Return whether a range shares a byte with one of them."""
        firsts, afters = self._spaces.get(one.space, ((), ()))
        # Of those that begin before its end, the last ends last.
        before = bisect_left(firsts, one.after)
        return before > 0 and afters[before - 1] > one.first

    def add(self, one: Range) -> None:
        firsts, afters = self._spaces.setdefault(one.space, ([], []))
        # Those that it meets or touches become one with it.
        begin, end = bisect_left(afters, one.first), bisect_right(firsts, one.after)
        first, after = one.first, one.after
        if begin < end:
            first, after = min(first, firsts[begin]), max(after, afters[end - 1])
        firsts[begin:end], afters[begin:end] = [first], [after]
