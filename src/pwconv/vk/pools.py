"""Images and buffers kept for the next caller, within a budget.

A resource comes back with its handles, so what was recorded for it can be submitted again; and all
work is on one queue, in order, so it may be given out again while the device still uses it.
A staging buffer is shared with the host and waits for the device.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from pwconv.vk.resources import DEVICE, DOWNLOAD, UPLOAD, Buffer, Image

if TYPE_CHECKING:
    from pwconv.vk.logical_device import LogicalDevice

_KEPT_BYTES = 256 << 20
_STAGING_KEPT = 4
_LEAST_STAGING = 64 << 10

_Key = tuple[object, ...]


class ResourcePool:
    """Images and buffers of tensors that are gone; the ones longest unused go first."""

    def __init__(self, device: LogicalDevice) -> None:
        self._device = device
        self._free: OrderedDict[int, tuple[_Key, Image | Buffer]] = OrderedDict()
        self._bytes = 0
        # Tensors are collected at any moment, in any thread: only this append happens then.
        self._returned: deque[Image | Buffer] = deque()

    def acquire_image(self, extent: tuple[int, int, int], image_format: int) -> Image:
        """Return an image whose contents are undefined."""
        with self._device.lock:
            found = self._take((extent, image_format))
            return found if isinstance(found, Image) else Image(self._device, extent, image_format)

    def acquire_buffer(self, size: int) -> Buffer:
        """Return a buffer in device memory whose contents are undefined."""
        with self._device.lock:
            found = self._take((size,))
            return found if isinstance(found, Buffer) else Buffer(self._device, size, DEVICE)

    def release(self, resource: Image | Buffer) -> None:
        """Take a resource back; safe from a finalizer."""
        self._returned.append(resource)

    def clear(self) -> None:
        """Destroy everything that is not in use, once the device is done with it."""
        with self._device.lock:
            self._settle()
            while self._free:
                self._evict()

    def _take(self, key: _Key) -> Image | Buffer | None:
        self._settle()
        for uid, (kept_key, resource) in reversed(self._free.items()):
            if kept_key == key:
                del self._free[uid]
                self._bytes -= resource.size
                return resource
        return None

    def _settle(self) -> None:
        while self._returned:
            resource = self._returned.popleft()
            if isinstance(resource, Image):
                key: _Key = (resource.extent, resource.format)
            else:
                key = (resource.size,)
            self._free[resource.uid] = (key, resource)
            self._bytes += resource.size
        while self._bytes > _KEPT_BYTES:
            self._evict()

    def _evict(self) -> None:
        _, (_, resource) = self._free.popitem(last=False)
        self._bytes -= resource.size
        self._device.queue.retire(resource.destroy)


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
                # A shader reads or writes all of it.
                most = self._device.info.limits["maxStorageBufferRange"]
                rounded = max(_LEAST_STAGING, 1 << (size - 1).bit_length())
                capacity = max(size, min(rounded, most))
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
