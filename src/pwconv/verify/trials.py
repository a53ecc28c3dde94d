"""Trials: a variant on a case of its operator, and the workbench that they are run on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np

from pwconv import reference, transfer
from pwconv.context import Context
from pwconv.dtypes import Array, DType
from pwconv.errors import UnsupportedError
from pwconv.layout import Shape4
from pwconv.ops import Choice, Operator, Site
from pwconv.ops.base import Arrays, Case
from pwconv.ops.limits import Limits
from pwconv.shaders import Variant
from pwconv.tensor import VK_FORMATS, acquire_resource, shape4
from pwconv.vk import api as vk
from pwconv.vk.commands import Dispatch
from pwconv.vk.resources import DOWNLOAD, Buffer, Image, Resource, image_limit

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Trial:
    """One variant on one case; nothing is made before it is needed."""

    case: str
    channels: int  # C of the output
    # Makes the pipelines that the variant runs; any thread may call it, at any time.
    plan: Callable[[], object]
    # Returns what the output should be and how far from it a device may be, float64 arrays
    # [N, C, H, W]; the lanes past C of a texture among C.
    expect: Callable[[], tuple[Array, Array]]
    # Poisons the output with a number, runs the variant, returns what the output then holds.
    run: Callable[[float], Array]
    channel_axis: int = 1  # of the output

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


class Workbench(ExitStack):
    """Resources that a group of trials shares; freed at the end of a ``with``."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context
        self._kept: dict[Hashable, Any] = {}
        self.callback(self._kept.clear)

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
        self.callback(self.context.resources.release, resource)
        return resource

    def tensor(self, array: Array, storage: str) -> Resource:
        """Return an array on the device."""
        shape = shape4(array.shape, "array")
        resource = self.empty(shape, array.dtype, storage)
        transfer.upload(self.context, array.reshape(shape), resource, array.dtype)
        return resource

    def run(
        self,
        dispatches: Sequence[Dispatch],
        out: Resource,
        shape: Shape4,
        dtype: DType,
        poisoned_with: float,
    ) -> Array:
        """Poison an output, run dispatches, and return its contents as :meth:`read` does."""
        transfer.fill(self.context, out, dtype, poisoned_with)
        for dispatch in dispatches:
            self.context.submit(dispatch)
        return self.read(out, shape, dtype)

    def read(self, resource: Resource, shape: Shape4, dtype: DType) -> Array:
        """Return a tensor; of a texture the lanes past C come along."""
        n, c, h, w = shape
        lanes = c + -c % 4 if isinstance(resource, Image) else c
        return transfer.download(self.context, resource, (n, lanes, h, w), dtype)

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


def pad_lanes(array: Array, storage: str) -> Array:
    """Return an array [N, C, H, W] with a texture's lanes past C, filled with zeros."""
    if storage == "buffer":
        return array
    return np.pad(array, ((0, 0), (0, -array.shape[1] % 4), (0, 0), (0, 0)))


def operator_trials(
    bench: Workbench, variant: Variant, operator: type[Operator]
) -> Iterator[Trial]:
    """Yield the trials of a variant on the cases of the operator that it computes."""
    limits = Limits(bench.context, variant)
    for case in operator.cases(limits):
        yield _trial(bench, limits, case)


def _trial(bench: Workbench, limits: Limits, case: Case) -> Trial:
    site = Site(bench.context, limits.storage, limits.dtype)
    choice = Choice(limits.variant)
    weight_storage = limits.variant.axes.get("weight", "buffer")
    planned_shape = case.operator.output_shape(case.inputs)
    out_shape = shape4(planned_shape, "output")
    key = case.key

    def numbers() -> Arrays:
        return bench.keep(("numbers", *key), case.make)

    def packed() -> Operator:
        return bench.keep(
            ("operator", weight_storage, *key),
            lambda: case.with_numbers(numbers()).pack(site, weight_storage),
        )

    def tensor(i: int) -> Resource:
        made = numbers().inputs[i]
        return bench.keep(
            ("input", i, site.storage, *key), lambda: bench.tensor(made, site.storage)
        )

    def run(poisoned_with: float) -> Array:
        out = bench.keep(
            ("out", site.storage, out_shape),
            lambda: bench.empty(out_shape, site.dtype, site.storage),
        )
        inputs = [tensor(i) for i in range(len(case.inputs))]
        planned = packed().plan(site, case.inputs, planned_shape, choice=choice)
        dispatches = [each.bind(inputs, out) for each in planned]
        return bench.run(dispatches, out, out_shape, site.dtype, poisoned_with)

    def expect() -> tuple[Array, Array]:
        inputs = [reference.given(array) for array in numbers().inputs]
        operator = case.with_numbers(numbers())
        found = operator.expected(inputs, site.dtype, exact=case.exact)
        value, error = (array.reshape(out_shape) for array in (found.value, found.error))
        return pad_lanes(value, site.storage), pad_lanes(error, site.storage)

    return Trial(
        case.name,
        out_shape[1],
        lambda: case.operator.plan(site, case.inputs, planned_shape, choice=choice),
        lambda: bench.keep(("expected", site.storage, *key), expect),
        run,
        case.operator.channel_axis,
    )
