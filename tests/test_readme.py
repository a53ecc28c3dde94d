"""The README's Python works when pasted."""

import re
import subprocess
import sys
from pathlib import Path


def test_the_ten_lines(device):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(program.strip().splitlines()) <= 11
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "(1, 96, 64, 64) 0.0" in result.stdout
