"""``pwconv tune`` as a user runs it, on the smallest of layers."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import pwconv
from pwconv import cli, heuristics_file
from pwconv.tune.store import Store
from support import inside
from support.command_line import run


def test_tune_then_info_then_use(device, home):
    index = str(device.info.index)
    result = run(
        *("tune", "--device", index, "--shape", "5,7,3,9,2"),
        *("--dtype", "float32", "--storage", "texture3d"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    store = Store(device.info)
    last = result.stdout.splitlines()[-1]
    assert last == f"kept   1 winner in {store.file}"
    for expected in (str(device.info), "5→7@3×9 ×2", "float32", "texture3d", "tiled"):
        assert expected in result.stdout
    assert "float16" not in result.stdout
    assert len(json.loads(store.file.read_text())["winners"]) == 1
    assert len(store.read()) == 1

    program = (
        "import numpy as np, pwconv; layer = pwconv.PointwiseConv2d(np.ones((7, 5), np.float32),"
        f"storage='texture3d', device=pwconv.Device({index})); print(layer.explain((2, 5, 3, 9)))"
    )
    used = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "this device" in used.stdout, used.stderr
    info = run("info")
    assert f"tuning {index}: {store.file}, 1 winner, used (PWCONV_TUNE=cached)" in info.stdout
    off = run("info", PWCONV_TUNE="off")
    assert "1 winner, not used (PWCONV_TUNE=off)" in off.stdout
    store.file.write_bytes(b"nonsense")
    assert "is ignored: it is no JSON" in run("info").stdout


def test_what_is_kept_is_exported(device, home, tmp_path):
    """And decides where it is appended to heuristics.toml."""
    file = tmp_path / "card.toml"
    file.write_text("of another day")
    arguments = ("tune", "-d", str(device.info.index), "--dtype", "float32", "-s", "6,8,8,8")
    result = run(*arguments, "--storage", "texture3d", "--export", str(file))
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == f"wrote {file}"
    (kept,) = Store(device.info).read().values()
    text = file.read_text()
    (point,) = heuristics_file.parse(text, file.name)["conv2d_pw"]["points"]
    assert (point.says["variant"], point.says["seconds"]) == (kept.variant, kept.seconds)
    with inside.other_heuristics(inside.heuristics_text() + text):
        layer = pwconv.PointwiseConv2d(np.ones((8, 6), np.float32), device=device)
        explained = layer.explain((2, 6, 8, 8), "texture3d")
        assert explained.variant == kept.variant
        assert "measured at M·batch = 64, N = 8, K = 6 on " in explained.reason


@pytest.mark.parametrize("where", ["no/such/file.toml", "."])
def test_an_export_that_cannot_be_written_is_said_before_the_work(device, home, tmp_path, where):
    result = run("tune", "-d", str(device.info.index), "--export", str(tmp_path / where))
    assert result.returncode == 1
    assert " cannot be written: " in result.stderr
    assert not Store(device.info).file.exists()


def test_info_without_a_file(device, home):
    result = run("info")
    assert f"{Store(device.info).file} does not exist (PWCONV_TUNE=cached)" in result.stdout


def test_a_layer_that_does_not_fit_fails_alone_where_none_is_used(device, home):
    size = device.info.limits["maxImageDimension3D"] + 1
    result = run(
        *("tune", "-d", str(device.info.index), "-s", f"1,1,1,{size}", "-s", "4,4,2,2"),
        *("--dtype", "float32", "--storage", "texture3d"),
        PWCONV_TUNE="off",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PWCONV_TUNE is off: layers will not use what was found" in result.stdout
    assert f"failed 1→1@1×{size} float32 texture3d: " in result.stdout
    assert "maxImageDimension3D" in result.stdout
    assert len(Store(device.info).read()) == 1


@pytest.mark.parametrize(
    ("arguments", "problem", "code"),
    [
        (("--shape", "16,8,8"), "'16,8,8' has 3 numbers; a shape is K,N,H,W", 2),
        (("--dtype", "int8"), "invalid choice: 'int8'", 2),
        (("--device", "no such"), "no device matches 'no such'", 1),
    ],
)
def test_errors(home, arguments, problem, code):
    result = run("tune", *arguments)
    assert result.returncode == code
    assert problem in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bad_setting_is_one_line(home):
    for command in ("info", "tune"):
        result = run(command, PWCONV_TUNE="always")
        assert result.returncode == 1
        assert result.stderr == (
            "error: PWCONV_TUNE is 'always'; it must be one of off, cached, on-demand\n"
        )


def test_a_folder_that_cannot_be_written_is_said_at_once(device, tmp_path):
    (tmp_path / "file").write_text("no folder")
    result = run("tune", "-d", str(device.info.index), XDG_CACHE_HOME=str(tmp_path / "file"))
    assert result.returncode == 1
    assert "cannot be written" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_was_found_is_shown_where_the_file_can_no_longer_be_written(
    device, home, monkeypatch, capsys
):
    errors = [pwconv.UnsupportedError("too large"), OSError("no space left")]

    def fail(*_):
        raise errors.pop(0)

    monkeypatch.setattr(*inside.slots.tune_layer, fail)
    shapes = ("--shape", "4,4,2,2", "--shape", "4,4,3,3", "--shape", "4,4,4,4")
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["tune", "-d", str(device.info.index), *shapes, "--dtype", "float32"])
    assert exit_info.value.code == 1
    said = capsys.readouterr()
    assert "failed 4→4@2 float32 texture3d: too large" in said.out
    assert said.err.startswith("error: ")
    assert " cannot be written: no space left" in " ".join(said.err.split())
    assert not errors
