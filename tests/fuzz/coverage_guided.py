"""Coverage-guided fuzzing of the file formats, where atheris is installed.

    python tests/fuzz/coverage_guided.py FORMAT [libFuzzer's options, as -max_total_time=60]

FORMAT is "tuning", "pipelines", "manifest" or "onnx". What is found is written where libFuzzer
says, and is run again by giving it the file. Nothing here needs a device.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pwconv", "json"]):
    import pwconv
    from pwconv import cache, shaders
    from pwconv.importer.model import read_model
    from pwconv.tune.store import Store

_CASES = Path(__file__).parents[1] / "importer" / "cases"
_ENTRY = {
    "storage": "buffer",
    "x_shape": [1, 5, 4, 4],
    "out_channels": 6,
    "dtype": "float32",
    "accumulate": "float32",
    "stride": [1, 1],
    "padding": [0, 0],
    "weight_storage": "buffer",
    "variant": "a",
    "workgroup": [8, 8, 1],
    "seconds": 1e-6,
    "default_variant": "b",
    "default_workgroup": [8, 8, 1],
    "default_seconds": 2e-6,
}
_STORE = Store(
    pwconv.DeviceInfo(0, "", "cpu", "", "1.3.0", {}, frozenset(), frozenset(), (), "card")
)


def tuning_file(data: bytes, folder: Path) -> None:
    """Read: winners, or why the file is ignored."""
    _STORE.file = folder / "tuning.json"
    _STORE.file.write_bytes(data)
    winners, problem = _STORE.examine()
    assert not (problem and winners)
    for key, winner in winners.items():
        assert min(key.problem.x_shape) > 0
        assert min(winner.workgroup) > 0
        json.dumps(_STORE._encode(key, winner)).encode()


def pipeline_cache(data: bytes, folder: Path) -> None:
    """Read: what the digest is of, or nothing."""
    file = folder / "cache.bin"
    file.write_bytes(data)
    found = cache.read_pipelines(file)
    assert not found or data == cache._seal(found) + found


def manifest(data: bytes, folder: Path) -> None:
    """Load beside the package's digest: refused, whatever it is."""
    (folder / "manifest.json").write_bytes(data)
    shaders._manifest.cache_clear()
    try:
        shaders._manifest()
    except pwconv.PwconvError:
        return
    raise AssertionError("it was believed")


def model(data: bytes, _: Path) -> None:
    """Read: a model, or what is wrong with it."""
    with suppress(ValueError, TypeError, pwconv.UnsupportedError):
        read_model(data)


def seed(name: str) -> bytes:
    """Return a file of the format that is right, to begin with."""
    if name == "tuning":
        return json.dumps({**_STORE._header, "winners": [_ENTRY]}).encode()
    if name == "pipelines":
        return cache._seal(b"data") + b"data"
    if name == "manifest":
        return (shaders._folder() / "manifest.json").read_bytes()[:4000]
    return (_CASES / "concat_with_constant.onnx").read_bytes()


FORMATS: dict[str, Callable[[bytes, Path], None]] = {
    "tuning": tuning_file,
    "pipelines": pipeline_cache,
    "manifest": manifest,
    "onnx": model,
}


def main() -> None:
    """Fuzz one format until libFuzzer stops."""
    if len(sys.argv) < 2 or sys.argv[1] not in FORMATS:
        sys.exit(__doc__)
    name = sys.argv.pop(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "corpus").mkdir()
        (folder / "corpus" / "right").write_bytes(seed(name))
        digest = (shaders._folder() / "manifest.sha256").read_bytes()
        (folder / "manifest.sha256").write_bytes(digest)
        if name == "manifest":
            shaders._folder = lambda: folder
        arguments = [*sys.argv, str(folder / "corpus")]
        atheris.Setup(arguments, functools.partial(_run, FORMATS[name], folder))
        atheris.Fuzz()


def _run(target: Callable[[bytes, Path], None], folder: Path, data: bytes) -> None:
    target(data, folder)


if __name__ == "__main__":
    main()
