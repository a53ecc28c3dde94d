"""Memory of a graph's intermediates: the order of nodes, placement in an arena, and the arenas."""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pwconv.context import Context
from pwconv.dtypes import DType
from pwconv.graph.network import Network
from pwconv.layout import Shape4, buffer_bytes, ceil_div, texture3d_extent
from pwconv.tensor import VK_FORMATS
from pwconv.vk.resources import (
    Arena,
    Buffer,
    Image,
    Place,
    Requirements,
    Resource,
    buffer_requirements,
    image_requirements,
)

# Most steps that a node moves by: its input stays in memory until then.
_AHEAD = 8
# Scratch allowed, relative to the least: alignment makes neighbours take a little more than that.
_MOST_SCRATCH = 1 + 1 / 64
# Most pairs of values in use at the same step; the search looks at each pair.
_MOST_PAIRS = 2**18


def schedule(network: Network, sizes: Mapping[int, int], flop: Callable[[int], int]) -> list[int]:
    """Return the numbers of a network's nodes in the order to run, each after its inputs.

    A node without readers can wait. It moves beside the heaviest of the next few nodes, unless
    intermediates would take more memory, and runs at the same time: each alone leaves part of the
    device idle.

    On an NVIDIA H100 (2026-11-22) that took the 55 layers of EdgeTAM from 546 to 536 µs, and with
    slower pairs from 580 to 560: two branches of its neck run beside a mixer each.

    Parameters
    ----------
    network : Network
    sizes : Mapping
        Bytes of each intermediate.
    flop : callable
        Gives a node's arithmetic operations.
    """
    readers = network.readers()
    order = _Order(network, network.order, sizes)
    most = _MOST_SCRATCH * order.peak
    for leaf in [i for i in order.numbers if i not in readers]:
        at = order.step[leaf]
        ahead = order.numbers[at + 1 : at + 1 + _AHEAD]
        beside = [p for p, i in enumerate(ahead, at + 1) if i in readers and flop(i) > 0]
        for p in sorted(beside, key=lambda p: -flop(order.numbers[p])):
            if order.move(leaf, p, most):
                break
    return order.numbers


class _Order:
    """Nodes in the order in which they run, and the bytes of intermediates in use.

    Attributes
    ----------
    numbers : list of int
    step : dict
        The position of each node.
    peak : int
        The most bytes in use at once, before any move.
    """

    def __init__(self, network: Network, numbers: list[int], sizes: Mapping[int, int]) -> None:
        self._nodes = network.nodes
        self._sizes = sizes
        self.numbers = numbers
        self.step = {i: step for step, i in enumerate(numbers)}
        # The step at which each value is taken last, or made where nothing takes it.
        self._last = dict(self.step)
        for step, reader in enumerate(numbers):
            self._last.update(dict.fromkeys(self._nodes[reader].inputs, step))
        freed = [0] * len(numbers)
        for i in numbers:
            freed[self._last[i]] += sizes.get(i, 0)
        used = [sizes.get(i, 0) for i in numbers]
        # In use when a step begins, without what it writes.
        changes = (new - gone for new, gone in zip(used, freed, strict=True))
        self._before = list(itertools.accumulate(changes, initial=0))
        self.peak = max(map(sum, zip(self._before, used, strict=False)), default=0)

    def move(self, i: int, to: int, most: float) -> bool:
        """Move a node ahead to a position, unless more than ``most`` bytes are in use then.

        Only steps from one position to the other have other values in use than before.
        """
        at = self.step[i]
        moved = [*self.numbers[at + 1 : to + 1], i]
        last = {j: step for step, j in enumerate(moved, at) if self._last[j] == self.step[j]}
        for step, reader in enumerate(moved, at):
            taken = self._nodes[reader].inputs
            last.update((j, step) for j in taken if self._last[j] <= to)
        freed: dict[int, int] = {}
        for j, step in last.items():
            freed[step] = freed.get(step, 0) + self._sizes.get(j, 0)
        before = [self._before[at]]
        for step, j in enumerate(moved, at):
            in_use = before[-1] + self._sizes.get(j, 0)
            if in_use > most:
                return False
            before.append(in_use - freed.get(step, 0))
        self.numbers[at : to + 1] = moved
        self.step.update((j, step) for step, j in enumerate(moved, at))
        self._last.update(last)
        self._before[at : to + 2] = before
        return True


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


class Scratch:
    """Arenas that grow: one for buffers and one for images, each made when it is needed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._arenas: dict[str, Arena] = {}
        # By storage and what a resource is made from: asking means making one.
        self._requirements: dict[tuple[object, ...], Requirements] = {}

    @property
    def reserved(self) -> int:
        """Bytes of device memory."""
        return sum(arena.size for arena in self._arenas.values())

    def requirements(self, storage: str, shape: Shape4, dtype: DType) -> Requirements:
        """Return the requirements of a value, its size a multiple of its alignment."""
        made_of: tuple[object, ...]
        if storage == "buffer":
            size = buffer_bytes(shape, dtype.itemsize)
            made_of = (storage, size)
        else:
            extent = texture3d_extent(shape)
            made_of = (storage, extent, dtype)
        found = self._requirements.get(made_of)
        if found is None:
            if storage == "buffer":
                found = buffer_requirements(self._context, size)
            else:
                found = image_requirements(self._context, extent, VK_FORMATS[dtype])
            found = found._replace(size=ceil_div(found.size, found.alignment) * found.alignment)
            self._requirements[made_of] = found
        return found

    def arena(self, storage: str, wanted: Requirements) -> Arena:
        """Return an arena of at least that size: the current one, or a new one in its place.

        Raises
        ------
        OutOfMemoryError
            The old arena is then still there.
        """
        known = self._arenas.get(storage)
        if known is not None and known.size >= wanted.size:
            return known
        new = self._arenas[storage] = Arena(self._context, *wanted, image=storage == "texture3d")
        if known is not None:  # programs that hold it, too, make their resources anew
            self._context.retire(known.destroy)
        return new

    def resource(self, storage: str, shape: Shape4, dtype: DType, place: Place) -> Resource:
        """Return a value's resource in an arena."""
        if storage == "buffer":
            return Buffer(self._context, buffer_bytes(shape, dtype.itemsize), place=place)
        return Image(self._context, texture3d_extent(shape), VK_FORMATS[dtype], place)
