"""Graphs that hypothesis draws, beside their float64 composition."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

import pwconv
from pwconv import reference
from pwconv.ops import rearrange
from support import inside
from support.mirror import Mirror, Pair

ACTIVATIONS = (None, "relu", "silu")
# Of any numbers; those of some numbers alone, and a clamp to these.
FUNCTIONS = (
    *("relu", "relu6", "hardswish", "sigmoid", "silu", "tanh", "gelu", "gelu_tanh", "mish"),
    *("softplus", "erf", "abs", "neg", ("clamp", -0.25, 0.75), ("leaky_relu", 0.1), ("elu", 0.7)),
    *(("hardsigmoid", 0.2, 0.5), ("affine", -0.7, 0.3)),
)
OF_SOME = ("exp", "log", "sqrt", "reciprocal", ("pow", 1.5))
SOME = ("clamp", 0.5, 2.0)
BINARY = ("add", "sub", "mul", "div", "minimum", "maximum", "prelu")
# Of images alone, and of values of any axes.
KINDS = (
    "conv2d_pw",
    "strided",
    "conv2d",
    "conv2d_dw",
    "grouped",
    "transposed",
    "batch_norm",
    "mixer",
    "squeeze",
    "concat",
    "slice",
    "shuffle",
    "max_pool",
    "avg_pool",
    "reduce",
    "upsample",
    "resize_images",
    "prelu",
    "constant",
    "rearrange",
)
KINDS_OF_ANY_AXES = ("linear", "batched", "activation", "add", "gate", "binary", "softmax")
# What may become part of the node before it, by whether that is of images.
FUSED = {True: ("batch_norm", "activation", "add", "conv2d_pw"), False: ("activation", "add")}
LENGTHS = st.sampled_from((1, 1, 2, 3, 5, 7, 8, 11))
# A value past this is clamped for those that take it.
MOST = 16.0


class Drawn:
    """A graph of nodes that hypothesis chooses; every value that nothing takes is an output."""

    def __init__(
        self, draw: Callable, device: pwconv.Device, most_nodes: int, least_nodes: int = 1
    ) -> None:
        self.draw = draw
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32)))
        self.dtype = draw(st.sampled_from(["float32", "float16"]))
        self.storage = draw(st.sampled_from(["texture3d", "buffer"]))
        self.mirror = Mirror(device, self.dtype, self.storage, fuse=draw(st.booleans()))
        self.taken: set[str] = set()
        self.channels = {"x": draw(st.integers(1, 9)), "y": draw(st.integers(1, 9))}
        self.features = draw(st.integers(1, 9))
        self.axes = draw(st.sampled_from([3, 4, 4, 4]))  # of images
        # What weights and views are made for, and a resize keeps.
        self.batches: int | None = None
        self.batch: int | None = None
        self.width: int | None = None
        inputs = [self.mirror.input(name, shape) for name, shape in self.draw_shapes().items()]
        self.known = {name: reference.exact(array) for name, array in self.arrays().items()}
        *self.images, rows = inputs
        self.rows = [rows]
        nodes = []
        kinds = st.sampled_from(KINDS + KINDS_OF_ANY_AXES)
        for kind in draw(st.lists(kinds, min_size=least_nodes, max_size=most_nodes)):
            of_rows = kind in KINDS_OF_ANY_AXES and draw(st.booleans())
            values = self.rows if of_rows else self.images
            made = self.tame(self.node(kind, self.take(values), values))
            of_rows |= len(made.value.shape) != self.axes
            values = self.rows if of_rows else self.images
            if draw(st.booleans()):
                self.taken.add(made.value.name)
                fused = draw(st.sampled_from(FUSED[not of_rows]))
                made = self.tame(self.node(fused, made, [*values, made]))
            values.append(made)
            nodes.append(made)
        for n, value in enumerate(nodes):
            if value.value.name not in self.taken or draw(st.integers(0, 9)) == 0:
                self.mirror.output(f"out{n}", value)
        for value in inputs:
            name = value.value.name
            if name not in self.taken:
                self.mirror.output(f"of_{name}", self.mirror.activation(value, "relu"))

    def draw_shapes(self) -> dict[str, tuple[int, ...]]:
        draw = self.draw
        batch = draw(st.integers(1, 3)) if self.batch is None else self.batch
        height = draw(LENGTHS)
        width = draw(LENGTHS) if self.width is None else self.width
        images = {name: (batch, c, height, width) for name, c in self.channels.items()}
        shapes = {name: shape[-self.axes :] for name, shape in images.items()}
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

    def tame(self, x: Pair) -> Pair:
        """Clamp what has grown: numbers after it stay within the type, and bounds finite."""
        large = self.mirror.about(x, self.known).most.max() > MOST
        return self.mirror.activation(x, ("clamp", -2.0, 2.0)) if large else x

    def weight(self, *shape: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights whose magnitudes sum to one for an output: errors that come in do not grow."""
        weight = self.rng.standard_normal(shape)
        weight /= np.abs(weight).sum(tuple(range(1, len(shape))), keepdims=True)
        return weight.astype(self.dtype), self.rng.standard_normal(shape[0]).astype(self.dtype)

    def some(self, *shape: int) -> np.ndarray:
        return self.rng.uniform(0.5, 2, shape).astype(self.dtype)

    def node(self, kind: str, x: Pair, values: list[Pair]) -> Pair:
        """Add a node over a value, x, which is one of those that it may take besides."""
        mirror, draw = self.mirror, self.draw
        activation = draw(st.sampled_from(ACTIVATIONS))
        if kind in ("linear", "batched"):
            return self.linear(x, activation, batched=kind == "batched")
        if kind == "activation":
            name = draw(st.sampled_from(FUNCTIONS + OF_SOME))
            return mirror.activation(mirror.activation(x, SOME) if name in OF_SOME else x, name)
        if kind == "add":
            return mirror.add(x, self.take(values, x.value.shape), activation)
        if kind == "gate":
            return mirror.mul(mirror.activation(x, "tanh"), mirror.activation(x, "sigmoid"))
        if kind == "binary":
            return self.binary(x, self.take([v for v in values if self.broadcasts(x, v)]))
        if kind == "softmax":
            return mirror.node("softmax", x, draw(st.integers(-3, 3).filter(bool)))
        c, h, w = x.value.shape[-3:]
        if kind == "conv2d_pw":
            same_size = [v for v in values if v.value.shape[-2:] == (h, w)]
            same_size = [v for v in same_size if v.value.shape[:-3] == x.value.shape[:-3]]
            like = draw(st.sampled_from(same_size)).value.shape
            residual = self.take(values, like) if draw(st.booleans()) else None
            return mirror.conv2d_pw(
                x, *self.weight(like[-3], c), activation=activation, residual=residual
            )
        if kind == "mixer":
            hidden = mirror.conv2d_pw(x, *self.weight(2 * c, c), activation=activation)
            residual = x if draw(st.booleans()) else None
            return mirror.conv2d_pw(hidden, *self.weight(c, 2 * c), residual=residual)
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
            gate = mirror.conv2d_pw(pooled, *self.weight(c, c), activation="sigmoid")
            scaled = mirror.mul(*draw(st.permutations([x, gate])))
            return mirror.conv2d_pw(scaled, *self.weight(4, c)) if draw(st.booleans()) else scaled
        if kind == "concat":
            return mirror.concat([x, self.take(values, x.value.shape)])
        if kind == "slice":
            start = draw(st.integers(0, c - 1))
            return mirror.slice(x, start, draw(st.integers(start + 1, c)))
        if kind == "shuffle":
            ends = sorted({0, c, *draw(st.lists(st.integers(0, c), max_size=4))})
            parts = [mirror.slice(x, *each) for each in itertools.pairwise(ends)]
            return mirror.concat(draw(st.permutations(parts)))
        if kind == "prelu":
            return mirror.node("prelu", x, self.some(draw(st.sampled_from([1, c]))))
        if kind == "constant":
            ones = (1,) * (self.axes - 3)
            sizes = draw(st.sampled_from([(1, 1), (2, 3)])) if (h, w) == (1, 1) else (1, 1)
            shape = (*ones, draw(st.sampled_from([1, c])), *sizes)
            constant = mirror.node("constant", self.some(*shape))
            return self.binary(*draw(st.permutations([x, constant])))
        if kind in ("upsample", "transposed", "resize_images") and h * w > 200:
            return mirror.activation(x, "relu")
        if kind == "upsample":
            return mirror.upsample(x)
        return getattr(self, kind)(x, activation)

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

    def broadcasts(self, x: Pair, y: Pair) -> bool:
        shapes = x.value.shape, y.value.shape
        if shapes[0] == shapes[1]:
            return True
        if len(shapes[0]) != len(shapes[1]) or len(shapes[0]) not in (3, 4):
            return False
        return all(a == b or 1 in (a, b) for a, b in zip(*shapes, strict=True))

    def binary(self, x: Pair, y: Pair) -> Pair:
        function = self.draw(st.sampled_from(BINARY))
        if function == "prelu":
            return self.mirror.node("prelu", x, y)
        y = self.mirror.activation(y, SOME) if function == "div" else y
        activation = self.draw(st.sampled_from(ACTIVATIONS))
        return self.mirror.node(function, x, y, activation=activation)

    def window(self, dilations: tuple[int, ...] = (1, 2)) -> tuple[tuple[int, int], dict[str, Any]]:
        """Draw a kernel, and padding by which an image of any size is as large as it."""
        draw, sides = self.draw, []
        kernel, dilation = (
            (draw(st.sampled_from(some)), draw(st.sampled_from(some)))
            for some in ((1, 2, 3), dilations)
        )
        for taps, apart in zip(kernel, dilation, strict=True):
            reach = apart * (taps - 1)
            first = draw(st.integers(0, reach))
            sides.append((first, min(reach - first + draw(st.integers(0, 1)), reach)))
        (top, bottom), (left, right) = sides
        return kernel, {"padding": (top, left, bottom, right), "dilation": dilation}

    def grouped(self, x: Pair, activation: str | None) -> Pair:
        c = x.value.shape[-3]
        groups = self.draw(st.sampled_from([n for n in (1, 2, 3, c) if c % n == 0]))
        kernel, settings = self.window()
        if groups > 1:
            settings |= {"groups": groups, "stride": self.draw(st.sampled_from([1, (2, 1)]))}
            weights = self.weight(groups * self.draw(st.integers(1, 3)), c // groups, *kernel)
            return self.mirror.conv2d(x, *weights, activation=activation, **settings)
        top, left, bottom, right = settings["padding"]
        reach = [d * (k - 1) for d, k in zip(settings["dilation"], kernel, strict=True)]
        settings["residual"] = x if [top + bottom, left + right] == reach else None
        weights = self.weight(c, c, *kernel)
        return self.mirror.conv2d(x, *weights, activation=activation, **settings)

    def transposed(self, x: Pair, activation: str | None) -> Pair:
        draw, c = self.draw, x.value.shape[-3]
        groups = draw(st.sampled_from([n for n in (1, 2, 3, c) if c % n == 0]))
        kernel, settings = self.window()
        top, left = (n - draw(st.integers(0, 1)) for n in settings["padding"][:2])
        reach = [d * (k - 1) for d, k in zip(settings["dilation"], kernel, strict=True)]
        stride = draw(st.sampled_from([(1, 1), (2, 2), (1, 3)]))
        settings |= {
            "padding": (top, left, min(reach[0] - top, 1), min(reach[1] - left, 1)),
            "stride": stride,
            "output_padding": [draw(st.integers(0, s - 1)) for s in stride],
            "groups": groups,
        }
        weight, _ = self.weight(c, draw(st.integers(1, 3)), *kernel)
        bias = self.some(groups * weight.shape[1])
        # Of one input the magnitudes sum to one, and an output is of c inputs at most.
        return self.mirror.node(
            "conv2d_transposed", x, weight / c, bias, activation=activation, **settings
        )

    def batch_norm(self, x: Pair, activation: str | None) -> Pair:
        """By numbers that float16 has, also after they are multiplied with weights."""
        c = x.value.shape[-3]
        mean, bias = self.rng.integers(-8, 9, (2, c)).astype(np.float32) / 8
        variance = self.rng.choice([0.25, 1], c).astype(np.float32)
        weight = self.rng.choice([-1, 1], c).astype(np.float32)
        given = mean, variance, weight, bias
        return self.mirror.node("batch_norm", x, *given, eps=0.0, activation=activation)

    def max_pool(self, x: Pair, _: str | None) -> Pair:
        kernel, settings = self.window((1,))
        settings["stride"] = self.draw(st.sampled_from([None, 1, (2, 3)]))
        return self.mirror.max_pool(x, kernel, ceil_mode=self.draw(st.booleans()), **settings)

    def avg_pool(self, x: Pair, _: str | None) -> Pair:
        kernel, settings = self.window()
        settings["stride"] = self.draw(st.sampled_from([None, 1, (2, 3)]))
        for name in ("ceil_mode", "count_include_pad"):
            settings[name] = self.draw(st.booleans())
        return self.mirror.node("avg_pool", x, kernel, **settings)

    def reduce(self, x: Pair, _: str | None) -> Pair:
        draw = self.draw
        if draw(st.booleans()):
            return self.mirror.node(
                draw(st.sampled_from(["global_avg_pool", "global_max_pool"])), x
            )
        function = draw(st.sampled_from(["sum", "mean", "max", "min", "l2"]))
        axes = draw(st.sampled_from([1, 2, 3, -1, (1, 2), (-1, -3), (2, 3), (1, 2, 3)]))
        # Of no axis that a resize may change.
        keepdims = axes != (2, 3) or draw(st.booleans())
        return self.mirror.node("reduce", x, function, axes, keepdims=keepdims)

    def resize_images(self, x: Pair, _: str | None) -> Pair:
        draw, settings = self.draw, {}
        settings["mode"] = draw(st.sampled_from(["nearest", "linear"]))
        settings["nearest_mode"] = draw(
            st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
        )
        settings["coordinates"] = draw(
            st.sampled_from(["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
        )
        if draw(st.booleans()):
            settings["size"] = draw(LENGTHS), draw(LENGTHS)
        else:
            least = min(x.value.shape[-2:])
            scales = st.sampled_from([s for s in (0.5, 0.6, 1.0, 1.3, 2.0) if s * least >= 1])
            settings["scales"] = draw(scales), draw(scales)
        return self.mirror.node("resize_images", x, **settings)

    def rearrange(self, x: Pair, _: str | None) -> Pair:
        """A view of one size, which a resize does not change."""
        draw, mirror = self.draw, self.mirror
        x = mirror.node("resize_images", x, size=(draw(st.integers(1, 5)), draw(st.integers(1, 5))))
        shape = x.value.shape
        self.batch = self.images[0].value.shape[0] if self.axes == 4 else None
        kind = draw(st.sampled_from(["transpose", "reshape", "slice", "pad", "over"]))
        if kind == "transpose":
            view = rearrange.transpose(shape, draw(st.permutations(range(len(shape)))))
        elif kind == "reshape":
            *leading, c, h, w = shape
            wanted = [(*leading, c * h, w), (*leading, 1, h * w, c), (math.prod(shape),)]
            view = rearrange.reshape(shape, draw(st.sampled_from(wanted)))
        elif kind == "slice":
            sizes = [draw(st.integers(1, n)) for n in shape]
            starts = [n - 1 for n in shape]
            view = rearrange.slice_(shape, starts, [-1] * len(shape), sizes)
        else:
            sides = [[draw(st.integers(-1, 2)) if n > 2 else 1 for n in shape] for _ in range(2)]
            mode = draw(st.sampled_from(["constant", "edge", "reflect", "wrap"]))
            view = rearrange.pad(shape, *sides, "constant" if kind == "over" else mode, 0.5)
        if kind == "over":
            over = mirror.node("constant", self.some(*view.out))
            return mirror.node("add_op", replace(view, over=True), x, over)
        return mirror.node("add_op", view, x)

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the inputs."""
        graph = self.mirror.graph
        return {name: inside.shapes(graph)[i] for name, i in inside.inputs(graph).items()}

    def arrays(self) -> dict[str, np.ndarray]:
        shapes = self.sizes().items()
        return {n: self.rng.standard_normal(s).astype(self.dtype) for n, s in shapes}

    def resize(self) -> None:
        """Resize to something drawn, if the nodes take it."""
        shapes = self.draw_shapes()
        # Shapes that are equal at one size, before and after a stride, are not at every size.
        with contextlib.suppress(ValueError):
            self.mirror.graph.resize(**shapes)
