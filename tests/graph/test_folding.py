"""What becomes part of the convolution before it, and what must not."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from support import inside
from support.mirror import Mirror, Pair, random_weight

SHAPE = (2, 5, 6, 7)


@pytest.fixture(params=["float32", "float16"])
def mirror(request: pytest.FixtureRequest, device: pwconv.Device) -> Mirror:
    return Mirror(device, request.param, "auto")


@pytest.fixture
def conv(mirror, rng):
    def conv(x: Pair, **settings: object) -> Pair:
        return mirror.conv2d_pw(x, *random_weight(rng, mirror.dtype, 5, 5), **settings)

    return conv


def kinds(mirror: Mirror, rng: np.random.Generator) -> list[str]:
    """Check the graph's numbers; return what it runs."""
    inputs = {name: rng.standard_normal(SHAPE).astype(mirror.dtype) for name in ("x", "r")}
    mirror.check({name: a for name, a in inputs.items() if name in inside.inputs(mirror.graph)})
    program = inside.program(mirror.graph)
    return [program.network.nodes[i].operator.name for i in program.dispatches]


def test_an_activation_after_an_addition_after_a_convolution(mirror, conv, rng):
    x, r = mirror.input("x", SHAPE), mirror.input("r", SHAPE)
    mirror.output("y", mirror.activation(mirror.add(r, conv(x)), "relu"))
    assert kinds(mirror, rng) == ["conv2d_pw"]


def test_activations_of_other_nodes(mirror, rng):
    x, r = mirror.input("x", SHAPE), mirror.input("r", SHAPE)
    weight, bias = random_weight(rng, mirror.dtype, 5, 1, 3, 3)
    y = mirror.activation(mirror.conv2d_dw(x, weight, bias, padding=1), "gelu")
    mirror.output("y", mirror.activation(mirror.mul(y, r), "silu"))
    assert kinds(mirror, rng) == ["conv2d_dw", "mul"]


def test_a_linear_layer_takes_an_activation_and_no_addition(mirror, rng):
    x, r = mirror.input("x", SHAPE), mirror.input("r", SHAPE)
    weight, bias = random_weight(rng, mirror.dtype, 7, 7)
    y = mirror.activation(mirror.linear(x, weight, bias), "gelu")
    mirror.output("y", mirror.activation(mirror.add(mirror.linear(y, weight), r), "silu"))
    assert kinds(mirror, rng) == ["linear", "linear", "add"]


def test_of_two_convolutions_the_later_one_adds(mirror, conv, rng):
    x = mirror.input("x", SHAPE)
    mirror.output("y", mirror.add(conv(x), conv(conv(x))))
    assert kinds(mirror, rng) == ["conv2d_pw"] * 3


def test_what_stays_by_itself(mirror, conv, rng):
    x = mirror.input("x", SHAPE)
    shared = conv(x)
    mirror.output("shared", mirror.activation(shared, "relu"))
    named = conv(x)
    mirror.output("named", named)
    mirror.output("of_an_output", mirror.add(named, shared, "relu"))
    mirror.output("twice", mirror.activation(conv(x, activation="silu"), "relu"))
    once = conv(x)
    mirror.output("with_itself", mirror.add(once, once))
    rows = mirror.linear(x, random_weight(rng, mirror.dtype, 7, 7)[0], activation="silu")
    mirror.output("linear_twice", mirror.activation(rows, "relu"))
    residual = conv(x, residual=shared)
    mirror.output("a_second_residual", mirror.add(residual, x))
    mirror.output("pooled", mirror.add(conv(x), mirror.global_avg_pool(x)))
    found = kinds(mirror, rng)
    assert found.count("activation") == 3
    assert found.count("add") == 4


def test_as_shapes_allow(mirror, conv, rng):
    """At one position a sum with what is pooled is one of equal shapes; at others it is not."""
    x = mirror.input("x", (1, 5, 1, 1))
    mirror.output("y", mirror.add(conv(x), mirror.global_avg_pool(x)))
    for shape in ((1, 5, 1, 1), (1, 5, 4, 3), (1, 5, 1, 1)):
        mirror.graph.resize(x=shape)
        mirror.check({"x": rng.standard_normal(shape).astype(mirror.dtype)})
