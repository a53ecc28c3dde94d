"""The short examples, on small models."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest

import onnx_file
import pwconv
import text_models
import webcam_loop
from support.models import make_model, node, run_elsewhere


@pytest.fixture(autouse=True)
def _on_the_device(device, monkeypatch):
    monkeypatch.setattr(pwconv, "from_onnx", partial(pwconv.from_onnx, device=device))
    monkeypatch.setattr(pwconv, "from_torch", partial(pwconv.from_torch, device=device))


@pytest.fixture
def path(tmp_path, rng):
    """Return the path of a network with a head that is refused."""
    weight = rng.standard_normal((4, 3, 3, 3), np.float32)
    nodes = [
        node("Conv", "x w", "c", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "c", "features"),
        node("ReduceMax", "features", "m", axes=[2, 3], keepdims=0),
        node("TopK", "m k", "best which"),
    ]
    constants = {"w": weight, "k": np.array([2])}
    model = make_model(nodes, {"x": ["N", 3, "H", "W"]}, ["best"], constants, opset=17)
    onnx.save(model, tmp_path / "model.onnx")
    trunk = make_model(nodes[:2], {"x": ["N", 3, "H", "W"]}, ["features"], {"w": weight}, opset=17)
    onnx.save(trunk, tmp_path / "trunk.onnx")
    return tmp_path / "model.onnx"


def test_onnx_file(path, capsys):
    onnx_file.main(path.with_name("trunk.onnx"))
    assert capsys.readouterr().out == (
        "x (1, 3, 96, 160) -> features (1, 4, 48, 80)\n"
        "x (1, 3, 160, 224) -> features (1, 4, 80, 112)\n"
    )


def test_webcam_loop(path, capsys):
    webcam_loop.main(path.with_name("trunk.onnx"), count=3)
    printed = capsys.readouterr().out
    assert "the last output has shape (1, 4, 48, 80)\n" in printed
    assert "frames a second of 160 × 96 on " in printed


def test_the_frames_are_smoothed(path):
    """What stays on the device is what NumPy makes of the same frames."""
    graph = pwconv.from_onnx(path.with_name("trunk.onnx"), shapes={"x": (1, 3, 96, 160)})
    frames = [graph.run({"x": frame})["features"] for frame in webcam_loop.frames(3)]
    assert not np.array_equal(frames[0], frames[1])
    smooth = webcam_loop.smoothing(graph, frames[0].shape)
    state = expected = frames[0]
    for y in frames[1:]:
        state = smooth.run({"y": y, "before": state})["y"]
        expected = 0.8 * expected + 0.2 * y
    np.testing.assert_allclose(state, expected, 1e-5, 1e-5)


def test_cut_head(path, rng):
    cut_head = pytest.importorskip("cut_head")
    x = rng.standard_normal((1, 3, 8, 10), np.float32)
    with pytest.raises(pwconv.UnsupportedError, match=r"cut the model by outputs=\['m'\]"):
        pwconv.from_onnx(path, shapes={"x": x.shape})
    expected = run_elsewhere(onnx.load(path), {"x": x})["best"]
    for cut in (["m"], ["features"]):
        np.testing.assert_allclose(cut_head.run_both(path, {"x": x}, cut), expected, 1e-4, 1e-5)


@pytest.mark.exhaustive
def test_a_line_is_read(capsys):
    cut_head = pytest.importorskip("cut_head")
    try:
        text_models.fetch(text_models.READER)
    except text_models.NotFetchedError as error:
        pytest.skip(str(error))
    cut_head.main()
    printed = capsys.readouterr().out
    assert "MatMul 'p2o.MatMul.2': B is computed by the network" in printed
    assert f"{cut_head.CUT[0]!r}], and compute the rest elsewhere" in printed
    assert "the line reads: Region-based segmentation\n" in printed


# The exporter warns of things of its own.
@pytest.mark.filterwarnings("ignore")
def test_torch_module(capsys):
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    import torch_module

    torch_module.main()
    printed = capsys.readouterr().out
    assert printed.startswith("x (1, 3, 64, 96) -> (1, 32, 32, 48); at most ")
    assert float(printed.split("at most ")[1].split()[0]) < 1e-4
