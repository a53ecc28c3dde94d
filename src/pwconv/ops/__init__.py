"""Operators: what layers and graphs compute, a class each, found by :func:`operators`."""

from pwconv.heuristics import Choice
from pwconv.ops.base import Epilogue, Operator, Site, operators
from pwconv.ops.channels import Concat, Slice
from pwconv.ops.constant import Constant, make_constant
from pwconv.ops.convolution import Convolution, make_dense, make_pointwise
from pwconv.ops.depthwise import DepthwiseConvolution, make_batch_norm, make_depthwise, make_scale
from pwconv.ops.elementwise import Elementwise
from pwconv.ops.grouped import GroupedConvolution, make_grouped, make_transposed
from pwconv.ops.linear import Linear, make_linear
from pwconv.ops.pair import PointwisePair
from pwconv.ops.pool import AvgPool, GlobalAvgPool, MaxPool, make_avg_pool, make_max_pool
from pwconv.ops.rearrange import Axis, Rearrange
from pwconv.ops.reduce import Reduce, make_reduce
from pwconv.ops.resize import Resize, Subsample, Upsample, make_resize
from pwconv.ops.softmax import Softmax

__all__ = [
    "AvgPool",
    "Axis",
    "Choice",
    "Concat",
    "Constant",
    "Convolution",
    "DepthwiseConvolution",
    "Elementwise",
    "Epilogue",
    "GlobalAvgPool",
    "GroupedConvolution",
    "Linear",
    "MaxPool",
    "Operator",
    "PointwisePair",
    "Rearrange",
    "Reduce",
    "Resize",
    "Site",
    "Slice",
    "Softmax",
    "Subsample",
    "Upsample",
    "make_avg_pool",
    "make_batch_norm",
    "make_constant",
    "make_dense",
    "make_depthwise",
    "make_grouped",
    "make_linear",
    "make_max_pool",
    "make_pointwise",
    "make_reduce",
    "make_resize",
    "make_scale",
    "make_transposed",
    "operators",
]
