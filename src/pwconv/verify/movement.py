"""Trials of the kernels that move arrays to the device, back, and into packed weights.

Outputs are read back by plain copies, so that no kernel vouches for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from pwconv import reference, transfer, weights
from pwconv.dtypes import FLOAT16, FLOAT32, UINT8, Array, DType
from pwconv.layout import Shape4, buffer_rows, ceil_div, texture3d_extent, weight_rows_extent
from pwconv.ops.cases import plane_sizes
from pwconv.ops.limits import Limits
from pwconv.shaders import Variant
from pwconv.verify.trials import Trial, Workbench, pad_lanes
from pwconv.vk.resources import Image, Resource

_DTYPES: dict[str, DType] = {"fp32": FLOAT32, "fp16": FLOAT16, "u8": UINT8}


def _uploads(bench: Workbench, variant: Variant) -> Iterator[Trial]:
    """Upload, narrowing or not; the texture's texels, or the buffer's rows, must be the array."""
    source, dtype = _DTYPES[variant.axes["source"]], _DTYPES[variant.axes["dtype"]]
    storage = "texture3d" if variant.family == "nchw_to_texture3d" else "buffer"

    def run(shape: Shape4, poisoned_with: float) -> Array:
        resource = bench.empty(shape, dtype, storage)
        transfer.fill(bench.context, resource, dtype, poisoned_with)
        transfer.upload(bench.context, _random(shape, source), resource, dtype)
        return _stored(bench, resource, shape, dtype)

    def expect(shape: Shape4) -> Array:
        return pad_lanes(_random(shape, source).astype(dtype), storage)

    return _at_sizes(bench, variant, expect, run)


def _downloads(bench: Workbench, variant: Variant) -> Iterator[Trial]:
    """Copy a texture to a buffer by the kernel of downloads."""
    dtype = _DTYPES[variant.axes["dtype"]]

    def run(shape: Shape4, poisoned_with: float) -> Array:
        source = bench.tensor(_random(shape, dtype), "texture3d")
        target = bench.empty(shape, dtype, "buffer")
        transfer.fill(bench.context, target, dtype, poisoned_with)
        transfer.texture3d_to_buffer(bench.context, source, target, shape, dtype)
        return _stored(bench, target, shape, dtype)

    return _at_sizes(bench, variant, partial(_random, dtype=dtype), run)


def _at_sizes(
    bench: Workbench,
    variant: Variant,
    expect: Callable[[Shape4], Array],
    run: Callable[[Shape4, float], Array],
) -> Iterator[Trial]:
    for name, shape in plane_sizes(Limits(bench.context, variant).extent()).items():
        yield _trial(name, shape[1], partial(expect, shape), partial(run, shape))


def _packing(bench: Workbench, variant: Variant) -> Iterator[Trial]:
    """Pack both ways round, into memory of its own, which nothing poisons."""
    source, dtype = _DTYPES[variant.axes["source"]], _DTYPES[variant.axes["dtype"]]
    array = _random((3, 22, 37), source)

    def run(transposed: bool, shape: tuple[int, int, int], _: float) -> Array:
        storage = variant.axes["weight"]
        packed = weights.pack_weight(bench.context, array, shape, transposed, dtype, storage)
        try:
            found = weights.unpack(bench.context, packed, shape, dtype)
        finally:
            bench.context.retire(packed.destroy)
        return _blocks(found)

    def expect(transposed: bool) -> Array:
        return _blocks(reference.pack_linear_weight(array, transposed=transposed, dtype=dtype))

    for name, transposed, shape in (
        ("[B, N, K]", True, (3, 22, 37)),
        ("[B, K, N]", False, (3, 37, 22)),
    ):
        channels = ceil_div(shape[2], 4)
        yield _trial(name, channels, partial(expect, transposed), partial(run, transposed, shape))


def _unpacking(bench: Workbench, variant: Variant) -> Iterator[Trial]:
    """Unpack into padded rows, again of its own."""
    n, k = 23, 37
    weight = _random((1, n, k), FLOAT16)
    rows, pitch = weight_rows_extent(n, k)

    def run(_: float) -> Array:
        shape, storage = (1, n, k), variant.axes["weight"]
        packed = weights.pack_weight(bench.context, weight, shape, True, FLOAT16, storage)
        found = bench.raw(weights.unpack_rows(bench.context, packed, shape), FLOAT16)
        return found[: rows * pitch].reshape(1, 1, rows, pitch)

    def expect() -> Array:
        expected = np.zeros((1, 1, rows, pitch))
        expected[0, 0, :n, :k] = weight[0]
        return expected

    yield _trial("rows", 1, expect, run)


def _trial(
    name: str, channels: int, expect: Callable[[], Array], run: Callable[[float], Array]
) -> Trial:
    """Return a trial that must be exact, of kernels that compile in no time."""

    def exactly() -> tuple[Array, Array]:
        expected = expect().astype(np.float64)
        return expected, np.zeros_like(expected)

    return Trial(name, channels, lambda: None, exactly, run)


def _stored(bench: Workbench, resource: Resource, shape: Shape4, dtype: DType) -> Array:
    """Return a tensor as it is stored, read by a plain copy."""
    n, c, h, w = shape
    raw = bench.raw(resource, dtype)
    if isinstance(resource, Image):
        texels = raw.reshape(n, ceil_div(c, 4), h, w, 4)
        assert texels.size == 4 * np.prod(texture3d_extent(shape))
        return texels.transpose(0, 1, 4, 2, 3).reshape(n, -1, h, w)
    rows, pitch = buffer_rows(shape, dtype.itemsize)
    return raw[: rows * pitch].reshape(rows, pitch)[:, : h * w].reshape(shape)


def _blocks(packed: Array) -> Array:
    """Return packed vec4s [B, K4, N4, 4, 4] as an array of four axes."""
    return packed.reshape(*packed.shape[:2], -1, 4)


def _random(shape: tuple[int, ...], dtype: DType) -> Array:
    rng = np.random.default_rng(shape)
    if dtype == UINT8:
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape).astype(dtype)


TRIALS: dict[str, Callable[[Workbench, Variant], Iterator[Trial]]] = {
    "nchw_to_texture3d": _uploads,
    "copy_rows": _uploads,
    "texture3d_to_nchw": _downloads,
    "pack_fp_linear_weight": _packing,
    "unpack_fp_linear_weight": _unpacking,
}
