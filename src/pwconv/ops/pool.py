"""Pooling: global_avg_pool.comp."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pwconv import reference
from pwconv.heuristics import Choice
from pwconv.layout import ceil_div, sizes
from pwconv.ops.base import Case, Operator, Site, operator
from pwconv.ops.cases import at_sizes, of_integers
from pwconv.ops.limits import Limits
from pwconv.reference import Approximation
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import OUT, Dispatch

# include/strided_sum.glslh: with more trips than so many, an invocation takes more at each.
_FEW_TRIPS, _MORE_TAKEN = 1024, 32
# A square image for which one texel a trip would be 65,535 trips and more.
_LONG_SIDE = 2909


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
