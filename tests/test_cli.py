"""The command line, as a user runs it."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

import pwconv
from pwconv import cli, documents
from pwconv.terminal import show
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
    ids = f"{device.info.vendor_id:#x}, {device.info.device_id:#x}, {device.info.driver_id}"
    for expected in (device.info.name, device.info.driver, ids, "maxImageDimension3D"):
        assert expected in result.stdout


def test_errors_are_one_line():
    result = run("verify", "-d", "no such device")
    assert result.returncode == 1
    assert result.stderr.startswith("error: no device matches 'no such device'; there are 0: ")
    assert result.stderr.count("\n") == 1


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


@pytest.mark.parametrize("command", ["info", "verify", "tune", "bench"])
def test_help_describes_the_command_with_an_example(command):
    text = run(command, "--help").stdout
    listed = run("--help", COLUMNS="200").stdout
    description = text.split("\n\n")[1]
    assert description.endswith(".")
    assert f"{description[0].lower()}{description[1:-1]}" in listed
    (example,) = (line for line in text.splitlines() if line.startswith("example: pwconv "))
    options = cli.parse_arguments(example.split()[2:])
    assert options.run


@pytest.mark.parametrize("command", ["tune", "bench"])
def test_storages_are_choices(command):
    assert "--storage {texture3d,buffer}" in run(command, "--help").stdout
    result = run(command, "--storage", "marble")
    assert result.returncode == 2
    assert "argument --storage: invalid choice: 'marble' (choose from " in result.stderr


def test_output_that_is_no_terminal_is_not_wrapped(device):
    name = "conv2d_pw_tiled_fp32_buffer_m1n1k1"
    result = run("verify", "-d", str(device.info.index), "--only", name, COLUMNS="20")
    assert result.returncode == 0, result.stdout + result.stderr
    (row,) = (line for line in result.stdout.splitlines() if line.startswith(" conv2d_pw_tiled"))
    assert row.split()[:3] == ["conv2d_pw_tiled", "fp32", "buffer"]
    assert row.rstrip().endswith("1 of 1")
    assert "…" not in result.stdout


@pytest.mark.parametrize("width", [40, 70, 200])
def test_words_do_not_break_where_a_terminal_is_narrow(width):
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=True, color_system=None)
    table = Table("layer", "kernel", "what is said of it at length")
    names = ["conv2d_pw_staged_buffer_fp32_texture2d_128x48x8", "conv2d_pw_tiled"]
    for name in names:
        table.add_row("192→384@64", name, "short words, many of them, " * 4)
    show(console, table)
    words = set(text.getvalue().replace("│", " ").split())
    assert {*names, "192→384@64", "words,", "length"} <= words
    if width == 200:
        assert max(map(len, text.getvalue().splitlines())) <= width


def test_what_only_one_command_needs_is_imported_by_it():
    program = (
        "import sys, pwconv; before = set(sys.modules); import pwconv.cli;"
        "print(*(name for name in sys.modules if name not in before))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    for heavy in ("rich", "pwconv.bench", "pwconv.verify", "pwconv.importer"):
        assert heavy not in result.stdout.split(), heavy


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


@pytest.mark.parametrize("command", [("verify", "--only", "upsample"), ("tune",), ("bench",)])
def test_a_wrong_word_in_the_environment_is_one_line(command):
    result = run(*command, PWCONV_VALIDATE="perhaps")
    assert result.returncode == 1
    assert result.stderr.startswith("error: PWCONV_VALIDATE is 'perhaps'; it must be one of 1, ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("bench", "--json"), "nowhere/a.json: there is no folder"),
        (("bench", "--json"), "folder.json: Is a directory"),
        (("bench", "--json"), f"{'x' * 300}.json: File name too long"),
        (("verify", "--json"), "nowhere/a.json: there is no folder"),
        (("verify", "--json"), f"{'x' * 300}.json: File name too long"),
    ],
)
def test_what_cannot_be_written_is_said_first(tmp_path, monkeypatch, capsys, arguments, problem):
    (tmp_path / "folder.json").mkdir()
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
    result = run("bnech")
    assert result.returncode == 2
    assert "invalid choice" in result.stderr
