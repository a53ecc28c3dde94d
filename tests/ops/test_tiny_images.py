"""Batches of images of few positions, which share tiles."""

from __future__ import annotations

import numpy as np
import pytest

import pwconv
from pwconv import reference
from support.accuracy import assert_within
from support.mirror import Mirror

SIZES = [(2, 1, 1), (33, 1, 1), (19, 1, 3), (7, 2, 2), (9, 3, 3), (5, 4, 4), (3, 5, 1)]


@pytest.mark.parametrize(("n", "h", "w"), SIZES)
def test_layers_of_tiny_images(device, rng, storage, dtype, n, h, w):
    x = rng.standard_normal((n, 37, h, w)).astype(dtype)
    weight = (rng.standard_normal((29, 37)) / 6).astype(dtype)
    bias = rng.standard_normal(29).astype(dtype)
    settings = {"activation": "silu"}
    layer = pwconv.PointwiseConv2d(weight, bias, storage=storage, device=device, **settings)
    tensor = device.tensor(x, storage=storage)
    out = device.tensor(np.full((n, 29, h, w), np.nan, dtype), storage=storage)
    layer(tensor, out=out)
    expected = reference.conv2d_pw(x, weight, bias, **settings)
    bound = reference.conv2d_pw_bound(x, weight, bias, **settings, dtype=dtype)
    assert_within(out.numpy(), expected, bound)
    # What comes out as a texture goes in again: the lanes past C are zero.
    back = pwconv.PointwiseConv2d(np.eye(29, dtype=dtype), storage=storage, device=device)
    np.testing.assert_array_equal(back(out).numpy(), out.numpy())


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
@pytest.mark.parametrize(("stride", "padding"), [(2, 0), (1, 1), ((2, 1), (0, 1))])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 2), (1, 3)])
def test_strides_and_padding(device, rng, storage, stride, padding, h, w):
    x = rng.standard_normal((6, 19, h, w), np.float32)
    weight = rng.standard_normal((21, 19), np.float32)
    settings = {"stride": stride, "padding": padding}
    layer = pwconv.PointwiseConv2d(weight, storage=storage, device=device, **settings)
    bound = reference.conv2d_pw_bound(x, weight, **settings, dtype="float32")
    assert_within(layer(x), reference.conv2d_pw(x, weight, **settings), bound)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (2, 2), (3, 3)])
def test_in_graphs(device, rng, storage, dtype, h, w):
    """Scales, residuals, kernels of several taps, heads behind a mean, and squeezed channels."""
    mirror = Mirror(device, dtype, storage=storage)
    x = mirror.input("x", (5, 24, h, w))

    def weight(n: int, k: int, *taps: int) -> np.ndarray:
        return (rng.standard_normal((n, k, *taps)) / np.sqrt(k)).astype(dtype)

    squeezed = mirror.conv2d_pw(mirror.global_avg_pool(x), weight(9, 24), activation="relu")
    scale = mirror.conv2d_pw(squeezed, weight(24, 9), activation="sigmoid")
    scaled = mirror.conv2d_pw(mirror.mul(x, scale), weight(24, 24))
    added = mirror.add(scaled, x)
    mirror.output("y", mirror.conv2d(added, weight(11, 24, 3, 3), padding=1))
    mirror.check({"x": rng.standard_normal((5, 24, h, w)).astype(dtype)})


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_a_batch_shares_tiles(device, storage):
    layer = pwconv.PointwiseConv2d(np.ones((64, 48), np.float32), storage=storage, device=device)

    def workgroups(n: int, h: int) -> int:
        return sum(np.prod(counts) for counts in layer.explain((n, 48, h, h)).workgroup_counts)

    assert workgroups(64, 1) < 64
    assert workgroups(64, 4) <= 64
    assert "64 samples" in layer.explain((64, 48, 2, 2)).reason
