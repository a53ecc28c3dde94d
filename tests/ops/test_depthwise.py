"""Depthwise convolutions: the sum over taps of shifted slices."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from pwconv.ops import DepthwiseConvolution, make_depthwise
from support import oracle
from support.mirror import random_weight


def of(node: DepthwiseConvolution) -> oracle.Oracle:
    """Return the oracle of a node, whose weight is [C, 1, KH, KW]."""
    geometry = node.geometry

    def compute(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        places = oracle.shifted(x, geometry.kernel, geometry.stride, geometry.padding)
        sums = sum(weight[:, 0, i, j, None, None] * part for (i, j), part in places)
        return sums + oracle.channelwise(bias)

    return compute


# Kernel, stride, padding, and shapes of x; a pipeline each.
PROBLEMS = (
    ((3, 3), 1, 1, [(3, 5, 7, 11), (13, 4, 3), (1, 4, 8, 8), (1, 1, 1, 1)]),
    ((3, 3), 2, 1, [(3, 5, 7, 11), (13, 5, 4)]),
    ((5, 2), (3, 1), (4, 0), [(1, 6, 13, 17), (7, 1, 2)]),
    ((1, 1), (2, 3), 0, [(2, 7, 11, 13)]),
)


@pytest.mark.parametrize(("kernel", "stride", "padding", "shapes"), PROBLEMS, ids=str)
def test_sums(device, rng, storage, dtype, kernel, stride, padding, shapes):
    for shape in shapes:
        c = shape[-3]
        weight, bias = random_weight(rng, dtype, c, 1, *kernel)
        x = rng.standard_normal(shape).astype(dtype)
        node = make_depthwise(
            weight, bias, stride=stride, padding=padding, activation=("leaky_relu", 0.1)
        )
        oracle.check(node, device, storage, [x], of(node), terms=math.prod(kernel) + 1)
        out = node.shape(shape)
        assert node.flop([shape], out) == 2 * math.prod(kernel) * math.prod(out)


def test_without_a_bias(device, rng, storage, dtype):
    weight, _ = random_weight(rng, dtype, 5, 1, 3, 3)
    x = rng.standard_normal((3, 5, 7, 11)).astype(dtype)
    node = make_depthwise(weight, padding=1)
    oracle.check(node, device, storage, [x], of(node), terms=9)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4, 7, 7), "x has shape (2, 4, 7, 7), 4 channels; the weight takes C_in = 5"),
        ((2, 7, 7, 5), "pass x.transpose(0, 3, 1, 2) if channels come last in it"),
        ((5, 7), "x has shape (5, 7); it must be [N, C, H, W] or [C, H, W]"),
        ((1, 5, 0, 7), "x has shape (1, 5, 0, 7); only the batch may be 0"),
        (
            (1, 5, 2, 9),
            "a 4x4 kernel with padding 0 needs H and W of at least 4; pad by 2, or use a larger",
        ),
    ],
)
def test_other_shapes(shape, message):
    node = make_depthwise(np.ones((5, 1, 4, 4), np.float32))
    with pytest.raises(ValueError, match=re.escape(message)):
        node.shape(shape)


def test_a_weight_of_several_inputs():
    with pytest.raises(ValueError, match="each channel has a kernel of its own"):
        make_depthwise(np.ones((5, 2, 3, 3), np.float32))
