"""pwconv's operators in float64 numpy, and bounds on a device's error.

The functions take the arrays that a device is given; for float16 on the device, round them to
float16 first, since the device has no more. An :class:`Approximation` goes from operator to
operator: the exact value, and how far the device's may be from it.

The bounds follow the standard analysis of a dot product (N. J. Higham, *Accuracy and Stability of
Numerical Algorithms*, 2nd edition, section 3.1): K products summed in any order, with or without
fused multiply-adds, differ from the exact sum by at most γ·Σ|w·x| with γ = n·ε / (1 − n·ε) and n =
K + 1 roundings. ε is one unit in the last place and not half of one, because Vulkan leaves the
rounding direction of additions and multiplications open.

A bound is infinite where a sum or a result may pass the largest number of its type: on the device
it is infinite or NaN then. Else, where the exact result is infinite or NaN, which only an infinity
or NaN that goes in makes it, so is the device's, and the bound is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pwconv.activation import ActivationLike

Array = npt.NDArray[np.float64]

_EPS32 = 2.0**-23
_EPS16 = 2.0**-10
_MAX32 = (2 - 2.0**-23) * 2.0**127
_MAX16 = 65504.0
_TINY = 2.0**-126  # smaller numbers may be flushed to zero


@dataclass(frozen=True, eq=False)
class Approximation:
    """An array in float64, and a bound on how far a device's array is from it.

    Attributes
    ----------
    value, error : numpy.ndarray of float64
        Of one shape. Where the error is 0, the device has the value, be it infinite or NaN. Where
        the error is infinite, the device may have any number, or NaN.
    """

    value: Array
    error: Array

    @property
    def most(self) -> Array:
        """The largest magnitude of each element; an infinity or NaN counts as 0."""
        return _magnitude(self.value) + self.error

    def exactly(self) -> Approximation:
        """Return the value without error, for sums that the caller knows to be exact."""
        return exact(self.value)

    def moved(self, function: Callable[[Array], Array]) -> Approximation:
        """Apply a function that only moves elements, such as a slice."""
        return Approximation(function(self.value), function(self.error))

    @np.errstate(all="ignore")
    def plus(self, other: Approximation) -> Approximation:
        """Add in fp32."""
        x, y = self.value, other.value
        value, error = x + y, self.error + other.error
        known = error == 0
        if known.any():  # Not where float64 had to round the sum.
            known &= (value - x == y) & (value - y == x)
        return _rounded(self, other, value, error, known)

    @np.errstate(all="ignore")
    def times(self, other: Approximation) -> Approximation:
        """Multiply in fp32."""
        x, y = self, other
        value, size_x, size_y = x.value * y.value, _magnitude(x.value), _magnitude(y.value)
        error = size_x * y.error + x.error * size_y + x.error * y.error
        # Zero times an infinity is NaN; an infinity takes the sign of what it is multiplied by.
        unsure = np.isinf(x.error) | np.isinf(y.error)
        unsure |= np.isinf(x.value) & _sign_unsure(y) | np.isinf(y.value) & _sign_unsure(x)
        error = np.where(unsure, np.inf, error)
        return _rounded(x, y, value, error, error == 0)

    def minus(self, other: Approximation) -> Approximation:
        """Subtract in fp32."""
        return self.plus(Approximation(-other.value, other.error))

    @np.errstate(all="ignore")
    def divided_by(self, other: Approximation) -> Approximation:
        """Divide in fp32, within 2.5 ULP; without a bound by what is not from 2⁻¹²⁶ to 2¹²⁶."""
        x, y = self, other
        value, size = x.value / y.value, _magnitude(y.value)
        least = size - y.error
        error = (x.error + _magnitude(value) * y.error) / least
        error = error + 2.5 * _EPS32 * (_magnitude(value) + error)
        within = (least >= 2.0**-126) & (size + y.error <= 2.0**126) & ~np.isinf(y.value)
        error = np.where(within & np.isfinite(error), error, np.inf)
        for each in (x, y):
            error = np.where(np.isnan(each.value) & (each.error == 0), 0.0, error)
        return _bounded(value, _flushed(value, error))

    @np.errstate(all="ignore")
    def minimum(self, other: Approximation) -> Approximation:
        """Take the smaller, or NaN if one is."""
        value, error = np.minimum(self.value, other.value), np.maximum(self.error, other.error)
        for each in (self, other):
            error = np.where(np.isnan(each.value) & (each.error == 0), 0.0, error)
        return Approximation(value, _flushed(value, error))

    def maximum(self, other: Approximation) -> Approximation:
        """Take the larger, or NaN if one is."""
        negative = (Approximation(-each.value, each.error) for each in (self, other))
        found = next(negative).minimum(next(negative))
        return Approximation(-found.value, found.error)

    @np.errstate(all="ignore")
    def prelu(self, slope: Approximation) -> Approximation:
        """Multiply what is below 0 by a slope, in fp32."""
        product, x = self.times(slope), self
        value = np.where(x.value < 0, product.value, x.value)
        error = np.where(x.value < 0, product.error, x.error)
        either = np.where(np.isfinite(slope.value), x.error * (1 + slope.most), np.inf)
        unsure = _sign_unsure(x)
        return Approximation(value, _flushed(value, np.where(unsure, error + either, error)))

    @np.errstate(all="ignore")
    def activated(self, activation: ActivationLike | None) -> Approximation:
        """Apply an activation, named as in :class:`pwconv.PointwiseConv2d`, in fp32."""
        # Both what goes in and what comes out may be flushed to zero.
        error = _flushed(self.value, self.error)
        if activation is None:
            return Approximation(self.value, error)
        rule = _activation(activation)
        value = rule.function(self.value)
        if rule.within is None:
            error = rule.slope * error
        else:
            # Monotonic on each side of 0: what the ends of the interval give, or 0 inside it.
            low, high = self.value - error, self.value + error
            ends = rule.function(np.stack([low, high, np.clip(0.0, low, high)]))
            moved, sizes = np.abs(ends - value).max(0), _magnitude(ends).max(0)
            error = np.where(error > 0, moved, 0.0) + _EPS32 * rule.within(self.most, sizes)
            crossed = (low < rule.least) | ((low <= 0) & (high >= 0) & rule.broken_at_0)
            overflown = np.isinf(value) & np.isfinite(self.value) | np.isinf(self.error)
            error = np.where(crossed | overflown | np.isnan(error), np.inf, error)
            error = np.where(np.isnan(self.value) & (self.error == 0), 0.0, error)
        if rule.absolute:
            error += _EPS32 * rule.absolute
        if rule.relative:
            error += _EPS32 * rule.relative * self.most
        return _bounded(value, _flushed(value, error))

    @np.errstate(all="ignore")
    def stored(self, dtype: npt.DTypeLike) -> Approximation:
        """Round once to "float32" or "float16"; an exact number of that type stays exact."""
        if np.dtype(dtype) != np.float16:
            return _bounded(self.value, self.error)
        most = self.most
        rounding = np.maximum(2.0**-11 * most, 2.0**-25)
        known = self.error == 0
        if known.any():
            known &= self.value.astype(np.float16) == self.value
            rounding = np.where(known, 0.0, rounding)
        return _bounded(self.value, self.error + rounding, most, _MAX16)


def exact(array: npt.ArrayLike) -> Approximation:
    """Return an array that a device has as it is."""
    value = _float64(array)
    return Approximation(value, np.zeros_like(value))


def given(array: npt.NDArray[Any]) -> Approximation:
    """Return an array whose numbers that are subnormal in its dtype may be flushed to zero."""
    value = _float64(array)
    size = np.abs(value)
    return Approximation(value, np.where(size < np.finfo(array.dtype).tiny, size, 0.0))


@np.errstate(all="ignore")
def sums_of_products(
    x: Approximation,
    weight: npt.ArrayLike,
    multiply: Callable[[Array, Array], Array],
    products: int,
    accumulate: npt.DTypeLike = "float32",
    *,
    roundings: int | None = None,
) -> Approximation:
    """Sum products of exact weights in any order.

    A sum is exact where x are whole multiples of a power of two p, weights of another q, and
    Σ|w·x| ≤ 2²⁴·p·q, or 2¹¹·p·q in float16: partial sums are multiples of p·q, no larger, and all
    of those are numbers of the type.

    Parameters
    ----------
    x : Approximation
    weight : array_like
    multiply : callable
        Takes x and weight in float64 and returns the sums.
    products : int
        Products in a sum.
    accumulate : "float32" or "float16"
        Type of the sums.
    roundings : int, optional
        Most additions that a product goes through; ``products`` by default.
    """
    half = np.dtype(accumulate) == np.float16
    digits, tiny, largest = (11, 2.0**-14, _MAX16) if half else (24, _TINY, _MAX32)
    weights = _float64(weight)
    value = multiply(x.value, weights)
    n_eps = ((roundings or products) + 1) * 2.0 ** (1 - digits)
    if n_eps >= 1.0:
        return Approximation(value, np.full(value.shape, np.inf))
    lost = np.isinf(x.error)
    carried = np.where(lost, 0.0, x.error) if x.error.any() else None
    sizes, factors = _magnitude(x.value), _magnitude(weights)
    terms = multiply(sizes if carried is None else sizes + carried, factors)
    error = n_eps / (1.0 - n_eps) * terms
    # Each product that is no normal number may be flushed to zero, or else the sum with it.
    error += products * tiny
    most = terms + error
    if np.isnan(value).any():
        most = np.where(np.isnan(value), 0.0, most)
    if carried is None:
        limit = 0.0
        for part in (slice(64), slice(None)):  # 64 elements tell random numbers.
            unit = _unit(sizes.ravel()[part]) * _unit(factors.ravel()[part])
            limit = 2.0**digits * unit if unit >= tiny else 0.0
            if limit < terms.min(initial=np.inf):
                break
        whole = terms <= limit
        error = np.where(whole, 0.0, error) if whole.any() else error
        return _bounded(value, error, most, largest)
    # As in times(), which says why.
    unsure = multiply(lost * 1.0, np.ones_like(weights)) if lost.any() else np.zeros(())
    if not np.isfinite(weights).all():
        unsure = unsure + multiply(_sign_unsure(x) * 1.0, np.isinf(weights) * 1.0)
    most = np.where(unsure > 0, np.inf, most)
    return _bounded(value, error + multiply(carried, factors), most, largest)


def convolve(
    x: Approximation,
    weight: npt.ArrayLike,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    accumulate: npt.DTypeLike = "float32",
) -> Approximation:
    """Convolve as :func:`conv2d` does, without bias and activation.

    ``padding`` may be four numbers, at the top, left, bottom and right.
    """
    kernel = _float64(weight)

    def multiply(array: Array, by: Array) -> Array:
        return _convolved(array, by, stride, padding, groups, dilation)

    return sums_of_products(x, kernel, multiply, math.prod(kernel.shape[1:]), accumulate)


def convolve_transposed(
    x: Approximation,
    weight: npt.ArrayLike,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Approximation:
    """Convolve transposed, as torch.nn.ConvTranspose2d, without bias.

    Parameters
    ----------
    x : Approximation
    weight : array_like
        [C_out, C_in / groups, KH, KW].
    stride, output_padding, dilation : (int, int)
    padding : (int, int, int, int)
        What is left away at the top, left, bottom and right; below 0 zeros are added.
    groups : int
    """
    kernel = _float64(weight)

    def multiply(array: Array, by: Array) -> Array:
        # Tap by tap: zeros between the elements of x would be NaN times infinite weights.
        *batch, _, h, w = array.shape
        c_out, each, *taps = by.shape
        x_rows = array.reshape(*batch, groups, each, h * w)
        by_tap = by.reshape(groups, c_out // groups, each, *taps)
        spans = [(n - 1) * s + 1 for n, s in zip((h, w), stride, strict=True)]
        sizes = [n + d * (k - 1) for n, d, k in zip(spans, dilation, taps, strict=True)]
        y = np.zeros((*batch, c_out, *sizes))
        for tap in np.ndindex(*taps):
            rows, columns = (
                slice(d * i, d * i + n, s)
                for d, i, n, s in zip(dilation, tap, spans, stride, strict=True)
            )
            products = by_tap[(..., *tap)] @ x_rows
            y[..., rows, columns] += products.reshape(*batch, c_out, h, w)
        top, left = padding[:2]
        bottom, right = (b - more for b, more in zip(padding[2:], output_padding, strict=True))
        y = _padded(y, [max(-n, 0) for n in (top, left, bottom, right)])
        *_, h, w = y.shape
        return y[..., max(top, 0) : h - max(bottom, 0), max(left, 0) : w - max(right, 0)]

    return sums_of_products(x, kernel, multiply, math.prod(kernel.shape[1:]))


def window_means(
    x: Approximation,
    positions: Sequence[npt.NDArray[np.int64]],
    counts: npt.NDArray[np.int64],
) -> Approximation:
    """Return means under windows.

    Parameters
    ----------
    x : Approximation
    positions : sequence of numpy.ndarray
        Along H and along W: of each window [outputs, taps], its taps; those outside count as 0.
    counts : numpy.ndarray
        What each sum is divided by, at least 1.
    """

    def add(array: Array, _: Array) -> Array:
        for axis, at in zip((-2, -1), positions, strict=True):
            lines = array.swapaxes(axis, -1)
            inside = (at >= 0) & (at < lines.shape[-1])
            sums = np.where(inside, lines.take(at, -1, mode="clip"), 0.0).sum(-1)
            array = sums.swapaxes(axis, -1)
        return array

    sums = sums_of_products(x, 1.0, add, math.prod(at.shape[1] for at in positions))
    with np.errstate(all="ignore"):
        value, error = sums.value / counts, sums.error / counts
        error += 2.5 * _EPS32 * (_magnitude(value) + error)  # a division
        return _bounded(value, _flushed(value, error))


def linear_rows(
    x: Approximation, weight: npt.ArrayLike, accumulate: npt.DTypeLike = "float32"
) -> Approximation:
    """Multiply rows by a weight as :func:`linear` does, without bias and activation."""
    matrix = _float64(weight)
    return sums_of_products(x, matrix, _rows_times, matrix.shape[-1], accumulate)


@np.errstate(all="ignore")
def mean(x: Approximation) -> Approximation:
    """Return means over the last two axes, kept with length 1, as global_avg_pool has them."""
    positions = math.prod(x.value.shape[-2:])
    # strided_sum.glslh and workgroup_sum.glslh: up to 32 a trip, 64 trips, the sums of those, 7
    # halvings of 128 invocations', and 4 lanes'.
    roundings = min(positions, 32 + 64 + math.ceil(positions / (128 * 64)) + 7 + 4)

    def add(array: Array, _: Array) -> Array:
        total: Array = array.sum((-2, -1), keepdims=True)
        return total

    sums = sums_of_products(x, 1.0, add, positions, roundings=roundings)
    return _divided(sums, positions)


@np.errstate(all="ignore")
def reduce(x: Approximation, function: str, axes: tuple[int, ...]) -> Approximation:
    """Return "sum", "mean", "max", "min" or "l2" over axes, kept with length 1, in fp32."""

    def add(array: Array, _: Array) -> Array:
        total: Array = array.sum(axes, keepdims=True)
        return total

    if function in ("max", "min"):
        extreme = x.value.max if function == "max" else x.value.min
        return Approximation(extreme(axes, keepdims=True), x.error.max(axes, keepdims=True))
    count = math.prod(x.value.shape[axis] for axis in axes)
    sums = sums_of_products(x.times(x) if function == "l2" else x, 1.0, add, count)
    if function == "sum":
        return sums
    if function == "mean":
        return _divided(sums, count)
    # What a device's sum may be, and the root: 1/inversesqrt is within 2.5 + 2.
    value, highest = np.sqrt(sums.value), np.sqrt(sums.most)
    error = np.maximum(highest - value, value - np.sqrt(np.fmax(sums.value - sums.error, 0.0)))
    error = np.where(np.isfinite(value), error + 5 * _EPS32 * highest, 0.0)
    return Approximation(value, np.where(np.isinf(sums.error), np.inf, _flushed(value, error)))


def _divided(sums: Approximation, count: int) -> Approximation:
    """Divide by a count in fp32."""
    value, error = sums.value / count, sums.error / count
    error += 2.5 * _EPS32 * (_magnitude(value) + error)
    return _bounded(value, _flushed(value, error))


@np.errstate(all="ignore")
def softmax(x: Approximation, axis: int) -> Approximation:
    """Return ``exp(x − m) / Σ exp(x − m)`` along an axis, m the largest, in fp32."""
    depth = x.value - x.value.max(axis, keepdims=True)
    terms = np.exp(depth)
    total = terms.sum(axis, keepdims=True)
    value = terms / total
    apart = 2 * x.error.max(axis, keepdims=True)
    # In ε: x − m is rounded, |x − m|, and exp is within 3 + 2·|x − m|; each term goes through less
    # additions than there are; the division is within 2.5.
    own = np.where(terms > 0, 3 + 3 * (np.abs(depth) + apart), 0.0)
    of_total = x.value.shape[axis] + (own * terms).sum(axis, keepdims=True) / total
    relative = _EPS32 * (own + of_total + 2.5)
    relative = relative / (1 - relative)
    # Inputs that are apart by δ change a quotient by a factor of exp(δ) at most. Neither the exact
    # quotient nor the device's is much above 1.
    error = value * (relative + np.expm1(apart) * (1 + relative))
    error = np.fmin(_flushed(value, error) + _TINY, 2.0)
    error = np.where(np.isnan(value), 0.0, error)
    return Approximation(value, np.where(np.isinf(apart), np.inf, error))


@dataclass(frozen=True, eq=False)
class Taps:
    """Two positions along an axis for each of the output, and the weight of the second.

    ``(1 − weight)·x[first] + weight·x[second]``; the second is not read where its weight is 0.
    Weights are multiples of 2⁻²⁴, so that both are numbers of float32, at most 2⁻²⁵ from exact.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    weight: Array


@np.errstate(all="ignore")
def between(x: Approximation, taps: Taps, axis: int) -> Approximation:
    """Interpolate along an axis, H or W, in fp32."""
    weight = taps.weight if axis == -1 else taps.weight[:, None]
    alone = weight == 0

    def mix(array: Array) -> Array:
        first, second = (array.take(at, axis) for at in (taps.first, taps.second))
        return np.where(alone, first, (1 - weight) * first + weight * second)

    value, carried = mix(x.value), mix(x.error)
    most = x.most
    most = np.maximum(most.take(taps.first, axis), most.take(taps.second, axis))
    # Of numbers no larger than most, in ε: the weights' difference from exact ones 0.25 for either,
    # their products 1 together, the sum 1. The other half is more than products of these errors,
    # and each of the three may be flushed to zero.
    error = _flushed(value, carried + 3 * _EPS32 * most) + 3 * _TINY
    return Approximation(value, np.where(alone, carried, _bounded(value, error).error))


def concatenate(values: Sequence[Approximation], axis: int) -> Approximation:
    """Join along an axis."""
    arrays = [each.value for each in values], [each.error for each in values]
    return Approximation(*(np.concatenate(each, axis) for each in arrays))


@dataclass(frozen=True)
class _Activation:
    """An activation, its steepest slope, and the error of evaluating it in fp32.

    The error is ``absolute + relative·|input|``, in ε; derived beside each from the precision that
    Vulkan demands: exp within (3 + 2·|x|)·ε, division 2.5·ε, other operations ε. Of a function
    that is steep somewhere it is ``within(|input|, |output|)``, in ε, and the slope is taken from
    what the input may be; it has no bound below ``least``, nor, if it is broken there, about 0.
    """

    function: Callable[[Array], Array]
    slope: float = 1.0
    absolute: float = 0.0
    relative: float = 0.0
    within: Callable[[Array, Array], Array] | None = None
    least: float = -math.inf
    broken_at_0: bool = False


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def _erf(x: Array) -> Array:
    arguments = x.ravel().tolist()
    return np.fromiter(map(math.erf, arguments), np.float64, len(arguments)).reshape(x.shape)


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + _erf(x / math.sqrt(2)))


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


_ACTIVATIONS = {
    "relu": _Activation(lambda x: np.where(x < 0, 0.0, x)),
    "relu6": _Activation(lambda x: np.where(x < 0, 0.0, np.where(x > 6, 6.0, x))),
    # x·(clamp(x + 3)/6): 1 + 2.5 + 1 roundings on a factor of at most 1.
    "hardswish": _Activation(lambda x: x * np.clip(x + 3, 0, 6) / 6, slope=1.5, relative=5),
    # e/(1 + e) moves by e/(1 + e)² ≤ 1.1/(3 + 2·|x|) per unit of e's error, then 1 + 2.5 roundings.
    "sigmoid": _Activation(_sigmoid, slope=0.25, absolute=5),
    "silu": _Activation(lambda x: x * _sigmoid(x), slope=1.1, relative=6),
    # |x| ≥ 0.5: 2e/(1 + e)² times exp's (3 + 4·|x|) and the doubling's 2·|x| is below 3.2; 1 − e,
    # 1 + e and the division add at most 4.5. Below 0.5 the fraction is within 9·ε·|x|.
    "tanh": _Activation(np.tanh, absolute=8),
    # erfc within 24 (activation.glslh: 1.3 from the formula; t's 3.5 by its steepest slope, 3.44;
    # four steps of Horner, of at most 1.03, by two roundings each; exp's 3 and two products), half
    # of it; 2 − erfc and two products.
    "gelu": _Activation(_gelu, slope=1.13, relative=15),
    # tanh within 8, and 0.45·5 from its argument's 5 roundings; half of it; and as gelu.
    "gelu_tanh": _Activation(_gelu_tanh, slope=1.13, relative=8),
    # Where x is negative exp(x)'s error, (3 + 2·|x|)·ε of it, grows to 4/3 of that in the numerator
    # and no more in the quotient, whose own are at most 6: (10 + 2.7·|x|)·ε of a factor below
    # min(0.6, exp(x)), whose product with |x| is below 0.31. Where it is positive numerator and
    # denominator move by at most 2.3 and 3.7 and have 4 roundings; a division and the product.
    "mish": _Activation(lambda x: x * np.tanh(np.logaddexp(0, x)), slope=1.1, relative=14),
    # t is within 3 + 2·|x| of exp, a sum and a division, artanh 1.1 times that and 2.3 of its own;
    # then a sum. Of log(1 + e), which is at most 0.7, that is never more than 8.
    "softplus": _Activation(
        lambda x: np.logaddexp(0, x), within=lambda x, y: np.minimum((11 + 2.2 * x) * y, y + 8)
    ),
    # As gelu's erfc, within 24, and the difference; below 0.5, where y is below 0.53, three
    # roundings of y.
    "erf": _Activation(lambda x: _erf(x), within=lambda x, y: np.minimum(26, 52 * y)),
    "exp": _Activation(np.exp, within=lambda x, y: (3 + 2 * x) * y),
    # Within 3 ULP, and between 0.5 and 2 within 2⁻²¹.
    "log": _Activation(np.log, within=lambda x, y: 4 + 3 * y, least=_TINY),
    # 1/inversesqrt: 2 ULP and a division.
    "sqrt": _Activation(np.sqrt, within=lambda x, y: 5 * y, least=0.0),
    "abs": _Activation(np.abs),
    "neg": _Activation(lambda x: -x),
    # Vulkan bounds divisions by at most 2¹²⁶.
    "reciprocal": _Activation(
        lambda x: 1 / x,
        within=lambda x, y: np.where(x <= 2.0**126, 2.5 * y, np.inf),
        broken_at_0=True,
    ),
}


@np.errstate(all="ignore")
def activate(x: npt.ArrayLike, activation: ActivationLike | None) -> Array:
    """Apply an activation, named as in :class:`pwconv.PointwiseConv2d`.

    Returns
    -------
    numpy.ndarray of float64
    """
    return _activation(activation).function(_float64(x))


def activate_bound(
    x: npt.ArrayLike, activation: ActivationLike | None, *, dtype: npt.DTypeLike = "float32"
) -> Array:
    """Return how far each element of a device's result may be from :func:`activate`.

    Parameters
    ----------
    x : array_like
        Rounded to ``dtype`` already.
    activation : str or tuple
    dtype : "float32" or "float16"
        Type of the stored result.

    Returns
    -------
    numpy.ndarray of float64
        Of x's shape; infinite where the result may overflow.
    """
    return exact(x).activated(activation).stored(dtype).error


def conv2d_pw(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    activation: ActivationLike | None = None,
) -> Array:
    """Apply a pointwise convolution.

    Parameters
    ----------
    x : array_like
        [N, C_in, H, W] or [C_in, H, W].
    weight : array_like
        [C_out, C_in] or [C_out, C_in, 1, 1].
    bias : array_like, optional
        [C_out].
    stride, padding : int or (int, int)
    activation : str or tuple, optional

    Returns
    -------
    numpy.ndarray of float64
        [N, C_out, H_out, W_out], or without N.
    """
    settings: Any = {"stride": stride, "padding": padding, "activation": activation}
    return conv2d(x, _pointwise(weight), bias, **settings)


def conv2d_pw_bound(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    activation: ActivationLike | None = None,
    dtype: npt.DTypeLike = "float32",
    accumulate: npt.DTypeLike = "float32",
) -> Array:
    """Return how far each element of a device's result may be from :func:`conv2d_pw`.

    Parameters
    ----------
    x, weight, bias, stride, padding, activation
        As for :func:`conv2d_pw`, rounded to ``dtype`` already.
    dtype : "float32" or "float16"
        Type of the stored result.
    accumulate : "float32" or "float16"
        Type in which products are summed.

    Returns
    -------
    numpy.ndarray of float64
        Of the result's shape; infinite where a sum or the result may overflow.
    """
    kernel = _pointwise(weight)
    y = convolve(exact(x), kernel, stride=stride, padding=padding, accumulate=accumulate)
    return _finished(y, bias, (..., None, None), activation, dtype)


@np.errstate(all="ignore")
def linear(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    activation: ActivationLike | None = None,
) -> Array:
    """Apply a linear layer.

    Parameters
    ----------
    x : array_like
        [..., K].
    weight : array_like
        [N, K], or [B, N, K] for x of [B, ..., K].
    bias : array_like, optional
        [N].
    activation : str or tuple, optional

    Returns
    -------
    numpy.ndarray of float64
        [..., N].
    """
    y = _rows_times(_float64(x), _float64(weight))
    if bias is not None:
        y += _float64(bias)
    return activate(y, activation)


def linear_bound(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    activation: ActivationLike | None = None,
    dtype: npt.DTypeLike = "float32",
    accumulate: npt.DTypeLike = "float32",
) -> Array:
    """Return how far each element of a device's result may be from :func:`linear`.

    Parameters
    ----------
    x, weight, bias, activation
        As for :func:`linear`, rounded to ``dtype`` already.
    dtype : "float32" or "float16"
        Type of the stored result.
    accumulate : "float32" or "float16"
        Type in which products are summed.

    Returns
    -------
    numpy.ndarray of float64
        Of the result's shape; infinite where a sum or the result may overflow.
    """
    return _finished(linear_rows(exact(x), weight, accumulate), bias, ..., activation, dtype)


@np.errstate(all="ignore")
def conv2d(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    activation: ActivationLike | None = None,
) -> Array:
    """Apply a convolution with a kernel of any size.

    Parameters
    ----------
    x : array_like
        [N, C_in, H, W] or [C_in, H, W].
    weight : array_like
        [C_out, C_in / groups, KH, KW].
    bias : array_like, optional
        [C_out].
    stride, padding : int or (int, int)
    groups : int
        C_in of a depthwise convolution.
    activation : str or tuple, optional

    Returns
    -------
    numpy.ndarray of float64
        [N, C_out, H_out, W_out], or without N.
    """
    y = _convolved(_float64(x), _float64(weight), stride, padding, groups)
    if bias is not None:
        y += _float64(bias)[:, None, None]
    return activate(y, activation)


def conv2d_bound(
    x: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    activation: ActivationLike | None = None,
    dtype: npt.DTypeLike = "float32",
) -> Array:
    """Return how far each element of a device's result may be from :func:`conv2d`.

    Parameters
    ----------
    x, weight, bias, stride, padding, groups, activation
        As for :func:`conv2d`, rounded to ``dtype`` already.
    dtype : "float32" or "float16"
        Type of the stored result; products are summed in float32.

    Returns
    -------
    numpy.ndarray of float64
        Of the result's shape; infinite where a sum or the result may overflow.
    """
    y = convolve(exact(x), weight, stride=stride, padding=padding, groups=groups)
    return _finished(y, bias, (..., None, None), activation, dtype)


def pack_linear_weight(
    weight: npt.ArrayLike, *, transposed: bool = True, dtype: npt.DTypeLike | None = None
) -> npt.NDArray[Any]:
    """Pack a weight into 4OC×4IC blocks.

    Parameters
    ----------
    weight : array_like
        [N, K] or [B, N, K] where ``transposed``, else [K, N] or [B, K, N].
    transposed : bool
    dtype : "float32" or "float16", optional
        The weight's by default.

    Returns
    -------
    numpy.ndarray
        [B, K4, N4, 4, 4]: element [b, k4, n4, dk, j] is weight[b, 4·n4 + j, 4·k4 + dk], or zero
        past N and K.
    """
    array = np.asarray(_unmasked(weight))
    with np.errstate(all="ignore"):
        array = array.astype(array.dtype if dtype is None else dtype)
    batched = array if array.ndim == 3 else array[None]
    b, n, k = (batched if transposed else batched.swapaxes(1, 2)).shape
    padded = np.zeros((b, -(-n // 4) * 4, -(-k // 4) * 4), array.dtype)
    padded[:, :n, :k] = batched if transposed else batched.swapaxes(1, 2)
    blocks = padded.reshape(b, padded.shape[1] // 4, 4, padded.shape[2] // 4, 4)
    return np.ascontiguousarray(blocks.transpose(0, 3, 1, 4, 2))


def _finished(
    y: Approximation, bias: npt.ArrayLike | None, axes: Any, activation: Any, dtype: Any
) -> Array:
    """Return the bound after bias, activation and rounding, for sums of exact numbers."""
    if bias is not None:
        y = y.plus(exact(_float64(bias)[axes]))
    y = y.activated(activation).stored(dtype)
    # Where they overflow beside an infinity, the device's sum is that or NaN, and NaN from here on.
    return np.where(np.isnan(y.value), 0.0, y.error)


def _activation(activation: ActivationLike | None) -> _Activation:
    if activation is None:
        return _Activation(lambda x: x)
    if isinstance(activation, str):
        return _ACTIVATIONS[activation]
    name, *parameters = activation
    if name == "clamp":
        low, high = map(_float32, parameters)
        return _Activation(lambda x: np.where(x < low, low, np.where(x > high, high, x)))
    if name == "leaky_relu":
        (slope,) = parameters
        # The product, the slope's own rounding, and a tiny slope that is flushed to zero.
        relative = 1.5 * abs(slope) + _TINY / _EPS32
        return _Activation(
            lambda x: np.where(x < 0, slope * x, x),
            slope=max(1.0, abs(slope)),
            relative=relative,
        )
    if name == "elu":
        (alpha,) = map(_float32, parameters)
        # Down to −1 numerator and denominator are within 2.1 and 3.1, and a division; below, exp is
        # within 5·exp(−1) of more than 0.63, and a difference; then the product.
        return _Activation(
            lambda x: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x),
            within=lambda x, y: 9 * y,
        )
    if name == "hardsigmoid":
        alpha, beta = map(_float32, parameters)
        # What is not cut off is at most 1, and the product at most that and beta.
        return _Activation(
            lambda x: np.clip(alpha * x + beta, 0, 1),
            slope=abs(alpha),
            absolute=2 * (2 + abs(beta)),
        )
    if name == "affine":
        a, b = map(_float32, parameters)
        # The product and the sum, of which a and the product may be flushed to zero.
        tiny = _TINY / _EPS32
        return _Activation(
            lambda x: a * x + b,
            slope=abs(a),
            absolute=abs(b) + 2 * tiny,
            relative=2 * abs(a) + tiny,
        )
    if name == "pow":
        (exponent,) = map(_float32, parameters)
        return _power(exponent)
    raise ValueError(f"activation is {activation!r}")


def _power(exponent: float) -> _Activation:
    """Return x to an exponent, as activation.glslh has it."""

    def function(x: Array) -> Array:
        power: Array = np.power(x, exponent)
        return power

    if exponent == -1:
        return _ACTIVATIONS["reciprocal"]
    if exponent in (2, 3):  # a rounding less than factors
        return _Activation(function, within=lambda x, y: (exponent - 1) * y)
    if abs(exponent) == 0.5:
        least = 0.0 if exponent > 0 else _TINY
        return _Activation(function, within=lambda x, y: 5 * y, least=least)

    def within(x: Array, y: Array) -> Array:
        # log within 3 ULP or 4·ε, times the exponent; exp of the product.
        size: Array = np.abs(np.log(np.maximum(y, _TINY)))
        error: Array = y * (4 * abs(exponent) + 4 * size + 3 + 2 * size)
        return error

    if float(exponent).is_integer():
        return _Activation(function, within=within, broken_at_0=exponent < 0)
    return _Activation(function, within=within, least=0.0 if exponent > 0 else _TINY)


def _float64(value: npt.ArrayLike) -> Array:
    return np.asarray(_unmasked(value), np.float64)


def _unmasked(value: npt.ArrayLike) -> npt.ArrayLike:
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("an array is masked; pass array.filled(value), or its .data")
    return value


def _float32(value: Any) -> float:
    """Return a limit as the device has it."""
    return float(np.float32(value))


def _magnitude(x: Array) -> Array:
    """Return |x|, and 0 where it is infinite or NaN."""
    finite = np.isfinite(x)
    return np.abs(x) if finite.all() else np.where(finite, np.abs(x), 0.0)


def _rounded(
    x: Approximation, y: Approximation, value: Array, error: Array, known: Any
) -> Approximation:
    """Return the result of x and y in fp32, rounded where it is not known to be exact."""
    rounding = _magnitude(value)
    rounding += error
    rounding *= _EPS32
    if known.any():
        rounding = np.where(known & (value.astype(np.float32) == value), 0.0, rounding)
    error = _flushed(value, error + rounding)
    if np.isnan(value).any():  # An exact NaN makes NaN of whatever it meets.
        for each in (x, y):
            error = np.where(np.isnan(each.value) & (each.error == 0), 0.0, error)
    return _bounded(value, error)


def _bounded(
    value: Array, error: Array, most: Any = None, largest: float = _MAX32
) -> Approximation:
    """Return a value with an infinite error where ``most``, or |value| + error, may overflow."""
    if _top(value) + _top(error if most is None else most) <= largest:
        return Approximation(value, error)
    finite = np.isfinite(value)
    if most is None:
        most = _magnitude(value) + error
    error = np.where(finite, error, 0.0)
    return Approximation(value, np.where(most > largest, np.inf, error))


def _top(x: Array) -> float:
    """Return the largest magnitude, or NaN if there is one."""
    return max(float(x.max(initial=0.0)), -float(x.min(initial=0.0)))


def _sign_unsure(x: Approximation) -> Any:
    """Return where a device's number may be zero or of the other sign."""
    return (x.error > 0) & (x.error >= np.abs(x.value))


def _flushed(value: Array, error: Array) -> Array:
    """Return the error of a result, which may be flushed to zero where it is no normal number."""
    if error.min(initial=1.0) > 2.0**54 * _TINY:
        return error  # Float64 would round the sum to it.
    size = np.abs(value)
    return error + _TINY * ((size < error + _TINY) & (size + error > 0))


def _unit(sizes: Array) -> float:
    """Return the largest power of two that numbers are whole multiples of, up to 2²⁵ times it.

    0 if there is none, infinity if all are zeros.
    """
    unit = 2.0 ** (math.frexp(sizes.max(initial=0.0))[1] - 25)
    multiples = sizes / unit
    whole = multiples.astype(np.int64)
    if (whole != multiples).any():
        return 0.0
    bits = int(np.bitwise_or.reduce(whole))
    return unit * (bits & -bits) if bits else math.inf


def _pair(value: Any) -> tuple[int, ...]:
    return (value, value) if np.ndim(value) == 0 else tuple(value)


def _padded(x: Array, padding: Any) -> Array:
    top, left, *end = _pair(padding)
    bottom, right = end or (top, left)
    if not (top or left or bottom or right):
        return x
    padded: Array = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(top, bottom), (left, right)])
    return padded


def _convolved(
    x: Array, kernel: Array, stride: Any, padding: Any, groups: int, dilation: Any = 1
) -> Array:
    (stride_h, stride_w), (dilation_h, dilation_w) = _pair(stride), _pair(dilation)
    if groups == 1 and kernel.shape[2:] == (1, 1):
        texels = _padded(x, padding)[..., ::stride_h, ::stride_w]
        rows = texels.reshape(*texels.shape[:-2], math.prod(texels.shape[-2:]))
        return (kernel[:, :, 0, 0] @ rows).reshape(*x.shape[:-3], len(kernel), *texels.shape[-2:])
    reach = dilation_h * (kernel.shape[2] - 1) + 1, dilation_w * (kernel.shape[3] - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(_padded(x, padding), reach, axis=(-2, -1))
    windows = windows[..., ::stride_h, ::stride_w, ::dilation_h, ::dilation_w]
    each = x.shape[-3] // groups
    windows = windows.reshape(*x.shape[:-3], groups, each, *windows.shape[-4:])
    out_channels = len(kernel)
    kernel = kernel.reshape(groups, -1, *kernel.shape[1:])
    y: Array = np.einsum("...gchwij,gocij->...gohw", windows, kernel, optimize=True)
    return y.reshape(*x.shape[:-3], out_channels, *y.shape[-2:])


def _pointwise(weight: npt.ArrayLike) -> Array:
    array = _float64(weight)
    return array.reshape(*array.shape[:2], 1, 1)


def _rows_times(x: Array, weight: Array) -> Array:
    if weight.ndim == 2:
        return x @ weight.T
    rows = x.reshape(len(weight), -1, x.shape[-1])
    return (rows @ weight.swapaxes(1, 2)).reshape(*x.shape[:-1], weight.shape[1])
