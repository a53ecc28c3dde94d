"""Max pooling, into poisoned outputs, beside the oracle of support/mirror.py."""

from __future__ import annotations

import re

import numpy as np
import pytest

import pwconv
from pwconv.dtypes import as_dtype
from pwconv.ops import Site, make_max_pool
from pwconv.reference import exact
from support import inside, mirror, texels

SETTINGS = (
    {"kernel": 2},
    {"kernel": 3, "stride": 2, "padding": 1},
    {"kernel": 1, "stride": (2, 3)},
    {"kernel": (5, 2), "stride": (1, 2), "padding": (2, 1)},
    {"kernel": (2, 3), "stride": (3, 1), "dilation": (2, 3), "padding": (0, 1)},
    {"kernel": 3, "stride": 2, "ceil_mode": True},
    {"kernel": 3, "stride": 2, "padding": (0, 1), "ceil_mode": True},
    {"kernel": 2, "stride": 3, "padding": 1, "ceil_mode": True},
    {"kernel": (2, 3), "stride": 5, "dilation": 2, "padding": 1, "ceil_mode": True},
    {"kernel": 3, "stride": 2, "padding": (0, 1, 2, 0)},
    {"kernel": (3, 2), "stride": (2, 3), "padding": (2, 0, 1, 1), "ceil_mode": True},
    {"kernel": 3, "stride": 2**20, "dilation": 2**18, "padding": 1, "ceil_mode": True},
)


def check(
    device: pwconv.Device, array: np.ndarray, settings: dict, storage: str = "buffer"
) -> np.ndarray:
    """Pool into a poisoned output; assert every element, and zeros in lanes past C."""
    expected = mirror.max_pool(array, **settings).astype(array.dtype)
    operator = make_max_pool(**settings)
    assert operator.shape(array.shape) == expected.shape
    np.testing.assert_array_equal(operator.reference(exact(array)).value, expected)
    x = device.tensor(array, storage=storage)
    out = texels.poisoned(device, expected.shape, array.dtype, storage)
    site = Site(inside.context(device), storage, as_dtype(array.dtype))
    for dispatch in operator.plan(site, [array.shape], expected.shape):
        site.context.submit(dispatch.bind([x.resource], out.resource))
    np.testing.assert_array_equal(out.numpy(), expected)
    if storage == "texture3d":
        whole = expected.reshape(texels.stored_shape(expected.shape))
        np.testing.assert_array_equal(texels.read(out), texels.channels_packed(whole))
    return expected


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("shape", [(3, 5, 7, 11), (6, 13, 8), (1, 4, 8, 5)], ids=str)
def test_shapes_and_windows(device, rng, shape, settings, dtype, storage):
    check(device, rng.standard_normal(shape).astype(dtype), settings, storage)


@pytest.mark.parametrize("settings", SETTINGS[1:5], ids=str)
def test_nan_and_infinities(device, rng, settings, dtype, storage):
    """NaN of either sign, alone, before and after larger numbers; windows of −∞ alone."""
    array = rng.standard_normal((3, 7, 17, 19)).astype(dtype)
    array[:, :, :9] = -np.inf
    flat = array.reshape(-1)
    flat[::31], flat[7::62], flat[5::37] = np.nan, -np.float32(np.nan), np.inf
    found = check(device, array, settings, storage)
    assert np.isnan(found).any()
    assert np.isposinf(found).any()
    assert np.isneginf(found).any()
    assert np.isfinite(found).any()


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_windows_over_nothing_but_padding(device, rng, storage):
    """They give −∞, in the lanes of channels alone."""
    settings = {"kernel": 2, "dilation": 4, "padding": 1}
    array = rng.standard_normal((2, 5, 3, 3), np.float32)
    found = check(device, array, settings, storage)
    assert np.isneginf(found).all()


def test_sizes_are_those_of_torch():
    """By the rules of torch.nn.MaxPool2d, by hand."""
    for size, settings, expected in (
        (5, {"kernel": 2}, 2),
        (5, {"kernel": 2, "ceil_mode": True}, 3),
        (6, {"kernel": 2, "stride": 3}, 2),
        (4, {"kernel": 2, "stride": 3, "ceil_mode": True}, 2),
        (4, {"kernel": 2, "stride": 4, "padding": 1, "ceil_mode": True}, 2),
        (3, {"kernel": 2, "stride": 4, "padding": 1, "ceil_mode": True}, 1),
        (7, {"kernel": 3, "stride": 2, "dilation": 2}, 2),
        (8, {"kernel": 3, "stride": 2, "dilation": 2, "ceil_mode": True}, 3),
        (1, {"kernel": 2, "ceil_mode": True}, 1),
        (112, {"kernel": 3, "stride": 2, "padding": 1}, 56),
    ):
        assert make_max_pool(**settings).shape((1, size, size)) == (1, expected, expected)
        assert make_max_pool(**settings).shape((2, 3, size, size)) == (2, 3, expected, expected)


def test_in_a_graph(device, rng, dtype, storage):
    """Its check holds the node to its reference; a resize takes it along."""
    mirrored = mirror.Mirror(device, dtype, storage)
    x = mirrored.input("x", (2, 5, 13, 11))
    pooled = mirrored.max_pool(x, 3, stride=2, padding=1)
    mirrored.output("y", mirrored.max_pool(mirrored.activation(pooled, "tanh"), (2, 1)))
    for shape in ((2, 5, 13, 11), (3, 5, 8, 17)):
        mirrored.graph.resize(x=shape)
        array = rng.standard_normal(shape).astype(dtype)
        mirrored.check({"x": array})
        array[0, 0, 3:6] = np.nan
        assert mirrored.graph.check(x=array).passed
    assert mirrored.graph.profile().nodes[0].kind == "max_pool"


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"kernel": 0}, ValueError, "kernel is 0; it must be an int from 1 to"),
        ({"kernel": (2, 2, 2)}, ValueError, "kernel is (2, 2, 2); it must be"),
        (
            {"kernel": (33, 32)},
            ValueError,
            "kernel is (33, 32), of 1,056 taps KH·KW; at most 1,024 are taken: pool by a smaller",
        ),
        ({"kernel": 2, "stride": 0}, ValueError, "stride is 0; it must be an int from 1"),
        ({"kernel": 2, "dilation": 0}, ValueError, "dilation is 0; it must be an int from 1"),
        ({"kernel": 2, "padding": -1}, ValueError, "padding is -1; it must be an int from 0"),
        (
            {"kernel": (3, 5), "padding": 2},
            ValueError,
            "padding is 2; it must be at most half the kernel, (1, 2) along H and W: pad by less",
        ),
        (
            {"kernel": 3, "padding": 2, "dilation": 4},
            ValueError,
            "padding is 2; it must be at most half the kernel, (1, 1)",
        ),
        ({"kernel": 2, "ceil_mode": 1}, TypeError, "ceil_mode is 1; it must be True or False"),
        (
            {"kernel": 3, "padding": (0, 0, 3, 0)},
            ValueError,
            "padding is (0, 0, 3, 0); it must be at most the kernel less one tap, (2, 2) along H",
        ),
        (
            {"kernel": (8, 5)},
            ValueError,
            "x has shape (1, 4, 6, 6): a 8x5 kernel with padding 0 needs H of at least 8 and W of "
            "at least 5; pad by (4, 2), or use a larger image",
        ),
        (
            {"kernel": 9, "stride": 3, "ceil_mode": True},
            ValueError,
            "a 9x9 kernel with padding 0 needs H and W of at least 7; pad by 4, or use a larger",
        ),
        (
            {"kernel": 3, "dilation": (3, 1), "padding": (0, 1)},
            ValueError,
            "a 3x3 kernel with dilation (3, 1) and padding (0, 1) needs H of at least 7 and W of "
            "at least 1; use a smaller dilation, or use a larger image",
        ),
    ],
)
def test_what_is_refused(device, arguments, error, says):
    graph = pwconv.Graph(device)
    x = graph.input("x", (1, 4, 6, 6))
    with pytest.raises(error, match="node .pool.: .*" + re.escape(says)):
        graph.max_pool(x, **arguments, name="pool")
    graph.output("y", graph.max_pool(x, 2, name="pool"))
    assert graph.run(x=np.ones((1, 4, 6, 6), np.float32))["y"].shape == (1, 4, 3, 3)
