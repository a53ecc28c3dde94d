"""Graphs under the stopwatch, and what the host adds to one."""

from __future__ import annotations

import pytest

from pwconv.bench.cases import Case, Shape, layer_case
from pwconv.bench.graphs import time_graphs
from pwconv.bench.run import run
from pwconv.timing.clocks import Clocks
from support import inside


@pytest.fixture
def clocks(device):
    return Clocks(inside.context(device))


def two_sums(graph):
    """Define convolutions that are added up, which fusing never changes."""
    x = graph.input("x", (1, 4, 8, 8))
    graph.output("y", graph.add(graph.upsample(x), graph.upsample(x)))


def test_a_small_run(device):
    cases = [layer_case(Shape(16, 8, 8, 8)), Case("sums", "networks", 1, two_sums)]
    report = run(device, "small", cases, ("float16",), ("texture3d",), lambda what, share: None)
    assert [result.name for result in report.graphs] == ["16→8@8", "sums"]
    for result in report.graphs:
        (found,) = result.runs
        assert found.label == "pwconv texture3d"
        assert found.failure is None
        assert 0 < found.sample.q1 <= found.sample.median <= found.sample.q3
        assert found.clocks.before > 0
        assert found.dispatches >= len(found.kernels) >= 1
    host = report.host
    assert (host.graph, host.dtype, host.storage) == ("sums", "float16", "texture3d")
    assert 0 < host.samples["call"].median < host.samples["run"].median
    assert 0 < host.samples["resize"].median < host.samples["new_resize"].median
    assert host.samples["first_call"].median > 0
    assert host.samples["numpy_to_numpy"].median > host.samples["staging_copy"].median > 0
    assert host.gpu == report.graphs[-1].runs[0].sample.median


def test_unfused_is_measured_where_it_runs_other_kernels(device, clocks, monkeypatch):
    asked = []

    def plan(program):
        asked.append(program)
        return ["one"] if len(asked) % 2 else ["one", "two"]

    monkeypatch.setattr(*inside.slots.bench_kernels, plan)
    found = time_graphs(device, clocks, ["buffer"], layer_case(Shape(4, 4, 4, 4)), "float32")
    assert [run.label for run in found] == ["pwconv buffer", "pwconv unfused buffer"]
    assert [run.kernels for run in found] == [["one"], ["one", "two"]]


def test_what_does_not_fit_is_a_failure_of_its_own(device, clocks):
    size = device.info.limits["maxImageDimension3D"] + 1
    storages = ("texture3d", "buffer")
    case = layer_case(Shape(1, 1, 1, size))
    failed, fine = time_graphs(device, clocks, storages, case, "float16")
    assert failed.sample is None
    assert "maxImageDimension3D" in failed.failure
    assert fine.failure is None
    assert fine.sample.median > 0
