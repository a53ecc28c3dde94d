"""VkDevice with its queue, memory, pipelines and pools: everything that close() frees."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from pwconv.errors import ClosedError, DeviceLostError, NoDeviceError, PwconvError
from pwconv.vk import api as vk
from pwconv.vk import features
from pwconv.vk.commands import Queue
from pwconv.vk.instance import FORK_HINT, Instance
from pwconv.vk.memory import Allocator
from pwconv.vk.physical_device import PhysicalDevice
from pwconv.vk.pipelines import PipelineCache
from pwconv.vk.pools import ResourcePool, StagingPool


class Destroyable(Protocol):
    """A Vulkan object that frees itself."""

    def destroy(self) -> None:
        """Free the object now; the device must be done with it."""


_PORTABILITY_SUBSET = "VK_KHR_portability_subset"


class LogicalDevice:
    """A device and all that lives on it.

    Parameters
    ----------
    index : int
        Position in the instance's list of physical devices.
    validate : bool
        Turn the validation layer on.
    cache_folder : Path
        Where compiled pipelines are kept between runs.

    Attributes
    ----------
    lock : threading.RLock
        Held around everything that Vulkan wants from one thread at a time.
    live : dict
        Every buffer, image and recording that exists, by its uid.
    closed : bool
        Whether :meth:`close` was called.
    """

    def __init__(self, index: int, *, validate: bool, cache_folder: Path) -> None:
        self.live: dict[int, Destroyable] = {}
        self._uids = itertools.count()
        self.closed = False
        self._destroyed = False
        # Why nothing can be done with it any more, as an error: a call looks at this and no more.
        self._unusable: tuple[type[PwconvError], str] | None = None
        self._make_lock()
        with ExitStack() as made:
            self._instance = Instance(validate=validate)
            made.callback(self._instance.close)
            handles = self._instance.physical_devices()
            if index >= len(handles):
                raise NoDeviceError(f"device {index} is gone; the loader lists {len(handles)} now")
            self.physical = PhysicalDevice(
                self._instance.handle, handles[index], index, self._instance.layer_version
            )
            self.info = self.physical.info
            family = self.physical.compute_queue_family()
            self.handle = self._make_device(family)
            made.callback(vk.vkDestroyDevice, self.handle, None)
            self.memory = Allocator(self.handle, self.physical, self._relieve)
            self.queue = Queue(self, family)
            made.callback(self.queue.close)
            self.pipelines = PipelineCache(self, cache_folder / f"{self.info.identity}.bin")
            made.pop_all()
        self.resources = ResourcePool(self)
        self.staging = StagingPool(self)
        _opened.add(self)

    def register(self, item: Destroyable) -> int:
        """Note that an object exists; return its uid, which is never given twice."""
        uid = next(self._uids)
        self.live[uid] = item
        return uid

    def unregister(self, uid: int) -> None:
        """Note that an object was destroyed."""
        del self.live[uid]

    def check(self) -> None:
        """Raise what the validation layer has said.

        Raises
        ------
        ValidationError
        """
        if self._instance.messenger:
            self._instance.messenger.check()

    @property
    def usable(self) -> bool:
        """Whether :meth:`require_open` raises nothing."""
        return self._unusable is None

    def require_open(self) -> None:
        """Raise unless the device can be used.

        Raises
        ------
        ClosedError
            It was closed.
        DeviceLostError
            A call found it lost, this one or one before.
        PwconvError
            It is another process's: this one was forked off.
        """
        if self._unusable is not None:
            kind, message = self._unusable
            raise kind(message)

    def lose(self) -> None:
        """Note that the driver has lost the device: everything but :meth:`close` raises then."""
        if self._unusable is None:
            self._unusable = (
                DeviceLostError,
                f"the driver lost the device {self.info.name} in an earlier call. Close this "
                "pwconv.Device and make a new one, and its tensors and layers anew; their "
                "contents are gone.",
            )

    def abandon(self) -> None:
        """Have a forked child leave alone what is its parent's: Vulkan objects outlive no fork."""
        # Whoever held the old one is not in this process.
        self._make_lock()
        self._unusable = (
            PwconvError,
            f"the device {self.info.name} was opened before this process was forked, and drivers "
            f"need not survive that. {FORK_HINT}",
        )
        self._destroyed = True

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep another thread's close() waiting while this one is at work without the lock.

        Raises
        ------
        ClosedError, DeviceLostError
        """
        with self.lock:
            self.require_open()
            self._users += 1
        try:
            yield
        finally:
            with self.lock:
                self._users -= 1
                self._unused.notify_all()

    def close(self) -> None:
        """Wait for the device and free everything, once.

        Where the waiting is interrupted or fails, nothing is freed yet; calling again goes on.
        """
        with self.lock:
            self.closed = True
            if self._destroyed:
                return
            self._unusable = (
                ClosedError,
                f"the device {self.info.name} was closed; make a new pwconv.Device, and its "
                "tensors and layers anew",
            )
            self._unused.wait_for(lambda: not self._users)
            self.queue.drain()
            self._destroyed = True
            for item in list(self.live.values()):
                item.destroy()
            self.queue.close()
            self.pipelines.close()
            self.memory.close()
            vk.vkDestroyDevice(self.handle, None)
            self._instance.close()
            self.check()

    def _make_lock(self) -> None:
        self.lock = threading.RLock()
        self._unused = threading.Condition(self.lock)
        self._users = 0

    def _relieve(self) -> None:
        """Memory ran out: wait, and give back what is only kept for reuse."""
        self.resources.clear()
        self.staging.clear()
        self.queue.wait()
        self.queue.collect()
        self.memory.trim()

    def _make_device(self, family: int) -> object:
        info = self.physical.info
        extensions = [e for e in (_PORTABILITY_SUBSET,) if e in info.extensions]
        chain, needed, _alive = features.enable(
            info.features, self.physical.api_version, info.extensions
        )
        extensions += needed
        priorities = [1.0]
        queue_info = vk.VkDeviceQueueCreateInfo(
            queueFamilyIndex=family, queueCount=1, pQueuePriorities=priorities
        )
        device_info = vk.VkDeviceCreateInfo(
            pNext=chain,
            pQueueCreateInfos=[queue_info],
            ppEnabledExtensionNames=extensions,
        )
        return vk.vkCreateDevice(self.physical.handle, device_info, None)


_opened: weakref.WeakSet[LogicalDevice] = weakref.WeakSet()


def _abandon_all() -> None:
    for device in list(_opened):
        device.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
