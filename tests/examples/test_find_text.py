"""Text in a photograph, as ``make demo`` ends with it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import find_text
import pwconv
import text_models
from support.models import make_model, node


@pytest.fixture
def detector(tmp_path) -> Path:
    """Return a file that takes what is dark for text."""
    weight = np.full((1, 3, 1, 1), -20, np.float32)
    nodes = [node("Conv", "x w b", "c"), node("Sigmoid", "c", "y")]
    constants = {"w": weight, "b": np.float32([-20])}
    model = make_model(nodes, {"x": ["N", 3, "H", "W"]}, ["y"], constants)
    onnx.save(model, tmp_path / "detector.onnx")
    return tmp_path / "detector.onnx"


@pytest.fixture
def picture(tmp_path) -> Image.Image:
    """Return a white picture with a black bar."""
    pixels = np.full((70, 100, 3), 255, np.uint8)
    pixels[20:30, 10:50] = 0
    Image.fromarray(pixels).save(tmp_path / "bar.png")
    return find_text.read(tmp_path / "bar.png")


def test_boxes_are_found_and_drawn(device, detector, picture, tmp_path, capsys):
    output = tmp_path / "out.png"
    assert find_text.run(detector, picture, str(device.info.index), output)
    printed = capsys.readouterr().out
    assert "picture  96 × 64" in printed
    assert "found    1 lines of text" in printed
    assert "\npassed   every element of all 1 nodes" in printed
    drawn = np.asarray(Image.open(output))
    assert drawn.shape == (64, 192, 3)
    # 40 x 10 grows by 6 on each side.
    assert drawn[14, 30].tolist() == [255, 0, 0]
    assert drawn[25, 96 + 30].tolist() == [255, 255, 255]


def test_a_wrong_node_fails(device, detector, picture, tmp_path, monkeypatch, capsys):
    check = pwconv.Graph.check

    def wrong(graph, inputs):
        found = check(graph, inputs)
        return replace(found, nodes=tuple(replace(each, wrong=3) for each in found.nodes))

    monkeypatch.setattr(pwconv.Graph, "check", wrong)
    assert not find_text.run(detector, picture, str(device.info.index), tmp_path / "out.png")
    assert "FAILED   1 of 1 nodes are not what float64 gives" in capsys.readouterr().out


def test_the_rest_of_the_demo_ends_well_without_an_index(monkeypatch, capsys):
    def fetch(_):
        raise text_models.NotFetchedError("there is no index")

    monkeypatch.setattr(text_models, "fetch", fetch)
    monkeypatch.setattr(sys, "argv", ["find_text.py"])
    find_text.main()
    printed = capsys.readouterr().out
    assert "left out: the text detector could not be fetched\n  there is no index\n" in printed


def test_errors_are_one_line(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(text_models, "fetch", lambda _: detector)
    Image.new("RGB", (31, 40)).save(tmp_path / "small.png")
    monkeypatch.setattr(sys, "argv", ["find_text.py", str(tmp_path / "small.png")])
    with pytest.raises(SystemExit, match=r"error: .*small.png is 31 × 40; it must be at least 32"):
        find_text.main()


@pytest.mark.exhaustive
def test_the_cat_has_no_text_and_the_page_has(device, tmp_path, capsys):
    try:
        path = text_models.fetch(text_models.DETECTOR)
    except text_models.NotFetchedError as error:
        pytest.skip(str(error))
    picture = find_text.read(None)
    assert find_text.run(path, picture, str(device.info.index), tmp_path / "out.png")
    assert "found    7 lines of text" in capsys.readouterr().out
    text = np.asarray(Image.open(tmp_path / "out.png"))[:, picture.width :]
    assert text[:288].max() < 255 * find_text.TEXT < text[288:].max()
