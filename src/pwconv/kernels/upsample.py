"""Nearest upsampling by a whole number: upsample_texture3d.comp, upsample_buffer.comp."""

from __future__ import annotations

from pwconv import shaders
from pwconv.context import Context
from pwconv.dtypes import DType, axis_name
from pwconv.layout import Shape4, buffer_rows, ceil_div, texture3d_extent
from pwconv.vk.commands import Plan


def plan_upsample(context: Context, storage: str, shape: Shape4, dtype: DType, scale: int) -> Plan:
    """Plan [N, C, H, W] → [N, C, scale·H, scale·W]; the resources are ``t_in`` and ``t_out``."""
    variant = shaders.variant(f"upsample_{storage}", dtype=axis_name(dtype))
    n, c, h, w = shape
    out_shape = n, c, scale * h, scale * w
    if storage == "buffer":
        rows, pitch_out = buffer_rows(out_shape, dtype.itemsize)
        positions = out_shape[2] * out_shape[3]
        sizes = {
            "rows": rows,
            "M": positions,
            "W_out": out_shape[3],
            "W_in": w,
            "pitch_out": pitch_out,
            "pitch_in": buffer_rows(shape, dtype.itemsize)[1],
            "scale": scale,
        }
        return context.plan(variant, (ceil_div(positions, 4), rows, 1), sizes, shape=(64, 1, 1))
    width, height, depth = texture3d_extent(out_shape)
    sizes = {"W_out": width, "H_out": height, "depth": depth, "scale": scale}
    return context.plan(variant, (width, height, depth), sizes)
