"""Graphs drawn at random: every output against float64, at several sizes, memory poisoned."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pwconv
from mirror import Mirror, Pair
from pwconv.vk import api as vk
from pwconv.vk.commands import Recording
from pwconv.vk.resources import Buffer, Image

ACTIVATIONS = (None, "relu", "silu")
# Of images alone, and of values of any axes.
KINDS = (
    "conv2d_pw",
    "strided",
    "conv2d",
    "conv2d_dw",
    "squeeze",
    "concat",
    "slice",
    "upsample",
)
KINDS_OF_ANY_AXES = ("linear", "batched", "activation", "add", "gate")


class Drawn:
    """A graph of nodes that hypothesis chooses; every value that nothing takes is an output."""

    def __init__(self, draw: Callable, device: pwconv.Device, most_nodes: int) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        self.dtype = draw(st.sampled_from(["float32", "float16"]))
        self.storage = draw(st.sampled_from(["texture3d", "buffer"]))
        self.mirror = Mirror(device, self.dtype, self.storage, fuse=draw(st.booleans()))
        self.taken: set[str] = set()
        self.channels = {"x": draw(st.integers(1, 9)), "y": draw(st.integers(1, 9))}
        self.features = draw(st.integers(1, 9))
        # What weights are made for, and a resize keeps.
        self.batches: int | None = None
        self.width: int | None = None
        inputs = [self.mirror.input(name, shape) for name, shape in self.draw_shapes().items()]
        *self.images, rows = inputs
        self.rows = [rows]
        nodes = []
        kinds = st.sampled_from(KINDS + KINDS_OF_ANY_AXES)
        for kind in draw(st.lists(kinds, min_size=1, max_size=most_nodes)):
            of_rows = kind in KINDS_OF_ANY_AXES and draw(st.booleans())
            values = self.rows if of_rows else self.images
            nodes.append(self.node(kind, values))
            values.append(nodes[-1])
        for n, value in enumerate(nodes):
            if value.value.name not in self.taken:
                self.mirror.output(f"out{n}", value)
        for value in inputs:
            name = value.value.name
            if name not in self.taken:
                self.mirror.output(f"of_{name}", self.mirror.activation(value, "relu"))

    def draw_shapes(self) -> dict[str, tuple[int, ...]]:
        draw = self.draw
        batch, height = draw(st.integers(1, 2)), draw(st.integers(2, 11))
        width = draw(st.integers(2, 11)) if self.width is None else self.width
        shapes = {name: (batch, c, height, width) for name, c in self.channels.items()}
        axes = draw(st.lists(st.integers(1, 6), max_size=4))
        if self.batches is not None:
            # Four axes or more are what textures take too.
            axes = [self.batches, *axes, *[1] * (2 - len(axes))]
        return {**shapes, "rows": (*axes, self.features)}

    def take(self, values: list[Pair], shape: tuple[int, ...] | None = None) -> Pair:
        """Choose a value, of a shape, for a node."""
        able = [v for v in values if shape in (None, v.value.shape)]
        value = self.draw(st.sampled_from(able))
        self.taken.add(value.value.name)
        return value

    def weight(self, *shape: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights whose magnitudes sum to one for an output: errors that come in do not grow."""
        weight = self.rng.standard_normal(shape)
        weight /= np.abs(weight).sum(tuple(range(1, len(shape))), keepdims=True)
        return weight.astype(self.dtype), self.rng.standard_normal(shape[0]).astype(self.dtype)

    def node(self, kind: str, values: list[Pair]) -> Pair:
        mirror, draw = self.mirror, self.draw
        x = self.take(values)
        activation = draw(st.sampled_from(ACTIVATIONS))
        if kind in ("linear", "batched"):
            return self.linear(x, activation, batched=kind == "batched")
        if kind == "activation":
            return mirror.activation(x, activation or "sigmoid")
        if kind == "add":
            return mirror.add(x, self.take(values, x.value.shape), activation)
        if kind == "gate":
            return mirror.mul(mirror.activation(x, "tanh"), mirror.activation(x, "sigmoid"))
        c, h, w = x.value.shape[-3:]
        if kind == "conv2d_pw":
            same_size = [v for v in values if v.value.shape[-2:] == (h, w)]
            like = draw(st.sampled_from(same_size)).value.shape
            residual = self.take(values, like) if draw(st.booleans()) else None
            return mirror.conv2d_pw(
                x, *self.weight(like[1], c), activation=activation, residual=residual
            )
        if kind == "strided":
            stride = draw(st.sampled_from([(2, 2), (1, 2), (3, 2)]))
            padding = draw(st.sampled_from([(0, 0), (0, 1)]))
            return mirror.conv2d_pw(x, *self.weight(5, c), stride=stride, padding=padding)
        if kind == "conv2d":
            return mirror.conv2d(x, *self.weight(6, c, 3, 3), stride=2, padding=1)
        if kind == "conv2d_dw":
            return mirror.conv2d_dw(x, *self.weight(c, 1, 3, 3), padding=1, activation=activation)
        if kind == "squeeze":
            pooled = mirror.global_avg_pool(x)
            return mirror.mul(x, mirror.conv2d_pw(pooled, *self.weight(c, c), activation="sigmoid"))
        if kind == "concat":
            return mirror.concat([x, self.take(values, x.value.shape)])
        if kind == "slice":
            start = draw(st.integers(0, c - 1))
            return mirror.slice(x, start, draw(st.integers(start + 1, c)))
        return mirror.upsample(x) if h * w < 200 else mirror.activation(x, "relu")

    def linear(self, x: Pair, activation: str | None, *, batched: bool) -> Pair:
        shape = x.value.shape
        if x in self.images:
            self.width, batched = self.images[0].value.shape[-1], False
        elif len(shape) < (4 if self.storage == "texture3d" else 2):
            batched = False
        n = self.draw(st.integers(1, 9))
        weights = [self.weight(n, shape[-1]) for _ in range(shape[0] if batched else 1)]
        weight, bias = weights[0]
        if batched:
            weight, self.batches = np.stack([one for one, _ in weights]), shape[0]
        return self.mirror.linear(x, weight, bias, activation=activation)

    def arrays(self) -> dict[str, np.ndarray]:
        graph = self.mirror.graph
        shapes = {name: graph._shapes[i] for name, i in graph._inputs.items()}
        return {n: self.rng.standard_normal(s).astype(self.dtype) for n, s in shapes.items()}

    def resize(self) -> None:
        """Resize to something drawn, if the nodes take it."""
        shapes = self.draw_shapes()
        # Shapes that are equal at one size, before and after a stride, are not at every size.
        with contextlib.suppress(ValueError):
            self.mirror.graph.resize(**shapes)


pytestmark = pytest.mark.usefixtures("any_pair")


@settings(max_examples=40)
@given(data=st.data())
def test_any_graph_at_any_size(device, data):
    drawn = Drawn(data.draw, device, most_nodes=20)
    for _ in range(3):
        arrays = drawn.arrays()
        first = drawn.mirror.check(arrays)
        again = drawn.mirror.graph.run(**arrays)
        for name, array in first.items():
            np.testing.assert_array_equal(again[name], array)
        drawn.resize()


@settings(max_examples=25)
@given(data=st.data())
def test_memory_that_is_free_may_hold_anything(device, data):
    """Nodes one by one; after each, what was used for the last time becomes NaN."""
    drawn = Drawn(data.draw, device, most_nodes=12)
    drawn.resize()
    arrays = drawn.arrays()
    drawn.mirror.check(arrays, run_poisoned(drawn.mirror.graph, arrays))


def run_poisoned(graph: pwconv.Graph, arrays: dict[str, np.ndarray]) -> dict[str, pwconv.Tensor]:
    program = graph._current().program
    network, storage = program.network, program.setting.storage
    tensors = {
        network.inputs[name]: graph.device.tensor(array, graph.dtype, storage)
        for name, array in arrays.items()
    }
    for i in network.outputs.values():
        tensors[i] = graph.device._empty(program.shapes[i], graph.dtype, storage)
    commands = program.commands({i: tensor.resource for i, tensor in tensors.items()})
    logical = graph.device._logical
    order, readers = network.order, network.readers()
    last = {i: readers.get(i, [i])[-1] for i in order}
    for i, steps in zip(order, program.steps(commands), strict=True):
        recording = Recording(logical, steps, host_reads=False)
        logical.queue.wait(recording.submit(awaited=True))
        logical.queue.retire(recording.destroy)
        for done in (j for j in order if last[j] == i and j in program._resources):
            poison(graph, program._resources[done])
    return {name: tensors[i] for name, i in network.outputs.items()}


def poison(graph: pwconv.Graph, resource: Buffer | Image) -> None:
    def record(command_buffer: object) -> None:
        if isinstance(resource, Buffer):
            nan = np.full(2, math.nan, graph.dtype).view(np.uint32)[0]
            vk.vkCmdFillBuffer(command_buffer, resource.handle, 0, vk.WHOLE_SIZE, int(nan))
            return
        everything = vk.VkImageSubresourceRange(aspectMask=1, levelCount=1, layerCount=1)
        colour = vk.VkClearColorValue(float32=[math.nan] * 4)
        layout = vk.VK_IMAGE_LAYOUT_GENERAL
        vk.vkCmdClearColorImage(command_buffer, resource.handle, layout, colour, 1, [everything])

    graph.device._logical.queue.run_once(record)


def test_overlapping_memory_is_noticed(device, rng, monkeypatch):
    """The test above fails where everything lies in one place."""
    from pwconv.graph import program

    def place_wrongly(lifetimes):
        size = max(lifetime.size for lifetime in lifetimes)
        return program.Placement((0,) * len(lifetimes), size)

    monkeypatch.setattr(program, "place", place_wrongly)
    mirror = Mirror(device, "float32", "buffer")
    x = mirror.input("x", (1, 3, 4, 4))
    weight = np.eye(3, dtype=np.float32)
    first = mirror.conv2d_pw(x, weight, activation="silu")
    second = mirror.conv2d_pw(first, weight, activation="silu")
    mirror.output("y", mirror.add(first, second))
    arrays = {"x": rng.standard_normal((1, 3, 4, 4)).astype(np.float32)}
    with pytest.raises(AssertionError):
        mirror.check(arrays, run_poisoned(mirror.graph, arrays))
