"""A network at one set of shapes: planned, placed in memory, and recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from pwconv.graph.memory import Lifetime, Placement, Scratch, place, schedule
from pwconv.graph.network import Network
from pwconv.layout import Shape4
from pwconv.lru import LruCache
from pwconv.ops.base import Site
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import Dispatch, Recording
from pwconv.vk.pipelines import OnProgress, compile_together
from pwconv.vk.queue import Queue
from pwconv.vk.resources import Arena, Place, Requirements, Resource

# Most recordings that are kept over tensors of the caller.
_RECORDINGS_KEPT = 16


def planning(
    site: Site, network: Network, shapes: Sequence[Shape]
) -> Callable[[int], list[Dispatch]]:
    """Return the function that plans a node by its number."""

    def plan(i: int) -> list[Dispatch]:
        node = network.nodes[i]
        assert node.operator is not None
        return node.operator.plan(site, [shapes[j] for j in node.inputs], shapes[i])

    return plan


class Program:
    """Runs a network at one set of shapes.

    Parameters
    ----------
    site : Site
    network : Network
    shapes : sequence of tuple of int
        Of every node.
    scratch : Scratch
        Where intermediates lie; other programs of the graph use it too, in turns.
    on_progress : callable
        As :meth:`pwconv.Graph.compile` says.

    Attributes
    ----------
    site, network, shapes
    dispatches : Mapping
        The dispatches of each node that is run, by its number.
    constants : Mapping
        The resource of each node for which nothing runs, by its number.
    scratch_bytes : int
        Bytes of all intermediates together.
    """

    def __init__(
        self,
        site: Site,
        network: Network,
        shapes: Sequence[Shape],
        scratch: Scratch,
        on_progress: OnProgress = lambda *_: None,
    ) -> None:
        self.site = site
        self.network = network
        self.shapes = shapes
        self._scratch = scratch
        self.constants = self._constants()
        self._wants = self._requirements()
        sizes = {i: wants.size for i, wants in self._wants.items()}
        order = [i for i in schedule(network, sizes, self.flop) if i not in self.constants]
        self.dispatches: Mapping[int, list[Dispatch]] = compile_together(
            planning(site, network, shapes), order, on_progress
        )
        self._placement, self._wanted = self._place(order)
        self._arena: Arena | None = None
        self._resources: dict[int, Resource] = {}
        self._recordings: LruCache[tuple[int, ...], Recording] = LruCache(_RECORDINGS_KEPT)
        self._rebind()

    @property
    def scratch_bytes(self) -> int:
        """Bytes of all intermediates together."""
        return self._placement.size

    @property
    def generation(self) -> int:
        """Number that changes when earlier recordings must not be submitted any more."""
        self._rebind()
        return self._arena.uid if self._arena else -1

    def flop(self, i: int) -> int:
        """Return a node's arithmetic operations."""
        node = self.network.nodes[i]
        assert node.operator is not None
        return node.operator.flop([self.shapes[j] for j in node.inputs], self.shapes[i])

    def least_bytes(self, i: int) -> int:
        """Return the bytes that a node reads and writes, each once, its weight included."""
        node = self.network.nodes[i]
        assert node.operator is not None
        elements = sum(math.prod(self.shapes[j]) for j in {*node.inputs, i})
        return elements * self.site.dtype.itemsize + node.operator.weight_bytes

    def shape4(self, i: int) -> Shape4:
        """Return a node's shape, with a batch."""
        return shape4(self.shapes[i], self.network.nodes[i].name)

    def recording(self, given: Mapping[int, Resource]) -> Recording:
        """Return the recording over the resources of inputs and outputs, by node."""
        self._rebind()
        key = tuple(resource.uid for resource in given.values())
        known = self._recordings.find(key)
        if known is not None:
            return known
        return self._recordings.keep(key, Recording(self._queue, self.groups(given)))

    def groups(self, given: Mapping[int, Resource]) -> list[list[Dispatch]]:
        """Return each node's dispatches, in order, over the inputs' and outputs' resources."""
        self._rebind()
        resources = {**self.constants, **self._resources, **given}
        return [
            [
                each.bind([resources[j] for j in self.network.nodes[i].inputs], resources[i])
                for each in dispatches
            ]
            for i, dispatches in self.dispatches.items()
        ]

    # -- inside -----------------------------------------------------------------------------------

    @property
    def _queue(self) -> Queue:
        return self.site.context.queue

    def _constants(self) -> dict[int, Resource]:
        found = {}
        for i in self.network.order:
            node = self.network.nodes[i]
            resource = node.operator.resident(self.site) if node.operator else None
            if resource is not None:
                found[i] = resource
        return found

    def _requirements(self) -> dict[int, Requirements]:
        """Return the memory requirements of each intermediate, by node."""
        outputs = set(self.network.outputs.values())
        storage, dtype = self.site.storage, self.site.dtype
        return {
            i: self._scratch.requirements(storage, self.shape4(i), dtype)
            for i in self.network.order
            if i not in outputs and i not in self.constants
        }

    def _place(self, order: Sequence[int]) -> tuple[Placement, Requirements]:
        """Return the placement of the intermediates, and their requirements together."""
        step = {i: position for position, i in enumerate(order)}
        readers = self.network.readers()
        alignment = max((wants.alignment for wants in self._wants.values()), default=1)
        types = -1
        lifetimes = []
        for i, wants in self._wants.items():
            types &= wants.memory_types
            size = -(-wants.size // alignment) * alignment
            lifetimes.append(Lifetime(step[i], max(step[j] for j in readers[i]), size))
        placement = place(lifetimes)
        return placement, Requirements(placement.size, alignment, types)

    def _rebind(self) -> None:
        """Recreate the intermediates if the arena was replaced; drop recordings over the old."""
        if not self._wants:
            return
        arena = self._scratch.arena(self.site.storage, self._wanted)
        if arena is self._arena:
            return
        self._recordings.clear()
        for i, offset in zip(self._wants, self._placement.offsets, strict=True):
            self._resources[i] = self._scratch.resource(
                self.site.storage, self.shape4(i), self.site.dtype, Place(arena, offset)
            )
        # Last: where one of them could not be made, the next call makes all of them anew.
        self._arena = arena
