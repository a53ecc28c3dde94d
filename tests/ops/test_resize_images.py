"""Resizing beside float64 loops over ONNX's formulas, position by position."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest

import pwconv
from pwconv.ops import Resize, make_resize
from pwconv.reference import exact
from support import oracle
from support.accuracy import assert_within

COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SHAPE = (2, 5, 7, 11)
SIZES = ((3, 5), (7, 11), (13, 17), (1, 29), (19, 1))


def place(i, n, n_out, scale, coordinates):
    """Return where output position i is in the input."""
    if coordinates == "align_corners":
        return 0.0 if n_out == 1 else i * (n - 1) / (n_out - 1)
    if coordinates == "asymmetric":
        return i / scale
    if coordinates == "pytorch_half_pixel" and n_out == 1:
        return 0.0
    return (i + 0.5) / scale - 0.5


def taps(n, n_out, scale, mode, nearest_mode, coordinates):
    """Return [n_out, n] weights."""
    weights = np.zeros((n_out, n))
    for i in range(n_out):
        at = place(i, n, n_out, n_out / n if scale is None else scale, coordinates)
        if mode == "nearest":
            low, part = math.floor(at), at - math.floor(at)
            up = {
                "round_prefer_floor": part > 0.5,
                "round_prefer_ceil": part >= 0.5,
                "floor": False,
                "ceil": part > 0,
            }[nearest_mode]
            weights[i, min(max(low + up, 0), n - 1)] = 1
        else:
            at = min(max(at, 0.0), n - 1.0)
            low = min(math.floor(at), n - 1)
            weights[i, low] += 1 - (at - low)
            weights[i, min(low + 1, n - 1)] += at - low
    return weights


def resized(x, size, scales, mode="nearest", nearest_mode="round_prefer_floor",
            coordinates="half_pixel"):  # fmt: skip
    rows, columns = (
        taps(
            x.shape[axis - 2], size[axis], scales and scales[axis], mode, nearest_mode, coordinates
        )
        for axis in (0, 1)
    )
    return rows @ x.astype(np.float64) @ columns.T


def check(device, storage, dtype, x, out, **settings):
    node = make_resize(**settings)
    assert node.shape(x.shape) == (*x.shape[:-2], *out)
    scales = settings.pop("scales", None)
    settings.pop("size", None)
    expected = resized(x, out, scales, **settings)
    about = node.expected([exact(x)], np.dtype(dtype))
    if node.mode == "nearest":
        assert not about.error.any()
    tight = np.finfo(dtype).eps + 8 * np.finfo(np.float32).eps
    assert (about.error <= tight * abs(x).max().astype(np.float64)).all()
    assert_within(about.value, expected, about.error)
    found = oracle.run(node, oracle.site(device, storage, dtype), device, [x])
    assert_within(found, expected, about.error)


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_linear(device, rng, storage, dtype, coordinates):
    x = rng.standard_normal(SHAPE).astype(dtype)
    for size in SIZES:
        check(device, storage, dtype, x, size, size=size, mode="linear", coordinates=coordinates)
    for scales, size in (((2.5, 0.75), (17, 8)), ((1.0, 1.375), (7, 15)), ((0.25, 3.0), (1, 33))):
        check(device, storage, dtype, x, size, scales=scales, mode="linear",
              coordinates=coordinates)  # fmt: skip


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_nearest(device, rng, storage, dtype, coordinates):
    """At scales whose coordinates float32 has exactly, ties among them."""
    x = rng.standard_normal((3, 8, 16)).astype(dtype)
    for mode, scales in itertools.product(NEAREST, [(2.0, 0.5), (0.25, 1.0), (4.0, 8.0)]):
        size = tuple(int(n * s) for n, s in zip((8, 16), scales, strict=True))
        settings = {"nearest_mode": mode, "coordinates": coordinates}
        if coordinates == "align_corners":
            size = (15, 31)  # of 7 and 15 steps, halved
            check(device, storage, dtype, x, size, size=size, **settings)
        else:
            check(device, storage, dtype, x, size, scales=scales, **settings)


def test_coordinates_of_nearest_are_of_float32(device, storage, dtype):
    """As ONNX Runtime has them."""
    x = np.arange(20, dtype=dtype).reshape(1, 1, 20)
    node = Resize(size=(1, 24), nearest_mode="floor", coordinates="asymmetric")
    at = np.floor(np.arange(24, dtype=np.float32) / (np.float32(24) / np.float32(20)))
    assert (at != np.arange(24) * 20 // 24).any()
    found = oracle.run(node, oracle.site(device, storage, dtype), device, [x])
    np.testing.assert_array_equal(found[0, 0], at)


def test_scale_and_size_differ(device, storage, dtype):
    """The size is rounded down, and positions follow the scale that was given."""
    x = np.arange(5, dtype=dtype).reshape(1, 1, 5)
    node = make_resize(scales=(1, 1.5), mode="linear", coordinates="asymmetric")
    found = oracle.run(node, oracle.site(device, storage, dtype), device, [x])
    np.testing.assert_allclose(found[0, 0], np.arange(7) / 1.5, rtol=1e-3)


def test_infinities_and_nan(device, rng, storage, dtype):
    """What an output's position is not between does not spoil it."""
    x = rng.standard_normal((1, 5, 7, 9)).astype(dtype)
    x[:, :, 3, 4], x[:, :, 0, 8], x[:, 0] = np.nan, np.inf, -np.inf
    node = make_resize(size=(13, 17), mode="linear", coordinates="align_corners")
    found = oracle.run(node, oracle.site(device, storage, dtype), device, [x])
    about = node.expected([exact(x)], np.dtype(dtype))
    np.testing.assert_array_equal(found[..., ::2, ::2], x)
    finite = np.isfinite(about.value)
    np.testing.assert_array_equal(found[~finite], about.value[~finite])
    assert_within(found[finite], about.value[finite], about.error[finite])
    assert finite[:, 1:, 8:].all()


def test_in_a_graph(device, rng, dtype, storage):
    """Sizes follow the input by scales, and stay by size."""
    graph = pwconv.Graph(device, dtype, storage=storage)
    x = graph.input("x", (2, 5, 7, 11))
    doubled = graph.resize_images(x, scales=1.5, mode="linear")
    graph.output("y", graph.resize_images(doubled, size=(4, 9)))
    assert doubled.shape == (2, 5, 10, 16)
    for shape in ((2, 5, 7, 11), (1, 5, 13, 5)):
        graph.resize(x=shape)
        assert graph.check(x=rng.standard_normal(shape).astype(dtype)).passed
        assert doubled.shape == (*shape[:2], int(1.5 * shape[2]), int(1.5 * shape[3]))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "size is None and scales is None; one of them must be given"),
        ({"size": 3, "scales": 2}, "size is (3, 3) and scales is (2.0, 2.0); one of them must"),
        ({"size": 0}, "size is 0; it must be an int from 1 to"),
        ({"scales": 0}, "scales is 0; it must be a number from 1/1024 to 1024, or two of them"),
        ({"scales": (1, math.nan)}, "scales is (1, nan); it must be a number from 1/1024"),
        ({"scales": (1, 2, 3)}, "scales is (1, 2, 3); it must be a number from 1/1024"),
        ({"scales": "2"}, "scales is '2'; it must be a number"),
        ({"scales": 0.125}, "they leave H = 0 and W = 1: leave at least 1 of each"),
        ({"size": 3, "mode": "cubic"}, "mode is 'cubic'; it must be one of nearest, linear"),
        ({"size": 3, "nearest_mode": "up"}, "nearest_mode is 'up'; it must be one of round_pre"),
        ({"size": 3, "coordinates": "tf"}, "coordinates is 'tf'; it must be one of half_pixel, "),
    ],
)  # fmt: skip
def test_what_is_refused(device, arguments, says):
    graph = pwconv.Graph(device)
    x = graph.input("x", SHAPE)
    with pytest.raises(ValueError, match="node 'r': .*" + re.escape(says)):
        graph.resize_images(x, **arguments, name="r")
