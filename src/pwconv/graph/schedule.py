"""Order of nodes: one that no other waits for runs beside a heavy one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from pwconv.graph.network import Network

# Most steps that a node moves by: its input stays in memory until then.
_AHEAD = 8
# Scratch allowed, relative to the least: alignment makes neighbours take a little more than that.
_MOST_SCRATCH = 1 + 1 / 64


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
