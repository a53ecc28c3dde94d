"""Choice of the variant that computes two pointwise convolutions as one, where it gains."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pwconv import shaders
from pwconv.context import Context
from pwconv.dispatch import MOST_TRIPS
from pwconv.dtypes import axis_name
from pwconv.kernels.conv2d_pw import MOST_SHARED
from pwconv.kernels.conv2d_pw_pair import PairProblem, most_channels, pair_trips
from pwconv.kernels.tiling import Choice, rows_fit
from pwconv.layout import ceil_div

_COOPMAT, _COOPMAT2 = "conv2d_pw_pair_coopmat", "conv2d_pw_pair_coopmat2"

_STAGED_BUFFER = "conv2d_pw_pair_staged_buffer"
_STAGED_TEXTURE3D = "conv2d_pw_pair_staged_texture3d"


@dataclass(frozen=True)
class _Gain:
    """A kernel, and the sizes of the pairs that it computes faster than two dispatches.

    Attributes
    ----------
    family, tile : str
    most : int
        Largest N and K.
    least_blocks : int
        Fewest blocks of positions.
    most_slices : float
        Most slices of hidden channels.
    whole_slices : bool
        The slices must divide the hidden channels.
    """

    family: str
    tile: str
    most: int
    least_blocks: int
    most_slices: float = math.inf
    whole_slices: bool = False

    def suits(self, variant: shaders.Variant, problem: PairProblem) -> bool:
        """Return whether it gains on a problem."""
        slices = problem.hidden / variant.defines["BLOCK_H"]
        return (
            max(problem.out_channels, problem.x_shape[1]) <= self.most
            and _blocks(variant, problem) >= self.least_blocks
            and slices <= self.most_slices
            and (not self.whole_slices or slices.is_integer())
        )


# By type of device, storage and dtype.
#
# "discrete" was measured on an NVIDIA H100 (2026-11-22) over RepViT's channel mixers (48 channels
# at 256×256, 96 at 128×128, 192 at 64×64), fused against two dispatches, in µs:
#   coopmat2            20 : 28    16 : 21    16 : 18
#   coopmat             23 : 41    21 : 27    23 : 23
#   staged, textures    88 : 122   76 : 73    70 : 58    (float16)
# and coopmat2 over heads of a neck, 48→256→32 at 256×256 and 96→256→64 at 128×128: 22 : 45 and
# 14 : 19. In float32 two dispatches are faster there, by 1.0 to 1.2 on textures and 1.2 to 1.3 on
# buffers: narrower tiles lose the memory traffic that fusion saves. "cpu" was measured on lavapipe
# (2026-11-22): on buffers 0.56 of the time of two with 48 channels at 64×64, and 0.74 with 96 at
# 32×32 (float16 0.56 and 0.77), on textures three times as much. Other devices are not measured.
_CPU_BUFFER = (
    _Gain(_STAGED_BUFFER, "64x48x16", 48, 16),
    _Gain(_STAGED_BUFFER, "32x96x16", 96, 16),
)
_GAINS: dict[tuple[str, str, str], tuple[_Gain, ...]] = {
    ("discrete", "buffer", "float16"): (
        _Gain(_COOPMAT2, "m64h64", 128, 64, whole_slices=True),
        _Gain(_COOPMAT2, "m64h32", 128, 64),
        # Its slices are unrolled.
        _Gain(_COOPMAT2, "m32h96", 192, 64, most_slices=8),
        _Gain(_COOPMAT, "m64n48h16", 48, 256),
        _Gain(_COOPMAT, "m64n96h32", 96, 256),
    ),
    ("discrete", "texture3d", "float16"): (_Gain(_STAGED_TEXTURE3D, "128x48x8", 48, 512),),
    ("cpu", "buffer", "float32"): _CPU_BUFFER,
    ("cpu", "buffer", "float16"): _CPU_BUFFER,
}


def candidates(
    context: Context, problem: PairProblem, weight_storage: str
) -> list[shaders.Variant]:
    """Return every variant that the device can run on the problem."""
    considered = shaders.variants(
        f"conv2d_pw_pair_staged_{problem.storage}",
        dtype=axis_name(problem.dtype),
        weight=weight_storage,
    )
    rows = (
        (problem.hidden, problem.x_shape[1]),
        (problem.out_channels, problem.hidden),
    )
    if (
        problem.storage == "buffer"
        and problem.dtype.itemsize == 2
        and all(rows_fit(context, n, k) for n, k in rows)
    ):
        considered += [*shaders.variants(_COOPMAT), *shaders.variants(_COOPMAT2)]
    return [
        v
        for v in considered
        if context.can_run(v)
        and pair_trips(v, problem.x_shape[1], problem.hidden) <= MOST_TRIPS
        and problem.x_shape[1] <= most_channels(v)[0]
        and problem.out_channels <= most_channels(v)[1]
    ]


def choose_pair(context: Context, problem: PairProblem, weight_storage: str) -> Choice | None:
    """Return a variant expected to be faster than two dispatches, or None.

    Where images are so small that two dispatches share their tiles among samples, nothing is.
    """
    if problem.x_shape[0] > 1 and problem.positions <= MOST_SHARED:
        return None
    able = {(v.family, v.axes["tile"]): v for v in candidates(context, problem, weight_storage)}
    where = context.info.type, problem.storage, problem.dtype.name
    for gain in _GAINS.get(where, ()):
        variant = able.get((gain.family, gain.tile))
        if variant is not None and gain.suits(variant, problem):
            reason = (
                f"two convolutions as one: N and K are at most {gain.most}, blocks: "
                f"{_blocks(variant, problem)}"
            )
            return Choice(variant, (1, 1, 1), reason)
    return None


def _blocks(variant: shaders.Variant, problem: PairProblem) -> int:
    return ceil_div(problem.positions, variant.defines["BLOCK_M"]) * problem.x_shape[0]
