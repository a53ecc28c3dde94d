"""``pwconv bench`` as a user runs it, on the smallest of layers."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import pwconv
from pwconv import cli
from pwconv.bench import command, plot
from pwconv.bench.report import from_document
from support import inside
from support.command_line import run


def test_a_tiny_run(device, tmp_path):
    results, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    result = run(
        "bench",
        *("--device", str(device.info.index)),
        *("--shape", "16,8,8,8", "--shape", "5,7,3,9,2"),
        *("--json", str(results), "--plot", str(picture), "--no-peers"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for expected in (str(device.info), "16→8@8", "5→7@3×9 ×2", "float16", "fp32 FMA", "roof"):
        assert expected in result.stdout

    document = json.loads(results.read_text(encoding="utf-8"))
    report = from_document(document)
    assert document["device"]["name"] == device.info.name
    assert report.host.call.median > 0
    for layer in report.layers:
        measured = {(r.dtype, r.storage) for r in layer.runs}
        storages = ("texture3d", "buffer")
        assert measured == {(d, s) for d in ("float32", "float16") for s in storages}
        for each in layer.runs:
            assert each.contender == "pwconv"
            assert each.failure is None
            assert 0 < each.sample.q1 <= each.sample.median <= each.sample.q3
            assert each.clocks.before > 0
            assert each.variant.startswith("conv2d_pw")
            assert len(each.workgroup) == 3
    assert all(ceiling.rate > 0 for ceiling in report.ceilings)
    assert np.asarray(Image.open(picture)).std() > 10


def test_a_choice_of_type_and_no_host(device, tmp_path):
    results = tmp_path / "bench.json"
    result = run(
        "bench",
        *("-d", str(device.info.index), "-s", "4,4,2,2", "--dtype", "float16"),
        *("--storage", "texture3d", "--no-host", "--no-peers", "--json", str(results)),
        PYTHONIOENCODING="ascii",  # as cp1252, without most of what is printed
    )
    assert result.returncode == 0, result.stdout + result.stderr
    document = json.loads(results.read_text(encoding="utf-8"))
    assert document["host"] is None
    assert [(r["dtype"], r["storage"]) for r in document["layers"][0]["runs"]] == [
        ("float16", "texture3d")
    ]


@pytest.mark.parametrize(
    ("arguments", "problem", "code"),
    [
        (("--shape", "16,8,8"), "'16,8,8' has 3 numbers; a shape is K,N,H,W", 2),
        (("--shape", "16,8,8,0"), "W is '0'; it must be a number from 1", 2),
        (("--workload", "resnet"), "invalid choice: 'resnet'", 2),
        (("--workload", "edgetam", "--shape", "1,1,1,1"), "not allowed with", 2),
        (("--storage", "marble"), "--storage is 'marble'; layers on", 1),
        (("--size", "64"), "--size is 64; only workloads of graphs take it: edgetam-mixers", 1),
        (("-w", "repvit-m1", "--size", "33"), "size is 33; it must be a positive multiple", 1),
        (("--json", "/nowhere/at/all.json"), "cannot be written", 1),
    ],
)
def test_errors(arguments, problem, code):
    result = run("bench", *arguments)
    assert result.returncode == code
    assert problem in result.stderr
    assert "Traceback" not in result.stderr


def test_files_are_written_before_anything_is_printed(tmp_path, monkeypatch, capsys):
    """And what is printed is, where one cannot be."""
    printed: list[str] = []
    monkeypatch.setattr(command, "run", lambda *_: SimpleNamespace(results=[]))
    monkeypatch.setattr(*inside.slots.job, lambda *_: None)
    monkeypatch.setattr(command.report, "write_json", lambda *_: printed.append("json"))

    def fail(*_):
        raise pwconv.PwconvError("the disk is full")

    monkeypatch.setattr(plot, "write_plot", fail)

    def print_report(*_):
        printed.append("report")
        raise BrokenPipeError

    monkeypatch.setattr(command.table, "print_report", print_report)
    arguments = ["bench", "--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 1
    assert printed == ["json", "report"]
    monkeypatch.setattr(command.table, "print_report", lambda *_: None)
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 1
    said = capsys.readouterr()
    assert f"wrote {tmp_path / 'a.json'}" in "".join(said.out.splitlines())
    assert said.err == "error: the disk is full\n"


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(pwconv.PwconvError, match=r"pip install 'pwconv\[bench\]'"):
        plot.endings()
