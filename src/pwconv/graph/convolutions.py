"""Convolutions as nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pwconv.activation import Activation
from pwconv.graph.operations import OUTPUT, Launch, Operation, Setting
from pwconv.modules import PointwiseConv2d
from pwconv.tensor import Shape


@dataclass(frozen=True, eq=False)
class PointwiseConvolution(Operation):
    """A pointwise convolution of input 0, with input 1, where there is one, as its residual.

    The activation is the node's and not the layer's: a later node's may be folded into it.
    """

    layer: PointwiseConv2d
    activation: Activation
    kind = "conv2d_pw"

    @property
    def weight_bytes(self) -> int:  # type: ignore[override]
        """Bytes of the packed weight and the bias."""
        return self.layer._parameter_bytes

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return [N, C_out, H_out, W_out], or without N."""
        out_shape = self.layer._output_shape(shapes[0])
        if len(shapes) > 1 and shapes[1] != out_shape:
            raise ValueError(
                f"residual has shape {shapes[1]}; it must be the output's, {out_shape}"
            )
        return out_shape

    def launches(self, setting: Setting, shapes: Sequence[Shape], out_shape: Shape) -> list[Launch]:
        """Plan the one dispatch that computes it, bias, residual and activation included."""
        plan, reason = self.layer._make_plan(
            setting.storage, shapes[0], out_shape, self.activation, residual=len(shapes) > 1
        )
        residual = 1 if len(shapes) > 1 else 0
        bindings = {
            **self.layer._parameters(plan),
            "t_in": 0,
            "t_residual": residual,
            "t_out": OUTPUT,
        }
        return [Launch(plan, bindings, reason)]

    def flop(self, shapes: Sequence[Shape], out_shape: Shape) -> int:
        """Return two for each product."""
        return 2 * self.layer.in_channels * math.prod(out_shape)
