"""Weights → 4OC×4IC blocks: pack_fp_linear_weight.comp."""

from __future__ import annotations

import numpy as np

from pwconv import shaders
from pwconv.context import Context
from pwconv.dtypes import Array, DType, axis_name
from pwconv.errors import UnsupportedError
from pwconv.layout import Chunk, ceil_div, packed_extent, weight_rows_bytes, weight_rows_extent
from pwconv.staging import download_chunks, upload_chunks
from pwconv.tensor import VK_FORMATS
from pwconv.vk import api as vk
from pwconv.vk.commands import Dispatch
from pwconv.vk.resources import DEVICE, Buffer, Image, Resource, image_limit


def pack_weight(
    context: Context,
    weight: Array,
    shape: tuple[int, int, int],
    transposed: bool,
    dtype: DType,
    storage: str,
) -> Resource:
    """Return a weight [B, N, K], or [B, K, N] where not ``transposed``, packed.

    ``shape`` is [B, N, K] either way.
    """
    _, n, k = shape
    packed = _make_resource(context, shape, dtype, storage)
    variant = shaders.variant(
        "pack_fp_linear_weight",
        source=axis_name(weight.dtype.newbyteorder("=")),
        dtype=axis_name(dtype),
        weight="texture2d" if isinstance(packed, Image) else "buffer",
    )

    def submit(chunk: Chunk, buffer: Buffer) -> int:
        n_part, k_part = (chunk.middle, chunk.inner) if transposed else (chunk.inner, chunk.middle)
        count, n_count, k_count = chunk.shape[0], _length(n_part), _length(k_part)
        plan = context.plan(
            variant,
            (4 * ceil_div(n_count, 4), ceil_div(k_count, 4), count),
            {
                "batches": count,
                "n_count": n_count,
                "k_count": k_count,
                "pitch": chunk.pitch,
                "b_first": chunk.outer.start,
                "n4_first": n_part.start // 4,
                "k4_first": k_part.start // 4,
                "N4": ceil_div(n, 4),
                "K4": ceil_div(k, 4),
                "transposed": transposed,
            },
        )
        resources: dict[str, Resource] = {"staging": buffer, "packed_weight": packed}
        return context.submit(Dispatch(plan, resources), awaited=True)

    upload_chunks(context, weight, submit)
    return packed


def unpack(context: Context, packed: Resource, shape: tuple[int, int, int], dtype: DType) -> Array:
    """Return the packed vec4s of a weight [B, N, K] as [B, K4, N4, 4, 4]."""
    batches, n, k = shape
    width, height = packed_extent(batches, n, k)

    def copy(command_buffer: object, chunk: Chunk, to: Buffer) -> None:
        rows, elements = chunk.outer, chunk.inner
        if isinstance(packed, Buffer):
            offset, size = (dtype.itemsize * x for x in (elements.start, _length(elements)))
            region = vk.VkBufferCopy(srcOffset=offset, size=size)
            vk.vkCmdCopyBuffer(command_buffer, packed.handle, to.handle, 1, [region])
            return
        layers = vk.VkImageSubresourceLayers(aspectMask=vk.VK_IMAGE_ASPECT_COLOR_BIT, layerCount=1)
        region = vk.VkBufferImageCopy(
            imageSubresource=layers,
            imageOffset=vk.VkOffset3D(x=elements.start // 4, y=rows.start),
            imageExtent=vk.VkExtent3D(width=_length(elements) // 4, height=_length(rows), depth=1),
        )
        layout = vk.VK_IMAGE_LAYOUT_GENERAL
        vk.vkCmdCopyImageToBuffer(command_buffer, packed.handle, layout, to.handle, 1, [region])

    def submit(chunk: Chunk, buffer: Buffer) -> int:
        return context.queue.run_once(lambda cb: copy(cb, chunk, buffer))

    # A texture comes in rows of texels, a buffer in one.
    rows = (height, 1, 4 * width) if isinstance(packed, Image) else (1, 1, height * width * 4)
    array = np.empty(rows, dtype)
    download_chunks(context, array, submit)
    return array.reshape(batches, ceil_div(k, 4), ceil_div(n, 4), 4, 4)


def unpack_rows(context: Context, packed: Resource, shape: tuple[int, int, int]) -> Buffer:
    """Return a packed float16 weight [1, N, K] as rows, padded with zeros to whole blocks."""
    _, n, k = shape
    rows_n, pitch = weight_rows_extent(n, k)
    storage = "texture2d" if isinstance(packed, Image) else "buffer"
    plan = context.plan(
        shaders.variant("unpack_fp_linear_weight", weight=storage),
        (pitch // 2, rows_n, 1),
        {
            "rows": rows_n,
            "N": n,
            "K": k,
            "N4": ceil_div(n, 4),
            "K4": ceil_div(k, 4),
            "pitch": pitch,
        },
    )
    rows = Buffer(context, weight_rows_bytes(n, k), DEVICE)
    context.submit(Dispatch(plan, {"weight_rows": rows, "packed_weight": packed}))
    return rows


def packed_storage(
    context: Context, shape: tuple[int, int, int], dtype: DType, storage: str
) -> str:
    """Return how a weight [B, N, K] is stored: "texture2d" or "buffer".

    Raises
    ------
    UnsupportedError
        It fits neither storage, or not the one asked for.
    """
    width, height = packed_extent(*shape)
    size = width * height * 4 * dtype.itemsize
    too_large = []
    if storage in ("auto", "texture2d"):
        limit = image_limit(context, VK_FORMATS[dtype], 2)
        most = context.limits["maxImageDimension2D"]
        if limit is not None:
            columns, rows, _ = limit.extent
            if width <= min(columns, most) and height <= min(rows, most) and size <= limit.size:
                return "texture2d"
        too_large.append(f"a texture2d of {width} × {height} texels (maxImageDimension2D = {most})")
    if storage in ("auto", "buffer"):
        most = context.limits["maxStorageBufferRange"]
        if size <= most:
            return "buffer"
        too_large.append(f"a buffer of {size:,} bytes (maxStorageBufferRange = {most:,})")
    batches, n, k = shape
    raise UnsupportedError(
        f"weight of B = {batches}, N = {n}, K = {k} is too large for {context.info.name}: it packs "
        f"into {' or '.join(too_large)}; split its channels over several layers"
    )


def _make_resource(
    context: Context, shape: tuple[int, int, int], dtype: DType, storage: str
) -> Resource:
    context.require_open()
    width, height = packed_extent(*shape)
    if packed_storage(context, shape, dtype, storage) == "texture2d":
        return Image(context, (width, height, 0), VK_FORMATS[dtype])
    return Buffer(context, width * height * 4 * dtype.itemsize, DEVICE)


def _length(part: slice) -> int:
    return int(part.stop - part.start)
