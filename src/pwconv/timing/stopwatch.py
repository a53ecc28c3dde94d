"""Timing segments of dispatches: by the device's own clock, or by the host's where it has none."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pwconv.context import Context
from pwconv.errors import UnsupportedError
from pwconv.vk.commands import Groups, Recording
from pwconv.vk.timestamps import TimedRecording, timestamp_clock


@dataclass(frozen=True)
class Sample:
    """Median and quartiles of a duration, in seconds.

    Attributes
    ----------
    median, q1, q3 : float
    count : int
        Count of samples.
    repetitions : int
        Runs that each sample is the mean of.
    """

    median: float
    q1: float
    q3: float
    count: int
    repetitions: int

    @property
    def spread(self) -> float:
        """The distance of the quartiles, as a share of the median."""
        return (self.q3 - self.q1) / self.median


def summarize(seconds: Sequence[float], repetitions: int = 1) -> Sample:
    """Return median and quartiles of durations, each of so many runs.

    Raises
    ------
    ValueError
        There are none.
    """
    if not seconds:
        raise ValueError("there are no samples")
    each = [duration / repetitions for duration in seconds]
    q1, median, q3 = (
        statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    )
    return Sample(median, q1, q3, len(each), repetitions)


class Stopwatch:
    """Times segments of dispatches: by timestamps of the device, or by the host's clock.

    Attributes
    ----------
    method : str
        How, in words.
    note : str or None
        Why the device has no timestamps, for reports.
    """

    def __init__(self, context: Context) -> None:
        self._queue = context.queue
        self.method = "GPU timestamps around chains of dispatches, a barrier between any two"
        self.note: str | None = None
        try:
            timestamp_clock(context)
        except UnsupportedError as error:
            self.method = "host clock around submissions, waited for: their overhead is included"
            self.note = f"{error}; times are the host's"

    def run(
        self, segments: Sequence[Groups], before: Callable[[], None] = lambda: None
    ) -> list[float]:
        """Return the seconds that each segment took.

        ``before`` is called when everything is recorded: what it submits runs first, and the
        segments follow on the queue with no work of the host's between. By timestamps they are one
        submission; the host waits for each.
        """
        queue = self._queue
        if self.note is None:
            timed = TimedRecording(queue, segments)
            before()
            queue.wait(queue.submit(timed.command_buffer, awaited=True))
            return timed.seconds()
        recordings = [Recording(queue, groups) for groups in segments]
        before()
        queue.wait()
        seconds = []
        for recording in recordings:
            start = time.perf_counter()
            queue.wait(recording.submit(awaited=True))
            seconds.append(time.perf_counter() - start)
        return seconds
