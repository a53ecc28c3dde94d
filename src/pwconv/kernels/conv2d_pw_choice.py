"""Choice of the variant of a pointwise convolution, with the reason."""

from __future__ import annotations

import functools
from dataclasses import replace

from pwconv import heuristics, shaders
from pwconv.context import Context
from pwconv.dtypes import DType
from pwconv.heuristics import Choice
from pwconv.kernels.conv2d_pw import Geometry, Problem, takes_scale
from pwconv.kernels.tiling import fitting_weight_storage, rows_fit, runnable, tiled_variants

_FAMILIES = {
    "texture3d": ("conv2d_pw_staged_texture3d", "conv2d_pw_tiled"),
    "buffer": ("conv2d_pw_staged_buffer",),
}
_FOUR_BUFFERS = "conv2d_pw_four_buffers"
_COOPMAT, _COOPMAT2 = "conv2d_pw_coopmat", "conv2d_pw_coopmat2"
_POINTWISE = Geometry()


def preferred_weight_storage(context: Context, storage: str, dtype: DType, n: int, k: int) -> str:
    """Return how a layer should pack a weight [N, K] on this device."""
    if storage == "buffer" and not _takes_every_buffer(context):
        return "auto"  # a texture where it fits one: it leaves a buffer to a residual
    return fitting_weight_storage(context, "conv2d_pw", storage, dtype, (1, n, k))


def candidates(
    context: Context, problem: Problem, weight_storage: str
) -> dict[str, shaders.Variant]:
    """Return every variant, by name, that the device can run on the problem.

    Raises
    ------
    UnsupportedError
        There is none, for lack of a feature, for a limit, or because all are denied.
    """
    families = _FAMILIES[problem.storage]
    if problem.storage == "buffer" and not _takes_every_buffer(context):
        families = (_FOUR_BUFFERS,)
    considered = tiled_variants(families, problem.dtype, problem.accumulate, weight_storage)
    if _suits_matrices(problem) and rows_fit(context, problem.out_shape[1], problem.x_shape[1]):
        considered += _matrix_variants()
    return runnable(context, considered, problem)


def choose(context: Context, problem: Problem, weight_storage: str) -> Choice:
    """Return the variant expected to be fastest, by heuristics.toml.

    Raises
    ------
    UnsupportedError
        The device can run no variant, for lack of a feature or because all are denied.
    """
    choice = heuristics.choose(
        "conv2d_pw",
        context.info,
        candidates(context, problem, weight_storage),
        storage=problem.storage,
        dtype=problem.dtype,
        outputs=problem.outputs,
        k=problem.products,
        gathered=problem.geometry != _POINTWISE,
    )
    if not problem.shared:
        return choice
    return replace(choice, reason=f"{choice.reason}; {problem.out_shape[0]} samples share tiles")


def scale_pays(context: Context, variant: shaders.Variant) -> bool:
    """Return whether a variant multiplies its input by a scale for less than a product before it.

    conv2d_pw_coopmat2.comp cannot at all: a matrix is loaded as it lies in memory.
    """
    return takes_scale(variant) and heuristics.scale_pays(context.info, variant)


@functools.cache
def _matrix_variants() -> tuple[shaders.Variant, ...]:
    return (*shaders.variants(_COOPMAT), *shaders.variants(_COOPMAT2))


def _takes_every_buffer(context: Context) -> bool:
    """Return whether the device binds all that a convolution of buffers may have.

    They are output, input, weight, bias, residual and scale.
    """
    return bool(context.limits["maxPerStageDescriptorStorageBuffers"] >= 6)


def _suits_matrices(problem: Problem) -> bool:
    """Return whether cooperative matrices compute it: float16 rows, as they lie in buffers.

    They are of one sample: where few positions share tiles, others compute it.
    """
    return (
        problem.storage == "buffer"
        and problem.dtype.itemsize == 2
        and problem.accumulate.itemsize == 4
        and problem.geometry == _POINTWISE
        and not problem.shared
    )
