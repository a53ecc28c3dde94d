"""A whole run: ceilings, every layer or graph by everyone in turns, the host."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from pwconv.bench import ours, ours_graphs
from pwconv.bench.graphs import GraphCase
from pwconv.bench.host import measure_host
from pwconv.bench.host_graphs import measure_graph_host
from pwconv.bench.peers import GraphPeer, Peer, open_graph_peers, open_peers
from pwconv.bench.report import GraphFigures, Report, Result, Run
from pwconv.bench.workloads import Layer
from pwconv.device import Device
from pwconv.dtypes import as_dtype
from pwconv.timing.ceilings import Ceiling, Roofline, measure_ceilings, roofline
from pwconv.timing.clocks import SPIN_SECONDS, Clocks
from pwconv.timing.stopwatch import make_stopwatch
from pwconv.version import __version__


@dataclass(frozen=True)
class Job:
    """What to measure: layers, or graphs.

    Attributes
    ----------
    workload : str
        Its name, or the shapes given.
    layers : sequence of Layer
    graphs : sequence of GraphCase
    dtypes : sequence of str
    storages : sequence of str
    peers : bool
        Whether to measure peers.
    host : bool
        Whether to measure the host's cost.
    """

    workload: str
    layers: Sequence[Layer]
    dtypes: Sequence[str]
    storages: Sequence[str]
    graphs: Sequence[GraphCase] = ()
    peers: bool = True
    host: bool = True


def run(device: Device, job: Job, progress: Callable[[str, float], None]) -> Report:
    """Measure a job; ``progress(what, share)`` is told what comes next, and the share done."""
    stopwatch, note = make_stopwatch(device._context)
    report = _empty_report(device, job, stopwatch.method)
    report.notes += [note] if note else []
    progress("raising the clocks", 0.0)
    clocks = Clocks(device._context, stopwatch)
    peers: list[Peer] = []
    graph_peers: list[GraphPeer] = []
    try:
        if clocks.is_cpu:
            report.notes.append("a CPU's clocks cannot be held: their drift is recorded, no more")
        progress("ceilings", 0.0)
        report.ceilings += measure_ceilings(device._context, clocks)
        if job.peers:
            progress("opening peers", 0.0)
            if job.graphs:
                graph_peers, report.peers = open_graph_peers(device.info, clocks)
            else:
                peers, report.peers = open_peers(device.info, clocks)
        for position, layer in enumerate(job.layers):
            progress(str(layer), position / len(job.layers))
            report.layers.append(_measure_layer(device, clocks, peers, job, layer, report))
        for position, case in enumerate(job.graphs):
            progress(str(case), position / len(job.graphs))
            report.graphs.append(_measure_graph(device, clocks, graph_peers, job, case, report))
        if job.host:
            progress("host", 1.0)
            if job.graphs:
                report.graph_host = measure_graph_host(
                    device, clocks, job.graphs[-1], report.graphs[-1]
                )
            else:
                report.host = measure_host(device)
    finally:
        for peer in (*peers, *graph_peers):
            peer.close()
    return report


def layer_roofline(layer: Layer, dtype: str, ceilings: Sequence[Ceiling]) -> Roofline:
    """Return a layer's roofline."""
    least_bytes = layer.least_bytes(as_dtype(dtype).itemsize)
    return roofline(layer.flop, least_bytes, dtype, ceilings)


def _measure_layer(
    device: Device,
    clocks: Clocks,
    peers: Sequence[Peer],
    job: Job,
    layer: Layer,
    report: Report,
) -> Result:
    least = {dtype: layer_roofline(layer, dtype, report.ceilings) for dtype in job.dtypes}
    runs: list[Run] = []
    for dtype in job.dtypes:
        runs += [ours.measure(device, clocks, layer, dtype, name) for name in job.storages]
        for peer in peers:
            runs += peer.measure(layer, dtype)
    return Result(layer, least, runs)


def _measure_graph(
    device: Device,
    clocks: Clocks,
    peers: Sequence[GraphPeer],
    job: Job,
    case: GraphCase,
    report: Report,
) -> Result:
    work = {dtype: ours_graphs.count_work(device, case, dtype) for dtype in job.dtypes}
    least = {dtype: roofline(*work[dtype], dtype, report.ceilings) for dtype in job.dtypes}
    runs: list[Run] = []
    for dtype in job.dtypes:
        runs += [
            ours_graphs.measure(device, clocks, case, dtype, storage, contender)
            for contender in ours_graphs.CONTENDERS
            for storage in job.storages
        ]
        for peer in peers:
            runs += peer.measure(case, dtype)
    flop, _ = work[job.dtypes[0]]
    least_bytes = {dtype: moved for dtype, (_, moved) in work.items()}
    figures = GraphFigures(case.name, case.size, case.kind, case.count, flop, least_bytes)
    return Result(figures, least, runs)


def _empty_report(device: Device, job: Job, method: str) -> Report:
    info = device.info
    spin = "" if info.type == "cpu" else f"; the queue spins for {SPIN_SECONDS} s before each"
    return Report(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        method=f"{method}{spin}; inputs and outputs rotate over working_set bytes",
        workload=job.workload,
        device={
            "name": info.name,
            "type": info.type,
            "driver": info.driver,
            "api_version": info.api_version,
        },
        versions={
            "pwconv": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    )
