"""Means over H and W, against numpy's."""

from __future__ import annotations

import numpy as np

from pwconv.ops import GlobalAvgPool
from support import oracle


def mean(x: np.ndarray) -> np.ndarray:
    return x.mean((-2, -1))[..., None, None]


SHAPES = (
    *((3, 5, 7, 11), (13, 4, 3), (1, 4, 8, 8), (3, 6, 1, 1)),
    *((1, 3, 1, 17), (2, 7, 61, 67), (1, 1, 211, 1)),
)


def test_means(device, rng, storage, dtype):
    node = GlobalAvgPool()
    for shape in SHAPES:
        x = (3 + rng.standard_normal(shape)).astype(dtype)
        oracle.check(node, device, storage, [x], mean, terms=int(np.prod(shape[-2:])))
        assert node.flop([shape], node.shape(shape)) == np.prod(shape)


def test_each_mean_is_of_its_own_plane(device, storage, dtype):
    """Of whole numbers that differ from plane to plane, and whose sums are exact."""
    x = np.zeros((3, 7, 4, 8), dtype)
    x[...] = np.arange(21).reshape(3, 7, 1, 1)
    found = oracle.run(GlobalAvgPool(), oracle.site(device, storage, dtype), device, [x])
    np.testing.assert_array_equal(np.rint(found.astype(np.float64)), x[..., :1, :1])


def test_shapes():
    assert GlobalAvgPool().shape((3, 5, 7, 11)) == (3, 5, 1, 1)
    assert GlobalAvgPool().shape((5, 7, 11)) == (5, 1, 1)
