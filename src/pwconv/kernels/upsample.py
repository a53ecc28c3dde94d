"""Nearest upsampling by a whole number: upsample.comp."""

from __future__ import annotations

from pwconv.context import Context
from pwconv.dtypes import DType
from pwconv.kernels.planes import plan_planes
from pwconv.layout import Shape4
from pwconv.vk.commands import Plan


def plan_upsample(context: Context, storage: str, shape: Shape4, dtype: DType, scale: int) -> Plan:
    """Plan [N, C, H, W] → [N, C, scale·H, scale·W]; the resources are ``t_in`` and ``t_out``."""
    n, c, h, w = shape
    out_shape = n, c, scale * h, scale * w
    return plan_planes(context, "upsample", storage, shape, out_shape, dtype, scale=scale)
