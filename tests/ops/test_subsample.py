"""Every stride-th position, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pwconv
from pwconv.dtypes import as_dtype
from pwconv.ops import Site, Subsample
from support import inside, texels

DTYPES = ("float32", "float16")


def check(device: pwconv.Device, array: np.ndarray, stride: tuple[int, int]) -> None:
    """Copy into a poisoned output."""
    expected = array[:, :, :: stride[0], :: stride[1]]
    x = device.tensor(array, storage="buffer")
    out = texels.poisoned(device, expected.shape, array.dtype, "buffer")
    site = Site(inside.context(device), "buffer", as_dtype(array.dtype))
    (dispatch,) = Subsample(stride=stride).plan(site, [array.shape], expected.shape)
    site.context.submit(dispatch.bind([x.resource], out.resource))
    bits = f"u{array.dtype.itemsize}"
    np.testing.assert_array_equal(out.numpy().view(bits), np.ascontiguousarray(expected).view(bits))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (2, 1), (3, 2), (1, 1), (7, 41)])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (2, 3, 5, 7), (1, 4, 16, 16), (2, 5, 13, 29), (3, 1, 1, 31), (1, 7, 37, 1)],
)
def test_shapes_and_strides(device, rng, shape, stride, dtype):
    check(device, rng.standard_normal(shape).astype(dtype), stride)


@settings(max_examples=50)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)),
    stride=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_any_shape_and_stride(device, shape, stride, dtype, seed):
    check(device, np.random.default_rng(seed).standard_normal(shape).astype(dtype), stride)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_bits(device, rng, dtype):
    """Infinities, NaN, subnormal numbers and zeros of both signs among them."""
    bits = rng.integers(0, 2**16, (1, 3, 30, 31)).astype(np.uint16)
    # The upper half of a float32, where sign and exponent are.
    array = bits.view(dtype) if dtype == "float16" else (bits.astype(np.uint32) << 16).view(dtype)
    assert np.isnan(array).any()
    array[np.isnan(array)] = np.nan  # one of many: uploads do not tell them apart
    check(device, array, (2, 3))
