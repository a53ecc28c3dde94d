"""Weights: the packer, packed weights, and a weight with the bias that belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pwconv import shaders
from pwconv.context import Context
from pwconv.dtypes import FLOAT32, Array, DType, as_dtype, as_float_array, axis_name, convert
from pwconv.errors import UnsupportedError
from pwconv.layout import (
    Chunk,
    bias_length,
    ceil_div,
    packed_extent,
    weight_rows_bytes,
    weight_rows_extent,
)
from pwconv.shaders import Variant
from pwconv.staging import download_chunks, upload_buffer, upload_chunks
from pwconv.tensor import VK_FORMATS
from pwconv.vk import api as vk
from pwconv.vk.commands import Dispatch
from pwconv.vk.resources import DEVICE, PARAMETER, Buffer, Image, Resource, image_limit

_STORAGES = ("auto", "texture2d", "buffer")

WeightShape = tuple[int, int, int]
"""[B, N, K]: batches, output channels, input channels."""


class PackedWeight:
    """A packed weight; made by :func:`pwconv.pack_linear_weight`.

    It does not change, so that a copy is the same one. Pickled, it is packed again where it is
    loaded, on the device of that name.

    Attributes
    ----------
    shape : tuple of int
        [B, N, K]: batches, output channels, input channels.
    dtype : numpy.dtype
        float32 or float16.
    storage : str
        "texture2d" or "buffer".
    device : pwconv.Device
    """

    __slots__ = ("__weakref__", "_context", "_device", "_dtype", "_resource", "_rows", "_shape")

    def __init__(
        self,
        context: Context,
        shape: WeightShape,
        dtype: DType,
        resource: Resource,
        device: Any = None,
    ) -> None:
        self._context = context
        self._device = device
        self._shape = shape
        self._dtype = dtype
        self._resource = resource
        self._rows: Buffer | None = None

    @property
    def shape(self) -> WeightShape:
        """[B, N, K]: batches, output channels, input channels."""
        return self._shape

    @property
    def dtype(self) -> DType:
        """float32 or float16."""
        return self._dtype

    @property
    def device(self) -> Any:
        """The :class:`pwconv.Device` that it is on."""
        return self._device

    def belong_to(self, device: Any) -> None:
        """Say whose it is: a context does not know the device that has it open."""
        self._device = device

    @property
    def storage(self) -> str:
        """Storage on the device: "texture2d" or "buffer"."""
        return "texture2d" if isinstance(self._resource, Image) else "buffer"

    @property
    def resource(self) -> Resource:
        """The image or buffer.

        Raises
        ------
        ClosedError
        """
        self._context.require_open()
        return self._resource

    def rows(self) -> Buffer:
        """Return the weight as [N, pitch] of float16, unpacked once: for tensor layouts.

        Raises
        ------
        ClosedError, OutOfMemoryError
        """
        if self._rows is None:
            rows = unpack_rows(self._context, self.resource, self._shape)
            with self._context.lock:  # of several threads the first one's are kept
                self._rows = self._rows or rows
        return self._rows

    @property
    def size(self) -> int:
        """Bytes on the device, of its rows too where they were needed."""
        return self._resource.size + (self._rows.size if self._rows else 0)

    def numpy(self) -> Array:
        """Return the packed vec4s.

        Returns
        -------
        numpy.ndarray
            [B, K4, N4, 4, 4]: element [b, k4, n4, dk, j] is weight[b, 4·n4 + j, 4·k4 + dk], or zero
            past N and K; the same for both storages.

        Raises
        ------
        ClosedError
            The device was closed.
        """
        self._context.enter()
        return unpack(self._context, self._resource, self._shape, self._dtype)

    def matrices(self) -> Array:
        """Return the weight as it was before it was packed, [B, N, K]."""
        batches, n, k = self._shape
        blocks = self.numpy().transpose(0, 2, 4, 1, 3)
        array = blocks.reshape(batches, blocks.shape[1] * 4, -1)[:, :n, :k]
        return np.ascontiguousarray(array)

    def __copy__(self) -> PackedWeight:
        return self

    def __deepcopy__(self, _memo: object) -> PackedWeight:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        again: tuple[object, ...] = self._device._pack_again(self.matrices(), self.storage)
        return again

    def __repr__(self) -> str:
        return (
            f"pwconv.PackedWeight(shape={self.shape}, dtype={self.dtype}, "
            f"storage={self.storage!r}, device={self._context.info.name!r})"
        )


def pack(device: Any, weight: Any, *, transposed: bool, dtype: Any, storage: str) -> PackedWeight:
    """Pack a weight on a device; the arguments are those of :func:`pwconv.pack_linear_weight`."""
    if not isinstance(storage, str) or storage not in _STORAGES:
        raise ValueError(f"storage is {storage!r}; it must be one of {', '.join(_STORAGES)}")
    array = as_float_array(weight, "weight")
    transposed = bool(transposed)
    if array.ndim not in (2, 3) or 0 in array.shape:
        order = "N, K" if transposed else "K, N"
        raise ValueError(
            f"weight has shape {array.shape}; it must be [{order}] or [B, {order}], with no axis "
            "of length 0"
        )
    target = array.dtype.newbyteorder("=") if dtype is None else as_dtype(dtype)
    batched = array if array.ndim == 3 else array[None]
    batches, rows, columns = batched.shape
    shape = (batches, rows, columns) if transposed else (batches, columns, rows)
    packed = pack_weight(device._context, batched, shape, transposed, target, storage)
    return PackedWeight(device._context, shape, target, packed, device)


class Norm(NamedTuple):
    """What is done to sums with their bias: times ``scale``, plus ``shift``, both [N]."""

    scale: Array
    shift: Array

    def rounded(self) -> Norm:
        """Return it as the device has it: in float32."""
        return Norm(self.scale.astype(FLOAT32), self.shift.astype(FLOAT32))


class Parameters:
    """A weight and its bias: on the host at first, and packed once on a device.

    Parameters
    ----------
    weight : numpy.ndarray or PackedWeight
        [B, N, K].
    bias : numpy.ndarray or None
        [N] of float32; zeros where there is none.
    norm : Norm, optional
        What comes after the bias.
    buffer : Buffer, optional
        The bias and the norm on the device.
    """

    __slots__ = ("bias", "buffer", "norm", "weight")

    def __init__(
        self,
        weight: Array | PackedWeight,
        bias: Array | None,
        norm: Norm | None = None,
        buffer: Buffer | None = None,
    ) -> None:
        self.weight = weight
        self.bias = bias
        self.norm = norm
        self.buffer = buffer

    @property
    def shape(self) -> tuple[int, ...]:
        """[B, N, K]."""
        return self.weight.shape

    @property
    def packed(self) -> PackedWeight:
        """The weight on the device."""
        assert isinstance(self.weight, PackedWeight)
        return self.weight

    @property
    def nbytes(self) -> int:
        """Bytes on the device, of the weight's rows too where they were needed."""
        return self.packed.size + self.buffer.size if self.buffer else 0

    def storage_on(self, context: Context, dtype: DType, prefer: Callable[[], str]) -> str:
        """Return the storage that the weight has, or would be given if ``prefer()`` is wanted.

        Raises
        ------
        UnsupportedError
            It fits neither storage, or not the one asked for.
        """
        if isinstance(self.weight, PackedWeight):
            return self.weight.storage
        b, n, k = self.weight.shape
        return packed_storage(context, (b, n, k), dtype, prefer())

    @property
    def on_device(self) -> bool:
        """True once they are packed."""
        return isinstance(self.weight, PackedWeight)

    def scaled(self, norms: Parameters, dtype: DType) -> Parameters:
        """Return them on the host, each channel's outputs times and plus a number.

        In float32 the numbers stay as they are: products with them, rounded, would be off by the
        same at every position, which means over an image do not reduce (PP-OCRv4_det: 1.6 to 22
        times the error of the whole network). In float16 weights are multiplied, in float64: matrix
        units take no norm.

        Parameters
        ----------
        norms : Parameters
            Weight and bias, an element of each for each output channel.
        dtype : numpy.dtype
            Of the weights on the device.
        """
        factors, shift = norms.matrices().reshape(-1), 0.0 if norms.bias is None else norms.bias
        if dtype == FLOAT32:
            before = self.norm or Norm(np.ones(1), np.zeros(1))
            norm = Norm(before.scale * factors, before.shift * factors + shift)
            return type(self)(self.weight, self.bias, norm)
        weight = self.matrices().astype(np.float64)
        # Output channels are the last axis but one of [B, N, K], and the first of kernels.
        axis = weight.ndim - 2 if weight.ndim == 3 else 0
        shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
        bias = factors * (0.0 if self.bias is None else self.bias) + shift
        return type(self)(weight * factors.reshape(shape), bias)

    def fits(self, dtype: DType) -> bool:
        """Return whether weights on the host are numbers of a type, bias and norm of float32."""
        others = (each for each in (self.bias, *(self.norm or ())) if each is not None)
        return bool(
            np.abs(self.matrices()).max() <= np.finfo(dtype).max
            and all(np.abs(each).max() <= np.finfo(FLOAT32).max for each in others)
        )

    def copied(self) -> Parameters:
        """Return them with arrays of their own, which the caller does not change."""
        weight = self.weight
        copy = weight.copy() if isinstance(weight, np.ndarray) else weight
        return type(self)(copy, self.bias, self.norm)

    def pack(self, context: Context, dtype: DType, storage: str) -> Parameters:
        """Return them on a device, the weight narrowed where the type is narrower.

        Raises
        ------
        UnsupportedError, OutOfMemoryError, ClosedError
        """
        weight = self.weight
        if not isinstance(weight, PackedWeight):
            b, n, k = weight.shape
            if weight.dtype == np.float64:  # rounded once
                weight = convert(weight, dtype)
            resource = pack_weight(context, weight, (b, n, k), True, dtype, storage)
            weight = PackedWeight(context, (b, n, k), dtype, resource)
        of_channels = self._upload_channels(context, weight.shape[1])
        norm = self.norm and self.norm.rounded()
        return Parameters(weight, self.bias, norm, of_channels)

    def _upload_channels(self, context: Context, n: int) -> Buffer:
        """Return a buffer of the bias, the scale and the shift of so many channels."""
        values = np.zeros(bias_length(n), FLOAT32)
        rows = values[: 3 * 4 * ceil_div(n, 4)].reshape(3, -1)
        rows[1] = 1.0
        for row, given in zip(rows, (self.bias, *(self.norm or (None, None))), strict=True):
            if given is not None:
                row[:n] = given
        return upload_parameter(context, values)

    def matrices(self) -> Array:
        """Return the weight [B, N, K] as the device has it, or will."""
        return self.weight.matrices() if isinstance(self.weight, PackedWeight) else self.weight

    def bindings(self, variant: Variant, which: str = "") -> dict[str, Resource]:
        """Return the weight and the bias by the names of a variant's bindings; none on the host.

        ``which`` of a pair's products it is, "first" or "second".
        """
        if self.buffer is None:
            return {}
        bias, rows, packed = (
            (f"{which}_bias", f"{which}_rows", f"{which}_packed")
            if which
            else ("bias", "weight_rows", "packed_weight")
        )
        if rows in variant.binding_names:
            return {rows: self.packed.rows(), bias: self.buffer}
        return {packed: self.packed.resource, bias: self.buffer}


def check_packed(weight: Any, dtype: Any) -> None:
    """Raise for a packed weight of another type than is asked for.

    Raises
    ------
    ValueError
    """
    if isinstance(weight, PackedWeight) and dtype is not None and as_dtype(dtype) != weight.dtype:
        raise ValueError(
            f"dtype is {dtype!r} and weight is packed as {weight.dtype}; pack it with "
            f"pack_linear_weight(…, dtype={dtype!r})"
        )


def check_bias(bias: Any, channels: int, axis: str) -> Array | None:
    """Return a bias of so many channels, in float32; ``axis`` names its axis in errors.

    Raises
    ------
    TypeError, ValueError
        Another element type, or another shape.
    """
    if bias is None:
        return None
    array = as_float_array(bias, "bias")
    if array.shape != (channels,):
        raise ValueError(
            f"bias has shape {array.shape}; it must be [{axis}] = ({channels},), as weight"
        )
    return array.astype(FLOAT32)


def check_parameter(context: Context, size: int) -> None:
    """Raise for a parameter of more bytes than a shader reads of a buffer.

    Raises
    ------
    UnsupportedError
    """
    most = context.limits["maxStorageBufferRange"]
    if size > most:
        raise UnsupportedError(
            f"a weight or bias takes a buffer of {size:,} bytes, past maxStorageBufferRange = "
            f"{most:,} of {context.info.name}; split its channels over several layers"
        )


def upload_parameter(context: Context, array: Array) -> Buffer:
    """Return a buffer that holds a contiguous array.

    Raises
    ------
    UnsupportedError, OutOfMemoryError, ClosedError
    """
    check_parameter(context, array.nbytes)
    buffer = Buffer(context, array.nbytes, PARAMETER)
    if buffer.mapped is None:
        upload_buffer(context, array, buffer)
    else:  # what is submitted from now on sees it
        np.frombuffer(buffer.mapped, array.dtype, array.size)[:] = array.reshape(-1)
    return buffer


def pack_weight(
    context: Context,
    weight: Array,
    shape: WeightShape,
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


def unpack(context: Context, packed: Resource, shape: WeightShape, dtype: DType) -> Array:
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


def unpack_rows(context: Context, packed: Resource, shape: WeightShape) -> Buffer:
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


def packed_storage(context: Context, shape: WeightShape, dtype: DType, storage: str) -> str:
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


def _make_resource(context: Context, shape: WeightShape, dtype: DType, storage: str) -> Resource:
    context.require_open()
    width, height = packed_extent(*shape)
    if packed_storage(context, shape, dtype, storage) == "texture2d":
        return Image(context, (width, height, 0), VK_FORMATS[dtype])
    return Buffer(context, width * height * 4 * dtype.itemsize, DEVICE)


def _length(part: slice) -> int:
    return int(part.stop - part.start)
