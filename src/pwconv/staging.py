"""Arrays to the device and back, a chunk at a time, through host-visible buffers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pwconv.dtypes import Array, DType
from pwconv.layout import Chunk, staging_chunks
from pwconv.vk import api as vk
from pwconv.vk.logical_device import LogicalDevice
from pwconv.vk.resources import Buffer

_CHUNK_BYTES = 64 << 20


def upload_chunks(
    device: LogicalDevice, array: Array, submit: Callable[[Chunk, Buffer], int]
) -> None:
    """Pass an array [outer, middle, inner] to the device.

    ``submit(chunk, buffer)`` consumes a chunk that lies in the buffer, rows padded, and returns the
    submission's serial. Returns when the last chunk is submitted, not done: the array is free.
    """
    dtype = array.dtype.newbyteorder("=")
    for chunk in _chunks(device, array.shape, dtype):
        buffer = device.staging.acquire(_bytes(chunk, dtype), upload=True)
        serial = None
        try:
            rows = _rows(buffer, chunk, dtype)
            rows[..., : chunk.shape[2]] = array[chunk.outer, chunk.middle, chunk.inner]
            serial = submit(chunk, buffer)
        finally:
            device.staging.release(buffer, serial, upload=True)


def upload_buffer(device: LogicalDevice, array: Array, target: Buffer) -> None:
    """Copy a contiguous array, small enough for one chunk, into a buffer."""

    def submit(_: Chunk, buffer: Buffer) -> int:
        def record(command_buffer: object) -> None:
            region = vk.VkBufferCopy(size=array.nbytes)
            vk.vkCmdCopyBuffer(command_buffer, buffer.handle, target.handle, 1, [region])

        return device.queue.run_once(record)

    upload_chunks(device, array.reshape(1, 1, -1), submit)


def download_chunks(
    device: LogicalDevice, array: Array, submit: Callable[[Chunk, Buffer], int]
) -> None:
    """Fill an array [outer, middle, inner] from the device.

    ``submit(chunk, buffer)`` has a chunk written to the buffer, rows padded, and returns the
    submission's serial.
    """
    for chunk in _chunks(device, array.shape, array.dtype):
        buffer = device.staging.acquire(_bytes(chunk, array.dtype), upload=False)
        serial = None
        try:
            serial = submit(chunk, buffer)
            device.queue.wait(serial)
            rows = _rows(buffer, chunk, array.dtype)
            array[chunk.outer, chunk.middle, chunk.inner] = rows[..., : chunk.shape[2]]
        finally:
            device.staging.release(buffer, serial, upload=False)


def _chunks(device: LogicalDevice, shape: tuple[int, ...], dtype: DType) -> list[Chunk]:
    limit = min(_CHUNK_BYTES, device.info.limits["maxStorageBufferRange"])
    outer, middle, inner = shape
    return list(staging_chunks((outer, middle, inner), dtype.itemsize, limit))


def _bytes(chunk: Chunk, dtype: DType) -> int:
    outer, middle, pitch = chunk.padded_shape
    return outer * middle * pitch * dtype.itemsize


def _rows(buffer: Buffer, chunk: Chunk, dtype: DType) -> Array:
    assert buffer.mapped is not None
    contents = np.frombuffer(buffer.mapped[: _bytes(chunk, dtype)], dtype)
    return contents.reshape(chunk.padded_shape)
