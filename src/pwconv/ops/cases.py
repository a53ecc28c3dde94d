"""Cases: the problems on which variants of an operator are verified, and numbers for them.

Where every sum of every part of the products is a number that both types hold, in whatever order
they are added, the result must be exact. Elsewhere the bound is :mod:`pwconv.reference`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pwconv.dtypes import FLOAT16, FLOAT32, Array, DType
from pwconv.layout import Shape4
from pwconv.ops.base import Arrays, Case, Operator
from pwconv.ops.limits import Limits
from pwconv.tensor import Shape

# The least normal number of each.
_TINY = {2: 2.0**-14, 4: 2.0**-126}
# Products of a sparse row.
_FEW = 256


def at_sizes(
    limits: Limits,
    operator: Operator,
    name: str = "",
    others: Callable[[Shape4], Shape4] | None = None,
) -> Iterator[Case]:
    """Yield an operator at a ragged size, at one element, and at the largest along each axis.

    Its inputs are whole numbers so small that every sum is exact. ``others`` gives the shape of a
    second input.
    """
    for size, shape in plane_sizes(limits.extent()).items():
        inputs = (shape,) if others is None else (shape, others(shape))
        yield of_integers(f"{size}{name}", operator, inputs, limits.dtype)


def plane_sizes(most: int, channels: int = 6) -> dict[str, Shape4]:
    """Return [N, C, H, W] of several kinds, at most so long along an axis, by name."""
    return {
        "ragged": (2, 23, 7, 11),
        "one": (1, 1, 1, 1),
        "widest": (1, channels, 1, most),
        "tallest": (1, channels, most, 1),
        "deepest": (most // 3, channels, 1, 1),
    }


def of_integers(name: str, operator: Operator, inputs: tuple[Shape4, ...], dtype: DType) -> Case:
    """Return a case of small integers for every input, of an operator without parameters.

    It is not said to be exact: :mod:`pwconv.reference` knows it of sums and products, and a mean of
    integers is rounded.
    """

    def make() -> Arrays:
        return Arrays([integers(shape, dtype, seed) for seed, shape in enumerate(inputs, 1)])

    return Case(name, operator, inputs, make)


def integers(shape: Shape, dtype: DType, seed: int = 1) -> Array:
    """Return integers from −9 to 9."""
    return np.random.default_rng(seed).integers(-9, 10, tuple(shape)).astype(dtype)


def no_numbers(*shape: int) -> Array:
    """Return an array that has a shape and takes no memory."""
    return np.broadcast_to(np.zeros((), FLOAT32), shape)


@dataclass(frozen=True, eq=False)
class Operands:
    """Rows X [M, K], weight [N, K] and bias [N] of a matrix product, of one type."""

    x: Array
    weight: Array
    bias: Array


Maker = Callable[[int, int, int, DType], Operands]
"""Makes operands of M, N and K."""


def identity(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Give back X, of numbers that all differ as far as the type allows."""
    return Operands(_normal(m, k, dtype), np.eye(n, k, dtype=dtype), np.zeros(n, dtype))


def zero(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Multiply zeros."""
    return Operands(np.zeros((m, k), dtype), _normal(n, k, dtype), np.zeros(n, dtype))


def one_hot(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Pick the weight of the last input channel, for one row alone."""
    x = np.zeros((m, k), dtype)
    x[2 * m // 3, -1] = 1
    return Operands(x, _normal(n, k, dtype), np.zeros(n, dtype))


def constant(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Count to K."""
    return Operands(np.ones((m, k), dtype), np.ones((n, k), dtype), np.ones(n, dtype))


def random(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Multiply random numbers; results are of order one."""
    weight = _normal(n, k, dtype, 1 / np.sqrt(k))
    return Operands(_normal(m, k, dtype), weight, _normal(1, n, dtype)[0])


def large_k(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Add up many of −1, 0 and 1: no part of a sum is past 2048, and all are exact in float16."""
    rng = _rng(m, n, k)
    x = rng.integers(-1, 2, (m, k)).astype(dtype)
    weight = rng.integers(-1, 2, (n, k)) * rng.integers(0, 2, (n, k))
    return Operands(x, weight.astype(dtype), rng.integers(-9, 10, n).astype(dtype))


def sparse(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Add up a few of −1, 0 and 1 from all over K, and from its end: exact in float16."""
    x = _rng(m, k).integers(-1, 2, (m, k)).astype(dtype)
    weight = np.zeros((n, k), dtype)
    for row, rng in zip(weight, _rng(n, k).spawn(n), strict=True):
        row[rng.integers(0, k, _FEW)] = 1
        row[-8:] = rng.choice([-1, 1], 8)
    return Operands(x, weight, np.arange(n).astype(dtype))


def subnormal(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Multiply numbers below the least normal one among others that are not."""
    x = _normal(m, k, dtype)
    tiny = _TINY[dtype.itemsize] * _rng(m, k).uniform(-1, 1, (m, k))
    few = np.arange(m * k).reshape(m, k) % 3 == 0
    whole = np.arange(m)[:, None] % 2 == 0
    weight = _rng(n, k).uniform(0.25, 1, (n, k)) * _rng(k, n).choice([-1, 1], (n, k))
    x = np.where(few | whole, tiny.astype(dtype), x)
    return Operands(x, weight.astype(dtype), np.zeros(n, dtype))


def not_finite(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Multiply one NaN or infinity in some rows: they must fill those rows, and no other.

    So must an infinite weight of the last channel, that may be read again past K, fill its output.
    """
    x = _normal(m, k, dtype)
    rows = np.arange(0, m, 5)
    columns = rows % k
    x[rows, columns] = np.resize([np.nan, np.inf, -np.inf], len(rows))
    weight = _rng(n, k).uniform(0.25, 1, (n, k)) * _rng(n).choice([-1, 1], (n, 1))
    weight[0, -1] = np.inf
    return Operands(x, weight.astype(dtype), np.zeros(n, dtype))


EXACT = frozenset({identity, zero, one_hot, constant, large_k, sparse})
"""Makers whose sums of every part of the products are exact in every type."""

# Those that are run at one ragged size; "ragged" is that of random numbers.
RAGGED: dict[str, Maker] = {
    "identity": identity,
    "zero": zero,
    "one-hot": one_hot,
    "constant": constant,
    "ragged": random,
    "denormal": subnormal,
    "not finite": not_finite,
}


def _rng(*shape: int) -> np.random.Generator:
    return np.random.default_rng(shape)


def _normal(rows: int, columns: int, dtype: DType, scale: float = 1.0) -> Array:
    numbers = (_rng(rows, columns).standard_normal((rows, columns)) * scale).astype(dtype)
    # A product of subnormal numbers is not exact on every device.
    least = 2.0**-7 if dtype == FLOAT16 else 2.0**-20
    return np.where(np.abs(numbers) < least, np.array(least, dtype), numbers)
