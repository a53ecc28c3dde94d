"""Means of channels: global_avg_pool_texture3d.comp, global_avg_pool_buffer.comp."""

from __future__ import annotations

from pwconv import shaders
from pwconv.dispatch import Dispatcher, Plan
from pwconv.dtypes import DType, axis_name
from pwconv.layout import Shape4, buffer_rows, texture3d_extent


def plan_global_avg_pool(dispatcher: Dispatcher, storage: str, shape: Shape4, dtype: DType) -> Plan:
    """Plan the mean of [N, C, H, W] over H and W; the resources are ``t_in`` and ``t_out``."""
    variant = shaders.variant(f"global_avg_pool_{storage}", dtype=axis_name(dtype))
    assert variant.workgroup is not None
    threads = variant.workgroup[0]
    positions = shape[2] * shape[3]
    if storage == "buffer":
        rows, pitch = buffer_rows(shape, dtype.itemsize)
        _, pitch_out = buffer_rows((*shape[:2], 1, 1), dtype.itemsize)
        sizes = {"M": positions, "pitch_in": pitch, "pitch_out": pitch_out}
        return dispatcher.plan(variant, (threads, rows, 1), sizes)
    depth = texture3d_extent(shape)[2]
    return dispatcher.plan(variant, (threads, depth, 1), {"M": positions, "W": shape[3]})
