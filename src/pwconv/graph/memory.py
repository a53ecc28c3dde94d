"""Memory of a graph's intermediates: the order of nodes, placement in an arena, and the arenas."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pwconv.context import Context
from pwconv.dtypes import DType
from pwconv.graph.network import Network
from pwconv.layout import Shape4, buffer_bytes, ceil_div, texture3d_extent
from pwconv.tensor import VK_FORMATS
from pwconv.vk.commands import Size3
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
    order = _Order(network, sizes)
    most = _MOST_SCRATCH * order.peak
    for leaf in [i for i in order.numbers if i not in readers]:
        at = order.step[leaf]
        ahead = order.numbers[at + 1 : at + 1 + _AHEAD]
        beside = [p for p, i in enumerate(ahead, 1) if i in readers and flop(i) > 0]
        for p in sorted(beside, key=lambda p: -flop(ahead[p - 1])):
            if order.put(at, [*ahead[:p], leaf], most):
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
        The most bytes in use at once, in every order so far.
    """

    def __init__(self, network: Network, sizes: Mapping[int, int]) -> None:
        self._nodes, self._sizes = network.nodes, sizes
        self.numbers = network.order
        self.step = dict.fromkeys(range(len(network.nodes)), -1)
        # The step at which each value is taken last, or made where nothing takes it.
        self._last = dict(self.step)
        self._before = [0]  # in use when a step begins, without what it writes
        self.peak = 0
        self.put(0, self.numbers)

    def put(self, at: int, moved: list[int], most: float = math.inf) -> bool:
        """Put nodes at a step and those after it, unless more than ``most`` bytes are in use then.

        Only these steps have other values in use than before.
        """
        to = at + len(moved)
        last = {j: step for step, j in enumerate(moved, at) if self._last[j] == self.step[j]}
        for step, reader in enumerate(moved, at):
            last.update((j, step) for j in self._nodes[reader].inputs if self._last[j] < to)
        freed = dict.fromkeys(range(at, to), 0)
        for j, step in last.items():
            freed[step] += self._sizes.get(j, 0)
        before, peak = [self._before[at]], self.peak
        for step, j in enumerate(moved, at):
            in_use = before[-1] + self._sizes.get(j, 0)
            if in_use > most:
                return False
            peak = max(peak, in_use)
            before.append(in_use - freed[step])
        self.numbers[at:to] = moved
        self.step.update((j, step) for step, j in enumerate(moved, at))
        self._last.update(last)
        self._before[at : to + 1] = before
        self.peak = peak
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
        if best is None or placement.size < best.size:
            best = placement
        if best.size <= least:
            break
    assert best is not None
    return best


def _in_use(lifetimes: Sequence[Lifetime], by_time: Sequence[int]) -> tuple[int, int]:
    """Return the most bytes in use at one step, and how many pairs of values are at some step."""
    in_use = most = pairs = 0
    ending: list[tuple[int, int]] = []
    for i in by_time:
        while ending and ending[0][0] < lifetimes[i].first:
            in_use -= heapq.heappop(ending)[1]
        pairs += len(ending)
        heapq.heappush(ending, (lifetimes[i].last, lifetimes[i].size))
        in_use += lifetimes[i].size
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
    gaps: list[tuple[int, float]] = [(0, math.inf)]  # first byte, and the one after; in order
    ending: list[tuple[int, int]] = []
    for i in by_time:
        size = lifetimes[i].size
        while ending and ending[0][0] < lifetimes[i].first:
            ended = heapq.heappop(ending)[1]
            _give(gaps, offsets[ended], offsets[ended] + lifetimes[ended].size)
        found = None
        if capacity is not None and gaps[0][0] > 0:
            tops = ((first, min(after, capacity)) for first, after in reversed(gaps))
            found = next((int(top) - size for first, top in tops if top - first >= size), None)
        if found is None:
            found = next(first for first, after in gaps if after - first >= size)
        offsets[i] = found
        k = bisect_right(gaps, (found, math.inf)) - 1
        rest = ((gaps[k][0], found), (found + size, gaps[k][1]))
        gaps[k : k + 1] = [(first, after) for first, after in rest if first < after]
        heapq.heappush(ending, (lifetimes[i].last, i))
    return offsets


def _give(gaps: list[tuple[int, float]], first: int, after: float) -> None:
    """Add a gap, which becomes one with those that it touches."""
    k = bisect_right(gaps, (first, after))
    if k < len(gaps) and gaps[k][0] == after:
        after = gaps.pop(k)[1]
    if k > 0 and gaps[k - 1][1] == first:
        k -= 1
        first = gaps.pop(k)[0]
    gaps.insert(k, (first, after))


def _placed_by_size(lifetimes: Sequence[Lifetime], by_time: Sequence[int]) -> list[int]:
    """Place values, the largest first, each as low as it can be."""
    meeting: list[list[int]] = [[] for _ in lifetimes]  # what is in use at one of a value's steps
    in_use: list[int] = []
    for i in by_time:
        in_use = [j for j in in_use if lifetimes[j].last >= lifetimes[i].first]
        meeting[i] += in_use
        for j in in_use:
            meeting[j].append(i)
        in_use.append(i)
    offsets: dict[int, int] = {}
    for i in sorted(range(len(lifetimes)), key=lambda i: -lifetimes[i].size):
        taken = ((offsets[j], offsets[j] + lifetimes[j].size) for j in meeting[i] if j in offsets)
        end = 0
        for first, after in sorted(taken):
            if first - end >= lifetimes[i].size:
                break
            end = max(end, after)
        offsets[i] = end
    return [offsets[i] for i in range(len(lifetimes))]


class Scratch:
    """Arenas that grow: one for buffers and one for images, each made when it is needed."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._arenas: dict[str, Arena] = {}
        # By what a resource is made from: asking means making one.
        self._requirements: dict[int | tuple[Size3, int], Requirements] = {}

    @property
    def reserved(self) -> int:
        """Bytes of device memory."""
        return sum(arena.size for arena in self._arenas.values())

    def requirements(self, storage: str, shape: Shape4, dtype: DType) -> Requirements:
        """Return the requirements of a value, its size a multiple of its alignment."""
        made_of = _made_of(storage, shape, dtype)
        found = self._requirements.get(made_of)
        if found is None:
            if isinstance(made_of, int):
                found = buffer_requirements(self._context, made_of)
            else:
                found = image_requirements(self._context, *made_of)
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
        made_of = _made_of(storage, shape, dtype)
        if isinstance(made_of, int):
            return Buffer(self._context, made_of, place=place)
        return Image(self._context, *made_of, place)


def _made_of(storage: str, shape: Shape4, dtype: DType) -> int | tuple[Size3, int]:
    """Return a buffer's bytes, or an image's extent and format."""
    if storage == "buffer":
        return buffer_bytes(shape, dtype.itemsize)
    return texture3d_extent(shape), VK_FORMATS[dtype]
