"""Nodes drawn at random, in every form that ONNX Runtime computes.

What it computes otherwise than ONNX says, or not at all, is not drawn: pools of auto_pad SAME that
are dilated, or of strides past the kernel, and images resized to the size that they have.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from support.models import make_model

_REACH = 5  # of the largest window, dilated


@dataclass
class Drawn:
    """A node of the input x, and its constants by name."""

    kind: str
    shape: list[int]
    names: list[str] = field(default_factory=lambda: ["x"])
    attributes: dict[str, Any] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    opset: int = 13
    outputs: int = 1

    def give(self, name: str, value: Any, dtype: Any = np.int64) -> None:
        self.constants[name] = np.asarray(value, dtype)
        self.names.append(name)


class Draw(random.Random):
    """Random numbers, in the forms that nodes take."""

    def some(self, most_axes: int = 5, longest: int = 5, least_axes: int = 1) -> list[int]:
        return [self.randint(1, longest) for _ in range(self.randint(least_axes, most_axes))]

    def image(self, least: int = 1) -> list[int]:
        h, w = self.randint(least, 9), self.randint(least, 9)
        return [self.randint(1, 3), self.randint(1, 9), h, w]

    def array(self, *shape: int) -> np.ndarray:
        return np.random.default_rng(self.getrandbits(32)).standard_normal(shape, np.float32)

    def yes(self) -> bool:
        return self.random() < 0.5

    def window(self, attributes: dict[str, Any]) -> tuple[int, int]:
        """Draw strides and padding; return a kernel."""
        kernel = self.randint(1, 3), self.randint(1, 3)
        if self.yes():
            attributes["strides"] = [self.randint(1, 3), self.randint(1, 3)]
        way = self.choice(["none", "pads", "auto"])
        if way == "pads":
            attributes["pads"] = [self.randint(0, k - 1) for k in kernel * 2]
        elif way == "auto":
            attributes["auto_pad"] = self.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
            pairs = zip(attributes.get("strides", kernel), kernel, strict=True)
            attributes["strides"] = [min(stride, k) for stride, k in pairs]
        if way != "auto" and self.yes():
            attributes["dilations"] = [self.randint(1, 2), self.randint(1, 2)]
        return kernel


DRAWS: dict[str, Callable[[Draw], Drawn]] = {}


def draws(function: Callable[[Draw], Drawn]) -> Callable[[Draw], Drawn]:
    DRAWS[function.__name__] = function
    return function


def draw_node(seed: int) -> tuple[onnx.ModelProto, np.ndarray]:
    """Return a model of one node, and its input."""
    draw = Draw(seed)
    drawn = DRAWS[draw.choice([*DRAWS])](draw)
    outputs = [f"y{i}" for i in range(drawn.outputs)]
    node = helper.make_node(drawn.kind, drawn.names, outputs, **drawn.attributes)
    model = make_model([node], {"x": drawn.shape}, outputs, drawn.constants, opset=drawn.opset)
    return model, draw.array(*drawn.shape)


@draws
def convolution(draw: Draw) -> Drawn:
    drawn = Drawn("Conv", draw.image(_REACH))
    groups, channels = draw.choice([(1, 3), (2, 2), (3, 1), (5, 1)])
    drawn.shape[1] = groups * channels
    drawn.attributes["group"] = groups
    kernel = draw.window(drawn.attributes)
    out = groups * draw.randint(1, 3)
    drawn.give("w", draw.array(out, channels, *kernel), np.float32)
    if draw.yes():
        drawn.give("b", draw.array(out), np.float32)
    return drawn


@draws
def transposed_convolution(draw: Draw) -> Drawn:
    drawn = Drawn("ConvTranspose", draw.image(_REACH))
    groups, channels = draw.choice([(1, 3), (2, 2), (3, 1)])
    drawn.shape[1] = groups * channels
    kernel = draw.window(drawn.attributes)
    strides = drawn.attributes.get("strides", [1, 1])
    drawn.attributes["group"] = groups
    if draw.yes():
        drawn.attributes["output_padding"] = [draw.randint(0, s - 1) for s in strides]
    drawn.give("w", draw.array(groups * channels, draw.randint(1, 3), *kernel), np.float32)
    return drawn


@draws
def pool(draw: Draw) -> Drawn:
    drawn = Drawn(draw.choice(["MaxPool", "AveragePool"]), draw.image(_REACH), opset=19)
    kernel = draw.window(drawn.attributes)
    drawn.attributes |= {"kernel_shape": kernel, "ceil_mode": draw.randint(0, 1)}
    if drawn.kind == "AveragePool":
        drawn.attributes["count_include_pad"] = draw.randint(0, 1)
    return drawn


@draws
def resize(draw: Draw) -> Drawn:
    drawn = Drawn("Resize", draw.image(), opset=draw.choice([11, 13, 18]))
    drawn.attributes["mode"] = draw.choice(["nearest", "linear"])
    drawn.attributes["coordinate_transformation_mode"] = draw.choice(
        ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
    )
    if drawn.attributes["mode"] == "nearest":
        modes = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
        drawn.attributes["nearest_mode"] = draw.choice(modes)
    scales = [1.0, 1.0]
    for n in drawn.shape[2:]:
        usable = [s for s in (0.5, 0.6, 1.3, 1.5, 2.0, 2.5) if int(n * s) not in (0, n)]
        scales.append(draw.choice(usable))
    by_size = draw.yes()
    for name, given in (("roi", False), ("scales", not by_size), ("sizes", by_size)):
        if not given and drawn.opset == 11 and name != "sizes":
            drawn.give(name, [], np.float32)
        elif not given:
            drawn.names.append("")
        elif by_size:
            drawn.give(name, [int(n * s) for n, s in zip(drawn.shape, scales, strict=True)])
        else:
            drawn.give(name, scales, np.float32)
    return drawn


@draws
def part(draw: Draw) -> Drawn:
    drawn = Drawn("Slice", draw.image())
    axes = draw.sample(range(4), draw.randint(1, 4))
    starts, ends, steps = [], [], []
    for axis in axes:
        n, step = drawn.shape[axis], draw.choice([1, 1, 2, 3, -1, -2])
        first = draw.randint(0, n - 1)
        last = draw.randint(first + 1, n)
        starts.append(last - 1 if step < 0 else first - draw.choice([0, n]))
        ends.append((first - 1 if first else -n - 5) if step < 0 else draw.choice([last, 2**60]))
        steps.append(step)
    for name, numbers in (("starts", starts), ("ends", ends), ("axes", axes), ("steps", steps)):
        drawn.give(name, numbers)
    return drawn


@draws
def pad(draw: Draw) -> Drawn:
    drawn = Drawn("Pad", draw.image(), opset=18)
    drawn.attributes["mode"] = mode = draw.choice(["constant", "reflect", "edge"])
    pads = [0] * 8
    for axis in draw.choice([[2, 3], [1], [0, 1, 2, 3]]):
        n = drawn.shape[axis]
        for end in (0, 4):
            some = draw.randint(0, n - 1) if mode == "reflect" else draw.randint(-((n - 1) // 2), 3)
            pads[axis + end] = some
    drawn.give("pads", pads)
    if mode == "constant" and draw.yes():
        drawn.give("value", draw.choice([1.5, -math.inf]), np.float32)
    return drawn


@draws
def reduction(draw: Draw) -> Drawn:
    kind = draw.choice(
        [f"Reduce{f}" for f in ("Mean", "Sum", "Max", "Min", "L1", "L2", "SumSquare")]
    )
    drawn = Drawn(kind, draw.some(), opset=18)
    rank = len(drawn.shape)
    axes = draw.sample(range(rank), draw.randint(1, rank))
    drawn.attributes["keepdims"] = draw.randint(0, 1)
    drawn.give("axes", [a - draw.choice([0, rank]) for a in axes])
    return drawn


@draws
def softmax(draw: Draw) -> Drawn:
    kind = draw.choice(["Softmax", "LogSoftmax"])
    drawn = Drawn(kind, draw.some(), opset=draw.choice([11, 13]))
    rank = len(drawn.shape)
    drawn.attributes["axis"] = draw.randint(-rank, rank - 1)
    return drawn


@draws
def concatenation(draw: Draw) -> Drawn:
    drawn = Drawn("Concat", draw.some())
    drawn.attributes["axis"] = axis = draw.randrange(len(drawn.shape))
    for i in range(draw.randint(0, 3)):
        other = [*drawn.shape]
        other[axis] = draw.randint(1, 5)
        drawn.give(f"c{i}", draw.array(*other), np.float32)
    drawn.names += ["x"] * draw.randint(0, 1)
    draw.shuffle(drawn.names)
    return drawn


@draws
def split(draw: Draw) -> Drawn:
    drawn = Drawn("Split", draw.some())
    drawn.attributes["axis"] = axis = draw.randrange(len(drawn.shape))
    ends = sorted({*(draw.randint(1, drawn.shape[axis]) for _ in range(2)), drawn.shape[axis]})
    drawn.give("lengths", np.diff([0, *ends]))
    drawn.outputs = len(ends)
    return drawn


@draws
def binary(draw: Draw) -> Drawn:
    kind = draw.choice(["Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean", "PRelu"])
    drawn = Drawn(kind, draw.some())
    other = [draw.choice([n, n, 1]) for n in drawn.shape]
    other = other[draw.randint(0, len(other)) :]
    if kind != "PRelu" and draw.yes():
        other = [1] * (len(drawn.shape) - len(other)) + other
        drawn.shape = [draw.choice([n, n, 1]) for n in drawn.shape]
    drawn.give("c", draw.array(*other), np.float32)
    if kind != "PRelu":
        draw.shuffle(drawn.names)
    return drawn


@draws
def product(draw: Draw) -> Drawn:
    drawn = Drawn("MatMul", draw.some(most_axes=4))
    n = draw.choice([[], [draw.randint(1, 6)]])
    drawn.give("w", draw.array(drawn.shape[-1], *n), np.float32)
    return drawn


@draws
def gemm(draw: Draw) -> Drawn:
    m, n, k = (draw.randint(1, 7) for _ in range(3))
    a, b = draw.randint(0, 1), draw.randint(0, 1)
    drawn = Drawn("Gemm", [k, m] if a else [m, k])
    drawn.attributes |= {"transA": a, "transB": b, "alpha": 0.5, "beta": 2.0}
    drawn.give("w", draw.array(*([n, k] if b else [k, n])), np.float32)
    if draw.yes():
        shape = draw.choice([[n], [1, n], [m, n], [m, 1], [1], []])
        drawn.give("c", draw.array(*shape), np.float32)
    return drawn


@draws
def other_axes(draw: Draw) -> Drawn:
    kind = draw.choice(["Transpose", "Flatten", "Reshape"])
    drawn = Drawn(kind, draw.some(longest=4))
    rank = len(drawn.shape)
    if kind == "Transpose":
        drawn.attributes["perm"] = draw.sample(range(rank), rank)
    elif kind == "Flatten":
        drawn.attributes["axis"] = draw.randint(-rank, rank)
    else:
        left, lengths = math.prod(drawn.shape), []
        while left > 1 and len(lengths) < 4:
            lengths.append(draw.choice([n for n in range(1, left + 1) if left % n == 0]))
            left //= lengths[-1]
        lengths.append(left)
        lengths[draw.randrange(len(lengths))] = -1
        drawn.give("shape", lengths)
    return drawn


@draws
def blocks(draw: Draw) -> Drawn:
    drawn = Drawn(draw.choice(["DepthToSpace", "SpaceToDepth"]), draw.image())
    drawn.attributes["blocksize"] = b = draw.randint(1, 3)
    if drawn.kind == "DepthToSpace":
        drawn.shape[1] *= b * b
        drawn.attributes["mode"] = draw.choice(["DCR", "CRD"])
    else:
        drawn.shape[2:] = [n * b for n in drawn.shape[2:]]
    return drawn


@draws
def wider(draw: Draw) -> Drawn:
    drawn = Drawn("Expand", [draw.choice([1, n]) for n in draw.some(most_axes=4)])
    shape = [n if n > 1 else draw.randint(1, 4) for n in drawn.shape]
    drawn.give("shape", draw.choice([shape, [2, *shape], shape[1:] or shape]))
    return drawn


@draws
def gathering(draw: Draw) -> Drawn:
    drawn = Drawn("Gather", draw.some(most_axes=4))
    drawn.attributes["axis"] = axis = draw.randrange(len(drawn.shape))
    n = drawn.shape[axis]
    some = [draw.randint(-n, n - 1) for _ in range(draw.randint(1, 4))]
    drawn.give("indices", draw.choice([some[0], some, [*range(n)][::-1]]))
    return drawn


@draws
def norm(draw: Draw) -> Drawn:
    kind = draw.choice(["LRN", "InstanceNormalization", "BatchNormalization"])
    drawn = Drawn(kind, draw.image())
    if kind == "LRN":
        drawn.attributes |= {"size": draw.choice([1, 3, 5]), "alpha": 0.1, "bias": 1.5}
        return drawn
    if kind == "BatchNormalization":
        drawn.shape = drawn.shape[: draw.randint(2, 4)]
    for name in ("scale", "bias", "mean", "var")[: 2 if kind.startswith("I") else 4]:
        array = draw.array(drawn.shape[1])
        drawn.give(name, np.abs(array) + 0.1 if name == "var" else array, np.float32)
    return drawn


@draws
def function(draw: Draw) -> Drawn:
    kinds = ["Relu", "LeakyRelu", "Elu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Gelu"]
    kinds += [
        "Selu",
        "Celu",
        "Softsign",
        "Mish",
        "Softplus",
        "Erf",
        "Exp",
        "Abs",
        "Neg",
        "Clip",
        "GlobalMaxPool",
    ]
    drawn = Drawn(draw.choice([*kinds, "GlobalAveragePool"]), draw.some(longest=4), opset=20)
    if drawn.kind.startswith("Global"):
        drawn.shape = draw.image()
    if drawn.kind == "Clip":
        for name, number in (("low", -0.5), ("high", 0.7)):
            if draw.yes():
                drawn.give(name, number, np.float32)
            else:
                drawn.names.append("")
    return drawn
