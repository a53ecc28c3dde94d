"""RepViT-M1's trunk: a stem, four stages of blocks, downsampling between them.

A block is a token mixer (depthwise), in every other block squeeze-and-excitation, and a channel
mixer (two pointwise convolutions and a residual). Names are those of the timm package.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pwconv.device import DeviceLike
from pwconv.dtypes import Array, DType, as_dtype
from pwconv.graph import Graph, Value
from pwconv.models.parameters import check_parameters, fold_batch_norm, rounded
from pwconv.tensor import Shape, as_pair

_CHANNELS = (48, 96, 192, 384)  # of the stages
_DEPTHS = (2, 2, 14, 2)  # blocks of each
_SQUEEZED = (16, 24, 48, 96)  # a quarter of the channels, in steps of 8
_EXPANSION = 2

_CLASSIFIER = "head."


def repvit_m1_backbone(
    state: Mapping[str, Any],
    device: DeviceLike | None = None,
    *,
    size: Any = (1024, 1024),
    batch: int = 1,
    dtype: Any = "float16",
    storage: str = "auto",
    fuse: bool = True,
) -> Graph:
    """Build the trunk of RepViT-M1.

    Batch norm is folded into the convolutions, and the branches of a token mixer become one
    depthwise 3×3 convolution; both in float64, rounded once.

    Parameters
    ----------
    state : Mapping
        Parameters by the names that timm's ``repvit_m1`` gives them, as numpy arrays of float32 or
        float16: ``{name: tensor.numpy() for name, tensor in model.state_dict().items()}``, or a
        file read by safetensors. The classifier's and batch norm's counters may be there and are
        not used.
    device : Device, int or str, optional
        By default the default device.
    size : int or (int, int)
        H and W of the images.
    batch : int
    dtype : "float16" or "float32"
        Of the activations and the weights on the device.
    storage : "auto", "texture3d" or "buffer"
        Storage of activations on the device.
    fuse : bool
        As for :class:`pwconv.Graph`.

    Returns
    -------
    Graph
        From the input ``x`` [batch, 3, H, W] to the outputs ``stages.0`` … ``stages.3``: 48, 96,
        192 and 384 channels at a 4th, 8th, 16th and 32nd of H and W, rounded up. ``graph.resize``
        takes it to images of another size.

    Raises
    ------
    TypeError, ValueError
        Parameters are missing, unknown, or of another type or shape, which the message names;
        another argument is not as above.
    NoDeviceError, OutOfMemoryError

    Examples
    --------
    >>> graph = pwconv.models.repvit_m1_backbone(state, size=(512, 512))
    >>> maps = graph.run(x=images)  # [1, 3, 512, 512]
    >>> maps["stages.3"].shape
    (1, 384, 16, 16)
    """
    parameters = check_parameters(state, parameter_shapes(), (_CLASSIFIER,))
    height, width = as_pair(size, "size", least=1)
    images = operator.index(batch)
    if images < 1:
        raise ValueError(f"batch is {images}; it must be at least 1")
    trunk = Trunk(parameters, as_dtype(dtype))
    graph = Graph(device, dtype, storage=storage, fuse=fuse)
    x = graph.input("x", (images, 3, height, width))
    for stage, feature_map in enumerate(trunk.feature_maps(graph, x)):
        graph.output(f"stages.{stage}", feature_map)
    return graph


def parameter_shapes() -> dict[str, Shape]:
    """Return the shape of every parameter of the trunk, by name."""
    shapes: dict[str, Shape] = {}
    for name, shape in _normalized_convolutions():
        shapes[f"{name}.c.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{part}"] = shape[:1]
    for stage, depth in enumerate(_DEPTHS):
        channels, squeezed = _CHANNELS[stage], _SQUEEZED[stage]
        for block in range(0, depth, 2):
            name = f"stages.{stage}.blocks.{block}.se"
            shapes[f"{name}.fc1.weight"] = (squeezed, channels, 1, 1)
            shapes[f"{name}.fc1.bias"] = (squeezed,)
            shapes[f"{name}.fc2.weight"] = (channels, squeezed, 1, 1)
            shapes[f"{name}.fc2.bias"] = (channels,)
    return shapes


def _normalized_convolutions() -> Iterator[tuple[str, Shape]]:
    """Yield the name and the weight's shape of every convolution with batch norm."""
    yield "stem.conv1", (_CHANNELS[0] // 2, 3, 3, 3)
    yield "stem.conv2", (_CHANNELS[0], _CHANNELS[0] // 2, 3, 3)
    for stage, channels in enumerate(_CHANNELS):
        if stage > 0:
            name, before = f"stages.{stage}.downsample", _CHANNELS[stage - 1]
            yield from _block_convolutions(f"{name}.pre_block", before)
            yield f"{name}.spatial_downsample", (before, 1, 3, 3)
            yield f"{name}.channel_downsample", (channels, before, 1, 1)
            yield from _mixer_convolutions(f"{name}.ffn", channels)
        for block in range(_DEPTHS[stage]):
            yield from _block_convolutions(f"stages.{stage}.blocks.{block}", channels)


def _block_convolutions(name: str, channels: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.token_mixer.conv", (channels, 1, 3, 3)
    yield f"{name}.token_mixer.conv1", (channels, 1, 1, 1)
    yield from _mixer_convolutions(f"{name}.channel_mixer", channels)


def _mixer_convolutions(name: str, channels: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.conv1", (_EXPANSION * channels, channels, 1, 1)
    yield f"{name}.conv2", (channels, _EXPANSION * channels, 1, 1)


class Trunk:
    """Adds the trunk's nodes to a graph.

    Parameters
    ----------
    parameters : Mapping
        Arrays by name, of :func:`parameter_shapes`.
    dtype : numpy.dtype
        Of the graph.
    """

    def __init__(self, parameters: Mapping[str, Array], dtype: DType) -> None:
        self._parameters = parameters
        self._dtype = dtype

    def feature_maps(self, graph: Graph, x: Value) -> list[Value]:
        """Add every node, and return the output of each stage."""
        maps = []
        x = self._stem(graph, x)
        for stage, depth in enumerate(_DEPTHS):
            name = f"stages.{stage}"
            if stage > 0:
                x = self._downsample(graph, x, f"{name}.downsample")
            for block in range(depth):
                x = self._block(graph, x, f"{name}.blocks.{block}", squeeze=block % 2 == 0)
            maps.append(x)
        return maps

    def _stem(self, graph: Graph, x: Value) -> Value:
        for name, activation in (("stem.conv1", "gelu"), ("stem.conv2", None)):
            weight, bias = self._folded(name)
            x = graph.conv2d(x, weight, bias, stride=2, padding=1, activation=activation, name=name)
        return x

    def _downsample(self, graph: Graph, x: Value, name: str) -> Value:
        x = self._block(graph, x, f"{name}.pre_block", squeeze=False)
        spatial = f"{name}.spatial_downsample"
        weight, bias = self._folded(spatial)
        x = graph.conv2d_dw(x, weight, bias, stride=2, padding=1, name=spatial)
        x = self._pointwise(graph, x, f"{name}.channel_downsample")
        return self._channel_mixer(graph, x, f"{name}.ffn")

    def _block(self, graph: Graph, x: Value, name: str, *, squeeze: bool) -> Value:
        token_mixer = f"{name}.token_mixer"
        x = graph.conv2d_dw(x, *self._reparametrized(token_mixer), padding=1, name=token_mixer)
        if squeeze:
            x = self._squeeze_and_excite(graph, x, f"{name}.se")
        return self._channel_mixer(graph, x, f"{name}.channel_mixer")

    def _squeeze_and_excite(self, graph: Graph, x: Value, name: str) -> Value:
        scale = graph.global_avg_pool(x, name=f"{name}.pool")
        for part, activation in (("fc1", "relu"), ("fc2", "sigmoid")):
            full = f"{name}.{part}"
            weight, bias = (
                self._parameters[f"{full}.{what}"].astype(np.float64) for what in ("weight", "bias")
            )
            weight, bias = rounded(full, weight, bias, self._dtype)
            scale = graph.conv2d_pw(
                scale, weight[:, :, 0, 0], bias, activation=activation, name=full
            )
        return graph.mul(x, scale, name=f"{name}.scale")

    def _channel_mixer(self, graph: Graph, x: Value, name: str) -> Value:
        hidden = self._pointwise(graph, x, f"{name}.conv1", activation="gelu")
        return self._pointwise(graph, hidden, f"{name}.conv2", residual=x)

    def _pointwise(self, graph: Graph, x: Value, name: str, **settings: Any) -> Value:
        weight, bias = self._folded(name)
        return graph.conv2d_pw(x, weight[:, :, 0, 0], bias, name=name, **settings)

    def _folded(self, name: str) -> tuple[Array, Array]:
        return rounded(name, *fold_batch_norm(self._parameters, name), self._dtype)

    def _reparametrized(self, name: str) -> tuple[Array, Array]:
        """Return the one kernel that computes ``conv(x) + conv1(x) + x``."""
        weight, bias = fold_batch_norm(self._parameters, f"{name}.conv")
        center, more_bias = fold_batch_norm(self._parameters, f"{name}.conv1")
        weight[:, :, 1, 1] += center[:, :, 0, 0] + 1.0
        return rounded(name, weight, bias + more_bias, self._dtype)
