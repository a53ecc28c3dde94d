"""Matrix products over tiles, as convolution and linear layers share them: what fits, which tile.

X[B, M, K] · W[B, N, K]ᵀ: a tile cuts M and N into blocks, and takes K in steps.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from pwconv import shaders
from pwconv.context import Context
from pwconv.dispatch import MOST_TRIPS
from pwconv.dtypes import DType, axis_name
from pwconv.errors import UnsupportedError
from pwconv.layout import Shape4, ceil_div, packed_extent, weight_rows_bytes
from pwconv.ops.base import Choice
from pwconv.vk.commands import Size3

# A tile that computes this much more than another, past the output channels there are, is no rival.
_WASTE_ALLOWED = 1.1


@dataclass(frozen=True)
class Product(ABC):
    """A matrix product to be computed.

    Attributes
    ----------
    kind : str
        The operator's.
    storage : "texture3d" or "buffer"
        Of activations.
    x_shape, out_shape : tuple of int
        [N, C, H, W].
    dtype, accumulate : numpy.dtype
        Of factors and results, and of sums.
    """

    kind: ClassVar[str]
    storage: str
    x_shape: Shape4
    out_shape: Shape4
    dtype: DType
    accumulate: DType

    @property
    @abstractmethod
    def outputs(self) -> Size3:
        """M, N and batches."""

    @property
    @abstractmethod
    def products(self) -> int:
        """K: products summed for each output."""


class Preference(NamedTuple):
    """Tiles, workgroup and weight storage for a type of device and a storage of activations.

    Attributes
    ----------
    tiles : tuple of (str, int)
        Best first; the last fits every shape. The number is of blocks: with fewer of them the
        device stands partly idle, and a tile that comes later is better.
    workgroup : tuple of int
        Preferred shape, where the kernel leaves it open.
    weight_storage : str
        Of a weight that the layer packs itself.
    """

    tiles: tuple[tuple[str, int], ...]
    workgroup: Size3 = (8, 8, 1)
    weight_storage: str = "auto"


@functools.cache
def block_shape(variant: shaders.Variant) -> tuple[int, int]:
    """Return the positions and output channels of the block of a workgroup or invocation."""
    if variant.workgroup:
        return variant.defines["BLOCK_M"], variant.defines["BLOCK_N"]
    return variant.defines["TILE_M"], 4 * variant.defines["TILE_N4"]


def blocks(variant: shaders.Variant, outputs: Size3) -> Size3:
    """Return how many blocks outputs are cut into: along M, along N, and batches."""
    m, n, batches = outputs
    tile_m, tile_n = block_shape(variant)
    return ceil_div(m, tile_m), ceil_div(n, tile_n), batches


def grid(variant: shaders.Variant, outputs: Size3) -> Size3:
    """Return the invocations that outputs take along each axis."""
    along_m, along_n, batches = blocks(variant, outputs)
    return along_m * (variant.workgroup[0] if variant.workgroup else 1), along_n, batches


@functools.cache
def step_along_k(variant: shaders.Variant) -> int:
    """Return how much of K one trip of an invocation's loop takes."""
    defines = variant.defines
    # In sliced kernels without staging each invocation takes a part of K.
    return int(defines.get("BLOCK_K") or 4 * defines["TILE_K4"] * defines.get("SLICES", 1))


def trips(variant: shaders.Variant, k: int) -> int:
    """Return how often an invocation's loop goes round to sum K products."""
    return ceil_div(k, step_along_k(variant))


def rows_fit(context: Context, n: int, k: int) -> bool:
    """Return whether a weight [N, K] fits a buffer as the padded rows that matrices are read from.

    With few channels the rows take many times the bytes of the blocks.
    """
    return bool(weight_rows_bytes(n, k) <= context.limits["maxStorageBufferRange"])


@functools.cache
def tiled_variants(
    families: tuple[str, ...], dtype: DType, accumulate: DType, weight_storage: str
) -> tuple[shaders.Variant, ...]:
    """Return the variants of some families for a problem's types and a weight's storage."""
    precision = axis_name(dtype) + ("acc16" if accumulate.itemsize == 2 else "")
    return tuple(
        variant
        for family in families
        for variant in shaders.variants(family, dtype=precision, weight=weight_storage)
    )


def runnable(
    context: Context, considered: tuple[shaders.Variant, ...], problem: Product
) -> dict[str, shaders.Variant]:
    """Return those of the variants, by name, that the device can run on the problem.

    Raises
    ------
    UnsupportedError
        There is none, for lack of a feature, for a limit, because all are denied, or because K is
        so long that a loop over it would take more trips than :data:`MOST_TRIPS`.
    """
    able = short = context.able(considered)
    if problem.products > MOST_TRIPS:  # a trip takes one product at least
        short = tuple(v for v in able if trips(v, problem.products) <= MOST_TRIPS)
    if able and not short:
        least = min(trips(v, problem.products) for v in able)
        raise UnsupportedError(
            f"K = {problem.products:,} products would take {least:,} trips of a loop, and at most "
            f"{MOST_TRIPS:,} are taken: some drivers stop a loop after 65,535, without a word; "
            "split the input channels over several layers, and add their results"
        )
    if not able:
        context.require_allowed(considered)
        lack = str(context.unmet(considered[0])).removeprefix("the feature ")
        if problem.accumulate.itemsize == 2:
            raise UnsupportedError(
                f"accumulate='float16' needs {lack}, which {context.info.name} lacks; use "
                "accumulate='float32'"
            )
        raise UnsupportedError(
            f"storage='{problem.storage}' with dtype='{problem.dtype}' needs {lack}, which "
            f"{context.info.name} lacks; use another storage, or another device"
        )
    return {v.name: v for v in short}


def choose_tile(
    by_tile: Mapping[str, shaders.Variant], preference: Preference, problem: Product
) -> Choice:
    """Return the best-fitting tile of those that a device prefers, or the smallest one.

    The device can run the last of the preferred tiles, unless it is denied.
    """
    known = [(by_tile[tile], least) for tile, least in preference.tiles if tile in by_tile]
    if not known:
        smallest = min(by_tile.values(), key=lambda v: math.prod(block_shape(v)))
        reason = "the smallest tile: those that the device prefers are denied, or K is too long"
        return Choice(smallest, preference.workgroup, reason)
    m, n, batches = problem.outputs
    filling = []  # each with its blocks, and the output channels computed for each that there is
    for variant, least in known:
        tile_m, tile_n = block_shape(variant)
        along_n = ceil_div(n, tile_n)
        count = ceil_div(m, tile_m) * along_n * batches
        # A block of more than 2·M rows is mostly idle, in each batch.
        if count >= least and tile_m <= 2 * m:
            filling.append((variant, count, along_n * tile_n / n))
    least_waste = min((waste for _, _, waste in filling), default=0.0)
    for variant, count, waste in filling:
        if waste <= least_waste * _WASTE_ALLOWED:
            reason = (
                f"the first of {', '.join([v.axes['tile'] for v, _ in known])} that fills the "
                f"device (blocks: {count}) and wastes little on M and N"
            )
            return Choice(variant, preference.workgroup, reason)
    reason = "no tile that M half fills cuts the output into blocks enough: the smallest"
    return Choice(known[-1][0], preference.workgroup, reason)


def fitting_weight_storage(
    context: Context, preference: Preference, dtype: DType, shape: tuple[int, int, int]
) -> str:
    """Return the preferred storage of a weight [B, N, K], or "auto" if that is too small for it."""
    width, height = packed_extent(*shape)
    fits = width * height * 4 * dtype.itemsize <= context.limits["maxStorageBufferRange"]
    return preference.weight_storage if fits else "auto"
