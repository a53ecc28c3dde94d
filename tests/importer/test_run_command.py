"""`pwconv run`, as a user types it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

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
        (("-i", "bad.npz"), "bad.npz cannot be read as arrays"),
        (("-i", "bomb.npz"), "bytes of arrays; at most 4,294,967,296 are read"),
        (("-i", "huge.npy"), "huge.npy cannot be read as an array: mmap length is greater"),
        (("-i", "deep.png"), "deep.png has pixels of more than 8 bits, mode I;16"),
        (("-i", "x.png", "--shape", "x=1,3,9,99999999999"), "pixels are made"),
        (("-i", "x.npy", "--shape", "x=1,3,9,9"), "has shape (1, 3, 2, 2) there, and (1, 3, 9, 9)"),
        (("-i", "x.npy", "-i", "x=x.npy"), "'x' is given twice"),
        (("-i", "x.npy", "-o", "none/y.npz"), "none/y.npz cannot be written: there is no folder"),
        (("-i", "x.npy", "-o", "y.npz", "--check"), "--summary and --check write no outputs"),
    ],
    ids=str,
)
def test_errors_are_one_line(device, model, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((1, 3, 2, 2), np.float32))
    for name in ("bad.npy", "bad.png"):
        (tmp_path / name).write_bytes(b"nothing")
    write_bad_archives()
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((2, 2), np.uint16)).save("deep.png")
    image.fromarray(np.zeros((2, 2), np.uint8)).save("x.png")
    result = run("run", "model.onnx", *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def write_bad_archives():
    """Write an archive whose data is damaged, one of zeros past any memory, and such an array."""
    np.savez_compressed("bad.npz", x=np.zeros((1, 3, 20, 20), np.float32))
    damaged = bytearray(Path("bad.npz").read_bytes())
    damaged[60:200] = bytes(140)
    Path("bad.npz").write_bytes(damaged)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1, 3, 99999, 99999)}
    )
    Path("huge.npy").write_bytes(header.getvalue())
    with zipfile.ZipFile("bomb.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.infolist()[0].file_size = 2**33


@pytest.mark.parametrize(
    ("option", "message"),
    [(("--std", "0"), "has a 0"), (("--mean", "nan"), "is not finite"), (("--std", "1,2"), "1 or")],
    ids=str,
)
def test_numbers_of_no_use(option, message):
    result = run("run", "model.onnx", *option)
    assert result.returncode == 2
    assert message in result.stderr


def test_outputs_of_any_name(device, tmp_path, rng):
    """Among them those of arguments of numpy.savez; and an input that no output depends on."""
    names = ["file", "allow_pickle", "a b"]
    nodes = [helper.make_node("Neg", ["p=q"], [name]) for name in names]
    onnx.save(make_model(nodes, {"p=q": (1, 3), "unused": (5,)}, names), tmp_path / "model.onnx")
    x = rng.standard_normal((1, 3), np.float32)
    np.save(tmp_path / "x.npy", x)
    output = tmp_path / "y.npz"
    result = run("run", tmp_path / "model.onnx", "-i", f"p=q={tmp_path / 'x.npy'}", "-o", output)
    assert (result.returncode, result.stderr) == (0, "")
    with np.load(output) as found:
        assert sorted(found.files) == sorted(names)
        for name in names:
            np.testing.assert_array_equal(found[name], -x)


@pytest.mark.parametrize("elem_type", [onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16])
def test_a_turned_image(device, tmp_path, rng, elem_type):
    """As cameras write it: the tag says how it is to be seen."""
    image = pytest.importorskip("PIL.Image")
    shapes = {"x": ["N", 3, "H", "W"]}
    made = make_model([node("Relu", "x", "y")], shapes, ["y"], elem_type=elem_type)
    onnx.save(made, tmp_path / "model.onnx")
    pixels = rng.integers(0, 256, (6, 9, 3), np.uint8)
    written = image.fromarray(pixels)
    tags = written.getexif()
    tags[274] = 6  # to be turned to the right
    written.save(tmp_path / "x.png", exif=tags)
    output = tmp_path / "y.npy"
    result = run("run", tmp_path / "model.onnx", "-i", tmp_path / "x.png", "-o", output)
    assert (result.returncode, result.stderr) == (0, "")
    turned = np.rot90(pixels, -1).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(np.load(output), turned / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--summary"], "the shape of 'x' is not fixed: give --shape x=LENGTH,…; inputs are x (N,"),
        (["-i", "x.png", "--layout", "nhwc"], "axis 1 is that of channels; give --layout nchw"),
    ],
)
def test_what_the_command_line_lacks_is_said_in_its_words(model, tmp_path, arguments, message):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (9, 6)).save(tmp_path / "x.png")
    given = [tmp_path / each if each.endswith(".png") else each for each in arguments]
    result = run("run", tmp_path / "model.onnx", *given)
    assert result.returncode == 1
    assert message in result.stderr
