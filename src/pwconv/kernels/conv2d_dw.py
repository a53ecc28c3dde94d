"""Depthwise convolution: conv2d_dw_texture3d.comp, conv2d_dw_buffer.comp."""

from __future__ import annotations

import math

import numpy as np

from pwconv import shaders
from pwconv.activation import Activation
from pwconv.context import Context
from pwconv.dtypes import FLOAT32, Array, DType, axis_name
from pwconv.kernels.conv2d_pw import Geometry
from pwconv.layout import Shape4, buffer_rows, ceil_div, texture3d_extent
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
    variant = shaders.variant(f"conv2d_dw_{storage}", dtype=axis_name(dtype))
    out_shape = geometry.output_shape(shape, shape[1])
    common = {
        "N": shape[1],
        "W_out": out_shape[3],
        "W_in": shape[3],
        "H_in": shape[2],
        "stride_w": geometry.stride[1],
        "stride_h": geometry.stride[0],
        "pad_w": geometry.padding[1],
        "pad_h": geometry.padding[0],
        "activation_a": activation.a,
        "activation_b": activation.b,
    }
    constants = {
        "ACTIVATION": activation.number,
        "KERNEL_W": geometry.kernel[1],
        "KERNEL_H": geometry.kernel[0],
    }
    taps = math.prod(geometry.kernel)
    flop = 2 * taps * math.prod(out_shape)
    if storage == "buffer":
        rows, pitch_out = buffer_rows(out_shape, dtype.itemsize)
        positions = out_shape[2] * out_shape[3]
        sizes = {
            **common,
            "rows": rows,
            "M": positions,
            "pitch_out": pitch_out,
            "pitch_in": buffer_rows(shape, dtype.itemsize)[1],
        }
        grid = (ceil_div(positions, 4), rows, 1)
        return context.plan(
            variant, grid, sizes, constants, shape=(64, 1, 1), flop=flop, trips=taps
        )
    width, height, depth = texture3d_extent(out_shape)
    sizes = {**common, "H_out": height, "depth": depth, "N4": ceil_div(shape[1], 4)}
    grid = (width, height, depth)
    return context.plan(variant, grid, sizes, constants, flop=flop, trips=taps)
