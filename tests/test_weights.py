"""Packed weights, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pwconv
from pwconv import layout, reference, weights
from pwconv.vk import api as vk
from pwconv.vk.resources import DOWNLOAD, Buffer
from support import inside

STORAGES = ("auto", "texture2d", "buffer")


@settings(max_examples=60)
@given(
    n=st.integers(1, 70),
    k=st.integers(1, 70),
    batch=st.sampled_from([None, 1, 3]),
    source=st.sampled_from(["float32", "float16"]),
    dtype=st.sampled_from([None, "float32", "float16"]),
    transposed=st.booleans(),
    storage=st.sampled_from(STORAGES),
    seed=st.integers(0, 2**32),
)
def test_bit_exact(device, n, k, batch, source, dtype, transposed, storage, seed):
    shape = (n, k) if transposed else (k, n)
    shape = shape if batch is None else (batch, *shape)
    rng = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        weight = (rng.standard_normal(shape) * 2.0 ** rng.integers(-30, 17, shape)).astype(source)
    packed = pwconv.pack_linear_weight(
        weight, transposed=transposed, dtype=dtype, storage=storage, device=device
    )
    assert packed.shape == (batch or 1, n, k)
    assert packed.storage == ("buffer" if storage == "buffer" else "texture2d")
    with np.errstate(over="ignore"):
        expected = reference.pack_linear_weight(weight, transposed=transposed, dtype=dtype)
    actual = packed.numpy()
    assert actual.dtype == expected.dtype == packed.dtype
    bits = f"u{actual.dtype.itemsize}"
    np.testing.assert_array_equal(actual.view(bits), expected.view(bits))


def test_narrowing_is_numpys_for_every_kind_of_float(device):
    """Around every half: itself, its neighbours in float32, and the ties between two halves."""
    halves = np.arange(0, 0x7C00, 37, dtype=np.uint16).view(np.float16).astype(np.float32)
    up = np.nextafter(halves, np.float32(np.inf))
    down = np.nextafter(halves, np.float32(-np.inf))
    nexts = (np.arange(0, 0x7C00, 37, dtype=np.uint16) + 1).view(np.float16).astype(np.float32)
    ties = (halves + nexts) / 2
    ties = ties[np.isfinite(ties)]
    special = np.array([np.inf, np.nan, 65504, 65519.996, 65520, 1e30, 2**-25], np.float32)
    values = np.concatenate([halves, up, down, ties, np.nextafter(ties, 0), special])
    values = np.concatenate([values, -values])
    values[np.abs(values) < 2.0**-126] = 0  # a device may flush float32 denormals
    weight = values[: values.size // 7 * 7].reshape(-1, 7)
    packed = pwconv.pack_linear_weight(weight, dtype="float16", device=device)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(
            packed.numpy(), reference.pack_linear_weight(weight, dtype="float16")
        )


@pytest.mark.parametrize("storage", ["texture2d", "buffer"])
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_in_many_chunks(device, rng, monkeypatch, storage, transposed, dtype):
    monkeypatch.setattr(*inside.slots.chunk_bytes, 1000)
    weight = rng.standard_normal((2, 37, 129)).astype(dtype)
    packed = pwconv.pack_linear_weight(
        weight, transposed=transposed, storage=storage, device=device
    )
    np.testing.assert_array_equal(
        packed.numpy(), reference.pack_linear_weight(weight, transposed=transposed)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda w: w[::2, ::-1],
        lambda w: np.asfortranarray(w),
        lambda w: w.astype(w.dtype.newbyteorder(">")),
        lambda w: np.broadcast_to(w[0], w.shape),
    ],
    ids=["strided", "fortran", "byte-swapped", "broadcast"],
)
def test_any_strides_and_byte_order(device, rng, make):
    weight = make(rng.standard_normal((10, 6)).astype(np.float32))
    packed = pwconv.pack_linear_weight(weight, device=device)
    expected = reference.pack_linear_weight(weight.astype(np.float32))
    np.testing.assert_array_equal(packed.numpy(), expected)


def test_the_buffer_stands_in_where_the_texture_would_be_too_large(device, rng, monkeypatch):
    context = inside.another_context(device)
    context.limits = {**device.info.limits, "maxImageDimension2D": 64}
    monkeypatch.setattr(device, inside.CONTEXT, context)
    weight = rng.standard_normal((65, 6)).astype(np.float32)
    packed = pwconv.pack_linear_weight(weight, device=device)
    assert packed.storage == "buffer"
    np.testing.assert_array_equal(packed.numpy(), reference.pack_linear_weight(weight))
    with pytest.raises(pwconv.UnsupportedError, match="maxImageDimension2D = 64"):
        pwconv.pack_linear_weight(weight, storage="texture2d", device=device)
    context.limits = {**context.limits, "maxStorageBufferRange": 512}
    with pytest.raises(pwconv.UnsupportedError, match=r"N = 65.*maxStorageBufferRange = 512"):
        pwconv.pack_linear_weight(weight, device=device)


@pytest.mark.parametrize(
    ("weight", "settings", "error", "message"),
    [
        (np.ones((3, 4)), {}, TypeError, "weight has dtype float64"),
        (np.ones(3, np.float32), {}, ValueError, r"\[N, K\] or \[B, N, K\]"),
        (np.ones(3, np.float32), {"transposed": False}, ValueError, r"\[K, N\]"),
        (np.ones((3, 0), np.float32), {}, ValueError, "length 0"),
        (np.ones((3, 4), np.float32), {"storage": "image"}, ValueError, "storage is 'image'"),
        (np.ones((3, 4), np.float32), {"dtype": "int8"}, TypeError, "dtype is 'int8'"),
    ],
)
def test_wrong_arguments(device, weight, settings, error, message):
    with pytest.raises(error, match=message):
        pwconv.pack_linear_weight(weight, **settings, device=device)


@pytest.mark.parametrize("storage", ["texture2d", "buffer"])
@pytest.mark.parametrize(("n", "k"), [(5, 3), (48, 96), (97, 49), (1, 1)])
def test_rows_are_the_weight_padded_with_zeros(device, rng, storage, n, k):
    weight = rng.standard_normal((n, k)).astype(np.float16)
    packed = pwconv.pack_linear_weight(weight, storage=storage, device=device)
    rows = packed.rows()
    assert packed.rows() is rows
    context = inside.context(device)
    target = Buffer(context, rows.size, DOWNLOAD)
    region = vk.VkBufferCopy(size=rows.size)
    context.queue.wait(
        context.queue.run_once(
            lambda cb: vk.vkCmdCopyBuffer(cb, rows.handle, target.handle, 1, [region])
        )
    )
    actual = np.frombuffer(bytes(target.mapped[: rows.size]), np.float16)
    context.retire(target.destroy)
    expected = np.zeros(layout.weight_rows_extent(n, k), np.float16)
    expected[:n, :k] = weight
    np.testing.assert_array_equal(actual.reshape(expected.shape), expected)


def test_a_packed_weight_describes_itself(device):
    packed = pwconv.pack_linear_weight(np.ones((5, 3), np.float16), storage="buffer", device=device)
    assert repr(packed).startswith(
        "pwconv.PackedWeight(shape=(1, 5, 3), dtype=float16, storage='buffer', device='"
    )


class Hidden(Buffer):
    """A buffer in memory that the host does not see, as of most cards of their own."""

    __slots__ = ()
    mapped = property(lambda _: None, lambda *_: None)


@pytest.mark.parametrize("kind", [Buffer, Hidden])
def test_a_bias_is_written_or_copied(device, rng, monkeypatch, kind):
    monkeypatch.setattr(weights, "Buffer", kind)
    values = rng.standard_normal(23).astype(np.float32)
    buffer = weights.upload_parameter(inside.context(device), values)
    assert (buffer.mapped is None) == (kind is Hidden)
    read = Buffer(inside.context(device), values.nbytes, DOWNLOAD)
    region = vk.VkBufferCopy(size=values.nbytes)

    def record(commands):
        vk.vkCmdCopyBuffer(commands, buffer.handle, read.handle, 1, [region])

    queue = inside.context(device).queue
    queue.wait(queue.run_once(record))
    np.testing.assert_array_equal(np.frombuffer(read.mapped, np.float32, 23), values)
