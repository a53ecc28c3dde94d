"""Images and staging buffers kept for the next caller, within a budget.

An image comes back with its handles, so what was recorded for it can be submitted again; and all
work is on one queue, in order, so an image may be given out again while the device still uses it.
A staging buffer is shared with the host and waits for the device.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from pwconv.vk.resources import DOWNLOAD, UPLOAD, Buffer, Image

if TYPE_CHECKING:
    from pwconv.vk.logical_device import LogicalDevice

_IMAGE_BUDGET = 256 << 20
_STAGING_KEPT = 4
_LEAST_STAGING = 64 << 10

_Key = tuple[tuple[int, int, int], int]


class ImagePool:
    """Images by extent and format; the ones longest unused go first."""

    def __init__(self, device: LogicalDevice) -> None:
        self._device = device
        self._free: OrderedDict[int, Image] = OrderedDict()
        self._bytes = 0
        # Tensors are collected at any moment, in any thread: only this append happens then.
        self._returned: deque[Image] = deque()

    def acquire(self, extent: tuple[int, int, int], image_format: int) -> Image:
        """Return an image whose contents are undefined."""
        with self._device.lock:
            self._settle()
            for uid, image in reversed(self._free.items()):
                if image.extent == extent and image.format == image_format:
                    del self._free[uid]
                    self._bytes -= image.size
                    return image
            return Image(self._device, extent, image_format)

    def release(self, image: Image) -> None:
        """Take an image back; safe from a finalizer."""
        self._returned.append(image)

    def clear(self) -> None:
        """Destroy every image that is not in use, once the device is done with it."""
        with self._device.lock:
            self._settle()
            while self._free:
                self._evict()

    def _settle(self) -> None:
        while self._returned:
            image = self._returned.popleft()
            self._free[image.uid] = image
            self._bytes += image.size
        while self._bytes > _IMAGE_BUDGET:
            self._evict()

    def _evict(self) -> None:
        _, image = self._free.popitem(last=False)
        self._bytes -= image.size
        self._device.queue.retire(image.destroy)


class StagingPool:
    """Host-visible buffers, in the two directions; each has one user at a time."""

    def __init__(self, device: LogicalDevice) -> None:
        self._device = device
        self._idle: dict[bool, list[tuple[int, Buffer]]] = {False: [], True: []}

    def acquire(self, size: int, *, upload: bool) -> Buffer:
        """Return a mapped buffer of at least ``size`` bytes that the device does not use."""
        with self._device.lock:
            idle = self._idle[upload]
            done = self._device.queue.completed()
            fitting = [entry for entry in idle if entry[1].size >= size]
            finished = [entry for entry in fitting if entry[0] <= done]
            if finished or (len(idle) >= _STAGING_KEPT and fitting):
                entry = min(finished or fitting, key=lambda entry: (entry[0], entry[1].size))
                idle.remove(entry)
            else:
                capacity = max(_LEAST_STAGING, 1 << (size - 1).bit_length())
                return Buffer(self._device, capacity, UPLOAD if upload else DOWNLOAD)
        try:
            self._device.queue.wait(entry[0])
        except BaseException:
            self.release(entry[1], entry[0], upload=upload)
            raise
        return entry[1]

    def release(self, buffer: Buffer, serial: int | None, *, upload: bool) -> None:
        """Take a buffer back that submission ``serial``, or else the last one, may still use."""
        with self._device.lock:
            idle = self._idle[upload]
            idle.append((self._device.queue.last if serial is None else serial, buffer))
            if len(idle) > _STAGING_KEPT:
                smallest = min(idle, key=lambda entry: entry[1].size)
                idle.remove(smallest)
                self._device.queue.retire(smallest[1].destroy)

    def clear(self) -> None:
        """Destroy every buffer that has no user, once the device is done with it."""
        with self._device.lock:
            for idle in self._idle.values():
                for _, buffer in idle:
                    self._device.queue.retire(buffer.destroy)
                idle.clear()
