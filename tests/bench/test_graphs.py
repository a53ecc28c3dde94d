"""Workloads of graphs: what they are, and a whole run of small ones."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import pwconv
from pwconv.bench import ours_graphs
from pwconv.bench.graphs import graph_workload, make_graph
from pwconv.bench.plot import write_plot
from pwconv.bench.report import from_document, to_document
from pwconv.bench.run import Job, run
from pwconv.bench.table import print_report
from pwconv.bench.workloads import workload
from pwconv.timing.clocks import Clocks
from pwconv.timing.stopwatch import make_stopwatch
from support import inside


def test_the_mixers_are_edgetams_layers(device):
    *mixers, chain = graph_workload("edgetam-mixers")
    assert [str(case) for case in mixers] == [
        "mixer 48@256",
        "mixer 96@128",
        "mixer 192@64",
        "mixer 384@32",
    ]
    layers = workload("edgetam")
    for case, expand, project in zip(mixers, layers[0:8:2], layers[1:8:2], strict=True):
        flop, least_bytes = ours_graphs.count_work(device, case, "float16")
        assert flop == expand.flop + project.flop
        assert case.count == expand.count
        ends = 2 * 2 * expand.k * expand.positions
        weights = 2 * (expand.k * expand.n + project.k * project.n) + 4 * (expand.n + project.n)
        assert ends + weights <= least_bytes < 1.01 * (ends + weights)  # as they are packed
    flop, _ = ours_graphs.count_work(device, chain, "float32")
    assert round(flop / 1e9, 1) == 32.9


def test_the_trunks_values_stay_of_order_one(device, rng):
    (trunk,) = graph_workload("repvit-m1", 32)
    graph = make_graph(device, trunk, "float16", "texture3d")
    for array in graph.run(x=rng.standard_normal((1, 3, 32, 32), np.float32)).values():
        assert 0.1 < np.std(array.astype(np.float64)) < 30


@pytest.mark.parametrize("size", [0, 33, -32])
def test_a_size_that_networks_do_not_take(size):
    with pytest.raises(pwconv.UnsupportedError, match=f"size is {size}; it must be a positive mul"):
        graph_workload("repvit-m1", size)


def test_a_small_run(device, tmp_path):
    mixers = graph_workload("edgetam-mixers", 32)[:2]
    job = Job("small", [], ("float16",), ("texture3d",), graphs=mixers, peers=False)
    report = run(device, job, lambda what, share: None)
    for result in report.graphs:
        assert [r.contender for r in result.runs] == list(ours_graphs.CONTENDERS)
        for each in result.runs:
            assert each.failure is None
            assert 0 < each.sample.q1 <= each.sample.median <= each.sample.q3
            assert each.clocks.before > 0
            assert each.dispatches >= 1
    host = report.graph_host
    assert (host.graph, host.dtype, host.storage) == ("mixer 96@4", "float16", "texture3d")
    assert 0 < host.call.median < host.run.median
    assert 0 < host.resize.median < host.new_resize.median
    assert host.first_call.median > 0
    assert host.gpu == report.graphs[-1].runs[0].sample.median
    assert report.host is None
    assert from_document(to_document(report)) == report

    text = io.StringIO()
    print_report(report, Console(file=text, width=200))
    for shown in ("mixer 48@8", "over 2 mixers", "beyond the GPU's own time", "known size"):
        assert shown in text.getvalue()
    picture = tmp_path / "graphs.png"
    write_plot(report, picture)
    assert np.asarray(Image.open(picture)).std() > 10


def test_what_does_not_fit_is_a_failure_of_its_own(device):
    size = 32 * (4 * device.info.limits["maxImageDimension3D"] // 32 + 1)
    large, small = (graph_workload("edgetam-mixers", each)[0] for each in (size, 32))
    stopwatch, _ = make_stopwatch(inside.context(device))
    clocks = Clocks(inside.context(device), stopwatch)
    failed = ours_graphs.measure(device, clocks, large, "float16", "texture3d", "pwconv")
    found = ours_graphs.measure(device, clocks, small, "float16", "buffer", "pwconv")
    assert failed.sample is None
    assert "maxImageDimension3D" in failed.failure
    assert found.failure is None
    assert found.sample.median > 0
