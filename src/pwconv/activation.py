"""Activations by name, and their constants for include/activation.glslh."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Literal

# include/activation.glslh has the same numbers.
_NONE, _CLAMP, _LEAKY_RELU, _HARDSWISH, _SIGMOID, _SILU, _TANH, _GELU, _GELU_TANH = range(9)
_ELU, _HARDSIGMOID, _MISH, _SOFTPLUS, _ERF, _EXP, _LOG, _SQRT, _ABS, _NEG = range(9, 19)
_RECIPROCAL, _POW, _AFFINE = 19, 20, 21


@dataclass(frozen=True)
class Activation:
    """An activation: its number in the shader, and two parameters."""

    number: int
    a: float = 0.0
    b: float = 0.0


ActivationLike = (
    str
    | tuple[Literal["clamp", "hardsigmoid", "affine"], float, float]
    | tuple[Literal["leaky_relu", "elu", "pow"], float]
)

_BY_NAME = {
    "relu": Activation(_CLAMP, 0.0, math.inf),
    "relu6": Activation(_CLAMP, 0.0, 6.0),
    "hardswish": Activation(_HARDSWISH),
    "silu": Activation(_SILU),
    "gelu": Activation(_GELU),
    "gelu_tanh": Activation(_GELU_TANH),
    "sigmoid": Activation(_SIGMOID),
    "tanh": Activation(_TANH),
    "mish": Activation(_MISH),
    "softplus": Activation(_SOFTPLUS),
    "erf": Activation(_ERF),
    "exp": Activation(_EXP),
    "log": Activation(_LOG),
    "sqrt": Activation(_SQRT),
    "abs": Activation(_ABS),
    "neg": Activation(_NEG),
    "reciprocal": Activation(_RECIPROCAL),
}
# With so many finite numbers after the name.
_WITH_NUMBERS = {
    "leaky_relu": (_LEAKY_RELU, 1),
    "elu": (_ELU, 1),
    "hardsigmoid": (_HARDSIGMOID, 2),
    "affine": (_AFFINE, 2),
    "pow": (_POW, 1),
}
_CHOICES = (
    f"None, {', '.join(map(repr, _BY_NAME))}, ('clamp', low, high), ('hardsigmoid', alpha, beta), "
    "('affine', a, b), ('leaky_relu', slope), ('elu', alpha) or ('pow', exponent)"
)


def parse_activation(activation: Any) -> Activation:
    """Return the activation of a user's name or tuple.

    Raises
    ------
    ValueError
        An unknown name, or parameters that are not numbers, or are out of order.
    """
    if activation is None:
        return Activation(_NONE)
    if isinstance(activation, str) and activation in _BY_NAME:
        return _BY_NAME[activation]
    name, *parameters = activation if isinstance(activation, tuple) and activation else (None,)
    try:
        numbers = [_as_float32(float(value)) for value in parameters]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if isinstance(name, str) and not any(map(math.isnan, numbers)):
        if name == "clamp" and len(numbers) == 2 and numbers[0] <= numbers[1]:
            return Activation(_CLAMP, *numbers)
        number, count = _WITH_NUMBERS.get(name, (_NONE, -1))
        if len(numbers) == count and all(map(math.isfinite, numbers)):
            return Activation(number, *numbers)
    raise ValueError(f"activation is {activation!r}; it must be {_CHOICES}")


def _as_float32(value: float) -> float:
    """Return the nearest number of the shader's float, infinite where it is past its range."""
    try:
        (nearest,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError:
        return math.copysign(math.inf, value)
    return float(nearest)
