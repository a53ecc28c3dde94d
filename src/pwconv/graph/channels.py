"""Concatenation and slices of channels as nodes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from pwconv.graph.operations import Operation, Setting
from pwconv.kernels.channels import Piece, plan_channels
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import Dispatch


class _Channels(Operation):
    """An output made of pieces of the inputs."""

    @abstractmethod
    def pieces(self, shapes: Sequence[Shape]) -> list[Piece]:
        """Return the pieces, in order."""

    def dispatches(
        self, setting: Setting, shapes: Sequence[Shape], out_shape: Shape
    ) -> list[Dispatch]:
        """Plan a dispatch a piece, or for several."""
        return plan_channels(
            setting.context,
            setting.storage,
            self.pieces(shapes),
            shape4(out_shape, "output"),
            setting.dtype,
        )

    def flop(self, shapes: Sequence[Shape], out_shape: Shape) -> int:
        """Return 0: elements are copied."""
        return 0


class Concat(_Channels):
    """The inputs' channels, one input after the other."""

    kind = "concat"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return [N, the sum of all C, H, W], or without N."""
        first = shapes[0]
        for shape in shapes[1:]:
            if (shape[:-3], shape[-2:]) != (first[:-3], first[-2:]):
                raise ValueError(
                    f"the operands have shapes {first} and {shape}; they may differ in channels "
                    "only"
                )
        return (*first[:-3], sum(shape[-3] for shape in shapes), *first[-2:])

    def pieces(self, shapes: Sequence[Shape]) -> list[Piece]:
        """Return each input, whole."""
        return [Piece(i, shape[-3], 0, shape[-3]) for i, shape in enumerate(shapes)]


@dataclass(frozen=True, eq=False)
class Slice(_Channels):
    """Channels ``start`` … ``stop − 1``."""

    start: int
    stop: int
    kind = "slice"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return [N, stop − start, H, W], or without N."""
        channels = shapes[0][-3]
        if self.stop > channels:
            raise ValueError(f"stop is {self.stop}; x has shape {shapes[0]}, {channels} channels")
        return (*shapes[0][:-3], self.stop - self.start, *shapes[0][-2:])

    def pieces(self, shapes: Sequence[Shape]) -> list[Piece]:
        """Return the one piece."""
        return [Piece(0, shapes[0][-3], self.start, self.stop - self.start)]
