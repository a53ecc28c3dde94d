"""Convolutions in groups, dilated, padded by side, and transposed, against loops over taps."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from pwconv.ops import make_dense, make_depthwise, make_grouped, make_transposed
from pwconv.ops.window import POINTWISE
from pwconv.reference import exact
from support import oracle


def convolved(x, weight, bias, *, stride, sides, dilation, groups):
    """Return a convolution, tap by tap."""
    top, left, bottom, right = sides
    x = np.pad(x, [(0, 0), (0, 0), (top, bottom), (left, right)])
    c_out, each, kh, kw = weight.shape
    h = (x.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    w = (x.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((len(x), c_out, h, w))
    for o in range(c_out):
        first = o // (c_out // groups) * each
        for i, dy, dx in np.ndindex(each, kh, kw):
            rows = slice(dy * dilation[0], dy * dilation[0] + (h - 1) * stride[0] + 1, stride[0])
            columns = slice(dx * dilation[1], dx * dilation[1] + (w - 1) * stride[1] + 1, stride[1])
            y[:, o] += weight[o, i, dy, dx] * x[:, first + i, rows, columns]
    return y + oracle.channelwise(bias)


def scattered(x, weight, bias, *, stride, sides, more, dilation, groups):
    """Return a transposed convolution: each input added to the outputs under its taps."""
    n, c_in, h, w = x.shape
    _, each, kh, kw = weight.shape
    tall = (h - 1) * stride[0] + dilation[0] * (kh - 1) + 1 + more[0]
    wide = (w - 1) * stride[1] + dilation[1] * (kw - 1) + 1 + more[1]
    y = np.zeros((n, groups * each, tall, wide))
    for i in range(c_in):
        first = i // (c_in // groups) * each
        for o, dy, dx in np.ndindex(each, kh, kw):
            rows = slice(dy * dilation[0], dy * dilation[0] + (h - 1) * stride[0] + 1, stride[0])
            columns = slice(dx * dilation[1], dx * dilation[1] + (w - 1) * stride[1] + 1, stride[1])
            y[:, first + o, rows, columns] += weight[i, o, dy, dx] * x[:, i]
    top, left, bottom, right = sides
    y = np.pad(
        y, [(0, 0), (0, 0)] + [(max(-a, 0), max(-b, 0)) for a, b in ((top, bottom), (left, right))]
    )
    y = y[
        :, :, max(top, 0) : y.shape[2] - max(bottom, 0), max(left, 0) : y.shape[3] - max(right, 0)
    ]
    return y + oracle.channelwise(bias)


@pytest.fixture
def arrays(rng, dtype):
    def arrays(*shapes):
        return [rng.standard_normal(shape).astype(dtype) for shape in shapes]

    return arrays


GROUPED = [  # c_in, c_out, groups, kernel, stride, sides, dilation
    (6, 10, 2, (3, 2), (2, 1), (1, 0, 2, 1), (1, 2)),
    (5, 15, 5, (3, 3), (2, 2), (0, 1, 1, 0), (1, 1)),  # a depth multiplier
    (12, 3, 3, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
]


@pytest.mark.parametrize("case", GROUPED, ids=str)
def test_groups(device, storage, arrays, case):
    c_in, c_out, groups, kernel, stride, sides, dilation = case
    x, weight = arrays((2, c_in, 11, 7), (c_out, c_in // groups, *kernel))
    bias = np.linspace(-1, 1, c_out, dtype=np.float32)
    settings = {"stride": stride, "dilation": dilation, "groups": groups}
    node = make_grouped(weight, bias, padding=sides, activation="relu", **settings)

    def compute(x, weight, bias):
        return convolved(x, weight, bias, sides=sides, **settings)

    terms = weight[0].size
    oracle.check(node, device, storage, [x], compute, terms=terms)


@pytest.mark.parametrize("sides", [(1, 0, 2, 3), (0, 0, 0, 0)], ids=str)
def test_dilation_and_sides(device, storage, arrays, sides):
    x, dense, kernels = arrays((2, 5, 13, 11), (7, 5, 3, 2), (5, 1, 2, 3))
    settings = {"stride": (2, 1), "dilation": (2, 3)}

    def compute(x, weight, bias, groups):
        return convolved(x, weight, bias, sides=sides, groups=groups, **settings)

    node = make_dense(dense, padding=sides, **settings)
    oracle.check(
        node,
        device,
        storage,
        [x],
        lambda x, _, bias: compute(x, dense.astype(float), bias, 1),
        terms=dense[0].size,
        sizes=lambda x, _, bias: compute(x, abs(dense.astype(float)), bias, 1),
    )
    node = make_depthwise(kernels, padding=sides, **settings)
    oracle.check(node, device, storage, [x], lambda *a: compute(*a, 5), terms=6)


TRANSPOSED = [  # c_in, c_out, groups, kernel, stride, sides, output padding, dilation
    (6, 9, 3, (3, 2), (2, 3), (1, 0, 0, 1), (1, 2), (1, 1)),
    (5, 7, 1, (2, 2), (2, 2), (0, 0, 0, 0), (0, 0), (1, 1)),
    (4, 2, 2, (3, 3), (1, 2), (2, -1, 1, -2), (0, 1), (2, 1)),
]


@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_transposed(device, storage, arrays, case):
    c_in, c_out, groups, kernel, stride, sides, more, dilation = case
    x, weight = arrays((2, c_in, 7, 5), (c_in, c_out // groups, *kernel))
    bias = np.linspace(-1, 1, c_out, dtype=np.float32)
    settings = {"stride": stride, "dilation": dilation, "groups": groups}
    node = make_transposed(weight, bias, padding=sides, output_padding=more, **settings)

    def compute(x, weight, bias):
        return scattered(x, weight, bias, sides=sides, more=more, **settings)

    exact, sizes = weight.astype(float), abs(weight.astype(float))
    oracle.check(
        node,
        device,
        storage,
        [x],
        lambda x, _, bias: compute(x, exact, bias),
        terms=c_in // groups * weight[0, 0].size,
        sizes=lambda x, _, bias: compute(x, sizes, bias),
    )


def test_infinite_weights_meet_no_zeros_between(device, storage, arrays):
    """A tap that reads nothing is left out: times an infinite weight it would be NaN."""
    x, weight = arrays((1, 4, 5, 3), (4, 6, 3, 3))
    weight[1, 2, 1, 1] = np.inf
    node = make_transposed(weight, stride=2, padding=1)
    y = oracle.run(node, oracle.site(device, storage, x.dtype), device, [x])
    expected = np.zeros(y.shape, bool)
    expected[:, 2, ::2, ::2] = True  # where the middle tap lies
    np.testing.assert_array_equal(np.isinf(y), expected)
    assert not np.isnan(y).any()
    about = node.expected([exact(x)], x.dtype)
    np.testing.assert_array_equal(np.isinf(about.value), expected)
    assert np.isfinite(about.error).all()


def test_a_pointwise_kernel_has_no_dilation(device, rng):
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 5, 3, 3))
    node = graph.conv2d(x, rng.standard_normal((4, 5, 1, 1), np.float32), dilation=2)
    assert graph._nodes[node._number].operator.geometry == POINTWISE


def test_a_graph_takes_the_kernel_that_suits(device, rng):
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 6, 9, 9))
    names = [
        graph.conv2d(x, rng.standard_normal(shape, np.float32), groups=groups).name
        for shape, groups in (((4, 6, 3, 3), 1), ((6, 1, 3, 3), 6), ((6, 3, 3, 3), 2))
    ]
    operators = [type(node.operator).__name__ for node in graph._nodes[1:]]
    assert len(names) == 3
    assert operators == ["Convolution", "DepthwiseConvolution", "GroupedConvolution"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": 0}, "groups is 0; it must be at least 1"),
        ({"groups": 2.0}, "groups is 2.0; it must be an int of at least 1"),
        ({"groups": 4}, "groups is 4; it must divide C_out = 6"),
        ({"groups": 2, "padding": (1, 2, 3)}, "padding is"),
        ({"groups": 2, "dilation": 0}, "dilation is 0"),
        ({"groups": 3}, "x has shape .* 6 channels; the weight takes C_in = 9"),
    ],
    ids=str,
)
def test_bad_arguments(device, settings, message):
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 6, 9, 9))
    with pytest.raises((TypeError, ValueError), match=message):
        graph.conv2d(x, np.zeros((6, 3, 3, 3), np.float32), **settings)


def test_bad_arguments_of_a_transposed_convolution(device):
    graph = pwconv.Graph(device)
    x, weight = graph.input("x", (1, 6, 2, 2)), np.zeros((6, 3, 3, 3), np.float32)
    for settings, message in (
        ({"output_padding": 1}, "output_padding is 1; it must be below stride or dilation"),
        ({"groups": 4}, "groups is 4; it must divide C_in = 6"),
        ({"padding": 2}, "leaves nothing of the output"),
    ):
        with pytest.raises(ValueError, match=message):
            graph.conv2d_transposed(x, weight, **settings)
