"""Models of ONNX in float64, node by node: what their own numbers give, before any is rounded.

onnx.reference computes all but what it is slow at (windows, resizing), lacks (Gelu), or is wrong at
(LRN, Softmax below opset 13, batch norms below 14, transposed convolutions in groups).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from pwconv.importer.model import Model, Node, read_model
from pwconv.importer.network import compute

Array = np.ndarray
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def evaluate(
    model: Any, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None
) -> dict[str, Array]:
    """Return what a model computes, in float64, of inputs that are given in any type."""
    read = read_model(model)
    values = begin(read, inputs)
    for node in read.nodes:
        step(node, values)
    return {name: values[name] for name in outputs or read.outputs}


def begin(read: Model, inputs: Mapping[str, Array]) -> dict[str, Any]:
    """Return what is known of a model's values before any node is computed."""
    given = {**read.constants, **inputs}
    return {"": None, **{name: _exact(array) for name, array in given.items()}}


def step(node: Node, values: dict[str, Any]) -> None:
    """Compute a node, and add what it gives to the values."""
    given = [values[name] for name in node.inputs]
    if node.kind in OWN:
        found = [OWN[node.kind](node, *given)]
    elif node.kind == "Cast" and given[0].dtype.kind == "f" and node.get("to") in _FLOATS:
        found = given  # to float32: nothing is rounded here
    else:
        found = compute(node, {n: values[n] for n in node.inputs if n})
    names = (name for name in node.outputs if name)
    values.update((n, _exact(a)) for n, a in zip(names, found, strict=False))


def _exact(array: Any) -> Any:
    array = np.asarray(array)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


class _Window:
    """The taps of a kernel over [N, C, H, W], padded."""

    def __init__(self, node: Node, taps: Sequence[int], size: Sequence[int]) -> None:
        rank = len(taps)
        self.taps = tuple(taps)
        self.stride = node.get("strides") or [1] * rank
        self.dilation = node.get("dilations") or [1] * rank
        pads = node.get("pads") or [0] * 2 * rank
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, taps, strict=True)]
        mode = node.get("auto_pad", "NOTSET")
        if mode.startswith("SAME"):
            total = [
                max((-(-n // s) - 1) * s + r - n, 0)
                for n, s, r in zip(size, self.stride, reach, strict=True)
            ]
            less = [n // 2 for n in total]
            more = [n - m for n, m in zip(total, less, strict=True)]
            pads = less + more if mode == "SAME_UPPER" else more + less
        self.begin, self.end = pads[:rank], pads[rank:]
        self.out = []
        for i in range(rank):
            room = size[i] + self.begin[i] + self.end[i] - reach[i]
            count = room // self.stride[i] + 1
            # A window more, if it begins before what is padded at the end.
            more_than = -(-room // self.stride[i])
            if node.get("ceil_mode", 0) and more_than * self.stride[i] < size[i] + self.begin[i]:
                count = more_than + 1
            self.out.append(count)

    def over(self, x: Array, outside: float) -> list[Array]:
        """Return what each tap meets."""
        last = [
            max((n - 1) * s + d * (k - 1) + 1 - size - b, e)
            for n, s, d, k, size, b, e in zip(
                *(self.out, self.stride, self.dilation, self.taps, x.shape[2:]),
                *(self.begin, self.end),
                strict=True,
            )
        ]
        sides = [(0, 0), (0, 0), *zip(self.begin, last, strict=True)]
        padded = np.pad(x, sides, constant_values=outside)
        found = []
        for tap in np.ndindex(self.taps):
            begins = [d * t for d, t in zip(self.dilation, tap, strict=True)]
            ends = [
                b + (n - 1) * s + 1 for b, n, s in zip(begins, self.out, self.stride, strict=True)
            ]
            steps = (slice(*each) for each in zip(begins, ends, self.stride, strict=True))
            found.append(padded[(..., *steps)])
        return found


def _conv(node: Node, x: Array, weight: Array, bias: Array | None = None) -> Array:
    window = _Window(node, weight.shape[2:], x.shape[2:])
    groups = node.get("group", 1)
    n, c = x.shape[:2]
    columns = np.stack(window.over(x, 0.0), 2).reshape(n, groups, c // groups * _taps(window), -1)
    rows = weight.reshape(groups, len(weight) // groups, -1)
    y = (rows @ columns).reshape(n, len(weight), *window.out)
    return y + _channelwise(bias, y)


def _conv_transposed(node: Node, x: Array, weight: Array, bias: Array | None = None) -> Array:
    groups, rank = node.get("group", 1), x.ndim - 2
    strides = node.get("strides") or [1] * rank
    dilations = node.get("dilations") or [1] * rank
    more = node.get("output_padding") or [0] * rank
    pads = node.get("pads") or [0] * 2 * rank
    assert node.get("auto_pad", "NOTSET") == "NOTSET"
    assert not node.get("output_shape")
    n, c, *size = x.shape
    taps, per_group = weight.shape[2:], weight.shape[1]
    whole = [
        (m - 1) * s + d * (k - 1) + 1 + o
        for m, s, d, k, o in zip(size, strides, dilations, taps, more, strict=True)
    ]
    y = np.zeros((n, groups * per_group, *whole))
    columns = x.reshape(n, groups, c // groups, -1)
    for tap in np.ndindex(taps):
        rows = weight[(slice(None), slice(None), *tap)].reshape(groups, c // groups, per_group)
        part = (rows.transpose(0, 2, 1) @ columns).reshape(n, -1, *size)
        steps = (
            slice(d * t, d * t + (m - 1) * s + 1, s)
            for d, t, m, s in zip(dilations, tap, size, strides, strict=True)
        )
        y[(..., *steps)] += part
    kept = (slice(pads[i], whole[i] - pads[i + rank]) for i in range(rank))
    y = y[(..., *kept)]
    return y + _channelwise(bias, y)


def _taps(window: _Window) -> int:
    return math.prod(window.taps)


def _channelwise(numbers: Array | None, x: Array) -> Any:
    return 0.0 if numbers is None else numbers.reshape(1, -1, *[1] * (x.ndim - 2))


def _max_pool(node: Node, x: Array) -> Array:
    window = _Window(node, node.get("kernel_shape"), x.shape[2:])
    return np.max(window.over(x, -np.inf), 0)


def _average_pool(node: Node, x: Array) -> Array:
    assert not node.get("ceil_mode", 0)
    window = _Window(node, node.get("kernel_shape"), x.shape[2:])
    sums = np.sum(window.over(x, 0.0), 0)
    if node.get("count_include_pad", 0):
        return sums / _taps(window)
    return sums / np.sum(window.over(np.ones_like(x), 0.0), 0)


def _batch_norm(
    node: Node, x: Array, scale: Array, bias: Array, mean: Array, variance: Array
) -> Array:
    factor = scale / np.sqrt(variance + node.get("epsilon", 1e-5))
    return (x - _channelwise(mean, x)) * _channelwise(factor, x) + _channelwise(bias, x)


def _softmax(node: Node, x: Array) -> Array:
    axis = node.get("axis", -1 if node.opset >= 13 else 1) % x.ndim
    axes = axis if node.opset >= 13 else tuple(range(axis, x.ndim))
    e = np.exp(x - x.max(axes, keepdims=True))
    return e / e.sum(axes, keepdims=True)


def _lrn(node: Node, x: Array) -> Array:
    size, channels = node.get("size"), x.shape[1]
    squares = np.zeros_like(x)
    for c in range(channels):
        near = x[:, max(c - (size - 1) // 2, 0) : c + size // 2 + 1]
        squares[:, c] = (near**2).sum(1)
    scale = node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * squares
    return x / scale ** node.get("beta", 0.75)


def _gelu(node: Node, x: Array) -> Array:
    if node.get("approximate", "none") == "tanh":
        return x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2
    return x * (1 + _erf(x / 2**0.5)) / 2


def _resize(node: Node, x: Array, *given: Array | None) -> Array:
    """Return it at another size, by one matrix for each axis."""
    old = node.kind == "Upsample" or node.opset < 11
    scales = given[0] if old else given[1]
    sizes = given[2] if len(given) > 2 else None
    coordinates = "asymmetric" if old else node.get("coordinate_transformation_mode", "half_pixel")
    assert node.get("axes") is None
    for axis in range(2, x.ndim):
        n = x.shape[axis]
        if sizes is not None and sizes.size:
            m = int(sizes[axis])
            scale = m / n
        else:
            assert scales is not None
            scale = float(scales[axis])
            m = math.floor(n * scale)
        i = np.arange(m)
        if coordinates == "align_corners":
            at = i * ((n - 1) / (m - 1) if m > 1 else 0.0)
        elif coordinates == "asymmetric":
            at = i / scale
        else:
            assert coordinates in ("half_pixel", "pytorch_half_pixel")
            at = (i + 0.5) / scale - 0.5
            if coordinates == "pytorch_half_pixel" and m == 1:
                at = np.zeros(1)
        matrix = np.zeros((m, n))
        if node.get("mode", "nearest") == "nearest":
            rounding: dict[str, Callable[[Array], Array]] = {
                "floor": np.floor,
                "ceil": np.ceil,
                "round_prefer_floor": lambda a: np.ceil(a - 0.5),
                "round_prefer_ceil": lambda a: np.floor(a + 0.5),
            }
            way = "floor" if old else node.get("nearest_mode", "round_prefer_floor")
            matrix[i, np.clip(rounding[way](at).astype(int), 0, n - 1)] = 1
        else:
            first = np.floor(at).astype(int)
            share = at - first
            np.add.at(matrix, (i, np.clip(first, 0, n - 1)), 1 - share)
            np.add.at(matrix, (i, np.clip(first + 1, 0, n - 1)), share)
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix.T, -1, axis)
    return x


_erf = np.vectorize(math.erf, otypes=[np.float64])
OWN: dict[str, Callable[..., Array]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transposed,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Dropout": lambda node, x, *_: x,
    "Softmax": _softmax,
    "Gelu": _gelu,
    "LRN": _lrn,
    "Resize": _resize,
    "Upsample": _resize,
}
