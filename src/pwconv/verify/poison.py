"""Poison for outputs: elements that a kernel does not write show."""

from __future__ import annotations

import numpy as np

from pwconv.context import Context
from pwconv.dtypes import DType
from pwconv.vk import api as vk
from pwconv.vk.resources import Buffer, Resource

NAN = float("nan")

# A kernel may compute a NaN, but not this; float16 holds it too.
NUMBER = -12288.0


def poison(context: Context, resource: Resource, dtype: DType, value: float) -> None:
    """Set every lane of an image, or every element of a buffer, padding too."""

    def record(command_buffer: object) -> None:
        if isinstance(resource, Buffer):
            pattern = np.full(4 // dtype.itemsize, value, dtype).view(np.uint32)[0]
            vk.vkCmdFillBuffer(command_buffer, resource.handle, 0, resource.size, int(pattern))
            return
        everything = vk.VkImageSubresourceRange(
            aspectMask=vk.VK_IMAGE_ASPECT_COLOR_BIT, levelCount=1, layerCount=1
        )
        colour = vk.VkClearColorValue(float32=[value] * 4)
        layout = vk.VK_IMAGE_LAYOUT_GENERAL
        vk.vkCmdClearColorImage(command_buffer, resource.handle, layout, colour, 1, [everything])

    context.queue.run_once(record)
