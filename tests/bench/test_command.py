"""``pwconv bench`` as a user runs it, on the smallest of layers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

import pwconv
from pwconv import cli
from support.command_line import run


def test_a_tiny_run(device, tmp_path):
    results = tmp_path / "bench.json"
    result = run(
        "bench",
        *("--device", str(device.info.index)),
        *("--shape", "16,8,8,8", "--shape", "5,7,3,9,2"),
        *("--json", str(results)),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for expected in (str(device.info), "16→8@8", "5→7@3×9 ×2", "float16", "fp32 FMA", "roof"):
        assert expected in result.stdout
    assert result.stdout.splitlines()[-1] == f"wrote {results}"

    document = json.loads(results.read_text(encoding="utf-8"))
    assert document["device"]["name"] == device.info.name
    assert document["host"]["graph"] == "5→7@3×9 ×2"
    assert document["host"]["samples"]["call"]["median"] > 0
    for graph in document["graphs"]:
        measured = {(r["dtype"], r["storage"]) for r in graph["runs"]}
        storages = ("texture3d", "buffer")
        assert measured == {(d, s) for d in ("float32", "float16") for s in storages}
        for each in graph["runs"]:
            assert each["contender"] == "pwconv"
            assert each["failure"] is None
            assert each["kernels"][0].startswith("conv2d_pw")
    assert all(ceiling["rate"] > 0 for ceiling in document["ceilings"])


def test_a_choice_of_type_and_no_host(device, tmp_path):
    results = tmp_path / "bench.json"
    result = run(
        "bench",
        *("-d", str(device.info.index), "-s", "4,4,2,2", "--dtype", "float16"),
        *("--storage", "texture3d", "--no-host", "--json", str(results)),
        PYTHONIOENCODING="ascii",  # as cp1252, without most of what is printed
    )
    assert result.returncode == 0, result.stdout + result.stderr
    document = json.loads(results.read_text(encoding="utf-8"))
    assert document["host"] is None
    assert [(r["dtype"], r["storage"]) for r in document["graphs"][0]["runs"]] == [
        ("float16", "texture3d")
    ]


def test_what_is_measured_without_a_choice(monkeypatch):
    asked = []

    def measure(device, workload, *what, **_):
        asked.append(what)
        raise pwconv.PwconvError("enough")

    monkeypatch.setattr("pwconv.bench.run.run", measure)
    with pytest.raises(SystemExit):
        cli.main(["bench", "--size", "64"])
    ((cases, dtypes, storages, _),) = asked
    assert len(cases) == 13
    assert (cases[0].name, cases[-1].name) == ("48→96@256", "RepViT-M1@64")
    assert (dtypes, storages) == (("float32", "float16"), ("texture3d", "buffer"))


@pytest.mark.parametrize(
    ("arguments", "problem", "code"),
    [
        (("--shape", "16,8,8"), "'16,8,8' has 3 numbers; a shape is K,N,H,W", 2),
        (("--shape", "16,8,8,0"), "W is '0'; it must be a number from 1", 2),
        (("--size", "64", "--shape", "1,1,1,1"), "not allowed with", 2),
        (("--size", "33"), "size is 33; it must be a positive multiple", 1),
        (("--json", "/nowhere/at/all.json"), "cannot be written", 1),
    ],
)
def test_errors(arguments, problem, code):
    result = run("bench", *arguments)
    assert result.returncode == code
    assert problem in result.stderr
    assert "Traceback" not in result.stderr


def test_the_file_is_written_before_anything_is_printed(tmp_path, monkeypatch, capsys):
    """And what is printed is, where it cannot be."""
    done: list[str] = []
    monkeypatch.setattr("pwconv.bench.run.run", lambda *_, **__: SimpleNamespace(graphs=[]))
    monkeypatch.setattr("pwconv.bench.report.to_document", lambda _: {})
    monkeypatch.setattr(cli, "write_document", lambda *_: done.append("json"))

    def describe(_):
        done.append("report")
        raise BrokenPipeError

    monkeypatch.setattr("pwconv.bench.table.describe", describe)
    arguments = ["bench", "--json", str(tmp_path / "a.json")]
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 1
    assert done == ["json", "report"]

    def fail(*_):
        raise pwconv.PwconvError("the disk is full")

    monkeypatch.setattr(cli, "write_document", fail)
    monkeypatch.setattr("pwconv.bench.table.describe", lambda _: ["what was found"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 1
    said = capsys.readouterr()
    assert "what was found" in said.out
    assert "wrote" not in said.out
    assert said.err == "error: the disk is full\n"
