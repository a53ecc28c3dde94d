"""Plans of the kernels over planes, one source for both storages: include/planes.glslh."""

from __future__ import annotations

from collections.abc import Mapping

from pwconv import shaders
from pwconv.context import Context
from pwconv.dtypes import DType, axis_name
from pwconv.layout import Shape4, sizes
from pwconv.vk.commands import Plan, Size3

# Neighbours in a workgroup are neighbours in a row.
ROW_WORKGROUP: Size3 = (64, 1, 1)


def plan_planes(
    context: Context,
    family: str,
    storage: str,
    x: Shape4,
    out: Shape4,
    dtype: DType,
    constants: Mapping[str, int] | None = None,
    *,
    flop: int = 0,
    trips: int = 0,
    **own: float,
) -> Plan:
    """Plan a family whose invocations each compute four values: of a texel, or of a row.

    Parameters
    ----------
    context : Context
    family : str
        With the axes storage and dtype.
    storage : str
        Of all tensors.
    x, out : tuple of int
        Shapes [N, C, H, W] of the first input and of the output.
    dtype : DType
    constants, flop, trips
        As :meth:`pwconv.context.Context.plan` says.
    own : float
        The push constants that :func:`pwconv.layout.sizes` does not name.
    """
    variant = shaders.variant(family, storage=storage, dtype=axis_name(dtype))
    known = sizes(x, out, storage, dtype.itemsize)
    if storage == "buffer":
        # Vectors of a row, padding too: where that is all of one, its invocation returns.
        grid = (known["pitch_out"] // 4, known["planes"], 1)
        shape = ROW_WORKGROUP
    else:
        grid = (known["W_out"], known["H_out"], known["planes"])
        shape = (8, 8, 1)
    return context.plan(
        variant, grid, {**known, **own}, constants, shape=shape, flop=flop, trips=trips
    )
