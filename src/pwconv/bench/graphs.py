"""Workloads of graphs by name: blocks and networks, each of which runs as one submission."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pwconv.device import Device
from pwconv.dtypes import FLOAT32, Array
from pwconv.errors import UnsupportedError
from pwconv.graph import Graph
from pwconv.models.edgetam import Layers
from pwconv.models.repvit_m1 import Trunk, parameter_shapes

GRAPH_SIZE = 1024
MIXERS, NETWORK = "mixers", "network"

_COARSEST = 32  # the last stage's stride
_STAGES = ((48, 2), (96, 3), (192, 15), (384, 3))  # channels, mixers of EdgeTAM
_BRANCH = 0.1  # what is added to a residual is small: values stay of order one


@dataclass(frozen=True)
class GraphCase:
    """A graph to be measured.

    Attributes
    ----------
    name : str
    size : int
        H and W of its input.
    kind : str
        Cases of one kind are summed up together.
    count : int
        How often the network has it.
    define : callable
        Adds its inputs, nodes and outputs to a :class:`pwconv.Graph`, or to what takes the same
        calls.
    """

    name: str
    size: int
    kind: str
    count: int
    define: Callable[[Any], None]

    def __str__(self) -> str:
        return f"{self.name}@{self.size}"


def make_graph(device: Device, case: GraphCase, dtype: str, storage: str, **settings: Any) -> Graph:
    """Return a case's graph; settings are more of :class:`pwconv.Graph`'s."""
    graph = Graph(device, dtype, storage=storage, **settings)
    case.define(graph)
    return graph


def graph_workload(name: str, size: int = GRAPH_SIZE) -> list[GraphCase]:
    """Return the cases of a workload for an image of H = W = size.

    Raises
    ------
    KeyError
        There is no such workload; :data:`GRAPH_WORKLOADS` has the names.
    UnsupportedError
        The networks do not take the size.
    """
    if size < _COARSEST or size % _COARSEST:
        raise UnsupportedError(f"the size is {size}; it must be a positive multiple of {_COARSEST}")
    return GRAPH_WORKLOADS[name](size)


def _edgetam_mixers(size: int) -> list[GraphCase]:
    """RepViT-M1's channel mixers, each by itself; and all of EdgeTAM's pointwise layers."""
    mixers = [
        GraphCase(
            f"mixer {channels}",
            size // (4 << stage),
            MIXERS,
            count,
            _mixer(channels, size // (4 << stage)),
        )
        for stage, (channels, count) in enumerate(_STAGES)
    ]

    def pointwise_layers(graph: Any) -> None:
        x = graph.input("x", (1, _STAGES[0][0], size // 4, size // 4))
        for name, value in Layers(0, np.dtype(graph.dtype)).maps(graph, x).items():
            graph.output(name, value)

    return [*mixers, GraphCase("55 layers", size // 4, NETWORK, 1, pointwise_layers)]


def _mixer(channels: int, side: int) -> Callable[[Any], None]:
    def define(graph: Any) -> None:
        rng = np.random.default_rng(0)

        def parameters(c_in: int, c_out: int) -> tuple[Array, Array]:
            weight = rng.standard_normal((c_out, c_in)) / c_in**0.5
            return weight.astype(graph.dtype), rng.standard_normal(c_out).astype(FLOAT32)

        x = graph.input("x", (1, channels, side, side))
        expand, project = parameters(channels, 2 * channels), parameters(2 * channels, channels)
        hidden = graph.conv2d_pw(x, *expand, activation="gelu", name="conv1")
        graph.output("y", graph.conv2d_pw(hidden, *project, residual=x, name="conv2"))

    return define


def _repvit_m1(size: int) -> list[GraphCase]:
    """RepViT-M1's trunk."""

    def define(graph: Any) -> None:
        trunk = Trunk(_random_parameters(), np.dtype(graph.dtype))
        x = graph.input("x", (1, 3, size, size))
        for stage, feature_map in enumerate(trunk.feature_maps(graph, x)):
            graph.output(f"stages.{stage}", feature_map)

    return [GraphCase("trunk", size, NETWORK, 1, define)]


def _random_parameters() -> dict[str, Array]:
    """Return parameters of RepViT-M1 that keep its values of order one."""
    rng = np.random.default_rng(0)
    found = {}
    for name, shape in parameter_shapes().items():
        array = rng.standard_normal(shape)
        if len(shape) == 4:
            array /= np.prod(shape[1:]) ** 0.5
        elif name.endswith(".running_var"):
            array = np.exp(0.1 * array)
        elif name.endswith(".bn.weight"):
            in_branch = any(
                part in name for part in (".token_mixer.", "mixer.conv2.", "ffn.conv2.")
            )
            array = np.full(shape, _BRANCH if in_branch else 1.0)
        else:
            array *= _BRANCH
        found[name] = array.astype(FLOAT32)
    return found


GRAPH_WORKLOADS = {"edgetam-mixers": _edgetam_mixers, "repvit-m1": _repvit_m1}
