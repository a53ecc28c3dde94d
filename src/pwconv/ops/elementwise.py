"""Sums, products and activations, element by element: elementwise.comp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pwconv.heuristics import Choice
from pwconv.ops.base import Case, Operator, Site, operator
from pwconv.ops.cases import at_sizes
from pwconv.ops.limits import Limits
from pwconv.reference import Approximation
from pwconv.tensor import Shape
from pwconv.vk.commands import Dispatch

# shaders/elementwise.comp has the same numbers.
_NUMBERS = {"activation": 0, "add": 1, "mul": 2}


@operator("elementwise")
@dataclass(frozen=True, eq=False, kw_only=True)
class Elementwise(Operator):
    """``function`` is "activation" of one input, or "add" or "mul" of two; then the epilogue's."""

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
        """Return the inputs' shape, or the larger one's where the other is [N, C, 1, 1]."""
        larger = _larger(inputs)
        for i, other in enumerate(inputs):
            if i != larger and other not in (inputs[larger], pooled(inputs[larger])):
                raise ValueError(
                    f"the operands have shapes {inputs[0]} and {inputs[1]}; they must be the same, "
                    "or images, one of them with H = W = 1"
                )
        return inputs[larger]

    def plan(
        self, site: Site, inputs: Sequence[Shape], out: Shape, *, choice: Choice | None = None
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        larger = _larger(inputs)
        other = len(inputs) - 1 - larger
        activation = self.epilogue.function
        constants = {
            "ACTIVATION": activation.number,
            "OPERATION": _NUMBERS[self.function],
            "BROADCAST": inputs[other] != out,
        }
        dispatch = site.dispatch(
            choice.variant if choice else site.variant("elementwise"),
            out,
            out,
            {"t_a": larger, "t_b": other},
            constants,
            activation_a=activation.a,
            activation_b=activation.b,
        )
        return [dispatch]

    def scale_of(self, inputs: Sequence[Shape]) -> tuple[int, int] | None:
        """Return the numbers of x and of its scale [N, C, 1, 1]; None for other nodes."""
        if self.function != "mul" or self.epilogue.activation is not None:
            return None
        larger = _larger(inputs)
        other = 1 - larger
        return (larger, other) if inputs[other] == pooled(inputs[larger]) else None

    def reference(self, *inputs: Approximation) -> Approximation:
        """Return the sum or product in float64."""
        if self.function == "activation":
            return inputs[0]
        return inputs[0].plus(inputs[1]) if self.function == "add" else inputs[0].times(inputs[1])

    @classmethod
    def cases(cls, limits: Limits) -> Iterator[Case]:
        """Yield sums, and products by channel, of whole numbers."""
        yield from at_sizes(limits, cls(function="add"), ", sum", lambda shape: shape)
        yield from at_sizes(
            limits,
            cls(function="mul"),
            ", product by channel",
            lambda shape: (*shape[:2], 1, 1),
        )


def pooled(shape: Shape) -> Shape:
    """Return the shape that is spread over this one: of images theirs with H = W = 1."""
    return (*shape[:-2], 1, 1) if len(shape) in (3, 4) else shape


def _larger(shapes: Sequence[Shape]) -> int:
    return 1 if len(shapes) == 2 and shapes[0] == pooled(shapes[1]) else 0
