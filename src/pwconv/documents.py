"""Files of commands: JSON documents and text at a path of the user's."""

from __future__ import annotations

import json
import platform
from collections.abc import Collection
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from pwconv.errors import PwconvError
from pwconv.version import __version__
from pwconv.vk.physical_device import DeviceInfo


def origin(info: DeviceInfo) -> dict[str, Any]:
    """Return what a document says of now, the device and the software."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": {name: getattr(info, name) for name in ("name", "type", "driver", "api_version")},
        "versions": {
            "pwconv": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def require_writable(path: Path, endings: Collection[str] = ()) -> None:
    """Raise unless a file can be written there: asked before the work, not after it.

    Parameters
    ----------
    path : Path
        An existing file stays as it is.
    endings : collection of str
        One of which its name must have; any, where there are none.

    Raises
    ------
    PwconvError
    """
    if endings and path.suffix.lower() not in endings:
        raise PwconvError(f"{path} cannot be written: its name must end in {' or '.join(endings)}")
    if not path.absolute().parent.is_dir():
        raise PwconvError(f"{path} cannot be written: there is no folder {path.parent}")
    try:
        existed = path.exists()
        if existed and not path.is_file() and not path.is_dir():
            return  # a pipe, or a device: to open it may be to wait for its reader
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise PwconvError(f"{path} cannot be written: {error.strerror}") from None


def write_document(document: dict[str, Any], path: Path) -> None:
    """Write a JSON document.

    Raises
    ------
    PwconvError
        The file cannot be written.
    """
    write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """Write a text in UTF-8; an existing file is overwritten.

    Raises
    ------
    PwconvError
        The file cannot be written.
    """
    try:
        # Lone surrogates, which UTF-8 cannot encode, become JSON escapes.
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise PwconvError(f"{path} cannot be written: {error.strerror}") from None
