"""Linear layers over a variant, and which one.

On buffers linear_tiled_buffer.comp or linear_staged_buffer.comp, on textures
linear_tiled_texture3d.comp. The tiled ones come with sliced_matmul.glslh around them too, for few
rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pwconv import heuristics, shaders
from pwconv.activation import Activation
from pwconv.context import Context
from pwconv.dtypes import DType
from pwconv.heuristics import Choice
from pwconv.kernels.tiling import fitting_weight_storage, grid, runnable, tiled_variants, trips
from pwconv.layout import Shape4, ceil_div, row_pitch
from pwconv.vk.commands import Plan, Size3


@dataclass(frozen=True)
class Problem:
    """A linear layer to be computed: x as it is stored, types, weights.

    Attributes
    ----------
    storage : str
    x_shape : tuple of int
        [N, C, H, K], as :class:`pwconv.Tensor` says; the output has its N, C and H.
    out_features : int
    batches : int
        Count of weights. They divide the rows into equal parts, in order; on textures
        they divide N.
    dtype, accumulate : numpy.dtype
    """

    storage: str
    x_shape: Shape4
    out_features: int
    batches: int
    dtype: DType
    accumulate: DType

    @cached_property
    def lanes(self) -> int:
        """Rows that lie in the lanes of one texel; the last may be less than full."""
        return 1 if self.storage == "buffer" or self.x_shape[1] == 1 else 4

    @cached_property
    def products(self) -> int:
        """K."""
        return self.x_shape[3]

    @cached_property
    def outputs(self) -> Size3:
        """Rows of one batch, N, and batches."""
        n, c, h, _ = self.x_shape
        rows = n * ceil_div(c, self.lanes) * self.lanes * h
        return rows // self.batches, self.out_features, self.batches


def preferred_weight_storage(
    context: Context, storage: str, dtype: DType, shape: tuple[int, int, int]
) -> str:
    """Return how a layer should pack a weight [B, N, K] on this device."""
    return fitting_weight_storage(context, "linear", storage, dtype, shape)


def candidates(
    context: Context, problem: Problem, weight_storage: str
) -> dict[str, shaders.Variant]:
    """Return every variant, by name, that the device can run on the problem.

    Raises
    ------
    UnsupportedError
        There is none, for lack of a feature or because all are denied.
    """
    families = tuple(f"linear_{kind}_{problem.storage}" for kind in ("staged", "tiled", "sliced"))
    considered = tiled_variants(families, problem.dtype, problem.accumulate, weight_storage)
    lanes = tuple([v for v in considered if v.defines.get("LANES", 1) == problem.lanes])
    return runnable(context, lanes, problem)


def choose(context: Context, problem: Problem, weight_storage: str) -> Choice:
    """Return the variant expected to be fastest, by heuristics.toml.

    Raises
    ------
    UnsupportedError
        The device can run no variant, for lack of a feature or because all are denied.
    """
    return heuristics.choose(
        "linear",
        context.info,
        candidates(context, problem, weight_storage),
        storage=problem.storage,
        dtype=problem.dtype,
        outputs=problem.outputs,
        k=problem.products,
        lanes=problem.lanes,
    )


def plan_linear(
    context: Context,
    variant: shaders.Variant,
    problem: Problem,
    activation: Activation,
    workgroup: Size3 = (8, 8, 1),
) -> Plan:
    """Plan a linear layer over at least one row.

    ``workgroup`` is the shape to prefer, where the variant leaves it open.

    The plan's resources are ``t_in``, ``t_out``, ``packed_weight`` and ``bias``, a buffer of
    float32 that is zero past N.
    """
    _, c, h, k = problem.x_shape
    rows, n, batches = problem.outputs
    itemsize = problem.dtype.itemsize
    step = variant.defines.get("BLOCK_K", 4 * variant.defines["TILE_K4"])
    return context.plan(
        variant,
        grid(variant, problem.outputs),
        {
            "batches": batches,
            "M": rows,
            "N": n,
            "K": k,
            "N4": ceil_div(n, 4),
            "K4": ceil_div(k, 4),
            "C": c,
            "H": h,
            "pitch_out": row_pitch(h * n, itemsize),
            "pitch_in": row_pitch(h * k, itemsize),
            "activation_a": activation.a,
            "activation_b": activation.b,
        },
        {
            "ACTIVATION": activation.number,
            "VECTORS_IN": h == 1 or k % 4 == 0,
            "VECTORS_OUT": h == 1 or n % 4 == 0,
            "WHOLE_STEPS": k % step == 0,
        },
        shape=workgroup,
        flop=2 * rows * n * k * batches,
        trips=trips(variant, k),
    )
