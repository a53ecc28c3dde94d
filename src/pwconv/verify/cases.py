"""Cases of a matrix product: rows times a weight, and their results in float64.

Where every sum of every part of the products is a number that both types hold, in whatever order
they are added, the result must be exact. Elsewhere the bound is :mod:`pwconv.reference`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pwconv import reference
from pwconv.dtypes import FLOAT16, Array, DType

# The least normal number of each.
_TINY = {2: 2.0**-14, 4: 2.0**-126}
# Products of a sparse row.
_FEW = 256


@dataclass(frozen=True, eq=False)
class Operands:
    """Rows X [M, K], weight [N, K] and bias [N], or of each row [M, N], of one type.

    Attributes
    ----------
    exact : bool
        True if the sums must be exact.
    flushed : bool
        True if there are subnormal numbers, which a device may take for zeros.
    """

    x: Array
    weight: Array
    bias: Array
    activation: Any = None
    exact: bool = False
    flushed: bool = False

    def expect(self, accumulate: DType) -> tuple[Array, Array]:
        """Return X·Wᵀ + bias in float64, and the bound on a device's error: [M, N] each."""
        x, weight = (array.astype(np.float64) for array in (self.x, self.weight))
        finite = [np.where(np.isfinite(array), array, 0) for array in (x, weight)]
        call: dict[str, Any] = {"x": finite[0], "weight": finite[1], "bias": self.bias}
        if self.exact:
            return self._activated(reference.linear(**call))
        expected = reference.linear(**call, activation=self.activation)
        bound = reference.linear_bound(
            **call, activation=self.activation, dtype=self.x.dtype, accumulate=accumulate
        )
        if self.flushed:
            size = np.abs(weight).sum(1) + 1
            bound += _TINY[self.x.dtype.itemsize] * size
        with np.errstate(invalid="ignore"):
            sums = x @ weight.T
        special = ~np.isfinite(sums)
        return np.where(special, sums, expected), np.where(special, 0, bound)

    def _activated(self, sums: Array) -> tuple[Array, Array]:
        """Return the activation of exact sums, and its bound."""
        if self.activation is None:
            return sums, np.zeros_like(sums)
        each = {"x": sums.reshape(-1, 1), "weight": [[1.0]], "activation": self.activation}
        expected = reference.linear(**each)
        bound = reference.linear_bound(**each, dtype=self.x.dtype)
        return expected.reshape(sums.shape), bound.reshape(sums.shape)


def identity(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Give back X, of numbers that all differ as far as the type allows."""
    weight = np.eye(n, k, dtype=dtype)
    return Operands(_normal(m, k, dtype), weight, np.zeros(n, dtype), exact=True)


def zero(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Multiply zeros."""
    return Operands(np.zeros((m, k), dtype), _normal(n, k, dtype), np.zeros(n, dtype), exact=True)


def one_hot(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Pick the weight of the last input channel, for one row alone."""
    x = np.zeros((m, k), dtype)
    x[2 * m // 3, -1] = 1
    return Operands(x, _normal(n, k, dtype), np.zeros(n, dtype), exact=True)


def constant(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Count to K."""
    return Operands(np.ones((m, k), dtype), np.ones((n, k), dtype), np.ones(n, dtype), exact=True)


def random(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Multiply random numbers; results are of order one."""
    weight = _normal(n, k, dtype, 1 / np.sqrt(k))
    return Operands(_normal(m, k, dtype), weight, _normal(1, n, dtype)[0])


def large_k(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Add up many of −1, 0 and 1: no part of a sum is past 2048, and all are exact in float16."""
    rng = _rng(m, n, k)
    x = rng.integers(-1, 2, (m, k)).astype(dtype)
    weight = rng.integers(-1, 2, (n, k)) * rng.integers(0, 2, (n, k))
    bias = rng.integers(-9, 10, n).astype(dtype)
    return Operands(x, weight.astype(dtype), bias, exact=True)


def sparse(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Add up a few of −1, 0 and 1 from all over K, and from its end: exact in float16."""
    x = _rng(m, k).integers(-1, 2, (m, k)).astype(dtype)
    weight = np.zeros((n, k), dtype)
    for row, rng in zip(weight, _rng(n, k).spawn(n), strict=True):
        row[rng.integers(0, k, _FEW)] = 1
        row[-8:] = rng.choice([-1, 1], 8)
    return Operands(x, weight, np.arange(n).astype(dtype), exact=True)


def subnormal(m: int, n: int, k: int, dtype: DType) -> Operands:
    """Multiply numbers below the least normal one among others that are not."""
    x = _normal(m, k, dtype)
    tiny = _TINY[dtype.itemsize] * _rng(m, k).uniform(-1, 1, (m, k))
    few = np.arange(m * k).reshape(m, k) % 3 == 0
    whole = np.arange(m)[:, None] % 2 == 0
    weight = _rng(n, k).uniform(-1, 1, (n, k)).astype(dtype)
    x = np.where(few | whole, tiny.astype(dtype), x)
    return Operands(x, weight, np.zeros(n, dtype), flushed=True)


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


def _rng(*shape: int) -> np.random.Generator:
    return np.random.default_rng(shape)


def _normal(rows: int, columns: int, dtype: DType, scale: float = 1.0) -> Array:
    numbers = (_rng(rows, columns).standard_normal((rows, columns)) * scale).astype(dtype)
    # A product of subnormal numbers is not exact on every device.
    least = 2.0**-7 if dtype == FLOAT16 else 2.0**-20
    return np.where(np.abs(numbers) < least, np.array(least, dtype), numbers)
