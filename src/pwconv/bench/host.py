"""What the host adds: Python's time for a call, and arrays in and out."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from pwconv.bench.report import HostCost
from pwconv.bench.workloads import Layer
from pwconv.device import Device
from pwconv.dtypes import Array
from pwconv.modules import PointwiseConv2d
from pwconv.timing.samples import Sample, summarize
from pwconv.vk.resources import DOWNLOAD, UPLOAD, Buffer

# Fewer calls than the queue takes before the host must wait.
_CALLS = 48
_BATCHES = 20
_COPIES = 15
_LAYER = Layer(48, 96, 256, 256)


def measure_host(device: Device) -> HostCost:
    """Measure on float32."""
    rng = np.random.default_rng(0)
    layer = _LAYER
    weight = rng.standard_normal((layer.n, layer.k), np.float32)
    module = PointwiseConv2d(weight, device=device)
    x = rng.standard_normal((1, layer.k, layer.h, layer.w), np.float32)
    return HostCost(
        _call(device, module),
        _sample(lambda: module(x)),
        _staging_copy(device, x, layer.n * layer.positions * 4),
        f"{layer} float32",
    )


def _call(device: Device, module: PointwiseConv2d) -> Sample:
    """Time calls on the smallest tensor: the device keeps up, and the host never waits for it."""
    x = device.tensor(np.ones((1, module.in_channels, 1, 1), np.float32))
    out = device.empty((1, module.out_channels, 1, 1), "float32")
    seconds = []
    for _ in range(_BATCHES + 1):
        start = time.perf_counter()
        for _ in range(_CALLS):
            module(x, out=out)
        seconds.append(time.perf_counter() - start)
        device.synchronize()
    return summarize(seconds[1:], _CALLS)


def _staging_copy(device: Device, x: Array, out_bytes: int) -> Sample:
    logical = device._logical
    upload = Buffer(logical, x.nbytes, UPLOAD)
    download = Buffer(logical, out_bytes, DOWNLOAD)
    assert upload.mapped is not None
    assert download.mapped is not None
    into = np.frombuffer(upload.mapped, np.float32)[: x.size]
    out_of = np.frombuffer(download.mapped, np.float32)[: out_bytes // 4]
    flat = x.reshape(-1)

    def copy() -> None:
        into[:] = flat
        np.empty(out_of.shape, np.float32)[:] = out_of

    try:
        return _sample(copy)
    finally:
        logical.queue.retire(upload.destroy)
        logical.queue.retire(download.destroy)


def _sample(run: Callable[[], object]) -> Sample:
    seconds = []
    for _ in range(_COPIES + 2):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return summarize(seconds[2:])
