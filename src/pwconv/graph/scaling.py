"""Scales of channels, as squeeze-and-excitation has, that become part of the convolution after."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pwconv.graph.convolutions import PointwiseConvolution
from pwconv.graph.elementwise import Elementwise
from pwconv.graph.network import Network, Node
from pwconv.graph.operations import Setting
from pwconv.tensor import Shape


def fold_scales(network: Network, shapes: Sequence[Shape], setting: Setting) -> Network:
    """Return an equivalent network of fewer nodes, which keep their numbers.

    A pointwise convolution after a product with [N, C, 1, 1] multiplies its input as it loads it,
    if its kernel gains by that and nothing else reads the product, which is then never stored.
    """
    nodes = list(network.nodes)
    uses = network.uses
    for i in network.order:
        if uses[nodes[i].inputs[0]] == 1:
            nodes[i] = _scaled(nodes, i, shapes, setting) or nodes[i]
    return dataclasses.replace(network, nodes=tuple(nodes))


def _scaled(
    nodes: Sequence[Node], i: int, shapes: Sequence[Shape], setting: Setting
) -> Node | None:
    """Return a node that computes node i and its x, a product, or None."""
    node, before = nodes[i], nodes[nodes[i].inputs[0]]
    convolution, product = node.operation, before.operation
    if not isinstance(convolution, PointwiseConvolution) or not isinstance(product, Elementwise):
        return None
    operands = product.scale_of([shapes[j] for j in before.inputs])
    if operands is None:
        return None
    x, scale = (before.inputs[operand] for operand in operands)
    if not convolution.scale_pays(setting, shapes[x], shapes[i]):
        return None
    return Node(
        f"{before.name} + {node.name}",
        dataclasses.replace(convolution, scaled=True),
        (x, *node.inputs[1:], scale),
    )
