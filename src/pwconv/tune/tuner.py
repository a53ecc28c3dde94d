"""Tuning: the fastest variant of a problem, if it beats the default, kept for later runs.

Screen: time every candidate briefly and drop those 30 % slower than the best. Head-to-head: time
the rest in interleaved rounds, then compare the fastest with the default in fresh rounds, since the
best of many owes part of its time to luck. The rival wins if it is faster by :data:`LEAST_GAIN`,
the quartiles of the two lie apart, and the clocks held.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pwconv import transfer
from pwconv.context import Context
from pwconv.errors import (
    ClosedError,
    DeviceLostError,
    OutOfMemoryError,
    PwconvError,
    ValidationError,
)
from pwconv.heuristics import Choice
from pwconv.layout import Shape4
from pwconv.ops import matmul
from pwconv.ops.convolution import Problem, Task
from pwconv.tensor import acquire_resource
from pwconv.timing.clocks import ClockCheck, Clocks, chain_lengths, rotation, serial
from pwconv.timing.stopwatch import Sample, summarize
from pwconv.tune.store import Key, Store, Winner
from pwconv.vk.commands import Dispatch, Groups, Size3
from pwconv.vk.pipelines import at_once
from pwconv.vk.resources import Resource

_log = logging.getLogger(__name__)

MODES = ("off", "cached", "on-demand")
LEAST_GAIN = 0.02

# Workgroup sizes to try where a variant leaves it open; the first axis is along M, the second N.
_WORKGROUPS: tuple[Size3, ...] = ((8, 8, 1), (32, 8, 1), (64, 1, 1), (32, 2, 1), (16, 4, 1))

# Candidates are dropped at this multiple of the fastest time, and beyond so many.
_BEHIND, _MOST_HEAD_TO_HEAD = 1.3, 6
_SHORT_SECONDS, _LONG_SECONDS, _LEAST_SECONDS = 100e-6, 50e-3, 1e-7
_SCREEN_REPETITIONS = 8  # a short dispatch is timed with a microsecond or two of its surroundings
# Between equals, quartiles of 15 rounds lie apart by chance once in some 300 times, of 31 never.
_FIRST_ROUNDS, _FINAL_ROUNDS = (3, 9), (15, 31)
# Drivers take a submission that runs for seconds for one that hangs.
_SUBMISSION_SECONDS = 0.5
_NOISE_ELEMENTS = 2**20 - 3  # a prime: channels differ

_FATAL = (ClosedError, DeviceLostError, OutOfMemoryError, ValidationError)


def tuning_mode() -> str:
    """Return the mode in ``$PWCONV_TUNE``: "off", "cached" (the default) or "on-demand".

    Raises
    ------
    PwconvError
        It says something else.
    """
    value = os.environ.get("PWCONV_TUNE") or "cached"
    if value not in MODES:
        raise PwconvError(f"PWCONV_TUNE is {value!r}; it must be one of {', '.join(MODES)}")
    return value


class Tuner:
    """Selects a layer's variant on one device: the tuned one, else the heuristic's.

    Parameters
    ----------
    context : Context
    mode : "off", "cached" or "on-demand"

    Attributes
    ----------
    store : Store
    """

    def __init__(self, context: Context, mode: str) -> None:
        self.store = Store(context.info)
        self._context = context
        self._mode = mode
        self._winners: dict[Key, Winner] | None = None
        self._clocks: Clocks | None = None

    def choose(self, task: Task) -> Choice:
        """Return the variant for a task; in mode "on-demand" measure it if no winner is known.

        Raises
        ------
        UnsupportedError
            The device can run no variant, for lack of a feature or because all are denied.
        """
        default = matmul.choose(self._context, task.problem, task.weight_storage)
        if self._mode == "off":
            return default
        with self._context.lock:
            choice = self._recall(task, default)
            if choice is None and self._mode == "on-demand":
                if task.operator.parameters[0].on_device:
                    at_once(self._tune_quietly, task)  # it runs what it asks for
                choice = self._recall(task, default)
        return choice or default

    def tune(self, task: Task) -> Outcome:
        """Measure a task and keep the winner, unless the clocks did not hold.

        Raises
        ------
        OutOfMemoryError
            There is no room for inputs and outputs to measure on.
        OSError
            The file cannot be written; the winner is known to this process all the same.
        """
        with self._context.lock:
            self._clocks = self._clocks or Clocks(self._context)
            outcome = measure(self._context, self._clocks, task)
            if outcome.held:
                best, default = outcome.winner.described, outcome.default.described
                new = {Key(task.problem, task.weight_storage): Winner(*best, *default)}
                self._winners = {**self._known(), **new}
                self._winners.update(self.store.add(new))
        return outcome

    def _tune_quietly(self, task: Task) -> None:
        try:
            self.tune(task)
        except (OutOfMemoryError, MemoryError) as error:
            _log.info("%s was not measured: %s", task.problem, error)
        except OSError as error:
            # Not fatal: the next process measures it again.
            _log.info("the tuning file %s was not written: %s", self.store.file, error)

    def _recall(self, task: Task, default: Choice) -> Choice | None:
        """Return a task's winner, if its variant can still run."""
        winner = self._known().get(Key(task.problem, task.weight_storage))
        if winner is None:
            return None
        unbeaten = default.variant.name, default.workgroup
        if (winner.default_variant, winner.default_workgroup) != unbeaten:
            _log.info("%s was measured against another default", task.problem)
            return None
        if (winner.variant, winner.workgroup) == unbeaten:
            reason = f"{default.reason}; measured on this device, where nothing beats it"
            return dataclasses.replace(default, reason=reason)
        able = matmul.candidates(self._context, task.problem, task.weight_storage)
        if winner.variant not in able:
            _log.info("%r is no variant that this device runs", winner.variant)
            return None
        reason = (
            f"tuned on this device: {winner.seconds * 1e6:.1f} µs, against "
            f"{winner.default_seconds * 1e6:.1f} µs of the default, {winner.default_variant}"
        )
        return Choice(able[winner.variant], winner.workgroup, reason)

    def _known(self) -> dict[Key, Winner]:
        if self._winners is None:
            self._winners = self.store.read()
        return self._winners


class Timed(NamedTuple):
    """A candidate and its time."""

    choice: Choice
    time: Sample

    @property
    def described(self) -> tuple[str, Size3, float]:
        """Variant, workgroup and seconds, as a winner has them."""
        return self.choice.variant.name, self.choice.workgroup, self.time.median


@dataclass(frozen=True)
class Outcome:
    """The default against its fastest rival, which is None where there is no other candidate.

    ``held`` is true if the clocks held; a CPU's are not checked, interleaving must do.
    """

    default: Timed
    rival: Timed | None
    held: bool

    @property
    def gain(self) -> float:
        """The share of the default's time that the rival saves; below 0 it is slower."""
        return 1 - self.rival.time.median / self.default.time.median if self.rival else 0.0

    @property
    def rival_wins(self) -> bool:
        """True if the rival is faster by more than the noise."""
        return self.winner is self.rival

    @property
    def winner(self) -> Timed:
        """The rival, if it is faster by more than the noise, else the default."""
        default, rival = self.default, self.rival
        beaten = rival and self.gain >= LEAST_GAIN and rival.time.q3 < default.time.q1
        return rival if rival and beaten and self.held else default


def measure(context: Context, clocks: Clocks, task: Task) -> Outcome:
    """Measure the candidates of a task, on inputs and outputs of its own.

    The caller holds the device's lock.

    Raises
    ------
    OutOfMemoryError
        There is no room for the inputs and outputs.
    """
    found = candidates(context, task)
    with _inputs_and_outputs(context, task.problem, is_cpu=clocks.is_cpu) as pairs:
        default, *rivals = timed = [
            _Candidate(choice, itertools.cycle([planned.bind((x,), out) for x, out in pairs]))
            for choice, planned in found
        ]
        _screen(clocks, timed)
        rivals.sort(key=lambda rival: rival.estimate)
        rivals = [each for each in rivals if each.estimate <= rivals[0].estimate * _BEHIND]
        if len(rivals) > 1:
            rivals = rivals[:_MOST_HEAD_TO_HEAD]
            times, _ = _run_rounds(clocks, rivals, *_FIRST_ROUNDS)
            fastest = min(range(len(rivals)), key=lambda i: times[i].median)
            rivals = [rivals[fastest]]
        times, check = _run_rounds(clocks, [default, *rivals], *_FINAL_ROUNDS)
    rival = Timed(rivals[0].choice, times[1]) if rivals else None
    return Outcome(Timed(default.choice, times[0]), rival, clocks.is_cpu or check.settled)


def candidates(context: Context, task: Task) -> list[tuple[Choice, Dispatch]]:
    """Return every candidate for a task, each once, planned; the default comes first.

    A variant that the driver cannot compile is left out.
    """
    problem = task.problem
    default = matmul.choose(context, problem, task.weight_storage)
    choices = [default]
    for variant in matmul.candidates(context, problem, task.weight_storage).values():
        shapes = [default.workgroup] if variant.workgroup else _WORKGROUPS
        choices += [Choice(variant, shape, "measured") for shape in shapes]
    found: dict[tuple[str, Size3], tuple[Choice, Dispatch]] = {}
    for choice in choices:
        try:
            planned = task.dispatch(choice)
        except PwconvError as error:
            if choice is default or isinstance(error, _FATAL):
                raise
            _log.info("%s is left out: %s", choice.variant.name, error)
            continue
        # On a small grid several preferred shapes come to the same.
        found.setdefault((choice.variant.name, planned.plan.workgroup), (choice, planned))
    return list(found.values())


@dataclass
class _Candidate:
    """A choice, its dispatches over the inputs and outputs in turn, and its estimated time."""

    choice: Choice
    dispatches: Iterator[Dispatch]
    estimate: float = math.inf

    def segment(self, repetitions: int) -> Groups:
        return serial([[each]] for each in itertools.islice(self.dispatches, repetitions))


def _screen(clocks: Clocks, timed: Sequence[_Candidate]) -> None:
    """Estimate each candidate's time, in submissions sized by the time of the first."""
    first = timed[0].segment(1)
    seconds = max(clocks.stopwatch.run([first, first], clocks.hold)[-1], _LEAST_SECONDS)
    repetitions = _SCREEN_REPETITIONS if seconds < _SHORT_SECONDS else 1
    turns = 2 if seconds < _LONG_SECONDS else 1
    at_once = max(1, int(_SUBMISSION_SECONDS / (seconds * repetitions)))
    for start in range(0, len(timed), at_once):
        some = list(timed[start : start + at_once]) * turns
        times = clocks.stopwatch.run([each.segment(repetitions) for each in some], clocks.hold)
        for each, time in zip(some, times, strict=True):
            each.estimate = max(min(each.estimate, time / repetitions), _LEAST_SECONDS)


def _run_rounds(
    clocks: Clocks, timed: Sequence[_Candidate], least: int, most: int
) -> tuple[list[Sample], ClockCheck]:
    """Time candidates in interleaved rounds; return their samples and the worst clock check."""
    repetitions = [chain_lengths(each.estimate)[0] for each in timed]
    round_seconds = sum(x.estimate * r for x, r in zip(timed, repetitions, strict=True))
    at_once = max(1, int(_SUBMISSION_SECONDS / round_seconds))
    rounds = max(least, min(most, at_once))
    # Forwards, then backwards: none always follows the same one.
    orders = [range(len(timed))[:: -1 if turn % 2 else 1] for turn in range(rounds)]
    times: list[list[float]] = [[] for _ in timed]
    checks = []
    for start in range(0, rounds, at_once):
        order = list(itertools.chain(*orders[start : start + at_once]))
        seconds, check = clocks.time([timed[i].segment(repetitions[i]) for i in order])
        checks.append(check)
        for i, time in zip(order, seconds, strict=True):
            times[i].append(time)
    samples = [summarize(t, r) for t, r in zip(times, repetitions, strict=True)]
    return samples, max(checks, key=lambda check: check.drift)


@contextlib.contextmanager
def _inputs_and_outputs(
    context: Context, problem: Problem, *, is_cpu: bool
) -> Iterator[list[tuple[Resource, Resource]]]:
    """Give noise as inputs, and outputs, more of them than the device's cache holds."""
    dtype = problem.dtype
    elements = math.prod(problem.x_shape) + math.prod(problem.out_shape)
    noise = np.random.default_rng(0).standard_normal(_NOISE_ELEMENTS, np.float32)
    array = np.resize(noise.astype(dtype, copy=False), problem.x_shape)
    with contextlib.ExitStack() as stack:

        def acquire(shape: Shape4) -> Resource:
            resource = acquire_resource(context, shape, dtype, problem.storage, "scratch")
            assert resource is not None
            stack.callback(context.resources.release, resource)
            return resource

        pairs = []
        for _ in range(rotation(elements * dtype.itemsize, is_cpu=is_cpu)):
            pairs.append((acquire(problem.x_shape), acquire(problem.out_shape)))
            transfer.upload(context, array, pairs[-1][0], dtype)
        yield pairs
