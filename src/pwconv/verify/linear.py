"""Trials of linear_*: linear layers, one after another on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pwconv.activation import parse_activation
from pwconv.dispatch import Dispatcher, Resource
from pwconv.dtypes import FLOAT16, FLOAT32, Array, DType
from pwconv.kernels.linear import Problem, plan_linear
from pwconv.layout import Shape4
from pwconv.shaders import Variant
from pwconv.verify import cases
from pwconv.verify.cases import Operands
from pwconv.verify.workbench import Trial, Workbench, extent_limit, pad_lanes, storage_of

# Chosen as in pointwise.py: as few pipelines as can be serve all cases.
_K, _N = 37, 101
_FEW_N, _FEW_M = 57, 81
_LARGE_K = 1031


@dataclass(frozen=True)
class _Case:
    """A name, the axes before the last of an input [N, C, H, K], and operands of each weight."""

    name: str
    size: tuple[int, int, int]
    batches: tuple[Operands, ...]


def trials(bench: Workbench, variant: Variant) -> Iterator[Trial]:
    """Yield every case."""
    dtype = FLOAT32 if variant.axes["dtype"] == "fp32" else FLOAT16
    # A texture's rows lie one in a texel, or four; those of a buffer one after the other.
    one_lane = variant.defines.get("LANES") == 1
    for name, make in _makers(bench.dispatcher, dtype, one_lane=one_lane).items():
        if name == "few rows" and variant.workgroup is None:
            continue  # another workgroup, and so another pipeline
        case = bench.keep(("case", name, one_lane), make)
        yield _trial(bench, variant, case, ("one lane" if one_lane else "lanes", name))


def _makers(
    dispatcher: Dispatcher, dtype: DType, *, one_lane: bool
) -> dict[str, Callable[[], _Case]]:
    """Return what makes each case, by name."""
    most = extent_limit(dispatcher, dtype)

    def sized(
        name: str, c: int, h: int, n: int, k: int, make: Callable[..., Operands], *more: object
    ) -> Callable[[], _Case]:
        size = (c, 1, h) if one_lane else (1, c, h)
        return lambda: _Case(name, size, (make(c * h, n, k, dtype, *more),))

    def simple(name: str, make: Callable[..., Operands]) -> Callable[[], _Case]:
        return sized(name, 7, 23, _N, _K, make)

    def batched() -> _Case:
        size = (4, 1, 41) if one_lane else (4, 3, 17)
        rows = size[0] * size[1] * size[2] // 2
        # Of other rows, and another weight.
        first = cases.random(rows, _FEW_N, _K, dtype)
        second = Operands(first.x[::-1], first.weight[::-1], first.bias)
        return _Case("batched", size, (first, second))

    large_k, tallest = min(_LARGE_K, most), 1 if one_lane else 2
    return {
        "identity": simple("identity", cases.identity),
        "zero": simple("zero", cases.zero),
        "one-hot": simple("one-hot", cases.one_hot),
        "constant": simple("constant", cases.constant),
        "ragged": simple("ragged", cases.random),
        "denormal": simple("denormal", cases.subnormal),
        "not finite": simple("not finite", cases.not_finite),
        "few rows": sized("few rows", 3, 1, _N, _K, cases.random),
        "batched": batched,
        "widest": sized("widest", _FEW_M // 3, 3, most, _K, cases.random),
        "tallest": sized("tallest", tallest, most, _FEW_N, _K, cases.random),
        "deepest": sized("deepest", most if one_lane else 4 * most, 1, _FEW_N, _K, cases.random),
        "large-K": sized("large-K", _FEW_M, 1, _FEW_N, large_k, cases.large_k),
        "random": sized("random", 128, 1, 192, 128, cases.random, "silu"),
    }


def _trial(bench: Workbench, variant: Variant, case: _Case, key: tuple[str, str]) -> Trial:
    first = case.batches[0]
    dtype, storage = first.x.dtype, storage_of(variant)
    accumulate = FLOAT16 if variant.axes["dtype"] == "fp16acc16" else FLOAT32
    n, k = first.weight.shape
    x_shape: Shape4 = (*case.size, k)
    out_shape: Shape4 = (*case.size, n)
    weights = variant.axes["weight"]
    matrices = np.stack([operands.weight for operands in case.batches])
    rows = np.concatenate([operands.x for operands in case.batches])
    out = bench.keep(("out", out_shape), lambda: bench.empty(out_shape, dtype, storage))
    resources: dict[str, Resource] = {
        "t_in": bench.keep(("x", key), lambda: bench.tensor(rows.reshape(x_shape), storage)),
        "t_out": out,
        "packed_weight": bench.keep(("weight", key), lambda: bench.weight(matrices, weights)),
        "bias": bench.keep(("bias", key), lambda: bench.bias(first.bias)),
    }
    problem = Problem(storage, x_shape, n, len(case.batches), dtype, accumulate)

    def run(poisoned_with: float) -> Array:
        activation = parse_activation(first.activation)
        plan = plan_linear(bench.dispatcher, variant, problem, activation)
        return bench.run([(plan, resources)], out, out_shape, dtype, poisoned_with)

    def expect() -> tuple[Array, ...]:
        parts = [operands.expect(accumulate) for operands in case.batches]
        return tuple(
            pad_lanes(np.concatenate(part).reshape(out_shape), storage)
            for part in zip(*parts, strict=True)
        )

    expected, bound = bench.keep(("expected", key), expect)
    return Trial(case.name, expected, bound, out_shape[1], run, features_last=True)
