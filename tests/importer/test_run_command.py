"""`pwconv run`, as a user types it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from support.command_line import run
from support.models import make_model, node, run_elsewhere


@pytest.fixture
def model(tmp_path, rng):
    """Return a classifier of images whose batch and size are not fixed, and its path."""
    weight = rng.standard_normal((4, 3, 1, 1), np.float32)
    nodes = [
        node("Conv", "x w", "c"),
        node("GlobalAveragePool", "c", "p"),
        node("Flatten", "p", "f"),
        node("Softmax", "f", "y"),
    ]
    made = make_model(nodes, {"x": ["N", 3, "H", "W"]}, ["y"], {"w": weight})
    onnx.save(made, tmp_path / "model.onnx")
    return made


def test_an_image(device, model, tmp_path, rng):
    image = pytest.importorskip("PIL.Image")
    pixels = rng.integers(0, 256, (6, 9, 3), np.uint8)
    image.fromarray(pixels).save(tmp_path / "x.png")
    output = tmp_path / "y.npz"
    result = run(
        *("run", tmp_path / "model.onnx", "-i", f"x={tmp_path / 'x.png'}", "-o", output),
        *("--mean", "0.5,0.4,0.3", "--std", "0.2"),
    )
    assert (result.returncode, result.stderr) == (0, "")
    x = (pixels / np.float32(255) - np.float32([0.5, 0.4, 0.3])) / np.float32(0.2)
    wanted = run_elsewhere(model, {"x": x.transpose(2, 0, 1)[None].astype(np.float32)})["y"]
    np.testing.assert_allclose(np.load(output)["y"], wanted, 1e-4)
    assert f"  0  {wanted[0].argmax()}: " in result.stdout


def test_arrays(device, model, tmp_path, rng):
    x = rng.standard_normal((2, 3, 5, 7), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    wanted = run_elsewhere(model, {"x": x})["y"]
    for given in ("x.npy", "x.npz"):
        output = tmp_path / "y.npy"
        result = run("run", tmp_path / "model.onnx", "-i", tmp_path / given, "-o", output)
        assert (result.returncode, result.stderr) == (0, "")
        np.testing.assert_allclose(np.load(output), wanted, 1e-4)


@pytest.mark.parametrize("what", ["--summary", "--check", "--profile"])
def test_tables(device, model, tmp_path, rng, what):
    np.save(tmp_path / "x.npy", rng.standard_normal((1, 3, 5, 7), np.float32))
    result = run(
        *("run", tmp_path / "model.onnx", "-i", tmp_path / "x.npy", "--shape", "x=1,3,5,7", what)
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "global_avg_pool" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --input x=FILE; inputs are x (N, 3, H, W)"),
        (("-i", "z=x.npy"), "there is no input 'z'; inputs are x (N, 3, H, W)"),
        (("-i", "bad.npy"), "bad.npy cannot be read as an array"),
        (("-i", "bad.png"), "bad.png cannot be read as an image"),
        (("-i", "x.npy", "-o", "y.txt"), "y.txt: it must end with .npz"),
        (("-i", "no.npy"), "No such file"),
    ],
    ids=str,
)
def test_errors_are_one_line(device, model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((1, 3, 2, 2), np.float32))
    for name in ("bad.npy", "bad.png"):
        (tmp_path / name).write_bytes(b"nothing")
    result = run("run", "model.onnx", *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
