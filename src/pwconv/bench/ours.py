"""pwconv's own layers under the stopwatch, as a layer itself would run them."""

from __future__ import annotations

import itertools
import math

import numpy as np

from pwconv.bench.clocks import Clocks
from pwconv.bench.report import Run
from pwconv.bench.workloads import Layer
from pwconv.device import Device
from pwconv.errors import OutOfMemoryError, UnsupportedError
from pwconv.modules import PointwiseConv2d
from pwconv.vk.commands import Step

# Twice the last-level cache of the largest GPUs: what a chain comes back to has left the cache.
ROTATED_BYTES = 100 << 20
_MOST_PAIRS = 256
_MOST_PAIRS_CPU = 2

SAMPLE_SECONDS = 200e-6
LAYER_SECONDS = 0.3
_MOST_SAMPLES, _LEAST_SAMPLES, _SAMPLES_CPU = 50, 5, 3
# Each dispatch of a chain is recorded by Python: 20 µs or so.
_MOST_DISPATCHES = 5000


def storages(device: Device) -> list[str]:
    """Return the storages of activations that layers take, on this device."""
    found = []
    for storage in ("texture3d", "buffer"):
        try:
            PointwiseConv2d(np.ones((1, 1), np.float32), storage=storage, device=device)
        except (ValueError, UnsupportedError):
            continue
        found.append(storage)
    return found


def rotation(activation_bytes: int, most: int = _MOST_PAIRS) -> int:
    """Return how many inputs and outputs of so many bytes to rotate over."""
    return min(most, max(2, math.ceil(ROTATED_BYTES / activation_bytes)))


def chain_lengths(estimate: float, least: float = SAMPLE_SECONDS) -> tuple[int, int]:
    """Return repetitions a sample, and samples, for a kernel that takes about so long.

    A sample takes at least ``least`` seconds.
    """
    repetitions = min(math.ceil(least / estimate), _MOST_DISPATCHES // _LEAST_SAMPLES)
    fitting = int(LAYER_SECONDS / (estimate * repetitions))
    most = min(_MOST_SAMPLES, _MOST_DISPATCHES // repetitions)
    return repetitions, max(_LEAST_SAMPLES, min(fitting, most))


def measure(device: Device, clocks: Clocks, layer: Layer, dtype: str, storage: str) -> Run:
    """Time a layer with the variant that it picks itself."""
    try:
        return _measure(device, clocks, layer, dtype, storage)
    except (UnsupportedError, OutOfMemoryError) as error:
        return Run("pwconv", dtype, storage=storage, failure=str(error))


def _measure(device: Device, clocks: Clocks, layer: Layer, dtype: str, storage: str) -> Run:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((layer.n, layer.k), np.float32) / np.float32(layer.k**0.5)
    bias = rng.standard_normal(layer.n, np.float32)
    module = PointwiseConv2d(weight, bias, dtype=dtype, storage=storage, device=device)

    array = rng.standard_normal((layer.batch, layer.k, layer.h, layer.w), np.float32)
    array = array.astype(dtype, copy=False)
    bytes_each = layer.activation_bytes(array.itemsize)
    pairs = rotation(bytes_each, _MOST_PAIRS_CPU if clocks.is_cpu else _MOST_PAIRS)
    out_shape = (layer.batch, layer.n, layer.h, layer.w)
    tensors = [
        (device.tensor(array, storage=storage), device.empty(out_shape, dtype, storage=storage))
        for _ in range(pairs)
    ]
    dispatches = [module._dispatch(x, out) for x, out in tensors]
    steps = [dispatch.step for dispatch in dispatches]

    estimate = clocks.estimate(steps[0])
    repetitions, samples = (1, _SAMPLES_CPU) if clocks.is_cpu else chain_lengths(estimate)
    sample, check = clocks.sample(_chain(steps, repetitions, samples))
    plan = dispatches[0].plan
    return Run(
        "pwconv",
        dtype,
        sample,
        check,
        storage=storage,
        variant=plan.variant.name,
        tile=plan.variant.axes.get("tile"),
        workgroup=plan.workgroup,
        working_set=pairs * bytes_each,
    )


def _chain(steps: list[Step], repetitions: int, samples: int) -> list[list[Step]]:
    """Return ``samples`` segments of ``repetitions`` steps, going round the steps."""
    endless = itertools.cycle(steps)
    return [list(itertools.islice(endless, repetitions)) for _ in range(samples)]
