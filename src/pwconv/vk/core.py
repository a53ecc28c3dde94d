"""The open VkDevice at the bottom: its handle, lock, memory and live objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from pwconv.errors import ClosedError, DeviceLostError, NoDeviceError, PwconvError
from pwconv.vk import api as vk
from pwconv.vk import features, process
from pwconv.vk.instance import Instance, find_resident
from pwconv.vk.memory import Allocator
from pwconv.vk.physical_device import PhysicalDevice

_PORTABILITY_SUBSET = "VK_KHR_portability_subset"


class Core:
    """A VkDevice, on which buffers, images, the queue and pipelines are made.

    :class:`pwconv.context.Context` adds those, and is what the rest of pwconv holds.

    Parameters
    ----------
    index : int
        Position in the instance's list of physical devices.
    validate : bool
        Turn the validation layer on.

    Attributes
    ----------
    lock
        Of :func:`process.make_lock`, held around everything that Vulkan wants from one thread at a
        time.
    info : DeviceInfo
    limits, features
        The info's.
    memory : Allocator
    live : dict
        ExitStack that frees each buffer, image and recording that exists, by its uid.
    retired : deque
        Functions that destroy unreachable objects. Filled by finalizers, at any moment and in any
        thread; emptied by the queue, under the lock.
    uninitialized : dict
        Images to be moved to layout GENERAL ahead of the next submission.
    unusable : tuple or None
        Error class and message once the device is closed or lost: the one check of a call.
    closed : bool
        True after :meth:`refuse`: by close(), or at the end of the process.
    """

    def __init__(self, index: int, *, validate: bool) -> None:
        self.live: dict[int, ExitStack] = {}
        self.retired: deque[Callable[[], None]] = deque()
        self.uninitialized: dict[Any, None] = {}
        self.closed = False
        self._destroyed = False
        self.unusable: tuple[type[PwconvError], str] | None = None
        self.lock = process.make_lock()
        self._uses = process.Uses()
        with ExitStack() as made:
            if validate:
                self._instance = Instance(validate=True)
                made.callback(self._instance.close)
            else:  # the one that lists devices
                self._instance = find_resident()
            handles = self._instance.physical_devices()
            if index >= len(handles):
                raise NoDeviceError(f"device {index} is gone; the loader lists {len(handles)} now")
            self.physical = PhysicalDevice(
                self._instance.handle, handles[index], index, self._instance.layer_version
            )
            self.info = self.physical.info
            self.limits, self.features = self.info.limits, self.info.features
            self.family = self.physical.compute_queue_family()
            self.handle = self._make_device(self.family)
            made.callback(vk.vkDestroyDevice, self.handle, None)
            self.memory = Allocator(self.handle, self.physical, self.free_unused)
            made.callback(self.memory.close)
            self._attach(made)
            self._made = made.pop_all()

    def _attach(self, made: ExitStack) -> None:
        """Make the parts that live as long as the device; ``made`` frees them."""

    def free_unused(self) -> None:
        """Return to the driver all memory that nothing is in; called when an allocation fails."""
        with self.lock:
            self.memory.trim()

    def retire(self, destroy: Callable[[], None]) -> None:
        """Call ``destroy`` once everything submitted by then is done; safe from a finalizer."""
        self.retired.append(destroy)

    def check(self) -> None:
        """Raise the messages of the validation layer.

        Raises
        ------
        ValidationError
        """
        if self._instance.messenger:
            self._instance.messenger.check()

    @property
    def usable(self) -> bool:
        """True if :meth:`require_open` raises nothing."""
        return self.unusable is None

    @property
    def validates(self) -> bool:
        """True if the validation layer is on: each call must check its messages."""
        return self._instance.messenger is not None

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
        if self.unusable is not None:
            kind, message = self.unusable
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
        if self.unusable is not None or self.lock._is_owned():
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
        if self.unusable is None:
            self.unusable = (
                DeviceLostError,
                f"the driver lost the device {self.info.name} in an earlier call. Close this "
                "pwconv.Device and make a new one, and its tensors and layers anew; their "
                "contents are gone.",
            )

    def refuse(self) -> None:
        """Have every call that begins from now on raise ClosedError."""
        self.closed = True
        if not self._destroyed:
            self.unusable = (
                ClosedError,
                f"the device {self.info.name} was closed; make a new pwconv.Device, and its "
                "tensors and layers anew",
            )

    def abandon(self) -> None:
        """Leave the Vulkan objects to the parent of this forked child."""
        # The thread that held the old one does not exist in this process.
        self.lock = process.make_lock()
        self._uses = process.Uses()
        self.unusable = (
            PwconvError,
            f"the device {self.info.name} was opened before this process was forked, and drivers "
            f"need not survive that. {process.FORK_HINT}",
        )
        self._destroyed = True

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
