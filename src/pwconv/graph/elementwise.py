"""Sums, products and activations as nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pwconv.activation import Activation, parse_activation
from pwconv.graph.operations import Operation, Setting
from pwconv.kernels.elementwise import ADD, FIRST, MULTIPLY, plan_elementwise
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import OUT, Dispatch

_NUMBERS = {"activation": FIRST, "add": ADD, "mul": MULTIPLY}


@dataclass(frozen=True, eq=False)
class Elementwise(Operation):
    """``kind`` is "activation" of one input, or "add" or "mul" of two."""

    kind: str
    activation: Activation
    images_only = False

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the inputs' shape, or the larger one's where the other is [N, C, 1, 1]."""
        larger = _larger(shapes)
        others = [shape for i, shape in enumerate(shapes) if i != larger]
        for other in others:
            if other not in (shapes[larger], _pooled(shapes[larger])):
                raise ValueError(
                    f"the operands have shapes {shapes[0]} and {shapes[1]}; they must be the same, "
                    "or images, one of them with H = W = 1"
                )
        return shapes[larger]

    def dispatches(
        self, setting: Setting, shapes: Sequence[Shape], out_shape: Shape
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        larger = _larger(shapes)
        other = len(shapes) - 1 - larger
        plan = plan_elementwise(
            setting.context,
            setting.storage,
            _NUMBERS[self.kind],
            shape4(out_shape, "output"),
            setting.dtype,
            self.activation,
            broadcast=shapes[other] != out_shape,
        )
        return [Dispatch(plan, {"t_a": larger, "t_b": other, "t_out": OUT})]

    def scale_of(self, shapes: Sequence[Shape]) -> tuple[int, int] | None:
        """Return the numbers of x and of its scale [N, C, 1, 1]; None for other nodes."""
        if self.kind != "mul" or self.activation != parse_activation(None):
            return None
        larger = _larger(shapes)
        other = 1 - larger
        return (larger, other) if shapes[other] == _pooled(shapes[larger]) else None


def _pooled(shape: Shape) -> Shape:
    """Return the shape that is spread over this one: of images theirs with H = W = 1."""
    return (*shape[:-2], 1, 1) if len(shape) in (3, 4) else shape


def _larger(shapes: Sequence[Shape]) -> int:
    return 1 if len(shapes) == 2 and shapes[0] == _pooled(shapes[1]) else 0
