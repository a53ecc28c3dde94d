"""What the host adds to a graph: Python's time for a run, and for going to another size."""

from __future__ import annotations

from functools import partial

import numpy as np

from pwconv.bench.graphs import GraphCase, make_graph
from pwconv.bench.host import time_call, without_garbage_collection
from pwconv.bench.report import GraphHostCost, Result
from pwconv.bench.views import OURS
from pwconv.device import Device
from pwconv.graph import Graph
from pwconv.tensor import Shape, Tensor
from pwconv.timing.clocks import Clocks
from pwconv.timing.samples import Sample, summarize

_RUNS, _RUNS_CPU = 200, 3
_WARM_UP = 10
_RESIZES = 200
_NEW_SIZES, _NEW_SIZES_CPU = 5, 1
_COLUMNS = 8  # by which sizes differ: what every network takes


def measure_graph_host(
    device: Device, clocks: Clocks, case: GraphCase, result: Result
) -> GraphHostCost | None:
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
    with without_garbage_collection():
        call, run = _runs(device, clocks, graph)
        resize, new_resize, first_call = _resizes(device, clocks, graph)
    return GraphHostCost(str(case), dtype, storage, call, run, gpu, resize, new_resize, first_call)


def _runs(device: Device, clocks: Clocks, graph: Graph) -> tuple[Sample, Sample]:
    """Time runs, until the call returns and until the device is done."""
    x = _noise(device, graph, _input_shape(graph))
    calls, runs = [], []

    def run_and_wait() -> None:
        calls.append(time_call(partial(graph.run, x=x)))
        device.synchronize()

    clocks.hold()
    count, warm_up = (_RUNS_CPU, 1) if clocks.is_cpu else (_RUNS, _WARM_UP)
    for _ in range(warm_up + count):
        device.synchronize()
        runs.append(time_call(run_and_wait))
    return summarize(calls[warm_up:]), summarize(runs[warm_up:])


def _resizes(device: Device, clocks: Clocks, graph: Graph) -> tuple[Sample, Sample, Sample]:
    """Time going to a known size, to a new one, and the first run there."""
    new_sizes = _NEW_SIZES_CPU if clocks.is_cpu else _NEW_SIZES
    *rest, width = _input_shape(graph)
    # From the widest down: the memory for what is between the nodes is there already.
    widest, *others, first = (
        (*rest, width + _COLUMNS * wider) for wider in range(new_sizes + 1, -1, -1)
    )
    new_resizes, first_calls = [], []
    for shape in (widest, *others):
        new_resizes.append(time_call(partial(graph.resize, x=shape)))
        x = _noise(device, graph, shape)
        device.synchronize()
        first_calls.append(time_call(partial(graph.run, x=x)))
        device.synchronize()
    resizes = [
        time_call(partial(graph.resize, x=shape))
        for _ in range(_RESIZES)
        for shape in (first, widest)
    ]
    return summarize(resizes), summarize(new_resizes[1:]), summarize(first_calls[1:])


def _noise(device: Device, graph: Graph, shape: Shape) -> Tensor:
    array = np.random.default_rng(0).standard_normal(shape, np.float32)
    return device.tensor(array, graph.dtype, graph.storage)


def _input_shape(graph: Graph) -> Shape:
    return graph._shapes[graph._inputs["x"]]
