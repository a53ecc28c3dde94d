"""The queue: submissions in order, what they wait for, and what is freed after them.

Every submission starts with a barrier after everything before it, so that work on the one queue
happens in the order it was submitted in.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from pwconv.errors import DeviceLostError, PwconvError
from pwconv.vk import api as vk
from pwconv.vk.barriers import record_barrier
from pwconv.vk.core import Core

# Beyond this many unfinished submissions the host waits: a loop that never reads a result would
# otherwise queue without end.
MOST_IN_FLIGHT = 64

# Of so many submissions one has a fence, though nobody waits for it: a fence tells of everything
# before it too, and each costs a function call or two to make, poll and reset.
_FENCE_EVERY = 16

# A GPU is asked for so long whether it is done, before the driver waits: it may take long to wake
# up, 60 µs after a run of 576 on an NVIDIA H100.
_SPIN_SECONDS = 0.002

# Waits are cut into slices so that Ctrl-C is noticed.
_WAIT_SLICE_NS = 100_000_000


class _Fence:
    """Signaled when submission ``serial``, and so everything before it, is done.

    Its handle is free to be used again when nobody holds this object any more: neither the queue
    nor a thread that waits.
    """

    __slots__ = ("_returned", "handle", "serial")

    def __init__(self, handle: Any, serial: int, returned: deque[Any]) -> None:
        self.handle = handle
        self.serial = serial
        self._returned = returned

    def __del__(self) -> None:
        if hasattr(self, "_returned"):
            self._returned.append(self.handle)


class Queue:
    """The device's one compute queue.

    Submissions are numbered from 1; a serial names one of them.

    Parameters
    ----------
    core : Core

    Attributes
    ----------
    core : Core
    last : int
        Serial of the last submission; 0 before any.
    done : int
        Everything up to this serial is known to be done.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self.handle = vk.vkGetDeviceQueue(core.handle, core.family, 0)
        info = vk.VkCommandPoolCreateInfo(
            flags=vk.VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT, queueFamilyIndex=core.family
        )
        self._command_pool = vk.vkCreateCommandPool(core.handle, info, None)
        # Filled anew for each submission, under the lock: making one costs more than submitting it.
        self._command_buffers = vk.ffi.new("VkCommandBuffer[2]")
        self._submit_info = vk.ffi.new(
            "VkSubmitInfo*",
            {
                "sType": vk.VK_STRUCTURE_TYPE_SUBMIT_INFO,
                "pCommandBuffers": self._command_buffers,
            },
        )
        self._allocate_info = vk.ffi.new(
            "VkCommandBufferAllocateInfo*",
            {
                "sType": vk.VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                "commandPool": self._command_pool,
                "level": vk.VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                "commandBufferCount": 1,
            },
        )
        begin = {"sType": vk.VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO}
        once = vk.VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT
        often = vk.VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT
        self._begin_once = vk.ffi.new("VkCommandBufferBeginInfo*", {**begin, "flags": once})
        self._begin_often = vk.ffi.new("VkCommandBufferBeginInfo*", {**begin, "flags": often})
        # What asks a CPU takes time from what computes.
        self._spin_seconds = 0.0 if core.info.type == "cpu" else _SPIN_SECONDS
        self.last = 0
        self.done = 0
        # From this serial on, a submission must do more than submit.
        self._due = 0
        self._fences: deque[_Fence] = deque()  # in flight, oldest first
        self._returned_fences: deque[Any] = deque()  # signaled, each of them
        self._idle_fences: list[Any] = []
        self._every_fence: dict[Any, None] = {}
        self._garbage: deque[tuple[int, Callable[[], None]]] = deque()

    # -- submitting -------------------------------------------------------------------------------

    def submit(self, command_buffer: Any, *, awaited: bool = False) -> int:
        """Submit one command buffer; return its serial.

        Parameters
        ----------
        command_buffer : VkCommandBuffer
        awaited : bool
            Whether someone will wait for this very submission. Any can be waited for; this one then
            without waiting for what is submitted after it.
        """
        with self.core.lock:
            newest = self._fences[-1].serial if self._fences else self.done
            due = self.last + 1 - newest >= _FENCE_EVERY
            fenced = awaited or due or bool(self.core.retired)
            if fenced or self._garbage:
                self.collect()
            if self.core.uninitialized:
                self._command_buffers[0] = self._record_layouts()
                self._command_buffers[1] = command_buffer
                self._submit_info.commandBufferCount = 2
            else:
                self._command_buffers[0] = command_buffer
                self._submit_info.commandBufferCount = 1
            self._enqueue(1, fenced=fenced)
            self.core.uninitialized.clear()
            self.core.check()
            return self.last

    def submit_again(self, info: Any) -> bool:
        """Submit what was submitted before and do nothing else; return False where more is due.

        That is a fence, freeing, moving new images to their layout, asking the validation layer, or
        an error. What :meth:`submit` does, then.

        Parameters
        ----------
        info : VkSubmitInfo* or None
            Of one command buffer; more than one takes :meth:`Recording.submit`.
        """
        core = self.core
        if info is None or core.lock._is_owned():
            return False
        with core.lock:
            serial = self.last + 1
            if serial >= self._due or core.unusable or core.retired or core.uninitialized:
                return False
            self.last = serial  # first, as in _enqueue
            try:
                vk.vkQueueSubmit(self.handle, 1, info, vk.ffi.NULL)
            except DeviceLostError:
                core.lose()
                raise
        return True

    def make_room(self) -> None:
        """Wait until fewer submissions than :data:`MOST_IN_FLIGHT` are unfinished.

        The caller does not hold the lock: other threads submit and read meanwhile, and may exceed
        the limit by one each.
        """
        if self.last - self.done >= MOST_IN_FLIGHT:
            self.wait(self.last + 1 - MOST_IN_FLIGHT)

    def run_once(self, record: Callable[[Any], None]) -> int:
        """Record commands with ``record(command_buffer)``, submit them, return the serial.

        What they write is visible to the host once the serial is done.
        """
        with self.core.lock:
            made = ExitStack()
            try:
                command_buffer = self.record(record, made, once=True, host_reads=True)
                return self.submit(command_buffer, awaited=True)
            finally:
                self.core.retire(made.close)

    def record(
        self,
        record: Callable[[Any], None],
        made: ExitStack,
        *,
        once: bool = False,
        host_reads: bool = False,
    ) -> Any:
        """Return a new command buffer: a barrier, then what ``record(command_buffer)`` adds.

        It is freed with ``made``.
        """
        with self.core.lock:
            # Freeing none is nothing: the buffer is freed wherever an exception comes.
            allocated = vk.ffi.new("VkCommandBuffer[1]")
            made.callback(self._free, allocated)
            vk.vkAllocateCommandBuffers(self.core.handle, self._allocate_info, allocated)
            command_buffer = allocated[0]
            begin = self._begin_once if once else self._begin_often
            vk.vkBeginCommandBuffer(command_buffer, begin)
            record_barrier(command_buffer)
            record(command_buffer)
            if host_reads:
                record_barrier(command_buffer, to_host=True)
            vk.vkEndCommandBuffer(command_buffer)
            return command_buffer

    # -- waiting ----------------------------------------------------------------------------------

    def completed(self) -> int:
        """Return a serial up to which everything is known to be done."""
        with self.core.lock:
            while self._fences and self._signaled(self._fences[0]):
                self.done = self._fences[0].serial
                self._fences.popleft()
            return self.done

    def wait(self, serial: int | None = None) -> None:
        """Wait for one submission, by default the last; other threads may submit meanwhile.

        Raises
        ------
        ClosedError, DeviceLostError
        """
        if serial is not None and serial <= self.done:
            return
        with self.core.in_use():
            self._wait(self.last if serial is None else serial)
            self.collect()

    # -- freeing ----------------------------------------------------------------------------------

    def collect(self) -> None:
        """Free what the device is done with."""
        with self.core.lock:
            self.completed()
            self._free_garbage()

    def drain(self) -> None:
        """Wait for everything, and free what was retired."""
        try:
            self._wait(self.last)  # in slices: Ctrl-C is noticed
            vk.vkDeviceWaitIdle(self.core.handle)
        except PwconvError:
            # It is lost, or had no fence to wait for. Destroying a lost device's objects is
            # allowed, and nothing of it runs any more.
            with contextlib.suppress(DeviceLostError):
                vk.vkDeviceWaitIdle(self.core.handle)
        self.done = self.last
        self._free_garbage()

    def close(self) -> None:
        """Destroy the queue's own objects; :meth:`drain` comes first."""
        for fence in self._every_fence:
            vk.vkDestroyFence(self.core.handle, fence, None)
        vk.vkDestroyCommandPool(self.core.handle, self._command_pool, None)

    # -- inside -----------------------------------------------------------------------------------

    def _enqueue(self, submissions: int, *, fenced: bool) -> None:
        """Submit what the submit info says, or nothing, perhaps with a fence after it."""
        # Counted first: a serial of nothing does no harm, a submission without one would.
        self.last += submissions
        fence = self._take_fence() if fenced else vk.ffi.NULL
        # Where Ctrl-C comes here, nobody can tell whether it was submitted: the fence is not used
        # again.
        try:
            vk.vkQueueSubmit(self.handle, submissions, self._submit_info, fence)
        except PwconvError as error:
            if fenced:
                self._idle_fences.append(fence)
            if isinstance(error, DeviceLostError):
                self.core.lose()
            raise
        if fenced:
            self._fences.append(_Fence(fence, self.last, self._returned_fences))
            self._due = 0 if self.core.validates else self.last + _FENCE_EVERY

    def _fence_after(self, serial: int) -> _Fence | None:
        """Return a fence that tells of a submission, or None where it is known to be done."""
        if serial <= self.done:
            return None
        for fence in self._fences:
            if fence.serial >= serial:
                return fence
        self._enqueue(0, fenced=True)
        return self._fences[-1]

    def _free(self, allocated: Any) -> None:
        if allocated[0]:
            vk.vkFreeCommandBuffers(self.core.handle, self._command_pool, 1, allocated)

    def _take_fence(self) -> Any:
        """Return a fence that is not signaled, one that was used before where there is one."""
        if not self._idle_fences and self._returned_fences:
            returned = [self._returned_fences.popleft() for _ in range(len(self._returned_fences))]
            try:
                vk.vkResetFences(self.core.handle, len(returned), returned)
                self._idle_fences += returned
            except PwconvError:
                # Some of them may be reset, and nobody can tell which.
                for fence in returned:
                    del self._every_fence[fence]
                    vk.vkDestroyFence(self.core.handle, fence, None)
        if self._idle_fences:
            return self._idle_fences.pop()
        self._every_fence[
            fence := vk.vkCreateFence(self.core.handle, vk.VkFenceCreateInfo(), None)
        ] = None
        return fence

    def _free_garbage(self) -> None:
        """Destroy what was retired before a submission that is done."""
        while self.core.retired:
            self._garbage.append((self.last, self.core.retired.popleft()))
        while self._garbage and self._garbage[0][0] <= self.done:
            self._garbage.popleft()[1]()

    def _signaled(self, fence: _Fence) -> bool:
        try:
            vk.vkGetFenceStatus(self.core.handle, fence.handle)
        except vk.VkNotReady:
            return False
        except DeviceLostError:
            self.core.lose()
            raise
        return True

    def _wait(self, serial: int) -> None:
        with self.core.lock:
            fence = self._fence_after(serial)
        if fence is None:
            return
        done = self._spin(fence)
        while not done:
            done = self._wait_slice(fence)
        with self.core.lock:
            self.completed()

    def _spin(self, fence: _Fence) -> bool:
        """Ask for a while whether a submission is done; return whether it is."""
        end = time.perf_counter() + self._spin_seconds
        while time.perf_counter() < end:
            if self._signaled(fence):
                return True
        return False

    def _wait_slice(self, fence: _Fence) -> bool:
        try:
            vk.vkWaitForFences(self.core.handle, 1, [fence.handle], True, _WAIT_SLICE_NS)
        except vk.VkTimeout:
            return False
        except DeviceLostError:
            self.core.lose()
            raise
        return True

    def _record_layouts(self) -> Any:
        images = list(self.core.uninitialized)
        made = ExitStack()
        try:
            return self.record(lambda buffer: record_barrier(buffer, images), made, once=True)
        finally:
            self.core.retire(made.close)
