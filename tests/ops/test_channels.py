"""Channels joined and taken, bit for bit against numpy's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pwconv.ops import Concat, Slice
from support import oracle

SIZE = (5, 7)


@pytest.mark.parametrize("leading", [(), (1,), (3,)], ids=["no batch", "one", "three"])
def test_concat(device, rng, storage, dtype, leading):
    """One to nine inputs, out of step with vec4s."""
    node = Concat()
    for count in range(1, 10):
        channels = rng.integers(1, 12, count)
        arrays = [rng.standard_normal((*leading, c, *SIZE)).astype(dtype) for c in channels]
        oracle.check(node, device, storage, arrays, lambda *x: np.concatenate(x, axis=-3))
        shapes = [array.shape for array in arrays]
        assert node.shape(*shapes) == (*leading, channels.sum(), *SIZE)
        assert node.flop(shapes, node.shape(*shapes)) == 0


def test_concat_of_every_remainder(device, rng, dtype):
    """On textures a texel of the output may be of four inputs."""
    for channels in itertools.product((1, 2, 3, 4), repeat=3):
        arrays = [rng.standard_normal((2, c, 1, 3)).astype(dtype) for c in channels]
        oracle.check(Concat(), device, "texture3d", arrays, lambda *x: np.concatenate(x, axis=-3))


@pytest.mark.parametrize("shape", [(1, 11, 1, 3), (3, 7, 1, 5), (6, *SIZE)], ids=str)
def test_slice_at_every_offset(device, rng, storage, dtype, shape):
    x = rng.standard_normal(shape).astype(dtype)
    channels = shape[-3]
    for start, stop in itertools.combinations(range(channels + 1), 2):
        node = Slice(start=start, stop=stop)
        found = oracle.run(node, oracle.site(device, storage, dtype), device, [x])
        expected = np.delete(x, [*range(start), *range(stop, channels)], axis=-3)
        np.testing.assert_array_equal(found, expected)
        assert node.shape(shape) == expected.shape
        assert node.flop([shape], expected.shape) == 0


@pytest.mark.parametrize("other", [(2, 3, 5, 8), (2, 3, 6, 7), (1, 3, 5, 7), (3, 5, 7)], ids=str)
def test_concat_of_other_shapes(other):
    x = (2, 4, 5, 7)
    with pytest.raises(ValueError, match="they may differ in channels only") as e:
        Concat().shape(x, other)
    assert f"the operands have shapes {x} and {other}" in str(e.value)


def test_slice_past_the_channels():
    with pytest.raises(ValueError, match=r"stop is 6; x has shape \(2, 5, 3, 3\), 5 channels"):
        Slice(start=1, stop=6).shape((2, 5, 3, 3))


@pytest.mark.parametrize(("start", "stop"), [(2, 2), (3, 1), (-1, 2)])
def test_no_such_slice(start, stop):
    with pytest.raises(ValueError, match=rf"start is {start} and stop is {stop}; it must be 0 ≤"):
        Slice(start=start, stop=stop)
