"""Sums, products and activations: elementwise_texture3d.comp, elementwise_buffer.comp."""

from __future__ import annotations

from pwconv import shaders
from pwconv.activation import Activation
from pwconv.context import Context
from pwconv.dtypes import DType, axis_name
from pwconv.layout import Shape4, buffer_rows, ceil_div, texture3d_extent
from pwconv.vk.commands import Plan

# include/elementwise.glslh has the same numbers.
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
    variant = shaders.variant(f"elementwise_{storage}", dtype=axis_name(dtype))
    constants = {
        "ACTIVATION": activation.number,
        "OPERATION": operation,
        "BROADCAST": broadcast,
    }
    parameters = {"activation_a": activation.a, "activation_b": activation.b}
    if storage == "buffer":
        rows, pitch = buffer_rows(shape, dtype.itemsize)
        _, pitch_b = buffer_rows((*shape[:2], 1, 1), dtype.itemsize)
        sizes = {"rows": rows, "pitch": pitch, "pitch_b": pitch_b}
        grid = (pitch // 4, rows, 1)
        return context.plan(variant, grid, {**sizes, **parameters}, constants, shape=(64, 1, 1))
    width, height, depth = texture3d_extent(shape)
    sizes = {"W": width, "H": height, "depth": depth, "C": shape[1], "C4": ceil_div(shape[1], 4)}
    return context.plan(variant, (width, height, depth), {**sizes, **parameters}, constants)
