"""Matrix products over tiles, as convolution and linear layers share them: what fits, which tile.

X[B, M, K] · W[B, N, K]ᵀ: a tile cuts M and N into blocks, and takes K in steps.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

from pwconv import heuristics, shaders
from pwconv.context import Context
from pwconv.dispatch import MOST_TRIPS
from pwconv.dtypes import DType, axis_name
from pwconv.errors import UnsupportedError
from pwconv.heuristics import Choice, block_shape
from pwconv.layout import Shape4, ceil_div, packed_extent, weight_rows_bytes
from pwconv.vk.commands import Size3
from pwconv.weights import WeightShape

_RUN = 128  # products: 4·RUN_K4 of tiled_matmul.glslh


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

    @property
    def gathered(self) -> bool:
        """True where x is gathered by a stride, padding or taps."""
        return False

    @property
    def shared(self) -> int:
        """Positions that each sample takes of M where the batch's share tiles, and else 0."""
        return 0

    @abstractmethod
    def considered(self, context: Context, weight_storage: str) -> tuple[shaders.Variant, ...]:
        """Return every variant that computes such problems."""


def blocks(variant: shaders.Variant, outputs: Size3) -> Size3:
    """Return how many blocks outputs are cut into: along M, along N, and batches."""
    m, n, batches = outputs
    tile_m, tile_n = block_shape(variant)
    return -(-m // tile_m), -(-n // tile_n), batches


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
    """Return how often an invocation's loops go round to sum K products."""
    steps = ceil_div(k, step_along_k(variant))
    # A run's loop has ended, and that of the runs goes round.
    return steps + 2 * ceil_div(k, _RUN) if _sums_runs(variant) else steps


def most_products(variant: shaders.Variant) -> int:
    """Return the largest K of whole steps and runs that its loops may sum."""
    if not _sums_runs(variant):
        return MOST_TRIPS * step_along_k(variant)
    return MOST_TRIPS // trips(variant, _RUN) * _RUN


def _sums_runs(variant: shaders.Variant) -> bool:
    return not {"BLOCK_K", "SLICES"} & variant.defines.keys()


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


def candidates(
    context: Context, problem: Product, weight_storage: str
) -> dict[str, shaders.Variant]:
    """Return every variant, by name, that the device can run on the problem.

    Raises
    ------
    UnsupportedError
        As :func:`runnable`.
    """
    return runnable(context, problem.considered(context, weight_storage), problem)


def choose(context: Context, problem: Product, weight_storage: str) -> Choice:
    """Return the variant expected to be fastest, by heuristics.toml.

    Raises
    ------
    UnsupportedError
        As :func:`runnable`.
    """
    choice = heuristics.choose(
        problem.kind,
        context.info,
        candidates(context, problem, weight_storage),
        storage=problem.storage,
        dtype=problem.dtype,
        outputs=problem.outputs,
        k=problem.products,
        gathered=problem.gathered,
    )
    if not problem.shared:
        return choice
    return replace(choice, reason=f"{choice.reason}; {problem.out_shape[0]} samples share tiles")


def preferred_weight_storage(
    context: Context, kind: str, storage: str, dtype: DType, shape: WeightShape
) -> str:
    """Return the storage to prefer for a weight [B, N, K], or "auto" if that is too small for it.

    ``kind`` and ``storage`` are of the operator and its activations.
    """
    width, height = packed_extent(*shape)
    fits = width * height * 4 * dtype.itemsize <= context.limits["maxStorageBufferRange"]
    return heuristics.weight_storage(kind, context.info, storage, dtype) if fits else "auto"
