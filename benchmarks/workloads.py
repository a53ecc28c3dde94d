"""Workloads by name: layers of networks, as graphs of one node each, and whole graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pwconv.bench.cases import (
    IMAGE_SIZE,
    Case,
    Shape,
    edgetam_shapes,
    layer_case,
    repvit_m1,
    require_size,
)
from pwconv.bench.networks import (
    CHANNELS,
    EXPANSION,
    HEADS,
    MIXERS,
    NECK,
    random_parameters,
)
from pwconv.errors import UnsupportedError

_BRANCH = 0.5  # of a mixer's second weight: 23 residuals later values are still of order one
_BIAS = 0.1

# Inverted residuals, as the papers' tables: expansion, channels, blocks, stride of the first.
_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_EFFICIENTNET_B0 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 40, 2, 2),
    (6, 80, 3, 2),
    (6, 112, 3, 1),
    (6, 192, 4, 2),
    (6, 320, 1, 1),
)


def workload(name: str, size: int | None = None) -> list[Case]:
    """Return the cases of a workload, for an image of H = W = size where it takes one.

    Raises
    ------
    KeyError
        There is no such workload; :data:`WORKLOADS` has the names.
    UnsupportedError
        The workload is of another size only.
    """
    if name in _SIZED:
        return _SIZED[name](IMAGE_SIZE if size is None else require_size(size))
    if size is not None:
        raise UnsupportedError(
            f"--size is {size}; only these workloads take it: {', '.join(_SIZED)}"
        )
    return [layer_case(shape) for shape in _distinct(_FIXED[name])]


def _distinct(shapes: Sequence[Shape]) -> list[Shape]:
    """Return each shape once, its counts added."""
    counts: Counter[Shape] = Counter()
    for shape in shapes:
        counts[replace(shape, count=1)] += shape.count
    return [replace(shape, count=count) for shape, count in counts.items()]


def _mixers(size: int) -> list[Case]:
    """Return RepViT-M1's channel mixers, each by itself; and all of EdgeTAM's pointwise layers."""
    mixers = [
        Case(f"mixer {shape.k}@{shape.h}", "mixers", shape.count, _define_mixer(shape))
        for shape in edgetam_shapes(size)
        if shape.n == EXPANSION * shape.k
    ]

    def define(graph: Any) -> None:
        x = graph.input("x", (1, CHANNELS[0], size // 4, size // 4))
        for name, value in _Layers(graph).maps(x).items():
            graph.output(name, value)

    return [*mixers, Case(f"55 layers@{size // 4}", "networks", 1, define)]


def _define_mixer(expand: Shape) -> Callable[[Any], None]:
    def define(graph: Any) -> None:
        rng = np.random.default_rng(0)
        x = graph.input("x", (1, expand.k, expand.h, expand.w))
        first = random_parameters(rng, (expand.n, expand.k), graph.dtype)
        second = random_parameters(rng, (expand.k, expand.n), graph.dtype)
        hidden = graph.conv2d_pw(x, *first, activation="gelu", name="conv1")
        graph.output("y", graph.conv2d_pw(hidden, *second, residual=x, name="conv2"))

    return define


class _Layers:
    """Adds the 55 pointwise layers of EdgeTAM's image encoder to a graph, with random weights.

    RepViT-M1's channel mixers, with a pointwise convolution of stride 2 between stages, and the FPN
    neck: each stage to 256 channels, the last one upsampled and added to the one before, and heads
    of 32 and 64 channels on the first two.
    """

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._rng = np.random.default_rng(0)

    def maps(self, x: Any) -> dict[str, Any]:
        """Add every node, and return the neck's maps by name.

        A map goes through the neck as soon as its stage gives it: the sooner its memory is free.
        """
        maps = {}
        stages = []
        for stage, channels in enumerate(CHANNELS):
            if stage > 0:
                before = CHANNELS[stage - 1]
                x = self._layer(x, f"downsamples.{stage}", before, channels, stride=2)
            for mixer in range(MIXERS[stage]):
                x = self._mixer(x, f"stages.{stage}.mixers.{mixer}", channels)
            stages.append(x)
            if stage < len(HEADS):
                name = f"neck.heads.{stage}"
                lateral = self._lateral(x, stage)
                maps[f"stride_{4 << stage}"] = self._layer(lateral, name, NECK, HEADS[stage])
        coarser = self._graph.upsample(self._lateral(stages[3], 3), name="neck.upsample")
        maps["stride_16"] = self._lateral(stages[2], 2, residual=coarser)
        return maps

    def _mixer(self, x: Any, name: str, channels: int) -> Any:
        wide = EXPANSION * channels
        hidden = self._layer(x, f"{name}.conv1", channels, wide, activation="gelu")
        return self._layer(hidden, f"{name}.conv2", wide, channels, gain=_BRANCH, residual=x)

    def _lateral(self, x: Any, stage: int, **settings: Any) -> Any:
        return self._layer(x, f"neck.laterals.{stage}", CHANNELS[stage], NECK, **settings)

    def _layer(
        self, x: Any, name: str, c_in: int, c_out: int, *, gain: float = 1.0, **settings: Any
    ) -> Any:
        parameters = random_parameters(
            self._rng, (c_out, c_in), self._graph.dtype, gain=gain, bias=_BIAS
        )
        return self._graph.conv2d_pw(x, *parameters, name=name, **settings)


def _square(k: int, n: int, size: int, count: int = 1) -> Shape:
    return Shape(k, n, size, size, count=count)


def _inverted_residuals(
    stages: tuple[tuple[int, int, int, int], ...], *, squeeze: bool
) -> list[Shape]:
    """Expansions, projections, and squeeze-and-excitation's pair, at 224×224, with the head."""
    shapes = []
    channels, size = 32, 112
    for expansion, out, blocks, first_stride in stages:
        for block in range(blocks):
            hidden = channels * expansion
            if expansion > 1:
                shapes.append(_square(channels, hidden, size))
            size //= first_stride if block == 0 else 1
            if squeeze:
                shapes += [_square(hidden, channels // 4, 1), _square(channels // 4, hidden, 1)]
            shapes.append(_square(hidden, out, size))
            channels = out
    return [*shapes, _square(channels, 1280, size)]


def _sd_unet() -> list[Shape]:
    """Stable Diffusion 1.x at 64×64 latents, one image, 77 text tokens.

    Transformers (projections in and out, attention, GEGLU) and the residual blocks' shortcuts; the
    projections of the time embedding, which are of one position, are left out.
    """
    shapes = []
    for channels, size, transformers in ((320, 64, 5), (640, 32, 5), (1280, 16, 5), (1280, 8, 1)):
        shapes += [
            # In, out, and of self-attention q, k, v, out, of cross-attention q and out.
            _square(channels, channels, size, 8 * transformers),
            Shape(768, channels, 1, 77, count=2 * transformers),
            _square(channels, 8 * channels, size, transformers),
            _square(4 * channels, channels, size, transformers),
        ]
    shortcuts = {
        64: ((960, 320, 1), (640, 320, 2)),
        32: ((320, 640, 1), (1920, 640, 1), (1280, 640, 1), (960, 640, 1)),
        16: ((640, 1280, 1), (2560, 1280, 2), (1920, 1280, 1)),
        8: ((2560, 1280, 3),),
    }
    for size, convolutions in shortcuts.items():
        shapes += [_square(k, n, size, count) for k, n, count in convolutions]
    # A yardstick: the UNet has 1280 channels at 16×16 and below.
    return [*shapes, _square(1280, 1280, 64, 0)]


_SIZED: dict[str, Callable[[int], list[Case]]] = {
    "edgetam": lambda size: [layer_case(shape) for shape in edgetam_shapes(size)],
    "edgetam-mixers": _mixers,
    "repvit-m1": lambda size: [repvit_m1(size)],
}
_FIXED = {
    "mobilenetv2": _inverted_residuals(_MOBILENET_V2, squeeze=False),
    "efficientnet-b0": _inverted_residuals(_EFFICIENTNET_B0, squeeze=True),
    "sd-unet": _sd_unet(),
}
WORKLOADS = (*_SIZED, *_FIXED)
