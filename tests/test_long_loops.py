"""Sizes whose loops would take more trips than drivers make: Mesa's llvmpipe makes 65,535."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from pwconv import dispatch, reference, shaders
from pwconv.dispatch import MOST_TRIPS
from pwconv.ops import matmul
from pwconv.ops.pair import pair_trips
from support import inside
from support.accuracy import assert_within

PAST = 65_535


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("h", "w"), [(2049, 257), (2909, 3989)])
def test_a_mean_over_many_positions(device, rng, storage, dtype, h, w):
    """Of a photograph of 12 megapixels too: right, and as precise as its parts' sums."""
    x = rng.uniform(0.5, 1.5, (1, 1, h, w)).astype(dtype)
    graph = pwconv.Graph(device, dtype, storage=storage)
    graph.output("y", graph.global_avg_pool(graph.input("x", x.shape)))
    if storage == "texture3d" and max(h, w) > device.info.limits["maxImageDimension3D"]:
        with pytest.raises(pwconv.UnsupportedError, match="is past maxImageDimension3D"):
            graph.run(x=x)
        return
    expected = reference.mean(reference.exact(x)).stored(dtype)
    assert_within(graph.run(x=x)["y"], expected.value, expected.error)
    assert expected.error.max() < (3e-4 if dtype == "float32" else 2e-3)


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
@pytest.mark.parametrize("rows", [1, 9])
def test_linear_layers_of_a_long_row(device, rng, storage, rows):
    most = device.info.limits["maxImageDimension3D"]  # of a texture's row
    k = 4 * PAST + 3 if storage == "buffer" else min(4 * PAST + 3, most - 5)
    x = rng.integers(-1, 2, (rows, k)).astype(np.float32)
    weight = rng.integers(-1, 2, (3, k)).astype(np.float32)
    layer = pwconv.Linear(weight, storage=storage, device=device)
    np.testing.assert_array_equal(layer(x), reference.linear(x, weight))
    x, weight = (rng.standard_normal(a.shape, np.float32) for a in (x, weight))
    layer = pwconv.Linear(weight, storage=storage, device=device)
    assert_within(
        layer(x), reference.linear(x, weight), reference.linear_bound(x, weight, dtype="float32")
    )


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_convolutions_of_many_taps_and_channels(device, rng, storage):
    x = rng.integers(-1, 2, (1, 4 * 65, 33, 32)).astype(np.float32)
    weight = rng.integers(-1, 2, (2, 4 * 65, 32, 32)).astype(np.float32)  # 66,560 vec4s of products
    graph = pwconv.Graph(device, storage=storage)
    graph.output("y", graph.conv2d(graph.input("x", x.shape), weight))
    np.testing.assert_array_equal(graph.run(x=x)["y"], reference.conv2d(x, weight))


def test_a_pointwise_convolution_of_many_channels(device, rng):
    c = 4 * PAST + 5
    x = rng.integers(-1, 2, (1, c, 1, 2)).astype(np.float32)
    weight = rng.integers(-1, 2, (2, c)).astype(np.float32)
    layer = pwconv.PointwiseConv2d(weight, storage="buffer", device=device)
    np.testing.assert_array_equal(layer(x), reference.conv2d_pw(x, weight))


def test_what_no_variant_computes_is_refused(device, monkeypatch):
    monkeypatch.setattr(matmul, "MOST_TRIPS", 10)
    weight = np.ones((3, 4096), np.float32)
    for make in (pwconv.Linear, pwconv.PointwiseConv2d):
        with pytest.raises(
            pwconv.UnsupportedError, match=r"K = 4,096.*at most 10.*split the input"
        ):
            make(weight, device=device)
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 4096, 2, 2))
    with pytest.raises(pwconv.UnsupportedError, match=r"node 'conv2d_pw_1': K = 4,096"):
        graph.conv2d_pw(x, weight)


def test_a_plan_with_too_many_trips_is_refused(device):
    variant = shaders.variant("upsample", storage="buffer", dtype="fp32")
    with pytest.raises(pwconv.UnsupportedError, match="would take 60,001 trips"):
        inside.context(device).plan(variant, (1, 1, 1), {}, trips=MOST_TRIPS + 1)


def test_every_loop_over_sizes_is_counted():
    """What a variant's loop takes at each trip is known of every one that sums products."""
    for family in shaders.families():
        for variant in shaders.variants(family):
            if family.startswith(("conv2d_pw_pair",)):
                assert pair_trips(variant, 192, 10**6) > 1000
            elif family.startswith(("conv2d_pw", "linear")):
                most = 250_000 * 34 // 32 + 1  # of vec4s, and two more a run of 32
                assert 1000 < matmul.trips(variant, 10**6) <= most
    assert dispatch.MOST_TRIPS < PAST
