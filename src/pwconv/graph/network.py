"""The nodes of a graph, and the passes over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from pwconv.errors import UnsupportedError
from pwconv.ops.base import Operator
from pwconv.tensor import Shape


@dataclass(frozen=True, eq=False)
class Node:
    """One value of a graph.

    Attributes
    ----------
    name : str
    operator : Operator or None
        None of an input.
    inputs : tuple of int
        The nodes that it takes, by number.
    """

    name: str
    operator: Operator | None
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Network:
    """Nodes, and those of them that are the inputs and the outputs.

    Attributes
    ----------
    nodes : tuple of Node
        Each after what it takes, but for those that a pass has added: they come last.
    inputs, outputs : Mapping
        The number of the node that is each input and each output, by its name.
    """

    nodes: tuple[Node, ...]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]

    @property
    def order(self) -> list[int]:
        """Numbers of the nodes that an output depends on, inputs left out, as they are run.

        That is each after what it takes: by number, and what was added right before its reader.
        """
        placed: dict[int, None] = {}
        pending = sorted(self.reached, reverse=True)
        while pending:
            i = pending[-1]
            if i in placed or not self.nodes[i].operator:
                pending.pop()
                continue
            missing = [
                j for j in self.nodes[i].inputs if j not in placed and self.nodes[j].operator
            ]
            if not missing:
                placed[pending.pop()] = None
            pending += reversed(missing)
        return list(placed)

    @property
    def reached(self) -> set[int]:
        """Numbers of the nodes that an output depends on."""
        needed: set[int] = set()
        pending = list(self.outputs.values())
        while pending:
            i = pending.pop()
            if i not in needed:
                needed.add(i)
                pending += self.nodes[i].inputs
        return needed

    @property
    def uses(self) -> Counter[int]:
        """Count of uses of each node: by nodes that run, and as an output."""
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
        """Return the shape of every node, from those of the inputs, before any pass.

        Raises
        ------
        ValueError
            An operator does not take what it is given; the message names the node.
        """
        by_number = {self.inputs[name]: shape for name, shape in input_shapes.items()}
        shapes: list[Shape] = []
        for i, node in enumerate(self.nodes):
            shapes.append(by_number[i] if node.operator is None else node_shape(node, shapes))
        return shapes

    def storages(self, shapes: Sequence[Shape], storages: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of some storages of activations in which every node can be computed.

        Raises
        ------
        UnsupportedError
            There is none; the message names the node.
        """
        for i in self.order:
            node = self.nodes[i]
            assert node.operator is not None
            with naming(node.name):
                storages = node.operator.storages([shapes[j] for j in node.inputs], storages)
        return storages


def node_shape(node: Node, shapes: Sequence[Shape], *, named: bool = True) -> Shape:
    """Return a node's shape, from those of the nodes before it; errors name it unless told not to.

    Raises
    ------
    ValueError
    """
    assert node.operator is not None
    taken = [shapes[i] for i in node.inputs]
    with naming(node.name) if named else nullcontext():
        for shape in taken:
            if node.operator.images_only and len(shape) not in (3, 4):
                raise ValueError(
                    f"an operand has shape {shape}; it must be [N, C, H, W] or [C, H, W]: declare "
                    "the graph's input so, and reshape its arrays"
                )
        return node.operator.output_shape(taken)


@contextmanager
def naming(name: Any) -> Iterator[None]:
    """Have errors say of which node they are."""
    try:
        yield
    except (TypeError, ValueError, UnsupportedError) as error:
        # Not the error's own type: one that derives from these may take other arguments.
        kinds = (TypeError, ValueError, UnsupportedError)
        kind = next(kind for kind in kinds if isinstance(error, kind))
        raise kind(f"node {name!r}: {error}") from error


def printable(name: str) -> str:
    """Return a name as it can be shown: escape codes, and the like, as repr has them."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
