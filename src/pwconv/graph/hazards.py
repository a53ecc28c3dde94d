"""Which step must wait for those before it: only one that depends on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Range(NamedTuple):
    """Bytes of a piece of memory, which its ``space`` names."""

    space: int
    first: int
    after: int

    def overlaps(self, other: Range) -> bool:
        """Whether they share a byte."""
        return self.space == other.space and self.first < other.after and other.first < self.after


class Hazards:
    """What was read and written since the last barrier."""

    def __init__(self) -> None:
        self._reads: list[Range] = []
        self._writes: list[Range] = []

    def add(self, reads: Iterable[Range], writes: Iterable[Range]) -> bool:
        """Add a step's; return whether there must be a barrier before it, which then there is.

        There must where it reads what was written, or writes what was read or written.
        """
        reads, writes = list(reads), list(writes)
        waits = _meet(reads, self._writes) or _meet(writes, self._reads + self._writes)
        if waits:
            self._reads, self._writes = [], []
        self._reads += reads
        self._writes += writes
        return waits


def _meet(ranges: list[Range], others: list[Range]) -> bool:
    return any(one.overlaps(other) for one in ranges for other in others)
