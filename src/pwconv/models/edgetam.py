"""EdgeTAM's pointwise layers by themselves: most of the work of its image encoder."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from pwconv.device import DeviceLike
from pwconv.dtypes import FLOAT32, DType, as_dtype
from pwconv.graph import Graph, Value

# Channels and mixers of RepViT-M1. The mixers of a stage are those of its blocks and, but for the
# first stage, the one after downsampling; those before downsampling are not among the 55 layers.
CHANNELS = (48, 96, 192, 384)
MIXERS = (2, 3, 15, 3)
EXPANSION = 2
NECK = 256
HEADS = (32, 64)  # of the two largest maps

_COARSEST = 32  # the last stage's stride
_BRANCH = 0.5  # of a mixer's second weight: 23 residuals later values are still of order one


def edgetam_pointwise(
    device: DeviceLike | None = None,
    *,
    size: int = 1024,
    dtype: Any = "float16",
    storage: str = "auto",
    fuse: bool = True,
    seed: int = 0,
) -> Graph:
    """Build the 55 pointwise layers of EdgeTAM's image encoder, with random weights.

    RepViT-M1's channel mixers, ``x + conv2(gelu(conv1(x)))``, with a pointwise convolution of
    stride 2 between stages, and the FPN neck: each stage to 256 channels, the last one upsampled
    and added to the one before, and heads of 32 and 64 channels on the first two. What is between
    these in the network (token mixers, squeeze-and-excitation) is left out.

    Parameters
    ----------
    device : Device, int or str, optional
        By default the default device.
    size : int
        H and W of the image, a multiple of 32. At 1024 the layers take 32.9 GFLOP.
    dtype : "float16" or "float32"
        Of the activations and the weights on the device.
    storage : "auto", "texture3d" or "buffer"
        Storage of activations on the device.
    fuse : bool
        As for :class:`pwconv.Graph`.
    seed : int
        Of the weights and biases; 0 or more.

    Returns
    -------
    Graph
        From the input ``x`` [1, 48, size/4, size/4], what the stem gives, to the outputs
        ``stride_4`` of 32 channels, ``stride_8`` of 64 and ``stride_16`` of 256, at a 4th, 8th and
        16th of the size.

    Raises
    ------
    TypeError, ValueError
        An argument is not as above.
    NoDeviceError, OutOfMemoryError

    Examples
    --------
    >>> graph = pwconv.models.edgetam_pointwise(size=512)
    >>> maps = graph.run(x=stem)  # [1, 48, 128, 128]
    >>> maps["stride_16"].shape
    (1, 256, 32, 32)
    """
    side = operator.index(size)
    if side < _COARSEST or side % _COARSEST:
        raise ValueError(f"size is {side}; it must be a positive multiple of {_COARSEST}")
    if operator.index(seed) < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    layers = Layers(seed, as_dtype(dtype))
    graph = Graph(device, dtype, storage=storage, fuse=fuse)
    x = graph.input("x", (1, CHANNELS[0], side // 4, side // 4))
    for name, value in layers.maps(graph, x).items():
        graph.output(name, value)
    return graph


class Layers:
    """Adds the layers to a graph.

    Parameters
    ----------
    seed : int
    dtype : numpy.dtype
        Of the graph.
    """

    def __init__(self, seed: int, dtype: DType) -> None:
        self._rng = np.random.default_rng(seed)
        self._dtype = dtype

    def maps(self, graph: Graph, x: Value) -> dict[str, Value]:
        """Add every node, and return the neck's maps by name.

        A map goes through the neck as soon as its stage gives it: the sooner its memory is free.
        """
        maps = {}
        stages = []
        for stage, channels in enumerate(CHANNELS):
            if stage > 0:
                widths = (CHANNELS[stage - 1], channels)
                x = self._layer(graph, x, f"downsamples.{stage}", widths, stride=2)
            for mixer in range(MIXERS[stage]):
                x = self._mixer(graph, x, f"stages.{stage}.mixers.{mixer}", channels)
            stages.append(x)
            if stage < len(HEADS):
                lateral = self._lateral(graph, x, stage)
                widths = (NECK, HEADS[stage])
                maps[f"stride_{4 << stage}"] = self._layer(
                    graph, lateral, f"neck.heads.{stage}", widths
                )
        coarser = graph.upsample(self._lateral(graph, stages[3], 3), name="neck.upsample")
        maps["stride_16"] = self._lateral(graph, stages[2], 2, residual=coarser)
        return maps

    def _mixer(self, graph: Graph, x: Value, name: str, channels: int) -> Value:
        wide = EXPANSION * channels
        hidden = self._layer(graph, x, f"{name}.conv1", (channels, wide), activation="gelu")
        return self._layer(
            graph, hidden, f"{name}.conv2", (wide, channels), scale=_BRANCH, residual=x
        )

    def _lateral(self, graph: Graph, x: Value, stage: int, **settings: Any) -> Value:
        widths = (CHANNELS[stage], NECK)
        return self._layer(graph, x, f"neck.laterals.{stage}", widths, **settings)

    def _layer(
        self,
        graph: Graph,
        x: Value,
        name: str,
        widths: tuple[int, int],
        *,
        scale: float = 1.0,
        **settings: Any,
    ) -> Value:
        """Add a layer from C_in to C_out channels, its weight drawn so that C_in is evened out."""
        c_in, c_out = widths
        weight = self._rng.standard_normal((c_out, c_in)) * (scale / c_in**0.5)
        bias = 0.1 * self._rng.standard_normal(c_out)
        return graph.conv2d_pw(
            x, weight.astype(self._dtype), bias.astype(FLOAT32), name=name, **settings
        )
