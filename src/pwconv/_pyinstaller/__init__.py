"""What PyInstaller is told of the package: it finds this through the entry point pyinstaller40."""

from __future__ import annotations

from pathlib import Path


def hook_folders() -> list[str]:
    """Return where the hooks are."""
    return [str(Path(__file__).parent)]
