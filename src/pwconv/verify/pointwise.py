"""Trials of conv2d_pw_*: pointwise convolutions, one after another on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from math import lcm, prod

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pwconv.activation import parse_activation
from pwconv.context import Context
from pwconv.dispatch import MOST_TRIPS
from pwconv.dtypes import FLOAT16, FLOAT32, Array, DType
from pwconv.heuristics import block_shape
from pwconv.kernels.conv2d_pw import MOST_SHARED, Geometry, Problem, plan_conv2d_pw, takes_scale
from pwconv.kernels.tiling import step_along_k
from pwconv.layout import Shape4, ceil_div
from pwconv.shaders import Variant
from pwconv.verify import cases
from pwconv.verify.cases import Operands
from pwconv.verify.workbench import (
    Trial,
    Workbench,
    extent_limit,
    is_smallest,
    pad_lanes,
    storage_of,
    weight_limit,
)
from pwconv.vk.commands import Dispatch, Plan
from pwconv.vk.resources import Resource

# Compiling takes most of the time, so that two pipelines serve nearly all cases, and between them
# both values of whatever they are specialized by. The one is plain, and K and N are whole numbers
# of no block; M and N let a kernel without a workgroup of its own have eight invocations along
# either. Nor is any size of a texture a power of two.
_K, _N = 37, 101
_SIZE = (2, 17, 19)
# The other: K is whole blocks; the input is strided, padded and scaled, and something is added.
_ACTIVATION = "silu"
_WHOLE = 192
# A K of more steps than any kernel unrolls.
_LARGE_K = 2304
# Small sizes along the other axes of the largest outputs, all of which the host checks.
_FEW_N, _FEW_K, _FEW_M = 57, 9, (5, 13)
_FEWEST_N, _FEWEST_M = 9, (1, MOST_SHARED + 1)
_PLAIN, _STRIDED = Geometry(), Geometry((2, 1), (1, 2))
_MANY_TAPS = Geometry(kernel=(32, 32))


@dataclass(frozen=True)
class _Case:
    """A name that says all of it, an input's [N, H, W], the output channels, and the input's.

    ``make`` gives the operands, whose rows are the input's positions.
    """

    name: str
    size: tuple[int, int, int]
    n: int
    k: int
    make: Callable[[int, int, int, DType], Operands]
    geometry: Geometry = _PLAIN
    activation: str | None = None
    extras: bool = False

    @property
    def products(self) -> int:
        """K."""
        return self.geometry.products(self.k)

    def operands(self, dtype: DType) -> Operands:
        """Return the operands; they are the same every time."""
        made = self.make(prod(self.size), self.n, self.k, dtype)
        if self.products != self.k:
            made = replace(made, weight=self.make(1, self.n, self.products, dtype).weight)
        return replace(made, activation=self.activation)


def trials(bench: Workbench, variant: Variant) -> Iterator[Trial]:
    """Yield every case that a variant takes."""
    dtype = FLOAT32 if variant.axes["dtype"] == "fp32" else FLOAT16
    for case in _cases(bench.context, variant, dtype):
        yield _trial(bench, variant, case, dtype)


def _cases(context: Context, variant: Variant, dtype: DType) -> Iterator[_Case]:
    most = extent_limit(context, dtype)
    for name, make in (
        ("identity", cases.identity),
        ("zero", cases.zero),
        ("one-hot", cases.one_hot),
        ("constant", cases.constant),
        ("ragged", cases.random),
        ("denormal", cases.subnormal),
        ("not finite", cases.not_finite),
    ):
        yield _Case(name, _SIZE, _N, _K, make)
    fixed = variant.workgroup is not None
    few_n, few_m = (_FEWEST_N, _FEWEST_M) if fixed else (_FEW_N, _FEW_M)
    # The depth of a texture is N·ceil(C/4): input and output have the same. Kernels over buffers
    # may be specialized by the steps along K.
    few_k, deep_k = (_FEW_K, _FEW_N) if storage_of(variant) == "texture3d" else (_K, _K)
    deep = most // ceil_div(_FEW_N, 4)
    yield _Case("widest", (1, 3, most), few_n, few_k, cases.random)
    yield _Case("tallest", (1, most, 3), few_n, few_k, cases.random)
    yield _Case("deepest", (deep, *few_m), _FEW_N, deep_k, cases.random)

    _, block_n = block_shape(variant)
    whole_n = lcm(_WHOLE, block_n)
    whole_k = lcm(_WHOLE, variant.defines.get("BLOCK_K", 1))
    plain = variant.family.startswith("conv2d_pw_coopmat")
    geometry = _PLAIN if plain else _STRIDED
    # Outputs are 16 × 16 or, strided, 24 × 48.
    size = (1, 16, 16) if plain else (1, 46, 44)
    more = (geometry, _ACTIVATION, "t_residual" in variant.binding_names)
    large_k = whole_k * ceil_div(_LARGE_K, whole_k)
    yield _Case("large-K", (2, 15, 9), _FEW_N, large_k, cases.large_k, *more)
    yield _Case(f"random {whole_n}×{whole_k}", size, whole_n, whole_k, cases.random, *more)
    if variant.has_constant("SHARED"):
        yield _Case("tiny images", (19, 4, 1), _N, whole_k, cases.random, *more)  # outputs 3 × 5
        if storage_of(variant) == "buffer":
            single = (Geometry((3, 3), (1, 1)), *more[1:])
            yield _Case("single positions", (67, 2, 2), _N, whole_k, cases.random, *single)
    if is_smallest(context, variant):
        k = MOST_TRIPS * step_along_k(variant)
        k = min(k, weight_limit(context, variant, dtype))
        if storage_of(variant) == "buffer":
            yield _Case("longest loop", (1, 1, 3), 3, k - 1, cases.sparse)
        else:  # a texture's depth is less, but each of its channels may have many taps
            channels = k // prod(_MANY_TAPS.kernel) // 4 * 4
            yield _Case("longest loop", (1, 32, 34), 3, channels, cases.sparse, _MANY_TAPS)


def _trial(bench: Workbench, variant: Variant, case: _Case, dtype: DType) -> Trial:
    storage = storage_of(variant)
    accumulate = FLOAT16 if variant.axes["dtype"] == "fp16acc16" else FLOAT32
    x_shape: Shape4 = (case.size[0], case.k, *case.size[1:])
    out_shape = case.geometry.output_shape(x_shape, case.n)
    problem = Problem(storage, x_shape, out_shape, dtype, accumulate, case.geometry)
    scaled = case.extras and takes_scale(variant)
    # Variants that share their inputs do not all take a residual.
    key = case.name, case.n, case.k, case.extras

    def plan() -> Plan:
        return plan_conv2d_pw(
            bench.context,
            variant,
            problem,
            parse_activation(case.activation),
            residual=case.extras,
            scale=scaled,
        )

    def operands() -> Operands:
        return bench.keep(("operands", *key), lambda: case.operands(dtype))

    def tensor(name: str, make: Callable[[], Array]) -> Resource:
        return bench.keep((name, *key), lambda: bench.tensor(make(), storage))

    def run(poisoned_with: float) -> Array:
        x = tensor("x", lambda: _from_rows(operands().x, case.size))
        out = bench.keep(("out", out_shape), lambda: bench.empty(out_shape, dtype, storage))
        resources: dict[str, Resource] = {
            "t_in": x,
            "t_out": out,
            "t_scale": tensor("scale", lambda: _scale(x_shape, dtype)) if scaled else x,
            "t_residual": tensor("residual", lambda: _residual(operands(), out_shape))
            if case.extras
            else x,
            "bias": bench.keep(("bias", *key), lambda: bench.bias(operands().bias)),
            **_weight(bench, variant, operands(), key),
        }
        return bench.run([Dispatch(plan(), resources)], out, out_shape, dtype, poisoned_with)

    def expect() -> tuple[Array, Array]:
        expected, bound = _expect(case, operands(), out_shape, accumulate, scaled=scaled)
        return pad_lanes(expected, storage), pad_lanes(bound, storage)

    def kept() -> tuple[Array, Array]:
        return bench.keep(("expected", *key, scaled), expect)

    return Trial(case.name, case.n, plan, kept, run)


def _weight(
    bench: Workbench, variant: Variant, operands: Operands, key: tuple[Hashable, ...]
) -> dict[str, Resource]:
    """Return the weight as a variant's bindings name it."""
    n, k = operands.weight.shape
    storage = variant.axes.get("weight", "buffer")
    packed = bench.keep(
        ("weight", storage, *key), lambda: bench.weight(operands.weight[None], storage)
    )
    if "weight_rows" not in variant.binding_names:
        return {"packed_weight": packed}
    return {"weight_rows": bench.keep(("rows", *key), lambda: bench.weight_rows(packed, n, k))}


def _scale(x_shape: Shape4, dtype: DType) -> Array:
    """Return signs, [N, C_in, 1, 1]."""
    n, c, _, _ = x_shape
    return np.random.default_rng(0).choice([-1, 1], (n, c, 1, 1)).astype(dtype)


def _residual(operands: Operands, out_shape: Shape4) -> Array:
    """Return small integers, or zeros where sums are rounded before they come to them."""
    dtype = operands.x.dtype
    if not operands.exact:
        return np.zeros(out_shape, dtype)
    return np.random.default_rng(0).integers(-9, 10, out_shape).astype(dtype)


def _expect(
    case: _Case, operands: Operands, out_shape: Shape4, accumulate: DType, *, scaled: bool
) -> tuple[Array, Array]:
    """Return the expected output and its bound, [N, C_out, H_out, W_out]."""
    x = _from_rows(operands.x, case.size)
    if scaled:
        x = x * _scale((case.size[0], case.k, *case.size[1:]), x.dtype)
    (stride_h, stride_w), (pad_h, pad_w) = case.geometry.stride, case.geometry.padding
    x = np.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)))
    windows = sliding_window_view(x, case.geometry.kernel, (2, 3))[:, :, ::stride_h, ::stride_w]
    moved = replace(operands, x=_to_rows(_taps_as_channels(windows)))
    if case.extras:
        moved = replace(moved, bias=operands.bias + _to_rows(_residual(operands, out_shape)))
    n, _, h, w = out_shape
    expected, bound = moved.expect(accumulate)
    return _from_rows(expected, (n, h, w)), _from_rows(bound, (n, h, w))


def _taps_as_channels(windows: Array) -> Array:
    """Return [N, C, H, W, KH, KW] as [N, K, H, W], as include/kernel_taps.glslh counts K."""
    n, c, h, w, kh, kw = windows.shape
    if kh * kw == 1:
        return windows[..., 0, 0]
    vec4s = windows.reshape(n, c // 4, 4, h, w, kh * kw)
    return vec4s.transpose(0, 1, 5, 2, 3, 4).reshape(n, -1, h, w)


def _to_rows(array: Array) -> Array:
    """Return [N, C, H, W] as rows, each a position's channels."""
    return array.transpose(0, 2, 3, 1).reshape(-1, array.shape[1])


def _from_rows(rows: Array, size: tuple[int, int, int]) -> Array:
    """Return rows, each a position's channels, as [N, C, H, W]."""
    return np.ascontiguousarray(rows.reshape(*size, -1).transpose(0, 3, 1, 2))
