"""Choice of the variant of a pointwise convolution, with the reason."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

from pwconv import shaders
from pwconv.context import Context
from pwconv.dtypes import FLOAT16, FLOAT32, DType
from pwconv.kernels.conv2d_pw import Geometry, Problem, takes_scale
from pwconv.kernels.tiling import (
    Choice,
    Preference,
    blocks,
    choose_tile,
    fitting_weight_storage,
    rows_fit,
    runnable,
    tiled_variants,
)
from pwconv.layout import ceil_div

_FAMILIES = {
    "texture3d": ("conv2d_pw_staged_texture3d", "conv2d_pw_tiled"),
    "buffer": ("conv2d_pw_staged_buffer",),
}
_FOUR_BUFFERS = "conv2d_pw_four_buffers"
_COOPMAT, _COOPMAT2 = "conv2d_pw_coopmat", "conv2d_pw_coopmat2"

# Measured over the twelve EdgeTAM shapes (2026-11-22): "discrete" on an NVIDIA H100, where a weight
# in a buffer takes 0.6 of the time of one in a texture; "cpu" on lavapipe, where the barriers of a
# workgroup cost more than they save. Other devices are not measured: `pwconv tune` is for them.
_PREFERENCES: dict[tuple[str, str, DType], Preference] = {
    ("texture3d", "discrete", FLOAT32): Preference(
        (
            ("64x64x16", 512),
            ("128x48x8", 512),
            ("128x48x16s2", 256),
            ("64x64x16", 256),
            ("64x32x16s2", 512),
            ("64x96x32s4", 128),
            ("32x48x32s4", 192),
            ("32x32x32s4", 64),
            ("m2n2k2", 4096),
            ("m1n1k1", 0),
        ),
        (32, 8, 1),
        "buffer",
    ),
    ("texture3d", "discrete", FLOAT16): Preference(
        (
            ("128x48x8", 512),
            ("128x64x16", 512),
            ("256x32x8", 256),
            ("64x32x16s2", 256),
            ("32x32x32s4", 64),
            ("m2n2k2", 4096),
            ("m1n1k1", 0),
        ),
        (32, 8, 1),
        "buffer",
    ),
    **{
        ("texture3d", "cpu", dtype): Preference(
            (("m16n3k1", 64), ("m8n2k1", 64), ("m4n1k1", 64), ("m1n1k1", 0))
        )
        for dtype in (FLOAT32, FLOAT16)
    },
}
_PREFERENCES_ELSEWHERE = {
    "texture3d": Preference((("m4n2k1", 4096), ("m4n1k1", 4096), ("m1n1k1", 0))),
    "buffer": Preference(
        (
            ("128x48x8", 512),
            ("128x64x16", 512),
            ("256x32x8", 256),
            ("128x48x16s2", 256),
            ("64x64x16", 256),
            ("64x96x32s4", 128),
            ("64x32x16s2", 256),
            ("64x64x16s2", 128),
            ("32x48x32s4", 192),
            ("32x32x32s4", 0),
        ),
        weight_storage="buffer",
    ),
}


def preferred_weight_storage(context: Context, storage: str, dtype: DType, n: int, k: int) -> str:
    """Return how a layer should pack a weight [N, K] on this device."""
    preference = _preference(context, storage, dtype)
    if storage == "buffer" and not _takes_every_buffer(context):
        return "auto"  # a texture where it fits one: it leaves a buffer to a residual
    return fitting_weight_storage(context, preference, dtype, (1, n, k))


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
    """Return the variant expected to be fastest: matrix units, or the best-fitting tile.

    Raises
    ------
    UnsupportedError
        The device can run no variant, for lack of a feature or because all are denied.
    """
    able = candidates(context, problem, weight_storage)
    preference = _preference(context, problem.storage, problem.dtype)
    # A CPU has no such units: its driver makes loops of them.
    if context.info.type != "cpu":
        for family, choose_matrices in ((_COOPMAT2, _choose_coopmat2), (_COOPMAT, _choose_coopmat)):
            matrices = {v.axes["tile"]: v for v in able.values() if v.family == family}
            found = choose_matrices(matrices, problem)
            if found:
                return Choice(found[0], preference.workgroup, f"matrix units; {found[1]}")
    tiled = [v for v in able.values() if v.family not in (_COOPMAT, _COOPMAT2)]
    by_tile = {v.axes["tile"]: v for v in tiled or able.values()}
    choice = choose_tile(by_tile, preference, problem)
    if not problem.shared:
        return choice
    return replace(choice, reason=f"{choice.reason}; {problem.out_shape[0]} samples share tiles")


def scale_pays(context: Context, variant: shaders.Variant) -> bool:
    """Return whether a variant multiplies its input by a scale for less than a product before it.

    conv2d_pw_coopmat2.comp cannot at all: a matrix is loaded as it lies in memory.
    """
    if not takes_scale(variant):
        return False
    # Measured on lavapipe (2026-11-22), against the product and then the convolution: it takes 0.57
    # to 0.97 of their time on textures, but 1.01 to 1.05 on fp32 buffers (192→192@32 takes 28.8 ms
    # instead of 27.5), and 0.9 to 1.03 on fp16 ones.
    return context.info.type != "cpu" or variant.family == "conv2d_pw_tiled"


def subsampling_pays(storage: str) -> bool:
    """Return whether to copy every stride-th position first, and convolve at stride 1.

    conv2d_pw_staged_buffer.comp gathers such positions one by one, and again for each of its blocks
    of output channels; kernels for matrix units cannot. Textures are read at any position.
    """
    # Stride 2 on an NVIDIA H100 (2026-11-22), float16, gathered: 57 µs for 48→96@256, 52 for
    # 96→192@128 and 35 for 192→384@64. Without a stride the same outputs take 8 to 14 µs on matrix
    # units; the copy is assumed to add 4 to 6, as the two were not measured together. On lavapipe
    # (2026-11-22) copy and convolution take 0.7 to 0.95 of the gathering's time (42 ms instead of
    # 49 for 96→192@64 in float32, 38 instead of 54 in float16), or as much with few channels;
    # 256→16@64 alone takes 1.2.
    return storage == "buffer"


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
        and problem.geometry == Geometry()
        and not problem.shared
    )


def _choose_coopmat2(
    able: dict[str, shaders.Variant], problem: Problem
) -> tuple[shaders.Variant, str] | None:
    """Return the tile measured best on an NVIDIA H100, and why; None if the device lacks it."""
    n, k = problem.out_shape[1], problem.x_shape[1]
    blocks_of_64 = ceil_div(problem.positions, 64) * ceil_div(n, 64) * problem.x_shape[0]
    if n <= 32:
        tile, reason = "m128n32k32", "N is at most 32"
    elif n * k * problem.positions >= 2**32:
        tile = "m256n160k32" if n % 160 == 0 else "m128n128k32"
        reason = "a large problem"
    elif k >= 512:
        tile, reason = "m64n64k128", "K is at least 512"
    elif k >= 256:
        tile, reason = "m64n64k64", "K is at least 256"
    elif n % 64 == k % 64 == 0 and blocks_of_64 <= 256:
        tile, reason = "m64n64k64", f"its blocks divide N and K, and are few ({blocks_of_64})"
    elif n % 48 == 0 and k % 48 == 0:
        tile, reason = "m64n48k48", "its blocks divide N and K"
    else:
        tile, reason = "m64n64k32", "the tile for all else"
    return (able[tile], reason) if tile in able else None


def _choose_coopmat(
    able: dict[str, shaders.Variant], problem: Problem
) -> tuple[shaders.Variant, str] | None:
    """Return the tile measured best on an NVIDIA H100, and why; None if the device lacks it."""
    wide, narrow = "m64n64k32", "m64n32k32"
    if wide in able and problem.out_shape[1] % 64 == 0:
        count = math.prod(blocks(able[wide], problem.outputs))
        if count >= 256:
            return able[wide], f"its blocks divide N, and fill the device ({count})"
    return (able[narrow], "the tile for all else") if narrow in able else None


def _preference(context: Context, storage: str, dtype: DType) -> Preference:
    measured = _PREFERENCES.get((storage, context.info.type, dtype))
    return measured or _PREFERENCES_ELSEWHERE[storage]
