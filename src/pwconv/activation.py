"""Activations by name, and their constants for include/activation.glslh."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Literal

# include/activation.glslh has the same numbers.
_NONE, _CLAMP, _LEAKY_RELU, _HARDSWISH, _SIGMOID, _SILU, _TANH, _GELU, _GELU_TANH = range(9)


@dataclass(frozen=True)
class Activation:
    """An activation: its number in the shader, and two parameters."""

    number: int
    a: float = 0.0
    b: float = 0.0


ActivationLike = str | tuple[Literal["clamp"], float, float] | tuple[Literal["leaky_relu"], float]

_BY_NAME = {
    "relu": Activation(_CLAMP, 0.0, math.inf),
    "relu6": Activation(_CLAMP, 0.0, 6.0),
    "hardswish": Activation(_HARDSWISH),
    "silu": Activation(_SILU),
    "gelu": Activation(_GELU),
    "gelu_tanh": Activation(_GELU_TANH),
    "sigmoid": Activation(_SIGMOID),
    "tanh": Activation(_TANH),
}
_CHOICES = f"None, {', '.join(map(repr, _BY_NAME))}, ('clamp', low, high) or ('leaky_relu', slope)"


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
        if name == "leaky_relu" and len(numbers) == 1 and math.isfinite(numbers[0]):
            return Activation(_LEAKY_RELU, *numbers)
    raise ValueError(f"activation is {activation!r}; it must be {_CHOICES}")


def _as_float32(value: float) -> float:
    """Return the nearest number of the shader's float, infinite where it is past its range."""
    try:
        (nearest,) = struct.unpack("f", struct.pack("f", value))
    except OverflowError:
        return math.copysign(math.inf, value)
    return float(nearest)
