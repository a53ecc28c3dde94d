"""A network at one set of shapes: planned, placed in memory, and recorded."""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pwconv.dispatch import Dispatch, Resource
from pwconv.graph.hazards import Hazards, Range
from pwconv.graph.network import Network
from pwconv.graph.operations import Launch, Setting
from pwconv.graph.placement import Lifetime, Placement, place
from pwconv.graph.schedule import schedule
from pwconv.graph.scratch import Scratch
from pwconv.layout import Shape4
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import Recording, Step
from pwconv.vk.logical_device import LogicalDevice
from pwconv.vk.resources import Arena, Image, Place, Requirements

# Of recordings over tensors that the caller brought.
_RECORDINGS_KEPT = 16


@dataclass(frozen=True, eq=False)
class Command:
    """Dispatches that do not depend on each other, and what they read and write together."""

    dispatches: Sequence[Dispatch]
    reads: Sequence[Resource]
    writes: Sequence[Resource]


class Program:
    """Runs a network at one set of shapes.

    Parameters
    ----------
    setting : Setting
    network : Network
    shapes : sequence of tuple of int
        Of every node.
    scratch : Scratch
        Where intermediates lie; other programs of the graph use it too, in turns.

    Attributes
    ----------
    setting, network, shapes
    launches : Mapping
        The dispatches of each node that is run, by its number.
    scratch_bytes : int
        What the intermediates take together.
    """

    def __init__(
        self, setting: Setting, network: Network, shapes: Sequence[Shape], scratch: Scratch
    ) -> None:
        self.setting = setting
        self.network = network
        self.shapes = shapes
        self._scratch = scratch
        self._wants = self._requirements()
        sizes = {i: wants.size for i, wants in self._wants.items()}
        order = schedule(network, sizes, self.flop)
        self.launches: Mapping[int, list[Launch]] = {i: self._plan(i) for i in order}
        self._placement, self._wanted = self._place(order)
        self._arena: Arena | None = None
        self._resources: dict[int, Resource] = {}
        self._ranges: dict[int, Range] = {}
        self._recordings: OrderedDict[tuple[int, ...], Recording] = OrderedDict()
        self._settle()

    @property
    def scratch_bytes(self) -> int:
        """What the intermediates take together."""
        return self._placement.size

    @property
    def generation(self) -> int:
        """Changes when what was recorded before must not be submitted any more."""
        self._settle()
        return self._arena.uid if self._arena else -1

    def flop(self, i: int) -> int:
        """Return a node's arithmetic operations."""
        node = self.network.nodes[i]
        assert node.operation is not None
        return node.operation.flop([self.shapes[j] for j in node.inputs], self.shapes[i])

    def least_bytes(self, i: int) -> int:
        """Return what a node reads and writes, each once, its weight included."""
        node = self.network.nodes[i]
        assert node.operation is not None
        elements = sum(math.prod(self.shapes[j]) for j in {*node.inputs, i})
        return elements * self.setting.dtype.itemsize + node.operation.weight_bytes

    def shape4(self, i: int) -> Shape4:
        """Return a node's shape, with a batch."""
        return shape4(self.shapes[i], self.network.nodes[i].name)

    def recording(self, given: Mapping[int, Resource]) -> Recording:
        """Return the recording over the resources of inputs and outputs, by node."""
        self._settle()
        key = tuple(resource.uid for resource in given.values())
        known = self._recordings.get(key)
        if known is not None:
            self._recordings.move_to_end(key)
            return known
        new = self._recordings[key] = self.record(self.commands(given))
        if len(self._recordings) > _RECORDINGS_KEPT:
            self._recordings.popitem(last=False)
        return new

    def record(self, commands: Sequence[Command], *, host_reads: bool = False) -> Recording:
        """Record commands, each after those before it that it depends on."""
        steps = [step for command in self.steps(commands) for step in command]
        return Recording(self._device, steps, host_reads=host_reads)

    def commands(self, given: Mapping[int, Resource]) -> list[Command]:
        """Return each node's, in order, over the resources of inputs and outputs, by node."""
        self._settle()
        resources = {**self._resources, **given}
        commands = []
        for i, launches in self.launches.items():
            inputs = [resources[j] for j in self.network.nodes[i].inputs]
            dispatches = [launch.bind(inputs, resources[i]) for launch in launches]
            commands.append(Command(dispatches, inputs, [resources[i]]))
        return commands

    def steps(self, commands: Sequence[Command]) -> list[list[Step]]:
        """Return the steps of each command, with the waits that there must be."""
        hazards = Hazards()
        steps: list[list[Step]] = []
        unwritten = {r.uid: r for r in self._resources.values() if isinstance(r, Image)}
        discards: dict[int, list[Image]] = {}
        last_wait = 0
        for position, command in enumerate(commands):
            waits = hazards.add(map(self._range, command.reads), map(self._range, command.writes))
            if waits:
                last_wait = position
            for resource in command.writes:
                # Nothing since the last wait has touched its memory: that is the place for it.
                image = unwritten.pop(resource.uid, None)
                if image is not None:
                    discards.setdefault(last_wait, []).append(image)
            steps.append(
                [
                    dataclasses.replace(dispatch.step, waits=waits and first == 0)
                    for first, dispatch in enumerate(command.dispatches)
                ]
            )
        for position, images in discards.items():
            steps[position][0] = dataclasses.replace(steps[position][0], discards=tuple(images))
        return steps

    # -- inside -----------------------------------------------------------------------------------

    @property
    def _device(self) -> LogicalDevice:
        return self.setting.dispatcher.device

    def _plan(self, i: int) -> list[Launch]:
        node = self.network.nodes[i]
        assert node.operation is not None
        shapes = [self.shapes[j] for j in node.inputs]
        return node.operation.launches(self.setting, shapes, self.shapes[i])

    def _requirements(self) -> dict[int, Requirements]:
        """Return what memory each intermediate wants, by node."""
        outputs = set(self.network.outputs.values())
        storage, dtype = self.setting.storage, self.setting.dtype
        return {
            i: self._scratch.requirements(storage, self.shape4(i), dtype)
            for i in self.network.order
            if i not in outputs
        }

    def _place(self, order: Sequence[int]) -> tuple[Placement, Requirements]:
        """Return where intermediates lie, and what they want together."""
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

    def _settle(self) -> None:
        """Have the resources in the arena as it is now."""
        if not self._wants:
            return
        arena = self._scratch.arena(self.setting.storage, self._wanted)
        if arena is self._arena:
            return
        self._recordings.clear()
        for (i, wants), offset in zip(self._wants.items(), self._placement.offsets, strict=True):
            resource = self._scratch.resource(
                self.setting.storage, self.shape4(i), self.setting.dtype, Place(arena, offset)
            )
            self._resources[i] = resource
            self._ranges[resource.uid] = Range(-1, offset, offset + wants.size)
        # Last: where one of them could not be made, the next call makes all of them anew.
        self._arena = arena

    def _range(self, resource: Resource) -> Range:
        return self._ranges.get(resource.uid) or Range(resource.uid, 0, 1)
