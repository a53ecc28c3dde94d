"""Measuring candidates: which there are, and that neither luck nor noise wins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

import pwconv
from pwconv.errors import OutOfMemoryError
from pwconv.heuristics import Choice
from pwconv.ops import convolution, matmul
from pwconv.ops.convolution import Task
from pwconv.timing.clocks import Clocks
from pwconv.timing.stopwatch import summarize
from pwconv.tune import tuner as tune
from pwconv.tune.tuner import LEAST_GAIN, Outcome, Timed, candidates, measure
from pwconv.vk.commands import Dispatch, Groups
from pwconv.vk.pipelines import Pipeline
from support import inside
from support.accuracy import random_problem

SHAPE, OUT_SHAPE = (1, 9, 5, 7), (1, 21, 5, 7)


def layer_on(device: pwconv.Device, **settings: object) -> pwconv.PointwiseConv2d:
    weight, bias = random_problem(np.random.default_rng(3), 9, 21, (1, 1), "float32")[1:]
    return pwconv.PointwiseConv2d(weight, bias, device=device, **settings)


def task_on(device: pwconv.Device, storage: str) -> Task:
    return inside.task(layer_on(device), storage, SHAPE, OUT_SHAPE)


class FakeStopwatch:
    """Says that a pipeline takes so long; any other is the calibration's, and takes 20 ms."""

    method = "made up"

    def __init__(self, seconds: dict[Pipeline, Callable[[], float]]) -> None:
        self.seconds = seconds
        self.segments: list[list[Dispatch]] = []

    def run(
        self, segments: Sequence[Groups], before: Callable[[], None] = lambda: None
    ) -> list[float]:
        flat = [[each for group in groups for each in group] for groups in segments]
        self.segments += flat
        default = itertools.repeat(20e-3).__next__
        return [sum(self.seconds.get(d.pipeline, default)() for d in segment) for segment in flat]


Measure = Callable[..., tuple[Outcome, FakeStopwatch]]


@pytest.fixture
def fake(own_device: pwconv.Device) -> Measure:
    """Measure where the first, second, … candidate takes the time that a function says."""

    def run(times: Sequence[Callable[[], float]], storage: str = "buffer") -> object:
        task = task_on(own_device, storage)
        found = candidates(inside.context(own_device), task)
        slow = itertools.repeat(1e-3).__next__
        seconds = {
            plan.pipeline: time
            for (_, plan), time in itertools.zip_longest(found, times[: len(found)], fillvalue=slow)
        }
        stopwatch = FakeStopwatch(seconds)
        clocks = Clocks(inside.context(own_device), stopwatch)
        return measure(inside.context(own_device), clocks, task), stopwatch

    return run


def steady(microseconds: float) -> Callable[[], float]:
    return itertools.repeat(microseconds * 1e-6).__next__


def noisy(microseconds: float, spread: float, seed: int) -> Callable[[], float]:
    rng = np.random.default_rng(seed)
    return lambda: float(microseconds * 1e-6 * np.exp(rng.normal(0, spread)))


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_each_candidate_comes_once_and_the_default_first(device, storage):
    task = task_on(device, storage)
    context = inside.context(device)
    found = candidates(context, task)
    default = matmul.choose(context, task.problem, task.weight_storage)
    assert found[0][0] == default
    able = matmul.candidates(context, task.problem, task.weight_storage)
    assert {choice.variant.name for choice, _ in found} == set(able)
    runs = [(choice.variant.name, planned.plan.workgroup) for choice, planned in found]
    assert len(set(runs)) == len(runs)
    if storage == "texture3d":  # these leave the workgroup open
        assert len(runs) > len(able)


def test_a_variant_that_the_driver_cannot_compile_is_left_out(device, monkeypatch):
    task = task_on(device, "buffer")
    everyone = candidates(inside.context(device), task)
    broken = everyone[1][0].variant.name

    real = convolution.plan_convolution

    def plan(context, choice, *rest):
        if choice.variant.name == broken:
            raise pwconv.PwconvError("vkCreateComputePipelines: VkErrorUnknown")
        return real(context, choice, *rest)

    monkeypatch.setattr(convolution, "plan_convolution", plan)
    found = [choice.variant.name for choice, _ in candidates(inside.context(device), task)]
    assert found == [c.variant.name for c, _ in everyone if c.variant.name != broken]
    broken = everyone[0][0].variant.name
    with pytest.raises(pwconv.PwconvError, match="VkErrorUnknown"):
        candidates(inside.context(device), task)


def test_the_fastest_wins(fake):
    outcome, _ = fake([steady(30), steady(20), steady(10), steady(25)])
    assert outcome.rival_wins
    assert outcome.winner == outcome.rival
    assert outcome.rival.time.median == pytest.approx(10e-6)
    assert outcome.default.time.median == pytest.approx(30e-6)
    assert outcome.gain == pytest.approx(2 / 3)


def test_the_default_stands_where_it_is_fastest(fake):
    outcome, _ = fake([steady(10), steady(20), steady(10.5)])
    assert not outcome.rival_wins
    assert outcome.winner == outcome.default
    assert outcome.gain == pytest.approx(-0.05)


def test_a_gain_too_small_to_matter_does_not_win(fake):
    outcome, _ = fake([steady(100), steady(100 * (1 - 0.9 * LEAST_GAIN))])
    assert outcome.rival.time.q3 < outcome.default.time.q1
    assert not outcome.rival_wins


@pytest.mark.parametrize("seed", range(8))
def test_noise_does_not_win(fake, seed):
    """All take the same, give or take a fifth: the luckiest of them must not beat the default."""
    times = [noisy(300, 0.2, 100 * seed + n) for n in range(20)]
    outcome, _ = fake(times)
    assert not outcome.rival_wins


def test_a_real_gain_wins_through_noise(fake):
    times = [noisy(300, 0.05, n) for n in range(3)] + [noisy(200, 0.05, 9)]
    outcome, _ = fake(times)
    assert outcome.rival_wins
    assert 0.2 < outcome.gain < 0.45


def test_luck_in_the_first_rounds_does_not_last_through_the_final_ones(fake):
    calls = itertools.count()
    # A segment of these is two runs: fast in the screen and the first rounds, and never again.
    lucky = lambda: 150e-6 if next(calls) < 20 else 400e-6  # noqa: E731
    outcome, _ = fake([steady(300), lucky, steady(180)])
    assert outcome.rival.time.median == pytest.approx(400e-6, rel=0.2)
    assert not outcome.rival_wins


def test_the_final_rounds_run_in_turns_there_and_back(fake):
    outcome, stopwatch = fake([steady(300), steady(200)])
    default, rival = outcome.default.time.count, outcome.rival.time.count
    assert default == rival >= 15
    pipelines = [s[0].pipeline for s in stopwatch.segments if s[0].pipeline in stopwatch.seconds]
    final = pipelines[-2 * default :]
    assert len(set(final)) == 2
    for turn, (first, second) in enumerate(zip(final[::2], final[1::2], strict=True)):
        assert first != second
        assert (first == final[0]) == (turn % 2 == 0)


def test_slow_kernels_run_few_times_and_not_all_in_one_submission(fake, monkeypatch):
    submissions: list[float] = []
    real = FakeStopwatch.run

    def run(self, segments, before=lambda: None):
        seconds = real(self, segments, before)
        if any(d.pipeline in self.seconds for groups in segments for g in groups for d in g):
            submissions.append(sum(seconds))
        return seconds

    monkeypatch.setattr(FakeStopwatch, "run", run)
    fake([steady(100e3), steady(90e3), steady(85e3)])
    # Two of the slow, ten calibrations, and what cannot be cut.
    assert max(submissions) < 1.5


def test_inputs_and_outputs_rotate(fake):
    _, stopwatch = fake([steady(3), steady(2)])
    used = {
        dispatch.bound
        for segment in stopwatch.segments
        for dispatch in segment
        if dispatch.pipeline in stopwatch.seconds
    }
    assert len({resources[0] for resources in used}) >= 2


def outcome_of(default: list[float], rival: list[float], *, held: bool) -> Outcome:
    choice = Choice(None, (8, 8, 1), "")
    return Outcome(Timed(choice, summarize(default)), Timed(choice, summarize(rival)), held)


def test_nothing_wins_while_the_clocks_change():
    assert outcome_of([2.0] * 9, [1.0] * 9, held=True).rival_wins
    assert not outcome_of([2.0] * 9, [1.0] * 9, held=False).rival_wins


def test_by_chance_quartiles_lie_apart_rarely():
    """The fewest final rounds between equals: one in a hundred goes wrong, no more."""
    rng = np.random.default_rng(5)
    rounds = inside.FINAL_ROUNDS[0]
    wrong = sum(
        outcome_of(list(pair[0]), list(pair[1]), held=True).rival_wins
        for pair in np.exp(rng.normal(0, 0.2, (3000, 2, rounds)))
    )
    assert wrong / 3000 < 0.01


def test_without_rivals_the_default_is_timed_alone(own_device, monkeypatch):
    task = task_on(own_device, "buffer")
    alone = candidates(inside.context(own_device), task)[:1]
    monkeypatch.setattr(tune, "candidates", lambda *_: alone)
    stopwatch = FakeStopwatch({alone[0][1].pipeline: steady(50)})
    clocks = Clocks(inside.context(own_device), stopwatch)
    outcome = measure(inside.context(own_device), clocks, task)
    assert outcome.rival is None
    assert not outcome.rival_wins
    assert outcome.winner.time.median == pytest.approx(50e-6)


@pytest.mark.parametrize("storage", ["texture3d", "buffer"])
def test_scratch_is_real_data_and_is_given_back(own_device, storage):
    task = task_on(own_device, storage)
    memory = inside.context(own_device).memory
    with inside.inputs_and_outputs(inside.context(own_device), task.problem, is_cpu=True) as pairs:
        assert len({x.uid for x, _ in pairs} | {out.uid for _, out in pairs}) == 2 * len(pairs) > 2
        tensor = own_device.empty(SHAPE, "float32", storage)
        for x, _ in pairs:
            own = inside.resource(tensor)
            setattr(tensor, inside.RESOURCE, x)
            values = tensor.numpy()
            setattr(tensor, inside.RESOURCE, own)
            assert 0.5 < values.std() < 2
            assert len(np.unique(values)) > 0.9 * math.prod(SHAPE)
    for _ in range(3):  # as many copies on their way at once as there will be
        with inside.inputs_and_outputs(inside.context(own_device), task.problem, is_cpu=True):
            own_device.synchronize()
    before = memory.used
    with inside.inputs_and_outputs(inside.context(own_device), task.problem, is_cpu=True):
        assert memory.used == before


def test_scratch_is_given_back_when_memory_runs_out(own_device, monkeypatch):
    task = task_on(own_device, "buffer")
    real, calls, released = tune.acquire_resource, itertools.count(), []

    def acquire(*arguments):
        if next(calls) == 3:
            raise OutOfMemoryError("none left")
        return real(*arguments)

    monkeypatch.setattr(tune, "acquire_resource", acquire)
    monkeypatch.setattr(inside.context(own_device).resources, "release", released.append)
    with (
        pytest.raises(OutOfMemoryError, match="none left"),
        inside.inputs_and_outputs(inside.context(own_device), task.problem, is_cpu=True),
    ):
        pass
    assert len(released) == 3
