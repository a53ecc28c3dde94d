"""Pointwise convolution over a variant, chosen by conv2d_pw_choice.py.

On textures conv2d_pw_staged_texture3d.comp or conv2d_pw_tiled.comp; on buffers
conv2d_pw_staged_buffer.comp or, for float16 where the device has matrix units,
conv2d_pw_coopmat.comp or conv2d_pw_coopmat2.comp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from pwconv import shaders
from pwconv.activation import Activation
from pwconv.context import Context
from pwconv.dtypes import DType
from pwconv.errors import UnsupportedError
from pwconv.heuristics import block_shape
from pwconv.kernels.tiling import grid, trips
from pwconv.layout import (
    Shape4,
    ceil_div,
    conv_output_size,
    row_pitch,
    weight_rows_extent,
)
from pwconv.matrix_units import plan_matrices
from pwconv.vk.commands import Dispatch, Plan, Size3
from pwconv.vk.resources import Resource

# Steps along K; more take long to compile and no longer gain.
_MOST_UNROLLED = 64
# With more positions of a sample at least half of the smallest workgroup's block is put to use.
MOST_SHARED = 16


@dataclass(frozen=True)
class Geometry:
    """Stride, padding and taps, each (along H, along W); pointwise is one tap."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    kernel: tuple[int, int] = (1, 1)

    def output_shape(self, x_shape: Shape4, out_channels: int) -> Shape4:
        """Return [N, C_out, H_out, W_out]; sizes below 1 mean an empty output."""
        n, _, h, w = x_shape
        return (
            n,
            out_channels,
            conv_output_size(h, self.stride[0], self.padding[0], self.kernel[0]),
            conv_output_size(w, self.stride[1], self.padding[1], self.kernel[1]),
        )

    def products(self, in_channels: int) -> int:
        """Return K: with several taps, each has whole vec4s of channels."""
        taps = self.kernel[0] * self.kernel[1]
        return in_channels if taps == 1 else taps * 4 * ceil_div(in_channels, 4)


@dataclass(frozen=True)
class Problem:
    """A convolution to be computed: shapes, types, storage of the activations."""

    storage: str
    x_shape: Shape4
    out_shape: Shape4
    dtype: DType
    accumulate: DType
    geometry: Geometry

    @cached_property
    def positions(self) -> int:
        """M of one sample."""
        return self.out_shape[2] * self.out_shape[3]

    @cached_property
    def products(self) -> int:
        """K."""
        return self.geometry.products(self.x_shape[1])

    @cached_property
    def shared(self) -> int:
        """Positions that each sample takes of M where the batch's share tiles, and else 0."""
        if self.out_shape[0] == 1 or self.positions > MOST_SHARED:
            return 0
        if self.storage == "texture3d" or self.positions == 1:
            return self.positions
        return row_pitch(self.positions, self.dtype.itemsize)

    @cached_property
    def outputs(self) -> Size3:
        """M and N of one sample, and samples; of all samples where they share tiles, and 1."""
        if self.shared:
            return self.out_shape[0] * self.shared, self.out_shape[1], 1
        return self.outputs_apart

    @cached_property
    def outputs_apart(self) -> Size3:
        """M and N of one sample, and samples, for a variant that shares no tiles."""
        return self.positions, self.out_shape[1], self.out_shape[0]


@dataclass(frozen=True)
class Task:
    """A layer at a shape: the problem, and its parameters, residual and scale."""

    problem: Problem
    weight_storage: str
    activation: Activation
    bind: Callable[[Plan, Resource, Resource], Dispatch]


def plan_conv2d_pw(
    context: Context,
    variant: shaders.Variant,
    problem: Problem,
    activation: Activation,
    workgroup: Size3 = (8, 8, 1),
    *,
    residual: bool = False,
    scale: bool = False,
) -> Plan:
    """Plan a convolution over at least one output.

    ``workgroup`` is the shape to prefer, where the variant leaves it open.

    The plan's resources are ``t_in``, ``t_out``, ``bias``, a buffer of float32 that is zero past
    C_out, ``packed_weight`` or ``weight_rows``, and ``t_residual``, of the output's shape, which
    is added before the activation; without ``residual`` it is ``t_in`` again, and not read. So is
    ``t_scale`` without ``scale``; with it, it is [N, C_in, 1, 1], and x is multiplied by it, which
    takes a kernel of one tap and a variant of which :func:`takes_scale` is true.

    Raises
    ------
    UnsupportedError
        The device lacks a feature or a limit that the variant, or the residual with it, needs.
    """
    n, c_in, h_in, w_in = problem.x_shape
    _, c_out, _, w_out = problem.out_shape
    geometry, itemsize = problem.geometry, problem.dtype.itemsize
    k = problem.products
    if residual and "t_residual" not in variant.binding_names:
        most = context.limits["maxPerStageDescriptorStorageBuffers"]
        raise UnsupportedError(
            f"a convolution of buffers with its weight in a buffer and a residual binds 5 of them, "
            f"and maxPerStageDescriptorStorageBuffers of {context.info.name} is {most}; "
            "use storage='texture3d', or add the residual on its own"
        )
    shared = problem.shared if variant.has_constant("SHARED") else 0
    outputs = problem.outputs if shared else problem.outputs_apart
    tile_m, tile_n = block_shape(variant)
    steps = k // variant.defines.get("BLOCK_K", 1)
    return context.plan(
        variant,
        grid(variant, outputs),
        {
            "batches": outputs[2],
            "M": outputs[0],
            "N": c_out,
            "K": k,
            "N4": ceil_div(c_out, 4),
            "K4": ceil_div(k, 4),
            "C": c_in,
            "pitch_out": row_pitch(problem.positions, itemsize),
            "pitch_in": row_pitch(h_in * w_in, itemsize),
            "pitch_weight": weight_rows_extent(c_out, k)[1],
            "W_out": w_out,
            "W_in": w_in,
            "H_in": h_in,
            "stride_w": geometry.stride[1],
            "stride_h": geometry.stride[0],
            "pad_w": geometry.padding[1],
            "pad_h": geometry.padding[0],
            "activation_a": activation.a,
            "activation_b": activation.b,
        },
        {
            "ACTIVATION": activation.number,
            # A row of one position is gathered by itself.
            "POINTWISE_GRID": geometry == Geometry()
            and not (shared == 1 and problem.storage == "buffer"),
            "SHARED": shared,
            "STEPS": steps if steps <= _MOST_UNROLLED else 0,
            "WHOLE_STEPS": k % variant.defines.get("BLOCK_K", 1) == 0,
            "RESIDUAL": residual,
            "SCALE": scale,
            "KERNEL_H": geometry.kernel[0],
            "KERNEL_W": geometry.kernel[1],
            "WHOLE_BLOCKS": problem.positions % tile_m == 0 and c_out % tile_n == 0,
            **_matrix_constants(context, variant),
        },
        shape=workgroup,
        flop=2 * k * c_out * problem.positions * n,
        trips=trips(variant, k),
    )


def takes_scale(variant: shaders.Variant) -> bool:
    """Return whether a variant can multiply its input by a scale as it loads it."""
    return "t_scale" in variant.binding_names


def _matrix_constants(context: Context, variant: shaders.Variant) -> dict[str, int]:
    if variant.family != "conv2d_pw_coopmat":
        return {}
    plan = plan_matrices(variant, context.info)
    if plan is None:
        raise UnsupportedError(
            f"{variant.name} needs a product of float16 matrices, summed in float32, that divides "
            f"its blocks; {context.info.name} lists none"
        )
    return {
        "MATRIX_M": plan.matrix.m,
        "MATRIX_N": plan.matrix.n,
        "MATRIX_K": plan.matrix.k,
        "SUBGROUPS_N": plan.subgroups_n,
        "SUBGROUPS_M": plan.subgroups_m,
    }
