"""The reference against plainer code still, and against Python's own functions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pwconv import reference
from support import inside

SCALAR = {
    "relu": lambda x: max(x, 0),
    "relu6": lambda x: min(max(x, 0), 6),
    "hardswish": lambda x: x * min(max(x + 3, 0), 6) / 6,
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    ("clamp", -1, 2): lambda x: min(max(x, -1), 2),
    ("leaky_relu", 0.1): lambda x: x if x > 0 else 0.1 * x,
}


@pytest.mark.parametrize("activation", SCALAR, ids=str)
def test_activations(activation):
    x = np.linspace(-8, 8, 101)
    expected = [SCALAR[activation](float(value)) for value in x]
    np.testing.assert_allclose(reference.activate(x, activation), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("activation", SCALAR, ids=str)
def test_slopes_are_upper_bounds(activation):
    x = np.linspace(-10, 10, 100001)
    slopes = np.abs(np.diff(reference.activate(x, activation)) / np.diff(x))
    assert slopes.max() <= inside.activation_rule(activation).slope + 1e-6


def test_unknown_activation():
    with pytest.raises(ValueError, match="activation is"):
        reference.activate(1.0, ("swish", 1))


@pytest.mark.parametrize(
    ("stride", "padding"), [(1, 0), (2, 0), (1, 1), ((2, 3), (0, 1)), ((3, 1), (2, 0))]
)
def test_conv2d_pw_by_its_definition(rng, stride, padding):
    x = rng.standard_normal((2, 3, 5, 7))
    weight, bias = rng.standard_normal((4, 3)), rng.standard_normal(4)
    (sh, sw), (ph, pw) = inside.as_pair(stride), inside.as_pair(padding)
    height, width = (5 + 2 * ph - 1) // sh + 1, (7 + 2 * pw - 1) // sw + 1
    expected = np.empty((2, 4, height, width))
    for n, o, h, w in np.ndindex(expected.shape):
        row, column = h * sh - ph, w * sw - pw
        within = 0 <= row < 5 and 0 <= column < 7
        dot = sum(weight[o, i] * x[n, i, row, column] for i in range(3)) if within else 0.0
        expected[n, o, h, w] = bias[o] + dot
    actual = reference.conv2d_pw(x, weight[:, :, None, None], bias, stride=stride, padding=padding)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    np.testing.assert_allclose(
        reference.conv2d_pw(x[0], weight, bias, stride=stride, padding=padding), expected[0]
    )


@pytest.mark.parametrize("leading", [(), (3,), (3, 2), (3, 1, 2)], ids=str)
@pytest.mark.parametrize("batched", [False, True])
def test_linear_by_its_definition(rng, leading, batched):
    if batched and not leading:
        pytest.skip("a batch is an axis")
    x = rng.standard_normal((*leading, 5))
    weight = rng.standard_normal((3, 4, 5) if batched else (4, 5))
    bias = rng.standard_normal(4)
    expected = np.empty((*leading, 4))
    for index in np.ndindex(expected.shape):
        row = weight[index[0], index[-1]] if batched else weight[index[-1]]
        expected[index] = bias[index[-1]] + sum(row[k] * x[index[:-1]][k] for k in range(5))
    np.testing.assert_allclose(reference.linear(x, weight, bias), expected, rtol=1e-12)
    bound = reference.linear_bound(x, weight, bias)
    assert bound.shape == expected.shape
    assert (bound > 0).all()


def test_a_linear_layer_is_a_convolution(rng):
    """Of the rows as positions; so are their bounds."""
    x, weight = rng.standard_normal((6, 5)), rng.standard_normal((4, 5))
    bias, settings = rng.standard_normal(4), {"activation": "gelu"}
    images = x.T[:, :, None]
    for kind in ("", "_bound"):
        conv = getattr(reference, f"conv2d_pw{kind}")(images, weight, bias, **settings)
        rows = getattr(reference, f"linear{kind}")(x, weight, bias, **settings)
        np.testing.assert_allclose(conv[:, :, 0].T, rows, rtol=1e-12)


@pytest.mark.parametrize("transposed", [True, False])
def test_pack_linear_weight_by_its_definition(rng, transposed):
    weight = rng.standard_normal((2, 6, 9)).astype(np.float32)
    packed = reference.pack_linear_weight(weight, transposed=transposed)
    n_count, k_count = (6, 9) if transposed else (9, 6)
    assert packed.shape == (2, -(-k_count // 4), -(-n_count // 4), 4, 4)
    for b, k4, n4, dk, j in np.ndindex(packed.shape):
        n, k = 4 * n4 + j, 4 * k4 + dk
        within = n < n_count and k < k_count
        index = (b, n, k) if transposed else (b, k, n)
        assert packed[b, k4, n4, dk, j] == (weight[index] if within else 0)


def test_pack_linear_weight_narrows():
    weight = np.array([[1 + 2.0**-11, 1 + 3 * 2.0**-11]], np.float32)
    packed = reference.pack_linear_weight(weight, dtype="float16")
    assert packed.dtype == np.float16
    assert packed[0, 0, 0, :2, 0].tolist() == [1.0, 1 + 2.0**-9]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("activation", [None, "gelu", "tanh"])
def test_the_bound_holds_for_numpy_and_is_not_idle(rng, dtype, activation):
    """numpy in float32 keeps it, and it is small beside results of order one."""
    x = rng.standard_normal((64, 9, 9)).astype(dtype)
    weight = (rng.standard_normal((16, 64)) / 8).astype(dtype)
    exact = reference.conv2d_pw(x, weight, activation=activation)
    bound = reference.conv2d_pw_bound(x, weight, activation=activation, dtype=dtype)
    sums = np.einsum("oi,ihw->ohw", weight.astype(np.float32), x.astype(np.float32))
    rounded = reference.activate(sums, activation).astype(dtype)
    assert (np.abs(rounded - exact) <= bound).all()
    typical = {"float32": 1e-4, "float16": 2e-3}[dtype]
    assert np.median(bound) < typical


def test_the_bound_is_infinite_where_half_may_overflow():
    x, weight = np.full((4, 1, 1), 200.0), np.full((1, 4), 200.0)
    assert np.isinf(reference.conv2d_pw_bound(x, weight, dtype="float16")).all()
    assert np.isinf(reference.conv2d_pw_bound(x, weight, accumulate="float16")).all()
    assert np.isfinite(reference.conv2d_pw_bound(x, weight)).all()
    long = np.ones((1, 2000)) / 2000
    assert np.isinf(
        reference.conv2d_pw_bound(np.ones((2000, 1, 1)), long, accumulate="float16")
    ).all()


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_convolution_with_a_kernel_is_its_sum(rng, groups):
    x, weight = rng.standard_normal((2, 6, 7, 8)), rng.standard_normal((12, 6 // groups, 3, 2))
    bias = rng.standard_normal(12)
    y = reference.conv2d(x, weight, bias, stride=(2, 3), padding=(1, 0), groups=groups)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    assert y.shape == (2, 12, 4, 3)
    for n, o, row, column in np.ndindex(y.shape):
        first = o // (12 // groups) * (6 // groups)
        channels = padded[n, first : first + 6 // groups]
        patch = channels[:, 2 * row : 2 * row + 3, 3 * column : 3 * column + 2]
        assert y[n, o, row, column] == pytest.approx((patch * weight[o]).sum() + bias[o])


def test_a_kernel_of_one_tap_is_pointwise(rng):
    x, weight = rng.standard_normal((3, 5, 7)), rng.standard_normal((4, 3, 1, 1))
    settings = {"stride": 2, "padding": (1, 3), "activation": "gelu"}
    expected = reference.conv2d_pw(x, weight, **settings)
    np.testing.assert_allclose(reference.conv2d(x, weight, **settings), expected, rtol=1e-12)
