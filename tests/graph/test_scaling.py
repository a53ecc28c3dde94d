"""Scales that become part of the convolution after them, and those that must not."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from pwconv import heuristics
from support import inside
from support.mirror import Mirror, Pair, random_weight

SHAPE = (2, 5, 6, 7)


@pytest.fixture(params=["texture3d", "buffer"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where it is a buffer, have scales folded that the device would be slower with."""
    monkeypatch.setattr(heuristics, "scale_pays", lambda *_: True)
    return request.param


@pytest.fixture
def conv(mirror, rng):
    def conv(x: Pair, channels: int = 5, **settings: object) -> Pair:
        weight = random_weight(rng, mirror.dtype, channels, x.value.shape[-3])
        return mirror.conv2d_pw(x, *weight, **settings)

    return conv


def check(mirror: Mirror, rng: np.random.Generator) -> list[str]:
    """Check the graph's numbers; return what it runs."""
    shapes = {
        name: inside.shapes(mirror.graph)[i] for name, i in inside.inputs(mirror.graph).items()
    }
    mirror.check({n: rng.standard_normal(s).astype(mirror.dtype) for n, s in shapes.items()})
    program = inside.program(mirror.graph)
    return [program.network.nodes[i].operator.name for i in program.dispatches]


def scale_of(mirror: Mirror, shape: tuple[int, ...]) -> tuple[Pair, Pair]:
    return mirror.input("x", shape), mirror.input("s", (*shape[:-2], 1, 1))


def may_stay(mirror: Mirror) -> list[str]:
    """Return what stays where the device computes half rows by kernels that cannot scale."""
    program = inside.program(mirror.graph)
    families = {launches[0].plan.variant.family for launches in program.dispatches.values()}
    return ["mul"] if "conv2d_pw_coopmat2" in families else []


@pytest.mark.parametrize(
    "geometry", [{}, {"stride": 2, "padding": (0, 1)}, {"stride": (1, 3), "padding": (2, 1)}]
)
@pytest.mark.parametrize("shape", [(2, 5, 6, 7), (13, 11, 3), (2, 8, 16, 16), (2, 37, 1, 1)])
def test_a_scale_and_a_convolution(mirror, conv, rng, shape, geometry):
    x, s = scale_of(mirror, shape)
    mirror.output("y", conv(mirror.mul(x, s), 9, activation="silu", **geometry))
    assert check(mirror, rng) == [*may_stay(mirror), "conv2d_pw"]


def test_a_scale_with_a_residual(mirror, conv, rng):
    x, s = scale_of(mirror, SHAPE)
    r = mirror.input("r", SHAPE)
    scaled = mirror.mul(s, x)  # either way round
    mirror.output("y", mirror.activation(mirror.add(conv(scaled), r), "gelu"))
    assert check(mirror, rng) == [*may_stay(mirror), "conv2d_pw"]


def test_squeeze_and_excitation(mirror, conv, rng):
    """Of x's own, at sizes in turns; the second scale is of what the first convolution gives."""
    y = mirror.input("x", SHAPE)
    for _ in range(2):
        squeezed = conv(mirror.global_avg_pool(y), 3, activation="relu")
        y = conv(mirror.mul(y, conv(squeezed, activation="sigmoid")))
    mirror.output("y", y)
    for shape in (SHAPE, (1, 5, 9, 1), SHAPE):
        mirror.graph.resize(x=shape)
        assert check(mirror, rng).count("mul") == 2 * len(may_stay(mirror))


def test_what_is_stored_all_the_same(mirror, conv, rng):
    x, s = scale_of(mirror, SHAPE)
    y = mirror.input("y", SHAPE)
    twice = mirror.mul(x, s)
    mirror.output("two_readers", mirror.add(conv(twice), mirror.global_avg_pool(twice)))
    both = mirror.mul(x, s)
    mirror.output("of_both", conv(both, residual=both))
    mirror.output("as_residual", conv(x, residual=mirror.mul(x, s)))
    mirror.output("activated", conv(mirror.mul(x, s, "relu")))
    mirror.output("of_one_size", conv(mirror.mul(x, y)))
    mirror.output("a_sum", conv(mirror.add(x, s)))
    named = mirror.mul(x, s)
    mirror.output("named", named)
    mirror.output("of_an_output", conv(named))
    kernel = random_weight(rng, mirror.dtype, 4, 5, 3, 3)
    mirror.output("of_several_taps", mirror.conv2d(mirror.mul(x, s), *kernel))
    found = check(mirror, rng)
    assert found.count("mul") == 7
    # The sum of two_readers is of another shape, and stays too.
    assert found.count("add") == 2


def test_where_it_does_not_pay(device, rng, monkeypatch):
    monkeypatch.setattr(heuristics, "scale_pays", lambda *_: False)
    mirror = Mirror(device, "float32", "auto")
    x, s = scale_of(mirror, SHAPE)
    mirror.output("y", mirror.conv2d_pw(mirror.mul(x, s), *random_weight(rng, "float32", 4, 5)))
    assert check(mirror, rng) == ["mul", "conv2d_pw"]


def test_as_shapes_allow(mirror, conv, rng):
    """At one position a product of two of one size is one with a scale; at others it is not."""
    x, y = mirror.input("x", SHAPE), mirror.input("y", SHAPE)
    mirror.output("z", conv(mirror.mul(x, y)))
    for shape, kinds in ((SHAPE, ["mul"]), ((2, 5, 1, 1), []), (SHAPE, ["mul"])):
        mirror.graph.resize(x=shape, y=shape)
        assert check(mirror, rng) == [*(kinds or may_stay(mirror)), "conv2d_pw"]


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("channels", [4, 5, 33])
def test_an_infinite_scale_meets_no_padding(device, dtype, storage, channels, padding):
    """An infinity times the zeros around the input, or past its channels, is NaN."""
    graph = pwconv.Graph(device, dtype, storage=storage)
    x, s = graph.input("x", (2, channels, 3, 3)), graph.input("s", (2, channels, 1, 1))
    weight = np.ones((5, channels), dtype)
    graph.output("y", graph.conv2d_pw(graph.mul(x, s), weight, padding=padding))
    inputs = {"x": np.ones(x.shape, dtype), "s": np.full(s.shape, np.inf, dtype)}
    expected = np.full((2, 5, 3, 3), np.inf)
    expected = np.pad(expected, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    np.testing.assert_array_equal(graph.run(**inputs)["y"], expected)
