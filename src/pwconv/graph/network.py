"""The nodes of a graph, and the passes over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pwconv.graph.operations import Operation
from pwconv.tensor import Shape


@dataclass(frozen=True, eq=False)
class Node:
    """One value of a graph.

    Attributes
    ----------
    name : str
    operation : Operation or None
        None of an input.
    inputs : tuple of int
        The nodes that it takes, by number.
    """

    name: str
    operation: Operation | None
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Network:
    """Nodes in the order in which they run, each after what it takes.

    Attributes
    ----------
    nodes : tuple of Node
    inputs, outputs : Mapping
        The number of the node that is each input and each output, by its name.
    """

    nodes: tuple[Node, ...]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]

    @property
    def order(self) -> list[int]:
        """Numbers of the nodes that an output depends on, inputs left out."""
        needed = self.reached
        return [i for i, node in enumerate(self.nodes) if node.operation and i in needed]

    @property
    def reached(self) -> set[int]:
        """Numbers of the nodes that an output depends on."""
        needed = set(self.outputs.values())
        for i in range(len(self.nodes) - 1, -1, -1):
            if i in needed:
                needed.update(self.nodes[i].inputs)
        return needed

    @property
    def uses(self) -> Counter[int]:
        """How often each node is taken: by those that run, and as an output."""
        found = Counter(taken for i in self.order for taken in self.nodes[i].inputs)
        found.update(self.outputs.values())
        return found

    def readers(self) -> dict[int, list[int]]:
        """Return, for each node that is taken by others, their numbers."""
        found: dict[int, list[int]] = {}
        for i in self.order:
            for taken in dict.fromkeys(self.nodes[i].inputs):
                found.setdefault(taken, []).append(i)
        return found

    def propagate(self, input_shapes: Mapping[str, Shape]) -> list[Shape]:
        """Return the shape of every node, from those of the inputs.

        Raises
        ------
        ValueError
            An operation does not take what it is given; the message names the node.
        """
        by_number = {self.inputs[name]: shape for name, shape in input_shapes.items()}
        shapes: list[Shape] = []
        for i, node in enumerate(self.nodes):
            shapes.append(by_number[i] if node.operation is None else node_shape(node, shapes))
        return shapes


def node_shape(node: Node, shapes: Sequence[Shape]) -> Shape:
    """Return a node's shape, from those of the nodes before it.

    Raises
    ------
    ValueError
    """
    assert node.operation is not None
    try:
        return node.operation.output_shape([shapes[i] for i in node.inputs])
    except ValueError as error:
        raise ValueError(f"node {node.name!r}: {error}") from None
