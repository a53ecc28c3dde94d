"""Means of channels: global_avg_pool.comp."""

from __future__ import annotations

from pwconv import shaders
from pwconv.context import Context
from pwconv.dtypes import DType, axis_name
from pwconv.layout import Shape4, ceil_div, sizes
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
    variant = shaders.variant("global_avg_pool", storage=storage, dtype=axis_name(dtype))
    assert variant.workgroup is not None
    threads = variant.workgroup[0]
    known = sizes(shape, (*shape[:2], 1, 1), storage, dtype.itemsize)
    vectors = ceil_div(known["M_in"], 4) if storage == "buffer" else known["M_in"]
    taken = 1 if vectors <= _FEW_TRIPS * threads else _MORE_TAKEN
    return context.plan(
        variant,
        (threads, known["planes"], 1),
        known,
        {"TAKEN": taken},
        trips=ceil_div(vectors, threads * taken) + 2 * ceil_div(vectors, 64 * threads * taken),
    )
