"""VkDevice with its queue, memory, pipelines and pools: everything that close() frees."""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from pwconv.errors import ClosedError, DeviceLostError, NoDeviceError, PwconvError
from pwconv.vk import api as vk
from pwconv.vk import features, process
from pwconv.vk.commands import Queue
from pwconv.vk.instance import Instance
from pwconv.vk.memory import Allocator
from pwconv.vk.physical_device import PhysicalDevice
from pwconv.vk.pipelines import PipelineCache
from pwconv.vk.pools import ResourcePool, StagingPool

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
    lock
        Of :func:`process.make_lock`, held around everything that Vulkan wants from one thread at a
        time.
    live : dict
        What frees each buffer, image and recording that exists, by its uid.
    closed : bool
        Whether :meth:`close` was called.
    """

    def __init__(self, index: int, *, validate: bool, cache_folder: Path) -> None:
        self.live: dict[int, ExitStack] = {}
        self._uids = itertools.count()
        self.closed = False
        self._destroyed = False
        # Why nothing can be done with it any more, as an error: a call looks at this and no more.
        self._unusable: tuple[type[PwconvError], str] | None = None
        self.lock = process.make_lock()
        self._uses = process.Uses()
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
            self.memory = Allocator(self.handle, self.physical, self.free_unused)
            made.callback(self.memory.close)
            self.queue = Queue(self, family)
            made.callback(self.queue.close)
            self.pipelines = PipelineCache(self, cache_folder / f"{self.info.identity}.bin")
            made.callback(self.pipelines.close)
            self.resources = ResourcePool(self)
            self.staging = StagingPool(self)
            process.opened(self)
            self._made = made.pop_all()

    def new_uid(self) -> int:
        """Return a number that is never given twice."""
        return next(self._uids)

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

    def enter(self) -> None:
        """Begin a public call: raise where it must not, whatever it would do.

        Raises
        ------
        ClosedError, DeviceLostError
        BusyError
            A signal handler or a finalizer makes it inside another call of its thread.
        """
        # Each call comes here: what it costs was measured.
        if self._unusable is not None or self.lock._is_owned():
            self.require_open()
            process.enter(self.lock, f"the device {self.info.name}")

    def in_use(self) -> AbstractContextManager[None]:
        """Keep another thread's close() waiting while this one is at work without the lock.

        Raises
        ------
        ClosedError, DeviceLostError
        """
        return self._uses(self.lock, self.require_open)

    def lose(self) -> None:
        """Note that the driver has lost the device: everything but :meth:`close` raises then."""
        if self._unusable is None:
            self._unusable = (
                DeviceLostError,
                f"the driver lost the device {self.info.name} in an earlier call. Close this "
                "pwconv.Device and make a new one, and its tensors and layers anew; their "
                "contents are gone.",
            )

    def refuse(self) -> None:
        """Have every call that begins from now on raise ClosedError."""
        self.closed = True
        if not self._destroyed:
            self._unusable = (
                ClosedError,
                f"the device {self.info.name} was closed; make a new pwconv.Device, and its "
                "tensors and layers anew",
            )

    def abandon(self) -> None:
        """Have a forked child leave alone what is its parent's: Vulkan objects outlive no fork."""
        # Whoever held the old one is not in this process.
        self.lock = process.make_lock()
        self._uses = process.Uses()
        self._unusable = (
            PwconvError,
            f"the device {self.info.name} was opened before this process was forked, and drivers "
            f"need not survive that. {process.FORK_HINT}",
        )
        self._destroyed = True

    def close(self) -> None:
        """Wait for calls at work and for the device, and free everything, once.

        Where the waiting is interrupted or fails, nothing is freed yet; calling again goes on.

        Raises
        ------
        BusyError
            A signal handler or a finalizer closes it inside another call of its thread.
        PwconvError
            Another thread is at work on it for longer than :data:`process.CLOSE_SECONDS`.
        """
        what = f"the device {self.info.name}"
        process.enter(self.lock, what)
        with self.lock:  # whoever began a call before has said so by then
            self.refuse()
        if self._destroyed:
            return
        self._uses.wait(what)
        with self.lock:
            if self._destroyed:
                return
            self.queue.drain()
            for made in list(self.live.values()):
                made.close()
            self._destroyed = True
            self._made.close()
            self.check()

    def free_unused(self) -> None:
        """Wait for the queue, destroy pooled resources, return empty blocks to the driver."""
        with self.lock:
            self.resources.clear()
            self.staging.clear()
        self.queue.wait()
        with self.lock:
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
