"""What a tensor says of itself, and what it refuses to be."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import pwconv
from pwconv.vk import api as vk
from support import inside, texels


def test_attributes(device):
    tensor = device.empty((2, 5, 3, 4), np.float16)
    assert (tensor.shape, tensor.dtype) == ((2, 5, 3, 4), np.float16)
    assert tensor.storage in ("texture3d", "buffer")
    assert tensor.nbytes == 2 * 5 * 3 * 4 * 2
    assert tensor.device is device
    assert len(tensor) == 2
    assert repr(tensor).startswith("pwconv.Tensor(shape=(2, 5, 3, 4), dtype=float16")


def test_asarray(device, rng):
    array = rng.standard_normal((3, 4, 5)).astype(np.float32)
    tensor = device.tensor(array)
    np.testing.assert_array_equal(np.asarray(tensor), array)
    assert np.asarray(tensor, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        np.array(tensor, copy=False)


def test_copies(device):
    """Two tensors of one image would both give it back."""
    tensor = device.empty((3, 4, 5), "float32")
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"copy or pickle tensor\.numpy\(\)"):
            duplicate(tensor)


def test_an_empty_batch_needs_no_image(device):
    tensor = device.tensor(np.empty((0, 3, 4, 5), np.float16))
    assert (tensor.shape, tensor.nbytes) == ((0, 3, 4, 5), 0)
    assert tensor.numpy().shape == (0, 3, 4, 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
@pytest.mark.parametrize("shape", [(7,), (5, 7), (6, 5, 7), (2, 6, 5, 7), (2, 1, 3, 5, 7)], ids=str)
def test_any_number_of_axes(device, rng, shape, storage, dtype):
    array = rng.standard_normal(shape).astype(dtype)
    tensor = device.tensor(array, storage=storage)
    assert (tensor.shape, tensor.storage) == (shape, storage)
    np.testing.assert_array_equal(tensor.numpy(), array)
    if storage == "texture3d":
        whole = array.reshape(texels.stored_shape(shape))
        np.testing.assert_array_equal(texels.read(tensor), texels.channels_packed(whole))


@pytest.mark.parametrize("shape", [(0,), (0, 5), (0, 4, 5), (0, 2, 3, 4, 5)], ids=str)
def test_an_empty_first_axis(device, shape):
    assert device.tensor(np.empty(shape, np.float32)).numpy().shape == shape


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.ones((3, 4, 5)), TypeError, r"array has dtype float64.*numpy.float32"),
        (np.ones((3, 4, 5), np.uint8), TypeError, "array has dtype uint8"),
        (np.ones((3, 4, 5), complex), TypeError, "array has dtype complex128"),
        (np.float32(1), ValueError, r"array has shape \(\); it must have at least one axis"),
        (np.ones((2, 0, 4, 5), np.float32), ValueError, "only the first axis may be 0"),
        (np.ones((2, 0), np.float32), ValueError, "only the first axis may be 0"),
    ],
)
def test_wrong_arrays(device, array, error, message):
    with pytest.raises(error, match=message):
        device.tensor(array)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((), "float32"), ValueError, r"shape has shape \(\)"),
        (((3, 4, -1), "float32"), ValueError, "only the first axis"),
        (((-1, 3, 4, 1), "float32"), ValueError, "only the first axis"),
        (((-1,), "float32"), ValueError, "only the first axis"),
        (((3, 4, 1.5), "float32"), TypeError, "tuple of ints"),
        ((3, "float32"), TypeError, "tuple of ints"),
        (((3, 4, 5), "float64"), TypeError, "dtype is 'float64'"),
        (((3, 4, 5), None), TypeError, "dtype is None"),
        (((3, 4, 5), "float32", "texture2d"), ValueError, "storage is 'texture2d'"),
    ],
)
def test_wrong_shapes_and_types(device, arguments, error, message):
    with pytest.raises(error, match=message):
        device.empty(*arguments)


@pytest.mark.parametrize(
    ("axis", "name"), [(2, "height H"), (3, "width W"), (0, "depth N·ceil"), (1, "depth N·ceil")]
)
def test_past_the_largest_image(device, axis, name):
    limit = device.info.limits["maxImageDimension3D"]
    shape = [1, 1, 1, 1]
    shape[axis] = limit + 1 if axis != 1 else 4 * limit + 1
    with pytest.raises(
        pwconv.UnsupportedError, match=rf"{name}.* = {limit + 1} is past maxImageDimension3D"
    ):
        device.empty(shape, "float32", "texture3d")
    assert device.empty(shape, "float32").storage == "buffer"
    shape[axis] = limit if axis != 1 else 4 * limit
    assert device.empty(shape, "float32", "texture3d").shape == tuple(shape)


def test_a_result_past_the_largest_image_becomes_a_buffer(device, rng):
    limit = device.info.limits["maxImageDimension3D"]
    x = rng.standard_normal((limit, 1, 1, 1)).astype(np.float32)
    weight = np.arange(8, dtype=np.float32)[:, None]
    layer = pwconv.PointwiseConv2d(weight, device=device)
    y = layer(device.tensor(x, storage="texture3d"))
    assert y.storage == "buffer"
    np.testing.assert_allclose(y.numpy(), x * weight[:, 0, None, None], rtol=1e-6)
    np.testing.assert_array_equal(layer(x), y.numpy())
    with pytest.raises(pwconv.UnsupportedError, match=r"the output has shape.*maxImageDimension3D"):
        pwconv.PointwiseConv2d(weight, storage="texture3d", device=device)(x)


def test_past_the_largest_buffer(device):
    most = device.info.limits["maxStorageBufferRange"]
    shape = (most // 4 // 1024 + 1, 1, 32, 32)
    with pytest.raises(pwconv.UnsupportedError, match=r"past maxStorageBufferRange = [\d,]+"):
        device.empty(shape, "float32", "buffer")


def test_a_type_the_device_cannot_store(device, monkeypatch):
    refuse = inside.vulkan_package().VkErrorFormatNotSupported

    def properties(*_: object) -> None:
        raise refuse

    monkeypatch.setattr(inside.context(device).physical, "image_limits", {})
    name = "vkGetPhysicalDeviceImageFormatProperties"
    monkeypatch.setattr(vk, name, inside.raising(name, properties))
    with pytest.raises(pwconv.UnsupportedError, match=r"cannot store float16 in textures"):
        device.empty((3, 4, 5), "float16", "texture3d")
    assert device.empty((3, 4, 5), "float16").storage == "buffer"
