"""Tuning of a problem: the fastest of its variants, if it beats the default.

Heat: time every candidate briefly and drop those 30 % slower than the best. Race: time the rest in
interleaved rounds. Duel: compare the fastest with the default in fresh rounds, since the winner of
a race of many owes part of its time to luck. The rival wins if it is faster by :data:`LEAST_GAIN`,
the quartiles of the two lie apart, and the clocks held.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pwconv.context import Context
from pwconv.errors import (
    ClosedError,
    DeviceLostError,
    OutOfMemoryError,
    PwconvError,
    ValidationError,
)
from pwconv.kernels import conv2d_pw_choice, transfer
from pwconv.kernels.conv2d_pw import Problem, Task, plan_conv2d_pw
from pwconv.kernels.tiling import Choice
from pwconv.layout import Shape4
from pwconv.tensor import acquire_resource
from pwconv.timing.clocks import ClockCheck, Clocks, chain_lengths, rotation, serial
from pwconv.timing.stopwatch import Sample, summarize
from pwconv.vk.commands import Dispatch, Groups, Plan, Size3
from pwconv.vk.resources import Resource

_log = logging.getLogger(__name__)

LEAST_GAIN = 0.02

# Workgroup sizes to try where a variant leaves it open; the first axis is along M, the second N.
_WORKGROUPS: tuple[Size3, ...] = ((8, 8, 1), (32, 8, 1), (64, 1, 1), (32, 2, 1), (16, 4, 1))

# Candidates leave the race at this multiple of the fastest time, and beyond so many.
_BEHIND = 1.3
_MOST_IN_RACE = 6
_LEAST_SECONDS = 1e-7
_SHORT_SECONDS, _LONG_SECONDS = 100e-6, 50e-3
_HEAT_REPETITIONS = 8  # a short dispatch is timed with a microsecond or two of its surroundings
_RACE_ROUNDS = (3, 9)
# Between equals, quartiles of 15 rounds lie apart by chance once in some 300 duels, of 31 never.
_DUEL_ROUNDS = (15, 31)
_ROUNDS_SECONDS = 0.5
# Drivers take a submission that runs for seconds for one that hangs.
_SUBMISSION_SECONDS = 0.5
_NOISE_ELEMENTS = 2**20 - 3  # a prime: channels differ

_FATAL = (ClosedError, DeviceLostError, OutOfMemoryError, ValidationError)


@dataclass(frozen=True)
class Outcome:
    """The default against its fastest rival.

    Attributes
    ----------
    default : Choice
    default_time : Sample
    rival : Choice or None
        None where the device can run the default alone.
    rival_time : Sample or None
    clocks : ClockCheck
    held : bool
        True if the clocks held; a CPU's are not checked, interleaving must do.
    tried : int
        Count of candidates, the default included.
    """

    default: Choice
    default_time: Sample
    rival: Choice | None
    rival_time: Sample | None
    clocks: ClockCheck
    held: bool
    tried: int

    @property
    def gain(self) -> float:
        """The share of the default's time that the rival saves; below 0 it is slower."""
        if self.rival_time is None:
            return 0.0
        return 1 - self.rival_time.median / self.default_time.median

    @property
    def rival_wins(self) -> bool:
        """True if the rival is faster by more than the noise."""
        return (
            self.held
            and self.rival_time is not None
            and self.gain >= LEAST_GAIN
            and self.rival_time.q3 < self.default_time.q1
        )

    @property
    def winner(self) -> tuple[Choice, Sample]:
        """The winner, and its time."""
        if self.rival is not None and self.rival_time is not None and self.rival_wins:
            return self.rival, self.rival_time
        return self.default, self.default_time


def race(context: Context, clocks: Clocks, task: Task) -> Outcome:
    """Measure the candidates of a task, on inputs and outputs of its own.

    The caller holds the device's lock.

    Raises
    ------
    OutOfMemoryError
        There is no room for the inputs and outputs.
    """
    found = entrants(context, task)
    with _scratch(context, task.problem, is_cpu=clocks.is_cpu) as pairs:
        lanes = [
            _Lane(choice, itertools.cycle([task.bind(plan, x, out) for x, out in pairs]))
            for choice, plan in found
        ]
        _run_heat(clocks, lanes)
        default, *rivals = lanes
        rivals.sort(key=lambda lane: lane.estimate)
        ahead = [lane for lane in rivals if lane.estimate <= rivals[0].estimate * _BEHIND]
        fastest = ahead[:1]
        if len(ahead) > 1:
            ahead = ahead[:_MOST_IN_RACE]
            times, _ = _run_rounds(clocks, ahead, *_RACE_ROUNDS)
            fastest = [min(zip(times, ahead, strict=True), key=lambda pair: pair[0].median)[1]]
        times, check = _run_rounds(clocks, [default, *fastest], *_DUEL_ROUNDS)
    return Outcome(
        default=default.choice,
        default_time=times[0],
        rival=fastest[0].choice if fastest else None,
        rival_time=times[1] if fastest else None,
        clocks=check,
        held=clocks.is_cpu or check.settled,
        tried=len(lanes),
    )


def entrants(context: Context, task: Task) -> list[tuple[Choice, Plan]]:
    """Return every candidate for a task, each once, planned; the default comes first.

    A variant that the driver cannot compile is left out.
    """
    problem = task.problem
    default = conv2d_pw_choice.choose(context, problem, task.weight_storage)
    able = conv2d_pw_choice.candidates(context, problem, task.weight_storage)
    choices = [default]
    for variant in able.values():
        shapes = [default.workgroup] if variant.workgroup else _WORKGROUPS
        choices += [Choice(variant, shape, "measured") for shape in shapes]
    found: dict[tuple[str, Size3], tuple[Choice, Plan]] = {}
    for choice in choices:
        try:
            plan = plan_conv2d_pw(
                context, choice.variant, problem, task.activation, choice.workgroup
            )
        except PwconvError as error:
            if choice is default or isinstance(error, _FATAL):
                raise
            _log.info("%s is left out: %s", choice.variant.name, error)
            continue
        # On a small grid several preferred shapes come to the same.
        found.setdefault((choice.variant.name, plan.workgroup), (choice, plan))
    return list(found.values())


@dataclass
class _Lane:
    """A candidate, its dispatches over the inputs and outputs in turn, and its estimated time."""

    choice: Choice
    dispatches: Iterator[Dispatch]
    estimate: float = math.inf

    def segment(self, repetitions: int) -> Groups:
        return serial([[each]] for each in itertools.islice(self.dispatches, repetitions))


def _run_heat(clocks: Clocks, lanes: Sequence[_Lane]) -> None:
    """Estimate each lane's time, in submissions sized by the time of the first."""
    first = lanes[0].segment(1)
    seconds = clocks.stopwatch.run([first, first], clocks.hold)[-1]
    repetitions = _HEAT_REPETITIONS if seconds < _SHORT_SECONDS else 1
    turns = 2 if seconds < _LONG_SECONDS else 1
    at_once = max(1, int(_SUBMISSION_SECONDS / (max(seconds, _LEAST_SECONDS) * repetitions)))
    for start in range(0, len(lanes), at_once):
        some = list(lanes[start : start + at_once]) * turns
        times = clocks.stopwatch.run([x.segment(repetitions) for x in some], clocks.hold)
        for lane, time in zip(some, times, strict=True):
            lane.estimate = max(min(lane.estimate, time / repetitions), _LEAST_SECONDS)


def _run_rounds(
    clocks: Clocks, lanes: Sequence[_Lane], least: int, most: int
) -> tuple[list[Sample], ClockCheck]:
    """Time the lanes in interleaved rounds; return their samples and the worst clock check."""
    repetitions = [chain_lengths(lane.estimate)[0] for lane in lanes]
    round_seconds = sum(x.estimate * r for x, r in zip(lanes, repetitions, strict=True))
    rounds = max(least, min(most, int(_ROUNDS_SECONDS / round_seconds)))
    at_once = max(1, int(_SUBMISSION_SECONDS / round_seconds))
    times: list[list[float]] = [[] for _ in lanes]
    checks = []
    for start in range(0, rounds, at_once):
        order: list[int] = []
        for turn in range(start, min(start + at_once, rounds)):
            # Forwards, then backwards: no lane always follows the same one.
            order += range(len(lanes))[:: -1 if turn % 2 else 1]
        seconds, check = clocks.time([lanes[i].segment(repetitions[i]) for i in order])
        checks.append(check)
        for i, time in zip(order, seconds, strict=True):
            times[i].append(time)
    samples = [summarize(t, r) for t, r in zip(times, repetitions, strict=True)]
    return samples, max(checks, key=lambda check: check.drift)


@contextlib.contextmanager
def _scratch(
    context: Context, problem: Problem, *, is_cpu: bool
) -> Iterator[list[tuple[Resource, Resource]]]:
    """Give noise as inputs, and outputs, more of them than the device's cache holds."""
    dtype = problem.dtype
    elements = math.prod(problem.x_shape) + math.prod(problem.out_shape)
    noise = np.random.default_rng(0).standard_normal(_NOISE_ELEMENTS, np.float32)
    array = np.resize(noise.astype(dtype, copy=False), problem.x_shape)
    resources: list[Resource] = []

    def acquire(shape: Shape4) -> Resource:
        resource = acquire_resource(context, shape, dtype, problem.storage, "scratch")
        assert resource is not None
        resources.append(resource)
        return resource

    try:
        pairs = []
        for _ in range(rotation(elements * dtype.itemsize, is_cpu=is_cpu)):
            pairs.append((acquire(problem.x_shape), acquire(problem.out_shape)))
            transfer.upload(context, array, pairs[-1][0], dtype)
        yield pairs
    finally:
        for resource in resources:
            context.resources.release(resource)
