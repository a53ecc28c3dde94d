"""Every stride-th position of tensors stored as buffers: subsample.comp."""

from __future__ import annotations

from pwconv import shaders
from pwconv.context import Context
from pwconv.dtypes import DType, axis_name
from pwconv.kernels.conv2d_pw import Geometry
from pwconv.kernels.planes import ROW_WORKGROUP
from pwconv.layout import Shape4, ceil_div, sizes
from pwconv.vk.commands import Plan


def plan_subsample(context: Context, shape: Shape4, dtype: DType, stride: tuple[int, int]) -> Plan:
    """Plan [N, C, H, W] → [N, C, ceil(H / stride), ceil(W / stride)]; stride is along H and W.

    The plan's resources are ``t_in`` and ``t_out``.
    """
    variant = shaders.variant("subsample", storage="buffer", dtype=axis_name(dtype))
    out_shape = Geometry(stride).output_shape(shape, shape[1])
    known = sizes(shape, out_shape, "buffer", dtype.itemsize)
    vectors = ceil_div(known["pitch_out"] * dtype.itemsize, 16)
    return context.plan(
        variant,
        (vectors, known["planes"], 1),
        {**known, "stride_w": stride[1], "stride_h": stride[0]},
        shape=ROW_WORKGROUP,
    )
