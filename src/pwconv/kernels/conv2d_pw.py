"""Pointwise convolution.

On textures conv2d_pw_tiled.comp; on buffers conv2d_pw_staged_buffer.comp or, for float16 where the
device has what it needs, conv2d_pw_coopmat2.comp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pwconv import shaders
from pwconv.activation import Activation
from pwconv.dispatch import Dispatcher, Plan
from pwconv.dtypes import DType, axis_name
from pwconv.errors import UnsupportedError
from pwconv.layout import (
    Shape4,
    ceil_div,
    conv_output_size,
    packed_extent,
    row_pitch,
    weight_rows_extent,
)


@dataclass(frozen=True)
class Geometry:
    """Stride and padding, each (along H, along W)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def output_shape(self, x_shape: Shape4, out_channels: int) -> Shape4:
        """Return [N, C_out, H_out, W_out]; sizes below 1 mean that there is no output."""
        n, _, h, w = x_shape
        return (
            n,
            out_channels,
            conv_output_size(h, self.stride[0], self.padding[0]),
            conv_output_size(w, self.stride[1], self.padding[1]),
        )


@dataclass(frozen=True)
class Problem:
    """A convolution to be computed: shapes, types, storage of the activations."""

    storage: str
    x_shape: Shape4
    out_shape: Shape4
    dtype: DType
    accumulate: DType
    geometry: Geometry

    @property
    def positions(self) -> int:
        """M of one sample."""
        return self.out_shape[2] * self.out_shape[3]


@dataclass(frozen=True)
class _Preference:
    """What suits a type of device, for one storage of activations.

    Attributes
    ----------
    tiles : tuple of str
        Best first; the last fits every shape.
    enough : int
        Tiles that the output must be cut into, or else the device stands partly idle and a smaller
        tile is better.
    workgroup : tuple of int
        Preferred shape, where the kernel leaves it open.
    weight_storage : str
        Of a weight that the layer packs itself.
    """

    tiles: tuple[str, ...]
    enough: int
    workgroup: tuple[int, int, int] = (8, 8, 1)
    weight_storage: str = "auto"


_FAMILIES = {"texture3d": "conv2d_pw_tiled", "buffer": "conv2d_pw_staged_buffer"}
_COOPMAT2 = "conv2d_pw_coopmat2"

# Measured over the twelve EdgeTAM shapes: "discrete" on an NVIDIA H100, where a weight in a buffer
# takes 0.6 of the time of one in a texture, and "cpu" on lavapipe. The rest is not measured.
_PREFERENCES = {
    ("texture3d", "discrete"): _Preference(("m2n2k2", "m1n1k1"), 32768, (32, 8, 1), "buffer"),
    ("texture3d", "cpu"): _Preference(("m8n2k1", "m4n1k1", "m1n1k1"), 64),
}
_PREFERENCES_ELSEWHERE = {
    "texture3d": _Preference(("m4n2k1", "m4n1k1", "m1n1k1"), 4096),
    "buffer": _Preference(
        ("128x64x8", "64x64x8", "128x48x8", "128x32x16", "32x64x16", "32x32x32"),
        256,
        weight_storage="buffer",
    ),
}

# A tile that computes this much more than another, past the output channels there are, is no rival.
_WASTE_ALLOWED = 1.2


def preferred_weight_storage(
    dispatcher: Dispatcher, storage: str, dtype: DType, n: int, k: int
) -> str:
    """Return how a layer should pack a weight [N, K] on this device."""
    wanted = _preference(dispatcher, storage).weight_storage
    width, height = packed_extent(1, n, k)
    fits = width * height * 4 * dtype.itemsize <= dispatcher.limits["maxStorageBufferRange"]
    return wanted if fits else "auto"


def choose_variant(
    dispatcher: Dispatcher, problem: Problem, weight_storage: str
) -> shaders.Variant:
    """Return the variant that should be fastest: tensor cores, or else the best-fitting tile.

    Raises
    ------
    UnsupportedError
        The device can run none, for lack of a feature.
    """
    half_sums = problem.accumulate.itemsize == 2
    if problem.storage == "buffer" and problem.dtype.itemsize == 2 and not half_sums:
        variant = _choose_coopmat2(dispatcher, problem)
        if variant:
            return variant
    precision = axis_name(problem.dtype) + ("acc16" if half_sums else "")
    family = _FAMILIES[problem.storage]
    candidates = shaders.variants(family, dtype=precision, weight=weight_storage)
    able, lacks = _able(dispatcher, candidates)
    if not able:
        raise UnsupportedError(
            f"accumulate = '{problem.accumulate}' needs {lacks[0]}, which "
            f"{dispatcher.device.info.name} does not have; use accumulate='float32'"
        )
    preference = _preference(dispatcher, problem.storage)
    ranked = [able[tile] for tile in preference.tiles if tile in able]
    enough = [v for v in ranked if math.prod(_tiles(v, problem)) >= preference.enough]
    least = min((_waste(v, problem) for v in enough), default=0.0)
    return next((v for v in enough if _waste(v, problem) <= least * _WASTE_ALLOWED), ranked[-1])


def plan_conv2d_pw(
    dispatcher: Dispatcher, variant: shaders.Variant, problem: Problem, activation: Activation
) -> Plan:
    """Plan a convolution over at least one output.

    The plan's resources are ``t_in``, ``t_out``, ``bias``, a buffer of float32 that is zero past
    C_out, and ``packed_weight`` or ``weight_rows``.
    """
    n, c_in, h_in, w_in = problem.x_shape
    _, c_out, _, w_out = problem.out_shape
    geometry, itemsize = problem.geometry, problem.dtype.itemsize
    tile_m, tile_n = _tile_shape(variant)
    tiles = _tiles(variant, problem)
    grid = (tiles[0] * variant.workgroup[0], *tiles[1:]) if variant.workgroup else tiles
    return dispatcher.plan(
        variant,
        grid,
        {
            "batches": n,
            "M": problem.positions,
            "N": c_out,
            "K": c_in,
            "N4": ceil_div(c_out, 4),
            "K4": ceil_div(c_in, 4),
            "pitch_out": row_pitch(problem.positions, itemsize),
            "pitch_in": row_pitch(h_in * w_in, itemsize),
            "pitch_weight": weight_rows_extent(c_out, c_in)[1],
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
            "POINTWISE_GRID": geometry == Geometry(),
            "WHOLE_STEPS": c_in % variant.defines.get("BLOCK_K", 1) == 0,
            "WHOLE_BLOCKS": problem.positions % tile_m == 0 and c_out % tile_n == 0,
        },
        shape=_preference(dispatcher, problem.storage).workgroup,
    )


def _choose_coopmat2(dispatcher: Dispatcher, problem: Problem) -> shaders.Variant | None:
    """Return the variant for tensor cores; None where the device or the geometry has no use for it.

    Tiles as measured on an NVIDIA H100.
    """
    able, _ = _able(dispatcher, shaders.variants(_COOPMAT2))
    if not able or problem.geometry != Geometry():
        return None
    n, k = problem.out_shape[1], problem.x_shape[1]
    if n <= 32:
        return able["m128n32k64"]
    if n * k * problem.positions >= 2**32:
        return able["m128n96k48"]
    if k >= 256:
        return able["m64n64k64"]
    return able["m64n96k48" if n % 96 == 0 and k % 48 == 0 else "m64n64k32"]


def _able(
    dispatcher: Dispatcher, candidates: list[shaders.Variant]
) -> tuple[dict[str, shaders.Variant], list[str]]:
    """Return the variants that the device can run, by tile, and what the others lack."""
    lacks = {v.axes["tile"]: v.unmet(dispatcher.limits, dispatcher.features) for v in candidates}
    able = {v.axes["tile"]: v for v in candidates if not lacks[v.axes["tile"]]}
    return able, [lack for lack in lacks.values() if lack]


def _preference(dispatcher: Dispatcher, storage: str) -> _Preference:
    elsewhere = _PREFERENCES_ELSEWHERE[storage]
    return _PREFERENCES.get((storage, dispatcher.device.info.type), elsewhere)


def _tile_shape(variant: shaders.Variant) -> tuple[int, int]:
    """Return the positions and output channels of what one workgroup, or invocation, computes."""
    if variant.workgroup:
        return variant.defines["BLOCK_M"], variant.defines["BLOCK_N"]
    return variant.defines["TILE_M"], 4 * variant.defines["TILE_N4"]


def _tiles(variant: shaders.Variant, problem: Problem) -> tuple[int, int, int]:
    tile_m, tile_n = _tile_shape(variant)
    channels = ceil_div(problem.out_shape[1], tile_n)
    return ceil_div(problem.positions, tile_m), channels, problem.out_shape[0]


def _waste(variant: shaders.Variant, problem: Problem) -> float:
    """Return the output channels computed for each that there is."""
    tile_n = _tile_shape(variant)[1]
    return ceil_div(problem.out_shape[1], tile_n) * tile_n / problem.out_shape[1]
