"""The command line, as a user runs it."""

from __future__ import annotations

import importlib.metadata
import sys

import numpy as np
import pytest
from PIL import Image

import pwconv
from command_line import run
from pwconv import cli, demo


def test_version():
    result = run("--version")
    assert result.stdout == f"pwconv {importlib.metadata.version('pwconv')}\n"


def test_the_installed_command_is_this_one():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="pwconv")
    assert command.load() is cli.main


def test_info(device):
    result = run("info")
    assert result.returncode == 0
    for expected in (device.info.name, device.info.driver, "maxImageDimension3D"):
        assert expected in result.stdout


def test_demo(device, tmp_path):
    output = tmp_path / "picture.png"
    result = run("demo", "-d", str(device.info.index), "-o", str(output), PWCONV_VALIDATE="1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert str(device.info) in result.stdout
    assert "against" not in result.stderr
    assert result.stdout.count(" ok") == 8
    for expected in ("48→96 @ 300×451", "float16", "vs Pillow", f"wrote {output}"):
        assert expected in result.stdout
    picture = np.asarray(Image.open(output))
    assert picture.std() > 20


def test_demo_fails_when_a_check_does(device, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "_PILLOW_BOUND", 0.5)
    monkeypatch.setattr(demo, "_mixer", lambda _: [])
    monkeypatch.setattr(demo, "_false_colour", lambda _: Image.new("RGB", (2, 2)))
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["demo", "-d", str(device.info.index), "-o", str(tmp_path / "p.png")])
    assert exit_info.value.code == 1
    assert "FAILED" in capsys.readouterr().out


def test_a_nan_fails_its_check():
    step = demo.Step("", (1,), (1,), "float32", 0.0, float("nan"), 1.0)
    assert not step.passed


def test_errors_are_one_line(device, tmp_path):
    result = run("demo", "-d", "no such device")
    assert result.returncode == 1
    assert result.stderr.startswith("error: no device matches 'no such device'; there are 0: ")
    assert result.stderr.count("\n") == 1
    missing = tmp_path / "nowhere" / "picture.png"
    result = run("demo", "-d", str(device.info.index), "-o", str(missing))
    assert result.returncode == 1
    assert result.stderr == (
        f"error: {missing} cannot be written: there is no folder {missing.parent}\n"
    )
    assert result.stdout == ""  # before anything has run


def test_a_picture_that_cannot_be_written(tmp_path):
    with pytest.raises(pwconv.PwconvError, match=f"{tmp_path} cannot be written: .*directory"):
        demo.write_pictures({"black": Image.new("RGB", (2, 2))}, tmp_path)


def test_demo_without_its_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(pwconv.PwconvError, match=r"pip install 'pwconv\[demo\]'"):
        demo.load_photograph()


def test_an_unknown_command():
    result = run("dmeo")
    assert result.returncode == 2
    assert "invalid choice" in result.stderr
