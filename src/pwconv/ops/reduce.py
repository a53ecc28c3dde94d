"""Sums, means, extremes and norms over some of C, H and W: reduce.comp."""

from __future__ import annotations

import math
import operator as builtin
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pwconv import reference
from pwconv.dispatch import MOST_TRIPS
from pwconv.heuristics import Choice
from pwconv.layout import Shape4
from pwconv.ops.base import Case, Operator, Site, operator
from pwconv.ops.cases import of_integers, plane_sizes
from pwconv.ops.limits import Limits
from pwconv.reference import Approximation
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import Dispatch

# shaders/reduce.comp has the same numbers.
_NUMBERS = {"sum": 0, "mean": 1, "max": 2, "min": 3, "l2": 4}
_LONG_SIDE = 240  # of an image of nearly as many positions as a loop may have trips


@operator("reduce")
@dataclass(frozen=True, eq=False, kw_only=True)
class Reduce(Operator):
    """One element of all along some axes, in float32, by each invocation for its own.

    Attributes
    ----------
    function : "sum", "mean", "max", "min" or "l2"
        "l2" is the root of the sum of squares; "max" and "min" are NaN if there is one.
    axes : tuple of int
        Of [N, C, H, W]: some of 1, 2 and 3, in order.
    keepdims : bool
        Have axes of length 1 in their place.
    """

    function: str
    axes: tuple[int, ...]
    keepdims: bool = True

    families = ("reduce",)

    def __post_init__(self) -> None:
        if self.function not in _NUMBERS:
            raise ValueError(
                f"function is {self.function!r}; it must be one of {', '.join(_NUMBERS)}"
            )
        if not self.axes or sorted({1, 2, 3}.intersection(self.axes)) != list(self.axes):
            raise ValueError(
                f"axes is {self.axes}; it must be some of 1, 2 and 3, or of −3, −2 and −1, of "
                "[N, C, H, W], each once: transpose N to another axis"
            )

    def shape(self, *inputs: Shape) -> Shape:
        """Return the shape without the axes, or with them of length 1."""
        x = inputs[0]
        reduced = {axis - 4 + len(x) for axis in self.axes}
        if self.keepdims:
            return tuple(1 if i in reduced else n for i, n in enumerate(x))
        kept = tuple(n for i, n in enumerate(x) if i not in reduced)
        if not kept:
            raise ValueError(
                f"axes is {self.axes} and keepdims is False; of x's shape {x} they leave no axis: "
                "keep them"
            )
        return kept

    def flop(self, inputs: Sequence[Shape], out: Shape) -> int:
        """Return the additions or comparisons, and the squares."""
        return (2 if self.function == "l2" else 1) * math.prod(inputs[0])

    def first(self, x: Shape4) -> Reduce | None:
        """Return what to reduce along W before, or None.

        That is where an invocation's loops would be too long for some drivers, and of extremes,
        which are exact either way, always: more invocations have shorter loops then.
        """
        lengths = [x[axis] for axis in self.axes]
        apart = len(lengths) > 1 and self.axes[-1] == 3 and min(max(lengths[:-1]), x[3]) > 1
        if apart and (self.function in ("max", "min") or math.prod(lengths) > MOST_TRIPS):
            return Reduce(function=self.function, axes=(3,))
        return None

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch.

        Raises
        ------
        UnsupportedError
            More elements make one than an invocation's loops may have trips.
        """
        x = shape4(inputs[0], "x")
        counts = [x[axis] if axis in self.axes else 1 for axis in (1, 2, 3)]
        numbers: dict[str, int] = {}
        for name, length, count in zip("chw", x[1:], counts, strict=True):
            numbers |= {f"kept_{name}": length // count, f"count_{name}": count}
        dispatch = site.dispatch(
            choice.variant if choice else site.variant("reduce"),
            inputs[0],
            out,
            {"t_in": 0},
            {"FUNCTION": _NUMBERS[self.function]},
            flop=self.flop(inputs, out),
            trips=math.prod(counts),
            **numbers,
        )
        return [dispatch]

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the sums, means, extremes or norms in float64."""
        x = inputs[0]
        found = reference.reduce(x, self.function, tuple(axis - 4 for axis in self.axes))
        return found.moved(lambda y: y.reshape(self.shape(x.value.shape)))

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield several sizes, of each function, and as long a loop as any."""
        along = {"widest": (3,), "tallest": (2,), "deepest": (1,)}
        for name, shape in plane_sizes(limits.extent()).items():
            mean = cls(function="mean", axes=along.get(name, (1, 2, 3)))
            yield of_integers(name, mean, (shape,), limits.dtype)
        for function, axes in (("sum", (1,)), ("max", (2,)), ("min", (3,)), ("l2", (1, 3))):
            node = cls(function=function, axes=axes, keepdims=False)
            yield of_integers(function, node, ((2, 23, 7, 11),), limits.dtype)
        image = (1, 1, _LONG_SIDE, MOST_TRIPS // _LONG_SIDE)
        yield of_integers("longest loop", cls(function="sum", axes=(2, 3)), (image,), limits.dtype)


def make_reduce(function: Any, axes: Any, *, keepdims: bool = True) -> Reduce:
    """Return a reduction by a user's axes, an int or several.

    Raises
    ------
    TypeError, ValueError
        As :meth:`pwconv.Graph.reduce`.
    """
    if not isinstance(keepdims, bool):
        raise TypeError(f"keepdims is {keepdims!r}; it must be True or False")
    try:
        given = [builtin.index(axis) for axis in (axes if hasattr(axes, "__iter__") else (axes,))]
    except TypeError:
        raise TypeError(f"axes is {axes!r}; it must be an int, or some of them") from None
    numbers = sorted(axis + 4 if axis < 0 else axis for axis in given)
    return Reduce(function=function, axes=tuple(numbers), keepdims=keepdims)
