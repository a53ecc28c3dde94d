"""pwconv's own layers under the stopwatch, as a layer itself would run them."""

from __future__ import annotations

import numpy as np

from pwconv.bench.report import Run
from pwconv.bench.workloads import Layer
from pwconv.device import Device
from pwconv.errors import OutOfMemoryError, UnsupportedError
from pwconv.modules import PointwiseConv2d
from pwconv.timing.chains import chain, chain_lengths, rotation
from pwconv.timing.clocks import Clocks
from pwconv.vk.commands import Groups

_SAMPLES_CPU = 3


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


def make_layer(device: Device, layer: Layer, dtype: str, storage: str) -> PointwiseConv2d:
    """Return a layer of random weights whose outputs are of order one."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((layer.n, layer.k), np.float32) / np.float32(layer.k**0.5)
    bias = rng.standard_normal(layer.n, np.float32)
    return PointwiseConv2d(weight, bias, dtype=dtype, storage=storage, device=device)


def measure(device: Device, clocks: Clocks, layer: Layer, dtype: str, storage: str) -> Run:
    """Time a layer with the variant that it picks itself."""
    try:
        return _measure(device, clocks, layer, dtype, storage)
    except (UnsupportedError, OutOfMemoryError) as error:
        return Run("pwconv", dtype, storage=storage, failure=str(error))


def _measure(device: Device, clocks: Clocks, layer: Layer, dtype: str, storage: str) -> Run:
    module = make_layer(device, layer, dtype, storage)
    rng = np.random.default_rng(1)
    array = rng.standard_normal((layer.batch, layer.k, layer.h, layer.w), np.float32)
    array = array.astype(dtype, copy=False)
    bytes_each = layer.activation_bytes(array.itemsize)
    pairs = rotation(bytes_each, is_cpu=clocks.is_cpu)
    out_shape = (layer.batch, layer.n, layer.h, layer.w)
    tensors = [
        (device.tensor(array, storage=storage), device.empty(out_shape, dtype, storage=storage))
        for _ in range(pairs)
    ]
    dispatches = [module._dispatch(x, out) for x, out in tensors]
    items: list[Groups] = [[[dispatch]] for dispatch in dispatches]

    estimate = clocks.estimate(items[0])
    repetitions, samples = (1, _SAMPLES_CPU) if clocks.is_cpu else chain_lengths(estimate)
    sample, check = clocks.sample(chain(items, repetitions, samples), repetitions)
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
