"""pwconv's command line in a process of its own, validation on and warnings errors."""

from __future__ import annotations

import os
import subprocess
import sys


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return what a command ends with and prints."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "pwconv", *arguments],
        env={**os.environ, "PWCONV_VALIDATE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
