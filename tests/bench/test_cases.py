"""Shapes and graphs that pwconv bench and tune measure by themselves."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from pwconv.bench.cases import Shape, edgetam_shapes, layer_case, parse_shape, repvit_m1
from pwconv.bench.graphs import count_work, make_graph


def test_edgetam():
    shapes = edgetam_shapes()
    assert [str(shape) for shape in shapes] == [
        "48→96@256",
        "96→48@256",
        "96→192@128",
        "192→96@128",
        "192→384@64",
        "384→192@64",
        "384→768@32",
        "768→384@32",
        "48→256@256",
        "256→32@256",
        "96→256@128",
        "256→64@128",
    ]
    assert [shape.count for shape in shapes] == [2, 2, 3, 3, 15, 15, 3, 3, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "shape"),
    [("96,192,128,64", Shape(96, 192, 128, 64)), ("3,16,5,5,8", Shape(3, 16, 5, 5, batch=8))],
)
def test_parse(text, shape):
    assert parse_shape(text) == shape


def test_names():
    assert str(Shape(48, 96, 20, 30, batch=2)) == "48→96@20×30 ×2"
    assert str(Shape(3, 8, 5, 5)) == "3→8@5"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1,2,3", "has 3 numbers"),
        ("1,2,3,4,5,6", "has 6 numbers"),
        ("0,2,3,4", "K is '0'"),
        ("1,-2,3,4", "N is '-2'"),
        ("1,2,x,4", "H is 'x'"),
        ("1,2,3,4,1048577", "batch is '1048577'"),
    ],
)
def test_shapes_that_are_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse_shape(text)


def test_what_a_layer_computes_and_moves(device, rng):
    shape = Shape(48, 96, 20, 30, batch=2)
    case = layer_case(shape)
    flop, least_bytes = count_work(device, case, "float32")
    assert flop == 2 * 48 * 96 * 20 * 30 * 2
    least = 4 * ((48 + 96) * 1200 + 48 * 96 + 96)
    assert least <= least_bytes < 1.01 * least  # the bias as its buffer has it
    x = rng.standard_normal((2, 48, 20, 30), np.float32)
    y = make_graph(device, case, "float32", "auto").run(x=x)["y"]
    assert y.shape == (2, 96, 20, 30)
    assert 1 < y.std() < 2


def test_the_trunks_values_stay_of_order_one(device, rng):
    graph = make_graph(device, repvit_m1(32), "float16", "texture3d")
    for array in graph.run(x=rng.standard_normal((1, 3, 32, 32), np.float32)).values():
        assert 0.1 < np.std(array.astype(np.float64)) < 30


@pytest.mark.parametrize("size", [0, 33, -32])
def test_a_size_that_networks_do_not_take(size):
    with pytest.raises(pwconv.UnsupportedError, match=f"size is {size}; it must be a positive mul"):
        repvit_m1(size)
