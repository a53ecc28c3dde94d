"""Linear layers as nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pwconv.activation import Activation
from pwconv.graph.operations import Operation, Setting
from pwconv.modules import Linear
from pwconv.tensor import Shape
from pwconv.vk.commands import OUT, Dispatch
from pwconv.vk.resources import Resource


@dataclass(frozen=True, eq=False)
class LinearLayer(Operation):
    """A matrix product over the last axis.

    The activation is the node's and not the layer's: a later node's may be folded into it.
    """

    layer: Linear
    activation: Activation
    kind = "linear"
    images_only = False

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weight and the bias."""
        return self.layer._parameters.nbytes

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return [..., N]."""
        return self.layer._output_shape(shapes[0])

    def storages(self, shapes: Sequence[Shape], storages: tuple[str, ...]) -> tuple[str, ...]:
        """Return those in which every batch of x has texels of its own."""
        return self.layer._storages_for(shapes[0], storages)

    def dispatches(
        self, setting: Setting, shapes: Sequence[Shape], out_shape: Shape
    ) -> list[Dispatch]:
        """Plan the one dispatch that computes it, bias and activation included."""
        plan, reason = self.layer._plan_with(setting.storage, shapes[0], self.activation)
        bindings: dict[str, Resource | int] = {
            **self.layer._parameters.bindings(plan.variant),
            "t_in": 0,
            "t_out": OUT,
        }
        return [Dispatch(plan, bindings, reason)]

    def flop(self, shapes: Sequence[Shape], out_shape: Shape) -> int:
        """Return two for each product."""
        return 2 * shapes[0][-1] * math.prod(out_shape)
