"""Means of channels: global_avg_pool_texture3d.comp, global_avg_pool_buffer.comp."""

from __future__ import annotations

from pwconv import shaders
from pwconv.context import Context
from pwconv.dtypes import DType, axis_name
from pwconv.layout import Shape4, buffer_rows, ceil_div, texture3d_extent
from pwconv.vk.commands import Plan

# include/strided_sum.glslh: with more trips than so many, an invocation takes more at each.
_FEW_TRIPS, _MORE_TAKEN = 1024, 32


def plan_global_avg_pool(context: Context, storage: str, shape: Shape4, dtype: DType) -> Plan:
    """Plan the mean of [N, C, H, W] over H and W; the resources are ``t_in`` and ``t_out``.

    Raises
    ------
    UnsupportedError
        H·W takes more trips of a loop than an invocation may make.
    """
    variant = shaders.variant(f"global_avg_pool_{storage}", dtype=axis_name(dtype))
    assert variant.workgroup is not None
    threads = variant.workgroup[0]
    positions = shape[2] * shape[3]
    rows, pitch = buffer_rows(shape, dtype.itemsize)
    _, pitch_out = buffer_rows((*shape[:2], 1, 1), dtype.itemsize)
    is_buffer = storage == "buffer"
    vectors = ceil_div(positions, 4) if is_buffer else positions
    taken = 1 if vectors <= _FEW_TRIPS * threads else _MORE_TAKEN
    return context.plan(
        variant,
        (threads, rows if is_buffer else texture3d_extent(shape)[2], 1),
        {"M": positions, "pitch_in": pitch, "pitch_out": pitch_out}
        if is_buffer
        else {"M": positions, "W": shape[3]},
        {"TAKEN": taken},
        trips=ceil_div(vectors, threads * taken) + 2 * ceil_div(vectors, 64 * threads * taken),
    )
