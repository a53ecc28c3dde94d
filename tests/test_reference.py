"""The reference against plainer code still, and against Python's own functions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pwconv import reference
from pwconv.reference import Approximation, exact, given
from support import inside
from support.accuracy import assert_within

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
    ("elu", 0.5): lambda x: x if x > 0 else 0.5 * math.expm1(x),
    ("hardsigmoid", 0.25, 0.5): lambda x: min(max(0.25 * x + 0.5, 0), 1),
    ("affine", -0.75, 0.5): lambda x: 0.5 - 0.75 * x,
    ("pow", 3): lambda x: x**3,
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "softplus": lambda x: math.log1p(math.exp(x)),
    "erf": math.erf,
    "exp": math.exp,
    "abs": abs,
    "neg": lambda x: -x,
}


@pytest.mark.parametrize("activation", SCALAR, ids=str)
def test_activations(activation):
    x = np.linspace(-8, 8, 101)
    expected = [SCALAR[activation](float(value)) for value in x]
    np.testing.assert_allclose(reference.activate(x, activation), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("activation", SCALAR, ids=str)
def test_slopes_are_upper_bounds(activation):
    """An error that comes in goes out no smaller than it may, and less than twice that at most."""
    x, step = np.linspace(-10, 10, 100001), 2e-4
    moved = np.abs(np.diff(reference.activate(x, activation)))
    carried = Approximation(x[1:], np.full(len(moved), step)).activated(activation).error
    carried -= exact(x[1:]).activated(activation).error
    assert (moved <= carried + 1e-12).all()
    assert carried.max() < 1.6 * moved.max()


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


def in_every_order(rng, products: np.ndarray, dtype: str) -> list[np.ndarray]:
    """Sum over the last axis: one after the other, in pairs, in some other orders."""
    sums = []
    for _ in range(4):
        products = products[..., rng.permutation(products.shape[-1])]
        one_by_one = np.zeros(products.shape[:-1], dtype)
        for k in range(products.shape[-1]):
            one_by_one = one_by_one + products[..., k]
        halves = products
        while halves.shape[-1] > 1:
            odd = halves[..., 2 * (halves.shape[-1] // 2) :]
            pairs = halves[..., : 2 * (halves.shape[-1] // 2)]
            halves = np.concatenate([pairs[..., ::2] + pairs[..., 1::2], odd], -1)
        sums += [one_by_one, halves[..., 0]]
    assert all(each.dtype == dtype for each in sums)
    return sums


@pytest.mark.parametrize("accumulate", ["float32", "float16"])
@pytest.mark.parametrize("scale", [1.0, 2.0**-10, "whole"])
def test_sums_in_every_order(rng, accumulate, scale):
    if scale == "whole":
        x, weight = rng.integers(-3, 4, (7, 50)), rng.integers(-3, 4, (5, 50))
    else:
        x, weight = scale * rng.standard_normal((7, 50)), scale * rng.standard_normal((5, 50))
    x, weight = x.astype(accumulate), weight.astype(accumulate)
    expected = reference.linear_rows(exact(x), weight, accumulate)
    for sums in in_every_order(rng, x[:, None] * weight, accumulate):
        assert_within(sums, expected.value, expected.error)
    assert (expected.error == 0).all() == (scale == "whole")
    images = reference.convolve(
        exact(x.T[:, :, None]), weight[..., None, None], accumulate=accumulate
    )
    assert_within(images.value[..., 0].T, expected.value, 1e-12 * np.ones_like(expected.value))
    np.testing.assert_allclose(images.error[..., 0].T, expected.error, rtol=1e-12)


def test_means_in_every_order(rng):
    x = rng.standard_normal((3, 9, 31)).astype(np.float32)
    expected = reference.mean(exact(x))
    assert expected.value.shape == (3, 1, 1)
    for sums in in_every_order(rng, x.reshape(3, -1), "float32"):
        actual = (sums / np.float32(9 * 31))[:, None, None]
        assert_within(actual, expected.value, expected.error)
    assert expected.error.max() < 1e-4
    whole = reference.mean(exact(np.round(8 * x)))
    assert (whole.error <= 2.5 * 2.0**-23 * np.abs(whole.value)).all()


def test_the_bound_is_that_of_the_textbook(rng):
    x, weight = rng.standard_normal((7, 50)), rng.standard_normal((5, 50))
    bias = rng.standard_normal(5)
    for accumulate, eps, tiny in (
        ("float32", 2.0**-23, 2.0**-126),
        ("float16", 2.0**-10, 2.0**-14),
    ):
        gamma = 51 * eps / (1 - 51 * eps)
        bound = gamma * (np.abs(x) @ np.abs(weight).T) + 50 * tiny
        sums = reference.linear_rows(exact(x), weight, accumulate)
        np.testing.assert_allclose(sums.error, bound, rtol=1e-12)
        bound += 2.0**-23 * (np.abs(reference.linear(x, weight, bias)) + bound)
        settings = {"accumulate": accumulate}
        np.testing.assert_allclose(
            reference.linear_bound(x, weight, bias, **settings), bound, rtol=1e-12
        )
        bound += np.maximum(
            2.0**-11 * (np.abs(reference.linear(x, weight, bias)) + bound), 2.0**-25
        )
        np.testing.assert_allclose(
            reference.linear_bound(x, weight, bias, dtype="float16", **settings), bound, rtol=1e-12
        )


def test_whole_multiples_are_summed_exactly_up_to_what_the_type_holds():
    ones = np.ones((1, 4))
    for q in (2.0**-30, 1.0, 2.0**40):
        for accumulate, most in (("float32", 2.0**24), ("float16", 2.0**11)):
            if accumulate == "float16" and q != 1.0:
                continue
            fits = np.array([[most - 3, 1, 1, 1], [1, -1, 0, 0]]) * q
            assert (reference.linear_rows(exact(fits), ones, accumulate).error == 0).all()
            past = np.array([[most - 2, 1, 1, 1], [1, -1, 0, 0]]) * q
            errors = reference.linear_rows(exact(past), ones, accumulate).error
            assert errors[0, 0] > 0
            assert errors[1, 0] == 0
    # Numbers that may be flushed to zero are not.
    assert reference.linear_rows(exact(ones * 2.0**-127), ones).error[0, 0] > 0
    inexact = Approximation(ones, ones * 1e-30)
    assert reference.linear_rows(inexact, ones).error[0, 0] >= 4e-30
    zeros = reference.linear_rows(exact(np.zeros((2, 4))), np.full((1, 4), 0.1)).error
    assert (zeros == 0).all()


def test_a_bias_of_each_row(rng):
    """As verify has for residuals."""
    x, weight, bias = (rng.standard_normal(shape) for shape in ((6, 9), (5, 9), (6, 5)))
    bounds = reference.linear_bound(x, weight, bias)
    for row in range(6):
        alone = reference.linear_bound(x[row], weight, bias[row])
        np.testing.assert_allclose(bounds[row], alone, rtol=1e-12)


def test_what_is_declared_exact():
    sums = reference.linear_rows(exact([[0.1, 0.3]]), [[1.0, 0.7]])
    assert sums.error > 0
    assert sums.exactly().error == 0
    assert sums.exactly().value == sums.value


OPERATIONS = {
    "plus": lambda x, y: x.plus(y),
    "times": lambda x, y: x.times(y),
    "linear": lambda x, y: reference.linear_rows(x, FACTORS),
    "convolve": lambda x, y: reference.convolve(
        x, FACTORS.reshape(4, 1, 3, 2), padding=1, stride=2, groups=2
    ),
    "mean": lambda x, y: reference.mean(x),
    "concatenate": lambda x, y: reference.concatenate([x, y], -3),
    "moved": lambda x, y: x.moved(lambda array: array[..., ::-1, 1:]),
    "float16": lambda x, y: x.stored("float16"),
    **{str(name): lambda x, y, name=name: x.activated(name) for name in SCALAR},
}
FACTORS = np.random.default_rng(1).standard_normal((4, 6))


@pytest.mark.parametrize("size", [1e-3, 1.0, 20.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_errors_that_come_in(rng, name, size):
    """Whatever the inputs are within their errors, the output is, and not much closer."""
    x, y = (
        Approximation(rng.standard_normal((2, 5, 6)), size * rng.random((2, 5, 6)))
        for _ in range(2)
    )
    apply = OPERATIONS[name]
    found = apply(x, y)
    own = apply(x.exactly(), y.exactly()).error
    nearest = np.full(found.value.shape, np.inf)
    for draw in range(100):
        at_ends = [rng.choice([-1, 1], (2, 5, 6)) for _ in range(2)]
        within = at_ends if draw % 2 else [rng.uniform(-1, 1, (2, 5, 6)) for _ in range(2)]
        moved = [exact(a.value + part * a.error) for a, part in zip((x, y), within, strict=True)]
        distance = np.abs(apply(*moved).value - found.value)
        assert (distance <= found.error * (1 + 1e-9)).all()
        nearest = np.minimum(nearest, found.error - own - distance)
    if name in ("plus", "moved", "concatenate", "relu"):
        assert np.median(nearest) < 0.1 * size


def test_a_product_and_a_sum_in_fp32(rng):
    x, y = (rng.standard_normal(1000).astype(np.float32) for _ in range(2))
    for found, actual in ((exact(x).plus(exact(y)), x + y), (exact(x).times(exact(y)), x * y)):
        assert_within(actual, found.value, found.error)
        assert (found.error <= 2.0**-23 * np.abs(found.value)).all()
        assert (found.error[found.value == actual] == 0).all()
    # The sum of these is past what float64 holds, and the device may round it up.
    far = exact(2.0**60).plus(exact(2.0**-60))
    assert far.error > 0


SPECIAL = np.float32([0.0, 1.0, -2.0, 1e-40, 3e38, -3e38, np.inf, -np.inf, np.nan]).astype(float)


def within(actual: np.ndarray, found: Approximation) -> np.ndarray:
    """True where an array is within an error of a value, or is the same infinity, or NaN."""
    with np.errstate(all="ignore"):
        near = np.abs(actual.astype(np.float64) - found.value) <= found.error
    same = (actual == found.value) | (np.isnan(actual) & np.isnan(found.value))
    return near | same | np.isinf(found.error)


@pytest.mark.parametrize("operation", ["plus", "times"])
def test_infinities_nan_and_overflow(operation):
    """Of exact numbers, what numpy gives in fp32; of what may be anything, anything but NaN's."""
    x, y = (each.ravel() for each in np.meshgrid(SPECIAL, SPECIAL))
    with np.errstate(all="ignore"):
        actual = {"plus": np.add, "times": np.multiply}[operation](
            x.astype(np.float32), y.astype(np.float32)
        )
    found = getattr(exact(x), operation)(exact(y))
    assert within(actual, found).all()
    finite = np.isfinite(found.value)
    assert (found.error[~finite] == 0).all()
    assert (np.isinf(found.error) == (finite & np.isinf(actual))).all()

    anything = Approximation(x, np.full(x.shape, np.inf))
    found = getattr(anything, operation)(exact(y))
    np.testing.assert_array_equal(found.error, np.where(np.isnan(y), 0, np.inf))
    found = getattr(exact(y), operation)(anything)
    np.testing.assert_array_equal(found.error, np.where(np.isnan(y), 0, np.inf))


def test_an_infinity_times_a_number_of_either_sign():
    infinity, near = exact(np.inf), Approximation(*np.array([1.0, 2.0]))
    assert np.isinf(infinity.times(near).error)
    assert np.isinf(near.times(infinity).error)
    nearer = Approximation(*np.array([1.0, 0.5]))
    assert infinity.times(nearer).error == 0
    for of, expected in ((near, np.inf), (nearer, 0.0)):
        rows = reference.linear_rows(of.moved(lambda a: a.reshape(1, 1)), [[np.inf], [1.0]])
        assert rows.error[0, 0] == expected
        assert np.isfinite(rows.error[0, 1])


def test_sums_of_special_numbers():
    with np.errstate(all="ignore"):
        x = np.array(
            [[np.inf, 1], [np.inf, -np.inf], [np.nan, 3e38], [3e38, 3e38], [-np.inf, 3e38]]
        )
        found = reference.linear_rows(exact(x), [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    inf, nan = np.inf, np.nan
    value = [[inf, inf, nan, inf], [nan] * 4, [nan] * 4, [6e38, 3e38, 3e38, 1.2e39]]
    np.testing.assert_array_equal(found.value[:4], value)
    overflows = np.isinf(found.error)
    assert not overflows[:3].any()
    assert overflows[3].tolist() == [True, False, False, True]
    assert overflows[4].tolist() == [False, False, False, True]
    lost = reference.linear_rows(Approximation(x, np.full(x.shape, inf)), [[1.0, 0.0]])
    assert np.isinf(lost.error).all()
    with np.errstate(over="ignore"):
        images = Approximation(np.ones((1, 3, 3)), np.zeros((1, 3, 3)))
        images.error[0, 0, 0] = inf
    spread = reference.convolve(images, np.zeros((1, 1, 2, 2)))
    assert np.isinf(spread.error).tolist() == [[[True, False], [False, False]]]
    sums = {"x": [[-inf, 3e38]], "weight": [[2.0, 2.0]]}
    assert np.isinf(reference.linear_bound(**sums)).all()
    for rest in ({"bias": [inf]}, {"bias": [nan]}, {"activation": "silu"}):
        assert np.isnan(reference.linear(**sums, **rest)).all()
        assert reference.linear_bound(**sums, **rest) == 0
    means = reference.mean(exact([[[inf, 1.0]], [[nan, 3e38]], [[3e38, 3e38]]])).error
    assert means[:2].ravel().tolist() == [0, 0]
    assert np.isinf(means[2, 0, 0])


def test_what_may_be_anything_stays_so_through_activations():
    for activation in (None, *SCALAR):
        found = Approximation(SPECIAL, np.full(9, np.inf)).activated(activation).stored("float16")
        assert np.isinf(found.error).all()
        assert np.isfinite(exact(SPECIAL).activated(activation).error[[0, 1, 2, 3, 6, 7, 8]]).all()


def test_subnormal_numbers_may_be_zeros():
    x = np.array([0, 6e-8, 2.0**-14, -3e-5, 1, np.inf, np.nan], np.float16)
    errors = given(x).error
    np.testing.assert_array_equal(errors, [0, x[1], 0, -x[3], 0, 0, 0])
    wide = np.array([1e-40, -1e-45, 2.0**-126, 6e-8], np.float32)
    np.testing.assert_array_equal(given(wide).error, [wide[0], -wide[1], 0, 0])
    rows = reference.linear_rows(given(x[None, 1:4]), [[2.0, 4.0, 8.0]])
    assert rows.error[0, 0] >= 2 * float(x[1]) - 8 * float(x[3])
    # The device may flush a result that is subnormal in fp32, and no other.
    sums = exact(wide).plus(exact(np.zeros(4)))
    assert (sums.error[:2] >= np.abs(sums.value[:2])).all()
    assert (sums.error[2:] == 0).all()
    assert exact(wide).times(exact(np.float32(0.5))).error[2] >= 2.0**-127


def test_stored():
    x = np.array([0.0, 1.0, 65504.0, 2.0**-24, 1 + 2.0**-10, np.inf, np.nan])
    for dtype in ("float16", "float32"):
        assert (exact(x).stored(dtype).error == 0).all()
        np.testing.assert_array_equal(exact(x).stored(dtype).value, x)
    between = np.array([1 + 2.0**-11, 2.0**-25, 0.1])
    error = exact(between).stored("float16").error
    assert (error >= np.abs(between.astype(np.float16) - between)).all()
    assert (error <= np.maximum(2.0**-11 * between, 2.0**-25)).all()
    assert (Approximation(x[:3], np.full(3, 1e-9)).stored("float16").error > 1e-9).all()
    past = np.array([65505.0, -1e5])
    assert np.isinf(exact(past).stored("float16").error).all()
    assert np.isfinite(exact(past).stored("float32").error).all()
    assert np.isinf(exact(1e39).stored("float32").error)
    near = Approximation(np.array([65500.0]), np.array([5.0]))
    assert np.isinf(near.stored("float16").error).all()
