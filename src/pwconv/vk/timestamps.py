"""GPU timestamps around segments of dispatches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pwconv.errors import DeviceLostError, UnsupportedError
from pwconv.vk import api as vk
from pwconv.vk.barriers import record_barrier
from pwconv.vk.commands import Groups, Recorder
from pwconv.vk.core import Core
from pwconv.vk.queue import Queue
from pwconv.vk.resources import DeviceObject

_WORD = 8


@dataclass(frozen=True)
class TimestampClock:
    """Conversion of two timestamps to seconds.

    Attributes
    ----------
    bits : int
        Valid bits of a timestamp; it wraps around past them.
    period : float
        Nanoseconds a tick.
    """

    bits: int
    period: float

    def seconds(self, first: int, last: int) -> float:
        """Return the time from one timestamp to a later one."""
        return ((last - first) & ((1 << self.bits) - 1)) * self.period * 1e-9


def timestamp_clock(core: Core) -> TimestampClock:
    """Return the clock of the device's compute queue.

    Raises
    ------
    UnsupportedError
        The queue writes no timestamps.
    """
    families = vk.vkGetPhysicalDeviceQueueFamilyProperties(core.physical.handle)
    bits = families[core.family].timestampValidBits
    period = core.info.limits["timestampPeriod"]
    if not bits or period <= 0:
        raise UnsupportedError(
            f"{core.info.name} has no timestamps: timestampValidBits = {bits}, "
            f"timestampPeriod = {period} ns"
        )
    return TimestampClock(bits, period)


class TimedRecording(DeviceObject):
    """Segments of dispatches, each between two timestamps.

    A segment's time runs from the end of everything before it to the end of its last dispatch.
    Submit it to the queue, wait, and read :meth:`seconds`; it must not be in flight twice.

    Parameters
    ----------
    queue : Queue
    segments : sequence of Groups
        The same Dispatch may come any number of times.

    Raises
    ------
    UnsupportedError
        The queue writes no timestamps.
    """

    def __init__(self, queue: Queue, segments: Sequence[Groups]) -> None:
        self._core = core = queue.core
        self._clock = timestamp_clock(core)
        self._count = 2 * len(segments)
        info = vk.VkQueryPoolCreateInfo(
            queryType=vk.VK_QUERY_TYPE_TIMESTAMP, queryCount=self._count
        )
        with self._making(core) as made:
            every = [group for groups in segments for group in groups]
            self._recorder = Recorder(queue, every, made)
            self._queries = vk.make(made, "QueryPool", core.handle, info)
            self.command_buffer = queue.record(
                lambda command_buffer: self._record(command_buffer, segments), made
            )

    def seconds(self) -> list[float]:
        """Return each segment's time, once the submission is done."""
        words = vk.ffi.new("uint64_t[]", self._count)
        flags = vk.VK_QUERY_RESULT_64_BIT | vk.VK_QUERY_RESULT_WAIT_BIT
        with self._core.in_use():
            try:
                vk.vkGetQueryPoolResults(
                    self._core.handle,
                    self._queries,
                    0,
                    self._count,
                    _WORD * self._count,
                    words,
                    _WORD,
                    flags,
                )
            except DeviceLostError:
                self._core.lose()
                raise
        return [self._clock.seconds(words[i], words[i + 1]) for i in range(0, self._count, 2)]

    def _record(self, command_buffer: Any, segments: Sequence[Groups]) -> None:
        vk.vkCmdResetQueryPool(command_buffer, self._queries, 0, self._count)
        # At the bottom of the pipe a timestamp is written when all before it has finished.
        bottom = vk.VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT
        for position, groups in enumerate(segments):
            record_barrier(command_buffer)
            vk.vkCmdWriteTimestamp(command_buffer, bottom, self._queries, 2 * position)
            self._recorder.record(groups, command_buffer)
            vk.vkCmdWriteTimestamp(command_buffer, bottom, self._queries, 2 * position + 1)
