"""Trials of conv2d_pw_*: pointwise convolutions, one after another on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import lcm

import numpy as np

from pwconv.activation import parse_activation
from pwconv.dispatch import Dispatcher, Resource
from pwconv.dtypes import FLOAT16, FLOAT32, Array, DType
from pwconv.kernels.conv2d_pw import Geometry, Problem, plan_conv2d_pw, takes_scale
from pwconv.kernels.tiling import block_shape
from pwconv.layout import Shape4, ceil_div
from pwconv.shaders import Variant
from pwconv.verify import cases
from pwconv.verify.cases import Operands
from pwconv.verify.workbench import Trial, Workbench, extent_limit, pad_lanes, storage_of

# Compiling takes most of the time, so that few pipelines serve all cases: one K, past most blocks
# and a whole number of none, and M and N that let a kernel without a workgroup of its own have
# eight invocations along either. Nor is any size of a texture a power of two.
_K, _N = 37, 101
_SIZE = (2, 17, 19)
_FEW_N, _FEW_M = 57, (9, 9)
# More steps along K than any kernel unrolls.
_LARGE_K = 2081
_PLAIN, _STRIDED = Geometry(), Geometry((2, 1), (1, 2))


@dataclass(frozen=True)
class _Case:
    """A name, an input [N, C, H, W], and the operands whose rows are the input's positions."""

    name: str
    operands: Operands
    size: tuple[int, int, int]
    geometry: Geometry = _PLAIN
    extras: bool = False

    @property
    def x(self) -> Array:
        """The input, [N, C, H, W]."""
        return _from_rows(self.operands.x, self.size)


def trials(bench: Workbench, variant: Variant) -> Iterator[Trial]:
    """Yield every case that a variant takes."""
    dtype = FLOAT32 if variant.axes["dtype"] == "fp32" else FLOAT16
    for name, make in _makers(bench.dispatcher, variant, dtype).items():
        yield _trial(bench, variant, bench.keep(("case", name), make))


def _makers(
    dispatcher: Dispatcher, variant: Variant, dtype: DType
) -> dict[str, Callable[[], _Case]]:
    """Return what makes each case, by a name that says all of what it depends on."""
    n, h, w = _SIZE
    positions = n * h * w
    most = extent_limit(dispatcher, dtype)
    _, block_n = block_shape(variant)
    whole_n = lcm(192, block_n)
    whole_k = lcm(128, variant.defines.get("BLOCK_K", 1))
    # What a texture has of depth is N·ceil(C/4).
    deep = most // max(ceil_div(_K, 4), ceil_div(_FEW_N, 4))

    def simple(name: str, make: Callable[..., Operands]) -> Callable[[], _Case]:
        return lambda: _Case(name, make(positions, _N, _K, dtype), _SIZE)

    def sized(name: str, size: tuple[int, int, int]) -> Callable[[], _Case]:
        rows = size[0] * size[1] * size[2]
        return lambda: _Case(name, cases.random(rows, _FEW_N, _K, dtype), size)

    def large_k() -> _Case:
        operands = cases.large_k(n * 15 * 9, _FEW_N, _LARGE_K, dtype)
        geometry = _PLAIN if variant.family.startswith("conv2d_pw_coopmat") else _STRIDED
        operands = replace(operands, activation="relu")
        extras = "t_residual" in dict(variant.bindings)
        return _Case("large-K", operands, (n, 15, 9), geometry, extras)

    def whole() -> _Case:
        operands = cases.random(256, whole_n, whole_k, dtype, "silu")
        return _Case("random", operands, (1, 16, 16))

    return {
        "identity": simple("identity", cases.identity),
        "zero": simple("zero", cases.zero),
        "one-hot": simple("one-hot", cases.one_hot),
        "constant": simple("constant", cases.constant),
        "ragged": simple("ragged", cases.random),
        "denormal": simple("denormal", cases.subnormal),
        "not finite": simple("not finite", cases.not_finite),
        "widest": sized("widest", (1, 3, most)),
        "tallest": sized("tallest", (1, most, 3)),
        "deepest": sized("deepest", (deep, *_FEW_M)),
        "large-K": large_k,
        f"random {whole_n}×{whole_k}": whole,
    }


def _trial(bench: Workbench, variant: Variant, case: _Case) -> Trial:
    operands = case.operands
    dtype, storage = operands.x.dtype, storage_of(variant)
    accumulate = FLOAT16 if variant.axes["dtype"] == "fp16acc16" else FLOAT32
    n, k = operands.weight.shape
    x_shape: Shape4 = (case.size[0], k, *case.size[1:])
    out_shape = case.geometry.output_shape(x_shape, n)
    scaled = case.extras and takes_scale(variant)
    key = case.name, n, k
    x = bench.keep(("x", *key), lambda: bench.tensor(case.x, storage))
    out = bench.keep(("out", out_shape), lambda: bench.empty(out_shape, dtype, storage))
    scale, residual = _extras(case, out_shape)
    resources: dict[str, Resource] = {
        "t_in": x,
        "t_out": out,
        "t_scale": bench.keep(("scale", *key), lambda: bench.tensor(scale, storage))
        if scaled
        else x,
        "t_residual": bench.keep(("residual", *key), lambda: bench.tensor(residual, storage))
        if case.extras
        else x,
        "bias": bench.keep(("bias", *key), lambda: bench.bias(operands.bias)),
        **_weight(bench, variant, operands, key),
    }
    problem = Problem(storage, x_shape, out_shape, dtype, accumulate, case.geometry)

    def run(poisoned_with: float) -> Array:
        plan = plan_conv2d_pw(
            bench.dispatcher,
            variant,
            problem,
            parse_activation(operands.activation),
            residual=case.extras,
            scale=scaled,
        )
        return bench.run([(plan, resources)], out, out_shape, dtype, poisoned_with)

    expected, bound = bench.keep(
        ("expected", *key, scaled),
        lambda: _expect(case, accumulate, scale if scaled else None, residual),
    )
    return Trial(case.name, pad_lanes(expected, storage), pad_lanes(bound, storage), n, run)


def _weight(
    bench: Workbench, variant: Variant, operands: Operands, key: tuple[str, int, int]
) -> dict[str, Resource]:
    """Return the weight as a variant's bindings name it."""
    n, k = operands.weight.shape
    storage = variant.axes.get("weight", "buffer")
    packed = bench.keep(("weight", *key), lambda: bench.weight(operands.weight[None], storage))
    if "weight_rows" not in dict(variant.bindings):
        return {"packed_weight": packed}
    return {"weight_rows": bench.keep(("rows", *key), lambda: bench.weight_rows(packed, n, k))}


def _extras(case: _Case, out_shape: Shape4) -> tuple[Array, Array]:
    """Return a scale of signs [N, C_in, 1, 1], and a residual of small integers."""
    rng = np.random.default_rng(0)
    dtype = case.operands.x.dtype
    scale = rng.choice([-1, 1], (case.size[0], case.operands.x.shape[1], 1, 1))
    return scale.astype(dtype), rng.integers(-9, 10, out_shape).astype(dtype)


def _expect(
    case: _Case, accumulate: DType, scale: Array | None, residual: Array
) -> tuple[Array, Array]:
    """Return what the output should be, and its bound, [N, C_out, H_out, W_out]."""
    x = case.x if scale is None else case.x * scale
    (stride_h, stride_w), (pad_h, pad_w) = case.geometry.stride, case.geometry.padding
    x = np.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)))[:, :, ::stride_h, ::stride_w]
    n, _, h, w = x.shape
    operands = replace(case.operands, x=x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1]))
    if not case.extras:
        expected, bound = operands.expect(accumulate)
        return _from_rows(expected, (n, h, w)), _from_rows(bound, (n, h, w))
    # All of it exact: what is added comes before the activation.
    expected, bound = replace(operands, activation=None).expect(accumulate)
    with_residual = np.maximum(_from_rows(expected, (n, h, w)) + residual, 0)
    return with_residual, _from_rows(bound, (n, h, w))


def _from_rows(rows: Array, size: tuple[int, int, int]) -> Array:
    """Return rows, each a position's channels, as [N, C, H, W]."""
    return np.ascontiguousarray(rows.reshape(*size, -1).transpose(0, 3, 1, 2))
