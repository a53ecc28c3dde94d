"""A trained text detector and a reader, fetched from the package index for the examples.

They are PaddleOCR's PP-OCRv4 as ONNX files (Apache License 2.0), which the wheel of
rapidocr-onnxruntime has inside. The wheel is downloaded once, and nothing of it is installed.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs

DETECTOR = "ch_PP-OCRv4_det_infer.onnx"
"""[N, 3, H, W] of blue, green and red from -1 to 1, H and W multiples of 32, to [N, 1, H, W]: how
much each pixel is of text, from 0 to 1."""
READER = "ch_PP-OCRv4_rec_infer.onnx"
"""[N, 3, 48, W] likewise, of one line of text, to [N, W / 8, 6625]: the characters."""

_REQUIREMENT = "rapidocr-onnxruntime==1.4.4"
_SHA256 = "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf"


class NotFetchedError(Exception):
    """pip could not download the wheel; the message says why."""


def fetch(name: str) -> Path:
    """Return the path of a network's file, in the user's cache folder.

    Raises
    ------
    NotFetchedError
        The package index cannot be reached, or lacks the wheel.
    ValueError
        What was downloaded is another file.
    """
    folder = platformdirs.user_cache_path("pwconv") / "examples"
    path = folder / name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that each file is there whole or not at all.
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            wheel = zipfile.ZipFile(_download(Path(scratch)))
            for each in (DETECTOR, READER):
                member = wheel.extract(f"rapidocr_onnxruntime/models/{each}", scratch)
                Path(member).replace(folder / each)
            wheel.close()
    return path


def _download(folder: Path) -> Path:
    print(f"downloading {_REQUIREMENT} (15 MB) from the package index", flush=True)
    # It is only unpacked: what it depends on, and on which Python it runs, does not matter.
    options = ["--no-deps", "--ignore-requires-python", "--only-binary=:all:", "--retries=1"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options]
    done = subprocess.run(
        [*command, "--quiet", "--dest", str(folder), _REQUIREMENT],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"pip ended with {done.returncode}"]
        raise NotFetchedError(f"pip could not download {_REQUIREMENT}: {lines[-1]}")
    (wheel,) = folder.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != _SHA256:
        raise ValueError(f"{wheel.name} has sha256 {digest}; it must be {_SHA256}")
    return wheel
