"""Operators on a device against plain numpy, which shares nothing with pwconv.reference.

An oracle is a function of arrays in float64: inputs first, then a weight and a bias each of the
parameters. The same function over magnitudes bounds its own rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import pwconv
from pwconv import reference
from pwconv.dtypes import as_dtype
from pwconv.ops import Choice, Operator, Site
from support import inside, texels
from support.accuracy import assert_within

Oracle = Callable[..., np.ndarray]

_erf = np.vectorize(math.erf, otypes=[np.float64])
ACTIVATIONS: dict[Any, Callable[[np.ndarray], np.ndarray]] = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0), 6),
    "hardswish": lambda x: x * np.minimum(np.maximum(x + 3, 0), 6) / 6,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": lambda x: 1 - 2 / (np.exp(2 * x) + 1),
    "gelu": lambda x: x * (1 + _erf(x / 2**0.5)) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
    ("clamp", -0.25, 0.75): lambda x: np.minimum(np.maximum(x, -0.25), 0.75),
    ("leaky_relu", 0.1): lambda x: np.where(x > 0, x, 0.1 * x),
    ("elu", 0.7): lambda x: np.where(x > 0, x, np.float32(0.7) * (np.exp(np.minimum(x, 0)) - 1)),
    ("hardsigmoid", 0.2, 0.5): lambda x: np.minimum(np.maximum(np.float32(0.2) * x + 0.5, 0), 1),
    "mish": lambda x: x * np.tanh(np.log(1 + np.exp(x))),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "erf": _erf,
    ("affine", -0.7, 0.3): lambda x: np.float32(-0.7) * x + np.float32(0.3),
    "abs": np.abs,
    "neg": np.negative,
}
# At least the steepest slope of each, and the size of what they may add to nothing.
_SLOPE, _CONSTANT = 1.5, 1.0


def site(device: pwconv.Device, storage: str, dtype: Any) -> Site:
    return Site(inside.context(device), storage, as_dtype(dtype))


def run(
    operator: Operator,
    at: Site,
    device: pwconv.Device,
    arrays: Sequence[np.ndarray],
    *,
    choice: Choice | None = None,
    weight_storage: str | None = None,
) -> np.ndarray:
    """Run an operator into a poisoned output; assert zeros in lanes past C."""
    packed = operator.pack(at, weight_storage)
    shapes = [array.shape for array in arrays]
    out_shape = packed.output_shape(shapes)
    inputs = [device.tensor(array, dtype=at.dtype, storage=at.storage) for array in arrays]
    out = texels.poisoned(device, out_shape, at.dtype, at.storage)
    for dispatch in packed.plan(at, shapes, out_shape, choice=choice):
        bound = dispatch.bind([tensor.resource for tensor in inputs], out.resource)
        at.context.submit(bound)
    y = out.numpy()
    if at.storage == "texture3d":
        whole = y.reshape(texels.stored_shape(y.shape))
        np.testing.assert_array_equal(texels.read(out), texels.channels_packed(whole))
    return y


def check(
    operator: Operator,
    device: pwconv.Device,
    storage: str,
    arrays: Sequence[np.ndarray],
    oracle: Oracle,
    **settings: Any,
) -> None:
    """Assert that device and reference compute what an oracle does, before the activation.

    The settings are those of :func:`check_reference`.
    """
    value, bound = check_reference(operator, arrays, oracle, **settings)
    at = site(device, storage, arrays[0].dtype)
    assert_within(run(operator, at, device, arrays), value, bound)


def check_reference(
    operator: Operator,
    arrays: Sequence[np.ndarray],
    oracle: Oracle,
    *,
    terms: int = 1,
    sizes: Oracle | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Assert what the reference computes; return the oracle's value and a device's bound.

    Parameters
    ----------
    arrays : sequence of numpy.ndarray
        Inputs, of one dtype; the parameters are rounded to it.
    terms : int
        Most additions and products that are behind an element.
    sizes : callable, optional
        The sum of the magnitudes of all terms; by default the oracle of magnitudes.
    """
    dtype = arrays[0].dtype
    weights = [each for p in operator.parameters for each in (p.matrices(), p.bias)]
    exact = [None if each is None else each.astype(np.float64) for each in (*arrays, *weights)]
    magnitudes = [None if each is None else np.abs(each) for each in exact]
    value = ACTIVATIONS[operator.epilogue.activation](oracle(*exact))
    size = _SLOPE * (sizes or oracle)(*magnitudes) + _CONSTANT

    def roundings(count: float, type_: Any) -> np.ndarray:
        return count * np.finfo(type_).eps * size

    # Each of the two sums rounds once a term, and an activation is some operations.
    inputs = [reference.exact(array) for array in arrays]
    about = operator.expected(inputs, dtype)
    tight = 0.0 if operator.copies else roundings(2 * terms + 16, np.float64)
    assert_within(about.value, value, np.broadcast_to(tight, value.shape))
    # A bound that holds anything holds what is wrong.
    assert (about.error <= roundings(2 * terms + 32, np.float32) + roundings(4, dtype)).all()
    return value, np.where(about.error == 0, 0.0, about.error + tight)


def shifted(x: np.ndarray, taps: tuple[int, int], stride: Any, padding: Any) -> Any:
    """Yield each tap, and the positions of x [..., H, W] that it meets, by slices."""
    (kh, kw), (down, right), (top, left) = taps, stride, padding
    padded = np.zeros((*x.shape[:-2], x.shape[-2] + 2 * top, x.shape[-1] + 2 * left))
    padded[..., top : top + x.shape[-2], left : left + x.shape[-1]] = x
    h, w = padded.shape[-2] - kh + 1, padded.shape[-1] - kw + 1
    for i in range(kh):
        for j in range(kw):
            yield (i, j), padded[..., i : i + h : down, j : j + w : right]


def channelwise(bias: np.ndarray | None) -> Any:
    """Return a bias as it is added to [..., C, H, W]; 0 for none."""
    return 0.0 if bias is None else bias[:, None, None]
