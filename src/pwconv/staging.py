"""Arrays to the device and back, a chunk at a time, through host-visible buffers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from pwconv.context import Context
from pwconv.dtypes import Array, DType
from pwconv.layout import Chunk, staging_chunks
from pwconv.vk import api as vk
from pwconv.vk.resources import Buffer

# The host copies one chunk while the device copies another: the smaller they are, the sooner both
# are at work, and the more submissions it takes.
_CHUNK_BYTES = 8 << 20

# Chunks that the device has been asked for when the host takes the first of them.
_ASKED_AHEAD = 2


@dataclass
class Staged:
    """A chunk in a staging buffer, and the submission that uses it, once there is one."""

    chunk: Chunk
    buffer: Buffer
    dtype: DType
    serial: int | None = None

    def rows(self) -> Array:
        """Return the chunk's elements in the buffer, without the padding."""
        assert self.buffer.mapped is not None
        size = chunk_bytes(self.chunk, self.dtype)
        contents = np.frombuffer(self.buffer.mapped[:size], self.dtype)
        return contents.reshape(self.chunk.padded_shape)[..., : self.chunk.shape[2]]

    def fill(self, array: Array) -> None:
        """Copy the chunk from the array that it is of."""
        self.rows()[...] = array[self.chunk.outer, self.chunk.middle, self.chunk.inner]

    def empty(self, array: Array) -> None:
        """Copy the chunk into the array that it is of."""
        array[self.chunk.outer, self.chunk.middle, self.chunk.inner] = self.rows()


def upload_chunks(context: Context, array: Array, submit: Callable[[Chunk, Buffer], int]) -> None:
    """Pass an array [outer, middle, inner] to the device.

    ``submit(chunk, buffer)`` consumes a chunk that lies in the buffer, rows padded, and returns the
    submission's serial. Returns when the last chunk is submitted, not done: the array is free.
    """
    dtype = array.dtype.newbyteorder("=")
    for chunk in _chunks(context, array.shape, array.dtype.itemsize):
        with context.in_use(), _staged(context, chunk, dtype, upload=True) as staged:
            staged.fill(array)
            staged.serial = submit(chunk, staged.buffer)


def upload_buffer(context: Context, array: Array, target: Buffer) -> None:
    """Copy a contiguous array into a buffer."""

    def submit(chunk: Chunk, buffer: Buffer) -> int:
        def record(command_buffer: object) -> None:
            region = vk.VkBufferCopy(
                dstOffset=chunk.inner.start * array.itemsize,
                size=chunk.shape[2] * array.itemsize,
            )
            vk.vkCmdCopyBuffer(command_buffer, buffer.handle, target.handle, 1, [region])

        return context.queue.run_once(record)

    upload_chunks(context, array.reshape(1, 1, -1), submit)


def download_chunks(context: Context, array: Array, submit: Callable[[Chunk, Buffer], int]) -> None:
    """Fill an array [outer, middle, inner] from the device.

    ``submit(chunk, buffer)`` has a chunk written to the buffer, rows padded, and returns the
    submission's serial.
    """
    asked: deque[Staged] = deque()

    def take_first() -> None:
        context.queue.wait(asked[0].serial)
        asked[0].empty(array)
        _release(context, asked.popleft(), upload=False)

    with context.in_use():
        try:
            for chunk in _chunks(context, array.shape, array.dtype.itemsize):
                asked.append(_acquire(context, chunk, array.dtype, upload=False))
                asked[-1].serial = submit(chunk, asked[-1].buffer)
                if len(asked) == _ASKED_AHEAD:
                    take_first()
            while asked:
                take_first()
        finally:
            while asked:
                _release(context, asked.popleft(), upload=False)


def one_chunk(context: Context, shape: tuple[int, ...], itemsize: int) -> Chunk | None:
    """Return all of an array [outer, middle, inner], if it passes through staging at once."""
    chunks = _chunks(context, shape, itemsize)
    return chunks[0] if len(chunks) == 1 else None


def exchange(
    context: Context,
    array: Array,
    result: Array,
    submit: Callable[[Chunk, Buffer, Chunk, Buffer], int],
) -> None:
    """Pass an array [outer, middle, inner] to the device and fill another, each of one chunk.

    ``submit(sent, sent_buffer, received, received_buffer)`` consumes the one, has the other
    written, and returns the serial of the one submission that does it all.
    """
    dtype = array.dtype.newbyteorder("=")
    (sent,) = _chunks(context, array.shape, dtype.itemsize)
    (received,) = _chunks(context, result.shape, result.dtype.itemsize)
    with (
        context.in_use(),
        _staged(context, sent, dtype, upload=True) as source,
        _staged(context, received, result.dtype, upload=False) as target,
    ):
        source.fill(array)
        serial = submit(sent, source.buffer, received, target.buffer)
        source.serial = target.serial = serial
        context.queue.wait(serial)
        target.empty(result)


@contextmanager
def _staged(context: Context, chunk: Chunk, dtype: DType, *, upload: bool) -> Iterator[Staged]:
    """Lend a staging buffer to a chunk."""
    lent: list[Staged] = []
    try:
        lent.append(_acquire(context, chunk, dtype, upload=upload))
        yield lent[0]
    finally:
        while lent:
            _release(context, lent.pop(), upload=upload)


def _acquire(context: Context, chunk: Chunk, dtype: DType, *, upload: bool) -> Staged:
    size = chunk_bytes(chunk, dtype)
    return Staged(chunk, context.staging.acquire(size, upload=upload), dtype)


def _release(context: Context, staged: Staged, *, upload: bool) -> None:
    context.staging.release(staged.buffer, staged.serial, upload=upload)


def _chunks(context: Context, shape: tuple[int, ...], itemsize: int) -> list[Chunk]:
    limit = min(_CHUNK_BYTES, context.info.limits["maxStorageBufferRange"])
    outer, middle, inner = shape
    return list(staging_chunks((outer, middle, inner), itemsize, limit))


def chunk_bytes(chunk: Chunk, dtype: DType) -> int:
    """Return the bytes that a chunk takes in staging."""
    outer, middle, pitch = chunk.padded_shape
    return outer * middle * pitch * dtype.itemsize
