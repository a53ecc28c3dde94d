"""The queue: submissions in order, what they wait for, and what is freed after them.

Every submission starts with a barrier after everything before it, so that work on the one queue
happens in the order it was submitted in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pwconv.errors import DeviceLostError, PwconvError
from pwconv.vk import api as vk
from pwconv.vk.pipelines import Pipeline
from pwconv.vk.resources import Buffer, DeviceObject, Image

if TYPE_CHECKING:
    from pwconv.vk.logical_device import LogicalDevice

# Beyond this many unfinished submissions the host waits: a loop that never reads a result would
# otherwise queue without end.
MOST_IN_FLIGHT = 64

# Of so many submissions one has a fence, though nobody waits for it: a fence tells of everything
# before it too, and each costs a function call or two to make, poll and reset.
_FENCE_EVERY = 16

# Drivers take a device for hung, and reset it, when one submission lasts for seconds.
LONGEST_SUBMISSION = 0.5

# A GPU is asked for so long whether it is done, before the driver waits: it may take long to wake
# up, 60 µs after a run of 576 on an NVIDIA H100.
_SPIN_SECONDS = 0.002

# Waits are cut into slices so that Ctrl-C is noticed.
_WAIT_SLICE_NS = 100_000_000


@dataclass(frozen=True)
class Step:
    """One pipeline over its resources, in binding order.

    Attributes
    ----------
    pipeline : Pipeline
    resources : tuple of Buffer or Image
    parts : tuple of (bytes, (int, int, int))
        Push constants, and workgroup counts.
    waits : bool
        Whether it begins when the steps recorded before it are done.
    discards : tuple of Image
        Images in an arena whose memory held something else before; the step waits all the same.
    seconds : float
        About how long each part takes at most, where that may be long.
    """

    pipeline: Pipeline
    resources: tuple[Buffer | Image, ...]
    parts: tuple[tuple[bytes, tuple[int, int, int]], ...]
    waits: bool = True
    discards: tuple[Image, ...] = ()
    seconds: float = 0.0


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

    Attributes
    ----------
    last : int
        Serial of the last submission; 0 before any.
    done : int
        Everything up to this serial is known to be done.
    """

    def __init__(self, device: LogicalDevice, family: int) -> None:
        self._device = device
        self.handle = vk.vkGetDeviceQueue(device.handle, family, 0)
        info = vk.VkCommandPoolCreateInfo(
            flags=vk.VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT, queueFamilyIndex=family
        )
        self._command_pool = vk.vkCreateCommandPool(device.handle, info, None)
        # Filled anew for each submission, under the lock: making one costs more than submitting it.
        self._command_buffers = vk.ffi.new("VkCommandBuffer[2]")
        self._submit_info = vk.ffi.new(
            "VkSubmitInfo*",
            {
                "sType": vk.VK_STRUCTURE_TYPE_SUBMIT_INFO,
                "pCommandBuffers": self._command_buffers,
            },
        )
        # What asks a CPU takes time from what computes.
        self._spin_seconds = 0.0 if device.info.type == "cpu" else _SPIN_SECONDS
        self.last = 0
        self.done = 0
        self._fences: deque[_Fence] = deque()  # in flight, oldest first
        self._returned_fences: deque[Any] = deque()  # signaled, each of them
        self._idle_fences: list[Any] = []
        self._every_fence: dict[Any, None] = {}
        self._uninitialized: dict[Any, None] = {}
        # Filled by finalizers, at any moment and in any thread; emptied under the lock.
        self._retired: deque[Callable[[], None]] = deque()
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
        with self._device.lock:
            newest = self._fences[-1].serial if self._fences else self.done
            due = self.last + 1 - newest >= _FENCE_EVERY
            fenced = awaited or due or bool(self._retired)
            if fenced or self._garbage:
                self.collect()
            if self._uninitialized:
                self._command_buffers[0] = self._record_layouts()
                self._command_buffers[1] = command_buffer
                self._submit_info.commandBufferCount = 2
            else:
                self._command_buffers[0] = command_buffer
                self._submit_info.commandBufferCount = 1
            self._enqueue(1, fenced=fenced)
            self._uninitialized.clear()
            self._device.check()
            return self.last

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
        with self._device.lock:
            made = ExitStack()
            try:
                command_buffer = self.record(record, made, once=True, host_reads=True)
                return self.submit(command_buffer, awaited=True)
            finally:
                self.retire(made.close)

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
        with self._device.lock:
            info = vk.VkCommandBufferAllocateInfo(
                commandPool=self._command_pool,
                level=vk.VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                commandBufferCount=1,
            )
            made.callback(
                self._free,
                command_buffer := vk.vkAllocateCommandBuffers(self._device.handle, info)[0],
            )
            usage = (
                vk.VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT
                if once
                else vk.VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT
            )
            vk.vkBeginCommandBuffer(command_buffer, vk.VkCommandBufferBeginInfo(flags=usage))
            barrier(command_buffer)
            record(command_buffer)
            if host_reads:
                barrier(command_buffer, to_host=True)
            vk.vkEndCommandBuffer(command_buffer)
            return command_buffer

    # -- waiting ----------------------------------------------------------------------------------

    def completed(self) -> int:
        """Return a serial up to which everything is known to be done."""
        with self._device.lock:
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
        with self._device.in_use():
            self._wait(self.last if serial is None else serial)
            self.collect()

    # -- freeing ----------------------------------------------------------------------------------

    def retire(self, destroy: Callable[[], None]) -> None:
        """Call ``destroy`` once everything submitted by then is done; safe from a finalizer."""
        self._retired.append(destroy)

    def collect(self) -> None:
        """Free what the device is done with."""
        with self._device.lock:
            self.completed()
            self._free_garbage()

    def initialize_layout(self, image: Any) -> None:
        """Move a new image to layout GENERAL ahead of the next submission."""
        self._uninitialized[image] = None

    def forget_layout(self, image: Any) -> None:
        """Undo :meth:`initialize_layout` for an image that is destroyed before any submission."""
        self._uninitialized.pop(image, None)

    def drain(self) -> None:
        """Wait for everything, and free what was retired."""
        try:
            self._wait(self.last)  # in slices: Ctrl-C is noticed
            vk.vkDeviceWaitIdle(self._device.handle)
        except PwconvError:
            # It is lost, or had no fence to wait for. Destroying a lost device's objects is
            # allowed, and nothing of it runs any more.
            with contextlib.suppress(DeviceLostError):
                vk.vkDeviceWaitIdle(self._device.handle)
        self.done = self.last
        self._free_garbage()

    def close(self) -> None:
        """Destroy the queue's own objects; :meth:`drain` comes first."""
        for fence in self._every_fence:
            vk.vkDestroyFence(self._device.handle, fence, None)
        vk.vkDestroyCommandPool(self._device.handle, self._command_pool, None)

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
                self._device.lose()
            raise
        if fenced:
            self._fences.append(_Fence(fence, self.last, self._returned_fences))

    def _fence_after(self, serial: int) -> _Fence | None:
        """Return a fence that tells of a submission, or None where it is known to be done."""
        if serial <= self.done:
            return None
        for fence in self._fences:
            if fence.serial >= serial:
                return fence
        self._enqueue(0, fenced=True)
        return self._fences[-1]

    def _free(self, command_buffer: Any) -> None:
        vk.vkFreeCommandBuffers(self._device.handle, self._command_pool, 1, [command_buffer])

    def _take_fence(self) -> Any:
        """Return a fence that is not signaled, one that was used before where there is one."""
        if not self._idle_fences and self._returned_fences:
            returned = [self._returned_fences.popleft() for _ in range(len(self._returned_fences))]
            try:
                vk.vkResetFences(self._device.handle, len(returned), returned)
                self._idle_fences += returned
            except PwconvError:
                # Some of them may be reset, and nobody can tell which.
                for fence in returned:
                    del self._every_fence[fence]
                    vk.vkDestroyFence(self._device.handle, fence, None)
        if self._idle_fences:
            return self._idle_fences.pop()
        self._every_fence[
            fence := vk.vkCreateFence(self._device.handle, vk.VkFenceCreateInfo(), None)
        ] = None
        return fence

    def _free_garbage(self) -> None:
        """Destroy what was retired before a submission that is done."""
        while self._retired:
            self._garbage.append((self.last, self._retired.popleft()))
        while self._garbage and self._garbage[0][0] <= self.done:
            self._garbage.popleft()[1]()

    def _signaled(self, fence: _Fence) -> bool:
        try:
            vk.vkGetFenceStatus(self._device.handle, fence.handle)
        except vk.VkNotReady:
            return False
        except DeviceLostError:
            self._device.lose()
            raise
        return True

    def _wait(self, serial: int) -> None:
        with self._device.lock:
            fence = self._fence_after(serial)
        if fence is None:
            return
        done = self._spin(fence)
        while not done:
            done = self._wait_slice(fence)
        with self._device.lock:
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
            vk.vkWaitForFences(self._device.handle, 1, [fence.handle], True, _WAIT_SLICE_NS)
        except vk.VkTimeout:
            return False
        except DeviceLostError:
            self._device.lose()
            raise
        return True

    def _record_layouts(self) -> Any:
        images = list(self._uninitialized)
        made = ExitStack()
        try:
            return self.record(lambda buffer: _image_barrier(buffer, images), made, once=True)
        finally:
            self.retire(made.close)


class Recording(DeviceObject):
    """Steps recorded once, to be submitted any number of times.

    It holds no resource: a recording whose buffer or image is gone must not be submitted.

    Attributes
    ----------
    command_buffers : list of VkCommandBuffer
        More than one where a single submission could last too long.
    """

    __slots__ = ("_device", "command_buffers")

    def __init__(self, device: LogicalDevice, steps: Sequence[Step], *, host_reads: bool) -> None:
        self._device = device
        self.command_buffers: list[Any] = []
        submissions = list(short_submissions(steps))
        with self._making(device) as made:
            every = [step for submission in submissions for step in submission]
            recorder = StepRecorder(device, every, made)
            for submission in submissions:
                record = partial(recorder.record, steps=submission)
                self.command_buffers.append(
                    device.queue.record(record, made, host_reads=host_reads)
                )

    def submit(self, *, awaited: bool = False) -> int:
        """Submit it, with nothing in between; return the serial of its last submission."""
        *others, last = self.command_buffers
        with self._device.lock:
            for command_buffer in others:
                self._device.queue.submit(command_buffer)
            return self._device.queue.submit(last, awaited=awaited)


def short_submissions(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Cut steps between their parts into submissions of at most :data:`LONGEST_SUBMISSION`.

    Each of them begins when the one before is done.
    """
    submission: list[Step] = []
    seconds = 0.0
    for step in steps:
        rest = step
        while seconds + len(rest.parts) * step.seconds > LONGEST_SUBMISSION:
            fitting = int((LONGEST_SUBMISSION - seconds) / step.seconds)
            fitting = max(fitting, 0 if submission else 1)
            if fitting >= len(rest.parts):
                break
            if fitting:
                submission.append(dataclasses.replace(rest, parts=rest.parts[:fitting]))
                rest = dataclasses.replace(
                    rest, parts=rest.parts[fitting:], waits=False, discards=()
                )
            yield submission
            submission, seconds = [], 0.0
        submission.append(rest)
        seconds += len(rest.parts) * step.seconds
    yield submission


class StepRecorder:
    """The descriptor sets of some steps, one each however often it is recorded.

    Parameters
    ----------
    device : LogicalDevice
        Its lock is held by the caller, here and in every method.
    steps : sequence of Step
        Every step that will be recorded.
    made : ExitStack
        Frees the sets.
    """

    def __init__(self, device: LogicalDevice, steps: Sequence[Step], made: ExitStack) -> None:
        self._device = device
        # By identity: a step's hash would go through all of its resources.
        distinct = list({id(step): step for step in steps}.values())
        self._pool = vk.make(made, "DescriptorPool", device.handle, self._pool_info(distinct))
        self._sets = {id(step): self._make_set(step) for step in distinct}

    def record(self, command_buffer: Any, steps: Sequence[Step]) -> None:
        """Record steps, each after what it waits for."""
        for position, step in enumerate(steps):
            if step.discards:
                _image_barrier(command_buffer, [image.handle for image in step.discards])
            elif step.waits and position:
                barrier(command_buffer)
            _record_step(command_buffer, step, self._sets[id(step)])

    def _pool_info(self, steps: Sequence[Step]) -> Any:
        types = [kind for step in steps for kind in step.pipeline.descriptor_types]
        sizes = [
            vk.VkDescriptorPoolSize(type=kind, descriptorCount=types.count(kind))
            for kind in sorted(set(types))
        ]
        return vk.VkDescriptorPoolCreateInfo(maxSets=len(steps), pPoolSizes=sizes)

    def _make_set(self, step: Step) -> Any:
        layouts = [step.pipeline.set_layout]
        info = vk.VkDescriptorSetAllocateInfo(descriptorPool=self._pool, pSetLayouts=layouts)
        descriptor_set = vk.vkAllocateDescriptorSets(self._device.handle, info)[0]
        targets: list[list[Any]] = []  # kept alive until the update
        writes = []
        for binding, (kind, resource) in enumerate(
            zip(step.pipeline.descriptor_types, step.resources, strict=True)
        ):
            common = {
                "dstSet": descriptor_set,
                "dstBinding": binding,
                "descriptorCount": 1,
                "descriptorType": kind,
            }
            if isinstance(resource, Buffer) != (kind == vk.VK_DESCRIPTOR_TYPE_STORAGE_BUFFER):
                raise TypeError(f"binding {binding} cannot take a {type(resource).__name__}")
            if isinstance(resource, Buffer):
                targets.append(
                    [vk.VkDescriptorBufferInfo(buffer=resource.handle, range=resource.size)]
                )
                writes.append(vk.VkWriteDescriptorSet(pBufferInfo=targets[-1], **common))
            else:
                targets.append(
                    [
                        vk.VkDescriptorImageInfo(
                            imageView=resource.storage_view
                            if kind == vk.VK_DESCRIPTOR_TYPE_STORAGE_IMAGE
                            else resource.view,
                            imageLayout=vk.VK_IMAGE_LAYOUT_GENERAL,
                        )
                    ]
                )
                writes.append(vk.VkWriteDescriptorSet(pImageInfo=targets[-1], **common))
        vk.vkUpdateDescriptorSets(self._device.handle, len(writes), writes, 0, None)
        return descriptor_set


_STAGES = 0x800 | 0x1000  # compute shader, transfer
_HOST_STAGE = 0x4000
_ACCESS = 0x20 | 0x40 | 0x800 | 0x1000  # shader and transfer, read and write
_WRITES = 0x40 | 0x1000
_HOST_READ = 0x2000


def barrier(command_buffer: Any, *, to_host: bool = False) -> None:
    """Make everything before visible to everything after: on the device, or to the host."""
    memory = vk.VkMemoryBarrier(
        srcAccessMask=_WRITES, dstAccessMask=_HOST_READ if to_host else _ACCESS
    )
    stages = _HOST_STAGE if to_host else _STAGES
    vk.vkCmdPipelineBarrier(command_buffer, _STAGES, stages, 0, 1, [memory], 0, None, 0, None)


def _image_barrier(command_buffer: Any, images: Sequence[Any]) -> None:
    """Do as :func:`barrier`, and bring images whose contents do not matter into layout GENERAL."""
    memory = vk.VkMemoryBarrier(srcAccessMask=_WRITES, dstAccessMask=_ACCESS)
    everything = vk.VkImageSubresourceRange(
        aspectMask=vk.VK_IMAGE_ASPECT_COLOR_BIT, levelCount=1, layerCount=1
    )
    transitions = [
        vk.VkImageMemoryBarrier(
            srcAccessMask=_WRITES,
            dstAccessMask=_ACCESS,
            oldLayout=vk.VK_IMAGE_LAYOUT_UNDEFINED,
            newLayout=vk.VK_IMAGE_LAYOUT_GENERAL,
            srcQueueFamilyIndex=vk.VK_QUEUE_FAMILY_IGNORED,
            dstQueueFamilyIndex=vk.VK_QUEUE_FAMILY_IGNORED,
            image=image,
            subresourceRange=everything,
        )
        for image in images
    ]
    vk.vkCmdPipelineBarrier(
        command_buffer, _STAGES, _STAGES, 0, 1, [memory], 0, None, len(transitions), transitions
    )


def _record_step(command_buffer: Any, step: Step, descriptor_set: Any) -> None:
    pipeline = step.pipeline
    vk.vkCmdBindPipeline(command_buffer, vk.VK_PIPELINE_BIND_POINT_COMPUTE, pipeline.handle)
    vk.vkCmdBindDescriptorSets(
        command_buffer,
        vk.VK_PIPELINE_BIND_POINT_COMPUTE,
        pipeline.layout,
        0,
        1,
        [descriptor_set],
        0,
        None,
    )
    for push_constants, groups in step.parts:
        data = vk.ffi.from_buffer(push_constants)
        vk.vkCmdPushConstants(
            command_buffer,
            pipeline.layout,
            vk.VK_SHADER_STAGE_COMPUTE_BIT,
            0,
            len(push_constants),
            data,
        )
        vk.vkCmdDispatch(command_buffer, *groups)
