"""Workgroups and grids, and what is reused between calls."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pwconv
from pwconv import dispatch
from support import inside
from support.accuracy import random_problem

axis = st.integers(1, 10**6)


@given(
    grid=st.tuples(axis, axis, axis),
    invocations=st.integers(1, 2048),
    most=st.tuples(*[st.integers(1, 1024)] * 3),
    shape=st.tuples(*[st.sampled_from([1, 2, 4, 8, 16, 32, 64])] * 3),
)
def test_workgroups_stay_within_every_limit(grid, invocations, most, shape):
    limits = {"maxComputeWorkGroupSize": most, "maxComputeWorkGroupInvocations": invocations}
    size = dispatch.workgroup_size(grid, limits, shape)
    assert all(1 <= s <= m for s, m in zip(size, most, strict=True))
    assert math.prod(size) <= min(invocations, math.prod(shape))
    # No axis is more than rounded up to a power of two: nothing is launched for nothing.
    assert all(s < 2 * g for s, g in zip(size, grid, strict=True))


def test_workgroups_follow_the_grid():
    limits = {
        "maxComputeWorkGroupSize": (1024, 1024, 64),
        "maxComputeWorkGroupInvocations": 128,
    }
    assert dispatch.workgroup_size((1000, 1000, 1), limits) == (8, 8, 1)
    assert dispatch.workgroup_size((1000, 1, 1), limits) == (64, 1, 1)
    assert dispatch.workgroup_size((1, 1000, 1), limits) == (1, 64, 1)
    assert dispatch.workgroup_size((1, 1, 3), limits) == (1, 1, 4)
    assert dispatch.workgroup_size((1000, 1000, 1), limits, (16, 16, 1)) == (8, 16, 1)


@given(groups=st.tuples(*[st.integers(1, 40)] * 3), most=st.tuples(*[st.integers(1, 50)] * 3))
def test_grid_parts_cover_every_group_once(groups, most):
    seen = np.zeros(groups, int)
    for first, count in dispatch.grid_parts(groups, most):
        assert all(1 <= c <= m for c, m in zip(count, most, strict=True))
        seen[tuple(slice(f, f + c) for f, c in zip(first, count, strict=True))] += 1
    assert (seen == 1).all()


def test_a_repeated_call_records_nothing(own_device, rng):
    x, weight, bias = random_problem(rng, 8, 8, (4, 4), "float32")
    layer = pwconv.PointwiseConv2d(weight, bias, device=own_device)
    tensor, out = own_device.tensor(x), own_device.empty((8, 4, 4), "float32")
    layer(tensor, out=out)
    recordings = dict(inside.recordings(inside.context(own_device)))
    for _ in range(5):
        layer(tensor, out=out)
    assert inside.recordings(inside.context(own_device)) == recordings


def test_repeated_arrays_reuse_images_and_recordings(own_device, rng):
    x, weight, bias = random_problem(rng, 8, 8, (4, 4), "float32")
    layer = pwconv.PointwiseConv2d(weight, bias, device=own_device)
    for _ in range(20):  # until every order in which the pools give has come up
        layer(x)
    before = len(inside.context(own_device).live)
    for _ in range(50):
        layer(x)
    assert len(inside.context(own_device).live) == before


@pytest.mark.parametrize("activation", [("leaky_relu", 0.0), ("clamp", 0.0, 1.0)], ids=str)
def test_minus_zero_is_a_number_of_its_own(own_device, activation):
    """-0.0 == 0.0, and a plan for the one gives the other sign of zero."""
    name, zero, *rest = activation
    x = np.full((1, 1, 1), -2, np.float32)
    for sign in (zero, -zero, zero):
        graph = pwconv.Graph(own_device)
        graph.output("y", graph.activation(graph.input("x", x.shape), (name, sign, *rest)))
        y = graph.run(x=x)["y"]
        np.testing.assert_array_equal(y, 0)
        expected = pwconv.reference.activate(x, (name, sign, *rest))
        np.testing.assert_array_equal(np.signbit(y), np.signbit(expected))


def test_recordings_are_bounded(own_device, rng):
    context = inside.context(own_device)
    inside.recordings(context).most = inside.plans(context).most = 4
    weight = rng.standard_normal((4, 4)).astype(np.float32)
    layer = pwconv.PointwiseConv2d(weight, device=own_device)
    for size in range(1, 12):
        x = rng.standard_normal((4, size, 3)).astype(np.float32)
        np.testing.assert_allclose(layer(x), np.einsum("oi,ihw->ohw", weight, x), atol=1e-4)
    assert len(inside.recordings(context)) == len(inside.plans(context)) == 4
