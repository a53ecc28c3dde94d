"""The JSON's schema, and what is computed from a report."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

import pwconv
from pwconv.bench import views
from pwconv.bench.report import (
    SCHEMA,
    GraphFigures,
    GraphHostCost,
    HostCost,
    Report,
    Result,
    Run,
    from_document,
    to_document,
    write_json,
)
from pwconv.bench.run import layer_roofline
from pwconv.bench.table import print_report
from pwconv.bench.workloads import Layer
from pwconv.documents import require_writable
from pwconv.timing.ceilings import Ceiling, Roofline
from pwconv.timing.clocks import ClockCheck
from pwconv.timing.samples import Sample

CHECK = ClockCheck(1e-4, 1.01e-4, 2)


def sample(microseconds: float) -> Sample:
    median = microseconds * 1e-6
    return Sample(median, median * 0.9, median * 1.1, 50, 20)


CEILINGS = [
    Ceiling("copy", "byte/s", 1e12, ("float32", "float16"), sample(100), CHECK),
    Ceiling("fp32 FMA", "flop/s", 10e12, ("float32", "float16"), sample(100), CHECK),
    Ceiling("fp16 FMA", "flop/s", 20e12, ("float16",), sample(100), CHECK),
]


@pytest.fixture
def report() -> Report:
    layers = []
    for layer in (Layer(64, 64, 64, 64), Layer(1024, 1024, 32, 32)):
        runs = [
            Run(
                "pwconv",
                "float32",
                sample(40),
                CHECK,
                storage="texture3d",
                variant="a_variant",
                tile="m4n1k1",
                workgroup=(8, 8, 1),
                working_set=123456,
            ),
            Run("PyTorch conv2d", "float32", sample(20), CHECK),
            Run("PyTorch matmul", "float32", sample(10), ClockCheck(1.0, 2.0, 4)),
            Run("ncnn Vulkan", "float32", failure="it fell over"),
        ]
        layers.append(Result(layer, {"float32": layer_roofline(layer, "float32", CEILINGS)}, runs))
    return Report(
        date="2026-01-02T03:04:05+00:00",
        method="a stopwatch",
        workload="two",
        device={"name": "d", "type": "discrete", "driver": "x 1", "api_version": "1.3.0"},
        versions={"pwconv": "0", "numpy": "1", "python": "3"},
        peers={"PyTorch": "2.0"},
        notes=["careful"],
        ceilings=CEILINGS,
        layers=layers,
        host=HostCost(sample(20), sample(3000), sample(2000), "a shape"),
    )


def test_round_trip(report, tmp_path):
    path = tmp_path / "bench.json"
    write_json(report, path)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["schema"] == SCHEMA
    assert from_document(document) == report


def test_the_document_says_what_follows(report):
    document = to_document(report)
    run, _, unsettled, failed = document["layers"][0]["runs"]
    assert run["share"] == pytest.approx(
        document["layers"][0]["roofline"]["float32"]["seconds"] / 4e-5
    )
    assert run["clocks"]["settled"]
    assert not unsettled["clocks"]["settled"]
    assert failed["share"] is None
    assert failed["failure"] == "it fell over"
    assert document["layers"][0]["flop"] == report.layers[0].subject.flop


def test_without_a_host(report):
    report.host = None
    assert from_document(to_document(report)) == report


def test_graphs(report):
    least = {"float32": Roofline(1e-5, "memory")}
    for kind, times in (("mixers", (20, 10)), ("mixers", (40, 20)), ("network", (10, 40))):
        runs = [
            Run("pwconv", "float32", sample(times[0]), CHECK, storage="buffer", dispatches=1),
            Run("PyTorch compiled", "float32", sample(times[1]), CHECK),
        ]
        figures = GraphFigures("g", 64, kind, 3, 10**9, {"float32": 10**6})
        report.graphs.append(Result(figures, least, runs))
    times = {name: sample(5) for name in ("call", "run", "resize", "new_resize", "first_call")}
    report.graph_host = GraphHostCost("g@64", "float32", "buffer", gpu=1e-6, **times)
    assert from_document(json.loads(json.dumps(to_document(report)))) == report
    _, mixers, network = views.kinds(report)
    others = ("PyTorch compiled", "PyTorch eager")
    assert views.ratios(mixers, "pwconv buffer", others, "float32") == pytest.approx([2, 2])
    assert views.ratios(network, "pwconv buffer", others, "float32") == pytest.approx([0.25])
    text = io.StringIO()
    report.layers.clear()
    print_report(report, Console(file=text, width=160))
    printed = text.getvalue()
    for shown in (
        "pwconv buffer takes 2.00× the time of the best of PyTorch (geometric mean of 2)",
        "pwconv buffer takes 0.25× the time of the best of PyTorch (g@64)",
        "60.0 µs over 2 mixers, 180 µs as often as the network has them",
    ):
        assert shown in printed


def test_another_schema():
    with pytest.raises(pwconv.PwconvError, match="schema 99"):
        from_document({"schema": 99})


def test_roofline():
    wide, deep = Layer(8, 8, 64, 64), Layer(1024, 1024, 32, 32)
    assert layer_roofline(wide, "float32", CEILINGS) == Roofline(
        wide.least_bytes(4) / 1e12, "memory"
    )
    assert layer_roofline(deep, "float32", CEILINGS) == Roofline(deep.flop / 10e12, "arithmetic")
    assert layer_roofline(deep, "float16", CEILINGS) == Roofline(deep.flop / 20e12, "arithmetic")


def test_views(report):
    names = views.contenders(report, "float32")
    assert names[0] == "pwconv texture3d"
    assert views.contenders(report, "float16") == []
    pytorch = ("PyTorch conv2d", "PyTorch matmul")
    assert views.ratios(report.layers, names[0], pytorch, "float32") == pytest.approx([4.0, 4.0])
    assert views.ratios(report.layers, names[0], ("ncnn Vulkan",), "float32") == []
    assert views.geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_a_file_that_cannot_be_written(report, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere" / "b.json"):
        with pytest.raises(pwconv.PwconvError, match="cannot be written"):
            require_writable(path)
        with pytest.raises(pwconv.PwconvError, match="cannot be written"):
            write_json(report, path)
    require_writable(tmp_path / "b.json")
