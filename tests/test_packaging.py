"""The package where it is no folder with metadata beside it: in a zip file, frozen."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import pwconv
from pwconv import _pyinstaller

PACKAGE = Path(pwconv.__file__).parent

# What is asked of importlib.metadata of pwconv fails there, as where only the files were copied.
PROGRAM = """
import importlib.metadata as metadata, sys
real = metadata.distribution
def missing(name):
    if name == "pwconv":
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.distribution = missing
import numpy as np, pwconv
from pwconv import cli
print(pwconv.__file__)
device = int(sys.argv[1])
x, weight = np.ones((3, 2, 2), np.float32), np.ones((5, 3), np.float32)
print(pwconv.conv2d_pw(x, weight, device=device).sum())
cli.main(["--version"])
"""


@pytest.mark.parametrize("zipped", [True, False])
def test_it_runs_from_a_zip_file_and_without_metadata(device, tmp_path, zipped):
    path = PACKAGE.parent
    if zipped:
        path = tmp_path / "pwconv.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in PACKAGE.rglob("*"):
                if "__pycache__" not in file.parts:
                    archive.write(file, file.relative_to(PACKAGE.parent))
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(device.info.index)],
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    where, total, version = result.stdout.splitlines()
    assert Path(where) == path / "pwconv" / "__init__.py"
    assert (total, version) == ("60.0", f"pwconv {pwconv.__version__}")


def test_pyinstaller_takes_the_spirv_and_the_heuristics_along(monkeypatch):
    hooks = ModuleType("PyInstaller.utils.hooks")
    hooks.collect_data_files = lambda *arguments, **options: (arguments, options)
    for name in ("PyInstaller", "PyInstaller.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, hooks.__name__, hooks)
    (folder,) = _pyinstaller.hook_folders()
    hook = runpy.run_path(str(Path(folder) / "hook-pwconv.py"))
    assert hook["datas"] == (("pwconv",), {"includes": ["heuristics.toml", "spirv/*"]})
    assert (PACKAGE / "heuristics.toml").is_file()
    assert (PACKAGE / "spirv" / "manifest.json").is_file()
