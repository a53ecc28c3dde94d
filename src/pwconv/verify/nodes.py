"""Trials of the kernels that graphs are made of besides convolutions.

They are given whole numbers so small that every result is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isqrt

import numpy as np

from pwconv import reference
from pwconv.activation import parse_activation
from pwconv.dtypes import FLOAT16, FLOAT32, Array, DType
from pwconv.kernels import elementwise
from pwconv.kernels.channels import Piece, plan_channels
from pwconv.kernels.conv2d_dw import arrange_weight, plan_conv2d_dw
from pwconv.kernels.conv2d_pw import Geometry
from pwconv.kernels.global_avg_pool import plan_global_avg_pool
from pwconv.kernels.subsample import plan_subsample
from pwconv.kernels.upsample import plan_upsample
from pwconv.layout import Shape4, ceil_div
from pwconv.shaders import Variant
from pwconv.verify.workbench import Trial, Workbench, extent_limit, pad_lanes, storage_of
from pwconv.vk.commands import Dispatch, Plan
from pwconv.vk.resources import Resource

_C = 6
# A square image for which one texel a trip would be 65,535 trips and more.
_LONG_SIDE = 2909
_FEW_TAPS, _MANY_TAPS = Geometry((2, 1), (1, 1), (3, 3)), Geometry((1, 1), (1, 1), (31, 33))
_NONE = parse_activation(None)
# A mean is a division, or a product with what one gives: 3 roundings.
_MEAN_BOUND = 3 * 2.0**-23


def trials(bench: Workbench, variant: Variant) -> Iterator[Trial]:
    """Yield the cases of a variant's family, each at several sizes."""
    dtype = FLOAT32 if variant.axes["dtype"] == "fp32" else FLOAT16
    most = extent_limit(bench.context, dtype)
    sizes: dict[str, Shape4] = {
        "ragged": (2, 23, 7, 11),
        "one": (1, 1, 1, 1),
        "widest": (1, _C, 1, most),
        "tallest": (1, _C, most, 1),
        "deepest": (most // 3, _C, 1, 1),
    }
    storage = storage_of(variant)
    for name, (n, c, h, w) in sizes.items():
        for make in _MAKERS[variant.family]:
            yield make(bench, storage, (n, c, h, w), dtype, name)
    if variant.family == "global_avg_pool":
        if storage == "buffer":  # whatever the device's textures take
            most = isqrt(bench.context.limits["maxStorageBufferRange"] // (2 * dtype.itemsize))
        side = min(_LONG_SIDE, most)
        yield _pool(bench, storage, (1, 1, side, side), dtype, "longest loop")
    if variant.family == "conv2d_dw":
        shape = 1, _C, *_MANY_TAPS.kernel
        yield _depthwise(bench, storage, shape, dtype, "longest loop", _MANY_TAPS)


def _depthwise(
    bench: Workbench,
    storage: str,
    shape: Shape4,
    dtype: DType,
    name: str,
    geometry: Geometry = _FEW_TAPS,
) -> Trial:
    rng = np.random.default_rng(3)
    weight = rng.integers(-3, 4, (shape[1], *geometry.kernel)).astype(FLOAT32)
    bias = rng.integers(-9, 10, shape[1]).astype(FLOAT32)

    def resources() -> dict[str, Resource]:
        return {
            "weight": bench.parameters(arrange_weight(weight)),
            "bias": bench.bias(bias),
            "t_in": bench.tensor(_integers(shape, dtype), storage),
        }

    def plan() -> Plan:
        return plan_conv2d_dw(bench.context, storage, shape, dtype, geometry, _NONE)

    def expect() -> Array:
        return reference.conv2d(
            _integers(shape, dtype),
            weight[:, None],
            bias,
            stride=geometry.stride,
            padding=geometry.padding,
            groups=shape[1],
        )

    out_shape = geometry.output_shape(shape, shape[1])
    return _trial(bench, storage, dtype, name, out_shape, expect, resources, plan)


def _operation(number: int, *, broadcast: bool) -> Callable[..., Trial]:
    def make(bench: Workbench, storage: str, shape: Shape4, dtype: DType, name: str) -> Trial:
        other = (*shape[:2], 1, 1) if broadcast else shape

        def inputs() -> tuple[Array, Array]:
            return _integers(shape, dtype), _integers(other, dtype, 2)

        def resources() -> dict[str, Resource]:
            a, b = inputs()
            return {"t_a": bench.tensor(a, storage), "t_b": bench.tensor(b, storage)}

        def plan() -> Plan:
            return elementwise.plan_elementwise(
                *(bench.context, storage, number, shape, dtype, _NONE), broadcast=broadcast
            )

        def expect() -> Array:
            a, b = inputs()
            wide = a.astype(np.float64)
            return wide + b if number == elementwise.ADD else wide * b

        what = "sum" if number == elementwise.ADD else "product"
        case = f"{name}, {what} by channel" if broadcast else f"{name}, {what}"
        return _trial(bench, storage, dtype, case, shape, expect, resources, plan)

    return make


def _gather(bench: Workbench, storage: str, shape: Shape4, dtype: DType, name: str) -> Trial:
    n, c, h, w = shape
    # Out of step with vec4s, where there are channels enough.
    first = min(c - 1, 2)
    pieces = [Piece(0, c, first, c - first), Piece(1, c, 0, c)]
    out_shape: Shape4 = (n, 2 * c - first, h, w)

    def sources() -> list[Array]:
        return [_integers(shape, dtype, seed) for seed in (1, 2)]

    def plan() -> list[Dispatch]:
        return plan_channels(bench.context, storage, pieces, out_shape, dtype)

    def run(poisoned_with: float) -> Array:
        inputs = [bench.tensor(source, storage) for source in sources()]
        out = bench.empty(out_shape, dtype, storage)
        dispatches = [each.bind(inputs, out) for each in plan()]
        return bench.run(dispatches, out, out_shape, dtype, poisoned_with)

    def expect() -> tuple[Array, Array]:
        one, other = sources()
        expected = np.concatenate([one[:, first:], other], axis=1).astype(np.float64)
        padded = pad_lanes(expected, storage)
        return padded, np.zeros_like(padded)

    return Trial(name, out_shape[1], plan, expect, run)


def _pool(bench: Workbench, storage: str, shape: Shape4, dtype: DType, name: str) -> Trial:
    def resources() -> dict[str, Resource]:
        return {"t_in": bench.tensor(_integers(shape, dtype), storage)}

    def plan() -> Plan:
        return plan_global_avg_pool(bench.context, storage, shape, dtype)

    def expect() -> tuple[Array, Array]:
        x = _integers(shape, dtype).astype(np.float64)
        expected = x.mean((2, 3), keepdims=True)
        bound = _MEAN_BOUND * np.abs(x).mean((2, 3), keepdims=True)
        if dtype == FLOAT16:
            bound = bound + np.maximum(2.0**-11 * np.abs(expected), 2.0**-25)
        return expected, bound

    out_shape = (*shape[:2], 1, 1)
    return _trial(bench, storage, dtype, name, out_shape, expect, resources, plan)


def _upsample(bench: Workbench, storage: str, shape: Shape4, dtype: DType, name: str) -> Trial:
    # A part is enlarged, so that the output fits.
    n, c, h, w = shape
    small: Shape4 = (n, c, max(h // 3, 1), max(w // 3, 1))

    def resources() -> dict[str, Resource]:
        return {"t_in": bench.tensor(_integers(small, dtype), storage)}

    def plan() -> Plan:
        return plan_upsample(bench.context, storage, small, dtype, 3)

    def expect() -> Array:
        x = _integers(small, dtype).astype(np.float64)
        return x.repeat(3, axis=2).repeat(3, axis=3)

    out_shape = (n, c, 3 * small[2], 3 * small[3])
    return _trial(bench, storage, dtype, name, out_shape, expect, resources, plan)


def _subsample(bench: Workbench, storage: str, shape: Shape4, dtype: DType, name: str) -> Trial:
    n, c, h, w = shape

    def resources() -> dict[str, Resource]:
        return {"t_in": bench.tensor(_integers(shape, dtype), storage)}

    def plan() -> Plan:
        return plan_subsample(bench.context, shape, dtype, (2, 3))

    def expect() -> Array:
        return _integers(shape, dtype)[:, :, ::2, ::3].astype(np.float64)

    out_shape = (n, c, ceil_div(h, 2), ceil_div(w, 3))
    return _trial(bench, storage, dtype, name, out_shape, expect, resources, plan)


def _trial(
    bench: Workbench,
    storage: str,
    dtype: DType,
    name: str,
    shape: Shape4,
    expect: Callable[[], Array | tuple[Array, Array]],
    resources: Callable[[], Mapping[str, Resource]],
    plan: Callable[[], Plan],
) -> Trial:
    """Return a trial with an output of a shape; where there is no bound it must be exact."""

    def run(poisoned_with: float) -> Array:
        out = bench.empty(shape, dtype, storage)
        bound_to = {**resources(), "t_out": out}
        return bench.run([Dispatch(plan(), bound_to)], out, shape, dtype, poisoned_with)

    def padded() -> tuple[Array, Array]:
        found = expect()
        expected, bound = found if isinstance(found, tuple) else (found, np.zeros_like(found))
        return pad_lanes(expected, storage), pad_lanes(bound, storage)

    return Trial(name, shape[1], plan, padded, run)


def _integers(shape: Sequence[int], dtype: DType, seed: int = 1) -> Array:
    return np.random.default_rng(seed).integers(-9, 10, tuple(shape)).astype(dtype)


_MAKERS: dict[str, tuple[Callable[..., Trial], ...]] = {
    "conv2d_dw": (_depthwise,),
    "elementwise": (
        _operation(elementwise.ADD, broadcast=False),
        _operation(elementwise.MULTIPLY, broadcast=True),
    ),
    "gather_channels": (_gather,),
    "global_avg_pool": (_pool,),
    "subsample": (_subsample,),
    "upsample": (_upsample,),
}
