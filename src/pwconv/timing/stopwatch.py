"""Timing segments of steps: by the device's own clock, or by the host's where it has none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from pwconv.errors import UnsupportedError
from pwconv.vk.commands import Recording, Step
from pwconv.vk.logical_device import LogicalDevice
from pwconv.vk.timestamps import TimedRecording, timestamp_clock

Segments = Sequence[Sequence[Step]]


class Stopwatch(Protocol):
    """Times segments of steps.

    Attributes
    ----------
    method : str
        How, in words.
    """

    method: str

    def run(self, segments: Segments, before: Callable[[], None] = lambda: None) -> list[float]:
        """Return the seconds that each segment took.

        ``before`` is called when everything is recorded: what it submits runs first, and the
        segments follow on the queue with no work of the host's between.
        """


class GpuStopwatch:
    """Timestamps that the device writes."""

    method = "GPU timestamps around chains of dispatches, a barrier between any two"

    def __init__(self, device: LogicalDevice) -> None:
        timestamp_clock(device)  # raises where there is none
        self._device = device

    def run(self, segments: Segments, before: Callable[[], None] = lambda: None) -> list[float]:
        """Time the segments in one submission."""
        recording = TimedRecording(self._device, segments)
        before()
        queue = self._device.queue
        queue.wait(queue.submit(recording.command_buffer, awaited=True))
        return recording.seconds()


class HostStopwatch:
    """The host's clock, around a submission and a wait for each segment."""

    method = "host clock around submissions, waited for: their overhead is included"

    def __init__(self, device: LogicalDevice) -> None:
        self._device = device

    def run(self, segments: Segments, before: Callable[[], None] = lambda: None) -> list[float]:
        """Time the segments, a submission each."""
        queue = self._device.queue
        recordings = [Recording(self._device, steps, host_reads=False) for steps in segments]
        before()
        queue.wait()
        seconds = []
        for recording in recordings:
            start = time.perf_counter()
            queue.wait(recording.submit(awaited=True))
            seconds.append(time.perf_counter() - start)
        return seconds


def make_stopwatch(device: LogicalDevice) -> tuple[Stopwatch, str | None]:
    """Return the best stopwatch for a device, and what is to be said of it."""
    try:
        return GpuStopwatch(device), None
    except UnsupportedError as error:
        return HostStopwatch(device), f"{error}; times are the host's"
