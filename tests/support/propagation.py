"""Values in float64 with how far a device may be from them, carried from node to node.

Each function takes what is known of a node's inputs and gives what is known of its output: the
value of the exact computation on exact inputs, and a bound on the device's error, which is the
error that comes in, magnified as the operation does at most, and that of the operation itself, as
:mod:`pwconv.reference` derives it. Nothing is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pwconv import reference
from support.inside import EPS32, MAX16, TINY, activation_rule, gamma


@dataclass(frozen=True)
class Approximation:
    """What a device's array is about: ``value``, within ``error`` of it."""

    value: np.ndarray
    error: np.ndarray

    @property
    def most(self) -> np.ndarray:
        """The largest magnitude that an element may have."""
        return np.abs(self.value) + self.error

    def plus(self, value: Any, error: Any = 0.0) -> Approximation:
        """Add something in fp32."""
        total = self.value + value
        error = self.error + error
        return Approximation(total, error + EPS32 * (np.abs(total) + error))

    def activated(self, activation: Any) -> Approximation:
        rule = activation_rule(activation)
        return Approximation(rule.function(self.value), rule.error(self.value, self.error))

    def stored(self, dtype: Any) -> Approximation:
        """Round once to what it is stored as."""
        if np.dtype(dtype) != np.float16:
            return self
        error = self.error + np.maximum(2.0**-11 * self.most, 2.0**-25)
        overflow = np.abs(self.value) + error > MAX16
        return Approximation(self.value, np.where(overflow, np.inf, error))


def exact(array: np.ndarray) -> Approximation:
    value = array.astype(np.float64)
    return Approximation(value, np.zeros_like(value))


def activation(x: Approximation, name: Any, *, dtype: Any) -> Approximation:
    return x.activated(name).stored(dtype)


def add(x: Approximation, y: Approximation, name: Any, *, dtype: Any) -> Approximation:
    return x.plus(y.value, y.error).activated(name).stored(dtype)


def mul(x: Approximation, y: Approximation, name: Any, *, dtype: Any) -> Approximation:
    value = x.value * y.value
    error = np.abs(x.value) * y.error + x.error * np.abs(y.value) + x.error * y.error
    error += EPS32 * (np.abs(value) + error) + TINY
    return Approximation(value, error).activated(name).stored(dtype)


def concat(values: list[Approximation]) -> Approximation:
    arrays = [v.value for v in values], [v.error for v in values]
    return Approximation(*(np.concatenate(a, axis=-3) for a in arrays))


def take(x: Approximation, start: int, stop: int) -> Approximation:
    return Approximation(*(a[..., start:stop, :, :] for a in (x.value, x.error)))


def global_avg_pool(x: Approximation, *, dtype: Any) -> Approximation:
    """A sum in parts, as strided_sum.glslh and workgroup_sum.glslh say; a division within 2.5 ε."""
    positions = x.value.shape[-2] * x.value.shape[-1]
    # Up to 32 a trip, 64 trips, the sums of those, 7 halvings of 128 invocations', and 4 lanes'.
    roundings = min(positions, 32 + 64 + math.ceil(positions / (128 * 64)) + 7 + 4)

    def mean(array: np.ndarray) -> np.ndarray:
        return array.mean((-2, -1), keepdims=True)

    error = gamma(roundings + 1, EPS32) * mean(x.most) + mean(x.error)
    value = mean(x.value)
    error += 2.5 * EPS32 * (np.abs(value) + error) + TINY
    return Approximation(value, error).stored(dtype)


def upsample(x: Approximation, scale: int) -> Approximation:
    return Approximation(
        *(a.repeat(scale, axis=-2).repeat(scale, axis=-1) for a in (x.value, x.error))
    )


def conv2d(
    x: Approximation,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    dtype: Any,
    activation: Any = None,
    residual: Approximation | None = None,
    **geometry: Any,
) -> Approximation:
    """A convolution with any kernel and groups, and its whole epilogue."""

    def convolve(array: np.ndarray, by: np.ndarray) -> np.ndarray:
        return reference.conv2d(array, by, **geometry)

    y = _sums_of_products(x, weight, convolve, int(np.prod(weight.shape[1:])))
    if bias is not None:
        y = y.plus(bias.astype(np.float64)[:, None, None])
    if residual is not None:
        y = y.plus(residual.value, residual.error)
    return y.activated(activation).stored(dtype)


def linear(
    x: Approximation,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    dtype: Any,
    activation: Any = None,
) -> Approximation:
    """A linear layer over the last axis, batched or not, and its whole epilogue."""
    y = _sums_of_products(x, weight, reference.linear, weight.shape[-1])
    if bias is not None:
        y = y.plus(bias.astype(np.float64))
    return y.activated(activation).stored(dtype)


def _sums_of_products(
    x: Approximation,
    weight: np.ndarray,
    multiply: Callable[[np.ndarray, np.ndarray], np.ndarray],
    products: int,
) -> Approximation:
    """Sums in fp32, in any order, of so many products each."""
    magnitude = np.abs(weight.astype(np.float64))
    own = gamma(products + 1, EPS32) * multiply(x.most, magnitude)
    error = own + multiply(x.error, magnitude) + products * TINY
    return Approximation(multiply(x.value, weight), error)
