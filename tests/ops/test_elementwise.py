"""Sums, products and activations, against numpy's."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from pwconv.ops import Elementwise, Epilogue
from support import oracle

SHAPES = ((3, 5, 7, 11), (13, 4, 3), (1, 6, 1, 17), (1, 1, 1, 1))
FUNCTIONS = {"add": operator.add, "mul": operator.mul}


def pooled(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-2], 1, 1)


@pytest.fixture
def check(device, rng, storage, dtype):
    def check(function: str, *shapes: tuple[int, ...], activation=None, scale: float = 1.0) -> None:
        node = Elementwise(function=function, epilogue=Epilogue(activation))
        arrays = [(scale * rng.standard_normal(shape)).astype(dtype) for shape in shapes]
        compute = FUNCTIONS.get(function, lambda x: x)
        oracle.check(node, device, storage, arrays, compute)
        out = node.shape(*shapes)
        assert node.flop(shapes, out) == np.prod(out)

    return check


@pytest.mark.parametrize("function", FUNCTIONS)
def test_same_shape(check, function):
    for shape in (*SHAPES, (17,), (5, 6), (2, 3, 1, 2, 5)):
        check(function, shape, shape)


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
        ((2, 3, 5, 7), (2, 3, 5, 1)),
        ((2, 3, 5, 7), (2, 1, 1, 1)),
        ((2, 3, 5, 7), (1, 3, 1, 1)),
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
