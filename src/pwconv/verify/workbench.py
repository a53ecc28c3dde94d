"""Workbench of trials: tensors, weights and parameters on a device."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import TracebackType
from typing import Any, TypeVar, cast

import numpy as np

from pwconv import shaders
from pwconv.context import Context
from pwconv.dtypes import FLOAT32, Array, DType
from pwconv.errors import UnsupportedError
from pwconv.kernels import pack_linear_weight, transfer
from pwconv.layout import Shape4, bias_length, ceil_div, weight_rows_extent
from pwconv.shaders import Variant
from pwconv.staging import upload_buffer
from pwconv.tensor import VK_FORMATS, acquire_resource
from pwconv.verify.poison import poison
from pwconv.vk import api as vk
from pwconv.vk.commands import Dispatch
from pwconv.vk.resources import DEVICE, DOWNLOAD, Buffer, Image, Resource, image_limit

_T = TypeVar("_T")

# Most bytes of a weight, whatever the device allows: its memory may be another's too.
_MOST_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class Trial:
    """One variant on one case; nothing is made before it is needed.

    Attributes
    ----------
    case : str
    channels : int
        C of the output.
    plan : callable
        Makes the pipelines that the variant runs; any thread may call it, at any time.
    expect : callable
        Returns what the output should be and how far from it a device may be, float64 arrays
        [N, C, H, W]; the lanes past C of a texture among C.
    run : callable
        Poisons the output with a number, runs the variant, returns what the output then holds.
    features_last : bool
        True if W are a linear layer's features, and the other axes rows.
    """

    case: str
    channels: int
    plan: Callable[[], object]
    expect: Callable[[], tuple[Array, Array]]
    run: Callable[[float], Array]
    features_last: bool = False

    @property
    def expected(self) -> Array:
        """The expected output, of ``expect``."""
        return self._outcome[0]

    @property
    def bound(self) -> Array:
        """The bound, of ``expect``."""
        return self._outcome[1]

    @cached_property
    def _outcome(self) -> tuple[Array, Array]:
        return self.expect()


class Workbench:
    """Resources that a group of trials shares; freed at the end of a ``with``.

    Parameters
    ----------
    context : Context
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._kept: dict[Hashable, Any] = {}
        self._owned = ExitStack()

    def __enter__(self) -> Workbench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._kept.clear()
        self._owned.close()

    def keep(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Return the value of a key, made on first use."""
        if key not in self._kept:
            self._kept[key] = make()
        return cast(_T, self._kept[key])

    def empty(self, shape: Shape4, dtype: DType, storage: str) -> Resource:
        """Return an image or buffer for a tensor.

        Raises
        ------
        UnsupportedError
            The device has no such textures.
        OutOfMemoryError
        """
        if storage == "texture3d" and not image_limit(self.context, VK_FORMATS[dtype], 3):
            raise UnsupportedError(f"{self.context.info.name} cannot store {dtype} in textures")
        resource = acquire_resource(self.context, shape, dtype, storage, "shape")
        assert resource is not None
        self._owned.callback(self.context.resources.release, resource)
        return resource

    def tensor(self, array: Array, storage: str, dtype: DType | None = None) -> Resource:
        """Return an array [N, C, H, W] on the device, narrowed where ``dtype`` is narrower."""
        dtype = dtype or array.dtype
        n, c, h, w = array.shape
        resource = self.empty((n, c, h, w), dtype, storage)
        transfer.upload(self.context, array, resource, dtype)
        return resource

    def parameters(self, array: Array) -> Buffer:
        """Return an array of float32 on the device."""
        return self._own(self._uploaded(np.ascontiguousarray(array, FLOAT32)))

    def bias(self, bias: Array) -> Buffer:
        """Return a bias, padded as kernels want it."""
        padded = np.zeros(bias_length(len(bias)), FLOAT32)
        padded[: len(bias)] = bias
        return self.parameters(padded)

    def weight(self, matrices: Array, storage: str, dtype: DType | None = None) -> Resource:
        """Return a weight [B, N, K], packed.

        Raises
        ------
        UnsupportedError
            The device cannot store it so.
        """
        batches, n, k = matrices.shape
        packed = pack_linear_weight.pack_weight(
            self.context, matrices, (batches, n, k), True, dtype or matrices.dtype, storage
        )
        return self._own(packed)

    def weight_rows(self, packed: Resource, n: int, k: int) -> Buffer:
        """Return a packed weight [1, N, K] of float16 as rows."""
        rows = pack_linear_weight.unpack_rows(self.context, packed, (1, n, k))
        return self._own(rows)

    def run(
        self,
        dispatches: Sequence[Dispatch],
        out: Resource,
        shape: Shape4,
        dtype: DType,
        poisoned_with: float,
    ) -> Array:
        """Poison an output, run dispatches, and return its contents.

        The lanes past C of a texture come along.
        """
        poison(self.context, out, dtype, poisoned_with)
        for dispatch in dispatches:
            self.context.submit(dispatch)
        return self.read(out, shape, dtype)

    def read(self, resource: Resource, shape: Shape4, dtype: DType) -> Array:
        """Return a tensor; of a texture the lanes past C come along."""
        if isinstance(resource, Image):
            shape = with_lanes(shape)
        return transfer.download(self.context, resource, shape, dtype)

    def raw(self, resource: Resource, dtype: DType) -> Array:
        """Return a buffer's elements, or an image's texels [depth, H, W, 4], by a plain copy."""
        image = resource if isinstance(resource, Image) else None
        size = resource.size
        if image is not None:
            width, height, depth = image.extent
            size = width * height * depth * 4 * dtype.itemsize
        target = Buffer(self.context, size, DOWNLOAD)

        def record(command_buffer: object) -> None:
            if image is None:
                region = vk.VkBufferCopy(size=size)
                vk.vkCmdCopyBuffer(command_buffer, resource.handle, target.handle, 1, [region])
                return
            layers = vk.VkImageSubresourceLayers(
                aspectMask=vk.VK_IMAGE_ASPECT_COLOR_BIT, layerCount=1
            )
            region = vk.VkBufferImageCopy(
                imageSubresource=layers,
                imageExtent=vk.VkExtent3D(width=width, height=height, depth=depth),
            )
            layout = vk.VK_IMAGE_LAYOUT_GENERAL
            vk.vkCmdCopyImageToBuffer(
                command_buffer, image.handle, layout, target.handle, 1, [region]
            )

        self.context.queue.wait(self.context.queue.run_once(record))
        assert target.mapped is not None
        array = np.frombuffer(bytes(target.mapped[:size]), dtype)
        self.context.retire(target.destroy)
        return array if image is None else array.reshape(depth, height, width, 4)

    def _uploaded(self, array: Array) -> Buffer:
        buffer = Buffer(self.context, array.nbytes, DEVICE)
        upload_buffer(self.context, array, buffer)
        return buffer

    def _own(self, resource: _T) -> _T:
        self._owned.callback(self.context.retire, resource.destroy)  # type: ignore[attr-defined]
        return resource


def with_lanes(shape: Shape4) -> Shape4:
    """Return a tensor's shape with the lanes past C among C."""
    n, c, h, w = shape
    return n, 4 * ceil_div(c, 4), h, w


def pad_lanes(array: Array, storage: str) -> Array:
    """Return an array [N, C, H, W] with a texture's lanes past C, filled with zeros."""
    if storage == "buffer":
        return array
    return np.pad(array, ((0, 0), (0, -array.shape[1] % 4), (0, 0), (0, 0)))


def storage_of(variant: Variant) -> str:
    """Return how a variant's output is stored."""
    image = dict(variant.bindings)["t_out"] == "storage_image"
    return "texture3d" if image else "buffer"


def is_smallest(context: Context, variant: Variant) -> bool:
    """Return whether a variant has the smallest tile of those that differ in the tile alone.

    Long trials whose outcome does not depend on the tile run on that one alone.
    """

    def key(v: Variant) -> dict[str, str]:
        return {**v.axes, "tile": ""}

    def products(v: Variant) -> int:
        blocks = [size for name, size in v.defines.items() if name.startswith("BLOCK_")]
        tiles = [size for name, size in v.defines.items() if name.startswith("TILE_")]
        return prod(blocks or tiles)

    looping = (v for v in shaders.variants(variant.family) if "UNROLL" not in v.defines)
    alike = (v for v in looping if key(v) == key(variant))
    able = [v for v in alike if not context.unmet(v)]
    return variant is min(able, key=products, default=None)


def weight_limit(context: Context, variant: Variant, dtype: DType) -> int:
    """Return nearly the largest N or K of a variant's weight, where the other is small."""
    if variant.axes.get("weight") == "texture2d":
        return extent_limit(context, dtype, 2)
    most_bytes: int = min(context.limits["maxStorageBufferRange"], _MOST_BYTES)
    if any(name.endswith("_rows") for name in variant.binding_names):
        rows, padding = weight_rows_extent(4, 0)
        return int(most_bytes // (2 * rows) - padding)
    return int(most_bytes // (4 * dtype.itemsize))


def extent_limit(context: Context, dtype: DType, dimensions: int = 3) -> int:
    """Return nearly the most texels that a texture may have along every axis.

    Buffers are tried with as many. It is no power of two, for which some drivers compile anew.
    """
    most: int = context.limits[f"maxImageDimension{dimensions}D"]
    found = image_limit(context, VK_FORMATS[dtype], dimensions)
    return (min(most, *found.extent[:dimensions]) if found else most) - 5
