"""Timing segments of dispatches: by the device's own clock, or by the host's where it has none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from pwconv.context import Context
from pwconv.errors import UnsupportedError
from pwconv.vk.commands import Groups, Recording
from pwconv.vk.timestamps import TimedRecording, timestamp_clock

Segments = Sequence[Groups]


class Stopwatch(Protocol):
    """Times segments of dispatches.

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

    def __init__(self, context: Context) -> None:
        timestamp_clock(context)  # raises where there is none
        self._context = context

    def run(self, segments: Segments, before: Callable[[], None] = lambda: None) -> list[float]:
        """Time the segments in one submission."""
        recording = TimedRecording(self._context.queue, segments)
        before()
        queue = self._context.queue
        queue.wait(queue.submit(recording.command_buffer, awaited=True))
        return recording.seconds()


class HostStopwatch:
    """The host's clock, around a submission and a wait for each segment."""

    method = "host clock around submissions, waited for: their overhead is included"

    def __init__(self, context: Context) -> None:
        self._context = context

    def run(self, segments: Segments, before: Callable[[], None] = lambda: None) -> list[float]:
        """Time the segments, a submission each."""
        queue = self._context.queue
        recordings = [Recording(queue, groups) for groups in segments]
        before()
        queue.wait()
        seconds = []
        for recording in recordings:
            start = time.perf_counter()
            queue.wait(recording.submit(awaited=True))
            seconds.append(time.perf_counter() - start)
        return seconds


def make_stopwatch(context: Context) -> tuple[Stopwatch, str | None]:
    """Return the best stopwatch for a device, and a note on it for reports."""
    try:
        return GpuStopwatch(context), None
    except UnsupportedError as error:
        return HostStopwatch(context), f"{error}; times are the host's"
