"""Pooling, upsampling and subsampling as nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pwconv.graph.operations import Operation, Setting
from pwconv.kernels.conv2d_pw import Geometry
from pwconv.kernels.global_avg_pool import plan_global_avg_pool
from pwconv.kernels.subsample import plan_subsample
from pwconv.kernels.upsample import plan_upsample
from pwconv.tensor import Shape, shape4
from pwconv.vk.commands import OUT, Dispatch


class GlobalAvgPool(Operation):
    """The mean of each channel."""

    kind = "global_avg_pool"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return [N, C, 1, 1], or without N."""
        return (*shapes[0][:-2], 1, 1)

    def dispatches(
        self, setting: Setting, shapes: Sequence[Shape], out_shape: Shape
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        plan = plan_global_avg_pool(
            setting.context, setting.storage, shape4(shapes[0], "x"), setting.dtype
        )
        return [Dispatch(plan, {"t_in": 0, "t_out": OUT})]

    def flop(self, shapes: Sequence[Shape], out_shape: Shape) -> int:
        """Return the additions."""
        return math.prod(shapes[0])


@dataclass(frozen=True, eq=False)
class Upsample(Operation):
    """Each element repeated ``scale`` times along H and along W."""

    scale: int
    kind = "upsample"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return [N, C, scale·H, scale·W], or without N."""
        h, w = shapes[0][-2:]
        return (*shapes[0][:-2], self.scale * h, self.scale * w)

    def dispatches(
        self, setting: Setting, shapes: Sequence[Shape], out_shape: Shape
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        plan = plan_upsample(
            setting.context, setting.storage, shape4(shapes[0], "x"), setting.dtype, self.scale
        )
        return [Dispatch(plan, {"t_in": 0, "t_out": OUT})]

    def flop(self, shapes: Sequence[Shape], out_shape: Shape) -> int:
        """Return 0: elements are copied."""
        return 0


@dataclass(frozen=True, eq=False)
class Subsample(Operation):
    """Every ``stride``-th position along H and along W, of activations stored as buffers."""

    stride: tuple[int, int]
    kind = "subsample"

    def output_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return [N, C, ceil(H / stride), ceil(W / stride)], or without N."""
        out_shape = Geometry(self.stride).output_shape(shape4(shapes[0], "x"), shapes[0][-3])
        return (*shapes[0][:-2], *out_shape[2:])

    def dispatches(
        self, setting: Setting, shapes: Sequence[Shape], out_shape: Shape
    ) -> list[Dispatch]:
        """Plan the one dispatch."""
        plan = plan_subsample(setting.context, shape4(shapes[0], "x"), setting.dtype, self.stride)
        return [Dispatch(plan, {"t_in": 0, "t_out": OUT})]

    def flop(self, shapes: Sequence[Shape], out_shape: Shape) -> int:
        """Return 0: elements are copied."""
        return 0
