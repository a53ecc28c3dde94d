"""The photograph through the device, as ``make demo`` runs it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import skimage.data
from PIL import Image

import photograph
import pwconv


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", photograph.__file__, *arguments],
        env={**os.environ, "PWCONV_VALIDATE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.exhaustive
def test_the_whole_picture(device, tmp_path):
    output = tmp_path / "picture.png"
    result = run("-d", str(device.info.index), "-o", str(output))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count(" ok") == 8
    assert "48→96 @ 300×451" in result.stdout


def test_every_layer_is_checked(device, tmp_path, monkeypatch, capsys):
    """On a part of the picture."""
    part = skimage.data.chelsea()[100:163, 150:239]
    monkeypatch.setattr(skimage.data, "chelsea", lambda: part)
    output = tmp_path / "picture.png"
    assert photograph.run(str(device.info.index), output)
    printed = capsys.readouterr().out
    assert str(device.info) in printed
    assert printed.count(" ok") == 8
    for expected in ("48→96 @ 63×89", "float16", "vs Pillow", f"wrote {output}"):
        assert expected in printed
    assert np.asarray(Image.open(output)).std() > 20


def test_it_fails_when_a_check_does(device, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(photograph, "PILLOW_BOUND", 0.5)
    monkeypatch.setattr(photograph, "mixer", lambda _: [])
    monkeypatch.setattr(photograph, "false_colour", lambda _: Image.new("RGB", (2, 2)))
    arguments = ["-d", str(device.info.index), "-o", str(tmp_path / "p.png")]
    monkeypatch.setattr(sys, "argv", ["photograph.py", *arguments])
    with pytest.raises(SystemExit) as exit_info:
        photograph.main()
    assert exit_info.value.code == 1
    assert "FAILED" in capsys.readouterr().out


def test_a_nan_fails_its_check():
    step = photograph.Step("", (1,), (1,), "float32", 0.0, float("nan"), 1.0)
    assert not step.passed


def test_errors_are_one_line():
    result = run("-d", "no such device")
    assert result.returncode == 1
    assert result.stderr.startswith("error: no device matches 'no such device'; there are 0: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["cat.jpg", "nowhere/cat.png"])
def test_what_cannot_be_written_is_said_first(tmp_path, monkeypatch, name):
    monkeypatch.setattr(pwconv, "Device", None)  # nothing has run yet
    with pytest.raises(pwconv.PwconvError, match=f"{name} cannot be written: it must end in .png"):
        photograph.run(None, tmp_path / name)


def test_without_its_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    monkeypatch.delitem(sys.modules, "photograph")
    with pytest.raises(SystemExit, match=r"pip install '\.\[demo\]'"):
        __import__("photograph")
