"""Sums, products and activations: elementwise.comp."""

from __future__ import annotations

from pwconv.activation import Activation
from pwconv.context import Context
from pwconv.dtypes import DType
from pwconv.kernels.planes import plan_planes
from pwconv.layout import Shape4
from pwconv.vk.commands import Plan

# elementwise.comp has the same numbers.
FIRST, ADD, MULTIPLY = range(3)


def plan_elementwise(
    context: Context,
    storage: str,
    operation: int,
    shape: Shape4,
    dtype: DType,
    activation: Activation,
    *,
    broadcast: bool = False,
) -> Plan:
    """Plan one operation over tensors of one shape; ``broadcast`` is whether b is [N, C, 1, 1].

    The plan's resources are ``t_a``, ``t_b``, which FIRST does not look at, and ``t_out``.
    """
    return plan_planes(
        *(context, "elementwise", storage, shape, shape, dtype),
        {"ACTIVATION": activation.number, "OPERATION": operation, "BROADCAST": broadcast},
        activation_a=activation.a,
        activation_b=activation.b,
    )
