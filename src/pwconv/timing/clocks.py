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

from pwconv import shaders
from pwconv.context import Context
from pwconv.dispatch import MOST_TRIPS
from pwconv.timing.stopwatch import Sample, Stopwatch, summarize
from pwconv.vk.commands import Dispatch, Groups, Recording
from pwconv.vk.cooperative_matrix import Matrix
from pwconv.vk.resources import DEVICE, Buffer

MAX_DRIFT = 0.05
ATTEMPTS = 4
SPIN_SECONDS = 0.35

_CALIBRATIONS = 5
_T = TypeVar("_T")

# Twice the last-level cache of the largest GPUs: what a chain comes back to has left the cache.
ROTATED_BYTES = 100 << 20
_MOST_PAIRS = 256
_MOST_PAIRS_CPU = 2

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


class FmaKernel:
    """A kernel of a given length, that needs no memory to speak of.

    Parameters
    ----------
    context : Context
    dtype : "fp32" or "fp16"
    invocations : int
        Fewer where a buffer cannot hold a vec4 of each.
    """

    def __init__(self, context: Context, dtype: str, invocations: int) -> None:
        self._context = context
        self._variant = shaders.variant("bench_fma", dtype=dtype)
        most: int = context.limits["maxStorageBufferRange"] // 16
        self._invocations = min(invocations, most)
        self._result = Buffer(context, 16 * self._invocations, DEVICE)

    def dispatch(self, iterations: int) -> Dispatch:
        """Return a dispatch of so many rounds of the shader's loop."""
        plan = self._context.plan(
            self._variant,
            (self._invocations, 1, 1),
            {
                "invocations": self._invocations,
                "iterations": iterations,
                # Towards 1, from anywhere: neither infinite nor denormal, in either type.
                "factor": 0.5,
                "addend": 0.5,
            },
            shape=(256, 1, 1),
        )
        return Dispatch(plan, {"result": self._result})

    def flop(self, iterations: int) -> int:
        """Return the multiplications and additions of :meth:`dispatch`."""
        defines = self._variant.defines
        multiply_adds = 4 * int(defines["CHAINS"]) * int(defines["STEPS"]) * iterations
        return 2 * multiply_adds * self._invocations


class MatrixKernel:
    """A kernel of a given length, that needs no memory to speak of.

    Parameters
    ----------
    context : Context
    matrix : Matrix
    variant : Variant
        As :func:`measurable` pairs them.
    invocations : int
        A multiple of the workgroup's; fewer where a buffer cannot hold a number of each.
    """

    def __init__(
        self, context: Context, matrix: Matrix, variant: shaders.Variant, invocations: int
    ) -> None:
        self._context = context
        self._matrix = matrix
        self._variant = variant
        assert variant.workgroup is not None
        width = variant.workgroup[0]
        most: int = context.limits["maxStorageBufferRange"] // 4 // width * width
        self._invocations = min(invocations, most)
        self._result = Buffer(context, 4 * self._invocations, DEVICE)

    def dispatch(self, iterations: int) -> Dispatch:
        """Return a dispatch of so many rounds of the shader's loop."""
        plan = self._context.plan(
            self._variant,
            (self._invocations, 1, 1),
            {"iterations": iterations, "factor": 1.0},
            {
                "MATRIX_M": self._matrix.m,
                "MATRIX_N": self._matrix.n,
                "MATRIX_K": self._matrix.k,
            },
        )
        return Dispatch(plan, {"result": self._result})

    def flop(self, iterations: int) -> int:
        """Return the multiplications and additions of :meth:`dispatch`."""
        defines, matrix = self._variant.defines, self._matrix
        subgroups = self._invocations // int(self._context.limits["subgroupSize"])
        products = int(defines["CHAINS"]) * int(defines["STEPS"]) * iterations * subgroups
        return 2 * matrix.m * matrix.n * matrix.k * products


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
