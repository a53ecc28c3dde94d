"""Where intermediates lie in one piece of memory: those in use at the same time never overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Lifetime:
    """A value in use from step ``first``, which writes it, to step ``last``, which reads it last.

    ``size`` is in bytes.
    """

    first: int
    last: int
    size: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are in use at the same step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Placement:
    """Each value's first byte, and how many bytes there must be."""

    offsets: tuple[int, ...]
    size: int


def place(lifetimes: Sequence[Lifetime]) -> Placement:
    """Place values in as little memory as a few simple orders find.

    No placement takes less than what is in use at one step, and one that takes no more than that is
    the best there is. In a chain it is found always: values lie at the bottom and at the top in
    turns.
    """
    least = _most_at_once(lifetimes)
    best: Placement | None = None
    for placement in _attempts(lifetimes, least):
        if placement.size <= least:
            return placement
        if best is None or placement.size < best.size:
            best = placement
    assert best is not None
    return best


def _most_at_once(lifetimes: Sequence[Lifetime]) -> int:
    return max(
        (sum(x.size for x in lifetimes if x.first <= y.first <= x.last) for y in lifetimes),
        default=0,
    )


def _attempts(lifetimes: Sequence[Lifetime], least: int) -> Iterator[Placement]:
    by_time = sorted(range(len(lifetimes)), key=lambda i: lifetimes[i].first)
    by_size = sorted(range(len(lifetimes)), key=lambda i: -lifetimes[i].size)
    yield _placed(lifetimes, by_time, least)
    yield _placed(lifetimes, by_size)
    yield _placed(lifetimes, by_time)


def _placed(
    lifetimes: Sequence[Lifetime], order: Sequence[int], capacity: int | None = None
) -> Placement:
    """Place values in an order, each as low as it can be.

    With a capacity, a value goes to the top of it where something else is at the bottom.
    """
    offsets: dict[int, int] = {}
    for i in order:
        value = lifetimes[i]
        taken = sorted(
            (offset, offset + lifetimes[j].size)
            for j, offset in offsets.items()
            if lifetimes[j].meets(value)
        )
        gaps = _gaps(taken)
        fitting = [first for first, after in gaps if after is None or after - first >= value.size]
        offsets[i] = fitting[0]
        if capacity is not None and taken and taken[0][0] == 0:
            ends = [(first, capacity if after is None else after) for first, after in gaps]
            high = [after - value.size for first, after in ends if after - first >= value.size]
            offsets[i] = high[-1] if high else fitting[0]
    size = max((offset + lifetimes[i].size for i, offset in offsets.items()), default=0)
    return Placement(tuple(offsets[i] for i in range(len(lifetimes))), size)


def _gaps(taken: Sequence[tuple[int, int]]) -> list[tuple[int, int | None]]:
    """Return what is free between sorted ranges, each gap's first byte and the one after it."""
    found: list[tuple[int, int | None]] = []
    end = 0
    for first, after in taken:
        if first > end:
            found.append((end, first))
        end = max(end, after)
    return [*found, (end, None)]
