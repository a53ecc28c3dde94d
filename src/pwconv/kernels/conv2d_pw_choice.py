"""Which variant computes a pointwise convolution, and why."""

from __future__ import annotations

from pwconv import shaders
from pwconv.dispatch import Dispatcher
from pwconv.dtypes import DType, axis_name
from pwconv.kernels.conv2d_pw import Geometry, Problem
from pwconv.kernels.tiling import (
    Choice,
    Preference,
    choose_tile,
    fitting_weight_storage,
    runnable,
)

_FAMILIES = {
    "texture3d": ("conv2d_pw_staged_texture3d", "conv2d_pw_tiled"),
    "buffer": ("conv2d_pw_staged_buffer",),
}
_COOPMAT2 = "conv2d_pw_coopmat2"

# Measured over the twelve EdgeTAM shapes: "discrete" on an NVIDIA H100, where a weight in a buffer
# takes 0.6 of the time of one in a texture, and "cpu" on lavapipe, where a workgroup's barriers
# cost more than they save. The rest is not measured: `pwconv tune` is for it.
_PREFERENCES = {
    ("texture3d", "discrete"): Preference(
        (
            ("128x48x8", 512),
            ("64x64x16", 256),
            ("128x48x16s2", 256),
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
    ("texture3d", "cpu"): Preference(
        (("m16n3k1", 64), ("m8n2k1", 64), ("m4n1k1", 64), ("m1n1k1", 0)), weight_storage="buffer"
    ),
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


def preferred_weight_storage(
    dispatcher: Dispatcher, storage: str, dtype: DType, n: int, k: int
) -> str:
    """Return how a layer should pack a weight [N, K] on this device."""
    preference = _preference(dispatcher, storage)
    return fitting_weight_storage(dispatcher, preference, dtype, (1, n, k))


def candidates(
    dispatcher: Dispatcher, problem: Problem, weight_storage: str
) -> dict[str, shaders.Variant]:
    """Return every variant, by name, that the device can run on the problem.

    Raises
    ------
    UnsupportedError
        There is none, for lack of a feature.
    """
    half_sums = problem.accumulate.itemsize == 2
    precision = axis_name(problem.dtype) + ("acc16" if half_sums else "")
    considered = [
        variant
        for family in _FAMILIES[problem.storage]
        for variant in shaders.variants(family, dtype=precision, weight=weight_storage)
    ]
    if _suits_matrices(problem):
        considered += shaders.variants(_COOPMAT2, dtype=precision)
    return runnable(dispatcher, considered, problem)


def choose(dispatcher: Dispatcher, problem: Problem, weight_storage: str) -> Choice:
    """Return what should be fastest: tensor cores, or else the best-fitting tile.

    Raises
    ------
    UnsupportedError
        The device can run no variant, for lack of a feature.
    """
    able = candidates(dispatcher, problem, weight_storage)
    preference = _preference(dispatcher, problem.storage)
    matrices = {v.axes["tile"]: v for v in able.values() if v.family == _COOPMAT2}
    if matrices:
        variant, reason = _choose_matrices(matrices, problem)
        return Choice(variant, preference.workgroup, reason)
    by_tile = {v.axes["tile"]: v for v in able.values()}
    return choose_tile(by_tile, preference, problem)


def _suits_matrices(problem: Problem) -> bool:
    """Return whether cooperative matrices compute it: float16 rows, as they lie in buffers."""
    return (
        problem.storage == "buffer"
        and problem.dtype.itemsize == 2
        and problem.accumulate.itemsize == 4
        and problem.geometry == Geometry()
    )


def _choose_matrices(
    able: dict[str, shaders.Variant], problem: Problem
) -> tuple[shaders.Variant, str]:
    """Return the variant for tensor cores, as measured on an NVIDIA H100, and why."""
    n, k = problem.out_shape[1], problem.x_shape[1]
    if n <= 32:
        return able["m128n32k64"], "tensor cores; N is at most 32"
    if n * k * problem.positions >= 2**32:
        return able["m128n96k48"], "tensor cores; a large problem"
    if k >= 256:
        return able["m64n64k64"], "tensor cores; K is at least 256"
    if n % 96 == 0 and k % 48 == 0:
        return able["m64n96k48"], "tensor cores; its blocks divide N and K"
    return able["m64n64k32"], "tensor cores"


def _preference(dispatcher: Dispatcher, storage: str) -> Preference:
    elsewhere = _PREFERENCES_ELSEWHERE[storage]
    return _PREFERENCES.get((storage, dispatcher.device.info.type), elsewhere)
