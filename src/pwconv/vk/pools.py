"""Images and buffers kept for the next caller, within a budget.

A resource comes back with its handles, so what was recorded for it can be submitted again; and all
work is on one queue, in order, so it may be given out again while the device still uses it.
A staging buffer is shared with the host and waits for the device.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from pwconv.vk.core import Core
from pwconv.vk.queue import Queue
from pwconv.vk.resources import DOWNLOAD, UPLOAD, Buffer, Resource

_KEPT_BYTES = 256 << 20
_STAGING_KEPT = 4
_LEAST_STAGING = 64 << 10

_Kind = tuple[object, ...]


class ResourcePool:
    """Images and buffers of tensors that are gone; of the kinds longest unused they go first.

    Attributes
    ----------
    release : callable
        Takes a resource back; safe from a finalizer.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._free: OrderedDict[_Kind, list[Resource]] = OrderedDict()
        self._bytes = 0
        # Tensors are collected at any moment, in any thread: only this append happens then.
        self._returned: deque[Resource] = deque()
        self.release = self._returned.append

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        with self._core.lock:
            self.settle()
            return self._bytes

    def acquire(self, kind: _Kind, make: Callable[[], Resource]) -> Resource:
        """Return a pooled resource, or a new one by ``make()``; its contents are undefined.

        ``kind`` is all that recordings over the resource depend on: shape, type and storage.
        """
        with self._core.lock:
            found = self.take(kind)
            if found is None:
                found = make()
                found.kind = kind
            return found

    def settle(self) -> None:
        """Pool the returned resources, and evict beyond the budget; the caller holds the lock."""
        while self._returned:
            resource = self._returned.popleft()
            self._free.setdefault(resource.kind, []).append(resource)
            self._free.move_to_end(resource.kind)
            self._bytes += resource.size
        while self._free and self._bytes > _KEPT_BYTES:
            self._evict()

    def clear(self) -> None:
        """Destroy everything that is not in use, once the device is done with it."""
        with self._core.lock:
            self.settle()
            while self._free:
                self._evict()

    def _evict(self) -> None:
        resource = self.take(next(iter(self._free)))
        if resource is not None:
            self._core.retire(resource.destroy)

    def take(self, kind: _Kind) -> Resource | None:
        """Return a resource that came back, or None; the caller holds the lock."""
        if self._returned:
            self.settle()
        kept = self._free.get(kind)
        if kept is None:
            return None
        resource = kept.pop() if kept else None
        if not kept:
            del self._free[kind]
        if resource is not None:
            self._bytes -= resource.size
        if not self._free:
            self._bytes = 0  # whatever an exception from a signal's handler left uncounted
        return resource


class StagingPool:
    """Host-visible buffers, in the two directions; each has one user at a time."""

    def __init__(self, queue: Queue) -> None:
        self._queue, self._core = queue, queue.core
        # With the serial of the submission that may still use each.
        self._idle: dict[bool, list[tuple[int, Buffer]]] = {False: [], True: []}
        # An interrupted call gives its buffer back at any moment, by this append alone.
        self._returned: deque[tuple[bool, int, Buffer]] = deque()

    def acquire(self, size: int, *, upload: bool) -> Buffer:
        """Return a mapped buffer of at least ``size`` bytes that the device does not use."""
        with self._core.lock:
            self._settle()
            idle = self._idle[upload]
            done = self._queue.completed()
            fitting = [entry for entry in idle if entry[1].size >= size]
            finished = [entry for entry in fitting if entry[0] <= done]
            if finished or (len(idle) >= _STAGING_KEPT and fitting):
                entry = min(finished or fitting, key=lambda entry: (entry[0], entry[1].size))
                idle.remove(entry)
            else:
                # A shader reads or writes all of it.
                most = self._core.info.limits["maxStorageBufferRange"]
                rounded = max(_LEAST_STAGING, 1 << (size - 1).bit_length())
                capacity = max(size, min(rounded, most))
                preferences = UPLOAD if upload else DOWNLOAD
                return Buffer(self._core, capacity, preferences, pooled=True)
        try:
            self._queue.wait(entry[0])
        except BaseException:
            self.release(entry[1], entry[0], upload=upload)
            raise
        return entry[1]

    def release(self, buffer: Buffer, serial: int | None, *, upload: bool) -> None:
        """Take a buffer back that submission ``serial``, or else the last one, may still use."""
        last = self._queue.last if serial is None else serial
        self._returned.append((upload, last, buffer))

    @property
    def size(self) -> int:
        """Bytes of the buffers that have no user."""
        with self._core.lock:
            self._settle()
            return sum(buffer.size for idle in self._idle.values() for _, buffer in idle)

    def clear(self) -> None:
        """Destroy every buffer that has no user, once the device is done with it."""
        with self._core.lock:
            self._settle()
            for idle in self._idle.values():
                while idle:
                    self._core.retire(idle.pop()[1].destroy)

    def _settle(self) -> None:
        while self._returned:
            upload, serial, buffer = self._returned.popleft()
            idle = self._idle[upload]
            idle.append((serial, buffer))
            if len(idle) > _STAGING_KEPT:
                smallest = min(idle, key=lambda entry: entry[1].size)
                idle.remove(smallest)
                self._core.retire(smallest[1].destroy)
