"""Weights on a device: packed in 4OC×4IC blocks, and with the bias that belongs to them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pwconv.dtypes import FLOAT32, Array, DType, as_dtype, as_float_array
from pwconv.errors import UnsupportedError
from pwconv.kernels import pack_linear_weight
from pwconv.layout import bias_length
from pwconv.shaders import Variant
from pwconv.staging import upload_buffer
from pwconv.vk.resources import DEVICE, Buffer, Image, Resource

_STORAGES = ("auto", "texture2d", "buffer")


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

    __slots__ = ("__weakref__", "_device", "_dtype", "_resource", "_rows", "_shape")

    def __init__(
        self,
        device: Any,
        shape: tuple[int, int, int],
        dtype: DType,
        resource: Resource,
    ) -> None:
        self._device = device
        self._shape = shape
        self._dtype = dtype
        self._resource = resource
        self._rows: Buffer | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
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
        self._device._context.require_open()
        return self._resource

    def rows(self) -> Buffer:
        """Return the weight as [N, pitch] of float16, unpacked once: for tensor layouts.

        Raises
        ------
        ClosedError, OutOfMemoryError
        """
        if self._rows is None:
            context = self._device._context
            rows = pack_linear_weight.unpack_rows(context, self.resource, self._shape)
            with context.lock:  # of several threads the first one's are kept
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
        self._device._context.enter()
        return pack_linear_weight.unpack(
            self._device._context, self._resource, self._shape, self._dtype
        )

    def __copy__(self) -> PackedWeight:
        return self

    def __deepcopy__(self, _memo: object) -> PackedWeight:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        batches, n, k = self._shape
        blocks = self.numpy().transpose(0, 2, 4, 1, 3)
        array = blocks.reshape(batches, blocks.shape[1] * 4, -1)[:, :n, :k]
        array = np.ascontiguousarray(array)
        again: tuple[object, ...] = self._device._pack_again(array, self.storage)
        return again

    def __repr__(self) -> str:
        return (
            f"pwconv.PackedWeight(shape={self.shape}, dtype={self.dtype}, "
            f"storage={self.storage!r}, device={self.device.info.name!r})"
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
    packed = pack_linear_weight.pack_weight(
        device._context, batched, shape, transposed, target, storage
    )
    return PackedWeight(device, shape, target, packed)


class Parameters:
    """A packed weight and its bias: the constant bindings of a matrix product.

    Parameters
    ----------
    weight : PackedWeight
    bias : numpy.ndarray or None
        [N] of float32; zeros where there is none.

    Attributes
    ----------
    weight : PackedWeight
    bias : Buffer
    """

    __slots__ = ("bias", "weight")

    def __init__(self, weight: PackedWeight, bias: Array | None) -> None:
        self.weight = weight
        n = weight.shape[1]
        values = np.zeros(bias_length(n), FLOAT32)
        values[:n] = 0.0 if bias is None else bias
        self.bias = upload_parameter(weight.device, values)

    @property
    def nbytes(self) -> int:
        """Bytes on the device, of the weight's rows too where they were needed."""
        return self.weight.size + self.bias.size

    def bindings(self, variant: Variant, which: str = "") -> dict[str, Resource]:
        """Return the weight and the bias by the names of a variant's bindings.

        ``which`` of a pair's products it is, "first" or "second".
        """
        bias, rows, packed = (
            (f"{which}_bias", f"{which}_rows", f"{which}_packed")
            if which
            else ("bias", "weight_rows", "packed_weight")
        )
        if rows in variant.binding_names:
            return {rows: self.weight.rows(), bias: self.bias}
        return {packed: self.weight.resource, bias: self.bias}


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


def check_parameter(device: Any, size: int) -> None:
    """Raise for a parameter of more bytes than a shader reads of a buffer.

    Raises
    ------
    UnsupportedError
    """
    most = device.info.limits["maxStorageBufferRange"]
    if size > most:
        raise UnsupportedError(
            f"a weight or bias takes a buffer of {size:,} bytes, past maxStorageBufferRange = "
            f"{most:,} of {device.info.name}; split its channels over several layers"
        )


def upload_parameter(device: Any, array: Array) -> Buffer:
    """Return a buffer that holds a contiguous array.

    Raises
    ------
    UnsupportedError, OutOfMemoryError, ClosedError
    """
    check_parameter(device, array.nbytes)
    buffer = Buffer(device._context, array.nbytes, DEVICE)
    upload_buffer(device._context, array, buffer)
    return buffer
