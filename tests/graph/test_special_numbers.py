"""Infinities, NaN, zeros, numbers too small to be normal and too large to be multiplied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pwconv
from pwconv import reference

ACTIVATIONS = (
    *(None, "relu", "relu6", "hardswish", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh"),
    *(("clamp", -0.1, 0.1), ("clamp", -np.inf, 16777217.0), ("clamp", 1e300, 1e301)),
    *(("leaky_relu", 0.1), ("leaky_relu", -3e38), ("elu", -0.7), ("hardsigmoid", 0.2, 0.5)),
    *("mish", "softplus", "erf", "exp", "log", "sqrt", "abs", "neg", "reciprocal"),
    *(("affine", 2.5, -1), ("pow", 3), ("pow", 4)),
)
MAGNITUDES = (np.inf, np.nan, 0, 1e-45, 1e-40, 2.0**-126, 6e-8, 0.1, 1, 10, 89, 65504, 1e30, 3e38)

storages = pytest.mark.parametrize("storage", ["texture3d", "buffer"])
types = pytest.mark.parametrize("dtype", ["float32", "float16"])
pytestmark = pytest.mark.filterwarnings("error:.*encountered:RuntimeWarning")


def assert_same(actual: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> None:
    """Assert a bound; the very infinity, or NaN; and anything where the type overflows."""
    assert actual.shape == expected.shape
    assert np.isnan(bound).sum() == 0
    with np.errstate(invalid="ignore"):
        right = np.abs(actual.astype(np.float64) - expected) <= bound
    right |= (actual == expected) | (np.isnan(actual) & np.isnan(expected)) | np.isinf(bound)
    assert right.all(), (actual[~right][:5], expected[~right][:5], bound[~right][:5])


def sprinkled(rng: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    """Random numbers, with a few of those that are special in between.

    None so small that a driver may take it for zero, and its product with an infinity for NaN.
    """
    array = rng.standard_normal(shape)
    few = rng.random(shape) < 0.03
    kept = [m for m in MAGNITUDES if not 0 < m < float(np.finfo(dtype).tiny)]
    special = rng.choice(kept, shape) * rng.choice([-1, 1], shape)
    with np.errstate(over="ignore"):
        return np.where(few, special, array).astype(dtype)


@storages
@types
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_activations(device, dtype, storage, activation):
    with np.errstate(over="ignore"):
        x = np.array([*MAGNITUDES, *(-m for m in MAGNITUDES)]).astype(dtype)
    graph = pwconv.Graph(device, dtype, storage=storage)
    graph.output("y", graph.activation(graph.input("x", x.shape), activation))
    expected = reference.activate(x, activation)
    bound = reference.activate_bound(x, activation, dtype=dtype)
    assert_same(graph.run(x=x)["y"], expected, bound)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_of_infinities_and_nan_what_torch_gives(activation):
    """By torch's formulas: NaN where 0 is multiplied by an infinity."""
    expected = {
        "relu": (np.inf, 0),
        "relu6": (6, 0),
        "hardswish": (np.inf, np.nan),
        "silu": (np.inf, np.nan),
        "gelu": (np.inf, np.nan),
        "gelu_tanh": (np.inf, np.nan),
        "sigmoid": (1, 0),
        "tanh": (1, -1),
        ("clamp", -0.1, 0.1): (np.float32(0.1), -np.float32(0.1)),
        ("clamp", -np.inf, 16777217.0): (2**24, -np.inf),
        ("clamp", 1e300, 1e301): (np.inf, np.inf),
        ("leaky_relu", -3e38): (np.inf, np.inf),
        ("elu", -0.7): (np.inf, np.float32(0.7)),
        ("hardsigmoid", 0.2, 0.5): (1, 0),
        "mish": (np.inf, np.nan),
        "softplus": (np.inf, 0),
        "erf": (1, -1),
        "exp": (np.inf, 0),
        "log": (np.inf, np.nan),
        "sqrt": (np.inf, np.nan),
        "abs": (np.inf, np.inf),
        "neg": (-np.inf, np.inf),
        "reciprocal": (0, 0),
        ("pow", 4): (np.inf, np.inf),
    }.get(activation, (np.inf, -np.inf))
    actual = reference.activate([np.inf, -np.inf, np.nan], activation)
    np.testing.assert_array_equal(actual, [*expected, np.nan])
    bound = reference.activate_bound([np.inf, -np.inf, np.nan], activation)
    broken = activation in ("log", "sqrt")  # below 0 the device may have any number
    assert (np.isinf(bound) == [False, broken, False]).all()


CONVOLUTIONS: tuple[tuple[str, tuple[int, ...], dict[str, Any]], ...] = (
    ("conv2d_pw", (7, 5, 1, 1), {"padding": (1, 2), "stride": 2}),
    ("conv2d", (7, 5, 3, 2), {"padding": 1}),
    ("conv2d_dw", (5, 1, 3, 3), {"padding": (2, 1), "stride": (1, 2)}),
)


@storages
@types
@pytest.mark.parametrize("activation", [None, "relu", "sigmoid"])
@pytest.mark.parametrize(
    ("kind", "shape", "settings"), CONVOLUTIONS, ids=[kind for kind, *_ in CONVOLUTIONS]
)
def test_convolutions(device, rng, dtype, storage, activation, kind, shape, settings):
    """Padding is zeros: an infinite weight times one is NaN, in each of them."""
    x, weight = sprinkled(rng, dtype, 2, 5, 6, 7), sprinkled(rng, dtype, *shape)
    weight[0, 0, 0, 0] = np.inf
    bias = sprinkled(rng, dtype, shape[0])
    graph = pwconv.Graph(device, dtype, storage=storage)
    node = getattr(graph, kind)
    value = node(graph.input("x", x.shape), weight, bias, activation=activation, **settings)
    graph.output("y", value)
    settings = {**settings, "groups": 5 // shape[1], "activation": activation}
    expected = reference.conv2d(x, weight, bias, **settings)
    bound = reference.conv2d_bound(x, weight, bias, dtype=dtype, **settings)
    assert np.isnan(expected[:, 0]).any()
    assert_same(graph.run(x=x)["y"], expected, bound)


@storages
@types
@pytest.mark.parametrize("activation", [None, "relu"])
def test_linear(device, rng, dtype, storage, activation):
    x, weight, bias = (sprinkled(rng, dtype, *shape) for shape in ((40, 9), (6, 9), (6,)))
    layer = pwconv.Linear(weight, bias, activation=activation, storage=storage, device=device)
    expected = reference.linear(x, weight, bias, activation=activation)
    bound = reference.linear_bound(x, weight, bias, activation=activation, dtype=dtype)
    assert_same(layer(x), expected, bound)


@storages
@types
def test_element_by_element_and_means(device, rng, dtype, storage):
    x, y = sprinkled(rng, dtype, 2, 5, 16, 16), sprinkled(rng, dtype, 2, 5, 16, 16)
    graph = pwconv.Graph(device, dtype, storage=storage)
    a, b = graph.input("x", x.shape), graph.input("y", y.shape)
    graph.output("sum", graph.add(a, b))
    graph.output("product", graph.mul(a, b))
    graph.output("mean", graph.global_avg_pool(b))
    actual = graph.run(x=x, y=y)
    wide, other = x.astype(np.float64), y.astype(np.float64)
    most = np.finfo(dtype).max
    with np.errstate(all="ignore"):
        for name, exact in (("sum", wide + other), ("product", wide * other)):
            bound = np.abs(exact) * np.finfo(dtype).eps + max(2.0**-126, np.finfo(dtype).tiny)
            bound = np.where(np.abs(exact) + bound > most, np.inf, bound)
            assert_same(actual[name], exact, np.where(np.isfinite(exact), bound, 0))
        means = other.mean((-2, -1), keepdims=True)
        terms = np.nan_to_num(np.abs(other), nan=0, posinf=0).mean((-2, -1), keepdims=True)
        bound = terms * (256 * 2.0**-23 + np.finfo(dtype).eps) + np.finfo(dtype).tiny
        bound = np.where(np.isfinite(means), bound, 0)
        overflow = (256 * terms > 3e38) | np.isfinite(means) & (np.abs(means) + bound > most)
        assert_same(actual["mean"], means, np.where(overflow, np.inf, bound))


def test_a_sum_past_float32_has_no_bound():
    x, weight = np.full((2, 1), 1e30), np.full((1, 1), 1e30)
    assert np.isinf(reference.linear_bound(x, weight)).all()
    assert np.isinf(reference.activate_bound(np.array([-1e30]), ("leaky_relu", 1e30))).all()
    assert np.isinf(reference.activate_bound(65519.0, None, dtype="float16"))


def test_bounds_of_convolutions_with_a_kernel(rng):
    """One of one tap is pointwise, and one of many rows of one column a linear layer."""
    x, weight = rng.standard_normal((2, 5, 4, 3)), rng.standard_normal((7, 5))
    settings = {"padding": 1, "stride": 2, "activation": "silu", "dtype": "float16"}
    np.testing.assert_allclose(
        reference.conv2d_bound(x, weight[:, :, None, None], **settings),
        reference.conv2d_pw_bound(x, weight, **settings),
    )
    rows = rng.standard_normal((1, 6, 1))
    np.testing.assert_allclose(
        reference.conv2d_bound(rows, rng.standard_normal((1, 1, 6, 1)) * 0 + 2)[0, 0, 0],
        reference.linear_bound(rows[..., 0], np.full((1, 6), 2.0))[0, 0],
    )
    grouped = reference.conv2d_bound(x[:, :4], rng.standard_normal((8, 2, 2, 2)), groups=2)
    assert grouped.shape == (2, 8, 3, 2)
    assert np.isfinite(grouped).all()
