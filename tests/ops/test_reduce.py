"""Sums, means, extremes and norms beside numpy in float64."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

import pwconv
from pwconv.ops import Reduce, make_reduce
from support import oracle

AXES = [axes for n in (1, 2, 3) for axes in itertools.combinations((1, 2, 3), n)]
FUNCTIONS = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "l2": lambda x, **settings: np.sqrt(np.sum(x * x, **settings)),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_reduce(device, rng, storage, dtype, function):
    """Over each of the axes, kept and not, with a batch and without."""
    for axes, keepdims in itertools.product(AXES, (True, False)):
        for shape in ((2, 5, 7, 11), (6, 3, 13)):
            if len(shape) == len(axes) and not keepdims:
                continue
            x = rng.standard_normal(shape).astype(dtype)
            settings = {"axis": tuple(axis - 4 for axis in axes), "keepdims": keepdims}
            node = Reduce(function=function, axes=axes, keepdims=keepdims)
            oracle.check(node, device, storage, [x], lambda x: FUNCTIONS[function](x, **settings),  # noqa: B023
                         terms=385, sizes=lambda x: np.sum(x, **settings))  # noqa: B023  # fmt: skip


def test_long_sums_lose_little(device, rng, storage):
    """Of 2,000 positive numbers in float32, as of Kahan's: 2 · 2⁻²⁴, and as much for n² terms."""
    x = rng.uniform(0.5, 1.5, (1, 2000, 2, 3)).astype(np.float32)
    at = oracle.site(device, storage, np.float32)
    y = oracle.run(Reduce(function="sum", axes=(1,)), at, device, [x])
    exact = x.sum(1, dtype=float, keepdims=True)
    assert (np.abs(y - exact) <= 3 * 2**-24 * exact).all()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_infinities_and_nan(device, rng, storage, dtype, function):
    """They fill what they are part of, and nothing else."""
    x = rng.standard_normal((2, 6, 7, 5)).astype(dtype)
    x[0, 1, 2, 3], x[0, 2, 2, :2], x[1, 0, 0, 0], x[1, 4, 4] = np.nan, np.inf, -np.inf, -np.inf
    x[1, 1, 1, 1] = -np.float32(np.nan)
    found = oracle.run(
        Reduce(function=function, axes=(3,)), oracle.site(device, storage, dtype), device, [x]
    )
    expected = FUNCTIONS[function](x.astype(np.float64), axis=3, keepdims=True)
    finite = np.isfinite(expected)
    assert (~finite).sum() > 3
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    assert np.isfinite(found[finite]).all()


def test_in_a_graph(device, rng, dtype, storage):
    """Means and norms of what is not exact, at two sizes."""
    graph = pwconv.Graph(device, dtype, storage=storage)
    x = graph.input("x", (2, 5, 7, 11))
    h = graph.activation(x, "tanh")
    values = {
        function: graph.reduce(h, function, axes)
        for function, axes in zip(FUNCTIONS, (1, (-1, -2), (2, 3), 3, (1, 2, 3)), strict=True)
    }
    flat = graph.reduce(values["sum"], "mean", (2, 3), keepdims=False)
    graph.output("flat", flat)
    for function, value in values.items():
        if function != "sum":
            graph.output(function, value)
    assert flat.shape == (2, 1)
    for shape in ((2, 5, 7, 11), (1, 5, 13, 3)):
        graph.resize(x=shape)
        assert graph.check(x=rng.standard_normal(shape).astype(dtype)).passed


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (("prod", 1), ValueError, "function is 'prod'; it must be one of sum, mean, max, min, l2"),
        (("sum", 0), ValueError, "axes is (0,); it must be some of 1, 2 and 3"),
        (("sum", ()), ValueError, "axes is (); it must be some of 1, 2 and 3"),
        (("sum", (3, -1)), ValueError, "axes is (3, 3); it must be some of 1, 2 and 3"),
        (("sum", 1.5), TypeError, "axes is 1.5; it must be an int, or some of them"),
        (("sum", (-3, -2, -1), False), ValueError, "of x's shape (4, 6, 6) they leave no axis"),
        (("sum", 1, 0), TypeError, "keepdims is 0; it must be True or False"),
    ],
)
def test_what_is_refused(device, arguments, error, says):
    graph = pwconv.Graph(device)
    x = graph.input("x", (4, 6, 6))
    function, axes, keepdims = (*arguments, True)[:3]
    with pytest.raises(error, match="node 'r': .*" + re.escape(says)):
        graph.reduce(x, function, axes, keepdims=keepdims, name="r")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_long_planes_in_a_graph(device, rng, function):
    """More elements than a loop may have trips are reduced along W before."""
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 2, 251, 257))
    graph.output("y", graph.reduce(x, function, (1, 2, 3)))
    check = graph.check(x=rng.standard_normal((1, 2, 251, 257), np.float32))
    assert check.passed
    assert [node.shape for node in check.nodes] == [(1, 2, 251, 1), (1, 1, 1, 1)]


def test_too_many_elements(device):
    node, shape = make_reduce("max", (2, 3)), (1, 1, 256, 256)
    with pytest.raises(pwconv.UnsupportedError, match="would take 65,536 trips of a loop"):
        node.plan(oracle.site(device, "buffer", "float32"), [shape], (1, 1, 1, 1))
