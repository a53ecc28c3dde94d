"""Host cost of a graph: Python's time for runs and resizes, and copies of arrays."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from pwconv.bench.cases import Case
from pwconv.bench.graphs import make_graph
from pwconv.bench.report import OURS, HostCost, Result
from pwconv.device import Device
from pwconv.dtypes import Array
from pwconv.graph import Graph
from pwconv.tensor import Shape
from pwconv.timing.clocks import Clocks
from pwconv.timing.stopwatch import Sample, summarize
from pwconv.vk.resources import DOWNLOAD, UPLOAD, Buffer

# Warm-up and count of runs, and of runs from array to array, and count of new sizes.
_RUNS, _RUNS_CPU = (10, 200), (1, 3)
_ARRAY_RUNS, _ARRAY_RUNS_CPU = (10, 15), (1, 3)
_NEW_SIZES, _NEW_SIZES_CPU = 5, 1
_RESIZES = 200
_COLUMNS = 8  # by which sizes differ: what every network takes


def measure_host(device: Device, clocks: Clocks, case: Case, result: Result) -> HostCost | None:
    """Measure in the last type, where the graph ran fastest; None where it did not run."""
    timed = [
        (run.sample.median, run.dtype, run.storage)
        for run in result.runs
        if run.contender == OURS and run.sample and run.storage
    ]
    if not timed:
        return None
    gpu, dtype, storage = min(entry for entry in timed if entry[1] == timed[-1][1])
    graph = make_graph(device, case, dtype, storage)
    shape = graph._shapes[graph._inputs["x"]]
    gc.collect()
    gc.disable()  # its time grows with what peers have loaded
    try:
        samples = _runs(device, clocks, graph, shape)
        samples |= _array_runs(device, clocks, graph, shape)
        samples |= _resizes(device, clocks, graph, shape)
    finally:
        gc.enable()
    return HostCost(case.name, dtype, storage, gpu, samples)


def _runs(device: Device, clocks: Clocks, graph: Graph, shape: Shape) -> dict[str, Sample]:
    """Time runs on resident tensors, until the call returns and until the device is done."""
    x = device.tensor(_noise(graph, shape), storage=graph.storage)
    calls, runs = [], []

    def run_and_wait() -> None:
        calls.append(_seconds(partial(graph.run, x=x)))
        device.synchronize()

    clocks.hold()
    warm_up, count = _RUNS_CPU if clocks.is_cpu else _RUNS
    for _ in range(warm_up + count):
        device.synchronize()
        runs.append(_seconds(run_and_wait))
    return {"call": summarize(calls[warm_up:]), "run": summarize(runs[warm_up:])}


def _array_runs(device: Device, clocks: Clocks, graph: Graph, shape: Shape) -> dict[str, Sample]:
    """Time runs from array to array, in turns with plain copies of their bytes."""
    x = _noise(graph, shape)
    bytes_out = sum(array.nbytes for array in graph.run(x=x).values())
    upload = Buffer(device._context, x.nbytes, UPLOAD)
    download = Buffer(device._context, bytes_out, DOWNLOAD)
    assert upload.mapped is not None
    assert download.mapped is not None
    into = np.frombuffer(upload.mapped, x.dtype)[: x.size].reshape(x.shape)
    out_of = np.frombuffer(download.mapped, np.uint8)[:bytes_out]

    def copy() -> None:
        into[:] = x
        np.empty(out_of.shape, np.uint8)[:] = out_of

    warm_up, count = _ARRAY_RUNS_CPU if clocks.is_cpu else _ARRAY_RUNS
    rounds = [(_seconds(partial(graph.run, x=x)), _seconds(copy)) for _ in range(warm_up + count)]
    runs, copies = zip(*rounds[warm_up:], strict=True)
    return {"numpy_to_numpy": summarize(runs), "staging_copy": summarize(copies)}


def _resizes(device: Device, clocks: Clocks, graph: Graph, shape: Shape) -> dict[str, Sample]:
    """Time going to a known size, to a new one, and the first run there."""
    new_sizes = _NEW_SIZES_CPU if clocks.is_cpu else _NEW_SIZES
    *rest, width = shape
    # From the widest down: the memory for what is between the nodes is there already.
    new = [(*rest, width + _COLUMNS * wider) for wider in range(new_sizes + 1, 0, -1)]
    new_resizes, first_calls = [], []
    for each in new:
        new_resizes.append(_seconds(partial(graph.resize, x=each)))
        x = device.tensor(_noise(graph, each), storage=graph.storage)
        device.synchronize()
        first_calls.append(_seconds(partial(graph.run, x=x)))
        device.synchronize()
    resizes = [
        _seconds(partial(graph.resize, x=known))
        for _ in range(_RESIZES)
        for known in (shape, new[0])
    ]
    return {
        "resize": summarize(resizes),
        "new_resize": summarize(new_resizes[1:]),
        "first_call": summarize(first_calls[1:]),
    }


def _noise(graph: Graph, shape: Shape) -> Array:
    array = np.random.default_rng(0).standard_normal(shape, np.float32)
    return array.astype(graph.dtype, copy=False)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
