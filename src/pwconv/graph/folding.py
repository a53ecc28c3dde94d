"""Activations and sums that become part of the node before them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pwconv.activation import parse_activation
from pwconv.graph.convolutions import DepthwiseConvolution, MatrixConvolution
from pwconv.graph.elementwise import Elementwise
from pwconv.graph.linear import LinearLayer
from pwconv.graph.network import Network, Node
from pwconv.tensor import Shape

_NONE = parse_activation(None)


def fold(network: Network, shapes: Sequence[Shape]) -> Network:
    """Return an equivalent network of fewer nodes, which keep their numbers.

    A node and its only reader become one where one dispatch computes both: an activation after a
    node without one, and a sum after a convolution without residual. The reader keeps its number;
    no output depends on the other node any more.
    """
    nodes = list(network.nodes)
    uses = network.uses
    for i in network.order:
        operation = nodes[i].operation
        if not isinstance(operation, Elementwise):
            continue
        for taken in sorted(set(nodes[i].inputs), reverse=True):
            folded = _folded(nodes, i, taken, shapes) if uses[taken] == 1 else None
            if folded is not None:
                nodes[i] = folded
                break
    return dataclasses.replace(network, nodes=tuple(nodes))


def _folded(nodes: Sequence[Node], i: int, taken: int, shapes: Sequence[Shape]) -> Node | None:
    """Return a node that computes node i and its input, or None."""
    node, before = nodes[i], nodes[taken]
    after, first = node.operation, before.operation
    assert isinstance(after, Elementwise)
    if not isinstance(first, MatrixConvolution | DepthwiseConvolution | LinearLayer | Elementwise):
        return None
    if first.activation != _NONE:
        return None
    operation = dataclasses.replace(first, activation=after.activation)
    name = f"{before.name} + {node.name}"
    if after.kind == "activation":
        # One that does nothing adds no name: there may be thousands, one after the other.
        return Node(before.name if after.activation == _NONE else name, operation, before.inputs)
    if after.kind == "add" and isinstance(first, MatrixConvolution) and len(before.inputs) == 1:
        (other,) = (j for j in node.inputs if j != taken)
        if shapes[other] == shapes[taken]:
            return Node(name, operation, (*before.inputs, other))
    return None
