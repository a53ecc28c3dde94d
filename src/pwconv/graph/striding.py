"""Strides of pointwise convolutions that become a node of their own, before the convolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pwconv.graph.convolutions import PointwiseConvolution
from pwconv.graph.network import Network, Node, node_shape
from pwconv.graph.operations import Setting
from pwconv.graph.resampling import Subsample
from pwconv.heuristics import stride_pays
from pwconv.kernels.conv2d_pw import Geometry
from pwconv.tensor import Shape


def split_strides(
    network: Network, shapes: Sequence[Shape], setting: Setting
) -> tuple[Network, list[Shape]]:
    """Return an equivalent network, and the shapes of its nodes.

    Where there is a gain, a node "subsample" copies the positions that a strided pointwise
    convolution reads, and the convolution runs at stride 1 and may be fused. Convolutions of one
    value and stride share that node. Nodes keep their numbers; new ones come after them. A
    convolution with padding keeps its stride.
    """
    nodes, extended = list(network.nodes), list(shapes)
    if not stride_pays(setting.context.info, setting.storage):
        return network, extended
    subsamples: dict[tuple[int, tuple[int, int]], int] = {}
    for i in network.order:
        node = nodes[i]
        convolution = node.operation
        if not isinstance(convolution, PointwiseConvolution):
            continue
        stride = convolution.geometry.stride
        if stride == (1, 1) or convolution.geometry != Geometry(stride):
            continue
        x, *rest = node.inputs
        if (x, stride) not in subsamples:
            subsamples[x, stride] = len(nodes)
            subsample = Node(f"{node.name} (subsample)", Subsample(stride), (x,))
            nodes.append(subsample)
            extended.append(node_shape(subsample, extended))
        unstrided = dataclasses.replace(convolution, geometry=Geometry())
        nodes[i] = Node(node.name, unstrided, (subsamples[x, stride], *rest))
    return dataclasses.replace(network, nodes=tuple(nodes)), extended
