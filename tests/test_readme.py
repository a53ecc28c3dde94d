"""The README's Python works when pasted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("number", "most_lines", "says"),
    [(0, 11, "(1, 96, 64, 64) 0.0"), (1, 13, "(1, 48, 64, 64) (1, 48, 32, 40) Memory(")],
    ids=["a layer", "a graph"],
)
def test_the_programs(device, number, most_lines, says):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[number]
    assert len(program.strip().splitlines()) <= most_lines
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert says in result.stdout
