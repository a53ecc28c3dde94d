"""A network's parameters by name, checked, with batch norm folded into convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pwconv.dtypes import FLOAT32, Array, DType, as_float_array
from pwconv.tensor import Shape

Float64 = npt.NDArray[np.float64]

_EPSILON = 1e-5  # of torch's batch norm
_LISTED = 5  # names in an error; a whole network's would bury it


def check_parameters(
    state: Any, shapes: Mapping[str, Shape], unused: tuple[str, ...] = ()
) -> dict[str, Array]:
    """Return the arrays of a state dict that a network takes.

    Parameters
    ----------
    state : Mapping
        Arrays by name.
    shapes : Mapping
        Of every parameter, by name.
    unused : tuple of str
        Names that begin so may be there, and are left out.

    Raises
    ------
    TypeError
        ``state`` is no mapping, or one of its arrays is neither float32 nor float16.
    ValueError
        Parameters are missing, unknown, of another shape, or not finite.
    """
    if not isinstance(state, Mapping):
        raise TypeError(
            f"state is a {type(state).__name__}; it must be a mapping from parameters' names to "
            "numpy arrays"
        )
    missing = [name for name in shapes if name not in state]
    unknown = [
        name
        for name in state
        if name not in shapes and not str(name).startswith(unused) and not _is_counter(name)
    ]
    wrong = [
        *([f"lacks {_listed(missing)}"] if missing else []),
        *([f"has {_listed(unknown)}, which the network does not have"] if unknown else []),
    ]
    if wrong:
        raise ValueError(f"state {'; it '.join(wrong)}")
    return {name: _checked(name, state[name], shape) for name, shape in shapes.items()}


def fold_batch_norm(parameters: Mapping[str, Array], name: str) -> tuple[Float64, Float64]:
    """Return the weight and the bias of a convolution with the batch norm after it, in float64.

    The parameters are ``name.c.weight`` [C_out, C_in, KH, KW] and, of [C_out], ``name.bn.weight``,
    ``bias``, ``running_mean`` and ``running_var``.

    Raises
    ------
    ValueError
        A variance is negative.
    """
    weight = parameters[f"{name}.c.weight"].astype(np.float64)
    gain, shift, mean, variance = (
        parameters[f"{name}.bn.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    if variance.min() < 0:
        raise ValueError(
            f"state['{name}.bn.running_var'] has {variance.min():g}; a variance is not negative"
        )
    scale = gain / np.sqrt(variance + _EPSILON)
    return weight * scale[:, None, None, None], shift - mean * scale


def rounded(name: str, weight: Float64, bias: Float64, dtype: DType) -> tuple[Array, Array]:
    """Return a weight in the graph's dtype and a bias in float32, as devices take them.

    Raises
    ------
    ValueError
        One of them is past the type's range.
    """
    for what, array, wanted in (("weight", weight, dtype), ("bias", bias, FLOAT32)):
        most, limit = float(np.abs(array).max()), float(np.finfo(wanted).max)
        if most > limit:
            raise ValueError(
                f"the {what} of {name!r} reaches {most:g} and {wanted} ends at {limit:g}"
                + ("; use dtype='float32'" if wanted != FLOAT32 else "")
            )
    return weight.astype(dtype), bias.astype(FLOAT32)


def _is_counter(name: Any) -> bool:
    """Return True for the count of batches of torch's batch norm, used in training only."""
    return str(name).endswith(".num_batches_tracked")


def _checked(name: str, value: Any, shape: Shape) -> Array:
    argument = f"state[{name!r}]"
    array = as_float_array(value, argument)
    if array.shape != shape:
        raise ValueError(f"{argument} has shape {array.shape}; it must be {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{argument} has infinities or NaNs; parameters must be finite")
    return array


def _listed(names: list[Any]) -> str:
    shown = ", ".join(map(repr, names[:_LISTED]))
    more = len(names) - _LISTED
    return f"{shown} and {more} more" if more > 0 else shown
