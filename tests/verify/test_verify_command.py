"""``pwconv verify`` as a user runs it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pwconv import PwconvError, cli
from pwconv.cache import make_folder
from pwconv.deny_list import DenyList
from pwconv.verify.run import Result, Verification, selected
from pwconv.verify.trials import Workbench
from support.command_line import run

NAME = "conv2d_pw_tiled_fp32_buffer_m1n1k1"


def here(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command in this process, where a fault can be planted."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["verify", *arguments])
    return exit_info.value.code, " ".join(capsys.readouterr().out.split())


def test_a_sound_device(device, home, tmp_path):
    file = tmp_path / "found.json"
    result = run(
        *("verify", "-d", str(device.info.index), "--json", str(file)),
        *("--only", NAME, "--only", "upsample_buffer"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for expected in (str(device.info), "conv2d_pw_tiled", "fp32 buffer", "1 of 1"):
        assert expected in result.stdout
    assert "3 variants, 24 cases, 0 failed, in " in result.stdout
    assert f"wrote {file}" in result.stdout
    assert all(entry["passed"] for entry in json.loads(file.read_text())["variants"])
    assert not DenyList(device.info).file.exists()


def test_deny_then_info_then_undo(device, home, monkeypatch, capsys):
    index = str(device.info.index)
    denials = DenyList(device.info)
    read = Workbench.read
    monkeypatch.setattr(Workbench, "read", lambda *arguments: np.zeros_like(read(*arguments)))

    code, out = here(capsys, "-d", index, "--only", NAME)
    assert code == 1
    assert f"FAILED {NAME} identity: zeros; at [0, 0, 0, 0] 0 for " in out
    assert "to keep layers and graphs from running what fails: pwconv verify --deny" in out
    assert not denials.file.exists()

    code, out = here(capsys, "-d", index, "--only", NAME, "--deny")
    assert code == 1
    assert f"denied {NAME} (zeros in identity)" in out
    assert f"deny list {denials.file}: 1 variant." in out
    assert {name: str(denial) for name, denial in denials.read().items()} == {
        NAME: "zeros in identity"
    }
    info = run("info")
    assert f"denied {index}: {denials.file}, 1\n  {NAME}: zeros in identity" in info.stdout

    monkeypatch.setattr(Workbench, "read", read)
    code, out = here(capsys, "-d", index, "--only", NAME)
    assert code == 0
    assert f"variants on the deny list {denials.file} pass now" in out
    assert denials.read()

    code, out = here(capsys, "-d", index, "--only", NAME, "--deny")
    assert code == 0
    assert f"allowed {NAME}: it passes now" in out
    assert denials.read() == {}

    denials.revise((), {NAME: "zeros in identity"})
    code, out = here(capsys, "-d", index, "--allow-all")
    assert code == 0
    assert f"allowed {NAME} (zeros in identity)" in out
    assert f"removed {denials.file}" in out
    assert "nothing is denied" in here(capsys, "-d", index, "--allow-all")[1]
    assert f"denied {index}: nothing" in run("info").stdout


def test_a_damaged_list_is_said_and_removed(device, home, capsys):
    denials = DenyList(device.info)
    make_folder(denials.file.parent)
    denials.file.write_bytes(b"nonsense")
    assert f"{denials.file} cannot be used: it is no JSON" in run("info").stdout
    denials.file.chmod(0o666)
    assert "is ignored, and nothing is denied: it can be written by others" in run("info").stdout
    assert here(capsys, "-d", str(device.info.index), "--allow-all")[0] == 0
    assert not denials.file.exists()


def test_a_damaged_list_is_written_anew_by_a_whole_verification(device, home, monkeypatch, capsys):
    index, denials = str(device.info.index), DenyList(device.info)
    make_folder(denials.file.parent)
    denials.file.write_bytes(b"nonsense")
    code, out = here(capsys, "-d", index, "--only", NAME)  # says nothing of what is denied
    assert code == 0
    assert f"{denials.file} cannot be used" in out
    with pytest.raises(SystemExit):
        cli.main(["verify", "-d", index, "--deny", "--only", NAME])
    assert "leave --only out" in capsys.readouterr().err
    assert denials.file.read_bytes() == b"nonsense"

    monkeypatch.setattr("pwconv.verify.run.selected", lambda _: selected([NAME]))
    with monkeypatch.context() as lost:
        lost.setattr(
            "pwconv.verify.run.verify", lambda *_: Verification(lost="the driver lost the device")
        )
        assert "was not written anew" in here(capsys, "-d", index, "--deny")[1]
    assert denials.file.read_bytes() == b"nonsense"
    code, out = here(capsys, "-d", index, "--deny")
    assert code == 0
    assert f"deny list {denials.file}: 0 variants" in out
    assert denials.read() == {}


def test_the_list_is_revised_and_all_is_printed_where_the_json_cannot_be_written(
    device, home, tmp_path, monkeypatch, capsys
):
    denials = DenyList(device.info)
    denials.revise((), {NAME: "zeros in identity"})
    passed = Verification([Result(*selected([NAME]), 7, ())])
    monkeypatch.setattr("pwconv.verify.run.verify", lambda *_: passed)

    def fail(*_):
        raise PwconvError("the disk is full")

    monkeypatch.setattr(cli, "write_document", fail)
    with pytest.raises(SystemExit) as exit_info:
        cli.main(
            ["verify", "-d", str(device.info.index), "--deny", "--json", str(tmp_path / "a.json")]
        )
    assert exit_info.value.code == 1
    said = capsys.readouterr()
    assert f"allowed {NAME}: it passes now" in said.out
    assert "1 variant, 7 cases, 0 failed" in said.out
    assert said.err == "error: the disk is full\n"
    assert denials.read() == {}


def test_nothing_verified_is_no_success(device, home):
    if "cooperativeMatrix" in device.info.features:
        pytest.skip(f"{device.info.name} has cooperative matrices")
    result = run("verify", "-d", str(device.info.index), "--only", "conv2d_pw_coopmat_")
    assert result.returncode == 1
    assert "not run 2 variants: it needs the feature " in result.stdout
    assert "0 variants, 0 cases, 0 failed" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "problem", "code"),
    [
        (("--only", "conv3d"), "no variant's name contains 'conv3d'; families are nchw_to", 1),
        (("--deny", "--allow-all"), "not allowed with argument --deny", 2),
        (("--device", "no such"), "no device matches 'no such'", 1),
        (("--json", "/no/such/folder/a.json"), "cannot be written", 1),
    ],
)
def test_errors(home, arguments, problem, code):
    result = run("verify", *arguments)
    assert result.returncode == code
    assert problem in result.stderr
    assert "Traceback" not in result.stderr


def test_a_folder_that_cannot_be_written_is_said_at_once(device, tmp_path):
    (tmp_path / "file").write_text("no folder")
    result = run(
        *("verify", "--deny", "-d", str(device.info.index)), XDG_CACHE_HOME=str(tmp_path / "file")
    )
    assert result.returncode == 1
    assert "cannot be written" in result.stderr
    assert "Traceback" not in result.stderr
