"""Pooling: global_avg_pool.comp, max_pool.comp, avg_pool.comp."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pwconv import reference
from pwconv.dtypes import Array
from pwconv.heuristics import Choice
from pwconv.layout import ceil_div, sizes
from pwconv.ops.base import Arrays, Case, Operator, Site, operator
from pwconv.ops.cases import at_sizes, integers, of_integers
from pwconv.ops.limits import Limits
from pwconv.ops.window import MOST_TAPS, Geometry, as_sides, window_shape
from pwconv.reference import Approximation
from pwconv.tensor import Shape, as_pair, shape4
from pwconv.vk.commands import OUT, Dispatch

# include/strided_sum.glslh: with more trips than so many, an invocation takes more at each.
_FEW_TRIPS, _MORE_TAKEN = 1024, 32
# A square image for which one texel a trip would be 65,535 trips and more.
_LONG_SIDE = 2909
_FEW_TAPS, _MANY_TAPS = Geometry((2, 1), (1, 1), (3, 3)), Geometry((1, 1), (1, 1), (31, 33))
# The last windows pass the padding's end.
_DILATED = Geometry((3, 2), (1, 1), (2, 3), (5, 2), ceil=True)


@operator("global_avg_pool")
@dataclass(frozen=True, eq=False, kw_only=True)
class GlobalAvgPool(Operator):
    """The mean of each channel over H and W, summed in float32."""

    families = ("global_avg_pool",)

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, C, 1, 1], or without N."""
        return (*inputs[0][:-2], 1, 1)

    def flop(self, inputs: Sequence[Shape], out: Shape) -> int:
        """Return the additions."""
        return math.prod(inputs[0])

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch: a workgroup a plane.

        Raises
        ------
        UnsupportedError
            H·W takes more trips of a loop than an invocation may make.
        """
        variant = choice.variant if choice else site.variant("global_avg_pool")
        assert variant.workgroup is not None
        threads = variant.workgroup[0]
        x, y = shape4(inputs[0], "x"), shape4(out, "output")
        known = sizes(x, y, site.storage, site.dtype.itemsize)
        positions = x[2] * x[3]
        vectors = ceil_div(positions, 4) if site.storage == "buffer" else positions
        taken = 1 if vectors <= _FEW_TRIPS * threads else _MORE_TAKEN
        plan = site.context.plan(
            variant,
            (threads, known["planes"], 1),
            known,
            {"TAKEN": taken},
            trips=ceil_div(vectors, threads * taken) + 2 * ceil_div(vectors, 64 * threads * taken),
        )
        return [Dispatch(plan, {"t_in": 0, "t_out": OUT})]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the means in float64."""
        return reference.mean(inputs[0])

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield whole numbers at several sizes, and a loop as long as tensors allow."""
        yield from at_sizes(limits, cls())
        most = limits.extent()
        if limits.storage == "buffer":  # whatever the device's textures take
            most_bytes = limits.context.limits["maxStorageBufferRange"]
            most = math.isqrt(most_bytes // (2 * limits.dtype.itemsize))
        side = min(_LONG_SIDE, most)
        yield of_integers("longest loop", cls(), ((1, 1, side, side),), limits.dtype)


@operator("max_pool")
@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Operator):
    """The largest element under a window, or NaN if there is one; padding is left out."""

    geometry: Geometry

    families = ("max_pool",)
    copies = True

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, C, H_out, W_out], or without N."""
        channels = inputs[0][-3]
        return window_shape(inputs[0], channels, channels, self.geometry)

    def flop(self, inputs: Sequence[Shape], out: Shape) -> int:
        """Return the comparisons."""
        return math.prod(self.geometry.kernel) * math.prod(out)

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        dispatch = site.dispatch(
            choice.variant if choice else site.variant("max_pool"),
            inputs[0],
            out,
            {"t_in": 0},
            self.geometry.constants,
            flop=self.flop(inputs, out),
            trips=math.prod(self.geometry.kernel),
            **self.geometry.push_constants,
        )
        return [dispatch]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the largest elements; a device's differ by no more than any under the window."""
        x = inputs[0]
        return Approximation(self._largest(x.value, -np.inf), self._largest(x.error, 0.0))

    def _largest(self, x: Array, outside: float) -> Array:
        counts = self.shape(x.shape)
        for axis in (-2, -1):
            at = _taps(self.geometry, axis, counts[axis])
            lines = x.swapaxes(axis, -1)
            inside = (at >= 0) & (at < lines.shape[-1])
            found = np.where(inside, lines.take(at, -1, mode="clip"), outside).max(-1)
            x = found.swapaxes(axis, -1)
        return x

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield whole numbers at several sizes, NaN and infinities, and many taps."""
        yield from at_sizes(limits, cls(geometry=_FEW_TAPS))
        yield _special(limits, cls(geometry=_DILATED))
        shape = (1, 6, *_MANY_TAPS.kernel)
        yield of_integers("longest loop", cls(geometry=_MANY_TAPS), (shape,), limits.dtype)


@operator("avg_pool")
@dataclass(frozen=True, eq=False, kw_only=True)
class AvgPool(Operator):
    """The mean under a window, summed in float32; 0 where nothing is counted.

    Attributes
    ----------
    geometry : Geometry
    count_padding : bool
        What a sum is divided by counts padding too; what is past it never.
    """

    geometry: Geometry
    count_padding: bool = True

    families = ("avg_pool",)

    def shape(self, *inputs: Shape) -> Shape:
        """Return [N, C, H_out, W_out], or without N."""
        channels = inputs[0][-3]
        return window_shape(inputs[0], channels, channels, self.geometry)

    def flop(self, inputs: Sequence[Shape], out: Shape) -> int:
        """Return the additions."""
        return math.prod(self.geometry.kernel) * math.prod(out)

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        *_, h, w = inputs[0]
        bottom, right = self.geometry.sides[2:]
        dispatch = site.dispatch(
            choice.variant if choice else site.variant("avg_pool"),
            inputs[0],
            out,
            {"t_in": 0},
            {**self.geometry.constants, "COUNT_PADDING": self.count_padding},
            flop=self.flop(inputs, out),
            trips=math.prod(self.geometry.kernel),
            **self.geometry.push_constants,
            end_h=h + bottom,
            end_w=w + right,
        )
        return [dispatch]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the means in float64."""
        *_, h, w = inputs[0].value.shape
        taps = [
            _taps(self.geometry, axis, count)
            for axis, count in zip((-2, -1), self.shape(inputs[0].value.shape)[-2:], strict=True)
        ]
        ends = self.geometry.sides[2:] if self.count_padding else (0, 0)
        first = -math.inf if self.count_padding else 0
        along_h, along_w = (
            ((at >= first) & (at < length + end)).sum(-1)
            for at, length, end in zip(taps, (h, w), ends, strict=True)
        )
        counts = np.maximum(along_h[:, None] * along_w, 1)
        return reference.window_means(inputs[0], taps, counts)

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield whole numbers at several sizes, windows past the padding, and many taps."""
        yield from at_sizes(limits, cls(geometry=_FEW_TAPS, count_padding=False))
        shape = (1, 6, *_MANY_TAPS.kernel)
        yield of_integers("past the end", cls(geometry=_DILATED), ((2, 7, 17, 19),), limits.dtype)
        yield of_integers("longest loop", cls(geometry=_MANY_TAPS), (shape,), limits.dtype)


def _taps(of: Geometry, axis: int, count: int) -> Array:
    """Return the position of each tap of each window along H or W, [windows, taps]."""
    taps = of.dilation[axis] * np.arange(of.kernel[axis]) - of.padding[axis]
    return of.stride[axis] * np.arange(count)[:, None] + taps


def make_max_pool(kernel: Any, **settings: Any) -> MaxPool:
    """Return max pooling by a user's numbers.

    Raises
    ------
    TypeError, ValueError
        As :meth:`pwconv.Graph.max_pool`.
    """
    return MaxPool(geometry=_pool_geometry(kernel, **settings))


def make_avg_pool(kernel: Any, *, count_include_pad: bool = True, **settings: Any) -> AvgPool:
    """Return average pooling by a user's numbers.

    Raises
    ------
    TypeError, ValueError
        As :meth:`pwconv.Graph.avg_pool`.
    """
    if not isinstance(count_include_pad, bool):
        raise TypeError(f"count_include_pad is {count_include_pad!r}; it must be True or False")
    return AvgPool(geometry=_pool_geometry(kernel, **settings), count_padding=count_include_pad)


def _pool_geometry(
    kernel: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Geometry:
    taps = as_pair(kernel, "kernel", least=1)
    if math.prod(taps) > MOST_TAPS:
        raise ValueError(
            f"kernel is {kernel!r}, of {math.prod(taps):,} taps KH·KW; at most {MOST_TAPS:,} are "
            "taken: pool by a smaller kernel, several times"
        )
    top, left, bottom, right = as_sides(padding)
    apart = dilation_h, dilation_w = as_pair(dilation, "dilation", least=1)
    most, what = (taps[0] // 2, taps[1] // 2), "half the kernel"
    if isinstance(padding, Sequence) and len(padding) == 4:  # as ONNX has it
        most = dilation_h * (taps[0] - 1), dilation_w * (taps[1] - 1)
        what = "the kernel less one tap"
    if max(top, bottom) > most[0] or max(left, right) > most[1]:
        raise ValueError(
            f"padding is {padding!r}; it must be at most {what}, {most} along H and W: "
            "pad by less, or use a larger kernel"
        )
    if not isinstance(ceil_mode, bool):
        raise TypeError(f"ceil_mode is {ceil_mode!r}; it must be True or False")
    return Geometry(
        stride=taps if stride is None else as_pair(stride, "stride", least=1),
        padding=(top, left),
        kernel=taps,
        dilation=apart,
        ceil=ceil_mode,
        end=(bottom, right),
    )


def _special(limits: Limits, pool: MaxPool) -> Case:
    """Return a case of numbers of which some are NaN or infinite, and whole windows −∞."""
    shape, dtype = (2, 23, 17, 19), limits.dtype

    def arrays() -> Arrays:
        x = integers(shape, dtype)
        flat = x.reshape(-1)
        flat[::31] = np.nan
        flat[5::37] = np.inf
        x[1, :, :9] = -np.inf
        return Arrays([x])

    return Case("not finite", pool, (shape,), arrays, exact=True)
