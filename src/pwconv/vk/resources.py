"""Buffers and images, each with its memory."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pwconv.errors import PwconvError
from pwconv.vk import api as vk
from pwconv.vk.memory import (
    DEVICE_LOCAL,
    HOST_CACHED,
    HOST_COHERENT,
    HOST_VISIBLE,
    Allocation,
)
from pwconv.vk.physical_device import ImageLimit, PhysicalDevice

if TYPE_CHECKING:
    from pwconv.vk.logical_device import LogicalDevice

# Wanted and unwanted memory properties, best first. A host-visible type is always coherent here, so
# that nothing needs flushing; Vulkan promises that one such type exists.
DEVICE = ((DEVICE_LOCAL, HOST_VISIBLE), (DEVICE_LOCAL, 0), (0, 0))
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


def image_limit(physical: PhysicalDevice, image_format: int, dimensions: int) -> ImageLimit | None:
    """Return the largest :class:`Image` there may be, or None where the device has none such."""
    key = (image_format, dimensions)
    if key not in physical.image_limits:
        physical.image_limits[key] = _ask_image_limit(physical, image_format, dimensions)
    return physical.image_limits[key]


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


class Arena:
    """A piece of device memory in which buffers, or images, lie where the caller places them.

    Those that lie over each other must not be in use at the same time; an image is discarded
    (:class:`pwconv.vk.commands.Step`) before each use.

    Parameters
    ----------
    device : LogicalDevice
    size, alignment, memory_types : int
        Of the whole: see :func:`buffer_requirements` and :func:`image_requirements`.
    image : bool
        Whether it is for images.

    Attributes
    ----------
    uid : int
        Never given twice.
    """

    __slots__ = ("_allocation", "_device", "memory", "offset", "size", "uid")

    def __init__(
        self, device: LogicalDevice, size: int, alignment: int, memory_types: int, *, image: bool
    ) -> None:
        self._device = device
        self.size = size
        requirements = vk.VkMemoryRequirements(
            size=size, alignment=alignment, memoryTypeBits=memory_types
        )
        with device.lock:
            device.require_open()
            self._allocation = device.memory.allocate(requirements, DEVICE, image=image)
            self.memory = self._allocation.memory
            self.offset = self._allocation.offset
            self.uid = device.register(self)

    def destroy(self) -> None:
        """Free the memory now; what lies in it must not be used any more."""
        self._device.memory.free(self._allocation)
        self._device.unregister(self.uid)


@dataclass(frozen=True)
class Place:
    """Where in an arena a resource lies, in bytes from its beginning."""

    arena: Arena
    offset: int


class Requirements(NamedTuple):
    """What a resource wants of memory: bytes, alignment, and a mask of memory types."""

    size: int
    alignment: int
    memory_types: int


def buffer_requirements(device: LogicalDevice, size: int) -> Requirements:
    """Return what a :class:`Buffer` of so many bytes wants of an arena."""
    with device.lock:
        device.require_open()
        handle = vk.vkCreateBuffer(device.handle, _buffer_info(size), None)
        found = vk.vkGetBufferMemoryRequirements(device.handle, handle)
        vk.vkDestroyBuffer(device.handle, handle, None)
    return Requirements(found.size, found.alignment, found.memoryTypeBits)


def image_requirements(
    device: LogicalDevice, extent: tuple[int, int, int], image_format: int
) -> Requirements:
    """Return what an :class:`Image` wants of an arena."""
    with device.lock:
        device.require_open()
        handle = vk.vkCreateImage(device.handle, _image_info(extent, image_format), None)
        found = vk.vkGetImageMemoryRequirements(device.handle, handle)
        vk.vkDestroyImage(device.handle, handle, None)
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


class Buffer:
    """A storage buffer.

    Attributes
    ----------
    uid : int
        Never given twice: what was recorded for this buffer is found by it.
    mapped : memoryview or None
        The contents, where the host can see them.
    """

    __slots__ = ("_allocation", "_device", "handle", "mapped", "size", "uid")

    def __init__(
        self,
        device: LogicalDevice,
        size: int,
        preferences: tuple[tuple[int, int], ...] = DEVICE,
        place: Place | None = None,
    ) -> None:
        self.size = size
        self._device = device
        self._allocation: Allocation | None = None
        with device.lock:
            device.require_open()
            self.handle = vk.vkCreateBuffer(device.handle, _buffer_info(size), None)
            try:
                requirements = vk.vkGetBufferMemoryRequirements(device.handle, self.handle)
                if place is None:
                    self._allocation = device.memory.allocate(
                        requirements, preferences, image=False
                    )
                memory, offset = _location(self._allocation, place)
                vk.vkBindBufferMemory(device.handle, self.handle, memory, offset)
            except BaseException:
                vk.vkDestroyBuffer(device.handle, self.handle, None)
                if self._allocation:
                    device.memory.free(self._allocation)
                raise
            self.mapped = self._allocation.mapped if self._allocation else None
            self.uid = device.register(self)
            device.check()

    def destroy(self) -> None:
        """Free the buffer now; the device must be done with it."""
        self.mapped = None
        vk.vkDestroyBuffer(self._device.handle, self.handle, None)
        if self._allocation:
            self._device.memory.free(self._allocation)
        self._device.unregister(self.uid)


class Image:
    """A 2D or 3D image of float vec4s that shaders read and write; always in layout GENERAL.

    Attributes
    ----------
    uid : int
        Never given twice: what was recorded for this image is found by it.
    extent : tuple of int
        Width, height and depth; the depth of a 2D image is 0.
    view, storage_view : VkImageView
        To read through, and to write through. They differ for rgba16f, which is written as the
        integers of its bits: include/half_bits.glslh says why.
    """

    __slots__ = (
        "_allocation",
        "_device",
        "extent",
        "format",
        "handle",
        "size",
        "storage_view",
        "uid",
        "view",
    )

    def __init__(
        self,
        device: LogicalDevice,
        extent: tuple[int, int, int],
        image_format: int,
        place: Place | None = None,
    ) -> None:
        self.extent = extent
        self.format = image_format
        self._device = device
        self._allocation: Allocation | None = None
        storage_format = _STORAGE_FORMATS.get(image_format, image_format)
        info = _image_info(extent, image_format)
        with device.lock:
            device.require_open()
            with ExitStack() as made:
                made.callback(self._free_memory)
                self.handle = vk.vkCreateImage(device.handle, info, None)
                made.callback(vk.vkDestroyImage, device.handle, self.handle, None)
                requirements = vk.vkGetImageMemoryRequirements(device.handle, self.handle)
                self.size = requirements.size
                if place is None:
                    self._allocation = device.memory.allocate(requirements, DEVICE, image=True)
                memory, offset = _location(self._allocation, place)
                vk.vkBindImageMemory(device.handle, self.handle, memory, offset)
                self.view = self._make_view(image_format)
                made.callback(vk.vkDestroyImageView, device.handle, self.view, None)
                self.storage_view = self._make_view(storage_format)
                made.pop_all()
            if place is None:
                device.queue.initialize_layout(self.handle)
            self.uid = device.register(self)
            device.check()

    def destroy(self) -> None:
        """Free the image now; the device must be done with it."""
        self._device.queue.forget_layout(self.handle)
        vk.vkDestroyImageView(self._device.handle, self.storage_view, None)
        vk.vkDestroyImageView(self._device.handle, self.view, None)
        vk.vkDestroyImage(self._device.handle, self.handle, None)
        self._free_memory()
        self._device.unregister(self.uid)

    def _free_memory(self) -> None:
        if self._allocation:
            self._device.memory.free(self._allocation)

    def _make_view(self, view_format: int) -> Any:
        everything = vk.VkImageSubresourceRange(
            aspectMask=vk.VK_IMAGE_ASPECT_COLOR_BIT, levelCount=1, layerCount=1
        )
        info = vk.VkImageViewCreateInfo(
            image=self.handle,
            viewType=vk.VK_IMAGE_VIEW_TYPE_3D if self.extent[2] else vk.VK_IMAGE_VIEW_TYPE_2D,
            format=view_format,
            subresourceRange=everything,
        )
        return vk.vkCreateImageView(self._device.handle, info, None)


def _location(allocation: Allocation | None, place: Place | None) -> tuple[Any, int]:
    """Return the memory that a resource is bound to, and the offset in it."""
    if allocation is not None:
        return allocation.memory, allocation.offset
    assert place is not None
    return place.arena.memory, place.arena.offset + place.offset
