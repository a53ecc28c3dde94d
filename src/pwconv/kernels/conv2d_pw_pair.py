"""Two pointwise convolutions with an activation between them, as one kernel.

On textures conv2d_pw_pair_staged_texture3d.comp, on buffers conv2d_pw_pair_staged_buffer.comp.
"""

from __future__ import annotations

from dataclasses import dataclass

from pwconv import shaders
from pwconv.activation import Activation
from pwconv.dispatch import Dispatcher, Plan
from pwconv.dtypes import DType
from pwconv.errors import UnsupportedError
from pwconv.kernels.tiling import block_shape
from pwconv.layout import Shape4, ceil_div, row_pitch, weight_rows_extent


@dataclass(frozen=True)
class PairProblem:
    """Two convolutions to be computed, x → hidden → out: shapes, type, storage of x and out."""

    storage: str
    x_shape: Shape4
    hidden: int
    out_channels: int
    dtype: DType

    @property
    def out_shape(self) -> Shape4:
        """[N, C_out, H, W]."""
        n, _, h, w = self.x_shape
        return n, self.out_channels, h, w

    @property
    def positions(self) -> int:
        """M of one sample."""
        return self.x_shape[2] * self.x_shape[3]


def plan_conv2d_pw_pair(
    dispatcher: Dispatcher,
    variant: shaders.Variant,
    problem: PairProblem,
    hidden_activation: Activation,
    activation: Activation,
    *,
    residual: bool = False,
) -> Plan:
    """Plan a pair over at least one output.

    The plan's resources are ``t_in``, ``t_out``, for either convolution its packed weight,
    ``first_packed`` and ``second_packed``, and its bias, ``first_bias`` and ``second_bias``,
    buffers of float32 that are zero past its output channels, and ``t_residual``, of the output's
    shape, which is added before the second activation; without ``residual`` it is ``t_in`` again,
    and not read.

    Raises
    ------
    UnsupportedError
        The variant's block has fewer output channels than the problem, or the device lacks
        something that the variant needs.
    """
    n, k, _, w = problem.x_shape
    c_out, hidden, m = problem.out_channels, problem.hidden, problem.positions
    tile_m, tile_n = block_shape(variant)
    if c_out > tile_n:
        raise UnsupportedError(
            f"{variant.name} computes at most {tile_n} output channels; these are {c_out}"
        )
    pitch = row_pitch(m, problem.dtype.itemsize)
    assert variant.workgroup is not None
    return dispatcher.plan(
        variant,
        (ceil_div(m, tile_m) * variant.workgroup[0], 1, n),
        {
            "M": m,
            "N": c_out,
            "K": k,
            "H": hidden,
            "N4": ceil_div(c_out, 4),
            "K4": ceil_div(k, 4),
            "H4": ceil_div(hidden, 4),
            "pitch_out": pitch,
            "pitch_in": pitch,
            "pitch_first": weight_rows_extent(hidden, k)[1],
            "pitch_second": weight_rows_extent(c_out, hidden)[1],
            "W_out": w,
            "hidden_a": hidden_activation.a,
            "hidden_b": hidden_activation.b,
            "activation_a": activation.a,
            "activation_b": activation.b,
        },
        {
            "HIDDEN_ACTIVATION": hidden_activation.number,
            "ACTIVATION": activation.number,
            "RESIDUAL": residual,
            "WHOLE_STEPS": (
                k % variant.defines["BLOCK_K"] == 0 and hidden % variant.defines["BLOCK_H"] == 0
            ),
        },
    )
