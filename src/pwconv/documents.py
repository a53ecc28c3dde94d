"""The JSON documents that commands write where a user asks for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pwconv.errors import PwconvError


def require_writable(path: Path) -> None:
    """Raise unless a file can be written there.

    Raises
    ------
    PwconvError
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise PwconvError(f"{path} cannot be written: it is a folder, or its folder does not exist")


def write_document(document: dict[str, Any], path: Path) -> None:
    """Write a document.

    Raises
    ------
    PwconvError
        The file cannot be written.
    """
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise PwconvError(f"{path} cannot be written: {error}") from None
