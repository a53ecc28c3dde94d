"""Tensor: shape, element type and storage over an image on a device."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pwconv import transfer
from pwconv.context import Context
from pwconv.dtypes import FLOAT16, FLOAT32, Array, DType, as_dtype, as_float_array
from pwconv.errors import UnsupportedError
from pwconv.layout import Shape4, buffer_bytes, texture3d_extent
from pwconv.vk.resources import Buffer, Image, Resource, image_limit

if TYPE_CHECKING:
    import numpy.typing as npt

Shape = tuple[int, ...]

# Most stride or padding along H or W: coordinates in the shader stay far from 2**31.
_MOST_ALONG = 2**20
_MOST_AXES = 64  # of an array in numpy

VK_FORMATS = {FLOAT32: 109, FLOAT16: 97}  # R32G32B32A32_SFLOAT, R16G16B16A16_SFLOAT


class Tensor:
    """An array on a device; made by :meth:`pwconv.Device.tensor` and :meth:`pwconv.Device.empty`.

    ``numpy.asarray(tensor)`` and :meth:`numpy` bring it back.

    Attributes
    ----------
    shape : tuple of int
        [N, C, H, W] or [C, H, W] of a convolution, [..., K] of a linear layer.
    dtype : numpy.dtype
        float32 or float16.
    storage : str
        "texture3d": a 3D image whose texel (x, y, n·ceil(C/4) + c4) holds channels 4·c4 … 4·c4 + 3,
        the lanes past C zero. "buffer": N·C rows of H·W elements, each row padded to a whole number
        of 16-byte vectors. Other shapes are stored as [N, C, H, W] too: the axes before the last
        three are N, [C, W] has H = 1, and [W] has C = H = 1. So in a texture [1, T, K] takes one
        lane of four, and [T, K] all.
    device : pwconv.Device
    nbytes : int
        Bytes of the elements, as in numpy; the device may hold more.
    """

    __slots__ = (
        "__weakref__",
        "_device",
        "_dtype",
        "_release",
        "_resource",
        "_shape",
        "_storage",
        "_uid",
    )

    def __init__(self, device: Any, shape: Shape, dtype: DType, storage: str) -> None:
        self._device = device
        self._release = device._context.resources.release
        self._shape = shape
        self._dtype = dtype
        self._storage = storage
        self._resource: Resource | None = None

    # A tensor a call: weakref.finalize, which also runs at exit, takes four times as long.
    def __del__(self) -> None:
        resource = getattr(self, "_resource", None)
        if resource is not None:
            self._release(resource)

    def _hold(self, resource: Resource | None) -> None:
        """Have a resource of its shape, type and storage, and give it back at the end."""
        self._resource = resource
        if resource is not None:
            self._uid = resource.uid  # key of the recordings over the tensor

    def __reduce__(self) -> str:
        raise TypeError("a tensor cannot be copied or pickled; copy or pickle tensor.numpy()")

    @property
    def shape(self) -> Shape:
        """The array's shape."""
        return self._shape

    @property
    def dtype(self) -> DType:
        """float32 or float16."""
        return self._dtype

    @property
    def storage(self) -> str:
        """Storage on the device: "texture3d" or "buffer"."""
        return self._storage

    @property
    def device(self) -> Any:
        """The :class:`pwconv.Device` that it is on."""
        return self._device

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def resource(self) -> Resource:
        """The image or buffer; a tensor of no elements has none.

        Raises
        ------
        ClosedError
        """
        self._device._context.require_open()
        assert self._resource is not None
        return self._resource

    def numpy(self) -> Array:
        """Return the contents, once everything submitted before is done.

        Returns
        -------
        numpy.ndarray
            A new array of this shape and dtype.

        Raises
        ------
        ClosedError
            The device was closed.
        """
        context = self._device._context
        context.enter()
        full_shape = shape4(self._shape, "tensor")
        if 0 in full_shape:
            return np.empty(self._shape, self._dtype)
        array = transfer.download(context, self.resource, full_shape, self._dtype)
        return array.reshape(self._shape)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a tensor on a device cannot become an array without a copy")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return (
            f"pwconv.Tensor(shape={self.shape}, dtype={self.dtype}, storage={self.storage!r}, "
            f"device={self.device.info.name!r})"
        )


def empty(device: Any, shape: Shape, dtype: DType, storage: str) -> Tensor:
    """Return a tensor that is known to fit its storage, its contents undefined.

    Raises
    ------
    ClosedError, OutOfMemoryError
    """
    tensor = Tensor(device, shape, dtype, storage)
    # Made before, so that it returns the resource wherever an exception comes.
    tensor._hold(acquire_resource(device._context, shape, dtype, storage, "shape"))
    return tensor


def empty_again(device: Any, kind: tuple[Shape, DType, str]) -> Tensor:
    """Return a tensor over a resource that came back to the pool; without one it holds none.

    For calls that were made before: nothing is checked, and inside another call nothing is taken.
    """
    tensor = Tensor(device, *kind)
    context = device._context
    if not context.lock._is_owned():
        with context.lock:
            resource = context.resources.take(kind)
            if resource is not None:
                tensor._resource = resource
                tensor._uid = resource.uid
    return tensor


def from_array(device: Any, array: Any, dtype: Any, storage: str) -> Tensor:
    """Copy an array to a device, as :meth:`pwconv.Device.tensor` says."""
    check_storage(storage)
    source = as_float_array(array, "array")
    target = source.dtype.newbyteorder("=") if dtype is None else as_dtype(dtype)
    context = device._context
    order = storage_order(context, storage)
    return uploaded(
        device, source, target, choose_storage(context, {"array": source.shape}, target, order)
    )


def uploaded(device: Any, array: Array, dtype: DType, storage: str) -> Tensor:
    """Return a new tensor of what an array of floats or bytes has."""
    tensor = empty(device, array.shape, dtype, storage)
    full_shape = shape4(array.shape, "array")
    if 0 not in full_shape:
        transfer.upload(device._context, array.reshape(full_shape), tensor.resource, dtype)
    return tensor


def as_buffer(tensor: Tensor) -> Tensor:
    """Return a copy of a texture3d tensor that is a buffer.

    Raises
    ------
    UnsupportedError, OutOfMemoryError, ClosedError
    """
    context, shape, dtype = tensor.device._context, tensor.shape, tensor.dtype
    choose_storage(context, {"x": shape}, dtype, ("buffer",))
    copy = empty(tensor.device, shape, dtype, "buffer")
    full_shape = shape4(shape, "tensor")
    if 0 not in full_shape:
        transfer.texture3d_to_buffer(context, tensor.resource, copy.resource, full_shape, dtype)
    return copy


def as_pair(value: Any, argument: str, *, least: int) -> tuple[int, int]:
    """Return a user's pair along H and W: an int for both, or two ints.

    Raises
    ------
    ValueError
        Anything else, or a number below ``least`` or past 2**20.
    """
    try:
        iterable = isinstance(value, Iterable)
        parts = tuple(itertools.islice(value, 3)) if iterable else (value, value)
        height, width = map(operator.index, parts)
        if least <= height <= _MOST_ALONG and least <= width <= _MOST_ALONG:
            return height, width
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"{argument} is {value!r}; it must be an int from {least} to {_MOST_ALONG}, or two of "
        "them, along H and W"
    )


def shape4(shape: Shape, argument: str) -> Shape4:
    """Return [N, C, H, W] for the shape of a tensor, as :class:`Tensor` says.

    Raises
    ------
    ValueError
        No axes, or one of length 0 that is not the first.
    """
    if not shape:
        raise ValueError(f"{argument} has shape (); it must have at least one axis: use reshape")
    if min(shape[1:], default=1) < 1 or shape[0] < 0:
        raise ValueError(f"{argument} has shape {shape}; only the first axis may be 0")
    *leading, w = shape
    h = leading.pop() if len(leading) > 1 else 1
    c = leading.pop() if leading else 1
    return math.prod(leading), c, h, w


def check_storage(storage: str) -> None:
    """Raise for a storage that does not exist.

    Raises
    ------
    ValueError
    """
    # An array would be compared element by element.
    if not isinstance(storage, str) or storage not in ("auto", "texture3d", "buffer"):
        raise ValueError(f"storage is {storage!r}; it must be 'auto', 'texture3d' or 'buffer'")


def choose_storage(
    context: Context,
    shapes: Mapping[str, Shape],
    dtype: DType,
    storages: tuple[str, ...],
) -> str:
    """Return the first storage that all of a call's tensors fit.

    Parameters
    ----------
    shapes : Mapping
        By what an error should call each.
    storages : tuple of str
        Best first.

    Raises
    ------
    ClosedError
    UnsupportedError
        The device cannot store the type, or a tensor is past its limits.
    """
    context.require_open()
    full_shapes = {name: shape4(shape, name) for name, shape in shapes.items()}
    problems = []
    for candidate in storages:
        for name, shape in full_shapes.items():
            lack = _unmet(context, shape, dtype, candidate)
            if lack:
                problems.append(f"{name} has shape {shapes[name]}: {lack}")
                break
        else:
            return candidate
    raise UnsupportedError("; and ".join(problems))


def acquire_resource(
    context: Context, shape: Shape, dtype: DType, storage: str, argument: str
) -> Resource | None:
    """Return a resource for a tensor that fits its storage, its contents undefined.

    There is none for a tensor of no elements.

    Raises
    ------
    ClosedError
    OutOfMemoryError
    """
    context.require_open()
    full_shape = shape4(shape, argument)
    if 0 in full_shape:
        return None

    def make() -> Resource:
        if storage == "texture3d":
            return Image(context, texture3d_extent(full_shape), VK_FORMATS[dtype], pooled=True)
        return Buffer(context, buffer_bytes(full_shape, dtype.itemsize), pooled=True)

    return context.resources.acquire((shape, dtype, storage), make)


# Storages that "auto" tries, in order. Measured over the EdgeTAM layers (2026-11-22): on an NVIDIA
# H100 buffers take 0.6 of the time of textures, on lavapipe textures 0.4 of that of buffers. Other
# devices are not measured.
_AUTO = {"discrete": ("buffer", "texture3d")}
_AUTO_ELSEWHERE = ("texture3d", "buffer")


def storage_order(context: Context, storage: str) -> tuple[str, ...]:
    """Return the storages to try, best first; ``storage`` itself unless it is "auto"."""
    return _AUTO.get(context.info.type, _AUTO_ELSEWHERE) if storage == "auto" else (storage,)


def _unmet(context: Context, shape: Shape4, dtype: DType, storage: str) -> str | None:
    """Return the reason why a tensor cannot have a storage, and the remedy, or None."""
    name, limits = context.info.name, context.info.limits
    if storage == "buffer":
        size, most = buffer_bytes(shape, dtype.itemsize), limits["maxStorageBufferRange"]
        if size <= most:
            return None
        return (
            f"its buffer of {size:,} bytes is past maxStorageBufferRange = {most:,} of {name}; use "
            "a smaller batch, or cut it into rows"
        )
    largest = image_limit(context, VK_FORMATS[dtype], 3)
    if largest is None:
        return (
            f"{name} cannot store {dtype} in textures: it has no 3D storage images of format "
            f"{'rgba32f' if dtype == FLOAT32 else 'rgba16f'}; use storage='buffer'"
        )
    names = ("width W", "height H", "depth N·ceil(C/4)")
    ways = ("cut it into columns", "cut it into rows", "use a smaller batch")
    extent = texture3d_extent(shape)
    for axis, way, size, limit in zip(names, ways, extent, largest.extent, strict=True):
        most = min(limit, limits["maxImageDimension3D"])
        if size > most:
            return (
                f"its texture's {axis} = {size} is past maxImageDimension3D = {most} of {name}; "
                f"{way}, or use storage='buffer'"
            )
    # Drivers are meant to refuse such an image, and not all do.
    size = math.prod(extent) * 4 * dtype.itemsize
    if size > largest.size:
        return (
            f"its texture of {size:,} bytes is past maxResourceSize = {largest.size:,} of {name}; "
            "use a smaller batch, or cut it into rows"
        )
    return None


def as_shape(shape: Any) -> Shape:
    """Return a shape as a tuple of ints.

    Raises
    ------
    TypeError
        Something that is not an integer.
    ValueError
        More axes than an array may have.
    """
    try:
        axes = tuple(operator.index(length) for length in itertools.islice(shape, _MOST_AXES + 1))
    except TypeError:
        raise TypeError(f"shape is {shape!r}; it must be a tuple of ints") from None
    if len(axes) > _MOST_AXES:
        raise ValueError(f"shape has more than {_MOST_AXES} axes; use reshape")
    return axes
