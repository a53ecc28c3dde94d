"""The command line, as a user runs it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pwconv
from pwconv import cli, demo, documents
from support import inside
from support.command_line import run


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
    monkeypatch.setattr(*inside.slots.pillow_bound, 0.5)
    monkeypatch.setattr(*inside.slots.mixer, lambda _: [])
    monkeypatch.setattr(*inside.slots.false_colour, lambda _: Image.new("RGB", (2, 2)))
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


@pytest.mark.parametrize("arguments", [("info",), ("--help",), ("verify", "--help")])
def test_an_encoding_that_has_no_such_characters(device, arguments):
    result = run(*arguments, PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_no_space_is_left_for_the_output(device):
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "pwconv", "info"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr.startswith("error: the output cannot be written: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("info",), ("--help",)])
def test_whoever_reads_goes_away(device, monkeypatch, arguments):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # argparse takes the error for none there
    process = subprocess.Popen(
        [sys.executable, "-m", "pwconv", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


def test_output_that_is_closed(device):
    command = f"{sys.executable} -m pwconv info >&-"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="signals are others there")
def test_ctrl_c_is_one_line(device):
    # Not followed by coverage, whose own lock stays held where Ctrl-C comes inside it.
    untraced = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    with subprocess.Popen(
        [sys.executable, "-m", "pwconv", "verify", "-d", str(device.info.index)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=untraced,
        # A suite in a shell's background ignores it, and so would this.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdout.readline().startswith("device ")
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, said) == (130, "interrupted\n")


def test_info_without_a_device():
    nowhere = {"VK_DRIVER_FILES": "/nonexistent.json", "VK_ICD_FILENAMES": "/nonexistent.json"}
    result = run("info", **nowhere)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "finds no driver" in result.stderr
    assert result.stderr.count("\n") == 1


def test_info_where_the_loader_lists_nothing(monkeypatch, capsys):
    monkeypatch.setattr(pwconv, "devices", list)
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["info"])
    assert exit_info.value.code == 1
    assert "there is no Vulkan device. On Debian" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("demo",), ("verify", "--only", "upsample"), ("tune",)])
def test_a_wrong_word_in_the_environment_is_one_line(command):
    result = run(*command, PWCONV_VALIDATE="perhaps")
    assert result.returncode == 1
    assert result.stderr.startswith("error: PWCONV_VALIDATE is 'perhaps'; it must be one of 1, ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("demo", "-o"), "cat.jpg: its name must end in .png"),
        (("demo", "-o"), "nowhere/cat.png: there is no folder"),
        (("demo", "-o"), "folder.png: Is a directory"),
        (("bench", "--plot"), "plot.doc: its name must end in .eps or "),
        (("bench", "--plot"), "plot: its name must end in "),
        (("bench", "--plot"), "nowhere/plot.png: there is no folder"),
        (("bench", "--json"), "nowhere/a.json: there is no folder"),
        (("bench", "--json"), f"{'x' * 300}.json: File name too long"),
        (("verify", "--json"), "nowhere/a.json: there is no folder"),
        (("verify", "--json"), f"{'x' * 300}.json: File name too long"),
    ],
)
def test_what_cannot_be_written_is_said_first(tmp_path, monkeypatch, capsys, arguments, problem):
    (tmp_path / "folder.png").mkdir()
    name, _, why = problem.partition(": ")
    monkeypatch.setattr("pwconv.device.devices", None)  # nothing is looked for yet
    with pytest.raises(SystemExit) as exit_info:
        cli.main([*arguments, str(tmp_path / name)])
    assert exit_info.value.code == 1
    assert f"{tmp_path / name} cannot be written: {why}" in capsys.readouterr().err


def test_asking_whether_a_file_can_be_written_changes_nothing(tmp_path):
    file = tmp_path / "file"
    documents.require_writable(file)
    assert not file.exists()
    file.write_text("kept")
    documents.require_writable(file)
    assert file.read_text() == "kept"
    os.mkfifo(tmp_path / "pipe")
    documents.require_writable(tmp_path / "pipe")  # not waiting for its reader


def test_a_document_holds_what_utf_8_does_not(tmp_path):
    documents.write_document({"name": "\udce9"}, tmp_path / "file")
    assert json.loads((tmp_path / "file").read_bytes()) == {"name": "\udce9"}


def test_an_unknown_command():
    result = run("dmeo")
    assert result.returncode == 2
    assert "invalid choice" in result.stderr
