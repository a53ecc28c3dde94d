"""Trials of conv2d_pw_pair_*: two pointwise convolutions as one.

They are given whole numbers so small that every result, and what lies between, is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from pwconv import reference
from pwconv.activation import parse_activation
from pwconv.context import Context
from pwconv.dispatch import MOST_TRIPS
from pwconv.dtypes import FLOAT16, FLOAT32, Array, DType
from pwconv.kernels.conv2d_pw_pair import (
    PairProblem,
    most_channels,
    pair_trips,
    plan_conv2d_pw_pair,
)
from pwconv.layout import Shape4
from pwconv.shaders import Variant
from pwconv.verify import cases
from pwconv.verify.workbench import (
    Trial,
    Workbench,
    is_smallest,
    pad_lanes,
    storage_of,
    weight_limit,
)
from pwconv.vk.commands import Dispatch, Plan
from pwconv.vk.resources import Resource

# Parts of every variant's blocks.
_K, _H, _N = 37, 43, 29
_SIZE = (2, 13, 17)


@dataclass(frozen=True, eq=False)
class _Operands:
    """x [N, C, H, W], two weights [N, K], two biases, the residual and the first activation."""

    x: Array
    weights: tuple[Array, Array]
    biases: tuple[Array, Array]
    residual: Array | None = None
    activation: str | None = None


@dataclass(frozen=True)
class _Case:
    """A name, and sizes: of x [N, K, H, W], hidden and output channels.

    ``make`` gives the operands; ``extras`` are a residual and the first activation, with which
    pipelines are others.
    """

    name: str
    shape: Shape4
    hidden: int
    channels: int
    make: Callable[[Shape4, int, int, DType], _Operands]
    extras: bool = False


def trials(bench: Workbench, variant: Variant) -> Iterator[Trial]:
    """Yield every case."""
    dtype = FLOAT32 if variant.axes["dtype"] == "fp32" else FLOAT16
    for case in _cases(bench.context, variant, dtype):
        yield _trial(bench, variant, case, dtype)


def _cases(context: Context, variant: Variant, dtype: DType) -> Iterator[_Case]:
    n, h, w = _SIZE
    for name, make in (
        ("identity", _identity),
        ("zero", _zero),
        ("constant", _constant),
        ("one-hot", _one_hot),
        ("ragged", _whole_numbers),
        ("not a number", _not_a_number),
    ):
        yield _Case(name, (n, _K, h, w), _H, _N, make)
    most_k, most_n = most_channels(variant)
    shape = 1, int(min(most_k, 96)), 16, 16
    whole_h = 2 * variant.defines["BLOCK_H"]
    yield _Case("whole blocks", shape, whole_h, int(most_n), _with_extras, extras=True)
    if is_smallest(context, variant):
        hidden = MOST_TRIPS // pair_trips(variant, 5, 1) * variant.defines["BLOCK_H"]
        hidden = min(hidden, weight_limit(context, variant, dtype))
        yield _Case("longest loop", (1, 5, 1, 3), hidden - 1, 3, _sparse)


def _identity(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    k = shape[1]
    units = np.eye(h, k, dtype=dtype), np.eye(n, h, dtype=dtype)
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return _Operands(x, units, (np.zeros(h, dtype), np.zeros(n, dtype)))


def _zero(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    ones = _constant(shape, h, n, dtype).weights
    return _Operands(np.zeros(shape, dtype), ones, (np.zeros(h, dtype), np.zeros(n, dtype)))


def _constant(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    ones = np.ones((h, shape[1]), dtype), np.ones((n, h), dtype)
    return _Operands(np.ones(shape, dtype), ones, (np.ones(h, dtype), np.ones(n, dtype)))


def _one_hot(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    lit = np.zeros(shape, dtype)
    lit[-1, -1, shape[2] // 2, shape[3] // 3] = 1
    return _Operands(lit, *_signs(shape[1], h, n, dtype))


def _not_a_number(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    spoilt = _whole_numbers(shape, h, n, dtype)
    spoilt.x[:, :, ::4, ::5] = np.nan
    return spoilt


def _whole_numbers(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    x = np.random.default_rng(shape).integers(-2, 3, shape).astype(dtype)
    return _Operands(x, *_signs(shape[1], h, n, dtype))


def _sparse(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    made = _whole_numbers(shape, h, n, dtype)
    return replace(made, weights=(made.weights[0], cases.sparse(1, n, h, dtype).weight))


def _with_extras(shape: Shape4, h: int, n: int, dtype: DType) -> _Operands:
    added = np.random.default_rng(n).integers(-9, 10, (shape[0], n, *shape[2:])).astype(dtype)
    return replace(_whole_numbers(shape, h, n, dtype), residual=added, activation="relu")


def _signs(k: int, h: int, n: int, dtype: DType) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return weights of a few −1 and 1 each row, and biases of small integers."""
    rng = np.random.default_rng((k, h, n))

    def weight(rows: int, columns: int) -> Array:
        few = rng.random((rows, columns)) < min(1.0, 8 / columns)
        return (rng.choice([-1, 1], (rows, columns)) * few).astype(dtype)

    def bias(length: int) -> Array:
        return rng.integers(-9, 10, length).astype(dtype)

    return (weight(h, k), weight(n, h)), (bias(h), bias(n))


def _trial(bench: Workbench, variant: Variant, case: _Case, dtype: DType) -> Trial:
    storage = storage_of(variant)
    problem = PairProblem(storage, case.shape, case.hidden, case.channels, dtype)
    key = case.name, case.shape, case.hidden, case.channels

    def plan() -> Plan:
        return plan_conv2d_pw_pair(
            bench.context,
            variant,
            problem,
            parse_activation("relu" if case.extras else None),
            parse_activation(None),
            residual=case.extras,
        )

    def operands() -> _Operands:
        return bench.keep(
            ("operands", *key),
            lambda: case.make(case.shape, case.hidden, case.channels, dtype),
        )

    def tensor(name: str, array: Array) -> Resource:
        return bench.keep((name, *key), lambda: bench.tensor(array, storage))

    def run(poisoned_with: float) -> Array:
        made = operands()
        shape = problem.out_shape
        out = bench.keep(("out", shape), lambda: bench.empty(shape, dtype, storage))
        x = tensor("x", made.x)
        added = x if made.residual is None else tensor("residual", made.residual)
        resources: dict[str, Resource] = {"t_in": x, "t_out": out, "t_residual": added}
        for which, weight, bias in zip(("first", "second"), made.weights, made.biases, strict=True):
            resources |= _parameters(bench, variant, (which, *key), weight, bias)
        return bench.run([Dispatch(plan(), resources)], out, shape, dtype, poisoned_with)

    def expect() -> tuple[Array, Array]:
        made = operands()
        (first, second), (first_bias, second_bias) = made.weights, made.biases
        hidden = reference.conv2d_pw(made.x, first, first_bias, activation=made.activation)
        expected = reference.conv2d_pw(hidden, second, second_bias)
        if made.residual is not None:
            expected = expected + made.residual
        padded = pad_lanes(expected, storage)
        return padded, np.zeros_like(padded)

    def kept() -> tuple[Array, Array]:
        return bench.keep(("expected", *key), expect)

    return Trial(case.name, case.channels, plan, kept, run)


def _parameters(
    bench: Workbench, variant: Variant, key: tuple[Hashable, ...], weight: Array, bias: Array
) -> dict[str, Resource]:
    """Return one convolution's weight and bias as a variant's bindings name them."""
    which, storage = key[0], variant.axes.get("weight", "buffer")
    packed = bench.keep(("packed", storage, *key), lambda: bench.weight(weight[None], storage))
    found = {f"{which}_bias": bench.keep(("bias", *key), lambda: bench.bias(bias))}
    if f"{which}_rows" not in variant.binding_names:
        return {**found, f"{which}_packed": packed}
    n, k = weight.shape
    rows = bench.keep(("rows", *key), lambda: bench.weight_rows(packed, n, k))
    return {**found, f"{which}_rows": rows}
