"""Work that could last for seconds goes to the device in pieces, with the same results."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pwconv
from pwconv.dispatch import grid_parts, short_parts
from pwconv.vk import queue
from pwconv.vk.commands import LONGEST_SUBMISSION, Dispatch, Plan
from support import inside
from support.accuracy import check_layer, check_linear, random_linear, random_problem
from support.mirror import Mirror, random_weight


@pytest.fixture
def slow(device, monkeypatch) -> Callable[[float], list[int]]:
    """Make a device slow: it counts what it is given, and plans anew."""

    def slow(flop_per_second: float) -> list[int]:
        kind = device.info.type
        monkeypatch.setitem(inside.SLOWEST_RATE, kind, flop_per_second)
        monkeypatch.setattr(device, inside.CONTEXT, inside.another_context(device))
        submitted = []
        submit = queue.Queue.submit

        def counted(self, command_buffer, **settings):
            submitted.append(1)
            return submit(self, command_buffer, **settings)

        monkeypatch.setattr(queue.Queue, "submit", counted)
        return submitted

    return slow


@pytest.mark.parametrize("storage", ["buffer", "texture3d"])
def test_a_layer(device, rng, slow, storage):
    x, weight, bias = random_problem(rng, 13, 37, (29, 31), "float32", batch=2)
    flop = 2 * 13 * 37 * 29 * 31 * 2
    submitted = slow(flop / (7.5 * LONGEST_SUBMISSION))
    layer = pwconv.PointwiseConv2d(weight, bias, storage=storage, device=device)
    check_layer(layer, x, weight, bias)
    plans = [p for p in inside.plans(inside.context(device)).values() if "conv2d" in p.variant.name]
    # As many pieces as there are workgroups, at most.
    assert all(len(plan.parts) > 1 for plan in plans)
    assert len(submitted) > len(plans[0].parts) / 2


def test_a_linear_layer(device, rng, slow):
    x, weight, bias = random_linear(rng, (300, 64), (70, 64), "float32")
    slow(2 * 300 * 64 * 70 / (4 * LONGEST_SUBMISSION))
    check_linear(pwconv.Linear(weight, bias, device=device), x, weight, bias)


def test_a_graph(device, rng, slow):
    submitted = slow(1e5)
    mirror = Mirror(device, "float32", "buffer")
    y = x = mirror.input("x", (2, 12, 19, 23))
    for _ in range(3):
        y = mirror.conv2d_pw(y, *random_weight(rng, "float32", 12, 12), activation="gelu")
    y = mirror.add(mirror.conv2d_dw(y, *random_weight(rng, "float32", 12, 1, 3, 3), padding=1), x)
    mirror.output("y", y)
    array = rng.standard_normal((2, 12, 19, 23)).astype(np.float32)
    mirror.check({"x": array})
    assert len(submitted) > 4
    tensor = mirror.graph.run(x=device.tensor(array, storage="buffer"))["y"]
    mirror.check({"x": array}, {"y": tensor})


def test_short_work_is_one_submission(device, rng, slow):
    slow(math.inf)
    layer = pwconv.PointwiseConv2d(np.ones((8, 8), np.float32), device=device)
    recording = None
    layer(rng.standard_normal((1, 8, 40, 40)).astype(np.float32))
    for recording in inside.recordings(inside.context(device)).values():
        assert len(recording.command_buffers) == 1
    assert recording is not None


@pytest.mark.parametrize("groups", [(1, 1, 1), (5, 1, 1), (3, 7, 2), (1000, 1, 64)])
@pytest.mark.parametrize("pieces", [0.0, 0.3, 1.0, 2.0, 13.7, 1e9])
def test_parts_are_short(groups, pieces):
    most = short_parts(groups, (65535, 65535, 65535), pieces * LONGEST_SUBMISSION)
    parts = list(grid_parts(groups, most))
    assert sum(math.prod(count) for _, count in parts) == math.prod(groups)
    longest = max(math.prod(count) for _, count in parts)
    assert longest == 1 or longest / math.prod(groups) * pieces <= 1
    assert len(parts) == 1 or pieces > 1


def test_limits_hold_for_short_work():
    assert short_parts((9, 9, 9), (4, 5, 6), 0.0) == (4, 5, 6)


def entry(parts: int, share: float) -> Any:
    """Return a dispatch of parts that each take a share of the longest submission."""
    every = tuple((bytes([n]), (1, 1, 1)) for n in range(parts))
    plan = Plan(None, (1, 1, 1), None, every, share * LONGEST_SUBMISSION)
    return inside.Entry(Dispatch(plan, {}), every, True, [])


@pytest.mark.parametrize(
    "entries",
    [
        [entry(1, 0.0)] * 40,
        [entry(1, 0.4)] * 7,
        [entry(5, 0.3), entry(1, 0.0), entry(2, 0.9), entry(3, 2.0)],
        [entry(1, 5.0), entry(1, 0.5), entry(9, 0.5)],
    ],
)
def test_submissions_are_short(entries):
    submissions = list(inside.short_submissions(entries))
    assert all(submissions)
    for submission in submissions:
        seconds = sum(len(each.parts) * each.dispatch.plan.seconds for each in submission)
        alone = len(submission) == 1 and len(submission[0].parts) == 1
        assert alone or seconds <= LONGEST_SUBMISSION * (1 + 1e-9)
    given = [part for each in entries for part in each.parts]
    assert [part for s in submissions for each in s for part in each.parts] == given
    # What waits, waits still: at the beginning of a submission, or within it.
    first_parts = [each for s in submissions for each in s if each.waits]
    assert len(first_parts) == len(entries)
