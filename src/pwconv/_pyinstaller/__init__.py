"""Folder of PyInstaller hooks for pwconv, named by the entry point pyinstaller40."""

from __future__ import annotations

from pathlib import Path


def hook_folders() -> list[str]:
    """Return where the hooks are."""
    return [str(Path(__file__).parent)]
