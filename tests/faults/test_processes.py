"""Processes that share a device and its cache files, all of them new to both."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import pwconv
from pwconv import reference
from pwconv.cache import cache_folder, read_pipelines
from pwconv.ops import matmul
from pwconv.tune import tuner as tune
from pwconv.tune.store import Store
from support import inside
from support.accuracy import assert_within, random_problem

PROCESSES = 4


def measure_and_compute(index: int, number: int, barrier: Barrier) -> None:
    """Open the device at the same moment as others; tune, compute, and write what was found."""
    # Two candidates are enough: there are many more variants, and each would be compiled.
    tune.matmul = SimpleNamespace(
        choose=matmul.choose,
        candidates=lambda *given: dict([*matmul.candidates(*given).items()][:2]),
    )
    setattr(*inside.slots.workgroups, ((8, 8, 1),))
    setattr(*inside.slots.first_rounds, (1, 1))
    setattr(*inside.slots.final_rounds, (2, 2))
    rng = np.random.default_rng(number)
    barrier.wait()
    with pwconv.Device(index) as device:
        for k in (3, 5 + number):  # one shape is everybody's, one its own
            x, weight, bias = random_problem(rng, k, 6, (7, 5), "float32")
            layer = pwconv.PointwiseConv2d(weight, bias, device=device)
            expected = reference.conv2d_pw(x, weight, bias)
            bound = reference.conv2d_pw_bound(x, weight, bias, dtype="float32")
            for _ in range(3):
                assert_within(layer(x), expected, bound)
                assert_within(layer(device.tensor(x)).numpy(), expected, bound)


def test_started_at_once_with_empty_caches(
    device: pwconv.Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PWCONV_TUNE", "on-demand")
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    workers = [
        context.Process(target=measure_and_compute, args=(device.info.index, number, barrier))
        for number in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    store = Store(device.info)
    winners, problem = store.examine()
    assert problem is None
    if device.info.type == "cpu":  # elsewhere clocks that do not hold leave no winner
        measured = {key.problem.x_shape[1] for key in winners}
        assert measured == {3, *(5 + number for number in range(PROCESSES))}
    compiled = cache_folder("pipelines") / f"{device.info.identity}.bin"
    assert read_pipelines(compiled)
    ours = store.file.parents[1]
    written = {Path(folder) / name for folder, _, names in os.walk(ours) for name in names}
    assert written == ({store.file, compiled} if winners else {compiled})
