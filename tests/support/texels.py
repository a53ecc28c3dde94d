"""Whole images as arrays, lanes past C included: what a Tensor's own numpy() does not show."""

from __future__ import annotations

import math

import numpy as np

import pwconv
from pwconv import transfer
from pwconv.vk import api as vk
from pwconv.vk.resources import DOWNLOAD, Buffer, Image
from support import inside


def fill(tensor: pwconv.Tensor, value: float) -> None:
    """Set every lane of a tensor's image, or every element of its buffer, padding too."""
    transfer.fill(inside.context(tensor.device), tensor.resource, tensor.dtype, value)


def poisoned(
    device: pwconv.Device, shape: tuple[int, ...], dtype: object, storage: str = "auto"
) -> pwconv.Tensor:
    """Return a tensor that is NaN everywhere."""
    tensor = device.empty(shape, dtype, storage)
    fill(tensor, float("nan"))
    return tensor


def read(tensor: pwconv.Tensor) -> np.ndarray:
    """Return a texture's texels, [depth, H, W, 4]."""
    device, image = inside.context(tensor.device), tensor.resource
    width, height, depth = image.extent
    size = width * height * depth * 4 * tensor.dtype.itemsize
    buffer = Buffer(device, size, DOWNLOAD)
    device.queue.wait(device.queue.run_once(lambda cb: _copy(cb, image, buffer)))
    texels = np.frombuffer(bytes(buffer.mapped), tensor.dtype)[: size // tensor.dtype.itemsize]
    device.retire(buffer.destroy)
    return texels.reshape(depth, height, width, 4)


def stored_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the [N, C, H, W] that a tensor of any shape is stored as."""
    *leading, w = shape
    h = leading[-1] if len(leading) > 1 else 1
    c = leading[-2] if len(leading) > 1 else (*leading, 1)[0]
    return math.prod(leading[:-2]), c, h, w


def channels_packed(array: np.ndarray) -> np.ndarray:
    """Return what :func:`read` should give for a tensor of [N, C, H, W]."""
    n, c, h, w = array.shape
    padded = np.zeros((n, -(-c // 4) * 4, h, w), array.dtype)
    padded[:, :c] = array
    return padded.reshape(-1, 4, h, w).transpose(0, 2, 3, 1)


def _copy(command_buffer: object, image: Image, buffer: Buffer) -> None:
    width, height, depth = image.extent
    region = vk.VkBufferImageCopy(
        imageSubresource=vk.VkImageSubresourceLayers(aspectMask=1, layerCount=1),
        imageExtent=vk.VkExtent3D(width=width, height=height, depth=depth),
    )
    layout = vk.VK_IMAGE_LAYOUT_GENERAL
    vk.vkCmdCopyImageToBuffer(command_buffer, image.handle, layout, buffer.handle, 1, [region])
