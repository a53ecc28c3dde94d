"""Samples of a duration: median and quartiles."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


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
