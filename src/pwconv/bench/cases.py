"""Graphs to measure, by name; a single layer is a graph of one node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pwconv.bench.networks import (
    CHANNELS,
    EXPANSION,
    HEADS,
    MIXERS,
    NECK,
    Trunk,
    random_parameters,
)
from pwconv.errors import UnsupportedError

IMAGE_SIZE = 1024

_COARSEST = 32  # the networks' last stride
_LARGEST = 2**20  # number in a shape


@dataclass(frozen=True)
class Shape:
    """The shape of a pointwise convolution."""

    k: int  # input channels
    n: int  # output channels
    h: int
    w: int
    batch: int = 1
    count: int = 1  # times that the network has it; 0 for a yardstick from elsewhere

    def __str__(self) -> str:
        size = f"{self.h}" if self.h == self.w else f"{self.h}×{self.w}"
        return f"{self.k}→{self.n}@{size}" + (f" ×{self.batch}" if self.batch > 1 else "")


@dataclass(frozen=True)
class Case:
    """A graph to be measured."""

    name: str
    kind: str  # times of neighbours of one kind are summed up
    count: int  # times that the network has it
    # Adds the input x, nodes and outputs to a pwconv.Graph, or to what takes the same calls.
    define: Callable[[Any], None]
    layer: Shape | None = None  # of a graph that is a single pointwise convolution


def parse_shape(text: str) -> Shape:
    """Return the shape that ``K,N,H,W[,BATCH]`` stands for.

    Raises
    ------
    ValueError
        Another count of numbers, or one that is not positive.
    """
    parts = text.split(",")
    if len(parts) not in (4, 5):
        raise ValueError(f"{text!r} has {len(parts)} numbers; a shape is K,N,H,W or K,N,H,W,batch")
    for name, part in zip(("K", "N", "H", "W", "batch"), parts, strict=False):
        if not part.strip().isdecimal() or not 1 <= int(part) <= _LARGEST:
            raise ValueError(
                f"{text!r}: {name} is {part!r}; it must be a number from 1 to {_LARGEST}"
            )
    return Shape(*map(int, parts))


def require_size(size: int) -> int:
    """Return H = W of an image if the networks take it.

    Raises
    ------
    UnsupportedError
    """
    if size < _COARSEST or size % _COARSEST:
        raise UnsupportedError(f"the size is {size}; it must be a positive multiple of {_COARSEST}")
    return size


def layer_case(shape: Shape) -> Case:
    """Return a pointwise convolution as a graph of one node."""

    def define(graph: Any) -> None:
        parameters = random_parameters(np.random.default_rng(0), (shape.n, shape.k), graph.dtype)
        x = graph.input("x", (shape.batch, shape.k, shape.h, shape.w))
        graph.output("y", graph.conv2d_pw(x, *parameters, name="conv"))

    return Case(str(shape), "layers", shape.count, define, shape)


def edgetam_shapes(size: int = IMAGE_SIZE) -> list[Shape]:
    """Return the shapes of EdgeTAM's channel mixers, and of its neck's largest convolutions."""
    shapes = []
    for stage, (channels, mixers) in enumerate(zip(CHANNELS, MIXERS, strict=True)):
        side, wide = size // (4 << stage), EXPANSION * channels
        shapes.append(Shape(channels, wide, side, side, count=mixers))
        shapes.append(Shape(wide, channels, side, side, count=mixers))
    for stage, (channels, head) in enumerate(zip(CHANNELS, HEADS, strict=False)):
        side = size // (4 << stage)
        shapes.append(Shape(channels, NECK, side, side))
        shapes.append(Shape(NECK, head, side, side))
    return shapes


def repvit_m1(size: int = IMAGE_SIZE) -> Case:
    """Return RepViT-M1's trunk for an image of H = W = size, with random weights."""
    require_size(size)

    def define(graph: Any) -> None:
        x = graph.input("x", (1, 3, size, size))
        for stage, feature_map in enumerate(Trunk(graph).feature_maps(x)):
            graph.output(f"stages.{stage}", feature_map)

    return Case(f"RepViT-M1@{size}", "networks", 1, define)
