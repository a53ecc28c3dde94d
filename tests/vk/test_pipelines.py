"""The pipeline cache on disk, and threads that fill it."""

from __future__ import annotations

import hashlib
import multiprocessing
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import pwconv
from pwconv.cache import cache_folder, replace_file
from pwconv.ops import Elementwise, Epilogue, Site
from pwconv.vk import api as vk
from support import inside
from support.accuracy import check_layer, random_problem

COMPILE_SECONDS = 0.5


@pytest.fixture
def cache_file(device, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_folder("pipelines") / f"{device.info.identity}.bin"


def use(index: int) -> bytes:
    """Open a device, run something that needs a pipeline, close it; return what the cache gave."""
    given = []
    real = getattr(*inside.slots.read_pipelines)

    def read(file: Path) -> bytes:
        given.append(real(file))
        return given[0]

    setattr(*inside.slots.read_pipelines, read)
    try:
        with pwconv.Device(index, validate=True) as device:
            rng = np.random.default_rng(1)
            x, weight, bias = random_problem(rng, 5, 6, (3, 4), "float32")
            layer = pwconv.PointwiseConv2d(weight, bias, device=device)
            check_layer(layer, x, weight, bias)
    finally:
        setattr(*inside.slots.read_pipelines, real)
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
    assert cache_file.read_bytes()[: len(inside.PIPELINES_MAGIC)] == inside.PIPELINES_MAGIC
    assert use(device.info.index) != b""


def test_another_drivers_data_under_our_header_is_refused_by_the_driver(device, cache_file):
    """The digest fits, the contents are no cache of this driver: Vulkan has it ignored."""
    data = bytes(range(256)) * 4
    replace_file(cache_file, inside.PIPELINES_MAGIC + hashlib.sha256(data).digest() + data)
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


@pytest.fixture
def slow_compiler(monkeypatch) -> list[str]:
    """A driver that takes a while to compile; the names of the threads that have it compile."""
    compiled = []
    real = getattr(*inside.slots.make_pipeline)

    def make(self, *arguments):
        compiled.append(threading.current_thread().name)
        time.sleep(COMPILE_SECONDS)
        return real(self, *arguments)

    monkeypatch.setattr(*inside.slots.make_pipeline, make)
    return compiled


def add(device: pwconv.Device, activation: int) -> object:
    """Plan a sum, of another pipeline for each activation."""
    name = (None, "relu", "hardswish", "silu")[activation]
    operator = Elementwise(function="add", epilogue=Epilogue(name))
    shape = (1, 4, 3, 5)
    site = Site(inside.context(device), "buffer", np.dtype(np.float32))
    (dispatch,) = operator.plan(site, [shape, shape], shape)
    return dispatch.plan


def test_threads_compile_at_once_and_nothing_twice(own_device, slow_compiler):
    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        plans = list(pool.map(lambda i: add(own_device, i % 4), range(8)))
    assert time.monotonic() - start < 3 * COMPILE_SECONDS
    assert len(slow_compiler) == len(set(slow_compiler)) == 4
    assert len(set(map(id, plans))) == 4
    assert plans[:4] == plans[4:]


def test_others_work_while_one_compiles(own_device, slow_compiler, rng):
    x = rng.standard_normal((3, 5, 7)).astype(np.float32)
    tensor = own_device.tensor(x)  # and its pipelines
    tensor.numpy()
    slow_compiler.clear()
    with ThreadPoolExecutor(1) as pool:
        compiling = pool.submit(add, own_device, 0)
        while not slow_compiler:
            time.sleep(0.01)
        np.testing.assert_array_equal(tensor.numpy(), x)
        assert not compiling.done()
        compiling.result()


def test_whoever_holds_the_lock_waits_for_what_another_compiles(own_device, slow_compiler):
    with ThreadPoolExecutor(1) as pool:
        compiling = pool.submit(add, own_device, 0)
        while not slow_compiler:
            time.sleep(0.01)
        with inside.context(own_device).lock:
            plan = add(own_device, 0)
        assert compiling.result() is plan
    assert len(slow_compiler) == 1


def test_closing_waits_for_what_is_compiled(own_device, slow_compiler):
    with ThreadPoolExecutor(1) as pool:
        compiling = pool.submit(add, own_device, 0)
        while not slow_compiler:
            time.sleep(0.01)
        own_device.close()
        assert len(slow_compiler) == 1
        compiling.exception()  # whichever comes first
    with pytest.raises(pwconv.ClosedError):
        add(own_device, 1)


def test_what_fails_is_tried_again_by_whoever_waits(own_device, slow_compiler, monkeypatch):
    real = getattr(*inside.slots.make_pipeline)
    failures = iter([pwconv.OutOfMemoryError("vkCreateComputePipelines: no memory")])

    def fail_once(self, *arguments):
        made = real(self, *arguments)
        for error in failures:
            vk.vkDestroyPipeline(self._core.handle, made, None)
            raise error
        return made

    monkeypatch.setattr(*inside.slots.make_pipeline, fail_once)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(add, own_device, 0) for _ in range(2)]
    errors = [future.exception() for future in both]
    assert sorted(map(type, errors), key=str) == sorted(
        [type(None), pwconv.OutOfMemoryError], key=str
    )
    assert len(slow_compiler) == 2
