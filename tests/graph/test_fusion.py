"""Two pointwise convolutions that become one, and those that must not."""

from __future__ import annotations

import math

import numpy as np
import pytest

import pwconv
from support import inside
from support.mirror import Mirror, Pair, random_weight

pytestmark = pytest.mark.usefixtures("any_pair")

SHAPE = (2, 5, 6, 7)


def conv(mirror: Mirror, rng: np.random.Generator, x: Pair, n: int, **settings: object) -> Pair:
    weight = random_weight(rng, mirror.dtype, n, x.value.shape[-3])
    return mirror.conv2d_pw(x, *weight, **settings)


def check(mirror: Mirror, rng: np.random.Generator) -> list[str]:
    """Check the graph's numbers; return what it runs."""
    shapes = {
        name: inside.shapes(mirror.graph)[i] for name, i in inside.inputs(mirror.graph).items()
    }
    mirror.check({n: rng.standard_normal(s).astype(mirror.dtype) for n, s in shapes.items()})
    program = inside.program(mirror.graph)
    return [program.network.nodes[i].operator.name for i in program.dispatches]


@pytest.mark.parametrize(
    "shape",
    [
        (2, 5, 6, 7),
        (37, 11, 13),
        pytest.param((1, 48, 16, 16), marks=pytest.mark.exhaustive),
        pytest.param((3, 96, 5, 8), marks=pytest.mark.exhaustive),
    ],
)
def test_a_channel_mixer(mirror, rng, shape):
    """x + conv2(gelu(conv1 x)), at sizes in turns."""
    x = mirror.input("x", shape)
    hidden = conv(mirror, rng, x, 2 * shape[-3], activation="gelu")
    mirror.output("y", conv(mirror, rng, hidden, shape[-3], residual=x))
    for size in (shape[-2:], (1, 1), (17, 19), shape[-2:]):
        mirror.graph.resize(x=(*shape[:-2], *size))
        assert check(mirror, rng) == ["conv2d_pw_pair"]


@pytest.mark.parametrize(
    "activation",
    [
        None,
        pytest.param("relu6", marks=pytest.mark.exhaustive),
        pytest.param("sigmoid", marks=pytest.mark.exhaustive),
        ("clamp", 0.5, 2.0),
    ],
)
def test_any_activations(mirror, rng, activation):
    x = mirror.input("x", SHAPE)
    hidden = mirror.activation(conv(mirror, rng, x, 7), activation) if activation else None
    hidden = hidden or conv(mirror, rng, x, 7)
    mirror.output("y", mirror.activation(conv(mirror, rng, hidden, 3), "silu"))
    assert check(mirror, rng) == ["conv2d_pw_pair"]


def test_three_in_a_row(mirror, rng):
    x = mirror.input("x", SHAPE)
    y = conv(mirror, rng, conv(mirror, rng, conv(mirror, rng, x, 8), 9), 10)
    mirror.output("y", y)
    assert check(mirror, rng) == ["conv2d_pw_pair", "conv2d_pw"]


def test_it_can_be_turned_off(device, dtype, storage, rng):
    mirror = Mirror(device, dtype, storage, fuse=False)
    hidden = conv(mirror, rng, mirror.input("x", SHAPE), 7)
    mirror.output("y", conv(mirror, rng, hidden, 3))
    assert check(mirror, rng) == ["conv2d_pw", "conv2d_pw"]


def test_what_is_taken_twice_stays(mirror, rng):
    x = mirror.input("x", SHAPE)
    hidden = conv(mirror, rng, x, 5, activation="relu")
    mirror.output("y", conv(mirror, rng, hidden, 5, residual=hidden))
    assert check(mirror, rng) == ["conv2d_pw", "conv2d_pw"]


def test_an_output_stays(mirror, rng):
    hidden = conv(mirror, rng, mirror.input("x", SHAPE), 5)
    mirror.output("hidden", hidden)
    mirror.output("y", conv(mirror, rng, hidden, 5))
    assert check(mirror, rng) == ["conv2d_pw", "conv2d_pw"]


@pytest.mark.parametrize("strided", [0, 1])
def test_strides_that_stay_keep_both(mirror, rng, strided):
    settings = [{}, {}]
    settings[strided] = {"stride": 2, "padding": 1}
    hidden = conv(mirror, rng, mirror.input("x", SHAPE), 7, **settings[0])
    mirror.output("y", conv(mirror, rng, hidden, 3, **settings[1]))
    assert check(mirror, rng) == ["conv2d_pw", "conv2d_pw"]


def test_a_residual_of_the_first_stays(mirror, rng):
    x = mirror.input("x", SHAPE)
    hidden = conv(mirror, rng, x, 5, residual=x)
    mirror.output("y", conv(mirror, rng, hidden, 3))
    assert check(mirror, rng) == ["conv2d_pw", "conv2d_pw"]


def test_an_infinite_activation_of_zero(device, dtype, storage):
    """Of channels that are not there it must not make infinity, and weights of zero NaN."""
    graph = pwconv.Graph(device, dtype, storage=storage)
    weight = np.ones((5, 5), dtype)
    hidden = graph.conv2d_pw(
        graph.input("x", SHAPE), weight, activation=("clamp", math.inf, math.inf)
    )
    graph.output("y", graph.conv2d_pw(hidden, weight[:3]))
    y = graph.run(x=np.zeros(SHAPE, dtype))["y"]
    assert len(inside.program(graph).dispatches) == 1
    np.testing.assert_array_equal(y, np.full_like(y, np.inf))


def test_nothing_between_is_stored(device, rng):
    """A mixer takes no memory but its input and output."""
    mirror = Mirror(device, "float32", "buffer")
    x = mirror.input("x", (1, 16, 8, 8))
    mirror.output("y", conv(mirror, rng, conv(mirror, rng, x, 32, activation="gelu"), 16))
    assert check(mirror, rng) == ["conv2d_pw_pair"]
    assert mirror.graph.memory().scratch == 0
    assert "conv2d_pw_1 + conv2d_pw_2" in mirror.graph.summary()
