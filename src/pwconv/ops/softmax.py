"""Softmax along C, H or W: softmax.comp."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pwconv import reference
from pwconv.heuristics import Choice
from pwconv.layout import ceil_div
from pwconv.ops.base import Arrays, Case, Operator, Site, operator
from pwconv.ops.cases import integers, of_integers, plane_sizes
from pwconv.ops.limits import Limits
from pwconv.reference import Approximation
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import Dispatch

# shaders/softmax.comp has the same numbers.
_AXES = (1, 2, 3)


@operator("softmax")
@dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Operator):
    """``exp(x − m) / Σ exp(x − m)`` of lines along an axis, m the largest of the line, in float32.

    Attributes
    ----------
    axis : int
        Of [N, C, H, W] as the input is stored: 1, 2 or 3.
    """

    axis: int

    families = ("softmax",)
    images_only = False

    def __post_init__(self) -> None:
        if self.axis not in _AXES:
            raise ValueError(
                f"axis is {self.axis}; it must be 1, 2 or 3, or −3 to −1, of [N, C, H, W]: "
                "transpose N to another axis"
            )

    def shape(self, *inputs: Shape) -> Shape:
        """Return the input's shape."""
        return inputs[0]

    def flop(self, inputs: Sequence[Shape], out: Shape) -> int:
        """Return the comparison, subtraction, exponential, addition and division."""
        return 5 * math.prod(out)

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch, of which each invocation goes over its lines twice.

        Raises
        ------
        UnsupportedError
            Lines take more trips of a loop than an invocation may make.
        """
        length = shape4(out, "x")[self.axis]
        # Along the channels of a texture, a step is of four.
        steps = ceil_div(length, 4) if (site.storage, self.axis) == ("texture3d", 1) else length
        dispatch = site.dispatch(
            choice.variant if choice else site.variant("softmax"),
            inputs[0],
            out,
            flop=4 * length * math.prod(out),
            trips=2 * steps,
            axis=self.axis,
            steps=steps,
        )
        return [dispatch]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the shares of the exponentials in float64."""
        shape = inputs[0].value.shape
        lines = inputs[0].moved(lambda x: x.reshape(shape4(shape, "x")))
        return reference.softmax(lines, self.axis).moved(lambda y: y.reshape(shape))

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield several sizes along C, each axis of a ragged one, long lines, and special numbers.

        The time of a line grows with its square: one of as many trips as there may be takes long.
        """
        shapes = plane_sizes(limits.extent())
        for name, shape in shapes.items():
            yield of_integers(name, cls(axis=1), (shape,), limits.dtype)
        for axis, long in ((2, "H"), (3, "W")):
            yield of_integers(f"along {long}", cls(axis=axis), (shapes["ragged"],), limits.dtype)
        line = (1, 1, 1, limits.extent())
        yield of_integers("long line", cls(axis=3), (line,), limits.dtype)
        yield _special(limits)


def _special(limits: Limits) -> Case:
    """Return a case of lines along W with NaN or +∞, of −∞ alone, and with −∞ among others."""
    shape, dtype = (2, 23, 7, 11), limits.dtype

    def arrays() -> Arrays:
        x = integers(shape, dtype)
        x[:, ::5, 0, 3] = np.nan
        x[:, ::4, 1, 5] = np.inf
        x[:, ::3, 2] = -np.inf
        x[:, :, 3, ::2] = -np.inf
        return Arrays([x])

    return Case("not finite", Softmax(axis=3), (shape,), arrays)
