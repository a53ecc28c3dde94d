"""Channels of some tensors to those of another: copy_rows.comp, gather_channels.comp."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pwconv import shaders
from pwconv.context import Context
from pwconv.dtypes import DType, axis_name
from pwconv.layout import Shape4, buffer_rows, ceil_div, sizes
from pwconv.vk.commands import OUT, Dispatch
from pwconv.vk.resources import Resource

# Channels of a texel: so many sources it may have.
_LANES = 4


@dataclass(frozen=True)
class Piece:
    """Channels ``first`` … ``first + count − 1`` of source ``source``, which has ``channels``."""

    source: int
    channels: int
    first: int
    count: int


def plan_channels(
    context: Context, storage: str, pieces: Sequence[Piece], shape: Shape4, dtype: DType
) -> list[Dispatch]:
    """Plan a tensor [N, C, H, W] made of pieces of others of its N, H and W, one after the other.

    The dispatches do not depend on each other; their operands are the sources, by number.
    """
    if storage == "buffer":
        return list(_copy_rows(context, pieces, shape, dtype))
    return list(_gather(context, pieces, shape, dtype))


def _copy_rows(
    context: Context, pieces: Sequence[Piece], shape: Shape4, dtype: DType
) -> Iterator[Dispatch]:
    """Copy each piece: in each sample its rows are consecutive."""
    name = axis_name(dtype)
    variant = shaders.variant("copy_rows", source=name, dtype=name)
    n, c = shape[:2]
    _, pitch = buffer_rows(shape, dtype.itemsize)
    begin = 0
    for piece in pieces:
        elements = piece.count * pitch
        own = {
            "rows": n,
            "positions": elements,
            "source_first": piece.first * pitch,
            "source_pitch": piece.channels * pitch,
            "target_first": begin * pitch,
            "target_pitch": c * pitch,
        }
        grid = (elements // (4 // dtype.itemsize), n, 1)
        plan = context.plan(variant, grid, own, shape=(64, 1, 1))
        yield Dispatch(plan, {"staging": piece.source, "target": OUT})
        begin += piece.count


def _gather(
    context: Context, pieces: Sequence[Piece], shape: Shape4, dtype: DType
) -> Iterator[Dispatch]:
    """Gather runs of texels, each from as many pieces as the shader takes."""
    variant = shaders.variant("gather_channels", dtype=axis_name(dtype))
    n, c, h, w = shape
    # Of the output alone: each source has its C4.
    known = sizes(shape, shape, "texture3d", dtype.itemsize)
    begins = list(itertools.accumulate((piece.count for piece in pieces), initial=0))
    n4 = 0
    while n4 < known["N4"]:
        # From the piece that holds the run's first channel; the run ends with the last whole texel
        # of the last of its pieces.
        first = bisect_right(begins, 4 * n4) - 1
        last = min(first + _LANES, len(pieces)) - 1
        end = known["N4"] if last == len(pieces) - 1 else begins[last + 1] // 4
        run = [*range(first, last + 1)]
        run += [last] * (_LANES - len(run))
        own = {"n4_first": n4, "count": end - n4}
        bindings: dict[str, Resource | int] = {"t_out": OUT}
        for lane, i in enumerate(run):
            if lane:
                own[f"begin_{lane}"] = begins[i] if lane <= last - first else c
            own[f"shift_{lane}"] = (pieces[i].first - begins[i]) % 2**32
            own[f"C4_{lane}"] = ceil_div(pieces[i].channels, 4)
            bindings[f"t_{lane}"] = pieces[i].source
        yield Dispatch(context.plan(variant, (w, h, (end - n4) * n), {**known, **own}), bindings)
        n4 = end
