"""NCHW arrays ↔ tensors: nchw_to_texture3d.comp, texture3d_to_nchw.comp, copy_rows.comp."""

from __future__ import annotations

import numpy as np

from pwconv import shaders
from pwconv.context import Context
from pwconv.dtypes import Array, DType, axis_name
from pwconv.layout import Chunk, Shape4, buffer_rows, ceil_div
from pwconv.staging import download_chunks, exchange, one_chunk, upload_chunks
from pwconv.vk import api as vk
from pwconv.vk.commands import Dispatch, Plan
from pwconv.vk.resources import Buffer, Resource

# Neighbours in a workgroup are neighbours in a row of staging.
_WORKGROUP = (64, 1, 1)


def upload(context: Context, array: Array, target: Resource, dtype: DType) -> None:
    """Write an array [N, C, H, W] of at least one element into a tensor's image or buffer.

    Lanes past C become zero; float32 is narrowed to float16, nearest even, on the device.
    """

    def submit(chunk: Chunk, staged: Buffer) -> int:
        dispatch = upload_dispatch(context, array.shape, array.dtype, chunk, staged, target, dtype)
        return context.submit(dispatch, awaited=True)

    upload_chunks(context, _rows(array), submit)


def download(context: Context, source: Resource, shape: Shape4, dtype: DType) -> Array:
    """Return the array [N, C, H, W], of at least one element, that an image or buffer holds."""

    def submit(chunk: Chunk, staged: Buffer) -> int:
        dispatch = download_dispatch(context, source, chunk, staged, shape, dtype)
        return context.submit(dispatch, awaited=True)

    array = np.empty(shape, dtype)
    download_chunks(context, _rows(array), submit)
    return array


def pass_through(
    context: Context,
    array: Array,
    x: Resource,
    dispatch: Dispatch,
    y: Resource,
    shape: Shape4,
    dtype: DType,
) -> Array:
    """Upload an array to x, run the dispatch, return the array [N, C, H, W] that y then holds.

    It is all one submission where both arrays are small enough; else a chunk is copied by the host
    while another is by the device.
    """
    result = np.empty(shape, dtype)
    rows = _rows(array)
    if not all(one_chunk(context, a.shape, a.dtype.itemsize) for a in (rows, _rows(result))):
        upload(context, rows.reshape(array.shape), x, dtype)
        context.submit(dispatch)
        return download(context, y, shape, dtype)

    def submit(sent: Chunk, sent_in: Buffer, received: Chunk, received_in: Buffer) -> int:
        return context.submit(
            upload_dispatch(context, array.shape, array.dtype, sent, sent_in, x, dtype),
            dispatch,
            download_dispatch(context, y, received, received_in, shape, dtype),
            awaited=True,
        )

    exchange(context, rows, _rows(result), submit)
    return result


def texture3d_to_buffer(
    context: Context,
    source: Resource,
    target: Resource,
    shape: Shape4,
    dtype: DType,
) -> None:
    """Copy a tensor of at least one element from one storage to the other."""
    variant = shaders.variant("texture3d_to_nchw", dtype=axis_name(dtype))
    n, c, h, w = shape
    whole = Chunk(slice(0, n), slice(0, c), slice(0, h * w), buffer_rows(shape, dtype.itemsize)[1])
    plan = _plan_texels(context, variant, shape, whole, 4 // dtype.itemsize)
    context.submit(Dispatch(plan, {"staging": target, "t_in": source}))


def _rows(array: Array) -> Array:
    """Return an array [N, C, H, W] as [N, C, H·W], a copy where its strides need one."""
    n, c, h, w = array.shape
    return array.reshape(n, c, h * w)


def upload_dispatch(
    context: Context,
    shape: Shape4,
    source_dtype: DType,
    chunk: Chunk,
    staged: Buffer,
    target: Resource,
    dtype: DType,
) -> Dispatch:
    """Return the dispatch of a staged chunk of an array to its place in a tensor's resource."""
    source, name = axis_name(source_dtype.newbyteorder("=")), axis_name(dtype)
    if isinstance(target, Buffer):
        variant = shaders.variant("copy_rows", source=source, dtype=name)
        first, pitch = _place(shape, chunk, dtype)
        plan = _plan_rows(context, variant, chunk, dtype, (0, chunk.pitch), (first, pitch))
        return Dispatch(plan, {"staging": staged, "target": target})
    variant = shaders.variant("nchw_to_texture3d", source=source, dtype=name)
    plan = _plan_texels(context, variant, shape, chunk, 1)
    return Dispatch(plan, {"staging": staged, "t_out": target})


def download_dispatch(
    context: Context,
    source: Resource,
    chunk: Chunk,
    staged: Buffer,
    shape: Shape4,
    dtype: DType,
) -> Dispatch:
    """Return the dispatch of a chunk of a tensor's resource to staging."""
    name = axis_name(dtype)
    if isinstance(source, Buffer):
        variant = shaders.variant("copy_rows", source=name, dtype=name)
        first, pitch = _place(shape, chunk, dtype)
        plan = _plan_rows(context, variant, chunk, dtype, (first, pitch), (0, chunk.pitch))
        return Dispatch(plan, {"staging": source, "target": staged})
    variant = shaders.variant("texture3d_to_nchw", dtype=name)
    plan = _plan_texels(context, variant, shape, chunk, 4 // dtype.itemsize)
    return Dispatch(plan, {"staging": staged, "t_in": source})


def _place(shape: Shape4, chunk: Chunk, dtype: DType) -> tuple[int, int]:
    """Return a chunk's first element, and the elements from row to row, in a tensor's buffer."""
    _, pitch = buffer_rows(shape, dtype.itemsize)
    row = chunk.outer.start * shape[1] + chunk.middle.start
    return row * pitch + chunk.inner.start, pitch


def _plan_rows(
    context: Context,
    variant: shaders.Variant,
    chunk: Chunk,
    dtype: DType,
    source: tuple[int, int],
    target: tuple[int, int],
) -> Plan:
    batches, channels, positions = chunk.shape
    rows = batches * channels
    return context.plan(
        variant,
        (ceil_div(positions, 4 // dtype.itemsize), rows, 1),
        {
            "rows": rows,
            "positions": positions,
            "source_first": source[0],
            "source_pitch": source[1],
            "target_first": target[0],
            "target_pitch": target[1],
        },
        shape=_WORKGROUP,
    )


def _plan_texels(
    context: Context, variant: shaders.Variant, shape: Shape4, chunk: Chunk, per_word: int
) -> Plan:
    batches, channels, positions = chunk.shape
    return context.plan(
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


def fill(context: Context, resource: Resource, dtype: DType, value: float) -> None:
    """Set every lane of an image, or every element of a buffer, padding too."""

    def record(command_buffer: object) -> None:
        if isinstance(resource, Buffer):
            pattern = np.full(4 // dtype.itemsize, value, dtype).view(np.uint32)[0]
            vk.vkCmdFillBuffer(command_buffer, resource.handle, 0, resource.size, int(pattern))
            return
        everything = vk.VkImageSubresourceRange(
            aspectMask=vk.VK_IMAGE_ASPECT_COLOR_BIT, levelCount=1, layerCount=1
        )
        colour = vk.VkClearColorValue(float32=[value] * 4)
        layout = vk.VK_IMAGE_LAYOUT_GENERAL
        vk.vkCmdClearColorImage(command_buffer, resource.handle, layout, colour, 1, [everything])

    context.queue.run_once(record)
