"""pwconv's graphs under the stopwatch, as a graph itself runs them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pwconv.bench.cases import Case
from pwconv.bench.report import OURS, Run
from pwconv.device import Device
from pwconv.errors import OutOfMemoryError, UnsupportedError
from pwconv.graph import Graph
from pwconv.graph.program import Program
from pwconv.timing.clocks import Clocks, chain, chain_lengths, rotation

_SAMPLES_CPU = 3


def make_graph(device: Device, case: Case, dtype: str, storage: str, *, fuse: bool = True) -> Graph:
    """Return a case's graph."""
    graph = Graph(device, dtype, storage=storage, fuse=fuse)
    case.define(graph)
    return graph


def count_work(device: Device, case: Case, dtype: str) -> tuple[int, int]:
    """Return a graph's arithmetic operations, and the bytes that must cross memory.

    Those are its inputs, packed weights and biases, read once, and its outputs, written once.
    """
    graph = make_graph(device, case, dtype, "auto")
    network = graph._finish()
    flop = least_bytes = 0
    for i in network.order:
        node = network.nodes[i]
        assert node.operator is not None
        flop += node.operator.flop([graph._shapes[j] for j in node.inputs], graph._shapes[i])
        least_bytes += node.operator.weight_bytes
    for i in (*network.inputs.values(), *network.outputs.values()):
        least_bytes += math.prod(graph._shapes[i]) * graph.dtype.itemsize
    return flop, least_bytes


def time_graphs(
    device: Device, clocks: Clocks, storages: Sequence[str], case: Case, dtype: str
) -> list[Run]:
    """Time a case's graph in each storage; unfused too, if fusion changes its kernels.

    One that the device does not take is a failure of its own.
    """
    runs = []
    for storage in storages:
        fused: list[str] = []
        for contender, fuse in ((OURS, True), (f"{OURS} unfused", False)):
            try:
                graph = make_graph(device, case, dtype, storage, fuse=fuse)
                program = graph._current().program
                kernels = _kernels(program)
                if kernels != fused:
                    runs.append(_time(device, clocks, contender, program, kernels))
            except (UnsupportedError, OutOfMemoryError) as error:
                runs.append(Run(contender, dtype, storage=storage, failure=str(error)))
                break
            fused = kernels
    return runs


def _time(
    device: Device, clocks: Clocks, contender: str, program: Program, kernels: Sequence[str]
) -> Run:
    dtype, storage = program.site.dtype, program.site.storage
    inputs, outputs = program.network.inputs.values(), program.network.outputs.values()
    elements = sum(math.prod(program.shapes[i]) for i in (*inputs, *outputs))
    set_bytes = elements * dtype.itemsize
    sets = rotation(set_bytes, is_cpu=clocks.is_cpu)
    rng = np.random.default_rng(1)
    arrays = {i: rng.standard_normal(program.shapes[i], np.float32) for i in inputs}
    tensors = [
        {i: device.tensor(array, dtype, storage) for i, array in arrays.items()}
        | {i: device.empty(program.shapes[i], dtype, storage) for i in outputs}
        for _ in range(sets)
    ]
    runs = [program.groups({i: t.resource for i, t in each.items()}) for each in tensors]
    estimate = clocks.estimate(runs[0])
    repetitions, samples = (1, _SAMPLES_CPU) if clocks.is_cpu else chain_lengths(estimate)
    sample, check = clocks.sample(chain(runs, repetitions, samples), repetitions)
    return Run(
        contender,
        dtype.name,
        sample,
        check,
        storage=storage,
        kernels=list(dict.fromkeys(kernels)),
        dispatches=sum(map(len, runs[0])),
        scratch=program.scratch_bytes,
        working_set=sets * set_bytes,
    )


def _kernels(program: Program) -> list[str]:
    """Return the variant and the workgroup of each dispatch."""
    plans = [each.plan for dispatches in program.dispatches.values() for each in dispatches]
    return [f"{plan.variant.name} {'×'.join(map(str, plan.workgroup))}" for plan in plans]
