"""pwconv's operators in float64 numpy, and bounds on a device's error.

The functions take the arrays that a device is given; for float16 on the device, round them to
float16 first, since the device has no more.

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


@dataclass(frozen=True)
class _Activation:
    """An activation, its steepest slope, and the error of evaluating it in fp32.

    The error is ``absolute + relative·|input|``, in ε; derived beside each from the precision that
    Vulkan demands: exp within (3 + 2·|x|)·ε, division 2.5·ε, other operations ε.
    """

    function: Callable[[Array], Array]
    slope: float = 1.0
    absolute: float = 0.0
    relative: float = 0.0

    def error(self, x: Array, error: Array) -> Array:
        """Return how far a device's result may be, for an x that is within an error."""
        own = _EPS32 * (self.absolute + self.relative * (_magnitude(x) + error))
        # Both what goes in and what comes out may be flushed to zero.
        return self.slope * (error + _TINY) + own + _TINY


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def _gelu(x: Array) -> Array:
    arguments = (x / math.sqrt(2)).ravel().tolist()
    erf = np.fromiter(map(math.erf, arguments), np.float64, len(arguments))
    return 0.5 * x * (1.0 + erf.reshape(x.shape))


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
}


@np.errstate(all="ignore")
def activate(x: npt.ArrayLike, activation: ActivationLike | None) -> Array:
    """Apply an activation, named as in :class:`pwconv.PointwiseConv2d`.

    Returns
    -------
    numpy.ndarray of float64
    """
    return _activation(activation).function(_float64(x))


@np.errstate(all="ignore")
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
    array = _float64(x)
    return _finished(array, np.zeros_like(array), np.False_, activation, dtype)


@np.errstate(all="ignore")
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
    y = _products(_gather(x, stride, padding), _matrix(weight))
    if bias is not None:
        y += _float64(bias)[:, None, None]
    return activate(y, activation)


@np.errstate(all="ignore")
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
    patches, matrix = _gather(x, stride, padding), _matrix(weight)
    y = _products(patches, matrix)
    terms = _products(_magnitude(patches), _magnitude(matrix))
    added = None if bias is None else _float64(bias)[:, None, None]
    return _bound(y, terms, matrix.shape[1], added, activation, dtype, accumulate)


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


@np.errstate(all="ignore")
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
    rows, matrix = _float64(x), _float64(weight)
    y = _rows_times(rows, matrix)
    terms = _rows_times(_magnitude(rows), _magnitude(matrix))
    added = None if bias is None else _float64(bias)
    return _bound(y, terms, matrix.shape[-1], added, activation, dtype, accumulate)


def _bound(
    y: Array,
    terms: Array,
    k: int,
    bias: Array | None,
    activation: Any,
    dtype: Any,
    accumulate: Any,
) -> Array:
    """Return the bound for sums y of k products, whose finite magnitudes add up to terms."""
    half_sums = np.dtype(accumulate) == np.float16
    gamma = _gamma(k + 1, _EPS16 if half_sums else _EPS32)
    if math.isinf(gamma):
        return np.full(y.shape, np.inf)
    # Products too small to be normal numbers may be flushed to zero.
    error = gamma * terms + k * (2.0**-14 if half_sums else _TINY)
    overflow = terms + error > (_MAX16 if half_sums else _MAX32)
    if bias is not None:
        y = y + bias
        error += _EPS32 * (_magnitude(y) + error)
        overflow |= _magnitude(y) + error > _MAX32
    return _finished(y, error, overflow, activation, dtype)


def _finished(y: Array, error: Array, overflow: Any, activation: Any, dtype: Any) -> Array:
    """Return the bound after activation and rounding, for a sum within an error."""
    rule = _activation(activation)
    error, y = rule.error(y, error), rule.function(y)
    half = np.dtype(dtype) == np.float16
    most = np.abs(y) + error
    if half:
        error += np.maximum(2.0**-11 * most, 2.0**-25)
    error = np.where(np.isfinite(y), error, 0.0)
    overflow = overflow & ~np.isnan(y) | np.isfinite(y) & (most > (_MAX16 if half else _MAX32))
    return np.where(overflow, np.inf, error)


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


@np.errstate(all="ignore")
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
    array, kernel = _float64(x), _float64(weight)
    y = _convolved(array, kernel, stride, padding, groups)
    terms = _convolved(_magnitude(array), _magnitude(kernel), stride, padding, groups)
    added = None if bias is None else _float64(bias)[:, None, None]
    return _bound(y, terms, math.prod(kernel.shape[1:]), added, activation, dtype, "float32")


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
    raise ValueError(f"activation is {activation!r}")


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
    return np.where(np.isfinite(x), np.abs(x), 0.0)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if np.ndim(value) == 0 else tuple(value)


def _gather(x: npt.ArrayLike, stride: Any, padding: Any) -> Array:
    """Return the input texel of every output position."""
    stride_h, stride_w = _pair(stride)
    return _padded(_float64(x), padding)[..., ::stride_h, ::stride_w]


def _padded(x: Array, padding: Any) -> Array:
    pad_h, pad_w = _pair(padding)
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + [(pad_h, pad_h), (pad_w, pad_w)])


def _convolved(x: Array, kernel: Array, stride: Any, padding: Any, groups: int) -> Array:
    stride_h, stride_w = _pair(stride)
    windows = np.lib.stride_tricks.sliding_window_view(
        _padded(x, padding), kernel.shape[2:], axis=(-2, -1)
    )[..., ::stride_h, ::stride_w, :, :]
    windows = windows.reshape(*x.shape[:-3], groups, -1, *windows.shape[-4:])
    kernel = kernel.reshape(groups, -1, *kernel.shape[1:])
    y: Array = np.einsum("...gchwij,gocij->...gohw", windows, kernel, optimize=True)
    return y.reshape(*x.shape[:-3], -1, *y.shape[-2:])


def _matrix(weight: npt.ArrayLike) -> Array:
    array = _float64(weight)
    return array.reshape(array.shape[:2])


def _products(x: Array, matrix: Array) -> Array:
    flat = x.reshape(*x.shape[:-2], math.prod(x.shape[-2:]))
    return (matrix @ flat).reshape(*x.shape[:-3], matrix.shape[0], *x.shape[-2:])


def _rows_times(x: Array, weight: Array) -> Array:
    if weight.ndim == 2:
        return x @ weight.T
    rows = x.reshape(len(weight), -1, x.shape[-1])
    return (rows @ weight.swapaxes(1, 2)).reshape(*x.shape[:-1], weight.shape[1])


def _gamma(n: int, eps: float) -> float:
    return n * eps / (1.0 - n * eps) if n * eps < 1.0 else math.inf
