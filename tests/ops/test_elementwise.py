"""Sums, products and activations, against numpy's."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest

from pwconv import reference
from pwconv.ops import Elementwise, Epilogue
from support import oracle
from support.accuracy import assert_within

SHAPES = ((3, 5, 7, 11), (13, 4, 3), (1, 6, 1, 17), (1, 1, 1, 1))
FUNCTIONS = {
    "add": operator.add,
    "mul": operator.mul,
    "sub": operator.sub,
    "div": operator.truediv,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "prelu": lambda x, slope: np.where(x < 0, slope * x, x),
}
# Of two operands, neither of which has every axis.
SPREAD = (
    ((3, 5, 7, 11), (1, 5, 1, 1)),
    ((3, 5, 7, 11), (3, 1, 7, 11)),
    ((3, 5, 7, 11), (1, 1, 1, 11)),
    ((3, 5, 7, 11), (1, 5, 7, 1)),
    ((3, 5, 7, 11), (1, 1, 1, 1)),
    ((2, 6, 1, 1), (1, 1, 5, 3)),
    ((1, 6, 5, 1), (2, 1, 1, 3)),
    ((13, 4, 3), (1, 4, 1)),
)


def pooled(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-2], 1, 1)


@pytest.fixture
def check(device, rng, storage, dtype):
    def check(function: str, *shapes: tuple[int, ...], activation=None, scale: float = 1.0) -> None:
        node = Elementwise(function=function, epilogue=Epilogue(activation))
        arrays = [(scale * rng.standard_normal(shape)).astype(dtype) for shape in shapes]
        if function == "div":  # no divisor so small that rounding it says nothing of the quotient
            arrays[1] = np.copysign(np.abs(arrays[1]) + 1, arrays[1]).astype(dtype)
        compute = FUNCTIONS.get(function, lambda x: x)
        sizes = operator.add if function == "sub" else None
        oracle.check(node, device, storage, arrays, compute, sizes=sizes)
        out = node.shape(*shapes)
        assert node.flop(shapes, out) == np.prod(out)

    return check


@pytest.mark.parametrize("function", FUNCTIONS)
def test_same_shape(check, function):
    for shape in (*SHAPES, (17,), (5, 6), (2, 3, 1, 2, 5)):
        check(function, shape, shape)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_spread(check, function):
    for shapes in SPREAD if function in ("sub", "prelu") else SPREAD[2:4]:
        check(function, *shapes)
        check(function, *shapes[::-1])


@pytest.mark.parametrize("function", ["minimum", "maximum"])
def test_nan_is_the_smallest_and_the_largest(device, storage, dtype, function):
    x = np.array([np.nan, 1, -np.inf, np.inf, -0.0, np.nan], dtype).reshape(1, 1, 2, 3)
    y = np.array([2, np.nan, 3, -4, 5, np.nan], dtype).reshape(1, 1, 2, 3)
    node, at = Elementwise(function=function), oracle.site(device, storage, dtype)
    found = oracle.run(node, at, device, [x, y])
    np.testing.assert_array_equal(found, getattr(np, function)(x, y))


STEEP = {
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
    ("pow", 2): np.square,
    ("pow", -0.5): lambda x: 1 / np.sqrt(x),
    ("pow", 1.7): lambda x: x ** np.float64(np.float32(1.7)),
    ("pow", -3): lambda x: x**-3.0,
    ("pow", 3): lambda x: x**3.0,
    ("pow", -1): np.reciprocal,
}


@pytest.mark.parametrize("activation", STEEP, ids=str)
def test_steep_functions(device, rng, storage, dtype, activation):
    x = rng.uniform(0.1, 3, (2, 5, 7, 3)).astype(dtype)
    if activation in ("exp", "reciprocal") or activation[1] in (2, 3, -1, -3):
        x[0] *= -1
    node = Elementwise(function="activation", epilogue=Epilogue(activation))
    at = oracle.site(device, storage, dtype)
    about = node.expected([reference.exact(x)], at.dtype)
    value = STEEP[activation](x.astype(float))
    np.testing.assert_allclose(about.value, value, 1e-14)
    # 60 ULP, and a rounding to the type.
    assert (about.error <= np.abs(value) * (60 * 2.0**-23 + np.finfo(dtype).eps) + 2e-6).all()
    assert_within(oracle.run(node, at, device, [x]), value, about.error)


@pytest.mark.parametrize("activation", [("elu", 0.7), "softplus", "erf", "mish"], ids=str)
def test_nothing_cancels(device, storage, activation):
    """Small results have as many digits as large ones."""
    sizes = np.geomspace(1e-30, 50, 245, dtype=np.float32)
    x = np.stack([-sizes, sizes]).reshape(2, 5, 7, 7)
    node = Elementwise(function="activation", epilogue=Epilogue(activation))
    exact = {
        ("elu", 0.7): lambda x: np.where(x < 0, np.float32(0.7) * np.expm1(x), x),
        "softplus": lambda x: np.logaddexp(0, x),
        "erf": np.vectorize(math.erf),
        "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    }[activation](x.astype(float))
    about = node.expected([reference.exact(x)], np.dtype("float32"))
    small = np.abs(x) < 1
    assert (about.error <= 60 * 2.0**-23 * np.abs(exact))[small].all()
    found = oracle.run(node, oracle.site(device, storage, "float32"), device, [x])
    assert_within(found, exact, about.error)


@pytest.mark.parametrize(
    ("exponent", "expected"), [(3, 0), (4, 0), (1.7, 0), (0.5, 0), (0, 1)], ids=str
)
def test_powers_of_0(device, exponent, expected):
    """As relu leaves them, of which Vulkan has no logarithm."""
    node = Elementwise(function="activation", epilogue=Epilogue(("pow", exponent)))
    x = np.zeros((1, 1, 2, 2), np.float32)
    about = node.expected([reference.exact(x)], x.dtype)
    assert (about.value == expected).all()
    assert (about.error < 1e-6).all()
    found = oracle.run(node, oracle.site(device, "buffer", "float32"), device, [x])
    assert_within(found, about.value, about.error)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_one_value_a_channel_on_either_side(check, function):
    for shape in SHAPES:
        check(function, shape, pooled(shape))
        check(function, pooled(shape), shape)
    check(function, pooled(SHAPES[0]), SHAPES[0], activation="silu")


def test_activations(check):
    for activation in oracle.ACTIVATIONS:
        for shape in (*SHAPES, (29,)):
            check("activation", shape, activation=activation, scale=4)


def test_one_value_a_channel_takes_the_others_place():
    """Its stride is 0: each of its values meets those of its own channel alone."""
    node = Elementwise(function="add")
    assert node.shape((2, 3, 1, 1), (2, 3, 5, 7)) == (2, 3, 5, 7)
    assert node.shape((3, 5, 7), (3, 1, 1)) == (3, 5, 7)


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3, 5, 7), (2, 3, 5, 2)),
        ((2, 3, 5, 7), (2, 2, 1, 1)),
        ((2, 3, 5, 7), (3, 5, 7)),
        ((3, 1), (3, 5)),
    ],
    ids=str,
)
def test_other_shapes(shapes):
    for x, y in (shapes, shapes[::-1]):
        with pytest.raises(ValueError, match=r"the operands have shapes .* must be the same") as e:
            Elementwise(function="mul").shape(x, y)
        assert f"{x} and {y}" in str(e.value)
