"""Reports read back, as tables in Markdown and as pictures; the results that are published."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import plot
import pwconv
import reading
import table
from pwconv.bench.report import to_document
from pwconv.documents import write_document
from support.reports import make_report

BENCHMARKS = Path(plot.__file__).parent
RESULTS = sorted(BENCHMARKS.glob("results/**/*.json"))


def test_a_report_is_read_back(tmp_path):
    report, path = make_report(), tmp_path / "bench.json"
    write_document(to_document(report), path)
    assert reading.read_report(path) == report


@pytest.mark.parametrize(
    ("text", "problem"),
    [('{"schema": 2}', "has schema 2; this pwconv reads 3"), ("nonsense", "cannot be read: ")],
)
def test_what_is_no_report(tmp_path, text, problem):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(pwconv.PwconvError, match=problem):
        reading.read_report(path)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_published_results_are_of_this_schema(path):
    report = reading.read_report(path)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert json.loads(json.dumps(to_document(report))) == document


def test_published_tables_are_those_of_the_results():
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    published = [
        path for path in RESULTS if f"table.py {path.relative_to(BENCHMARKS.parent)}" in text
    ]
    assert len(published) == 3
    for path in published:
        assert "\n".join(table.markdown(reading.read_report(path))) in text


def test_ratios():
    report = make_report()
    columns = table.columns(report, "float32")
    assert list(columns) == ["pwconv texture3d", "PyTorch", "ncnn"]
    assert columns["PyTorch"] == ["PyTorch conv2d", "PyTorch matmul"]
    assert list(table.compare(report)) == [
        "ratio  pwconv texture3d takes 4.00× the time of PyTorch in float32 "
        "(geometric mean of 2 layers)",
        "ratio  pwconv texture3d takes 4.00× the time of PyTorch in float32 "
        "(geometric mean of 1 networks)",
    ]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_legends_cover_nothing_and_axes_have_ticks(path):
    figure = plot.draw(reading.read_report(path))
    figure.draw_without_rendering()
    boxes = []
    for axis in figure.axes:
        legend = axis.get_legend().get_window_extent()
        assert not any(legend.overlaps(other.get_window_extent()) for other in figure.axes)
        assert not any(legend.overlaps(box) for box in boxes)
        assert figure.bbox.padded(1).contains(legend.x0, legend.y0)
        assert figure.bbox.padded(1).contains(legend.x1, legend.y1)
        boxes.append(legend)
        for line in (axis.xaxis, axis.yaxis):
            low, high = sorted(line.get_view_interval())
            shown = [
                tick.label1
                for tick in line.get_major_ticks()
                if low <= tick.get_loc() <= high and tick.label1.get_text()
            ]
            assert len(shown) >= 2
            extents = [label.get_window_extent() for label in shown]
            assert not any(a.overlaps(b) for a, b in itertools.pairwise(extents))


def test_a_picture_is_drawn_of_a_file(tmp_path, monkeypatch):
    picture = tmp_path / "a.png"
    monkeypatch.setattr("sys.argv", ["plot.py", str(RESULTS[0]), str(picture)])
    plot.main()
    assert np.asarray(Image.open(picture)).std() > 10
    for name in ("plot.doc", "nowhere/plot.png"):
        monkeypatch.setattr("sys.argv", ["plot.py", str(RESULTS[0]), str(tmp_path / name)])
        with pytest.raises(SystemExit, match=f"{name} cannot be written"):
            plot.main()


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(pwconv.PwconvError, match=r"pip install '\.\[bench\]'"):
        plot.endings()
