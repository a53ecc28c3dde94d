"""Softmax along each axis beside numpy in float64."""

from __future__ import annotations

import re

import numpy as np
import pytest

import pwconv
from pwconv.dispatch import MOST_TRIPS
from pwconv.ops import Softmax
from pwconv.reference import exact
from support import oracle
from support.accuracy import assert_within

SHAPES = ((2, 5, 7, 11), (3, 1, 13, 1), (1, 8, 3, 5), (17, 3, 2), (5, 19), (23,), (2, 3, 1, 5, 7))


def softmax(x, axis):
    """Along an axis of [..., C, H, W]."""
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_images(device, rng, storage, dtype, shape, axis):
    x = (3 * rng.standard_normal(shape)).astype(dtype)
    node = Softmax(axis=axis)
    assert node.shape(shape) == shape
    oracle.check(node, device, storage, [x], lambda x: softmax(x, axis - 4), terms=60,
                 sizes=np.ones_like)  # fmt: skip


def test_long_lines_lose_little(device, rng, storage):
    """Shares add up to 1: within 2 · 2⁻²⁴ of the sum, 2.5 ulp of a division, and a rounding."""
    x = rng.standard_normal((1, 3, 2, 2000), np.float32)
    y = oracle.run(Softmax(axis=3), oracle.site(device, storage, np.float32), device, [x])
    assert np.abs(y.sum(-1, dtype=float) - 1).max() <= 8 * 2**-24


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_last_of_any_axes(device, rng, storage, dtype, shape):
    x = rng.standard_normal(shape).astype(dtype)
    oracle.check(Softmax(axis=3), device, storage, [x], lambda x: softmax(x, -1), terms=60,
                 sizes=np.ones_like)  # fmt: skip


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_large_numbers(device, rng, storage, dtype, axis):
    """Nothing overflows, and what is far below the largest is 0; sums are 1."""
    x = (300 * rng.standard_normal((2, 13, 5, 7))).astype(dtype)
    x[0] *= 50
    node = Softmax(axis=axis)
    found = oracle.run(node, oracle.site(device, storage, dtype), device, [x])
    expected = softmax(x.astype(np.float64), axis)
    about = node.expected([exact(x)], np.dtype(dtype))
    assert_within(found, expected, about.error + 1e-15)
    assert (about.error < 0.01).all()
    np.testing.assert_allclose(found.sum(axis, dtype=np.float64), 1, rtol=2e-3)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_lines_that_are_not_finite(device, rng, storage, dtype, axis):
    """NaN of whole lines, of these alone; −∞ among others is 0."""
    x = rng.standard_normal((2, 6, 7, 5)).astype(dtype)
    lines = np.moveaxis(x, axis, -1)
    lines[0, 0, 1, 2], lines[0, 1, 2, -1], lines[1, 2, 3] = np.nan, np.inf, -np.inf
    lines[1, 1, 1, 1], lines[1, 0, 0, 0] = -np.inf, -np.float32(np.nan)
    node = Softmax(axis=axis)
    found = oracle.run(node, oracle.site(device, storage, dtype), device, [x])
    with np.errstate(invalid="ignore"):
        expected = softmax(x.astype(np.float64), axis)
    about = node.expected([exact(x)], np.dtype(dtype))
    finite = np.isfinite(expected)
    assert np.isnan(expected).any(axis).sum() == 4
    np.testing.assert_array_equal(np.isnan(found), ~finite)
    np.testing.assert_array_equal(about.error[~finite], 0)
    assert_within(found[finite], expected[finite], about.error[finite] + 1e-15)
    assert np.moveaxis(found, axis, -1)[1, 1, 1, 1] == 0


def test_in_a_graph(device, rng, dtype, storage):
    """Its bound takes the errors of what goes in along; axes count from the end too."""
    graph = pwconv.Graph(device, dtype, storage=storage)
    x = graph.input("x", (2, 5, 7, 11))
    weight = rng.standard_normal((13, 5)).astype(dtype)
    y = graph.softmax(graph.conv2d_pw(x, weight))
    graph.output("y", graph.softmax(y, -2))
    assert graph.check(x=rng.standard_normal(x.shape).astype(dtype)).passed
    assert [node.kind for node in graph.profile().nodes][-2:] == ["softmax"] * 2


@pytest.mark.parametrize("axis", [0, 4, -4, 99])
def test_other_axes(device, axis):
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 4, 6, 6))
    given = axis + 4 if axis < 0 else axis
    says = f"node 's': axis is {given}; it must be 1, 2 or 3, or −3 to −1, of [N, C, H, W]"
    with pytest.raises(ValueError, match=re.escape(says)):
        graph.softmax(x, axis, name="s")
    with pytest.raises(TypeError):
        graph.softmax(x, 1.5, name="s")


def test_lines_that_are_too_long(device):
    shape = (1, 1, 1, MOST_TRIPS // 2 + 1)
    with pytest.raises(pwconv.UnsupportedError, match="would take 60,002 trips of a loop"):
        Softmax(axis=3).plan(oracle.site(device, "buffer", "float32"), [shape], shape)
