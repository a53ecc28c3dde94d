"""Arithmetic and activations, element by element: elementwise.comp."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pwconv.heuristics import Choice
from pwconv.layout import Shape4
from pwconv.ops.base import Arrays, Case, Operator, Site, operator
from pwconv.ops.cases import at_sizes, integers, of_integers
from pwconv.ops.limits import Limits
from pwconv.reference import Approximation
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import Dispatch

# shaders/elementwise.comp has the same numbers.
_NUMBERS = {
    **{"activation": 0, "add": 1, "mul": 2, "sub": 3, "div": 4, "minimum": 5, "maximum": 6},
    "prelu": 7,
}
# Of the axes of [N, C, H, W] over which an operand is spread.
_BITS = (8, 4, 2, 1)
_POOLED = 2 + 1
_RAGGED = (2, 23, 7, 11)
# Second operands, for cases.
_SPREAD: dict[str, Shape4] = {
    **{"sub": (1, 23, 1, 1), "div": (2, 1, 7, 11), "maximum": (2, 23, 1, 11)},
    "prelu": (1, 1, 7, 1),
}


@operator("elementwise")
@dataclass(frozen=True, eq=False, kw_only=True)
class Elementwise(Operator):
    """``function`` is "activation" of one input, or arithmetic of two; then the epilogue's."""

    function: str

    families = ("elementwise",)
    operands = ("x", "y")
    images_only = False

    def __post_init__(self) -> None:
        if self.function not in _NUMBERS:
            raise ValueError(
                f"function is {self.function!r}; it must be one of {', '.join(_NUMBERS)}"
            )

    @property
    def arity(self) -> int:
        """One of an activation, and else two."""
        return 1 if self.function == "activation" else 2

    @property
    def name(self) -> str:
        """The function."""
        return self.function

    @property
    def fuses(self) -> frozenset[str]:
        """The activation."""
        return frozenset({"activation"})

    def shape(self, *inputs: Shape) -> Shape:
        """Return the inputs' shape; that of images is broadcast, as NumPy has it."""
        first = inputs[0]
        for other in inputs[1:]:
            if other == first:
                continue
            pairs = [*zip(first, other, strict=False)]
            fits = all(a == b or 1 in (a, b) for a, b in pairs)
            if len(first) != len(other) or len(first) not in (3, 4) or not fits:
                raise ValueError(
                    f"the operands have shapes {inputs[0]} and {inputs[1]}; they must be the same, "
                    "or images, of which each axis is the same or has length 1"
                )
            first = tuple(max(pair) for pair in pairs)
        return first

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        activation = self.epilogue.function
        constants = {
            "ACTIVATION": activation.number,
            "OPERATION": _NUMBERS[self.function],
            "SPREAD_A": _spread(inputs[0], out),
            "SPREAD_B": _spread(inputs[-1], out),
        }
        dispatch = site.dispatch(
            choice.variant if choice else site.variant("elementwise"),
            out,
            out,
            {"t_a": 0, "t_b": len(inputs) - 1},
            constants,
            activation_a=activation.a,
            activation_b=activation.b,
        )
        return [dispatch]

    def scale_of(self, inputs: Sequence[Shape]) -> tuple[int, int] | None:
        """Return the numbers of x and of its scale [N, C, 1, 1]; None for other nodes."""
        if self.function != "mul" or self.epilogue.activation is not None:
            return None
        larger = 1 if inputs[0] == pooled(inputs[1]) else 0
        other = 1 - larger
        return (larger, other) if inputs[other] == pooled(inputs[larger]) else None

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the function in float64."""
        return _REFERENCES[self.function](*inputs)

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield each function of whole numbers, spread over each axis, and NaN and infinities."""
        yield from at_sizes(limits, cls(function="add"), ", sum", lambda shape: shape)
        yield from at_sizes(
            limits,
            cls(function="mul"),
            ", product by channel",
            lambda shape: (*shape[:2], 1, 1),
        )
        yield from at_sizes(
            limits,
            cls(function="minimum"),
            ", minimum by column",
            lambda shape: (1, 1, 1, shape[3]),
        )
        for function, spread in _SPREAD.items():
            case = cls(function=function)
            yield of_integers(f"ragged, {function}", case, (_RAGGED, spread), limits.dtype)
        yield _special(limits)


def pooled(shape: Shape) -> Shape:
    """Return the shape that is spread over this one: of images theirs with H = W = 1."""
    return (*shape[:-2], 1, 1) if len(shape) in (3, 4) else shape


def _special(limits: Limits) -> Case:
    """Return a case of numbers of which some are NaN or infinite, in either operand."""

    def arrays() -> Arrays:
        x, y = (integers(_RAGGED, limits.dtype, seed) for seed in (1, 2))
        for each, first in ((x, 0), (y, 3)):
            flat = each.reshape(-1)
            flat[first::31] = np.nan
            flat[first::37] = np.inf
            flat[first::41] = -np.inf
        return Arrays([x, y])

    operator = Elementwise(function="maximum")
    return Case("not finite", operator, (_RAGGED, _RAGGED), arrays, exact=True)


def _spread(shape: Shape, out: Shape) -> int:
    """Return the axes over which an operand is spread, as bits."""
    operand, whole = shape4(shape, "operand"), shape4(out, "output")
    pairs = zip(operand, whole, _BITS, strict=True)
    bits = sum(bit for length, wanted, bit in pairs if length != wanted)
    return bits | _POOLED if bits & _POOLED and operand[2:] == (1, 1) else bits


_REFERENCES: dict[str, Callable[..., Approximation]] = {
    "activation": lambda x: x,
    "add": Approximation.plus,
    "mul": Approximation.times,
    "sub": Approximation.minus,
    "div": Approximation.divided_by,
    "minimum": Approximation.minimum,
    "maximum": Approximation.maximum,
    "prelu": Approximation.prelu,
}
