"""Depthwise convolution: conv2d_dw.comp."""

from __future__ import annotations

import math

import numpy as np

from pwconv.activation import Activation
from pwconv.context import Context
from pwconv.dtypes import FLOAT32, Array, DType
from pwconv.kernels.conv2d_pw import Geometry
from pwconv.kernels.planes import plan_planes
from pwconv.layout import Shape4, ceil_div
from pwconv.vk.commands import Plan


def depthwise_bytes(shape: tuple[int, ...]) -> int:
    """Return the bytes of a weight [C, 1, KH, KW] as the shaders read it."""
    return ceil_div(shape[0], 4) * 4 * shape[2] * shape[3] * FLOAT32.itemsize


def arrange_weight(weight: Array) -> Array:
    """Return a weight [C, KH, KW] as the shaders read it: [C4, KH·KW, 4] of float32."""
    c, taps = weight.shape[0], weight.shape[1] * weight.shape[2]
    padded = np.zeros((ceil_div(c, 4) * 4, taps), FLOAT32)
    padded[:c] = weight.reshape(c, taps)
    return np.ascontiguousarray(padded.reshape(-1, 4, taps).swapaxes(1, 2))


def plan_conv2d_dw(
    context: Context,
    storage: str,
    shape: Shape4,
    dtype: DType,
    geometry: Geometry,
    activation: Activation,
) -> Plan:
    """Plan a depthwise convolution of [N, C, H, W] that has at least one output.

    The plan's resources are ``t_in``, ``t_out``, ``weight`` as :func:`arrange_weight` gives it, and
    ``bias``, a buffer of float32 that is zero past C.
    """
    out_shape = geometry.output_shape(shape, shape[1])
    taps = math.prod(geometry.kernel)
    return plan_planes(
        *(context, "conv2d_dw", storage, shape, out_shape, dtype),
        {
            "ACTIVATION": activation.number,
            "KERNEL_W": geometry.kernel[1],
            "KERNEL_H": geometry.kernel[0],
        },
        flop=2 * taps * math.prod(out_shape),
        trips=taps,
        stride_w=geometry.stride[1],
        stride_h=geometry.stride[0],
        pad_w=geometry.padding[1],
        pad_h=geometry.padding[0],
        activation_a=activation.a,
        activation_b=activation.b,
    )
