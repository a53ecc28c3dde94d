"""RepViT-M1's trunk: a stem, four stages of blocks, downsampling between them.

A block is a token mixer (depthwise), in every other block squeeze-and-excitation, and a channel
mixer (two pointwise convolutions and a residual): arXiv 2307.09283. Weights are random, of the
network as it is deployed: batch norm in the convolutions, a token mixer's branches as one kernel.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pwconv.dtypes import Array, DType
from pwconv.tensor import Shape

CHANNELS = (48, 96, 192, 384)  # of the stages
EXPANSION = 2  # of channel mixers
# Of EdgeTAM's image encoder: mixers of each stage, with the one after downsampling but without the
# one before it; the neck, and its heads on the two largest maps.
MIXERS = (2, 3, 15, 3)
NECK = 256
HEADS = (32, 64)

_DEPTHS = (2, 2, 14, 2)  # blocks of each stage
_SQUEEZED = (16, 24, 48, 96)  # a quarter of the channels, in steps of 8
_BRANCH = 0.1  # what is added to a residual is small: values stay of order one


def random_parameters(
    rng: np.random.Generator, shape: Shape, dtype: DType, *, gain: float = 1.0, bias: float = 1.0
) -> tuple[Array, Array]:
    """Return a weight [C_out, …] and a float32 bias, random.

    Sums of products with values of order one are of order ``gain``, the bias of order ``bias``.
    """
    weight = rng.standard_normal(shape, np.float32) * np.float32(gain / math.prod(shape[1:]) ** 0.5)
    return weight.astype(dtype), rng.standard_normal(shape[0], np.float32) * np.float32(bias)


class Trunk:
    """Adds the trunk's nodes to a :class:`pwconv.Graph`, or to what takes the same calls."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._rng = np.random.default_rng(0)

    def feature_maps(self, x: Any) -> list[Any]:
        """Add every node, and return the output of each stage."""
        for name, shape, activation in (
            ("stem.conv1", (CHANNELS[0] // 2, 3, 3, 3), "gelu"),
            ("stem.conv2", (CHANNELS[0], CHANNELS[0] // 2, 3, 3), None),
        ):
            parameters = self._parameters(shape)
            settings = {"stride": 2, "padding": 1, "activation": activation, "name": name}
            x = self._graph.conv2d(x, *parameters, **settings)
        maps = []
        for stage, depth in enumerate(_DEPTHS):
            if stage > 0:
                x = self._downsample(x, stage, f"stages.{stage}.downsample")
            for block in range(depth):
                squeezed = _SQUEEZED[stage] if block % 2 == 0 else None
                x = self._block(x, CHANNELS[stage], f"stages.{stage}.blocks.{block}", squeezed)
            maps.append(x)
        return maps

    def _downsample(self, x: Any, stage: int, name: str) -> Any:
        before, channels = CHANNELS[stage - 1], CHANNELS[stage]
        x = self._block(x, before, f"{name}.pre_block")
        x = self._depthwise(x, before, f"{name}.spatial_downsample", stride=2)
        x = self._pointwise(x, (channels, before), f"{name}.channel_downsample")
        return self._channel_mixer(x, channels, f"{name}.ffn")

    def _block(self, x: Any, channels: int, name: str, squeezed: int | None = None) -> Any:
        x = self._depthwise(x, channels, f"{name}.token_mixer", identity=1.0)
        if squeezed is not None:
            scale = self._graph.global_avg_pool(x, name=f"{name}.se.pool")
            fc1, fc2 = (squeezed, channels), (channels, squeezed)
            scale = self._pointwise(scale, fc1, f"{name}.se.fc1", activation="relu")
            scale = self._pointwise(scale, fc2, f"{name}.se.fc2", activation="sigmoid")
            x = self._graph.mul(x, scale, name=f"{name}.se.scale")
        return self._channel_mixer(x, channels, f"{name}.channel_mixer")

    def _channel_mixer(self, x: Any, channels: int, name: str) -> Any:
        wide = EXPANSION * channels
        hidden = self._pointwise(x, (wide, channels), f"{name}.conv1", activation="gelu")
        return self._pointwise(hidden, (channels, wide), f"{name}.conv2", gain=_BRANCH, residual=x)

    def _depthwise(
        self, x: Any, channels: int, name: str, *, stride: int = 1, identity: float = 0.0
    ) -> Any:
        weight, bias = self._parameters((channels, 1, 3, 3), _BRANCH if identity else 1.0)
        weight[:, :, 1, 1] += identity
        return self._graph.conv2d_dw(x, weight, bias, stride=stride, padding=1, name=name)

    def _pointwise(
        self, x: Any, shape: Shape, name: str, *, gain: float = 1.0, **settings: Any
    ) -> Any:
        parameters = self._parameters(shape, gain)
        return self._graph.conv2d_pw(x, *parameters, name=name, **settings)

    def _parameters(self, shape: Shape, gain: float = 1.0) -> tuple[Array, Array]:
        return random_parameters(self._rng, shape, self._graph.dtype, gain=gain, bias=_BRANCH)
