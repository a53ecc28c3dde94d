"""Arrays to texels and back, bit for bit, lanes past C included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import inside, texels

DTYPES = ("float32", "float16")
STORAGES = ("texture3d", "buffer")


@settings(max_examples=50)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 19), st.integers(1, 13), st.integers(1, 13)),
    source=st.sampled_from(DTYPES),
    dtype=st.sampled_from([None, *DTYPES]),
    storage=st.sampled_from(STORAGES),
    seed=st.integers(0, 2**32),
)
def test_round_trip(device, shape, source, dtype, storage, seed):
    array = np.random.default_rng(seed).standard_normal(shape).astype(source)
    tensor = device.tensor(array, dtype, storage)
    assert tensor.storage == storage
    expected = array.astype(dtype or source)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    if storage == "texture3d":
        np.testing.assert_array_equal(texels.read(tensor), texels.channels_packed(expected))


def test_upload_overwrites_every_lane(device, rng):
    """The image of a tensor that is gone comes back with what it held."""
    for _ in range(3):
        texels.fill(device.empty((2, 5, 4, 3), "float32", "texture3d"), float("nan"))
        array = rng.standard_normal((2, 5, 4, 3)).astype(np.float32)
        tensor = device.tensor(array, storage="texture3d")
        np.testing.assert_array_equal(texels.read(tensor), texels.channels_packed(array))
        del tensor


@pytest.mark.parametrize("storage", STORAGES)
def test_special_values_survive(device, storage):
    values = [np.inf, -np.inf, np.nan, -0.0, 0.0, 2.0**-126, -3.4e38]
    array = np.array(values, np.float32).reshape(7, 1, 1)
    tensor = device.tensor(array, storage=storage)
    np.testing.assert_array_equal(tensor.numpy().view("u4"), array.view("u4"))
    array = np.array([np.inf, -np.inf, np.nan, -0.0, 65504, 2.0**-24], np.float16)
    array = array.reshape(1, 2, 3)
    np.testing.assert_array_equal(device.tensor(array, storage=storage).numpy(), array)


@pytest.mark.parametrize("limit", [64, 100, 300, 1000, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("storage", STORAGES)
def test_in_many_chunks(device, rng, monkeypatch, limit, dtype, storage):
    monkeypatch.setattr(*inside.slots.chunk_bytes, limit)
    array = rng.standard_normal((3, 13, 5, 7)).astype(dtype)
    tensor = device.tensor(array, storage=storage)
    np.testing.assert_array_equal(tensor.numpy(), array)
    if storage == "texture3d":
        np.testing.assert_array_equal(texels.read(tensor), texels.channels_packed(array))


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a[:, ::2, ::-1],
        lambda a: a.transpose(0, 3, 1, 2),
        lambda a: np.asfortranarray(a),
        lambda a: a.astype(a.dtype.newbyteorder(">")),
        lambda a: np.broadcast_to(a[:1], a.shape),
        lambda a: a[0],
    ],
    ids=["strided", "nhwc", "fortran", "byte-swapped", "broadcast", "three axes"],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("storage", STORAGES)
def test_any_strides_and_byte_order(device, rng, make, dtype, storage):
    array = make(rng.standard_normal((2, 6, 5, 3)).astype(dtype))
    array.flags.writeable = False
    tensor = device.tensor(array, storage=storage)
    assert tensor.shape == array.shape
    assert tensor.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(tensor.numpy(), array.astype(dtype))
