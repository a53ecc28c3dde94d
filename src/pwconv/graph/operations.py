"""What a node computes: the shape it gives, the dispatches it takes, and what they cost."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pwconv.dispatch import Dispatch, Dispatcher, Plan, Resource
from pwconv.dtypes import DType
from pwconv.tensor import Shape

# A launch's operands are its node's inputs, by number, and its output.
OUTPUT = -1


@dataclass(frozen=True)
class Setting:
    """Where a node is computed: the device, and how activations are kept on it."""

    dispatcher: Dispatcher
    storage: str
    dtype: DType


@dataclass(frozen=True, eq=False)
class Launch:
    """A planned dispatch whose activations are not known yet.

    Attributes
    ----------
    plan : Plan
    bindings : Mapping
        By name: a resource of the node's own, or the number of an operand.
    reason : str
        Why the plan's variant, where there was a choice.
    """

    plan: Plan
    bindings: Mapping[str, Resource | int]
    reason: str = ""

    def bind(self, inputs: Sequence[Resource], output: Resource) -> Dispatch:
        """Return the dispatch over given activations."""
        operands = [*inputs, output]
        return Dispatch(
            self.plan,
            {
                name: operands[bound] if isinstance(bound, int) else bound
                for name, bound in self.bindings.items()
            },
        )


class Operation(ABC):
    """What one node computes.

    Attributes
    ----------
    kind : str
        The method of :class:`pwconv.Graph` that adds it, or what a pass makes.
    images_only : bool
        Whether it takes [N, C, H, W] or [C, H, W], and nothing of other axes.
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
    def launches(self, setting: Setting, shapes: Sequence[Shape], out_shape: Shape) -> list[Launch]:
        """Plan the dispatches, which do not depend on each other."""

    def flop(self, shapes: Sequence[Shape], out_shape: Shape) -> int:
        """Return the arithmetic operations; activations and bias are not counted."""
        return math.prod(out_shape)
