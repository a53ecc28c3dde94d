"""Clock check: a GPU that has idled runs several times slower for a while.

The queue is kept busy right before anything is timed, with no work of the host's between. A fixed
calibration kernel is timed before and after; where the two differ, the samples between them were
taken while the clocks changed, and are thrown away.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pwconv.context import Context
from pwconv.dispatch import MOST_TRIPS
from pwconv.timing.chains import serial
from pwconv.timing.fma import FmaKernel
from pwconv.timing.samples import Sample, summarize
from pwconv.timing.stopwatch import Stopwatch
from pwconv.vk.commands import Groups, Recording

MAX_DRIFT = 0.05
ATTEMPTS = 4
SPIN_SECONDS = 0.35

_CALIBRATIONS = 5
_T = TypeVar("_T")


@dataclass(frozen=True)
class ClockCheck:
    """The calibration kernel around some samples.

    Attributes
    ----------
    before, after : float
        Its median times, in seconds.
    attempts : int
        Times that the samples were taken; all but the last were thrown away.
    """

    before: float
    after: float
    attempts: int

    @property
    def drift(self) -> float:
        """Excess of the slower time over the faster one, as a share."""
        return max(self.before, self.after) / min(self.before, self.after) - 1

    @property
    def settled(self) -> bool:
        """True if the clocks held."""
        return self.drift <= MAX_DRIFT


def until_settled(
    take: Callable[[], tuple[float, _T, float]], attempts: int = ATTEMPTS
) -> tuple[_T, ClockCheck]:
    """Take samples until the clocks held, so many times at most.

    ``take()`` returns the calibration's time before, the samples, and its time after. Where the
    clocks never hold, the last samples are returned and the check says so.
    """
    for attempt in range(1, attempts + 1):
        before, samples, after = take()
        check = ClockCheck(before, after, attempt)
        if check.settled:
            break
    return samples, check


class Clocks:
    """Takes samples on a device under its clock check.

    Parameters
    ----------
    context : Context
    stopwatch : Stopwatch

    Attributes
    ----------
    is_cpu : bool
    attempts : int
        Most times that samples are taken.
    invocations, iterations : int
        Of the calibration kernel.
    """

    def __init__(self, context: Context, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch
        self.is_cpu = context.info.type == "cpu"
        # A CPU's other work makes the check fail at random: its figures are kept, once taken.
        self.attempts = 1 if self.is_cpu else ATTEMPTS
        self._device = context
        self.invocations = 2**12 if self.is_cpu else 2**19  # enough to fill any GPU
        self._fma = FmaKernel(context, "fp32", self.invocations)
        self._spin: Recording | None = None
        self.iterations = self._scaled(10e-3 if self.is_cpu else 200e-6)
        self._calibration = self._fma.dispatch(self.iterations)
        if not self.is_cpu:
            rounds = 10
            spin = [[self._fma.dispatch(self._scaled(1e-3))]] * round(SPIN_SECONDS / rounds / 1e-3)
            self._spin = Recording(context.queue, spin)
            self._rounds = rounds

    def hold(self) -> None:
        """Keep the queue busy for :data:`SPIN_SECONDS`; returns at once."""
        if self._spin is not None:
            for _ in range(self._rounds):
                self._spin.submit()

    def estimate(self, groups: Groups) -> float:
        """Estimate the time of groups, with the clocks up."""
        repetitions = 1 if self.is_cpu else 8
        segments = [serial([groups] * repetitions)] * (1 if self.is_cpu else 2)
        seconds = self.stopwatch.run(segments, self.hold)
        return max(seconds[-1] / repetitions, 1e-7)

    def calibrate(self) -> float:
        """Return the calibration kernel's time as the clocks are now."""
        return statistics.median(self.stopwatch.run([[[self._calibration]]] * _CALIBRATIONS))

    def time(self, segments: Sequence[Groups]) -> tuple[list[float], ClockCheck]:
        """Return the seconds of each segment, with the calibration kernel before and after."""
        calibration = [[[self._calibration]]] * _CALIBRATIONS

        def take() -> tuple[float, list[float], float]:
            seconds = self.stopwatch.run([*calibration, *segments, *calibration], self.hold)
            before, after = seconds[:_CALIBRATIONS], seconds[-_CALIBRATIONS:]
            samples = seconds[_CALIBRATIONS:-_CALIBRATIONS]
            return statistics.median(before), samples, statistics.median(after)

        return until_settled(take, self.attempts)

    def sample(self, segments: Sequence[Groups], repetitions: int = 1) -> tuple[Sample, ClockCheck]:
        """Time segments, each of so many repetitions, as samples of one."""
        seconds, check = self.time(segments)
        return summarize(seconds, repetitions), check

    def _scaled(self, target: float) -> int:
        """Return the iterations of the kernel for about that time, with the clocks up."""
        iterations = 1
        while True:
            dispatch = self._fma.dispatch(iterations)
            # Many in a row: the clocks rise while they run, and the last is what counts.
            seconds = self.stopwatch.run([[[dispatch]]] * (2 if self.is_cpu else 100))[-1]
            if seconds >= target / 4 or iterations >= MOST_TRIPS:
                return min(max(1, round(iterations * target / seconds)), MOST_TRIPS)
            iterations *= 4
