"""The Python of README.md and docs/ works when pasted, and their links and pictures are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from support.models import make_model, node

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
PROGRAMS = {
    f"{path.relative_to(ROOT)}-{number}": program
    for path in PAGES
    for number, program in enumerate(
        re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.M)
    )
}
SAYS = {
    "README.md-0": "sigmoid_0.tmp_0 (1, 1, 160, 224)\n",
    "README.md-1": "(1, 96, 64, 64) 0.0",
    "docs/guide.md-0": "(1, 96, 32, 32) float16 float16\n(2, 7, 10)\n",
    "docs/guide.md-1": "(1, 48, 64, 64) (1, 48, 32, 40) Memory(",
    "docs/guide.md-2": "(1, 8, 32, 32)",
    "docs/guide.md-3": "buffer Memory(allocated=",
    "docs/verify.md-0": "2 nodes, 0 wrong",
}


# What README.md has a newcomer download; a small network stands in for it.
DOWNLOADED = Path("rapidocr_onnxruntime", "models", "ch_PP-OCRv4_det_infer.onnx")


@pytest.fixture
def folder(tmp_path, rng) -> Path:
    """Return a folder in which the downloaded file is."""
    nodes = [node("Conv", "x w", "c"), node("Sigmoid", "c", "sigmoid_0.tmp_0")]
    weight = rng.standard_normal((1, 3, 1, 1), np.float32)
    model = make_model(nodes, {"x": ["N", 3, "H", "W"]}, ["sigmoid_0.tmp_0"], {"w": weight})
    (tmp_path / DOWNLOADED).parent.mkdir(parents=True)
    onnx.save(model, tmp_path / DOWNLOADED)
    return tmp_path


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_programs(device, name, folder):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAMS[name]],
        cwd=folder,
        env={**os.environ, "PWCONV_DEVICE": str(device.info.index)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert SAYS[name] in result.stdout


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    first = PROGRAMS["README.md-0"]
    assert len(first.splitlines()) <= 10
    assert "pwconv.from_onnx(" in first


def test_the_count_of_operators_is_right():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8").count("\n| ") - 1
    assert f"[{rows} operators](docs/operators.md)" in text


def headings(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    lines = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", line).strip().lower().replace(" ", "-") for line in lines}


@pytest.mark.parametrize("path", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    for target in re.findall(r"\]\(([^)]*)\)", text):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        assert not anchor or anchor in headings(linked), target


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [
        path
        for path in PAGES[1:]
        if str(path.relative_to(ROOT))
        not in text.replace("](benchmarks/)", "](benchmarks/README.md)")
    ]
