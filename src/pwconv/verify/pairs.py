"""Trials of conv2d_pw_pair_*: two pointwise convolutions as one.

They are given whole numbers so small that every result, and what lies between, is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pwconv import reference
from pwconv.activation import parse_activation
from pwconv.dispatch import Resource
from pwconv.dtypes import FLOAT16, FLOAT32, Array, DType
from pwconv.kernels.conv2d_pw_pair import PairProblem, most_channels, plan_conv2d_pw_pair
from pwconv.shaders import Variant
from pwconv.verify.workbench import Trial, Workbench, pad_lanes, storage_of

# Parts of every variant's blocks.
_K, _H, _N = 37, 43, 29
_SIZE = (2, 13, 17)


@dataclass(frozen=True, eq=False)
class _Operands:
    """x [N, C, H, W], two weights [N, K], two biases, what is added and the first activation."""

    x: Array
    weights: tuple[Array, Array]
    biases: tuple[Array, Array]
    residual: Array | None = None
    activation: Any = None


def trials(bench: Workbench, variant: Variant) -> Iterator[Trial]:
    """Yield every case."""
    dtype = FLOAT32 if variant.axes["dtype"] == "fp32" else FLOAT16
    for name, operands in _cases(variant, dtype):
        yield _trial(bench, variant, name, operands)


def _cases(variant: Variant, dtype: DType) -> Iterator[tuple[str, _Operands]]:
    most_k, most_n = most_channels(variant)
    n, h, w = _SIZE
    shape = n, _K, h, w
    units = np.eye(_H, _K, dtype=dtype), np.eye(_N, _H, dtype=dtype)
    ones = np.ones((_H, _K), dtype), np.ones((_N, _H), dtype)
    without = np.zeros(_H, dtype), np.zeros(_N, dtype)
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    yield "identity", _Operands(x, units, without)
    yield "zero", _Operands(np.zeros(shape, dtype), ones, without)
    counted = np.ones(_H, dtype), np.ones(_N, dtype)
    yield "constant", _Operands(np.ones(shape, dtype), ones, counted)
    lit = np.zeros(shape, dtype)
    lit[-1, -1, h // 2, w // 3] = 1
    yield "one-hot", _Operands(lit, *_signs(_K, _H, _N, dtype))
    yield "ragged", _whole_numbers(shape, _H, _N, dtype)
    whole_k = int(min(most_k, 96))
    whole_h = 2 * variant.defines["BLOCK_H"]
    yield "whole blocks", _whole_numbers((1, whole_k, 16, 16), whole_h, int(most_n), dtype)
    spoilt = _whole_numbers(shape, _H, _N, dtype)
    spoilt.x[:, :, ::4, ::5] = np.nan
    yield "not a number", spoilt


def _whole_numbers(shape: tuple[int, int, int, int], h: int, n: int, dtype: DType) -> _Operands:
    rng = np.random.default_rng(shape)
    x = rng.integers(-2, 3, shape).astype(dtype)
    residual = rng.integers(-9, 10, (shape[0], n, *shape[2:])).astype(dtype)
    return _Operands(x, *_signs(shape[1], h, n, dtype), residual, "relu")


def _signs(k: int, h: int, n: int, dtype: DType) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return weights of a few −1 and 1 each row, and biases of small integers."""
    rng = np.random.default_rng((k, h, n))

    def weight(rows: int, columns: int) -> Array:
        few = rng.random((rows, columns)) < min(1.0, 8 / columns)
        return (rng.choice([-1, 1], (rows, columns)) * few).astype(dtype)

    def bias(length: int) -> Array:
        return rng.integers(-9, 10, length).astype(dtype)

    return (weight(h, k), weight(n, h)), (bias(h), bias(n))


def _trial(bench: Workbench, variant: Variant, name: str, operands: _Operands) -> Trial:
    x, (first, second) = operands.x, operands.weights
    dtype, storage = x.dtype, storage_of(variant)
    n, k, h, w = x.shape
    problem = PairProblem(storage, (n, k, h, w), len(first), len(second), dtype)
    t_in = bench.tensor(x, storage)
    out = bench.empty(problem.out_shape, dtype, storage)
    added = t_in if operands.residual is None else bench.tensor(operands.residual, storage)
    resources: dict[str, Resource] = {"t_in": t_in, "t_out": out, "t_residual": added}
    for which, weight, bias in zip(
        ("first", "second"), operands.weights, operands.biases, strict=True
    ):
        packed = bench.weight(weight[None], variant.axes.get("weight", "buffer"))
        resources[f"{which}_bias"] = bench.bias(bias)
        if f"{which}_rows" in dict(variant.bindings):
            resources[f"{which}_rows"] = bench.weight_rows(packed, *weight.shape)
        else:
            resources[f"{which}_packed"] = packed

    def run(poisoned_with: float) -> Array:
        plan = plan_conv2d_pw_pair(
            bench.dispatcher,
            variant,
            problem,
            parse_activation(operands.activation),
            parse_activation(None),
            residual=operands.residual is not None,
        )
        return bench.run([(plan, resources)], out, problem.out_shape, dtype, poisoned_with)

    hidden = reference.conv2d_pw(x, first, operands.biases[0], activation=operands.activation)
    expected = reference.conv2d_pw(hidden, second, operands.biases[1])
    expected = expected + (0 if operands.residual is None else operands.residual)
    padded = pad_lanes(expected, storage)
    return Trial(name, padded, np.zeros_like(padded), len(second), run)
