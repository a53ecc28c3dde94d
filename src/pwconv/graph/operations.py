"""Operations: the computation of a node as an output shape, dispatches and their cost."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from pwconv.context import Context
from pwconv.dtypes import DType
from pwconv.tensor import Shape
from pwconv.vk.commands import Dispatch


@dataclass(frozen=True)
class Setting:
    """Device of a node's dispatches, and the storage and type of activations on it."""

    context: Context
    storage: str
    dtype: DType


class Operation(ABC):
    """The computation of one node.

    Attributes
    ----------
    kind : str
        The method of :class:`pwconv.Graph` that adds it, or a name that a pass gives.
    images_only : bool
        True if it takes [N, C, H, W] or [C, H, W] only.
    """

    kind: str
    images_only = True

    @property
    def weight_bytes(self) -> int:
        """Device memory of its parameters."""
        return 0

    @abstractmethod
    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the output's shape.

        Raises
        ------
        ValueError
            The operation does not take inputs of these shapes.
        """

    def storages(self, shapes: Sequence[Shape], storages: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of some storages of activations in which it can be computed.

        Raises
        ------
        UnsupportedError
            There is none.
        """
        return storages

    @abstractmethod
    def dispatches(
        self, setting: Setting, shapes: Sequence[Shape], out_shape: Shape
    ) -> list[Dispatch]:
        """Plan the dispatches, which do not depend on each other.

        Their operands are the node's inputs, by number, and ``OUT``.
        """

    def flop(self, shapes: Sequence[Shape], out_shape: Shape) -> int:
        """Return the arithmetic operations; activations and bias are not counted."""
        return math.prod(out_shape)
