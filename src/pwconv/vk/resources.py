"""Buffers and images, each with its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pwconv.errors import PwconvError
from pwconv.vk import api as vk
from pwconv.vk.memory import DEVICE_LOCAL, HOST_CACHED, HOST_COHERENT, HOST_VISIBLE
from pwconv.vk.physical_device import PhysicalDevice

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


def image_extent_limit(
    physical: PhysicalDevice, image_format: int, dimensions: int
) -> tuple[int, int, int] | None:
    """Return the largest extent of an :class:`Image`, or None where the device has none such."""
    key = (image_format, dimensions)
    if key not in physical.image_extent_limits:
        physical.image_extent_limits[key] = _ask_extent_limit(physical, image_format, dimensions)
    return physical.image_extent_limits[key]


def _ask_extent_limit(
    physical: PhysicalDevice, image_format: int, dimensions: int
) -> tuple[int, int, int] | None:
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
    return limits.maxExtent.width, limits.maxExtent.height, limits.maxExtent.depth


def _image_flags(image_format: int) -> int:
    return _MUTABLE_FORMAT if image_format in _STORAGE_FORMATS else 0


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
        self, device: LogicalDevice, size: int, preferences: tuple[tuple[int, int], ...]
    ) -> None:
        self.size = size
        self._device = device
        info = vk.VkBufferCreateInfo(
            size=size,
            usage=vk.VK_BUFFER_USAGE_STORAGE_BUFFER_BIT
            | vk.VK_BUFFER_USAGE_TRANSFER_SRC_BIT
            | vk.VK_BUFFER_USAGE_TRANSFER_DST_BIT,
            sharingMode=vk.VK_SHARING_MODE_EXCLUSIVE,
        )
        with device.lock:
            device.require_open()
            self.handle = vk.vkCreateBuffer(device.handle, info, None)
            try:
                requirements = vk.vkGetBufferMemoryRequirements(device.handle, self.handle)
                self._allocation = device.memory.allocate(requirements, preferences, image=False)
            except BaseException:
                vk.vkDestroyBuffer(device.handle, self.handle, None)
                raise
            vk.vkBindBufferMemory(
                device.handle, self.handle, self._allocation.memory, self._allocation.offset
            )
            self.mapped = self._allocation.mapped
            self.uid = device.register(self)
            device.check()

    def destroy(self) -> None:
        """Free the buffer now; the device must be done with it."""
        self.mapped = None
        vk.vkDestroyBuffer(self._device.handle, self.handle, None)
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
        self, device: LogicalDevice, extent: tuple[int, int, int], image_format: int
    ) -> None:
        self.extent = extent
        self.format = image_format
        self._device = device
        width, height, depth = extent
        size = vk.VkExtent3D(width=width, height=height, depth=max(depth, 1))
        storage_format = _STORAGE_FORMATS.get(image_format, image_format)
        info = vk.VkImageCreateInfo(
            flags=_image_flags(image_format),
            imageType=vk.VK_IMAGE_TYPE_3D if depth else vk.VK_IMAGE_TYPE_2D,
            format=image_format,
            extent=size,
            mipLevels=1,
            arrayLayers=1,
            samples=vk.VK_SAMPLE_COUNT_1_BIT,
            tiling=vk.VK_IMAGE_TILING_OPTIMAL,
            usage=_IMAGE_USAGE,
            sharingMode=vk.VK_SHARING_MODE_EXCLUSIVE,
            initialLayout=vk.VK_IMAGE_LAYOUT_UNDEFINED,
        )
        with device.lock:
            device.require_open()
            self.handle = vk.vkCreateImage(device.handle, info, None)
            try:
                requirements = vk.vkGetImageMemoryRequirements(device.handle, self.handle)
                self._allocation = device.memory.allocate(requirements, DEVICE, image=True)
            except BaseException:
                vk.vkDestroyImage(device.handle, self.handle, None)
                raise
            self.size = self._allocation.size
            try:
                vk.vkBindImageMemory(
                    device.handle, self.handle, self._allocation.memory, self._allocation.offset
                )
                self.view = self._make_view(image_format)
                try:
                    self.storage_view = self._make_view(storage_format)
                except BaseException:
                    vk.vkDestroyImageView(device.handle, self.view, None)
                    raise
            except BaseException:
                vk.vkDestroyImage(device.handle, self.handle, None)
                device.memory.free(self._allocation)
                raise
            device.queue.initialize_layout(self.handle)
            self.uid = device.register(self)
            device.check()

    def destroy(self) -> None:
        """Free the image now; the device must be done with it."""
        self._device.queue.forget_layout(self.handle)
        vk.vkDestroyImageView(self._device.handle, self.storage_view, None)
        vk.vkDestroyImageView(self._device.handle, self.view, None)
        vk.vkDestroyImage(self._device.handle, self.handle, None)
        self._device.memory.free(self._allocation)
        self._device.unregister(self.uid)

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
