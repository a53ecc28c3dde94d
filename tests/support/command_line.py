"""pwconv's command line in a process of its own, validation on and warnings errors."""

from __future__ import annotations

import os
import subprocess
import sys


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return what a command ends with and prints, on a terminal wide enough not to wrap lines."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "pwconv", *arguments],
        env={**os.environ, "COLUMNS": "200", "PWCONV_VALIDATE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
