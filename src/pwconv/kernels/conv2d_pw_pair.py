"""Two pointwise convolutions as one, over a variant chosen by conv2d_pw_pair_choice.py.

By conv2d_pw_pair_staged_texture3d.comp or conv2d_pw_pair_staged_buffer.comp; or, for float16 on
buffers where the device has matrix units, by conv2d_pw_pair_coopmat.comp or
conv2d_pw_pair_coopmat2.comp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pwconv import shaders
from pwconv.activation import Activation
from pwconv.context import Context
from pwconv.dtypes import DType
from pwconv.errors import UnsupportedError
from pwconv.layout import Shape4, ceil_div, row_pitch, weight_rows_extent
from pwconv.matrix_units import flexible_pair_matrix, plan_pair_matrices
from pwconv.vk.commands import Plan


@dataclass(frozen=True)
class PairProblem:
    """A pointwise convolution of another one's output, at stride 1 and without padding.

    Attributes
    ----------
    storage : str
        Of the activations.
    x_shape : tuple of int
        [N, C_in, H, W].
    hidden : int
        Channels of what lies between.
    out_channels : int
    dtype : numpy.dtype
        Of activations and weights; sums are float32.
    """

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


# Most input and output channels in a workgroup's registers, where a variant leaves it open.
_MOST_FLEXIBLE = 192


def most_channels(variant: shaders.Variant) -> tuple[float, float]:
    """Return the most input and output channels that a variant computes."""
    if variant.family == "conv2d_pw_pair_coopmat2":
        return _MOST_FLEXIBLE, _MOST_FLEXIBLE
    # The staged ones take the input in steps.
    keeps_input = variant.family == "conv2d_pw_pair_coopmat"
    return variant.defines["BLOCK_K"] if keeps_input else math.inf, variant.defines["BLOCK_N"]


def pair_trips(variant: shaders.Variant, k: int, hidden: int) -> int:
    """Return how often an invocation's loops go round, over K and the channels between."""
    block_h = variant.defines["BLOCK_H"]
    slices = ceil_div(hidden, block_h)
    if "SLICES" not in variant.defines:  # matrix units take all of K at once
        return slices
    block_k = variant.defines["BLOCK_K"]
    # A loop that ends has looked once more whether to go on: some drivers count that.
    return slices * (3 + ceil_div(k, block_k) + ceil_div(block_h, block_k))


def plan_conv2d_pw_pair(
    context: Context,
    variant: shaders.Variant,
    problem: PairProblem,
    hidden_activation: Activation,
    activation: Activation,
    *,
    residual: bool = False,
) -> Plan:
    """Plan a pair over at least one output.

    The plan's resources are ``t_in``, ``t_out``, of each convolution ``first_bias`` or
    ``second_bias``, a buffer of float32 that is zero past its channels, and ``first_packed`` or
    ``first_rows`` and ``second_packed`` or ``second_rows``, and ``t_residual``, of the output's
    shape, which is added before the second activation; without ``residual`` it is ``t_in`` again,
    and not read.

    Raises
    ------
    UnsupportedError
        The problem has more channels than the variant's block, or the device lacks something that
        the variant needs.
    """
    batches, k, _, width = problem.x_shape
    m, n, h = problem.positions, problem.out_channels, problem.hidden
    most_k, most_n = most_channels(variant)
    if k > most_k or n > most_n:
        raise UnsupportedError(
            f"{variant.name} takes at most {most_k} input and {most_n} output channels; these are "
            f"{k} and {n}"
        )
    pitch = row_pitch(m, problem.dtype.itemsize)
    block_m = variant.defines["BLOCK_M"]
    assert variant.workgroup is not None
    constants = {
        "ACTIVATION": activation.number,
        "HIDDEN_ACTIVATION": hidden_activation.number,
        "RESIDUAL": residual,
        "WHOLE_STEPS": k % variant.defines.get("BLOCK_K", 1) == 0
        and h % variant.defines["BLOCK_H"] == 0,
        "SHARED": 0,
    }
    return context.plan(
        variant,
        (ceil_div(m, block_m) * variant.workgroup[0], 1, batches),
        {
            "M": m,
            "N": n,
            "K": k,
            "H": h,
            "N4": ceil_div(n, 4),
            "K4": ceil_div(k, 4),
            "H4": ceil_div(h, 4),
            "pitch_out": pitch,
            "pitch_in": pitch,
            "pitch_first": weight_rows_extent(h, k)[1],
            "pitch_second": weight_rows_extent(n, h)[1],
            "W_out": width,
            "hidden_a": hidden_activation.a,
            "hidden_b": hidden_activation.b,
            "activation_a": activation.a,
            "activation_b": activation.b,
        },
        constants | _matrix_constants(context, variant, problem),
        flop=2 * h * (k + n) * m * batches,
        trips=pair_trips(variant, k, h),
    )


def _matrix_constants(
    context: Context, variant: shaders.Variant, problem: PairProblem
) -> dict[str, int]:
    info = context.info
    if variant.family == "conv2d_pw_pair_coopmat":
        plan = plan_pair_matrices(variant, info)
        if plan is None:
            raise _unlisted(context, variant)
        return {
            "MATRIX_M": plan.matrix.m,
            "MATRIX_N": plan.matrix.n,
            "MATRIX_K": plan.matrix.k,
            "SUBGROUPS_H": plan.subgroups_n,
            "SUBGROUPS_M": plan.subgroups_m,
        }
    if variant.family == "conv2d_pw_pair_coopmat2":
        matrix = flexible_pair_matrix(variant, info)
        if matrix is None:
            raise _unlisted(context, variant)
        k, n = problem.x_shape[1], problem.out_channels
        block_k, block_n = ceil_div(k, matrix.k) * matrix.k, ceil_div(n, matrix.n) * matrix.n
        return {
            "SLICES": ceil_div(problem.hidden, variant.defines["BLOCK_H"]),
            "WHOLE_SLICES": problem.hidden % variant.defines["BLOCK_H"] == 0,
            "BLOCK_K": block_k,
            "BLOCK_N": block_n,
            "WHOLE_STEPS": k == block_k,
            "WHOLE_BLOCKS": n == block_n and problem.positions % variant.defines["BLOCK_M"] == 0,
        }
    return {}


def _unlisted(context: Context, variant: shaders.Variant) -> UnsupportedError:
    return UnsupportedError(
        f"{variant.name} needs a product of float16 matrices, summed in float32, that divides its "
        f"blocks; {context.info.name} lists none"
    )
