"""The JSON's schema, and what is said of a report."""

from __future__ import annotations

import json

import pytest
from rich.table import Table

import pwconv
from pwconv.bench.report import SCHEMA, Report, to_document
from pwconv.bench.table import describe
from pwconv.documents import require_writable, write_document
from pwconv.timing.ceilings import Roofline, roofline
from support.reports import CEILINGS, make_report


@pytest.fixture
def report() -> Report:
    return make_report()


def test_the_document_says_what_follows(report, tmp_path):
    write_document(to_document(report), tmp_path / "bench.json")
    document = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert document["schema"] == SCHEMA
    run, _, unsettled, failed = document["graphs"][0]["runs"]
    least = document["graphs"][0]["roofline"]["float32"]["seconds"]
    assert run["share"] == pytest.approx(least / 4e-5)
    assert run["clocks"]["settled"]
    assert not unsettled["clocks"]["settled"]
    assert failed["share"] is None
    assert failed["failure"] == "it fell over"
    assert all(ceiling["clocks"]["settled"] for ceiling in document["ceilings"])


def test_without_a_host(report):
    report.host = None
    assert to_document(report)["host"] is None
    assert not any("host" in part.title for part in describe(report) if isinstance(part, Table))


def test_contenders(report):
    labels = report.contenders("float32")
    assert labels == ["pwconv texture3d", "PyTorch conv2d", "PyTorch matmul", "ncnn Vulkan"]
    assert report.contenders("float16") == []
    assert [len(results) for results in report.kinds()] == [2, 1]


def test_the_tables(report):
    parts = list(describe(report))
    times, kernels, ceilings, host = (part for part in parts if isinstance(part, Table))
    assert list(times.columns[0].cells) == ["64→64@64", "1024→1024@32", "net@64"]
    assert list(times.columns[2].cells) == ["40.0 ±10"] * 3
    assert list(times.columns[4].cells) == ["20.0 ±10"] * 3
    assert list(times.columns[5].cells) == ["10.0 ±10!"] * 3
    assert list(times.columns[6].cells) == ["failed"] * 3
    assert list(kernels.columns[3].cells) == ["a_variant 8×8×1", "a_variant 8×8×1", "2"]
    assert list(ceilings.columns[1].cells) == ["1.00 TB/s", "10.0 TFLOP/s", "20.0 TFLOP/s"]
    assert "  beyond the GPU's own time of a run" in host.columns[0].cells
    lines = [part for part in parts if isinstance(part, str)]
    assert "sum    pwconv texture3d: 80.0 µs over 2 layers, " in lines[0]
    assert lines[0].endswith("160 µs as often as the network has them")
    assert "failed ncnn Vulkan float32 net@64: it fell over" in lines
    assert "note   careful" in lines


def test_roofline():
    wide = roofline(10**6, 10**8, "float32", CEILINGS)
    assert wide == Roofline(1e-4, "memory")
    assert roofline(10**9, 10**3, "float32", CEILINGS) == Roofline(1e-4, "arithmetic")
    assert roofline(10**9, 10**3, "float16", CEILINGS) == Roofline(5e-5, "arithmetic")


def test_a_file_that_cannot_be_written(report, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere" / "b.json"):
        with pytest.raises(pwconv.PwconvError, match="cannot be written"):
            require_writable(path)
        with pytest.raises(pwconv.PwconvError, match="cannot be written"):
            write_document(to_document(report), path)
    require_writable(tmp_path / "b.json")
