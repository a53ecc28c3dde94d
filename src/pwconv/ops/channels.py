"""Channels of some tensors as those of another: concat, slice; gather_channels, copy_rows.comp."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pwconv import reference, shaders
from pwconv.dtypes import Array, axis_name
from pwconv.heuristics import Choice
from pwconv.layout import Shape4, buffer_rows, ceil_div, sizes
from pwconv.ops.base import Case, Operator, Site, operator
from pwconv.ops.cases import of_integers, plane_sizes
from pwconv.ops.limits import Limits
from pwconv.reference import Approximation
from pwconv.tensor import Shape, shape4
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

    def take(self, array: Array) -> Array:
        """Return it of the source's [..., C, H, W]."""
        return array[..., self.first : self.first + self.count, :, :]


@dataclass(frozen=True, eq=False, kw_only=True)
class Pieces(Operator):
    """An output made of pieces of the inputs, one after the other."""

    copies = True

    @abstractmethod
    def pieces(self, inputs: Sequence[Shape]) -> list[Piece]:
        """Return the pieces, in order."""

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan a dispatch a piece on buffers, and on textures for several."""
        make = _copy_rows if site.storage == "buffer" else _gather
        return list(make(site, self.pieces(inputs), shape4(out, "output")))

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the pieces, joined."""
        pieces = self.pieces([each.value.shape for each in inputs])
        taken = [inputs[piece.source].moved(piece.take) for piece in pieces]
        return reference.concatenate(taken, -3)


@operator("concat")
@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Pieces):
    """The inputs' channels, one input after the other."""

    families = ("gather_channels",)
    operands = ()

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, the sum of all C, H, W], or without N."""
        first = inputs[0]
        for shape in inputs[1:]:
            if (shape[:-3], shape[-2:]) != (first[:-3], first[-2:]):
                raise ValueError(
                    f"the operands have shapes {first} and {shape}; they may differ in channels "
                    "only"
                )
        return (*first[:-3], sum(shape[-3] for shape in inputs), *first[-2:])

    def pieces(self, inputs: Sequence[Shape]) -> list[Piece]:
        """Return each input, whole."""
        return [Piece(i, shape[-3], 0, shape[-3]) for i, shape in enumerate(inputs)]

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield several sizes: two tensors, out of step with vec4s."""
        for name, (n, c, h, w) in plane_sizes(limits.extent()).items():
            fewer = max(c - 2, 1)
            yield of_integers(name, cls(), ((n, fewer, h, w), (n, c, h, w)), limits.dtype)
        yield from Slice.cases(limits)


@operator("slice")
@dataclass(frozen=True, eq=False, kw_only=True)
class Slice(Pieces):
    """Channels ``start`` … ``stop − 1``."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(
                f"start is {self.start} and stop is {self.stop}; it must be 0 ≤ start < stop"
            )

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, stop − start, H, W], or without N."""
        (x,) = inputs
        if self.stop > x[-3]:
            raise ValueError(f"stop is {self.stop}; x has shape {x}, {x[-3]} channels")
        return (*x[:-3], self.stop - self.start, *x[-2:])

    def pieces(self, inputs: Sequence[Shape]) -> list[Piece]:
        """Return the one piece."""
        return [Piece(0, inputs[0][-3], self.start, self.stop - self.start)]

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield several sizes: all but the first two channels, where there are more."""
        for name, (n, c, h, w) in plane_sizes(limits.extent()).items():
            start = min(c - 1, 2)
            yield of_integers(
                f"{name}, slice", cls(start=start, stop=c), ((n, c, h, w),), limits.dtype
            )


def _copy_rows(site: Site, pieces: Sequence[Piece], shape: Shape4) -> Iterator[Dispatch]:
    """Copy each piece: in each sample its rows are consecutive."""
    dtype = site.dtype
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
        plan = site.context.plan(variant, grid, own, shape=(64, 1, 1))
        yield Dispatch(plan, {"staging": piece.source, "target": OUT})
        begin += piece.count


def _gather(site: Site, pieces: Sequence[Piece], shape: Shape4) -> Iterator[Dispatch]:
    """Gather runs of texels, each from as many pieces as the shader takes."""
    variant = shaders.variant("gather_channels", dtype=axis_name(site.dtype))
    n, c, h, w = shape
    # Of the output alone: each source has its C4.
    known = sizes(shape, shape, "texture3d", site.dtype.itemsize)
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
        yield Dispatch(
            site.context.plan(variant, (w, h, (end - n4) * n), {**known, **own}), bindings
        )
        n4 = end
