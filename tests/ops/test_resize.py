"""Repeated elements, and every stride-th position, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pwconv
from pwconv.ops import Operator, Subsample, Upsample
from support import oracle

DTYPES = ("float32", "float16")
SHAPES = ((1, 1, 1, 1), (3, 5, 7, 11), (1, 4, 8, 8))


def check(
    device: pwconv.Device,
    operator: Operator,
    array: np.ndarray,
    expected: np.ndarray,
    storage: str = "buffer",
) -> None:
    """Copy into a poisoned output."""
    found = oracle.run(operator, oracle.site(device, storage, array.dtype), device, [array])
    bits = f"u{array.dtype.itemsize}"
    np.testing.assert_array_equal(found.view(bits), np.ascontiguousarray(expected).view(bits))
    assert operator.flop([array.shape], expected.shape) == 0


def check_subsample(device: pwconv.Device, array: np.ndarray, stride: tuple[int, int]) -> None:
    check(device, Subsample(stride=stride), array, array[..., :: stride[0], :: stride[1]])


def any_bits(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return infinities, NaN, subnormal numbers and zeros of both signs among others."""
    bits = rng.integers(0, 2**16, shape).astype(np.uint16)
    # The upper half of a float32, where sign and exponent are.
    array = bits.view(dtype) if dtype == "float16" else (bits.astype(np.uint32) << 16).view(dtype)
    assert np.isnan(array).any()
    array[np.isnan(array)] = np.nan  # one of many: uploads do not tell them apart
    return array


@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (2, 1), (3, 2), (1, 1), (7, 41)])
def test_subsample(device, rng, stride, dtype):
    for shape in (*SHAPES, (4, 16, 16), (2, 5, 13, 29), (3, 1, 1, 31), (1, 7, 37, 1)):
        check_subsample(device, rng.standard_normal(shape).astype(dtype), stride)


@settings(max_examples=50)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)),
    stride=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_subsample_of_any_shape_and_stride(device, shape, stride, dtype, seed):
    array = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    check_subsample(device, array, stride)


def test_subsample_of_any_bits(device, rng, dtype):
    check_subsample(device, any_bits(rng, dtype, (1, 3, 30, 31)), (2, 3))


@pytest.mark.parametrize("scale", [1, 2, 3, 7])
def test_upsample(device, rng, storage, dtype, scale):
    node = Upsample(scale=scale)

    def enlarged(x: np.ndarray) -> np.ndarray:
        return np.kron(x, np.ones((scale, scale), x.dtype))

    for shape in (*SHAPES, (13, 4, 3), (2, 6, 1, 17)):
        array = rng.standard_normal(shape).astype(dtype)
        assert node.shape(shape) == enlarged(array).shape
        check(device, node, array, enlarged(array), storage)
        oracle.check(node, device, storage, [array], enlarged)


def test_upsample_of_any_bits(device, rng, storage, dtype):
    array = any_bits(rng, dtype, (1, 3, 30, 31))
    # Texels and conversions may flush what is subnormal.
    array[np.abs(array) < np.finfo(dtype).tiny] = -0.0
    check(device, Upsample(scale=2), array, array.repeat(2, 2).repeat(2, 3), storage)


@pytest.mark.parametrize("scale", [0, -1, 1025])
def test_other_scales(scale):
    with pytest.raises(ValueError, match=f"scale is {scale}; it must be 1 to 1024"):
        Upsample(scale=scale)
