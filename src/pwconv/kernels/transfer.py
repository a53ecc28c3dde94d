"""NCHW arrays ↔ channels-packed 3D textures: nchw_to_texture3d.comp, texture3d_to_nchw.comp."""

from __future__ import annotations

import numpy as np

from pwconv import shaders
from pwconv.dispatch import Dispatch, Dispatcher, Plan
from pwconv.dtypes import Array, DType, axis_name
from pwconv.layout import Chunk, Shape4, ceil_div
from pwconv.staging import download_chunks, upload_chunks
from pwconv.vk.resources import Buffer, Image

# Neighbours in a workgroup are neighbours in a row of staging.
_WORKGROUP = (64, 1, 1)


def upload(dispatcher: Dispatcher, array: Array, image: Image, dtype: DType) -> None:
    """Write an array [N, C, H, W] of at least one element into an image of type ``dtype``.

    Lanes past C become zero; float32 is narrowed to float16, nearest even, on the device.
    """
    source = axis_name(array.dtype.newbyteorder("="))
    variant = shaders.variant("nchw_to_texture3d", source=source, dtype=axis_name(dtype))
    n, c, h, w = array.shape

    def submit(chunk: Chunk, buffer: Buffer) -> int:
        plan = _plan(dispatcher, variant, (n, c, h, w), chunk, 1)
        return dispatcher.submit(Dispatch(plan, {"staging": buffer, "t_out": image}))

    upload_chunks(dispatcher.device, array.reshape(n, c, h * w), submit)


def download(dispatcher: Dispatcher, image: Image, shape: Shape4, dtype: DType) -> Array:
    """Return the array [N, C, H, W], of at least one element, that an image holds."""
    variant = shaders.variant("texture3d_to_nchw", dtype=axis_name(dtype))
    per_word = 4 // dtype.itemsize

    def submit(chunk: Chunk, buffer: Buffer) -> int:
        plan = _plan(dispatcher, variant, shape, chunk, per_word)
        dispatch = Dispatch(plan, {"staging": buffer, "t_in": image})
        return dispatcher.submit(dispatch, host_reads=True)

    n, c, h, w = shape
    array = np.empty((n, c, h * w), dtype)
    download_chunks(dispatcher.device, array, submit)
    return array.reshape(shape)


def _plan(
    dispatcher: Dispatcher, variant: shaders.Variant, shape: Shape4, chunk: Chunk, per_word: int
) -> Plan:
    batches, channels, positions = chunk.shape
    return dispatcher.plan(
        variant,
        (ceil_div(positions, per_word), ceil_div(channels, 4), batches),
        {
            "batches": batches,
            "channels": channels,
            "positions": positions,
            "pitch": chunk.pitch,
            "n_first": chunk.outer.start,
            "c4_first": chunk.middle.start // 4,
            "m_first": chunk.inner.start,
            "C4": ceil_div(shape[1], 4),
            "W": shape[3],
        },
        shape=_WORKGROUP,
    )
