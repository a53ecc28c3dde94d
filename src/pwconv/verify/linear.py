"""Trials of linear_*: linear layers, one after another on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from pwconv.activation import parse_activation
from pwconv.context import Context
from pwconv.dispatch import MOST_TRIPS
from pwconv.dtypes import FLOAT16, FLOAT32, Array, DType
from pwconv.kernels.linear import Problem, plan_linear
from pwconv.kernels.tiling import step_along_k
from pwconv.layout import Shape4
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

# Chosen as in pointwise.py: one pipeline that is plain and ragged, whose rows of K and N are whole
# vec4s of no buffer, and one that has an activation and is whole.
_K, _N = 37, 101
_FEW_N, _FEW_K, _FEW_M = 57, 9, 66
_FEWEST_N = 9
_ACTIVATION = "silu"
_WHOLE_M, _WHOLE = 384, 192
_LARGE_K = 1152


@dataclass(frozen=True)
class _Case:
    """A name, the axes before the last of an input [N, C, H, K], the output's features, and K.

    ``make`` gives the operands of a weight, whose rows are an equal part of the input's.
    """

    name: str
    size: tuple[int, int, int]
    n: int
    k: int
    make: Callable[[int, int, int, DType], Operands]
    activation: str | None = None
    batches: int = 1

    def operands(self, dtype: DType) -> list[Operands]:
        """Return the operands of each weight; they are the same every time."""
        made = self.make(prod(self.size) // self.batches, self.n, self.k, dtype)
        first = replace(made, activation=self.activation)
        # Other rows, and another weight.
        other = replace(first, x=first.x[::-1], weight=first.weight[::-1])
        return [first, other][: self.batches]


def trials(bench: Workbench, variant: Variant) -> Iterator[Trial]:
    """Yield every case that a variant takes."""
    dtype = FLOAT32 if variant.axes["dtype"] == "fp32" else FLOAT16
    for case in _cases(bench.context, variant, dtype):
        yield _trial(bench, variant, case, dtype)


def _cases(context: Context, variant: Variant, dtype: DType) -> Iterator[_Case]:
    most = extent_limit(context, dtype)
    # A texture's rows lie one in a texel, or four; those of a buffer one after the other.
    lanes = variant.defines.get("LANES")
    one_lane = lanes == 1
    few_n = _FEW_N if variant.workgroup is None else _FEWEST_N

    def size(channels: int, height: int) -> tuple[int, int, int]:
        return (channels, 1, height) if one_lane else (1, channels, height)

    for name, make in (
        ("identity", cases.identity),
        ("zero", cases.zero),
        ("one-hot", cases.one_hot),
        ("constant", cases.constant),
        ("ragged", cases.random),
        ("denormal", cases.subnormal),
        ("not finite", cases.not_finite),
    ):
        yield _Case(name, size(11, 23), _N, _K, make)
    if variant.workgroup is not None:  # or it is another workgroup, and so another pipeline
        yield _Case("few rows", (1, 3, 1) if lanes == 4 else (1, 1, 3), _N, _K, cases.random)
    batched = (6, 1, 41) if one_lane else (6, 3, 17)
    yield _Case("batched", batched, _FEW_N, _K, cases.random, batches=2)
    yield _Case("widest", size(_FEW_M // 3, 3), most, _FEW_K, cases.random)
    yield _Case("tallest", size(1 if one_lane else 2, most), few_n, _FEW_K, cases.random)
    deepest = (1, 4 * most, 1) if lanes == 4 else size(most, 3)
    yield _Case("deepest", deepest, few_n, _FEW_K, cases.random)

    large_k = min(_LARGE_K, most // _WHOLE * _WHOLE)
    yield _Case("large-K", size(_FEW_M, 1), _WHOLE, large_k, cases.large_k, _ACTIVATION)
    yield _Case("random", size(_WHOLE_M, 1), _WHOLE, _WHOLE, cases.random, _ACTIVATION)
    if is_smallest(context, variant):
        k = MOST_TRIPS * step_along_k(variant) - 1
        if storage_of(variant) == "texture3d":
            k = min(k, most)
        k = min(k, weight_limit(context, variant, dtype))
        yield _Case("longest loop", size(3, 1), 3, k, cases.sparse)


def _trial(bench: Workbench, variant: Variant, case: _Case, dtype: DType) -> Trial:
    storage = storage_of(variant)
    accumulate = FLOAT16 if variant.axes["dtype"] == "fp16acc16" else FLOAT32
    x_shape: Shape4 = (*case.size, case.k)
    out_shape: Shape4 = (*case.size, case.n)
    problem = Problem(storage, x_shape, case.n, case.batches, dtype, accumulate)
    # Some variants have one row in a texel, others four.
    key = case.name, x_shape, case.n

    def plan() -> Plan:
        activation = parse_activation(case.activation)
        return plan_linear(bench.context, variant, problem, activation)

    def operands() -> list[Operands]:
        return bench.keep(("operands", *key), lambda: case.operands(dtype))

    def x() -> Resource:
        rows = np.concatenate([each.x for each in operands()])
        return bench.tensor(rows.reshape(x_shape), storage)

    def weight() -> Resource:
        matrices = np.stack([each.weight for each in operands()])
        return bench.weight(matrices, variant.axes["weight"])

    def run(poisoned_with: float) -> Array:
        out = bench.keep(("out", out_shape), lambda: bench.empty(out_shape, dtype, storage))
        resources: dict[str, Resource] = {
            "t_in": bench.keep(("x", *key), x),
            "t_out": out,
            "packed_weight": bench.keep(("weight", variant.axes["weight"], *key), weight),
            "bias": bench.keep(("bias", *key), lambda: bench.bias(operands()[0].bias)),
        }
        return bench.run([Dispatch(plan(), resources)], out, out_shape, dtype, poisoned_with)

    def expect() -> tuple[Array, Array]:
        parts = [each.expect(accumulate) for each in operands()]
        expected, bound = (
            pad_lanes(np.concatenate(part).reshape(out_shape), storage)
            for part in zip(*parts, strict=True)
        )
        return expected, bound

    def kept() -> tuple[Array, Array]:
        return bench.keep(("expected", *key), expect)

    return Trial(case.name, out_shape[1], plan, kept, run, features_last=True)
