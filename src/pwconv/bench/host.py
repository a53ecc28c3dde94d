"""What the host adds: Python's time for a call, and arrays in and out."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from pwconv.bench.report import HostCost
from pwconv.bench.workloads import Layer
from pwconv.device import Device
from pwconv.dtypes import Array
from pwconv.modules import PointwiseConv2d
from pwconv.timing.samples import Sample, summarize
from pwconv.vk.resources import DOWNLOAD, UPLOAD, Buffer

# Fewer calls than the queue takes before the host must wait; what is done for one call in several
# is in every batch equally often.
_CALLS = 48
_BATCHES = 200
_WARM_UP = 20
_ROUNDS = 15
_LAYER = Layer(48, 96, 256, 256)


def measure_host(device: Device) -> HostCost:
    """Measure on float32."""
    rng = np.random.default_rng(0)
    layer = _LAYER
    weight = rng.standard_normal((layer.n, layer.k), np.float32)
    module = PointwiseConv2d(weight, device=device)
    x = rng.standard_normal((1, layer.k, layer.h, layer.w), np.float32)
    with without_garbage_collection():
        call = _call(device, module)
        numpy_to_numpy, staging_copy = _against_staging_copy(
            device, lambda: module(x), x, layer.n * layer.positions * 4
        )
    return HostCost(call, numpy_to_numpy, staging_copy, f"{layer} float32")


def _call(device: Device, module: PointwiseConv2d) -> Sample:
    """Time calls on the smallest tensor: the device keeps up, and the host never waits for it."""
    x = device.tensor(np.ones((1, module.in_channels, 1, 1), np.float32))
    out = device.empty((1, module.out_channels, 1, 1), "float32")

    def batch() -> None:
        for _ in range(_CALLS):
            module(x, out=out)

    seconds = []
    for _ in range(_WARM_UP + _BATCHES):
        device.synchronize()
        seconds.append(time_call(batch))
    return summarize(seconds[_WARM_UP:], _CALLS)


def _against_staging_copy(
    device: Device, run: Callable[[], object], x: Array, out_bytes: int
) -> tuple[Sample, Sample]:
    """Time a run, and in turns with it plain copies of its bytes to and from mapped memory."""
    context = device._context
    upload = Buffer(context, x.nbytes, UPLOAD)
    download = Buffer(context, out_bytes, DOWNLOAD)
    assert upload.mapped is not None
    assert download.mapped is not None
    into = np.frombuffer(upload.mapped, np.float32)[: x.size]
    out_of = np.frombuffer(download.mapped, np.float32)[: out_bytes // 4]
    flat = x.reshape(-1)

    def copy() -> None:
        into[:] = flat
        np.empty(out_of.shape, np.float32)[:] = out_of

    rounds = [(time_call(run), time_call(copy)) for _ in range(2 + _ROUNDS)][2:]
    runs, copies = zip(*rounds, strict=True)
    return summarize(runs), summarize(copies)


def time_call(run: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Keep the collector, which walks through all that a peer has loaded, out of the timing."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
