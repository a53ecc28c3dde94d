"""pwconv's own graphs under the stopwatch, as a graph itself would run them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pwconv.bench.graphs import GraphCase, make_graph
from pwconv.bench.report import Run
from pwconv.device import Device
from pwconv.errors import OutOfMemoryError, UnsupportedError
from pwconv.timing.chains import chain, chain_lengths, rotation
from pwconv.timing.clocks import Clocks
from pwconv.timing.samples import summarize

# Contenders, each with what it asks of the graph.
CONTENDERS: dict[str, dict[str, Any]] = {
    "pwconv": {},
    "pwconv unfused": {"fuse": False},
}

_SAMPLES_CPU = 3


def count_work(device: Device, case: GraphCase, dtype: str) -> tuple[int, int]:
    """Return a graph's arithmetic operations, and the bytes that must cross memory.

    Those are its inputs, packed weights and biases, read once, and its outputs, written once.
    """
    graph = make_graph(device, case, dtype, "auto")
    network = graph._finish()
    flop = least_bytes = 0
    for i in network.order:
        node = network.nodes[i]
        assert node.operation is not None
        flop += node.operation.flop([graph._shapes[j] for j in node.inputs], graph._shapes[i])
        least_bytes += node.operation.weight_bytes
    for i in (*network.inputs.values(), *network.outputs.values()):
        least_bytes += math.prod(graph._shapes[i]) * graph.dtype.itemsize
    return flop, least_bytes


def measure(
    device: Device, clocks: Clocks, case: GraphCase, dtype: str, storage: str, contender: str
) -> Run:
    """Time a graph in one of the ways that it can be run."""
    try:
        return _measure(device, clocks, case, dtype, storage, contender)
    except (UnsupportedError, OutOfMemoryError) as error:
        return Run(contender, dtype, storage=storage, failure=str(error))


def _measure(
    device: Device, clocks: Clocks, case: GraphCase, dtype: str, storage: str, contender: str
) -> Run:
    graph = make_graph(device, case, dtype, storage, **CONTENDERS[contender])
    program = graph._current().program
    inputs, outputs = program.network.inputs.values(), program.network.outputs.values()
    elements = sum(math.prod(program.shapes[i]) for i in (*inputs, *outputs))
    bytes_each = elements * graph.dtype.itemsize
    sets = rotation(bytes_each, is_cpu=clocks.is_cpu)
    rng = np.random.default_rng(1)
    arrays = {i: rng.standard_normal(program.shapes[i], np.float32) for i in inputs}
    tensors = [
        {i: device.tensor(array, dtype, storage) for i, array in arrays.items()}
        | {i: device.empty(program.shapes[i], dtype, storage) for i in outputs}
        for _ in range(sets)
    ]
    runs = [program.groups({i: tensor.resource for i, tensor in each.items()}) for each in tensors]

    estimate = clocks.estimate(runs[0])
    repetitions, samples = (1, _SAMPLES_CPU) if clocks.is_cpu else chain_lengths(estimate)
    segments = chain(runs, repetitions, samples)
    seconds, check = clocks.time(segments)
    return Run(
        contender,
        dtype,
        summarize(seconds, repetitions),
        check,
        storage=storage,
        working_set=sets * bytes_each,
        dispatches=sum(map(len, runs[0])),
        scratch=program.scratch_bytes,
    )
