"""Pooling: global_avg_pool.comp, max_pool.comp."""

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
from pwconv.ops.window import MOST_TAPS, Geometry, window_shape
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
        of, counts = self.geometry, self.shape(x.shape)
        for axis in (-2, -1):
            taps = of.dilation[axis] * np.arange(of.kernel[axis]) - of.padding[axis]
            at = of.stride[axis] * np.arange(counts[axis])[:, None] + taps
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


def make_max_pool(
    kernel: Any,
    *,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> MaxPool:
    """Return max pooling by a user's numbers.

    Raises
    ------
    TypeError, ValueError
        As :meth:`pwconv.Graph.max_pool`.
    """
    taps = as_pair(kernel, "kernel", least=1)
    if math.prod(taps) > MOST_TAPS:
        raise ValueError(
            f"kernel is {kernel!r}, of {math.prod(taps):,} taps KH·KW; at most {MOST_TAPS:,} are "
            "taken: pool by a smaller kernel, several times"
        )
    pads = as_pair(padding, "padding", least=0)
    most = taps[0] // 2, taps[1] // 2
    if pads[0] > most[0] or pads[1] > most[1]:
        raise ValueError(
            f"padding is {padding!r}; it must be at most half the kernel, {most} along H and W: "
            "pad by less, or use a larger kernel"
        )
    if not isinstance(ceil_mode, bool):
        raise TypeError(f"ceil_mode is {ceil_mode!r}; it must be True or False")
    geometry = Geometry(
        stride=taps if stride is None else as_pair(stride, "stride", least=1),
        padding=pads,
        kernel=taps,
        dilation=as_pair(dilation, "dilation", least=1),
        ceil=ceil_mode,
    )
    return MaxPool(geometry=geometry)


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
