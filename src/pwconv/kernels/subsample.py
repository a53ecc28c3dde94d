"""Every stride-th position of tensors stored as buffers: subsample_buffer.comp."""

from __future__ import annotations

from pwconv import shaders
from pwconv.context import Context
from pwconv.dtypes import DType, axis_name
from pwconv.kernels.conv2d_pw import Geometry
from pwconv.layout import Shape4, buffer_rows, ceil_div
from pwconv.vk.commands import Plan


def plan_subsample(context: Context, shape: Shape4, dtype: DType, stride: tuple[int, int]) -> Plan:
    """Plan [N, C, H, W] → [N, C, ceil(H / stride), ceil(W / stride)]; stride is along H and W.

    The plan's resources are ``t_in`` and ``t_out``.
    """
    variant = shaders.variant("subsample_buffer", dtype=axis_name(dtype))
    out_shape = Geometry(stride).output_shape(shape, shape[1])
    rows, pitch_out = buffer_rows(out_shape, dtype.itemsize)
    sizes = {
        "rows": rows,
        "M": out_shape[2] * out_shape[3],
        "W_out": out_shape[3],
        "W_in": shape[3],
        "pitch_out": pitch_out,
        "pitch_in": buffer_rows(shape, dtype.itemsize)[1],
        "stride_w": stride[1],
        "stride_h": stride[0],
    }
    vectors = ceil_div(pitch_out * dtype.itemsize, 16)
    return context.plan(variant, (vectors, rows, 1), sizes, shape=(64, 1, 1))
