"""The wheel and the sdist that users get."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pwconv

ROOT = Path(__file__).parents[2]


def build(source: Path, output: Path, kind: str) -> Path:
    """Build with the requirements of this environment; no network."""
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "-o", str(output)]
    subprocess.run([*command, str(source)], check=True, capture_output=True, text=True)
    (built,) = output.iterdir()
    return built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    subprocess.run(["tar", "-xzf", str(sdist), "-C", str(folder)], check=True)
    (top,) = folder.iterdir()
    return top


def test_the_sdist_has_sources_and_nothing_compiled(unpacked):
    for expected in (
        *("shaders/variants.toml", "build_tools/hatch_build.py", "Makefile", "LICENSE"),
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/guide.md", "docs/photograph.png"),
    ):
        assert (unpacked / expected).is_file(), expected
    assert not list(unpacked.rglob("*.spv"))
    assert not (unpacked / ".venv").exists()


def assert_pure_and_complete(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    sources = {
        f"pwconv/{f.relative_to(ROOT / 'src/pwconv')}" for f in (ROOT / "src/pwconv").rglob("*.py")
    }
    assert sources <= set(names)
    compiled = {f"pwconv/spirv/{f.name}" for f in (ROOT / "src/pwconv/spirv").iterdir()}
    assert compiled <= set(names)
    assert len(names) == len(set(names))
    others = [n for n in names if n not in sources | compiled and ".dist-info/" not in n]
    assert sorted(others) == ["pwconv/heuristics.toml", "pwconv/py.typed"]


def assert_few_packages_are_needed(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = [n for n in archive.namelist() if n.endswith("METADATA")]
    lines = archive.read(metadata).decode().splitlines()
    needs = [line for line in lines if line.startswith("Requires-Dist") and "extra ==" not in line]
    names = [line.split()[1].split(">")[0] for line in needs]
    assert names == ["numpy", "platformdirs", "rich", "tomli", "vulkan"]
    assert needs[3].endswith("; python_version < '3.11'")
    assert f"Version: {pwconv.__version__}" in lines
    links = [line.split()[1] for line in lines if line.startswith("Project-URL")]
    assert links == ["Homepage,", "Source,", "Changelog,", "Issues,"]
    (entry_points,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
    hook = "[pyinstaller40]\nhook-dirs = pwconv._pyinstaller:hook_folders\n"
    assert hook in archive.read(entry_points).decode()


def assert_it_runs_without_the_compiler(device: pwconv.Device, wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True)
    program = f"""
import sys
sys.modules["slangpy"] = None
import numpy as np, pwconv
assert pwconv.__file__.startswith({str(target)!r}), pwconv.__file__
device = pwconv.Device({device.info.index})
y = pwconv.conv2d_pw(np.ones((3, 2, 2), np.float32), np.ones((5, 3), np.float32), device=device)
print(y.sum())
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(target)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout == "60.0\n", result.stderr


def assert_compiled_the_same(wheel: Path, other: Path) -> None:
    from_sdist, from_tree = zipfile.ZipFile(wheel), zipfile.ZipFile(other)
    assert sorted(from_tree.namelist()) == sorted(from_sdist.namelist())
    for name in from_tree.namelist():
        if "/spirv/" in name:
            assert from_tree.read(name) == from_sdist.read(name)


def test_a_wheel_from_the_sdist(device, request, unpacked, tmp_path):
    """In one test, so that it is built once by however many processes."""
    wheel = build(unpacked, tmp_path / "wheel", "wheel")
    assert_pure_and_complete(wheel)
    assert_few_packages_are_needed(wheel)
    assert_it_runs_without_the_compiler(device, wheel, tmp_path)
    if request.config.getoption("--exhaustive"):
        assert_compiled_the_same(wheel, build(ROOT, tmp_path / "from tree", "wheel"))
