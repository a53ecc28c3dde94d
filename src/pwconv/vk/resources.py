"""Buffers and images, each with its memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from pwconv.errors import PwconvError
from pwconv.vk import api as vk
from pwconv.vk.core import Core
from pwconv.vk.memory import (
    DEVICE_LOCAL,
    HOST_CACHED,
    HOST_COHERENT,
    HOST_VISIBLE,
)
from pwconv.vk.physical_device import ImageLimit, PhysicalDevice

# Wanted and unwanted memory properties, best first. A host-visible type is always coherent here, so
# that nothing needs flushing; Vulkan promises that one such type exists.
DEVICE = ((DEVICE_LOCAL, HOST_VISIBLE), (DEVICE_LOCAL, 0), (0, 0))
# Small, written once: where the host can write it itself, it need not be copied there.
PARAMETER = ((DEVICE_LOCAL | HOST_VISIBLE | HOST_COHERENT, 0), *DEVICE[1:])
UPLOAD = (
    (DEVICE_LOCAL | HOST_VISIBLE | HOST_COHERENT, 0),
    (HOST_VISIBLE | HOST_COHERENT, HOST_CACHED),
    (HOST_VISIBLE | HOST_COHERENT, 0),
)
# Reading memory that the host does not cache is a hundred times slower than reading memory it does.
DOWNLOAD = (
    (DEVICE_LOCAL | HOST_VISIBLE | HOST_COHERENT | HOST_CACHED, 0),
    (HOST_VISIBLE | HOST_COHERENT | HOST_CACHED, 0),
    (HOST_VISIBLE | HOST_COHERENT, 0),
)


_RGBA16_UINT, _RGBA16_SFLOAT = 95, 97
_STORAGE_FORMATS = {_RGBA16_SFLOAT: _RGBA16_UINT}
_MUTABLE_FORMAT = 8
_IMAGE_USAGE = 0x1 | 0x2 | 0x4 | 0x8  # transfer source and destination, sampled, storage


def image_limit(core: Core, image_format: int, dimensions: int) -> ImageLimit | None:
    """Return the largest :class:`Image` there may be, or None where the device has none such.

    Raises
    ------
    ClosedError
    """
    limits = core.physical.image_limits
    key = (image_format, dimensions)
    if key not in limits:
        with core.lock:
            core.require_open()
            limits[key] = _ask_image_limit(core.physical, image_format, dimensions)
    return limits[key]


def _ask_image_limit(
    physical: PhysicalDevice, image_format: int, dimensions: int
) -> ImageLimit | None:
    image_type = vk.VK_IMAGE_TYPE_3D if dimensions == 3 else vk.VK_IMAGE_TYPE_2D
    try:
        limits = vk.vkGetPhysicalDeviceImageFormatProperties(
            physical.handle,
            image_format,
            image_type,
            vk.VK_IMAGE_TILING_OPTIMAL,
            _IMAGE_USAGE,
            _image_flags(image_format),
        )
    except PwconvError as error:
        if isinstance(error.__cause__, vk.VkErrorFormatNotSupported):
            return None
        raise
    extent = limits.maxExtent
    return ImageLimit((extent.width, extent.height, extent.depth), limits.maxResourceSize)


def _image_flags(image_format: int) -> int:
    return _MUTABLE_FORMAT if image_format in _STORAGE_FORMATS else 0


_uids = itertools.count()


def next_uid() -> int:
    """Return a number that is never given twice in this process."""
    return next(_uids)


class Span(NamedTuple):
    """Bytes of a piece of memory, which its ``space`` names."""

    space: int
    first: int
    after: int


class DeviceObject:
    """Owner of Vulkan objects, which are destroyed when it is garbage collected.

    So its holders may be copied, and an exception between two lines leaves nothing behind.
    Pooled objects go back to their pool, and are freed by it alone.

    Attributes
    ----------
    uid : int
        Never given twice: key of the recordings over this object.
    """

    __slots__ = ("__weakref__", "_made", "_retire", "uid")

    _made: ExitStack
    _retire: Callable[[Callable[[], None]], None]
    uid: int

    @contextmanager
    def _making(self, core: Core, *, pooled: bool = False) -> Iterator[ExitStack]:
        """Give the stack that frees the object, filled under the device's lock."""
        with core.lock, ExitStack() as made:
            core.require_open()
            self.uid = next_uid()
            made.callback(core.live.pop, self.uid, None)
            yield made
            core.check()
            if not pooled:
                self._retire = core.retire
            self._made = core.live[self.uid] = made.pop_all()

    def destroy(self) -> None:
        """Free the object now; the device must be done with it."""
        self._made.close()

    def __del__(self) -> None:
        if hasattr(self, "_made") and hasattr(self, "_retire"):
            self._retire(self._made.close)


class Arena(DeviceObject):
    """A piece of device memory in which buffers, or images, lie where the caller places them.

    Those that lie over each other must not be in use at the same time; a recording discards an
    image's contents before they are written.

    Parameters
    ----------
    core : Core
    size, alignment, memory_types : int
        Of the whole: see :func:`buffer_requirements` and :func:`image_requirements`.
    image : bool
        True for an arena of images.
    """

    __slots__ = ("memory", "offset", "size")

    def __init__(
        self, core: Core, size: int, alignment: int, memory_types: int, *, image: bool
    ) -> None:
        self.size = size
        requirements = vk.VkMemoryRequirements(
            size=size, alignment=alignment, memoryTypeBits=memory_types
        )
        with self._making(core) as made:
            allocate = partial(core.memory.allocate, requirements, DEVICE, image=image)
            made.callback(core.memory.free, allocation := allocate())
            self.memory, self.offset = allocation.memory, allocation.offset


@dataclass(frozen=True)
class Place:
    """Place of a resource in an arena: offset in bytes."""

    arena: Arena
    offset: int


class Requirements(NamedTuple):
    """Memory requirements of a resource: bytes, alignment, and a mask of memory types."""

    size: int
    alignment: int
    memory_types: int


def buffer_requirements(core: Core, size: int) -> Requirements:
    """Return the requirements of a :class:`Buffer` of so many bytes in an arena."""
    with core.lock, ExitStack() as made:
        core.require_open()
        handle = vk.make(made, "Buffer", core.handle, _buffer_info(size))
        found = vk.vkGetBufferMemoryRequirements(core.handle, handle)
    return Requirements(found.size, found.alignment, found.memoryTypeBits)


def image_requirements(core: Core, extent: tuple[int, int, int], image_format: int) -> Requirements:
    """Return the requirements of an :class:`Image` in an arena."""
    with core.lock, ExitStack() as made:
        core.require_open()
        handle = vk.make(made, "Image", core.handle, _image_info(extent, image_format))
        found = vk.vkGetImageMemoryRequirements(core.handle, handle)
    return Requirements(found.size, found.alignment, found.memoryTypeBits)


def _buffer_info(size: int) -> Any:
    return vk.VkBufferCreateInfo(
        size=size,
        usage=vk.VK_BUFFER_USAGE_STORAGE_BUFFER_BIT
        | vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT
        | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT,
        sharingMode=vk.VK_SHARING_MODE_EXCLUSIVE,
    )


def _image_info(extent: tuple[int, int, int], image_format: int) -> Any:
    width, height, depth = extent
    return vk.VkImageCreateInfo(
        flags=_image_flags(image_format),
        imageType=vk.VK_IMAGE_TYPE_3D if depth else vk.VK_IMAGE_TYPE_2D,
        format=image_format,
        extent=vk.VkExtent3D(width=width, height=height, depth=max(depth, 1)),
        mipLevels=1,
        arrayLayers=1,
        samples=vk.VK_SAMPLE_COUNT_1_BIT,
        tiling=vk.VK_IMAGE_TILING_OPTIMAL,
        usage=_IMAGE_USAGE,
        sharingMode=vk.VK_SHARING_MODE_EXCLUSIVE,
        initialLayout=vk.VK_IMAGE_LAYOUT_UNDEFINED,
    )


class Resource(DeviceObject):
    """A buffer or an image, bound to memory of its own or to a place in an arena.

    Attributes
    ----------
    handle : VkBuffer or VkImage
    size : int
        Bytes.
    span : Span
        The memory that it lies in: what barriers are placed by.
    in_arena : bool
    kind : tuple
        Key in its pool.
    """

    __slots__ = ("handle", "in_arena", "kind", "size", "span")

    handle: Any
    in_arena: bool
    kind: tuple[object, ...]
    size: int
    span: Span

    def _locate(
        self,
        core: Core,
        requirements: Any,
        preferences: tuple[tuple[int, int], ...],
        place: Place | None,
        freed: ExitStack,
        *,
        image: bool,
    ) -> tuple[tuple[Any, int], memoryview | None]:
        """Return the memory to bind to, the offset in it, and the host's mapping.

        Memory of its own is freed with ``freed``.
        """
        self.in_arena = place is not None
        if place is not None:
            self.span = Span(place.arena.uid, place.offset, place.offset + requirements.size)
            return (place.arena.memory, place.arena.offset + place.offset), None
        self.span = Span(self.uid, 0, 1)
        memory = core.memory
        freed.callback(
            memory.free, allocation := memory.allocate(requirements, preferences, image=image)
        )
        return (allocation.memory, allocation.offset), allocation.mapped


class Buffer(Resource):
    """A storage buffer.

    Attributes
    ----------
    mapped : memoryview or None
        The contents, where the host can see them.
    """

    __slots__ = ("mapped",)

    def __init__(
        self,
        core: Core,
        size: int,
        preferences: tuple[tuple[int, int], ...] = DEVICE,
        place: Place | None = None,
        *,
        pooled: bool = False,
    ) -> None:
        self.size = size
        with self._making(core, pooled=pooled) as made:
            freed = made.enter_context(ExitStack())  # after the handle is destroyed
            self.handle = vk.make(made, "Buffer", core.handle, _buffer_info(size))
            requirements = vk.vkGetBufferMemoryRequirements(core.handle, self.handle)
            location, self.mapped = self._locate(
                core, requirements, preferences, place, freed, image=False
            )
            vk.vkBindBufferMemory(core.handle, self.handle, *location)


class Image(Resource):
    """A 2D or 3D image of float vec4s that shaders read and write; always in layout GENERAL.

    Attributes
    ----------
    extent : tuple of int
        Width, height and depth; the depth of a 2D image is 0.
    view, storage_view : VkImageView
        To read through, and to write through. They differ for rgba16f, which is written as the
        integers of its bits: include/half_bits.glslh says why.
    """

    __slots__ = ("extent", "format", "storage_view", "view")

    def __init__(
        self,
        core: Core,
        extent: tuple[int, int, int],
        image_format: int,
        place: Place | None = None,
        *,
        pooled: bool = False,
    ) -> None:
        self.extent = extent
        self.format = image_format
        info = _image_info(extent, image_format)
        with self._making(core, pooled=pooled) as made:
            freed = made.enter_context(ExitStack())  # after the handle is destroyed
            self.handle = vk.make(made, "Image", core.handle, info)
            requirements = vk.vkGetImageMemoryRequirements(core.handle, self.handle)
            self.size = requirements.size
            location, _ = self._locate(core, requirements, DEVICE, place, freed, image=True)
            vk.vkBindImageMemory(core.handle, self.handle, *location)
            storage_format = _STORAGE_FORMATS.get(image_format, image_format)
            self.view, self.storage_view = (
                vk.make(made, "ImageView", core.handle, self._view_info(view_format))
                for view_format in (image_format, storage_format)
            )
            if place is None:
                made.callback(core.uninitialized.pop, self.handle, None)
                core.uninitialized[self.handle] = None

    def _view_info(self, view_format: int) -> Any:
        everything = vk.VkImageSubresourceRange(
            aspectMask=vk.VK_IMAGE_ASPECT_COLOR_BIT, levelCount=1, layerCount=1
        )
        return vk.VkImageViewCreateInfo(
            image=self.handle,
            viewType=vk.VK_IMAGE_VIEW_TYPE_3D if self.extent[2] else vk.VK_IMAGE_VIEW_TYPE_2D,
            format=view_format,
            subresourceRange=everything,
        )
