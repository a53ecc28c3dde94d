"""Clock check: a GPU that has idled runs several times slower for a while.

The queue is kept busy right before anything is timed, with no work of the host's between. A fixed
calibration kernel is timed before and after; where the two differ, the samples between them were
taken while the clocks changed, and are thrown away.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pwconv.context import Context
from pwconv.dispatch import MOST_TRIPS
from pwconv.shaders import Variant, variant
from pwconv.timing.stopwatch import Sample, Stopwatch, summarize
from pwconv.vk.commands import Dispatch, Groups, Recording
from pwconv.vk.cooperative_matrix import Matrix
from pwconv.vk.resources import DEVICE, Buffer

MAX_DRIFT = 0.05
ATTEMPTS = 4
SPIN_SECONDS = 0.35

_CALIBRATIONS = 5
_SPIN_SUBMISSIONS, _SPIN_DISPATCH_SECONDS = 10, 1e-3
_T = TypeVar("_T")

# Twice the last-level cache of the largest GPUs: what a chain comes back to has left the cache.
ROTATED_BYTES = 100 << 20
_MOST_PAIRS, _MOST_PAIRS_CPU = 256, 2

SAMPLE_SECONDS = 200e-6
LAYER_SECONDS = 0.3
_MOST_SAMPLES, _LEAST_SAMPLES = 50, 5
# Each dispatch of a chain is recorded by Python: 20 µs or so.
_MOST_DISPATCHES = 5000


def rotation(activation_bytes: int, *, is_cpu: bool = False) -> int:
    """Return how many inputs and outputs of so many bytes to rotate over."""
    most = _MOST_PAIRS_CPU if is_cpu else _MOST_PAIRS
    return min(most, max(2, math.ceil(ROTATED_BYTES / activation_bytes)))


def chain_lengths(estimate: float, least: float = SAMPLE_SECONDS) -> tuple[int, int]:
    """Return repetitions a sample, and samples, for a kernel that takes about so long.

    A sample takes at least ``least`` seconds.
    """
    repetitions = min(math.ceil(least / estimate), _MOST_DISPATCHES // _LEAST_SAMPLES)
    fitting = int(LAYER_SECONDS / (estimate * repetitions))
    most = min(_MOST_SAMPLES, _MOST_DISPATCHES // repetitions)
    return repetitions, max(_LEAST_SAMPLES, min(fitting, most))


def serial(items: Iterable[Groups]) -> Groups:
    """Return items one after the other, a barrier before each, whatever depends on what."""
    return [group for item in items for group in ((), *item)]


def chain(items: Sequence[Groups], repetitions: int, samples: int) -> list[Groups]:
    """Return ``samples`` segments of ``repetitions`` items, going round the items."""
    endless = itertools.cycle(items)
    return [serial(itertools.islice(endless, repetitions)) for _ in range(samples)]


class ArithmeticKernel:
    """bench_fma.comp or bench_matrix.comp: arithmetic in registers, as long as asked for.

    Parameters
    ----------
    context : Context
    variant : Variant
        Of either shader.
    invocations : int
        A multiple of the workgroup's, where the variant has one; fewer where a buffer cannot hold
        a result of each.
    matrix : Matrix, optional
        The sizes that bench_matrix multiplies.

    Attributes
    ----------
    flop : int
        Multiplications and additions of a round of the shader's loop, over all invocations.
    """

    def __init__(
        self, context: Context, variant: Variant, invocations: int, matrix: Matrix | None = None
    ) -> None:
        self._context, self._variant = context, variant
        width = variant.workgroup[0] if variant.workgroup else 1
        result_bytes = 4 if matrix else 16  # a float, or a vec4
        most: int = context.limits["maxStorageBufferRange"] // result_bytes // width * width
        self._invocations = min(invocations, most)
        self._result = Buffer(context, result_bytes * self._invocations, DEVICE)
        self._constants: dict[str, int] = {}
        steps = 2 * int(variant.defines["CHAINS"]) * int(variant.defines["STEPS"])
        if matrix is None:
            # Towards 1, from anywhere: neither infinite nor denormal, in either type.
            self._numbers = {"invocations": self._invocations, "factor": 0.5, "addend": 0.5}
            self.flop = steps * 4 * self._invocations
        else:
            m, n, k = matrix.m, matrix.n, matrix.k
            self._numbers = {"factor": 1.0}
            self._constants = {"MATRIX_M": m, "MATRIX_N": n, "MATRIX_K": k}
            subgroups = self._invocations // int(context.limits["subgroupSize"])
            self.flop = steps * m * n * k * subgroups

    def dispatch(self, iterations: int) -> Dispatch:
        """Return a dispatch of so many rounds of the shader's loop."""
        numbers = {**self._numbers, "iterations": iterations}
        grid = (self._invocations, 1, 1)
        plan = self._context.plan(self._variant, grid, numbers, self._constants, shape=(256, 1, 1))
        return Dispatch(plan, {"result": self._result})


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
    stopwatch : Stopwatch, optional

    Attributes
    ----------
    stopwatch : Stopwatch
    is_cpu : bool
    attempts : int
        Most times that samples are taken.
    invocations : int
        Of the calibration kernel.
    """

    def __init__(self, context: Context, stopwatch: Stopwatch | None = None) -> None:
        self.stopwatch = stopwatch or Stopwatch(context)
        self.is_cpu = context.info.type == "cpu"
        # A CPU's other work makes the check fail at random: its figures are kept, once taken.
        self.attempts = 1 if self.is_cpu else ATTEMPTS
        self.invocations = 2**12 if self.is_cpu else 2**19  # enough to fill any GPU
        fma = ArithmeticKernel(context, variant("bench_fma", dtype="fp32"), self.invocations)
        calibration = fma.dispatch(self.iterations(fma, 10e-3 if self.is_cpu else 200e-6))
        self._calibration: list[Groups] = [[[calibration]]] * _CALIBRATIONS
        self._spin: Recording | None = None
        if not self.is_cpu:
            spin = [[fma.dispatch(self.iterations(fma, _SPIN_DISPATCH_SECONDS))]]
            count = round(SPIN_SECONDS / _SPIN_SUBMISSIONS / _SPIN_DISPATCH_SECONDS)
            self._spin = Recording(context.queue, spin * count)

    def hold(self) -> None:
        """Keep the queue busy for :data:`SPIN_SECONDS`; returns at once."""
        if self._spin is not None:
            for _ in range(_SPIN_SUBMISSIONS):
                self._spin.submit()

    def iterations(self, kernel: ArithmeticKernel, seconds: float) -> int:
        """Return the iterations of a kernel that take so long, with the clocks up."""
        iterations = 1
        while True:
            # Many in a row: the clocks rise while they run, and the last is what counts.
            segments: list[Groups] = [[[kernel.dispatch(iterations)]]]
            found = self.stopwatch.run(segments * (2 if self.is_cpu else 100))[-1]
            if found >= seconds / 4 or iterations >= MOST_TRIPS:
                return min(max(1, round(iterations * seconds / found)), MOST_TRIPS)
            iterations *= 4

    def estimate(self, groups: Groups) -> float:
        """Estimate the time of groups, with the clocks up."""
        repetitions, segments = (1, 1) if self.is_cpu else (8, 2)
        seconds = self.stopwatch.run([serial([groups] * repetitions)] * segments, self.hold)
        return max(seconds[-1] / repetitions, 1e-7)

    def calibrate(self) -> float:
        """Return the calibration kernel's time as the clocks are now."""
        return statistics.median(self.stopwatch.run(self._calibration))

    def time(self, segments: Sequence[Groups]) -> tuple[list[float], ClockCheck]:
        """Return the seconds of each segment, with the calibration kernel before and after."""
        timed = [*self._calibration, *segments, *self._calibration]
        some = len(self._calibration)

        def take() -> tuple[float, list[float], float]:
            seconds = self.stopwatch.run(timed, self.hold)
            before, after = statistics.median(seconds[:some]), statistics.median(seconds[-some:])
            return before, seconds[some:-some], after

        return until_settled(take, self.attempts)

    def sample(self, segments: Sequence[Groups], repetitions: int = 1) -> tuple[Sample, ClockCheck]:
        """Time segments, each of so many repetitions, as samples of one."""
        seconds, check = self.time(segments)
        return summarize(seconds, repetitions), check
