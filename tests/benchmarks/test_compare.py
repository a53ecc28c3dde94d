"""``python benchmarks/compare.py``, on the smallest of images, against a peer that is made up."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

import compare
import pwconv
from pwconv.bench.report import Run
from support.reports import CHECK, sample


class Rival:
    """Takes a microsecond for everything."""

    version = "1.0"
    closed = False

    def measure(self, case: Any, dtype: str) -> list[Run]:
        return [Run("Rival eager", dtype, sample(1), CHECK)]

    def close(self) -> None:
        self.closed = True


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["compare.py", *arguments])
    compare.main()


def test_everyone_runs_each_graph_in_turns(device, tmp_path, monkeypatch, capsys):
    rival = Rival()
    monkeypatch.setattr(compare, "open_peers", lambda *_: [rival])
    file, picture = tmp_path / "a.json", tmp_path / "a.png"
    run(
        monkeypatch,
        *("--workload", "edgetam-mixers", "--size", "32", "-d", str(device.info.index)),
        *("--dtype", "float16", "--storage", "buffer", "--json", str(file), "--plot", str(picture)),
    )
    assert rival.closed
    document = json.loads(file.read_text(encoding="utf-8"))
    assert document["workload"] == "edgetam-mixers at 32"
    for graph in document["graphs"]:
        assert [r["contender"] for r in graph["runs"]][0 :: len(graph["runs"]) - 1] == [
            "pwconv",
            "Rival eager",
        ]
    assert picture.stat().st_size > 0
    out = capsys.readouterr().out
    for shown in ("mixer 48@8", "over 4 mixers", "beyond the GPU's own time", "known size"):
        assert shown in out
    assert "ratio  pwconv buffer takes " in out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--plot", "plot.doc"), "plot.doc cannot be written: its name must end in .eps or "),
        (("--json", "nowhere/a.json"), "there is no folder nowhere"),
        (("--workload", "sd-unet", "--size", "64"), "only these workloads take it: edgetam, "),
        (("--size", "33"), "the size is 33; it must be a positive multiple of 32"),
        (("--device", "no such"), "no device matches 'no such'"),
    ],
)
def test_errors_are_one_line(monkeypatch, tmp_path, arguments, problem):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=problem):
        run(monkeypatch, *arguments)


def test_what_is_found_is_printed_where_no_file_can_be_written(monkeypatch, tmp_path, capsys):
    def fail(*_: Any) -> None:
        raise pwconv.PwconvError("the disk is full")

    monkeypatch.setattr(compare, "run", lambda *_, **__: None)
    monkeypatch.setattr(compare, "to_document", lambda _: {})
    monkeypatch.setattr(compare, "describe", lambda _: ["what was found"])
    monkeypatch.setattr(compare, "compare", lambda _: [])
    monkeypatch.setattr(compare, "write_document", fail)
    with pytest.raises(SystemExit, match="the disk is full"):
        run(monkeypatch, "--json", str(tmp_path / "a.json"))
    assert "what was found" in capsys.readouterr().out
