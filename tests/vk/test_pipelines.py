"""The pipeline cache on disk."""

from __future__ import annotations

import hashlib
import multiprocessing
import stat
from pathlib import Path

import numpy as np
import pytest

import pwconv
from accuracy import check_layer, random_problem
from pwconv.files import cache_folder, replace_file
from pwconv.vk import pipelines


@pytest.fixture
def cache_file(device, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_folder("pipelines") / f"{device.info.identity}.bin"


def use(index: int) -> bytes:
    """Open a device, run something that needs a pipeline, close it; return what the cache gave."""
    given = []
    real = pipelines._read

    def read(file: Path) -> bytes:
        given.append(real(file))
        return given[0]

    pipelines._read = read
    try:
        with pwconv.Device(index, validate=True) as device:
            rng = np.random.default_rng(1)
            x, weight, bias = random_problem(rng, 5, 6, (3, 4), "float32")
            layer = pwconv.PointwiseConv2d(weight, bias, device=device)
            check_layer(layer, x, weight, bias)
    finally:
        pipelines._read = real
    return given[0]


def test_written_at_close_and_read_at_open(device, cache_file):
    assert use(device.info.index) == b""
    written = cache_file.read_bytes()
    read = use(device.info.index)
    assert read != b""
    assert written.endswith(read)


def test_the_file_is_private(device, cache_file):
    use(device.info.index)
    assert stat.S_IMODE(cache_file.stat().st_mode) == 0o600
    assert list(cache_file.parent.iterdir()) == [cache_file]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:30],
        lambda data: data + b"\0",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"another program's cache" * 100,
        lambda data: bytes(len(data)),
    ],
    ids=["empty", "half", "header", "longer", "one bit", "foreign", "zeros"],
)
def test_a_damaged_file_is_ignored_and_replaced(device, cache_file, damage):
    use(device.info.index)
    good = cache_file.read_bytes()
    cache_file.write_bytes(damage(good))
    assert use(device.info.index) == b""
    assert cache_file.read_bytes()[: len(pipelines._MAGIC)] == pipelines._MAGIC
    assert use(device.info.index) != b""


def test_another_drivers_data_under_our_header_is_refused_by_the_driver(device, cache_file):
    """The digest fits, the contents are no cache of this driver: Vulkan has it ignored."""
    data = bytes(range(256)) * 4
    replace_file(cache_file, pipelines._MAGIC + hashlib.sha256(data).digest() + data)
    with pwconv.Device(device.info.index) as opened:
        weight = np.ones((3, 3), np.float32)
        y = pwconv.conv2d_pw(np.ones((3, 2, 2), np.float32), weight, device=opened)
    np.testing.assert_array_equal(y, 3)


def test_a_folder_that_cannot_be_written(device, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    use(device.info.index)


def test_two_processes_write_at_once(device, cache_file):
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        pool.map(use, [device.info.index] * 8)
    assert use(device.info.index) != b""
    assert list(cache_file.parent.iterdir()) == [cache_file]


def test_nothing_new_is_not_written(device, cache_file):
    use(device.info.index)
    before = cache_file.stat().st_mtime_ns
    with pwconv.Device(device.info.index):
        pass
    assert cache_file.stat().st_mtime_ns == before
