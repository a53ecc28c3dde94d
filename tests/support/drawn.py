"""Graphs that hypothesis draws, beside their float64 composition."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

import pwconv
from support import inside
from support.mirror import Mirror, Pair

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
    "max_pool",
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
        if kind == "max_pool":
            stride = draw(st.sampled_from([None, 1, (2, 3)]))
            ceil_mode = draw(st.booleans())
            return mirror.max_pool(x, 3, stride=stride, padding=1, ceil_mode=ceil_mode)
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
        shapes = {name: inside.shapes(graph)[i] for name, i in inside.inputs(graph).items()}
        return {n: self.rng.standard_normal(s).astype(self.dtype) for n, s in shapes.items()}

    def resize(self) -> None:
        """Resize to something drawn, if the nodes take it."""
        shapes = self.draw_shapes()
        # Shapes that are equal at one size, before and after a stride, are not at every size.
        with contextlib.suppress(ValueError):
            self.mirror.graph.resize(**shapes)
