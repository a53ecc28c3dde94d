"""Tensor: shape, element type and storage over an image on a device."""

from __future__ import annotations

import math
import operator
import weakref
from typing import TYPE_CHECKING, Any

from pwconv.dtypes import FLOAT16, FLOAT32, Array, DType
from pwconv.errors import UnsupportedError
from pwconv.layout import Shape4, texture3d_extent
from pwconv.vk.logical_device import LogicalDevice
from pwconv.vk.resources import Image, image_extent_limit

if TYPE_CHECKING:
    from pwconv.device import Device

Shape = tuple[int, ...]

VK_FORMATS = {FLOAT32: 109, FLOAT16: 97}  # R32G32B32A32_SFLOAT, R16G16B16A16_SFLOAT


class Tensor:
    """An array on a device; made by :meth:`pwconv.Device.tensor` and :meth:`pwconv.Device.empty`.

    ``numpy.asarray(tensor)`` and :meth:`numpy` bring it back.

    Attributes
    ----------
    shape : tuple of int
        [N, C, H, W] or [C, H, W].
    dtype : numpy.dtype
        float32 or float16.
    storage : str
        "texture3d": a 3D image whose texel (x, y, n·ceil(C/4) + c4) holds channels 4·c4 … 4·c4 + 3,
        the lanes past C zero.
    device : pwconv.Device
    nbytes : int
        Bytes of the elements, as in numpy; the image also holds the lanes past C.
    """

    __slots__ = ("__weakref__", "_image", "device", "dtype", "shape")

    storage = "texture3d"

    def __init__(self, device: Device, shape: Shape, dtype: DType, image: Image | None) -> None:
        self.device = device
        self.shape = shape
        self.dtype = dtype
        self._image = image
        if image is not None:
            weakref.finalize(self, device._logical.images.release, image)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def image(self) -> Image:
        """The image; a tensor of no elements has none.

        Raises
        ------
        ClosedError
        """
        self.device._logical.require_open()
        assert self._image is not None
        return self._image

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
        return self.device._download(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
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


def shape4(shape: Shape, argument: str) -> Shape4:
    """Return [N, C, H, W] for the shape of a tensor.

    Raises
    ------
    ValueError
        Neither three nor four axes, or one of length 0 that is not the batch.
    """
    if len(shape) not in (3, 4):
        raise ValueError(
            f"{argument} has shape {shape}; it must be [N, C, H, W] or [C, H, W]: use reshape"
        )
    n, c, h, w = shape if len(shape) == 4 else (1, *shape)
    if min(c, h, w) < 1 or n < 0:
        raise ValueError(f"{argument} has shape {shape}; only the batch may be 0")
    return n, c, h, w


def acquire_image(device: LogicalDevice, shape: Shape, dtype: DType, argument: str) -> Image | None:
    """Return an image for a tensor, its contents undefined; None for one of no elements.

    Raises
    ------
    ClosedError
    OutOfMemoryError
    UnsupportedError
        The device cannot store the type, or the tensor is past its largest 3D image.
    """
    device.require_open()
    full_shape = shape4(shape, argument)
    if not full_shape[0]:
        return None
    image_format = VK_FORMATS[dtype]
    most = image_extent_limit(device.physical, image_format, 3)
    if most is None:
        raise UnsupportedError(
            f"{device.info.name} cannot store {dtype} tensors: it has no 3D storage images of "
            f"format {'rgba32f' if dtype == FLOAT32 else 'rgba16f'}; use "
            f"{'float16' if dtype == FLOAT32 else 'float32'}"
        )
    extent = texture3d_extent(full_shape)
    names = ("width W", "height H", "depth N·ceil(C/4)")
    ways = ("cut it into columns", "cut it into rows", "use a smaller batch")
    limit_3d = device.info.limits["maxImageDimension3D"]
    for name, way, size, limit in zip(names, ways, extent, most, strict=True):
        if size > min(limit, limit_3d):
            raise UnsupportedError(
                f"{argument} has shape {shape}: its texture's {name} = {size} is past "
                f"maxImageDimension3D = {min(limit, limit_3d)} of {device.info.name}; {way}"
            )
    return device.images.acquire(extent, image_format)


def as_shape(shape: Any) -> Shape:
    """Return a shape as a tuple of ints.

    Raises
    ------
    TypeError
        Something that is not an integer.
    """
    try:
        return tuple(operator.index(length) for length in shape)
    except TypeError:
        raise TypeError(f"shape is {shape!r}; it must be a tuple of ints") from None
