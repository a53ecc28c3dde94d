"""ONNX's operators by name: what each adds to a graph.

Their semantics are those of https://github.com/onnx/onnx/blob/main/docs/Operators.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx

from pwconv import ops
from pwconv.dtypes import FLOAT32, Array
from pwconv.errors import UnsupportedError
from pwconv.graph import Graph, Value
from pwconv.importer.model import Node, check_constant
from pwconv.importer.network import Importer, Operand, converts
from pwconv.importer.scalar_functions import recognize
from pwconv.importer.view import IMAGES, View, contiguous, image_shape, usual_view
from pwconv.ops import Axis, Rearrange
from pwconv.ops.rearrange import pad as margin
from pwconv.tensor import Shape, shape4

Sides = tuple[int, int, int, int]
_MOST_RUNS = 64  # of a Gather's indices: each is copied by itself

# In docs/operators.md.
_VIEW = "a view"
_KNOWN = "known when the model is read"
_IMAGES = "x is [N, C, L] or [N, C, H, W]"


# -- convolutions and products --------------------------------------------------------------------


@converts("Conv", by="`conv2d_pw`, `conv2d`", limits=f"{_IMAGES}; W and B are constants")
def convolution(at: Importer, node: Node) -> Operand:
    """Add a convolution of any kind."""
    x, kernel, bias = at.view(node), _weight(at, node), _bias(at, node)
    rank = kernel.ndim - 2
    value = at.images(x)
    window = _Window(node, kernel.shape[2:], value.shape)
    weight, groups = window.kernel(kernel), node.get("group", 1)
    settings: dict[str, Any] = {"stride": window.stride, "padding": window.padding(value.shape)}
    if window.taps == (1, 1) and groups == 1:
        value = at.graph.conv2d_pw(value, weight, bias, **settings)
    else:
        settings |= {"dilation": window.dilation, "groups": groups}
        value = at.graph.conv2d(value, weight, bias, **settings)
    return _of_images(value, rank)


@converts("ConvTranspose", by="`conv2d_transposed`", limits=f"{_IMAGES}; W and B are constants")
def transposed_convolution(at: Importer, node: Node) -> Operand:
    """Add a transposed convolution."""
    x, kernel, bias = at.view(node), _weight(at, node), _bias(at, node)
    value = at.images(x)
    window = _Window(node, kernel.shape[2:], value.shape)
    output_padding = window.pair("output_padding", 0)
    value = at.graph.conv2d_transposed(
        value,
        window.kernel(kernel),
        bias,
        stride=window.stride,
        padding=window.transposed_padding(value.shape, output_padding),
        output_padding=output_padding,
        dilation=window.dilation,
        groups=node.get("group", 1),
    )
    return _of_images(value, kernel.ndim - 2)


@converts("Gemm", by="`conv2d_pw`, `add`", limits="B is constant; beta is 1 where C is computed")
def gemm(at: Importer, node: Node) -> Operand:
    """Add alpha·A·B + beta·C, B being constant."""
    x, weight = at.view(node), _weight(at, node)
    if node.get("transA", 0):
        x = x.transposed((1, 0))
    matrix = weight if node.get("transB", 0) else weight.T
    added = at.operand(node, 2)
    bias = None
    if isinstance(added, np.ndarray):
        scaled = added.astype(float) * node.get("beta", 1.0)
        if scaled.size == scaled.shape[-1:][0] if scaled.ndim else True:
            bias, added = np.broadcast_to(scaled.reshape(-1), (len(matrix),)), None
        else:
            added = scaled
    y = _product(at, x, matrix.astype(float) * node.get("alpha", 1.0), bias)
    if added is None:
        return y
    if isinstance(added, View) and node.get("beta", 1.0) != 1.0:
        raise UnsupportedError("beta scales a C that is computed; it must be 1")
    return combine(at, "add", y, added)


@converts(
    "MatMul", by="`conv2d_pw`", limits="B is a constant matrix or vector; A has at most 4 axes"
)
def matmul(at: Importer, node: Node) -> Operand:
    """Add the product of a tensor and a constant matrix."""
    if not isinstance(at.operand(node, 1), np.ndarray):
        raise UnsupportedError("B is computed by the network; it must be a constant")
    x, matrix = at.view(node), at.constant(node, 1, "B")
    if matrix is None or matrix.ndim not in (1, 2):
        shape = None if matrix is None else matrix.shape
        raise UnsupportedError(f"B has shape {shape}; it must be a matrix")
    if matrix.ndim == 2:
        return _product(at, x, matrix.T, None)
    y = _product(at, x, matrix[None], None)
    return reshape(at, y, y.shape[:-1])


def _product(at: Importer, x: View, matrix: Array, bias: Array | None) -> View:
    """Multiply a tensor's last axis by [M, K]: a pointwise convolution of it as channels."""
    if x.shape[-1] != matrix.shape[1]:
        raise ValueError(f"A has shape {x.shape} and B {matrix.shape[::-1]}; K is not the same")
    rows = x if len(x.shape) > 1 else reshape(at, x, (1, *x.shape))
    axes = {2: (0, 1), 3: (0, 3, 1), 4: (0, 2, 3, 1)}.get(len(rows.shape))
    if axes is None:
        raise UnsupportedError(f"A has shape {x.shape}; at most 4 axes are taken")
    value = at.graph.conv2d_pw(at.place(rows, axes), _as_float32(matrix), _as_bias(bias))
    y = View.of(value, axes)
    return y if rows is x else reshape(at, y, y.shape[1:])


def _weight(at: Importer, node: Node) -> Array:
    weight = at.constant(node, 1, "the weight")
    if weight is None or weight.ndim < 2:
        raise ValueError("the weight is missing, or has fewer than 2 axes")
    return _as_float32(weight)


def _bias(at: Importer, node: Node) -> Array | None:
    return _as_bias(at.constant(node, 2, "the bias"))


def _as_float32(array: Array) -> Array:
    return np.ascontiguousarray(array, FLOAT32)


def _as_bias(bias: Array | None) -> Array | None:
    return None if bias is None else _as_float32(bias.reshape(-1))


# -- windows --------------------------------------------------------------------------------------


class _Window:
    """A node's kernel, stride, dilation and padding along H and W; along W alone of rank 1."""

    def __init__(self, node: Node, taps: Sequence[int], shape: Shape) -> None:
        self.node = node
        self.rank = len(taps)
        if self.rank not in (1, 2):
            raise UnsupportedError(f"it has {self.rank} axes of space; 1 or 2 are taken")
        self.taps = self._pair(taps, 1)
        self.stride = self.pair("strides", 1)
        self.dilation = self.pair("dilations", 1)
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.taps, strict=True)]
        self.reach = reach[0], reach[1]

    def pair(self, name: str, default: int) -> tuple[int, int]:
        """Return an attribute that has a number for each axis."""
        return self._pair(self.node.get(name) or [default] * self.rank, default)

    def kernel(self, weight: Array) -> Array:
        """Return a weight with KH = 1 if it has one axis of space."""
        return weight[:, :, None, :] if self.rank == 1 else weight

    def padding(self, shape: Shape) -> Sides:
        """Return what is padded at the top, left, bottom and right."""
        mode = self.node.get("auto_pad", "NOTSET")
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            total = [
                max((-(-n // s) - 1) * s + r - n, 0)
                for n, s, r in zip(shape[2:], self.stride, self.reach, strict=True)
            ]
            return self._shared(total, mode)
        return self._explicit(mode)

    def transposed_padding(self, shape: Shape, output_padding: tuple[int, int]) -> Sides:
        """Return what a transposed convolution leaves away on each side."""
        mode, wanted = self.node.get("auto_pad", "NOTSET"), self.node.get("output_shape")
        whole = [
            (n - 1) * s + r + more
            for n, s, r, more in zip(
                shape[2:], self.stride, self.reach, output_padding, strict=True
            )
        ]
        if wanted:
            sizes = self._pair(wanted[-self.rank :], 1)
        elif mode in ("SAME_UPPER", "SAME_LOWER"):
            sizes = shape[2] * self.stride[0], shape[3] * self.stride[1]
        else:
            return self._explicit(mode)
        total = [a - b for a, b in zip(whole, sizes, strict=True)]
        top, left, bottom, right = self._shared([max(n, 0) for n in total], mode)
        if not wanted:  # where the stride is past the kernel, nothing is added
            return top, left, bottom, right
        # What is lacking is added at the end.
        return top, left, bottom + min(total[0], 0), right + min(total[1], 0)

    def _explicit(self, mode: str) -> Sides:
        pads = self.node.get("pads") or [0] * (2 * self.rank)
        if len(pads) != 2 * self.rank:
            raise ValueError(f"pads is {pads}; it must have {2 * self.rank} numbers")
        if mode == "VALID":
            pads = [0] * len(pads)
        elif mode != "NOTSET":
            raise ValueError(f"auto_pad is {mode!r}, which is none of ONNX's")
        return (*self._pair(pads[: self.rank], 0), *self._pair(pads[self.rank :], 0))

    @staticmethod
    def _shared(total: Sequence[int], mode: str) -> Sides:
        """Return the padding of both sides; the odd one is at the end for SAME_UPPER alone."""
        less, more = [n // 2 for n in total], [n - n // 2 for n in total]
        begin, end = (less, more) if mode == "SAME_UPPER" else (more, less)
        return begin[0], begin[1], end[0], end[1]

    def _pair(self, values: Sequence[int], default: int) -> tuple[int, int]:
        if len(values) != self.rank:
            raise ValueError(f"{list(values)} has {len(values)} numbers; it must have {self.rank}")
        return (default, int(values[0])) if self.rank == 1 else (int(values[0]), int(values[1]))


def _of_images(value: Value, rank: int) -> View:
    return View.of(value, (0, 1, 3) if rank == 1 else IMAGES)


@converts("AveragePool", by="`avg_pool`", limits=_IMAGES)
@converts(
    "MaxPool", by="`max_pool`", limits=f"{_IMAGES}; the indices of its maxima are not an output"
)
def pool(at: Importer, node: Node) -> Operand:
    """Add a pool under a window."""
    if len(node.outputs) > 1 and node.outputs[1]:
        raise UnsupportedError("the indices of its maxima are not computed; leave that output out")
    x = at.view(node)
    value = at.images(x)
    taps = node.get("kernel_shape") or []
    window = _Window(node, taps, value.shape)
    settings: dict[str, Any] = {
        "stride": window.stride,
        "padding": window.padding(value.shape),
        "dilation": window.dilation,
        "ceil_mode": bool(node.get("ceil_mode", 0)),
    }
    if node.kind == "MaxPool":
        value = at.graph.max_pool(value, window.taps, **settings)
    else:
        settings["count_include_pad"] = bool(node.get("count_include_pad", 0))
        value = at.graph.avg_pool(value, window.taps, **settings)
    return _of_images(value, len(taps))


@converts(
    *("GlobalAveragePool", "GlobalMaxPool"),
    by={"GlobalAveragePool": "`global_avg_pool`", "GlobalMaxPool": "`reduce`"},
    limits=_IMAGES,
)
def global_pool(at: Importer, node: Node) -> Operand:
    """Add a pool over H and W."""
    x = at.view(node)
    value = at.images(x)
    if node.kind == "GlobalMaxPool":
        return _of_images(at.graph.reduce(value, "max"), len(x.shape) - 2)
    return _of_images(at.graph.global_avg_pool(value), len(x.shape) - 2)


@converts("ReduceMean", by="`global_avg_pool`, `reduce`", limits="axes are constants")
@converts(
    *("ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"), by="`reduce`", limits="axes are constants"
)
@converts("ReduceL1", by="`activation`: abs, `reduce`", limits="axes are constants")
@converts("ReduceSumSquare", by="`mul`, `reduce`", limits="axes are constants")
def reduce(at: Importer, node: Node) -> Operand:
    """Add a reduction over some axes."""
    x = at.view(node)
    given = at.setting(node, 1, "axes")
    rank = len(x.shape)
    if given is None or not given.size:
        if node.get("noop_with_empty_axes", 0):
            return x
        given = np.arange(rank)
    axes = sorted({_axis(int(a), rank) for a in given.reshape(-1)})
    function = node.kind.removeprefix("Reduce").lower()
    if function == "l1":
        x, function = _activated(at, x, "abs"), "sum"
    elif function == "sumsquare":
        x, function = at.each(x, lambda value: at.graph.mul(value, value)), "sum"
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    result = (
        kept
        if node.get("keepdims", 1)
        else tuple(n for a, n in enumerate(x.shape) if a not in axes)
    )
    placed = x.usual_axes if rank <= 4 else ()
    if not placed or any(placed[a] == 0 and x.shape[a] > 1 for a in axes):
        # As channels of what is kept: over a batch nothing is reduced.
        order = [a for a in range(rank) if a not in axes] + axes
        flat = reshape(
            at, x.transposed(order), (math.prod(kept), math.prod(x.shape[a] for a in axes))
        )
        value = at.graph.reduce(at.place(flat, (0, 1)), function, (1,))
        return reshape(at, View.of(value, (0, 1)), result)
    where = tuple(sorted(placed[a] for a in axes if placed[a] > 0))
    value = at.place(x, placed)
    if not where:  # each is of one element
        y = x if function != "l2" else _activated(at, x, "abs")
        return reshape(at, y, result)
    if function == "mean" and [a for a in where if value.shape[a] > 1] == [
        a for a in (2, 3) if value.shape[a] > 1
    ]:
        value = at.graph.global_avg_pool(value)
    else:
        value = at.graph.reduce(value, function, where)
    return reshape(at, View.of(value, placed), result)


# -- element by element ---------------------------------------------------------------------------

_NAMES = {
    "Relu": "relu",
    "HardSwish": "hardswish",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Mish": "mish",
    "Softplus": "softplus",
    "Erf": "erf",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Abs": "abs",
    "Neg": "neg",
    "Reciprocal": "reciprocal",
}


_ACTIVATIONS = {
    **_NAMES,
    "LeakyRelu": "leaky_relu",
    "Elu": "elu",
    "HardSigmoid": "hardsigmoid",
    "Clip": "clamp",
    "Gelu": "gelu, gelu_tanh",
}


@converts(
    *(kind for kind in _ACTIVATIONS if kind != "Clip"),
    by={kind: f"`activation`: {name}" for kind, name in _ACTIVATIONS.items()},
)
@converts("Clip", by="`activation`: clamp", limits="min and max are constants")
def activation(at: Importer, node: Node) -> Operand:
    """Add a function of one argument."""
    return _activated(at, at.view(node), _activation(at, node))


def _activation(at: Importer, node: Node) -> Any:
    if node.kind in _NAMES:
        return _NAMES[node.kind]
    if node.kind == "LeakyRelu":
        return "leaky_relu", node.get("alpha", 0.01)
    if node.kind == "Elu":
        return "elu", node.get("alpha", 1.0)
    if node.kind == "HardSigmoid":
        return "hardsigmoid", node.get("alpha", 0.2), node.get("beta", 0.5)
    if node.kind == "Gelu":
        return "gelu_tanh" if node.get("approximate", "none") == "tanh" else "gelu"
    low, high = at.setting(node, 1, "min"), at.setting(node, 2, "max")
    lowest, highest = (
        missing if each is None or not each.size else float(each.reshape(-1)[0])
        for each, missing in ((low, -math.inf), (high, math.inf))
    )
    return "clamp", min(lowest, highest), highest  # ONNX: with min above max, all are max


def _activated(at: Importer, x: View, *functions: Any) -> View:
    for function in functions:
        x = at.each(x, partial(at.graph.activation, activation=function))
    return x


@converts("Selu", by="`activation`: elu, affine")
def selu(at: Importer, node: Node) -> Operand:
    """Add an elu times a number."""
    alpha, gamma = node.get("alpha", 1.67326319), node.get("gamma", 1.05070102)
    return _activated(at, at.view(node), ("elu", alpha), ("affine", gamma, 0.0))


@converts("Celu", by="`activation`: affine, elu", limits="alpha is above 0")
def celu(at: Importer, node: Node) -> Operand:
    """Add an elu of x / alpha, times alpha."""
    alpha = node.get("alpha", 1.0)
    if not alpha > 0:
        raise UnsupportedError(f"alpha is {alpha}; it must be above 0")
    scaled = ("affine", 1 / alpha, 0.0), ("elu", 1.0), ("affine", alpha, 0.0)
    return _activated(at, at.view(node), *scaled)


@converts("Softsign", by="`activation`: abs, affine, `div`")
def softsign(at: Importer, node: Node) -> Operand:
    """Add x over 1 + abs(x)."""
    graph = at.graph

    def make(x: Value) -> Value:
        return graph.div(x, graph.activation(graph.activation(x, "abs"), ("affine", 1.0, 1.0)))

    return at.each(at.view(node), make)


@converts("Identity", "CastLike", by="its input")
def identity(at: Importer, node: Node) -> Operand:
    """Return what goes in."""
    return at.operand(node, 0)


@converts("Dropout", by="its input", limits="for inference")
def dropout(at: Importer, node: Node) -> Sequence[Operand]:
    """Return what goes in, and a mask of all."""
    training = at.constant(node, 2, "training_mode")
    ratio = at.constant(node, 1, "ratio")
    drops = ratio is None or not ratio.size or ratio.any()
    if training is not None and training.any() and drops:
        raise UnsupportedError("it is for training; export the model for inference")
    x = at.view(node)
    return [x, np.ones(x.shape, bool)]


@converts("Cast", by="its input", limits="to a float type; the graph's type stays")
def cast(at: Importer, node: Node) -> Operand:
    """Return what goes in: all numbers of a graph have one type."""
    kind = node.get("to", onnx.TensorProto.FLOAT)
    types = onnx.TensorProto
    if kind not in (types.FLOAT, types.FLOAT16, types.DOUBLE, types.BFLOAT16):
        raise UnsupportedError(
            f"it casts to {types.DataType.Name(kind)}; numbers of a graph are floats"
        )
    return at.operand(node, 0)


_BINARY = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "Min": "minimum",
    "Max": "maximum",
    "Sum": "add",
    "PRelu": "prelu",
}


@converts(
    *(*_BINARY, "Mean"),
    by={**{kind: f"`{name}`" for kind, name in _BINARY.items()}, "Mean": "`add`"},
    limits="broadcast over at most 4 axes, neighbours that do so alike being one",
)
def arithmetic(at: Importer, node: Node) -> Operand:
    """Add a function of two operands or more, broadcast by NumPy's rules."""
    if node.kind in ("Mul", "Div"):
        found = recognize(at, node)
        if found is not None:
            source, function = found
            return _activated(at, source, function)
    operands = [at.operand(node, i) for i in range(len(node.inputs))]
    function = _BINARY.get(node.kind, "add")
    total = operands[0]
    for other in operands[1:]:
        total = combine(at, function, total, other)
    if node.kind == "Mean":
        total = combine(at, "mul", total, np.asarray(1 / len(operands)))
    return total


@converts("Pow", by="`activation`: pow", limits="the exponent is one constant number")
def power(at: Importer, node: Node) -> Operand:
    """Add a power by a constant."""
    exponent = at.constant(node, 1, "the exponent")
    x = at.view(node)
    if exponent is None or not exponent.size or (exponent != exponent.flat[0]).any():
        raise UnsupportedError("the exponent has several numbers; it must be one")
    x = x.expanded(np.broadcast_shapes(x.shape, exponent.shape))
    return _activated(at, x, ("pow", float(exponent.flat[0])))


def combine(at: Importer, function: str, x: Operand, y: Operand) -> View:
    """Add a function of two operands, one of which is not constant."""
    if x is None or y is None:
        raise ValueError("an operand is missing")
    if isinstance(x, View) and isinstance(y, np.ndarray):
        found = _with_constant(at, function, x, y, constant_first=False)
    elif isinstance(x, np.ndarray) and isinstance(y, View):
        found = _with_constant(at, function, y, x, constant_first=True)
    else:
        found = None
    if found is not None:
        return found
    shape = np.broadcast_shapes(x.shape, y.shape)
    if len(shape) > 4:
        merged = _merged(x.shape, y.shape, shape)
        x, y = (_reshaped(at, each, to) for each, to in zip((x, y), merged, strict=True))
        return reshape(at, combine(at, function, x, y), shape)
    ranked = (
        _reshaped(at, each, (1,) * (len(shape) - len(each.shape)) + each.shape) for each in (x, y)
    )
    a, b = (each if isinstance(each, View) else at.resident(each) for each in ranked)
    adders: dict[str, Callable[[Value, Value], Value]] = {
        "add": at.graph.add,
        "sub": at.graph.sub,
        "mul": at.graph.mul,
        "div": at.graph.div,
        "minimum": at.graph.minimum,
        "maximum": at.graph.maximum,
        "prelu": at.graph.prelu,
    }
    add = adders[function]
    alike = a.over(b.value) == b and a.value.shape == b.value.shape
    if alike and a.is_permutation:
        return a.over(add(a.value, b.value))
    axes = max(a, b, key=lambda each: each.size).usual_axes
    return View.of(add(at.place(a, axes), at.place(b, axes)), axes)


def _reshaped(at: Importer, x: View | Array, shape: Shape) -> View | Array:
    return reshape(at, x, shape) if isinstance(x, View) else x.reshape(shape)


def _merged(x: Shape, y: Shape, shape: Shape) -> tuple[Shape, Shape]:
    """Return the shapes of two operands of many axes, neighbours that broadcast alike as one.

    Raises
    ------
    UnsupportedError
        They are more than 4 still.
    """
    whole = [(1,) * (len(shape) - len(each)) + each for each in (x, y)]
    groups: list[tuple[int, int]] = []
    last = None
    for m, n, length in zip(*whole, shape, strict=True):
        alike = m == length, n == length
        if length > 1 and alike == last:
            groups[-1] = groups[-1][0] * m, groups[-1][1] * n
        elif length > 1:
            groups.append((m, n))
            last = alike
    if len(groups) > 4:
        raise UnsupportedError(f"shapes {x} and {y} broadcast over {len(groups)} axes; at most 4")
    return tuple(m for m, _ in groups), tuple(n for _, n in groups)


def _with_constant(
    at: Importer, function: str, x: View, y: Array, *, constant_first: bool
) -> View | None:
    """Return what needs no second operand on the device; None if there is no such way."""
    if y.ndim <= len(x.shape):
        y = y.reshape((1,) * (len(x.shape) - y.ndim) + y.shape)
    if y.ndim != len(x.shape) or np.broadcast_shapes(x.shape, y.shape) != x.shape:
        return None
    numbers = y.astype(float)
    if y.size == 1 and function in ("minimum", "maximum"):
        number = float(numbers.reshape(-1)[0])
        limits = (-math.inf, number) if function == "minimum" else (number, math.inf)
        return None if math.isnan(number) else _activated(at, x, ("clamp", *limits))
    if function == "div" and constant_first:
        return combine(at, "mul", _activated(at, x, "reciprocal"), y)
    ways: dict[str, Callable[[], tuple[Any, Any]]] = {
        "add": lambda: (np.ones_like(numbers), numbers),
        "sub": lambda: (np.ones_like(numbers), -numbers),
        "mul": lambda: (numbers, np.zeros_like(numbers)),
        "div": lambda: (1 / numbers, np.zeros_like(numbers)),
    }
    if function not in ways or not np.isfinite(numbers).all():
        return None
    if function == "div" and not numbers.all():
        return None
    scale, shift = ways[function]()
    if function == "sub" and constant_first:
        scale, shift = -scale, -shift
    if y.size == 1:
        return at.each(x, lambda value: _scaled(at, value, scale, shift))
    axes, long = x.usual_axes if len(x.shape) <= 4 else (), np.flatnonzero(np.array(y.shape) > 1)
    if len(long) == 1 and axes and axes[long[0]] == 1:
        return View.of(_scaled(at, at.place(x, axes), scale, shift), axes)
    return None


def _scaled(at: Importer, value: Value, scale: Array, shift: Array) -> Value:
    """Multiply and add by channel; a convolution before it takes that into its weights."""
    channels = value.shape[1]
    numbers = [np.broadcast_to(each.reshape(-1), (channels,)) for each in (scale, shift)]
    return at.graph.add_op(ops.make_scale(*numbers), value)


# -- norms ----------------------------------------------------------------------------------------


@converts(
    "BatchNormalization",
    by="`batch_norm`",
    limits="for inference; scale, B, mean and var are constants; x has 2 to 4 axes",
)
def batch_norm(at: Importer, node: Node) -> Operand:
    """Add a batch norm by statistics that are constant."""
    if node.get("training_mode", 0) or (node.opset < 7 and not node.get("is_test", 0)):
        raise UnsupportedError("it is for training; export the model for inference")
    x = at.view(node)
    names = ("scale", "B", "mean", "var")
    numbers = [at.constant(node, i + 1, name) for i, name in enumerate(names)]
    if any(each is None for each in numbers):
        raise ValueError(f"one of {', '.join(names)} is missing")
    scale, bias, mean, variance = (_as_float32(np.asarray(each)) for each in numbers)
    if len(x.shape) not in (2, 3, 4):
        raise UnsupportedError(f"x has shape {x.shape}; it must have 2 to 4 axes")
    axes = x.usual_axes
    if axes[1] != 1:
        axes = {2: (0, 1), 3: (0, 1, 3), 4: IMAGES}[len(x.shape)]
    value = at.graph.batch_norm(
        at.place(x, axes), mean, variance, scale, bias, eps=node.get("epsilon", 1e-5)
    )
    return View.of(value, axes)


@converts(
    "InstanceNormalization",
    by="`global_avg_pool`, `sub`, `mul`, `activation`: pow",
    limits=f"{_IMAGES}; scale and B are constants",
)
def instance_norm(at: Importer, node: Node) -> Operand:
    """Add a norm of each channel of each sample: by mean and variance over H and W."""
    x, scale, bias = at.view(node), at.constant(node, 1, "scale"), at.constant(node, 2, "B")
    if scale is None or bias is None or not scale.shape == bias.shape == x.shape[1:2]:
        raise ValueError(f"scale and B must be of {x.shape[1:2]}, x's channels")
    graph, value = at.graph, at.images(x)
    centred = graph.sub(value, graph.global_avg_pool(value))
    variance = graph.global_avg_pool(graph.mul(centred, centred))
    channels = value.shape[1]
    eps = np.full(channels, node.get("epsilon", 1e-5))
    spread = graph.add_op(ops.make_scale(np.ones(channels), eps), variance)
    normed = graph.mul(centred, graph.activation(spread, ("pow", -0.5)))
    value = graph.add_op(ops.make_scale(scale.astype(float), bias.astype(float)), normed)
    return _of_images(value, len(x.shape) - 2)


@converts("LRN", by="`conv2d_pw`, `mul`, `activation`: pow", limits=_IMAGES)
def local_response_norm(at: Importer, node: Node) -> Operand:
    """Add a norm by the squares of neighbouring channels, which a band matrix sums."""
    x = at.view(node)
    graph, value = at.graph, at.images(x)
    channels, size = value.shape[1], node.get("size", 1)
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    check_constant((channels, channels), 4, "its band matrix")
    band = np.zeros((channels, channels), FLOAT32)
    for c in range(channels):
        band[c, max(c - (size - 1) // 2, 0) : c + size // 2 + 1] = node.get("alpha", 1e-4) / size
    bias = np.full(channels, node.get("bias", 1.0), FLOAT32)
    sums = graph.conv2d_pw(graph.mul(value, value), band, bias)
    factor = graph.activation(sums, ("pow", -node.get("beta", 0.75)))
    return _of_images(graph.mul(value, factor), len(x.shape) - 2)


@converts("Softmax", by="`softmax`")
@converts("LogSoftmax", by="`reduce`, `sub`, `activation`: exp, log")
def softmax(at: Importer, node: Node) -> Operand:
    """Add a softmax along one axis; below opset 13, of all from an axis on as one vector."""
    x = at.view(node)
    along = at.graph.softmax if node.kind == "Softmax" else partial(_log_softmax, at.graph)
    rank = len(x.shape)
    axis = _axis(node.get("axis", -1 if node.opset >= 13 else 1), rank)
    if node.opset < 13 and sum(n > 1 for n in x.shape[axis:]) > 1:
        flat = reshape(at, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
        y = View.of(along(at.place(flat, (0, 1)), 1), (0, 1))
        return reshape(at, y, x.shape)
    if node.opset < 13:
        axis = next((a for a in range(axis, rank) if x.shape[a] > 1), axis)
    if rank > 4:
        outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
        flat = reshape(at, x, (outer, x.shape[axis], inner))
        y = View.of(along(at.place(flat, (0, 1, 3)), 1), (0, 1, 3))
        return reshape(at, y, x.shape)
    axes = x.usual_axes
    if axes[axis] == 0:  # a batch is not summed over: its place is another's
        axes = tuple({0: 1, 1: 0}.get(a, a) for a in axes)
    return View.of(along(at.place(x, axes), axes[axis]), axes)


def _log_softmax(graph: Graph, x: Value, axis: int) -> Value:
    """Add x less the logarithm of its exponentials' sum: a softmax's may be that of 0."""
    less = graph.sub(x, graph.reduce(x, "max", axis))
    sums = graph.reduce(graph.activation(less, "exp"), "sum", axis)
    return graph.sub(less, graph.activation(sums, "log"))


# -- what moves elements --------------------------------------------------------------------------


def reshape(at: Importer, x: View, shape: Shape) -> View:
    """Return a tensor with other axes, copied where they cannot lie as they do."""
    if shape == x.shape:
        return x
    found = x.reshaped(shape)
    return usual_view(at.copied(x, image_shape(shape)), shape) if found is None else found


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(f"axis is {axis}; x has {rank} axes")
    return axis % rank


@converts("Shape", by=_KNOWN)
def shape_of(at: Importer, node: Node) -> Operand:
    """Return a tensor's shape, which is known."""
    x = at.operand(node, 0)
    assert x is not None
    lengths = np.array(x.shape, np.int64)
    return lengths[slice(node.get("start", 0), node.get("end"))]


@converts("Size", by=_KNOWN)
def size_of(at: Importer, node: Node) -> Operand:
    """Return the count of a tensor's elements, which is known."""
    return np.array(at.view(node).size, np.int64)


@converts("Reshape", by=_VIEW, limits="the shape is a constant")
def reshaped(at: Importer, node: Node) -> Operand:
    """Return it with other axes: 0 is as before, −1 the rest."""
    x, wanted = at.view(node), at.setting(node, 1, "shape")
    if wanted is None:
        raise ValueError("the shape is missing")
    lengths = [int(n) for n in wanted.reshape(-1)]
    if not node.get("allowzero", 0):
        lengths = [x.shape[i] if n == 0 and i < len(x.shape) else n for i, n in enumerate(lengths)]
    known = math.prod(n for n in lengths if n != -1)
    if lengths.count(-1) == 1 and known > 0:
        lengths = [x.size // known if n == -1 else n for n in lengths]
    if math.prod(lengths) != x.size or min(lengths, default=1) < 0:
        raise ValueError(f"x has shape {x.shape}, which cannot become {wanted.tolist()}")
    return reshape(at, x, tuple(lengths))


@converts("Flatten", by=_VIEW)
def flatten(at: Importer, node: Node) -> Operand:
    """Return it as a matrix."""
    x = at.view(node)
    axis = node.get("axis", 1)
    axis = axis if axis == len(x.shape) else _axis(axis, len(x.shape))
    return reshape(at, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@converts("Squeeze", "Unsqueeze", by=_VIEW, limits="axes are constants")
def squeeze(at: Importer, node: Node) -> Operand:
    """Return it without, or with, axes of length 1."""
    x, given = at.view(node), at.setting(node, 1, "axes")
    if node.kind == "Squeeze":
        rank = len(x.shape)
        if given is None:
            axes = [i for i, n in enumerate(x.shape) if n == 1]
        else:
            axes = [_axis(int(a), rank) for a in given.reshape(-1)]
        if any(x.shape[a] != 1 for a in axes):
            raise ValueError(f"x has shape {x.shape}; axes {axes} are not all of length 1")
        return reshape(at, x, tuple(n for i, n in enumerate(x.shape) if i not in axes))
    if given is None:
        raise ValueError("axes is missing")
    rank = len(x.shape) + given.size
    axes = [_axis(int(a), rank) for a in given.reshape(-1)]
    if len(set(axes)) < len(axes):
        raise ValueError(f"axes are {given.tolist()}; none may be there twice")
    rest = iter(x.shape)
    return reshape(at, x, tuple(1 if i in axes else next(rest) for i in range(rank)))


@converts("Transpose", by=_VIEW)
def transpose(at: Importer, node: Node) -> Operand:
    """Return it with axes in another order: another reading of the same elements."""
    x = at.view(node)
    order = node.get("perm") or list(range(len(x.shape)))[::-1]
    if sorted(order) != list(range(len(x.shape))):
        raise ValueError(f"perm is {order}; x has {len(x.shape)} axes")
    return x.transposed(order)


@converts("Expand", by=_VIEW, limits="the shape is a constant")
def expand(at: Importer, node: Node) -> Operand:
    """Return it broadcast."""
    x, wanted = at.view(node), at.constant(node, 1, "shape")
    assert wanted is not None
    shape = np.broadcast_shapes(x.shape, tuple(int(n) for n in wanted))
    check_constant(shape, 4, "its output")  # which an array of the host may have to hold
    return x.expanded(shape)


@converts(
    "Slice", by=_VIEW, limits="starts, ends, axes and steps are constants; no axis becomes empty"
)
def sliced(at: Importer, node: Node) -> Operand:
    """Return parts of axes, at steps that may be negative."""
    x = at.view(node)
    starts, ends = at.setting(node, 1, "starts"), at.setting(node, 2, "ends")
    if starts is None or ends is None:
        raise ValueError("starts or ends is missing")
    axes, steps = at.setting(node, 3, "axes"), at.setting(node, 4, "steps")
    order = range(len(starts)) if axes is None else axes.tolist()
    by = [1] * len(starts) if steps is None else steps.tolist()
    for start, end, axis, step in zip(starts.tolist(), ends.tolist(), order, by, strict=True):
        if step == 0:
            raise ValueError("a step is 0")
        i = _axis(int(axis), len(x.shape))
        # As Python's slices, but for an end before the first element, which stays there.
        most = 2**62
        limited = slice(max(min(start, most), -most), max(min(end, most), -most), step)
        taken = range(x.shape[i])[limited]
        if not taken:
            raise UnsupportedError(f"nothing is left of axis {i}, {x.shape[i]} long")
        x = x.sliced(i, taken.start, step if len(taken) > 1 else 1, len(taken))
    return x


@converts("Split", by=_VIEW, limits="split is a constant; no part is empty")
def split(at: Importer, node: Node) -> Sequence[Operand]:
    """Return parts of an axis."""
    x = at.view(node)
    axis = _axis(node.get("axis", 0), len(x.shape))
    length, count = x.shape[axis], len(node.outputs)
    given = at.setting(node, 1, "split")
    each = -(-length // count)
    sizes = (
        [min(each, length - i * each) for i in range(count)]
        if given is None
        else [int(n) for n in given]
    )
    if sum(sizes) != length or min(sizes) < 1 or len(sizes) != count:
        raise ValueError(f"split is {sizes}; axis {axis} is {length} long, outputs are {count}")
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    return [x.sliced(axis, start, 1, n) for start, n in zip(starts, sizes, strict=True)]


@converts("SplitToSequence", by=_VIEW, limits="SequenceAt alone takes of it")
def split_to_sequence(at: Importer, node: Node) -> Operand:
    """Return the whole, of which SequenceAt takes parts."""
    name = node.outputs[0]
    readers = [each.kind for each in at.model.nodes if name in each.inputs]
    if name in at.outputs or set(readers) != {"SequenceAt"}:
        raise UnsupportedError("its sequence is taken as a whole; only SequenceAt may take of it")
    return at.view(node)


@converts("SequenceAt", by=_VIEW, limits="of SplitToSequence; the position is a constant")
def part_of_sequence(at: Importer, node: Node) -> Operand:
    """Return a part of what SplitToSequence splits."""
    split_by, position = at.producer(node, 0, "SplitToSequence"), at.constant(node, 1, "position")
    if split_by is None or position is None:
        raise UnsupportedError("its sequence is none of SplitToSequence")
    x, given = at.view(node), at.constant(split_by, 1, "split")
    axis = _axis(split_by.get("axis", 0), len(x.shape))
    length = x.shape[axis]
    if given is None or given.ndim == 0:
        each = 1 if given is None else int(given)
        sizes = [min(each, length - start) for start in range(0, length, each)]
    else:
        sizes = [int(n) for n in given]
    i = int(position.reshape(-1)[0])
    if sum(sizes) != length or min(sizes) < 0 or not -len(sizes) <= i < len(sizes):
        raise ValueError(f"part {i} of {sizes}; axis {axis} is {length} long")
    part = x.sliced(axis, sum(sizes[: i % len(sizes)]), 1, sizes[i])
    if given is None and not split_by.get("keepdims", 1):
        return reshape(at, part, x.shape[:axis] + x.shape[axis + 1 :])
    return part


@converts(
    "Gather",
    by=f"{_VIEW}; `concat` of several",
    limits=f"the indices are constants, of at most {_MOST_RUNS} runs at even steps",
)
def gather(at: Importer, node: Node) -> Operand:
    """Return elements of an axis that lie at even steps."""
    x, indices = at.view(node), at.constant(node, 1, "the indices")
    assert indices is not None
    axis = _axis(node.get("axis", 0), len(x.shape))
    wanted = [int(i) + (x.shape[axis] if i < 0 else 0) for i in indices.reshape(-1)]
    if not wanted or not all(0 <= i < x.shape[axis] for i in wanted):
        raise ValueError(f"indices are {wanted[:8]}; axis {axis} has {x.shape[axis]} elements")
    parts = [x.sliced(axis, start, step, count) for start, step, count in _runs(wanted)]
    if len(parts) > _MOST_RUNS:
        raise UnsupportedError(
            f"the indices are of {len(parts)} runs at even steps; at most {_MOST_RUNS} are taken"
        )
    part = concatenated(at, parts, axis)
    return reshape(at, part, x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def _runs(indices: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield start, step and count of runs at even steps."""
    i = 0
    while i < len(indices):
        step = indices[i + 1] - indices[i] if i + 1 < len(indices) else 1
        end = i + 1
        while end < len(indices) and indices[end] - indices[end - 1] == step:
            end += 1
        yield indices[i], step, end - i
        i = end


@converts("DepthToSpace", "SpaceToDepth", by=_VIEW)
def blocks(at: Importer, node: Node) -> Operand:
    """Return blocks of positions as channels, or channels as blocks of positions."""
    x, b = at.view(node), node.get("blocksize", 1)
    if len(x.shape) != 4 or b < 1:
        raise ValueError(f"x has shape {x.shape}, of 4 axes; blocksize is {b}, of 1 or more")
    n, c, h, w = x.shape
    if node.kind == "SpaceToDepth":
        if h % b or w % b:
            raise ValueError(f"x has shape {x.shape}; blocksize is {b}")
        order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
        parts = reshape(at, x, (n, c, h // b, b, w // b, b)).transposed(order)
        return reshape(at, parts, (n, c * b * b, h // b, w // b))
    if c % (b * b):
        raise ValueError(f"x has shape {x.shape}; blocksize is {b}")
    c //= b * b
    if node.get("mode", "DCR") == "DCR":
        parts = reshape(at, x, (n, b, b, c, h, w)).transposed((0, 3, 4, 1, 5, 2))
    else:
        parts = reshape(at, x, (n, c, b, b, h, w)).transposed((0, 1, 4, 2, 5, 3))
    return reshape(at, parts, (n, c, h * b, w * b))


@converts("Concat", by="`concat`, `ops.Rearrange`")
def concat(at: Importer, node: Node) -> Operand:
    """Return tensors one after the other along an axis."""
    operands = [at.view(node, i) for i in range(len(node.inputs))]
    axis = _axis(node.get("axis", 1), len(operands[0].shape))
    return concatenated(at, operands, axis)


def concatenated(at: Importer, operands: Sequence[View], axis: int) -> View:
    """Return tensors one after the other along an axis."""
    shape = operands[0].shape
    for each in operands[1:]:
        if len(each.shape) != len(shape) or any(
            a != b for i, (a, b) in enumerate(zip(each.shape, shape, strict=True)) if i != axis
        ):
            raise ValueError(f"inputs have shapes {shape} and {each.shape}; axis is {axis}")
    if len(operands) == 1:
        return operands[0]
    total = sum(each.shape[axis] for each in operands)
    whole = (*shape[:axis], total, *shape[axis + 1 :])
    axes = max(operands, key=lambda each: each.size).usual_axes if len(shape) <= 4 else ()
    if not axes or axes[axis] == 0:
        # As channels of what comes before, over what comes after.
        outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        flat = [reshape(at, each, (outer, each.shape[axis], inner)) for each in operands]
        value = at.graph.concat([at.place(each, (0, 1, 3)) for each in flat])
        return reshape(at, View.of(value, (0, 1, 3)), whole)
    values = [at.place(each, axes) for each in operands]
    if axes[axis] == 1:
        return View.of(at.graph.concat(values), axes)
    return View.of(_joined(at, values, axes[axis]), axes)


def _joined(at: Importer, values: Sequence[Value], axis: int) -> Value:
    """Return values one after the other along H or W: each over those before it."""
    shape = list(values[0].shape)
    shape[axis] = sum(value.shape[axis] for value in values)
    begin, joined = 0, None
    for value in values:
        source = value.shape
        strides = contiguous(source)
        view = tuple(
            Axis(n, stride, -begin if a == axis else 0, length, "constant")
            for a, (n, stride, length) in enumerate(zip(shape, strides, source, strict=True))
        )
        operands = (value,) if joined is None else (value, joined)
        made = Rearrange(
            source=shape4(source, "x"), view=view, out=tuple(shape), over=joined is not None
        )
        joined = at.graph.add_op(made, *operands)
        begin += source[axis]
    assert joined is not None
    return joined


@converts(
    "Pad", by="`ops.Rearrange`", limits="pads, value and axes are constants; x has at most 4 axes"
)
def pad(at: Importer, node: Node) -> Operand:
    """Return it with a margin; a negative one is cut off."""
    x = at.view(node)
    mode = node.get("mode", "constant")
    if node.opset >= 11:
        pads, value, axes = (
            at.constant(node, i, what) for i, what in ((1, "pads"), (2, "the value"), (3, "axes"))
        )
        number = 0.0 if value is None or not value.size else float(value.reshape(-1)[0])
    else:
        pads, axes = np.array(node.get("pads", node.get("paddings", []))), None
        number = float(node.get("value", 0.0))
    rank = len(x.shape)
    if pads is None:
        raise ValueError("pads is missing")
    chosen = range(rank) if axes is None else [_axis(int(a), rank) for a in axes]
    if len(pads) != 2 * len(chosen):
        raise ValueError(f"pads is {pads.tolist()}; it must have {2 * len(chosen)} numbers")
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(chosen):
        before[axis], after[axis] = int(pads[i]), int(pads[i + len(chosen)])
    if not any(before + after):
        return x
    if mode == "wrap":  # of what is left: others do not reach past what is cut off
        for axis, (m, n) in enumerate(zip(before, after, strict=True)):
            left = x.shape[axis] + min(m, 0) + min(n, 0)
            if left < 1:
                raise UnsupportedError(f"nothing is left of axis {axis}, {x.shape[axis]} long")
            x = x.sliced(axis, -min(m, 0), 1, left)
        before, after = ([max(n, 0) for n in each] for each in (before, after))
    source = at.usual(x)
    if rank > 4:
        raise UnsupportedError(f"x has {rank} axes; at most 4 are taken")
    axes4 = {0: (), 1: (1,), 2: (0, 1), 3: (0, 1, 3), 4: IMAGES}[rank]
    sides = [[0] * 4, [0] * 4]
    for i, axis in enumerate(axes4):
        sides[0][axis], sides[1][axis] = before[i], after[i]
    made = margin(source.shape, sides[0], sides[1], mode, number)
    return View.of(at.graph.add_op(made, source), axes4)


@converts(
    *("Resize", "Upsample"),
    by="`resize_images`",
    limits=(
        f"{_IMAGES}; H and W alone are resized; mode nearest or linear; half_pixel, "
        "pytorch_half_pixel, asymmetric or align_corners; no antialias, exclude_outside or "
        "keep_aspect_ratio_policy; scales and sizes are constants"
    ),
)
def resize(at: Importer, node: Node) -> Operand:
    """Return it at another H and W."""
    x = at.view(node)
    rank = len(x.shape)
    old = node.kind == "Upsample" or node.opset < 11
    scales = at.setting(node, 1 if old else 2, "scales")
    sizes = None if old else at.constant(node, 3, "sizes")
    for name, usual in (
        ("antialias", 0),
        ("exclude_outside", 0),
        ("keep_aspect_ratio_policy", "stretch"),
    ):
        if node.get(name, usual) != usual:
            raise UnsupportedError(f"{name} is {node.get(name)!r}; it must be {usual!r}")
    mode = node.get("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear"):
        raise UnsupportedError(f"mode is {mode!r}; it must be 'nearest' or 'linear'")
    axes = [_axis(a, rank) for a in node.get("axes") or range(rank)]
    placed = {3: (0, 1, 3), 4: IMAGES}.get(rank)
    if placed is None:
        raise UnsupportedError(f"x has {rank} axes; 3 or 4 are taken")
    value = at.place(x, placed)
    size, factors = list(value.shape), [1.0] * 4
    given = sizes if sizes is not None and sizes.size else scales
    if given is None or len(given) != len(axes):
        raise ValueError("scales and sizes are missing, or not of x's axes")
    for axis, number in zip(axes, given.tolist(), strict=True):
        a = placed[axis]
        by_size = given is sizes
        size[a] = int(number) if by_size else math.floor(value.shape[a] * number)
        factors[a] = size[a] / value.shape[a] if by_size else float(number)
    if size[:2] != list(value.shape[:2]):
        raise UnsupportedError("N or C is resized; only H and W can be")
    coordinates = "asymmetric" if old else node.get("coordinate_transformation_mode", "half_pixel")
    value = at.graph.resize_images(
        value,
        size=(size[2], size[3]) if given is sizes else None,
        scales=None if given is sizes else (factors[2], factors[3]),
        mode="nearest" if mode == "nearest" else "linear",
        nearest_mode="floor" if old else node.get("nearest_mode", "round_prefer_floor"),
        coordinates=coordinates,
    )
    return View.of(value, placed)


@converts("Constant", by=_KNOWN, limits="neither sparse nor strings")
def constant(at: Importer, node: Node) -> Operand:
    """Return the array that the node is."""
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        value = node.get(name)
        if value is not None:
            if isinstance(value, np.ndarray):
                return value
            return np.asarray(value, np.int64 if "int" in name else FLOAT32)
    raise UnsupportedError("its value is sparse, or a string")
